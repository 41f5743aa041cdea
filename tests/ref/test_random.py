"""Philox's published answers, the addressing of noise, and the distributions."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from malade_ref import ops
from malade_ref.checks import InputError
from malade_ref.ops import random
from tests.strategies import DTYPES, seeds
from tests.tolerances import assert_close, assert_no_alias, assert_not_mutated, assert_planted_caught

KEY = (0xA4093822, 0x299F31D0)


def philox_of_one_counter(counter: list[int], key: tuple[int, int]) -> list[int]:
    """Philox4x32-10 as in the paper's figures, in Python's integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 % 2**32,
            (product0 >> 32) ^ c3 ^ k1,
            product0 % 2**32,
        )
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def words(*values: int) -> list[Any]:
    return [np.array([value], dtype=np.uint32) for value in values]


# Words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter: Any, key: Any, answer: Any) -> None:
    assert tuple(int(word[0]) for word in ops.philox4x32(words(*counter), key)) == answer
    assert tuple(philox_of_one_counter(list(counter), key)) == answer


WORD = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(WORD, WORD, WORD, WORD), max_size=5), st.tuples(WORD, WORD))
def test_philox_of_many_counters(counters: list[tuple[int, ...]], key: tuple[int, int]) -> None:
    arrays = [np.array(column, dtype=np.uint32) for column in np.reshape(counters, (-1, 4)).T]
    with assert_not_mutated(*arrays):
        out = ops.philox4x32(arrays, key)
    for array in out:
        assert array.dtype == np.uint32
        assert_no_alias(array, *arrays)
    expected = [philox_of_one_counter(list(counter), key) for counter in counters]
    assert np.array_equal(np.array(out).T.reshape(-1, 4), np.reshape(expected, (-1, 4)))


@given(st.integers(0, 13), st.lists(WORD, max_size=4), WORD)
def test_words_stand_where_the_counter_says(num_words: int, samples: list[int], step: int) -> None:
    """Word 4 b + i of a sample is word i of counter (b, step, sample, 0)."""
    out = ops.random_words(num_words, key=KEY, sample_index=np.array(samples, dtype=np.int64), step=step)
    assert out.dtype == np.uint32
    assert out.shape == (len(samples), num_words)
    for row, sample in zip(out, samples, strict=True):
        blocks = [philox_of_one_counter([b, step, sample, 0], KEY) for b in range(-(-num_words // 4))]
        assert row.tolist() == [word for block in blocks for word in block][:num_words]


def draw_all(samples: Any, step: int = 3) -> list[Any]:
    noise: Any = {"key": KEY, "sample_index": samples, "step": step}
    return [
        ops.random_words(11, **noise),
        *(f((3, 5), dtype=dtype, **noise) for f in (ops.uniform, ops.normal) for dtype in DTYPES),
    ]


@given(st.permutations(range(12)), st.integers(0, 12), st.sampled_from([1, 7, 1 << 14]))
def test_noise_depends_on_neither_batch_nor_order_nor_shard(order: list[int], cut: int, chunk: int) -> None:
    samples = np.array([0, 1, 2, 3, 5, 8, 59999, 60000, 2**16, 2**31, 2**32 - 2, 2**32 - 1])
    together = draw_all(samples)
    with mock.patch.object(random, "CHUNK", chunk):
        shuffled, first, second = (draw_all(part) for part in (samples[order], samples[:cut], samples[cut:]))
    for whole, mixed, left, right in zip(together, shuffled, first, second, strict=True):
        assert mixed.tobytes() == whole[order].tobytes()
        assert np.concatenate([left, right]).tobytes() == whole.tobytes()
    for whole, unsigned in zip(together, draw_all(samples.astype(np.uint32)), strict=True):
        assert unsigned.tobytes() == whole.tobytes()


def test_everything_in_the_address_matters() -> None:
    samples = np.arange(4)
    streams = [
        ops.random_words(1000, key=key, sample_index=samples + shift, step=step).ravel()
        for key in (ops.derive_key(0, "defence"), ops.derive_key(1, "defence"), ops.derive_key(0, "attack"),
                    ops.derive_key(0, "defence", 1))
        for shift in (0, 4)
        for step in (0, 1)
    ]  # fmt: skip
    together = np.concatenate(streams)
    # Among 64,000 random words 0.48 pairs are equal by chance.
    assert len(np.unique(together)) >= len(together) - 5


@given(seeds(), st.text(max_size=12), WORD)
def test_keys(seed: int, stream: str, draw: int) -> None:
    key = ops.derive_key(seed, stream, draw)
    assert all(0 <= word < 2**32 for word in key)
    assert key == ops.derive_key(seed, stream, draw)
    assert key != ops.derive_key(seed ^ 1, stream, draw)
    assert key != ops.derive_key(seed, stream + "'", draw)
    assert key != ops.derive_key(seed, stream, draw ^ 1)


def test_keys_stay_what_they_are() -> None:
    """A recorded key: results of earlier versions can be had again."""
    assert ops.derive_key(0, "defence") == KEYS[0]
    assert ops.derive_key(2**64 - 1, "attack", 7) == KEYS[1]


KEYS = [(3806567815, 3412034225), (762272342, 2877115657)]


# Uniform and normal -----------------------------------------------------------------------------------------


EXTREMES = np.array([0, 1, 255, 256, 2**23, 2**24, 2**31, 2**32 - 256, 2**32 - 255, 2**32 - 2, 2**32 - 1])
WORDS = EXTREMES.astype(np.uint32)


def constant_words(num_words: int, *, key: Any, sample_index: Any, step: int = 0) -> Any:
    return np.tile(WORDS, (len(sample_index), 1))[:, :num_words]


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_is_never_0_or_1(dtype: str) -> None:
    with mock.patch.object(random, "random_words", constant_words):
        u = ops.uniform(WORDS.shape, key=KEY, sample_index=np.arange(1), dtype=dtype)[0]
    assert u.dtype == dtype
    assert u.min() > 0
    assert u.max() < 1
    assert (np.diff(u) >= 0).all()
    np.testing.assert_allclose(u, (EXTREMES + 0.5) / 2**32, rtol=0, atol=2.0**-24 if dtype == "float32" else 0)


def check_uniform(uniform: Any, dtype: str) -> None:
    samples = np.array([3, 1000])
    u = uniform((5, 7), key=KEY, sample_index=samples, step=2, dtype=dtype)
    raw = ops.random_words(35, key=KEY, sample_index=samples, step=2).astype("float64")
    expected = ((raw + 0.5) / 2**32).reshape(2, 5, 7)
    # Float32 keeps 24 bits.
    scale = 1 if dtype == "float64" else 1 + 2.0**-24 / 5e-7
    assert_close(u, expected, op="uniform", dtype=dtype, scale=scale)


def check_box_muller(box_muller: Any, words_0: Any, words_1: Any, dtype: str) -> None:
    with assert_not_mutated(words_0, words_1):
        pair = box_muller(words_0, words_1, dtype=dtype)
    expected = np.empty((2, len(words_0)))
    rounding = 2.0**-33 if dtype == "float64" else 2.0**-24
    slack = np.empty(len(words_0))
    for i, (w0, w1) in enumerate(zip(words_0.tolist(), words_1.tolist(), strict=True)):
        u0 = float(np.float32(w0)) if dtype == "float32" else float(w0)
        u0 = float(np.dtype(dtype).type(u0 * 2.0**-32 + 2.0**-33))
        angle = 2 * math.pi * (w1 + 0.5) / 2**32
        radius = math.sqrt(-2 * math.log(u0))
        expected[:, i] = radius * math.sin(angle), radius * math.cos(angle)
        # The angle, up to 2 pi, is rounded too: a few units of its last place, times the radius.
        slack[i] = radius * (1 + (0 if dtype == "float64" else 12 * rounding / 1e-6)) + 1e-300
    for z, wanted in zip(pair, expected, strict=True):
        assert_no_alias(z, words_0, words_1)
        assert_close(z, wanted, op="normal", dtype=dtype, scale=slack)


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_and_normal_against_their_formulas(dtype: str) -> None:
    rng = np.random.default_rng(0)
    raw = np.concatenate([rng.integers(0, 2**32, (2, 2000)), np.array([EXTREMES, EXTREMES[::-1]])], axis=1)
    first, second = raw.astype(np.uint32)
    assert_planted_caught(lambda f: check_box_muller(f, first, second, dtype), ops.box_muller)
    assert_planted_caught(lambda f: check_uniform(f, dtype), ops.uniform)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_pairs_neighbouring_words(dtype: str) -> None:
    samples = np.array([5, 77])
    for size in (1, 2, 3, 4, 9):
        z = ops.normal((size,), key=KEY, sample_index=samples, step=4, dtype=dtype)
        assert z.dtype == dtype
        raw = ops.random_words(size + 1, key=KEY, sample_index=samples, step=4)
        for j in range(size):
            pair = ops.box_muller(raw[:, j // 2 * 2], raw[:, j // 2 * 2 + 1], dtype=dtype)
            assert z[:, j].tobytes() == pair[j % 2].tobytes()


def test_the_largest_normal_number() -> None:
    zero, quarter = np.zeros(1, np.uint32), np.array([2**30], np.uint32)
    for dtype in DTYPES:
        top = ops.box_muller(zero, quarter, dtype=dtype)[0][0]
        assert top == pytest.approx(math.sqrt(66 * math.log(2)), rel=1e-6)


def test_precisions_tell_the_same_story() -> None:
    noise: Any = {"key": KEY, "sample_index": np.arange(20)}
    single, double = (ops.normal((1000,), dtype=dtype, **noise) for dtype in DTYPES)
    # Close to radius 0 the float32 logarithm's argument has few digits: rare, small in absolute terms.
    assert np.abs(single - double).max() < 1e-3
    assert np.quantile(np.abs(single - double), 0.99) < 2e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_distributions(seed: int, dtype: str) -> None:
    noise: Any = {"key": ops.derive_key(seed, "test"), "sample_index": np.arange(200), "dtype": dtype}
    u, z = ops.uniform((1000,), **noise).ravel(), ops.normal((1000,), **noise).ravel()
    n = u.size
    # Standard errors of the k-th moments: sqrt(var(x^k) / n), with E z^2k = (2k - 1)!!; five of them are allowed.
    for k, (mean, spread) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs(np.mean(z.astype("float64") ** k) - mean) < 5 * math.sqrt(spread / n)
        moment = 1 / (k + 1)
        assert abs(np.mean(u.astype("float64") ** k) - moment) < 5 * math.sqrt((1 / (2 * k + 1) - moment**2) / n)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert stats.kstest(z, "norm").pvalue > 1e-3
    # Neighbours in an image, in a data set and of a pair are uncorrelated.
    for values in (z, ops.normal((1000,), **noise).T.ravel()):
        assert abs(np.mean(values[:-1] * values[1:], dtype="float64")) < 5 / math.sqrt(n)
    assert abs(np.mean(z[0::2] ** 2 * z[1::2] ** 2, dtype="float64") - 1) < 5 * math.sqrt(8 / (n / 2))


def test_steps_are_uncorrelated() -> None:
    noise: Any = {"key": KEY, "sample_index": np.arange(100)}
    first, second = (ops.normal((500,), step=step, **noise).ravel() for step in (0, 1))
    assert abs(np.mean(first * second)) < 5 / math.sqrt(first.size)


def test_wrong_distributions_are_caught() -> None:
    """That the tests above can fail: a scale wrong by 2% and uniforms without their tails."""
    noise: Any = {"key": KEY, "sample_index": np.arange(200)}
    assert stats.kstest(1.02 * ops.normal((1000,), **noise).ravel(), "norm").pvalue < 1e-3
    assert stats.kstest(0.99 * ops.uniform((1000,), **noise).ravel(), "uniform").pvalue < 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_batches_and_samples(dtype: str) -> None:
    for f in (ops.uniform, ops.normal):
        assert f((2, 3), key=KEY, sample_index=np.arange(0), dtype=dtype).shape == (0, 2, 3)
        assert f((), key=KEY, sample_index=np.arange(4), dtype=dtype).shape == (4,)
        assert f((2, 0), key=KEY, sample_index=np.arange(4), dtype=dtype).shape == (4, 2, 0)
        assert f((2,), key=KEY, sample_index=np.arange(4), dtype=dtype).dtype == dtype


# Permutations -----------------------------------------------------------------------------------------------


@given(st.integers(0, 300), seeds())
def test_permutation(n: int, seed: int) -> None:
    order = ops.permutation(n, key=ops.derive_key(seed, "order"))
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


def test_permutations_are_uniform() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for draw in range(2400):
        order = tuple(ops.permutation(4, key=ops.derive_key(0, "order", draw)).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


# Complaints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.derive_key(-1, "x"), "seed: expected an integer >= 0"),
        (lambda: ops.derive_key(2**64, "x"), r"seed: expected an integer below 2\*\*64"),
        (lambda: ops.derive_key(1.5, "x"), "seed: expected"),  # type: ignore[arg-type]
        (lambda: ops.derive_key(0, "x", -1), "draw: expected"),
        (lambda: ops.derive_key(0, "x", 2**32), r"draw: expected an integer below 2\*\*32"),
        (lambda: ops.normal((2,), key=KEY, sample_index=np.zeros((2, 2), int)), "sample_index: expected 1 axes"),
        (lambda: ops.normal((2,), key=KEY, sample_index=np.zeros(2)), "sample_index: expected integers"),
        (lambda: ops.uniform((2,), key=KEY, sample_index=[1, 2]), "sample_index: expected 1 axes"),
        (lambda: ops.random_words(2, key=KEY, sample_index=np.arange(2), step=-1), "step: expected"),
        (lambda: ops.random_words(2, key=KEY, sample_index=np.arange(2), step=2**32), "step: expected"),
        (lambda: ops.uniform((2,), key=KEY, sample_index=np.arange(2), dtype="float16"), "dtype: expected one of"),
        (lambda: ops.normal((2,), key=KEY, sample_index=np.arange(2), dtype="int32"), "dtype: expected one of"),
    ],
)
def test_complaints(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
