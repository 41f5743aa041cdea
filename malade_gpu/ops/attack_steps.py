r"""Steps of gradient attacks inside a ball around the clean image.

The order is the one of Madry et al.: step, project onto the ball, clip to [0, 1]. The ball and [0, 1] are respected in
floating point too, not up to rounding only: the projections leave room for it. A gradient that is 0 or not a
number moves nothing: one broken sample stops no other.

What looks at one pixel at a time is a single pass over memory; what needs a norm is a kernel with one block a sample.

Axes: n images; everything after the first axis belongs to one image.

References
----------
.. [1] Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015.
.. [2] Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
"""

from __future__ import annotations

import math

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import check_float, check_number, check_same, check_shape

from ..device import device
from ..kernels import attack_steps as kernels
from .layout import for_each_element, for_each_of_samples, of_each_sample, rows

REAL = {"float32": "float", "float64": "double"}
THREADS = 128  # 32 * WARPS of rows.cuh


def sign_step(x: Array, gradient: Array, *, step_size: float) -> Array:
    """Steepest ascent in the maximum norm: ``x + step_size * sign(gradient)``, with sign(0) = sign(NaN) = 0.

    Parameters
    ----------
    x, gradient : array of shape (n, ...), one dtype
        Position and gradient of the loss.
    step_size : float
        Length, in pixel units, >= 0.

    Returns
    -------
    array of x's shape and dtype
        New position, not yet projected.

    Raises
    ------
    InputError
        If shapes or dtypes differ or the step is negative.
    """
    check_float("x", x)
    check_same("gradient", gradient, "x", x)
    check_number("step_size", step_size, minimum=0)
    return for_each_element(kernels.sign_step, (x, gradient), x.dtype.type(step_size))


def normalised_step(x: Array, gradient: Array, *, step_size: float) -> Array:
    """Steepest ascent in the Euclidean norm: ``x + step_size * gradient / ||gradient||``.

    An image whose gradient is 0 or not finite does not move.

    Parameters
    ----------
    x, gradient : array of shape (n, ...), one dtype
        Position and gradient of the loss.
    step_size : float
        Length, in pixel units, >= 0.

    Returns
    -------
    array of x's shape and dtype
        New position, not yet projected.

    Raises
    ------
    InputError
        If shapes or dtypes differ or the step is negative.
    """
    check_float("x", x)
    check_same("gradient", gradient, "x", x)
    check_number("step_size", step_size, minimum=0)
    return _for_each_sample("normalised_step", (x, gradient), (float(step_size),))


def project_linf(x: Array, centre: Array, *, eps: float) -> Array:
    """Nearest point of the cube of half side eps around the centre, then of [0, 1].

    Parameters
    ----------
    x, centre : array of shape (n, ...), one dtype
        Position and clean image; the centre lies in [0, 1].
    eps : float
        Half side, in pixel units, >= 0.

    Returns
    -------
    array of x's shape and dtype
        Projected position; ``abs(result - centre) <= eps`` holds exactly, computed in float64.

    Raises
    ------
    InputError
        If shapes or dtypes differ or eps is negative.
    """
    check_float("x", x)
    check_same("centre", centre, "x", x)
    check_number("eps", eps, minimum=0)
    return for_each_element(kernels.PROJECT_LINF[str(x.dtype)], (x, centre), np.float64(eps))


def linf_bounds(centre: Array, eps: float) -> tuple[Array, Array]:
    """Smallest and largest representable pixel values within eps of the centre and within [0, 1].

    Parameters
    ----------
    centre : array of shape (n, ...), float32 or float64
        Clean images in [0, 1].
    eps : float
        Half side of the cube, in pixel units, >= 0.

    Returns
    -------
    lower, upper : array of the centre's shape and dtype
        Bounds, rounded towards the centre.
    """
    body = kernels.LINF_BOUNDS[str(centre.dtype)]
    pair: tuple[Array, Array] = for_each_element(body, (centre,), np.float64(eps), dtypes=(centre.dtype, centre.dtype))
    return pair


def project_l2(x: Array, centre: Array, *, eps: float) -> Array:
    """Nearest point of the Euclidean ball of radius eps around the centre, then clipped to [0, 1].

    Clipping moves every pixel towards the centre, so the result is in the ball still. What is inside is only clipped.

    Parameters
    ----------
    x, centre : array of shape (n, ...), one dtype
        Position and clean image; the centre lies in [0, 1].
    eps : float
        Radius, in pixel units, >= 0.

    Returns
    -------
    array of x's shape and dtype
        Projected position; its distance, computed in float64, is at most eps.

    Raises
    ------
    InputError
        If shapes or dtypes differ or eps is negative.
    """
    check_float("x", x)
    check_same("centre", centre, "x", x)
    check_number("eps", eps, minimum=0)
    return _for_each_sample("project_l2", (x, centre), _radii(x, eps))


def random_start_linf(centre: Array, uniform: Array, *, eps: float) -> Array:
    """Uniform point of the cube around the centre, clipped to [0, 1].

    Parameters
    ----------
    centre, uniform : array of shape (n, ...), one dtype
        Clean image in [0, 1], and uniform numbers in (0, 1).
    eps : float
        Half side, in pixel units, >= 0.

    Returns
    -------
    array of the centre's shape and dtype
        Starting point.

    Raises
    ------
    InputError
        If shapes or dtypes differ or eps is negative.
    """
    check_same("uniform", uniform, "centre", centre)
    check_float("x", centre)
    check_number("eps", eps, minimum=0)
    body = kernels.RANDOM_START_LINF[str(centre.dtype)]
    return for_each_element(body, (centre, uniform), centre.dtype.type(eps), np.float64(eps))


def random_start_l2(centre: Array, normal: Array, uniform: Array, *, eps: float) -> Array:
    r"""Uniform point of the Euclidean ball around the centre, clipped to [0, 1].

    Direction from normal numbers, radius :math:`\epsilon u^{1/d}` in d dimensions.

    Parameters
    ----------
    centre, normal : array of shape (n, ...), one dtype
        Clean image in [0, 1], and standard normal numbers.
    uniform : array of shape (n,), same dtype
        Uniform numbers in (0, 1).
    eps : float
        Radius, in pixel units, >= 0.

    Returns
    -------
    array of the centre's shape and dtype
        Starting point.

    Raises
    ------
    InputError
        If shapes or dtypes differ or eps is negative.
    """
    check_same("normal", normal, "centre", centre)
    check_shape("uniform", uniform, centre.shape[:1])
    check_float("x", centre)
    check_number("eps", eps, minimum=0)
    uniform = device().xp.ascontiguousarray(uniform.astype(centre.dtype, copy=False))
    return _for_each_sample("random_start_l2", (centre, normal), (float(eps), *_radii(centre, eps)), uniform)


def distance_linf(x: Array, centre: Array) -> Array:
    """Largest absolute difference of each image.

    Parameters
    ----------
    x, centre : array of shape (n, ...), one dtype
        What is compared.

    Returns
    -------
    array of shape (n,), float64
        Distances, in pixel units.

    Raises
    ------
    InputError
        If shapes or dtypes differ.
    """
    check_same("centre", centre, "x", x)
    return _number_of_each_sample("distance_linf", x, centre)


def distance_l2(x: Array, centre: Array) -> Array:
    """Euclidean distance of each image.

    Parameters
    ----------
    x, centre : array of shape (n, ...), one dtype
        What is compared.

    Returns
    -------
    array of shape (n,), float64
        Distances, in pixel units.

    Raises
    ------
    InputError
        If shapes or dtypes differ.
    """
    check_same("centre", centre, "x", x)
    return _number_of_each_sample("distance_l2", x, centre)


def momentum_step(momentum: Array, gradient: Array, *, decay: float) -> Array:
    r"""Momentum of MIM: :math:`\mu g + \nabla / ||\nabla||_1`.

    Of an image whose gradient is 0 or not finite, the momentum decays only.

    Parameters
    ----------
    momentum, gradient : array of shape (n, ...), one dtype
        Momentum so far and gradient of the loss.
    decay : float
        :math:`\mu \ge 0`.

    Returns
    -------
    array of the momentum's shape and dtype
        New momentum.

    Raises
    ------
    InputError
        If shapes or dtypes differ or the decay is negative.

    References
    ----------
    .. [1] Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, eq. (6).
    """
    check_float("momentum", momentum)
    check_same("gradient", gradient, "momentum", momentum)
    check_number("decay", decay, minimum=0)
    return _for_each_sample("momentum_step", (momentum, gradient), (float(decay),))


def apgd_step_linf(
    x: Array, previous: Array, gradient: Array, centre: Array, step_size: Array, *, eps: float, momentum: float
) -> Array:
    """Step of Auto-PGD in the maximum norm: towards the gradient and on along the last move, back into the ball.

    With P the projection onto the ball and [0, 1], z = P(x + step_size sign(gradient)) and the result is
    P(x + momentum (z - x) + (1 - momentum) (x - previous)).

    Parameters
    ----------
    x, previous, gradient, centre : array of shape (n, ...), one dtype
        Position, the one before, gradient of the loss, and clean image; the centre lies in [0, 1].
    step_size : array of shape (n,), float
        Length of each image's step, in pixel units.
    eps : float
        Half side of the cube, in pixel units, >= 0.
    momentum : float
        Share of the step, in [0, 1]; the rest goes to the last move.

    Returns
    -------
    array of x's shape and dtype
        New position, in the ball as `project_linf` understands it.

    Raises
    ------
    InputError
        If shapes or dtypes differ or a setting is out of range.

    References
    ----------
    .. [1] Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
       attacks", ICML 2020, Algorithm 1.
    """
    _check_apgd(x, previous, gradient, centre, step_size, eps, momentum)
    body = kernels.APGD_STEP_LINF[str(x.dtype)]
    real = x.dtype.type
    numbers = (real(momentum), real(1 - momentum), np.float64(eps))
    return for_each_of_samples(body, (x, previous, gradient, centre), (step_size,), *numbers)


def apgd_step_l2(
    x: Array, previous: Array, gradient: Array, centre: Array, step_size: Array, *, eps: float, momentum: float
) -> Array:
    """Step of Auto-PGD in the Euclidean norm: towards the gradient and on along the last move, back into the ball.

    With P the projection onto the ball and [0, 1], z = P(x + step_size gradient / ||gradient||) and the result is
    P(x + momentum (z - x) + (1 - momentum) (x - previous)).

    Parameters
    ----------
    x, previous, gradient, centre : array of shape (n, ...), one dtype
        Position, the one before, gradient of the loss, and clean image; the centre lies in [0, 1].
    step_size : array of shape (n,), float
        Length of each image's step, in pixel units.
    eps : float
        Radius of the ball, in pixel units, >= 0.
    momentum : float
        Share of the step, in [0, 1]; the rest goes to the last move.

    Returns
    -------
    array of x's shape and dtype
        New position, in the ball as `project_l2` understands it.

    Raises
    ------
    InputError
        If shapes or dtypes differ or a setting is out of range.

    References
    ----------
    .. [1] Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
       attacks", ICML 2020, Algorithm 1.
    """
    _check_apgd(x, previous, gradient, centre, step_size, eps, momentum)
    numbers = (float(momentum), *_radii(x, eps))
    return _for_each_sample("apgd_step_l2", (x, previous, gradient, centre), numbers, of_each_sample(step_size, x))


def distance_l1(x: Array, centre: Array) -> Array:
    """Sum of absolute differences of each image.

    Parameters
    ----------
    x, centre : array of shape (n, ...), one dtype
        What is compared.

    Returns
    -------
    array of shape (n,), float64
        Distances, in pixel units.

    Raises
    ------
    InputError
        If shapes or dtypes differ.
    """
    check_same("centre", centre, "x", x)
    return _number_of_each_sample("distance_l1", x, centre)


def select(condition: Array, new: Array, old: Array) -> Array:
    """Rows of ``new`` where the condition holds, rows of ``old`` elsewhere.

    Parameters
    ----------
    condition : array of shape (n,), bool
        One decision a sample.
    new, old : array of shape (n, ...)
        Alternatives, of one shape.

    Returns
    -------
    array of that shape
        The selection.

    Raises
    ------
    InputError
        If shapes or dtypes differ.
    """
    check_same("new", new, "old", old)
    check_shape("condition", condition, new.shape[:1])
    inputs = rows(new, old)
    selected, flat = inputs.empty(new.dtype)
    arrays = (array.reshape(-1) for array in (flat, device().xp.ascontiguousarray(condition), *inputs.arrays))
    device().for_elements(kernels.select, new.size, *arrays, np.int64(max(1, flat.shape[1])))
    return selected


def better(success: Array, loss: Array, best_success: Array, best_loss: Array) -> Array:
    """Whether an adversarial image beats the best one so far: success first, then the larger loss.

    Parameters
    ----------
    success, best_success : array of shape (n,), bool
        Whether the model is wrong.
    loss, best_loss : array of shape (n,)
        The attacked loss. A tie keeps the best one so far; NaN never wins, and loses against any number.

    Returns
    -------
    array of shape (n,), bool
        True where the new one is better.
    """
    return for_each_element(kernels.better, (success, loss, best_success, best_loss), dtypes=("bool",))


def _radii(x: Array, eps: float) -> tuple[float, float]:
    """How far out a point is inside still, and where points outside are put.

    The first is a little less than eps, so that the distance is at most eps in whichever order its squares are added
    up; the second is less again by what rounding the pixels to their dtype can add.
    """
    limit = eps * (1 - 2.0**-48)
    rounding = float(np.finfo(x.dtype).eps) / 2 * math.sqrt(math.prod(x.shape[1:]))
    return limit, max(limit - rounding, 0.0)


def _check_apgd(
    x: Array, previous: Array, gradient: Array, centre: Array, step_size: Array, eps: float, momentum: float
) -> None:
    check_float("x", x)
    for name, array in (("previous", previous), ("gradient", gradient), ("centre", centre)):
        check_same(name, array, "x", x)
    check_shape("step_size", step_size, x.shape[:1])
    check_number("eps", eps, minimum=0)
    check_number("momentum", momentum, minimum=0, maximum=1)


def _for_each_sample(kernel: str, arrays: tuple[Array, ...], numbers: tuple[float, ...], *of_samples: Array) -> Array:
    """Launch a kernel of rows.cuh that makes an array like its first one."""
    inputs = rows(*arrays)
    result, out = inputs.empty(arrays[0].dtype)
    if out.size:
        device().launch(
            "rows",
            kernel,
            grid=(len(out),),
            block=(THREADS,),
            arguments=(*inputs.arrays, *of_samples, out, out.shape[1], *numbers),
            defines={"REAL": REAL[str(out.dtype)]},
        )
    return result


def _number_of_each_sample(kernel: str, x: Array, other: Array) -> Array:
    """Launch a kernel of rows.cuh that makes a float64 number of each sample of two arrays."""
    inputs = rows(x, other).arrays
    out = device().empty((len(x),), "float64")
    if out.size:
        device().launch(
            "rows",
            kernel,
            grid=(len(out),),
            block=(THREADS,),
            arguments=(*inputs, out, inputs[0].shape[1]),
            defines={"REAL": REAL[str(x.dtype)]},
        )
    return out
