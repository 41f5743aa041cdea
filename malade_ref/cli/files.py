"""Images and labels from files, and results into files.

Read are ``.npy`` (images), ``.npz`` and ``.h5`` (arrays ``x`` or ``images``, and ``y`` or ``labels``), a folder or zip
of ``train/<class>/*.png|jpg``, a folder of IDX files, and ``NAME:SPLIT`` or ``NAME:SPLIT:N`` for the first N images of
a data set. Bytes become float32 in [0, 1]. Files may be hostile: nothing is unpickled, and no claimed size is believed.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError
from malade_ref.datasets import check_images, check_labels, load_dataset
from malade_ref.datasets.importing import read_incoming
from malade_ref.datasets.incoming import DEFLATE_RATIO, MAX_BYTES, check_member, damage, open_zip
from malade_ref.datasets.splits import SPLITS
from malade_ref.storage import atomic_write, save_record
from malade_ref.storage.files import open_regular

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
    arrays = _arrays(source, data_dir)
    if "x" not in arrays:
        raise InputError(f"{source}: has no array 'x' or 'images'; save the images under this name")
    if labels is not None:
        found = _arrays(labels, data_dir)
        # A bare .npy says nothing of what it holds.
        arrays["y"] = found["y"] if "y" in found else found["x"]
    x = arrays["x"]
    if x.ndim == 3:
        x = x[:, None]
    if x.dtype == np.uint8:
        x = x.astype(np.float32) / np.float32(255)
    check_images(x, name=f"{source}: x", shape=shape)
    if len(x) == 0:
        raise InputError(f"{source}: x: expected at least one image, got none")
    y = arrays.get("y")
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


def _arrays(source: str, data_dir: str | None) -> dict[str, NDArray[Any]]:
    """Arrays ``x`` and ``y``, as far as there are."""
    path = Path(source)
    name, _, rest = source.partition(":")
    if rest and not path.exists():
        return _of_dataset(source, name, rest, data_dir)
    if path.is_dir() or path.suffix.lower() == ".zip":
        with ExitStack() as stack:
            incoming = read_incoming(path, stack)
            return {"x": np.concatenate(list(incoming.blocks)), "y": incoming.labels}
    readers = {".npy": _read_npy, ".npz": _read_npz, ".h5": _read_h5, ".hdf5": _read_h5}
    if path.suffix.lower() not in readers:
        raise InputError(f"{source}: expected {HELP}")
    with damage(path):
        return readers[path.suffix.lower()](path)


def _of_dataset(source: str, name: str, rest: str, data_dir: str | None) -> dict[str, NDArray[Any]]:
    split, _, number = rest.partition(":")
    if split not in SPLITS or (number and not (number.isascii() and number.isdecimal() and len(number) < 10)):
        raise InputError(
            f"{source}: no such file; of a data set, give NAME:SPLIT or NAME:SPLIT:N, SPLIT one of {', '.join(SPLITS)}"
        )
    sizes = {split: int(number)} if number else None
    chosen = getattr(load_dataset(name, data_dir=data_dir, sizes=sizes), split)
    return {"x": chosen.pixels(), "y": chosen.labels()}


def _read_npy(path: Path) -> dict[str, NDArray[Any]]:
    open_regular(path).close()
    # Mapped, so that a claimed size is checked against the file before anything is allocated.
    return {"x": np.array(np.load(path, mmap_mode="r", allow_pickle=False))}


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    found = {}
    with ExitStack() as stack:
        archive = open_zip(path, stack)
        members = {info.filename: info for info in archive.infolist()}
        for key, names in NAMES.items():
            for name in names:
                if key not in found and f"{name}.npy" in members:
                    found[key] = _read_member(path, archive, members[f"{name}.npy"])
    return found


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    check_member(path, info, MAX_BYTES)
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"{info.filename} has version {version} of the format")
        shape, _, dtype = read_header[version](stream)
        if math.prod(shape) * dtype.itemsize > info.file_size:
            raise ValueError(f"{info.filename} claims shape {shape}, more than it holds")
    with archive.open(info) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _read_h5(path: Path) -> dict[str, NDArray[Any]]:
    found = {}
    with open_regular(path) as raw, h5py.File(raw, "r") as file:
        for key, names in NAMES.items():
            for name in names:
                if key not in found and name in file:
                    found[key] = _read_dataset(path, name, file)
    return found


def _read_dataset(path: Path, name: str, file: h5py.File) -> NDArray[Any]:
    # A soft or external link, or a virtual array, could lead to another file.
    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external or dataset.shape is None:
        raise InputError(f"{path}: {name}: is no plain array in this file; save it as one")
    if dataset.dtype.kind not in "biuf":
        raise InputError(f"{path}: {name}: holds {dataset.dtype}, expected numbers; save it as such")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    if size > min(MAX_BYTES, dataset.id.get_storage_size() * DEFLATE_RATIO):
        raise InputError(f"{path}: {name}: claims {size} bytes, more than the file can hold; save it again")
    return np.asarray(dataset[()])
