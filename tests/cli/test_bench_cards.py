"""``python -m bench.cards``: what it measures, going on after an interruption, and the card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench import cards
from malade_ref import attacks, save
from malade_ref.datasets import load_dataset
from malade_ref.network import Network, madry, sdae
from malade_ref.training import Classification, Denoising, fit

SIZES = ("--data", "synthetic-digits", "--clean-count", "50", "--count", "24")
QUICK = (*SIZES, "--num-steps", "3", "--restarts", "2", "--step-size", "0.1", "--num-square-steps", "3")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _trained(madry("small"), Classification(), tmp_path_factory.mktemp("classifier") / "net.h5")


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _trained(sdae("small"), Denoising(0.3), tmp_path_factory.mktemp("denoiser") / "net.h5")


def _trained(network: Network, objective: Classification | Denoising, path: Path) -> Path:
    train = load_dataset("synthetic-digits").train
    x, y = train.images(slice(0, 512)), train.labels(slice(0, 512))
    save(fit(network, objective, x, y, epochs=2, batch_size=64, learning_rate=3e-3).network, path)
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "CLEAN_BLOCK", 20)
    monkeypatch.setattr(cards, "ATTACK_BLOCK", 10)


def _measured(path: Path) -> dict[str, object]:
    """A record without what a clock says."""
    record = json.loads(path.read_text())
    for blocks in record["blocks"].values():
        for block in blocks.values():
            del block["seconds"]
    return {name: record[name] for name in ("about", "blocks", "results")}


def test_a_classifier_gets_the_numbers_that_predictions_and_attacks_give(classifier: Path, tmp_path: Path) -> None:
    out, text = tmp_path / "net.json", tmp_path / "net.md"
    assert cards.main([str(classifier), "--out", str(out), "--card", str(text), *QUICK]) == 0
    results = json.loads(out.read_text())["results"]
    network, test = cards.load(classifier), load_dataset("synthetic-digits").test
    x, y = test.images(slice(0, 50)), test.labels(slice(0, 50))
    assert results["clean"]["right"] == int((network.predict(x) == y).sum())
    standing = np.ones(24, bool)
    for seed in (0, 1):
        found = attacks.pgd(network, x[:24], y[:24], eps=0.3, step_size=0.1, num_steps=3, seed=seed)
        standing &= ~found.success
    assert results["pgd"]["right"] == standing.sum()
    assert results["pgd"]["right_after_each_restart"][1] == standing.sum()
    assert results["auto_attack"]["right"] <= results["clean"]["right"]
    card = text.read_text()
    assert "of 24 |\n" in card
    assert f"{100 * results['clean']['accuracy']:.2f}% [" in card


def test_a_denoiser_gets_the_errors_of_its_reconstructions(denoiser: Path, classifier: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.json"
    assert cards.main([str(denoiser), "--classifier", str(classifier), "--out", str(out), *SIZES]) == 0
    results = json.loads(out.read_text())["results"]
    assert results["error"]["low"] < results["error"]["mean_squared"] < results["error"]["high"]
    assert results["error"]["sigma2"] == pytest.approx(0.09)
    assert results["error_of_noise"] == pytest.approx(0.09, rel=0.05)
    network, restorer = cards.load(classifier), cards.load(denoiser)
    test = load_dataset("synthetic-digits").test
    x, y = test.images(slice(0, 50)), test.labels(slice(0, 50))
    right = (network.forward(restorer.forward(x)[0])[0].argmax(axis=1) == y).sum()
    assert results["accuracy_clean"]["right"] == right
    assert results["accuracy_bare"]["right"] == (network.predict(x) == y).sum()


@pytest.mark.parametrize("after", [1, 4, 6])
def test_an_interrupted_measurement_goes_on(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    assert cards.main([str(classifier), "--out", str(whole), *QUICK]) == 0
    measured, count = cards.Progress.measured, iter(range(after))

    def interrupted(self: cards.Progress, *arguments: Callable[[], dict[str, object]]) -> dict[str, object]:
        if next(count, None) is None:
            raise KeyboardInterrupt
        return measured(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(cards.Progress, "measured", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cards.main([str(classifier), "--out", str(part), *QUICK])
    assert sum(map(len, json.loads(part.read_text())["blocks"].values())) == after
    assert cards.main([str(classifier), "--out", str(part), *QUICK]) == 0
    assert _measured(part) == _measured(whole)


def test_bad_input(classifier: Path, denoiser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net.json"
    other = tmp_path / "other.json"
    assert cards.main([str(denoiser), "--out", str(other), *SIZES]) == 0
    capsys.readouterr()
    for arguments, complaint in (
        ((classifier, "--classifier", classifier), "--classifier: is for denoisers"),
        ((classifier, "--restarts", "0"), "--restarts"),
        ((classifier, "--eps", "nan"), "--eps"),
        ((tmp_path / "nothing.h5",), "nothing.h5"),
        ((classifier, "--environment", tmp_path / "environment.json"), "environment.json"),
        ((classifier, "--out", tmp_path / "no" / "folder.json"), "--out"),
        ((classifier, "--out", other), "is of another network"),
    ):
        words = [str(word) for word in ("--out", out, *arguments)]
        assert cards.main([words[2], *words[:2], *words[3:], *SIZES]) == 2, arguments
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert complaint in lines[0]
    assert not out.exists()
