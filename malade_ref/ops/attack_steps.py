r"""Steps of gradient attacks inside a ball around the clean image.

The order is the one of Madry et al.: step, project onto the ball, clip to [0, 1]. The ball and [0, 1] are respected in
floating point too, not up to rounding only: the projections leave room for it. A gradient that is 0 or not a
number moves nothing: one broken sample stops no other.

Axes: n images; everything after the first axis belongs to one image.

References
----------
.. [1] Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015.
.. [2] Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_float, check_number, check_same, check_shape
from .langevin import clip_pixels

Floats = NDArray[Any]


def sign_step(x: Floats, gradient: Floats, *, step_size: float) -> Floats:
    """Steepest ascent in the maximum norm: ``x + step_size * sign(gradient)``, with sign(0) = sign(NaN) = 0.

    Parameters
    ----------
    x, gradient : ndarray of shape (n, ...), one dtype
        Position and gradient of the loss.
    step_size : float
        Length, in pixel units, >= 0.

    Returns
    -------
    ndarray of x's shape and dtype
        New position, not yet projected.
    """
    check_float("x", x)
    check_same("gradient", gradient, "x", x)
    check_number("step_size", step_size, minimum=0)
    sign = np.subtract(gradient > 0, gradient < 0, dtype=x.dtype)
    return np.asarray(x + x.dtype.type(step_size) * sign)


def normalised_step(x: Floats, gradient: Floats, *, step_size: float) -> Floats:
    """Steepest ascent in the Euclidean norm: ``x + step_size * gradient / ||gradient||``.

    An image whose gradient is 0 or not finite does not move.

    Parameters
    ----------
    x, gradient : ndarray of shape (n, ...), one dtype
        Position and gradient of the loss.
    step_size : float
        Length, in pixel units, >= 0.

    Returns
    -------
    ndarray of x's shape and dtype
        New position, not yet projected.
    """
    check_float("x", x)
    check_same("gradient", gradient, "x", x)
    check_number("step_size", step_size, minimum=0)
    return np.asarray(x + x.dtype.type(step_size) * _unit(gradient))


def project_linf(x: Floats, centre: Floats, *, eps: float) -> Floats:
    """Nearest point of the cube of half side eps around the centre, then of [0, 1].

    Parameters
    ----------
    x, centre : ndarray of shape (n, ...), one dtype
        Position and clean image; the centre lies in [0, 1].
    eps : float
        Half side, in pixel units, >= 0.

    Returns
    -------
    ndarray of x's shape and dtype
        Projected position; ``abs(result - centre) <= eps`` holds exactly, computed in float64.
    """
    check_float("x", x)
    check_same("centre", centre, "x", x)
    check_number("eps", eps, minimum=0)
    lower, upper = linf_bounds(centre, eps)
    return np.asarray(np.minimum(np.maximum(x, lower), upper))


def linf_bounds(centre: Floats, eps: float) -> tuple[Floats, Floats]:
    """Smallest and largest representable pixel values within eps of the centre and within [0, 1].

    Parameters
    ----------
    centre : ndarray of shape (n, ...), float32 or float64
        Clean images in [0, 1].
    eps : float
        Half side of the cube, in pixel units, >= 0.

    Returns
    -------
    lower, upper : ndarray of the centre's shape and dtype
        Bounds, rounded towards the centre.
    """
    exact = centre.astype(np.float64)
    lower = np.maximum(exact - eps, 0.0).astype(centre.dtype)
    upper = np.minimum(exact + eps, 1.0).astype(centre.dtype)
    # A bound that rounding moved outwards is moved one number inwards.
    lower = np.where(exact - lower > eps, np.nextafter(lower, centre.dtype.type(2)), lower)
    upper = np.where(upper - exact > eps, np.nextafter(upper, centre.dtype.type(-1)), upper)
    return lower, upper


def project_l2(x: Floats, centre: Floats, *, eps: float) -> Floats:
    """Nearest point of the Euclidean ball of radius eps around the centre, then clipped to [0, 1].

    Clipping moves every pixel towards the centre, so the result is in the ball still. What is inside is only clipped.

    Parameters
    ----------
    x, centre : ndarray of shape (n, ...), one dtype
        Position and clean image; the centre lies in [0, 1].
    eps : float
        Radius, in pixel units, >= 0.

    Returns
    -------
    ndarray of x's shape and dtype
        Projected position; its distance, computed in float64, is at most eps.
    """
    check_float("x", x)
    check_same("centre", centre, "x", x)
    check_number("eps", eps, minimum=0)
    # A little less than eps, so that the distance is at most eps in whichever order its squares are added up; and less
    # again by what rounding the pixels to their dtype can add.
    limit = eps * (1 - 2.0**-48)
    rounding = float(np.finfo(x.dtype).eps) / 2 * math.sqrt(math.prod(x.shape[1:]))
    shift = x.astype(np.float64) - centre
    norm = _norms(shift)
    outside = norm > limit
    scale = max(limit - rounding, 0.0) / np.where(outside, norm, 1)
    return clip_pixels(np.where(outside, centre + scale * shift, x).astype(x.dtype))


def random_start_linf(centre: Floats, uniform: Floats, *, eps: float) -> Floats:
    """Uniform point of the cube around the centre, clipped to [0, 1].

    Parameters
    ----------
    centre, uniform : ndarray of shape (n, ...), one dtype
        Clean image in [0, 1], and uniform numbers in (0, 1).
    eps : float
        Half side, in pixel units, >= 0.
    """
    check_same("uniform", uniform, "centre", centre)
    real = centre.dtype.type
    return project_linf(centre + real(eps) * (2 * uniform - 1), centre, eps=eps)


def random_start_l2(centre: Floats, normal: Floats, uniform: Floats, *, eps: float) -> Floats:
    r"""Uniform point of the Euclidean ball around the centre, clipped to [0, 1].

    Direction from normal numbers, radius :math:`\epsilon u^{1/d}` in d dimensions.

    Parameters
    ----------
    centre, normal : ndarray of shape (n, ...), one dtype
        Clean image in [0, 1], and standard normal numbers.
    uniform : ndarray of shape (n,), same dtype
        Uniform numbers in (0, 1).
    eps : float
        Radius, in pixel units, >= 0.
    """
    check_same("normal", normal, "centre", centre)
    check_shape("uniform", uniform, centre.shape[:1])
    dimension = max(1, centre[:1].size)
    radius = (eps * uniform.astype(np.float64) ** (1 / dimension)).reshape(-1, *[1] * (centre.ndim - 1))
    return project_l2((centre + radius * _unit(normal)).astype(centre.dtype), centre, eps=eps)


def distance_linf(x: Floats, centre: Floats) -> Floats:
    """Largest absolute difference of each image.

    Parameters
    ----------
    x, centre : ndarray of shape (n, ...), one dtype
        What is compared.

    Returns
    -------
    ndarray of shape (n,), float64
        Distances, in pixel units.
    """
    check_same("centre", centre, "x", x)
    difference = np.abs(x.astype(np.float64) - centre).reshape(len(x), -1) if len(x) else np.zeros((0, 1))
    return np.asarray(difference.max(axis=1))


def distance_l2(x: Floats, centre: Floats) -> Floats:
    """Euclidean distance of each image.

    Parameters
    ----------
    x, centre : ndarray of shape (n, ...), one dtype
        What is compared.

    Returns
    -------
    ndarray of shape (n,), float64
        Distances, in pixel units.
    """
    check_same("centre", centre, "x", x)
    return _norms(x.astype(np.float64) - centre).reshape(len(x))


def momentum_step(momentum: Floats, gradient: Floats, *, decay: float) -> Floats:
    r"""Momentum of MIM: :math:`\mu g + \nabla / ||\nabla||_1`.

    Of an image whose gradient is 0 or not finite, the momentum decays only.

    Parameters
    ----------
    momentum, gradient : ndarray of shape (n, ...), one dtype
        Momentum so far and gradient of the loss.
    decay : float
        :math:`\mu \ge 0`.

    References
    ----------
    .. [1] Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, eq. (6).
    """
    check_float("momentum", momentum)
    check_same("gradient", gradient, "momentum", momentum)
    check_number("decay", decay, minimum=0)
    exact = gradient.astype(np.float64)
    usable = np.isfinite(exact).all(axis=_rest(exact), keepdims=True)
    exact = np.where(usable, exact, 0)
    norm = np.abs(exact).sum(axis=_rest(exact), keepdims=True)
    share = exact / np.where(norm > 0, norm, 1)
    return np.asarray(momentum.dtype.type(decay) * momentum + share.astype(momentum.dtype))


def apgd_step_linf(
    x: Floats, previous: Floats, gradient: Floats, centre: Floats, step_size: Floats, *, eps: float, momentum: float
) -> Floats:
    """Step of Auto-PGD in the maximum norm: towards the gradient and on along the last move, back into the ball.

    With P the projection onto the ball and [0, 1], z = P(x + step_size sign(gradient)) and the result is
    P(x + momentum (z - x) + (1 - momentum) (x - previous)).

    Parameters
    ----------
    x, previous, gradient, centre : ndarray of shape (n, ...), one dtype
        Position, the one before, gradient of the loss, and clean image; the centre lies in [0, 1].
    step_size : ndarray of shape (n,), float
        Length of each image's step, in pixel units.
    eps : float
        Half side of the cube, in pixel units, >= 0.
    momentum : float
        Share of the step, in [0, 1]; the rest goes to the last move.

    Returns
    -------
    ndarray of x's shape and dtype
        New position, in the ball as `project_linf` understands it.

    References
    ----------
    .. [1] Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
       attacks", ICML 2020, Algorithm 1.
    """
    _check_apgd(x, previous, gradient, centre, step_size, eps, momentum)
    sign = np.subtract(gradient > 0, gradient < 0, dtype=x.dtype)
    z = project_linf(x + of_samples(step_size, x) * sign, centre, eps=eps)
    return project_linf(_with_momentum(x, z, previous, momentum), centre, eps=eps)


def apgd_step_l2(
    x: Floats, previous: Floats, gradient: Floats, centre: Floats, step_size: Floats, *, eps: float, momentum: float
) -> Floats:
    """Step of Auto-PGD in the Euclidean norm: towards the gradient and on along the last move, back into the ball.

    With P the projection onto the ball and [0, 1], z = P(x + step_size gradient / ||gradient||) and the result is
    P(x + momentum (z - x) + (1 - momentum) (x - previous)).

    Parameters
    ----------
    x, previous, gradient, centre : ndarray of shape (n, ...), one dtype
        Position, the one before, gradient of the loss, and clean image; the centre lies in [0, 1].
    step_size : ndarray of shape (n,), float
        Length of each image's step, in pixel units.
    eps : float
        Radius of the ball, in pixel units, >= 0.
    momentum : float
        Share of the step, in [0, 1]; the rest goes to the last move.

    Returns
    -------
    ndarray of x's shape and dtype
        New position, in the ball as `project_l2` understands it.

    References
    ----------
    .. [1] Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
       attacks", ICML 2020, Algorithm 1.
    """
    _check_apgd(x, previous, gradient, centre, step_size, eps, momentum)
    z = project_l2(x + of_samples(step_size, x) * _unit(gradient), centre, eps=eps)
    return project_l2(_with_momentum(x, z, previous, momentum), centre, eps=eps)


def distance_l1(x: Floats, centre: Floats) -> Floats:
    """Sum of absolute differences of each image.

    Parameters
    ----------
    x, centre : ndarray of shape (n, ...), one dtype
        What is compared.

    Returns
    -------
    ndarray of shape (n,), float64
        Distances, in pixel units.
    """
    check_same("centre", centre, "x", x)
    return np.asarray(np.abs(x.astype(np.float64) - centre).sum(axis=_rest(x)))


def select(condition: NDArray[np.bool_], new: Floats, old: Floats) -> Floats:
    """Rows of ``new`` where the condition holds, rows of ``old`` elsewhere.

    Parameters
    ----------
    condition : ndarray of shape (n,), bool
        One decision a sample.
    new, old : ndarray of shape (n, ...)
        Alternatives, of one shape.
    """
    check_same("new", new, "old", old)
    check_shape("condition", condition, new.shape[:1])
    return np.asarray(np.where(condition.reshape(-1, *[1] * (new.ndim - 1)), new, old))


def better(
    success: NDArray[np.bool_], loss: Floats, best_success: NDArray[np.bool_], best_loss: Floats
) -> NDArray[np.bool_]:
    """Whether an adversarial image beats the best one so far: success first, then the larger loss.

    Parameters
    ----------
    success, best_success : ndarray of shape (n,), bool
        Whether the model is wrong.
    loss, best_loss : ndarray of shape (n,)
        The attacked loss. A tie keeps the best one so far; NaN never wins, and loses against any number.

    Returns
    -------
    ndarray of shape (n,), bool
        True where the new one is better.
    """
    larger = (loss > best_loss) | np.isnan(best_loss)
    return np.asarray(np.where(success == best_success, larger, success) & ~np.isnan(loss))


def _check_apgd(
    x: Floats, previous: Floats, gradient: Floats, centre: Floats, step_size: Floats, eps: float, momentum: float
) -> None:
    check_float("x", x)
    for name, array in (("previous", previous), ("gradient", gradient), ("centre", centre)):
        check_same(name, array, "x", x)
    check_shape("step_size", step_size, x.shape[:1])
    check_number("eps", eps, minimum=0)
    check_number("momentum", momentum, minimum=0, maximum=1)


def _with_momentum(x: Floats, z: Floats, previous: Floats, momentum: float) -> Floats:
    """Towards z, and on along the last move."""
    real = x.dtype.type
    return np.asarray(x + real(momentum) * (z - x) + real(1 - momentum) * (x - previous))


def of_samples(values: Floats, x: Floats) -> Floats:
    """One number a sample, shaped to go with images.

    Parameters
    ----------
    values : array of shape (n,)
        The numbers.
    x : array of shape (n, ...)
        The images, whose dtype the numbers take.

    Returns
    -------
    array of shape (n, 1, ...)
        The numbers.
    """
    return values.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _rest(x: Floats) -> tuple[int, ...]:
    """All axes but that of the samples."""
    return tuple(range(1, x.ndim))


def _unit(x: Floats) -> Floats:
    """Each image divided by its Euclidean norm; 0 where that is 0 or not finite."""
    largest = np.abs(x).max(axis=_rest(x), keepdims=True, initial=0)
    usable = np.isfinite(largest) & (largest > 0)
    # Scaled first, so that squares neither vanish nor overflow.
    scaled = np.where(usable, x, 0) / np.where(usable, largest, 1)
    norm = np.sqrt((scaled * scaled).sum(axis=_rest(x), keepdims=True))
    return np.asarray(scaled / np.where(norm > 0, norm, 1))


def _norms(x: Floats) -> Floats:
    """Euclidean norm of each image, shaped (n, 1, ...)."""
    return np.asarray(np.sqrt((x * x).sum(axis=_rest(x), keepdims=True)))
