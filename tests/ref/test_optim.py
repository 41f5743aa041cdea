"""Optimiser steps against the same steps taken number by number in Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from tests.strategies import DTYPES, floats_of_shape, shapes_nchw
from tests.tolerances import assert_close, assert_no_alias, assert_not_mutated, assert_planted_caught

ADAM = {"learning_rate": 0.1, "beta1": 0.8, "beta2": 0.99, "epsilon": 1e-6}


def adam_of_one_number(p: float, g: float, m: float, v: float, t: int, settings: dict[str, float]) -> Any:
    """Algorithm 1 of Kingma and Ba, line by line."""
    m = settings["beta1"] * m + (1 - settings["beta1"]) * g
    v = settings["beta2"] * v + (1 - settings["beta2"]) * g**2
    m_hat = m / (1 - settings["beta1"] ** t)
    v_hat = v / (1 - settings["beta2"] ** t)
    return p - settings["learning_rate"] * m_hat / (math.sqrt(v_hat) + settings["epsilon"]), m, v


def sgd_of_one_number(p: float, g: float, v: float, settings: dict[str, float]) -> Any:
    v = settings["momentum"] * v + g
    return p - settings["learning_rate"] * v, v


def each_number(step: Any, arrays: tuple[Any, ...], *rest: Any) -> list[Any]:
    columns = [step(*map(float, numbers), *rest) for numbers in zip(*(a.ravel() for a in arrays), strict=True)]
    results = zip(*columns, strict=True) if columns else [()] * (len(arrays) - 1)
    return [np.array(result, dtype="float64").reshape(arrays[0].shape) for result in results]


def check_adam_step(adam_step: Any, arrays: tuple[Any, ...], step: int, settings: dict[str, float]) -> None:
    with assert_not_mutated(*arrays):
        results = adam_step(*arrays, step=step, **settings)
    expected = each_number(adam_of_one_number, arrays, step, settings)
    # A new parameter is the old one less a step: relative to both.
    sizes = (np.abs(arrays[0]) + np.abs(expected[0]), None, None)
    for result, wanted, size in zip(results, expected, sizes, strict=True):
        assert_no_alias(result, *arrays)
        assert_close(result, wanted, op="adam_step", dtype=str(arrays[0].dtype), scale=size)


def check_sgd_step(sgd_step: Any, arrays: tuple[Any, ...], settings: dict[str, float]) -> None:
    with assert_not_mutated(*arrays):
        results = sgd_step(*arrays, **settings)
    expected = each_number(sgd_of_one_number, arrays, settings)
    for result, wanted in zip(results, expected, strict=True):
        assert_no_alias(result, *arrays)
        scale = sum(np.abs(array).astype("float64") for array in arrays) + np.abs(wanted)
        assert_close(result, wanted, op="sgd_step", dtype=str(arrays[0].dtype), scale=scale)


@st.composite
def states(draw: st.DrawFn, count: int) -> tuple[Any, ...]:
    """Parameter, gradient, first mean (velocity), second mean."""
    shape = draw(shapes_nchw())
    dtype = draw(st.sampled_from(DTYPES))
    arrays = [draw(floats_of_shape(shape, dtype=dtype)) for _ in range(count)]
    return (*arrays[:3], *(array * array for array in arrays[3:]))


@given(states(4), st.sampled_from([1, 2, 10, 1000, 10**6]))
def test_adam_step(arrays: tuple[Any, ...], step: int) -> None:
    check_adam_step(ops.adam_step, arrays, step, ADAM)


@given(states(3), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_sgd_step(arrays: tuple[Any, ...], momentum: float) -> None:
    check_sgd_step(ops.sgd_step, arrays, {"learning_rate": 0.1, "momentum": momentum})


def test_defaults_are_those_of_the_papers() -> None:
    p, g, zero = np.array([1.0]), np.array([0.5]), np.array([0.0])
    settings = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    expected = adam_of_one_number(1.0, 0.5, 0.0, 0.0, 1, settings)
    actual = ops.adam_step(p, g, zero, zero, step=1, learning_rate=1e-3)
    assert [float(value[0]) for value in actual] == pytest.approx(expected, rel=1e-14)
    actual = ops.sgd_step(p, g, p, learning_rate=1e-3)
    assert [float(value[0]) for value in actual] == pytest.approx([1 - 1e-3 * 1.4, 1.4], rel=1e-14)


def test_a_first_step_of_adam_is_the_learning_rate() -> None:
    gradient = np.array([1e-3, -20.0, 5.0])
    zero = np.zeros(3)
    moved, _, _ = ops.adam_step(zero, gradient, zero, zero, step=1, learning_rate=0.01)
    np.testing.assert_allclose(moved, -0.01 * np.sign(gradient), rtol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    arrays = tuple(np.random.default_rng(0).random((4, 3, 5)).astype(dtype))
    assert_planted_caught(lambda f: check_adam_step(f, arrays, 3, ADAM), ops.adam_step)
    settings = {"learning_rate": 0.1, "momentum": 0.9}
    assert_planted_caught(lambda f: check_sgd_step(f, arrays[:3], settings), ops.sgd_step)


P = np.zeros(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 0}, "step: expected an integer >= 1"),
        ({"learning_rate": -1}, "learning_rate: expected"),
        ({"learning_rate": float("nan")}, "learning_rate: expected"),
        ({"beta1": 1.0}, "beta1: expected"),
        ({"beta2": 1.0}, "beta2: expected"),
        ({"beta2": -0.1}, "beta2: expected"),
        ({"epsilon": 0}, "epsilon: expected"),
    ],
)
def test_adam_complaints(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ops.adam_step(P, P, P, P, **{"step": 1, "learning_rate": 0.1, **settings})


def test_shapes_and_dtypes_must_fit() -> None:
    with pytest.raises(InputError, match="second: expected shape"):
        ops.adam_step(P, P, P, P[:2], step=1, learning_rate=0.1)
    with pytest.raises(InputError, match="gradient: expected dtype float64"):
        ops.adam_step(P, P.astype("float32"), P, P, step=1, learning_rate=0.1)
    with pytest.raises(InputError, match="velocity: expected shape"):
        ops.sgd_step(P, P, P[:2], learning_rate=0.1)
    with pytest.raises(InputError, match="momentum: expected"):
        ops.sgd_step(P, P, P, learning_rate=0.1, momentum=1.5)
