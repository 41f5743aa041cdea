"""Random noise: uniform in a ball, and salt and pepper.

Nobody who has a gradient, or answers to learn from, should do worse: what noise of the same size breaks and an attack
does not is a sign that the attack was misled.

References
----------
.. [1] Rauber, Brendel, Bethge, "Foolbox: a Python toolbox to benchmark the robustness of machine learning models",
   2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays import Array
from ..checks import check_number, check_work
from .cards import Cost, card, setting
from .gradient import Ball, best_of_runs, starts
from .nearest import Nearest
from .oracle import START, Asking, AttackResult, Model, Oracle

# Numbers of pixels that are tried once there is a best one: down to 70% of it, evenly, in an order without a period.
DEPTH, GOLDEN = 0.3, 0.6180339887498949


def _noise_cost(s: Any) -> Cost:
    return Cost(0, s.num_trials * s.draws)


@card(title="uniform noise", gradient="none", norm=setting("norm"), noise=True, cost=_noise_cost)
def uniform_noise(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    norm: str = "linf",
    num_trials: int = 10,
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
) -> AttackResult:
    """Points drawn uniformly from the ball, the best of them kept: the baseline of every attack.

    Parameters
    ----------
    num_trials : int
        How many points; the first k are the same for every larger number.

    Returns
    -------
    AttackResult
        ``num_gradients`` = 0, ``num_queries`` = 1 + num_trials for a deterministic model, and num_trials num_draws +
        3 num_judge_draws for a stochastic one.

    Notes
    -----
    The others are those of `pgd`.
    """
    asking = Asking(num_draws=num_draws, num_judge_draws=num_judge_draws, seed=seed, sample_index=sample_index)
    oracle = asking.oracle(model, x, y)
    ball = Ball(model.ops, x, eps=eps, norm=norm)
    check_work("num_trials", num_trials)
    points = starts(oracle, ball, num_restarts=num_trials, random_start=True)
    return best_of_runs(oracle, ball, [map(oracle.query, points)])


def _pepper_cost(s: Any) -> Cost:
    pixels = int(s.num_pixels * getattr(s, "eps", 1.0))
    trials = s.num_trials * pixels.bit_length() + s.num_steps if s.smallest else s.num_trials
    return Cost(0, trials * s.draws)


@card(title="salt and pepper", gradient="none", norm="l0", nearest=setting("smallest"), cost=_pepper_cost)
def salt_and_pepper(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float | None = None,
    smallest: bool = False,
    num_trials: int = 10,
    num_steps: int = 100,
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
) -> AttackResult:
    """Pixels made black or white at random, in all channels alike.

    Parameters
    ----------
    eps : float, optional
        Share of the pixels that are replaced, in [0, 1], rounded down to whole pixels; 0.3 by default, and with
        ``smallest`` all of them.
    smallest : bool
        Whether to look for the smallest share that makes the model wrong, up to eps. Otherwise all of it is replaced.
    num_trials : int
        How many random orders of the pixels, each with its own salt and pepper.
    num_steps : int
        With ``smallest``, how many further orders are tried, each once, with 70% to 100% of the best share so far.

    Returns
    -------
    AttackResult
        Distances are shares of pixels that differ from the clean image, at most eps. ``num_gradients`` = 0. With T =
        num_trials, ``num_queries`` = 1 + T for a deterministic model, T num_draws + 3 num_judge_draws for a stochastic
        one. With ``smallest`` it is (T B + num_steps) num_draws + 2 num_judge_draws (draws count 1 for a deterministic
        model), where B is the number of binary digits of the number of pixels that eps allows; where nothing wrong was
        found the clean image is returned, at distance 0.

    Notes
    -----
    The others are those of `pgd`. No more than eps is ever looked at, so nothing is found beyond it.

    Deviations from Foolbox, which draws new noise for each of a thousand shares from 0 upwards: in one trial more
    pixels are the fewer and others, so the smallest number is found by bisection (of the several that there may be,
    one), and only then new noise is drawn for each share; and exactly so many pixels are replaced, not so many in the
    mean. Pixels that were black or white may stay as they are.

    With ``smallest``, a stochastic model faces the same draws of noise throughout; see `cw` on finds at its boundary.
    """
    asking = Asking(num_draws=num_draws, num_judge_draws=num_judge_draws, seed=seed, sample_index=sample_index)
    oracle = asking.oracle(model, x, y)
    ops = model.ops
    eps = check_number("eps", (1.0 if smallest else 0.3) if eps is None else eps, minimum=0, maximum=1)
    check_work("num_trials", num_trials)
    check_work("num_steps", num_steps, minimum=0)
    pixels = model.input_shape[1] * model.input_shape[2]
    most = max(count for count in range(pixels + 1) if count / pixels <= eps)

    def noisy(count: Array, trial: int) -> Array:
        key = ops.derive_key(seed, START, trial)
        return ops.salt_and_pepper_noise(x, count, key=key, sample_index=oracle.sample_index)

    if smallest:
        return _smallest(oracle, noisy, x, most, num_trials, num_steps)
    count = ops.zeros(oracle.y.shape, "int64") + most
    trials = (oracle.query(noisy(count, trial)) for trial in range(num_trials))
    found = best_of_runs(oracle, Ball(ops, x, eps=1.0, norm="linf"), [trials])
    return found._replace(distance=ops.changed_share(found.x_adv, x))


def _smallest(
    oracle: Oracle, noisy: Callable[[Array, int], Array], x: Array, most: int, trials: int, steps: int
) -> AttackResult:
    """Wrong images with the fewest pixels changed, or the clean ones."""
    ops, (clean, _) = oracle.ops, oracle.judge(x)
    zero = ops.zeros(oracle.y.shape, "float64")
    finds = Nearest(oracle, clean, 1.0)
    fewest = ops.select(clean.success, zero, zero + (most + 1))  # replaced in the best, some of which may not change

    def wrong_with(count: Array, trial: int) -> Array:
        nonlocal fewest
        verdict, best = oracle.query(noisy(count.astype("int64"), trial), loss="margin", again=True), finds.best
        share = ops.changed_share(verdict.x, x)
        fewest = ops.select(ops.better(verdict.success, -share, best.success, best.loss), count, fewest)
        finds.note(verdict.x, verdict.success, share)
        return verdict.success

    for trial in range(trials):
        low, high = zero, fewest
        for _ in range(most.bit_length()):
            count = (low + high) // 2
            wrong = wrong_with(count, trial)
            low, high = ops.select(wrong, low, count), ops.select(wrong, count, high)
    for step in range(1, steps + 1):
        # Whether an image falls depends on the order more than on the number: so many orders, and numbers well below.
        wrong_with(fewest * (1 - DEPTH * (step * GOLDEN % 1)) // 1, trials + step)
    return finds.result(lambda x_adv: ops.changed_share(x_adv, x))
