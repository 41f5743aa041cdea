"""Images and labels from files, and results into files.

Read are ``.npy`` (images), ``.npz`` and ``.h5`` (arrays ``x`` or ``images``, ``y`` or ``labels``, perhaps ``split``),
a folder or zip of ``SPLIT/<class>/*.png|jpg`` or of ``<class>/*.png|jpg``, one image file, a folder of IDX
files, a data set's record, and ``NAME:SPLIT`` or ``NAME:SPLIT:N`` for the first N images of a data set by name. Where
there are splits, one is read: that of ``PATH:SPLIT``, or a default that is said.

Images come in the order of their source: arrays as they lie, files sorted by class folder and then by file name,
character by character. They are read some at a time, so that memory does not grow with their number. Bytes become
float32 in [0, 1]. Files may be hostile: nothing is unpickled, and no claimed size is believed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import weakref
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError
from malade_ref.classes import check_class_names, listed, numbers_by_name
from malade_ref.datasets import check_images, check_labels, load_dataset
from malade_ref.datasets.from_arrays import Rows as OpenRows
from malade_ref.datasets.from_arrays import open_h5, open_npy, open_npz
from malade_ref.datasets.from_images import AS_THEY_ARE, Conversion, ImageFiles, single_image, splits_in_order
from malade_ref.datasets.idx import IdxFile, find_idx_files, read_idx_labels
from malade_ref.datasets.incoming import damage, open_zip
from malade_ref.datasets.library import check_dataset_name
from malade_ref.datasets.splits import RECORD, SPLITS, Dataset, Split, open_dataset
from malade_ref.published import network_file
from malade_ref.storage import atomic_write, file_sha256, from_json, is_record, open_record, to_json, write_record
from malade_ref.storage.files import aside, cannot_read

NAMES = {"x": ("x", "images"), "y": ("y", "labels")}
HELP = (
    ".npy (images), .npz or .h5 (x or images, y or labels, perhaps split), a folder or .zip of "
    "train/<class>/*.png|jpg, one .png or .jpg, a folder of IDX files, or NAME:SPLIT[:N], such as mnist:test:100; "
    "images (n, c, h, w), in [0, 1] or bytes; PATH:SPLIT chooses a split (by default train for train, test for the "
    "others)"
)
ALL = "all"
_SPLIT_WORDS = {**{split: split for split in SPLITS}, "val": "validation", ALL: ALL}
# Bytes of images that are read at a time, and of a name in an array of names.
_PIECE = 1 << 19
_MAX_NAME = 1 << 12
# Results that also are words, kept beside the arrays.
SETTINGS, CLASS_NAMES, IMAGE_NAMES = "settings", "class_names", "names"

Pieces = Callable[[], Iterator[NDArray[Any]]]


class Rows(NamedTuple):
    """A long array, some rows at a time.

    Attributes
    ----------
    shape : tuple of int
        Of the whole.
    dtype : dtype
        Of the whole.
    pieces : callable
        Gives an iterator over consecutive rows, from the first one on.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Pieces


class _Found(NamedTuple):
    """What a source holds: images, labels, the names of both, and where each image stands in the source."""

    x: Rows
    y: NDArray[Any] | None = None
    class_names: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    rows: NDArray[np.int64] | None = None


class Images:
    """Images that were checked, to be read some at a time; ``x, y = images`` reads all.

    Parameters
    ----------
    source : str
        Where they come from.
    x : Rows
        Images as they lie there.
    stack : ExitStack
        Closes the source.

    Attributes
    ----------
    source : str
        Where they come from, with the split that was taken.
    y : ndarray of shape (n,), int64, or None
        Labels, if there are any.
    class_names : tuple of str, or None
        What the labels stand for.
    names : tuple of str, or None
        Names of the images' files.
    index : ndarray of shape (n,), int64
        Numbers of the images in their source.
    sha256 : str
        Of all pixels in float32.
    notes : list of str
        What the user should know of how the source was read, a line each.
    """

    def __init__(self, source: str, x: Rows, stack: ExitStack) -> None:
        self.source = source
        self.y: NDArray[np.int64] | None = None
        self.class_names: tuple[str, ...] | None = None
        self.names: tuple[str, ...] | None = None
        self.index = np.arange(x.shape[0])
        self.sha256 = ""
        self.notes: list[str] = []
        self._x = x
        self._close = weakref.finalize(self, stack.close)

    def __len__(self) -> int:
        return self._x.shape[0]

    def __iter__(self) -> Iterator[Any]:
        yield self.x
        yield self.y

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (c, h, w) of an image."""
        return (1, *self._x.shape[1:]) if len(self._x.shape) == 3 else self._x.shape[1:]

    @property
    def x(self) -> NDArray[np.float32]:
        """All images, (n, c, h, w), float32 in [0, 1]."""
        x, done = np.empty((len(self), *self.shape), dtype=np.float32), 0
        for piece in self._pixels():
            x[done : done + len(piece)] = piece
            done += len(piece)
        return x

    def blocks(self, size: int, first: int = 0) -> Iterator[NDArray[np.float32]]:
        """Images, some at a time.

        Parameters
        ----------
        size : int
            So many, fewer in the end.
        first : int
            Number of the first image.

        Yields
        ------
        ndarray of shape (m, c, h, w), float32
            Pixels in [0, 1], the caller's own.
        """
        block, filled, done = np.empty((0, *self.shape), dtype=np.float32), 0, 0
        for piece in self._pixels():
            rest = piece[max(0, first - done) :]
            done += len(piece)
            while len(rest):
                if not filled:
                    left = len(self) - done + len(rest)
                    block = np.empty((min(size, left), *self.shape), dtype=np.float32)
                taken = min(len(rest), len(block) - filled)
                block[filled : filled + taken] = rest[:taken]
                filled, rest = filled + taken, rest[taken:]
                if filled == len(block):
                    yield block
                    filled = 0

    def check(self) -> None:
        """Look at all images once."""
        digest, done, most = hashlib.sha256(), 0, 0
        for raw in self._x.pieces():
            piece = _as_pixels(raw)
            check_images(piece, name=f"{self.source}: x", first=done)
            digest.update(np.ascontiguousarray(piece, dtype=np.float32).data)
            done += len(piece)
            if raw.dtype == np.uint8:
                most = max(most, int(raw.max(initial=0)))
        if most == 1:
            raise InputError(
                f"{self.source}: x: the largest byte is 1, all but black; if 1 is white, save the images as float32"
            )
        self.sha256 = digest.hexdigest()

    def fingerprints(self) -> dict[str, str]:
        """What tells these images from others, to be kept with a result.

        Returns
        -------
        dict of str to str
            SHA-256 of ``images`` and ``labels``, and of the names of both.
        """
        words = to_json("names", {"classes": self.class_names, "files": self.names}, indent=None)
        labels = np.empty(0, dtype=np.int64) if self.y is None else np.ascontiguousarray(self.y, dtype="<i8")
        return {
            "images": self.sha256,
            "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
            "names": hashlib.sha256(words.encode()).hexdigest(),
        }

    def close(self) -> None:
        """Close the source."""
        self._close()

    def _pixels(self) -> Iterator[NDArray[Any]]:
        return (_as_pixels(piece) for piece in self._x.pieces())


def _as_pixels(piece: NDArray[Any]) -> NDArray[Any]:
    """Images (n, h, w) or (n, c, h, w) as (n, c, h, w), bytes as float32 in [0, 1]."""
    x = piece[:, None] if piece.ndim == 3 else piece
    return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x


def read_images(
    source: str,
    *,
    shape: tuple[int, ...] | None,
    num_classes: int = 1 << 31,
    labels: str | None = None,
    data_dir: str | None = None,
    split: str | None = None,
    training: bool = False,
    class_names: Sequence[str] | None = None,
    own_labels: bool = False,
    model: str = "the model",
    unlabelled: bool = False,
    convert: Conversion = AS_THEY_ARE,
) -> Images:
    """Open images, and check all of them.

    Parameters
    ----------
    source : str
        See the module.
    shape : tuple of int, or None
        The (c, h, w) that is expected; None for any.
    num_classes : int
        Labels must be below it.
    labels : str, optional
        A file with the labels.
    data_dir : str, optional
        Where to look for data sets first.
    split : {"train", "validation", "test"}, optional
        Which split to take if the source has some and names none; by default the first of them.
    training : bool
        Whether a model is to learn from the images: never from those of a test split.
    class_names : sequence of str, optional
        The model's classes: labels that have names are translated to its numbers.
    own_labels : bool
        Whether to leave labels as the data has them, for want of a model that they must fit.
    model : str
        What the model is called, for what is said about classes.
    unlabelled : bool
        Whether image files may lie in no folders of classes.
    convert : Conversion
        What is done to image files; other sources are refused with it.

    Returns
    -------
    Images
        At least one.
    """
    with ExitStack() as stack:
        notes: list[str] = []
        choice = _Choice(source, split, training, notes)
        choice.shape, choice.unlabelled, choice.convert = shape, unlabelled, convert
        try:
            found = _open(source, choice, data_dir, stack)
            if convert != AS_THEY_ARE and not choice.of_files:
                raise InputError(f"{source}: --resize and --convert are for image files (.png, .jpg); leave them out")
            choice.check(found.x)
            if labels is not None:
                found = _with_labels(found, labels, data_dir, stack)
        except OSError as error:
            raise cannot_read(error.filename or source, error) from error
        images = Images(choice.taken, found.x, stack.pop_all())
    try:
        where = f"{images.source}: x"
        if not len(images):
            raise InputError(f"{where}: expected at least one image, got none")
        images.names, images.notes = found.names, notes
        if found.rows is not None:
            images.index = found.rows
        if found.y is not None:
            meeting = _Meeting(labels or images.source, num_classes, class_names, own_labels, model)
            images.y, images.class_names = meeting.labels(found, notes)
        images.check()
    except BaseException:
        images.close()
        raise
    return images


class _Choice:
    """Which split of a source is read."""

    def __init__(self, source: str, default: str | None, training: bool, notes: list[str]) -> None:
        self.source, self.default, self.training, self.notes = source, default, training, notes
        self.asked: str | None = None
        self.path = self.taken = source
        self.shape: tuple[int, ...] | None = None
        self.unlabelled, self.convert, self.of_files = False, AS_THEY_ARE, False

    def check(self, x: Rows) -> None:
        """Raise unless images have the shape and a dtype that are expected; done before anything else is read."""
        if len(x.shape) not in (3, 4):
            raise InputError(f"{self.taken}: x: expected 4 axes (n, c, h, w), got {x.shape}")
        if self.shape is not None:
            self.check_file_shape(tuple(x.shape[1:]))
            empty = np.empty((0, *x.shape[1:]), dtype=x.dtype)
            check_images(_as_pixels(empty), name=f"{self.taken}: x", shape=self.shape)

    def check_file_shape(self, shape: tuple[int, ...]) -> None:
        """Raise if image files have another shape, which they could be brought to."""
        if self.of_files and self.shape is not None and len(self.shape) == 3 and shape != self.shape:
            c, h, w = self.shape
            words = [f"--resize {h}" if h == w else f"--resize {h}x{w}"] if shape[1:] != (h, w) else []
            words += [f"--convert {'grey' if c == 1 else 'rgb'}"] if shape[0] != c and c in (1, 3) else []
            raise InputError(
                f"{self.taken}: x: expected images of shape {self.shape} (channels, height, width), got {shape}; "
                f"{' '.join(words) or 'other channels'} brings them to it"
                if words
                else f"{self.taken}: x: expected images of shape {self.shape} (channels, height, width), got {shape}"
            )

    def among(self, splits: Sequence[str], what: str = "splits") -> str:
        """One of the splits that there are, in order; the default is said."""
        have = ", ".join(splits)
        if self.asked is not None and self.asked not in splits:
            raise InputError(f"{self.source}: {self.path} has no split {self.asked}, but {have}; name one of these")
        split = self.asked
        if split is None:
            split = self.default if self.default in splits else None
            if split is None and (self.default is None or len(splits) == 1):
                split = splits[0]
            if split is None:
                raise InputError(f"{self.path}: has the {what} {have}; choose one, as in {self.path}:{splits[0]}")
        if split == "test" and self.training:
            raise InputError(
                f"{self.source}: test images are not for training; name another split, as in {self.path}:train"
                if "train" in splits
                else f"{self.source}: has only test images, which are not for training; add a split train"
            )
        if self.asked is None:
            others = f"of {have}; {self.path}:SPLIT names another" if len(splits) > 1 else "the only one there is"
            self.notes.append(f"{self.path}: takes the split {split}, {others}")
            self.taken = f"{self.path}:{split}"
        return split

    def none(self) -> None:
        """Raise if a split was named and the source has none."""
        if self.asked not in (None, ALL):
            raise InputError(f"{self.source}: {self.path} has no splits; leave out :{self.asked}")


class _Meeting(NamedTuple):
    """How labels of data become labels of a model."""

    where: str
    num_classes: int
    known: Sequence[str] | None
    own: bool
    model: str

    def labels(self, found: _Found, notes: list[str]) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
        """Labels as the model numbers its classes, and their names."""
        y, names, count = found.y, found.class_names, found.x.shape[0]
        assert y is not None
        name = f"{self.where}: y"
        if names is None:
            check_labels(y, min(self.num_classes, len(self.known or ()) or 1 << 31), name=name, num_images=count)
            return y.astype(np.int64), None if self.known is None else tuple(self.known)
        check_labels(y, len(names), name=name, num_images=count)
        y = y.astype(np.int64)
        present = np.unique(y).tolist()
        table = np.arange(len(names))
        if self.known is not None:
            words = [names[label] for label in present]
            table[present] = numbers_by_name(words, self.known, data=self.where, model=self.model)
            names = tuple(self.known)
        elif not self.own:
            table, names = self._by_number(names, present, table, notes)
        y = table[y]
        check_labels(y, self.num_classes, name=name)
        return y, names

    def _by_number(
        self, names: tuple[str, ...], present: list[int], table: NDArray[np.int64], notes: list[str]
    ) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
        """Numbers of named classes for a model that has no names: those that the names are, or their order."""
        if all(name.isascii() and name.isdecimal() and len(name) < 10 for name in names):
            numbers = np.array([int(name) for name in names])
            if len(set(numbers.tolist())) == len(numbers):
                return numbers, names if (numbers == table).all() else None
        notes.append(
            f"{self.model} keeps no names of its classes: {self.where} is met by number, "
            f"0..{len(names) - 1} for {listed(names)}"
        )
        return table, names


def _with_labels(found: _Found, labels: str, data_dir: str | None, stack: ExitStack) -> _Found:
    """The same images with the labels of another file."""
    other = _open(labels, _Choice(labels, None, False, []), data_dir, stack, images=False)
    y = other.y
    if y is None:
        # A bare .npy says nothing of what it holds.
        x = other.x
        if len(x.shape) != 1 or x.shape != found.x.shape[:1]:
            raise InputError(
                f"{labels}: y: {x.shape[0]} labels for {found.x.shape[0]} images; each image needs one"
                if len(x.shape) == 1
                else f"{labels}: y: expected 1 axes (n,), got {x.shape}"
            )
        y = np.concatenate([np.empty(0, dtype=x.dtype), *x.pieces()])
    return found._replace(y=y, class_names=other.class_names)


# Sources -------------------------------------------------------------------------------------------------------------


def _open(source: str, choice: _Choice, data_dir: str | None, stack: ExitStack, *, images: bool = True) -> _Found:
    """Open whatever a source is."""
    dataset = _located(source, choice, data_dir)
    if dataset is not None:
        return dataset
    path = Path(choice.path)
    suffix = path.suffix.lower()
    if not choice.path:
        raise InputError("input: expected a file or a data set, got an empty name; name one")
    if path.is_dir() or suffix == ".zip":
        files = find_idx_files(path) if path.is_dir() else {}
        return _of_idx(files, choice) if files else _of_files(path, choice, stack)
    if suffix in (".png", ".jpg", ".jpeg"):
        return _of_file(path, choice)
    if suffix == ".npy":
        choice.none()
        return _Found(_again(lambda stack: open_npy(path, stack, fortran=True)))
    if suffix == ".npz":
        return _of_arrays(path, lambda names, stack: _open_npz(path, names, stack), choice, images)
    if suffix in (".h5", ".hdf5"):
        return _of_h5(path, choice, images)
    raise InputError(f"{source}: expected {HELP}")


def _located(source: str, choice: _Choice, data_dir: str | None) -> _Found | None:
    """Images of a data set by name; or None, when the choice knows the path and the split.

    What exists as a path is one. Behind the last colon may stand a split; a colon before it belongs to the path.
    """
    if os.path.exists(source):
        return None
    head, colon, tail = source.rpartition(":")
    if not colon:
        return _of_name(source, None, None, choice, data_dir) if _is_name(source) else None
    if tail in _SPLIT_WORDS:
        choice.asked, choice.path = _SPLIT_WORDS[tail], head
        if _is_name(head):
            try:
                return _of_name(head, choice.asked, None, choice, data_dir)
            except InputError as error:
                if not (os.path.exists(head) and f"{head}: not found" in str(error)):
                    raise
        if not os.path.exists(head):
            raise InputError(f"{source}: there is no {head}; check the path, or the name of the data set")
        return None
    name, _, split = head.partition(":")
    split = _SPLIT_WORDS.get(split, split)
    if split in SPLITS and _is_name(name) and tail.isascii() and tail.isdecimal() and len(tail) < 10:
        choice.path = name
        return _of_name(name, split, int(tail), choice, data_dir)
    if os.path.exists(head) or _is_name(name) or Path(source).suffix.lower() not in (".npy", ".npz", ".h5", ".hdf5"):
        raise InputError(
            f"{source}: no such file; give PATH:SPLIT, or of a data set NAME:SPLIT or NAME:SPLIT:N, "
            f"SPLIT one of {', '.join(SPLITS)}"
        )
    return None


def _is_name(word: str) -> bool:
    """Whether a word can be the name of a data set."""
    try:
        check_dataset_name(word)
    except InputError:
        return False
    return True


def _of_name(name: str, split: str | None, number: int | None, choice: _Choice, data_dir: str | None) -> _Found:
    """A split of a data set that is known by its name."""
    choice.asked = split
    split = choice.among(SPLITS)
    sizes = {split: number} if number is not None else None
    return _of_dataset(load_dataset(name, data_dir=data_dir, sizes=sizes), split)


def _of_dataset(data: Dataset, split: str) -> _Found:
    chosen: Split = getattr(data, split)
    rows = max(1, _PIECE // math.prod(data.shape))

    def pieces() -> Iterator[NDArray[Any]]:
        for first in range(0, len(chosen), rows):
            yield chosen.pixels(slice(first, first + rows))

    return _Found(Rows((len(chosen), *data.shape), np.dtype(np.uint8), pieces), chosen.labels(), data.class_names)


def _of_idx(files: Mapping[str, Path], choice: _Choice) -> _Found:
    split = choice.among(("train", "test"))
    path = files[f"{split} images"]

    def opened(stack: ExitStack) -> OpenRows:
        file = stack.enter_context(IdxFile(path, ndim=3, what="images"))
        return OpenRows(file.shape, np.dtype(np.uint8), file.read)

    x = _again(opened)
    y = read_idx_labels(files[f"{split} labels"], num_images=x.shape[0])
    return _Found(x, y, tuple(str(digit) for digit in range(10)))


def _of_files(path: Path, choice: _Choice, stack: ExitStack) -> _Found:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    choice.of_files = True
    splits, left_out = splits_in_order(path, stack, choice.convert, labelled=not choice.unlabelled)
    if left_out:
        choice.notes.append(f"{path}: {left_out}")
    if ALL in splits:
        choice.none()
        choice.notes.append(f"{path}: has no folders train, validation or test; all its images are taken")
        split = ALL
    else:
        split = choice.among(tuple(splits))
    files = splits[split]()
    if not any(files.classes):
        return _Found(*_rows_of(files, choice), names=tuple(map(_storable, files.names)))
    classes = sorted(set(files.classes))
    if all(name.isascii() and name.isdecimal() for name in classes):
        classes.sort(key=int)
    class_names = check_class_names(str(path), classes, 1 << 16)
    label = {name: number for number, name in enumerate(classes)}
    y = np.array([label[name] for name in files.classes], dtype=np.int64)
    return _Found(*_rows_of(files, choice), y, class_names, tuple(map(_storable, files.names)))


def _of_file(path: Path, choice: _Choice) -> _Found:
    """One image, without a label."""
    choice.of_files = True
    choice.none()
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    files = single_image(path, choice.convert)
    return _Found(*_rows_of(files, choice), names=tuple(map(_storable, files.names)))


def _rows_of(files: ImageFiles, choice: _Choice) -> tuple[Rows]:
    """Pixels of image files; grey ones get three equal channels for a model that takes three."""
    channels, *size = files.shape
    copies = 3 if channels == 1 and choice.shape is not None and choice.shape[0] == 3 else 1
    if copies > 1:
        choice.notes.append(f"{choice.path}: grey images get three equal channels, as the model takes colours")
    shape = (copies * channels, *size)
    count, rows = len(files.names), max(1, _PIECE // math.prod(shape))

    def pieces() -> Iterator[NDArray[Any]]:
        for first in range(0, count, rows):
            yield np.repeat(files.decode(slice(first, first + rows)), copies, axis=1)

    return (Rows((count, *shape), np.dtype(np.uint8), pieces),)


def _storable(name: str) -> str:
    """A file's name as text that any file can hold, although the name may be of any bytes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


# Opens arrays by their names, as far as there are; a stack closes them.
_Opener = Callable[[Sequence[str], ExitStack], dict[str, OpenRows]]
_KNOWN = ("x", "images", "y", "labels", "split", "index")


def _open_npz(path: Path, names: Sequence[str], stack: ExitStack) -> dict[str, OpenRows]:
    return open_npz(path, names, stack, fortran=True, max_word=_MAX_NAME)


def _again(opened: Callable[[ExitStack], OpenRows], array: OpenRows | None = None) -> Rows:
    """An array that is opened anew whenever it is read; it may be given as it is opened now."""
    with ExitStack() as stack:
        shape, dtype, _ = array or opened(stack)
    at_once = max(1, _PIECE // max(1, math.prod(map(int, shape[1:])) * dtype.itemsize))

    def pieces() -> Iterator[NDArray[Any]]:
        with ExitStack() as stack:
            array = opened(stack)
            for first in range(0, shape[0], at_once):
                piece = array.read(min(at_once, shape[0] - first))
                yield piece.astype(piece.dtype.newbyteorder("="), copy=False)

    return Rows(tuple(shape), dtype.newbyteorder("="), pieces)


def _of_h5(path: Path, choice: _Choice, images: bool) -> _Found:
    """Arrays of any HDF5 file, results of this program, or a data set's record."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    if not is_record(path):
        return _of_arrays(path, lambda names, stack: open_h5(path, names, stack), choice, images)
    try:
        with open_record(path, kind="arrays", mend="choose a file of images") as record:
            words = record.meta
    except InputError:
        open_record(path, kind=RECORD, mend="choose a file of images").close()
        return _of_dataset(open_dataset(path), choice.among(SPLITS))

    def opened(names: Sequence[str], stack: ExitStack) -> dict[str, OpenRows]:
        record = stack.enter_context(open_record(path, kind="arrays", mend="choose a file of images"))

        def rows_of(name: str) -> OpenRows:
            start = 0

            def read(count: int) -> NDArray[Any]:
                nonlocal start
                start += count
                return record.read(name, start - count, start)

            return OpenRows(record.shape(name), record.dtype(name), read)

        return {name: rows_of(name) for name in names if name in record.names}

    return _of_arrays(path, opened, choice, images, words)


def _of_arrays(
    path: Path, opener: _Opener, choice: _Choice, images: bool, words: Mapping[str, Any] | None = None
) -> _Found:
    """Images, and what belongs to them, in the arrays of one file."""
    names_of_arrays = _KNOWN if words is not None else (*_KNOWN, CLASS_NAMES, IMAGE_NAMES)
    with ExitStack() as stack:
        arrays = opener(names_of_arrays, stack)
        if images and not {"x", "images"} & set(arrays):
            raise InputError(f"{choice.source}: has no array 'x' or 'images'; save the images under this name")
        name = next((name for name in NAMES["x"] if name in arrays), None)
        y = next((name for name in NAMES["y"] if name in arrays), None)
        if name is None and y is None:
            raise InputError(f"{choice.source}: has no array 'y' or 'labels'; save the labels under this name")
        x = Rows((0,), np.dtype(np.float32), lambda: iter(()))
        if name is not None:
            x = _again(lambda inner: opener([name], inner)[name], arrays[name])
            choice.check(x)
        count = arrays[name or y or ""].shape[0] if arrays[name or y or ""].shape else 0
        found = _Found(x, None if y is None else _one_each(path, "y", arrays[y], count))
        if words is None:
            words = {key: _words(path, key, arrays[key]) for key in (CLASS_NAMES, IMAGE_NAMES) if key in arrays}
        found = found._replace(**_names_in(path, words, count))
        if "index" in arrays and (arrays["index"].shape, arrays["index"].dtype) == ((count,), np.dtype(np.int64)):
            found = found._replace(rows=arrays["index"].read(count))
        split = _one_each(path, "split", arrays["split"], count) if "split" in arrays else None
    if split is not None:
        return _split_of(path, found, split, choice)
    choice.none()
    return found


def _names_in(path: Path, words: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Names of classes and of files, as far as a file has some that fit."""
    found: dict[str, Any] = {}
    class_names, names = words.get(CLASS_NAMES), words.get(IMAGE_NAMES)
    if class_names is not None:
        found["class_names"] = check_class_names(str(path), class_names, 1 << 16)
    if isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names):
        found["names"] = tuple(map(_storable, names))
    return found


def _words(path: Path, name: str, array: OpenRows) -> list[str] | None:
    """A list of words; names of files may be missing, but what labels stand for is not left out in silence."""
    if array.dtype.kind not in "SU" or len(array.shape) != 1:
        if name == CLASS_NAMES:
            raise InputError(f"{path}: {name}: expected words (k,), got {array.dtype} {array.shape}; save it as such")
        return None
    words = array.read(array.shape[0]).tolist()
    return [word.decode("utf-8", "backslashreplace") if isinstance(word, bytes) else str(word) for word in words]


def _one_each(path: Path, name: str, array: OpenRows, count: int) -> NDArray[Any]:
    """An array with one entry for each image, in memory."""
    if len(array.shape) != 1:
        raise InputError(f"{path}: {name}: expected 1 axes (n,), got {array.shape}")
    if array.shape[0] != count:
        raise InputError(f"{path}: {name}: {array.shape[0]} labels for {count} images; each image needs one")
    values = array.read(count)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _split_of(path: Path, found: _Found, words: NDArray[Any], choice: _Choice) -> _Found:
    """The images whose word is that of the chosen split."""
    if words.dtype.kind == "S":
        words = np.char.decode(words, "ascii", "replace")
    wrong = [word for word in np.unique(words).tolist() if word not in SPLITS]
    if wrong:
        raise InputError(f"{path}: split: expected the words {', '.join(SPLITS)}; got {wrong[0]!r}")
    there = [split for split in SPLITS if (words == split).any()]
    rows = words == choice.among(there) if there else np.zeros(len(words), dtype=bool)

    def pieces() -> Iterator[NDArray[Any]]:
        done = 0
        for piece in found.x.pieces():
            yield piece[rows[done : done + len(piece)]]
            done += len(piece)

    number = np.flatnonzero(rows)
    return _Found(
        Rows((len(number), *found.x.shape[1:]), found.x.dtype, pieces),
        None if found.y is None else found.y[rows],
        found.class_names,
        None if found.names is None else tuple(found.names[row] for row in number),
        number if found.rows is None else found.rows[rows],
    )


# Results -------------------------------------------------------------------------------------------------------------


def check_new(path: str, *, resume: bool = False, table: bool = False) -> Path:
    """Raise unless a result can be written there.

    Parameters
    ----------
    path : str
        Where a result is to go.
    resume : bool
        Whether it may be there already.
    table : bool
        Whether it can be a table, ``.csv``.

    Raises
    ------
    InputError
        If there is a file already, or no such folder, or the suffix is unknown.
    """
    if Path(path).suffix not in (".npy", ".npz", ".h5", *([".csv"] if table else [])):
        known = ".npy, .npz, .h5 or .csv" if table else ".npy, .npz or .h5"
        raise InputError(f"--out {path}: expected a name that ends in {known}")
    return check_free(path, resume=resume)


def check_free(path: str, *, resume: bool = False) -> Path:
    """Raise unless a file can be created.

    Parameters
    ----------
    path : str
        The file.
    resume : bool
        Whether it may be there already.
    """
    if Path(path).exists() and not resume:
        raise InputError(f"--out {path}: exists already; choose another name or delete it")
    if not Path(path).parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {Path(path).parent}; create it first")
    return Path(path)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any] | Rows], words: Mapping[str, Any] | None = None) -> None:
    """Write arrays to a new file, atomically; equal contents give equal bytes.

    Parameters
    ----------
    path : Path
        ``.npz`` or ``.h5``; an ``.npy`` gets the first array only, a ``.csv`` is that of `table_of_predictions`.
    arrays : mapping of str to ndarray or Rows
        By name.
    words : mapping, optional
        JSON-able, to be kept beside the arrays: in an ``.h5`` in the JSON of ``meta``; in an ``.npz`` lists of strings
        as arrays of strings, all else as JSON in the archive's comment, at most 64 KiB.
    """
    words = dict(words or {})
    if path.suffix == ".csv":
        text = table_of_predictions({name: _all_of(array) for name, array in arrays.items()}, words)
        atomic_write(path, text)
        return
    all_rows = {name: array if isinstance(array, Rows) else _in_one_piece(array) for name, array in arrays.items()}
    if path.suffix == ".h5":
        with write_record(path, words, kind="arrays") as record:
            for name in sorted(all_rows):
                record.create(name, all_rows[name].shape, all_rows[name].dtype)
            for name in sorted(all_rows):
                for piece in all_rows[name].pieces():
                    record.append(name, piece)
        return
    with aside(path) as raw:
        # Zip archives and .npy headers are written in small pieces.
        stream = io.BufferedRandom(raw, 1 << 16)
        try:
            if path.suffix == ".npy":
                _write_npy(stream, next(iter(all_rows.values())))
            else:
                _write_npz(stream, all_rows, words)
        finally:
            stream.detach()


def _all_of(array: NDArray[Any] | Rows) -> NDArray[Any]:
    return np.concatenate(list(array.pieces())) if isinstance(array, Rows) else array


def table_of_predictions(arrays: Mapping[str, NDArray[Any]], words: Mapping[str, Any]) -> str:
    """Write predictions as a table, a line each.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        ``predictions``, ``logits``, ``index`` and perhaps ``y``.
    words : mapping
        ``names`` of files and ``class_names``, if there are any.

    Returns
    -------
    str
        CSV: the image's number, its file if it has one, its class if that is known, the predicted class, and the
        probability that the mean logits give it. Classes have their names where the model or the data keeps some.
    """
    logits = arrays["logits"].astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = odds.max(axis=1) / odds.sum(axis=1)
    known = words.get(CLASS_NAMES) or ()

    def called(label: Any) -> Any:
        return known[label] if 0 <= label < len(known) else int(label)

    columns: dict[str, Iterable[Any]] = {"index": arrays["index"].tolist()}
    if words.get(IMAGE_NAMES):
        columns["file"] = words[IMAGE_NAMES]
    if "y" in arrays:
        columns["class"] = map(called, arrays["y"].tolist())
    columns["prediction"] = map(called, arrays["predictions"].tolist())
    columns["probability"] = [f"{one:.6g}" for one in probability]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return stream.getvalue()


def _in_one_piece(array: NDArray[Any]) -> Rows:
    return Rows(array.shape, array.dtype, lambda: iter((array,)))


def _write_npz(stream: Any, arrays: Mapping[str, Rows], words: Mapping[str, Any]) -> None:
    texts = {name: np.array(value, dtype=np.str_) for name, value in words.items() if isinstance(value, list)}
    rest = {name: value for name, value in words.items() if name not in texts}
    with zipfile.ZipFile(stream, "w") as archive:
        for name, rows in {**arrays, **{name: _in_one_piece(text) for name, text in texts.items()}}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _write_npy(member, rows)
        archive.comment = to_json("settings", rest, indent=None).encode()


def _write_npy(stream: Any, rows: Rows) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": rows.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    for piece in rows.pieces():
        stream.write(np.ascontiguousarray(piece).tobytes())


def read_settings(path: Path) -> dict[str, Any]:
    """What a finished result says of how it was made, after checking that the whole file is sound.

    Parameters
    ----------
    path : Path
        A file of `write_arrays`.
    """
    settings: Any = None
    if path.suffix == ".h5":
        with open_record(path, kind="arrays", mend="choose another --out, or delete it") as record:
            record.verify()
            settings = record.meta.get(SETTINGS)
    elif path.suffix == ".npz":
        with ExitStack() as stack, damage(path):
            archive = open_zip(path, stack)
            if archive.comment:
                settings = from_json(f"{path}: comment", archive.comment).get(SETTINGS)
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} is not what was written")
    if not isinstance(settings, dict):
        raise InputError(f"{path}: does not say how it was made; choose another --out, or delete it")
    return settings


def fingerprint_of_model(path: str | None) -> str | None:
    """SHA-256 of a model's file.

    Parameters
    ----------
    path : str, optional
        The file, or the name of a published network.
    """
    return None if path is None else file_sha256(network_file(path))
