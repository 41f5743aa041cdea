r"""Carlini and Wagner's attack as ART has it: gradient descent with a line search.

With x(w) = (tanh w + 1) / 2 and the margin m(x') = max_{i != y} z_i(x') - z_y(x'), the objective is

    f(w) = ||x(w) - x||_2^2 + c max(kappa - m(x(w)), 0),

but the direction is minus the gradient of ||x(w) - x||_2^2 - c m(x(w)), also where kappa is reached. Along it the step
is halved until f falls; one that fell at once is doubled for as long as f goes on to fall; the best step is made. Each
image has its own step size, which it keeps for the next step.

After each c: if anything was wrong, c goes halfway to the lower bound; before that it is doubled, and afterwards raised
by half of what it is above the lower bound, which becomes the new c.

References
----------
.. [1] Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017.
.. [2] Nicolae et al., "Adversarial Robustness Toolbox v1.0.0", 2018.
"""

from __future__ import annotations

import numpy as np

from ...arrays import Array
from ...attacks.oracle import AttackResult, Model
from ...checks import check_number, check_work
from .asking import Asked, Record, each, length

SMOOTHER = 0.999999  # what pixels are multiplied with, from -1 to 1, before the inverse of tanh
LARGEST_WEIGHT = 1e11


def art_cw(
    model: Model,
    x: Array,
    y: Array,
    *,
    confidence: float = 0.0,
    step_size: float = 0.01,
    num_steps: int = 10,
    num_search_steps: int = 10,
    initial_weight: float = 0.01,
    max_halving: int = 5,
    max_doubling: int = 5,
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    record: Record | None = None,
) -> AttackResult:
    """Carlini and Wagner's attack in the Euclidean norm as ART has it.

    Parameters
    ----------
    confidence, max_halving, max_doubling
        ART's settings of the same names.
    step_size, num_steps, num_search_steps, initial_weight
        Its ``learning_rate``, ``max_iter``, ``binary_search_steps`` and ``initial_const``.
    num_draws : int
        As of `as_torch_module`; the draws are the same at every evaluation.
    record : callable, optional
        Called with (number, iterates as an ndarray) after each step of each weight, numbers going on.

    Returns
    -------
    AttackResult
        The nearest wrong image of each, or the clean one; distances are Euclidean.

    Notes
    -----
    The others are those of `malade_ref.attacks.cw`.

    `malade_ref.attacks.cw` minimises the same objective with Adam, as the authors do, its weights are searched for as
    by the authors (tenfold, then by halves), and the hinge's gradient is 0 where the confidence is reached. A step
    there is one evaluation; here it is up to 12. ART's defaults are 10 weights of 10 steps, the authors' 9 of 10000.

    Where no step size of the line search lowers f, ART compares, in the next step, with the f of the last one that it
    tried, not of where the image is. That is followed.

    ART cuts images into batches of ``batch_size`` (by default 1), within which they influence each other a little. Here
    none does: these are its results with batches of one.
    """
    asked = Asked(model, x, y, num_draws=num_draws, seed=seed, num_judge_draws=num_judge_draws)
    check_number("confidence", confidence)
    check_number("step_size", step_size, above=0)
    check_number("initial_weight", initial_weight, above=0)
    check_work("num_steps", num_steps, minimum=0)
    check_work("num_search_steps", num_search_steps, minimum=0)
    check_work("max_halving", max_halving)
    check_work("max_doubling", max_doubling)
    search = _Search(asked, confidence, max_halving, max_doubling)
    clean, n = asked.x, len(asked.x)
    weight, lower, doubling = np.full(n, float(initial_weight)), np.zeros(n), np.ones(n, bool)
    best, nearest, number = clean, np.full(n, np.inf), 0
    for _ in range(num_search_steps):
        search.begin(weight, step_size)
        fallen = search.success
        for _ in range(num_steps):
            better = search.success & (search.distance < nearest)
            best, nearest = np.where(each(better, best), search.x, best), np.where(better, search.distance, nearest)
            search.step(weight < LARGEST_WEIGHT)
            fallen = fallen | search.success
            if record is not None:
                record(number, search.x)
            number += 1
        better = search.success & (search.distance < nearest)
        best, nearest = np.where(each(better, best), search.x, best), np.where(better, search.distance, nearest)
        doubling = doubling & ~fallen
        # The bound is raised to the new weight, not to the one that failed.
        raised = np.where(doubling, 2 * weight, weight + (weight - lower) / 2)
        weight = np.where(fallen, (lower + weight) / 2, raised)
        lower = np.where(fallen, lower, weight)
    return asked.result(best, lambda found: length(found - clean))


class _Search:
    """Where the images are in their search with one weight each."""

    def __init__(self, asked: Asked, confidence: float, max_halving: int, max_doubling: int) -> None:
        self.asked, self.confidence = asked, confidence
        self.max_halving, self.max_doubling = max_halving, max_doubling
        self._start = np.arctanh((2 * asked.x - 1) * SMOOTHER)

    def begin(self, weight: Array, step_size: float) -> None:
        """Start at the clean images."""
        self.weight, self.size = weight, np.full(len(weight), float(step_size))
        self.x, self.w = self.asked.x, self._start
        self.distance, self.loss = self._objective(self.x)
        self.success = self.loss - self.distance <= 0

    def step(self, active: Array) -> None:
        """Move each active image by the best step of its line search, if there is one."""
        tanh_squared = np.square(np.tanh(self.w))
        slope = 2 * (self.x - self.asked.x) - each(self.weight, self.x) * self.asked.gradient(self.x, loss="margin")
        direction = -slope * (1 - tanh_squared) / (2 * SMOOTHER)
        before, best_loss, best_size = self.loss, self.loss, np.zeros(len(self.loss))
        halvings = np.zeros(len(self.loss), int)
        for _ in range(self.max_halving):
            trying = active & (self.loss >= before)
            if not trying.any():
                break
            self._try(direction, trying)
            best_size, best_loss = _better(self.loss, self.size, best_size, best_loss)
            self.size, halvings = np.where(trying, self.size / 2, self.size), halvings + trying
        self.size = np.where(active, 2 * self.size, self.size)
        for _ in range(self.max_doubling):
            trying = active & (halvings == 1) & (self.loss <= best_loss)
            if not trying.any():
                break
            self.size = np.where(trying, 2 * self.size, self.size)
            self._try(direction, trying)
            best_size, best_loss = _better(self.loss, self.size, best_size, best_loss)
        self.size = np.where(halvings == 1, self.size / 2, self.size)
        moved = active & (best_size > 0)
        if not moved.any():
            return
        w = (self.w + each(best_size, self.w) * direction).astype(self.w.dtype)
        self.w = np.where(each(moved, w), w, self.w)
        self.x = np.where(each(moved, w), _image(w), self.x)
        distance, loss = self._objective(self.x)
        self.distance, self.loss = np.where(moved, distance, self.distance), np.where(moved, loss, self.loss)
        self.success = np.where(moved, self.loss - self.distance <= 0, self.success)

    def _try(self, direction: Array, trying: Array) -> None:
        """What f is after a step of the present size."""
        there = _image(self.w + each(self.size, self.w) * direction)
        distance, loss = self._objective(np.where(each(trying, there), there, self.x))
        distance = distance.astype(self.distance.dtype)
        self.distance, self.loss = np.where(trying, distance, self.distance), np.where(trying, loss, self.loss)

    def _objective(self, x: Array) -> tuple[Array, Array]:
        """Squared distances, and f."""
        distance = np.square(self.asked.x - x).sum(axis=(1, 2, 3))
        logits = self.asked.logits(x.astype(self.asked.x.dtype))
        rows = np.arange(len(x))
        own = logits[rows, self.asked.y]
        others = logits.copy()
        others[rows, self.asked.y] = -np.inf
        return distance, self.weight * np.maximum(own - others.max(axis=1) + self.confidence, 0) + distance


def _better(loss: Array, size: Array, best_size: Array, best_loss: Array) -> tuple[Array, Array]:
    better = loss < best_loss
    return np.where(better, size, best_size), np.where(better, loss, best_loss)


def _image(w: Array) -> Array:
    return (np.tanh(w) + 1) / 2
