"""The inner maximisation of adversarial training: `pgd` without a verdict.

    x_{t+1} = clip(project(x_t + step_size * direction(grad J(x_t, y)))),    t = 0..T-1,

as in `gradient`, of which x_T is taken as it is.
"""

from __future__ import annotations

from typing import NamedTuple

from ..arrays import Array
from ..checks import check_number, check_work
from .cards import Cost, card, setting
from .gradient import Ball
from .oracle import START, Asking, Model


class Ascent(NamedTuple):
    """Where an ascent ended.

    Attributes
    ----------
    x_adv : array of shape (n, c, h, w)
        Last iterates, in the ball and in [0, 1]; not judged.
    losses : list of arrays of shape (n,)
        Losses before each step, in nats.
    """

    x_adv: Array
    losses: list[Array]


@card(title="ascent", norm=setting("norm"), training_only=True, cost=lambda s: Cost(*[s.num_steps * s.draws] * 2))
def ascent(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 40,
    norm: str = "linf",
    random_start: bool = True,
    mode: str = "exact",
    num_draws: int = 1,
    seed: int = 0,
    sample_index: Array | None = None,
) -> Ascent:
    """Inner maximisation of adversarial training: `pgd` without a verdict.

    Every image is moved, wrong to begin with or not, nothing is evaluated but gradients, and the last iterate is
    returned. With ``num_steps=1`` and a random start this is the fast variant (FGSM-RS).

    Notes
    -----
    The others are those of `pgd`.

    References
    ----------
    .. [1] Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, eq. (2.1).
    .. [2] Wong, Rice, Kolter, "Fast is better than free: revisiting adversarial training", ICLR 2020.
    """
    oracle = Asking(mode=mode, num_draws=num_draws, seed=seed, sample_index=sample_index).oracle(model, x, y)
    ball = Ball(model.ops, x, eps=eps, norm=norm)
    check_number("step_size", step_size, minimum=0)
    check_work("num_steps", num_steps)
    x_t = x
    if random_start:
        x_t = ball.start(key=model.ops.derive_key(seed, START), sample_index=oracle.sample_index)
    losses = []
    for _ in range(num_steps):
        verdict, gradient = oracle.gradient(x_t)
        losses.append(verdict.loss)
        x_t = ball.step(x_t, gradient, step_size=step_size)
    return Ascent(x_t, losses)
