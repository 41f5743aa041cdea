"""Records of bundles: what is left out is named, what is there is verified, and nothing is overwritten."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from malade_ref.bundle import Bundle
from malade_ref.bundle.manifest import read_left_out
from tests.cli.conftest import Malade

RUN = ("run", "demo", "--set", "scale=tiny", "--set", "data.test=16")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bundle, made once."""
    folder = tmp_path_factory.mktemp("record") / "bundle"
    command = [sys.executable, "-m", "malade_ref", *RUN, "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "MALADE_STORE": "off"})
    return folder


@pytest.fixture
def record(bundle: Path, malade: Malade) -> Path:
    """A record of it."""
    answer = malade("report", str(bundle), "--record", "record")
    assert answer.code == 0, answer.err
    return Path("record")


def test_a_record_is_verified_and_says_what_it_lacks(bundle: Path, record: Path, malade: Malade) -> None:
    left_out = read_left_out(record)
    assert left_out is not None
    models = {f"models/{path.name}" for path in (bundle / "models").iterdir()}
    assert models <= left_out.keys()
    assert not (record / "models").exists()
    answer = malade("report", "--verify", str(record))
    assert answer.code == 0
    assert all(name in answer.out for name in models)
    # It can be read from where nothing can be written.
    for path in record.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert malade("report", "--verify", str(record)).code == 0


def test_a_record_is_drawn_again_elsewhere_and_never_in_place(bundle: Path, record: Path, malade: Malade) -> None:
    before = {path: path.read_bytes() for path in record.rglob("*") if path.is_file()}
    answer = malade("report", str(record))
    assert answer.code == 2
    assert "--out DIR draws it again" in answer.err
    assert malade("report", str(record), "--out", "again").code == 0
    for name in ("report.md", "results.json"):
        assert (Path("again") / name).read_bytes() == (bundle / name).read_bytes()
    drawn = sorted(path.name for path in Path("again/figures").iterdir())
    assert drawn == sorted(path.name for path in (bundle / "figures").iterdir())
    assert malade("report", str(record), "--out", "again").code == 2
    assert {path: path.read_bytes() for path in record.rglob("*") if path.is_file()} == before
    # A record of a record lacks the same.
    assert malade("report", str(record), "--record", "second").code == 0
    assert read_left_out(Path("second")) == read_left_out(record)


@pytest.mark.slow
def test_saved_images_are_left_out_of_the_outcomes(malade: Malade) -> None:
    run = (sys.executable, "-m", "malade_ref", *RUN, "--set", "evaluation.save_images=true", "--out", "whole")
    subprocess.run(run, check=True, capture_output=True)
    assert malade("report", "whole", "--record", "record").code == 0
    left_out = read_left_out(Path("record"))
    assert left_out is not None
    assert left_out["outcomes.h5"].size == Path("whole/outcomes.h5").stat().st_size
    with Bundle.open("whole").outcomes() as whole, Bundle.open("record").outcomes() as record:
        images = {name for name in whole.names if name.endswith("x_adv")}
        assert images
        assert set(record.names) == set(whole.names) - images
        assert all(np.array_equal(whole.read(name), record.read(name)) for name in record.names)
    answer = malade("report", "record", "--verify")
    assert (answer.code, "outcomes.h5: left out: its images" in answer.out) == (0, True)
    assert malade("report", "record", "--out", "again").code == 0
    for name in ("report.md", "results.json"):
        assert (Path("again") / name).read_bytes() == (Path("whole") / name).read_bytes()
    # The file as it was is told from the one without images.
    shutil.copy("whole/outcomes.h5", "record/outcomes.h5")
    assert "outcomes.h5: there again, as it was" in malade("report", "record", "--verify").out


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("results.json", "change"),
        ("outcomes.h5", "change"),
        ("report.md", "change"),
        ("outcomes.h5", "remove"),
        ("figures/accuracy.png", "remove"),
        ("quality.h5", "change"),
    ],
)
def test_a_record_that_was_changed_is_found_out(record: Path, malade: Malade, name: str, harm: str) -> None:
    file = record / name
    if harm == "remove":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    answer = malade("report", "--verify", str(record))
    assert answer.code == 1
    assert name in answer.out


def test_what_was_left_out_and_turns_up_again_is_told_from_another(bundle: Path, record: Path, malade: Malade) -> None:
    (record / "models").mkdir()
    shutil.copy(bundle / "models" / "cnn.h5", record / "models" / "cnn.h5")
    assert malade("report", "--verify", str(record)).code == 0
    shutil.copy(bundle / "models" / "dae.h5", record / "models" / "cnn.h5")
    answer = malade("report", "--verify", str(record))
    assert answer.code == 1
    assert "models/cnn.h5" in answer.out


def test_misuse(bundle: Path, record: Path, malade: Malade) -> None:
    Path("taken").mkdir()
    Path("taken/mine").write_text("mine")
    for words in (
        (str(bundle), "--record", "taken"),
        (str(bundle), "--record", str(record)),
        (str(bundle), "--record", "no/where"),
        (str(bundle), "--record", str(bundle / "inside")),
        ("taken", "--record", "out"),
        ("nothing", "--record", "out"),
        (str(bundle), "--out", "out"),
        (str(bundle), "--record", "out", "--verify"),
    ):
        answer = malade("report", *words)
        assert answer.code == 2, words
        assert len(answer.err.strip().splitlines()) == 1
    assert Path("taken/mine").read_text() == "mine"
    assert not Path("out").exists()


def test_a_bundle_with_a_wrong_number_is_not_recorded(bundle: Path, malade: Malade) -> None:
    shutil.copytree(bundle, "wrong")
    results = json.loads(Path("wrong/results.json").read_text())
    results["cells"]["cnn/clean/0"]["count"] += 1
    Path("wrong/results.json").write_text(json.dumps(results))
    answer = malade("report", "wrong", "--record", "out")
    assert answer.code == 2
    assert not Path("out").exists()


@pytest.mark.slow
def test_killed_in_the_middle_nothing_is_left_that_looks_like_a_record(bundle: Path, malade: Malade) -> None:
    text = (
        "import os, signal, sys, malade_ref.bundle.record as r\n"
        "real = r._copy\n"
        "def copy(source, target):\n"
        "    if source.name == 'outcomes.h5':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(source, target)\n"
        "r._copy = copy\n"
        "from malade_ref.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [sys.executable, "-c", text, "report", str(bundle), "--record", "record"]
    assert subprocess.run(words, capture_output=True).returncode == -signal.SIGKILL
    assert not Path("record").exists()
    assert malade("report", str(bundle), "--record", "record").code == 0
    assert [path.name for path in Path().iterdir() if path.name.endswith(".part")] == []
