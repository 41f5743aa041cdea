"""Several draws of a defence's noise, worked on together where the device has room.

A *group* is d draws of a batch of n samples, as one batch of d n: the samples d times in a row, each time with the key
of another draw. On the reference a group is one draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from operator import add
from types import ModuleType
from typing import NamedTuple

from .arrays import Array
from .sampling import Key, Stream


class Group(NamedTuple):
    """Some draws of a batch, as one batch.

    Attributes
    ----------
    ops : module
        The backend.
    key : tuple of two int, or array of shape (d n, 2)
        Of the noise: one key, or one for each sample of each draw.
    num_draws : int
        d.
    """

    ops: ModuleType
    key: Key
    num_draws: int

    def copies(self, array: Array) -> Array:
        """An array of the batch, once for each draw; None stays None."""
        return array if array is None or self.num_draws == 1 else self.ops.concatenate([array] * self.num_draws)

    def split(self, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        """What belongs to each draw, of arrays of the whole group."""
        n = len(arrays[0]) // self.num_draws
        return (tuple(array[i * n : (i + 1) * n] for array in arrays) for i in range(self.num_draws))


def groups(ops: ModuleType, stream: Stream, draws: Sequence[int], num_samples: int) -> Iterator[Group]:
    """Cut draws of a batch into groups, as large as the device has room for.

    Parameters
    ----------
    ops : module
        The backend.
    stream : Stream
        Whose noise.
    draws : sequence of int
        Numbers of the repetitions.
    num_samples : int
        Size n of the batch.

    Yields
    ------
    Group
        The draws in order.
    """
    at_once = ops.copies_at_once(num_samples)
    for first in range(0, len(draws), at_once):
        keys = [ops.derive_key(stream.seed, stream.name, draw) for draw in draws[first : first + at_once]]
        yield Group(ops, keys[0] if len(keys) == 1 else ops.keys_of_samples(keys, num_samples), len(keys))


def sums(draws: Iterable[Array]) -> Iterator[Array]:
    """Add up draws, in order.

    Parameters
    ----------
    draws : iterable of arrays
        What each draw gave.

    Returns
    -------
    iterator of arrays
        The sum of the first, of the first two, and so on.
    """
    return accumulate(draws, add)


def mean(draws: Iterable[tuple[Array, ...]]) -> list[Array]:
    """Average what each draw gave, added up in order; nothing is kept but the sums.

    Parameters
    ----------
    draws : iterable of tuples of arrays
        As many arrays of each draw; at least one draw.

    Returns
    -------
    list of arrays
        Their means.
    """
    totals: Sequence[Array] = ()
    count = 0
    for arrays in draws:
        totals = [*map(add, totals, arrays)] if count else arrays
        count += 1
    return [total / count for total in totals]
