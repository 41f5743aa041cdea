"""All outcomes of a run at once: by workers, before the steps that take them cell by cell.

Every shard is kept as soon as it comes, so an interrupted run goes on where it was, with workers or without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from malade_ref.bundle import Bundle
from malade_ref.experiment.config import Attack, Experiment, Victim
from malade_ref.experiment.stages import Arrays
from malade_ref.experiment.workers import Given, Job, Spread, Task
from malade_ref.training import Progress

Workers = Callable[[], AbstractContextManager[Executor]]


class Cell(NamedTuple):
    """A defence under an attack of one size.

    Attributes
    ----------
    defence : str
        Name of the defence.
    attack : Attack, optional
        None for images as they are.
    eps : float
        Size of the perturbation.
    key : str
        Its name in the bundle.
    num_images : int
        How many are attacked.
    meta : mapping
        What the bundle says of it.
    """

    defence: str
    attack: Attack | None
    eps: float
    key: str
    num_images: int
    meta: Mapping[str, Any]


class Run(Protocol):
    """What is asked of a run, see `malade_ref.experiment.run`."""

    @property
    def experiment(self) -> Experiment:
        """The experiment."""

    def cell(self, name: str, attack: Attack | None, eps: float) -> Cell:
        """What is known of a cell in advance.

        Parameters
        ----------
        name : str
            Name of the defence.
        attack, eps
            As of `Cell`.
        """

    def kept(self, victim: Victim, attack: Attack) -> bool:
        """Whether images are for more than one: another defence, or another run.

        Parameters
        ----------
        victim : Victim
            Against whom they are made.
        attack : Attack
            By what.
        """

    def made_once(
        self, victim: Victim, attack: Attack, eps: float, first: int, last: int, make: Callable[[], Arrays]
    ) -> Arrays:
        """Attacked images, as they were kept, or made and kept now.

        Parameters
        ----------
        victim, attack, eps, first, last
            As of `Outcomes.images_against`.
        make : callable
            Makes them.
        """

    def put_aside(self, cell: Cell, first: int, last: int, outcome: Arrays) -> Arrays:
        """Put aside what pictures need of a shard of outcomes, and give what is kept of it.

        Parameters
        ----------
        cell : Cell
            Of which cell.
        first, last : int
            Which images of the order.
        outcome : dict of str to ndarray
            As of `Outcomes.outcome`.
        """


class _MissingError(Exception):
    """Images are not there."""


def compute_ahead(run: Run, bundle: Bundle, job: Callable[[], Job], workers: Workers, progress: Progress) -> None:
    """Have all shards computed that are not there.

    Images that several cells are given are made first, and once.

    Parameters
    ----------
    run : Run
        Whose outcomes.
    bundle : Bundle
        Where they go.
    job : callable
        Gives what workers have to know.
    workers : callable
        Gives a context manager with an executor.
    progress : callable
        Told the fraction done and a line of text.
    """
    experiment = run.experiment
    wanted: dict[Task, Cell] = {}
    for name, attack, eps in experiment.cells():
        cell = run.cell(name, attack, eps)
        for first, last in bundle.missing_shards(
            cell.key, cell.num_images, experiment.evaluation.shard_size, meta=cell.meta
        ):
            wanted[Task(name, None, attack.name if attack else None, eps, first, last)] = cell
    if not wanted:
        return
    left = set(wanted)
    waiting: dict[Task, list[Task]] = {}

    def begin() -> Iterator[Given]:
        for task, cell in wanted.items():
            if cell.attack is None:
                yield task, None
                continue
            victim = cell.attack.victim(cell.defence, experiment.defences)
            if not run.kept(victim, cell.attack):
                yield task, None
                continue
            images = task._replace(defence="", victim=victim)
            if images in waiting:
                waiting[images].append(task)
                continue
            try:
                yield task, run.made_once(victim, cell.attack, cell.eps, task.first, task.last, _not_there)
            except _MissingError:
                waiting[images] = [task]
                yield images, None

    def done(task: Task, result: Arrays) -> Iterator[Given]:
        if task.victim is not None:
            attack = wanted[waiting[task][0]].attack
            assert attack is not None
            found = run.made_once(task.victim, attack, task.eps, task.first, task.last, lambda: result)
            yield from ((further, found) for further in waiting.pop(task))
            return
        cell = wanted[task]
        bundle.keep_shard(cell.key, task.first, task.last, run.put_aside(cell, task.first, task.last, result))
        left.discard(task)
        share = 1 - len(left) / len(wanted)
        progress(share, f"{len(wanted) - len(left)} of {len(wanted)} shards")

    progress(0.0, f"{len(wanted)} shards")
    Spread(workers, job()).work(begin(), done)


def _not_there() -> Arrays:
    raise _MissingError
