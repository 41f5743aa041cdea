"""The comparison of attacks: a tiny run, and that it fails when an attack is weaker than its peer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import attacks as bench
from malade_ref import mlp, save


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    model = mlp((1, 4, 4), 4)
    x = np.random.default_rng(0).random((5, 1, 4, 4)).astype("float32")
    save(model, tmp_path / "model.h5")
    np.savez(tmp_path / "images.npz", x=x, y=model.predict(x))
    files = ["--model", str(tmp_path / "model.h5"), "--data", str(tmp_path / "images.npz")]
    return [*files, "--num-images", "4", "--num-steps", "3", "--eps", "0.01", "--eps-l2", "0.02"]


def table_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "][1:]


def test_without_a_peer(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "open_peer", lambda *_: (None, "there is none"))
    out = tmp_path / "out.json"
    assert bench.main([*arguments, "--check", "--out", str(out)]) == 0
    table, document = table_of(capsys.readouterr().out), json.loads(out.read_text())
    names = [record["name"] for record in document["attacks"]]
    assert [row[0] for row in table] == names
    assert {"mim linf", "apgd dlr targeted linf", "cw l2", "ead en", "fab l2"} <= set(names)
    assert all("theirs" not in record for record in document["attacks"])
    assert (document["peer"], document["settings"]["images"]) == ("there is none", 4)


@pytest.mark.parametrize("strong", [True, False])
def test_a_weaker_attack_is_seen(arguments: list[str], strong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def peer_of(model: Any, x: Any, y: Any) -> Any:
        return (lambda name, num_steps, settings: wrong_images(model, x, y) if strong else x), "a fake"

    monkeypatch.setattr(bench, "open_peer", peer_of)
    assert bench.main([*arguments, "--only", "mim linf", "--only", "fab l2", "--check"]) == int(strong)


def wrong_images(model: Any, x: Any, y: Any) -> Any:
    """For each image another one, of another class: no attack in a tiny ball gets there."""
    candidates = np.random.default_rng(1).random((500, *x.shape[1:])).astype("float32")
    predictions = model.predict(candidates)
    return np.stack([candidates[predictions != label][0] for label in y])


def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--model", "missing.h5"]) == 2
    assert bench.main([*arguments, "--eps", "0"]) == 2
    assert capsys.readouterr().err.count("bench.attacks: ") == 2
