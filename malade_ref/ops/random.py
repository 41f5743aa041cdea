r"""Random numbers from counters: Philox4x32-10 and the Box-Muller transform.

A counter-based generator is a function of a counter and a key; nothing is stored between calls. The key
says *whose* numbers they are (seed, stream name, draw), the counter *which* ones:

    counter = (element block, step, sample index, 0),    four 32-bit words a counter,

so the noise of sample i at step t does not depend on the batch it came in, on the order of the batches, on
the backend, or on what was drawn before. A word w becomes a uniform number (w + 1/2) / 2^32 in (0, 1), a pair
of words two normal numbers:

    z_0 = sqrt(-2 log u_0) sin(2 pi u_1),    z_1 = sqrt(-2 log u_0) cos(2 pi u_1).

Axes: n samples, m words of a sample.

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
from numpy.typing import NDArray

from ..checks import InputError, check_choice, check_count, check_integer, check_ndim, check_shape

Key = tuple[int, int]
Words = NDArray[np.uint32]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, in units of 2^-32
MASK = 0xFFFFFFFF
ROUNDS = 10
DTYPES = ("float32", "float64")
# Counters handled at once: their four words and two products stay in a core's second-level cache.
CHUNK = 1 << 14


def philox4x32(counter: Sequence[Words], key: Key | tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Ten rounds of Philox4x32.

    Parameters
    ----------
    counter : sequence of four ndarrays of shape (m,), uint32
        The counters' words. Not modified.
    key : tuple of two int, or of two ndarrays of shape (m,), uint32
        The key's words, in [0, 2^32); or those of each counter.

    Returns
    -------
    tuple of four ndarrays of shape (m,), uint32
        The random words.
    """
    c0, c1, c2, c3 = (np.array(word, dtype=np.uint32) for word in counter)
    k0: Any
    k1: Any
    k0, k1 = key  # numbers, or arrays of uint32, whose sums wrap around by themselves
    low, high = _halves()
    product_0, product_1 = np.empty((2, *c0.shape), dtype=np.uint64)
    # The 64-bit products are read as pairs of 32-bit halves instead of being shifted and masked.
    halves_0 = product_0.view(np.uint32).reshape(*c0.shape, 2)
    halves_1 = product_1.view(np.uint32).reshape(*c0.shape, 2)
    for _ in range(ROUNDS):
        np.multiply(c0, np.uint64(MULTIPLIERS[0]), out=product_0, dtype=np.uint64)
        np.multiply(c2, np.uint64(MULTIPLIERS[1]), out=product_1, dtype=np.uint64)
        np.bitwise_xor(halves_1[..., high], c1, out=c0)
        np.bitwise_xor(halves_0[..., high], c3, out=c2)
        c0 ^= np.uint32(k0)
        c2 ^= np.uint32(k1)
        c1[...] = halves_1[..., low]
        c3[...] = halves_0[..., low]
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


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

    Examples
    --------
    >>> derive_key(0, "defence") == derive_key(0, "attack")
    False
    """
    if check_count("seed", seed, minimum=0) >= 1 << 64:
        raise InputError(f"seed: expected an integer below 2**64, got {seed}")
    if check_count("draw", draw, minimum=0) >= 1 << 32:
        raise InputError(f"draw: expected an integer below 2**32, got {draw}")
    digest = hashlib.sha256(stream.encode()).digest()
    words = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little"), draw, 0
    counter = [np.array([word], dtype=np.uint32) for word in words]
    out = philox4x32(counter, (seed & MASK, seed >> 32))
    return int(out[0][0]), int(out[1][0])


def keys_of_samples(keys: Sequence[Key], num_samples: int) -> Words:
    """Keys for the draws of a batch that are computed at once: each for all samples, one draw after the other.

    Parameters
    ----------
    keys : sequence of d keys
        From `derive_key`, one a draw.
    num_samples : int
        Size n of the batch.

    Returns
    -------
    ndarray of shape (d * n, 2), uint32
        For `normal` and its kin, with the batch's sample numbers d times in a row.
    """
    return np.repeat(np.array(keys, dtype=np.uint32).reshape(-1, 2), num_samples, axis=0)


def random_words(num_words: int, *, key: Key | Words, sample_index: Any, step: int = 0) -> Words:
    """Random 32-bit words of given samples.

    Parameters
    ----------
    num_words : int
        Words a sample.
    key : tuple of two int, or ndarray of shape (n, 2), uint32
        From `derive_key`; or one for each sample, from `keys_of_samples`.
    sample_index : ndarray of shape (n,), integer
        Which samples, in [0, 2^32): their numbers in the whole data set, not in the batch.
    step : int
        Which step of a chain or of an attack, in [0, 2^32).

    Returns
    -------
    ndarray of shape (n, num_words), uint32
        Words; row i depends on ``sample_index[i]``, not on i.
    """
    check_ndim("sample_index", sample_index, 1, "(n,)")
    check_integer("sample_index", sample_index)
    if check_count("step", step, minimum=0) >= 1 << 32:
        raise InputError(f"step: expected an integer below 2**32, got {step}")
    num_blocks = -(-num_words // 4)
    num_samples = len(sample_index)
    if not isinstance(key, tuple):
        check_shape("key", key, (num_samples, 2))
    out = np.empty((num_samples, num_blocks, 4), dtype=np.uint32)
    samples_at_once = max(1, CHUNK // max(1, num_blocks))
    block = np.arange(num_blocks, dtype=np.uint32)
    for start in range(0, num_samples, samples_at_once):
        part = slice(start, start + samples_at_once)
        index = np.asarray(sample_index[part]).astype(np.uint32)
        c0 = np.tile(block, len(index))
        c1 = np.full(c0.shape, step, dtype=np.uint32)
        c2 = np.repeat(index, num_blocks)
        words = philox4x32((c0, c1, c2, np.zeros_like(c0)), _of_counters(key, part, num_blocks))
        for i, word in enumerate(words):
            out[part, :, i] = word.reshape(len(index), num_blocks)
    return out.reshape(num_samples, num_blocks * 4)[:, :num_words]


def uniform(
    shape: tuple[int, ...], *, key: Key | Words, sample_index: Any, step: int = 0, dtype: str = "float32"
) -> NDArray[Any]:
    """Independent uniform numbers in the open interval (0, 1), of shape (n, *shape).

    Parameters
    ----------
    shape : tuple of int
        Shape of one sample.
    key, sample_index, step
        As in `random_words`.
    dtype : {"float32", "float64"}
        Of the result. Float32 keeps the word's upper 24 bits, so that 1 is never reached by rounding.
    """
    check_choice("dtype", dtype, DTYPES)
    words = random_words(math.prod(shape), key=key, sample_index=sample_index, step=step)
    real = np.dtype(dtype).type
    if dtype == "float32":
        values = (words >> np.uint32(8)).astype(np.float32)
        values += real(0.5)
        values *= real(2.0**-24)
        np.minimum(values, real(1 - 2.0**-24), out=values)
    else:
        values = words.astype(np.float64)
        values += 0.5
        values *= 2.0**-32
    return values.reshape(len(words), *shape)


def normal(
    shape: tuple[int, ...], *, key: Key | Words, sample_index: Any, step: int = 0, dtype: str = "float32"
) -> NDArray[Any]:
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
    ndarray of shape (n, *shape)
        The numbers.

    Examples
    --------
    >>> import numpy as np
    >>> key = derive_key(seed=0, stream="defence")
    >>> together = normal((28, 28), key=key, sample_index=np.arange(10))
    >>> alone = normal((28, 28), key=key, sample_index=np.array([7]))
    >>> bool((together[7] == alone[0]).all())
    True
    """
    check_choice("dtype", dtype, DTYPES)
    size = math.prod(shape)
    num_samples = len(sample_index)
    num_words = -(-size // 4) * 4
    out = np.empty((num_samples, num_words), dtype=dtype)
    samples_at_once = max(1, 4 * CHUNK // max(1, num_words))
    for start in range(0, num_samples, samples_at_once):
        part = slice(start, start + samples_at_once)
        own = key if isinstance(key, tuple) else key[part]
        words = random_words(num_words, key=own, sample_index=sample_index[part], step=step)
        out[part, 0::2], out[part, 1::2] = box_muller(words[:, 0::2], words[:, 1::2], dtype=dtype)
    return out[:, :size].reshape(num_samples, *shape)


def box_muller(words_0: Words, words_1: Words, *, dtype: str = "float32") -> tuple[NDArray[Any], NDArray[Any]]:
    """Two normal numbers from each pair of words.

    Parameters
    ----------
    words_0, words_1 : ndarray of one shape, uint32
        Words for the radius and for the angle.
    dtype : {"float32", "float64"}
        Of the result and of the arithmetic.

    Returns
    -------
    tuple of two ndarrays of that shape
        radius * sin(angle), radius * cos(angle).
    """
    real = np.dtype(dtype).type
    radius = words_0.astype(dtype)
    radius *= real(2.0**-32)
    radius += real(2.0**-33)
    np.log(radius, out=radius)
    radius *= real(-2.0)
    np.sqrt(radius, out=radius)
    angle = words_1.astype(dtype)
    # The factor 2^-32 is exact, and the one that is not comes last: whether a compiler fuses a product and a sum into
    # one rounding makes no difference.
    angle *= real(2.0**-32)
    angle += real(2.0**-33)
    angle *= real(2.0 * math.pi)
    return radius * np.sin(angle), radius * np.cos(angle)


def permutation(n: int, *, key: Key) -> NDArray[np.int64]:
    """A random order of 0..n-1: the order of n random 64-bit numbers, ties in favour of the smaller index.

    Parameters
    ----------
    n : int
        How many.
    key : tuple of two int
        From `derive_key`.

    Returns
    -------
    ndarray of shape (n,), int64
        Each of 0..n-1 once.
    """
    words = random_words(2, key=key, sample_index=np.arange(n))
    number = words[:, 0].astype(np.uint64) << np.uint64(32) | words[:, 1].astype(np.uint64)
    return np.argsort(number, kind="stable")


def _of_counters(key: Key | Words, part: slice, num_blocks: int) -> Key | tuple[Words, Words]:
    """The key of some samples, or those of each of their blocks."""
    if isinstance(key, tuple):
        return key
    first, second = np.repeat(key[part], num_blocks, axis=0).T
    return first, second


def _halves() -> tuple[int, int]:
    """Positions of the low and the high half of a 64-bit number read as two 32-bit ones."""
    return (0, 1) if np.array([1], dtype=np.uint64).view(np.uint32)[0] == 1 else (1, 0)
