"""Figures of the bench on a device, from invented times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="figures need matplotlib, which is not installed")

from bench.device import plots
from bench.device.timing import DATA_SHEET, roofline
from bench.device.work import CURVES, WORKS, least_bytes, least_flops, make_problem

# Seconds of a launch, and how far from the roofline.
BACKENDS = {
    "gpu-fp32": ("fp32", 2e-5, 1.6),
    "gpu-tf32x3": ("tf32x3", 2e-5, 2.0),
    "gpu-tf32": ("tf32", 2e-5, 2.5),
    "gpu-bf16": ("bf16", 2e-5, 4.0),
    "torch": ("fp32", 2e-3, 6.0),
    "torch-tf32": ("tf32", 2e-3, 9.0),
    "torch-compiled": ("fp32", 2e-4, 4.0),
    "torch-compiled-tf32": ("tf32", 2e-4, 5.0),
    "jax": ("fp32", 1e-3, 5.0),
    "jax-tf32": ("tf32", 1e-3, 7.0),
}
NETWORKS = make_problem(WORKS[1], "paper")


def invented(*, measured: bool) -> dict[str, Any]:
    """A record of all works, nothing of which was measured."""
    works = []
    for work in WORKS:
        flops, moved = least_flops(work, NETWORKS), least_bytes(work, NETWORKS)
        record = {"name": work.name, **work._asdict(), "flops": flops, "least_bytes": moved, "backends": {}}
        for name, (precision, launch, slowness) in BACKENDS.items():
            if work in CURVES and ("compiled" in name or "jax" in name):
                continue
            least = roofline(precision, flops, moved, DATA_SHEET)
            assert least is not None
            seconds = launch + slowness * least["seconds"]
            result = {"precision": precision, "median_seconds": seconds, "memory_bytes": 3000 * work.batch + (1 << 24)}
            result["h200_roofline"] = {**least, "share": least["seconds"] / seconds}
            if measured:
                result["roofline"] = {**least, "share": 0.8 * least["seconds"] / seconds}
            record["backends"][name] = result
        works.append(record)
    # One that failed has no times.
    works[0]["backends"]["jax"] = {"precision": "fp32", "failed": "RuntimeError: no memory"}
    return {"format": "malade-bench-device", "data_sheet": DATA_SHEET, "works": works}


@pytest.mark.slow
def test_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(invented(measured=True)))
    out = tmp_path / "figures"
    assert plots.main([str(file), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(plots.FIGURES)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.iterdir())
    assert capsys.readouterr().out.count("written: ") == 3


def test_what_was_not_measured_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = invented(measured=False)
    content["works"] = [record for record in content["works"] if record["name"] == "forward-10000"]
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(content))
    assert plots.main([str(file)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "roofline.png"]
    assert "steps.png: left out" in capsys.readouterr().out
    file.write_text(json.dumps({"format": "other"}))
    assert plots.main([str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"plots: error: {file}: is not what")


def test_a_curve_needs_two_sizes() -> None:
    works = invented(measured=True)["works"]
    lines = plots.curves(works, "steps", "median_seconds", kind="chain", batch=10_000)
    assert [steps for steps, _ in sorted(lines["gpu-fp32"])] == [5, 10, 25, 50, 100, 200]
    # A peer that was measured at one size only is one point.
    assert len(lines["jax-tf32"]) == 1
    assert "jax" not in lines  # it failed
    assert plots.curves(works, "batch", "median_seconds", kind="pgd") == {}
    assert plots.library_of("torch-compiled-tf32", "tf32") == plots.library_of("torch-compiled", "fp32")
    assert plots.library_of("gpu-tf32x3", "tf32x3") == "gpu"
