"""Data on its way into a record, and what its readers share: limits, archives, complaints about damage."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from malade_ref.checks import InputError, printable
from malade_ref.datasets.splits import RECORD, SPLITS, Labels, Pixels
from malade_ref.ops.random import derive_key, permutation
from malade_ref.storage import write_record
from malade_ref.storage.files import cannot_read, one_line, open_regular
from malade_ref.storage.foreign import DEFLATE_RATIO

Progress = Callable[[float, str], None]  # the fraction done, in [0, 1], and a message

MAX_CLASSES = 65536
MAX_IMAGES = 1 << 22  # labels and splits are kept in memory
BLOCK_BYTES = 1 << 23  # of images in memory at once

_DAMAGE = (
    *(OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error),
    *(RuntimeError, NotImplementedError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError),
)


class Incoming(NamedTuple):
    """Data on its way into a record.

    Attributes
    ----------
    shape : tuple of three int
        (c, h, w) of an image.
    labels : ndarray of shape (n,), int64
        In 0..k-1.
    splits : ndarray of shape (n,), int64
        0 train, 1 validation, 2 test.
    class_names : tuple of k str
        What the labels stand for.
    blocks : iterator of ndarrays of shape (m, c, h, w), uint8
        The n images in order, some at a time.
    note : str
        What a report on this data must say.
    """

    shape: tuple[int, int, int]
    labels: Labels
    splits: Labels
    class_names: tuple[str, ...]
    blocks: Iterator[Pixels]
    note: str


def write_dataset(path: str | Path, name: str, incoming: Incoming, progress: Progress | None = None) -> None:
    """Write a data set's record, atomically; equal data give equal bytes.

    Parameters
    ----------
    path : path
        The record; its folder must exist.
    name : str
        Name of the data set.
    incoming : Incoming
        The data.
    progress : callable, optional
        Called now and then with the fraction done, in [0, 1], and a message.

    Raises
    ------
    InputError
        If the data turns out to be damaged or the record cannot be written; nothing is left behind.
    """
    meta = {"name": name, "class_names": list(incoming.class_names), "note": incoming.note}
    counts = np.bincount(incoming.splits, minlength=len(SPLITS))
    with write_record(path, meta, kind=RECORD) as record:
        for split, count in zip(SPLITS, counts.tolist(), strict=True):
            record.create(f"{split}/images", (count, *incoming.shape), np.uint8)
            record.create(f"{split}/labels", (count,), np.int64)
        for number, split in enumerate(SPLITS):
            record.append(f"{split}/labels", incoming.labels[incoming.splits == number])
        done = 0
        for block in incoming.blocks:
            where = incoming.splits[done : done + len(block)]
            for number in np.unique(where).tolist():
                record.append(f"{SPLITS[number]}/images", block[where == number])
            done += len(block)
            if progress is not None:
                progress(done / len(incoming.labels), f"{name}: {done} of {len(incoming.labels)} images")


def complete_splits(splits: Labels, *, shuffle: bool) -> Labels:
    """Give each split that is missing a sixth of the training images.

    Parameters
    ----------
    splits : ndarray of shape (n,), int64
        0 train, 1 validation, 2 test.
    shuffle : bool
        Whether to take random ones, by a fixed permutation, or the last.

    Returns
    -------
    ndarray of shape (n,), int64
        The same numbers, some of the zeros replaced.
    """
    splits = splits.copy()
    train = np.flatnonzero(splits == 0)
    size = len(train) // 6
    if shuffle:
        train = train[permutation(len(train), key=derive_key(0, "datasets/splits"))]
    for number in (1, 2):
        if not (splits == number).any():
            train, part = train[: len(train) - size], train[len(train) - size :]
            splits[part] = number
    return splits


def hold_out(labels: Labels, splits: Labels) -> Labels:
    """Take a tenth of the training images for validation: random ones, by a fixed permutation, as many of each class.

    The permutation is one of malade's own random numbers (key 0, ``datasets/validation``). Within each class it
    gives the images an order; of all images, those go whose place in their class is the foremost.

    Parameters
    ----------
    labels : ndarray of shape (n,), int64
        In 0..k-1.
    splits : ndarray of shape (n,), int64
        0 train, 1 validation, 2 test.

    Returns
    -------
    ndarray of shape (n,), int64
        The same numbers; of m zeros, m // 10 are replaced by ones.
    """
    train = np.flatnonzero(splits == 0)
    train = train[permutation(len(train), key=derive_key(0, "datasets/validation"))]
    by_class = np.argsort(labels[train], kind="stable")
    counts = np.bincount(labels[train])
    place = np.empty(len(train))
    place[by_class] = np.arange(len(train)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (place + 0.5) / counts[labels[train]]
    out = splits.copy()
    out[train[np.argsort(place, kind="stable")[: len(train) // 10]]] = 1
    return out


def open_zip(path: Path, stack: ExitStack) -> zipfile.ZipFile:
    """Open an archive.

    Parameters
    ----------
    path : Path
        The archive.
    stack : ExitStack
        Closes it.

    Returns
    -------
    zipfile.ZipFile
        The archive; its errors are for `damage`.
    """
    return stack.enter_context(zipfile.ZipFile(stack.enter_context(open_regular(path))))


def check_member(path: Path, info: zipfile.ZipInfo, max_bytes: int) -> None:
    """Raise unless a member of an archive can and may be as large as it claims.

    Parameters
    ----------
    path : Path
        The archive, for the complaint.
    info : zipfile.ZipInfo
        The member.
    max_bytes : int
        How large it may be.

    Raises
    ------
    InputError
        If it claims more, or is packed in another way than deflate.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise InputError(f"{path}: {printable(info.filename, 200)!r} is encrypted or compressed oddly; pack it again")
    if info.file_size > min(max_bytes, info.compress_size * DEFLATE_RATIO):
        limit = (
            f"at most {max_bytes} can be read" if info.file_size > max_bytes else "more than its packed bytes can hold"
        )
        raise InputError(
            f"{path}: {printable(info.filename, 80)!r} claims {info.file_size} bytes, {limit}; "
            "leave it out or pack it anew"
        )


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn what readers of archives and of HDF5 files make of damage into one line.

    Parameters
    ----------
    path : Path
        The file, for the complaint.

    Raises
    ------
    InputError
        In place of their exceptions.
    """
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno:  # the system's word, not that of a reader of archives
            raise cannot_read(path, error) from error
        raise InputError(
            f"{path}: damaged or not of its kind ({printable(one_line(error), 200)}); fetch or save it again"
        ) from error
