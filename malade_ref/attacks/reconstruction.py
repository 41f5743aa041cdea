r"""Attacks on what the defence does to images, beside its classifier: R-regularised PGD, and PGD on the chain's drift.

A denoiser r pulls an image x along r(x) - x. An attacker who keeps that small goes where the chain leaves images alone
(`r_pgd`):

    x_{t+1} = clip(project(x_t + step_size * direction(grad [J(x_t, y) - weight * ||r(x_t) - x_t||_2^2]))).

One who wants the chain to go astray raises (`drift_pgd`), with c_s(x, w) the chain's position after s of its N steps
from x with the noise w, and x the clean image,

    E_w [ J(f(c_N(x_t, w)), y) + weight * (1/N) sum_{s=1..N} ||c_s(x_t, w) - c_s(x, w)||_2^2 ].

References
----------
.. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", 2021.
.. [2] Frosst, Sabour, Hinton, "DARCCC: detecting adversaries by reconstruction from class conditional capsules",
   arXiv:1811.06969, 2018, for attacks on what reconstructs.
.. [3] Kang, Song, Li, "DiffAttack: evasion attacks against diffusion-based adversarial purification", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ..arrays import Array
from ..checks import check_number
from ..defence import MALADE
from ..draws import groups, mean
from ..network import Network
from ..sampling import Stream, run_chain, run_chain_vjp
from .cards import Cost, card, setting
from .gradient import Ball, Climb, Record, climb, climb_cost, pgd_iterates
from .oracle import SEARCH, Asking, AttackResult, Model, Oracle, Verdict


@card(title="R-PGD", norm=setting("norm"), cost=climb_cost)
def r_pgd(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    weight: float = 1.0,
    loss: str | Sequence[str] = "ce",
    targets: Array | None = None,
    norm: str = "linf",
    num_restarts: int = 1,
    retire: bool = False,
    random_start: bool = True,
    mode: str = "exact",
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """PGD with the denoiser's reconstruction error as a regulariser.

    Parameters
    ----------
    weight : float
        Of the squared error (a sum over pixels) against the cross entropy, >= 0.

    Notes
    -----
    The others, and what is returned, are those of `pgd`. A model without a ``denoiser`` has no reconstruction error: on
    it this is `pgd`. The gradient of the denoiser alone, one for each step, is not among those that are counted.

    The form of the regulariser (the squared Euclidean norm of the denoiser's residual at the attacked image, as in its
    own objective) and the default weight are choices made here; the paper's may differ. Iterates are kept by the cross
    entropy alone.
    """
    check_number("weight", weight, minimum=0)
    denoiser = getattr(model, "denoiser", None)
    pull = None if denoiser is None else lambda x_t: -weight * error_gradient(denoiser, x_t)
    settings = Climb(eps, step_size, num_steps, norm, num_restarts, random_start, False, loss, retire)
    asking = Asking(mode, "loss", num_draws, False, num_judge_draws, seed, sample_index, targets)
    return climb(model, x, y, settings, asking, partial(pgd_iterates, pull=pull), record=record)


def _cost(s: Any) -> Cost:
    return climb_cost(s)._replace(drifts=s.num_restarts * s.num_steps * s.draws * s.stochastic)


@card(title="drift PGD", gradient="exact", norm=setting("norm"), cost=_cost)
def drift_pgd(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    weight: float = 0.001,
    loss: str | Sequence[str] = "ce",
    targets: Array | None = None,
    norm: str = "linf",
    num_restarts: int = 1,
    retire: bool = False,
    random_start: bool = True,
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """PGD on the exact gradient of the cross entropy and of the chain's drift from where the clean image takes it.

    Parameters
    ----------
    weight : float
        Of the squared drift (a sum over pixels, a mean over steps) against the cross entropy, >= 0. With 0 this is
        `eot`. The default is about one over the number of MNIST's pixels: there it is the mean over pixels that counts.

    Notes
    -----
    The others, and what is returned, are those of `pgd`. A model without a chain of at least one step has no drift: on
    it this is `pgd`. The gradient of the drift is of the chain alone and not among those that are counted; for each of
    them it costs two more passes through the chain and one back.

    In the spirit of the deviated-reconstruction loss of Kang et al., from which it deviates: that one compares, at some
    steps of a diffusion, an image on its way back with what it was on its way there, weighted by the step. This chain
    goes one way only. Its positions, at all steps alike, are compared with those of the clean image under the same
    noise, so that they differ by nothing but what the attacker did. The gradient goes through all steps; the noise is
    replayed. Iterates are kept by the cross entropy alone. The square has no gradient at the clean image.
    """
    check_number("weight", weight, minimum=0)
    defended: Any = model if hasattr(model, "chain") else None

    def iterates(oracle: Oracle, ball: Ball, x_t: Array, settings: Climb) -> Iterator[Verdict]:
        def pull(x_t: Array) -> Array:
            noise = {"stream": Stream(seed, SEARCH), "sample_index": oracle.sample_index}
            return weight * drift_gradient(defended, x_t, x, draws=oracle.last_draws(), **noise)

        return pgd_iterates(oracle, ball, x_t, settings, pull=None if defended is None else pull)

    settings = Climb(eps, step_size, num_steps, norm, num_restarts, random_start, False, loss, retire)
    asking = Asking("exact", "loss", num_draws, False, num_judge_draws, seed, sample_index, targets)
    return climb(model, x, y, settings, asking, iterates, record=record)


def drift_gradient(
    model: MALADE, x: Array, clean: Array, *, stream: Stream, draws: Sequence[int], sample_index: Array
) -> Array:
    """Gradient of a chain's mean squared distance from that of the clean images, in the mean over draws.

    Parameters
    ----------
    model : MALADE
        With the chain.
    x, clean : array of shape (n, c, h, w)
        Images, and what they were.
    stream : Stream
        Whose noise.
    draws : sequence of int
        Which repetitions; at least one.
    sample_index : array of shape (n,), integer
        Numbers of the samples in their data set.

    Returns
    -------
    array of shape (n, c, h, w)
        Gradient of (1/N) sum_s ||c_s(x, w) - c_s(clean, w)||^2, of each image with respect to itself; 0 if N = 0.
    """
    ops, denoiser, chain = model.ops, model.denoiser, model.chain

    def of_slice(part: slice) -> Array:
        n = len(sample_index[part])
        share = ops.ones((n,), model.dtype) / max(1, chain.num_steps)

        def of_draws() -> Iterator[tuple[Array, ...]]:
            for group in groups(ops, stream, draws, n):
                noise = {"key": group.key, "sample_index": group.copies(sample_index[part])}
                moved, still = (run_chain(group.copies(start[part]), denoiser, chain, **noise) for start in (x, clean))
                pairs = zip(moved[1:], still[1:], strict=True)
                # The first positions do not count: how far they are apart is what the ball allows.
                apart = [ops.squared_error_vjp(group.copies(share), *pair) for pair in pairs]
                *before, last = [0 * moved[0], *apart]
                yield from group.split(run_chain_vjp(last, moved, denoiser, chain, **noise, dpositions=before))

        (gradient,) = mean(of_draws())
        return gradient

    return ops.concatenate(ops.map_slices(of_slice, len(x), slice_size=denoiser.slice_size))


def error_gradient(denoiser: Network, x: Array) -> Array:
    """Gradient of a denoiser's squared reconstruction error with respect to its input.

    Parameters
    ----------
    denoiser : Network
        r.
    x : array of shape (n, c, h, w)
        Images.

    Returns
    -------
    array of shape (n, c, h, w)
        Gradient of ||r(x) - x||^2, of each image with respect to itself.
    """
    ops = denoiser.ops

    def of_slice(part: slice) -> Array:
        output, tape = denoiser.forward(x[part])
        residual = ops.squared_error_vjp(ops.ones(output.shape[:1], denoiser.dtype), output, x[part])
        return denoiser.backward(tape, residual)[0] - residual

    return ops.concatenate(ops.map_slices(of_slice, len(x), slice_size=denoiser.slice_size))
