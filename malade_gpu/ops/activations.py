r"""Activations besides ReLU and tanh: functions of each number, and the rectifier with a trained slope.

What they are is said in `malade_ref.ops.activations`. Results keep the memory order of their input; sums over a batch
are taken in double and in a fixed order.

Axes: n images, c channels; an array is (n, c, ...) where channels matter, and of any shape elsewhere.
"""

from __future__ import annotations

import math

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_choice, check_float, check_number, check_same

from ..device import device
from ..kernels import activations as kernels
from .layers import _totals
from .layout import for_each_element, for_each_of_channels

# GELU's normal distribution by a logistic function: sigmoid(SLOPE (x + CUBIC x^3)).
SLOPE, CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715
ROOT_HALF, PEAK = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)


def leaky_relu(x: Array, *, slope: float) -> Array:
    """As `malade_ref.ops.leaky_relu`."""
    check_float("x", x)
    check_number("slope", slope)
    return for_each_element(kernels.leaky_relu, (x,), x.dtype.type(slope))


def leaky_relu_vjp(dy: Array, x: Array, *, slope: float) -> Array:
    """As `malade_ref.ops.leaky_relu_vjp`."""
    check_same("dy", dy, "x", x)
    return for_each_element(kernels.leaky_relu_vjp, (dy, x), x.dtype.type(slope))


def elu(x: Array, *, alpha: float) -> Array:
    """As `malade_ref.ops.elu`."""
    check_float("x", x)
    check_number("alpha", alpha, minimum=0)
    return for_each_element(kernels.elu, (x,), x.dtype.type(alpha))


def elu_vjp(dy: Array, x: Array, *, alpha: float) -> Array:
    """As `malade_ref.ops.elu_vjp`."""
    check_same("dy", dy, "x", x)
    return for_each_element(kernels.elu_vjp, (dy, x), x.dtype.type(alpha))


def sigmoid(x: Array) -> Array:
    """As `malade_ref.ops.sigmoid`."""
    check_float("x", x)
    return for_each_element(kernels.sigmoid, (x,))


def sigmoid_vjp(dy: Array, y: Array) -> Array:
    """As `malade_ref.ops.sigmoid_vjp`."""
    check_same("dy", dy, "y", y)
    return for_each_element(kernels.sigmoid_vjp, (dy, y))


def silu(x: Array) -> Array:
    """As `malade_ref.ops.silu`."""
    check_float("x", x)
    return for_each_element(kernels.silu, (x,))


def silu_vjp(dy: Array, x: Array) -> Array:
    """As `malade_ref.ops.silu_vjp`."""
    check_same("dy", dy, "x", x)
    return for_each_element(kernels.silu_vjp, (dy, x))


def gelu(x: Array, *, approximate: str = "none") -> Array:
    """As `malade_ref.ops.gelu`."""
    check_float("x", x)
    real = x.dtype.type
    if check_choice("approximate", approximate, ("none", "tanh")) == "none":
        return for_each_element(kernels.gelu, (x,), real(ROOT_HALF))
    return for_each_element(kernels.gelu_tanh, (x,), real(SLOPE), real(CUBIC))


def gelu_vjp(dy: Array, x: Array, *, approximate: str = "none") -> Array:
    """As `malade_ref.ops.gelu_vjp`."""
    check_same("dy", dy, "x", x)
    real = x.dtype.type
    if check_choice("approximate", approximate, ("none", "tanh")) == "none":
        return for_each_element(kernels.gelu_vjp, (dy, x), real(ROOT_HALF), real(PEAK))
    return for_each_element(kernels.gelu_tanh_vjp, (dy, x), real(SLOPE), real(CUBIC), real(3 * CUBIC))


def softplus(x: Array, *, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """As `malade_ref.ops.softplus`."""
    check_float("x", x)
    check_number("beta", beta, above=0)
    check_number("threshold", threshold)
    return for_each_element(kernels.softplus, (x,), x.dtype.type(beta), x.dtype.type(threshold))


def softplus_vjp(dy: Array, x: Array, *, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """As `malade_ref.ops.softplus_vjp`."""
    check_same("dy", dy, "x", x)
    return for_each_element(kernels.softplus_vjp, (dy, x), x.dtype.type(beta), x.dtype.type(threshold))


def hardtanh(x: Array, *, low: float = -1.0, high: float = 1.0) -> Array:
    """As `malade_ref.ops.hardtanh`."""
    check_float("x", x)
    check_number("high", high, above=check_number("low", low))
    return for_each_element(kernels.hardtanh, (x,), x.dtype.type(low), x.dtype.type(high))


def hardtanh_vjp(dy: Array, x: Array, *, low: float = -1.0, high: float = 1.0) -> Array:
    """As `malade_ref.ops.hardtanh_vjp`."""
    check_same("dy", dy, "x", x)
    return for_each_element(kernels.hardtanh_vjp, (dy, x), x.dtype.type(low), x.dtype.type(high))


def prelu(x: Array, slope: Array) -> Array:
    """As `malade_ref.ops.prelu`."""
    _check_slope(x, slope)
    return for_each_of_channels(kernels.prelu, (x,), (_of_all_channels(slope, x),))


def prelu_vjp(
    dy: Array, x: Array, slope: Array, *, need_dx: bool = True, need_dslope: bool = True
) -> tuple[Array | None, Array | None]:
    """As `malade_ref.ops.prelu_vjp`."""
    check_same("dy", dy, "x", x)
    _check_slope(x, slope)
    dx = for_each_of_channels(kernels.prelu_vjp, (dy, x), (_of_all_channels(slope, x),)) if need_dx else None
    if not need_dslope:
        return dx, None
    exact, rounded = _totals("channel_sums", (for_each_element(kernels.prelu_terms, (dy, x)),))
    if slope.shape == (1,):
        rounded = _totals("channel_sums", (exact.reshape(-1, 1),))[0].astype(x.dtype)
    return dx, rounded


def _check_slope(x: Array, slope: Array) -> None:
    check_float("x", x)
    if x.ndim < 2 or slope.shape not in ((1,), (x.shape[1],)):
        raise InputError(f"slope: expected one number, or one a channel of x {x.shape}, got shape {slope.shape}")
    if slope.dtype != x.dtype:
        raise InputError(f"slope: expected dtype {x.dtype} (that of x), got {slope.dtype}")


def _of_all_channels(slope: Array, x: Array) -> Array:
    return device().xp.broadcast_to(slope, x.shape[1:2])
