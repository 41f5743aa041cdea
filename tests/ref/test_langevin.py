"""The Langevin step and clipping against the formula, number by number, and their derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from tests.strategies import DTYPES, floats_of_shape, images_nchw
from tests.tolerances import (
    assert_close,
    assert_no_alias,
    assert_not_mutated,
    assert_planted_caught,
    directional_check,
)

Case = tuple[Any, Any, Any, dict[str, Any]]


@st.composite
def cases(draw: st.DrawFn, dtype: str | None = None) -> Case:
    x = draw(images_nchw(dtype=dtype))
    residual, noise = (draw(floats_of_shape(x.shape, dtype=str(x.dtype))) for _ in range(2))
    a = draw(st.sampled_from([0.05, 0.5, 1.0]))
    delta = draw(st.sampled_from([0.0, 0.1, 0.5]))
    return x, residual, noise, {"a": a, "delta": delta, "clip": draw(st.booleans())}


def some_case(dtype: str) -> Case:
    rng = np.random.default_rng(0)
    x, residual, noise = rng.random((2, 1, 4, 5)), *rng.standard_normal((2, 2, 1, 4, 5))
    arrays = (array.astype(dtype) for array in (x, residual, noise))
    return *arrays, {"a": 0.5, "delta": 0.25, "clip": True}


def moved(case: Case) -> tuple[Any, Any]:
    """Unclipped result, and magnitude of what is added up, one number at a time."""
    x, residual, noise, settings = case
    rows = zip(*(array.ravel().tolist() for array in (x, residual, noise)), strict=True)
    terms = np.array([(p, settings["a"] * r, settings["delta"] * z) for p, r, z in rows]).reshape(-1, 3)
    return terms.sum(axis=1).reshape(x.shape), np.abs(terms).sum(axis=1).reshape(x.shape)


def check_langevin_step(langevin_step: Any, case: Case) -> None:
    *arrays, settings = case
    with assert_not_mutated(*arrays):
        y = langevin_step(*arrays, **settings)
    assert_no_alias(y, *arrays)
    expected, scale = moved(case)
    if settings["clip"]:
        expected = np.array([min(max(value, 0.0), 1.0) for value in expected.ravel()]).reshape(expected.shape)
    assert_close(y, expected, op="langevin_step", dtype=str(arrays[0].dtype), scale=scale)


def check_langevin_step_vjp(langevin_step_vjp: Any, dy: Any, case: Case) -> None:
    *arrays, settings = case
    with assert_not_mutated(dy, *arrays):
        dx, dresidual = langevin_step_vjp(dy, *arrays, **settings)
    for result in (dx, dresidual):
        assert_no_alias(result, dy, *arrays)
    assert_no_alias(dx, dresidual)
    position, scale = moved(case)
    passes = np.ones(position.shape)
    if settings["clip"]:
        passes = np.where((position > 0) & (position < 1), 1.0, 0.0)
        # Where the result is on the edge but for rounding, either answer is right.
        unclear = np.minimum(np.abs(position), np.abs(position - 1)) <= 1e-6 * scale
        passes[unclear] = (dx[unclear] != 0) | (dy[unclear] == 0)
    expected = passes * dy.astype("float64")
    assert_close(dx, expected, op="relu", dtype=str(dy.dtype))  # exactly dy, or 0
    assert_close(dresidual, settings["a"] * expected, op="langevin_step_vjp", dtype=str(dy.dtype))


@given(cases(), st.data())
def test_langevin_step(case: Case, data: st.DataObject) -> None:
    check_langevin_step(ops.langevin_step, case)
    dy = data.draw(floats_of_shape(case[0].shape, dtype=str(case[0].dtype)))
    check_langevin_step_vjp(ops.langevin_step_vjp, dy, case)


@given(cases(dtype="float64"))
def test_finite_differences(case: Case) -> None:
    x, residual, noise, settings = case
    directional_check(
        lambda x, residual: ops.langevin_step(x, residual, noise, **settings),
        lambda dy, x, residual: ops.langevin_step_vjp(dy, x, residual, noise, **settings),
        [0.01 + 0.98 * x, residual],
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    case = some_case(dtype)
    dy = case[2][::-1].copy()
    assert_planted_caught(lambda f: check_langevin_step(f, case), ops.langevin_step)
    assert_planted_caught(lambda f: check_langevin_step_vjp(f, dy, case), ops.langevin_step_vjp)
    x, residual, noise, settings = some_case("float64")

    def finite_differences(vjp: Any) -> None:
        directional_check(
            lambda x, residual: ops.langevin_step(x, residual, noise, **settings),
            lambda dy, x, residual: vjp(dy, x, residual, noise, **settings),
            [x, residual],
        )

    assert_planted_caught(finite_differences, ops.langevin_step_vjp)


@given(images_nchw())
def test_clip_pixels(x: Any) -> None:
    x = 3 * x - x.dtype.type(1)
    with assert_not_mutated(x):
        y = ops.clip_pixels(x)
    assert_no_alias(y, x)
    expected = np.array([min(max(value, 0.0), 1.0) for value in x.ravel().tolist()]).reshape(x.shape)
    assert_close(y, expected, op="clip_pixels", dtype=str(x.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_clipping_at_the_edges(dtype: str) -> None:
    x = np.array([-np.inf, -0.0, 0, 1, np.inf, np.nan], dtype=dtype)
    np.testing.assert_array_equal(ops.clip_pixels(x), np.array([0, 0, 0, 1, 1, np.nan], dtype=dtype))
    # On an edge nothing is cut off, and the gradient passes.
    one = np.ones(2, dtype=dtype)
    dx, _ = ops.langevin_step_vjp(one, np.array([0, 1], dtype=dtype), 0 * one, 0 * one, a=1, delta=1, clip=True)
    assert dx.tolist() == [1, 1]


X = np.zeros((2, 1, 3, 3))


@pytest.mark.parametrize(
    ("arrays", "settings", "message"),
    [
        ((X, X[:1], X), {}, "residual: expected shape"),
        ((X, X, X[0]), {}, "noise: expected shape"),
        ((X, X.astype("float32"), X), {}, "residual: expected dtype float64"),
        ((X.astype(int), X, X), {}, "x: expected float32 or float64"),
        ((X, X, X), {"a": 0}, "a: expected a finite number > 0"),
        ((X, X, X), {"a": float("inf")}, "a: expected"),
        ((X, X, X), {"delta": -0.1}, "delta: expected a finite number >= 0"),
        ((X, X, X), {"delta": float("nan")}, "delta: expected"),
    ],
)
def test_complaints(arrays: Any, settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ops.langevin_step(*arrays, **{"a": 0.5, "delta": 0.1, **settings})


def test_the_gradient_must_fit() -> None:
    with pytest.raises(InputError, match="dy: expected shape"):
        ops.langevin_step_vjp(X[:1], X, X, X, a=1, delta=0)
