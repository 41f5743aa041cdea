"""IDX files, the format of MNIST: a magic number, the sizes as big-endian 32-bit integers, then bytes.

::

    images   00 00 08 03, n, h, w, then n * h * w pixels, 0 black to 255 white
    labels   00 00 08 01, n,       then n labels

A file may be compressed by gzip. No size in it is believed before the file is large enough to hold so much.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError
from malade_ref.storage.files import one_line, open_regular

MAX_SIDE = 4096
MAX_BYTES = 1 << 32  # of one array, which is read as a whole
MNIST_FILES = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}

_GZIP = b"\x1f\x8b"
_GZIP_RATIO = 1032  # deflate cannot do better
_BLOCK_BYTES = 1 << 22


def find_idx_files(folder: str | Path) -> dict[str, Path]:
    """Files of MNIST's names in a folder, with or without ``.gz``.

    Some archives write a dot for the dash before ``idx``, or put each file into a folder of its name.

    Parameters
    ----------
    folder : path
        Where to look.

    Returns
    -------
    dict of str to Path
        By what they hold, see `MNIST_FILES`. Empty if there are none.
    """
    found = {}
    for what, name in MNIST_FILES.items():
        spellings = (name, name.replace("-idx", ".idx"))
        names = [spelling + end for spelling in spellings for end in ("", ".gz")]
        candidates = [Path(folder) / name for name in names] + [Path(folder) / name / name for name in names]
        present = next((candidate for candidate in candidates if candidate.is_file()), None)
        if present is not None:
            found[what] = present
    missing = [name for what, name in MNIST_FILES.items() if what not in found]
    if found and missing:
        raise InputError(
            f"{folder}: has {len(found)} of MNIST's 4 files; put {', '.join(missing)} there too (or as .gz)"
        )
    return found


class IdxFile:
    """An IDX file of bytes, open for reading from its start; a context manager.

    Parameters
    ----------
    path : path
        A plain or gzip-compressed file, possibly damaged or hostile.
    ndim : int
        Axes of the array: 3 of images, 1 of labels.
    what : str
        What it holds, for complaints.

    Attributes
    ----------
    shape : tuple of int
        Shape of the array; the file may be large enough for it.
    """

    def __init__(self, path: str | Path, *, ndim: int, what: str) -> None:
        self._path = path
        with ExitStack() as stack:
            raw = stack.enter_context(open_regular(path))
            self._kind = "file"
            with self._damage():
                compressed = raw.peek(2)[:2] == _GZIP
            self._kind = "gzip file" if compressed else "file"
            self._stream: Any = stack.enter_context(gzip.GzipFile(fileobj=raw)) if compressed else raw
            with self._damage():
                self.shape = _header(self._stream, path, ndim=ndim, what=what)
            size, file_bytes = math.prod(self.shape), os.fstat(raw.fileno()).st_size
            if size > (file_bytes * _GZIP_RATIO if compressed else file_bytes - 4 - 4 * ndim):
                raise InputError(
                    f"{path}: claims {what} of shape {self.shape}, more than its {file_bytes} bytes can hold; {_FETCH}"
                )
            if size > MAX_BYTES:
                raise InputError(
                    f"{path}: claims {what} of shape {self.shape}, {size} bytes, at most {MAX_BYTES} can be read; "
                    "split it"
                )
            self._left, self._size = size, size
            self._open = stack.pop_all()

    def __enter__(self) -> IdxFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def read(self, count: int) -> NDArray[np.uint8]:
        """Read the next rows; after the last one the file must end.

        Parameters
        ----------
        count : int
            How many.

        Returns
        -------
        ndarray of shape (count, ...), uint8
            The rows.
        """
        shape = (count, *self.shape[1:])
        payload = np.empty(math.prod(shape), dtype=np.uint8)
        view, done = memoryview(payload.data), 0
        with self._damage():
            while done < len(view):
                got = self._stream.readinto(view[done : done + _BLOCK_BYTES])
                if not got:
                    done += self._size - self._left
                    raise InputError(f"{self._path}: ends after {done} of {self._size} bytes; {_FETCH}")
                done += got
            self._left -= done
            if not self._left and self._stream.read(1):
                raise InputError(f"{self._path}: goes on after its {self._size} bytes; {_FETCH}")
        return payload.reshape(shape)

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{self._path}: not a whole {self._kind} ({one_line(error)}); {_FETCH}") from error


def read_idx_images(path: str | Path) -> NDArray[np.uint8]:
    """Read an IDX file of images, of shape (n, 1, h, w), uint8.

    Parameters
    ----------
    path : path
        A plain or gzip-compressed file, possibly damaged or hostile.
    """
    with IdxFile(path, ndim=3, what="images") as file:
        return file.read(file.shape[0])[:, None]


def read_idx_labels(path: str | Path, *, num_classes: int = 10, num_images: int | None = None) -> NDArray[np.int64]:
    """Read an IDX file of labels, of shape (n,), int64.

    Parameters
    ----------
    path : path
        A plain or gzip-compressed file, possibly damaged or hostile.
    num_classes : int
        How many classes there are.
    num_images : int, optional
        How many labels there must be; looked at before they are read.
    """
    with IdxFile(path, ndim=1, what="labels") as file:
        (n,) = file.shape
        if num_images not in (None, n):
            raise InputError(f"{path}: has {n} labels for {num_images} images; {_FETCH}")
        labels = file.read(n)
    wrong = np.flatnonzero(labels >= num_classes)
    if len(wrong):
        raise InputError(f"{path}: label {wrong[0]} is {labels[wrong[0]]}, expected 0..{num_classes - 1}; {_FETCH}")
    return labels.astype(np.int64)


_FETCH = "fetch the file again"


def _header(stream: Any, path: str | Path, *, ndim: int, what: str) -> tuple[int, ...]:
    """Sizes of the array, after checking the magic number and the sides of an image."""
    header = _read_up_to(stream, 4 + 4 * ndim)
    magic = bytes([0, 0, 8, ndim])
    if header[:4] != magic:
        raise InputError(
            f"{path}: expected an IDX file of {what} (it starts with {magic.hex()}), "
            f"got {bytes(header[:4]).hex() or 'nothing'}; put the right file there"
        )
    if len(header) < 4 + 4 * ndim:
        raise InputError(f"{path}: ends within its header; {_FETCH}")
    shape: tuple[int, ...] = struct.unpack(f">{ndim}I", header[4:])
    if shape[0] == 0:
        raise InputError(f"{path}: holds no {what}; {_FETCH}")
    if not all(0 < side <= MAX_SIDE for side in shape[1:]):
        raise InputError(f"{path}: claims images of {shape[1:]} pixels, expected 1 to {MAX_SIDE} a side; {_FETCH}")
    return shape


def _read_up_to(stream: Any, size: int) -> bytes:
    """``size`` bytes, or fewer at the end of the file."""
    out = io.BytesIO()
    while out.tell() < size and (piece := stream.read(size - out.tell())):
        out.write(piece)
    return out.getvalue()
