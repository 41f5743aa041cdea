r"""Pooling: the largest number or the mean of a tile of pixels, with their derivatives.

With xp the padded image, tiles of kh x kw pixels and strides (sh, sw):

    max      y[n, c, i, j] = max over u, v of xp[n, c, i*sh + u, j*sw + v],       padded with minus infinity
    average  y[n, c, i, j] = sum over u, v of xp[n, c, i*sh + u, j*sw + v] / count[i, j],    padded with zeros

Where tiles lie is the geometry's matter (`pool_geometry`). An adaptive average has the windows from floor(i h / oh) to
ceil((i + 1) h / oh), which cover the image evenly and may overlap by a pixel.

Axes: n images, c channels, (h, w) input, (oh, ow) output, (u, v) pixels of a tile.

References
----------
.. [1] PyTorch, documentation of ``MaxPool2d``, ``AvgPool2d`` and ``AdaptiveAvgPool2d``, whose results these are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_float, check_ndim, check_shape
from .geometry import Geometry, Pair, as_image_size, pool_geometry

Floats = NDArray[Any]
Place = tuple[slice, slice, slice, slice]


def max_pool2d(
    x: Floats,
    *,
    size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
) -> tuple[Floats, NDArray[np.int32]]:
    """The largest number of each tile, and where it is.

    Of equals the first counts, row by row. NaN counts as larger than all numbers; padding is never taken.

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Input.
    size : int or pair of int
        Height and width of a tile.
    stride : int or pair of int, optional
        Rows and columns from tile to tile; by default those of a tile.
    padding : int or pair of int
        Rows above and below, columns on the left and on the right; at most half of a tile.
    ceil_mode : bool
        Whether what is left beyond the last whole tile is a tile as well.

    Returns
    -------
    y : ndarray of shape (n, c, oh, ow), same dtype
        The largest numbers.
    index : ndarray of shape (n, c, oh, ow), int32
        Their pixels, counted row by row, for `max_pool2d_vjp`.

    Examples
    --------
    >>> import numpy as np
    >>> y, index = max_pool2d(np.array([[[[1.0, 5.0, 2.0, 2.0], [3.0, 4.0, 0.0, 2.0]]]]), size=2)
    >>> y[0, 0], index[0, 0]
    (array([[5., 2.]]), array([[1, 2]], dtype=int32))
    """
    g = _geometry(x, size=size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    y = np.full_like(x, -np.inf, shape=(*x.shape[:2], *g.output))
    index = np.full_like(y, -1, dtype=np.int32)
    pixels = np.arange(g.size[0] * g.size[1], dtype=np.int32).reshape(1, 1, *g.size)
    for there, here in _taps(g):
        new, old = x[here], y[there]
        larger = (index[there] < 0) | (~(new <= old) & ~np.isnan(old))
        np.copyto(old, new, where=larger)
        np.copyto(index[there], pixels[here], where=larger)
    return y, index


def max_pool2d_vjp(
    dy: Floats,
    index: NDArray[np.int32],
    x_shape: tuple[int, ...],
    *,
    size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
) -> Floats:
    """Vector-Jacobian product of `max_pool2d`: a tile's gradient goes to the pixel that was taken.

    Parameters
    ----------
    dy : ndarray of shape (n, c, oh, ow), float32 or float64
        Gradient with respect to the largest numbers.
    index : ndarray of shape (n, c, oh, ow), int32
        From `max_pool2d`.
    x_shape : tuple of int
        Shape (n, c, h, w) of the input.
    size, stride, padding, ceil_mode
        As given to `max_pool2d`.
    """
    g = _geometry_of(x_shape, dy, size=size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    check_shape("index", index, dy.shape)
    dx = np.zeros(x_shape, dtype=dy.dtype)
    num_maps, num_pixels = x_shape[0] * x_shape[1], g.size[0] * g.size[1]
    maps = np.arange(num_maps, dtype=np.int64)[:, None] * num_pixels
    np.add.at(dx.reshape(-1), (maps + index.reshape(num_maps, g.output[0] * g.output[1])).reshape(-1), dy.reshape(-1))
    return dx


def avg_pool2d(
    x: Floats,
    *,
    size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Floats:
    """Means over tiles of pixels, of shape (n, c, oh, ow).

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Input.
    size, stride, padding, ceil_mode
        As of `max_pool2d`.
    count_include_pad : bool
        Whether the padding's zeros count as pixels of a tile. What a tile of ``ceil_mode`` has beyond the padding never
        counts.

    Examples
    --------
    >>> import numpy as np
    >>> avg_pool2d(np.array([[[[1.0, 2.0, 3.0]]]]), size=(1, 2), stride=1)[0, 0]
    array([[1.5, 2.5]])
    """
    g = _geometry(x, size=size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    count = _counts(g, count_include_pad).astype(x.dtype)
    if g.kernel == g.stride and g.pads == ((0, 0), (0, 0)) and not ceil_mode:
        return np.asarray(_tiles(x, g).sum(axis=(3, 5)) / count)
    total = np.zeros_like(x, shape=(*x.shape[:2], *g.output))
    for there, here in _taps(g):
        total[there] += x[here]
    return np.asarray(total / count)


def avg_pool2d_vjp(
    dy: Floats,
    x_shape: tuple[int, ...],
    *,
    size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Floats:
    """Vector-Jacobian product of `avg_pool2d`: every pixel of a tile gets an equal share.

    Parameters
    ----------
    dy : ndarray of shape (n, c, oh, ow), float32 or float64
        Gradient with respect to the output.
    x_shape : tuple of int
        Shape (n, c, h, w) of the input.
    size, stride, padding, ceil_mode, count_include_pad
        As given to `avg_pool2d`.

    Returns
    -------
    ndarray of shape x_shape, dy's dtype
        Gradient with respect to the input; 0 where no tile reached.
    """
    g = _geometry_of(x_shape, dy, size=size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    share = dy / _counts(g, count_include_pad).astype(dy.dtype)
    dx = np.zeros(x_shape, dtype=dy.dtype)
    for there, here in _taps(g):
        dx[here] += share[there]
    return dx


def adaptive_avg_pool2d(x: Floats, *, output_size: int | Pair) -> Floats:
    """Means over windows that cover the image evenly, as many as the output has pixels, of shape (n, c, oh, ow).

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Input.
    output_size : int or pair of int
        Height and width (oh, ow) of the output; 1 for the mean of the whole image.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_avg_pool2d(np.array([[[[1.0, 2.0, 6.0]]]]), output_size=(1, 2))[0, 0]
    array([[1.5, 4. ]])
    """
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_float("x", x)
    oh, ow = as_image_size("output_size", output_size)
    rows, columns, count = _windows(x.shape, (oh, ow))
    bands = np.zeros_like(x, shape=(*x.shape[:2], oh, x.shape[3]))
    for i, window in enumerate(rows):
        for row in window:
            bands[:, :, i] += x[:, :, row]
    y = np.zeros_like(x, shape=(*x.shape[:2], oh, ow))
    for j, window in enumerate(columns):
        for column in window:
            y[:, :, :, j] += bands[:, :, :, column]
    return np.asarray(y / count.astype(x.dtype))


def adaptive_avg_pool2d_vjp(dy: Floats, x_shape: tuple[int, ...]) -> Floats:
    """Vector-Jacobian product of `adaptive_avg_pool2d`: every pixel of a window gets an equal share.

    Parameters
    ----------
    dy : ndarray of shape (n, c, oh, ow), float32 or float64
        Gradient with respect to the output.
    x_shape : tuple of int
        Shape (n, c, h, w) of the input.
    """
    check_ndim("dy", dy, 4, "(n, c, oh, ow)")
    check_float("dy", dy)
    rows, columns, count = _windows(x_shape, as_image_size("dy", dy.shape[2:]))
    check_shape("dy", dy, (*x_shape[:2], *dy.shape[2:]))
    share = dy / count.astype(dy.dtype)
    bands = np.zeros((*dy.shape[:3], x_shape[3]), dtype=dy.dtype)
    for j, window in enumerate(columns):
        bands[:, :, :, window.start : window.stop] += share[:, :, :, j : j + 1]
    dx = np.zeros(x_shape, dtype=dy.dtype)
    for i, window in enumerate(rows):
        dx[:, :, window.start : window.stop] += bands[:, :, i : i + 1]
    return dx


def _geometry(x: Floats, **settings: Any) -> Geometry:
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_float("x", x)
    return pool_geometry((x.shape[2], x.shape[3]), **settings)


def _geometry_of(x_shape: tuple[int, ...], dy: Floats, **settings: Any) -> Geometry:
    """The geometry for images of a shape, that dy must fit."""
    if len(x_shape) != 4:
        raise InputError(f"x_shape: expected 4 axes (n, c, h, w), got {x_shape}")
    check_float("dy", dy)
    g = pool_geometry((x_shape[2], x_shape[3]), **settings)
    check_shape("dy", dy, (*x_shape[:2], *g.output))
    return g


def _taps(g: Geometry) -> Iterator[tuple[Place, Place]]:
    """For each pixel (u, v) of a tile: the tiles whose pixel is in the image, and these pixels."""
    every = slice(None)
    for of_rows, rows in _taps_along(0, g):
        for of_columns, columns in _taps_along(1, g):
            yield (every, every, of_rows, of_columns), (every, every, rows, columns)


def _taps_along(axis: int, g: Geometry) -> Iterator[tuple[slice, slice]]:
    size, stride, before, count = g.size[axis], g.stride[axis], g.pads[axis][0], g.output[axis]
    for u in range(g.kernel[axis]):
        first = max(0, -((u - before) // stride))  # 0 <= i * stride + u - before < size
        last = min(count - 1, (size - 1 + before - u) // stride)
        if first <= last:
            start, stop = (i * stride + u - before for i in (first, last))
            yield slice(first, last + 1), slice(start, stop + 1, stride)


def _counts(g: Geometry, count_include_pad: bool) -> NDArray[np.int64]:
    """How many pixels of each tile count, (oh, ow)."""
    if not isinstance(count_include_pad, bool):
        raise InputError(f"count_include_pad: expected true or false, got {count_include_pad!r}")
    lengths = []
    for size, tile, stride, (before, after), count in zip(*g, strict=True):
        first = np.arange(count) * stride - before
        last = np.minimum(first + tile, size + after)
        inside = np.minimum(last, size) - np.maximum(first, 0)
        lengths.append(last - first if count_include_pad else inside)
    return np.asarray(np.multiply.outer(lengths[0], lengths[1]))


def _tiles(x: Floats, g: Geometry) -> Floats:
    """View of (n, c, h, w) as (n, c, oh, kh, ow, kw), for tiles that fill the image."""
    (n, c), (kh, kw), (oh, ow) = x.shape[:2], g.kernel, g.output
    whole = x[:, :, : oh * kh, : ow * kw]
    sn, sc, sh, sw = whole.strides
    return np.lib.stride_tricks.as_strided(whole, (n, c, oh, kh, ow, kw), (sn, sc, sh * kh, sh, sw * kw, sw))


def _windows(x_shape: tuple[int, ...], output: Pair) -> tuple[list[range], list[range], NDArray[np.int64]]:
    """Rows and columns of the windows of an adaptive average, and their pixels (oh, ow)."""
    if len(x_shape) != 4 or min(x_shape[2:]) < 1:
        raise InputError(f"x: expected images (n, c, h, w) with pixels, got shape {x_shape}")
    rows, columns = (
        [range(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        for size, count in zip(x_shape[2:], output, strict=True)
    )
    count = np.multiply.outer([len(window) for window in rows], [len(window) for window in columns])
    return rows, columns, np.asarray(count)
