r"""Windows of images as rows of a matrix, so that a convolution is a matrix product.

Axes as in `conv`; arrays are channels-last, (n, h, w, c), because a row of a window is then one contiguous run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from .geometry import Geometry, Pair

Floats = NDArray[Any]

# Numbers laid out as windows at once (2 or 4 MB): few enough for the cache, many enough for the matrix product.
WINDOW_BLOCK = 1 << 19


def windows(x: Floats, kernel: Pair, stride: Pair, output: Pair) -> Floats:
    """Windows of a padded channels-last input as rows: (n * oh * ow, kh * kw * c)."""
    n, _, _, c = x.shape
    rows, cols = x.strides[1], x.strides[2]
    # A kernel row of a window is one run of kw * c numbers, because pixels of a row are neighbours in memory.
    shape = (n, *output, kernel[0], kernel[1] * c)
    strides = (x.strides[0], stride[0] * rows, stride[1] * cols, rows, x.itemsize)
    windows = np.empty(shape, dtype=x.dtype)
    np.copyto(windows, as_strided(x, shape, strides))
    return windows.reshape(n * output[0] * output[1], kernel[0] * kernel[1] * c)


def pad(x: Floats, g: Geometry) -> Floats:
    """Copy of (n, c, h, w) as a channels-last array with its zeros around."""
    (top, bottom), (left, right) = g.pads
    n, c, h, w = x.shape
    padded = np.empty((n, top + h + bottom, left + w + right, c), dtype=x.dtype)
    padded[:, :top] = padded[:, top + h :] = 0
    padded[:, :, :left] = padded[:, :, left + w :] = 0
    padded[:, top : top + h, left : left + w] = x.transpose(0, 2, 3, 1)
    return padded


def channels_last(x: Floats) -> Floats:
    """(n, c, h, w) as a contiguous (n, h, w, c) array; no copy if it is one already."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def blocks(num_images: int, output: Pair, window_size: int) -> list[slice]:
    """Slices of images whose windows fit into the cache."""
    step = max(1, WINDOW_BLOCK // max(1, output[0] * output[1] * window_size))
    return [slice(start, min(start + step, num_images)) for start in range(0, num_images, step)]
