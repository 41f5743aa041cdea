r"""Two-dimensional convolution and its transpose, with their derivatives.

    y[n, o, i, j] = sum_{c, u, v} weight[o, c, u, v] * xp[n, c, i*sh + u, j*sw + v],    xp = x padded with zeros.

All four ops are three products, `correlate` W x, `spread` W^T dy and `weight_gradient` dy x^T; the kernels of conv.cuh
compute the first and the last. The second one is left to narrow.cuh where windows have few taps (`_bands` has the
rule). Else, along one axis, it is

    dx[p] = sum over u of weight[u] dy[(p + top - u) / s],    where s divides p + top - u.

For the pixels p = q s + a of one *phase* a, with a + top = b s + offset, only the taps u = offset + t s take part, and

    dx[q s + a] = sum over t of weight[offset + t s] dy[q + b - t]:

a correlation with stride 1 whose results lie s apart. With two axes and strides of 2 there are four of them.

Axes: n images, c input channels, o output channels, (h, w) input, (oh, ow) output, (u, v) kernel. Results are views,
(n, c, h, w), of channels-last arrays. How exactly float32 is multiplied is a setting: module `precision`.

References
----------
.. [1] Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, 2016.
.. [2] Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores", arXiv:2203.03341, 2022.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_float, check_ndim, check_shape

from ..device import device
from ..precision import PRECISIONS, precision
from .epilogue import Epilogue, of_input, of_output
from .geometry import Geometry, Padding, Pair, conv_geometry, transpose_geometry
from .layout import address_of, channels_last, empty_channels_last

REAL = {"float32": "float", "float64": "double"}
SIZE = {"float32": 4, "float64": 8}
THREADS = 128  # of a block of conv.cuh
# Columns of a block's results, by which a narrow product wastes less; rows, terms of a step and buffers as in conv.cuh.
TILES = {"fp32": (4, 16, 32, 64), "tf32x3": (8, 16, 32, 64), "tf32": (8, 16, 32, 64, 128), "bf16": (8, 16, 32, 64, 128)}
DEPTH, STAGES = 16, 3
# A sum over pixels is cut into parts of at least PART pixels, but into no more than MOST_PARTS.
PART, MOST_PARTS = 1024, 64
# Of narrow.cuh: the most taps of a window, the fewest channels and pixels of an image of dy, a block's shared memory at
# most (a multiprocessor of an H200 holds four), how many of dy's channels it takes at a time, and how many pixels of dx
# are enough for a block: few large images are work for many blocks.
MOST_TAPS, FEWEST_CHANNELS, FEWEST_PIXELS, NARROW_BYTES = 32, 8, 64, 48 << 10
NARROW_PART, BLOCK_PIXELS = {"float32": 128, "float64": 64}, 1024


def conv2d(
    x: Array,
    weight: Array,
    *,
    stride: int | Pair = 1,
    padding: Padding = "same",
    bias: Array | None = None,
    activation: str | None = None,
) -> Array:
    """As `malade_ref.ops.conv2d`."""
    geometry = _conv_geometry(x, weight, stride, padding)
    return _correlate(x, weight, geometry, of_output(weight, len(weight), bias, activation))


def conv2d_vjp(
    dy: Array,
    x: Array,
    weight: Array,
    *,
    stride: int | Pair = 1,
    padding: Padding = "same",
    need_dx: bool = True,
    need_dweight: bool = True,
    input_activation: str | None = None,
) -> tuple[Array | None, Array | None]:
    """As `malade_ref.ops.conv2d_vjp`."""
    geometry = _conv_geometry(x, weight, stride, padding)
    check_shape("dy", dy, (len(x), len(weight), *geometry.output))
    epilogue = of_input(x, input_activation)
    dx = _spread(dy, weight, geometry, epilogue) if need_dx else None
    return dx, (_weight_gradient(x, dy, geometry) if need_dweight else None)


def conv_transpose2d(
    x: Array,
    weight: Array,
    *,
    stride: int | Pair = 1,
    padding: Padding = "same",
    output_padding: int | Pair = 0,
    bias: Array | None = None,
    activation: str | None = None,
) -> Array:
    """As `malade_ref.ops.conv_transpose2d`."""
    geometry = _transpose_geometry(x, weight, stride, padding, output_padding)
    return _spread(x, weight, geometry, of_output(weight, weight.shape[1], bias, activation))


def conv_transpose2d_vjp(
    dy: Array,
    x: Array,
    weight: Array,
    *,
    stride: int | Pair = 1,
    padding: Padding = "same",
    output_padding: int | Pair = 0,
    need_dx: bool = True,
    need_dweight: bool = True,
    input_activation: str | None = None,
) -> tuple[Array | None, Array | None]:
    """As `malade_ref.ops.conv_transpose2d_vjp`."""
    geometry = _transpose_geometry(x, weight, stride, padding, output_padding)
    check_shape("dy", dy, (len(x), weight.shape[1], *geometry.size))
    epilogue = of_input(x, input_activation)
    dx = _correlate(dy, weight, geometry, epilogue) if need_dx else None
    return dx, (_weight_gradient(dy, x, geometry) if need_dweight else None)


def _correlate(x: Array, weight: Array, g: Geometry, epilogue: Epilogue) -> Array:
    """W x: (n, c, h, w) to (n, o, oh, ow)."""
    y, memory = empty_channels_last((len(x), len(weight), *g.output), x.dtype)
    windows = _Windows(g.kernel, g.stride, (g.pads[0][0], g.pads[1][0]), g.output)
    weights = device().xp.ascontiguousarray(weight)
    (_, c, kh, kw) = weight.shape
    steps = _Steps(0, kw, 1, kh * kw, c * kh * kw)
    _launch_correlate(channels_last(x), weights, steps, windows, memory, (1, 1), (0, 0), epilogue)
    return y


def _spread(dy: Array, weight: Array, g: Geometry, epilogue: Epilogue) -> Array:
    """W^T dy: (n, o, oh, ow) to (n, c, h, w)."""
    if bands := _bands(weight, g):
        return _spread_narrow(dy, weight, g, bands, epilogue)
    dx, memory = empty_channels_last((len(dy), weight.shape[1], *g.size), dy.dtype)
    source, (sh, sw) = channels_last(dy), g.stride
    weights, (_, c, kh, kw) = device().xp.ascontiguousarray(weight), weight.shape
    for a in _phases(g.size[0], g.kernel[0], sh, g.pads[0][0]):
        for b in _phases(g.size[1], g.kernel[1], sw, g.pads[1][0]):
            # The tap t = taps - 1 comes first: then dy's rows ascend.
            last = (a.offset + (a.taps - 1) * sh) * kw + b.offset + (b.taps - 1) * sw
            steps = _Steps(last, -sh * kw, -sw, c * kh * kw, kh * kw)
            windows = _Windows((a.taps, b.taps), (1, 1), (a.before, b.before), (a.length, b.length))
            first = a.number, b.number
            _launch_correlate(source, weights, steps, windows, memory, g.stride, first, epilogue)
    return dx


def _bands(weight: Array, g: Geometry) -> _Bands | None:
    """How narrow.cuh would cut W^T dy, or None where conv.cuh has to compute it.

    The rule: windows of few taps, dy of enough channels and pixels (else lanes idle), and rows short enough for the
    shared memory. The setting of the precision does not matter: this is float's own arithmetic.
    """
    (o, c, kh, kw), (sh, _) = weight.shape, g.stride
    num_taps, size = c * kh * kw, weight.dtype.itemsize
    if num_taps > MOST_TAPS or o < FEWEST_CHANNELS or math.prod(g.output) < FEWEST_PIXELS:
        return None
    part = NARROW_PART[str(weight.dtype)]
    most_rows = (NARROW_BYTES // (num_taps * size) - part) // g.output[1]
    # A band of rows needs (rows + kh - 2) // sh + 1 rows of dy.
    rows = g.size[0] if most_rows >= g.output[0] else most_rows * sh - kh + 1
    if rows < 1:
        return None
    ring = min(g.output[0], most_rows)
    return _Bands(-(-BLOCK_PIXELS // g.size[1]), rows, ring, num_taps * (part + ring * g.output[1]) * size)


def _spread_narrow(dy: Array, weight: Array, g: Geometry, bands: _Bands, epilogue: Epilogue) -> Array:
    """W^T dy by narrow.cuh, which reads dy once."""
    (o, c, kh, kw), source = weight.shape, channels_last(dy)
    dx, memory = empty_channels_last((len(dy), c, *g.size), dy.dtype)
    matrix = device().xp.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(c * kh * kw, o)
    if len(dy):
        device().launch(
            "narrow",
            "spread",
            grid=(len(dy), -(-g.size[0] // bands.of_block)),
            block=(THREADS,),
            arguments=(
                *(source, matrix, memory, len(matrix), o, *g.output, kh, kw, *g.stride, g.pads[0][0], g.pads[1][0]),
                *(*g.size, bands.of_block, bands.rows, bands.ring, *epilogue.arguments(matrix)),
            ),
            shared_bytes=bands.shared_bytes,
            defines={"REAL": REAL[str(dy.dtype)], "VECTOR": _vector(source)},
        )
    return dx


def _weight_gradient(x: Array, dy: Array, g: Geometry) -> Array:
    """The gradient dy x^T with respect to W: (o, c, kh, kw)."""
    columns, channels = dy.shape[1], x.shape[1]
    num_pixels, num_taps = len(x) * math.prod(g.output), math.prod(g.kernel) * channels
    dweight = device().empty((columns, channels, *g.kernel), x.dtype)
    part = max(PART, -(-num_pixels // MOST_PARTS))
    num_parts = -(-num_pixels // part)
    parts = device().empty((num_parts, num_taps, columns), x.dtype)
    windows = _Windows(g.kernel, g.stride, (g.pads[0][0], g.pads[1][0]), g.output)
    images, slopes = channels_last(x), channels_last(dy)
    tile = _tile(images, columns, _vector(slopes))
    if num_parts:
        device().launch(
            "conv",
            "weight_gradient",
            grid=(-(-num_taps // tile.rows), -(-columns // tile.columns), num_parts),
            block=(THREADS,),
            arguments=(
                *(images, slopes, parts, num_pixels, num_taps, columns, part),
                *windows.arguments(*g.size, channels),
            ),
            shared_bytes=tile.shared_bytes,
            defines=tile.defines,
        )
    device().launch(
        "conv",
        "add_parts",
        grid=(-(-dweight.size // THREADS),),
        block=(THREADS,),
        arguments=(parts, dweight, num_parts, columns, channels, math.prod(g.kernel)),
        defines=tile.defines,
    )
    return dweight


class _Bands(NamedTuple):
    """Rows of dx of a block of narrow.cuh, and at a time; rows of dy whose products it holds; the memory for them."""

    of_block: int
    rows: int
    ring: int
    shared_bytes: int


class _Steps(NamedTuple):
    """Where the numbers of a correlation's weights lie in an array: the first, and how far the next ones are.

    ``row`` and ``column`` lead to the next taps of a window, ``channel`` and ``out`` to those of its other axes.
    """

    first: int
    row: int
    column: int
    channel: int
    out: int


class _Windows(NamedTuple):
    """A grid of windows on images; ``before`` are the zeros above and to the left."""

    kernel: Pair
    stride: Pair
    before: Pair
    grid: Pair

    def arguments(self, h: int, w: int, c: int) -> tuple[int, ...]:
        """What the kernels take, from h on."""
        return h, w, c, max(1, self.kernel[1]), *self.stride, *self.before, *self.grid


class _Phase(NamedTuple):
    """The pixels q * stride + number, q < length, of a row (or column): which taps they see, and which of dy."""

    number: int
    length: int
    offset: int
    taps: int
    before: int


def _phases(size: int, kernel: int, stride: int, before: int) -> list[_Phase]:
    """Phases of ``size`` pixels, of a convolution with ``before`` zeros in front."""
    phases = []
    for number in range(min(stride, size)):
        whole, offset = divmod(number + before, stride)
        taps = len(range(offset, kernel, stride))
        phases.append(_Phase(number, len(range(number, size, stride)), offset, taps, taps - 1 - whole))
    return phases


class Tile(NamedTuple):
    """Results of a block, and what conv.cuh is compiled with and launched with for it.

    Attributes
    ----------
    rows, columns : int
        Of the results.
    shared_bytes : int
        Of a block.
    defines : dict of str to object
        Macros.
    """

    rows: int
    columns: int
    shared_bytes: int
    defines: dict[str, Any]


def tile_of(real: str, name: str, tile: int, vectors: Pair) -> Tile:
    """How products are cut for one precision and width.

    Parameters
    ----------
    real : {"float32", "float64"}
        Type of the numbers.
    name : str
        Precision, one of `PRECISIONS`.
    tile : int
        Columns of a block, one of `TILES[name]`.
    vectors : pair of int
        Numbers that one copy takes of the left and of the right operand, 1 or 4; where the right one is 4, so are the
        numbers of a row of results that are stored together, if a thread has as many.

    Returns
    -------
    Tile
        What the kernels are compiled and launched with.
    """
    rows = 256 if tile == 64 and name in ("tf32", "bf16") else 64 if tile >= 32 and real == "float64" else 128
    defines = {
        "REAL": REAL[real],
        "TILE_N": tile,
        "PRECISION": PRECISIONS.index(name),
        "LEFT_VECTOR": vectors[0],
        "RIGHT_VECTOR": vectors[1],
    }
    return Tile(rows, tile, STAGES * DEPTH * (rows + tile) * SIZE[real], defines)


def _tile(images: Array, columns: int, right_vector: int) -> Tile:
    """For a product of channels-last images with a matrix of so many columns."""
    real = str(images.dtype)
    name = precision() if real == "float32" else "fp32"
    tile = next((tile for tile in TILES[name] if columns <= tile), TILES[name][-1])
    return tile_of(real, name, tile, (_vector(images), right_vector))


def _vector(array: Array) -> int:
    """How many numbers of a contiguous array's last axis one copy of 16 bytes may take: 4, or 1 for one at a time."""
    return 4 if array.dtype.itemsize == 4 and array.shape[-1] % 4 == 0 and address_of(array) % 16 == 0 else 1


def _launch_correlate(
    x: Array,
    weight: Array,
    steps: _Steps,
    windows: _Windows,
    out: Array,
    step: Pair,
    first: Pair,
    epilogue: Epilogue,
) -> None:
    """One correlation of channels-last images with weights in an array, to every ``step``-th pixel of ``out``."""
    n, h, w, channels = x.shape
    _, height, width, columns = out.shape
    num_pixels, num_taps = n * math.prod(windows.grid), math.prod(windows.kernel) * channels
    if not num_pixels:
        return
    together = _vector(out) if epilogue.input is None else min(_vector(out), _vector(epilogue.input))
    tile = _tile(x, columns, together)
    num_tiles, num_steps = -(-columns // tile.columns), -(-num_taps // DEPTH)
    laid_out = device().empty((num_tiles, num_steps, tile.columns * DEPTH), x.dtype)
    if laid_out.size:
        device().launch(
            "conv",
            "lay_out",
            grid=(-(-laid_out.size // THREADS),),
            block=(THREADS,),
            arguments=(weight, laid_out, num_taps, columns, channels, max(1, windows.kernel[1]), *steps),
            defines=tile.defines,
        )
    device().launch(
        "conv",
        "correlate",
        grid=(-(-num_pixels // tile.rows), num_tiles),
        block=(THREADS,),
        arguments=(
            *(x, laid_out, out, num_pixels, num_taps, columns, *windows.arguments(h, w, channels)),
            *(height, width, *step, *first, *epilogue.arguments(laid_out)),
        ),
        shared_bytes=tile.shared_bytes,
        defines=tile.defines,
    )


def _conv_geometry(x: Array, weight: Array, stride: int | Pair, padding: Padding) -> Geometry:
    _check_operands(x, weight, of_weight=1)
    return conv_geometry(x.shape[2:], weight.shape[2:], stride, padding)


def _transpose_geometry(
    x: Array, weight: Array, stride: int | Pair, padding: Padding, output_padding: int | Pair
) -> Geometry:
    _check_operands(x, weight, of_weight=0)
    return transpose_geometry(x.shape[2:], weight.shape[2:], stride, padding, output_padding)


def _check_operands(x: Array, weight: Array, *, of_weight: int) -> None:
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_ndim("weight", weight, 4, "(o, c, kh, kw)")
    check_float("x", x)
    if weight.dtype != x.dtype:
        raise InputError(f"weight: expected dtype {x.dtype} (that of x), got {weight.dtype}")
    if min(x.shape[1:]) < 1 or min(weight.shape) < 1:
        raise InputError(f"x: expected no empty axis but the first, got x {x.shape} and weight {weight.shape}")
    if x.shape[1] != weight.shape[of_weight]:
        raise InputError(f"x: expected {weight.shape[of_weight]} channels (those of weight), got {x.shape[1]}")
