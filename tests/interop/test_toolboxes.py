"""Attacks of torchattacks, Foolbox and ART on our defended models, and ours on models of theirs.

Skipped where a library is not installed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from malade_ref import MALADE, attacks
from malade_ref.checks import InputError
from malade_ref.interop import as_art_classifier, as_art_preprocessor, as_foolbox_model, as_torch_module, to_torch, wrap
from malade_ref.interop.torch_module import STREAM
from malade_ref.layers import Conv2d, Flatten, Linear, Reshape, Tanh
from malade_ref.network import build
from malade_ref.sampling import Stream

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SHAPE = (1, 6, 6)
EPS, STEP, STEPS = 0.1, 0.02, 10


@pytest.fixture
def quiet() -> Iterator[None]:
    """Other people's libraries warn of what is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def networks() -> tuple[Any, Any]:
    layers = (Conv2d(1, 4, 3), Tanh(), Flatten(), Linear(144, 4))
    back = (Flatten(), Linear(36, 36), Tanh(), Reshape(SHAPE))
    return build(layers, SHAPE, seed=1, initialisation="glorot"), build(back, SHAPE, seed=2, initialisation="glorot")


def defended() -> Any:
    return MALADE(*networks(), num_steps=2, a=0.1, delta=0.02)


def data(n: int = 100) -> tuple[Any, Any]:
    """Images, and what the defence says of them."""
    x = np.random.default_rng(3).random((n, *SHAPE), dtype=np.float32)
    return x, defended().predict(x)


def right(model: Any, x_adv: Any, y: Any) -> float:
    """Mean accuracy of a defence over draws that no attack saw."""
    return float((model.predict_draws(np.asarray(x_adv), num_draws=20) == y).mean())


class Between(torch.nn.Module):  # type: ignore[misc]
    """From pixels between bounds to those in [0, 1]."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Any) -> Any:
        return (x - self.low) / (self.high - self.low)


class Whole(torch.nn.Module):  # type: ignore[misc]
    """One piece: ART calls each layer of a sequence by itself."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.layers = layers.eval()
        self.eval()

    def forward(self, x: Any) -> Any:
        return self.layers(x)


@pytest.fixture(scope="module")
def ours() -> float:
    """What our own PGD leaves, with the same steps."""
    x, y = data()
    settings: dict[str, Any] = {"eps": EPS, "step_size": STEP, "num_steps": STEPS, "seed": 1}
    return right(defended(), attacks.pgd(defended(), x, y, **settings).x_adv, y)


@pytest.mark.usefixtures("quiet")
def test_torchattacks(ours: float) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    x, y = data()
    module = as_torch_module(defended(), noise="fresh")
    x_adv = torchattacks.PGD(module, eps=EPS, alpha=STEP, steps=STEPS)(torch.from_numpy(x), torch.from_numpy(y))
    assert abs(right(defended(), x_adv, y) - ours) < 0.03
    assert ours < 0.8


@pytest.mark.usefixtures("quiet")
def test_foolbox(ours: float) -> None:
    foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
    x, y = data()
    model = as_foolbox_model(defended(), noise="fresh")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)
    _, x_adv, _ = attack(model, torch.from_numpy(x), torch.from_numpy(y), epsilons=EPS)
    assert abs(right(defended(), x_adv, y) - ours) < 0.03


@pytest.mark.usefixtures("quiet")
def test_art(ours: float) -> None:
    evasion = pytest.importorskip("art.attacks.evasion", reason="ART is not installed")
    x, y = data()
    attack = evasion.ProjectedGradientDescent(
        as_art_classifier(defended(), noise="fresh"),
        eps=EPS,
        eps_step=STEP,
        max_iter=STEPS,
        num_random_init=1,
        verbose=False,
    )
    assert abs(right(defended(), attack.generate(x, y), y) - ours) < 0.03


@pytest.mark.usefixtures("quiet")
def test_the_preprocessor_has_the_exact_gradient() -> None:
    classification = pytest.importorskip("art.estimators.classification", reason="ART is not installed")
    x, y = data(8)
    model = defended()

    theirs = classification.PyTorchClassifier(
        model=Whole(to_torch(model.classifier)),
        loss=torch.nn.CrossEntropyLoss(reduction="sum"),
        input_shape=SHAPE,
        nb_classes=4,
        clip_values=(0, 1),
        device_type="cpu",
        preprocessing_defences=as_art_preprocessor(model, seed=5, draw=2),
    )
    noise: dict[str, Any] = {"stream": Stream(5, STREAM), "first_draw": 2}
    np.testing.assert_allclose(theirs.predict(x), model.logits(x, **noise), atol=1e-6)
    exact = model.loss_gradient(x, y, **noise)
    np.testing.assert_allclose(theirs.loss_gradient(x, np.eye(4)[y]), exact, atol=1e-4 * abs(exact).max())


@pytest.mark.usefixtures("quiet")
def test_a_model_of_art_is_attacked_by_ours() -> None:
    """Its own gradient of the loss is all that is known of it."""
    art_classifier = pytest.importorskip(
        "art.estimators.classification", reason="ART is not installed"
    ).PyTorchClassifier
    network = networks()[0]
    x, y = data(20)
    loss = torch.nn.CrossEntropyLoss(reduction="sum")
    theirs = art_classifier(model=to_torch(network), loss=loss, input_shape=SHAPE, nb_classes=4, device_type="cpu")
    one_hot = np.eye(4, dtype="float32")
    wrapped = wrap(theirs.predict, gradient=lambda x, y: theirs.loss_gradient(x, one_hot[y]), input_shape=SHAPE)
    for loss_name in ("ce", "margin"):
        one, other = (model.loss_and_gradient(x, y, loss=loss_name).gradient for model in (wrapped, network))
        np.testing.assert_allclose(one, other, atol=1e-6)


def is_the_same_classifier(wrapped: Any, network: Any, x: Any, y: Any) -> None:
    """Answers, gradients of two losses, and what an attack finds."""
    np.testing.assert_allclose(wrapped.logits(x), network.logits(x), atol=1e-5)
    for loss in ("ce", "margin"):
        one, other = (model.loss_and_gradient(x, y, loss=loss).gradient for model in (wrapped, network))
        np.testing.assert_allclose(one, other, atol=1e-5)
    settings: dict[str, Any] = {"eps": EPS, "step_size": STEP, "num_steps": 3, "random_start": False}
    one, other = (attacks.pgd(model, x, y, **settings).success for model in (wrapped, network))
    np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("bounds", [(0, 1), (-1, 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_estimator_of_art_is_wrapped_as_it_is(bounds: Any, reduction: str) -> None:
    estimators = pytest.importorskip("art.estimators.classification", reason="ART is not installed")
    network = networks()[0]
    x, y = data(20)
    whole = torch.nn.Sequential(Between(*bounds), torch.nn.Sequential(to_torch(network))).eval()
    settings: dict[str, Any] = {"input_shape": SHAPE, "nb_classes": 4, "clip_values": bounds, "device_type": "cpu"}
    loss = torch.nn.CrossEntropyLoss(reduction=reduction)
    theirs = estimators.PyTorchClassifier(model=Whole(whole), loss=loss, **settings)
    is_the_same_classifier(wrap(theirs, input_shape=SHAPE), network, x, y)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("bounds", [(0, 1), (-1, 3)])
def test_a_model_of_foolbox_is_wrapped_as_it_is(bounds: Any) -> None:
    foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
    network = networks()[0]
    x, y = data(20)
    whole = torch.nn.Sequential(Between(*bounds), to_torch(network)).eval()
    theirs = foolbox.PyTorchModel(whole, bounds=bounds, device="cpu")
    is_the_same_classifier(wrap(theirs, input_shape=SHAPE), network, x, y)
    again = foolbox.PyTorchModel(to_torch(network).eval(), bounds=(0, 1), device="cpu").transform_bounds((0, 5))
    is_the_same_classifier(wrap(again, input_shape=SHAPE), network, x, y)


@pytest.mark.usefixtures("quiet")
def test_attacks_with_momentum_run_on_ours() -> None:
    """They look at images outside [0, 1] on their way."""
    foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
    x, y = data(4)
    attack = foolbox.attacks.EADAttack(binary_search_steps=2, steps=20, initial_const=10.0, initial_stepsize=0.1)
    _, x_adv, success = attack(as_foolbox_model(defended()), torch.from_numpy(x), torch.from_numpy(y), epsilons=None)
    assert success.any()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.usefixtures("quiet")
def test_autoattack() -> None:
    """AutoAttack moves images between batches; its own verdict is that of the module, asked for any of them alone."""
    module = pytest.importorskip("pyautoattack", reason="AutoAttack is not installed")
    x, y = data(8)
    model = as_torch_module(defended(), noise="shared", num_draws=2)
    y = model(torch.from_numpy(x)).argmax(dim=1)
    attack = module.AutoAttack(model, norm="Linf", eps=EPS, version="custom", attacks=["apgd-ce"])
    attack.apgd.n_iter = 5
    x_adv, _ = attack.run_standard_evaluation(torch.from_numpy(x), y, batch_size=3)
    alone = torch.cat([model(image[None]).argmax(dim=1) for image in x_adv])
    assert torch.equal(model(x_adv).argmax(dim=1), alone)
    assert (alone != y).any()
    assert abs(x_adv.numpy() - x).max() <= EPS + 1e-6


@pytest.mark.parametrize("name", ["foolbox", "art"])
def test_what_is_missing_is_said_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [*(found for found in sys.modules if found.partition(".")[0] == name), name]:
        monkeypatch.setitem(sys.modules, module, None)
    call = as_foolbox_model if name == "foolbox" else as_art_classifier
    with pytest.raises(InputError, match=rf"cannot be imported \(.*{name}.*\); install it with: pip install") as caught:
        call(networks()[0])
    assert "\n" not in str(caught.value)


def test_a_preprocessor_needs_a_chain() -> None:
    with pytest.raises(InputError, match=r"^defence: expected a MALADE, got Network"):
        as_art_preprocessor(networks()[0])
