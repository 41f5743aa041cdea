"""Bodies of the steps of attacks that look for the smallest perturbation.

Element i is of sample ``i // size``.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32, float64

from ..elements import element

ZERO, ONE = float32(0.0), float32(1.0)


@element
def to_tanh_space(i: Any, out: Any, x: Any) -> None:
    """Inverse of `from_tanh_space`, in double: pixels at the ends are close to where it is infinite."""
    out[i] = math.atanh(0.999999 * (float64(x[i]) + float64(x[i]) - 1.0))


def from_tanh_space(real: Any) -> Any:
    """Body for (tanh w + 1) / 2."""
    half = real(0.5)

    @element
    def pixel(i: Any, out: Any, w: Any) -> None:
        out[i] = (math.tanh(w[i]) + ONE) * half

    return pixel


def cw_gradient(real: Any) -> Any:
    """Body for the gradient with respect to w; (1 - tanh(w)^2) / 2 is 2 e / (1 + e)^2 with e = exp(-2 |w|)."""
    half = real(0.5)

    @element
    def slope(i: Any, out: Any, w: Any, gradient: Any, centre: Any, weight: Any, size: Any) -> None:
        e = math.exp(-(abs(w[i]) + abs(w[i])))
        away = (math.tanh(w[i]) + ONE) * half - centre[i]
        pull = weight[i // size] * gradient[i] if math.isfinite(gradient[i]) else ZERO
        out[i] = (away + away - pull) * ((e + e) / ((ONE + e) * (ONE + e)))

    return slope


def ead_step(real: Any) -> Any:
    """Body for descent, shrinkage towards the centre and momentum."""
    two = real(2.0)

    @element
    def step(
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
        z = y[i] - step_size * (two * (y[i] - centre[i]) - weight[i // size] * gradient[i])
        shift = z - centre[i]
        new = centre[i]
        if math.isfinite(shift):
            if shift > beta:
                new = min(z - beta, ONE)
            elif shift < -beta:
                new = max(z + beta, ZERO)
        new_x[i] = new
        new_y[i] = new + momentum * (new - x[i])

    return step


@element
def fab_step(
    i: Any, out: Any, x: Any, centre: Any, step: Any, centre_step: Any, share: Any, size: Any, overshoot: Any
) -> None:
    """A point between x and the centre, each moved, within [0, 1]."""
    a = share[i // size]
    z = (ONE - a) * (x[i] + overshoot * step[i]) + a * (centre[i] + overshoot * centre_step[i])
    out[i] = ZERO if z < ZERO else ONE if z > ONE else z


@element
def interpolate(i: Any, out: Any, x: Any, other: Any, share: Any, size: Any) -> None:
    """A point between two, within [0, 1]."""
    a = share[i // size]
    z = (ONE - a) * x[i] + a * other[i]
    out[i] = ZERO if z < ZERO else ONE if z > ONE else z


REALS = {"float32": float32, "float64": float64}
FROM_TANH_SPACE = {dtype: from_tanh_space(real) for dtype, real in REALS.items()}
CW_GRADIENT = {dtype: cw_gradient(real) for dtype, real in REALS.items()}
EAD_STEP = {dtype: ead_step(real) for dtype, real in REALS.items()}
