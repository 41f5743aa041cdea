"""The laboratory: verdicts, the grid, and claims that must notice planted errors."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from malade_ref.density import GaussianMixture
from malade_ref.minimiser import minimise
from malade_ref.statistics import Estimate
from malade_ref.storage import load_record, save_record
from malade_ref.theorem import Claim, Measure, Settings, controls, drift, exact, identity, mala, ula
from malade_ref.theorem.chains import Host
from malade_ref.theorem.claims import claims_of, record_of
from malade_ref.theorem.grid import box, divergence, masses, stationary
from malade_ref.theorem.report import estimate_text, range_text
from malade_ref.theorem.worlds import WORLDS, random_mixture, rms, standard_normal, three_islands

TINY = Settings("tiny")


def silent(fraction: float, message: str) -> None:
    """Nobody listens."""


def verdicts(claims: list[Claim]) -> dict[str, str]:
    return {claim.name: claim.verdict for claim in claims}


# Verdicts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.9, 2.1, "holds"),
        (1.95, 2.1, "not decided"),
        (2.5, 3.0, "fails"),
        (-math.inf, 1.0, "fails"),
        (2.05, 3.0, "holds"),
    ],
)
def test_the_verdict_of_a_measure(low: float, high: float, expected: str) -> None:
    value = Estimate(2.0, 1.92, 2.08) if expected != "holds" or low < 2 else exact(2.05)
    assert Measure("slope", value, low, high).verdict == expected


def test_a_claim_is_as_good_as_its_worst_measure() -> None:
    good, open_, bad = (Measure("m", Estimate(0, -1, 1), *limits) for limits in ((-2.0, 2.0), (0.0, 2.0), (3.0, 4.0)))
    claim = Claim("c", 1, "t", "s", "m", [good])
    assert claim.verdict == "holds"
    assert replace(claim, measures=[good, open_]).verdict == "not decided"
    assert replace(claim, measures=[good, open_, bad]).verdict == "fails"


def test_claims_need_measures_and_measures_need_numbers() -> None:
    with pytest.raises(InputError, match="at least one measure"):
        Claim("c", 1, "t", "s", "m", [])
    with pytest.raises(InputError, match="finite"):
        Measure("m", exact(math.nan))


def test_claims_survive_storage(tmp_path: Path) -> None:
    measures = [Measure("a", Estimate(1, 0.5, 1.5), low=0, note="n"), Measure("b", exact(2))]
    claim = Claim("a-b", 4, "t", "s", "m", measures, ["r"], {"x": np.arange(3)}, control=True)
    record = record_of([claim, replace(claim, name="a", arrays={})])
    save_record(tmp_path / "r.h5", record.arrays, record.meta, kind="stage")
    first, second = claims_of(load_record(tmp_path / "r.h5", kind="stage"))
    np.testing.assert_array_equal(first.arrays["x"], [0, 1, 2])
    assert replace(first, arrays={}) == replace(claim, arrays={})
    assert second.arrays == {}
    with pytest.raises(InputError, match="another version"):
        claims_of(record._replace(meta={"claims": [{"name": "x"}]}))


def test_random_numbers_belong_to_their_purpose() -> None:
    assert TINY.rng("a", 1).normal() == TINY.rng("a", 1).normal()
    assert len({settings.rng(*name).normal() for settings in (TINY, Settings("tiny", 1)) for name in ("ab", "ba")}) == 4


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (exact(1.234e-14), "1.23e-14"),
        (Estimate(1.98765, 1.95, 2.02), "1.988 [1.950, 2.020]"),
        (Estimate(0.5, 0.2, 0.8), "0.50 [0.20, 0.80]"),
        (Estimate(1e-5, 0.9e-5, 1.1e-5), "1e-05 [9e-06, 1.1e-05]"),
    ],
)
def test_estimates_as_text(estimate: Estimate, text: str) -> None:
    assert estimate_text(estimate._asdict()) == text


def test_ranges_as_text() -> None:
    ranges = ((1.9, 2.1), (-math.inf, 1e-12), (0.5, math.inf), (1.0, 1.0), (-math.inf, math.inf))
    texts = [range_text(Measure("m", exact(1), *limits)) for limits in ranges]
    assert texts == ["1.9 to 2.1", "at most 1e-12", "at least 0.5", "1", "any"]


# The grid ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.floats(0.02, 0.8), st.integers(1, 2))
def test_the_chains_stationary_density_on_a_gaussian_is_gaussian(alpha: float, dimensions: int) -> None:
    delta = (2 * alpha) ** 0.5
    spacing = (0.3 if dimensions == 1 else 0.6) * max(delta, 0.5 if dimensions == 2 else 0)
    alpha, delta = delta**2 / 2, max(delta, 0.5 if dimensions == 2 else 0)
    variance = ula.stationary_variance(alpha, delta)
    reach = np.full(dimensions, 8 * variance**0.5)
    grid = box(-reach, reach, spacing)
    start = masses(grid, lambda x: -0.5 * np.sum(x**2, axis=1))
    found = stationary(grid, lambda x: (1 - alpha) * x, delta, start)
    expected = masses(grid, lambda x: -0.5 * np.sum(x**2, axis=1) / variance)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert divergence(found, expected) < 1e-9


def test_a_grid_must_be_finer_than_the_noise() -> None:
    grid = box(np.array([-5.0]), np.array([5.0]), 0.5)
    with pytest.raises(InputError, match="finer"):
        stationary(grid, lambda x: 0.9 * x, 0.4, np.ones(21) / 21)
    with pytest.raises(InputError, match="too small"):
        stationary(box(np.array([-1.0]), np.array([1.0]), 0.1), lambda x: 0.9 * x, 0.4, np.ones(21) / 21)
    with pytest.raises(InputError, match="one or two"):
        box(np.zeros(3), np.ones(3), 0.5)


def test_divergence_of_gaussians() -> None:
    grid = box(np.array([-12.0]), np.array([12.0]), 0.05)
    p, q = (masses(grid, lambda x, v=v: -0.5 * x[:, 0] ** 2 / v) for v in (1.1, 1.0))
    assert divergence(p, q) == pytest.approx((1.1 - 1 - math.log(1.1)) / 2, rel=1e-9)


# Worlds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.label)
def test_worlds_are_as_they_say(world: Any) -> None:
    mixture = random_mixture(world, TINY, 0)
    assert (mixture.num_dimensions, mixture.num_classes) == (world.dimensions, world.classes)
    x, y = Host(mixture).sample(2000, seed=1)
    bayes = np.mean(Host(mixture).predict(x) == y)
    assert bayes < 0.97 if "overlapping" in world.label else bayes > 0.8
    assert not np.array_equal(random_mixture(world, TINY, 1).means, mixture.means)


# Claims, and planted errors ------------------------------------------------------------------------------------------


def test_the_plain_denoiser(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(verdicts(identity.dae_claims(TINY, Path(), silent)).values()) == {"holds"}
    true = GaussianMixture.posterior_mean
    monkeypatch.setattr(GaussianMixture, "posterior_mean", lambda self, u, sigma: true(self, u, sigma) * (1 + 1e-9))
    assert verdicts(identity.dae_claims(TINY, Path(), silent))["dae-identity"] == "fails"


def test_an_error_that_does_not_fall_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = GaussianMixture.smoothed
    monkeypatch.setattr(GaussianMixture, "smoothed", lambda self, sigma: true(self, sigma**0.9))
    assert verdicts(identity.dae_claims(TINY, Path(), silent))["dae-slope"] == "fails"


@pytest.mark.slow
def test_the_supervised_denoiser() -> None:
    found = verdicts(identity.sdae_claims(TINY, Path(), silent))
    for name in ("sdae-stationary", "sdae-calibrated", "sdae-miscalibrated", "sdae-kl"):
        assert found[name] == "holds", name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("planted", "noticed"),
    [
        ({"label_noise": 0.05}, "sdae-stationary"),
        ({"ce_weight": 1.1}, "sdae-kl"),
    ],
)
def test_planted_errors_in_the_minimiser_are_noticed(
    monkeypatch: pytest.MonkeyPatch, planted: dict[str, float], noticed: str
) -> None:
    def wrong(mixture: Any, classifier: Any, u: Any, sigma: float, **options: Any) -> Any:
        found = minimise(mixture, classifier, u, sigma, **{**options, **planted})
        # The residual is that of the true equation.
        posterior = np.exp(Host(mixture.smoothed(sigma)).class_log_posteriors(u))
        term = np.einsum("nk,nkd->nd", posterior, classifier.expand(found.position).gradients)
        residual = np.abs(found.position - found.posterior_mean - sigma**2 * term).max(axis=1)
        return found._replace(residual=residual)

    monkeypatch.setattr(identity, "minimise", wrong)
    assert verdicts(identity.sdae_claims(TINY, Path(), silent))[noticed] == "fails"


@pytest.mark.slow
def test_an_uncalibrated_classifier_is_not_taken_for_a_calibrated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    true = identity.measure_errors
    monkeypatch.setattr(identity, "measure_errors", lambda mixture, beta, x: true(mixture, 1.02 * beta, x))
    assert verdicts(identity.sdae_claims(TINY, Path(), silent))["sdae-calibrated"] == "fails"


@pytest.mark.slow
def test_negative_controls_go_wrong_as_they_should() -> None:
    claims = controls.control_claims(TINY, Path(), silent)
    assert set(verdicts(claims).values()) == {"holds"}
    assert all(claim.control for claim in claims)


def test_the_wrong_sign_has_no_minimum_and_the_right_one_has() -> None:
    mixture = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.16]], [[0.64]]], [0, 1])
    u, far = np.zeros((1, 1)), np.array([[1e4]])
    assert controls.wrong_sign_objective(mixture, 1.0, u, far, 0.8)[0] < -1e6
    found = minimise(mixture, mixture, u, 0.8)
    assert (found.residual[0] < 1e-12, found.num_minima[0]) == (True, 1)


def test_a_control_that_finds_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the right sign in place of the wrong one, and no clipping, the controls must complain."""
    right = controls._stationary_of_wrong_sign
    monkeypatch.setattr(
        controls, "_stationary_of_wrong_sign", lambda m, beta, u, sigma, sign=1: right(m, beta, u, sigma, 1)
    )
    assert controls._wrong_sign(TINY).verdict == "fails"
    monkeypatch.setattr(controls, "CLIP_SIGMA", 0.01)
    assert controls._clipped(TINY).verdict == "fails"


def test_clipped_noise_by_simulation() -> None:
    pixels = GaussianMixture([0.7, 0.3], [[0.1], [0.8]], [[[0.01]], [[0.02]]])
    rng = np.random.default_rng(0)
    x, _ = pixels.sample(400_000, seed=0)
    x = x[(x > 0) & (x < 1)]
    noisy = x + 0.4 * rng.normal(size=len(x))
    for u, which in ((0.0, noisy <= 0), (1.0, noisy >= 1), (0.5, np.abs(noisy - 0.5) < 0.01)):
        found = controls.clipped_posterior_mean(np.array([u]), pixels, 0.4)[0]
        assert found == pytest.approx(x[which].mean(), abs=5 * x[which].std() / which.sum() ** 0.5)


@pytest.mark.slow
def test_guidance_comes_from_knowing_the_label() -> None:
    claims = {claim.name: claim for claim in drift.drift_claims(TINY, Path(), silent)}
    assert claims["drift-none"].verdict != "fails"
    returned = claims["drift-none"].arrays["returned"][:, 0, 0]
    shares = dict(zip(drift.TITLES, returned, strict=True))
    assert shares["oracle"] > shares["marginal"] + 0.2
    assert abs(shares["dae"] - shares["marginal"]) < 0.1


def test_fields_agree_with_what_they_are_called() -> None:
    mixture = three_islands(TINY)
    x, y = Host(mixture).sample(50, seed=3)
    found = drift.fields(mixture, y)
    scores = {name: field(x) for name, field in found.items()}
    guided = scores["marginal"] + drift.GUIDANCE * (scores["oracle"] - scores["marginal"])
    np.testing.assert_allclose(scores["guided"], guided, rtol=1e-12)
    np.testing.assert_allclose(scores["dae"], mixture.smoothed(drift.SIGMA).score(x), rtol=1e-12)
    assert rms(scores["sdae"] - scores["dae"]) < 0.1 * rms(scores["over"] - scores["dae"])
    same = mixture.predict(x) == y
    np.testing.assert_array_equal(scores["argmax"][same], scores["oracle"][same])


@pytest.mark.slow
def test_the_unadjusted_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    found = verdicts(ula.ula_claims(TINY, Path(), silent))
    assert found["ula-variance"] == found["ula-bias"] == found["ula-stuck"] == "holds"
    monkeypatch.setattr(ula, "stationary_variance", lambda alpha, delta: delta**2 / (2 * alpha))
    assert verdicts([ula._variance(TINY)])["ula-variance"] == "fails"


def test_a_metropolis_test_that_is_off_is_noticed() -> None:
    assert mala._balance(TINY).verdict == "holds"

    def off(*arguments: Any, alpha: float, delta: float) -> Any:
        return ops.langevin_log_ratio(*arguments, alpha=alpha * (1 + 1e-6), delta=delta)

    wrong = SimpleNamespace(**{**vars(ops), "langevin_log_ratio": off})
    assert mala._balance(replace(TINY, ops=wrong)).verdict == "fails"  # type: ignore[arg-type]


def test_efficiency_of_small_steps_is_their_size() -> None:
    # As the step shrinks everything is accepted, and the jump is the step variance.
    target = mala._targets(TINY)["normal"]
    rng = np.random.default_rng(0)
    curve = mala.efficiency(target.density, rng.normal(size=(500, 64)), rng)
    assert curve.acceptance[0] > 0.97
    assert curve.jump[0] == pytest.approx(mala.SCALES[0] ** 2, rel=0.08)
    assert np.all(np.diff(curve.acceptance) < 0)
    assert 0.4 < curve.best_acceptance < 0.75


def test_chain_masses_of_a_gaussian() -> None:
    grid, mass, chain = ula.chain_masses(standard_normal(1, TINY), 0.1)
    x = grid.points[:, 0]
    assert mass @ x**2 == pytest.approx(1, rel=1e-9)
    assert chain @ x**2 == pytest.approx(1 / (1 - 0.05), rel=1e-9)
