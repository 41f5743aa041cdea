"""Philox4x32-10 and what is made of its words, four at a time.

Element i of these bodies is counter ``i % num_blocks`` of sample ``i // num_blocks``.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32, float64, uint32, uint64

from ..elements import element

ROUNDS = 10
LOW = uint64(0xFFFFFFFF)


@element
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Ten rounds on one counter; all words are uint32, and so are the four results."""
    for _ in range(ROUNDS):
        product_0 = uint64(0xD2511F53) * uint64(c0)
        product_1 = uint64(0xCD9E8D57) * uint64(c2)
        c0 = uint32(product_1 >> uint64(32)) ^ c1 ^ k0
        c2 = uint32(product_0 >> uint64(32)) ^ c3 ^ k1
        c1 = uint32(product_1 & LOW)
        c3 = uint32(product_0 & LOW)
        k0 = uint32(uint64(k0) + uint64(0x9E3779B9) & LOW)
        k1 = uint32(uint64(k1) + uint64(0xBB67AE85) & LOW)
    return c0, c1, c2, c3


@element
def words_of(i: Any, sample_index: Any, num_blocks: Any, step: Any, k0: Any, k1: Any) -> Any:
    """The four words of element i."""
    return philox(uint32(i % num_blocks), step, sample_index[i // num_blocks], uint32(0), k0, k1)


@element
def key_of(sample: Any, keys: Any, keyed: Any, k0: Any, k1: Any) -> Any:
    """The sample's own key where there are such, else the one of all."""
    if keyed:
        return keys[2 * sample], keys[2 * sample + 1]
    return k0, k1


@element
def put(out: Any, i: Any, num_blocks: Any, size: Any, v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
    """Write four values as numbers 4 block .. 4 block + 3 of a sample, as far as it has so many."""
    first = i % num_blocks * 4
    row = i // num_blocks * size
    if first < size:
        out[row + first] = v0
    if first + 1 < size:
        out[row + first + 1] = v1
    if first + 2 < size:
        out[row + first + 2] = v2
    if first + 3 < size:
        out[row + first + 3] = v3


@element
def fill_words(
    i: Any, out: Any, sample_index: Any, keys: Any, keyed: Any, num_blocks: Any, size: Any, step: Any, k0: Any, k1: Any
) -> None:
    """The words themselves."""
    own_0, own_1 = key_of(i // num_blocks, keys, keyed, k0, k1)
    w0, w1, w2, w3 = words_of(i, sample_index, num_blocks, step, own_0, own_1)
    put(out, i, num_blocks, size, w0, w1, w2, w3)


@element
def philox_elements(
    i: Any, o0: Any, o1: Any, o2: Any, o3: Any, c0: Any, c1: Any, c2: Any, c3: Any, keys_0: Any, keys_1: Any
) -> None:
    """Ten rounds on counters and keys given as arrays."""
    o0[i], o1[i], o2[i], o3[i] = philox(c0[i], c1[i], c2[i], c3[i], keys_0[i], keys_1[i])


UNIT_24, UNIT_32 = float32(2.0**-24), float64(2.0**-32)
HALF_32, HALF_64 = float32(0.5), float64(0.5)
BELOW_ONE = float32(1 - 2.0**-24)


@element
def uniform_float32(word: Any) -> Any:
    """The word's upper 24 bits, plus a half, in units of 2^-24; rounding must not reach 1."""
    return min((float32(word >> uint32(8)) + HALF_32) * UNIT_24, BELOW_ONE)


@element
def uniform_float64(word: Any) -> Any:
    """All bits of the word, plus a half, in units of 2^-32."""
    return (float64(word) + HALF_64) * UNIT_32


def fill_uniform(uniform_of: Any) -> Any:
    """Body that fills samples with uniform numbers in (0, 1)."""

    @element
    def fill(
        i: Any,
        out: Any,
        sample_index: Any,
        keys: Any,
        keyed: Any,
        num_blocks: Any,
        size: Any,
        step: Any,
        k0: Any,
        k1: Any,
    ) -> None:
        own_0, own_1 = key_of(i // num_blocks, keys, keyed, k0, k1)
        w0, w1, w2, w3 = words_of(i, sample_index, num_blocks, step, own_0, own_1)
        put(out, i, num_blocks, size, uniform_of(w0), uniform_of(w1), uniform_of(w2), uniform_of(w3))

    return fill


def normal_pair(real: Any) -> Any:
    """Box-Muller in a given precision: from a word for the radius and one for the angle."""
    unit, half, minus_two = real(2.0**-32), real(2.0**-33), real(-2.0)
    turn = real(2.0 * math.pi)

    @element
    def pair_of(radius_word: Any, angle_word: Any) -> Any:
        radius = math.sqrt(minus_two * math.log(real(radius_word) * unit + half))
        # Products with 2^-32 are exact: fused with the sum or not, the result is the same.
        angle = (real(angle_word) * unit + half) * turn
        return radius * math.sin(angle), radius * math.cos(angle)

    return pair_of


def fill_normal(pair_of: Any) -> Any:
    """Body that fills samples with standard normal numbers."""

    @element
    def fill(
        i: Any,
        out: Any,
        sample_index: Any,
        keys: Any,
        keyed: Any,
        num_blocks: Any,
        size: Any,
        step: Any,
        k0: Any,
        k1: Any,
    ) -> None:
        own_0, own_1 = key_of(i // num_blocks, keys, keyed, k0, k1)
        w0, w1, w2, w3 = words_of(i, sample_index, num_blocks, step, own_0, own_1)
        z0, z1 = pair_of(w0, w1)
        z2, z3 = pair_of(w2, w3)
        put(out, i, num_blocks, size, z0, z1, z2, z3)

    return fill


def normal_elements(pair_of: Any) -> Any:
    """Body for pairs of words given as arrays."""

    @element
    def pair(i: Any, z0: Any, z1: Any, words_0: Any, words_1: Any) -> None:
        z0[i], z1[i] = pair_of(words_0[i], words_1[i])

    return pair


NORMAL_PAIR = {"float32": normal_pair(float32), "float64": normal_pair(float64)}
FILL_UNIFORM = {"float32": fill_uniform(uniform_float32), "float64": fill_uniform(uniform_float64)}
FILL_NORMAL = {dtype: fill_normal(pair_of) for dtype, pair_of in NORMAL_PAIR.items()}
NORMAL_ELEMENTS = {dtype: normal_elements(pair_of) for dtype, pair_of in NORMAL_PAIR.items()}
