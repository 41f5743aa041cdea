"""Where data sets are kept, and how they are loaded, fetched and imported by name.

A data set is looked for in these folders, in this order: the one given; the one named by the environment
variable MALADE_DATA; ``data`` in the working directory; the user's cache (``$MALADE_CACHE``, else
``$XDG_CACHE_HOME/malade``, else ``~/.cache/malade``). In a folder it is a record ``<name>.h5``, or, for MNIST, the
published files in ``mnist/``. These are converted once, into a record in the user's cache that is named by their
content; if it cannot be written there, they are read into memory each time. Folders that are only read from are
left as they are.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from malade_ref.checks import InputError
from malade_ref.datasets import synthetic
from malade_ref.datasets.download import download_gzip, payload_sha256
from malade_ref.datasets.idx import MNIST_FILES, find_idx_files
from malade_ref.datasets.importing import incoming_idx, read_incoming
from malade_ref.datasets.incoming import Incoming, Progress, write_dataset
from malade_ref.datasets.splits import (
    SPLITS,
    ArraySource,
    Dataset,
    Split,
    SyntheticSource,
    check_sizes,
    open_dataset,
)
from malade_ref.storage import file_sha256, make_folder, sweep_stale

SYNTHETIC_SIZES = {"train": 50_000, "validation": 10_000, "test": 10_000}

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
) -> Dataset:
    """Open a data set; images are read when they are asked for.

    Parameters
    ----------
    name : str
        ``"synthetic-digits"``, ``"mnist"``, or what was imported under this name.
    data_dir : path, optional
        Where to look first; nothing is written there.
    seed : int
        Of the synthetic digits; other data does not depend on it.
    sizes : mapping of str to int, optional
        How many images of ``train``, ``validation`` and ``test`` to use: the first ones. Synthetic digits can be
        had in any number; by default there are 50,000, 10,000 and 10,000.

    Returns
    -------
    Dataset
        Its splits; MNIST's are the first 50,000 and the last 10,000 training images and the 10,000 test images.

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
        found = _find(name, folder)
        if found is not None:
            return found.cut(sizes)
    where = ", ".join(map(str, folders))
    if name in load_sources():
        files = ", ".join(file["name"] for file in load_sources()[name]["files"])
        raise InputError(
            f"{name}: not found in {where}; run: malade data get {name}; or put {files} into {folders[0] / name}"
        )
    raise InputError(f"{name}: not found in {where}; run: malade data import PATH --name {name}")


def list_datasets(data_dir: str | Path | None = None) -> list[DatasetEntry]:
    """All data sets that are known or found.

    Parameters
    ----------
    data_dir : path, optional
        Where to look first.

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
            data = load_dataset(name, data_dir=data_dir)
        except InputError as error:
            missing = name in sources and name not in imported and str(error).startswith(f"{name}: not found")
            entries.append(DatasetEntry(name, False, "", f"{title}; malade data get {name}" if missing else str(error)))
            continue
        counts = " + ".join(f"{len(getattr(data, split)):,}" for split in SPLITS)
        size = " x ".join(map(str, data.shape))
        about = f"imported, {data.num_classes} classes, {size}, {counts}"
        if title and _is_published(name, data):
            about = f"{title}; published, checked"
        elif title:
            about = f"not the published {name}: {data.num_classes} classes, {size}, {counts}"
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
        present = next((found for found in (path, path.with_suffix("")) if found.exists()), None)
        if present is None:
            _check_writable(folder)
            urls = [mirror + file["name"] for mirror in mirrors or source["mirrors"]]
            try:
                download_gzip(
                    urls,
                    path,
                    sha256=file["sha256"],
                    num_bytes=file["num_bytes"],
                    progress=_part_of(progress, done / total, file["num_bytes"] / total),
                )
            except InputError as error:
                names = ", ".join(file["name"] for file in files)
                raise InputError(f"{name}: {error}, or put {names} into {folder} from any copy") from error
        elif payload_sha256(present, file["num_bytes"]) != file["sha256"]:
            raise InputError(f"{present}: is not the published file (its SHA-256 differs); move it away and try again")
        done += file["num_bytes"]
        if progress is not None:
            progress(done / total, f"{file['name']}: there and checked")
    return folder


def import_dataset(
    path: str | Path, name: str, data_dir: str | Path | None = None, progress: Progress | None = None
) -> Path:
    """Bring data from outside into a record that `load_dataset` finds.

    Parameters
    ----------
    path : path
        A folder of IDX files of MNIST's names; an ``.npz`` or ``.h5`` with ``images`` (uint8), ``labels`` and perhaps
        ``split`` (the words train, validation, test); a folder or ``.zip`` of ``train/<class>/*.png|jpg`` and perhaps
        ``validation`` and ``test``; or a record of malade's own.
    name : str
        Its name from now on: lower-case letters, digits and ``-``.
    data_dir : path, optional
        Where the record goes; by default the first folder of the search order that exists.
    progress : callable, optional
        Called now and then with the fraction done, in [0, 1], and a message.

    Raises
    ------
    InputError
        If the data is damaged or not understood, the name is taken, or the record cannot be written.
    """
    check_dataset_name(name)
    if name == synthetic.NAME:
        raise InputError(f"--name: {name} is built in; choose another name")
    folder = _destination(data_dir)
    target = folder / f"{name}.h5"
    if target.exists():
        raise InputError(f"{target}: exists already; choose another name or delete it")
    sweep_stale(folder, ".h5")
    with ExitStack() as stack:
        incoming = read_incoming(path, stack)
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


@functools.cache
def load_sources() -> Mapping[str, Any]:
    """The public data sets: the content of ``sources.toml``, described in ``data/README.md``."""
    text = resources.files("malade_ref.datasets").joinpath("sources.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


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


def _find(name: str, folder: Path) -> Dataset | None:
    """A data set in a folder, if it is there."""
    record = folder / f"{name}.h5"
    if record.exists():
        return _described(name, open_dataset(record))
    if name == "mnist":
        for place in (folder / name, folder):
            files = find_idx_files(place)
            if files:
                return _described(name, _from_idx(name, files, folder))
    return None


def _from_idx(name: str, files: Mapping[str, Path], folder: Path) -> Dataset:
    """The data set in IDX files, from the record made of them; made now if it is not there."""
    # The record is named by the content of the files, so it can never be one of other files.
    digest = hashlib.sha256("".join(file_sha256(files[what]) for what in MNIST_FILES).encode()).hexdigest()
    record = f"{name}.{digest[:16]}.h5"
    location = str(files["train images"].parent)
    for path in (place / record for place in (folder, *_user_cache())):
        if path.exists():
            with suppress(InputError):  # a damaged one is made anew
                return replace(open_dataset(path), location=location)
    for cache in _user_cache():
        with suppress(InputError), ExitStack() as stack:  # the record only saves time
            incoming = incoming_idx(files, stack)
            _check_writable(cache)
            sweep_stale(cache, ".h5")
            write_dataset(cache / record, name, incoming)
            return replace(open_dataset(cache / record), location=location)
    with ExitStack() as stack:
        incoming = incoming_idx(files, stack)
        return _in_memory(name, incoming, np.concatenate(list(incoming.blocks)), location)


def _check_writable(folder: Path) -> None:
    """Create a folder, or raise if it is not to be written to."""
    make_folder(folder)
    if not _may_write(folder):
        raise InputError(f"{folder}: is read-only; name another folder with --data-dir")


def _may_write(folder: Path) -> bool:
    """Whether a folder may be written to. Root could always, but heeds the folder's mode."""
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def _in_memory(name: str, incoming: Incoming, images: Any, location: str) -> Dataset:
    """The data set itself; its images come sorted by split."""
    source = ArraySource(images, incoming.labels)
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


def _is_published(name: str, data: Dataset) -> bool:
    """Whether every image and label is that of the publication."""
    splits = load_sources()[name]["splits"]
    return all(getattr(data, split).sha256() == splits[split] for split in SPLITS)


def _described(name: str, data: Dataset) -> Dataset:
    """The data set with a note on what it is: the published one, or not."""
    source = load_sources().get(name)
    if source is None:
        note = f"{name}: imported, not checked against a publication."
    elif _is_published(name, data):
        note = f"{source['title']} ({source['reference']}); checked, it is the published data."
    else:
        note = f"{name}: NOT the published data, its SHA-256 differs."
    return replace(data, name=name, note=f"{note} {data.note}".strip())
