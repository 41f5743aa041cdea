"""``malade run``: an experiment, into a bundle."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from malade_ref.bundle.layout import PAGE
from malade_ref.checks import InputError, OutOfMemoryError, check_number
from malade_ref.cli.backends import add_backend, ready_backend, split_changes
from malade_ref.cli.console import Meter, duration, number, say
from malade_ref.cli.folders import run_folder
from malade_ref.cli.report import headlines
from malade_ref.cli.stopping import go_on
from malade_ref.cli.theorem import TheoremWatcher
from malade_ref.cli.workers import add_workers, workers_of
from malade_ref.datasets import load_dataset
from malade_ref.experiment import (
    Step,
    Suite,
    built_in_experiments,
    built_in_suites,
    read_experiment,
    run_experiment,
    run_suite,
    suite_state,
)
from malade_ref.experiment.adapting import Wish
from malade_ref.experiment.ahead import Workers
from malade_ref.training import Progress


def add_commands(commands: Any) -> None:
    """Add ``run``.

    Parameters
    ----------
    commands : argparse subparsers
        Where to.
    """
    command = commands.add_parser(
        "run",
        help="run an experiment: train, attack, evaluate, report",
        description="Run an experiment into a bundle: a folder with settings, networks, outcomes and a report.",
        allow_abbrev=False,
    )
    command.add_argument(
        "experiment", nargs="?", metavar="EXPERIMENT", help="a built-in experiment or suite, or a TOML file"
    )
    command.add_argument("--list", action="store_true", help="list the built-in experiments")
    add_backend(command)
    command.add_argument("--data-dir", metavar="DIR", help="where to look for data first; MALADE_DATA does the same")
    command.add_argument(
        "--data", metavar="NAME", help="on other data than the experiment's: networks are made for them"
    )
    command.add_argument(
        "--eps", type=number, help="another size of the perturbation, such as 8/255: sizes and steps are scaled to it"
    )
    command.add_argument("--out", metavar="DIR", help="folder of the bundle; runs/NAME-1, runs/NAME-2, ... by default")
    command.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, such as seed=1, models.cnn.epochs=2, attacks.pgd.num_steps=100; scale=NAME selects a "
        "prepared set of changes; with --backend gpu also device_memory=2GiB or precision=tf32; may be given several "
        "times",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with an interrupted run: that of --out, or the newest unfinished one in runs/",
    )
    add_workers(command)
    command.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        titles = {**built_in_experiments(), **{name: suite.title for name, suite in built_in_suites().items()}}
        for name, title in titles.items():
            say(f"{name:{max(map(len, titles))}}  {title}")
        return 0
    if arguments.experiment is None:
        raise InputError("expected an experiment, such as: malade run demo; malade run --list shows what there is")
    with workers_of(arguments) as (workers, served):
        return 0 if served else _run_one(arguments, workers)


def _run_one(arguments: argparse.Namespace, workers: Workers | None) -> int:
    suites = built_in_suites()
    changes, settings = split_changes(arguments.changes)
    if arguments.experiment in suites:
        for name in ("data", "eps"):
            if getattr(arguments, name) is not None:
                raise InputError(
                    f"--{name}: {arguments.experiment} is a suite of the paper's; choose an experiment, as honest"
                )
        return _run_suite(arguments, suites[arguments.experiment], changes, settings, workers)
    wish = None
    if arguments.data is not None or arguments.eps is not None:
        data = None if arguments.data is None else load_dataset(arguments.data, data_dir=arguments.data_dir)
        wish = Wish(data, None if arguments.eps is None else check_number("--eps", arguments.eps, above=0))
    reading = read_experiment(arguments.experiment, changes, wish)
    for note in reading.notes:
        say(note)
    with run_folder(arguments, reading.experiment.name) as out, ready_backend(arguments.backend, settings) as ops:
        where = "two cores" if arguments.backend == "ref" else ops.describe_device()["name"]
        watcher = _Watcher(reading.experiment.title, where, estimates=arguments.backend == "ref")
        with out_of_memory(arguments, where, settings):
            bundle = run_experiment(
                reading,
                out,
                data_dir=arguments.data_dir,
                resume=arguments.resume,
                ops=ops,
                watcher=watcher,
                command=command_of(
                    arguments.experiment,
                    arguments.changes,
                    arguments.backend,
                    data=arguments.data,
                    eps=arguments.eps,
                ),
                workers=workers,
            )
    watcher.close()
    say(f"results: {bundle.path / 'report.md'}")
    if (bundle.path / PAGE).exists():
        say(f"to look at: {bundle.path / PAGE}")
    for line in headlines(bundle):
        say(line)
    return 0


def _run_suite(
    arguments: argparse.Namespace,
    suite: Suite,
    changes: Sequence[str],
    settings: Mapping[str, str],
    workers: Workers | None,
) -> int:
    began = time.monotonic()
    with (
        run_folder(arguments, suite.name, state_of=suite_state) as out,
        ready_backend(arguments.backend, settings) as ops,
    ):
        where = "two cores" if arguments.backend == "ref" else ops.describe_device()["name"]

        def watcher(title: str, number: int) -> _Watcher:
            of_suite = f"{suite.name} {number}/{len(suite.experiments)}: {title}"
            return _Watcher(of_suite, where, estimates=arguments.backend == "ref")

        with out_of_memory(arguments, where, settings):
            page = run_suite(
                suite,
                changes,
                out,
                watcher=watcher,
                theorem_watcher=TheoremWatcher,
                data_dir=arguments.data_dir,
                resume=arguments.resume,
                ops=ops,
                workers=workers,
            )
    say(f"done in {duration(time.monotonic() - began)}")
    say(f"page: {page}")
    return 0


def command_of(
    experiment: str, changes: Sequence[str], backend: str, *, data: str | None = None, eps: float | None = None
) -> str:
    """Write the command that runs an experiment, without folders and the store: they are of one machine only.

    Parameters
    ----------
    experiment : str
        Its name, or a file.
    changes : sequence of str
        As given by ``--set``.
    backend : str
        ``"ref"`` or ``"gpu"``.
    data : str, optional
        As given by ``--data``.
    eps : float, optional
        As given by ``--eps``.
    """
    words = ["malade", "run", Path(experiment).name]
    words += [] if data is None else ["--data", Path(data).name]
    words += [] if eps is None else ["--eps", f"{eps:g}"]
    for change in changes:
        key, equals, value = change.partition("=")
        if key.strip() == "store":
            continue
        words += ["--set", f"{key}{equals}{Path(value).name if key.endswith('file') else value}"]
    return shlex.join([*words, *(["--backend", backend] if backend != "ref" else [])])


@contextmanager
def out_of_memory(arguments: argparse.Namespace, where: str, settings: Mapping[str, str]) -> Iterator[None]:
    """Say how to go on where memory did not suffice.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of the command.
    where : str
        What computes.
    settings : mapping
        Of the backend.
    """
    try:
        yield
    except (MemoryError, OutOfMemoryError) as error:
        reason = str(error) if isinstance(error, OutOfMemoryError) else f"{where}: out of memory: {error}"
        mend = "free memory there" + (" or set a larger device_memory" if "memory" in settings else "")
        raise InputError(f"{reason}; what was done is kept; {mend}, then go on with: {go_on(arguments)}") from None


def console_watcher(title: str, where: str, *, estimates: bool) -> _Watcher:
    """Who tells on the console how a run goes, for `run_experiment`; close it when the run has ended.

    Parameters
    ----------
    title : str
        Of the run.
    where : str
        What computes.
    estimates : bool
        Whether its durations are known.
    """
    return _Watcher(title, where, estimates=estimates)


class _StepMeter(Meter):
    """Progress of one step, with the time that the whole run will still take."""

    def __init__(self, title: str, run: _Watcher) -> None:
        super().__init__(title)
        self._run = run

    def left_altogether(self) -> str:
        return f"whole run {duration(self._run.left())}"


class _Watcher:
    """Tells on the console how a run goes; durations are estimated for the reference only."""

    def __init__(self, title: str, where: str, *, estimates: bool) -> None:
        self._title, self._where, self._estimates = title, where, estimates
        self._began = time.monotonic()
        self._number = self._there_already = 0
        self._told = False  # whether the present step had something to say
        # Seconds expected of all steps that remain; expected of and spent on those that were worked on.
        self._expected_left = self._expected = self._spent = 0.0
        self._steps: list[Step] = []
        self._meter: _StepMeter | None = None
        self._step_began = 0.0

    def plan(self, steps: list[Step], out: Path) -> None:
        self._steps = steps
        self._expected_left = sum(step.seconds for step in steps)
        kinds = [step.kind for step in steps]
        networks, searches, cells = (kinds.count(kind) for kind in ("train", "search", "attack"))
        say(f"{self._title}: {networks} networks to train, {searches} searches, {cells} sets of outcomes, a report;")
        about = f"about {duration(self._expected_left)} " if self._estimates else ""
        say(f"{about}on {self._where}, into {out}")

    def begin(self, step: Step) -> Progress:
        self._number += 1
        self._told = False
        self._step_began = time.monotonic()
        self._meter = _StepMeter(f"[{self._number}/{len(self._steps)}] {step.title}", self)
        return self._meter

    def end(self, step: Step) -> None:
        assert self._meter is not None
        self._meter.close()
        self._expected_left -= step.seconds
        if not self._meter.worked:
            self._there_already += not self._told
            return
        if self._there_already:
            say(f"{self._there_already} steps were done already")
            self._there_already = 0
        spent = time.monotonic() - self._step_began
        self._expected += step.seconds
        self._spent += spent
        if spent >= 1:
            say(f"{self._meter.title}: {duration(spent)}")

    def tell(self, line: str) -> None:
        say(line)
        self._told = True

    def left(self) -> float:
        """Seconds that the run will still take: those expected, corrected by how it went so far."""
        assert self._meter is not None
        step = self._steps[self._number - 1]
        now = time.monotonic() - self._step_began
        expected, spent = self._expected + self._meter.fraction * step.seconds, self._spent + now
        # Ten expected seconds keep the first guesses from jumping.
        pace = (spent + 10) / (expected + 10)
        return pace * (self._expected_left - self._meter.fraction * step.seconds)

    def close(self) -> None:
        """Say how long it took."""
        worked = bool(self._spent)
        took = f"done in {duration(time.monotonic() - self._began)}"
        say(took if worked else "finished already, nothing was left to do")
