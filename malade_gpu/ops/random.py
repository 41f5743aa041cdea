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


def philox4x32(counter: Sequence[Array], key: Key | tuple[Array, Array]) -> tuple[Array, Array, Array, Array]:
    """As `malade_ref.ops.philox4x32`."""
    xp = device().xp
    words = [xp.asarray(word, dtype=xp.uint32) for word in counter]
    for word in key:
        word = np.uint32(word) if isinstance(word, int) else word
        words.append(xp.zeros(words[0].shape, dtype=xp.uint32) + xp.asarray(word, dtype=xp.uint32))
    results: tuple[Array, Array, Array, Array] = for_each_element(
        kernels.philox_elements, tuple(words), dtypes=(xp.uint32,) * 4
    )
    return results


def derive_key(seed: int, stream: str, draw: int = 0) -> Key:
    """As `malade_ref.ops.derive_key`."""
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
    """As `malade_ref.ops.keys_of_samples`."""
    xp = device().xp
    return xp.repeat(xp.asarray(np.array(keys, dtype=np.uint32).reshape(-1, 2)), num_samples, axis=0)


def random_words(num_words: int, *, key: Key | Array, sample_index: Array, step: int = 0) -> Array:
    """As `malade_ref.ops.random_words`."""
    return _fill(kernels.fill_words, "uint32", num_words, key, sample_index, step)


def uniform(
    shape: tuple[int, ...], *, key: Key | Array, sample_index: Array, step: int = 0, dtype: str = "float32"
) -> Array:
    """As `malade_ref.ops.uniform`."""
    check_choice("dtype", dtype, DTYPES)
    values = _fill(kernels.FILL_UNIFORM[dtype], dtype, math.prod(shape), key, sample_index, step)
    return values.reshape(len(values), *shape)


def normal(
    shape: tuple[int, ...], *, key: Key | Array, sample_index: Array, step: int = 0, dtype: str = "float32"
) -> Array:
    """As `malade_ref.ops.normal`."""
    check_choice("dtype", dtype, DTYPES)
    values = _fill(kernels.FILL_NORMAL[dtype], dtype, math.prod(shape), key, sample_index, step)
    return values.reshape(len(values), *shape)


def box_muller(words_0: Array, words_1: Array, *, dtype: str = "float32") -> tuple[Array, Array]:
    """As `malade_ref.ops.box_muller`."""
    pair: tuple[Array, Array] = for_each_element(
        kernels.NORMAL_ELEMENTS[dtype], (words_0, words_1), dtypes=(dtype, dtype)
    )
    return pair


def permutation(n: int, *, key: Key) -> Array:
    """As `malade_ref.ops.permutation`."""
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
