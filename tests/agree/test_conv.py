"""Convolutions and transposed convolutions, and their derivatives, in every precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from malade_gpu.ops import conv, geometry
from malade_gpu.ops.layout import address_of
from malade_gpu.precision import PRECISIONS, precision
from malade_ref.checks import InputError
from malade_ref.ops import geometry as ref_geometry
from tests.marks import slow_but
from tests.strategies import DTYPES, LAYOUTS, ConvCase, conv_cases, with_layout
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, device, gpu, on_device, ref
from .precisions import ALLOWED, set_precision

NEVER = 1 << 30


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


def finished_calls(
    case: ConvCase, activation: str | None, *, transposed: bool
) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any], Any]]:
    """The same with a bias and an activation, and with the input as the output of one."""
    (name, arrays, options, scale), (vjp, (dy, *_), *_) = calls(case, transposed=transposed)
    rng = np.random.default_rng(6)
    bias = rng.standard_normal(scale.shape[1]).astype(scale.dtype)
    size = scale + np.abs(bias)[:, None, None]
    yield name, arrays, {**options, "bias": bias, "activation": activation}, size
    of_vjp = getattr(ref, vjp)(np.abs(dy), *map(np.abs, arrays), **options)
    steepness = 1 if activation != "tanh" else 1 + case.x.astype("float64") ** 2
    yield vjp, (dy, *arrays), {**options, "input_activation": activation}, (of_vjp[0] * steepness, of_vjp[1])


@contextmanager
def narrow(fewest_channels: int, *, num_bytes: int = 48 << 10, block_pixels: int = 1024) -> Iterator[None]:
    """A block in which narrow.cuh serves few channels and pixels, too, or none, and has little memory."""
    with (
        mock.patch.object(conv, "FEWEST_CHANNELS", fewest_channels),
        mock.patch.object(conv, "FEWEST_PIXELS", 1),
        mock.patch.object(conv, "NARROW_BYTES", num_bytes),
        mock.patch.object(conv, "BLOCK_PIXELS", block_pixels),
    ):
        yield


def some_case(dtype: str, *, transposed: bool = False) -> ConvCase:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 6, 7)).astype(dtype)
    weight = rng.standard_normal((3, 2, 4, 3) if transposed else (2, 3, 4, 3)).astype(dtype)
    return ConvCase(x, weight, (2, 1), ((2, 0), (0, 1)), (1, 0) if transposed else (0, 0))


@given(conv_cases())
def test_conv2d(case: ConvCase) -> None:
    for name, arrays, options, scale in calls(case, transposed=False):
        agree(name, *arrays, **options, scale=scale)


@given(conv_cases(transposed=True))
def test_conv_transpose2d(case: ConvCase) -> None:
    for name, arrays, options, scale in calls(case, transposed=True):
        agree(name, *arrays, **options, scale=scale)


ACTIVATIONS = st.sampled_from([None, "relu", "tanh"])


@hypothesis_settings(max_examples=25)
@given(st.booleans(), ACTIVATIONS, st.data())
def test_bias_and_activation(transposed: bool, activation: str | None, data: st.DataObject) -> None:
    case = data.draw(conv_cases(transposed=transposed))
    for name, arrays, options, scale in finished_calls(case, activation, transposed=transposed):
        agree(name, *arrays, **options, scale=scale)


@hypothesis_settings(max_examples=25)
@given(st.booleans(), ACTIVATIONS, st.integers(2, 9), st.sampled_from([20, 1024]), st.data())
def test_narrow(
    transposed: bool, activation: str | None, most_rows: int, block_pixels: int, data: st.DataObject
) -> None:
    """Windows of few taps; as many rows at a time as fit into the memory; images in one block, and in several."""
    case = data.draw(conv_cases(transposed=transposed))
    num_taps, width = case.weight[0].size, case.x.shape[3]
    assume(num_taps <= conv.MOST_TAPS)
    num_bytes = num_taps * case.x.itemsize * (128 + most_rows * width)
    with narrow(1, num_bytes=num_bytes, block_pixels=block_pixels):
        for name, arrays, options, scale in finished_calls(case, activation, transposed=transposed):
            agree(name, *arrays, **options, scale=scale)


# Channels for one part of narrow.cuh, for several, in fours, and not; windows of one and of most taps.
NARROW = [
    ((2, 1, 9, 11), (20, 1, 3, 3), (1, 1), 1 << 14),
    ((2, 3, 7, 6), (130, 3, 3, 3), (1, 1), 48 << 10),
    ((2, 3, 12, 10), (132, 3, 3, 3), (2, 1), 28 << 10),
    ((3, 2, 9, 8), (33, 2, 1, 1), (2, 3), 48 << 10),
    ((1, 1, 20, 5), (8, 1, 6, 5), (2, 2), 18 << 10),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("x_shape", "weight_shape", "stride", "num_bytes"), NARROW)
def test_sizes_of_narrow(x_shape: Any, weight_shape: Any, stride: Any, num_bytes: int, dtype: str) -> None:
    """As the reference, as conv.cuh; each image as if alone, and in one block as in several."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, weight_shape))
    dy = np.abs(ref.conv2d(x, weight, stride=stride))
    options: dict[str, Any] = {"stride": stride, "need_dweight": False, "input_activation": "relu"}
    scale = ref.conv2d_vjp(dy, np.abs(x), np.abs(weight), stride=stride)
    geometry = conv._conv_geometry(x, weight, stride, "same")
    with narrow(8, num_bytes=num_bytes):
        assert conv._bands(weight, geometry) is not None
        dx, _ = agree("conv2d_vjp", dy, x, weight, **options, scale=scale)
        alone, _ = on_device(gpu.conv2d_vjp)(dy[-1:], x[-1:], weight, **options)
    np.testing.assert_array_equal(alone, dx[-1:])
    with narrow(8, num_bytes=num_bytes, block_pixels=30):
        in_blocks, _ = on_device(gpu.conv2d_vjp)(dy, x, weight, **options)
    np.testing.assert_array_equal(in_blocks, dx)
    with narrow(NEVER), set_precision("fp32"):
        assert conv._bands(weight, geometry) is None
        other, _ = on_device(gpu.conv2d_vjp)(dy, x, weight, **options)
    np.testing.assert_allclose(other, dx, rtol=0, atol=1e-5 * float(scale[0].max()))


def test_which_windows_are_narrow() -> None:
    """The first layers of classifiers, and not what has many taps, few channels or pixels, or long rows."""

    def is_narrow(c: int, o: int, kernel: int, size: int = 28) -> bool:
        x, weight = np.zeros((1, c, size, size), "float32"), np.zeros((o, c, kernel, kernel), "float32")
        return conv._bands(weight, conv._conv_geometry(x, weight, 1, "same")) is not None

    assert is_narrow(1, 128, 3)
    assert is_narrow(3, 64, 3, 32)
    assert not is_narrow(3, 64, 3, 224)
    assert is_narrow(1, 16, 3, 224)
    assert not is_narrow(4, 128, 3)
    assert not is_narrow(128, 64, 5)
    assert not is_narrow(1, 4, 3)
    assert not is_narrow(1, 128, 3, 7)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("fewest_channels", [1, NEVER])
def test_planted_errors_in_the_finish_are_caught(dtype: str, activation: str, fewest_channels: int) -> None:
    case = some_case(dtype)
    case = case._replace(weight=case.weight[:, :, :, :2])
    with narrow(fewest_channels):
        for name, arrays, options, scale in finished_calls(case, activation, transposed=False):
            assert_planted_caught(
                lambda f, name=name, arrays=arrays, options=options, scale=scale: agree(
                    name, *arrays, **options, scale=scale, op=f
                ),
                getattr(gpu, name),
            )


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


@pytest.mark.parametrize("size", slow_but(SIZES[:1], SIZES))
@pytest.mark.parametrize("name", slow_but(("fp32", "tf32"), PRECISIONS))
def test_sizes_and_precisions(name: str, size: Any) -> None:
    x_shape, weight_shape, stride, transposed = size
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in (x_shape, weight_shape))
    with set_precision(name), narrow(NEVER):
        for op, arrays, options, scale in calls(ConvCase(x, weight, stride, "same"), transposed=transposed):
            if name == "fp32":
                agree(op, *arrays, **options, scale=scale)
                continue
            results, expected = on_device(getattr(gpu, op))(*arrays, **options), getattr(ref, op)(*arrays, **options)
            triples = (
                zip(results, expected, scale, strict=True) if op.endswith("_vjp") else [(results, expected, scale)]
            )
            for result, wanted, size in triples:
                error = float((np.abs(result - wanted) / (size + 1e-30)).max())
                assert error <= ALLOWED[name]
                if name in ("tf32", "bf16"):  # else tensor cores were not asked
                    assert error > 1e-2 * ALLOWED[name] or wanted.size < 100


@pytest.mark.slow
@pytest.mark.parametrize("name", PRECISIONS)
def test_wide_finish(name: str) -> None:
    """More columns than a block has, in every precision."""
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(shape).astype("float32") for shape in ((2, 16, 5, 4), (65, 16, 3, 3), (65,)))
    size = ref.conv2d(np.abs(x), np.abs(weight)) + np.abs(bias)[:, None, None]
    dy = size / size.max()
    of_x, _ = ref.conv2d_vjp(dy, np.abs(x), np.abs(weight), need_dweight=False)
    for activation in ("relu", "tanh"):
        finish = {"bias": bias, "activation": activation}
        back = {"need_dweight": False, "input_activation": activation}
        with set_precision(name):
            y = on_device(gpu.conv2d)(x, weight, **finish)
            dx, _ = on_device(gpu.conv2d_vjp)(dy, x, weight, **back)
        assert (np.abs(y - ref.conv2d(x, weight, **finish)) / size).max() <= ALLOWED[name]
        error = np.abs(dx - ref.conv2d_vjp(dy, x, weight, **back)[0])
        assert (error / (of_x * (1 + x * x))).max() <= ALLOWED[name]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "allowed"), {"fp32": 2e-6, "tf32x3": 2e-6, "tf32": 5e-5, "bf16": 1e-4}.items())
def test_long_sums_of_one_sign(name: str, allowed: float) -> None:
    """As in the paper's classifier, after a rectifier: what is cut off instead of rounded adds up."""
    rng = np.random.default_rng(0)
    x, weight = (rng.random(shape, dtype="float32") for shape in ((1, 128, 6, 5), (3, 128, 5, 5)))
    with set_precision(name):
        y = on_device(gpu.conv2d)(x, weight, padding="valid")
    expected = ref.conv2d(x.astype("float64"), weight.astype("float64"), padding="valid")
    assert np.abs(y / expected - 1).max() <= allowed


@pytest.mark.slow
@pytest.mark.parametrize("name", PRECISIONS)
def test_not_a_number_stays_in_its_windows(name: str) -> None:
    """A kernel's last step has fewer terms than a buffer holds: what fills it up is not taken from the image.

    Those of CPUs and of GPUs, and their negatives: rounding must not carry one into the sign.
    """
    kinds = np.array([0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF], "uint32").view("float32")
    x = np.random.default_rng(0).random((4, 1, 9, 8), dtype="float32")
    x[:, 0, 6, 4] = kinds
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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_planted_errors_are_caught(dtype: str, transposed: bool) -> None:
    for name, arrays, options, scale in calls(some_case(dtype, transposed=transposed), transposed=transposed):
        assert_planted_caught(
            lambda f, name=name, arrays=arrays, options=options, scale=scale: agree(
                name, *arrays, **options, scale=scale, op=f
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


def test_complaints_about_the_finish() -> None:
    back = W.transpose(1, 0, 2, 3)
    for finish in ({"bias": np.zeros(3)}, {"bias": np.zeros(4, "float32")}, {"activation": "elu"}):
        complain_alike("conv2d", X, W, **finish)
        complain_alike("conv_transpose2d", X, back, **finish)
    dy = np.zeros((2, 4, 5, 5))
    complain_alike("conv2d_vjp", dy, X, W, input_activation="elu")
    complain_alike("conv_transpose2d_vjp", dy, X, back, input_activation="")


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
