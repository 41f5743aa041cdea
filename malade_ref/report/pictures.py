"""The paper's plates in a report: drawn from their records alone, each with a caption that says what is seen."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.checks import InputError
from malade_ref.figures import BLUE, GREY, ORANGE, drawing, png_settings
from malade_ref.report.labels import NORMS, Labels, count_of, size_text
from malade_ref.report.reading import PLATES, ReportInput
from malade_ref.storage import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours of a decision on a dark image.
RIGHT, WRONG = "#35d05f", "#ff5a4d"
# Settings that say how hard an attack tried, and the word for each.
EFFORT = {
    "num_steps": "step",
    "num_draws": "draw",
    "num_search_steps": "search step",
    "num_restarts": "restart",
    "num_trials": "trial",
}
WIDTH = 18  # characters of a column's title


def plate_results(records: Mapping[str, Record]) -> dict[str, Any]:
    """What plates say in numbers.

    Parameters
    ----------
    records : mapping of str to Record
        Of a bundle.

    Returns
    -------
    dict
        ``plates``, by the kind of plate and its name; empty if there are none.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, record in records.items():
        kind, _, plate = name.partition("/")
        if kind in PLATES:
            shown = {key: record.arrays[key].tolist() for key in ("label", "steps") if key in record.arrays}
            found.setdefault(kind, {})[plate] = {**record.meta, **shown}
    return {"plates": found} if found else {}


def draw_plates(inputs: ReportInput, labels: Labels) -> dict[str, bytes]:
    """Draw all plates that there are records of.

    Parameters
    ----------
    inputs : ReportInput
        What a bundle holds.
    labels : Labels
        Names for readers.

    Returns
    -------
    dict of str to bytes
        PNG files by their names in the bundle.
    """
    files: dict[str, bytes] = {}
    for name, record in inputs.records.items():
        kind, _, plate = name.partition("/")
        if kind == "sheets":
            files[_file(kind, plate)] = sheet(record)
        elif kind == "perturbations":
            titles = [
                f"{_attack(labels, column['attack'])} on {labels.defences.get(column['defence'], column['defence'])}"
                for column in record.meta["columns"]
            ]
            files[_file(kind, plate)] = perturbations(record, titles, labels)
        elif kind == "walks" and "marginal" in record.meta:
            for number in range(len(record.arrays["label"])):
                files[_file(kind, plate, number)] = two_chains(record, number, labels)
        elif kind == "walks":
            files[_file(kind, plate)] = walk(record, labels)
    return files


def _file(kind: str, plate: str, number: int | None = None) -> str:
    return f"figures/{kind.removesuffix('s')}-{plate}{'' if number is None else f'-{number + 1}'}.png"


# Text -----------------------------------------------------------------------------------------------------------------


def plate_text(
    results: Mapping[str, Any], config: Mapping[str, Any], labels: Labels, figures: Sequence[str]
) -> list[str]:
    """Captions of all plates, in the order of the experiment.

    Parameters
    ----------
    results, config : mapping
        With inert text.
    labels : Labels
        Names for readers.
    figures : sequence of str
        Files that there are.

    Returns
    -------
    list of str
        Lines of Markdown.
    """
    writers = {"sheets": _sheet_text, "perturbations": _perturbation_text, "walks": _walk_text}
    parts: list[tuple[str, list[str]]] = []
    for kind, plates in (results.get("plates") or {}).items():
        titles = {plate["name"]: plate.get("title") for plate in config.get(kind) or []}
        for plate, found in plates.items():
            title = titles.get(plate) or plate
            numbers = range(len(found["label"])) if found.get("marginal") is not None else [None]
            files = [file for number in numbers if (file := _file(kind, plate, number)) in figures]
            lines = [f"### {title}", "", *(line for file in files for line in (f"![{title}]({file})", ""))]
            parts.append((title, [*lines, f"*{writers[kind](found, config, labels)}*", ""]))
    # Figure 2 before Figure 10.
    parts.sort(key=lambda part: [int(word) if word.isdigit() else 0 for word in part[0].replace(":", " ").split()])
    return [line for _, lines in parts for line in lines]


def _sheet_text(found: Mapping[str, Any], config: Mapping[str, Any], labels: Labels) -> str:
    fell, count = found["num_fallen"], found["num_images"]
    shown = min(found["rows"] * found["columns"], count)
    norms = ", ".join(f"{NORMS[norm]} {found[norm]:.3g}" for norm in ("linf", "l1", "l2"))
    return (
        f"The first {count_of(shown, 'test image')} after {_effort(found, config, labels)}; they were not chosen. An "
        f"orange frame marks an image on which the attack failed by its own judgement; an image that the defence had "
        f"wrong before may be as it was. It was tried on "
        f"{count_of(count, 'image')}, of which {fell:,} fell ({100 * fell / count:.1f}%); on fresh draws of its noise "
        f"the defence is right about {100 * found['right']:.1f}%. Mean size of the perturbation over all of them, "
        f"those that did not fall included: {norms}."
    )


def _perturbation_text(found: Mapping[str, Any], config: Mapping[str, Any], labels: Labels) -> str:
    columns = "; ".join(_effort(column, config, labels) for column in found["columns"])
    return (
        f"What attacks added to the first {count_of(len(found['label']), 'test image')}, on one scale of colours: "
        f"{columns}. The maximum of a pixel is {size_text(found['eps'])}; white is no change. An orange frame marks a "
        "perturbation that left the defence right; one without any change was not needed. A "
        "perturbation that fills its ball with noise says that the attack's gradients had little to do with the image."
    )


def _walk_text(found: Mapping[str, Any], config: Mapping[str, Any], labels: Labels) -> str:
    chain = found["chain"]
    end = max(found["steps"], default=0)
    further = f"; the chain is continued to {end} for the picture" if end > chain["num_steps"] else ""
    settings = f"N = {chain['num_steps']}, a = {chain['a']:g}, delta = {chain['delta']:g}{further}"
    defence = labels.defences.get(found["defence"], found["defence"])
    if found.get("marginal") is not None:
        marginal = labels.models.get(found["marginal"], found["marginal"])
        return (
            f"One digit, clean and after {_effort({**found, 'eps': None}, config, labels)}, and on its way through the "
            f"chain of {defence} (above) and through the same chain driven by {marginal}, which never saw a label "
            f"(below). The defence's own chain has {settings}. Below each image the classifier's output for the true "
            "label and for the highest other one. The image is the first that the attack turned, with one draw of the "
            "noise: it shows how the chains work, not how often."
        )
    return (
        f"Two ways to read: down, the size of {_effort({**found, 'eps': None}, config, labels)}; to the right, the "
        f"position of the chain ({settings}). In the corner of each image the decision of the bare classifier about "
        "it, green if right and red if wrong: after the last step of the defence's own chain (framed) it is what the "
        "defence says. The first test images, not chosen, in one draw of the noise."
    )


def _effort(found: Mapping[str, Any], config: Mapping[str, Any], labels: Labels) -> str:
    """An attack with its settings, its size, and what it attacked."""
    name = found["attack"]
    table: Mapping[str, Any] = next((one for one in config.get("attacks") or [] if one["name"] == name), {})
    settings = table.get("settings") or {}
    parts = [f"eps {size_text(found['eps'])}"] if found["eps"] else []
    parts += [
        count_of(value, word) + (" a gradient" if key == "num_draws" else "")
        for key, word in EFFORT.items()
        if isinstance(value := settings.get(key), int) and value > 0 and (value > 1 or key == "num_steps")
    ]
    bare = ", made against the bare classifier" if table.get("source") not in (None, "defence") else ""
    told = f" ({', '.join(parts)})" if parts else ""
    return f"{_attack(labels, name)}{told} on {labels.defences.get(found['defence'], found['defence'])}{bare}"


def _attack(labels: Labels, name: str) -> str:
    return str(labels.attacks.get(name, name))


# Drawing --------------------------------------------------------------------------------------------------------------


def sheet(record: Record) -> bytes:
    """Draw a sheet of images; a frame marks those on which the attack failed.

    Parameters
    ----------
    record : Record
        Of a sheet.
    """
    from matplotlib.patches import Rectangle

    images, success = record.arrays["x_adv"], record.arrays["success"]
    columns = min(record.meta["columns"], len(images))
    rows = min(record.meta["rows"], -(-len(images) // columns))
    height, width = images.shape[2:]
    gap = max(2, width // 12)
    page = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    failed = []
    for number, image in enumerate(images[: rows * columns]):
        row, column = divmod(number, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        page[top : top + height, left : left + width] = np.moveaxis(_colours(image), 0, -1)
        if not success[number]:
            failed.append((left, top))
    scale = 0.62 / width
    size = (page.shape[1] * scale, page.shape[0] * scale)
    meta = record.meta
    sizes = ", ".join(f"{NORMS[norm]} {meta[norm]:.3g}" for norm in ("linf", "l1", "l2"))
    below = f"mean {sizes}", f"{meta['num_fallen']:,} of {meta['num_images']:,} fell"
    lines = [f"{below[0]}; {below[1]}"] if size[0] > 5 else [part.strip() for part in below]
    with drawing(width=max(size[0], 3.2), height=size[1] + 0.2 * len(lines) + 0.1) as (figure, content):
        axes = figure.subplots()
        axes.imshow(page, interpolation="nearest")
        axes.set_axis_off()
        for left, top in failed:
            place = (left - 0.5 - gap / 4, top - 0.5 - gap / 4)
            frame = Rectangle(place, width + gap / 2, height + gap / 2, edgecolor=ORANGE, facecolor="none", linewidth=2)
            axes.add_patch(frame)
        figure.supxlabel("\n".join(lines), fontsize=9)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def perturbations(record: Record, titles: Sequence[str], labels: Labels) -> bytes:
    """Draw what attacks added, one column each, on one symmetric scale of colours.

    Parameters
    ----------
    record : Record
        Of perturbations.
    titles : sequence of str
        Of the columns.
    labels : Labels
        Names for readers.
    """
    changes, success = record.arrays["change"].astype(np.float64), record.arrays["success"]
    columns, rows = changes.shape[:2]
    if len(titles) != columns:
        raise InputError(f"perturbations: expected {columns} titles, got {len(titles)}")
    limit = record.meta["eps"]
    wrapped = ["\n".join(textwrap.wrap(title, WIDTH)) for title in titles]
    with drawing(width=1.55 * columns + 1.2, height=1.5 * rows + 0.55) as (figure, content):
        grid = figure.subplots(rows, columns, squeeze=False)
        for column in range(columns):
            grid[0, column].set_title(wrapped[column], fontsize=9)
            for row in range(rows):
                axes = grid[row, column]
                shown = axes.imshow(
                    changes[column, row].mean(axis=0), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest"
                )
                _bare(axes)
                fell = success[column, row]
                axes.spines[:].set(color="#cccccc" if fell else ORANGE, linewidth=0.8 if fell else 2.5)
        for row, label in enumerate(record.arrays["label"].tolist()):
            name = labels.class_name(label)
            grid[row, 0].set_ylabel(f"digit {name}" if name.isdecimal() else name, fontsize=9)
        bar = figure.colorbar(shown, ax=grid, shrink=0.8, aspect=30, pad=0.03)
        bar.set_ticks([-limit, -limit / 2, 0, limit / 2, limit])
        bar.set_label("change of the pixel")
        figure.savefig(content, **png_settings())
        return content.getvalue()


def walk(record: Record, labels: Labels) -> bytes:
    """Draw images on their way through a chain: a panel an image, a row a size, a column a position.

    Parameters
    ----------
    record : Record
        Of a walk without a second chain.
    labels : Labels
        Names for readers.
    """
    from matplotlib.patheffects import withStroke

    arrays, meta = record.arrays, record.meta
    positions, probability = arrays["malade/position"], arrays["malade/probability"]
    sizes, columns, count = positions.shape[:3]
    steps, end = arrays["steps"].tolist(), meta["chain"]["num_steps"]
    width = 0.72 * columns + 0.75
    side = max(1, min(count, int(13 / width)))
    with drawing(width=width * side, height=(0.78 * sizes + 0.75) * -(-count // side)) as (figure, content):
        panels = np.atleast_1d(figure.subfigures(-(-count // side), side, wspace=0.04, squeeze=False)).ravel()
        for number in range(count):
            grid = panels[number].subplots(sizes, columns, squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03})
            label = int(arrays["label"][number])
            for row, column in np.ndindex(sizes, columns):
                axes: Axes = grid[row, column]
                _image(axes, positions[row, column, number])
                decision = int(probability[row, column, number].argmax())
                corner = axes.text(
                    *(0.95, 0.93, labels.class_name(decision)),
                    transform=axes.transAxes,
                    ha="right",
                    va="top",
                    fontsize=10,
                    fontweight="bold",
                    color=RIGHT if decision == label else WRONG,
                )
                corner.set_path_effects([withStroke(linewidth=2, foreground="black")])
                own = steps[column] == end
                axes.spines[:].set(color=BLUE if own else GREY, linewidth=2 if own else 0.5)
            for row, eps in enumerate(arrays["eps"].tolist()):
                text = f"eps {size_text(eps)}" if eps else "clean"
                grid[row, 0].set_ylabel(text, fontsize=9, rotation=0, ha="right", va="center", labelpad=4)
            for column, step in enumerate(steps):
                grid[0, column].set_title(f"N = {step}", fontsize=9, fontweight="bold" if step == end else "normal")
            letter = f"({chr(97 + number)}) " if count > 1 else ""
            panels[number].suptitle(f"{letter}true class {labels.class_name(label)}", fontsize=10)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def two_chains(record: Record, number: int, labels: Labels) -> bytes:
    """Draw one image as the paper's Figure 2: clean, adversarial, and at positions of two chains.

    Parameters
    ----------
    record : Record
        Of a walk with a second chain.
    number : int
        Which of its images.
    labels : Labels
        Names for readers.
    """
    arrays = record.arrays
    label, steps = int(arrays["label"][number]), arrays["steps"].tolist()
    columns = 2 + len(steps)
    with drawing(width=1.35 * columns + 0.9, height=4.1) as (figure, content):
        grid = figure.subplots(2, columns, squeeze=False)
        for axes in grid[1, :2]:
            axes.set_box_aspect(1)
            axes.set_axis_off()
        shown: list[tuple[Axes, NDArray[Any], NDArray[Any]]] = [
            (grid[0, column], arrays[name][number], arrays[f"{name}_probability"][number])
            for column, name in enumerate(("clean", "adversarial"))
        ]
        shown += [
            (
                grid[row, 2 + column],
                arrays[f"{chain}/position"][0, column, number],
                arrays[f"{chain}/probability"][0, column, number],
            )
            for row, chain in enumerate(("malade", "marginal"))
            for column in range(len(steps))
        ]
        for axes, image, probability in shown:
            _image(axes, image)
            others = np.delete(probability, label)
            other = int(np.delete(np.arange(len(probability)), label)[others.argmax()])
            pairs = [(label, float(probability[label])), (other, float(others.max()))]
            winner = int(pairs[1][1] > pairs[0][1])
            axes.spines[:].set(color=ORANGE if winner else BLUE, linewidth=2)
            for line, (decision, value) in enumerate(pairs):
                axes.text(
                    *(0.5, -0.07 - 0.16 * line, f"ŷ({labels.class_name(decision)}) = {value:.2f}"),
                    transform=axes.transAxes,
                    ha="center",
                    va="top",
                    fontsize=9.5,
                    color=(ORANGE if winner else BLUE) if line == winner else GREY,
                    fontweight="bold" if line == winner else "normal",
                )
        for column, title in enumerate(["clean", "adversarial", *(f"N = {step}" for step in steps)]):
            grid[0, column].set_title(title, fontsize=10)
        for row, name in enumerate(("MALADE", "MALA,\nmarginal")):
            grid[row, 2].set_ylabel(name, fontsize=10)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def _image(axes: Axes, image: NDArray[Any]) -> None:
    axes.imshow(np.moveaxis(_colours(image), 0, -1), interpolation="nearest")
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def _colours(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image (c, h, w) with three channels."""
    if len(image) not in (1, 3):
        raise InputError(f"images: expected one channel or three, got {len(image)}")
    clipped = np.clip(image, 0, 255).astype(np.uint8)
    return np.repeat(clipped, 3, axis=0) if len(image) == 1 else clipped
