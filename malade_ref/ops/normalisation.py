r"""Normalisation of each sample by itself: group, layer and instance normalisation are one op on other groups.

A sample's numbers, in the order of its axes, are divided into g groups of m neighbours. Each group gets mean 0 and
variance 1,

.. math:: z = s (x - mean(x)),\quad s = 1 / \sqrt{variance(x) + epsilon},

and with dz the gradient with respect to z, by the chain rule through mean and variance,

.. math:: dx = s (dz - mean(dz) - z\, mean(z\, dz)).

Groups of channels give group normalisation, single channels instance normalisation, the last axes layer
normalisation. What follows is `scale_shift`: y = gain z + bias.

Axes: n images, c channels, (h, w) pixels, g groups.

References
----------
.. [1] Wu and He, "Group normalization", ECCV 2018. [2] Ba, Kiros, Hinton, "Layer normalization", 2016.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_count, check_float, check_number, check_same, check_shape
from .layers import add_bias_vjp

Floats = NDArray[Any]


def standardise(x: Floats, *, groups: int, epsilon: float = 1e-5) -> tuple[Floats, Floats]:
    """Bring each group of a sample's numbers to mean 0 and variance 1.

    Parameters
    ----------
    x : ndarray of shape (n, ...), float32 or float64
        Input.
    groups : int
        Groups g of neighbours, in the order of the axes, that a sample is divided into; at least 1.
    epsilon : float
        Added to the variance (divided by the count), > 0.

    Returns
    -------
    z : ndarray of x's shape and dtype
        Standardised numbers.
    scale : ndarray of shape (n, g), same dtype
        What each group was multiplied by, for `standardise_vjp`.
    """
    check_float("x", x)
    check_number("epsilon", epsilon, above=0)
    size = math.prod(x.shape[1:])
    if size == 0 or size % check_count("groups", groups):
        raise InputError(f"groups: expected a divisor of the {size} numbers of a sample, got {groups}")
    rows = x.reshape(len(x), groups, size // groups)
    deviation = rows - rows.mean(axis=2, keepdims=True)
    variance = np.mean(deviation * deviation, axis=2, keepdims=True)
    scale = 1 / np.sqrt(variance + x.dtype.type(epsilon))
    return (deviation * scale).reshape(x.shape), scale[:, :, 0]


def standardise_vjp(dz: Floats, z: Floats, scale: Floats) -> Floats:
    """Vector-Jacobian product of `standardise`.

    Parameters
    ----------
    dz : ndarray of z's shape and dtype
        Gradient with respect to z.
    z, scale
        As `standardise` returned them.
    """
    check_same("dz", dz, "z", z)
    check_shape("scale", scale, (len(z), *scale.shape[1:2]))
    size = math.prod(z.shape[1:])
    if not scale.shape[1] or size % scale.shape[1]:
        raise InputError(f"scale: expected one number a group of the {size} of a sample, got shape {scale.shape}")
    shape = (len(z), scale.shape[1], size // scale.shape[1])
    dz_rows, z_rows = dz.reshape(shape), z.reshape(shape)
    mean = dz_rows.mean(axis=2, keepdims=True)
    product = (dz_rows * z_rows).mean(axis=2, keepdims=True)
    return np.asarray(scale[:, :, None] * (dz_rows - mean - z_rows * product)).reshape(z.shape)


def scale_shift(x: Floats, gain: Floats, bias: Floats) -> Floats:
    """Multiply every channel (or feature) by one number and add another.

    Parameters
    ----------
    x : ndarray of shape (n, c, ...), float32 or float64
        Input.
    gain, bias : ndarray of shape (c,), same dtype
        The numbers.

    Returns
    -------
    ndarray of x's shape and dtype
        gain x + bias.
    """
    _check_channels(x, gain=gain, bias=bias)
    return np.asarray(x * _of_channels(gain, x) + _of_channels(bias, x))


def scale_shift_vjp(
    dy: Floats, x: Floats, gain: Floats, *, need_dx: bool = True, need_parameters: bool = True
) -> tuple[Floats | None, Floats | None, Floats | None]:
    """Vector-Jacobian products of `scale_shift`: gain dy, and the sums of x dy and of dy over samples and pixels.

    Parameters
    ----------
    dy : ndarray of x's shape and dtype
        Gradient with respect to the output.
    x, gain
        As given to `scale_shift`.
    need_dx, need_parameters : bool
        Which of them to compute.

    Returns
    -------
    dx : ndarray of x's shape, or None
        Gradient with respect to the input.
    dgain, dbias : ndarray of shape (c,), or None
        Gradients with respect to the channels' numbers.
    """
    check_same("dy", dy, "x", x)
    _check_channels(x, gain=gain)
    dx = np.asarray(dy * _of_channels(gain, x)) if need_dx else None
    return (dx, add_bias_vjp(dy * x), add_bias_vjp(dy)) if need_parameters else (dx, None, None)


def _check_channels(x: Floats, **values: Floats) -> None:
    check_float("x", x)
    for name, value in values.items():
        if x.ndim < 2 or value.shape != (x.shape[1],):
            raise InputError(f"{name}: expected one number a channel of x {x.shape}, got shape {value.shape}")
        if value.dtype != x.dtype:
            raise InputError(f"{name}: expected dtype {x.dtype} (that of x), got {value.dtype}")


def _of_channels(values: Floats, x: Floats) -> Floats:
    """One number a channel, shaped to meet x."""
    return values.reshape(-1, *[1] * (x.ndim - 2))
