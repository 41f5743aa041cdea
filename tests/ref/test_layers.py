"""Linear, bias, relu, tanh, batch normalisation and pooling against their definitions, and their derivatives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from tests.strategies import DTYPES, floats_of_shape, images_nchw, matrices_nd
from tests.tolerances import (
    assert_close,
    assert_no_alias,
    assert_not_mutated,
    assert_planted_caught,
    directional_check,
)


def double(x: Any) -> Any:
    return np.asarray(x, dtype="float64")


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


# Linear -----------------------------------------------------------------------------------------------------


def products(x: Any, y: Any) -> tuple[Any, Any]:
    """Sums over d of x[i, d] y[j, d], and the same of the magnitudes."""
    terms = double(x)[:, None, :] * double(y)[None, :, :]
    return terms.sum(axis=2), np.abs(terms).sum(axis=2)


def check_linear(linear: Any, x: Any, weight: Any) -> None:
    with assert_not_mutated(x, weight):
        y = linear(x, weight)
    assert_no_alias(y, x, weight)
    expected, scale = products(x, weight)
    assert_close(y, expected, op="linear", dtype=str(x.dtype), scale=scale)


def check_linear_vjp(linear_vjp: Any, dy: Any, x: Any, weight: Any) -> None:
    with assert_not_mutated(dy, x, weight):
        dx, dweight = linear_vjp(dy, x, weight)
    for result, (expected, scale) in ((dx, products(dy, weight.T)), (dweight, products(dy.T, x.T))):
        assert_no_alias(result, dy, x, weight)
        assert_close(result, expected, op="linear_vjp", dtype=str(x.dtype), scale=scale)


@given(matrices_nd(), st.integers(1, 9), st.data())
def test_linear(x: Any, k: int, data: st.DataObject) -> None:
    weight = data.draw(floats_of_shape((k, x.shape[1]), dtype=str(x.dtype)))
    dy = data.draw(floats_of_shape((len(x), k), dtype=str(x.dtype)))
    check_linear(ops.linear, x, weight)
    check_linear_vjp(ops.linear_vjp, dy, x, weight)


@given(matrices_nd(dtype="float64"), st.integers(1, 9), st.data())
def test_linear_finite_differences(x: Any, k: int, data: st.DataObject) -> None:
    directional_check(ops.linear, ops.linear_vjp, [x, data.draw(floats_of_shape((k, x.shape[1]), dtype="float64"))])


def test_linear_computes_only_what_is_needed() -> None:
    x, weight, dy = np.ones((2, 3)), np.ones((4, 3)), np.ones((2, 4))
    assert ops.linear_vjp(dy, x, weight, need_dx=False)[0] is None
    assert ops.linear_vjp(dy, x, weight, need_dweight=False)[1] is None


# Bias -------------------------------------------------------------------------------------------------------


def check_add_bias(add_bias: Any, x: Any, bias: Any) -> None:
    with assert_not_mutated(x, bias):
        y = add_bias(x, bias)
    assert_no_alias(y, x, bias)
    expected = double(x).copy()
    for c in range(x.shape[1]):
        expected[:, c] += double(bias)[c]
    assert_close(y, expected, op="add_bias", dtype=str(x.dtype))


def check_add_bias_vjp(add_bias_vjp: Any, dy: Any) -> None:
    with assert_not_mutated(dy):
        dbias = add_bias_vjp(dy)
    assert_no_alias(dbias, dy)
    channels = [double(dy[:, c]) for c in range(dy.shape[1])]
    expected = np.array([math.fsum(channel.ravel()) for channel in channels])
    scale = np.array([np.abs(channel).sum() for channel in channels])
    assert_close(dbias, expected, op="add_bias_vjp", dtype=str(dy.dtype), scale=scale)


@given(images_nchw() | matrices_nd(), st.data())
def test_add_bias(x: Any, data: st.DataObject) -> None:
    check_add_bias(ops.add_bias, x, data.draw(floats_of_shape(x.shape[1:2], dtype=str(x.dtype))))
    check_add_bias_vjp(ops.add_bias_vjp, x)


@given(images_nchw(dtype="float64") | matrices_nd(dtype="float64"), st.data())
def test_add_bias_finite_differences(x: Any, data: st.DataObject) -> None:
    bias = data.draw(floats_of_shape(x.shape[1:2], dtype="float64"))
    directional_check(ops.add_bias, lambda dy, x, bias: (dy, ops.add_bias_vjp(dy)), [x, bias])


# Activations ------------------------------------------------------------------------------------------------


def check_relu(relu: Any, x: Any) -> None:
    with assert_not_mutated(x):
        y = relu(x)
    assert_no_alias(y, x)
    expected = np.array([value if value > 0 else 0.0 for value in double(x).ravel()])
    assert_close(y, expected.reshape(x.shape), op="relu", dtype=str(x.dtype))


def check_relu_vjp(relu_vjp: Any, dy: Any, y: Any) -> None:
    with assert_not_mutated(dy, y):
        dx = relu_vjp(dy, y)
    assert_no_alias(dx, dy, y)
    pairs = zip(double(dy).ravel(), double(y).ravel(), strict=True)
    expected = np.array([slope if value > 0 else 0.0 for slope, value in pairs])
    assert_close(dx, expected.reshape(y.shape), op="relu_vjp", dtype=str(y.dtype))


def check_tanh(tanh: Any, x: Any) -> None:
    with assert_not_mutated(x):
        y = tanh(x)
    assert_no_alias(y, x)
    e = np.expm1(-2 * np.abs(double(x)))  # tanh |x| = (1 - e^(-2 |x|)) / (1 + e^(-2 |x|))
    assert_close(y, -np.sign(double(x)) * e / (2 + e), op="tanh", dtype=str(x.dtype), scale=1)


def check_tanh_vjp(tanh_vjp: Any, dy: Any, y: Any) -> None:
    with assert_not_mutated(dy, y):
        dx = tanh_vjp(dy, y)
    assert_no_alias(dx, dy, y)
    expected = double(dy) / np.cosh(np.arctanh(double(y))) ** 2  # the derivative is 1 / cosh(x)^2
    scale = np.abs(double(dy)) + 1e-300
    assert_close(dx, expected, op="tanh_vjp", dtype=str(y.dtype), scale=scale)


@given(images_nchw() | matrices_nd(), st.data())
def test_activations(x: Any, data: st.DataObject) -> None:
    x = 2 * x - x.dtype.type(0.75)
    dy = data.draw(floats_of_shape(x.shape, dtype=str(x.dtype)))
    check_relu(ops.relu, x)
    check_relu_vjp(ops.relu_vjp, dy, ops.relu(x))
    check_tanh(ops.tanh, x)
    check_tanh_vjp(ops.tanh_vjp, dy, ops.tanh(x))


@given(images_nchw(dtype="float64") | matrices_nd(dtype="float64"))
def test_activations_finite_differences(x: Any) -> None:
    x = 2 * x - 0.75
    directional_check(ops.relu, lambda dy, x: ops.relu_vjp(dy, ops.relu(x)), [x])
    directional_check(ops.tanh, lambda dy, x: ops.tanh_vjp(dy, ops.tanh(x)), [x])


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_at_the_edges(dtype: str) -> None:
    x = np.array([-np.inf, -1e30, -0.0, 0.0, 1e30, np.inf, np.nan], dtype=dtype)
    np.testing.assert_array_equal(ops.relu(x), np.array([0, 0, 0, 0, x[4], np.inf, np.nan], dtype=dtype))
    np.testing.assert_array_equal(ops.tanh(x), np.array([-1, -1, -0.0, 0, 1, 1, np.nan], dtype=dtype))
    assert ops.relu_vjp(np.ones(1, dtype), np.zeros(1, dtype))[0] == 0  # the derivative at 0 is 0


# Batch normalisation ----------------------------------------------------------------------------------------


def by_channel(x: Any) -> Any:
    """The numbers of each channel, (c, count), in float64."""
    return np.moveaxis(double(x), 1, 0).reshape(x.shape[1], -1)


def normalised(x: Any, gain: Any, bias: Any, mean: Any, variance: Any, epsilon: float) -> tuple[Any, Any]:
    """The formula, channel by channel, and the magnitude of what is added up in it."""
    y, scale = np.empty(x.shape), np.empty(x.shape)
    for c in range(x.shape[1]):
        slope = float(gain[c]) / math.sqrt(float(variance[c]) + epsilon)
        y[:, c] = slope * (double(x)[:, c] - float(mean[c])) + float(bias[c])
        scale[:, c] = abs(slope) * (np.abs(double(x))[:, c].max(initial=0) + abs(float(mean[c]))) + abs(float(bias[c]))
    return y, scale


def check_batch_norm(batch_norm: Any, x: Any, gain: Any, bias: Any, epsilon: float) -> None:
    with assert_not_mutated(x, gain, bias):
        y, mean, variance = batch_norm(x, gain, bias, epsilon=epsilon)
    for result in (y, mean, variance):
        assert_no_alias(result, x, gain, bias)
    channels = by_channel(x)
    means = np.array([math.fsum(channel) / len(channel) for channel in channels])
    squares = [(channel - m) ** 2 for channel, m in zip(channels, means, strict=True)]
    variances = np.array([math.fsum(square) / len(square) for square in squares])
    dtype, size = str(x.dtype), np.abs(channels).max(axis=1)
    assert_close(mean, means, op="batch_norm", dtype=dtype, scale=size)
    assert_close(variance, variances, op="batch_norm", dtype=dtype, scale=size**2)
    # With the statistics that were returned: errors of a tiny variance are not the formula's.
    expected, scale = normalised(x, gain, bias, mean, variance, epsilon)
    assert_close(y, expected, op="batch_norm", dtype=dtype, scale=scale)


def check_batch_norm_vjp(batch_norm_vjp: Any, dy: Any, x: Any, gain: Any, epsilon: float) -> None:
    """By the chain rule of the paper's own list (section 3), through variance and mean, one after the other."""
    mean = np.array([channel.mean() for channel in by_channel(x)]).astype(x.dtype)
    variance = np.array([channel.var() for channel in by_channel(x)]).astype(x.dtype)
    with assert_not_mutated(dy, x, gain, mean, variance):
        results = batch_norm_vjp(dy, x, gain, mean, variance, epsilon=epsilon)
    for result in results:
        assert_no_alias(result, dy, x, gain, mean, variance)
    dx, scale = np.empty((2, x.shape[1], x[:, 0].size))
    dgain, dbias, sums = np.empty((3, x.shape[1]))
    for c, (dy_c, x_c) in enumerate(zip(by_channel(dy), by_channel(x), strict=True)):
        m, deviation = len(x_c), x_c - float(mean[c])
        inverse, slopes = 1 / math.sqrt(float(variance[c]) + epsilon), dy_c * float(gain[c])
        dvariance = float(np.sum(slopes * deviation)) * -0.5 * inverse**3
        dmean = -float(np.sum(slopes)) * inverse - dvariance * 2 * float(np.sum(deviation)) / m
        dx[c] = slopes * inverse + dvariance * 2 * deviation / m + dmean / m
        dgain[c], dbias[c] = float(np.sum(dy_c * deviation)) * inverse, float(np.sum(dy_c))
        size = 1 + np.abs(x_c).max() * inverse  # of normalised numbers, before the mean was taken off
        scale[c], sums[c] = np.abs(slopes).max() * inverse * size, np.abs(dy_c).sum() * size
    dx, scale = (np.moveaxis(v.reshape(x.shape[1], len(x), *x.shape[2:]), 0, 1) for v in (dx, scale))
    for result, expected, size in zip(results, (dx, dgain, dbias), (scale, sums, sums), strict=True):
        assert_close(result, expected, op="batch_norm_vjp", dtype=str(x.dtype), scale=size)


def check_batch_norm_inference(batch_norm_inference: Any, x: Any, parameters: Any, epsilon: float) -> None:
    with assert_not_mutated(x, *parameters):
        y = batch_norm_inference(x, *parameters, epsilon=epsilon)
    assert_no_alias(y, x, *parameters)
    expected, scale = normalised(x, *parameters, epsilon)
    assert_close(y, expected, op="batch_norm_inference", dtype=str(x.dtype), scale=scale)


def check_batch_norm_inference_vjp(vjp: Any, dy: Any, gain: Any, variance: Any, epsilon: float) -> None:
    with assert_not_mutated(dy, gain, variance):
        dx = vjp(dy, gain, variance, epsilon=epsilon)
    assert_no_alias(dx, dy, gain, variance)
    zeros = np.zeros(len(gain))
    expected, _ = normalised(dy, gain, zeros, zeros, variance, epsilon)
    assert_close(dx, expected, op="batch_norm_inference_vjp", dtype=str(dy.dtype))


def norm_parameters(channels: int, dtype: str) -> list[Any]:
    """Gain, bias, mean, variance."""
    gain, bias, mean = rng().standard_normal((3, channels))
    return [values.astype(dtype) for values in (gain, bias, mean, 0.1 + rng().random(channels))]


@given(images_nchw() | matrices_nd(), st.sampled_from([1e-5, 1e-3, 0.5]), st.data())
def test_batch_norm(x: Any, epsilon: float, data: st.DataObject) -> None:
    parameters = norm_parameters(x.shape[1], str(x.dtype))
    dy = data.draw(floats_of_shape(x.shape, dtype=str(x.dtype)))
    check_batch_norm_inference(ops.batch_norm_inference, x, parameters, epsilon)
    check_batch_norm_inference_vjp(ops.batch_norm_inference_vjp, dy, parameters[0], parameters[3], epsilon)
    if len(x) == 0:
        with pytest.raises(InputError, match="at least one number a channel"):
            ops.batch_norm(x, *parameters[:2])
        return
    check_batch_norm(ops.batch_norm, x, *parameters[:2], epsilon)
    check_batch_norm_vjp(ops.batch_norm_vjp, dy, x, parameters[0], epsilon)


@given(images_nchw(dtype="float64", min_n=2) | matrices_nd(dtype="float64", min_n=3), st.sampled_from([1e-3, 0.5]))
def test_batch_norm_finite_differences(x: Any, epsilon: float) -> None:
    gain, bias, mean, variance = norm_parameters(x.shape[1], "float64")

    def through_statistics(dy: Any, x: Any, gain: Any, bias: Any) -> Any:
        _, mean, variance = ops.batch_norm(x, gain, bias, epsilon=epsilon)
        return ops.batch_norm_vjp(dy, x, gain, mean, variance, epsilon=epsilon)

    directional_check(
        lambda x, gain, bias: ops.batch_norm(x, gain, bias, epsilon=epsilon)[0], through_statistics, [x, gain, bias]
    )
    directional_check(
        lambda x: ops.batch_norm_inference(x, gain, bias, mean, variance, epsilon=epsilon),
        lambda dy, x: ops.batch_norm_inference_vjp(dy, gain, variance, epsilon=epsilon),
        [x],
    )


# Average pooling --------------------------------------------------------------------------------------------


def check_avg_pool2d(avg_pool2d: Any, x: Any, size: tuple[int, int]) -> None:
    with assert_not_mutated(x):
        y = avg_pool2d(x, size=size)
    assert_no_alias(y, x)
    (n, c, h, w), (th, tw) = x.shape, size
    expected, scale = np.empty((2, n, c, h // th, w // tw))
    for i in range(h // th):
        for j in range(w // tw):
            tile = double(x)[:, :, i * th : (i + 1) * th, j * tw : (j + 1) * tw].reshape(n, c, th * tw)
            expected[:, :, i, j], scale[:, :, i, j] = tile.mean(axis=2), np.abs(tile).mean(axis=2)
    assert_close(y, expected, op="avg_pool2d", dtype=str(x.dtype), scale=scale)


def check_avg_pool2d_vjp(avg_pool2d_vjp: Any, dy: Any, x_shape: Any, size: tuple[int, int]) -> None:
    with assert_not_mutated(dy):
        dx = avg_pool2d_vjp(dy, x_shape, size=size)
    assert_no_alias(dx, dy)
    expected = np.zeros(x_shape)
    for i in range(dy.shape[2] * size[0]):
        for j in range(dy.shape[3] * size[1]):
            expected[:, :, i, j] = double(dy)[:, :, i // size[0], j // size[1]] / math.prod(size)
    assert_close(dx, expected, op="avg_pool2d_vjp", dtype=str(dy.dtype))


@st.composite
def pool_cases(draw: st.DrawFn, dtype: str | None = None) -> tuple[Any, tuple[int, int]]:
    x = draw(images_nchw(dtype=dtype))
    return x, (draw(st.integers(1, x.shape[2])), draw(st.integers(1, x.shape[3])))


@given(pool_cases(), st.data())
def test_avg_pool2d(case: Any, data: st.DataObject) -> None:
    x, size = case
    check_avg_pool2d(ops.avg_pool2d, x, size)
    shape = (*x.shape[:2], x.shape[2] // size[0], x.shape[3] // size[1])
    check_avg_pool2d_vjp(ops.avg_pool2d_vjp, data.draw(floats_of_shape(shape, dtype=str(x.dtype))), x.shape, size)


@given(pool_cases(dtype="float64"))
def test_avg_pool2d_finite_differences(case: Any) -> None:
    x, size = case
    directional_check(
        lambda x: ops.avg_pool2d(x, size=size), lambda dy, x: ops.avg_pool2d_vjp(dy, x.shape, size=size), [x]
    )


def test_a_pool_size_may_be_one_number() -> None:
    x = rng().random((1, 1, 4, 6))
    np.testing.assert_array_equal(ops.avg_pool2d(x, size=2), ops.avg_pool2d(x, size=(2, 2)))


# Planted errors, and complaints -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    x, dy = rng().standard_normal((2, 2, 3, 4, 6)).astype(dtype)
    features, slopes, weight = (rng().standard_normal(s).astype(dtype) for s in ((4, 6), (4, 5), (5, 6)))
    gain, bias, mean, variance = norm_parameters(3, dtype)
    assert_planted_caught(lambda f: check_linear(f, features, weight), ops.linear)
    assert_planted_caught(lambda f: check_linear_vjp(f, slopes, features, weight), ops.linear_vjp)
    assert_planted_caught(lambda f: check_add_bias(f, x, bias), ops.add_bias)
    assert_planted_caught(lambda f: check_add_bias_vjp(f, dy), ops.add_bias_vjp)
    assert_planted_caught(lambda f: check_relu(f, x), ops.relu)
    assert_planted_caught(lambda f: check_relu_vjp(f, dy, ops.relu(x)), ops.relu_vjp)
    assert_planted_caught(lambda f: check_tanh(f, x), ops.tanh)
    assert_planted_caught(lambda f: check_tanh_vjp(f, dy, ops.tanh(x)), ops.tanh_vjp)
    assert_planted_caught(lambda f: check_batch_norm(f, x, gain, bias, 1e-5), ops.batch_norm)
    assert_planted_caught(lambda f: check_batch_norm_vjp(f, dy, x, gain, 1e-5), ops.batch_norm_vjp)
    assert_planted_caught(
        lambda f: check_batch_norm_inference(f, x, [gain, bias, mean, variance], 1e-5), ops.batch_norm_inference
    )
    assert_planted_caught(
        lambda f: check_batch_norm_inference_vjp(f, dy, gain, variance, 1e-5), ops.batch_norm_inference_vjp
    )
    assert_planted_caught(lambda f: check_avg_pool2d(f, x, (2, 3)), ops.avg_pool2d)
    assert_planted_caught(lambda f: check_avg_pool2d_vjp(f, dy, (2, 3, 9, 13), (2, 2)), ops.avg_pool2d_vjp)


def test_finite_differences_catch_planted_errors() -> None:
    x, weight, dy = (rng().standard_normal(shape) for shape in ((4, 6), (5, 6), (2, 3, 4, 6)))
    gain, bias, _, _ = norm_parameters(3, "float64")

    def check_norm(vjp: Any) -> None:
        directional_check(
            lambda x, gain, bias: ops.batch_norm(x, gain, bias)[0],
            lambda w, x, gain, bias: vjp(w, x, gain, *ops.batch_norm(x, gain, bias)[1:]),
            [dy, gain, bias],
        )

    def check_tanh_product(vjp: Any) -> None:
        directional_check(ops.tanh, lambda w, x: vjp(w, ops.tanh(x)), [x])

    def check_pool(vjp: Any) -> None:
        directional_check(lambda x: ops.avg_pool2d(x, size=(2, 3)), lambda w, x: vjp(w, x.shape, size=(2, 3)), [dy])

    assert_planted_caught(lambda vjp: directional_check(ops.linear, vjp, [x, weight]), ops.linear_vjp)
    assert_planted_caught(check_norm, ops.batch_norm_vjp)
    assert_planted_caught(check_tanh_product, ops.tanh_vjp)
    assert_planted_caught(check_pool, ops.avg_pool2d_vjp)


X = np.ones((2, 3, 4, 5))
C = np.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.linear(X, C), "x: expected 2 axes"),
        (lambda: ops.linear(X[0, 0], C), "weight: expected 2 axes"),
        (lambda: ops.linear(X[0, 0], X[0, 0].astype("float32")), "weight: expected dtype float64"),
        (lambda: ops.linear(X[0, 0].astype(int), X[0, 0].astype(int)), "x: expected float32 or float64"),
        (lambda: ops.linear(X[0, 0], X[0, :, 0, :4]), "x: expected 4 features"),
        (lambda: ops.linear_vjp(X[0, 0], X[0, 0], X[0, 0]), "dy: expected shape"),
        (lambda: ops.linear(X[0, 0], X[0, 0], bias=C), "bias: expected shape"),
        (lambda: ops.linear(X[0, 0], X[0, 0], activation="elu"), "activation: expected one of relu, tanh; got 'elu'"),
        (
            lambda: ops.linear_vjp(X[0, 0] @ X[0, 0].T, X[0, 0], X[0, 0], input_activation="elu"),
            "input_activation: expected one of",
        ),
        (lambda: ops.add_bias(X, C[:2]), "bias: expected one number a channel"),
        (lambda: ops.add_bias(C, C), "bias: expected one number a channel"),
        (lambda: ops.add_bias(X, C.astype("float32")), "bias: expected dtype float64"),
        (lambda: ops.relu_vjp(X, C), "dy: expected shape"),
        (lambda: ops.tanh_vjp(X, X.astype("float32")), "dy: expected dtype float32"),
        (lambda: ops.batch_norm(X, C[:2], C), "gain: expected shape"),
        (lambda: ops.batch_norm(X, C, C, epsilon=0), "epsilon: expected a finite number > 0"),
        (lambda: ops.batch_norm(X[:, :0], C[:0], C[:0]), "at least one number a channel"),
        (lambda: ops.batch_norm_vjp(X[0], X, C, C, C), "dy: expected shape"),
        (lambda: ops.batch_norm_inference(X, C, C, C, C[:1]), "variance: expected shape"),
        (lambda: ops.avg_pool2d(X, size=5), "larger than the image"),
        (lambda: ops.avg_pool2d(X, size=0), "size: expected an integer >= 1"),
        (lambda: ops.avg_pool2d(X[0], size=1), "x: expected 4 axes"),
        (lambda: ops.avg_pool2d_vjp(X, X.shape, size=2), "dy: expected shape"),
    ],
)
def test_complaints(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
