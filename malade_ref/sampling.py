r"""Chains driven by a denoiser: unadjusted Langevin dynamics on images.

    x_{t+1} = clip(x_t + a (r(x_t) - x_t) + delta z_t),    t = 0..N-1,

with r the denoiser and z_t standard normal noise addressed by (stream, draw, step, sample): the chain of a sample is
the same in any batch, and can be replayed without having stored its noise.

`init` and `step` are the algorithm; `run_chain` repeats the step, `run_chain_vjp` carries a gradient back through it.
`last_position` and `last_position_with_vjp` give the end of the chain alone; a backend that has one kernel for a whole
chain uses it there.

References
----------
.. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", eq. (6), (10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .arrays import Array
from .network import Network
from .showing import shortly

Key = tuple[int, int] | Array


class Stream(NamedTuple):
    """A source of noise: a seed and a name. Defender and attacker have different names, and so different noise.

    Attributes
    ----------
    seed : int
        In [0, 2^64).
    name : str
        For example ``"defence"``.
    """

    seed: int
    name: str


class ChainSettings(NamedTuple):
    """Settings of the purification chain.

    Attributes
    ----------
    num_steps : int
        Number N of steps, >= 0.
    a : float
        Step on the residual, alpha / sigma^2, > 0.
    delta : float
        Standard deviation of the injected noise, in pixel units, >= 0.
    clip : bool
        Whether positions are clipped to [0, 1] after every step.
    """

    num_steps: int
    a: float
    delta: float
    clip: bool = True


@shortly
class State(NamedTuple):
    """The state of a batch of chains: of images here, of points in `malade_ref.mcmc`.

    Attributes
    ----------
    position : array of shape (n, ...)
        Images or points.
    step : int
        Steps done.
    score, log_density : arrays of shapes (n, ...) and (n,), or None
        For a chain on a density only: grad log p at the position and, for MALA, log p.
    """

    position: Array
    step: int
    score: Array | None = None
    log_density: Array | None = None


@shortly
class Info(NamedTuple):
    """What a step drew and computed.

    Attributes
    ----------
    noise : array of shape (n, ...)
        Standard normal draws.
    residual : array of shape (n, c, h, w), or None
        For a chain driven by a denoiser: r(x) - x at the step's start, in pixel units.
    proposal : array of shape (n, ...), or None
        For a chain on a density: the proposed position.
    log_ratio, accepted : arrays of shape (n,), float and bool, or None
        For MALA: logarithm of the acceptance ratio, and whether the proposal was accepted.
    """

    noise: Array
    residual: Array | None = None
    proposal: Array | None = None
    log_ratio: Array | None = None
    accepted: Array | None = None


def init(position: Array) -> State:
    """Start a chain.

    Parameters
    ----------
    position : array of shape (n, c, h, w)
        Images.

    Returns
    -------
    State
        At step 0.
    """
    return State(position, 0)


def step(
    state: State, denoiser: Network, settings: ChainSettings, *, key: Key, sample_index: Array
) -> tuple[State, Info]:
    """One Langevin step.

    Parameters
    ----------
    state : State
        Before the step.
    denoiser : Network
        r, from images to images of the same shape.
    settings : ChainSettings
        a, delta, clip.
    key : tuple of two int, or array of shape (n, 2)
        Key of the noise, from ``ops.derive_key``; or one for each sample, from ``ops.keys_of_samples``.
    sample_index : array of shape (n,), integer
        Numbers of the samples in their data set.

    Returns
    -------
    State, Info
        After the step, and what it drew and computed.
    """
    ops, x = denoiser.ops, state.position
    reconstruction, _ = denoiser.forward(x)
    residual = reconstruction - x
    noise = ops.normal(x.shape[1:], key=key, sample_index=sample_index, step=state.step, dtype=denoiser.dtype)
    moved = ops.langevin_step(x, residual, noise, a=settings.a, delta=settings.delta, clip=settings.clip)
    return State(moved, state.step + 1), Info(noise, residual)


def run_chain(x: Array, denoiser: Network, settings: ChainSettings, *, key: Key, sample_index: Array) -> list[Array]:
    """All positions of a chain, for a batch that fits into memory at once.

    Parameters
    ----------
    x : array of shape (n, c, h, w)
        Where it starts.

    Returns
    -------
    list of arrays of shape (n, c, h, w)
        num_steps + 1 positions, x first.

    Notes
    -----
    The others are those of `step`.
    """
    state = init(x)
    positions = [x]
    for _ in range(settings.num_steps):
        state, _ = step(state, denoiser, settings, key=key, sample_index=sample_index)
        positions.append(state.position)
    return positions


def run_chain_vjp(
    dy: Array,
    positions: list[Array],
    denoiser: Network,
    settings: ChainSettings,
    *,
    key: Key,
    sample_index: Array,
    dpositions: Sequence[Array] | None = None,
) -> Array:
    """Gradient with respect to the start of a chain, exact: through every step.

    Only the positions are kept from the forward run; the denoiser's activations are recomputed and the noise is
    replayed, one step at a time.

    Parameters
    ----------
    dy : array of shape (n, c, h, w)
        Gradient with respect to the last position.
    positions : list of arrays
        From `run_chain`.
    dpositions : sequence of num_steps arrays of shape (n, c, h, w), optional
        Direct gradients with respect to the positions before the last one, of a loss that looks at these too.

    Returns
    -------
    array of shape (n, c, h, w)
        Gradient with respect to the first position.

    Notes
    -----
    The others are those of `step`, as given to `run_chain`.
    """
    ops = denoiser.ops
    settings_of_step = {"a": settings.a, "delta": settings.delta, "clip": settings.clip}
    for number in reversed(range(settings.num_steps)):
        x = positions[number]
        reconstruction, tape = denoiser.forward(x)
        noise = ops.normal(x.shape[1:], key=key, sample_index=sample_index, step=number, dtype=denoiser.dtype)
        dx, dresidual = ops.langevin_step_vjp(dy, x, reconstruction - x, noise, **settings_of_step)
        through_denoiser, _ = denoiser.backward(tape, dresidual)
        dy = dx - dresidual + through_denoiser
        if dpositions is not None:
            dy = dy + dpositions[number]
    return dy


def last_position(x: Array, denoiser: Network, settings: ChainSettings, *, key: Key, sample_index: Array) -> Array:
    """Last position of a chain, as `run_chain`, for a batch of any size: it is worked on in slices."""
    ops = denoiser.ops
    fused = _fused(denoiser)
    if fused is not None:
        return fused.run(x, **settings._asdict(), key=key, sample_index=sample_index)
    last = ops.empty(x.shape, denoiser.dtype)

    def of_slice(part: slice) -> None:
        state = init(x[part])
        own = key if isinstance(key, tuple) else key[part]
        for _ in range(settings.num_steps):
            state, _ = step(state, denoiser, settings, key=own, sample_index=sample_index[part])
        last[part] = state.position

    ops.map_slices(of_slice, len(x), slice_size=denoiser.slice_size)
    return last


def last_position_with_vjp(
    x: Array, denoiser: Network, settings: ChainSettings, *, key: Key, sample_index: Array
) -> tuple[Array, Callable[[Array], Array]]:
    """Last position of a chain, and a function that carries a gradient back; for a batch that fits into memory at once.

    Returns
    -------
    position : array of shape (n, c, h, w)
        The last position.
    vjp : callable
        From a gradient with respect to that position to the one with respect to x.

    Notes
    -----
    The others are those of `run_chain`.
    """
    noise = {"key": key, "sample_index": sample_index}
    fused = _fused(denoiser)
    if fused is not None:
        last, vjp = fused.run_with_vjp(x, **settings._asdict(), **noise)
        return last, vjp
    positions = run_chain(x, denoiser, settings, **noise)
    return positions[-1], lambda dy: run_chain_vjp(dy, positions, denoiser, settings, **noise)


def _fused(denoiser: Network) -> Any:
    """The backend's kernel for this denoiser's chain, or None."""
    return denoiser.ops.fused_chain(denoiser.architecture(), denoiser.params)
