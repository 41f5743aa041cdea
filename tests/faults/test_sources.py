"""Odd sources of images: other spellings of splits, names that no system takes, words in other forms."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from malade_ref import cli, save
from malade_ref.cli.files import read_images
from malade_ref.datasets import import_dataset, load_dataset
from malade_ref.layers import Conv2d
from malade_ref.network import build, mlp
from tests.ref.dataset_files import complaint, own_folders  # noqa: F401 (a fixture)

pytestmark = pytest.mark.faults

SHAPE = (1, 4, 4)


def photos(root: Path, spec: dict[str, int]) -> Path:
    for name, shade in spec.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), shade, dtype=np.uint8)).save(root / name, "png")
    return root


def zipped(path: Path, folder: Path, extra: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
        for name in extra:
            archive.writestr(name, b"x")
    return path


def shades(images: Any) -> list[int]:
    return [round(255 * float(value)) for value in images.x[:, 0, 0, 0]]


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing"), ("TRAIN", "Valid")])
def test_splits_in_any_spelling(tmp_path: Path, names: tuple[str, str], kind: str) -> None:
    source = photos(tmp_path / "p", {f"{names[0]}/a/1.png": 10, f"{names[0]}/b/2.png": 20, f"{names[1]}/a/3.png": 30})
    source = source if kind == "folder" else zipped(tmp_path / "p.zip", source)
    assert shades(read_images(str(source), shape=SHAPE, split="train", training=True)) == [10, 20]
    other = "validation" if names[1] == "Valid" else "test"
    assert shades(read_images(f"{source}:{other}", shape=SHAPE)) == [30]
    data = load_dataset(import_dataset(source, "mine", tmp_path).stem, data_dir=tmp_path)
    assert (data.class_names, len(getattr(data, other))) == (("a", "b"), 1)


@pytest.mark.parametrize(
    "names", [("data/train/a", "data/test/a"), ("a/train", "a/test", "b/train"), ("train", "test"), ("Train",)]
)
def test_splits_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = photos(tmp_path / "p", {f"{name}/{i}.png": 10 for name in names for i in range(2)})
    text = complaint(read_images, str(folder), shape=SHAPE, split="train", training=True)
    assert "train/<class>/*.png" in text
    if len(names[0].split("/")) < 3:  # around the splits an archive may have a folder more
        zipped(tmp_path / "p.zip", folder)
        assert "train/<class>/*.png" in complaint(read_images, str(tmp_path / "p.zip"), shape=SHAPE)


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    vehicles = photos(tmp_path / "p", {"train/1.png": 10, "car/2.png": 20})
    images = read_images(str(vehicles), shape=SHAPE)
    assert (shades(images), images.class_names) == ([20, 10], ("car", "train"))


def test_what_lies_beside_the_splits_is_counted(tmp_path: Path) -> None:
    folder = photos(tmp_path / "p", {"train/a/1.png": 10, "more/a/2.png": 20, "3.png": 30, ".git/4.png": 40})
    (folder / "notes.txt").write_text("x")
    notes = read_images(str(folder), shape=SHAPE).notes
    assert any("4 files were left out" in note and "2 in no class folder" in note for note in notes)


@pytest.mark.parametrize("extra", [(".",), ("./.",), ("train",), ("train/a",), ("data", "data/train")])
def test_archives_with_odd_names(tmp_path: Path, extra: tuple[str, ...]) -> None:
    inner = "data/" if "data" in extra else ""
    folder = photos(tmp_path / "p", {f"{inner}train/{c}/{i}.png": 10 for c in "ab" for i in range(2)})
    path = zipped(tmp_path / "p.zip", folder, extra)
    images = read_images(str(path), shape=SHAPE)
    assert len(images) == 4
    assert f"{len(extra)} files were left out" in images.notes[0]
    assert load_dataset(import_dataset(path, "mine", tmp_path).stem, data_dir=tmp_path).class_names == ("a", "b")


def test_an_archive_that_holds_a_name_twice(tmp_path: Path) -> None:
    path = zipped(tmp_path / "p.zip", photos(tmp_path / "p", {"train/a/1.png": 10}))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.write(tmp_path / "p/train/a/1.png", "train/a/1.png")
    for function, words in ((read_images, {"shape": SHAPE}), (import_dataset, {"name": "mine"})):
        assert "twice; pack it again" in complaint(function, str(path), **words)


def test_names_of_classes_are_composed_by_the_import_too(tmp_path: Path) -> None:
    folder = photos(tmp_path / "p", {f"train/{c}/{i}.png": 10 for c in ("e\u0301", "z") for i in range(3)})
    data = load_dataset(import_dataset(folder, "mine", tmp_path).stem, data_dir=tmp_path)
    assert data.class_names == ("\u00e9", "z")
    photos(folder, {"train/\u00e9/1.png": 10})
    assert "the same name stands twice" in complaint(import_dataset, folder, "both", tmp_path)


@pytest.mark.parametrize("form", ["npz", "h5"])
def test_names_of_classes_in_bytes(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"x.{form}"
    arrays = {"x": np.zeros((2, *SHAPE), np.float32), "y": np.arange(2), "class_names": np.array([b"b", b"a"])}
    if form == "npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    assert read_images(str(path), shape=SHAPE, class_names=("a", "b")).y.tolist() == [1, 0]  # type: ignore[union-attr]


@pytest.mark.parametrize("names", [np.arange(2), np.array([["a"], ["b"]]), np.array([0.5, 1.5])])
def test_names_of_classes_that_are_no_words(tmp_path: Path, names: Any) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, *SHAPE), np.float32), y=np.arange(2), class_names=names)
    assert "class_names: expected words" in complaint(read_images, str(tmp_path / "x.npz"), shape=SHAPE)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (1, 2, 1, 4, 4)])
def test_complaints_tell_the_shape_that_is_there(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape, np.float32))
    assert complaint(read_images, str(tmp_path / "x.npy"), shape=SHAPE).endswith(f"got {shape}")


LONG = "x" * 300
COMMANDS = [
    ["predict", LONG, "--model", "c.h5"],
    ["predict", f"{LONG}.npz", "--model", "c.h5"],
    ["predict", f"{LONG}.zip", "--model", "c.h5"],
    ["predict", "x.npz", "--labels", LONG, "--model", "c.h5"],
    ["predict", "x.npz", "--model", LONG],
    ["predict", "x.npz", "--model", "c.h5", "--out", f"{LONG}.npz"],
    ["predict", "x.npz", "--model", "c.h5", "--out", f"{'x' * 245}.npz"],
    ["train", "classifier", "x.npz", "--out", LONG],
    ["data", "import", LONG, "--name", "a"],
    ["data", "import", "x.npz", "--name", "a", "--data-dir", LONG],
    ["report", LONG],
    ["run", LONG],
]


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "c.h5"
    save(mlp(SHAPE, 3, hidden=(5,)), path)
    return path


def one_line(capsys: pytest.CaptureFixture[str], words: list[str], network_file: Path) -> str:
    np.savez("x.npz", x=np.zeros((2, *SHAPE), np.float32), y=np.arange(2))
    assert cli.main([str(network_file) if word == "c.h5" else word for word in words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("words", COMMANDS)
def test_names_that_are_too_long(capsys: pytest.CaptureFixture[str], words: list[str], network_file: Path) -> None:
    assert "malade: error: " in one_line(capsys, words, network_file)


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "", "--model", "c.h5"],
        ["predict", "x.npz", "--labels", "", "--model", "c.h5"],
        ["predict", "x.npz", "--model", "c.h5", "--out", ""],
        ["train", "classifier", "", "--out", "t.h5"],
        ["data", "import", "", "--name", "a"],
    ],
)
def test_names_that_are_empty(capsys: pytest.CaptureFixture[str], words: list[str], network_file: Path) -> None:
    text = one_line(capsys, words, network_file)
    assert "empty name; name one" in text or "--out : expected a name" in text


@pytest.mark.parametrize("option", ["--chain-steps", "--num-draws", "--epochs"])
def test_work_without_end(capsys: pytest.CaptureFixture[str], option: str, network_file: Path) -> None:
    chain = ["--denoiser", "c.h5", "--a", "0.1", "--delta", "0.1", "--out", "o.npz"]
    words = {
        "--chain-steps": ["purify", "x.npz", *chain],
        "--num-draws": ["predict", "x.npz", "--model", "c.h5"],
        "--epochs": ["train", "classifier", "x.npz", "--out", "t.h5"],
    }[option]
    if option == "--chain-steps":
        save(build((Conv2d(1, 1, (1, 1)),), SHAPE, initialisation="he"), "d.h5")
        words[words.index("c.h5")] = "d.h5"
    assert f"{option}: expected an integer" in one_line(capsys, [*words, option, str(1 << 62)], network_file)
