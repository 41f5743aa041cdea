r"""Boundary attack: from a wrong image towards the clean one, asking for the model's decisions alone.

A random step on the sphere around the clean image, then one towards it; what is nearer and wrong still is kept. Each
image has two step sizes of its own, a on the sphere and b towards the clean image, relative to its distance. After
every window of steps they are changed by a factor of 1.5, by what share of the proposals was wrong:

    on the sphere, before the step towards the clean image    above 1/2: a and b grow; below 1/5: both shrink
    after both                                                above 1/4: b grows; below 1/10: b shrinks

so that the boundary looks flat, about half of it on either side, on the scale of the steps.

References
----------
.. [1] Brendel, Rauber, Bethge, "Decision-based adversarial attacks: reliable attacks against black-box machine learning
   models", ICLR 2018.
"""

from __future__ import annotations

import math
from typing import Any

from ..arrays import Array
from ..checks import check_number, check_work
from .cards import Cost, card
from .oracle import PROPOSAL, START, Asking, AttackResult, Model, Oracle, Verdict, select

FACTOR = 1.5
LEAST, MOST = 1e-8, 1.0  # of step sizes
# A stochastic model's boundary is blurred: how much further out its finds are looked at, in shares of their distance.
FURTHER = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


def _cost(s: Any) -> Cost:
    checks = s.num_steps // max(1, s.window // s.num_checks)
    return Cost(0, (s.num_starts + s.num_line_steps + s.num_steps + checks) * s.draws)


@card(title="boundary attack", gradient="none", norm="l2", nearest=True, cost=_cost)
def boundary(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float | None = None,
    num_steps: int = 5000,
    spherical_step: float = 0.01,
    source_step: float = 0.01,
    window: int = 50,
    num_checks: int = 10,
    num_starts: int = 50,
    num_line_steps: int = 10,
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
) -> AttackResult:
    """Boundary attack in the Euclidean norm: the nearest image that is wrong, by decisions alone.

    Parameters
    ----------
    eps : float, optional
        As of `fab`.
    num_steps : int
        Steps.
    spherical_step, source_step : float
        The first step sizes, relative to the distance, > 0.
    window : int
        Steps after which they are changed.
    num_checks : int
        In how many of them the decision on the sphere is asked for, at most all.
    num_starts : int
        Random images tried as starts: uniform noise and, more and more of it, salt and pepper, in turns.
    num_line_steps : int
        Bisections of the line from the start to the clean image.

    Returns
    -------
    AttackResult
        An image of which no start is wrong counts as robust; it is returned as it is, and stops no other.
        ``num_queries``
        = (num_starts + num_line_steps + num_steps + C) num_draws + F num_judge_draws, with C = num_steps // (window //
        num_checks) checks; for a deterministic model F = 2 and draws count 1, for a stochastic one F = 7.
        ``num_gradients`` = 0.

    Notes
    -----
    The others are those of `pgd`. A decision is what the model says by more than rounding can do.

    Deviations from Brendel et al. (and from Foolbox, whose step towards the clean image makes up for clipping; so does
    this one): success rates are of windows that do not overlap, all of whose proposals count for b, with a check on the
    sphere at every few; the start is first drawn to the boundary by bisection; there are starts of salt and pepper.

    A stochastic model is wrong if it is by the mean logits of num_draws draws, the same throughout: else a lucky draw
    would carry the search across the boundary, with no way back. Of the find and a few images behind it, the nearest
    one that the judging draws confirm is returned.
    """
    asking = Asking(num_draws=num_draws, num_judge_draws=num_judge_draws, seed=seed, sample_index=sample_index)
    oracle, ops = asking.oracle(model, x, y), model.ops
    limit = math.inf if eps is None else check_number("eps", eps, minimum=0)
    check_number("spherical_step", spherical_step, above=0, maximum=MOST)
    check_number("source_step", source_step, above=0, maximum=MOST)
    check_work("num_steps", num_steps)
    check_work("window", window)
    check_work("num_checks", num_checks)
    check_work("num_starts", num_starts)
    check_work("num_line_steps", num_line_steps, minimum=0)

    clean, _ = oracle.judge(x)
    x_t = _starts(oracle, clean, num_starts, num_line_steps)
    distance = ops.distance_l2(x_t, x)
    key = ops.derive_key(seed, PROPOSAL)
    zero = ops.zeros(oracle.y.shape, "float64")
    a, b = zero + spherical_step, zero + source_step
    hits, hits_on_sphere, checks = zero, zero, 0
    every = max(1, window // num_checks)
    for step in range(1, num_steps + 1):
        on_sphere, candidate = ops.boundary_proposal(x_t, x, a, b, key=key, sample_index=oracle.sample_index, step=step)
        wrong = _wrong(oracle, candidate)
        hits = hits + wrong
        new_distance = ops.distance_l2(candidate, x)
        better = wrong & (new_distance < distance)
        x_t, distance = ops.select(better, candidate, x_t), ops.select(better, new_distance, distance)
        if step % every == 0:
            hits_on_sphere, checks = hits_on_sphere + _wrong(oracle, on_sphere), checks + 1
        if step % window == 0:
            of_both = _factor(oracle, hits_on_sphere / max(1, checks), 0.2, 0.5)
            of_b = _factor(oracle, hits / window, 0.1, 0.25)
            a, b = _within(oracle, a * of_both), _within(oracle, b * of_both * of_b)
            hits, hits_on_sphere, checks = zero, zero, 0
    best, beyond = clean, zero
    for further in FURTHER if model.stochastic else FURTHER[:1]:
        judged, _ = oracle.judge(ops.interpolate(x, x_t, zero + (1 + further)))
        distance = ops.distance_l2(judged.x, x)
        found = judged.success & (judged.loss == judged.loss)
        best = select(ops, found & (distance <= limit) & ~best.success, judged, best)
        beyond = ops.select(found & (distance > limit) & (beyond == 0), distance, beyond)
    return oracle.result(best, ops.select(best.success, ops.distance_l2(best.x, x), beyond))


def _wrong(oracle: Oracle, x: Array) -> Array:
    """Whether images are wrong by more than rounding, on the first draws of the search."""
    return oracle.query(x, loss="margin", again=True).success


def _starts(oracle: Oracle, clean: Verdict, num_starts: int, num_line_steps: int) -> Array:
    """Wrong images near the boundary; the clean image where it is wrong itself or no start is."""
    ops, x = oracle.ops, clean.x
    n, _, h, w = x.shape
    found, far = clean.success, x
    for number in range(num_starts):
        key = ops.derive_key(oracle.seed, START, number)
        if number % 2 == 0:
            start = ops.uniform(x.shape[1:], key=key, sample_index=oracle.sample_index, dtype=str(x.dtype))
        else:
            count = ops.zeros((n,), "int64") + (number + 1) * h * w // (num_starts + 1)
            start = ops.salt_and_pepper_noise(x, count, key=key, sample_index=oracle.sample_index)
        wrong = _wrong(oracle, start)
        far = ops.select(wrong & ~found, start, far)
        found = found | wrong
    low = ops.zeros((n,), "float64")
    high = low + 1
    for _ in range(num_line_steps):
        middle = (low + high) / 2
        wrong = _wrong(oracle, ops.interpolate(x, far, middle))
        low, high = ops.select(wrong, low, middle), ops.select(wrong, middle, high)
    return ops.interpolate(x, far, high)


def _factor(oracle: Oracle, rate: Array, few: float, many: float) -> Array:
    """What step sizes are multiplied with."""
    ops, same = oracle.ops, 0 * rate + 1
    return ops.select(rate > many, FACTOR * same, ops.select(rate < few, same / FACTOR, same))


def _within(oracle: Oracle, size: Array) -> Array:
    """Step sizes, neither too small nor too large."""
    ops = oracle.ops
    size = ops.select(size < MOST, size, 0 * size + MOST)
    return ops.select(size > LEAST, size, 0 * size + LEAST)
