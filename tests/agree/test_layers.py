"""Layers between the convolutions, and their derivatives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_gpu.ops import layers
from malade_gpu.precision import PRECISIONS
from tests.strategies import DTYPES, floats_of_shape, images_nchw, matrices_nd
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu, on_device, ref, to_device
from .precisions import ALLOWED, set_precision


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def products(x: Any, y: Any) -> Any:
    """What rounding in x y is relative to."""
    return np.abs(x.astype("float64")) @ np.abs(y.astype("float64"))


# Every tile, and numbers one by one or in fours, are a kernel of their own, to be compiled: few sizes here.
@given(matrices_nd(max_d=3), st.sampled_from([1, 3, 9]), st.booleans(), st.data())
def test_linear(x: Any, k: int, needed: bool, data: st.DataObject) -> None:
    weight = data.draw(floats_of_shape((k, x.shape[1]), dtype=str(x.dtype)))
    dy = data.draw(floats_of_shape((len(x), k), dtype=str(x.dtype)))
    agree("linear", x, weight, scale=products(x, weight.T))
    scales = products(dy, weight), products(dy.T, x)
    agree("linear_vjp", dy, x, weight, need_dx=needed, scale=scales)
    agree("linear_vjp", dy, x, weight, need_dweight=needed, scale=scales)
    bias = data.draw(floats_of_shape((k,), dtype=str(x.dtype)))
    activation = data.draw(st.sampled_from([None, "relu", "tanh"]))
    agree("linear", x, weight, bias=bias, activation=activation, scale=products(x, weight.T) + np.abs(bias))
    scales = scales[0] * (1 + x.astype("float64") ** 2), scales[1]
    agree("linear_vjp", dy, x, weight, input_activation=activation, scale=scales)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize(("n", "d", "k"), [(130, 7, 10), (3, 20, 72), (1100, 2, 5), (2, 3001, 10)])
def test_linear_in_every_precision(n: int, d: int, k: int, name: str) -> None:
    """Numbers one by one and in fours; several blocks of samples and of outputs; several parts of a sum; a long sum."""
    generator = rng()
    x, weight, dy = (generator.standard_normal(shape).astype("float32") for shape in ((n, d), (k, d), (n, k)))
    with set_precision(name):
        results = [on_device(gpu.linear)(x, weight), *on_device(gpu.linear_vjp)(dy, x, weight)]
        one = n - 1
        part = on_device(gpu.linear)(x[one:], weight), on_device(gpu.linear_vjp)(dy[one:], x[one:], weight)[0]
    expected = [ref.linear(x, weight), *ref.linear_vjp(dy, x, weight)]
    scales = products(x, weight.T), products(dy, weight), products(dy.T, x)
    for result, wanted, scale in zip(results, expected, scales, strict=True):
        error = float((np.abs(result - wanted) / scale).max())
        assert error <= ALLOWED[name]
        if name in ("tf32", "bf16"):  # else tensor cores were not asked
            assert error > 1e-3 * ALLOWED[name]
    for alone, together in zip(part, results, strict=False):
        np.testing.assert_array_equal(alone, together[one:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", [((3, 0), (2, 0)), ((3, 2), (0, 2)), ((0, 2), (3, 2))])
def test_linear_of_nothing(dtype: str, shapes: Any) -> None:
    x, weight = (np.ones(shape, dtype) for shape in shapes)
    agree("linear", x, weight, exact=True)
    agree("linear", x, weight, bias=np.linspace(-1, 1, len(weight), dtype=dtype), activation="relu", exact=True)
    agree("linear_vjp", np.ones((len(x), len(weight)), dtype), x, weight, exact=True)


@given(images_nchw() | matrices_nd(), st.data())
def test_add_bias(x: Any, data: st.DataObject) -> None:
    bias = data.draw(floats_of_shape(x.shape[1:2], dtype=str(x.dtype)))
    agree("add_bias", x, bias, exact=True)
    agree("add_bias_vjp", x, scale=np.abs(x).sum(axis=(0, *range(2, x.ndim)), dtype="float64"))


@given(images_nchw() | matrices_nd(), st.data())
def test_activations(x: Any, data: st.DataObject) -> None:
    x = 2 * x - x.dtype.type(0.75)
    dy = data.draw(floats_of_shape(x.shape, dtype=str(x.dtype)))
    agree("relu", x, exact=True)
    agree("relu_vjp", dy, ref.relu(x), exact=True)
    agree("tanh", x, scale=1)
    agree("tanh_vjp", dy, ref.tanh(x), scale=np.abs(dy))


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_at_the_edges(dtype: str) -> None:
    x = np.array([-np.inf, -1e30, -1e-30, -0.0, 0.0, 1e30, np.inf, np.nan], dtype=dtype)
    for op in ("relu", "tanh"):
        agree(op, x)
    for slope in (1.0, 0.0, np.inf, np.nan):
        with np.errstate(invalid="ignore"):
            agree("relu_vjp", np.full_like(x, slope), x, exact=True)


def norm_parameters(channels: int, dtype: str) -> list[Any]:
    """Gain, bias, mean, variance."""
    gain, bias, mean = rng().standard_normal((3, channels))
    return [values.astype(dtype) for values in (gain, bias, mean, 0.1 + rng().random(channels))]


def norm_scale(x: Any, gain: Any, bias: Any, mean: Any, variance: Any, epsilon: float) -> Any:
    """The magnitude of what is added up in the normalisation, by channel."""
    largest = np.abs(x).max(axis=(0, *range(2, x.ndim)), initial=0)
    sizes = np.abs(gain / np.sqrt(variance + epsilon)) * (largest + np.abs(mean)) + np.abs(bias)
    return sizes.reshape(-1, *[1] * (x.ndim - 2))


def check_batch_norm(x: Any, gain: Any, bias: Any, epsilon: float, op: Any = None) -> None:
    largest = np.abs(x).max(axis=(0, *range(2, x.ndim))).astype("float64")
    _, mean, variance = ref.batch_norm(x, gain, bias, epsilon=epsilon)
    # An error of the variance, relative to its scale, is divided by the variance.
    inverse = 1 / (variance + epsilon)
    amplified = (1 + largest**2 * inverse).reshape(-1, *[1] * (x.ndim - 2))
    scale = norm_scale(x, gain, bias, mean, variance, epsilon) * amplified
    agree("batch_norm", x, gain, bias, epsilon=epsilon, scale=(scale, largest, largest**2), op=op)


def check_batch_norm_vjp(dy: Any, x: Any, gain: Any, epsilon: float, op: Any = None) -> None:
    axes = (0, *range(2, x.ndim))
    mean, variance = x.mean(axis=axes), x.var(axis=axes)
    inverse = 1 / np.sqrt(variance + epsilon)
    size = (1 + np.abs(x).max(axis=axes) * inverse).astype("float64")
    scale = np.abs(dy).max(axis=axes) * np.abs(gain) * inverse * size**2
    sums = np.abs(dy).sum(axis=axes) * size
    scales = scale.reshape(-1, *[1] * (x.ndim - 2)), sums, sums
    agree("batch_norm_vjp", dy, x, gain, mean, variance, epsilon=epsilon, scale=scales, op=op)


@given(images_nchw() | matrices_nd(), st.sampled_from([1e-5, 1e-3, 0.5]), st.data())
def test_batch_norm(x: Any, epsilon: float, data: st.DataObject) -> None:
    parameters = norm_parameters(x.shape[1], str(x.dtype))
    dy = data.draw(floats_of_shape(x.shape, dtype=str(x.dtype)))
    scale = norm_scale(x, *parameters, epsilon)
    agree("batch_norm_inference", x, *parameters, epsilon=epsilon, scale=scale)
    agree("batch_norm_inference_vjp", dy, parameters[0], parameters[3], epsilon=epsilon)
    if len(x) == 0:
        complain_alike("batch_norm", x, *parameters[:2])
        return
    check_batch_norm(x, *parameters[:2], epsilon)
    check_batch_norm_vjp(dy, x, parameters[0], epsilon)


@st.composite
def pool_cases(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    x = draw(images_nchw())
    size = draw(st.integers(1, x.shape[2])), draw(st.integers(1, x.shape[3]))
    shape = (*x.shape[:2], x.shape[2] // size[0], x.shape[3] // size[1])
    return x, draw(floats_of_shape(shape, dtype=str(x.dtype))), size


@pytest.mark.slow
@given(pool_cases())
def test_avg_pool2d(case: Any) -> None:
    x, dy, size = case
    agree("avg_pool2d", x, size=size)
    agree("avg_pool2d_vjp", dy, x.shape, size=size, exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["contiguous", "channels last"])
def test_sums_of_several_chunks(dtype: str, order: str) -> None:
    count = 2 * layers.CHUNK + 77
    x = rng().standard_normal((1, 2, count, 1)).astype(dtype)
    if order == "channels last":
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    parameters = norm_parameters(2, dtype)
    exact = np.array([math.fsum(x[0, c, :, 0].astype("float64")) for c in range(2)])
    np.testing.assert_allclose(on_device(gpu.add_bias_vjp)(x), exact, rtol=2 * np.finfo(dtype).eps + 1e-14)
    check_batch_norm(x, *parameters[:2], 1e-5)
    check_batch_norm_vjp(x, x, parameters[0], 1e-5)


@pytest.mark.slow
def test_the_memory_order_of_the_input_is_kept() -> None:
    x = to_device(np.ascontiguousarray(rng().random((2, 4, 5, 3))).transpose(0, 3, 1, 2))
    parameters = [to_device(array) for array in norm_parameters(3, "float64")]
    strides = gpu.relu(x).strides
    for result in (
        gpu.add_bias(x, parameters[0]),
        gpu.tanh(x),
        gpu.tanh_vjp(x, x),
        gpu.batch_norm_inference(x, *parameters),
        gpu.avg_pool2d(x, size=1),
    ):
        assert result.strides == strides


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    x, dy = rng().standard_normal((2, 2, 3, 4, 6)).astype(dtype)
    features, slopes, weight = (rng().standard_normal(s).astype(dtype) for s in ((4, 6), (4, 5), (5, 6)))
    gain, bias, mean, variance = norm_parameters(3, dtype)
    cases: dict[str, tuple[Any, ...]] = {
        "linear": (features, weight, {}),
        "linear_vjp": (slopes, features, weight, {}),
        "add_bias": (x, bias, {}),
        "add_bias_vjp": (dy, {}),
        "relu": (x, {}),
        "relu_vjp": (dy, ref.relu(x), {}),
        "tanh": (x, {}),
        "tanh_vjp": (dy, ref.tanh(x), {}),
        "batch_norm_inference": (x, gain, bias, mean, variance, {}),
        "batch_norm_inference_vjp": (dy, gain, variance, {}),
        "avg_pool2d": (x, {"size": (2, 3)}),
        "avg_pool2d_vjp": (dy, (2, 3, 9, 13), {"size": (2, 2)}),
    }
    for name, (*arrays, settings) in cases.items():
        assert_planted_caught(
            lambda f, name=name, arrays=arrays, settings=settings: agree(name, *arrays, **settings, op=f),
            getattr(gpu, name),
        )
    assert_planted_caught(lambda f: check_batch_norm(x, gain, bias, 1e-5, f), gpu.batch_norm)
    assert_planted_caught(lambda f: check_batch_norm_vjp(dy, x, gain, 1e-5, f), gpu.batch_norm_vjp)


X = np.ones((2, 3, 4, 5))
C = np.ones(3)


def test_complaints() -> None:
    x = X[0, 0]
    for pair in ((X, C), (x, C), (x, x.astype("float32")), (x.astype(int), x.astype(int)), (x, X[0, :, 0, :4])):
        complain_alike("linear", *pair)
    complain_alike("linear_vjp", x, x, x)
    for finish in ({"bias": x[0]}, {"bias": C.astype("float16")}, {"activation": "elu"}):
        complain_alike("linear", x[:3], x[:3], **finish)
    for empty in (x, x[:, :0]):
        complain_alike("linear_vjp", empty @ empty.T, empty, empty, input_activation="elu")
    for pair in ((X, C[:2]), (C, C), (X, C.astype("float32")), (X.astype(int), C)):
        complain_alike("add_bias", *pair)
    for name in ("relu_vjp", "tanh_vjp"):
        complain_alike(name, X, C)
        complain_alike(name, X, X.astype("float32"))
    complain_alike("batch_norm", X, C[:2], C)
    complain_alike("batch_norm", X, C, C[:2])
    complain_alike("batch_norm", X.astype(int), C, C)
    complain_alike("batch_norm", X[:, :0], C[:0], C[:0])
    for epsilon in (0, -1.0, float("nan"), "small"):
        complain_alike("batch_norm", X, C, C, epsilon=epsilon)
        complain_alike("batch_norm_inference", X, C, C, C, C, epsilon=epsilon)
    complain_alike("batch_norm_vjp", X[0], X, C, C, C)
    complain_alike("batch_norm_inference", X, C, C, C, C[:1])
    for size in (5, 0, -1, 1.5, True, (1, 2, 3), (4, 6), 1 << 17):
        complain_alike("avg_pool2d", X, size=size)
        complain_alike("avg_pool2d_vjp", X, X.shape, size=size)
    complain_alike("avg_pool2d", X[0], size=1)
    complain_alike("avg_pool2d", X.astype(int), size=1)
    complain_alike("avg_pool2d_vjp", X, X.shape, size=2)
    complain_alike("avg_pool2d_vjp", X, (2, 3, 4), size=2)
