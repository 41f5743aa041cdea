"""Steps of gradient attacks against textbook formulas, their balls in exact arithmetic, and their edges."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from malade_ref import ops
from malade_ref.checks import InputError
from tests.strategies import floats_of_shape, images_nchw
from tests.tolerances import assert_close, assert_no_alias, assert_not_mutated, assert_planted_caught

RADII = st.sampled_from([0.0, 1e-9, 1e-3, 0.1, 0.3, 1.0, 5.0]) | st.floats(0, 3)


def double(x: Any) -> Any:
    return np.asarray(x, dtype="float64")


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def norm_of(image: Any) -> float:
    """Euclidean norm; squares added without rounding."""
    return math.sqrt(math.fsum(double(image).ravel() ** 2))


def directions_of(gradient: Any) -> Any:
    """Each image over its norm, image by image; 0 stays 0."""
    images = [image / norm_of(image) if norm_of(image) > 0 else image for image in double(gradient)]
    return np.stack(images) if images else double(gradient)


# Steps -----------------------------------------------------------------------------------------------------


def check_sign_step(sign_step: Any, x: Any, gradient: Any, step_size: float) -> None:
    with assert_not_mutated(x, gradient):
        y = sign_step(x, gradient, step_size=step_size)
    assert_no_alias(y, x, gradient)
    signs = np.array([math.copysign(1, g) if g else 0.0 for g in gradient.ravel()]).reshape(x.shape)
    expected = double(x) + step_size * signs
    assert_close(y, expected, op="sign_step", dtype=str(x.dtype), scale=1 + step_size)
    assert_close(y - x, step_size * signs, op="sign_step", dtype=str(x.dtype), scale=1 + step_size)


def check_normalised_step(normalised_step: Any, x: Any, gradient: Any, step_size: float) -> None:
    with assert_not_mutated(x, gradient):
        y = normalised_step(x, gradient, step_size=step_size)
    assert_no_alias(y, x, gradient)
    expected = double(x) + step_size * directions_of(gradient)
    assert_close(y, expected, op="normalised_step", dtype=str(x.dtype), scale=1 + step_size)


@given(images_nchw(), st.floats(0, 2), st.data())
def test_steps(x: Any, step_size: float, data: st.DataObject) -> None:
    gradient = data.draw(floats_of_shape(x.shape, dtype=str(x.dtype)))
    gradient = gradient * data.draw(floats_of_shape(x.shape, dtype=str(x.dtype), uniform=True)).round()  # some are 0
    check_sign_step(ops.sign_step, x, gradient, step_size)
    check_normalised_step(ops.normalised_step, x, gradient, step_size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 1e38])
def test_normalised_step_of_extreme_gradients(dtype: str, scale: float) -> None:
    gradient = (np.array([[1.0, -1.0, 1.0, 1.0]]) * scale).astype(dtype)
    y = ops.normalised_step(np.zeros((1, 4), dtype), gradient, step_size=1.0)
    np.testing.assert_allclose(y, [[0.5, -0.5, 0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_useless_gradient_moves_nothing(bad: float) -> None:
    x = np.full((2, 1, 2, 2), 0.5)
    gradient = np.ones_like(x)
    gradient[0] = bad
    moved = ops.normalised_step(x, gradient, step_size=1.0)
    assert (moved[0] == 0.5).all()
    assert (moved[1] == 1.0).all()
    if not np.isinf(bad):  # an infinite slope has a sign
        assert (ops.sign_step(x, gradient, step_size=0.5)[0] == 0.5).all()


# Projections -----------------------------------------------------------------------------------------------


def check_project_linf(project: Any, x: Any, centre: Any, eps: float) -> None:
    with assert_not_mutated(x, centre):
        y = project(x, centre, eps=eps)
    assert_no_alias(y, x, centre)
    expected = np.clip(np.clip(double(x), double(centre) - eps, double(centre) + eps), 0, 1)
    assert_close(y, expected, op="project_linf", dtype=str(x.dtype), scale=1.0)
    assert (np.abs(double(y) - centre) <= eps).all()
    assert ((y >= 0) & (y <= 1)).all()
    assert (project(y, centre, eps=eps) == y).all()


def nearest_in_ball(x: Any, centre: Any, eps: float) -> Any:
    """Image by image: the segment from the centre to x, cut at eps; then clipped."""
    images = []
    for image, of_image in zip(double(x), double(centre), strict=True):
        norm = norm_of(image - of_image)
        images.append(np.clip(of_image + (image - of_image) * min(1.0, eps / norm if norm else 1.0), 0, 1))
    return np.stack(images) if images else double(x)


def in_l2_ball(y: Any, centre: Any, eps: float) -> bool:
    """Whether the distance is at most eps, in whichever way it is computed."""
    difference = (double(y) - double(centre)).reshape(len(y), math.prod(y.shape[1:]))
    forwards, backwards = (
        np.sqrt((difference**2).sum(axis=1)),
        np.sqrt((difference[:, ::-1] ** 2).cumsum(axis=1)[:, -1]),
    )
    exact = np.array([norm_of(image) for image in difference])
    by_numpy = np.linalg.norm(difference, axis=1)
    return all(bool((norms <= eps).all()) for norms in (forwards, backwards, exact, by_numpy))


def check_project_l2(project: Any, x: Any, centre: Any, eps: float) -> None:
    with assert_not_mutated(x, centre):
        y = project(x, centre, eps=eps)
    assert_no_alias(y, x, centre)
    # Rounding is of the images, of magnitude 1, whatever the radius.
    assert_close(y, nearest_in_ball(x, centre, eps), op="project_l2", dtype=str(x.dtype), scale=1.0)
    assert in_l2_ball(y, centre, eps)
    assert ((y >= 0) & (y <= 1)).all()


@given(images_nchw(), RADII, st.floats(0, 3), st.data())
def test_projections(centre: Any, eps: float, spread: float, data: st.DataObject) -> None:
    centre = np.where(centre < 0.2, 0, np.where(centre > 0.8, 1, centre)).astype(centre.dtype)  # some at the edges
    noise = data.draw(floats_of_shape(centre.shape, dtype=str(centre.dtype)))
    x = (centre + spread * noise).astype(centre.dtype)
    check_project_linf(ops.project_linf, x, centre, eps)
    check_project_l2(ops.project_l2, x, centre, eps)
    # What is inside already stays as it is.
    inside = np.clip(centre + min(eps, 1.0) / 100 * np.tanh(noise), 0, 1).astype(centre.dtype)
    in_cube = (np.abs(double(inside) - centre) <= eps).all()
    if in_cube:
        assert (ops.project_linf(inside, centre, eps=eps) == inside).all()
    if str(centre.dtype) == "float32" and in_l2_ball(inside, centre, 0.99 * eps):
        assert (ops.project_l2(inside, centre, eps=eps) == inside).all()


@given(images_nchw(min_n=1), RADII)
def test_linf_bounds_are_the_outermost_numbers(centre: Any, eps: float) -> None:
    lower, upper = ops.linf_bounds(centre, eps)
    for c, low, high in zip(centre.ravel(), lower.ravel(), upper.ravel(), strict=True):
        exact_low, exact_high = max(Fraction(float(c)) - Fraction(eps), 0), min(Fraction(float(c)) + Fraction(eps), 1)
        # Within rounding of float64, in which distances are computed.
        slack = Fraction(2.0**-52)
        assert Fraction(float(low)) >= exact_low - slack
        assert Fraction(float(high)) <= exact_high + slack
        if centre.dtype == np.float32:
            assert float(np.nextafter(low, np.float32(-1))) < exact_low or low == 0
            assert float(np.nextafter(high, np.float32(2))) > exact_high or high == 1


@pytest.mark.parametrize("project", [ops.project_linf, ops.project_l2])
def test_no_radius_no_move(project: Any) -> None:
    centre = rng().random((3, 1, 4, 4)).astype("float32")
    assert (project(centre + np.float32(0.3), centre, eps=0.0) == centre).all()


# Random starts ---------------------------------------------------------------------------------------------


def check_random_start_linf(start: Any, centre: Any, uniform: Any, eps: float) -> None:
    with assert_not_mutated(centre, uniform):
        y = start(centre, uniform, eps=eps)
    assert_no_alias(y, centre, uniform)
    expected = np.clip(double(centre) + eps * (2 * double(uniform) - 1), 0, 1)
    assert_close(y, expected, op="random_start_linf", dtype=str(centre.dtype), scale=1 + eps)
    assert (np.abs(double(y) - centre) <= eps).all()


def check_random_start_l2(start: Any, centre: Any, normal: Any, uniform: Any, eps: float) -> None:
    with assert_not_mutated(centre, normal, uniform):
        y = start(centre, normal, uniform, eps=eps)
    assert_no_alias(y, centre, normal, uniform)
    radius = eps * double(uniform) ** (1 / math.prod(centre.shape[1:]))
    expected = np.clip(centre + radius[:, None, None, None] * directions_of(normal), 0, 1)
    assert_close(y, expected, op="random_start_l2", dtype=str(centre.dtype), scale=1 + eps)
    assert in_l2_ball(y, centre, eps)


@given(images_nchw(), RADII, st.data())
def test_random_starts(centre: Any, eps: float, data: st.DataObject) -> None:
    dtype = str(centre.dtype)
    uniform = data.draw(floats_of_shape(centre.shape, dtype=dtype, uniform=True))
    check_random_start_linf(ops.random_start_linf, centre, uniform, eps)
    normal = data.draw(floats_of_shape(centre.shape, dtype=dtype))
    radius = data.draw(floats_of_shape(centre.shape[:1], dtype=dtype, uniform=True))
    check_random_start_l2(ops.random_start_l2, centre, normal, radius, eps)


def starts_are_uniform(random_start_l2: Any) -> bool:
    """Whether starts in a disc fill it: radius squared and angle are uniform, each quarter has its share."""
    index = ops.arange(4000)
    centre = np.full((4000, 1, 1, 2), 0.5)
    normal = ops.normal((1, 1, 2), key=ops.derive_key(1, "n"), sample_index=index, dtype="float64")
    uniform = ops.uniform((), key=ops.derive_key(1, "u"), sample_index=index, dtype="float64")
    shift = (random_start_l2(centre, normal, uniform, eps=0.4) - centre).reshape(4000, 2)
    area = (shift**2).sum(axis=1) / 0.4**2
    angle = np.arctan2(shift[:, 1], shift[:, 0]) / (2 * math.pi) + 0.5
    return min(stats.kstest(area, "uniform").pvalue, stats.kstest(angle, "uniform").pvalue) > 1e-3


def test_l2_start_is_uniform_in_the_ball() -> None:
    assert starts_are_uniform(ops.random_start_l2)

    def uniform_radius(centre: Any, normal: Any, uniform: Any, *, eps: float) -> Any:
        return ops.random_start_l2(centre, normal, uniform**2, eps=eps)

    def on_the_sphere(centre: Any, normal: Any, uniform: Any, *, eps: float) -> Any:
        return ops.random_start_l2(centre, normal, np.ones_like(uniform), eps=eps)

    def in_the_square(centre: Any, normal: Any, uniform: Any, *, eps: float) -> Any:
        return ops.random_start_linf(centre, np.clip(normal / 4 + 0.5, 0, 1), eps=eps)

    assert not starts_are_uniform(uniform_radius)
    assert not starts_are_uniform(on_the_sphere)
    assert not starts_are_uniform(in_the_square)


def test_linf_start_is_uniform_in_the_cube() -> None:
    index = ops.arange(1000)
    uniform = ops.uniform((1, 2, 2), key=ops.derive_key(2, "u"), sample_index=index)
    centre = np.full((1000, 1, 2, 2), 0.5, dtype="float32")
    shift = (ops.random_start_linf(centre, uniform, eps=0.3) - 0.5).ravel() / 0.3
    assert stats.kstest(shift, "uniform", args=(-1, 2)).pvalue > 1e-3


# Distances and choices -------------------------------------------------------------------------------------


def check_distances(distance_linf: Any, distance_l2: Any, x: Any, centre: Any) -> None:
    with assert_not_mutated(x, centre):
        linf, l2 = distance_linf(x, centre), distance_l2(x, centre)
    difference = double(x) - double(centre)
    expected = np.array([np.abs(image).max() for image in difference])
    assert_close(linf, expected, op="distance_linf", dtype="float64")
    assert_close(l2, np.array([norm_of(image) for image in difference]), op="distance_l2", dtype="float64")


@given(images_nchw(), st.data())
def test_distances(x: Any, data: st.DataObject) -> None:
    check_distances(
        ops.distance_linf, ops.distance_l2, x, data.draw(floats_of_shape(x.shape, dtype=str(x.dtype), uniform=True))
    )


@given(images_nchw(), st.data())
def test_select(new: Any, data: st.DataObject) -> None:
    old = data.draw(floats_of_shape(new.shape, dtype=str(new.dtype)))
    condition = np.array(data.draw(st.lists(st.booleans(), min_size=len(new), max_size=len(new))), dtype=bool)
    with assert_not_mutated(new, old, condition):
        chosen = ops.select(condition, new, old)
    assert_no_alias(chosen, new, old)
    assert chosen.shape == new.shape
    for i, is_new in enumerate(condition):
        assert (chosen[i] == (new if is_new else old)[i]).all()


@pytest.mark.parametrize(
    ("success", "loss", "best_success", "best_loss", "expected"),
    [
        (True, 0.1, False, 9.0, True),  # success first
        (False, 9.0, True, 0.1, False),
        (True, 2.0, True, 1.0, True),  # then the loss
        (True, 1.0, True, 2.0, False),
        (False, 2.0, False, 1.0, True),
        (True, 1.0, True, 1.0, False),  # a tie keeps what there is
        (True, np.nan, False, 1.0, False),  # NaN never wins
        (False, np.nan, False, np.nan, False),
        (False, 0.0, False, np.nan, True),
        (True, np.inf, True, 1.0, True),
    ],
)
def test_better(success: bool, loss: float, best_success: bool, best_loss: float, expected: bool) -> None:
    arrays = np.array([success]), np.array([loss]), np.array([best_success]), np.array([best_loss])
    assert ops.better(*arrays).tolist() == [expected]


# The checks, checked ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_planted_errors_are_caught(dtype: str) -> None:
    centre = rng().random((3, 2, 4, 4)).astype(dtype)
    normal = rng().standard_normal(centre.shape).astype(dtype)
    x, uniform, radius = centre + normal, rng().random(centre.shape).astype(dtype), np.full(3, 0.5, dtype)
    assert_planted_caught(lambda f: check_sign_step(f, centre, normal, 0.3), ops.sign_step)
    assert_planted_caught(lambda f: check_normalised_step(f, centre, normal, 0.3), ops.normalised_step)
    assert_planted_caught(lambda f: check_project_linf(f, x, centre, 0.3), ops.project_linf)
    assert_planted_caught(lambda f: check_project_l2(f, x, centre, 0.3), ops.project_l2)
    assert_planted_caught(lambda f: check_random_start_linf(f, centre, uniform, 0.3), ops.random_start_linf)
    assert_planted_caught(lambda f: check_random_start_l2(f, centre, normal, radius, 0.3), ops.random_start_l2)
    assert_planted_caught(lambda f: check_distances(f, ops.distance_l2, x, centre), ops.distance_linf)
    assert_planted_caught(lambda f: check_distances(ops.distance_linf, f, x, centre), ops.distance_l2)


def unit_of_batch(x: Any, gradient: Any, *, step_size: float) -> Any:
    return x + x.dtype.type(step_size) * gradient / np.linalg.norm(gradient)


def rounded_outwards(x: Any, centre: Any, *, eps: float) -> Any:
    radius = x.dtype.type(eps)
    return np.clip(np.clip(x, centre - radius, centre + radius), 0, 1)


def not_clipped(x: Any, centre: Any, *, eps: float) -> Any:
    shift = x - centre
    return centre + x.dtype.type(0.999 * eps) * ops.normalised_step(0 * shift, shift, step_size=1.0)


@pytest.mark.parametrize(
    ("check", "mistake"),
    [
        (check_sign_step, lambda x, gradient, *, step_size: ops.sign_step(x, -gradient, step_size=step_size)),
        (check_normalised_step, unit_of_batch),
        (check_project_linf, rounded_outwards),
        (check_project_linf, lambda x, centre, *, eps: ops.project_l2(x, centre, eps=eps)),
        (check_project_l2, not_clipped),
        (check_project_l2, lambda x, centre, *, eps: ops.project_linf(x, centre, eps=eps)),
    ],
)
def test_planted_mistakes_are_caught(check: Any, mistake: Any) -> None:
    centre = rng().random((3, 2, 4, 4)).astype("float32")
    normal = rng().standard_normal(centre.shape).astype("float32")
    position = (centre, normal) if check in (check_sign_step, check_normalised_step) else (centre + normal, centre)
    with pytest.raises(AssertionError):
        check(mistake, *position, 0.3)


X = np.full((2, 1, 3, 3), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.sign_step(X, X[:1], step_size=1), "gradient: expected shape"),
        (lambda: ops.sign_step(X, X.astype("float32"), step_size=1), "gradient: expected dtype float64"),
        (lambda: ops.sign_step(X, X, step_size=-1), "step_size: expected a finite number >= 0"),
        (lambda: ops.sign_step(X.astype(int), X.astype(int), step_size=1), "x: expected float32 or float64"),
        (lambda: ops.normalised_step(X, X, step_size=math.nan), "step_size: expected a finite number >= 0"),
        (lambda: ops.project_linf(X, X[:, :, :2], eps=1), "centre: expected shape"),
        (lambda: ops.project_linf(X, X, eps=-1), "eps: expected a finite number >= 0"),
        (lambda: ops.project_l2(X, X, eps=math.inf), "eps: expected a finite number >= 0"),
        (lambda: ops.random_start_linf(X, X[:1], eps=1), "uniform: expected shape"),
        (lambda: ops.random_start_l2(X, X, X, eps=1), "uniform: expected shape"),
        (lambda: ops.distance_l2(X, X[:1]), "centre: expected shape"),
        (lambda: ops.select(np.ones(3, bool), X, X), "condition: expected shape"),
        (lambda: ops.select(np.ones(2, bool), X, X[:1]), "new: expected shape"),
    ],
)
def test_complaints(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# Steps with a past -----------------------------------------------------------------------------------------


@given(images_nchw(), st.data())
def test_momentum_step(gradient: Any, data: st.DataObject) -> None:
    momentum = data.draw(floats_of_shape(gradient.shape, dtype=str(gradient.dtype)))
    sums = [math.fsum(np.abs(double(image)).ravel()) or 1.0 for image in gradient]
    expected = 0.9 * double(momentum)
    if len(gradient):
        expected = expected + double(gradient) / np.array(sums).reshape(-1, 1, 1, 1)
    y = ops.momentum_step(momentum, gradient, decay=0.9)
    assert_close(y, expected, op="momentum_step", dtype=str(gradient.dtype), scale=1 + np.abs(double(momentum)))


def test_momentum_of_broken_gradients() -> None:
    gradient = np.array([[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [1.0, 3.0]])
    y = ops.momentum_step(np.ones((4, 2)), gradient, decay=0.5)
    np.testing.assert_array_equal(y, [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.75, 1.25]])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(st.data(), RADII)
def test_apgd_step(norm: str, data: st.DataObject, eps: float) -> None:
    """As two steps and two projections; with momentum 1 it is the step of PGD."""
    centre = data.draw(floats_of_shape((3, 1, 2, 3), uniform=True))
    dtype = str(centre.dtype)
    x, previous = (data.draw(floats_of_shape(centre.shape, dtype=dtype, uniform=True)) for _ in range(2))
    gradient = data.draw(floats_of_shape(centre.shape, dtype=dtype))
    step_size = np.array([0.0, 0.1, 0.7])
    step, project = getattr(ops, f"apgd_step_{norm}"), getattr(ops, f"project_{norm}")
    single = ops.sign_step if norm == "linf" else ops.normalised_step
    ahead = np.concatenate([single(x[i : i + 1], gradient[i : i + 1], step_size=s) for i, s in enumerate(step_size)])
    z = project(ahead, centre, eps=eps)
    with assert_not_mutated(x, previous, gradient, centre):
        plain = step(x, previous, gradient, centre, step_size, eps=eps, momentum=1.0)
        y = step(x, previous, gradient, centre, step_size, eps=eps, momentum=0.75)
    op = f"apgd_step_{norm}"
    assert_close(plain, project(x + (z - x), centre, eps=eps), op=op, dtype=dtype, scale=2 + 0 * x)
    mixed = double(x) + 0.75 * (double(z) - x) + 0.25 * (double(x) - previous)
    assert_close(y, project(mixed.astype(dtype), centre, eps=eps), op=op, dtype=dtype, scale=4 + 0 * x)
    distance = (ops.distance_linf if norm == "linf" else ops.distance_l2)(y, centre)
    assert (distance <= eps).all()
    assert ((y >= 0) & (y <= 1)).all()


@given(images_nchw(), st.data())
def test_distance_l1(x: Any, data: st.DataObject) -> None:
    other = data.draw(floats_of_shape(x.shape, dtype=str(x.dtype)))
    expected = [math.fsum(np.abs(double(a) - double(b)).ravel()) for a, b in zip(x, other, strict=True)]
    assert_close(ops.distance_l1(x, other), np.array(expected), op="distance_l1", dtype="float64")
