"""Random numbers: integers bit by bit, real numbers up to the functions' last digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DTYPES, dtypes, seeds
from tests.tolerances import assert_close, assert_planted_caught

from .backends import agree, complain_alike, gpu, on_device, ref

KEY = (0xA4093822, 0x299F31D0)
WORDS = st.integers(0, 2**32 - 1)


def indices() -> st.SearchStrategy[Any]:
    numbers = st.lists(WORDS, max_size=5)
    return st.builds(lambda x, dtype: np.array(x, dtype=dtype), numbers, st.sampled_from(["int64", "uint32"]))


SHAPES = st.lists(st.integers(1, 6), max_size=3).map(tuple)
COUNTERS = {
    "key": st.tuples(WORDS, WORDS),
    "sample_index": indices(),
    "step": st.sampled_from([0, 1, 2**32 - 1]) | WORDS,
}


@given(st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), max_size=6), st.tuples(WORDS, WORDS))
def test_philox(counters: Any, key: Any) -> None:
    words = [np.array(word, dtype="uint32") for word in np.array(counters, dtype="uint64").reshape(-1, 4).T]
    actual = on_device(lambda *words: gpu.philox4x32(words, key))(*words)
    for got, wanted in zip(actual, ref.philox4x32(words, key), strict=True):
        np.testing.assert_array_equal(got, wanted, strict=True)


@given(st.lists(st.tuples(*[WORDS] * 6), min_size=1, max_size=6))
def test_philox_with_a_key_for_each_counter(rows: Any) -> None:
    *counter, k0, k1 = (np.array(word, dtype="uint32") for word in np.array(rows, dtype="uint64").T)
    actual = on_device(lambda *words: gpu.philox4x32(words[:4], words[4:]))(*counter, k0, k1)
    for got, wanted in zip(actual, ref.philox4x32(counter, (k0, k1)), strict=True):
        np.testing.assert_array_equal(got, wanted, strict=True)


@given(seeds(), st.text(max_size=8), WORDS)
def test_derive_key(seed: int, stream: str, draw: int) -> None:
    agree("derive_key", seed, stream, draw)


@given(st.integers(0, 23), st.fixed_dictionaries(COUNTERS))
def test_random_words(num_words: int, counters: Any) -> None:
    agree("random_words", num_words, **counters, exact=True)


@given(SHAPES, dtypes(), st.fixed_dictionaries(COUNTERS))
def test_uniform(shape: Any, dtype: str, counters: Any) -> None:
    agree("uniform", shape, dtype=dtype, **counters, exact=True)


@given(SHAPES, dtypes(), st.fixed_dictionaries(COUNTERS))
def test_normal(shape: Any, dtype: str, counters: Any) -> None:
    agree("normal", shape, dtype=dtype, **counters, scale=1.0)


@given(st.lists(st.tuples(WORDS, WORDS), max_size=6), dtypes())
def test_box_muller(pairs: Any, dtype: str) -> None:
    words = np.array(pairs, dtype="uint32").reshape(-1, 2)
    actual = on_device(gpu.box_muller)(words[:, 0], words[:, 1], dtype=dtype)
    for got, wanted in zip(actual, ref.box_muller(words[:, 0], words[:, 1], dtype=dtype), strict=True):
        assert_close(got, wanted, op="normal", dtype=dtype, scale=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_normal_numbers(dtype: str) -> None:
    words = np.array([0, 1, 0x3FFFFFFF, 0x40000000, 0x7FFFFFFF, 0x80000000, 0xC0000000, 0xFFFFFFFF], dtype="uint32")
    radius, angle = (grid.ravel() for grid in np.meshgrid(words, words))
    actual = on_device(gpu.box_muller)(radius, angle, dtype=dtype)
    for got, wanted in zip(actual, ref.box_muller(radius, angle, dtype=dtype), strict=True):
        assert_close(got, wanted, op="normal", dtype=dtype)


@given(st.integers(0, 300), st.tuples(WORDS, WORDS))
def test_permutation(n: int, key: Any) -> None:
    agree("permutation", n, key=key, exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_numbers(dtype: str) -> None:
    agree("normal", (1, 28, 28), key=KEY, sample_index=np.arange(40), step=3, dtype=dtype)
    agree("uniform", (1, 28, 28), key=KEY, sample_index=np.arange(40), step=3, dtype=dtype, exact=True)


@given(st.integers(0, 3), st.lists(st.tuples(WORDS, WORDS), max_size=3), dtypes(), WORDS)
def test_keys_of_samples(n: int, keys: Any, dtype: str, step: int) -> None:
    """Several draws at once are the draws one by one, on both backends."""
    index = np.arange(5, 5 + n)
    own = agree("keys_of_samples", keys, n, exact=True)
    counters: dict[str, Any] = {"sample_index": np.tile(index, len(keys)), "step": step}
    together = agree("normal", (2, 3), key=own, dtype=dtype, **counters, scale=1.0)
    words = agree("random_words", 5, key=own, **counters, exact=True)
    numbers = agree("uniform", (3,), key=own, dtype=dtype, **counters, exact=True)
    for i, key in enumerate(keys):
        part, one = slice(i * n, (i + 1) * n), {"key": key, "sample_index": index, "step": step}
        np.testing.assert_array_equal(together[part], on_device(gpu.normal)((2, 3), dtype=dtype, **one))
        np.testing.assert_array_equal(words[part], ref.random_words(5, **one))
        np.testing.assert_array_equal(numbers[part], ref.uniform((3,), dtype=dtype, **one))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    counters = {"key": KEY, "sample_index": np.arange(3), "dtype": dtype}
    assert_planted_caught(lambda f: agree("normal", (3, 3), **counters, op=f), gpu.normal)
    assert_planted_caught(lambda f: agree("uniform", (3, 3), **counters, op=f), gpu.uniform)


def test_complaints() -> None:
    index = np.arange(3)
    complain_alike("derive_key", -1, "x")
    complain_alike("derive_key", 1 << 64, "x")
    complain_alike("derive_key", 0, "x", 1 << 32)
    complain_alike("random_words", 3, key=KEY, sample_index=index.astype("float64"))
    complain_alike("random_words", 3, key=KEY, sample_index=index[None])
    complain_alike("random_words", 3, key=KEY, sample_index=index, step=-1)
    complain_alike("random_words", 3, key=KEY, sample_index=index, step=1 << 32)
    complain_alike("normal", (3,), key=np.zeros((2, 2), "uint32"), sample_index=index)
    for name in ("uniform", "normal"):
        complain_alike(name, (3,), key=KEY, sample_index=index, dtype="float16")
