r"""What counts of right answers are worth: estimates, intervals and paired tests.

Of n samples and M draws of a random defence the data are ``correct[i, m]``: was sample i classified rightly in draw m.
With c_i right draws of sample i, unbiased estimates from the M draws are

    p_i                   c_i / M                              right in one draw
    survival of N draws   C(c_i, N) / C(M, N)                  right in all of N: the attacker may submit N times
    majority of K draws   P(H > K/2), H ~ Hypergeom(M, c_i, K) right in more than half of K; a tie is lost

the last two being averages over all subsets of the draws (U-statistics). Means over samples are estimates for the
distribution that the samples come from; their intervals are Wilson's, with the sample size that a binary variable of
the same variance would have (Korn and Graubard). For binary values that is Wilson's interval itself; for others it
stays honest at 0 and 1, where a normal or a bootstrap interval has no width.

References
----------
.. [1] Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
.. [2] Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.
.. [3] Korn and Graubard, "Confidence intervals for proportions with small expected number of positive counts
   estimated from survey data", Survey Methodology 24, 1998.
.. [4] Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in
   Medicine 24, 2005.
.. [5] McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12, 1947.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from .checks import InputError, check_count, check_number

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A number and its confidence interval.

    Attributes
    ----------
    value : float
        The estimate.
    low, high : float
        Limits of the interval.
    """

    value: float
    low: float
    high: float


class McNemar(NamedTuple):
    """Exact paired comparison of two classifiers on the same samples.

    Attributes
    ----------
    only_first, only_second : int
        Number of samples that only one of them has right.
    p_value : float
        Two-sided: how probable so uneven a split is if both are equally good.
    """

    only_first: int
    only_second: int
    p_value: float


def wilson(count: float, total: float, *, confidence: float = CONFIDENCE) -> Estimate:
    """Wilson's interval for a proportion.

    Parameters
    ----------
    count : float
        Number of successes; may be a fraction when ``total`` is an effective size.
    total : float
        Number of trials, > 0.
    confidence : float
        Of the two-sided interval, in (0, 1).

    Returns
    -------
    Estimate
        Of the probability of success.

    Raises
    ------
    InputError
        If the counts do not fit each other.

    Examples
    --------
    >>> wilson(0, 100).high < 0.037
    True
    """
    _check_counts(count, total)
    z = _quantile(confidence)
    p = count / total
    center = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (p * (1 - p) / total + z * z / (4 * total * total)) ** 0.5
    # At the ends the formula gives 0 and 1 up to rounding.
    low = 0.0 if count == 0 else max(0.0, center - half)
    high = 1.0 if count == total else min(1.0, center + half)
    return Estimate(p, low, high)


def clopper_pearson(count: int, total: int, *, confidence: float = CONFIDENCE) -> Estimate:
    """Clopper and Pearson's exact interval for a proportion; it covers at least as often as it says.

    Parameters
    ----------
    count, total : int
        Successes and trials, ``total > 0``.
    confidence : float
        Of the two-sided interval, in (0, 1).

    Returns
    -------
    Estimate
        Of the probability of success.

    Raises
    ------
    InputError
        If the counts do not fit each other.
    """
    _check_counts(count, total)
    tail = (1 - _check_confidence(confidence)) / 2
    low = 0.0 if count == 0 else float(special.betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(special.betaincinv(count + 1, total - count, 1 - tail))
    return Estimate(count / total, low, high)


def lower_quantile(count: Any, total: int, *, alpha: float) -> NDArray[np.float64]:
    """Standard normal quantile of a proportion's lower limit: the certified radius of smoothing, in units of its sigma.

    Parameters
    ----------
    count : int or ndarray of shape (n,), integer
        Successes, at most ``total``.
    total : int
        Trials, > 0.
    alpha : float
        Probability that Clopper and Pearson's one-sided limit is too high, at most; in (0, 1).

    Returns
    -------
    ndarray of the shape of count
        Phi^-1 of the limit; minus infinity where there is no success.

    Examples
    --------
    >>> float(lower_quantile(100, 100, alpha=0.001).round(2))  # of 0.001 ** (1 / 100)
    1.5
    """
    check_number("alpha", alpha, above=0, below=1)
    successes = np.asarray(count, dtype=np.int64)
    for extreme in (successes.min(initial=total), successes.max(initial=0)):
        _check_counts(int(extreme), total)
    # No success leaves a parameter of the beta distribution at 0, where the limit is 0 by definition.
    limit = special.betaincinv(np.maximum(successes, 1), total - successes + 1, alpha)
    return np.asarray(special.ndtri(np.where(successes == 0, 0.0, limit)))


def even_split_p_value(first: Any, second: Any) -> NDArray[np.float64]:
    """Exact two-sided binomial test of whether two outcomes are equally probable.

    Parameters
    ----------
    first, second : int or ndarray of shape (n,), integer
        How often each was seen.

    Returns
    -------
    ndarray of that shape
        How probable so uneven a split is if they are; 1 where nothing was seen.
    """
    one, other = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    return np.asarray(np.minimum(1.0, 2 * special.bdtrc(np.maximum(one, other) - 1, one + other, 0.5)))


def mean_interval(values: NDArray[Any], *, num_draws: int = 1, confidence: float = CONFIDENCE) -> Estimate:
    """Mean over samples of probabilities, with an interval.

    Parameters
    ----------
    values : ndarray of shape (n,)
        One number in [0, 1] for every sample, independent of each other.
    num_draws : int
        How many yes-or-no answers each value is the mean of: n values are worth n to n * num_draws of them.
    confidence : float
        Of the two-sided interval, in (0, 1).

    Returns
    -------
    Estimate
        Of the expectation: Wilson's interval at the effective sample size m (1 - m) / variance.
    """
    count = len(values)
    if count == 0:
        raise InputError("values: expected at least one sample, got none")
    mean = min(1.0, max(0.0, float(np.mean(values, dtype=np.float64))))
    variance = float(np.var(values, dtype=np.float64)) / count
    most = float(count * check_count("num_draws", num_draws))
    binary = mean * (1 - mean)
    effective = float(count) if binary == 0 else most if variance * most <= binary else binary / variance
    return wilson(mean * effective, effective, confidence=confidence)._replace(value=mean)


def survival(num_correct: NDArray[Any], num_draws: int, num_submissions: int) -> NDArray[np.float64]:
    """Probability that a sample is right in all of several fresh draws: C(c, N) / C(M, N), unbiased.

    Parameters
    ----------
    num_correct : ndarray of shape (n,), integer
        Right draws c of each sample.
    num_draws : int
        Draws M.
    num_submissions : int
        Fresh draws N, at most M.

    Returns
    -------
    ndarray of shape (n,)
        An estimate for each sample.

    Raises
    ------
    InputError
        If N is not in 1..M.
    """
    _check_subset("num_submissions", num_submissions, num_draws)
    correct = np.asarray(num_correct, dtype=np.float64)
    product = np.ones(correct.shape)
    for taken in range(num_submissions):
        product *= np.maximum(correct - taken, 0) / (num_draws - taken)
    return product


def majority(num_correct: NDArray[Any], num_draws: int, num_votes: int) -> NDArray[np.float64]:
    """Probability that more than half of several fresh draws are right, unbiased.

    A vote among many classes can be won with less than half: this is a lower bound for it.

    Parameters
    ----------
    num_correct : ndarray of shape (n,), integer
        Right draws c of each sample.
    num_draws : int
        Draws M.
    num_votes : int
        Fresh draws K, at most M.

    Returns
    -------
    ndarray of shape (n,)
        An estimate for each sample.

    Raises
    ------
    InputError
        If K is not in 1..M.
    """
    _check_subset("num_votes", num_votes, num_draws)
    return np.array(_won(num_draws, num_votes))[np.asarray(num_correct, dtype=np.int64)]


@cache
def _won(num_draws: int, num_votes: int) -> list[float]:
    """For 0, 1, ..., M right draws of M: the share of all sets of K draws of which more than half are right."""
    return [
        sum(
            math.comb(right, won) * math.comb(num_draws - right, num_votes - won)
            for won in range(num_votes // 2 + 1, num_votes + 1)
        )
        / math.comb(num_draws, num_votes)
        for right in range(num_draws + 1)
    ]


def worst_case(draws: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Outcomes under the attack that is worst for each sample, of shape (n, M), bool.

    The attack with the lowest estimated p_i looks worse than it is: its draws were picked for being bad. So one half
    of the draws chooses the attack for the other half, which gives an unbiased picture of an attacker who can try out
    all attacks. Where that is no better than one attack on all samples, noise has chosen, and the one attack counts.
    Single draws leave nothing to choose with, and the worst outcome counts.

    Parameters
    ----------
    draws : sequence of ndarrays of shape (n, M), bool
        Outcomes of the same samples under each attack; of more draws than the fewest, the first are used.
    """
    num_draws = min(correct.shape[1] for correct in draws)
    stack = np.stack([np.asarray(correct[:, :num_draws], dtype=bool) for correct in draws])
    if num_draws == 1:
        return np.asarray(stack.all(axis=0))
    # The attack that is the strongest over all samples comes first, and gets the ties.
    stack = stack[np.argsort(stack.mean(axis=(1, 2)), kind="stable")]
    result = np.empty(stack.shape[1:], dtype=bool)
    halves = slice(0, None, 2), slice(1, None, 2)
    for judged, judging in (halves, halves[::-1]):
        choice = stack[:, :, judging].mean(axis=2).argmin(axis=0)
        result[:, judged] = stack[choice, np.arange(len(choice))][:, judged]
    return result if result.mean() <= stack[0].mean() else stack[0]


def smallest_p(draws: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Each sample's lowest share of right draws under any attack: on average too low, see `worst_case`.

    Parameters
    ----------
    draws : sequence of ndarrays of shape (n, M_j), bool
        Outcomes of the same samples under each attack.

    Returns
    -------
    ndarray of shape (n,)
        A bound from below, for each sample.
    """
    return np.asarray(np.min([correct.mean(axis=1) for correct in draws], axis=0))


def common_rows(sample_indices: Sequence[NDArray[Any]]) -> list[NDArray[np.int64]]:
    """Where the samples stand that several tables have in common.

    Parameters
    ----------
    sample_indices : sequence of ndarrays of shape (n_j,), integer
        Numbers of the samples in each table, in any order, none twice.

    Returns
    -------
    list of ndarrays of shape (n,), int64
        Rows of each table, by rising sample number.
    """
    common = reduce(np.intersect1d, sample_indices)
    orders = [np.argsort(index, kind="stable") for index in sample_indices]
    pairs = zip(sample_indices, orders, strict=True)
    return [order[np.searchsorted(index, common, sorter=order)].astype(np.int64) for index, order in pairs]


def mcnemar(first: NDArray[Any], second: NDArray[Any]) -> McNemar:
    """Compare two yes-or-no outcomes of the same samples, by the exact binomial form of McNemar's test.

    Parameters
    ----------
    first, second : ndarray of shape (n,), bool
        Outcomes, sample by sample.

    Returns
    -------
    McNemar
        The samples that differ, and the p-value.
    """
    only_first = int(np.sum(first & ~second))
    only_second = int(np.sum(second & ~first))
    return McNemar(only_first, only_second, float(even_split_p_value(only_first, only_second)))


def paired_difference(first: NDArray[Any], second: NDArray[Any], *, confidence: float = CONFIDENCE) -> Estimate:
    """Mean difference of two numbers of the same samples, with a normal interval after Agresti and Min.

    Two samples are added in thought, one without a difference and one half each with +1 and -1: so few samples, or
    samples that all agree, do not give an interval without width.

    Parameters
    ----------
    first, second : ndarray of shape (n,)
        Numbers in [0, 1], sample by sample.
    confidence : float
        Of the two-sided interval, in (0, 1).

    Returns
    -------
    Estimate
        Of the expectation of ``first - second``; the value is the mean itself.
    """
    if len(first) == 0:
        raise InputError("first: expected at least one sample, got none")
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    total = len(difference) + 2
    center = float(difference.sum()) / total
    variance = (float((difference**2).sum()) + 1) / total - center**2
    half = _quantile(confidence) * (variance / total) ** 0.5
    return Estimate(float(difference.mean()), max(-1.0, center - half), min(1.0, center + half))


def _quantile(confidence: float) -> float:
    """Standard normal quantile of a two-sided interval."""
    return float(special.ndtri((1 + _check_confidence(confidence)) / 2))


def _check_confidence(confidence: float) -> float:
    if check_number("confidence", confidence, above=0, maximum=1) == 1:
        raise InputError("confidence: expected a number below 1, got 1")
    return confidence


def _check_counts(count: float, total: float) -> None:
    if not 0 <= count <= total or total <= 0:
        raise InputError(f"count: expected 0 <= count <= total and total > 0, got {count} of {total}")


def _check_subset(name: str, size: int, num_draws: int) -> None:
    if check_count(name, size) > num_draws:
        raise InputError(f"{name}: expected at most the {num_draws} draws there are, got {size}")
