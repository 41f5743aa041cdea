"""Steps, projections, starts and distances of attacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DTYPES, dtypes, floats_of_shape, shapes_nchw
from tests.tolerances import assert_planted_caught

from .backends import agree, complain_alike, gpu, on_device

SIZES = st.sampled_from([0.0, 1e-9, 1e-3, 0.3, 1.0, 5.0]) | st.floats(0, 3)


@st.composite
def steps(draw: st.DrawFn, *, centred: bool = False) -> tuple[Any, Any]:
    """A position, or a clean image in [0, 1], and something of its shape; some samples' gradients are special."""
    shape, dtype = draw(shapes_nchw()), draw(dtypes())
    x = draw(floats_of_shape(shape, dtype=dtype, uniform=centred))
    other = draw(floats_of_shape(shape, dtype=dtype))
    if other.size:
        special = draw(st.sampled_from([None, 0.0, np.nan, np.inf, -np.inf, 1e-30, 1e30]))
        if special is not None:
            other[draw(st.integers(0, len(other) - 1))] = special
    return x, other


@given(steps(), SIZES)
def test_steps(arrays: Any, step_size: float) -> None:
    scale = np.abs(arrays[0]) + step_size
    agree("sign_step", *arrays, step_size=step_size, scale=scale)
    agree("normalised_step", *arrays, step_size=step_size, scale=scale)


@given(steps(centred=True), SIZES)
def test_projections(arrays: Any, eps: float) -> None:
    centre, direction = arrays
    x = centre + np.where(np.isfinite(direction), direction, 0).astype(centre.dtype)
    agree("project_linf", x, centre, eps=eps, exact=True)
    agree("linf_bounds", centre, eps, exact=True)
    y = agree("project_l2", x, centre, eps=eps, scale=np.abs(x) + np.abs(centre) + eps)
    if y.size:
        assert np.sqrt(((y.astype("float64") - centre) ** 2).sum(axis=(1, 2, 3))).max() <= eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_are_rounded_inwards(dtype: str) -> None:
    """Around powers of two, subnormal numbers, and the ends of the pixel range."""
    tiny = np.finfo(dtype).smallest_subnormal
    powers = 2.0 ** np.array([0, -1, -2, -10, -30, -100, -126, -149], dtype=dtype)
    near = [np.nextafter(powers, np.array(side, dtype=dtype)) for side in (0, 1)]
    centre = np.concatenate([powers, *near, [0, tiny, 3 * tiny, 0.1, 0.7]]).astype(dtype)
    centre = centre[(centre >= 0) & (centre <= 1)]
    for eps in (0.0, 1.6 * float(tiny), 1e-46, 1e-40, 1e-20, 1e-9, 0.1, 0.3, 8 / 255, 0.5, 1.0, *map(float, powers)):
        agree("linf_bounds", centre, eps, exact=True)
        agree("project_linf", 1 - centre, centre, eps=eps, exact=True)


@given(steps(centred=True), SIZES, st.data())
def test_steps_with_a_past(arrays: Any, eps: float, data: st.DataObject) -> None:
    """Auto-PGD's and MIM's steps."""
    centre, gradient = arrays
    dtype = str(centre.dtype)
    x, previous = (data.draw(floats_of_shape(centre.shape, dtype=dtype, uniform=True)) for _ in range(2))
    step_size = data.draw(floats_of_shape(centre.shape[:1], dtype=dtype, uniform=True)).astype("float64")
    for norm in ("linf", "l2"):
        for momentum in (0.75, 1.0):
            settings = {"eps": eps, "momentum": momentum, "scale": 4 * np.ones_like(centre, dtype="float64")}
            y = agree(f"apgd_step_{norm}", x, previous, gradient, centre, step_size, **settings)
            if y.size:
                difference = y.astype("float64") - centre
                far = np.abs(difference).max() if norm == "linf" else np.sqrt((difference**2).sum(axis=(1, 2, 3))).max()
                assert far <= eps
                assert ((y >= 0) & (y <= 1)).all()
    agree("momentum_step", previous, gradient, decay=0.9, scale=1 + np.abs(previous))


@given(steps(centred=True), SIZES, st.data())
def test_random_starts(arrays: Any, eps: float, data: st.DataObject) -> None:
    centre, normal = arrays
    dtype = str(centre.dtype)
    uniform = data.draw(floats_of_shape(centre.shape, dtype=dtype, uniform=True))
    radius = data.draw(floats_of_shape(centre.shape[:1], dtype=dtype, uniform=True))
    agree("random_start_linf", centre, uniform, eps=eps, scale=np.abs(centre) + eps)
    agree("random_start_l2", centre, normal, radius, eps=eps, scale=np.abs(centre) + eps)


@given(steps())
def test_distances(arrays: Any) -> None:
    agree("distance_linf", *arrays)
    agree("distance_l2", *arrays)
    agree("distance_l1", *arrays)


@given(steps(), st.data())
def test_select_and_better(arrays: Any, data: st.DataObject) -> None:
    new, old = arrays
    flags = st.lists(st.booleans(), min_size=len(new), max_size=len(new)).map(lambda x: np.array(x, dtype=bool))
    condition, success = data.draw(flags), data.draw(flags)
    agree("select", condition, new, old, exact=True)
    for kind in ("int64", "bool"):
        agree("select", condition, np.arange(len(new)).astype(kind), np.zeros(len(new), kind), exact=True)
    losses = st.lists(st.sampled_from([-1.0, 0.0, 1.0, np.nan, np.inf]), min_size=len(new), max_size=len(new))
    loss, best = (np.array(data.draw(losses), dtype=new.dtype) for _ in range(2))
    agree("better", condition, loss, success, best, exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sample_does_not_depend_on_its_batch(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, centre, gradient = (rng.random((5, 3, 7, 11)).astype(dtype) for _ in range(3))
    for op, arrays, settings in (
        (gpu.normalised_step, (x, gradient), {"step_size": 0.3}),
        (gpu.project_l2, (x, centre), {"eps": 0.3}),
        (gpu.distance_l2, (x, centre), {}),
        (gpu.distance_l1, (x, centre), {}),
        (gpu.momentum_step, (x, gradient), {"decay": 0.5}),
        (gpu.apgd_step_l2, (x, x, gradient, centre, x[:, 0, 0, 0]), {"eps": 0.3, "momentum": 0.75}),
        (gpu.plane_step_l2, (x, centre, gradient, x[:, 0, 0, 0]), {}),
        (gpu.plane_step_linf, (x, centre, gradient, x[:, 0, 0, 0]), {}),
    ):
        together = on_device(op)(*arrays, **settings)
        alone = on_device(op)(*(array[3:4] for array in arrays), **settings)
        np.testing.assert_array_equal(alone, together[3:4])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_errors_are_caught(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, centre, gradient = (rng.random((3, 2, 5, 5)).astype(dtype) for _ in range(3))
    uniform = rng.random(3).astype(dtype)
    cases: dict[str, tuple[Any, ...]] = {
        "sign_step": (x, gradient, {"step_size": 0.1}),
        "normalised_step": (x, gradient, {"step_size": 0.1}),
        "project_linf": (x, centre, {"eps": 0.1}),
        "project_l2": (x, centre, {"eps": 0.1}),
        "random_start_linf": (centre, x, {"eps": 0.1}),
        "random_start_l2": (centre, gradient, uniform, {"eps": 0.1}),
        "distance_l2": (x, centre, {}),
        "distance_linf": (x, centre, {}),
        "distance_l1": (x, centre, {}),
        "momentum_step": (x, gradient, {"decay": 0.5}),
        "apgd_step_linf": (x, centre, gradient, centre, uniform, {"eps": 0.1, "momentum": 0.75}),
        "apgd_step_l2": (x, centre, gradient, centre, uniform, {"eps": 0.1, "momentum": 0.75}),
        "select": (np.array([True, False, True]), x, centre, {}),
        "linf_bounds": (centre, {"eps": 0.1}),
    }
    for name, (*arrays, settings) in cases.items():
        assert_planted_caught(
            lambda f, name=name, arrays=arrays, settings=settings: agree(name, *arrays, **settings, op=f),
            getattr(gpu, name),
        )


X = np.full((2, 1, 3, 3), 0.5)


@pytest.mark.parametrize(("name", "setting"), [("sign_step", "step_size"), ("normalised_step", "step_size")])
def test_complaints_of_steps(name: str, setting: str) -> None:
    for arrays in ((X.astype(int), X.astype(int)), (X, X[:1]), (X, X.astype("float32"))):
        complain_alike(name, *arrays, **{setting: 0.1})
    for bad in (-0.1, float("nan"), float("inf"), True, "1"):
        complain_alike(name, X, X, **{setting: bad})


def test_complaints_of_projections() -> None:
    for name in ("project_linf", "project_l2", "random_start_linf"):
        for arrays in ((X.astype(int), X.astype(int)), (X, X[:1]), (X, X.astype("float32"))):
            complain_alike(name, *arrays, eps=0.1)
        for bad in (-0.1, float("nan")):
            complain_alike(name, X, X, eps=bad)
    complain_alike("random_start_l2", X, X[:1], X[:, 0, 0, 0], eps=0.1)
    complain_alike("random_start_l2", X, X, X[:1, 0, 0, 0], eps=0.1)
    complain_alike("random_start_l2", X, X, X[:, 0, 0, 0], eps=-0.1)
    for name in ("distance_linf", "distance_l2"):
        complain_alike(name, X, X[:1])
        complain_alike(name, X, X.astype("float32"))
    complain_alike("select", np.array([True]), X, X)
    complain_alike("select", np.array([True, False]), X, X[:1])
    for name in ("apgd_step_linf", "apgd_step_l2"):
        v = X[:, 0, 0, 0]
        for arrays in ((X, X, X[:1], X, v), (X, X, X, X.astype("float32"), v), (X, X, X, X, v[:1])):
            complain_alike(name, *arrays, eps=0.1, momentum=0.5)
        complain_alike(name, X, X, X, X, v, eps=-0.1, momentum=0.5)
        complain_alike(name, X, X, X, X, v, eps=0.1, momentum=1.5)
    complain_alike("momentum_step", X, X[:1], decay=1)
    complain_alike("momentum_step", X, X, decay=-1)
    complain_alike("distance_l1", X, X[:1])
