"""Chains for the laboratory, and mixtures whose points are NumPy arrays on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malade_ref.density import GaussianMixture
from malade_ref.theorem.claims import Settings

Floats = NDArray[np.float64]
Score = Callable[[Floats], NDArray[Any]]


class Host:
    """A mixture whose methods take and give NumPy arrays, whatever its backend.

    Parameters
    ----------
    mixture : GaussianMixture
        The mixture, or another object of its backend's arrays.
    """

    def __init__(self, mixture: Any) -> None:
        self.mixture = mixture

    def __getattr__(self, name: str) -> Any:
        """Look up an attribute of the mixture; a method comes back wrapped."""
        attribute = getattr(self.mixture, name)
        if not callable(attribute):
            return attribute
        ops = self.mixture.ops

        def method(*arguments: Any, **options: Any) -> Any:
            device = [ops.asarray(value) if isinstance(value, np.ndarray) else value for value in arguments]
            return _to_host(attribute(*device, **options), ops)

        return method


def _to_host(value: Any, ops: Any) -> Any:
    if isinstance(value, tuple):
        parts = [_to_host(part, ops) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, GaussianMixture):
        return Host(value)
    return ops.to_host(value) if hasattr(value, "dtype") and hasattr(value, "ndim") else value


class Walk(NamedTuple):
    """Where walkers are after some steps.

    Attributes
    ----------
    positions : ndarray of shape (records, n, d)
        Every so many steps; the last is where they are.
    acceptance : ndarray of shape (n,)
        Share of the moves that each has made.
    """

    positions: Floats
    acceptance: Floats


def walk(
    mixture: GaussianMixture,
    start: Floats,
    *,
    alpha: float,
    settings: Settings,
    name: str,
    every: int,
    records: int,
    burn_in: int = 0,
    delta: float | None = None,
    metropolis: bool = False,
) -> Walk:
    """Follow a mixture's score.

    Parameters
    ----------
    mixture : GaussianMixture
        The target.
    start : ndarray of shape (n, d)
        Where the walkers start.
    alpha : float
        Step on the score.
    settings : Settings
        Seed and backend.
    name : str
        Of the noise.
    every : int
        Steps between two records.
    records : int
        How many.
    burn_in : int
        Steps before the first of those steps.
    delta : float, optional
        Standard deviation of the noise; sqrt(2 alpha) by default.
    metropolis : bool
        Whether there is an accept step (MALA).

    Returns
    -------
    Walk
        Records and acceptance.
    """
    ops = settings.ops
    options: dict[str, Any] = {
        "alpha": alpha,
        "delta": (2 * alpha) ** 0.5 if delta is None else delta,
        "key": ops.derive_key(settings.seed, f"theorem/{name}"),
        "accept_key": ops.derive_key(settings.seed, f"theorem/{name}: accept") if metropolis else None,
        "sample_index": ops.arange(len(start)),
    }
    position, accepted = ops.asarray(start), np.zeros(len(start))
    if burn_in:
        position, _ = ops.mixture_chain(position, *mixture.arrays, num_steps=burn_in, **options)
    positions = np.empty((records, *start.shape))
    for record in range(records):
        position, made = ops.mixture_chain(
            position, *mixture.arrays, num_steps=every, first_step=burn_in + record * every, **options
        )
        positions[record] = ops.to_host(position)
        accepted += ops.to_host(made)
    return Walk(positions, accepted / (every * records))


def follow(
    score: Score,
    start: Floats,
    *,
    alpha: float,
    delta: float,
    num_steps: int,
    settings: Settings,
    name: str,
    limit: float = np.inf,
) -> Floats:
    """Follow any vector field, without an accept step.

    Parameters
    ----------
    score : callable
        From points (n, d) to vectors (n, d).
    start : ndarray of shape (n, d)
        Where the walkers start.
    alpha : float
        Step on the score.
    delta : float
        Standard deviation of the noise.
    num_steps : int
        Number of steps.
    settings : Settings
        Seed and backend.
    name : str
        Of the noise: fields that are followed under one name meet the same noise.
    limit : float
        Walkers whose norm exceeds this stay where they are from then on.

    Returns
    -------
    ndarray of shape (num_steps + 1, n, d)
        All positions.
    """
    ops = settings.ops
    key = ops.derive_key(settings.seed, f"theorem/{name}")
    positions = np.empty((num_steps + 1, *start.shape))
    positions[0] = start
    index = ops.arange(len(start))
    for step in range(num_steps):
        at = positions[step]
        noise = ops.normal(start.shape[1:], key=key, sample_index=index, step=step, dtype="float64")
        field = np.asarray(score(at), dtype=np.float64)
        moved = ops.to_host(ops.langevin_step(ops.asarray(at), ops.asarray(field), noise, a=alpha, delta=delta))
        inside = np.linalg.norm(at, axis=1, keepdims=True) <= limit
        positions[step + 1] = np.where(inside, moved, at)
    return positions
