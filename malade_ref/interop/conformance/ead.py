r"""EAD as its authors have it.

With the margin m(x') = max_{i != y} z_i(x') - z_y(x') and S the shrinkage of every pixel towards the clean one by beta,

    x_k = clip(S(y_{k-1} - eta_k grad[||y - x||_2^2 + c max(kappa - m(y), 0)]),    eta_k = eta sqrt(1 - (k - 1) / T),
    y_k = x_k + k / (k + 3) (x_k - x_{k-1}),    k = 1..T,    x_0 = y_0 = x.

References
----------
.. [1] Chen et al., "EAD: elastic-net attacks to deep neural networks via adversarial examples", AAAI 2018; the code is
   published as EAD_Attack.
"""

from __future__ import annotations

import numpy as np

from ...arrays import Array
from ...attacks.oracle import AttackResult, Model
from ...attacks.penalty import RULES
from ...checks import check_choice, check_number, check_work
from .asking import Asked, Record, each

LARGEST_WEIGHT, BOUNDED = 1e10, 1e9
REPEATED = 10  # with so many weights or more, the last one repeats the smallest that did
FIRST_LOSS, LITTLE = 1e6, 0.9999


def authors_ead(
    model: Model,
    x: Array,
    y: Array,
    *,
    beta: float = 1e-3,
    rule: str = "en",
    confidence: float = 0.0,
    step_size: float = 0.01,
    num_steps: int = 10000,
    num_search_steps: int = 9,
    initial_weight: float = 1e-3,
    abort_early: bool = True,
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    record: Record | None = None,
) -> AttackResult:
    """EAD as Chen et al. have it in their own code, untargeted.

    Parameters
    ----------
    beta, confidence, abort_early
        Their settings of the same names.
    rule : {"en", "l1"}
        ``EADEN`` or ``EADL1``: which of the wrong iterates is the nearest.
    step_size, num_steps, num_search_steps, initial_weight
        Their ``learning_rate``, ``max_iterations``, ``binary_search_steps`` and ``initial_const``.
    num_draws : int
        As of `as_torch_module`; the draws are the same at every evaluation.
    record : callable, optional
        Called with (number, x_k as an ndarray) after each step of each weight, numbers going on.

    Returns
    -------
    AttackResult
        Distances are what the rule compares. Where nothing was found the clean image is returned, where their code
        returns a grey one.

    Notes
    -----
    The others are those of `malade_ref.attacks.ead`.

    `malade_ref.attacks.ead` takes the same steps with the same weights. It differs in this. It stops early only if
    asked to, and each image on its own; here the sum over the batch decides for all of it, at steps 1, 1 + T/10, ...,
    the iterate at which it stops is not looked at, and a sum above 10^6 stops at once, so that large weights may not
    be searched at all. With the rule l1 a step from a wrong image is the shrinkage alone there. And there a find is
    wrong by more than rounding can do.

    In the graph of the authors' code the order is open in which x_k is stored and x_{k-1} is read; it is read first
    here, as in the paper.
    """
    asked = Asked(model, x, y, num_draws=num_draws, seed=seed, num_judge_draws=num_judge_draws)
    check_choice("rule", rule, RULES)
    check_number("beta", beta, minimum=0)
    check_number("confidence", confidence, minimum=0)
    check_number("step_size", step_size, minimum=0)
    check_number("initial_weight", initial_weight, above=0)
    check_work("num_steps", num_steps)
    check_work("num_search_steps", num_search_steps)
    clean, n, number = asked.x, len(asked.x), 0
    rows = np.arange(n)

    def distances(x_k: Array) -> tuple[Array, Array]:
        """Squared and absolute differences."""
        return np.square(x_k - clean).sum(axis=(1, 2, 3)), abs(x_k - clean).sum(axis=(1, 2, 3))

    def measure(x_k: Array) -> Array:
        squared, absolute = distances(x_k)
        return np.asarray(squared + beta * absolute if rule == "en" else absolute)

    def margin(x_k: Array) -> Array:
        """By how much another class leads."""
        logits = asked.logits(x_k)
        own, others = logits[rows, asked.y], logits.copy()
        others[rows, asked.y] = -np.inf
        return others.max(axis=1) - own

    dtype = clean.dtype
    lower, upper, weight = np.zeros(n), np.full(n, LARGEST_WEIGHT), np.full(n, float(initial_weight))
    best, nearest = clean, np.full(n, LARGEST_WEIGHT)
    for search_step in range(num_search_steps):
        if search_step == num_search_steps - 1 and num_search_steps >= REPEATED:
            weight = upper
        fallen, last_loss = np.zeros(n, bool), FIRST_LOSS
        x_k = y_k = clean
        for k in range(1, num_steps + 1):
            pull = np.where(margin(y_k) < confidence, weight, 0).astype(dtype)
            gradient = 2 * (y_k - clean) - each(pull, y_k) * asked.gradient(y_k, loss="margin")
            eta = step_size * (1 - (k - 1) / num_steps) ** 0.5
            new = _shrunk(y_k - eta * gradient, clean, beta)
            x_k, y_k = new, new + k / (k + 3) * (new - x_k)
            if record is not None:
                record(number, x_k)
            number += 1
            leads = margin(x_k)
            if abort_early and (k - 1) % max(1, num_steps // 10) == 0:
                squared, absolute = distances(x_k)
                loss = (weight * np.maximum(confidence - leads, 0)).sum() + squared.sum() + beta * absolute.sum()
                if loss > LITTLE * last_loss:
                    break
                last_loss = loss
            wrong, distance = leads > confidence, measure(x_k)
            fallen = fallen | wrong
            nearer = wrong & (distance < nearest)
            best, nearest = np.where(each(nearer, best), x_k, best), np.where(nearer, distance, nearest)
        upper, lower = (
            np.where(fallen, np.minimum(upper, weight), upper),
            np.where(fallen, lower, np.maximum(lower, weight)),
        )
        weight = np.where(upper < BOUNDED, (lower + upper) / 2, np.where(fallen, weight, 10 * weight))
    return asked.result(best, measure)


def _shrunk(z: Array, clean: Array, beta: float) -> Array:
    """Every pixel nearer to the clean one by beta, and in [0, 1]."""
    move = z - clean
    return np.where(move > beta, np.minimum(z - beta, 1), np.where(move < -beta, np.maximum(z + beta, 0), clean))
