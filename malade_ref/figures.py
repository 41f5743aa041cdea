"""Figures of a report, as PNG.

Every function takes plain numbers and host arrays and returns the bytes of a file. Equal input gives equal bytes (with
one version of matplotlib): its settings are the built-in ones, and the file says neither when nor by what it was made.
Colours are those of Okabe and Ito, which colour-blind readers can tell apart; markers and labels say the same again.

matplotlib is imported when it is needed: `require` tells beforehand whether it is there.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .checks import InputError, check_ndim, check_shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
BLACK, GREY = "#000000", "#777777"
BLUE, ORANGE = "#0072B2", "#D55E00"
COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D31", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")

# Losses that fall by more are shown on a logarithmic axis.
LOG_RATIO = 3.0


class Curve(NamedTuple):
    """Accuracy of one defence under one attack.

    Attributes
    ----------
    label : str
        The attack.
    eps : sequence of float
        Where it was measured.
    value, low, high : sequence of float
        Accuracies and the limits of their intervals, as shares.
    emphasized : bool
        Whether it is the line to look at: the worst case.
    joined : list of list of int, optional
        Numbers of the points that a line joins, one list a line; all of them by default.
    """

    label: str
    eps: Sequence[float]
    value: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    emphasized: bool = False
    joined: list[list[int]] | None = None


def require() -> None:
    """Raise unless figures can be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError(f"figures: need matplotlib ({error}); pip install 'malade[cli]'") from error


def training_curves(histories: Mapping[str, Mapping[str, Sequence[float]]], *, labels: Mapping[str, str]) -> bytes:
    """Draw the loss of every network, epoch by epoch.

    Parameters
    ----------
    histories : mapping
        For each network ``epoch``, ``loss`` and what else was followed; ``validation_*`` of each.
    labels : mapping of str to str
        What to call the networks; their own names by default.
    """
    if not histories:
        raise InputError("training curves: expected at least one history, got none")
    columns = min(3, len(histories))
    rows = math.ceil(len(histories) / columns)
    with drawing(width=3.2 * columns, height=2.7 * rows + 0.3) as (figure, content):
        for axes, (name, history) in _panels(figure, rows, columns, list(histories.items())):
            for key, text, color, marker in (
                ("loss", "training", BLUE, "o"),
                ("validation_loss", "validation", ORANGE, "s"),
            ):
                if key in history:
                    epochs = np.arange(1, len(history[key]) + 1)
                    axes.plot(epochs, history[key], color=color, marker=marker, markersize=4, label=text)
            losses = [value for key in ("loss", "validation_loss") for value in history.get(key, [])]
            if min(losses, default=0) > 0 and max(losses) > LOG_RATIO * min(losses):
                axes.set_yscale("log")
                _plain_log_ticks(axes)
            axes.set_title(f"{labels.get(name, name)}{_final(history)}", loc="left")
            axes.set_xlabel("epoch")
            axes.set_ylabel("squared error + label term" if "cross_entropy" in history else _loss_name(history))
            _number_epochs(axes, max(map(len, history.values()), default=1))
            axes.grid(alpha=0.3, which="both", linewidth=0.5)
            axes.legend(frameon=False)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def accuracy_curves(
    panels: Mapping[str, Sequence[Curve]], *, xlabel: str | Mapping[str, str], clean: Mapping[str, float]
) -> bytes:
    """Draw accuracy against what the attacker may do: a panel for each defence, or each norm, with its lines.

    Parameters
    ----------
    panels : mapping of str to sequence of Curve
        By title. Curves of the same label have the same colour in all panels.
    xlabel : str, or mapping of str to str
        What accuracy is drawn against; by title, if the panels differ in it.
    clean : mapping of str to float
        Accuracy on clean images, as a share, by title.
    """
    require()
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(curve.label for curves in panels.values() for curve in curves if not curve.emphasized))
    if not any(panels.values()):
        raise InputError("accuracy curves: expected at least one curve, got none")
    columns = 3 if len(panels) == 3 else min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    handles: dict[str, Any] = {}
    # Beside the panels there is room for so many lines of names; more stand below them.
    beside = sum(1 + name.count("\n") for name in names) <= 12 * rows
    width = (3.2 if columns == 3 else 4.0) * columns + (2.4 if beside else 0)
    legend_columns = max(1, int(width / 3.6))
    below = 0 if beside else 0.2 * math.ceil((len(names) + 2) / legend_columns) + 0.2
    with drawing(width=width, height=2.6 * rows + 0.5 + below) as (figure, content):
        share = isinstance(xlabel, str)
        for axes, (title, curves) in _panels(figure, rows, columns, list(panels.items()), share=share):
            if title in clean:
                handles["clean images"] = axes.axhline(
                    100 * clean[title], color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="clean images"
                )
            for curve in sorted(curves, key=lambda curve: curve.emphasized):
                number = 0 if curve.emphasized else names.index(curve.label)
                # Beyond the last colour they come again, dashed and hollow.
                again = not curve.emphasized and number >= len(COLORS)
                color = BLACK if curve.emphasized else COLORS[number % len(COLORS)]
                marker = "o" if curve.emphasized else MARKERS[number % len(MARKERS)]
                low, value, high = (100 * np.asarray(part) for part in (curve.low, curve.value, curve.high))
                eps = np.asarray(curve.eps)
                for group in [list(range(len(eps)))] if curve.joined is None else curve.joined:
                    axes.fill_between(eps[group], low[group], high[group], color=color, alpha=0.15, linewidth=0)
                    if len(group) == 1:
                        axes.vlines(eps[group], low[group], high[group], color=color, linewidth=1)
                    (handles[curve.label],) = axes.plot(
                        eps[group],
                        value[group],
                        color=color,
                        marker=marker,
                        # A ring and dashes, through which the attack below can be seen.
                        markersize=12 if curve.emphasized else 5,
                        markerfacecolor="none" if curve.emphasized else "white" if again else color,
                        markeredgewidth=1.5 if curve.emphasized else 1,
                        linewidth=2 if curve.emphasized else 1.2,
                        linestyle=(0, (3, 3)) if curve.emphasized else (0, (6, 2)) if again else "-",
                        label=curve.label,
                        clip_on=False,
                        zorder=3 if curve.emphasized else 2,
                    )
            axes.set_title(title, loc="left")
            axes.set_ylim(0, 100)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
            axes.set_xlabel(xlabel if isinstance(xlabel, str) else xlabel[title])
            axes.set_ylabel("accuracy (%)")
            axes.grid(alpha=0.3, linewidth=0.5)
        order = [name for name in ("clean images", *names) if name in handles]
        order += [name for name in handles if name not in order]
        place: dict[str, Any] = {"loc": "outside right upper"}
        if not beside:
            place = {"loc": "outside lower left", "ncols": legend_columns}
        texts = order if beside else [name.replace("\n", " ") for name in order]
        figure.legend([handles[name] for name in order], texts, frameon=False, **place)
        figure.savefig(content, **png_settings())
        return content.getvalue()


class Dot(NamedTuple):
    """Accuracy of one defence under one attack, at one size.

    Attributes
    ----------
    label : str
        The attack.
    value, low, high : float
        Accuracy and the limits of its interval, as shares.
    emphasized : bool
        Whether it is no attack: clean images, or the worst case.
    """

    label: str
    value: float
    low: float
    high: float
    emphasized: bool = False


def accuracy_dots(panels: Mapping[str, Sequence[Dot]], *, xlabel: str) -> bytes:
    """Draw accuracies under many attacks of one size: a panel a defence, a row an attack.

    Parameters
    ----------
    panels : mapping of str to sequence of Dot
        By title, from the top down.
    xlabel : str
        What is drawn.
    """
    if not panels or not all(panels.values()):
        raise InputError("accuracy dots: expected at least one panel, and a dot in each")
    heights = [len(dots) for dots in panels.values()]
    with drawing(width=7.2, height=0.27 * sum(heights) + 0.5 * len(panels) + 0.5) as (figure, content):
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})
        for axes, (title, dots) in zip(grid[:, 0], panels.items(), strict=True):
            for row, dot in enumerate(dots):
                color = BLACK if dot.emphasized else BLUE
                axes.hlines(row, 100 * dot.low, 100 * dot.high, color=color, linewidth=1.5)
                axes.plot(
                    [100 * dot.value],
                    [row],
                    color=color,
                    marker="D" if dot.emphasized else "o",
                    markersize=6,
                    clip_on=False,
                )
            axes.set_yticks(range(len(dots)), [dot.label for dot in dots], fontsize=8)
            for text, dot in zip(axes.get_yticklabels(), dots, strict=True):
                text.set_fontweight("bold" if dot.emphasized else "normal")
            axes.set_ylim(len(dots) - 0.4, -0.6)
            axes.set_xlim(0, 100)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(left=False, labelbottom=True)
            axes.set_title(title, loc="left")
            axes.grid(alpha=0.3, linewidth=0.5)
        grid[-1, 0].set_xlabel(xlabel)
        figure.savefig(content, **png_settings())
        return content.getvalue()


class Line(NamedTuple):
    """Accuracy of one defence under one attack, or under the worst for each image.

    Attributes
    ----------
    label : str
        For the legend.
    group : str
        Lines of one group share a colour if one of them is ``worst``.
    x, value, low, high : sequence of float
        Where it was measured; accuracies and the limits of their intervals, as shares.
    worst : bool
        Whether it is of the worst attack: drawn dashed.
    joined : list of list of int, optional
        As of `Curve`.
    """

    label: str
    group: str
    x: Sequence[float]
    value: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    worst: bool = False
    joined: list[list[int]] | None = None


def line_figure(lines: Sequence[Line], *, title: str, xlabel: str, from_zero: bool = False) -> bytes:
    """Draw accuracies against one quantity in one panel.

    Parameters
    ----------
    lines : sequence of Line
        In the order of the legend.
    title : str
        Above the panel.
    xlabel : str
        What accuracy is drawn against.
    from_zero : bool
        Whether the horizontal axis begins at zero.
    """
    if not lines:
        raise InputError("line figure: expected at least one line, got none")
    solid = [line for line in lines if not line.worst]
    groups = [line.group for line in solid]
    with drawing(width=7.2, height=3.8) as (figure, content):
        ((axes, _),) = _panels(figure, 1, 1, [("", None)])
        for line in lines:
            number = groups.index(line.group) if line.worst and line.group in groups else 0
            if not line.worst:
                number = solid.index(line)
            # The worst case of the only defence is black; of several, each has the colour of its defence.
            color = BLACK if line.worst and len(set(groups)) < 2 else COLORS[number % len(COLORS)]
            marker = MARKERS[number % len(MARKERS)]
            x = np.asarray(line.x)
            low, value, high = (100 * np.asarray(part) for part in (line.low, line.value, line.high))
            for part, group in enumerate([list(range(len(x)))] if line.joined is None else line.joined):
                axes.fill_between(x[group], low[group], high[group], color=color, alpha=0.12, linewidth=0)
                if len(group) == 1:
                    axes.vlines(x[group], low[group], high[group], color=color, linewidth=1)
                axes.plot(
                    x[group],
                    value[group],
                    color=color,
                    marker=marker,
                    markersize=9 if line.worst else 5,
                    markerfacecolor="none" if line.worst else color,
                    linewidth=1.6,
                    linestyle=(0, (3, 2)) if line.worst else "-",
                    label="_" if part else "\n".join(textwrap.wrap(line.label, 30)),
                    clip_on=False,
                    zorder=3 if line.worst else 2,
                )
        axes.set_ylim(0, 100)
        if from_zero:
            axes.set_xlim(left=0)
        axes.set_title(title, loc="left")
        axes.set_xlabel(xlabel)
        axes.set_ylabel("accuracy (%)")
        axes.grid(alpha=0.3, linewidth=0.5)
        figure.legend(loc="outside right upper", frameon=False)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def certified_curves(curves: Sequence[Curve], *, sigma: float, num_draws: int, alpha: float, largest: float) -> bytes:
    """Draw certified accuracy against the radius, one line for each smoothed classifier.

    Parameters
    ----------
    curves : sequence of Curve
        ``eps`` is the L2 radius, in pixel units.
    sigma : float
        Standard deviation of the noise, in pixel units.
    num_draws : int
        Draws that a certificate rests on.
    alpha : float
        Probability of a wrong certificate, at most.
    largest : float
        The largest radius that so many draws can certify.
    """
    if not curves:
        raise InputError("certified curves: expected at least one curve, got none")
    with drawing(width=5.6, height=4.0) as (figure, content):
        ((axes, _),) = _panels(figure, 1, 1, [("", None)])
        axes.axvline(
            largest, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="the most that so many draws can certify"
        )
        for number, curve in enumerate(curves):
            color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
            low, value, high = (100 * np.asarray(part) for part in (curve.low, curve.value, curve.high))
            axes.fill_between(curve.eps, low, high, color=color, alpha=0.15, linewidth=0)
            # Markers of different curves stand at different places, where they do not hide each other.
            spacing = (max(1, len(value) // 40) * (3 * number + 1), max(1, len(value) // 8))
            axes.plot(
                curve.eps,
                value,
                color=color,
                marker=marker,
                markevery=spacing,
                markersize=5,
                label=curve.label,
                clip_on=False,
                zorder=3,
            )
        axes.set_ylim(0, 100)
        axes.set_xlim(left=0)
        axes.set_xlabel("certified L2 radius (pixels in [0, 1])")
        axes.set_ylabel("certified accuracy (%)")
        axes.set_title(f"sigma {sigma:.4g}, {num_draws:,} draws, alpha {alpha:g}", loc="left")
        axes.grid(alpha=0.3, linewidth=0.5)
        handles, labels = axes.get_legend_handles_labels()
        # The line of the limit comes last.
        figure.legend(
            [*handles[1:], handles[0]], [*labels[1:], labels[0]], loc="outside lower center", ncols=2, frameon=False
        )
        figure.savefig(content, **png_settings())
        return content.getvalue()


def picture_table(
    images: NDArray[Any],
    predictions: NDArray[Any],
    probabilities: NDArray[Any],
    *,
    label: int,
    titles: Sequence[str],
    names: Sequence[str],
    class_name: Callable[[int], str] = str,
) -> bytes:
    """Draw what became of one image, with what a classifier thinks of it: by attacks, or on its way through chains.

    Parameters
    ----------
    images : ndarray of shape (r, t, c, h, w)
        Rows, such as chains, and columns, such as their positions; pixels in [0, 1], one channel or three.
    predictions : ndarray of shape (r, t), integer
        Most probable class of each.
    probabilities : ndarray of shape (r, t)
        Its probability; NaN where there is no image.
    label : int
        The true class.
    titles : sequence of str
        What to call the columns.
    names : sequence of str
        What to call the rows.
    class_name : callable
        What to call a class, briefly; by default its number.
    """
    check_ndim("images", images, 5, "(rows, columns, c, h, w)")
    rows, columns = images.shape[:2]
    check_shape("predictions", predictions, (rows, columns))
    check_shape("probabilities", probabilities, (rows, columns))
    if not rows * columns or (len(names), len(titles)) != (rows, columns):
        raise InputError(f"names and titles: expected {rows} and {columns}, got {len(names)} and {len(titles)}")
    # Many rows of few columns stand side by side, in blocks.
    width = 1.15 * columns + 1.4
    blocks = min(math.ceil(rows / 6), max(1, int(10.5 / width))) if rows > 8 else 1
    height = math.ceil(rows / blocks)
    with drawing(width=width * blocks, height=1.45 * height + 0.6) as (figure, content):
        places = figure.subplots(height, columns * blocks, squeeze=False)
        # As many rows as the blocks have room for; those left over stay empty.
        grid = np.concatenate(np.split(places, blocks, axis=1))
        for axes in grid[rows:].flat:
            axes.set_axis_off()
        for row in range(rows):
            for column in range(columns):
                axes = grid[row, column]
                if row % height == 0:
                    axes.set_title(titles[column], fontsize=10)
                axes.set_xticks([])
                axes.set_yticks([])
                if np.isnan(probabilities[row, column]):
                    # As large as an image, so that its title and its row's name stand where the others do.
                    axes.set_box_aspect(images.shape[3] / images.shape[4])
                    axes.spines[:].set_visible(False)
                    continue
                axes.imshow(_pixels(images[row, column]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                prediction = int(predictions[row, column])
                color, sign = (BLUE, "✓") if prediction == label else (ORANGE, "✗")
                for spine in axes.spines.values():
                    spine.set(color=color, linewidth=2)
                name = class_name(prediction)
                text = f"{sign} {name} ({_share(float(probabilities[row, column]))})"
                axes.set_xlabel(text, color=color, fontsize=10 if len(name) < 4 else 7, fontweight="bold", labelpad=3)
            grid[row, 0].set_ylabel(names[row], fontsize=10, rotation=0, ha="right", va="center", labelpad=6)
        line = " " if width * blocks > 5 else "\n"
        figure.suptitle(
            f"True class {class_name(label)}.{line}Below each image: predicted class (its probability)", fontsize=10
        )
        figure.savefig(content, **png_settings())
        return content.getvalue()


def contact_sheet(images: NDArray[Any], *, columns: int = 10, titles: Sequence[str] = ()) -> bytes:
    """Draw many images, row by row.

    Parameters
    ----------
    images : ndarray of shape (n, c, h, w)
        Pixels in [0, 1]; one channel or three.
    columns : int
        Images in a row.
    titles : sequence of str
        One for each image, or none.
    """
    check_ndim("images", images, 4, "(n, c, h, w)")
    if len(images) == 0 or images.shape[1] not in (1, 3) or len(titles) not in (0, len(images)):
        raise InputError(f"images: expected n >= 1 of 1 or 3 channels and n titles or none, got {images.shape}")
    rows = math.ceil(len(images) / columns)
    with drawing(width=0.8 * columns, height=(1.0 if titles else 0.8) * rows) as (figure, content):
        grid = figure.subplots(rows, columns, squeeze=False)
        for number, axes in enumerate(grid.flat):
            axes.set_axis_off()
            if number < len(images):
                axes.imshow(_pixels(images[number]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                if titles:
                    axes.set_title(titles[number], fontsize=8, pad=2)
        figure.savefig(content, **png_settings())
        return content.getvalue()


@contextmanager
def drawing(*, width: float, height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    """Provide an empty figure under matplotlib's own settings, whatever the user's are, and a place for its bytes.

    Parameters
    ----------
    width, height : float
        In inches.

    Yields
    ------
    figure : Figure
        Without axes.
    content : BytesIO
        Where `png_settings` lets it be written to.
    """
    require()
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, io.BytesIO()


def _panels(
    figure: Figure, rows: int, columns: int, items: Sequence[tuple[str, Any]], *, share: bool = False
) -> Iterator[tuple[Axes, tuple[str, Any]]]:
    """Axes for each item; those left over stay empty."""
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    for number, axes in enumerate(grid.flat):
        if number < len(items):
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelbottom=True, labelleft=True)
            yield axes, items[number]
        else:
            axes.set_axis_off()


def _pixels(image: NDArray[Any]) -> NDArray[Any]:
    """An image (c, h, w) as matplotlib wants it."""
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)


def _share(probability: float) -> str:
    """In whole percent, but 0% and 100% only if it is so to one in a thousand."""
    if 0.001 <= probability < 0.01 or 0.99 <= probability < 0.999:
        return "<1%" if probability < 0.01 else ">99%"
    return f"{100 * probability:.0f}%"


def _final(history: Mapping[str, Sequence[float]]) -> str:
    """Second line of a title: what the last epoch reached on the validation split, else in training."""
    parts = []
    for key, text, scale, unit in (("accuracy", "accuracy", 100.0, "%"), ("error", "squared error", 1.0, "")):
        values = history.get(f"validation_{key}") or history.get(key)
        if values:
            where = "validation" if f"validation_{key}" in history else "training"
            parts.append(f"{where} {text} {scale * values[-1]:.1f}{unit}")
    return f"\n{', '.join(parts)}" if parts else ""


def _loss_name(history: Mapping[str, Sequence[float]]) -> str:
    return "squared error an image" if "error" in history else "cross entropy (nats)"


def _plain_log_ticks(axes: Axes) -> None:
    """Label a logarithmic axis with plain numbers, and enough of them where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_ylim()
    subs = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0) if high / low > 10 else (1.0, 2.0, 3.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _number_epochs(axes: Axes, count: int) -> None:
    """Give an axis whole numbers from 1 on, and room for a single one."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.8, count + 0.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def png_settings() -> dict[str, Any]:
    """How to write a file that depends on nothing but the drawing.

    Returns
    -------
    dict
        Options of ``Figure.savefig``.
    """
    return {"format": "png", "dpi": DPI, "metadata": {"Software": None}}


_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "text.parse_math": False,  # a dollar in a title is a dollar
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
