"""The manifest, and the verification of a finished bundle against it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from malade_ref.bundle.environment import read_log
from malade_ref.bundle.layout import CONFIG, ENVIRONMENT, MANIFEST, OUTCOMES, WORK, is_record
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
    file = path / MANIFEST
    manifest = load_json(file)
    files = manifest.get("files")
    if manifest.get("format") != FORMAT or not isinstance(files, dict):
        raise InputError(f"{file}: is not the manifest of a bundle; restore it from a copy")
    if manifest.get("version") != VERSION:
        raise InputError(
            f"{file}: version {manifest.get('version')} of the format, this malade reads {VERSION}; "
            "use the malade that wrote it"
        )
    return {check_name(str(file), name): str(sha256) for name, sha256 in files.items()}


def write_manifest(path: Path, files: Mapping[str, str]) -> None:
    """Write the manifest of a bundle.

    Parameters
    ----------
    path : path
        The bundle's folder.
    files : mapping of str to str
        SHA-256 of every file, by name.
    """
    manifest = {"format": FORMAT, "version": VERSION, "files": dict(files)}
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
        The problems, one line each; empty if the bundle is finished and whole. Of a record, which was kept without its
        manifest, outcomes and log are looked at.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the folder of a malade run")
    problems = []
    whole = (_changed_files, _damaged_outcomes, _damaged_log)
    if (path / WORK).exists():
        problems.append(f"{WORK}: the run is not finished; malade run --resume finishes it")
    for check in whole[1:] if is_record(path) else whole:
        try:
            problems += check(path)
        except InputError as error:  # a file that cannot be read is one more
            problems.append(str(error))
    return problems


def _changed_files(path: Path) -> Iterator[str]:
    """Files against the manifest."""
    manifest = read_manifest(path)
    found = {name for name in _files(path) if not name.startswith(f"{WORK}/")} - {MANIFEST, ENVIRONMENT}
    yield from (f"{name}: missing" for name in sorted(manifest.keys() - found))
    yield from (f"{name}: not in {MANIFEST}" for name in sorted(found - manifest.keys()))
    for name in sorted(manifest.keys() & found):
        try:
            if file_sha256(path / name) != manifest[name]:
                yield f"{name}: changed since the run; its SHA-256 is not the manifest's"
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
