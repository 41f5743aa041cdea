"""``malade train`` and ``malade run`` on colour images: networks are made for the shape and the classes of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from malade_ref import load
from malade_ref.bundle import Bundle
from malade_ref.cli import main
from malade_ref.datasets import import_dataset
from malade_ref.network import channel_statistics


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (18, 3, 8, 8), dtype=np.uint8), np.arange(18) % 3
    np.savez(tmp_path / "cifar10.npz", images=x, labels=y)
    np.savez(tmp_path / "splits.npz", images=x, labels=y, split=np.repeat(["train", "validation", "test"], 6))
    return tmp_path


def train(files: Path, kind: str, *more: str, data: str = "cifar10.npz") -> int:
    out = str(files / f"{kind}.h5")
    return main(["train", kind, str(files / data), "--out", out, "--epochs", "1", "--batch-size", "6", *more])


def test_training_by_command(files: Path) -> None:
    assert train(files, "classifier", "--network", "cifar-resnet", "--preset", "small", "--width", "2") == 0
    network = load(files / "classifier.h5")
    assert (network.input_shape, network.num_classes) == ((3, 8, 8), 3)
    assert network.metadata["width"] == 2
    assert network.layers[0].description()["mean"] == channel_statistics("cifar10", 3)[0]
    more = ("--network", "unet", "--depth", "1", "--width", "2", "--sigma2", "0.01")
    assert train(files, "denoiser", *more, "--classifier", str(files / "classifier.h5")) == 0
    denoiser = load(files / "denoiser.h5")
    assert denoiser.output_shape == (3, 8, 8)
    assert denoiser.residual
    # On a split of a file, too.
    (files / "classifier.h5").unlink()
    assert train(files, "classifier", "--network", "resnet-v2-50", "--preset", "small", data="splits.npz:train") == 0
    assert load(files / "classifier.h5").num_classes == 3


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("classifier", ("--network", "cnn"), "expected images of shape (1, 28, 28)"),
        ("denoiser", ("--network", "sdae"), "expected images of shape (1, 28, 28)"),
        ("classifier", ("--network", "cifar-resnet", "--depth", "9"), "depth: expected 6 n + 2"),
        ("classifier", ("--network", "cifar-resnet", "--width", "0"), "width: expected an integer >= 1"),
        ("classifier", ("--network", "unet"), "--network: unet is no classifier"),
        ("denoiser", ("--network", "unet", "--depth", "4"), "sides that are multiples of 16"),
        ("denoiser", ("--network", "conv-sdae", "--depth", "4"), "depth: conv-sdae has no such setting"),
    ],
)
def test_one_line(
    files: Path, capsys: pytest.CaptureFixture[str], kind: str, more: tuple[str, ...], message: str
) -> None:
    assert train(files, kind, *more) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert sum(line.startswith("malade: error") for line in lines) == 1
    assert not (files / f"{kind}.h5").exists()


def test_an_experiment(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_dataset(files / "splits.npz", "colours", files)
    text = """
name = "colours"
title = "Colours"
[data]
name = "colours"
[models.net]
kind = "classifier"
network = "cifar-resnet"
preset = "small"
width = 2
epochs = 1
batch_size = 6
[models.dae]
kind = "denoiser"
network = "unet"
depth = 1
width = 2
sigma2 = 0.01
epochs = 1
batch_size = 6
[defences.net]
name = "net"
classifier = "net"
[defences.malade]
name = "net + MALADE"
classifier = "net"
denoiser = "dae"
num_steps = 1
a = 0.2
delta = 0.01
[evaluation]
num_images = 4
num_draws = 2
"""
    (files / "colours.toml").write_text(text)
    command = ["run", str(files / "colours.toml"), "--data-dir", str(files), "--set", "store=off"]
    assert main([*command, "--out", str(files / "out")]) == 0
    made = load(files / "out" / "models" / "net.h5")
    assert (made.input_shape, made.num_classes) == ((3, 8, 8), 3)
    models = Bundle.open(files / "out").config["models"]
    assert (models["dae"]["width"], "depth" in models["net"]) == (2, False)
    assert main(["report", str(files / "out"), "--verify"]) == 0
    capsys.readouterr()
    assert main([*command, "--set", "models.net.network=madry", "--out", str(files / "other")]) == 2
    assert "models.net.width: madry has no such setting; remove it" in capsys.readouterr().err
