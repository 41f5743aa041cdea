"""Sizes and paddings of convolutions and tiles: integers only, no arrays.

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

    Returns
    -------
    tuple of two int
        The pair.

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

    Raises
    ------
    InputError
        If the padding is malformed.
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

    Raises
    ------
    InputError
        If the stride or the padding is malformed, or the kernel is larger than the padded input.
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


def _same(size: int, kernel: int, stride: int) -> Pair:
    """Zeros before and after, so that there is a window for every stride begun."""
    windows = -(-size // stride)
    total = max(0, (windows - 1) * stride + kernel - size)
    return total // 2, total - total // 2
