r"""Part 3: trained networks against the oracle.

The minimisers r* of the objectives are known: E[x | u] for the DAE, and Newton's solution for the sDAE. Networks are
trained with the project's own objectives and `fit`, and held against them. With s_theta = (r_theta(u) - u) / sigma^2,

    E |r_theta(u) - x|^2 - E |r*(u) - x|^2 = E |r_theta - r*|^2 = sigma^4 E |s_theta - grad log p_s|^2:

the excess risk of a DAE *is* the Fisher divergence of what it has learnt from the smoothed density. Normalised by the
mean square of what was to be learnt, E |r* - u|^2 / sigma^4, it is 0 for the minimiser and 1 for the identity r(u) = u.

Networks are small perceptrons with a skip connection. Trained on a set of n points for long enough, with fresh noise
at every step, they tend to that set's own minimiser, the kernel mean

    sum_i w_i(u) x_i,    w_i(u) proportional to exp(-|u - x_i|^2 / (2 sigma^2)).

References
----------
.. [1] Vincent, "A connection between score matching and denoising autoencoders", Neural Computation 23(7), 2011.
.. [2] Alain and Bengio, "What regularized auto-encoders learn from the data-generating distribution", JMLR 15, 2014.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from malade_ref.arrays import Array
from malade_ref.checkpoint import load, save
from malade_ref.density import GaussianMixture, TemperedPosterior
from malade_ref.diagnostics import loglog_slope, t_interval
from malade_ref.minimiser import minimise
from malade_ref.network import LossGradient, Network, fingerprint, mlp
from malade_ref.statistics import Estimate, wilson
from malade_ref.theorem.claims import Claim, Measure, Progress, Settings, exact
from malade_ref.theorem.worlds import OVERLAPPING, World, random_mixture, three_islands
from malade_ref.training import Denoising, Objective, SupervisedDenoising, fit

Floats = NDArray[np.float64]

SIGMA = 0.3
OVERCONFIDENT = 1.5  # inverse temperature of the miscalibrated classifier
GOOD = 0.01  # normalised Fisher divergence that a trained network must not exceed in the plane
TWO_SIDED = 1.96
SHARPNESS = 2.0  # of the first layer's units, in inverse lengths
ROWS = 1 << 19  # most rows of a pass through a data set


# Training ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: Adam, one-cycle, in float32.

    In the plane at sigma 0.3 the first layer's start decides (see `untrained`), and then how many noisy samples are
    seen, since the gradients' noise is what limits the score: 4096 steps of 1024 samples and 1024 steps of 4096 led to
    the same error, 0.0056 for an sDAE, the larger batch in less time. Averaging the weights of the last quarter of the
    steps improved on a learning rate that falls to 0 by a few percent at most. Widths 64, 64 had almost twice the error
    for an sDAE, whose label term has narrow ridges.

    Attributes
    ----------
    points : int
        Size of the data set.
    steps : int
        Optimiser steps, about; noise is fresh in each.
    batch_size : int
        Samples a step.
    learning_rate : float
        Its peak.
    hidden : tuple of int
        Widths of the layers.
    """

    points: int = 1 << 19
    steps: int = 3072
    batch_size: int = 2048
    learning_rate: float = 0.015
    hidden: tuple[int, ...] = (128, 64)


class Posterior:
    """A mixture's classifier, as the supervised objective takes one.

    Parameters
    ----------
    classifier : TemperedPosterior
        What `GaussianMixture.tempered` returns.
    """

    def __init__(self, classifier: TemperedPosterior) -> None:
        self.classifier = classifier

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Logits, and the class scores that their gradients are made of.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.

        Returns
        -------
        logits : array of shape (n, K)
            beta log p(y | x) + b.
        scores : array of shape (n, K, d)
            grad log p(x | y).
        """
        mixture, ops = self.classifier.mixture, self.classifier.ops
        labels = ops.asarray(mixture.labels)
        joint, scores = ops.mixture_scores(x, *mixture.arrays, labels, num_classes=mixture.num_classes)
        bias = ops.asarray(self.classifier.bias.astype(mixture.dtype))
        return self.classifier.beta * ops.log_softmax(joint) + bias, scores

    def loss_gradient_of(self, logits: Array, tape: Array, y: Array) -> LossGradient:
        """Cross entropy and its gradient: beta times the class scores, weighted by softmax less one-hot.

        Parameters
        ----------
        logits, tape
            From `forward`.
        y : array of shape (n,), integer
            Labels.
        """
        ops = self.classifier.ops
        # These weights add up to 0, so what the class scores have in common, grad log p(x), drops out.
        weights = ops.softmax_cross_entropy_vjp(ops.ones(y.shape, self.classifier.dtype), logits, y)
        gradient = self.classifier.beta * (weights[:, :, None] * tape).sum(axis=1)
        return LossGradient(ops.softmax_cross_entropy(logits, y), logits, gradient)

    def fingerprint(self) -> str:
        """SHA-256 of mixture, temperature and bias.

        Returns
        -------
        str
            Tells one classifier from another.
        """
        mixture, settings = self.classifier.mixture, f"{self.classifier.beta!r} {self.classifier.bias.tolist()}"
        arrays = dict(zip(("log_scale", "means", "whitening"), mixture.arrays, strict=True))
        whole = f"{fingerprint(mixture.ops, arrays)} {mixture.labels.tolist()} {settings}"
        return hashlib.sha256(whole.encode()).hexdigest()


def untrained(points: Floats, hidden: Sequence[int], *, seed: int, ops: ModuleType) -> Network:
    """Return a denoiser near the identity, whose first layer looks where the points are.

    Glorot's weights with zero biases leave all units of the first layer nearly linear, and centred at the origin; from
    there, networks in the plane do not get below a normalised Fisher divergence of 0.07 within 4000 steps. Here every
    unit changes across a point of the data, in a random direction, over a length of about 1 / `SHARPNESS`.

    Parameters
    ----------
    points : ndarray of shape (n, d)
        The data.
    hidden : sequence of int
        Widths of the layers.
    seed : int
        Of everything random.
    ops : module
        The backend.

    Returns
    -------
    Network
        From (d,) to (d,), in float32.
    """
    d = points.shape[1]
    network = mlp((d,), d, hidden=hidden, residual=True, seed=seed, ops=ops)
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(hidden[0], d)) * SHARPNESS / d**0.5
    centers = points[rng.choice(len(points), hidden[0])]
    last = f"{len(network.layers) - 1}.weight"
    first = {"1.weight": weight, "1.bias": -np.sum(weight * centers, axis=1)}
    params = {name: ops.asarray(value.astype(np.float32)) for name, value in first.items()}
    return network.replace_params({**network.params, **params, last: 0.1 * network.params[last]})


def train(
    mixture: GaussianMixture,
    objective: Objective,
    recipe: Recipe,
    *,
    seed: int,
    points: tuple[Floats, NDArray[np.int64]] | None = None,
    progress: Progress | None = None,
) -> Network:
    """Train a denoiser of a mixture.

    Parameters
    ----------
    mixture : GaussianMixture
        Where points are drawn from, and with which backend the network computes.
    objective : Objective
        `Denoising` or `SupervisedDenoising`.
    recipe : Recipe
        How.
    seed : int
        Of data, weights, order and noise.
    points : tuple of (ndarray of shape (n, d), ndarray of shape (n,)), optional
        The data set, on the host, instead of ``recipe.points`` fresh points.
    progress : callable, optional
        Told the fraction done.

    Returns
    -------
    Network
        The denoiser, in float32.
    """
    ops = mixture.ops
    x, y = points if points is not None else data_set(mixture, recipe.points, seed)
    total = recipe.steps * recipe.batch_size
    # A small set is repeated within a pass, under other sample numbers: the noise is fresh every time.
    copies = max(1, min(ROWS, total) // len(x))
    rows = np.tile(np.arange(len(x)), copies)
    network = untrained(x, recipe.hidden, seed=seed, ops=ops)
    fitted = fit(
        network,
        objective,
        ops.asarray(x[rows].astype(np.float32)),
        ops.asarray(y[rows]),
        epochs=max(1, round(total / len(rows))),
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        seed=seed,
        progress=progress,
    )
    return fitted.network


def data_set(mixture: GaussianMixture, n: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Draw points to train on.

    Parameters
    ----------
    mixture : GaussianMixture
        Their distribution.
    n : int
        How many; a smaller set is the beginning of a larger one.
    seed : int
        Which set.

    Returns
    -------
    x : ndarray of shape (n, d)
        Points, on the host.
    y : ndarray of shape (n,)
        Their classes.
    """
    x, y = mixture.sample(n, seed=(seed, "training"))
    return mixture.ops.to_host(x), mixture.ops.to_host(y)


# The oracle ----------------------------------------------------------------------------------------------------------


def noisy_points(mixture: GaussianMixture, n: int, sigma: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw points that no network was trained on, and noisy versions of them.

    Parameters
    ----------
    mixture : GaussianMixture
        Distribution of the clean points.
    n : int
        How many.
    sigma : float
        Standard deviation of the noise.
    rng : numpy.random.Generator
        Of points and noise.

    Returns
    -------
    x, u : ndarray of shape (n, d)
        Clean and noisy points, on the host.
    """
    clean, _ = mixture.sample(n, seed=(int(rng.integers(1 << 62)), "test"))
    x = mixture.ops.to_host(clean)
    # What a network in float32 sees is what the oracle is asked about.
    u = (x + sigma * rng.normal(size=x.shape)).astype(np.float32).astype(np.float64)
    return x, u


def apply(network: Network, u: Floats) -> Floats:
    """Output of a network for points on the host, of shape (n, d), float64.

    Parameters
    ----------
    network : Network
        A denoiser.
    u : ndarray of shape (n, d)
        Points.
    """
    ops = network.ops
    return np.asarray(ops.to_host(network.apply(ops.asarray(u.astype(network.dtype)))), dtype=np.float64)


def dae_target(mixture: GaussianMixture, u: Floats, sigma: float) -> Floats:
    """E[x | u], the DAE's minimiser.

    Parameters
    ----------
    mixture : GaussianMixture
        Distribution of x.
    u : ndarray of shape (n, d)
        Noisy points.
    sigma : float
        Standard deviation of the noise.

    Returns
    -------
    ndarray of shape (n, d)
        Posterior means, on the host.
    """
    return np.asarray(mixture.ops.to_host(mixture.posterior_mean(mixture.ops.asarray(u), sigma)))


def kernel_mean(points: Floats, u: Floats, sigma: float, *, ops: ModuleType) -> Floats:
    """Minimiser of the DAE's objective on a finite set of points (Nadaraya and Watson's kernel mean).

    Parameters
    ----------
    points : ndarray of shape (m, d)
        The data set.
    u : ndarray of shape (n, d)
        Noisy points.
    sigma : float
        Standard deviation of the noise.
    ops : module
        The backend.

    Returns
    -------
    ndarray of shape (n, d)
        sum_i x_i w_i(u): by Tweedie's formula, from the score of the points' own smoothed density.
    """
    m, d = points.shape
    covariances = np.broadcast_to(sigma**2 * np.eye(d), (m, d, d))
    density = GaussianMixture(np.full(m, 1 / m), points, covariances, ops=ops)
    return np.asarray(u + sigma**2 * ops.to_host(density.score(ops.asarray(u))))


def jacobian(network: Network, u: Floats) -> Floats:
    """Matrices of a network's derivatives.

    Parameters
    ----------
    network : Network
        From (d,) to (k,).
    u : ndarray of shape (n, d)
        Where.

    Returns
    -------
    ndarray of shape (n, k, d)
        d r_i / d u_j, by one backward pass for each output.
    """
    ops = network.ops
    output, tape = network.forward(ops.asarray(u.astype(network.dtype)))
    rows = []
    for i in range(output.shape[1]):
        cotangent = ops.zeros(output.shape, network.dtype)
        cotangent[:, i] = 1
        rows.append(ops.to_host(network.backward(tape, cotangent)[0]))
    return np.stack(rows, axis=1).astype(np.float64)


def divergence(learnt: Floats, target: Floats, u: Floats) -> Estimate:
    """Normalised Fisher divergence, E |r_theta - r*|^2 / E |r* - u|^2.

    Parameters
    ----------
    learnt, target : ndarray of shape (n, d)
        r_theta(u) and r*(u).
    u : ndarray of shape (n, d)
        Independent noisy points.

    Returns
    -------
    Estimate
        With a 95% interval over the points, by the delta method.
    """
    error, size = (np.sum(values**2, axis=1) for values in (learnt - target, target - u))
    return ratio(error, size)


def label_share(learnt: Floats, target: Floats, posterior_mean: Floats) -> Estimate:
    """How much of the label term an sDAE has learnt: the coefficient of r_theta - E[x | u] on r* - E[x | u].

    Parameters
    ----------
    learnt, target, posterior_mean : ndarray of shape (n, d)
        r_theta(u), the sDAE's minimiser r*(u), and the DAE's, at independent noisy points.

    Returns
    -------
    Estimate
        1 for the minimiser, 0 for a DAE; with a 95% interval over the points.
    """
    term = target - posterior_mean
    return ratio(np.sum((learnt - posterior_mean) * term, axis=1), np.sum(term**2, axis=1))


def ratio(numerator: Floats, denominator: Floats) -> Estimate:
    """Ratio of two means.

    Parameters
    ----------
    numerator, denominator : ndarray of shape (n,)
        Pairs, independent of each other.

    Returns
    -------
    Estimate
        With a 95% interval, by the delta method.
    """
    value = float(numerator.mean() / denominator.mean())
    spread = float(np.std(numerator - value * denominator, ddof=1))
    half = TWO_SIDED * spread / len(numerator) ** 0.5 / abs(float(denominator.mean()))
    return Estimate(value, value - half, value + half)


# The claims ----------------------------------------------------------------------------------------------------------


def trained_claims(settings: Settings, out: Path, progress: Progress) -> list[Claim]:
    """Train networks and hold them against the exact minimisers.

    Parameters
    ----------
    settings : Settings
        Scale, seed and backend.
    out : Path
        Folder for trained networks: after an interruption they are not trained again.
    progress : callable
        Told how far it is.

    Returns
    -------
    list of Claim
        What networks learn, with how many points, at which noise, in how many dimensions.
    """
    trainer = _Trainer(settings, out, progress)
    claims = []
    for begin, end, what in (
        (0.0, 0.12, _dae),
        (0.12, 0.45, _sdae),
        (0.45, 0.65, _sample_size),
        (0.65, 0.85, _u_shape),
        (0.85, 0.9, _empirical),
        (0.9, 1.0, _dimensions),
    ):
        trainer.stage(begin, end)
        claims += what(trainer)
    progress(1.0, "")
    return claims


class _Trainer:
    """Trains networks once: those of an interrupted run are found again."""

    def __init__(self, settings: Settings, out: Path, progress: Progress) -> None:
        self.settings, self.out, self.progress = settings, out, progress
        self.stage(0.0, 1.0)

    def stage(self, begin: float, end: float) -> None:
        """Say between which fractions of the whole the next networks are."""
        self.begin, self.end = begin, end

    def seed(self, name: str) -> int:
        """Return a seed of its own for every purpose."""
        high, low = self.settings.ops.derive_key(self.settings.seed, f"theorem/trained/{name}")
        return int(high) << 32 | int(low)

    def rng(self, name: str) -> np.random.Generator:
        """Return a generator for test points."""
        return self.settings.rng("trained", name)

    def networks(self, jobs: Sequence[_Job], begin: float = 0.0, end: float = 1.0) -> list[Network]:
        """Train them one after the other, between two fractions of the stage."""

        def progress(number: int, name: str) -> Progress:
            def tell(fraction: float, _: str) -> None:
                done = begin + (end - begin) * (number + fraction) / len(jobs)
                self.progress(self.begin + (self.end - self.begin) * done, f"training {name}")

            return tell

        return [self._network(job, progress(number, job.name)) for number, job in enumerate(jobs)]

    def _network(self, job: _Job, progress: Progress) -> Network:
        path, ops = self.out / f"{job.name}.h5", self.settings.ops
        if path.exists():
            return load(path, ops=ops)
        seed = self.seed(job.data)
        points = data_set(job.mixture, job.recipe.points, seed)
        network = train(job.mixture, job.objective, job.recipe, seed=seed, points=points, progress=progress)
        save(network, path)
        return network


class _Job(NamedTuple):
    """A network to be trained; ``data`` names its points, weights and noise, which several may share."""

    name: str
    data: str
    mixture: GaussianMixture
    objective: Objective
    recipe: Recipe


def _recipe(settings: Settings, *, quick: int) -> Recipe:
    """With enough data. The batches are large because the noise of the gradients is what limits the score."""
    full, tiny = Recipe(), Recipe(points=4096, steps=60, batch_size=128, hidden=(32, 32))
    recipe: Recipe = settings.pick(full=full, quick=replace(full, points=1 << 18, steps=quick), tiny=tiny)
    return recipe


def _small(settings: Settings, points: int) -> Recipe:
    """With a data set of a given size."""
    full = Recipe(points, steps=1500, batch_size=256, learning_rate=0.01, hidden=(64, 64))
    tiny = replace(full, steps=30, batch_size=64, hidden=(16, 16))
    recipe: Recipe = settings.pick(full=full, quick=replace(full, steps=300), tiny=tiny)
    return recipe


def _over(estimates: Sequence[Estimate]) -> Estimate:
    """Over several trainings Student's interval of their values; of a single one its own, over the test points."""
    return t_interval(np.array([estimate.value for estimate in estimates])) if len(estimates) > 1 else estimates[0]


def _trainings(count: int) -> str:
    return f"{count} trainings" if count > 1 else "one training; interval over test points"


# With enough data ----------------------------------------------------------------------------------------------------


def _dae(trainer: _Trainer) -> list[Claim]:
    settings, plane = trainer.settings, three_islands(trainer.settings)
    seeds, recipe = settings.pick(full=3, quick=1, tiny=1), _recipe(settings, quick=512)
    jobs = [_Job(f"dae-{i}", f"plane-{i}", plane, Denoising(SIGMA), recipe) for i in range(seeds)]
    networks = trainer.networks(jobs, 0, 0.95)
    num_points = settings.pick(full=1 << 15, quick=1 << 14, tiny=1 << 11)
    _, u = noisy_points(plane, num_points, SIGMA, trainer.rng("dae"))
    target = dae_target(plane, u, SIGMA)
    learnt = [apply(network, u) for network in networks]
    cosines = [_cosine(r - u, target - u) for r in learnt]
    fitted = (
        f"{recipe.points:,} points, {recipe.steps:,} steps of {recipe.batch_size:,} with fresh noise, "
        f"widths {', '.join(map(str, recipe.hidden))}"
    )
    some = u[: settings.pick(full=8192, quick=4096, tiny=512)]
    derivatives = [jacobian(network, some) for network in networks]
    exact_derivative = settings.ops.to_host(plane.posterior_covariance(settings.ops.asarray(some), SIGMA)) / SIGMA**2
    return [
        Claim(
            "trained-dae",
            3,
            "A trained DAE knows the score",
            "Given enough data, a DAE's residual over sigma^2 is the score of the smoothed density, up to "
            f"{GOOD:.0%} of the score's mean square.",
            f"Plane with three classes, sigma {SIGMA:g}; {fitted}. Normalised Fisher divergence at {num_points:,} new "
            "points.",
            [
                Measure(
                    "normalised Fisher divergence",
                    _over([divergence(r, target, u) for r in learnt]),
                    high=GOOD,
                    note=_trainings(seeds),
                ),
                Measure("mean cosine of learnt and true score", _over(cosines), low=0.95, note=_trainings(seeds)),
            ],
        ),
        _risk(trainer, plane, networks[0]),
        Claim(
            "trained-jacobian",
            3,
            "Its derivative is the posterior covariance",
            "The Jacobian of a DAE's minimiser is Cov[x | u] / sigma^2: symmetric and positive definite. Nothing in "
            "the network makes it so; it is learnt.",
            f"The networks above, at {len(some):,} points; norms are Frobenius's, root mean squares over points.",
            [
                Measure(
                    "relative error of the Jacobian",
                    _over([_relative(j - exact_derivative, exact_derivative) for j in derivatives]),
                    high=0.15,
                    note=_trainings(seeds),
                ),
                Measure(
                    "curl, |J - J^T| / |J|",
                    _over([_relative(j - j.transpose(0, 2, 1), j) for j in derivatives]),
                    high=0.1,
                    note=_trainings(seeds),
                ),
                Measure(
                    "share of points with a positive definite symmetric part",
                    _over([_share(_lowest_eigenvalue(j) > 0) for j in derivatives]),
                    low=0.99,
                    note=_trainings(seeds),
                ),
            ],
        ),
    ]


def _risk(trainer: _Trainer, plane: GaussianMixture, network: Network) -> Claim:
    """Excess risk and Fisher divergence, measured apart."""
    settings = trainer.settings
    num_points = settings.pick(full=1 << 20, quick=1 << 18, tiny=1 << 12)
    # A network that has learnt little has an excess risk that can be seen through the noise of the risk.
    recipe = replace(_small(settings, 64), steps=200)
    (poor,) = trainer.networks([_Job("dae-poor", "poor", plane, Denoising(SIGMA), recipe)], 0.95)
    measures: list[Measure] = []
    for label, trained in (("", network), (", network trained on 64 points", poor)):
        x, u = noisy_points(plane, num_points, SIGMA, trainer.rng("risk"))
        target, learnt = dae_target(plane, u, SIGMA), apply(trained, u)
        fisher = SIGMA**4 * np.sum(((learnt - u) / SIGMA**2 - _score(plane, u)) ** 2, axis=1)
        excess = np.sum((learnt - x) ** 2, axis=1) - np.sum((target - x) ** 2, axis=1)
        if not measures:
            apart = np.abs(np.sum((learnt - target) ** 2, axis=1) - fisher).max() / fisher.mean()
            measures.append(
                Measure("|r - r*|^2 = sigma^4 |s - s*|^2, largest relative error", exact(apart), high=1e-10)
            )
            remark = ratio(excess, fisher)
        else:
            measures.append(
                Measure(f"excess risk over sigma^4 Fisher divergence{label}", ratio(excess, fisher), 0.9, 1.1)
            )
    return Claim(
        "trained-risk",
        3,
        "Excess risk is Fisher divergence",
        "By how much a network denoises worse than the exact minimiser is sigma^4 times the Fisher divergence between "
        "the smoothed density and what it has learnt: denoising well and knowing the score are one thing.",
        f"Excess risk from the clean points, paired: the two errors at the same {num_points:,} noisy points. Fisher "
        "divergence from the score.",
        measures,
        [
            "For the well-trained network, whose excess is small next to the noise of the risk, the ratio is "
            f"{remark.value:.2f} [{remark.low:.2f}, {remark.high:.2f}]."
        ],
    )


def _sdae(trainer: _Trainer) -> list[Claim]:
    settings, plane = trainer.settings, three_islands(trainer.settings)
    seeds, recipe = settings.pick(full=3, quick=1, tiny=1), _recipe(settings, quick=1024)
    single = in_single(plane)
    _, u = noisy_points(plane, settings.pick(full=1 << 14, quick=1 << 13, tiny=1 << 9), SIGMA, trainer.rng("sdae"))
    measures, remarks = [], []
    grid = _grid(plane)
    arrays = {"grid": grid, "true": _score(plane, grid, 0.0)}
    for number, (kind, beta) in enumerate((("calibrated", 1.0), ("over-confident", OVERCONFIDENT))):
        objective = SupervisedDenoising(SIGMA, Posterior(single.tempered(beta)))
        jobs = [_Job(f"sdae-{kind}-{i}", f"plane-{i}", plane, objective, recipe) for i in range(seeds)]
        networks = trainer.networks(jobs, number / 2, (number + 1) / 2)
        minimum = minimise(plane, plane.tempered(beta), settings.ops.asarray(u), SIGMA)
        target, mean = minimum.position, minimum.posterior_mean
        learnt = [apply(network, u) for network in networks]
        found = [divergence(r, target, u) for r in learnt]
        shares = _over([label_share(r, target, mean) for r in learnt])
        measures += [
            Measure(f"{kind}: normalised Fisher divergence from r*", _over(found), high=GOOD, note=_trainings(seeds)),
            # 0 for a network that ignores the classifier, -1 with the wrong sign, 2 with a mean for the sum.
            Measure(f"{kind}: share of the label term that is learnt", shares, 0.8, 1.2, _trainings(seeds)),
        ]
        remarks.append(
            f"{kind.capitalize()}: the label term makes {divergence(mean, target, u).value:.1%} of the mean square."
        )
        exact_field = minimise(plane, plane.tempered(beta), settings.ops.asarray(grid), SIGMA).position
        arrays[f"{kind}-exact"] = (exact_field - grid) / SIGMA**2
        arrays[f"{kind}-trained"] = (apply(networks[0], grid) - grid) / SIGMA**2
    return [
        Claim(
            "trained-sdae",
            3,
            "A trained sDAE finds its exact minimiser",
            f"Given enough data, the paper's objective leads to Newton's r*, up to {GOOD:.0%}: what the theorem says "
            "of the minimiser holds for what is trained.",
            f"As the DAE above, {recipe.steps:,} steps, with the cross entropy of the Bayes classifier, calibrated or "
            f"with inverse temperature {OVERCONFIDENT:g}; {len(u):,} new points.",
            measures,
            remarks,
            arrays,
        )
    ]


# With fewer data -----------------------------------------------------------------------------------------------------


def _sample_size(trainer: _Trainer) -> list[Claim]:
    settings, plane = trainer.settings, three_islands(trainer.settings)
    sizes = settings.pick(full=(64, 256, 1024, 4096, 16384, 65536), quick=(64, 256, 1024), tiny=(64, 1024))
    seeds = settings.pick(full=4, quick=3, tiny=2)
    _, u = noisy_points(plane, settings.pick(full=1 << 14, quick=1 << 13, tiny=1 << 9), SIGMA, trainer.rng("size"))
    target = dae_target(plane, u, SIGMA)
    jobs = [
        _Job(f"size-{n}-{i}", f"size-{i}", plane, Denoising(SIGMA), _small(settings, n))
        for i in range(seeds)
        for n in sizes
    ]
    found = [divergence(apply(network, u), target, u).value for network in trainer.networks(jobs)]
    errors = np.array(found).reshape(seeds, len(sizes))
    slope = loglog_slope(np.array(sizes, dtype=float), errors)
    steps = _small(settings, 0).steps
    return [
        Claim(
            "trained-sample-size",
            3,
            "The error falls with the number of points",
            "With more points to learn from, the same network trained for the same time comes closer to the minimiser.",
            f"{sizes[0]:,} to {sizes[-1]:,} points, nested, {seeds} sets of each; {steps:,} steps with fresh noise. "
            "Exponent of a power law fitted to the normalised Fisher divergence; Student's interval over the sets.",
            [Measure("exponent", slope.exponent, -1.5, -0.3, f"{seeds} seeds")],
            [
                "Mean normalised Fisher divergence: "
                + ", ".join(f"{error:.3g} at {n:,}" for n, error in zip(sizes, errors.mean(axis=0), strict=True))
                + ". The optimiser's own noise is what remains with many points.",
                "Exponents from one size to the next: "
                + ", ".join(f"{exponent:.2f}" for exponent in _steps(np.array(sizes), errors.mean(axis=0)))
                + "; the fit is to all of them.",
            ],
            {"sizes": np.array(sizes), "errors": errors, "fit": np.array([*slope.exponent, slope.intercept])},
        )
    ]


def _steps(x: NDArray[np.int64], y: Floats) -> Floats:
    """Exponents of the power laws through neighbouring points."""
    return np.asarray(np.diff(np.log(y)) / np.diff(np.log(x)))


def _u_shape(trainer: _Trainer) -> list[Claim]:
    settings, plane = trainer.settings, three_islands(trainer.settings)
    sigmas = settings.pick(full=(0.05, 0.1, 0.2, 0.3, 0.45, 0.7, 1.0), quick=(0.05, 0.25, 1.0), tiny=(0.05, 0.3, 1.0))
    seeds, points = settings.pick(full=4, quick=4, tiny=2), 1024
    x, _ = noisy_points(plane, settings.pick(full=1 << 13, quick=1 << 12, tiny=1 << 9), SIGMA, trainer.rng("u-shape"))
    jobs = [
        _Job(f"sigma-{sigma:g}-{i}", f"sigma-{i}", plane, Denoising(sigma), _small(settings, points))
        for i in range(seeds)
        for sigma in sigmas
    ]
    clean = _score(plane, x, 0.0)
    scale = float(np.sum(clean**2))
    total, estimation = np.empty((2, seeds * len(sigmas)))
    for number, (job, network) in enumerate(zip(jobs, trainer.networks(jobs), strict=True)):
        sigma = job.objective.sigma  # type: ignore[attr-defined]
        learnt = (apply(network, x) - x) / sigma**2
        total[number] = np.sum((learnt - clean) ** 2) / scale
        estimation[number] = np.sum((learnt - _score(plane, x, sigma)) ** 2) / scale
    total, estimation = (values.reshape(seeds, len(sigmas)) for values in (total, estimation))
    bias = np.array([np.sum((_score(plane, x, sigma) - clean) ** 2) / scale for sigma in sigmas])
    best = int(total.mean(axis=0).argmin())
    ends = [_ratio_of_means(total[:, end], total[:, best]) for end in (0, -1)]
    return [
        Claim(
            "trained-u-shape",
            3,
            "There is a best noise level",
            "Against the score of the clean density, a trained DAE errs twice: by the smoothing, which falls with "
            "sigma, and by what it has not learnt, which rises as sigma falls. So the error has a minimum in between.",
            f"{points:,} training points, {seeds} sets; errors at clean points, relative to the mean square of the "
            "score.",
            [
                Measure(
                    "error at the smallest sigma over the least",
                    ends[0],
                    low=1.25,
                    note=f"{seeds} seeds, geometric mean",
                ),
                Measure(
                    "error at the largest sigma over the least",
                    ends[1],
                    low=1.25,
                    note=f"{seeds} seeds, geometric mean",
                ),
                Measure(
                    "exponent of the estimation error in sigma",
                    loglog_slope(np.array(sigmas), estimation).exponent,
                    high=-0.5,
                    note=f"{seeds} seeds",
                ),
            ],
            [
                "Mean error: "
                + ", ".join(
                    f"{error:.3g} at sigma {sigma:g}" for sigma, error in zip(sigmas, total.mean(axis=0), strict=True)
                )
                + f"; the least at {sigmas[best]:g}."
            ],
            {"sigma": np.array(sigmas), "total": total, "estimation": estimation, "bias": bias},
        )
    ]


def _empirical(trainer: _Trainer) -> list[Claim]:
    settings, plane = trainer.settings, three_islands(trainer.settings)
    seeds, recipe = settings.pick(full=4, quick=3, tiny=2), _small(settings, 16)
    recipe = replace(recipe, steps=2 * recipe.steps)
    jobs = [_Job(f"few-{i}", f"few-{i}", plane, Denoising(SIGMA), recipe) for i in range(seeds)]
    found, apart = [], []
    for number, (job, network) in enumerate(zip(jobs, trainer.networks(jobs), strict=True)):
        points, _ = data_set(plane, recipe.points, trainer.seed(job.data))
        rng = trainer.rng(f"few-{number}")
        u = points[rng.integers(len(points), size=4096)]
        u = u + SIGMA * rng.normal(size=u.shape)
        own, true, learnt = (
            kernel_mean(points, u, SIGMA, ops=settings.ops),
            dae_target(plane, u, SIGMA),
            apply(network, u),
        )
        distance = np.mean(np.sum((own - true) ** 2, axis=1))
        found.append(float(np.mean(np.sum((learnt - own) ** 2, axis=1)) / distance))
        apart.append(float(np.mean(np.sum((learnt - true) ** 2, axis=1)) / distance))
    return [
        Claim(
            "trained-empirical",
            3,
            "With few points it learns those points",
            "On a small data set the minimiser is the set's kernel mean and not the truth's posterior mean, and a "
            "network that is large enough finds it.",
            f"{recipe.points} training points, {recipe.steps:,} steps, {seeds} sets; noisy versions of these points.",
            [
                Measure(
                    "squared distance to the kernel mean, relative to the kernel mean's from the truth",
                    t_interval(np.array(found)),
                    high=0.25,
                    note=f"{seeds} seeds",
                )
            ],
            [f"Relative squared distance to the truth's minimiser: {np.mean(apart):.2f}."],
        )
    ]


def _dimensions(trainer: _Trainer) -> list[Claim]:
    settings = trainer.settings
    dimensions = settings.pick(full=(1, 2, 10, 50), quick=(1, 10, 50), tiny=(1, 10))
    seeds = settings.pick(full=3, quick=1, tiny=1)
    recipe = settings.pick(
        full=Recipe(points=1 << 18, steps=1536, batch_size=1024, learning_rate=0.01, hidden=(128,)),
        quick=Recipe(points=1 << 17, steps=256, batch_size=1024, learning_rate=0.01, hidden=(128,)),
        tiny=Recipe(points=1024, steps=30, batch_size=64, hidden=(32,)),
    )
    mixtures = {d: random_mixture(World(d, 3, OVERLAPPING), settings, 0) for d in dimensions}
    jobs = [
        _Job(f"dimensions-{d}-{i}", f"dimensions-{d}-{i}", mixtures[d], Denoising(SIGMA), recipe)
        for d in dimensions
        for i in range(seeds)
    ]
    networks = trainer.networks(jobs)
    measures = []
    for number, d in enumerate(dimensions):
        _, u = noisy_points(mixtures[d], settings.pick(full=8192, quick=4096, tiny=512), SIGMA, trainer.rng(f"{d}"))
        target = dae_target(mixtures[d], u, SIGMA)
        found = [
            divergence(apply(network, u), target, u) for network in networks[number * seeds : (number + 1) * seeds]
        ]
        measures.append(
            Measure(f"normalised Fisher divergence in {d} dimensions", _over(found), high=0.1, note=_trainings(seeds))
        )
    return [
        Claim(
            "trained-dimensions",
            3,
            "It works in 1 to 50 dimensions",
            "The score of a mixture can be learnt in 50 dimensions as well, up to 10% of its mean square.",
            f"Random mixtures of three overlapping classes; {recipe.points:,} points, {recipe.steps:,} steps of "
            f"{recipe.batch_size:,}, one hidden layer of {recipe.hidden[0]}.",
            measures,
        )
    ]


# Details -------------------------------------------------------------------------------------------------------------


def in_single(mixture: GaussianMixture) -> GaussianMixture:
    """The same mixture in float32, as networks compute.

    Parameters
    ----------
    mixture : GaussianMixture
        Any.

    Returns
    -------
    GaussianMixture
        In float32.
    """
    arrays = mixture.weights, mixture.means, mixture.covariances, mixture.labels
    return GaussianMixture(*arrays, ops=mixture.ops, dtype="float32")


def _score(mixture: GaussianMixture, x: Floats, sigma: float = SIGMA) -> Floats:
    smoothed = mixture.smoothed(sigma)
    return np.asarray(mixture.ops.to_host(smoothed.score(mixture.ops.asarray(x))))


def _cosine(first: Floats, second: Floats) -> Estimate:
    products = np.sum(first * second, axis=1)
    return _mean(products / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1))


def _mean(values: Floats) -> Estimate:
    mean, half = float(values.mean()), TWO_SIDED * float(values.std(ddof=1)) / len(values) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def _share(which: NDArray[np.bool_]) -> Estimate:
    return wilson(int(which.sum()), len(which))


def _relative(error: Floats, whole: Floats) -> Estimate:
    """Relative error of matrices, root mean square."""
    squares = ratio(np.sum(error**2, axis=(1, 2)), np.sum(whole**2, axis=(1, 2)))
    return Estimate(*(max(0.0, value) ** 0.5 for value in squares))


def _lowest_eigenvalue(matrices: Floats) -> Floats:
    return np.asarray(np.linalg.eigvalsh(0.5 * (matrices + matrices.transpose(0, 2, 1)))[:, 0])


def _ratio_of_means(numerator: Floats, denominator: Floats) -> Estimate:
    """Ratio of positive numbers, pair by pair: geometric mean and Student's interval."""
    return Estimate(*(float(np.exp(value)) for value in t_interval(np.log(numerator / denominator))))


def _grid(mixture: GaussianMixture, size: int = 21) -> Floats:
    """Points of the plane where there is density."""
    low, high = mixture.means.min(axis=0) - 1.2, mixture.means.max(axis=0) + 1.2
    axes = [np.linspace(a, b, size) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
