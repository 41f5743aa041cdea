"""Data sets in folders or zips of images, ``train/<class>/*.png|jpg``: the one part here that needs Pillow.

Archives may be hostile: nothing is extracted, names of members are only read, and an image's size is known
before its pixels are decoded.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from malade_ref.checks import InputError
from malade_ref.datasets.idx import MAX_SIDE
from malade_ref.datasets.incoming import (
    BLOCK_BYTES,
    MAX_CLASSES,
    Incoming,
    check_member,
    complete_splits,
    damage,
    open_zip,
)
from malade_ref.datasets.splits import SPLITS, Pixels
from malade_ref.ops.random import derive_key, permutation
from malade_ref.storage.files import one_line, open_regular

MAX_IMAGE_FILE = 1 << 26

_SUFFIXES = (".png", ".jpg", ".jpeg")
_SPLIT_FOLDERS = {"train": 0, "validation": 1, "val": 1, "test": 2}


def incoming_images(path: Path, stack: ExitStack) -> Incoming:
    """Data in a folder or a zip of ``train/<class>/*.png|jpg``, perhaps also ``validation`` and ``test``.

    Files come sorted by class; they are put in a fixed random order, so that the first so many of a split are
    a fair sample of it.

    Parameters
    ----------
    path : Path
        The folder or zip.
    stack : ExitStack
        Closes it when the blocks are used up.

    Returns
    -------
    Incoming
        The data; a missing validation or test split is chosen at random.

    Raises
    ------
    InputError
        If there are no such images, or they do not fit together.
    """
    _pillow(path)
    files, skipped = _files_in_folder(path) if path.is_dir() else _files_in_zip(path, stack)
    if not files:
        raise InputError(f"{path}: holds no train/<class>/*.png or *.jpg; arrange the images like this")
    names = sorted({file.class_name for file in files})
    if len(names) > MAX_CLASSES or not all(name.isprintable() and len(name) <= 100 for name in names):
        raise InputError(f"{path}: expected at most {MAX_CLASSES} classes with short printable names; rename them")
    if all(name.isascii() and name.isdecimal() for name in names):
        names.sort(key=int)
    unseen = {file.class_name for file in files} - {file.class_name for file in files if file.split == 0}
    if unseen and any(file.split == 0 for file in files):
        raise InputError(f"{path}: class {min(unseen)!r} has no folder in train; rename or add it")
    files.sort(key=lambda file: (file.split, file.class_name, file.name))
    files = [files[i] for i in permutation(len(files), key=derive_key(0, "datasets/order"))]

    shape = _common_shape(path, files)
    label = {name: i for i, name in enumerate(names)}
    labels = np.array([label[file.class_name] for file in files], dtype=np.int64)
    splits = complete_splits(np.array([file.split for file in files], dtype=np.int64), shuffle=True)
    lossy = sum(not file.name.lower().endswith(".png") for file in files)
    notes = [f"{lossy} of {len(files)} images were JPEG files, whose pixels are not exact."] if lossy else []
    notes += [f"{skipped} files that were no .png or .jpg were left out."] if skipped else []
    rows_at_once = max(1, BLOCK_BYTES // math.prod(shape))
    blocks = (
        np.stack([_decode(path, file, shape) for file in files[first : first + rows_at_once]])
        for first in range(0, len(files), rows_at_once)
    )
    return Incoming(shape, labels, splits, tuple(names), blocks, " ".join(notes))


class ImageFiles(NamedTuple):
    """Image files of one split, in order.

    Attributes
    ----------
    names : tuple of str
        Path of each below the folder or in the archive, ``split/class/file``.
    classes : tuple of str
        Class of each.
    shape : tuple of three int
        (c, h, w) of an image.
    decode : callable
        From a slice of the files to their pixels, an ndarray of shape (m, c, h, w), uint8.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    decode: Callable[[slice], Pixels]


def splits_in_order(path: Path, stack: ExitStack) -> dict[str, Callable[[], ImageFiles]]:
    """Image files as they lie there: by split, sorted by class folder and file name, character by character.

    Parameters
    ----------
    path : Path
        A folder or zip of ``SPLIT/<class>/*.png|jpg``, or of ``<class>/*.png|jpg`` without splits.
    stack : ExitStack
        Closes it.

    Returns
    -------
    dict of str to callable
        For each split that has images, how to look at them; ``"all"`` if there are no folders for splits.

    Raises
    ------
    InputError
        If there are no such images; the callables, if the images do not fit together.
    """
    _pillow(path)
    files, _ = _files_in_folder(path) if path.is_dir() else _files_in_zip(path, stack)
    without = not files
    if without:
        files = _files_without_splits(path, stack)
    if not files:
        raise InputError(f"{path}: holds no train/<class>/*.png or *.jpg; arrange the images like this")

    def of_split(chosen: list[_ImageFile]) -> ImageFiles:
        shape = _common_shape(path, chosen)
        return ImageFiles(
            tuple(file.path for file in chosen),
            tuple(file.class_name for file in chosen),
            shape,
            lambda part: np.stack([_decode(path, file, shape) for file in chosen[part]]),
        )

    by_split: dict[str, list[_ImageFile]] = {}
    for file in sorted(files, key=lambda file: (file.split, file.class_name, file.name)):
        by_split.setdefault("all" if without else SPLITS[file.split], []).append(file)
    return {split: partial(of_split, chosen) for split, chosen in by_split.items()}


class _ImageFile(NamedTuple):
    """An image that has not been read yet."""

    split: int
    class_name: str
    name: str
    path: str
    read: Callable[[], bytes]


def _files_in_folder(path: Path) -> tuple[list[_ImageFile], int]:
    """Images in the folders of the splits and classes, and the number of other files there."""
    found, skipped = [], 0
    with damage(path):
        for file in (file for split in _SPLIT_FOLDERS for file in (path / split).glob("*/*")):
            split, class_name, name = file.relative_to(path).parts
            if name.startswith(".") or not file.is_file():
                continue
            if file.suffix.lower() not in _SUFFIXES:
                skipped += 1
                continue
            where = f"{split}/{class_name}/{name}"
            found.append(_ImageFile(_SPLIT_FOLDERS[split], class_name, name, where, partial(_read_file, file)))
    return found, skipped


def _files_without_splits(path: Path, stack: ExitStack) -> list[_ImageFile]:
    """Images in ``<class>/`` of a folder, or of an archive below whatever folder holds the classes."""
    found, roots = [], set()
    with damage(path):
        if path.is_dir():
            for file in path.glob("*/*"):
                if _is_image(file.parent.name, file.name) and file.is_file():
                    where = f"{file.parent.name}/{file.name}"
                    found.append(_ImageFile(0, file.parent.name, file.name, where, partial(_read_file, file)))
            return found
        archive = open_zip(path, stack)
        for info in archive.infolist():
            *root, class_name, name = ("", "", *PurePosixPath(info.filename).parts)
            if not info.is_dir() and class_name and "__MACOSX" not in root and _is_image(class_name, name):
                roots.add(tuple(root))
                read = partial(_read_member, path, archive, info)
                found.append(_ImageFile(0, class_name, name, f"{class_name}/{name}", read))
    if len(roots) > 1:
        raise InputError(f"{path}: holds several data sets; make a zip of each")
    return found


def _is_image(class_name: str, name: str) -> bool:
    """Whether a file may be an image in the folder of a class, by the names of both."""
    hidden = class_name.startswith((".", "__")) or name.startswith(".")
    return not hidden and PurePosixPath(name).suffix.lower() in _SUFFIXES


def _read_file(path: Path) -> bytes:
    with open_regular(path) as file:
        content = file.read(MAX_IMAGE_FILE + 1)
    if len(content) > MAX_IMAGE_FILE:
        raise InputError(f"{path}: larger than {MAX_IMAGE_FILE} bytes; leave it out")
    return content


def _files_in_zip(path: Path, stack: ExitStack) -> tuple[list[_ImageFile], int]:
    """Images in an archive, below whatever folder holds the splits, and the number of other files there."""
    found, skipped, roots = [], 0, set()
    with damage(path):
        archive = open_zip(path, stack)
        for info in archive.infolist():
            *root, split, class_name, name = ("", "", "", *PurePosixPath(info.filename).parts)
            if split not in _SPLIT_FOLDERS or info.is_dir() or name.startswith(".") or "__MACOSX" in root:
                continue
            if PurePosixPath(name).suffix.lower() not in _SUFFIXES:
                skipped += 1
                continue
            roots.add(tuple(root))
            where = f"{split}/{class_name}/{name}"
            read = partial(_read_member, path, archive, info)
            found.append(_ImageFile(_SPLIT_FOLDERS[split], class_name, name, where, read))
    if len(roots) > 1:
        raise InputError(f"{path}: holds several data sets; make a zip of each")
    return found, skipped


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with damage(path):
        check_member(path, info, MAX_IMAGE_FILE)
        with archive.open(info) as stream:
            return stream.read(info.file_size)


def _pillow(path: Path) -> Any:
    """Pillow's module for images: the one part of this package that needs it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(f"{path}: reading images needs Pillow; run: pip install pillow") from error
    return Image


def _common_shape(path: Path, files: list[_ImageFile]) -> tuple[int, int, int]:
    """The (c, h, w) of all images: one channel if all are grey, else three. Sizes must agree."""
    sizes: dict[tuple[int, int], _ImageFile] = {}
    colour = False
    for file in files:
        with _opened(path, file) as image:
            sizes.setdefault(image.size, file)
            colour = colour or image.mode in ("RGB", "P")
        if len(sizes) > 1:
            (size, first), (other, second) = sizes.items()
            raise InputError(
                f"{path}: {first.name!r} has {size[0]} x {size[1]} pixels and {second.name!r} {other[0]} x {other[1]}; "
                "bring all images to one size"
            )
    ((width, height),) = sizes
    return (3 if colour else 1), height, width


def _decode(path: Path, file: _ImageFile, shape: tuple[int, int, int]) -> Pixels:
    """Pixels of an image, of the given (c, h, w)."""
    with _opened(path, file) as image:
        pixels = np.asarray(image.convert("L" if shape[0] == 1 else "RGB"), dtype=np.uint8)
    return pixels.reshape(shape[1], shape[2], shape[0]).transpose(2, 0, 1)


@contextmanager
def _opened(path: Path, file: _ImageFile) -> Iterator[Any]:
    """An image whose size and mode have been checked; decoders' complaints become one line."""
    label = f"{path}: {file.path}".encode("ascii", "backslashreplace").decode()
    content = file.read()
    try:
        # The size is known before the pixels are decoded, so a bomb is refused and never goes off.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _pillow(path).open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                if max(image.size) > MAX_SIDE:
                    raise InputError(f"{label}: has more than {MAX_SIDE} pixels a side; scale it down")
                if image.mode not in ("1", "L", "P", "RGB") or "transparency" in image.info:
                    raise InputError(f"{label}: is {image.mode} or transparent; save it as grey or RGB, 8 bits")
                yield image
    except InputError:
        raise
    except Exception as error:  # a decoder of hostile bytes may raise anything
        raise InputError(f"{label}: not a whole image ({one_line(error)}); leave it out") from error
