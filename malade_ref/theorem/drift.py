r"""Part 5: what brings a displaced point back to its class.

A point x of class y is moved a part t of the way towards the mean of another class, and a Langevin chain sets out from
there, with the same noise whatever it follows:

    marginal      grad log p(x)
    DAE           grad log p_s(x), the exact minimiser's residual over sigma^2
    sDAE, beta    grad log p_s(x) + sum_y p_s(y | x) grad log yhat_y(r*(x)),    yhat = softmax(beta log p(y | .))
    arg-max       grad log p(x | y^(x)), y^(x) the most probable class where the chain is
    label known   grad log p(x | y) = grad log p(x) + grad log p(y | x)
    guidance w    grad log p(x) + w grad log p(y | x), w > 1

Only the last two know y. After the chain the Bayes classifier judges.

References
----------
.. [1] Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021 (classifier guidance).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.density import GaussianMixture
from malade_ref.mcmc import ula
from malade_ref.minimiser import minimise
from malade_ref.statistics import mcnemar, paired_difference, wilson
from malade_ref.theorem.chains import Field, Floats, Function, Host, walk
from malade_ref.theorem.claims import Claim, Measure, Progress, Settings
from malade_ref.theorem.worlds import three_islands

SIGMA = 0.1
ALPHA = 0.02
NUM_STEPS = 50
PARTS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
MAIN = 3  # the displacement that verdicts are about: most points have just crossed the border
EQUIVALENT = 0.03  # a difference of shares that does not matter
GUIDANCE = 3.0
UNDER, OVER = 0.25, 4.0  # inverse temperatures
SUPERVISED = ("sdae", "under", "over")  # fields that need the exact minimiser
SHOWN = 100  # chains that figures choose from
FIELD_SIGMA = 0.1  # of the figure of the fields
TITLES = {
    "marginal": "grad log p",
    "dae": "DAE",
    "sdae": "sDAE, calibrated",
    "under": f"sDAE, beta {UNDER:g} (under-confident)",
    "over": f"sDAE, beta {OVER:g} (over-confident)",
    "argmax": "arg-max label",
    "oracle": "true label known",
    "guided": f"true label, guidance {GUIDANCE:g}",
}


def fields(mixture: GaussianMixture, labels: NDArray[Any]) -> dict[str, Function]:
    """Vector fields for chains to follow.

    Parameters
    ----------
    mixture : GaussianMixture
        The truth.
    labels : ndarray of shape (n,), integer
        Classes of the walkers, for the fields that know them.

    Returns
    -------
    dict of str to callable
        By the keys of `TITLES`.
    """
    host, smoothed = Host(mixture), Host(mixture.smoothed(SIGMA))

    def supervised(beta: float) -> Function:
        classifier = mixture.tempered(beta)

        def field(x: Floats) -> Floats:
            found = minimise(mixture, classifier, mixture.ops.asarray(x), SIGMA)
            return np.asarray((found.position - x) / SIGMA**2)

        return field

    def given(x: Floats, y: NDArray[Any]) -> Floats:
        return np.asarray(np.take_along_axis(host.class_scores(x), y[:, None, None], axis=1)[:, 0])

    def guided(x: Floats) -> Floats:
        score = host.score(x)
        return np.asarray(score + GUIDANCE * (given(x, labels) - score))

    return {
        "marginal": host.score,
        "dae": smoothed.score,
        "sdae": supervised(1.0),
        "under": supervised(UNDER),
        "over": supervised(OVER),
        "argmax": lambda x: given(x, host.predict(x)),
        "oracle": lambda x: given(x, labels),
        "guided": guided,
    }


def displaced(mixture: GaussianMixture, x: Floats, y: NDArray[Any], part: float) -> Floats:
    """Move points towards the mean of the next class.

    Parameters
    ----------
    mixture : GaussianMixture
        The truth.
    x : ndarray of shape (n, d)
        Points.
    y : ndarray of shape (n,), integer
        Their classes.
    part : float
        Of the way between the two classes' means.

    Returns
    -------
    ndarray of shape (n, d)
        x + part (mean of class y + 1 - mean of class y), classes counted around.
    """
    one_hot = np.eye(mixture.num_classes)[mixture.labels] * mixture.weights[:, None]
    means = one_hot.T @ mixture.means / mixture.priors[:, None]
    return np.asarray(x + part * (means[(y + 1) % mixture.num_classes] - means[y]))


def drift_claims(settings: Settings, out: Path, progress: Progress) -> list[Claim]:
    """Follow chains from displaced points.

    Parameters
    ----------
    settings : Settings
        Scale, seed and backend.
    out : Path
        Not used.
    progress : callable
        Told how far it is.

    Returns
    -------
    list of Claim
        Without guidance, with confidence, and with labels.
    """
    # The exact minimiser takes a hundred times as long as the other fields: fewer points follow it.
    points, supervised = settings.pick(full=(2000, 2000), quick=(2000, 500), tiny=(60, 60))
    parts = settings.pick(full=PARTS, quick=PARTS[1 : MAIN + 1 : 2], tiny=PARTS[MAIN : MAIN + 1])
    main = parts.index(PARTS[MAIN])
    mixture = three_islands(settings)
    host = Host(mixture)
    x, y = host.sample(points, seed=(settings.seed, "theorem/drift"))
    right = host.predict(x) == y  # a classifier's errors are not the chain's
    x, y = x[right], y[right]
    ends: dict[str, list[NDArray[np.int64]]] = {name: [] for name in TITLES}
    starts, paths = [], {}
    for number, part in enumerate(parts):
        start = displaced(mixture, x, y, part)
        starts.append(host.predict(start))
        for done, (name, field) in enumerate(fields(mixture, y).items()):
            followed = slice(supervised if name in SUPERVISED else None)
            progress((number + done / len(TITLES)) / len(parts), f"{TITLES[name]}, displaced by {part:g}")
            positions = walk(
                *(Field(field, settings.ops), start[followed], ula(ALPHA)),
                num_steps=NUM_STEPS,
                settings=settings,
                name=f"drift/{number}",
            ).positions
            ends[name].append(host.predict(positions[-1]))
            if number == main and name in ("marginal", "sdae", "under", "oracle"):
                paths[f"path-{name}"] = np.concatenate([start[None, :SHOWN], positions[:, :SHOWN]])
    returned = {name: np.array([end == y[: len(end)] for end in found]) for name, found in ends.items()}
    stayed = {
        name: np.array([end == begin[: len(end)] for end, begin in zip(found, starts, strict=True)])
        for name, found in ends.items()
    }
    arrays = {
        "part": np.array(parts),
        "returned": _shares(returned),
        "stayed": _shares(stayed),
        "started": np.array([np.mean(start == y) for start in starts]),
        "labels": y[:SHOWN],
        **paths,
    }
    text = (
        f"{len(y):,} points of the 2-D world that the Bayes classifier has right, moved {parts[main]:g} of the way to "
        f"the next class ({100 * np.mean(starts[main] == y):.0f}% are then still classified as before); {NUM_STEPS} "
        f"steps of alpha {ALPHA:g} at temperature 1, sigma {SIGMA:g}, the same noise for all. "
        + (f"The sDAEs' chains start from the first {supervised:,} of them. " if supervised < len(y) else "")
    )
    return [
        _no_guidance({name: found[main] for name, found in returned.items()}, text, arrays),
        _confidence({name: found[main] for name, found in stayed.items()}, text, draw_fields(mixture)),
        _labels(
            {name: found[main] for name, found in returned.items()},
            {name: found[main] for name, found in stayed.items()},
            text,
        ),
    ]


def draw_fields(mixture: GaussianMixture) -> dict[str, NDArray[Any]]:
    """Evaluate what denoisers say of the score, on a grid, for a figure.

    Parameters
    ----------
    mixture : GaussianMixture
        In the plane.

    Returns
    -------
    dict of str to ndarray
        ``map-axis`` (m,), ``map-density`` and ``map-class`` (m, m); ``arrow-points`` (k, 2), and there the score
        ``truth``, ``dae``, ``sdae``, and the label terms ``calibrated``, ``under`` and ``over``, (k, 2).
    """
    host, wide = Host(mixture), np.linspace(-4, 4, 161)
    points = np.stack(np.meshgrid(wide, wide), axis=-1).reshape(-1, 2)
    side = np.linspace(-3.6, 3.6, 19)
    at = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    found = {
        name: minimise(mixture, mixture.tempered(beta), mixture.ops.asarray(at), FIELD_SIGMA)
        for name, beta in (("calibrated", 1.0), ("under", UNDER), ("over", OVER))
    }
    terms = {name: (minimum.position - minimum.posterior_mean) / FIELD_SIGMA**2 for name, minimum in found.items()}
    return {
        "map-axis": wide,
        "map-density": np.exp(host.log_density(points)).reshape(len(wide), len(wide)),
        "map-class": host.predict(points).reshape(len(wide), len(wide)),
        "arrow-points": at,
        "truth": host.score(at),
        "dae": (found["calibrated"].posterior_mean - at) / FIELD_SIGMA**2,
        "sdae": (found["calibrated"].position - at) / FIELD_SIGMA**2,
        **terms,
    }


def _no_guidance(returned: dict[str, NDArray[np.bool_]], text: str, arrays: dict[str, NDArray[Any]]) -> Claim:
    measures = [
        _difference(
            f"share back in class y, {TITLES[name]} less grad log p",
            returned[name],
            returned["marginal"],
            -EQUIVALENT,
            EQUIVALENT,
        )
        for name in ("dae", "sdae")
    ]
    measures.append(
        _difference(
            "share back in class y, sDAE, calibrated less DAE",
            returned["sdae"],
            returned["dae"],
            -EQUIVALENT,
            EQUIVALENT,
        )
    )
    return Claim(
        "drift-none",
        5,
        "A calibrated sDAE brings back no more points than a DAE does",
        "The chains of grad log p, of the DAE and of the calibrated sDAE bring back the same share of points, to "
        f"within {100 * EQUIVALENT:g} percentage points.",
        text + "Paired differences with the interval of Agresti and Min; McNemar's exact test in the last column.",
        measures,
        ["Shares back in class y: " + _told(returned) + "."],
        arrays,
    )


def _confidence(stayed: dict[str, NDArray[np.bool_]], text: str, fields: dict[str, NDArray[Any]]) -> Claim:
    return Claim(
        "drift-confidence",
        5,
        "An under-confident classifier holds points where they are, an over-confident one lets them go",
        "The label term of an under-confident classifier leads to the class that is most probable where the point "
        "*is*, not to the one it is from: more chains stay in the basin in which they start. An over-confident one "
        "does the contrary.",
        text + "A basin is where the Bayes classifier gives one class.",
        [
            _difference(
                "share that stays in its basin, beta 0.25 less calibrated", stayed["under"], stayed["sdae"], 0, np.inf
            ),
            _difference(
                "share that stays in its basin, beta 4 less calibrated", stayed["over"], stayed["sdae"], -np.inf, 0
            ),
        ],
        ["Shares that stay in the basin of their start: " + _told(stayed) + "."],
        fields,
    )


def _labels(returned: dict[str, NDArray[np.bool_]], stayed: dict[str, NDArray[np.bool_]], text: str) -> Claim:
    return Claim(
        "drift-labels",
        5,
        "Guidance comes from knowing the label",
        "The chain that is given the true label brings back more points than grad log p does, and more so with a "
        "guidance scale above 1. A chain given the label that looks most probable on its way holds points where they "
        "are.",
        text,
        [
            _difference("share back, true label less grad log p", returned["oracle"], returned["marginal"], 0.05, 1),
            _difference(
                f"share back, guidance {GUIDANCE:g} less true label", returned["guided"], returned["oracle"], 0, 1
            ),
            _difference("share that stays, arg-max label less grad log p", stayed["argmax"], stayed["marginal"], 0, 1),
        ],
    )


def _difference(label: str, first: NDArray[np.bool_], second: NDArray[np.bool_], low: float, high: float) -> Measure:
    size = min(len(first), len(second))
    first, second = first[:size], second[:size]
    test = mcnemar(first, second)
    note = f"{test.only_first} against {test.only_second}, McNemar p = {test.p_value:.2g}"
    return Measure(label, paired_difference(first, second), low, high, note)


def _told(outcomes: dict[str, NDArray[np.bool_]]) -> str:
    shares = {name: wilson(int(found.sum()), len(found)) for name, found in outcomes.items()}
    return ", ".join(
        f"{TITLES[name]} {100 * share.value:.1f}% [{100 * share.low:.1f}, {100 * share.high:.1f}]"
        for name, share in shares.items()
    )


def _shares(outcomes: dict[str, NDArray[np.bool_]]) -> Floats:
    """Shares with intervals: (fields, displacements, 3)."""
    return np.array([[wilson(int(row.sum()), len(row)) for row in found] for found in outcomes.values()])
