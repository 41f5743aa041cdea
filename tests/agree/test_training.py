"""Trainings on both backends: the same objectives and options, step by step, to rounding."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from malade_ref.attacks import ascent
from malade_ref.augmentation import Augmentation
from malade_ref.layers import BatchNorm, Conv2d, Flatten, Linear, Tanh
from malade_ref.network import Network, build
from malade_ref.objectives import Classification, Denoising, SupervisedDenoising
from malade_ref.robust_training import TRADES, AdversarialLogitPairing, CleanLogitPairing, RobustCheck, Smoothed
from malade_ref.training import fit
from malade_ref.training_options import Options
from tests.marks import slow_but
from tests.tolerances import assert_close

from .backends import gpu, ref

ATTACK = partial(ascent, eps=0.1, step_size=0.05, num_steps=2, norm="l2")


def classifier(ops: Any) -> Network:
    layers = [Conv2d(3, 4, (3, 3)), BatchNorm(4), Tanh(), Flatten(), Linear(100, 4)]
    return build(layers, (3, 5, 5), initialisation="glorot", seed=2, dtype="float64", ops=ops)


def denoiser(ops: Any) -> Network:
    layers = [Conv2d(3, 4, (3, 3)), Tanh(), Conv2d(4, 3, (3, 3))]
    return build(layers, (3, 5, 5), initialisation="glorot", seed=1, dtype="float64", ops=ops)


CASES: dict[str, Any] = {
    "smoothed": (classifier, lambda ops: Smoothed(Classification(), 0.1)),
    "trades": (classifier, lambda ops: TRADES(0.5, 0.3, 2, norm="l2", beta=3.0)),
    "alp": (classifier, lambda ops: AdversarialLogitPairing(ATTACK)),
    "clp": (classifier, lambda ops: CleanLogitPairing(0.2)),
    "denoising": (denoiser, lambda ops: Denoising(0.1)),
    "supervised": (denoiser, lambda ops: SupervisedDenoising(0.1, classifier(ops))),
}


# Not Adam with batch normalisation: a bias before it has a gradient of rounding alone, which Adam makes a whole step.
@pytest.mark.parametrize("how", slow_but(("alp sgd",), [*(f"{name} sgd" for name in CASES), "supervised adam"]))
def test_trainings_agree(how: str) -> None:
    name, optimizer = how.split()
    start, objective = CASES[name]
    rng = np.random.default_rng(0)
    x, y = rng.random((12, 3, 5, 5)), np.arange(12) % 4
    check = RobustCheck(ATTACK, num_images=6) if start is classifier else None
    options = Options(
        weight_decay=0.01, clip_norm=1.0, averaging=0.7, augment=Augmentation(pad=1, flip=True), robust_check=check
    )
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 6, "learning_rate": 0.01, "optimizer": optimizer}
    found = {}
    for ops in (ref, gpu):
        images, labels = ops.asarray(x), ops.asarray(y)
        fitted = fit(
            start(ops), objective(ops), images, labels, validation=(images, labels), options=options, **settings
        )
        found[ops] = {key: ops.to_host(value) for key, value in fitted.network.params.items()}
        history = {key: np.array(values) for key, values in fitted.history.items()}
        found[ops] |= {f"history of {key}": values for key, values in history.items()}
    assert found[ref].keys() == found[gpu].keys()
    for key, value in found[ref].items():
        assert_close(found[gpu][key], value, op="chain", scale=np.abs(value).max() + 1e-3)
