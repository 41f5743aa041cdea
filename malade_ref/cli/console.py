"""What a command says while it works: lines, and progress with the time left. All that is said goes through here.

On a terminal, with tqdm installed, progress is a bar; elsewhere a line every ten seconds. Saying never ends the work:
if nobody reads any more (a closed pipe), the disk under a log is full, a stream is closed or knows too few characters,
a command goes on, in silence if need be. `lost` tells afterwards what could not be said.
"""

from __future__ import annotations

import io
import os
import sys
import time
from importlib import import_module
from typing import Any

from malade_ref.checks import fraction, printable
from malade_ref.storage import one_line

EVERY = 10.0  # seconds between two lines of progress

_lost: list[str] = []


def number(text: str) -> float:
    """Read a number of a command line, or a fraction such as 8/255.

    Parameters
    ----------
    text : str
        The argument; what is no number raises ValueError, of which argparse makes a complaint.
    """
    return float(fraction(text))


def numbers(text: str) -> list[float]:
    """Read numbers between commas, as of `number`.

    Parameters
    ----------
    text : str
        Such as ``0.5,0.75``.
    """
    return [number(part) for part in text.split(",")]


def say(line: str = "", *, error: bool = False) -> None:
    """Print a line.

    Parameters
    ----------
    line : str
        What to say; what is not printable is written as `malade_ref.checks.printable` does, but spaces at its beginning
        and between columns stay.
    error : bool
        Whether it goes to standard error.
    """
    text = "".join(part if part.isspace() else printable(part) for part in _words(line))
    write(f"{text}\n", error=error)


def write(text: str, *, error: bool = False) -> None:
    """Write text of this program, which may have several lines.

    Parameters
    ----------
    text : str
        What to write.
    error : bool
        As of `say`.
    """
    name = "stderr" if error else "stdout"
    stream = getattr(sys, name)
    if stream is None:
        _lose(name, "it is closed")
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        _hush(stream)  # who closed a pipe has read enough
    except (OSError, ValueError) as failure:
        _lose(name, one_line(failure))
        _hush(stream)


def lost() -> str:
    """Why something of standard output did not arrive, though somebody may be waiting for it.

    Returns
    -------
    str
        The first reason; empty if all arrived. The next call knows of none.
    """
    reasons = list(_lost)
    _lost.clear()
    return reasons[0] if reasons else ""


def _words(line: str) -> list[str]:
    """A line cut at its runs of spaces, these kept."""
    words: list[str] = []
    for character in line:
        if words and (character == " ") == (words[-1][-1] == " "):
            words[-1] += character
        else:
            words.append(character)
    return words


def _lose(name: str, reason: str) -> None:
    if name == "stdout":
        _lost.append(reason)


def _hush(stream: Any) -> None:
    """Let a stream end in the void, now and when Python closes it at the end."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
        return
    try:
        void = os.open(os.devnull, os.O_WRONLY)
        if void != descriptor:  # else it was closed, and this has taken its number
            os.dup2(void, descriptor)
            os.close(void)
        stream.flush()
    except (OSError, ValueError):
        return


def duration(seconds: float) -> str:
    """Write a duration, such as ``"2 min 5 s"``.

    Parameters
    ----------
    seconds : float
        How long.

    Examples
    --------
    >>> duration(0.4), duration(125), duration(7500)
    ('under 1 s', '2 min 5 s', '2 h 5 min')
    """
    if seconds < 1:
        return "under 1 s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    if minutes >= 10 or (minutes and not rest):
        return f"{minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Meter:
    """Progress of one piece of work.

    Parameters
    ----------
    title : str
        What is done.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.fraction = 0.0
        self._first: tuple[float, float] | None = None
        self._said = time.monotonic()
        self._bar: Any = None

    def __call__(self, fraction: float, message: str) -> None:
        """Show how far it is.

        Parameters
        ----------
        fraction : float
            Done, in [0, 1].
        message : str
            Details.
        """
        now, self.fraction = time.monotonic(), fraction
        if self._first is None:
            self._first = (now, fraction)
            self._bar = _bar(self.title)
        if self._bar is not None:
            self._draw(fraction, message)
        elif now - self._said >= EVERY:
            self._said = now
            details = "; ".join(filter(None, [f"{100 * fraction:.0f}%", message, self.left()]))
            say(f"{self.title}: {details}", error=True)

    def _draw(self, fraction: float, message: str) -> None:
        """Move the bar; one that cannot be drawn any more is given up."""
        try:
            details = [printable(message), self.left_altogether()]
            self._bar.set_postfix_str("; ".join(filter(None, details)), refresh=False)
            self._bar.update(fraction - self._bar.n)
        except (OSError, ValueError):
            self._bar.disable, self._bar = True, None
            _hush(sys.stderr)

    @property
    def worked(self) -> bool:
        """Whether there was anything to do."""
        return self._first is not None

    def left(self) -> str:
        """Say how long it will still take, as far as that can be known."""
        own = ""
        if self._first is not None and self.fraction > self._first[1]:
            began, start = self._first
            seconds = (time.monotonic() - began) * (1 - self.fraction) / (self.fraction - start)
            own = f"{duration(seconds)} left"
        return ", ".join(filter(None, [own, self.left_altogether()]))

    def left_altogether(self) -> str:
        """Say how long the work will still take that this is a part of, if it is."""
        return ""

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            try:
                self._bar.close()
            except (OSError, ValueError):
                self._bar.disable, self._bar = True, None
                _hush(sys.stderr)


def _bar(title: str) -> Any:
    """A bar, on a terminal with tqdm; None otherwise."""
    try:
        if sys.stderr is None or not sys.stderr.isatty():
            return None
        tqdm = import_module("tqdm").tqdm
        tqdm.monitor_interval = 0  # its thread would draw, and fail, behind our back
        layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
        return tqdm(total=1.0, desc=printable(title), leave=False, bar_format=layout, dynamic_ncols=True)
    except (ImportError, OSError, ValueError):
        return None
