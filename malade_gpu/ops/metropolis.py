r"""The Metropolis test of a Langevin proposal.

From x the walker proposes y = x + alpha s(x) + delta z and accepts with probability min(1, exp(rho)),

    rho = log p(y) + log q(x | y) - log p(x) - log q(y | x),    log q(y | x) = -|y - x - alpha s(x)|^2 / (2 delta^2).

References
----------
.. [1] Roberts and Tweedie, "Exponential convergence of Langevin distributions", Bernoulli 2(4), 1996.
.. [2] Hastings, "Monte Carlo sampling methods using Markov chains", Biometrika 57, 1970.
"""

from __future__ import annotations

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import check_float, check_number, check_same, check_shape

from ..device import device
from ..kernels import metropolis as kernels


def langevin_log_ratio(
    x: Array,
    proposal: Array,
    score: Array,
    proposal_score: Array,
    log_density: Array,
    proposal_log_density: Array,
    *,
    alpha: float,
    delta: float,
) -> Array:
    """As `malade_ref.ops.langevin_log_ratio`."""
    check_float("x", x)
    for name, array in (("proposal", proposal), ("score", score), ("proposal_score", proposal_score)):
        check_same(name, array, "x", x)
    check_shape("log_density", log_density, x.shape[:1])
    check_shape("proposal_log_density", proposal_log_density, x.shape[:1])
    real = x.dtype.type
    step = real(check_number("alpha", alpha, above=0))
    scale = real(1 / check_number("delta", delta, above=0))
    n = len(x)
    out = device().empty((n,), x.dtype)
    flat = [
        device().xp.ascontiguousarray(array).reshape(-1)
        for array in (x, proposal, score, proposal_score, log_density, proposal_log_density)
    ]
    size = np.int64(x.size // n if n else 0)
    device().for_elements(kernels.LOG_RATIO[str(x.dtype)], n, out, *flat, size, step, scale)
    return out


def metropolis_accept(log_ratio: Array, level: Array) -> Array:
    """As `malade_ref.ops.metropolis_accept`."""
    check_float("log_ratio", log_ratio)
    check_same("level", level, "log_ratio", log_ratio)
    xp = device().xp
    out = device().empty(log_ratio.shape, xp.bool_)
    flat = [xp.ascontiguousarray(array) for array in (log_ratio, level)]
    device().for_elements(kernels.accept, log_ratio.size, out, *flat)
    return out
