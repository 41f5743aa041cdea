"""SIGKILL at random moments, then --resume: the same bits as without."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, start

KILLS = 10


def kill_at_random_moments(folder: Path, words: tuple[str, ...], out: str, seconds: float) -> list[Path]:
    """Start a command again and again, and kill it; go on in a new folder whenever one was finished.

    Half of the kills come while the program starts, or at the beginning of its work; all results are finished in the
    end.
    """
    moments = random.Random(7)
    results: list[Path] = []
    number = kills = 0
    while kills < KILLS:
        target = folder / f"{number}-{out}"
        process = start(folder, *words, "--out", target.name, "--resume")
        assert process.stdout is not None
        if moments.random() < 0.8:
            process.stdout.readline()  # the work begins
        time.sleep(moments.uniform(0, seconds))
        running = process.poll() is None
        process.kill()
        _, err = process.communicate()
        assert running or process.returncode == 0, err
        kills += running
        if not running:
            results.append(target)
            number += 1
    last = start(folder, *words, "--out", f"{number}-{out}", "--resume")
    _, err = last.communicate()
    assert last.returncode == 0, err
    return [*results, folder / f"{number}-{out}"]


@pytest.mark.slow
def test_run(tiny_run: Path, tmp_path: Path) -> None:
    bundles = kill_at_random_moments(tmp_path, TINY, "bundle", 1.5)
    for bundle in bundles:
        # The manifest has the SHA-256 of everything but environment.json.
        assert (bundle / "MANIFEST.json").read_bytes() == (tiny_run / "MANIFEST.json").read_bytes()
        for name in ["outcomes.h5", *(f"models/{path.name}" for path in (tiny_run / "models").iterdir())]:
            assert (bundle / name).read_bytes() == (tiny_run / name).read_bytes()
        assert not (bundle / ".work").exists()


@pytest.mark.slow
def test_train(tmp_path: Path) -> None:
    words = ("train", "classifier", "synthetic-digits:train:600", "--preset", "small", "--epochs", "3")
    words += ("--validation", "synthetic-digits:validation:50", "--batch-size", "8", "--checkpoint-every", "0.05")
    process = start(tmp_path, *words, "--out", "whole.h5")
    _, err = process.communicate()
    assert process.returncode == 0, err
    networks = kill_at_random_moments(tmp_path, words, "cnn.h5", 0.5)
    for network in networks:
        assert network.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert sorted(tmp_path.glob("*.partial")) == []
