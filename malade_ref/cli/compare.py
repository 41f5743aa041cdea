"""``malade compare``: the defences of several bundles on one board."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from malade_ref import report, theorem
from malade_ref.bundle import Bundle
from malade_ref.bundle.layout import PAGE, REPORT
from malade_ref.bundle.manifest import is_record
from malade_ref.checks import InputError
from malade_ref.cli.console import say
from malade_ref.experiment.suite import bundles_of, is_suite
from malade_ref.report.board import HEAD, board_cells, board_content, board_rows, ordered
from malade_ref.report.html import render
from malade_ref.storage import atomic_write

# Columns of the terminal's table; the page has all.
SHOWN = ("classifier", "threat", "clean images", "worst attack for each image", "images", "attacks", "audit", "bundle")


def add_commands(commands: Any) -> None:
    """Add ``compare``.

    Parameters
    ----------
    commands : argparse subparsers
        Where to.
    """
    command = commands.add_parser(
        "compare",
        help="a board of the defences of several bundles, with intervals, budgets and audits",
        description="Put the defences of several bundles side by side. What the board says is derived from the "
        "outcomes; malade report --verify says whether a bundle is whole.",
        allow_abbrev=False,
    )
    command.add_argument("bundles", metavar="BUNDLE", nargs="+", help="folder of a malade run, of a suite, or a record")
    command.add_argument("--out", metavar="FILE.html", help="also write the board as a page, with links to the bundles")
    command.set_defaults(command=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    out = Path(arguments.out) if arguments.out is not None else None
    if out is not None:
        report.require_page()
        if os.path.lexists(out):
            raise InputError(f"--out {out}: exists already; choose another name or delete it")
        if not out.absolute().parent.is_dir():
            raise InputError(f"--out {out}: there is no folder {out.absolute().parent}; create it first")
    found = []
    for path in _paths(arguments.bundles):
        bundle = Bundle.open(path)
        if theorem.is_theorem(bundle):
            raise InputError(f"{path}: is of malade theorem, and has no defences; leave it out")
        if not bundle.finished and not is_record(path):
            raise InputError(f"{path}: is not finished; malade run --resume --out {path} goes on with it")
        with report.fitting(bundle):
            found += board_rows(bundle, path.resolve().name, _link(path, out))
    rows = ordered(found)
    if out is not None:
        atomic_write(out, render("board.html", board_content(rows)))
    for line in _table([list(HEAD), *map(board_cells, rows)]):
        say(line)
    if out is not None:
        say(f"board: {out}")
    return 0


def _paths(names: list[str]) -> list[Path]:
    """The bundles, those of a suite one by one, each once."""
    found: dict[Path, Path] = {}
    for name in names:
        path = Path(name)
        if is_suite(path):
            of_suite = [path / part for part, bundle in bundles_of(path).items() if not theorem.is_theorem(bundle)]
        else:
            of_suite = [path]
        for one in of_suite:
            found.setdefault(one.resolve(), one)
    return list(found.values())


def _link(path: Path, out: Path | None) -> str:
    """The address of a bundle's report, seen from the board; without a colon, which would make a scheme of it."""
    name = PAGE if (path / PAGE).exists() else REPORT
    start = out.resolve().parent if out is not None else Path.cwd()
    return quote(os.path.relpath(path.resolve() / name, start))


def _table(lines: list[list[str]]) -> list[str]:
    columns = [list(HEAD).index(name) for name in SHOWN]
    shown = [[line[column] for column in columns] for line in lines]
    widths = [max(len(line[place]) for line in shown) for place in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in shown]
