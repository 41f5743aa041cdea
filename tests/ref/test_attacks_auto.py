"""MIM, R-regularised PGD and Auto-PGD: against closed forms, and against their papers in plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.attacks import apgd, mim, pgd, r_pgd
from malade_ref.attacks.apgd import checkpoints
from malade_ref.attacks.reconstruction import error_gradient
from malade_ref.checks import InputError
from malade_ref.network import Network, mlp
from tests.ref.test_attacks import (
    W,
    check_identity,
    check_result,
    images,
    inner_images,
    linear_model,
    optimum_l2,
    optimum_linf,
    rng,
    small_malade,
)
from tests.strategies import balls
from tests.tolerances import assert_not_mutated, directional_check


def model_of(k: int = 5, dtype: str = "float64") -> Network:
    return mlp((1, 4, 4), k, activation="relu", dtype=dtype)


LOSSES: tuple[dict[str, Any], ...] = ({}, {"loss": "dlr"}, {"loss": "dlr", "num_targets": 2})


# Closed forms ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "optimum", "eps"), [("linf", optimum_linf, 0.2), ("l2", optimum_l2, 0.3)])
def test_linear_classifiers(norm: str, optimum: Any, eps: float) -> None:
    """Also where [0, 1] cuts the ball; there steps that are halved too soon in the Euclidean norm leave APGD short."""
    model = linear_model(W, [9.0, 0.0], shape=(1, 3, 4))
    for x, of_apgd in ((inner_images()[0], 1e-3), (images(6, (1, 3, 4)), 1e-2)):
        y = np.zeros(6, int)
        best = model.loss_and_gradient(optimum(x, eps), y).loss
        for attack, settings in (
            (mim, {"step_size": eps / 100, "num_steps": 600}),
            (apgd, {"num_steps": 300}),
        ):
            result = attack(model, x, y, eps=eps, norm=norm, **settings)
            check_result(result, x, eps, norm)
            allowed = of_apgd if attack is apgd else 1e-3
            assert (np.abs(result.loss / best - 1) <= allowed).all(), f"{attack.__name__}: {result.loss / best - 1}"


def test_dlr_on_a_linear_classifier() -> None:
    """Three classes; the ratio's optimum within a small cube is at the corner that its gradient points to."""
    weight = rng().standard_normal((3, 12))
    model = linear_model(weight, [3.0, 0.0, -3.0], shape=(1, 3, 4))
    x, y = np.full((1, 1, 3, 4), 0.5), np.array([0])
    gradient = model.loss_and_gradient(x, y, loss="dlr").gradient
    result = apgd(model, x, y, eps=1e-4, loss="dlr", num_steps=50)
    np.testing.assert_allclose(result.x_adv, x + 1e-4 * np.sign(gradient), atol=1e-12)


# Momentum --------------------------------------------------------------------------------------------------


def test_mim_is_its_recursion() -> None:
    model, x, y = model_of(), images(4, (1, 4, 4)), np.arange(4)
    losses: list[Any] = []
    mim(model, x, y, eps=0.2, step_size=0.03, num_steps=5, decay=0.7, record=lambda _, loss: losses.append(loss))
    x_t, g = x, np.zeros_like(x)
    for loss in losses:
        result = model.loss_and_gradient(x_t, y)
        np.testing.assert_allclose(loss, result.loss, rtol=1e-9)
        g = 0.7 * g + result.gradient / np.abs(result.gradient).sum(axis=(1, 2, 3), keepdims=True)
        x_t = np.clip(np.clip(x_t + 0.03 * np.sign(g), x - 0.2, x + 0.2), 0, 1)
    assert len(losses) == 6


# Reconstruction --------------------------------------------------------------------------------------------


def test_reconstruction_error_gradient() -> None:
    denoiser = small_malade().denoiser

    def errors(x: Any) -> Any:
        return ((denoiser.apply(x) - x) ** 2).sum(axis=(1, 2, 3))

    def vjp(w: Any, x: Any) -> Any:
        return w[:, None, None, None] * error_gradient(denoiser, x)

    directional_check(errors, vjp, [images(3, (1, 4, 4))])
    assert error_gradient(denoiser, images(0, (1, 4, 4))).shape == (0, 1, 4, 4)


def test_the_regulariser_makes_reconstructions_better() -> None:
    model, x = small_malade(), images(8, (1, 4, 4))
    y = model.predict(x)

    def error(weight: float) -> float:
        x_adv = r_pgd(model, x, y, eps=0.3, step_size=0.03, num_steps=30, weight=weight, num_judge_draws=3).x_adv
        return float(((model.denoiser.apply(x_adv) - x_adv) ** 2).sum())

    assert error(1e3) < 0.9 * error(0.0)


def test_without_a_denoiser_or_a_weight_it_is_pgd() -> None:
    settings: dict[str, Any] = {"eps": 0.2, "step_size": 0.05, "num_steps": 4, "num_draws": 2}
    x, y = images(4, (1, 4, 4)), np.arange(4) % 3
    for model, weight in ((model_of(), 1.0), (small_malade(), 0.0)):
        for a, b in zip(r_pgd(model, x, y, weight=weight, **settings), pgd(model, x, y, **settings), strict=True):
            np.testing.assert_array_equal(a, b)


# Auto-PGD --------------------------------------------------------------------------------------------------


def test_checkpoints() -> None:
    """As in the paper: p_0 = 0, p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06)."""
    shares = [0.0, 0.22]
    while shares[-1] <= 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    assert list(checkpoints(1000)) == [round(1000 * share) for share in shares[1:] if share <= 1]
    assert sum(checkpoints(100).values()) == max(checkpoints(100))
    assert checkpoints(1) == {1: 1}


def apgd_in_plain_loops(f: Any, x: Any, eps: float, num_steps: int, rho: float = 0.75) -> list[float]:
    """Algorithm 1 for one image in the maximum norm from x itself; the losses at its iterates."""

    def project(z: Any) -> Any:
        return np.clip(np.clip(z, x - eps, x + eps), 0, 1)

    places, length = [0], max(1, int(0.22 * num_steps))
    while places[-1] <= num_steps:
        places.append(places[-1] + length)
        length = max(length - max(1, int(0.03 * num_steps)), max(1, int(0.06 * num_steps)))
    step = 2 * eps
    points, values, gradients = [x], [f(x)[0]], [f(x)[1]]
    current, slope, last = x, gradients[0], x
    best = [0]
    step_was, best_was = step, values[0]
    for k in range(num_steps):
        z = project(current + step * np.sign(slope))
        new = z if k == 0 else project(current + 0.75 * (z - current) + 0.25 * (current - last))
        last, current = current, new
        value, slope = f(current)
        points.append(current), values.append(value), gradients.append(slope)
        best.append(k + 1 if value > values[best[-1]] else best[-1])
        if k + 1 in places[1:]:
            j = places.index(k + 1)
            rises = sum(values[i + 1] > values[i] for i in range(places[j - 1], places[j]))
            few = rises <= rho * (places[j] - places[j - 1])
            stuck = j > 1 and step == step_was and values[best[-1]] <= best_was
            step_was, best_was = step, values[best[-1]]
            if few or stuck:
                step, current, slope = step / 2, points[best[-1]], gradients[best[-1]]
    return values


def test_apgd_is_its_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = model_of(), images(6, (1, 4, 4), seed=5), np.arange(6) % 5
    monkeypatch.setattr("malade_ref.attacks.gradient.Ball.start", lambda ball, **_: ball.centre)
    losses: list[Any] = []
    apgd(model, x, y, eps=0.5, num_steps=60, record=lambda _, loss: losses.append(loss))
    for i in range(6):

        def f(point: Any, i: int = i) -> Any:
            loss, _, gradient = model.loss_and_gradient(point[None], y[i : i + 1])
            return loss[0], gradient[0]

        np.testing.assert_allclose([loss[i] for loss in losses], apgd_in_plain_loops(f, x[i], 0.5, 60), rtol=1e-9)


@pytest.mark.parametrize("settings", LOSSES)
def test_targets_and_restarts_are_never_worse(settings: dict[str, Any]) -> None:
    model, x = model_of(), images(12, (1, 4, 4))
    y = model.predict(x)
    few, many = (apgd(model, x, y, eps=0.1, num_steps=10, num_restarts=r, **settings) for r in (1, 3))
    assert (many.success >= few.success).all()
    same = many.success == few.success
    assert (many.loss[same] >= few.loss[same]).all()
    assert 0 < few.success.sum() < 12, "planned so"


@pytest.mark.parametrize("settings", LOSSES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_samples_do_not_mix(settings: dict[str, Any], norm: str) -> None:
    def attack(*args: Any, **own: Any) -> Any:
        return apgd(*args, eps=0.2, num_steps=8, norm=norm, **settings, **own)

    check_identity(attack, model_of(), images(5, (1, 4, 4)), np.arange(5))


@given(
    st.sampled_from(["float32", "float64"]),
    balls(),
    st.sampled_from(LOSSES),
    st.integers(0, 2**32),
)
def test_the_ball(dtype: str, ball: tuple[str, float], settings: dict[str, Any], seed: int) -> None:
    n, (norm, eps) = seed % 4, ball
    model = mlp((2, 3, 3), 4, hidden=(8,), activation="relu", seed=seed % 7, dtype=dtype)
    x, y = images(n, (2, 3, 3), dtype=dtype, seed=seed), rng(seed).integers(0, 4, n)
    for attack, own in ((apgd, settings), (mim, {"step_size": 0.1})):
        with assert_not_mutated(x, y):
            result = attack(model, x, y, eps=eps, num_steps=3, norm=norm, seed=seed, **own)
        check_result(result, x, eps, norm)
        assert (result.success == (model.predict(result.x_adv) != y)).all()
        assert (result.loss == model.loss_and_gradient(result.x_adv, y).loss).all()


@pytest.mark.parametrize("settings", LOSSES[1:])
def test_the_ratio_of_dull_classifiers(settings: dict[str, Any]) -> None:
    """Constant, always wrong, or saturated beyond the cross entropy's reach, on images at 0 and at 1."""
    x = np.stack([np.zeros((1, 4, 4)), np.ones((1, 4, 4))])
    for bias, success in (([0.0, 0, 0, 0, 0], False), ([0.0, 9, 1, 2, 3], True)):
        result = apgd(linear_model(np.zeros((5, 16)), bias, shape=(1, 4, 4)), x, np.zeros(2, int), **settings)
        assert result.success.tolist() == [success] * 2
        assert (result.x_adv == x).all()
    saturated = linear_model(1e4 * rng().standard_normal((5, 16)), np.zeros(5), shape=(1, 4, 4))
    x = np.full((3, 1, 4, 4), 0.5)
    y = saturated.predict(x)
    assert (saturated.loss_and_gradient(x, y).gradient == 0).all(), "planned so"
    assert not pgd(saturated, x, y, eps=0.4, num_steps=10, random_start=False).success.any()
    assert apgd(saturated, x, y, eps=0.4, num_steps=10, **settings).success.all()


def test_eot_judges_on_all_draws() -> None:
    model, x, y = small_malade(), images(5, (1, 4, 4)), np.arange(5) % 3
    result = apgd(model, x, y, eps=0.2, num_steps=4, num_draws=3, num_judge_draws=7, num_restarts=2)
    assert (result.num_gradients == 2 * 4 * 3).all()
    assert (result.num_queries == 7 + 2 * (5 * 3 + 2 * 7)).all()
    logits = [
        model.logits(result.x_adv, first_draw=d, stream=model.stream._replace(seed=0, name="attack-judge"))
        for d in range(7)
    ]
    assert (result.success == (sum(logits).argmax(axis=1) != y)).all()
    np.testing.assert_allclose(result.loss, sum(ops.softmax_cross_entropy(z, y) for z in logits) / 7, rtol=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "ratio"}, "loss: expected one of ce, margin, dlr"),
        ({"num_targets": 2}, "num_targets: expected 0 for the cross entropy"),
        ({"num_targets": -1}, "num_targets: expected an integer >= 0"),
        ({"rho": 1.5}, "rho: expected a finite number >= 0 and <= 1"),
        ({"num_steps": 0}, "num_steps: expected an integer >= 1"),
        ({"norm": "l1"}, "norm: expected one of linf, l2"),
        ({"loss": "dlr", "k": 2}, "logits: this loss needs at least 3 classes, got 2"),
        ({"loss": "dlr", "num_targets": 1, "k": 3}, "logits: this loss needs at least 4 classes, got 3"),
    ],
)
def test_complaints(settings: dict[str, Any], message: str) -> None:
    k = settings.pop("k", 5)
    with pytest.raises(InputError, match=message) as caught:
        apgd(model_of(k), images(2, (1, 4, 4)), np.array([0, 1]), **settings)
    assert "\n" not in str(caught.value)


def test_complaints_of_mim_and_r_pgd() -> None:
    arrays = model_of(), images(2, (1, 4, 4)), np.array([0, 1])
    with pytest.raises(InputError, match="decay: expected a finite number >= 0"):
        mim(*arrays, decay=-1)
    with pytest.raises(InputError, match="weight: expected a finite number >= 0"):
        r_pgd(*arrays, weight=-1)
