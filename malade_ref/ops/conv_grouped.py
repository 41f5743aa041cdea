r"""Convolution in groups of channels, with taps that may lie apart, its transpose, and their derivatives.

The channels are cut into g groups, and the outputs of a group see its own inputs alone; the taps of a kernel lie
(dh, dw) pixels apart:

    y[n, o, i, j] = sum_{c, u, v} weight[o, c, u, v] * xp[n, first + c, i*sh + u*dh, j*sw + v*dw]

with c over the C / g inputs of the group of o, the first of which is ``first``. As many groups as channels make it
*depthwise*. Like `conv2d` it is three products, here one tap (u, v) after the other: to a tap belong a small matrix for
each group, and the pixels that it meets, one for each pixel of the output.

    correlate        y  = W x        forward of the convolution,    input gradient of its transpose
    spread           dx = W^T dy     input gradient,                forward of the transpose
    weight_gradient  dW = dy x^T     weight gradient of both

Axes: n images, c input channels, o output channels, (h, w) input, (oh, ow) output, (u, v) kernel, g groups. The weight
is (o, c / g, kh, kw).

References
----------
.. [1] Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", NeurIPS 2012.
.. [2] Yu and Koltun, "Multi-scale context aggregation by dilated convolutions", arXiv:1511.07122, 2015.
.. [3] Howard et al., "MobileNets", arXiv:1704.04861, 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_count, check_float, check_ndim, check_shape
from .epilogue import check_epilogue, epilogue, epilogue_vjp
from .geometry import Geometry, Padding, Pair, as_pair, conv_geometry, dilated, transpose_geometry

Floats = NDArray[Any]


def grouped_conv2d(
    x: Floats,
    weight: Floats,
    *,
    groups: int = 1,
    dilation: int | Pair = 1,
    stride: int | Pair = 1,
    padding: Padding = "same",
    bias: Floats | None = None,
    activation: str | None = None,
) -> Floats:
    """Convolution of images in groups of channels, with a kernel whose taps may lie apart.

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Input. Not modified.
    weight : ndarray of shape (o, c / groups, kh, kw), same dtype
        Kernel.
    groups : int
        Into how many groups input and output channels are cut; both are multiples of it.
    dilation : int or pair of int
        Rows and columns from tap to tap.
    stride, padding, bias, activation
        As of `conv2d`.

    Returns
    -------
    ndarray of shape (n, o, oh, ow), same dtype
        activation(convolution + bias).

    Raises
    ------
    InputError
        If shapes or dtypes do not fit, the kernel spans more than the padded input, or the activation is not known.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]]]])
    >>> grouped_conv2d(x, np.ones((2, 1, 1, 2)), groups=2, dilation=2, padding="valid")[0, :, 0]
    array([[ 4.],
           [10.]])
    """
    g = _conv_taps(x, weight, groups, dilation, stride, padding)
    check_epilogue((len(weight), x.dtype), bias=bias, activation=activation)
    return epilogue(_correlate(x, weight, g), bias, activation)


def grouped_conv2d_vjp(
    dy: Floats,
    x: Floats,
    weight: Floats,
    *,
    groups: int = 1,
    dilation: int | Pair = 1,
    stride: int | Pair = 1,
    padding: Padding = "same",
    need_dx: bool = True,
    need_dweight: bool = True,
    input_activation: str | None = None,
) -> tuple[Floats | None, Floats | None]:
    """Vector-Jacobian products of `grouped_conv2d`.

    Parameters
    ----------
    dy : ndarray of shape (n, o, oh, ow)
        Gradient with respect to the output.
    x, weight, groups, dilation, stride, padding
        As given to `grouped_conv2d`.
    need_dx, need_dweight, input_activation
        As of `conv2d_vjp`.

    Returns
    -------
    dx : ndarray of x's shape, or None
        Gradient with respect to the input, or to what its activation was applied to.
    dweight : ndarray of weight's shape, or None
        Gradient with respect to the kernel, summed over images.
    """
    g = _conv_taps(x, weight, groups, dilation, stride, padding)
    check_shape("dy", dy, (len(x), len(weight), *g.output))
    check_epilogue((x.shape[1], x.dtype), activation=input_activation, name="input_activation")
    dx = epilogue_vjp(_spread(dy, weight, g), x, input_activation) if need_dx else None
    return dx, (_weight_gradient(x, dy, g) if need_dweight else None)


def grouped_conv_transpose2d(
    x: Floats,
    weight: Floats,
    *,
    groups: int = 1,
    dilation: int | Pair = 1,
    stride: int | Pair = 1,
    padding: Padding = "same",
    output_padding: int | Pair = 0,
    bias: Floats | None = None,
    activation: str | None = None,
) -> Floats:
    """Transposed convolution in groups: the adjoint of `grouped_conv2d` with the same weight and settings.

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Input. Not modified.
    weight : ndarray of shape (c, o / groups, kh, kw), same dtype
        Kernel of the convolution from o to c channels that this op is the adjoint of.
    groups, dilation
        As of `grouped_conv2d`.
    stride, padding, output_padding, bias, activation
        As of `conv_transpose2d`.

    Returns
    -------
    ndarray of shape (n, o, oh, ow), same dtype
        activation(transposed convolution + bias).
    """
    g = _transpose_taps(x, weight, groups, dilation, stride, padding, output_padding)
    check_epilogue((g.groups * weight.shape[1], x.dtype), bias=bias, activation=activation)
    return epilogue(_spread(x, weight, g), bias, activation)


def grouped_conv_transpose2d_vjp(
    dy: Floats,
    x: Floats,
    weight: Floats,
    *,
    groups: int = 1,
    dilation: int | Pair = 1,
    stride: int | Pair = 1,
    padding: Padding = "same",
    output_padding: int | Pair = 0,
    need_dx: bool = True,
    need_dweight: bool = True,
    input_activation: str | None = None,
) -> tuple[Floats | None, Floats | None]:
    """Vector-Jacobian products of `grouped_conv_transpose2d`.

    Parameters
    ----------
    dy : ndarray of shape (n, o, oh, ow)
        Gradient with respect to the output.
    x, weight, groups, dilation, stride, padding, output_padding
        As given to `grouped_conv_transpose2d`.
    need_dx, need_dweight, input_activation
        As of `conv2d_vjp`.

    Returns
    -------
    dx : ndarray of x's shape, or None
        Gradient with respect to the input, or to what its activation was applied to.
    dweight : ndarray of weight's shape, or None
        Gradient with respect to the kernel, summed over images.
    """
    g = _transpose_taps(x, weight, groups, dilation, stride, padding, output_padding)
    check_shape("dy", dy, (len(x), g.groups * weight.shape[1], *g.size))
    check_epilogue((x.shape[1], x.dtype), activation=input_activation, name="input_activation")
    dx = epilogue_vjp(_correlate(dy, weight, g), x, input_activation) if need_dx else None
    return dx, (_weight_gradient(dy, x, g) if need_dweight else None)


class _Taps(NamedTuple):
    """Where the taps of a convolution meet its input, and the groups of its channels."""

    geometry: Geometry
    kernel: Pair
    dilation: Pair
    groups: int

    @property
    def size(self) -> Pair:
        return self.geometry.size

    @property
    def output(self) -> Pair:
        return self.geometry.output

    def __call__(self) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
        """Each tap (u, v), and the pixels of the padded input that it meets, one for each of the output."""
        (sh, sw), (oh, ow), (dh, dw) = self.geometry.stride, self.output, self.dilation
        for u in range(self.kernel[0]):
            for v in range(self.kernel[1]):
                rows = slice(u * dh, u * dh + (oh - 1) * sh + 1, sh)
                yield (u, v), (rows, slice(v * dw, v * dw + (ow - 1) * sw + 1, sw))


# The three products. In all of them `x` is on the side of the taps, (n, c, h, w), `dy` on the other, (n, o, oh, ow).
# Depthwise, a tap's matrices are numbers, one a channel.


def _correlate(x: Floats, weight: Floats, g: _Taps) -> Floats:
    """W x."""
    padded, shape = _pad(x, g), (len(x), len(weight), *g.output)
    if weight.shape[1] == 1 and len(weight) == g.groups:
        y = np.zeros_like(padded, shape=shape)
        for (u, v), (rows, columns) in g():
            y += weight[:, 0, u, v, None, None] * padded[:, :, rows, columns]
        return y
    sums = np.zeros(_grouped(shape, g), dtype=x.dtype)
    for (u, v), (rows, columns) in g():
        pixels = padded[:, :, rows, columns].reshape(_grouped(x.shape, g))
        sums += _matrices(weight, u, v, g) @ pixels  # (g, o / g, c / g) times (n, g, c / g, pixels)
    return sums.reshape(shape)


def _spread(dy: Floats, weight: Floats, g: _Taps) -> Floats:
    """W^T dy."""
    (top, bottom), (left, right) = g.geometry.pads
    channels, (h, w) = weight.shape[1] * g.groups, g.size
    dx = np.zeros_like(dy, shape=(len(dy), channels, top + h + bottom, left + w + right))
    depthwise = weight.shape[1] == 1 and len(weight) == g.groups
    slopes = dy if depthwise else dy.reshape(_grouped(dy.shape, g))
    for (u, v), (rows, columns) in g():
        if depthwise:
            dx[:, :, rows, columns] += weight[:, 0, u, v, None, None] * slopes
        else:
            shares = _matrices(weight, u, v, g).transpose(0, 2, 1) @ slopes
            dx[:, :, rows, columns] += shares.reshape(len(dy), channels, *g.output)
    return dx[:, :, top : top + h, left : left + w]


def _weight_gradient(x: Floats, dy: Floats, g: _Taps) -> Floats:
    """The gradient dy x^T with respect to W; sums over images are taken in double."""
    padded, (o, of_group) = _pad(x, g), (dy.shape[1], x.shape[1] // g.groups)
    dweight = np.empty((o, of_group, *g.kernel), dtype=x.dtype)
    slopes = dy.reshape(_grouped(dy.shape, g))
    for (u, v), (rows, columns) in g():
        pixels = padded[:, :, rows, columns].reshape(_grouped(x.shape, g))
        products = slopes @ pixels.transpose(0, 1, 3, 2)  # (n, g, o / g, c / g)
        dweight[:, :, u, v] = products.sum(axis=0, dtype=np.float64).reshape(o, of_group)
    return dweight


def _grouped(shape: tuple[int, ...], g: _Taps) -> tuple[int, int, int, int]:
    """Images, groups, channels of a group, and pixels of the output."""
    return shape[0], g.groups, shape[1] // g.groups, g.output[0] * g.output[1]


def _matrices(weight: Floats, u: int, v: int, g: _Taps) -> Floats:
    """The matrices (g, o / g, c / g) of a tap."""
    return weight[:, :, u, v].reshape(g.groups, -1, weight.shape[1])


def _pad(x: Floats, g: _Taps) -> Floats:
    """The input with zeros around it, in the same memory order."""
    (top, bottom), (left, right) = g.geometry.pads
    if not (top or bottom or left or right):
        return x
    (h, w), shape = g.size, (*x.shape[:2], top + g.size[0] + bottom, left + g.size[1] + right)
    padded = np.zeros_like(x, shape=shape)
    padded[:, :, top : top + h, left : left + w] = x
    return padded


def _conv_taps(
    x: Floats, weight: Floats, groups: int, dilation: int | Pair, stride: int | Pair, padding: Padding
) -> _Taps:
    apart = _check_operands(x, weight, groups, dilation)
    if x.shape[1] != groups * weight.shape[1]:
        expected = f"{groups * weight.shape[1]} channels ({groups} groups of weight's {weight.shape[1]})"
        raise InputError(f"x: expected {expected}, got {x.shape[1]}")
    kernel = weight.shape[2], weight.shape[3]
    geometry = conv_geometry((x.shape[2], x.shape[3]), dilated(kernel, apart), stride, padding)
    return _Taps(geometry, kernel, apart, groups)


def _transpose_taps(
    x: Floats,
    weight: Floats,
    groups: int,
    dilation: int | Pair,
    stride: int | Pair,
    padding: Padding,
    output_padding: int | Pair,
) -> _Taps:
    apart = _check_operands(x, weight, groups, dilation)
    if x.shape[1] != len(weight):
        raise InputError(f"x: expected {len(weight)} channels (those of weight), got {x.shape[1]}")
    kernel, size = (weight.shape[2], weight.shape[3]), (x.shape[2], x.shape[3])
    geometry = transpose_geometry(size, dilated(kernel, apart), stride, padding, output_padding)
    return _Taps(geometry, kernel, apart, groups)


def _check_operands(x: Floats, weight: Floats, groups: int, dilation: int | Pair) -> Pair:
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
