"""Convolution in groups and with dilation against an ordinary one with zeros in its kernel, and its derivatives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from malade_ref.layers import Conv2d, ConvTranspose2d, Layer, layer_from
from malade_ref.network import Network, build
from tests import textbook
from tests.strategies import DTYPES, GroupedCase, floats_of_shape, grouped_cases, with_layout
from tests.tolerances import (
    assert_close,
    assert_no_alias,
    assert_not_mutated,
    assert_planted_caught,
    directional_check,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(14)


def terms(case: GroupedCase) -> tuple[Any, Any, Any, Any]:
    """Images and the full kernel, in double, and the same of the magnitudes."""
    full = textbook.full_weight(case.weight.astype("float64"), case.settings["groups"], case.settings["dilation"])
    return case.x.astype("float64"), full, abs(case.x.astype("float64")), abs(full)


def check_forward(op: Any, case: GroupedCase) -> None:
    x, weight, settings = case
    with assert_not_mutated(x, weight):
        y = op(x, weight, **settings)
    assert_no_alias(y, x, weight)
    x64, full, x_size, full_size = terms(case)
    stride = settings["stride"]
    pads = textbook.pads_of(settings["padding"], x.shape[2:], full.shape[2:], stride)
    expected, scale = (textbook.conv(a, b, stride, pads) for a, b in ((x64, full), (x_size, full_size)))
    assert_close(y, expected, op="grouped_conv2d", dtype=str(x.dtype), scale=scale)


def check_vjp(op: Any, case: GroupedCase, dy: Any) -> None:
    x, weight, settings = case
    with assert_not_mutated(dy, x, weight):
        results = op(dy, x, weight, **settings)
    x64, full, x_size, full_size = terms(case)
    stride = settings["stride"]
    pads = textbook.pads_of(settings["padding"], x.shape[2:], full.shape[2:], stride)
    dx, dfull = textbook.conv_vjp(dy, x64, full, stride, pads)
    dx_size, dfull_size = textbook.conv_vjp(abs(dy), x_size, full_size, stride, pads)
    dweight, dweight_size = (
        textbook.of_full_weight(v, settings["groups"], settings["dilation"], weight.shape) for v in (dfull, dfull_size)
    )
    for result, expected, scale in zip(results, (dx, dweight), (dx_size, dweight_size), strict=True):
        assert_no_alias(result, dy, x, weight)
        assert_close(result, expected, op="grouped_conv2d_vjp", dtype=str(x.dtype), scale=scale)


def check_transposed(op: Any, case: GroupedCase) -> None:
    x, weight, settings = case
    with assert_not_mutated(x, weight):
        y = op(x, weight, **settings)
    x64, full, x_size, full_size = terms(case)
    stride, size = settings["stride"], None
    if settings["padding"] == "same":
        size = x.shape[2] * stride[0], x.shape[3] * stride[1]
    pads = textbook.pads_of(settings["padding"], size or x.shape[2:], full.shape[2:], stride)
    extra = settings.get("output_padding", (0, 0))
    expected, scale = (
        textbook.conv_transpose(a, b, stride, pads, extra, size=size) for a, b in ((x64, full), (x_size, full_size))
    )
    assert_close(y, expected, op="grouped_conv_transpose2d", dtype=str(x.dtype), scale=scale)


@given(grouped_cases(), st.data())
def test_grouped_conv2d(case: GroupedCase, data: st.DataObject) -> None:
    check_forward(ops.grouped_conv2d, case)
    shape = ops.grouped_conv2d(case.x, case.weight, **case.settings).shape
    check_vjp(ops.grouped_conv2d_vjp, case, data.draw(floats_of_shape(shape, dtype=str(case.x.dtype))))


@given(grouped_cases(transposed=True))
def test_grouped_conv_transpose2d(case: GroupedCase) -> None:
    check_transposed(ops.grouped_conv_transpose2d, case)


@given(grouped_cases(dtype="float64"), grouped_cases(transposed=True, dtype="float64"))
def test_finite_differences(case: GroupedCase, transposed: GroupedCase) -> None:
    for op, vjp, (x, weight, settings) in (
        (ops.grouped_conv2d, ops.grouped_conv2d_vjp, case),
        (ops.grouped_conv_transpose2d, ops.grouped_conv_transpose2d_vjp, transposed),
    ):
        directional_check(
            lambda x, weight, op=op, settings=settings: op(x, weight, **settings),
            lambda dy, x, weight, vjp=vjp, settings=settings: vjp(dy, x, weight, **settings),
            [x, weight],
        )


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_bias_and_activations(groups: int, activation: str | None) -> None:
    x, weight = rng().standard_normal((2, 4, 6, 5)), rng().standard_normal((4, 4 // groups, 3, 3))
    bias, function = rng().standard_normal(4), {None: np.array, "relu": ops.relu, "tanh": ops.tanh}[activation]
    settings: dict[str, Any] = {"groups": groups, "dilation": 2}
    y = ops.grouped_conv2d(x, weight, **settings, bias=bias, activation=activation)
    plain = ops.grouped_conv2d(x, weight, **settings)
    np.testing.assert_array_equal(y, function(plain + bias[:, None, None]))
    if activation:
        dx, dweight = ops.grouped_conv2d_vjp(x, function(x), weight, **settings, input_activation=activation)
        through = {"relu": ops.relu_vjp, "tanh": ops.tanh_vjp}[activation]
        expected = ops.grouped_conv2d_vjp(x, function(x), weight, **settings)
        np.testing.assert_array_equal(dx, through(expected[0], function(x)))
        np.testing.assert_array_equal(dweight, expected[1])


def test_only_what_is_needed() -> None:
    x, weight = np.ones((1, 2, 3, 3)), np.ones((2, 1, 3, 3))
    assert ops.grouped_conv2d_vjp(x, x, weight, groups=2, need_dx=False)[0] is None
    assert ops.grouped_conv2d_vjp(x, x, weight, groups=2, need_dweight=False)[1] is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_result_does_not_depend_on_the_other_images(dtype: str, layout: Any, groups: int) -> None:
    x = with_layout(rng().standard_normal((5, 4, 9, 8)).astype(dtype), layout)
    weight = rng().standard_normal((4, 4 // groups, 3, 3)).astype(dtype)
    for op in (
        lambda x: ops.grouped_conv2d(x, weight, groups=groups, dilation=2),
        lambda x: ops.grouped_conv2d_vjp(x, x, weight, groups=groups, dilation=2)[0],
    ):
        np.testing.assert_array_equal(op(x)[3:4], op(x[3:4]))


# Layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        Conv2d(4, 6, (3, 3), groups=2),
        Conv2d(4, 8, (3, 2), (2, 1), groups=4),
        Conv2d(4, 3, (3, 3), padding=2, dilation=(2, 1)),
        ConvTranspose2d(4, 6, (3, 3), (2, 2), groups=2),
        ConvTranspose2d(4, 4, (3, 3), (2, 2), 1, (1, 0), groups=4, dilation=(1, 2)),
    ],
    ids=repr,
)
def test_layers(layer: Layer) -> None:
    network = build([layer], (4, 7, 6), initialisation="he", dtype="float64")
    x, dy = rng().random((2, 4, 7, 6)), rng().standard_normal((2, *network.output_shape))
    y, tape = network.forward(x)
    assert y.shape == (2, *layer.output_shape((4, 7, 6)))
    dx, gradients = network.backward(tape, dy, need_parameters=True)

    def loss(values: Any, x: Any) -> float:
        return float((dy * network.replace_params(values).forward(x)[0]).sum())

    direction = rng().standard_normal(x.shape)
    slope = (loss(network.params, x + direction) - loss(network.params, x - direction)) / 2  # linear in each
    assert slope == pytest.approx(float((dx * direction).sum()))
    for name, value in network.params.items():
        direction = rng().standard_normal(value.shape)
        ends = [loss({**network.params, name: value + sign * direction}, x) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2 == pytest.approx(float((gradients[name] * direction).sum()))
    assert layer_from(layer.description()) == layer
    again = Network.from_architecture(network.architecture(), network.params)
    np.testing.assert_array_equal(again.forward(x)[0], y)


def test_plain_convolutions_are_described_and_computed_as_ever() -> None:
    layer = Conv2d(2, 3, (3, 3), groups=1, dilation=(1, 1))
    assert layer.description().keys() == {
        *("kind", "in_channels", "out_channels", "kernel_size", "stride", "padding"),
    }
    x, weight, bias = rng().random((2, 2, 5, 5)), rng().random((3, 2, 3, 3)), np.zeros(3)
    y, _ = layer.forward(ops, {"weight": weight, "bias": bias}, x, False)
    np.testing.assert_array_equal(y, ops.conv2d(x, weight, bias=bias))


def test_fans_of_a_group() -> None:
    assert Conv2d(8, 8, (3, 3), groups=8).fans() == (9, 9)
    assert ConvTranspose2d(8, 4, (3, 3), groups=4).fans() == (2 * 9, 9)
    assert math.prod(Conv2d(8, 16, (3, 3), groups=8).parameter_shapes()["weight"]) == 16 * 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": 0}, "groups: expected an integer >= 1"),
        ({"groups": 3}, "in_channels: expected a multiple of groups 3, got 4"),
        ({"groups": 4}, "out_channels: expected a multiple of groups 4, got 6"),
        ({"groups": True}, "groups: expected an integer >= 1"),
        ({"dilation": [0, 1]}, "dilation: expected an integer >= 1"),
        ({"dilation": [1 << 30, 1]}, "dilation: expected at most"),
    ],
)
@pytest.mark.parametrize("kind", ["conv2d", "conv_transpose2d"])
def test_malformed_descriptions(kind: str, settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"{kind}: {message}"):
        layer_from({"kind": kind, "in_channels": 4, "out_channels": 6, "kernel_size": [3, 3], **settings})


# Planted errors, and complaints -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", [1, 2])
def test_planted_errors_are_caught(dtype: str, inputs: int) -> None:
    x, weight, up = (
        rng().standard_normal(shape).astype(dtype) for shape in ((2, 2 * inputs, 6, 7), (2, inputs, 3, 2), (2, 2, 3, 4))
    )
    settings: dict[str, Any] = {"groups": 2, "dilation": (2, 1), "stride": (1, 2), "padding": 1}
    case = GroupedCase(x, weight, settings)
    dy = ops.grouped_conv2d(x, weight, **settings)
    assert_planted_caught(lambda f: check_forward(f, case), ops.grouped_conv2d)
    assert_planted_caught(lambda f: check_vjp(f, case, dy), ops.grouped_conv2d_vjp)
    transposed = GroupedCase(up, weight, settings)
    assert_planted_caught(lambda f: check_transposed(f, transposed), ops.grouped_conv_transpose2d)
    if dtype == "float64":
        assert_planted_caught(
            lambda f: directional_check(
                lambda x, weight: ops.grouped_conv_transpose2d(x, weight, **settings),
                lambda dy, x, weight: f(dy, x, weight, **settings),
                [up, weight],
            ),
            ops.grouped_conv_transpose2d_vjp,
        )


X, W = np.ones((2, 4, 5, 5)), np.ones((6, 2, 3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.grouped_conv2d(X, W), r"x: expected 2 channels \(1 groups of weight's 2\), got 4"),
        (lambda: ops.grouped_conv2d(X, W, groups=4), "weight: expected a first axis that is a multiple of 4 groups"),
        (lambda: ops.grouped_conv2d(X, W, groups=0), "groups: expected an integer >= 1"),
        (lambda: ops.grouped_conv2d(X, W, groups=2, dilation=0), "dilation: expected an integer >= 1"),
        (lambda: ops.grouped_conv2d(X, W, groups=2, dilation=3, padding=0), "larger than the padded input"),
        (lambda: ops.grouped_conv2d(X, W.astype("float32"), groups=2), "weight: expected dtype float64"),
        (lambda: ops.grouped_conv2d(X, W, groups=2, bias=np.ones(5)), "bias: expected shape"),
        (lambda: ops.grouped_conv2d(X, W, groups=2, activation="elu"), "activation: expected one of"),
        (lambda: ops.grouped_conv2d_vjp(X, X, W, groups=2), "dy: expected shape"),
        (lambda: ops.grouped_conv_transpose2d(X, W, groups=2), "x: expected 6 channels"),
        (lambda: ops.grouped_conv_transpose2d_vjp(X, np.ones((2, 6, 5, 5)), W, groups=3), "dy: expected shape"),
    ],
)
def test_complaints(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
