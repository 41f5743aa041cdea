"""Bodies of convolution in groups. Launched by ops/conv_grouped.py, tested by tests/agree/test_conv_grouped.py.

Images lie channels-last, (n, h, w, inputs) and (n, oh, ow, outputs), and so do weights, (kh, kw, of_group, outputs): of
``of_group`` inputs for each of a group's ``per_group`` outputs. Each thread makes one number. Float32 is multiplied as
it is, whatever the setting of module `precision`.

Windows lie (sh, sw) apart, their taps (dh, dw), with ph rows and pw columns of zeros before the image.
"""

from __future__ import annotations

from typing import Any

from numba import float32, float64

from ..elements import element

ZERO = float32(0.0)


@element
def correlate(
    i: Any,
    out: Any,
    x: Any,
    weight: Any,
    inputs: Any,
    outputs: Any,
    of_group: Any,
    per_group: Any,
    h: Any,
    w: Any,
    oh: Any,
    ow: Any,
    kh: Any,
    kw: Any,
    sh: Any,
    sw: Any,
    dh: Any,
    dw: Any,
    ph: Any,
    pw: Any,
) -> None:
    """W x: the sum over the taps of a window and the inputs of the group."""
    o, column, row, n = i % outputs, i // outputs % ow, i // outputs // ow % oh, i // outputs // ow // oh
    first = o // per_group * of_group
    total = ZERO
    for u in range(kh):
        r = row * sh + u * dh - ph
        for v in range(kw):
            q = column * sw + v * dw - pw
            if r >= 0 and r < h and q >= 0 and q < w:
                at, tap = ((n * h + r) * w + q) * inputs + first, (u * kw + v) * of_group
                part = ZERO
                for k in range(of_group):
                    part += x[at + k] * weight[(tap + k) * outputs + o]
                total += part
    out[i] = total


@element
def spread(
    i: Any,
    dx: Any,
    dy: Any,
    weight: Any,
    inputs: Any,
    outputs: Any,
    of_group: Any,
    per_group: Any,
    h: Any,
    w: Any,
    oh: Any,
    ow: Any,
    kh: Any,
    kw: Any,
    sh: Any,
    sw: Any,
    dh: Any,
    dw: Any,
    ph: Any,
    pw: Any,
) -> None:
    """W^T dy: from all windows with a tap on this pixel, the sum over the outputs of the group."""
    c, column, row, n = i % inputs, i // inputs % w, i // inputs // w % h, i // inputs // w // h
    first = c // of_group * per_group
    total = ZERO
    for u in range(kh):
        r = row + ph - u * dh
        for v in range(kw):
            q = column + pw - v * dw
            if r >= 0 and r % sh == 0 and r < oh * sh and q >= 0 and q % sw == 0 and q < ow * sw:
                at = ((n * oh + r // sh) * ow + q // sw) * outputs + first
                tap = ((u * kw + v) * of_group + c % of_group) * outputs + first
                part = ZERO
                for k in range(per_group):
                    part += dy[at + k] * weight[tap + k]
                total += part
    dx[i] = total


@element
def weight_gradient(
    i: Any,
    parts: Any,
    x: Any,
    dy: Any,
    num_images: Any,
    num_parts: Any,
    inputs: Any,
    outputs: Any,
    of_group: Any,
    per_group: Any,
    h: Any,
    w: Any,
    oh: Any,
    ow: Any,
    kh: Any,
    kw: Any,
    sh: Any,
    sw: Any,
    dh: Any,
    dw: Any,
    ph: Any,
    pw: Any,
) -> None:
    """One number of dy x^T, over every ``num_parts``-th image, in double; ``parts`` is (parts, kh, kw, of_group, o)."""
    o, k = i % outputs, i // outputs % of_group
    v, u = i // outputs // of_group % kw, i // outputs // of_group // kw % kh
    c = o // per_group * of_group + k
    total = float64(0.0)
    for n in range(i // outputs // of_group // kw // kh, num_images, num_parts):
        for row in range(oh):
            r = row * sh + u * dh - ph
            if r >= 0 and r < h:
                for column in range(ow):
                    q = column * sw + v * dw - pw
                    if q >= 0 and q < w:
                        slope = float64(dy[((n * oh + row) * ow + column) * outputs + o])
                        total += slope * x[((n * h + r) * w + q) * inputs + c]
    parts[i] = total


@element
def add_parts(i: Any, out: Any, parts: Any, num_parts: Any, size: Any) -> None:
    """The sum of ``num_parts`` arrays of ``size`` numbers, in double."""
    total = float64(0.0)
    for k in range(num_parts):
        total += parts[k * size + i]
    out[i] = total
