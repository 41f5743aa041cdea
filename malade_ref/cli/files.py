"""Images and labels from files, and results into files.

Read are ``.npy`` (images), ``.npz`` and ``.h5`` (arrays ``x`` or ``images``, and ``y`` or ``labels``), a folder or zip
of ``train/<class>/*.png|jpg``, a folder of IDX files, and ``NAME:SPLIT`` or ``NAME:SPLIT:N`` for the first N images of
a data set. Bytes become float32 in [0, 1]. Files may be hostile: nothing is unpickled, and no claimed size is believed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError
from malade_ref.datasets import check_images, check_labels, load_dataset
from malade_ref.datasets.from_arrays import Rows, open_h5, open_npy, open_npz
from malade_ref.datasets.importing import read_incoming
from malade_ref.datasets.splits import SPLITS
from malade_ref.storage import atomic_write, save_record

NAMES = {"x": ("x", "images"), "y": ("y", "labels")}
HELP = (
    ".npy (images), .npz or .h5 (x or images, y or labels), a folder or .zip of train/<class>/*.png|jpg, a folder of "
    "IDX files, or NAME:SPLIT[:N], such as mnist:test:100; images (n, c, h, w), in [0, 1] or bytes"
)


class Images(NamedTuple):
    """Images that were read.

    Attributes
    ----------
    x : ndarray of shape (n, c, h, w), float32
        Pixels in [0, 1].
    y : ndarray of shape (n,), int64, or None
        Labels, if there are any.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64] | None


def read_images(
    source: str,
    *,
    shape: tuple[int, ...],
    num_classes: int = 1 << 31,
    labels: str | None = None,
    data_dir: str | None = None,
) -> Images:
    """Read and check images.

    Parameters
    ----------
    source : str
        See the module.
    shape : tuple of int
        The (c, h, w) that is expected.
    num_classes : int
        Labels must be below it.
    labels : str, optional
        A file with the labels.
    data_dir : str, optional
        Where to look for data sets first.

    Returns
    -------
    Images
        At least one.

    Raises
    ------
    InputError
        Naming the file and what is wrong with it.
    """
    with ExitStack() as stack:
        arrays = _arrays(source, data_dir, stack)
        if "x" not in arrays:
            raise InputError(f"{source}: has no array 'x' or 'images'; save the images under this name")
        if labels is not None:
            found = _arrays(labels, data_dir, stack)
            # A bare .npy says nothing of what it holds.
            arrays["y"] = found["y"] if "y" in found else found["x"]
        n = _check_claims(source, arrays["x"], shape)
        x = arrays["x"].read(n)
        if "y" in arrays and len(arrays["y"].shape) != 1:
            raise InputError(f"{labels or source}: y: expected 1 axes (n,), got {arrays['y'].shape}")
        if "y" in arrays and arrays["y"].shape != (n,):
            raise InputError(
                f"{labels or source}: y: {arrays['y'].shape[0]} labels for {n} images; each image needs one"
            )
        y = arrays["y"].read(n) if "y" in arrays else None
    if x.ndim == 3:
        x = x[:, None]
    if x.dtype == np.uint8:
        if x.max(initial=0) == 1:
            raise InputError(
                f"{source}: x: the bytes are 0 and 1 only, of 0 to 255; if 1 is white, save them as float32"
            )
        x = x.astype(np.float32) / np.float32(255)
    check_images(x, name=f"{source}: x", shape=shape)
    if len(x) == 0:
        raise InputError(f"{source}: x: expected at least one image, got none")
    if y is not None:
        check_labels(y, num_classes, name=f"{labels or source}: y", num_images=len(x))
        y = y.astype(np.int64)
    return Images(np.ascontiguousarray(x, dtype=np.float32), y)


def check_new(path: str) -> Path:
    """Raise unless a result can be written there.

    Parameters
    ----------
    path : str
        Where a result is to go.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    InputError
        If there is a file already, or no such folder, or the suffix is unknown.
    """
    if Path(path).suffix not in (".npy", ".npz", ".h5"):
        raise InputError(f"--out {path}: expected a name that ends in .npy, .npz or .h5")
    return check_free(path)


def check_free(path: str) -> Path:
    """Raise unless a file can be created.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    InputError
        If it exists, or its folder does not.
    """
    if Path(path).exists():
        raise InputError(f"--out {path}: exists already; choose another name or delete it")
    if not Path(path).parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {Path(path).parent}; create it first")
    return Path(path)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to a new file, atomically.

    Parameters
    ----------
    path : Path
        ``.npz`` or ``.h5``; an ``.npy`` gets the first array only.
    arrays : mapping of str to ndarray
        By name.
    """
    if path.suffix == ".h5":
        save_record(path, arrays, kind="arrays")
        return
    content = io.BytesIO()
    if path.suffix == ".npy":
        np.save(content, next(iter(arrays.values())), allow_pickle=False)
    else:
        np.savez(content, allow_pickle=False, **dict(arrays))
    atomic_write(path, content.getvalue())


def _check_claims(source: str, rows: Rows, shape: tuple[int, ...]) -> int:
    """How many images there are, after looking at their shape and dtype before any is read."""
    claimed = (rows.shape[0], 1, *rows.shape[1:]) if len(rows.shape) == 3 else rows.shape
    if len(claimed) == 4 and claimed[1:] != tuple(shape):
        raise InputError(
            f"{source}: x: expected images of shape {tuple(shape)} (channels, height, width), got {claimed[1:]}"
        )
    if len(claimed) != 4:
        raise InputError(f"{source}: x: expected 4 axes (n, c, h, w), got {rows.shape}")
    if str(rows.dtype.newbyteorder("=")) not in ("uint8", "float32", "float64"):
        raise InputError(f"{source}: x: expected float32 or float64, got {rows.dtype}; convert it with .astype")
    return claimed[0]


def _arrays(source: str, data_dir: str | None, stack: ExitStack) -> dict[str, Rows]:
    """Arrays ``x`` and ``y``, as far as there are, before they are read."""
    path = Path(source)
    name, _, rest = source.partition(":")
    if rest and not path.exists():
        return {key: _read_already(array) for key, array in _of_dataset(source, name, rest, data_dir).items()}
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".zip":
        incoming = read_incoming(path, stack)
        whole = (len(incoming.labels), *incoming.shape)
        images = Rows(whole, np.dtype(np.uint8), lambda _: np.concatenate(list(incoming.blocks)))
        return {"x": images, "y": _read_already(incoming.labels)}
    if suffix == ".npy":
        return {"x": open_npy(path, stack, fortran=True)}
    names = [name for names in NAMES.values() for name in names]
    if suffix == ".npz":
        found = open_npz(path, names, stack, fortran=True)
    elif suffix in (".h5", ".hdf5"):
        found = open_h5(path, names, stack)
    else:
        raise InputError(f"{source}: expected {HELP}")
    chosen = {key: next((found[name] for name in names if name in found), None) for key, names in NAMES.items()}
    return {key: rows for key, rows in chosen.items() if rows is not None}


def _read_already(array: NDArray[Any]) -> Rows:
    return Rows(array.shape, array.dtype, lambda _: array)


def _of_dataset(source: str, name: str, rest: str, data_dir: str | None) -> dict[str, NDArray[Any]]:
    split, _, number = rest.partition(":")
    if split not in SPLITS or (number and not (number.isascii() and number.isdecimal() and len(number) < 10)):
        raise InputError(
            f"{source}: no such file; of a data set, give NAME:SPLIT or NAME:SPLIT:N, SPLIT one of {', '.join(SPLITS)}"
        )
    sizes = {split: int(number)} if number else None
    chosen = getattr(load_dataset(name, data_dir=data_dir, sizes=sizes), split)
    return {"x": chosen.pixels(), "y": chosen.labels()}
