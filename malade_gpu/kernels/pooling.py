"""Bodies of pooling, forwards and back. Launched by ops/pooling.py, tested by tests/agree/test_pooling.py.

Images lie channels-last, (n, h, w, c) and (n, oh, ow, c). Each thread makes one number: a pooled one from the pixels of
its tile, or a pixel's gradient from the tiles that it lies in, so that nothing is added by two threads. Sums have the
order of the reference.

Tiles of th x tw pixels lie (sh, sw) apart, with ph rows and pw columns of padding.
"""

from __future__ import annotations

from typing import Any

from numba import float32

from ..elements import element

ZERO = float32(0.0)


@element
def max_pool(
    i: Any,
    out: Any,
    index: Any,
    x: Any,
    channels: Any,
    h: Any,
    w: Any,
    oh: Any,
    ow: Any,
    th: Any,
    tw: Any,
    sh: Any,
    sw: Any,
    ph: Any,
    pw: Any,
) -> None:
    """The first of the largest numbers of a tile, and its pixel; NaN is larger than all."""
    c, column, row, n = i % channels, i // channels % ow, i // channels // ow % oh, i // channels // ow // oh
    top, left = row * sh - ph, column * sw - pw
    best, place = ZERO, -1
    for r in range(max(top, 0), min(top + th, h)):
        for q in range(max(left, 0), min(left + tw, w)):
            value = x[((n * h + r) * w + q) * channels + c]
            if place < 0 or not (value <= best or best != best):
                best, place = value, r * w + q
    out[i] = best
    index[i] = place


@element
def max_pool_vjp(
    i: Any,
    dx: Any,
    dy: Any,
    index: Any,
    channels: Any,
    h: Any,
    w: Any,
    oh: Any,
    ow: Any,
    th: Any,
    tw: Any,
    sh: Any,
    sw: Any,
    ph: Any,
    pw: Any,
) -> None:
    """The gradients of the tiles that took this pixel."""
    c, column, row, n = i % channels, i // channels % w, i // channels // w % h, i // channels // w // h
    total = ZERO
    for r in range(max(0, (row + ph - th) // sh + 1), min(oh, (row + ph) // sh + 1)):
        for q in range(max(0, (column + pw - tw) // sw + 1), min(ow, (column + pw) // sw + 1)):
            k = ((n * oh + r) * ow + q) * channels + c
            if index[k] == row * w + column:
                total += dy[k]
    dx[i] = total


@element
def counted(first: Any, tile: Any, size: Any, pad: Any, with_pad: Any) -> Any:
    """Rows (or columns) of a tile that count, of an image of ``size`` rows."""
    last = min(first + tile, size + pad)
    if with_pad:
        return float32(last - first)
    return float32(min(last, size) - max(first, 0))


@element
def avg_pool(
    i: Any,
    out: Any,
    x: Any,
    channels: Any,
    h: Any,
    w: Any,
    oh: Any,
    ow: Any,
    th: Any,
    tw: Any,
    sh: Any,
    sw: Any,
    ph: Any,
    pw: Any,
    with_pad: Any,
    one: Any,
) -> None:
    """Mean of a tile. Here and below ``one`` is 1 in the precision of the numbers."""
    c, column, row, n = i % channels, i // channels % ow, i // channels // ow % oh, i // channels // ow // oh
    top, left = row * sh - ph, column * sw - pw
    total = ZERO
    for r in range(max(top, 0), min(top + th, h)):
        for q in range(max(left, 0), min(left + tw, w)):
            total += x[((n * h + r) * w + q) * channels + c]
    out[i] = total / (one * counted(top, th, h, ph, with_pad) * counted(left, tw, w, pw, with_pad))


@element
def avg_pool_vjp(
    i: Any,
    dx: Any,
    dy: Any,
    channels: Any,
    h: Any,
    w: Any,
    oh: Any,
    ow: Any,
    th: Any,
    tw: Any,
    sh: Any,
    sw: Any,
    ph: Any,
    pw: Any,
    with_pad: Any,
    one: Any,
) -> None:
    """Equal shares of the gradients of the tiles that this pixel lies in, the last tile first."""
    c, column, row, n = i % channels, i // channels % w, i // channels // w % h, i // channels // w // h
    last_row, last_column = min(oh - 1, (row + ph) // sh), min(ow - 1, (column + pw) // sw)
    total = ZERO
    for a in range(last_row - max(0, (row + ph - th) // sh + 1) + 1):
        r = last_row - a
        rows = one * counted(r * sh - ph, th, h, ph, with_pad)
        for b in range(last_column - max(0, (column + pw - tw) // sw + 1) + 1):
            q = last_column - b
            columns = counted(q * sw - pw, tw, w, pw, with_pad)
            total += dy[((n * oh + r) * ow + q) * channels + c] / (rows * columns)
    dx[i] = total


@element
def adaptive_avg_pool(i: Any, out: Any, x: Any, channels: Any, h: Any, w: Any, oh: Any, ow: Any, one: Any) -> None:
    """Mean of the window from floor(row h / oh) to ceil((row + 1) h / oh), and so for columns."""
    c, column, row, n = i % channels, i // channels % ow, i // channels // ow % oh, i // channels // ow // oh
    top, bottom = row * h // oh, ((row + 1) * h + oh - 1) // oh
    left, right = column * w // ow, ((column + 1) * w + ow - 1) // ow
    total = ZERO
    for q in range(left, right):
        band = ZERO
        for r in range(top, bottom):
            band += x[((n * h + r) * w + q) * channels + c]
        total += band
    out[i] = total / (one * float32(bottom - top) * float32(right - left))


@element
def adaptive_avg_pool_vjp(i: Any, dx: Any, dy: Any, channels: Any, h: Any, w: Any, oh: Any, ow: Any, one: Any) -> None:
    """Equal shares of the gradients of the windows that this pixel lies in."""
    c, column, row, n = i % channels, i // channels % w, i // channels // w % h, i // channels // w // h
    total = ZERO
    for r in range(row * oh // h, min(oh, ((row + 1) * oh + h - 1) // h)):
        rows = one * float32(((r + 1) * h + oh - 1) // oh - r * h // oh)
        band = ZERO
        for q in range(column * ow // w, min(ow, ((column + 1) * ow + w - 1) // w)):
            columns = float32(((q + 1) * w + ow - 1) // ow - q * w // ow)
            band += dy[((n * oh + r) * ow + q) * channels + c] / (rows * columns)
        total += band
    dx[i] = total
