"""Who computes the outcomes of ``malade run``: this process, or workers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from malade_ref.checks import InputError
from malade_ref.experiment.ahead import Workers
from malade_ref.experiment.workers import dask_cluster, mpi_ranks, processes
from malade_ref.ops import num_threads


def add_workers(command: argparse.ArgumentParser) -> None:
    """Add ``--jobs``, ``--scheduler`` and ``--executor``.

    Parameters
    ----------
    command : ArgumentParser
        Where to.
    """
    command.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="attack and judge in N processes of one thread each, with the same bits; 0 takes one for each core",
    )
    command.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="attack and judge on a Dask cluster: tcp://HOST:PORT, or local (--jobs processes on this machine)",
    )
    command.add_argument(
        "--executor", choices=("mpi",), help="mpi: attack and judge on the ranks of mpiexec -n N malade run ..."
    )


@contextmanager
def workers_of(arguments: argparse.Namespace) -> Iterator[tuple[Workers | None, bool]]:
    """Find out who computes.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of the command.

    Yields
    ------
    workers : callable, optional
        For `run_experiment`.
    served : bool
        Whether this process was a worker, and has nothing left to do.

    Raises
    ------
    InputError
        If the options do not fit each other.
    """
    given = [name for name in ("scheduler", "executor") if getattr(arguments, name) is not None]
    if len(given) > 1:
        raise InputError("--scheduler, --executor: expected one of them")
    if arguments.jobs is not None and arguments.jobs < 0:
        raise InputError(f"--jobs: expected 0 or a number of processes, got {arguments.jobs}")
    if arguments.executor is not None and arguments.jobs is not None:
        raise InputError("--jobs: mpiexec says how many ranks there are; remove it")
    jobs = arguments.jobs or num_threads()
    if (given or (jobs > 1 and arguments.jobs is not None)) and arguments.backend != "ref":
        raise InputError("--jobs, --scheduler, --executor: workers compute with --backend ref only; remove one of them")
    if given:
        # Looked for at once, not after an hour of training.
        at_hand = mpi_ranks() if arguments.executor is not None else dask_cluster(arguments.scheduler, jobs)
        with at_hand as executor:
            workers: Workers | None = None if executor is None else lambda: nullcontext(executor)
            yield workers, executor is None
    elif arguments.jobs is not None and jobs > 1:
        yield partial(processes, jobs), False
    else:
        yield None, False
