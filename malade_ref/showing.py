"""How objects show themselves: a short line of text and, in a notebook, a little HTML with pictures.

    ``__repr__``      one line: sizes and what matters, never the numbers of an array
    ``_repr_html_``   a table or pictures; text from files and settings is escaped, pictures are PNG within the page

Arrays may live on any device. The classes that are shown say so in a line each; what is said of them is here.
"""

from __future__ import annotations

import base64
import html
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .checks import printable

MOST_CHARACTERS = 80  # of a value within a line
MOST_LAYERS = 12  # named on a line
MOST_IMAGES = 8  # of a batch
MOST_POSITIONS = 12  # of a path
SIDE = 64  # pixels of a picture in a page, at least

C = TypeVar("C", bound=type)


# Lines ---------------------------------------------------------------------------------------------------------------


def short(value: Any) -> str:
    """A value on one short line: an array by its dtype and shape, a table or a list by its length.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    str
        At most 80 characters or so.

    Examples
    --------
    >>> import numpy as np
    >>> short(np.zeros((2, 3))), short([1] * 100), short("a" * 3)
    ('float64 (2, 3)', 'list of 100', "'aaa'")
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {tuple(value.shape)}" if len(value.shape) else f"{value}"
    if type(value) is dict:
        return f"dict of {len(value)}"
    if type(value) in (list, tuple) and (
        len(value) > 4 or not all(isinstance(part, int | float | str) for part in value)
    ):
        return f"{type(value).__name__} of {len(value)}"
    said = repr(value)
    return said if len(said) <= MOST_CHARACTERS else f"{said[: MOST_CHARACTERS - 3]}..."


def line_of(thing: Any) -> str:
    """An object with fields on one line, each as `short` has it.

    Parameters
    ----------
    thing : NamedTuple or dataclass
        The object.
    """
    names = thing._fields if hasattr(thing, "_fields") else [field.name for field in fields(thing)]
    return f"{type(thing).__name__}({', '.join(f'{name}={short(getattr(thing, name))}' for name in names)})"


def shortly(kind: C) -> C:
    """Give a class of NamedTuples or dataclasses the line of `line_of` as its ``repr``.

    Parameters
    ----------
    kind : type
        The class; a decorator.
    """
    if not hasattr(kind, "_fields") and not is_dataclass(kind):
        raise TypeError(f"{kind}: expected a NamedTuple or a dataclass")
    kind.__repr__ = line_of  # type: ignore[assignment, method-assign]
    return kind


def network_line(network: Any) -> str:
    """A network: shapes, kinds of layers, number of parameters.

    Parameters
    ----------
    network : Network
        The network.
    """
    kinds = [layer.kind for layer in network.layers]
    if len(kinds) > MOST_LAYERS:
        kinds = [*kinds[: MOST_LAYERS - 3], f"... ({len(kinds)} layers)", *kinds[-2:]]
    shapes = f"{network.input_shape} -> {network.output_shape}"
    return f"Network({shapes}: {', '.join(kinds)}; {network.num_parameters} parameters)"


def defence_line(defence: Any) -> str:
    """A defence: shapes, settings of the chain, seed.

    Parameters
    ----------
    defence : MALADE
        The defence.
    """
    chain, shape = defence.chain, defence.input_shape
    said = ", ".join(f"{name}={value}" for name, value in chain._asdict().items())
    return f"MALADE({shape} -> {defence.num_classes} classes: {said}, seed={defence.stream.seed})"


def attack_line(result: Any) -> str:
    """The result of an attack: how many images it was made on and how many it changed the answer of.

    Parameters
    ----------
    result : AttackResult
        The result.
    """
    facts = attack_summary(result)
    if not facts["n"]:
        return "AttackResult(no images)"
    plural = "" if facts["n"] == 1 else "s"
    return (
        f"AttackResult({facts['n']} image{plural}: success {facts['success']:.1%}, distance "
        f"{facts['distance']:.4g} in the mean, {facts['largest_distance']:.4g} at most; "
        f"{facts['num_queries']:g} queries, {facts['num_gradients']:g} gradients an image)"
    )


def attack_summary(result: Any) -> dict[str, Any]:
    """What an attack found, over all images.

    Parameters
    ----------
    result : AttackResult
        The result.

    Returns
    -------
    dict
        ``n``, ``success`` (share), and over the images, if there are any: ``loss``, ``distance``, ``num_queries`` and
        ``num_gradients`` (means), ``largest_distance``, ``median_distance`` (of the successes; None without one).
    """
    success, distance = on_host(result.success).astype(bool), on_host(result.distance)
    if not len(success):
        return {"n": 0, "success": 0.0}
    means = {
        name: float(on_host(getattr(result, name)).mean())
        for name in ("loss", "distance", "num_queries", "num_gradients")
    }
    return {
        "n": len(success),
        "success": float(success.mean()),
        **means,
        "largest_distance": float(distance.max()),
        "median_distance": float(np.median(distance[success])) if success.any() else None,
    }


class History(dict[str, list[float]]):
    """How a training went: by name, one number an epoch."""

    def __repr__(self) -> str:
        epochs = max((len(values) for values in self.values()), default=0)
        said = [
            f"{name} {values[0]:.4g} -> {values[-1]:.4g}" if len(values) > 1 else f"{name} {values[-1]:.4g}"
            for name, values in self.items()
            if values and name not in ("epoch", "learning_rate")
        ]
        return f"History({epochs} epoch{'' if epochs == 1 else 's'}{': ' if said else ''}{', '.join(said)})"

    def _repr_html_(self) -> str:
        return table([*self], zip(*([f"{value:.4g}" for value in values] for values in self.values()), strict=False))


class Positions(list[Any]):
    """The positions of a batch of chains, one array (n, c, h, w) each; a list that shows itself."""

    def __repr__(self) -> str:
        return f"Positions({len(self)} of {short(self[0])})" if self else "Positions(none)"

    def _repr_html_(self) -> str:
        if not self:
            return html.escape(repr(self))
        count = min(len(self), MOST_POSITIONS)
        numbers = sorted({round(i * (len(self) - 1) / max(1, count - 1)) for i in range(count)})
        rows = zip(
            *([pictured(image, f"position {number}") for image in _first(self[number])] for number in numbers),
            strict=True,
        )
        return table([f"x_{number}" for number in numbers], rows, raw=True) + _more(self[0])


def dataset_line(data: Any) -> str:
    """A data set: its name, how many images each split has, their shape, how many classes.

    Parameters
    ----------
    data : Dataset
        The data set.
    """
    sizes = ", ".join(f"{len(getattr(data, name))} {name}" for name in ("train", "validation", "test"))
    return f"Dataset({printable(data.name)!r}: {sizes}; images {tuple(data.shape)}, {data.num_classes} classes)"


# HTML ----------------------------------------------------------------------------------------------------------------


def network_html(network: Any) -> str:
    """A network as a table of its layers.

    Parameters
    ----------
    network : Network
        The network.
    """
    shape, rows = tuple(network.input_shape), [["", "input", "", str(tuple(network.input_shape)), ""]]
    sizes: dict[str, int] = {}
    for name, values in network.params.items():
        if network.trains(name):
            first = name.partition(".")[0]
            sizes[first] = sizes.get(first, 0) + math.prod(values.shape)
    for number, layer in enumerate(network.layers):
        shape = tuple(layer.output_shape(shape))
        settings = {name: value for name, value in layer.description().items() if name != "kind"}
        said = ", ".join(f"{name}={short(value)}" for name, value in settings.items())
        rows.append([str(number), layer.kind, said, str(shape), f"{sizes.get(str(number), 0):,}"])
    end = f"{network.num_parameters:,} parameters, {network.dtype}" + (", added to the input" * network.residual)
    return table(["", "layer", "settings", "output", "parameters"], rows) + f"<p>{html.escape(end)}</p>"


def defence_html(defence: Any) -> str:
    """A defence: its settings, then both networks.

    Parameters
    ----------
    defence : MALADE
        The defence.
    """
    parts = [f"<p>{html.escape(defence_line(defence))}</p>"]
    for name in ("classifier", "denoiser"):
        network = getattr(defence, name)
        own = network._repr_html_() if hasattr(network, "_repr_html_") else html.escape(short(network))
        parts.append(f"<details><summary>{name}</summary>{own}</details>")
    return "".join(parts)


def attack_html(result: Any) -> str:
    """The result of an attack: its summary, and the first adversarial images.

    Parameters
    ----------
    result : AttackResult
        The result.
    """
    facts = {name.replace("_", " "): value for name, value in attack_summary(result).items()}
    shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in facts.values()]
    found = table([*facts], [shown])
    if len(result.x_adv.shape) != 4 or not len(result.x_adv):
        return found
    rows: list[list[str]] = [[], []]
    for image, success, distance in zip(
        _first(result.x_adv), _first(result.success), _first(result.distance), strict=True
    ):
        verdict = "success" if success else "no success"
        rows[0].append(pictured(image, f"adversarial image, {verdict}"))
        rows[1].append(f"{verdict}<br>{float(distance):.4g}")
    return found + table([str(i) for i in range(len(rows[0]))], rows, raw=True) + _more(result.x_adv)


def table(head: Sequence[str], rows: Iterable[Iterable[str]], *, raw: bool = False) -> str:
    """A table in HTML.

    Parameters
    ----------
    head : sequence of str
        Titles of the columns.
    rows : iterable of iterables of str
        The cells.
    raw : bool
        Whether the cells are HTML; otherwise they are escaped, as the titles always are.
    """

    def row(cells: Iterable[str], tag: str, escaped: bool) -> str:
        said = (cell if not escaped else html.escape(printable(cell)) for cell in cells)
        return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in said)}</tr>"

    body = "".join(row(cells, "td", not raw) for cells in rows)
    return f"<table><thead>{row(head, 'th', True)}</thead><tbody>{body}</tbody></table>"


def pictured(image: Any, words: str) -> str:
    """An image as an element of a page.

    Parameters
    ----------
    image : array of shape (c, h, w)
        Pixels in [0, 1]; three channels are colours, of others the first is shown. A vector is said in words.
    words : str
        What it shows, for those who do not see it.
    """
    pixels = on_host(image)
    if pixels.ndim != 3 or 0 in pixels.shape:
        return html.escape(short(pixels))
    pixels = pixels if len(pixels) == 3 else pixels[:1]
    levels = (np.nan_to_num(pixels.astype(np.float64)).clip(0, 1) * 255).round().astype(np.uint8)
    data = base64.b64encode(png(levels)).decode()
    width = levels.shape[2] * max(1, math.ceil(SIDE / levels.shape[2]))
    said = html.escape(printable(words), quote=True)
    style = "image-rendering: pixelated"
    return f'<img src="data:image/png;base64,{data}" width="{width}" alt="{said}" style="{style}">'


def png(levels: NDArray[np.uint8]) -> bytes:
    """An image as a PNG file.

    Parameters
    ----------
    levels : ndarray of shape (1, h, w) or (3, h, w), uint8
        Grey, or red, green and blue.

    References
    ----------
    .. [1] Portable Network Graphics (PNG) Specification, third edition, W3C, 2025.
    """
    channels, height, width = levels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # before each row its filter, 0: none
    rows[:, 1:] = levels.transpose(1, 2, 0).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def on_host(array: Any) -> NDArray[Any]:
    """An array in the memory of the host, wherever it lives.

    Parameters
    ----------
    array : array
        Of any backend.

    Returns
    -------
    ndarray
        The same numbers.
    """
    return np.asarray(array.get() if hasattr(array, "get") else array)


def _first(batch: Any) -> NDArray[Any]:
    return on_host(batch[:MOST_IMAGES])


def _more(batch: Any) -> str:
    return f"<p>the first {MOST_IMAGES} of {len(batch)} images</p>" if len(batch) > MOST_IMAGES else ""
