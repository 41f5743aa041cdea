"""The bench on a device and the command around all that needs one: rehearsed on the emulated device."""

from __future__ import annotations

import json
import os
import re
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
from bench.device import outcomes, runs
from bench.device.timing import DATA_SHEET, allowed_error, error_of, roofline
from bench.device.work import (
    BARS,
    EXTRAPOLATED,
    GROWTH,
    REHEARSAL,
    WORKS,
    Work,
    least_bytes,
    least_flops,
    make_problem,
    verdicts,
)
from malade_ref.experiment import read_experiment
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
    names = [work.name for work in WORKS]
    assert len(set(names)) == len(names)
    assert {bar.work for bar in BARS} | EXTRAPOLATED.keys() <= set(names)
    assert {bar.of for bar in BARS} <= {*bench.STARTS, "roofline", "seconds"}
    assert {name for bar in BARS for name in bar.backends} <= bench.STARTS.keys()
    assert {work.kind for work in REHEARSAL} == {work.kind for work in WORKS}
    for growth in GROWTH:
        assert set(growth.works) <= set(WORKS)
        assert len({getattr(work, growth.along) for work in growth.works}) >= 3
        assert {(work.kind, work.batch if growth.along == "steps" else work.steps) for work in growth.works} == {
            (growth.kind, growth.works[0].batch if growth.along == "steps" else growth.works[0].steps)
        }


def records(exponent: float = 1.0, **seconds: float) -> list[dict[str, Any]]:
    """Records of all works in which each backend takes the same time, as far as it is given; but for their growth."""
    found = []
    for work in WORKS:
        size = {"chain": work.batch * work.steps / 250_000, "chain-gradient": work.steps / 10}.get(work.kind, 1.0)
        results = {
            name.replace("_", "-"): {
                "median_seconds": value * (size**exponent if name.startswith("gpu") and size > 1 else 1),
                "precision": name.rpartition("_")[2],
                "memory_bytes": 3000 + work.steps * (work.kind == "chain-gradient"),
            }
            for name, value in seconds.items()
        }
        found.append({"name": work.name, "flops": 67e12, "least_bytes": 1, "backends": results})
    return found


def test_verdicts() -> None:
    peers = {"torch": 20.0, "torch_tf32": 20.0, "torch_compiled": 10.0, "torch_compiled_tf32": 4.0}
    found = verdicts(records(gpu_fp32=1.5, gpu_tf32x3=2.0, gpu_tf32=0.3, **peers))
    lines = {line: met for met, line in found}
    assert lines["chain-10000x25: gpu-fp32 13.3 times as fast as torch, asked 5; gpu-tf32x3 10"] is True
    assert lines["chain-10000x25: gpu-fp32 67% of the data sheet's fp32 roofline, asked 50%; gpu-tf32x3 50%"] is True
    assert lines["chain-10000x25: gpu-tf32 66.7 times as fast as torch-tf32, asked 15"] is True
    assert lines["gradient-10000: gpu-tf32 45% of the data sheet's tf32 roofline, asked 40%"] is True
    extrapolated = "bpda-10000x25: gpu-tf32 300 s for 1000 of them, extrapolated from one, asked 480 s"
    assert lines[f"{extrapolated}; gpu-fp32 1.5e+03; gpu-tf32x3 2e+03"] is True
    one = "1.000 (gpu-fp32), 1.000 (gpu-tf32x3), 1.000 (gpu-tf32), asked 1.00 +- 0.05"
    assert lines[f"chain, time against batch 10000 to 100000: exponent {one}"] is True
    assert lines[f"chain-gradient, time against steps 40 to 160: exponent {one}"] is True
    flat = "1.05 (gpu-fp32), 1.05 (gpu-tf32x3), 1.05 (gpu-tf32), asked 1.1"
    assert lines[f"chain-gradient, memory against steps 10 to 160: ratio {flat}"] is True
    assert [line for line, met in lines.items() if not met] == [
        "mixture-1000000x1000: gpu-fp32 13.3 times as fast as torch, asked 20; gpu-tf32x3 10"
    ]
    # The other of the exact precisions may be what meets a bar.
    other = [line for met, line in verdicts(records(gpu_fp32=9.0, gpu_tf32x3=1.0, **peers)) if met]
    assert "chain-10000x25: gpu-tf32x3 20 times as fast as torch, asked 5; gpu-fp32 2.22" in other
    slow = verdicts(records(gpu_fp32=30.0, gpu_tf32=15.0, exponent=1.2, **peers))
    assert [line.partition(":")[0] for met, line in slow if met] == [
        "chain, memory against steps 25 to 200",
        "chain-gradient, memory against steps 10 to 160",
    ]
    assert "1.200 (gpu-fp32)" in next(line for _, line in slow if line.startswith("chain, time against steps"))
    assert {met for met, _ in verdicts([])} == {None}
    # Two sizes are no fit.
    few = [record for record in records(gpu_fp32=1.0) if record["name"] != "chain-30000x25"]
    assert (None, "chain, time against batch 10000 to 100000: exponent: not measured at three sizes") in verdicts(few)


def test_rooflines_and_errors() -> None:
    ceiling = {"fp32_flop_per_second": 10.0, "tf32_flop_per_second": 100.0, "copy_bytes_per_second": 5.0}
    assert roofline("fp32", 20, 1, ceiling) == {"seconds": 2.0, "bound": "operations"}
    assert roofline("tf32x3", 20, 1, ceiling) == {"seconds": 0.6, "bound": "operations"}
    assert roofline("tf32", 20, 50, ceiling) == {"seconds": 10.0, "bound": "bytes"}
    assert roofline("bf16", 20, 1, ceiling) is None
    assert roofline("fp32", 1, 1, {}) is None
    # The figures that are asked for.
    for work, precision, milliseconds in ((Work("chain", 10_000, 25), "fp32", 10.2), (WORKS[3], "tf32", 3.45)):
        problem = make_problem(work._replace(batch=1), "paper")
        least = roofline(precision, least_flops(work, problem), least_bytes(work, problem), DATA_SHEET)
        assert least is not None
        assert 1e3 * least["seconds"] == pytest.approx(milliseconds, rel=5e-3)
    assert error_of([3.0, 4.0], [3.0, 4.5]) == pytest.approx(0.5 / np.hypot(3, 4.5))
    assert error_of([np.nan, 4.0], [3.0, 4.5]) == error_of([3.0], [3.0, 4.5]) == np.inf
    assert allowed_error("chain", "fp32") < allowed_error("gradient", "tf32") < 1


# Rehearsals ---------------------------------------------------------------------------------------------------------


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=settings, timeout=600)


@pytest.mark.slow
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
            least = result["h200_roofline"]
            assert least["share"] == pytest.approx(least["seconds"] / result["median_seconds"])
            assert least["bound"] in ("operations", "bytes")
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


def test_a_work_that_stopped_the_command_is_tried_again_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "STARTS", {"gpu-fp32": lambda _: Fake(1.0)})
    monkeypatch.setattr(Fake, "gpu", type("Device", (), {"emulated": True}), raising=False)
    out = tmp_path / "bench.json"
    command = ["--rehearse", "--out", str(out), "--sustain", "0"]
    command += [word for name in ("chain-1x2", "forward-2", "gradient-2") for word in ("--work", name)]

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(bench, "measured", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.main(command)
    assert json.loads(out.read_text())["begun"] == ["chain-1x2"]
    assert bench.main(command) == 0
    content = json.loads(out.read_text())
    assert content["begun"] == []
    assert [record["name"] for record in content["works"]] == ["forward-2", "gradient-2", "chain-1x2"]
    capsys.readouterr()


def test_who_takes_part() -> None:
    options = bench.parse([])

    def part(work: Work) -> set[str]:
        backends = {name: Fake(1.0) for name in bench.STARTS}
        for name in backends:
            backends[name].precision = name.rpartition("-")[2] if name.startswith("gpu") else "fp32"
        return {name for name, backend in backends.items() if bench.takes_part(name, backend, work, options)}

    gpu, eager, jax = {f"gpu-{p}" for p in bench.PRECISIONS}, {"torch", "torch-tf32"}, {"jax", "jax-tf32"}
    assert part(Work("chain", 10_000, 25)) == gpu | eager | jax | {"torch-compiled"}
    assert part(Work("gradient", 10_000)) == gpu | eager | jax | {"torch-compiled-tf32"}
    assert part(Work("chain", 100_000, 25)) == gpu | eager
    mixture = next(work for work in WORKS if work.kind == "mixture")
    assert not part(mixture) & {"gpu-tf32x3", "gpu-tf32", "gpu-bf16"}


@pytest.mark.slow
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


@pytest.mark.slow
@needs_compiler
def test_everything_in_one_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["bash", ".ci/gpu", "--rehearse", "--out", str(out), "--runs", str(tmp_path / "runs")]
    command += ["--part", "environment", "--part", "bench=300", "--part", "madry"]
    done = run(command, PYTHON=sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf" 0 failed, [0-2] skipped; results are in {out}$", done.stdout.splitlines()[-1])
    assert "emulated sm_90" in (out / "environment.txt").read_text()
    assert [record["name"] for record in json.loads((out / "bench.json").read_text())["works"]] == ["chain-1x2"]
    steps = [line.split()[:2] for line in (out / "summary.txt").read_text().splitlines()]
    assert ["passed", "bench"] in steps
    assert ["passed", "mnist-madry"] in steps
    # The bundle comes without arrays of images.
    copied = {path.name for path in (out / "mnist-madry").iterdir()}
    assert {"results.json", "report.md", "outcomes.h5", "models"} <= copied
    assert not copied & {"pictures.h5", "MANIFEST.json", ".work"}
    cells = json.loads((out / "mnist-madry" / "results.json").read_text())["cells"]
    assert {"madry/clean/0", "madry/restarts/0.3"} <= cells.keys()  # which `bench.device.runs` looks at
    seconds = tmp_path / "runs" / "rehearsal-mnist-madry.seconds"
    before = seconds.read_text()
    assert len(before.split()) == 1
    # All is done: the same call has nothing left to do.
    again = run([*command[:7], "--part", "madry"], PYTHON=sys.executable)
    assert again.returncode == 0, again.stdout + again.stderr
    assert seconds.read_text() == before


def test_without_data_an_experiment_is_skipped(tmp_path: Path) -> None:
    """With a Python that has a device and no MNIST."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *load_dataset*) echo no MNIST here >&2; exit 1 ;; *malade_ref\\ run*) exit 9 ;; esac\n'
    )
    python.chmod(0o755)
    command = ["bash", ".ci/gpu", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    done = run([*command, "--part", "madry", "--part", "table"], PYTHON=str(python))
    assert done.returncode == 0
    lines = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [["skipped", "mnist-madry"], ["skipped", "mnist-table1"]]
    assert all(line.endswith("no MNIST here") for line in lines)


@pytest.mark.slow
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
    assert any(line.startswith("TIME OUT") for line in verdicts)


@pytest.mark.parametrize(
    "arguments", [["--part", "nonsense"], ["--nonsense"], ["--part", "bench=soon"], ["--limit", "10m"]]
)
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


# Bundles held against what is asked ---------------------------------------------------------------------------------


def finished(folder: Path, name: str, *, scale: str = "paper", timings: dict[str, float], right: float = 1.0) -> Path:
    """As much of a finished bundle as is looked at."""
    folder.mkdir()
    config = {"name": name, "scale": scale, "evaluation": {"num_images": 10_000}, "data": {"name": "mnist"}}
    cells = {f"madry/{cell}": {"mean": {"value": right}} for cell in ("clean/0", "restarts/0.3")}
    contents = {
        "config.json": config,
        "environment.json": {"timings": timings, "sessions": [{}]},
        "results.json": {"cells": cells},
        "MANIFEST.json": {},
    }
    for file, content in contents.items():
        (folder / file).write_text(json.dumps(content))
    (folder / "pictures.h5").write_bytes(b"images")
    return folder


def test_what_is_asked_is_what_is_run() -> None:
    experiment = read_experiment("mnist-madry", ["scale=paper"]).experiment
    training = experiment.models["madry"].adversarial
    assert training is not None
    assert (training.resolved()["eps"], training.resolved()["num_steps"]) == (0.3, 40)
    (attack,) = (attack for attack in experiment.attacks if attack.name == "restarts")
    assert {"num_steps": 100, "num_restarts": 20}.items() <= attack.resolved().items()
    assert (attack.eps, attack.num_images, experiment.evaluation.num_images) == ((0.3,), 10_000, 10_000)


def test_what_is_asked_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = tmp_path / "seconds"
    madry = finished(tmp_path / "a", "mnist-madry", timings={"models/cnn": 5.0, "models/madry": 500.0}, right=0.95)
    assert runs.main([str(madry), "--copy", str(tmp_path / "copy")]) == 1
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {"config.json", "environment.json", "results.json"}
    assert capsys.readouterr().out.splitlines() == [
        "NOT MET: Madry, clean images: 95.00% right, asked 98.3%",
        "met: Madry, PGD-100 with 20 restarts: 95.00% right, asked 91.0%",
        "met: Madry, training: 505 s, asked 600 s",
    ]
    # A training that was interrupted took an unknown part of all calls.
    good = finished(tmp_path / "b", "mnist-madry", timings={"models/madry": 100.0}, right=0.99)
    seconds.write_text("500\n200\n")
    assert runs.main([str(good), "--seconds", str(seconds)]) == 1
    assert "?: Madry, training: less than 700 s, asked 600 s" in capsys.readouterr().out
    seconds.write_text("300\n200\n")
    assert runs.main([str(good), "--seconds", str(seconds)]) == 0
    table = finished(tmp_path / "c", "mnist-table1", timings={"outcomes/a": 900.0, "models/cnn": 400.0})
    assert runs.main([str(table)]) == 1
    assert runs.main([str(table), "--seconds", str(seconds)]) == 0
    assert "met: Table 1, everything: 500 s in 2 calls, asked 1200 s" in capsys.readouterr().out
    tiny = finished(tmp_path / "d", "mnist-table1", scale="tiny", timings={})
    assert runs.main([str(tiny)]) == 0
    assert "nothing is asked of it" in capsys.readouterr().out
    (tiny / ".work").mkdir()
    (tiny / ".work" / "lock").touch()
    assert runs.main([str(tiny)]) == 2
    assert runs.main([str(tmp_path / "nothing")]) == 2
