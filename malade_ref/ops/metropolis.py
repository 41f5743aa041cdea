r"""The Metropolis test of a Langevin proposal.

From x the walker proposes y = x + alpha s(x) + delta z, so log q(y | x) = -|y - x - alpha s(x)|^2 / (2 delta^2) up to a
constant, and accepts it with probability min(1, exp(rho)),

    rho = log p(y) + log q(x | y) - log p(x) - log q(y | x).

Then p(x) q(y | x) min(1, e^rho) is symmetric in x and y (detailed balance), whatever alpha and delta are.

References
----------
.. [1] Roberts and Tweedie, "Exponential convergence of Langevin distributions", Bernoulli 2(4), 1996.
.. [2] Hastings, "Monte Carlo sampling methods using Markov chains", Biometrika 57, 1970.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_float, check_number, check_same, check_shape

Floats = NDArray[Any]


def langevin_log_ratio(
    x: Floats,
    proposal: Floats,
    score: Floats,
    proposal_score: Floats,
    log_density: Floats,
    proposal_log_density: Floats,
    *,
    alpha: float,
    delta: float,
) -> Floats:
    """Logarithm of the ratio that decides whether a Langevin proposal is accepted.

    Parameters
    ----------
    x, proposal : ndarray of shape (n, ...), float32 or float64
        Where the walkers are, and where they might go.
    score, proposal_score : ndarray, same shape and dtype
        Gradients of the log density there.
    log_density, proposal_log_density : ndarray of shape (n,), same dtype
        Log densities there.
    alpha : float
        Step on the score, > 0.
    delta : float
        Standard deviation of the noise, > 0.

    Returns
    -------
    ndarray of shape (n,), same dtype
        rho: positive if the proposal is certain to be accepted. NaN or -infinity where the proposal is infinite.
    """
    check_float("x", x)
    for name, array in (("proposal", proposal), ("score", score), ("proposal_score", proposal_score)):
        check_same(name, array, "x", x)
    check_shape("log_density", log_density, x.shape[:1])
    check_shape("proposal_log_density", proposal_log_density, x.shape[:1])
    real = x.dtype.type
    step = real(check_number("alpha", alpha, above=0))
    scale = real(1 / check_number("delta", delta, above=0))
    axes = tuple(range(1, x.ndim))
    # A proposal out of the format's range is refused, and no reason for a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        there = scale * (proposal - x - step * score)
        back = scale * (x - proposal - step * proposal_score)
        # (there - back)(there + back) summed, rather than a difference of two large sums.
        moves = ((there - back) * (there + back)).sum(axis=axes)
        return np.asarray(proposal_log_density - log_density + real(0.5) * moves)


def metropolis_accept(log_ratio: Floats, level: Floats) -> NDArray[np.bool_]:
    """Whether proposals are accepted: with probability min(1, exp(log_ratio)).

    Parameters
    ----------
    log_ratio : ndarray of shape (n,), float32 or float64
        Logarithm of the acceptance ratio; NaN refuses.
    level : ndarray, same shape and dtype
        Independent uniform numbers in (0, 1).

    Returns
    -------
    ndarray of shape (n,), bool
        log(level) < log_ratio.

    Examples
    --------
    >>> import numpy as np
    >>> metropolis_accept(np.log([0.25, 0.25]), np.array([0.2, 0.3])).tolist()
    [True, False]
    """
    check_float("log_ratio", log_ratio)
    check_same("level", level, "log_ratio", log_ratio)
    return np.asarray(np.log(level) < log_ratio)
