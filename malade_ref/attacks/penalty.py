r"""The nearest wrong image by a penalty: Carlini and Wagner's attack, and EAD.

With the margin m(x') = max_{i != y} z_i(x') - z_y(x'), positive where the classifier is wrong, both minimise

    cw     ||x' - x||_2^2 + c max(kappa - m(x'), 0)                         over x' = (tanh w + 1) / 2, with Adam;
    ead    ||x' - x||_2^2 + beta ||x' - x||_1 + c max(kappa - m(x'), 0)     over x' in [0, 1], with FISTA,

and search for each image's c: it is raised tenfold until the image falls, and then halved between the largest that
failed and the smallest that did not. The nearest of all wrong iterates is kept, image by image. Where EAD is to end
near by absolute differences alone, they alone lead an image that is wrong.

References
----------
.. [1] Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017.
.. [2] Chen et al., "EAD: elastic-net attacks to deep neural networks via adversarial examples", AAAI 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from ..arrays import Array
from ..checks import check_choice, check_number, check_work
from .cards import Cost, card, setting
from .nearest import Nearest
from .oracle import Asking, AttackResult, Model, Oracle

RULES = ("en", "l1")
LARGEST_WEIGHT = 1e10
MANY_WEIGHTS = 10  # from so many on, the last one repeats the smallest that did
ABORT_CHECKS = 10  # in the steps of one weight
LITTLE = 0.9999  # an objective above this share of the last one has stopped falling


class Candidate(NamedTuple):
    """An iterate of a search with one weight.

    Attributes
    ----------
    x : array of shape (n, c, h, w)
        Images.
    success : array of shape (n,), bool
        Whether the model is wrong, with the confidence asked for.
    distance : array of shape (n,), float64
        By which the nearest is chosen.
    """

    x: Array
    success: Array
    distance: Array


class Weights(NamedTuple):
    """How weights are searched for; the fields are those of `cw`."""

    confidence: float
    num_steps: int
    num_search_steps: int
    initial_weight: float


def _cost(s: Any) -> Cost:
    gradients = s.num_search_steps * s.num_steps * s.draws
    return Cost(gradients, gradients)


@card(title="Carlini-Wagner", norm="l2", nearest=True, cost=_cost)
def cw(
    model: Model,
    x: Array,
    y: Array,
    *,
    confidence: float = 0.0,
    step_size: float = 0.01,
    num_steps: int = 1000,
    num_search_steps: int = 9,
    initial_weight: float = 1e-3,
    abort_early: bool = False,
    targets: Array | None = None,
    mode: str = "exact",
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
) -> AttackResult:
    """Carlini and Wagner's attack in the Euclidean norm: the nearest image that is wrong, anywhere in [0, 1].

    Parameters
    ----------
    confidence : float
        Margin kappa by which another logit must lead, >= 0.
    step_size : float
        Learning rate of Adam, in units of w, >= 0.
    num_steps : int
        Steps with each weight.
    num_search_steps : int
        Weights tried.
    initial_weight : float
        The first c, > 0.
    abort_early : bool
        Whether an image stays where it is, for the rest of a weight's steps, once a tenth of them has not brought its
        objective down by 0.01%. It makes results comparable with implementations that do so; it saves no time, for
        other images go on.
    targets : array of shape (n,), integer, optional
        The class that the model is to take each image for, unlike its label: the margin is its lead over all others,
        and nothing else is a find.

    Returns
    -------
    AttackResult
        Distances are Euclidean. Where nothing wrong was found the clean image is returned, at distance 0 and without
        success. ``num_gradients`` = num_search_steps num_steps num_draws; ``num_queries`` that and 2 num_judge_draws
        (num_draws and num_judge_draws count 1 for a deterministic model).

    Notes
    -----
    The others are those of `pgd`.

    The penalty is on squared distances, as in Carlini and Wagner; Srinivasan et al. write the distance itself. As in
    the authors' code pixels at 0 and 1 start 5e-7 inside, Adam starts anew with each weight, and with ten weights or
    more the last one is the smallest known to do. The start is the clean image. Distances are to the clean image
    itself, not to its image under the change of variables.

    A stochastic model is wrong if it is by the mean logits of an evaluation's draws; with few draws the nearest image
    is wrong by luck, and fails the judging draws. A confidence above 0 makes up for that. With a confidence of 0 a find
    has a margin above what rounding can do, still.
    """
    asking = Asking(mode, "loss", num_draws, False, num_judge_draws, seed, sample_index, targets)
    oracle, ops = asking.oracle(model, x, y), model.ops
    check_number("step_size", step_size, minimum=0)
    start = ops.to_tanh_space(x)

    def iterates(weight: Array) -> Iterator[Candidate]:
        w, first, second = start, 0 * start, 0 * start
        stopped = weight < 0
        before = 0 * weight + float("inf")
        for step in range(1, num_steps + 1):
            x_t = ops.from_tanh_space(w)
            verdict, gradient = oracle.gradient(x_t, loss="margin")
            wrong = verdict.success & (verdict.loss >= confidence)
            distance = ops.distance_l2(x_t, x)
            yield Candidate(x_t, wrong, distance)
            pull = ops.select(wrong, 0 * weight, weight)
            if abort_early and step % max(1, num_steps // ABORT_CHECKS) == 0:
                objective = distance * distance + pull * (confidence - verdict.loss)
                stopped, before = stopped | (objective > LITTLE * before), objective
            new_w, first, second = ops.adam_step(
                w, ops.cw_gradient(w, gradient, x, pull), first, second, step=step, learning_rate=step_size
            )
            w = ops.select(stopped, w, new_w)

    weights = Weights(confidence, num_steps, num_search_steps, initial_weight)
    return _search(oracle, x, iterates, weights).result(lambda x_adv: ops.distance_l2(x_adv, x))


def _ead_cost(s: Any) -> Cost:
    cost = _cost(s)
    return cost._replace(queries=2 * cost.queries)


@card(title="EAD", norm=setting("rule", en="elastic net"), nearest=True, cost=_ead_cost)
def ead(
    model: Model,
    x: Array,
    y: Array,
    *,
    beta: float = 1e-3,
    rule: str = "en",
    confidence: float = 0.0,
    step_size: float = 0.01,
    num_steps: int = 1000,
    num_search_steps: int = 9,
    initial_weight: float = 1e-3,
    abort_early: bool = False,
    targets: Array | None = None,
    mode: str = "exact",
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
) -> AttackResult:
    """Elastic-net attack (EAD): the nearest image that is wrong, by a sum of absolute and squared differences.

    Parameters
    ----------
    beta : float
        Weight of the absolute differences, and threshold of the shrinkage, >= 0.
    rule : {"en", "l1"}
        Which of the wrong iterates is the nearest: by ``beta L1 + L2^2``, or by L1.
    step_size : float
        Length of the first step of each weight, >= 0; the k-th of T is sqrt(1 - k / T) of it, k = 0..T-1.

    Returns
    -------
    AttackResult
        Distances are what the rule compares. Where nothing wrong was found the clean image is returned, at distance 0
        and without success. ``num_gradients`` = num_search_steps num_steps num_draws; ``num_queries`` twice that, for
        gradients are taken elsewhere than the iterates are judged, and 2 num_judge_draws (num_draws and num_judge_draws
        count 1 for a deterministic model).

    Notes
    -----
    The others are those of `cw`.

    As in the authors' code, the threshold of the shrinkage is beta, not step_size beta. The momentum of the k-th step
    is k / (k + 3), with k from 1; iterate and point with momentum start at the clean image with each weight. The
    penalty is on squared distances, as in Chen et al.; Srinivasan et al. write the distance itself.

    Deviation, as in ART: with the rule l1 a step from a wrong image (with the confidence asked for) is the shrinkage
    alone. The squared distance would pull the larger differences back, which is no way to a small sum.
    """
    asking = Asking(mode, "loss", num_draws, False, num_judge_draws, seed, sample_index, targets)
    oracle, ops = asking.oracle(model, x, y), model.ops
    check_number("beta", beta, minimum=0)
    check_number("step_size", step_size, minimum=0)
    check_choice("rule", rule, RULES)

    def elastic(x_t: Array) -> Array:
        euclidean = ops.distance_l2(x_t, x)
        return beta * ops.distance_l1(x_t, x) + euclidean * euclidean

    distance_of = elastic if rule == "en" else lambda x_t: ops.distance_l1(x_t, x)

    def iterates(weight: Array) -> Iterator[Candidate]:
        x_t, y_t = x, x
        stopped = weight < 0
        before = 0 * weight + float("inf")
        for k in range(1, num_steps + 1):
            verdict, gradient = oracle.gradient(y_t, loss="margin")
            short = ~(verdict.success & (verdict.loss >= confidence))
            pull = ops.select(short, weight, 0 * weight)
            step = partial(ops.ead_step, y_t, x_t, gradient, x, pull, beta=beta, momentum=k / (k + 3))
            new_x, new_y = step(step_size=step_size * (1 - (k - 1) / num_steps) ** 0.5)
            if rule == "l1":
                shrunk_x, shrunk_y = step(step_size=0.0)
                new_x, new_y = ops.select(short, new_x, shrunk_x), ops.select(short, new_y, shrunk_y)
            x_t, y_t = ops.select(stopped, x_t, new_x), ops.select(stopped, y_t, new_y)
            verdict = oracle.query(x_t, loss="margin")
            success = verdict.success & (verdict.loss >= confidence)
            yield Candidate(x_t, success, distance_of(x_t))
            if abort_early and k % max(1, num_steps // ABORT_CHECKS) == 0:
                penalty = ops.select(verdict.loss < confidence, weight * (confidence - verdict.loss), 0 * weight)
                objective = elastic(x_t) + penalty
                stopped, before = stopped | (objective > LITTLE * before), objective

    weights = Weights(confidence, num_steps, num_search_steps, initial_weight)
    return _search(oracle, x, iterates, weights).result(distance_of)


def _search(oracle: Oracle, x: Array, iterates: Callable[[Array], Iterator[Candidate]], weights: Weights) -> Nearest:
    """The wrong iterates of all weights, searched for each image."""
    check_number("confidence", weights.confidence, minimum=0)
    check_number("initial_weight", weights.initial_weight, above=0)
    check_work("num_steps", weights.num_steps)
    check_work("num_search_steps", weights.num_search_steps)
    ops = oracle.ops
    clean, _ = oracle.judge(x)
    finds = Nearest(oracle, clean, math.inf)
    zero = ops.zeros(oracle.y.shape, "float64")
    lower, upper, weight = zero, zero + LARGEST_WEIGHT, zero + weights.initial_weight
    for search_step in range(weights.num_search_steps):
        if search_step == weights.num_search_steps - 1 and weights.num_search_steps >= MANY_WEIGHTS:
            weight = ops.select(upper < LARGEST_WEIGHT, upper, weight)
        fallen = zero > 0
        for candidate in iterates(weight):
            finds.note(*candidate)
            fallen = fallen | candidate.success
        upper = ops.select(fallen & (weight < upper), weight, upper)
        lower = ops.select(~fallen & (weight > lower), weight, lower)
        bounded = upper < LARGEST_WEIGHT
        weight = ops.select(bounded, (lower + upper) / 2, ops.select(fallen, weight, 10 * weight))
    return finds
