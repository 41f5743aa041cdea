"""Attacks that leave an image alone once it has fallen.

A wrong answer of a deterministic model stays wrong, so an attack in a ball need not look at that image again: its
verdict cannot change. What can is how wrong the image is, which matters only to whoever carries it over to another
model. The success of every image is the same as without; images and losses are those of its first fall.

A model that draws noise may be right in the next draw about what has fallen. There only an image retires whose mean
logits and each of whose judging draws are wrong, at the end of a run, and it is restarts that it is spared.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from ..arrays import Array
from ..checks import InputError, check_model
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


class Retiring:
    """A model that draws noise, which attacks ask through a `RetiringOracle`.

    Parameters
    ----------
    model : Model
        The model, all of whose attributes it has.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.oracle = RetiringOracle

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def retiring(model: Model) -> Model:
    """The model, asked so that images which have fallen are left alone: `Retiring` if it draws noise, else `Standing`.

    Parameters
    ----------
    model : Model
        The model.
    """
    check_model("model", model)
    return Retiring(model) if model.stochastic else Standing(model)


def _of_rows(oracle: Oracle, rows: Array) -> Oracle:
    """The same oracle for some of its images."""
    part = copy(oracle)
    part.y, part.sample_index = oracle.y[rows], oracle.sample_index[rows]
    part.targets = None if oracle.targets is None else oracle.targets[rows]
    return part


def _rows(oracle: Oracle, fallen: Array) -> Array:
    """Numbers of the images that stand."""
    return oracle.ops.asarray(oracle.ops.to_host(~fallen).nonzero()[0])


def _filled(ops: Any, x: Array, rows: Array, of_rows: Verdict, fallen: Verdict) -> Verdict:
    """The verdict on some images, among those that have fallen."""
    now = Verdict(x.copy(), fallen.success.copy(), fallen.loss.copy())
    now.success[rows], now.loss[rows] = of_rows.success, of_rows.loss
    return select(ops, fallen.success, fallen, now)


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
        rows = None if fallen is None else _rows(self, fallen.success)
        if fallen is None or rows is None or len(rows) == len(x):
            verdict, gradient = super().gradient(x, loss=loss, targets=targets)
        else:
            part = _of_rows(self, rows)
            of_rows, own = Oracle.gradient(part, x[rows], loss=loss, targets=None if targets is None else targets[rows])
            self.num_queries, self.num_gradients = part.num_queries, part.num_gradients
            gradient = 0 * x
            gradient[rows] = own
            verdict = _filled(self.ops, x, rows, of_rows, fallen)
        self._fallen = verdict if fallen is None else select(self.ops, fallen.success, fallen, verdict)
        return verdict, gradient


class RetiringOracle(Oracle):
    """An oracle that asks nothing more about images once all judging draws have found them wrong.

    Of those it gives a gradient of zero and the verdict of the judging draws. Counts are of each image. The parameters
    are those of `Oracle`.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._fallen: Verdict | None = None

    def gradient(self, x: Array, *, loss: str = "ce", targets: Array | None = None) -> tuple[Verdict, Array]:
        """As `Oracle.gradient`."""

        def ask(part: Oracle, rows: Array) -> tuple[Verdict, Array]:
            return Oracle.gradient(part, x[rows], loss=loss, targets=None if targets is None else targets[rows])

        return self._asked(x, ask, 0 * x) if self._fallen else super().gradient(x, loss=loss, targets=targets)

    def query(self, x: Array, *, loss: str = "ce", targets: Array | None = None, again: bool = False) -> Verdict:
        """As `Oracle.query`."""

        def ask(part: Oracle, rows: Array) -> tuple[Verdict, Array]:
            own = None if targets is None else targets[rows]
            verdict = Oracle.query(part, x[rows], loss=loss, targets=own, again=again)
            return verdict, verdict.success

        if not self._fallen:
            return super().query(x, loss=loss, targets=targets, again=again)
        return self._asked(x, ask, self._fallen.success.copy())[0]

    def judge(self, x: Array) -> tuple[Verdict, Array]:
        """As `Oracle.judge`; what is found wrong by all draws retires."""

        def ask(part: Oracle, rows: Array) -> tuple[Verdict, Array]:
            return Oracle.judge(part, x[rows])

        before = self._fallen
        verdict, always = super().judge(x) if before is None else self._asked(x, ask, before.success.copy())
        self._fallen = verdict._replace(success=always & verdict.success)
        return verdict, always

    def _asked(
        self, x: Array, ask: Callable[[Oracle, Array], tuple[Verdict, Array]], others: Array
    ) -> tuple[Verdict, Array]:
        """Ask about the images that stand; of the others the second answer is as given."""
        assert self._fallen is not None
        rows = _rows(self, self._fallen.success)
        part = _of_rows(self, rows)
        part.num_queries = part.num_gradients = 0
        of_rows, others[rows] = ask(part, rows)
        self._next_draw = part._next_draw
        stands = ~self._fallen.success * 1
        self.num_queries = self.num_queries + stands * part.num_queries
        self.num_gradients = self.num_gradients + stands * part.num_gradients
        return _filled(self.ops, x, rows, of_rows, self._fallen), others
