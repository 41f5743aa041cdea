"""Trained networks against the oracle: the pieces, the negative controls, and the claims at the smallest scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from malade_ref import ops
from malade_ref.layers import Tanh
from malade_ref.minimiser import minimise
from malade_ref.network import Network, mlp
from malade_ref.statistics import Estimate
from malade_ref.theorem import trained
from malade_ref.theorem.claims import Claim, Settings
from malade_ref.theorem.trained import (
    OVERCONFIDENT,
    SIGMA,
    Posterior,
    Recipe,
    apply,
    dae_target,
    data_set,
    divergence,
    in_single,
    jacobian,
    kernel_mean,
    label_share,
    noisy_points,
    ratio,
    train,
    trained_claims,
    untrained,
)
from malade_ref.theorem.worlds import three_islands
from malade_ref.training import Batch, Denoising, Objective, SliceResult, SupervisedDenoising, fit
from tests.tolerances import assert_no_alias, assert_not_mutated, directional_check

PLANE = three_islands(Settings())
# A second of training: enough to tell right from wrong, not to be good.
SHORT = Recipe(points=1 << 16, steps=1024, batch_size=256, hidden=(32, 32))


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


# The frozen classifier ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [None, [0.5, -1.0, 0.2]])
@pytest.mark.parametrize("beta", [1.0, 0.5, 2.0])
def test_a_mixture_s_classifier_serves_the_objective(beta: float, bias: Any) -> None:
    classifier = PLANE.tempered(beta, bias)
    judge = Posterior(classifier)
    x, y = rng().normal(size=(40, 2)) * 2, rng().integers(0, 3, 40)
    with assert_not_mutated(x, y):
        logits, tape = judge.forward(x)
        result = judge.loss_gradient_of(logits, tape, y)
    np.testing.assert_allclose(logits, classifier.logits(x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(result.loss, -classifier.log_probabilities(x)[np.arange(40), y], rtol=1e-12, atol=1e-14)
    gradients = -classifier.gradients(x)[np.arange(40), y]
    np.testing.assert_allclose(result.gradient, gradients, rtol=1e-9, atol=1e-12)

    def loss(x: Any) -> Any:
        logits, tape = judge.forward(x)
        return judge.loss_gradient_of(logits, tape, y).loss

    def vjp(dloss: Any, x: Any) -> Any:
        logits, tape = judge.forward(x)
        return dloss[:, None] * judge.loss_gradient_of(logits, tape, y).gradient

    directional_check(loss, vjp, [x])


def test_fingerprints_tell_classifiers_apart() -> None:
    classifiers = [
        PLANE.tempered(1.0),
        PLANE.tempered(1.5),
        PLANE.tempered(1.0, [0, 0, 0.1]),
        PLANE.smoothed(0.1).tempered(1.0),
    ]
    prints = [Posterior(classifier).fingerprint() for classifier in classifiers]
    assert len(set(prints)) == len(prints)
    assert Posterior(three_islands(Settings()).tempered()).fingerprint() == prints[0]


class _StopError(Exception):
    pass


def test_supervised_training_of_vectors_resumes_exactly(tmp_path: Path) -> None:
    x, y = data_set(PLANE, 40, 0)
    network = mlp((2,), 2, hidden=(6,), residual=True, dtype="float64")
    objective = SupervisedDenoising(SIGMA, Posterior(PLANE.tempered(2.0)))
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, "seed": 1}
    straight = fit(network, objective, x, y, **settings).network

    def stop(fraction: float, _: str) -> None:
        if fraction > 0.5:
            raise _StopError

    path = tmp_path / "state.h5"
    with pytest.raises(_StopError):
        fit(network, objective, x, y, **settings, checkpoint=path, checkpoint_every=0, progress=stop)
    resumed = fit(network, objective, x, y, **settings, checkpoint=path).network
    for name, value in straight.params.items():
        np.testing.assert_array_equal(resumed.params[name], value)
    other = SupervisedDenoising(SIGMA, Posterior(PLANE.tempered(1.0)))
    with pytest.raises(ValueError, match="checkpoint of another training"):
        fit(network, other, x, y, **settings, checkpoint=path)


# The oracle's other pieces --------------------------------------------------------------------------------------


def test_kernel_mean_is_the_empirical_minimiser() -> None:
    """The weighted mean, written out; and the loss on the points is no smaller anywhere near it."""
    points, u = rng().normal(size=(12, 3)), rng().normal(size=(30, 3))
    squares = np.sum((u[:, None] - points) ** 2, axis=2)
    weights = np.exp(-squares / (2 * SIGMA**2))
    expected = weights @ points / weights.sum(axis=1, keepdims=True)
    result = kernel_mean(points, u, SIGMA, ops=ops)
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)

    def loss(r: Any) -> Any:
        return np.sum(weights * np.sum((r[:, None] - points) ** 2, axis=2), axis=1)

    for direction in np.eye(3):
        assert (loss(result) <= loss(result + 1e-4 * direction)).all()
        assert (loss(result) <= loss(result - 1e-4 * direction)).all()


def test_jacobian() -> None:
    network = mlp((3,), 3, hidden=(7,), residual=True, dtype="float64", seed=4)
    u = rng().normal(size=(5, 3))
    result = jacobian(network, u)
    h = 1e-6
    for j in range(3):
        step = h * np.eye(3)[j]
        numeric = (network.apply(u + step) - network.apply(u - step)) / (2 * h)
        np.testing.assert_allclose(result[:, :, j], numeric, rtol=1e-7, atol=1e-9)
    assert np.abs(result - result.transpose(0, 2, 1)).max() > 0.01  # else rows and columns could be confused


def test_intervals_cover() -> None:
    """A ratio of means lies within its 95% interval about that often."""
    random, hits = rng(), 0
    for _ in range(400):
        size = random.gamma(2, 1, 200)
        error = 0.3 * size * random.gamma(1, 1, 200)
        estimate = ratio(error, size)
        hits += estimate.low <= 0.3 <= estimate.high
    assert 0.91 <= hits / 400 <= 0.98


def test_divergence_is_normalised() -> None:
    _, u = noisy_points(PLANE, 500, SIGMA, rng())
    target = dae_target(PLANE, u, SIGMA)
    assert divergence(target, target, u).value == 0
    assert divergence(u, target, u).value == pytest.approx(1)
    assert divergence(target + 0.5 * (target - u), target, u).value == pytest.approx(0.25)


def test_start_looks_where_the_points_are() -> None:
    points = 5 + rng().normal(size=(100, 2))
    network = untrained(points, (16, 8), seed=0, ops=ops)
    again = untrained(points, (16, 8), seed=0, ops=ops)
    assert network.fingerprint() == again.fingerprint()
    assert network.fingerprint() != untrained(points, (16, 8), seed=1, ops=ops).fingerprint()
    residual = apply(network, points) - points
    assert 0 < np.abs(residual).max() < 0.5
    # Every unit of the first layer takes both signs on the data.
    first = Network(network.layers[:2], {name: network.params[name] for name in ("1.weight", "1.bias")}, (2,))
    units = apply(first, points)
    assert ((units > 0).any(axis=0) & (units < 0).any(axis=0)).all()
    assert isinstance(network.layers[2], Tanh)


def test_a_small_set_gets_fresh_noise() -> None:
    """Seven points, repeated under other sample numbers, so that no two rows of a pass share their noise."""
    seen: list[Any] = []

    @dataclass(frozen=True)
    class Spy(Denoising):
        def evaluate(self, network: Network, batch: Batch, *, training: bool) -> SliceResult:
            seen.append((np.array(batch.x), np.array(batch.sample_index)))
            return super().evaluate(network, batch, training=training)

    points = data_set(PLANE, 7, 0)
    train(PLANE, Spy(SIGMA), Recipe(7, 10, 14, 0.01, (4,)), seed=0, points=points)
    x, index = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    assert len(np.unique(index)) == len(index) == 140
    assert len(np.unique(x, axis=0)) == 7


def test_a_smaller_set_is_the_beginning_of_a_larger_one() -> None:
    for small, large in zip(data_set(PLANE, 5, 3), data_set(PLANE, 50, 3), strict=True):
        np.testing.assert_array_equal(small, large[:5])
        assert_no_alias(small, large)


# Negative controls ----------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """New noisy points, and the exact minimisers there: E[x | u], and the sDAE's with an over-confident classifier."""

    u: Any
    dae: Any
    sdae: Any


@pytest.fixture(scope="module")
def case() -> Case:
    _, u = noisy_points(PLANE, 2000, SIGMA, rng())
    return Case(u, dae_target(PLANE, u, SIGMA), minimise(PLANE, PLANE.tempered(OVERCONFIDENT), u, SIGMA).position)


def supervised(ce_weight: float = 1.0) -> Objective:
    return SupervisedDenoising(SIGMA, Posterior(in_single(PLANE).tempered(OVERCONFIDENT)), ce_weight)


def learnt(objective: Objective, u: Any) -> Any:
    return apply(train(PLANE, objective, SHORT, seed=11), u)


@pytest.fixture(scope="module")
def right(case: Case) -> Any:
    """What the right objective leads to within a second or two."""
    return learnt(supervised(), case.u)


def error(r: Any, case: Case) -> Estimate:
    return divergence(r, case.sdae, case.u)


def share(r: Any, case: Case) -> Estimate:
    return label_share(r, case.sdae, case.dae)


@pytest.mark.slow
def test_the_right_objective_finds_its_minimiser(case: Case, right: Any) -> None:
    """And a DAE does not."""
    assert error(right, case).high < 0.04
    # So short a training smooths the label term's sharp ridges.
    assert 0.65 < share(right, case).low < share(right, case).high < 1.2
    ignorant = learnt(Denoising(SIGMA), case.u)
    assert divergence(ignorant, case.dae, case.u).high < 0.04
    assert error(ignorant, case).low > 1.5 * error(right, case).high
    assert -0.25 < share(ignorant, case).low < share(ignorant, case).high < 0.25


@pytest.mark.slow
def test_the_wrong_sign_fails(case: Case, right: Any) -> None:
    """The sign of eq. (11) as printed: as far from E[x | u] as r*, or further, and on the other side."""
    wrong = learnt(supervised(-1.0), case.u)
    assert error(wrong, case).low > 5 * error(right, case).high
    assert share(wrong, case).high < -0.65


@pytest.mark.slow
def test_a_mean_for_the_sum_fails(case: Case, right: Any) -> None:
    """A mean over d dimensions, of the squared error alone, is the sum with J weighed d times too much: d = 2."""
    wrong = learnt(supervised(ce_weight=2.0), case.u)
    assert error(wrong, case).low > 1.2 * error(right, case).high
    assert share(wrong, case).low > 1.25 * share(right, case).high


@dataclass(frozen=True)
class ClippedNoise(Denoising):
    """The noisy input is clipped to a range that most of the data lie in, as pixels lie in [0, 1]."""

    limit: float = 2.0

    def evaluate(self, network: Network, batch: Batch, *, training: bool) -> SliceResult:
        key = ops.derive_key(batch.seed, "denoising")
        noise = ops.normal((2,), key=key, sample_index=batch.sample_index, step=batch.epoch, dtype=network.dtype)
        noisy = np.clip(batch.x + self.sigma * noise, -self.limit, self.limit)
        output, tape = network.forward(noisy)
        doutput = ops.squared_error_vjp(ops.ones(batch.y.shape, network.dtype), output, batch.x)
        _, gradients = network.backward(tape, doutput, need_dx=False, need_parameters=True)
        return SliceResult({"loss": float(ops.squared_error(output, batch.x).sum())}, gradients, {})


@pytest.mark.slow
def test_clipped_noise_fails(case: Case) -> None:
    """Even where nothing would be clipped; without a limit the same objective succeeds there."""
    inside = (np.abs(case.u) < 2).all(axis=1)
    u, target = case.u[inside], case.dae[inside]
    assert divergence(learnt(ClippedNoise(SIGMA, np.inf), u), target, u).high < 0.04
    assert divergence(learnt(ClippedNoise(SIGMA), u), target, u).low > 0.15


# The claims -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_claims_are_made_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    claims = trained_claims(Settings("tiny"), tmp_path, lambda fraction, _: told.append(fraction))
    assert told == sorted(told)
    assert told[-1] == 1
    assert {claim.part for claim in claims} == {3}
    assert len({claim.name for claim in claims}) == len(claims)
    by_name = {claim.name: claim for claim in claims}
    identity = by_name["trained-risk"].measures[0]
    assert identity.verdict == "holds"
    # Too little training for a single claim about it: no bar is so low that this would pass.
    assert by_name["trained-dae"].verdict != "holds"
    assert by_name["trained-sdae"].verdict != "holds"

    def never(*_: Any, **__: Any) -> Network:
        raise AssertionError("trained again")

    monkeypatch.setattr(trained, "train", never)
    again = trained_claims(Settings("tiny"), tmp_path, lambda *_: None)
    assert [numbers(claim) for claim in again] == [numbers(claim) for claim in claims]


def numbers(claim: Claim) -> Any:
    arrays = {name: np.asarray(array).tolist() for name, array in claim.arrays.items()}
    return claim.name, [measure.estimate for measure in claim.measures], claim.remarks, arrays
