r"""The boundary attack as Foolbox has it.

With d the direction from the best image to the clean one and eta a normal vector of length a ||d||, orthogonal to d,

    s  = clip(x + (eta - d) / sqrt(1 + a^2)),              on the sphere,
    x' = clip(s + max(b ||d|| + ||x - s|| - ||d||, 0) (x - s) / ||x - s||),    towards the clean image,

and x' is taken if it is wrong and nearer. At every tenth step both decisions are noted. Step sizes change by these
alone, as soon as enough are noted since the last change (the last 100 on the sphere, the last 30 of x'):

    share of s that is wrong     above 1/2: a and b grow;  below 1/5: both shrink
    share of x' that is wrong    above 1/4: b grows;       below 1/10: b shrinks

References
----------
.. [1] Brendel, Rauber, Bethge, "Decision-based adversarial attacks", ICLR 2018.
.. [2] Rauber et al., "Foolbox Native", Journal of Open Source Software 5(53), 2020.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...arrays import Array
from ...attacks.oracle import PROPOSAL, START, AttackResult, Model
from ...checks import InputError, check_number, check_work
from .asking import Asked, Record, each, length

SPHERE_WINDOW, STEP_WINDOW = 100, 30
DIRECTIONS, BLENDS = 1000, 50  # of the search for a start


def foolbox_boundary(
    model: Model,
    x: Array,
    y: Array,
    *,
    num_steps: int = 25000,
    spherical_step: float = 0.01,
    source_step: float = 0.01,
    least_source_step: float = 1e-7,
    step_adaptation: float = 1.5,
    every: int = 10,
    start: Array | None = None,
    directions: Callable[[int], Array] | None = None,
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    record: Record | None = None,
) -> AttackResult:
    """Boundary attack with Foolbox's proposals, step adaptation, start and stop.

    Parameters
    ----------
    num_steps, spherical_step, source_step, step_adaptation
        Foolbox's ``steps``, and its settings of the same names.
    least_source_step : float
        Its ``source_step_convergance``: an image whose step is smaller moves no more.
    every : int
        Its ``update_stats_every_k``.
    start : array of shape (n, c, h, w), optional
        Wrong images; its ``starting_points``. By default they are searched for as Foolbox does, on lines from the clean
        images to uniform noise, from other random numbers.
    directions : callable, optional
        From the number of a step, from 1, to c h w normal numbers, which all images share. By default drawn from the
        seed.
    num_draws : int
        As of `as_torch_module`; the draws are the same at every decision.
    record : callable, optional
        Called with (number, the best images so far as an ndarray), for the start (0) and after each step.

    Returns
    -------
    AttackResult
        The nearest wrong image of each; distances are Euclidean.

    Raises
    ------
    InputError
        If a start is not wrong, or none is found for an image: Foolbox gives up on all images then.

    Notes
    -----
    The others are those of `malade_ref.attacks.pgd`.

    `malade_ref.attacks.boundary` makes the same two steps. It differs in this: success rates are those of windows of 50
    steps that do not overlap, and all proposals in them count for b, not each tenth; each image has random directions
    of its own; starts are of salt and pepper, too, and are drawn to the boundary by bisection, where Foolbox takes the
    first wrong one of 51 points of a line; an image without a start stops no other; a decision must hold by more than
    rounding can do; a stochastic model's find is confirmed by the judging draws. There is no stop by small steps.

    Where a clean image is wrong itself Foolbox divides by 0 and keeps the image; so it is kept here.
    """
    asked = Asked(model, x, y, num_draws=num_draws, seed=seed, num_judge_draws=num_judge_draws)
    check_work("num_steps", num_steps)
    check_work("every", every)
    check_number("spherical_step", spherical_step, above=0)
    check_number("source_step", source_step, above=0)
    check_number("least_source_step", least_source_step, minimum=0)
    check_number("step_adaptation", step_adaptation, above=1)
    clean = asked.x
    best = _start(asked) if start is None else asked.images("start", start)
    failed = int((~asked.wrong(best)).sum())
    if failed:
        raise InputError(
            f"start: {failed} of {len(best)} images are classified rightly; give wrong ones, or leave them out"
        )
    if record is not None:
        record(0, best)
    a, b = (np.full(len(clean), size, clean.dtype) for size in (spherical_step, source_step))
    on_sphere, after_both = _Rates(SPHERE_WINDOW, len(clean)), _Rates(STEP_WINDOW, len(clean))
    for step in range(1, num_steps + 1):
        moving = b >= least_source_step
        if not moving.any():
            break
        sphere, candidate, distance = _proposal(clean, best, _direction(asked, directions, step), a, b)
        wrong = asked.wrong(candidate)
        noted = step % every == 0
        if noted:
            on_sphere.note(asked.wrong(sphere))
            after_both.note(wrong)
        taken = moving & wrong & (length(clean - candidate) < distance)
        best = np.where(each(taken, best), candidate, best)
        if noted:
            factor = on_sphere.factor(0.2, 0.5, step_adaptation).astype(b.dtype)
            a, b = a * factor, b * factor
            b = b * after_both.factor(0.1, 0.25, step_adaptation).astype(b.dtype)
        if record is not None:
            record(step, best)
    return asked.result(best, lambda found: length(found - clean))


class _Rates:
    """Shares of noted decisions that were wrong, of the last so many since each image's step sizes were changed."""

    def __init__(self, window: int, num_images: int) -> None:
        self._noted = np.zeros((window, num_images), bool)
        self._count = np.zeros(num_images, "int64")

    def note(self, wrong: Array) -> None:
        self._noted = np.concatenate([self._noted[1:], wrong[None]])
        self._count += 1

    def factor(self, few: float, many: float, by: float) -> Array:
        """What step sizes are to be multiplied with; images for which that is not 1 begin to count anew."""
        share = self._noted.mean(axis=0)
        enough = self._count >= len(self._noted)
        grow, shrink = enough & (share > many), enough & (share < few)
        self._count[grow | shrink] = 0
        return np.where(grow, by, np.where(shrink, 1 / by, 1.0))


def _direction(asked: Asked, directions: Callable[[int], Array] | None, step: int) -> Array:
    size = asked.x[0].size
    if directions is None:
        return asked.drawn(asked.model.ops.normal, (size,), PROPOSAL, step)[0]
    found = np.asarray(directions(step), asked.x.dtype).reshape(-1)
    if found.size != size:
        raise InputError(f"directions: expected {size} numbers, one for each of a pixel's channels, got {found.size}")
    return found


def _proposal(clean: Array, best: Array, normal: Array, a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Points on the sphere, those after the step towards the clean images, and how far the best images are."""
    x = clean.reshape(len(clean), -1)
    towards = x - best.reshape(x.shape)
    distance = length(towards)
    unit = towards / np.where(distance > 0, distance, 1)[:, None]
    eta = normal - (unit @ normal)[:, None] * unit
    eta = eta * (a * distance / length(eta))[:, None]
    sphere = (x + (eta - towards) / np.sqrt(np.square(a) + 1)[:, None]).clip(0, 1)
    back = x - sphere
    far = length(back)
    move = np.maximum(b * distance + far - distance, 0) / np.where(far > 0, far, 1)
    candidate = (sphere + move[:, None] * back).clip(0, 1)
    return sphere.reshape(clean.shape), candidate.reshape(clean.shape), distance


def _start(asked: Asked) -> Array:
    """The first wrong point of 51 on the line to uniform noise that is wrong."""
    clean = asked.x
    far, found = clean, np.zeros(len(clean), bool)
    for number in range(DIRECTIONS):
        random = asked.drawn(asked.model.ops.uniform, clean.shape[1:], START, number)
        far = np.where(each(found, clean), far, random)
        found |= asked.wrong(random)
        if found.all():
            break
    if not found.all():
        raise InputError(
            f"start: uniform noise is wrong for none of {DIRECTIONS} tries, for {int((~found).sum())} images"
        )
    share = np.ones(len(clean), clean.dtype)
    for blend in np.linspace(0, 1, BLENDS + 1, dtype=clean.dtype):
        wrong = asked.wrong((1 - blend) * clean + blend * far)
        share = np.minimum(np.where(wrong, blend, 1).astype(clean.dtype), share)
        if (share < 1).all():
            break
    return (1 - each(share, clean)) * clean + each(share, clean) * far
