"""The bench on a device and the command around all that needs one: rehearsed on the emulated device."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")

from bench.device import __main__ as bench
from bench.device import outcomes
from bench.device.timing import allowed_error, error_of, floor
from bench.device.work import BARS, GROWTH, REHEARSAL, WORKS, Work, least_bytes, least_flops, make_problem, verdicts
from malade_ref.network import cnn, sdae

ROOT = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="needs g++")


# What is counted and asked ------------------------------------------------------------------------------------------


def test_counted_operations() -> None:
    """By the figures of the paper's networks: 2.738 and 85.3 million operations an image."""
    problem = make_problem(Work("forward", 1), "paper")
    denoiser, classifier = 2.738e6, 85.3e6
    for work, expected in (
        (Work("chain", 10, 25), 10 * 25 * denoiser),
        (Work("chain-gradient", 10, 5), 2 * 10 * 5 * denoiser),
        (Work("gradient", 3), 3 * 2 * classifier),
        (Work("pgd", 1, 40), 82 * classifier),
        (Work("bpda", 2, 25, 30), 2 * 30 * (25 * denoiser + 2 * classifier)),
    ):
        assert least_flops(work, problem) == pytest.approx(expected, rel=1e-3)
    assert least_bytes(Work("chain", 10, 25), problem) == 4 * (2 * 10 * 784 + sdae().num_parameters)
    assert least_bytes(Work("forward", 10), problem) == 4 * (10 * 784 + cnn().num_parameters)


def test_every_bar_is_measured() -> None:
    names = {work.name for work in WORKS}
    assert {name for bar in BARS for name in (bar.work, bar.other) if name} <= names
    assert {name for growth in GROWTH for name in growth[:2]} <= names
    assert {bar.of for bar in BARS} <= {*bench.STARTS, "floor", "seconds", "memory"}
    assert {name for bar in BARS for name in bar.backends} <= bench.STARTS.keys()
    assert {work.kind for work in REHEARSAL} == {work.kind for work in WORKS}


def records(**seconds: float) -> list[dict[str, Any]]:
    """Records of all works in which each backend takes the same time, as far as it is given."""
    return [
        {
            "name": work.name,
            "flops": 67e12,
            "backends": {
                name.replace("_", "-"): {
                    "median_seconds": value * (10 if work.batch == 100_000 else 4 if work.steps == 100 else 1),
                    "precision": name.rpartition("_")[2],
                    "memory_bytes": 100 * work.steps,
                }
                for name, value in seconds.items()
            },
        }
        for work in WORKS
    ]


def test_verdicts() -> None:
    peers = {"torch": 20.0, "torch_tf32": 20.0, "torch_compiled": 10.0, "torch_compiled_tf32": 4.0}
    found = dict((line, met) for met, line in verdicts(records(gpu_fp32=1.5, gpu_tf32=0.3, **peers)))
    met = {line.partition(", asked")[0]: met for line, met in found.items()}
    assert met["chain-10000x25: gpu-fp32 13.33 times as fast as torch"] is True
    assert met["chain-10000x25: gpu-fp32 at 67% of the data sheet's floor"] is True
    assert met["chain-10000x25: gpu-tf32 66.67 times as fast as torch-tf32"] is True
    assert met["gradient-10000: gpu-tf32 at 45% of the data sheet's floor"] is True
    assert met["bpda-10000x25: gpu-tf32 300 s for 1000 of them"] is True
    assert met["chain-gradient-10000x40: gpu-fp32 4.00 times the memory of chain-gradient-10000x10"] is False
    assert met["chain-100000x25 / chain-10000x25: exponent 1.000"] is True
    slow = verdicts(records(gpu_fp32=30.0, gpu_tf32=9.0, **peers))
    assert [line for met, line in slow if met] == [
        "chain-100000x25 / chain-10000x25: exponent 1.000, asked 1.00 +- 0.05",
        "chain-10000x100 / chain-10000x25: exponent 1.000, asked 1.00 +- 0.05",
    ]
    assert {met for met, _ in verdicts([])} == {None}


def test_floors_and_errors() -> None:
    ceiling = {"fp32_flop_per_second": 10.0, "tf32_flop_per_second": 100.0, "copy_bytes_per_second": 5.0}
    assert floor("fp32", 20, 1, ceiling) == 2.0
    assert floor("tf32x3", 20, 1, ceiling) == 0.6
    assert floor("tf32", 20, 50, ceiling) == 10.0
    assert floor("bf16", 20, 1, ceiling) is None
    assert error_of([3.0, 4.0], [3.0, 4.5]) == pytest.approx(0.5 / np.hypot(3, 4.5))
    assert error_of([np.nan, 4.0], [3.0, 4.5]) == error_of([3.0], [3.0, 4.5]) == np.inf
    assert allowed_error("chain", "fp32") < allowed_error("gradient", "tf32") < 1


# Rehearsals ---------------------------------------------------------------------------------------------------------


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=settings, timeout=600)


@needs_compiler
def test_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MALADE_GPU_EMULATE", "1")
    out = tmp_path / "bench.json"
    command = ["--rehearse", "--backend", "gpu-fp32", "--backend", "torch", "--out", str(out)]
    assert bench.main(command) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    content = json.loads(out.read_text())
    assert [record["name"] for record in content["works"]] == [work.name for work in REHEARSAL]
    for record in content["works"]:
        assert record["flops"] > 0
        for name in {"gpu-fp32", "torch"} - content["left_out"].keys():
            result = record["backends"][name]
            assert result["flop_per_second"] == pytest.approx(record["flops"] / result["median_seconds"])
            assert result["error"] < 1e-5
            assert f"  {name}" in captured.out
    # All is done: the same command has nothing left to do; another one does not go on from here.
    before = out.read_text()
    assert bench.main(command) == 0
    assert out.read_text() == before
    assert bench.main([*command, "--backend", "gpu-tf32"]) == 2
    assert "is of another run" in capsys.readouterr().err


class Fake:
    """A backend that gives a certain result, or fails."""

    precision, versions, device = "fp32", {"fake": "1"}, "nowhere"

    def __init__(self, result: Any) -> None:
        self.result = result

    def prepare(self, work: Work, problem: Any) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        right = bench.expected(work, problem)
        return bench_prepared(lambda: None, lambda: right * self.result)

    def seconds(self, run: Any, calls: int) -> float:
        return 0.06 * calls

    def memory(self, run: Any) -> None:
        return None

    def release(self) -> None:
        pass


def bench_prepared(run: Any, check: Any) -> Any:
    from bench.device.backends import Prepared

    return Prepared(run, check)


def test_failures_are_told_and_do_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = {"gpu-fp32": Fake(1.0), "torch": Fake(1.01), "jax": Fake(RuntimeError("no memory\nat all"))}
    monkeypatch.setattr(bench, "STARTS", {name: lambda _, fake=fake: fake for name, fake in starts.items()})
    monkeypatch.setattr(Fake, "gpu", type("Device", (), {"emulated": True}), raising=False)
    assert bench.main(["--rehearse", "--work", "forward-2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("torch" in line and "computed something else: relative error 0.01" in line for line in lines)
    assert any("jax" in line and line.endswith("left out: RuntimeError: no memory") for line in lines)
    assert any("gpu-fp32" in line and " 60.000 ms" in line for line in lines)
    starts["gpu-fp32"].result = 1.01
    assert bench.main(["--rehearse", "--work", "forward-2"]) == 1
    assert "bench: error: forward-2: gpu-fp32: computed something else" in capsys.readouterr().err


def test_without_a_gpu_it_says_so() -> None:
    done = run([sys.executable, "-c", HIDDEN], MALADE_GPU_EMULATE="0")
    assert done.returncode == 2
    assert done.stderr.startswith("bench: error: malade_gpu: ")
    assert done.stderr.count("\n") == 1


HIDDEN = """
import sys
sys.modules["cupy"] = None
from bench.device.__main__ import main
sys.exit(main(["--backend", "gpu-fp32"]))
"""


@needs_compiler
def test_everything_in_one_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["bash", ".ci/gpu", "--rehearse", "--out", str(out), "--part", "environment", "--part", "bench"]
    done = run(command, PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"0 failed, 1 skipped; results are in {out}") or (
        "0 failed, 0 skipped" in done.stdout.splitlines()[-1]
    )
    assert "emulated sm_90" in (out / "environment.txt").read_text()
    assert [record["name"] for record in json.loads((out / "bench.json").read_text())["works"]] == ["chain-1x2"]
    assert any(line.split()[:2] == ["passed", "bench"] for line in (out / "summary.txt").read_text().splitlines())


def test_a_step_that_fails_or_hangs_does_not_stop_the_others(tmp_path: Path) -> None:
    """With a Python that fails at the environment and sleeps in the bench."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *bench.device*) sleep 60 ;; *describe_environment*) echo broken; exit 3 ;; esac\n'
    )
    python.chmod(0o755)
    out = tmp_path / "out"
    command = ["bash", ".ci/gpu", "--rehearse", "--limit", "6", "--out", str(out)]
    done = run([*command, "--part", "environment", "--part", "bench"], PYTHON=str(python))
    assert done.returncode == 1
    verdicts = [line.split("  ")[0].strip() for line in (out / "summary.txt").read_text().splitlines()]
    assert verdicts[0] == "FAILED"
    assert verdicts[-1].startswith("TIME OUT")


@pytest.mark.parametrize("arguments", [["--part", "nonsense"], ["--nonsense"]])
def test_bad_arguments(arguments: list[str]) -> None:
    done = run(["bash", ".ci/gpu", *arguments])
    assert done.returncode == 2
    assert done.stderr.startswith("gpu: error: ")


# Outcomes -----------------------------------------------------------------------------------------------------------


def bundle(folder: Path, *, correct: Any, loss: Any) -> str:
    folder.mkdir()
    with h5py.File(folder / "outcomes.h5", "w") as file:
        file["outcomes/cnn/pgd/0.1/correct"] = correct
        file["outcomes/cnn/pgd/0.1/loss"] = loss
    return str(folder)


def test_outcomes_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    correct, loss = np.array([True, False]), np.array([0.5, 2.0])
    first = bundle(tmp_path / "a", correct=correct, loss=loss)
    assert outcomes.main([first, bundle(tmp_path / "b", correct=correct, loss=loss + 1e-3)]) == 0
    assert "2 arrays; 0 differ; losses and distances by at most 0.001" in capsys.readouterr().out
    assert outcomes.main([first, bundle(tmp_path / "c", correct=~correct, loss=loss)]) == 1
    assert "cnn/pgd/0.1/correct: 2 of 2 differ" in capsys.readouterr().out
    assert outcomes.main([first, str(tmp_path)]) == 2
    assert "has no outcomes.h5" in capsys.readouterr().err
