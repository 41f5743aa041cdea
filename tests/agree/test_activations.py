"""Activations besides ReLU and tanh, and their derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ref.test_activations import SETTINGS, spread
from tests.strategies import DTYPES, floats_of_shape, images_nchw, matrices_nd
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu, ref, to_device

OPS = {
    "leaky_relu": (gpu.leaky_relu, gpu.leaky_relu_vjp),
    "elu": (gpu.elu, gpu.elu_vjp),
    "silu": (gpu.silu, gpu.silu_vjp),
    "gelu": (gpu.gelu, gpu.gelu_vjp),
    "sigmoid": (gpu.sigmoid, gpu.sigmoid_vjp),
    "softplus": (gpu.softplus, gpu.softplus_vjp),
    "hardtanh": (gpu.hardtanh, gpu.hardtanh_vjp),
}


def size_of(x: Any) -> Any:
    return 1 + np.abs(x).astype("float64")


def check(name: str, x: Any, settings: dict[str, Any], op: Any = None) -> None:
    agree(name, x, **settings, scale=size_of(x), op=op)


def check_vjp(name: str, dy: Any, x: Any, settings: dict[str, Any], op: Any = None) -> None:
    scale = np.abs(dy) * size_of(x) + 1e-300
    agree(f"{name}_vjp", dy, ref.sigmoid(x) if name == "sigmoid" else x, **settings, scale=scale, op=op)


@given(images_nchw() | matrices_nd(), st.sampled_from(SETTINGS), st.data())
def test_activations(x: Any, case: tuple[str, dict[str, Any]], data: st.DataObject) -> None:
    name, settings = case
    x = spread(x)
    check(name, x, settings)
    check_vjp(name, data.draw(floats_of_shape(x.shape, dtype=str(x.dtype))), x, settings)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_the_edges(dtype: str) -> None:
    """Where functions bend, far out, and what is not a number."""
    huge = np.finfo(dtype).max
    bends = [-1.0, -0.0, 0.0, 1.0, 6.0, 20.0, 0.6, np.nextafter(np.dtype(dtype).type(6), 0)]
    x = np.array([-np.inf, -huge, -1e4, -88, -30, *bends, 30, 88, 1e4, huge, np.inf, np.nan], dtype=dtype)
    for name, settings in SETTINGS:
        agree(name, x, **settings, scale=np.where(np.isfinite(x), np.abs(x), 1).astype("float64") + 1)
        saved = ref.sigmoid(x) if name == "sigmoid" else x
        agree(f"{name}_vjp", np.ones_like(x), saved, **settings, scale=1)


@pytest.mark.slow
@given(images_nchw() | matrices_nd(), st.booleans(), st.data())
def test_prelu(x: Any, one: bool, data: st.DataObject) -> None:
    x = spread(x)
    slope = data.draw(floats_of_shape((1 if one else x.shape[1],), dtype=str(x.dtype)))
    dy = data.draw(floats_of_shape(x.shape, dtype=str(x.dtype)))
    agree("prelu", x, slope, exact=True)
    check_prelu_vjp(dy, x, slope)
    for needs in ({"need_dx": False}, {"need_dslope": False}):
        check_prelu_vjp(dy, x, slope, **needs)


def check_prelu_vjp(dy: Any, x: Any, slope: Any, op: Any = None, **needs: bool) -> None:
    terms = np.abs(dy.astype("float64") * np.minimum(x, 0)).sum(axis=(0, *range(2, x.ndim)))
    terms = terms.sum(keepdims=True) if slope.shape == (1,) else terms
    sizes = np.abs(dy.astype("float64")) * (1 + np.abs(slope).max()), terms + 1e-300
    agree("prelu_vjp", dy, x, slope, **needs, scale=sizes, op=op)


@pytest.mark.slow
def test_the_memory_order_of_the_input_is_kept() -> None:
    x = to_device(np.ascontiguousarray(np.random.default_rng(1).random((2, 4, 5, 3))).transpose(0, 3, 1, 2))
    ones = to_device(np.ones(3))
    for name, settings in SETTINGS:
        f, vjp = OPS[name]
        assert f(x, **settings).strides == vjp(x, x, **settings).strides == x.strides
    assert gpu.prelu(x, ones).strides == gpu.prelu_vjp(x, x, ones)[0].strides == x.strides


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    x, dy = (2 * np.random.default_rng(3).standard_normal((2, 2, 3, 4, 5))).astype(dtype)
    for name, settings in SETTINGS:
        f, vjp = OPS[name]
        assert_planted_caught(lambda f, name=name, settings=settings: check(name, x, settings, f), f)
        assert_planted_caught(lambda f, name=name, settings=settings: check_vjp(name, dy, x, settings, f), vjp)
    for slope in (np.array([0.25], dtype), np.array([0.25, -0.5, 2], dtype)):
        assert_planted_caught(lambda f, slope=slope: agree("prelu", x, slope, op=f), gpu.prelu)
        assert_planted_caught(lambda f, slope=slope: check_prelu_vjp(dy, x, slope, f), gpu.prelu_vjp)


def test_complaints() -> None:
    x = np.ones((2, 3))
    for name, settings in SETTINGS:
        complain_alike(name, x.astype(int), **settings)
        complain_alike(f"{name}_vjp", x[:1], x, **settings)
        complain_alike(f"{name}_vjp", x.astype("float32"), x, **settings)
    complain_alike("leaky_relu", x, slope=np.nan)
    complain_alike("elu", x, alpha=-1.0)
    complain_alike("gelu", x, approximate="erf")
    complain_alike("gelu_vjp", x, x, approximate="erf")
    complain_alike("softplus", x, beta=0.0)
    complain_alike("softplus", x, threshold=np.inf)
    complain_alike("hardtanh", x, low=1.0, high=1.0)
    complain_alike("hardtanh", x, low=np.nan)
    for slope in (np.ones(2), np.ones((3, 1)), np.ones(3, "float32")):
        complain_alike("prelu", x, slope)
        complain_alike("prelu_vjp", x, x, slope)
    complain_alike("prelu", x[0], np.ones(1))
    complain_alike("prelu_vjp", x[:1], x, np.ones(1))
