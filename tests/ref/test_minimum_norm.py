"""Steps of attacks that look for the smallest perturbation: their closed forms, and their edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from tests.strategies import DTYPES, dtypes, floats_of_shape, shapes_nchw
from tests.tolerances import assert_close, assert_not_mutated, assert_planted_caught, directional_check


def rng() -> np.random.Generator:
    return np.random.default_rng(6)


# Onto a plane ----------------------------------------------------------------------------------------------


def shortest(x: Any, normal: Any, excess: float, norm: str) -> float:
    """Length of the shortest move of one image onto the plane, by bisection; of the longest if none gets there."""
    x, normal = x.astype("float64").ravel(), normal.astype("float64").ravel() * -math.copysign(1, excess)
    room = np.where(normal > 0, 1 - x, x) * (normal != 0)
    speed = np.ones_like(normal) if norm == "linf" else np.abs(normal)

    def move(t: float) -> Any:
        return np.minimum(t * speed, room) * (normal != 0)

    low, high = 0.0, 1e6
    for _ in range(100):
        t = (low + high) / 2
        low, high = (low, t) if np.abs(normal) @ move(t) >= abs(excess) else (t, high)
    return float(np.abs(move(high)).max() if norm == "linf" else np.linalg.norm(move(high)))


def check_plane_step(plane_step: Any, norm: str, x: Any, at: Any, normal: Any, value: Any) -> None:
    with assert_not_mutated(x, at, normal, value):
        move = plane_step(x, at, normal, value)
    assert move.dtype == x.dtype
    rounding = 1e-5 if x.dtype == np.float32 else 1e-12
    wide = [array.astype("float64") for array in (x, at, normal, move)]
    assert ((x + move >= -rounding) & (x + move <= 1 + rounding)).all()
    for p, q, g, d, v in zip(*wide, value, strict=True):
        excess = v + float((g * (p - q)).sum())
        after = excess + float((g * d).sum())
        reachable = abs(excess) <= float((np.abs(g) * np.where(g * -excess > 0, 1 - p, p)).sum())
        allowed = rounding * (1 + abs(excess) + np.abs(g).sum())
        if reachable:
            assert abs(after) <= allowed
        else:
            assert abs(after) <= abs(excess)
        length = float(np.abs(d).max() if norm == "linf" else np.linalg.norm(d))
        np.testing.assert_allclose(length, shortest(p, g, excess, norm), rtol=100 * rounding, atol=allowed)


@given(shapes_nchw(), dtypes(), st.sampled_from(["linf", "l2"]), st.sampled_from([0.0, 1e-3, 1.0, 100.0]), st.data())
def test_plane_steps(shape: Any, dtype: str, norm: str, size: float, data: st.DataObject) -> None:
    x, at, share = (data.draw(floats_of_shape(shape, dtype=dtype, uniform=True)) for _ in range(3))
    normal = (np.sign(share - 0.4) * (0.5 + share)).astype(dtype)
    value = size * data.draw(floats_of_shape(shape[:1], dtype="float64"))
    if math.prod(shape):
        check_plane_step(getattr(ops, f"plane_step_{norm}"), norm, x, at, normal, value)
    else:
        assert getattr(ops, f"plane_step_{norm}")(x, at, normal, value).shape == shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_planted_errors_of_plane_steps_are_caught(norm: str, dtype: str) -> None:
    x, at = rng().uniform(0.2, 0.8, (2, 3, 1, 3, 3)).astype(dtype)
    normal = rng().choice([-1.0, 1.0], x.shape).astype(dtype)
    value = np.array([1.0, -2.0, 1.5])
    assert_planted_caught(lambda f: check_plane_step(f, norm, x, at, normal, value), getattr(ops, f"plane_step_{norm}"))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_planes_that_are_none(norm: str) -> None:
    step = getattr(ops, f"plane_step_{norm}")
    x = np.full((4, 1, 2, 2), 0.5)
    normal = np.stack([np.zeros((1, 2, 2)), np.full((1, 2, 2), np.nan), np.full((1, 2, 2), np.inf), np.ones((1, 2, 2))])
    assert (step(x, x, normal, np.array([1.0, 1.0, 1.0, np.nan])) == 0).all()


# Change of variables ---------------------------------------------------------------------------------------


@given(shapes_nchw(), dtypes(), st.data())
def test_tanh_space(shape: Any, dtype: str, data: st.DataObject) -> None:
    x = data.draw(floats_of_shape(shape, dtype=dtype, uniform=True))
    back = ops.from_tanh_space(ops.to_tanh_space(x))
    assert back.dtype == x.dtype
    assert (np.abs(back.astype("float64") - x) <= 6e-7).all()
    far = ops.from_tanh_space(1e6 * data.draw(floats_of_shape(shape, dtype=dtype)))
    assert ((far >= 0) & (far <= 1)).all()


def test_cw_gradient() -> None:
    w, slope, centre = rng().standard_normal((3, 3, 1, 2, 2))
    weight = np.array([0.0, 1.0, 7.0])

    def objective(w: Any) -> Any:
        pixels = (np.tanh(w) + 1) / 2
        return ((pixels - centre) ** 2 - weight[:, None, None, None] * slope * pixels).sum(axis=(1, 2, 3))

    def check(f: Any) -> None:
        directional_check(
            objective, lambda dy, w: dy[:, None, None, None] * f(w, slope, centre, weight), [w], rtol=1e-8
        )

    assert_planted_caught(check, ops.cw_gradient)
    slope[1] = np.nan
    assert (ops.cw_gradient(w, slope, centre, weight)[1] == ops.cw_gradient(w, 0 * w, centre, weight)[1]).all()
    ends = ops.cw_gradient(np.array([[-800.0, 800.0, 20.0]]), np.ones((1, 3)), np.zeros((1, 3)), np.ones(1))
    np.testing.assert_allclose(ends, [[0.0, 0.0, 2 * math.exp(-40)]], rtol=1e-12)


# EAD, FAB, points between ----------------------------------------------------------------------------------


def test_ead_step() -> None:
    """Pixel by pixel: shrunk to the centre, moved by beta from either side, clipped at either end."""
    centre = np.array([[0.5, 0.5, 0.5, 0.9, 0.1]])
    y = np.array([[0.52, 0.7, 0.3, 1.2, -0.2]])
    x, still = np.full_like(y, 0.4), np.zeros_like(y)
    new, ahead = ops.ead_step(y, x, still, centre, np.zeros(1), step_size=0.0, beta=0.05, momentum=0.5)
    np.testing.assert_allclose(new, [[0.5, 0.65, 0.35, 1.0, 0.0]], atol=1e-15)
    np.testing.assert_allclose(ahead, new + 0.5 * (new - x), atol=1e-15)
    new, _ = ops.ead_step(y, x, still + 3, centre, 2 * np.ones(1), step_size=0.01, beta=0.0, momentum=0.0)
    np.testing.assert_allclose(new, np.clip(y - 0.01 * (2 * (y - centre) - 6), 0, 1), atol=1e-15)
    new, _ = ops.ead_step(y, x, still + np.nan, centre, np.ones(1), step_size=0.01, beta=0.05, momentum=0.5)
    assert (new == centre).all()


@given(shapes_nchw(), dtypes(), st.data())
def test_points_between(shape: Any, dtype: str, data: st.DataObject) -> None:
    x, other = (data.draw(floats_of_shape(shape, dtype=dtype, uniform=True)) for _ in range(2))
    share = data.draw(floats_of_shape(shape[:1], dtype="float64", uniform=True))
    a = share.reshape(-1, 1, 1, 1)
    wide = x.astype("float64"), other.astype("float64")
    assert_close(ops.interpolate(x, other, share), (1 - a) * wide[0] + a * wide[1], op="interpolate", scale=1 + 0 * x)
    expected = np.clip((1 - a) * (wide[0] + 1.05 * wide[1]) + a * (wide[1] - 1.05 * wide[0]), 0, 1)
    assert_close(ops.fab_step(x, other, other, -x, share, overshoot=1.05), expected, op="fab_step", scale=3 + 0 * x)
    none, all_ = np.zeros(len(x)), np.ones(len(x))
    assert (ops.interpolate(x, other, none) == x).all()
    assert (ops.interpolate(x, other, all_) == other).all()
