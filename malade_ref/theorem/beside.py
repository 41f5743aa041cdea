"""A second process that computes parts of the laboratory from the end, while the first begins at the front."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from threadpoolctl import threadpool_limits

from malade_ref.storage import Record
from malade_ref.theorem.claims import Scale, Settings, record_of
from malade_ref.theorem.parts import PARTS, Part

# Below so many expected seconds a process is not worth its start.
LEAST_SECONDS = 20


def record_of_part(part: Part, settings: Settings, folder: Path, progress: Any) -> Record:
    """Compute a part.

    Parameters
    ----------
    part : Part
        Which.
    settings : Settings
        Scale, seed and backend.
    folder : Path
        What the part finds again after an interruption.
    progress : callable
        Whom to tell.
    """
    # Many small matrices: on two threads their products and factors take ten times as long as on one.
    with threadpool_limits(limits=1, user_api="blas"):
        return record_of(part.compute(settings, folder, progress))


class Beside:
    """The second process; a context manager that ends it.

    Each process takes the next part that neither has taken, this one from the front and the other from the back.
    Results do not depend on who computed what: every purpose has a generator of its own (`Settings.rng`).

    Parameters
    ----------
    parts : sequence of Part
        Those that are to be computed, in order.
    settings : Settings
        Of the run; with another backend than the reference, without a second core, or with little to do, there is no
        second process.
    folders : dict of str to Path
        The folder of each part, by its name.
    """

    def __init__(self, parts: Sequence[Part], settings: Settings, folders: Mapping[str, Path]) -> None:
        self._parts, self._settings, self._folders = list(parts), settings, dict(folders)
        self._found: dict[str, Record] = {}
        self._process: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> Self:
        ops, parts, scale = self._settings.ops, self._parts, self._settings.scale
        worth = sum(part.seconds[scale] for part in parts) >= LEAST_SECONDS and all(part in PARTS for part in parts)
        if worth and len(parts) > 1 and ops.__name__.startswith("malade_ref") and ops.num_threads() > 1:
            context = multiprocessing.get_context("spawn")
            # How many parts were taken from the front, and where those begin that were taken from the back.
            self._front, self._back = context.Value("i", 0), context.Value("i", len(parts))
            self._results = context.Queue()
            names = [part.name for part in parts]
            words = (
                scale,
                self._settings.seed,
                names,
                self._folders,
                self._front,
                self._back,
                self._results,
                os.getpid(),
            )
            self._process = context.Process(target=_work, args=words, daemon=True)
            self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def compute(self, part: Part, progress: Any) -> Record:
        """Give a part's record: computed here, or waited for.

        Parameters
        ----------
        part : Part
            The next one.
        progress : callable
            Whom to tell, if it is computed here.
        """
        if self._process is not None:
            number = self._parts.index(part)
            with self._front.get_lock():
                taken = number >= self._back.value
                self._front.value = number + 1
            if taken and (record := self._wait(part.name)) is not None:
                return record
        return record_of_part(part, self._settings, self._folders[part.name], progress)

    def _wait(self, name: str) -> Record | None:
        """The other process's record; None if it ended without one, and so the part has to be computed here."""
        while name not in self._found:
            assert self._process is not None
            alive = self._process.is_alive()
            try:
                found, record = self._results.get(timeout=0.2)
            except queue.Empty:
                if not alive:
                    return None
                continue
            self._found[found] = record
        return self._found.pop(name)


def _work(
    scale: Scale,
    seed: int,
    names: Sequence[str],
    folders: Mapping[str, Path],
    front: Any,
    back: Any,
    results: Any,
    parent: int,
) -> None:
    """Compute parts from the back until the other process has taken the rest."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    by_name = {part.name: part for part in PARTS}
    while True:
        with front.get_lock():
            if back.value <= front.value + 1:  # the next one is left to the other, which is about to take it
                return
            back.value -= 1
            name = names[back.value]
        try:
            record = record_of_part(by_name[name], Settings(scale, seed), folders[name], lambda *progress: None)
        except Exception:  # the other process computes the part itself, and there the error is told
            return
        results.put((name, record))


def _end_with(parent: int) -> None:
    """End this process when the one that began it is gone, whatever ended that."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
