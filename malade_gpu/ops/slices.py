"""Work on a batch in slices that fit into the device's memory.

A device works on all images of a slice at once, so slices are as large as its memory allows, and one follows the other.
What is computed of a sample does not depend on the cut. Sums over samples do, in their last bits: where they are wanted
(the gradients of parameters), slices have a size that no memory changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from malade_ref.checks import OutOfMemoryError

from ..device import device

T = TypeVar("T")

SLICE_SIZE = 32
# What `slice_size` samples are taken to need: their largest activation has up to 6 MB, and some ten arrays of that size
# are alive at a time. Where this is too little, slices are halved.
SLICE_BYTES = 64 << 20
# So many samples keep any device busy: several draws of as many gain nothing by being computed at once.
ENOUGH = 8192
# Slices of `slice_size` that are worked on at once where sums are wanted: they are taken to fit into 1 GiB.
SUMMED = 16


def map_slices(
    function: Callable[[slice], T], num_samples: int, *, slice_size: int = SLICE_SIZE, summed: bool = False
) -> list[T]:
    """As `malade_ref.ops.map_slices`, one slice after the other, as large as the device's memory allows.

    Parameters
    ----------
    slice_size : int
        How heavy a sample is: as many of them keep a processor's core busy within its cache. A device takes a multiple.
    summed : bool
        Whether the results are sums over samples, whose bits are to be the same on any device.

    Raises
    ------
    OutOfMemoryError
        If the device's memory does not hold a single sample, or not a slice that may not be made smaller.
    """
    at_once = slice_size * (SUMMED if summed else max(1, device().memory // SLICE_BYTES))
    while True:
        num_slices = max(1, -(-num_samples // at_once))
        bounds = [num_samples * i // num_slices for i in range(num_slices + 1)]
        room = _Room(at_once)
        try:
            with _within(room):
                return [function(slice(first, last)) for first, last in itertools.pairwise(bounds)]
        except device().out_of_memory as error:
            tried = min(at_once, num_samples * room.copies)
            if tried <= 1:
                raise OutOfMemoryError(f"{device().name}: out of memory with a single sample: {error}") from None
            if summed:
                count = min(at_once, num_samples)
                raise OutOfMemoryError(
                    f"{device().name}: out of memory with {count} samples in one sum: {error}; use smaller batches"
                ) from None
            at_once = tried // 2


def copies_at_once(num_samples: int) -> int:
    """As `malade_ref.ops.copies_at_once`: as many as keep the device busy, and 1 outside of `map_slices`."""
    room = _room.get()
    copies = max(1, min(ENOUGH, room.size) // max(1, num_samples))
    room.copies = max(room.copies, copies)
    return copies


@dataclass
class _Room:
    """For so many samples at once, and how many copies of a slice were made to fill it."""

    size: int
    copies: int = 1


@contextmanager
def _within(room: _Room) -> Iterator[None]:
    """A block that has this room."""
    before = _room.set(room)
    try:
        yield
    finally:
        _room.reset(before)


_room: ContextVar[_Room] = ContextVar("room", default=_Room(1))  # noqa: B039  # one copy fills it: it never changes


def num_threads() -> int:
    """As `malade_ref.ops.num_threads`: always one, which is enough to keep a device busy."""
    return 1
