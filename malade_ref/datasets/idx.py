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

    Parameters
    ----------
    folder : path
        Where to look.

    Returns
    -------
    dict of str to Path
        By what they hold, see `MNIST_FILES`. Empty if there are none.

    Raises
    ------
    InputError
        If there are some, but not all.
    """
    found = {}
    for what, name in MNIST_FILES.items():
        for candidate in (name, name + ".gz"):
            if (Path(folder) / candidate).exists():
                found[what] = Path(folder) / candidate
                break
    missing = [name for what, name in MNIST_FILES.items() if what not in found]
    if found and missing:
        raise InputError(
            f"{folder}: has {len(found)} of MNIST's 4 files; put {', '.join(missing)} there too (or as .gz)"
        )
    return found


def read_idx_images(path: str | Path) -> NDArray[np.uint8]:
    """Read an IDX file of images.

    Parameters
    ----------
    path : path
        A plain or gzip-compressed file, possibly damaged or hostile.

    Returns
    -------
    ndarray of shape (n, 1, h, w), uint8
        The images.

    Raises
    ------
    InputError
        If the file is not exactly one whole IDX file of images.
    """
    return _read(path, ndim=3, what="images")[:, None]


def read_idx_labels(path: str | Path, *, num_classes: int = 10) -> NDArray[np.int64]:
    """Read an IDX file of labels.

    Parameters
    ----------
    path : path
        A plain or gzip-compressed file, possibly damaged or hostile.
    num_classes : int
        How many classes there are.

    Returns
    -------
    ndarray of shape (n,), int64
        The labels.

    Raises
    ------
    InputError
        If the file is not exactly one whole IDX file of labels, or a label is out of range.
    """
    labels = _read(path, ndim=1, what="labels")
    wrong = np.flatnonzero(labels >= num_classes)
    if len(wrong):
        raise InputError(f"{path}: label {wrong[0]} is {labels[wrong[0]]}, expected 0..{num_classes - 1}; {_FETCH}")
    return labels.astype(np.int64)


def read_idx_pair(images: str | Path, labels: str | Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the images and the labels that belong together.

    Parameters
    ----------
    images, labels : path
        The two files.

    Returns
    -------
    images : ndarray of shape (n, 1, h, w), uint8
        The images.
    labels : ndarray of shape (n,), int64
        Their labels, in 0..9.

    Raises
    ------
    InputError
        If a file is damaged, or their numbers differ.
    """
    x, y = read_idx_images(images), read_idx_labels(labels)
    if len(x) != len(y):
        raise InputError(f"{labels}: has {len(y)} labels for the {len(x)} images of {images}; {_FETCH}")
    return x, y


_FETCH = "fetch the file again"


def _read(path: str | Path, *, ndim: int, what: str) -> NDArray[np.uint8]:
    """The array in an IDX file of bytes."""
    with open_regular(path) as raw:
        compressed = raw.peek(2)[:2] == _GZIP
        file_bytes = os.fstat(raw.fileno()).st_size
        stream: Any = gzip.GzipFile(fileobj=raw) if compressed else raw
        try:
            shape = _header(stream, path, ndim=ndim, what=what)
            size = math.prod(shape)
            room = file_bytes * _GZIP_RATIO if compressed else file_bytes - 4 - 4 * ndim
            if size > min(room, MAX_BYTES):
                raise InputError(
                    f"{path}: claims {what} of shape {shape}, more than its {file_bytes} bytes can hold; {_FETCH}"
                )
            return _payload(stream, path, size).reshape(shape)
        except (OSError, EOFError, zlib.error) as error:
            kind = "gzip file" if compressed else "file"
            raise InputError(f"{path}: not a whole {kind} ({one_line(error)}); {_FETCH}") from error


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


def _payload(stream: Any, path: str | Path, size: int) -> NDArray[np.uint8]:
    """Exactly ``size`` bytes, after which the file must end."""
    payload = np.empty(size, dtype=np.uint8)
    view, done = memoryview(payload.data), 0
    while done < size:
        count = stream.readinto(view[done : done + _BLOCK_BYTES])
        if not count:
            raise InputError(f"{path}: ends after {done} of {size} bytes; {_FETCH}")
        done += count
    if stream.read(1):
        raise InputError(f"{path}: goes on after its {size} bytes; {_FETCH}")
    return payload


def _read_up_to(stream: Any, size: int) -> bytes:
    """``size`` bytes, or fewer at the end of the file."""
    out = io.BytesIO()
    while out.tell() < size and (piece := stream.read(size - out.tell())):
        out.write(piece)
    return out.getvalue()
