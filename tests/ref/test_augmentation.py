"""Crops and flips: against loops, and by counters: a sample's do not depend on its batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.augmentation import Augmentation
from malade_ref.checks import InputError
from malade_ref.objectives import Batch
from tests.strategies import DTYPES, images_nchw
from tests.tolerances import assert_no_alias, assert_not_mutated, assert_planted_caught


def by_the_book(x: Any, top: Any, left: Any, flip: Any) -> Any:
    """Padded far enough with zeros, cut out, and turned round."""
    n, _, h, w = x.shape
    far = 1 + max([0, *abs(top).tolist(), *abs(left).tolist()])
    padded = np.pad(x, ((0, 0), (0, 0), (far, far), (far, far)))
    y = np.empty_like(x)
    for i in range(n):
        window = padded[i, :, far + top[i] : far + top[i] + h, far + left[i] : far + left[i] + w]
        y[i] = window[:, :, ::-1] if flip[i] else window
    return y


def check(op: Any, x: Any, top: Any, left: Any, flip: Any) -> None:
    with assert_not_mutated(x, top, left, flip):
        y = op(x, top, left, flip)
    assert_no_alias(y, x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, by_the_book(x, top, left, flip), strict=True)


def places(data: Any, n: int) -> tuple[Any, ...]:
    offsets = st.lists(st.integers(-7, 7), min_size=n, max_size=n)
    top, left = (np.array(data.draw(offsets), dtype=np.int64) for _ in range(2))
    return top, left, np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)


@given(images_nchw(), st.data())
def test_crop_flip(x: Any, data: st.DataObject) -> None:
    check(ops.crop_flip, x, *places(data, len(x)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    x = np.random.default_rng(0).random((3, 2, 4, 5)).astype(dtype)
    arrays = (x, np.array([1, 0, -1]), np.array([0, 2, -2]), np.array([True, False, True]))
    assert_planted_caught(lambda f: check(f, *arrays), ops.crop_flip)


def test_without_images() -> None:
    none = np.zeros(0, dtype=int)
    assert ops.crop_flip(np.zeros((0, 3, 4, 4)), none, none, none.astype(bool)).shape == (0, 3, 4, 4)


X, T, F = np.zeros((2, 1, 3, 3)), np.zeros(2, dtype=int), np.zeros(2, dtype=bool)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((X[0], T, T, F), "x: expected 4 axes"),
        ((X.astype(int), T, T, F), "x: expected float32 or float64"),
        ((X, T[:1], T, F), "top: expected shape"),
        ((X, T, T.astype(float), F), "left: expected integers"),
        ((X, T, T, T), "flip: expected booleans"),
    ],
)
def test_complaints(arguments: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ops.crop_flip(*arguments)


def batch(index: Any, *, epoch: int = 0, seed: int = 0) -> Batch:
    x = np.random.default_rng(5).random((40, 3, 8, 8))
    return Batch(x[index], np.zeros(len(index), dtype=int), index, epoch, seed)


def test_a_sample_is_moved_alike_in_any_batch() -> None:
    augmentation = Augmentation(pad=2, flip=True)
    whole = augmentation.apply(ops, batch(np.arange(40), epoch=3)).x
    for index in (np.array([7]), np.array([30, 7, 2]), np.arange(5, 12)):
        np.testing.assert_array_equal(augmentation.apply(ops, batch(index, epoch=3)).x, whole[index])
    for other in (batch(np.arange(40), epoch=4), batch(np.arange(40), epoch=3, seed=1)):
        assert not np.array_equal(augmentation.apply(ops, other).x, whole)


def test_every_place_is_as_likely() -> None:
    """All (2 pad + 1)^2 windows, each mirrored half of the time, and no other image."""
    augmentation, index = Augmentation(pad=1, flip=True), np.arange(9000)
    x = np.zeros((9000, 1, 3, 3))
    x[:] = np.arange(1.0, 10.0).reshape(3, 3)
    found = augmentation.apply(ops, Batch(x, index * 0, index, 0, 0)).x
    kinds, counts = np.unique(found.reshape(9000, 9), axis=0, return_counts=True)
    assert len(kinds) == 18
    assert abs(counts - 500).max() < 5 * np.sqrt(500)


def test_parts() -> None:
    some, index = batch(np.arange(40)), np.arange(40)
    unmoved = Augmentation(pad=0, flip=True).apply(ops, some).x
    as_they_were = (unmoved == some.x).all(axis=(1, 2, 3))
    mirrored = (unmoved == some.x[..., ::-1]).all(axis=(1, 2, 3))
    assert (as_they_were ^ mirrored).all()
    assert 8 < mirrored.sum() < 32
    moved = Augmentation(pad=2).apply(ops, some)
    assert moved.sample_index is some.sample_index
    assert moved.x.shape == some.x.shape
    assert not any((moved.x == x[..., ::-1]).all() for x in some.x[index])


@pytest.mark.parametrize("settings", [{"pad": -1}, {"pad": 1.5}, {"pad": 10**7}, {"flip": 1}, {}])
def test_bad_settings(settings: Any) -> None:
    with pytest.raises(InputError, match="augment") as caught:
        Augmentation(**settings)
    assert "\n" not in str(caught.value)
