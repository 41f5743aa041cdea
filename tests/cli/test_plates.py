"""The paper's plates: sheets, perturbations and ways through a chain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref.bundle import Bundle
from malade_ref.bundle.schema import check_config, check_record
from malade_ref.checks import InputError
from malade_ref.experiment import read_experiment
from malade_ref.experiment.run import _Run
from malade_ref.report import read_bundle, results_of
from malade_ref.report.labels import Labels
from malade_ref.report.pictures import draw_plates
from tests.cli.conftest import Malade

WORDS = ("run", "mnist-pictures", "--set", "scale=tiny", "--set", "data.name=synthetic-digits")
FIGURES = {
    "perturbation-figure7",
    *(f"sheet-figure{number}" for number in range(8, 15)),
    *(f"walk-figure{number}" for number in range(17, 21)),
    "walk-figure2-1",
}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("sheets.figure8.defence=madri", "sheets.figure8: no defence is called 'madri'; did you mean 'madry'?"),
        ("sheets.figure8.attack=pgdd", "sheets.figure8: no attack is called 'pgdd'; did you mean 'pgd'?"),
        ("sheets.figure8.eps=0.25", "sheets.figure8.eps: attack pgd has no size 0.25; expected one of 0.1, 0.2"),
        ("sheets.figure8.defence=cnn", "attack pgd is not tried against cnn; add it to attacks.pgd.against"),
        ("sheets.figure12.eps=0.3", "sheets.figure12.eps: attack ead has no size 0.3; expected one of 0"),
        ("sheets.figure8.rows=100", "sheets.figure8: expected at most 400 images"),
        ("sheets.figure8.rows=0", "sheets.figure8.rows: expected"),
        ("sheets.figure8.name=figure9", "expected names that differ from each other"),
        ("sheets.figure8.row=2", "sheets.figure8.row: unknown key; did you mean 'rows'?"),
        ("perturbations.figure7.columns=[]", "perturbations.figure7.columns: expected at least one table"),
        ("perturbations.figure7.num_images=101", "expected at most 100 images, those that pgd is given; got 101"),
        ("walks.figure17.defence=madry", "walks.figure17.defence: no defence with a denoiser is called 'madry'"),
        ("walks.figure17.steps=[]", "walks.figure17: expected at least one eps and one of steps"),
        ("walks.figure17.steps=[5, 5]", "walks.figure17: expected no eps and no step twice"),
        ("walks.figure17.steps=[2000]", "walks.figure17.steps: expected numbers up to 1000, got 2000"),
        ("walks.figure17.first=99", "walks.figure17: expected at most 100 images, those that clean is given; got 101"),
        ("walks.figure2.marginal=cnn", "walks.figure2.marginal: no denoiser is called 'cnn'"),
        ("walks.figure2.first=1", "with marginal there is one eps, and first has no meaning"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        read_experiment("mnist-pictures", [change])
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_experiments_without_plates_have_no_trace_of_them() -> None:
    from malade_ref.experiment import settings_of

    assert not {"sheets", "perturbations", "walks"} & settings_of(read_experiment("demo").experiment).keys()


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_draws_all_plates_and_goes_on_with_them(
    malade: Malade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keep = "malade_ref.experiment.plates.Plates"
    for step in ("draw_perturbations", "draw_walk"):
        with monkeypatch.context() as context:
            context.setattr(f"{keep}.{step}", _stop)
            assert malade(*WORDS, "--out", "bundle", "--resume").code == 130
    answer = malade(*WORDS, "--out", "bundle", "--resume")
    assert answer.code == 0, answer.err
    assert malade("report", "bundle", "--verify").code == 0
    report = Path("bundle/report.md").read_text()
    for name in FIGURES:
        assert Path(f"bundle/figures/{name}.png").stat().st_size > 1000
        assert f"](figures/{name}.png)" in report

    # Without an interruption the records are the same.
    with monkeypatch.context() as context:
        context.setattr(_Run, "report", _stop)
        assert malade(*WORDS, "--out", "whole").code == 130
    records = [
        path.relative_to("bundle")
        for kind in ("sheets", "perturbations", "walks")
        for path in Path("bundle", kind).iterdir()
    ]
    assert len(records) == 13
    for record in records:
        assert Path("whole", record).read_bytes() == Path("bundle", record).read_bytes()
        assert Path("bundle", record).stat().st_size < 1 << 20

    # What a sheet says is what the outcomes say.
    bundle = Bundle.open("bundle")
    sheet = bundle.record("sheets/figure8")
    with bundle.outcomes() as outcomes:
        success = outcomes.read("outcomes/madry+malade/pgd/0.3/success")
        distance = outcomes.read("outcomes/madry+malade/pgd/0.3/distance")
    assert sheet.meta["num_fallen"] == success.sum()
    np.testing.assert_allclose(sheet.meta["linf"], distance.mean(), rtol=1e-6)
    np.testing.assert_array_equal(sheet.arrays["success"], success)
    # The clean row of a walk begins with clean images, and the others with what the sheets show.
    walk = bundle.record("walks/figure17").arrays
    assert walk["steps"][0] == 0
    row = walk["eps"].tolist().index(0.3)
    np.testing.assert_array_equal(walk["malade/position"][row, 0], sheet.arrays["x_adv"][:2])
    seven = bundle.record("perturbations/figure7").arrays
    change = walk["malade/position"][-1, 0].astype(float) - walk["malade/position"][0, 0]
    np.testing.assert_allclose(change / 255, seven["change"][0, :2], atol=0.003)

    # From what a repository keeps, the same figures.
    record = Path("record")
    record.mkdir()
    for name in ("config.json", "environment.json", "results.json", "experiment.toml", "outcomes.h5", "MANIFEST.json"):
        shutil.copy(Path("bundle", name), record / name)
    for kind in ("sheets", "perturbations", "walks"):
        shutil.copytree(Path("bundle", kind), record / kind)
    inputs = read_bundle(Bundle.open(record))
    drawn = draw_plates(inputs, Labels(inputs.config, results_of(inputs)))
    assert {f"figures/{name}.png" for name in FIGURES} == drawn.keys()
    for name, content in drawn.items():
        assert Path("bundle", name).read_bytes() == content

    # A bundle that was tampered with: one line.
    config = json.loads(Path("bundle/config.json").read_text())
    check_config("config.json", config)
    config["sheets"][0]["name"] = "../x"
    with pytest.raises(InputError, match=r"sheets\[0\].name: expected a name"):
        check_config("config.json", config)
    meta, arrays = dict(sheet.meta), dict(sheet.arrays)
    for key, value in (("columns", 10**9), ("l1", -1), ("num_images", 0), ("defence", "a/b"), ("right", "all")):
        with pytest.raises(InputError, match=f"{key}: expected"):
            check_record("sheet", "sheets/figure8", {**meta, key: value}, arrays)
    with pytest.raises(InputError, match="x_adv: expected axes"):
        check_record("sheet", "sheets/figure8", meta, {**arrays, "x_adv": arrays["x_adv"].astype(float)})
    with pytest.raises(InputError, match="has no array 'label'"):
        check_record("sheet", "sheets/figure8", meta, {key: arrays[key] for key in ("success", "x_adv")})
