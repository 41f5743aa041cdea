"""Optimiser steps: pure functions from (parameter, gradient, state) to (parameter, state), each one pass."""

from __future__ import annotations

from malade_ref.arrays import Array
from malade_ref.checks import check_count, check_number, check_same

from ..kernels import optim as kernels
from .layout import for_each_element


def adam_step(
    parameter: Array,
    gradient: Array,
    first: Array,
    second: Array,
    *,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> tuple[Array, Array, Array]:
    """As `malade_ref.ops.adam_step`."""
    for name, value in (("gradient", gradient), ("first", first), ("second", second)):
        check_same(name, value, "parameter", parameter)
    check_count("step", step)
    check_number("learning_rate", learning_rate, minimum=0)
    check_number("beta1", beta1, minimum=0, below=1)
    check_number("beta2", beta2, minimum=0, below=1)
    check_number("epsilon", epsilon, above=0)
    real, dtype = parameter.dtype.type, parameter.dtype
    numbers = (beta1, 1 - beta1, beta2, 1 - beta2, 1 / (1 - beta1**step), 1 / (1 - beta2**step), learning_rate, epsilon)
    triple: tuple[Array, Array, Array] = for_each_element(
        kernels.adam, (parameter, gradient, first, second), *map(real, numbers), dtypes=(dtype, dtype, dtype)
    )
    return triple


def sgd_step(
    parameter: Array,
    gradient: Array,
    velocity: Array,
    *,
    learning_rate: float,
    momentum: float = 0.9,
) -> tuple[Array, Array]:
    """As `malade_ref.ops.sgd_step`."""
    check_same("gradient", gradient, "parameter", parameter)
    check_same("velocity", velocity, "parameter", parameter)
    check_number("learning_rate", learning_rate, minimum=0)
    check_number("momentum", momentum, minimum=0, maximum=1)
    real, dtype = parameter.dtype.type, parameter.dtype
    pair: tuple[Array, Array] = for_each_element(
        kernels.sgd, (parameter, gradient, velocity), real(momentum), real(learning_rate), dtypes=(dtype, dtype)
    )
    return pair
