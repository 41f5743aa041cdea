"""What is not a number decides nothing: parameters, logits, losses; and a variance of one value is none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from malade_ref import load, save
from malade_ref.attacks import pgd
from malade_ref.certify import ABSTAINED, certificates_of, certify, majority_accuracy, predict, predictions_of
from malade_ref.checks import InputError
from malade_ref.layers import BatchNorm, Conv2d, Flatten, Linear, ReLU
from malade_ref.network import Network, build, mlp
from malade_ref.training import Classification, Denoising, Distillation, SliceResult, fit

pytestmark = pytest.mark.faults


def images(n: int = 10) -> tuple[Any, Any]:
    return np.random.default_rng(1).random((n, 1, 4, 4)).astype("float32"), np.arange(n) % 10


def overflowing() -> Network:
    """A classifier of finite weights whose logits are NaN: infinity less infinity."""
    network = mlp((1, 4, 4), 10, hidden=(8,), activation="relu")
    params = {name: np.abs(value) for name, value in network.params.items()}
    params["1.weight"] = np.full_like(params["1.weight"], 3e38)
    params["3.weight"][:, ::2] *= -1
    return network.replace_params(params)


# Parameters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_are_finite(value: float, dtype: str) -> None:
    network = build([Flatten(), Linear(16, 3), BatchNorm(3)], (1, 4, 4), initialisation="he", dtype=dtype)
    for name in network.params:
        params = {**network.params, name: network.params[name].copy()}
        params[name].reshape(-1)[-1] = value
        for make in (
            network.replace_params,
            lambda params: Network(network.layers, params, (1, 4, 4)),
            lambda params: Network.from_architecture(network.architecture(), params),
        ):
            with pytest.raises(InputError, match=re.escape(f"params['{name}']: expected finite")) as error:
                make(params)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_files_with_such_parameters_are_refused(value: float, tmp_path: Path) -> None:
    network = mlp((1, 4, 4), 10)
    broken = network.replace_params({**network.params, "5.bias": np.full(10, value, "float32")}, check=False)
    save(broken, tmp_path / "broken.h5")
    with pytest.raises(InputError, match=r"broken.h5: .*5\.bias.*finite") as error:
        load(tmp_path / "broken.h5")
    assert "\n" not in str(error.value)


def test_a_narrower_type_that_overflows_is_refused() -> None:
    network = mlp((1, 4, 4), 10, dtype="float64")
    wide = network.replace_params({**network.params, "5.bias": np.full(10, 1e300)})
    with pytest.raises(InputError, match=r"5\.bias"), np.errstate(over="ignore"):
        wide.astype("float32")


# Logits -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
def test_nothing_is_said_of_logits_that_are_not_numbers() -> None:
    network, (x, y) = overflowing(), images()
    assert np.isnan(network.logits(x)).any(axis=1).all()
    assert (network.predict(x) == -1).all()
    for bound in ("rest", "runner-up"):
        found = certify(network, x, y, sigma=0.25, num_selection=10, num_estimation=100, bound=bound)
        assert found.abstained.all()
        assert not found.radius.any()
        assert not found.counts.any()
        assert (found.predicted == ABSTAINED).all()
        assert not found.correct.any()
        assert majority_accuracy(found).value == 0
    answers = predict(network, x, sigma=0.25, num_draws=50)
    assert answers.abstained.all()
    assert (answers.predicted == ABSTAINED).all()
    # An attack that ends there has found nothing, in class 0 like in any other.
    result = pgd(network, x, y, eps=0.1, num_steps=1)
    assert not result.success.any()


def test_some_draws_without_a_class() -> None:
    """They are not left out of the count: such an image abstains, the others do not."""
    selection = np.array([[10, 0], [10, 0], [0, 0], [10, 0]])
    counts = np.array([[1000, 0], [990, 0], [1000, 0], [0, 0]])
    label = np.zeros(4, int)
    for bound in ("rest", "runner-up"):
        rule: dict[str, Any] = {"sigma": 1.0, "alpha": 0.001, "bound": bound}
        for given in ({}, {"num_estimation": 1000}):
            found = certificates_of(selection, counts, label, **rule, **given)
            assert found.abstained.tolist() == [False, True, True, True]
            assert (found.radius > 0).tolist() == [True, False, False, False]
            assert found.correct.tolist() == [True, False, False, False]
        # Alone, the second could not be told without the number of draws.
        assert certificates_of(selection[1:2], counts[1:2], label[1:2], **rule, num_estimation=1000).abstained.all()
    found = predictions_of(np.array([[100, 0], [99, 0], [0, 0]]), alpha=0.001, num_draws=100)
    assert found.predicted.tolist() == [0, ABSTAINED, ABSTAINED]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
def test_training_accuracy_and_answers_to_learn_from() -> None:
    x, y = images()
    sums = Classification().evaluate(overflowing(), _batch(x, 0 * y), training=False).sums
    assert sums["accuracy"] == 0
    with pytest.raises(InputError, match="victim: "):
        fit(mlp((1, 4, 4), 10), Distillation(overflowing()), x, y, epochs=1)


def _batch(x: Any, y: Any) -> Any:
    from malade_ref.training import Batch

    return Batch(x, y, np.arange(len(x)), 0, 0)


# Divergence ---------------------------------------------------------------------------------------------------------


class Breaking(Classification):
    """Gives up being finite at a step, in a way."""

    def __init__(self, way: str, epoch: int = 1) -> None:
        object.__setattr__(self, "way", way)
        object.__setattr__(self, "epoch", epoch)

    def evaluate(self, network: Network, batch: Any, *, training: bool) -> SliceResult:
        result = super().evaluate(network, batch, training=training)
        sums, gradients = dict(result.sums), dict(result.gradients)
        if training and batch.epoch == self.epoch and self.way == "loss":
            sums["loss"] = np.nan
        if training and batch.epoch == self.epoch and self.way == "accuracy":
            sums["accuracy"] = np.inf
        if training and batch.epoch == self.epoch and self.way == "parameters":
            gradients = {name: np.full_like(value, np.inf) for name, value in gradients.items()}
        if not training and self.way == "validation loss":
            sums["loss"] = np.inf
        if not training and self.way == "validation accuracy":
            sums["accuracy"] = np.nan
        return SliceResult(sums, gradients, result.buffers)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("way", ["loss", "accuracy", "parameters", "validation loss", "validation accuracy"])
def test_divergence(way: str, optimizer: str, tmp_path: Path) -> None:
    """One line about the learning rate; the checkpoint holds the last finite parameters."""
    x, y = images()
    state = tmp_path / "state.h5"
    options: dict[str, Any] = {"epochs": 3, "batch_size": 4, "validation": (x, y), "optimizer": optimizer}
    with pytest.raises(InputError, match=r"learning_rate: .* not finite any more at step \d+") as error:
        fit(mlp((1, 4, 4), 10), Breaking(way), x, y, **options, checkpoint=state)
    assert "\n" not in str(error.value)
    assert "smaller" in str(error.value)
    assert str(state) in str(error.value)
    with h5py.File(state) as file:
        arrays: list[Any] = []
        file.visititems(lambda _, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    floats = [array for array in arrays if getattr(array, "dtype", np.dtype(int)).kind == "f"]
    assert floats
    assert all(np.isfinite(array).all() for array in floats)
    with pytest.raises(InputError, match="learning_rate: "):  # and nothing is kept of it without a file
        fit(mlp((1, 4, 4), 10), Breaking(way), x, y, **options)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_divergence_by_a_learning_rate() -> None:
    x, y = images()
    with pytest.raises(InputError, match="learning_rate: "):
        fit(
            mlp((1, 4, 4), 16, activation="relu"),
            Classification(),
            x,
            y,
            epochs=30,
            optimizer="sgd",
            learning_rate=1e30,
            schedule="constant",
            validation=(x, y),
        )


# Statistics of one value ----------------------------------------------------------------------------------------------


def normalised(pixels: int = 4) -> Network:
    layers = [Flatten(), Linear(pixels * pixels, 5), BatchNorm(5), ReLU(), Linear(5, 10)]
    return build(layers, (1, pixels, pixels), initialisation="he", dtype="float64")


@pytest.mark.parametrize("count", [16, 17, 33])
def test_no_batch_of_one(count: int) -> None:
    """Running variances are those of what the layer sees, whatever is left over for the last batch."""
    x = np.random.default_rng(0).random((count, 1, 4, 4))
    y = np.arange(count) % 10
    options: dict[str, Any] = {"epochs": 40, "batch_size": 16, "schedule": "constant", "learning_rate": 1e-5}
    params = fit(normalised(), Classification(), x, y, **options).network.params
    seen = (x.reshape(count, -1) @ params["1.weight"].T + params["1.bias"]).var(axis=0, ddof=1)
    np.testing.assert_allclose(params["2.variance"] / seen, 1, atol=0.12)


def test_no_batch_of_one_with_convolutions() -> None:
    """Each batch that is seen has two images or more; all images are seen in each pass."""
    layers = [Conv2d(1, 2, (4, 4), padding="valid"), BatchNorm(2), Flatten(), Linear(2, 10)]
    network = build(layers, (1, 4, 4), initialisation="he")
    sizes: list[int] = []

    class Counting(Denoising):
        def prepare(self, network: Network, batch: Any) -> Any:
            sizes.append(len(batch.x))
            return batch

        def evaluate(self, network: Network, batch: Any, *, training: bool) -> SliceResult:
            return Classification().evaluate(network, batch, training=training)

    x, y = images(9)
    fit(network, Counting(0.1), x, y, epochs=2, batch_size=4)
    assert sizes == [4, 5, 4, 5]
    sizes.clear()
    fit(mlp((1, 4, 4), 10), Counting(0.1), x, y, epochs=1, batch_size=4)
    assert sizes == [4, 4, 1]  # without batch statistics nothing changes


@pytest.mark.parametrize(
    ("count", "batch_size", "name"), [(1, 4, "training images"), (5, 1, "batch_size"), (1, 1, "t")]
)
def test_statistics_of_one_value_are_refused(count: int, batch_size: int, name: str) -> None:
    x = np.random.default_rng(0).random((count, 1, 4, 4))
    with pytest.raises(InputError, match=f"{name}.*: expected at least 2") as error:
        fit(normalised(), Classification(), x, np.zeros(count, int), epochs=1, batch_size=batch_size)
    assert "\n" not in str(error.value)
