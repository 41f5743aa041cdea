"""``python -m bench.denoisers``: what it trains and measures, going on after an interruption, and the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import cards, denoisers
from malade_ref import MALADE, load, ops, save
from malade_ref.datasets import import_dataset, load_dataset
from malade_ref.network import cifar_resnet, cnn, unet
from malade_ref.training import Classification, fit

QUICK = ("--epochs", "3", "--batch-size", "8", "--learning-rate", "0.003", "--chain-steps", "2", "--count", "20")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two-coloured images of three classes, and a classifier of them."""
    path = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    sizes = {"train": 64, "validation": 4, "test": 24}
    split = np.repeat(list(sizes), list(sizes.values()))
    labels = np.arange(92) % 3
    images = rng.integers(40, 120, (92, 3, 1, 1)) + np.zeros((8, 8), dtype=int)
    images[np.arange(92), labels, :, 4:] += 100
    np.savez(path / "files.npz", images=images.astype(np.uint8), labels=labels, split=split)
    import_dataset(path / "files.npz", "colours", path)
    train = load_dataset("colours", data_dir=path).train
    start = cifar_resnet((3, 8, 8), 3, preset="small", width=4)
    settings: dict[str, Any] = {"epochs": 8, "batch_size": 8, "learning_rate": 1e-2}
    save(fit(start, Classification(), train.images(), train.labels(), **settings).network, path / "net.h5")
    return path


def run(folder: Path, out: Path, *more: str) -> int:
    given = (folder / "net.h5", "--out", out, "--data", "colours", "--data-dir", folder, *QUICK, *more)
    return denoisers.main([str(word) for word in given])


def measured(out: Path) -> dict[str, Any]:
    """A record without what a clock says."""
    record: dict[str, Any] = json.loads(out.read_text())
    for part in (
        *(block for blocks in record["blocks"].values() for block in blocks.values()),
        *record["results"].values(),
    ):
        for name in ("seconds", "training_seconds", "forward", "forward_and_gradient"):
            part.pop(name, None)
    return {name: record[name] for name in ("about", "blocks", "results")}


def test_numbers_are_those_of_the_networks_beside_it(folder: Path, tmp_path: Path) -> None:
    out, text = tmp_path / "found.json", tmp_path / "found.md"
    assert run(folder, out, "--table", str(text)) == 0
    record = json.loads(out.read_text())
    assert list(record["results"]) == ["conv-sdae", "dncnn", "unet"]
    classifier, test = load(folder / "net.h5"), load_dataset("colours", data_dir=folder).test
    x, y = test.images(slice(0, 20)), test.labels(slice(0, 20))
    key = ops.derive_key(0, "denoising-validation")
    noise = ops.normal(x.shape[1:], key=key, sample_index=np.arange(20), step=0, dtype="float32")
    noisy = x + np.float32(0.1) * noise
    for name, found in record["results"].items():
        denoiser = load(tmp_path / "found.networks" / f"{name}.h5")
        assert denoiser.metadata["network"] == name
        assert denoiser.metadata["training"]["objective"]["name"] == "SupervisedDenoising"
        assert found["error"]["mean_squared"] == pytest.approx(np.mean((denoiser.apply(noisy) - x) ** 2), rel=1e-5)
        assert found["error_of_noise"] == pytest.approx(np.mean((noisy - x) ** 2), rel=1e-5)
        assert found["accuracy_bare"]["right"] == (classifier.predict(x) == y).sum()
        assert found["accuracy_clean"]["right"] == (classifier.apply(denoiser.apply(x)).argmax(axis=1) == y).sum()
        chain = MALADE(classifier, denoiser, num_steps=2, a=0.2, delta=0.01, seed=0)
        assert found["accuracy_chain"]["right"] == (chain.predict(x) == y).sum()
        assert found["accuracy_chain"]["images"] == 20
        assert 0 < found["forward"] < found["forward_and_gradient"] * 2
        assert f"| {name} | {denoiser.num_parameters:,} |" in text.read_text()
    # What adds its correction to the input is better than noise before what draws the image anew.
    errors = {name: found["error"]["mean_squared"] for name, found in record["results"].items()}
    assert errors["unet"] < found["error_of_noise"] < errors["conv-sdae"]
    assert "commit" in text.read_text()
    assert sum(line.startswith("|") for line in text.read_text().splitlines()) == 5


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_comparison_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    only = ("--network", "unet", "--ce-weight", "0", "--subset", "16")
    assert run(folder, whole, *only) == 0
    function, count = cards.Progress.measured, iter(range(after))

    def interrupted(self: cards.Progress, *arguments: Any) -> dict[str, Any]:
        found = function(self, *arguments)
        if next(count, None) is None:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(cards.Progress, "measured", interrupted)
        if after < 3:
            with pytest.raises(KeyboardInterrupt):
                run(folder, part, *only)
    trained: list[Callable[..., Any]] = []
    monkeypatch.setattr(denoisers, "fit", lambda *a, **k: trained.append(a[0]) or fit(*a, **k))
    assert run(folder, part, *only) == 0
    assert len(trained) == (1 if after == 3 else 0)
    assert measured(part) == measured(whole)
    assert measured(part)["results"]["unet"]["error"]["mean_squared"] > 0


def test_bad_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(cnn("small"), tmp_path / "cnn.h5")
    save(unet((3, 8, 8), depth=1, width=2), tmp_path / "unet.h5")
    save(cifar_resnet((3, 8, 8), 2, preset="small", width=1), tmp_path / "two.h5")
    other = tmp_path / "other.json"
    assert run(folder, other, "--network", "dncnn", "--epochs", "1") == 0
    capsys.readouterr()
    for classifier, more, complaint in (
        ("cnn.h5", (), "expected a classifier of images of shape (3, 8, 8)"),
        ("unet.h5", (), "expected a classifier of images"),
        ("two.h5", (), "knows 2 classes, colours has 3"),
        ("no.h5", (), "no.h5"),
        ("net.h5", ("--epochs", "0"), "--epochs"),
        ("net.h5", ("--sigma2", "0"), "--sigma2"),
        ("net.h5", ("--ce-weight", "-1"), "--ce-weight"),
        ("net.h5", ("--table", str(tmp_path / "no" / "table.md")), "--table"),
        ("net.h5", ("--out", str(tmp_path / "no" / "found.json")), "--out"),
        ("net.h5", ("--out", str(other)), "is of another network or other settings"),
    ):
        path = (folder if classifier == "net.h5" else tmp_path) / classifier
        words = (path, "--out", tmp_path / "found.json", "--data", "colours", "--data-dir", folder, *QUICK, *more)
        assert denoisers.main([str(word) for word in words]) == 2, complaint
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert complaint in lines[0]
    # A network that is not the one of the record.
    save(unet((3, 8, 8), preset="small", seed=9), tmp_path / "other.networks" / "dncnn.h5")
    assert run(folder, other, "--network", "dncnn", "--epochs", "1") == 2
    assert "is another than that of the record" in capsys.readouterr().err
