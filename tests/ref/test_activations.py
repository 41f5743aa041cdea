"""Activations besides ReLU and tanh against their definitions, number by number, and their derivatives."""

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
    ELU,
    GELU,
    Flatten,
    Hardtanh,
    LeakyReLU,
    Linear,
    PReLU,
    Sigmoid,
    SiLU,
    Softplus,
    layer_from,
)
from malade_ref.network import Network, build
from tests.strategies import DTYPES, floats_of_shape, images_nchw, matrices_nd
from tests.textbook import ACTIVATIONS, DERIVATIVES
from tests.tolerances import (
    assert_close,
    assert_no_alias,
    assert_not_mutated,
    assert_planted_caught,
    directional_check,
)

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("leaky_relu", {"slope": 0.01}),
    ("leaky_relu", {"slope": -0.3}),
    ("elu", {"alpha": 1.0}),
    ("elu", {"alpha": 0.7}),
    ("silu", {}),
    ("gelu", {"approximate": "none"}),
    ("gelu", {"approximate": "tanh"}),
    ("sigmoid", {}),
    ("softplus", {"beta": 1.0, "threshold": 20.0}),
    ("softplus", {"beta": 2.5, "threshold": 1.5}),
    ("hardtanh", {"low": -1.0, "high": 1.0}),
    ("hardtanh", {"low": 0.0, "high": 6.0}),
]
IDS = [f"{name}-{'-'.join(map(str, settings.values()))}" for name, settings in SETTINGS]


def spread(x: Any) -> Any:
    """Numbers on both sides of every bend."""
    return 14 * x - x.dtype.type(6)


def through(function: Any, x: Any, settings: dict[str, Any]) -> Any:
    values = [function(float(value), **settings) for value in x.ravel()]
    return np.array(values, dtype="float64").reshape(x.shape)


def rounded(settings: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Settings as numbers of the dtype: a slope of 0.01 is another one in float32."""
    real = np.dtype(dtype).type
    return {name: value if isinstance(value, str) else float(real(value)) for name, value in settings.items()}


def check_activation(op: Any, name: str, x: Any, settings: dict[str, Any]) -> None:
    with assert_not_mutated(x):
        y = op(x, **settings)
    assert_no_alias(y, x)
    expected = through(ACTIVATIONS[name], x, rounded(settings, str(x.dtype)))
    assert_close(y, expected, op=name, dtype=str(x.dtype), scale=np.abs(x).astype("float64") + 1)


def check_activation_vjp(op: Any, name: str, dy: Any, x: Any, settings: dict[str, Any]) -> None:
    saved = ops.sigmoid(x) if name == "sigmoid" else x
    with assert_not_mutated(dy, saved):
        dx = op(dy, saved, **settings)
    assert_no_alias(dx, dy, saved)
    expected = dy.astype("float64") * through(DERIVATIVES[name], x, rounded(settings, str(x.dtype)))
    scale = np.abs(dy).astype("float64") * (1 + np.abs(x).astype("float64")) + 1e-300
    assert_close(dx, expected, op=f"{name}_vjp", dtype=str(x.dtype), scale=scale)


@given(images_nchw() | matrices_nd(), st.sampled_from(SETTINGS), st.data())
def test_activations(x: Any, case: tuple[str, dict[str, Any]], data: st.DataObject) -> None:
    name, settings = case
    x = spread(x)
    dy = data.draw(floats_of_shape(x.shape, dtype=str(x.dtype)))
    check_activation(getattr(ops, name), name, x, settings)
    check_activation_vjp(getattr(ops, f"{name}_vjp"), name, dy, x, settings)


@given(images_nchw(dtype="float64") | matrices_nd(dtype="float64"), st.sampled_from(SETTINGS))
def test_finite_differences(x: Any, case: tuple[str, dict[str, Any]]) -> None:
    name, settings = case
    f, vjp = getattr(ops, name), getattr(ops, f"{name}_vjp")
    x = spread(x)
    if name == "softplus":  # which jumps by less than 1e-8 at its usual threshold, but not at a low one
        settings = {**settings, "threshold": 1e3}

    def vjp_of(dy: Any, x: Any) -> Any:
        return vjp(dy, f(x) if name == "sigmoid" else x, **settings)

    directional_check(lambda x: f(x, **settings), vjp_of, [x])


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_far_out(dtype: str, name: str, settings: dict[str, Any]) -> None:
    """Nothing overflows (warnings are errors), and the tails are right relative to themselves."""
    f, vjp = getattr(ops, name), getattr(ops, f"{name}_vjp")
    huge = float(np.finfo(dtype).max)
    x = np.array([-np.inf, -huge, -1e4, -88.0, -30.0, 30.0, 88.0, 1e4, huge, np.inf], dtype=dtype)
    y = f(x, **settings)
    dx = vjp(np.ones_like(x), y if name == "sigmoid" else x, **settings)
    assert y.dtype == dx.dtype == dtype
    assert not np.isnan(y).any()
    assert np.isfinite(dx).all()
    finite = slice(2, -2)
    exact = through(ACTIVATIONS[name], x[finite], rounded(settings, dtype))
    slopes = through(DERIVATIVES[name], x[finite], rounded(settings, dtype))
    tiny = np.finfo(dtype).tiny
    np.testing.assert_allclose(y[finite], exact, rtol=1e-4 if dtype == "float32" else 1e-12, atol=tiny)
    if name == "sigmoid":  # whose derivative is taken from an output that is rounded to 1
        tiny = np.finfo(dtype).eps
    np.testing.assert_allclose(dx[finite], slopes, rtol=1e-4 if dtype == "float32" else 1e-12, atol=tiny)
    # What is infinite is at the limit of what is finite.
    for end, beside in ((0, 1), (-1, -2)):
        assert dx[end] == dx[beside]
        assert y[end] == y[beside] or np.isinf(y[end])


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_not_a_number_stays_so(dtype: str, name: str, settings: dict[str, Any]) -> None:
    x = np.array([1.0, np.nan, -1.0], dtype=dtype)
    np.testing.assert_array_equal(np.isnan(getattr(ops, name)(x, **settings)), [False, True, False])


@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_where_functions_bend(dtype: str) -> None:
    """The left side's; hardtanh has 0 at both ends."""
    one, zero = np.ones(1, dtype), np.zeros(1, dtype)
    assert ops.leaky_relu_vjp(one, zero, slope=0.25) == 0.25
    assert ops.elu_vjp(one, zero, alpha=0.5) == 0.5
    assert ops.prelu_vjp(one[None], zero[None], one / 4)[0] == 0.25
    assert ops.hardtanh_vjp(one, zero, low=0.0, high=6.0) == 0
    assert ops.hardtanh_vjp(one, 6 * one, low=0.0, high=6.0) == 0
    assert ops.hardtanh_vjp(one, np.nextafter(6 * one, zero), low=0.0, high=6.0) == 1
    # At the threshold itself softplus is still smooth, and beyond it the identity.
    assert ops.softplus(one, beta=1.0, threshold=1.0) == pytest.approx(math.log1p(math.e))
    assert ops.softplus(np.nextafter(one, 2 * one), beta=1.0, threshold=1.0) == np.nextafter(one, 2 * one)


# A slope that is trained ----------------------------------------------------------------------------------------


def check_prelu(op: Any, x: Any, slope: Any) -> None:
    with assert_not_mutated(x, slope):
        y = op(x, slope)
    assert_no_alias(y, x, slope)
    expected = np.empty(x.shape)
    for c in range(x.shape[1]):
        share = float(slope[c if len(slope) > 1 else 0])
        expected[:, c] = through(ACTIVATIONS["leaky_relu"], x[:, c], {"slope": share})
    assert_close(y, expected, op="prelu", dtype=str(x.dtype))


def check_prelu_vjp(op: Any, dy: Any, x: Any, slope: Any) -> None:
    with assert_not_mutated(dy, x, slope):
        dx, dslope = op(dy, x, slope)
    for result in (dx, dslope):
        assert_no_alias(result, dy, x, slope)
    expected, terms = np.empty(x.shape), np.empty(x.shape)
    for c in range(x.shape[1]):
        share = float(slope[c if len(slope) > 1 else 0])
        expected[:, c] = dy[:, c].astype("float64") * through(DERIVATIVES["leaky_relu"], x[:, c], {"slope": share})
        terms[:, c] = dy[:, c].astype("float64") * through(lambda value: min(value, 0.0), x[:, c], {})
    by_channel = np.moveaxis(terms, 1, 0).reshape(x.shape[1], -1)
    groups = by_channel if len(slope) == x.shape[1] else by_channel.reshape(1, -1)
    assert_close(dx, expected, op="prelu_vjp", dtype=str(x.dtype))
    sums, sizes = groups.sum(axis=1), np.abs(groups).sum(axis=1)
    assert_close(dslope, sums, op="prelu_vjp", dtype=str(x.dtype), scale=sizes + 1e-300)


@given(images_nchw() | matrices_nd(), st.booleans(), st.data())
def test_prelu(x: Any, one: bool, data: st.DataObject) -> None:
    x = spread(x)
    slope = data.draw(floats_of_shape((1 if one else x.shape[1],), dtype=str(x.dtype)))
    check_prelu(ops.prelu, x, slope)
    check_prelu_vjp(ops.prelu_vjp, data.draw(floats_of_shape(x.shape, dtype=str(x.dtype))), x, slope)


@given(images_nchw(dtype="float64") | matrices_nd(dtype="float64"), st.booleans(), st.data())
def test_prelu_finite_differences(x: Any, one: bool, data: st.DataObject) -> None:
    slope = data.draw(floats_of_shape((1 if one else x.shape[1],), dtype="float64"))
    directional_check(ops.prelu, ops.prelu_vjp, [spread(x), slope])


def test_prelu_computes_only_what_is_needed() -> None:
    x, slope = np.ones((2, 3)), np.ones(3)
    assert ops.prelu_vjp(x, x, slope, need_dx=False)[0] is None
    assert ops.prelu_vjp(x, x, slope, need_dslope=False)[1] is None


# The checks themselves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    x, dy = (2 * np.random.default_rng(3).standard_normal((2, 2, 3, 4, 5))).astype(dtype)
    x[0, 0, 0, 0] = 5  # the largest is not beyond an end
    for name, settings in SETTINGS:
        assert_planted_caught(
            lambda f, name=name, settings=settings: check_activation(f, name, x, settings), getattr(ops, name)
        )
        assert_planted_caught(
            lambda f, name=name, settings=settings: check_activation_vjp(f, name, dy, x, settings),
            getattr(ops, f"{name}_vjp"),
        )
    for slope in (np.array([0.25], dtype), np.array([0.25, -0.5, 2], dtype)):
        assert_planted_caught(lambda f, slope=slope: check_prelu(f, x, slope), ops.prelu)
        assert_planted_caught(lambda f, slope=slope: check_prelu_vjp(f, dy, x, slope), ops.prelu_vjp)


def test_complaints() -> None:
    x = np.ones((2, 3))
    for name, settings in SETTINGS:
        with pytest.raises(InputError, match="float32 or float64"):
            getattr(ops, name)(x.astype(int), **settings)
        with pytest.raises(InputError, match="dy: expected shape"):
            getattr(ops, f"{name}_vjp")(x[:1], x, **settings)
        with pytest.raises(InputError, match="dy: expected dtype"):
            getattr(ops, f"{name}_vjp")(x.astype("float32"), x, **settings)
    for name, settings in (
        ("leaky_relu", {"slope": math.nan}),
        ("elu", {"alpha": -1.0}),
        ("gelu", {"approximate": "erf"}),
        ("softplus", {"beta": 0.0}),
        ("softplus", {"threshold": math.inf}),
        ("hardtanh", {"low": 1.0, "high": 1.0}),
    ):
        with pytest.raises(InputError, match=next(iter(settings)) if name != "hardtanh" else "high"):
            getattr(ops, name)(x, **settings)
    for slope in (np.ones(2), np.ones((3, 1)), np.ones(3, "float32")):
        with pytest.raises(InputError, match="slope: expected"):
            ops.prelu(x, slope)
    with pytest.raises(InputError, match="slope: expected"):
        ops.prelu(x[0], np.ones(1))


# Layers -----------------------------------------------------------------------------------------------------------

LAYERS = [
    LeakyReLU(0.2),
    ELU(0.5),
    SiLU(),
    GELU(),
    GELU("tanh"),
    Sigmoid(),
    Softplus(2.0, 5.0),
    Hardtanh(0.0, 6.0),
    PReLU(),
    PReLU(3),
]


def described(layer: Any) -> dict[str, Any]:
    return {"kind": layer.kind, **vars(layer)}


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_layers_in_a_network(layer: Any) -> None:
    """Gradients with respect to input and parameters, and the way through a description."""
    assert layer_from(described(layer)) == layer
    layers = [layer, Flatten(), Linear(12, 2)]
    network = build(layers, (3, 2, 2), initialisation="glorot", dtype="float64")
    assert layer_from(network.architecture()["layers"][0]) == layer
    x = 2 * np.random.default_rng(5).standard_normal((4, 3, 2, 2))

    def forward(x: Any, *values: Any) -> Any:
        params = dict(zip(network.params, values, strict=True))
        return network.replace_params(params).forward(x, training=True)[0]

    def backward(dy: Any, x: Any, *values: Any) -> Any:
        moved = network.replace_params(dict(zip(network.params, values, strict=True)))
        dx, gradients = moved.backward(moved.forward(x, training=True)[1], dy, need_parameters=True)
        return [dx, *(gradients[name] for name in network.params)]

    directional_check(forward, backward, [x, *network.params.values()])
    assert network.backward(network.forward(x)[1], np.ones((4, 2)), need_dx=False, need_parameters=True)[0] is None


def test_prelu_starts_at_a_quarter() -> None:
    network = build([PReLU(3)], (3, 2, 2), initialisation="he")
    np.testing.assert_array_equal(network.params["0.slope"], np.full(3, 0.25, "float32"))
    assert network.trains("0.slope")


def test_malformed_layers_are_refused() -> None:
    for kind, setting, value in (
        ("leaky_relu", "slope", "x"),
        ("leaky_relu", "slope", math.nan),
        ("elu", "alpha", -1),
        ("gelu", "approximate", "exact"),
        ("softplus", "beta", 0),
        ("softplus", "threshold", None),
        ("hardtanh", "low", 1.0),
        ("hardtanh", "high", math.inf),
        ("prelu", "channels", 0),
    ):
        with pytest.raises(InputError, match=f"{kind}: ") as error:
            layer_from({"kind": kind, setting: value})
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="prelu: expected an input of shape"):
        Network([PReLU(3)], {"0.slope": np.ones(3)}, (2, 4, 4))
