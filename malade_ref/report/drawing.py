"""Which figures a report has, and with what in them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any

import numpy as np

from malade_ref.figures import (
    Curve,
    Dot,
    accuracy_curves,
    accuracy_dots,
    certified_curves,
    picture_table,
    training_curves,
)
from malade_ref.report.charts import Chart, joined_by, training_charts
from malade_ref.report.exhibits import draw_exhibits, exhibit_charts
from malade_ref.report.labels import NORMS, Labels, method_label, threat_label
from malade_ref.report.pictures import draw_plates
from malade_ref.report.reading import ReportInput
from malade_ref.report.searching import draw_searches
from malade_ref.storage import Record

WORST = "worst attack\nfor each image"
DOTS, TRAINING, CERTIFIED = "figures/attacks.png", "figures/training.png", "figures/certified.png"
LABEL_WIDTH = 26
NAME_WIDTH = 16
TITLE_WIDTH = 12
# What the sizes of a norm are called on an axis.
_SIZES = {
    "linf": "eps (L-infinity, pixels in [0, 1])",
    "l2": "eps (L2, pixels in [0, 1])",
    "l1": "eps (L1, pixels in [0, 1])",
    "l0": "share of the pixels",
}
EFFORTS = {"num_steps": "steps of the attack", "num_draws": "draws a gradient"}


def draw_figures(inputs: ReportInput, results: Mapping[str, Any]) -> dict[str, bytes]:
    """Draw all figures that there are data for.

    Parameters
    ----------
    inputs : ReportInput
        What a bundle holds.
    results : mapping
        From `malade_ref.report.results.results_of`.

    Returns
    -------
    dict of str to bytes
        PNG files by their names in the bundle.
    """
    labels = Labels(inputs.config, results)
    files = {}
    panels = dots_of(results, labels)
    if panels:
        main = results["main"]
        xlabel = f"accuracy (%), {threat_label(main['norm'], main['eps'])}"
        files[DOTS] = accuracy_dots(panels, xlabel=xlabel)
    for name, chart in size_charts(results, labels).items():
        files[name] = accuracy_curves(chart.panels, xlabel=chart.xlabel, clean=chart.clean)
    trained = {name: history for name, history in inputs.histories.items() if history}
    if trained:
        files[TRAINING] = training_curves(trained, labels=labels.models)
    files |= draw_exhibits(results, labels)
    files |= draw_searches(results, labels)
    if "certified" in results:
        found = results["certified"]
        settings = {key: found[key] for key in ("sigma", "alpha")}
        files[CERTIFIED] = certified_curves(
            certified_lines(found), num_draws=found["num_estimation"], largest=found["largest_radius"], **settings
        )
    if "paths" in inputs.records:
        files |= _paths(inputs.records["paths"], labels)
    files |= draw_plates(inputs, labels)
    if "pictures" in inputs.records:
        files |= _pictures(inputs.records["pictures"], inputs, results, labels)
    return files


def charts_of(inputs: ReportInput, results: Mapping[str, Any], labels: Labels) -> dict[str, Chart]:
    """Gather the charts of a report as data; those of `draw_figures` that are no pictures.

    Parameters
    ----------
    inputs, results
        As in `draw_figures`.
    labels : Labels
        Names for readers.

    Returns
    -------
    dict of str to Chart
        By the name of the PNG file that shows the same.
    """
    charts = {**size_charts(results, labels), **exhibit_charts(results, labels)}
    trained = {name: history for name, history in inputs.histories.items() if history}
    if trained:
        charts[TRAINING] = training_charts(trained, labels.models)
    if "certified" in results:
        charts[CERTIFIED] = Chart(
            {"": certified_lines(results["certified"])},
            "certified L2 radius (pixels in [0, 1])",
            ylabel="certified accuracy (%)",
        )
    return charts


def dots_of(results: Mapping[str, Any], labels: Labels) -> dict[str, list[Dot]]:
    """Gather accuracies under all attacks of the main threat, the weakest first.

    Parameters
    ----------
    results, labels
        As in `charts_of`.

    Returns
    -------
    dict of str to list of Dot
        By the name of the defence; only those under two attacks or more.
    """
    threat, panels = results["main"]["threat"], {}
    for name, title in labels.defences.items():
        own = [cell for cell in results["cells"].values() if cell["defence"] == name]
        attacks = [cell for cell in own if cell["threat"] == threat]
        if len(attacks) < 2:
            continue
        dots = [_dot(labels.attacks[cell["attack"]], cell["mean"]) for cell in attacks]
        dots.sort(key=lambda dot: (-dot.value, dot.label))
        clean = [_dot(labels.attacks["clean"], cell["mean"], True) for cell in own if cell["threat"] == "clean"]
        worst = results["defences"][name]["worst"].get(threat)
        end = [_dot(WORST.replace("\n", " "), worst["honest"]["mean"], True)] if worst else []
        panels[title] = [*clean, *dots, *end]
    return panels


def _dot(label: str, share: Mapping[str, float], emphasized: bool = False) -> Dot:
    return Dot(label, share["value"], share["low"], share["high"], emphasized)


def size_charts(results: Mapping[str, Any], labels: Labels) -> dict[str, Chart]:
    """Gather curves of accuracy against the size of a perturbation, and against an attacker's effort.

    Parameters
    ----------
    results, labels
        As in `charts_of`.
    """
    charts = {}
    clean = {
        labels.defences[name]: results["cells"][defence["clean"]]["mean"]
        for name, defence in results["defences"].items()
        if defence["clean"] is not None
    }
    main, curved = results["main"]["norm"], curved_norms(results)
    if len(curved) > 1:
        titles = {f"({letter}) {NORMS[norm]}": norm for letter, norm in zip(ascii_lowercase, curved, strict=False)}
        charts["figures/norms.png"] = Chart(
            {title: _worst_curves(results, labels, norm, clean) for title, norm in titles.items()},
            {title: _SIZES[norm] for title, norm in titles.items()},
        )
    for norm in curved:
        lines = {title: _curves(results, labels, name, norm) for name, title in labels.defences.items()}
        lines = {title: curves for title, curves in lines.items() if curves}
        if lines:
            charts[f"figures/accuracy{'' if norm == main else f'-{norm}'}.png"] = Chart(
                lines, _SIZES.get(norm, norm), {title: share["value"] for title, share in clean.items()}
            )
    for key, effort in EFFORTS.items():
        ladders = results["convergence"][key]
        panels = {}
        for name, title in labels.defences.items():
            own = [ladder for ladder in ladders if ladder["defence"] == name]
            if own:
                panels[title] = [_ladder(ladder) for ladder in own]
        if panels:
            charts[f"figures/convergence-{key.removeprefix('num_')}.png"] = Chart(panels, effort)
    return charts


def curved_norms(results: Mapping[str, Any]) -> list[str]:
    """Norms in which there are attacks of several sizes: accuracy can be drawn against the size.

    Parameters
    ----------
    results : mapping
        From `malade_ref.report.results.results_of`.

    Returns
    -------
    list of str
        The main one first.
    """
    sizes: dict[str, set[float]] = {}
    for cell in results["cells"].values():
        norm = cell["threat"].partition(" ")[0]
        if norm in _SIZES:
            sizes.setdefault(norm, set()).add(cell["eps"])
    order = dict.fromkeys([results["main"]["norm"], *_SIZES])
    return [norm for norm in order if len(sizes.get(norm, ())) > 1]


def _worst_curves(
    results: Mapping[str, Any], labels: Labels, norm: str, clean: Mapping[str, Mapping[str, float]]
) -> list[Curve]:
    """Accuracy of each defence under the worst attack for each image, from the clean images on."""
    curves = []
    for name, title in labels.defences.items():
        found, attacks = _worst(results, name, norm)
        if found:
            start = [(0.0, clean[title])] if title in clean else []
            curve = _curve("\n".join(textwrap.wrap(title, LABEL_WIDTH)), [*start, *found])
            curves.append(curve._replace(joined=joined_by([*([None] * len(start)), *attacks])))
    return curves


def _ladder(ladder: Mapping[str, Any]) -> Curve:
    transferred = "\nbare classifier" if ladder["source"] == "classifier" else ""
    norm, _, eps = ladder["threat"].partition(" ")
    threat = threat_label(norm, float(eps)) if eps else NORMS.get(norm, norm)
    label = f"{method_label(ladder['method'])}, {threat}{transferred}"
    return _curve(label, [(point["value"], point["mean"]) for point in ladder["points"]])


def _pictures(record: Record, inputs: ReportInput, results: Mapping[str, Any], labels: Labels) -> dict[str, bytes]:
    """One figure an image: what each attack of the main threat, or on distances, made of it for each defence."""
    threats = ("clean", results["main"]["threat"])
    shown = [cell for cell in inputs.cells if cell.nearest or cell.threat in threats]
    attacks = [name for name in labels.attacks if any(cell.attack == name for cell in shown)]
    titles = {**labels.attacks, "clean": "clean image"}
    by_name = {(cell.defence, cell.attack): cell.name for cell in shown}
    files = {}
    for number, label in enumerate(record.arrays["label"].tolist()):
        images, predictions, probabilities = [], [], []
        for key in ((defence, attack) for attack in attacks for defence in labels.defences):
            stored = record.arrays.get(f"{by_name.get(key, '')}/x_adv")
            if stored is None:
                images.append(np.zeros(record.arrays[f"{shown[0].name}/x_adv"].shape[1:]))
                predictions.append(-1)
                probabilities.append(np.nan)
            else:
                probability = record.arrays[f"{by_name[key]}/probability"][number]
                images.append(stored[number])
                predictions.append(-1 if np.isnan(probability).any() else int(probability.argmax()))
                probabilities.append(float(probability.max()))
        shape = (len(attacks), len(labels.defences))
        files[f"figures/pictures-{number + 1}.png"] = picture_table(
            np.array(images).reshape(*shape, *images[0].shape),
            np.array(predictions).reshape(shape),
            np.array(probabilities).reshape(shape),
            label=label,
            class_name=labels.class_name,
            titles=["\n".join(textwrap.wrap(name, TITLE_WIDTH)) for name in labels.defences.values()],
            names=["\n".join(textwrap.wrap(name, NAME_WIDTH)) for name in (titles[name] for name in attacks)],
        )
    return files


def _curves(results: Mapping[str, Any], labels: Labels, defence: str, norm: str) -> list[Curve]:
    """Accuracy against eps: one curve for each attack of several sizes on a defence, and the worst case."""
    curves = []
    for attack, title in labels.attacks.items():
        cells = [
            cell
            for cell in results["cells"].values()
            if (cell["defence"], cell["attack"]) == (defence, attack) and cell["threat"].startswith(f"{norm} ")
        ]
        # What was made at one size only is in the plot of that size.
        if len({cell["eps"] for cell in cells}) > 1:
            found = sorted(((cell["eps"], cell["mean"]) for cell in cells), key=lambda pair: pair[0])
            curves.append(_curve("\n".join(textwrap.wrap(title, LABEL_WIDTH)), found))
    found, attacks = _worst(results, defence, norm)
    worst = _curve(WORST, found)._replace(emphasized=True, joined=joined_by(attacks))
    return [*curves, worst] if curves else []


def _worst(
    results: Mapping[str, Any], defence: str, norm: str
) -> tuple[list[tuple[float, Mapping[str, float]]], list[frozenset[str]]]:
    """Sizes in a norm, what a defence keeps under the worst attack of each for each image, and which attacks."""
    worst = {
        float(threat.removeprefix(f"{norm} ")): (found["honest"]["mean"], frozenset(found["attacks"]))
        for threat, found in results["defences"][defence]["worst"].items()
        if threat.startswith(f"{norm} ")
    }
    order = sorted(worst)
    return [(eps, worst[eps][0]) for eps in order], [worst[eps][1] for eps in order]


def _curve(label: str, found: list[tuple[float, Mapping[str, float]]]) -> Curve:
    value, low, high = ([estimate[key] for _, estimate in found] for key in ("value", "low", "high"))
    return Curve(label, [eps for eps, _ in found], value, low, high)


def certified_lines(found: Mapping[str, Any]) -> list[Curve]:
    """Curves of certified accuracy.

    Parameters
    ----------
    found : mapping
        ``certified`` of the results.
    """
    return [
        Curve(smoothed["title"], *(smoothed["curve"][key] for key in ("radius", "value", "low", "high")))
        for smoothed in found["smoothed"].values()
    ]


def _paths(record: Record, labels: Labels) -> dict[str, bytes]:
    """One figure an image: the image, the adversarial image, and its positions in each chain."""
    arrays, chains = record.arrays, record.meta["chains"]
    steps = [f"step {step}" if step else "adversarial" for step in arrays["steps"].tolist()]
    files = {}
    for number, label in enumerate(arrays["label"].tolist()):
        clean = arrays["clean"][number], arrays["clean_probability"][number]
        images = [[clean[0], *arrays[f"{chain}/position"][:, number]] for chain in chains]
        probabilities = np.array([[clean[1], *arrays[f"{chain}/probability"][:, number]] for chain in chains])
        files[f"figures/path-{number + 1}.png"] = picture_table(
            np.array(images),
            np.where(np.isnan(probabilities).any(axis=2), -1, probabilities.argmax(axis=2)),
            probabilities.max(axis=2),
            label=label,
            class_name=labels.class_name,
            titles=["clean", *steps],
            names=["\n".join(textwrap.wrap(title, NAME_WIDTH)) for title in chains.values()],
        )
    return files
