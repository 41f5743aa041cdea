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
    r"""One unadjusted Langevin step from a denoiser's residual.

    Parameters
    ----------
    x : array of shape (n, c, h, w), float32 or float64
        Chain positions, pixels in [0, 1]. Not modified.
    residual : array, same shape and dtype
        :math:`r(x) - x`, in pixel units; :math:`\sigma^2` times the score estimate.
    noise : array, same shape and dtype
        Independent standard normal draws.
    a : float
        Step on the residual, :math:`a = \alpha / \sigma^2 > 0`, dimensionless.
    delta : float
        Standard deviation of the injected noise, in pixel units, :math:`\delta \ge 0`.
    clip : bool
        Whether to clip the result to [0, 1].

    Returns
    -------
    array, same shape and dtype
        :math:`x + a\,(r(x) - x) + \delta z`.

    Raises
    ------
    InputError
        If shapes or dtypes differ, ``a <= 0`` or ``delta < 0``.
    """
    _check(x, residual, noise, a, delta)
    real = x.dtype.type
    return for_each_element(kernels.clipped_step if clip else kernels.step, (x, residual, noise), real(a), real(delta))


def langevin_step_vjp(
    dy: Array, x: Array, residual: Array, noise: Array, *, a: float, delta: float, clip: bool = False
) -> tuple[Array, Array]:
    """Vector-Jacobian products of `langevin_step` with respect to x and to the residual, as independent inputs.

    Parameters
    ----------
    dy : array of x's shape
        Gradient with respect to the step's result.
    x, residual, noise, a, delta, clip
        As given to `langevin_step`.

    Returns
    -------
    dx, dresidual : array of x's shape
        Gradients; where the step was clipped both are 0.

    Raises
    ------
    InputError
        If shapes or dtypes differ.
    """
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
    """Clip to the pixel range [0, 1].

    Parameters
    ----------
    x : array, float32 or float64
        Images; NaN stays NaN.

    Returns
    -------
    array of x's shape and dtype
        Clipped copy.
    """
    return for_each_element(kernels.clip, (x,))


def _check(x: Array, residual: Array, noise: Array, a: float, delta: float) -> None:
    check_float("x", x)
    check_same("residual", residual, "x", x)
    check_same("noise", noise, "x", x)
    check_number("a", a, above=0)
    check_number("delta", delta, minimum=0)
