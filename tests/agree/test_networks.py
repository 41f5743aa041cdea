"""Whole networks, chains and attacks on both backends, from the same parameters and with the same noise."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import malade_gpu
import malade_ref
from malade_ref.layers import (
    AvgPool2d,
    BatchNorm,
    Branches,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    PadChannels,
    ReLU,
    Residual,
    SiLU,
    Tanh,
)
from malade_ref.network import build
from malade_ref.sampling import Stream
from malade_ref.training import Classification, Denoising, SupervisedDenoising, fit
from tests.marks import slow_but
from tests.strategies import DTYPES
from tests.tolerances import assert_close, assert_planted_caught

from .backends import gpu, to_device, to_host

NETWORKS: dict[str, Callable[..., Any]] = {
    "cnn": lambda package, **settings: package.cnn("small", **settings),
    "sdae": lambda package, **settings: package.sdae("small", **settings),
    "mlp": lambda package, **settings: package.mlp((1, 28, 28), 10, hidden=(20,), **settings),
}
BRANCHING: dict[str, Callable[..., Any]] = {
    "resnet": lambda package, **settings: package.resnet(
        (3, 4, 4), 4, depth=8, channels=2, normalize=((0.4, 0.5, 0.3), (0.2, 0.3, 0.2)), **settings
    ),
    "wide_resnet": lambda package, **settings: package.wide_resnet(
        (3, 4, 4), 4, depth=10, width=1, channels=2, **settings
    ),
    "cifar_resnet": lambda package, **settings: package.cifar_resnet((3, 4, 4), 4, depth=8, width=2, **settings),
    "madry_wide_resnet": lambda package, **settings: package.madry_wide_resnet(
        (3, 4, 4), 4, depth=8, width=2, channels=2, **settings
    ),
    # Smaller images would leave so few pixels in the last stages that training's statistics take gradients to nearly 0;
    # 25 such statistics one after the other are compared in double precision.
    "resnet_v2": lambda package, **settings: package.resnet_v2((3, 64, 64), 4, depth=26, width=1, **settings),
    "conv_sdae": lambda package, **settings: package.conv_sdae((3, 4, 4), width=2, **settings),
    "dncnn": lambda package, **settings: package.dncnn((3, 4, 4), depth=3, width=2, **settings),
    "unet": lambda package, **settings: package.unet((3, 4, 4), depth=2, width=2, **settings),
    "branches": lambda package, **settings: package.Network(
        BRANCHES,
        {
            key: package.ops.asarray(value)
            for key, value in build(BRANCHES, (3, 4, 4), initialisation="he", **settings).params.items()
        },
        (3, 4, 4),
    ),
    "padded": lambda _, **settings: build(PADDED, (3, 4, 4), initialisation="he", **settings),
}
BRANCHES = (
    Branches(([Conv2d(3, 4, (3, 3)), ReLU()], [], [Conv2d(3, 3, (3, 3), groups=3), Tanh()]), "concat"),
    MaxPool2d((3, 3), (2, 2), (1, 1)),
    Residual([Residual([Conv2d(10, 2, (1, 1)), SiLU()], [Conv2d(10, 2, (3, 3))]), Conv2d(2, 10, (1, 1))]),
    Flatten(),
    Branches(([Linear(40, 2)], [Linear(40, 2)]), "concat"),
)
PADDED = (
    Conv2d(3, 3, (3, 3)),
    Residual([Conv2d(3, 6, (3, 3), (2, 2))], [AvgPool2d((2, 2)), PadChannels(1, 2)]),
    PadChannels(0, 1),
    Flatten(),
    PadChannels(1, 0),
)
PARAMETERS = inspect.Parameter


def images(n: int, dtype: str = "float32") -> Any:
    """Smooth blobs in [0, 1]."""
    rng = np.random.default_rng(0)
    centres, (rows, columns) = rng.uniform(8, 20, (2, n, 1, 1, 1)), np.mgrid[:28, :28]
    distances = (rows - centres[0]) ** 2 + (columns - centres[1]) ** 2
    return np.exp(-distances / 30).astype(dtype)


def labels(n: int) -> Any:
    return np.arange(n) % 10


def both(name: str, **settings: Any) -> tuple[Any, Any]:
    """A network of the reference, and one of the device with the same parameters."""
    network = NETWORKS[name](malade_ref, **settings)
    params = {key: to_device(value) for key, value in network.params.items()}
    return network, malade_gpu.Network(network.layers, params, network.input_shape, residual=network.residual)


def defended(network: Callable[[str], Any], **settings: Any) -> Any:
    return malade_ref.MALADE(network("cnn"), network("sdae"), **{"num_steps": 3, "a": 0.5, "delta": 0.1, **settings})


# Public names -------------------------------------------------------------------------------------------------


def test_public_names() -> None:
    assert malade_gpu.__all__ == malade_ref.__all__
    for name in malade_gpu.__all__:
        ours, theirs = getattr(malade_gpu, name), getattr(malade_ref, name)
        assert (ours.__doc__ == theirs.__doc__) or name == "ops"
        if callable(theirs):
            parameters = [
                [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()] for f in (ours, theirs)
            ]
            assert parameters[0] == parameters[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_made_alike(name: str) -> None:
    ours, theirs = NETWORKS[name](malade_gpu, seed=3), NETWORKS[name](malade_ref, seed=3)
    assert ours.ops is gpu
    assert isinstance(ours, malade_gpu.Network)
    assert not isinstance(theirs, malade_gpu.Network)
    assert isinstance(ours.astype("float64"), malade_gpu.Network)
    assert ours.architecture() == theirs.architecture()
    assert ours.metadata == theirs.metadata
    for key, value in theirs.params.items():
        assert_close(to_host(ours.params[key]), value, op="normal")


def test_the_ops_can_be_given() -> None:
    assert malade_gpu.sdae("small", ops=malade_ref.ops).ops is malade_ref.ops
    network = malade_gpu.Network.from_architecture(
        malade_ref.mlp((1, 2, 2), 3).architecture(), malade_gpu.mlp((1, 2, 2), 3).params
    )
    assert network.ops is gpu


def test_files_are_the_same(tmp_path: Path) -> None:
    theirs, ours = both("sdae")
    malade_ref.save(theirs, tmp_path / "ref.h5")
    back = malade_gpu.load(tmp_path / "ref.h5")
    malade_gpu.save(back.replace_params(back.params, theirs.metadata), tmp_path / "gpu.h5")
    assert back.ops is gpu
    assert all(type(value) is type(ours.params[key]) for key, value in back.params.items())
    assert (tmp_path / "gpu.h5").read_bytes() == (tmp_path / "ref.h5").read_bytes()


# Networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, dtype: str) -> None:
    theirs, ours = both(name, dtype=dtype)
    x, y = images(3, dtype), labels(3)

    def check(apply: Callable[[Any], Any]) -> None:
        assert_close(to_host(apply(to_device(x))), theirs.apply(x), op="network", dtype=dtype)

    assert_planted_caught(check, ours.apply)
    if name == "sdae":
        return
    for result, expected in zip(
        ours.loss_and_gradient(to_device(x), to_device(y)), theirs.loss_and_gradient(x, y), strict=True
    ):
        assert_close(to_host(result), expected, op="network", dtype=dtype)
    np.testing.assert_array_equal(to_host(ours.predict(to_device(x))), theirs.predict(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_parameters(name: str) -> None:
    theirs, ours = both(name, dtype="float64")
    x = images(4, "float64")
    results = []
    for network, batch in ((ours, to_device(x)), (theirs, x)):
        y, tape = network.forward(batch, training=True)
        dx, gradients = network.backward(tape, 2 * y, need_parameters=True)
        results.append({"dx": to_host(dx), **{key: to_host(value) for key, value in gradients.items()}})
    assert results[0].keys() == results[1].keys()
    for key, expected in results[1].items():
        assert_close(results[0][key], expected, op="network", dtype="float64")


def test_empty_batches() -> None:
    theirs, ours = (defended(lambda name, i=i: both(name)[i]) for i in (0, 1))
    x, y = images(0), labels(0)
    for name, arrays in (("purify", (x,)), ("predict", (x,)), ("loss_gradient", (x, y))):
        result = to_host(getattr(ours, name)(*map(to_device, arrays)))
        np.testing.assert_array_equal(result, getattr(theirs, name)(*arrays), strict=True)


# Chains ---------------------------------------------------------------------------------------------------------


def test_purification() -> None:
    """The paper's denoiser, 8 images, 25 steps."""
    x = images(8)
    theirs = malade_ref.sdae()
    ours = malade_gpu.Network(
        theirs.layers, {key: to_device(value) for key, value in theirs.params.items()}, theirs.input_shape
    )
    settings: dict[str, Any] = {"num_steps": 25, "a": 0.5, "delta": 0.1, "seed": 5}
    purified = malade_gpu.MALADE(both("cnn")[1], ours, **settings).purify(to_device(x))
    expected = malade_ref.MALADE(both("cnn")[0], theirs, **settings).purify(x)
    assert np.abs(expected - x).max() > 0.1
    np.testing.assert_allclose(to_host(purified), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "expectation"), [("exact", "loss"), ("exact", "logits"), ("bpda", "loss"), ("bpda-denoiser", "loss")]
)
def test_gradients_through_the_chain(mode: str, expectation: str) -> None:
    theirs, ours = (defended(lambda name, i=i: both(name, dtype="float64")[i]) for i in (0, 1))
    x, y = images(3, "float64"), labels(3)
    settings: dict[str, Any] = {"mode": mode, "num_draws": 2, "stream": Stream(4, "attack"), "expectation": expectation}
    results = ours.loss_and_gradient(to_device(x), to_device(y), **settings)
    for result, expected in zip(results, theirs.loss_and_gradient(x, y, **settings), strict=True):
        assert_close(to_host(result), expected, op="chain", dtype="float64")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "expectation"), [("exact", "loss"), ("exact", "logits"), ("bpda", "loss"), ("bpda-denoiser", "logits")]
)
def test_draws_at_once_make_no_difference(monkeypatch: pytest.MonkeyPatch, mode: str, expectation: str) -> None:
    """One by one, in pairs and a last one, or all at once: the same bits."""
    ours = defended(lambda name: both(name)[1], num_steps=2)
    sizes: list[int] = []
    forward = ours.classifier.forward
    monkeypatch.setattr(ours.classifier, "forward", lambda x: sizes.append(len(x)) or forward(x))
    settings: dict[str, Any] = {"mode": mode, "num_draws": 5, "first_draw": 1, "expectation": expectation}
    results = []
    for at_once in (1, 2, None):
        if at_once:
            monkeypatch.setattr(gpu, "copies_at_once", lambda _, at_once=at_once: at_once)
        else:
            monkeypatch.undo()
            monkeypatch.setattr(ours.classifier, "forward", lambda x: sizes.append(len(x)) or forward(x))
        results.append(ours.loss_and_gradient(to_device(images(3)), to_device(labels(3)), **settings))
    passes = 2 if expectation == "logits" else 1
    assert sizes == [3] * 5 * passes + [6, 6, 3] * passes + [15] * passes
    for result in results[1:]:
        for got, wanted in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(to_host(got), to_host(wanted))


# Layers that hold layers ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("resnet", "float32"), ("wide_resnet", "float64"), ("branches", "float32")],
)
def test_layers_within_layers(name: str, dtype: str) -> None:
    """Outputs and all gradients, as in training and as at test; running averages."""
    check_passes(BRANCHING[name](malade_ref, dtype=dtype), dtype)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("padded", "float32"),
        pytest.param("unet", "float32", marks=pytest.mark.slow),
        pytest.param("madry_wide_resnet", "float32", marks=pytest.mark.slow),
        pytest.param("cifar_resnet", "float32", marks=pytest.mark.slow),
        pytest.param("resnet_v2", "float64", marks=pytest.mark.slow),
        pytest.param("conv_sdae", "float64", marks=pytest.mark.slow),
        pytest.param("dncnn", "float64", marks=pytest.mark.slow),
    ],
)
def test_networks_for_colour_images(name: str, dtype: str) -> None:
    check_passes(BRANCHING[name](malade_ref, dtype=dtype), dtype)


def check_passes(theirs: Any, dtype: str) -> None:
    params = {key: to_device(value) for key, value in theirs.params.items()}
    ours = malade_gpu.Network(theirs.layers, params, theirs.input_shape, residual=theirs.residual)
    random = np.random.default_rng(1)
    x = random.random((2, *theirs.input_shape)).astype(dtype)
    for training in (False, True):
        expected, their_tape = theirs.forward(x, training=training)
        y, tape = ours.forward(to_device(x), training=training)
        assert_close(to_host(y), expected, op="network", dtype=dtype)
        dy = random.standard_normal(expected.shape).astype(dtype)
        need = training or not theirs.mixes_samples
        expected_dx, their_gradients = theirs.backward(their_tape, dy, need_parameters=need)
        dx, gradients = ours.backward(tape, to_device(dy), need_parameters=need)
        assert_close(to_host(dx), expected_dx, op="network", dtype=dtype)
        assert gradients.keys() == their_gradients.keys()
        # A bias before batch normalisation has no influence: its gradient is what rounding leaves of the others'.
        scale = max((float(np.abs(value).max()) for value in their_gradients.values()), default=1.0)
        for key, value in their_gradients.items():
            assert_close(to_host(gradients[key]), value, op="network", dtype=dtype, scale=scale)
    updated = theirs.updated_buffers(their_tape)
    for key, value in ours.updated_buffers(tape).items():
        assert_close(to_host(value), updated[key], op="network", dtype=dtype, scale=1)


def test_copies_and_pickles() -> None:
    """The backend goes along by its name, arrays by way of the host."""
    model = defended(lambda name: both(name)[1])
    x = to_device(images(2))
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.ops is gpu
        assert again.classifier.ops is gpu
        assert isinstance(again.denoiser, malade_gpu.Network)
        np.testing.assert_array_equal(to_host(again.logits(x)), to_host(model.logits(x)))
    mixture = malade_gpu.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[2.0]]])
    assert copy.deepcopy(mixture).ops is pickle.loads(pickle.dumps(mixture)).ops is gpu


# Attacks --------------------------------------------------------------------------------------------------------


def outcomes_agree(attack: Callable[..., Any], models: tuple[Any, Any], n: int, **settings: Any) -> Any:
    """Same decisions and costs for every sample, and the same images up to where signs of tiny gradients differ."""
    x, y = images(n), models[0].predict(images(n))
    expected = attack(models[0], x, y, **settings)
    result = attack(models[1], to_device(x), to_device(y), **settings)
    for name in ("success", "num_queries", "num_gradients"):
        np.testing.assert_array_equal(to_host(getattr(result, name)), getattr(expected, name), strict=True)
    assert_close(to_host(result.loss), expected.loss, op="chain", dtype="float32")
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("norm", slow_but(("linf",), ("linf", "l2")))
def test_pgd(norm: str) -> None:
    eps = {"linf": 0.01, "l2": 0.2}[norm]
    expected = outcomes_agree(
        malade_gpu.attacks.pgd, both("cnn"), 6, eps=eps, step_size=eps / 3, num_steps=5, norm=norm, num_restarts=2
    )
    assert 0 < expected.success.sum() < 6  # else equal outcomes would mean nothing


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "bpda"])
def test_attacks_on_the_defence(mode: str) -> None:
    models = defended(lambda name: both(name)[0]), defended(lambda name: both(name)[1])
    attack = malade_gpu.attacks.pgd
    outcomes_agree(attack, models, 3, eps=0.1, step_size=0.05, num_steps=2, mode=mode, num_draws=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mim", {"eps": 0.01, "step_size": 0.003, "num_steps": 5}),
        ("apgd", {"eps": 0.01, "num_steps": 8}),
        ("apgd", {"eps": 0.2, "num_steps": 8, "norm": "l2", "loss": "dlr", "num_targets": 2}),
        ("cw", {"num_steps": 6, "num_search_steps": 3, "initial_weight": 1.0, "step_size": 0.1}),
        ("ead", {"num_steps": 6, "num_search_steps": 3, "initial_weight": 1.0, "step_size": 0.1, "rule": "l1"}),
        ("fab", {"eps": 1.0, "num_steps": 3, "num_restarts": 2}),
        ("fab", {"eps": 5.0, "num_steps": 3, "norm": "l2", "num_targets": 1}),
        ("auto_attack", {"eps": 0.003, "num_steps": 3, "num_targets": 2, "num_square_steps": 4}),
    ],
)
def test_other_attacks(name: str, settings: dict[str, Any]) -> None:
    """From the same starts; distances too."""
    models = both("mlp", dtype="float64")
    x = images(4, "float64")
    y = models[0].predict(x)
    attack = getattr(malade_gpu.attacks, name)
    expected = attack(models[0], x, y, **settings)
    result = attack(models[1], to_device(x), to_device(y), **settings)
    for field in ("success", "num_queries", "num_gradients"):
        np.testing.assert_array_equal(to_host(getattr(result, field)), getattr(expected, field), strict=True)
    assert expected.success.any()
    for field in ("x_adv", "loss", "distance"):
        wanted = getattr(expected, field)
        np.testing.assert_allclose(to_host(getattr(result, field)), wanted, rtol=1e-6, atol=1e-9, err_msg=field)


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_but(("eot",), ("r_pgd", "drift_pgd", "eot", "apgd", "cw", "fab")))
def test_other_attacks_on_the_defence(name: str) -> None:
    def network(i: int) -> Callable[[str], Any]:
        return lambda name: both({"cnn": "mlp"}.get(name, name), dtype="float64")[i]

    models = defended(network(0), num_steps=2), defended(network(1), num_steps=2)
    x, attack = images(2, "float64"), getattr(malade_gpu.attacks, name)
    y = models[0].predict(x)
    own = {
        "cw": {"num_search_steps": 2, "initial_weight": 1.0},
        "fab": {"num_targets": 1, "eps": 1.0},
        "drift_pgd": {"weight": 0.1},
        "eot": {"expectation": "logits", "common_draws": True, "transfer_start": True},
    }.get(name, {})
    settings: dict[str, Any] = {"num_steps": 2, "num_draws": 2, "num_judge_draws": 2, **own}
    expected = attack(models[0], x, y, **settings)
    result = attack(models[1], to_device(x), to_device(y), **settings)
    np.testing.assert_array_equal(to_host(result.success), expected.success)
    np.testing.assert_allclose(to_host(result.x_adv), expected.x_adv, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(to_host(result.loss), expected.loss, rtol=1e-6)


# Training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slow_but(("batch_norm",), ("cnn", "sdae", "batch_norm")))
def test_training(name: str) -> None:
    """Two epochs from the same parameters, with the same noise, in float64."""
    x, y = images(6, "float64"), labels(6)
    layers = [Flatten(), Linear(784, 8), BatchNorm(8), ReLU(), Linear(8, 10)]
    normalised = build(layers, (1, 28, 28), initialisation="he", dtype="float64")
    fitted = []
    for i, on_device in enumerate((False, True)):
        if name == "batch_norm":
            params = {key: to_device(value) if on_device else value for key, value in normalised.params.items()}
            network = (malade_gpu if on_device else malade_ref).Network(layers, params, (1, 28, 28))
        else:
            network = both(name, dtype="float64")[i]
        objective = SupervisedDenoising(0.3, both("cnn", dtype="float64")[i]) if name == "sdae" else Classification()
        arrays = (to_device(x), to_device(y)) if on_device else (x, y)
        fitted.append(fit(network, objective, *arrays, epochs=2, batch_size=4, learning_rate=1e-3, validation=arrays))
    theirs, ours = fitted
    assert theirs.history.keys() == ours.history.keys()
    for key, values in theirs.history.items():
        if "seconds" not in key:
            np.testing.assert_allclose(ours.history[key], values, rtol=1e-9, err_msg=key)
    for key, value in theirs.network.params.items():
        np.testing.assert_allclose(to_host(ours.network.params[key]), value, rtol=1e-6, atol=1e-9, err_msg=key)


def test_training_of_vectors() -> None:
    """A residual denoiser of points that are in no [0, 1], plain and supervised."""
    rng = np.random.default_rng(0)
    x, y = 3 * rng.normal(size=(6, 2)), rng.integers(0, 3, 6)
    denoiser, judge = (
        [
            package.Network(
                network.layers, {key: move(value) for key, value in network.params.items()}, (2,), **options
            )
            for package, move in ((malade_ref, np.asarray), (malade_gpu, to_device))
        ]
        for network, options in (
            (malade_ref.mlp((2,), 2, hidden=(5,), dtype="float64"), {"residual": True}),
            (malade_ref.mlp((2,), 3, hidden=(4,), seed=1, dtype="float64"), {}),
        )
    )
    for supervised in (False, True):
        fitted = []
        for i, arrays in enumerate(((x, y), (to_device(x), to_device(y)))):
            objective = SupervisedDenoising(0.3, judge[i]) if supervised else Denoising(0.3)
            fitted.append(fit(denoiser[i], objective, *arrays, epochs=2, batch_size=4, learning_rate=1e-2).network)
        assert fitted[1].ops is gpu
        assert fitted[1].residual
        for key, value in fitted[0].params.items():
            assert np.abs(value - denoiser[0].params[key]).max() > 1e-3
            np.testing.assert_allclose(to_host(fitted[1].params[key]), value, rtol=1e-6, atol=1e-9, err_msg=key)
