"""Trained networks that are kept: a training whose recipe was carried out before is not repeated.

A folder with one file for each training, named by the SHA-256 of its recipe: everything that decides which bits come
out (see `malade_ref.experiment.models.recipe_of`). Its name in an experiment is no part of the recipe. A file holds the
network, its history, the recipe, and when and with what software it was trained. It appears whole or not at all, and is
checked against its own SHA-256 whenever it is taken; a damaged one is removed, and the network trained again.

Two runs that need the same network at the same time do not both train it: the second waits for the first. If that one
is killed, its lock goes with it, and the second trains.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from malade_ref.bundle import describe_environment
from malade_ref.bundle.lock import Lock, LockedError
from malade_ref.checks import InputError
from malade_ref.network import Network
from malade_ref.storage import (
    Record,
    is_temporary,
    load_record,
    make_folder,
    one_line,
    open_record,
    save_record,
    to_json,
)

OFF = "off"
VARIABLE = "MALADE_STORE"

_KIND = "training"
_NAME = re.compile(r"([0-9a-f]{64})\.h5")
_LOCKS = "locks"
_WAIT = 0.2  # seconds between two looks at a lock
_OLD = 24 * 3600.0  # seconds after which a file that a killed writer left is swept away

History = Mapping[str, Sequence[float | None]]


class Kept(NamedTuple):
    """A network from the store.

    Attributes
    ----------
    network : Network
        As it was trained.
    history : dict of str to list of float
        Numbers an epoch.
    entry : Entry
        What is known of it.
    """

    network: Network
    history: dict[str, list[float]]
    entry: Entry


class Entry(NamedTuple):
    """What is known of a kept network.

    Attributes
    ----------
    key : str
        SHA-256 of the recipe.
    path : Path
        Its file.
    size : int
        Bytes.
    used : float
        When it was trained or last taken, seconds since 1970.
    meta : dict
        ``recipe``, ``title``, ``data``, ``fingerprint``, ``trained`` (UTC), ``seconds``, ``environment``, ``last`` (the
        last epoch's numbers); ``architecture`` and ``metadata`` of the network.
    """

    key: str
    path: Path
    size: int
    used: float
    meta: dict[str, Any]

    @property
    def date(self) -> str:
        """The day on which it was trained."""
        return str(self.meta.get("trained", ""))[:10]


def key_of(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of a recipe.

    Parameters
    ----------
    recipe : mapping
        JSON-able.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return hashlib.sha256(to_json("recipe", recipe, indent=None).encode()).hexdigest()


def store_folder(setting: str = "") -> Path | None:
    """Where trained networks are kept.

    Parameters
    ----------
    setting : str
        ``off``, or a folder; by default what the variable MALADE_STORE says, else ``malade/models`` in the user's
        cache.

    Returns
    -------
    Path or None
        None if nothing is kept.
    """
    chosen = setting or os.environ.get(VARIABLE, "")
    if chosen == OFF:
        return None
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~")
    base = Path(cache) if os.path.isabs(cache) else Path(home) / ".cache"
    return base / "malade" / "models" if base.is_absolute() else None


class Store:
    """A folder of trained networks.

    Parameters
    ----------
    folder : Path
        It need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """File of a training."""
        return self.folder / f"{key}.h5"

    def take(self, key: str, *, ops: ModuleType, tell: Callable[[str], None]) -> Kept | None:
        """A network that was trained by a recipe, if it is there and whole.

        Parameters
        ----------
        key : str
            Of the recipe, from `key_of`.
        ops : module
            The backend.
        tell : callable
            Told in one line if there is one that cannot be used; it is removed.

        Returns
        -------
        Kept or None
            None if it has to be trained.
        """
        path = self.path(key)
        if not os.path.lexists(path):
            return None
        try:
            record = load_record(path, kind=_KIND)
            entry = _entry(key, path, record.meta)
            params = {name.removeprefix("params/"): array for name, array in _part(record, "params/").items()}
            network = Network.from_architecture(
                record.meta["architecture"],
                {name: ops.asarray(array) for name, array in params.items()},
                metadata=record.meta["metadata"],
                ops=ops,
            )
            same = key_of(record.meta["recipe"]) == key and network.fingerprint() == record.meta["fingerprint"]
            complaint = "" if same and _is_whole(entry.meta) else f"{path}: is not what its name says"
        except (InputError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError) as error:
            complaint = one_line(error)
        if complaint:
            removed = "was removed" if _removed(path) else "cannot be removed"
            tell(f"a kept network is damaged and {removed}; it is trained again ({complaint})")
            return None
        with suppress(OSError):  # when it was last used; of no weight if the folder is read-only
            os.utime(path)
        history = {name: values.tolist() for name, values in _part(record, "history/").items()}
        return Kept(network, {name.removeprefix("history/"): values for name, values in history.items()}, entry)

    def put(
        self, recipe: Mapping[str, Any], network: Network, history: History, *, title: str, data: str, seconds: float
    ) -> None:
        """Keep a trained network. Of two writers with one recipe, either may win: they have the same bits.

        Parameters
        ----------
        recipe : mapping
            What decided its bits.
        network : Network
            The network.
        history : mapping
            Numbers an epoch.
        title : str
            What the experiment calls it.
        data : str
            Name of the data.
        seconds : float
            How long the training took.
        """
        make_folder(self.folder)
        arrays = {f"params/{name}": network.ops.to_host(array) for name, array in network.params.items()}
        arrays |= {f"history/{name}": np.array(values, dtype=np.float64) for name, values in history.items()}
        meta = {
            "recipe": dict(recipe),
            "title": title,
            "data": data,
            "architecture": network.architecture(),
            "metadata": network.metadata,
            "fingerprint": network.fingerprint(),
            "trained": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "last": {name: float(values[-1]) for name, values in history.items() if values and values[-1] is not None},
            "environment": {**_software(), "device": network.ops.describe_device()},
        }
        save_record(self.path(key_of(recipe)), arrays, meta, kind=_KIND)

    @contextmanager
    def claim(self, key: str, tell: Callable[[str], None]) -> Iterator[None]:
        """Alone with a recipe: others that need it wait. Look once more whether it is there when the block begins.

        Parameters
        ----------
        key : str
            Of the recipe.
        tell : callable
            Told in one line if another run has it.

        Yields
        ------
        None
            Nothing. Where locks cannot be made, two runs may train the same; no harm is done.
        """
        path = self.folder / _LOCKS / key
        lock: Lock | None = None
        told = False
        while lock is None:
            try:
                lock = Lock(path)
            except LockedError as error:
                if not told:
                    told = True
                    tell(f"another run (process {error.owner}) is training this network; waiting for it")
                time.sleep(_WAIT)
            except InputError:
                break  # a folder that cannot be written to
        try:
            yield
        finally:
            if lock is not None:
                with suppress(OSError):
                    path.unlink()
                lock.release()

    def entries(self) -> list[Entry]:
        """All networks that are kept; what cannot be read has no ``meta``.

        Returns
        -------
        list of Entry
            Newest use first.
        """
        found = []
        try:
            names = sorted(os.listdir(self.folder))
        except OSError:
            return []
        for name in names:
            match = _NAME.fullmatch(name)
            if match:
                path = self.folder / name
                try:
                    with open_record(path, kind=_KIND) as record:
                        meta = record.meta
                except InputError:
                    meta = {}
                meta = meta if _is_whole(meta) else {}
                with suppress(OSError):  # another process has just removed it
                    found.append(_entry(match[1], path, meta))
        return sorted(found, key=lambda entry: (-entry.used, entry.key))

    def remove(self, entry: Entry) -> None:
        """Remove a network.

        Parameters
        ----------
        entry : Entry
            Which.
        """
        if not _removed(entry.path):
            raise InputError(f"{entry.path}: cannot be removed; check the permissions of its folder")

    def sweep(self) -> None:
        """Remove what killed writers left aside long ago."""
        with suppress(OSError):
            for name in os.listdir(self.folder):
                path = self.folder / name
                if is_temporary(name) and time.time() - path.lstat().st_mtime > _OLD:
                    path.unlink()


@functools.cache
def _software() -> dict[str, Any]:
    """Versions and processor, looked up once."""
    return describe_environment()


def _entry(key: str, path: Path, meta: Mapping[str, Any]) -> Entry:
    status = path.stat()
    return Entry(key, path, status.st_size, status.st_mtime, dict(meta))


def _is_whole(meta: Mapping[str, Any]) -> bool:
    """Whether what is known of a network is of the form that `Store.put` gives it."""
    words, tables = ("title", "data", "fingerprint", "trained"), ("recipe", "last", "environment")
    recipe = meta.get("recipe")
    return (
        all(isinstance(meta.get(name), str) for name in words)
        and all(isinstance(meta.get(name), dict) for name in tables)
        and isinstance(meta.get("seconds"), float)
        and isinstance(recipe, dict)
        and recipe.keys() >= {"version", "epochs", "objective", "start", "data"}
    )


def _part(record: Record, prefix: str) -> dict[str, Any]:
    return {name: array for name, array in record.arrays.items() if name.startswith(prefix)}


def _removed(path: Path) -> bool:
    """Remove a file; whether it is gone."""
    with suppress(OSError):
        path.unlink()
    return not os.path.lexists(path)
