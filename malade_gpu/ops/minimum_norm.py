r"""Steps of attacks that look for the smallest perturbation: Carlini and Wagner's, EAD and FAB.

What may lie anywhere (w, and EAD's point with momentum) is no image; what is one lies in [0, 1] exactly. A gradient
that is not a number moves nothing: one broken sample stops no other.

Axes: n images; everything after the first axis belongs to one image.

References
----------
.. [1] Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017.
.. [2] Chen et al., "EAD: elastic-net attacks to deep neural networks via adversarial examples", AAAI 2018.
.. [3] Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.
"""

from __future__ import annotations

from malade_ref.arrays import Array
from malade_ref.checks import check_float, check_number, check_same, check_shape

from ..device import device
from ..kernels import minimum_norm as kernels
from .layout import for_each_element, for_each_of_samples, rows

REAL = {"float32": "float", "float64": "double"}
THREADS = 128  # 32 * WARPS of rows.cuh


def to_tanh_space(x: Array) -> Array:
    """As `malade_ref.ops.to_tanh_space`."""
    check_float("x", x)
    return for_each_element(kernels.to_tanh_space, (x,))


def from_tanh_space(w: Array) -> Array:
    """As `malade_ref.ops.from_tanh_space`."""
    check_float("w", w)
    return for_each_element(kernels.from_tanh_space, (w,))


def cw_gradient(w: Array, gradient: Array, centre: Array, weight: Array) -> Array:
    """As `malade_ref.ops.cw_gradient`."""
    check_float("w", w)
    for name, array in (("gradient", gradient), ("centre", centre)):
        check_same(name, array, "w", w)
    check_shape("weight", weight, w.shape[:1])
    return for_each_of_samples(kernels.cw_gradient, (w, gradient, centre), (weight,))


def ead_step(
    y: Array, x: Array, gradient: Array, centre: Array, weight: Array, *, step_size: float, beta: float, momentum: float
) -> tuple[Array, Array]:
    """As `malade_ref.ops.ead_step`."""
    check_float("y", y)
    for name, array in (("x", x), ("gradient", gradient), ("centre", centre)):
        check_same(name, array, "y", y)
    check_shape("weight", weight, y.shape[:1])
    for name, number in (("step_size", step_size), ("beta", beta), ("momentum", momentum)):
        check_number(name, number, minimum=0)
    numbers = map(y.dtype.type, (step_size, beta, momentum))
    arrays, dtypes = (y, x, gradient, centre), (y.dtype, y.dtype)
    body = kernels.ead_step
    pair: tuple[Array, Array] = for_each_of_samples(body, arrays, (weight,), *numbers, dtypes=dtypes)
    return pair


def plane_step_linf(x: Array, at: Array, normal: Array, value: Array) -> Array:
    """As `malade_ref.ops.plane_step_linf`."""
    return _plane_step(x, at, normal, value, euclidean=False)


def plane_step_l2(x: Array, at: Array, normal: Array, value: Array) -> Array:
    """As `malade_ref.ops.plane_step_l2`."""
    return _plane_step(x, at, normal, value, euclidean=True)


def fab_step(x: Array, centre: Array, step: Array, centre_step: Array, share: Array, *, overshoot: float) -> Array:
    """As `malade_ref.ops.fab_step`."""
    check_float("x", x)
    for name, array in (("centre", centre), ("step", step), ("centre_step", centre_step)):
        check_same(name, array, "x", x)
    check_shape("share", share, x.shape[:1])
    check_number("overshoot", overshoot, minimum=0)
    arrays = (x, centre, step, centre_step)
    return for_each_of_samples(kernels.fab_step, arrays, (share,), x.dtype.type(overshoot))


def interpolate(x: Array, other: Array, share: Array) -> Array:
    """As `malade_ref.ops.interpolate`."""
    check_float("x", x)
    check_same("other", other, "x", x)
    check_shape("share", share, x.shape[:1])
    return for_each_of_samples(kernels.interpolate, (x, other), (share,))


def _plane_step(x: Array, at: Array, normal: Array, value: Array, *, euclidean: bool) -> Array:
    check_float("x", x)
    for name, array in (("at", at), ("normal", normal)):
        check_same(name, array, "x", x)
    check_shape("value", value, x.shape[:1])
    inputs = rows(x, at, normal)
    move, out = inputs.empty(x.dtype)
    if out.size:
        value = device().xp.ascontiguousarray(value.astype("float64", copy=False))
        device().launch(
            "rows",
            "plane_step",
            grid=(len(out),),
            block=(THREADS,),
            arguments=(*inputs.arrays, value, out, out.shape[1], int(euclidean)),
            defines={"REAL": REAL[str(x.dtype)]},
        )
    return move
