"""Killed at any moment and resumed, a run leaves the same bytes.

Twice: exhaustively, where the process is stopped in front of each single change that it makes to the disk
(and everything it would do afterwards is prevented, as by SIGKILL); and truly, by SIGKILL at random moments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from malade_ref.bundle import Bundle, environment, verify
from tests.faults import fake_run

ROOT = Path(__file__).resolve().parents[2]

# All that changes what is in a folder. What a file put aside holds when the process dies does not matter: it is
# swept by its name.
CHANGES = ("open", "mkdir", "replace", "unlink", "rmdir")


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
        patch.setattr(os, "fsync", lambda descriptor: None)  # slow, and of use against power cuts only
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
    monkeypatch.setattr(environment, "describe_environment", lambda device=None: {"fake": True})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run leaves."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    begin_or_resume(folder)
    assert verify(folder) == []
    found = contents(folder)
    assert {"MANIFEST.json", "outcomes.h5", "models/mlp.h5", "search.h5", "report.md"} <= found.keys()
    return found


@pytest.mark.slow
def test_killed_at_every_change(tmp_path: Path, expected: dict[str, bytes]) -> None:
    with killed_before(10**9) as made:
        begin_or_resume(tmp_path / "whole")
    total = len(made)
    assert total > 80
    assert set(made) == set(CHANGES)
    for change in range(total):
        folder = tmp_path / f"run{change}"
        with killed_before(change), pytest.raises(Killed):
            begin_or_resume(folder)
        if change % 2:  # killed once more, while resuming, at another place
            with killed_before(change * 7919 % total), suppress(Killed):
                begin_or_resume(folder)
        with killed_before(10**9):
            begin_or_resume(folder)
        assert contents(folder) == expected, f"killed before change {change} of {total} ({made[change]})"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments(tmp_path: Path, expected: dict[str, bytes], seed: int) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "tests.faults.fake_run", str(folder), "0.02", "13", str(seed)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 10
    assert contents(folder) == expected
    assert verify(folder) == []
    sessions = json.loads((folder / "environment.json").read_text())["sessions"]
    assert len(sessions) > 1  # some died at work
    assert sessions[-1]["ended"] is not None
