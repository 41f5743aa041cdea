r"""A Langevin chain's transition kernel on a grid: what the chain does in the long run, without running it.

The chain without an accept step moves mass from x to y with density N(y; m(x), delta^2 I), m(x) = x + alpha s(x). On a
grid of spacing h in a box that holds all mass, one step is

    pi'(y) = h^d sum_x pi(x) prod_i N(y_i; m_i(x), delta^2),

a sum that converges faster than any power of h once h < delta, because the summand is smooth and vanishes at the ends.
The chain's stationary density is the eigenvector of the largest eigenvalue, which is 1.

Axes: N = k^d grid points in d = 1 or 2 dimensions, k along each axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigs

from malade_ref.checks import InputError

Floats = NDArray[np.float64]


class Grid(NamedTuple):
    """A box of cells.

    Attributes
    ----------
    axes : list of ndarrays of shape (k,)
        Middles of the cells along each axis, all axes of one spacing.
    spacing : float
        h.
    """

    axes: list[Floats]
    spacing: float

    @property
    def points(self) -> Floats:
        """Middles of all cells, (N, d), the last axis fastest."""
        return np.stack([axis.ravel() for axis in np.meshgrid(*self.axes, indexing="ij")], axis=1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def cell(self) -> float:
        """Volume of a cell."""
        return self.spacing ** len(self.axes)

    def edges(self, axis: int) -> Floats:
        """Ends of the cells along an axis, (k + 1,)."""
        middles = self.axes[axis]
        return np.append(middles - self.spacing / 2, middles[-1] + self.spacing / 2)


def box(low: NDArray[Any], high: NDArray[Any], spacing: float) -> Grid:
    """Make a grid.

    Parameters
    ----------
    low : ndarray of shape (d,)
        A corner of the box.
    high : ndarray of shape (d,)
        The corner across.
    spacing : float
        Of the grid.

    Returns
    -------
    Grid
        Cells whose middles begin at ``low`` and reach ``high``.
    """
    if len(low) not in (1, 2):
        raise InputError(f"low: expected one or two dimensions for a grid, got {len(low)}")
    counts = [int(np.ceil(width / spacing)) + 1 for width in high - low]
    axes = [first + spacing * np.arange(count) for first, count in zip(low, counts, strict=True)]
    return Grid(axes, spacing)


def masses(grid: Grid, log_density: Callable[[Floats], NDArray[Any]]) -> Floats:
    """Masses of the cells under a density.

    Parameters
    ----------
    grid : Grid
        The cells.
    log_density : callable
        From points (N, d) to logarithms of a density (N,), normalised or not.

    Returns
    -------
    ndarray of shape (N,)
        They add up to 1.
    """
    logs = np.asarray(log_density(grid.points), dtype=np.float64)
    mass = np.exp(logs - logs.max())
    return np.asarray(mass / mass.sum())


def stationary(grid: Grid, step: Callable[[Floats], NDArray[Any]], delta: float, start: Floats) -> Floats:
    """Stationary masses of a chain without an accept step.

    Parameters
    ----------
    grid : Grid
        The cells, of spacing < delta.
    step : callable
        m, from points (N, d) to where the chain goes before noise is added (N, d).
    delta : float
        Standard deviation of the noise.
    start : ndarray of shape (N,)
        A first guess, such as the masses of the density itself.

    Returns
    -------
    ndarray of shape (N,)
        They add up to 1; one more step changes them by less than 1e-10 in sum.

    Raises
    ------
    InputError
        If the grid is too coarse, or the chain leaves the box.
    """
    if grid.spacing > delta:
        raise InputError(f"grid: expected a spacing below delta = {delta:g}, got {grid.spacing:g}; choose a finer one")
    goes = np.asarray(step(grid.points), dtype=np.float64)
    factors = [
        np.exp(-0.5 * ((axis - goes[:, i : i + 1]) / delta) ** 2) * (grid.spacing / (delta * (2 * np.pi) ** 0.5))
        for i, axis in enumerate(grid.axes)
    ]

    def advance(mass: Floats) -> Floats:
        flat = mass.ravel()
        if len(factors) == 1:
            return np.asarray(flat @ factors[0])
        return np.asarray(factors[0].T @ (flat[:, None] * factors[1])).ravel()

    size = len(start)
    operator = LinearOperator((size, size), matvec=advance, dtype=np.float64)
    _, vectors = eigs(operator, k=1, which="LM", v0=start, tol=1e-13, maxiter=10_000)
    mass = np.abs(vectors[:, 0].real)
    mass /= mass.sum()
    change = float(np.abs(advance(mass) - mass).sum())
    if change > 1e-10:
        raise InputError(f"grid: a step changes the stationary masses by {change:.1e}; the box is too small")
    return np.asarray(mass)


def divergence(p: Floats, q: Floats) -> float:
    """Kullback-Leibler divergence of two sets of masses.

    Parameters
    ----------
    p : ndarray of shape (N,)
        Masses, which add up to 1.
    q : ndarray of shape (N,)
        Masses, positive wherever p is.

    Returns
    -------
    float
        KL(p || q) in nats. Summed as p log(p/q) - p + q, whose terms are all positive, so that rounding cannot hide a
        small divergence.
    """
    some = (p > 0) & (q > 0)
    ratio = p[some] / q[some]
    return float(np.sum(q[some] * (ratio * np.log(ratio) - ratio + 1)))
