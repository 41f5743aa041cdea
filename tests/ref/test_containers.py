"""Layers that hold layers: against the same written out, finite differences, files, and what does not fit."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from malade_ref import ops
from malade_ref.checkpoint import load, save
from malade_ref.checks import InputError
from malade_ref.layers import (
    BatchNorm,
    Branches,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    layer_from,
)
from malade_ref.network import Network, build, resnet, wide_resnet
from malade_ref.storage import load_record, save_record
from malade_ref.training import Classification, fit
from tests.strategies import DTYPES
from tests.tolerances import assert_close, assert_not_mutated, directional_check, planted

SHAPE = (2, 6, 5)


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def general(network: Network) -> Network:
    """The network with parameters in general position."""
    random = rng()
    return network.replace_params(
        {name: value + (0.2 * random.random(value.shape)).astype(value.dtype) for name, value in network.params.items()}
    )


def block(channels: int) -> Layer:
    body = Conv2d(channels, 3, (3, 3)), BatchNorm(3), ReLU(), Conv2d(3, channels, (3, 3)), Tanh()
    return Residual(body)


NETWORKS: dict[str, list[Layer]] = {
    "residual": [Conv2d(2, 3, (3, 3)), ReLU(), block(3), ReLU(), Conv2d(3, 2, (3, 3))],
    "projection": [Residual([Conv2d(2, 4, (3, 3)), ReLU()], [Conv2d(2, 4, (1, 1)), BatchNorm(4)]), Flatten()],
    "added": [Branches([[], [Conv2d(2, 2, (3, 3)), ReLU()], [Tanh()]])],
    "joined": [Branches([[Conv2d(2, 1, (3, 3)), ReLU()], [], [BatchNorm(2), Tanh()]], "concat"), Conv2d(5, 2, (2, 2))],
    "nested": [
        Sequential((Conv2d(2, 3, (3, 3)), ReLU(), Sequential((block(3), ReLU())))),
        Branches([[Branches([[block(3)], []], "concat")], [Conv2d(3, 6, (1, 1))]]),
        MaxPool2d((2, 2)),
        Residual([Residual([Residual([Tanh()])])]),
    ],
    "first": [Residual([Conv2d(2, 2, (3, 3))]), Flatten(), Branches([[Linear(60, 3)], [Linear(60, 4)]], "concat")],
}


def network_of(name: str, dtype: str = "float64", **settings: Any) -> Network:
    return general(build(NETWORKS[name], SHAPE, initialisation="he", dtype=dtype, **settings))


def spelled_out(layer: Layer, p: dict[str, Any], x: Any, training: bool) -> Any:
    """What a layer gives, its parts one after the other and activations by themselves."""

    def part(name: str, layers: Any, x: Any) -> Any:
        for number, inner in enumerate(layers):
            x = spelled_out(inner, within(p, f"{name}{number}"), x, training)
        return x

    match layer:
        case Sequential():
            return part("", layer.layers, x)
        case Residual():
            return part("body.", layer.body, x) + part("shortcut.", layer.shortcut, x)
        case Branches():
            outputs = [part(f"{number}.", branch, x) for number, branch in enumerate(layer.branches)]
            return sum(outputs) if layer.join == "add" else np.concatenate(outputs, axis=1)
    return layer.forward(ops, p, x, training)[0]


def within(p: dict[str, Any], name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in p.items() if key.startswith(f"{name}.")}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs(name: str, dtype: str, training: bool) -> None:
    network = network_of(name, dtype)
    x = rng().standard_normal((4, *SHAPE)).astype(dtype)
    with assert_not_mutated(x, *network.params.values()):
        y, tape = network.forward(x, training=training)
        network.backward(tape, y)
    assert y.dtype == dtype
    assert y.shape == (4, *network.output_shape)
    assert_close(y, spelled_out(Sequential(network.layers), network.params, x, training), op="network", dtype=dtype)


def check_backward(network: Network, *, training: bool) -> None:
    names = [name for name in network.params if network.trains(name)]

    def with_values(values: Any) -> Network:
        return network.replace_params({**network.params, **dict(zip(names, values, strict=True))})

    def f(x: Any, *values: Any) -> Any:
        return with_values(values).forward(x, training=training)[0]

    def vjp(dy: Any, x: Any, *values: Any) -> Any:
        _, tape = with_values(values).forward(x, training=training)
        dx, gradients = with_values(values).backward(tape, dy, need_parameters=True)
        return [dx, *(gradients[name] for name in names)]

    x = 1 + rng().standard_normal((4, *SHAPE))
    directional_check(f, vjp, [x, *(network.params[name] for name in names)], eps=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_derivatives(name: str) -> None:
    check_backward(network_of(name), training=True)


@pytest.mark.parametrize("op", ["add_up", "concatenate"])
def test_derivatives_catch_a_wrong_join(op: str) -> None:
    def wrong(arrays: Any, **settings: Any) -> Any:
        return getattr(ops, op)([1.001 * arrays[0], *arrays[1:]], **settings)

    network = network_of("joined", ops=SimpleNamespace(**{**vars(ops), op: wrong}))
    with pytest.raises(AssertionError, match="is wrong"):
        check_backward(network, training=True)


@pytest.mark.parametrize("op", ["conv2d_vjp", "relu_vjp", "tanh_vjp", "batch_norm_vjp"])
def test_derivatives_catch_a_wrong_op_inside(op: str) -> None:
    network = network_of("nested", ops=SimpleNamespace(**{**vars(ops), op: next(planted(getattr(ops, op)))}))
    if op in ("relu_vjp", "tanh_vjp"):  # by themselves, not fused into a product
        layers = [Residual([ReLU(), BatchNorm(2), Tanh(), BatchNorm(2)])]
        network = build(layers, SHAPE, initialisation="he", dtype="float64", ops=network.ops)
    with pytest.raises(AssertionError, match="is wrong"):
        check_backward(network, training=True)


def test_activations_inside_are_fused() -> None:
    called: list[str] = []

    def watched(name: str) -> Any:
        def call(*arrays: Any, **settings: Any) -> Any:
            called.append(name)
            return getattr(ops, name)(*arrays, **settings)

        return call

    names = ("relu", "relu_vjp", "tanh", "tanh_vjp", "add_bias")
    backend = SimpleNamespace(**{**vars(ops), **{name: watched(name) for name in names}})
    layers = [Residual([Conv2d(2, 3, (3, 3)), ReLU(), Conv2d(3, 2, (3, 3))], [Conv2d(2, 2, (1, 1))])]
    network = build(layers, SHAPE, initialisation="he", ops=backend)  # type: ignore[arg-type]
    y, tape = network.forward(rng().random((2, *SHAPE), dtype=np.float32))
    network.backward(tape, y)
    assert called == []


def test_what_is_not_needed_is_not_computed() -> None:
    asked: list[tuple[bool, bool]] = []

    def conv2d_vjp(*arrays: Any, **settings: Any) -> Any:
        asked.append((settings["need_dx"], settings["need_dweight"]))
        return ops.conv2d_vjp(*arrays, **settings)

    watched: Any = SimpleNamespace(**{**vars(ops), "conv2d_vjp": conv2d_vjp})
    layers = [Residual([Conv2d(2, 3, (3, 3)), Conv2d(3, 2, (3, 3))], [Conv2d(2, 2, (1, 1))])]
    network = build(layers, SHAPE, initialisation="he", ops=watched)
    y, tape = network.forward(rng().random((2, *SHAPE), dtype=np.float32))
    dx, _ = network.backward(tape, y, need_dx=False, need_parameters=True)
    assert dx is None
    assert asked == [(True, True), (False, True), (False, True)]


# Names, sizes, files --------------------------------------------------------------------------------------------


def test_names_of_parameters() -> None:
    network = network_of("nested")
    assert "0.2.0.body.1.variance" in network.params
    assert "1.0.0.0.0.body.0.weight" in network.params
    assert "1.1.0.bias" in network.params
    untrained = [name for name in network.params if not network.trains(name)]
    assert untrained == [
        "0.2.0.body.1.mean",
        "0.2.0.body.1.variance",
        "1.0.0.0.0.body.1.mean",
        "1.0.0.0.0.body.1.variance",
    ]
    assert network.num_parameters == sum(v.size for k, v in network.params.items() if network.trains(k))
    assert network.mixes_samples
    assert not network_of("first").mixes_samples
    x = rng().standard_normal((3, *SHAPE))
    y, tape = network.forward(x, training=True)
    assert list(network.updated_buffers(tape)) == untrained
    _, gradients = network.backward(tape, y, need_parameters=True)
    assert gradients.keys() == {name for name in network.params if network.trains(name)}


def test_slices_are_those_of_the_largest_activation() -> None:
    inside = build([Residual([Conv2d(1, 500, (1, 1)), Conv2d(500, 1, (1, 1))])], (1, 40, 40), initialisation="he")
    outside = build([Conv2d(1, 500, (1, 1)), Conv2d(500, 1, (1, 1))], (1, 40, 40), initialisation="he")
    assert inside.slice_size == outside.slice_size == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_files(name: str, tmp_path: Any) -> None:
    network = network_of(name, "float32")
    text = json.dumps(network.architecture())
    again = Network.from_architecture(json.loads(text), network.params)
    assert again.layers == network.layers
    save(network, tmp_path / "a.h5")
    loaded = load(tmp_path / "a.h5")
    assert json.dumps(loaded.architecture()) == text
    x = rng().random((3, *SHAPE), dtype=np.float32)
    np.testing.assert_array_equal(loaded.apply(x), network.apply(x))


def deep(depth: int) -> dict[str, Any]:
    description: dict[str, Any] = {"kind": "relu"}
    for _ in range(depth):
        description = {"kind": "residual", "body": [description], "shortcut": []}
    return description


def endless() -> dict[str, Any]:
    description: dict[str, Any] = {"kind": "residual", "shortcut": []}
    description["body"] = [description, description]
    return description


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (deep(40), "expected at most 32 within each other"),
        (endless(), "within each other"),
        ({"kind": "sequential", "layers": [{"kind": "relu"}] * 10_001}, "layers: expected at most 10000"),
        ({"kind": "residual"}, "missing 1 required positional argument"),
        ({"kind": "residual", "body": {"kind": "relu"}}, "residual: body: expected a sequence of layers, got ReLU"),
        ({"kind": "residual", "body": ["relu"]}, "residual: body: expected layers, got str"),
        ({"kind": "residual", "body": [{"kind": "residual"}]}, "missing"),
        ({"kind": "residual", "body": 3}, "residual: body: expected a sequence of layers, got int"),
        ({"kind": "branches", "branches": []}, "branches: expected at least one sequence of layers"),
        ({"kind": "branches", "branches": [{"kind": "relu"}]}, "branches: branch 0: expected a sequence of layers"),
        ({"kind": "branches", "branches": [[]], "join": "mul"}, "branches: join: expected one of add, concat"),
        ({"kind": "branches", "branches": [[{"kind": "dense"}]]}, "layer kind: expected one of"),
        ({"kind": "sequential", "layers": [[{"kind": "relu"}]]}, "sequential: expected layers, got tuple"),
        ({"kind": "relu", "layers": []}, "unexpected keyword argument"),
        ({"kind": "conv2d", "in_channels": {"kind": "relu"}, "out_channels": 1, "kernel_size": [1, 1]}, "in_channels"),
    ],
)  # fmt: skip
def test_hostile_descriptions(layer: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Network.from_architecture({"layers": [layer], "input_shape": [2, 4, 4]}, {})
    assert "\n" not in str(caught.value)


def test_hostile_files(tmp_path: Any) -> None:
    save(network_of("residual"), tmp_path / "a.h5")
    arrays, meta = load_record(tmp_path / "a.h5", kind="network")
    for change in (deep(25), deep(40), {"kind": "residual", "body": [{"kind": "flatten"}], "shortcut": []}):
        content = json.loads(json.dumps(meta))
        content["architecture"]["layers"][2] = change
        save_record(tmp_path / "b.h5", dict(arrays), content, kind="network")
        with pytest.raises(InputError, match=r"b\.h5: (describes no network|meta: not valid JSON \(nested)"):
            load(tmp_path / "b.h5")


def test_old_files_read_as_before() -> None:
    old = {"layers": [{"kind": "conv2d", "in_channels": 2, "out_channels": 3, "kernel_size": [3, 3]}]}
    assert layer_from(old["layers"][0]) == Conv2d(2, 3, (3, 3))
    plain = build([Conv2d(2, 3, (3, 3)), ReLU()], SHAPE, initialisation="he").architecture()
    written = {**old["layers"][0], "stride": [1, 1], "padding": "same"}
    assert json.loads(json.dumps(plain["layers"])) == [written, {"kind": "relu"}]


# What does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([ReLU(), Residual([Conv2d(3, 3, (3, 3))])], r"^layer 1\.body\.0: conv2d: expected an input of shape"),
        ([Residual([], [Linear(3, 3)])], r"^layer 0\.shortcut\.0: linear: expected an input of shape \(3,\)"),
        ([Residual([Residual([Flatten()])])], r"^layer 0\.body\.0: residual: expected outputs of one"),
        ([Branches([[], [Conv2d(2, 3, (1, 1))]])], r"^layer 0: branches: expected outputs of one shape to add"),
        ([Branches([[], [MaxPool2d((2, 2))]], "concat")], r"^layer 0: branches: expected outputs that differ"),
        ([Branches([[ReLU()], [ReLU(), BatchNorm(3)]])], r"^layer 0\.1\.1: batch_norm: expected an input"),
        ([Sequential((ReLU(), Sequential((Linear(2, 2),))))], r"^layer 0\.1\.0: linear: expected an input"),
        ([Conv2d(2, 3, (9, 9), padding=0)], r"^layer 0: weight: kernel \(9, 9\) is larger than the padded input"),
        ([Residual([Conv2d(2, 1 << 22, (1, 1))])], r"^layer 0\.body\.0: conv2d: an output of shape .* is too large"),
        ([ReLU], "expected layers, got type"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_by_its_path(layers: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Network(layers, _zeros(layers), SHAPE)
    assert "\n" not in str(caught.value)


def _zeros(layers: Any) -> dict[str, Any]:
    try:
        shapes = Sequential(tuple(layers)).parameter_shapes()
    except InputError:
        return {}
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def test_layers_within_each_other_without_end() -> None:
    layer: Layer = ReLU()
    for _ in range(16):
        layer = Residual([layer])
    with pytest.raises(InputError, match="sequential: expected at most 32 layers within each other"):
        Residual([layer])


def test_a_list_that_holds_itself_is_copied() -> None:
    body: list[Any] = [ReLU()]
    body.append(Residual(body))
    assert Residual(body).body == (ReLU(), Residual((ReLU(),)))


# Builders, and training -----------------------------------------------------------------------------------------


def test_resnets() -> None:
    """He et al. (with 3x3 convolutions first): 11.17 and 0.27 million; Zagoruyko and Komodakis: 1.47; and biases."""
    for network, trained, biases in (
        (resnet((3, 32, 32), 10), 11_173_962, 4_800),
        (resnet((3, 32, 32), 10, depth=20), 272_474, 16 * 7 + 32 * 7 + 64 * 7),
        (wide_resnet((3, 32, 32), 10), 1_467_610, 16 + 3 * 0 + 32 * 9 + 64 * 9 + 128 * 9),
    ):
        assert network.output_shape == (10,)
        assert network.num_parameters == pytest.approx(trained + biases, abs=300)
    small = resnet((3, 8, 8), 4, depth=8, channels=4, normalize=((0.5,) * 3, (0.2,) * 3), seed=3)
    assert [layer.kind for layer in small.layers[:3]] == ["normalize", "conv2d", "batch_norm"]
    assert small.metadata == {"network": "resnet", "depth": 8, "seed": 3}
    same, other = (resnet((3, 8, 8), 4, depth=8, channels=4, seed=seed, dtype="float64") for seed in (3, 4))
    again = resnet((3, 8, 8), 4, depth=8, channels=4, seed=3, dtype="float64")
    assert again.fingerprint() == same.fingerprint()
    assert not np.array_equal(same.params["3.body.0.weight"], other.params["3.body.0.weight"])
    weight = resnet((3, 8, 8), 4, depth=8).params["5.body.3.weight"]
    assert np.var(weight) == pytest.approx(2 / (32 * 9), rel=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resnet((3, 8, 8), 4, depth=10), "depth: expected 18, 34 or 6 n"),
        (lambda: wide_resnet((3, 8, 8), 4, depth=12), "depth: expected 6 n"),
        (lambda: wide_resnet((3, 8, 8), 4, depth=10, width=0), "width: expected an integer >= 1"),
        (lambda: resnet((3, 8), 4, depth=8), r"input_shape: expected \(c, h, w\)"),
        (lambda: resnet((3, 8, 8), 4, depth=8, normalize=((0.5,), (0.2,))), "layer 0: normalize: expected an input"),
        (lambda: resnet((3, 8, 8), 0, depth=8), "out_features"),
    ],
)
def test_complaints_of_builders(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_training() -> None:
    """A small residual network with dropout inside learns which of two patterns it sees."""
    x = rng().random((24, 1, 6, 6), dtype=np.float32) * 0.5
    y = np.arange(24) % 2
    x[y == 1, :, 2:4] += 0.5
    head: list[Layer] = [Flatten(), Linear(4 * 36, 2)]
    body = Conv2d(4, 4, (3, 3)), BatchNorm(4), ReLU(), Dropout(0.2), Conv2d(4, 4, (3, 3))
    network = build([Conv2d(1, 4, (3, 3)), Residual(body), ReLU(), *head], (1, 6, 6), initialisation="he")
    fitted = fit(network, Classification(), x, y, epochs=20, batch_size=8, learning_rate=1e-2).network
    assert (fitted.predict(x) == y).mean() > 0.9
    assert not np.array_equal(fitted.params["1.body.1.mean"], network.params["1.body.1.mean"])
