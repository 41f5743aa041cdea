"""AutoAttack: its members one after the other, on what is left."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from malade_ref import ops
from malade_ref.attacks import apgd, auto_attack, fab, square
from malade_ref.checks import InputError
from malade_ref.network import LossGradient, mlp
from tests.ref.test_attacks import Counted, check_identity, check_result, images, linear_model, small_malade

SHORT: dict[str, Any] = {"num_steps": 8, "num_targets": 2, "num_square_steps": 60}
NOISE: dict[str, Any] = {"num_draws": 2, "num_judge_draws": 3}


class Veiled:
    """A linear classifier whose losses hide their gradients, the more of them the brighter the first pixel."""

    ops, dtype, input_shape, num_classes, stochastic = ops, "float64", (1, 3, 3), 4, False

    def __init__(self) -> None:
        weight = np.zeros((4, 9))
        weight[1, 1:] = 1.0  # the first pixel decides nothing
        self.model = linear_model(weight, [4.0 + 0.7 * 8 * 0.05, 0.0, -1.0, -2.0], shape=self.input_shape)
        self.logits, self.predict = self.model.logits, self.model.predict

    def loss_and_gradient(self, x: Any, y: Any, *, loss: str = "ce", targets: Any = None, **_: Any) -> LossGradient:
        found = self.model.loss_and_gradient(x, y, loss=loss, targets=targets)
        hidden = x[:, 0, 0, 0] > {"ce": 0.25, "dlr": 0.5, "margin": 0.75}[loss]
        return found._replace(gradient=np.where(hidden[:, None, None, None], 0.0, found.gradient))


def veiled_images() -> Any:
    """Wrong; for each member in turn one that it is the first to break; out of reach."""
    x = np.full((6, 1, 3, 3), 0.5)
    x[0], x[5] = 0.7, 0.4
    x[:, 0, 0, 0] = [0.125, 0.125, 0.375, 0.625, 0.875, 0.125]
    return x, np.zeros(6, int)


def test_every_member_breaks_what_those_before_it_left() -> None:
    """Success is that of the best member on each image; what is broken costs nothing more and stays as it is."""
    model, (x, y) = Veiled(), veiled_images()
    settings: dict[str, Any] = {"eps": 0.05, "num_steps": 8, "seed": 4}
    alone = [
        apgd(model, x, y, **settings),
        apgd(model, x, y, loss="dlr", num_targets=2, **settings),
        fab(model, x, y, num_targets=2, **settings),
        square(model, x, y, **{**settings, "num_steps": 60}),
    ]
    for number, of_member in enumerate(alone):
        assert of_member.success.tolist() == [True, *(number >= i for i in range(4)), False], "planned so"
    result = auto_attack(model, x, y, **{**SHORT, **settings})
    check_result(result, x, 0.05, "linf")
    assert (result.success == np.any([of_member.success for of_member in alone], axis=0)).all()
    spent = np.cumsum([0 * alone[0].num_queries + 1, *(of_member.num_queries for of_member in alone)], axis=0)
    assert result.num_queries.tolist() == [spent[i][i] for i in (0, 1, 2, 3, 4)] + [spent[4][5]]
    spent = np.cumsum([0 * y, *(of_member.num_gradients for of_member in alone)], axis=0)
    assert result.num_gradients.tolist() == [spent[i][i] for i in (0, 1, 2, 3, 4)] + [spent[4][5]]
    for i, of_member in enumerate(alone, start=1):
        np.testing.assert_allclose(result.x_adv[i], of_member.x_adv[i], rtol=1e-12)
    # What nobody broke is where the loss is largest: all the way, not at FAB's clean image.
    np.testing.assert_allclose(result.loss[5], max(of_member.loss[5] for of_member in alone))
    np.testing.assert_allclose(result.x_adv[5, 0].ravel()[1:], 0.45)


def test_a_random_model_is_left_to_no_lucky_draw() -> None:
    """All members get all images but those that are always wrong; the best on the same judging draws is kept."""
    model, x = Counted(small_malade()), images(8, (1, 4, 4))
    y = np.where(np.arange(8) < 5, model.model.predict(x), np.arange(8) % 3)
    settings: dict[str, Any] = {"eps": 0.1, "num_steps": 3, **NOISE}
    result = auto_attack(model, x, y, version="rand", **settings)
    assert result.num_queries.max() == model.queries
    assert result.num_gradients.max() == model.gradients
    ce, dlr = (apgd(model.model, x, y, loss=loss, **settings) for loss in ("ce", "dlr"))
    first = ops.better(dlr.success, dlr.loss, ce.success, ce.loss)
    for name in ("success", "loss", "distance", "x_adv"):
        expected = ops.select(first, getattr(dlr, name), getattr(ce, name))
        np.testing.assert_allclose(getattr(result, name), expected, rtol=1e-9)
    always = result.num_queries == NOISE["num_judge_draws"]
    assert 0 < always.sum() < 3, "planned so"
    assert (result.x_adv[always] == x[always]).all()
    assert (result.num_queries[~always] == model.queries).all()
    assert (ce.success & ~always).any(), "planned so: wrong by the mean of the draws, and attacked all the same"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_samples_do_not_mix(norm: str) -> None:
    model, x = mlp((1, 4, 4), 5, activation="relu", dtype="float64"), images(5, (1, 4, 4))
    y = np.append(model.predict(x)[:4], 0)
    attack = partial(auto_attack, eps={"linf": 0.02, "l2": 0.1}[norm], norm=norm, **{**SHORT, "num_square_steps": 5})
    assert 0 < attack(model, x, y).success.sum() < 5, "planned so"
    check_identity(attack, model, x, y)
    if norm == "l2":
        check_identity(partial(auto_attack, version="rand", num_steps=2, **NOISE), small_malade(), x, np.arange(5) % 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": "plus"}, "version: expected one of standard, rand; got 'plus'"),
        ({"num_steps": 0}, "num_steps: expected an integer >= 1"),
        ({"num_targets": 0}, "num_targets: expected an integer >= 1"),
        ({"num_square_steps": 0}, "num_square_steps: expected an integer >= 1"),
        ({"num_restarts": 0}, "num_restarts: expected an integer >= 1"),
        ({"num_draws": 0}, "num_draws: expected an integer >= 1"),
        ({"eps": -1}, "eps: expected a finite number >= 0"),
        ({"norm": "l1"}, "norm: expected one of linf, l2"),
        ({"k": 3}, "model: version standard needs at least 4 classes for its ratio of logits, got 3"),
        ({"k": 2, "version": "rand"}, "model: version rand needs at least 3 classes"),
    ],
)
def test_complaints_before_anything_is_attacked(settings: dict[str, Any], message: str) -> None:
    model = Counted(mlp((1, 4, 4), settings.pop("k", 5), dtype="float64"))
    with pytest.raises(InputError, match=message) as caught:
        auto_attack(model, images(2, (1, 4, 4)), np.array([0, 1]), **settings)
    assert "\n" not in str(caught.value)
    assert model.queries == 0
