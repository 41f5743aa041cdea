"""Shards of outcomes, computed by other processes: on this machine, on those of a Dask cluster, or by ranks of MPI.

All of them are executors in the sense of `concurrent.futures`. A worker is told once what it works on (`Job`) and then
one shard at a time (`Task`). It loads data and networks itself, and looks whether they are those of the run. So the
outcomes have the bits of a run in one process, whoever computed them, and in whatever order.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED as FIRST
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from threadpoolctl import threadpool_limits

from malade_ref.checkpoint import load
from malade_ref.checks import InputError
from malade_ref.datasets import load_dataset
from malade_ref.experiment.config import Victim
from malade_ref.experiment.outcomes import Outcomes
from malade_ref.experiment.reading import experiment_of
from malade_ref.experiment.stages import Arrays
from malade_ref.network import Network

# A pool whose processes end this often without a result in between is given up.
MOST_BREAKS = 3

# Seconds between two looks at whether whoever began a worker is still there.
LOOK = 0.5


class Job(NamedTuple):
    """What all tasks of a run have in common.

    Attributes
    ----------
    config : str
        The run's configuration, as JSON.
    settings : str
        Settings of all chains, as JSON.
    data_dir : str, optional
        Where to look for data first.
    folder : str
        Where the networks are: ``<name>.h5``.
    fingerprints : tuple of pairs of str
        Names of the networks, and what they are.
    files : mapping of str to bytes, optional
        The networks' files, for workers that do not see the folder.
    """

    config: str
    settings: str
    data_dir: str | None
    folder: str
    fingerprints: tuple[tuple[str, str], ...]
    files: Mapping[str, bytes] | None = None

    def key(self) -> str:
        """Tell jobs apart."""
        return hashlib.sha256(repr((self.config, self.settings, self.fingerprints)).encode()).hexdigest()


class Task(NamedTuple):
    """One shard.

    Attributes
    ----------
    defence : str
        Who is judged; empty if images are only attacked, for several defences.
    victim : Victim, optional
        Against whom images are made then.
    attack : str, optional
        The attack; None for images as they are.
    eps : float
        Size of the perturbation.
    first, last : int
        Which images of the order.
    """

    defence: str
    victim: Victim | None
    attack: str | None
    eps: float
    first: int
    last: int


# A task, and the images that it needs, if any.
Given = tuple[Task, Arrays | None]


class NetworkMissingError(LookupError):
    """A worker does not see the networks' folder; it has to be sent them."""


class _Work(Outcomes):
    """What a worker keeps between tasks."""

    found: Arrays | None = None

    def images_against(self, victim: Victim, attack: Any, eps: float, first: int, last: int) -> Arrays:
        """Images that the task brought, or images made here."""
        if self.found is not None:
            return dict(self.found)
        return super().images_against(victim, attack, eps, first, last)


_kept: dict[str, _Work] = {}


def compute(job: Job, task: Task, found: Arrays | None = None) -> Arrays:
    """Compute a shard; this runs in a worker.

    Parameters
    ----------
    job : Job
        What it is of.
    task : Task
        Which shard.
    found : dict of str to ndarray, optional
        Attacked images, where they were made before.

    Returns
    -------
    dict of str to ndarray
        As of `Outcomes.outcome`, or of `Outcomes.images_against` for a task without a defence.

    Raises
    ------
    NetworkMissingError
        If the networks are to be sent along.
    """
    key = job.key()
    with threadpool_limits(limits=1, user_api="blas"):
        if key not in _kept:
            work = _begin(job)
            _kept.clear()
            _kept[key] = work
        work = _kept[key]
        attack = next((one for one in work.experiment.attacks if one.name == task.attack), None)
        if task.victim is not None:
            assert attack is not None
            work.found = None
            return work.images_against(Victim(*task.victim), attack, task.eps, task.first, task.last)
        work.found = found
        return work.outcome(work.defence(task.defence), task.defence, attack, task.eps, task.first, task.last)


def _begin(job: Job) -> _Work:
    from malade_ref import ops  # the backend of several processes is the reference

    config = json.loads(job.config)
    experiment = experiment_of(config, "the run's configuration")
    settings = experiment.data
    data = load_dataset(settings.name, data_dir=job.data_dir, seed=settings.seed, sizes=settings.sizes())
    if data.test.sha256() != config["data"]["sha256"]["test"]:
        raise InputError(
            f"{settings.name}: worker {os.uname().nodename} has other test images than the run; give it the same data"
        )
    networks = {name: _network(job, name, fingerprint) for name, fingerprint in job.fingerprints}
    return _Work(experiment, data, ops, networks, json.loads(job.settings))


def _network(job: Job, name: str, fingerprint: str) -> Network:
    path = Path(job.folder) / f"{name}.h5"
    if path.is_file():
        network = load(path)
        if network.fingerprint() == fingerprint:
            return network
    if job.files is None:
        raise NetworkMissingError(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.h5"
        path.write_bytes(job.files[name])
        return load(path)


# Executors ---------------------------------------------------------------------------------------------------------


@contextmanager
def processes(count: int) -> Iterator[Executor]:
    """Processes of this machine.

    Parameters
    ----------
    count : int
        How many.

    Yields
    ------
    Executor
        It ends with the block, at once, whatever its processes do then.
    """
    pool = ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=_begin_process, initargs=(os.getpid(),)
    )
    try:
        yield pool
    finally:
        running = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.kill()


def _begin_process(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the run's business
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the one that began it is gone, whatever ended that."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


@contextmanager
def dask_cluster(address: str, count: int) -> Iterator[Executor]:
    """Workers of a Dask cluster.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT`` of its scheduler, or ``local``: one is begun here, with processes of one thread.
    count : int
        Processes of a local one.

    Yields
    ------
    Executor
        A task whose worker dies goes to another.

    Raises
    ------
    InputError
        If Dask is not installed, or nobody answers there.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(f"--scheduler: needs Dask ({error}); pip install 'malade[distributed]'") from None
    local = None
    try:
        if address == "local":
            local = LocalCluster(n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None)
        client = Client(local or address, timeout=20)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"--scheduler {address}: nobody answers ({error}); begin one with: dask scheduler") from None
    try:
        with client.get_executor(retries=MOST_BREAKS, pure=False) as executor:
            yield executor
    finally:
        client.close()
        if local is not None:
            local.close()


@contextmanager
def mpi_ranks() -> Iterator[Executor | None]:
    """Ranks of ``mpiexec``, the first of which runs the experiment.

    Yields
    ------
    Executor or None
        None on the other ranks, which have worked until the first was done.

    Raises
    ------
    InputError
        If mpi4py is not installed, or there is one rank only.
    """
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except ImportError as error:
        raise InputError(f"--executor mpi: needs mpi4py ({error}); pip install 'malade[distributed]'") from None
    if MPI.COMM_WORLD.Get_size() < 2:
        raise InputError("--executor mpi: there is one rank only; begin with: mpiexec -n 4 malade run ...")
    with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
        yield executor


# The run's side ----------------------------------------------------------------------------------------------------


class Spread:
    """Tasks under way.

    Parameters
    ----------
    open_executor : callable
        Gives a context manager with an executor, each time anew.
    job : Job
        What they are of.
    """

    def __init__(self, open_executor: Callable[[], Any], job: Job) -> None:
        self._open, self._job = open_executor, job

    def work(self, tasks: Iterable[Given], done: Callable[[Task, Arrays], Iterable[Given] | None]) -> None:
        """Have tasks computed.

        Parameters
        ----------
        tasks : iterable of pairs
            Tasks, each with the images that it needs, if any.
        done : callable
            Given every task with its result, in the order in which they come; it gives back more tasks, or None.

        Raises
        ------
        InputError
            If the workers end without results.
        """
        queue, breaks = deque(tasks), 0
        while queue:
            under_way: dict[Future[Arrays], Given] = {}
            with self._open() as executor:
                try:
                    while queue or under_way:
                        while queue:
                            under_way[executor.submit(compute, self._job, *queue[0])] = queue[0]
                            queue.popleft()
                        for future in wait(under_way, timeout=LOOK, return_when=FIRST).done:
                            try:
                                result = future.result()
                            except NetworkMissingError:
                                self._send_files()
                                queue.append(under_way.pop(future))
                                continue
                            task, _ = under_way.pop(future)
                            breaks = 0
                            queue.extend(done(task, result) or ())
                except BrokenExecutor as error:
                    breaks += 1
                    if breaks >= MOST_BREAKS:
                        raise InputError(
                            f"worker processes end without a result, the last time with: {error}; what was done is "
                            "kept; fewer --jobs take less memory"
                        ) from None
            queue.extendleft(under_way.values())

    def _send_files(self) -> None:
        if self._job.files is None:
            folder = Path(self._job.folder)
            files = {name: (folder / f"{name}.h5").read_bytes() for name, _ in self._job.fingerprints}
            self._job = self._job._replace(files=files)
