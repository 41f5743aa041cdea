"""Draw what `python -m bench.device --out FILE.json` has measured.

    python -m bench.device.plots FILE.json [--out FOLDER]

FOLDER (default: where FILE.json lies) gets those of these figures that there are data for:

    batch.png      time an image against the number of images, a panel each for the chain and the classifier's gradient
    steps.png      time an image, and device memory, against the number of steps, for the chain and its gradient
    roofline.png   for each work, the share of the roofline that each backend reaches

Colours tell precisions, markers and lines tell libraries.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.device.work import KINDS
from malade_ref.checks import InputError
from malade_ref.figures import BLUE, COLORS, GREY, ORANGE, drawing, png_settings
from malade_ref.storage import atomic_write, load_json

PRECISIONS = {"fp32": BLUE, "tf32x3": COLORS[4], "tf32": ORANGE, "bf16": COLORS[3]}
# Marker, and how the line is dashed.
LIBRARIES: dict[str, tuple[str, Any]] = {
    "gpu": ("o", "-"),
    "torch": ("s", (0, (5, 2))),
    "torch-compiled": ("^", (0, (5, 2, 1, 2))),
    "jax": ("D", (0, (1, 1.5))),
}
NAMES = {"gpu": "malade_gpu", "torch": "PyTorch", "torch-compiled": "PyTorch compiled", "jax": "JAX"}

# An axis that spans more than this has powers of ten only.
WIDE = 200

Point = tuple[float, float]
Lines = dict[str, list[Point]]  # by backend


def library_of(backend: str, precision: str) -> str:
    """From ``torch-compiled-tf32`` to ``torch-compiled``."""
    return backend.removesuffix(f"-{precision}")


class _Drawn:
    """Which backends were drawn, for one legend of a figure."""

    def __init__(self, works: Sequence[dict[str, Any]]) -> None:
        self.precision = {name: result["precision"] for work in works for name, result in work["backends"].items()}
        self.handles: dict[str, Any] = {}

    def line(self, axes: Any, name: str, points: Sequence[Point], *, joined: bool = True) -> None:
        precision = self.precision[name]
        library = library_of(name, precision)
        marker, dashes = LIBRARIES.get(library, ("x", "-"))
        x, y = zip(*sorted(points), strict=True)
        (self.handles[name],) = axes.plot(
            x,
            y,
            color=PRECISIONS.get(precision, GREY),
            marker=marker,
            markersize=5 if library == "gpu" else 6,
            # Hollow, so that what lies on the same place is seen.
            markerfacecolor=PRECISIONS.get(precision, GREY) if library == "gpu" else "none",
            linestyle=dashes if joined else "none",
            linewidth=1.3,
            label=f"{NAMES.get(library, library)}, {precision}",
        )

    def legend(self, figure: Any) -> None:
        order = [
            name
            for library in LIBRARIES
            for precision in PRECISIONS
            for name in self.handles
            if (library_of(name, self.precision[name]), self.precision[name]) == (library, precision)
        ]
        handles = [self.handles[name] for name in order]
        figure.legend(handles, [handle.get_label() for handle in handles], frameon=False, loc="outside right upper")


def curves(works: Sequence[dict[str, Any]], along: str, key: str, **fixed: Any) -> Lines:
    """What a backend has of ``key``, against a work's ``along``; of works that have these other properties."""
    lines: Lines = {}
    for work in works:
        if all(work[name] == value for name, value in fixed.items()):
            for name, result in work["backends"].items():
                value = result.get(key)
                if value:
                    lines.setdefault(name, []).append((work[along], value))
    return lines if any(len(points) > 1 for points in lines.values()) else {}


def batch_figure(works: Sequence[dict[str, Any]]) -> bytes | None:
    """Time an image against images."""
    panels = {
        "purification, 25 steps": curves(works, "batch", "median_seconds", kind="chain", steps=25),
        "classifier, input gradient": curves(works, "batch", "median_seconds", kind="gradient"),
    }
    panels = {title: _scaled(lines, lambda size, seconds: 1e6 * seconds / size) for title, lines in panels.items()}
    return _panels(works, [panels], xlabel="images in a batch", ylabels=["time an image (µs)"])


def steps_figure(works: Sequence[dict[str, Any]]) -> bytes | None:
    """Time an image, and memory, against steps."""
    times, memory = {}, {}
    for kind, title in (("chain", "purification"), ("chain-gradient", "gradient through the chain")):
        sizes = [work["batch"] for work in works if work["kind"] == kind]
        if sizes:
            batch = max(set(sizes), key=sizes.count)
            fixed = {"kind": kind, "batch": batch}
            where = f"{title}, {batch:,} images"
            lines = curves(works, "steps", "median_seconds", **fixed)
            times[where] = _scaled(lines, lambda _, seconds, batch=batch: 1e6 * seconds / batch)
            lines = curves(works, "steps", "memory_bytes", **fixed)
            memory[where] = _scaled(lines, lambda _, size: size / (1 << 20))
    return _panels(works, [times, memory], xlabel="steps", ylabels=["time an image (µs)", "device memory (MiB)"])


def _scaled(lines: Lines, scale: Any) -> Lines:
    return {name: [(size, scale(size, value)) for size, value in points] for name, points in lines.items()}


def _panels(
    works: Sequence[dict[str, Any]], rows: list[dict[str, Lines]], *, xlabel: str, ylabels: list[str]
) -> bytes | None:
    """Rows of panels, both axes logarithmic; None if there is nothing to draw."""
    kept = [
        ({title: lines for title, lines in panels.items() if lines}, ylabel)
        for panels, ylabel in zip(rows, ylabels, strict=True)
    ]
    kept = [(panels, ylabel) for panels, ylabel in kept if panels]
    if not kept:
        return None
    columns = max(len(panels) for panels, _ in kept)
    drawn = _Drawn(works)
    with drawing(width=4.0 * columns + 2.2, height=3.2 * len(kept) + 0.2) as (figure, content):
        grid = figure.subplots(len(kept), columns, squeeze=False)
        for (panels, ylabel), places in zip(kept, grid, strict=True):
            for axes in places[len(panels) :]:
                axes.set_axis_off()
            for (title, lines), axes in zip(panels.items(), places, strict=False):
                for name, points in lines.items():
                    drawn.line(axes, name, points)
                axes.set_xscale("log")
                axes.set_yscale("log")
                sizes = sorted({size for points in lines.values() for size, _ in points})
                # The sizes that were measured, as long as there is room for their numbers.
                _plain_ticks(axes.xaxis, sizes if sizes[-1] < WIDE * sizes[0] else _ticks(*axes.get_xlim()))
                _plain_ticks(axes.yaxis, _ticks(*axes.get_ylim()))
                axes.set_title(title, loc="left")
                axes.set_xlabel(xlabel)
                axes.set_ylabel(ylabel)
                axes.spines[["top", "right"]].set_visible(False)
                axes.grid(alpha=0.3, linewidth=0.5)
        drawn.legend(figure)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within an axis: 1, 2 and 5 of each power of ten, or the powers only where there are many."""
    steps = (1, 2, 5) if high < WIDE * low else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]


def _plain_ticks(axis: Any, places: Sequence[float]) -> None:
    """Numbers as people write them, where they are wanted."""
    from matplotlib.ticker import NullLocator

    axis.set_ticks(places, labels=[f"{place:,.0f}" if place >= 1 else f"{place:g}" for place in places])
    axis.set_minor_locator(NullLocator())


def roofline_figure(works: Sequence[dict[str, Any]]) -> bytes | None:
    """Share of the roofline: of the ceilings measured in the same run, or of the data sheet where there are none."""
    key = "roofline" if any("roofline" in result for work in works for result in work["backends"].values()) else None
    key = key or "h200_roofline"
    found = {
        work["name"]: {name: result[key] for name, result in work["backends"].items() if key in result}
        for work in works
    }
    found = {name: shares for name, shares in found.items() if shares}
    if not found:
        return None
    kinds = list(KINDS)
    details = {work["name"]: work for work in works}

    def place(name: str) -> tuple[int, int, int]:
        work = details[name]
        return kinds.index(work["kind"]), work["batch"], work["steps"]

    order = sorted(found, key=place)
    drawn = _Drawn(works)
    with drawing(width=9.5, height=0.27 * len(order) + 1.2) as (figure, content):
        axes = figure.subplots()
        for row, name in enumerate(order):
            axes.axhline(row, color=GREY, alpha=0.2, linewidth=0.5)
            for backend, least in found[name].items():
                drawn.line(axes, backend, [(100 * least["share"], row)], joined=False)
        axes.set_yticks(range(len(order)), labels=[_title(details[name], found[name]) for name in order])
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_xscale("log")
        low = min(least["share"] for shares in found.values() for least in shares.values())
        axes.set_xlim(max(0.01, 100 * low / 1.5), 130)
        _plain_ticks(axes.xaxis, [tick for tick in (0.01, 0.1, 1, 3, 10, 30, 100) if tick > 100 * low / 1.5])
        axes.axvline(100, color=GREY, linewidth=1)
        whose = "ceilings of the same run" if key == "roofline" else "an H200's data sheet"
        axes.set_xlabel(f"share of its precision's roofline (%),\nby {whose}")
        axes.set_title("work, images × steps", loc="right", x=-0.02, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3, linewidth=0.5)
        drawn.legend(figure)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def _title(work: dict[str, Any], shares: dict[str, Any]) -> str:
    """What was done, on how much; and what bounds it, if not operations for all."""
    size = f"{work['batch']:,}" + (f" × {work['steps']:,}" if work["steps"] else "")
    draws = f", {work['draws']} draws" if work["draws"] > 1 else ""
    bounds = {least["bound"] for least in shares.values()}
    note = "" if bounds == {"operations"} else f" (bound by {' or '.join(sorted(bounds))})"
    return f"{KINDS[work['kind']]}, {size}{draws}{note}"


FIGURES = {"batch.png": batch_figure, "steps.png": steps_figure, "roofline.png": roofline_figure}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.device.plots", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE.json", help="from python -m bench.device --out")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the figures go")
    options = parser.parse_args(arguments)
    try:
        content = load_json(options.file)
        if content.get("format") != "malade-bench-device" or "data_sheet" not in content:
            raise InputError(f"{options.file}: is not what python -m bench.device --out writes; run it again")
        folder = options.file.parent if options.out is None else options.out
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in FIGURES.items():
            figure = draw(content["works"])
            if figure is None:
                print(f"{name}: left out, because nothing for it was measured")
            else:
                atomic_write(folder / name, figure)
                print(f"written: {folder / name}")
    except InputError as error:
        print(f"plots: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
