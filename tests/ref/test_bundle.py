"""What a bundle holds, what it refuses, and what its verification finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from malade_ref.bundle import Bundle, describe_environment, environment, verify
from malade_ref.bundle.manifest import write_manifest
from malade_ref.checks import InputError
from malade_ref.network import mlp
from malade_ref.storage import Record, file_sha256
from tests.faults import fake_run

TEXT, CONFIG = fake_run.EXPERIMENT, fake_run.CONFIG


def files(folder: Path) -> dict[str, Path]:
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}


def finished(folder: Path) -> Path:
    with Bundle.create(folder, TEXT, CONFIG) as bundle:
        fake_run.run(bundle)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("original") / "run")


@pytest.fixture
def folder(tmp_path: Path, original: Path) -> Path:
    """A finished bundle to spoil."""
    return Path(shutil.copytree(original, tmp_path / "run"))


# What it holds ----------------------------------------------------------------------------------------------


def test_contents(original: Path) -> None:
    assert set(files(original)) == {
        *("MANIFEST.json", "config.json", "environment.json", "experiment.toml", "outcomes.h5", "report.md"),
        *("results.json", "search.h5", "models/mlp.h5", "histories/mlp.h5", "figures/curve.png"),
    }
    bundle = Bundle.open(original)
    assert bundle.finished
    assert bundle.verify() == verify(original) == []
    assert bundle.config == CONFIG
    assert bundle.experiment_text == TEXT
    assert (original / "experiment.toml").read_bytes() == TEXT.encode()
    assert bundle.record("search").meta == {"best": {"a": 0.5}}
    assert bundle.history("mlp")["loss"] == sorted(bundle.history("mlp")["loss"], reverse=True)
    weights = mlp((1, 2, 2), 2, hidden=(3,), seed=CONFIG["seed"]).params
    for name, value in bundle.network("mlp").params.items():
        np.testing.assert_array_equal(value, weights[name] / 8)
    with bundle.outcomes() as outcomes:
        assert outcomes.meta["outcomes"] == {"malade/pgd": {"eps": 0.3}, "none/pgd": {"eps": 0.3}}
        np.testing.assert_array_equal(outcomes.read("outcomes/none/pgd/success"), np.arange(11) % 3 == 0)
        np.testing.assert_array_equal(outcomes.read("outcomes/malade/pgd/loss"), np.arange(11) * 0.5)
    with h5py.File(original / "outcomes.h5") as plain:  # for readers without malade
        assert plain["outcomes"]["malade"]["pgd"]["x_adv"].shape == (11, 3)


def test_equal_runs_leave_equal_bytes(tmp_path: Path, original: Path) -> None:
    again = finished(tmp_path / "again")
    assert files(again).keys() == files(original).keys()
    different = {name for name, path in files(again).items() if path.read_bytes() != (original / name).read_bytes()}
    assert different <= {"environment.json"}


def test_log(original: Path) -> None:
    log = Bundle.open(original).log
    assert [set(session) for session in log.sessions] == [{"began", "ended", "environment"}]
    assert log.sessions[0]["ended"] >= log.sessions[0]["began"]
    assert {"models/mlp", "search", "outcomes/none/pgd"} <= log.timings.keys()
    assert all(seconds >= 0 for seconds in log.timings.values())
    assert log.warnings == []


def test_environment_names_versions_and_no_places() -> None:
    described = describe_environment()
    assert described["packages"]["numpy"] == np.__version__
    assert described["hdf5"] == h5py.version.hdf5_version
    assert described["cpus"] >= 1
    assert len(described["source_sha256"]) == 64
    text = json.dumps(described)
    assert str(Path.home()) not in text
    assert str(Path(environment.__file__).parents[2]) not in text


def test_steps_are_done_once(tmp_path: Path) -> None:
    calls: list[str] = []

    def note(name: str, value: Any) -> Any:
        calls.append(name)
        return value

    def steps(bundle: Bundle) -> None:
        for _ in range(2):
            bundle.stage("a/b", lambda: note("stage", Record({"x": np.ones(2)})))
            bundle.trained(
                "net", lambda path: note("train", (mlp((1, 2, 2), 2), {"epoch": [1, 2], "acc": [None, 0.5]}))
            )
            bundle.shards("none/pgd", 5, 2, lambda first, last: note(f"{first}", {"x": np.arange(first, last)}))

    with Bundle.create(tmp_path / "run", TEXT, CONFIG) as bundle:
        steps(bundle)
    with Bundle.resume(tmp_path / "run", TEXT, CONFIG) as bundle:
        steps(bundle)
        history = bundle.history("net")
    assert calls == ["stage", "train", "0", "2", "4"]
    assert history["epoch"] == [1, 2]
    np.testing.assert_array_equal(history["acc"], [np.nan, 0.5])


@pytest.mark.parametrize("shard_size", [1, 3, 5, 11, 100])
def test_outcomes_do_not_depend_on_the_cut(tmp_path: Path, original: Path, shard_size: int) -> None:
    def compute(first: int, last: int) -> dict[str, Any]:
        index = np.arange(first, last)
        noise = np.sin(index[:, None] * np.arange(1, 4)).astype(np.float32)
        return {"x_adv": noise, "loss": index * 0.5, "success": index % 3 == 0}

    with Bundle.create(tmp_path / "run", TEXT, CONFIG) as bundle:
        for name in ("none/pgd", "malade/pgd"):
            merged = bundle.shards(name, 11, shard_size, compute, meta={"eps": 0.3}, only=["loss"])
            assert set(merged) == {"loss"}
            np.testing.assert_array_equal(merged["loss"], np.arange(11) * 0.5)
        bundle.merge()
    assert file_sha256(tmp_path / "run/outcomes.h5") == file_sha256(original / "outcomes.h5")


def test_resuming_where_nothing_was_begun_begins(tmp_path: Path) -> None:
    with Bundle.resume(tmp_path / "run", TEXT, CONFIG) as bundle:
        fake_run.run(bundle)
    assert verify(tmp_path / "run") == []


def test_resuming_a_finished_bundle_does_nothing(folder: Path) -> None:
    before = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in files(folder).items()}
    with Bundle.resume(folder, "other text", CONFIG) as bundle:
        assert bundle.finished
        with pytest.raises(InputError, match="open for reading only"):
            bundle.write("report.md", "")
    assert {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in files(folder).items()} == before


def test_a_change_of_environment_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"malade": "1.0", "packages": {"numpy": "2.0.0"}, "blas": [{"num_threads": 2}]}
    monkeypatch.setattr(environment, "describe_environment", lambda device: described)
    Bundle.create(tmp_path / "run", TEXT, CONFIG).close()
    described = {"malade": "1.0", "packages": {"numpy": "2.1.0"}, "blas": [{"num_threads": 1}]}
    for _ in range(2):
        with Bundle.resume(tmp_path / "run", TEXT, CONFIG) as bundle:
            warnings = bundle.log.warnings
    assert warnings == [
        "the run was resumed in another environment: blas[0].num_threads was 2, then 1",
        'the run was resumed in another environment: packages.numpy was "2.0.0", then "2.1.0"',
    ]
    assert Bundle.open(tmp_path / "run").log.warnings == warnings
    assert len(Bundle.open(tmp_path / "run").log.sessions) == 3


def test_the_device_is_part_of_the_environment(tmp_path: Path) -> None:
    Bundle.create(tmp_path / "run", TEXT, CONFIG, device={"name": "one", "driver": None}).close()
    with Bundle.resume(tmp_path / "run", TEXT, CONFIG, device={"name": "other", "driver": None}) as bundle:
        assert bundle.log.warnings == [
            'the run was resumed in another environment: device.name was "one", then "other"'
        ]
        assert [session["environment"]["device"]["name"] for session in bundle.log.sessions] == ["one", "other"]


# What it refuses --------------------------------------------------------------------------------------------


def changed(**changes: Any) -> dict[str, Any]:
    return {**CONFIG, **changes}


@pytest.mark.parametrize("state", ["unfinished", "finished"])
@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (changed(seed=4), "was begun with seed = 3, not 4;"),
        (changed(attacks=[{"name": "pgd", "eps": 0.2}]), r"was begun with attacks\[0\]\.eps = 0\.3, not 0\.2;"),
        (changed(attacks=[]), r"was begun with attacks\[0\] = .*, not \(absent\);"),
        (changed(extra={"a": True}), r"was begun with extra = \(absent\), not {\"a\":true};"),
        ({k: v for k, v in CONFIG.items() if k != "seed"}, r"was begun with seed = 3, not \(absent\);"),
        (changed(seed=4, samples=12), "was begun with samples = 11, not 12;"),
    ],
)
def test_a_changed_configuration(tmp_path: Path, original: Path, state: str, config: Any, complaint: str) -> None:
    folder = original
    if state == "unfinished":
        folder = tmp_path / "run"
        Bundle.create(folder, TEXT, CONFIG).close()
    before = {name: path.read_bytes() for name, path in files(folder).items()}
    with pytest.raises(InputError, match=complaint) as caught:
        Bundle.resume(folder, TEXT, config)
    assert str(caught.value).startswith(f"{folder}: ")
    assert "\n" not in str(caught.value)
    assert {name: path.read_bytes() for name, path in files(folder).items()} == before


def test_folders_that_hold_something(tmp_path: Path, original: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/experiment.toml").write_text("not to be lost")
    (tmp_path / "file").write_text("")
    (tmp_path / "work/.work").mkdir(parents=True)
    (tmp_path / "work/.work/other").write_text("")
    Bundle.create(tmp_path / "run", TEXT, CONFIG).close()
    for make in (Bundle.create, Bundle.resume):
        for name in ("mine", "work"):
            with pytest.raises(InputError, match="is not empty and holds no bundle"):
                make(tmp_path / name, TEXT, CONFIG)
        with pytest.raises(InputError, match="is a file, not a folder"):
            make(tmp_path / "file", TEXT, CONFIG)
        with pytest.raises(InputError, match="cannot be stored as JSON"):
            make(tmp_path / "new", TEXT, {"eps": float("nan")})
    with pytest.raises(InputError, match="holds an unfinished run; pass --resume"):
        Bundle.create(tmp_path / "run", TEXT, CONFIG)
    with pytest.raises(InputError, match="holds a finished bundle; choose another --out"):
        Bundle.create(original, TEXT, CONFIG)
    for name in ("mine", "none", "file"):
        with pytest.raises(InputError, match="is no bundle"):
            Bundle.open(tmp_path / name)
    with pytest.raises(InputError, match="no such folder"):
        verify(tmp_path / "none")
    assert (tmp_path / "mine/experiment.toml").read_text() == "not to be lost"
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    Bundle.create(tmp_path / "run", TEXT, CONFIG).close()


def one(**arrays: Any) -> Callable[[int, int], Mapping[str, Any]]:
    return lambda first, last: arrays


def test_misuse(tmp_path: Path) -> None:
    with Bundle.create(tmp_path / "run", TEXT, CONFIG) as bundle:
        record = Record({"x": np.zeros(2)})
        for call, complaint in (
            (lambda: bundle.stage("../x", lambda: record), "expected names of letters"),
            (lambda: bundle.stage("outcomes", lambda: record, keep=True), "writes outcomes.h5 itself"),
            (lambda: bundle.stage("models/x", lambda: record, keep=True), "writes models/x.h5 itself"),
            (lambda: bundle.write("config.json", ""), "choose another name"),
            (lambda: bundle.write("search.h5", b""), "choose another name"),
            (lambda: bundle.write("/tmp/x", ""), "expected names of letters"),
            (lambda: bundle.partial("../x"), "expected names of letters"),
            (lambda: bundle.shards("a", 0, 2, one()), "num_samples: expected an integer >= 1"),
            (lambda: bundle.shards("a", 3, 0, one()), "shard_size: expected an integer >= 1"),
            (lambda: bundle.shards("..", 3, 2, one()), "expected names of letters"),
            (lambda: bundle.shards("b", 3, 3, one(x=np.zeros(2))), "one row for each of samples 0 to 3"),
            (lambda: bundle.shards("c", 3, 3, one(x=np.float64(1))), "one row for each of samples 0 to 3"),
            (lambda: bundle.shards("d", 2, 2, one(x=np.array([None, 1]))), "got object"),
            (lambda: bundle.trained("n", lambda path: (mlp((1, 2, 2), 2), {"x": ["a"]})), "expected a list of numbers"),
            (lambda: bundle.redraw({"report.md": ""}), "is not finished"),
        ):
            with pytest.raises(InputError, match=complaint):
                call()

        def uneven(first: int, last: int) -> dict[str, Any]:
            return {"x": np.zeros((last - first, 1 + first))}

        with pytest.raises(InputError, match=r"000000002-000000003\.h5: holds other arrays than the shards before it"):
            bundle.shards("uneven", 3, 2, uneven)
        bundle.shards("twice", 2, 2, one(x=np.zeros(2)))
        with pytest.raises(InputError, match="outcomes twice: named twice"):
            bundle.shards("twice", 2, 1, one(x=np.zeros(1)))
        assert not list((tmp_path / "run").rglob("*.tmp"))


# What its verification finds --------------------------------------------------------------------------------


def flip_outcomes(folder: Path) -> None:
    """A cunning hand: the manifest agrees with the damaged file."""
    path = folder / "outcomes.h5"
    data = path.read_bytes()
    i = data.index(np.sin(np.arange(1, 4)).astype(np.float32).tobytes())
    path.write_bytes(data[:i] + b"\0" + data[i + 1 :])
    rewrite_manifest(folder)


def swap_config(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(changed(seed=4)))
    rewrite_manifest(folder)


def rewrite_manifest(folder: Path) -> None:
    names = set(files(folder)) - {"MANIFEST.json", "environment.json"}
    write_manifest(folder, {name: file_sha256(folder / name) for name in names})


def edit(name: str, old: str, new: str) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (edit("report.md", "Fake", "Fame"), ["report.md: changed since the run"]),
        (edit("experiment.toml", "fake", "fame"), ["experiment.toml: changed since the run"]),
        (lambda f: (f / "search.h5").unlink(), ["search.h5: missing"]),
        (lambda f: (f / "notes.txt").write_text(""), ["notes.txt: not in MANIFEST.json"]),
        (lambda f: (f / "models/link").symlink_to(f), ["models/link: not in MANIFEST.json"]),
        (lambda f: (f / "MANIFEST.json").unlink(), ["MANIFEST.json: cannot be read"]),
        (lambda f: (f / "MANIFEST.json").write_text("{}"), ["is not the manifest of a bundle"]),
        (edit("MANIFEST.json", '"version": 1', '"version": 2'), ["version 2 of the format, this malade reads 1"]),
        (edit("MANIFEST.json", "report.md", "../../etc/passwd"), ["expected names of letters"]),
        (lambda f: (f / "environment.json").unlink(), ["environment.json: cannot be read"]),
        (edit("environment.json", '"warnings": []', '"warnings": ["x"]'), ["environment.json: its content does not"]),
        (lambda f: (f / ".work").mkdir(), [".work: the run is not finished"]),
        (flip_outcomes, ["outcomes.h5: not a whole malade file (its content does not match"]),
        (swap_config, ["outcomes.h5: computed with other settings"]),
        (edit("config.json", "}", ""), ["config.json: changed since the run", "config.json: not valid JSON"]),
    ],
)
def test_verification(folder: Path, spoil: Callable[[Path], Any], expected: list[str]) -> None:
    assert verify(folder) == []
    spoil(folder)
    problems = verify(folder)
    assert len(problems) == len(expected)
    for problem, part in zip(problems, expected, strict=True):
        assert part in problem
        assert "\n" not in problem


def test_redrawing(folder: Path) -> None:
    bundle = Bundle.open(folder)
    bundle.redraw({"report.md": "# New\n", "figures/new.png": b"png"})
    assert verify(folder) == []
    assert (folder / "report.md").read_text() == "# New\n"
    for name in ("outcomes.h5", "config.json", "models/mlp.h5", "../x"):
        with pytest.raises(InputError):
            bundle.redraw({"report.md": "# Not written", name: ""})
    assert (folder / "report.md").read_text() == "# New\n"
    # What was damaged before stays damaged in the manifest's eyes.
    (folder / "search.h5").write_bytes(b"")
    bundle.redraw({"report.md": "# Newer\n"})
    assert verify(folder) == ["search.h5: changed since the run; its SHA-256 is not the manifest's"]
