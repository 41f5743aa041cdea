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


def check_divergence(kl_divergence: Any, logits: Any, other: Any) -> None:
    with assert_not_mutated(logits, other):
        loss = kl_divergence(logits, other)
    assert_no_alias(loss, logits, other)
    log_p, log_q = log_probabilities(logits), log_probabilities(other)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    scale = (magnitude(logits) + magnitude(other))[:, 0] ** 2
    assert_close(loss, expected, op="kl_divergence", dtype=str(logits.dtype), scale=scale)


@given(logits_nk(), st.data())
def test_divergence(case: LogitsAndLabels, data: st.DataObject) -> None:
    other = data.draw(floats_of_shape(case.logits.shape, dtype=str(case.logits.dtype)))
    check_divergence(ops.kl_divergence, case.logits, other)
    np.testing.assert_array_equal(ops.kl_divergence(case.logits, case.logits), 0)


def test_gradients_of_the_divergence() -> None:
    logits, other = rng().standard_normal((2, 4, 5))

    def check(vjp: Any) -> None:
        directional_check(lambda a, b: ops.kl_divergence(a, b), vjp, [logits, other])

    assert_planted_caught(check, ops.kl_divergence_vjp)
    assert_planted_caught(lambda f: check_divergence(f, logits, other), ops.kl_divergence)


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
        (lambda: ops.kl_divergence(L[0], L), "logits: expected 2 axes"),
        (lambda: ops.kl_divergence(L, L[:1]), "other: expected shape"),
        (lambda: ops.kl_divergence(L, L.astype("float32")), "other: expected dtype float64"),
        (lambda: ops.kl_divergence_vjp(L, L, L), "dloss: expected shape"),
        (lambda: ops.squared_error(L, L[:1]), "target: expected shape"),
        (lambda: ops.squared_error(L, L.astype("float32")), "target: expected dtype float64"),
        (lambda: ops.squared_error(Y, Y), "output: expected float32 or float64"),
        (lambda: ops.squared_error_vjp(L, L, L), "dloss: expected shape"),
    ],
)
def test_complaints(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# Losses of attacks -----------------------------------------------------------------------------------------


def by_the_book(z: list[float], y: int, t: int | None, *, ratio: bool) -> float:
    """Margin, or difference of logits ratio, of one sample."""
    rival = max(score for k, score in enumerate(z) if k != y) if t is None else z[t]
    if not ratio:
        return rival - z[y]
    first, _, third, *rest = sorted(z, reverse=True)
    return (rival - z[y]) / (first - (third if t is None else (third + rest[0]) / 2) + 1e-12)


def spreads(logits: Any, targets: Any) -> Any:
    ordered = -np.sort(-logits.astype("float64"), axis=1)
    return ordered[:, 0] - (ordered[:, 2] if targets is None else (ordered[:, 2] + ordered[:, 3]) / 2) + 1e-12


@given(logits_nk(), st.booleans(), st.integers(1, 9))
def test_margin_and_ratio(case: LogitsAndLabels, targeted: bool, shift: int) -> None:
    logits, labels = case
    k = logits.shape[1]
    targets = (labels + 1 + (shift - 1) % (k - 1)) % k if targeted else None
    for name, least in (("margin_loss", 2), ("dlr_loss", 4 if targeted else 3)):
        if k < least:
            continue
        with assert_not_mutated(logits, labels):
            loss = getattr(ops, name)(logits, labels, targets)
        expected = [
            by_the_book(z.tolist(), y, None if targets is None else targets[i], ratio=name == "dlr_loss")
            for i, (z, y) in enumerate(zip(logits.astype("float64"), labels, strict=True))
        ]
        scale = magnitude(logits)[:, 0]
        if name == "dlr_loss":
            spread = spreads(logits, targets)
            scale = scale / spread * (1 + np.abs(expected))
        assert_close(loss, np.array(expected), op=name, dtype=str(logits.dtype), scale=scale)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["margin_loss", "dlr_loss"])
def test_gradients_of_margin_and_ratio(name: str, targeted: bool) -> None:
    logits, labels = rng().standard_normal((6, 5)), np.array([0, 4, 2, 2, 1, 3])
    targets = (labels + 2) % 5 if targeted else None

    def check(f_vjp: Any) -> None:
        directional_check(
            lambda z: getattr(ops, name)(z, labels, targets), lambda w, z: f_vjp(w, z, labels, targets), [logits]
        )

    assert_planted_caught(check, getattr(ops, f"{name}_vjp"))


def test_the_ratio_does_not_depend_on_shift_and_scale() -> None:
    logits, labels = rng().standard_normal((6, 5)), np.arange(6) % 5
    for targets in (None, (labels + 1) % 5):
        ratio = ops.dlr_loss(logits, labels, targets)
        np.testing.assert_allclose(ops.dlr_loss(1e6 * logits + 3, labels, targets), ratio, rtol=1e-6)
    assert ((ops.dlr_loss(logits, labels) > 0) == (logits.argmax(axis=1) != labels)).all()


@given(logits_nk())
def test_other_classes(case: LogitsAndLabels) -> None:
    for z, y, others in zip(*case, ops.other_classes(*case), strict=True):
        assert others.tolist() == sorted((k for k in range(len(z)) if k != y), key=lambda k: (-z[k], k))


def test_ties_and_edges() -> None:
    logits, labels = np.array([[1.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]]), np.array([1, 0])
    assert ops.other_classes(logits, labels).tolist() == [[2, 0, 3], [1, 2, 3]]
    assert ops.margin_loss(logits, labels).tolist() == [0.0, 0.0]
    assert ops.dlr_loss(logits, labels).tolist() == [0.0, 0.0]
    assert ops.margin_loss_vjp(np.ones(2), logits, labels).tolist() == [[0, -1, 1, 0], [-1, 1, 0, 0]]
    assert ops.other_classes(np.array([[0.0, np.nan, 1.0]]), np.array([0])).tolist() == [[2, 1]]
    for name in ("margin_loss", "dlr_loss"):
        assert getattr(ops, name)(np.zeros((0, 4)), np.zeros(0, int)).shape == (0,)
    assert ops.other_classes(np.zeros((0, 4)), np.zeros(0, int)).shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "k", "targets", "message"),
    [
        ("margin_loss", 1, None, "logits: this loss needs at least 2 classes, got 1"),
        ("dlr_loss", 2, None, "logits: this loss needs at least 3 classes, got 2"),
        ("dlr_loss", 3, np.array([1, 1]), "logits: this loss needs at least 4 classes, got 3"),
        ("margin_loss", 3, np.array([1]), "targets: expected shape"),
        ("dlr_loss", 4, np.array([1.0, 1.0]), "targets: expected integers"),
    ],
)
def test_complaints_of_margin_and_ratio(name: str, k: int, targets: Any, message: str) -> None:
    for f, first in ((getattr(ops, name), ()), (getattr(ops, f"{name}_vjp"), (np.ones(2),))):
        with pytest.raises(InputError, match=message):
            f(*first, np.zeros((2, k)), np.zeros(2, int), targets)
