"""What a result was computed with, when, and for how long: environment.json.

It is the only file in which two equal runs differ, so it is not in the manifest and carries its own SHA-256::

    {"sessions": [{"began": ..., "ended": ..., "environment": {...}}, ...],   one for every --resume
     "timings": {"<step>": seconds, ...},
     "warnings": ["...", ...],
     "networks": {"<name>": {"from": "training", "store" or "file", "fingerprint": ..., ...}, ...},
     "command": "malade run ...",                                              if it was a command
     "sha256": "..."}
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import threadpoolctl

from malade_ref.bundle.layout import ENVIRONMENT
from malade_ref.bundle.schema import check_log
from malade_ref.checks import InputError
from malade_ref.storage import atomic_write, differences, load_json, to_json

_PACKAGES = ("numpy", "scipy", "h5py", "threadpoolctl", "matplotlib", "pillow", "jinja2")
_ROOT = Path(__file__).parents[1]


def describe_environment(device: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describe this process's software and machine; no user, host or folder is named.

    Parameters
    ----------
    device : mapping, optional
        What computes, from ``ops.describe_device``.

    Returns
    -------
    dict
        JSON-able. ``source_sha256`` covers the package's own code, and so tells two states of a working
        folder apart that have the same version and commit.
    """
    return {
        "malade": _version("malade"),
        "source_sha256": source_sha256(),
        "commit": _commit(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "hdf5": h5py.version.hdf5_version,
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "blas": _blas(),
        "simd": _simd(),
        **({} if device is None else {"device": dict(device)}),
    }


class Log:
    """The log of a run; kept in memory, and written as a whole.

    Parameters
    ----------
    sessions : list of dict
        ``began`` and ``ended`` (UTC; None if it was killed) and ``environment`` of each process that worked.
    timings : dict of str to float
        Seconds that each step took, over all sessions that reached its end.
    warnings : list of str
        What the reader of the results should know.
    networks : dict of str to dict, optional
        Where each network is from, and its fingerprint.
    command : str, optional
        What began the run, without folders.
    """

    def __init__(
        self,
        sessions: list[dict[str, Any]],
        timings: dict[str, float],
        warnings: list[str],
        networks: dict[str, dict[str, Any]] | None = None,
        command: str | None = None,
    ) -> None:
        self.sessions, self.timings, self.warnings = sessions, timings, warnings
        self.networks = networks if networks is not None else {}
        self.command = command

    def begin_session(self, device: Mapping[str, Any] | None = None) -> None:
        """Add a session, and a warning for everything that changed since the last one.

        Parameters
        ----------
        device : mapping, optional
            What computes, from ``ops.describe_device``.
        """
        new = describe_environment(device)
        if self.sessions:
            for key, before, now in differences(self.sessions[-1]["environment"], new):
                warning = f"the run was resumed in another environment: {key} was {before}, then {now}"
                if warning not in self.warnings:
                    self.warnings.append(warning)
        self.sessions.append({"began": _now(), "ended": None, "environment": new})

    def end_session(self) -> None:
        """Note that the session came to its end."""
        self.sessions[-1]["ended"] = _now()

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the duration of a ``with`` block to a step's.

        Parameters
        ----------
        step : str
            Its name.
        """
        start = time.monotonic()
        yield
        self.timings[step] = round(self.timings.get(step, 0.0) + time.monotonic() - start, 3)

    def write(self, path: Path) -> None:
        """Write environment.json.

        Parameters
        ----------
        path : path
            The bundle's folder.
        """
        log = {
            "sessions": self.sessions,
            "timings": self.timings,
            "warnings": self.warnings,
            "networks": self.networks,
            **({"command": self.command} if self.command is not None else {}),
        }
        atomic_write(path / ENVIRONMENT, to_json(ENVIRONMENT, {**log, "sha256": _sha256(log)}) + "\n")


def read_log(path: Path) -> Log:
    """Read environment.json.

    Parameters
    ----------
    path : path
        The bundle's folder.
    """
    file = path / ENVIRONMENT
    log = load_json(file)
    if log.pop("sha256", None) != _sha256(log):
        raise InputError(f"{file}: its content does not match its SHA-256; restore it from a copy")
    check_log(str(file), log)
    sessions = [{key: session.get(key) for key in ("began", "ended", "environment")} for session in log["sessions"]]
    networks = {str(name): dict(origin) for name, origin in (log.get("networks") or {}).items()}
    return Log(sessions, dict(log["timings"]), list(log["warnings"]), networks, log.get("command"))


def _sha256(log: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(ENVIRONMENT, log, indent=None).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    """Version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def source_sha256() -> str:
    """SHA-256 of the names and contents of the package's own files."""
    digest = hashlib.sha256()
    for path in sorted(p for pattern in ("*.py", "*.toml") for p in _ROOT.rglob(pattern)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_ROOT).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _commit() -> str | None:
    """Commit of a clone, with "-dirty" if files were changed; None where there is no clone or no git."""
    if not (_ROOT.parent / ".git").exists():
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        answer = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _processor() -> str:
    """The processor's name; Linux tells it better than :mod:`platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _simd() -> list[str]:
    """The processor's extensions that NumPy uses: sums are taken in another order with others."""
    try:
        found = np.show_config(mode="dicts")["SIMD Extensions"]
        return [*found.get("baseline", []), *found.get("found", [])]
    except (KeyError, TypeError, AttributeError):
        return []


def _blas() -> list[dict[str, Any]]:
    """The BLAS libraries that are loaded, without their folders."""
    keys = ("internal_api", "version", "architecture", "num_threads")
    loaded = [info for info in threadpoolctl.threadpool_info() if info.get("user_api") == "blas"]
    libraries = [{key: info.get(key) for key in keys} for info in loaded]
    return sorted(libraries, key=str)
