"""An experiment's ``[[tables]]`` and ``[[figures]]``, filled in: ours, with intervals, beside the paper's numbers."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from malade_ref.checks import printable
from malade_ref.evaluation import CLEAN, Cell, cut_cells, summary, worst_outcomes
from malade_ref.figures import Curve, Line, line_figure
from malade_ref.report.charts import Chart, joined_by
from malade_ref.report.labels import EPS, NONE, WORST, Labels, percent, table
from malade_ref.report.markdown import deep

PUBLISHED = Path(__file__).parent / "paper.csv"
# What the paper's columns are called here.
COLUMNS = {
    "cnn": "cnn",
    "cnn+malade": "cnn+malade",
    "madry": "baseline",
    "madry+malade": "baseline+malade",
    "alp": "baseline",
    "alp+malade": "baseline+malade",
}
WORST_ROW = "worst case"

Result = Mapping[str, Any]
Key = tuple[int, str, str, str]


@cache
def published() -> dict[Key, dict[str, float]]:
    """Numbers of the paper's tables.

    Returns
    -------
    dict
        By number of the table, scenario, condition and attack: percent by column.
    """
    with PUBLISHED.open(newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            (int(row["table"]), row["scenario"], row["condition"], row["attack"]): {
                name: float(row[name]) for name in set(COLUMNS.values()) if row[name]
            }
            for row in rows
        }


def exhibit_results(cells: Sequence[Cell], config: Mapping[str, Any], statistics: Result) -> dict[str, Any]:
    """Every number of an experiment's tables and figures.

    Parameters
    ----------
    cells : sequence of Cell
        All outcomes.
    config : mapping
        The experiment.
    statistics : mapping
        From `malade_ref.evaluation.derive_results`.

    Returns
    -------
    dict
        ``tables`` and ``figures`` by name, as far as there are any.
    """
    known = {"tables": config.get("tables") or [], "figures": config.get("figures") or []}
    if not any(known.values()):
        return {}
    known = deep(known, printable)
    everything = [*cells, *cut_cells(cells)]
    tables = {one["name"]: _Table(one, everything, config).results() for one in known["tables"]}
    figures = {one["name"]: _figure(one, cells, statistics) for one in known["figures"]}
    return {key: found for key, found in (("tables", tables), ("figures", figures)) if found}


class _Table:
    """One table being filled in."""

    def __init__(self, spec: Mapping[str, Any], cells: Sequence[Cell], config: Mapping[str, Any]) -> None:
        self.spec, self.cells = spec, cells
        self.titles = {attack["name"]: attack.get("title") or attack["name"] for attack in config.get("attacks") or []}

    def results(self) -> dict[str, Any]:
        clean = {name: self.find(name, CLEAN, None) for name in self.spec["columns"]}
        head = {"title": "clean images", "kind": CLEAN, "cells": {name: _share(cell) for name, cell in clean.items()}}
        blocks = [{"title": "", "rows": [head]}]
        blocks += [{"title": block["title"], "rows": self.rows(block, clean)} for block in self.spec["blocks"]]
        facts = {key: self.spec.get(key) for key in ("title", "paper", "columns", "note")}
        return {**facts, "blocks": blocks}

    def rows(self, block: Mapping[str, Any], clean: Mapping[str, Cell | None]) -> list[dict[str, Any]]:
        """Rows of a block: the paper's, its worst case, those of attacks that it lacks, the worst case of all."""
        columns, eps = self.spec["columns"], block.get("eps")
        rows: list[dict[str, Any]] = []
        by_paper: dict[str, list[Cell]] = {}
        by_all: dict[str, list[Cell]] = {}
        for row in block["rows"]:
            found = {name: self.find(name, row["attack"], eps) for name in columns}
            paper = self.paper(
                row["scenario"] or block["scenario"], row["condition"] or block["condition"], row["paper"]
            )
            for name, cell in found.items():
                if cell is not None:
                    by_all.setdefault(name, []).append(cell)
                    if row["paper"] and (cell.transferred or block["worst"] != "transferred"):
                        by_paper.setdefault(name, []).append(cell)
            title = row["title"] or row["paper"] or self.titles.get(row["attack"], row["attack"])
            rows.append({"title": title, "kind": "paper", "cells": self.cells_of(found, paper)})
        if block["worst"] != "none" and sum(bool(row["paper"]) for row in block["rows"]) > 1:
            paper = self.paper("" if block["worst"] == "transferred" else block["scenario"], *self.worst_of(block))
            smallest = {
                name: min(by_paper[name], key=lambda cell: float(cell.correct[:, 0].mean()))
                if name in by_paper
                else None
                for name in columns
            }
            rows.append({"title": WORST_ROW, "kind": WORST, "cells": self.cells_of(smallest, paper)})
        for attack in block["own"]:
            found = {name: self.find(name, attack, eps) for name in columns}
            for name, cell in found.items():
                if cell is not None:
                    by_all.setdefault(name, []).append(cell)
            rows.append({"title": self.titles.get(attack, attack), "kind": "own", "cells": self.cells_of(found, {})})
        each: dict[str, Any] = {}
        for name in columns:
            own = [*by_all.get(name, ()), *([clean[name]] if clean[name] is not None else [])]
            correct = worst_outcomes(own).correct if name in by_all else None
            each[name] = {**summary(correct)["mean"], "n": len(correct)} if correct is not None else None
        rows.append({"title": "worst attack for each image", "kind": "each", "cells": each})
        return rows

    def worst_of(self, block: Mapping[str, Any]) -> tuple[str, str]:
        """Condition and attack of the paper's own worst case; its black-box one has no condition."""
        for condition in (block["condition"], ""):
            if (self.spec.get("paper"), block["scenario"], condition, WORST_ROW) in published():
                return condition, WORST_ROW
        return block["condition"], WORST_ROW

    def paper(self, scenario: str, condition: str, attack: str) -> Mapping[str, float]:
        return published().get((self.spec.get("paper") or 0, scenario, condition, attack), {})

    def find(self, defence: str, attack: str, eps: float | None) -> Cell | None:
        """The cell of a defence and an attack; without a size the one that is no cut at a distance."""
        own = [cell for cell in self.cells if (cell.defence, cell.attack) == (defence, attack)]
        if attack == CLEAN:
            return own[0] if own else None
        if eps is not None:
            of_size = [cell for cell in own if cell.eps == eps and not cell.nearest]
            if of_size:
                return of_size[0]
        whole = [cell for cell in own if cell.nearest] or (own if eps is None else [])
        return whole[0] if len(whole) == 1 else None

    def cells_of(self, found: Mapping[str, Cell | None], paper: Mapping[str, float]) -> dict[str, Any]:
        """Ours and the paper's, by defence; nothing where neither is."""
        cells = {}
        for name, cell in found.items():
            ours, theirs = _share(cell), paper.get(COLUMNS.get(name, ""))
            cells[name] = {**(ours or {}), **({"paper": theirs} if theirs is not None else {})} or None
        return cells


def _share(cell: Cell | None) -> dict[str, Any] | None:
    """The paper's reading of a cell: the share that is right in one draw."""
    if cell is None:
        return None
    found = summary(cell.correct)
    return {**found["first_draw"], "n": found["n"], "own": not cell.transferred, "attack": cell.attack}


def _figure(spec: Mapping[str, Any], cells: Sequence[Cell], statistics: Result) -> dict[str, Any]:
    lines = []
    for line in spec["lines"]:
        points: list[tuple[float, Any, int]] = []
        if line["attack"] == WORST:
            for threat, worst in statistics["defences"].get(line["defence"], {"worst": {}})["worst"].items():
                norm, _, eps = threat.rpartition(" ")
                if norm == spec["norm"]:
                    points.append((float(eps), worst["honest"]["mean"], worst["honest"]["n"]))
        for cell in cells:
            if cell.defence == line["defence"] and line["attack"] in (cell.attack, cell.meta.get("family")):
                found = summary(cell.correct)
                x = cell.eps if spec["x"] == EPS else float(cell.settings[spec["x"]])
                points.append((x, found["mean"], found["n"]))
        if spec["x"] == EPS and not spec["log"]:
            for cell in cells:
                if (cell.defence, cell.attack) == (line["defence"], CLEAN):
                    found = summary(cell.correct)
                    points.append((0.0, found["mean"], found["n"]))
        facts = {"defence": line["defence"], "attack": line["attack"], "title": line["title"]}
        points.sort(key=lambda point: point[0])
        lines.append({**facts, "points": [{"x": x, "mean": mean, "n": size} for x, mean, size in points]})
    facts = {key: spec[key] for key in ("title", "x", "log", "xlabel", "note")}
    return {**facts, "lines": lines}


def exhibit_sections(results: Result, labels: Labels, figures: Sequence[str]) -> list[str]:
    """The tables and figures of an experiment, as lines of a page.

    Parameters
    ----------
    results : mapping
        With what `exhibit_results` found.
    labels : Labels
        Names.
    figures : sequence of str
        Names of the figures' files.
    """
    lines = []
    for found in results.get("tables", {}).values():
        lines += [f"### {found['title']}", "", *_table_lines(found, labels)]
    for name, found in results.get("figures", {}).items():
        file = f"figures/{name}.png"
        if file in figures:
            sizes = sorted({point["n"] for line in found["lines"] for point in line["points"]})
            count = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}" if sizes else "0"
            text = f"Accuracy on {count} test images, mean over draws, with 95% intervals. {found['note']}".strip()
            lines += [f"### {found['title']}", "", f"![{found['title']}]({file})", "", text, ""]
    return lines


def _table_lines(found: Result, labels: Labels) -> list[str]:
    sizes = [
        cell["n"]
        for block in found["blocks"]
        for row in block["rows"]
        for cell in row["cells"].values()
        if cell and "n" in cell
    ]
    usual = max(sizes, key=lambda size: (sizes.count(size), size))
    quoted = any(
        cell and "paper" in cell for block in found["blocks"] for row in block["rows"] for cell in row["cells"].values()
    )
    rows = []
    for block in found["blocks"]:
        if block["title"]:
            rows.append([f"**{block['title']}**", *([""] * len(found["columns"]))])
        for row in block["rows"]:
            mark = {"own": "*{}*", WORST: "**{}**", "each": "**{}**"}.get(row["kind"], "{}")
            rows.append(
                [mark.format(row["title"]), *(_cell(row["cells"].get(name), usual) for name in found["columns"])]
            )
    head = ["attack", *(labels.defences.get(name, name) for name in found["columns"])]
    small = "Small: the paper's number. " if quoted else ""
    text = (
        f"Percent of {usual:,} test images that are classified rightly in one draw of each defence, with 95% intervals "
        f"(Wilson); n where it was another. {small}In italics: attacks that the paper does not have. The worst case is "
        "the smallest of the paper's rows, as the paper reads it; the worst attack for each image is taken over all "
        "rows of the block and the clean image, and is a mean over draws that no attack saw."
    )
    return [text, "", *([found["note"], ""] if found["note"] else []), *table(head, rows)]


def _cell(cell: Result | None, usual: int) -> str:
    if not cell:
        return NONE
    ours = NONE
    if "value" in cell:
        ours = percent(cell, "") + (f" (n = {cell['n']})" if cell["n"] != usual else "")
    return ours + (f"<br><sub>{cell['paper']:.2f}</sub>" if "paper" in cell else "")


def draw_exhibits(results: Result, labels: Labels) -> dict[str, bytes]:
    """Draw the figures of an experiment.

    Parameters
    ----------
    results : mapping
        With what `exhibit_results` found.
    labels : Labels
        Names.

    Returns
    -------
    dict of str to bytes
        PNG files by their names in the bundle.
    """
    files = {}
    for name, found in results.get("figures", {}).items():
        lines = _lines(found, results, labels)
        if lines:
            files[f"figures/{name}.png"] = line_figure(
                lines, title=found["title"], xlabel=_xlabel(found), from_zero=not found["log"]
            )
    return files


def exhibit_charts(results: Result, labels: Labels) -> dict[str, Chart]:
    """Gather the same figures as data.

    Parameters
    ----------
    results, labels
        As in `draw_exhibits`.

    Returns
    -------
    dict of str to Chart
        By the names of the files.
    """
    charts = {}
    for name, found in results.get("figures", {}).items():
        lines = _lines(found, results, labels)
        curves = [Curve(line.label, line.x, line.value, line.low, line.high, line.worst, line.joined) for line in lines]
        if curves:
            charts[f"figures/{name}.png"] = Chart({"": curves}, _xlabel(found), from_zero=not found["log"])
    return charts


def _xlabel(found: Result) -> str:
    return str(found["xlabel"] or (f"log10 {found['x']}" if found["log"] else found["x"]))


def _lines(found: Result, results: Result, labels: Labels) -> list[Line]:
    lines = []
    for line in found["lines"]:
        worst = line["attack"] == WORST
        defence = labels.defences.get(line["defence"], line["defence"])
        attack = "worst attack for each image" if worst else labels.attacks.get(line["attack"], line["attack"])
        title = line["title"] or f"{defence}, {attack}"
        points = [point for point in line["points"] if not found["log"] or point["x"] > 0]
        if points:
            x = [math.log10(point["x"]) if found["log"] else point["x"] for point in points]
            value, low, high = ([point["mean"][key] for point in points] for key in ("value", "low", "high"))
            joined = _joined(results["defences"].get(line["defence"], {}), points) if worst else None
            lines.append(Line(title, line["defence"], x, value, low, high, worst, joined))
    return lines


def _joined(defence: Result, points: Sequence[Result]) -> list[list[int]]:
    """Which points of a worst case a line joins: those that the same attacks were made at."""
    attacks: list[object] = []
    for number, point in enumerate(points):
        same = [
            frozenset(worst["attacks"])
            for threat, worst in defence.get("worst", {}).items()
            if float(threat.rpartition(" ")[2]) == point["x"] and worst["honest"]["mean"] == point["mean"]
        ]
        attacks.append(None if point["x"] == 0 else same[0] if same else number)
    return joined_by(attacks)
