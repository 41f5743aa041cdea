"""What the tests of the command line share: a way to call it, and one small finished run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from malade_ref import cnn, save, sdae
from malade_ref.cli import main

ROOT = Path(__file__).resolve().parents[2]
TINY = ("run", "demo", "--set", "scale=tiny")


class Answer(NamedTuple):
    """What a command gave back."""

    code: int
    out: str
    err: str


class Malade:
    """Calls commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object) -> Answer:
        self._capsys.readouterr()
        code = main([str(word) for word in words])
        return Answer(code, *self._capsys.readouterr())

    def fails(self, *words: object) -> str:
        """Call a command that must complain; its complaint, without "malade: error: "."""
        code, out, err = self(*words)
        assert code == 2, (out, err)
        assert err.startswith("malade: error: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert "Traceback" not in out + err
        return err.removeprefix("malade: error: ").rstrip("\n")


def environment(folder: Path) -> dict[str, str]:
    """Environment of a process that runs in ``folder`` and keeps everything there."""
    own = {key: value for key, value in os.environ.items() if key not in ("MALADE_DATA", "MALADE_NUM_THREADS")}
    return {**own, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache"), "MPLBACKEND": "Agg"}


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    command = [sys.executable, "-m", "malade_ref", *map(str, words)]
    pipe = subprocess.PIPE
    # A shell has its background jobs ignore the interrupt, and so would this process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=pipe, stderr=pipe, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def malade(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Malade:
    """Commands, in an empty folder, without data of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MALADE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Malade(capsys)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bundle of ``malade run demo --set scale=tiny``; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    process = start(folder, *TINY, "--out", "bundle")
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    (folder / "out.txt").write_text(out)
    return folder / "bundle"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with untrained networks and some images."""
    folder = tmp_path_factory.mktemp("files")
    save(cnn("small"), folder / "cnn.h5")
    save(sdae("small"), folder / "sdae.h5")
    rng = np.random.default_rng(0)
    x, y = rng.random((12, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, 12)
    np.savez(folder / "good.npz", x=x, y=y)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return folder
