"""Work on a batch in slices that fit into the device's memory.

A device works on all images of a slice at once, so slices are as large as its memory allows, and one follows the other.
No op mixes samples, and no op's sums depend on how many samples there are: results do not depend on the cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeVar

from malade_ref.checks import InputError

from ..device import device

T = TypeVar("T")

SLICE_SIZE = 32
# What `slice_size` samples are taken to need: their largest activation has up to 6 MB, and some ten arrays of that size
# are alive at a time. Where this is too little, slices are halved.
SLICE_BYTES = 64 << 20


def map_slices(function: Callable[[slice], T], num_samples: int, *, slice_size: int = SLICE_SIZE) -> list[T]:
    """Call a function on every slice of a batch, one after the other.

    Parameters
    ----------
    function : callable
        Takes a slice of 0..num_samples; must not change anything that another slice reads, and can be called again.
    num_samples : int
        Size of the batch; with 0 the function is called once, on the empty slice.
    slice_size : int
        How heavy a sample is: as many of them keep a processor's core busy within its cache. A device takes a multiple.

    Returns
    -------
    list
        The results in the order of the slices.

    Raises
    ------
    InputError
        If the device's memory does not hold a single sample.
    """
    at_once = slice_size * max(1, device().memory // SLICE_BYTES)
    while True:
        num_slices = max(1, -(-num_samples // at_once))
        bounds = [num_samples * i // num_slices for i in range(num_slices + 1)]
        try:
            return [function(slice(first, last)) for first, last in itertools.pairwise(bounds)]
        except device().out_of_memory as error:
            if at_once == 1 or num_samples <= 1:
                raise InputError(f"{device().name}: out of memory with a single sample: {error}") from None
            at_once = max(1, min(at_once, num_samples) // 2)


def num_threads() -> int:
    """Threads that `map_slices` uses: one, which is enough to keep a device busy.

    Returns
    -------
    int
        1.
    """
    return 1
