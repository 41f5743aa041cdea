"""Run the laboratory into a bundle, or go on with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from malade_ref.bundle import Bundle
from malade_ref.figures import require
from malade_ref.report import require_page
from malade_ref.storage import Record
from malade_ref.theorem.beside import Beside
from malade_ref.theorem.claims import Progress, Settings
from malade_ref.theorem.parts import PARTS, Part
from malade_ref.theorem.report import KIND, TITLE, stage_of, write_report


class Watcher(Protocol):
    """Who is told how it goes."""

    def plan(self, parts: Sequence[Part], out: Path) -> None:
        """Hear what will be done, before anything is.

        Parameters
        ----------
        parts : sequence of Part
            All of them, in order.
        out : Path
            Where the results will be.
        """

    def begin(self, part: Part) -> Progress:
        """Hear that a part begins; give back whom to tell its progress. One that was done already tells none."""

    def end(self, part: Part) -> None:
        """Hear that it ended."""


def run_theorem(
    settings: Settings, out: str | Path, *, resume: bool = False, watcher: Watcher, parts: Sequence[Part] = PARTS
) -> Bundle:
    """Check every claim, and report.

    Parameters
    ----------
    settings : Settings
        Scale, seed and backend.
    out : path
        The bundle's folder.
    resume : bool
        Whether the folder may hold a part of this very run.
    watcher : Watcher
        Told how it goes.
    parts : sequence of Part
        What to do; everything by default.

    Raises
    ------
    InputError
        If the folder cannot be used, or what draws its report is missing; nothing that was there is overwritten.
    """
    require()
    require_page()
    config = {
        "kind": KIND,
        "name": KIND,
        "title": TITLE,
        "scale": settings.scale,
        "seed": settings.seed,
        "backend": settings.ops.__name__.partition(".")[0],
        "parts": [part.name for part in parts],
    }
    text = f'# malade theorem\nscale = "{settings.scale}"\nseed = {settings.seed}\n'
    begin = Bundle.resume if resume else Bundle.create
    with begin(out, text, config, device=settings.ops.describe_device()) as bundle:
        if not bundle.finished:
            watcher.plan(parts, bundle.path)
            left = [part for part in parts if not (bundle.path / f"{stage_of(part.name)}.h5").exists()]
            folders = {part.name: bundle.partial(f"{part.name}/state").parent for part in left}
            with Beside(left, settings, folders) as beside:
                for part in parts:
                    progress = watcher.begin(part)
                    _compute(bundle, part, beside, progress)
                    watcher.end(part)
            write_report(bundle)
            bundle.finish()
    return Bundle.open(out)


def _compute(bundle: Bundle, part: Part, beside: Beside, progress: Progress) -> Record:
    def compute() -> Record:
        progress(0.0, "")
        return beside.compute(part, progress)

    return bundle.stage(stage_of(part.name), compute, keep=True)
