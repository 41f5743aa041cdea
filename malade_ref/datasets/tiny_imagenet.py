"""Tiny ImageNet in its published layout, as a zip or unpacked.

::

    words.txt                           names: n01443537, a tab, goldfish, Carassius auratus
    train/n01443537/images/*.JPEG       500 images of each of 200 classes
    val/images/*.JPEG                   10,000 images
    val/val_annotations.txt             their classes: val_0.JPEG, a tab, n03444034, and more that is not used here
    test/images/*.JPEG                  10,000 images without labels, left out

The published validation images are the test split. Validation images are taken from the training images by `hold_out`.
Training images come sorted by class; they are put in a fixed random order, so that the first so many are a fair
sample. Test images keep the order of val_annotations.txt. The classes are the folders in train, sorted; wnids.txt is
not needed. Grey images get three equal channels.

Source: Stanford CS231n, http://cs231n.stanford.edu/tiny-imagenet-200.zip, images of ImageNet.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from malade_ref.checks import InputError, printable
from malade_ref.classes import check_class_names
from malade_ref.datasets.from_images import ImageFile, common_shape, files_below, image_blocks
from malade_ref.datasets.incoming import MAX_CLASSES, MAX_IMAGES, Incoming, damage, hold_out, open_zip
from malade_ref.datasets.sources import Standing, load_sources
from malade_ref.ops.random import derive_key, permutation
from malade_ref.storage import file_sha256

NAME = "tiny-imagenet"
FOLDER = "tiny-imagenet-200"
ARCHIVE = f"{FOLDER}.zip"

_ANNOTATIONS = ("val", "val_annotations.txt")
_WORDS = ("words.txt",)
_SUFFIXES = (".jpeg", ".jpg", ".png")

Tree = Mapping[tuple[str, ...], Callable[[], bytes]]


def find_tiny_imagenet(folder: Path) -> TinyImageNetFiles | None:
    """Tiny ImageNet's files in a folder.

    Parameters
    ----------
    folder : Path
        Where to look: for the zip, for the folder that it holds, and for what is in that.

    Returns
    -------
    TinyImageNetFiles or None
        The first of these that is there.
    """
    if (folder / ARCHIVE).is_file():
        return TinyImageNetFiles(folder / ARCHIVE)
    for place in (folder / FOLDER, folder):
        if place.joinpath(*_ANNOTATIONS).is_file() and (place / "train").is_dir():
            return TinyImageNetFiles(place)
    return None


def recognise_tiny_imagenet(path: Path) -> TinyImageNetFiles | None:
    """Tiny ImageNet's files at a path that somebody named.

    Parameters
    ----------
    path : Path
        A zip of any name, or a folder as in `find_tiny_imagenet`.

    Returns
    -------
    TinyImageNetFiles or None
        None if its layout is another.
    """
    if path.is_dir():
        return find_tiny_imagenet(path)
    if path.suffix.lower() != ".zip":
        return None
    with damage(path), ExitStack() as stack:
        names = open_zip(path, stack).namelist()
    return TinyImageNetFiles(path) if any(f"/{name}".endswith("/val/val_annotations.txt") for name in names) else None


class TinyImageNetFiles:
    """Files of Tiny ImageNet in one place.

    Parameters
    ----------
    path : Path
        A zip or a folder, possibly damaged or hostile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 in hexadecimal by which these files differ from others."""
        if self.path.is_file():
            return file_sha256(self.path)
        digest = hashlib.sha256()
        with ExitStack() as stack:
            for parts, read in sorted(self._tree(stack).items()):
                if parts[0] in ("train", "val") or parts == _WORDS:
                    digest.update(repr((parts, hashlib.sha256(read()).hexdigest())).encode())
        return digest.hexdigest()

    @property
    def standing(self) -> Standing:
        """Whether this is the published zip; of a folder, or of a zip packed anew, nothing is known."""
        if not self.path.is_file():
            return Standing("not known", "only the published zip can be recognised, by its SHA-256")
        if self.sha256 == load_sources()[NAME]["files"][0]["sha256"]:
            return Standing("published", "")
        return Standing("not known", "it is not the published zip, whose SHA-256 is another")

    def incoming(self, stack: ExitStack) -> Incoming:
        """The data on its way into a record.

        Parameters
        ----------
        stack : ExitStack
            Closes the zip when the blocks are used up.

        Returns
        -------
        Incoming
            The data; its images are decoded as the blocks are asked for.
        """
        tree = self._tree(stack)
        train = [
            ImageFile(0, parts[1], parts[3], "/".join(parts), tree[parts])
            for parts in sorted(tree)
            if len(parts) == 4 and parts[0] == "train" and parts[2] == "images" and _is_image(parts)
        ]
        if not train:
            raise InputError(f"{self.path}: holds no train/<class>/images/*.JPEG; arrange the images like this")
        classes = sorted({file.class_name for file in train})
        test, left_out = self._annotated(tree, frozenset(classes))
        if len(classes) > MAX_CLASSES or len(train) + len(test) > MAX_IMAGES:
            raise InputError(
                f"{self.path}: holds {len(train) + len(test)} images of {len(classes)} classes, at most {MAX_IMAGES} "
                f"of {MAX_CLASSES} can be read; import a part of them"
            )
        files = [train[i] for i in permutation(len(train), key=derive_key(0, "datasets/order"))] + test
        number = {name: i for i, name in enumerate(classes)}
        labels = np.array([number[file.class_name] for file in files], dtype=np.int64)
        splits = hold_out(labels, np.array([file.split for file in files], dtype=np.int64))
        (_, height, width), _, _ = common_shape(self.path, files[:1])
        shape = (3, height, width)
        lossy = sum(not file.path.lower().endswith(".png") for file in files)
        notes = [
            f"Validation: {len(train) // 10:,} of the {len(train):,} training images, by a fixed permutation, as many "
            f"of each class. Test: {len(test):,} images of the published validation set; the published test set has no "
            "labels.",
            f"{lossy} of {len(files)} images were JPEG files, whose pixels are not exact.",
            *left_out,
        ]
        names = self._class_names(tree, classes)
        return Incoming(shape, labels, splits, names, image_blocks(self.path, files, shape), " ".join(notes))

    def _tree(self, stack: ExitStack) -> Tree:
        """What reads each file, by its path below the folder that holds ``train`` and ``val``."""
        tree = files_below(self.path, stack)
        roots = {parts[:-2] for parts in tree if parts[-2:] == _ANNOTATIONS}
        if len(roots) != 1:
            raise InputError(
                f"{self.path}: holds {len(roots)} files val/val_annotations.txt, expected one; pack it anew"
            )
        (root,) = roots
        return {parts[len(root) :]: read for parts, read in tree.items() if parts[: len(root)] == root}

    def _annotated(self, tree: Tree, classes: frozenset[str]) -> tuple[list[ImageFile], list[str]]:
        """Images of the published validation set with their classes, and what was left out of it."""
        label = f"{self.path}: {'/'.join(_ANNOTATIONS)}"
        class_of: dict[str, str] = {}
        for number, line in enumerate(self._text(tree, _ANNOTATIONS).splitlines(), 1):
            words = line.split("\t")
            if line.strip() and len(words) < 2:
                raise InputError(
                    f"{label}: line {number}: expected an image's name, a tab and its class; fetch it again"
                )
            if line.strip() and class_of.setdefault(words[0], words[1].strip()) != words[1].strip():
                raise InputError(f"{label}: line {number}: {printable(words[0], 80)!r} has two classes; fetch it again")
        there = {parts[2] for parts in tree if len(parts) == 3 and parts[:2] == ("val", "images") and _is_image(parts)}
        counts = Counter(
            {
                "validation images are in no line of val_annotations.txt": len(there - class_of.keys()),
                "lines of val_annotations.txt are of images that are missing": len(class_of.keys() - there),
                "validation images are of classes that have no folder in train": sum(
                    name in there and class_name not in classes for name, class_name in class_of.items()
                ),
                "test images have no labels": sum(parts[0] == "test" and _is_image(parts) for parts in tree),
            }
        )
        files = [
            ImageFile(2, class_name, name, f"val/images/{name}", tree["val", "images", name])
            for name, class_name in class_of.items()
            if name in there and class_name in classes
        ]
        return files, [f"Left out: {count:,} {what}." for what, count in counts.items() if count]

    def _class_names(self, tree: Tree, classes: list[str]) -> tuple[str, ...]:
        """The first name of each class in words.txt; the folder's name where it has none, and beside one of several."""
        words: dict[str, str] = {}
        if _WORDS in tree:
            for line in self._text(tree, _WORDS).splitlines():
                folder, _, synonyms = line.partition("\t")
                words[folder.strip()] = synonyms.split(",")[0].strip()
        names = [words.get(folder) or folder for folder in classes]
        counts = Counter(names)
        names = [
            f"{name} ({folder})" if counts[name] > 1 else name for name, folder in zip(names, classes, strict=True)
        ]
        return check_class_names(f"{self.path}: {'/'.join(_WORDS)}", names, MAX_CLASSES)

    def _text(self, tree: Tree, parts: tuple[str, ...]) -> str:
        """A file of text."""
        with damage(self.path):
            return tree[parts]().decode("utf-8")


def _is_image(parts: tuple[str, ...]) -> bool:
    return parts[-1].lower().endswith(_SUFFIXES) and not parts[-1].startswith(".")
