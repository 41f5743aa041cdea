"""Definitions from textbooks, in float64 and with plain loops: what the package is compared with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.strategies import Padding, pads_as_pairs

Pair = tuple[int, int]


def same_pads(size: int, kernel: int, stride: int) -> Pair:
    """TensorFlow's rule in its own words: by the remainder of the size, the odd zero at the end."""
    remainder = size % stride or stride
    total = max(kernel - remainder, 0)
    return total // 2, total - total // 2


def pads_of(padding: Padding, size: tuple[int, ...], kernel: tuple[int, ...], stride: Pair) -> Any:
    """Zeros around an input, ((top, bottom), (left, right))."""
    explicit = pads_as_pairs(padding)
    if explicit is not None:
        return explicit
    return tuple(same_pads(h, k, s) for h, k, s in zip(size, kernel, stride, strict=True))


def conv(x: Any, weight: Any, stride: Pair, pads: Any) -> Any:
    """Each output pixel is the sum of a window times the kernel."""
    (sh, sw), (_, _, kh, kw) = stride, weight.shape
    xp = np.pad(x.astype("float64"), ((0, 0), (0, 0), *pads))
    oh, ow = (xp.shape[2] - kh) // sh + 1, (xp.shape[3] - kw) // sw + 1
    y = np.zeros((len(x), len(weight), oh, ow))
    for i in range(oh):
        for j in range(ow):
            window = xp[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw]
            y[:, :, i, j] = np.einsum("ncuv,ocuv->no", window, weight.astype("float64"))
    return y


def conv_vjp(dy: Any, x: Any, weight: Any, stride: Pair, pads: Any) -> tuple[Any, Any]:
    """Each output pixel sends its gradient back to its window, and to the kernel."""
    (sh, sw), (_, _, kh, kw) = stride, weight.shape
    dy, weight = dy.astype("float64"), weight.astype("float64")
    xp = np.pad(x.astype("float64"), ((0, 0), (0, 0), *pads))
    dxp, dweight = np.zeros_like(xp), np.zeros_like(weight)
    for i in range(dy.shape[2]):
        for j in range(dy.shape[3]):
            window = np.s_[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw]
            dxp[window] += np.einsum("no,ocuv->ncuv", dy[:, :, i, j], weight)
            dweight += np.einsum("no,ncuv->ocuv", dy[:, :, i, j], xp[window])
    (top, _), (left, _) = pads
    return dxp[:, :, top : top + x.shape[2], left : left + x.shape[3]], dweight


def conv_transpose(
    x: Any, weight: Any, stride: Pair, pads: Any, output_padding: Pair = (0, 0), *, size: Pair | None = None
) -> Any:
    """Each input pixel stamps the kernel onto a canvas, which is then cropped by the pads, or to a given size."""
    x, weight = x.astype("float64"), weight.astype("float64")
    (n, _, h, w), (_, o, kh, kw), (sh, sw) = x.shape, weight.shape, stride
    canvas = np.zeros((n, o, (h + 1) * sh + kh, (w + 1) * sw + kw))
    for i in range(h):
        for j in range(w):
            stamps = np.einsum("nc,couv->nouv", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamps
    (top, bottom), (left, right) = pads
    if size is None:
        size = (
            (h - 1) * sh + kh - top - bottom + output_padding[0],
            (w - 1) * sw + kw - left - right + output_padding[1],
        )
    return canvas[:, :, top : top + size[0], left : left + size[1]]


def same_conv(x: Any, weight: Any, bias: Any, stride: int = 1) -> Any:
    """Convolution with SAME padding, and bias."""
    pads = pads_of("same", x.shape[2:], weight.shape[2:], (stride, stride))
    return conv(x, weight, (stride, stride), pads) + bias.astype("float64")[:, None, None]


def same_conv_transpose(x: Any, weight: Any, bias: Any, stride: int = 1) -> Any:
    """Transposed convolution with SAME padding, and bias."""
    size = x.shape[2] * stride, x.shape[3] * stride
    pads = pads_of("same", size, weight.shape[2:], (stride, stride))
    y = conv_transpose(x, weight, (stride, stride), pads, size=size)
    return y + bias.astype("float64")[:, None, None]


def tiles_of(
    image: Pair,
    *,
    size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
) -> list[list[tuple[range, range]]]:
    """Rows and columns of each tile of a pooling, in coordinates of the image; those of the padding are outside of it.

    Tiles are laid one after the other as long as they end within the padded image; with `ceil_mode` until one reaches
    its end, if they begin in the image or before it. None goes beyond the padding.
    """
    along = []
    pairs = [(value, value) if isinstance(value, int) else value for value in (size, stride or size, padding)]
    for length, tile, step, pad in zip(image, *pairs, strict=True):
        ranges, first, end = [], -pad, length + pad
        while first + tile <= end:
            ranges.append(range(first, first + tile))
            first += step
        reached = ranges[-1].stop if ranges else -pad
        if ceil_mode and reached < end and first < length:
            ranges.append(range(first, min(first + tile, end)))
        along.append(ranges)
    return [[(rows, columns) for columns in along[1]] for rows in along[0]]


# Activations and their derivatives, of one number, with the functions of the standard library.


def leaky_relu(x: float, slope: float) -> float:
    return x if x > 0 else slope * x


def elu(x: float, alpha: float) -> float:
    return x if x > 0 else alpha * math.expm1(x)


def exponential(x: float) -> float:
    """exp(x), and infinity instead of an exception."""
    return math.exp(x) if x < 700 else math.inf


def sigmoid(x: float) -> float:
    return 1 / (1 + exponential(-x))


def silu(x: float) -> float:
    return x * sigmoid(x)


def normal_share(x: float) -> float:
    """How much of the standard normal distribution is below x."""
    return math.erfc(-x / math.sqrt(2)) / 2


def gelu(x: float, approximate: str) -> float:
    if approximate == "none":
        return x * normal_share(x)
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    # (1 + tanh u) / 2, which for very negative u is all cancellation, is exp(u) / (exp(u) + exp(-u)).
    return x * (1 + math.tanh(u)) / 2 if u > -1 else x * exponential(2 * u) / (1 + exponential(2 * u))


def softplus(x: float, beta: float, threshold: float) -> float:
    if beta * x > threshold:
        return x
    return (beta * x if beta * x > 700 else math.log1p(math.exp(beta * x))) / beta


def hardtanh(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def leaky_relu_slope(x: float, slope: float) -> float:
    return 1.0 if x > 0 else slope


def elu_slope(x: float, alpha: float) -> float:
    return 1.0 if x > 0 else alpha * math.exp(x)


def sigmoid_slope(x: float) -> float:
    return sigmoid(x) * sigmoid(-x)


def silu_slope(x: float) -> float:
    return sigmoid(x) + x * sigmoid_slope(x)


def gelu_slope(x: float, approximate: str) -> float:
    if approximate == "none":
        return normal_share(x) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    u, du = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3), math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return sigmoid(2 * u) + x * sigmoid_slope(2 * u) * 2 * du


def softplus_slope(x: float, beta: float, threshold: float) -> float:
    return 1.0 if beta * x > threshold else sigmoid(beta * x)


def hardtanh_slope(x: float, low: float, high: float) -> float:
    return 1.0 if low < x < high else 0.0


ACTIVATIONS = {f.__name__: f for f in (leaky_relu, elu, sigmoid, silu, gelu, softplus, hardtanh)}
DERIVATIVES = {
    f.__name__.removesuffix("_slope"): f
    for f in (
        leaky_relu_slope,
        elu_slope,
        sigmoid_slope,
        silu_slope,
        gelu_slope,
        softplus_slope,
        hardtanh_slope,
    )
}


def full_weight(weight: Any, groups: int, dilation: Pair) -> Any:
    """The kernel of an ordinary convolution that does the same: zeros between groups, and between taps."""
    (o, inputs, kh, kw), (dh, dw) = weight.shape, dilation
    full = np.zeros((o, groups * inputs, (kh - 1) * dh + 1, (kw - 1) * dw + 1))
    for k in range(o):
        first = k // (o // groups) * inputs
        full[k, first : first + inputs, ::dh, ::dw] = weight[k]
    return full


def of_full_weight(full: Any, groups: int, dilation: Pair, shape: tuple[int, ...]) -> Any:
    """The part of a gradient of `full_weight` that belongs to the weight of a given shape."""
    (o, inputs), (dh, dw) = shape[:2], dilation
    firsts = [k // (o // groups) * inputs for k in range(o)]
    return np.stack([full[k, first : first + inputs, ::dh, ::dw] for k, first in enumerate(firsts)])
