r"""Convolution in groups of channels, with taps that may lie apart, its transpose, and their derivatives.

As `malade_ref.ops.conv_grouped`, one thread a result. These are the plain loops of the definition: right for depthwise
convolutions, which do little with each number they read, and slower than `conv2d` where groups are large.

Axes: n images, c input channels, o output channels, (h, w) input, (oh, ow) output, (u, v) kernel. Results are views,
(n, c, h, w), of channels-last arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_count, check_float, check_ndim, check_shape

from ..device import device
from ..kernels import conv_grouped as kernels
from .epilogue import of_input, of_output
from .geometry import Geometry, Padding, Pair, as_pair, conv_geometry, dilated, transpose_geometry
from .layers import add_bias, relu, relu_vjp, tanh, tanh_vjp
from .layout import channels_last, empty_channels_last

# Numbers of the partial sums of a weight's gradient: more parts keep more threads busy.
MOST_PARTIAL = 1 << 22


def grouped_conv2d(
    x: Array,
    weight: Array,
    *,
    groups: int = 1,
    dilation: int | Pair = 1,
    stride: int | Pair = 1,
    padding: Padding = "same",
    bias: Array | None = None,
    activation: str | None = None,
) -> Array:
    """As `malade_ref.ops.grouped_conv2d`."""
    g = _conv_taps(x, weight, groups, dilation, stride, padding)
    of_output(weight, len(weight), bias, activation)
    return _finished(_correlate(x, weight, g), bias, activation)


def grouped_conv2d_vjp(
    dy: Array,
    x: Array,
    weight: Array,
    *,
    groups: int = 1,
    dilation: int | Pair = 1,
    stride: int | Pair = 1,
    padding: Padding = "same",
    need_dx: bool = True,
    need_dweight: bool = True,
    input_activation: str | None = None,
) -> tuple[Array | None, Array | None]:
    """As `malade_ref.ops.grouped_conv2d_vjp`."""
    g = _conv_taps(x, weight, groups, dilation, stride, padding)
    check_shape("dy", dy, (len(x), len(weight), *g.geometry.output))
    of_input(x, input_activation)
    dx = _through(_spread(dy, weight, g), x, input_activation) if need_dx else None
    return dx, (_weight_gradient(x, dy, g) if need_dweight else None)


def grouped_conv_transpose2d(
    x: Array,
    weight: Array,
    *,
    groups: int = 1,
    dilation: int | Pair = 1,
    stride: int | Pair = 1,
    padding: Padding = "same",
    output_padding: int | Pair = 0,
    bias: Array | None = None,
    activation: str | None = None,
) -> Array:
    """As `malade_ref.ops.grouped_conv_transpose2d`."""
    g = _transpose_taps(x, weight, groups, dilation, stride, padding, output_padding)
    of_output(weight, g.groups * weight.shape[1], bias, activation)
    return _finished(_spread(x, weight, g), bias, activation)


def grouped_conv_transpose2d_vjp(
    dy: Array,
    x: Array,
    weight: Array,
    *,
    groups: int = 1,
    dilation: int | Pair = 1,
    stride: int | Pair = 1,
    padding: Padding = "same",
    output_padding: int | Pair = 0,
    need_dx: bool = True,
    need_dweight: bool = True,
    input_activation: str | None = None,
) -> tuple[Array | None, Array | None]:
    """As `malade_ref.ops.grouped_conv_transpose2d_vjp`."""
    g = _transpose_taps(x, weight, groups, dilation, stride, padding, output_padding)
    check_shape("dy", dy, (len(x), g.groups * weight.shape[1], *g.geometry.size))
    of_input(x, input_activation)
    dx = _through(_correlate(dy, weight, g), x, input_activation) if need_dx else None
    return dx, (_weight_gradient(dy, x, g) if need_dweight else None)


class _Taps(NamedTuple):
    """Where the taps of a convolution meet its input, and the groups of its channels."""

    geometry: Geometry
    kernel: Pair
    dilation: Pair
    groups: int

    def numbers(self, inputs: int, outputs: int) -> tuple[np.int64, ...]:
        """What the kernels take, from ``inputs`` on."""
        g = self.geometry
        channels = inputs, outputs, inputs // self.groups, outputs // self.groups
        before = g.pads[0][0], g.pads[1][0]
        return tuple(map(np.int64, (*channels, *g.size, *g.output, *self.kernel, *g.stride, *self.dilation, *before)))


# The three products. In all of them `x` is on the side of the taps, (n, c, h, w), `dy` on the other, (n, o, oh, ow).


def _correlate(x: Array, weight: Array, g: _Taps) -> Array:
    """W x."""
    y, out = empty_channels_last((len(x), len(weight), *g.geometry.output), x.dtype)
    _run(kernels.correlate, (out, channels_last(x), _taps_first(weight)), g.numbers(x.shape[1], len(weight)))
    return y


def _spread(dy: Array, weight: Array, g: _Taps) -> Array:
    """W^T dy."""
    inputs = g.groups * weight.shape[1]
    dx, out = empty_channels_last((len(dy), inputs, *g.geometry.size), dy.dtype)
    _run(kernels.spread, (out, channels_last(dy), _taps_first(weight)), g.numbers(inputs, len(weight)))
    return dx


def _weight_gradient(x: Array, dy: Array, g: _Taps) -> Array:
    """The gradient dy x^T with respect to W."""
    (n, inputs), outputs = x.shape[:2], dy.shape[1]
    dweight = device().empty((*g.kernel, inputs // g.groups, outputs), x.dtype)
    num_parts = max(1, min(n, MOST_PARTIAL // dweight.size))
    parts = device().empty((num_parts, dweight.size), "float64")
    images = np.int64(n), np.int64(num_parts)
    _run(kernels.weight_gradient, (parts, channels_last(x), channels_last(dy)), (*images, *g.numbers(inputs, outputs)))
    _run(kernels.add_parts, (dweight, parts), (np.int64(num_parts), np.int64(dweight.size)))
    return device().xp.ascontiguousarray(dweight.transpose(3, 2, 0, 1))


def _taps_first(weight: Array) -> Array:
    """The weight as the kernels take it, (kh, kw, c / groups, o)."""
    return device().xp.ascontiguousarray(weight.transpose(2, 3, 1, 0))


def _run(body: Any, arrays: tuple[Array, ...], numbers: tuple[np.int64, ...]) -> None:
    """Run a body for each element of the first array."""
    device().for_elements(body, arrays[0].size, *(array.reshape(-1) for array in arrays), *numbers)


def _finished(product: Array, bias: Array | None, activation: str | None) -> Array:
    """activation(product + bias)."""
    y = product if bias is None else add_bias(product, bias)
    return relu(y) if activation == "relu" else tanh(y) if activation == "tanh" else y


def _through(dx: Array, x: Array, activation: str | None) -> Array:
    """Gradient with respect to what an activation was applied to, x being its output."""
    return relu_vjp(dx, x) if activation == "relu" else tanh_vjp(dx, x) if activation == "tanh" else dx


def _conv_taps(
    x: Array, weight: Array, groups: int, dilation: int | Pair, stride: int | Pair, padding: Padding
) -> _Taps:
    apart = _check_operands(x, weight, groups, dilation)
    if groups * weight.shape[1] != x.shape[1]:
        expected = f"{groups * weight.shape[1]} channels ({groups} groups of weight's {weight.shape[1]})"
        raise InputError(f"x: expected {expected}, got {x.shape[1]}")
    kernel = weight.shape[2], weight.shape[3]
    geometry = conv_geometry((x.shape[2], x.shape[3]), dilated(kernel, apart), stride, padding)
    return _Taps(geometry, kernel, apart, groups)


def _transpose_taps(
    x: Array,
    weight: Array,
    groups: int,
    dilation: int | Pair,
    stride: int | Pair,
    padding: Padding,
    output_padding: int | Pair,
) -> _Taps:
    apart = _check_operands(x, weight, groups, dilation)
    if len(weight) != x.shape[1]:
        raise InputError(f"x: expected {len(weight)} channels (those of weight), got {x.shape[1]}")
    kernel, size = (weight.shape[2], weight.shape[3]), (x.shape[2], x.shape[3])
    geometry = transpose_geometry(size, dilated(kernel, apart), stride, padding, output_padding)
    return _Taps(geometry, kernel, apart, groups)


def _check_operands(x: Array, weight: Array, groups: int, dilation: int | Pair) -> Pair:
    """Check what both directions need; return the dilation."""
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_ndim("weight", weight, 4, "(o, c / groups, kh, kw)")
    check_float("x", x)
    if weight.dtype != x.dtype:
        raise InputError(f"weight: expected dtype {x.dtype} (that of x), got {weight.dtype}")
    if min(x.shape[1:]) < 1 or min(weight.shape) < 1:
        raise InputError(f"x: expected no empty axis but the first, got x {x.shape} and weight {weight.shape}")
    if len(weight) % check_count("groups", groups):
        raise InputError(f"weight: expected a first axis that is a multiple of {groups} groups, got {len(weight)}")
    return as_pair("dilation", dilation, minimum=1)
