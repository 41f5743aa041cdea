r"""What samples, chains and power laws are worth: distances, effective sizes and slopes.

Distances of two samples x_1..x_n, y_1..y_m in R^d, or of two densities on a line:

    MMD^2      sum_{i != j} k(x_i, x_j) / (n (n - 1)) + the same of y - 2 sum_{ij} k(x_i, y_j) / (n m),   unbiased
    W2^2       int_0^1 (F^-1(u) - G^-1(u))^2 du on a line; in R^d its mean over directions ("sliced")

with the kernel k(x, y) = exp(-|x - y|^2 / (2 h^2)), h the median distance. Of chains: the effective sample size by
Geyer's initial monotone sequence, and the split R-hat of ranks. Of errors: the exponent of a power law.

Axes: n, m points, d coordinates; c chains of t draws.

References
----------
.. [1] Gretton, Borgwardt, Rasch, Schoelkopf, Smola, "A kernel two-sample test", JMLR 13, 2012.
.. [2] Bonneel, Rabin, Peyre, Pfister, "Sliced and Radon Wasserstein barycenters of measures", JMIV 51, 2015.
.. [3] Geyer, "Practical Markov chain Monte Carlo", Statistical Science 7, 1992.
.. [4] Vehtari, Gelman, Simpson, Carpenter, Buerkner, "Rank-normalization, folding, and localization: an improved R-hat
   for assessing convergence of MCMC", Bayesian Analysis 16, 2021.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from .checks import InputError, check_count, check_ndim, check_number
from .statistics import CONFIDENCE, Estimate

Floats = NDArray[np.float64]

CHUNK = 1 << 20  # entries of a kernel matrix that are held at once
MEDIAN_POINTS = 1000  # points whose distances decide the bandwidth


class TwoSample(NamedTuple):
    """Result of a two-sample test.

    Attributes
    ----------
    mmd2 : float
        The unbiased estimate; it may be negative.
    p_value : float
        How probable so large a value is if both samples come from one distribution.
    bandwidth : float
        Of the kernel, in units of the points.
    """

    mmd2: float
    p_value: float
    bandwidth: float


class Slope(NamedTuple):
    """A power law y = exp(intercept) x^exponent, fitted to logarithms.

    Attributes
    ----------
    exponent : Estimate
        The slope, and its interval.
    intercept : float
        Logarithm of y at x = 1.
    residual : float
        Root mean square of what the fit leaves of log y: how straight the line is.
    """

    exponent: Estimate
    intercept: float
    residual: float


# Means and power laws ------------------------------------------------------------------------------------------------


def t_interval(values: NDArray[Any], *, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of independent numbers, with Student's interval.

    Parameters
    ----------
    values : ndarray of shape (n,)
        At least two numbers.
    confidence : float
        Of the two-sided interval, in (0, 1).

    Raises
    ------
    InputError
        If there are fewer than two numbers, or they are not finite.

    Examples
    --------
    >>> low, high = t_interval(np.array([1.0, 2.0, 3.0]))[1:]
    >>> round(low, 2), round(high, 2)
    (-0.48, 4.48)
    """
    values = _finite("values", values, 1)
    if len(values) < 2:
        raise InputError(f"values: expected at least two numbers, got {len(values)}")
    mean = float(values.mean())
    half = _t(confidence, len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def loglog_slope(x: NDArray[Any], y: NDArray[Any], *, confidence: float = CONFIDENCE) -> Slope:
    """Fit a power law.

    Parameters
    ----------
    x : ndarray of shape (k,)
        At least two different positive numbers.
    y : ndarray of shape (k,) or (s, k)
        Positive numbers; the rows are independent repetitions, such as seeds.
    confidence : float
        Of the two-sided interval, in (0, 1).

    Returns
    -------
    Slope
        Least squares in logarithms. Of s > 1 repetitions each is fitted, and the interval is Student's over their
        exponents; of one, it is that of the regression, which needs three points.

    Raises
    ------
    InputError
        If numbers are not positive, or there are too few of them.
    """
    log_x = np.log(_positive("x", x, 1))
    log_y = np.log(_positive("y", np.atleast_2d(y), 2))
    repetitions, points = log_y.shape
    if len(log_x) != points or len(np.unique(log_x)) < 2 or (repetitions == 1 and points < 3):
        raise InputError(
            f"y: expected a number for each of at least two x, or three without repetitions; got {log_y.shape}"
        )
    centered = log_x - log_x.mean()
    exponents = log_y @ centered / (centered @ centered)
    residuals = log_y - log_y.mean(axis=1, keepdims=True) - np.outer(exponents, centered)
    mean = float(exponents.mean())
    if repetitions > 1:
        exponent = t_interval(exponents, confidence=confidence)
    else:
        variance = float((residuals**2).sum()) / (points - 2) / float(centered @ centered)
        half = _t(confidence, points - 2) * variance**0.5
        exponent = Estimate(mean, mean - half, mean + half)
    intercept = float(log_y.mean() - mean * log_x.mean())
    return Slope(exponent, intercept, float(np.sqrt(np.mean(residuals**2))))


# Distances -----------------------------------------------------------------------------------------------------------


def median_distance(x: NDArray[Any]) -> float:
    """Median of the distances between points, of the first 1000 of them.

    Parameters
    ----------
    x : ndarray of shape (n, d)
        The points.

    Returns
    -------
    float
        The median over pairs of different points, in their units.

    Raises
    ------
    InputError
        If more than half of the points coincide.
    """
    some = _finite("x", x, 2)[:MEDIAN_POINTS]
    squares = _squared_distances(some, some)[np.triu_indices(len(some), 1)]
    median = float(np.sqrt(np.median(squares))) if len(squares) else 0.0
    if median == 0:
        raise InputError("x: expected at least two different points; give the bandwidth")
    return median


def mmd2(x: NDArray[Any], y: NDArray[Any], *, bandwidth: float) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy.

    Parameters
    ----------
    x : ndarray of shape (n, d)
        Independent points of one distribution, n >= 2.
    y : ndarray of shape (m, d)
        Independent points of another, m >= 2.
    bandwidth : float
        h of the Gaussian kernel, in units of the points.

    Returns
    -------
    float
        The estimate; 0 in expectation if the distributions are equal, and then as often negative.
    """
    x, y = _samples(x, y)
    first = np.zeros((len(x) + len(y), 1))
    first[: len(x)] = 1
    return float(_mmd2_of(np.concatenate([x, y]), first, len(x), check_number("bandwidth", bandwidth, above=0))[0])


def mmd_test(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    rng: np.random.Generator,
    bandwidth: float | None = None,
    num_permutations: int = 499,
) -> TwoSample:
    """Test whether two samples come from one distribution.

    The p-value compares the estimate with those of random regroupings of the points, and is exact for independent
    points: at most a share q of tests of equal distributions have p <= q. Memory holds a part of the kernel matrix.

    Parameters
    ----------
    x : ndarray of shape (n, d)
        Independent points, n >= 2.
    y : ndarray of shape (m, d)
        Independent points, m >= 2.
    rng : numpy.random.Generator
        For the regroupings.
    bandwidth : float, optional
        Of the kernel; the median distance of the points by default.
    num_permutations : int
        Regroupings.

    Returns
    -------
    TwoSample
        Estimate and p-value, at least 1 / (num_permutations + 1).
    """
    x, y = _samples(x, y)
    check_count("num_permutations", num_permutations)
    points, n = np.concatenate([x, y]), len(x)
    # Regroupings treat all points alike, and so must the choice of those that decide the bandwidth.
    h = median_distance(rng.permutation(points)) if bandwidth is None else check_number("bandwidth", bandwidth, above=0)
    groups = np.zeros((len(points), num_permutations + 1))
    groups[:n, 0] = 1
    groups[:, 1:] = rng.permuted(np.repeat(groups[:, :1], num_permutations, axis=1), axis=0)
    values = _mmd2_of(points, groups, n, h)
    # Equal sets of points in another order differ by rounding.
    larger = int(np.sum(values[1:] >= values[0] - 1e-12))
    return TwoSample(float(values[0]), (1 + larger) / (1 + num_permutations), h)


def wasserstein2(x: NDArray[Any], y: NDArray[Any]) -> float:
    """W2 distance of two samples on a line, exactly.

    Parameters
    ----------
    x : ndarray of shape (n,)
        Numbers, in any order.
    y : ndarray of shape (m,)
        Numbers, in any order.

    Returns
    -------
    float
        The distance of the two empirical distributions, in units of the numbers.
    """
    x, y = np.sort(_finite("x", x, 1)), np.sort(_finite("y", y, 1))
    if len(x) == len(y):
        return float(np.sqrt(np.mean((x - y) ** 2)))
    ends = np.union1d(np.arange(1, len(x) + 1) / len(x), np.arange(1, len(y) + 1) / len(y))
    widths = np.diff(ends, prepend=0.0)
    middles = ends - widths / 2
    differences = x[(middles * len(x)).astype(np.int64)] - y[(middles * len(y)).astype(np.int64)]
    return float(np.sqrt(widths @ differences**2))


def wasserstein2_histograms(edges: NDArray[Any], p: NDArray[Any], q: NDArray[Any]) -> float:
    """W2 distance of two densities that are constant within cells, exactly.

    Parameters
    ----------
    edges : ndarray of shape (k + 1,)
        Ends of the cells, rising.
    p : ndarray of shape (k,)
        Masses of the cells, >= 0; scaled to sum 1.
    q : ndarray of shape (k,)
        The same of the other density.

    Returns
    -------
    float
        The distance, in units of the edges.
    """
    levels, places = [], []
    for mass in (p, q):
        total = np.concatenate([[0.0], np.cumsum(mass, dtype=np.float64)])
        levels.append(total / total[-1])
        # Where the density is 0 the quantile function jumps; its last place is as good as any.
        places.append(np.asarray(edges, dtype=np.float64))
    u = np.union1d(*levels)
    middles, widths = (u[1:] + u[:-1]) / 2, np.diff(u)
    # Within each interval of u both quantile functions are straight: value in the middle, and rise.
    values, rises = [], []
    for level, place in zip(levels, places, strict=True):
        cell = np.clip(np.searchsorted(level, middles, side="right") - 1, 0, len(place) - 2)
        width, mass = np.diff(place)[cell], np.diff(level)[cell]
        rate = width / np.where(mass > 0, mass, 1)
        values.append(place[cell] + rate * (middles - level[cell]))
        rises.append(rate * widths)
    square = (values[0] - values[1]) ** 2 + (rises[0] - rises[1]) ** 2 / 12
    return float(np.sqrt(widths @ square))


def sliced_wasserstein2(
    x: NDArray[Any], y: NDArray[Any], *, rng: np.random.Generator, num_directions: int = 100
) -> float:
    """Root mean square over directions of the W2 distance of two samples' projections.

    Parameters
    ----------
    x : ndarray of shape (n, d)
        Points.
    y : ndarray of shape (m, d)
        Points.
    rng : numpy.random.Generator
        For the directions, uniform on the sphere.
    num_directions : int
        How many.

    Returns
    -------
    float
        The distance, in units of the points.
    """
    x, y = _samples(x, y)
    directions = rng.normal(size=(check_count("num_directions", num_directions), x.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    squares = [wasserstein2(x @ direction, y @ direction) ** 2 for direction in directions]
    return float(np.sqrt(np.mean(squares)))


# Chains --------------------------------------------------------------------------------------------------------------


def effective_sample_size(chains: NDArray[Any]) -> float:
    """How many independent draws the mean of all chains is worth.

    Parameters
    ----------
    chains : ndarray of shape (c, t)
        c chains of t >= 4 draws of one number.

    Returns
    -------
    float
        c t / tau, with the autocorrelation time tau from Geyer's initial monotone sequence; chains that disagree lower
        it. A chain that alternates may be worth more than its draws.

    Raises
    ------
    InputError
        If there are fewer than four draws, or all draws are equal.
    """
    chains = _chains(chains)
    num_chains, length = chains.shape
    autocovariance = _autocovariance(chains)
    within = float(autocovariance[:, 0].mean()) * length / (length - 1)
    between = float(chains.mean(axis=1).var(ddof=1)) if num_chains > 1 else 0.0
    total = within * (length - 1) / length + between
    correlation = 1 - (within - autocovariance.mean(axis=0) * length / (length - 1)) / total
    correlation[0] = 1.0
    # Sums of neighbouring pairs: positive, then made to fall.
    pairs = correlation[: length // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: negative[0] if len(negative) else len(pairs)])
    time = max(2 * float(pairs.sum()) - 1, 1 / math.log10(num_chains * length))
    return float(num_chains * length / time)


def split_rhat(chains: NDArray[Any]) -> float:
    """Whether chains agree: the larger R-hat of the draws' ranks and of the ranks of their distances to the median.

    Parameters
    ----------
    chains : ndarray of shape (c, t)
        c chains of t >= 4 draws of one number; each is split into halves.

    Returns
    -------
    float
        About 1 if all halves come from one distribution; above 1.01 there is reason to worry.

    Raises
    ------
    InputError
        If there are fewer than four draws, or all draws are equal.
    """
    chains = _chains(chains)
    half = chains.shape[1] // 2
    halves = np.concatenate([chains[:, :half], chains[:, -half:]])
    folded = np.abs(halves - np.median(halves))
    return max(_rhat(_normal_ranks(halves)), _rhat(_normal_ranks(folded)))


def _rhat(chains: Floats) -> float:
    length = chains.shape[1]
    within = float(chains.var(axis=1, ddof=1).mean())
    between = float(chains.mean(axis=1).var(ddof=1))
    return float(((length - 1) / length + between / within) ** 0.5) if within > 0 else 1.0


def _normal_ranks(values: Floats) -> Floats:
    """Normal quantiles of the ranks among all values, ties shared."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place].reshape(values.shape)
    return np.asarray(special.ndtri((ranks - 0.375) / (values.size + 0.25)))


def _autocovariance(chains: Floats) -> Floats:
    """Of each chain, at all lags, divided by its length."""
    length = chains.shape[1]
    size = 1 << (2 * length - 1).bit_length()
    spectrum = np.fft.rfft(chains - chains.mean(axis=1, keepdims=True), size)
    return np.asarray(np.fft.irfft(np.abs(spectrum) ** 2, size)[:, :length] / length)


# Details -------------------------------------------------------------------------------------------------------------


def _mmd2_of(points: Floats, groups: Floats, n: int, bandwidth: float) -> Floats:
    """The estimates for many ways (columns, 1 or 0 for each point) to call n of the points x and the others y."""
    total = len(points)
    m = total - n
    within = np.zeros(groups.shape[1])
    rows = np.empty(total)
    step = max(1, CHUNK // total)
    for first in range(0, total, step):
        part = slice(first, min(first + step, total))
        kernel = np.exp(_squared_distances(points[part], points) / (-2 * bandwidth**2))
        kernel[np.arange(part.stop - first), np.arange(first, part.stop)] = 0
        rows[part] = kernel.sum(axis=1)
        within += np.einsum("ig,ig->g", groups[part], kernel @ groups)
    crossing = rows @ groups - within
    other = rows.sum() - within - 2 * crossing
    return np.asarray(within / (n * (n - 1)) + other / (m * (m - 1)) - 2 * crossing / (n * m))


def _squared_distances(x: Floats, y: Floats) -> Floats:
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return np.asarray(np.maximum(squares, 0))


def _samples(x: NDArray[Any], y: NDArray[Any]) -> tuple[Floats, Floats]:
    x, y = _finite("x", x, 2), _finite("y", y, 2)
    if x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise InputError(f"y: expected points of {x.shape[1]} coordinates, two or more of each; got {y.shape}")
    return x, y


def _chains(chains: NDArray[Any]) -> Floats:
    chains = _finite("chains", chains, 2)
    if chains.shape[1] < 4 or not len(chains):
        raise InputError(f"chains: expected at least one chain of four draws or more, got shape {chains.shape}")
    if np.ptp(chains) == 0:
        raise InputError("chains: expected draws that differ; all are equal")
    return chains


def _finite(name: str, values: NDArray[Any], ndim: int) -> Floats:
    values = np.asarray(values, dtype=np.float64)
    check_ndim(name, values, ndim, "(n,)" if ndim == 1 else "(n, d)")
    if not (values.size and np.isfinite(values).all()):
        raise InputError(f"{name}: expected finite numbers, at least one")
    return values


def _positive(name: str, values: NDArray[Any], ndim: int) -> Floats:
    values = _finite(name, values, ndim)
    if values.min() <= 0:
        raise InputError(f"{name}: expected positive numbers, got {values.min():g}; a power law has no zeros")
    return values


def _t(confidence: float, freedom: int) -> float:
    confidence = check_number("confidence", confidence, above=0, below=1)
    return float(special.stdtrit(freedom, (1 + confidence) / 2))
