"""Data sets in folders or zips of images, ``train/<class>/*.png|jpg``: the one part here that needs Pillow.

Images in folders within a class are of that class. What other programs leave (names that begin with ``.``, ``@`` or
``__``, and a few more, see `_OTHERS`) is left out with all that is in it, and so is whatever is no image; the data
set's note counts and names it. What an image is, its own header says, not its name: PNGs with more than 8 bits a
channel are refused, JPEGs are counted as not exact whatever they are called.

Archives may be hostile: nothing is extracted, names of members are only read, and an image's size is known
before its pixels are decoded.
"""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from malade_ref.checks import InputError, printable
from malade_ref.classes import check_class_names
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
from malade_ref.datasets.splits import SPLITS, Pixels
from malade_ref.ops.random import derive_key, permutation
from malade_ref.storage.files import cannot_read, one_line, open_regular

MAX_IMAGE_FILE = 1 << 26

_SUFFIXES = (".png", ".jpg", ".jpeg")
# In upper or lower case.
_SPLIT_FOLDERS = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "test": 2, "testing": 2}
_MAX_DEPTH = 32  # of folders within folders
# Names that other programs give to what they leave in people's folders, besides those that begin with . @ or __
_OTHERS = {"#recycle", "$recycle.bin", "desktop.ini", "lost+found", "system volume information", "thumbs.db"}
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# Modes of Pillow that a conversion takes, besides those that need none.
_CONVERTED = ("1", "L", "P", "RGB", "LA", "PA", "RGBA")
_KINDS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"RIFF": "a WebP",
    b"\0\0\x01\0": "an icon",
}


class Conversion(NamedTuple):
    """How image files are brought to one form; without it they must have one already.

    Attributes
    ----------
    resize : tuple of two int, optional
        Height and width. An image is scaled (bicubic, with antialiasing) until it just covers them, and what juts out
        on both sides is cut off.
    mode : {"", "rgb", "grey"}
        Colours. "rgb" gives grey images three equal channels; "grey" takes the luma of ITU-R BT.601. With either,
        transparent pixels are put on white.
    """

    resize: tuple[int, int] | None = None
    mode: str = ""

    def __str__(self) -> str:
        """Return what is done, for a note."""
        said = []
        if self.resize is not None:
            said.append(f"scaled to cover {self.resize[0]} x {self.resize[1]} (bicubic) and cut to their middle")
        if self.mode:
            said.append(f"converted to {self.mode}, what is transparent put on white")
        return ", ".join(said)


AS_THEY_ARE = Conversion()


def parse_conversion(resize: str | None, mode: str | None) -> Conversion:
    """The conversion that a command line asks for.

    Parameters
    ----------
    resize : str, optional
        ``N`` for squares, or ``HxW``.
    mode : str, optional
        "rgb", "grey" or "gray".

    Raises
    ------
    InputError
        If the size is none.
    """
    mode = {"gray": "grey", None: ""}.get(mode, mode)
    if resize is None:
        return Conversion(None, mode or "")
    parts = resize.lower().split("x")
    good = len(parts) <= 2 and all(part.isascii() and part.isdecimal() and len(part) < 6 for part in parts)
    sizes = [int(part) for part in parts] if good else []
    if not sizes or not all(0 < size <= MAX_SIDE for size in sizes):
        raise InputError(
            f"--resize: expected N or HxW, at most {MAX_SIDE} pixels a side, got {printable(resize, 60)!r}"
        )
    return Conversion((sizes[0], sizes[-1]), mode or "")


def incoming_images(path: Path, stack: ExitStack, convert: Conversion = AS_THEY_ARE) -> Incoming:
    """Data in a folder or a zip of ``train/<class>/*.png|jpg``, perhaps also ``validation`` and ``test``.

    Files come sorted by class; they are put in a fixed random order, so that the first so many of a split are
    a fair sample of it.

    Parameters
    ----------
    path : Path
        The folder or zip.
    stack : ExitStack
        Closes it when the blocks are used up.
    convert : Conversion
        What is done to the images.

    Returns
    -------
    Incoming
        The data; a missing validation or test split is chosen at random, both if there are only folders of classes.
    """
    _pillow(path)
    left_out = _LeftOut()
    files = _files_in_folder(path, left_out) if path.is_dir() else _files_in_zip(path, stack, left_out)
    without = not files
    if without:
        left_out = _LeftOut()
        files = _files_without_splits(path, stack, left_out)
    if not files:
        seen = f"; {left_out}" if left_out.counts else ""
        raise InputError(f"{path}: holds no train/<class>/*.png or *.jpg{seen}; arrange the images like this")
    if len(files) > MAX_IMAGES:
        raise InputError(f"{path}: holds {len(files)} images, at most {MAX_IMAGES} can be read; import a part of them")
    names = sorted({file.class_name for file in files})
    if without and len(names) < 2:
        raise InputError(
            f"{path}: holds no train/<class>/*.png or *.jpg, and without folders of splits one class only, "
            f"{printable(names[0], 60)!r}; arrange the images as <class>/*.png"
        )
    if len(names) > MAX_CLASSES or not all(name.isprintable() and len(name) <= 100 for name in names):
        raise InputError(f"{path}: expected at most {MAX_CLASSES} classes with short printable names; rename them")
    if all(name.isascii() and name.isdecimal() for name in names):
        names.sort(key=int)
    class_names = check_class_names(str(path), names, MAX_CLASSES)
    unseen = {file.class_name for file in files} - {file.class_name for file in files if file.split == 0}
    if unseen and any(file.split == 0 for file in files):
        raise InputError(f"{path}: class {min(unseen)!r} has no folder in train; rename or add it")
    files.sort(key=lambda file: (file.split, file.class_name, file.name))
    files = [files[i] for i in permutation(len(files), key=derive_key(0, "datasets/order"))]

    shape, lossy, turned = common_shape(path, files, convert)
    label = {name: i for i, name in enumerate(names)}
    labels = np.array([label[file.class_name] for file in files], dtype=np.int64)
    splits = complete_splits(np.array([file.split for file in files], dtype=np.int64), shuffle=True)
    notes = [f"{lossy} of {len(files)} images were JPEG files, whose pixels are not exact."] if lossy else []
    notes += [f"{turned} of {len(files)} images were turned as their EXIF data say."] if turned else []
    notes += [f"{left_out}."] if left_out.counts else []
    notes += [f"Images were {convert}."] if str(convert) else []
    notes += (
        ["There were no folders of splits: validation and test are a sixth each, chosen at random."] if without else []
    )
    return Incoming(shape, labels, splits, class_names, image_blocks(path, files, shape, convert), " ".join(notes))


def image_blocks(
    path: Path, files: Sequence[ImageFile], shape: tuple[int, int, int], convert: Conversion = AS_THEY_ARE
) -> Iterator[Pixels]:
    """Pixels of images, some at a time.

    Parameters
    ----------
    path : Path
        The folder or archive, for complaints.
    files : sequence of ImageFile
        The images.
    shape : tuple of three int
        The (c, h, w) of all of them; if c is 3, grey images get three equal channels.
    convert : Conversion
        What is done to them.

    Yields
    ------
    ndarray of shape (m, c, h, w), uint8
        The next of them, in order.
    """
    rows_at_once = max(1, BLOCK_BYTES // math.prod(shape))
    for first in range(0, len(files), rows_at_once):
        yield np.stack([_decode(path, file, shape, convert) for file in files[first : first + rows_at_once]])


def files_below(path: Path, stack: ExitStack) -> dict[tuple[str, ...], Callable[[], bytes]]:
    """Files in a folder or a zip, whatever they are; nothing is extracted.

    Parameters
    ----------
    path : Path
        The folder or zip.
    stack : ExitStack
        Closes it.

    Returns
    -------
    dict
        By the parts of its path, what reads a file's bytes, at most 64 MiB.
    """
    with damage(path):
        if path.is_dir():
            return {parts: partial(_read_file, path.joinpath(*parts)) for parts, why in _walk(path) if not why}
        archive = open_zip(path, stack)
        return {
            parts: partial(_read_member, path, archive, info) for parts, info in _members(path, archive, _LeftOut())
        }


class ImageFiles(NamedTuple):
    """Image files of one split, in order.

    Attributes
    ----------
    names : tuple of str
        Path of each below the folder or in the archive, such as ``test/cat/1.png``.
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


def splits_in_order(
    path: Path, stack: ExitStack, convert: Conversion = AS_THEY_ARE, *, labelled: bool = True
) -> tuple[dict[str, Callable[[], ImageFiles]], str]:
    """Image files as they lie there: by split, sorted by class folder and file name, character by character.

    Parameters
    ----------
    path : Path
        A folder or zip of ``SPLIT/<class>/*.png|jpg``, or of ``<class>/*.png|jpg`` without splits.
    stack : ExitStack
        Closes it.
    convert : Conversion
        What is done to the images.
    labelled : bool
        Whether images must lie in folders of classes; else those of a folder without such folders have the class "".

    Returns
    -------
    splits : dict of str to callable
        For each split that has images, how to look at them; ``"all"`` if there are no folders of splits.
    left_out : str
        What was left out, for a note; empty if nothing was.

    Raises
    ------
    InputError
        If there are no such images; the callables, if the images do not fit together.
    """
    _pillow(path)
    left_out = _LeftOut()
    files = _files_in_folder(path, left_out) if path.is_dir() else _files_in_zip(path, stack, left_out)
    without = not files
    if without:
        left_out = _LeftOut()
        files = _files_without_splits(path, stack, left_out)
        if not files and not labelled:
            left_out = _LeftOut()
            files = _files_without_classes(path, stack, left_out)
    if not files:
        seen = f"; {left_out}" if left_out.counts else ""
        raise InputError(f"{path}: holds no train/<class>/*.png or *.jpg{seen}; arrange the images like this")

    def of_split(chosen: list[ImageFile]) -> ImageFiles:
        shape, _, _ = common_shape(path, chosen, convert)
        return ImageFiles(
            tuple(file.path for file in chosen),
            tuple(file.class_name for file in chosen),
            shape,
            lambda part: np.stack([_decode(path, file, shape, convert) for file in chosen[part]]),
        )

    by_split: dict[str, list[ImageFile]] = {}
    for file in sorted(files, key=lambda file: (file.split, file.class_name, file.name)):
        by_split.setdefault("all" if without else SPLITS[file.split], []).append(file)
    return {split: partial(of_split, chosen) for split, chosen in by_split.items()}, str(
        left_out
    ) if left_out.counts else ""


def single_image(path: Path, convert: Conversion = AS_THEY_ARE) -> ImageFiles:
    """One file as a split of its own, of the class "".

    Parameters
    ----------
    path : Path
        A PNG or JPEG.
    convert : Conversion
        What is done to it.
    """
    file = ImageFile(0, "", path.name, path.name, partial(_read_file, path))
    shape, _, _ = common_shape(path.parent, [file], convert)
    names, classes = (file.path,), ("",)
    return ImageFiles(names, classes, shape, lambda part: _decode(path.parent, file, shape, convert)[None][part])


class ImageFile(NamedTuple):
    """An image that has not been read yet.

    Attributes
    ----------
    split : int
        0 train, 1 validation, 2 test.
    class_name : str
        The folder of its class.
    name, path : str
        Its name in that folder, and below the folder or in the archive of all images.
    read : callable
        Gives the bytes of the file.
    """

    split: int
    class_name: str
    name: str
    path: str
    read: Callable[[], bytes]


class _LeftOut:
    """What is left out: how many files for which reason, and a name for each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.names: dict[str, str] = {}

    def add(self, why: str, name: str) -> None:
        """Count a file."""
        self.counts[why] += 1
        self.names.setdefault(why, printable(name, 60))

    def __str__(self) -> str:
        parts = [f"{count} {why} ({self.names[why]!r})" for why, count in self.counts.items()]
        return f"{self.counts.total()} files were left out: {', '.join(parts)}"


_NO_IMAGE = "that were no .png or .jpg"
_FOREIGN = "hidden or left by other programs"
_NO_CLASS = "in no class folder"


def _is_foreign(name: str) -> bool:
    """Whether a file or folder is hidden, or of those that other programs leave."""
    return name not in (".", "..") and (name.startswith((".", "@", "__")) or name.lower() in _OTHERS)


def _split_number(folder: str) -> int | None:
    """Number of the split that a folder's name stands for."""
    return _SPLIT_FOLDERS.get(folder.casefold())


def _files_in_folder(path: Path, left_out: _LeftOut) -> list[ImageFile]:
    """Images in the folders of the splits and classes; nothing is looked at if there are no such folders."""
    found: list[ImageFile] = []
    with damage(path):
        if not any(_split_number(entry.name) is not None and entry.is_dir() for entry in path.iterdir()):
            return found
        for top in sorted(path.iterdir()):
            foreign, number = _FOREIGN if _is_foreign(top.name) else "", _split_number(top.name)
            alone = [((), "" if top.is_file() else "that were no files")]
            for inner, reason in _walk(top) if top.is_dir() else alone:
                parts, why = (top.name, *inner), foreign or reason
                name = "/".join(parts)
                if why:
                    left_out.add(why, name)
                elif not parts[-1].lower().endswith(_SUFFIXES):
                    left_out.add(_NO_IMAGE, name)
                elif number is None or len(parts) < 3:
                    left_out.add(_NO_CLASS, name)
                else:
                    read = partial(_read_file, path.joinpath(*parts))
                    found.append(ImageFile(number, parts[1], "/".join(parts[2:]), name, read))
    return found


def _walk(top: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Files below a folder by the parts of their names, and why they are left out; links are followed, once."""
    if not top.is_dir():
        return
    waiting: list[tuple[tuple[str, ...], str]] = [((), "")]
    seen = set()
    while waiting:
        parts, why = waiting.pop()
        folder = top.joinpath(*parts)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen or len(parts) > _MAX_DEPTH:
            yield parts, "folders in a circle of links, or too deep"
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                inner, reason = (*parts, entry.name), why or (_FOREIGN if _is_foreign(entry.name) else "")
                if entry.is_dir():
                    waiting.append((inner, reason))
                else:
                    yield inner, reason or ("" if entry.is_file() else "that were no files")


def _files_without_splits(path: Path, stack: ExitStack, left_out: _LeftOut) -> list[ImageFile]:
    """Images in the folders of classes, where there are no folders of splits."""
    members: list[tuple[tuple[str, ...], str, Callable[[], bytes]]] = []
    with damage(path):
        if path.is_dir():
            members = [(parts, why, partial(_read_file, path.joinpath(*parts))) for parts, why in _walk(path)]
        else:
            archive = open_zip(path, stack)
            for parts, info in _members(path, archive, left_out):
                why = _FOREIGN if any(map(_is_foreign, parts)) else ""
                members.append((parts, why, partial(_read_member, path, archive, info)))
    images = [parts for parts, why, _ in members if not why and parts[-1].lower().endswith(_SUFFIXES)]
    root: tuple[str, ...] = ()
    # Around the folders of the classes an archive often has one more.
    while not path.is_dir() and images and all(len(parts) > 2 + len(root) for parts in images):
        tops = {parts[: len(root) + 1] for parts in images}
        if len(tops) > 1:
            break
        root = tops.pop()
    _check_no_splits(path, [parts[len(root) :] for parts in images if parts[: len(root)] == root])
    found = []
    for parts, why, read in members:
        below = parts[len(root) :] if parts[: len(root)] == root else ()
        if why or len(below) < 2 or not parts[-1].lower().endswith(_SUFFIXES):
            reason = why or (_NO_CLASS if parts[-1].lower().endswith(_SUFFIXES) else _NO_IMAGE)
            left_out.add(reason, "/".join(parts))
        else:
            found.append(ImageFile(0, below[0], "/".join(below[1:]), "/".join(below), read))
    return found


def _files_without_classes(path: Path, stack: ExitStack, left_out: _LeftOut) -> list[ImageFile]:
    """Images at the top of a folder or archive that has none in folders of classes."""
    members: list[tuple[tuple[str, ...], str, Callable[[], bytes]]] = []
    with damage(path):
        if path.is_dir():
            members = [(parts, why, partial(_read_file, path.joinpath(*parts))) for parts, why in _walk(path)]
        else:
            archive = open_zip(path, stack)
            members = [
                (parts, "", partial(_read_member, path, archive, info))
                for parts, info in _members(path, archive, left_out)
            ]
    found = []
    for parts, why, read in members:
        name = "/".join(parts)
        reason = why or (_FOREIGN if any(map(_is_foreign, parts)) else "")
        if reason or not parts[-1].lower().endswith(_SUFFIXES):
            left_out.add(reason or _NO_IMAGE, name)
        else:
            found.append(ImageFile(0, "", name, name, read))
    return found


def _check_no_splits(path: Path, images: list[tuple[str, ...]]) -> None:
    """Raise if folders of splits would be taken for classes, or for folders within classes."""
    for parts in images:
        inner = next((i for i, part in enumerate(parts[1:-1], 1) if _split_number(part) is not None), None)
        if inner is not None:
            raise InputError(
                f"{path}: has a folder of a split within another, {printable('/'.join(parts[: inner + 1]), 80)!r}; "
                "name the folder that holds train/<class>/*.png, or arrange the images like this"
            )
    tops = sorted({parts[0] for parts in images if len(parts) > 1})
    if tops and all(_split_number(top) is not None for top in tops):
        raise InputError(
            f"{path}: has images in {', '.join(tops[:3])}, in no class folder; arrange them as train/<class>/*.png"
        )


def _read_file(path: Path) -> bytes:
    with open_regular(path) as file:
        try:
            content = file.read(MAX_IMAGE_FILE + 1)
        except OSError as error:
            raise cannot_read(printable(path, 1000), error) from error
    if len(content) > MAX_IMAGE_FILE:
        raise InputError(f"{printable(path, 1000)}: larger than {MAX_IMAGE_FILE} bytes; leave it out")
    return content


def _files_in_zip(path: Path, stack: ExitStack, left_out: _LeftOut) -> list[ImageFile]:
    """Images in an archive, below whatever folder holds the splits."""
    found: list[ImageFile] = []
    with damage(path):
        archive = open_zip(path, stack)
        members = _members(path, archive, left_out)
    root = _root_of(path, [parts for parts, _ in members if not any(map(_is_foreign, parts))])
    for parts, info in members:
        below = parts[len(root) :]
        number = _split_number(below[0]) if below and parts[: len(root)] == root else None
        inside = number is not None
        if any(map(_is_foreign, below if inside else parts)):
            left_out.add(_FOREIGN, info.filename)
        elif not parts[-1].lower().endswith(_SUFFIXES):
            left_out.add(_NO_IMAGE, info.filename)
        elif number is None or len(below) < 3:
            left_out.add(_NO_CLASS, info.filename)
        else:
            read = partial(_read_member, path, archive, info)
            found.append(ImageFile(number, below[1], "/".join(below[2:]), "/".join(below), read))
    return found


def _members(path: Path, archive: zipfile.ZipFile, left_out: _LeftOut) -> list[tuple[tuple[str, ...], zipfile.ZipInfo]]:
    """Files in an archive by the parts of their names, each of which stands once."""
    found: dict[tuple[str, ...], zipfile.ZipInfo] = {}
    for info in archive.infolist():
        # Some programs of Windows write its own separators.
        text = info.filename if "/" in info.filename else info.filename.replace("\\", "/")
        if info.is_dir() or text.endswith("/"):
            continue
        parts = PurePosixPath(text).parts
        if not parts:
            left_out.add("without a name", info.filename)
        elif parts in found:
            raise InputError(f"{path}: holds {printable(info.filename, 80)!r} twice; pack it again")
        else:
            found[parts] = info
    return list(found.items())


def _root_of(path: Path, members: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The folder of an archive in which the folders of the splits lie."""
    images = [parts for parts in members if parts[-1].lower().endswith(_SUFFIXES)]
    roots = {
        next(parts[:i] for i, part in enumerate(parts[:-2]) if _split_number(part) is not None)
        for parts in images
        if any(_split_number(part) is not None for part in parts[:-2])
    }
    if len(roots) > 1:
        raise InputError(f"{path}: holds several data sets; make a zip of each")
    root = roots.pop() if roots else ()
    # A folder that is called as a split, and holds the splits: train/train/<class>.
    below = [parts[len(root) :] for parts in images if parts[: len(root)] == root]
    if len({parts[0] for parts in below}) == 1 and all(
        len(parts) > 3 and _split_number(parts[1]) is not None for parts in below
    ):
        root = (*root, below[0][0])
    return root


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


def common_shape(
    path: Path, files: Sequence[ImageFile], convert: Conversion = AS_THEY_ARE
) -> tuple[tuple[int, int, int], int, int]:
    """Look at the headers of images, whose sizes must agree.

    Parameters
    ----------
    path : Path
        The folder or archive, for complaints.
    files : sequence of ImageFile
        The images, at least one.
    convert : Conversion
        What is done to them.

    Returns
    -------
    shape : tuple of three int
        Their (c, h, w): one channel if all are grey, else three.
    lossy, turned : int
        How many are not exact, and how many are to be turned as their EXIF data say.
    """
    sizes: dict[tuple[int, int], ImageFile] = {}
    colour = False
    lossy = turned = 0
    for file in files:
        with _opened(path, file, convert) as image:
            turn = _turn(image)
            size = image.size[::-1] if turn in _QUARTERS else image.size
            size = size if convert.resize is None else convert.resize[::-1]
            sizes.setdefault(size, file)
            colour = colour or image.mode == "RGB" or (image.mode == "P" and not _is_grey(image))
            lossy += image.format != "PNG"
            turned += turn is not None
        if len(sizes) > 1:
            (size, first), (other, second) = sizes.items()
            raise InputError(
                f"{path}: {printable(first.name, 80)!r} has {size[0]} x {size[1]} pixels and "
                f"{printable(second.name, 80)!r} {other[0]} x {other[1]}; bring all images to one size"
                ", or pass --resize N"
            )
    ((width, height),) = sizes
    channels = {"rgb": 3, "grey": 1}.get(convert.mode, 3 if colour else 1)
    return (channels, height, width), lossy, turned


def _turn(image: Any) -> Any:
    """How an image is to be turned or mirrored by its EXIF data, as Pillow calls it; None if it is not."""
    methods = _pillow(Path()).Transpose
    names = [
        "FLIP_LEFT_RIGHT",
        "ROTATE_180",
        "FLIP_TOP_BOTTOM",
        "TRANSPOSE",
        "ROTATE_270",
        "TRANSVERSE",
        "ROTATE_90",
    ]  # orientations 2 to 8
    orientation = image.getexif().get(_ORIENTATION, 1)
    return methods[names[orientation - 2]] if orientation in range(2, 9) else None


_ORIENTATION = 274
_QUARTERS = (2, 4, 5, 6)  # Pillow's numbers of the methods that exchange height and width


def _is_grey(image: Any) -> bool:
    """Whether a palette holds nothing but grey."""
    palette = image.getpalette() or []
    return palette[0::3] == palette[1::3] == palette[2::3]


def _decode(path: Path, file: ImageFile, shape: tuple[int, int, int], convert: Conversion = AS_THEY_ARE) -> Pixels:
    """Pixels of an image, of the given (c, h, w)."""
    with _opened(path, file, convert) as image:
        turn = _turn(image)
        upright = image if turn is None else image.transpose(turn)
        if convert.mode:
            upright = _on_white(upright)
        if convert.resize is not None:
            upright = _covering(upright, *convert.resize)
        if upright.size != (shape[2], shape[1]):
            raise InputError(
                f"{path}: {printable(file.path, 200)}: has {upright.size[1]} x {upright.size[0]} pixels, others have "
                f"{shape[1]} x {shape[2]}; bring all images to one size"
            )
        pixels = np.asarray(upright.convert("L" if shape[0] == 1 else "RGB"), dtype=np.uint8)
        return pixels.reshape(shape[1], shape[2], shape[0]).transpose(2, 0, 1)


def _on_white(image: Any) -> Any:
    """An image without transparency, in grey or RGB."""
    transparent = image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info
    if not transparent:
        return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode in ("1", "L") else "RGB")
    whole = image.convert("RGBA")
    white = _pillow(Path()).new("RGBA", whole.size, "white")
    white.alpha_composite(whole)
    return white.convert("L" if image.mode == "LA" else "RGB")


def _covering(image: Any, height: int, width: int) -> Any:
    """The middle of an image that was scaled until it just covers a size."""
    own_width, own_height = image.size
    if (own_height, own_width) == (height, width):
        return image
    # The part of the image with the proportions wanted, as Pillow scales any box of it.
    scale = min(own_width / width, own_height / height)
    left, top = (own_width - scale * width) / 2, (own_height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    plain = (
        image
        if image.mode in ("L", "RGB")
        else image.convert("L" if image.mode == "1" or _is_grey_mode(image) else "RGB")
    )
    return plain.resize((width, height), _pillow(Path()).Resampling.BICUBIC, box=box)


def _is_grey_mode(image: Any) -> bool:
    return image.mode == "P" and _is_grey(image)


def _check_format(label: str, content: bytes) -> None:
    """Raise unless the first bytes are those of a JPEG, or of a PNG with one picture of at most 8 bits a channel."""
    if content.startswith(_JPEG):
        return
    if not content.startswith(_PNG):
        kind = next((kind for start, kind in _KINDS.items() if content.startswith(start)), "no PNG or JPEG")
        raise InputError(f"{label}: not a whole image (it is {kind} file); save it as PNG, or leave it out")
    depth = content[24] if len(content) > 24 and content[12:16] == b"IHDR" else 0
    if depth > 8:
        raise InputError(f"{label}: has {depth} bits a channel, of which 8 would be lost; save it with 8 bits")
    if b"acTL" in content[: content.find(b"IDAT")]:
        raise InputError(f"{label}: is an animation of several pictures; save each as an image")


@contextmanager
def _opened(path: Path, file: ImageFile, convert: Conversion = AS_THEY_ARE) -> Iterator[Any]:
    """An image whose size and mode have been checked; decoders' complaints become one line."""
    label = f"{path}: {printable(file.path, 200)}"
    content = file.read()
    _check_format(label, content)
    try:
        # The size is known before the pixels are decoded, so a bomb is refused and never goes off.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _pillow(path).open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                if max(image.size) > MAX_SIDE:
                    raise InputError(f"{label}: has more than {MAX_SIDE} pixels a side; scale it down")
                plain = image.mode in ("1", "L", "P", "RGB") and "transparency" not in image.info
                if not plain and not (convert.mode and image.mode in _CONVERTED):
                    what = "transparent" if "transparency" in image.info else f"of the mode {image.mode}"
                    mend = ", or pass --convert rgb" if not convert.mode and image.mode in _CONVERTED else ""
                    raise InputError(f"{label}: is {what}; save it as grey or RGB, 8 bits{mend}")
                yield image
    except InputError:
        raise
    except Exception as error:  # a decoder of hostile bytes may raise anything
        # Pillow names an object of ours where it finds no picture.
        what = "its header is damaged" if "cannot identify" in str(error) else printable(one_line(error), 200)
        raise InputError(f"{label}: not a whole image ({what}); leave it out") from error
