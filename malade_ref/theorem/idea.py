r"""Part 8: the paper's Figure 1 in a plane where everything is known.

Two classes lie side by side, each along an arc. A point x of class y is moved towards the other arc, beyond the border
of the Bayes classifier, and chains set out from there, with the same noise whatever they follow:

    marginal    grad log p(x), exact
    oracle      grad log p(x | y), exact: it is told y
    DAE         (r(x) - x) / sigma^2 of a small network that was trained without labels
    sDAE        the same of one that was trained with labels and the Bayes classifier's cross entropy

The figure promises that the sDAE's chain finds the way back, as the oracle's does. The theorem gives less: its drift is
E_{p(y|x)} grad log p(x, y), an average over the labels that are likely where the chain is, which is grad log p(x).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.density import GaussianMixture
from malade_ref.mcmc import ula
from malade_ref.network import Network
from malade_ref.statistics import paired_difference, wilson
from malade_ref.theorem.chains import Field, Floats, Function, Host, walk
from malade_ref.theorem.claims import Claim, Measure, Progress, Settings
from malade_ref.theorem.trained import Posterior, Recipe, apply, in_single, train
from malade_ref.theorem.worlds import isotropic
from malade_ref.training import Denoising, SupervisedDenoising

SIGMA = 0.2
ALPHA = 0.008
NUM_STEPS = 60
PART = 0.6  # of the way to the other arc
SHOWN = 6  # chains of a panel
EQUIVALENT = 0.1  # a difference of shares that networks of this size may have
BETTER = 0.3  # what knowing the label adds, at least
TITLES = {
    "marginal": "marginal score, exact",
    "dae": "DAE, trained",
    "sdae": "sDAE (MALADE), trained",
    "oracle": "true label known",
}


def two_arcs(settings: Settings) -> GaussianMixture:
    """Make two classes that lie along arcs, one above the other.

    Parameters
    ----------
    settings : Settings
        The backend.

    Returns
    -------
    GaussianMixture
        Seven round components a class, of equal weight.
    """
    angles = np.linspace(0.25 * np.pi, 0.75 * np.pi, 7)
    arc = np.stack([2.6 * np.cos(angles), 2.6 * np.sin(angles) - 2.6], axis=1)
    means = np.concatenate([arc + np.array([0, 1.3]), arc])
    return isotropic(np.full(14, 1 / 14), means, np.full(14, 0.25), np.repeat([0, 1], 7), settings=settings)


def idea_claims(settings: Settings, out: Path, progress: Progress) -> list[Claim]:
    """Follow the figure's chains.

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
        One.
    """
    mixture = two_arcs(settings)
    host = Host(mixture)
    count = settings.pick(full=2000, quick=1000, tiny=60)
    steps, batch_size = settings.pick(full=(1500, 1024), quick=(320, 512), tiny=(30, 128))
    x, y = host.sample(count, seed=(settings.seed, "theorem/idea"))
    right = host.predict(x) == y
    x, y = x[right], y[right]
    start = x + PART * 1.3 * np.where(y == 0, -1.0, 1.0)[:, None] * [0.0, 1.0]
    objectives = {
        "dae": Denoising(SIGMA),
        "sdae": SupervisedDenoising(SIGMA, Posterior(in_single(mixture).tempered(1.0))),
    }
    recipe = Recipe(points=1 << 14, steps=steps, batch_size=batch_size, learning_rate=0.015, hidden=(64, 32))
    found: dict[str, Function] = {
        "marginal": host.score,
        "oracle": lambda at: _of_class(host.class_scores(at), y),
    }
    for number, (name, objective) in enumerate(objectives.items()):
        progress(0.4 * number, f"train the {TITLES[name]}")
        network = train(mixture, objective, recipe, seed=int(settings.rng("idea", name).integers(1 << 31)))
        found[name] = _residual(network)
    paths, back = {}, {}
    for name in TITLES:
        progress(0.9, TITLES[name])
        positions = walk(
            *(Field(found[name], settings.ops), start, ula(ALPHA)), num_steps=NUM_STEPS, settings=settings, name="idea"
        ).positions
        back[name] = host.predict(positions[-1]) == y
        paths[name] = np.concatenate([start[None], positions])
    # A point of the upper arc near its middle, that was moved over the border: the figure's; not chosen by its chains.
    turned = np.flatnonzero((y == 0) & (host.predict(start) != y))
    at = turned[np.abs(x[turned, 0]).argsort(kind="stable")[:SHOWN]]
    axis = np.linspace(-2.6, 2.6, 131)
    grid = np.stack(np.meshgrid(axis, axis - 0.2), axis=-1).reshape(-1, 2)
    posteriors = host.class_log_posteriors(grid)
    arrays = {
        "axis": axis,
        "density": np.exp(host.log_density(grid)).reshape(len(axis), -1),
        "odds": (posteriors[:, 1] - posteriors[:, 0]).reshape(len(axis), -1),
        "clean": x[at],
        **{f"path-{name}": path[:, at] for name, path in paths.items()},
        "back": np.array([wilson(int(one.sum()), len(one)) for one in back.values()]),
    }
    measures = [
        _difference("sDAE less DAE", back["sdae"], back["dae"], -EQUIVALENT, EQUIVALENT),
        _difference("sDAE less marginal score", back["sdae"], back["marginal"], -EQUIVALENT, EQUIVALENT),
        _difference("true label less marginal score", back["oracle"], back["marginal"], BETTER, 1.0),
    ]
    shares = ", ".join(f"{TITLES[name]} {100 * one.mean():.1f}%" for name, one in back.items())
    return [
        Claim(
            "idea-figure",
            8,
            "Only the chain that is told the label finds the way back",
            "From beyond the border between two classes, the chain of a trained sDAE returns no more often than that "
            f"of a trained DAE or of the exact score, to within {100 * EQUIVALENT:g} percentage points; the chain that "
            "is told the label does.",
            f"{len(y):,} points of two arcs, moved by {PART:g} of the distance to the other one (the Bayes classifier "
            f"then has {100 * np.mean(host.predict(start) == y):.0f}% right); {NUM_STEPS} steps of alpha {ALPHA:g} at "
            f"temperature 1, the same noise for all. Networks of 64 and 32 units, sigma {SIGMA:g}, {steps:,} steps of "
            f"{recipe.batch_size:,} samples.",
            measures,
            [f"Shares back in class y: {shares}."],
            arrays,
        )
    ]


def _residual(network: Network) -> Function:
    return lambda at: np.asarray((apply(network, at) - at) / SIGMA**2)


def _of_class(scores: Floats, y: NDArray[Any]) -> Floats:
    return np.asarray(np.take_along_axis(scores, y[:, None, None], axis=1)[:, 0])


def _difference(label: str, first: NDArray[np.bool_], second: NDArray[np.bool_], low: float, high: float) -> Measure:
    return Measure(f"share back in class y, {label}", paired_difference(first, second), low, high)
