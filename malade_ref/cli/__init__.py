"""The command line: ``malade``.

Exit codes: 0 done; 1 a check failed; 2 bad usage or bad input, said in one line; 129, 130, 143 hung up, interrupted,
terminated, and what was done is kept.
Progress goes to standard error, everything else to standard output. What cannot be said ends no work; only a command
whose result is what it says, and says it to a full disk or a closed stream, ends with exit code 2.
Bad input is an `InputError` on its way here.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from malade_ref import __version__
from malade_ref.bundle.layout import WORK
from malade_ref.checks import InputError
from malade_ref.cli import certify, compare, data, info, judge, models, report, run, single, stopping, theorem
from malade_ref.cli.console import lost, say, write
from malade_ref.experiment import suite_state
from malade_ref.storage.files import cannot_read

DONE, CHECK_FAILED, BAD_INPUT = 0, 1, 2


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            write(message, error=file is not None and file is sys.stderr)


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
        epilog="Exit codes: 0 done, 1 a check failed, 2 bad usage or input, 130 interrupted, 143 terminated "
        "(what was done is kept).",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"malade {__version__}")
    # Of a command: where its result is to be found, if not in what it says.
    top.set_defaults(command=_no_command, out=None)
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    for module in (run, judge, theorem, report, compare, data, models, single, certify, info):
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
    arguments = argparse.Namespace()
    try:
        arguments = parser().parse_args(argv)
        arguments.argv = argv
        code: int = arguments.command(arguments)
        _check_heard(arguments)
        return code
    except InputError as error:
        say(f"malade: error: {' '.join(str(error).split())}", error=True)
        return BAD_INPUT
    except OSError as error:  # what no reader or writer has put into words of its own, such as a name that is too long
        say(f"malade: error: {cannot_read(error.filename or 'system', error)}", error=True)
        return BAD_INPUT
    except MemoryError as error:
        say(f"malade: error: out of memory: {' '.join(str(error).split()) or 'no details'}", error=True)
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        number = stopping.deaf()
        say(f"malade: {stopping.WORDS[number]}; {str(interrupt) or _kept(arguments)}", error=True)
        return 128 + number


def _check_heard(arguments: Any) -> None:
    """Raise if a command's result was what it said, and that was lost."""
    reason = lost()
    if reason and arguments.out is None:
        raise InputError(f"standard output: cannot be written ({reason}); the answer is lost, ask again")


def process() -> int:
    """Run the command of this process, which signals may end."""
    stopping.listen()
    # Numbers that overflow are noticed where they would decide something, and said there in one line.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"malade_")
    try:
        return main()
    except KeyboardInterrupt:  # between two lines of `main`
        return 128 + stopping.deaf()
    except SystemExit as end:  # of --help and --version
        return BAD_INPUT if lost() else int(end.code or 0)


def _kept(arguments: Any) -> str:
    """What an interrupted command has left, by looking: the interrupt may have come before it looked itself."""
    out = getattr(arguments, "out", None)
    if out is None:
        return "nothing was kept"
    unfinished = Path(f"{out}.partial").exists() or os.path.lexists(Path(out, WORK))
    unfinished = unfinished or suite_state(Path(out)) == "unfinished"
    if unfinished and "resume" in arguments:
        return f"what was done is kept; go on with: {stopping.go_on(arguments)}"
    return f"{out} is as it was" if os.path.lexists(out) else "nothing was kept"
