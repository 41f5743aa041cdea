"""Folders that runs write into, where none was asked for."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from malade_ref.bundle.layout import state_of
from malade_ref.storage import cannot_write, make_folder

RUNS = Path("runs")


@contextmanager
def run_folder(
    arguments: argparse.Namespace, name: str, *, state_of: Callable[[Path], str] = state_of
) -> Iterator[Path]:
    """Have a folder to run into, one that no other process has.

    Parameters
    ----------
    arguments : argparse.Namespace
        ``out``, which is set to the folder if there is none, and ``resume``.
    name : str
        Of the experiment.
    state_of : callable
        Says what a folder holds: of a run by default.

    Yields
    ------
    Path
        That of ``out``, or else `default_folder`; if nothing came to be in it, it is gone afterwards.
    """
    if arguments.out:
        yield Path(arguments.out)
        return
    out = default_folder(name, resume=arguments.resume, state_of=state_of)
    arguments.out = str(out)
    try:
        yield out
    finally:
        with suppress(OSError):  # of folders that are not empty
            os.rmdir(out)
            os.rmdir(out.parent)


def default_folder(name: str, *, resume: bool, state_of: Callable[[Path], str] = state_of) -> Path:
    """Folder of a run that was not given one.

    Parameters
    ----------
    name : str
        Of the experiment.
    resume : bool
        Whether the newest unfinished run is wanted, if there is one.
    state_of : callable
        As of `run_folder`.

    Returns
    -------
    Path
        ``runs/<name>-<number>``: the unfinished one, or a new folder, made here so that no other process takes it.
    """
    numbers = []
    for path in RUNS.glob(f"{name}-*"):
        match = re.fullmatch(r"([0-9]{1,9})", path.name.removeprefix(f"{name}-"))
        if match:
            numbers.append(int(match[1]))
    if resume:
        states = ((number, state_of(RUNS / f"{name}-{number}")) for number in sorted(numbers, reverse=True))
        newest = next(((number, state) for number, state in states if state != "empty"), (0, "empty"))
        if newest[1] in ("begun", "unfinished"):
            return RUNS / f"{name}-{newest[0]}"
    number = max(numbers, default=0)
    while True:
        number += 1
        out = RUNS / f"{name}-{number}"
        make_folder(RUNS)
        try:
            os.mkdir(out)
        except FileExistsError:
            continue  # another run has just taken it
        except FileNotFoundError:
            number -= 1  # another run has just removed the empty folder around it
            continue
        except OSError as error:
            raise cannot_write(out, error) from error
        return out
