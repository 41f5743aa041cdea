"""Upsampling on both backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DTYPES, floats_of_shape, images_nchw
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu, ref

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


def check_bilinear(x: Any, dy: Any, corners: bool, forward: Any = None, vjp: Any = None) -> None:
    settings = {"align_corners": corners}
    scale = ref.upsample_bilinear(abs(x), output_size=dy.shape[2:], **settings)
    agree("upsample_bilinear", x, output_size=dy.shape[2:], **settings, scale=scale, op=forward)
    scale = ref.upsample_bilinear_vjp(abs(dy), x.shape, **settings)
    agree("upsample_bilinear_vjp", dy, x.shape, **settings, scale=scale, op=vjp)


@given(images_nchw(), SIZES, st.booleans(), st.data())
def test_upsample(x: Any, size: Any, corners: bool, data: st.DataObject) -> None:
    dy = data.draw(floats_of_shape((*x.shape[:2], *size), dtype=str(x.dtype)))
    agree("upsample_nearest", x, output_size=size, exact=True)
    agree("upsample_nearest_vjp", dy, x.shape, exact=True)
    check_bilinear(x, dy, corners)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    generator = np.random.default_rng(13)
    x, dy = (generator.standard_normal(shape).astype(dtype) for shape in ((2, 3, 4, 6), (2, 3, 7, 8)))
    assert_planted_caught(lambda f: agree("upsample_nearest", x, output_size=7, op=f), gpu.upsample_nearest)
    assert_planted_caught(lambda f: agree("upsample_nearest_vjp", dy, x.shape, op=f), gpu.upsample_nearest_vjp)
    assert_planted_caught(lambda f: check_bilinear(x, dy, False, forward=f), gpu.upsample_bilinear)
    assert_planted_caught(lambda f: check_bilinear(x, dy, False, vjp=f), gpu.upsample_bilinear_vjp)


X = np.ones((2, 3, 4, 5))


def test_complaints() -> None:
    for name in ("upsample_nearest", "upsample_bilinear"):
        for x in (X[0], X.astype(int), X[:, :, :0]):
            complain_alike(name, x, output_size=2)
        for size in (0, 1.5, 5000, (1, 2, 3)):
            complain_alike(name, X, output_size=size)
        for shape in ((2, 3, 4), (2, 2, 4, 5), (2, 3, 0, 5)):
            complain_alike(f"{name}_vjp", X, shape)
        complain_alike(f"{name}_vjp", X[0], X.shape)
        complain_alike(f"{name}_vjp", X.astype(int), X.shape)
    complain_alike("upsample_bilinear", X, output_size=2, align_corners=1)
    complain_alike("upsample_bilinear_vjp", X, X.shape, align_corners=1)
