"""The mixtures on which claims are tried: random ones in 1 to 50 dimensions, and a few with a shape of their own.

Each class has two components with full covariances. Covariances share a random matrix and differ in one direction each,
so that classes overlap in 50 dimensions as they do in 2: entirely different matrices would tell them apart at a glance.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malade_ref.density import GaussianMixture
from malade_ref.theorem.claims import Settings

PER_CLASS = 2
OVERLAPPING, SEPARATED = 1.0, 3.0


class World(NamedTuple):
    """What a random mixture is like.

    Attributes
    ----------
    dimensions, classes : int
        d and K.
    separation : float
        Half the typical distance of two means; standard deviations along a direction are 0.5 to 1.2.
    """

    dimensions: int
    classes: int
    separation: float

    @property
    def label(self) -> str:
        """Name for tables."""
        kind = "overlapping" if self.separation <= OVERLAPPING else "separated"
        return f"{self.dimensions}-D, {self.classes} classes, {kind}"


WORLDS = (
    World(1, 2, OVERLAPPING),
    World(1, 3, SEPARATED),
    World(2, 3, OVERLAPPING),
    World(2, 3, SEPARATED),
    World(10, 4, OVERLAPPING),
    World(10, 4, SEPARATED),
    World(50, 3, OVERLAPPING),
    World(50, 3, SEPARATED),
)


def random_mixture(world: World, settings: Settings, number: int) -> GaussianMixture:
    """Draw a mixture.

    Parameters
    ----------
    world : World
        What it is like.
    settings : Settings
        Seed and backend.
    number : int
        Which one.

    Returns
    -------
    GaussianMixture
        Unequal priors, two components a class.
    """
    rng = settings.rng("world", *map(str, world), number)
    d, m = world.dimensions, PER_CLASS * world.classes
    weights = rng.dirichlet(np.full(m, 5.0))
    means = world.separation * (2 / d) ** 0.5 * rng.normal(size=(m, d))
    shared = rng.normal(size=(d, d)) / d**0.5
    directions = rng.normal(size=(m, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    own = rng.uniform(0, 0.5, size=m)[:, None, None] * directions[:, :, None] * directions[:, None, :]
    covariances = 0.25 * np.eye(d) + 0.25 * shared @ shared.T + own
    return GaussianMixture(
        weights, means, covariances, np.repeat(np.arange(world.classes), PER_CLASS), ops=settings.ops
    )


def isotropic(weights: Any, means: Any, deviations: Any, labels: Any = None, *, settings: Settings) -> GaussianMixture:
    """Make a mixture of round Gaussians.

    Parameters
    ----------
    weights, means, labels
        As `GaussianMixture` takes them.
    deviations : array_like of shape (m,)
        Standard deviations.
    settings : Settings
        The backend.

    Returns
    -------
    GaussianMixture
        With covariances ``deviations**2`` times the unit matrix.
    """
    means = np.asarray(means, dtype=np.float64)
    variances = np.asarray(deviations, dtype=np.float64) ** 2
    covariances = variances[:, None, None] * np.eye(means.shape[1])
    return GaussianMixture(weights, means, covariances, labels, ops=settings.ops)


def standard_normal(dimensions: int, settings: Settings) -> GaussianMixture:
    """Make N(0, I).

    Parameters
    ----------
    dimensions : int
        d.
    settings : Settings
        The backend.

    Returns
    -------
    GaussianMixture
        Of one component.
    """
    return isotropic([1.0], np.zeros((1, dimensions)), [1.0], settings=settings)


def line(settings: Settings) -> GaussianMixture:
    """Make two overlapping, unequal classes in one dimension.

    Parameters
    ----------
    settings : Settings
        The backend.

    Returns
    -------
    GaussianMixture
        Three components.
    """
    return isotropic([0.5, 0.2, 0.3], [[-1.2], [0.6], [1.8]], [0.6, 0.5, 0.8], [0, 1, 1], settings=settings)


def three_islands(settings: Settings) -> GaussianMixture:
    """Make three classes in the plane, one of them of two parts: the world of the figures.

    Parameters
    ----------
    settings : Settings
        The backend.

    Returns
    -------
    GaussianMixture
        Four components; neighbouring classes touch, but have basins of their own.
    """
    means = [[-1.6, -0.7], [1.5, -1.0], [-0.3, 1.7], [1.9, 1.5]]
    covariances = [
        [[0.50, 0.20], [0.20, 0.35]],
        [[0.35, -0.15], [-0.15, 0.45]],
        [[0.40, 0.00], [0.00, 0.25]],
        [[0.25, 0.05], [0.05, 0.30]],
    ]
    return GaussianMixture([0.35, 0.3, 0.2, 0.15], means, covariances, [0, 1, 2, 1], ops=settings.ops)


def rms(values: NDArray[Any]) -> float:
    """Root mean square length of vectors, for each dimension.

    Parameters
    ----------
    values : ndarray of shape (n, d)
        Vectors.

    Returns
    -------
    float
        sqrt(E |v|^2 / d).
    """
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
