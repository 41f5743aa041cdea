"""Normalisation within a sample against its definition and derivative; gain and bias; dropout; the layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from malade_ref.layers import (
    Dropout,
    Flatten,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Linear,
    Normalize,
    layer_from,
)
from malade_ref.network import Network, build
from malade_ref.training import Classification, fit
from tests.strategies import DTYPES, floats_of_shape, images_nchw, matrices_nd
from tests.tolerances import (
    assert_close,
    assert_no_alias,
    assert_not_mutated,
    assert_planted_caught,
    directional_check,
)


def divisors(number: int) -> list[int]:
    return [k for k in range(1, number + 1) if number % k == 0]


@st.composite
def group_cases(draw: st.DrawFn, dtype: str | None = None) -> tuple[Any, int]:
    """Samples, and a number of groups that they can be divided into."""
    x = draw(images_nchw(dtype=dtype) | matrices_nd(dtype=dtype))
    return x, draw(st.sampled_from(divisors(math.prod(x.shape[1:]))))


def standardised(row: list[float], epsilon: float) -> tuple[list[float], float]:
    """One group, by the definition."""
    mean = math.fsum(row) / len(row)
    variance = math.fsum((value - mean) ** 2 for value in row) / len(row)
    scale = 1 / math.sqrt(variance + epsilon)
    return [(value - mean) * scale for value in row], scale


def check_standardise(op: Any, x: Any, groups: int, epsilon: float) -> None:
    with assert_not_mutated(x):
        z, scale = op(x, groups=groups, epsilon=epsilon)
    for result in (z, scale):
        assert_no_alias(result, x)
    rows = x.astype("float64").reshape(len(x) * groups, math.prod(x.shape[1:]) // groups)
    found = [standardised(row.tolist(), epsilon) for row in rows]
    expected = np.array([values for values, _ in found]).reshape(x.shape)
    scales = np.array([value for _, value in found]).reshape(len(x), groups)
    # A rounding of the mean is multiplied by the scale; one of the variance is relative to the largest square.
    largest = np.abs(rows).max(axis=1, initial=0).reshape(len(x), groups) * scales
    sizes = (1 + largest) ** 2 * np.ones((math.prod(x.shape[1:]) // groups, 1, 1))
    sizes = sizes.transpose(1, 2, 0).reshape(x.shape)
    assert_close(z, expected, op="standardise", dtype=str(x.dtype), scale=sizes)
    assert_close(scale, scales, op="standardise", dtype=str(x.dtype), scale=scales * (1 + largest**2))


def check_standardise_vjp(op: Any, dz: Any, z: Any, scale: Any) -> None:
    """By the Jacobian of one group: (delta_ij - 1/m - z_i z_j / m) times the scale."""
    with assert_not_mutated(dz, z, scale):
        dx = op(dz, z, scale)
    assert_no_alias(dx, dz, z, scale)
    groups = scale.shape[1]
    m = math.prod(z.shape[1:]) // groups
    rows = z.astype("float64").reshape(-1, m)
    slopes = dz.astype("float64").reshape(-1, m)
    expected, sizes = np.empty_like(rows), np.empty_like(rows)
    for i, (row, slope) in enumerate(zip(rows, slopes, strict=True)):
        factor, products = float(scale.reshape(-1)[i]), np.outer(row, row) / m
        expected[i] = slope @ (np.eye(m) - 1 / m - products) * factor
        sizes[i] = np.abs(slope) @ (np.eye(m) + 1 / m + np.abs(products)) * factor
    assert_close(dx, expected.reshape(z.shape), op="standardise_vjp", scale=sizes.reshape(z.shape) + 1e-300)


@given(group_cases(), st.sampled_from([1e-5, 1e-3, 0.5]), st.data())
def test_standardise(case: tuple[Any, int], epsilon: float, data: st.DataObject) -> None:
    x, groups = case
    check_standardise(ops.standardise, x, groups, epsilon)
    z, scale = ops.standardise(x, groups=groups, epsilon=epsilon)
    check_standardise_vjp(ops.standardise_vjp, data.draw(floats_of_shape(x.shape, dtype=str(x.dtype))), z, scale)


@given(group_cases(dtype="float64"), st.sampled_from([1e-3, 0.5]))
def test_standardise_finite_differences(case: tuple[Any, int], epsilon: float) -> None:
    x, groups = case

    def vjp(dz: Any, x: Any) -> Any:
        return ops.standardise_vjp(dz, *ops.standardise(x, groups=groups, epsilon=epsilon))

    directional_check(lambda x: ops.standardise(x, groups=groups, epsilon=epsilon)[0], vjp, [x])


@pytest.mark.parametrize("dtype", DTYPES)
def test_standardise_at_the_edges(dtype: str) -> None:
    equal = np.full((2, 3, 2, 2), 7.25, dtype)  # no variance at all
    z, scale = ops.standardise(equal, groups=3, epsilon=1e-4)
    assert not z.any()
    np.testing.assert_allclose(scale, 100, rtol=1e-6)
    far = np.array([[1e6 + 1, 1e6 - 1, 1e6 + 1, 1e6 - 1]], dtype)  # a mean that is all but everything
    np.testing.assert_allclose(ops.standardise(far, groups=1)[0], [[1, -1, 1, -1]], rtol=1e-4)
    broken = equal.copy()
    broken[0, 1, 0, 0] = np.nan
    z, _ = ops.standardise(broken, groups=3)
    np.testing.assert_array_equal(np.isnan(z).reshape(2, 3, 4).all(axis=2), [[False, True, False], [False] * 3])


def check_scale_shift(op: Any, x: Any, gain: Any, bias: Any) -> None:
    with assert_not_mutated(x, gain, bias):
        y = op(x, gain, bias)
    assert_no_alias(y, x, gain, bias)
    expected, sizes = np.empty(x.shape), np.empty(x.shape)
    for c in range(x.shape[1]):
        product = x[:, c].astype("float64") * float(gain[c])
        expected[:, c], sizes[:, c] = product + float(bias[c]), np.abs(product) + abs(float(bias[c]))
    assert_close(y, expected, op="scale_shift", dtype=str(x.dtype), scale=sizes)


def check_scale_shift_vjp(op: Any, dy: Any, x: Any, gain: Any) -> None:
    with assert_not_mutated(dy, x, gain):
        dx, dgain, dbias = op(dy, x, gain)
    slopes, products = dy.astype("float64"), dy.astype("float64") * x.astype("float64")
    expected = np.empty(x.shape)
    for c in range(x.shape[1]):
        expected[:, c] = slopes[:, c] * float(gain[c])
    for result in (dx, dgain, dbias):
        assert_no_alias(result, dy, x, gain)
    assert_close(dx, expected, op="scale_shift_vjp", dtype=str(x.dtype))
    for result, terms in ((dgain, products), (dbias, slopes)):
        channels = np.moveaxis(terms, 1, 0).reshape(x.shape[1], -1)
        sizes = np.abs(channels).sum(axis=1) + 1e-300
        assert_close(result, channels.sum(axis=1), op="scale_shift_vjp", dtype=str(x.dtype), scale=sizes)


@given(images_nchw() | matrices_nd(), st.data())
def test_scale_shift(x: Any, data: st.DataObject) -> None:
    gain, bias = (data.draw(floats_of_shape(x.shape[1:2], dtype=str(x.dtype))) for _ in range(2))
    check_scale_shift(ops.scale_shift, x, gain, bias)
    check_scale_shift_vjp(ops.scale_shift_vjp, data.draw(floats_of_shape(x.shape, dtype=str(x.dtype))), x, gain)


@given(images_nchw(dtype="float64") | matrices_nd(dtype="float64"), st.data())
def test_scale_shift_finite_differences(x: Any, data: st.DataObject) -> None:
    gain, bias = (data.draw(floats_of_shape(x.shape[1:2], dtype="float64")) for _ in range(2))
    directional_check(ops.scale_shift, lambda dy, x, gain, bias: ops.scale_shift_vjp(dy, x, gain), [x, gain, bias])


def test_only_what_is_needed() -> None:
    x, gain = np.ones((2, 3)), np.ones(3)
    assert ops.scale_shift_vjp(x, x, gain, need_dx=False)[0] is None
    assert ops.scale_shift_vjp(x, x, gain, need_parameters=False)[1:] == (None, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    x, dy = np.random.default_rng(3).standard_normal((2, 2, 4, 3, 5)).astype(dtype)
    gain, bias = np.random.default_rng(4).standard_normal((2, 4)).astype(dtype)
    for groups in (1, 2, 4, 12):
        assert_planted_caught(lambda f, groups=groups: check_standardise(f, x, groups, 1e-3), ops.standardise)
        z, scale = ops.standardise(x, groups=groups)
        assert_planted_caught(lambda f, z=z, scale=scale: check_standardise_vjp(f, dy, z, scale), ops.standardise_vjp)
    assert_planted_caught(lambda f: check_scale_shift(f, x, gain, bias), ops.scale_shift)
    assert_planted_caught(lambda f: check_scale_shift_vjp(f, dy, x, gain), ops.scale_shift_vjp)


def test_complaints() -> None:
    x, c = np.ones((2, 4, 3)), np.ones(4)
    for groups in (5, 0, -1, 1.5, True):
        with pytest.raises(InputError, match="groups: expected"):
            ops.standardise(x, groups=groups)
    for epsilon in (0, -1, math.nan):
        with pytest.raises(InputError, match="epsilon: expected"):
            ops.standardise(x, groups=2, epsilon=epsilon)
    with pytest.raises(InputError, match="float32 or float64"):
        ops.standardise(x.astype(int), groups=2)
    with pytest.raises(InputError, match="groups: expected a divisor of the 0 numbers"):
        ops.standardise(x[:, :0], groups=1)
    z, scale = ops.standardise(x, groups=2)
    for bad in (scale[:1], np.ones((2, 5)), np.ones((2, 0))):
        with pytest.raises(InputError, match="scale: expected"):
            ops.standardise_vjp(x, z, bad)
    with pytest.raises(InputError, match="dz: expected"):
        ops.standardise_vjp(x[:1], z, scale)
    for bad in (c[:2], c.astype("float32")):
        with pytest.raises(InputError, match="gain: expected"):
            ops.scale_shift(x, bad, c)
        with pytest.raises(InputError, match="bias: expected"):
            ops.scale_shift(x, c, bad)
        with pytest.raises(InputError, match="gain: expected"):
            ops.scale_shift_vjp(x, x, bad)


# Layers -----------------------------------------------------------------------------------------------------------

LAYERS = [
    GroupNorm(2, 4),
    GroupNorm(1, 4, 1e-3, False),
    GroupNorm(4, 4),
    InstanceNorm(4),
    InstanceNorm(4, 0.5, True),
    LayerNorm((4, 3, 2)),
    LayerNorm((2,), 1e-3),
    LayerNorm((3, 2), 1e-3, False),
    Normalize((0.5, 0.1, 0.2, 0.4), (0.3, 0.2, 1.0, 2.0)),
    Dropout(0.3),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_layers_in_a_network(layer: Any) -> None:
    """Gradients with respect to input and parameters, and the way through a description."""
    start = build([layer, Flatten(), Linear(24, 2)], (4, 3, 2), initialisation="glorot", dtype="float64")
    assert layer_from(start.architecture()["layers"][0]) == layer
    rng = np.random.default_rng(5)
    x = rng.random((5, 4, 3, 2))
    start = start.replace_params({name: rng.standard_normal(value.shape) for name, value in start.params.items()})
    drawn = start.at_step(7, np.arange(5), 3)

    def network(values: Any) -> Network:
        return drawn.replace_params(dict(zip(start.params, values, strict=True)))

    def forward(x: Any, *values: Any) -> Any:
        return network(values).forward(x, training=True)[0]

    def backward(dy: Any, x: Any, *values: Any) -> Any:
        moved = network(values)
        dx, gradients = moved.backward(moved.forward(x, training=True)[1], dy, need_parameters=True)
        return [dx, *(gradients[name] for name in start.params)]

    directional_check(forward, backward, [x, *start.params.values()])
    _, tape = start.forward(x)
    assert start.backward(tape, np.ones((5, 2)), need_dx=False, need_parameters=True)[0] is None
    # No sample looks at another one.
    np.testing.assert_allclose(start.forward(x[2:3])[0], start.forward(x)[0][2:3], rtol=1e-12)


def test_what_is_normalised() -> None:
    x = np.random.default_rng(0).random((2, 4, 3, 2))
    for layer, axes in (
        (GroupNorm(1, 4, affine=False), (1, 2, 3)),
        (InstanceNorm(4), (2, 3)),
        (LayerNorm((4, 3, 2), affine=False), (1, 2, 3)),
        (LayerNorm((3, 2), affine=False), (2, 3)),
        (LayerNorm((2,), affine=False), (3,)),
    ):
        y = layer.forward(ops, {}, x, False)[0]
        centred = x - x.mean(axis=axes, keepdims=True)
        np.testing.assert_allclose(y, centred / np.sqrt(x.var(axis=axes, keepdims=True) + 1e-5))
    pairs = GroupNorm(2, 4, affine=False).forward(ops, {}, x, False)[0]
    np.testing.assert_allclose(pairs.reshape(2, 2, 12).mean(axis=2), 0, atol=1e-12)
    mean, std = (0.1, 0.2, 0.3, 0.4), (0.5, 1.0, 2.0, 4.0)
    y = Normalize(mean, std).forward(ops, {}, x, False)[0]
    np.testing.assert_allclose(y, (x - np.reshape(mean, (4, 1, 1))) / np.reshape(std, (4, 1, 1)))


def test_malformed_layers_are_refused() -> None:
    for description, word in (
        ({"kind": "group_norm", "groups": 3, "channels": 4}, "divisor"),
        ({"kind": "group_norm", "groups": 0, "channels": 4}, "groups"),
        ({"kind": "group_norm", "groups": 2, "channels": 4, "epsilon": 0}, "epsilon"),
        ({"kind": "group_norm", "groups": 2, "channels": 4, "affine": 1}, "affine"),
        ({"kind": "instance_norm", "channels": 1.5}, "channels"),
        ({"kind": "layer_norm", "shape": []}, "shape"),
        ({"kind": "layer_norm", "shape": 4}, "shape"),
        ({"kind": "layer_norm", "shape": [4, 0]}, "shape"),
        ({"kind": "normalize", "mean": [0.5], "std": [0]}, "std"),
        ({"kind": "normalize", "mean": [0.5, 0.5], "std": [1]}, "std"),
        ({"kind": "normalize", "mean": [], "std": []}, "mean"),
        ({"kind": "normalize", "mean": 0.5, "std": 0.5}, "mean"),
        ({"kind": "normalize", "mean": ["x"], "std": [1]}, "mean"),
        ({"kind": "dropout", "p": 1}, "p: expected"),
        ({"kind": "dropout", "p": -0.1}, "p: expected"),
    ):
        with pytest.raises(InputError, match=word) as error:
            layer_from(description)
        assert str(error.value).startswith(description["kind"])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (GroupNorm(2, 4, affine=False), (3, 2, 2)),
        (GroupNorm(4, 4, affine=False), (4, 1, 1)),
        (GroupNorm(4, 4, affine=False), (4,)),
        (InstanceNorm(4), (4,)),
        (InstanceNorm(4), (4, 1, 1)),
        (LayerNorm((1,), affine=False), (4, 2, 1)),
        (LayerNorm((3,), affine=False), (4, 2, 2)),
        (LayerNorm((2, 2), affine=False), (2,)),
        (Normalize((0.5,), (0.5,)), (3, 2, 2)),
    ],
    ids=repr,
)
def test_inputs_that_do_not_fit(layer: Any, shape: tuple[int, ...]) -> None:
    """A single number has no variance: normalised, it would always be 0."""
    with pytest.raises(InputError, match=f"{layer.kind}: expected") as error:
        Network([layer], {}, shape)
    assert "\n" not in str(error.value)


# Dropout ----------------------------------------------------------------------------------------------------------


def test_dropout_is_the_identity_at_test() -> None:
    network = build([Dropout(0.9)], (1, 4, 4), initialisation="he")
    x = np.random.default_rng(0).random((3, 1, 4, 4)).astype("float32")
    np.testing.assert_array_equal(network.apply(x), x)
    np.testing.assert_array_equal(network.at_step(0, np.arange(3), 0).apply(x), x)
    assert Network([Dropout(0.0)], {}, (1, 4, 4)).at_step(0, np.arange(3), 0).forward(x, training=True)[0] is x


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_in_training(dtype: str) -> None:
    network = build([Dropout(0.25), Dropout(0.25)], (1, 50, 40), initialisation="he", dtype=dtype)
    first = Network(network.layers[:1], {}, (1, 50, 40))
    x, index = np.ones((4, 1, 50, 40), dtype), np.array([5, 9, 2, 11])

    def drawn(network: Network, seed: int = 0, index: Any = index, step: int = 0) -> Any:
        y = network.at_step(seed, index, step).forward(x[: len(index)], training=True)[0]
        assert y.dtype == dtype
        return y

    y = drawn(first)
    values, counts = np.unique(y, return_counts=True)
    np.testing.assert_allclose(values, [0, 4 / 3], rtol=1e-6)
    assert abs(counts[0] / y.size - 0.25) < 4 * math.sqrt(0.25 * 0.75 / y.size)
    # A function of seed, step, place and sample: of nothing else.
    np.testing.assert_array_equal(drawn(first), y)
    np.testing.assert_array_equal(drawn(first, index=index[2:3]), y[2:3])
    for other in (drawn(first, seed=1), drawn(first, step=1), drawn(first, index=index + 1)):
        assert 0.2 < (other != y).mean() < 0.55
    assert 0.4 < (drawn(network) == 0).mean() < 0.475  # 1 - 0.75^2: two layers draw each for itself


def test_training_with_dropout() -> None:
    """The same weights again; not those without dropout."""
    rng = np.random.default_rng(0)
    x, y = rng.random((9, 1, 4, 4)).astype("float64"), np.arange(9) % 2

    def weights(p: float) -> Any:
        layers = [Flatten(), Dropout(p), Linear(16, 2)]
        network = build(layers, (1, 4, 4), initialisation="he", dtype="float64")
        fitted = fit(network, Classification(), x, y, epochs=2, batch_size=6).network
        assert fitted.layers == network.layers  # without what was drawn on the way
        return fitted.params["2.weight"]

    np.testing.assert_array_equal(weights(0.5), weights(0.5))
    assert np.abs(weights(0.5) - weights(0.0)).max() > 1e-4


def test_training_without_draws_is_refused() -> None:
    network = build([Dropout(0.5)], (1, 4, 4), initialisation="he")
    with pytest.raises(InputError, match="dropout: training needs") as error:
        network.forward(np.ones((1, 1, 4, 4), "float32"), training=True)
    assert "\n" not in str(error.value)
