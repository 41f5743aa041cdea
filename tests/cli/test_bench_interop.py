"""The comparison across libraries: a tiny run where they are installed, and what its table says."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import interop as bench
from malade_ref import mlp, save
from malade_ref.layers import Flatten, Linear, Reshape, Tanh
from malade_ref.network import build

SHAPE = (1, 4, 4)
OPTIONS = argparse.Namespace(num_seeds=2, num_draws=3)


def problem() -> tuple[Any, Any, Any]:
    model = mlp(SHAPE, 4)
    x = np.random.default_rng(0).random((6, *SHAPE)).astype("float32")
    return model, x, model.predict(x)


def test_accuracies_and_their_differences() -> None:
    model, x, y = problem()
    own = bench.measure(bench.Row("g", "ours", lambda _: x), model, x, y, OPTIONS)
    assert (own["value"], own["values"], own["of_image"]) == (1.0, [1.0, 1.0], [1.0] * 6)
    black = np.zeros_like(x)
    other = bench.measure(bench.Row("g", "theirs", lambda seed: black if seed else x), model, x, y, OPTIONS)
    for record in (own, other):
        bench.compare(record, own)
    assert (own["same"], own["difference"]["value"]) == (True, 0.0)
    left = float((model.predict(black) == y).mean())
    assert other["value"] == pytest.approx((1 + left) / 2)
    assert other["same"] is False
    assert other["difference"]["low"] < other["difference"]["value"] < other["difference"]["high"]
    assert f"| {100 * other['value']:.1f}% |" in bench.line(other)


def test_distances_and_failures() -> None:
    model, x, y = problem()
    far = bench.measure(bench.Row("g", "still right", lambda _: x, False, "l2"), model, x, y, OPTIONS)
    assert far["value"] == math.inf
    wrong = (model.predict(1 - x) != y).nonzero()[0]
    moved = bench.measure(
        bench.Row("g", "moved", lambda _: 1 - x[wrong], False, "l1"), model, x[wrong], y[wrong], OPTIONS
    )
    assert moved["value"] == pytest.approx(np.median(abs(1 - 2 * x[wrong]).sum(axis=(1, 2, 3))))

    def broken(_: int) -> Any:
        raise RuntimeError("no")

    failed = bench.measure(bench.Row("g", "broken", broken), model, x, y, OPTIONS)
    bench.compare(failed, moved)
    bench.compare(moved, failed)
    assert failed == {"group": "g", "name": "broken", "failed": "RuntimeError: no"}
    assert "failed: RuntimeError: no" in bench.line(failed)


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("torch", "torchattacks", "foolbox", "art"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    model, x, y = problem()
    back = (Flatten(), Linear(16, 16), Tanh(), Reshape(SHAPE))
    save(model, tmp_path / "model.h5")
    save(build(back, SHAPE, seed=2, initialisation="glorot"), tmp_path / "denoiser.h5")
    np.savez(tmp_path / "images.npz", x=x, y=y)
    files = ["--classifier", str(tmp_path / "model.h5"), "--denoiser", str(tmp_path / "denoiser.h5")]
    sizes = ["--num-images", "3", "--num-steps", "2", "--num-seeds", "1", "--num-draws", "2", "--chain", "1"]
    out = tmp_path / "out"
    assert bench.main([*files, "--data", str(tmp_path / "images.npz"), *sizes, "--out", str(out)]) == 0
    record = json.loads((out / "results.json").read_text())
    assert {row["group"] for row in record["rows"]} == {"bare", "defended", "cw", "ead", "boundary"}
    assert not [row for row in record["rows"] if "failed" in row]
    report = (out / "report.md").read_text()
    assert all(bench.line(row) in report for row in record["rows"] if "difference" in row)
    assert "on a classifier of Foolbox" in capsys.readouterr().out


def test_bad_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--num-images", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench.interop: --num-images: expected an integer >= 1")
    assert error.count("\n") == 1


def test_the_recorded_command_names_no_folder() -> None:
    words = ["--out", "here/there", "--only", "bare", "--data-dir=data", "--data-dir", "data", "--check"]
    assert bench._without_folders(words) == ["--only", "bare", "--check"]
