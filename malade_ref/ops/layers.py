r"""Layers between the convolutions: linear, bias, relu, tanh, batch normalisation.

Every op `f` stands beside its vector-Jacobian product `f_vjp`: given dy, the gradient of a scalar with respect to the
output, it returns the gradient with respect to each input. Nothing is done in place and no output shares memory with an
input, except where said.

Axes: n images, c channels, (h, w) pixels, d features in, k features out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_float, check_ndim, check_number, check_same, check_shape
from .channels import channel_map, channel_sums
from .epilogue import check_epilogue, epilogue, epilogue_vjp

Floats = NDArray[Any]


def linear(x: Floats, weight: Floats, *, bias: Floats | None = None, activation: str | None = None) -> Floats:
    """Matrix product ``y = x weight^T``, and what it becomes.

    Parameters
    ----------
    x : ndarray of shape (n, d), float32 or float64
        Input.
    weight : ndarray of shape (k, d), same dtype
        One row an output.
    bias : ndarray of shape (k,), same dtype, optional
        Added to each output.
    activation : {"relu", "tanh"}, optional
        Applied to the sum.

    Returns
    -------
    ndarray of shape (n, k), same dtype
        activation(y + bias).
    """
    check_ndim("x", x, 2, "(n, d)")
    check_ndim("weight", weight, 2, "(k, d)")
    check_float("x", x)
    if weight.dtype != x.dtype:
        raise InputError(f"weight: expected dtype {x.dtype} (that of x), got {weight.dtype}")
    if weight.shape[1] != x.shape[1]:
        raise InputError(f"x: expected {weight.shape[1]} features (those of weight), got {x.shape[1]}")
    check_epilogue((len(weight), x.dtype), bias=bias, activation=activation)
    return epilogue(x @ weight.T, bias, activation)


def linear_vjp(
    dy: Floats,
    x: Floats,
    weight: Floats,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    input_activation: str | None = None,
) -> tuple[Floats | None, Floats | None]:
    """Vector-Jacobian products of `linear`: dx = dy weight, dweight = dy^T x.

    Parameters
    ----------
    dy : ndarray of shape (n, k)
        Gradient with respect to the output.
    x, weight
        As given to `linear`.
    need_dx, need_dweight : bool
        Which of the two to compute.
    input_activation : {"relu", "tanh"}, optional
        The activation that x is the output of.

    Returns
    -------
    dx : ndarray of shape (n, d), or None
        Gradient with respect to the input, or to what its activation was applied to.
    dweight : ndarray of shape (k, d), or None
        Gradient with respect to the weight, summed over samples.
    """
    check_shape("dy", dy, (len(x), len(weight)))
    check_epilogue((x.shape[1], x.dtype), activation=input_activation, name="input_activation")
    dx = epilogue_vjp(dy @ weight, x, input_activation) if need_dx else None
    return dx, (dy.T @ x if need_dweight else None)


def add_bias(x: Floats, bias: Floats) -> Floats:
    """Add one number to every channel (or feature).

    Parameters
    ----------
    x : ndarray of shape (n, c, ...), float32 or float64
        Input.
    bias : ndarray of shape (c,), same dtype
        Numbers to add.

    Returns
    -------
    ndarray of x's shape and dtype
        The sum.
    """
    check_float("x", x)
    if x.ndim < 2 or bias.shape != (x.shape[1],):
        raise InputError(f"bias: expected one number a channel of x {x.shape}, got shape {bias.shape}")
    if bias.dtype != x.dtype:
        raise InputError(f"bias: expected dtype {x.dtype} (that of x), got {bias.dtype}")
    return np.asarray(x + bias.reshape(-1, *[1] * (x.ndim - 2)))


def add_bias_vjp(dy: Floats) -> Floats:
    """Gradient of `add_bias` with respect to the bias (with respect to x it is dy itself).

    Parameters
    ----------
    dy : ndarray of shape (n, c, ...)
        Gradient with respect to the output.

    Returns
    -------
    ndarray of shape (c,)
        dy summed over samples and pixels.
    """
    if dy.ndim == 4:
        # Sum the rows of a matrix by a matrix product: exact enough, and faster than a strided sum.
        rows = dy.transpose(0, 2, 3, 1).reshape(-1, dy.shape[1])
        return np.ones(len(rows), dtype=dy.dtype) @ rows
    return np.asarray(dy.sum(axis=(0, *range(2, dy.ndim))))


def relu(x: Floats) -> Floats:
    """Rectifier, ``y = max(x, 0)``.

    Parameters
    ----------
    x : ndarray of any shape, float32 or float64
        Input. NaN stays NaN.

    Returns
    -------
    ndarray of x's shape and dtype
        The positive part.
    """
    return np.asarray(np.maximum(x, x.dtype.type(0)))


def relu_vjp(dy: Floats, y: Floats) -> Floats:
    """Vector-Jacobian product of `relu`; the derivative at 0 is 0.

    Parameters
    ----------
    dy, y : ndarray of one shape and dtype
        Gradient with respect to the output, and the output itself.
    """
    check_same("dy", dy, "y", y)
    return np.asarray(dy * (y > 0))


def tanh(x: Floats) -> Floats:
    """Hyperbolic tangent.

    Parameters
    ----------
    x : ndarray of any shape, float32 or float64
        Input.
    """
    return np.asarray(np.tanh(x))


def tanh_vjp(dy: Floats, y: Floats) -> Floats:
    """Vector-Jacobian product of `tanh`: dy (1 - y^2).

    Parameters
    ----------
    dy, y : ndarray of one shape and dtype
        Gradient with respect to the output, and the output itself.
    """
    check_same("dy", dy, "y", y)
    return np.asarray(dy * (1 - y * y))


def batch_norm(x: Floats, gain: Floats, bias: Floats, *, epsilon: float = 1e-5) -> tuple[Floats, Floats, Floats]:
    r"""Batch normalisation with the batch's own statistics (training).

    .. math:: y = gain (x - mean) / \sqrt{variance + epsilon} + bias,

    mean and variance (divided by the count) over samples and pixels of each channel.

    Parameters
    ----------
    x : ndarray of shape (n, c, ...), float32 or float64
        Input, at least one number a channel.
    gain, bias : ndarray of shape (c,), same dtype
        Scale and shift.
    epsilon : float
        Added to the variance, > 0.

    Returns
    -------
    y : ndarray of x's shape and dtype
        Normalised input.
    mean, variance : ndarray of shape (c,)
        The batch's statistics, for the running averages and for `batch_norm_vjp`.

    References
    ----------
    .. [1] Ioffe and Szegedy, "Batch normalization", ICML 2015.
    """
    if x.size == 0:
        raise InputError(f"x: batch statistics need at least one number a channel, got shape {x.shape}")
    count = x.size // x.shape[1]
    (total,) = channel_sums(lambda rows: (rows,), x)
    mean = (total / count).astype(x.dtype)
    (squares,) = channel_sums(lambda rows: (np.square(rows - mean),), x)
    variance = (squares / count).astype(x.dtype)
    return batch_norm_inference(x, gain, bias, mean, variance, epsilon=epsilon), mean, variance


def batch_norm_vjp(
    dy: Floats, x: Floats, gain: Floats, mean: Floats, variance: Floats, *, epsilon: float = 1e-5
) -> tuple[Floats, Floats, Floats]:
    """Vector-Jacobian products of `batch_norm`, through the batch's statistics.

    Parameters
    ----------
    dy : ndarray of x's shape
        Gradient with respect to y.
    x, gain, epsilon
        As given to `batch_norm`.
    mean, variance : ndarray of shape (c,)
        As it returned them.

    Returns
    -------
    dx : ndarray of x's shape
        Gradient with respect to the input.
    dgain, dbias : ndarray of shape (c,)
        Gradients with respect to scale and shift.
    """
    check_same("dy", dy, "x", x)
    count = x.dtype.type(max(1, x.size // max(1, x.shape[1])))
    scale = 1 / np.sqrt(variance + x.dtype.type(epsilon))

    def for_sums(dy: Floats, x: Floats) -> tuple[Floats, Floats]:
        return dy, dy * (x - mean)

    dbias, moments = (sums.astype(x.dtype) for sums in channel_sums(for_sums, dy, x))
    dgain = moments * scale
    slope = gain * scale

    def for_dx(dy: Floats, x: Floats) -> Floats:
        return np.asarray((dy - dbias / count - (x - mean) * (scale * dgain / count)) * slope)

    return channel_map(for_dx, dy, x), dgain, dbias


def batch_norm_inference(
    x: Floats, gain: Floats, bias: Floats, mean: Floats, variance: Floats, *, epsilon: float = 1e-5
) -> Floats:
    """Batch normalisation with given statistics: an affine map of each channel.

    Parameters
    ----------
    x : ndarray of shape (n, c, ...), float32 or float64
        Input.
    gain, bias, mean, variance : ndarray of shape (c,), same dtype
        Scale, shift, and running statistics.
    epsilon : float
        Added to the variance, > 0.

    Returns
    -------
    ndarray of x's shape and dtype
        Normalised input.
    """
    check_float("x", x)
    check_number("epsilon", epsilon, above=0)
    for name, value in (("gain", gain), ("bias", bias), ("mean", mean), ("variance", variance)):
        check_shape(name, value, x.shape[1:2])
    scale = gain / np.sqrt(variance + x.dtype.type(epsilon))
    return channel_map(lambda rows: (rows - mean) * scale + bias, x)


def batch_norm_inference_vjp(dy: Floats, gain: Floats, variance: Floats, *, epsilon: float = 1e-5) -> Floats:
    """Gradient of `batch_norm_inference` with respect to x.

    Parameters
    ----------
    dy : ndarray of shape (n, c, ...)
        Gradient with respect to the output.
    gain, variance, epsilon
        As given to `batch_norm_inference`.
    """
    slope = gain / np.sqrt(variance + dy.dtype.type(epsilon))
    return channel_map(lambda rows: rows * slope, dy)
