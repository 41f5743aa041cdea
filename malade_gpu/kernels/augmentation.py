"""Body of crops and flips. Launched by ops/augmentation.py, tested by tests/agree/test_augmentation.py.

Images lie channels-last, (n, h, w, c); each thread copies one number.
"""

from __future__ import annotations

from typing import Any

from numba import float32

from ..elements import element

ZERO = float32(0.0)


@element
def crop_flip(i: Any, out: Any, x: Any, top: Any, left: Any, flip: Any, channels: Any, h: Any, w: Any) -> None:
    """A pixel of the window at (top, left), mirrored or not; zero where it lies outside of the image."""
    c, column, row, n = i % channels, i // channels % w, i // channels // w % h, i // channels // w // h
    if flip[n] != 0:
        column = w - 1 - column
    row, column = row + top[n], column + left[n]
    if 0 <= row < h and 0 <= column < w:
        out[i] = x[((n * h + row) * w + column) * channels + c]
    else:
        out[i] = ZERO
