r"""The Langevin step of the purification chain and its derivative.

    x <- x + a (r(x) - x) + delta z,    z ~ N(0, I),

each a single pass over memory.

References
----------
.. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", eq. (6) and (10).
"""

from __future__ import annotations

from malade_ref.arrays import Array
from malade_ref.checks import check_float, check_number, check_same

from ..kernels import langevin as kernels
from .layout import for_each_element


def langevin_step(x: Array, residual: Array, noise: Array, *, a: float, delta: float, clip: bool = False) -> Array:
    """As `malade_ref.ops.langevin_step`."""
    _check(x, residual, noise, a, delta)
    real = x.dtype.type
    return for_each_element(kernels.clipped_step if clip else kernels.step, (x, residual, noise), real(a), real(delta))


def langevin_step_vjp(
    dy: Array, x: Array, residual: Array, noise: Array, *, a: float, delta: float, clip: bool = False
) -> tuple[Array, Array]:
    """As `malade_ref.ops.langevin_step_vjp`."""
    check_same("dy", dy, "x", x)
    real, dtypes = dy.dtype.type, (dy.dtype, dy.dtype)
    pair: tuple[Array, Array]
    if clip:
        _check(x, residual, noise, a, delta)
        arrays = dy, x, residual, noise
        pair = for_each_element(kernels.clipped_step_vjp, arrays, real(a), real(delta), dtypes=dtypes)
    else:
        pair = for_each_element(kernels.step_vjp, (dy,), real(a), dtypes=dtypes)
    return pair


def clip_pixels(x: Array) -> Array:
    """As `malade_ref.ops.clip_pixels`."""
    return for_each_element(kernels.clip, (x,))


def _check(x: Array, residual: Array, noise: Array, a: float, delta: float) -> None:
    check_float("x", x)
    check_same("residual", residual, "x", x)
    check_same("noise", noise, "x", x)
    check_number("a", a, above=0)
    check_number("delta", delta, minimum=0)
