"""Bad input ends in one line that says what, where and how to mend it, and in exit code 2."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from malade_ref import cnn, save
from tests.cli.conftest import TINY, Malade

# Usage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "expected a command"),
        (["rnu"], "invalid choice: 'rnu'"),
        (["run"], "expected an experiment"),
        (["run", "demo", "--sed", "seed=1"], "unrecognized arguments: --sed"),
        (["run", "demo", "--set"], "expected one argument"),
        (["run", "demo", "--backend", "tpu"], "invalid choice: 'tpu'"),
        (["run", "dem"], "did you mean 'demo'?"),
        (["run", "no/such.toml"], "no/such.toml: cannot be read"),
        (["run", "."], "no such experiment"),
        (["report"], "required: BUNDLE"),
        (["report", "nowhere"], "is no bundle"),
        (["report", "nowhere", "--verify"], "no such folder"),
        (["data"], "expected list, get or import"),
        (["data", "get", "mnits"], "no public mirror"),
        (["data", "get", "../x"], "expected a name of at most 64"),
        (["data", "import", "x.npz", "--name", "X"], "expected a name of at most 64"),
        (["data", "import", "x.npz", "--name", "x"], "no such file or folder"),
        (["data", "list", "--data-dir", "nowhere"], "nowhere is no folder"),
        (["info", "--data-dir", "nowhere"], "nowhere is no folder"),
        (["train", "teacher", "x.npz", "--out", "t.h5"], "invalid choice: 'teacher'"),
        (["train", "classifier", "x.npz", "--out", "no/where.h5"], "there is no folder no"),
        (["attack", "pdg", "x.npz", "--model", "m.h5", "--out", "o.npz"], "did you mean 'pgd'?"),
        (["purify", "x.npz", "--out", "o.npz"], "required: --denoiser, --chain-steps"),
        (["predict", "x.npz"], "required: --model"),
        (["certify", "x.npz", "--model", "m.h5"], "required: --out"),
        (["certify", "x.npz", "--model", "m.h5", "--out", "o.npy"], "there are several results; choose .npz or .h5"),
    ],
)
def test_usage(malade: Malade, words: list[str], complaint: str) -> None:
    assert complaint in malade.fails(*words)


# Experiments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("sead=1", "sead: unknown key; did you mean 'seed'?"),
        ("models.cnn.epoch=1", "models.cnn.epoch: unknown key; did you mean 'epochs'?"),
        ("models.cn.epochs=1", "nothing is called 'cn'; did you mean 'cnn'?"),
        ("models.cnn.epochs=1.5", "models.cnn.epochs: expected an integer, got a number (1.5)"),
        ("models.cnn.epochs=true", "models.cnn.epochs: expected an integer, got a boolean (True)"),
        ("models.cnn.epochs=0", "models.cnn.epochs: expected an integer >= 1"),
        ("models.cnn.learning_rate=fast", "models.cnn.learning_rate: expected a number, got a string ('fast')"),
        ("models.cnn.learning_rate=nan", "models.cnn.learning_rate: expected a finite number > 0"),
        ("models.cnn.kind=teacher", "models.cnn.kind: expected one of classifier, denoiser"),
        ("models.cnn.sigma2=0.1", "models.cnn.sigma2: a classifier has none"),
        ("models.sdae.init=dea", "models.sdae.init: nothing is called 'dea'; did you mean 'dae'?"),
        ("models.sdae.classifier=dae", "models.sdae.classifier: nothing is called 'dae'"),
        ("models.dae.init=sdae", "dae, sdae, sdae-madry need each other"),
        ("models.madry.adversarial.step=1", "models.madry.adversarial.step: unknown key"),
        ("defences.cnn.a=0.5", "defences.cnn.a: has no meaning without a denoiser"),
        ("defences.cnn+malade.a=0.5", "expected either num_steps, a and delta, or search"),
        ("defences.cnn+malade.search.delta=[]", "at least one value each"),
        ("defences.cnn+malade.search.attack.eps=-1", "eps: expected a finite number >= 0"),
        ("attacks.pgd.against=[]", "attacks.pgd.against: expected at least one"),
        ('attacks.pgd.against=["cn"]', "did you mean 'cnn'?"),
        ("attacks.pgd.method=pdg", "did you mean 'pgd'?"),
        ("attacks.pgd.num_step=3", "attacks.pgd.num_step: unknown key; did you mean 'num_steps'?"),
        ("attacks.pgd.num_steps=0", "attacks.pgd: num_steps: expected an integer >= 1"),
        ("attacks.pgd.norm=l3", "attacks.pgd: norm: expected one of linf, l2"),
        ("attacks.pgd.eps=[-0.1]", "attacks.pgd.eps[0]: expected a finite number >= 0"),
        ("attacks.pgd.eps=[0.1, 0.1]", "no defence and no eps twice"),
        ("attacks.pgd.num_images=100000", "expected at most evaluation.num_images"),
        ("attacks.pdg.num_steps=3", "--set attacks: nothing is called 'pdg'; did you mean 'pgd'?"),
        ("evaluation.num_images=51", "evaluation.num_images: expected at most 50"),
        ("data.train=0", "data.train: expected an integer >= 1"),
        ("data.name=nothing", "nothing: not found in"),
        ("data.name=mnist", "malade data get mnist"),
        ("paths.marginal=cnn", "paths.marginal: nothing is called 'cnn'"),
        ("scale=huge", "has no scale 'huge'; expected one of tiny"),
        ("seed", "--set: expected key=value"),
        ("=1", "--set: expected key=value"),
        ("a..b=1", "--set: expected key=value"),
    ],
)
def test_settings(malade: Malade, tmp_path: Path, change: str, complaint: str) -> None:
    assert complaint in malade.fails(*TINY, "--set", change, "--out", "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "name: missing; expected a string"),
        (b"name = ", "not valid TOML"),
        (b"name = 'x'\nname = 'y'", "not valid TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"x" * (1 << 21), "larger than"),
        (b"scales = 3", "scales: expected tables"),
        (b"name = 'x'\ntitle = 'x'\nmodels = 3", "expected a table"),
    ],
)
def test_files_of_experiments(malade: Malade, tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    message = malade.fails("run", "x.toml")
    assert complaint in message
    assert message.startswith("x.toml")


@pytest.mark.slow
def test_folders_of_runs(malade: Malade, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    assert "is not empty and holds no bundle" in malade.fails(*TINY, "--out", "full")
    assert "nothing to resume" in malade.fails(*TINY, "--out", "full", "--resume")
    (tmp_path / "file").write_text("x")
    assert "is a file, not a folder" in malade.fails(*TINY, "--out", "file")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "thesis.txt"]


# Data ----------------------------------------------------------------------------------------------------------------

IDX = {
    "train-images-idx3-ubyte": struct.pack(">4I", 0x803, 12, 28, 28) + bytes(12 * 784),
    "train-labels-idx1-ubyte": struct.pack(">2I", 0x801, 12) + bytes(range(10)) + bytes(2),
    "t10k-images-idx3-ubyte": struct.pack(">4I", 0x803, 2, 28, 28) + bytes(2 * 784),
    "t10k-labels-idx1-ubyte": struct.pack(">2I", 0x801, 2) + bytes(2),
}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("train-images-idx3-ubyte", lambda good: good[:-1], "more than its 9423 bytes can hold"),
        ("train-images-idx3-ubyte", lambda good: b"\x89PNG\r\n\x1a\n" + bytes(100), "expected an IDX file of images"),
        ("train-images-idx3-ubyte", lambda good: gzip.compress(good)[:-9], "not a whole gzip file"),
        ("train-labels-idx1-ubyte", lambda good: good[:-1] + b"\x0a", "label 11 is 10, expected 0..9"),
        ("train-labels-idx1-ubyte", lambda good: struct.pack(">2I", 0x801, 11) + bytes(11), "11 labels for 12"),
        ("t10k-images-idx3-ubyte", lambda good: struct.pack(">4I", 0x803, 1 << 31, 28, 28), "can hold"),
        ("t10k-labels-idx1-ubyte", lambda good: None, "put t10k-labels-idx1-ubyte there too"),
    ],
)
def test_idx(
    malade: Malade, tmp_path: Path, name: str, content: Callable[[bytes], bytes | None], complaint: str
) -> None:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for other, good in IDX.items():
        found = content(good) if other == name else good
        if found is not None:
            (folder / other).write_bytes(found)
    message = malade.fails(*TINY, "--set", "data.name=mnist", "--data-dir", "data")
    assert complaint in message
    assert "mnist" in message


def test_import_of_damaged_files(malade: Malade, files: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes((files / "good.npz").read_bytes()[:-100])
    assert "cut.npz: damaged" in malade.fails("data", "import", "cut.npz", "--name", "cut", "--data-dir", ".")
    (tmp_path / "text.npz").write_text("not a zip")
    assert "text.npz: damaged" in malade.fails("data", "import", "text.npz", "--name", "text", "--data-dir", ".")
    assert "has no array 'images'" in malade.fails("data", "import", files / "good.npz", "--name", "x")


# Images and labels ---------------------------------------------------------------------------------------------------

COMMANDS = {
    "train": ("train", "classifier", "{input}", "--network", "cnn", "--preset", "small", "--out", "out.h5"),
    "train denoiser": ("train", "denoiser", "{input}", "--network", "sdae", "--preset", "small", "--out", "out.h5"),
    "attack": ("attack", "fgsm", "{input}", "--model", "{files}/cnn.h5", "--out", "out.npz"),
    "purify": (
        "purify",
        "{input}",
        *["--denoiser", "{files}/sdae.h5", "--chain-steps", "1", "--a", "1", "--delta", "0", "--out", "out.npz"],
    ),
    "predict": ("predict", "{input}", "--model", "{files}/cnn.h5", "--out", "out.npz"),
    "certify": ("certify", "{input}", "--model", "{files}/cnn.h5", "--sigma", "0.3", "--out", "out.npz"),
}
X, Y = np.full((3, 1, 28, 28), 0.5, dtype=np.float32), np.array([0, 1, 2])


def changed(index: Any, value: float) -> np.ndarray:
    x = X.copy()
    x[index] = value
    return x


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": X[:, :, :27], "y": Y}, "x: expected images of shape (1, 28, 28)"),
        ({"x": X[0, 0], "y": Y}, "x: expected 4 axes (n, c, h, w)"),
        ({"x": (255 * X).astype(np.int64), "y": Y}, "x: expected float32 or float64, got int64"),
        ({"x": X.astype(np.complex64), "y": Y}, "x: holds complex64"),
        ({"x": changed((1, 0, 3, 4), np.nan), "y": Y}, "image 1 has pixels that are NaN or infinite"),
        ({"x": changed((2, 0, 0, 0), np.inf), "y": Y}, "image 2 has pixels that are NaN or infinite"),
        ({"x": changed((0, 0, 0, 0), -0.01), "y": Y}, "expected pixels in [0, 1], image 0 has -0.01 to 0.5"),
        ({"x": changed((1, 0, 0, 0), 200), "y": Y}, "divide by 255"),
        ({"x": X[:0], "y": Y[:0]}, "expected at least one image"),
        ({"x": X, "y": Y[:2]}, "2 labels for 3 images"),
        ({"x": X, "y": Y.astype(np.float32)}, "y: expected integers"),
        ({"x": X, "y": -Y}, "label 1 is -1"),
        ({"y": Y}, "no array 'x' or 'images'"),
    ],
)
def test_images(
    malade: Malade, files: Path, tmp_path: Path, command: str, arrays: dict[str, Any], complaint: str
) -> None:
    np.savez(tmp_path / "in.npz", **arrays)
    words = [word.format(input="in.npz", files=files) for word in COMMANDS[command]]
    message = malade.fails(*words)
    assert complaint in message
    assert message.startswith("in.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz"]


@pytest.mark.parametrize("command", ["attack", "predict", "certify"])
def test_labels_out_of_range(malade: Malade, files: Path, tmp_path: Path, command: str) -> None:
    np.savez(tmp_path / "in.npz", x=X, y=np.array([0, 10, 2]))
    words = [word.format(input="in.npz", files=files) for word in COMMANDS[command]]
    assert "in.npz: y: expected labels in 0..9, label 1 is 10" in malade.fails(*words)


def test_more_classes_than_any_network_has(malade: Malade, files: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=X, y=np.array([0, 1 << 20, 2]))
    words = [word.format(input="in.npz", files=files) for word in COMMANDS["train"]]
    assert "in.npz: y: expected labels in 0..65535, got 1048576" in malade.fails(*words)


@pytest.mark.parametrize("command", ["train", "attack", "certify"])
def test_labels_missing(malade: Malade, files: Path, command: str) -> None:
    words = [word.format(input=files / "x.npy", files=files) for word in COMMANDS[command]]
    assert "has no labels; name a file of labels with --labels" in malade.fails(*words)


class Evil:
    """Unpickling it would leave a trace."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("trace"),)


def write_hostile(path: Path) -> None:
    """A file whose content is not what its name says, or claims more than it has."""
    name = path.name
    if name == "cut.npy":
        np.save(path, X)
        path.write_bytes(path.read_bytes()[:-5])
    elif name == "huge.npy":
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1, 28, 28)}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
    elif name == "pickle.npy":
        np.save(path, np.array([Evil()], dtype=object), allow_pickle=True)
    elif name == "bare-pickle.npy":
        path.write_bytes(pickle.dumps(Evil()))
    elif name == "pickle.npz":
        np.savez(path, x=np.array([Evil()], dtype=object), y=Y)
    elif name == "cut.npz":
        np.savez(path, x=X, y=Y)
        path.write_bytes(path.read_bytes()[:-30])
    elif name == "link.h5":
        with h5py.File(path, "w") as file:
            file["x"] = h5py.ExternalLink("/etc/passwd", "x")
    elif name == "huge.h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("x", shape=(1 << 40, 1, 28, 28), dtype="f4", chunks=(1, 1, 28, 28))
    elif name == "text.h5":
        path.write_text("not HDF5")
    elif name == "odd.csv":
        path.write_text("1,2,3")
    elif name == "folder.npy":
        path.mkdir()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "name",
    [
        *("cut.npy", "huge.npy", "pickle.npy", "bare-pickle.npy", "missing.npy", "folder.npy"),
        *("pickle.npz", "cut.npz", "link.h5", "huge.h5", "text.h5", "odd.csv"),
    ],
)
def test_hostile_files(malade: Malade, files: Path, tmp_path: Path, command: str, name: str) -> None:
    write_hostile(tmp_path / name)
    words = [word.format(input=name, files=files) for word in COMMANDS[command]]
    assert name in malade.fails(*words)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("source", ["mnist:test", "synthetic-digits:tset", "synthetic-digits:test:x", "nothing:test"])
def test_data_sets_as_input(malade: Malade, files: Path, source: str) -> None:
    name, _, _ = source.partition(":")
    assert name in malade.fails("predict", source, "--model", files / "cnn.h5")


# Networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cut", "flipped", "foreign", "text", "missing", "denoiser"])
def test_networks(malade: Malade, files: Path, tmp_path: Path, kind: str) -> None:
    path, good = tmp_path / f"{kind}.h5", (files / "cnn.h5").read_bytes()
    if kind == "cut":
        path.write_bytes(good[: len(good) // 2])
    elif kind == "flipped":
        path.write_bytes(good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :])
    elif kind == "foreign":
        with h5py.File(path, "w") as file:
            file["weights"] = np.zeros(3)
    elif kind == "text":
        path.write_text("not a network")
    elif kind == "denoiser":
        path.write_bytes((files / "sdae.h5").read_bytes())
    for words in (
        ("predict", files / "good.npz", "--model", path),
        ("attack", "pgd", files / "good.npz", "--model", path, "--out", "out.npz"),
        ("train", "denoiser", files / "good.npz", "--preset", "small", "--classifier", path, "--out", "out.h5"),
        ("train", "classifier", files / "good.npz", "--init", path, "--out", "out.h5"),
    ):
        message = malade.fails(*words)
        assert path.name in message or "expected a classifier" in message


def test_chains(malade: Malade, files: Path) -> None:
    start = ("predict", files / "good.npz", "--model", files / "cnn.h5")
    chain = ("--denoiser", files / "sdae.h5", "--chain-steps", "2", "--a", "0.5", "--delta")
    assert "--chain-steps: has no meaning without --denoiser" in malade.fails(*start, "--chain-steps", "2")
    assert "needs --a and --delta too" in malade.fails(*start, *chain[:4])
    assert "delta: expected a finite number >= 0" in malade.fails(*start, *chain, "-1")
    assert "expected a denoiser" in malade.fails(*start, "--denoiser", files / "cnn.h5", *chain[2:], "0")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (("--eps", "-1"), ("--eps", "0.1")),
        (("--eps", "8"), ("--eps", "8/255")),
        (("--set", "num_restarts=0"), ("--set", "num_restarts=1")),
    ],
)
def test_a_wrong_setting_leaves_nothing_that_is_in_the_way(
    malade: Malade, files: Path, wrong: tuple[str, ...], right: tuple[str, ...]
) -> None:
    attack = ("attack", "pgd", files / "good.npz", "--model", files / "cnn.h5", "--out", "out.npz")
    malade.fails(*attack, "--set", "num_steps=1", *wrong)
    assert not list(Path().iterdir())
    assert malade(*attack, "--set", "num_steps=1", *right).code == 0


def test_settings_of_single_steps(malade: Malade, files: Path) -> None:
    attack = ("attack", "pgd", files / "good.npz", "--model", files / "cnn.h5", "--out", "out.npz")
    assert "num_step: unknown key; did you mean 'num_steps'?" in malade.fails(*attack, "--set", "num_step=3")
    assert "num_steps: expected int" in malade.fails(*attack, "--set", "num_steps=many")
    assert "eps: expected a finite number >= 0" in malade.fails(*attack, "--eps", "-1")
    assert "of 255 it is 8/255" in malade.fails(*attack, "--eps", "8")
    for fraction in ("8/0", "8/x", "8/255/1"):
        assert "argument --eps: invalid number value" in malade.fails(*attack, "--eps", fraction)
    train = ("train", "classifier", files / "good.npz", "--preset", "small", "--out", "out.h5")
    assert "--epochs: expected an integer >= 1" in malade.fails(*train, "--epochs", "0")
    assert "--adversarial" in malade.fails(*train, "--set", "eps=0.1")
    assert "--classifier: only denoisers" in malade.fails(*train, "--classifier", files / "cnn.h5")
    assert "out.txt: expected a name that ends in" in malade.fails(*attack[:-1], "out.txt")


def test_nothing_is_overwritten(malade: Malade, files: Path, tmp_path: Path) -> None:
    (tmp_path / "out.npz").write_text("precious")
    (tmp_path / "out.h5").write_text("precious")
    for command in COMMANDS.values():
        words = [word.format(input=files / "good.npz", files=files) for word in command]
        assert "exists already" in malade.fails(*words)
    assert (tmp_path / "out.npz").read_text() == (tmp_path / "out.h5").read_text() == "precious"


def test_interrupted_training_of_other_settings(malade: Malade, files: Path, tmp_path: Path) -> None:
    save(cnn("small"), tmp_path / "out.h5.partial")
    train = ("train", "classifier", files / "good.npz", "--preset", "small", "--out", "out.h5")
    assert "an interrupted training; pass --resume" in malade.fails(*train)
    assert "out.h5.partial" in malade.fails(*train, "--resume")
