"""Figures of the laboratory, drawn from the claims' arrays; the house style is that of `malade_ref.figures`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.figures import BLACK, BLUE, COLORS, GREY, MARKERS, ORANGE, drawing, png_settings
from malade_ref.theorem.claims import Claim
from malade_ref.theorem.drift import FIELD_SIGMA, MAIN, OVER, PARTS, TITLES, UNDER
from malade_ref.theorem.idea import TITLES as IDEAS
from malade_ref.theorem.identity import BETAS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREEN, PINK = COLORS[2], COLORS[3]
CLASS_COLORS = (BLUE, ORANGE, GREEN)

CAPTIONS: dict[str, dict[str, str]] = {
    "sdae": {
        "figures/slopes.png": "Errors against the noise, one thin line for each kind of mixture. Left: the score's "
        "error falls as sigma^2 for every classifier, if the right label term is counted in. Right: the label term "
        "itself vanishes for a calibrated classifier only.",
        "figures/temperature.png": "Where the label term leads, by what is wrong with the classifier or the labels: "
        "mean derivative of the log probability of the Bayes class (left, right) or of class 0 (middle) along the "
        "label term; bars are 95% intervals.",
    },
    "trained": {
        "figures/trained.png": "Left: what a trained DAE's score errs by against the score of the clean data (mean "
        "over training sets and each set's own dots), and its two parts: the smoothing, which is known, and what the "
        "network has not learnt. Right: the distance from the exact minimiser against the number of training points.",
    },
    "drift": {
        "figures/fields.png": "One world through different denoisers. Colours: the three classes, paler where data are "
        "rare; grey lines: the Bayes classifier's borders. Above: the score itself, and what a DAE and a calibrated "
        "sDAE make of it. Below: the label term, all that supervision adds. It is next to nothing if the classifier is "
        "calibrated; it leads away from borders if it is under-confident, and onto them if it is over-confident.",
        "figures/chains.png": "Eight chains from displaced points of the lower left class (circles), with the same "
        "noise in all panels; a cross is where a chain ends, blue if back in its class, red if not. The share is that "
        "of all chains, from all classes.",
        "figures/drift.png": "Where chains end, by how far their starts were displaced: back in the class they are "
        "from (left), and in the basin in which they started (right); bars are 95% intervals.",
    },
    "ula": {
        "figures/ula.png": "Left: stationary variance of the chain on N(0, 1), measured (95% intervals are smaller "
        "than the marks) and by formula (lines). Middle and right: distance of the chain's stationary density from the "
        "true one, from the transition kernel; lines are fits to the three smallest steps.",
        "figures/quartic.png": "On exp(-x^4 / 4) every chain without an accept step is lost sooner or later.",
    },
    "idea": {
        "figures/idea.png": "The paper's Figure 1, measured. Two classes (blue, orange) and the Bayes classifier's "
        "border; a clean point (black circle) is moved beyond it (red circle), and chains set out from there and from "
        "five other points, with the same noise in all panels. A cross is where a chain ends: dark blue if back in its "
        "class, brown if not. The paper promises that the third panel looks like the fourth; its theorem says that it "
        "looks like the first two. The shares are those of all points, from both classes.",
    },
    "mala": {
        "figures/acceptance.png": "Left and middle: efficiency of MALA (expected squared jump, relative to the best) "
        "against its acceptance rate, in d dimensions; the dotted line is at 0.574. Right: the best step variance, and "
        "the slope -1/3 that theory gives for many dimensions.",
    },
}


def draw_figures(claims: Mapping[str, Claim]) -> dict[str, bytes]:
    """Draw all figures that there are claims for.

    Parameters
    ----------
    claims : mapping of str to Claim
        By name.

    Returns
    -------
    dict of str to bytes
        PNG files by their names in the bundle.
    """
    drawers: dict[str, tuple[Callable[..., bytes], tuple[str, ...]]] = {
        "slopes": (slopes, ("sdae-calibrated", "sdae-miscalibrated")),
        "temperature": (temperature, ("sdae-drift",)),
        "trained": (trained, ("trained-u-shape", "trained-sample-size")),
        "fields": (fields, ("drift-confidence",)),
        "chains": (chains, ("drift-none", "drift-confidence")),
        "drift": (drift, ("drift-none",)),
        "ula": (ula, ("ula-variance", "ula-bias")),
        "quartic": (quartic, ("ula-quartic",)),
        "acceptance": (acceptance, ("mala-scaling",)),
        "idea": (idea, ("idea-figure",)),
    }
    return {
        f"figures/{name}.png": draw(*(claims[needed].arrays for needed in names))
        for name, (draw, names) in drawers.items()
        if all(needed in claims for needed in names)
    }


Arrays = Mapping[str, NDArray[Any]]


def idea(arrays: Arrays) -> bytes:
    """Draw the paper's Figure 1: a clean point, a displaced one, and chains from there.

    Parameters
    ----------
    arrays : mapping
        Of the claim "idea-figure".
    """
    names = ("marginal", "dae", "sdae", "oracle")
    axis_points, classes = arrays["axis"], (arrays["odds"] > 0).astype(int)
    with drawing(width=11.2, height=2.75) as (figure, content):
        for axis, name in zip(figure.subplots(1, 4, sharex=True, sharey=True), names, strict=True):
            extent = (*axis_points[[0, -1]], *(axis_points[[0, -1]] - 0.2))
            ink = (arrays["density"] / arrays["density"].max())[:, :, None] ** 0.5
            colours = np.array([[0.34, 0.60, 0.82], [0.93, 0.62, 0.35]])[classes]
            axis.imshow(1 - ink * (1 - colours), origin="lower", extent=extent, interpolation="bilinear")
            axis.contour(axis_points, axis_points - 0.2, arrays["odds"], levels=[0], colors=GREY, linewidths=1)
            path = arrays[f"path-{name}"]
            row, column = (
                np.abs(axis_points - shift - path[-1, :, i : i + 1]).argmin(axis=1) for i, shift in ((1, 0.2), (0, 0))
            )
            back = classes[row, column] == 0
            for number in range(path.shape[1]):
                emphasis = number == 0
                axis.plot(
                    *path[:, number].T,
                    color=BLACK,
                    linewidth=1.0 if emphasis else 0.6,
                    alpha=1.0 if emphasis else 0.3,
                )
            axis.plot(*path[0, 1:].T, ".", color="#c00000", markersize=4)
            axis.plot(*path[-1, back].T, "X", color="#003f7d", markeredgecolor="white", markersize=8)
            axis.plot(*path[-1, ~back].T, "X", color="#a03000", markeredgecolor="white", markersize=8)
            clean, moved = arrays["clean"][0], path[0, 0]
            arrow = {"arrowstyle": "-|>", "color": "#c00000", "linewidth": 1.5, "shrinkA": 3, "shrinkB": 3}
            axis.annotate("", xy=moved, xytext=clean, arrowprops=arrow, zorder=4)
            axis.plot(*clean, "o", color="white", markeredgecolor=BLACK, markersize=7, markeredgewidth=1.5, zorder=5)
            axis.plot(*moved, "o", color="white", markeredgecolor="#c00000", markersize=7, markeredgewidth=2, zorder=5)
            share = 100 * arrays["back"][list(IDEAS).index(name), 0]
            axis.set_title(f"{IDEAS[name]}:\n{share:.0f}% back", loc="left")
            axis.set(xlim=extent[:2], ylim=(-1.9, 2.2), xticks=[], yticks=[])
        figure.savefig(content, **png_settings())
        return content.getvalue()


def slopes(calibrated: Arrays, miscalibrated: Arrays) -> bytes:
    """Draw errors against sigma.

    Parameters
    ----------
    calibrated, miscalibrated : mapping
        Arrays of the claims of these names.
    """
    names = {0.5: "beta 0.5 (under-confident)", 1.0: "beta 1 (calibrated)", 2.0: "beta 2 (over-confident)"}
    colors = dict(zip(BETAS, (BLUE, BLACK, ORANGE), strict=True))
    with drawing(width=8.6, height=3.7) as (figure, content):
        axes = figure.subplots(1, 2)
        for axis, kind, title in (
            (axes[0], "score", "error of the sDAE's score against the theorem"),
            (axes[1], "label", "size of the label term"),
        ):
            for beta in BETAS:
                arrays = calibrated if beta == 1 else miscalibrated
                sigma = arrays["sigma"]
                names_of = [name for name in arrays if name.startswith(f"{kind}-{beta:g}-")]
                for number, name in enumerate(names_of):
                    values = arrays[name].mean(axis=0)
                    axis.loglog(
                        sigma,
                        values / (values[0] if kind == "score" else 1),
                        color=colors[beta],
                        linewidth=0.8,
                        marker=MARKERS[BETAS.index(beta)],
                        markersize=3,
                        alpha=0.75,
                        label=names[beta] if number == 0 else None,
                    )
            axis.loglog(sigma, 2.2 * (sigma / sigma[0]) ** 2, color=GREY, linestyle="--", linewidth=1, label="slope 2")
            axis.set_xlabel("sigma of the noise")
            relative = ", relative to sigma = 0.32" if kind == "score" else ""
            axis.set_ylabel(f"root mean square{relative}")
            axis.set_title(title, loc="left")
            _tidy(axis)
        axes[0].legend(frameon=False, loc="lower right")
        figure.savefig(content, **png_settings())
        return content.getvalue()


def temperature(arrays: Arrays) -> bytes:
    """Draw what miscalibration does to the label term.

    Parameters
    ----------
    arrays : mapping
        Of the claim "sdae-drift".
    """
    worlds = ("2 classes, 1-D", "3 classes, 2-D")
    with drawing(width=10.2, height=3.7) as (figure, content):
        axes = figure.subplots(1, 3)
        for axis, key, label, title in (
            (axes[0], "beta", "inverse temperature beta", "confidence"),
            (axes[1], "bias", "logit of class 0 too high by", "bias"),
            (axes[2], "noise", "share of random training labels", "label noise"),
        ):
            for number, world in enumerate(worlds):
                value, low, high = arrays[f"rate-{key}-{number}"].T
                _errorbar(axis, arrays[key], value, low, high, number, world)
            axis.axhline(0, color=GREY, linewidth=1)
            axis.set_xlabel(label)
            axis.set_title(title, loc="left")
            _tidy(axis)
        axes[0].set_xscale("log")
        axes[0].set_xticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
        axes[0].minorticks_off()
        axes[0].axvline(1, color=GREY, linewidth=1, linestyle=":")
        axes[0].set_ylabel("d log p(Bayes class) along the label term")
        axes[1].set_ylabel("d log p(class 0) along the label term")
        axes[2].set_ylabel("d log p(Bayes class) along the label term")
        axes[0].text(0.98, 0.98, "above 0: towards it", transform=axes[0].transAxes, va="top", ha="right", color=GREY)
        axes[0].text(0.03, 0.03, "below 0: away from it", transform=axes[0].transAxes, color=GREY)
        axes[0].legend(frameon=False, loc="center left")
        figure.savefig(content, **png_settings())
        return content.getvalue()


def trained(shape: Arrays, size: Arrays) -> bytes:
    """Draw what trained networks err by.

    Parameters
    ----------
    shape, size : mapping
        Arrays of the claims "trained-u-shape" and "trained-sample-size".
    """
    with drawing(width=8.6, height=3.6) as (figure, content):
        left, right = figure.subplots(1, 2)
        sigma = shape["sigma"]
        for key, color, marker, label in (
            ("total", BLACK, "o", "in all"),
            ("estimation", ORANGE, "^", "not learnt"),
        ):
            left.loglog(sigma, shape[key].mean(axis=0), color=color, marker=marker, markersize=5, label=label)
            left.loglog(sigma, shape[key].T, ".", color=color, markersize=3, alpha=0.6)
        left.loglog(sigma, shape["bias"], color=BLUE, marker="s", markersize=5, label="smoothing")
        left.set_xlabel("sigma of the noise")
        left.set_ylabel("squared error, relative to the score's")
        left.set_title("against the score of the clean data", loc="left")
        sizes, (slope, low, high, intercept) = size["sizes"].astype(float), size["fit"]
        right.loglog(sizes, size["errors"].T, ".", color=BLUE, markersize=5)
        text = f"slope {slope:.2f} [{low:.2f}, {high:.2f}]"
        right.loglog(sizes, np.exp(intercept) * sizes**slope, color=BLACK, linewidth=1, label=text)
        right.set_xlabel("training points")
        right.set_ylabel("normalised Fisher divergence")
        right.set_title("against the exact minimiser", loc="left")
        for axis in (left, right):
            _tidy(axis)
            axis.legend(frameon=False)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def fields(arrays: Arrays) -> bytes:
    """Draw scores and label terms of a world in the plane.

    Parameters
    ----------
    arrays : mapping
        Of the claim "drift-confidence".
    """
    panels = (
        ("truth", "the score, grad log p"),
        ("dae", "a DAE's"),
        ("sdae", "a calibrated sDAE's"),
        ("calibrated", "label term, calibrated"),
        ("under", f"label term, beta {UNDER:g} (under-confident)"),
        ("over", f"label term, beta {OVER:g} (over-confident)"),
    )
    points = arrays["arrow-points"]
    with drawing(width=9.6, height=6.9) as (figure, content):
        grid = figure.subplots(2, 3, sharex=True, sharey=True)
        for number, (axis, (name, title)) in enumerate(zip(grid.flat, panels, strict=True)):
            _map(axis, arrays)
            vectors = arrays[name]
            # Far out a score is as long as the way home: there only the direction is shown.
            longest = 4.0 if number < 3 else 1.5
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            shown = vectors * np.minimum(1, longest / np.maximum(length, 1e-12))
            axis.quiver(
                *points.T, *shown.T, angles="xy", scale_units="xy", scale=longest / 0.42, width=0.0045, color=BLACK
            )
            axis.set_title(title, loc="left")
        figure.supxlabel(f"sigma {FIELD_SIGMA:g}; arrows are cut off at {4:g} above and {1.5:g} below", fontsize=9)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def chains(arrays: Arrays, world: Arrays) -> bytes:
    """Draw chains that cross a border or come back.

    Parameters
    ----------
    arrays : mapping
        Of the claim "drift-none".
    world : mapping
        Of the claim "drift-confidence".
    """
    names = ("marginal", "sdae", "under", "oracle")
    first = np.flatnonzero(arrays["labels"] == 0)[:8]
    main = int(np.argmin(np.abs(arrays["part"] - PARTS[MAIN])))
    axis_points, classes = world["map-axis"], world["map-class"]
    with drawing(width=11.2, height=3.4) as (figure, content):
        for axis, name in zip(figure.subplots(1, 4, sharex=True, sharey=True), names, strict=True):
            _map(axis, world)
            path = arrays[f"path-{name}"][:, first]
            row, column = (np.abs(axis_points - path[-1, :, i : i + 1]).argmin(axis=1) for i in (1, 0))
            back = classes[row, column] == 0
            for number in range(len(first)):
                axis.plot(*path[:, number].T, color=BLACK, linewidth=0.7, alpha=0.7)
            axis.plot(*path[0].T, "o", color="white", markeredgecolor=BLACK, markersize=4)
            for which, color in ((back, "#003f7d"), (~back, "#a03000")):
                axis.plot(*path[-1, which].T, "X", color=color, markeredgecolor="white", markersize=8)
            share = 100 * arrays["returned"][list(TITLES).index(name), main, 0]
            axis.set_title(f"{TITLES[name].split(' (')[0]}: {share:.0f}% back", loc="left")
        figure.savefig(content, **png_settings())
        return content.getvalue()


def drift(arrays: Arrays) -> bytes:
    """Draw where chains end against how far their starts were displaced.

    Parameters
    ----------
    arrays : mapping
        Of the claim "drift-none".
    """
    with drawing(width=10.4, height=3.9) as (figure, content):
        axes = figure.subplots(1, 2, sharey=True)
        for axis, key, title in (
            (axes[0], "returned", "back in their class"),
            (axes[1], "stayed", "where they started"),
        ):
            for number, name in enumerate(TITLES):
                value, low, high = 100 * arrays[key][number].T
                shift = 0.006 * (number - 3.5)
                _errorbar(axis, arrays["part"] + shift, value, low, high, number, TITLES[name])
            if key == "returned":
                axis.plot(
                    arrays["part"], 100 * arrays["started"], color=BLACK, linestyle=":", label="no chain: the starts"
                )
            axis.set_title(f"chains that end {title}", loc="left")
            axis.set_xlabel("displacement, as a part of the way to the next class")
            axis.set_ylim(0, 103)
            axis.tick_params(labelleft=True)
            _tidy(axis)
        axes[0].set_ylabel("share of chains (%)")
        figure.legend(handles=handles_of(axes[0]), loc="outside right upper", frameon=False)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def handles_of(axis: Axes) -> list[Any]:
    """Handles of a panel's legend.

    Parameters
    ----------
    axis : Axes
        The panel.

    Returns
    -------
    list
        In the order in which they were drawn.
    """
    return list(axis.get_legend_handles_labels()[0])


def ula(variance: Arrays, bias: Arrays) -> bytes:
    """Draw the bias of the chain without an accept step.

    Parameters
    ----------
    variance, bias : mapping
        Arrays of the claims "ula-variance" and "ula-bias".
    """
    names = {"gaussian": "N(0, 1)", "line": "1-D mixture", "plane": "2-D mixture"}
    with drawing(width=10.2, height=3.4) as (figure, content):
        axes = figure.subplots(1, 3)
        table = variance["table"]
        alpha = np.linspace(0.01, 1.1, 200)
        for number, level in enumerate(np.unique(table[:, 0])[::-1]):
            rows = table[table[:, 0] == level]
            axes[0].plot(alpha, level / (1 - alpha / 2), color=COLORS[number], linewidth=1)
            axes[0].errorbar(
                rows[:, 1],
                rows[:, 2],
                1.96 * rows[:, 3],
                color=COLORS[number],
                marker=MARKERS[number],
                linestyle="none",
                markersize=5,
                label=f"temperature {level:g}",
            )
        axes[0].set_xlabel("alpha")
        axes[0].set_ylabel("stationary variance on N(0, 1)")
        axes[0].set_title("variance: T / (1 - alpha / 2)", loc="left")
        axes[0].legend(frameon=False)
        for axis, column, key, title in ((axes[1], 0, "w2", "W2 distance"), (axes[2], 1, "kl", "KL divergence")):
            for number, (name, label) in enumerate(names.items()):
                if f"{name}-alpha" not in bias:
                    continue
                steps = bias[f"{name}-alpha"]
                slope, intercept = bias[f"{name}-fit-{column}"]
                axis.loglog(
                    steps,
                    bias[f"{name}-{key}"],
                    color=COLORS[number],
                    marker=MARKERS[number],
                    linestyle="none",
                    markersize=5,
                    label=f"{label}: slope {slope:.2f}",
                )
                axis.loglog(steps, np.exp(intercept) * steps**slope, color=COLORS[number], linewidth=1)
            axis.set_xlabel("alpha")
            axis.set_title(f"{title} to the true density", loc="left")
            axis.legend(frameon=False)
        for axis in axes:
            _tidy(axis)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def quartic(arrays: Arrays) -> bytes:
    """Draw how chains are lost on a quartic tail.

    Parameters
    ----------
    arrays : mapping
        Of the claim "ula-quartic".
    """
    with drawing(width=4.6, height=2.7) as (figure, content):
        axis = figure.subplots()
        axis.plot(np.arange(1, 1 + len(arrays["lost"])), 100 * arrays["lost"], color=ORANGE, label="ULA")
        axis.axhline(0, color=BLUE, linewidth=2, label="MALA")
        axis.set_xlabel("steps")
        axis.set_ylabel("chains that are lost (%)")
        axis.set_title("exp(-x^4 / 4), alpha 0.4, from x = 0", loc="left")
        axis.legend(frameon=False)
        _tidy(axis)
        figure.savefig(content, **png_settings())
        return content.getvalue()


def acceptance(arrays: Arrays) -> bytes:
    """Draw MALA's efficiency.

    Parameters
    ----------
    arrays : mapping
        Of the claim "mala-scaling".
    """
    dimensions = arrays["dimensions"]
    targets = {"normal": "N(0, I)", "logistic": "product of logistic densities", "mixture": "product of mixtures"}
    with drawing(width=10.4, height=3.5) as (figure, content):
        axes = figure.subplots(1, 3)
        for axis, key in ((axes[0], "normal"), (axes[1], "logistic")):
            for number, d in enumerate(dimensions):
                jump = arrays[f"{key}-jump"][number]
                axis.plot(
                    arrays[f"{key}-acceptance"][number],
                    jump / jump.max(),
                    color=COLORS[number],
                    marker=MARKERS[number],
                    markersize=3.5,
                    linewidth=1,
                    label=f"d = {d}",
                )
            axis.axvline(0.574, color=GREY, linestyle=":")
            axis.set_xlim(0, 1)
            axis.set_ylim(0, 1.05)
            axis.set_xlabel("acceptance rate")
            axis.set_ylabel("expected squared jump, relative to the best")
            axis.set_title(targets[key], loc="left")
            # Under the curves, beside the dotted line.
            axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.36, 0))
        for number, (key, name) in enumerate(targets.items()):
            mean = arrays[f"{key}-variance"].mean(axis=0)
            slope = np.polyfit(np.log(dimensions), np.log(mean), 1)[0]
            axes[2].loglog(
                dimensions,
                mean,
                color=COLORS[number],
                marker=MARKERS[number],
                markersize=5,
                linewidth=1,
                label=f"{name.removeprefix('product of ')}: slope {slope:.2f}",
            )
            axes[2].loglog(
                dimensions,
                mean[-1] * (dimensions / dimensions[-1]) ** (-1 / 3),
                color=GREY,
                linestyle="--",
                linewidth=1,
            )
        axes[2].plot([], [], color=GREY, linestyle="--", linewidth=1, label="slope -1/3")
        axes[2].set_xticks(dimensions, [str(d) for d in dimensions])
        axes[2].minorticks_off()
        axes[2].set_xlabel("d")
        axes[2].set_ylabel("best step variance 2 alpha")
        axes[2].set_ylim(top=15 * float(arrays["logistic-variance"].max()))
        axes[2].set_title("how it shrinks with the dimension", loc="left")
        axes[2].legend(frameon=False, loc="upper right")
        for axis in axes:
            _tidy(axis)
        figure.savefig(content, **png_settings())
        return content.getvalue()


# Details -------------------------------------------------------------------------------------------------------------


def _map(axis: Axes, arrays: Arrays) -> None:
    """Classes as colours, density as their strength, and the borders."""
    from matplotlib.colors import to_rgb

    side, density, classes = arrays["map-axis"], arrays["map-density"], arrays["map-class"]
    strength = 0.12 + 0.5 * (density / density.max()) ** 0.6
    colors = np.array([to_rgb(color) for color in CLASS_COLORS])[classes]
    image = 1 - strength[..., None] * (1 - colors)
    axis.imshow(image, origin="lower", extent=(side[0], side[-1], side[0], side[-1]), interpolation="bilinear")
    for number in range(len(CLASS_COLORS)):
        axis.contour(side, side, classes == number, levels=[0.5], colors=[GREY], linewidths=0.8)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlim(side[0], side[-1])
    axis.set_ylim(side[0], side[-1])


def _errorbar(
    axis: Axes,
    x: NDArray[Any],
    value: NDArray[Any],
    low: NDArray[Any],
    high: NDArray[Any],
    number: int,
    label: str,
) -> Any:
    return axis.errorbar(
        x,
        value,
        [value - low, high - value],
        color=COLORS[number % len(COLORS)],
        marker=MARKERS[number % len(MARKERS)],
        markersize=4.5,
        linewidth=1,
        elinewidth=1,
        label=label,
    )


def _tidy(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3, linewidth=0.5)
