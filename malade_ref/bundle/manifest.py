"""The manifest, and the verification of a finished bundle against it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from malade_ref.bundle.environment import read_log
from malade_ref.bundle.layout import CONFIG, ENVIRONMENT, MANIFEST, OUTCOMES, WORK, is_old_record
from malade_ref.checks import InputError
from malade_ref.storage import (
    atomic_write,
    check_name,
    file_sha256,
    load_json,
    open_record,
    to_json,
)

FORMAT, VERSION = "malade-bundle", 1
_LEFT_OUT = "left_out"


class LeftOut(NamedTuple):
    """A file that a record was kept without.

    Attributes
    ----------
    size : int
        Bytes.
    sha256 : str
        64 hexadecimal digits.
    """

    size: int
    sha256: str


def config_sha256(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration; shards and outcomes carry it.

    Parameters
    ----------
    config : mapping
        JSON-able.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return hashlib.sha256(to_json("configuration", config, indent=None).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, str]:
    """Read the manifest of a bundle.

    Parameters
    ----------
    path : path
        The bundle's folder.

    Returns
    -------
    dict of str to str
        SHA-256 of every file, by name.
    """
    return {check_name(str(path / MANIFEST), name): str(sha256) for name, sha256 in _read(path)["files"].items()}


def read_left_out(path: Path) -> dict[str, LeftOut] | None:
    """What a record was kept without.

    Parameters
    ----------
    path : path
        The folder of a bundle or a record.

    Returns
    -------
    dict of str to LeftOut, or None
        By name; None of a bundle, which is no record.
    """
    found = _read(path).get(_LEFT_OUT)
    if found is None:
        return None
    file = path / MANIFEST
    try:
        return {
            check_name(str(file), name): LeftOut(int(facts["size"]), str(facts["sha256"]))
            for name, facts in found.items()
        }
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: does not say what was left out as malade does; restore it from a copy") from error


def is_record(path: Path) -> bool:
    """Whether a folder is a record: a finished bundle that was kept as it is, without what is large.

    Parameters
    ----------
    path : path
        The folder.

    Returns
    -------
    bool
        True also of what earlier versions kept, see `is_old_record`.
    """
    if is_old_record(path):
        return True
    return (path / MANIFEST).is_file() and read_left_out(path) is not None


def _read(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    manifest = load_json(file)
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("files"), dict):
        raise InputError(f"{file}: is not the manifest of a bundle; restore it from a copy")
    if manifest.get("version") != VERSION:
        raise InputError(
            f"{file}: version {manifest.get('version')} of the format, this malade reads {VERSION}; "
            "use the malade that wrote it"
        )
    return manifest


def write_manifest(path: Path, files: Mapping[str, str], left_out: Mapping[str, LeftOut] | None = None) -> None:
    """Write the manifest of a bundle.

    Parameters
    ----------
    path : path
        The bundle's folder.
    files : mapping of str to str
        SHA-256 of every file, by name.
    left_out : mapping of str to LeftOut, optional
        Of a record: what it was kept without.
    """
    manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, "files": dict(files)}
    if left_out is not None:
        manifest[_LEFT_OUT] = {name: facts._asdict() for name, facts in left_out.items()}
    atomic_write(path / MANIFEST, to_json(MANIFEST, manifest) + "\n")


def verify(path: str | Path) -> list[str]:
    """Look in a bundle for anything missing, changed, damaged or out of place.

    Parameters
    ----------
    path : path
        The bundle's folder.

    Returns
    -------
    list of str
        The problems, one line each; empty if the bundle is finished and whole. What a record was kept without may be
        missing, or be there as it was. Of an old record, kept without its manifest, outcomes and log are looked at.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the folder of a malade run")
    problems = []
    whole = (_changed_files, _damaged_outcomes, _damaged_log)
    if (path / WORK).exists():
        problems.append(f"{WORK}: the run is not finished; malade run --resume finishes it")
    for check in whole[1:] if is_old_record(path) else whole:
        try:
            problems += check(path)
        except InputError as error:  # a file that cannot be read is one more
            problems.append(str(error))
    return problems


def _changed_files(path: Path) -> Iterator[str]:
    """Files against the manifest."""
    manifest, left_out = read_manifest(path), read_left_out(path) or {}
    found = {name for name in _files(path) if not name.startswith(f"{WORK}/")} - {MANIFEST, ENVIRONMENT}
    yield from (f"{name}: missing" for name in sorted(manifest.keys() - found))
    yield from (f"{name}: not in {MANIFEST}" for name in sorted(found - manifest.keys() - left_out.keys()))
    for name in sorted((manifest.keys() | left_out.keys()) & found):
        known = {manifest.get(name), left_out[name].sha256 if name in left_out else None}
        try:
            if file_sha256(path / name) not in known:
                what = "changed since the run" if name in manifest else "is not the file that was left out"
                yield f"{name}: {what}; its SHA-256 is not the manifest's"
        except InputError as error:
            yield str(error)


def _damaged_outcomes(path: Path) -> Iterator[str]:
    """Outcomes must be whole in themselves, and of this configuration."""
    if (path / OUTCOMES).exists():
        with open_record(path / OUTCOMES, kind="outcomes") as outcomes:
            outcomes.verify()
            if outcomes.meta.get("config_sha256") != config_sha256(load_json(path / CONFIG)):
                yield f"{path / OUTCOMES}: computed with other settings than those in {CONFIG}"


def _damaged_log(path: Path) -> Iterator[str]:
    """environment.json vouches for itself; reading it is the check."""
    read_log(path)
    yield from ()


def _files(path: Path) -> Iterator[str]:
    """Names of everything below a folder that is not a folder."""
    for parent, folders, files in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in files + links:
            yield Path(parent, name).relative_to(path).as_posix()
