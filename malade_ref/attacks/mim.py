r"""MIM: the momentum iterative method.

    g_{t+1} = mu g_t + grad J(x_t, y) / ||grad J(x_t, y)||_1,    g_0 = 0,
    x_{t+1} = clip(project(x_t + step_size * direction(g_{t+1}))),

with the balls and directions of `gradient`. The momentum carries the iterates over narrow maxima, which helps images
found on one model to fool another.

References
----------
.. [1] Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from ..arrays import Array
from ..checks import check_number
from .cards import card, setting
from .gradient import Ball, Climb, Record, climb, climb_cost
from .oracle import Asking, AttackResult, Model, Oracle, Verdict


@card(title="MIM", norm=setting("norm"), cost=climb_cost)
def mim(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    decay: float = 1.0,
    loss: str | Sequence[str] = "ce",
    targets: Array | None = None,
    norm: str = "linf",
    num_restarts: int = 1,
    retire: bool = False,
    random_start: bool = False,
    mode: str = "exact",
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """Projected gradient ascent with momentum (MIM).

    Parameters
    ----------
    decay : float
        Share mu of the momentum that is kept, >= 0.
    random_start : bool
        Whether to start at a random point of the ball, or at the clean image. Without it restarts differ for a
        stochastic model only.

    Notes
    -----
    The others, what is returned and what it costs are those of `pgd`.

    Deviations from Dong et al.: the best iterate is returned, not the last one; the step is a setting (theirs is
    eps / num_steps); every iterate is projected, which changes nothing with their step. The equation in Srinivasan et
    al. lacks the recursion, the projection and the step; what is meant is this.
    """
    check_number("decay", decay, minimum=0)
    settings = Climb(eps, step_size, num_steps, norm, num_restarts, random_start, False, loss, retire)
    asking = Asking(mode, "loss", num_draws, False, num_judge_draws, seed, sample_index, targets)
    return climb(model, x, y, settings, asking, partial(_iterates, decay=decay), record=record)


def _iterates(oracle: Oracle, ball: Ball, x_t: Array, settings: Climb, *, decay: float) -> Iterator[Verdict]:
    momentum = oracle.ops.zeros(x_t.shape, str(x_t.dtype))
    for _ in range(settings.num_steps):
        verdict, gradient = oracle.gradient(x_t, loss=settings.loss)
        yield verdict
        momentum = oracle.ops.momentum_step(momentum, gradient, decay=decay)
        x_t = ball.step(x_t, momentum, step_size=settings.step_size)
    yield oracle.query(x_t, loss=settings.loss)
