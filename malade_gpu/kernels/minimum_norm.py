"""Bodies of the steps of attacks that look for the smallest perturbation.

Element i is of sample ``i // size``.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32, float64

from ..elements import element

ZERO, HALF, ONE, TWO = float32(0.0), float32(0.5), float32(1.0), float32(2.0)  # exact in float64 too


@element
def to_tanh_space(i: Any, out: Any, x: Any) -> None:
    """Inverse of `from_tanh_space`, in double: pixels at the ends are close to where it is infinite."""
    out[i] = math.atanh(0.999999 * (float64(x[i]) + float64(x[i]) - 1.0))


@element
def from_tanh_space(i: Any, out: Any, point: Any) -> None:
    """(tanh w + 1) / 2."""
    out[i] = (math.tanh(point[i]) + ONE) * HALF


@element
def cw_gradient(i: Any, out: Any, point: Any, gradient: Any, centre: Any, weight: Any, size: Any) -> None:
    """The gradient with respect to w; (1 - tanh(w)^2) / 2 is 2 e / (1 + e)^2 with e = exp(-2 |w|)."""
    e = math.exp(-(abs(point[i]) + abs(point[i])))
    away = (math.tanh(point[i]) + ONE) * HALF - centre[i]
    pull = weight[i // size] * gradient[i] if math.isfinite(gradient[i]) else ZERO
    out[i] = (away + away - pull) * ((e + e) / ((ONE + e) * (ONE + e)))


@element
def ead_step(
    i: Any,
    new_x: Any,
    new_y: Any,
    y: Any,
    x: Any,
    gradient: Any,
    centre: Any,
    weight: Any,
    size: Any,
    step_size: Any,
    beta: Any,
    momentum: Any,
) -> None:
    """Descent, shrinkage towards the centre and momentum."""
    z = y[i] - step_size * (TWO * (y[i] - centre[i]) - weight[i // size] * gradient[i])
    shift = z - centre[i]
    new = centre[i]
    if math.isfinite(shift):
        if shift > beta:
            new = min(z - beta, ONE)
        elif shift < -beta:
            new = max(z + beta, ZERO)
    new_x[i] = new
    new_y[i] = new + momentum * (new - x[i])


@element
def fab_step(
    i: Any, out: Any, x: Any, centre: Any, move: Any, centre_move: Any, share: Any, size: Any, overshoot: Any
) -> None:
    """A point between x and the centre, each moved, within [0, 1]."""
    a = share[i // size]
    z = (ONE - a) * (x[i] + overshoot * move[i]) + a * (centre[i] + overshoot * centre_move[i])
    out[i] = ZERO if z < ZERO else ONE if z > ONE else z


@element
def interpolate(i: Any, out: Any, x: Any, other: Any, share: Any, size: Any) -> None:
    """A point between two, within [0, 1]."""
    a = share[i // size]
    z = (ONE - a) * x[i] + a * other[i]
    out[i] = ZERO if z < ZERO else ONE if z > ONE else z
