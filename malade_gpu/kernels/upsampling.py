"""Bodies of upsampling, forwards and back. Launched by ops/upsampling.py, tested by tests/agree/test_upsampling.py.

Images lie channels-last, (n, h, w, c) and (n, oh, ow, c). Each thread makes one number: a pixel of the output, or the
gradient of a pixel of the input, from all pixels of the output that it is part of.

Output row i of ``count`` lies at numerator(i) / denominator among the ``size`` rows of the input, both integers.
"""

from __future__ import annotations

from typing import Any

from numba import float32

from ..elements import element

ZERO, ONE = float32(0.0), float32(1.0)


@element
def numerator(k: Any, size: Any, count: Any, corners: Any) -> Any:
    """Of the position of output row k."""
    if corners:
        return k * (size - 1)
    return max(0, (2 * k + 1) * size - count)


@element
def denominator(count: Any, corners: Any) -> Any:
    """Of all positions."""
    if corners:
        return max(1, count - 1)
    return 2 * count


@element
def first_at(row: Any, size: Any, count: Any, corners: Any) -> Any:
    """The first output row whose position is at input row ``row`` or behind it."""
    if row <= 0:
        return 0
    if row >= size:
        return count
    if corners:
        return min(count, (row * max(1, count - 1) + size - 2) // (size - 1))
    return min(count, max(0, (2 * row * count + count - size + 2 * size - 1) // (2 * size)))


@element
def weight_of(row: Any, k: Any, size: Any, count: Any, corners: Any, one: Any) -> Any:
    """The part that input row ``row`` has in output row k; ``one`` is 1 in the precision of the numbers."""
    position, whole = numerator(k, size, count, corners), denominator(count, corners)
    first = position // whole
    second = one * float32(position - first * whole) / float32(whole)
    total = one - one
    if row == first:
        total += ONE - second
    if row == min(first + 1, size - 1):
        total += second
    return total


@element
def nearest(i: Any, out: Any, x: Any, channels: Any, h: Any, w: Any, oh: Any, ow: Any) -> None:
    """A copy of a pixel."""
    c, column, row, n = i % channels, i // channels % ow, i // channels // ow % oh, i // channels // ow // oh
    out[i] = x[((n * h + row * h // oh) * w + column * w // ow) * channels + c]


@element
def nearest_vjp(i: Any, dx: Any, dy: Any, channels: Any, h: Any, w: Any, oh: Any, ow: Any) -> None:
    """The gradients of all copies of a pixel."""
    c, column, row, n = i % channels, i // channels % w, i // channels // w % h, i // channels // w // h
    total = ZERO
    for r in range((row * oh + h - 1) // h, ((row + 1) * oh + h - 1) // h):
        band = ZERO
        for q in range((column * ow + w - 1) // w, ((column + 1) * ow + w - 1) // w):
            band += dy[((n * oh + r) * ow + q) * channels + c]
        total += band
    dx[i] = total


@element
def bilinear(i: Any, out: Any, x: Any, channels: Any, h: Any, w: Any, oh: Any, ow: Any, corners: Any, one: Any) -> None:
    """Interpolation between four pixels: between rows, then between columns."""
    c, column, row, n = i % channels, i // channels % ow, i // channels // ow % oh, i // channels // ow // oh
    top, left = (
        numerator(row, h, oh, corners) // denominator(oh, corners),
        numerator(column, w, ow, corners) // denominator(ow, corners),
    )
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    down = one * float32(numerator(row, h, oh, corners) - top * denominator(oh, corners))
    down = down / float32(denominator(oh, corners))
    across = one * float32(numerator(column, w, ow, corners) - left * denominator(ow, corners))
    across = across / float32(denominator(ow, corners))
    above, below = (n * h + top) * w, (n * h + bottom) * w
    first = x[(above + left) * channels + c] * (ONE - down) + x[(below + left) * channels + c] * down
    second = x[(above + right) * channels + c] * (ONE - down) + x[(below + right) * channels + c] * down
    out[i] = first * (ONE - across) + second * across


@element
def bilinear_vjp(
    i: Any, dx: Any, dy: Any, channels: Any, h: Any, w: Any, oh: Any, ow: Any, corners: Any, one: Any
) -> None:
    """The gradients of the pixels that this one is part of, times its parts."""
    c, column, row, n = i % channels, i // channels % w, i // channels // w % h, i // channels // w // h
    total = ZERO
    for r in range(first_at(row - 1, h, oh, corners), first_at(row + 1, h, oh, corners)):
        band = ZERO
        for q in range(first_at(column - 1, w, ow, corners), first_at(column + 1, w, ow, corners)):
            part = weight_of(column, q, w, ow, corners, one)
            band += dy[((n * oh + r) * ow + q) * channels + c] * part
        total += band * weight_of(row, r, h, oh, corners, one)
    dx[i] = total
