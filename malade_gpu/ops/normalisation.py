r"""Normalisation of each sample by itself: group, layer and instance normalisation are one op on other groups.

The formulas are those of `malade_ref.ops.normalisation`. Sums are taken in double and in a fixed order, those over a
group by one block of threads each. Results keep the memory order of their input, unless a group is no whole number of
channels: then the input is laid out in the order of its axes first.

Axes: n images, c channels, (h, w) pixels, g groups.
"""

from __future__ import annotations

import math
from typing import Any

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_count, check_float, check_number, check_same, check_shape

from ..device import device
from ..kernels import normalisation as kernels
from .layers import REAL, THREADS, _totals, add_bias_vjp
from .layout import for_each_of_channels, rows


def standardise(x: Array, *, groups: int, epsilon: float = 1e-5) -> tuple[Array, Array]:
    """As `malade_ref.ops.standardise`."""
    check_float("x", x)
    check_number("epsilon", epsilon, above=0)
    size = math.prod(x.shape[1:])
    if size == 0 or size % check_count("groups", groups):
        raise InputError(f"groups: expected a divisor of the {size} numbers of a sample, got {groups}")
    scale = device().empty((len(x), groups), x.dtype)
    return _for_each_group("standardise", (x,), groups, (scale,), float(x.dtype.type(epsilon))), scale


def standardise_vjp(dz: Array, z: Array, scale: Array) -> Array:
    """As `malade_ref.ops.standardise_vjp`."""
    check_same("dz", dz, "z", z)
    check_shape("scale", scale, (len(z), *scale.shape[1:2]))
    size = math.prod(z.shape[1:])
    if not scale.shape[1] or size % scale.shape[1]:
        raise InputError(f"scale: expected one number a group of the {size} of a sample, got shape {scale.shape}")
    return _for_each_group("standardise_vjp", (dz, z), scale.shape[1], (scale,))


def scale_shift(x: Array, gain: Array, bias: Array) -> Array:
    """As `malade_ref.ops.scale_shift`."""
    _check_channels(x, gain=gain, bias=bias)
    return for_each_of_channels(kernels.scale_shift, (x,), (gain, bias))


def scale_shift_vjp(
    dy: Array, x: Array, gain: Array, *, need_dx: bool = True, need_parameters: bool = True
) -> tuple[Array | None, Array | None, Array | None]:
    """As `malade_ref.ops.scale_shift_vjp`."""
    check_same("dy", dy, "x", x)
    _check_channels(x, gain=gain)
    dx = for_each_of_channels(kernels.scale, (dy,), (gain,)) if need_dx else None
    if not need_parameters:
        return dx, None, None
    # The sums of dy (x - 0) / sqrt(1 + 0).
    ones = device().xp.ones(gain.shape, gain.dtype)
    return dx, _totals("channel_products", (dy, x), (0 * ones, ones), 0.0)[1], add_bias_vjp(dy)


def _for_each_group(
    kernel: str, arrays: tuple[Array, ...], groups: int, values: tuple[Array, ...], *numbers: float
) -> Array:
    """Run a kernel of groups.cuh: ``values`` are one number a group, read or written; the output is like the arrays."""
    first = arrays[0]
    n, size = len(first), math.prod(first.shape[1:])
    # Groups of whole channels stay where they are in memory; others are made neighbours, and channels of their own.
    whole = first.ndim > 1 and first.shape[1] % groups == 0
    own = first.shape if whole else (n, groups, size // groups)
    inputs = rows(*(array.reshape(own) for array in arrays))
    result, out = inputs.empty(first.dtype)
    run = inputs.run * (own[1] // groups)
    contiguous: list[Any] = [device().xp.ascontiguousarray(value) for value in values]
    ordered = (out, *contiguous) if kernel == "standardise" else (*contiguous, out)
    if n:
        device().launch(
            "groups",
            kernel,
            grid=(n * groups,),
            block=(THREADS,),
            arguments=(*inputs.arrays, *ordered, size // groups, groups, run, *numbers),
            defines={"REAL": REAL[str(first.dtype)]},
        )
    return result.reshape(first.shape)


def _check_channels(x: Array, **values: Array) -> None:
    check_float("x", x)
    for name, value in values.items():
        if x.ndim < 2 or value.shape != (x.shape[1],):
            raise InputError(f"{name}: expected one number a channel of x {x.shape}, got shape {value.shape}")
        if value.dtype != x.dtype:
            raise InputError(f"{name}: expected dtype {x.dtype} (that of x), got {value.dtype}")
