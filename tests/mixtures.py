"""Mixtures of Gaussians for tests: random ones, and the same quantities by plain loops over SciPy's densities."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.special import logsumexp

from malade_ref import GaussianMixture

Floats = NDArray[Any]


class Parameters(NamedTuple):
    """What a mixture is made of."""

    weights: Floats
    means: Floats
    covariances: Floats
    labels: NDArray[np.int64]

    def mixture(self, **settings: Any) -> GaussianMixture:
        return GaussianMixture(*self, **settings)


def random_parameters(
    m: int, d: int, *, num_classes: int | None = None, condition: float = 10.0, spread: float = 2.0, seed: int = 0
) -> Parameters:
    """A mixture with unequal weights whose covariances have random axes and eigenvalues over ``condition``."""
    rng = np.random.default_rng(seed)
    covariances = np.empty((m, d, d))
    for k in range(m):
        axes, _ = np.linalg.qr(rng.standard_normal((d, d)))
        exponents = rng.random(d)
        exponents[0], exponents[-1] = 0, 1
        covariances[k] = (axes * condition ** (exponents - 0.5)) @ axes.T
        covariances[k] = 0.5 * (covariances[k] + covariances[k].T)
    weights = rng.dirichlet(np.full(m, 0.5)) + 1e-6
    labels = np.concatenate([np.arange(num_classes or m), rng.integers(num_classes or m, size=m)])[:m]
    return Parameters(
        weights / weights.sum(), spread * rng.standard_normal((m, d)), covariances, rng.permutation(labels)
    )


def points_around(parameters: Parameters, n: int, *, distance: float, seed: int = 0) -> Floats:
    """Points up to so many standard deviations away from some component's mean."""
    rng = np.random.default_rng(seed + 1)
    m, d = parameters.means.shape
    component = rng.integers(m, size=n)
    direction = rng.standard_normal((n, d))
    direction *= (distance * rng.random((n, 1)) ** 0.5) / np.linalg.norm(direction, axis=1, keepdims=True)
    factors = np.linalg.cholesky(parameters.covariances)
    return np.asarray(parameters.means[component] + np.einsum("nij,nj->ni", factors[component], direction))


@st.composite
def mixtures(
    draw: st.DrawFn, *, dimensions: tuple[int, ...] = (1, 2, 3, 10, 50), max_components: int = 6, condition: float = 1e6
) -> Parameters:
    """Mixtures of every kind: dimension, components, classes, conditioning, overlapping and separated."""
    m = draw(st.integers(1, max_components))
    return random_parameters(
        m,
        draw(st.sampled_from(dimensions)),
        num_classes=draw(st.integers(1, m)),
        condition=draw(st.sampled_from([size for size in (1.0, 100.0, 1e4, 1e6) if size <= condition])),
        spread=draw(st.sampled_from([0.0, 1.0, 10.0])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


class Textbook:
    """Densities, posteriors, scores and Hessians of a mixture, from SciPy and linear solves, in float64."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.num_classes = int(parameters.labels.max()) + 1

    def component_log_joints(self, x: Floats) -> Floats:
        weights, means, covariances, _ = self.parameters
        parts = [
            np.log(w) + np.reshape(stats.multivariate_normal.logpdf(x, mean, covariance), len(x))
            for w, mean, covariance in zip(weights, means, covariances, strict=True)
        ]
        return np.stack(parts, axis=1)

    def component_scores(self, x: Floats) -> Floats:
        _, means, covariances, _ = self.parameters
        parts = [-np.linalg.solve(c, (x - mean).T).T for mean, c in zip(means, covariances, strict=True)]
        return np.stack(parts, axis=1)

    def log_density(self, x: Floats) -> Floats:
        return np.asarray(logsumexp(self.component_log_joints(x), axis=1))

    def class_log_joints(self, x: Floats) -> Floats:
        joint, labels = self.component_log_joints(x), self.parameters.labels
        return np.stack([logsumexp(joint[:, labels == y], axis=1) for y in range(self.num_classes)], axis=1)

    def class_log_posteriors(self, x: Floats) -> Floats:
        joint = self.class_log_joints(x)
        return np.asarray(joint - logsumexp(joint, axis=1, keepdims=True))

    def score(self, x: Floats) -> Floats:
        return self._score_of(x, np.ones(len(self.parameters.labels), dtype=bool))

    def class_scores(self, x: Floats) -> Floats:
        return np.stack([self._score_of(x, self.parameters.labels == y) for y in range(self.num_classes)], axis=1)

    def _score_of(self, x: Floats, members: NDArray[np.bool_]) -> Floats:
        joint = self.component_log_joints(x)[:, members]
        share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        return np.asarray((share[:, :, None] * self.component_scores(x)[:, members]).sum(axis=1))


class FromArrays(Textbook):
    """The same from what the ops take, so that nothing but their own rounding tells them apart."""

    def __init__(self, parameters: Parameters, arrays: tuple[Floats, Floats, Floats]) -> None:
        super().__init__(parameters)
        self.log_scale, self.means, self.whitening = (array.astype("float64") for array in arrays)

    def _whitened(self, x: Floats) -> Floats:
        return np.einsum("kij,nkj->nki", self.whitening, x[:, None] - self.means)

    def component_log_joints(self, x: Floats) -> Floats:
        return np.asarray(self.log_scale - 0.5 * np.square(self._whitened(x)).sum(axis=2))

    def component_scores(self, x: Floats) -> Floats:
        return -np.einsum("kij,nki->nkj", self.whitening, self._whitened(x))


class Magnitudes(NamedTuple):
    """What rounding errors of a mixture's log densities and scores are relative to: sums over absolute values."""

    log_density: Floats  # (n,)
    score: Floats  # (n, 1)
    hessian: Floats  # (n, 1)


def magnitudes(parameters: Parameters, x: Floats) -> Magnitudes:
    """Sizes of the terms that are added up, of the components that are present, with errors carried on.

    An error in a component's log density changes its share, and with it the score by as much as the components' scores
    differ. The number of terms, d, bounds how often a sum is rounded.
    """
    weights, means, covariances, _ = parameters
    d = means.shape[1]
    factors = np.linalg.cholesky(covariances)
    whitening = np.linalg.inv(factors)
    apart = np.abs(x[:, None] - means)
    z = np.einsum("kij,nkj->nki", np.abs(whitening), apart)
    log_density = d**0.5 * (0.5 * np.square(z).sum(axis=2) + np.abs(np.log(weights)) + d)
    steepest = np.linalg.norm(np.einsum("kij,nki->nkj", np.abs(whitening), z), axis=2)
    stiffest = np.square(np.linalg.norm(whitening, axis=(1, 2))).max()
    total, steep = log_density.max(axis=1), steepest.max(axis=1)
    return Magnitudes(total, (steep * (1 + total))[:, None], ((stiffest + np.square(steep)) * (1 + total))[:, None])
