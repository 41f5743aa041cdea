"""Per-sample outcomes, cut into shards: each a file, merged in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError
from malade_ref.storage import Record, load_record, make_folder, save_record, write_record

Arrays = Mapping[str, NDArray[Any]]

AGAIN = "delete it and pass --resume to compute it again"


def load_of_run(path: Path, kind: str, header: Mapping[str, Any]) -> Record:
    """Read a record and check that it is what this run wrote.

    Parameters
    ----------
    path : path
        The file.
    kind : str
        Its kind.
    header : mapping
        What its JSON must say, among others.

    Returns
    -------
    Record
        Arrays, and the ``meta`` within its JSON.

    Raises
    ------
    InputError
        If it is damaged, or of another run or step.
    """
    arrays, meta = load_record(path, kind=kind, mend=AGAIN)
    for key, value in header.items():
        if meta.get(key) != value:
            raise InputError(f"{path}: is of another run or step (its {key} differs); {AGAIN}")
    return Record(arrays, meta["meta"])


@dataclass
class Group:
    """The shards of one ``<defence>/<attack>``.

    Attributes
    ----------
    name : str
        What the outcomes are of.
    folder : Path
        Where the shards are.
    num_samples, shard_size : int
        The shards are the samples [0, shard_size), [shard_size, 2 shard_size), ... below num_samples.
    config_sha256 : str
        The run's configuration.
    meta : dict
        What the user says of the outcomes.
    specs : dict
        Shape of one sample and dtype, by array; known from the first shard on.
    """

    name: str
    folder: Path
    num_samples: int
    shard_size: int
    config_sha256: str
    meta: Mapping[str, Any]
    specs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = field(default_factory=dict, compare=False)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """First and last sample (exclusive) of every shard, in order.

        Yields
        ------
        tuple of int
            ``(first, last)``.
        """
        for first in range(0, self.num_samples, self.shard_size):
            yield first, min(first + self.shard_size, self.num_samples)

    def file(self, first: int, last: int) -> Path:
        """Where a shard is.

        Parameters
        ----------
        first, last : int
            Its samples.
        """
        return self.folder / f"{first:09d}-{last:09d}.h5"

    def save(self, first: int, last: int, arrays: Arrays) -> None:
        """Write a shard.

        Parameters
        ----------
        first, last : int
            Its samples.
        arrays : mapping of str to ndarray
            Their outcomes.
        """
        for name, array in arrays.items():
            if np.shape(array)[:1] != (last - first,):
                raise InputError(
                    f"outcomes {self.name}: {name}: expected one row for each of samples {first} to {last}, "
                    f"got shape {np.shape(array)}"
                )
        make_folder(self.folder)
        save_record(self.file(first, last), arrays, self._header(first, last), kind="shard")

    def load(self, first: int, last: int) -> Arrays:
        """Read a shard.

        Parameters
        ----------
        first, last : int
            Its samples.

        Raises
        ------
        InputError
            If it is damaged, of another run, or holds other arrays than the one that was read first.
        """
        path = self.file(first, last)
        arrays = load_of_run(path, "shard", self._header(first, last)).arrays
        specs = {name: (array.shape[1:], array.dtype) for name, array in arrays.items()}
        self.specs = self.specs or specs
        if specs != self.specs or any(array.shape[0] != last - first for array in arrays.values()):
            raise InputError(f"{path}: holds other arrays than the shards before it; {AGAIN}")
        return arrays

    def _header(self, first: int, last: int) -> dict[str, Any]:
        return {
            "outcomes": self.name,
            "first": first,
            "last": last,
            "config_sha256": self.config_sha256,
            "meta": self.meta,
        }


def merge(path: Path, groups: Mapping[str, Group]) -> None:
    """Merge shards into one record, ``outcomes/<defence>/<attack>/<array>``; memory holds one shard.

    Parameters
    ----------
    path : path
        The file.
    groups : mapping of str to Group
        The shards, all complete and read once; the same content gives the same bytes, however it was cut.
    """
    ordered = [groups[name] for name in sorted(groups)]
    meta = {
        "config_sha256": ordered[0].config_sha256,
        "outcomes": {group.name: group.meta for group in ordered},
    }
    specs = {
        f"outcomes/{group.name}/{name}": ((group.num_samples, *shape), dtype)
        for group in ordered
        for name, (shape, dtype) in group.specs.items()
    }
    with write_record(path, meta, kind="outcomes") as writer:
        for name in sorted(specs):
            writer.create(name, *specs[name])
        for group in ordered:
            for first, last in group.ranges():
                arrays = group.load(first, last)
                for name in sorted(arrays):
                    writer.append(f"outcomes/{group.name}/{name}", arrays[name])
