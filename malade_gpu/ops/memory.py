"""Arrays in and out: what drivers need besides arithmetic.

Arrays are the device's: CuPy's on a GPU, NumPy's on the emulated device. Whatever speaks DLPack (a ``torch.Tensor`` on
the same device, say) is taken over without a copy, and CuPy's arrays speak it themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_float, check_integer, check_ndim, check_shape

from ..device import device
from ..kernels import memory as kernels
from .arguments import check_is_array
from .layout import for_each_element

CPU = 1  # DLPack's number of it


def asarray(values: Any, *, dtype: str | None = None) -> Array:
    """As `malade_ref.ops.asarray`."""
    xp = device().xp
    if isinstance(values, xp.ndarray | np.ndarray) or not hasattr(values, "__dlpack_device__"):
        return xp.asarray(values, dtype=dtype)
    on_gpu = values.__dlpack_device__()[0] != CPU
    return xp.asarray((xp if on_gpu else np).from_dlpack(values), dtype=dtype)


def to_host(array: Array) -> Array:
    """As `malade_ref.ops.to_host`."""
    return np.asarray(array.get() if hasattr(array, "get") else array)


def empty(shape: Sequence[int], dtype: str) -> Array:
    """As `malade_ref.ops.empty`."""
    return device().empty(shape, dtype)


def zeros(shape: Sequence[int], dtype: str) -> Array:
    """As `malade_ref.ops.zeros`."""
    return device().xp.zeros(tuple(shape), dtype=dtype)


def ones(shape: Sequence[int], dtype: str) -> Array:
    """As `malade_ref.ops.ones`."""
    return device().xp.ones(tuple(shape), dtype=dtype)


def arange(n: int) -> Array:
    """As `malade_ref.ops.arange`."""
    return device().xp.arange(n, dtype="int64")


def concatenate(arrays: Sequence[Array], *, axis: int = 0) -> Array:
    """As `malade_ref.ops.concatenate`."""
    return device().xp.concatenate(list(arrays), axis=axis)


def stack(arrays: Sequence[Array]) -> Array:
    """As `malade_ref.ops.stack`."""
    return device().xp.stack(list(arrays))


def add_up(arrays: Sequence[Array]) -> Array:
    """As `malade_ref.ops.add_up`."""
    total = for_each_element(kernels.copy, (arrays[0],))
    for array in arrays[1:]:
        total = for_each_element(kernels.add, (total, array))
    return total


def argmax(logits: Array) -> Array:
    """As `malade_ref.ops.argmax`."""
    out = device().empty((len(logits),), "int64")
    flat = device().xp.ascontiguousarray(logits).reshape(-1)
    device().for_elements(kernels.argmax, len(logits), out, flat, np.int64(logits.shape[1]))
    return out


def check_images(name: str, x: Array, image_shape: Sequence[int]) -> Array:
    """As `malade_ref.ops.check_images`."""
    check_is_array(name, x, must_be=True)
    check_ndim(name, x, 4, "(n, c, h, w)")
    check_shape(name, x, (len(x), *image_shape))
    if x.dtype.kind in "iub":
        raise InputError(f"{name}: expected float32 pixels in [0, 1], got {x.dtype}; divide by 255 for 8-bit images")
    check_float(name, x)
    # One pass that NaN fails too.
    bad = ~((x >= 0) & (x <= 1))
    if bool(bad.any()):
        image = int(bad.reshape(len(x), -1).any(axis=1).argmax())
        value = float(x[image][bad[image]][0])
        fault = "not a number" if math.isnan(value) else f"pixel {value:g} outside [0, 1]"
        raise InputError(f"{name}: image {image} has {fault}; {int(bad.sum())} such pixels in all")
    return x


def check_vectors(name: str, x: Array, shape: Sequence[int]) -> Array:
    """As `malade_ref.ops.check_vectors`."""
    check_is_array(name, x, must_be=True)
    check_ndim(name, x, 2, "(n, d)")
    check_shape(name, x, (len(x), *shape))
    check_float(name, x)
    bad = ~device().xp.isfinite(x)
    if bool(bad.any()):
        first = int(bad.any(axis=1).argmax())
        raise InputError(
            f"{name}: vector {first} has a number that is not finite; {int(bad.sum())} such numbers in all"
        )
    return x


def check_labels(name: str, y: Array, num_samples: int, num_classes: int) -> Array:
    """As `malade_ref.ops.check_labels`."""
    check_is_array(name, y, must_be=True)
    check_ndim(name, y, 1, "(n,)")
    check_shape(name, y, (num_samples,))
    check_integer(name, y)
    bad = (y < 0) | (y >= num_classes)
    if bool(bad.any()):
        first = int(bad.argmax())
        raise InputError(f"{name}: label {int(y[first])} of sample {first} is outside 0..{num_classes - 1}")
    return y


def check_sample_index(name: str, index: Array, num_samples: int) -> Array:
    """As `malade_ref.ops.check_sample_index`."""
    check_is_array(name, index, must_be=True)
    check_ndim(name, index, 1, "(n,)")
    check_shape(name, index, (num_samples,))
    check_integer(name, index)
    # Random numbers are addressed by 32 bits; a larger number would silently share another sample's.
    bad = (index < 0) | (index >= 1 << 32)
    if bool(bad.any()):
        raise InputError(f"{name}: {int(index[int(bad.argmax())])} is outside 0..2**32 - 1")
    return index
