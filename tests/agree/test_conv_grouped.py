"""Convolution in groups on both backends."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_gpu.ops import conv_grouped
from tests.strategies import DTYPES, GroupedCase, floats_of_shape, grouped_cases
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu, ref


def check(name: str, case: GroupedCase, dy: Any, forward: Any = None, vjp: Any = None) -> None:
    """Forwards and back; rounding is relative to the same sums over magnitudes."""
    x, weight, settings = case
    sizes = tuple(abs(array) for array in (dy, x, weight))
    agree(name, x, weight, **settings, scale=getattr(ref, name)(*sizes[1:], **settings), op=forward)
    scales = getattr(ref, f"{name}_vjp")(*sizes, **settings)
    agree(f"{name}_vjp", dy, x, weight, **settings, scale=scales, op=vjp)


@pytest.mark.slow
@given(grouped_cases(), st.data())
def test_grouped_conv2d(case: GroupedCase, data: st.DataObject) -> None:
    x, weight, settings = case
    shape = ref.grouped_conv2d(x, weight, **settings).shape
    check("grouped_conv2d", case, data.draw(floats_of_shape(shape, dtype=str(x.dtype))))


@given(grouped_cases(transposed=True), st.data())
def test_grouped_conv_transpose2d(case: GroupedCase, data: st.DataObject) -> None:
    x, weight, settings = case
    shape = ref.grouped_conv_transpose2d(x, weight, **settings).shape
    check("grouped_conv_transpose2d", case, data.draw(floats_of_shape(shape, dtype=str(x.dtype))))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("most", [1, 40, 1 << 22])
def test_grouped_parts_of_a_sum(dtype: str, most: int) -> None:
    """All images in one part, several in each, one in each."""
    generator = np.random.default_rng(14)
    x, weight = (generator.standard_normal(shape).astype(dtype) for shape in ((7, 2, 5, 4), (2, 1, 3, 3)))
    with mock.patch.object(conv_grouped, "MOST_PARTIAL", most):
        check("grouped_conv2d", GroupedCase(x, weight, {"groups": 2}), x)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_finished(dtype: str, activation: str) -> None:
    generator = np.random.default_rng(14)
    x, weight, bias = (generator.standard_normal(s).astype(dtype) for s in ((2, 4, 5, 6), (4, 2, 3, 3), (4,)))
    settings: dict[str, Any] = {"groups": 2, "dilation": (1, 2)}
    for name in ("grouped_conv2d", "grouped_conv_transpose2d"):
        scale = getattr(ref, name)(abs(x), abs(weight), **settings, bias=abs(bias))
        agree(name, x, weight, **settings, bias=bias, activation=activation, scale=scale)
        y = getattr(ref, activation)(x)
        scales = getattr(ref, f"{name}_vjp")(abs(x), abs(y), abs(weight), **settings)
        scales = scales[0] * (1 + y**2), scales[1]
        agree(f"{name}_vjp", x, y, weight, **settings, input_activation=activation, scale=scales)
        agree(f"{name}_vjp", x, y, weight, **settings, need_dx=False, scale=scales)
        agree(f"{name}_vjp", x, y, weight, **settings, need_dweight=False, scale=scales)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    generator = np.random.default_rng(14)
    x, weight = (generator.standard_normal(shape).astype(dtype) for shape in ((2, 4, 6, 7), (4, 2, 3, 2)))
    case = GroupedCase(x, weight, {"groups": 2, "dilation": (2, 1)})
    for name in ("grouped_conv2d", "grouped_conv_transpose2d"):
        assert_planted_caught(lambda f, name=name: check(name, case, x, forward=f), getattr(gpu, name))
        assert_planted_caught(lambda f, name=name: check(name, case, x, vjp=f), getattr(gpu, f"{name}_vjp"))


X, W = np.ones((2, 4, 5, 5)), np.ones((6, 2, 3, 3))


def test_complaints() -> None:
    for settings in (
        *({"groups": groups} for groups in (1, 4, 0, 1.5, True)),
        *({"groups": 2, **more} for more in ({"dilation": 0}, {"dilation": 3, "padding": 0}, {"stride": 0})),
        *({"groups": 2, **more} for more in ({"bias": np.ones(5)}, {"activation": "elu"})),
    ):
        complain_alike("grouped_conv2d", X, W, **settings)
        complain_alike("grouped_conv_transpose2d", X, W, **settings)
    for x, weight in ((X[0], W), (X, W[0]), (X.astype(int), W), (X, W.astype("float32")), (X[:, :, :0], W)):
        complain_alike("grouped_conv2d", x, weight, groups=2)
        complain_alike("grouped_conv_transpose2d", x, weight, groups=2)
    complain_alike("grouped_conv2d_vjp", X, X, W, groups=2)
    up = np.ones((2, 6, 5, 5))
    complain_alike("grouped_conv_transpose2d_vjp", X, up, W, groups=3)
    complain_alike("grouped_conv2d_vjp", up, X, W, groups=2, input_activation="elu")
    complain_alike("grouped_conv_transpose2d", up, W, groups=2, output_padding=1)
