"""Attacks on a deterministic model that leave an image alone once it has fallen.

A wrong answer of a deterministic model stays wrong, so an attack in a ball need not look at that image again: its
verdict cannot change. What can is how wrong the image is, which matters only to whoever carries it over to another
model. The success of every image is the same as without; images and losses are those of its first fall.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from ..arrays import Array
from ..checks import InputError
from .oracle import Model, Oracle, Verdict, select


class Standing:
    """A deterministic model that attacks ask through a `StandingOracle`.

    Parameters
    ----------
    model : Model
        The model, all of whose attributes it has.

    Raises
    ------
    InputError
        If the model draws noise: an image that has fallen may be right in the next draw.
    """

    def __init__(self, model: Model) -> None:
        if model.stochastic:
            raise InputError("model: draws noise, so what has fallen may stand again; attack it with all of its images")
        self.model = model
        self.oracle = StandingOracle

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class StandingOracle(Oracle):
    """An oracle that asks for gradients only at images that have not fallen.

    To the others it gives a gradient of zero, and the verdict of their first fall. Counts are of an image that stands
    to the end. The parameters are those of `Oracle`.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._fallen: Verdict | None = None

    def gradient(self, x: Array, *, loss: str = "ce", targets: Array | None = None) -> tuple[Verdict, Array]:
        """As `Oracle.gradient`."""
        fallen = self._fallen
        rows = None if fallen is None else self.ops.asarray(self.ops.to_host(~fallen.success).nonzero()[0])
        if fallen is None or rows is None or len(rows) == len(x):
            verdict, gradient = super().gradient(x, loss=loss, targets=targets)
        else:
            part = copy(self)
            part.y, part.sample_index = self.y[rows], self.sample_index[rows]
            of_rows, own = Oracle.gradient(part, x[rows], loss=loss, targets=None if targets is None else targets[rows])
            self.num_queries, self.num_gradients = part.num_queries, part.num_gradients
            now = Verdict(x.copy(), fallen.success.copy(), fallen.loss.copy())
            now.success[rows], now.loss[rows] = of_rows.success, of_rows.loss
            gradient = 0 * x
            gradient[rows] = own
            verdict = select(self.ops, fallen.success, fallen, now)
        self._fallen = verdict if fallen is None else select(self.ops, fallen.success, fallen, verdict)
        return verdict, gradient
