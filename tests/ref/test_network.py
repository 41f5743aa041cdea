"""Networks: against their tables written out, finite differences, and what a second call could spoil."""

from __future__ import annotations

import hashlib
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from malade_ref.layers import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    ReLU,
    Reshape,
    Tanh,
    fused,
)
from malade_ref.network import LossGradient, Network, build, cnn, join, madry, mlp, sdae
from tests import textbook
from tests.strategies import DTYPES
from tests.tolerances import assert_close, assert_no_alias, assert_not_mutated, directional_check, planted


def rng() -> np.random.Generator:
    return np.random.default_rng(2)


def images(n: int, dtype: str = "float64", shape: tuple[int, ...] = (1, 28, 28)) -> Any:
    return rng().random((n, *shape)).astype(dtype)


def labels(n: int, k: int = 10) -> Any:
    return rng().integers(0, k, n)


def general(network: Network) -> Network:
    """The network with parameters in general position, biases and statistics too."""
    random = rng()
    params = {
        name: value + (0.2 * random.random(value.shape)).astype(value.dtype)
        if name.endswith(("gain", "variance"))
        else value + (0.1 * random.standard_normal(value.shape)).astype(value.dtype)
        if not name.endswith("weight")
        else value
        for name, value in network.params.items()
    }
    return network.replace_params(params)


def every_layer(dtype: str = "float64") -> Network:
    """Every kind of layer, activations beside products and apart from them, unequal sides and explicit paddings."""
    layers: list[Layer] = [
        Conv2d(2, 4, (3, 2), (1, 1), ((1, 0), (0, 2))),
        BatchNorm(4),
        ReLU(),
        AvgPool2d((2, 3)),
        Flatten(),
        Linear(4 * 2 * 2, 12),
        BatchNorm(12),
        ReLU(),
        Reshape((3, 2, 2)),
        ConvTranspose2d(3, 2, (3, 3), (2, 2), ((1, 0), (0, 1)), (1, 0)),
        Tanh(),
        Flatten(),
        Linear(2 * 5 * 4, 5),
        Tanh(),
    ]
    return general(build(layers, (2, 6, 6), initialisation="glorot", dtype=dtype, ops=ops))


NETWORKS: dict[str, Any] = {
    "cnn": lambda dtype: general(cnn("small", dtype=dtype)),
    "sdae": lambda dtype: general(sdae("small", dtype=dtype)),
    "madry": lambda dtype: general(madry("small", dtype=dtype)),
    "mlp": lambda dtype: general(mlp((1, 5, 4), 3, hidden=(8,), dtype=dtype)),
    "every layer": every_layer,
}


# The paper's tables -----------------------------------------------------------------------------------------


def test_parameter_counts() -> None:
    assert sdae().num_parameters == 26_832
    layers = [(9 * 1 + 1) * 128, (25 * 128 + 1) * 64, (64 * 14 * 14 + 1) * 128, (128 + 1) * 10]
    assert cnn().num_parameters == sum(layers)
    assert cnn("small").num_parameters == (9 + 1) * 16 + (25 * 16 + 1) * 32 + (32 * 196 + 1) * 64 + 65 * 10
    assert mlp((1, 5, 4), 3, hidden=(8, 6)).num_parameters == 21 * 8 + 9 * 6 + 7 * 3
    # Running averages are no trained parameters.
    network = every_layer()
    assert network.num_parameters == sum(v.size for k, v in network.params.items() if network.trains(k))
    assert [name for name in network.params if not network.trains(name)] == [
        *("1.mean", "1.variance", "6.mean", "6.variance")
    ]


@pytest.mark.parametrize("preset", ["paper", "small"])
def test_sizes_of_the_layers(preset: str) -> None:
    """28 -> 14 -> 7 -> 14 -> 28, by TensorFlow's SAME."""
    for network, sizes in ((cnn(preset), [28, 28, 14, 14]), (sdae(preset), [14, 14, 7, 7, 14, 14, 28, 28, 28, 28])):
        x = images(1, "float32")
        shape = network.input_shape
        for number, layer in enumerate(network.layers):
            params = {name: network.params[f"{number}.{name}"] for name in layer.parameter_shapes()}
            x, _ = layer.forward(ops, params, x, False)
            shape = layer.output_shape(shape)
            assert x.shape == (1, *shape)
            if number < len(sizes):
                assert x.shape[2:] == (sizes[number], sizes[number])
        assert shape == network.output_shape
    assert cnn(preset).output_shape == (10,)
    assert cnn(preset).num_classes == 10
    assert sdae(preset).output_shape == sdae(preset).input_shape == (1, 28, 28)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("preset", ["paper", "small"])
def test_cnn_is_table_5(preset: str, dtype: str) -> None:
    network = general(cnn(preset, dtype=dtype))
    p, x = network.params, images(2, dtype)
    y = np.maximum(textbook.same_conv(x, p["0.weight"], p["0.bias"]), 0)
    y = np.maximum(textbook.same_conv(y, p["2.weight"], p["2.bias"], stride=2), 0)
    y = np.maximum(y.reshape(2, -1) @ p["5.weight"].astype("float64").T + p["5.bias"], 0)
    y = y @ p["7.weight"].astype("float64").T + p["7.bias"]
    assert_close(network.apply(x), y, op="network", dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("preset", ["paper", "small"])
def test_sdae_is_table_6(preset: str, dtype: str) -> None:
    network = general(sdae(preset, dtype=dtype))
    p, x = network.params, images(2, dtype)
    y = np.tanh(textbook.same_conv(x, p["0.weight"], p["0.bias"], stride=2))
    y = np.tanh(textbook.same_conv(y, p["2.weight"], p["2.bias"], stride=2))
    y = np.tanh(textbook.same_conv_transpose(y, p["4.weight"], p["4.bias"], stride=2))
    y = np.tanh(textbook.same_conv_transpose(y, p["6.weight"], p["6.bias"], stride=2))
    # A 1x1 kernel with stride 2: three of four pixels are tanh(bias).
    assert np.unique(y[:, :, 1::2, :]).size == np.unique(y[:, :, :, 1::2]).size == 1
    assert y[0, 0, 1, 1] == np.tanh(float(p["6.bias"][0]))
    y = np.tanh(textbook.same_conv(y, p["8.weight"], p["8.bias"]))
    assert_close(network.apply(x), y, op="network", dtype=dtype)


# Products together with activations -------------------------------------------------------------------------


def apart() -> Any:
    """The ops, with bias, activations and derivatives in calls of their own."""

    def product(op: Any) -> Any:
        def call(*arrays: Any, bias: Any, activation: str | None = None, **settings: Any) -> Any:
            assert activation is None
            return ops.add_bias(op(*arrays, **settings), bias)

        return call

    def vjp(op: Any) -> Any:
        def call(*arrays: Any, input_activation: str | None = None, **settings: Any) -> Any:
            assert input_activation is None
            return op(*arrays, **settings)

        return call

    names = "conv2d", "conv_transpose2d", "linear"
    products = {name: product(getattr(ops, name)) for name in names}
    vjps = {f"{name}_vjp": vjp(getattr(ops, f"{name}_vjp")) for name in names}
    return SimpleNamespace(**{**vars(ops), **products, **vjps})


@st.composite
def small_networks(draw: st.DrawFn) -> Network:
    """Up to six layers, of which products and activations follow each other in every way."""
    input_shape = shape = draw(st.sampled_from([(2, 4, 5), (1, 6, 4), (3,)]))
    layers: list[Layer] = []
    for _ in range(draw(st.integers(1, 6))):
        choices: list[Any] = [ReLU(), Tanh(), BatchNorm(shape[0])]
        if len(shape) == 1:
            choices += [Linear(shape[0], 4), Reshape((shape[0], 1, 1))]
        else:
            stride = draw(st.sampled_from([(1, 1), (2, 1)]))
            choices += [Conv2d(shape[0], 3, (2, 3), stride), ConvTranspose2d(shape[0], 2, (3, 1), stride), Flatten()]
        layer = draw(st.sampled_from(choices))
        layers.append(layer)
        shape = layer.output_shape(shape)
    residual = shape == input_shape and draw(st.booleans())
    dtype = draw(st.sampled_from(DTYPES))
    return general(build(layers, input_shape, initialisation="he", dtype=dtype, residual=residual))


@given(small_networks(), st.booleans())
def test_layers_together_are_layers_apart(network: Network, training: bool) -> None:
    """Bit for bit: outputs, what is remembered, gradients."""
    x = rng().standard_normal((3, *network.input_shape)).astype(network.dtype)
    y, tape = network.forward(x, training=training)
    dy = rng().standard_normal(y.shape).astype(network.dtype)
    need_parameters = training or not network.mixes_samples
    dx, gradients = network.backward(tape, dy, need_parameters=need_parameters)

    one_by_one, expected_tape, expected, expected_dx = apart(), [], x, dy
    params = [
        {name: network.params[f"{number}.{name}"] for name in layer.parameter_shapes()}
        for number, layer in enumerate(network.layers)
    ]
    for layer, p in zip(network.layers, params, strict=True):
        expected, saved = layer.forward(one_by_one, p, expected, training)
        expected_tape.append(saved)
    np.testing.assert_array_equal(y, x + expected if network.residual else expected, strict=True)
    for saved, wanted in zip(tape, expected_tape, strict=True):
        assert type(saved) is type(wanted)
        for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (saved, wanted)), strict=True):
            np.testing.assert_array_equal(a, b)
    expected_gradients = {}
    for number in reversed(range(len(network.layers))):
        arguments = one_by_one, params[number], expected_tape[number], expected_dx, True, need_parameters
        expected_dx, of_layer = network.layers[number].backward(*arguments)
        expected_gradients.update({f"{number}.{name}": value for name, value in of_layer.items()})
    np.testing.assert_array_equal(dx, expected_dx + dy if network.residual else expected_dx, strict=True)
    assert gradients.keys() == expected_gradients.keys()
    for name, wanted in expected_gradients.items():
        np.testing.assert_array_equal(gradients[name], wanted, strict=True)


def test_which_layers_go_together() -> None:
    layers = [ReLU(), Conv2d(1, 2, (3, 3)), BatchNorm(2), Tanh(), Flatten(), Reshape((2, 4, 4)), Conv2d(2, 1, (1, 1))]
    layers += [ReLU(), AvgPool2d((2, 2)), Flatten(), Linear(4, 4), Tanh(), Tanh(), Linear(4, 4)]
    steps = fused(layers)
    products = {i: (step.activation, step.input_activation) for i, step in enumerate(steps) if i in (1, 6, 10, 13)}
    assert products == {1: (None, "relu"), 6: ("relu", "tanh"), 10: ("tanh", None), 13: (None, "tanh")}
    activations = {i: (step.forwards, step.backwards) for i, step in enumerate(steps) if i in (0, 3, 7, 11, 12)}
    assert activations == {
        **{0: (False, True), 3: (False, True), 7: (True, False), 11: (True, False), 12: (False, True)}
    }
    assert [steps[i] for i in (2, 4, 5, 8, 9)] == [layers[i] for i in (2, 4, 5, 8, 9)]
    assert fused([]) == ()


def test_no_call_is_wasted() -> None:
    """Of the paper's classifier: a call a product, and none for what is beside it."""
    called = []

    def watched(name: str) -> Any:
        def call(*arrays: Any, **settings: Any) -> Any:
            called.append(name)
            return getattr(ops, name)(*arrays, **settings)

        return call

    names = [name for name in ops.__all__ if name.removesuffix("_vjp") in ("conv2d", "linear", "relu", "add_bias")]
    network = cnn("small", ops=SimpleNamespace(**{**vars(ops), **{name: watched(name) for name in names}}))  # type: ignore[arg-type]
    y, tape = network.forward(images(2, "float32"))
    network.backward(tape, y)
    assert called == ["conv2d"] * 2 + ["linear"] * 2 + ["linear_vjp"] * 2 + ["conv2d_vjp"] * 2


# Derivatives ------------------------------------------------------------------------------------------------


def check_backward(network: Network, x: Any, *, training: bool = False) -> None:
    """With respect to the input, and to all trained parameters at once."""
    names = [name for name in network.params if network.trains(name)]

    def with_values(values: Any) -> Network:
        return network.replace_params({**network.params, **dict(zip(names, values, strict=True))})

    def input_gradient(dy: Any, x: Any) -> Any:
        _, tape = network.forward(x, training=training)
        return network.backward(tape, dy)[0]

    def parameter_gradients(dy: Any, *values: Any) -> Any:
        _, tape = with_values(values).forward(x, training=training)
        _, gradients = with_values(values).backward(tape, dy, need_dx=False, need_parameters=True)
        return [gradients[name] for name in names]

    directional_check(lambda x: network.forward(x, training=training)[0], input_gradient, [x], eps=1e-3)
    directional_check(
        lambda *values: with_values(values).forward(x, training=training)[0],
        parameter_gradients,
        [network.params[name] for name in names],
        eps=1e-3,
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_finite_differences(name: str) -> None:
    network = NETWORKS[name]("float64")
    check_backward(network, images(4, shape=network.input_shape), training=network.mixes_samples)


def test_finite_differences_with_running_statistics() -> None:
    network = every_layer()
    directional_check(
        lambda x: network.forward(x)[0],
        lambda dy, x: network.backward(network.forward(x)[1], dy)[0],
        [images(2, shape=network.input_shape)],
        eps=1e-3,
    )


LAYER_VJPS = ("conv2d", "conv_transpose2d", "linear", "add_bias", "relu", "tanh", "avg_pool2d", "batch_norm")


@pytest.mark.parametrize("op", [f"{name}_vjp" for name in LAYER_VJPS])
def test_finite_differences_catch_a_wrong_op(op: str) -> None:
    """An error of 0.1% in one op is an error of the network."""
    network = every_layer()
    wrong = SimpleNamespace(**{**vars(ops), op: next(planted(getattr(ops, op)))})
    network = Network(network.layers, network.params, network.input_shape, ops=wrong)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="is wrong"):
        check_backward(network, images(4, shape=network.input_shape), training=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_only_what_is_needed_is_computed(name: str) -> None:
    network = NETWORKS[name]("float64")
    y, tape = network.forward(images(2, shape=network.input_shape), training=network.mixes_samples)
    dx, gradients = network.backward(tape, y, need_parameters=True)
    assert gradients.keys() == {name for name in network.params if network.trains(name)}
    only_dx, nothing = network.backward(tape, y)
    assert np.array_equal(only_dx, dx)
    assert nothing == {} or network.mixes_samples
    no_dx, only_gradients = network.backward(tape, y, need_dx=False, need_parameters=True)
    assert no_dx is None
    assert all(np.array_equal(only_gradients[name], gradients[name]) for name in gradients)


def test_nobody_needs_the_first_layers_input_gradient() -> None:
    asked = []

    def conv2d_vjp(*arrays: Any, **settings: Any) -> Any:
        asked.append((settings["need_dx"], settings["need_dweight"]))
        return ops.conv2d_vjp(*arrays, **settings)

    watched: Any = SimpleNamespace(**{**vars(ops), "conv2d_vjp": conv2d_vjp})
    network = cnn("small", ops=watched)
    y, tape = network.forward(images(2, "float32"))
    network.backward(tape, y, need_dx=False, need_parameters=True)
    network.backward(tape, y)
    assert asked == [(True, True), (False, True), (True, False), (True, False)]


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_loss_gradient(name: str) -> None:
    network = NETWORKS[name]("float64")
    x, y = images(3, shape=network.input_shape), labels(3, network.num_classes)
    result = network.loss_and_gradient(x, y)
    probabilities = np.exp(result.logits) / np.exp(result.logits).sum(axis=1, keepdims=True)
    assert_close(result.loss, -np.log(probabilities[np.arange(3), y]), op="network")
    assert_close(result.logits, network.logits(x), op="network")
    assert np.array_equal(network.loss_gradient(x, y), result.gradient)
    directional_check(
        lambda x: network.loss_and_gradient(x, y).loss,
        lambda w, x: network.loss_gradient(x, y) * w[:, None, None, None],
        [x],
        eps=1e-3,
    )


# Nothing is kept, nothing is spoiled -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_second_call_does_not_spoil_the_first(name: str) -> None:
    network = NETWORKS[name]("float32")
    training = network.mixes_samples
    first, second = images(2, "float32", network.input_shape), images(5, "float32", network.input_shape)[3:]
    with assert_not_mutated(first, second, *network.params.values()):
        y, tape = network.forward(first, training=training)
        dx, gradients = network.backward(tape, y, need_parameters=True)
        kept = y.copy(), dx.copy(), {name: value.copy() for name, value in gradients.items()}
        other, other_tape = network.forward(second, training=training)
        network.backward(other_tape, other, need_parameters=True)
        network.forward(first, training=training)
        again, gradients_again = network.backward(tape, y, need_parameters=True)
    assert np.array_equal(y, kept[0])
    assert np.array_equal(dx, kept[1])
    assert np.array_equal(again, kept[1])
    for name, value in kept[2].items():
        assert np.array_equal(gradients[name], value)
        assert np.array_equal(gradients_again[name], value)
    assert not np.array_equal(other, kept[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_results_do_not_alias(name: str) -> None:
    network = NETWORKS[name]("float32")
    x = images(2, "float32", network.input_shape)
    assert_no_alias(network.apply(x), x, *network.params.values())
    y, tape = network.forward(x)
    dx, _ = network.backward(tape, y)
    assert_no_alias(dx, x, y, *network.params.values())


# Batches and threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_results_do_not_depend_on_the_batch(name: str, dtype: str) -> None:
    network = NETWORKS[name](dtype)
    x = images(37, dtype, network.input_shape)
    y = network.apply(x)
    for i in (0, 15, 36):
        assert_close(network.apply(x[i : i + 1]), y[i : i + 1], op="network", scale=np.abs(y).max())
    parts = [network.apply(x[:20]), network.apply(x[20:])]
    assert_close(np.concatenate(parts), y, op="network")
    reverse = network.apply(x[::-1])[::-1]
    assert_close(reverse, y, op="network")
    if len(network.output_shape) == 1:
        z = labels(37, network.num_classes)
        whole = network.loss_gradient(x, z)
        alone = [network.loss_gradient(x[i : i + 1], z[i : i + 1]) for i in range(0, 37, 9)]
        assert_close(np.concatenate(alone), whole[::9], op="network")


@pytest.mark.parametrize("name", ["cnn", "sdae"])
def test_results_do_not_depend_on_the_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORKS[name]("float32")
    x, y = images(70, "float32"), labels(70)
    results = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("MALADE_NUM_THREADS", threads)
        results.append([network.apply(x), *(network.loss_and_gradient(x, y) if name == "cnn" else ())])
    for other in results[1:]:
        assert [value.tobytes() for value in other] == [value.tobytes() for value in results[0]]


@pytest.mark.parametrize("name", NETWORKS)
def test_empty_batches(name: str) -> None:
    network = NETWORKS[name]("float32")
    x = images(0, "float32", network.input_shape)
    assert network.apply(x).shape == (0, *network.output_shape)
    assert network.apply(x).dtype == np.float32
    if len(network.output_shape) == 1:
        assert network.predict(x).shape == (0,)
        assert network.loss_gradient(x, labels(0)).shape == x.shape


def test_predict_is_the_largest_logit() -> None:
    network = NETWORKS["cnn"]("float32")
    x = images(5, "float32")
    assert network.predict(x).tolist() == network.logits(x).argmax(axis=1).tolist()
    assert not network.stochastic


def test_joining() -> None:
    part = LossGradient(np.zeros(2), np.zeros((2, 3)), np.zeros((2, 1, 4, 4)))
    assert [array.shape for array in join(ops, [part, part])] == [(4,), (4, 3), (4, 1, 4, 4)]


# Batch normalisation ----------------------------------------------------------------------------------------


def test_running_averages() -> None:
    network = build([BatchNorm(3, momentum=0.25)], (3, 2, 2), initialisation="he", dtype="float64")
    x = 3 + 2 * rng().standard_normal((4, 3, 2, 2))
    y, tape = network.forward(x, training=True)
    channels = np.moveaxis(x, 1, 0).reshape(3, -1)
    assert_close(y.mean(axis=(0, 2, 3)), np.zeros(3), op="network", scale=1)
    updated = network.updated_buffers(tape)
    assert_close(updated["0.mean"], 0.25 * channels.mean(axis=1), op="batch_norm")
    assert_close(updated["0.variance"], 0.75 + 0.25 * channels.var(axis=1, ddof=1), op="batch_norm")
    with pytest.raises(InputError, match="training=True"):
        network.backward(network.forward(x)[1], y, need_parameters=True)
    after = network.replace_params({**network.params, **updated})
    means, variances = (updated[f"0.{name}"][:, None, None] for name in ("mean", "variance"))
    assert_close(after.apply(x), (x - means) / np.sqrt(variances + 1e-5), op="batch_norm")


# Initialisation ---------------------------------------------------------------------------------------------


def test_initial_weights() -> None:
    """He: normal, variance 2 / fan_in. Glorot: uniform, variance 2 / (fan_in + fan_out)."""
    weight = cnn().params["2.weight"]
    assert np.var(weight) == pytest.approx(2 / (128 * 25), rel=0.02)
    assert abs(float(weight.mean())) < 4 * math.sqrt(2 / 3200 / weight.size)
    weight = sdae().params["2.weight"]  # each output pixel sees 10 * 25 inputs, each input 25 * 25 / 4 outputs
    limit = math.sqrt(6 / (10 * 25 + 25 * 25 / 4))
    assert 0.999 * limit < np.abs(weight).max() < limit
    weight = sdae().params["4.weight"]  # each output pixel sees 25 * 81 / 4 inputs, each input 10 * 81 outputs
    limit = math.sqrt(6 / (25 * 81 / 4 + 10 * 81))
    assert 0.999 * limit < np.abs(weight).max() < limit
    assert np.var(weight) == pytest.approx(limit**2 / 3, rel=0.03)
    for network in (cnn("small"), sdae("small")):
        assert all((value == 0).all() for name, value in network.params.items() if name.endswith("bias"))
    norm = build([BatchNorm(3)], (3, 2, 2), initialisation="he").params
    assert {name: set(value.tolist()) for name, value in norm.items()} == {
        **{"0.gain": {1.0}, "0.bias": {0.0}, "0.mean": {0.0}, "0.variance": {1.0}}
    }


def test_activations_keep_their_scale() -> None:
    """What the two initialisations are for."""
    layers: list[Layer] = [Flatten(), *(layer for _ in range(6) for layer in (Linear(400, 400), ReLU()))]
    x = rng().standard_normal((50, 1, 20, 20))
    y = build(layers, (1, 20, 20), initialisation="he", dtype="float64").apply(x)
    assert 0.5 < np.mean(y**2) / np.mean(x**2) < 2


def test_seeds() -> None:
    one, same, other = cnn("small", seed=1), cnn("small", seed=1), cnn("small", seed=2)
    for name in one.params:
        assert np.array_equal(one.params[name], same.params[name])
        assert np.array_equal(one.params[name], other.params[name]) == name.endswith("bias")
    assert one.metadata == {"network": "cnn", "preset": "small", "seed": 1}
    assert cnn("small", dtype="float64").dtype == "float64"


# Vectors, and residual networks -----------------------------------------------------------------------------


def test_a_residual_network_adds_its_input() -> None:
    plain = general(mlp((3,), 3, hidden=(5, 4), dtype="float64"))
    network = Network(plain.layers, plain.params, (3,), residual=True)
    x = rng().normal(size=(6, 3))
    with assert_not_mutated(x):
        np.testing.assert_allclose(network.apply(x), x + plain.apply(x), rtol=1e-15)
    assert network.replace_params(plain.params).residual
    assert network.astype("float32").residual
    assert mlp((3,), 3, residual=True).residual

    def f(x: Any, *params: Any) -> Any:
        return network.replace_params(dict(zip(network.params, params, strict=True))).forward(x)[0]

    def vjp(dy: Any, x: Any, *params: Any) -> Any:
        dx, gradients = network.backward(network.forward(x)[1], dy, need_parameters=True)
        return [dx, *(gradients[name] for name in network.params)]

    directional_check(f, vjp, [x, *network.params.values()])
    dy = rng().normal(size=x.shape)
    with assert_not_mutated(dy):
        dx, _ = network.backward(network.forward(x)[1], dy)
    assert dx is not None
    assert_no_alias(dx, dy)


def test_a_residual_network_is_stored_as_one() -> None:
    network = mlp((2,), 2, residual=True)
    again = Network.from_architecture(json.loads(json.dumps(network.architecture())), network.params)
    assert again.residual
    x = rng().normal(size=(4, 2)).astype("float32")
    np.testing.assert_array_equal(again.apply(x), network.apply(x))
    with pytest.raises(InputError, match="residual: expected true or false"):
        Network.from_architecture({**network.architecture(), "residual": "yes"}, network.params)
    with pytest.raises(InputError, match=r"residual: expected outputs of shape \(3,\), got \(2,\)"):
        mlp((3,), 2, residual=True)
    assert "residual" not in mlp((2,), 2).architecture()


def test_vectors_are_any_finite_numbers() -> None:
    network = mlp((2,), 3, dtype="float64")
    x = 100 * rng().normal(size=(5, 2))
    assert network.logits(x).shape == (5, 3)
    assert network.loss_gradient(x, labels(5, 3)).shape == (5, 2)
    with pytest.raises(InputError, match="x: vector 4 has a number that is not finite"):
        network.logits(np.where(np.arange(10).reshape(5, 2) == 9, np.nan, x))
    # Images keep their range: a network of vectors loosens nothing.
    with pytest.raises(InputError, match="outside"):
        mlp((1, 1, 2), 3, dtype="float64").logits(x.reshape(5, 1, 1, 2))


# Architectures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_architecture_round_trip(name: str) -> None:
    network = NETWORKS[name]("float32")
    text = json.dumps(network.architecture())
    again = Network.from_architecture(json.loads(text), network.params, metadata=network.metadata)
    assert again.layers == network.layers
    assert again.metadata == network.metadata
    assert json.dumps(again.architecture()) == text
    x = images(3, "float32", network.input_shape)
    assert again.apply(x).tobytes() == network.apply(x).tobytes()


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    """The architecture of every layer, with one entry replaced, or removed if the value is ``...``."""
    architecture = json.loads(json.dumps(every_layer().architecture()))
    place = architecture
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return architecture


@pytest.mark.parametrize(
    "architecture",
    [
        {},
        changed(["layers"], None),
        changed(["layers"], 5),
        changed(["layers", 0], "conv2d"),
        changed(["layers", 0, "kind"], "dense"),
        changed(["layers", 0, "kind"], ...),
        changed(["layers", 0, "kind"], ["conv2d"]),
        changed(["layers", 0, "in_channels"], ...),
        changed(["layers", 0, "unknown"], 1),
        changed(["layers", 0, "kernel_size"], 3),
        changed(["layers", 0, "kernel_size"], [3]),
        changed(["layers", 0, "kernel_size"], [3, "2"]),
        changed(["layers", 0, "kernel_size"], [3, -2]),
        changed(["layers", 0, "stride"], [0, 1]),
        changed(["layers", 0, "stride"], "big"),
        changed(["layers", 0, "padding"], "full"),
        changed(["layers", 0, "padding"], {"a": 1}),
        changed(["layers", 0, "in_channels"], 3),
        changed(["layers", 0, "out_channels"], [4]),
        changed(["layers", 0, "out_channels"], 4.0),
        changed(["layers", 1, "epsilon"], 0),
        changed(["layers", 1, "epsilon"], "small"),
        changed(["layers", 1, "momentum"], None),
        changed(["layers", 3, "size"], [0, 3]),
        changed(["layers", 3, "size"], [7, 3]),
        changed(["layers", 3, "size"], 2),
        changed(["layers", 8, "shape"], [3, 2, 3]),
        changed(["layers", 8, "shape"], [-3, -2, 2]),
        changed(["layers", 8, "shape"], 12),
        changed(["layers", 9, "output_padding"], [2, 0]),
        changed(["layers", 9, "output_padding"], None),
        changed(["input_shape"], [2, 6]),
        changed(["input_shape"], [2, -6, 6]),
        changed(["input_shape"], "abc"),
        changed(["input_shape"], ...),
    ],
    ids=lambda architecture: hashlib.sha256(json.dumps(architecture).encode()).hexdigest()[:6],
)
def test_malformed_architectures(architecture: Any) -> None:
    """They may come from a stranger's file."""
    with pytest.raises(InputError) as caught:
        Network.from_architecture(architecture, every_layer().params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("0.weight"), r"missing \['0.weight'\]"),
        (lambda p: p.update({"3.weight": p["0.weight"]}), r"unknown \['3.weight'\]"),
        (lambda p: p.update({"0.bias": p["0.bias"][:1]}), r"params\['0.bias'\]: expected shape \(4,\)"),
        (lambda p: p.update({"0.bias": p["0.bias"].astype("float32")}), "all float32 or all float64"),
        (lambda p: p.update({k: v.astype("float16") for k, v in p.items()}), "all float32 or all float64"),
    ],
)
def test_parameters_must_fit(change: Any, message: str) -> None:
    network = every_layer()
    params = dict(network.params)
    change(params)
    with pytest.raises(InputError, match=message):
        network.replace_params(params)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cnn("huge"), "preset: expected one of paper, small; got 'huge'"),
        (lambda: sdae(dtype="float16"), "dtype: expected one of"),
        (lambda: mlp((1, 2, 2), 3, activation="gelu"), "activation: expected one of"),
        (lambda: build([Tanh()], (1,), initialisation="zeros"), "initialisation: expected one of"),
        (lambda: cnn("small").astype("int8"), "dtype: expected one of"),
        (lambda: build([Conv2d(3, 4, (3, 3))], (1, 8, 8), initialisation="he"), "conv2d: expected an input"),
        (lambda: build([Linear(5, 4)], (1, 8, 8), initialisation="he"), r"linear: expected an input of shape \(5,\)"),
        (lambda: build([AvgPool2d((9, 9))], (1, 8, 8), initialisation="he"), "does not fit an input"),
        (lambda: build([Reshape((3, 3))], (8,), initialisation="he"), "reshape: cannot make"),
    ],
)
def test_complaints_of_builders(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_complaints_about_images_and_labels() -> None:
    network = cnn("small")
    x, y = images(2, "float32"), labels(2)
    for call in (network.logits, network.predict, lambda x: network.loss_gradient(x, y)):
        with pytest.raises(InputError, match=r"x: expected float32 \(the network's dtype\), got float64"):
            call(images(2))
        with pytest.raises(InputError, match="outside"):
            call(2 * x)
        with pytest.raises(InputError, match="expected shape"):
            call(x[:, :, 1:])
    with pytest.raises(InputError, match="y: label 10"):
        network.loss_gradient(x, np.array([0, 10]))
    with pytest.raises(InputError, match="y: expected shape"):
        network.loss_gradient(x, y[:1])


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=5)
def test_every_seed_builds(seed: int) -> None:
    assert all(np.isfinite(value).all() for value in sdae("small", seed=seed).params.values())


def test_representation() -> None:
    assert repr(mlp((1, 2, 2), 3, hidden=())) == "Network((1, 2, 2) -> (3,): flatten, linear; 15 parameters)"
