r"""The fast form of convolution for inputs with few channels: whole rows instead of windows.

With one channel a window's rows are runs of kw numbers, and laying them out costs more than the arithmetic. Here a row
of outputs is computed from the kh padded input rows above it in one product with a *banded* matrix,

    B[(u, x, c), (j, o)] = weight[o, c, u, x - j * sw]    (0 outside the kernel),

which does more multiplications, all of them in a fast matrix product, and copies long runs. The result is the same as
that of the windows of `conv`, up to the order of the sums. Axes as in `conv`; x runs over padded columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from .geometry import Geometry

Floats = NDArray[Any]

# Copying one short run costs about as much as this many multiply-adds in a matrix product (10 ns at 100 GFLOP/s).
MULTIPLY_ADDS_PER_RUN = 500


def pays(weight_shape: tuple[int, ...], g: Geometry) -> bool:
    """Whether the saved copies outweigh the added multiplications."""
    out_channels, channels, kh, kw = weight_shape
    oh, ow = g.output
    runs = oh * ow * kh
    added = oh * kh * channels * ow * out_channels * (_width(g) - kw)
    return added < MULTIPLY_ADDS_PER_RUN * runs


def correlate(x: Floats, weight: Floats, g: Geometry) -> Floats:
    """W x: (n, c, h, w) to (n, o, oh, ow)."""
    y = _rows(x, g) @ _band(weight, g)
    return y.reshape(len(x), *g.output, len(weight)).transpose(0, 3, 1, 2)


def spread(dy: Floats, weight: Floats, g: Geometry) -> Floats:
    """W^T dy: (n, o, oh, ow) to (n, c, h, w)."""
    (oh, _), (kh, _), (sh, _) = g.output, g.kernel, g.stride
    n, channels = len(dy), weight.shape[1]
    drows = _flat(dy, g) @ _band(weight, g).T
    drows = drows.reshape(n, oh, kh, _width(g), channels)
    dx = np.zeros((n, max(_height(g), g.pads[0][0] + g.size[0]), _padded_width(g), channels), dtype=dy.dtype)
    for u in range(kh):
        dx[:, u : u + oh * sh : sh, : _width(g)] += drows[:, :, u]
    top, left = g.pads[0][0], g.pads[1][0]
    return dx[:, top : top + g.size[0], left : left + g.size[1]].transpose(0, 3, 1, 2)


def weight_gradient(x: Floats, dy: Floats, g: Geometry) -> Floats:
    """The gradient dy x^T with respect to W: (o, c, kh, kw)."""
    (_, ow), (kh, kw), (_, sw) = g.output, g.kernel, g.stride
    out_channels, channels = dy.shape[1], x.shape[1]
    dband = _rows(x, g).T @ _flat(dy, g)
    dband = dband.reshape(kh, _width(g), channels, ow, out_channels)
    dweight = np.zeros((kh, kw, channels, out_channels), dtype=x.dtype)
    for j in range(ow):
        dweight += dband[:, j * sw : j * sw + kw, :, j]
    return np.ascontiguousarray(dweight.transpose(3, 2, 0, 1))


def _height(g: Geometry) -> int:
    """Padded rows that some window sees."""
    return (g.output[0] - 1) * g.stride[0] + g.kernel[0]


def _width(g: Geometry) -> int:
    """Padded columns that some window sees."""
    return (g.output[1] - 1) * g.stride[1] + g.kernel[1]


def _padded_width(g: Geometry) -> int:
    return max(_width(g), g.pads[1][0] + g.size[1])


def _band(weight: Floats, g: Geometry) -> Floats:
    """The banded matrix B, (kh * width * c, ow * o)."""
    (_, ow), (kh, kw), (_, sw) = g.output, g.kernel, g.stride
    out_channels, channels = weight.shape[:2]
    band = np.zeros((kh, _width(g), channels, ow, out_channels), dtype=weight.dtype)
    taps = weight.transpose(2, 3, 1, 0)
    for j in range(ow):
        band[:, j * sw : j * sw + kw, :, j] = taps
    return band.reshape(kh * _width(g) * channels, ow * out_channels)


def _rows(x: Floats, g: Geometry) -> Floats:
    """The kh padded rows above each output row, (n * oh, kh * width * c)."""
    n, channels, _h, _w = x.shape
    (top, _), (left, _) = g.pads
    height, width = _height(g), _width(g)
    padded = np.zeros((n, height, width, channels), dtype=x.dtype)
    inside = x.transpose(0, 2, 3, 1)[:, : max(0, height - top), : max(0, width - left)]
    padded[:, top : top + inside.shape[1], left : left + inside.shape[2]] = inside
    shape = (n, g.output[0], g.kernel[0] * width * channels)
    strides = (padded.strides[0], g.stride[0] * padded.strides[1], padded.itemsize)
    return np.ascontiguousarray(as_strided(padded, shape, strides)).reshape(n * g.output[0], shape[2])


def _flat(dy: Floats, g: Geometry) -> Floats:
    """Output gradients by rows, (n * oh, ow * o)."""
    n, out_channels = dy.shape[:2]
    return dy.transpose(0, 2, 3, 1).reshape(n * g.output[0], g.output[1] * out_channels)
