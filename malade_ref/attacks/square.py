r"""Square attack: random search over squares at the ends of the ball, by the model's scores alone.

Of the position and a proposal, the one with the larger margin is kept (success first). A proposal changes one square of
side sqrt(p h w), at random. The share p of the pixels falls from p_0 to p_0 / 512 in steps:

    of 10,000 proposals, from the    11th  51st  201st  501st  1001st  2001st  4001st  6001st  8001st
    p is p_0 divided by                 2     4      8     16      32      64     128     256     512

and so in proportion for another number of proposals.

References
----------
.. [1] Andriushchenko, Croce, Flammarion, Hein, "Square attack: a query-efficient black-box adversarial attack via
   random search", ECCV 2020.
.. [2] Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
   attacks", ICML 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..arrays import Array
from ..checks import check_number, check_work
from .cards import Cost, card, setting
from .gradient import Ball, Record, best_of_runs
from .oracle import PROPOSAL, START, Asking, AttackResult, Model, Oracle, Verdict, stronger

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 proposals


def _cost(s: Any) -> Cost:
    steps = 2 * s.num_steps if s.stochastic else s.num_steps
    return Cost(0, s.num_restarts * (steps + 1) * s.draws)


@card(title="Square", gradient="none", norm=setting("norm"), cost=_cost)
def square(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    num_steps: int = 1000,
    initial_share: float = 0.8,
    norm: str = "linf",
    num_restarts: int = 1,
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """Square attack, in the maximum or the Euclidean norm: needs no gradient.

    Parameters
    ----------
    num_steps : int
        Proposals of a run; 5000 in AutoAttack.
    initial_share : float
        Share p_0 of the pixels in the first squares, in (0, 1].

    Returns
    -------
    AttackResult
        ``num_gradients`` = 0. With R = num_restarts, ``num_queries`` = 1 + R (num_steps + 2) for a deterministic model,
        and num_judge_draws + R ((2 num_steps + 1) num_draws + 2 num_judge_draws) for a stochastic one.

    Notes
    -----
    The others are those of `pgd`. What is recorded is the margin.

    Deviations from AutoAttack's code: squares are placed for each image on its own, and at the last row and column too;
    images that have fallen go on, to a larger margin; in L2, what is available to a square is measured in each channel,
    as in the paper, and a bump that just cancels what was there stands alone.

    A stochastic model sees the position again at every step, on the proposal's draws of noise: a position that was
    lucky once would hold its place for ever.
    """
    asking = Asking(num_draws=num_draws, num_judge_draws=num_judge_draws, seed=seed, sample_index=sample_index)
    oracle = asking.oracle(model, x, y)
    ball = Ball(model.ops, x, eps=eps, norm=norm)
    check_number("initial_share", initial_share, above=0, maximum=1)
    check_work("num_steps", num_steps)
    check_work("num_restarts", num_restarts)
    runs = (
        _positions(oracle, ball, run, num_steps=num_steps, initial_share=initial_share) for run in range(num_restarts)
    )
    return best_of_runs(oracle, ball, runs, loss="margin", record=record)


def _positions(oracle: Oracle, ball: Ball, run: int, *, num_steps: int, initial_share: float) -> Iterator[Verdict]:
    ops, x, linf = oracle.ops, ball.centre, ball.norm == "linf"
    start, propose = (
        (ops.square_start_linf, ops.square_step_linf) if linf else (ops.square_start_l2, ops.square_step_l2)
    )
    first_key, key = (ops.derive_key(oracle.seed, stream, run) for stream in (START, PROPOSAL))
    x_t = start(x, eps=ball.eps, key=first_key, sample_index=oracle.sample_index)
    position = oracle.query(x_t, loss="margin")
    yield position
    for step in range(num_steps):
        size = side(share_at(step, num_steps, initial_share), x.shape[2], x.shape[3], odd=not linf)
        candidate = propose(
            position.x, x, size=size, eps=ball.eps, key=key, sample_index=oracle.sample_index, step=step
        )
        proposed = oracle.query(candidate, loss="margin")
        if oracle.model.stochastic:
            position = oracle.query(position.x, loss="margin", again=True)
        position = stronger(ops, proposed, position)
        yield position


def share_at(step: int, num_steps: int, initial_share: float) -> float:
    """Share of the pixels in a square.

    Parameters
    ----------
    step : int
        Number of the proposal, from 0.
    num_steps : int
        How many there are.
    initial_share : float
        Share in the first.
    """
    of_many = int(step / num_steps * 10000)
    return initial_share / (1 << sum(of_many > limit for limit in HALVINGS))


def side(share: float, h: int, w: int, *, odd: bool) -> int:
    """Side of a square with a share of an image's pixels.

    Parameters
    ----------
    share : float
        Of the pixels.
    h, w : int
        Of the image.
    odd : bool
        Whether it is to be odd, and three at least, if the image has room.
    """
    size = round(math.sqrt(share * h * w))
    size = max(3, size + 1 - size % 2) if odd else max(1, size)
    return min(size, h, w)
