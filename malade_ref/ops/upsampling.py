r"""Upsampling: images in another size, by copies of pixels or by interpolation between them, with the adjoints.

An output row i looks at the position p(i) among the h rows of the input, and so does a column:

    nearest          y[i] = x[floor(i h / oh)]
    bilinear         y[i] = (1 - t) x[k] + t x[min(k + 1, h - 1)],    k = floor(p(i)), t = p(i) - k
                     p(i) = max(0, (i + 1/2) h / oh - 1/2), or with ``align_corners`` i (h - 1) / (oh - 1)

Both are linear, and the vector-Jacobian product is the adjoint: a pixel of the output gives its gradient to the pixels
that it was made of. Positions are fractions of integers, so that floors are exact.

Axes: n images, c channels, (h, w) input, (oh, ow) output.

References
----------
.. [1] PyTorch, documentation of ``Upsample``, whose results these are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_float, check_ndim, check_shape
from .geometry import Pair, as_image_size

Floats = NDArray[Any]
Integers = NDArray[np.int64]


def upsample_nearest(x: Floats, *, output_size: int | Pair) -> Floats:
    """Images in another size, made of copies of the pixels, of shape (n, c, oh, ow).

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Input.
    output_size : int or pair of int
        Height and width (oh, ow) of the output.

    Examples
    --------
    >>> import numpy as np
    >>> upsample_nearest(np.array([[[[1.0, 2.0]]]]), output_size=(1, 4))[0, 0]
    array([[1., 1., 2., 2.]])
    """
    output = _output(x, output_size)
    rows, columns = _nearest(x.shape, output)
    return np.asarray(x[:, :, rows][:, :, :, columns])


def upsample_nearest_vjp(dy: Floats, x_shape: tuple[int, ...]) -> Floats:
    """Vector-Jacobian product of `upsample_nearest`: a pixel gets the gradients of its copies.

    Parameters
    ----------
    dy : ndarray of shape (n, c, oh, ow), float32 or float64
        Gradient with respect to the output.
    x_shape : tuple of int
        Shape (n, c, h, w) of the input.
    """
    rows, columns = _nearest(x_shape, _output_of(dy, x_shape))
    bands = np.zeros_like(dy, shape=(*dy.shape[:3], x_shape[3]))
    for j, column in enumerate(columns):
        bands[:, :, :, column] += dy[:, :, :, j]
    dx = np.zeros_like(dy, shape=x_shape)
    for i, row in enumerate(rows):
        dx[:, :, row] += bands[:, :, i]
    return dx


def upsample_bilinear(x: Floats, *, output_size: int | Pair, align_corners: bool = False) -> Floats:
    """Images in another size, by interpolation between the nearest four pixels.

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Input.
    output_size : int or pair of int
        Height and width (oh, ow) of the output.
    align_corners : bool
        Whether the centres of the corner pixels stay where they are, instead of the image's edges.

    Returns
    -------
    ndarray of shape (n, c, oh, ow), same dtype
        The interpolation; beyond the outermost centres their values.

    Examples
    --------
    >>> import numpy as np
    >>> upsample_bilinear(np.array([[[[0.0, 4.0]]]]), output_size=(1, 4))[0, 0]
    array([[0., 1., 3., 4.]])
    """
    oh, ow = _output(x, output_size)
    top, bottom, down = _between(x.shape[2], oh, align_corners, x.dtype)
    left, right, across = _between(x.shape[3], ow, align_corners, x.dtype)
    bands = x[:, :, top] * (1 - down)[:, None] + x[:, :, bottom] * down[:, None]
    return np.asarray(bands[:, :, :, left] * (1 - across) + bands[:, :, :, right] * across)


def upsample_bilinear_vjp(dy: Floats, x_shape: tuple[int, ...], *, align_corners: bool = False) -> Floats:
    """Vector-Jacobian product of `upsample_bilinear`: a pixel gets its weights times the gradients.

    Parameters
    ----------
    dy : ndarray of shape (n, c, oh, ow), float32 or float64
        Gradient with respect to the output.
    x_shape : tuple of int
        Shape (n, c, h, w) of the input.
    align_corners : bool
        As given to `upsample_bilinear`.
    """
    oh, ow = _output_of(dy, x_shape)
    bands = np.zeros_like(dy, shape=(*dy.shape[:3], x_shape[3]))
    for j, (left, right, across) in enumerate(zip(*_between(x_shape[3], ow, align_corners, dy.dtype), strict=True)):
        bands[:, :, :, left] += dy[:, :, :, j] * (1 - across)
        bands[:, :, :, right] += dy[:, :, :, j] * across
    dx = np.zeros_like(dy, shape=x_shape)
    for i, (top, bottom, down) in enumerate(zip(*_between(x_shape[2], oh, align_corners, dy.dtype), strict=True)):
        dx[:, :, top] += bands[:, :, i] * (1 - down)
        dx[:, :, bottom] += bands[:, :, i] * down
    return dx


def _output(x: Floats, output_size: int | Pair) -> Pair:
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_float("x", x)
    _check_pixels(x.shape)
    return as_image_size("output_size", output_size)


def _output_of(dy: Floats, x_shape: tuple[int, ...]) -> Pair:
    """The size of dy, which must fit images of a shape."""
    check_ndim("dy", dy, 4, "(n, c, oh, ow)")
    check_float("dy", dy)
    _check_pixels(x_shape)
    output = as_image_size("dy", dy.shape[2:])
    check_shape("dy", dy, (*x_shape[:2], *output))
    return output


def _check_pixels(x_shape: tuple[int, ...]) -> None:
    if len(x_shape) != 4 or min(x_shape[2:]) < 1:
        raise InputError(f"x: expected images (n, c, h, w) with pixels, got shape {x_shape}")


def _nearest(x_shape: tuple[int, ...], output: Pair) -> tuple[Integers, Integers]:
    """The row that each row of the output is a copy of, and so for columns."""
    return np.arange(output[0]) * x_shape[2] // output[0], np.arange(output[1]) * x_shape[3] // output[1]


def _between(size: int, count: int, align_corners: bool, dtype: Any) -> tuple[Integers, Integers, Floats]:
    """The two rows that each of ``count`` rows lies between, and the second one's weight."""
    if not isinstance(align_corners, bool):
        raise InputError(f"align_corners: expected true or false, got {align_corners!r}")
    i = np.arange(count)
    if align_corners:
        numerator, denominator = i * (size - 1), max(1, count - 1)
    else:
        numerator, denominator = np.maximum(0, (2 * i + 1) * size - count), 2 * count
    first, rest = numerator // denominator, numerator % denominator
    return first, np.minimum(first + 1, size - 1), rest.astype(dtype) / np.asarray(denominator, dtype)
