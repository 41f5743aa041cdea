"""The single steps on files, one after another, agree with the functions they call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from malade_ref import MALADE, attacks, load
from tests.cli.conftest import Malade
from tests.ref.dataset_files import cifar10_files

CHAIN = ("--chain-steps", 2, "--a", 0.5, "--delta", 0.1)


@pytest.fixture
def trained(malade: Malade) -> Malade:
    """Commands, in a folder with a classifier and an sDAE that were trained a little."""
    common = ("synthetic-digits:train:200", "--preset", "small", "--epochs", 1, "--batch-size", 50)
    assert malade("train", "classifier", *common, "--learning-rate", 3e-3, "--out", "cnn.h5").code == 0
    adversarial = ("--adversarial", "ascent", "--set", "eps=0.1", "--set", "num_steps=1", "--init", "cnn.h5")
    assert malade("train", "classifier", *common, *adversarial, "--out", "madry.h5").code == 0
    answer = malade("train", "denoiser", *common, "--classifier", "cnn.h5", "--out", "sdae.h5")
    assert answer.code == 0
    assert "network: sdae.h5" in answer.out
    return malade


@pytest.mark.slow
def test_all(trained: Malade, tmp_path: Path) -> None:
    malade = trained
    images = ("synthetic-digits:test:30",)
    answer = malade("predict", *images, "--model", "cnn.h5", "--out", "clean.npz")
    assert answer.code == 0
    assert "accuracy" in answer.out

    chain = ("--denoiser", "sdae.h5", *CHAIN)
    attack = ("attack", "pgd", *images, "--model", "cnn.h5", *chain, "--eps", 0.2, "--set", "num_steps=2", "--seed", 3)
    assert malade(*attack, "--set", "mode=bpda", "--out", "adv.npz").code == 0
    assert malade(*attack, "--set", "mode=bpda", "--out", "adv.h5").code == 0
    with np.load("adv.npz") as found, h5py.File("adv.h5") as other:
        x, y = found["x"], found["y"]
        words = {"class_names"}
        arrays = {"x", "y", "success", "loss", "distance", "num_queries", "num_gradients", "index"}
        assert arrays | words == set(found)
        assert all((found[name] == other[name][()]).all() for name in arrays)

    from malade_ref.datasets import load_dataset

    clean = load_dataset("synthetic-digits", sizes={"test": 30}).test.images()
    defended = MALADE(load("cnn.h5"), load("sdae.h5"), num_steps=2, a=0.5, delta=0.1)
    result = attacks.pgd(defended, clean, y, eps=0.2, num_steps=2, mode="bpda", seed=3)
    np.testing.assert_array_equal(x, result.x_adv)

    assert malade("purify", "adv.npz", *chain, "--out", "purified.npz").code == 0
    with np.load("purified.npz") as found:
        np.testing.assert_array_equal(found["x"], defended.purify(x))
        np.testing.assert_array_equal(found["y"], y)
    assert malade("predict", "adv.npz", "--model", "cnn.h5", *chain, "--num-draws", 3, "--out", "p.npy").code == 0
    np.testing.assert_array_equal(np.load("p.npy"), defended.predict(x, num_draws=3))

    # What was purified can be classified by the bare classifier.
    first = malade("predict", "purified.npz", "--model", "cnn.h5").out
    second = malade("predict", "adv.npz", "--model", "cnn.h5", *chain).out
    assert first.split()[1] == second.split()[1]


@pytest.mark.parametrize("form", ["npy", "npz", "h5", "bytes", "float64", "no channel"])
def test_forms_of_input(malade: Malade, files: Path, tmp_path: Path, form: str) -> None:
    """The same images in another form are classified in the same way."""
    with np.load(files / "good.npz") as good:
        pixels, y = np.round(255 * good["x"]).astype(np.uint8), good["y"]
    x = pixels.astype(np.float32) / np.float32(255)
    np.savez(tmp_path / "reference.npz", x=x, y=y)
    extra: tuple[Any, ...] = ()
    if form == "npy":
        np.save(tmp_path / "in.npy", x)
        np.save(tmp_path / "labels.npy", y)
        source, extra = "in.npy", ("--labels", "labels.npy")
    elif form == "h5":
        source = "in.h5"
        with h5py.File(tmp_path / source, "w") as file:
            file.create_dataset("images", data=pixels, compression="gzip")
            file["labels"] = y
    else:
        source = "in.npz"
        arrays = {"npz": x, "bytes": pixels, "float64": x.astype(np.float64), "no channel": x[:, 0]}
        np.savez(tmp_path / source, images=arrays[form], labels=y)
    network = ("--model", files / "cnn.h5")
    expected = malade("predict", "reference.npz", *network, "--out", "expected.npz")
    answer = malade("predict", source, *extra, *network, "--out", "found.npz")
    assert answer.code == expected.code == 0
    assert answer.out.split()[3] == expected.out.split()[3]
    with np.load("expected.npz") as one, np.load("found.npz") as other:
        np.testing.assert_array_equal(one["logits"], other["logits"])


def test_folder_of_images(malade: Malade, files: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for number in range(12):
        folder = tmp_path / "photos" / "train" / str(number % 3)
        folder.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.full((28, 28), number, dtype=np.uint8)).save(folder / f"{number}.png")
    answer = malade("predict", "photos", "--model", files / "cnn.h5")
    assert answer.code == 0
    assert "on 12 images of photos" in answer.out


def test_predictions_without_labels_are_printed(malade: Malade, files: Path) -> None:
    answer = malade("predict", files / "x.npy", "--model", files / "cnn.h5")
    assert answer.code == 0
    expected = load(files / "cnn.h5").predict(np.load(files / "x.npy"))
    assert answer.out.split() == [str(label) for label in expected]


def test_a_finished_training_is_not_repeated(malade: Malade) -> None:
    words = ("train", "classifier", "synthetic-digits:train:50", "--preset", "small", "--epochs", 1, "--out", "cnn.h5")
    assert malade(*words).code == 0
    before = Path("cnn.h5").stat().st_mtime_ns
    answer = malade(*words, "--resume")
    assert "finished already" in answer.out
    assert Path("cnn.h5").stat().st_mtime_ns == before


def test_data_commands(malade: Malade, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez("mine.npz", images=rng.integers(0, 256, (60, 28, 28), dtype=np.uint8), labels=np.arange(60) % 10)
    (tmp_path / "data").mkdir()
    answer = malade("data", "import", "mine.npz", "--name", "mine")
    assert answer.code == 0
    assert "imported into data/mine.h5" in answer.out
    listed = malade("data", "list").out
    assert any(line.split()[:2] == ["mine", "found"] for line in listed.splitlines())
    assert any(line.split()[:2] == ["mnist", "missing"] for line in listed.splitlines())
    assert "exists already" in malade.fails("data", "import", "mine.npz", "--name", "mine")
    (tmp_path / "data" / "cifar10").mkdir()
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (tmp_path / "data" / "cifar10" / name).write_bytes(cifar10_files()[name])
    answer = malade("data", "import", "data/cifar10", "--name", "colour")
    assert "Missing: data_batch_2.bin, data_batch_3.bin, data_batch_4.bin, data_batch_5.bin; there are 30" in answer.out
    listed = malade("data", "list").out
    assert any(line.startswith("cifar10 ") and "not the published cifar10" in line for line in listed.splitlines())
    assert any(line.split()[:2] == ["colour", "found"] for line in listed.splitlines())
    assert malade("train", "classifier", "mine:train", "--preset", "small", "--epochs", 1, "--out", "c.h5").code == 0
