"""``malade theorem``: what the theorem says, measured against an oracle, into a bundle."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from malade_ref.checks import check_count
from malade_ref.cli.backends import add_backend, backend_ops
from malade_ref.cli.console import Meter, duration, say
from malade_ref.cli.folders import run_folder
from malade_ref.report.labels import count_of
from malade_ref.theorem import Scale, Settings, headlines, read_claims, results_of, run_theorem
from malade_ref.theorem.claims import Progress
from malade_ref.theorem.parts import PARTS, Part
from malade_ref.theorem.report import KIND, TITLE


def add_commands(commands: Any) -> None:
    """Add ``theorem``.

    Parameters
    ----------
    commands : argparse subparsers
        Where to.
    """
    command = commands.add_parser(
        "theorem",
        help="verify, quantify and draw what the paper's theorem says",
        description="Check the theorem and the chains against mixtures of Gaussians, where everything is known: a "
        "folder with a verdict on every claim, numbers, figures and a report.",
        allow_abbrev=False,
    )
    command.add_argument("--quick", action="store_true", help="fewer points and seeds, in 90 seconds")
    add_backend(command)
    command.add_argument(
        "--out", metavar="DIR", help="folder of the bundle; runs/theorem-1, runs/theorem-2, ... by default"
    )
    names = [part.name for part in PARTS]
    command.add_argument(
        "--part",
        action="append",
        choices=names,
        metavar="PART",
        help=f"only this part, or these if given several times: {', '.join(names)}",
    )
    command.add_argument("--seed", type=int, default=0, help="of everything random")
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with an interrupted run: that of --out, or the newest unfinished one in runs/",
    )
    command.set_defaults(command=_theorem)


def _theorem(arguments: argparse.Namespace) -> int:
    scale: Scale = "quick" if arguments.quick else "full"
    seed = check_count("--seed", arguments.seed, minimum=0)
    return run(Settings(scale, seed, backend_ops(arguments.backend)), arguments)


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run the laboratory as the arguments say.

    Parameters
    ----------
    settings : Settings
        Scale, seed and backend.
    arguments : argparse.Namespace
        ``out``, ``resume``, ``part``, and ``argv`` to say how to go on.

    Returns
    -------
    int
        Exit code: 0, whatever the verdicts are; they are the result.
    """
    watcher = TheoremWatcher(settings.scale)
    parts = [part for part in PARTS if not arguments.part or part.name in arguments.part]
    with run_folder(arguments, KIND) as out:
        bundle = run_theorem(settings, out, resume=arguments.resume, watcher=watcher, parts=parts)
    watcher.close()
    say(f"results: {bundle.path / 'report.md'}")
    for line in headlines(results_of(read_claims(bundle))):
        say(line)
    return 0


class _PartMeter(Meter):
    """Progress of one part, with the time that the whole run will still take."""

    def __init__(self, title: str, run: TheoremWatcher) -> None:
        super().__init__(title)
        self._run = run

    def left_altogether(self) -> str:
        return f"whole run {duration(self._run.left())}"


class TheoremWatcher:
    """Tells on the console how a run goes, see `malade_ref.theorem.Watcher`.

    Parameters
    ----------
    scale : {"full", "quick", "tiny"}
        The run's.
    """

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._began = self._part_began = time.monotonic()
        self._parts: Sequence[Part] = ()
        self._number = 0
        self._meter: _PartMeter | None = None
        # Seconds expected of all parts that remain; expected of and spent on those that were worked on.
        self._expected_left = self._expected = self._spent = 0.0

    def plan(self, parts: Sequence[Part], out: Path) -> None:
        """Say what will be done.

        Parameters
        ----------
        parts, out
            As of `malade_ref.theorem.Watcher`.
        """
        self._parts = parts
        self._expected_left = sum(part.seconds[self._scale] for part in parts)
        work = f"{count_of(len(parts), 'part')}, a report; about {duration(self._expected_left)} on two cores"
        say(f"{TITLE}: {work}, into {out}")

    def begin(self, part: Part) -> Progress:
        """Begin to show how a part goes."""
        self._number += 1
        self._part_began = time.monotonic()
        self._meter = _PartMeter(f"[{self._number}/{len(self._parts)}] {part.title}", self)
        return self._meter

    def end(self, part: Part) -> None:
        """Say how long it took."""
        assert self._meter is not None
        self._meter.close()
        seconds = part.seconds[self._scale]
        self._expected_left -= seconds
        if not self._meter.worked:
            say(f"{self._meter.title}: was done already")
            return
        spent = time.monotonic() - self._part_began
        self._expected += seconds
        self._spent += spent
        say(f"{self._meter.title}: {duration(spent)}")

    def left(self) -> float:
        """Seconds that the run will still take: those expected, corrected by how it went so far."""
        assert self._meter is not None
        seconds = self._parts[self._number - 1].seconds[self._scale] * self._meter.fraction
        # Ten expected seconds keep the first guesses from jumping.
        spent = self._spent + time.monotonic() - self._part_began
        pace = (spent + 10) / (self._expected + seconds + 10)
        return pace * (self._expected_left - seconds)

    def close(self) -> None:
        """Say how long it took."""
        took = f"done in {duration(time.monotonic() - self._began)}"
        say(took if self._spent else "finished already, nothing was left to do")
