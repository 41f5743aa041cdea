"""Names of a bundle's files, and what state a folder is in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from malade_ref.checks import InputError
from malade_ref.storage import cannot_read, is_link, is_temporary

EXPERIMENT = "experiment.toml"
CONFIG = "config.json"
ENVIRONMENT = "environment.json"
OUTCOMES = "outcomes.h5"
RESULTS = "results.json"
REPORT = "report.md"
CROISSANT = "croissant.json"
PAGE = "report.html"
FIGURES = "figures"
MODELS = "models"
MANIFEST = "MANIFEST.json"
WORK = ".work"
LOCK = "lock"

State = Literal["empty", "begun", "unfinished", "finished", "foreign"]


def state_of(path: Path) -> State:
    """What a folder holds.

    Parameters
    ----------
    path : path
        The folder; it need not exist.

    Returns
    -------
    str
        ``"empty"`` (or absent); ``"begun"`` by a run that was killed before it computed anything;
        ``"unfinished"``; ``"finished"``; ``"foreign"`` if it is not empty and was not begun by a run.

    Raises
    ------
    InputError
        If it is no folder, cannot be read, or its work folder is a link.
    """
    names = _names(path)
    if not names:
        return "empty"
    if WORK not in names:
        return "finished" if {MANIFEST, CONFIG} <= names else "foreign"
    if os.path.islink(path / WORK):
        raise is_link(path / WORK)
    work = _names(path / WORK)
    if work and LOCK not in work:
        return "foreign"
    if CONFIG in names:
        return "unfinished"
    rest = {name for name in names - {WORK, EXPERIMENT, ENVIRONMENT} if not is_temporary(name)}
    return "foreign" if rest else "begun"


def is_old_record(path: Path) -> bool:
    """Whether a folder is a finished bundle of which an earlier version kept only the results, and no manifest.

    Parameters
    ----------
    path : path
        The folder.

    Returns
    -------
    bool
        Whether it has settings and results, and neither a manifest, nor networks, nor a work folder.
    """
    names = _names(path)
    return {CONFIG, RESULTS} <= names and not {MANIFEST, WORK, MODELS} & names


def _names(folder: Path) -> set[str]:
    """Names in a folder, none if it does not exist."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()
    except NotADirectoryError as error:
        raise InputError(f"{folder}: is a file, not a folder; choose another") from error
    except OSError as error:
        raise cannot_read(folder, error) from error
