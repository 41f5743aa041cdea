"""Convolutions and transposed convolutions, and their derivatives, in every precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_gpu.ops import conv, geometry
from malade_gpu.ops.layout import address_of
from malade_gpu.precision import PRECISIONS, precision
from malade_ref.checks import InputError
from malade_ref.ops import geometry as ref_geometry
from tests.strategies import DTYPES, LAYOUTS, ConvCase, conv_cases, with_layout
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, device, gpu, on_device, ref

# Errors relative to the sum of the terms' magnitudes that a precision is allowed.
ALLOWED = {"tf32x3": 1e-5, "tf32": 1e-3, "bf16": 2e-2}


@contextmanager
def set_precision(name: str) -> Iterator[None]:
    if name != "fp32" and device().capability < 80:
        pytest.skip("tensor cores of this kind exist from compute capability 8.0 on")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALADE_GPU_PRECISION", name)
        yield


def settings_of(case: ConvCase, *, transposed: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {"stride": case.stride, "padding": case.padding}
    return {**settings, "output_padding": case.output_padding} if transposed else settings


def calls(case: ConvCase, *, transposed: bool) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any], Any]]:
    """The op and its derivative: name, arguments, settings, and what rounding is relative to."""
    name, settings = "conv_transpose2d" if transposed else "conv2d", settings_of(case, transposed=transposed)
    sizes = np.abs(case.x), np.abs(case.weight)
    scale = getattr(ref, name)(*sizes, **settings)
    yield name, (case.x, case.weight), settings, scale
    dy = np.random.default_rng(5).standard_normal(scale.shape).astype(scale.dtype)
    dy = with_layout(dy, LAYOUTS[case.x.size % len(LAYOUTS)])
    scales = getattr(ref, f"{name}_vjp")(np.abs(dy), *sizes, **settings)
    yield f"{name}_vjp", (dy, case.x, case.weight), settings, scales


def some_case(dtype: str, *, transposed: bool = False) -> ConvCase:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 6, 7)).astype(dtype)
    weight = rng.standard_normal((3, 2, 4, 3) if transposed else (2, 3, 4, 3)).astype(dtype)
    return ConvCase(x, weight, (2, 1), ((2, 0), (0, 1)), (1, 0) if transposed else (0, 0))


@given(conv_cases())
def test_conv2d(case: ConvCase) -> None:
    for name, arrays, settings, scale in calls(case, transposed=False):
        agree(name, *arrays, **settings, scale=scale)


@given(conv_cases(transposed=True))
def test_conv_transpose2d(case: ConvCase) -> None:
    for name, arrays, settings, scale in calls(case, transposed=True):
        agree(name, *arrays, **settings, scale=scale)


# Kinds of sizes: results that fill no tile, one and several; kernels without and with a last incomplete step of terms.
SIZES = [
    ((3, 1, 28, 28), (10, 1, 5, 5), (2, 2), False),
    ((2, 10, 14, 14), (25, 10, 5, 5), (2, 2), False),
    ((2, 25, 7, 7), (25, 10, 9, 9), (2, 2), True),
    ((3, 10, 14, 14), (10, 1, 1, 1), (2, 2), True),
    ((2, 1, 28, 28), (1, 1, 5, 5), (1, 1), False),
    ((1, 16, 6, 6), (65, 16, 3, 3), (1, 1), False),
    ((2, 70, 5, 4), (70, 3, 2, 3), (3, 2), True),
    ((2, 32, 9, 7), (64, 32, 3, 2), (2, 1), False),  # four numbers a copy, channels 16 by 16
    ((1, 20, 5, 6), (20, 72, 2, 3), (1, 2), True),  # four numbers a copy, channels in one go
    ((3, 2, 40, 40), (5, 2, 3, 3), (1, 1), False),  # more pixels than one part of the sum over pixels
]


@pytest.mark.parametrize(("x_shape", "weight_shape", "stride", "transposed"), SIZES)
@pytest.mark.parametrize("name", PRECISIONS)
def test_sizes_and_precisions(name: str, x_shape: Any, weight_shape: Any, stride: Any, transposed: bool) -> None:
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in (x_shape, weight_shape))
    with set_precision(name):
        for op, arrays, settings, scale in calls(ConvCase(x, weight, stride, "same"), transposed=transposed):
            if name == "fp32":
                agree(op, *arrays, **settings, scale=scale)
                continue
            results, expected = on_device(getattr(gpu, op))(*arrays, **settings), getattr(ref, op)(*arrays, **settings)
            triples = (
                zip(results, expected, scale, strict=True) if op.endswith("_vjp") else [(results, expected, scale)]
            )
            for result, wanted, size in triples:
                error = float((np.abs(result - wanted) / (size + 1e-30)).max())
                assert error <= ALLOWED[name]
                if name in ("tf32", "bf16"):  # else tensor cores were not asked
                    assert error > 1e-2 * ALLOWED[name] or wanted.size < 100


@pytest.mark.parametrize(("name", "allowed"), {"fp32": 2e-6, "tf32x3": 2e-6, "tf32": 5e-5, "bf16": 1e-4}.items())
def test_long_sums_of_one_sign(name: str, allowed: float) -> None:
    """As in the paper's classifier, after a rectifier: what is cut off instead of rounded adds up."""
    rng = np.random.default_rng(0)
    x, weight = (rng.random(shape, dtype="float32") for shape in ((1, 128, 6, 5), (3, 128, 5, 5)))
    with set_precision(name):
        y = on_device(gpu.conv2d)(x, weight, padding="valid")
    expected = ref.conv2d(x.astype("float64"), weight.astype("float64"), padding="valid")
    assert np.abs(y / expected - 1).max() <= allowed


@pytest.mark.parametrize("name", PRECISIONS)
def test_not_a_number_stays_in_its_windows(name: str) -> None:
    """A kernel's last step has fewer terms than a buffer holds: what fills it up is not taken from the image."""
    x = np.random.default_rng(0).random((1, 1, 9, 8), dtype="float32")
    x[0, 0, 6, 4] = np.nan
    weight = np.ones((2, 1, 3, 3), "float32")
    seen = ref.conv2d(np.isnan(x).astype("float32"), weight, padding="valid") > 0
    with set_precision(name):
        np.testing.assert_array_equal(np.isnan(on_device(gpu.conv2d)(x, weight, padding="valid")), seen)


@pytest.mark.parametrize("name", PRECISIONS)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in ((5, 3, 9, 8), (6, 3, 3, 3)))
    back = weight.transpose(1, 0, 2, 3)
    with set_precision(name):
        for op, w in ((gpu.conv2d, weight), (gpu.conv_transpose2d, back)):
            together = on_device(op)(x, w, stride=2)
            np.testing.assert_array_equal(on_device(op)(x[3:4], w, stride=2), together[3:4])


def test_float64_is_not_rounded_by_tensor_cores() -> None:
    case = some_case("float64")
    with set_precision("bf16"):
        agree("conv2d", case.x, case.weight, stride=case.stride, padding=case.padding)


def test_results_are_channels_last_and_need_no_copies() -> None:
    case = some_case("float32")
    y = gpu.conv2d(*map(gpu.asarray, case[:2]), stride=1)
    assert conv.channels_last(y).base is not None
    dx, none = gpu.conv2d_vjp(y, *map(gpu.asarray, case[:2]), stride=1, need_dweight=False)
    assert conv.channels_last(dx).base is not None
    assert none is None
    assert gpu.conv2d_vjp(y, *map(gpu.asarray, case[:2]), stride=1, need_dx=False)[0] is None


def test_copies_of_four_numbers_are_aligned() -> None:
    numbers = gpu.asarray(np.zeros(68, "float32"))
    first = next(i for i in range(4) if address_of(numbers[i:]) % 16 == 0)
    aligned, shifted = (numbers[i : i + 64].reshape(1, 2, 4, 8) for i in (first, (first + 1) % 4))
    assert conv._vector(aligned) == 4
    assert conv._vector(shifted) == 1
    assert conv._vector(aligned.reshape(-1, 2)) == 1
    assert conv._vector(gpu.asarray(np.zeros((1, 2, 4, 8)))) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_planted_errors_are_caught(dtype: str, transposed: bool) -> None:
    for name, arrays, settings, scale in calls(some_case(dtype, transposed=transposed), transposed=transposed):
        assert_planted_caught(
            lambda f, name=name, arrays=arrays, settings=settings, scale=scale: agree(
                name, *arrays, **settings, scale=scale, op=f
            ),
            getattr(gpu, name),
        )


def test_precision_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALADE_GPU_PRECISION", raising=False)
    for emulated, capability, default in ((True, 90, "fp32"), (False, 75, "fp32"), (False, 80, "tf32x3")):
        monkeypatch.setattr(device(), "emulated", emulated)
        monkeypatch.setattr(device(), "capability", capability)
        assert precision() == default
    monkeypatch.setenv("MALADE_GPU_PRECISION", "half")
    with pytest.raises(InputError, match=r"^MALADE_GPU_PRECISION: expected one of fp32, .*; got 'half'$"):
        precision()
    monkeypatch.setattr(device(), "capability", 75)
    monkeypatch.setenv("MALADE_GPU_PRECISION", "tf32")
    with pytest.raises(InputError, match=r"^MALADE_GPU_PRECISION: tf32 needs compute capability 8.0, .* use fp32$"):
        precision()


# The integers -----------------------------------------------------------------------------------------------

SETTINGS = st.sampled_from(
    [
        "same",
        "valid",
        "SAME",
        None,
        0,
        3,
        -1,
        1.5,
        True,
        (1, 2),
        [1, 2],
        ((1, 0), (2, 3)),
        ((1,), 2),
        (1, 2, 3),
        1 << 17,
    ]
)
PAIRS = st.tuples(st.integers(1, 6), st.integers(1, 6))


@given(PAIRS, PAIRS, SETTINGS, SETTINGS, SETTINGS)
def test_geometry(size: Any, kernel: Any, stride: Any, padding: Any, output_padding: Any) -> None:
    def result(module: Any, name: str, *settings: Any) -> Any:
        try:
            return getattr(module, name)(size, kernel, *settings)
        except InputError as error:
            return str(error)

    for name, settings in (
        ("conv_geometry", (stride, padding)),
        ("conv_geometry", (2, padding)),
        ("transpose_geometry", (stride, padding, output_padding)),
        ("transpose_geometry", (3, padding, 0)),
    ):
        assert result(geometry, name, *settings) == result(ref_geometry, name, *settings)


X, W = np.zeros((2, 3, 5, 5)), np.zeros((4, 3, 3, 3))


def test_complaints() -> None:
    for arrays in (
        (X[0], W),
        (X, W[0]),
        (X.astype(int), W.astype(int)),
        (X, W.astype("float32")),
        (X, W[:, :2]),
        (X, W[:, :, :0]),
        (X[:, :, :0], W),
        (X, np.zeros((4, 3, 6, 6))),
    ):
        complain_alike("conv2d", *arrays, padding="valid")
        complain_alike("conv_transpose2d", *arrays)
    for settings in ({"stride": 0}, {"stride": (1, 2, 3)}, {"padding": "full"}, {"padding": -1}):
        complain_alike("conv2d", X, W, **settings)
        complain_alike("conv_transpose2d", X, W.transpose(1, 0, 2, 3), **settings)
    for settings in ({"output_padding": 1}, {"padding": 1, "output_padding": 1}, {"padding": 4}):
        complain_alike("conv_transpose2d", X, W.transpose(1, 0, 2, 3), **settings)
    complain_alike("conv2d_vjp", X, X, W)
    complain_alike("conv_transpose2d_vjp", X, X, W.transpose(1, 0, 2, 3))
