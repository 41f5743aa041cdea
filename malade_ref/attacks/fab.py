r"""FAB: the nearest wrong image by steps onto the linearised decision boundary.

At the iterate x_t, the lead m_k(x') = z_k(x') - z_y(x') of each other class k is replaced by its linearisation, whose
zeros are a plane. The nearest of these planes is chosen, by |m_k| / ||grad m_k||_dual. With d and d_0 the smallest
moves of x_t and of the clean image x onto it within [0, 1],

    x_{t+1} = clip((1 - a)(x_t + eta d) + a (x + eta d_0)),    a = min(||d|| / (||d|| + ||d_0||), alpha_max),

so that the iterates stay near x. A wrong iterate is noted, and the next step starts from x + beta_back (x_t - x), back
across the boundary. In the end a nearer one is looked for on the plane at the nearest find, and on the way from x.

References
----------
.. [1] Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.
"""

from __future__ import annotations

import math
from typing import Any

from ..arrays import Array
from ..checks import InputError, check_number, check_work
from .cards import Cost, card, setting
from .gradient import Ball, starts
from .nearest import Nearest
from .oracle import Asking, AttackResult, Model, Oracle

SHORTEST = 1e-8  # moves count as no shorter, so that the ratio of two is a number
PAST_PLANE = 1.001  # length of the clean image's move onto the plane at the nearest find, 1 being onto it
PAST_ROOT = 0.1  # share of the way from the estimated boundary to the nearest find


def _cost(s: Any) -> Cost:
    steps = s.num_restarts * max(1, s.num_targets) * s.num_steps
    gradients = steps + s.num_targets if s.num_targets else (steps + 1) * (s.num_classes - 1)
    return Cost(gradients * s.draws, (gradients + steps + s.num_final_steps + 4) * s.draws)


@card(title="FAB", norm=setting("norm"), nearest=True, cost=_cost)
def fab(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float | None = None,
    num_steps: int = 100,
    targets: Array | None = None,
    num_targets: int = 0,
    alpha_max: float = 0.1,
    overshoot: float = 1.05,
    backward: float = 0.9,
    num_final_steps: int = 3,
    norm: str = "linf",
    num_restarts: int = 1,
    mode: str = "exact",
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
) -> AttackResult:
    """Fast adaptive boundary attack (FAB): the nearest image that is wrong, in the maximum or the Euclidean norm.

    Parameters
    ----------
    eps : float, optional
        Distance up to which finds count, in pixel units; without one all do. Where something was found only beyond it,
        the clean image is returned, without success, and the distance of the find.
    num_steps : int
        Steps of each run.
    targets : array of shape (n,), integer, optional
        The class that the model is to take each image for, unlike its label; nothing else is a find then, and the plane
        looked at is that between it and the strongest other class.
    num_targets : int
        0 to look at all other classes in each step, or how many of them to go for one after the other, those first that
        score highest on the clean image; at most all. The latter costs one gradient a step.
    alpha_max : float
        Largest share a of the clean image's move, in [0, 1].
    overshoot : float
        Length eta of the moves, 1 being onto the plane, >= 1.
    backward : float
        Where wrong iterates start again, as a share of their way from the clean image, in [0, 1].
    num_final_steps : int
        Evaluations of the final search on a line.

    Returns
    -------
    AttackResult
        Where nothing wrong was found the clean image is returned, at distance 0 and without success. With
        P = num_restarts max(1, num_targets) runs of num_steps, and c = k - 1 other classes (1 with ``targets``),
        ``num_gradients`` = (P num_steps + 1) c num_draws, with ``num_targets`` (P num_steps + num_targets) num_draws;
        and ``num_queries`` that and (P num_steps + num_final_steps + 4) num_draws and 2 num_judge_draws (num_draws and
        num_judge_draws count 1 for a deterministic model).

    Notes
    -----
    The others are those of `pgd`. The first run starts from the clean image, restarts at random within half the
    distance of the nearest find so far, or of eps (without one, of all of [0, 1]). Deviations from Croce and Hein's
    code: those starts are uniform in the ball, not on its surface; the final search begins with the clean image's move
    onto the last plane, and then (as in their paper) assumes a linear margin on the line to the nearest find, trying
    points a tenth beyond its zero.

    What only rounding makes wrong is no find (their code: finds on the boundary, right or wrong by the size of the
    batch). A stochastic model is wrong if it is by the mean logits of an evaluation's draws; see `cw`.
    """
    asking = Asking(mode, "loss", num_draws, False, num_judge_draws, seed, sample_index, targets)
    oracle, ops = asking.oracle(model, x, y), model.ops
    reach = 1.0 if norm == "linf" else math.sqrt(math.prod(x.shape[1:]))  # nothing in [0, 1] is further away
    ball = Ball(ops, x, eps=reach if eps is None else eps, norm=norm)
    check_number("alpha_max", alpha_max, minimum=0, maximum=1)
    check_number("overshoot", overshoot, minimum=1)
    check_number("backward", backward, minimum=0, maximum=1)
    check_work("num_steps", num_steps)
    check_work("num_targets", num_targets, minimum=0)
    check_work("num_final_steps", num_final_steps, minimum=0)
    check_work("num_restarts", num_restarts)

    if model.num_classes < 2:
        raise InputError(f"model: expected at least 2 classes, got {model.num_classes}")
    if num_targets and targets is not None:
        raise InputError(f"num_targets: expected 0 together with targets, got {num_targets}; leave one of them out")

    others = oracle.other_classes(x)
    columns: list[Array | None] = [None]  # the lead of the target
    if targets is None:
        columns = [others[:, rank] for rank in range(model.num_classes - 1)]
    runs = [[column] for column in columns[:num_targets]] or [columns]
    clean, _ = oracle.judge(x)
    zero = ops.zeros(oracle.y.shape, "float64")
    finds = Nearest(oracle, clean, math.inf if eps is None else ball.eps)
    plane_step = ops.plane_step_linf if norm == "linf" else ops.plane_step_l2

    for restart, start in enumerate(starts(oracle, ball, num_restarts=num_restarts, random_start=True)):
        for classes in runs:
            x_t = x
            if restart:
                nearest = ops.select(finds.best.success, -finds.best.loss, zero + ball.eps)
                x_t = ops.interpolate(x, start, nearest / (2 * max(ball.eps, SHORTEST)))
            for _ in range(num_steps):
                lead, slope = _nearest_plane(oracle, ball, x_t, classes)
                step, clean_step = (plane_step(point, x_t, slope, lead) for point in (x_t, x))
                length, clean_length = (ball.length(move) + SHORTEST for move in (step, clean_step))
                share = length / (length + clean_length)
                share = ops.select(share < alpha_max, share, zero + alpha_max)
                x_t = ops.fab_step(x_t, x, step, clean_step, share, overshoot=overshoot)
                wrong = oracle.query(x_t, loss="margin").success
                finds.note(x_t, wrong, ball.distance(x_t))
                x_t = ops.interpolate(x_t, x, ops.select(wrong, zero + 1 - backward, zero))
    near = finds.best.x
    lead, slope = _nearest_plane(oracle, ball, near, [column for classes in runs for column in classes])
    clean_step = plane_step(x, near, slope, lead)
    x_t = ops.fab_step(x, x, clean_step, clean_step, zero, overshoot=PAST_PLANE)
    finds.note(x_t, oracle.query(x_t, loss="margin").success, ball.distance(x_t))
    _final_search(oracle, ball, finds, num_final_steps)
    return finds.result(ball.distance)


def _nearest_plane(oracle: Oracle, ball: Ball, x_t: Array, classes: list[Array | None]) -> tuple[Array, Array]:
    """Lead of a class and its gradient, of the class whose lead is nearest to 0 if it is linear."""
    ops = oracle.ops

    def of_class(targets: Array | None) -> tuple[Array, Array, Array]:
        verdict, slope = oracle.gradient(x_t, loss="margin", targets=targets)
        return verdict.loss, slope, abs(verdict.loss) / (ball.dual_length(slope) + 1e-12)

    lead, slope, reach = of_class(classes[0])
    for targets in classes[1:]:
        new_lead, new_slope, new_reach = of_class(targets)
        nearer = new_reach < reach
        lead, slope = ops.select(nearer, new_lead, lead), ops.select(nearer, new_slope, slope)
        reach = ops.select(nearer, new_reach, reach)
    return lead, slope


def _final_search(oracle: Oracle, ball: Ball, finds: Nearest, num_steps: int) -> None:
    """Look for nearer finds on the line from the clean image to the nearest one."""
    ops, x, far = oracle.ops, ball.centre, finds.best.x
    lead_low, lead_high = (oracle.query(point, loss="margin").loss for point in (x, far))
    zero = ops.zeros(oracle.y.shape, "float64")
    low, high = zero, zero + 1
    for _ in range(num_steps):
        rise = lead_high - lead_low
        rising = rise > 0
        root = low - (high - low) * lead_low / ops.select(rising, rise, 0 * rise + 1)
        between = rising & (root > low) & (root < high)
        root = ops.select(between, root, (low + high) / 2)
        share = root + PAST_ROOT * (high - root)
        x_t = ops.interpolate(x, far, share)
        verdict = oracle.query(x_t, loss="margin")
        finds.note(x_t, verdict.success, ball.distance(x_t))
        low, lead_low = ops.select(verdict.success, low, share), ops.select(verdict.success, lead_low, verdict.loss)
        high, lead_high = ops.select(verdict.success, share, high), ops.select(verdict.success, verdict.loss, lead_high)
