"""Attacks that look for the nearest wrong image: Carlini and Wagner's, EAD, FAB."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.attacks import AttackResult, cw, ead, fab
from malade_ref.checks import InputError
from malade_ref.network import Network, mlp
from tests.ref.test_attacks import (
    Counted,
    U,
    W,
    check_identity,
    images,
    inner_images,
    linear_model,
    rng,
    small_malade,
)
from tests.tolerances import assert_no_alias, assert_not_mutated

QUICK = {"num_steps": 12, "num_search_steps": 3, "initial_weight": 1.0, "step_size": 0.05}
ATTACKS: dict[str, Callable[..., AttackResult]] = {
    "cw": partial(cw, **QUICK),
    "cw abort": partial(cw, **{**QUICK, "num_steps": 30}, abort_early=True),
    "ead en": partial(ead, **QUICK),
    "ead l1": partial(ead, **QUICK, rule="l1", abort_early=True),
    "fab linf": partial(fab, num_steps=4, eps=1.0, num_restarts=2),
    "fab l2": partial(fab, num_steps=4, eps=4.0, norm="l2"),
    "fab targeted": partial(fab, num_steps=4, eps=1.0, num_targets=2, num_restarts=2),
}
MEASURES: dict[str, Callable[[Any, Any], Any]] = {
    "cw": lambda x_adv, x: ops.distance_l2(x_adv, x),
    "ead en": lambda x_adv, x: 1e-3 * ops.distance_l1(x_adv, x) + ops.distance_l2(x_adv, x) ** 2,
    "ead l1": lambda x_adv, x: ops.distance_l1(x_adv, x),
    "fab l2": lambda x_adv, x: ops.distance_l2(x_adv, x),
}
MEASURES["cw abort"] = MEASURES["cw"]


def check_nearest(name: str, result: AttackResult, model: Any, x: Any, y: Any, eps: float = np.inf) -> None:
    """What holds for every result of these attacks on a deterministic model."""
    assert result.x_adv.shape == x.shape
    assert result.x_adv.dtype == x.dtype
    assert_no_alias(result.x_adv, x)
    assert [str(field.dtype) for field in result[1:]] == ["bool", str(x.dtype), "float64", "int64", "int64"]
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    measured = MEASURES.get(name, ops.distance_linf)(result.x_adv, x)
    submitted = result.distance * (result.distance <= eps)  # what was found beyond is not, but said to be so far
    np.testing.assert_allclose(submitted, measured, rtol=1e-9, atol=1e-300)
    assert not result.success[result.distance > eps].any()
    assert (result.success == (model.predict(result.x_adv) != y)).all()
    assert (result.loss == model.loss_and_gradient(result.x_adv, y).loss).all()
    untouched = ~result.success | (model.predict(x) != y)
    assert (result.x_adv[untouched] == x[untouched]).all()
    assert (submitted[untouched] == 0).all()


# Closed forms ----------------------------------------------------------------------------------------------

BIAS = 1.0  # such that all inner images are right, and boundaries within their reach


def nearest(x: Any, norm: str) -> Any:
    """Distance of the boundary U.x' = BIAS of two linear classes, for images far from 0 and 1."""
    short = BIAS - x.reshape(len(x), -1) @ U
    return short / (np.abs(U).sum() if norm == "linf" else np.linalg.norm(U))


def nearest_in_box(x: Any, norm: str) -> Any:
    """The same within [0, 1]: the smallest d with max of U.x' >= BIAS over moves of length d, by bisection."""
    found = []
    for image in x.reshape(len(x), -1):
        room = np.where(U > 0, 1 - image, image)
        speed = np.ones_like(U) if norm == "linf" else np.abs(U)
        low, high = 0.0, 1e3
        for _ in range(200):
            t = (low + high) / 2
            enough = image @ U + np.minimum(t * speed, room) @ np.abs(U) >= BIAS
            low, high = (low, t) if enough else (t, high)
        move = np.minimum(high * speed, room)
        found.append(np.abs(move).max() if norm == "linf" else np.linalg.norm(move))
    return np.array(found)


def edge_images(n: int = 6) -> Any:
    """Right, with many pixels at 0 and 1, and a boundary that can be reached."""
    x = images(200, (1, 3, 4), seed=8)
    flat = x.reshape(200, -1)
    best = flat @ U + np.where(U > 0, 1 - flat, flat) @ np.abs(U)
    return x[(flat @ U < BIAS - 0.2) & (best > BIAS + 0.5)][:n]


def linear() -> Network:
    return linear_model(W, [BIAS, 0.0], shape=(1, 3, 4))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("num_targets", [0, 1])
def test_fab_on_linear_classifiers(norm: str, num_targets: int) -> None:
    model, (inner, y) = linear(), inner_images()
    assert (model.predict(inner) == y).all(), "planned so"
    for x, expected in ((inner, nearest(inner, norm)), (edge_images(), nearest_in_box(edge_images(), norm))):
        result = fab(model, x, y, eps=1.0 if norm == "linf" else 4.0, norm=norm, num_steps=40, num_targets=num_targets)
        check_nearest(f"fab {norm}", result, model, x, y)
        assert result.success.all()
        assert (result.distance >= expected * (1 - 1e-9)).all()
        assert (result.distance <= expected * (1 + 1e-3)).all(), result.distance / expected - 1


@pytest.mark.slow
def test_cw_on_linear_classifiers() -> None:
    """Pixels at 0 and 1, where the change of variables is all but flat, need larger steps, and more of them."""
    model, (inner, y) = linear(), inner_images()
    of_inner = {"num_steps": 500, "num_search_steps": 8, "initial_weight": 0.1, "step_size": 0.005}
    of_edge = {"num_steps": 1500, "num_search_steps": 5, "initial_weight": 1.0, "step_size": 0.02}
    for x, expected, settings in (
        (inner, nearest(inner, "l2"), of_inner),
        (edge_images(), nearest_in_box(edge_images(), "l2"), of_edge),
    ):
        result = cw(model, x, y, **settings)
        check_nearest("cw", result, model, x, y)
        assert result.success.all()
        assert (result.distance >= expected * (1 - 1e-9)).all()
        assert (result.distance <= expected * (1 + 1e-3)).all(), result.distance / expected - 1


@pytest.mark.slow
def test_ead_on_linear_classifiers() -> None:
    """With a large beta the nearest image by L1 changes the pixels of the largest weights alone."""
    model, (x, y) = linear(), inner_images()
    short = BIAS - x.reshape(len(x), -1) @ U
    settings: dict[str, Any] = {"num_steps": 150, "num_search_steps": 8, "step_size": 0.02, "initial_weight": 0.1}
    result = ead(model, x, y, beta=0.02, rule="l1", **settings)
    check_nearest("ead l1", result, model, x, y)
    assert result.success.all()
    expected = short / np.abs(U).max()  # if one pixel had room enough
    assert (result.distance >= expected * (1 - 1e-9)).all()
    few = (np.abs(result.x_adv - x).reshape(len(x), -1) > 0).sum(axis=1)
    euclidean = ead(model, x, y, beta=0.0, **settings)
    assert (few < U.size).all()
    assert ((euclidean.x_adv != x).reshape(len(x), -1).sum(axis=1) == U.size).all()
    assert (ops.distance_l1(euclidean.x_adv, x) > result.distance).all()
    # Without the L1 term what is left is Carlini and Wagner's problem.
    np.testing.assert_allclose(np.sqrt(euclidean.distance), nearest(x, "l2"), rtol=2e-2)


# EAD and CW in plain loops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["en", "l1"])
def test_ead_is_its_algorithm(rule: str) -> None:
    """One weight, one image; iterates by the paper's formulas, but for l1 wrong images are only shrunk."""
    model, x, y = mlp((1, 4, 4), 3, activation="relu", dtype="float64"), images(1, (1, 4, 4)), None
    y = model.predict(x)
    c, beta, rate, num_steps, seen, leads = 3.0, 0.02, 0.05, 20, [], []
    spy = Counted(model)
    spy.logits = lambda x, **_: seen.append(x) or model.logits(x)  # type: ignore[method-assign]
    settings: dict[str, Any] = {"num_search_steps": 1, "initial_weight": c, "rule": rule}
    ead(spy, x, y, beta=beta, step_size=rate, num_steps=num_steps, **settings)
    x_k, y_k, iterates = x, x, []
    for k in range(1, num_steps + 1):
        lead, _, slope = model.loss_and_gradient(y_k, y, loss="margin")
        g = 2 * (y_k - x) - c * slope if lead < 0 else 2 * (y_k - x) * (rule == "en")
        leads.append(float(lead[0]))
        z = y_k - rate * np.sqrt(1 - (k - 1) / num_steps) * g
        new = np.where(z - x > beta, np.minimum(z - beta, 1), np.where(z - x < -beta, np.maximum(z + beta, 0), x))
        y_k, x_k = new + k / (k + 3) * (new - x_k), new
        iterates.append(x_k)
    assert min(leads) < 0 < max(leads), "planned so"
    np.testing.assert_allclose(np.stack(seen[1:-1]), np.stack(iterates), atol=1e-12)  # without the two judgements


def test_cw_descends_on_its_objective() -> None:
    """Adam on the objective as written, differentiated numerically."""
    model, x = mlp((1, 2, 2), 3, activation="tanh", dtype="float64"), images(1, (1, 2, 2), seed=7)
    y, c, seen = model.predict(x), 5.0, []
    spy = Counted(model)
    spy.loss_and_gradient = (  # type: ignore[method-assign]
        lambda x, y, **settings: seen.append(x) or model.loss_and_gradient(x, y, **settings)
    )
    cw(spy, x, y, num_steps=8, num_search_steps=1, initial_weight=c, step_size=0.1)

    def objective(w: Any) -> float:
        image = (np.tanh(w) + 1) / 2
        logits = model.logits(image)[0]
        lead = np.delete(logits, y[0]).max() - logits[y[0]]
        return float(((image - x) ** 2).sum() + c * max(-lead, 0.0))

    w = np.arctanh(0.999999 * (2 * x - 1))
    m = v = np.zeros_like(w)
    for step, image in enumerate(seen, 1):
        np.testing.assert_allclose((np.tanh(w) + 1) / 2, image, atol=1e-5)
        g = np.zeros_like(w)
        for i in np.ndindex(w.shape):
            h = np.zeros_like(w)
            h[i] = 1e-5
            g[i] = (objective(w + h) - objective(w - h)) / 2e-5
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)


def test_weights_are_searched_image_by_image() -> None:
    """Two images that need very different weights: each gets the distance that it gets alone."""
    model = linear_model(W * np.array([[1.0], [1.0]]), [BIAS, 0.0], shape=(1, 3, 4))
    x, y = inner_images(2)
    x[1] = np.clip(x[1] - 0.3 * np.sign(U).reshape(1, 3, 4), 0, 1)
    settings: dict[str, Any] = {"num_steps": 60, "num_search_steps": 8, "initial_weight": 1e-2, "step_size": 0.05}
    both = cw(model, x, y, **settings)
    assert both.success.all()
    for i in range(2):
        alone = cw(model, x[i : i + 1], y[i : i + 1], sample_index=[i], **settings)
        np.testing.assert_allclose(alone.distance, both.distance[i : i + 1], rtol=1e-9)


def test_confidence() -> None:
    model, (x, y) = linear(), inner_images()
    for attack in (partial(cw, step_size=0.05), partial(ead, step_size=0.02)):
        result = attack(model, x, y, confidence=0.5, num_steps=100, num_search_steps=6, initial_weight=0.1)
        logits = model.logits(result.x_adv)
        assert (logits[:, 1] - logits[:, 0] >= 0.5).all()


# Invariants ------------------------------------------------------------------------------------------------


@given(st.sampled_from(list(ATTACKS)), st.sampled_from(["float32", "float64"]), st.integers(0, 2**32))
def test_result(name: str, dtype: str, seed: int) -> None:
    n = seed % 4
    model = mlp((2, 3, 3), 4, hidden=(8,), activation="relu", seed=seed % 7, dtype=dtype)
    x, y = images(n, (2, 3, 3), dtype=dtype, seed=seed), rng(seed).integers(0, 4, n)
    with assert_not_mutated(x, y):
        result = ATTACKS[name](model, x, y, seed=seed)
    check_nearest(name, result, model, x, y)


@given(st.sampled_from(["linf", "l2"]), st.sampled_from([0.0, 1e-3, 0.05, 0.3]) | st.floats(0, 1), st.integers(0, 99))
def test_fab_keeps_to_its_ball(norm: str, eps: float, seed: int) -> None:
    model = mlp((2, 3, 3), 4, hidden=(8,), activation="relu", seed=seed % 7)
    x, y = images(3, (2, 3, 3), dtype="float32", seed=seed), rng(seed).integers(0, 4, 3)
    result = fab(model, x, y, eps=eps, norm=norm, num_steps=4, num_restarts=2, seed=seed)
    check_nearest(f"fab {norm}", result, model, x, y, eps)


@pytest.mark.parametrize("name", ATTACKS)
def test_samples_do_not_mix(name: str) -> None:
    model, x = mlp((1, 4, 4), 3, activation="relu", dtype="float64"), images(5, (1, 4, 4))
    check_identity(ATTACKS[name], model, x, model.predict(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("n", [0, 3])
def test_stochastic_models(name: str, n: int) -> None:
    model, x, y = Counted(small_malade()), images(n, (1, 4, 4)), np.arange(n) % 3
    attack = partial(ATTACKS[name], num_steps=2, num_draws=2, num_judge_draws=3)
    result = attack(model, x, y)
    assert result.num_queries.tolist() == n * [model.queries]
    assert result.num_gradients.tolist() == n * [model.gradients]
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    if n:
        check_identity(attack, model.model, *five())


def five() -> Any:
    return images(5, (1, 4, 4)), np.arange(5) % 3


@pytest.mark.parametrize("draws", [1, 2])
def test_counts_are_as_documented(draws: int) -> None:
    model = mlp((1, 4, 4), 5, dtype="float64") if draws == 1 else small_malade()
    judge, others = (1, 4) if draws == 1 else (3, 2)
    x, y = images(2, (1, 4, 4)), np.array([0, 1])
    noise = {"num_draws": draws, "num_judge_draws": 3}
    result = cw(model, x, y, num_steps=5, num_search_steps=2, **noise)
    assert result.num_gradients.tolist() == [10 * draws] * 2
    assert result.num_queries.tolist() == [10 * draws + 2 * judge] * 2
    result = ead(model, x, y, num_steps=5, num_search_steps=2, **noise)
    assert result.num_gradients.tolist() == [10 * draws] * 2
    assert result.num_queries.tolist() == [20 * draws + 2 * judge] * 2
    for num_targets, runs, each, last in ((0, 2, others, others), (2, 4, 1, 2)):
        result = fab(model, x, y, num_steps=5, num_restarts=2, num_targets=num_targets, num_final_steps=4, **noise)
        gradients = (runs * 5 * each + last) * draws
        assert result.num_gradients.tolist() == [gradients] * 2
        evaluations = 1 + runs * 5 + 1 + 2 + 4  # ranking, iterates, last plane, both ends and steps of the last search
        assert result.num_queries.tolist() == [gradients + evaluations * draws + 2 * judge] * 2


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("weight", "bias", "success"),
    [
        (np.zeros((3, 16)), [0.0, 0.0, 0.0], [False, True, True]),  # constant, no gradient; class 0 wins the tie
        (np.zeros((3, 16)), [0.0, 9.0, 0.0], [True, False, True]),
        (1e4 * np.eye(3, 16), [1e6, 0.0, 0.0], [False, True, True]),  # out of reach
        (np.full((3, 16), 1e100), [0.0, 0.0, 0.0], [False, True, True]),
    ],
)
def test_models_that_cannot_be_moved(name: str, weight: Any, bias: Any, success: Any) -> None:
    x = np.stack([np.zeros((1, 4, 4)), np.ones((1, 4, 4)), np.full((1, 4, 4), 0.25)])
    result = ATTACKS[name](linear_model(weight, bias, shape=(1, 4, 4)), x, np.arange(3))
    assert result.success.tolist() == success
    assert (result.distance == 0).all()
    assert (result.x_adv == x).all()


def test_saturated_models_can_be_moved() -> None:
    """The margin has a gradient where the cross entropy has none."""
    model = linear_model(1e4 * rng().standard_normal((5, 16)), np.zeros(5), shape=(1, 4, 4))
    x = np.full((3, 1, 4, 4), 0.5)
    y = model.predict(x)
    for name in ("fab linf", "fab l2", "fab targeted"):
        assert ATTACKS[name](model, x, y).success.all()
    assert cw(model, x, y, num_steps=100, num_search_steps=3, step_size=0.05, initial_weight=1e-4).success.all()


def test_restarts_find_nothing_further() -> None:
    model, x = mlp((1, 4, 4), 3, activation="relu", dtype="float64"), images(10, (1, 4, 4))
    y = model.predict(x)
    one, three = (fab(model, x, y, eps=1.0, num_steps=5, num_restarts=r) for r in (1, 3))
    assert (three.success >= one.success).all()
    assert (three.distance[one.success] <= one.distance[one.success] * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("attack", "settings", "message"),
    [
        (cw, {"confidence": -1}, "confidence: expected a finite number >= 0"),
        (cw, {"step_size": -1}, "step_size: expected a finite number >= 0"),
        (cw, {"num_steps": 0}, "num_steps: expected an integer >= 1"),
        (ead, {"num_search_steps": 0}, "num_search_steps: expected an integer >= 1"),
        (ead, {"initial_weight": 0}, "initial_weight: expected a finite number > 0"),
        (ead, {"beta": -1}, "beta: expected a finite number >= 0"),
        (ead, {"rule": "l2"}, "rule: expected one of en, l1; got 'l2'"),
        (fab, {"eps": -1}, "eps: expected a finite number >= 0"),
        (fab, {"norm": "l1"}, "norm: expected one of linf, l2"),
        (fab, {"overshoot": 0.5}, "overshoot: expected a finite number >= 1"),
        (fab, {"backward": 1.5}, "backward: expected a finite number >= 0 and <= 1"),
        (fab, {"alpha_max": 1.5}, "alpha_max: expected a finite number >= 0 and <= 1"),
        (fab, {"num_targets": -1}, "num_targets: expected an integer >= 0"),
        (fab, {"num_final_steps": -1}, "num_final_steps: expected an integer >= 0"),
        (fab, {"k": 1}, "model: expected at least 2 classes, got 1"),
        (cw, {"k": 1}, "logits: this loss needs at least 2 classes, got 1"),
    ],
)
def test_complaints(attack: Any, settings: dict[str, Any], message: str) -> None:
    k = settings.pop("k", 3)
    with pytest.raises(InputError, match=message) as caught:
        attack(mlp((1, 4, 4), k, dtype="float64"), images(2, (1, 4, 4)), np.zeros(2, int), **settings)
    assert "\n" not in str(caught.value)
