r"""Pooling: the largest number or the mean of a tile of pixels, with their derivatives.

As `malade_ref.ops.pooling`, one thread a result: a pixel collects its gradient from the tiles that it lies in. Results
have the bits of the reference, but for averages over tiles side by side, which NumPy adds up in an order of its own.

Axes: n images, c channels, (h, w) input, (oh, ow) output. Results are views, (n, c, h, w), of channels-last arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_float, check_ndim, check_shape

from ..device import device
from ..kernels import pooling as kernels
from .geometry import Geometry, Pair, as_image_size, pool_geometry
from .layout import channels_last, empty_channels_last


def max_pool2d(
    x: Array,
    *,
    size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """As `malade_ref.ops.max_pool2d`."""
    g = _geometry(x, size=size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    shape = (x.shape[0], x.shape[1], *g.output)
    (y, out), (index, places) = empty_channels_last(shape, x.dtype), empty_channels_last(shape, "int32")
    _run(kernels.max_pool, (out, places, channels_last(x)), _numbers(shape[1], g))
    return y, index


def max_pool2d_vjp(
    dy: Array,
    index: Array,
    x_shape: tuple[int, ...],
    *,
    size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
) -> Array:
    """As `malade_ref.ops.max_pool2d_vjp`."""
    g = _geometry_of(x_shape, dy, size=size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    check_shape("index", index, dy.shape)
    n, c, h, w = x_shape
    dx, out = empty_channels_last((n, c, h, w), dy.dtype)
    _run(kernels.max_pool_vjp, (out, channels_last(dy), channels_last(index)), _numbers(c, g))
    return dx


def avg_pool2d(
    x: Array,
    *,
    size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """As `malade_ref.ops.avg_pool2d`."""
    g = _geometry(x, size=size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    means, out = empty_channels_last((x.shape[0], x.shape[1], *g.output), x.dtype)
    numbers = (*_numbers(x.shape[1], g), _flag(count_include_pad), x.dtype.type(1))
    _run(kernels.avg_pool, (out, channels_last(x)), numbers)
    return means


def avg_pool2d_vjp(
    dy: Array,
    x_shape: tuple[int, ...],
    *,
    size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """As `malade_ref.ops.avg_pool2d_vjp`."""
    g = _geometry_of(x_shape, dy, size=size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    n, c, h, w = x_shape
    dx, out = empty_channels_last((n, c, h, w), dy.dtype)
    numbers = (*_numbers(c, g), _flag(count_include_pad), dy.dtype.type(1))
    _run(kernels.avg_pool_vjp, (out, channels_last(dy)), numbers)
    return dx


def adaptive_avg_pool2d(x: Array, *, output_size: int | Pair) -> Array:
    """As `malade_ref.ops.adaptive_avg_pool2d`."""
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_float("x", x)
    output = as_image_size("output_size", output_size)
    n, c, h, w = _images(x.shape)
    means, out = empty_channels_last((n, c, *output), x.dtype)
    numbers = (*map(np.int64, (c, h, w, *output)), x.dtype.type(1))
    _run(kernels.adaptive_avg_pool, (out, channels_last(x)), numbers)
    return means


def adaptive_avg_pool2d_vjp(dy: Array, x_shape: tuple[int, ...]) -> Array:
    """As `malade_ref.ops.adaptive_avg_pool2d_vjp`."""
    check_ndim("dy", dy, 4, "(n, c, oh, ow)")
    check_float("dy", dy)
    output = as_image_size("dy", tuple(dy.shape[2:]))
    n, c, h, w = _images(x_shape)
    check_shape("dy", dy, (n, c, *output))
    dx, out = empty_channels_last((n, c, h, w), dy.dtype)
    numbers = (*map(np.int64, (c, h, w, *output)), dy.dtype.type(1))
    _run(kernels.adaptive_avg_pool_vjp, (out, channels_last(dy)), numbers)
    return dx


def _geometry(x: Array, **settings: Any) -> Geometry:
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_float("x", x)
    return pool_geometry((x.shape[2], x.shape[3]), **settings)


def _geometry_of(x_shape: tuple[int, ...], dy: Array, **settings: Any) -> Geometry:
    """The geometry for images of a shape, that dy must fit."""
    if len(x_shape) != 4:
        raise InputError(f"x_shape: expected 4 axes (n, c, h, w), got {x_shape}")
    check_float("dy", dy)
    g = pool_geometry((x_shape[2], x_shape[3]), **settings)
    check_shape("dy", dy, (*x_shape[:2], *g.output))
    return g


def _images(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The shape (n, c, h, w) of images that have pixels."""
    if len(shape) != 4 or shape[2] < 1 or shape[3] < 1:
        raise InputError(f"x: expected images (n, c, h, w) with pixels, got shape {tuple(shape)}")
    return shape[0], shape[1], shape[2], shape[3]


def _flag(count_include_pad: bool) -> np.int64:
    if not isinstance(count_include_pad, bool):
        raise InputError(f"count_include_pad: expected true or false, got {count_include_pad!r}")
    return np.int64(count_include_pad)


def _numbers(channels: int, g: Geometry) -> tuple[np.int64, ...]:
    """What the kernels take, from ``channels`` on."""
    before = g.pads[0][0], g.pads[1][0]
    return tuple(map(np.int64, (channels, *g.size, *g.output, *g.kernel, *g.stride, *before)))


def _run(body: Any, arrays: tuple[Array, ...], numbers: tuple[Any, ...]) -> None:
    """Run a body for each element of the first array; all arrays are channels-last."""
    device().for_elements(body, arrays[0].size, *(array.reshape(-1) for array in arrays), *numbers)
