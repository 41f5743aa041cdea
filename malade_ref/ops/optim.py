"""Optimiser steps: pure functions from (parameter, gradient, state) to (parameter, state)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_count, check_number, check_same
from .slices import map_slices

Floats = NDArray[Any]

BLOCK = 1 << 15


def adam_step(
    parameter: Floats,
    gradient: Floats,
    first: Floats,
    second: Floats,
    *,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> tuple[Floats, Floats, Floats]:
    """One step of Adam.

    Parameters
    ----------
    parameter, gradient, first, second : ndarray of one shape and dtype
        Parameter, gradient of the loss, and the running means of the gradient and of its square. Not modified.
    step : int
        Number of this step, from 1 (for the bias correction).
    learning_rate : float
        Step size, >= 0.
    beta1, beta2 : float
        Decay of the running means, in [0, 1).
    epsilon : float
        Added to the root of the second mean, > 0.

    Returns
    -------
    parameter, first, second : ndarray
        The new ones.

    References
    ----------
    .. [1] Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, Algorithm 1.
    """
    for name, value in (("gradient", gradient), ("first", first), ("second", second)):
        check_same(name, value, "parameter", parameter)
    check_count("step", step)
    check_number("learning_rate", learning_rate, minimum=0)
    check_number("beta1", beta1, minimum=0, below=1)
    check_number("beta2", beta2, minimum=0, below=1)
    check_number("epsilon", epsilon, above=0)
    real = parameter.dtype.type
    results = np.empty((3, *parameter.shape), dtype=parameter.dtype)
    new_parameter, new_first, new_second = flat = results.reshape(3, parameter.size)
    p, g, m, v = (array.reshape(-1) for array in (parameter, gradient, first, second))

    def of_block(part: slice) -> None:
        new_first[part] = real(beta1) * m[part] + real(1 - beta1) * g[part]
        new_second[part] = real(beta2) * v[part] + real(1 - beta2) * (g[part] * g[part])
        mean = flat[1, part] * real(1 / (1 - beta1**step))
        square = flat[2, part] * real(1 / (1 - beta2**step))
        new_parameter[part] = p[part] - real(learning_rate) * mean / (np.sqrt(square) + real(epsilon))

    # Block by block, so that the temporary arrays stay in the cache.
    map_slices(of_block, parameter.size, slice_size=BLOCK)
    return results[0], results[1], results[2]


def sgd_step(
    parameter: Floats,
    gradient: Floats,
    velocity: Floats,
    *,
    learning_rate: float,
    momentum: float = 0.9,
) -> tuple[Floats, Floats]:
    """One step of gradient descent with (heavy-ball) momentum: v <- momentum v + gradient, p <- p - learning_rate v.

    Parameters
    ----------
    parameter, gradient, velocity : ndarray of one shape and dtype
        Parameter, gradient of the loss, and the running sum of gradients. Not modified.
    learning_rate : float
        Step size, >= 0.
    momentum : float
        Decay of the running sum, in [0, 1].

    Returns
    -------
    parameter, velocity : ndarray
        The new ones.

    References
    ----------
    .. [1] Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    """
    check_same("gradient", gradient, "parameter", parameter)
    check_same("velocity", velocity, "parameter", parameter)
    check_number("learning_rate", learning_rate, minimum=0)
    check_number("momentum", momentum, minimum=0, maximum=1)
    real = parameter.dtype.type
    velocity = real(momentum) * velocity + gradient
    return parameter - real(learning_rate) * velocity, velocity
