"""The paper's tables and figures as experiments: each is run once, at its smallest, on synthetic digits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from malade_ref import load
from malade_ref.bundle import Bundle
from malade_ref.checks import InputError
from malade_ref.experiment import read_experiment
from malade_ref.experiment.config import Attack, Experiment
from malade_ref.experiment.run import _Run
from tests.cli.conftest import Malade
from tests.marks import slow_but

SECTIONS = {
    "mnist-table1": (
        "### Table 1: classification performance",
        "R+PGD",
        "### Every attack at every size",
        "### Nearest wrong images",
    ),
    "mnist-table2": ("### Table 2: classification performance", "CNN + MALADE (BPDAwEOT)"),
    "mnist-blackbox": ("### Nearest wrong images", "PGD on a substitute"),
    "honest": ("### Several draws", "all of 10 draws"),
    "mnist-figure3": (
        "figures/figure3a.png",
        "figures/figure3b.png",
        "figures/figure3c.png",
        "| threat | CNN |",
        "L2 2",
    ),
    "mnist-figure4": ("R+PGD",),
    "mnist-blackbox-sizes": (
        "on the answers of CNN",
        "PGD on what was distilled from Madry",
        "share of pixels 0.4",
        "L2 4",
    ),
    "mnist-figure5": ("CNN + MALADE less CNN + marginal MALA", "### Every attack at every size"),
    "mnist-seeds": ("### Several trainings", "mean ± deviation", "CNN + MALADE, seed 2"),
    "mnist-figure6": ("figures/figure6a.png", "figures/figure6b.png"),
}


DRAWN = ("mnist-figure3", "mnist-figure6")
NEVER = ("attacks stay in their ball", "attacker and defender count alike")


def _fail(error: BaseException) -> None:
    raise error


def _carried_over(experiment: Experiment, name: str, attack: Attack) -> bool:
    return attack.victim(name, experiment.defences) != replace(attack, source="defence").victim(
        name, experiment.defences
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_but(("mnist-blackbox",), SECTIONS))
def test_an_experiment_runs_and_reports(
    name: str, malade: Malade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in DRAWN:
        monkeypatch.setattr("malade_ref.experiment.run.require", lambda: _fail(InputError("drawing takes time")))
    words = ("run", name, "--set", "scale=tiny", "--set", "data.name=synthetic-digits", "--out", "bundle")
    with monkeypatch.context() as context:
        # An interruption after the last attack.
        context.setattr(_Run, "audit", lambda *_: _fail(KeyboardInterrupt()))
        assert malade(*words).code == 130
    answer = malade(*words, "--resume")
    assert answer.code == 0, answer.err
    report = Path("bundle/report.md").read_text()
    missing = [text for text in SECTIONS[name] if text not in report]
    assert not missing
    # What the paper measured on MNIST is not laid beside other data.
    assert not [number for number in ("82.48", "71.40") if number in report]
    # The verdict comes first, with numbers and intervals.
    verdict = report.split("\n\n")[1]
    assert verdict.startswith(("**CNN + MALADE is ", "**Madry + MALADE "))
    assert "% [" in verdict
    assert malade("report", "bundle", "--verify").code == 0

    experiment = read_experiment(name, ["scale=tiny"]).experiment
    results = json.loads(Path("bundle/results.json").read_text())
    cells = results["cells"]
    for defence, attack, eps in experiment.cells():
        cell = cells[f"{defence}/{attack.name if attack else 'clean'}/{eps:g}"]
        if attack is not None and attack.nearest:
            assert cell["nearest"].keys() == {attack.profile.norm, "l2"}
            for cut in attack.cuts:
                assert cells[f"{defence}/{attack.name}/{cut:g}"]["threat"] == f"{attack.cut_norm} {cut:g}"
        elif attack is not None:
            assert (cell["kind"] == "transfer") == _carried_over(experiment, defence, attack)
    # An attack without a size of its own is nowhere shown at 0.
    assert not [threat for of in results["defences"].values() for threat in of["worst"] if threat.endswith(" 0")]
    failed = [finding["name"] for finding in results["audit"] if finding["status"] == "warning"]
    assert not set(failed) & set(NEVER)
    assert experiment.pictures is not None
    number = experiment.pictures.num_images
    arrays = Bundle.open("bundle").record("pictures").arrays
    for defence, attack, eps in experiment.cells():
        stored = arrays[f"{defence}/{attack.name if attack else 'clean'}/{eps:g}/x_adv"]
        assert stored.shape == (number, 1, 28, 28)
    figures = [f"figures/pictures-{i + 1}.png" for i in range(number)]
    assert all((Path("bundle") / figure).is_file() and figure in report for figure in figures) == (name in DRAWN)
    if name == "mnist-seeds":
        trained = [load(f"bundle/models/cnn{of}.h5").params["0.weight"] for of in ("", "-1", "-2")]
        assert len({array.tobytes() for array in trained}) == 3
