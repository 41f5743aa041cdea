"""Intervals against SciPy's and against what they promise; estimators against enumeration and their expectation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from malade_ref.checks import InputError
from malade_ref.statistics import (
    clopper_pearson,
    common_rows,
    majority,
    mcnemar,
    mean_interval,
    paired_difference,
    smallest_p,
    survival,
    wilson,
    worst_case,
)


@given(total=st.integers(1, 400), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95, 0.997]))
def test_intervals_of_a_proportion(total: int, share: float, confidence: float) -> None:
    count = round(share * total)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        expected = stats.binomtest(count, total).proportion_ci(confidence, method=method)
        found = ours(count, total, confidence=confidence)
        assert found.value == count / total
        np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], rtol=1e-9, atol=1e-12)
        assert 0 <= found.low <= found.value <= found.high <= 1


@given(total=st.integers(1, 300), share=st.floats(0, 1))
def test_mean_of_binary_values_is_a_proportion(total: int, share: float) -> None:
    count = round(share * total)
    values = np.arange(total) < count
    np.testing.assert_allclose(mean_interval(values), wilson(count, total), rtol=1e-9, atol=1e-12)


def test_mean_interval_between_samples_and_draws() -> None:
    # No spread between samples: all draws count.
    np.testing.assert_allclose(mean_interval(np.full(50, 0.5), num_draws=20), wilson(500, 1000))
    # Nothing was ever right: that says something about 50 samples, not about 1000.
    assert mean_interval(np.zeros(50), num_draws=20) == wilson(0, 50)
    assert mean_interval(np.ones(50), num_draws=20) == wilson(50, 50)
    # Spread like that of yes and no: only samples count.
    np.testing.assert_allclose(mean_interval(np.repeat([0.0, 1.0], 25), num_draws=20), wilson(25, 50))


@pytest.mark.parametrize("shape", [(0.3, 0.3), (2.0, 2.0), (0.05, 0.5), (0.1, 5.0)])
def test_mean_interval_covers(shape: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    truth, covered, trials = shape[0] / sum(shape), 0, 1000
    for _ in range(trials):
        p = rng.beta(*shape, 100)
        found = mean_interval(rng.binomial(20, p) / 20, num_draws=20)
        covered += found.low <= truth <= found.high
    assert covered / trials > 0.92  # a little less than 0.95 where p_i is very skewed


def test_subsets_by_enumeration() -> None:
    num_draws = 7
    for count in range(num_draws + 1):
        draws = [1] * count + [0] * (num_draws - count)
        for size in range(1, num_draws + 1):
            subsets = np.array(list(combinations(draws, size)))
            counts = np.array([count])
            np.testing.assert_allclose(survival(counts, num_draws, size), subsets.all(axis=1).mean(), atol=1e-12)
            won = (2 * subsets.sum(axis=1) > size).mean()
            np.testing.assert_allclose(majority(counts, num_draws, size), won, atol=1e-12)


@given(p=st.integers(0, 1000).map(lambda k: k / 1000), num_draws=st.integers(1, 130), data=st.data())
def test_subsets_are_unbiased(p: float, num_draws: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, num_draws))
    counts = np.arange(num_draws + 1)
    weight = stats.binom.pmf(counts, num_draws, p)
    np.testing.assert_allclose(weight @ survival(counts, num_draws, size), p**size, atol=1e-9)
    won = stats.binom.sf(size // 2, size, p)
    np.testing.assert_allclose(weight @ majority(counts, num_draws, size), won, atol=1e-9)


def test_worst_case_is_not_biased_by_choosing() -> None:
    rng = np.random.default_rng(0)
    alike = [rng.random((2000, 40)) < 0.5 for _ in range(8)]
    assert abs(worst_case(alike).mean() - 0.5) < 0.01
    assert smallest_p(alike).mean() < 0.42  # what choosing and judging by the same draws would have said


def test_worst_case_finds_the_worst_attack_of_each_sample() -> None:
    rng = np.random.default_rng(0)
    p = np.where(np.arange(1000) % 2 == 0, 0.1, 0.9)
    attacks = [rng.random((1000, 40)) < chance[:, None] for chance in (p, 1 - p, np.full(1000, 0.95))]
    assert abs(worst_case(attacks).mean() - 0.1) < 0.01


def test_worst_case_is_never_milder_than_the_strongest_attack() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        attacks = [rng.random((30, 6)) < 0.5 for _ in range(3)]
        assert worst_case(attacks).mean() <= min(attack.mean() for attack in attacks)


def test_worst_case_of_single_draws_is_all_right() -> None:
    first, second = np.array([[True], [True], [False]]), np.array([[True], [False], [False]])
    np.testing.assert_array_equal(worst_case([first, second])[:, 0], [True, False, False])
    # A cell of fewer draws sets their number.
    assert worst_case([first, np.repeat(second, 5, axis=1)]).shape == (3, 1)


def test_common_rows() -> None:
    first, second, third = np.array([5, 1, 9, 3]), np.array([9, 3, 4, 5]), np.array([3, 9])
    rows = common_rows([first, second, third])
    for index, row in zip((first, second, third), rows, strict=True):
        np.testing.assert_array_equal(index[row], [3, 9])
    assert all(len(row) == 0 for row in common_rows([np.array([1]), np.array([2])]))


def test_mcnemar() -> None:
    first = np.array([True] * 10 + [False] * 10)
    second = np.array([True] * 2 + [False] * 8 + [False] * 9 + [True])
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (8, 1)
    np.testing.assert_allclose(found.p_value, 2 * (1 + 9) / 2**9)
    assert mcnemar(first, first).p_value == 1


def test_paired_difference() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(5000), rng.random(5000)
    found = paired_difference(first, second)
    expected = stats.norm.interval(0.95, (first - second).mean(), stats.sem(first - second))
    np.testing.assert_allclose(found[1:], expected, atol=2e-4)
    # Of yes and no it is the interval of Agresti and Min: half a sample more in each cell of the table.
    first, second = np.repeat([1, 1, 0, 0], [5, 7, 2, 6]), np.repeat([1, 0, 1, 0], [5, 7, 2, 6])
    b, c, n = 7.5, 2.5, 22
    half = 1.959964 * ((b + c) - (b - c) ** 2 / n) ** 0.5 / n
    np.testing.assert_allclose(paired_difference(first, second), [0.25, (b - c) / n - half, (b - c) / n + half])


@pytest.mark.parametrize(("n", "both"), [(10, 0.5), (30, 0.9), (200, 0.99)])
def test_paired_difference_covers(n: int, both: float) -> None:
    rng = np.random.default_rng(0)
    trials = 2000
    alike = rng.random((trials, n)) < both
    first = rng.random((trials, n)) < 0.7
    second = np.where(alike, first, ~first)
    truth = (1 - both) * (0.7 - 0.3)
    intervals = [paired_difference(one, other) for one, other in zip(first, second, strict=True)]
    assert np.mean([found.low <= truth <= found.high for found in intervals]) > 0.93


def test_paired_difference_of_few_that_agree_is_not_certain() -> None:
    same = np.ones(10)
    found = paired_difference(same, same)
    assert found.value == 0
    assert found.low < -0.1 < 0.1 < found.high


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
        lambda: wilson(1, 2, confidence=1.0),
        lambda: clopper_pearson(-1, 2),
        lambda: mean_interval(np.zeros(0)),
        lambda: paired_difference(np.zeros(0), np.zeros(0)),
        lambda: survival(np.array([1]), 5, 6),
        lambda: majority(np.array([1]), 5, 0),
    ],
)
def test_bad_input(call: object) -> None:
    with pytest.raises(InputError):
        call()  # type: ignore[operator]
