"""Data sets in the arrays ``images``, ``labels`` and perhaps ``split`` of an .npz or an HDF5 file.

Files may be hostile: nothing is unpickled, no claimed size is believed before the file turns out to be large
enough for it, and images are read as a stream. Pixels are stored as they are or refused, never rounded.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError
from malade_ref.datasets.idx import MAX_SIDE
from malade_ref.datasets.incoming import (
    BLOCK_BYTES,
    DEFLATE_RATIO,
    MAX_BYTES,
    MAX_CLASSES,
    Incoming,
    check_member,
    complete_splits,
    damage,
    open_zip,
)
from malade_ref.datasets.splits import SPLITS, Labels
from malade_ref.storage.files import open_regular

_NAMES = ("images", "labels", "split")
_MAX_CHUNK = 1 << 26
_MAX_WORD = 256


def incoming_npz(path: Path, stack: ExitStack) -> Incoming:
    """Data in an .npz.

    Parameters
    ----------
    path : Path
        The file.
    stack : ExitStack
        Closes it when the blocks are used up.

    Returns
    -------
    Incoming
        The data; a missing validation or test split is chosen at random.
    """
    with damage(path):
        archive = open_zip(path, stack)
        members = {info.filename: info for info in archive.infolist()}
        names = [name for name in _NAMES if f"{name}.npy" in members]
        arrays = {name: _npy_rows(path, name, archive, members[f"{name}.npy"], stack) for name in names}
    return _incoming_arrays(path, arrays)


def incoming_h5(path: Path, stack: ExitStack) -> Incoming:
    """Data in the arrays of an HDF5 file.

    Parameters
    ----------
    path : Path
        The file.
    stack : ExitStack
        Closes it when the blocks are used up.

    Returns
    -------
    Incoming
        The data; a missing validation or test split is chosen at random.
    """
    with damage(path):
        raw = stack.enter_context(open_regular(path))
        file = stack.enter_context(h5py.File(raw, "r"))
        names = [name for name in _NAMES if name in file]
        arrays = {name: _h5_rows(path, name, file) for name in names}
    return _incoming_arrays(path, arrays)


class _Rows(NamedTuple):
    """An array that is read from its start, some rows at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int], NDArray[Any]]


def _incoming_arrays(path: Path, arrays: Mapping[str, _Rows]) -> Incoming:
    """Data in the arrays ``images``, ``labels`` and perhaps ``split``."""
    for name in ("images", "labels"):
        if name not in arrays:
            raise InputError(f"{path}: has no array {name!r}; save images, labels and perhaps split")
    images, labels = arrays["images"], arrays["labels"]
    shape = _image_shape(path, images)
    n = images.shape[0]
    for name, rows in arrays.items():
        if name != "images" and rows.shape != (n,):
            raise InputError(f"{path}: {name}: expected shape ({n},), one for each image, got {rows.shape}")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: labels: expected integers, got {labels.dtype}; convert them with .astype")
    values = labels.read(n)
    if values.min() < 0 or values.max() >= MAX_CLASSES:
        raise InputError(
            f"{path}: labels: expected 0..{MAX_CLASSES - 1}, got {values.min()}..{values.max()}; number the classes"
        )
    splits = np.zeros(n, dtype=np.int64)
    if "split" in arrays:
        splits = _split_numbers(path, arrays["split"].read(n))
    note = "" if "split" in arrays else "Validation and test images were chosen at random when it was imported."
    names = tuple(str(label) for label in range(int(values.max()) + 1))
    rows_at_once = max(1, BLOCK_BYTES // math.prod(shape))
    blocks = (images.read(min(rows_at_once, n - first)).reshape(-1, *shape) for first in range(0, n, rows_at_once))
    return Incoming(shape, values.astype(np.int64), complete_splits(splits, shuffle=True), names, blocks, note)


def _image_shape(path: Path, images: _Rows) -> tuple[int, int, int]:
    """The (c, h, w) of an array of images (n, h, w) or (n, c, h, w)."""
    if images.dtype != np.uint8:
        raise InputError(
            f"{path}: images: expected uint8 pixels in 0..255, got {images.dtype}; scale and round them yourself"
        )
    shape = images.shape
    if len(shape) == 3:
        shape = (shape[0], 1, *shape[1:])
    if len(shape) != 4 or shape[1] not in (1, 3):
        hint = "; transpose them by (0, 3, 1, 2)" if len(shape) == 4 and shape[3] in (1, 3) else ""
        raise InputError(
            f"{path}: images: expected shape (n, h, w) or (n, c, h, w) with 1 or 3 channels, got {images.shape}{hint}"
        )
    if shape[0] == 0 or not all(0 < side <= MAX_SIDE for side in shape[2:]):
        raise InputError(
            f"{path}: images: expected at least one, of 1 to {MAX_SIDE} pixels a side, got shape {images.shape}"
        )
    return shape[1], shape[2], shape[3]


def _split_numbers(path: Path, names: NDArray[Any]) -> Labels:
    """0, 1, 2 for the names of splits."""
    if names.dtype.kind == "S":
        names = np.char.decode(names, "ascii", "replace")
    numbers = np.full(len(names), -1, dtype=np.int64)
    for number, split in enumerate(SPLITS):
        numbers[names == split] = number
    if (numbers < 0).any():
        wrong = str(names[numbers < 0][0])
        raise InputError(f"{path}: split: expected the words {', '.join(SPLITS)}; got {wrong!r}")
    return numbers


def _npy_rows(path: Path, name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, stack: ExitStack) -> _Rows:
    """One member of an .npz, after checking that its header claims what the archive holds."""
    check_member(path, info, MAX_BYTES)
    stream = stack.enter_context(archive.open(info))
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{info.filename} has version {version} of the format")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject or dtype.kind not in "biufSU" or dtype.itemsize > _MAX_WORD:
        raise InputError(f"{path}: {name}: holds {dtype}, expected numbers or short words; save it as such")
    if fortran and len(shape) > 1:
        raise InputError(f"{path}: {name}: is in Fortran order; save numpy.ascontiguousarray of it")
    if stream.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
        raise InputError(f"{path}: {name}: claims shape {shape}, which does not fit its size; save it again")

    def read(count: int) -> NDArray[Any]:
        part = (count, *shape[1:])
        with damage(path):
            values = np.empty(part, dtype=dtype)
            view, done = memoryview(values.reshape(-1).view(np.uint8).data), 0
            while done < len(view):
                piece = stream.read(len(view) - done)
                if not piece:
                    raise EOFError(f"{info.filename} ends too early")
                view[done : done + len(piece)] = piece
                done += len(piece)
        return values

    return _Rows(shape, dtype, read)


def _h5_rows(path: Path, name: str, file: h5py.File) -> _Rows:
    """One array of an HDF5 file, after checking that it lies in the file, and how large it can be."""
    # A soft or external link, or a virtual array, could lead to another file.
    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external or dataset.shape is None:
        raise InputError(f"{path}: {name}: is no plain array in this file; save it as one")
    # Words of variable length lie in a heap of the file, and HDF5 may loop forever in a damaged one.
    if dataset.dtype.kind not in "biufS" or dataset.dtype.itemsize > _MAX_WORD:
        what = "words of variable length" if h5py.check_string_dtype(dataset.dtype) else dataset.dtype
        raise InputError(f"{path}: {name}: holds {what}, expected numbers or short words; save it .astype('S10')")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    chunk = math.prod(dataset.chunks or (1,)) * dataset.dtype.itemsize
    if size > min(MAX_BYTES, dataset.id.get_storage_size() * DEFLATE_RATIO) or chunk > _MAX_CHUNK:
        raise InputError(f"{path}: {name}: claims {size} bytes, more than the file can hold; save it again")
    start = 0

    def read(count: int) -> NDArray[Any]:
        nonlocal start
        with damage(path):
            values = np.asarray(dataset[start : start + count])
            start += count
            return values

    return _Rows(tuple(dataset.shape), dataset.dtype, read)
