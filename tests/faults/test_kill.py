"""Killed at any moment and resumed, a run leaves the same bytes.

Twice: exhaustively, where the process is stopped in front of each single change that it makes to the disk
(and everything it would do afterwards is prevented, as by SIGKILL); and truly, by SIGKILL at random moments.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from malade_ref.bundle import Bundle, environment, verify
from tests.faults import fake_run

ROOT = Path(__file__).resolve().parents[2]

# All that changes names or contents of files, but for the pieces that HDF5 writes into a file put aside.
CHANGES = ("open", "mkdir", "replace", "unlink", "rmdir", "fsync", "ftruncate")


class Killed(BaseException):
    """The process is dead: no handler of an Exception sees this."""


@contextmanager
def killed_before(change: int) -> Iterator[list[str]]:
    """Let the process make so many changes to the disk, and then none; yields the list of those made."""
    made: list[str] = []
    with pytest.MonkeyPatch.context() as patch:

        def counted(name: str) -> Any:
            real = getattr(os, name)

            def function(*args: Any, **kwargs: Any) -> Any:
                if name == "open" and not (args[1] & os.O_CREAT):
                    return real(*args, **kwargs)
                if len(made) >= change:
                    raise Killed
                made.append(name)
                return real(*args, **kwargs)

            return function

        for name in CHANGES:
            patch.setattr(os, name, counted(name))
        yield made


def contents(folder: Path) -> dict[str, bytes]:
    """All files, but for the one that may differ."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "environment.json"}


def begin_or_resume(folder: Path) -> None:
    with Bundle.resume(folder, fake_run.EXPERIMENT, fake_run.CONFIG) as bundle:
        fake_run.run(bundle)


@pytest.fixture(autouse=True)
def quick_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Describing the machine takes longer than the whole fake run, and writes nothing."""
    monkeypatch.setattr(environment, "describe_environment", lambda: {"fake": True})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run leaves."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    begin_or_resume(folder)
    assert verify(folder) == []
    found = contents(folder)
    assert {"MANIFEST.json", "outcomes.h5", "models/mlp.h5", "search.h5", "report.md"} <= found.keys()
    return found


def test_killed_at_every_change(tmp_path: Path, expected: dict[str, bytes]) -> None:
    with killed_before(10**9) as made:
        begin_or_resume(tmp_path / "whole")
    total = len(made)
    assert total > 150
    assert set(made) == set(CHANGES)
    for change in range(total):
        folder = tmp_path / f"run{change}"
        with killed_before(change), pytest.raises(Killed):
            begin_or_resume(folder)
        # Killed once more while resuming, at another place, and then left in peace.
        with killed_before(change * 7919 % total), suppress(Killed):
            begin_or_resume(folder)
        begin_or_resume(folder)
        assert contents(folder) == expected, f"killed before change {change} of {total} ({made[change]})"
        assert verify(folder) == []


def test_killed_at_random_moments(tmp_path: Path, expected: dict[str, bytes]) -> None:
    """At least ten kills, each of a process of its own, until one process reaches the end."""
    chance = random.Random(20)
    folder, kills = tmp_path / "run", 0
    command = [sys.executable, "-m", "tests.faults.fake_run", str(folder), "0.05"]
    while not (folder / "MANIFEST.json").exists() or kills < 10:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
        try:
            process.wait(timeout=0.35 + chance.random() * 0.25)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    subprocess.run(command, cwd=ROOT, check=True)
    assert contents(folder) == expected
    assert verify(folder) == []
