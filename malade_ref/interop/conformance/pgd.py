r"""PGD as torchattacks has it.

    x_{t+1} = clip(x + project(x_t + step_size * direction(g_t) - x)),    t = 0..T-1,

with g_t the gradient of the batch's mean cross entropy. What is returned is x_T.

References
----------
.. [1] Kim, "Torchattacks: a PyTorch repository for adversarial attacks", arXiv:2010.01950.
"""

from __future__ import annotations

import numpy as np

from ...arrays import Array
from ...attacks.gradient import NORMS
from ...attacks.oracle import START, AttackResult, Model
from ...checks import check_choice, check_eps, check_number, check_work
from .asking import Asked, Record, each, length

TINY = 1e-10  # added to the length of a gradient in L2


def torchattacks_pgd(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 8 / 255,
    step_size: float = 2 / 255,
    num_steps: int = 10,
    norm: str = "linf",
    start: Array | None = None,
    noise: str = "fixed",
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    record: Record | None = None,
) -> AttackResult:
    """PGD as torchattacks has it: the last iterate of one run from a random start.

    Parameters
    ----------
    eps, step_size, num_steps
        torchattacks' ``eps``, ``alpha`` and ``steps``.
    norm : {"linf", "l2"}
        ``PGD`` or ``PGDL2``.
    start : array of shape (n, c, h, w), optional
        Where to begin; x itself for ``random_start=False``. By default drawn as torchattacks draws it, from other
        random numbers.
    noise : {"fixed", "shared", "fresh"}
        As of `as_torch_module`; the step from x_t is that module's t-th call.
    num_draws : int
        As of `as_torch_module`.
    record : callable, optional
        Called with (t, x_t as an ndarray) for t = 0..T.

    Returns
    -------
    AttackResult
        x_T of each image, with the verdict of this package's judging draws.

    Notes
    -----
    The others are those of `malade_ref.attacks.pgd`.

    `malade_ref.attacks.pgd` takes the same steps. It differs in what it makes of them: the best of all iterates is
    returned instead of the last; an image that is wrong to begin with stays as it is; there may be several starts; in
    L2 the start is uniform in the ball, where torchattacks draws its distance uniformly, so that most starts are nearer
    to the centre; and the loss of an image is its own, where the mean over a batch makes each gradient n times smaller,
    which matters in L2 to gradients not much larger than 1e-10.

    Foolbox's ``LinfPGD`` and ``L2PGD`` and ART's ``ProjectedGradientDescent`` with one start take these steps, too, and
    return the last iterate.
    """
    asked = Asked(model, x, y, num_draws=num_draws, seed=seed, num_judge_draws=num_judge_draws, noise=noise)
    check_choice("norm", norm, NORMS)
    check_eps(eps, norm)
    check_number("step_size", step_size, minimum=0)
    check_work("num_steps", num_steps)
    centre = asked.x
    x_t = _start(asked, eps, norm) if start is None else asked.images("start", start)
    for t in range(num_steps):
        if record is not None:
            record(t, x_t)
        gradient = asked.gradient(x_t, loss="ce") / len(centre)
        if norm == "linf":
            move = (x_t + step_size * np.sign(gradient) - centre).clip(-eps, eps)
        else:
            move = x_t + step_size * gradient / each(length(gradient) + TINY, gradient) - centre
            move = move * each(np.minimum(eps / np.maximum(length(move), np.finfo(move.dtype).tiny), 1), move)
        x_t = (centre + move).clip(0, 1)
    if record is not None:
        record(num_steps, x_t)
    return asked.result(
        x_t, lambda found: abs(found - centre).max(axis=(1, 2, 3)) if norm == "linf" else length(found - centre)
    )


def _start(asked: Asked, eps: float, norm: str) -> Array:
    """A random point of the ball, distributed as torchattacks' is."""
    ops, shape = asked.model.ops, asked.x.shape[1:]
    if norm == "linf":
        return (asked.x + eps * (2 * asked.drawn(ops.uniform, shape, START) - 1)).clip(0, 1)
    direction, radius = asked.drawn(ops.normal, shape, START), asked.drawn(ops.uniform, (), START, 1)
    return (asked.x + direction * each(eps * radius / length(direction), direction)).clip(0, 1)
