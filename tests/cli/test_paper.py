"""The paper's tables and figures: which command shows each, and a suite of all of them in one page."""

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
from malade_ref.checks import InputError
from malade_ref.experiment import built_in_suites, read_experiment
from malade_ref.experiment.sharing import Sharing
from malade_ref.report.exhibits import COLUMNS, published
from malade_ref.storage import Record
from malade_ref.theorem.figures import CAPTIONS
from tests.cli.conftest import Malade

# For each table and figure of the paper that has numbers or images: the experiment, and what of it shows it.
SHOWN = {
    "Table 1": ("mnist-table1", "table1"),
    "Table 2": ("mnist-table2", "table2"),
    "Figure 3 (a)": ("mnist-figure3", "figure3a"),
    "Figure 3 (b)": ("mnist-figure3", "figure3b"),
    "Figure 3 (c)": ("mnist-figure3", "figure3c"),
    "Figure 4": ("mnist-figure4", "figure4"),
    "Figure 5": ("mnist-figure5", "figure5"),
    "Figure 6 (a)": ("mnist-figure6", "figure6a"),
    "Figure 6 (b)": ("mnist-figure6", "figure6b"),
    "Table 3": ("cifar10-table3", "table3"),
    "Table 4": ("tinyimagenet-table4", "table4"),
    "Figure 15": ("cifar10-table3", "figure15"),
    "Figure 16": ("tinyimagenet-table4", "figure16"),
    "Figure 1": ("theorem", "idea"),
    **{f"Figure {number}": ("mnist-pictures", f"figure{number}") for number in (2, *range(7, 15), *range(17, 21))},
}
TINY = ("--set", "scale=tiny", "--set", "data.name=synthetic-digits")


@pytest.mark.parametrize("item", SHOWN)
def test_every_table_and_figure_has_its_command(item: str) -> None:
    name, exhibit = SHOWN[item]
    if name == "theorem":
        assert exhibit in built_in_suites()["paper"].theorem
        assert any(caption.startswith(f"The paper's {item},") for caption in CAPTIONS[exhibit].values())
        return
    experiment = read_experiment(name).experiment
    plates = (*experiment.sheets, *experiment.perturbations, *experiment.walks)
    titles = {one.name: one.title for one in (*experiment.tables, *experiment.figures, *plates)}
    assert titles[exhibit].startswith(f"{item}:")
    assert (name in built_in_suites()["paper"].experiments) == name.startswith("mnist")
    shows_tables = name != "mnist-pictures" and not item.startswith("Figure 1")
    assert not shows_tables or item.split(" (")[0].lower().replace(" ", "") in name


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_every_number_of_a_table_of_the_paper_is_beside_one_of_ours(number: int) -> None:
    """Each cell that the paper has is met by a row whose attack is run on that defence."""
    experiment = read_experiment(SHOWN[f"Table {number}"][0]).experiment
    table, attacks = experiment.tables[0], {attack.name: attack for attack in experiment.attacks}
    met = set()
    for block in table.blocks:
        for row in block.rows:
            key = (number, row.scenario or block.scenario, row.condition or block.condition, row.paper)
            assert key in published(), key
            columns = {COLUMNS[name] for name in attacks[row.attack].against}
            assert published()[key].keys() <= columns
            met.add(key)
    missing = {key for key in published() if key[0] == number and key[3] != "worst case"} - met
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10-quick", "cifar10-table3", "tinyimagenet-table4"])
def test_experiments_on_colour_run_to_their_end(malade: Malade, name: str) -> None:
    """On grey digits, as there is no other data everywhere: the networks take any shape."""
    answer = malade("run", name, *TINY, "--out", "bundle")
    assert answer.code == 0, answer.err
    report = Path("bundle/report.md").read_text()
    for item, (of, exhibit) in SHOWN.items():
        if of == name:
            assert f"### {item}:" in report
            assert Path(f"bundle/figures/sheet-{exhibit}.png").exists() == item.startswith("Figure")
    if name.startswith("tiny"):
        assert "(figures/alp-steps.png)" in report
    assert malade("report", "bundle", "--verify").code == 0


@pytest.mark.slow
def test_a_suite_killed_again_and_again_ends_with_the_same_bits(malade: Malade, tmp_path: Path) -> None:
    # All in processes of their own: one that runs tests may have other threads.
    start = [sys.executable, "-m", "malade_ref", "run", "paper", *TINY, "--out"]
    subprocess.run([*start, "whole"], check=True, capture_output=True)
    command = [*start, "killed", "--resume"]
    for seconds in (4, 6, 8):
        process = subprocess.Popen(command, cwd=Path.cwd(), env=os.environ, stdout=-3, stderr=-3)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    subprocess.run(command, check=True, capture_output=True)
    pages = [(Path(folder) / "report.md").read_text() for folder in ("whole", "killed")]
    assert pages[0] == pages[1]
    for item, (name, exhibit) in SHOWN.items():
        if not name.startswith(("mnist", "theorem")):
            continue
        place = f"](theorem/figures/{exhibit}.png)" if name == "theorem" else f"## {item.partition(' (')[0]}"
        assert place in pages[0], item
    for name in ("theorem", *built_in_suites()["paper"].experiments):
        results = [json.loads((Path(folder) / name / "results.json").read_text()) for folder in ("whole", "killed")]
        assert results[0] == results[1]
        if name == "theorem":
            continue
        with Bundle.open(f"whole/{name}").outcomes() as one, Bundle.open(f"killed/{name}").outcomes() as other:
            assert one.names == other.names
            assert all(np.array_equal(one.read(key), other.read(key)) for key in one.names)
    assert not Path("whole/shared").exists()
    # A page can be put together from bundles that are there.
    Path("whole/report.md").unlink()
    subprocess.run([*start, "whole", "--resume"], check=True, capture_output=True)
    assert Path("whole/report.md").read_text() == pages[0]
    assert malade("report", "whole", "--verify").code == 0
    page = Path("whole/report.md")
    page.write_text(pages[0].replace("In short", "In long"))
    answer = malade("report", "whole", "--verify")
    assert (answer.code, "report.md: line" in answer.out) == (1, True)
    assert malade("report", "whole").code == 0
    assert page.read_text() == pages[0]
    assert malade("report", "whole", "--verify", "--recompute", "1").code == 2
    assert malade("report", "whole", "--record", "record").code == 0
    assert malade("report", "record", "--verify").code == 0
    assert Path("record/report.md").read_text() == pages[0]
    assert not list(Path("record").glob("*/models"))
    assert malade("report", "record").code == 2
    # Without what the runs had in common, an experiment alone gives the same.
    subprocess.run([*start[:3], "run", "mnist-table2", *TINY, "--out", "alone"], check=True, capture_output=True)
    assert Path("alone/results.json").read_text() == Path("whole/mnist-table2/results.json").read_text()


def test_an_interrupted_suite_says_how_to_go_on(malade: Malade, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    for place in ("malade_ref.experiment.suite.run_experiment", "malade_ref.theorem.run_theorem"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            answer = malade("run", "paper", *TINY, "--out", "stopped", "--resume")
        assert answer.code == 130
        assert "what was done is kept; go on with: malade run paper" in answer.err
        assert "--out stopped --resume" in answer.err


@pytest.mark.slow
def test_a_suite_refuses_a_folder_of_something_else(malade: Malade, tmp_path: Path) -> None:
    Path("other").mkdir()
    Path("other/mine.txt").write_text("mine")
    answer = malade("run", "paper", *TINY, "--out", "other", "--resume")
    assert (answer.code, Path("other/mine.txt").read_text()) == (2, "mine")
    assert "not of a suite" in answer.err
    for name, text in (("paper", '{"suite": "paper"}'), ("broken", "{")):
        Path(name).mkdir()
        Path(f"{name}/suite.json").write_text(text)
        for words in ((), ("--resume",)):
            answer = malade("run", "paper", *TINY, "--out", name, *words)
            assert answer.code == 2
            assert len(answer.err.strip().splitlines()) == 1
        shutil.rmtree(name)


def test_what_is_shared_is_computed_once_and_never_taken_for_something_else(tmp_path: Path) -> None:
    calls = []

    def compute(value: float) -> Record:
        calls.append(value)
        return Record({"x": np.array([value, np.inf])}, {"value": value})

    def of(value: float, common: str = "a") -> Record:
        sharing = Sharing(tmp_path / "shared", {"seed": common})
        return sharing.record(lambda: {"value": value}, lambda: compute(value))

    first = of(1.0)
    assert np.array_equal(of(1.0).arrays["x"], first.arrays["x"])
    assert of(1.0).meta == first.meta
    of(2.0)
    of(1.0, "b")
    assert calls == [1.0, 2.0, 1.0]
    for path in (tmp_path / "shared").iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    assert np.array_equal(of(1.0).arrays["x"], first.arrays["x"])
    assert len(calls) == 4
    assert Sharing(None, {}).record(dict, lambda: compute(3.0)).meta == {"value": 3.0}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("attacks.pgd.vary={num_steps=[1, 2]}", "attacks.pgd.vary.num_steps: the attack has this setting, too"),
        ("attacks.fgsm.vary={eps=[0.1]}", "attacks.fgsm.vary.eps: the attack has this setting, too"),
        ("attacks.fgsm.vary={}", "attacks.fgsm.vary: expected a table of one setting"),
        ("attacks.fgsm.vary=3", "attacks.fgsm.vary: expected a table of one setting"),
        ("attacks.fgsm.vary={num_judge_draws=[1, 1]}", "expected an array of different numbers"),
        ("attacks.fgsm.vary={nothing=[1, 2]}", "nothing: unknown key"),
        ("attacks.fgsm.source=mad", "attacks.fgsm.source: nothing is called 'mad'"),
        ('tables.table1.columns=["cnm"]', "tables.table1.columns: nothing is called 'cnm'"),
        ("tables.table1.blocks=[]", "expected at least one column, and one block"),
    ],
)
def test_bad_settings(change: str, complaint: str) -> None:
    with pytest.raises(InputError) as error:
        read_experiment("mnist-table1", [change])
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_source_that_is_two_things_is_refused() -> None:
    changes = ["defences.dae2={name='x', classifier='cnn'}", "models.dae2={kind='classifier', epochs=1}"]
    with pytest.raises(InputError, match="'dae2' is a model and another defence"):
        read_experiment("mnist-table2", [*changes, "attacks.on-cnn.source=dae2"])
