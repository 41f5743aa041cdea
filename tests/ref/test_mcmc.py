"""ULA and MALA: the recursion, the Metropolis test, detailed balance, and what the chains converge to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from malade_ref import GaussianMixture, mcmc, ops
from malade_ref.checks import InputError
from malade_ref.density import DenoiserScore
from malade_ref.mcmc import Langevin, init, keys_of, mala, step, ula, walk
from malade_ref.network import sdae
from malade_ref.sampling import Stream
from tests.mixtures import Parameters, Textbook, mixtures, points_around, random_parameters
from tests.strategies import DTYPES, seeds
from tests.tolerances import assert_close, assert_not_mutated, assert_planted_caught

STREAM = Stream(11, "walk")


class Plain:
    """A mixture that is not known for one: chains on it take the general way."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.ops, self.score, self.log_density = mixture.ops, mixture.score, mixture.log_density


def log_acceptance(x: Any, y: Any, parameters: Parameters, settings: Langevin, ratio: Any = None) -> Any:
    """log min(1, ratio) as the op has it."""
    mixture = parameters.mixture()
    arrays = x, y, mixture.score(x), mixture.score(y), mixture.log_density(x), mixture.log_density(y)
    return np.minimum((ratio or ops.langevin_log_ratio)(*arrays, alpha=settings.alpha, delta=settings.delta), 0)


def log_flow(x: Any, y: Any, parameters: Parameters, settings: Langevin, ratio: Any = None) -> Any:
    """log p(x) + log q(y | x) + log acceptance(x -> y), with p and q from SciPy."""
    exact = Textbook(parameters)
    proposal = stats.norm.logpdf(y, x + settings.alpha * exact.score(x), settings.delta).sum(axis=1)
    return exact.log_density(x) + proposal + log_acceptance(x, y, parameters, settings, ratio)


SETTINGS = st.builds(Langevin, st.sampled_from([0.01, 0.3, 2.0]), st.sampled_from([0.1, 0.8, 2.0]), st.just(True))


@given(mixtures(condition=100, dimensions=(1, 2, 5)), SETTINGS, st.integers(0, 2**32 - 1))
def test_detailed_balance(parameters: Parameters, settings: Langevin, seed: int) -> None:
    """The flow from x to y is that from y to x, whatever alpha and delta are."""
    x, y = points_around(parameters, 6, distance=3, seed=seed), points_around(parameters, 6, distance=3, seed=seed + 1)
    forth, back = log_flow(x, y, parameters, settings), log_flow(y, x, parameters, settings)
    np.testing.assert_allclose(forth, back, rtol=1e-12, atol=1e-10)


def test_wrong_ratios_break_the_balance() -> None:
    parameters, settings = random_parameters(3, 2), mala(0.3)
    x, y = points_around(parameters, 6, distance=2), points_around(parameters, 6, distance=2, seed=7)

    def unbalance(ratio: Any) -> float:
        flows = log_flow(x, y, parameters, settings, ratio), log_flow(y, x, parameters, settings, ratio)
        return float(np.abs(flows[0] - flows[1]).max())

    def without_proposals(*arrays: Any, **_: Any) -> Any:
        return arrays[5] - arrays[4]

    def swapped_scores(x: Any, y: Any, s: Any, t: Any, *rest: Any, **settings: Any) -> Any:
        return ops.langevin_log_ratio(x, y, t, s, *rest, **settings)

    def other_step(*arrays: Any, alpha: float, delta: float) -> Any:
        return ops.langevin_log_ratio(*arrays, alpha=1.001 * alpha, delta=delta)

    assert unbalance(ops.langevin_log_ratio) < 1e-11
    for wrong in (without_proposals, swapped_scores, other_step):
        assert unbalance(wrong) > 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_ratio(dtype: str) -> None:
    """The definition, from normal densities of the proposals; any shape of points; planted errors."""
    rng = np.random.default_rng(0)
    x, y, s, t = rng.standard_normal((4, 5, 1, 2, 3)).astype(dtype)
    p, q = rng.standard_normal((2, 5)).astype(dtype)
    wide = [array.astype("float64").reshape(5, -1) for array in (x, y, s, t)]
    there = stats.norm.logpdf(wide[1], wide[0] + 0.3 * wide[2], 0.7).sum(axis=1)
    back = stats.norm.logpdf(wide[0], wide[1] + 0.3 * wide[3], 0.7).sum(axis=1)
    expected = q.astype("float64") + back - p - there

    def check(op: Any) -> None:
        with assert_not_mutated(x, y, s, t, p, q):
            actual = op(x, y, s, t, p, q, alpha=0.3, delta=0.7)
        assert_close(actual, expected, op="langevin_log_ratio", dtype=dtype, scale=np.abs(there) + np.abs(back))

    assert_planted_caught(check, ops.langevin_log_ratio)


def test_proposals_out_of_range_are_refused() -> None:
    x, s, p = np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3)
    y = np.array([[1e200], [np.inf], [0.0]])
    ratio = ops.langevin_log_ratio(x, y, s, 1e5 * y, p, np.array([-1e307, -np.inf, 0]), alpha=1.0, delta=1.0)
    assert ops.metropolis_accept(ratio, np.full(3, 0.5)).tolist() == [False, False, True]


@given(seeds(), st.sampled_from(DTYPES))
def test_metropolis_accept(seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    ratio, level = rng.standard_normal(50).astype(dtype), rng.uniform(0.001, 0.999, 50).astype(dtype)
    accepted = ops.metropolis_accept(ratio, level)
    clear = np.abs(np.log(level.astype("float64")) - ratio) > 1e-5
    assert (accepted == (level < np.minimum(np.exp(ratio.astype("float64")), 1)))[clear].all()
    assert not ops.metropolis_accept(np.full(1, np.nan), np.full(1, 0.5)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [ula(0.2), mala(0.5)], ids=["ula", "mala"])
def test_the_recursion(settings: Langevin, dtype: str) -> None:
    """Step by step: the noise of (key, step, walker), the proposal, and who goes where."""
    parameters = random_parameters(3, 2)
    mixture, numbers = parameters.mixture(dtype=dtype), np.array([4, 0, 70_000, 9])
    keys = keys_of(ops, STREAM)
    state = init(points_around(parameters, 4, distance=2).astype(dtype), mixture, settings)
    moves = 0
    for t in range(20):
        before = state
        with assert_not_mutated(before.position, before.score):
            state, info = step(state, mixture, settings, keys=keys, sample_index=numbers)
        assert state.step == t + 1
        noise = ops.normal((2,), key=keys.noise, sample_index=numbers, step=t, dtype=dtype)
        assert np.array_equal(info.noise, noise)
        position, score = before.position.astype("float64"), before.score.astype("float64")
        proposal = position + settings.alpha * score + settings.delta * noise
        assert_close(info.proposal, proposal, op="langevin_step", dtype=dtype)
        if not settings.metropolis:
            assert (info.accepted, info.log_ratio, state.log_density) == (None, None, None)
            assert np.array_equal(state.position, info.proposal)
            continue
        level = ops.uniform((), key=keys.accept, sample_index=numbers, step=t, dtype=dtype)
        assert np.array_equal(info.accepted, ops.metropolis_accept(info.log_ratio, level))
        for i, goes in enumerate(info.accepted):
            assert np.array_equal(state.position[i], (info.proposal if goes else before.position)[i])
        moves += info.accepted.sum()
        value, score = mixture.log_density_and_score(state.position)
        assert_close(state.score, score, op="mixture_scores")
        assert_close(state.log_density, value, op="mixture_scores")
    assert not settings.metropolis or 20 < moves < 80  # there were both


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [ula(0.2), mala(0.5)], ids=["ula", "mala"])
def test_one_walk_in_many_ways(settings: Langevin, dtype: str) -> None:
    """In one op, step by step, in pieces, kept on the way: the same bits."""
    parameters = random_parameters(3, 2)
    mixture = parameters.mixture(dtype=dtype)
    x = points_around(parameters, 5, distance=2).astype(dtype)
    how: dict[str, Any] = {"seed": STREAM, "draw": 2, "sample_index": np.array([3, 1, 4, 15, 9])}
    with assert_not_mutated(x, *mixture.arrays):
        whole = walk(x, mixture, settings, num_steps=12, **how)
    assert whole.kept is None
    general = walk(x, Plain(mixture), settings, num_steps=12, **how)
    kept = walk(x, mixture, settings, num_steps=12, keep_every=4, **how)
    kept_general = walk(x, Plain(mixture), settings, num_steps=12, keep_every=4, **how)
    first = walk(x, mixture, settings, num_steps=5, **how)
    second = walk(first.position, mixture, settings, num_steps=7, first_step=5, **how)
    for other in (general, kept, kept_general, second):
        assert np.array_equal(other.position, whole.position)
    for other in (general, kept, kept_general):
        assert np.array_equal(other.num_accepted, whole.num_accepted)
    assert np.array_equal(first.num_accepted + second.num_accepted, whole.num_accepted)
    assert np.array_equal(kept.kept, kept_general.kept)
    assert kept.kept.shape == (3, 5, 2)
    assert np.array_equal(kept.kept[-1], whole.position)
    for i in range(5):
        alone = walk(x[i : i + 1], mixture, settings, num_steps=12, **{**how, "sample_index": how["sample_index"][[i]]})
        np.testing.assert_allclose(alone.position, whole.position[i : i + 1], rtol=1e-3 if dtype == "float32" else 1e-9)
    assert not np.array_equal(walk(x, mixture, settings, num_steps=12, **{**how, "draw": 3}).position, whole.position)


def test_no_steps_and_no_walkers() -> None:
    mixture = random_parameters(3, 2).mixture()
    x = np.ones((4, 2))
    for density in (mixture, Plain(mixture)):
        still = walk(x, density, mala(0.1), num_steps=0, seed=STREAM)
        assert np.array_equal(still.position, x)
        assert still.num_accepted.tolist() == [0] * 4
        assert walk(x, density, ula(0.1), num_steps=0, seed=STREAM, keep_every=2).kept.shape == (0, 4, 2)
        assert walk(x[:0], density, mala(0.1), num_steps=3, seed=STREAM).position.shape == (0, 2)


# What the chains converge to -------------------------------------------------------------------------------


def test_mala_keeps_the_density_and_ula_does_not() -> None:
    """From independent points: with the test the distribution stays, with the same step and no test it does not."""
    parameters = random_parameters(3, 1, spread=2.0)
    mixture = parameters.mixture()
    x, _ = mixture.sample(4000, seed=3)

    def below(points: Any) -> Any:
        parts = zip(*parameters[:3], strict=True)
        return sum(w * stats.norm.cdf(points, mean[0], c[0, 0] ** 0.5) for w, mean, c in parts)

    with_test = walk(x, mixture, mala(3.0), num_steps=50, seed=STREAM)
    assert 0.5 < with_test.num_accepted.mean() / 50 < 0.95
    assert stats.kstest(with_test.position[:, 0], below).pvalue > 0.01
    without = walk(x, mixture, ula(3.0), num_steps=50, seed=STREAM)
    assert stats.kstest(without.position[:, 0], below).pvalue < 1e-6
    colder = walk(x, mixture, Langevin(3.0, 1.0, True), num_steps=50, seed=STREAM)  # exact for any delta
    assert stats.kstest(colder.position[:, 0], below).pvalue > 0.01


@pytest.mark.parametrize(("alpha", "temperature"), [(0.1, 1.0), (0.5, 1.0), (1.0, 0.3)])
def test_variance_of_ula(alpha: float, temperature: float) -> None:
    """On N(0, 1): T / (1 - alpha / 2), after one million draws to four standard errors."""
    standard = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
    settings = ula(alpha, temperature=temperature)
    assert settings.delta**2 / (2 * alpha) == pytest.approx(temperature)
    variance = temperature / (1 - alpha / 2)
    start = variance**0.5 * ops.normal((1,), key=(1, 2), sample_index=np.arange(40_000), dtype="float64")
    kept = walk(start, standard, settings, num_steps=50, seed=STREAM, keep_every=50).kept
    error = variance * np.sqrt(2 / kept.size)
    assert abs(kept.var() - variance) < 4 * error
    assert abs(kept.var() - 1) > 4 * error or temperature == 1 - alpha / 2


class Quartic:
    """exp(-x^4 / 4), whose score grows too fast for ULA."""

    ops = ops

    def score(self, x: Any) -> Any:
        with np.errstate(over="ignore"):
            return -(x**3)

    def log_density(self, x: Any) -> Any:
        with np.errstate(over="ignore"):
            return -(x**4).sum(axis=1) / 4


def test_ula_diverges_where_mala_does_not() -> None:
    x = np.full((50, 1), 3.0)
    moved = walk(x, Quartic(), mala(0.3), num_steps=300, seed=STREAM)
    assert np.abs(moved.position).max() < 4
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(walk(x, Quartic(), ula(0.3), num_steps=300, seed=STREAM).position).all()


def test_a_denoisers_score_drives_ula_alone() -> None:
    x = np.full((2, 1, 28, 28), 0.5, dtype="float32")
    density = DenoiserScore(sdae("small"), sigma=0.5)
    moved = walk(x, density, ula(0.01), num_steps=2, seed=STREAM)
    assert moved.position.shape == x.shape
    with pytest.raises(InputError, match="density: the Metropolis test needs a log_density"):
        walk(x, density, mala(0.01), num_steps=2, seed=STREAM)


def test_keys_are_different() -> None:
    keys = {*keys_of(ops, STREAM), *keys_of(ops, STREAM, 1), *keys_of(ops, Stream(12, "walk"))}
    assert len(keys) == 6


@pytest.mark.parametrize("plain", [False, True])
def test_complaints(plain: bool) -> None:
    mixture: Any = random_parameters(3, 2).mixture()
    density, x = Plain(mixture) if plain else mixture, np.zeros((4, 2))
    for settings, more, message in (
        (Langevin(0, 1), {}, "alpha: expected"),
        (Langevin(0.1, -1), {}, "delta: expected a finite number >= 0"),
        (Langevin(0.1, 0, True), {}, "delta: expected a finite number > 0"),
        (ula(0.1), {"num_steps": -1}, "num_steps: expected"),
        (ula(0.1), {"keep_every": 0}, "keep_every: expected"),
        (ula(0.1), {"keep_every": 3}, "keep_every: expected a divisor of num_steps = 4, got 3"),
        (ula(0.1), {"sample_index": np.arange(3)}, "sample_index: expected shape"),
        (ula(0.1), {"sample_index": np.array([0, 1, 2, -3])}, "sample_index: -3"),
    ):
        with pytest.raises(InputError, match=message):
            walk(x, density, settings, **{"num_steps": 4, "seed": STREAM, **more})
    for bad in (-0.1, float("nan")):
        with pytest.raises(InputError, match="alpha: expected"):
            mcmc.ula(bad)
    with pytest.raises(InputError, match="temperature: expected"):
        ula(0.1, temperature=-1)
