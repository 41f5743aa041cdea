"""Bodies of the optimiser steps."""

from __future__ import annotations

import math
from typing import Any

from ..elements import element


@element
def adam(
    i: Any,
    new_parameter: Any,
    new_first: Any,
    new_second: Any,
    parameter: Any,
    gradient: Any,
    first: Any,
    second: Any,
    beta1: Any,
    rest1: Any,
    beta2: Any,
    rest2: Any,
    correction1: Any,
    correction2: Any,
    learning_rate: Any,
    epsilon: Any,
) -> None:
    """Adam; ``rest`` is 1 - beta, ``correction`` 1 / (1 - beta^step)."""
    g = gradient[i]
    m = beta1 * first[i] + rest1 * g
    v = beta2 * second[i] + rest2 * (g * g)
    new_first[i], new_second[i] = m, v
    new_parameter[i] = parameter[i] - learning_rate * (m * correction1) / (math.sqrt(v * correction2) + epsilon)


@element
def sgd(
    i: Any,
    new_parameter: Any,
    new_velocity: Any,
    parameter: Any,
    gradient: Any,
    velocity: Any,
    momentum: Any,
    rate: Any,
) -> None:
    """Gradient descent with momentum."""
    v = momentum * velocity[i] + gradient[i]
    new_velocity[i] = v
    new_parameter[i] = parameter[i] - rate * v
