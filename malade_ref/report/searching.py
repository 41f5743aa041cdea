"""What a search among settings found: clean accuracy against accuracy under attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from malade_ref.figures import BLUE, GREY, ORANGE, drawing, png_settings
from malade_ref.report.background import CHAIN
from malade_ref.report.labels import Labels

FRONTS = "figures/search-"


def draw_searches(results: Mapping[str, Any], labels: Labels) -> dict[str, bytes]:
    """Draw the settings of every search whose attacker knew each setting, and the best trades among them.

    Parameters
    ----------
    results : mapping
        From `malade_ref.report.results.results_of`.
    labels : Labels
        Names.

    Returns
    -------
    dict of str to bytes
        PNG files by their names in the bundle.
    """
    searches = {name: search for name, search in results["search"].items() if search.get("rounds")}
    return {
        f"{FRONTS}{number}.png": _drawn(labels.defences.get(name, name), search)
        for number, (name, search) in enumerate(searches.items(), 1)
    }


def front(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Settings than which no other is better in one accuracy and at least as good in the other.

    Parameters
    ----------
    rows : list of mapping
        Settings with ``clean`` and ``attacked``.

    Returns
    -------
    list of mapping
        In the order of their clean accuracy, the best first; of equal ones the first.
    """
    found: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: (-row["clean"], -row["attacked"])):
        if not found or row["attacked"] > found[-1]["attacked"]:
            found.append(row)
    return found


def _drawn(title: str, search: Mapping[str, Any]) -> bytes:
    last = search["rounds"][-1]
    judged = [row for row in search["grid"] if row["attacked"] is not None]
    final = [row for row in judged if row["images"] == last]
    chosen = next(row for row in judged if all(row[key] == search["chosen"][key] for key in CHAIN))
    with drawing(width=6.4, height=4.2) as (figure, content):
        axes = figure.subplots()
        early = [row for row in judged if row["images"] < last]
        for rows, color, label in (
            (early, GREY, f"left after {search['rounds'][0]} images or a few more"),
            (final, BLUE, f"attacked on all {last} images"),
        ):
            if rows:
                x, y = ([100 * row[key] for row in rows] for key in ("clean", "attacked"))
                axes.scatter(x, y, s=22, color=color, alpha=0.7, linewidths=0, label=label)
        best = front(final)
        axes.plot(*([100 * row[key] for row in best] for key in ("clean", "attacked")), color=BLUE, linewidth=1)
        name = f"chosen: N {chosen['num_steps']}, a {chosen['a']:g}, delta {chosen['delta']:g}"
        axes.scatter(
            [100 * chosen["clean"]],
            [100 * chosen["attacked"]],
            s=90,
            facecolors="none",
            edgecolors=ORANGE,
            linewidths=2,
            label=name,
        )
        axes.set_title(f"{title}: settings of the chain, each attacked by its own gradient", loc="left")
        axes.set_xlabel("right on clean validation images (%)")
        axes.set_ylabel("right on attacked ones (%)")
        axes.grid(alpha=0.3, linewidth=0.5)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(content, **png_settings())
        return content.getvalue()
