"""The gallery of a report's page: images under every attack, what was added to them, and where the chain took them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.evaluation import CLEAN
from malade_ref.report.labels import Labels, threat_label
from malade_ref.report.reading import ReportInput
from malade_ref.storage import Record, to_json

# Bytes of the images of a page, and how many classes are named beside one.
MOST_BYTES = 1_500_000
NUM_CLASSES = 3
# Levels of a perturbation to either side of zero; of few, its file is small.
LEVELS = 31
_BLUE, _WHITE, _RED = (np.array(color) for color in ((33, 102, 172), (255, 255, 255), (178, 24, 43)))


def gallery_of(inputs: ReportInput, labels: Labels) -> dict[str, Any] | None:
    """Gather what a gallery shows.

    Parameters
    ----------
    inputs : ReportInput
        What a bundle holds.
    labels : Labels
        Names for readers.

    Returns
    -------
    dict or None
        ``images`` (names), ``attacks`` and ``defences`` (pairs of key and name), ``views`` by image, attack and
        defence, and ``note``: what was left out, to keep the page small; None without pictures. Images are PNG files
        in base64.
    """
    record = inputs.records.get("pictures")
    if record is None:
        return None
    count = len(record.arrays["label"])
    whole = _gallery(record, inputs, labels, count)
    if whole is None:
        return None
    for number, positions, note in _plans(count):
        found = _part(whole, number, positions)
        if len(to_json("gallery", found, indent=None)) <= MOST_BYTES:
            return {**found, "note": note}
    return None


def _plans(count: int) -> list[tuple[int, bool, str]]:
    """How many images, whether with positions, and what is said of that: from all there is to one image alone."""
    plans = [(count, True, "")]
    note = "To keep this page small, {}."
    fewer = [(number, f"only {number} of {count} images are shown") for number in (count // 2, 1) if 0 < number < count]
    plans += [(number, True, note.format(words)) for number, words in fewer]
    plans.append((count, False, note.format("positions of the chains are left out")))
    return plans + [
        (number, False, note.format(f"{words}, without positions of the chains")) for number, words in fewer
    ]


def _part(whole: Mapping[str, Any], count: int, positions: bool) -> dict[str, Any]:
    """The first images of a gallery, with or without positions of the chains."""
    views = {
        key: {
            number: {name: value for name, value in view.items() if positions or name != "chain"}
            for number, view in by_image.items()
            if int(number) < count
        }
        for key, by_image in whole["views"].items()
    }
    return {**whole, "images": whole["images"][:count], "clean": whole["clean"][:count], "views": views}


def _gallery(record: Record, inputs: ReportInput, labels: Labels, count: int) -> dict[str, Any] | None:
    arrays = record.arrays
    cells = {cell.name: cell for cell in inputs.cells if f"{cell.name}/x_adv" in arrays}
    clean = {cell.defence: cell.name for cell in cells.values() if cell.attack == CLEAN}
    if not clean:
        return None
    originals = arrays[f"{next(iter(clean.values()))}/x_adv"]
    attacks: dict[str, str] = {}
    views: dict[str, dict[str, Any]] = {}
    order = {name: number for number, name in enumerate(labels.attacks)}
    for cell in sorted(cells.values(), key=lambda cell: (order.get(cell.attack, 0), cell.eps)):
        key = f"{cell.attack}/{cell.eps:g}"
        norm = str(cell.meta.get("norm") or "")
        size = f", {threat_label(norm, cell.eps)}" if cell.attack != CLEAN and cell.eps else ""
        attacks[key] = f"{labels.attacks.get(cell.attack, cell.attack)}{size}"
        views[f"{key}|{cell.defence}"] = {
            str(number): _view(arrays, cell.name, originals, number, labels) for number in range(count)
        }
    return {
        "images": [
            f"{number + 1}, true class {labels.class_name(int(arrays['label'][number]))}" for number in range(count)
        ],
        "clean": [_png(_bytes(originals[number])) for number in range(count)],
        "attacks": list(attacks.items()),
        "defences": [[name, labels.defences[name]] for name in labels.defences if name in clean],
        "start": _start(cells, labels, inputs.config),
        "views": views,
    }


def _start(cells: Mapping[str, Any], labels: Labels, config: Mapping[str, Any]) -> list[str]:
    """Which attack and defence are shown first: of the main size, on a defence with a chain if there is one."""
    main = config.get("report") or {}
    shown = [cell for cell in cells.values() if cell.attack != CLEAN] or list(cells.values())
    order = {name: number for number, name in enumerate(labels.attacks)}
    best = max(
        shown,
        key=lambda cell: (cell.correct.shape[1] > 1, cell.eps == main.get("eps"), order.get(cell.attack, 0)),
    )
    return [f"{best.attack}/{best.eps:g}", best.defence]


def _view(
    arrays: Mapping[str, NDArray[Any]],
    name: str,
    originals: NDArray[Any],
    number: int,
    labels: Labels,
) -> dict[str, Any]:
    label = int(arrays["label"][number])
    image = arrays[f"{name}/x_adv"][number]
    change = image.astype(np.float64) - originals[number]
    view: dict[str, Any] = {
        "image": _png(_bytes(image)),
        "classes": _classes(arrays[f"{name}/probability"][number], label, labels),
        "change": _change(change),
        "sizes": f"largest change {np.abs(change).max():.3g}, L2 {np.sqrt(np.square(change).sum()):.3g}",
    }
    steps = arrays.get(f"{name}/steps")
    if steps is not None:
        view["chain"] = [
            {
                "step": int(step),
                "image": _png(arrays[f"{name}/position"][place, number]),
                "classes": _classes(arrays[f"{name}/position_probability"][place, number], label, labels),
            }
            for place, step in enumerate(steps)
            if place == 0 or step != steps[place - 1]
        ]
    return view


def _classes(probability: NDArray[Any], label: int, labels: Labels) -> list[list[Any]]:
    """The most probable classes: name, percent, whether it is the true one."""
    if not np.isfinite(probability).all():
        return []
    best = np.argsort(-probability, kind="stable")[:NUM_CLASSES]
    return [[labels.class_name(int(k)), round(100 * float(probability[k]), 1), int(k) == label] for k in best]


def _bytes(image: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(255 * np.clip(image, 0, 1)), dtype=np.uint8)


def _change(change: NDArray[Any]) -> str:
    """A perturbation in red and blue; full colour is its largest change."""
    mean = change.mean(axis=0)
    limit = float(np.abs(mean).max()) or 1.0
    level = np.rint(LEVELS * mean / limit) / LEVELS
    ends = np.where(level[..., None] < 0, _BLUE, _RED)
    colors = _WHITE + np.abs(level[..., None]) * (ends - _WHITE)
    return _png(np.moveaxis(np.rint(colors).astype(np.uint8), -1, 0))


def _png(image: NDArray[np.uint8]) -> str:
    """A PNG file of an image (c, h, w), in base64."""
    from PIL import Image

    # Of channels that are no colours the first is shown.
    colors = np.moveaxis(image, 0, -1) if len(image) == 3 else image[0]
    content = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(colors))
    picture.save(content, "PNG", compress_level=9)
    return base64.b64encode(content.getvalue()).decode()
