"""What a data set is: three splits that are read in slices.

Pixels rest as uint8, wherever they come from (a source: arrays, a file, a program), and become float32 in
[0, 1] when a slice is asked for. So memory holds what is in use, not the whole set, and a split can be
pickled to a worker process for the price of a path.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError, check_count, check_integer, check_ndim
from malade_ref.datasets.synthetic import synthetic_digits, synthetic_labels
from malade_ref.datasets.validation import check_labels
from malade_ref.showing import dataset_line, shortly
from malade_ref.storage import RecordReader, open_record

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

SPLITS = ("train", "validation", "test")
RECORD = "dataset"  # the kind of record that keeps a data set: arrays "<split>/images" and "<split>/labels"
MEND = "move it away and import the data again"

_BLOCK = 500  # synthetic images drawn at once
_HASH_BLOCK = 5000  # images hashed at once
_GAP = 64  # rows that are cheaper to read than to skip


class Source(Protocol):
    """Where pixels and labels come from, by their numbers; rows are ``slice`` with step 1 or increasing."""

    def pixels(self, rows: slice | Labels) -> Pixels:
        """Images of given numbers, of shape (m, c, h, w), uint8.

        Parameters
        ----------
        rows : slice with step 1, or ndarray of shape (m,), int64, strictly increasing
            Their numbers, within range.
        """

    def labels(self, rows: slice | Labels) -> Labels:
        """Labels of given numbers, of shape (m,), int64.

        Parameters
        ----------
        rows : slice with step 1, or ndarray of shape (m,), int64, strictly increasing
            Their numbers, within range.
        """


@shortly
@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images that are in memory.

    Attributes
    ----------
    images : ndarray of shape (n, c, h, w), uint8
        Pixels.
    classes : ndarray of shape (n,), int64
        Labels.
    """

    images: Pixels
    classes: Labels

    def pixels(self, rows: slice | Labels) -> Pixels:
        """Images of given numbers.

        The parameters are those of `Source.pixels`.

        Returns
        -------
        ndarray of shape (m, c, h, w), uint8
            The images; a slice's are a view.
        """
        return self.images[rows]

    def labels(self, rows: slice | Labels) -> Labels:
        """Labels of given numbers.

        The parameters are those of `Source.labels`.

        Returns
        -------
        ndarray of shape (m,), int64
            The labels; a slice's are a view.
        """
        return self.classes[rows]


@dataclass(frozen=True)
class RecordSource:
    """Images in a record on the disk, opened for each reading: nothing is held in between.

    Attributes
    ----------
    path : str
        The record.
    split : str
        Which of its splits.
    sha256 : str
        Of the record's content when the data set was loaded, as it says itself.
    """

    path: str
    split: str
    sha256: str

    def pixels(self, rows: slice | Labels) -> Pixels:
        """Images of given numbers, as `Source.pixels`, of shape (m, c, h, w), uint8."""
        return self._read("images", rows)

    def labels(self, rows: slice | Labels) -> Labels:
        """Labels of given numbers, as `Source.labels`, of shape (m,), int64."""
        return self._read("labels", rows)

    def _read(self, what: str, rows: slice | Labels) -> NDArray[Any]:
        name = f"{self.split}/{what}"
        with open_record(self.path, kind=RECORD, mend=MEND) as record:
            if record.sha256 != self.sha256:
                raise InputError(f"{self.path}: was replaced while in use; load the data set again")
            if isinstance(rows, slice):
                return record.read(name, rows.start, rows.stop)
            return _read_rows(record, name, rows)


def _read_rows(record: RecordReader, name: str, rows: Labels) -> NDArray[Any]:
    """Increasing rows of an array: neighbours are read together, with the few rows between them."""
    if not len(rows):
        return record.read(name, 0, 0)
    ends = np.flatnonzero(np.diff(rows) > _GAP) + 1
    parts = []
    for run in np.split(rows, ends):
        parts.append(record.read(name, int(run[0]), int(run[-1]) + 1)[run - run[0]])
    return np.concatenate(parts)


@dataclass(frozen=True)
class SyntheticSource:
    """Synthetic digits, drawn when they are asked for.

    Attributes
    ----------
    seed : int
        In [0, 2^64).
    split : {"train", "validation", "test"}
        Which images.
    """

    seed: int
    split: str

    def pixels(self, rows: slice | Labels) -> Pixels:
        """Images of given numbers, as `Source.pixels`, of shape (m, 1, 28, 28), uint8."""
        numbers = _numbers(rows)
        out = np.empty((len(numbers), 1, 28, 28), dtype=np.uint8)
        block = numbers // _BLOCK
        for number in np.unique(block):
            part = block == number
            out[part] = _synthetic_block(self.seed, self.split, int(number))[numbers[part] % _BLOCK]
        return out

    def labels(self, rows: slice | Labels) -> Labels:
        """Labels of given numbers, as `Source.labels`, of shape (m,), int64."""
        return synthetic_labels(_numbers(rows), seed=self.seed, split=self.split)


# Room for the 70,000 images of a whole set: 55 MB, and no more however many are drawn.
@functools.lru_cache(maxsize=140)
def _synthetic_block(seed: int, split: str, number: int) -> Pixels:
    return synthetic_digits(_BLOCK, seed=seed, split=split, start=number * _BLOCK)[0]


def _numbers(rows: slice | Labels) -> Labels:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows


@shortly
@dataclass(frozen=True)
class Split:
    """Consecutive images of a source, read in slices.

    Attributes
    ----------
    source : Source
        Where they come from.
    first, last : int
        Numbers in the source of the first image, and of the one after the last.

    Examples
    --------
    >>> split = Split(SyntheticSource(seed=0, split="test"), 0, 100)
    >>> x, y = split.images(slice(10, 30)), split.labels(slice(10, 30))
    >>> len(split), x.shape, str(x.dtype), y.shape
    (100, (20, 1, 28, 28), 'float32', (20,))
    """

    source: Source
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def images(self, index: slice | Any = slice(None)) -> NDArray[np.float32]:
        """Images as the networks take them.

        Parameters
        ----------
        index : slice, or sequence of m integers in [0, n)
            Which images, in any order, also repeatedly; by default all.

        Returns
        -------
        ndarray of shape (m, c, h, w), float32
            Pixels in [0, 1], the caller's own.
        """
        pixels = self.pixels(index).astype(np.float32)
        pixels /= np.float32(255)
        return pixels

    def pixels(self, index: slice | Any = slice(None)) -> Pixels:
        """Images as they are kept.

        The parameters are those of `images`.

        Returns
        -------
        ndarray of shape (m, c, h, w), uint8
            Pixels in 0..255; possibly a view, not to be modified.
        """
        rows, order = self._rows(index)
        pixels = self.source.pixels(rows)
        return pixels if order is None else pixels[order]

    def labels(self, index: slice | Any = slice(None)) -> Labels:
        """Labels.

        The parameters are those of `images`.

        Returns
        -------
        ndarray of shape (m,), int64
            Labels, the caller's own.
        """
        rows, order = self._rows(index)
        labels = self.source.labels(rows)
        return labels.copy() if order is None else labels[order]

    def sha256(self) -> str:
        """Fingerprint of the content, for records of what was used.

        Returns
        -------
        str
            SHA-256 in hexadecimal of the pixels, then the labels as little-endian int64.
        """
        digest = hashlib.sha256()
        for start in range(0, len(self), _HASH_BLOCK):
            digest.update(np.ascontiguousarray(self.pixels(slice(start, start + _HASH_BLOCK))).data)
        digest.update(self.labels().astype("<i8").data)
        return digest.hexdigest()

    def _rows(self, index: slice | Any) -> tuple[slice | Labels, Any]:
        """Rows of the source in increasing order, and how to arrange them as asked (None: they are)."""
        n = len(self)
        if isinstance(index, slice):
            start, stop, step = index.indices(n)
            if step == 1:
                return slice(self.first + start, self.first + max(start, stop)), None
            index = np.arange(start, stop, step)
        numbers = np.asarray(index)
        if numbers.shape == (0,):
            numbers = numbers.astype(np.int64)
        check_ndim("index", numbers, 1, "(m,)")
        check_integer("index", numbers)
        numbers = numbers.astype(np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < n):
            raise InputError(f"index: expected numbers of images in 0..{n - 1}, got {_outside(numbers, n)}")
        rows, order = np.unique(numbers, return_inverse=True)
        return self.first + rows, order


def _outside(numbers: Labels, n: int) -> int:
    return int(numbers[(numbers < 0) | (numbers >= n)][0])


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes
    ----------
    name : str
        Its name, such as ``"mnist"``.
    train, validation, test : Split
        Its images.
    num_classes : int
        Labels are in 0..num_classes-1.
    shape : tuple of three int
        (c, h, w) of an image.
    class_names : tuple of str
        What the labels stand for.
    note : str
        What a report on this data must say.
    location : str
        Where it was found.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    note: str
    location: str = ""

    def __repr__(self) -> str:
        """Return the name and the sizes on one line."""
        return dataset_line(self)

    def cut(self, sizes: Mapping[str, int] | None) -> Dataset:
        """The same data set with the first images of some splits only.

        Parameters
        ----------
        sizes : mapping of str to int, or None
            Number of images by name of the split.

        Raises
        ------
        InputError
            If a name is not a split's, or a split has fewer images.
        """
        splits = {name: getattr(self, name) for name in SPLITS}
        for name, size in check_sizes(sizes).items():
            split = splits[name]
            if size > len(split):
                raise InputError(f"sizes: {name} of {self.name} has {len(split)} images, not {size}; ask for fewer")
            splits[name] = Split(split.source, split.first, split.first + size)
        return Dataset(
            self.name,
            **splits,
            num_classes=self.num_classes,
            shape=self.shape,
            class_names=self.class_names,
            note=self.note,
            location=self.location,
        )


def check_sizes(sizes: Mapping[str, int] | None) -> dict[str, int]:
    """Let only sizes of splits pass.

    Parameters
    ----------
    sizes : mapping of str to int, or None
        Number of images by name of the split.
    """
    sizes = dict(sizes or {})
    unknown = sorted(set(sizes) - set(SPLITS))
    if unknown:
        raise InputError(f"sizes: expected some of {', '.join(SPLITS)}; got {unknown[0]!r}")
    return {name: check_count(f"sizes: {name}", size, minimum=0) for name, size in sizes.items()}


def open_dataset(path: str | Path) -> Dataset:
    """The data set in a record.

    Parameters
    ----------
    path : path
        A record as `malade data import` writes it, possibly damaged or hostile. Its SHA-256 is not checked
        here, since that means to read all of it; see `malade_ref.storage.RecordReader.verify`.
    """
    with open_record(path, kind=RECORD, mend=MEND) as record:
        sha256 = record.sha256
        name, note = record.meta.get("name"), record.meta.get("note")
        words = record.meta.get("class_names")
        class_names = words if isinstance(words, list) and words else [None]
        if not all(isinstance(text, str) and text.isprintable() for text in (name, note, *class_names)):
            raise InputError(f"{path}: has no name, note and class names; {MEND}")
        splits: dict[str, Split] = {}
        shapes = set()
        for split in SPLITS:
            images, labels = f"{split}/images", f"{split}/labels"
            if {images, labels} - set(record.names):
                raise InputError(f"{path}: has no split {split}; {MEND}")
            shape = record.shape(images)
            types = str(record.dtype(images)), str(record.dtype(labels))
            if len(shape) != 4 or types != ("uint8", "int64") or record.shape(labels) != shape[:1]:
                raise InputError(f"{path}: {split}: images and labels are not as malade writes them; {MEND}")
            check_labels(record.read(labels), len(class_names), name=f"{path}: {labels}")
            shapes.add((shape[1], shape[2], shape[3]))
            splits[split] = Split(RecordSource(str(path), split, sha256), 0, shape[0])
        if len(shapes) != 1:
            raise InputError(f"{path}: its splits have images of different shapes; {MEND}")
    return Dataset(
        str(name),
        **splits,
        num_classes=len(class_names),
        shape=shapes.pop(),
        class_names=tuple(map(str, class_names)),
        note=str(note),
        location=str(path),
    )
