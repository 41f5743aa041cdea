r"""Whether an attack has converged: accuracy against the number of its steps.

With A(T) the share of images that stand after T steps, and T' < T the number before, the slope is

    (A(T') - A(T)) / log2(T / T'),

in points a doubling of the steps. An attack whose last doubling took more than a point would take more with further
steps: what is left of the accuracy is not yet the defence's.

References
----------
.. [1] Carlini et al., "On evaluating adversarial robustness", 2019, section 4.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from .arrays import Array
from .attacks import AttackResult, Model, pgd
from .checks import InputError, check_work
from .evaluation import Cell, join

# Share of the images that the last doubling of an attack's steps may take.
CONVERGED = 0.01
# An image less in n counts as no more than the limit: rounding of the shares themselves.
SLACK = 1e-9


class Convergence(NamedTuple):
    """Accuracy against steps.

    Attributes
    ----------
    num_steps : list of int
        Numbers of steps, rising.
    accuracy : list of float
        Share that stands after each.
    slope : float
        What the last of them took, as a share a doubling; see `malade_ref.convergence`.
    converged : bool
        Whether that is at most a point.
    """

    num_steps: list[int]
    accuracy: list[float]
    slope: float
    converged: bool

    def __str__(self) -> str:
        """Return the accuracies and the slope."""
        ladder = ", ".join(
            f"{100 * accuracy:.1f}% after {number}"
            for number, accuracy in zip(self.num_steps, self.accuracy, strict=True)
        )
        verdict = "" if self.converged else "not converged: "
        return f"{verdict}{ladder} steps; {100 * self.slope:.1f} points in the last doubling"


def convergence(num_steps: Sequence[int], accuracy: Sequence[float]) -> Convergence:
    """Judge a ladder of accuracies.

    Parameters
    ----------
    num_steps : sequence of int
        At least two numbers, rising, the first above 0.
    accuracy : sequence of float
        Share that stands after each.
    """
    rising = all(fewer < more for fewer, more in pairwise(num_steps))
    if len(num_steps) < 2 or len(accuracy) != len(num_steps) or not rising or num_steps[0] < 1:
        raise InputError(
            f"num_steps: expected at least two numbers, rising from 1 on, and an accuracy each, got {list(num_steps)}"
        )
    slope = (accuracy[-2] - accuracy[-1]) / math.log2(num_steps[-1] / num_steps[-2])
    steps = [int(number) for number in num_steps]
    return Convergence(steps, [float(share) for share in accuracy], slope, slope <= CONVERGED + SLACK)


def convergence_check(
    model: Model,
    x: Array,
    y: Array,
    *,
    attack: Callable[..., AttackResult] = pgd,
    num_steps: Sequence[int] = (20, 40, 80),
    **settings: Any,
) -> Convergence:
    """Attack with more and more steps.

    Parameters
    ----------
    model : Model
        What is attacked.
    x : array of shape (n, c, h, w)
        Clean images, pixels in [0, 1].
    y : array of shape (n,), integer
        True labels.
    attack : callable
        An attack with a number of steps.
    num_steps : sequence of int
        At least two numbers, rising; all of them are attacked with.
    **settings
        For the attack: eps, norm, ...

    Returns
    -------
    Convergence
        Accuracies are those of the attack's own verdict.
    """
    if len(x) == 0:
        raise InputError("x: expected at least one image, got none")
    for number in num_steps:
        check_work("num_steps", number)
    convergence(num_steps, [0.0] * len(num_steps))  # complains about the numbers before anything is attacked
    found = [attack(model, x, y, num_steps=number, **settings).success for number in num_steps]
    return convergence(num_steps, [1 - float(success.sum()) / len(x) for success in found])


def ladders(cells: Iterable[Cell], key: str) -> list[list[Cell]]:
    """Outcomes of attacks that differ in nothing but one setting, one ladder each, by that setting.

    Parameters
    ----------
    cells : iterable of Cell
        Outcomes.
    key : str
        The setting, such as ``"num_steps"``.
    """
    groups: dict[Any, list[Cell]] = defaultdict(list)
    for cell in cells:
        if key in cell.settings:
            others = sorted((name, str(value)) for name, value in cell.settings.items() if name != key)
            groups[cell.defence, cell.method, cell.threat, cell.transferred, str(others)].append(cell)
    return [sorted(group, key=lambda cell: (float(cell.settings[key]), cell.attack)) for group in groups.values()]


def of_cells(cells: Iterable[Cell]) -> dict[str, Convergence]:
    """Convergence of every ladder of steps among outcomes.

    Parameters
    ----------
    cells : iterable of Cell
        Outcomes.

    Returns
    -------
    dict of str to Convergence
        By a label of defence, threat and method; on the images that all of a ladder were given.
    """
    found = {}
    for ladder in ladders(cells, "num_steps"):
        by_steps = {int(cell.settings["num_steps"]): cell for cell in ladder}
        if len(by_steps) > 1:
            _, correct = join(list(by_steps.values()))
            name = f"{ladder[0].defence}, {ladder[0].threat}, {ladder[0].method}"
            found[name] = convergence(list(by_steps), [float(outcomes.mean()) for outcomes in correct])
    return found
