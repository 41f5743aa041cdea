"""Data from outside, brought into one form: a record with uint8 images and int64 labels for each split.

Understood are a folder of IDX files (MNIST and its likes), CIFAR's batches and Tiny ImageNet as they were published,
arrays in ``.npz`` or ``.h5``, a folder or a zip of images, and records of malade's own. All may be damaged or hostile:
nothing is unpickled or extracted, no size is believed before it is checked, and pixels are stored as they were or
refused, never rounded.

A split that is missing gets a sixth of the training images (of MNIST's 60,000 the last 10,000, as in the
paper; elsewhere a fixed random choice). Of CIFAR and Tiny ImageNet, validation gets a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from malade_ref.checks import InputError
from malade_ref.datasets.cifar import CifarFiles, recognise_cifar
from malade_ref.datasets.from_arrays import incoming_h5, incoming_npz
from malade_ref.datasets.from_images import AS_THEY_ARE, Conversion, incoming_images
from malade_ref.datasets.idx import IdxFile, find_idx_files, read_idx_labels
from malade_ref.datasets.incoming import BLOCK_BYTES, MAX_IMAGES, Incoming, complete_splits, damage
from malade_ref.datasets.sources import load_sources
from malade_ref.datasets.splits import RECORD, SPLITS, Pixels, open_dataset
from malade_ref.datasets.tiny_imagenet import NAME as TINY_IMAGENET
from malade_ref.datasets.tiny_imagenet import TinyImageNetFiles, recognise_tiny_imagenet
from malade_ref.storage import is_record, open_record


def read_incoming(path: str | Path, stack: ExitStack, convert: Conversion = AS_THEY_ARE) -> Incoming:
    """Recognise data from outside and open it.

    Parameters
    ----------
    path : path
        A folder of IDX files, of CIFAR's batches or of images, a ``.tar.gz`` of CIFAR's batches, a ``.zip`` of images,
        an ``.npz`` or an ``.h5``.
    stack : ExitStack
        Closes what the data is read from, when the blocks are used up.
    convert : Conversion
        What is done to image files; other data are refused with it.
    """
    if not str(path):
        raise InputError("PATH: expected a file or folder, got an empty name; name one")
    path = Path(path)
    suffix = path.suffix.lower()
    with damage(path):
        there = path.exists()
    if not there:
        raise InputError(f"{path}: no such file or folder; check the path")
    if suffix in (".h5", ".hdf5") and path.is_file() and is_record(path):
        _check_files(path, convert)
        return _incoming_record(path)
    incoming = _recognised(path, suffix, stack, convert)
    return incoming._replace(blocks=_not_binary(path, incoming.blocks))


def _check_files(path: Path, convert: Conversion) -> None:
    """Raise if a conversion is asked for of what are no image files."""
    if convert != AS_THEY_ARE:
        raise InputError(f"{path}: --resize and --convert are for image files (.png, .jpg); leave them out")


def _recognised(path: Path, suffix: str, stack: ExitStack, convert: Conversion) -> Incoming:
    """Data that another program wrote."""
    if path.is_dir() and (idx := find_idx_files(path)):
        _check_files(path, convert)
        return incoming_idx(idx, stack)
    if cifar := recognise_cifar(path):
        _check_files(path, convert)
        return _with_standing(cifar.incoming(), cifar.form.name, cifar)
    if tiny := recognise_tiny_imagenet(path):
        _check_files(path, convert)
        return _with_standing(tiny.incoming(stack), TINY_IMAGENET, tiny)
    if path.is_dir() or suffix == ".zip":
        return incoming_images(path, stack, convert)
    _check_files(path, convert)
    if suffix == ".npz":
        return incoming_npz(path, stack)
    if suffix in (".h5", ".hdf5"):
        return incoming_h5(path, stack)
    raise InputError(
        f"{path}: expected a folder of IDX files, a folder or .zip of train/<class>/*.png|jpg, a folder or .tar.gz of "
        "CIFAR's batches, an .npz or an .h5"
    )


def _with_standing(incoming: Incoming, name: str, files: CifarFiles | TinyImageNetFiles) -> Incoming:
    """The same data, whose note says what the files were beside the published ones."""
    said = files.standing.sentence(name, load_sources()[name]["title"])
    return incoming._replace(note=f"When it was imported: {said} {incoming.note}")


def _not_binary(path: Path, blocks: Iterator[Pixels]) -> Iterator[Pixels]:
    """The same blocks; InputError after the last if they hold nothing but 0 and 1, which as bytes are black."""
    largest = 0
    for block in blocks:
        largest = max(largest, int(block.max(initial=0)))
        yield block
    if largest == 1:
        raise InputError(
            f"{path}: images: the bytes are 0 and 1 only, of 0 to 255; if 1 is white, multiply them by 255"
        )


def incoming_idx(files: Mapping[str, Path], stack: ExitStack) -> Incoming:
    """Data in the four IDX files of MNIST or its likes.

    Parameters
    ----------
    files : mapping of str to Path
        From `find_idx_files`.
    stack : ExitStack
        Closes them when the blocks are used up.

    Returns
    -------
    Incoming
        The data, ten classes.
    """
    images = {}
    labels = []
    for split in ("train", "test"):
        path = files[f"{split} images"]
        images[split] = stack.enter_context(IdxFile(path, ndim=3, what="images"))
        n = images[split].shape[0]
        if n > MAX_IMAGES:
            raise InputError(f"{path}: holds {n} images, at most {MAX_IMAGES} can be read; split it")
        labels.append(read_idx_labels(files[f"{split} labels"], num_images=n))
    train, test = images["train"].shape, images["test"].shape
    if train[1:] != test[1:]:
        raise InputError(
            f"{files['test images']}: has images of shape {test[1:]}, the training images have {train[1:]}; put files "
            "there that belong together"
        )
    shape = (1, train[1], train[2])
    rows_at_once = max(1, BLOCK_BYTES // math.prod(shape))
    blocks = (
        file.read(min(rows_at_once, file.shape[0] - first))[:, None]
        for file in images.values()
        for first in range(0, file.shape[0], rows_at_once)
    )
    splits = complete_splits(np.repeat([0, 2], [train[0], test[0]]), shuffle=False)
    names = tuple(str(digit) for digit in range(10))
    return Incoming(shape, np.concatenate(labels), splits, names, blocks, "")


def _incoming_record(path: Path) -> Incoming:
    """A data set's record, after checking all of it against its SHA-256."""
    with open_record(path, kind=RECORD, mend="restore it from a copy") as record:
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
