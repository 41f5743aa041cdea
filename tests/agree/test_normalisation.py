"""Normalisation within a sample, gain and bias, and their derivatives; dropout's masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref.layers import Dropout
from malade_ref.network import build
from tests.ref.test_normalisation import group_cases
from tests.strategies import DTYPES, LAYOUTS, floats_of_shape, images_nchw, matrices_nd, with_layout
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu, on_device, ref, to_device


def check_standardise(x: Any, groups: int, epsilon: float, op: Any = None) -> None:
    rows = x.astype("float64").reshape(len(x), groups, math.prod(x.shape[1:]) // groups)
    scales = 1 / np.sqrt(rows.var(axis=2) + epsilon)
    largest = np.abs(rows).max(axis=2, initial=0) * scales
    sizes = np.broadcast_to(((1 + largest) ** 3)[:, :, None], rows.shape).reshape(x.shape)
    scale = sizes, scales * (1 + largest**2)
    agree("standardise", x, groups=groups, epsilon=epsilon, scale=scale, op=op)


def check_standardise_vjp(dz: Any, z: Any, scale: Any, op: Any = None) -> None:
    rows = np.abs(dz).astype("float64").reshape(*scale.shape, -1) if dz.size else dz.reshape(*scale.shape, 1)
    sums, products = rows.mean(axis=2), (rows * np.abs(z).reshape(rows.shape)).mean(axis=2)
    sizes = rows + sums[:, :, None] + np.abs(z).reshape(rows.shape) * products[:, :, None]
    agree("standardise_vjp", dz, z, scale, scale=(sizes * scale[:, :, None]).reshape(z.shape) + 1e-300, op=op)


@given(group_cases(), st.sampled_from([1e-5, 1e-3, 0.5]), st.data())
def test_standardise(case: tuple[Any, int], epsilon: float, data: st.DataObject) -> None:
    x, groups = case
    check_standardise(x, groups, epsilon)
    z, scale = ref.standardise(x, groups=groups, epsilon=epsilon)
    check_standardise_vjp(data.draw(floats_of_shape(x.shape, dtype=str(x.dtype))), z, scale)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 3, 6, 24])
def test_more_numbers_than_threads(groups: int, layout: Any) -> None:
    """Of groups of channels, of single ones, and of rows of pixels; in every memory order."""
    x, dz = np.random.default_rng(groups).standard_normal((2, 2, 6, 12, 50)).astype("float32")
    x, dz = with_layout(x, layout), with_layout(dz, layout)
    check_standardise(x, groups, 1e-5)
    check_standardise_vjp(dz, *ref.standardise(x, groups=groups))
    check_standardise_vjp(
        dz, with_layout(ref.standardise(x, groups=groups)[0], "channels-last"), np.ones((2, groups), "float32")
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_standardise_at_the_edges(dtype: str) -> None:
    equal = np.full((2, 3, 2, 2), 7.25, dtype)
    agree("standardise", equal, groups=3, epsilon=1e-4)
    broken = equal.copy()
    broken[0, 1, 0, 0] = np.nan
    agree("standardise", broken, groups=3)
    agree("standardise", np.ones((3,), dtype), groups=1)
    agree("standardise", np.ones((0, 4), dtype), groups=2)


@given(images_nchw() | matrices_nd(), st.data())
def test_scale_shift(x: Any, data: st.DataObject) -> None:
    gain, bias = (data.draw(floats_of_shape(x.shape[1:2], dtype=str(x.dtype))) for _ in range(2))
    dy = data.draw(floats_of_shape(x.shape, dtype=str(x.dtype)))
    agree("scale_shift", x, gain, bias)
    check_scale_shift_vjp(dy, x, gain)
    for needs in ({"need_dx": False}, {"need_parameters": False}):
        check_scale_shift_vjp(dy, x, gain, **needs)


def check_scale_shift_vjp(dy: Any, x: Any, gain: Any, op: Any = None, **needs: bool) -> None:
    axes, slopes = (0, *range(2, x.ndim)), np.abs(dy).astype("float64")
    sizes = np.abs(gain).max() * slopes, (slopes * np.abs(x)).sum(axis=axes) + 1e-300, slopes.sum(axis=axes) + 1e-300
    agree("scale_shift_vjp", dy, x, gain, **needs, scale=sizes, op=op)


def test_the_memory_order_of_the_input_is_kept() -> None:
    x = to_device(np.ascontiguousarray(np.random.default_rng(1).random((2, 4, 5, 3))).transpose(0, 3, 1, 2))
    ones = to_device(np.ones(3))
    z, scale = gpu.standardise(x, groups=3)
    for result in (z, gpu.standardise_vjp(x, z, scale), gpu.scale_shift(x, ones, ones)):
        assert result.strides == x.strides


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_masks(dtype: str) -> None:
    """What dropout draws is the same on both backends, bit for bit."""
    x, index = np.ones((3, 2, 5, 4), dtype), np.array([7, 0, 3])

    def drawn(ops: Any, x: Any, index: Any) -> Any:
        network = build([Dropout(0.3)], (2, 5, 4), initialisation="he", dtype=dtype, ops=ops)
        return ops.to_host(network.at_step(11, index, 2).forward(x, training=True)[0])

    np.testing.assert_array_equal(drawn(gpu, to_device(x), to_device(index)), drawn(ref, x, index))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    x, dy = np.random.default_rng(3).standard_normal((2, 2, 4, 3, 5)).astype(dtype)
    gain, bias = np.random.default_rng(4).standard_normal((2, 4)).astype(dtype)
    for groups in (1, 2, 4, 12):
        assert_planted_caught(lambda f, groups=groups: check_standardise(x, groups, 1e-3, f), gpu.standardise)
        z, scale = ref.standardise(x, groups=groups)
        assert_planted_caught(lambda f, z=z, scale=scale: check_standardise_vjp(dy, z, scale, f), gpu.standardise_vjp)
    assert_planted_caught(lambda f: agree("scale_shift", x, gain, bias, op=f), gpu.scale_shift)
    assert_planted_caught(lambda f: check_scale_shift_vjp(dy, x, gain, f), gpu.scale_shift_vjp)


def test_complaints() -> None:
    x, c = np.ones((2, 4, 3)), np.ones(4)
    for groups in (5, 0, -1, 1.5, True):
        complain_alike("standardise", x, groups=groups)
    for epsilon in (0, -1, math.nan):
        complain_alike("standardise", x, groups=2, epsilon=epsilon)
    complain_alike("standardise", x.astype(int), groups=2)
    complain_alike("standardise", x[:, :0], groups=1)
    z, scale = on_device(gpu.standardise)(x, groups=2)
    for bad in (scale[:1], np.ones((2, 5)), np.ones((2, 0))):
        complain_alike("standardise_vjp", x, z, bad)
    complain_alike("standardise_vjp", x[:1], z, scale)
    for bad in (c[:2], c.astype("float32")):
        complain_alike("scale_shift", x, bad, c)
        complain_alike("scale_shift", x, c, bad)
        complain_alike("scale_shift_vjp", x, x, bad)
    complain_alike("scale_shift_vjp", x[:1], x, c)
