r"""Random numbers from counters: Philox4x32-10 and the Box-Muller transform.

The numbers are those of the NumPy reference: words bit by bit, normal numbers up to the last digits of log, sine and
cosine. Counter (element block, step, sample index, 0), four words a counter; a word w becomes (w + 1/2) / 2^32, a pair
of words

    z_0 = sqrt(-2 log u_0) sin(2 pi u_1),    z_1 = sqrt(-2 log u_0) cos(2 pi u_1).

References
----------
.. [1] Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
.. [2] Box, Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29, 1958.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_choice, check_count, check_integer, check_ndim, check_shape

from ..device import device
from ..kernels import random as kernels
from .layout import for_each_element

Key = tuple[int, int]

DTYPES = ("float32", "float64")


def philox4x32(counter: Sequence[Array], key: Key) -> tuple[Array, Array, Array, Array]:
    """Ten rounds of Philox4x32.

    Parameters
    ----------
    counter : sequence of four arrays of shape (m,), uint32
        The counters' words. Not modified.
    key : tuple of two int
        The key's words, in [0, 2^32).

    Returns
    -------
    tuple of four arrays of shape (m,), uint32
        The random words.
    """
    xp = device().xp
    words = tuple(xp.asarray(word, dtype=xp.uint32) for word in counter)
    results: tuple[Array, Array, Array, Array] = for_each_element(
        kernels.philox_elements, words, *map(np.uint32, key), dtypes=(xp.uint32,) * 4
    )
    return results


def derive_key(seed: int, stream: str, draw: int = 0) -> Key:
    """Key of one draw of a named stream: Philox of (hash of the name, draw) under the seed.

    Parameters
    ----------
    seed : int
        In [0, 2^64).
    stream : str
        Whose numbers these are, for example ``"defence"`` or ``"attack"``. Different names never meet.
    draw : int
        Number of the draw or restart, in [0, 2^32).

    Returns
    -------
    tuple of two int
        The key, for `philox4x32`.

    Raises
    ------
    InputError
        If the seed or the draw is out of range.
    """
    if check_count("seed", seed, minimum=0) >= 1 << 64:
        raise InputError(f"seed: expected an integer below 2**64, got {seed}")
    if check_count("draw", draw, minimum=0) >= 1 << 32:
        raise InputError(f"draw: expected an integer below 2**32, got {draw}")
    # One counter, on the host: integers of Python need no device.
    digest = hashlib.sha256(stream.encode()).digest()
    c0, c1 = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))
    c2, c3 = draw, 0
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        high_0, low_0 = divmod(0xD2511F53 * c0, 1 << 32)
        high_1, low_1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + 0x9E3779B9) % (1 << 32), (k1 + 0xBB67AE85) % (1 << 32)
    return c0, c1


def keys_of_samples(keys: Sequence[Key], num_samples: int) -> Array:
    """Keys for the draws of a batch that are computed at once: each for all samples, one draw after the other.

    Parameters
    ----------
    keys : sequence of d keys
        From `derive_key`, one a draw.
    num_samples : int
        Size n of the batch.

    Returns
    -------
    array of shape (d * n, 2), uint32
        For `normal` and its kin, with the batch's sample numbers d times in a row.
    """
    xp = device().xp
    return xp.repeat(xp.asarray(np.array(keys, dtype=np.uint32).reshape(-1, 2)), num_samples, axis=0)


def random_words(num_words: int, *, key: Key | Array, sample_index: Array, step: int = 0) -> Array:
    """Random 32-bit words of given samples.

    Parameters
    ----------
    num_words : int
        Words a sample.
    key : tuple of two int, or array of shape (n, 2), uint32
        From `derive_key`; or one for each sample, from `keys_of_samples`.
    sample_index : array of shape (n,), integer
        Which samples, in [0, 2^32): their numbers in the whole data set, not in the batch.
    step : int
        Which step of a chain or of an attack, in [0, 2^32).

    Returns
    -------
    array of shape (n, num_words), uint32
        Words; row i depends on ``sample_index[i]``, not on i.

    Raises
    ------
    InputError
        If ``sample_index`` is not a vector of integers or the step is out of range.
    """
    return _fill(kernels.fill_words, "uint32", num_words, key, sample_index, step)


def uniform(
    shape: tuple[int, ...], *, key: Key | Array, sample_index: Array, step: int = 0, dtype: str = "float32"
) -> Array:
    """Independent uniform numbers in the open interval (0, 1).

    Parameters
    ----------
    shape : tuple of int
        Shape of one sample.
    key, sample_index, step
        As in `random_words`.
    dtype : {"float32", "float64"}
        Of the result. Float32 keeps the word's upper 24 bits, so that 1 is never reached by rounding.

    Returns
    -------
    array of shape (n, *shape)
        The numbers.

    Raises
    ------
    InputError
        If the dtype is not one of the two, or as in `random_words`.
    """
    check_choice("dtype", dtype, DTYPES)
    values = _fill(kernels.FILL_UNIFORM[dtype], dtype, math.prod(shape), key, sample_index, step)
    return values.reshape(len(values), *shape)


def normal(
    shape: tuple[int, ...], *, key: Key | Array, sample_index: Array, step: int = 0, dtype: str = "float32"
) -> Array:
    """Independent standard normal numbers, by Box-Muller; magnitude at most sqrt(66 log 2) = 6.77.

    Parameters
    ----------
    shape : tuple of int
        Shape of one sample.
    key, sample_index, step
        As in `random_words`.
    dtype : {"float32", "float64"}
        Of the result and of the arithmetic.

    Returns
    -------
    array of shape (n, *shape)
        The numbers.

    Raises
    ------
    InputError
        If the dtype is not one of the two, or as in `random_words`.
    """
    check_choice("dtype", dtype, DTYPES)
    values = _fill(kernels.FILL_NORMAL[dtype], dtype, math.prod(shape), key, sample_index, step)
    return values.reshape(len(values), *shape)


def box_muller(words_0: Array, words_1: Array, *, dtype: str = "float32") -> tuple[Array, Array]:
    """Two normal numbers from each pair of words.

    Parameters
    ----------
    words_0, words_1 : array of one shape, uint32
        Words for the radius and for the angle.
    dtype : {"float32", "float64"}
        Of the result and of the arithmetic.

    Returns
    -------
    tuple of two arrays of that shape
        radius * sin(angle), radius * cos(angle).
    """
    pair: tuple[Array, Array] = for_each_element(
        kernels.NORMAL_ELEMENTS[dtype], (words_0, words_1), dtypes=(dtype, dtype)
    )
    return pair


def permutation(n: int, *, key: Key) -> Array:
    """A random order of 0..n-1: the order of n random 64-bit numbers, ties in favour of the smaller index.

    Parameters
    ----------
    n : int
        How many.
    key : tuple of two int
        From `derive_key`.

    Returns
    -------
    array of shape (n,), int64
        Each of 0..n-1 once.
    """
    xp = device().xp
    words = random_words(2, key=key, sample_index=xp.arange(n)).astype(xp.uint64)
    return xp.argsort(words[:, 0] << xp.uint64(32) | words[:, 1], kind="stable")


def own_keys(key: Key | Array, index: Array) -> tuple[Array, bool, int, int]:
    """A key as kernels take it: those of all samples if each has its own (else any array), whether so, and the one key.

    Parameters
    ----------
    key : tuple of two int, or array of shape (n, 2), uint32
        One, or one for each sample.
    index : array of shape (n,), uint32
        Numbers of the samples.

    Returns
    -------
    tuple of array, bool, int, int
        In the order of the kernels' parameters.

    Raises
    ------
    InputError
        If the keys are not as many as the samples.
    """
    if isinstance(key, tuple):
        return index, False, *key
    check_shape("key", key, (len(index), 2))
    return device().xp.ascontiguousarray(key), True, 0, 0


def _fill(body: Any, dtype: str, size: int, key: Key | Array, sample_index: Array, step: int) -> Array:
    """An (n, size) array, each element from its own word of its sample."""
    check_ndim("sample_index", sample_index, 1, "(n,)")
    check_integer("sample_index", sample_index)
    if check_count("step", step, minimum=0) >= 1 << 32:
        raise InputError(f"step: expected an integer below 2**32, got {step}")
    xp = device().xp
    out = device().empty((len(sample_index), size), dtype)
    num_blocks = -(-size // 4)
    index = xp.ascontiguousarray(sample_index.astype(xp.uint32))
    keys, keyed, *one = own_keys(key, index)
    numbers = np.bool_(keyed), np.int64(num_blocks), np.int64(size), np.uint32(step), *map(np.uint32, one)
    device().for_elements(body, len(index) * num_blocks, out.reshape(-1), index, keys.reshape(-1), *numbers)
    return out
