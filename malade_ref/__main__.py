"""``malade``, and ``python -m malade_ref``: ready for signals first, then everything else is imported."""

import os
import signal
import sys
from types import FrameType

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


def _stop(number: int, frame: FrameType | None) -> None:
    """Before any command: there is nothing to put away."""
    try:
        os.write(2, f"malade: {_WORDS[signal.Signals(number)]} before anything began\n".encode())
    finally:
        os._exit(128 + number)


def main() -> int:
    """Run the command line of this process.

    Returns
    -------
    int
        Exit code.
    """
    for number in _WORDS:
        # What is ignored stays ignored: nohup, and jobs in the background of a shell.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    # A closed stream leaves its number to the next file that is opened, and what is said would go there.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    from malade_ref import cli

    return cli.process()


if __name__ == "__main__":
    sys.exit(main())
