"""Crops and flips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ref.test_augmentation import places
from tests.strategies import DTYPES, images_nchw
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu


@given(images_nchw(), st.data())
def test_crop_flip(x: Any, data: st.DataObject) -> None:
    agree("crop_flip", x, *places(data, len(x)), exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_places(dtype: str) -> None:
    """Every window that meets the image, and some that do not, mirrored and not."""
    top, left = (grid.reshape(-1) for grid in np.mgrid[-4:5, -5:6])
    x = np.random.default_rng(0).random((len(top), 2, 3, 4)).astype(dtype)
    for flip in (top < 9, top > 9):
        agree("crop_flip", x, top, left.astype("int32"), flip, exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    x = np.random.default_rng(0).random((3, 2, 4, 5)).astype(dtype)
    arrays = (x, np.array([1, 0, -1]), np.array([0, 2, -2]), np.array([True, False, True]))
    assert_planted_caught(lambda f: agree("crop_flip", *arrays, op=f), gpu.crop_flip)


def test_complaints() -> None:
    x, n, f = np.zeros((2, 1, 3, 3)), np.zeros(2, dtype=int), np.zeros(2, dtype=bool)
    for arguments in (
        (x[0], n, n, f),
        (x.astype(int), n, n, f),
        (x, n[:1], n, f),
        (x, n, n.astype(float), f),
        (x, n, n, n),
    ):
        complain_alike("crop_flip", *arguments)
