r"""The Langevin step of the purification chain and its derivative.

With s(x) = (r(x) - x) / sigma^2 the score estimate of a denoiser r trained at noise sigma,

    x <- x + alpha s(x) + delta z = x + a (r(x) - x) + delta z,    a = alpha / sigma^2,  z ~ N(0, I).

The noise is exact for delta^2 = 2 alpha (temperature 1). There is no accept step: this is the unadjusted algorithm.

References
----------
.. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", eq. (6) and (10).
.. [2] Roberts and Tweedie, "Exponential convergence of Langevin distributions", Bernoulli 2(4), 1996.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_float, check_number, check_same

Floats = NDArray[Any]


def langevin_step(x: Floats, residual: Floats, noise: Floats, *, a: float, delta: float, clip: bool = False) -> Floats:
    r"""One unadjusted Langevin step from a denoiser's residual.

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Chain positions, pixels in [0, 1]. Not modified.
    residual : ndarray, same shape and dtype
        :math:`r(x) - x`, in pixel units; :math:`\sigma^2` times the score estimate.
    noise : ndarray, same shape and dtype
        Independent standard normal draws.
    a : float
        Step on the residual, :math:`a = \alpha / \sigma^2 > 0`, dimensionless.
    delta : float
        Standard deviation of the injected noise, in pixel units, :math:`\delta \ge 0`.
    clip : bool
        Whether to clip the result to [0, 1].

    Returns
    -------
    ndarray, same shape and dtype
        :math:`x + a\,(r(x) - x) + \delta z`.

    Examples
    --------
    >>> import numpy as np
    >>> langevin_step(np.array([0.5]), np.array([0.25]), np.array([1.0]), a=0.5, delta=0.125)
    array([0.75])
    """
    check_float("x", x)
    check_same("residual", residual, "x", x)
    check_same("noise", noise, "x", x)
    check_number("a", a, above=0)
    check_number("delta", delta, minimum=0)
    real = x.dtype.type
    moved = x + real(a) * residual + real(delta) * noise
    return clip_pixels(moved) if clip else np.asarray(moved)


def langevin_step_vjp(
    dy: Floats, x: Floats, residual: Floats, noise: Floats, *, a: float, delta: float, clip: bool = False
) -> tuple[Floats, Floats]:
    """Vector-Jacobian products of `langevin_step` with respect to x and to the residual, as independent inputs.

    Parameters
    ----------
    dy : ndarray of x's shape
        Gradient with respect to the step's result.
    x, residual, noise, a, delta, clip
        As given to `langevin_step`.

    Returns
    -------
    dx, dresidual : ndarray of x's shape
        Gradients; where the step was clipped both are 0.
    """
    check_same("dy", dy, "x", x)
    if clip:
        moved = langevin_step(x, residual, noise, a=a, delta=delta)
        dy = dy * ((moved >= 0) & (moved <= 1))
    return dy.copy(), dy.dtype.type(a) * dy


def clip_pixels(x: Floats) -> Floats:
    """Clip to the pixel range [0, 1].

    Parameters
    ----------
    x : ndarray, float32 or float64
        Images; NaN stays NaN.

    Returns
    -------
    ndarray of x's shape and dtype
        Clipped copy.
    """
    return np.asarray(np.clip(x, x.dtype.type(0), x.dtype.type(1)))
