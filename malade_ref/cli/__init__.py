"""The command line: ``malade``.

Exit codes: 0 done; 1 a check failed; 2 bad usage or bad input, said in one line; 130 interrupted, what was done is
kept.
Progress goes to standard error, everything else to standard output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from malade_ref import __version__
from malade_ref.checks import InputError
from malade_ref.cli import certify, data, info, models, report, run, single, theorem
from malade_ref.cli.console import say

DONE, CHECK_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """Make the parser of all commands.

    Returns
    -------
    argparse.ArgumentParser
        Its namespace has ``command``, a function of the namespace that gives the exit code.
    """
    top = _Parser(
        prog="malade",
        description="A laboratory for MALADE: defending classifiers by Langevin relaxation, and what that is worth.",
        epilog="Exit codes: 0 done, 1 a check failed, 2 bad usage or input, 130 interrupted (what was done is kept).",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"malade {__version__}")
    top.set_defaults(command=_no_command)
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    for module in (run, theorem, report, data, models, single, certify, info):
        module.add_commands(commands)
    return top


def _no_command(arguments: argparse.Namespace) -> int:
    raise InputError("expected a command, such as: malade run demo; see malade --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit code.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = parser().parse_args(argv)
        arguments.argv = argv
        code: int = arguments.command(arguments)
        return code
    except InputError as error:
        say(f"malade: error: {' '.join(str(error).split())}", error=True)
        return BAD_INPUT
    except MemoryError as error:
        say(f"malade: error: out of memory: {' '.join(str(error).split()) or 'no details'}", error=True)
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        hint = str(interrupt) or "nothing was kept"
        say(f"malade: interrupted; {hint}", error=True)
        return INTERRUPTED
