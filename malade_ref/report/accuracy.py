"""Tables of what survives, and at what cost to the attacker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from malade_ref.evaluation import CLEAN
from malade_ref.report.labels import NONE, NORMS, Labels, count_of, percent, points, table, threat_label

Result = Mapping[str, Any]


def accuracy_tables(results: Result, config: Mapping[str, Any], labels: Labels) -> list[str]:
    """Attacks by defences, clean images first, then by strength, worst cases in both readings, the paper's figures.

    Parameters
    ----------
    results : mapping
        From `malade_ref.report.results.results_of`.
    config : mapping
        The experiment; ``paper`` is a list of ``table``, ``defence``, ``attack`` and ``accuracy`` in percent.
    labels : Labels
        Names.
    """
    main, cells = results["main"], _main_cells(results)
    worst = {name: defence["worst"].get(main["threat"]) for name, defence in results["defences"].items()}
    sizes = [cell["n"] for cell in cells.values()]
    usual = max(sizes, key=lambda size: (sizes.count(size), size))
    draws = max(cell["draws"] for cell in cells.values())
    head = ["attack", *labels.defences.values()]

    if not main["norm"]:
        text = f"Percent of {count_of(usual, 'test image')} that are classified rightly, with 95% intervals (Wilson)."
        return [f"{text} No attack was run.", "", *table(head, _attack_rows(cells, labels, "mean", usual))]

    fewer = " n is given where it was another." if len(set(sizes)) > 1 else ""
    lines = [
        f"Percent of {count_of(usual, 'test image')} that are classified rightly, with 95% intervals (Wilson). Attacks "
        f"are of {threat_label(main['norm'], main['eps'])}, the weakest first.{fewer}",
        "",
        f"**The honest reading**: the probability of being right, from {count_of(draws, 'fresh draw')} of a random "
        "defence that no attack saw; the worst case takes the worst attack for each image (chosen by one half of the "
        "draws, judged by the other). **The paper's reading**: one draw of each defence; the worst case is the "
        "smallest of the accuracies.",
        "",
    ]
    honest = [found["honest"] if found else None for found in worst.values()]
    per_image = [_bold(found["mean"], found["n"], usual) if found else NONE for found in honest]
    smallest = [_bold(found["paper"], found["paper"]["n"], usual) if found else NONE for found in worst.values()]
    rows = [*_attack_rows(cells, labels, "mean", usual), ["**worst case for each image**", *per_image]]
    rows += [["**worst case, the paper's reading**", *smallest], *_published(config, labels, main)]
    return lines + table(head, rows)


def _main_cells(results: Result) -> dict[tuple[str, str], Result]:
    """Cells of the main threat, and of clean images, by attack and defence."""
    threats = ("clean", results["main"]["threat"])
    return {(cell["attack"], cell["defence"]): cell for cell in results["cells"].values() if cell["threat"] in threats}


def _attack_rows(cells: Mapping[tuple[str, str], Result], labels: Labels, key: str, usual: int) -> list[list[str]]:
    rows: list[tuple[float, list[str]]] = []
    for attack, title in labels.attacks.items():
        found = [cells.get((attack, defence)) for defence in labels.defences]
        # Its place is by the defence that stands up best: under what is strong for the others, all may be at zero.
        most = max((cell[key]["value"] for cell in found if cell), default=0.0)
        if any(found):
            row = [title, *(_share(cell[key], cell["n"], usual) if cell else NONE for cell in found)]
            rows.append((2.0 if attack == CLEAN else most, row))
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


def _share(estimate: Mapping[str, float], size: int, usual: int) -> str:
    return percent(estimate, "") + (f" (n = {size})" if size != usual else "")


def _bold(estimate: Mapping[str, float], size: int, usual: int) -> str:
    return f"**{_share(estimate, size, usual)}**"


def _published(config: Mapping[str, Any], labels: Labels, main: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the paper's figures for the main threat."""
    rows: dict[str, dict[str, str]] = {}
    for entry in config.get("paper") or []:
        if _threat_of(entry, main) != (main["norm"], main["eps"]):
            continue
        row = rows.setdefault(f"*the paper, {entry['table']}: {entry['attack']}*", {})
        row[entry["defence"]] = f"*{entry['accuracy']:.2f}*"
    return [[title, *(row.get(name, NONE) for name in labels.defences)] for title, row in rows.items()]


def _threat_of(entry: Mapping[str, Any], main: Mapping[str, Any]) -> tuple[str, float]:
    """Norm and eps that a figure of the paper is about; by default the report's."""
    eps = entry.get("eps")
    return entry.get("norm") or main["norm"], main["eps"] if eps is None else eps


def size_tables(results: Result, config: Mapping[str, Any], labels: Labels) -> list[str]:
    """Every attack at every other size, one table a norm, the paper's figures among them.

    The parameters are those of `accuracy_tables`.

    Returns
    -------
    list of str
        Lines; none if there is one size only.
    """
    main = results["main"]
    cells = [cell for cell in results["cells"].values() if cell["attack"] != CLEAN and "nearest" not in cell]
    # Those of the main threat are in the table of accuracies.
    cells = [cell for cell in cells if cell["threat"] != main["threat"]]
    by_norm: dict[str, set[float]] = {}
    for cell in cells:
        by_norm.setdefault(cell["threat"].partition(" ")[0], set()).add(cell["eps"])
    if not by_norm:
        return []
    lines = [
        f"As above, at the sizes other than {threat_label(main['norm'], main['eps'])}; n differs between attacks, see "
        "results.json.",
        "",
    ]
    for norm, sizes in sorted(by_norm.items(), key=lambda pair: (pair[0] != main["norm"], pair[0])):
        columns, rows = sorted(sizes), []
        for defence, name in labels.defences.items():
            for attack, title in labels.attacks.items():
                found = {
                    cell["eps"]: percent(cell["mean"], "")
                    for cell in cells
                    if (cell["defence"], cell["attack"], cell["threat"].partition(" ")[0]) == (defence, attack, norm)
                }
                rows += [[name, title, *(found.get(eps, NONE) for eps in columns)]] if found else []
            quoted: dict[str, dict[float, str]] = {}
            for entry in config.get("paper") or []:
                of_norm, eps = _threat_of(entry, main)
                if (entry["defence"], of_norm) == (defence, norm) and eps in columns:
                    row = quoted.setdefault(f"*the paper, {entry['table']}: {entry['attack']}*", {})
                    row[eps] = f"*{entry['accuracy']:.2f}*"
            rows += [[name, title, *(row.get(eps, NONE) for eps in columns)] for title, row in quoted.items()]
        lines += table(["defence", "attack", *(threat_label(norm, eps) for eps in columns)], rows)
    return lines


def nearest_table(results: Result, labels: Labels) -> list[str]:
    """Distances of what was found by attacks that look for the nearest wrong image.

    The parameters are those of `accuracy_tables`.

    Returns
    -------
    list of str
        Lines; none if there was no such attack.
    """
    rows = []
    for cell in results["cells"].values():
        if "nearest" in cell:
            medians = [
                f"{NORMS.get(norm, norm)} {NONE if median is None else f'{median:.3g}'}"
                for norm, median in sorted(cell["nearest"].items())
            ]
            attack, found = labels.attacks[cell["attack"]], f"{100 * cell['success']:.1f}"
            rows.append([labels.defences[cell["defence"]], attack, ", ".join(medians), found, str(cell["n"])])
    text = (
        "These attacks look for the nearest wrong image, however far. An image without a find counts as infinitely "
        "far, one that is wrong to begin with as distance 0. Accuracies at a distance count their finds up to it, and "
        "beyond it the answer to the clean image."
    )
    head = ["defence", "attack", "median distance", "found, percent", "n"]
    return [text, "", *table(head, rows)] if rows else []


def draws_table(results: Result, labels: Labels) -> list[str]:
    """Majorities and resubmissions, of the random defences.

    The parameters are those of `accuracy_tables`.

    Returns
    -------
    list of str
        Lines; none if there is no random defence.
    """
    rows = []
    for name, defence in results["defences"].items():
        worst = defence["worst"].get(results["main"]["threat"])
        clean = results["cells"].get(defence["clean"])
        for on, found in (("clean images", clean), ("worst case", worst and worst["honest"])):
            if defence["stochastic"] and found:
                rows += [[labels.defences[name], on, *row] for row in _draw_rows(found)]
    if not rows:
        return []
    text = (
        "A random defence can be asked several times: by its owner, who takes a majority (more than half of the draws, "
        "a lower bound for a vote among many classes), and by an attacker, who submits an image until a draw is wrong. "
        "No attack was made against majorities."
    )
    return [text, "", *table(["defence", "images", "right in", "percent of images"], rows)]


def _draw_rows(found: Result) -> Iterator[list[str]]:
    for kind, words in (("vote", "a majority of {} draws"), ("survival", "all of {} draws")):
        for number in sorted(map(int, found[kind])):
            if number > 1:
                yield [words.format(number), percent(found[kind][str(number)], "")]


def comparison_table(results: Result, labels: Labels) -> list[str]:
    """Every two defences on the same images.

    The parameters are those of `accuracy_tables`.

    Returns
    -------
    list of str
        Lines; none if there is one defence.
    """
    # What was trained again is compared with its own bare classifier only; for the rest see `seed_table`.
    replicas = {name for found in results.get("seeds", {}).values() for name in list(found["clean"]["values"])[1:]}
    rows = [
        [
            f"{labels.defences[row['first']]} less {labels.defences[row['second']]}",
            "clean images" if row["on"] == "clean" else "worst case",
            points(row["difference"], ""),
            f"{row['mcnemar']['only_first']} : {row['mcnemar']['only_second']}",
            f"{row['mcnemar']['p_value']:.2g}",
            str(row["n"]),
        ]
        for row in results["comparisons"]
        if not {row["first"], row["second"]} & replicas or results["defences"][row["second"]]["base"] == row["first"]
    ]
    if not rows:
        return []
    text = (
        "Differences of the probabilities of being right, in points, each defence under its own worst attacks, with "
        "95% intervals (Agresti and Min). Then McNemar's exact test on first draws: how many images only the first and "
        "only the second defence had right."
    )
    return [text, "", *table(["defences", "images", "difference", "first : second", "p", "n"], rows)]


def eps_table(results: Result, labels: Labels) -> list[str]:
    """Worst cases at every size but the main one, the main norm first.

    The parameters are those of `accuracy_tables`.

    Returns
    -------
    list of str
        Lines; none if there was no attack.
    """
    threats = {threat for defence in results["defences"].values() for threat in defence["worst"]}
    parts = [threat.rpartition(" ") for threat in threats]
    rows = []
    for norm, eps in sorted(
        ((norm, float(eps)) for norm, _, eps in parts), key=lambda pair: (pair[0] != results["main"]["norm"], pair)
    ):
        if f"{norm} {eps:g}" == results["main"]["threat"]:
            continue
        found = [results["defences"][name]["worst"].get(f"{norm} {eps:g}") for name in labels.defences]
        texts = [f"{percent(one['honest']['mean'], '')} ({len(one['attacks'])})" if one else NONE for one in found]
        rows.append([threat_label(norm, eps), *texts])
    text = "Worst case for each image at other sizes, and in parentheses the number of attacks it is taken over:"
    return [text, "", *table(["threat", *labels.defences.values()], rows)] if rows else []


def compute_table(results: Result, labels: Labels) -> list[str]:
    """What attacks cost.

    The parameters are those of `accuracy_tables`.

    Returns
    -------
    list of str
        Lines; none if it was not counted.
    """
    # An attack costs the same at every size.
    cells = {(cell["attack"], cell["defence"]): cell for cell in results["cells"].values()} | _main_cells(results)
    rows = []
    for attack, title in labels.attacks.items():
        found = [cells.get((attack, defence), {}) for defence in labels.defences]
        if attack != "clean" and any("num_gradients" in cell for cell in found):
            rows.append(
                [
                    title,
                    *(f"{cell['num_queries']:,.0f} / {cell['num_gradients']:,.0f}" if cell else NONE for cell in found),
                ]
            )
    text = (
        "Queries / gradients that an attack spent on an image, each draw of a random defence counted. One carried over "
        "from the bare classifier spent them there."
    )
    return [text, "", *table(["attack", *labels.defences.values()], rows)] if rows else []
