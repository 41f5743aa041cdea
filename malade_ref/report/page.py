"""One page about several bundles: their tables and figures in order, and what their audits say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from malade_ref.bundle import Bundle
from malade_ref.bundle.layout import FIGURES, RESULTS
from malade_ref.report.background import model_table, provenance, settings_table
from malade_ref.report.exhibits import exhibit_sections
from malade_ref.report.labels import Labels, table
from malade_ref.report.markdown import deep, inert, named, said
from malade_ref.report.pictures import plate_text
from malade_ref.report.reading import read_bundle
from malade_ref.report.verdict import verdict
from malade_ref.storage import load_json

PAGE = "report.md"
UNEXPLAINED = "*not explained yet*"


class _Part(NamedTuple):
    """What the page needs of one bundle; titles are inert."""

    name: str
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    environment: Mapping[str, Any]
    labels: Labels
    figures: list[str]


def page_text(
    bundles: Mapping[str, Bundle],
    *,
    title: str,
    note: str,
    first: Sequence[str] = (),
    why: Mapping[tuple[str, str], str] | None = None,
) -> str:
    """Write the page.

    Parameters
    ----------
    bundles : mapping of str to Bundle
        Of experiments, finished, by the names of their folders beside the page.
    title, note : str
        What stands at its top.
    first : sequence of str
        Lines before the tables and figures of the experiments.
    why : mapping, optional
        By names of an experiment and a check of its audit: what is said of the check if it failed.

    Returns
    -------
    str
        Markdown.
    """
    parts = [_part(name, bundle) for name, bundle in bundles.items()]
    main = parts[0]
    lines = [f"# {title}", "", f"> {note}", ""] if note else [f"# {title}", ""]
    lines += ["## In short", ""]
    for paragraph in verdict(main.results, main.labels):
        lines += [paragraph, ""]
    lines += first
    for part in parts:
        sections = exhibit_sections(part.results, part.labels, part.figures)
        sections += plate_text(part.results, part.config, part.labels, part.figures)
        # Headings are one level up, and files one folder down.
        sections = [line.replace("](figures/", f"]({part.name}/figures/") for line in sections]
        lines += [line.removeprefix("#") if line.startswith("### ") else line for line in sections]
        said_first = part.config.get("note") or ""
        lines += [f"*{part.name}*: {said_first} All of it: [{part.name}/report.md]({part.name}/report.md).", ""]
    rows = [
        [
            part.name,
            finding["name"],
            inert(finding["message"]),
            (why or {}).get((part.name, finding["name"]), UNEXPLAINED),
        ]
        for part in parts
        for finding in part.results["audit"]
        if finding["status"] == "warning"
    ]
    lines += ["## Checks of the audit that failed", ""]
    text = (
        "A failed check is a warning about the attacks: the accuracies above are then too high rather than too low."
        if rows
        else "None failed."
    )
    lines += [text, "", *(table(["experiment", "check", "numbers", "why"], rows) if rows else [])]
    lines += ["## Networks", "", *model_table(main.results, main.config, main.labels)]
    lines += ["## Settings of the chains", "", *settings_table(main.results, main.labels)]
    lines += ["## Provenance", ""]
    for part in parts:
        commit = (part.environment.get("environment") or {}).get("commit")
        lines += [f"**{part.name}**" + (f", commit {inert(commit[:12])}" if commit else ""), ""]
        lines += provenance(part.config, part.environment)
    return "\n".join(lines).rstrip() + "\n"


def _part(name: str, bundle: Bundle) -> _Part:
    inputs = read_bundle(bundle)
    results = load_json(bundle.path / RESULTS)
    config, results = named(inputs.config, inert), said(results)
    figures = sorted(f"{FIGURES}/{path.name}" for path in (bundle.path / FIGURES).glob("*.png"))
    return _Part(name, config, results, deep(inputs.environment, inert), Labels(config, results), figures)
