"""What a command says while it works: lines, and progress with the time left.

On a terminal, with tqdm installed, progress is a bar; elsewhere a line every ten seconds. If nobody reads any more (a
closed pipe), a command goes on in silence: what it computes is worth more than what it says.
"""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from typing import Any

EVERY = 10.0  # seconds between two lines of progress


def say(line: str = "", *, error: bool = False) -> None:
    """Print a line.

    Parameters
    ----------
    line : str
        What to say.
    error : bool
        Whether it goes to standard error.
    """
    stream = sys.stderr if error else sys.stdout
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        # From now on into the void; Python would complain once more when it closes the stream at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def duration(seconds: float) -> str:
    """Write a duration.

    Parameters
    ----------
    seconds : float
        How long.

    Returns
    -------
    str
        Such as ``"2 min 5 s"``.

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
            self._bar.set_postfix_str("; ".join(filter(None, [message, self.left_altogether()])), refresh=False)
            self._bar.update(fraction - self._bar.n)
        elif now - self._said >= EVERY:
            self._said = now
            details = "; ".join(filter(None, [f"{100 * fraction:.0f}%", message, self.left()]))
            say(f"{self.title}: {details}", error=True)

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
            self._bar.close()


def _bar(title: str) -> Any:
    """A bar, on a terminal with tqdm; None otherwise."""
    if not sys.stderr.isatty():
        return None
    try:
        tqdm = import_module("tqdm").tqdm
    except ImportError:
        return None
    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
    return tqdm(total=1.0, desc=title, leave=False, bar_format=layout, dynamic_ncols=True)
