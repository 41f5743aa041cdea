"""CIFAR-10 and CIFAR-100 in their binary version, in a folder or in a tar archive, perhaps compressed by gzip.

::

    CIFAR-10     data_batch_1.bin to data_batch_5.bin, test_batch.bin; names in batches.meta.txt
                 an image: its label, 3,072 pixels
    CIFAR-100    train.bin, test.bin; names in fine_label_names.txt and coarse_label_names.txt
                 an image: its coarse label, its fine label, 3,072 pixels

A label is one byte. Pixels are red, then green, then blue, each 32 rows of 32 bytes. A batch that is missing is named
in the data set's note, and the images of the others are used. Validation images are taken from the training images
by `hold_out`; both keep the order of the batches, and so do the test images.

An archive may be hostile: nothing is extracted, links in it lead nowhere, and no size in it is believed. It is read
from front to back: once for the labels and checksums, then once for each batch, so that batches come in their order.

Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Collection, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from malade_ref.checks import InputError, printable
from malade_ref.classes import check_class_names
from malade_ref.datasets.incoming import MAX_IMAGES, Incoming, damage, hold_out
from malade_ref.datasets.sources import Standing, load_sources, standing
from malade_ref.datasets.splits import Labels, Pixels
from malade_ref.storage import file_sha256
from malade_ref.storage.files import open_regular

SHAPE = (3, 32, 32)

_PIXELS = 3 * 32 * 32
_PIECE = 1 << 20  # bytes read at once, and as much as a header of an archive may take
_MAX_TEXT = 1 << 16  # of a file of names
_MAX_MEMBERS = 1000
_MAX_ARCHIVE = 1 << 34  # bytes, decompressed
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_FETCH = "fetch the file again"


class CifarFormat(NamedTuple):
    """How one of the two sets is stored.

    Attributes
    ----------
    name : str
        What `load_dataset` calls it.
    archive, folder : str
        Its published archive, and the folder in that.
    train : tuple of str
        Batches of training images.
    test : str
        Batch of test images.
    class_names : str
        File with the names of the classes, one a line.
    coarse_names : str
        File with the names of the coarse labels; empty if there are none.
    num_labels : int
        Labels of an image, each a byte; the last one is used.
    """

    name: str
    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    class_names: str
    coarse_names: str
    num_labels: int

    @property
    def batches(self) -> tuple[str, ...]:
        """All batches in order."""
        return (*self.train, self.test)


FORMATS = {
    "cifar10": CifarFormat(
        "cifar10",
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test_batch.bin",
        "batches.meta.txt",
        "",
        1,
    ),
    "cifar100": CifarFormat(
        "cifar100",
        "cifar-100-binary.tar.gz",
        "cifar-100-binary",
        ("train.bin",),
        "test.bin",
        "fine_label_names.txt",
        "coarse_label_names.txt",
        2,
    ),
}


def find_cifar(name: str, folder: Path) -> CifarFiles | None:
    """CIFAR's files in a folder.

    Parameters
    ----------
    name : {"cifar10", "cifar100"}
        Which of the two.
    folder : Path
        Where to look: for the archive, for the folder that it holds, and for the batches themselves.

    Returns
    -------
    CifarFiles or None
        The first of these that is there.
    """
    form = FORMATS[name]
    archive = folder / form.archive
    if archive.is_file():
        return CifarFiles(archive, form)
    for place in (folder / form.folder, folder):
        if _looks_like(form, {batch for batch in _files_of(form) if (place / batch).is_file()}):
            return CifarFiles(place, form)
    return None


def recognise_cifar(path: Path) -> CifarFiles | None:
    """CIFAR's files at a path that somebody named.

    Parameters
    ----------
    path : Path
        An archive of any name that ends as those of tar archives do, or a folder as in `find_cifar`.

    Returns
    -------
    CifarFiles or None
        None if it is a folder without them, or no archive.

    Raises
    ------
    InputError
        If an archive holds no batch.
    """
    if path.is_dir():
        return next((found for name in FORMATS if (found := find_cifar(name, path))), None)
    if not path.name.lower().endswith(_ARCHIVES):
        return None
    with _opened_archive(path) as archive:
        present = {name for name, _ in _members(path, archive)}
    for form in FORMATS.values():
        if _looks_like(form, present):
            return CifarFiles(path, form)
    raise InputError(
        f"{path}: holds none of the batches of CIFAR-10 or CIFAR-100 (binary version), such as "
        f"{FORMATS['cifar10'].test}; name another archive, or unpack it and name the folder"
    )


def _files_of(form: CifarFormat) -> tuple[str, ...]:
    return (*form.batches, form.class_names, *filter(None, [form.coarse_names]))


def _looks_like(form: CifarFormat, present: Collection[str]) -> bool:
    """Whether these files are of that format; ``train.bin`` alone could be anything."""
    telling = form.num_labels == 1 or form.class_names in present
    return telling and any(batch in present for batch in form.batches)


class _Batch(NamedTuple):
    """What is kept of a batch after a first look."""

    labels: Labels
    sha256: str


class CifarFiles:
    """Files of CIFAR-10 or CIFAR-100 in one place.

    Parameters
    ----------
    path : Path
        A folder or an archive, possibly damaged or hostile.
    form : CifarFormat
        Which of the two sets.
    """

    def __init__(self, path: Path, form: CifarFormat) -> None:
        self.path, self.form = path, form
        self._is_folder = path.is_dir()

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 in hexadecimal by which these files differ from others."""
        if not self._is_folder:
            return file_sha256(self.path)
        batches, texts = self._content
        content = [*((name, batch.sha256) for name, batch in sorted(batches.items())), *sorted(texts.items())]
        return hashlib.sha256(repr(content).encode()).hexdigest()

    @functools.cached_property
    def standing(self) -> Standing:
        """Whether these are the published files."""
        source = load_sources()[self.form.name]
        if not self._is_folder and self.sha256 == source["files"][0]["sha256"]:
            return Standing("published", "")
        batches, _ = self._content
        found = standing(source["members"], {name: batch.sha256 for name, batch in batches.items()})
        if found.kind != "not the published" and list(self.class_names()) != source["classes"]:
            return Standing("not the published", f"the names in {self.form.class_names} differ")
        return found

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, from the file of names; the published ones if it is missing.

        Raises
        ------
        InputError
            If the file has another number of names, or they are no names.
        """
        published = load_sources()[self.form.name]["classes"]
        _, texts = self._content
        if self.form.class_names not in texts:
            return tuple(published)
        names = _lines(texts[self.form.class_names])
        label = f"{self.path}: {self.form.class_names}"
        if len(names) != len(published):
            raise InputError(f"{label}: has {len(names)} names, expected {len(published)}, one a line; {_FETCH}")
        return check_class_names(label, names, len(published))

    def incoming(self) -> Incoming:
        """The data on its way into a record; closes its files when the blocks are used up, or collected."""
        batches, texts = self._content
        form = self.form
        counts = {name: len(batch.labels) for name, batch in batches.items()}
        labels = np.concatenate([batch.labels for batch in batches.values()])
        splits = np.repeat([2 * (name == form.test) for name in batches], list(counts.values()))
        splits = hold_out(labels, splits)
        num_train = sum(counts.get(name, 0) for name in form.train)
        notes = []
        missing = [name for name in form.batches if name not in batches]
        if missing:
            notes.append(
                f"Missing: {', '.join(missing)}; there are {num_train:,} training images and "
                f"{counts.get(form.test, 0):,} test images."
            )
        if num_train:
            notes.append(
                f"Validation: {num_train // 10:,} of the {num_train:,} training images, by a fixed permutation, as "
                "many of each class."
            )
        if form.coarse_names:
            coarse = _lines(texts.get(form.coarse_names, ""))[:20]
            named = f" ({printable(', '.join(coarse), 600)})" if coarse else ""
            notes.append(f"The labels are the fine ones; the coarse ones{named} are left out.")
        return Incoming(SHAPE, labels, splits, self.class_names(), self._blocks(), " ".join(notes))

    @functools.cached_property
    def _content(self) -> tuple[dict[str, _Batch], dict[str, str]]:
        """Labels and checksum of each batch, and the text of each file of names."""
        batches: dict[str, _Batch] = {}
        texts: dict[str, str] = {}
        num_classes = len(load_sources()[self.form.name]["classes"])
        with closing(self._streams(_files_of(self.form))) as streams:
            for name, size, stream in streams:
                if name in self.form.batches:
                    batches[name] = self._look(name, size, stream, num_classes)
                elif size > _MAX_TEXT:
                    raise InputError(f"{self.path}: {name}: has {size} bytes, expected a few names; {_FETCH}")
                else:
                    with damage(self.path):
                        texts[name] = stream.read(_MAX_TEXT).decode("utf-8")
        if sum(len(batch.labels) for batch in batches.values()) > MAX_IMAGES:
            raise InputError(f"{self.path}: holds more than the {MAX_IMAGES} images that can be read; {_FETCH}")
        if not batches:
            raise InputError(f"{self.path}: holds none of {', '.join(self.form.batches)}; {_FETCH}")
        return {name: batches[name] for name in self.form.batches if name in batches}, texts

    def _look(self, name: str, size: int, stream: Any, num_classes: int) -> _Batch:
        """Labels and checksum of a batch."""
        digest = hashlib.sha256()
        labels = []
        for rows in self._rows(name, size, stream):
            digest.update(rows.data)
            labels.append(rows[:, self.form.num_labels - 1].astype(np.int64))
        found = np.concatenate(labels)
        wrong = np.flatnonzero(found >= num_classes)
        if len(wrong):
            raise InputError(
                f"{self.path}: {name}: label {wrong[0]} is {found[wrong[0]]}, expected 0..{num_classes - 1}; {_FETCH}"
            )
        return _Batch(found, digest.hexdigest())

    def _blocks(self) -> Iterator[Pixels]:
        """Images of the batches in order, some at a time, checked against the first look."""
        for name, batch in self._content[0].items():
            digest = hashlib.sha256()
            with closing(self._streams([name])) as streams:
                for _, size, stream in streams:
                    for rows in self._rows(name, size, stream):
                        digest.update(rows.data)
                        yield rows[:, self.form.num_labels :].reshape(-1, *SHAPE)
                    break  # an archive is not read beyond
            if digest.hexdigest() != batch.sha256:
                raise InputError(f"{self.path}: {name}: changed while it was read; try again")

    def _rows(self, name: str, size: int, stream: Any) -> Iterator[Pixels]:
        """Records of a batch, (m, bytes of a record), about a mebibyte at a time."""
        width = self.form.num_labels + _PIXELS
        if not size or size % width:
            raise InputError(
                f"{self.path}: {name}: has {size} bytes, expected {width} for each image, at least one; {_FETCH}"
            )
        if size > MAX_IMAGES * width:
            raise InputError(f"{self.path}: {name}: holds more than the {MAX_IMAGES} images that can be read; {_FETCH}")
        done = 0
        while done < size:
            count = min(_PIECE // width * width, size - done)
            with damage(self.path):
                content = stream.read(count)
            if len(content) < count:
                raise InputError(f"{self.path}: {name}: ends after {done + len(content)} of {size} bytes; {_FETCH}")
            done += count
            yield np.frombuffer(content, dtype=np.uint8).reshape(-1, width)

    def _streams(self, wanted: Collection[str]) -> Generator[tuple[str, int, Any]]:
        """Files by name and size, each to be read before the next is asked for."""
        with damage(self.path):
            if self._is_folder:
                for name in wanted:
                    if (self.path / name).exists():
                        with open_regular(self.path / name) as file:
                            yield name, os.fstat(file.fileno()).st_size, file
                return
            with _opened_archive(self.path) as archive:
                for name, info in _members(self.path, archive):
                    if name in wanted:
                        stream = archive.extractfile(info)  # only opens it
                        yield name, info.size, stream


def _lines(text: str) -> list[str]:
    """Lines of a text that hold something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


# Archives -------------------------------------------------------------------------------------------------


class _Forward(io.RawIOBase):
    """A stream as ``tarfile`` may read it: a mebibyte at once at most, and never back to where it has been.

    So a header cannot ask for memory or lead in a circle.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _PIECE:
            raise ValueError(f"a header claims {size} bytes")
        content: bytes = self._stream.read(size)
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        here = self._stream.tell()
        if whence != io.SEEK_SET or not here <= offset <= _MAX_ARCHIVE:
            raise ValueError(f"a header leads from {here} to {offset}")
        place: int = self._stream.seek(offset)
        return place

    def tell(self) -> int:
        place: int = self._stream.tell()
        return place


@contextmanager
def _opened_archive(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar archive, perhaps compressed by gzip, to be read from front to back."""
    with damage(path), open_regular(path) as raw:
        compressed = raw.peek(2)[:2] == b"\x1f\x8b"
        stream: Any = gzip.GzipFile(fileobj=raw) if compressed else raw
        with tarfile.open(fileobj=_Forward(stream), mode="r:") as archive:
            yield archive


def _members(path: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Regular files in an archive by their names without folders; after the last, the rest is read to be checked."""
    seen = set()
    total = 0
    known = {name for form in FORMATS.values() for name in _files_of(form)}
    for number, info in enumerate(archive):
        total += max(0, info.size)
        if number >= _MAX_MEMBERS or total > _MAX_ARCHIVE:
            raise InputError(
                f"{path}: holds more than {_MAX_MEMBERS} files or {_MAX_ARCHIVE} bytes; name the archive of CIFAR"
            )
        name = PurePosixPath(info.name).name
        if name not in known or not info.isreg() or info.issparse():
            continue
        if name in seen:
            raise InputError(f"{path}: holds {name} twice; {_FETCH}")
        seen.add(name)
        yield name, info
    stream: Any = archive.fileobj
    while stream.read(_PIECE):  # to its end, where gzip's checksum is
        total += _PIECE
        if total > _MAX_ARCHIVE:
            raise InputError(f"{path}: goes on after its last file; {_FETCH}")
