"""A folder of somebody's small pictures, from ``malade data import`` to predictions: sizes, colours, names, tables."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from malade_ref import load
from malade_ref.checks import InputError
from malade_ref.datasets import load_dataset
from malade_ref.datasets.from_images import parse_conversion
from malade_ref.experiment.adapting import Wish
from malade_ref.experiment.reading import read_experiment

from .conftest import Malade

SMALL = ("--preset", "small", "--width", "2", "--epochs", "1", "--batch-size", "8")


def picture(path: Path, mode: str, size: tuple[int, int], colour: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Folders of classes without splits: red cats and blue dogs, of many sizes, some grey, transparent or palettes."""
    folder = tmp_path / "photos"
    for number in range(9):
        picture(folder / "cat" / f"{number}.png", "RGB", (8 + number, 12), (200 + number, 10, 10))
        picture(folder / "dog" / f"{number}.png", "RGB", (8, 9 + number), (10, 10, 200 + number))
    picture(folder / "cat" / "grey.png", "L", (10, 10), 90)
    picture(folder / "dog" / "clear.png", "RGBA", (10, 10), (0, 0, 255, 0))
    Image.new("RGB", (10, 10), (10, 10, 250)).convert("P").save(folder / "dog" / "palette.png")
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def imported(malade: Malade, photos: Path, *more: str) -> None:
    answer = malade("data", "import", photos, "--name", "photos", "--resize", "8", "--convert", "rgb", *more)
    assert answer.code == 0, answer.err


def test_pictures_of_any_size_and_mode_are_imported(malade: Malade, photos: Path) -> None:
    assert "--resize N" in malade.fails("data", "import", photos, "--name", "photos", "--convert", "rgb")
    assert "--convert rgb" in malade.fails("data", "import", photos, "--name", "photos", "--resize", "8")
    imported(malade, photos)
    data = load_dataset("photos")
    assert data.shape == (3, 8, 8)
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.validation), len(data.test)) == (15, 3, 3)
    assert "scaled to cover 8 x 8 (bicubic) and cut to their middle, converted to rgb" in data.note
    assert "a sixth each, chosen at random" in data.note
    whole = [getattr(data, split).pixels() for split in ("train", "validation", "test")]
    colours = {tuple(image[:, 0, 0].tolist()) for part in whole for image in part}
    # What is transparent is white, grey is grey three times, and one colour stays itself at any size.
    assert {(255, 255, 255), (90, 90, 90), (200, 10, 10), (10, 10, 208)} <= colours
    again = malade("data", "import", photos, "--name", "grey", "--resize", "6x8", "--convert", "grey")
    assert again.code == 0, again.err
    assert load_dataset("grey").shape == (1, 6, 8)


def test_the_middle_is_kept(malade: Malade, tmp_path: Path) -> None:
    stripes = np.zeros((4, 12, 3), np.uint8)
    stripes[:, 4:8] = 255
    for split in ("train", "validation", "test"):
        path = tmp_path / "wide" / split / "a" / "1.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(stripes).save(path)
    assert malade("data", "import", tmp_path / "wide", "--name", "wide", "--resize", "4").code == 0
    assert load_dataset("wide").test.pixels().min() == 255


def test_from_pictures_to_predictions(malade: Malade, photos: Path, tmp_path: Path) -> None:
    imported(malade, photos)
    trained = malade("train", "classifier", "photos:train", "--out", "c.h5", *SMALL[2:])
    assert trained.code == 0, trained.err
    assert "--network cifar-resnet --preset small, for images of 3 x 8 x 8" in trained.out
    assert load("c.h5").metadata["class_names"] == ["cat", "dog"]
    one = photos / "cat" / "0.png"
    convert = ("--model", "c.h5", "--resize", "8", "--convert", "rgb")
    answer = malade("predict", one, *convert)
    assert answer.code == 0, answer.err
    assert answer.out.startswith(("0.png: cat (", "0.png: dog ("))
    assert "--resize 8" in malade.fails("predict", one, "--model", "c.h5")
    # A folder without folders of classes.
    (tmp_path / "new").mkdir()
    for name in ("cat/1.png", "dog/2.png", "cat/grey.png"):
        (tmp_path / "new" / name.replace("/", "-")).write_bytes((photos / name).read_bytes())
    answer = malade("predict", "new", *convert, "--out", "new.csv")
    assert answer.code == 0, answer.err
    rows = table(tmp_path / "new.csv")
    assert [row["file"] for row in rows] == ["cat-1.png", "cat-grey.png", "dog-2.png"]
    assert {row["prediction"] for row in rows} <= {"cat", "dog"}
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)
    assert "class" not in rows[0]
    # With folders of classes there are labels, and their names.
    answer = malade("predict", photos, *convert, "--out", "all.csv")
    assert "accuracy" in answer.out
    rows = table(tmp_path / "all.csv")
    assert [row["class"] for row in rows] == ["cat"] * 10 + ["dog"] * 11
    assert "exists already" in malade.fails("predict", photos, *convert, "--out", "all.csv")
    # Grey ones alone are what a model of colours takes three times.
    picture(tmp_path / "grey.png", "L", (8, 8), 7)
    assert "three equal channels" in malade("predict", "grey.png", "--model", "c.h5").out
    denoiser = malade("train", "denoiser", "photos:train", "--out", "d.h5", "--sigma2", "0.01", *SMALL[2:])
    assert denoiser.code == 0, denoiser.err
    chain = ("--denoiser", "d.h5", "--chain-steps", "1", "--a", "0.5", "--delta", "0.01")
    assert malade("purify", "new", *chain, *convert[2:], "--out", "pure.npz").code == 0
    assert "arrange the images" in malade.fails("attack", "fgsm", "new", *convert, "--out", "a.npz")
    np.save("labels.npy", np.array([0, 0, 1]))
    assert malade("attack", "fgsm", "new", *convert, "--labels", "labels.npy", "--out", "a.npz").code == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("data", "import", "photos", "--name", "x", "--resize", "0"), "--resize: expected N or HxW"),
        (("data", "import", "photos", "--name", "x", "--resize", "8x8x8"), "--resize: expected N or HxW"),
        (("data", "import", "photos", "--name", "x", "--resize", "big"), "--resize: expected N or HxW"),
        (("data", "import", "photos", "--name", "x", "--convert", "cmyk"), "--convert"),
        (("data", "import", "a.npz", "--name", "x", "--resize", "8"), "are for image files"),
        (("predict", "a.npz", "--model", "m.h5", "--resize", "8"), "m.h5"),
        (("run", "honest", "--data", "nothing"), "nothing: not found"),
        (("run", "honest", "--eps", "8"), "8/255"),
        (("run", "honest", "--eps", "0"), "--eps"),
        (("run", "mnist-table1", "--eps", "8/255"), "tables at the paper's sizes"),
        (("run", "paper", "--eps", "8/255"), "is a suite"),
    ],
)
def test_one_line(malade: Malade, photos: Path, words: tuple[str, ...], complaint: str) -> None:
    np.savez("a.npz", images=np.zeros((2, 1, 8, 8), np.uint8) + 9, labels=np.arange(2))
    assert complaint in malade.fails(*words)


def test_an_experiment_on_own_pictures(malade: Malade, photos: Path) -> None:
    imported(malade, photos)
    data = load_dataset("photos")
    reading = read_experiment("honest", (), Wish(data, 8 / 255))
    experiment = reading.experiment
    assert experiment.data.name == "photos"
    assert experiment.title == "honest on photos"
    assert {model.network for model in experiment.models.values()} == {"cifar-resnet", "unet"}
    assert {model.sigma2 for model in experiment.models.values()} == {None, 0.01}
    assert not experiment.paper
    assert experiment.report is not None
    assert experiment.report.eps == 8 / 255
    assert all(8 / 255 in attack.eps for attack in experiment.attacks)
    pgd = next(attack for attack in experiment.attacks if attack.name == "pgd")
    assert pgd.settings["step_size"] == pytest.approx(0.02 * 8 / 255 / 0.3)
    search = experiment.defences["cnn+malade"].search
    assert search is not None
    assert (search.num_images, search.delta) == (3, (0.01, 0.03, 0.1))
    assert experiment.evaluation.num_images == 3
    assert any("network unet" in note for note in reading.notes)
    # There are two classes, and a loss of three.
    assert any("apgd-dlr: left out" in note for note in reading.notes)
    assert "apgd-dlr" not in [attack.name for attack in experiment.attacks]
    tiny = read_experiment("honest", ["scale=tiny"], Wish(data)).experiment
    assert (tiny.evaluation.num_images, tiny.models["dae"].subset) == (3, None)
    # What is asked for by hand wins, and digits stay as they are.
    assert read_experiment("honest", ["models.cnn.width=2"], Wish(data)).experiment.models["cnn"].width == 2
    digits = load_dataset("synthetic-digits")
    same = read_experiment("honest", (), Wish(digits))
    assert same.experiment.models["cnn"].network is None
    assert not same.notes
    half = read_experiment("honest", (), Wish(eps=0.15)).experiment
    assert half.models["cnn"].file == "published:mnist-cnn"
    assert next(attack for attack in half.attacks if attack.name == "pgd").eps == (0.05, 0.1, 0.15, 0.25)
    whole = read_experiment("honest", (), Wish(eps=0.9)).experiment
    assert max(max(attack.eps) for attack in whole.attacks) <= 1


@pytest.mark.slow
def test_the_whole_experiment_on_own_pictures(malade: Malade, photos: Path) -> None:
    imported(malade, photos)
    tiny = ["scale=tiny", "models.cnn.width=2", "models.dae.width=2", "models.sdae.width=2", "evaluation.num_images=2"]
    tiny += ["defences.cnn+malade.search.num_images=2", "evaluation.shard_size=2", "store=off"]
    changes = [word for change in tiny for word in ("--set", change)]
    answer = malade("run", "honest", "--data", "photos", "--eps", "8/255", "--out", "out", *changes)
    assert answer.code == 0, answer.err
    assert malade("report", "out", "--verify").code == 0


def test_options_of_trainings(malade: Malade, photos: Path) -> None:
    imported(malade, photos)
    words = ("train", "classifier", "photos:train", *SMALL[2:], "--optimizer", "sgd", "--momentum", "0.8")
    words += ("--weight-decay", "5e-4", "--clip-norm", "1", "--averaging", "0.9", "--schedule", "piecewise")
    words += ("--milestones", "1/4,0.75", "--factor", "0.5", "--label-smoothing", "0.1", "--augment-pad", "1")
    words += ("--augment-flip",)
    assert malade(*words, "--out", "c.h5").code == 0
    made = load("c.h5").metadata["training"]
    assert (made["momentum"], made["weight_decay"], made["clip_norm"], made["averaging"]) == (0.8, 5e-4, 1.0, 0.9)
    assert (made["milestones"], made["factor"]) == ([0.25, 0.75], 0.5)
    assert made["augment"]["pad"] == 1
    assert "smoothing" in str(made["objective"])
    assert "nothing was left" in malade(*words, "--out", "c.h5", "--resume").out
    assert "momentum" in malade.fails(*words, "--momentum", "0.7", "--out", "c.h5", "--resume")
    trades = ("--objective", "trades", "--adversarial", "ascent", "--set", "eps=0.03", "--set", "num_steps=1")
    assert malade("train", "classifier", "photos:train", *SMALL[2:], *trades, "--beta", "2", "--out", "t.h5").code == 0
    assert "TRADES" in str(load("t.h5").metadata["training"]["objective"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--momentum", "0.5"), "momentum: only of optimizer"),
        (("--factor", "0.5"), "factor: only of schedule"),
        (("--averaging", "1"), "--averaging"),
        (("--objective", "trades"), "adversarial: missing"),
        (("--objective", "clp"), "noise: missing"),
        (("--beta", "3"), "beta: only with objective"),
        (("--ramp", "3"), "--ramp"),
        (("--label-smoothing", "1"), "--label-smoothing"),
        (("--augment-pad", "-1"), "--augment-pad"),
        (("--milestones", "0.5,x"), "--milestones"),
        (("--objective", "fast", "--adversarial", "ascent", "--set", "eps=0.03"), "--validation"),
    ],
)
def test_options_that_do_not_go_together(malade: Malade, files: Path, words: tuple[str, ...], complaint: str) -> None:
    small = ("--preset", "small", "--epochs", "1")
    assert complaint in malade.fails("train", "classifier", files / "good.npz", "--out", "c.h5", *small, *words)


def test_conversions() -> None:
    assert parse_conversion("32", "rgb") == ((32, 32), "rgb")
    assert parse_conversion("20x30", "gray") == ((20, 30), "grey")
    assert parse_conversion(None, None) == (None, "")
    with pytest.raises(InputError, match="HxW"):
        parse_conversion("2x", None)
