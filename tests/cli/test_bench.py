"""The bench: a tiny run of it, what it counts, and that it fails when it should."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import __main__ as bench
from bench import mixtures
from bench.backends import UnavailableError
from bench.cases import CASES, forward_flops, make_problem
from malade_ref.network import cnn, sdae

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_tiny_run(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", "--batch", "2", "--rounds", "1", "--threads", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results = json.loads(out.read_text())
    assert results["format"] == "malade-bench"
    assert results["settings"] == {"batch": 2, "threads": 1, "rounds": 1}
    assert {"commit", "processor", "packages", "python"} <= results["environment"].keys()
    assert results["backends"]["ref"] == {"device": "cpu", "numpy": np.__version__}
    assert [case["name"] for case in results["cases"]] == [case.name for case in CASES]
    for case in results["cases"]:
        ref = case["backends"]["ref"]
        assert len(ref["seconds"]) == 1
        assert ref["gflop_per_second"] == pytest.approx(case["flops"] / ref["median_seconds"] / 1e9)
        assert case["title"] in done.stdout
        if "torch" in results["backends"]:
            ratio = ref["median_seconds"] / case["backends"]["torch"]["median_seconds"]
            assert case["ratios"]["torch"]["median"] == pytest.approx(ratio)
    if "torch" not in results["backends"]:
        assert "torch: left out, because" in done.stdout


def test_counted_operations() -> None:
    """By hand, layer by layer."""
    assert sum(forward_flops(cnn())) == 2 * (784 * 128 * 9 + 196 * 64 * 128 * 25 + 12544 * 128 + 1280)
    layers = (196 * 10 * 25, 49 * 25 * 10 * 25, 49 * 25 * 10 * 81, 196 * 10, 784 * 25)
    assert [count for count in forward_flops(sdae()) if count] == [2 * macs for macs in layers]
    problem = make_problem(1)
    counts = {case.name: case.flops(problem) for case in CASES}
    assert counts["cnn-input-gradient"] == pytest.approx(170.6e6, rel=1e-3)
    assert counts["chain"] == pytest.approx(25 * 2.738e6, rel=1e-3)
    assert counts["cnn-training-step"] == 3 * counts["cnn-forward"] - 2 * 784 * 128 * 9


class Fake:
    """A backend that takes a given time and returns a given number."""

    versions: dict[str, str] = {}  # noqa: RUF012
    device = "nowhere"

    def __init__(self, seconds: float, result: float = 1.0) -> None:
        self.seconds, self.result = seconds, result

    def prepare(self, case: str, problem: Any) -> Callable[[], Any]:
        def run() -> Any:
            time.sleep(self.seconds)
            return np.array([self.result])

        return run


def missing(threads: int) -> Any:
    raise UnavailableError("it is on holiday")


def run_with(monkeypatch: pytest.MonkeyPatch, ref: Any, peer: Any, *arguments: str) -> int:
    backends = {"ref": lambda threads: ref, "torch": peer if callable(peer) else lambda threads: peer}
    monkeypatch.setattr(bench, "BACKENDS", backends)
    return bench.main(["--batch", "1", "--rounds", "3", *arguments])


@pytest.mark.slow
def test_check_is_the_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = Fake(0.005), Fake(0.02)
    assert run_with(monkeypatch, fast, slow, "--check", "--case", "sdae-forward") == 0
    assert run_with(monkeypatch, slow, fast, "--case", "sdae-forward") == 0
    assert capsys.readouterr().err == ""
    assert run_with(monkeypatch, slow, fast, "--check", "--case", "sdae-forward") == 1
    assert "bench: too slow: sdae-forward: " in capsys.readouterr().err


def test_peers_that_compute_something_else_are_not_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(monkeypatch, Fake(0), Fake(0, result=1.001), "--case", "cnn-forward") == 1
    assert "torch and ref computed different numbers" in capsys.readouterr().err
    assert run_with(monkeypatch, Fake(0), Fake(0, result=np.nan), "--case", "cnn-forward") == 1


def test_without_a_peer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(monkeypatch, Fake(0.01), missing, "--case", "sdae-forward") == 0
    assert "torch: left out, because it is on holiday; only ref is measured" in capsys.readouterr().out
    assert run_with(monkeypatch, Fake(0.01), missing, "--check") == 2
    assert "bench: error: --check: needs a peer" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--batch", "0"], ["--rounds", "-1"], ["--threads", "0"]])
def test_bad_numbers(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bench: error: {arguments[0]}: expected an integer >= 1")
    assert error.count("\n") == 1


def test_an_output_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nowhere" / "results.json"
    assert run_with(monkeypatch, Fake(0), Fake(0), "--case", "sdae-forward", "--out", str(out)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("bench: error: --out: ")
    assert captured.out == ""  # said before anything was measured


def test_mixtures_are_a_case_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mixtures, "SIZES", ((3, 2),))
    monkeypatch.setattr(mixtures, "POINTS", 1000)
    out = tmp_path / "results.json"
    assert run_with(monkeypatch, Fake(0), missing, "--case", "mixture", "--out", str(out)) == 0
    (record,) = json.loads(out.read_text())["cases"]
    assert (record["name"], record["points"], record["flops"]) == ("mixture-3-2", 1000, 4 * 1000 * 3 * 2 * 2)
    assert len(record["backends"]["ref"]["seconds"]) == 3
    assert "mixture score, K=3 d=2" in capsys.readouterr().out
    if "sklearn" in record["backends"]:
        assert record["ratios"]["sklearn"]["allowed"] == 1.0
        wrong = mixtures.make_mixture(3, 2).smoothed(0.1)
        monkeypatch.setattr(mixtures, "sklearn_log_density", lambda ours, threads: wrong.log_density)
        assert run_with(monkeypatch, Fake(0), missing, "--case", "mixture") == 1
        assert "computed different numbers" in capsys.readouterr().err


def test_mixtures_without_a_peer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(mixtures, "SIZES", ((3, 2),))
    monkeypatch.setattr(mixtures, "POINTS", 100)
    monkeypatch.setattr(mixtures, "sklearn_log_density", lambda ours, threads: missing(threads))
    assert run_with(monkeypatch, Fake(0), missing, "--case", "mixture") == 0
    assert "sklearn: left out, because it is on holiday" in capsys.readouterr().out
