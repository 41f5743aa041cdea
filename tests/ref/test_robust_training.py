"""TRADES, logit pairing and smoothed labels: formulas, gradients, and what is noticed when robustness collapses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from malade_ref import ops
from malade_ref.attacks import ascent
from malade_ref.checks import InputError
from malade_ref.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, Linear, Tanh
from malade_ref.network import Network, build
from malade_ref.objectives import Adversarial, Batch, Classification, Distillation, Objective
from malade_ref.robust_training import (
    TRADES,
    AdversarialLogitPairing,
    CleanLogitPairing,
    RobustCheck,
    Smoothed,
)
from malade_ref.training import evaluate, fit
from malade_ref.training_options import Options

ATTACK = partial(ascent, eps=0.1, step_size=0.05, num_steps=3)


def classifier(*, norm: bool = False, dropout: float = 0.0, dtype: str = "float64", seed: int = 2) -> Network:
    layers: list[Layer] = [Conv2d(3, 4, (3, 3)), *([BatchNorm(4)] if norm else []), Tanh(), Flatten()]
    layers += [*([Dropout(dropout)] if dropout else []), Linear(144, 4)]
    return build(layers, (3, 6, 6), initialisation="glorot", seed=seed, dtype=dtype)


def images(n: int = 24, dtype: str = "float64") -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x, y = 0.3 * rng.random((n, 3, 6, 6)), np.arange(n) % 4
    for i, label in enumerate(y):
        row, col = divmod(int(label), 2)
        x[i, :, 3 * row : 3 * row + 3, 3 * col : 3 * col + 3] += 0.6
    return x.astype(dtype), y


def batch(n: int = 6, epoch: int = 0) -> Batch:
    x, y = images(n)
    return Batch(x, y, np.arange(n), epoch, 0)


def probabilities(logits: Any) -> Any:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def cross_entropy(logits: Any, y: Any, smoothing: float = 0.0) -> Any:
    targets = (1 - smoothing) * np.eye(logits.shape[1])[y] + smoothing / logits.shape[1]
    return -(targets * np.log(probabilities(logits))).sum(axis=1)


OBJECTIVES: dict[str, Any] = {
    "smoothed": Smoothed(Classification(), 0.1),
    "smoothed, adversarial": Smoothed(Adversarial(ATTACK), 0.3),
    "trades": TRADES(0.1, 0.05, 2, beta=3.0),
    "trades, smoothed": TRADES(1.0, 0.5, 2, norm="l2", smoothing=0.2),
    "alp": AdversarialLogitPairing(ATTACK, weight=0.7),
    "alp, smoothed": AdversarialLogitPairing(ATTACK, weight=0.2, smoothing=0.1),
    "clp": CleanLogitPairing(0.2, weight=0.9),
    "clp, smoothed": CleanLogitPairing(0.2, smoothing=0.1),
}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_the_loss(name: str, norm: bool) -> None:
    network, objective = classifier(norm=norm), OBJECTIVES[name]
    prepared = objective.prepare(network, batch())
    result = objective.evaluate(network, prepared, training=True)
    trained = {key for key in network.params if network.trains(key)}
    assert result.gradients.keys() == trained
    rng = np.random.default_rng(1)
    direction = {key: rng.standard_normal(network.params[key].shape) for key in sorted(trained)}
    h = 1e-4

    def loss(t: float) -> float:
        moved = {key: value + t * direction.get(key, 0) for key, value in network.params.items()}
        return float(objective.evaluate(network.replace_params(moved), prepared, training=True).sums["loss"])

    numeric = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    exact = sum(float((result.gradients[key] * direction[key]).sum()) for key in direction)
    assert abs(numeric - exact) <= 1e-6 * abs(numeric)
    assert not abs(numeric - 1.001 * exact) <= 1e-6 * abs(numeric)


# Formulas ------------------------------------------------------------------------------------------------------------


def test_smoothed_labels() -> None:
    network, some = classifier(), batch()
    sums = Smoothed(Classification(), 0.3).evaluate(network, some, training=True).sums
    assert sums["loss"] == pytest.approx(cross_entropy(network.apply(some.x), some.y, 0.3).sum(), rel=1e-12)
    plain = Classification().evaluate(network, some, training=False).sums
    assert Smoothed(Classification(), 0.3).evaluate(network, some, training=False).sums == plain
    adversarial = Adversarial(ATTACK)
    prepared = Smoothed(adversarial, 0.3).prepare(network, some)
    np.testing.assert_array_equal(prepared.x, adversarial.prepare(network, some).x)
    assert Smoothed(Distillation(classifier(seed=5)), 0.1).prepare(network, some).y.shape == some.y.shape


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_trades(smoothing: float) -> None:
    network, objective = classifier(), TRADES(0.1, 0.05, 3, beta=3.0, smoothing=smoothing)
    prepared = objective.prepare(network, batch())
    sums = objective.evaluate(network, prepared, training=True).sums
    clean, moved = network.apply(batch().x), network.apply(prepared.x)
    p, q = probabilities(clean), probabilities(moved)
    divergence = float((p * np.log(p / q)).sum())
    assert sums["divergence"] == pytest.approx(divergence, rel=1e-9)
    loss = cross_entropy(clean, batch().y, smoothing).sum() + 3 * divergence
    assert sums["loss"] == pytest.approx(loss, rel=1e-12)
    assert sums["accuracy"] == (clean.argmax(axis=1) == batch().y).sum()


def test_trades_climbs_the_divergence() -> None:
    network, clean = classifier(), batch().x
    p = probabilities(network.apply(clean))
    found = []
    for num_steps in (1, 3, 10):
        objective = TRADES(0.1, 0.02, num_steps)
        prepared = objective.prepare(network, batch())
        assert prepared.other is not None
        np.testing.assert_array_equal(prepared.other, clean)
        assert np.abs(prepared.x - clean).max() <= 0.1
        assert prepared.x.min() >= 0
        assert prepared.x.max() <= 1
        found.append(float((p * np.log(p / probabilities(network.apply(prepared.x)))).sum()))
    assert found[0] < found[1] < found[2]
    noise = np.random.default_rng(0).choice([-0.1, 0.1], clean.shape)
    random = probabilities(network.apply(np.clip(clean + noise, 0, 1)))
    assert found[2] > 3 * float((p * np.log(p / random)).sum())
    # A sample's start is its own, and another one in each epoch.
    objective = TRADES(0.1, 0.02, 1)
    whole, part = objective.prepare(network, batch()), objective.prepare(network, batch().part(slice(2, 5)))
    np.testing.assert_allclose(part.x, whole.x[2:5], rtol=1e-12)
    ramped = TRADES(0.1, 0.02, 10, ramp=1).prepare(network, batch())
    assert np.abs(ramped.x - clean).max() == pytest.approx(0.05)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_adversarial_logit_pairing(smoothing: float) -> None:
    network, objective = classifier(), AdversarialLogitPairing(ATTACK, weight=0.7, smoothing=smoothing)
    prepared = objective.prepare(network, batch())
    np.testing.assert_array_equal(prepared.x, Adversarial(ATTACK).prepare(network, batch()).x)
    sums = objective.evaluate(network, prepared, training=True).sums
    clean, moved, y = network.apply(batch().x), network.apply(prepared.x), batch().y
    pairing = float(((clean - moved) ** 2).mean(axis=1).sum())
    loss = 0.5 * (cross_entropy(clean, y, smoothing) + cross_entropy(moved, y, smoothing)).sum() + 0.7 * pairing
    assert sums["pairing"] == pytest.approx(pairing, rel=1e-12)
    assert sums["loss"] == pytest.approx(loss, rel=1e-12)
    assert sums["adversarial_accuracy"] <= sums["accuracy"]


def test_clean_logit_pairing() -> None:
    network, objective = classifier(), CleanLogitPairing(0.2, weight=0.9)
    prepared = objective.prepare(network, batch())
    noise = ops.normal((3, 6, 6), key=ops.derive_key(0, "logit-pairing"), sample_index=np.arange(6), dtype="float64")
    assert prepared.other is not None
    np.testing.assert_allclose(prepared.other, batch().x + 0.2 * noise)
    np.testing.assert_array_equal(prepared.x, prepared.other[[3, 4, 5, 0, 1, 2]])
    sums = objective.evaluate(network, prepared, training=True).sums
    logits = network.apply(prepared.other)
    pairs = 2 * ((logits[:3] - logits[3:]) ** 2).mean(axis=1).sum()
    assert sums["pairing"] == pytest.approx(pairs, rel=1e-12)
    assert sums["loss"] == pytest.approx(cross_entropy(logits, batch().y).sum() + 0.9 * pairs, rel=1e-12)
    assert objective.prepare(network, batch(1)).x.shape == (1, 3, 6, 6)


@pytest.mark.parametrize("name", ["trades", "alp", "clp"])
def test_validation_looks_at_clean_images(name: str) -> None:
    x, y = images()
    assert evaluate(classifier(), OBJECTIVES[name], x, y) == evaluate(classifier(), Classification(), x, y)
    with pytest.raises(InputError, match="partners"):
        OBJECTIVES[name].evaluate(classifier(), batch(), training=True)


def test_batch_statistics_of_both_passes() -> None:
    """The running averages see the clean images, then the attacked ones, as two passes do in PyTorch."""
    network, objective = classifier(norm=True), TRADES(0.1, 0.05, 2)
    prepared = objective.prepare(network, batch())
    found = objective.evaluate(network, prepared, training=True).buffers
    after = network
    for x in (prepared.other, prepared.x):
        after = after.replace_params({**after.params, **after.updated_buffers(after.forward(x, training=True)[1])})
    for name, value in found.items():
        np.testing.assert_array_equal(value, after.params[name])
    assert found.keys() == {"1.mean", "1.variance"}


# Trainings -----------------------------------------------------------------------------------------------------------


class _Kill(BaseException):
    """Not an Exception: nothing may handle it on the way out."""


@pytest.mark.parametrize("kind", ["dropout", "norm"])
@pytest.mark.parametrize("name", ["smoothed, adversarial", "trades", "alp", "clp"])
def test_they_train_and_resume_to_the_same_bits(tmp_path: Path, name: str, kind: str) -> None:
    network = classifier(dropout=0.2) if kind == "dropout" else classifier(norm=True)
    objective: Objective = OBJECTIVES[name]
    x, y = images()
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 10, "learning_rate": 0.02, "validation": (x, y)}
    straight = fit(network, objective, x, y, **settings)
    assert straight.history["validation_accuracy"][-1] > 0.7
    count = 0

    def kill(fraction: float, message: str) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise _Kill

    path = tmp_path / "state.h5"
    with pytest.raises(_Kill):
        fit(network, objective, x, y, **settings, checkpoint=path, checkpoint_every=0, progress=kill)
    resumed = fit(network, objective, x, y, **settings, checkpoint=path)
    assert resumed.history == straight.history
    for key, value in straight.network.params.items():
        np.testing.assert_array_equal(resumed.network.params[key], value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Smoothed(Classification(), 1.0), "label_smoothing: expected"),
        (lambda: Smoothed(TRADES(0.1, 0.1, 1), 0.1), "label_smoothing: TRADES has a loss of its own"),
        (lambda: TRADES(-0.1, 0.1, 1), "eps: expected"),
        (lambda: TRADES(0.1, 0.1, 0), "num_steps: expected"),
        (lambda: TRADES(0.1, 0.1, 1, beta=-1), "beta: expected"),
        (lambda: AdversarialLogitPairing(ATTACK, weight=-1), "pairing_weight: expected"),
        (lambda: CleanLogitPairing(-0.1), "noise: expected"),
        (lambda: CleanLogitPairing(0.1, smoothing=2), "label_smoothing: expected"),
        (lambda: RobustCheck(ATTACK, 0), "num_images: expected"),
        (lambda: RobustCheck(ATTACK, max_drop=0), "max_drop: expected"),
    ],
)
def test_bad_settings(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


# Collapse ------------------------------------------------------------------------------------------------------------


def test_when_robustness_has_collapsed() -> None:
    check = RobustCheck(ATTACK, num_images=300)

    def collapsed(*accuracies: float, k: int = 10, n: int = 1000) -> bool:
        return check.collapse(accuracies, k, n) is not None

    assert collapsed(0.3, 0.4, 0.05)
    assert collapsed(0.4, 0.35, 0.0)
    assert not collapsed(0.4)
    assert not collapsed(0.3, 0.4, 0.25)  # fluctuates
    assert not collapsed(0.1, 0.02)  # all of one class, then something learned: no collapse
    assert collapsed(0.1, 0.02, k=200)
    assert not collapsed(0.02, 0.0, k=200, n=100)  # two of a hundred images
    assert not collapsed(0.05, 0.3, 0.35)
    assert RobustCheck(ATTACK, max_drop=0.9).collapse([0.5, 0.1], 10, 300) is None
    found = check.collapse([0.3, 0.4, 0.35, 0.02], 10, 300)
    assert found is not None
    assert (found["epoch"], found["best_epoch"]) == (4, 2)
    assert "catastrophic overfitting" in found["why"]
    assert "\n" not in found["why"]


class Found(NamedTuple):
    """What an attack gives."""

    x_adv: Any


class Collapsing:
    """An attack that from its third call on finds what is always wrong: images of the next class."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, network: Network, x: Any, y: Any, **_: Any) -> Found:
        self.calls += 1
        return Found(np.roll(x, 1, axis=0) if self.calls > 2 else x)


def test_a_collapse_ends_the_training_with_the_best_weights(tmp_path: Path) -> None:
    x, y = images(40)
    settings: dict[str, Any] = {"batch_size": 40, "learning_rate": 0.05, "validation": (x, y), "schedule": "constant"}
    two = fit(classifier(), Classification(), x, y, epochs=2, **settings)
    assert two.history["validation_accuracy"][-1] > 0.9
    said: list[str] = []
    path = tmp_path / "state.h5"

    settings_of_all = {**settings, "epochs": 9, "checkpoint": path, "progress": lambda _, line: said.append(line)}

    def train() -> Any:
        options = Options(robust_check=RobustCheck(Collapsing(), num_images=40))
        return fit(classifier(), Classification(), x, y, **settings_of_all, options=options)

    stopped = train()
    assert len(stopped.history["robust_accuracy"]) == 3
    assert stopped.history["robust_accuracy"][-1] < 0.1
    made = stopped.network.metadata["training"]
    assert made["steps"] == 3
    assert made["stopped"]["epoch"] == 3
    best = made["stopped"]["best_epoch"]
    assert said[-1] == made["stopped"]["why"]
    one = fit(classifier(), Classification(), x, y, epochs=best, **settings)
    for name, value in one.network.params.items():
        np.testing.assert_array_equal(stopped.network.params[name], value)
    # Taken up again it is stopped still.
    said.clear()
    again = train()
    assert again.history == stopped.history
    assert said == [made["stopped"]["why"]]
    for name, value in stopped.network.params.items():
        np.testing.assert_array_equal(again.network.params[name], value)


def test_robust_accuracy_is_that_of_the_attacked_images() -> None:
    network, (x, y) = classifier(), images()
    network = fit(network, Classification(), x, y, epochs=5, batch_size=12, learning_rate=0.05).network
    check = RobustCheck(partial(ascent, eps=0.3, step_size=0.1, num_steps=5), num_images=10)
    found = check.accuracy(network, x, y, seed=3)
    assert found == check.accuracy(network, x[:10], y[:10], seed=3)
    assert found < float((network.predict(x) == y).mean())
    none = RobustCheck(partial(ascent, eps=0.0, step_size=0.1, num_steps=1), num_images=10)
    assert none.accuracy(network, x, y, seed=3) == float((network.predict(x[:10]) == y[:10]).mean())
