"""Where data sets are kept, and how they are loaded, fetched and imported by name.

A data set is looked for in these folders, in this order: the one given; the one named by the environment
variable MALADE_DATA; ``data`` in the working directory; the user's cache (``$MALADE_CACHE``, else
``$XDG_CACHE_HOME/malade``, else ``~/.cache/malade``). In a folder it is a record ``<name>.h5``, or, for a public set,
the published files in a folder ``<name>``. These are converted once, into a record in the user's cache that is named by
their content; if it cannot be written there, they are read into memory each time. Folders that are only read from are
left as they are.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from malade_ref.checks import InputError
from malade_ref.datasets import synthetic
from malade_ref.datasets.cifar import FORMATS, find_cifar
from malade_ref.datasets.download import download_gzip, payload_sha256
from malade_ref.datasets.from_images import parse_conversion
from malade_ref.datasets.idx import MNIST_FILES, find_idx_files
from malade_ref.datasets.importing import incoming_idx, read_incoming
from malade_ref.datasets.incoming import Incoming, Progress, write_dataset
from malade_ref.datasets.sources import Standing, load_sources
from malade_ref.datasets.splits import (
    MEND,
    RECORD,
    SPLITS,
    ArraySource,
    Dataset,
    Split,
    SyntheticSource,
    check_sizes,
    open_dataset,
)
from malade_ref.datasets.tiny_imagenet import NAME as TINY_IMAGENET
from malade_ref.datasets.tiny_imagenet import find_tiny_imagenet
from malade_ref.storage import file_sha256, make_folder, open_record, sweep_stale

SYNTHETIC_SIZES = {"train": 50_000, "validation": 10_000, "test": 10_000}

_MAX_IN_MEMORY = 1 << 28  # bytes of images, where no record can be written

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class DatasetEntry(NamedTuple):
    """A line of the list of data sets.

    Attributes
    ----------
    name : str
        What `load_dataset` calls it.
    found : bool
        Whether it can be loaded.
    location : str
        Where it is.
    description : str
        What it is, or what is wrong with it.
    """

    name: str
    found: bool
    location: str
    description: str


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open a data set; images are read when they are asked for.

    Parameters
    ----------
    name : str
        ``"synthetic-digits"``, ``"mnist"``, ``"cifar10"``, ``"cifar100"``, ``"tiny-imagenet"``, or what was imported
        under this name.
    data_dir : path, optional
        Where to look first; nothing is written there.
    seed : int
        Of the synthetic digits; other data does not depend on it.
    sizes : mapping of str to int, optional
        How many images of ``train``, ``validation`` and ``test`` to use: the first ones. Synthetic digits can be
        had in any number; by default there are 50,000, 10,000 and 10,000.
    progress : callable, optional
        Called now and then while files are converted for the first time, with the fraction done, in [0, 1], and a
        message.

    Returns
    -------
    Dataset
        Its splits; MNIST's are the first 50,000 and the last 10,000 training images and the 10,000 test images. Of the
        others, a tenth of the training images is for validation, see `malade_ref.datasets.cifar` and
        `malade_ref.datasets.tiny_imagenet`.

    Raises
    ------
    InputError
        If the data is not found, damaged, or smaller than asked for.

    Examples
    --------
    >>> data = load_dataset("synthetic-digits", sizes={"train": 100, "test": 20})
    >>> len(data.train), data.test.images(slice(0, 5)).shape, data.num_classes
    (100, (5, 1, 28, 28), 10)
    """
    check_dataset_name(name)
    if name == synthetic.NAME:
        return _synthetic(seed, sizes)
    folders = search_folders(data_dir)
    for folder in folders:
        found = _find(name, folder, progress)
        if found is not None:
            return _described(name, *found).cut(sizes)
    where = ", ".join(map(str, folders))
    if name in load_sources():
        files = ", ".join(file["name"] for file in load_sources()[name]["files"])
        raise InputError(
            f"{name}: not found in {where}; run: malade data get {name}; or put {files} into {folders[0] / name}"
        )
    raise InputError(f"{name}: not found in {where}; run: malade data import PATH --name {name}")


def list_datasets(data_dir: str | Path | None = None, progress: Progress | None = None) -> list[DatasetEntry]:
    """All data sets that are known or found.

    Parameters
    ----------
    data_dir : path, optional
        Where to look first.
    progress : callable, optional
        As of `load_dataset`: files of public sets that were never used are converted.

    Returns
    -------
    list of DatasetEntry
        The synthetic ones, the public ones, then the imported ones by name.
    """
    sources = load_sources()
    folders = search_folders(data_dir)
    imported = {path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.h5")}
    names = [*sources, *sorted(name for name in imported - set(sources) if _NAME.fullmatch(name))]
    entries = [DatasetEntry(synthetic.NAME, True, "built in", "drawn by a program from a seed, 28 x 28, any number")]
    for name in names:
        title = sources[name]["title"] if name in sources else ""
        try:
            found = next((found for folder in folders if (found := _find(name, folder, progress))), None)
        except InputError as error:
            entries.append(DatasetEntry(name, False, "", str(error)))
            continue
        if found is None:
            entries.append(DatasetEntry(name, False, "", f"{title}; malade data get {name}"))
            continue
        data, standing = found
        counts = " + ".join(f"{len(getattr(data, split)):,}" for split in SPLITS)
        about = f"{data.num_classes} classes, {' x '.join(map(str, data.shape))}, {counts}"
        if standing is None:
            about = f"imported, {about}"
        elif standing.kind == "published":
            about = f"{title}; published, checked"
        elif standing.kind == "part of the published":
            about = f"{title}; part of the published, checked ({standing.why}): {counts}"
        elif standing.kind == "not known":
            about = f"{title}; not known to be the published {name}: {about}"
        else:
            about = f"not the published {name}: {about}"
        entries.append(DatasetEntry(name, True, data.location, about))
    return entries


def get_dataset(
    name: str,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    *,
    mirrors: Sequence[str] | None = None,
) -> Path:
    """Download a public data set, and check it.

    Parameters
    ----------
    name : str
        A data set with public mirrors, such as ``"mnist"``.
    data_dir : path, optional
        Where it goes, into a folder of its name; by default the first folder of the search order that exists.
    progress : callable, optional
        Called now and then with the fraction done, in [0, 1], and a message.
    mirrors : sequence of str, optional
        Addresses of folders, ending in ``/``, in place of the known ones.

    Returns
    -------
    Path
        The folder with its files. Files that were there already are kept.

    Raises
    ------
    InputError
        If there is no such public set, no mirror can be reached, or a file there is another one.
    """
    check_dataset_name(name)
    source = load_sources().get(name)
    if source is None:
        raise InputError(f"{name}: has no public mirror, {', '.join(load_sources())} has; import a copy of it instead")
    folder = _destination(data_dir) / name
    files = source["files"]
    total = sum(file["num_bytes"] for file in files)
    done = 0
    for file in files:
        path = folder / file["name"]
        packed = file.get("packed", False)
        places = (path,) if packed else (path, path.with_suffix(""))
        present = next((found for found in places if found.exists()), None)
        if present is None:
            _check_writable(folder)
            urls = [mirror + file["name"] for mirror in mirrors or source["mirrors"]]
            try:
                download_gzip(
                    urls,
                    path,
                    sha256=file["sha256"],
                    num_bytes=file["num_bytes"],
                    packed=packed,
                    progress=_part_of(progress, done / total, file["num_bytes"] / total),
                )
            except InputError as error:
                names = ", ".join(file["name"] for file in files)
                raise InputError(f"{name}: {error}, or put {names} into {folder} from any copy") from error
        elif payload_sha256(present, file["num_bytes"], packed=packed) != file["sha256"]:
            raise InputError(f"{present}: is not the published file (its SHA-256 differs); move it away and try again")
        done += file["num_bytes"]
        if progress is not None:
            progress(done / total, f"{file['name']}: there and checked")
    return folder


def import_dataset(
    path: str | Path,
    name: str,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    *,
    resize: str | None = None,
    convert: str | None = None,
) -> Path:
    """Bring data from outside into a record that `load_dataset` finds.

    Parameters
    ----------
    path : path
        A folder of IDX files of MNIST's names; a folder or ``.tar.gz`` of CIFAR's batches (binary version); a folder or
        ``.zip`` of Tiny ImageNet; an ``.npz`` or ``.h5`` with ``images`` (uint8), ``labels`` and perhaps
        ``split`` (the words train, validation, test); a folder or ``.zip`` of ``train/<class>/*.png|jpg`` and perhaps
        ``validation`` and ``test``, or of ``<class>/*.png|jpg``; or a record of malade's own.
    name : str
        Its name from now on: lower-case letters, digits and ``-``.
    data_dir : path, optional
        Where the record goes; by default the first folder of the search order that exists.
    progress : callable, optional
        Called now and then with the fraction done, in [0, 1], and a message.
    resize : str, optional
        Of image files: ``N`` or ``HxW``, to which each is scaled and cut; the data's note says so.
    convert : {"rgb", "grey"}, optional
        Of image files: the colours to bring them to; see `malade_ref.datasets.from_images.Conversion`.

    Raises
    ------
    InputError
        If the data is damaged or not understood, the name is taken, or the record cannot be written.
    """
    check_dataset_name(name)
    conversion = parse_conversion(resize, convert)
    if name == synthetic.NAME:
        raise InputError(f"--name: {name} is built in; choose another name")
    folder = _destination(data_dir)
    target = folder / f"{name}.h5"
    if target.exists():
        raise InputError(f"{target}: exists already; choose another name or delete it")
    sweep_stale(folder, ".h5")
    with ExitStack() as stack:
        incoming = read_incoming(path, stack, conversion)
        _check_writable(folder)
        write_dataset(target, name, incoming, progress)
    return target


def check_dataset_name(name: str) -> str:
    """Let only names of data sets pass: lower-case letters, digits and ``-``.

    Parameters
    ----------
    name : str
        The name.

    Raises
    ------
    InputError
        If it is none; so no name can lead out of a folder.
    """
    if not _NAME.fullmatch(str(name)):
        raise InputError(f"data set: expected a name of at most 64 lower-case letters, digits and '-', got {name!r}")
    return name


def search_folders(data_dir: str | Path | None = None) -> list[Path]:
    """Folders in which data is looked for, in order.

    Parameters
    ----------
    data_dir : path, optional
        The first of them.

    Returns
    -------
    list of Path
        Those that were named exist; the user's cache is among them even if it does not.

    Raises
    ------
    InputError
        If a folder that was named, here or by MALADE_DATA, does not exist.
    """
    folders = []
    for what, named in _named_folders(data_dir):
        if not named.is_dir():
            raise InputError(f"{what}: {named} is no folder; check the path")
        folders.append(named)
    folders += [folder for folder in (Path("data"),) if folder.is_dir()]
    return list(dict.fromkeys([*folders, *_user_cache()]))


def _named_folders(data_dir: str | Path | None) -> list[tuple[str, Path]]:
    """The folders that the user named, and how."""
    named = [("--data-dir", data_dir), ("MALADE_DATA", os.environ.get("MALADE_DATA"))]
    return [(what, Path(folder).expanduser()) for what, folder in named if folder]


def _user_cache() -> list[Path]:
    """The user's cache, if the user has one."""
    own = os.environ.get("MALADE_CACHE", "")
    if own:
        return [Path(own).expanduser()]
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return [Path(base) / "malade"]
    home = os.path.expanduser("~")
    return [Path(home) / ".cache" / "malade"] if os.path.isabs(home) else []


def _destination(data_dir: str | Path | None) -> Path:
    """Where new data goes."""
    named = [folder for _, folder in _named_folders(data_dir)]
    if not named:
        named = [folder for folder in (Path("data"),) if folder.is_dir()] + _user_cache()
    if not named:
        raise InputError("data: no folder to put it in; name one with --data-dir")
    return named[0]


def _part_of(progress: Progress | None, start: float, share: float) -> Progress | None:
    """Progress of one part of a task, as progress of the whole."""
    if progress is None:
        return None
    return lambda fraction, message: progress(start + share * fraction, message)


def _synthetic(seed: int, sizes: Mapping[str, int] | None) -> Dataset:
    counts = {**SYNTHETIC_SIZES, **check_sizes(sizes)}
    synthetic.synthetic_digits(0, seed=seed)  # checks the seed
    splits = {split: Split(SyntheticSource(seed, split), 0, counts[split]) for split in SPLITS}
    return Dataset(
        synthetic.NAME,
        **splits,
        num_classes=synthetic.NUM_CLASSES,
        shape=(1, synthetic.SIDE, synthetic.SIDE),
        class_names=tuple(str(digit) for digit in range(synthetic.NUM_CLASSES)),
        note=f"{synthetic.NOTE} Seed {seed}.",
        location="built in",
    )


def _find(name: str, folder: Path, progress: Progress | None) -> tuple[Dataset, Standing | None] | None:
    """A data set in a folder, if it is there, and what it is beside the published one; None of a record."""
    record = folder / f"{name}.h5"
    if record.exists():
        data = open_dataset(record)
        return data, _standing_of_splits(name, data)
    for place in (folder / name, folder):
        if name == "mnist" and (idx := find_idx_files(place)):
            # The record is named by the content of the files, so it can never be one of other files.
            digest = hashlib.sha256("".join(file_sha256(idx[what]) for what in MNIST_FILES).encode()).hexdigest()
            location = str(idx["train images"].parent)
            data = _converted(name, digest, lambda stack: incoming_idx(idx, stack), folder, location, progress)
            return data, _standing_of_splits(name, data)
        if name in FORMATS and (cifar := find_cifar(name, place)):
            read = lambda stack: cifar.incoming()  # noqa: E731
            location = str(cifar.path)
            return _converted(name, cifar.sha256, read, folder, location, progress), cifar.standing
        if name == TINY_IMAGENET and (tiny := find_tiny_imagenet(place)):
            return _converted(name, tiny.sha256, tiny.incoming, folder, str(tiny.path), progress), tiny.standing
    return None


def _converted(
    name: str,
    sha256: str,
    read: Callable[[ExitStack], Incoming],
    folder: Path,
    location: str,
    progress: Progress | None,
) -> Dataset:
    """The data set in published files, from the record made of them; made now if it is not there or damaged."""
    record = f"{name}.{sha256[:16]}.h5"
    for path in (place / record for place in (folder, *_user_cache())):
        if path.exists():
            with suppress(InputError):
                return replace(_verified(path), location=location)
    failure = InputError(f"{name}: too large to be read into memory; name a folder for its record: MALADE_CACHE=DIR")
    for cache in _user_cache():
        try:
            with ExitStack() as stack:
                incoming = read(stack)
                _check_writable(cache)
                sweep_stale(cache, ".h5")
                write_dataset(cache / record, name, incoming, progress)
                return replace(open_dataset(cache / record), location=location)
        except InputError as error:  # of the cache or of the data: the latter comes again
            failure = error
    with ExitStack() as stack:
        incoming = read(stack)
        if len(incoming.labels) * math.prod(incoming.shape) > _MAX_IN_MEMORY:
            raise failure
        return _in_memory(name, incoming, location)


def _verified(path: Path) -> Dataset:
    """The data set in a record whose content is what it was when it was written."""
    with open_record(path, kind=RECORD, mend=MEND) as record:
        record.verify()
    return open_dataset(path)


def _check_writable(folder: Path) -> None:
    """Create a folder, or raise if it is not to be written to."""
    make_folder(folder)
    if not _may_write(folder):
        raise InputError(f"{folder}: is read-only; name another folder with --data-dir")


def _may_write(folder: Path) -> bool:
    """Whether a folder may be written to. Root could always, but heeds the folder's mode."""
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def _in_memory(name: str, incoming: Incoming, location: str) -> Dataset:
    """The data set itself, of images that are not sorted by split."""
    order = np.argsort(incoming.splits, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    images = np.empty((len(order), *incoming.shape), dtype=np.uint8)
    done = 0
    for block in incoming.blocks:
        images[place[done : done + len(block)]] = block
        done += len(block)
    source = ArraySource(images, incoming.labels[order])
    ends = np.cumsum(np.bincount(incoming.splits, minlength=len(SPLITS))).tolist()
    splits = {split: Split(source, first, last) for split, first, last in zip(SPLITS, [0, *ends], ends, strict=False)}
    return Dataset(
        name,
        **splits,
        num_classes=len(incoming.class_names),
        shape=incoming.shape,
        class_names=incoming.class_names,
        note=incoming.note,
        location=location,
    )


def _standing_of_splits(name: str, data: Dataset) -> Standing | None:
    """Whether every image and label is that of the publication; None if that cannot be told from the splits."""
    splits = load_sources().get(name, {}).get("splits")
    if splits is None:
        return None
    same = all(getattr(data, split).sha256() == splits[split] for split in SPLITS)
    return Standing("published", "") if same else Standing("not the published", "its SHA-256 differs")


def _described(name: str, data: Dataset, standing: Standing | None) -> Dataset:
    """The data set with a note on what it is beside the published one."""
    if standing is None:
        note = f"{name}: imported, not checked against a publication."
    else:
        source = load_sources()[name]
        note = standing.sentence(name, f"{source['title']} ({source['reference']})")
    return replace(data, name=name, note=f"{note} {data.note}".strip())
