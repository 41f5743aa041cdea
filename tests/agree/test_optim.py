"""Optimiser steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DTYPES, dtypes, floats_of_shape, shapes_nchw
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu


@st.composite
def states(draw: st.DrawFn) -> tuple[Any, ...]:
    """Parameter, gradient, first mean, second mean."""
    shape, dtype = draw(shapes_nchw()), draw(dtypes())
    p, g, m, v = (draw(floats_of_shape(shape, dtype=dtype)) for _ in range(4))
    return p, g, m, v * v


@given(states(), st.sampled_from([1, 2, 1000, 10**6]), st.sampled_from([0.0, 1e-3, 0.1]))
def test_adam_step(arrays: tuple[Any, ...], step: int, learning_rate: float) -> None:
    settings = {"step": step, "learning_rate": learning_rate}
    moved = agree("adam_step", *arrays, **settings, epsilon=1e-4, scale=(np.abs(arrays[0]) + 1, None, None))[0]
    assert moved.shape == arrays[0].shape


@given(states(), st.sampled_from([0.0, 0.9, 1.0]))
def test_sgd_step(arrays: tuple[Any, ...], momentum: float) -> None:
    scale = sum(np.abs(array) for array in arrays[:3])
    agree("sgd_step", *arrays[:3], learning_rate=0.1, momentum=momentum, scale=scale)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    arrays = tuple(np.random.default_rng(0).random((4, 3, 5)).astype(dtype))
    settings: dict[str, Any] = {"step": 3, "learning_rate": 0.1}
    assert_planted_caught(lambda f: agree("adam_step", *arrays, **settings, op=f), gpu.adam_step)
    assert_planted_caught(lambda f: agree("sgd_step", *arrays[:3], learning_rate=0.1, op=f), gpu.sgd_step)


def test_complaints() -> None:
    p = np.zeros(3)
    good = {"step": 1, "learning_rate": 0.1}
    for bad in ({"step": 0}, {"learning_rate": -1}, {"beta1": 1.0}, {"beta2": -0.1}, {"epsilon": 0}, {"step": 1.5}):
        complain_alike("adam_step", p, p, p, p, **{**good, **bad})
    complain_alike("adam_step", p, p, p, p[:2], **good)
    complain_alike("adam_step", p, p.astype("float32"), p, p, **good)
    complain_alike("sgd_step", p, p, p[:2], learning_rate=0.1)
    complain_alike("sgd_step", p, p, p, learning_rate=0.1, momentum=1.5)
