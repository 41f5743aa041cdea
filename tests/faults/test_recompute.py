"""Outcomes computed again: what hashes cannot see, and what another kernel may change."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref import ops
from malade_ref.bundle import Bundle
from malade_ref.bundle.layout import OUTCOMES
from malade_ref.bundle.manifest import read_manifest, write_manifest
from malade_ref.checks import InputError
from malade_ref.cli import main
from malade_ref.experiment import read_experiment, run_experiment
from malade_ref.experiment.reading import experiment_of, settings_of
from malade_ref.experiment.recompute import recompute
from malade_ref.report import write_report
from malade_ref.storage import file_sha256, load_record, save_record

pytestmark = pytest.mark.faults

TOML = """
name = "small"
title = "Small"
store = "off"
[data]
name = "synthetic-digits"
train = 40
validation = 10
test = 12
[models.cnn]
kind = "classifier"
preset = "small"
epochs = 1
[models.dae]
kind = "denoiser"
preset = "small"
epochs = 1
sigma2 = 0.1
[defences.bare]
name = "CNN"
classifier = "cnn"
[defences.malade]
name = "MALADE"
classifier = "cnn"
denoiser = "dae"
num_steps = 2
a = 0.3
delta = 0.1
[[attacks]]
name = "pgd"
method = "pgd"
against = ["bare", "malade"]
source = "classifier"
eps = [0.1]
num_steps = 2
[[attacks]]
name = "fab"
method = "fab"
against = ["bare"]
num_images = 3
num_steps = 2
[evaluation]
num_images = 5
num_draws = 2
shard_size = 4
[audit]
gradient_images = 1
eot_images = 1
eot_draws = 2
[certify]
sigma2 = 0.1
num_images = 2
num_selection = 5
num_estimation = 20
[certify.smoothed.plain]
name = "CNN"
classifier = "cnn"
"""


def no_figures() -> None:
    raise InputError("no library that draws")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recompute")
    (folder / "small.toml").write_text(TOML)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("malade_ref.experiment.run.require", no_figures)
        run_experiment(read_experiment(str(folder / "small.toml")), folder / "run")
    return folder / "run"


@pytest.fixture
def folder(tmp_path: Path, original: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def mend(folder: Path) -> None:
    """Hashes that fit whatever the files hold, as somebody who cheats would leave them."""
    write_manifest(folder, {name: file_sha256(folder / name) for name in read_manifest(folder)})


def tamper(folder: Path, name: str, change: Callable[[np.ndarray[Any, Any]], None], file: str = OUTCOMES) -> None:
    kind = "outcomes" if file == OUTCOMES else "stage"
    record = load_record(folder / file, kind=kind, mend="")
    arrays = {key: array.copy() for key, array in record.arrays.items()}
    change(arrays[name])
    save_record(folder / file, arrays, record.meta, kind=kind)
    mend(folder)


def elsewhere(folder: Path) -> None:
    """environment.json of a machine with another kernel."""
    log = Bundle.open(folder).log
    for library in log.sessions[0]["environment"]["blas"]:
        library["architecture"] = "Haswell" if library["architecture"] != "Haswell" else "SkylakeX"
    log.write(folder)


def again(folder: Path, count: int = 10**6) -> tuple[list[str], str]:
    found = recompute(Bundle.open(folder), count, ops=ops)
    return found.problems, found.other


def test_settings_of_a_bundle_are_those_of_its_experiment(tmp_path: Path) -> None:
    for name in ("demo", "honest", "mnist-seeds", "certify", "mnist-blackbox-sizes"):
        settings = json.loads(json.dumps(settings_of(read_experiment(name, ["published=false"]).experiment)))
        config = {**settings, "data": {**settings["data"], "train": 9, "validation": 9, "test": 9}}
        back = settings_of(experiment_of(config, name))
        assert {**back, "data": 0, "paper": 0} == {**settings, "data": 0, "paper": 0}


def test_a_sound_bundle(original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert again(original) == ([], "")
    code = main(["report", str(original), "--verify", "--recompute", "2", "--seed", "4"])
    assert code == 0
    assert "computed 2 outcomes again (--seed 4)" in (out := capsys.readouterr().out)
    assert "bits were compared" in out
    assert out.rstrip().endswith("all agree")


def flip(rows: np.ndarray[Any, Any]) -> None:
    rows[4] = ~rows[4]


def test_only_computing_sees_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tamper(folder, "outcomes/malade/pgd/0.1/correct", flip)
    write_report(Bundle.open(folder), figures=False)  # what follows from it, follows
    assert main(["report", str(folder), "--verify", "--recompute", "1000"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("malade/pgd/0.1: image 4 (test image ")
    assert lines[2].endswith("1 mismatch")


def last_bit(rows: np.ndarray[Any, Any]) -> None:
    rows.view(f"u{rows.itemsize}")[0] ^= 1


def test_another_kernel_has_the_weaker_rule(folder: Path) -> None:
    elsewhere(folder)
    tamper(folder, "outcomes/bare/clean/0/loss", last_bit)
    problems, other = again(folder)
    assert not problems
    assert "BLAS kernel" in other
    tamper(folder, "outcomes/bare/fab/0/distance", lambda rows: np.add(rows, 0.5, out=rows))
    tamper(folder, "outcomes/bare/pgd/0.1/success", lambda rows: np.logical_not(rows, out=rows))
    tamper(folder, "counts", lambda rows: np.multiply(rows, 2, out=rows), "certify/plain.h5")
    found = {problem.partition(":")[0] for problem in again(folder)[0]}
    assert found == {"bare/fab/0", "bare/pgd/0.1", "certify/plain"}


def test_a_single_bit_is_seen_where_the_kernel_is_the_same(folder: Path) -> None:
    tamper(folder, "outcomes/bare/clean/0/loss", last_bit)
    [problem] = again(folder)[0]
    assert re.fullmatch(r"bare/clean/0: image 0 \(test image \d+\): loss was recorded as .*", problem)


def test_what_cannot_be_computed_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder), "--recompute", "3"]) == 2
    assert main(["report", str(folder), "--verify", "--recompute", "0"]) == 2
    assert main(["report", str(folder), "--verify", "--seed", "1"]) == 2
    config = json.loads((folder / "config.json").read_text())
    config["data"]["sha256"]["test"] = "0" * 64
    bundle = Bundle.open(folder)
    bundle.config = config
    with pytest.raises(InputError, match="its test images are others"):
        recompute(bundle, 1, ops=ops)
    for file in (*folder.glob("models/*"), folder / "MANIFEST.json"):
        file.unlink()
    (folder / "models").rmdir()
    assert main(["report", str(folder), "--verify", "--recompute", "3"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 4
    assert "kept without networks" in err
