"""Data from outside, brought into one form: a record with uint8 images and int64 labels for each split.

Understood are a folder of IDX files (MNIST and its likes), arrays in ``.npz`` or ``.h5``, a folder or a zip
of images, and records of malade's own. All may be damaged or hostile: nothing is unpickled or extracted, no
size is believed before it is checked, and pixels are stored as they were or refused, never rounded.

A split that is missing gets a sixth of the training images (of MNIST's 60,000 the last 10,000, as in the
paper; elsewhere a fixed random choice).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from malade_ref.checks import InputError
from malade_ref.datasets.from_arrays import incoming_h5, incoming_npz
from malade_ref.datasets.from_images import incoming_images
from malade_ref.datasets.idx import find_idx_files, read_idx_pair
from malade_ref.datasets.incoming import BLOCK_BYTES, Incoming, complete_splits, damage
from malade_ref.datasets.splits import MEND, RECORD, SPLITS, open_dataset
from malade_ref.storage import open_record
from malade_ref.storage.files import open_regular


def read_incoming(path: str | Path, stack: ExitStack) -> Incoming:
    """Recognise data from outside and open it.

    Parameters
    ----------
    path : path
        A folder of IDX files or of images, a ``.zip`` of images, an ``.npz`` or an ``.h5``.
    stack : ExitStack
        Closes what the data is read from, when the blocks are used up.

    Returns
    -------
    Incoming
        The data.

    Raises
    ------
    InputError
        If it is none of these, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        files = find_idx_files(path)
        return incoming_idx(files) if files else incoming_images(path, stack)
    suffix = path.suffix.lower()
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    if suffix == ".npz":
        return incoming_npz(path, stack)
    if suffix in (".h5", ".hdf5"):
        return _incoming_record(path) if _is_record(path) else incoming_h5(path, stack)
    if suffix == ".zip":
        return incoming_images(path, stack)
    raise InputError(
        f"{path}: expected a folder of IDX files, a folder or .zip of train/<class>/*.png|jpg, an .npz or an .h5"
    )


def incoming_idx(files: Mapping[str, Path]) -> Incoming:
    """Data in the four IDX files of MNIST or its likes.

    Parameters
    ----------
    files : mapping of str to Path
        From `find_idx_files`.

    Returns
    -------
    Incoming
        The data, ten classes.

    Raises
    ------
    InputError
        If a file is damaged or they do not belong together.
    """
    pairs = [read_idx_pair(files[f"{split} images"], files[f"{split} labels"]) for split in ("train", "test")]
    (train, _), (test, _) = pairs
    if train.shape[1:] != test.shape[1:]:
        raise InputError(
            f"{files['test images']}: has images of shape {test.shape[1:]}, the training images have "
            f"{train.shape[1:]}; put files there that belong together"
        )
    splits = complete_splits(np.repeat([0, 2], [len(train), len(test)]), shuffle=False)
    labels = np.concatenate([labels for _, labels in pairs])
    names = tuple(str(digit) for digit in range(10))
    return Incoming(train.shape[1:], labels, splits, names, iter((train, test)), "")


def _is_record(path: Path) -> bool:
    """Whether an HDF5 file says that it is malade's own."""
    with damage(path), open_regular(path) as raw, h5py.File(raw, "r") as file:
        return "format" in file.attrs


def _incoming_record(path: Path) -> Incoming:
    """A data set's record, after checking all of it against its SHA-256."""
    with open_record(path, kind=RECORD, mend=MEND) as record:
        record.verify()
    data = open_dataset(path)
    splits = [getattr(data, split) for split in SPLITS]
    rows_at_once = max(1, BLOCK_BYTES // math.prod(data.shape))
    blocks = (
        split.pixels(slice(first, first + rows_at_once))
        for split in splits
        for first in range(0, len(split), rows_at_once)
    )
    labels = np.concatenate([split.labels() for split in splits])
    numbers = np.repeat(np.arange(len(SPLITS)), [len(split) for split in splits])
    return Incoming(data.shape, labels, numbers, data.class_names, blocks, data.note)
