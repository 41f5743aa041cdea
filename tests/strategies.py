"""Hypothesis strategies, named by the axes of what they make.

Axes: n images (0 is allowed: an empty batch is a batch), c channels, (h, w) pixels, o output channels,
(kh, kw) kernel, d features, k classes.

Shapes, dtypes and memory layouts are Hypothesis's to choose and to shrink; the numbers come from a generator
seeded by it, because a failing shape should be small while its numbers should stay in general position.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray

DTYPES = ("float32", "float64")
LAYOUTS = ("contiguous", "channels-last", "sliced", "reversed", "transposed")

Layout = Literal["contiguous", "channels-last", "sliced", "reversed", "transposed"]
Padding = Literal["same", "valid"] | int | tuple[tuple[int, int], tuple[int, int]]


def with_layout(array: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """The same numbers, shape and dtype in another memory order.

    ``channels-last`` keeps axis 1 innermost, ``sliced`` is every second element of a larger array on each
    axis, ``reversed`` has negative strides, ``transposed`` is Fortran's order.
    """
    if layout == "contiguous":
        return np.ascontiguousarray(array)
    if layout == "channels-last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1) if array.ndim > 1 else array
    if layout == "sliced":
        larger = np.full([2 * size for size in array.shape], np.nan, dtype=array.dtype)  # NaN: never to be read
        view = larger[(slice(None, None, 2),) * array.ndim]
        view[...] = array
        return view
    if layout == "reversed":
        backwards = (slice(None, None, -1),) * array.ndim
        return np.ascontiguousarray(array[backwards])[backwards]
    return np.asfortranarray(array)


# Of these examples are drawn.
drawn_dtypes = list(DTYPES)


def dtypes() -> SearchStrategy[str]:
    """Names of the dtypes that every op takes."""
    return st.integers(0, len(DTYPES) - 1).map(lambda number: drawn_dtypes[number % len(drawn_dtypes)])


def layouts() -> SearchStrategy[Any]:
    """Names of memory layouts, the plain one first."""
    return st.sampled_from(LAYOUTS)


def seeds() -> SearchStrategy[int]:
    """Seeds, as the package takes them: 64 bits without a sign."""
    return st.integers(0, 2**64 - 1)


def balls() -> SearchStrategy[tuple[str, float]]:
    """A norm and a radius, up to beyond what the images' box holds; in Linf no attack takes more than 1."""
    radii = st.sampled_from([0.0, 1e-8, 0.1, 0.3, 1.0, 7.0]) | st.floats(0, 2)
    return st.sampled_from(["linf", "l2"]).flatmap(
        lambda norm: st.tuples(st.just(norm), radii.filter(lambda eps: norm == "l2" or eps <= 1))
    )


@st.composite
def floats_of_shape(
    draw: DrawFn,
    shape: tuple[int, ...],
    *,
    dtype: str | None = None,
    layout: Layout | None = None,
    uniform: bool = False,
) -> NDArray[Any]:
    """An array of a given shape: standard normal numbers, or ``uniform`` ones in [0, 1)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.random(shape) if uniform else rng.standard_normal(shape)
    return with_layout(values.astype(dtype or draw(dtypes())), layout or draw(layouts()))


@st.composite
def shapes_nchw(
    draw: DrawFn, *, min_n: int = 0, max_n: int = 3, max_c: int = 4, min_size: int = 1, max_size: int = 9
) -> tuple[int, int, int, int]:
    """Shapes (n, c, h, w)."""
    sizes = st.integers(min_size, max_size)
    return draw(st.integers(min_n, max_n)), draw(st.integers(1, max_c)), draw(sizes), draw(sizes)


@st.composite
def images_nchw(
    draw: DrawFn, *, dtype: str | None = None, layout: Layout | None = None, min_n: int = 0, max_n: int = 3
) -> NDArray[Any]:
    """Images (n, c, h, w), pixels in [0, 1)."""
    shape = draw(shapes_nchw(min_n=min_n, max_n=max_n))
    return draw(floats_of_shape(shape, dtype=dtype, layout=layout, uniform=True))


@st.composite
def matrices_nd(
    draw: DrawFn, *, dtype: str | None = None, layout: Layout | None = None, min_n: int = 0, max_d: int = 20
) -> NDArray[Any]:
    """Features (n, d)."""
    shape = draw(st.integers(min_n, 5)), draw(st.integers(1, max_d))
    return draw(floats_of_shape(shape, dtype=dtype, layout=layout))


@st.composite
def labels_n(draw: DrawFn, n: int, k: int) -> NDArray[np.int64]:
    """Labels (n,) in 0..k-1."""
    return np.array(draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)), dtype=np.int64)


class LogitsAndLabels(NamedTuple):
    """Logits (n, k) and labels (n,)."""

    logits: NDArray[Any]
    labels: NDArray[np.int64]


@st.composite
def logits_nk(
    draw: DrawFn,
    *,
    dtype: str | None = None,
    layout: Layout | None = None,
    min_n: int = 0,
    max_scale: float = 1e3,
) -> LogitsAndLabels:
    """Logits (n, k) of magnitude up to ``max_scale``, where a careless softmax overflows, and labels (n,)."""
    n, k = draw(st.integers(min_n, 5)), draw(st.integers(2, 10))
    logits = draw(floats_of_shape((n, k), dtype=dtype, layout=layout))
    scale = draw(st.sampled_from([1.0, 1e-3, 30.0, max_scale]))
    logits *= np.asarray(scale, dtype=logits.dtype)
    return LogitsAndLabels(logits, draw(labels_n(n, k)))


class ConvCase(NamedTuple):
    """A convolution, or a transposed one: all that the op takes.

    ``weight`` is (o, c, kh, kw) for images of c channels; a transposed convolution takes (c, o, kh, kw).
    """

    x: NDArray[Any]
    weight: NDArray[Any]
    stride: tuple[int, int]
    padding: Padding
    output_padding: tuple[int, int] = (0, 0)


@st.composite
def paddings(draw: DrawFn, *, max_pad: int = 3) -> Any:
    """Paddings: by name, one number, or four numbers of which no two need be equal."""
    side = st.integers(0, max_pad)
    return draw(st.sampled_from(["same", "valid"]) | side | st.tuples(st.tuples(side, side), st.tuples(side, side)))


def pads_as_pairs(padding: Padding) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Explicit paddings as ((top, bottom), (left, right)); None for "same", which depends on the sizes."""
    if padding == "same":
        return None
    if padding == "valid":
        return (0, 0), (0, 0)
    return ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding


@st.composite
def conv_cases(
    draw: DrawFn,
    *,
    transposed: bool = False,
    dtype: str | None = None,
    min_n: int = 0,
    max_kernel: int = 5,
    max_stride: int = 3,
    max_channels: int = 3,
) -> ConvCase:
    """Valid convolutions: unequal sides, strides beyond the kernel, every kind of padding, empty batches."""
    kernels, strides = st.integers(1, max_kernel), st.integers(1, max_stride)
    kernel = draw(kernels), draw(kernels)
    stride = draw(strides), draw(strides)
    padding = draw(paddings())
    pads = pads_as_pairs(padding)
    output_padding = (0, 0)
    least = [1, 1]
    if pads is not None and not transposed:  # the padded input holds at least one window
        least = [max(1, k - sum(pad)) for k, pad in zip(kernel, pads, strict=True)]
    elif pads is not None:  # the cropped output holds at least one pixel
        output_padding = draw(st.integers(0, stride[0] - 1)), draw(st.integers(0, stride[1] - 1))
        least = [
            max(1, 1 + -(-(1 + sum(pad) - k - extra) // s))
            for k, s, pad, extra in zip(kernel, stride, pads, output_padding, strict=True)
        ]
    n = draw(st.integers(min_n, 3))
    c, o = draw(st.integers(1, max_channels)), draw(st.integers(1, max_channels))
    h, w = (draw(st.integers(size, max(size, 9))) for size in least)
    dtype = dtype or draw(dtypes())
    weight_shape = (c, o, *kernel) if transposed else (o, c, *kernel)
    return ConvCase(
        x=draw(floats_of_shape((n, c, h, w), dtype=dtype)),
        weight=draw(floats_of_shape(weight_shape, dtype=dtype)),
        stride=stride,
        padding=padding,
        output_padding=output_padding,
    )


class PoolCase(NamedTuple):
    """Images, and the settings of a pooling that fits them."""

    x: NDArray[Any]
    settings: dict[str, Any]


# Poolings of images (7, 8): tiles that overlap, that leave pixels out between them or at the end, that are cut off.
POOLS: tuple[dict[str, Any], ...] = (
    {"size": 2, "stride": 1},
    {"size": (3, 2), "stride": 2},
    {"size": 2, "stride": 3},
    {"size": 3},
    {"size": (3, 5), "stride": 2, "padding": (1, 2), "ceil_mode": True},
    {"size": (2, 4), "stride": 3, "padding": (1, 2), "ceil_mode": True},
    {"size": (7, 8), "stride": 4, "padding": 3},
)


@st.composite
def pool_cases(draw: DrawFn, *, dtype: str | None = None, ties: bool = False) -> PoolCase:
    """Poolings: tiles up to the whole image, strides beyond them, padding, cut-off tiles; with ``ties`` few numbers."""
    x = draw(images_nchw(dtype=dtype))
    if ties:
        x = np.floor(3 * x)
    size = draw(st.integers(1, x.shape[2])), draw(st.integers(1, x.shape[3]))
    strides = st.integers(1, 5)
    settings = {
        "size": size,
        "stride": draw(st.none() | st.tuples(strides, strides)),
        "padding": (draw(st.integers(0, size[0] // 2)), draw(st.integers(0, size[1] // 2))),
        "ceil_mode": draw(st.booleans()),
    }
    return PoolCase(x, settings)


class GroupedCase(NamedTuple):
    """A convolution in groups, or a transposed one: images, weight and settings."""

    x: NDArray[Any]
    weight: NDArray[Any]
    settings: dict[str, Any]


@st.composite
def grouped_cases(draw: DrawFn, *, transposed: bool = False, dtype: str | None = None) -> GroupedCase:
    """Convolutions in groups: depthwise, with several outputs a channel, mixed groups, taps apart, every padding."""
    groups, inputs, outputs = (draw(st.integers(1, most)) for most in (3, 2, 2))
    kernel, dilation = ((draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(2))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    padding = draw(paddings(max_pad=2))
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    settings = {"groups": groups, "dilation": dilation, "stride": stride, "padding": padding}
    if transposed and padding != "same":
        settings["output_padding"] = draw(st.integers(0, stride[0] - 1)), draw(st.integers(0, stride[1] - 1))
    # Of pads of at most 2 on each side: the padded input holds a window, the cropped output a pixel.
    least = [max(1, 1 + -(-(5 - k) // s)) if transposed else k for k, s in zip(span, stride, strict=True)]
    h, w = (draw(st.integers(size, size + 3)) for size in least)
    dtype = dtype or draw(dtypes())
    channels = groups * (outputs if transposed else inputs)
    x = draw(floats_of_shape((draw(st.integers(0, 3)), channels, h, w), dtype=dtype))
    weight = draw(floats_of_shape((groups * outputs, inputs, *kernel), dtype=dtype))
    return GroupedCase(x, weight, settings)
