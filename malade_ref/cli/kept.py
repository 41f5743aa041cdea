"""Work on images block by block, each kept on the disk as it is done: in the folder ``FILE.partial`` beside the result.

The folder holds a record of the settings and a shard for each block. So an interrupted computation is gone on with, to
the same bits, memory holds one block, and a result never gets to stand for a question that it does not answer.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.bundle.shards import Group
from malade_ref.checkpoint import load_state, save_state
from malade_ref.checks import InputError
from malade_ref.cli.console import Meter, say
from malade_ref.cli.files import CLASS_NAMES, IMAGE_NAMES, SETTINGS, Images, Rows, read_settings, write_arrays
from malade_ref.storage import differences, from_json, is_temporary, to_json

Arrays = dict[str, NDArray[Any]]

# Results with more bytes an image than this are written block by block, others in one piece.
SMALL = 256


def partial_of(out: Path) -> Path:
    """Where unfinished work on a result is kept.

    Parameters
    ----------
    out : Path
        The result.

    Returns
    -------
    Path
        A file or a folder beside it.
    """
    return out.with_name(f"{out.name}.partial")


def check_question(place: Path, made: Mapping[str, Any], asked: Mapping[str, Any], how: str) -> None:
    """Raise unless a result answers what is asked.

    Parameters
    ----------
    place : Path
        The result.
    made, asked : mapping
        The settings it was made with, and those of now.
    how : str
        Such as ``"was made"``.
    """
    for key, old, new in differences(dict(made), from_json("settings", to_json("settings", dict(asked)))):
        raise InputError(
            f"{place}: {how} with {key} = {_short(old)}, now it is {_short(new)}; "
            "give the same settings, choose another --out, or delete it"
        )


def _short(value: str) -> str:
    return value if len(value) <= 80 else f"{value[:77]}..."


@contextmanager
def interruptible(arguments: argparse.Namespace, partial: Path) -> Iterator[None]:
    """Let an interrupt say how to go on, if anything is kept.

    Parameters
    ----------
    arguments : argparse.Namespace
        Its ``argv``.
    partial : Path
        Where work is kept.

    Raises
    ------
    KeyboardInterrupt
        With the command that goes on.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not partial.exists():
            raise
        words = shlex.join(["malade", *(word for word in arguments.argv if word != "--resume"), "--resume"])
        raise KeyboardInterrupt(f"what was done is kept; go on with: {words}") from None


class Kept:
    """Blocks of one computation.

    Parameters
    ----------
    out : Path
        The result.
    settings : mapping
        All that it depends on, JSON-able.
    count, size : int
        Images altogether and in a block.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], count: int, size: int) -> None:
        self.out, self.settings = out, dict(settings)
        self.folder = partial_of(out)
        digest = hashlib.sha256(to_json("settings", self.settings, indent=None).encode()).hexdigest()
        self.group = Group(out.name, self.folder, count, size, digest, {})

    def finished(self) -> bool:
        """Whether the result is there, as it would be made now; leftovers of the work on it are removed."""
        kept = self._kept_settings()
        if not self.out.exists():
            if kept is not None:  # before a model is tried, and much is said
                check_question(self.folder, kept, self.settings, "was begun")
            return False
        made = kept if kept is not None and self.out.suffix in (".npy", ".csv") else read_settings(self.out)
        check_question(self.out, made, self.settings, "was made")
        self.remove()
        return True

    def begin(self) -> int:
        """Prepare the folder, or take up what it holds.

        Returns
        -------
        int
            How many blocks are there.
        """
        kept = self._kept_settings()
        if kept is not None:
            check_question(self.folder, kept, self.settings, "was begun")
        else:
            self.folder.mkdir(exist_ok=True)
            save_state(self._state, {}, {SETTINGS: self.settings})
        done = 0
        for first, last in self.group.ranges():
            if not self.group.file(first, last).exists():
                break
            self.group.load(first, last)
            done += 1
        return done

    def finish(self, images: Images, labels: NDArray[np.int64] | None, columns: Mapping[str, str]) -> Arrays:
        """Write the result from the blocks, and remove them.

        Parameters
        ----------
        images : Images
            What the results are of.
        labels : ndarray of shape (n,), int64, or None
            To be written beside them.
        columns : mapping of str to str
            Names of the blocks' arrays, and what they are called in the file, in its order.

        Returns
        -------
        dict of str to ndarray
            The small arrays.
        """
        group = self.group
        group.load(*next(group.ranges()))
        large = [name for name, (shape, dtype) in group.specs.items() if _row_bytes(shape, dtype) > SMALL]
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in columns if name not in large}
        for first, last in group.ranges():
            block = group.load(first, last)
            for name, part in parts.items():
                part.append(block[name])
        small = {name: np.concatenate(part) for name, part in parts.items()}

        def rows_of(name: str) -> Rows:
            shape, dtype = group.specs[name]
            pieces = (group.load(*bounds)[name] for bounds in group.ranges())
            return Rows((group.num_samples, *shape), dtype, lambda: pieces)

        arrays: dict[str, NDArray[Any] | Rows] = {
            called: rows_of(name) if name in large else small[name] for name, called in columns.items()
        }
        if labels is not None:
            arrays["y"] = labels
        write_arrays(self.out, {**arrays, "index": images.index}, words_of(images, self.settings))
        self.remove()
        return small

    def remove(self) -> None:
        """Remove the folder, but nothing in it that is not of this computation."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return
        shards = {self.group.file(*bounds).name for bounds in self.group.ranges()} | {self._state.name}
        for path in list(self.folder.iterdir()):
            if path.name in shards or is_temporary(path.name):
                path.unlink()
        with suppress(OSError):
            self.folder.rmdir()

    @property
    def _state(self) -> Path:
        return self.folder / "settings.h5"

    def _kept_settings(self) -> Mapping[str, Any] | None:
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise InputError(f"{self.folder}: is no folder of kept blocks; move it away or delete it")
        if not self._state.exists():
            return None
        settings = load_state(self._state).meta.get(SETTINGS)
        if not isinstance(settings, dict):
            raise InputError(f"{self.folder}: does not say how it was begun; delete it")
        return settings


def _row_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def words_of(images: Images, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a result says besides its arrays.

    Parameters
    ----------
    images : Images
        What it is of.
    settings : mapping
        How it was made.

    Returns
    -------
    dict
        For `write_arrays`.
    """
    names = None if images.names is None else list(images.names)
    classes = None if images.class_names is None else list(images.class_names)
    words = {SETTINGS: dict(settings), CLASS_NAMES: classes, IMAGE_NAMES: names}
    return {name: value for name, value in words.items() if value is not None}


def in_blocks(
    title: str,
    images: Images,
    work: Callable[[NDArray[np.float32], slice, Meter], Arrays],
    *,
    size: int,
    kept: Kept | None,
) -> Arrays:
    """Do something to images, some at a time; every image keeps its number, and so its noise.

    Parameters
    ----------
    title : str
        What is done.
    images : Images
        To what.
    work : callable
        From a block of images, their numbers, and a meter to the results.
    size : int
        Images in a block.
    kept : Kept, optional
        Keeps the blocks; without, they are gathered in memory.

    Returns
    -------
    dict of str to ndarray
        All results if they are not kept, nothing otherwise.
    """
    done = 0 if kept is None else kept.begin()
    count, first = len(images), done * size
    if done:
        say(f"{min(first, count)} of them were done already")
    meter, parts = Meter(title), []
    try:
        for x in images.blocks(size, first):
            part = slice(first, first + len(x))
            meter(first / count, f"image {first} of {count}")
            found = work(x, part, meter)
            if kept is None:
                parts.append(found)
            else:
                kept.group.save(part.start, part.stop, found)
            first = part.stop
    except (KeyboardInterrupt, InputError):
        if kept is not None and first == 0:  # nothing was done: a setting that was wrong may be another the next time
            kept.remove()
        raise
    finally:
        meter.close()
    return {name: np.concatenate([found[name] for found in parts]) for name in parts[0]} if parts else {}
