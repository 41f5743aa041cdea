"""Work on a batch in slices of images, on every core.

Samples are independent, so a batch is cut into slices small enough for a core's cache and each slice goes through a
whole network (or a whole chain) on one thread. The cut depends on the number of samples alone and every slice uses a
single-threaded BLAS, so results depend on neither the number of cores nor their timing. A batch in one slice, as of a
network with batch statistics, leaves the other cores to the ops within: these cut their own work into parts.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from ..checks import InputError, check_count

T = TypeVar("T")

SLICE_SIZE = 32


def map_slices(
    function: Callable[[slice], T], num_samples: int, *, slice_size: int = SLICE_SIZE, summed: bool = False
) -> list[T]:
    """Call a function on every slice of a batch, on a few threads.

    Parameters
    ----------
    function : callable
        Takes a slice of 0..num_samples; must not change anything that another slice reads, nor wait for another thread
        that calls this.
    num_samples : int
        Size of the batch; with 0 the function is called once, on the empty slice.
    slice_size : int
        Most samples in a slice. The slices are as equal as can be.
    summed : bool
        Whether the results are sums over samples, whose bits depend on the cut. It is the same for all results here;
        other backends cut what is not summed as their memory has it.

    Returns
    -------
    list
        The results in the order of the slices. Within a call from another slice's thread they are computed one by one,
        unless that slice is the only one.

    Raises
    ------
    InputError
        If the environment variable MALADE_NUM_THREADS is not a positive integer.
    """
    num_slices = max(1, -(-num_samples // slice_size))
    bounds = [num_samples * i // num_slices for i in range(num_slices + 1)]
    slices = [slice(first, last) for first, last in itertools.pairwise(bounds)]
    if getattr(_inside, "slice", False):
        return [function(part) for part in slices]
    if getattr(_inside, "alone", False):
        return list(each_part(function, slices))
    with _turns.setdefault(os.getpid(), threading.Lock()), _blas().limit(limits=1, user_api="blas"):
        if num_threads() == 1:
            return [_run(function, part) for part in slices]
        if num_slices == 1:
            return [_run_alone(function, slices[0])]
        return list(_pool(num_threads(), os.getpid()).map(lambda part: _run(function, part), slices))


def each_part(function: Callable[[slice], T], parts: Sequence[slice]) -> Iterator[T]:
    """Call a function on every part of an op's work: on every core where the op has them to itself.

    Parameters
    ----------
    function : callable
        As of `map_slices`.
    parts : sequence of slice
        The cut, which must not depend on the number of cores.

    Yields
    ------
    object
        The results in the order of the parts; no more of them are computed ahead than there are threads.
    """
    if len(parts) < 2 or not getattr(_inside, "alone", False):
        for part in parts:
            yield function(part)
        return
    size = num_threads()
    pool = _pool(size, os.getpid())
    for first in range(0, len(parts), size):
        yield from pool.map(lambda part: _run(function, part), parts[first : first + size])


def copies_at_once(num_samples: int) -> int:
    """How many copies of a slice's samples are worked on at once, where a function wants several draws of each.

    Parameters
    ----------
    num_samples : int
        Samples of the slice that is being worked on.

    Returns
    -------
    int
        1: a slice keeps a core busy by itself. Other backends may have room for more.
    """
    return 1


def num_threads() -> int:
    """Threads that `map_slices` uses: MALADE_NUM_THREADS, or the cores this process may run on.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    InputError
        If MALADE_NUM_THREADS is not a positive integer.
    """
    setting = os.environ.get("MALADE_NUM_THREADS", "")
    if not setting:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not setting.isdecimal():
        raise InputError(f"MALADE_NUM_THREADS: expected a positive integer, got {setting!r}")
    return check_count("MALADE_NUM_THREADS", int(setting))


_inside = threading.local()
# Callers from several threads take turns: the BLAS's setting is the process's, and they would share the cores anyway.
# One lock for each process: a fork can copy a held lock without the thread that would release it.
_turns: dict[int, threading.Lock] = {}


def _run(function: Callable[[slice], T], part: slice) -> T:
    _inside.slice = True
    try:
        return function(part)
    finally:
        _inside.slice = False


def _run_alone(function: Callable[[slice], T], part: slice) -> T:
    _inside.alone = True
    try:
        return function(part)
    finally:
        _inside.alone = False


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@lru_cache(maxsize=1)
def _pool(size: int, process: int) -> ThreadPoolExecutor:
    """One pool for each process: a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(size, thread_name_prefix=f"malade-{process}")
