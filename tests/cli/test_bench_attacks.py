"""The comparison of attacks: a tiny run, what is compared with what, and that it fails when an attack is weaker."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from bench import attacks as bench
from bench import peers
from malade_ref import mlp, save


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    model = mlp((1, 4, 4), 4)
    x = np.random.default_rng(0).random((5, 1, 4, 4)).astype("float32")
    save(model, tmp_path / "model.h5")
    np.savez(tmp_path / "images.npz", x=x, y=model.predict(x))
    files = ["--model", str(tmp_path / "model.h5"), "--data", str(tmp_path / "images.npz")]
    sizes = ["--num-images", "4", "--num-steps", "3", "--num-queries", "6", "--num-seeds", "2"]
    return [*files, *sizes, "--eps", "0.01", "--eps-l2", "0.02"]


@pytest.fixture
def problem() -> peers.Problem:
    model = mlp((1, 4, 4), 4)
    x = np.random.default_rng(0).random((5, 1, 4, 4)).astype("float32")
    return peers.Problem(model, x, model.predict(x), 3, 6, 0.01, 0.02)


def table_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "][1:]


def test_without_a_peer(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    out = tmp_path / "out.json"
    assert bench.main([*arguments, "--check", "--out", str(out)]) == 0
    table, document = table_of(capsys.readouterr().out), json.loads(out.read_text())
    names = [record["name"] for record in document["attacks"]]
    assert [row[0] for row in table] == names
    assert {"mim linf", "apgd dlr targeted linf", "cw l2", "ead en", "fab l2", "boundary l2"} <= set(names)
    assert all(record["peers"] == {} and "weaker" not in record for record in document["attacks"])
    assert (document["peers"], set(document["missing"])) == ({}, set(peers.OPENERS))
    assert document["settings"]["images"] == 4
    seeds = {record["name"]: record["seeds"] for record in document["attacks"]}
    assert (seeds["square l2"], seeds["fgsm"]) == (2, 1)


@pytest.mark.parametrize("strong", [True, False])
def test_a_weaker_attack_is_seen(arguments: list[str], strong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fakes(problem: peers.Problem) -> tuple[dict[str, peers.Peer], dict[str, str]]:
        def peer(*runs: Any) -> peers.Peer:
            return peers.Peer({"fake": "1"}, {name: list(runs) for name in ("mim linf", "fab l2")}, lambda: 0)

        weak = peer(lambda seed: problem.x)
        return {"weak": weak, "fake": peer(lambda seed: wrong_images(problem)) if strong else weak}, {}

    monkeypatch.setattr(bench, "open_peers", fakes)
    assert bench.main([*arguments, "--only", "mim linf", "--only", "fab l2", "--check"]) == int(strong)


def test_the_best_run_counts_for_each_image_and_seeds_are_averaged(problem: peers.Problem) -> None:
    x, wrong, spent = problem.x, wrong_images(problem), [0]

    def runs(*broken: slice) -> Any:
        def run(seed: int) -> Any:
            spent[0] += len(x)
            images = x.copy()
            images[broken[seed]] = wrong[broken[seed]]
            return images

        return run

    row = bench.Row("a", "", bench.attacks.pgd, {})
    both = [runs(slice(0, 1), slice(0, 0)), runs(slice(1, 3), slice(2, 4))]
    found = bench.outcome(problem, row, both, lambda: spent[0], range(2))
    assert found.value == pytest.approx((2 / 5 + 3 / 5) / 2)
    assert found.evaluations == 2
    nothing_fell = bench.outcome(problem, row._replace(distance="l2"), both, lambda: spent[0], range(1, 2))
    assert nothing_fell.value == np.inf
    share = bench.outcome(problem, row._replace(distance="share"), both, lambda: spent[0], range(1))
    assert share.value == 1


def test_every_attack_of_a_peer_has_a_row(problem: peers.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = ("torch", "torchattacks", "foolbox", "art", "art.attacks", "art.estimators")
    for name in (*packages, "art.estimators.classification"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.setattr(peers, "to_torch", MagicMock())
    monkeypatch.setattr("importlib.metadata.version", lambda package: f"{package} 1")
    opened, missing = peers.open_peers(problem)
    names = [row.name for row in bench.rows(problem)]
    assert (set(opened), missing) == (set(peers.OPENERS), {})
    assert len(names) == len(set(names))
    assert set().union(*(peer.runs for peer in opened.values())) == set(names)


def wrong_images(problem: peers.Problem) -> Any:
    """For each image another one, of another class: no attack in a tiny ball gets there."""
    model, x, y = problem.model, problem.x, problem.y
    candidates = np.random.default_rng(1).random((500, *x.shape[1:])).astype("float32")
    predictions = model.predict(candidates)
    return np.stack([candidates[predictions != label][0] for label in y])


def test_without_a_model_one_is_trained(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def images(source: str, **_: Any) -> Any:
        x = np.random.default_rng(len(source)).random((20, 1, 28, 28)).astype("float32")
        return x, np.arange(20) % 10

    monkeypatch.setattr(bench, "read_images", images)
    monkeypatch.setattr(bench, "open_peers", lambda _: ({}, {}))
    out = tmp_path / "out.json"
    assert bench.main([*arguments[2:], "--only", "fgsm", "--out", str(out)]) == 0
    model = json.loads(out.read_text())["model"]
    assert (model["training"]["epochs"], model["training"]["seed"]) == (2, 0)
    assert model["layers"]["input_shape"] == [1, 28, 28]


def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--model", "missing.h5"]) == 2
    assert bench.main([*arguments, "--eps", "0"]) == 2
    assert capsys.readouterr().err.count("bench.attacks: ") == 2
