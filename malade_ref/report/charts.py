"""Charts of a report as data: what `malade_ref.report.drawing` draws as PNG, and the page as SVG.

A page's chart is laid out here, in units of an SVG drawing, and written by the template.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from malade_ref.figures import COLORS, Curve
from malade_ref.report.labels import size_text

# A panel, and the room around its axes.
WIDTH, HEIGHT = 340.0, 226.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 14.0, 12.0, 40.0
# More points than these are drawn as a band, without markers.
MOST_POINTS = 20
TICKS = 6
# Shapes around the origin, in the order of the colours.
MARKERS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "M-3.5,-3.5h7v7h-7z",
    "M0,-4.5l4.5,8h-9z",
    "M0,-5l5,5l-5,5l-5,-5z",
    "M0,4.5l4.5,-8h-9z",
    "M-1.5,-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M-4,-2l2,-2l2,2l2,-2l2,2l-2,2l2,2l-2,2l-2,-2l-2,2l-2,-2l2,-2z",
    "M-4.5,0l8,-4.5v9z",
)


class Chart(NamedTuple):
    """Panels of curves.

    Attributes
    ----------
    panels : mapping of str to sequence of Curve
        By title.
    xlabel : str, or mapping of str to str
        What accuracy is drawn against; by title, if the panels differ in it.
    clean : mapping of str to float
        Accuracy on clean images, as a share, by title.
    ylabel : str
        What is drawn.
    percent : bool
        Whether it is a share.
    from_zero : bool
        Whether the horizontal axis begins at zero.
    whole : bool
        Whether its ticks are whole numbers.
    """

    panels: Mapping[str, Sequence[Curve]]
    xlabel: str | Mapping[str, str]
    clean: Mapping[str, float] = {}
    ylabel: str = "accuracy (%)"
    percent: bool = True
    from_zero: bool = True
    whole: bool = False


def drawn(chart: Chart) -> dict[str, Any]:
    """Lay a chart out.

    Parameters
    ----------
    chart : Chart
        What to draw.

    Returns
    -------
    dict
        ``panels``, each with ``title``, ``label`` (for those who cannot see it), ticks, lines, whiskers, bands and
        markers in units of the drawing; ``legend``, each entry with ``label`` and ``style``.
    """
    names = list(
        dict.fromkeys(curve.label for curves in chart.panels.values() for curve in curves if not curve.emphasized)
    )
    panels = [_panel(chart, title, list(curves), names) for title, curves in chart.panels.items() if curves]
    legend = [{"label": _one_line(name), "style": _style(number)} for number, name in enumerate(names)]
    curves = [curve for curves in chart.panels.values() for curve in curves]
    worst = dict.fromkeys(_one_line(curve.label) for curve in curves if curve.emphasized)
    legend += [{"label": name, "style": {"color": "worst", "dashed": True, "marker": MARKERS[0]}} for name in worst]
    if any(title in chart.clean for title in chart.panels):
        legend.append({"label": "clean images", "style": {"color": "clean", "dashed": True, "marker": ""}})
    return {"panels": panels, "legend": legend, "width": WIDTH, "height": HEIGHT}


def _style(number: int) -> dict[str, Any]:
    again = number >= len(COLORS)
    return {
        "color": f"c{number % len(COLORS)}",
        "dashed": again,
        "marker": MARKERS[number % len(MARKERS)],
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _panel(chart: Chart, title: str, curves: list[Curve], names: list[str]) -> dict[str, Any]:
    scale = 100.0 if chart.percent else 1.0
    xs = [x for curve in curves for x in curve.eps]
    ys = [scale * y for curve in curves for part in (curve.value, curve.low, curve.high) for y in part]
    x_axis = _axis(min(0.0, *xs) if chart.from_zero else min(xs), max(xs), least=1.0 if chart.whole else 0.0)
    y_axis = [0.0, 25.0, 50.0, 75.0, 100.0] if chart.percent else _axis(0.0, max(ys, default=1.0))
    x_low, x_high = x_axis[0], max(x_axis[-1], max(xs))
    x_low = min(x_low, min(xs))
    y_low, y_high = y_axis[0], max(y_axis[-1], *ys)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low or 1.0)
        up = (y - y_low) / (y_high - y_low or 1.0)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    lines, bands, whiskers, markers = [], [], [], []
    for curve in sorted(curves, key=lambda curve: curve.emphasized):
        style = (
            {"color": "worst", "dashed": True, "marker": MARKERS[0]}
            if curve.emphasized
            else _style(names.index(curve.label))
        )
        value, low, high = ([scale * y for y in part] for part in (curve.value, curve.low, curve.high))
        for group in curve.joined if curve.joined is not None else [range(len(curve.eps))]:
            points = [place(curve.eps[i], value[i]) for i in group]
            if len(points) > 1:
                lines.append({**style, "points": _points(points)})
        many = len(curve.eps) > MOST_POINTS
        if many:
            upper = [place(*pair) for pair in zip(curve.eps, high, strict=True)]
            lower = [place(*pair) for pair in zip(curve.eps, low, strict=True)]
            bands.append({**style, "points": _points([*upper, *reversed(lower)])})
        for i, x in enumerate(curve.eps):
            if many and i % max(1, len(curve.eps) // 6):
                continue
            told = (
                f"{_one_line(curve.label)}: {value[i]:.1f}% [{low[i]:.1f}, {high[i]:.1f}] at {size_text(x)}"
                if chart.percent
                else f"{_one_line(curve.label)}: {value[i]:.4g} at {x:g}"
            )
            markers.append({**style, "at": place(x, value[i]), "hollow": curve.emphasized, "told": told})
            if not many and high[i] > low[i]:
                (across, top), (_, bottom) = place(x, high[i]), place(x, low[i])
                whiskers.append({**style, "x": across, "top": top, "bottom": bottom})
    clean = chart.clean.get(title)
    xlabel = chart.xlabel if isinstance(chart.xlabel, str) else chart.xlabel[title]
    last = [
        f"{_one_line(curve.label)} {scale * curve.value[-1]:.3g}{'%' if chart.percent else ''} at {curve.eps[-1]:g}"
        for curve in curves
        if len(curve.eps)
    ]
    return {
        "title": title,
        "label": f"{chart.ylabel} against {xlabel}: {'; '.join(last)}",
        "x_ticks": [{"at": place(x, y_low)[0], "text": f"{x:g}"} for x in x_axis if x_low <= x <= x_high],
        "y_ticks": [{"at": place(x_low, y)[1], "text": f"{y:g}"} for y in y_axis],
        "xlabel": xlabel,
        "ylabel": chart.ylabel,
        "clean": None if clean is None else place(x_low, 100 * clean)[1],
        "lines": lines,
        "bands": bands,
        "whiskers": whiskers,
        "markers": markers,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
    }


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _axis(low: float, high: float, least: float = 0.0) -> list[float]:
    """Round numbers from the last one up to ``low`` to the first one from ``high`` on, apart by ``least`` or more."""
    span = high - low or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / TICKS))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10, 20) if span / (factor * size) <= TICKS)
    step = max(step, least)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


# What is drawn -------------------------------------------------------------------------------------------------------


def joined_by(sets: Sequence[object]) -> list[list[int]]:
    """Which points a curve joins: those at which the same attacks were made.

    Parameters
    ----------
    sets : sequence
        For each point, in the order of the sizes, which attacks were made there; None at size zero, where every attack
        leaves the clean image.

    Returns
    -------
    list of list of int
        Numbers of neighbouring points; each group is a line.

    Examples
    --------
    >>> joined_by([None, {"pgd"}, {"pgd"}, {"pgd", "exact"}, {"pgd"}])
    [[0, 1, 2], [3], [4]]
    """
    lines: list[list[int]] = []
    for number, attacks in enumerate(sets):
        before = sets[number - 1] if number else None
        if lines and (before is None or attacks == before):
            lines[-1].append(number)
        else:
            lines.append([number])
    return lines


def training_charts(histories: Mapping[str, Mapping[str, Sequence[float]]], labels: Mapping[str, str]) -> Chart:
    """Losses by epoch, a panel a network.

    Parameters
    ----------
    histories : mapping
        As of `malade_ref.figures.training_curves`.
    labels : mapping of str to str
        What to call the networks.
    """
    panels = {}
    for name, history in histories.items():
        curves = []
        for key, label in (("loss", "training"), ("validation_loss", "validation")):
            values = list(history.get(key, ()))
            if values:
                epochs = list(range(1, len(values) + 1))
                curves.append(Curve(label, epochs, values, values, values))
        panels[labels.get(name, name)] = curves
    return Chart(panels, "epoch", ylabel="loss", percent=False, whole=True)
