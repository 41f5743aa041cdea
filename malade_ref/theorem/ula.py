r"""Part 6: the chain without an accept step, x <- x + alpha s(x) + delta z.

On N(0, 1) the chain is an autoregression, x <- (1 - alpha) x + delta z, of stationary variance

    v = delta^2 / (1 - (1 - alpha)^2) = (delta^2 / 2 alpha) / (1 - alpha / 2),

so at temperature delta^2 / (2 alpha) = 1 it is too wide by alpha / 4 in standard deviation (its W2 distance), and its
Kullback-Leibler divergence is (v - 1 - log v) / 2 = alpha^2 / 16 at leading order: slopes 1 and 2. For mixtures the
stationary density comes from the transition kernel on a grid (`malade_ref.theorem.grid`), without sampling noise.

References
----------
.. [1] Roberts and Tweedie, "Exponential convergence of Langevin distributions", Bernoulli 2(4), 1996.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

from malade_ref.density import GaussianMixture
from malade_ref.diagnostics import (
    Slope,
    effective_sample_size,
    loglog_slope,
    split_rhat,
    t_interval,
    wasserstein2_histograms,
)
from malade_ref.mcmc import mala, ula
from malade_ref.statistics import Estimate
from malade_ref.theorem.chains import Density, Floats, Host, walk
from malade_ref.theorem.claims import Claim, Measure, Progress, Settings, exact
from malade_ref.theorem.grid import Grid, box, divergence, masses, stationary
from malade_ref.theorem.worlds import isotropic, line, standard_normal, three_islands

STEPS = (0.05, 0.1, 0.25, 0.5, 1.0)
TAILS = 8.0  # standard deviations that a grid reaches beyond the outermost means
LOST = 1e6
NUM_FITTED = 3  # step sizes, the smallest, that slopes are fitted to


def ula_claims(settings: Settings, out: Path, progress: Progress) -> list[Claim]:
    """Check the chain without an accept step.

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
        Variance, bias, mixing, and the quartic tail.
    """
    progress(0.0, "variance")
    claims = [_variance(settings)]
    progress(0.3, "bias by transition kernel")
    claims.append(_bias(settings, lambda done: progress(0.3 + 0.4 * done, "bias by transition kernel")))
    progress(0.7, "mixing")
    claims += _mixing(settings)
    progress(0.95, "quartic tails")
    claims.append(_quartic(settings))
    return claims


# The variance --------------------------------------------------------------------------------------------------------


def stationary_variance(alpha: float, delta: float) -> float:
    """Variance of the chain on N(0, 1) in the long run.

    Parameters
    ----------
    alpha : float
        Step on the score, in (0, 2).
    delta : float
        Standard deviation of the noise.

    Returns
    -------
    float
        (delta^2 / 2 alpha) / (1 - alpha / 2).
    """
    return delta**2 / (2 * alpha) / (1 - alpha / 2)


def _variance(settings: Settings) -> Claim:
    walkers, records = settings.pick(full=(8192, 60), quick=(1024, 20), tiny=(256, 4))
    target = standard_normal(1, settings)
    measures, found = [], []
    for temperature in (1.0, 0.25):
        for alpha in STEPS:
            delta = (2 * alpha * temperature) ** 0.5
            memory = int(np.ceil(2 / alpha))  # steps after which little is left of where a walker was
            positions = walk(
                *(target, np.zeros((walkers, 1)), ula(alpha, temperature=temperature)),
                num_steps=records * memory,
                keep_every=memory,
                burn_in=10 * memory,
                settings=settings,
                name=f"ula/variance/{temperature}/{alpha}",
            ).positions[..., 0]
            expected = stationary_variance(alpha, delta)
            # Walkers are independent; what one of them does at different times is not.
            ratio = np.mean(positions**2, axis=0) / expected
            error = float(ratio.std(ddof=1)) / walkers**0.5
            deviation = (float(ratio.mean()) - 1) / error
            found.append((temperature, alpha, float(ratio.mean()) * expected, error * expected, expected))
            if temperature == 1:
                note = f"variance {found[-1][2]:.4f} ± {found[-1][3]:.4f}, formula {expected:.4f}"
                measures.append(
                    Measure(f"deviation at alpha {alpha:g}, standard errors", exact(deviation), -3, 3, note)
                )
    deviations = [(variance - expected) / error for _, _, variance, error, expected in found]
    cold = max(abs(value) for value, row in zip(deviations, found, strict=True) if row[0] != 1)
    return Claim(
        "ula-variance",
        6,
        "ULA on N(0, 1) has the variance that theory says",
        "On N(0, 1) the chain's stationary variance is (delta^2 / 2 alpha) / (1 - alpha / 2), at every step size.",
        f"{walkers:,} independent chains from 0, {records} records of each after a burn-in of 20 / alpha steps. A "
        "deviation beyond 3 standard errors happens by chance once in 370.",
        measures,
        [f"At temperature 0.25 the largest of the five deviations is {cold:.1f} standard errors."],
        {"table": np.array(found)},
    )


# The bias ------------------------------------------------------------------------------------------------------------


def _bias(settings: Settings, advance: Callable[[float], None]) -> Claim:
    one, two = settings.pick(full=6, quick=6, tiny=3), settings.pick(full=4, quick=4, tiny=0)
    smallest = {1: 0.005, 2: 0.02}
    targets = {
        "gaussian": (standard_normal(1, settings), one),
        "line": (line(settings), one),
        "plane": (three_islands(settings), two),
    }
    names = {"gaussian": "N(0, 1)", "line": "1-D mixture", "plane": "2-D mixture"}
    measures, arrays, remarks = [], {}, []
    for number, (name, (target, count)) in enumerate(targets.items()):
        if not count:
            continue
        alphas = [smallest[target.num_dimensions] * 2**k for k in reversed(range(count))]
        found = np.array([bias_at(target, alpha) for alpha in alphas])
        arrays[f"{name}-alpha"], arrays[f"{name}-w2"], arrays[f"{name}-kl"] = np.array(alphas), *found.T[:2]
        what = "W2 of the marginals" if target.num_dimensions > 1 else "W2"
        note = "step sizes " + ", ".join(f"{alpha:g}" for alpha in alphas[-NUM_FITTED:])
        if name == "gaussian":
            variance = np.array([stationary_variance(alpha, (2 * alpha) ** 0.5) for alpha in alphas])
            closed = (variance - 1 - np.log(variance)) / 2
            measures.append(
                Measure(
                    "N(0, 1): largest relative error of W2 on the grid",
                    exact(_relative(found[:, 0], variance**0.5 - 1)),
                    high=1e-3,
                )
            )
            measures.append(
                Measure(
                    "N(0, 1): largest relative error of KL on the grid",
                    exact(_relative(found[:, 1], closed)),
                    high=1e-6,
                )
            )
        for column, (label, low, high) in enumerate(((what, 0.9, 1.1), ("KL", 1.8, 2.2))):
            slope = _last(np.array(alphas), found[:, column])
            measures.append(
                Measure(f"{names[name]}: slope of {label} in alpha", exact(slope.exponent.value), low, high, note)
            )
            arrays[f"{name}-fit-{column}"] = np.array([slope.exponent.value, slope.intercept])
        if name != "gaussian":
            shares = ", ".join(f"{share:.4f} at {alpha:g}" for alpha, share in zip(alphas, found[:, 2], strict=True))
            remarks.append(
                f"{names[name]}: the prior of the last class is {target.priors[-1]:.4f}; the chain gives it {shares}."
            )
        advance((number + 1) / len(targets))
    return Claim(
        "ula-bias",
        6,
        "ULA's bias falls as the step",
        "At temperature 1 the chain's stationary density is off by a W2 distance that is proportional to alpha, and by "
        "a Kullback-Leibler divergence proportional to alpha^2.",
        "Stationary density as the leading eigenvector of the transition kernel on a grid; no sampling, so the slopes "
        "(of the three smallest step sizes) have no interval. In the plane W2 is that of the two marginals.",
        measures,
        remarks,
        arrays,
    )


def bias_at(target: GaussianMixture, alpha: float) -> tuple[float, float, float]:
    """How far the chain's stationary density is from the one it follows.

    Parameters
    ----------
    target : GaussianMixture
        In one or two dimensions.
    alpha : float
        Step on the score; the noise is that of temperature 1.

    Returns
    -------
    tuple of three floats
        W2 (root of the sum of squares over the marginals), KL, and the share of the last class: the mean of its
        posterior under the chain.
    """
    grid, mass, chain = chain_masses(target, alpha)
    shape = grid.shape
    squares = []
    for axis in range(len(shape)):
        others = tuple(i for i in range(len(shape)) if i != axis)
        marginals = [values.reshape(shape).sum(axis=others) for values in (chain, mass)]
        squares.append(wasserstein2_histograms(grid.edges(axis), *marginals) ** 2)
    posterior = np.exp(Host(target).class_log_posteriors(grid.points)[:, -1])
    return sum(squares) ** 0.5, divergence(chain, mass), float(chain @ posterior)


def chain_masses(target: GaussianMixture, alpha: float) -> tuple[Grid, Floats, Floats]:
    """Masses of cells, under a mixture and under the chain that follows it.

    Parameters
    ----------
    target : GaussianMixture
        In one or two dimensions.
    alpha : float
        Step on the score.

    Returns
    -------
    grid : Grid
        The cells.
    mass : ndarray of shape (N,)
        Under the mixture.
    chain : ndarray of shape (N,)
        Under the stationary density of the chain.
    """
    host, delta = Host(target), (2 * alpha) ** 0.5
    widest = float(np.sqrt(max(np.linalg.eigvalsh(target.covariances).max(), 0)))
    reach = (TAILS if target.num_dimensions == 1 else TAILS - 1) * widest
    # A coarser grid in the plane: 1e-17 of the kernel's mass is lost to a spacing of 0.7 delta.
    spacing = min(0.1, 0.4 * delta) if target.num_dimensions == 1 else min(0.15, 0.7 * delta)
    grid = box(target.means.min(axis=0) - reach, target.means.max(axis=0) + reach, spacing)
    mass = masses(grid, host.log_density)
    return grid, mass, stationary(grid, lambda x: x + alpha * host.score(x), delta, mass)


def _last(x: NDArray[np.float64], y: NDArray[np.float64]) -> Slope:
    order = np.argsort(x)[:NUM_FITTED]
    return loglog_slope(x[order], y[order])


def _relative(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    return float(np.abs(found / expected - 1).max())


# Mixing --------------------------------------------------------------------------------------------------------------


def _mixing(settings: Settings) -> list[Claim]:
    steps = settings.pick(full=20_000, quick=5000, tiny=500)
    near, far = line(settings), isotropic([0.6, 0.4], [[-4.0], [4.0]], [0.7, 0.7], settings=settings)
    alpha, walkers = 0.1, 16
    found = {}
    for name, target in (("near", near), ("far", far)):
        means = target.means[np.arange(walkers) % target.num_components]
        options = {"num_steps": steps, "keep_every": 5, "burn_in": 100, "settings": settings}
        found[name] = walk(target, means, ula(alpha), name=f"ula/mixing/{name}", **options).positions[..., 0].T
    grid, _, chain = chain_masses(near, alpha)
    threshold = 0.3
    inside = (found["near"] > threshold).astype(np.float64)
    # Cells that the threshold cuts count by the part above it.
    upper = np.clip((grid.axes[0] + grid.spacing / 2 - threshold) / grid.spacing, 0, 1)
    expected = float(chain @ upper)
    share = t_interval(inside.mean(axis=1))
    size = effective_sample_size(inside)
    error = (expected * (1 - expected) / size) ** 0.5
    deviation = (share.value - expected) / error
    wrong = float((found["far"] > 0).mean())
    sizes = {name: effective_sample_size(values) for name, values in found.items()}
    text = f"{walkers} chains of {steps:,} steps at alpha {alpha:g}, started in the components' means"
    return [
        Claim(
            "ula-mixing",
            6,
            "Chains mix between modes that touch",
            "On overlapping modes chains forget where they started, and visit each mode as often as the stationary "
            "density of the transition kernel says.",
            f"{text}; every fifth position. The standard error of the share is that of as many independent draws as "
            "Geyer's effective sample size says.",
            [
                Measure("split R-hat of the ranks", exact(split_rhat(found["near"])), high=1.02),
                Measure(
                    f"share above {threshold:g}, deviation in standard errors",
                    exact(deviation),
                    -3,
                    3,
                    f"share {share.value:.4f}, kernel {expected:.4f}, effective size {size:,.0f}",
                ),
            ],
            [f"Effective sample size of the position: {sizes['near']:,.0f} of {found['near'].size:,} records."],
        ),
        Claim(
            "ula-stuck",
            6,
            "Chains between distant modes do not mix, and R-hat sees it",
            "On modes 11 standard deviations apart no chain of this length crosses, and the chains' share of each mode "
            "is that of their starts.",
            text + ". Weights of the modes 0.6 and 0.4; half of the chains start in each.",
            [
                Measure("split R-hat of the ranks", exact(split_rhat(found["far"])), low=1.1),
                Measure("share of the mode of weight 0.4", exact(wrong), 0.49, 0.51),
            ],
            [f"Effective sample size, which knows of the disagreement: {sizes['far']:,.0f}."],
            control=True,
        ),
    ]


# A tail that is too light --------------------------------------------------------------------------------------------


def quartic(settings: Settings) -> Density:
    """Make the density proportional to exp(-x^4 / 4).

    Parameters
    ----------
    settings : Settings
        The backend.

    Returns
    -------
    Density
        Its score is 0 beyond 1e6, where a walker is lost anyway, so that numbers stay numbers.
    """
    return Density(lambda x: -(x[:, 0] ** 4) / 4, lambda x: np.where(np.abs(x) < LOST, -(x**3), 0.0), settings.ops)


def _quartic(settings: Settings) -> Claim:
    alpha, far = 0.4, 6.0
    walkers, steps = settings.pick(full=(2000, 2000), quick=(500, 1500), tiny=(64, 1000))
    target, zero = quartic(settings), np.zeros((walkers, 1))
    options = {"num_steps": steps, "settings": settings}
    free = walk(target, zero, ula(alpha), name="ula/quartic", **options).positions
    tested = walk(target, zero, mala(alpha), name="ula/quartic", **options)
    stuck = walk(target, zero + far, mala(alpha), name="ula/quartic", **options)
    lost = np.abs(free[..., 0]) > LOST / 10
    # E x^2 under exp(-x^4 / 4): 2 Gamma(3/4) / Gamma(1/4).
    expected = 2 * special.gamma(0.75) / special.gamma(0.25)
    second = t_interval(np.mean(tested.positions[steps // 10 :, :, 0] ** 2, axis=0))
    return Claim(
        "ula-quartic",
        6,
        "A quartic tail throws ULA off, and not MALA",
        "For the density exp(-x^4 / 4) the score grows faster than any fixed step allows: beyond |x| = sqrt(2 / alpha) "
        "a step leads further out than it began, and sooner or later every chain gets there. The accept step refuses "
        "such moves, and the chain keeps to its density.",
        f"{walkers:,} chains from 0 at alpha {alpha:g}, where sqrt(2 / alpha) = {(2 / alpha) ** 0.5:.2f}; {steps:,} "
        "steps.",
        [
            Measure("ULA: share of chains beyond 1e5 in the end", exact(float(lost[-1].mean())), low=0.95),
            Measure("MALA: largest |x|", exact(float(np.abs(tested.positions).max())), high=4),
            Measure(
                "MALA: E x^2, relative to 2 Gamma(3/4) / Gamma(1/4)",
                Estimate(*(value / expected for value in second)),
                *(0.98, 1.02),
                f"{second.value:.4f} against {expected:.4f}; acceptance {tested.acceptance:.2f}",
            ),
        ],
        [
            f"What saves the chain can also freeze it: from x = {far:g}, where every proposal is far worse, MALA makes "
            f"{100 * stuck.acceptance:.2f}% of its moves in {steps:,} steps. It is not geometrically ergodic on "
            "tails lighter than a Gaussian's (Roberts and Tweedie, 1996)."
        ],
        {"lost": lost.mean(axis=1)},
        control=True,
    )
