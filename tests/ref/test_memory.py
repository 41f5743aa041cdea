"""Arrays in and out, and the checks at the entry of a driver."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from malade_ref import ops
from malade_ref.checks import InputError
from tests.strategies import DTYPES, LogitsAndLabels, images_nchw, logits_nk
from tests.tolerances import assert_not_mutated


def test_arrays_are_not_copied_without_need() -> None:
    x = np.zeros((2, 3), dtype="float32")
    assert ops.asarray(x) is x
    assert ops.asarray(x, dtype="float32") is x
    assert ops.to_host(x) is x
    assert ops.asarray([1, 2], dtype="float64").dtype == np.float64


def test_new_arrays() -> None:
    for make, value in ((ops.zeros, 0), (ops.ones, 1)):
        array = make((2, 3), "float32")
        assert array.dtype == np.float32
        assert array.shape == (2, 3)
        assert (array == value).all()
    assert ops.empty([4, 0], "float64").shape == (4, 0)
    assert ops.arange(3).tolist() == [0, 1, 2]
    assert ops.arange(0).dtype == np.int64


def test_joining() -> None:
    parts = [np.zeros((2, 3)), np.ones((1, 3))]
    assert ops.concatenate(parts).tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert ops.stack([parts[1], parts[1]]).shape == (2, 1, 3)


@given(logits_nk())
def test_argmax(case: LogitsAndLabels) -> None:
    with assert_not_mutated(case.logits):
        classes = ops.argmax(case.logits)
    assert classes.dtype == np.int64
    assert classes.tolist() == [row.index(max(row)) for row in case.logits.tolist()]


def test_argmax_takes_the_first_of_a_tie() -> None:
    assert ops.argmax(np.array([[0.0, 2.0, 2.0], [1.0, 1.0, 0.0]])).tolist() == [1, 0]


@pytest.mark.faults
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_a_number_is_no_class(dtype: str) -> None:
    rows = [[np.nan, 1, 2], [1, np.nan, 2], [1, 2, np.nan], [np.nan] * 3, [np.inf, 0, np.nan]]
    # Neither are probabilities where the largest logit is infinite.
    rows += [[np.inf, np.inf, 0], [0, np.inf, -np.inf], [-np.inf] * 3]
    classes = ops.argmax(np.array([*rows, [-np.inf, 1, 0]], dtype))
    assert classes.dtype == np.int64
    assert classes.tolist() == [-1] * 8 + [1]


# Images -----------------------------------------------------------------------------------------------------


@given(images_nchw())
def test_good_images_pass(x: Any) -> None:
    with assert_not_mutated(x):
        assert ops.check_images("x", x, x.shape[1:]) is x


def test_the_edges_are_inside() -> None:
    ops.check_images("x", np.array([0.0, -0.0, 1.0, 0.5]).reshape(1, 1, 2, 2), (1, 2, 2))


def image_with(value: float, image: int = 1) -> Any:
    x = np.full((3, 1, 2, 2), 0.5, dtype="float32")
    x[image, 0, 1, 0] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (image_with(np.nan), "x: image 1 has not a number; 1 such pixels"),
        (image_with(np.inf, 2), r"x: image 2 has pixel inf outside \[0, 1\]"),
        (image_with(-np.inf, 0), r"x: image 0 has pixel -inf outside"),
        (image_with(1.5), r"x: image 1 has pixel 1.5 outside \[0, 1\]; 1 such"),
        (image_with(-1e-6), "x: image 1 has pixel -1e-06 outside"),
        (255 * image_with(0), "image 0 has pixel 127.5 outside .*; 11 such pixels"),
        ((255 * image_with(0)).astype("uint8"), "got uint8; divide by 255"),
        (image_with(0) > 0.2, "got bool"),
        (image_with(0).astype("float16"), "x: expected float32 or float64, got float16"),
        (image_with(0).astype(complex), "x: expected float32 or float64"),
        (image_with(0)[0], r"x: expected 4 axes \(n, c, h, w\), got \(1, 2, 2\)"),
        (image_with(0)[:, :, :1], r"x: expected shape \(3, 1, 2, 2\), got \(3, 1, 1, 2\)"),
        (image_with(0).tolist(), "x: expected a NumPy array, got list"),
        (None, "x: expected a NumPy array, got NoneType"),
    ],
)
def test_bad_images(x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ops.check_images("x", x, (1, 2, 2))
    assert "\n" not in str(caught.value)


# Vectors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_good_vectors_pass(dtype: str) -> None:
    for n in (0, 3):
        x = np.linspace(-50, 50, 2 * n).reshape(n, 2).astype(dtype)
        assert ops.check_vectors("x", x, (2,)) is x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([[0, 1], [2, np.nan], [np.inf, 3]]), "x: vector 1 has a number that is not finite; 2 such numbers"),
        (np.zeros((3, 3)), r"x: expected shape \(3, 2\), got \(3, 3\)"),
        (np.zeros(2), r"x: expected 2 axes \(n, d\), got \(2,\)"),
        (np.zeros((3, 2), dtype=int), "x: expected float32 or float64, got int64"),
        ([[0.0, 1.0]], "x: expected a NumPy array, got list"),
    ],
)
def test_bad_vectors(x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ops.check_vectors("x", x, (2,))
    assert "\n" not in str(caught.value)


# Labels and sample numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_good_labels_pass(dtype: str) -> None:
    for values in ([0, 9, 3], []):
        y = np.array(values, dtype=dtype)
        assert ops.check_labels("y", y, len(values), 10) is y
        assert ops.check_sample_index("i", y, len(values)) is y


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0, 10, 11]), r"y: label 10 of sample 1 is outside 0\.\.9"),
        (np.array([0, 1, -1]), "y: label -1 of sample 2 is outside"),
        (np.array([0, 1]), r"y: expected shape \(3,\), got \(2,\)"),
        (np.array([[0, 1, 2]]), "y: expected 1 axes"),
        (np.array([0.0, 1.0, 2.0]), "y: expected integers, got float64"),
        (np.array([True, False, True]), "y: expected integers, got bool"),
        ([0, 1, 2], "y: expected a NumPy array, got list"),
    ],
)
def test_bad_labels(y: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ops.check_labels("y", y, 3, 10)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (np.array([0, 2**32, -1]), r"i: 4294967296 is outside 0\.\.2\*\*32 - 1"),
        (np.array([0, 1, -1]), "i: -1 is outside"),
        (np.array([0, 1]), r"i: expected shape \(3,\)"),
        (np.array([0.0, 1.0, 2.0]), "i: expected integers"),
        (range(3), "i: expected a NumPy array, got range"),
    ],
)
def test_bad_sample_numbers(index: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ops.check_sample_index("i", index, 3)
