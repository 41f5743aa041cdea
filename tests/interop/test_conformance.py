"""Attacks as other libraries compute them: against the libraries themselves and, without them, against textbooks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from malade_ref import MALADE, attacks
from malade_ref.attacks.gradient import Ball
from malade_ref.checks import InputError
from malade_ref.interop import as_art_classifier, as_foolbox_model, as_torch_module, conformance
from malade_ref.interop.torch_module import STREAM
from malade_ref.layers import Conv2d, Flatten, Linear, Reshape, Tanh
from malade_ref.network import build
from malade_ref.sampling import Stream

SHAPE = (1, 6, 6)
SAME = 1e-5


@pytest.fixture
def quiet() -> Iterator[None]:
    """Other people's libraries warn of what is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def network(dtype: str = "float32") -> Any:
    layers = (Conv2d(1, 4, 3), Tanh(), Flatten(), Linear(144, 4))
    return build(layers, SHAPE, seed=1, initialisation="glorot", dtype=dtype)


def model(kind: str = "network") -> Any:
    """A network, or a defended one with noise."""
    if kind == "network":
        return network()
    back = (Flatten(), Linear(36, 36), Tanh(), Reshape(SHAPE))
    return MALADE(network(), build(back, SHAPE, seed=2, initialisation="glorot"), num_steps=2, a=0.1, delta=0.02)


def data(of: Any, n: int = 6) -> tuple[Any, Any]:
    """Images, and what the model says of them."""
    x = np.random.default_rng(3).random((n, *SHAPE), dtype=np.float32)
    return x, of.logits(x, stream=Stream(0, STREAM)).argmax(axis=1) if of.stochastic else of.predict(x)


class Recorder:
    """Every iterate."""

    def __init__(self) -> None:
        self.images: list[Any] = []

    def __call__(self, number: int, x: Any) -> None:
        assert number == len(self.images)
        self.images.append(x.copy())


def asked_of(module: Any) -> list[Any]:
    """What a module is asked from now on."""
    seen: list[Any] = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().numpy().copy()))
    return seen


def close(one: Any, other: Any) -> None:
    assert len(one) == len(other) > 0
    np.testing.assert_allclose(np.stack(one), np.stack(other), rtol=0, atol=SAME)


# PGD ------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("kind", ["network", "defended"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_that_of_torchattacks(kind: str, norm: str) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    import torch

    of = model(kind)
    x, y = data(of)
    eps, step = (0.1, 0.02) if norm == "linf" else (1.0, 0.3)
    module = as_torch_module(of, noise="fresh", num_draws=2, seed=5)
    seen = asked_of(module)
    torch.manual_seed(1)
    attack = getattr(torchattacks, "PGD" if norm == "linf" else "PGDL2")(module, eps=eps, alpha=step, steps=6)
    theirs = attack(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    recorder = Recorder()
    ours = conformance.torchattacks_pgd(
        *(of, x, y),
        **{"eps": eps, "step_size": step, "num_steps": 6, "norm": norm, "start": seen[0]},
        **{"noise": "fresh", "num_draws": 2, "seed": 5, "record": recorder},
    )
    close(recorder.images, [*seen, theirs])
    np.testing.assert_allclose(ours.x_adv, theirs, atol=SAME)
    assert abs(theirs - x).max() > 0.01


@pytest.mark.usefixtures("quiet")
def test_pgd_is_that_of_foolbox_and_art() -> None:
    foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
    evasion = pytest.importorskip("art.attacks.evasion", reason="ART is not installed")
    import torch

    of = model("defended")
    x, y = data(of)
    ours = conformance.torchattacks_pgd(of, x, y, eps=0.1, step_size=0.02, num_steps=6, start=x).x_adv
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.02, steps=6, random_start=False)
    _, theirs, _ = attack(as_foolbox_model(of), torch.from_numpy(x), torch.from_numpy(y), epsilons=0.1)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=SAME)
    settings = {"eps": 0.1, "eps_step": 0.02, "max_iter": 6, "num_random_init": 0, "verbose": False}
    theirs = evasion.ProjectedGradientDescent(as_art_classifier(of), **settings).generate(x, y)
    np.testing.assert_allclose(ours, theirs, atol=SAME)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_takes_the_steps_of_this_package(norm: str) -> None:
    of = model()
    x, y = data(of)
    recorder = Recorder()
    result = conformance.torchattacks_pgd(of, x, y, eps=0.3, step_size=0.1, num_steps=5, norm=norm, record=recorder)
    ball = Ball(of.ops, x, eps=0.3, norm=norm)
    for x_t, following in zip(recorder.images, recorder.images[1:], strict=False):
        step = ball.step(x_t, of.loss_gradient(x_t, y), step_size=0.1)
        np.testing.assert_allclose(following, step, atol=1e-5)
    np.testing.assert_array_equal(result.x_adv, recorder.images[-1])
    assert (result.num_queries == 6).all()
    assert (result.num_gradients == 5).all()
    start = ball.distance(recorder.images[0])
    assert (start <= 0.3 + 1e-6).all()
    assert len(set(start.tolist())) == len(x)


# The boundary attack --------------------------------------------------------------------------------------------------


def wrong_start(of: Any, x: Any, y: Any) -> Any:
    """An image of another class for each."""
    far = attacks.boundary(of, x, y, num_steps=1, num_line_steps=0).x_adv
    return (x + 0.95 * (far - x)).clip(0, 1)


@pytest.mark.usefixtures("quiet")
def test_the_boundary_attack_is_that_of_foolbox() -> None:
    foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
    import torch

    of = model()
    x, y = data(of, 3)
    start = wrong_start(of, x, y)
    steps, settings = 160, {"step_adaptation": 1.3, "spherical_step": 0.05, "source_step": 0.02}
    torch.manual_seed(4)
    attack = foolbox.attacks.BoundaryAttack(steps=steps, update_stats_every_k=1, **settings)
    criterion = foolbox.criteria.Misclassification(torch.from_numpy(y))
    theirs = attack.run(as_foolbox_model(of), torch.from_numpy(x), criterion, starting_points=torch.from_numpy(start))
    torch.manual_seed(4)
    ours = conformance.foolbox_boundary(
        *(of, x, y),
        **{"num_steps": steps, "every": 1, "start": start, **settings},
        directions=lambda step: torch.empty((36, 1)).normal_().numpy(),
    )
    np.testing.assert_allclose(ours.x_adv, theirs.numpy(), atol=SAME)
    assert (ours.distance < 0.7 * np.sqrt(((start - x) ** 2).sum(axis=(1, 2, 3)))).all()


def test_the_boundary_attack_stays_wrong_and_comes_nearer() -> None:
    of = model()
    x, y = data(of)
    recorder = Recorder()
    result = conformance.foolbox_boundary(of, x, y, num_steps=60, record=recorder)
    distances = np.array([np.sqrt(((at - x) ** 2).sum(axis=(1, 2, 3))) for at in recorder.images])
    assert (np.diff(distances, axis=0) <= 0).all()
    assert (distances[-1] < distances[0]).all()
    assert all((of.predict(at) != y).all() for at in recorder.images)
    np.testing.assert_allclose(result.distance, distances[-1], rtol=1e-5)
    assert (result.num_gradients == 0).all()
    y[0] = (y[0] + 1) % 4
    kept = conformance.foolbox_boundary(of, x[:1], y[:1], num_steps=3)
    np.testing.assert_array_equal(kept.x_adv, x[:1])
    assert (kept.distance == 0).all()


def test_step_sizes_change_by_the_last_decisions() -> None:
    from malade_ref.interop.conformance.boundary import _Rates

    rates = _Rates(4, 2)
    for number in range(6):
        rates.note(np.array([True, number % 2 == 0]))
        factor = rates.factor(0.2, 0.6, 2.0)
        assert factor.tolist() == ([2, 1] if number == 3 else [1, 1])  # then the first begins to count anew


# Carlini and Wagner ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("confidence", [0.0, 0.3])
def test_cw_is_that_of_art(confidence: float) -> None:
    evasion = pytest.importorskip("art.attacks.evasion", reason="ART is not installed")
    of = model()
    x, y = data(of, 4)
    x[0], y[1] = np.round(x[0]), (y[1] + 1) % 4  # pixels at the edges, and an image that is wrong to begin with
    settings = {"confidence": confidence, "max_halving": 4, "max_doubling": 3}
    attack = evasion.CarliniL2Method(
        as_art_classifier(of),
        **{"learning_rate": 0.05, "max_iter": 5, "binary_search_steps": 5, "initial_const": 0.5, "verbose": False},
        **settings,
    )
    theirs = attack.generate(x, y)
    ours = conformance.art_cw(
        *(of, x, y), **{"step_size": 0.05, "num_steps": 5, "num_search_steps": 5, "initial_weight": 0.5}, **settings
    )
    np.testing.assert_allclose(ours.x_adv, theirs, atol=SAME)
    assert ours.success.mean() > 0.5
    assert (theirs[1] == x[1]).all() or confidence > 0


def test_cw_finds_what_is_wrong() -> None:
    of = model()
    x, y = data(of)
    recorder = Recorder()
    result = conformance.art_cw(
        of, x, y, step_size=0.1, num_steps=4, num_search_steps=6, initial_weight=1.0, record=recorder
    )
    assert len(recorder.images) == 24
    assert result.success.all()
    np.testing.assert_allclose(result.distance, np.sqrt(((result.x_adv - x) ** 2).sum(axis=(1, 2, 3))), rtol=1e-6)
    found = [of.predict(at) != y for at in recorder.images]
    far = [np.sqrt(((at - x) ** 2).sum(axis=(1, 2, 3))) for at in recorder.images]
    nearest = np.where(found, far, np.inf).min(axis=0)
    np.testing.assert_allclose(result.distance, nearest, rtol=1e-5)


# EAD ------------------------------------------------------------------------------------------------------------------


def textbook_ead(of: Any, x: Any, y: Any, weight: float, beta: float, confidence: float, steps: int) -> list[Any]:
    """Iterates of one weight by the formulas of the paper's algorithm, with PyTorch's derivatives."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module, clean, labels = as_torch_module(of), torch.from_numpy(x), torch.from_numpy(y)
    x_k = y_k = clean
    found = []
    for k in range(1, steps + 1):
        y_k = y_k.detach().requires_grad_()
        logits = module(y_k)
        own = logits.gather(1, labels[:, None])[:, 0]
        other = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        loss = weight * (own - other + confidence).clamp_min(0).sum() + ((y_k - clean) ** 2).sum()
        (gradient,) = torch.autograd.grad(loss, y_k)
        z = y_k.detach() - 0.01 * (1 - (k - 1) / steps) ** 0.5 * gradient
        shrunk = clean + (z - clean).sign() * ((z - clean).abs() - beta).clamp_min(0)
        new = shrunk.clamp(0, 1)
        x_k, y_k = new, new + k / (k + 3) * (new - x_k)
        found.append(x_k.numpy())
    return found


@pytest.mark.parametrize("kind", ["network", "defended"])
@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_ead_follows_the_algorithm(kind: str, confidence: float) -> None:
    of = model(kind)
    x, y = data(of)
    recorder = Recorder()
    settings = {"beta": 0.002, "confidence": confidence, "num_steps": 30, "num_search_steps": 1, "initial_weight": 5.0}
    conformance.authors_ead(of, x, y, abort_early=False, record=recorder, **settings)
    close(recorder.images, textbook_ead(of, x, y, 5.0, 0.002, confidence, 30))


def test_ead_searches_weights_like_that_of_this_package() -> None:
    """Without early stops the two differ in nothing but what rounding can do."""
    of = model()
    x, y = data(of)
    settings: dict[str, Any] = {"num_steps": 20, "num_search_steps": 7, "initial_weight": 0.1, "abort_early": False}
    for rule in ("en", "l1"):
        one, other = (attack(of, x, y, rule=rule, **settings) for attack in (conformance.authors_ead, attacks.ead))
        assert one.success.all()
        if rule == "en":
            np.testing.assert_allclose(one.x_adv, other.x_adv, atol=SAME)
        else:
            assert one.distance.mean() > other.distance.mean()  # shrinkage alone comes nearer


def test_the_whole_batch_stops_early() -> None:
    of = model()
    x, y = data(of)
    settings: dict[str, Any] = {"num_steps": 20, "num_search_steps": 1}
    for weight, confidence, steps in ((1e-6, 0.0, 3), (1e4, 1000.0, 1)):
        # Nothing pulls: the objective does not fall. Or it is above 10^6 from the first.
        recorder = Recorder()
        more = {"initial_weight": weight, "confidence": confidence}
        conformance.authors_ead(of, x, y, record=recorder, **more, **settings)
        assert len(recorder.images) == steps


# What does not fit ----------------------------------------------------------------------------------------------------

EACH = [
    conformance.torchattacks_pgd,
    conformance.foolbox_boundary,
    conformance.art_cw,
    conformance.authors_ead,
]


@pytest.mark.parametrize("attack", EACH)
def test_inputs_are_left_alone_and_checked(attack: Any) -> None:
    of = model()
    x, y = data(of, 2)
    before = x.copy(), y.copy()
    result = attack(of, x, y, num_steps=2)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
    assert result.x_adv.dtype == x.dtype
    assert result.success.shape == result.distance.shape == (2,)
    assert not np.shares_memory(result.x_adv, x)
    for arguments, message in (
        ((of, x + 1, y), "outside"),
        ((of, x, y + 10), "^y"),
        ((of, x.astype("float64"), y), "float32"),
        ((object(), x, y), "^model"),
    ):
        with pytest.raises(InputError, match=message):
            attack(*arguments, num_steps=2)
    for settings in ({"num_steps": -1}, {"num_draws": 0}, {"seed": -1}):
        with pytest.raises(InputError, match=f"^{next(iter(settings))}"):
            attack(of, x, y, **settings)


@pytest.mark.parametrize(
    ("attack", "settings", "message"),
    [
        (conformance.torchattacks_pgd, {"norm": "l1"}, r"^norm: expected one of"),
        (conformance.torchattacks_pgd, {"noise": "new"}, r"^noise: expected one of"),
        (
            conformance.torchattacks_pgd,
            {"start": np.zeros((1, *SHAPE), "float32")},
            r"^start: expected shape \(2, 1, 6, 6\)",
        ),
        (conformance.foolbox_boundary, {"directions": lambda _: np.zeros(3)}, r"^directions: expected 36 numbers"),
        (conformance.foolbox_boundary, {"step_adaptation": 1.0}, r"^step_adaptation"),
        (conformance.art_cw, {"step_size": 0.0}, r"^step_size"),
        (conformance.authors_ead, {"rule": "l2"}, r"^rule: expected one of en, l1"),
    ],
)
def test_settings_that_do_not_fit(attack: Any, settings: Any, message: str) -> None:
    of = model()
    x, y = data(of, 2)
    with pytest.raises(InputError, match=message) as caught:
        attack(of, x, y, **settings)
    assert "\n" not in str(caught.value)


def test_starts_must_be_wrong() -> None:
    of = model()
    x, y = data(of, 2)
    with pytest.raises(InputError, match=r"^start: 2 of 2 images are classified rightly"):
        conformance.foolbox_boundary(of, x, y, start=x)
