"""Data sets in the arrays ``images``, ``labels`` and perhaps ``split`` of an .npz or an HDF5 file.

Files may be hostile: nothing is unpickled, no claimed size is believed before the file turns out to be large
enough for it, HDF5 is read by another process, and images are read as a stream. Pixels are stored as they are or
refused, never rounded.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError, printable
from malade_ref.datasets.idx import MAX_SIDE
from malade_ref.datasets.incoming import (
    BLOCK_BYTES,
    MAX_CLASSES,
    MAX_IMAGES,
    Incoming,
    check_member,
    complete_splits,
    damage,
    open_zip,
)
from malade_ref.datasets.splits import SPLITS, Labels
from malade_ref.storage.files import one_line, open_regular
from malade_ref.storage.foreign import MAX_BYTES, ForeignFile

_NAMES = ("images", "labels", "split")
_MAX_WORD = 256
_WORDS_AT_ONCE = 1 << 16


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
    return _incoming_arrays(path, open_npz(path, _NAMES, stack))


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
    return _incoming_arrays(path, open_h5(path, _NAMES, stack))


class Rows(NamedTuple):
    """An array that is read from its start, some rows at a time.

    Attributes
    ----------
    shape : tuple of int
        Its shape; the file is large enough for it.
    dtype : dtype
        Booleans, integers, floats, or short words.
    read : callable
        Gives the next so many rows, an array without axes whole; InputError if the file turns out to be damaged.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int], NDArray[Any]]


def open_h5(path: Path, names: Sequence[str], stack: ExitStack) -> dict[str, Rows]:
    """Open arrays of an HDF5 file of unknown origin.

    Parameters
    ----------
    path : Path
        The file.
    names : sequence of str
        Arrays to look for at its top.
    stack : ExitStack
        Closes it.
    """
    file = stack.enter_context(ForeignFile(path, names))

    def rows(name: str) -> Rows:
        start = 0

        def read(count: int) -> NDArray[Any]:
            nonlocal start
            start += count
            return file.read(name, start - count, start)

        return Rows(*file.arrays[name], read)

    return {name: rows(name) for name in file.arrays}


def open_npz(
    path: Path, names: Sequence[str], stack: ExitStack, *, fortran: bool = False, max_word: int = _MAX_WORD
) -> dict[str, Rows]:
    """Open arrays of an .npz.

    Parameters
    ----------
    path : Path
        The file.
    names : sequence of str
        Arrays to look for.
    stack : ExitStack
        Closes it.
    fortran : bool
        Whether arrays in Fortran order are taken, too; such an array is read whole at once.
    max_word : int
        Most bytes of a word, in an array of words.
    """
    found = {}
    with damage(path):
        archive = open_zip(path, stack)
        members = {info.filename: info for info in archive.infolist()}
        for name in names:
            if f"{name}.npy" in members:
                found[name] = _open_member(path, name, archive, members[f"{name}.npy"], stack, fortran, max_word)
    return found


def open_npy(path: Path, stack: ExitStack, *, fortran: bool = False) -> Rows:
    """Open the array in an .npy.

    Parameters
    ----------
    path : Path
        The file.
    stack : ExitStack
        Closes it.
    fortran : bool
        As in `open_npz`.
    """
    stream = stack.enter_context(open_regular(path))
    return _npy_rows(path, "", stream, os.fstat(stream.fileno()).st_size, fortran)


def _incoming_arrays(path: Path, arrays: Mapping[str, Rows]) -> Incoming:
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
    if n > MAX_IMAGES:
        raise InputError(f"{path}: images: are {n}, at most {MAX_IMAGES} can be imported; import a part of them")
    values = labels.read(n)
    if values.min() < 0 or values.max() >= MAX_CLASSES:
        raise InputError(
            f"{path}: labels: expected 0..{MAX_CLASSES - 1}, got {values.min()}..{values.max()}; number the classes"
        )
    if values.min() > 0:
        raise InputError(
            f"{path}: labels: expected classes numbered from 0, got {values.min()}..{values.max()}, none of class 0; "
            f"subtract {values.min()}"
        )
    splits = np.zeros(n, dtype=np.int64)
    if "split" in arrays:
        if arrays["split"].dtype.kind not in "SU":
            raise InputError(f"{path}: split: expected the words {', '.join(SPLITS)}; got {arrays['split'].dtype}")
        counts = [min(_WORDS_AT_ONCE, n - first) for first in range(0, n, _WORDS_AT_ONCE)]
        splits = np.concatenate([_split_numbers(path, arrays["split"].read(count)) for count in counts])
    note = "" if "split" in arrays else "Validation and test images were chosen at random when it was imported."
    names = tuple(str(label) for label in range(int(values.max()) + 1))
    rows_at_once = max(1, BLOCK_BYTES // math.prod(shape))
    blocks = (images.read(min(rows_at_once, n - first)).reshape(-1, *shape) for first in range(0, n, rows_at_once))
    return Incoming(shape, values.astype(np.int64), complete_splits(splits, shuffle=True), names, blocks, note)


def _image_shape(path: Path, images: Rows) -> tuple[int, int, int]:
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
        wrong = printable(names[numbers < 0][0], 60)
        raise InputError(f"{path}: split: expected the words {', '.join(SPLITS)}; got {wrong!r}")
    return numbers


def _open_member(
    path: Path,
    name: str,
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    stack: ExitStack,
    fortran: bool,
    max_word: int,
) -> Rows:
    check_member(path, info, MAX_BYTES)
    stream = stack.enter_context(archive.open(info))
    return _npy_rows(path, f"{name}: ", stream, info.file_size, fortran, max_word)


def _npy_rows(path: Path, name: str, stream: Any, num_bytes: int, fortran: bool, max_word: int = _MAX_WORD) -> Rows:
    """An array in the .npy format, after checking that its header claims what the stream holds."""
    try:
        version = np.lib.format.read_magic(stream)
        if version == (3, 0):
            raise InputError(f"{path}: {name}holds an array of records, expected plain numbers; save it as such")
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"version {version[0]}.{version[1]} of the format")
        shape, in_columns, dtype = read_header[version](stream)
    except InputError:
        raise
    except Exception as error:  # a header is a text in Python's grammar: its readers may raise anything
        raise InputError(
            f"{path}: {name}damaged, no .npy header ({printable(one_line(error), 100)}); fetch or save it again"
        ) from error
    if dtype.hasobject or dtype.kind not in "biufSU" or dtype.itemsize > max_word or dtype.shape:
        raise InputError(
            f"{path}: {name}holds {printable(dtype, 60)}, expected numbers or short words; save it as such"
        )
    if in_columns and len(shape) > 1 and not fortran:
        raise InputError(f"{path}: {name}is in Fortran order; save numpy.ascontiguousarray of it")
    # Of two negative sides the product is a size that fits.
    if any(side < 0 for side in shape) or stream.tell() + math.prod(shape) * dtype.itemsize != num_bytes:
        raise InputError(
            f"{path}: {name}claims shape {printable(shape, 60)}, which does not fit its size; save it again"
        )
    whole: list[NDArray[Any]] = []
    done = 0

    def read(count: int) -> NDArray[Any]:
        nonlocal done
        if not (in_columns and len(shape) > 1):
            return _read_exactly(path, stream, (count, *shape[1:]) if shape else (), dtype)
        if not whole:
            whole.append(np.ascontiguousarray(_read_exactly(path, stream, shape[::-1], dtype).T))
        done += count
        return whole[0][done - count : done]

    return Rows(tuple(shape), dtype, read)


def _read_exactly(path: Path, stream: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    with damage(path):
        values = np.empty(shape, dtype=dtype)
        view, done = memoryview(values.reshape(-1).view(np.uint8).data), 0
        while done < len(view):
            piece = stream.read(min(len(view) - done, 1 << 24))
            if not piece:
                raise EOFError("it ends too early")
            view[done : done + len(piece)] = piece
            done += len(piece)
    return values
