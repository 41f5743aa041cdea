"""Memory order of arrays, between ops that see axes and kernels that see rows of numbers.

A kernel takes contiguous arrays. An array (n, c, h, w) may lie in memory in another order of its axes, usually
channels-last. What treats all elements (or all elements of a sample) alike need not care, as long as all its arrays lie
alike: they are viewed as (n, d) rows in the first one's order, and so is the result. Only arrays that lie differently
are copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..device import device


class Rows(NamedTuple):
    """Arrays of one shape as rows, one a sample.

    Attributes
    ----------
    arrays : list of arrays of shape (n, d)
        Contiguous.
    empty : callable
        Makes an array of the original shape for a dtype, and its rows.
    run : int
        How many neighbours in a row belong to one channel (axis 1 of c): number k of a row is of channel k // run % c.
    """

    arrays: list[Any]
    empty: Callable[[Any], tuple[Any, Any]]
    run: int


def rows(*arrays: Any) -> Rows:
    """View arrays as contiguous rows in the memory order of the first.

    Parameters
    ----------
    *arrays : arrays of one shape (n, ...)
        What a kernel will read.

    Returns
    -------
    Rows
        The rows, and the means to make results that lie alike.
    """
    first = arrays[0]
    # The first axis counts samples and stays first; the others by falling strides (those of length 1 do not matter).
    order = (*range(min(1, first.ndim)), *sorted(range(1, first.ndim), key=lambda axis: -abs(first.strides[axis])))
    back = tuple(order.index(axis) for axis in range(first.ndim))
    shape = tuple(first.shape[axis] for axis in order)
    n = shape[0] if shape else 1
    size = first.size // n if n else 0

    def as_rows(array: Any) -> Any:
        return device().xp.ascontiguousarray(array.transpose(order)).reshape(n, size)

    def empty(dtype: Any) -> tuple[Any, Any]:
        whole = device().empty(shape, dtype)
        return whole.transpose(back), whole.reshape(n, size)

    run = math.prod(shape[order.index(1) + 1 :]) if first.ndim > 1 else 1
    return Rows([as_rows(array) for array in arrays], empty, run)


def of_channels(*values: Any) -> list[Any]:
    """Numbers of the channels as a kernel takes them.

    Parameters
    ----------
    *values : arrays of shape (c,)
        One number a channel.

    Returns
    -------
    list of arrays of shape (c,)
        Contiguous.
    """
    return [device().xp.ascontiguousarray(array) for array in values]


def for_each_of_channels(body: Any, arrays: tuple[Any, ...], values: tuple[Any, ...], *numbers: Any) -> Any:
    """New array, element by element, with numbers of the element's channel.

    Parameters
    ----------
    body : function decorated with `elements.element`
        Called with (i, output, inputs, values, channels, run, numbers): element i is of channel i // run % channels.
    arrays : tuple of arrays of one shape (n, c, ...)
        Inputs.
    values : tuple of arrays of shape (c,)
        What is known of each channel.
    *numbers : NumPy scalars
        What else the body takes.

    Returns
    -------
    array
        Output, in the first input's shape, memory order and dtype.
    """
    inputs = rows(*arrays)
    result, out = inputs.empty(arrays[0].dtype)
    flat = [array.reshape(-1) for array in (out, *inputs.arrays)]
    channels, run = np.int64(max(1, arrays[0].shape[1])), np.int64(max(1, inputs.run))
    device().for_elements(body, out.size, *flat, *of_channels(*values), channels, run, *numbers)
    return result


def of_each_sample(values: Any, x: Any) -> Any:
    """Numbers of the samples as a kernel takes them.

    Parameters
    ----------
    values : array of shape (n,)
        One number a sample.
    x : array
        Whose dtype they get.

    Returns
    -------
    array of shape (n,)
        Contiguous.
    """
    return device().xp.ascontiguousarray(values.astype(x.dtype, copy=False))


def for_each_of_samples(
    body: Any, arrays: tuple[Any, ...], values: tuple[Any, ...], *numbers: Any, dtypes: tuple[Any, ...] = ()
) -> Any:
    """New arrays, element by element, with numbers of the element's sample.

    Parameters
    ----------
    body : function decorated with `elements.element`
        Called with (i, outputs, inputs, values, size, numbers): element i is of sample i // size.
    arrays : tuple of arrays of one shape (n, ...)
        Inputs.
    values : tuple of arrays of shape (n,)
        What is known of each sample; converted to the first input's dtype.
    *numbers : NumPy scalars
        What else the body takes.
    dtypes : tuple of dtype
        Of the outputs; by default there is one, of the first input's dtype.

    Returns
    -------
    array, or tuple of arrays if ``dtypes`` has several
        Outputs, in the first input's shape and memory order.
    """
    inputs = rows(*arrays)
    outputs = [inputs.empty(dtype) for dtype in dtypes or (arrays[0].dtype,)]
    flat = [array.reshape(-1) for array in (*(out for _, out in outputs), *inputs.arrays)]
    size = np.int64(max(1, outputs[0][1].shape[1]))
    of_samples = [of_each_sample(value, arrays[0]) for value in values]
    device().for_elements(body, arrays[0].size, *flat, *of_samples, size, *numbers)
    results = tuple(whole for whole, _ in outputs)
    return results if len(results) > 1 else results[0]


def channels_last(x: Any) -> Any:
    """Images with the channels innermost.

    Parameters
    ----------
    x : array of shape (n, c, h, w)
        Images in any memory order.

    Returns
    -------
    array of shape (n, h, w, c)
        Contiguous; no copy if it is so already.
    """
    return device().xp.ascontiguousarray(x.transpose(0, 2, 3, 1))


def address_of(array: Any) -> int:
    """Where an array begins in its device's memory.

    Parameters
    ----------
    array : array
        Of NumPy or CuPy.
    """
    data = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return int(data["data"][0])


def empty_channels_last(shape: tuple[int, int, int, int], dtype: Any) -> tuple[Any, Any]:
    """New images whose channels lie innermost.

    Parameters
    ----------
    shape : tuple of four int
        (n, c, h, w).
    dtype : dtype
        Their type.

    Returns
    -------
    result : array of shape (n, c, h, w)
        A view of ``memory``.
    memory : array of shape (n, h, w, c)
        Contiguous, uninitialised.
    """
    n, c, h, w = shape
    memory = device().empty((n, h, w, c), dtype)
    return memory.transpose(0, 3, 1, 2), memory


def for_each_element(body: Any, arrays: tuple[Any, ...], *numbers: Any, dtypes: tuple[Any, ...] = ()) -> Any:
    """New arrays, element by element.

    Parameters
    ----------
    body : function decorated with `elements.element`
        Called with (i, outputs, inputs, numbers), all arrays flat.
    arrays : tuple of arrays of one shape
        Inputs.
    *numbers : NumPy scalars
        What else the body takes.
    dtypes : tuple of dtype
        Of the outputs; by default there is one, of the first input's dtype.

    Returns
    -------
    array, or tuple of arrays if ``dtypes`` has several
        Outputs, in the first input's shape and memory order.
    """
    inputs = rows(*arrays)
    outputs = [inputs.empty(dtype) for dtype in dtypes or (arrays[0].dtype,)]
    flat = [array.reshape(-1) for array in (*(out for _, out in outputs), *inputs.arrays)]
    device().for_elements(body, arrays[0].size, *flat, *numbers)
    results = tuple(whole for whole, _ in outputs)
    return results if len(results) > 1 else results[0]
