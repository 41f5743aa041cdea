"""The single steps answer what was asked: one split, classes by name, in order, kept, in flat memory."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from malade_ref import load, save
from malade_ref.checks import InputError
from malade_ref.classes import class_names_of, with_class_names
from malade_ref.cli import console, files, single
from malade_ref.cli.files import read_images
from malade_ref.datasets import load_dataset
from malade_ref.layers import Conv2d
from malade_ref.network import Network, build, cnn, mlp
from tests.cli.conftest import Malade, environment, start

pytestmark = pytest.mark.faults

SHAPE = (1, 4, 4)
CHAIN = ("--denoiser", "den.h5", "--chain-steps", 1, "--a", 0.5, "--delta", 0.1)


def classifier(names: tuple[str, ...] = (), seed: int = 0) -> Network:
    network = mlp(SHAPE, 3, hidden=(5,), seed=seed)
    return with_class_names(network, names) if names else network


def denoiser(shape: tuple[int, ...] = SHAPE) -> Network:
    return build((Conv2d(1, 1, (1, 1)),), shape, initialisation="he", seed=1)


@pytest.fixture
def models(malade: Malade, tmp_path: Path) -> Malade:
    """Commands, beside small networks and images without names."""
    save(classifier(), tmp_path / "old.h5")
    save(classifier(("cat", "dog", "emu")), tmp_path / "named.h5")
    save(denoiser(), tmp_path / "den.h5")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "in.npz", x=rng.random((7, *SHAPE), dtype=np.float32), y=np.arange(7) % 3)
    return malade


def photos(root: Path, files: dict[str, int], side: int = 4) -> Path:
    """Grey PNGs of one shade each."""
    image = pytest.importorskip("PIL.Image")
    for name, shade in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.full((side, side), shade, dtype=np.uint8)).save(root / name)
    return root


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(folder.parent))
    return path


def shades(images: Any) -> list[int]:
    return [round(255 * float(value)) for value in images.x[:, 0, 0, 0]]


# One split ------------------------------------------------------------------------------------------------------------

TWO = {"train/a/1.png": 10, "train/b/2.png": 20, "test/a/3.png": 30, "test/b/4.png": 40}


def arrays_with_splits(path: Path) -> Path:
    x = np.repeat(np.array([10, 30, 20, 40], dtype=np.uint8), 16).reshape(4, *SHAPE)
    split = np.array(["train", "test", "train", "test"])
    if path.suffix == ".npz":
        np.savez(path, images=x, labels=np.arange(4) % 2, split=split)
    else:
        with h5py.File(path, "w") as file:
            file["images"], file["labels"], file["split"] = x, np.arange(4) % 2, split.astype("S10")
    return path


@pytest.mark.parametrize("form", ["folder", "zip", "npz", "h5"])
def test_one_split_is_read(tmp_path: Path, form: str) -> None:
    folder = photos(tmp_path / "p", TWO)
    source = {"folder": lambda: folder, "zip": lambda: zipped(folder)}.get(
        form, lambda: arrays_with_splits(tmp_path / f"p.{form}")
    )()
    trained = read_images(str(source), shape=SHAPE, split="train", training=True, own_labels=True)
    assert shades(trained) == [10, 20]
    assert trained.notes == [f"{source}: takes the split train, of train, test; {source}:SPLIT names another"]
    if form == "h5":
        return  # is opened by a process of its own each time
    assert shades(read_images(str(source), shape=SHAPE, split="test")) == [30, 40]
    named = read_images(f"{source}:train", shape=SHAPE, split="test", own_labels=True)
    assert (shades(named), named.notes) == ([10, 20], [])
    with pytest.raises(InputError, match="test images are not for training; name another split"):
        read_images(f"{source}:test", shape=SHAPE, split="train", training=True)
    with pytest.raises(InputError, match="has no split validation, but train, test; name one of these"):
        read_images(f"{source}:validation", shape=SHAPE)


def test_a_folder_of_one_split_or_none(tmp_path: Path) -> None:
    only = photos(tmp_path / "only", {"test/a/1.png": 10})
    images = read_images(str(only), shape=SHAPE, split="validation", own_labels=True)
    assert images.notes == [f"{only}: takes the split test, the only one there is"]
    with pytest.raises(InputError, match="has only test images, which are not for training"):
        read_images(str(only), shape=SHAPE, split="train", training=True)
    flat = photos(tmp_path / "flat", {"b/1.png": 10, "a/2.png": 20, ".cache/3.png": 30, "a/deep/4.png": 40})
    for source in (flat, zipped(flat)):
        images = read_images(str(source), shape=SHAPE, split="train", training=True)
        assert shades(images) == [20, 40, 10]
        assert images.names == ("a/2.png", "a/deep/4.png", "b/1.png")
        assert images.y is not None
        assert images.y.tolist() == [0, 0, 1]
        assert any(
            "has no folders train, validation or test; all its images are taken" in note for note in images.notes
        )
    with pytest.raises(InputError, match="has no splits; leave out :test"):
        read_images(f"{flat}:test", shape=SHAPE)


def test_colons_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "a:test", TWO)
    photos(tmp_path / "b:c", TWO)
    assert shades(read_images("a:test", shape=SHAPE)) == [10, 20]
    assert shades(read_images("a:test:test", shape=SHAPE)) == [30, 40]
    assert shades(read_images("b:c:test", shape=SHAPE)) == [30, 40]
    for source in (r"C:\data\photos", r"C:\data\photos:test", "c:/x.npz", "nowhere:test", "b:c:test:5"):
        with pytest.raises(InputError) as found:
            read_images(source, shape=SHAPE)
        assert source.removesuffix(":test") in str(found.value)
        assert "\n" not in str(found.value)


def test_data_sets_by_name(malade: Malade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = load_dataset("synthetic-digits", sizes={"train": 4, "validation": 3, "test": 5})
    monkeypatch.setattr("malade_ref.cli.files.load_dataset", lambda *_, **__: small)
    images = read_images("synthetic-digits", shape=(1, 28, 28), split="test")
    assert len(images) == 5
    assert images.notes[0].startswith("synthetic-digits: takes the split test, of train, validation, test; ")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    train = ("train", "classifier", "--preset", "small", "--epochs", 1, "--out", "c.h5")
    assert "test images are not for training" in malade.fails(*train, "synthetic-digits:test:20")
    assert malade(*train, "synthetic-digits:train:20").code == 0
    assert class_names_of(load("c.h5")) == tuple("0123456789")


def test_commands_say_what_they_take(models: Malade, tmp_path: Path) -> None:
    photos(tmp_path / "p", {name.replace("/a/", "/cat/").replace("/b/", "/dog/"): v for name, v in TWO.items()})
    answer = models("predict", "p", "--model", "named.h5")
    assert answer.out.splitlines()[0] == "p: takes the split test, of train, test; p:SPLIT names another"
    assert "on 2 images of p:test" in answer.out


# Classes by name ------------------------------------------------------------------------------------------------------

KNOWN = ("cat", "dog", "emu")


def labels_of(source: Path, names: tuple[str, ...] | None = KNOWN) -> list[int]:
    y = read_images(str(source), shape=SHAPE, num_classes=3, class_names=names, model="m.h5").y
    assert y is not None
    return [int(label) for label in y]


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_labels_are_translated_by_name(tmp_path: Path, form: str) -> None:
    folder = photos(tmp_path / "p", {"test/emu/1.png": 9, "test/dog/2.png": 9})
    source = folder if form == "folder" else zipped(folder)
    assert labels_of(source) == [1, 2]
    assert labels_of(source, ("emu", "cat", "dog")) == [2, 0]


@pytest.mark.parametrize(
    ("folder", "hint"), [("fox", "rename or leave out"), ("Dog", "they differ in upper and lower")]
)
def test_classes_that_a_model_does_not_know(models: Malade, tmp_path: Path, folder: str, hint: str) -> None:
    photos(tmp_path / "p", {"test/cat/1.png": 9, f"test/{folder}/2.png": 9})
    for words in (("predict",), ("attack", "fgsm", "--out", "o.npz"), ("certify", "--sigma", 0.1, "--out", "o.npz")):
        message = models.fails(*words, "p", "--model", "named.h5")
        lists = ", ".join(sorted(["cat", folder]))
        assert f"p:test: has the classes {lists}, but named.h5 knows cat, dog, emu; {hint}" in message


def test_models_without_names_meet_data_by_number(models: Malade, tmp_path: Path) -> None:
    numbers = photos(tmp_path / "numbers", {"test/2/1.png": 9, "test/1/2.png": 9})
    assert labels_of(numbers, None) == [1, 2]
    photos(tmp_path / "p", {"test/cat/1.png": 9, "test/emu/2.png": 9})
    answer = models("predict", "p", "--model", "old.h5")
    assert "old.h5 keeps no names of its classes: p:test is met by number, 0..1 for cat, emu" in answer.out
    np.savez(tmp_path / "y.npz", x=np.zeros((1, *SHAPE), np.float32), y=np.array([2]))
    assert labels_of(tmp_path / "y.npz") == [2]
    with pytest.raises(InputError, match=r"expected labels in 0\.\.1, label 0 is 2"):
        labels_of(tmp_path / "y.npz", ("cat", "dog"))


def test_names_in_files_of_models_are_checked(tmp_path: Path) -> None:
    network = classifier()
    for names in (["a", "a"], ["a"] * 4, ["a\n"], "abc", [1]):
        spoiled = network.replace_params(network.params, {"class_names": names})
        with pytest.raises(InputError, match="class_names: "):
            class_names_of(spoiled, "m.h5")


def test_names_travel_with_training_results_and_from_torch(malade: Malade, tmp_path: Path) -> None:
    photos(tmp_path / "p", {"train/emu/1.png": 9, "train/cat/2.png": 5, "test/emu/3.png": 9}, side=28)
    train = ("train", "classifier", "p", "--preset", "small", "--epochs", 1)
    assert malade(*train, "--out", "c.h5").code == 0
    assert class_names_of(load("c.h5")) == ("cat", "emu")
    answer = malade("attack", "fgsm", "p", "--model", "c.h5", "--eps", 0.1, "--out", "adv.npz")
    assert answer.code == 0
    with np.load("adv.npz") as found:
        assert (found["y"].tolist(), found["class_names"].tolist()) == ([1], ["cat", "emu"])
        assert found["names"].tolist() == ["test/emu/3.png"]
    swapped = with_class_names(load("c.h5"), ["emu", "cat"])
    save(swapped, tmp_path / "swapped.h5")
    assert malade("predict", "adv.npz", "--model", "swapped.h5", "--out", "o.h5").code == 0
    with h5py.File("o.h5") as found:
        assert found["y"][()].tolist() == [0]
        assert json.loads(found["meta"][()])["names"] == ["test/emu/3.png"]
    photos(tmp_path / "q", {"train/fox/1.png": 9}, side=28)
    assert "but c.h5 knows cat, emu" in malade.fails(*train[:2], "q", *train[3:], "--init", "c.h5", "--out", "d.h5")

    torch = pytest.importorskip("torch")
    from malade_ref.interop import from_torch

    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    assert class_names_of(from_torch(module, SHAPE, class_names=["a", "b"])) == ("a", "b")
    with pytest.raises(InputError, match="3 names for 2 classes"):
        from_torch(module, SHAPE, class_names=["a", "b", "c"])


# In order, with names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_answers_come_in_the_order_of_the_files(models: Malade, tmp_path: Path, form: str) -> None:
    order = [f"test/{name}/{number}.png" for name in ("cat", "dog") for number in ("0", "1", "10", "2")]
    folder = photos(tmp_path / "p", {name: 10 * i for i, name in enumerate(order)})
    source = folder if form == "folder" else zipped(folder)
    model = ("--model", "named.h5")
    assert models("predict", source, *model, "--out", "p.npz", "--batch-size", 3).code == 0
    assert models("attack", "fgsm", source, *model, "--eps", 0, "--out", "a.npz", "--batch-size", 3).code == 0
    assert models("purify", source, *CHAIN[:2], *CHAIN[2:], "--out", "r.npz", "--batch-size", 3).code == 0
    x = np.repeat(np.arange(8) * 10, 16).reshape(8, *SHAPE).astype(np.float32) / np.float32(255)
    with np.load("p.npz") as p, np.load("a.npz") as a, np.load("r.npz") as r:
        np.testing.assert_allclose(p["logits"], classifier(KNOWN).logits(x), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(a["x"], x)
        for found in (p, a, r):
            assert found["names"].tolist() == order
            assert found["index"].tolist() == list(range(8))
            assert found["y"].tolist() == [0] * 4 + [1] * 4


def test_arrays_keep_their_index(models: Malade, tmp_path: Path) -> None:
    arrays_with_splits(tmp_path / "s.npz")
    assert models("predict", "s.npz:test", "--model", "old.h5", "--out", "o.npz").code == 0
    with np.load("o.npz") as found:
        assert found["index"].tolist() == [1, 3]
    assert models("predict", "o.npz", "--model", "old.h5").code == 2  # predictions are no images


# Kept, and bound to their question ------------------------------------------------------------------------------------

STEPS: dict[str, tuple[Any, ...]] = {
    "attack": ("attack", "pgd", "in.npz", "--model", "old.h5", *CHAIN, "--eps", 0.1, "--set", "num_steps=2"),
    "purify": ("purify", "in.npz", *CHAIN),
    "predict": ("predict", "in.npz", "--model", "old.h5", *CHAIN, "--num-draws", 2),
    "certify": ("certify", "in.npz", "--model", "old.h5", "--sigma", 0.2, "--num-estimation", 20),
}
OTHERS = {
    "attack": (("--eps", 0.2), "settings.eps = 0.1, now it is 0.2"),
    "purify": (("--delta", 0.2), "delta = 0.1, now it is 0.2"),
    "predict": (("--num-draws", 3), "num_draws = 2, now it is 3"),
    "certify": (("--sigma", 0.5), "sigma = 0.2, now it is 0.5"),
}


@pytest.mark.parametrize("out", ["o.npz", "o.h5"])
@pytest.mark.parametrize("step", STEPS)
def test_a_finished_result_is_compared_with_what_is_asked(models: Malade, step: str, out: str) -> None:
    words = (*STEPS[step], "--out", out)
    assert models(*words).code == 0
    before = Path(out).read_bytes()
    answer = models(*words, "--resume")
    assert (answer.code, answer.out) == (0, f"{out}: finished already, nothing was left to do\n")
    change, complaint = OTHERS[step]
    assert f"{out}: was made with {complaint}; give the same" in models.fails(*words, *change, "--resume")
    with np.load("in.npz") as arrays:
        np.savez("in.npz", x=arrays["x"][::-1], y=arrays["y"])
    assert "was made with images = " in models.fails(*words, "--resume")
    assert Path(out).read_bytes() == before
    Path(out).write_bytes(b"rubbish")
    assert out in models.fails(*words, "--resume")
    Path(out).unlink()
    if out == "o.npz":
        np.savez(out, x=np.zeros(3))
        assert "does not say how it was made; choose another --out, or delete it" in models.fails(*words, "--resume")


def test_a_finished_training_is_compared_with_what_is_asked(malade: Malade, files: Path, tmp_path: Path) -> None:
    words = ("train", "classifier", files / "good.npz", "--preset", "small", "--epochs", 1, "--out", "c.h5")
    assert malade(*words).code == 0
    assert "finished already" in malade(*words, "--resume").out
    for change, complaint in (
        (("--epochs", 2), "c.h5: was trained with epochs = 1, now it is 2"),
        (("--learning-rate", 0.1), "learning_rate = 0.001, now it is 0.1"),
        (("--adversarial", "pgd"), "objective."),
        (("--init", files / "cnn.h5", "--seed", 3), "seed = 0, now it is 3"),
        (("--labels", files / "other.npy"), "data = "),
    ):
        np.save(files / "other.npy", np.zeros(12, dtype=np.int64))
        assert complaint in malade.fails(*words, *change, "--resume")
    save(cnn("small"), tmp_path / "c.h5")
    assert "c.h5: does not say how it was trained" in malade.fails(*words, "--resume")


def test_npy_results_cannot_say_how_they_were_made(models: Malade) -> None:
    words = (*STEPS["purify"], "--out", "o.npy")
    assert models(*words).code == 0
    assert "o.npy" in models.fails(*words, "--resume")


@pytest.mark.parametrize("step", ["attack", "purify", "predict"])
def test_interrupted_and_resumed(models: Malade, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    words = (*STEPS[step], "--batch-size", 2)
    assert models(*words, "--out", "whole.npz").code == 0
    blocks = 0
    place = {"attack": (single, "run_attack"), "purify": (single, "run_chain"), "predict": (single.MALADE, "logits")}
    where, name = place[step]
    function = getattr(where, name)

    def interrupted(*args: Any, **settings: Any) -> Any:
        nonlocal blocks
        blocks += 1
        if blocks > 2:
            raise KeyboardInterrupt
        return function(*args, **settings)

    with monkeypatch.context() as context:
        context.setattr(where, name, interrupted)
        answer = models(*words, "--out", "o.npz")
    assert answer.code == 130
    assert len(list(Path("o.npz.partial").glob("0*.h5"))) == 2
    assert "o.npz.partial: an interrupted computation; pass --resume" in models.fails(*words, "--out", "o.npz")
    change, complaint = OTHERS[step]
    assert f"was begun with {complaint}" in models.fails(*words, *change, "--out", "o.npz", "--resume")
    again = shlex.split(answer.err.rpartition("go on with: ")[2])
    resumed = models(*again[1:])
    assert resumed.code == 0
    assert "4 of them were done already" in resumed.out
    assert Path("o.npz").read_bytes() == Path("whole.npz").read_bytes()
    assert not Path("o.npz.partial").exists()


def test_an_attack_reads_some_images_at_a_time(models: Malade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.Images, "x", property(lambda _: pytest.fail("reads all images at once")))
    assert models(*STEPS["attack"], "--batch-size", 2, "--out", "o.npz").code == 0


def test_kept_blocks_are_compared_before_a_model_is_asked(models: Malade, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(single, "in_blocks", lambda *_, kept, **__: (kept.begin(), interrupted()))
        assert models(*STEPS["attack"], "--out", "o.npz").code == 130
    monkeypatch.setattr(single, "check_answers", lambda *_: pytest.fail("asks the model"))
    words = ("--eps", 0.2, "--out", "o.npz", "--resume")
    assert "was begun with settings.eps = 0.1, now it is 0.2" in models.fails(*STEPS["attack"], *words)


def test_interrupted_before_anything_is_kept(models: Malade, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(single, "run_attack", interrupted)
    answer = models(*STEPS["attack"], "--out", "o.npz")
    assert (answer.code, "nothing was kept" in answer.err) == (130, True)
    assert not Path("o.npz.partial").exists()


def test_progress_within_a_block(models: Malade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "EVERY", 0.0)
    lines = models(*STEPS["attack"], "--out", "o.npz", "--set", "num_steps=5").err.splitlines()
    assert "image 0 of 7, 2 calls of the model" in "\n".join(lines)
    assert any(line.endswith("left") for line in lines)


def test_kept_blocks_are_never_followed_elsewhere(models: Malade, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("mine")
    os.symlink("elsewhere", "o.npz.partial")
    assert "o.npz.partial: is no folder of kept blocks" in models.fails(*STEPS["purify"], "--out", "o.npz", "--resume")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["precious"]


@pytest.mark.slow
def test_killed_and_resumed(models: Malade, tmp_path: Path) -> None:
    words = (*STEPS["attack"], "--set", "num_steps=20", "--batch-size", 1)
    assert models(*words, "--out", "whole.npz").code == 0
    process = start(tmp_path, *words, "--out", "o.npz")
    deadline = time.monotonic() + 60
    while not list(Path().glob("o.npz.partial/0*.h5")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert models(*words, "--out", "o.npz", "--resume").code == 0
    assert Path("o.npz").read_bytes() == Path("whole.npz").read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(malade: Malade, tmp_path: Path) -> None:
    save(denoiser((1, 28, 28)), tmp_path / "den.h5")
    code = (
        "import sys; from malade_ref.cli import main; assert main(sys.argv[1:]) == 0\n"
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    peaks = []
    for count in (1_000, 6_000):
        np.save(tmp_path / "x.npy", np.full((count, 1, 28, 28), 128, dtype=np.uint8))
        words = ("purify", "x.npy", *CHAIN[:3], 0, *CHAIN[4:], "--batch-size", 500, "--out", f"{count}.npz")
        command = [sys.executable, "-c", code, *map(str, words)]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < 1.1 * peaks[0]
