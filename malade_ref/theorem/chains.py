"""Chains for the laboratory, and mixtures whose points are NumPy arrays on every backend."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malade_ref.density import GaussianMixture
from malade_ref.mcmc import Langevin
from malade_ref.mcmc import walk as walk_on_backend
from malade_ref.sampling import Stream
from malade_ref.theorem.claims import Settings

Floats = NDArray[np.float64]
Function = Callable[[Floats], NDArray[Any]]


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


class Field:
    """A vector field to follow without an accept step.

    Parameters
    ----------
    score : callable
        From points (n, d) to vectors (n, d), NumPy arrays.
    ops : module
        The backend of the chain.
    """

    def __init__(self, score: Function, ops: ModuleType) -> None:
        self._score, self.ops = score, ops

    def score(self, x: Any) -> Any:
        """Vectors at points, on the backend."""
        return self.ops.asarray(np.asarray(self._score(self.ops.to_host(x)), dtype=np.float64))


class Density(Field):
    """A density, up to a constant factor.

    Parameters
    ----------
    log_density : callable
        From points (n, d) to numbers (n,), NumPy arrays.
    score : callable
        From points (n, d) to its gradients (n, d).
    ops : module
        The backend of the chain.
    """

    def __init__(self, log_density: Function, score: Function, ops: ModuleType) -> None:
        super().__init__(score, ops)
        self._log_density = log_density

    def log_density(self, x: Any) -> Any:
        """Log densities of points, on the backend."""
        return self.ops.asarray(np.asarray(self._log_density(self.ops.to_host(x)), dtype=np.float64))


class Walked(NamedTuple):
    """Where walkers were.

    Attributes
    ----------
    positions : ndarray of shape (k, n, d)
        After every so many steps.
    acceptance : float
        Share of the moves that were made.
    """

    positions: Floats
    acceptance: float


def walk(
    density: Any,
    start: Floats,
    chain: Langevin,
    *,
    num_steps: int,
    settings: Settings,
    name: str,
    keep_every: int = 1,
    burn_in: int = 0,
) -> Walked:
    """Let walkers go.

    Parameters
    ----------
    density : GaussianMixture, Density or Field
        What they follow.
    start : ndarray of shape (n, d)
        Where they start.
    chain : Langevin
        Step, noise and whether there is an accept step.
    num_steps : int
        Number of steps after the burn-in, a multiple of ``keep_every``.
    settings : Settings
        Seed and backend.
    name : str
        Of the noise: walkers under one name meet the same noise, whatever they follow.
    keep_every : int
        Steps between two positions that are kept.
    burn_in : int
        Steps before.
    """
    ops, stream = settings.ops, Stream(settings.seed, f"theorem/{name}")
    at = ops.asarray(start)
    if burn_in:
        at = walk_on_backend(at, density, chain, num_steps=burn_in, seed=stream).position
    found = walk_on_backend(
        at, density, chain, num_steps=num_steps, seed=stream, first_step=burn_in, keep_every=keep_every
    )
    return Walked(ops.to_host(found.kept), float(ops.to_host(found.num_accepted).mean()) / num_steps)
