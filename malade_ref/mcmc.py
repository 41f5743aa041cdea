r"""Langevin chains on a density: ULA, and MALA with its Metropolis test.

    y = x_t + alpha grad log p(x_t) + delta z_t,    z_t ~ N(0, I),
    ULA:   x_{t+1} = y,
    MALA:  x_{t+1} = y with probability min(1, p(y) q(x_t | y) / (p(x_t) q(y | x_t))), else x_t,

with q(y | x) the density of the proposal. MALA leaves p as it is for any alpha and delta. ULA does so only for small
alpha and delta^2 = 2 alpha; on N(0, 1) its stationary variance is (delta^2 / 2 alpha) / (1 - alpha / 2).

A density is an object with ``score`` (MALA: also ``log_density``) and ``ops``. `init` and `step` are the algorithm,
`walk` repeats the step. Many walkers move side by side, each with its own noise, which is addressed by
(seed, draw, step, walker): a walker goes the same way in any company, but for rounding.

References
----------
.. [1] Roberts and Tweedie, "Exponential convergence of Langevin distributions", Bernoulli 2(4), 1996.
.. [2] Roberts and Rosenthal, "Optimal scaling of discrete approximations to Langevin diffusions", JRSS B 60, 1998.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from .arrays import Array
from .checks import InputError, check_count, check_number
from .density import GaussianMixture
from .sampling import Info, State, Stream
from .showing import shortly


class Density(Protocol):
    """What a chain needs to know of a density.

    Attributes
    ----------
    ops : module
        The backend.
    """

    ops: ModuleType

    def score(self, x: Array) -> Array:
        """Gradient of the log density.

        Parameters
        ----------
        x : array of shape (n, ...)
            Points.

        Returns
        -------
        array of x's shape
            grad log p(x).
        """


class Langevin(NamedTuple):
    """Settings of a chain.

    Attributes
    ----------
    alpha : float
        Step on the score, > 0.
    delta : float
        Standard deviation of the noise; >= 0, and > 0 with a Metropolis test.
    metropolis : bool
        Whether moves have to pass the Metropolis test.
    """

    alpha: float
    delta: float
    metropolis: bool = False


class Keys(NamedTuple):
    """Whose random numbers.

    Attributes
    ----------
    noise : tuple of two int
        Key of the normal numbers of the proposals.
    accept : tuple of two int
        Key of the uniform numbers of the Metropolis test.
    """

    noise: tuple[int, int]
    accept: tuple[int, int]


@shortly
class Walk(NamedTuple):
    """What came of many steps.

    Attributes
    ----------
    position : array of shape (n, ...)
        Where the walkers are.
    num_accepted : array of shape (n,), int64
        Moves that each has made.
    kept : array of shape (k, n, ...), or None
        Positions after every ``keep_every`` steps.
    """

    position: Array
    num_accepted: Array
    kept: Array | None


def ula(alpha: float, *, temperature: float = 1.0) -> Langevin:
    """Settings of the unadjusted chain.

    Parameters
    ----------
    alpha : float
        Step on the score, > 0.
    temperature : float
        T = delta^2 / (2 alpha) >= 0; 1 aims at the density itself, 0 climbs to a mode.

    Returns
    -------
    Langevin
        The settings, delta = sqrt(2 alpha T).
    """
    step = check_number("alpha", alpha, above=0)
    return Langevin(step, math.sqrt(2 * step * check_number("temperature", temperature, minimum=0)))


def mala(alpha: float) -> Langevin:
    """Settings of the chain with the Metropolis test, delta = sqrt(2 alpha); as `ula` at temperature 1."""
    return ula(alpha)._replace(metropolis=True)


def keys_of(ops: ModuleType, seed: int | Stream, draw: int = 0) -> Keys:
    """Keys of a chain's random numbers.

    Parameters
    ----------
    ops : module
        The backend.
    seed : int or Stream
        Of the numbers; with a name of its own, a `Stream`.
    draw : int
        Which repetition.

    Returns
    -------
    Keys
        For `step`.
    """
    seed, name = (seed, "chain") if isinstance(seed, int) else seed
    return Keys(ops.derive_key(seed, name, draw), ops.derive_key(seed, f"{name}: accept", draw))


def init(position: Array, density: Any, settings: Langevin) -> State:
    """Start a chain.

    Parameters
    ----------
    position : array of shape (n, ...)
        Points.
    density : Density
        p.
    settings : Langevin
        Of the chain.

    Returns
    -------
    State
        At step 0.
    """
    check_number("alpha", settings.alpha, above=0)
    check_number("delta", settings.delta, **({"above": 0} if settings.metropolis else {"minimum": 0}))
    if settings.metropolis and not hasattr(density, "log_density"):
        raise InputError("density: the Metropolis test needs a log_density, which a score alone does not give; use ULA")
    log_density, score = _evaluate(density, settings, position)
    return State(position, 0, score, log_density)


def step(state: State, density: Any, settings: Langevin, *, keys: Keys, sample_index: Array) -> tuple[State, Info]:
    """One step of ULA or MALA.

    Parameters
    ----------
    state : State
        Where the walkers are.
    keys : Keys
        Of the random numbers.
    sample_index : array of shape (n,), integer
        Numbers of the walkers.

    Returns
    -------
    State, Info
        Where the walkers are now, and what the step did.

    Notes
    -----
    The others are those of `init`.
    """
    ops, x = density.ops, state.position
    address = {"sample_index": sample_index, "step": state.step, "dtype": str(x.dtype)}
    noise = ops.normal(x.shape[1:], key=keys.noise, **address)
    proposal = ops.langevin_step(x, state.score, noise, a=settings.alpha, delta=settings.delta)
    log_density, score = _evaluate(density, settings, proposal)
    if not settings.metropolis:
        return State(proposal, state.step + 1, score), Info(noise, proposal=proposal)
    ratio = ops.langevin_log_ratio(
        *(x, proposal, state.score, score, state.log_density, log_density), alpha=settings.alpha, delta=settings.delta
    )
    accepted = ops.metropolis_accept(ratio, ops.uniform((), key=keys.accept, **address))
    moved = State(
        ops.select(accepted, proposal, x),
        state.step + 1,
        ops.select(accepted, score, state.score),
        ops.select(accepted, log_density, state.log_density),
    )
    return moved, Info(noise, None, proposal, ratio, accepted)


def walk(
    x: Array,
    density: Any,
    settings: Langevin,
    *,
    num_steps: int,
    seed: int | Stream,
    draw: int = 0,
    sample_index: Array | None = None,
    first_step: int = 0,
    keep_every: int | None = None,
) -> Walk:
    """Many steps of ULA or MALA.

    Parameters
    ----------
    x : array of shape (n, ...)
        Where the walkers start; for a mixture (n, d), of its dtype.
    density : Density
        p. The steps on a `GaussianMixture` are one op (`ops.mixture_chain`).
    settings : Langevin
        Of the chain, see `ula` and `mala`.
    num_steps : int
        Number of steps, >= 0.
    seed : int or Stream
        Of the random numbers, as for `keys_of`.
    draw : int
        Which repetition.
    sample_index : array of shape (n,), integer, optional
        Numbers of the walkers; 0..n-1 by default.
    first_step : int
        Number of the first step: a walk in pieces is the walk in one.
    keep_every : int, optional
        Keep the positions after every so many steps, which must divide ``num_steps``; none are kept by default.
    """
    ops = density.ops
    check_count("num_steps", num_steps, minimum=0)
    piece = num_steps if keep_every is None else check_count("keep_every", keep_every)
    if piece and num_steps % piece:
        raise InputError(f"keep_every: expected a divisor of num_steps = {num_steps}, got {piece}")
    index = ops.arange(len(x)) if sample_index is None else sample_index
    ops.check_sample_index("sample_index", index, len(x))
    keys = keys_of(ops, seed, draw)
    run = _pieces_on_mixture if isinstance(density, GaussianMixture) else _pieces
    num_accepted, kept = 0 * ops.arange(len(x)), []
    for position, moves in run(x, density, settings, keys, index, range(first_step, first_step + num_steps), piece):
        x, num_accepted = position, num_accepted + moves
        kept.append(position)
    if keep_every is None:
        return Walk(x, num_accepted, None)
    return Walk(x, num_accepted, ops.stack(kept) if kept else ops.empty((0, *x.shape), str(x.dtype)))


def _pieces(x: Array, density: Any, settings: Langevin, keys: Keys, index: Array, steps: range, piece: int) -> Any:
    """Positions and numbers of moves after each piece of a walk."""
    state = init(x, density, settings)._replace(step=steps.start)
    moves = 0 * index
    for number, _ in enumerate(steps, start=1):
        state, info = step(state, density, settings, keys=keys, sample_index=index)
        moves = moves + (1 if info.accepted is None else info.accepted)
        if number % piece == 0:
            yield state.position, moves
            moves = 0 * index


def _pieces_on_mixture(
    x: Array, mixture: GaussianMixture, settings: Langevin, keys: Keys, index: Array, steps: range, piece: int
) -> Any:
    """The same on a mixture, each piece in one op."""
    for first in steps[:: max(1, piece)]:
        x, moves = mixture.ops.mixture_chain(
            x,
            *mixture.arrays,
            num_steps=piece,
            alpha=settings.alpha,
            delta=settings.delta,
            key=keys.noise,
            accept_key=keys.accept if settings.metropolis else None,
            sample_index=index,
            first_step=first,
        )
        yield x, moves


def _evaluate(density: Any, settings: Langevin, x: Array) -> tuple[Array | None, Array]:
    """Log density, if there is a test, and score."""
    if not settings.metropolis:
        return None, density.score(x)
    if hasattr(density, "log_density_and_score"):
        log_density, score = density.log_density_and_score(x)
        return log_density, score
    return density.log_density(x), density.score(x)
