"""Sizes and paddings of convolutions and poolings: integers only, no arrays.

Axes: kh, kw kernel; sh, sw stride; h, w input; oh, ow output. "same" is TensorFlow's convention: the output
has ceil(h / sh) rows, and when the padding is odd the extra row goes to the bottom (the extra column to the right).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from ..checks import InputError

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Padding = Literal["same", "valid"] | int | Pads


# No kernel, stride or padding is larger; sizes then stay far from the limits of addresses.
LARGEST = 1 << 16
# An image that a setting asks for has at most so many pixels.
MOST_PIXELS = 1 << 24


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


def as_pair(name: str, value: int | Pair, *, minimum: int) -> Pair:
    """Return ``value`` as (vertical, horizontal).

    Raises
    ------
    InputError
        If it is neither an integer nor a pair of integers, or one is below ``minimum`` or absurdly large.
    """
    pair: tuple[Any, ...] = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, int) or v < minimum for v in pair):
        raise InputError(f"{name}: expected an integer >= {minimum} or a pair of them, got {value!r}")
    if max(pair) > LARGEST:
        raise InputError(f"{name}: expected at most {LARGEST}, got {value!r}")
    return pair[0], pair[1]


def as_image_size(name: str, value: int | Pair) -> Pair:
    """Return ``value`` as the height and width of an image to be made.

    Raises
    ------
    InputError
        If it is neither an integer nor a pair of integers, or the image would have too many pixels.
    """
    size = as_pair(name, value, minimum=1)
    if size[0] * size[1] > MOST_PIXELS:
        raise InputError(f"{name}: expected at most {MOST_PIXELS} pixels, got {size[0]} x {size[1]}")
    return size


def resolve_pads(padding: Padding, size: Pair, kernel: Pair, stride: Pair) -> Pads:
    """Turn a padding into zeros to add, ((top, bottom), (left, right)).

    Raises
    ------
    InputError
        If the padding is not "same", "valid", an integer, or a pair of pairs of integers >= 0.
    """
    if padding == "same":
        total = [max((-(-h // s) - 1) * s + k - h, 0) for h, k, s in zip(size, kernel, stride, strict=True)]
        return (total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2)
    if padding == "valid":
        return (0, 0), (0, 0)
    if isinstance(padding, int):
        pair = as_pair("padding", padding, minimum=0)
        return pair, pair
    sides: Any = padding
    if isinstance(sides, (tuple, list)) and len(sides) == 2:
        vertical, horizontal = (
            as_pair("padding", tuple(side) if isinstance(side, list) else side, minimum=0) for side in sides
        )
        return vertical, horizontal
    expected = '"same", "valid", an integer, a pair or ((top, bottom), (left, right))'
    raise InputError(f"padding: expected {expected}; got {padding!r}")


def conv_geometry(size: Pair, kernel: Pair, stride: int | Pair, padding: Padding) -> Geometry:
    """Geometry of a convolution over an input of the given size."""
    strides = as_pair("stride", stride, minimum=1)
    pads = resolve_pads(padding, size, kernel, strides)
    padded = size[0] + sum(pads[0]), size[1] + sum(pads[1])
    if padded[0] < kernel[0] or padded[1] < kernel[1]:
        raise InputError(f"weight: kernel {kernel} is larger than the padded input {padded}")
    output = (padded[0] - kernel[0]) // strides[0] + 1, (padded[1] - kernel[1]) // strides[1] + 1
    return Geometry(size, kernel, strides, pads, output)


def transpose_geometry(
    size: Pair, kernel: Pair, stride: int | Pair, padding: Padding, output_padding: int | Pair
) -> Geometry:
    """Geometry of the convolution whose adjoint is the transposed convolution of an input of ``size``.

    With "same" the transposed convolution's output has h * sh rows; otherwise
    (h - 1) * sh + kh - top - bottom + output_padding.

    Raises
    ------
    InputError
        If a setting is malformed, the output would be empty, or ``output_padding`` is not below the stride.
    """
    strides = as_pair("stride", stride, minimum=1)
    extra = as_pair("output_padding", output_padding, minimum=0)
    if padding == "same":
        if extra != (0, 0):
            raise InputError('output_padding: expected 0 with padding "same", whose output size is fixed')
        large = size[0] * strides[0], size[1] * strides[1]
        pads = resolve_pads("same", large, kernel, strides)
        return Geometry(large, kernel, strides, pads, size)
    if extra[0] >= strides[0] or extra[1] >= strides[1]:
        raise InputError(f"output_padding: expected less than the stride {strides}, got {extra}")
    pads = resolve_pads(padding, size, kernel, strides)
    large = (
        (size[0] - 1) * strides[0] + kernel[0] - sum(pads[0]) + extra[0],
        (size[1] - 1) * strides[1] + kernel[1] - sum(pads[1]) + extra[1],
    )
    if min(large) < 1:
        raise InputError(f"padding: the transposed convolution's output would have size {large}")
    return Geometry(large, kernel, strides, pads, size)


def dilated(kernel: Pair, dilation: Pair) -> Pair:
    """Rows and columns that a kernel spans when its taps lie ``dilation`` apart."""
    return (kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1


def pool_geometry(
    image: Pair, *, size: int | Pair, stride: int | Pair | None, padding: int | Pair, ceil_mode: bool
) -> Geometry:
    """Geometry of a pooling by tiles, with PyTorch's rules.

    Pixels beyond the last whole tile are left out, or with ``ceil_mode`` belong to a tile that is cut off; such a tile
    begins in the image or in the padding before it, never in the padding behind.

    Raises
    ------
    InputError
        If a setting is malformed, the padding is more than half of the tile, or no tile fits.
    """
    tiles = as_pair("size", size, minimum=1)
    strides = tiles if stride is None else as_pair("stride", stride, minimum=1)
    pads = as_pair("padding", padding, minimum=0)
    if not isinstance(ceil_mode, bool):
        raise InputError(f"ceil_mode: expected true or false, got {ceil_mode!r}")
    if 2 * pads[0] > tiles[0] or 2 * pads[1] > tiles[1]:
        raise InputError(f"padding: expected at most half of the tile {tiles}, got {pads}")
    output = []
    for h, k, s, pad in zip(image, tiles, strides, pads, strict=True):
        count = (h + 2 * pad - k + (s - 1 if ceil_mode else 0)) // s + 1
        output.append(count - 1 if ceil_mode and (count - 1) * s >= h + pad else count)
    if min(output) < 1:
        padded = "" if pads == (0, 0) else f" with padding {pads}"
        raise InputError(f"size: tile {tiles} is larger than the image {image}{padded}")
    return Geometry(image, tiles, strides, ((pads[0], pads[0]), (pads[1], pads[1])), (output[0], output[1]))
