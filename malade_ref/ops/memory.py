"""Arrays in and out: what drivers need besides arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_float, check_integer, check_ndim, check_shape
from .slices import map_slices

Floats = NDArray[Any]

BLOCK = 1 << 15


def asarray(values: Any, *, dtype: str | None = None) -> NDArray[Any]:
    """Values as an array of this backend, of their shape; no copy if they are one already.

    Parameters
    ----------
    values : array_like
        Numbers.
    dtype : str, optional
        Type to convert to.
    """
    return np.asarray(values, dtype=dtype)


def to_host(array: NDArray[Any]) -> NDArray[Any]:
    """The array as a NumPy array.

    Parameters
    ----------
    array : ndarray
        Array of this backend.

    Returns
    -------
    ndarray
        The same numbers in host memory.
    """
    return np.asarray(array)


def empty(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """Uninitialised array.

    Parameters
    ----------
    shape : sequence of int
        Its shape.
    dtype : str
        Its type.

    Returns
    -------
    ndarray
        The array, contents arbitrary.
    """
    return np.empty(tuple(shape), dtype=dtype)


def zeros(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """Array of zeros.

    Parameters
    ----------
    shape : sequence of int
        Its shape.
    dtype : str
        Its type.
    """
    return np.zeros(tuple(shape), dtype=dtype)


def ones(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """Array of ones.

    Parameters
    ----------
    shape : sequence of int
        Its shape.
    dtype : str
        Its type.
    """
    return np.ones(tuple(shape), dtype=dtype)


def arange(n: int) -> NDArray[np.int64]:
    """The integers 0..n-1, of shape (n,), int64.

    Parameters
    ----------
    n : int
        How many.
    """
    return np.arange(n, dtype=np.int64)


def concatenate(arrays: Sequence[NDArray[Any]], *, axis: int = 0) -> NDArray[Any]:
    """Join arrays along an axis.

    Parameters
    ----------
    arrays : sequence of ndarray
        At least one; equal shapes but for this axis.
    axis : int
        0 joins samples, 1 channels.
    """
    return np.concatenate(list(arrays), axis=axis)


def stack(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Join arrays along a new first axis.

    Parameters
    ----------
    arrays : sequence of ndarray
        At least one; equal shapes.
    """
    return np.stack(list(arrays))


def add_up(arrays: Sequence[Floats]) -> Floats:
    """Sum of arrays, added in their order.

    Parameters
    ----------
    arrays : sequence of ndarray
        At least one; equal shapes and dtypes.

    Returns
    -------
    ndarray
        The sum; shares no memory with them.
    """
    total = np.array(arrays[0], order="C")
    flat = [np.reshape(array, -1) for array in arrays]
    result = total.reshape(-1)

    def of_block(part: slice) -> None:
        for array in flat[1:]:
            result[part] += array[part]

    map_slices(of_block, total.size, slice_size=BLOCK)
    return total


def argmax(logits: Floats) -> NDArray[np.int64]:
    """Class with the largest logit of each sample; the smallest such class in a tie, and none without finite numbers.

    Parameters
    ----------
    logits : ndarray of shape (n, k)
        Class scores.

    Returns
    -------
    ndarray of shape (n,), int64
        Classes; -1 where any of the sample's logits is NaN, or the largest is infinite, so that its probability is NaN:
        no verdict, and never equal to a label.
    """
    return np.where(np.isfinite(logits.max(axis=1)), logits.argmax(axis=1), np.int64(-1))


def check_images(name: str, x: NDArray[Any], image_shape: Sequence[int]) -> NDArray[Any]:
    """Check images where they enter a driver, metadata and values.

    Parameters
    ----------
    name : str
        What to call them in the complaint.
    x : ndarray of shape (n, c, h, w), float32 or float64
        Images, pixels in [0, 1].
    image_shape : sequence of int
        Expected (c, h, w).

    Returns
    -------
    ndarray
        x itself.
    """
    _check_array(name, x, 4, "(n, c, h, w)")
    check_shape(name, x, (len(x), *image_shape))
    if x.dtype.kind in "iub":
        raise InputError(f"{name}: expected float32 pixels in [0, 1], got {x.dtype}; divide by 255 for 8-bit images")
    check_float(name, x)
    # One pass that NaN fails too.
    bad = ~((x >= 0) & (x <= 1))
    if bad.any():
        image = int(bad.reshape(len(x), -1).any(axis=1).argmax())
        value = x[image][bad[image]][0]
        fault = "not a number" if np.isnan(value) else f"pixel {value:g} outside [0, 1]"
        raise InputError(f"{name}: image {image} has {fault}; {int(bad.sum())} such pixels in all")
    return x


def check_vectors(name: str, x: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Check vectors where they enter a driver, metadata and values.

    Parameters
    ----------
    name : str
        What to call them in the complaint.
    x : ndarray of shape (n, d), float32 or float64
        Any finite numbers.
    shape : sequence of int
        Expected (d,).

    Returns
    -------
    ndarray
        x itself.
    """
    _check_array(name, x, 2, "(n, d)")
    check_shape(name, x, (len(x), *shape))
    check_float(name, x)
    bad = ~np.isfinite(x)
    if bad.any():
        first = int(bad.any(axis=1).argmax())
        raise InputError(
            f"{name}: vector {first} has a number that is not finite; {int(bad.sum())} such numbers in all"
        )
    return x


def check_labels(name: str, y: NDArray[Any], num_samples: int, num_classes: int) -> NDArray[Any]:
    """Check labels where they enter a driver, metadata and values.

    Parameters
    ----------
    name : str
        What to call them in the complaint.
    y : ndarray of shape (n,), integer
        Labels.
    num_samples, num_classes : int
        Expected length, and number of classes.

    Returns
    -------
    ndarray
        y itself.
    """
    _check_array(name, y, 1, "(n,)")
    check_shape(name, y, (num_samples,))
    check_integer(name, y)
    bad = (y < 0) | (y >= num_classes)
    if bad.any():
        first = int(bad.argmax())
        raise InputError(f"{name}: label {int(y[first])} of sample {first} is outside 0..{num_classes - 1}")
    return y


def check_sample_index(name: str, index: NDArray[Any], num_samples: int) -> NDArray[Any]:
    """Check sample numbers where they enter a driver, metadata and values.

    Parameters
    ----------
    name : str
        What to call them in the complaint.
    index : ndarray of shape (n,), integer
        Numbers of the samples in their data set.
    num_samples : int
        Expected length.

    Returns
    -------
    ndarray
        index itself.
    """
    _check_array(name, index, 1, "(n,)")
    check_shape(name, index, (num_samples,))
    check_integer(name, index)
    # Random numbers are addressed by 32 bits; a larger number would silently share another sample's.
    bad = (index < 0) | (index >= 1 << 32)
    if bad.any():
        raise InputError(f"{name}: {int(index[bad.argmax()])} is outside 0..2**32 - 1")
    return index


def _check_array(name: str, array: Any, ndim: int, axes: str) -> None:
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    check_ndim(name, array, ndim, axes)
