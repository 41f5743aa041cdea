"""Pooling on both backends. Averages over tiles side by side are in test_layers, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DTYPES, POOLS, PoolCase, floats_of_shape, images_nchw, pool_cases
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu, ref


def rng() -> np.random.Generator:
    return np.random.default_rng(12)


@given(pool_cases() | pool_cases(ties=True), st.data())
def test_max_pool2d(case: PoolCase, data: st.DataObject) -> None:
    x, settings = case
    y, index = agree("max_pool2d", x, **settings, exact=True)
    dy = data.draw(floats_of_shape(y.shape, dtype=str(x.dtype)))
    agree("max_pool2d_vjp", dy, index, x.shape, **settings, exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_max_pool2d_and_avg_pool2d_at_the_edges(dtype: str) -> None:
    x = rng().standard_normal((2, 3, 7, 8)).astype(dtype)
    for settings in POOLS:
        y, index = agree("max_pool2d", x, **settings, exact=True)
        agree("max_pool2d_vjp", y, index, x.shape, **settings, exact=True)
        for flag in (True, False):
            agree("avg_pool2d", x, **settings, count_include_pad=flag)
            agree("avg_pool2d_vjp", y, x.shape, **settings, count_include_pad=flag, exact=True)


@given(pool_cases(), st.booleans(), st.data())
def test_avg_pool2d(case: PoolCase, count_include_pad: bool, data: st.DataObject) -> None:
    x, settings = case
    settings = {**settings, "count_include_pad": count_include_pad}
    shape = agree("avg_pool2d", x, **settings).shape
    dy = data.draw(floats_of_shape(shape, dtype=str(x.dtype)))
    agree("avg_pool2d_vjp", dy, x.shape, **settings, exact=True)


@given(images_nchw(), st.integers(1, 11), st.integers(1, 11), st.data())
def test_adaptive_avg_pool2d(x: Any, oh: int, ow: int, data: st.DataObject) -> None:
    agree("adaptive_avg_pool2d", x, output_size=(oh, ow), exact=True)
    dy = data.draw(floats_of_shape((*x.shape[:2], oh, ow), dtype=str(x.dtype)))
    agree("adaptive_avg_pool2d_vjp", dy, x.shape, exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinities(dtype: str) -> None:
    x = np.full((1, 1, 4, 4), -np.inf, dtype)
    x[0, 0, 0, 3] = x[0, 0, 1, 2] = np.nan
    x[0, 0, 0, 2], x[0, 0, 2, 1] = np.inf, 5
    for settings in ({"size": 2}, {"size": 3, "stride": 1, "padding": 1}):
        agree("max_pool2d", x, **settings, exact=True)
        with np.errstate(invalid="ignore"):
            agree("avg_pool2d", x, **settings)
    with np.errstate(invalid="ignore"):
        agree("adaptive_avg_pool2d", x, output_size=3, exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    x = rng().standard_normal((1, 1, 34, 31)).astype(dtype)
    settings = {"size": (3, 5), "stride": (2, 3), "padding": (1, 2)}
    y, index = ref.max_pool2d(x, **settings)
    cases: dict[str, tuple[Any, ...]] = {
        "max_pool2d": (x, settings),
        "max_pool2d_vjp": (y, index, x.shape, settings),
        "avg_pool2d": (x, settings),
        "avg_pool2d_vjp": (y, x.shape, settings),
        "adaptive_avg_pool2d": (x, {"output_size": (7, 6)}),
        "adaptive_avg_pool2d_vjp": (y, x.shape, {}),
    }
    for name, (*arrays, of_case) in cases.items():
        assert_planted_caught(
            lambda f, name=name, arrays=arrays, of_case=of_case: agree(name, *arrays, **of_case, op=f),
            getattr(gpu, name),
        )


X = np.ones((2, 3, 4, 5))


def test_complaints() -> None:
    for settings in (
        *({"size": size} for size in (5, 0, -1, 1.5, True, (1, 2, 3), (4, 6), 1 << 17)),
        *({"size": 2, "stride": stride} for stride in (0, 1.5, (1, 2, 3))),
        *({"size": 2, "padding": padding} for padding in (2, -1, (0, 2))),
        {"size": 7, "padding": 1},
        {"size": 2, "ceil_mode": 1},
    ):
        for name in ("max_pool2d", "avg_pool2d"):
            complain_alike(name, X, **settings)
        complain_alike("avg_pool2d_vjp", X, X.shape, **settings)
        complain_alike("max_pool2d_vjp", X, X, X.shape, **settings)
    for name in ("max_pool2d", "avg_pool2d"):
        complain_alike(name, X[0], size=1)
        complain_alike(name, X.astype(int), size=1)
    complain_alike("avg_pool2d", X, size=2, count_include_pad=2)
    complain_alike("avg_pool2d_vjp", X, X.shape, size=1, count_include_pad=2)
    complain_alike("max_pool2d_vjp", X, X[:1], X.shape, size=1)
    complain_alike("max_pool2d_vjp", X.astype(int), X, X.shape, size=1)
    complain_alike("avg_pool2d_vjp", X, (2, 3, 4), size=2)
    for output_size in (0, 1.5, 5000, (1, 2, 3)):
        complain_alike("adaptive_avg_pool2d", X, output_size=output_size)
    for x in (X[0], X.astype(int), X[:, :, :0]):
        complain_alike("adaptive_avg_pool2d", x, output_size=1)
    for shape in ((2, 3, 4), (2, 2, 4, 5), (2, 3, 0, 5)):
        complain_alike("adaptive_avg_pool2d_vjp", X, shape)
    complain_alike("adaptive_avg_pool2d_vjp", X[0], X.shape)
    complain_alike("adaptive_avg_pool2d_vjp", X.astype(int), X.shape)
