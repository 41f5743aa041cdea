"""Images that have fallen leave the batch: the verdict on every image is the same, and less is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from malade_ref import MALADE, attacks, cnn, ops, sdae
from malade_ref.attacks.standing import Standing
from malade_ref.checks import InputError
from malade_ref.datasets import load_dataset

DATA = load_dataset("synthetic-digits", sizes={"train": 8, "validation": 8, "test": 40})
X, Y = ops.asarray(DATA.test.images()), ops.asarray(DATA.test.labels())
NETWORK = cnn("small", seed=3)
LABELS = ops.argmax(NETWORK.logits(X))
LABELS[::7] = Y[::7]


def counted(model: Any, rows: list[int]) -> Any:
    """A model that notes at how many images gradients were asked for."""

    class Counting:
        stochastic = False

        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def loss_and_gradient(self, x: Any, *arguments: Any, **settings: Any) -> Any:
            rows.append(len(x))
            return model.loss_and_gradient(x, *arguments, **settings)

    return Counting()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pgd", {"step_size": 0.0006, "num_steps": 12}),
        ("pgd", {"norm": "l2", "eps": 0.06, "step_size": 0.01, "num_steps": 12, "num_restarts": 3}),
        ("mim", {"step_size": 0.0006, "num_steps": 12}),
        ("apgd", {"num_steps": 12}),
        ("apgd", {"num_steps": 12, "loss": "dlr"}),
        ("fgsm", {}),
    ],
)
def test_the_verdict_is_the_same(name: str, settings: dict[str, Any]) -> None:
    attack = getattr(attacks, name)
    settings = {"eps": 0.004, "seed": 5, "sample_index": ops.arange(len(X)) + 3, **settings}
    rows, fewer = [], []
    whole = attack(counted(NETWORK, rows), X, LABELS, **settings)
    stopped = attack(Standing(counted(NETWORK, fewer)), X, LABELS, **settings)
    assert 0.1 < np.mean(whole.success) < 1
    if name != "apgd":  # whose steps depend on the losses so far, but not on whether the image has fallen
        assert np.array_equal(whole.success, stopped.success)
    assert np.mean(stopped.success) >= np.mean(whole.success)
    # An image that is said to have fallen is wrong, and in the ball.
    wrong = ops.argmax(NETWORK.logits(stopped.x_adv)) != LABELS
    assert wrong[stopped.success].all()
    assert np.all(stopped.distance <= settings["eps"] + 1e-6)
    # What stands to the end was treated alike, to the rounding of products of other sizes.
    stands = ~(stopped.success | whole.success)
    assert np.allclose(stopped.x_adv[stands], whole.x_adv[stands], rtol=0, atol=1e-6)
    assert np.array_equal(whole.num_gradients, stopped.num_gradients)
    if settings.get("num_steps"):
        assert sum(fewer) < sum(rows)


def test_a_random_model_is_refused() -> None:
    defended = MALADE(NETWORK, sdae("small"), num_steps=1, a=0.5, delta=0.1)
    with pytest.raises(InputError, match="draws noise"):
        Standing(defended)
