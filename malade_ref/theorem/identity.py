r"""Parts 1 and 2: what the denoisers' exact minimisers say about the score.

At a noisy point u, with p_s the density smoothed by the noise,

    DAE:   r*(u) = E[x | u] = u + sigma^2 grad log p_s(u),                                             (Tweedie)
    sDAE:  r*(u) = E[x | u] + sigma^2 l(u),    l(u) = sum_y p_s(y | u) grad log yhat_y(r*(u)).

As sigma falls, grad log p_s is grad log p + O(sigma^2), and the label term l goes to sum_y p(y | u) grad log yhat_y(u).
For a calibrated classifier, yhat_y = p(y | .), that is sum_y grad p(y | u) = grad 1 = 0, and what is left of l is

    l(u) = (sigma^2 / 2) sum_y Laplacian p(y | u) grad log p(y | u) + O(sigma^4).

Laplacian p(y | x) = p(y | x) (tr H_y + |g_y|^2), with g_y and H_y the gradient and the Hessian of log p(y | x).

References
----------
.. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", Theorem 1.
.. [2] Robbins, "An empirical Bayes approach to statistics", 1956 (Tweedie's formula).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malade_ref.density import GaussianMixture
from malade_ref.diagnostics import loglog_slope, t_interval
from malade_ref.minimiser import Minimum, minimise
from malade_ref.statistics import Estimate
from malade_ref.theorem.chains import Floats, Host
from malade_ref.theorem.claims import Claim, Measure, Progress, Settings, exact
from malade_ref.theorem.worlds import WORLDS, World, line, random_mixture, rms, three_islands

SIGMAS = tuple(0.32 / 2**k for k in range(8))  # 0.32 to 0.0025
NEAR = 1.0  # difference of two classes' log posteriors at points near their border
NUM_FITTED = 3  # noise levels, the smallest, that slopes are fitted to
BETAS = (0.5, 1.0, 2.0)
SWEEP = (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)
BIASES = (-2.0, -1.0, 0.0, 1.0, 2.0)
NOISES = (0.0, 0.1, 0.2, 0.4)
DRIFT_SIGMA = 0.1
SLOPE = (1.9, 2.1)


# Part 1: the plain denoiser ------------------------------------------------------------------------------------------


def dae_claims(settings: Settings, out: Path, progress: Progress) -> list[Claim]:
    """Check the plain denoiser.

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
        The identity, and the error against the clean score.
    """
    worlds, seeds, points = _size(settings)
    largest, slopes, curves = 0.0, {}, {}
    for number, world in enumerate(worlds):
        errors = np.empty((seeds, len(SIGMAS)))
        for seed in range(seeds):
            progress((number + seed / seeds) / len(worlds), world.label)
            mixture = random_mixture(world, settings, seed)
            x, _ = Host(mixture).sample(
                _points(world, points), seed=(settings.seed, f"theorem/dae/{world.label}/{seed}")
            )
            truth = Host(mixture).score(x)
            for i, sigma in enumerate(SIGMAS):
                smoothed = Host(mixture.smoothed(sigma)).score(x)
                errors[seed, i] = rms(smoothed - truth)
                # Also fifty standard deviations out.
                for u in (x, x + 50 * np.sign(x)):
                    mean = Host(mixture).posterior_mean(u, sigma)
                    tweedie = u + sigma**2 * Host(mixture.smoothed(sigma)).score(u)
                    largest = max(largest, float(np.max(np.abs(mean - tweedie) / (1 + np.abs(u)))))
        curves[world.label] = errors
        slopes[world.label] = _last_slope(errors)
    quadrature = _quadrature_error(settings)
    label, slope = _worst(slopes, 2)
    return [
        Claim(
            "dae-identity",
            1,
            "The DAE's residual is the score of the smoothed density",
            "E[x | u] = u + sigma^2 grad log p_s(u), for every sigma (Tweedie's formula): the plain denoiser estimates "
            "the score of the smoothed density without any error of its own.",
            "The left side from each component's Gaussian posterior, the right side from the smoothed density; "
            f"{points} points and as many 50 units further out, of {seeds} random mixtures for each of {len(worlds)} "
            f"kinds, sigma {SIGMAS[-1]:g} to {SIGMAS[0]:g}. On a line also against numerical integration of x p(x) "
            "N(u; x, sigma^2), which knows neither.",
            [
                Measure("largest difference, relative to 1 + |u|", exact(largest), high=1e-12),
                Measure("largest difference from numerical integration", exact(quadrature), high=1e-10),
            ],
        ),
        Claim(
            "dae-slope",
            1,
            "Against the clean score the DAE's error falls as sigma^2",
            "The root mean square of (r* - u) / sigma^2 - grad log p(u) over points of the data is proportional to "
            "sigma^2.",
            f"Slope of the last {NUM_FITTED} of {len(SIGMAS)} halvings of sigma, down to {SIGMAS[-1]:g}; the interval "
            f"is Student's over {seeds} random mixtures of each kind.",
            [Measure(f"slope, worst of {len(worlds)} kinds: {label}", slope, *SLOPE, f"{seeds} mixtures")],
            [_table({"slope": slopes})],
            arrays={"sigma": np.array(SIGMAS), **{_key(label): errors for label, errors in curves.items()}},
        ),
    ]


def _quadrature_error(settings: Settings) -> float:
    """E[x | u] by the trapezoidal rule, which for such integrands converges faster than any power."""
    mixture = line(settings)
    x = np.linspace(-14, 14, 6001)
    log_p = Host(mixture).log_density(x[:, None])
    u = np.linspace(-3, 4, 41)
    largest = 0.0
    for sigma in (0.1, 0.3, 1.0):
        logs = log_p - 0.5 * ((u[:, None] - x) / sigma) ** 2
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        means = weights @ x / weights.sum(axis=1)
        largest = max(largest, float(np.abs(means - Host(mixture).posterior_mean(u[:, None], sigma)[:, 0]).max()))
    return largest


# Part 2: the supervised denoiser -------------------------------------------------------------------------------------


class Errors(NamedTuple):
    """Root mean squares over points, for one mixture, one classifier and every sigma.

    Attributes
    ----------
    score : ndarray of shape (s,)
        Of (r* - u) / sigma^2 less grad log p(u) + sum_y p(y | u) grad log yhat_y(u).
    label : ndarray of shape (s,)
        Of the label term.
    remainder : ndarray of shape (s,)
        Of the label term less its leading coefficient, relative to the latter; calibrated only.
    coefficient : ndarray of shape (s,)
        The label term's share along its leading coefficient; calibrated only.
    residual : float
        Largest residual of the equation for r*, relative to 1 + |r|.
    unique : ndarray of shape (s,)
        Share of points where all starts lead to one minimum.
    """

    score: Floats
    label: Floats
    remainder: Floats
    coefficient: Floats
    residual: float
    unique: Floats


def measure_errors(mixture: GaussianMixture, beta: float, x: Floats) -> Errors:
    """Compare exact minimisers with the theorem, for every sigma.

    Parameters
    ----------
    mixture : GaussianMixture
        The truth.
    beta : float
        Inverse temperature of the classifier; 1 is calibrated.
    x : ndarray of shape (n, d)
        Points.
    """
    host = Host(mixture)
    classifier = mixture.tempered(beta)
    posterior, gradients, hessians = host.expand(x)
    posterior = np.exp(posterior)
    limit = np.einsum("nk,nkd->nd", posterior, Host(classifier).gradients(x))
    target = host.score(x) + limit
    laplacian = posterior * (np.trace(hessians, axis1=2, axis2=3) + np.square(gradients).sum(axis=2))
    leading = 0.5 * np.einsum("nk,nkd->nd", laplacian, gradients)
    rows, residual = [], 0.0
    for sigma in SIGMAS:
        found = minimise(mixture, classifier, mixture.ops.asarray(x), sigma)
        residual = max(residual, float(np.max(found.residual / (1 + np.abs(found.position).max(axis=1)))))
        label = label_term(mixture, classifier, x, sigma, found)
        error = (found.posterior_mean - x) / sigma**2 + label - target
        expected = sigma**2 * leading
        rows.append(
            (
                rms(error),
                rms(label),
                rms(label - expected) / rms(expected),
                float(np.sum(label * expected) / np.sum(expected**2)),
                float(np.mean(found.num_minima == 1)),
            )
        )
    score, term, remainder, coefficient, unique = np.array(rows).T
    return Errors(score, term, remainder, coefficient, residual, unique)


def label_term(mixture: GaussianMixture, classifier: Any, u: Floats, sigma: float, found: Minimum) -> Floats:
    """Evaluate the label term at an exact minimiser.

    Parameters
    ----------
    mixture : GaussianMixture
        The truth.
    classifier : Classifier
        yhat.
    u : ndarray of shape (n, d)
        Noisy points.
    sigma : float
        Standard deviation of the noise.
    found : Minimum
        r*.

    Returns
    -------
    ndarray of shape (n, d)
        sum_y p_s(y | u) grad log yhat_y(r*): (r* - E[x | u]) / sigma^2 without the digits that the difference costs.
    """
    posterior = np.exp(Host(mixture.smoothed(sigma)).class_log_posteriors(u))
    return np.asarray(np.einsum("nk,nkd->nd", posterior, Host(classifier).expand(found.position).gradients))


def sdae_claims(settings: Settings, out: Path, progress: Progress) -> list[Claim]:
    """Check the supervised denoiser's exact minimiser.

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
        Stationarity, calibrated and miscalibrated classifiers, and what drives the label term.
    """
    worlds, seeds, points = _size(settings)
    results: dict[tuple[str, float], list[Errors]] = {}
    borders: dict[str, list[Errors]] = {}
    for number, world in enumerate(worlds):
        for seed in range(seeds):
            progress(0.8 * (number + seed / seeds) / len(worlds), world.label)
            mixture = random_mixture(world, settings, seed)
            x, _ = Host(mixture).sample(
                _points(world, points), seed=(settings.seed, f"theorem/sdae/{world.label}/{seed}")
            )
            for beta in BETAS:
                results.setdefault((world.label, beta), []).append(measure_errors(mixture, beta, x))
            near = border_points(mixture, x[: max(3, len(x) // 2)])
            borders.setdefault(world.label, []).append(measure_errors(mixture, 1.0, near))
    size = f"{points} points of each of {seeds} random mixtures of {len(worlds)} kinds"
    claims = [_stationary(results, size), _calibrated(results, borders, seeds), _miscalibrated(results, worlds, seeds)]
    progress(0.8, "drift")
    return [*claims, *_drift(settings)]


def _stationary(results: dict[tuple[str, float], list[Errors]], size: str) -> Claim:
    every = [errors for found in results.values() for errors in found]
    unique = {
        beta: np.mean([errors.unique for (_, own), found in results.items() if own == beta for errors in found], axis=0)
        for beta in BETAS
    }
    small = [i for i, sigma in enumerate(SIGMAS) if sigma <= 0.16]
    lowest = min(float(errors.unique[small].min()) for errors in every)
    shares = "; ".join(f"beta {beta:g}: {100 * values[0]:.2f}%" for beta, values in unique.items())
    return Claim(
        "sdae-stationary",
        2,
        "The exact minimiser is found, and is unique for small noise",
        "Newton's method finds r* to machine precision, and from every start the same one while sigma is small.",
        f"{size}; sigma {SIGMAS[-1]:g} to {SIGMAS[0]:g}; classifiers softmax(beta log p) with beta "
        f"{', '.join(f'{beta:g}' for beta in BETAS)}. Starts: E[x | u], u, and the posterior mean within each class.",
        [
            Measure(
                "largest residual of the equation for r*, relative to 1 + |r*|",
                exact(max(errors.residual for errors in every)),
                high=1e-12,
            ),
            Measure("smallest share of points with one minimum, sigma <= 0.16", exact(lowest), low=1.0),
        ],
        [f"Share of points with one minimum at sigma {SIGMAS[0]:g}: {shares}."],
    )


def border_points(mixture: GaussianMixture, x: Floats) -> Floats:
    """Move points near the border of their class, where the label term is.

    Far from all borders the label term is as small as the probability of the other classes, and lost in rounding; on
    the border between two classes its leading coefficient can vanish.

    Parameters
    ----------
    mixture : GaussianMixture
        The truth.
    x : ndarray of shape (n, d)
        Points.

    Returns
    -------
    ndarray of shape (n, d)
        For each point, where on the way to a mean of the next class its own class is e^`NEAR` times as probable.
    """
    host, rows = Host(mixture), np.arange(len(x))
    own = host.predict(x)
    other = (own + 1) % mixture.num_classes
    ends = np.stack([mixture.means[np.flatnonzero(mixture.labels == y)[0]] for y in other])
    low, high = np.zeros((len(x), 1)), np.ones((len(x), 1))
    for _ in range(50):
        middle = (low + high) / 2
        logs = host.class_log_posteriors(x + middle * (ends - x))
        inside = (logs[rows, own] > logs[rows, other] + NEAR)[:, None]
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.asarray(x + low * (ends - x))


def _calibrated(results: dict[tuple[str, float], list[Errors]], borders: dict[str, list[Errors]], seeds: int) -> Claim:
    arrays = {"sigma": np.array(SIGMAS)}
    worlds = list(borders)
    score = _curves(results, worlds, 1.0, "score", arrays)
    near = {(world, 1.0): found for world, found in borders.items()}
    label, remainder = (_curves(near, worlds, 1.0, name, arrays) for name in ("label", "remainder"))
    columns = {
        "slope of the score's error": {name: _last_slope(curves) for name, curves in score.items()},
        "slope of the label term": {name: _last_slope(curves) for name, curves in label.items()},
        "label term over its coefficient": {
            world: t_interval(np.array([errors.coefficient[-1] for errors in found]))
            for world, found in borders.items()
        },
        "slope of the relative remainder": {name: _last_slope(curves) for name, curves in remainder.items()},
    }
    ranges = (SLOPE, SLOPE, (0.98, 1.02), (1.8, 2.2))
    measures = []
    for (name, found), limits in zip(columns.items(), ranges, strict=True):
        world, estimate = _worst(found, (limits[0] + limits[1]) / 2)
        measures.append(
            Measure(f"{name}, worst of {len(worlds)} kinds: {world}", estimate, *limits, f"{seeds} mixtures")
        )
    return Claim(
        "sdae-calibrated",
        2,
        "With a calibrated classifier the sDAE estimates the score of the data, and nothing else",
        "For yhat = p(y | x) the error of (r* - u) / sigma^2 against grad log p(u) falls as sigma^2, as the DAE's "
        "does. The label term falls as sigma^2 too, with the coefficient (1/2) sum_y Laplacian p(y|x) grad log p(y|x): "
        "there is no guidance towards a class in the limit.",
        f"Slopes of the last {NUM_FITTED} halvings of sigma, down to {SIGMAS[-1]:g}; intervals are Student's over "
        "random mixtures. The score's error at points of the data, the label term near the borders of classes: "
        "elsewhere it is too small to be seen. The coefficient is the projection of the measured label term on the "
        "predicted one. The remainder is the label term less its leading coefficient, relative to it.",
        measures,
        [_table(columns)],
        arrays,
    )


def _miscalibrated(results: dict[tuple[str, float], list[Errors]], worlds: list[World], seeds: int) -> Claim:
    measures, columns, arrays = [], {}, {"sigma": np.array(SIGMAS)}
    for beta in BETAS:
        if beta == 1:
            continue
        for name, what, limits in (("score", "the score's error", SLOPE), ("label", "the label term", (-0.05, 0.05))):
            curves = _curves(results, [world.label for world in worlds], beta, name, arrays)
            found = {world: _last_slope(values) for world, values in curves.items()}
            columns[f"beta {beta:g}: slope of {what}"] = found
            world, estimate = _worst(found, (limits[0] + limits[1]) / 2)
            label = f"beta {beta:g}: slope of {what}, worst of {len(worlds)} kinds: {world}"
            measures.append(Measure(label, estimate, *limits, f"{seeds} mixtures"))
    return Claim(
        "sdae-miscalibrated",
        2,
        "With a miscalibrated classifier the label term stays",
        "For yhat = softmax(beta log p(y | x)), temperature 1 / beta, the theorem's formula with that yhat holds: the "
        "error against grad log p + sum_y p(y | x) grad log yhat_y falls as sigma^2. The label term itself does not "
        "fall.",
        f"As for the calibrated classifier, with beta {', '.join(f'{beta:g}' for beta in BETAS if beta != 1)}.",
        measures,
        [_table(columns)],
        arrays,
    )


def _curves(
    results: dict[tuple[str, float], list[Errors]],
    worlds: list[str],
    beta: float,
    name: str,
    arrays: dict[str, NDArray[Any]],
) -> dict[str, Floats]:
    """One error of every world (mixtures, sigmas), also put among the arrays that are kept."""
    curves = {}
    for world in worlds:
        curves[world] = np.array([getattr(errors, name) for errors in results[world, beta]])
        arrays[f"{name}-{beta:g}-{_key(world)}"] = curves[world]
    return curves


# What drives the label term ------------------------------------------------------------------------------------------


class Drift(NamedTuple):
    """What the label term does at points.

    Attributes
    ----------
    rate : ndarray of shape (n,)
        Change of log p(y* | x) along the label term, for the Bayes class y*: positive if it leads towards that class.
    size : float
        Root mean square of the label term.
    """

    rate: Floats
    size: float


def drift_of(
    mixture: GaussianMixture, x: Floats, *, beta: float = 1.0, bias: Any = None, label_noise: float = 0.0
) -> Drift:
    """Measure where the label term of the exact minimiser leads.

    Parameters
    ----------
    mixture : GaussianMixture
        The truth.
    x : ndarray of shape (n, d)
        Noisy points.
    beta : float
        Inverse temperature of the classifier.
    bias : array_like of shape (K,), optional
        Added to its logits.
    label_noise : float
        Share of the training labels that are drawn at random.

    Returns
    -------
    Drift
        At sigma 0.1.
    """
    classifier = mixture.tempered(beta, bias)
    found = minimise(mixture, classifier, mixture.ops.asarray(x), DRIFT_SIGMA, label_noise=label_noise)
    term = (found.position - found.posterior_mean) / DRIFT_SIGMA**2
    posterior, gradients, _ = Host(mixture).expand(x)
    towards = np.take_along_axis(gradients, posterior.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    return Drift(np.sum(term * towards, axis=1), rms(term))


def _drift(settings: Settings) -> list[Claim]:
    points = settings.pick(full=4000, quick=1000, tiny=100)
    two, three = line(settings), three_islands(settings)
    name = (settings.seed, "theorem/sdae/drift")
    x2, _ = Host(two).sample(points, seed=name)
    x3, _ = Host(three).sample(points, seed=name)
    return [_gradient_of_kl(three, x3), _sweep(two, three, x2, x3)]


def kl_gradient(mixture: GaussianMixture, classifier: Any, posterior: Floats, r: Floats, step: float = 1e-4) -> Floats:
    """Differentiate KL(q || yhat(r)) with respect to r, numerically.

    Parameters
    ----------
    mixture : GaussianMixture
        Whose backend it is.
    classifier : TemperedPosterior
        yhat.
    posterior : ndarray of shape (n, K)
        q.
    r : ndarray of shape (n, d)
        Where.
    step : float
        Of the central differences, of fourth order.

    Returns
    -------
    ndarray of shape (n, d)
        The gradient.
    """

    def divergence(at: Floats) -> Floats:
        logs = Host(classifier).log_probabilities(at)
        return np.asarray(np.sum(posterior * (np.log(np.maximum(posterior, 1e-300)) - logs), axis=1))

    result = np.empty_like(r)
    for i in range(r.shape[1]):
        shift = np.zeros(r.shape[1])
        shift[i] = step
        near = divergence(r + shift) - divergence(r - shift)
        far = divergence(r + 2 * shift) - divergence(r - 2 * shift)
        result[:, i] = (8 * near - far) / (12 * step)
    return result


def _gradient_of_kl(mixture: GaussianMixture, x: Floats) -> Claim:
    measures, rows = [], []
    largest = 0.0
    for beta in (0.5, 2.0):
        classifier = mixture.tempered(beta)
        for sigma in SIGMAS[:6]:
            found = minimise(mixture, classifier, mixture.ops.asarray(x), sigma)
            term = (found.position - found.posterior_mean) / sigma**2
            noisy = np.exp(Host(mixture.smoothed(sigma)).class_log_posteriors(x))
            exactly = -kl_gradient(mixture, classifier, noisy, found.position)
            clean = -kl_gradient(mixture, classifier, np.exp(Host(mixture).class_log_posteriors(x)), x)
            if sigma >= 0.04:  # below, the difference r* - E[x | u] has too few digits for the comparison
                largest = max(largest, rms(term - exactly) / rms(exactly))
            rows.append((beta, sigma, float(np.sum(term * clean) / np.sum(clean**2)), _r_squared(term, clean)))
        last = rows[-1]
        measures += [
            Measure(f"beta {beta:g}: regression of the label term on -grad KL at u", exact(last[2]), 0.98, 1.02),
            Measure(f"beta {beta:g}: share of its variance explained", exact(last[3]), low=0.99),
        ]
    told = "; ".join(
        f"beta {beta:g}: " + ", ".join(f"{row[2]:.3f} at {row[1]:g}" for row in rows if row[0] == beta)
        for beta in (0.5, 2.0)
    )
    return Claim(
        "sdae-kl",
        2,
        "The label term is minus the gradient of a divergence",
        "(r* - E[x | u]) / sigma^2 = -grad_r KL(p_s(. | u) || yhat(r)) at r*: supervision asks the classifier at the "
        "denoised point to agree with the posterior of the noisy point, and with nothing else.",
        f"{len(x):,} points of the 2-D world. The gradient of the divergence by central differences. Regression on the "
        f"divergence from p(. | u) at u itself, sigma {SIGMAS[5]:g}, where the label term is what a chain feels.",
        [Measure("largest relative difference, root mean square", exact(largest), high=1e-8), *measures],
        [f"Regression coefficients by sigma: {told}."],
        {"regression": np.array(rows)},
    )


def _r_squared(values: Floats, predicted: Floats) -> float:
    slope = np.sum(values * predicted) / np.sum(predicted**2)
    return float(1 - np.sum((values - slope * predicted) ** 2) / np.sum(values**2))


def _sweep(two: GaussianMixture, three: GaussianMixture, x2: Floats, x3: Floats) -> Claim:
    worlds = {"2 classes, 1-D": (two, x2), "3 classes, 2-D": (three, x3)}
    arrays: dict[str, NDArray[Any]] = {"beta": np.array(SWEEP), "bias": np.array(BIASES), "noise": np.array(NOISES)}
    measures, remarks = [], []
    for number, (name, (mixture, x)) in enumerate(worlds.items()):
        drifts = {beta: drift_of(mixture, x, beta=beta) for beta in SWEEP}
        arrays[f"rate-beta-{number}"] = _means(drifts[beta].rate for beta in SWEEP)
        arrays[f"size-beta-{number}"] = np.array([drifts[beta].size for beta in SWEEP])
        for beta in (0.5, 2.0):
            mean = t_interval(drifts[beta].rate)
            label = f"beta {beta:g}, {name}: mean d log p(y* | x) along the label term"
            measures.append(Measure(label, mean, low=0) if beta < 1 else Measure(label, mean, high=0))
            right = np.mean(drifts[beta].rate > 0) if beta < 1 else np.mean(drifts[beta].rate < 0)
            remarks.append(f"beta {beta:g}, {name}: the sign is that of the mean at {100 * right:.1f}% of the points.")

        calibrated = t_interval(drifts[1.0].rate)
        remarks.append(
            f"beta 1, {name}: {calibrated.value:.4f} [{calibrated.low:.4f}, {calibrated.high:.4f}], not 0: at finite "
            "sigma a calibrated classifier is a little more confident at the denoised point than the posterior of the "
            "noisy one."
        )
        arrays[f"rate-noise-{number}"] = _means(drift_of(mixture, x, label_noise=noise).rate for noise in NOISES)
        mean = Estimate(*arrays[f"rate-noise-{number}"][2])
        measures.append(Measure(f"20% of the labels random, {name}: the same", mean, high=0.0))
        arrays[f"rate-bias-{number}"] = _means(_towards_first(mixture, x, bias) for bias in BIASES)
        for index in (0, -1):
            mean = Estimate(*arrays[f"rate-bias-{number}"][index])
            label = f"logit of class 0 off by {BIASES[index]:+g}, {name}: mean d log p(0 | x) along the label term"
            measures.append(Measure(label, mean, low=0) if BIASES[index] < 0 else Measure(label, mean, high=0))
    return Claim(
        "sdae-drift",
        2,
        "Guidance comes from miscalibration, and can point either way",
        "An under-confident classifier makes the label term lead to the class that is most probable anyway; an "
        "over-confident one, or random labels in the sDAE's training, lead away from it; a biased logit leads away "
        "from the class that the classifier overrates.",
        f"{len(x2):,} points of each world at sigma {DRIFT_SIGMA:g}; the mean over points of the derivative of a log "
        "posterior along the exact label term, with Student's interval.",
        measures,
        remarks,
        arrays,
    )


def _towards_first(mixture: GaussianMixture, x: Floats, bias: float) -> Floats:
    """Change of log p(0 | x) along the label term, if the classifier's logit of class 0 is off."""
    classifier = mixture.tempered(1.0, [bias, *[0.0] * (mixture.num_classes - 1)])
    found = minimise(mixture, classifier, mixture.ops.asarray(x), DRIFT_SIGMA)
    term = (found.position - found.posterior_mean) / DRIFT_SIGMA**2
    return np.asarray(np.sum(term * Host(mixture).expand(x).gradients[:, 0], axis=1))


def _means(rates: Any) -> Floats:
    return np.array([t_interval(rate) for rate in rates])


# Details -------------------------------------------------------------------------------------------------------------


def _size(settings: Settings) -> tuple[list[World], int, int]:
    """Worlds, mixtures of each, and points of each mixture in few dimensions."""
    worlds = settings.pick(full=list(WORLDS), quick=list(WORLDS), tiny=[WORLDS[0], WORLDS[2]])
    return (worlds, *settings.pick(full=(6, 200), quick=(3, 60), tiny=(2, 30)))


def _points(world: World, points: int) -> int:
    """Fewer points where each has many coordinates to average over, and takes long."""
    return points // (1 if world.dimensions < 10 else 2 if world.dimensions < 50 else 4 if points > 60 else 10)


def _worst(estimates: dict[str, Estimate], target: float) -> tuple[str, Estimate]:
    """The estimate whose interval reaches furthest from where it should be, and of which world it is."""
    name = max(estimates, key=lambda name: max(abs(limit - target) for limit in estimates[name]))
    return name, estimates[name]


def _table(columns: dict[str, dict[str, Estimate]]) -> str:
    """A table in Markdown: a row for each world, a column for each kind of estimate."""
    rows = [["mixtures", *columns], ["---"] * (1 + len(columns))]
    for world in next(iter(columns.values())):
        cells = (f"{e.value:.4f} [{e.low:.4f}, {e.high:.4f}]" for e in (found[world] for found in columns.values()))
        rows.append([world, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _last_slope(errors: Floats) -> Estimate:
    return loglog_slope(np.array(SIGMAS[-NUM_FITTED:]), errors[:, -NUM_FITTED:]).exponent


def _key(label: str) -> str:
    """A world's label as part of an array's name."""
    return label.replace(", ", "-").replace(" ", "-")
