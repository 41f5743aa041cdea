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
    """As `malade_ref.ops.sign_step`."""
    check_float("x", x)
    check_same("gradient", gradient, "x", x)
    check_number("step_size", step_size, minimum=0)
    return for_each_element(kernels.sign_step, (x, gradient), x.dtype.type(step_size))


def normalised_step(x: Array, gradient: Array, *, step_size: float) -> Array:
    """As `malade_ref.ops.normalised_step`."""
    check_float("x", x)
    check_same("gradient", gradient, "x", x)
    check_number("step_size", step_size, minimum=0)
    return _for_each_sample("normalised_step", (x, gradient), (float(step_size),))


def project_linf(x: Array, centre: Array, *, eps: float) -> Array:
    """As `malade_ref.ops.project_linf`."""
    check_float("x", x)
    check_same("centre", centre, "x", x)
    check_number("eps", eps, minimum=0)
    return for_each_element(kernels.PROJECT_LINF[str(x.dtype)], (x, centre), np.float64(eps))


def linf_bounds(centre: Array, eps: float) -> tuple[Array, Array]:
    """As `malade_ref.ops.linf_bounds`."""
    body = kernels.LINF_BOUNDS[str(centre.dtype)]
    pair: tuple[Array, Array] = for_each_element(body, (centre,), np.float64(eps), dtypes=(centre.dtype, centre.dtype))
    return pair


def project_l2(x: Array, centre: Array, *, eps: float) -> Array:
    """As `malade_ref.ops.project_l2`."""
    check_float("x", x)
    check_same("centre", centre, "x", x)
    check_number("eps", eps, minimum=0)
    return _for_each_sample("project_l2", (x, centre), _radii(x, eps))


def random_start_linf(centre: Array, uniform: Array, *, eps: float) -> Array:
    """As `malade_ref.ops.random_start_linf`."""
    check_same("uniform", uniform, "centre", centre)
    check_float("x", centre)
    check_number("eps", eps, minimum=0)
    body = kernels.RANDOM_START_LINF[str(centre.dtype)]
    return for_each_element(body, (centre, uniform), centre.dtype.type(eps), np.float64(eps))


def random_start_l2(centre: Array, normal: Array, uniform: Array, *, eps: float) -> Array:
    """As `malade_ref.ops.random_start_l2`."""
    check_same("normal", normal, "centre", centre)
    check_shape("uniform", uniform, centre.shape[:1])
    check_float("x", centre)
    check_number("eps", eps, minimum=0)
    uniform = device().xp.ascontiguousarray(uniform.astype(centre.dtype, copy=False))
    return _for_each_sample("random_start_l2", (centre, normal), (float(eps), *_radii(centre, eps)), uniform)


def distance_linf(x: Array, centre: Array) -> Array:
    """As `malade_ref.ops.distance_linf`."""
    check_same("centre", centre, "x", x)
    return _number_of_each_sample("distance_linf", x, centre)


def distance_l2(x: Array, centre: Array) -> Array:
    """As `malade_ref.ops.distance_l2`."""
    check_same("centre", centre, "x", x)
    return _number_of_each_sample("distance_l2", x, centre)


def momentum_step(momentum: Array, gradient: Array, *, decay: float) -> Array:
    """As `malade_ref.ops.momentum_step`."""
    check_float("momentum", momentum)
    check_same("gradient", gradient, "momentum", momentum)
    check_number("decay", decay, minimum=0)
    return _for_each_sample("momentum_step", (momentum, gradient), (float(decay),))


def apgd_step_linf(
    x: Array, previous: Array, gradient: Array, centre: Array, step_size: Array, *, eps: float, momentum: float
) -> Array:
    """As `malade_ref.ops.apgd_step_linf`."""
    _check_apgd(x, previous, gradient, centre, step_size, eps, momentum)
    body = kernels.APGD_STEP_LINF[str(x.dtype)]
    real = x.dtype.type
    numbers = (real(momentum), real(1 - momentum), np.float64(eps))
    return for_each_of_samples(body, (x, previous, gradient, centre), (step_size,), *numbers)


def apgd_step_l2(
    x: Array, previous: Array, gradient: Array, centre: Array, step_size: Array, *, eps: float, momentum: float
) -> Array:
    """As `malade_ref.ops.apgd_step_l2`."""
    _check_apgd(x, previous, gradient, centre, step_size, eps, momentum)
    numbers = (float(momentum), *_radii(x, eps))
    return _for_each_sample("apgd_step_l2", (x, previous, gradient, centre), numbers, of_each_sample(step_size, x))


def distance_l1(x: Array, centre: Array) -> Array:
    """As `malade_ref.ops.distance_l1`."""
    check_same("centre", centre, "x", x)
    return _number_of_each_sample("distance_l1", x, centre)


def select(condition: Array, new: Array, old: Array) -> Array:
    """As `malade_ref.ops.select`."""
    check_same("new", new, "old", old)
    check_shape("condition", condition, new.shape[:1])
    inputs = rows(new, old)
    selected, flat = inputs.empty(new.dtype)
    arrays = (array.reshape(-1) for array in (flat, device().xp.ascontiguousarray(condition), *inputs.arrays))
    device().for_elements(kernels.select, new.size, *arrays, np.int64(max(1, flat.shape[1])))
    return selected


def better(success: Array, loss: Array, best_success: Array, best_loss: Array) -> Array:
    """As `malade_ref.ops.better`."""
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
