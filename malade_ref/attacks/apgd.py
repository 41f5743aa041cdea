r"""Auto-PGD: gradient ascent in a ball that chooses its own step sizes.

With momentum, P the projection onto the ball and [0, 1], and L the cross entropy or another loss,

    z = P(x_t + s_t direction(grad L(x_t))),    x_{t+1} = P(x_t + .75 (z - x_t) + .25 (x_t - x_{t-1})).

A sample's s_t starts at 2 eps. At each of a few checkpoints it is halved, and the sample goes back to its best point,
if since the last checkpoint

    1. the loss rose in fewer than a share rho of the steps, or
    2. the step was not halved at the last checkpoint and the best loss has not improved since.

The checkpoints are after .22, .41, .57, ... of the steps: each stretch is .03 shorter than the one before, and .06 at
least.

References
----------
.. [1] Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
   attacks", ICML 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from ..arrays import Array
from ..checks import InputError, check_number, check_work
from ..network import losses_of
from .cards import Cost, card, setting
from .gradient import Ball, Record, best_of_runs, climb_cost, starts
from .oracle import Asking, AttackResult, Model, Oracle, Verdict, select
from .standing import retiring

MOMENTUM = 0.75


def _cost(s: Any) -> Cost:
    s.num_restarts *= max(1, s.num_targets)
    cost = climb_cost(s)
    return cost._replace(queries=cost.queries + s.draws * (s.num_targets > 0))


@card(title="Auto-PGD", norm=setting("norm"), cost=_cost)
def apgd(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    num_steps: int = 100,
    loss: str | Sequence[str] = "ce",
    targets: Array | None = None,
    num_targets: int = 0,
    rho: float = 0.75,
    norm: str = "linf",
    num_restarts: int = 1,
    retire: bool = False,
    transfer_start: bool = False,
    mode: str = "exact",
    expectation: str = "loss",
    num_draws: int = 1,
    common_draws: bool = False,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """Auto-PGD on the cross entropy or another loss, in the maximum or the Euclidean norm.

    Parameters
    ----------
    num_targets : int
        0, or how many of the other classes to go for one after the other, those first that score highest on the clean
        image; at most all. Any wrong class is a success. For the margin and for the ratio; that one needs three
        classes, with targets four.
    rho : float
        Share of rising steps below which the step size is halved, in [0, 1].

    Returns
    -------
    AttackResult
        For a deterministic model ``num_gradients`` = R num_steps, where R = num_restarts max(1, num_targets) runs, and
        ``num_queries`` = 1 + R (num_steps + 1), and for other losses than the cross entropy R more (their finds are
        judged by it), and one more with targets. For a stochastic one R num_steps num_draws, and
        num_judge_draws + R ((num_steps + 1) num_draws + 2 num_judge_draws), with targets num_draws more. A transfer
        start adds num_steps, and num_steps + 2, for other losses num_steps + 3.

    Notes
    -----
    The others are those of `pgd`. The attack that a transfer start is found by is this one, without targets; with
    ``num_draws`` above 1 this is APGD with EOT.

    Deviations from Croce and Hein's code: starts are uniform in the ball, not on its surface; samples that have fallen
    go on, for the best iterate by success and then loss, rather than the last wrong one, is returned; under EOT the
    best point and the last one are judged on draws that the search did not see, all of them, while their code looks at
    the last draw's logits.
    """
    asking = Asking(mode, expectation, num_draws, common_draws, num_judge_draws, seed, sample_index, targets)
    oracle = asking.oracle(retiring(model) if retire else model, x, y)
    ball = Ball(model.ops, x, eps=eps, norm=norm)
    losses = losses_of(loss)
    check_number("rho", rho, minimum=0, maximum=1)
    check_work("num_steps", num_steps)
    check_work("num_targets", num_targets, minimum=0)
    check_work("num_restarts", num_restarts)
    if num_targets and "ce" in losses:
        raise InputError(f"num_targets: expected 0 for the cross entropy, got {num_targets}; set loss to dlr or margin")
    if num_targets and targets is not None:
        raise InputError(f"num_targets: expected 0 together with targets, got {num_targets}; leave one of them out")
    others: list[Array | None] = [None]
    if num_targets:
        ranked = oracle.other_classes(x)
        others = [ranked[:, rank] for rank in range(min(num_targets, model.num_classes - 1))]

    def search(oracle: Oracle, start: Array, loss: str = losses[0], other: Array | None = None) -> Iterator[Verdict]:
        return _iterates(oracle, ball, start, loss=loss, targets=other, num_steps=num_steps, rho=rho)

    transfer = search if transfer_start else None
    begin = starts(oracle, ball, num_restarts=num_restarts, random_start=True, transfer=transfer, loss=losses)
    in_turn = zip(begin, cycle(losses), strict=False)
    runs = (search(oracle, start, of_run, other) for start, of_run in in_turn for other in others)
    return best_of_runs(oracle, ball, runs, loss=losses, record=record)


def checkpoints(num_steps: int) -> dict[int, int]:
    """Say after how many steps step sizes are looked at.

    Parameters
    ----------
    num_steps : int
        Steps of a run.

    Returns
    -------
    dict of int to int
        For each checkpoint the number of steps since the last.
    """
    length, least, shorter = (max(1, int(share * num_steps)) for share in (0.22, 0.06, 0.03))
    found, step = {}, length
    while step <= num_steps:
        found[step] = length
        length = max(length - shorter, least)
        step += length
    return found


def _iterates(
    oracle: Oracle, ball: Ball, x_t: Array, *, loss: str, targets: Array | None, num_steps: int, rho: float
) -> Iterator[Verdict]:
    ops = oracle.ops
    lengths = checkpoints(num_steps)
    verdict, gradient = oracle.gradient(x_t, loss=loss, targets=targets)
    yield verdict
    none = ops.zeros(oracle.y.shape, "float64")
    peak, peak_gradient, loss_before = verdict, gradient, verdict.loss
    step_size, rises, halved = none + 2 * ball.eps, none, none == 0  # so that rule 2 waits for the second checkpoint
    previous = x_t
    for number in range(1, num_steps + 1):
        momentum = MOMENTUM if number > 1 else 1.0
        x_t, previous = ball.apgd_step(x_t, previous, gradient, step_size, momentum=momentum), x_t
        last_loss = verdict.loss
        if number == num_steps:
            yield oracle.query(x_t, loss=loss, targets=targets)
            return
        verdict, gradient = oracle.gradient(x_t, loss=loss, targets=targets)
        yield verdict
        rises = rises + (verdict.loss > last_loss)
        higher = ops.better(peak.success, verdict.loss, peak.success, peak.loss)  # the loss alone decides
        peak, peak_gradient = select(ops, higher, verdict, peak), ops.select(higher, gradient, peak_gradient)
        if number in lengths:
            halved = (rises <= rho * lengths[number]) | (~halved & (peak.loss <= loss_before))
            step_size = ops.select(halved, step_size / 2, step_size)
            x_t, gradient = ops.select(halved, peak.x, x_t), ops.select(halved, peak_gradient, gradient)
            rises, loss_before = none, peak.loss
