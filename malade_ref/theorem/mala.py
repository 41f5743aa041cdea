r"""Part 7: the chain with an accept step, which has the right density whatever the step.

A proposal y = x + alpha s(x) + delta z is accepted with probability a(x, y) = min(1, p(y) q(x|y) / (p(x) q(y|x))), so
p(x) q(y | x) a(x, y) is symmetric in x and y: detailed balance. In many dimensions the step variance 2 alpha has to
shrink as d^(-1/3), slower than the d^(-1) of a random walk, and the best acceptance rate is 0.574 [1].
"Best" is by the expected squared jump E [ |y - x|^2 a(x, y) ] of a chain that is already stationary. As points of the
density can be drawn at will here, that is an average over independent pairs; no chain is needed.

The density is a product over coordinates, so log p(y) q(x|y) / (p(x) q(y|x)) is a sum of independent terms f, one of
each coordinate. Three properties make the average precise. The largest part of f is odd in z, so every z comes with -z.
E exp(f) = 1; a constant is taken off the f of a sample so that it holds there too. And any d of the sample's
coordinates make a point, so coordinates are grouped into points several times.

References
----------
.. [1] Roberts and Rosenthal, "Optimal scaling of discrete approximations to Langevin diffusions", JRSS B 60, 1998.
.. [2] Gretton et al., "A kernel two-sample test", JMLR 13, 2012.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from malade_ref.diagnostics import loglog_slope, mmd_test, t_interval
from malade_ref.mcmc import mala, ula
from malade_ref.statistics import wilson
from malade_ref.theorem.chains import Density, Floats, Host, walk
from malade_ref.theorem.claims import Claim, Measure, Progress, Settings, exact
from malade_ref.theorem.worlds import line, three_islands

LEVEL = 0.05
TEST_ALPHA = 0.4
BLOCKS = 64  # of coordinates in a point, if it has that many
SCALES = np.geomspace(0.4, 5.0, 27)  # l, of step variances l^2 d^(-1/3)


def mala_claims(settings: Settings, out: Path, progress: Progress) -> list[Claim]:
    """Check the chain with an accept step.

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
        Detailed balance, the two-sample test, and optimal scaling.
    """
    progress(0.0, "detailed balance")
    claims = [_balance(settings)]
    claims += _two_samples(settings, lambda done: progress(0.1 + 0.4 * done, "two-sample tests"))
    claims.append(_scaling(settings, lambda done: progress(0.5 + 0.5 * done, "optimal scaling")))
    return claims


# Detailed balance ----------------------------------------------------------------------------------------------------


def _balance(settings: Settings) -> Claim:
    pairs = settings.pick(full=20_000, quick=5000, tiny=500)
    ops, mixture = settings.ops, three_islands(settings)
    host = Host(mixture)
    rng = settings.rng("mala/balance")
    largest, broken = 0.0, 0.0
    for alpha in (0.01, 0.1, 0.5):
        delta = (2 * alpha) ** 0.5
        x, _ = host.sample(pairs, seed=(settings.seed, f"theorem/balance/{alpha}"))
        # Proposals, and points that no proposal reaches.
        y = np.where(
            rng.random((pairs, 1)) < 0.5,
            x + alpha * host.score(x) + delta * rng.normal(size=x.shape),
            3 * rng.normal(size=x.shape),
        )
        log_p, score = {}, {}
        for name, points in (("x", x), ("y", y)):
            log_p[name], score[name] = host.log_density_and_score(points)

        def flux(
            a: str,
            b: str,
            points: dict[str, Floats],
            settled: bool = True,
            alpha: float = alpha,
            delta: float = delta,
            log_p: dict[str, Floats] = log_p,
            score: dict[str, Floats] = score,
        ) -> Floats:
            """Evaluate log p(a) q(b | a), and the acceptance if wanted."""
            noise = (points[b] - points[a] - alpha * score[a]) / delta
            move = -0.5 * (noise**2 + np.log(2 * np.pi * delta**2)).sum(axis=1)
            arrays = (points[a], points[b], score[a], score[b], log_p[a], log_p[b])
            ratio = ops.to_host(ops.langevin_log_ratio(*map(ops.asarray, arrays), alpha=alpha, delta=delta))
            return np.asarray(log_p[a] + move + (np.minimum(0, ratio) if settled else 0))

        points = {"x": x, "y": y}
        forth, back = flux("x", "y", points), flux("y", "x", points)
        largest = max(largest, float(np.max(np.abs(forth - back) / (1 + np.abs(forth)))))
        broken = max(broken, float(np.median(np.abs(flux("x", "y", points, False) - flux("y", "x", points, False)))))
    return Claim(
        "mala-balance",
        7,
        "Detailed balance holds for every pair of points",
        "log p(x) q(y | x) a(x, y) is symmetric, with the acceptance that the sampler uses.",
        f"{pairs:,} pairs for each of three step sizes on the 2-D world, half of them proposals, half far apart; the "
        "density of the proposal from SciPy, the acceptance from the op of the chain.",
        [Measure("largest difference, relative to 1 + |log|", exact(largest), high=1e-12)],
        [f"Without the acceptance the median difference is {broken:.2g}."],
    )


# Two-sample tests ----------------------------------------------------------------------------------------------------


def _two_samples(settings: Settings, advance: Callable[[float], None]) -> list[Claim]:
    seeds, walkers, steps = settings.pick(full=(20, 1000, 400), quick=(20, 1000, 120), tiny=(3, 60, 30))
    mixture = three_islands(settings)
    host = Host(mixture)
    chains = {"mala": mala(TEST_ALPHA), "ula": ula(TEST_ALPHA)}
    p_values: dict[str, list[float]] = {name: [] for name in chains}
    acceptance = []
    for seed in range(seeds):
        advance(seed / seeds)
        rng = settings.rng("mala/mmd", seed)
        truth, _ = host.sample(walkers, seed=(settings.seed, f"theorem/mmd/{seed}"))
        for name, chain in chains.items():
            start = 2 * rng.normal(size=(walkers, 2))
            options = {"num_steps": steps, "keep_every": steps, "settings": settings, "name": f"mmd/{name}/{seed}"}
            walked = walk(mixture, start, chain, **options)
            p_values[name].append(mmd_test(walked.positions[-1], truth, rng=rng, num_permutations=299).p_value)
            if name == "mala":
                acceptance.append(walked.acceptance)
    rejected = {name: int(np.sum(np.array(values) <= LEVEL)) for name, values in p_values.items()}
    rates = {name: wilson(count, seeds) for name, count in rejected.items()}
    surprise = float(special.bdtrc(rejected["mala"] - 1, seeds, LEVEL))
    told = {name: f"{rejected[name]} of {seeds} rejected" for name in chains}
    method = (
        f"{walkers} independent walkers from a wide Gaussian, {steps} steps of alpha {TEST_ALPHA:g}, against as many "
        f"independent draws; unbiased MMD^2 with the median distance as bandwidth, 299 permutations, {seeds} seeds."
    )
    return [
        Claim(
            "mala-mmd",
            7,
            "MALA's draws cannot be told from independent ones",
            "A two-sample test at level 5% rejects MALA's draws no more often than it would reject the density's own.",
            method,
            [
                Measure(
                    "probability of so many rejections at a rate of 5%", exact(surprise), low=0.01, note=told["mala"]
                )
            ],
            [
                f"Rate of rejection {rates['mala'].value:.2f} [{rates['mala'].low:.2f}, {rates['mala'].high:.2f}]; "
                f"acceptance {np.mean(acceptance):.2f}."
            ],
            {"p-mala": np.array(p_values["mala"]), "p-ula": np.array(p_values["ula"])},
        ),
        Claim(
            "mala-power",
            7,
            "The same test sees the bias of ULA",
            "At the same step size, without the accept step, the test rejects most of the time: it has the power to "
            "see what it does not find in MALA.",
            method,
            [Measure("rate of rejection", rates["ula"], low=0.5, note=told["ula"])],
            control=True,
        ),
    ]


# Optimal scaling -----------------------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """Efficiency against step size, in one dimension number.

    Attributes
    ----------
    acceptance : ndarray of shape (k,)
        Mean acceptance for every l of `SCALES`.
    jump : ndarray of shape (k,)
        Expected squared jump, for each dimension and in units of d^(-1/3).
    best_variance : float
        Step variance 2 alpha of the largest jump.
    best_acceptance : float
        Acceptance there.
    """

    acceptance: Floats
    jump: Floats
    best_variance: float
    best_acceptance: float


def efficiency(density: Density, x: Floats, rng: np.random.Generator, *, groupings: int = 1) -> Curve:
    """Measure MALA's efficiency at stationarity.

    Parameters
    ----------
    density : Density
        p, a product of equal densities.
    x : ndarray of shape (n, d)
        Independent points of p.
    rng : numpy.random.Generator
        For the proposals; all step sizes meet the same noise z, and -z.
    groupings : int
        How many times the coordinates are grouped into points, at random after the first time.

    Returns
    -------
    Curve
        For every l of `SCALES`, and its maximum by a parabola through the logarithms around the largest.
    """
    ops, (n, d) = density.ops, x.shape
    # Every coordinate is a point of its own here.
    at, noise = ops.asarray(x.reshape(-1, 1)), rng.normal(size=(n * d, 1))
    log_p, score = density.log_density(at), density.score(at)
    # Blocks of coordinates are what is grouped: as good as single ones, and much faster.
    block = d // BLOCKS if d % BLOCKS == 0 else 1
    orders = [np.arange(n * d // block), *(rng.permutation(n * d // block) for _ in range(groupings - 1))]

    def grouped(values: Floats) -> Floats:
        """Sums over each point's coordinates, of shape (groupings, n)."""
        sums = values.reshape(-1, block).sum(axis=1)
        return np.stack([sums[order].reshape(n, -1).sum(axis=1) for order in orders])

    def jumps(noise: Any, alpha: float, delta: float) -> tuple[Floats, Floats]:
        """Acceptance of every point's move, and its mean square, for each grouping."""
        moved = ops.langevin_step(at, score, noise, a=alpha, delta=delta)
        arrays = at, moved, score, density.score(moved), log_p, density.log_density(moved)
        terms = ops.to_host(ops.langevin_log_ratio(*arrays, alpha=alpha, delta=delta))
        terms = terms - np.log(np.mean(np.exp(terms)))
        squares = np.square(ops.to_host(moved) - ops.to_host(at))[:, 0]
        return np.exp(np.minimum(0, grouped(terms))), grouped(squares) / d

    signs = ops.asarray(noise), ops.asarray(-noise)
    acceptance, jump = [], []
    for scale in SCALES:
        variance = scale**2 * d ** (-1 / 3)
        accept, squares = zip(*(jumps(z, variance / 2, variance**0.5) for z in signs), strict=True)
        acceptance.append(float(np.mean(accept)))
        jump.append(float(np.mean(np.multiply(accept, squares))) * d ** (1 / 3))
    middle = int(np.clip(np.argmax(jump), 2, len(SCALES) - 3))
    near = slice(middle - 2, middle + 3)
    logs = np.log(SCALES)
    curvature, slope, _ = np.polyfit(logs[near] - logs[middle], np.log(jump[near]), 2)
    best = logs[middle] - slope / (2 * curvature)
    return Curve(
        np.array(acceptance),
        np.array(jump),
        float(np.exp(2 * best) * d ** (-1 / 3)),
        float(np.interp(best, logs, acceptance)),
    )


class Target(NamedTuple):
    """A product of equal densities on the line.

    Attributes
    ----------
    name : str
        For tables.
    density : Density
        Of points of any number of coordinates.
    draw : callable
        Independent numbers: takes a generator and how many.
    cost : int
        How much more an evaluation takes than the cheapest.
    decides : bool
        Whether the claim is about it.
    """

    name: str
    density: Density
    draw: Callable[[np.random.Generator, int], Floats]
    cost: int
    decides: bool


def _targets(settings: Settings) -> dict[str, Target]:
    ops, mixture = settings.ops, line(settings)
    host = Host(mixture)

    def draw(rng: np.random.Generator, count: int) -> Floats:
        return np.asarray(host.sample(count, seed=int(rng.integers(2**32)))[0][:, 0])

    def each(function: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
        return lambda x: function(x.reshape(-1, 1)).reshape(x.shape)

    return {
        "normal": Target(
            "N(0, I)",
            Density(lambda x: -0.5 * np.sum(x**2, axis=1), lambda x: -x, ops),
            lambda rng, count: rng.normal(size=count),
            cost=1,
            decides=True,
        ),
        "logistic": Target(
            "product of logistic densities",
            Density(lambda x: np.sum(-x - 2 * np.logaddexp(0, -x), axis=1), lambda x: -np.tanh(x / 2), ops),
            lambda rng, count: rng.logistic(size=count),
            cost=1,
            decides=True,
        ),
        "mixture": Target(
            "product of mixtures of two modes, for which these dimensions are not many",
            Density(lambda x: each(host.log_density)(x).sum(axis=1), each(host.score), ops),
            draw,
            cost=10,
            decides=False,
        ),
    }


def _scaling(settings: Settings, advance: Callable[[float], None]) -> Claim:
    dimensions = settings.pick(full=(128, 512, 2048, 8192), quick=(512, 4096), tiny=(16, 64))
    seeds, budget = settings.pick(full=(6, 1_500_000), quick=(6, 1 << 16), tiny=(2, 20_000))
    groupings = settings.pick(full=4, quick=16, tiny=1)
    targets = _targets(settings)
    measures, arrays, remarks = [], {"scale": SCALES, "dimensions": np.array(dimensions)}, []
    for number, (key, target) in enumerate(targets.items()):
        curves: list[list[Curve]] = []
        for seed in range(seeds):
            rng = settings.rng("mala/scaling", key, seed)
            curves.append([])
            for i, d in enumerate(dimensions):
                advance((number + (seed + i / len(dimensions)) / seeds) / len(targets))
                numbers = target.draw(rng, max(1, budget // target.cost // d) * d)
                curves[-1].append(efficiency(target.density, numbers.reshape(-1, d), rng, groupings=groupings))
        variances = np.array([[curve.best_variance for curve in row] for row in curves])
        best = np.array([[curve.best_acceptance for curve in row] for row in curves])
        slope = loglog_slope(np.array(dimensions), variances).exponent
        top = t_interval(best[:, -1])
        note = f"{seeds} seeds"
        if target.decides:
            measures += [
                Measure(f"best acceptance, {target.name}, d = {dimensions[-1]}", top, 0.534, 0.614, note),
                Measure(f"slope of the best step variance in d, {target.name}", slope, -0.383, -0.283, note),
            ]
        told = ", ".join(f"{value:.3f} (d = {d})" for d, value in zip(dimensions, best.mean(axis=0), strict=True))
        local = np.diff(np.log(variances.mean(axis=0))) / np.diff(np.log(dimensions))
        slopes = ", ".join(f"{value:.2f}" for value in local)
        remarks.append(
            f"Best acceptance, {target.name}: {told}; slope of the step variance from each d to the next {slopes}."
        )
        arrays[f"{key}-acceptance"] = np.array([[curve.acceptance for curve in row] for row in curves]).mean(axis=0)
        arrays[f"{key}-jump"] = np.array([[curve.jump for curve in row] for row in curves]).mean(axis=0)
        arrays[f"{key}-variance"] = variances
    return Claim(
        "mala-scaling",
        7,
        "The best acceptance is near 0.574, and the best step variance falls as d^(-1/3)",
        "By the expected squared jump at stationarity, MALA on a product of d equal densities is best at an acceptance "
        "rate of 0.574, and its step variance has to shrink as d^(-1/3).",
        f"Independent points and proposals, {len(SCALES)} step variances l^2 d^(-1/3), the same noise for all; "
        f"{budget:,} coordinates for the cheapest density, each with its noise and the opposite one, and in "
        f"{groupings} points; the ratio's terms are shifted so that their exponentials average to 1, as they do in "
        "expectation. The best step is found by a parabola in logarithms. Intervals are Student's over seeds. The "
        "theory is for d to infinity.",
        measures,
        remarks,
        arrays,
    )
