"""Steps of attacks that look for the smallest perturbation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DTYPES, dtypes, floats_of_shape, shapes_nchw
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu

SPECIAL = (0.0, np.nan, np.inf, -np.inf, 1e-30, 1e30)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Images, clean images, gradients of which one may be special, and numbers of the samples."""
    shape, dtype = draw(shapes_nchw()), draw(dtypes())
    found = {name: draw(floats_of_shape(shape, dtype=dtype, uniform=True)) for name in ("x", "centre")}
    found |= {name: draw(floats_of_shape(shape, dtype=dtype)) for name in ("w", "gradient")}
    if found["gradient"].size:
        special = draw(st.sampled_from([None, *SPECIAL]))
        if special is not None:
            found["gradient"][draw(st.integers(0, shape[0] - 1))] = special
    found["share"] = draw(floats_of_shape(shape[:1], dtype="float64", uniform=True))
    return found


@given(cases())
def test_changes_of_variables(case: dict[str, Any]) -> None:
    x, w, gradient, centre, share = (case[name] for name in ("x", "w", "gradient", "centre", "share"))
    agree("to_tanh_space", x, scale=8 + 0 * x)
    pixels = agree("from_tanh_space", w, scale=1 + 0 * w)
    assert ((pixels >= 0) & (pixels <= 1)).all()
    usable = np.where(np.isfinite(gradient), np.abs(gradient), 0)
    agree("cw_gradient", w, gradient, centre, share, scale=2 + usable.astype("float64"))


@given(cases(), st.sampled_from([0.0, 1e-3, 0.3]), st.sampled_from([0.0, 0.01, 2.0]))
def test_ead_step(case: dict[str, Any], beta: float, step_size: float) -> None:
    x, y, gradient, centre, share = (case[name] for name in ("x", "w", "gradient", "centre", "share"))
    # Where a pixel is about to be shrunk to its centre, rounding decides: such are left out.
    z = y - step_size * (2 * (y - centre) - share.reshape(-1, 1, 1, 1) * np.where(np.isfinite(gradient), gradient, 0))
    near = np.abs(np.abs(z - centre) - beta) < 1e-4 * (1 + np.abs(z))
    gradient, y = np.where(near, 0, gradient).astype(y.dtype), np.where(near, centre, y)
    sizes = np.where(np.isfinite(gradient), 1 + np.abs(y) + np.abs(gradient), 1).astype("float64")
    settings = {"step_size": step_size, "beta": beta, "momentum": 0.5, "scale": sizes}
    new, _ = agree("ead_step", y, x, gradient, centre, share, **settings)
    assert ((new >= 0) & (new <= 1)).all()


@given(cases(), st.data(), st.sampled_from([0.0, 1e-6, 0.1, 1.0, 1e4]), st.integers(0, 2**32))
def test_plane_steps(case: dict[str, Any], data: st.DataObject, size: float, seed: int) -> None:
    """Weights of similar size: where a tiny one alone is left to bring a point onto the plane, rounding decides."""
    x, at = case["x"], case["centre"]
    rng = np.random.default_rng(seed)
    normal = (rng.choice([-1.0, 0.0, 1.0], x.shape) * rng.uniform(0.5, 1, x.shape)).astype(x.dtype)
    if len(x):
        normal[0] = data.draw(st.sampled_from([1.0, *SPECIAL]))
    value = size * rng.standard_normal(len(x))
    for name in ("plane_step_linf", "plane_step_l2"):
        pixels = max(1, x[:1].size)
        move = agree(name, x, at, normal, value, scale=(1 + pixels) * np.ones_like(x, dtype="float64"))
        assert ((x + move >= -1e-6) & (x + move <= 1 + 1e-6)).all()
    if len(x):
        value[0] = np.nan
        assert (agree("plane_step_l2", x, at, normal, value, scale=10 + 0 * x)[0] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_plane_steps_with_little_room_to_spare(dtype: str) -> None:
    """All pixels but a few end at 0 or 1."""
    rng = np.random.default_rng(2)
    x = rng.random((3, 1, 4, 4)).astype(dtype)
    normal = (rng.choice([-1.0, 1.0], x.shape) * rng.uniform(0.5, 1, x.shape)).astype(dtype)
    room = np.where(normal < 0, 1 - x, x).astype("float64")
    value = 0.99 * (np.abs(normal) * room).sum(axis=(1, 2, 3))
    for name in ("plane_step_linf", "plane_step_l2"):
        move = agree(name, x, x, normal, value, scale=10 + 0 * x)
        np.testing.assert_allclose((normal * move).sum(axis=(1, 2, 3), dtype="float64"), -value, rtol=1e-5)


@given(cases(), st.sampled_from([0.0, 1.0, 1.05]))
def test_points_between(case: dict[str, Any], overshoot: float) -> None:
    x, centre, step, share = (case[name] for name in ("x", "centre", "w", "share"))
    agree("interpolate", x, centre, share, scale=1 + 0 * x)
    agree("fab_step", x, centre, step, -step, share, overshoot=overshoot, scale=1 + np.abs(step))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    rng = np.random.default_rng(1)
    x, centre = rng.uniform(0.2, 0.8, (2, 3, 2, 5, 5)).astype(dtype)
    gradient = rng.choice([-1.0, 1.0], x.shape).astype(dtype)
    share = rng.random(3)
    operations: dict[str, tuple[Any, ...]] = {
        "to_tanh_space": (x, {}),
        "from_tanh_space": (gradient, {}),
        "cw_gradient": (x, gradient, centre, share, {}),
        "ead_step": (x, centre, gradient, centre, share, {"step_size": 0.1, "beta": 1e-3, "momentum": 0.5}),
        "plane_step_linf": (x, centre, gradient, 4 + share, {}),
        "plane_step_l2": (x, centre, gradient, 4 + share, {}),
        "fab_step": (x, centre, x - centre, centre - x, share, {"overshoot": 0.1}),
        "interpolate": (x, centre, share, {}),
    }
    for name, (*arrays, settings) in operations.items():
        assert_planted_caught(
            lambda f, name=name, arrays=arrays, settings=settings: agree(name, *arrays, **settings, op=f),
            getattr(gpu, name),
        )


X = np.full((2, 1, 3, 3), 0.5)
V = np.ones(2)


def test_complaints() -> None:
    for name in ("to_tanh_space", "from_tanh_space"):
        complain_alike(name, X.astype(int))
    wrong = (X[:1], X.astype("float32"))
    for bad in wrong:
        complain_alike("cw_gradient", X, bad, X, V)
        complain_alike("ead_step", X, X, bad, X, V, step_size=1, beta=1, momentum=1)
        complain_alike("plane_step_l2", X, X, bad, V)
        complain_alike("plane_step_linf", X, bad, X, V)
        complain_alike("fab_step", X, X, X, bad, V, overshoot=1)
        complain_alike("interpolate", X, bad, V)
    complain_alike("cw_gradient", X, X, X, V[:1])
    complain_alike("ead_step", X, X, X, X, V[:1], step_size=1, beta=1, momentum=1)
    complain_alike("ead_step", X, X, X, X, V, step_size=1, beta=-1, momentum=1)
    complain_alike("plane_step_l2", X, X, X, V[:1])
    complain_alike("fab_step", X, X, X, X, V[:1], overshoot=1)
    complain_alike("fab_step", X, X, X, X, V, overshoot=-1)
    complain_alike("interpolate", X, X, V[:1])
