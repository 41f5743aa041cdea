"""Moved and mirrored copies of images, for augmentation. One thread a number; results lie channels-last."""

from __future__ import annotations

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_float, check_integer, check_ndim, check_shape

from ..device import device
from ..kernels import augmentation as kernels
from .layout import channels_last, empty_channels_last


def crop_flip(x: Array, top: Array, left: Array, flip: Array) -> Array:
    """As `malade_ref.ops.crop_flip`."""
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_float("x", x)
    n, c, h, w = x.shape
    for name, values in (("top", top), ("left", left), ("flip", flip)):
        check_shape(name, values, (n,))
        if name == "flip" and values.dtype.kind != "b":
            raise InputError(f"flip: expected booleans, got {values.dtype}")
        if name != "flip":
            check_integer(name, values)
    y, out = empty_channels_last((n, c, h, w), x.dtype)
    places = [device().xp.ascontiguousarray(values.astype("int64")) for values in (top, left, flip)]
    sizes = map(np.int64, (c, h, w))
    device().for_elements(kernels.crop_flip, out.size, out.reshape(-1), channels_last(x).reshape(-1), *places, *sizes)
    return y
