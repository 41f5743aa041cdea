"""Statistics of samples, chains and fits against closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from malade_ref.checks import InputError
from malade_ref.diagnostics import (
    effective_sample_size,
    loglog_slope,
    median_distance,
    mmd2,
    mmd_test,
    sliced_wasserstein2,
    split_rhat,
    t_interval,
    wasserstein2,
    wasserstein2_histograms,
)


def autoregression(rho: float, chains: int, length: int, seed: int) -> NDArray[Any]:
    """Stationary AR(1) with unit variance: its integrated autocorrelation time is (1 + rho) / (1 - rho)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=chains)
    draws = []
    for z in rng.normal(size=(length, chains)):
        x = rho * x + (1 - rho**2) ** 0.5 * z
        draws.append(x)
    return np.array(draws).T


# Power laws ----------------------------------------------------------------------------------------------------------


@given(st.floats(-3, 3), st.floats(-5, 5))
def test_slope_of_an_exact_power_law(exponent: float, intercept: float) -> None:
    x = np.geomspace(0.01, 10, 7)
    slope = loglog_slope(x, np.exp(intercept) * x**exponent)
    assert slope.exponent.value == pytest.approx(exponent, abs=1e-12)
    assert slope.exponent.high - slope.exponent.low < 1e-6
    assert slope.intercept == pytest.approx(intercept, abs=1e-12)
    assert slope.residual < 1e-12


@pytest.mark.parametrize("repetitions", [1, 6])
def test_the_interval_of_a_slope_covers(repetitions: int) -> None:
    rng, x, covered = np.random.default_rng(1), np.geomspace(0.01, 1, 5), 0
    for _ in range(400):
        y = x**2 * np.exp(0.1 * rng.normal(size=(repetitions, 5)))
        interval = loglog_slope(x, y).exponent
        covered += interval.low <= 2 <= interval.high
    assert stats.binomtest(covered, 400, 0.95).pvalue > 0.001


def test_the_interval_of_a_slope_is_that_of_scipy() -> None:
    rng, x = np.random.default_rng(2), np.geomspace(0.01, 1, 8)
    y = x**0.5 * np.exp(0.2 * rng.normal(size=8))
    fit, slope = stats.linregress(np.log(x), np.log(y)), loglog_slope(x, y)
    half = float(stats.t.ppf(0.975, 6) * fit.stderr)
    expected = (fit.slope, fit.slope - half, fit.slope + half)
    np.testing.assert_allclose(slope.exponent, expected, rtol=1e-12)
    assert slope.intercept == pytest.approx(fit.intercept, rel=1e-12)


def test_t_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).normal(size=9)
    test = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    np.testing.assert_allclose(t_interval(values, confidence=0.9)[1:], tuple(test), rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1.0, 2.0], [1.0, 2.0], "three without repetitions"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "at least two x"),
        ([1.0, 2.0, 3.0], [1.0, 0.0, 3.0], "no zeros"),
        ([1.0, 2.0, 3.0], [1.0, np.nan, 3.0], "finite"),
    ],
)
def test_slopes_need_points(x: list[float], y: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        loglog_slope(np.array(x), np.array(y))


def test_an_interval_needs_two_numbers() -> None:
    with pytest.raises(InputError, match="two"):
        t_interval(np.ones(1))


# MMD -----------------------------------------------------------------------------------------------------------------


def test_mmd2_is_the_sum_in_its_definition() -> None:
    rng = np.random.default_rng(4)
    x, y, h = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1, 1.3

    def k(a: NDArray[Any], b: NDArray[Any]) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * h * h)))

    expected = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
    expected += sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    expected -= 2 * sum(k(a, b) for a in x for b in y) / 35
    assert mmd2(x, y, bandwidth=h) == pytest.approx(expected, rel=1e-12)


def test_mmd2_of_gaussians_has_its_closed_form_as_mean() -> None:
    # E k(X, Y) for X - Y ~ N(m, s^2) and bandwidth h: sqrt(h^2 / (h^2 + s^2)) exp(-m^2 / (2 (h^2 + s^2))).
    rng, h, shift = np.random.default_rng(5), 0.8, 0.5
    peak = (h * h / (h * h + 2)) ** 0.5
    expected = 2 * peak - 2 * peak * np.exp(-(shift**2) / (2 * (h * h + 2)))
    values = [mmd2(rng.normal(size=(60, 1)), rng.normal(size=(80, 1)) + shift, bandwidth=h) for _ in range(300)]
    error = np.std(values) / 300**0.5
    assert abs(np.mean(values) - expected) < 3.5 * error


def test_p_values_are_uniform_if_nothing_differs_and_small_if_something_does() -> None:
    rng = np.random.default_rng(6)
    p = [
        mmd_test(rng.normal(size=(30, 2)), rng.normal(size=(40, 2)), rng=rng, num_permutations=99).p_value
        for _ in range(200)
    ]
    # Of 99 permutations p is one of 1/100, ..., 100/100; a uniform shift within makes it continuous.
    assert stats.kstest(np.array(p) - rng.uniform(0, 0.01, size=200), "uniform").pvalue > 0.001
    wide = 1.6 * rng.normal(size=(200, 2))
    assert mmd_test(rng.normal(size=(200, 2)), wide, rng=rng, num_permutations=199).p_value == 1 / 200


def test_the_test_does_not_depend_on_the_size_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(7).normal(size=(50, 2))
    y = np.random.default_rng(8).normal(size=(31, 2))
    whole = mmd_test(x, y, rng=np.random.default_rng(9))
    monkeypatch.setattr("malade_ref.diagnostics.CHUNK", 100)
    pieces = mmd_test(x, y, rng=np.random.default_rng(9))
    assert pieces.mmd2 == pytest.approx(whole.mmd2, rel=1e-10)
    assert (pieces.p_value, pieces.bandwidth) == (whole.p_value, whole.bandwidth)


def test_median_distance() -> None:
    assert median_distance(np.array([[0.0], [1.0], [3.0]])) == 2
    with pytest.raises(InputError, match="different"):
        median_distance(np.zeros((5, 2)))


def test_samples_must_fit() -> None:
    with pytest.raises(InputError, match="2 coordinates"):
        mmd2(np.zeros((3, 2)), np.zeros((3, 1)), bandwidth=1.0)
    with pytest.raises(InputError, match="finite"):
        mmd2(np.full((3, 2), np.inf), np.zeros((3, 2)), bandwidth=1.0)


# W2 ------------------------------------------------------------------------------------------------------------------


def test_w2_of_two_samples_is_the_best_assignment() -> None:
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(10)
    x, y = rng.normal(size=4), rng.normal(size=6) + 1
    # Both as 12 equal atoms.
    cost = (np.repeat(x, 3)[:, None] - np.repeat(y, 2)) ** 2
    rows, columns = linear_sum_assignment(cost)
    assert wasserstein2(x, y) == pytest.approx(cost[rows, columns].mean() ** 0.5, rel=1e-12)
    assert wasserstein2(x, x + 2) == pytest.approx(2)


def test_w2_of_histograms_of_gaussians() -> None:
    edges = np.linspace(-12, 12, 4001)

    def cells(mean: float, sd: float) -> NDArray[Any]:
        return np.asarray(np.diff(stats.norm.cdf(edges, mean, sd)))

    for mean, sd in ((0.0, 1.001), (0.5, 1.0), (1.0, 2.0)):
        expected = np.hypot(mean, sd - 1)
        assert wasserstein2_histograms(edges, cells(0, 1), cells(mean, sd)) == pytest.approx(expected, rel=2e-3)


def test_w2_of_histograms_with_empty_cells() -> None:
    edges = np.arange(5.0)
    p, q = np.array([1.0, 0, 0, 1]), np.array([0.0, 1, 1, 0])
    assert wasserstein2_histograms(edges, p, q) == pytest.approx(1.0)
    assert wasserstein2_histograms(edges, p, p) == 0


def test_sliced_w2_of_a_shift() -> None:
    rng = np.random.default_rng(11)
    x = rng.normal(size=(50, 3))
    shift = np.array([1.0, -2.0, 2.0])
    # The projection of a shift on a random direction has mean square |shift|^2 / d.
    value = sliced_wasserstein2(x, x + shift, rng=rng, num_directions=4000)
    assert value == pytest.approx(3**0.5, rel=0.05)


# Chains --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.5])
def test_effective_size_of_an_autoregression(rho: float) -> None:
    draws = autoregression(rho, chains=8, length=4000, seed=12)
    assert effective_sample_size(draws) == pytest.approx(draws.size * (1 - rho) / (1 + rho), rel=0.12)


def test_effective_size_of_chains_that_disagree() -> None:
    draws = autoregression(0.0, chains=4, length=500, seed=13) + 3 * np.arange(4)[:, None]
    assert effective_sample_size(draws) < 10
    assert split_rhat(draws) > 1.5


def test_rhat_of_good_chains_and_of_those_that_differ_in_width_only() -> None:
    draws = autoregression(0.3, chains=4, length=2000, seed=14)
    assert 0.999 < split_rhat(draws) < 1.01
    draws[0] *= 5
    assert split_rhat(draws) > 1.1


def test_rhat_of_a_chain_that_drifts() -> None:
    draws = autoregression(0.0, chains=1, length=1000, seed=15)
    assert split_rhat(draws) < 1.01
    assert split_rhat(draws + np.linspace(0, 3, 1000)) > 1.2


def test_rhat_does_not_mind_heavy_tails() -> None:
    draws = np.random.default_rng(16).standard_cauchy(size=(4, 1000))
    assert split_rhat(draws) < 1.01
    assert split_rhat(draws) == pytest.approx(split_rhat(np.cbrt(draws)), abs=5e-3)


@pytest.mark.parametrize("function", [effective_sample_size, split_rhat])
def test_chains_must_have_draws(function: Any) -> None:
    with pytest.raises(InputError, match="four draws"):
        function(np.zeros((2, 3)))
    with pytest.raises(InputError, match="differ"):
        function(np.zeros((2, 8)))
