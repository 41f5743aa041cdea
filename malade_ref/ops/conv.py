r"""Two-dimensional convolution and its transpose, with their derivatives.

A convolution (cross-correlation, as in all of deep learning) is linear in its input and in its weight:

    y[n, o, i, j] = sum_{c, u, v} weight[o, c, u, v] * xp[n, c, i*sh + u, j*sw + v],    xp = x padded with zeros.

Three products say everything, and each op is one of them:

    correlate        y  = W x        forward of conv2d,            input gradient of conv_transpose2d
    spread           dx = W^T dy     input gradient of conv2d,     forward of conv_transpose2d
    weight_gradient  dW = dy x^T     weight gradient of both

Libraries call them fprop, dgrad and wgrad. Each is a matrix product once the windows of the padded input are laid out
as the rows of a matrix: that is the form below. Faster ones, for few channels and for W^T dy, are in `conv_banded` and
`conv_phases`.

Axes: n images, c input channels, o output channels, (h, w) input, (oh, ow) output, (u, v) kernel. Inside, arrays are
channels-last, (n, h, w, c), because a row of a window is then one contiguous run. Results are returned as
(n, c, h, w) *views* of such arrays; elementwise ops keep that memory order, so a network never converts.

References
----------
.. [1] Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, 2016.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_float, check_ndim, check_shape
from . import conv_banded, conv_phases
from .conv_windows import blocks, channels_last, pad, windows
from .epilogue import check_epilogue, epilogue, epilogue_vjp
from .geometry import Geometry, Padding, Pair, conv_geometry, transpose_geometry
from .slices import each_part

Floats = NDArray[Any]


def conv2d(
    x: Floats,
    weight: Floats,
    *,
    stride: int | Pair = 1,
    padding: Padding = "same",
    bias: Floats | None = None,
    activation: str | None = None,
) -> Floats:
    """Convolution (cross-correlation) of images with a kernel.

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Input. Not modified.
    weight : ndarray of shape (o, c, kh, kw), same dtype
        Kernel.
    stride : int or pair of int
        Rows and columns between windows.
    padding : {"same", "valid"}, int, pair of int, or ((top, bottom), (left, right))
        Zeros around the input; "same" is TensorFlow's convention.
    bias : ndarray of shape (o,), same dtype, optional
        Added to each channel.
    activation : {"relu", "tanh"}, optional
        Applied to the sum.

    Returns
    -------
    ndarray of shape (n, o, oh, ow), same dtype
        activation(convolution + bias).

    Raises
    ------
    InputError
        If shapes or dtypes do not fit, the kernel is larger than the padded input, or the activation is not known.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)), stride=2)[0, 0]
    array([[9., 6.],
           [6., 4.]])
    """
    geometry = _conv_geometry(x, weight, stride, padding)
    check_epilogue((len(weight), x.dtype), bias=bias, activation=activation)
    return epilogue(_correlate(x, weight, geometry), bias, activation)


def conv2d_vjp(
    dy: Floats,
    x: Floats,
    weight: Floats,
    *,
    stride: int | Pair = 1,
    padding: Padding = "same",
    need_dx: bool = True,
    need_dweight: bool = True,
    input_activation: str | None = None,
) -> tuple[Floats | None, Floats | None]:
    """Vector-Jacobian products of `conv2d`.

    Parameters
    ----------
    dy : ndarray of shape (n, o, oh, ow)
        Gradient with respect to the output.
    x, weight, stride, padding
        As given to `conv2d`.
    need_dx, need_dweight : bool
        Which of the two to compute.
    input_activation : {"relu", "tanh"}, optional
        The activation that x is the output of.

    Returns
    -------
    dx : ndarray of x's shape, or None
        Gradient with respect to the input, or to what its activation was applied to.
    dweight : ndarray of weight's shape, or None
        Gradient with respect to the kernel, summed over images.
    """
    geometry = _conv_geometry(x, weight, stride, padding)
    check_shape("dy", dy, (len(x), len(weight), *geometry.output))
    check_epilogue((x.shape[1], x.dtype), activation=input_activation, name="input_activation")
    dx = epilogue_vjp(_spread(dy, weight, geometry), x, input_activation) if need_dx else None
    dweight = _weight_gradient(x, dy, geometry) if need_dweight else None
    return dx, dweight


def conv_transpose2d(
    x: Floats,
    weight: Floats,
    *,
    stride: int | Pair = 1,
    padding: Padding = "same",
    output_padding: int | Pair = 0,
    bias: Floats | None = None,
    activation: str | None = None,
) -> Floats:
    """Transposed convolution: the adjoint of `conv2d` with the same weight, stride and padding.

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Input. Not modified.
    weight : ndarray of shape (c, o, kh, kw), same dtype
        Kernel of the convolution from o to c channels that this op is the adjoint of.
    stride : int or pair of int
        Enlargement.
    padding : {"same", "valid"}, int, pair of int, or ((top, bottom), (left, right))
        Padding of that convolution, cropped here; "same" gives an output of (h * sh, w * sw).
    output_padding : int or pair of int
        Rows and columns added at the bottom and at the right, less than the stride; 0 with "same".
    bias : ndarray of shape (o,), same dtype, optional
        Added to each channel.
    activation : {"relu", "tanh"}, optional
        Applied to the sum.

    Returns
    -------
    ndarray of shape (n, o, oh, ow), same dtype
        activation(transposed convolution + bias). Pixels that no kernel tap reaches are activation(bias).

    Examples
    --------
    >>> import numpy as np
    >>> conv_transpose2d(np.full((1, 1, 1, 2), 3.0), np.ones((1, 1, 1, 1)), stride=2)[0, 0]
    array([[3., 0., 3., 0.],
           [0., 0., 0., 0.]])
    """
    geometry = _transpose_geometry(x, weight, stride, padding, output_padding)
    check_epilogue((weight.shape[1], x.dtype), bias=bias, activation=activation)
    return epilogue(_spread(x, weight, geometry), bias, activation)


def conv_transpose2d_vjp(
    dy: Floats,
    x: Floats,
    weight: Floats,
    *,
    stride: int | Pair = 1,
    padding: Padding = "same",
    output_padding: int | Pair = 0,
    need_dx: bool = True,
    need_dweight: bool = True,
    input_activation: str | None = None,
) -> tuple[Floats | None, Floats | None]:
    """Vector-Jacobian products of `conv_transpose2d`.

    Parameters
    ----------
    dy : ndarray of shape (n, o, oh, ow)
        Gradient with respect to the output.
    x, weight, stride, padding, output_padding
        As given to `conv_transpose2d`.
    need_dx, need_dweight : bool
        Which of the two to compute.
    input_activation : {"relu", "tanh"}, optional
        The activation that x is the output of.

    Returns
    -------
    dx : ndarray of x's shape, or None
        Gradient with respect to the input, or to what its activation was applied to.
    dweight : ndarray of weight's shape, or None
        Gradient with respect to the kernel, summed over images.
    """
    geometry = _transpose_geometry(x, weight, stride, padding, output_padding)
    check_shape("dy", dy, (len(x), weight.shape[1], *geometry.size))
    check_epilogue((x.shape[1], x.dtype), activation=input_activation, name="input_activation")
    dx = epilogue_vjp(_correlate(dy, weight, geometry), x, input_activation) if need_dx else None
    dweight = _weight_gradient(dy, x, geometry) if need_dweight else None
    return dx, dweight


# The three products. In all of them `x` is on the side of the windows, (n, c, h, w), `dy` on the other, (n, o, oh, ow).


def _correlate(x: Floats, weight: Floats, g: Geometry) -> Floats:
    """W x."""
    if conv_banded.pays(weight.shape, g):
        return conv_banded.correlate(x, weight, g)
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))  # (kh * kw * c, o)
    y = np.empty((len(x), *g.output, len(weight)), dtype=x.dtype)

    def of_block(block: slice) -> None:
        rows = windows(pad(x[block], g), g.kernel, g.stride, g.output)
        np.matmul(rows, matrix, out=y[block].reshape(len(rows), len(weight)))

    for _ in each_part(of_block, blocks(len(x), g.output, len(matrix))):
        pass
    return y.transpose(0, 3, 1, 2)


def _weight_gradient(x: Floats, dy: Floats, g: Geometry) -> Floats:
    """The gradient dy x^T with respect to W."""
    shape = (dy.shape[1], x.shape[1], *g.kernel)
    if conv_banded.pays(shape, g):
        return conv_banded.weight_gradient(x, dy, g)
    dy = channels_last(dy)
    dmatrix = np.zeros((shape[0], g.kernel[0] * g.kernel[1] * shape[1]), dtype=x.dtype)  # (o, kh * kw * c)

    def of_block(block: slice) -> Floats:
        rows = windows(pad(x[block], g), g.kernel, g.stride, g.output)
        return np.asarray(dy[block].reshape(len(rows), shape[0]).T @ rows)

    for product in each_part(of_block, blocks(len(x), g.output, dmatrix.shape[1])):
        dmatrix += product
    return np.ascontiguousarray(dmatrix.reshape(shape[0], *g.kernel, shape[1]).transpose(0, 3, 1, 2))


def _spread(dy: Floats, weight: Floats, g: Geometry) -> Floats:
    """W^T dy: every window's gradient, added where the window was."""
    if conv_banded.pays(weight.shape, g):
        return conv_banded.spread(dy, weight, g)
    if conv_phases.pays(weight.shape):
        return conv_phases.spread(dy, weight, g)
    (oh, ow), (kh, kw), (sh, sw) = g.output, g.kernel, g.stride
    num_images, (out_channels, channels) = len(dy), weight.shape[:2]
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, out_channels)
    dwindows = channels_last(dy).reshape(-1, out_channels) @ matrix.T
    dwindows = dwindows.reshape(num_images, oh, ow, kh, kw, channels)
    (top, bottom), (left, right) = g.pads
    padded = (num_images, top + g.size[0] + bottom, left + g.size[1] + right, channels)
    dx = np.zeros(padded, dtype=dy.dtype)
    for u in range(kh):
        for v in range(kw):
            dx[:, u : u + oh * sh : sh, v : v + ow * sw : sw] += dwindows[:, :, :, u, v]
    return dx[:, top : top + g.size[0], left : left + g.size[1]].transpose(0, 3, 1, 2)


def _conv_geometry(x: Floats, weight: Floats, stride: int | Pair, padding: Padding) -> Geometry:
    _check_operands(x, weight)
    if x.shape[1] != weight.shape[1]:
        raise InputError(f"x: expected {weight.shape[1]} channels (those of weight), got {x.shape[1]}")
    return conv_geometry(x.shape[2:], weight.shape[2:], stride, padding)


def _transpose_geometry(
    x: Floats, weight: Floats, stride: int | Pair, padding: Padding, output_padding: int | Pair
) -> Geometry:
    _check_operands(x, weight)
    if x.shape[1] != weight.shape[0]:
        raise InputError(f"x: expected {weight.shape[0]} channels (those of weight), got {x.shape[1]}")
    return transpose_geometry(x.shape[2:], weight.shape[2:], stride, padding, output_padding)


def _check_operands(x: Floats, weight: Floats) -> None:
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_ndim("weight", weight, 4, "(o, c, kh, kw)")
    check_float("x", x)
    if weight.dtype != x.dtype:
        raise InputError(f"weight: expected dtype {x.dtype} (that of x), got {weight.dtype}")
    if min(x.shape[1:]) < 1 or min(weight.shape) < 1:
        raise InputError(f"x: expected no empty axis but the first, got x {x.shape} and weight {weight.shape}")
