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

from collections.abc import Iterable, Iterator
from typing import Any

from ..arrays import Array
from ..checks import check_count, check_number
from ..defence import MALADE
from ..network import Network
from ..sampling import Stream, run_chain, run_chain_vjp
from .gradient import Ball, Record, best_of_runs, starts
from .oracle import SEARCH, AttackResult, Model, Oracle, Verdict


def r_pgd(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    weight: float = 1.0,
    norm: str = "linf",
    num_restarts: int = 1,
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
    model, x, y, eps, step_size, num_steps, norm, num_restarts, random_start
        As in `pgd`. A model without a ``denoiser`` has no reconstruction error: on it this is `pgd`.
    weight : float
        Of the squared error (a sum over pixels) against the cross entropy, >= 0.
    mode, num_draws, num_judge_draws, seed, sample_index, record
        As in `pgd`.

    Returns
    -------
    AttackResult
        As of `pgd`. The gradient of the denoiser alone, one for each step, is not among those that are counted.

    Raises
    ------
    InputError
        If images, labels or a setting are not as expected.

    Notes
    -----
    The form of the regulariser (the squared Euclidean norm of the denoiser's residual at the attacked image, as in its
    own objective) and the default weight are choices made here; the paper's may differ. Iterates are kept by the cross
    entropy alone.

    References
    ----------
    .. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", 2021.
    """
    oracle = Oracle(
        model,
        x,
        y,
        mode=mode,
        num_draws=num_draws,
        num_judge_draws=num_judge_draws,
        seed=seed,
        sample_index=sample_index,
    )
    ball = Ball(model.ops, x, eps=eps, norm=norm)
    check_number("step_size", step_size, minimum=0)
    check_number("weight", weight, minimum=0)
    check_count("num_steps", num_steps)
    check_count("num_restarts", num_restarts)
    denoiser = getattr(model, "denoiser", None)

    def iterates(x_t: Array) -> Iterator[Verdict]:
        for _ in range(num_steps):
            verdict, gradient = oracle.gradient(x_t)
            yield verdict
            if denoiser is not None:
                gradient = gradient - weight * error_gradient(denoiser, x_t)
            x_t = ball.step(x_t, gradient, step_size=step_size)
        yield oracle.query(x_t)

    runs = map(iterates, starts(oracle, ball, num_restarts=num_restarts, random_start=random_start))
    return best_of_runs(oracle, ball, runs, record=record)


def drift_pgd(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    weight: float = 0.001,
    norm: str = "linf",
    num_restarts: int = 1,
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
    model, x, y, eps, step_size, num_steps, norm, num_restarts, random_start
        As in `pgd`. A model without a chain of at least one step has no drift: on it this is `pgd`.
    weight : float
        Of the squared drift (a sum over pixels, a mean over steps) against the cross entropy, >= 0. With 0 this is
        `eot`. The default is about one over the number of MNIST's pixels: there it is the mean over pixels that counts.
    num_draws, num_judge_draws, seed, sample_index, record
        As in `pgd`.

    Returns
    -------
    AttackResult
        As of `pgd`. The gradient of the drift is of the chain alone and not among those that are counted; for each of
        them it costs two more passes through the chain and one back.

    Raises
    ------
    InputError
        If images, labels or a setting are not as expected.

    Notes
    -----
    In the spirit of the deviated-reconstruction loss of Kang et al., from which it deviates: that one compares, at some
    steps of a diffusion, an image on its way back with what it was on its way there, weighted by the step. This chain
    goes one way only. Its positions, at all steps alike, are compared with those of the clean image under the same
    noise, so that they differ by nothing but what the attacker did. The gradient goes through all steps; the noise is
    replayed. Iterates are kept by the cross entropy alone. The square has no gradient at the clean image.

    References
    ----------
    .. [1] Kang, Song, Li, "DiffAttack: evasion attacks against diffusion-based adversarial purification", NeurIPS 2023,
       section 3.2.
    """
    oracle = Oracle(
        model,
        x,
        y,
        num_draws=num_draws,
        num_judge_draws=num_judge_draws,
        seed=seed,
        sample_index=sample_index,
    )
    ball = Ball(model.ops, x, eps=eps, norm=norm)
    check_number("step_size", step_size, minimum=0)
    check_number("weight", weight, minimum=0)
    check_count("num_steps", num_steps)
    check_count("num_restarts", num_restarts)
    defended: Any = model if hasattr(model, "chain") else None
    stream, index = Stream(seed, SEARCH), oracle.sample_index

    def iterates(x_t: Array) -> Iterator[Verdict]:
        for _ in range(num_steps):
            verdict, gradient = oracle.gradient(x_t)
            yield verdict
            if defended is not None:
                draws = oracle.last_draws()
                drift = drift_gradient(defended, x_t, x, stream=stream, draws=draws, sample_index=index)
                gradient = gradient + weight * drift
            x_t = ball.step(x_t, gradient, step_size=step_size)
        yield oracle.query(x_t)

    runs = map(iterates, starts(oracle, ball, num_restarts=num_restarts, random_start=random_start))
    return best_of_runs(oracle, ball, runs, record=record)


def drift_gradient(
    model: MALADE, x: Array, clean: Array, *, stream: Stream, draws: Iterable[int], sample_index: Array
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
    draws : iterable of int
        Which repetitions; at least one.
    sample_index : array of shape (n,), integer
        Numbers of the samples in their data set.

    Returns
    -------
    array of shape (n, c, h, w)
        Gradient of (1/N) sum_s ||c_s(x, w) - c_s(clean, w)||^2, of each image with respect to itself; 0 if N = 0.
    """
    ops, denoiser, chain = model.ops, model.denoiser, model.chain
    keys = [ops.derive_key(stream.seed, stream.name, draw) for draw in draws]

    def of_slice(part: slice) -> Array:
        total = none = 0 * x[part]
        share = ops.ones(none.shape[:1], model.dtype) / max(1, chain.num_steps)
        for key in keys:
            noise = {"key": key, "sample_index": sample_index[part]}
            moved, still = (run_chain(start[part], denoiser, chain, **noise) for start in (x, clean))
            pairs = zip(moved[1:], still[1:], strict=True)
            # The first positions do not count: how far they are apart is what the ball allows.
            *before, last = [none, *(ops.squared_error_vjp(share, *pair) for pair in pairs)]
            total = total + run_chain_vjp(last, moved, denoiser, chain, **noise, dpositions=before)
        return total / len(keys)

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
