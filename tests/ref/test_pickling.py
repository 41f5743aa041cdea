"""Networks, defences and densities are copied, pickled and sent to other processes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

from malade_ref import MALADE, DenoiserScore, GaussianMixture, cnn, ops, sdae
from malade_ref.attacks import pgd
from malade_ref.density import TemperedPosterior
from malade_ref.network import mlp, resnet

pytestmark = pytest.mark.faults


def images(n: int) -> Any:
    return np.random.default_rng(0).random((n, 1, 28, 28), dtype=np.float32)


def defended() -> MALADE:
    return MALADE(cnn("small"), sdae("small"), num_steps=2, a=0.5, delta=0.1, seed=3)


def mixture() -> GaussianMixture:
    return GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], [np.eye(2), 2 * np.eye(2)])


POINTS = np.linspace(-1, 1, 8).reshape(4, 2)
OBJECTS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "network": (lambda: cnn("small"), lambda model: model.logits(images(2))),
    "vectors": (lambda: mlp((2,), 3, dtype="float64"), lambda model: model.logits(POINTS)),
    "residual network": (
        lambda: resnet((1, 28, 28), 3, depth=8, channels=2),
        lambda model: model.loss_gradient(images(2), np.array([0, 2])),
    ),
    "defence": (defended, lambda model: model.logits(images(2), num_draws=2)),
    "mixture": (mixture, lambda model: model.score(POINTS)),
    "posterior": (lambda: TemperedPosterior(mixture(), beta=0.5), lambda model: model.gradients(POINTS)),
    "score": (lambda: DenoiserScore(sdae("small"), sigma=0.3), lambda model: model.score(images(2))),
}


@pytest.mark.parametrize("way", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("name", OBJECTS)
def test_copies_give_the_same(name: str, way: Callable[[Any], Any]) -> None:
    make, ask = OBJECTS[name]
    model = make()
    again = way(model)
    assert again is not model
    assert type(again) is type(model)
    assert again.ops is ops
    np.testing.assert_array_equal(ask(again), ask(model))
    assert pickle.dumps(again) == pickle.dumps(way(again))


def test_a_deep_copy_shares_no_parameters() -> None:
    network = cnn("small")
    again = copy.deepcopy(network)
    again.params["0.weight"][:] = 0
    assert network.params["0.weight"].any()
    defence = copy.deepcopy(defended())
    assert defence.classifier.ops is defence.denoiser.ops is defence.ops


def test_only_the_name_of_the_backend_travels() -> None:
    data = pickle.dumps(mlp((2,), 2))
    assert b"malade_ref.ops" in data
    assert len(data) < 30_000


def test_other_processes() -> None:
    """As people's own pools do it; the bits are the parent's."""
    model, x = defended(), images(2)
    labels = model.predict(x)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        theirs = pool.submit(model.logits, x).result()
        network = pool.submit(copy.deepcopy, model.classifier).result()
        attacked = pool.submit(pgd, model.classifier, x, labels, eps=0.1, step_size=0.05, num_steps=2).result()
    np.testing.assert_array_equal(theirs, model.logits(x))
    assert network.fingerprint() == model.classifier.fingerprint()
    own = pgd(model.classifier, x, labels, eps=0.1, step_size=0.05, num_steps=2)
    np.testing.assert_array_equal(attacked.x_adv, own.x_adv)
