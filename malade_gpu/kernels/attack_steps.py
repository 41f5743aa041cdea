"""Bodies of the steps of attacks that look at one pixel at a time."""

from __future__ import annotations

import math
from typing import Any

from numba import float32, float64

from ..elements import element

ZERO, ONE = float32(0.0), float32(1.0)


@element
def sign_step(i: Any, out: Any, x: Any, gradient: Any, step_size: Any) -> None:
    """X + step_size sign(gradient); the sign of NaN is 0."""
    if gradient[i] > ZERO:
        out[i] = x[i] + step_size
    elif gradient[i] < ZERO:
        out[i] = x[i] - step_size
    else:
        out[i] = x[i]


def pixel_bounds(real: Any, gap: float, least: float) -> Any:
    """Function from a centre's pixel to the smallest and the largest pixel within eps of it, in a given precision.

    Rounding may move a bound outwards; it is then moved inwards to the next representable number. For v > 0 that is
    v +- d, rounded, with d between half and one and a half times the distance of the numbers around v: ``gap`` is 1.25
    times the relative distance just below a power of two, and ``least`` the smallest number there is.
    """
    relative, smallest = real(gap), real(least)

    @element
    def bounds(centre: Any, eps: Any) -> Any:
        exact = float64(centre)
        lower = real(max(exact - eps, 0.0))
        upper = real(min(exact + eps, 1.0))
        if exact - float64(lower) > eps:
            lower = lower + max(lower * relative, smallest)
        if float64(upper) - exact > eps:
            upper = upper - max(upper * relative, smallest)
        return lower, upper

    return bounds


def linf_bounds(bounds_of: Any) -> Any:
    """Body for the bounds themselves."""

    @element
    def both(i: Any, lower: Any, upper: Any, centre: Any, eps: Any) -> None:
        lower[i], upper[i] = bounds_of(centre[i], eps)

    return both


def project_linf(bounds_of: Any) -> Any:
    """Body for the nearest pixel within the bounds."""

    @element
    def project(i: Any, out: Any, x: Any, centre: Any, eps: Any) -> None:
        lower, upper = bounds_of(centre[i], eps)
        out[i] = lower if x[i] < lower else upper if x[i] > upper else x[i]

    return project


def random_start_linf(bounds_of: Any) -> Any:
    """Body for a uniform pixel within eps, then within the bounds."""

    @element
    def start(i: Any, out: Any, centre: Any, uniform: Any, width: Any, eps: Any) -> None:
        lower, upper = bounds_of(centre[i], eps)
        x = centre[i] + width * (uniform[i] + uniform[i] - ONE)
        out[i] = lower if x < lower else upper if x > upper else x

    return start


def apgd_step_linf(bounds_of: Any) -> Any:
    """Body for a step along the sign and on along the last move, back within the bounds after each."""

    @element
    def step(
        i: Any,
        out: Any,
        x: Any,
        previous: Any,
        gradient: Any,
        centre: Any,
        sizes: Any,
        size: Any,
        momentum: Any,
        rest: Any,
        eps: Any,
    ) -> None:
        lower, upper = bounds_of(centre[i], eps)
        z = x[i]
        if gradient[i] > ZERO:
            z = z + sizes[i // size]
        elif gradient[i] < ZERO:
            z = z - sizes[i // size]
        z = lower if z < lower else upper if z > upper else z
        z = x[i] + momentum * (z - x[i]) + rest * (x[i] - previous[i])
        out[i] = lower if z < lower else upper if z > upper else z

    return step


@element
def select(i: Any, out: Any, condition: Any, new: Any, old: Any, size: Any) -> None:
    """Numbers of ``new`` for samples whose condition holds, of ``old`` for the others; ``size`` of them each."""
    out[i] = new[i] if condition[i // size] else old[i]


@element
def better(i: Any, out: Any, success: Any, loss: Any, best_success: Any, best_loss: Any) -> None:
    """Success first, then the larger loss; NaN never wins, and loses against any number."""
    if math.isnan(loss[i]):
        out[i] = False
    elif success[i] != best_success[i]:
        out[i] = success[i]
    else:
        out[i] = loss[i] > best_loss[i] or math.isnan(best_loss[i])


PIXEL_BOUNDS = {
    "float32": pixel_bounds(float32, 1.25 * 2.0**-24, 2.0**-149),
    "float64": pixel_bounds(float64, 1.25 * 2.0**-53, 2.0**-1074),
}
LINF_BOUNDS = {dtype: linf_bounds(bounds_of) for dtype, bounds_of in PIXEL_BOUNDS.items()}
PROJECT_LINF = {dtype: project_linf(bounds_of) for dtype, bounds_of in PIXEL_BOUNDS.items()}
RANDOM_START_LINF = {dtype: random_start_linf(bounds_of) for dtype, bounds_of in PIXEL_BOUNDS.items()}
APGD_STEP_LINF = {dtype: apgd_step_linf(bounds_of) for dtype, bounds_of in PIXEL_BOUNDS.items()}
