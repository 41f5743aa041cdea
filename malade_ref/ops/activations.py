r"""Activations besides ReLU and tanh: functions of each number, and the rectifier with a trained slope.

Every `f` stands beside its vector-Jacobian product `f_vjp`, which takes dy and the input (`sigmoid_vjp`: the output).
Where a function bends, the derivative is that of the left side, as in PyTorch; `hardtanh` has 0 at both of its ends.
Nothing overflows on the way: what has settled at its limit is computed there, infinity included. NaN stays NaN.

Axes: n images, c channels; an array is (n, c, ...) where channels matter, and of any shape elsewhere.

References
----------
.. [1] Clevert et al., "Fast and accurate deep network learning by exponential linear units", ICLR 2016.
.. [2] Hendrycks and Gimpel, "Gaussian error linear units", 2016.
.. [3] He et al., "Delving deep into rectifiers", ICCV 2015.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ..checks import InputError, check_choice, check_float, check_number, check_same

Floats = NDArray[Any]

SETTLED = 1e4  # beyond it, exp(-|x|) is 0 in float64, too
ROOT_HALF = math.sqrt(0.5)
ROOT_2_PI = math.sqrt(2 * math.pi)
# GELU's normal distribution by a logistic function: sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
SLOPE, CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715


def leaky_relu(x: Floats, *, slope: float) -> Floats:
    """Leaky rectifier: x where x > 0, slope x elsewhere.

    Parameters
    ----------
    x : ndarray of any shape, float32 or float64
        Input.
    slope : float
        Share of the negative numbers that is let through.
    """
    check_float("x", x)
    check_number("slope", slope)
    return np.where(x > 0, x, x * x.dtype.type(slope))


def leaky_relu_vjp(dy: Floats, x: Floats, *, slope: float) -> Floats:
    """Vector-Jacobian product of `leaky_relu`: dy where x > 0, slope dy elsewhere.

    Parameters
    ----------
    dy, x : ndarray of one shape and dtype
        Gradient with respect to the output, and the input.
    slope : float
        As given to `leaky_relu`.
    """
    check_same("dy", dy, "x", x)
    return np.where(x > 0, dy, dy * dy.dtype.type(slope))


def elu(x: Floats, *, alpha: float) -> Floats:
    """Exponential linear unit: x where x > 0, alpha (exp(x) - 1) elsewhere.

    Parameters
    ----------
    x : ndarray of any shape, float32 or float64
        Input.
    alpha : float
        What -infinity becomes, with the other sign; >= 0.
    """
    check_float("x", x)
    check_number("alpha", alpha, minimum=0)
    return np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0)))


def elu_vjp(dy: Floats, x: Floats, *, alpha: float) -> Floats:
    """Vector-Jacobian product of `elu`: dy where x > 0, alpha exp(x) dy elsewhere.

    Parameters
    ----------
    dy, x, alpha
        As of `leaky_relu_vjp`, and as given to `elu`.
    """
    check_same("dy", dy, "x", x)
    return np.where(x > 0, dy, dy * (x.dtype.type(alpha) * np.exp(np.minimum(x, 0))))


def sigmoid(x: Floats) -> Floats:
    """Logistic function, 1 / (1 + exp(-x)).

    Parameters
    ----------
    x : ndarray of any shape, float32 or float64
        Input.

    Returns
    -------
    ndarray of x's shape and dtype
        In [0, 1].
    """
    check_float("x", x)
    small = np.exp(-np.abs(x))  # at most 1, so that nothing overflows
    return np.asarray(np.where(x >= 0, 1, small) / (1 + small))


def sigmoid_vjp(dy: Floats, y: Floats) -> Floats:
    """Vector-Jacobian product of `sigmoid`: dy y (1 - y).

    Parameters
    ----------
    dy, y : ndarray of one shape and dtype
        Gradient with respect to the output, and the output itself.
    """
    check_same("dy", dy, "y", y)
    return np.asarray(dy * (y * (1 - y)))


def silu(x: Floats) -> Floats:
    """Sigmoid linear unit, x sigmoid(x); also called swish.

    Parameters
    ----------
    x : ndarray of any shape, float32 or float64
        Input.
    """
    return np.asarray(np.maximum(x, -SETTLED) * sigmoid(x))


def silu_vjp(dy: Floats, x: Floats) -> Floats:
    """Vector-Jacobian product of `silu`: with s = sigmoid(x), dy s (1 + x (1 - s)).

    The parameters are those of `leaky_relu_vjp`.
    """
    check_same("dy", dy, "x", x)
    return np.asarray(dy * (sigmoid(x) * (1 + np.clip(x, -SETTLED, SETTLED) * sigmoid(-x))))


def gelu(x: Floats, *, approximate: str = "none") -> Floats:
    r"""Gaussian error linear unit: x P(x), P the standard normal distribution.

    Parameters
    ----------
    x : ndarray of any shape, float32 or float64
        Input.
    approximate : {"none", "tanh"}
        P(x) itself, :math:`\mathrm{erfc}(-x / \sqrt 2) / 2`; or
        :math:`(1 + \tanh u) / 2,\ u = \sqrt{2 / \pi}\,(x + 0.044715\,x^3)`, which is the sigmoid of 2 u.
    """
    check_float("x", x)
    bounded = np.clip(x, -SETTLED, SETTLED)
    if check_choice("approximate", approximate, ("none", "tanh")) == "none":
        share = special.erfc(-ROOT_HALF * bounded) / 2
    else:
        share = sigmoid(_twice_u(bounded))
    return np.asarray(np.maximum(x, -SETTLED) * share)


def gelu_vjp(dy: Floats, x: Floats, *, approximate: str = "none") -> Floats:
    """Vector-Jacobian product of `gelu`: dy (P(x) + x P'(x)), P' the normal density or its approximation's derivative.

    Parameters
    ----------
    dy, x, approximate
        As of `leaky_relu_vjp`, and as given to `gelu`.
    """
    check_same("dy", dy, "x", x)
    x = np.clip(x, -SETTLED, SETTLED)
    if check_choice("approximate", approximate, ("none", "tanh")) == "none":
        share = special.erfc(-ROOT_HALF * x) / 2
        density = np.exp(-(x * x) / 2) / ROOT_2_PI
    else:
        share = sigmoid(_twice_u(x))
        density = share * sigmoid(-_twice_u(x)) * (SLOPE * (1 + 3 * CUBIC * x * x))
    return np.asarray(dy * (share + x * density))


def softplus(x: Floats, *, beta: float = 1.0, threshold: float = 20.0) -> Floats:
    """Smooth rectifier: log(1 + exp(beta x)) / beta; x itself where beta x > threshold.

    Parameters
    ----------
    x : ndarray of any shape, float32 or float64
        Input.
    beta : float
        How sharp the bend is, > 0.
    threshold : float
        Beyond which the input is taken for the output, as in PyTorch.
    """
    check_float("x", x)
    check_number("beta", beta, above=0)
    check_number("threshold", threshold)
    with np.errstate(over="ignore"):  # infinity is beyond any threshold
        z = x * x.dtype.type(beta)
    smooth = (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))) / x.dtype.type(beta)
    return np.where(z > x.dtype.type(threshold), x, smooth)


def softplus_vjp(dy: Floats, x: Floats, *, beta: float = 1.0, threshold: float = 20.0) -> Floats:
    """Vector-Jacobian product of `softplus`: dy sigmoid(beta x); dy itself where beta x > threshold.

    Parameters
    ----------
    dy, x, beta, threshold
        As of `leaky_relu_vjp`, and as given to `softplus`.
    """
    check_same("dy", dy, "x", x)
    with np.errstate(over="ignore"):
        z = x * x.dtype.type(beta)
    return np.where(z > x.dtype.type(threshold), dy, dy * sigmoid(z))


def hardtanh(x: Floats, *, low: float = -1.0, high: float = 1.0) -> Floats:
    """Clip to [low, high].

    Parameters
    ----------
    x : ndarray of any shape, float32 or float64
        Input.
    low, high : float
        The ends, low < high.
    """
    check_float("x", x)
    check_number("high", high, above=check_number("low", low))
    return np.asarray(np.clip(x, x.dtype.type(low), x.dtype.type(high)))


def hardtanh_vjp(dy: Floats, x: Floats, *, low: float = -1.0, high: float = 1.0) -> Floats:
    """Vector-Jacobian product of `hardtanh`: dy where low < x < high, 0 elsewhere and at both ends.

    Parameters
    ----------
    dy, x, low, high
        As of `leaky_relu_vjp`, and as given to `hardtanh`.
    """
    check_same("dy", dy, "x", x)
    real = x.dtype.type
    return np.asarray(dy * ((x > real(low)) & (x < real(high))))


def prelu(x: Floats, slope: Floats) -> Floats:
    """Leaky rectifier with trained slopes.

    Parameters
    ----------
    x : ndarray of shape (n, c, ...), float32 or float64
        Input.
    slope : ndarray of shape (1,) or (c,), same dtype
        One for all numbers, or one a channel.

    Returns
    -------
    ndarray of x's shape and dtype
        x where x > 0, slope x elsewhere.
    """
    _check_slope(x, slope)
    return np.where(x > 0, x, x * _of_channels(slope, x))


def prelu_vjp(
    dy: Floats, x: Floats, slope: Floats, *, need_dx: bool = True, need_dslope: bool = True
) -> tuple[Floats | None, Floats | None]:
    """Vector-Jacobian products of `prelu`: dy or slope dy, and the sum of x dy where x <= 0.

    Parameters
    ----------
    dy : ndarray of x's shape and dtype
        Gradient with respect to the output.
    x, slope
        As given to `prelu`.
    need_dx, need_dslope : bool
        Which of the two to compute.

    Returns
    -------
    dx : ndarray of x's shape, or None
        Gradient with respect to the input.
    dslope : ndarray of the slope's shape, or None
        Gradient with respect to the slope, summed over all numbers that it is for.
    """
    check_same("dy", dy, "x", x)
    _check_slope(x, slope)
    dx = np.where(x > 0, dy, dy * _of_channels(slope, x)) if need_dx else None
    if not need_dslope:
        return dx, None
    of_each = (dy * np.minimum(x, 0)).sum(axis=(0, *range(2, x.ndim)))
    return dx, np.asarray(of_each.sum(keepdims=True) if slope.shape == (1,) else of_each)


def _check_slope(x: Floats, slope: Floats) -> None:
    check_float("x", x)
    if x.ndim < 2 or slope.shape not in ((1,), (x.shape[1],)):
        raise InputError(f"slope: expected one number, or one a channel of x {x.shape}, got shape {slope.shape}")
    if slope.dtype != x.dtype:
        raise InputError(f"slope: expected dtype {x.dtype} (that of x), got {slope.dtype}")


def _of_channels(slope: Floats, x: Floats) -> Floats:
    return slope.reshape(-1, *[1] * (x.ndim - 2))


def _twice_u(x: Floats) -> Floats:
    """The logistic function's argument in GELU's approximation."""
    return np.asarray(SLOPE * (x + CUBIC * x * x * x))
