"""Losses against their definitions in extended precision, and their derivatives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from tests.strategies import DTYPES, LogitsAndLabels, floats_of_shape, images_nchw, logits_nk, matrices_nd
from tests.tolerances import (
    assert_close,
    assert_no_alias,
    assert_not_mutated,
    assert_planted_caught,
    directional_check,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def log_probabilities(logits: Any) -> Any:
    """-log sum_j exp(l_j - l_i): the definition, without the shift that the code makes."""
    wide = logits.astype(np.longdouble)
    return -np.log(np.exp(wide[:, None, :] - wide[:, :, None]).sum(axis=2)).astype("float64")


def magnitude(logits: Any) -> Any:
    """What the rounding of a logarithm of probabilities is relative to."""
    return 1 + np.abs(logits).max(axis=1, initial=0, keepdims=True).astype("float64")


def check_log_softmax(log_softmax: Any, logits: Any) -> None:
    with assert_not_mutated(logits):
        y = log_softmax(logits)
    assert_no_alias(y, logits)
    assert_close(y, log_probabilities(logits), op="log_softmax", dtype=str(logits.dtype), scale=magnitude(logits))


def check_cross_entropy(softmax_cross_entropy: Any, case: LogitsAndLabels) -> None:
    with assert_not_mutated(*case):
        loss = softmax_cross_entropy(*case)
    assert_no_alias(loss, *case)
    expected = [-row[label] for row, label in zip(log_probabilities(case.logits), case.labels, strict=True)]
    assert_close(
        loss,
        np.array(expected, dtype="float64"),
        op="softmax_cross_entropy",
        dtype=str(case.logits.dtype),
        scale=magnitude(case.logits)[:, 0],
    )


def check_cross_entropy_vjp(softmax_cross_entropy_vjp: Any, dloss: Any, case: LogitsAndLabels) -> None:
    with assert_not_mutated(dloss, *case):
        dlogits = softmax_cross_entropy_vjp(dloss, *case)
    assert_no_alias(dlogits, dloss, *case)
    expected = np.exp(log_probabilities(case.logits))
    for row, (label, slope) in enumerate(zip(case.labels, dloss, strict=True)):
        expected[row, label] = -np.delete(expected[row], label).sum()  # p - 1 without cancellation
        expected[row] *= float(slope)
    assert_close(
        dlogits,
        expected,
        op="softmax_cross_entropy_vjp",
        dtype=str(case.logits.dtype),
        scale=np.abs(dloss).astype("float64")[:, None],
    )


def check_squared_error(squared_error: Any, output: Any, target: Any) -> None:
    with assert_not_mutated(output, target):
        loss = squared_error(output, target)
    assert_no_alias(loss, output, target)
    differences = output.astype("float64") - target.astype("float64")
    expected = np.array([math.fsum(row.ravel() ** 2) for row in differences])
    # The difference of two rounded numbers is exact or relative to them.
    sizes = (np.abs(output) + np.abs(target)).astype("float64")
    scale = np.array([math.fsum((row**2).ravel()) for row in sizes])
    assert_close(loss, expected, op="squared_error", dtype=str(output.dtype), scale=scale)


def check_squared_error_vjp(squared_error_vjp: Any, dloss: Any, output: Any, target: Any) -> None:
    with assert_not_mutated(dloss, output, target):
        doutput = squared_error_vjp(dloss, output, target)
    assert_no_alias(doutput, dloss, output, target)
    expected, scale = np.zeros((2, *output.shape))
    for i, slope in enumerate(dloss):
        expected[i] = 2 * float(slope) * (output[i].astype("float64") - target[i].astype("float64"))
        scale[i] = 2 * abs(float(slope)) * (np.abs(output[i]) + np.abs(target[i])).astype("float64")
    assert_close(doutput, expected, op="squared_error_vjp", dtype=str(output.dtype), scale=scale)


@given(logits_nk(), st.data())
def test_cross_entropy(case: LogitsAndLabels, data: st.DataObject) -> None:
    check_log_softmax(ops.log_softmax, case.logits)
    check_cross_entropy(ops.softmax_cross_entropy, case)
    dloss = data.draw(floats_of_shape(case.labels.shape, dtype=str(case.logits.dtype)))
    check_cross_entropy_vjp(ops.softmax_cross_entropy_vjp, dloss, case)


@given(logits_nk(dtype="float64", max_scale=5.0))
def test_cross_entropy_finite_differences(case: LogitsAndLabels) -> None:
    directional_check(
        lambda logits: ops.softmax_cross_entropy(logits, case.labels),
        lambda dloss, logits: ops.softmax_cross_entropy_vjp(dloss, logits, case.labels),
        [case.logits],
    )


@given(images_nchw() | matrices_nd(), st.data())
def test_squared_error(output: Any, data: st.DataObject) -> None:
    dtype = str(output.dtype)
    target = data.draw(floats_of_shape(output.shape, dtype=dtype))
    check_squared_error(ops.squared_error, output, target)
    dloss = data.draw(floats_of_shape(output.shape[:1], dtype=dtype))
    check_squared_error_vjp(ops.squared_error_vjp, dloss, output, target)


@given(images_nchw(dtype="float64") | matrices_nd(dtype="float64"), st.data())
def test_squared_error_finite_differences(output: Any, data: st.DataObject) -> None:
    target = 0.3 + data.draw(floats_of_shape(output.shape, dtype="float64"))  # nowhere equal, where all is 0
    directional_check(
        lambda output: ops.squared_error(output, target),
        lambda dloss, output: ops.squared_error_vjp(dloss, output, target),
        [output],
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    case = LogitsAndLabels(rng().standard_normal((4, 5)).astype(dtype), np.array([0, 4, 2, 2]))
    dloss = (1 + rng().random(4)).astype(dtype)
    output, target = rng().standard_normal((2, 4, 2, 3)).astype(dtype)
    assert_planted_caught(lambda f: check_log_softmax(f, case.logits), ops.log_softmax)
    assert_planted_caught(lambda f: check_cross_entropy(f, case), ops.softmax_cross_entropy)
    assert_planted_caught(lambda f: check_cross_entropy_vjp(f, dloss, case), ops.softmax_cross_entropy_vjp)
    assert_planted_caught(lambda f: check_squared_error(f, output, target), ops.squared_error)
    assert_planted_caught(lambda f: check_squared_error_vjp(f, dloss, output, target), ops.squared_error_vjp)


def test_finite_differences_catch_planted_errors() -> None:
    logits, labels = rng().standard_normal((4, 5)), np.array([0, 4, 2, 2])

    def check(vjp: Any) -> None:
        directional_check(
            lambda logits: ops.softmax_cross_entropy(logits, labels),
            lambda dloss, logits: vjp(dloss, logits, labels),
            [logits],
        )

    assert_planted_caught(check, ops.softmax_cross_entropy_vjp)


@pytest.mark.parametrize("dtype", DTYPES)
def test_confident_classifiers_keep_their_gradient(dtype: str) -> None:
    """p - 1 would be 0 in floating point where the classifier is sure; attacks live on what is left."""
    logits = np.array([[60.0, 0.0]], dtype=dtype)
    gradient = ops.softmax_cross_entropy_vjp(np.ones(1, dtype), logits, np.array([0]))
    np.testing.assert_allclose(gradient, math.exp(-60) * np.array([[-1, 1]]), rtol=1e-5)


def test_squared_errors_are_sums() -> None:
    assert ops.squared_error(np.full((1, 1, 28, 28), 0.5), np.zeros((1, 1, 28, 28)))[0] == 784 / 4


L, Y = np.zeros((2, 3)), np.zeros(2, dtype=int)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.softmax_cross_entropy(L[0], Y), "logits: expected 2 axes"),
        (lambda: ops.softmax_cross_entropy(L.astype(int), Y), "logits: expected float32 or float64"),
        (lambda: ops.softmax_cross_entropy(L, Y[:1]), "labels: expected shape"),
        (lambda: ops.softmax_cross_entropy(L, Y[None]), "labels: expected 1 axes"),
        (lambda: ops.softmax_cross_entropy(L, Y.astype(float)), "labels: expected integers"),
        (lambda: ops.softmax_cross_entropy_vjp(L, L, Y), "dloss: expected shape"),
        (lambda: ops.squared_error(L, L[:1]), "target: expected shape"),
        (lambda: ops.squared_error(L, L.astype("float32")), "target: expected dtype float64"),
        (lambda: ops.squared_error(Y, Y), "output: expected float32 or float64"),
        (lambda: ops.squared_error_vjp(L, L, L), "dloss: expected shape"),
    ],
)
def test_complaints(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
