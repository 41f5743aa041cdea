"""``malade theorem``: a bundle, gone on with after an interruption, that can be verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref.bundle.layout import MANIFEST
from malade_ref.cli import theorem as command
from malade_ref.theorem import Claim, Measure, Settings, exact
from malade_ref.theorem import run as laboratory
from malade_ref.theorem.parts import PARTS, Part

from .conftest import Malade


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command run the tiny scale, without the parts that take long."""

    def settings(scale: str, seed: int, ops: Any) -> Settings:
        return Settings("tiny", seed, ops)

    parts = tuple(part for part in PARTS if part.name in ("dae", "controls", "drift"))
    monkeypatch.setattr(command, "Settings", settings)
    monkeypatch.setattr(command, "PARTS", parts)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_run_that_was_interrupted_goes_on_and_can_be_verified(
    malade: Malade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    with monkeypatch.context() as patch:
        patch.setattr(laboratory, "_compute", _interrupted(laboratory._compute, after=2))
        code, _, err = malade("theorem", "--quick", "--out", out)
    assert code == 130
    assert f"malade theorem --quick --out {out} --resume" in err
    code, text, _ = malade("theorem", "--quick", "--out", out, "--resume")
    assert code == 0
    assert "The plain denoiser: was done already" in text
    report = (out / "report.md").read_text()
    assert "Equation (10) is equation (6) (negative control): holds" in report
    results = json.loads((out / "results.json").read_text())
    assert sum(results["count"].values()) == len(results["claims"]) > 8
    assert {claim["name"]: claim["verdict"] for claim in results["claims"]}["dae-identity"] == "holds"
    assert (out / "figures" / "fields.png").stat().st_size > 10_000
    code, text, _ = malade("report", out, "--verify")
    assert (code, "whole" in text) == (0, True)
    again = tmp_path / "again"
    assert malade("theorem", "--quick", "--out", again).code == 0
    for name in ("results.json", "report.md", "claims/drift.h5", "figures/drift.png"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def _interrupted(compute: Any, *, after: int) -> Any:
    calls = iter(range(after))

    def interrupted(*arguments: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return compute(*arguments)

    return interrupted


@pytest.mark.usefixtures("tiny")
def test_verification_notices_a_number_that_does_not_follow(
    malade: Malade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"

    def compute(settings: Settings, folder: Path, progress: Any) -> list[Claim]:
        assert folder.is_dir()
        progress(0.5, "half")
        measure = Measure("a number", exact(1.0), 0, 2)
        return [Claim("a-claim", 1, "A claim", "It holds.", "By thought.", [measure], arrays={"x": np.arange(3.0)})]

    parts = (Part(1, "dae", "A part", "About something.", compute, {"full": 1, "quick": 1, "tiny": 1}),)
    monkeypatch.setattr(command, "PARTS", parts)
    assert malade("theorem", "--out", out).code == 0
    results = json.loads((out / "results.json").read_text())
    assert results["claims"][0]["measures"][0]["range"] == "0 to 2"
    results["claims"][0]["measures"][0]["value"] = 3.0
    (out / "results.json").write_text(json.dumps(results))
    code, text, _ = malade("report", out, "--verify")
    assert code == 1
    assert "results.json" in text
    code, text, _ = malade("report", out)
    assert code == 0
    assert "Of 1 claim 1 hold" in text
    assert malade("report", out, "--verify").code == 0


@pytest.mark.usefixtures("tiny")
def test_some_parts_and_a_record_of_them(malade: Malade, tmp_path: Path) -> None:
    out, record, again = (tmp_path / name for name in ("bundle", "record", "again"))
    assert malade("theorem", "--part", "controls", "--part", "dae", "--out", out).code == 0
    assert json.loads((out / "config.json").read_text())["parts"] == ["dae", "controls"]
    report = (out / "report.md").read_text()
    assert "malade theorem --part dae --part controls at scale tiny" in report
    assert "## 1. " in report
    assert "## 5. " not in report
    assert malade("report", out, "--record", record).code == 0
    assert malade("report", record, "--verify").code == 0
    assert malade("report", record, "--out", again).code == 0
    for name in ("results.json", "report.md"):
        assert (again / name).read_bytes() == (record / name).read_bytes() == (out / name).read_bytes()
    # Nothing large is in it, so that nothing is left out.
    assert json.loads((record / MANIFEST).read_text())["left_out"] == {}
    (record / "claims" / "dae.h5").write_bytes(b"")
    assert malade("report", record, "--verify").code == 1


def test_bad_usage(malade: Malade, tmp_path: Path) -> None:
    assert "--seed" in malade.fails("theorem", "--seed", "-1", "--out", tmp_path / "x")
    assert "--part" in malade.fails("theorem", "--part", "nothing", "--out", tmp_path / "x")
    (tmp_path / "file").write_text("")
    assert "choose another" in malade.fails("theorem", "--quick", "--out", tmp_path / "file")
