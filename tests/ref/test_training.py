"""Training: gradients of the objectives, their signs and scales, schedules, and resumption bit for bit."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref import ops
from malade_ref.attacks import ascent
from malade_ref.checks import InputError
from malade_ref.layers import BatchNorm, Conv2d, Flatten, Layer, Linear, ReLU, Tanh
from malade_ref.network import Network, build
from malade_ref.training import (
    Adversarial,
    Batch,
    Classification,
    Denoising,
    Objective,
    SupervisedDenoising,
    evaluate,
    fit,
)

SIGMA = 0.3


def classifier(seed: int = 0, dtype: str = "float64", *, norm: bool = False) -> Network:
    layers: list[Layer] = [Conv2d(1, 3, (3, 3), (2, 2)), *([BatchNorm(3)] if norm else []), Tanh(), Flatten()]
    return build([*layers, Linear(27, 4)], (1, 6, 6), initialisation="glorot", seed=seed, dtype=dtype)


def denoiser(seed: int = 1, dtype: str = "float64") -> Network:
    layers = [Conv2d(1, 4, (3, 3)), Tanh(), Conv2d(4, 1, (3, 3))]
    return build(layers, (1, 6, 6), initialisation="glorot", seed=seed, dtype=dtype)


def images(n: int = 40, dtype: str = "float64") -> tuple[Any, Any]:
    """Four classes: a bright quarter each."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 4
    x = 0.3 * rng.random((n, 1, 6, 6))
    for i, label in enumerate(y):
        row, col = divmod(int(label), 2)
        x[i, 0, 3 * row : 3 * row + 3, 3 * col : 3 * col + 3] += 0.6
    return x.astype(dtype), y


def whole_batch(x: Any, y: Any) -> Batch:
    return Batch(x, y, np.arange(len(x)), 0, 0)


OBJECTIVES: dict[str, tuple[Network, Objective]] = {
    "classification": (classifier(), Classification()),
    "denoising": (denoiser(), Denoising(SIGMA)),
    "supervised": (denoiser(), SupervisedDenoising(SIGMA, classifier(), 3.0)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_the_loss(name: str) -> None:
    network, objective = OBJECTIVES[name]
    batch = whole_batch(*images(6))
    gradients = objective.evaluate(network, batch, training=True).gradients
    assert gradients.keys() == network.params.keys()
    rng = np.random.default_rng(1)
    direction = {key: rng.standard_normal(value.shape) for key, value in network.params.items()}
    h = 1e-5

    def loss(t: float) -> float:
        moved = {key: value + t * direction[key] for key, value in network.params.items()}
        return objective.evaluate(network.replace_params(moved), batch, training=True).sums["loss"]

    # Fourth-order central difference.
    numeric = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    exact = sum(float((gradients[key] * direction[key]).sum()) for key in gradients)
    assert abs(numeric - exact) <= 1e-6 * abs(numeric)
    assert not abs(numeric - 1.001 * exact) <= 1e-6 * abs(numeric)


def test_supervised_objective_is_the_paper_s() -> None:
    """||r - x||^2 + 2 sigma^2 J, a sum over pixels, with a plus sign, at the unclipped noisy image."""
    network, protected = denoiser(), classifier()
    x, y = images(5)
    batch = whole_batch(x, y)
    sums = SupervisedDenoising(SIGMA, protected).evaluate(network, batch, training=True).sums
    noise = ops.normal((1, 6, 6), key=ops.derive_key(0, "denoising"), sample_index=np.arange(5), dtype="float64")
    noisy = x + SIGMA * noise
    assert noisy.min() < 0
    assert noisy.max() > 1
    r = network.apply(noisy)
    error = float(((r - x) ** 2).sum())
    logits = protected.apply(r)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    cross_entropy = -float(np.log(shifted / shifted.sum(1, keepdims=True))[np.arange(5), y].sum())
    np.testing.assert_allclose(sums["error"], error, rtol=1e-12)
    np.testing.assert_allclose(sums["cross_entropy"], cross_entropy, rtol=1e-12)
    np.testing.assert_allclose(sums["loss"], error + 2 * SIGMA**2 * cross_entropy, rtol=1e-12)
    wrong_sign = error - 2 * SIGMA**2 * cross_entropy
    mean_for_sum = error / 36 + 2 * SIGMA**2 * cross_entropy
    assert abs(sums["loss"] - wrong_sign) > 1e-3
    assert abs(sums["loss"] - mean_for_sum) > 1e-3


def test_wrong_sign_maximises_the_cross_entropy() -> None:
    """The paper's eq. (11) as printed drives the reconstruction away from its class; eq. (14)'s sign does not."""
    x, y = images(64)
    protected = fit(classifier(), Classification(), x, y, epochs=30, batch_size=16, learning_rate=0.03).network
    results = {}
    for weight in (1.0, -1.0):
        objective = SupervisedDenoising(SIGMA, protected, 20 * weight)
        trained = fit(denoiser(), objective, x, y, epochs=30, batch_size=16, learning_rate=0.02).network
        results[weight] = evaluate(trained, SupervisedDenoising(SIGMA, protected), x, y)
    assert results[1.0]["cross_entropy"] < 1.0
    assert results[-1.0]["cross_entropy"] > 5 * results[1.0]["cross_entropy"]
    assert results[-1.0]["error"] > 2 * results[1.0]["error"]


def test_training_learns() -> None:
    x, y = images(64, "float32")
    fitted = fit(
        classifier(dtype="float32"),
        Classification(),
        x,
        y,
        epochs=40,
        batch_size=16,
        learning_rate=0.02,
        validation=(x, y),
    )
    assert fitted.history["validation_accuracy"][-1] == 1.0
    assert len(fitted.history["loss"]) == 40
    assert fitted.history["loss"][-1] < 0.2 * fitted.history["loss"][0]
    start = evaluate(denoiser(), Denoising(SIGMA), *images(64))["error"]
    trained = fit(denoiser(), Denoising(SIGMA), *images(64), epochs=30, batch_size=16, learning_rate=0.02)
    assert evaluate(trained.network, Denoising(SIGMA), *images(64))["error"] < 0.3 * start


def test_adversarial_training_sees_the_attack_s_images() -> None:
    x, y = images(20)
    network = classifier()
    attack = partial(ascent, eps=0.2, step_size=0.1, num_steps=3)
    prepared = Adversarial(attack).prepare(network, whole_batch(x, y))
    distance = np.abs(prepared.x - x).max(axis=(1, 2, 3))
    assert distance.max() <= 0.2
    assert distance.min() > 0.05
    objective = Classification()
    attacked = objective.evaluate(network, prepared, training=False).sums["loss"]
    assert attacked > objective.evaluate(network, whole_batch(x, y), training=False).sums["loss"]
    again = Adversarial(attack).prepare(network, whole_batch(x, y))
    np.testing.assert_array_equal(again.x, prepared.x)
    later = Adversarial(attack).prepare(network, whole_batch(x, y)._replace(epoch=1))
    assert not np.array_equal(later.x, prepared.x)


def test_adversarial_training_may_begin_with_little() -> None:
    x, y = images(20)
    network, attack = classifier(), partial(ascent, eps=0.2, step_size=0.2, num_steps=3)
    ramped = Adversarial(attack, ramp=3, growing={"eps": 0.2, "step_size": 0.2})
    for epoch, eps in enumerate([0.05, 0.1, 0.15, 0.2, 0.2]):
        batch = whole_batch(x, y)._replace(epoch=epoch)
        found = ramped.prepare(network, batch).x
        assert np.abs(found - x).max() == pytest.approx(eps, rel=1e-3)
    np.testing.assert_array_equal(found, Adversarial(attack).prepare(network, batch).x)


class _Kill(BaseException):
    """Not an Exception: nothing may handle it on the way out."""


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_resumption_is_exact(tmp_path: Path, optimizer: str, stop_at: int) -> None:
    """Killed after any step (3 steps an epoch) and resumed: the same weights and history, bit for bit."""
    x, y = images(40)
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "optimizer": optimizer}
    settings |= {"validation": (x[:8], y[:8]), "seed": 3}
    objective = SupervisedDenoising(SIGMA, classifier())
    straight = fit(denoiser(), objective, x, y, **settings)
    steps = 0

    def kill(fraction: float, message: str) -> None:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise _Kill

    path = tmp_path / "state.h5"
    with pytest.raises(_Kill):
        fit(denoiser(), objective, x, y, **settings, checkpoint=path, checkpoint_every=0, progress=kill)
    seen: list[float] = []
    resumed = fit(denoiser(), objective, x, y, **settings, checkpoint=path, progress=lambda f, _: seen.append(f))
    assert len(seen) == 9 - stop_at
    assert resumed.history == straight.history
    for name, value in straight.network.params.items():
        np.testing.assert_array_equal(resumed.network.params[name], value)


def test_interrupt_keeps_the_state(tmp_path: Path) -> None:
    x, y = images(40)
    path = tmp_path / "state.h5"

    def interrupt(fraction: float, message: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), Classification(), x, y, epochs=1, batch_size=8, checkpoint=path, progress=interrupt)
    assert path.exists()


def test_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    x, y = images(40)
    path = tmp_path / "state.h5"
    fit(classifier(), Classification(), x, y, epochs=1, batch_size=8, checkpoint=path)
    before = path.read_bytes()
    changed: list[tuple[Network, Any, dict[str, Any]]] = [
        (classifier(seed=5), x, {}),
        (classifier(), x * 0.5, {}),
        (classifier(), x, {"seed": 1}),
        (classifier(), x, {"epochs": 2}),
    ]
    for network, data, settings in changed:
        with pytest.raises(InputError, match="another training"):
            fit(network, Classification(), data, y, **{"epochs": 1, "batch_size": 8, "checkpoint": path} | settings)
    assert path.read_bytes() == before


def test_batch_normalisation_keeps_running_averages() -> None:
    x, y = images(64)
    network = classifier(norm=True)
    assert network.mixes_samples
    assert not network.trains("1.mean")
    fitted = fit(network, Classification(), x, y, epochs=60, batch_size=32, learning_rate=0.02).network
    features = fitted.layers[0].forward(ops, {k[2:]: v for k, v in fitted.params.items() if k[0] == "0"}, x, False)[0]
    # Without further training the averages converge to the statistics of all features.
    np.testing.assert_allclose(fitted.params["1.mean"], features.mean(axis=(0, 2, 3)), atol=0.05)
    np.testing.assert_allclose(fitted.params["1.variance"], features.var(axis=(0, 2, 3)), rtol=0.2, atol=0.02)
    assert evaluate(fitted, Classification(), x, y)["accuracy"] == 1.0


@pytest.mark.parametrize("norm", [False, True])
def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch, norm: bool) -> None:
    x, y = images(40, "float32")
    network, weights = classifier(dtype="float32", norm=norm), []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("MALADE_NUM_THREADS", threads)
        fitted = fit(network, Classification(), x, y, epochs=2, batch_size=40)
        weights.append(fitted.network.params["4.weight" if norm else "3.weight"])
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0], weights[2])


def test_schedules() -> None:
    from malade_ref.training import _schedule

    assert _schedule("constant", 0.7) == 1.0
    assert _schedule("cosine", 0.0) == 1.0
    assert math.isclose(_schedule("cosine", 0.5), 0.5)
    assert math.isclose(_schedule("one-cycle", 0.0), 1 / 25)
    assert math.isclose(_schedule("one-cycle", 0.3), 1.0)
    assert math.isclose(_schedule("one-cycle", 1.0), 0.0, abs_tol=1e-12)
    rates = [_schedule("one-cycle", i / 100) for i in range(101)]
    assert max(rates) == _schedule("one-cycle", 0.3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"schedule": "steps"}, "schedule"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"images": np.full((4, 1, 6, 6), 2.0)}, "outside"),
        ({"images": np.full((4, 1, 6, 6), np.nan)}, "not a number"),
        ({"images": np.zeros((4, 1, 5, 6))}, "shape"),
        ({"images": np.zeros((0, 1, 6, 6)), "labels": np.zeros(0, dtype=int)}, "at least one"),
        ({"labels": np.array([0, 1, 2, 4])}, "label 4"),
        ({"labels": np.array([0, 1, 2])}, "shape"),
        ({"labels": np.zeros(4)}, "integers"),
    ],
)
def test_bad_input(change: dict[str, Any], words: str) -> None:
    x, y = images(4)
    settings: dict[str, Any] = {"images": x, "labels": y, "epochs": 1} | change
    with pytest.raises(InputError, match=words) as caught:
        fit(classifier(), Classification(), **settings)
    assert "\n" not in str(caught.value)


def test_divergence_is_an_error() -> None:
    x, y = images(16)
    layers = [Flatten(), Linear(36, 36), ReLU(), Linear(36, 4)]
    network = build(layers, (1, 6, 6), initialisation="he", dtype="float64")
    with (
        pytest.raises(InputError, match="not finite"),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        fit(network, Classification(), x, y, epochs=400, batch_size=16, learning_rate=1e200, optimizer="sgd")
