r"""SPSA: ascent along a gradient that is estimated from scores on both sides of an image.

With random signs v_1..v_m at every step and L the margin,

    g = (1/m) sum_j (L(x_t + delta v_j) - L(x_t - delta v_j)) / (2 delta) v_j,

whose mean is close to the gradient where L is smooth on the scale of delta. Where it is flat or jumps on a smaller one
(a gradient that was hidden), it is the slope seen from afar. The step is Adam's, then the projection.

References
----------
.. [1] Uesato, O'Donoghue, van den Oord, Kohli, "Adversarial risk and the dangers of evaluating against weak attacks",
   ICML 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..arrays import Array
from ..checks import check_number, check_work
from .cards import Cost, card, setting
from .gradient import Ball, Record, best_of_runs, starts
from .oracle import PROPOSAL, Asking, AttackResult, Model, Oracle, Verdict


def _cost(s: Any) -> Cost:
    return Cost(0, s.num_restarts * ((2 * s.num_directions + 1) * s.num_steps + 1) * s.draws)


@card(title="SPSA", gradient="none", norm=setting("norm"), cost=_cost)
def spsa(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    num_directions: int = 128,
    width: float = 0.01,
    norm: str = "linf",
    num_restarts: int = 1,
    random_start: bool = False,
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """Ascent with Adam on the margin, its gradient estimated by simultaneous perturbations (SPSA).

    Parameters
    ----------
    step_size : float
        Learning rate of Adam, in pixel units, >= 0.
    num_steps : int
        Steps of a run.
    num_directions : int
        Pairs of images at each step.
    width : float
        How far they are from the iterate in every pixel, in pixel units, > 0.

    Returns
    -------
    AttackResult
        ``num_gradients`` = 0. With R = num_restarts and Q = (2 num_directions + 1) num_steps + 1, ``num_queries`` =
        1 + R (Q + 1) for a deterministic model, and num_judge_draws + R (Q num_draws + 2 num_judge_draws) for a
        stochastic one.

    Notes
    -----
    The others are those of `pgd`. What is recorded is the margin. Both images of a pair meet the same draws.

    Deviations from Uesato et al.: pairs are clipped to [0, 1], for a model need not answer elsewhere; at its edges an
    estimate is then half as large, which Adam does not mind; the best iterate is returned; there is no early stop.
    """
    asking = Asking(num_draws=num_draws, num_judge_draws=num_judge_draws, seed=seed, sample_index=sample_index)
    oracle = asking.oracle(model, x, y)
    ball = Ball(model.ops, x, eps=eps, norm=norm)
    check_number("step_size", step_size, minimum=0)
    check_number("width", width, above=0)
    check_work("num_steps", num_steps)
    check_work("num_directions", num_directions)
    check_work("num_restarts", num_restarts)
    runs = (
        _iterates(oracle, ball, start, run, step_size, num_steps, num_directions, width)
        for run, start in enumerate(starts(oracle, ball, num_restarts=num_restarts, random_start=random_start))
    )
    return best_of_runs(oracle, ball, runs, loss="margin", record=record)


def _iterates(
    oracle: Oracle,
    ball: Ball,
    x_t: Array,
    run: int,
    step_size: float,
    num_steps: int,
    num_directions: int,
    width: float,
) -> Iterator[Verdict]:
    ops = oracle.ops
    key = ops.derive_key(oracle.seed, PROPOSAL, run)
    project = ops.project_linf if ball.norm == "linf" else ops.project_l2
    first, second = 0 * x_t, 0 * x_t
    for step in range(1, num_steps + 1):
        yield oracle.query(x_t, loss="margin")
        gradient = 0 * x_t
        for direction in range(num_directions):
            number = (step - 1) * num_directions + direction
            pair: dict[str, Any] = {"width": width, "key": key, "sample_index": oracle.sample_index, "step": number}
            ahead, behind = ops.spsa_points(x_t, **pair)
            rise = oracle.query(ahead, loss="margin").loss - oracle.query(behind, loss="margin", again=True).loss
            gradient = ops.spsa_gradient(gradient, rise, **pair)
        x_t, first, second = ops.adam_step(
            x_t, -gradient / num_directions, first, second, step=step, learning_rate=step_size
        )
        x_t = project(x_t, ball.centre, eps=ball.eps)
    yield oracle.query(x_t, loss="margin")
