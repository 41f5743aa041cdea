"""Attacks without gradients: noise, squares, the boundary attack, SPSA."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.attacks import (
    AttackResult,
    Oracle,
    boundary,
    pgd,
    salt_and_pepper,
    spsa,
    square,
    transfer,
    uniform_noise,
)
from malade_ref.attacks.oracle import SEARCH
from malade_ref.attacks.square import share_at, side
from malade_ref.checks import InputError
from malade_ref.network import LossGradient, mlp
from malade_ref.sampling import Stream
from malade_ref.training import Batch, Distillation, _describe, fit
from tests.ref.test_attacks import (
    NOT_A_NUMBER,
    Counted,
    Noisy,
    W,
    X,
    Y,
    check_identity,
    images,
    inner_images,
    linear_model,
    optimum_linf,
    rng,
    small_malade,
)
from tests.ref.test_attacks_minimum import edge_images, linear, nearest, nearest_in_box
from tests.tolerances import assert_no_alias, assert_not_mutated

QUICK = {"num_steps": 12, "window": 6, "num_checks": 3, "num_starts": 4, "num_line_steps": 3}
ATTACKS: dict[str, Callable[..., AttackResult]] = {
    "uniform_noise": partial(uniform_noise, num_trials=3),
    "uniform_noise l2": partial(uniform_noise, num_trials=3, norm="l2"),
    "salt_and_pepper": partial(salt_and_pepper, num_trials=3),
    "salt_and_pepper smallest": partial(salt_and_pepper, num_trials=2, num_steps=3, smallest=True),
    "square": partial(square, num_steps=5, num_restarts=2),
    "square l2": partial(square, num_steps=5, norm="l2"),
    "boundary": partial(boundary, **QUICK),
    "spsa": partial(spsa, num_steps=2, num_directions=3, num_restarts=2, random_start=True),
    "spsa l2": partial(spsa, num_steps=2, num_directions=3, norm="l2"),
}
MEASURES: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("uniform_noise l2", "square l2", "boundary", "spsa l2"), ops.distance_l2),
    **dict.fromkeys(("salt_and_pepper", "salt_and_pepper smallest"), ops.changed_share),
}
NEAREST = ("boundary", "salt_and_pepper smallest")
UNIT = st.sampled_from([0.0, 1e-8, 0.1, 0.3, 0.5, 1.0]) | st.floats(0, 1)


def check_result(name: str, result: AttackResult, model: Any, x: Any, y: Any, eps: float) -> None:
    """What holds for every result on a deterministic model."""
    assert result.x_adv.shape == x.shape
    assert result.x_adv.dtype == x.dtype
    assert_no_alias(result.x_adv, x)
    assert [str(field.dtype) for field in result[1:]] == ["bool", str(x.dtype), "float64", "int64", "int64"]
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    measured = MEASURES.get(name, ops.distance_linf)(result.x_adv, x)
    submitted = result.distance * (result.distance <= eps)  # what was found beyond is not, but said to be so far
    np.testing.assert_array_equal(submitted, measured)
    assert not result.success[result.distance > eps].any()
    assert name in NEAREST or (result.distance <= eps).all()
    assert (result.success == (model.predict(result.x_adv) != y)).all()
    assert (result.loss == model.loss_and_gradient(result.x_adv, y).loss).all()
    assert (result.num_gradients == 0).all()
    clean = model.loss_and_gradient(x, y)
    untouched = clean.logits.argmax(axis=1) != y
    assert ((result.loss >= clean.loss) | result.success).all()
    if name in NEAREST:
        untouched |= ~result.success
    assert (result.x_adv[untouched] == x[untouched]).all()
    assert (submitted[untouched] == 0).all()


# Invariants ----------------------------------------------------------------------------------------------------------


@given(st.sampled_from(list(ATTACKS)), st.sampled_from(["float32", "float64"]), UNIT, st.integers(0, 2**32))
@settings(max_examples=60)
def test_result(name: str, dtype: str, eps: float, seed: int) -> None:
    n = seed % 4
    model = mlp((2, 3, 4), 3, hidden=(8,), activation="relu", seed=seed % 7, dtype=dtype)
    x, y = images(n, (2, 3, 4), dtype=dtype, seed=seed), rng(seed).integers(0, 3, n)
    with assert_not_mutated(x, y):
        result = ATTACKS[name](model, x, y, eps=eps, seed=seed)
    check_result(name, result, model, x, y, eps)


@pytest.mark.parametrize("name", ATTACKS)
def test_samples_do_not_mix(name: str) -> None:
    model, x = mlp((1, 4, 4), 3, activation="relu", dtype="float64"), images(5, (1, 4, 4))
    check_identity(partial(ATTACKS[name], eps=0.6, seed=2), model, x, model.predict(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("n", [0, 5])
def test_stochastic_models(name: str, n: int) -> None:
    model, x, y = Counted(small_malade()), images(n, (1, 4, 4)), np.arange(n) % 3
    attack = partial(ATTACKS[name], eps=0.6, num_draws=2, num_judge_draws=3)
    result = attack(model, x, y)
    assert result.num_queries.tolist() == n * [model.queries]
    assert result.num_gradients.tolist() == n * [model.gradients] == n * [0]
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    assert (result.distance <= 0.6).all()
    if n:
        check_identity(attack, model.model, x, y)


@pytest.mark.parametrize("draws", [1, 2])
def test_counts_are_as_documented(draws: int) -> None:
    model = mlp((1, 4, 4), 5, dtype="float64") if draws == 1 else small_malade()
    x, y, noise = images(2, (1, 4, 4)), np.array([0, 1]), {"num_draws": draws, "num_judge_draws": 3}
    stochastic, judge = draws > 1, 1 if draws == 1 else 3

    def count(attack: Any, **settings: Any) -> int:
        queries = attack(model, x, y, **noise, **settings).num_queries
        assert queries[0] == queries[1]
        return int(queries[0])

    for attack in (uniform_noise, salt_and_pepper):
        assert count(attack, num_trials=4) == (4 * draws + 3 * judge if stochastic else 5)
    found = count(salt_and_pepper, num_trials=4, num_steps=5, smallest=True, eps=0.5)
    assert found == (4 * 4 + 5) * draws + 2 * judge  # 8 pixels: 4 digits
    expected = judge + 2 * ((2 * 6 + 1) * draws + 2 * judge) if stochastic else 1 + 2 * (6 + 2)
    assert count(square, num_steps=6, num_restarts=2) == expected
    queries = (2 * 3 + 1) * 4 + 1
    expected = judge + 2 * (queries * draws + 2 * judge) if stochastic else 1 + 2 * (queries + 1)
    assert count(spsa, num_steps=4, num_directions=3, num_restarts=2) == expected
    found = count(boundary, num_steps=23, window=10, num_checks=3, num_starts=4, num_line_steps=5)
    assert found == (4 + 5 + 23 + 23 // (10 // 3)) * draws + (7 if stochastic else 2) * judge


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("weight", "bias", "success"),
    [
        (np.zeros((3, 16)), [0.0, 0.0, 0.0], [False, True, True]),  # constant; class 0 wins the tie
        (np.zeros((3, 16)), [0.0, 9.0, 0.0], [True, False, True]),
        (1e4 * np.eye(3, 16), [1e6, 0.0, 0.0], [False, True, True]),  # saturated
        (np.full((3, 16), 1e300), [0.0, 0.0, 0.0], [False, True, True]),  # hardly finite
    ],
)
def test_models_that_cannot_be_moved(name: str, weight: Any, bias: Any, success: Any) -> None:
    x = np.stack([np.zeros((1, 4, 4)), np.ones((1, 4, 4)), np.full((1, 4, 4), 0.25)])
    result = ATTACKS[name](linear_model(weight, bias, shape=(1, 4, 4)), x, np.arange(3), eps=0.5)
    assert result.success.tolist() == success
    assert (result.distance[1:] == 0).all()
    assert (result.x_adv[1:] == x[1:]).all()


class Breaking:
    """Two classes; not a number where the first pixel is above 1/2, and never wrong."""

    ops, dtype, input_shape, num_classes, stochastic = ops, "float64", (1, 3, 3), 2, False

    def logits(self, x: Any) -> Any:
        second = np.where(x[:, 0, 0, 0] > 0.5, np.nan, -1.0 + 0.5 * x[:, 0, 1, 1])
        return np.stack([np.zeros(len(x)), second], axis=1)

    def loss_and_gradient(self, x: Any, y: Any, **_: Any) -> LossGradient:
        raise AssertionError("these attacks ask for no gradient")


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_not_a_number_is_no_success(name: str) -> None:
    x = np.full((2, 1, 3, 3), 0.4)
    result = ATTACKS[name](Breaking(), x, np.zeros(2, int), eps=0.5)
    assert not result.success.any()
    assert np.isfinite(result.loss).all()


# The oracle ----------------------------------------------------------------------------------------------------------


def test_again_takes_the_same_draws() -> None:
    model = Noisy(lambda x, e: x[:, 0] + e, lambda x, e: np.ones_like(x))
    x = np.full((3, 1, 1, 1), 0.5)
    oracle = Oracle(model, x, np.zeros(3, int), num_draws=2, seed=8)
    losses = [oracle.query(x, again=again).loss for again in (True, False, True, False, True)]
    assert [draw for stream, draw in model.asked if stream.name == SEARCH] == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3]
    assert (losses[0] == losses[2]).all()
    assert (losses[3] == losses[4]).all()
    assert (losses[2] != losses[3]).all()


# Noise ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [uniform_noise, partial(uniform_noise, norm="l2"), salt_and_pepper])
def test_more_trials_are_never_worse(attack: Any) -> None:
    model, x = mlp((1, 4, 4), 3, activation="relu", dtype="float64"), images(12, (1, 4, 4))
    y = model.predict(x)
    one, ten = (attack(model, x, y, eps=0.4, num_trials=trials) for trials in (1, 10))
    assert (ten.success >= one.success).all()
    same = ten.success == one.success
    assert (ten.loss[same] >= one.loss[same]).all()
    assert (ten.loss > one.loss).any(), "planned so: otherwise trials do nothing"


def test_salt_and_pepper_replaces_so_many_pixels() -> None:
    x, n = np.full((60, 3, 5, 4), 0.5), 60
    settings = {"key": (1, 2), "sample_index": np.arange(n)}
    before = x
    for count in range(21):
        noisy = ops.salt_and_pepper_noise(x, np.full(n, count), **settings)
        changed = noisy != x
        assert (changed.all(axis=1) == changed.any(axis=1)).all(), "one mask over the channels"
        assert (changed[:, 0].sum(axis=(1, 2)) == count).all()
        assert (noisy[changed] % 1 == 0).all()
        assert ((noisy == before) | (before == 0.5)).all(), "more pixels are the fewer and others"
        before = noisy
    white = before.mean()
    assert abs(white - 0.5) < 5 * 0.5 / np.sqrt(n * 20)
    places = ops.salt_and_pepper_noise(x, np.full(n, 1), **settings)[:, 0] != 0.5
    assert len(np.unique(np.nonzero(places)[1])) == 5
    assert ops.changed_share(before, x).tolist() == [1.0] * n


class Frail:
    """Wrong about class 0 if at least so many pixels of an image that was grey are not grey."""

    ops, dtype, input_shape, num_classes, stochastic = ops, "float64", (2, 5, 6), 2, False

    def __init__(self, least: int) -> None:
        self.least = least

    def logits(self, x: Any) -> Any:
        count = (x != 0.5).any(axis=1).sum(axis=(1, 2))
        return np.stack([np.zeros(len(x)), count - self.least + 0.5], axis=1)

    def loss_and_gradient(self, x: Any, y: Any, **_: Any) -> LossGradient:
        raise AssertionError("these attacks ask for no gradient")


@pytest.mark.parametrize("least", [1, 2, 9, 14, 15, 16, 30])
def test_the_smallest_share_is_found(least: int) -> None:
    x = np.full((2, 2, 5, 6), 0.5)
    result = salt_and_pepper(Frail(least), x, np.zeros(2, int), eps=0.5, smallest=True, num_trials=2)
    found = least <= 15
    assert result.success.tolist() == [found] * 2
    assert result.distance.tolist() == [least / 30 if found else 0.0] * 2


# Squares -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [10000, 5000, 300])
def test_schedule(num_steps: int) -> None:
    """As it stands in AutoAttack."""

    def p_selection(it: int, n_queries: int, p_init: float) -> float:
        it = int(it / n_queries * 10000)
        for least, most, divisor in (
            (10, 50, 2),
            (50, 200, 4),
            (200, 500, 8),
            (500, 1000, 16),
            (1000, 2000, 32),
            (2000, 4000, 64),
            (4000, 6000, 128),
            (6000, 8000, 256),
            (8000, 10000, 512),
        ):
            if least < it <= most:
                return p_init / divisor
        return p_init

    for step in range(num_steps):
        assert share_at(step, num_steps, 0.8) == p_selection(step, num_steps, 0.8)


def test_sides() -> None:
    assert [side(share, 28, 28, odd=False) for share in (0.8, 0.4, 1e-9, 1.0)] == [25, 18, 1, 28]
    assert [side(share, 28, 28, odd=True) for share in (0.8, 0.4, 1e-9, 1.0)] == [25, 19, 3, 28]
    assert side(1.0, 4, 9, odd=True) == 4


def test_squares_of_the_cube() -> None:
    centre = np.full((400, 2, 5, 6), 0.5)
    settings = {"eps": 0.1, "key": (3, 4), "sample_index": np.arange(400)}
    start = ops.square_start_linf(centre, **settings)
    assert (start == start[:, :, :1]).all(), "stripes are vertical"
    assert set(np.unique(start).round(12)) == {0.4, 0.6}
    moved = ops.square_step_linf(centre, centre, size=2, step=7, **settings)
    inside = (moved != centre).all(axis=1)
    assert (inside == (moved != centre).any(axis=1)).all()
    rows, columns = inside.any(axis=2), inside.any(axis=1)
    assert (rows.sum(axis=1) == 2).all()
    assert (columns.sum(axis=1) == 2).all()
    assert (inside == rows[:, :, None] & columns[:, None, :]).all()
    places = np.stack([rows.argmax(axis=1), columns.argmax(axis=1)])
    assert (rows[np.arange(400), places[0] + 1] & columns[np.arange(400), places[1] + 1]).all(), "in one piece"
    assert len(np.unique(places, axis=1).T) == 4 * 5, "every place is reached"
    values = moved.transpose(0, 2, 3, 1)[inside].reshape(400, 4, 2)
    assert (values == values[:, :1]).all(), "a channel's square is of one value"
    assert len(np.unique(values[:, 0].round(12), axis=0)) == 4, "channels have coins of their own"


def test_squares_of_the_ball() -> None:
    n, size, eps = 300, 3, 0.5
    centre = np.full((n, 2, 7, 8), 0.5)
    settings = {"eps": eps, "key": (3, 4), "sample_index": np.arange(n)}
    start = ops.square_start_l2(centre, **settings)
    np.testing.assert_allclose(ops.distance_l2(start, centre), eps)
    moved = ops.square_step_l2(start, centre, size=size, step=1, **settings)
    np.testing.assert_allclose(ops.distance_l2(moved, centre), eps)
    old, new = start - centre, moved - centre
    gone, kept = (new == 0) & (old != 0), np.abs(new - old) < 1e-9
    assert 0 < gone[:, 0].sum(axis=(1, 2)).mean() <= size**2
    assert (kept[:, 0].sum(axis=(1, 2)) >= 7 * 8 - 2 * size**2 - 2).all()
    # The length of the old squares, and nothing else, goes into the new one.
    lost = np.where(kept, 0, old) ** 2
    gained = np.where(kept, 0, new) ** 2
    np.testing.assert_allclose(gained.sum(axis=(1, 2, 3)), lost.sum(axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(gained.sum(axis=(2, 3)), lost.sum(axis=(2, 3)), rtol=1e-6)
    # From the clean image there is all of eps for the bump, in equal parts in the channels.
    fresh = ops.square_step_l2(centre, centre, size=size, step=1, **settings) - centre
    np.testing.assert_allclose((fresh**2).sum(axis=(2, 3)), eps**2 / 2)
    assert ((fresh != 0).sum(axis=(2, 3)) == size**2).all()
    assert (np.sign(fresh).sum(axis=(2, 3)) ** 2 == size**2).all(), "one row or column more of one sign"


def test_square_reaches_the_corner() -> None:
    model = linear_model(W, [9.0, 0.0], shape=(1, 3, 4))
    x, y = inner_images()
    result = square(model, x, y, eps=0.2, num_steps=300)
    np.testing.assert_allclose(result.x_adv, optimum_linf(x, 0.2), atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_is_stronger_than_noise(norm: str) -> None:
    """With as many queries."""
    model, x = mlp((1, 8, 8), 4, activation="relu", dtype="float64"), images(30, (1, 8, 8))
    y, eps = model.predict(x), {"linf": 0.15, "l2": 0.6}[norm]
    noise = uniform_noise(model, x, y, eps=eps, norm=norm, num_trials=60)
    result = square(model, x, y, eps=eps, norm=norm, num_steps=59)
    assert result.success.sum() > noise.success.sum()
    assert (result.loss >= noise.loss).mean() > 0.9


def test_square_is_not_held_by_a_lucky_draw() -> None:
    """The second logit grows with the image, under noise that is larger than what one square can gain."""
    n = 20
    model = Noisy(lambda x, e: -4 + x.mean(axis=1) + e, lambda x, e: np.ones_like(x) / 9, d=9)
    x, y = np.full((n, 1, 1, 9), 0.5), np.zeros(n, int)
    result = square(model, x, y, eps=0.2, num_steps=200, num_judge_draws=3)
    np.testing.assert_allclose(result.x_adv, 0.7)


# The boundary --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_boundary_on_linear_classifiers() -> None:
    model, (inner, y) = linear(), inner_images()
    for x, expected in ((inner, nearest(inner, "l2")), (edge_images(), nearest_in_box(edge_images(), "l2"))):
        short, long = (boundary(model, x, y[: len(x)], num_steps=steps) for steps in (300, 1500))
        check_result("boundary", long, model, x, y[: len(x)], 28.0)
        assert long.success.all()
        assert (long.distance <= short.distance).all()
        assert (long.distance >= expected * (1 - 1e-9)).all()
        assert (long.distance <= expected * 1.01).all(), long.distance / expected - 1


def test_boundary_keeps_to_eps() -> None:
    model, (x, y) = linear(), inner_images()
    expected = nearest(x, "l2")
    limit = float(np.sort(expected)[2] * 1.02)
    result = boundary(model, x, y, eps=limit, num_steps=1500)
    assert result.success.tolist() == (expected < limit).tolist()
    check_result("boundary", result, model, x, y, limit)


class Restless:
    """Class 1 for restless images, class 0 for calm ones; class 2 for none."""

    ops, dtype, input_shape, num_classes, stochastic = ops, "float64", (1, 6, 6), 3, False

    def logits(self, x: Any) -> Any:
        unrest = x.std(axis=(1, 2, 3))
        return np.stack([0 * unrest, 100 * (unrest - 0.1), 0 * unrest - 99], axis=1)

    def loss_and_gradient(self, x: Any, y: Any, **_: Any) -> LossGradient:
        raise AssertionError("these attacks ask for no gradient")


def test_without_a_start_an_image_is_robust() -> None:
    """Every start is restless: images of class 0 fall, those of class 1 do not, and stop no other."""
    calm, restless = np.full((1, 1, 6, 6), 0.5), rng().integers(0, 2, (1, 1, 6, 6)).astype(float)
    x, y = np.concatenate([restless, calm, restless, calm]), np.array([1, 0, 1, 1])
    result = boundary(Restless(), x, y, num_steps=200, num_starts=6)
    assert result.success.tolist() == [False, True, False, True]
    assert (result.x_adv[[0, 2, 3]] == x[[0, 2, 3]]).all()
    assert (result.distance[[0, 2, 3]] == 0).all()
    assert 0 < result.distance[1] < 1


@pytest.mark.slow
def test_boundary_of_a_blurred_model() -> None:
    """Finds are wrong by the judging draws, and not far behind the boundary of the mean."""
    n = 20
    model = Noisy(lambda x, e: 4 * (x.mean(axis=1) - 0.4) + e, lambda x, e: np.ones_like(x), d=9)
    x, y = np.full((n, 1, 1, 9), 0.1), np.zeros(n, int)
    result = boundary(model, x, y, num_steps=200, num_draws=20, num_judge_draws=100)
    assert result.success.mean() > 0.9
    assert (result.distance[result.success] > 0.9 * 0.8).all()
    assert np.median(result.distance) < 0.9 * 1.4


# SPSA ----------------------------------------------------------------------------------------------------------------


def test_spsa_estimates_the_gradient() -> None:
    u = rng(1).standard_normal((1, 2, 3))
    x = rng(2).uniform(0.3, 0.7, (50, 1, 2, 3))
    total, count = np.zeros_like(x), 400
    for step in range(count):
        settings = {"width": 0.01, "key": (1, 2), "sample_index": np.arange(50), "step": step}
        ahead, behind = ops.spsa_points(x, **settings)
        np.testing.assert_allclose(np.abs(ahead - behind), 0.02)
        total = ops.spsa_gradient(total, ((ahead - behind) * u).sum(axis=(1, 2, 3)), **settings)
    spread = np.linalg.norm(u) / np.sqrt(count)
    np.testing.assert_allclose(total / count, np.broadcast_to(u, x.shape), atol=5 * spread)
    np.testing.assert_allclose((total / count).mean(axis=0), u, atol=5 * spread / np.sqrt(50))


def test_spsa_is_close_to_the_corner() -> None:
    model = linear_model(W, [9.0, 0.0], shape=(1, 3, 4))
    x, y = inner_images()
    result = spsa(model, x, y, eps=0.1, step_size=0.02, num_steps=25, num_directions=20)
    best = model.loss_and_gradient(optimum_linf(x, 0.1), y).loss
    clean = model.loss_and_gradient(x, y).loss
    assert ((result.loss - clean) >= 0.85 * (best - clean)).all()


class Hidden:
    """A linear classifier that rounds its logits and denies its gradient."""

    ops, dtype, num_classes, stochastic = ops, "float64", 2, False

    def __init__(self) -> None:
        self.model = linear_model(W, [2.0, 0.0], shape=(1, 3, 4))
        self.input_shape = self.model.input_shape

    def logits(self, x: Any) -> Any:
        return np.rint(4 * self.model.logits(x)) / 4

    def loss_and_gradient(self, x: Any, y: Any, **_: Any) -> LossGradient:
        logits = self.logits(x)
        return LossGradient(ops.softmax_cross_entropy(logits, y), logits, 0 * x)


def test_a_hidden_gradient_is_seen_through() -> None:
    model, (x, y) = Hidden(), inner_images()
    assert not pgd(model, x, y, eps=0.35, random_start=False, num_steps=5).success.any()
    assert spsa(model, x, y, eps=0.35, num_steps=30, step_size=0.05, num_directions=10, width=0.1).success.all()
    assert square(model, x, y, eps=0.35, num_steps=100).success.all()
    assert boundary(model, x, y, num_steps=50).success.all()


# Distillation --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: mlp((1, 4, 4), 3, seed=5), lambda: small_malade(dtype="float32")])
def test_a_surrogate_learns_the_answers(make: Any) -> None:
    """From images alone; what fools it fools the model more often than noise does."""
    victim, surrogate = make(), mlp((1, 4, 4), 3, hidden=(32,), activation="relu", seed=8)
    x = rng().random((600, 1, 4, 4)).astype("float32")
    y = victim.predict(x)
    wrong = (y + 1) % 3  # never looked at
    fitted = fit(surrogate, Distillation(victim), x[:500], wrong[:500], epochs=15, batch_size=50, learning_rate=1e-2)
    test, labels = x[500:], y[500:]
    assert (fitted.network.predict(test) == labels).mean() > (surrogate.predict(test) == labels).mean() + 0.2
    assert json.loads(json.dumps(_describe(Distillation(victim))))["name"] == "Distillation"
    eps = 0.1
    carried = transfer(victim, test, labels, surrogate=fitted.network, eps=eps, step_size=0.02, num_steps=10)
    noise = uniform_noise(victim, test, labels, eps=eps, num_trials=1)
    assert carried.success.mean() > noise.success.mean() + 0.1


def test_answers_of_a_random_model_are_the_attackers_own_draws() -> None:
    victim, x = small_malade(dtype="float32"), images(6, (1, 4, 4), dtype="float32")
    batch = Batch(x, np.zeros(6, int), np.arange(6) + 10, 3, 7)
    found = Distillation(victim).prepare(mlp((1, 4, 4), 3), batch)
    expected = victim.predict(x, first_draw=3, sample_index=batch.sample_index, stream=Stream(7, "distillation"))
    np.testing.assert_array_equal(found.y, expected)
    assert found.x is x


# Complaints ----------------------------------------------------------------------------------------------------------

MODEL = mlp((1, 4, 4), 3, dtype="float64")


@pytest.mark.parametrize("attack", [uniform_noise, salt_and_pepper, square, boundary, spsa])
@pytest.mark.parametrize(
    ("x", "y", "settings", "message"),
    [
        (X[0], Y, {}, "x: expected 4 axes"),
        (NOT_A_NUMBER, Y, {}, "x: image 1 has not a number"),
        (X, Y + 2, {}, "y: label 3 of sample 1 is outside 0..2"),
        (X, Y, {"eps": -0.1}, "eps: expected a finite number >= 0"),
        (X, Y, {"seed": -1}, "seed: expected an integer >= 0, got -1"),
        (X, Y, {"sample_index": Y[:1]}, "sample_index: expected shape"),
        (X, Y, {"num_draws": 0}, "num_draws: expected an integer >= 1"),
        (X, Y, {"num_judge_draws": 0}, "num_judge_draws: expected an integer >= 1"),
    ],
)
def test_complaints(attack: Any, x: Any, y: Any, settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        attack(MODEL, x, y, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attack", "settings", "message"),
    [
        (uniform_noise, {"norm": "l1"}, "norm: expected one of linf, l2"),
        (uniform_noise, {"num_trials": 0}, "num_trials: expected an integer >= 1"),
        (salt_and_pepper, {"eps": 1.5}, "eps: expected a finite number >= 0 and <= 1"),
        (salt_and_pepper, {"num_trials": 0}, "num_trials: expected an integer >= 1"),
        (square, {"norm": "l1"}, "norm: expected one of linf, l2"),
        (square, {"num_steps": 0}, "num_steps: expected an integer >= 1"),
        (square, {"initial_share": 0}, "initial_share: expected a finite number > 0 and <= 1"),
        (square, {"initial_share": 1.5}, "initial_share: expected a finite number > 0 and <= 1"),
        (square, {"num_restarts": 0}, "num_restarts: expected an integer >= 1"),
        (boundary, {"spherical_step": 0}, "spherical_step: expected a finite number"),
        (boundary, {"source_step": 2}, "source_step: expected a finite number"),
        (boundary, {"num_steps": 0}, "num_steps: expected an integer >= 1"),
        (boundary, {"window": 0}, "window: expected an integer >= 1"),
        (boundary, {"num_checks": 0}, "num_checks: expected an integer >= 1"),
        (boundary, {"num_starts": 0}, "num_starts: expected an integer >= 1"),
        (boundary, {"num_line_steps": -1}, "num_line_steps: expected an integer >= 0"),
        (spsa, {"width": 0}, "width: expected a finite number > 0"),
        (spsa, {"step_size": -1}, "step_size: expected a finite number >= 0"),
        (spsa, {"num_steps": 0}, "num_steps: expected an integer >= 1"),
        (spsa, {"num_directions": 0}, "num_directions: expected an integer >= 1"),
        (spsa, {"num_restarts": 0}, "num_restarts: expected an integer >= 1"),
    ],
)
def test_complaints_about_settings(attack: Any, settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        attack(MODEL, X, Y, **settings)
    assert "\n" not in str(caught.value)
