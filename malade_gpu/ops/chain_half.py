r"""The paper's denoiser in half precision, as kernels/chain_half.cuh wants its weights.

A matrix product of a warp, m16n8k16, has two words of its right operand in each lane: with lane = 4 g + t they are the
terms 2 t, 2 t + 1 and 2 t + 8, 2 t + 9 of column g. Weights are packed so that a lane finds what it needs together in
neighbouring words, and four words of the 32 lanes in 128 neighbouring ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from malade_ref.arrays import Array

from ..device import device

Indices = np.ndarray[Any, np.dtype[np.int64]]

IMAGES, THREADS = 16, 256
CAPABILITY = 80  # from which on there are asynchronous copies and these products
LARGEST = 65504.0  # of half precision
SMALL_WORDS = 112
# In words, as in kernels/chain_half.cuh.
WEIGHTS_1, WEIGHTS_2, WEIGHTS_3 = 2 * 128, 5 * 8 * 128, 25 * 5 * 128
SECOND_HALF, FIRST_HALF, MAP_WORDS = 7 * 7 * 16 * 8, (14 * 17 * 5 + 7) * 8, 16 * 8 * 16 * 2


def shared_bytes(resident: bool) -> int:
    """Shared memory of a block.

    Parameters
    ----------
    resident : bool
        Whether the weights of the third layer lie there, too.
    """
    weights = WEIGHTS_1 + WEIGHTS_2 + (WEIGHTS_3 if resident else 0)
    return 4 * (SMALL_WORDS + weights + 2 * (SECOND_HALF + FIRST_HALF) + MAP_WORDS)


def residence(max_shared: int) -> bool | None:
    """How the kernel fits into shared memory.

    Parameters
    ----------
    max_shared : int
        Bytes of shared memory that a block may have.

    Returns
    -------
    bool or None
        Whether all weights lie in shared memory; None if not even the others fit.
    """
    return next((resident for resident in (True, False) if shared_bytes(resident) <= max_shared), None)


def pack_half(params: Mapping[str, Array]) -> Array:
    """Weights of the first three layers in half precision.

    Parameters
    ----------
    params : dict of str to array
        Parameters of the paper's sDAE, float32. What half precision cannot hold becomes its largest number.

    Returns
    -------
    array of shape (21376,), uint32
        Two weights a word, in the order of the kernel.
    """
    xp = device().xp
    flat = [*(xp.ravel(params[name]) for name in ("0.weight", "2.weight", "4.weight")), xp.zeros(1, "float32")]
    weights = xp.take(xp.clip(xp.concatenate(flat), -LARGEST, LARGEST), _order_on_device())
    return weights.astype("float16").view("uint32")


@cache
def order() -> Indices:
    """Which weight stands where.

    Returns
    -------
    array of shape (2 * 21376,), int64
        Numbers of the weights, counted through the first three layers, or one more than the last for a zero.
    """
    first = np.arange(10 * 25).reshape(10, 5, 5)
    second = first.size + np.arange(25 * 10 * 25).reshape(25, 10, 5, 5)
    third = first.size + second.size + np.arange(25 * 10 * 81).reshape(25, 10, 9, 9)
    zero = first.size + second.size + third.size

    def chosen(weight: Indices, *index: Any) -> Indices:
        """Elements of a weight, zero where an index is outside of it."""
        index = tuple(np.broadcast_arrays(*index))
        inside = np.logical_and.reduce([(i >= 0) & (i < size) for i, size in zip(index, weight.shape, strict=True)])
        return np.where(inside, weight[tuple(np.where(inside, i, 0) for i in index)], zero)

    def packed(index: Indices, *outer: int) -> Indices:
        """(outer, words of a lane, lanes, 2) to parts of four words a lane, and of two if two are left."""
        index = index.reshape(*outer, -1, 32, 2)
        split = index.shape[-3] // 4 * 4
        four, two = index[..., :split, :, :].reshape(*outer, -1, 4, 32, 2), index[..., split:, :, :]
        parts = [np.moveaxis(part, -3, -2).reshape(*outer, -1) for part in (four, two)]
        return np.concatenate(parts, -1).ravel()

    lane, e = np.arange(32)[:, None], np.arange(2)  # axes (lane, e): e of the two numbers of a word
    g, t = lane // 4, lane % 4

    # Words (s, n, h) of a lane: product s of the sum, columns 8 n .. 8 n + 7, word h; pair 8 s + 4 h + t of the terms.
    s, n, h = (axis[..., None, None] for axis in np.meshgrid(*map(np.arange, (2, 2, 2)), indexing="ij"))
    pair = 8 * s + 4 * h + t
    of_first = chosen(first, 8 * n + g, pair // 3, 2 * (pair % 3) + e - 1)

    s, n, h = (axis[..., None, None] for axis in np.meshgrid(*map(np.arange, (4, 4, 2)), indexing="ij"))
    term = 2 * (8 * s + 4 * h + t) + e
    rows = np.arange(5).reshape(5, 1, 1, 1, 1, 1)
    of_second = chosen(second, 8 * n + g, term % 10, rows, term // 10)

    s, n, h = (axis[..., None, None] for axis in np.meshgrid(*map(np.arange, (2, 5, 2)), indexing="ij"))
    phase, channel = g // 2, 2 * n + g % 2
    rows, columns = (np.arange(5).reshape(shape) for shape in ((5, 1, 1, 1, 1, 1, 1), (5, 1, 1, 1, 1, 1)))
    ky, kx = 7 - 2 * rows + phase // 2, 7 - 2 * columns + phase % 2
    of_third = chosen(third, 2 * (8 * s + 4 * h + t) + e, channel, ky, kx)

    return np.concatenate([packed(of_first), packed(of_second, 5), packed(of_third, 25, 2)])


@cache
def _order_on_device() -> Array:
    return device().xp.asarray(order())
