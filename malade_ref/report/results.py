"""results.json: every figure of a report that was measured.

Its keys are described by a JSON schema, ``results.schema.json`` in this folder, by whose name (``$id``) the file calls
itself under ``schema``. A key that changes its meaning gives the schema another number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from malade_ref.audit import audit
from malade_ref.checks import InputError
from malade_ref.evaluation import Cell, derive_results, join, summary
from malade_ref.report.certified import certified_results
from malade_ref.report.exhibits import exhibit_results
from malade_ref.report.pictures import plate_results
from malade_ref.report.reading import SEARCH, ReportInput
from malade_ref.report.seeds import seed_results
from malade_ref.statistics import wilson
from malade_ref.storage import Record, to_json

SCHEMA, SCHEMA_NAME = "schema", "malade-results-1"
GRID = ("num_steps", "a", "delta", "clean", "attacked")


def results_of(inputs: ReportInput) -> dict[str, Any]:
    """Derive all results.

    Parameters
    ----------
    inputs : ReportInput
        What a bundle holds.

    Returns
    -------
    dict
        JSON-able: ``schema``, that of `malade_ref.evaluation.derive_results`, and ``audit``, ``convergence``,
        ``models``, ``settings``, ``search``, ``certified`` if anything was, ``plates`` if there are, ``seeds`` if
        there are replicas, and what `exhibit_results` gives.
    """
    records = inputs.records
    checks = records["audit"].meta if "audit" in records else None
    statistics = derive_results(inputs.cells, inputs.config)
    try:
        return {
            SCHEMA: SCHEMA_NAME,
            **statistics,
            "convergence": {key: convergence(inputs.cells, key) for key in ("num_steps", "num_draws")},
            "audit": [finding._asdict() for finding in audit(inputs.cells, checks)],
            "models": {name: _model(quality) for name, quality in _meta(records, "quality").items()},
            "settings": {name: _chain(settings) for name, settings in _meta(records, "settings").items()},
            "search": {
                name.removeprefix(f"{SEARCH}/"): _search(record)
                for name, record in records.items()
                if name.startswith(f"{SEARCH}/")
            },
            **certified_results(records, inputs.config),
            **plate_results(records),
            **seed_results(statistics, inputs.config),
            **exhibit_results(inputs.cells, inputs.config, statistics),
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"records of the bundle: incomplete ({error!r}); run the experiment again") from error


def convergence(cells: Sequence[Cell], key: str) -> list[dict[str, Any]]:
    """Accuracy against the attacker's effort: attacks that differ in one setting only, on the images all were given.

    Parameters
    ----------
    cells : sequence of Cell
        All outcomes.
    key : str
        The setting, such as ``"num_steps"``.

    Returns
    -------
    list of dict
        For each ladder of three or more: ``defence``, ``method``, ``threat``, ``source``, ``n`` and ``points``, each
        with the setting's ``value`` and the ``mean`` of being right.
    """
    groups: dict[tuple[Any, ...], dict[float, Cell]] = {}
    for cell in cells:
        if key in cell.settings and not cell.nearest:
            others = to_json("settings", {name: value for name, value in cell.settings.items() if name != key})
            group = groups.setdefault((cell.defence, cell.method, cell.threat, cell.transferred, others), {})
            group[float(cell.settings[key])] = cell
    found = []
    for (defence, method, threat, transferred, _), group in sorted(groups.items()):
        if len(group) > 2:
            sample_index, outcomes = join([group[value] for value in sorted(group)])
            points = [
                {"value": value, "mean": summary(correct)["mean"]}
                for value, correct in zip(sorted(group), outcomes, strict=True)
            ]
            source = "classifier" if transferred else "defence"
            facts = {"defence": defence, "method": method, "threat": threat, "source": source, "n": len(sample_index)}
            found.append({**facts, "points": points})
    return found


def _meta(records: Mapping[str, Record], name: str) -> Mapping[str, Any]:
    return records[name].meta if name in records else {}


def _model(quality: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(quality)
    if "accuracy" in quality:
        count, total = round(quality["accuracy"] * quality["num_images"]), quality["num_images"]
        found["accuracy"] = wilson(count, total)._asdict()
    return found


def _chain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a chain in the paper's terms too: alpha = a sigma^2, T = delta^2 / (2 alpha)."""
    alpha = settings["a"] * settings["sigma2"]
    return {**settings, "alpha": alpha, "temperature": settings["delta"] ** 2 / (2 * alpha)}


def _search(record: Record) -> dict[str, Any]:
    names = [*GRID, "images"] if "images" in record.arrays else GRID
    columns = [record.arrays[name].tolist() for name in names]
    grid = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    for row in grid:
        if not row.get("images", True):
            row["attacked"] = None
    return {**record.meta, "grid": grid}
