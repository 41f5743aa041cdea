r"""Two-dimensional convolution and its transpose, with their derivatives.

A convolution (cross-correlation, as in all of deep learning) is linear in its input and in its weight:

    y[n, o, i, j] = sum_{c, u, v} weight[o, c, u, v] * xp[n, c, i*sh + u, j*sw + v],    xp = x padded with zeros.

Three products say everything, and each op is one of them:

    correlate        y  = W x        forward of conv2d,            input gradient of conv_transpose2d
    spread           dx = W^T dy     input gradient of conv2d,     forward of conv_transpose2d
    weight_gradient  dW = dy x^T     weight gradient of both

Each is a matrix product once the windows of the padded input are laid out as the rows of a matrix. `spread` is
mostly done as a gather, not a scatter: output pixels whose coordinates agree modulo the stride (a *phase*) see the same
sub-kernel, so each phase is a plain convolution of dy with a slice of the flipped weight.

Axes: n images, c input channels, o output channels, (h, w) input, (oh, ow) output, (u, v) kernel. Inside, arrays are
channels-last, (n, h, w, c), because a row of a window is then one contiguous run. Results are returned as
(n, c, h, w) *views* of such arrays; elementwise ops keep that memory order, so a network never converts.

References
----------
.. [1] Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, 2016.
.. [2] Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009, 2016.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ..checks import InputError, check_float, check_ndim, check_shape
from . import conv_banded
from .finish import check_finish, finish, finish_gradient
from .geometry import Geometry, Padding, Pair, conv_geometry, transpose_geometry

Floats = NDArray[Any]

# Numbers laid out as windows at once (2 or 4 MB): few enough for the cache, many enough for the matrix product.
WINDOW_BLOCK = 1 << 19
# Below this many output channels all phases of a transposed convolution share one product, with zeros in the weight.
NARROW = 32
# With this many times fewer channels than output channels, adding windows beats laying them out.
LITTLE = 8


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
    check_finish((len(weight), x.dtype), bias=bias, activation=activation)
    return finish(_correlate(x, weight, geometry), bias, activation)


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

    Raises
    ------
    InputError
        If shapes or dtypes do not fit, or the activation is not known.
    """
    geometry = _conv_geometry(x, weight, stride, padding)
    check_shape("dy", dy, (len(x), len(weight), *geometry.output))
    check_finish((x.shape[1], x.dtype), activation=input_activation, name="input_activation")
    dx = finish_gradient(_spread(dy, weight, geometry), x, input_activation) if need_dx else None
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

    Raises
    ------
    InputError
        If shapes or dtypes do not fit, the output would be empty, or the activation is not known.

    Examples
    --------
    >>> import numpy as np
    >>> conv_transpose2d(np.full((1, 1, 1, 2), 3.0), np.ones((1, 1, 1, 1)), stride=2)[0, 0]
    array([[3., 0., 3., 0.],
           [0., 0., 0., 0.]])
    """
    geometry = _transpose_geometry(x, weight, stride, padding, output_padding)
    check_finish((weight.shape[1], x.dtype), bias=bias, activation=activation)
    return finish(_spread(x, weight, geometry), bias, activation)


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

    Raises
    ------
    InputError
        If shapes or dtypes do not fit, or the activation is not known.
    """
    geometry = _transpose_geometry(x, weight, stride, padding, output_padding)
    check_shape("dy", dy, (len(x), weight.shape[1], *geometry.size))
    check_finish((x.shape[1], x.dtype), activation=input_activation, name="input_activation")
    dx = finish_gradient(_correlate(dy, weight, geometry), x, input_activation) if need_dx else None
    dweight = _weight_gradient(dy, x, geometry) if need_dweight else None
    return dx, dweight


# The three products. In all of them `x` is on the side of the windows, (n, c, h, w), `dy` on the other, (n, o, oh, ow).


def _correlate(x: Floats, weight: Floats, g: Geometry) -> Floats:
    """W x."""
    if conv_banded.pays(weight.shape, g):
        return conv_banded.correlate(x, weight, g)
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))  # (kh * kw * c, o)
    y = np.empty((len(x), *g.output, len(weight)), dtype=x.dtype)
    padded = _pad(x, g)
    for block in _blocks(len(x), g.output, len(matrix)):
        windows = _windows(padded[block], g.kernel, g.stride, g.output)
        np.matmul(windows, matrix, out=y[block].reshape(len(windows), len(weight)))
    return y.transpose(0, 3, 1, 2)


def _weight_gradient(x: Floats, dy: Floats, g: Geometry) -> Floats:
    """The gradient dy x^T with respect to W."""
    shape = (dy.shape[1], x.shape[1], *g.kernel)
    if conv_banded.pays(shape, g):
        return conv_banded.weight_gradient(x, dy, g)
    dy = _channels_last(dy)
    padded = _pad(x, g)
    dmatrix = np.zeros((shape[0], g.kernel[0] * g.kernel[1] * shape[1]), dtype=x.dtype)  # (o, kh * kw * c)
    for block in _blocks(len(x), g.output, dmatrix.shape[1]):
        windows = _windows(padded[block], g.kernel, g.stride, g.output)
        dmatrix += dy[block].reshape(len(windows), shape[0]).T @ windows
    return np.ascontiguousarray(dmatrix.reshape(shape[0], *g.kernel, shape[1]).transpose(0, 3, 1, 2))


def _spread(dy: Floats, weight: Floats, g: Geometry) -> Floats:
    """W^T dy, as a gather, or as a scatter where there is little to scatter."""
    if conv_banded.pays(weight.shape, g):
        return conv_banded.spread(dy, weight, g)
    if weight.shape[1] * LITTLE <= weight.shape[0]:
        return _scatter(dy, weight, g)
    (sh, sw), (num_images, channels) = g.stride, (len(dy), weight.shape[1])
    row_phases = _phases(g.kernel[0], sh, g.pads[0][0])
    col_phases = _phases(g.kernel[1], sw, g.pads[1][0])
    rows, cols = -(-g.size[0] // sh), -(-g.size[1] // sw)
    before = tuple(max(0, -min(p.first for p in phases)) for phases in (row_phases, col_phases))
    after = tuple(
        max(0, count - 1 + max(p.first + p.taps for p in phases) - size)
        for phases, count, size in zip((row_phases, col_phases), (rows, cols), g.output, strict=True)
    )
    padded = _pad(dy, g._replace(pads=((before[0], after[0]), (before[1], after[1]))))
    # Output pixel (i * sh + a, j * sw + b) is written as pixel (i, j) of phase (a, b).
    every_phase_has_taps = g.kernel[0] >= sh and g.kernel[1] >= sw
    make = np.empty if every_phase_has_taps else np.zeros
    dx: Floats = make((num_images, rows, sh, cols, sw, channels), dtype=dy.dtype)
    all_phases = [(a, b) for a in row_phases for b in col_phases if a.taps and b.taps]
    for group in [all_phases] if channels < NARROW else [[phase] for phase in all_phases]:
        matrix, first, kernel = _phase_matrix(weight, g.stride, group)
        top, left = before[0] + first[0], before[1] + first[1]
        for block in _blocks(num_images, (rows, cols), len(matrix)):
            windows = _windows(padded[block, top:, left:], kernel, (1, 1), (rows, cols))
            product = (windows @ matrix).reshape(-1, rows, cols, len(group), channels)
            for i, (a, b) in enumerate(group):
                dx[block, :, a.number, :, b.number] = product[:, :, :, i]
    whole = dx.reshape(num_images, rows * sh, cols * sw, channels)
    return whole[:, : g.size[0], : g.size[1]].transpose(0, 3, 1, 2)


class _Phase(NamedTuple):
    """The output rows (or columns) i * stride + number of a transposed convolution.

    Row i of the phase is the sum of ``taps`` rows of dy, i + first, i + first + 1, ..., times the kernel rows
    offset + (taps - 1) * stride, ..., offset + stride, offset.
    """

    number: int
    offset: int
    taps: int
    first: int


def _phases(kernel: int, stride: int, before: int) -> list[_Phase]:
    """Phases along one axis; ``before`` zeros were in front of the convolution's input."""
    phases = []
    for number in range(stride):
        # Output row i * stride + number is padded row (i + quotient) * stride + offset.
        quotient, offset = divmod(number + before, stride)
        taps = max(0, -(-(kernel - offset) // stride))
        phases.append(_Phase(number, offset, taps, quotient - taps + 1 if taps else 0))
    return phases


def _phase_matrix(weight: Floats, stride: Pair, group: list[tuple[_Phase, _Phase]]) -> tuple[Floats, Pair, Pair]:
    """Weight matrix (taps * o, phases * c) of the phases of a group, and the common window's first tap and size.

    Phases whose own window is smaller than the common one have zeros in the matrix.
    """
    out_channels, channels = weight.shape[:2]
    first = min(a.first for a, _ in group), min(b.first for _, b in group)
    last = max(a.first + a.taps for a, _ in group), max(b.first + b.taps for _, b in group)
    kernel = last[0] - first[0], last[1] - first[1]
    matrix = np.zeros((*kernel, out_channels, len(group), channels), dtype=weight.dtype)
    for i, (a, b) in enumerate(group):
        rows = slice(a.first - first[0], a.first - first[0] + a.taps)
        cols = slice(b.first - first[1], b.first - first[1] + b.taps)
        taps = weight[:, :, a.offset :: stride[0], b.offset :: stride[1]][:, :, ::-1, ::-1]
        matrix[rows, cols, :, i] = taps.transpose(2, 3, 0, 1)
    return matrix.reshape(-1, len(group) * channels), first, kernel


def _scatter(dy: Floats, weight: Floats, g: Geometry) -> Floats:
    """W^T dy: every window's gradient, added where the window was."""
    (oh, ow), (kh, kw), (sh, sw) = g.output, g.kernel, g.stride
    num_images, (out_channels, channels) = len(dy), weight.shape[:2]
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, out_channels)
    dwindows = _channels_last(dy).reshape(-1, out_channels) @ matrix.T
    dwindows = dwindows.reshape(num_images, oh, ow, kh, kw, channels)
    (top, bottom), (left, right) = g.pads
    padded = (num_images, top + g.size[0] + bottom, left + g.size[1] + right, channels)
    dx = np.zeros(padded, dtype=dy.dtype)
    for u in range(kh):
        for v in range(kw):
            dx[:, u : u + oh * sh : sh, v : v + ow * sw : sw] += dwindows[:, :, :, u, v]
    return dx[:, top : top + g.size[0], left : left + g.size[1]].transpose(0, 3, 1, 2)


def _windows(x: Floats, kernel: Pair, stride: Pair, output: Pair) -> Floats:
    """Windows of a padded channels-last input as rows: (n * oh * ow, kh * kw * c)."""
    n, _, _, c = x.shape
    rows, cols = x.strides[1], x.strides[2]
    # A kernel row of a window is one run of kw * c numbers, because pixels of a row are neighbours in memory.
    shape = (n, *output, kernel[0], kernel[1] * c)
    strides = (x.strides[0], stride[0] * rows, stride[1] * cols, rows, x.itemsize)
    windows = np.empty(shape, dtype=x.dtype)
    np.copyto(windows, as_strided(x, shape, strides))
    return windows.reshape(n * output[0] * output[1], kernel[0] * kernel[1] * c)


def _pad(x: Floats, g: Geometry) -> Floats:
    """Copy of (n, c, h, w) as a channels-last array with its zeros around."""
    (top, bottom), (left, right) = g.pads
    n, c, h, w = x.shape
    padded = np.empty((n, top + h + bottom, left + w + right, c), dtype=x.dtype)
    padded[:, :top] = padded[:, top + h :] = 0
    padded[:, :, :left] = padded[:, :, left + w :] = 0
    padded[:, top : top + h, left : left + w] = x.transpose(0, 2, 3, 1)
    return padded


def _channels_last(x: Floats) -> Floats:
    """(n, c, h, w) as a contiguous (n, h, w, c) array; no copy if it is one already."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _blocks(num_images: int, output: Pair, window_size: int) -> Iterator[slice]:
    """Slices of images whose windows fit into the cache."""
    step = max(1, WINDOW_BLOCK // max(1, output[0] * output[1] * window_size))
    for start in range(0, num_images, step):
        yield slice(start, min(start + step, num_images))


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
