"""The Langevin step and its derivative."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DTYPES, dtypes, floats_of_shape, layouts, shapes_nchw
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu, to_device

SETTINGS = {"a": st.sampled_from([1e-3, 0.3, 2.0]), "delta": st.sampled_from([0.0, 0.1, 1.0]), "clip": st.booleans()}


@st.composite
def chains(draw: st.DrawFn) -> tuple[Any, ...]:
    """Gradient, position, residual, noise; each in a memory order of its own."""
    shape, dtype = draw(shapes_nchw()), draw(dtypes())
    layout = st.shared(layouts()) if draw(st.booleans()) else layouts()
    x = draw(floats_of_shape(shape, dtype=dtype, layout=draw(layout), uniform=True))
    return tuple(
        value if value is not None else draw(floats_of_shape(shape, dtype=dtype, layout=draw(layout)))
        for value in (None, x, None, None)
    )


def scale_of(dy: Any, x: Any, residual: Any, noise: Any, settings: Any) -> Any:
    return np.abs(x) + settings["a"] * np.abs(residual) + settings["delta"] * np.abs(noise)


@given(chains(), st.fixed_dictionaries(SETTINGS))
def test_langevin_step(arrays: tuple[Any, ...], settings: Any) -> None:
    agree("langevin_step", *arrays[1:], **settings, scale=scale_of(*arrays, settings))
    agree("langevin_step_vjp", *arrays, **settings)
    agree("clip_pixels", arrays[2], exact=True)
    x, residual, noise = map(to_device, arrays[1:])
    moved = gpu.langevin_step(x, residual, noise, **settings)
    assert moved.strides == gpu.clip_pixels(x).strides  # the memory order is that of the position


def test_not_a_number_stays_one() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.5, -0.0, 1.0, 1.5])
    agree("clip_pixels", x, exact=True)
    agree("langevin_step", x, x, x, a=1.0, delta=1.0, clip=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    arrays = tuple(np.random.default_rng(0).random((4, 3, 2)).astype(dtype))
    settings = {"a": 0.5, "delta": 0.25}
    assert_planted_caught(lambda f: agree("langevin_step", *arrays[1:], **settings, op=f), gpu.langevin_step)
    assert_planted_caught(lambda f: agree("langevin_step_vjp", *arrays, **settings, op=f), gpu.langevin_step_vjp)


def test_complaints() -> None:
    x = np.zeros((2, 1, 3, 3))
    good = {"a": 0.1, "delta": 0.1}
    complain_alike("langevin_step", x.astype(int), x, x, **good)
    complain_alike("langevin_step", x, x[:1], x, **good)
    complain_alike("langevin_step", x, x, x.astype("float32"), **good)
    for bad in ({"a": 0.0}, {"a": -1}, {"a": float("nan")}, {"delta": -0.1}, {"delta": float("inf")}, {"a": "big"}):
        complain_alike("langevin_step", x, x, x, **{**good, **bad})
        complain_alike("langevin_step_vjp", x, x, x, x, **{**good, **bad}, clip=True)
    complain_alike("langevin_step_vjp", x[:1], x, x, x, **good)
