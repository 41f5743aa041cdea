r"""Layers between the convolutions: linear, bias, relu, tanh, batch normalisation.

Every op `f` stands beside its vector-Jacobian product `f_vjp`: given dy, the gradient of a scalar with respect to the
output, it returns the gradient with respect to each input. Nothing is done in place and no output shares memory with an
input. Elementwise results keep the memory order of their input; sums over a batch are taken in double and in a fixed
order. Linear layers are convolutions of one pixel: a matrix product by the library would add up in another order for
another number of samples, and then a sample's result would depend on its batch. The setting of module `precision` is
theirs too.

Axes: n images, c channels, (h, w) pixels, d features in, k features out.
"""

from __future__ import annotations

from typing import Any

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_float, check_ndim, check_number, check_same, check_shape

from ..device import device
from ..kernels import layers as kernels
from .conv import conv2d, conv2d_vjp
from .epilogue import of_input, of_output
from .layout import for_each_element, for_each_of_channels, of_channels, rows

REAL = {"float32": "float", "float64": "double"}
THREADS = 128  # of a block of channels.cuh
CHUNK = 16384  # numbers that it adds up


def linear(x: Array, weight: Array, *, bias: Array | None = None, activation: str | None = None) -> Array:
    """As `malade_ref.ops.linear`."""
    check_ndim("x", x, 2, "(n, d)")
    check_ndim("weight", weight, 2, "(k, d)")
    check_float("x", x)
    if weight.dtype != x.dtype:
        raise InputError(f"weight: expected dtype {x.dtype} (that of x), got {weight.dtype}")
    if weight.shape[1] != x.shape[1]:
        raise InputError(f"x: expected {weight.shape[1]} features (those of weight), got {x.shape[1]}")
    if not weight.size:
        return _finished(device().xp.zeros((len(x), len(weight)), x.dtype), weight, bias, activation)
    return _features(conv2d(_pixels(x), _pixels(weight), padding=0, bias=bias, activation=activation))


def linear_vjp(
    dy: Array,
    x: Array,
    weight: Array,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    input_activation: str | None = None,
) -> tuple[Array | None, Array | None]:
    """As `malade_ref.ops.linear_vjp`."""
    check_shape("dy", dy, (len(x), len(weight)))
    if not weight.size:
        of_input(_pixels(x), input_activation)  # which has to be known; but 0 stays 0
        zeros = device().xp.zeros
        return (zeros(x.shape, x.dtype) if need_dx else None), (zeros(weight.shape, x.dtype) if need_dweight else None)
    settings: dict[str, Any] = {"need_dx": need_dx, "need_dweight": need_dweight, "input_activation": input_activation}
    gradients = conv2d_vjp(*map(_pixels, (dy, x, weight)), padding=0, **settings)
    dx, dweight = (gradient if gradient is None else _features(gradient) for gradient in gradients)
    return dx, dweight


def _finished(y: Array, weight: Array, bias: Array | None, activation: str | None) -> Array:
    """A product without terms, and what it becomes."""
    of_output(weight, len(weight), bias, activation)
    y = y if bias is None else add_bias(y, bias)
    return y if activation is None else {"relu": relu, "tanh": tanh}[activation](y)


def _pixels(features: Array) -> Array:
    """Features (n, d) as images of one pixel: the kernels of `conv` do not care which of the two they multiply."""
    return features[:, :, None, None]


def _features(pixels: Array) -> Array:
    """The other way round."""
    return pixels[:, :, 0, 0]


def add_bias(x: Array, bias: Array) -> Array:
    """As `malade_ref.ops.add_bias`."""
    check_float("x", x)
    if x.ndim < 2 or bias.shape != (x.shape[1],):
        raise InputError(f"bias: expected one number a channel of x {x.shape}, got shape {bias.shape}")
    if bias.dtype != x.dtype:
        raise InputError(f"bias: expected dtype {x.dtype} (that of x), got {bias.dtype}")
    return for_each_of_channels(kernels.add_bias, (x,), (bias,))


def add_bias_vjp(dy: Array) -> Array:
    """As `malade_ref.ops.add_bias_vjp`."""
    return _totals("channel_sums", (dy,))[1]


def relu(x: Array) -> Array:
    """As `malade_ref.ops.relu`."""
    return for_each_element(kernels.relu, (x,))


def relu_vjp(dy: Array, y: Array) -> Array:
    """As `malade_ref.ops.relu_vjp`."""
    check_same("dy", dy, "y", y)
    return for_each_element(kernels.relu_vjp, (dy, y))


def tanh(x: Array) -> Array:
    """As `malade_ref.ops.tanh`."""
    return for_each_element(kernels.tanh, (x,))


def tanh_vjp(dy: Array, y: Array) -> Array:
    """As `malade_ref.ops.tanh_vjp`."""
    check_same("dy", dy, "y", y)
    return for_each_element(kernels.tanh_vjp, (dy, y))


def batch_norm(x: Array, gain: Array, bias: Array, *, epsilon: float = 1e-5) -> tuple[Array, Array, Array]:
    """As `malade_ref.ops.batch_norm`."""
    if x.size == 0:
        raise InputError(f"x: batch statistics need at least one number a channel, got shape {x.shape}")
    _check_norm(x, epsilon, gain=gain, bias=bias)
    count = x.size // x.shape[1]
    exact_mean, mean = _totals("channel_sums", (x,), divisor=count)
    _, variance = _totals("channel_squares", (x,), (exact_mean,), divisor=count)
    return batch_norm_inference(x, gain, bias, mean, variance, epsilon=epsilon), mean, variance


def batch_norm_vjp(
    dy: Array, x: Array, gain: Array, mean: Array, variance: Array, *, epsilon: float = 1e-5
) -> tuple[Array, Array, Array]:
    """As `malade_ref.ops.batch_norm_vjp`."""
    check_same("dy", dy, "x", x)
    real = x.dtype.type
    _, dbias = _totals("channel_sums", (dy,))
    _, dgain = _totals("channel_products", (dy, x), (mean, variance), float(real(epsilon)))
    count = real(max(1, x.size // max(1, x.shape[1])))
    values = gain, mean, variance, dgain, dbias
    return for_each_of_channels(kernels.batch_norm_vjp, (dy, x), values, count, real(epsilon)), dgain, dbias


def batch_norm_inference(
    x: Array, gain: Array, bias: Array, mean: Array, variance: Array, *, epsilon: float = 1e-5
) -> Array:
    """As `malade_ref.ops.batch_norm_inference`."""
    _check_norm(x, epsilon, gain=gain, bias=bias, mean=mean, variance=variance)
    values = gain, bias, mean, variance
    return for_each_of_channels(kernels.batch_norm, (x,), values, x.dtype.type(epsilon))


def batch_norm_inference_vjp(dy: Array, gain: Array, variance: Array, *, epsilon: float = 1e-5) -> Array:
    """As `malade_ref.ops.batch_norm_inference_vjp`."""
    return for_each_of_channels(kernels.batch_norm_inference_vjp, (dy,), (gain, variance), dy.dtype.type(epsilon))


def _check_norm(x: Array, epsilon: float, **values: Array) -> None:
    check_float("x", x)
    check_number("epsilon", epsilon, above=0)
    for name, value in values.items():
        check_shape(name, value, x.shape[1:2])


def _totals(
    kernel: str, arrays: tuple[Array, ...], values: tuple[Array, ...] = (), *numbers: float, divisor: float = 1
) -> tuple[Array, Array]:
    """Sums over each channel by a kernel of channels.cuh, divided; in float64 and in the arrays' dtype."""
    inputs = rows(*arrays)
    channels, dtype = arrays[0].shape[1], arrays[0].dtype
    exact, rounded = device().empty((channels,), "float64"), device().empty((channels,), dtype)
    if not channels:
        return exact, rounded
    count = arrays[0].size // channels
    num_chunks = max(1, -(-count // CHUNK))
    sums = device().empty((channels, num_chunks), "float64")
    settings: dict[str, Any] = {"block": (THREADS,), "defines": {"REAL": REAL[str(dtype)]}}
    of_each = of_channels(*values)
    device().launch(
        "channels",
        kernel,
        grid=(channels, num_chunks),
        arguments=(*inputs.arrays, *of_each, sums, count, max(1, inputs.run), *numbers),
        **settings,
    )
    totals = sums, exact, rounded, num_chunks, float(divisor)
    device().launch("channels", "channel_totals", grid=(channels,), arguments=totals, **settings)
    return exact, rounded
