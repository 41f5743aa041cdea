"""The result bundle: a folder that is gone on with after any interruption, and can be verified afterwards.

::

    experiment.toml     the experiment's text, as it was given
    config.json         the settings that were resolved from it
    environment.json    versions, machine, dates and durations: the only file in which equal runs differ
    models/*.h5         networks; histories/*.h5, how they were trained
    *.h5                records that a stage keeps, such as search.h5
    outcomes.h5         per-sample outcomes, outcomes/<defence>/<attack>/<array>
    results.json        figures derived from the outcomes; report.md, figures/*.png
    MANIFEST.json       SHA-256 of every other file but environment.json, which has its own; of a record also what
                        was left out, see :mod:`malade_ref.bundle.record`
    .work/              while it runs: a lock, shards, records of stages, partial checkpoints

Every file appears whole (see :mod:`malade_ref.storage`) and is the only mark that its step is done, so a run
that was killed at any moment goes on from the files that are there. The order in which they appear matters
twice. *Beginning*: ``.work`` first, ``config.json`` last; before that nothing was computed and the run begins
anew. *Finishing*: outcomes, then ``MANIFEST.json``, and only then ``.work`` goes, the lock last; with a
manifest there is nothing left but to remove the rest of ``.work``.

What a step gives back is always read from its file, so that a run that computed it and one that found it go
on from the same bits.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from malade_ref import checkpoint
from malade_ref.bundle.environment import Log, read_log, source_sha256
from malade_ref.bundle.layout import (
    CONFIG,
    CROISSANT,
    ENVIRONMENT,
    EXPERIMENT,
    FIGURES,
    LOCK,
    MANIFEST,
    OUTCOMES,
    PAGE,
    REPORT,
    RESULTS,
    WORK,
    state_of,
)
from malade_ref.bundle.lock import Lock
from malade_ref.bundle.manifest import config_sha256, read_left_out, read_manifest, verify, write_manifest
from malade_ref.bundle.shards import Arrays, Group, load_of_run, merge
from malade_ref.checks import InputError, check_count
from malade_ref.network import Network
from malade_ref.storage import (
    Record,
    RecordReader,
    atomic_write,
    cannot_read,
    cannot_write,
    check_name,
    differences,
    file_sha256,
    from_json,
    load_json,
    load_record,
    make_folder,
    open_record,
    opened_folder,
    protect,
    save_record,
    sweep,
    to_json,
)

History = Mapping[str, Sequence[float | None]]


class Bundle:
    """A result bundle, being computed or being read; a context manager that lets go of the folder.

    Made by :meth:`create`, :meth:`resume` or :meth:`open`.

    Parameters
    ----------
    path : path
        The folder.
    config : dict
        The settings, as JSON gives them back.
    log : Log
        The run's log.
    lock : Lock, optional
        Held while computing; None for reading.

    Attributes
    ----------
    path : Path
        The folder.
    config : dict
        The settings.
    log : Log
        ``sessions``, ``timings`` (seconds by step) and ``warnings``.
    """

    def __init__(self, path: Path, config: dict[str, Any], log: Log, lock: Lock | None = None) -> None:
        protect(path)
        self.path, self.config, self.log = path, config, log
        self._lock = lock
        self._config_sha256 = config_sha256(config)
        self._files = {EXPERIMENT, CONFIG}
        self._groups: dict[str, Group] = {}

    # ------------------------------------------------------------------ beginning, going on, looking

    @classmethod
    def create(
        cls,
        path: str | Path,
        experiment_text: str,
        config: Mapping[str, Any],
        *,
        device: Mapping[str, Any] | None = None,
    ) -> Self:
        """Begin a bundle in a folder that does not exist or is empty.

        Parameters
        ----------
        path : path
            The folder.
        experiment_text : str
            The experiment, stored as it is.
        config : mapping
            JSON-able: everything the results depend on.
        device : mapping, optional
            JSON-able: what computes, from ``ops.describe_device``; for the log.

        Raises
        ------
        InputError
            If the folder holds anything, cannot be written, or ``config`` is not JSON-able.
        """
        complaint = {
            "finished": "holds a finished bundle; choose another --out",
            "unfinished": "holds an unfinished run; pass --resume to go on with it, or choose another --out",
            "foreign": "is not empty and holds no bundle; choose another --out",
        }.get(state_of(Path(path)))
        if complaint:
            raise InputError(f"{path}: {complaint}")
        return cls._begin(Path(path), experiment_text, config, device)

    @classmethod
    def resume(
        cls,
        path: str | Path,
        experiment_text: str,
        config: Mapping[str, Any],
        *,
        device: Mapping[str, Any] | None = None,
    ) -> Self:
        """Go on with a bundle, or begin one where none was begun.

        Parameters
        ----------
        path : path
            The folder.
        experiment_text : str
            The experiment; used only where nothing was begun.
        config : mapping
            JSON-able; must equal the bundle's.
        device : mapping, optional
            As in :meth:`create`; another one is noted, not refused.

        Returns
        -------
        Bundle
            Ready to compute, or ``finished``.

        Raises
        ------
        InputError
            If the settings changed (the line names the first that did), another process is working there, the
            folder holds something else, or a file of it is damaged.
        """
        path = Path(path)
        state = state_of(path)
        if state == "foreign":
            raise InputError(f"{path}: is not empty and holds no bundle; nothing to resume, choose another --out")
        if state in ("empty", "begun"):
            return cls._begin(path, experiment_text, config, device)
        if state == "finished":
            return cls(path, _unchanged_config(path, config), read_log(path))
        protect(path)
        lock = Lock(path / WORK / LOCK)
        try:
            bundle = cls(path, _unchanged_config(path, config), read_log(path), lock)
            if (path / MANIFEST).exists():
                bundle._check_complete()
                bundle._end()
            else:
                sweep(path)
                bundle.log.begin_session(device)
                bundle.log.write(path)
        except BaseException:
            lock.release()
            raise
        return bundle

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a bundle for reading, finished or not.

        Parameters
        ----------
        path : path
            The folder.

        Returns
        -------
        Bundle
            To read from; :meth:`verify` tells whether it is whole.
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            raise InputError(f"{path}: is no bundle (it has no {CONFIG}); give the folder of a malade run")
        return cls(path, load_json(path / CONFIG), read_log(path))

    @classmethod
    def _begin(
        cls, path: Path, experiment_text: str, config: Mapping[str, Any], device: Mapping[str, Any] | None
    ) -> Self:
        text = to_json("configuration", config)
        make_folder(path)
        protect(path)
        lock = Lock(path / WORK / LOCK)
        try:
            if state_of(path) != "begun":
                raise InputError(f"{path}: another process began a run here; choose another --out")
            sweep(path)
            bundle = cls(path, from_json("configuration", text), Log([], {}, []), lock)
            atomic_write(path / EXPERIMENT, experiment_text)
            bundle.log.begin_session(device)
            bundle.log.write(path)
            atomic_write(path / CONFIG, text + "\n")
        except BaseException:
            lock.release()
            raise
        return bundle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder; the work done so far stays, for --resume."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def finished(self) -> bool:
        """Whether everything was computed and nothing is left to do."""
        return state_of(self.path) == "finished"

    @property
    def of_another_version(self) -> bool:
        """Whether other code than this computed it, or began to."""
        sessions = self.log.sessions
        return bool(sessions) and sessions[0]["environment"].get("source_sha256") != source_sha256()

    @property
    def experiment_text(self) -> str:
        """The experiment's text, as it was given."""
        try:
            return (self.path / EXPERIMENT).read_bytes().decode(errors="replace")
        except OSError as error:
            raise cannot_read(self.path / EXPERIMENT, error) from error

    # ------------------------------------------------------------------------------------- computing

    def stage(self, name: str, compute: Callable[[], Record], *, keep: bool = False) -> Record:
        """Do a step once: compute its record, or read it if it is there.

        Parameters
        ----------
        name : str
            Unique in the bundle, see :func:`malade_ref.storage.check_name`.
        compute : callable
            Called without arguments if the step was not done; gives its Record.
        keep : bool
            Keep the record in the finished bundle as ``<name>.h5``; otherwise it goes when that is finished.

        Raises
        ------
        InputError
            If the name is not free, the stored record is damaged or of another run, or it cannot be written.
        """
        file = f"{check_name('stage', name)}.h5"
        if keep and (file == OUTCOMES or name.startswith(("models/", "histories/"))):
            raise InputError(f"stage {name}: the bundle writes {file} itself; choose another name")
        path = self.path / file if keep else self.path / WORK / "stages" / file
        header = {"stage": name, "config_sha256": self._config_sha256}
        if not path.exists():
            self._check_computing()
            with self.log.timed(name):
                record = compute()
            make_folder(path.parent)
            save_record(path, record.arrays, {**header, "meta": dict(record.meta)}, kind="stage")
            self.log.write(self.path)
        if keep:
            self._files.add(file)
        return load_of_run(path, "stage", header)

    def trained(
        self,
        name: str,
        train: Callable[[Path], tuple[Network, History]],
        *,
        ops: ModuleType | None = None,
    ) -> tuple[Network, dict[str, list[float]]]:
        """Train a network once, or read it if it is there.

        Parameters
        ----------
        name : str
            The network goes to ``models/<name>.h5``, its history to ``histories/<name>.h5``.
        train : callable
            Called if the network is not there, with the path for the training's checkpoints, where an
            interrupted one left its last; gives the network and its history (numbers per epoch, by name).
        ops : module, optional
            The arithmetic of the network that is read, see :func:`malade_ref.checkpoint.load`.

        Returns
        -------
        network : Network
            As it was stored.
        history : dict of str to list of float
            As it was stored; None became NaN.
        """
        check_name("network", name)
        model, history = f"models/{name}.h5", f"histories/{name}.h5"
        if not (self.path / model).exists():
            partial = self.partial(f"models/{name}")
            with self.log.timed(f"models/{name}"):
                network, numbers = train(partial)
            arrays = {key: _numbers(f"history {name}: {key}", values) for key, values in numbers.items()}
            make_folder((self.path / history).parent)
            save_record(self.path / history, arrays, kind="history")
            # The network comes last: it marks that the training is done.
            make_folder((self.path / model).parent)
            checkpoint.save(network, self.path / model)
            self.log.write(self.path)
        self._files |= {model, history}
        return self.network(name, ops=ops), self.history(name)

    def partial(self, name: str) -> Path:
        """Where a step keeps what it needs to go on after an interruption.

        Parameters
        ----------
        name : str
            The step.

        Returns
        -------
        Path
            A file in an existing folder, removed when the bundle is finished.
        """
        self._check_computing()
        path = self.path / WORK / "partial" / f"{check_name('partial', name)}.h5"
        make_folder(path.parent)
        return path

    def shards(
        self,
        name: str,
        num_samples: int,
        shard_size: int,
        compute: Callable[[int, int], Arrays],
        *,
        meta: Mapping[str, Any] | None = None,
        only: Collection[str] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Compute per-sample outcomes in shards, those that are not there yet.

        Parameters
        ----------
        name : str
            Of the outcomes, by custom ``<defence>/<attack>``.
        num_samples, shard_size : int
            The shards are the samples [0, shard_size), [shard_size, 2 shard_size), ... below num_samples.
        compute : callable
            ``compute(first, last)`` gives the outcomes of these samples: arrays by name, whose first axis
            counts them. It must not depend on which shards were computed before.
        meta : mapping, optional
            JSON-able: what the outcomes are of, such as the attack's settings; kept in outcomes.h5.
        only : collection of str, optional
            Which arrays to give back, so that large ones need not fit into memory; by default all.

        Returns
        -------
        dict of str to ndarray
            The outcomes of all samples, in order.

        Raises
        ------
        InputError
            If a shard is damaged, of another run, or holds other arrays than the first; or cannot be written.
        """
        group = self._group(name, num_samples, shard_size, meta)
        merged: dict[str, NDArray[Any]] = {}
        # Those that are there come first, so that a damaged one is noticed before hours of work.
        for first, last in sorted(group.ranges(), key=lambda samples: not group.file(*samples).exists()):
            if not group.file(first, last).exists():
                with self.log.timed(f"outcomes/{name}"):
                    outcomes = compute(first, last)
                group.save(first, last, outcomes)
            for key, rows in group.load(first, last).items():
                if only is None or key in only:
                    if key not in merged:
                        merged[key] = np.empty((num_samples, *rows.shape[1:]), rows.dtype)
                    merged[key][first:last] = rows
        self.log.write(self.path)
        return merged

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file that is derived from the others: results, report, figures.

        Parameters
        ----------
        name : str
            Its name in the bundle, such as ``figures/accuracy.png``.
        content : str or bytes
            Must depend on the results only, not on the time or the machine.

        Raises
        ------
        InputError
            If the name is not free, or is a record's, or the file cannot be written.
        """
        self._check_computing()
        check_name("file", name)
        if name in (EXPERIMENT, CONFIG, ENVIRONMENT, MANIFEST) or name.endswith(".h5"):
            raise InputError(f"{name}: the bundle writes this file itself; choose another name")
        make_folder((self.path / name).parent)
        atomic_write(self.path / name, content)
        self._files.add(name)

    # ------------------------------------------------------------------------------------- finishing

    def merge(self) -> None:
        """Merge all shards of this run into outcomes.h5; memory holds one shard at a time.

        Call it before a report that reads the outcomes; :meth:`finish` calls it otherwise.
        """
        self._check_computing()
        if self._groups:
            merge(self.path / OUTCOMES, self._groups)
            self._files.add(OUTCOMES)

    def finish(self) -> None:
        """Complete the bundle: outcomes, manifest, and away with the work folder and the lock.

        Raises
        ------
        InputError
            If a shard is damaged or a file cannot be written; --resume then finishes.
        """
        self._check_computing()
        if OUTCOMES not in self._files:
            self.merge()
        self.log.end_session()
        self.log.write(self.path)
        write_manifest(self.path, {name: file_sha256(self.path / name) for name in self._files})
        self._end()

    def redraw(self, files: Mapping[str, str | bytes]) -> None:
        """Replace derived files of a finished bundle, and their hashes in the manifest.

        Parameters
        ----------
        files : mapping of str to str or bytes
            Contents of ``report.md``, ``report.html``, ``results.json``, ``croissant.json`` and ``figures/*``, by name.
        """
        if not self.finished:
            raise InputError(f"{self.path}: is not finished; malade run --resume finishes it")
        for name in files:
            derived = check_name("file", name) in (REPORT, PAGE, RESULTS, CROISSANT) or name.startswith(f"{FIGURES}/")
            if not derived:
                raise InputError(f"{name}: is not derived from the outcomes; only report and figures can be redrawn")
        manifest = read_manifest(self.path)
        # A kill on the way leaves files that do not match the manifest; drawing again mends it.
        for name, content in files.items():
            make_folder((self.path / name).parent)
            atomic_write(self.path / name, content)
            manifest[name] = file_sha256(self.path / name)
        write_manifest(self.path, manifest, read_left_out(self.path))

    # --------------------------------------------------------------------------------------- reading

    def network(self, name: str, *, ops: ModuleType | None = None) -> Network:
        """Read ``models/<name>.h5``.

        Parameters
        ----------
        name : str
            The network.
        ops : module, optional
            Its arithmetic, see :func:`malade_ref.checkpoint.load`.
        """
        return checkpoint.load(self.path / "models" / f"{check_name('network', name)}.h5", ops=ops)

    def history(self, name: str) -> dict[str, list[float]]:
        """Read ``histories/<name>.h5``.

        Parameters
        ----------
        name : str
            The network.

        Returns
        -------
        dict of str to list of float
            Numbers per epoch, by name.
        """
        path = self.path / "histories" / f"{check_name('network', name)}.h5"
        record = load_record(path, kind="history", mend=f"delete it and models/{name}.h5, and pass --resume")
        return {key: values.tolist() for key, values in record.arrays.items()}

    def record(self, name: str) -> Record:
        """Read the record that a stage kept.

        Parameters
        ----------
        name : str
            The stage.
        """
        header = {"stage": name, "config_sha256": self._config_sha256}
        return load_of_run(self.path / f"{check_name('stage', name)}.h5", "stage", header)

    def missing_shards(
        self, name: str, num_samples: int, shard_size: int, *, meta: Mapping[str, Any] | None = None
    ) -> list[tuple[int, int]]:
        """Shards that are not there yet, in order: their first and last samples.

        Parameters
        ----------
        name, num_samples, shard_size, meta
            As of `shards`.
        """
        group = self._group(name, num_samples, shard_size, meta)
        return [samples for samples in group.ranges() if not group.file(*samples).exists()]

    def keep_shard(self, name: str, first: int, last: int, outcomes: Arrays) -> None:
        """Keep a shard of outcomes that `missing_shards` named, computed elsewhere.

        Parameters
        ----------
        name : str
            As of `shards`.
        first, last : int
            Its samples.
        outcomes : mapping of str to ndarray
            What ``compute`` of `shards` would have given.
        """
        self._groups[name].save(first, last, outcomes)

    def outcomes(self) -> RecordReader:
        """Open outcomes.h5, to read it in slices.

        Returns
        -------
        RecordReader
            A context manager; arrays are named ``outcomes/<defence>/<attack>/<array>``, and
            ``meta["outcomes"]`` has the ``meta`` of each ``<defence>/<attack>``.
        """
        return open_record(self.path / OUTCOMES, kind="outcomes")

    def verify(self) -> list[str]:
        """Look for anything missing, changed, damaged or out of place.

        Returns
        -------
        list of str
            The problems, one line each; empty if the bundle is finished and whole.
        """
        return verify(self.path)

    # --------------------------------------------------------------------------------------- details

    def _group(self, name: str, num_samples: int, shard_size: int, meta: Mapping[str, Any] | None) -> Group:
        check_name("outcomes", name)
        check_count("num_samples", num_samples)
        check_count("shard_size", shard_size)
        self._check_computing()
        meta = from_json(name, to_json(name, dict(meta or {})))
        folder = self.path / WORK / "shards" / name
        group = Group(name, folder, num_samples, shard_size, self._config_sha256, meta)
        if self._groups.setdefault(name, group) != group:
            raise InputError(f"outcomes {name}: named twice, with other settings; choose another name")
        return self._groups[name]

    def _check_computing(self) -> None:
        """Raise unless this process holds the folder."""
        if self._lock is None:
            raise InputError(f"{self.path}: is open for reading only; malade run --resume goes on with it")

    def _check_complete(self) -> None:
        """Raise unless the files are what the manifest says; else the shards may be all that is left."""
        problems = [line for line in verify(self.path) if not line.startswith(f"{WORK}:")]
        if problems:
            raise InputError(f"{problems[0]}; restore it, or delete {MANIFEST} and pass --resume to make it again")

    def _end(self) -> None:
        """Remove the work folder of a bundle that has its manifest, the lock last, and let go of it."""
        work = self.path / WORK
        try:
            with opened_folder(work) as folder:
                for name in os.listdir(folder):
                    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                        shutil.rmtree(name, dir_fd=folder)
                    elif name != LOCK:
                        os.unlink(name, dir_fd=folder)
                os.unlink(LOCK, dir_fd=folder)
            with opened_folder(self.path) as folder:
                os.rmdir(WORK, dir_fd=folder)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # else another process has just come to do the same
                raise cannot_write(work, error) from error
        self.close()


def _unchanged_config(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a bundle, which must be the one that is asked for."""
    old = load_json(path / CONFIG)
    new = from_json("configuration", to_json("configuration", config))
    for key, before, now in differences(old, new):
        raise InputError(
            f"{path}: was begun with {key} = {before}, not {now}; resume with the same settings, "
            "or choose another --out"
        )
    return old


def _numbers(what: str, values: Sequence[float | None]) -> NDArray[Any]:
    """A list as an array, None as NaN."""
    try:
        array = np.array(values)
        return array if array.dtype.kind in "biuf" else np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: expected a list of numbers") from error
