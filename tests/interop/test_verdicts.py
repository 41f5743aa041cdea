"""PGD of ART, Foolbox and torchattacks on our defended model and ours on theirs: the same verdict on 200 images.

What is left of the accuracy is the mean over draws of the defence's noise that no attack saw. The other libraries are
skipped where they are not installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from malade_ref import MALADE, attacks
from malade_ref.datasets import synthetic_digits
from malade_ref.interop import (
    as_art_classifier,
    as_foolbox_model,
    as_torch_module,
    conformance,
    to_torch,
    wrap,
)
from malade_ref.layers import Flatten, Linear, ReLU, Reshape, Sigmoid, Tanh
from malade_ref.network import build
from malade_ref.training import Classification, SupervisedDenoising, fit

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SHAPE = (1, 14, 14)
CHAIN: dict[str, Any] = {"num_steps": 3, "a": 0.2, "delta": 0.05}
EPS, STEP, STEPS, DRAWS, SEEDS = 0.1, 0.02, 12, 2, 2
ONE_POINT = 0.01


class Problem(NamedTuple):
    """A defended classifier, and 200 images that it has not seen."""

    defended: MALADE
    x: Any
    y: Any


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Digits of half the size, so that it takes seconds."""
    images, labels = synthetic_digits(1200)
    small = images.reshape(-1, 1, 14, 2, 14, 2).mean(axis=(3, 5), dtype="float32") / 255
    (x, x_test), (y, y_test) = np.split(small, [1000]), np.split(labels, [1000])
    settings: dict[str, Any] = {"batch_size": 32, "learning_rate": 3e-3}
    start = build((Flatten(), Linear(196, 48), ReLU(), Linear(48, 10)), SHAPE, seed=1, initialisation="he")
    classifier = fit(start, Classification(), x, y, epochs=8, **settings).network
    back = (Flatten(), Linear(196, 64), Tanh(), Linear(64, 196), Sigmoid(), Reshape(SHAPE))
    start = build(back, SHAPE, seed=2, initialisation="glorot")
    denoiser = fit(start, SupervisedDenoising(0.2, classifier), x, y, epochs=6, **settings).network
    return Problem(MALADE(classifier, denoiser, **CHAIN), x_test, y_test)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Other people's libraries warn of what is theirs; one thread, as other tests run beside this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def left(defended: MALADE, found: list[Any], y: Any) -> float:
    """Mean accuracy over seeds of an attack, and over 40 draws of the defence."""
    return float(np.mean([(defended.predict_draws(np.asarray(x_adv), num_draws=40) == y).mean() for x_adv in found]))


def ours(model: Any, x: Any, y: Any) -> list[Any]:
    settings: dict[str, Any] = {"eps": EPS, "step_size": STEP, "num_steps": STEPS, "num_draws": DRAWS}
    return [attacks.pgd(model, x, y, expectation="logits", seed=seed, **settings).x_adv for seed in range(SEEDS)]


@pytest.fixture(scope="module")
def by_ours(problem: Problem) -> float:
    defended, x, y = problem
    clean, found = left(defended, [x], y), left(defended, ours(defended, x, y), y)
    assert clean > 0.85
    assert 0.05 < found < clean - 0.3  # so that there is something to agree about
    return found


def torchattacks_pgd(model: MALADE, x: Any, y: Any, seed: int) -> Any:
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    module = as_torch_module(model, noise="fresh", num_draws=DRAWS, seed=seed)
    return torchattacks.PGD(module, eps=EPS, alpha=STEP, steps=STEPS)(torch.from_numpy(x), torch.from_numpy(y))


def foolbox_pgd(model: MALADE, x: Any, y: Any, seed: int) -> Any:
    foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)
    of = as_foolbox_model(model, noise="fresh", num_draws=DRAWS, seed=seed)
    return attack(of, torch.from_numpy(x), torch.from_numpy(y), epsilons=EPS)[1]


def art_pgd(model: MALADE, x: Any, y: Any, seed: int) -> Any:
    evasion = pytest.importorskip("art.attacks.evasion", reason="ART is not installed")
    np.random.seed(seed)  # noqa: NPY002  the generator that ART draws from
    settings = {"eps": EPS, "eps_step": STEP, "max_iter": STEPS, "num_random_init": 1, "batch_size": len(x)}
    of = as_art_classifier(model, noise="fresh", num_draws=DRAWS, seed=seed)
    return evasion.ProjectedGradientDescent(of, verbose=False, **settings).generate(x, y)


def conforming_pgd(model: MALADE, x: Any, y: Any, seed: int) -> Any:
    settings: dict[str, Any] = {"eps": EPS, "step_size": STEP, "num_steps": STEPS, "num_draws": DRAWS}
    return conformance.torchattacks_pgd(model, x, y, noise="fresh", seed=seed, **settings).x_adv


@pytest.mark.slow
@pytest.mark.parametrize("attack", [conforming_pgd, torchattacks_pgd, foolbox_pgd, art_pgd])
def test_theirs_on_ours(problem: Problem, by_ours: float, attack: Any) -> None:
    defended, x, y = problem
    torch.manual_seed(0)
    found = [attack(defended, x, y, seed) for seed in range(SEEDS)]
    assert all(abs(np.asarray(x_adv) - x).max() <= EPS + 1e-6 for x_adv in found)
    assert abs(left(defended, found, y) - by_ours) <= ONE_POINT


def of_torch(classifier: Any) -> Any:
    return to_torch(classifier)


def of_foolbox(classifier: Any) -> Any:
    foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
    return foolbox.PyTorchModel(to_torch(classifier), bounds=(0, 1), device="cpu")


def of_art(classifier: Any) -> Any:
    estimators = pytest.importorskip("art.estimators.classification", reason="ART is not installed")
    whole = torch.nn.Sequential(to_torch(classifier)).eval()  # ART calls each layer of a sequence by itself
    settings = {"loss": torch.nn.CrossEntropyLoss(), "input_shape": SHAPE, "nb_classes": 10, "clip_values": (0, 1)}
    return estimators.PyTorchClassifier(model=whole, device_type="cpu", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("theirs", [of_torch, of_foolbox, of_art])
def test_ours_on_theirs(problem: Problem, by_ours: float, theirs: Any) -> None:
    """Their classifier, wrapped, with the same chain in front."""
    defended, x, y = problem
    wrapped = wrap(theirs(defended.classifier), input_shape=SHAPE, batch_size=len(x))
    np.testing.assert_allclose(wrapped.logits(x), defended.classifier.logits(x), atol=1e-4)
    model = MALADE(wrapped, defended.denoiser, **CHAIN)
    assert abs(left(defended, ours(model, x, y), y) - by_ours) <= ONE_POINT
