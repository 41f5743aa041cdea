"""Defences side by side: what each keeps, under how many attacks, and what the audit says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from malade_ref.bundle import Bundle
from malade_ref.checks import printable
from malade_ref.report.labels import NONE, Labels, percent, threat_label
from malade_ref.report.markdown import named
from malade_ref.report.reading import read_bundle
from malade_ref.report.results import results_of

Result = Mapping[str, Any]


def standing(results: Result, labels: Labels) -> list[dict[str, Any]]:
    """Gather where each defence stands under the main threat.

    Parameters
    ----------
    results : mapping
        From `malade_ref.report.results.results_of`.
    labels : Labels
        Names.

    Returns
    -------
    list of dict
        For each defence ``name`` and ``title``; ``clean``, ``ignorant`` (an attacker who knows the bare classifier
        only) and ``worst`` (for each image), shares with intervals, or None; ``n`` images, ``attacks``, ``draws`` of
        its noise, and ``gradients``: the most that one attack spent on an image.
    """
    threat, rows = results["main"]["threat"], []
    for name, defence in results["defences"].items():
        worst = defence["worst"].get(threat)
        own = [cell for cell in results["cells"].values() if (cell["defence"], cell["threat"]) == (name, threat)]
        # On the images that all attacks were given, as the worst case.
        transferred = [worst["attacks"][cell["attack"]] for cell in own if worst and cell["kind"] == "transfer"]
        clean = results["cells"].get(defence["clean"])
        honest = worst["honest"] if worst else None
        rows.append(
            {
                "name": name,
                "title": labels.defences[name],
                "clean": clean and clean["mean"],
                "ignorant": min(transferred, key=lambda share: share["value"]) if transferred else None,
                "worst": honest and honest["mean"],
                "n": honest["n"] if honest else clean["n"] if clean else 0,
                "attacks": len(worst["attacks"]) if worst else 0,
                "draws": honest["draws"] if honest else clean["draws"] if clean else 1,
                "gradients": max((cell.get("num_gradients", 0) for cell in own), default=0),
            }
        )
    return rows


def glance(results: Result, labels: Labels) -> dict[str, Any]:
    """Gather the small table below a verdict.

    Parameters
    ----------
    results, labels
        As in `standing`.

    Returns
    -------
    dict
        ``threat`` and ``rows``, see `standing`; shares are triples in percent.
    """
    main = results["main"]
    rows = [
        {**row, **{key: _triple(row[key]) for key in ("clean", "ignorant", "worst")}}
        for row in standing(results, labels)
    ]
    warnings = sum(finding["status"] == "warning" for finding in results["audit"])
    threat = threat_label(main["norm"], main["eps"]) if main["norm"] else ""
    return {"threat": threat, "rows": rows, "warnings": warnings}


def _triple(share: Mapping[str, float] | None) -> tuple[float, float, float] | None:
    return None if share is None else tuple(round(100 * share[key], 1) for key in ("value", "low", "high"))  # type: ignore[return-value]


def board_rows(bundle: Bundle, name: str, link: str) -> list[dict[str, Any]]:
    """Gather the rows of a bundle on a board; what they say is derived from its outcomes.

    Parameters
    ----------
    bundle : Bundle
        Of an experiment, finished.
    name : str
        What to call it.
    link : str
        Address of its report, seen from the board.

    Returns
    -------
    list of dict
        As `standing`, and ``bundle``, ``link``, ``data``, ``threat``, and ``audit``: how many checks failed, and how
        many could not be run.
    """
    inputs = read_bundle(bundle)
    results = results_of(inputs)
    labels = Labels(named(inputs.config, printable), results)
    main, statuses = results["main"], [finding["status"] for finding in results["audit"]]
    facts = {
        "bundle": printable(name),
        "link": link,
        "data": printable(str((inputs.config.get("data") or {}).get("name", "unknown"))),
        "threat": threat_label(main["norm"], main["eps"]) if main["norm"] else "no attack",
        "audit": (statuses.count("warning"), statuses.count("not run")),
    }
    return [{**row, **facts} for row in standing(results, labels)]


def ordered(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put rows in order: threat by threat, what keeps most in the worst case first, what nobody attacked last.

    Parameters
    ----------
    rows : sequence of mapping
        From `board_rows`.
    """
    return sorted(
        rows,
        key=lambda row: (
            row["data"],
            row["threat"],
            row["worst"] is None,
            -(row["worst"] or {"value": 0.0})["value"],
            row["title"],
        ),
    )


HEAD = (
    "classifier",
    "bundle",
    "clean images",
    "attacker ignores the defence",
    "worst attack for each image",
    "audit",
    "threat",
    "data",
    "images",
    "attacks",
    "most gradients",
    "draws",
)


def board_cells(row: Mapping[str, Any]) -> list[str]:
    """Write a row of a board.

    Parameters
    ----------
    row : mapping
        From `board_rows`.

    Returns
    -------
    list of str
        One for each of `HEAD`.
    """
    shares = [NONE if row[key] is None else percent(row[key], "") for key in ("clean", "ignorant", "worst")]
    counts = [f"{row[key]:,.0f}" for key in ("n", "attacks", "gradients", "draws")]
    return [row["title"], row["bundle"], *shares, audit_text(*row["audit"]), row["threat"], row["data"], *counts]


def audit_text(failed: int, missing: int) -> str:
    """Say in a few words how an audit ended.

    Parameters
    ----------
    failed, missing : int
        Checks that failed, and that could not be run.
    """
    text = f"{failed} failed" if failed else "none failed"
    return f"{text}, {missing} not run" if missing else text


def board_content(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gather what the template of a board shows.

    Parameters
    ----------
    rows : sequence of mapping
        From `ordered`.
    """
    shown = []
    for row in rows:
        cells: list[dict[str, Any]] = [{"text": text, "share": None, "key": None} for text in board_cells(row)]
        for place, key in zip((2, 3, 4), ("clean", "ignorant", "worst"), strict=True):
            share = _triple(row[key])
            cells[place] |= {"share": share, "key": share and share[0]}
        for place, key in zip((8, 9, 10, 11), ("n", "attacks", "gradients", "draws"), strict=True):
            cells[place]["key"] = row[key]
        shown.append({"cells": cells, "link": row["link"], "failed": row["audit"][0] > 0})
    return {"title": "Defences side by side", "head": HEAD, "rows": shown}
