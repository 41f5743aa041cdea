"""results.json follows its published schema, and croissant.json says what the data of a bundle are."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref.bundle import Bundle
from malade_ref.bundle.manifest import read_manifest, write_manifest
from malade_ref.bundle.record import keep_record
from malade_ref.report import check_report, write_report
from malade_ref.report.croissant import _FIELDS
from malade_ref.report.results import SCHEMA_NAME
from malade_ref.storage import file_sha256
from malade_ref.theorem.report import results_of as theorem_results_of
from tests.outcomes import made_cells, write_bundle

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
RECORDED = sorted((Path(__file__).parents[2] / "bench" / "results").glob("*/results.json"))


def schema_of(package: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(resources.files(package).joinpath("results.schema.json").read_text())
    return found


def complaints(results: Any) -> list[str]:
    """What the schema of a kind of results says against some."""
    schema = schema_of("malade_ref.theorem" if "claims" in results else "malade_ref.report")
    jsonschema.Draft202012Validator.check_schema(schema)
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(results)]


def finished(folder: Path) -> Path:
    """A bundle with a report, without figures; the images that an attack made are in its outcomes, too."""
    cells = made_cells(num_samples=30)
    for cell in cells[1:2]:
        count = len(cell.sample_index)
        cell.arrays["x_adv"] = np.random.default_rng(0).random((count, 1, 28, 28))  # type: ignore[index]
    with write_bundle(folder, cells) as bundle:
        write_report(bundle, figures=False)
        bundle.finish()
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("bundles") / "made")


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# The schema ----------------------------------------------------------------------------------------------------------


def test_results_follow_the_schema(bundle: Path) -> None:
    results = read(bundle / "results.json")
    assert results["schema"] == SCHEMA_NAME == schema_of("malade_ref.report")["$id"]
    assert complaints(results) == []
    assert theorem_results_of({})["schema"] == schema_of("malade_ref.theorem")["$id"]
    assert complaints(theorem_results_of({})) == []


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_results_of_earlier_versions_follow_it_too(path: Path) -> None:
    assert complaints(read(path)) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda found: found.pop("cells"), "'cells' is a required property"),
        (lambda found: found.update(more=1), "'more' was unexpected"),
        (lambda found: found.update(schema="malade-results-2"), "'malade-results-1' was expected"),
        (lambda found: next(iter(found["cells"].values()))["mean"].update(value=1.2), "1.2 is greater than"),
        (lambda found: next(iter(found["cells"].values())).pop("n"), "'n' is a required property"),
        (lambda found: next(iter(found["defences"].values())).update(stochastic=1), "1 is not of type 'boolean'"),
        (lambda found: found["audit"][0].update(status="fine"), "'fine' is not one of"),
    ],
)
def test_the_schema_can_fail(bundle: Path, change: Callable[[dict[str, Any]], None], complaint: str) -> None:
    results = copy.deepcopy(read(bundle / "results.json"))
    change(results)
    assert any(complaint in found for found in complaints(results))


# Croissant -----------------------------------------------------------------------------------------------------------


def value_at(cell: dict[str, Any], path: str) -> Any:
    for key in path.split("."):
        cell = cell[key]
    return cell


def test_croissant_says_what_there_is(bundle: Path, tmp_path: Path) -> None:
    found = read(bundle / "croissant.json")
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    for file in found["distribution"]:
        assert file["sha256"] == file_sha256(bundle / file["contentUrl"])
    cells = read(bundle / "results.json")["cells"].values()
    (records,) = found["recordSet"]
    kinds = {"sc:Text": str, "sc:Float": float, "sc:Integer": int}
    assert [field["name"] for field in records["field"]] == list(_FIELDS)
    for field in records["field"]:
        path = field["source"]["extract"]["jsonPath"].removeprefix("$.cells.*.")
        assert {type(value_at(cell, path)) for cell in cells} <= {kinds[field["dataType"]], int}
    assert finished(tmp_path / "again").joinpath("croissant.json").read_text() == json_text(bundle)
    assert check_report(bundle) == []
    assert Bundle.open(bundle).verify() == []


def json_text(bundle: Path) -> str:
    return (bundle / "croissant.json").read_text()


def test_the_loader_of_that_format_reads_it(bundle: Path) -> None:
    loader = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    dataset = loader.Dataset(bundle / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    cells = read(bundle / "results.json")["cells"]
    rows = list(dataset.records("cells"))
    assert len(rows) == len(cells)
    assert {row["cells/accuracy"] for row in rows} == {cell["mean"]["value"] for cell in cells.values()}


def test_changes_are_noticed_and_earlier_bundles_verify(bundle: Path, tmp_path: Path) -> None:
    path = finished(tmp_path / "old")
    described = read(path / "croissant.json")
    described["version"] = "0"
    (path / "croissant.json").write_text(json.dumps(described))
    assert "croissant.json: version is" in check_report(path)[0]
    (path / "croissant.json").write_text("{")
    assert "croissant.json: not valid JSON" in check_report(path)[0]
    # As a version before the schema and this file left it.
    (path / "croissant.json").unlink()
    results = read(path / "results.json")
    del results["schema"]
    (path / "results.json").write_text(json.dumps(results))
    manifest = read_manifest(path)
    del manifest["croissant.json"]
    write_manifest(path, {**manifest, "results.json": file_sha256(path / "results.json")})
    assert check_report(path) == []
    assert Bundle.open(path).verify() == []
    write_report(path, figures=False)
    assert read(path / "results.json")["schema"] == SCHEMA_NAME
    assert Bundle.open(path).verify() == []


def test_a_record_describes_the_outcomes_that_it_has(bundle: Path, tmp_path: Path) -> None:
    assert keep_record(bundle, tmp_path / "record")
    found = read(tmp_path / "record" / "croissant.json")
    assert [file["sha256"] for file in found["distribution"]] == [
        file_sha256(tmp_path / "record" / name) for name in ("results.json", "outcomes.h5")
    ]
    assert found["distribution"] != read(bundle / "croissant.json")["distribution"]
    assert Bundle.open(tmp_path / "record").verify() == []
    assert check_report(tmp_path / "record") == []
