"""Losses and their derivatives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DTYPES, LogitsAndLabels, floats_of_shape, images_nchw, logits_nk, matrices_nd
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu, on_device


def magnitude(logits: Any) -> Any:
    """What the rounding of a logarithm of probabilities is relative to."""
    return 1 + np.abs(logits).max(axis=1, initial=0, keepdims=True).astype("float64")


@given(logits_nk(), st.data())
def test_cross_entropy(case: LogitsAndLabels, data: st.DataObject) -> None:
    scale = magnitude(case.logits)
    agree("log_softmax", case.logits, scale=scale)
    agree("softmax_cross_entropy", *case, scale=scale[:, 0])
    agree("softmax_cross_entropy", case.logits, case.labels.astype("uint8"), scale=scale[:, 0])
    dloss = data.draw(floats_of_shape(case.labels.shape, dtype=str(case.logits.dtype)))
    # The reference's probabilities come from logarithms, whose rounding grows with the logits.
    agree("softmax_cross_entropy_vjp", dloss, *case, scale=np.abs(dloss)[:, None] * scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_classes(dtype: str) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((3, 1000)).astype(dtype), np.array([0, 999, 500])
    agree("log_softmax", logits, scale=magnitude(logits))
    agree("softmax_cross_entropy", logits, labels)
    agree("softmax_cross_entropy_vjp", np.ones(3, dtype), logits, labels)


@pytest.mark.parametrize("dtype", DTYPES)
def test_confident_classifiers_keep_their_loss_and_gradient(dtype: str) -> None:
    logits, labels = np.array([[60.0, 0.0, 0.0]], dtype=dtype), np.array([0])
    loss = on_device(gpu.softmax_cross_entropy)(logits, labels)
    gradient = on_device(gpu.softmax_cross_entropy_vjp)(np.ones(1, dtype), logits, labels)
    np.testing.assert_allclose(loss, 2 * math.exp(-60), rtol=1e-6)
    np.testing.assert_allclose(gradient, math.exp(-60) * np.array([[-2, 1, 1]]), rtol=1e-6)


def test_not_a_number_stays_in_its_sample() -> None:
    logits = np.array([[0.0, 1.0, 2.0], [0.0, np.nan, 1.0], [1.0, 0.0, 5.0]])
    labels = np.array([2, 0, 1])
    agree("log_softmax", logits)
    agree("softmax_cross_entropy", logits, labels)
    assert np.isnan(on_device(gpu.softmax_cross_entropy_vjp)(np.ones(3), logits, labels)).any(axis=1).tolist() == [
        False,
        True,
        False,
    ]


@given(logits_nk(), st.data(), st.booleans(), st.integers(1, 9))
def test_losses_of_attacks(case: LogitsAndLabels, data: st.DataObject, targeted: bool, shift: int) -> None:
    logits, labels = case
    k = logits.shape[1]
    targets = (labels + 1 + (shift - 1) % (k - 1)) % k if targeted else None
    dloss = data.draw(floats_of_shape(labels.shape, dtype=str(logits.dtype)))
    agree("other_classes", logits, labels, exact=True)
    agree("margin_loss", logits, labels, targets, exact=True)
    agree("margin_loss_vjp", dloss, logits, labels, targets, exact=True)
    if k < (4 if targeted else 3):
        return
    ordered = -np.sort(-logits.astype("float64"), axis=1)
    behind = (ordered[:, 2] + ordered[:, 3]) / 2 if targeted else ordered[:, 2]
    spread = ordered[:, 0] - behind + 1e-12
    rounding = magnitude(logits)[:, 0] / spread
    ratio = agree("dlr_loss", logits, labels, targets, scale=rounding * (1 + rounding))
    scale = (np.abs(dloss) / spread * (1 + np.abs(ratio)) * (1 + rounding))[:, None]
    agree("dlr_loss_vjp", dloss, logits, labels, targets, scale=scale)


@pytest.mark.slow
def test_ties_and_not_a_number_in_losses_of_attacks() -> None:
    logits = np.array([[1.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0], [0.0, np.nan, 1.0, np.nan]])
    labels = np.array([1, 3, 0])
    agree("other_classes", logits, labels, exact=True)
    agree("margin_loss", logits, labels, exact=True)
    agree("dlr_loss_vjp", np.ones(2), logits[:2], labels[:2])


@given(logits_nk(), st.data())
def test_divergence(case: LogitsAndLabels, data: st.DataObject) -> None:
    logits, dtype = case.logits, str(case.logits.dtype)
    other = data.draw(floats_of_shape(logits.shape, dtype=dtype))
    dloss = data.draw(floats_of_shape(case.labels.shape, dtype=dtype))
    size = magnitude(logits) + magnitude(other)
    agree("kl_divergence", logits, other, scale=size[:, 0] ** 2)
    slopes = np.abs(dloss)[:, None]
    agree("kl_divergence_vjp", dloss, logits, other, scale=(slopes * size**2, slopes * size))


def test_divergence_of_far_and_broken_scores() -> None:
    logits = np.array([[60.0, 0.0, 0.0], [0.0, np.nan, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0, 5.0]])
    other = np.array([[0.0, 60.0, 0.0], [1.0, 0.0, 1.0], [1.0, 2.0, 3.0], [9.0, 0.0, 0.0]])
    # Differences of scores cancel: rounding is relative to the scores, row by row.
    size = np.nan_to_num(magnitude(logits) + magnitude(other))
    found = agree("kl_divergence", logits, other, scale=size[:, 0] ** 2)
    assert np.isnan(found).tolist() == [False, True, False, False]
    assert (found[0], found[2]) == (pytest.approx(60), pytest.approx(0, abs=1e-15))
    agree("kl_divergence_vjp", np.ones(4), logits, other, scale=(size**2, size))


def sizes(output: Any, target: Any) -> Any:
    return (np.abs(output) + np.abs(target)).astype("float64")


@given(images_nchw() | matrices_nd(), st.data())
def test_squared_error(output: Any, data: st.DataObject) -> None:
    dtype = str(output.dtype)
    target = data.draw(floats_of_shape(output.shape, dtype=dtype))
    scale = (sizes(output, target) ** 2).sum(axis=tuple(range(1, output.ndim)))
    agree("squared_error", output, target, scale=scale)
    dloss = data.draw(floats_of_shape(output.shape[:1], dtype=dtype))
    slopes = 2 * np.abs(dloss).reshape(-1, *[1] * (output.ndim - 1))
    agree("squared_error_vjp", dloss, output, target, scale=slopes * sizes(output, target))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sample_does_not_depend_on_its_batch(dtype: str) -> None:
    rng = np.random.default_rng(0)
    logits, output, target = (rng.standard_normal((7, 33)).astype(dtype) for _ in range(3))
    labels, dloss = np.arange(7), rng.random(7).astype(dtype)
    for op, arrays in (
        (gpu.log_softmax, (logits,)),
        (gpu.softmax_cross_entropy, (logits, labels)),
        (gpu.softmax_cross_entropy_vjp, (dloss, logits, labels)),
        (gpu.kl_divergence, (logits, output)),
        (gpu.squared_error, (output, target)),
        (gpu.squared_error_vjp, (dloss, output, target)),
    ):
        alone = on_device(op)(*(array[5:6] for array in arrays))
        np.testing.assert_array_equal(alone, on_device(op)(*arrays)[5:6])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    rng = np.random.default_rng(3)
    logits, labels = rng.standard_normal((4, 5)).astype(dtype), np.array([0, 4, 2, 2])
    dloss = (1 + rng.random(4)).astype(dtype)
    output, target = rng.standard_normal((2, 4, 2, 3)).astype(dtype)
    for name, arrays in {
        "log_softmax": (logits,),
        "softmax_cross_entropy": (logits, labels),
        "softmax_cross_entropy_vjp": (dloss, logits, labels),
        "margin_loss": (logits, labels),
        "margin_loss_vjp": (dloss, logits, labels),
        "dlr_loss": (logits, labels, (labels + 1) % 5),
        "dlr_loss_vjp": (dloss, logits, labels),
        "kl_divergence": (logits, logits[::-1]),
        "kl_divergence_vjp": (dloss, logits, logits[::-1]),
        "squared_error": (output, target),
        "squared_error_vjp": (dloss, output, target),
    }.items():
        assert_planted_caught(lambda f, name=name, arrays=arrays: agree(name, *arrays, op=f), getattr(gpu, name))


L, Y = np.zeros((2, 3)), np.zeros(2, dtype=int)


def test_complaints() -> None:
    for arrays in ((L[0], Y), (L.astype(int), Y), (L, Y[:1]), (L, Y[None]), (L, Y.astype(float))):
        complain_alike("softmax_cross_entropy", *arrays)
        complain_alike("softmax_cross_entropy_vjp", Y.astype(float), *arrays)
    complain_alike("softmax_cross_entropy_vjp", L, L, Y)
    for name in ("margin_loss", "dlr_loss"):
        for arrays in ((L[0], Y), (L, Y[:1]), (L[:, :1], Y), (L, Y, Y[:1]), (L, Y, Y.astype(float))):
            complain_alike(name, *arrays)
            complain_alike(f"{name}_vjp", Y.astype(float), *arrays)
        complain_alike(f"{name}_vjp", L, L, Y)
    complain_alike("dlr_loss", L[:, :2], Y)
    complain_alike("dlr_loss", L, Y, Y)
    complain_alike("other_classes", L, Y[:1])
    for arrays in ((L[0], L), (Y[:, None], L), (L, L[:1]), (L, L.astype("float32"))):
        complain_alike("kl_divergence", *arrays)
        complain_alike("kl_divergence_vjp", L[:, 0], *arrays)
    complain_alike("kl_divergence_vjp", L, L, L)
    for arrays in ((L, L[:1]), (L, L.astype("float32")), (Y, Y)):
        complain_alike("squared_error", *arrays)
    complain_alike("squared_error_vjp", L, L, L)
    complain_alike("squared_error_vjp", Y, L, L[:1])
