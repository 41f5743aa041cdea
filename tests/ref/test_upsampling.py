"""Upsampling against its definition, pixel by pixel, and its adjoints."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from malade_ref.layers import Layer, Upsample, layer_from
from tests.strategies import DTYPES, floats_of_shape, images_nchw
from tests.tolerances import (
    assert_close,
    assert_no_alias,
    assert_not_mutated,
    assert_planted_caught,
    directional_check,
)

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


def rng() -> np.random.Generator:
    return np.random.default_rng(13)


def weights(size: int, count: int, corners: bool | None) -> Any:
    """The part that each of ``size`` pixels has in each of ``count``, (count, size); ``corners`` None for copies."""
    matrix = np.zeros((count, size))
    for i in range(count):
        if corners is None:
            matrix[i, math.floor(Fraction(i * size, count))] = 1
            continue
        if corners:
            position = Fraction(i * (size - 1), count - 1) if count > 1 else Fraction(0)
        else:
            position = (Fraction(2 * i + 1, 2) * size) / count - Fraction(1, 2)
        # A hat around each pixel's centre; beyond the outermost centres nothing changes.
        position = min(max(position, Fraction(0)), Fraction(size - 1))
        for k in range(size):
            matrix[i, k] = max(Fraction(0), 1 - abs(position - k))
    return matrix


def check_forward(op: Any, name: str, x: Any, size: Any, corners: bool | None, **settings: Any) -> None:
    with assert_not_mutated(x):
        y = op(x, output_size=size, **settings)
    assert_no_alias(y, x)
    rows, columns = (weights(a, b, corners) for a, b in zip(x.shape[2:], size, strict=True))
    expected, scale = (np.einsum("ih,nchw,jw->ncij", rows, v, columns) for v in (x.astype("float64"), abs(x)))
    assert_close(y, expected, op=name, dtype=str(x.dtype), scale=scale)


def check_vjp(op: Any, name: str, dy: Any, x_shape: Any, corners: bool | None, **settings: Any) -> None:
    with assert_not_mutated(dy):
        dx = op(dy, x_shape, **settings)
    assert_no_alias(dx, dy)
    rows, columns = (weights(a, b, corners) for a, b in zip(x_shape[2:], dy.shape[2:], strict=True))
    expected, scale = (np.einsum("ih,ncij,jw->nchw", rows, v, columns) for v in (dy.astype("float64"), abs(dy)))
    assert_close(dx, expected, op=name, dtype=str(dy.dtype), scale=scale)


@given(images_nchw(), SIZES, st.data())
def test_upsample(x: Any, size: Any, data: st.DataObject) -> None:
    dy = data.draw(floats_of_shape((*x.shape[:2], *size), dtype=str(x.dtype)))
    check_forward(ops.upsample_nearest, "upsample_nearest", x, size, None)
    check_vjp(ops.upsample_nearest_vjp, "upsample_nearest_vjp", dy, x.shape, None)
    for corners in (False, True):
        check_forward(ops.upsample_bilinear, "upsample_bilinear", x, size, corners, align_corners=corners)
        check_vjp(ops.upsample_bilinear_vjp, "upsample_bilinear_vjp", dy, x.shape, corners, align_corners=corners)


@given(images_nchw(dtype="float64"), SIZES, st.booleans())
def test_finite_differences(x: Any, size: Any, corners: bool) -> None:
    directional_check(
        lambda x: ops.upsample_nearest(x, output_size=size), lambda dy, x: ops.upsample_nearest_vjp(dy, x.shape), [x]
    )
    directional_check(
        lambda x: ops.upsample_bilinear(x, output_size=size, align_corners=corners),
        lambda dy, x: ops.upsample_bilinear_vjp(dy, x.shape, align_corners=corners),
        [x],
    )


def test_by_hand() -> None:
    x = np.array([[[[0.0, 4.0], [8.0, 12.0]]]])
    np.testing.assert_array_equal(ops.upsample_nearest(x, output_size=3)[0, 0], [[0, 0, 4], [0, 0, 4], [8, 8, 12]])
    np.testing.assert_array_equal(ops.upsample_bilinear(x, output_size=(1, 4))[0, 0], [[4, 5, 7, 8]])
    aligned = ops.upsample_bilinear(x, output_size=(3, 2), align_corners=True)
    np.testing.assert_array_equal(aligned[0, 0], [[0, 4], [4, 8], [8, 12]])


def test_nan_stays_beside_its_pixel() -> None:
    x = np.ones((1, 1, 4, 4))
    x[0, 0, 0, 0] = np.nan
    assert np.isnan(ops.upsample_nearest(x, output_size=8)).sum() == 4
    assert not np.isnan(ops.upsample_bilinear(x, output_size=8)[0, 0, 4:, 4:]).any()


@pytest.mark.parametrize(
    "layer",
    [
        Upsample((2, 3)),
        Upsample(output_size=(5, 9)),
        Upsample((2, 2), mode="bilinear"),
        Upsample(output_size=(5, 1), mode="bilinear", align_corners=True),
    ],
    ids=repr,
)
def test_layers(layer: Layer) -> None:
    x = rng().standard_normal((2, 3, 4, 3))
    y, saved = layer.forward(ops, {}, x, False)
    assert y.shape == (2, *layer.output_shape((3, 4, 3)))
    assert layer.backward(ops, {}, saved, y, False, True) == (None, {})
    directional_check(
        lambda x: layer.forward(ops, {}, x, False)[0],
        lambda dy, x: layer.backward(ops, {}, layer.forward(ops, {}, x, False)[1], dy, True, False)[0],
        [x],
    )
    assert layer_from(layer.description()) == layer
    with pytest.raises(InputError, match="upsample: expected images"):
        layer.output_shape((5,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected either scale_factor or output_size"),
        ({"scale_factor": [2, 2], "output_size": [2, 2]}, "expected either scale_factor or output_size"),
        ({"scale_factor": [2.5, 2]}, "scale_factor: expected an integer >= 1"),
        ({"scale_factor": [2, 2], "mode": "bicubic"}, "mode: expected one of nearest, bilinear"),
        ({"scale_factor": [2, 2], "mode": "bilinear", "align_corners": 1}, "align_corners: expected true or false"),
        ({"scale_factor": [2, 2], "align_corners": True}, 'expected false with mode "nearest"'),
        ({"output_size": [0, 2]}, "output_size: expected an integer >= 1"),
        ({"output_size": [60000, 60000]}, "expected at most 16777216 pixels"),
    ],
)
def test_malformed_descriptions(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layer_from({"kind": "upsample", **settings})


def test_an_output_that_is_too_large() -> None:
    for shape in ((1, 28, 28), (1, 2, 1)):
        with pytest.raises(InputError, match="upsample: size of the output: expected at most"):
            Upsample((60000, 60000)).output_shape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    x, dy = (rng().standard_normal(shape).astype(dtype) for shape in ((2, 3, 4, 6), (2, 3, 7, 8)))
    name = "upsample_nearest"
    assert_planted_caught(lambda f: check_forward(f, name, x, (7, 8), None), ops.upsample_nearest)
    assert_planted_caught(lambda f: check_vjp(f, f"{name}_vjp", dy, x.shape, None), ops.upsample_nearest_vjp)
    name = "upsample_bilinear"
    for corners in (False, True):
        assert_planted_caught(
            lambda f, corners=corners: check_forward(f, name, x, (7, 8), corners, align_corners=corners),
            ops.upsample_bilinear,
        )
        assert_planted_caught(
            lambda f, corners=corners: check_vjp(f, f"{name}_vjp", dy, x.shape, corners, align_corners=corners),
            ops.upsample_bilinear_vjp,
        )


def test_finite_differences_catch_planted_errors() -> None:
    x = rng().standard_normal((2, 2, 4, 3))
    for forward, vjp in (
        (ops.upsample_nearest, ops.upsample_nearest_vjp),
        (ops.upsample_bilinear, ops.upsample_bilinear_vjp),
    ):
        assert_planted_caught(
            lambda f, forward=forward: directional_check(
                lambda x: forward(x, output_size=7), lambda dy, x: f(dy, x.shape), [x]
            ),
            vjp,
        )


X = np.ones((2, 3, 4, 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.upsample_nearest(X[0], output_size=2), "x: expected 4 axes"),
        (lambda: ops.upsample_nearest(X.astype(int), output_size=2), "x: expected float32 or float64"),
        (lambda: ops.upsample_nearest(X[:, :, :0], output_size=2), "x: expected images"),
        (lambda: ops.upsample_nearest(X, output_size=5000), "expected at most 16777216 pixels"),
        (lambda: ops.upsample_bilinear(X, output_size=2, align_corners=1), "align_corners: expected true or false"),
        (lambda: ops.upsample_nearest_vjp(X, (2, 2, 4, 5)), "dy: expected shape"),
        (lambda: ops.upsample_bilinear_vjp(X, (2, 4, 5)), "x: expected images"),
    ],
)
def test_complaints(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
