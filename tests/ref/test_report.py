"""Reports of made-up bundles: what they say, that it is the same every time, and that a changed number is noticed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref import figures
from malade_ref.bundle import Bundle
from malade_ref.checks import InputError
from malade_ref.evaluation import Cell
from malade_ref.network import mlp
from malade_ref.report import ReportInput, check_report, read_bundle, report_text, results_of, write_report
from malade_ref.report.labels import Labels, threat_label
from malade_ref.storage import Record
from tests.outcomes import ATTACKS, CHECKS, CONFIG, DEFENCES, made_cells, made_histories, made_records, write_bundle


def finished(folder: Path) -> Path:
    """A finished bundle with a report."""
    with write_bundle(folder, made_cells(num_samples=60)) as bundle:
        for name, history in made_histories().items():
            bundle.trained(name, lambda path, history=history: (mlp((1, 2, 2), 2), history))
        write_report(bundle)
        bundle.finish()
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("bundles") / "made")


def inputs_of(cells: list[Cell], *, records: dict[str, Record] | None = None, **changes: Any) -> ReportInput:
    environment = {"environment": {"malade": "1.0", "python": "CPython 3", "packages": {"numpy": "2"}}, "warnings": []}
    return ReportInput({**CONFIG, **changes}, cells, {}, made_records() if records is None else records, environment)


def text_of(inputs: ReportInput) -> str:
    return report_text(results_of(inputs), inputs.config, inputs.environment, [])


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


# Bundles -------------------------------------------------------------------------------------------------------------


def test_bundle_has_results_report_and_figures(bundle: Path) -> None:
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    expected = {"figures/accuracy.png", "figures/training.png", "figures/path-1.png", "figures/path-2.png"}
    assert files >= {"results.json", "report.md", *expected}
    assert Bundle.open(bundle).verify() == []
    assert check_report(bundle) == []
    text = (bundle / "report.md").read_text()
    assert {name for name in expected if f"]({name})" in text} == expected


@pytest.mark.slow
def test_equal_bundles_have_equal_files(bundle: Path, tmp_path: Path) -> None:
    other = finished(tmp_path / "again")
    for file in ("results.json", "report.md", *(f"figures/{path.name}" for path in bundle.glob("figures/*"))):
        assert (bundle / file).read_bytes() == (other / file).read_bytes(), file


@pytest.mark.slow
def test_drawing_again_changes_nothing(bundle: Path) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    names = write_report(bundle)
    assert "report.md" in names
    assert {path: path.read_bytes() for path in before} == before


def test_certificates_without_their_settings_are_one_line() -> None:
    record = Record({"label": np.zeros(1, int), "selection": np.ones((1, 2), int), "counts": np.ones((1, 2), int)})
    with pytest.raises(InputError, match="certify: missing, although there are certificates"):
        results_of(inputs_of(made_cells(), records={"certify/cnn": record}))


def test_images_are_not_read(bundle: Path) -> None:
    assert all("x_adv" not in cell.arrays for cell in read_bundle(bundle).cells)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    for path in bundle.rglob("*"):
        target = tmp_path / "copy" / path.relative_to(bundle)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    return tmp_path / "copy"


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda found: found["cells"]["cnn+malade/exact/0.3"]["mean"].update(value=0.9),
            r"results.json: cells.cnn\+malade/exact/0.3.mean.value is 0.9, derived is 0\.\d+",
        ),
        (
            lambda found: found["audit"][0].update(status="warning"),
            r"results.json: audit\[0\].status is 'warning', derived is 'ok'",
        ),
        (lambda found: found["cells"].pop("cnn/clean/0"), r"results.json: cells.cnn/clean/0 is missing"),
        (lambda found: found.update(better=1), r"results.json: better is not derived from the outcomes"),
        (lambda found: found["comparisons"].pop(), r"results.json: comparisons is \[.*"),
        (
            lambda found: found["settings"]["cnn+malade"].update(clip=1),
            r"results.json: settings.cnn\+malade.clip is 1, derived is True",
        ),
    ],
)
def test_changed_results_are_noticed(copy: Path, change: Callable[[dict[str, Any]], None], line: str) -> None:
    edit(copy / "results.json", change)
    (found,) = check_report(copy)
    assert re.fullmatch(line, found)


def test_rounding_is_not_a_mismatch(copy: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        found["cells"]["cnn+malade/exact/0.3"]["mean"]["value"] *= 1 + 1e-13

    edit(copy / "results.json", change)
    (copy / "croissant.json").unlink()  # it has the SHA-256 of the file as it was
    assert check_report(copy) == []


def test_changed_text_is_noticed(copy: Path) -> None:
    text = (copy / "report.md").read_text()
    (copy / "report.md").write_text(text.replace("less robust", "more robust").replace("not measurably", "measurably"))
    (found,) = check_report(copy)
    assert re.match(r"report.md: line \d+ is '", found)
    (copy / "report.md").write_text(text.rstrip().rpartition("\n")[0] + "\n")
    assert "is None, derived is" in check_report(copy)[0]


@pytest.mark.parametrize("file", ["results.json", "report.md", "outcomes.h5", "audit.h5"])
def test_damage_is_one_line(copy: Path, file: str) -> None:
    (copy / file).write_bytes(b"\xff\xfe rubbish")
    (found,) = check_report(copy)
    assert file in found
    assert "\n" not in found


def test_incomplete_records_are_one_line() -> None:
    records = {**made_records(), "settings": Record({}, {"cnn+malade": {"a": 1.0}})}
    with pytest.raises(InputError, match="incomplete"):
        results_of(inputs_of(made_cells(num_samples=5), records=records))


# What it says --------------------------------------------------------------------------------------------------------


def test_verdict_leads_with_the_strongest_attack() -> None:
    text = text_of(inputs_of(made_cells()))
    results = results_of(inputs_of(made_cells()))
    first = text.split("\n\n")[1]
    worst = results["defences"]["cnn+malade"]["worst"]["linf 0.3"]["honest"]["mean"]
    shown = f"{100 * worst['value']:.1f}% [{100 * worst['low']:.1f}, {100 * worst['high']:.1f}]"
    assert first.startswith("**CNN+MALADE is more robust than CNN alone, but most of what it restores is lost")
    assert first.index("%") == first.index(shown) + shown.index("%")
    assert first.index(shown) < first.index("an attacker who ignores the defence leaves")
    assert "CNN alone on 0.0% [" in first
    assert "(each pixel, between 0 and 1, may change by 0.3)" in first
    # Of every defence, before details of any.
    other = results["defences"]["madry+malade"]["worst"]["linf 0.3"]["honest"]["mean"]["value"]
    assert f"Madry+MALADE is still right on {100 * other:.1f}% [" in first
    details = text.split("\n\n")[2]
    assert details.startswith("CNN+MALADE in detail: ")
    kinds = [results["cells"][f"cnn+malade/{name}/0.3"]["mean"]["value"] for name in ("transfer", "bpda", "exact")]
    positions = [details.index(f"{100 * value:.1f}% [", details.index("Kind by kind")) for value in kinds]
    assert positions == sorted(positions)
    assert "submit each image 10 times" in details


def verdict_of(radius: float, transfer: float = 0.45) -> str:
    defences = {**DEFENCES, "cnn+malade": DEFENCES["cnn+malade"]._replace(radius=radius)}
    attacks = {**ATTACKS, "transfer": ATTACKS["transfer"]._replace(strength=transfer)}
    return text_of(inputs_of(made_cells(defences=defences, attacks=attacks))).split("\n\n")[1].split("**")[1]


def test_headlines() -> None:
    assert verdict_of(0.6) == "CNN+MALADE is more robust than CNN alone under the attacks tried here."
    assert "most of what it restores is lost" in verdict_of(0.2)
    assert verdict_of(0.05) == "CNN+MALADE is not measurably more robust than CNN alone."
    assert "**Madry+MALADE is less robust than Madry alone.**" in text_of(inputs_of(made_cells()))


@pytest.mark.parametrize("names", [("pgd", "transfer"), ("pgd", "transfer", "noise")])
def test_nothing_is_said_of_a_defence_that_nobody_attacked(names: tuple[str, ...]) -> None:
    """Images made against the bare classifier, and noise, say nothing of the classifier behind a chain."""
    attacks = {name: attack for name, attack in ATTACKS.items() if name in names}
    text = text_of(inputs_of(made_cells(attacks=attacks)))
    assert "**No attack here was made on CNN+MALADE itself, so nothing can be said of how robust it is.**" in text
    assert "CNN+MALADE is more robust" not in text
    assert "CNN+MALADE is still right on" in text
    assert "remain against one who does not" not in text


def test_a_headline_says_when_nobody_had_the_gradient() -> None:
    defences = {**DEFENCES, "cnn+malade": DEFENCES["cnn+malade"]._replace(radius=0.6)}
    attacks = {name: attack for name, attack in ATTACKS.items() if name != "exact"}
    text = text_of(inputs_of(made_cells(defences=defences, attacks=attacks)))
    assert "more robust than CNN alone under the attacks tried here, none of which had the gradient through" in text


def test_failed_checks_stand_in_the_verdict_and_in_the_audit() -> None:
    attacks = {**ATTACKS, "exact": ATTACKS["exact"]._replace(strength=0.4)}
    text = text_of(inputs_of(made_cells(attacks=attacks)))
    assert "checks of the audit failed: " in text.partition("\n## ")[0]
    assert "exact gradient no weaker than BPDA" in text.partition("\n## ")[0]
    assert "| exact gradient no weaker than BPDA | **WARNING** |" in section(text, "Audit")


def test_missing_attacks_are_named() -> None:
    attacks = {name: attack for name, attack in ATTACKS.items() if name in ("pgd", "transfer")}
    assert "There is no attack by BPDA and none by the exact gradient." in text_of(
        inputs_of(made_cells(attacks=attacks))
    )


def test_tables_have_both_readings_and_the_paper() -> None:
    text = section(text_of(inputs_of(made_cells())), "Accuracy")
    assert "| attack | CNN | CNN+MALADE | Madry | Madry+MALADE |" in text
    assert "| *the paper, Table 1: worst* | – | *82.48* | *93.71* | – |" in text
    assert text.index("**worst case for each image**") < text.index("**worst case, the paper's reading**")
    rows = [line for line in text.splitlines() if line.startswith("| BPDA, EOT 10 |")]
    assert len(rows) == 1, "a number is printed once"
    assert all(row.count("–") == 2 and len(re.findall(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", row)) == 2 for row in rows)
    assert "a majority of 10 draws" in text
    assert "all of 10 draws" in text


def test_other_numbers_of_images_are_told() -> None:
    cells = [
        cell._replace(arrays={key: array[:50] for key, array in cell.arrays.items()})
        if cell.attack == "exact"
        else cell
        for cell in made_cells()
    ]
    text = text_of(inputs_of(cells))
    assert "(n = 50)" in section(text, "Accuracy")
    verdict = text.partition("\n## ")[0]
    assert "of 50 test images" in verdict
    # Kind by kind on the same 50 images: the transferred attack, which had 200, too.
    transfer = next(cell for cell in cells if cell.name == "cnn+malade/transfer/0.3").p[:50].mean()
    assert f"an attacker who ignores the defence leaves {100 * transfer:.1f}% [" in verdict


def test_cheap_training_and_synthetic_data_are_told() -> None:
    text = text_of(inputs_of(made_cells(num_samples=20)))
    before_tables = text.partition("\n## ")[0]
    assert "> Madry: Trained on 2,000 images only. The fast variant: one step a batch." in before_tables
    assert "> Synthetic: not MNIST." in before_tables
    assert "3 epochs of 2,000 images" in section(text, "Models")
    assert "error 9.70, J of CNN 0.107" in section(text, "Models")


def test_settings_in_the_paper_s_terms() -> None:
    text = section(text_of(inputs_of(made_cells(num_samples=20))), "Settings of the defences")
    assert "| CNN+MALADE | 5 | 1 | 0.05 | 0.15 | 0.15 | 0.008333 | yes |" in text
    assert "| 5 | 1 | 0 | 96.0 | 70.0 | **chosen** |" in text
    assert "at the edge of the grid" in text


def test_neither_dates_nor_durations(bundle: Path) -> None:
    text = (bundle / "report.md").read_text()
    environment = json.loads((bundle / "environment.json").read_text())
    assert environment["sessions"][0]["began"][:10] not in text
    assert not re.search(r"\d\d:\d\d", text)


def test_changes_of_the_environment_are_told() -> None:
    inputs = inputs_of(made_cells(num_samples=20))
    warning = "the run was resumed in another environment: packages.numpy was 2, then 3"
    inputs.environment["warnings"].append(warning)
    assert f"- Note: {warning}." in section(text_of(inputs), "Provenance")


def test_little_is_enough_for_a_report() -> None:
    clean = [cell for cell in made_cells(num_samples=5) if cell.attack == "clean"]
    bare = ReportInput({"name": "bare"}, clean, {}, {}, {})
    text = report_text(results_of(bare), bare.config, bare.environment, [])
    assert text.startswith("# bare\n\nNo attack was run, so nothing can be said about robustness.\n")
    only_cnn = [cell for cell in made_cells(num_samples=50) if cell.defence == "cnn" and cell.attack in ("pgd", "fgsm")]
    bare = bare._replace(cells=only_cnn)
    assert "**cnn keeps " in report_text(results_of(bare), bare.config, bare.environment, [])


def test_titles_cannot_break_tables() -> None:
    attacks = [{"name": "pgd", "title": "PGD | all"}]
    text = text_of(inputs_of(made_cells(num_samples=5), attacks=attacks))
    assert "| PGD \\| all |" in text


# Figures -------------------------------------------------------------------------------------------------------------


def chunks(png: bytes) -> set[bytes]:
    """Kinds of chunks in a PNG file."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    found, position = set(), 8
    while position < len(png):
        size = int.from_bytes(png[position : position + 4], "big")
        found.add(png[position + 4 : position + 8])
        position += size + 12
    return found


@pytest.mark.faults
def test_a_dollar_in_a_title_is_a_dollar() -> None:
    histories = {"cnn": {"epoch": [1, 2], "loss": [1.0, 0.5]}}
    assert figures.training_curves(histories, labels={"cnn": r"$\nothing{"}).startswith(b"\x89PNG")


def path_arguments(channels: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "images": rng.random((2, 3, channels, 8, 8)),
        "predictions": rng.integers(0, 10, (2, 3)),
        "probabilities": np.array([[0.0, 0.005, 0.5], [0.995, 0.9995, 1.0]]),
        "label": 3,
        "titles": ["clean", "adversarial", "step 5"],
        "names": ["one", "other"],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.training_curves(made_histories(), labels={"cnn": "CNN"}),
        lambda: figures.training_curves({"one": {"loss": [0.0, -1.0]}}, labels={}),
        lambda: figures.picture_table(**path_arguments()),
        lambda: figures.picture_table(**path_arguments(channels=3)),
        lambda: figures.contact_sheet(np.random.default_rng(0).random((13, 1, 8, 8)), columns=5),
        lambda: figures.contact_sheet(np.zeros((2, 3, 8, 8)), titles=["a", "b"]),
        lambda: figures.accuracy_curves(
            {"CNN": [figures.Curve("PGD", [0.3], [0.2], [0.1], [0.4])], "Madry": []}, xlabel="eps", clean={"CNN": 0.99}
        ),
        lambda: figures.certified_curves(
            [figures.Curve("CNN", [0.0, 0.9], [0.9, 0.2], [0.8, 0.1], [1.0, 0.4])],
            sigma=0.4,
            num_draws=9,
            alpha=0.01,
            largest=1.0,
        ),
    ],
)
def test_figures_depend_on_their_data_only(draw: Callable[[], bytes], tmp_path: Path) -> None:
    import matplotlib

    png = draw()
    assert chunks(png) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}
    settings = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 50, "lines.linewidth": 9, "axes.grid": True}):
        assert draw() == png
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.slow
@pytest.mark.parametrize("num_attacks", [3, 9, 20])
def test_nothing_is_cut_off(num_attacks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither names of attacks beside curves, nor titles of a long and narrow table of pictures."""
    drawn, draw = [], figures.drawing

    @contextmanager
    def watched(**size: float) -> Iterator[Any]:
        with draw(**size) as (figure, content):
            yield figure, content
            tight = figure.get_tightbbox()  # in inches
            drawn.append((tight, *figure.get_size_inches()))

    monkeypatch.setattr(figures, "drawing", watched)
    names = [f"An attack that has\na long name {number}" for number in range(num_attacks)]
    curves = [figures.Curve(name, [0.3], [0.2], [0.1], [0.4]) for name in names]
    figures.accuracy_curves({"CNN": curves, "Madry": curves}, xlabel="eps", clean={"CNN": 0.99})
    shape = (num_attacks, 2)
    figures.picture_table(
        np.zeros((*shape, 1, 8, 8)),
        np.zeros(shape, dtype=int),
        np.full(shape, 0.5),
        label=0,
        titles=["CNN", "Madry"],
        names=names,
    )
    for box, width, height in drawn:
        assert box.x0 >= -0.02
        assert box.y0 >= -0.02
        assert box.x1 <= width + 0.02
        assert box.y1 <= height + 0.02
    assert drawn[1][2] < 16


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.training_curves({}, labels={}),
        lambda: figures.accuracy_curves({"CNN": []}, xlabel="eps", clean={}),
        lambda: figures.certified_curves([], sigma=0.4, num_draws=9, alpha=0.01, largest=1.0),
        lambda: figures.picture_table(**{**path_arguments(), "names": ["one"]}),
        lambda: figures.picture_table(**{**path_arguments(), "predictions": np.zeros((2, 4), dtype=int)}),
        lambda: figures.contact_sheet(np.zeros((3, 2, 8, 8))),
        lambda: figures.contact_sheet(np.zeros((0, 1, 8, 8))),
    ],
)
def test_bad_figures(draw: Callable[[], bytes]) -> None:
    with pytest.raises(InputError):
        draw()


def test_missing_matplotlib_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for call in (figures.require, lambda: figures.contact_sheet(np.zeros((1, 1, 8, 8)))):
        with pytest.raises(InputError, match=r"pip install 'malade\[cli\]'"):
            call()


def test_audit_of_the_bundle_is_that_of_its_records(bundle: Path) -> None:
    results = json.loads((bundle / "results.json").read_text())
    finding = next(one for one in results["audit"] if one["name"].startswith("gradient equals"))
    assert finding["message"] == f"{len(CHECKS['gradient'])} defences, largest relative error 1.0e-08"


def test_convergence_needs_a_ladder_of_equal_attacks() -> None:
    base = made_cells(num_samples=20)
    (one,) = (cell for cell in base if cell.name == "cnn+malade/exact/0.3")
    ladder = [
        one._replace(attack=f"exact-{n}", meta={**one.meta, "settings": {**one.meta["settings"], "num_steps": n}})
        for n in (10, 20)
    ]
    assert results_of(inputs_of([*base, ladder[0]]))["convergence"] == {"num_steps": [], "num_draws": []}
    other = ladder[1]._replace(meta={**ladder[1].meta, "settings": {**ladder[1].settings, "num_draws": 11}})
    assert results_of(inputs_of([*base, ladder[0], other]))["convergence"]["num_steps"] == []
    (found,) = results_of(inputs_of([*base, *ladder]))["convergence"]["num_steps"]
    assert (found["defence"], found["threat"], found["n"]) == ("cnn+malade", "linf 0.3", 20)
    assert [point["value"] for point in found["points"]] == [10, 20, 40]
    assert found["points"][0]["mean"]["value"] == pytest.approx(one.correct.mean())


def test_the_paper_s_figures_stand_at_their_size() -> None:
    paper = [
        {"table": "Table 8", "defence": "cnn", "attack": "here", "accuracy": 1.25},
        {"table": "Table 9", "defence": "cnn", "attack": "there", "norm": "linf", "eps": 0.6, "accuracy": 2.5},
    ]
    text = text_of(inputs_of(made_cells(num_samples=20), paper=paper))
    tables, sizes = section(text, "Accuracy"), section(text, "Accuracy against eps")
    assert "1.25" in tables
    assert "2.50" not in tables
    (row,) = (line for line in sizes.splitlines() if "Table 9: there" in line)
    assert row.startswith("| CNN |")
    assert row.endswith("| – | *2.50* |")


# Several trainings ---------------------------------------------------------------------------------------------------


def test_replicas_are_put_side_by_side() -> None:
    """Each one's clean images and worst case, their mean and deviation; compared with their own classifier only."""
    made = {**DEFENCES, "cnn-1": DEFENCES["cnn"], "cnn-1+malade": DEFENCES["cnn+malade"]._replace(radius=0.25)}
    replicas = {f"cnn-1{chain}": {"name": f"Again{chain}", "replica_of": f"cnn{chain}"} for chain in ("", "+malade")}
    attacks = {
        name: attack._replace(against=tuple(made)) for name, attack in ATTACKS.items() if name in ("pgd", "exact")
    }
    cells = made_cells(defences=made, attacks=attacks, eps=(0.3,), num_samples=40)
    inputs = inputs_of(cells, records={}, defences={**CONFIG["defences"], **replicas}, paths=None)
    results = results_of(inputs)
    assert results["seeds"].keys() == {"cnn", "cnn+malade"}
    found = results["seeds"]["cnn+malade"]["worst"]
    worst = {name: results["defences"][name]["worst"]["linf 0.3"]["honest"]["mean"]["value"] for name in made}
    assert found["values"] == {name: worst[name] for name in ("cnn+malade", "cnn-1+malade")}
    one, other = found["values"].values()
    assert other > one + 0.05, "planned so"
    assert found["mean"] == pytest.approx((one + other) / 2)
    assert found["deviation"] == pytest.approx((other - one) / 2**0.5)
    clean = results["cells"]["cnn-1/clean/0"]["mean"]["value"]
    assert results["seeds"]["cnn"]["clean"]["values"]["cnn-1"] == clean

    text = text_of(inputs)
    row = f"| CNN+MALADE | worst case | {100 * one:.1f} | {100 * other:.1f} | {50 * (one + other):.1f} ± "
    assert row in text.partition("### Several trainings\n")[2]
    compared = text.partition("### Two defences on the same images\n")[2].partition("\n##")[0]
    assert "Again less Again+malade" in compared
    assert "CNN less Madry" in compared
    assert "CNN less Again" not in compared
    assert "Several trainings" not in text_of(inputs_of(cells[:6], records={}))


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (8 / 255, "8/255"),
        (0.25 / 255, "0.25/255"),
        (1 / 255, "1/255"),
        (51 / 255, "0.2"),
        (0.3, "0.3"),
        (0.0625, "0.0625"),
        (0.123456, "0.123456"),
        (4.0, "4"),
    ],
)
def test_sizes_as_they_were_meant(eps: float, text: str) -> None:
    assert threat_label("linf", eps) == f"L-infinity {text}"


def test_classes_have_names() -> None:
    results = {"defences": {}, "cells": {}}
    config = {"data": {"class_names": ["cat", "dog", "Yorkshire terrier"]}}
    names = [Labels(config, results).class_name(number) for number in range(4)]
    assert names == ["cat", "dog", "Yorkshire t…", "3"]
    assert Labels({}, results).class_name(7) == "7"
