"""report.md: verdict, accuracies, audit, and where they come from.

Everything measured is taken from results.json, everything chosen from config.json. Neither dates nor durations are
told, so that equal runs have equal reports; those are in environment.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from malade_ref.report.accuracy import (
    accuracy_tables,
    comparison_table,
    compute_table,
    draws_table,
    eps_table,
    nearest_table,
    size_tables,
)
from malade_ref.report.background import model_table, provenance, search_tables, settings_table
from malade_ref.report.certified import certified_tables
from malade_ref.report.exhibits import exhibit_sections
from malade_ref.report.labels import NORMS, Labels, count_of, size_text, spelled_out, table, threat_label
from malade_ref.report.markdown import deep, inert, named, said
from malade_ref.report.pictures import plate_text
from malade_ref.report.searching import FRONTS
from malade_ref.report.seeds import seed_table
from malade_ref.report.verdict import verdict

MARKS = {"ok": "ok", "warning": "**WARNING**", "not run": "not run"}
ACCURACY = "figures/accuracy-"
PATHS = "figures/path-"
PICTURES = "figures/pictures-"


def report_text(
    results: Mapping[str, Any], config: Mapping[str, Any], environment: Mapping[str, Any], figures: Sequence[str]
) -> str:
    """Write a report.

    Parameters
    ----------
    results : mapping
        From `malade_ref.report.results.results_of`.
    config : mapping
        The experiment.
    environment : mapping
        ``environment`` (versions) and ``warnings``.
    figures : sequence of str
        Names of the figures' files.
    """
    # What others wrote becomes text here, once; below it is taken as it is.
    config, results, environment = named(config, inert), said(results), deep(environment, inert)
    labels = Labels(config, results)
    lines = [f"# {config.get('title') or config.get('name') or 'Report'}", ""]
    for paragraph in verdict(results, labels):
        lines += [paragraph, ""]
    lines += _notes(config, labels)
    lines += _section("## As in the paper", exhibit_sections(results, labels, figures))
    lines += ["## Accuracy", "", *accuracy_tables(results, config, labels), *_dots(results, figures)]
    lines += _section("### Several draws", draws_table(results, labels))
    lines += _section("### Two defences on the same images", comparison_table(results, labels))
    lines += _section("### Several trainings", seed_table(results, labels))
    lines += _section("## Accuracy against eps", [*_accuracy_figures(results, figures), *eps_table(results, labels)])
    lines += _section("### Every attack at every size", size_tables(results, config, labels))
    lines += _section("### Nearest wrong images", nearest_table(results, labels))
    lines += _section("## Accuracy against the attacker's effort", _convergence(figures))
    certified_figure = _figure(
        "figures/certified.png",
        "Certified accuracy against the radius: test images that are classified rightly whatever a perturbation of "
        "that L2 norm does, with 95% intervals over images.",
        figures,
    )
    certified = certified_tables(results)
    lines += _section("## Certified radii", [*certified, *certified_figure] if certified else [])
    lines += _section("## Audit", _audit(results, labels))
    lines += _section("## Settings of the defences", settings_table(results, labels))
    lines += _section("### Search", [*search_tables(results, labels), *_fronts(figures)])
    training_figure = _figure(
        "figures/training.png", "Training: losses by epoch, and what the last epoch reached.", figures
    )
    lines += _section("## Models", [*model_table(results, config, labels), *training_figure])
    lines += _section("## On the way through the chain", _paths(config, labels, figures))
    lines += _section("## The paper's plates", plate_text(results, config, labels, figures))
    lines += _section("## Adversarial images", _pictures(figures))
    lines += _section("## Compute", compute_table(results, labels))
    lines += _section("## Provenance", provenance(config, environment))
    return "\n".join(lines).rstrip() + "\n"


def _accuracy_figures(results: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    """Every defence in one panel a norm, then every attack in one panel a defence, norm by norm."""
    lines = _figure(
        "figures/norms.png",
        "Accuracy against the size of the perturbation, in each norm, under the worst attack for each image; at 0 the "
        "clean images. A line joins only sizes at which the same attacks were made.",
        figures,
    )
    main = results["main"]["norm"]
    for name in ["figures/accuracy.png", *sorted(name for name in figures if name.startswith(ACCURACY))]:
        norm = name.removeprefix(ACCURACY).removesuffix(".png") if name.startswith(ACCURACY) else main
        lines += _figure(
            name,
            f"Accuracy against the size of the perturbation ({NORMS.get(norm, norm)}), of attacks that were made at "
            "several sizes. The dashed line takes the worst attack for each image, and joins only sizes at which the "
            "same attacks were made.",
            figures,
        )
    return lines


def _dots(results: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    main = results["main"]
    threat = threat_label(main["norm"], main["eps"]) if main["norm"] else ""
    return _figure(
        "figures/attacks.png",
        f"The same as dots with their intervals ({threat}): for each defence clean images, its attacks from the "
        "weakest to the strongest, and the worst of them for each image.",
        figures,
    )


def _section(title: str, lines: list[str]) -> list[str]:
    return [title, "", *lines] if lines else []


def _notes(config: Mapping[str, Any], labels: Labels) -> list[str]:
    """What to know before the numbers: of the experiment, of the data, and of models trained in a cheaper way."""
    notes = [config.get("note"), (config.get("data") or {}).get("note")]
    for name, model in (config.get("models") or {}).items():
        subset = f"Trained on {count_of(model['subset'], 'image')} only." if model.get("subset") else ""
        said = " ".join(filter(None, [subset, model.get("note")]))
        notes.append(f"{labels.models[name]}: {said}" if said else "")
    quoted = [line for note in filter(None, notes) for line in (f"> {note}", ">")]
    return [*quoted[:-1], ""] if quoted else []


def _audit(results: Mapping[str, Any], labels: Labels) -> list[str]:
    text = (
        "Checks that a sound evaluation passes. A failed one is a warning about the attacks: the accuracies above are "
        "then too high rather than too low."
    )
    rows = [
        [finding["name"], MARKS[finding["status"]], spelled_out(finding["message"], labels)]
        for finding in results["audit"]
    ]
    return [text, "", *table(["check", "result", "numbers"], rows)]


def _paths(config: Mapping[str, Any], labels: Labels, figures: Sequence[str]) -> list[str]:
    names = [name for name in figures if name.startswith(PATHS)]
    paths = config.get("paths") or {}
    if not names or not paths:
        return []
    attack = labels.attacks.get(paths["attack"], paths["attack"])
    text = (
        f"Images that an attack on the bare classifier turned ({attack}, eps {size_text(paths['eps'])}), on their way "
        f"through {labels.defences.get(paths['defence'], paths['defence'])} (above) and through the same chain driven "
        f"by {labels.models.get(paths['marginal'], paths['marginal'])}, which never saw a label (below), with what the "
        "classifier makes of each position. This attacker ignored the defence, and the images are the first that it "
        "turned: they show how the chain works, not how robust it is."
    )
    images = [f"![Image {number} on its way through two chains]({name})" for number, name in enumerate(names, 1)]
    return [text, "", *(line for image in images for line in (image, ""))]


def _pictures(figures: Sequence[str]) -> list[str]:
    names = [name for name in figures if name.startswith(PICTURES)]
    text = (
        "What attacks made of the first test images, and what each defence makes of that in one draw of its noise. The "
        "images were not chosen: some attacks failed."
    )
    images = [f"![Image {number} under every attack]({name})" for number, name in enumerate(names, 1)]
    return [text, "", *(line for image in images for line in (image, ""))] if names else []


def _fronts(figures: Sequence[str]) -> list[str]:
    return [
        line
        for name in figures
        if name.startswith(FRONTS)
        for line in _figure(
            name,
            "Every setting that was attacked, by what it keeps of clean images and of attacked ones. The line joins "
            "those than which none is better in both.",
            figures,
        )
    ]


def _convergence(figures: Sequence[str]) -> list[str]:
    return [
        line
        for key in ("steps", "draws")
        for line in _figure(
            f"figures/convergence-{key}.png",
            f"Accuracy against the {key} of an attack that is otherwise the same: an attack has converged where the "
            "line is flat.",
            figures,
        )
    ]


def _figure(name: str, caption: str, figures: Sequence[str]) -> list[str]:
    return [f"![{caption}]({name})", "", f"*{caption}*", ""] if name in figures else []
