"""The checks themselves: what is right passes, planted errors of 0.1% and less do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from tests.strategies import DTYPES
from tests.tolerances import (
    TOLERANCES,
    assert_close,
    assert_no_alias,
    assert_not_mutated,
    assert_planted_caught,
    directional_check,
    planted,
    tolerance_for,
)


def softplus(x: Any) -> Any:
    return np.logaddexp(0, x)


def softplus_vjp(w: Any, x: Any) -> Any:
    return w / (1 + np.exp(-x))


def product_vjp(w: Any, x: Any, y: Any) -> Any:
    return w @ y.T, x.T @ w


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# The table -------------------------------------------------------------------------------------------------


def test_every_row_has_an_op() -> None:
    composites = {"network", "chain", "fused_chain_half", "outcome"}
    assert {name for name in TOLERANCES if name not in composites and not hasattr(ops, name)} == set()


def test_vjp_uses_the_row_of_its_op() -> None:
    assert tolerance_for("conv2d_vjp") is tolerance_for("conv2d")
    assert tolerance_for("add_bias_vjp") is not tolerance_for("add_bias")
    with pytest.raises(LookupError, match="add a row"):
        tolerance_for("no_such_op")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", sorted(TOLERANCES))
def test_planted_error_is_caught(op: str, dtype: str) -> None:
    expected = rng().standard_normal((4, 5))
    if TOLERANCES[op].float32 == 0:
        expected = expected.astype("float32").astype("float64")
    assert_close(expected.astype(dtype), expected, op=op)
    with pytest.raises(AssertionError, match="20 of 20" if TOLERANCES[op].elementwise else "elements are wrong"):
        assert_close((1.001 * expected).astype(dtype), expected, op=op)
    one = expected.copy()
    one[2, 3] += 1e-3 * np.abs(expected).max()
    with pytest.raises(AssertionError, match=r"at \(2, 3\)"):
        assert_close(one.astype(dtype), expected, op=op)


def test_dtype_shape_and_nonfinite_values_count() -> None:
    x = np.array([1.0, np.nan, np.inf])
    assert_close(x, x, op="tanh", dtype="float64")
    assert_close(np.zeros((0, 3)), np.zeros((0, 3)), op="tanh")
    with pytest.raises(AssertionError, match="dtype"):
        assert_close(x.astype("float32"), x, op="tanh", dtype="float64")
    with pytest.raises(AssertionError, match="shape"):
        assert_close(x[None], x, op="tanh")
    with pytest.raises(AssertionError, match="NaN or infinity"):
        assert_close(np.array([1.0, np.nan, -np.inf]), x, op="tanh")
    with pytest.raises(AssertionError, match="1 of 2"):
        assert_close(np.array([1.0, np.nan]), np.array([1.0, 2.0]), op="tanh")


def test_scale_of_a_cancelling_sum() -> None:
    terms = np.array([1e4, 1.0, -1e4], dtype="float32")
    actual = np.array([terms.sum() + np.float32(1e-3)])
    with pytest.raises(AssertionError):
        assert_close(actual, np.array([1.0]), op="linear")
    assert_close(actual, np.array([1.0]), op="linear", scale=np.abs(terms).sum())


# Mutation and aliasing -------------------------------------------------------------------------------------


def test_mutation_is_caught() -> None:
    x, y = np.array([np.nan, 0.0]), np.zeros(3)
    with assert_not_mutated(x, y):
        _ = x + 1
    with pytest.raises(AssertionError, match="input 1"), assert_not_mutated(x, y):
        y[1] = 1e-300
    with pytest.raises(AssertionError, match="input 0"), assert_not_mutated(x, y):
        x[1] = -0.0


def test_alias_is_caught() -> None:
    x = np.zeros((4, 4))
    assert_no_alias(x.copy(), x)
    for view in (x, x.T, x[::2, 1:]):
        with pytest.raises(AssertionError, match="shares memory with input 1"):
            assert_no_alias(view, np.zeros(2), x)


# Finite differences ----------------------------------------------------------------------------------------


def test_right_products_pass() -> None:
    x, y = rng().standard_normal((3, 4)), rng().standard_normal((4, 2))
    directional_check(softplus, softplus_vjp, [x])
    directional_check(np.matmul, product_vjp, [x, y])
    directional_check(lambda x: np.exp(3 * x), lambda w, x: 3 * w * np.exp(3 * x), [x])
    directional_check(lambda x: 0 * x + 1, lambda w, x: 0 * w, [x])
    directional_check(np.matmul, lambda w, x, y: (w @ y.T, None), [x, y])
    directional_check(np.matmul, lambda w, x, y: [w @ y.T, x.T @ w], [x, y], direction=[0 * x, y])
    directional_check(softplus, softplus_vjp, [x[:0]])


def test_kinks_beside_the_point_do_not_matter() -> None:
    x = rng().standard_normal((50, 40))
    directional_check(lambda x: np.maximum(x, 0), lambda w, x: w * (x > 0), [x], eps=0.1)


def test_a_kink_at_the_point_is_caught() -> None:
    with pytest.raises(AssertionError):
        directional_check(lambda x: np.maximum(x, 0), lambda w, x: w * (x > 0), [np.zeros(5)])


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.001, 0.999, 1 + 1e-5, 1 - 1e-5]))
def test_planted_factors_are_caught(seed: int, factor: float) -> None:
    x = np.random.default_rng(seed).standard_normal((3, 4))
    directional_check(softplus, softplus_vjp, [x], seed=seed)
    with pytest.raises(AssertionError, match="is wrong"):
        directional_check(softplus, lambda w, x: factor * softplus_vjp(w, x), [x], seed=seed)


@given(st.integers(0, 2**32 - 1), st.integers(0, 199))
def test_one_wrong_element_is_caught(seed: int, element: int) -> None:
    x = np.random.default_rng(seed).standard_normal(200)

    def wrong_vjp(w: Any, x: Any) -> Any:
        dx = softplus_vjp(w, x)
        dx[element] += 0.1
        return dx

    with pytest.raises(AssertionError, match="is wrong"):
        directional_check(softplus, wrong_vjp, [x], seed=seed)


@pytest.mark.parametrize(
    ("wrong_vjp", "message"),
    [
        (lambda w, x, y: (w @ y.T, 1.001 * (x.T @ w)), "is wrong"),
        (lambda w, x, y: (w @ y.T, 0 * (x.T @ w)), "is wrong"),
        (lambda w, x, y: (w @ y.T, np.nan * (x.T @ w)), "wrong|reliable"),
        (lambda w, x, y: (w @ y.T,), "expected 2 gradients"),
        (lambda w, x, y: ((w @ y.T).T, x.T @ w), "shape"),
        (lambda w, x, y: ((w @ y.T).astype("float32"), x.T @ w), "float64"),
    ],
)
def test_wrong_products_are_caught(wrong_vjp: Any, message: str) -> None:
    x, y = rng().standard_normal((3, 4)), rng().standard_normal((4, 2))
    with pytest.raises(AssertionError, match=message):
        directional_check(np.matmul, wrong_vjp, [x, y])


def test_jumps_are_not_differentiated() -> None:
    with pytest.raises(AssertionError, match="no reliable finite difference"):
        directional_check(np.sign, lambda w, x: 0 * w, [np.zeros(4)])


def test_mutating_functions_are_caught() -> None:
    def f(x: Any) -> Any:
        x += 1
        return x

    with pytest.raises(AssertionError, match="input 0 was changed"):
        directional_check(f, lambda w, x: w, [np.zeros(4)])


def test_message_names_eps_inputs_and_direction() -> None:
    with pytest.raises(AssertionError) as caught:
        directional_check(softplus, lambda w, x: w, [np.array([0.25])], direction=[np.array([0.125])], eps=1e-3)
    for words in ("eps = ", "largest 0.001", "inputs = [0.25]", "direction = [0.125]", "cotangent = "):
        assert words in str(caught.value)


# Planted errors --------------------------------------------------------------------------------------------


def test_planted_errors_are_small_and_everywhere() -> None:
    def f(x: Any) -> Any:
        return x, 2 * x

    x = rng().standard_normal((3, 4)).astype("float32")
    places = set()
    for mutant in planted(f):
        results = mutant(x)
        wrong = [i for i, (a, b) in enumerate(zip(results, f(x), strict=True)) if (a != b).any()]
        assert len(wrong) == 1
        ratio = results[wrong[0]] / f(x)[wrong[0]]
        assert ratio.dtype == "float32"
        assert ratio.max() == pytest.approx(1.001)
        places.add((wrong[0], int((ratio > 1.0005).sum())))
    assert places == {(0, 12), (0, 1), (1, 12), (1, 1)}


def test_a_blind_check_is_caught() -> None:
    def blind(f: Any) -> None:
        np.testing.assert_allclose(f(rng().standard_normal(5)), np.tanh(rng().standard_normal(5)), rtol=1e-2)

    with pytest.raises(AssertionError, match="planted error 0 was not caught"):
        assert_planted_caught(blind, np.tanh)
