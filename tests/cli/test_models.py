"""Networks that experiments share: from the store, from files; ``malade models``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from malade_ref import Network, cnn, load, mlp, published, save, sdae
from malade_ref.bundle import Bundle
from malade_ref.bundle.manifest import read_manifest, write_manifest
from malade_ref.checkpoint import load_state, unrounded
from malade_ref.checks import InputError
from malade_ref.experiment import read_experiment
from malade_ref.experiment.models import trained_for_another
from malade_ref.storage import file_sha256, save_record
from tests.cli.conftest import Malade, start

SMALL = """
name = "small"
title = "As little as there can be"
[data]
name = "synthetic-digits"
train = 64
validation = 16
test = 16
[models.cnn]
kind = "classifier"
name = "CNN"
preset = "small"
epochs = 1
[models.dae]
kind = "denoiser"
name = "DAE"
preset = "small"
sigma2 = 0.15
epochs = 1
[models.sdae]
kind = "denoiser"
name = "sDAE"
preset = "small"
sigma2 = 0.15
init = "dae"
classifier = "cnn"
epochs = 1
[defences.cnn]
name = "CNN"
classifier = "cnn"
[defences."cnn+malade"]
name = "CNN + MALADE"
classifier = "cnn"
denoiser = "sdae"
num_steps = 1
a = 0.5
delta = 0.1
[evaluation]
num_images = 4
num_draws = 2
[audit]
gradient_images = 1
eot_images = 1
eot_draws = 2
"""


def no_drawing() -> None:
    raise InputError("drawing takes time")


@pytest.fixture
def small(malade: Malade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Malade:
    """Commands in a folder with ``small.toml``, that keep networks in ``kept``."""
    monkeypatch.setattr("malade_ref.experiment.run.require", no_drawing)
    monkeypatch.setenv("MALADE_STORE", str(tmp_path / "kept"))
    (tmp_path / "small.toml").write_text(SMALL)
    return malade


def run(small: Malade, out: str, *changes: str, source: str = "small.toml") -> str:
    words = [word for change in changes for word in ("--set", change)]
    answer = small("run", source, *words, "--out", out)
    assert answer.code == 0, answer.err
    return answer.out


def manifest(bundle: str) -> dict[str, str]:
    """The hashes of what was computed; the experiment's text may differ."""
    return {name: sha256 for name, sha256 in read_manifest(Path(bundle)).items() if name != "experiment.toml"}


def origins(bundle: str) -> dict[str, str]:
    return {name: origin["from"] for name, origin in Bundle.open(bundle).log.networks.items()}


@pytest.mark.slow
def test_the_store_changes_no_result(small: Malade) -> None:
    off = run(small, "off", "store=off")
    assert not Path("kept").exists()
    first = run(small, "first")
    second = run(small, "second")
    assert manifest("off") == manifest("first") == manifest("second")
    assert "from the store" not in off + first
    for name in ("CNN", "DAE", "sDAE"):
        assert f"\n{name}: from the store (trained 20" in second
    assert set(origins("first").values()) == {"training"}
    assert set(origins("second").values()) == {"store"}
    # What was taken is named, and verified.
    recorded = Bundle.open("second").record("networks").meta
    for name, facts in recorded.items():
        assert facts["fingerprint"] == load(f"second/models/{name}.h5").fingerprint()
        assert Path("kept", f"{facts['recipe']}.h5").exists()
    assert small("report", "second", "--verify").code == 0
    # Another folder holds none of them.
    assert "from the store" not in run(small, "third", "store=elsewhere")
    assert len(list(Path("elsewhere").glob("*.h5"))) == 3


@pytest.mark.slow
def test_another_experiment_takes_what_it_shares(small: Malade) -> None:
    run(small, "first")
    mine = 'extends = "small.toml"\nname = "mine"\n[models.sdae]\nname = "other words"\nepochs = 2\n'
    Path("mine.toml").write_text(mine)
    said = run(small, "second", source="mine.toml")
    assert origins("second") == {"cnn": "store", "dae": "store", "sdae": "training"}
    assert "other words: from the store" not in said


@pytest.mark.parametrize("scale", [[], ["scale=tiny"]])
def test_honest_takes_what_table1_trained(scale: list[str]) -> None:
    honest, table1 = (read_experiment(name, scale).experiment for name in ("honest", "mnist-table1"))
    assert honest.data == table1.data
    assert honest.seed == table1.seed
    assert {name for name, model in honest.models.items() if model == table1.models[name]} == {"cnn", "dae", "sdae"}


def test_a_damaged_network_is_trained_again(small: Malade) -> None:
    run(small, "first")
    key = Bundle.open("first").record("networks").meta["dae"]["recipe"]
    Path("kept", f"{key}.h5").write_bytes(b"nonsense")
    said = run(small, "second")
    assert "\nDAE: a kept network is damaged and was removed; it is trained again (" in said
    assert manifest("first") == manifest("second")
    assert origins("second") == {"cnn": "store", "dae": "training", "sdae": "store"}
    assert Path("kept", f"{key}.h5").stat().st_size > 1000


def test_verify_notices_another_network(small: Malade) -> None:
    run(small, "first")
    save(cnn("small", seed=9), "first/models/cnn.h5")
    bundle = Path("first")
    write_manifest(bundle, {**read_manifest(bundle), "models/cnn.h5": file_sha256(bundle / "models/cnn.h5")})
    answer = small("report", "first", "--verify")
    assert answer.code == 1
    assert "models/cnn.h5: another network than that of the run, see networks.h5" in answer.out


# Networks from files --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_networks_from_files(small: Malade) -> None:
    run(small, "first")
    Path("sub").mkdir()
    Path("sub", "mine.toml").write_text(
        """
        extends = "../small.toml"
        models.cnn = { file = "../first/models/cnn.h5" }
        models.dae = { file = "../first/models/dae.h5" }
        models.sdae = { file = "../first/models/sdae.h5" }
        """
    )
    said = run(small, "second", source="sub/mine.toml")
    assert "0 networks to train" in said
    assert set(origins("second").values()) == {"file"}
    # The same networks, the same outcomes.
    for name in ("cnn", "dae", "sdae"):
        assert load(f"second/models/{name}.h5").fingerprint() == load(f"first/models/{name}.h5").fingerprint()
    with Bundle.open("first").outcomes() as one, Bundle.open("second").outcomes() as other:
        assert one.names == other.names
        assert all(one.read(name).tobytes() == other.read(name).tobytes() for name in one.names)
    config = json.loads(Path("second/config.json").read_text())
    facts = config["models"]["cnn"]
    assert facts["file"]["params"] == load("first/models/cnn.h5").fingerprint()
    assert "epochs" not in facts
    assert "taken from cnn.h5 (parameters " in Path("second/report.md").read_text()
    assert small("report", "second", "--verify").code == 0
    assert Bundle.open("second").log.warnings == Bundle.open("first").log.warnings
    # A training may start from a file, and is kept by what is in it.
    run(small, "third", "models.dae.file=first/models/dae.h5")
    assert origins("third") == {"cnn": "store", "dae": "file", "sdae": "store"}


@pytest.mark.slow
def test_a_denoiser_of_another_classifier_is_allowed_but_said(small: Malade) -> None:
    run(small, "first")
    said = run(small, "second", "models.sdae.file=first/models/sdae.h5", "models.cnn.seed=1")
    warning = "sDAE, from a file, was not trained for CNN, which it is to protect"
    assert warning in said.splitlines()
    assert warning in Bundle.open("second").log.warnings
    assert warning in Path("second/report.md").read_text()
    assert "was not trained for" not in run(small, "third", "models.dae.file=first/models/dae.h5", "models.cnn.seed=1")


# Published networks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of published networks with a CNN in it."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    save(cnn("small", seed=3), folder / "mnist-cnn.h5", half=True)
    (folder / published.SUMS).write_text(f"{file_sha256(folder / 'mnist-cnn.h5')}  mnist-cnn.h5\n")
    monkeypatch.setattr(published, "FOLDER", folder)
    return folder


def test_published_networks_wherever_a_path_is(small: Malade, shelf: Path) -> None:
    fingerprint = load(shelf / "mnist-cnn.h5").fingerprint()
    assert load("published:mnist-cnn").fingerprint() == fingerprint
    said = small("models", "list")
    assert not said.err
    line = said.out.splitlines()[0]
    assert line.startswith(f"{fingerprint[:12]}  published:mnist-cnn: cnn small, 415,114 parameters, 834.0 kB")
    # The name is good in a file in another folder, too.
    Path("sub").mkdir()
    Path("sub/mine.toml").write_text('extends = "../small.toml"\nmodels.cnn = { file = "published:mnist-cnn" }\n')
    experiment = read_experiment("sub/mine.toml", []).experiment
    assert experiment.models["cnn"].file == "published:mnist-cnn"
    assert small("models", "export", "published:mnist-cnn", "mine.h5").code == 0
    assert load("mine.h5").fingerprint() == fingerprint


@pytest.mark.slow
def test_an_experiment_from_published_networks(small: Malade, shelf: Path) -> None:
    run(small, "first", "models.cnn.file=published:mnist-cnn")
    assert origins("first") == {"cnn": "file", "dae": "training", "sdae": "training"}
    facts = json.loads(Path("first/config.json").read_text())["models"]["cnn"]["file"]
    assert facts["name"] == "published:mnist-cnn"
    assert small("report", "first", "--verify").code == 0


def test_a_denoiser_of_the_network_that_was_rounded(small: Malade, shelf: Path) -> None:
    networks = {"cnn": load("published:mnist-cnn"), "sdae": sdae("small")}
    changes = ["models.cnn.file=published:mnist-cnn", "models.sdae.file=x.h5"]
    experiment = read_experiment("small.toml", changes).experiment

    def others(classifier: str) -> list[str]:
        networks["sdae"].metadata["training"] = {"objective": {"classifier": classifier}}
        return trained_for_another(experiment, "sdae", networks)

    assert others(cnn("small", seed=3).fingerprint()) == others(networks["cnn"].fingerprint()) == []
    assert others(cnn("small", seed=4).fingerprint()) == ["cnn"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["published:mnist-dae"], "published:mnist-dae: no network was published under this name; there are mnist-cnn"),
        (["published:../mnist-cnn"], "no network was published under this name"),
        (["published:"], "no network was published under this name"),
        (["absent.h5"], "absent.h5: cannot be read"),
        (["0123456"], "0123456: no such network in "),
    ],
)
def test_no_such_network_to_export(small: Malade, shelf: Path, words: list[str], complaint: str) -> None:
    answer = small("models", "export", *words, "out.h5")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert complaint in answer.err
    assert not Path("out.h5").exists()


def test_where_an_export_can_go(small: Malade, shelf: Path) -> None:
    for out, complaint in (
        ("out.npz", "expected a name that ends in .h5"),
        (str(shelf / "mnist-cnn.h5"), "exists already"),
        ("absent/out.h5", "absent"),
    ):
        answer = small("models", "export", "published:mnist-cnn", out, "--half")
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert complaint in answer.err


def test_a_published_network_that_was_changed(small: Malade, shelf: Path) -> None:
    save(cnn("small", seed=4), shelf / "mnist-cnn.h5", half=True)
    answer = small("models", "export", "published:mnist-cnn", "out.h5")
    assert (answer.code, "is not the file that was published" in answer.err) == (2, True)
    (shelf / "mnist-cnn.h5").unlink()
    assert "mnist-cnn.h5: cannot be read" in small("models", "export", "published:mnist-cnn", "out.h5").err
    (shelf / published.SUMS).write_text("nonsense\n")
    assert "SHA256SUMS: line 1: expected a SHA-256" in small("models", "list").err
    (shelf / published.SUMS).unlink()
    assert "comes without published networks" in small("models", "export", "published:mnist-cnn", "out.h5").err


@pytest.mark.slow
def test_a_network_of_the_store_is_exported(small: Malade) -> None:
    run(small, "first")
    answer = small("models", "export", "CNN", "out.h5", "--half")
    assert not answer.err
    assert (answer.code, "415,114 parameters in half precision" in answer.out) == (0, True)
    assert unrounded(load("out.h5")) == load("first/models/cnn.h5").fingerprint()


def wide() -> Network:
    return Network.from_architecture(*changed(cnn("small"), 5))


def changed(network: Network, classes: int) -> tuple[dict[str, object], dict[str, object]]:
    """A classifier's architecture and parameters, with fewer classes."""
    params = dict(network.params)
    last = max((name for name in params if name.endswith(".weight")), key=lambda name: int(name.split(".")[0]))
    bias = last.replace("weight", "bias")
    axis = params[last].shape.index(10)
    params[last] = params[last][:classes] if axis == 0 else params[last][:, :classes]
    params[bias] = params[bias][:classes]
    architecture = json.loads(json.dumps(network.architecture()).replace(": 10", f": {classes}"))
    return architecture, params


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("models.cnn.file=nothing.h5", "models.cnn.file: nothing.h5: cannot be read"),
        ("models.cnn.file=small.toml", "models.cnn.file: small.toml: not a whole malade file"),
        ("models.cnn.file=sdae.h5", "models.cnn.file: sdae.h5: expected a classifier, its outputs have shape"),
        ("models.sdae.file=cnn.h5", "models.sdae.file: cnn.h5: expected a denoiser, its outputs have shape (10,)"),
        ("models.cnn.file=few.h5", "models.cnn.file: few.h5: knows 5 classes, synthetic-digits has 10"),
        ("models.cnn.file=flat.h5", "models.cnn.file: flat.h5: takes images of shape"),
        ("models.cnn.file=double.h5", "models.cnn.file: double.h5: computes in float64"),
        ("models.cnn.file=", "models.cnn.file: expected the path of a saved network"),
        ("models.cnn.file=3", "models.cnn.file: expected a string"),
        (
            "models.dae={kind='denoiser', sigma2=0.1, file='trained.h5'}",
            "was trained at sigma2 = 0.15, the table says 0.1",
        ),
    ],
)
def test_files_that_do_not_fit(small: Malade, change: str, complaint: str) -> None:
    save(sdae("small"), "sdae.h5")
    save(cnn("small"), "cnn.h5")
    save(cnn("small").astype("float64"), "double.h5")
    if "few" in change:
        save(wide(), "few.h5")
    if "flat" in change:
        save(mlp((4,), 10), "flat.h5")
    if "trained" in change:
        run(small, "first")
        Path("trained.h5").write_bytes(Path("first/models/dae.h5").read_bytes())
    assert complaint in small.fails("run", "small.toml", "--set", change, "--out", "bundle")
    assert not Path("bundle").exists()


def test_a_run_goes_on_with_the_same_file_only(small: Malade) -> None:
    save(cnn("small"), "cnn.h5")
    words = ("run", "small.toml", "--set", "models.cnn.file=cnn.h5", "--out", "bundle")
    assert small(*words).code == 0
    save(cnn("small", seed=1), "cnn.h5")
    assert "was begun with models.cnn.file.params = " in small.fails(*words, "--resume")


# malade models --------------------------------------------------------------------------------------------------------


def test_models(small: Malade) -> None:
    assert "no networks are kept in " in small("models", "list").out
    run(small, "first")
    lines = [line for line in small("models", "list").out.splitlines() if "published:" not in line]
    assert len(lines) == 4
    assert lines[-1].startswith("3 networks, ")
    line = next(line for line in lines if " CNN on synthetic-digits: 64 images, 1 epoch, accuracy " in line)
    digits = line.split()[0]
    for name in ("CNN", digits):
        shown = small("models", "show", name).out
        assert "starts from" in shown
        assert load("first/models/cnn.h5").fingerprint() in shown
        assert "epochs 1, batch_size 128, learning_rate 0.001" in shown
    assert "would be removed; --yes" in small("models", "remove", "--all").out
    assert small("models", "remove", "--unused", "--yes").out.startswith("removed 0 networks")
    assert small("models", "remove", digits).out.startswith("removed 1 network,")
    assert small("models", "remove", "--all", "--yes").out.startswith("removed 2 networks,")
    assert list(Path("kept").glob("*.h5")) == []


@pytest.mark.slow
def test_several_networks_of_a_name(small: Malade) -> None:
    run(small, "first")
    run(small, "second", "models.dae.epochs=2")
    message = small.fails("models", "remove", "DAE")
    assert "2 networks are called so; name one by its fingerprint: " in message
    for digits in message.rpartition(": ")[2].split(", "):
        assert small("models", "remove", digits).code == 0
    lines = [line for line in small("models", "list").out.splitlines() if "published:" not in line]
    assert len(lines) == 4  # the CNN and two sDAEs


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "expected list, show, export or remove"),
        (("show", "nothing"), "nothing: no such network in "),
        (("remove", "abc"), "abc: no such network in "),
        (("remove",), "expected the name of a network, or --unused, or --all"),
        (("remove", "CNN", "--all"), "expected the name of a network, or --unused, or --all"),
        (("remove", "--all", "--unused"), "not allowed with argument"),
        (("remove", "--unused", "--days", "-1"), "--days: expected a finite number >= 0"),
        (("remove", "--unused", "--days", "nan"), "--days: expected"),
        (("remove", "--all", "--days", "1"), "--days: only with --unused"),
        (("list", "--store", "off"), "MALADE_STORE: is off"),
        (("list", "--store", "small.toml"), "small.toml: is no folder"),
    ],
)
def test_bad_words(small: Malade, words: tuple[str, ...], complaint: str) -> None:
    assert complaint in small.fails("models", *words)


def test_damaged_and_foreign_files_are_listed_and_removed(small: Malade) -> None:
    Path("kept").mkdir()
    Path("kept", f"{'a' * 64}.h5").write_bytes(b"")
    save_record(Path("kept", f"{'b' * 64}.h5"), {}, {"recipe": {}, "last": 3}, kind="training")
    assert small("models", "list").out.count("damaged, ") == 2
    assert "is damaged; malade models remove aaaaaaaaaaaa" in small.fails("models", "show", "aaaa")
    assert small("models", "remove", "aaaa").code == 0
    assert small("models", "remove", "--unused", "--yes").out.startswith("removed 1 network,")


# Kills, and two at once -----------------------------------------------------------------------------------------------

# A training of some seconds.
LONG = ("--set", "models.dae.epochs=40", "--set", "data.train=256")


@pytest.mark.slow
def test_killed_in_the_middle_of_a_training(small: Malade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("run", "small.toml", *LONG, "--out", "bundle", "--resume")
    partial = tmp_path / "bundle" / ".work" / "partial" / "models" / "dae.h5"
    steps: list[int] = []
    for _ in range(3):
        before = partial.stat().st_mtime_ns if partial.exists() else 0
        process = start(tmp_path, *words)
        while process.poll() is None and not (partial.exists() and partial.stat().st_mtime_ns > before):
            time.sleep(0.005)
        assert process.poll() is None
        process.kill()
        process.communicate()
        steps.append(int(checkpoint_step(partial)))
        # Nothing of the training is in the store; the CNN is, whole.
        assert len(list(Path("kept").glob("*.h5"))) == 1
    assert steps == sorted(set(steps))
    # Processes of their own: this one has other libraries loaded, which a resumed run would note.
    for more in (words, (*words[:-3], "--set", "store=off", "--out", "whole"), (*words[:-3], "--out", "taken")):
        process = start(tmp_path, *more)
        _, told = process.communicate()
        assert process.returncode == 0, told
    assert manifest("bundle") == manifest("whole") == manifest("taken")
    assert set(origins("taken").values()) == {"store"}
    assert list(Path("kept", "locks").iterdir()) == []


def checkpoint_step(path: Path) -> int:
    return int(load_state(path).meta["step"])


@pytest.mark.slow
def test_two_runs_at_once(small: Malade, tmp_path: Path) -> None:
    processes = [start(tmp_path, "run", "small.toml", *LONG, "--out", out) for out in ("one", "two")]
    said = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        said.append(out)
    assert manifest("one") == manifest("two")
    # Each network was trained by one of them.
    where = [origins(out) for out in ("one", "two")]
    for name in ("cnn", "dae", "sdae"):
        assert {origin[name] for origin in where} == {"training", "store"}
    assert "is training this network; waiting for it" in said[0] + said[1]
    assert len(list(Path("kept").glob("*.h5"))) == 3
