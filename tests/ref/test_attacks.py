"""Attacks against closed forms, planted models and planted mistakes; the balls, the counts and the noise."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import attacks, ops
from malade_ref.attacks import (
    Oracle,
    apgd,
    ascent,
    bpda,
    bpda_eot,
    drift_pgd,
    eot,
    fgm,
    fgsm,
    mim,
    pgd,
    r_pgd,
    transfer,
)
from malade_ref.attacks.oracle import JUDGE, SEARCH
from malade_ref.attacks.reconstruction import drift_gradient
from malade_ref.checks import InputError
from malade_ref.defence import MALADE
from malade_ref.layers import Flatten, Linear, Reshape, Tanh
from malade_ref.network import LossGradient, Network, build, cnn, mlp
from malade_ref.sampling import Stream
from tests.strategies import balls
from tests.tolerances import assert_no_alias, assert_not_mutated, directional_check


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def images(n: int, shape: Sequence[int], *, dtype: str = "float64", seed: int = 3) -> Any:
    """Images, a part of their pixels at exactly 0 and at exactly 1."""
    return np.clip(rng(seed).uniform(-0.3, 1.3, (n, *shape)), 0, 1).astype(dtype)


# Models ----------------------------------------------------------------------------------------------------


def linear_model(weight: Any, bias: Any, *, shape: Sequence[int], backend: Any = ops) -> Network:
    """Logits W x + b."""
    weight, bias = np.asarray(weight), np.asarray(bias)
    layers = [Flatten(), Linear(weight.shape[1], len(weight))]
    return Network(layers, {"1.weight": weight, "1.bias": bias.astype(weight.dtype)}, shape, ops=backend)


def small_malade(*, dtype: str = "float64", seed: int = 0) -> MALADE:
    """A chain of three steps before a classifier of 4x4 images."""
    layers = [Flatten(), Linear(16, 8), Tanh(), Linear(8, 16), Reshape((1, 4, 4))]
    denoiser = build(layers, (1, 4, 4), initialisation="glorot", seed=1, dtype=dtype)
    return MALADE(mlp((1, 4, 4), 3, dtype=dtype), denoiser, num_steps=3, a=0.3, delta=0.1, seed=seed)


class Table:
    """A model of images of one pixel: row i of a table holds its logits at 0.1 i. Its gradient always points up."""

    ops, dtype, input_shape, stochastic = ops, "float64", (1, 1, 1), False

    def __init__(self, table: Sequence[Sequence[float]]) -> None:
        self.table = np.array(table, dtype="float64")
        self.num_classes = self.table.shape[1]

    def logits(self, x: Any) -> Any:
        return self.table[np.rint(10 * x[:, 0, 0, 0]).astype(int)]

    def loss_and_gradient(self, x: Any, y: Any, **_: Any) -> LossGradient:
        logits = self.logits(x)
        return LossGradient(ops.softmax_cross_entropy(logits, y), logits, np.ones_like(x))

    def walk(self, *, num_steps: int = 5, **settings: Any) -> Any:
        """Up the table from row 0, of class 0, row by row."""
        settings = {"eps": 1.0, "step_size": 0.1, "random_start": False, **settings}
        return pgd(self, np.zeros((1, 1, 1, 1)), np.array([0]), num_steps=num_steps, **settings)


class Noisy:
    """A stochastic model of two classes: the second logit is f(x, e), e standard normal, one for each draw and sample.

    Parameters: f and its derivative with respect to x; images of d pixels.
    """

    ops, dtype, num_classes, stochastic = ops, "float64", 2, True

    def __init__(self, f: Callable[..., Any], slope: Callable[..., Any], d: int = 1) -> None:
        self.f, self.slope, self.input_shape = f, slope, (1, 1, d)
        self.asked: list[tuple[Stream, int]] = []

    def noise(self, draw: int, sample_index: Any, stream: Stream) -> Any:
        self.asked.append((stream, draw))
        key = ops.derive_key(stream.seed, stream.name, draw)
        return ops.normal((), key=key, sample_index=sample_index, dtype="float64")

    def logits(self, x: Any, *, num_draws: int = 1, first_draw: int, sample_index: Any, stream: Stream) -> Any:
        second = [self.f(x[:, 0, 0], self.noise(first_draw + i, sample_index, stream)) for i in range(num_draws)]
        return np.stack([0 * second[0], sum(second) / num_draws], axis=1)

    def loss_and_gradient(
        self, x: Any, y: Any, *, num_draws: int, first_draw: int, sample_index: Any, stream: Stream, **other: Any
    ) -> LossGradient:
        assert other["mode"] in ("exact", "bpda")
        assert (other["loss"], other["targets"]) == ("ce", None)
        loss, logits, gradient = 0.0, 0.0, 0.0
        for i in range(num_draws):
            e = self.noise(first_draw + i, sample_index, stream)
            z = self.f(x[:, 0, 0], e)
            both = np.stack([0 * z, z], axis=1)
            p = 1 / (1 + np.exp(-z)) - y
            loss = loss + ops.softmax_cross_entropy(both, y) / num_draws
            logits = logits + both / num_draws
            gradient = gradient + (p[:, None] * self.slope(x[:, 0, 0], e))[:, None, None] / num_draws
        return LossGradient(loss, logits, gradient)


class Counted:
    """A model that counts, one for each draw, what is asked of it, and of the classifier behind its chain."""

    def __init__(self, model: Any) -> None:
        self.model, self.queries, self.gradients = model, 0, 0
        if hasattr(model, "classifier"):
            self.classifier = Counted(model.classifier)

    def asked(self) -> tuple[int, int]:
        behind = self.classifier.asked() if "classifier" in vars(self) else (0, 0)
        return self.queries + behind[0], self.gradients + behind[1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def logits(self, x: Any, **settings: Any) -> Any:
        self.queries += settings.get("num_draws", 1)
        return self.model.logits(x, **settings)

    def loss_and_gradient(self, x: Any, y: Any, **settings: Any) -> Any:
        draws = settings["num_draws"]
        self.queries, self.gradients = self.queries + draws, self.gradients + draws
        return self.model.loss_and_gradient(x, y, **settings)


# Few steps; every attack on deterministic and on stochastic models.
SHORT = {"step_size": 0.05, "num_steps": 4}
ATTACKS: dict[str, Callable[..., attacks.AttackResult]] = {
    "fgsm": fgsm,
    "fgm": fgm,
    "pgd linf": partial(pgd, **SHORT, num_restarts=2),
    "pgd l2": partial(pgd, **SHORT, num_restarts=2, norm="l2"),
    "pgd from x": partial(pgd, **SHORT, random_start=False, num_draws=2),
    "bpda": partial(bpda, **SHORT),
    "eot": partial(eot, **SHORT, num_draws=3),
    "bpda_eot": partial(bpda_eot, **SHORT, num_draws=3, norm="l2"),
    "mim": partial(mim, **SHORT, num_restarts=2, random_start=True),
    "mim l2": partial(mim, **SHORT, decay=0.5, norm="l2"),
    "r_pgd": partial(r_pgd, **SHORT, num_draws=2),
    "apgd": partial(apgd, num_steps=6, num_restarts=2),
    "eot adaptive": partial(eot, **SHORT, num_draws=2, transfer_start=True, expectation="logits", common_draws=True),
    "bpda denoiser": partial(bpda_eot, **SHORT, num_draws=2, mode="bpda-denoiser", num_restarts=2, transfer_start=True),
    "drift_pgd": partial(drift_pgd, **SHORT, num_draws=2),
}


def distances(x_adv: Any, x: Any, norm: str) -> Any:
    difference = (x_adv.astype("float64") - x).reshape(len(x), math.prod(x.shape[1:]))
    return np.abs(difference).max(axis=1) if norm == "linf" else np.sqrt((difference**2).sum(axis=1))


def check_result(result: attacks.AttackResult, x: Any, eps: float, norm: str) -> None:
    """What holds for every result of every attack."""
    n = len(x)
    assert result.x_adv.shape == x.shape
    assert result.x_adv.dtype == x.dtype
    assert_no_alias(result.x_adv, x)
    assert [str(field.dtype) for field in result[1:]] == ["bool", str(x.dtype), "float64", "int64", "int64"]
    assert all(field.shape == (n,) for field in result[1:])
    assert ((result.x_adv >= 0) & (result.x_adv <= 1)).all()
    assert (distances(result.x_adv, x, norm) <= eps).all()
    np.testing.assert_allclose(result.distance, distances(result.x_adv, x, norm), rtol=1e-12)
    assert (result.distance <= eps).all()
    assert (result.loss >= 0).all()


# Closed forms ----------------------------------------------------------------------------------------------

# Two classes: the loss of class 0 grows with u.x, u = w_1 - w_0, so the optimum in the ball is known.
D = 12
W = rng().standard_normal((2, D))
U = W[1] - W[0]


def inner_images(n: int = 6) -> Any:
    """Far from 0 and 1, and on the right side of the boundary."""
    x = rng(4).uniform(0.4, 0.6, (n, 1, 3, 4))
    return x, np.zeros(n, dtype="int64")


def optimum_linf(x: Any, eps: float) -> Any:
    return np.clip(x + eps * np.sign(U).reshape(1, 1, 3, 4), 0, 1)


def optimum_l2(x: Any, eps: float) -> Any:
    """Largest u.d with ||d|| <= eps and x + d in [0, 1]: d = clip(t u) with t such that ||d|| = eps."""
    images = []
    for image in x.reshape(len(x), D):
        low, high = 0.0, 1e6
        for _ in range(200):
            t = (low + high) / 2
            norm = np.linalg.norm(np.clip(t * U, -image, 1 - image))
            low, high = (t, high) if norm < eps else (low, t)
        images.append(image + np.clip(low * U, -image, 1 - image))
    return np.stack(images).reshape(x.shape)


def check_closed_forms(backend: Any = ops) -> None:
    """All attacks reach the optimum for a linear classifier, from images inside [0, 1] and at its edges."""
    model = linear_model(W, [2.0, 0.0], shape=(1, 3, 4), backend=backend)
    x, y = inner_images()
    assert (model.predict(x) == y).all(), "planned so: otherwise nothing is attacked"
    np.testing.assert_allclose(fgsm(model, x, y, eps=0.2).x_adv, optimum_linf(x, 0.2), atol=1e-12)
    np.testing.assert_allclose(fgm(model, x, y, eps=0.3).x_adv, optimum_l2(x, 0.3), atol=1e-9)
    # Where [0, 1] cuts the L2 ball, projecting and then clipping ends at a distance of the order of the step from the
    # optimum, and slides there slowly along the ball. With this bias no image is wrong to begin with.
    safe = linear_model(W, [9.0, 0.0], shape=(1, 3, 4), backend=backend)
    for start, k, num_steps, gap in ((x, 20, 600, 1e-9), (images(6, (1, 3, 4)), 100, 1000, 1e-3)):
        for norm, optimum, eps in (("linf", optimum_linf, 0.2), ("l2", optimum_l2, 0.3)):
            result = pgd(safe, start, y, eps=eps, norm=norm, step_size=eps / k, num_steps=num_steps)
            best = optimum(start, eps)
            short = (best - result.x_adv).reshape(6, D) @ U
            short = short / ((best - start).reshape(6, D) @ U)
            assert (short <= gap).all(), f"{norm}: short of the optimum by {short.max()} of the way"
            assert (short >= -1e-9).all(), f"{norm}: beyond the optimum by {-short.min()} of the way"
            assert (np.abs(result.loss / safe.loss_and_gradient(best, y).loss - 1) <= 1e-3).all()
            check_result(result, start, eps, norm)


def test_closed_forms() -> None:
    check_closed_forms()


def test_float32_reaches_the_optimum() -> None:
    model = linear_model(W.astype("float32"), [2.0, 0.0], shape=(1, 3, 4))
    x, y = inner_images()
    for norm, optimum in (("linf", optimum_linf), ("l2", optimum_l2)):
        result = pgd(model, x.astype("float32"), y, eps=0.3, norm=norm, step_size=0.02, num_steps=250)
        np.testing.assert_allclose(result.x_adv, optimum(x, 0.3), atol=1e-4)  # closer, losses are equal
        check_result(result, x.astype("float32"), 0.3, norm)


def test_exact_and_bpda_follow_their_own_gradients() -> None:
    """A linear chain that turns the first half of the image around, a linear classifier: both optima are known."""
    turn = np.diag(np.where(np.arange(D) < D // 2, -1.0, 1.0))
    layers = [Flatten(), Linear(D, D), Reshape((1, 3, 4))]
    denoiser = Network(layers, {"1.weight": turn, "1.bias": np.zeros(D)}, (1, 3, 4))
    classifier = linear_model(W, [9.0, 0.0], shape=(1, 3, 4))
    model = MALADE(classifier, denoiser, num_steps=1, a=1.0, delta=0.01, clip=False)
    x, y = inner_images()
    sign = np.sign(U).reshape(1, 1, 3, 4)
    turned = (turn @ np.sign(U)).reshape(1, 1, 3, 4)
    settings = {"eps": 0.1, "step_size": 0.02, "num_steps": 12}
    np.testing.assert_allclose(ascent(model, x, y, mode="exact", **settings).x_adv, x + 0.1 * turned, atol=1e-12)
    np.testing.assert_allclose(ascent(model, x, y, mode="bpda", **settings).x_adv, x + 0.1 * sign, atol=1e-12)
    exact = eot(model, x, y, num_draws=2, **settings)
    np.testing.assert_allclose(exact.x_adv, x + 0.1 * turned, atol=1e-12)
    assert (exact.loss >= bpda(model, x, y, **settings).loss).all()


# Balls, invariants, edges ----------------------------------------------------------------------------------


@given(
    st.sampled_from(["float32", "float64"]),
    balls(),
    st.sampled_from([0.0, 0.01, 3.0]),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_result(
    dtype: str, ball: tuple[str, float], step_size: float, num_restarts: int, random_start: bool, seed: int
) -> None:
    n, (norm, eps) = seed % 5, ball
    model = mlp((2, 3, 3), 3, hidden=(8,), activation="relu", seed=seed % 7, dtype=dtype)
    x, y = images(n, (2, 3, 3), dtype=dtype, seed=seed), rng(seed).integers(0, 3, n)
    with assert_not_mutated(x, y):
        result = pgd(
            model,
            x,
            y,
            eps=eps,
            step_size=step_size,
            num_steps=2,
            norm=norm,
            num_restarts=num_restarts,
            random_start=random_start,
            seed=seed,
        )
    check_result(result, x, eps, norm)
    assert (result.success == (model.predict(result.x_adv) != y)).all()
    assert (result.loss == model.loss_and_gradient(result.x_adv, y).loss).all()
    clean = model.loss_and_gradient(x, y)
    wrong = clean.logits.argmax(axis=1) != y
    assert result.success[wrong].all()
    assert (result.distance[wrong] == 0).all()
    assert (result.x_adv[wrong] == x[wrong]).all()
    assert ((result.loss >= clean.loss) | result.success).all()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("weight", "bias", "success"),
    [
        (np.zeros((3, 16)), [0.0, 0.0, 0.0], [False, True, True]),  # constant, no gradient; class 0 wins the tie
        (np.zeros((3, 16)), [0.0, 9.0, 0.0], [True, False, True]),
        (1e4 * np.eye(3, 16), [1e6, 0.0, 0.0], [False, True, True]),  # saturated: loss and gradient are exactly 0
        (np.full((3, 16), 1e300), [0.0, 0.0, 0.0], [False, True, True]),  # hardly finite
    ],
)
def test_models_without_a_gradient(name: str, weight: Any, bias: Any, success: Any) -> None:
    x = np.stack([np.zeros((1, 4, 4)), np.ones((1, 4, 4)), np.full((1, 4, 4), 0.25)])
    model = linear_model(weight, bias, shape=(1, 4, 4))
    result = ATTACKS[name](model, x, np.arange(3), eps=0.2)
    assert result.success.tolist() == success
    assert (result.distance == 0).all()
    assert (result.x_adv == x).all()


def test_nan_stops_no_other_sample() -> None:
    """A model that breaks where the first pixel is above 1/2: only images that get there feel it."""

    class Breaking(Table):
        input_shape, num_classes = (1, 1, 2), 2

        def __init__(self) -> None:
            pass

        def logits(self, x: Any) -> Any:
            ops.check_images("x", x, self.input_shape)
            first = np.where(x[:, 0, 0, 0] > 0.5, np.nan, x[:, 0, 0, 0])
            return np.stack([np.ones(len(x)), first], axis=1)

        def loss_and_gradient(self, x: Any, y: Any, **_: Any) -> LossGradient:
            logits = self.logits(x)
            gradient = np.stack([logits[:, 1], 0 * x[:, 0, 0, 1]], axis=1)[:, None, None]
            return LossGradient(ops.softmax_cross_entropy(logits, y), logits, gradient)

    x = np.array([[0.1, 0.0], [0.45, 0.0]]).reshape(2, 1, 1, 2)
    for norm in ("linf", "l2"):
        result = pgd(
            Breaking(), x, np.zeros(2, int), eps=0.3, step_size=0.1, num_steps=3, norm=norm, random_start=False
        )
        np.testing.assert_allclose(result.x_adv[:, 0, 0, 0], [0.4, 0.45])
        assert np.isfinite(result.loss).all()


def test_the_small_cnn() -> None:
    model = cnn("small")
    x, y = images(20, (1, 28, 28), dtype="float32"), np.arange(20) % 10
    y[:10] = model.predict(x)[:10]
    clean = model.loss_and_gradient(x, y).loss
    for norm, eps in (("linf", 0.3), ("l2", 2.0)):
        result = pgd(model, x, y, eps=eps, step_size=eps / 4, num_steps=5, norm=norm)
        check_result(result, x, eps, norm)
        assert result.success.all(), "an untrained network has no robustness"
        assert (result.loss[:10] > clean[:10]).all()


# Which iterate is kept -------------------------------------------------------------------------------------

QUIET, LOUD = (3.0, 0.0, 0.0), (1.0, 0.0, 0.0)  # right, with a small and a large loss
SLY = (1.0, 1.1, -9.0)  # wrong, with a loss smaller than that of UNSURE
UNSURE = (1.0, 0.99, 0.99)  # right
FLAT = (0.0, 5.0, 0.0)  # very wrong


@pytest.mark.parametrize(
    ("rows", "kept", "success"),
    [
        ([QUIET, LOUD, QUIET, QUIET, QUIET, QUIET], 1, False),
        ([QUIET, QUIET, QUIET, LOUD, QUIET, QUIET], 3, False),  # the loss peaks in the middle
        ([QUIET, QUIET, QUIET, QUIET, QUIET, LOUD], 5, False),  # the last iterate counts
        ([LOUD, QUIET, QUIET, QUIET, QUIET, QUIET], 0, False),  # nothing beats the clean image
        ([QUIET, LOUD, QUIET, LOUD, QUIET, LOUD], 1, False),  # the first of equals
        ([QUIET, UNSURE, SLY, UNSURE, QUIET, QUIET], 2, True),  # success first
        ([QUIET, SLY, FLAT, SLY, QUIET, QUIET], 2, True),  # then the loss
        ([QUIET, QUIET, QUIET, QUIET, QUIET, SLY], 5, True),
        ([SLY, FLAT, FLAT, FLAT, FLAT, FLAT], 0, True),  # already wrong: nothing else is looked for
    ],
)
def test_best_iterate(rows: list[Any], kept: int, success: bool) -> None:
    result = Table(rows).walk()
    np.testing.assert_allclose(result.x_adv, 0.1 * kept, atol=1e-12)
    assert result.success.tolist() == [success]
    np.testing.assert_allclose(result.loss, ops.softmax_cross_entropy(np.array([rows[kept]]), np.array([0])))
    np.testing.assert_allclose(result.distance, 0.1 * kept, atol=1e-12)


def test_record_shows_every_iterate() -> None:
    rows = [QUIET, LOUD, SLY, UNSURE]
    seen: list[tuple[int, float]] = []
    Table(rows).walk(num_steps=3, num_restarts=2, record=lambda number, loss: seen.append((number, float(loss[0]))))
    losses = ops.softmax_cross_entropy(np.array(rows), np.zeros(4, int))
    assert [number for number, _ in seen] == list(range(8))
    np.testing.assert_allclose([loss for _, loss in seen], [*losses, *losses])


def test_ascent_is_the_bare_loop() -> None:
    """The last iterate, of images that are wrong to begin with too."""
    table = Table([SLY, FLAT, QUIET, LOUD])
    x, y = np.zeros((1, 1, 1, 1)), np.array([0])
    result = ascent(table, x, y, eps=1.0, step_size=0.1, num_steps=3, random_start=False)
    np.testing.assert_allclose(result.x_adv, 0.3, atol=1e-12)
    np.testing.assert_allclose(
        np.concatenate(result.losses), ops.softmax_cross_entropy(table.table[:3], np.zeros(3, int))
    )
    model = mlp((1, 4, 4), 3, dtype="float64")
    x, y = images(4, (1, 4, 4)), np.arange(4) % 3
    last = ascent(model, x, y, eps=0.2, seed=5, **SHORT).x_adv
    iterates: list[Any] = []
    counted = Counted(model)
    counted.logits = lambda x, **_: iterates.append(x) or model.logits(x)  # type: ignore[method-assign]
    pgd(counted, x, y, eps=0.2, seed=5, **SHORT)
    assert (last == iterates[-1]).all()


def test_ascent_evaluates_gradients_only() -> None:
    counted = Counted(mlp((1, 4, 4), 3, dtype="float64"))
    ascent(counted, images(4, (1, 4, 4)), np.zeros(4, int), num_steps=7)
    assert (counted.queries, counted.gradients) == (7, 7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("make", [lambda: mlp((1, 4, 4), 3, activation="relu", dtype="float64"), small_malade])
def test_more_restarts_are_never_worse(norm: str, make: Any) -> None:
    model = make()
    x = images(12, (1, 4, 4))
    y = model.predict(x)
    results = [
        pgd(model, x, y, eps=0.4, step_size=0.1, num_steps=2, norm=norm, num_restarts=r, seed=1) for r in (1, 2, 5)
    ]
    for fewer, more in pairwise(results):
        assert (more.success >= fewer.success).all()
        same = more.success == fewer.success
        assert (more.loss[same] >= fewer.loss[same]).all()
    assert (results[-1].loss > results[0].loss).any(), "planned so: otherwise restarts do nothing"


def test_restarts_and_samples_start_at_different_points() -> None:
    starts: list[Any] = []
    model = Counted(mlp((1, 4, 4), 3, dtype="float64"))
    inner = model.model.loss_and_gradient
    model.loss_and_gradient = lambda x, y, **_: starts.append(x) or inner(x, y)  # type: ignore[method-assign]
    x = np.full((6, 1, 4, 4), 0.5)
    for norm in ("linf", "l2"):
        for seed in (0, 1):
            pgd(model, x, np.zeros(6, int), eps=0.4, num_steps=1, norm=norm, num_restarts=3, seed=seed)
    points = np.concatenate(starts).reshape(-1, 16)
    assert len(np.unique(points.round(9), axis=0)) == len(points) == 2 * 2 * 3 * 6


# Samples never mix -----------------------------------------------------------------------------------------


def check_identity(attack: Any, model: Any, x: Any, y: Any) -> None:
    """Samples on their own, in another order and in other batches give the same."""
    whole = attack(model, x, y, sample_index=np.arange(len(x)))
    order = np.array([3, 0, 4, 2, 1])
    for part in (*[[i] for i in range(len(x))], order, [1, 4]):
        alone = attack(model, x[part], y[part], sample_index=np.asarray(part))
        for name, a, b in zip(whole._fields, whole, alone, strict=True):
            np.testing.assert_allclose(b, a[part], rtol=1e-9, atol=1e-9, err_msg=f"{name} of {part}")


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    "make", [lambda: mlp((1, 4, 4), 3, dtype="float64"), pytest.param(small_malade, marks=pytest.mark.slow)]
)
def test_samples_do_not_mix(name: str, make: Any) -> None:
    check_identity(partial(ATTACKS[name], eps=0.2, seed=2), make(), images(5, (1, 4, 4)), np.arange(5) % 3)


def test_default_sample_index_counts_from_0() -> None:
    model, x, y = small_malade(), images(3, (1, 4, 4)), np.arange(3)
    for a, b in zip(pgd(model, x, y, **SHORT), pgd(model, x, y, sample_index=[0, 1, 2], **SHORT), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_of_a_sample_is_bit_identical(norm: str) -> None:
    """More images than a slice holds, in float32, without steps: what moves them is the random start alone."""
    model = mlp((1, 4, 4), 3, seed=4)
    x = np.full((40, 1, 4, 4), 0.5, dtype="float32")
    y = model.predict(x)
    starts: list[Any] = []

    class Spy(Counted):
        def loss_and_gradient(self, x: Any, y: Any, **settings: Any) -> Any:
            starts.append(x)
            return super().loss_and_gradient(x, y, **settings)

    pgd(Spy(model), x, y, norm=norm, num_steps=1, seed=9)
    for i in (0, 17, 39):
        pgd(Spy(model), x[i : i + 1], y[i : i + 1], norm=norm, num_steps=1, seed=9, sample_index=np.array([i]))
        assert (starts[-1][0] == starts[0][i]).all()


# Stochastic models -----------------------------------------------------------------------------------------


def test_eot_follows_the_expected_gradient() -> None:
    """Logit (m + e) u.(x - 1/2): at x = 1/2 the gradient is (m + e) u / 2, its mean m u / 2, and a draw often errs."""
    u, m, n = np.array([1.0, -2.0, 0.5]), 0.3, 200

    def f(x: Any, e: Any) -> Any:
        return (m + e) * ((x - 0.5) @ u)

    model = Noisy(f, lambda x, e: (m + e)[:, None] * u, d=3)
    x, y = np.full((n, 1, 1, 3), 0.5), np.zeros(n, int)
    right = 0.5 + 0.1 * np.sign(u)
    step = {"eps": 0.1, "step_size": 0.1, "num_steps": 1, "random_start": False}
    share = [
        (np.abs(ascent(model, x, y, num_draws=d, **step).x_adv[:, 0, 0] - right).max(axis=1) < 1e-12).mean()
        for d in (1, 400)
    ]
    assert abs(share[0] - 0.618) < 0.12  # P(e > -m)
    assert share[1] == 1.0
    _, gradient = Oracle(model, x, y, num_draws=400).gradient(x)
    np.testing.assert_allclose(gradient.mean(axis=0)[0, 0], m * u / 2, atol=5 * 2 / math.sqrt(400 * n))


def test_eot_averages_the_attackers_own_draws() -> None:
    model, x, y = small_malade(), images(4, (1, 4, 4)), np.arange(4) % 3
    oracle = Oracle(model, x, y, num_draws=3, seed=6)
    for evaluation in range(2):
        verdict, gradient = oracle.gradient(x)
        draws = [
            model.loss_and_gradient(x, y, first_draw=3 * evaluation + d, stream=Stream(6, SEARCH)) for d in range(3)
        ]
        np.testing.assert_allclose(gradient, sum(draw.gradient for draw in draws) / 3, rtol=1e-12)
        np.testing.assert_allclose(verdict.loss, sum(draw.loss for draw in draws) / 3, rtol=1e-12)
    judged, _ = oracle.judge(x)
    logits = [model.logits(x, first_draw=d, stream=Stream(6, JUDGE)) for d in range(10)]
    np.testing.assert_allclose(judged.loss, sum(ops.softmax_cross_entropy(z, y) for z in logits) / 10, rtol=1e-12)
    assert (judged.success == (sum(logits).argmax(axis=1) != y)).all()


def test_streams() -> None:
    """The defender's stream is never asked; no draw of the search is used twice, none is a judging draw."""
    model = Noisy(lambda x, e: x[:, 0] - 2 + e, lambda x, e: np.ones_like(x))
    x, y = np.full((3, 1, 1, 1), 0.5), np.zeros(3, int)
    pgd(model, x, y, num_steps=4, num_restarts=3, num_draws=2, num_judge_draws=5, seed=8)
    assert {stream for stream, _ in model.asked} == {Stream(8, SEARCH), Stream(8, JUDGE)}
    assert small_malade(seed=8).stream not in {stream for stream, _ in model.asked}
    search = [draw for stream, draw in model.asked if stream.name == SEARCH]
    assert search == list(range(3 * (4 + 1) * 2))
    assert [draw for stream, draw in model.asked if stream.name == JUDGE] == 7 * list(range(5))


def test_common_draws() -> None:
    """The search has the same few draws throughout; the judging draws are what they always are."""
    model = Noisy(lambda x, e: x[:, 0] - 2 + e, lambda x, e: np.ones_like(x))
    x, y = np.full((3, 1, 1, 1), 0.5), np.zeros(3, int)
    settings: dict[str, Any] = {"num_steps": 4, "num_restarts": 3, "num_draws": 2, "num_judge_draws": 5, "seed": 8}
    for attack in (partial(pgd, common_draws=True), partial(apgd, common_draws=True)):
        model.asked.clear()
        losses: list[Any] = []
        attack(model, x, y, **settings, record=lambda _, loss, losses=losses: losses.append(loss))
        assert [draw for stream, draw in model.asked if stream.name == SEARCH] == 3 * (4 + 1) * [0, 1]
        assert [draw for stream, draw in model.asked if stream.name == JUDGE] == 7 * list(range(5))
    # A function of the image alone: the same where it is asked again, by gradient or not.
    oracle = Oracle(model, x, y, num_draws=2, common_draws=True)
    answers = [oracle.gradient(x)[0].loss, oracle.query(x).loss, oracle.query(x, again=True).loss, oracle.query(x).loss]
    assert all((answer == answers[0]).all() for answer in answers)


def test_mean_logits_are_judged_alike_with_and_without_a_gradient() -> None:
    model, x, y = small_malade(), images(4, (1, 4, 4)), np.arange(4) % 3
    settings: dict[str, Any] = {"num_draws": 3, "common_draws": True}
    of_logits, of_loss = (Oracle(model, x, y, expectation=name, **settings) for name in ("logits", "loss"))
    np.testing.assert_allclose(of_logits.gradient(x)[0].loss, of_logits.query(x).loss, rtol=1e-12)
    assert (of_logits.query(x).loss < of_loss.query(x).loss).all()  # Jensen: the loss is convex in the logits
    assert (of_logits.judge(x)[0].loss == of_loss.judge(x)[0].loss).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_transfer_starts(norm: str) -> None:
    """The first restart starts where one of the attack ends on the bare classifier, the others where they did."""
    model, x, y = small_malade(), images(5, (1, 4, 4)), np.arange(5) % 3
    settings: dict[str, Any] = {"eps": 0.2, "norm": norm, "seed": 4}
    for attack, own in ((eot, {**SHORT, "num_draws": 2}), (apgd, {"num_steps": 4, "loss": "dlr"})):
        first: list[Any] = []

        class Spy(MALADE):
            def loss_and_gradient(self, x: Any, y: Any, first: Any = first, **of_call: Any) -> Any:
                first.append(x)
                return super().loss_and_gradient(x, y, **of_call)

        spy = Spy(model.classifier, model.denoiser, **model.chain._asdict())
        attack(spy, x, y, **settings, **own, num_restarts=2, transfer_start=True)
        found = attack(model.classifier, x, y, **settings, **own)
        started = list(first)
        assert (started[0] == found.x_adv).all()
        assert distances(started[0], x, norm).max() > 0.1
        first.clear()
        attack(spy, x, y, **settings, **own, num_restarts=2)
        assert not (first[0] == started[0]).all()
        assert (first[4] == started[4]).all()
        # A model without a classifier behind it starts as it did.
        for one, same in zip(
            found, attack(model.classifier, x, y, **settings, **own, transfer_start=True), strict=True
        ):
            assert (one == same).all()


def test_drift() -> None:
    """Its gradient against finite differences; of weight 0 it is EOT; and it makes chains go astray."""
    model, x, y = small_malade(), images(5, (1, 4, 4)), np.arange(5) % 3
    draws = {"stream": Stream(6, "some"), "draws": range(2, 4), "sample_index": np.arange(10, 15)}
    moved = np.clip(x + rng(1).uniform(-0.2, 0.2, x.shape), 0.02, 0.98)

    def drift(x_adv: Any) -> Any:
        """Mean over two draws and three steps of what is summed over pixels."""
        total = 0.0
        for draw in (2, 3):
            noise = {"stream": draws["stream"], "sample_index": draws["sample_index"], "draw": draw}
            pairs = list(zip(model.path(x_adv, **noise), model.path(x, **noise), strict=True))
            total = total + sum(((a - b) ** 2).sum(axis=(1, 2, 3)) for a, b in pairs[1:])
        return total / 6

    directional_check(
        drift, lambda w, x_adv: w[:, None, None, None] * drift_gradient(model, x_adv, x, **draws), [moved], eps=1e-4
    )
    settings: dict[str, Any] = {"eps": 0.2, "step_size": 0.05, "num_steps": 8, "num_draws": 2, "num_restarts": 2}
    plain = eot(model, x, y, **settings)
    for one, same in zip(plain, drift_pgd(model, x, y, **settings, weight=0.0), strict=True):
        assert (one == same).all()
    still = MALADE(model.classifier, model.denoiser, num_steps=0, a=0.3, delta=0.1)
    for other in (model.classifier, still):  # no chain, and none to speak of
        for one, same in zip(pgd(other, x, y, **settings), drift_pgd(other, x, y, **settings, weight=5.0), strict=True):
            assert (one == same).all()
    # What is kept is best by the cross entropy; the last iterates are looked at in passing.
    one_step = {"eps": 0.2, "step_size": 0.2, "num_steps": 1, "random_start": True, "num_judge_draws": 1}
    ends: list[Any] = []

    class Spy(MALADE):
        def logits(self, x: Any, **of_call: Any) -> Any:
            ends.append(x)
            return super().logits(x, **of_call)

    spy = Spy(model.classifier, model.denoiser, **model.chain._asdict())
    drifts = []
    for weight in (0.0, 100.0):
        ends.clear()
        drift_pgd(spy, x, y, **one_step, weight=weight)
        drifts.append(drift(ends[1]))
    assert (drifts[1] > 1.2 * drifts[0]).all()


def coin(shift: float) -> Noisy:
    """A model whose second logit is shift + e whatever the image: wrong about class 0 with probability Phi(shift)."""
    return Noisy(lambda x, e: shift + e + 0 * x[:, 0], lambda x, e: np.zeros_like(x))


def test_one_lucky_draw_is_no_success() -> None:
    n = 300
    x, y = np.full((n, 1, 1, 1), 0.5), np.zeros(n, int)
    lucky = np.zeros(n, bool)

    class Watched(Noisy):
        def loss_and_gradient(self, *args: Any, **settings: Any) -> LossGradient:
            result = super().loss_and_gradient(*args, **settings)
            lucky[:] |= result.logits.argmax(axis=1) != y
            return result

    quiet = coin(-1.3)  # one draw in ten is wrong
    model = Watched(quiet.f, quiet.slope)
    result = pgd(model, x, y, num_steps=40, num_draws=1, num_judge_draws=30)
    assert lucky.mean() > 0.95, "planned so: an attack that believes one draw would succeed"
    assert not result.success.any()  # the mean logit is seven standard deviations away
    assert pgd(coin(1.3), x, y, num_steps=1, num_judge_draws=30).success.all()


def test_the_reported_loss_has_no_winners_curse() -> None:
    n, judge = 400, 10
    x, y = np.full((n, 1, 1, 1), 0.5), np.zeros(n, int)
    losses: list[Any] = []
    result = pgd(coin(-1.0), x, y, num_steps=20, num_judge_draws=judge, record=lambda _, loss: losses.append(loss))
    e, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()
    of_draw = np.log1p(np.exp(e - 1.0))
    expected = float(weight @ of_draw)
    spread = math.sqrt(float(weight @ of_draw**2) - expected**2)
    # Clean image and best iterate face the same draws, so a model that ignores the image gives both the same loss.
    assert abs(result.loss.mean() - expected) < 4 * spread / math.sqrt(n * judge)
    assert np.max(losses, axis=0).mean() > expected + 2 * spread, "planned so: the best of the search is far too good"


def test_a_stochastic_model_is_left_alone_only_if_always_wrong() -> None:
    """Logit x + e, large images being worse: what is wrong on most draws is still made worse."""
    n = 50
    x, y = np.full((n, 1, 1, 1), 0.5), np.zeros(n, int)

    def model(shift: float) -> Noisy:
        return Noisy(lambda x, e: shift + 4 * (x[:, 0] - 0.5) + e, lambda x, e: 4 + 0 * x)

    always = pgd(model(9.0), x, y, num_steps=8, step_size=0.05)
    assert always.success.all()
    assert (always.distance == 0).all()
    assert (always.x_adv == x).all()
    mostly = pgd(model(0.3), x, y, num_steps=12, step_size=0.05, num_judge_draws=100)
    assert mostly.success.all()
    np.testing.assert_allclose(mostly.x_adv, 0.8, atol=0.06)


def test_mean_loss_decides_in_the_search() -> None:
    """An iterate that is wrong by a hair loses against one that is right with a larger mean loss."""
    far = 12.0

    def f(x: Any, e: Any) -> Any:
        # At 0: right. At 0.1: always wrong, by a hair. At 0.2: half of the draws very wrong, the others very right.
        return np.where(x[:, 0] < 0.05, -3.0, np.where(x[:, 0] < 0.15, 0.01, np.where(e > 0.1, far, -2 * far)))

    n = 40
    model = Noisy(f, lambda x, e: np.ones_like(x))
    x, y = np.zeros((n, 1, 1, 1)), np.zeros(n, int)
    walk = {"eps": 1.0, "step_size": 0.1, "num_steps": 2, "random_start": False}
    result = pgd(model, x, y, num_draws=200, num_judge_draws=200, **walk)
    np.testing.assert_allclose(result.x_adv, 0.2)
    assert not result.success.any()


# Counts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("make", [lambda: mlp((1, 4, 4), 3, dtype="float64"), small_malade])
def test_counts_are_what_was_asked(name: str, make: Any) -> None:
    model = Counted(make())
    result = ATTACKS[name](model, images(3, (1, 4, 4)), np.arange(3), eps=0.2)
    queries, gradients = model.asked()
    assert result.num_queries.tolist() == 3 * [queries]
    assert result.num_gradients.tolist() == 3 * [gradients]


@pytest.mark.parametrize(("stochastic", "draws", "judge"), [(False, 1, 1), (True, 3, 7)])
def test_counts_are_as_documented(stochastic: bool, draws: int, judge: int) -> None:
    model = Counted(small_malade() if stochastic else mlp((1, 4, 4), 3, dtype="float64"))
    x, y = images(2, (1, 4, 4)), np.zeros(2, int)
    settings: dict[str, Any] = {"num_steps": 5, "num_restarts": 2, "num_draws": 3, "num_judge_draws": 7}
    result = pgd(model, x, y, **settings)
    again = judge if stochastic else 0
    assert result.num_queries.tolist() == 2 * [judge + 2 * (6 * draws + 2 * again)] == 2 * [model.queries]
    assert result.num_gradients.tolist() == 2 * [2 * 5 * draws] == 2 * [model.gradients]
    # Of the bare classifier, if there is one.
    for attack, more in ((pgd, (7, 5)), (apgd, (7, 5)), (partial(apgd, loss="dlr"), (8, 5))):
        without, started = (attack(model, x, y, **settings, transfer_start=start) for start in (False, True))
        extra = started.num_queries - without.num_queries, started.num_gradients - without.num_gradients
        assert [count.tolist() for count in extra] == [2 * [count if stochastic else 0] for count in more]


# Forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "general"),
    [
        (partial(bpda, **SHORT), partial(pgd, **SHORT, mode="bpda")),
        (partial(eot, **SHORT, num_draws=2), partial(pgd, **SHORT, num_draws=2)),
        (partial(bpda_eot, **SHORT, num_draws=2), partial(pgd, **SHORT, num_draws=2, mode="bpda")),
        (partial(bpda, **SHORT, mode="bpda-denoiser"), partial(pgd, **SHORT, mode="bpda-denoiser")),
        (ATTACKS["eot adaptive"], partial(pgd, **ATTACKS["eot adaptive"].keywords)),
        (ATTACKS["bpda denoiser"], partial(pgd, **ATTACKS["bpda denoiser"].keywords)),
        (partial(fgsm, eps=0.1), partial(pgd, eps=0.1, step_size=0.1, num_steps=1, random_start=False)),
        (partial(fgm, eps=0.1), partial(pgd, eps=0.1, step_size=0.1, num_steps=1, random_start=False, norm="l2")),
    ],
)
def test_forms_of_pgd(form: Any, general: Any) -> None:
    model, x, y = small_malade(), images(4, (1, 4, 4)), np.arange(4) % 3
    for a, b in zip(form(model, x, y, seed=3), general(model, x, y, seed=3), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("attack", [fgsm, fgm, bpda, eot, bpda_eot, ascent])
def test_defaults_are_those_of_pgd(attack: Any) -> None:
    reference = inspect.signature(pgd).parameters
    for name, parameter in inspect.signature(attack).parameters.items():
        assert parameter.kind == reference[name].kind
        if name == "mode" and attack in (bpda, bpda_eot):
            assert parameter.default == "bpda"
        elif name not in ("num_draws", "num_steps") or attack is bpda:
            assert parameter.default == reference[name].default


def test_transfer() -> None:
    model, surrogate = Counted(small_malade()), mlp((1, 4, 4), 3, dtype="float64", seed=5)
    x, y = images(6, (1, 4, 4)), np.arange(6) % 3
    settings = {"eps": 0.2, "norm": "l2", **SHORT}
    result = transfer(model, x, y, surrogate=surrogate, seed=1, **settings)
    moved = pgd(surrogate, x, y, seed=1, **settings)
    oracle = Oracle(model.model, x, y, seed=1)
    always = oracle.judge(x)[1]
    assert not always.all()
    expected = np.where(always[:, None, None, None], x, moved.x_adv)
    assert (result.x_adv == expected).all()
    check_result(result, x, 0.2, "l2")
    judged, _ = oracle.judge(expected)
    assert (result.success == judged.success).all()
    assert (result.loss == judged.loss).all()
    assert (result.num_queries == 20).all()
    assert model.queries == 20
    assert (result.num_gradients == 0).all()
    check_identity(partial(transfer, surrogate=surrogate, **settings), small_malade(), x[:5], y[:5])
    with pytest.raises(InputError, match="surrogate: expected float64 images of shape"):
        transfer(model, x, y, surrogate=mlp((1, 3, 3), 3, dtype="float64"))


# Planted mistakes ------------------------------------------------------------------------------------------


def backend_with(**changed: Any) -> Any:
    return SimpleNamespace(**{**vars(ops), **changed})


def first_for_all(condition: Any, new: Any, old: Any) -> Any:
    """One decision for the whole batch, the first sample's."""
    return ops.select(np.full(len(condition), condition[:1].any()), new, old)


def norm_over_batch(x: Any, gradient: Any, *, step_size: float) -> Any:
    return x + step_size * gradient / max(np.linalg.norm(gradient), 1e-300)


def noise_by_row(shape: Any, *, key: Any, sample_index: Any, **settings: Any) -> Any:
    return ops.uniform(shape, key=key, sample_index=np.arange(len(sample_index)), **settings)


def check_table(backend: Any) -> None:
    for rows, kept in (([QUIET, UNSURE, SLY, UNSURE, QUIET, QUIET], 2), ([QUIET, SLY, FLAT, SLY, UNSURE, QUIET], 2)):
        table = Table(rows)
        table.ops = backend
        np.testing.assert_allclose(table.walk().x_adv, 0.1 * kept, atol=1e-12)


def check_ball(backend: Any) -> None:
    model = mlp((1, 4, 4), 3, ops=backend)
    x, y = images(5, (1, 4, 4), dtype="float32"), np.arange(5) % 3
    for norm in ("linf", "l2"):
        check_result(pgd(model, x, y, eps=0.1, step_size=0.08, num_steps=4, norm=norm), x, 0.1, norm)


def check_mixing(backend: Any) -> None:
    model = mlp((1, 4, 4), 3, dtype="float64", ops=backend)
    for name in ("pgd linf", "pgd l2"):
        check_identity(partial(ATTACKS[name], eps=0.2), model, images(5, (1, 4, 4)), np.arange(5) % 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "mistake"),
    [
        (check_closed_forms, {"sign_step": lambda x, g, *, step_size: ops.sign_step(x, -g, step_size=step_size)}),
        (check_closed_forms, {"normalised_step": lambda x, g, *, step_size: x + step_size * g}),
        (check_closed_forms, {"better": lambda s, a, t, b: ops.better(s, -a, t, -b)}),
        (check_ball, {"project_linf": lambda x, centre, *, eps: ops.clip_pixels(x)}),
        (check_ball, {"project_l2": lambda x, centre, *, eps: ops.clip_pixels(x)}),
        (
            check_ball,
            {"project_linf": lambda x, c, *, eps: np.clip(np.clip(x, c - np.float32(eps), c + np.float32(eps)), 0, 1)},
        ),
        (check_table, {"better": lambda s, a, t, b: a > b}),
        (check_table, {"better": lambda s, a, t, b: s}),
        (check_mixing, {"select": first_for_all}),
        (check_mixing, {"normalised_step": norm_over_batch}),
        (check_mixing, {"uniform": noise_by_row}),
    ],
)
def test_planted_mistakes_are_caught(check: Any, mistake: Any) -> None:
    check(backend_with())
    with pytest.raises(AssertionError):
        check(backend_with(**mistake))


# Complaints ------------------------------------------------------------------------------------------------

MODEL = mlp((1, 4, 4), 3, dtype="float64")
X, Y = images(2, (1, 4, 4)), np.array([0, 1])
NOT_A_NUMBER = np.where(np.arange(32).reshape(X.shape) == 20, np.nan, X)


@pytest.mark.parametrize(
    "attack",
    [fgsm, fgm, pgd, mim, apgd, r_pgd, drift_pgd, bpda, eot, bpda_eot, ascent, partial(transfer, surrogate=MODEL)],
)
@pytest.mark.parametrize(
    ("x", "y", "settings", "message"),
    [
        (X[0], Y, {}, "x: expected 4 axes"),
        (X[:, :, :3], Y, {}, "x: expected shape"),
        (X.tolist(), Y, {}, "x: expected a NumPy array, got list"),
        ((255 * X).astype("uint8"), Y, {}, "x: expected float32 pixels in"),
        (X.astype("float32"), Y, {}, "x: expected float64 .* got float32"),
        (NOT_A_NUMBER, Y, {}, "x: image 1 has not a number"),
        (X + 1e-9, Y, {}, "x: image 0 has pixel 1 outside"),
        (X, Y[:1], {}, "y: expected shape"),
        (X, Y + 2, {}, "y: label 3 of sample 1 is outside 0..2"),
        (X, Y - 1, {}, "y: label -1 of sample 0"),
        (X, Y.astype(float), {}, "y: expected integers"),
        (X, Y, {"eps": -0.1}, "eps: expected a finite number >= 0, got -0.1"),
        (X, Y, {"eps": math.nan}, "eps: expected a finite number >= 0, got nan"),
        (X, Y, {"eps": "0.3"}, "eps: expected a finite number >= 0, got '0.3'"),
        (X, Y, {"seed": -1}, "seed: expected an integer >= 0, got -1"),
        (X, Y, {"sample_index": Y[:1]}, "sample_index: expected shape"),
        (X, Y, {"sample_index": 7}, "sample_index: expected 1 axes"),
        (X, Y, {"sample_index": Y.astype(float)}, "sample_index: expected integers"),
    ],
)
def test_complaints(attack: Any, x: Any, y: Any, settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        attack(MODEL, x, y, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l1"}, "norm: expected one of linf, l2; got 'l1'"),
        ({"mode": "straight"}, "mode: expected one of exact, bpda, bpda-denoiser; got 'straight'"),
        ({"expectation": "vote"}, "expectation: expected one of loss, logits; got 'vote'"),
        ({"step_size": -1}, "step_size: expected a finite number >= 0"),
        ({"num_steps": 0}, "num_steps: expected an integer >= 1"),
        ({"num_steps": 2.5}, "num_steps: expected an integer >= 1"),
        ({"num_restarts": 0}, "num_restarts: expected an integer >= 1"),
        ({"num_draws": 0}, "num_draws: expected an integer >= 1"),
        ({"num_judge_draws": 0}, "num_judge_draws: expected an integer >= 1"),
    ],
)
def test_complaints_about_settings(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pgd(MODEL, X, Y, **settings)
    for attack in (bpda, bpda_eot):
        with pytest.raises(InputError, match="mode: expected one of bpda, bpda-denoiser; got 'exact'"):
            attack(MODEL, X, Y, mode="exact")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pgd", "apgd", "square", "mim", "auto_attack"])
def test_a_radius_of_pixels_in_255_is_refused(name: str) -> None:
    """In Linf nothing is further away than 1: eight of 255 is meant."""
    model, x, y = mlp((1, 4, 4), 4), images(2, (1, 4, 4)).astype("float32"), np.zeros(2, int)
    attack = getattr(attacks, name)
    with pytest.raises(InputError, match=r"eps: expected at most 1, .* got 8; of 255 it is 8/255"):
        attack(model, x, y, eps=8)
    attack(model, x, y, eps=1.0)
    if name != "mim":
        attack(model, x, y, eps=8, norm="l2")
