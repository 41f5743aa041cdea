"""Convolutions against loops over windows, in all the forms that the code has, and their derivatives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from malade_ref.ops import conv_banded, conv_phases, conv_windows
from malade_ref.ops.geometry import conv_geometry, resolve_pads, transpose_geometry
from tests import textbook
from tests.strategies import ConvCase, conv_cases, floats_of_shape
from tests.tolerances import (
    assert_close,
    assert_no_alias,
    assert_not_mutated,
    assert_planted_caught,
    directional_check,
)

# The forms of the arithmetic: which of the two products; how many numbers are laid out at once; below how many
# channels the phases of a transposed convolution share a product; and with how few they are scattered instead.
NEVER = 1 << 30
FORMS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "windows, phases together": {"banded": False, "WINDOW_BLOCK": 200, "NARROW": NEVER, "LITTLE": NEVER},
    "windows, phases apart": {"banded": False, "WINDOW_BLOCK": 1, "NARROW": 0, "LITTLE": NEVER},
    "windows, scattered": {"banded": False, "LITTLE": 0},
    "banded": {"banded": True},
}


@contextmanager
def form(*, banded: bool | None = None, **constants: int) -> Iterator[None]:
    """Force a form."""
    with ExitStack() as patches:
        if banded is not None:
            patches.enter_context(mock.patch.object(conv_banded, "pays", return_value=banded))
        for name, value in constants.items():
            module = conv_windows if name == "WINDOW_BLOCK" else conv_phases
            patches.enter_context(mock.patch.object(module, name, value))
        yield


# The textbook, told of a case --------------------------------------------------------------------------------


def textbook_transpose(case: ConvCase) -> Any:
    same = case.padding == "same"
    size = tuple(h * s for h, s in zip(case.x.shape[2:], case.stride, strict=True)) if same else None
    return textbook.conv_transpose(
        case.x, case.weight, case.stride, transpose_pads(case), case.output_padding, size=size
    )


def transpose_pads(case: ConvCase) -> Any:
    large = tuple(h * s for h, s in zip(case.x.shape[2:], case.stride, strict=True))
    return textbook.pads_of(case.padding, large, case.weight.shape[2:], case.stride)


# The checks, of any function in the op's place, so that planted errors can be shown to them ------------------


def check_conv2d(conv2d: Any, case: ConvCase) -> None:
    x, weight, stride = case.x, case.weight, case.stride
    pads = textbook.pads_of(case.padding, x.shape[2:], weight.shape[2:], stride)
    with assert_not_mutated(x, weight):
        y = conv2d(x, weight, stride=stride, padding=case.padding)
    assert_no_alias(y, x, weight)
    scale = textbook.conv(np.abs(x), np.abs(weight), stride, pads)
    assert_close(y, textbook.conv(x, weight, stride, pads), op="conv2d", dtype=str(x.dtype), scale=scale)


def check_conv2d_vjp(conv2d_vjp: Any, case: ConvCase, dy: Any) -> None:
    x, weight, stride = case.x, case.weight, case.stride
    pads = textbook.pads_of(case.padding, x.shape[2:], weight.shape[2:], stride)
    with assert_not_mutated(dy, x, weight):
        results = conv2d_vjp(dy, x, weight, stride=stride, padding=case.padding)
    scales = textbook.conv_vjp(np.abs(dy), np.abs(x), np.abs(weight), stride, pads)
    expected = textbook.conv_vjp(dy, x, weight, stride, pads)
    for result, wanted, scale in zip(results, expected, scales, strict=True):
        assert_no_alias(result, dy, x, weight)
        assert_close(result, wanted, op="conv2d_vjp", dtype=str(x.dtype), scale=scale)


def check_conv_transpose2d(conv_transpose2d: Any, case: ConvCase) -> None:
    settings = {"stride": case.stride, "padding": case.padding, "output_padding": case.output_padding}
    with assert_not_mutated(case.x, case.weight):
        y = conv_transpose2d(case.x, case.weight, **settings)
    assert_no_alias(y, case.x, case.weight)
    scale = textbook_transpose(case._replace(x=np.abs(case.x), weight=np.abs(case.weight)))
    assert_close(y, textbook_transpose(case), op="conv_transpose2d", dtype=str(case.x.dtype), scale=scale)


def check_conv_transpose2d_vjp(conv_transpose2d_vjp: Any, case: ConvCase, dy: Any) -> None:
    """With a convolution in the opposite direction: the op is its adjoint."""
    settings = {"stride": case.stride, "padding": case.padding, "output_padding": case.output_padding}
    with assert_not_mutated(dy, case.x, case.weight):
        results = conv_transpose2d_vjp(dy, case.x, case.weight, **settings)
    pads = transpose_pads(case)

    def both(dy: Any, x: Any, weight: Any) -> tuple[Any, Any]:
        h, w = x.shape[2:]
        dx = textbook.conv(dy, weight, case.stride, pads)[:, :, :h, :w]
        return dx, textbook.conv_vjp(x, dy, weight, case.stride, pads)[1]

    scales = both(np.abs(dy), np.abs(case.x), np.abs(case.weight))
    for result, wanted, scale in zip(results, both(dy, case.x, case.weight), scales, strict=True):
        assert_no_alias(result, dy, case.x, case.weight)
        assert_close(result, wanted, op="conv_transpose2d_vjp", dtype=str(case.x.dtype), scale=scale)


def cotangent(y: Any) -> Any:
    return np.random.default_rng(5).standard_normal(y.shape).astype(y.dtype)


def some_case(dtype: str, *, transposed: bool = False) -> ConvCase:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 6, 7)).astype(dtype)
    weight = rng.standard_normal((3, 2, 4, 3) if transposed else (2, 3, 4, 3)).astype(dtype)
    return ConvCase(x, weight, (2, 1), ((2, 0), (0, 1)), (1, 0) if transposed else (0, 0))


# Forward and gradients against the textbook -----------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
@given(conv_cases(), st.data())
def test_conv2d(name: str, case: ConvCase, data: st.DataObject) -> None:
    with form(**FORMS[name]):
        check_conv2d(ops.conv2d, case)
        y = ops.conv2d(case.x, case.weight, stride=case.stride, padding=case.padding)
        check_conv2d_vjp(ops.conv2d_vjp, case, data.draw(floats_of_shape(y.shape, dtype=str(y.dtype))))


@pytest.mark.parametrize("name", FORMS)
@given(conv_cases(transposed=True), st.data())
def test_conv_transpose2d(name: str, case: ConvCase, data: st.DataObject) -> None:
    with form(**FORMS[name]):
        check_conv_transpose2d(ops.conv_transpose2d, case)
        options = case._asdict()
        y = ops.conv_transpose2d(options.pop("x"), options.pop("weight"), **options)
        dy = data.draw(floats_of_shape(y.shape, dtype=str(y.dtype)))
        check_conv_transpose2d_vjp(ops.conv_transpose2d_vjp, case, dy)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FORMS)
def test_planted_errors_are_caught(name: str, dtype: str) -> None:
    case, transposed = some_case(dtype), some_case(dtype, transposed=True)
    options = transposed._asdict()
    dy = cotangent(ops.conv2d(case.x, case.weight, stride=case.stride, padding=case.padding))
    dz = cotangent(ops.conv_transpose2d(options.pop("x"), options.pop("weight"), **options))
    with form(**FORMS[name]):
        assert_planted_caught(lambda f: check_conv2d(f, case), ops.conv2d)
        assert_planted_caught(lambda f: check_conv2d_vjp(f, case, dy), ops.conv2d_vjp)
        assert_planted_caught(lambda f: check_conv_transpose2d(f, transposed), ops.conv_transpose2d)
        assert_planted_caught(lambda f: check_conv_transpose2d_vjp(f, transposed, dz), ops.conv_transpose2d_vjp)


# Finite differences -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
@given(conv_cases(dtype="float64"))
def test_conv2d_finite_differences(name: str, case: ConvCase) -> None:
    options = {"stride": case.stride, "padding": case.padding}
    with form(**FORMS[name]):
        directional_check(
            lambda x, weight: ops.conv2d(x, weight, **options),
            lambda dy, x, weight: ops.conv2d_vjp(dy, x, weight, **options),
            [case.x, case.weight],
        )


@pytest.mark.parametrize("name", FORMS)
@given(conv_cases(dtype="float64", transposed=True))
def test_conv_transpose2d_finite_differences(name: str, case: ConvCase) -> None:
    options = {"stride": case.stride, "padding": case.padding, "output_padding": case.output_padding}
    with form(**FORMS[name]):
        directional_check(
            lambda x, weight: ops.conv_transpose2d(x, weight, **options),
            lambda dy, x, weight: ops.conv_transpose2d_vjp(dy, x, weight, **options),
            [case.x, case.weight],
        )


def test_finite_differences_catch_planted_errors() -> None:
    case = some_case("float64")
    options: Any = {"stride": case.stride, "padding": case.padding}

    def check(vjp: Any) -> None:
        directional_check(
            lambda x, weight: ops.conv2d(x, weight, **options),
            lambda dy, x, weight: vjp(dy, x, weight, **options),
            [case.x, case.weight],
        )

    assert_planted_caught(check, ops.conv2d_vjp)


# The networks' own sizes, where blocks of windows are cut as in earnest --------------------------------------


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "stride", "transposed"),
    [
        ((5, 1, 28, 28), (128, 1, 3, 3), (1, 1), False),
        ((17, 128, 28, 28), (64, 128, 5, 5), (2, 2), False),
        ((5, 1, 28, 28), (10, 1, 5, 5), (2, 2), False),
        ((5, 10, 14, 14), (25, 10, 5, 5), (2, 2), False),
        ((5, 25, 7, 7), (25, 10, 9, 9), (2, 2), True),
        ((5, 10, 14, 14), (10, 1, 1, 1), (2, 2), True),
        ((5, 64, 14, 14), (64, 3, 5, 5), (2, 2), True),
        ((3, 40, 7, 7), (40, 33, 3, 3), (2, 2), True),
    ],
)
def test_sizes_of_the_networks(x_shape: Any, weight_shape: Any, stride: Any, transposed: bool) -> None:
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in (x_shape, weight_shape))
    case = ConvCase(x, weight, stride, "same")
    check, op = (check_conv_transpose2d, ops.conv_transpose2d) if transposed else (check_conv2d, ops.conv2d)
    check(op, case)


@given(conv_cases(dtype="float64"))
def test_the_transposed_convolution_is_the_adjoint(case: ConvCase) -> None:
    """<W x, dy> = <x, W^T dy>, with the output padding that reaches the size of x."""
    y = ops.conv2d(case.x, case.weight, stride=case.stride, padding=case.padding)
    dy = cotangent(y)
    pads = textbook.pads_of(case.padding, case.x.shape[2:], case.weight.shape[2:], case.stride)
    sizes = zip(case.x.shape[2:], y.shape[2:], case.weight.shape[2:], case.stride, pads, strict=True)
    extra = tuple(h - ((oh - 1) * s + k - sum(pad)) for h, oh, k, s, pad in sizes)
    back = ops.conv_transpose2d(dy, case.weight, stride=case.stride, padding=pads, output_padding=extra)
    scale = np.sum(np.abs(case.x) * np.abs(back)) + 1e-300
    assert abs(np.sum(y * dy) - np.sum(case.x * back)) <= 1e-12 * scale


def test_only_what_is_needed_is_computed() -> None:
    case = some_case("float32")
    y = ops.conv2d(case.x, case.weight, stride=case.stride, padding=case.padding)
    options: Any = {"stride": case.stride, "padding": case.padding}
    dx, dweight = ops.conv2d_vjp(y, case.x, case.weight, **options)
    for need_dx in (False, True):
        for need_dweight in (False, True):
            needs = {"need_dx": need_dx, "need_dweight": need_dweight}
            results = ops.conv2d_vjp(y, case.x, case.weight, **options, **needs)
            for result, wanted, needed in zip(results, (dx, dweight), needs.values(), strict=True):
                assert np.array_equal(result, wanted) if needed else result is None


# Sizes and complaints ---------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 11), st.integers(1, 5))
def test_same_is_tensorflows(size: int, kernel: int, stride: int) -> None:
    pads = resolve_pads("same", (size, 9), (kernel, 3), (stride, 1))
    assert pads == (textbook.same_pads(size, kernel, stride), (1, 1))
    assert conv_geometry((size, 9), (kernel, 3), (stride, 1), "same").output == (-(-size // stride), 9)
    transposed = transpose_geometry((size, 9), (kernel, 3), (stride, 1), "same", 0)
    assert transposed.size == (size * stride, 9)
    assert transposed.output == (size, 9)


def test_paddings_in_all_spellings() -> None:
    for padding, pads in (
        ("valid", ((0, 0), (0, 0))),
        (2, ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ((1, (2, 3)), ((1, 1), (2, 3))),
        ([[1, 2], [3, 4]], ((1, 2), (3, 4))),
    ):
        assert resolve_pads(padding, (9, 9), (3, 3), (1, 1)) == pads  # type: ignore[arg-type]


X, W = np.zeros((2, 3, 5, 6)), np.zeros((4, 3, 3, 3))


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        (X[0], W, {}, r"x: expected 4 axes"),
        (X, W[0], {}, r"weight: expected 4 axes"),
        (X.astype(int), W, {}, "x: expected float32 or float64, got int64"),
        (X, W.astype("float32"), {}, "weight: expected dtype float64"),
        (X, W[:, :2], {}, r"x: expected 2 channels .*, got 3"),
        (X[:, :, :0], W, {}, "no empty axis"),
        (X, W[:0], {}, "no empty axis"),
        (X, np.zeros((4, 3, 6, 3)), {"padding": "valid"}, r"kernel \(6, 3\) is larger than the padded input"),
        (X, W, {"stride": 0}, "stride: expected an integer >= 1"),
        (X, W, {"stride": (1, 2, 3)}, "stride: expected"),
        (X, W, {"stride": 1.5}, "stride: expected"),
        (X, W, {"padding": -1}, "padding: expected"),
        (X, W, {"padding": "full"}, "padding: expected"),
        (X, W, {"padding": True}, "padding: expected"),
        (X, W, {"padding": ((1, 2), (3, 4), (5, 6))}, "padding: expected"),
        (X, W, {"padding": ((1, 2), (3, -4))}, "padding: expected"),
    ],
)
def test_conv2d_complaints(x: Any, weight: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ops.conv2d(x, weight, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_padding": 1}, "output_padding: expected 0 with padding"),
        ({"padding": 1, "output_padding": 1}, "output_padding: expected less than the stride"),
        ({"padding": 1, "output_padding": -1}, "output_padding: expected an integer"),
        ({"padding": 4}, "output would have size"),
        ({"padding": 1, "stride": (0, 1)}, "stride: expected"),
    ],
)
def test_conv_transpose2d_complaints(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ops.conv_transpose2d(X, np.zeros((3, 4, 3, 3)), **options)


def test_transposed_weight_and_gradients_must_fit() -> None:
    with pytest.raises(InputError, match="x: expected 4 channels"):
        ops.conv_transpose2d(X, W)
    with pytest.raises(InputError, match="dy: expected shape"):
        ops.conv2d_vjp(X, X, W)
    with pytest.raises(InputError, match="dy: expected shape"):
        ops.conv_transpose2d_vjp(X, X, np.zeros((3, 4, 3, 3)))
