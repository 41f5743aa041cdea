"""Signals that end a command: an interrupt (Ctrl-C), a request to terminate, a closed terminal."""

from __future__ import annotations

import argparse
import shlex
import signal
from types import FrameType

WORDS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}

_received: list[int] = []


def listen() -> None:
    """From now on, raise KeyboardInterrupt for each of these signals that is not ignored."""
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def deaf() -> int:
    """Ignore further ones while a command says its last words.

    Returns
    -------
    int
        The signal that came first; SIGINT if none came this way.
    """
    for number in WORDS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_IGN)
    return _received[0] if _received else signal.SIGINT


def go_on(arguments: argparse.Namespace) -> str:
    """The command line that goes on with an interrupted command.

    Parameters
    ----------
    arguments : argparse.Namespace
        ``argv`` as it was given, ``out`` as it was resolved.

    Returns
    -------
    str
        The same words, ``--out`` if it was left out, and ``--resume``.
    """
    words = [word for word in arguments.argv if word != "--resume"]
    named = any(word == "--out" or word.startswith("--out=") for word in words)
    return shlex.join(["malade", *words, *([] if named else ["--out", str(arguments.out)]), "--resume"])


def _stop(number: int, frame: FrameType | None) -> None:
    # A second one raises again: the first may have come in a callback, where Python drops what is raised.
    _received.append(number)
    raise KeyboardInterrupt
