r"""Moved and mirrored copies of images, for augmentation.

    y[n, c, i, j] = x[n, c, i + top[n], j' + left[n]],    j' = w - 1 - j where flip[n], else j,

and 0 where that lies outside of x: the window at (top, left) of an image with zeros around it, then mirrored.

Axes: n images, c channels, (h, w) pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_float, check_integer, check_ndim, check_shape

Floats = NDArray[Any]


def crop_flip(
    x: Floats, top: NDArray[np.integer[Any]], left: NDArray[np.integer[Any]], flip: NDArray[np.bool_]
) -> Floats:
    """Windows of the images' own size, some of them mirrored left to right.

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Images. Not modified.
    top, left : ndarray of shape (n,), integer
        First row and column of each window, in pixels; negative ones begin in the zeros around the image.
    flip : ndarray of shape (n,), bool
        Which windows to mirror.

    Returns
    -------
    ndarray of x's shape and dtype
        The windows.

    Raises
    ------
    InputError
        If shapes or types do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> crop_flip(x, np.array([1]), np.array([0]), np.array([True]))[0, 0]
    array([[4., 3.],
           [0., 0.]])
    """
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_float("x", x)
    n, c, h, w = x.shape
    for name, values in (("top", top), ("left", left), ("flip", flip)):
        check_shape(name, values, (n,))
        if name == "flip" and values.dtype.kind != "b":
            raise InputError(f"flip: expected booleans, got {values.dtype}")
        if name != "flip":
            check_integer(name, values)
    rows = top[:, None].astype(np.int64) + np.arange(h)
    columns = left[:, None].astype(np.int64) + np.where(flip[:, None], np.arange(w)[::-1], np.arange(w))
    inside = ((rows >= 0) & (rows < h))[:, None, :, None] & ((columns >= 0) & (columns < w))[:, None, None, :]
    if not x.size:
        return np.zeros_like(x)
    number, channel = np.arange(n)[:, None, None, None], np.arange(c)[:, None, None]
    taken = x[number, channel, rows.clip(0, h - 1)[:, None, :, None], columns.clip(0, w - 1)[:, None, None, :]]
    return np.asarray(np.where(inside, taken, x.dtype.type(0)))
