"""Bodies of the Langevin step and its derivative."""

from __future__ import annotations

from typing import Any

from numba import float32

from ..elements import element

ZERO, ONE = float32(0.0), float32(1.0)


@element
def clipped(value: Any) -> Any:
    """The nearest number of [0, 1]; NaN stays NaN."""
    return ZERO if value < ZERO else ONE if value > ONE else value


@element
def moved(x: Any, residual: Any, noise: Any, a: Any, delta: Any) -> Any:
    """Where the step leads before clipping."""
    return x + a * residual + delta * noise


@element
def step(i: Any, out: Any, x: Any, residual: Any, noise: Any, a: Any, delta: Any) -> None:
    """X + a (r(x) - x) + delta z."""
    out[i] = moved(x[i], residual[i], noise[i], a, delta)


@element
def clipped_step(i: Any, out: Any, x: Any, residual: Any, noise: Any, a: Any, delta: Any) -> None:
    """The same, clipped to [0, 1]."""
    out[i] = clipped(moved(x[i], residual[i], noise[i], a, delta))


@element
def step_vjp(i: Any, dx: Any, dresidual: Any, dy: Any, a: Any) -> None:
    """Gradients of `step`."""
    dx[i] = dy[i]
    dresidual[i] = a * dy[i]


@element
def clipped_step_vjp(
    i: Any, dx: Any, dresidual: Any, dy: Any, x: Any, residual: Any, noise: Any, a: Any, delta: Any
) -> None:
    """Gradients of `clipped_step`: 0 where the step was clipped."""
    unclipped = moved(x[i], residual[i], noise[i], a, delta)
    inside = unclipped >= ZERO and unclipped <= ONE
    gradient = dy[i] * (ONE if inside else ZERO)
    dx[i] = gradient
    dresidual[i] = a * gradient


@element
def clip(i: Any, out: Any, x: Any) -> None:
    """The nearest number of [0, 1]."""
    out[i] = clipped(x[i])
