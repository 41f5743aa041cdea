"""`malade run` and `malade report`, on the demo at its smallest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from malade_ref.bundle import Bundle
from malade_ref.checks import InputError
from malade_ref.experiment import built_in_experiments, built_in_suites, read_experiment
from tests.cli.conftest import TINY, Malade, environment, start


def test_a_run_says_what_it_does_and_where_the_result_is(tiny_run: Path) -> None:
    lines = (tiny_run.parent / "out.txt").read_text().splitlines()
    assert "5 networks to train" in lines[0]
    assert lines[1].endswith("into bundle")
    assert any(line.startswith("done in ") for line in lines)
    assert "results: bundle/report.md" in lines
    report = (tiny_run / "report.md").read_text()
    assert lines[-1] in report
    assert f"**{lines[-1]}**" in report


def test_a_bundle_is_whole(tiny_run: Path, malade: Malade) -> None:
    answer = malade("report", tiny_run, "--verify")
    assert (answer.code, answer.err) == (0, "")
    assert "whole" in answer.out


def test_outcomes_have_all_cells(tiny_run: Path) -> None:
    experiment = read_experiment("demo", ["scale=tiny"]).experiment
    expected = {f"{name}/{attack.name if attack else 'clean'}/{eps:g}" for name, attack, eps in experiment.cells()}
    bundle = Bundle.open(tiny_run)
    with bundle.outcomes() as outcomes:
        assert set(outcomes.meta["outcomes"]) == expected
        for cell, meta in outcomes.meta["outcomes"].items():
            random = "+malade" in cell
            count = 8 if meta["attack"] in ("noise", "bpda-eot", "exact-eot", "exact") else 16
            assert outcomes.shape(f"outcomes/{cell}/correct") == (count, 3 if random else 1)
            assert meta["source"] == ("classifier" if random and meta["attack"] == "pgd" else "defence")
            distance = outcomes.read(f"outcomes/{cell}/distance")
            assert distance.max() <= meta["eps"] + 1e-6
    assert set(bundle.record("search/cnn+malade").meta["chosen"]) == {"num_steps", "a", "delta", "clip"}


def test_attacks_on_fewer_images_use_a_part_of_the_others(tiny_run: Path) -> None:
    with Bundle.open(tiny_run).outcomes() as outcomes:
        many = outcomes.read("outcomes/cnn/clean/0/sample_index").tolist()
        few = outcomes.read("outcomes/cnn+malade/exact-eot/0.2/sample_index").tolist()
    assert few == many[: len(few)]
    assert sorted(many) != many


def no_drawing() -> None:
    raise InputError("drawing takes time")


@pytest.mark.slow
def test_results_do_not_depend_on_the_shards(tiny_run: Path, malade: Malade, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other shards are other batches: what is random is the same, logits agree within rounding."""
    monkeypatch.setattr("malade_ref.experiment.run.require", no_drawing)
    assert malade(*TINY, "--set", "evaluation.shard_size=5", "--out", "other").code == 0
    with Bundle.open(tiny_run).outcomes() as one, Bundle.open("other").outcomes() as other:
        assert one.names == other.names
        for name in one.names:
            if name.endswith(("/sample_index", "/label", "/num_queries", "/num_gradients")):
                assert (one.read(name) == other.read(name)).all()
            if name.endswith("/loss") and "/clean/" in name:
                np.testing.assert_allclose(one.read(name), other.read(name), rtol=1e-4)


def test_a_finished_run_is_not_repeated(tiny_run: Path, malade: Malade, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    answer = malade(*TINY, "--out", copy, "--resume")
    assert answer.code == 0
    assert "finished already" in answer.out
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    assert "holds a finished bundle" in malade.fails(*TINY, "--out", copy)
    assert "was begun with seed = 0, not 1" in malade.fails(*TINY, "--set", "seed=1", "--out", copy, "--resume")


def test_report_can_be_drawn_again(tiny_run: Path, malade: Malade, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    text = (copy / "report.md").read_text()
    (copy / "report.md").write_text(text.replace("MALADE", "MALICE", 1))
    answer = malade("report", copy, "--verify")
    assert answer.code == 1
    assert "report.md" in answer.out
    assert malade("report", copy).code == 0
    assert (copy / "report.md").read_text() == text
    assert malade("report", copy, "--verify").code == 0


@pytest.mark.parametrize("name", ["outcomes.h5", "models/cnn.h5", "figures/training.png", "config.json"])
def test_verify_finds_a_changed_byte(tiny_run: Path, malade: Malade, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    answer = malade("report", copy, "--verify")
    assert answer.code == 1
    assert name in answer.out


def test_verify_finds_a_number_that_does_not_follow(tiny_run: Path, malade: Malade, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    results = json.loads((copy / "results.json").read_text())
    results["cells"]["cnn/clean/0"]["mean"]["value"] += 0.01
    Bundle.open(copy).redraw({"results.json": json.dumps(results)})
    answer = malade("report", copy, "--verify")
    assert answer.code == 1
    assert "cells.cnn/clean/0.mean.value" in answer.out


@pytest.mark.slow
def test_default_folders_are_numbered(malade: Malade, tmp_path: Path) -> None:
    (tmp_path / "runs" / "demo-7").mkdir(parents=True)
    (tmp_path / "runs" / "demo-x").mkdir()
    malade.fails(*TINY, "--set", "attacks.pgd.norm=l3")
    process = start(tmp_path, *TINY)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    process.kill()
    process.communicate()
    assert lines[1].rstrip().endswith("into runs/demo-8")
    assert (tmp_path / "runs" / "demo-8" / "config.json").exists()
    # The newest unfinished run is gone on with, but only when asked to.
    assert "demo-9" in start_line(tmp_path)
    assert "demo-9" in start_line(tmp_path, "--resume")


def start_line(folder: Path, *words: str) -> str:
    """What a run says that it will do; it is killed at once."""
    process = start(folder, *TINY, *words)
    assert process.stdout is not None
    text = process.stdout.readline() + process.stdout.readline()
    process.kill()
    process.communicate()
    return text


@pytest.mark.slow
def test_interrupt_keeps_what_was_done_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path, *TINY, "--out", "bundle")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(2)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == (
        "malade: interrupted; what was done is kept; go on with: malade run demo --set scale=tiny --out bundle --resume"
    )
    assert "Traceback" not in err
    assert (tmp_path / "bundle" / "config.json").exists()


@pytest.mark.slow
def test_closed_pipe(tmp_path: Path) -> None:
    command = f"{sys.executable} -m malade_ref run --list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(tmp_path), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_without_extras(tmp_path: Path) -> None:
    """No matplotlib, no Pillow, no tqdm, no Jinja2: the report has no figures and no page, and says so."""
    code = (
        "import sys\n"
        "for name in ('matplotlib', 'PIL', 'tqdm', 'jinja2'): sys.modules[name] = None\n"
        "from malade_ref.cli import main\n"
        f"sys.exit(main({[*TINY, '--out', 'bundle']!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "bundle" / "figures").exists()
    report = (tmp_path / "bundle" / "report.md").read_text()
    assert "figures were left out (figures: need matplotlib" in report
    assert "report.html was left out (the page: needs jinja2" in report
    assert not (tmp_path / "bundle" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.skipif("MALADE_DATA" not in os.environ, reason="needs MNIST: set MALADE_DATA to the folder of the data")
def test_mnist(tmp_path: Path) -> None:
    """The other built-in experiment, on the real images."""
    data = ("--data-dir", Path(os.environ["MALADE_DATA"]).resolve())
    process = start(tmp_path, "run", "mnist-quick", "--set", "scale=tiny", *data, "--out", "bundle")
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert "it is the published data" in (tmp_path / "bundle" / "report.md").read_text()


def test_list(malade: Malade) -> None:
    answer = malade("run", "--list")
    assert answer.code == 0
    assert [line.split()[0] for line in answer.out.splitlines()] == [*built_in_experiments(), *built_in_suites()]


def test_python_m_and_version(malade: Malade, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        malade("--version")
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("malade ")


def test_info(malade: Malade) -> None:
    answer = malade("info")
    assert answer.code == 0
    for word in ("malade", "python", "numpy", "BLAS", "synthetic-digits", "mnist"):
        assert word in answer.out
