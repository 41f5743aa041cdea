r"""R-regularised PGD: adversarial images that the defence's denoiser has nothing to object to.

A denoiser r pulls an image x along r(x) - x. An attacker who keeps that small goes where the chain leaves images alone:

    x_{t+1} = clip(project(x_t + step_size * direction(grad [J(x_t, y) - weight * ||r(x_t) - x_t||_2^2]))).

References
----------
.. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", 2021.
.. [2] Frosst, Sabour, Hinton, "DARCCC: detecting adversaries by reconstruction from class conditional capsules",
   arXiv:1811.06969, 2018, for attacks on what reconstructs.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..arrays import Array
from ..checks import check_count, check_number
from ..network import Network
from .gradient import Ball, Record, best_of_runs, starts
from .oracle import AttackResult, Model, Oracle, Verdict


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
