"""Sizes and paddings of convolutions and poolings: integers only, no arrays.

Axes: kh, kw kernel; sh, sw stride; h, w input; oh, ow output. "same" is TensorFlow's convention: the output has
ceil(h / sh) rows, and of an odd number of zeros the last goes to the bottom (or to the right).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from malade_ref.checks import InputError

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Padding = Literal["same", "valid"] | int | Pads

LARGEST = 1 << 16  # no kernel, stride or padding is larger
MOST_PIXELS = 1 << 24  # of an image that a setting asks for


class Geometry(NamedTuple):
    """Where the windows of a convolution lie on its input.

    Attributes
    ----------
    size : tuple of two int
        Input height and width (h, w).
    kernel, stride : tuple of two int
        (kh, kw) and (sh, sw).
    pads : pair of pairs of int
        Zeros added: (top, bottom), (left, right).
    output : tuple of two int
        Output height and width (oh, ow).
    """

    size: Pair
    kernel: Pair
    stride: Pair
    pads: Pads
    output: Pair


def as_pair(name: str, value: Any, *, minimum: int) -> Pair:
    """Setting as (vertical, horizontal).

    Parameters
    ----------
    name : str
        What to call it in the complaint.
    value : int or pair of int
        The setting.
    minimum : int
        The smallest number allowed.

    Raises
    ------
    InputError
        If it is neither an integer nor a pair of integers, or one is below ``minimum`` or absurdly large.
    """
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    good = len(pair) == 2 and all(isinstance(v, int) and not isinstance(v, bool) and v >= minimum for v in pair)
    if not good:
        raise InputError(f"{name}: expected an integer >= {minimum} or a pair of them, got {value!r}")
    if max(pair) > LARGEST:
        raise InputError(f"{name}: expected at most {LARGEST}, got {value!r}")
    return pair[0], pair[1]


def as_image_size(name: str, value: Any) -> Pair:
    """As `malade_ref.ops.geometry.as_image_size`.

    Parameters
    ----------
    name : str
        What to call it in the complaint.
    value : int or pair of int
        The setting.

    Raises
    ------
    InputError
        If it is neither an integer nor a pair of integers, or the image would have too many pixels.
    """
    h, w = as_pair(name, value, minimum=1)
    if h * w > MOST_PIXELS:
        raise InputError(f"{name}: expected at most {MOST_PIXELS} pixels, got {h} x {w}")
    return h, w


def resolve_pads(padding: Any, size: Pair, kernel: Pair, stride: Pair) -> Pads:
    """Zeros to add.

    Parameters
    ----------
    padding : {"same", "valid"}, int, pair of int, or ((top, bottom), (left, right))
        The setting.
    size, kernel, stride : tuple of two int
        Of the convolution.

    Returns
    -------
    pair of pairs of int
        (top, bottom), (left, right).
    """
    if isinstance(padding, str) and padding == "same":
        return _same(size[0], kernel[0], stride[0]), _same(size[1], kernel[1], stride[1])
    if isinstance(padding, str) and padding == "valid":
        return (0, 0), (0, 0)
    if isinstance(padding, int):
        both = as_pair("padding", padding, minimum=0)
        return both, both
    if isinstance(padding, tuple | list) and len(padding) == 2:
        return as_pair("padding", padding[0], minimum=0), as_pair("padding", padding[1], minimum=0)
    raise InputError(
        f'padding: expected "same", "valid", an integer, a pair or ((top, bottom), (left, right)); got {padding!r}'
    )


def conv_geometry(size: Pair, kernel: Pair, stride: int | Pair, padding: Padding) -> Geometry:
    """Geometry of a convolution.

    Parameters
    ----------
    size, kernel : tuple of two int
        Of its input and of its kernel.
    stride, padding
        As the op takes them.

    Returns
    -------
    Geometry
        All sizes.
    """
    strides = as_pair("stride", stride, minimum=1)
    pads = resolve_pads(padding, size, kernel, strides)
    padded = size[0] + sum(pads[0]), size[1] + sum(pads[1])
    if kernel[0] > padded[0] or kernel[1] > padded[1]:
        raise InputError(f"weight: kernel {kernel} is larger than the padded input {padded}")
    output = 1 + (padded[0] - kernel[0]) // strides[0], 1 + (padded[1] - kernel[1]) // strides[1]
    return Geometry(size, kernel, strides, pads, output)


def transpose_geometry(
    size: Pair, kernel: Pair, stride: int | Pair, padding: Padding, output_padding: int | Pair
) -> Geometry:
    """Geometry of the convolution that a transposed convolution is the adjoint of.

    Parameters
    ----------
    size, kernel : tuple of two int
        Of the transposed convolution's input and of its kernel.
    stride, padding, output_padding
        As the op takes them.

    Returns
    -------
    Geometry
        All sizes; ``output`` is the transposed convolution's input, ``size`` its output.

    Raises
    ------
    InputError
        If a setting is malformed, the output would be empty, or ``output_padding`` is not below the stride.
    """
    strides = as_pair("stride", stride, minimum=1)
    extra = as_pair("output_padding", output_padding, minimum=0)
    if isinstance(padding, str) and padding == "same":
        if extra != (0, 0):
            raise InputError('output_padding: expected 0 with padding "same", whose output size is fixed')
        enlarged = size[0] * strides[0], size[1] * strides[1]
        return Geometry(enlarged, kernel, strides, resolve_pads("same", enlarged, kernel, strides), size)
    if extra[0] >= strides[0] or extra[1] >= strides[1]:
        raise InputError(f"output_padding: expected less than the stride {strides}, got {extra}")
    pads = resolve_pads(padding, size, kernel, strides)
    high, wide = (
        (n - 1) * s + k - sum(pad) + e for n, s, k, pad, e in zip(size, strides, kernel, pads, extra, strict=True)
    )
    if high < 1 or wide < 1:
        raise InputError(f"padding: the transposed convolution's output would have size {(high, wide)}")
    return Geometry((high, wide), kernel, strides, pads, size)


def dilated(kernel: Pair, dilation: Pair) -> Pair:
    """As `malade_ref.ops.geometry.dilated`.

    Parameters
    ----------
    kernel, dilation : tuple of two int
        Taps, and how far they lie apart.

    Returns
    -------
    tuple of two int
        Rows and columns.
    """
    return 1 + dilation[0] * (kernel[0] - 1), 1 + dilation[1] * (kernel[1] - 1)


def pool_geometry(image: Pair, *, size: Any, stride: Any, padding: Any, ceil_mode: bool) -> Geometry:
    """As `malade_ref.ops.geometry.pool_geometry`.

    Parameters
    ----------
    image : tuple of two int
        Height and width of the input.
    size, stride, padding, ceil_mode
        As the op takes them.

    Returns
    -------
    Geometry
        All sizes.

    Raises
    ------
    InputError
        If a setting is malformed, the padding is more than half of the tile, or no tile fits.
    """
    tile = as_pair("size", size, minimum=1)
    steps = tile if stride is None else as_pair("stride", stride, minimum=1)
    pads = as_pair("padding", padding, minimum=0)
    if not isinstance(ceil_mode, bool):
        raise InputError(f"ceil_mode: expected true or false, got {ceil_mode!r}")
    if pads[0] > tile[0] // 2 or pads[1] > tile[1] // 2:
        raise InputError(f"padding: expected at most half of the tile {tile}, got {pads}")
    oh, ow = (_tiles(*sizes, ceil_mode) for sizes in zip(image, tile, steps, pads, strict=True))
    if oh < 1 or ow < 1:
        padded = f" with padding {pads}" if any(pads) else ""
        raise InputError(f"size: tile {tile} is larger than the image {image}{padded}")
    return Geometry(image, tile, steps, ((pads[0],) * 2, (pads[1],) * 2), (oh, ow))


def _tiles(size: int, tile: int, step: int, pad: int, ceil_mode: bool) -> int:
    """How many tiles begin in an image or in the padding before it, all of them whole unless ``ceil_mode``."""
    beyond = size + 2 * pad - tile
    if not ceil_mode:
        return 1 + beyond // step
    return min(1 + -(-beyond // step), -(-(size + pad) // step))


def _same(size: int, kernel: int, stride: int) -> Pair:
    """Zeros before and after, so that there is a window for every stride begun."""
    windows = -(-size // stride)
    total = max(0, (windows - 1) * stride + kernel - size)
    return total // 2, total - total // 2
