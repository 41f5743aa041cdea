"""Sizes and paddings of convolutions: integers only, no arrays.

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
    """Geometry of a convolution over an input of the given size.

    Raises
    ------
    InputError
        If the stride or the padding is malformed, or the kernel is larger than the padded input.
    """
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
