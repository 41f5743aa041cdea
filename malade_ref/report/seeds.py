"""How much the seed of the training matters: defences and their replicas, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from malade_ref.report.labels import NONE, Labels, count_of, table, threat_label


def seed_results(results: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Gather what defences and their replicas keep.

    Parameters
    ----------
    results : mapping
        From `malade_ref.evaluation.derive_results`.
    config : mapping
        The experiment: ``replica_of`` of its defences.

    Returns
    -------
    dict
        ``seeds``, if there are replicas: for each defence that has some, ``clean`` and ``worst`` (honest, of the main
        threat), each with ``values`` by name, their ``mean`` and the standard ``deviation`` (n - 1).
    """
    groups: dict[str, list[str]] = {}
    for name, defence in (config.get("defences") or {}).items():
        if defence.get("replica_of"):
            groups.setdefault(defence["replica_of"], [defence["replica_of"]]).append(name)
    found = {}
    for original, names in groups.items():
        clean, worst = {}, {}
        for name in names:
            judged = results["defences"][name]
            clean[name] = results["cells"][judged["clean"]]["mean"]["value"]
            if results["main"]["threat"] in judged["worst"]:
                worst[name] = judged["worst"][results["main"]["threat"]]["honest"]["mean"]["value"]
        found[original] = {"clean": _spread(clean), **({"worst": _spread(worst)} if len(worst) == len(names) else {})}
    return {"seeds": found} if found else {}


def _spread(values: dict[str, float]) -> dict[str, Any]:
    shares = list(values.values())
    return {"values": values, "mean": statistics.fmean(shares), "deviation": statistics.stdev(shares)}


def seed_table(results: Mapping[str, Any], labels: Labels) -> list[str]:
    """Every replica's accuracy, their mean and spread.

    Parameters
    ----------
    results : mapping
        From `malade_ref.report.results.results_of`.
    labels : Labels
        Names.

    Returns
    -------
    list of str
        Lines; none if there are no replicas.
    """
    if "seeds" not in results:
        return []
    main, groups = results["main"], results["seeds"]
    most = max(len(found["clean"]["values"]) for found in groups.values())
    rows = []
    for name, found in groups.items():
        for key, images in (("clean", "clean images"), ("worst", "worst case")):
            if key in found:
                values = [f"{100 * value:.1f}" for value in found[key]["values"].values()]
                spread = f"{100 * found[key]['mean']:.1f} ± {100 * found[key]['deviation']:.1f}"
                rows.append([labels.defences[name], images, *values, *[NONE] * (most - len(values)), spread])
    text = (
        f"Defences whose networks were trained {count_of(most, 'time')}, with other initial weights, orders of images "
        "and noise, and judged on the same images. Percent right, mean over draws; the worst case takes the worst "
        f"attack of {threat_label(main['norm'], main['eps'])} for each image. The last column has the mean and the "
        "standard deviation over trainings: what one training more would be off by. Intervals elsewhere in this report "
        "hold for the networks at hand only."
    )
    head = ["defence", "images", *(f"training {i + 1}" for i in range(most)), "mean ± deviation"]
    return [text, "", *table(head, rows)]
