r"""Upsampling: images in another size, by copies of pixels or by interpolation between them, with the adjoints.

As `malade_ref.ops.upsampling`, one thread a result: a pixel of the input collects its gradient from the pixels of the
output that it is part of.

Axes: n images, c channels, (h, w) input, (oh, ow) output. Results are views, (n, c, h, w), of channels-last arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_float, check_ndim, check_shape

from ..device import device
from ..kernels import upsampling as kernels
from .geometry import Pair, as_image_size
from .layout import channels_last, empty_channels_last


def upsample_nearest(x: Array, *, output_size: int | Pair) -> Array:
    """As `malade_ref.ops.upsample_nearest`."""
    return _enlarged(kernels.nearest, x, output_size)


def upsample_nearest_vjp(dy: Array, x_shape: tuple[int, ...]) -> Array:
    """As `malade_ref.ops.upsample_nearest_vjp`."""
    return _gradient(kernels.nearest_vjp, dy, x_shape)


def upsample_bilinear(x: Array, *, output_size: int | Pair, align_corners: bool = False) -> Array:
    """As `malade_ref.ops.upsample_bilinear`."""
    return _enlarged(kernels.bilinear, x, output_size, align_corners)


def upsample_bilinear_vjp(dy: Array, x_shape: tuple[int, ...], *, align_corners: bool = False) -> Array:
    """As `malade_ref.ops.upsample_bilinear_vjp`."""
    return _gradient(kernels.bilinear_vjp, dy, x_shape, align_corners)


def _enlarged(body: Any, x: Array, output_size: int | Pair, *corners: bool) -> Array:
    """Images in another size."""
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_float("x", x)
    n, c, h, w = _images(x.shape)
    output = as_image_size("output_size", output_size)
    y, out = empty_channels_last((n, c, *output), x.dtype)
    _run(body, out, channels_last(x), (c, h, w, *output), corners)
    return y


def _gradient(body: Any, dy: Array, x_shape: tuple[int, ...], *corners: bool) -> Array:
    """The adjoint."""
    check_ndim("dy", dy, 4, "(n, c, oh, ow)")
    check_float("dy", dy)
    n, c, h, w = _images(x_shape)
    output = as_image_size("dy", tuple(dy.shape[2:]))
    check_shape("dy", dy, (n, c, *output))
    dx, out = empty_channels_last((n, c, h, w), dy.dtype)
    _run(body, out, channels_last(dy), (c, h, w, *output), corners)
    return dx


def _images(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The shape (n, c, h, w) of images that have pixels."""
    if len(shape) != 4 or shape[2] < 1 or shape[3] < 1:
        raise InputError(f"x: expected images (n, c, h, w) with pixels, got shape {tuple(shape)}")
    return shape[0], shape[1], shape[2], shape[3]


def _run(body: Any, out: Array, source: Array, sizes: tuple[int, ...], corners: tuple[bool, ...]) -> None:
    """Run a body for each element of ``out``."""
    if any(not isinstance(flag, bool) for flag in corners):
        raise InputError(f"align_corners: expected true or false, got {corners[0]!r}")
    numbers = (*map(np.int64, (*sizes, *corners)), *([out.dtype.type(1)] if corners else []))
    device().for_elements(body, out.size, out.reshape(-1), source.reshape(-1), *numbers)
