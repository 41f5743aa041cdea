r"""Work on numbers by channel, in parts of a batch: sums over samples and pixels, and maps of each number.

    channel_sums    s[c] = sum over n, h, w of f(x)[n, c, h, w]
    channel_map     y = f(x),  each number with those of its channel

An image's numbers are seen as rows of channels, (h * w, c), which lie one after the other where arrays are
channels-last (see `conv`). Parts fit into the cache and are spread over the cores that are free; the cut depends on
shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .slices import each_part

Floats = NDArray[Any]

# Numbers of a part: a few arrays of them fit into a core's second-level cache.
PART = 1 << 16


def channel_sums(function: Callable[..., tuple[Floats, ...]], *arrays: Floats) -> tuple[Floats, ...]:
    """Sums over samples and pixels.

    Parameters
    ----------
    function : callable
        From rows of the arrays, (m, c), to several arrays like them.
    *arrays : ndarray of one shape (n, c, ...)
        What is summed, at least one number a channel.

    Returns
    -------
    tuple of ndarrays of shape (c,), float64
        One of each of the function's results.
    """

    def of_part(part: slice) -> list[Floats]:
        found = function(*(_rows(array[part]) for array in arrays))
        # A product with ones adds up faster than a sum along the first axis, and in more than one running sum.
        return [(np.ones(len(rows), dtype=rows.dtype) @ rows).astype(np.float64) for rows in found]

    totals: list[Floats] = []
    for sums in each_part(of_part, _parts(arrays[0])):
        totals = [total + one for total, one in zip(totals, sums, strict=True)] if totals else sums
    return tuple(totals)


def channel_map(function: Callable[..., Floats], *arrays: Floats) -> Floats:
    """Each number mapped by itself.

    Parameters
    ----------
    function : callable
        From rows of the arrays, (m, c), to a new array like them.
    *arrays : ndarray of one shape (n, c, ...)
        What is mapped.

    Returns
    -------
    ndarray of their shape and dtype
        The results; a view of a channels-last array.
    """
    first = arrays[0]
    y = np.empty((len(first), *first.shape[2:], first.shape[1]), dtype=first.dtype)

    def of_part(part: slice) -> None:
        y[part] = function(*(_rows(array[part]) for array in arrays)).reshape(y[part].shape)

    for _ in each_part(of_part, _parts(first) if first.size else []):
        pass
    return np.moveaxis(y, -1, 1)


def _rows(x: Floats) -> Floats:
    return x.transpose(0, *range(2, x.ndim), 1).reshape(-1, x.shape[1])


def _parts(x: Floats) -> list[slice]:
    step = max(1, PART * len(x) // x.size)
    return [slice(start, min(start + step, len(x))) for start in range(0, len(x), step)]
