r"""Part 4: what has to go wrong.

- The wrong sign, E [ |r(u) - x|^2 - 2 sigma^2 J ], as in the paper's equations (11) and (13): where the cross entropy
  grows faster than the square, the objective has no lower bound; where it has a minimum, as for logits that grow no
  faster than linearly, the label term there points the other way.
- A mean over the L coordinates in place of the sum: the label term becomes L times too large.
- Noisy inputs clipped to [0, 1]: what is left is not Gaussian noise, and E[x | u] is not u plus the score.
- Equation (10), with sum_y p(y | x) grad log p(x, y), is equation (6), with grad log p(x), whatever the priors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import special

from malade_ref.density import GaussianMixture
from malade_ref.diagnostics import loglog_slope
from malade_ref.minimiser import minimise
from malade_ref.statistics import Estimate
from malade_ref.theorem.chains import Floats, Host
from malade_ref.theorem.claims import Claim, Measure, Progress, Settings, exact
from malade_ref.theorem.identity import SIGMAS
from malade_ref.theorem.worlds import OVERLAPPING, WORLDS, World, isotropic, random_mixture, rms, three_islands

MEAN_DIMENSIONS = (2, 10, 50)
CLIP_SIGMA = 0.387  # the paper's on MNIST


def control_claims(settings: Settings, out: Path, progress: Progress) -> list[Claim]:
    """Check that what has to go wrong does.

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
        Wrong sign, mean for sum, clipped noise, and (10) against (6).
    """
    progress(0.0, "equation (10)")
    claims = [_ten_is_six(settings)]
    progress(0.2, "wrong sign")
    claims.append(_wrong_sign(settings))
    progress(0.5, "mean for sum")
    claims.append(_mean_for_sum(settings))
    progress(0.8, "clipped noise")
    claims.append(_clipped(settings))
    return claims


def _ten_is_six(settings: Settings) -> Claim:
    points = settings.pick(full=2000, quick=500, tiny=50)
    largest, smallest_prior = 0.0, 1.0
    for world in WORLDS:
        mixture = random_mixture(world, settings, 100)
        host = Host(mixture)
        x, _ = host.sample(points, seed=(settings.seed, f"theorem/ten/{world.label}"))
        score = host.score(x)
        ten = np.einsum("nk,nkd->nd", np.exp(host.class_log_posteriors(x)), host.class_scores(x))
        largest = max(largest, float(np.max(np.abs(ten - score) / (1 + np.abs(score)))))
        smallest_prior = min(smallest_prior, float(mixture.priors.min()))
    return Claim(
        "control-ten-is-six",
        4,
        "Equation (10) is equation (6)",
        "sum_y p(y | x) grad log p(x | y) = grad log p(x): averaged over the labels that a calibrated classifier "
        "expects, the score given the label is the score without it. Under the theorem's own assumption, the paper's "
        "supervised chain is its unsupervised one.",
        f"{points:,} points of a random mixture of each of {len(WORLDS)} kinds, priors from {smallest_prior:.3f} up.",
        [Measure("largest difference, relative to 1 + |score|", exact(largest), high=1e-12)],
        control=True,
    )


# The wrong sign ------------------------------------------------------------------------------------------------------


def wrong_sign_objective(mixture: GaussianMixture, beta: float, u: Floats, r: Floats, sigma: float) -> Floats:
    """Evaluate the objective of the paper's equations (11) and (13) as they are printed.

    Parameters
    ----------
    mixture : GaussianMixture
        The truth.
    beta : float
        Inverse temperature of the classifier.
    u : ndarray of shape (n, d)
        Noisy points.
    r : ndarray of shape (n, d)
        Where.
    sigma : float
        Standard deviation of the noise.

    Returns
    -------
    ndarray of shape (n,)
        |r - E[x | u]|^2 / 2 - sigma^2 sum_y p_s(y | u) (-log yhat_y(r)): half the objective, without its constant.
    """
    mean = Host(mixture).posterior_mean(u, sigma)
    posterior = np.exp(Host(mixture.smoothed(sigma)).class_log_posteriors(u))
    entropy = -np.sum(posterior * Host(mixture.tempered(beta)).log_probabilities(r), axis=1)
    return np.asarray(0.5 * np.sum((r - mean) ** 2, axis=1) - sigma**2 * entropy)


def _wrong_sign(settings: Settings) -> Claim:
    points = settings.pick(full=1000, quick=300, tiny=50)
    # Two classes of different widths: the cross entropy of the wrong class grows as the square of the distance.
    narrow = isotropic([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [0.4, 0.8], [0, 1], settings=settings)
    u, _ = Host(narrow).sample(points, seed=(settings.seed, "theorem/wrong-sign"))
    away = np.array([1.0, 0.0])
    distances = 10.0 ** np.arange(5)
    sigma = 0.8
    values = np.array([wrong_sign_objective(narrow, 1.0, u, u + t * away, sigma).mean() for t in distances])
    # With equal covariances the logits are linear, and the square wins in the end.
    equal = isotropic([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [0.6, 0.6], [0, 1], settings=settings)
    bounded = np.array([wrong_sign_objective(equal, 1.0, u, u + t * away, sigma).mean() for t in distances])
    # Where it has a stationary point, for small sigma, the label term is reversed.
    world = three_islands(settings)
    x, _ = Host(world).sample(points, seed=(settings.seed, "theorem/wrong-sign"))
    slopes = {sign: _slope_of_sign(world, x, sign) for sign in (1, -1)}
    classifier = world.tempered(0.5)
    right = minimise(world, classifier, world.ops.asarray(x), 0.05)
    reversed_term = _stationary_of_wrong_sign(world, 0.5, x, 0.05) - right.posterior_mean
    term = right.position - right.posterior_mean
    cosine = float(np.sum(term * reversed_term) / (np.linalg.norm(term) * np.linalg.norm(reversed_term)))
    return Claim(
        "control-wrong-sign",
        4,
        "The paper's printed sign gives no denoiser",
        "With -2 sigma^2 J the objective rewards a confident error, and has no minimum: along a ray it falls without "
        "end. For small sigma it has stationary points, but they contradict the theorem: the label term is reversed, "
        "and the error against the theorem's formula does not fall.",
        f"Mean objective of {points:,} points, r moved from u by 1 to {distances[-1]:g}; two classes of standard "
        f"deviations 0.4 and 0.8, sigma {sigma:g}. Stationary points in the 2-D world, beta 0.5, by fixed-point "
        "iteration.",
        [
            Measure("objective at the furthest r", exact(float(values[-1])), high=-1e6),
            Measure("number of rises along the ray, from 10 on", exact(float(np.sum(np.diff(values[1:]) > 0))), high=0),
            Measure("the same, classes of equal covariance: objective at the furthest r", exact(bounded[-1]), low=1e6),
            Measure("cosine of the two signs' label terms", exact(cosine), high=-0.95),
            Measure("slope of the error, wrong sign", slopes[-1], -0.1, 0.1),
            Measure("slope of the error, right sign (for comparison)", slopes[1], 1.9, 2.1),
        ],
        [
            "The printed sign is not unbounded below for every classifier: if logits grow no faster than linearly, as "
            "those of a network of rectified linear layers, the square wins in the end. For two classes of equal "
            f"covariance (linear logits) the same objective is {bounded[0]:.2f}, {bounded[1]:.1f} and "
            f"{bounded[-1]:.2g} at distances {distances[0]:g}, {distances[1]:g} and {distances[-1]:g}."
        ],
        arrays={"distance": distances, "objective": values, "bounded": bounded},
        control=True,
    )


def _stationary_of_wrong_sign(mixture: GaussianMixture, beta: float, u: Floats, sigma: float, sign: int = -1) -> Floats:
    """Solve r = E[x | u] + sign sigma^2 sum_y p_s(y | u) grad log yhat_y(r) by iteration; converges for small sigma."""
    mean = Host(mixture).posterior_mean(u, sigma)
    posterior = np.exp(Host(mixture.smoothed(sigma)).class_log_posteriors(u))
    classifier = Host(mixture.tempered(beta))
    r = mean
    for _ in range(50):
        r = mean + sign * sigma**2 * np.einsum("nk,nkd->nd", posterior, classifier.gradients(r))
    return np.asarray(r)


def _slope_of_sign(mixture: GaussianMixture, x: Floats, sign: int) -> Estimate:
    """Slope in sigma of the error against the theorem's formula."""
    posterior = np.exp(Host(mixture).class_log_posteriors(x))
    limit = np.einsum("nk,nkd->nd", posterior, Host(mixture.tempered(0.5)).gradients(x))
    target = Host(mixture).score(x) + limit
    sigmas = np.array(SIGMAS[4:])
    errors = [
        rms((_stationary_of_wrong_sign(mixture, 0.5, x, sigma, sign) - x) / sigma**2 - target) for sigma in sigmas
    ]
    return loglog_slope(sigmas, np.array(errors)).exponent


# Mean for sum --------------------------------------------------------------------------------------------------------


def _mean_for_sum(settings: Settings) -> Claim:
    points = settings.pick(full=200, quick=60, tiny=20)
    sigma, measures = 0.01, []
    for dimensions in MEAN_DIMENSIONS:
        mixture = random_mixture(World(dimensions, 3, OVERLAPPING), settings, 200)
        x, _ = Host(mixture).sample(points, seed=(settings.seed, f"theorem/mean/{dimensions}"))
        classifier, u = mixture.tempered(0.5), mixture.ops.asarray(x)
        terms = []
        for weight in (1.0, float(dimensions)):
            found = minimise(mixture, classifier, u, sigma, ce_weight=weight)
            terms.append(found.position - found.posterior_mean)
        ratio = float(np.sum(terms[0] * terms[1]) / np.sum(terms[0] ** 2)) / dimensions
        measures.append(
            Measure(
                f"label term, mean over sum, divided by L: L = {dimensions}",
                exact(ratio),
                0.97,
                1.03,
                f"{points} points",
            )
        )
    return Claim(
        "control-mean",
        4,
        "With a mean over coordinates in place of the sum the label term is L times too large",
        "|r - x|^2 / L + 2 sigma^2 J has the minimisers of |r - x|^2 + 2 L sigma^2 J: a library's mean squared error "
        "gives the classifier L times the paper's weight.",
        f"Exact minimisers at sigma {sigma:g}, beta 0.5, of both objectives; regression of one label term on the "
        "other.",
        measures,
        ["On MNIST L = 784."],
        control=True,
    )


# Clipped noise -------------------------------------------------------------------------------------------------------


def clipped_posterior_mean(u: Floats, mixture: GaussianMixture, sigma: float) -> Floats:
    """Mean of the clean value given a noisy one that was clipped to [0, 1], on a line, by numerical integration.

    Parameters
    ----------
    u : ndarray of shape (n,)
        Clipped values, in [0, 1].
    mixture : GaussianMixture
        Of the clean values, one dimension; it is cut off at 0 and 1.
    sigma : float
        Standard deviation of the noise before clipping.

    Returns
    -------
    ndarray of shape (n,)
        E[x | u]: within (0, 1) as without clipping; at 0 and 1 given only that the noisy value lies beyond.
    """
    x = np.linspace(0, 1, 4001)
    prior = np.exp(Host(mixture).log_density(x[:, None]))
    likelihood = np.exp(-0.5 * ((u[:, None] - x) / sigma) ** 2)
    likelihood[u <= 0] = special.ndtr(-x / sigma)
    likelihood[u >= 1] = special.ndtr((x - 1) / sigma)
    weights = prior * likelihood
    return np.asarray(weights @ x / weights.sum(axis=1))


def _clipped(settings: Settings) -> Claim:
    points = settings.pick(full=20_000, quick=5000, tiny=1000)
    # Pixels like MNIST's: dark and bright, few between.
    pixels = isotropic([0.7, 0.3], [[0.08], [0.9]], [0.05, 0.08], settings=settings)
    rng = settings.rng("controls/clipped")
    x, _ = Host(pixels).sample(points, seed=(settings.seed, "theorem/clipped"))
    x = x[(x > 0) & (x < 1)]
    noisy = x + CLIP_SIGMA * rng.normal(size=len(x))
    clipped = np.clip(noisy, 0, 1)
    edge = (clipped == 0) | (clipped == 1)

    def tweedie(u: Floats) -> Floats:
        """Add sigma^2 times the score of the smoothed density of the values in (0, 1)."""
        grid = np.linspace(0, 1, 4001)
        weights = np.exp(Host(pixels).log_density(grid[:, None])) * np.exp(
            -0.5 * ((u[:, None] - grid) / CLIP_SIGMA) ** 2
        )
        return np.asarray(weights @ grid / weights.sum(axis=1))

    some = slice(0, 4000)
    wrong = tweedie(clipped[some]) - clipped_posterior_mean(clipped[some], pixels, CLIP_SIGMA)
    within = ~edge[some]
    size = rms(clipped_posterior_mean(clipped[some], pixels, CLIP_SIGMA) - clipped[some])
    return Claim(
        "control-clipped",
        4,
        "Clipping the noisy input breaks Tweedie's formula",
        "A denoiser trained on inputs clipped to [0, 1] is still a posterior mean, but of noise that is not Gaussian: "
        "at the ends of the range, where clipping has put many of the inputs, its residual is not sigma^2 times a "
        "score.",
        f"One pixel, dark (0.08) or bright (0.9), sigma {CLIP_SIGMA:g} as on MNIST; posterior means with and without "
        f"clipping by numerical integration, {len(clipped[some]):,} inputs.",
        [
            Measure("share of inputs that are clipped", exact(float(edge.mean())), low=0.2),
            Measure(
                "error of Tweedie's formula on clipped inputs, relative to the residual",
                exact(rms(wrong[~within]) / size),
                low=0.1,
            ),
            Measure("the same on inputs that were not clipped", exact(rms(wrong[within]) / size), high=1e-10),
        ],
        control=True,
    )
