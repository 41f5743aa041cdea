r"""The exact minimiser of the sDAE's objective on a mixture of Gaussians.

At a noisy point u the objective, halved and without its constant, is

    F(r) = |r - E[x | u]|^2 / 2 + lambda sigma^2 sum_y p_s(y | u) (-log yhat_y(r)),

with lambda the weight of the cross entropy (1 in the paper), and its stationary points solve

    r = E[x | u] + lambda sigma^2 sum_y p_s(y | u) grad_r log yhat_y(r).

F is minimised by Newton's method with its analytic Hessian. Where that is not positive definite it is shifted until it
is, and steps are halved until F falls. F may have several minima when sigma is large, so the search starts from several
places: E[x | u], u, and the means given u and each class. A thorough search starts also from the means given u and each
component, and from the components' means. The lowest minimum is returned, and how many there were. Where sigma exceeds
the width of the components and the classifier is far too sure, even a thorough search can miss one.

With lambda = 0 this is the DAE: r = E[x | u].
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .checks import InputError, check_count, check_ndim, check_number, check_shape
from .density import Expansion, GaussianMixture

Floats = NDArray[np.float64]

# Numbers in the largest array of a block of points.
BLOCK = 1 << 18
# Halvings of a step before it is given up: rounding, then, is all that is left.
HALVINGS = 30
# Minima closer than this, relative to 1 + their size, are one.
SAME = 1e-6


class Classifier(Protocol):
    """What the minimiser needs to know of the classifier that is being protected.

    Attributes
    ----------
    num_classes : int
        Number K of classes.
    """

    num_classes: int

    def expand(self, x: Any) -> Expansion:
        """Log probabilities of the classes around points, to second order.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.
        """


class Minimum(NamedTuple):
    """Minimisers of the sDAE's objective.

    Attributes
    ----------
    position : ndarray of shape (n, d)
        r*(u), of the lowest minimum.
    residual : ndarray of shape (n,)
        Largest element of r - E[x | u] - lambda sigma^2 sum_y p_s(y | u) grad log yhat_y(r), in magnitude.
    objective : ndarray of shape (n,)
        F there.
    num_minima : ndarray of shape (n,), int64
        Different minima that the starts have led to; 1 where the minimiser seems to be unique, 0 where no start led to
        a minimum.
    posterior_mean : ndarray of shape (n, d)
        E[x | u], the DAE's minimiser.
    """

    position: Floats
    residual: Floats
    objective: Floats
    num_minima: NDArray[np.int64]
    posterior_mean: Floats


def minimise(
    mixture: GaussianMixture,
    classifier: Classifier,
    u: Any,
    sigma: float,
    *,
    ce_weight: float = 1.0,
    label_noise: float = 0.0,
    tolerance: float = 1e-13,
    max_steps: int = 100,
    thorough: bool = False,
) -> Minimum:
    """Find the sDAE's exact minimisers.

    Parameters
    ----------
    mixture : GaussianMixture
        The truth, in float64.
    classifier : Classifier
        yhat: the mixture itself if calibrated, or ``mixture.tempered(beta, bias)``.
    u : array of shape (n, d), float64
        Noisy points.
    sigma : float
        Standard deviation of the noise, > 0.
    ce_weight : float
        Weight lambda of the cross entropy, >= 0.
    label_noise : float
        Probability, in [0, 1], that a training label is replaced by one drawn uniformly from all classes.
    tolerance : float
        Residual, relative to 1 + the largest coordinate, at which a search ends.
    max_steps : int
        Most Newton steps of a search.
    thorough : bool
        Whether to start from 2 m more places.

    Returns
    -------
    Minimum
        On the host. Where a residual is larger than the tolerance, the search has not converged.
    """
    if mixture.dtype != "float64":
        raise InputError(f"mixture: expected dtype float64, got {mixture.dtype}")
    if classifier.num_classes != mixture.num_classes:
        raise InputError(f"classifier: expected {mixture.num_classes} classes, got {classifier.num_classes}")
    check_ndim("u", u, 2, "(n, d)")
    check_shape("u", u, (len(u), mixture.num_dimensions))
    weight = check_number("ce_weight", ce_weight, minimum=0) * check_number("sigma", sigma, above=0) ** 2
    check_number("label_noise", label_noise, minimum=0, maximum=1)
    check_number("tolerance", tolerance, above=0)
    check_count("max_steps", max_steps)
    host, device = mixture.ops.to_host, mixture.ops.asarray
    noisy, centers = host(u), host(mixture.posterior_mean(u, sigma))
    posteriors = np.exp(host(mixture.smoothed(sigma).class_log_posteriors(u)))
    posteriors = (1 - label_noise) * posteriors + label_noise / mixture.num_classes
    starts = [centers, noisy, *(host(part.posterior_mean(u, sigma)) for part in _parts(mixture, mixture.labels))]
    if thorough:
        components = _parts(mixture, np.arange(mixture.num_components))
        starts += [host(part.posterior_mean(u, sigma)) for part in components]
        starts += [np.broadcast_to(mean, noisy.shape) for mean in mixture.means]
    numbers = len(starts) * mixture.num_classes * mixture.num_dimensions**2
    size = max(1, BLOCK // numbers)
    results = []
    for first in range(0, max(1, len(noisy)), size):
        part = slice(first, first + size)
        problem = _Problem(classifier, device, host, centers[part], posteriors[part], weight)
        found = [_descend(problem, start[part].copy(), tolerance, max_steps) for start in starts]
        results.append(_lowest(found, problem, tolerance))
    position, residual, objective, num_minima = (np.concatenate(arrays) for arrays in zip(*results, strict=True))
    return Minimum(position, residual, objective, num_minima, centers)


class _Problem:
    """F and its derivatives at a block of points."""

    def __init__(
        self, classifier: Classifier, device: Any, host: Any, center: Floats, posterior: Floats, weight: float
    ) -> None:
        self.classifier, self.device, self.host = classifier, device, host
        self.center, self.posterior, self.weight = center, posterior, weight

    def at(self, r: Floats, rows: Any = slice(None)) -> tuple[Floats, Floats, Floats]:
        """F (n,), its gradient (n, d) and its Hessian (n, d, d)."""
        values, gradients, hessians = map(self.host, self.classifier.expand(self.device(r)))
        posterior, apart = self.posterior[rows], r - self.center[rows]
        # Where a class is impossible, its cross entropy does not count, however large.
        entropy = -np.where(posterior > 0, posterior * values, 0).sum(axis=1)
        objective = 0.5 * np.square(apart).sum(axis=1) + self.weight * entropy
        gradient = apart - self.weight * np.einsum("nk,nkd->nd", posterior, gradients)
        hessian = np.eye(r.shape[1]) - self.weight * np.einsum("nk,nkij->nij", posterior, hessians)
        return objective, gradient, hessian


def _parts(mixture: GaussianMixture, labels: NDArray[np.int64]) -> list[GaussianMixture]:
    """The densities of the components that carry each label."""
    parts = []
    for y in range(labels.max() + 1):
        members = labels == y
        weights = mixture.weights[members] / mixture.weights[members].sum()
        parts.append(GaussianMixture(weights, mixture.means[members], mixture.covariances[members], ops=mixture.ops))
    return parts


def _small(gradient: Floats, r: Floats, tolerance: float) -> NDArray[np.bool_]:
    largest = np.abs(gradient).max(axis=1, initial=0)
    return np.asarray(largest <= tolerance * (1 + np.abs(r).max(axis=1, initial=0)))


def _descend(problem: _Problem, r: Floats, tolerance: float, max_steps: int) -> Floats:
    """Newton's method with line search from a start; points that are done rest."""
    objective, gradient, hessian = problem.at(r)
    active = np.flatnonzero(~_small(gradient, r, tolerance))
    objective, gradient, hessian = objective[active], gradient[active], hessian[active]
    for _ in range(max_steps):
        if not len(active):
            break
        step = -np.linalg.solve(_definite(hessian), gradient[:, :, None])[:, :, 0]
        slope = (gradient * step).sum(axis=1)
        size = np.ones(len(active))
        trial = problem.at(r[active] + step, active)
        for _ in range(HALVINGS):
            # Near the minimum F is flat to rounding; there a smaller gradient is the better sign.
            falls = trial[0] <= objective + 1e-4 * size * slope
            falls |= np.abs(trial[1]).max(axis=1) < 0.5 * np.abs(gradient).max(axis=1)
            short = np.flatnonzero(~falls)
            if not len(short):
                break
            size[short] *= 0.5
            again = problem.at(r[active[short]] + size[short, None] * step[short], active[short])
            for whole, new in zip(trial, again, strict=True):
                whole[short] = new
        improves = falls | (np.abs(trial[1]).max(axis=1) < np.abs(gradient).max(axis=1))
        r[active[improves]] += size[improves, None] * step[improves]
        going = improves & ~_small(trial[1], r[active], tolerance)
        active = active[going]
        objective, gradient, hessian = (values[going] for values in trial)
    return r


def _definite(hessian: Floats) -> Floats:
    """The Hessians, shifted where they are not positive definite so that the smallest eigenvalue is positive."""
    lowest = np.linalg.eigvalsh(hessian)[:, 0]
    shift = np.where(lowest > 1e-3, 0, 1e-1 - lowest)
    return np.asarray(hessian + shift[:, None, None] * np.eye(hessian.shape[1]))


def _lowest(found: list[Floats], problem: _Problem, tolerance: float) -> tuple[Any, ...]:
    """The lowest of the minima that were found, its residual and F, and the number of different minima."""
    values = [problem.at(r) for r in found]
    objective = np.stack([value[0] for value in values])
    residual = np.stack([np.abs(value[1]).max(axis=1, initial=0) for value in values])
    # A search that stopped short at rounding has found its minimum all the same.
    is_minimum = np.stack([_small(value[1], r, 1e3 * tolerance) for r, value in zip(found, values, strict=True)])
    is_minimum &= np.stack([np.linalg.eigvalsh(value[2])[:, 0] > 0 for value in values])
    new = []
    for i, r in enumerate(found):
        seen = np.zeros(len(r), dtype=bool)
        for j in range(i):
            near = np.abs(r - found[j]).max(axis=1, initial=0) <= SAME * (1 + np.abs(r).max(axis=1, initial=0))
            seen |= is_minimum[j] & near
        new.append(is_minimum[i] & ~seen)
    # The lowest F; among those that differ by rounding only, the smallest residual.
    allowed = np.where(is_minimum | ~is_minimum.any(axis=0), objective, np.inf)
    lowest = allowed.min(axis=0)
    tied = allowed <= lowest + 1e-13 * (1 + np.abs(lowest))
    best = np.where(tied, residual, np.inf).argmin(axis=0)
    rows = np.arange(len(best))
    return np.stack(found)[best, rows], residual[best, rows], objective[best, rows], np.sum(new, axis=0)
