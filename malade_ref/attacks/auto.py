r"""AutoAttack: an ensemble whose members err in different ways, and need no tuning.

    standard    Auto-PGD on the cross entropy, Auto-PGD on the targeted ratio of logits, FAB targeted, Square
    rand        Auto-PGD on the cross entropy and on the ratio of logits, both over draws of the model's noise (EOT)

One after the other they attack the images that all before them left right; what is wrong already costs nothing more.
Images are selected between members, on the host: within one, nothing depends on what an array holds.

References
----------
.. [1] Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
   attacks", ICML 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..arrays import Array
from ..checks import InputError, check_choice, check_work
from .apgd import apgd
from .cards import Cost, Target, card, card_of, setting
from .fab import fab
from .gradient import Ball
from .oracle import Asking, AttackResult, Model
from .square import square

# For each version how few classes its ratio of logits can do with.
VERSIONS = {"standard": 4, "rand": 3}


Members = list[tuple[Callable[..., AttackResult], dict[str, Any]]]


def _members(
    version: str, shared: dict[str, Any], *, mode: str, num_steps: int, num_targets: int, num_square_steps: int
) -> Members:
    """The attacks of a version, in order, each with its settings."""
    ascent = {**shared, "mode": mode, "num_steps": num_steps}
    if version == "rand":
        return [(apgd, ascent), (apgd, {**ascent, "loss": "dlr"})]
    return [
        (apgd, ascent),
        (apgd, {**ascent, "loss": "dlr", "num_targets": num_targets}),
        (fab, {**ascent, "num_targets": num_targets}),
        (square, {**shared, "num_steps": num_square_steps}),
    ]


def _cost(s: Any) -> Cost:
    """As if every image were left to every member."""
    shared = {"num_restarts": s.num_restarts, "num_draws": s.draws}
    own = {"mode": s.mode, "num_steps": s.num_steps, "num_targets": s.num_targets}
    target = Target(s.stochastic, s.num_classes, s.num_pixels)
    all_of_them = _members(s.version, shared, **own, num_square_steps=s.num_square_steps)
    costs = [card_of(attack.__name__).costs(settings, target) for attack, settings in all_of_them]
    return Cost(sum(cost.gradients for cost in costs), sum(cost.queries for cost in costs))


@card(title="AutoAttack", norm=setting("norm"), cost=_cost)
def auto_attack(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    norm: str = "linf",
    version: str = "standard",
    num_steps: int = 100,
    num_targets: int = 9,
    num_square_steps: int = 5000,
    num_restarts: int = 1,
    mode: str = "exact",
    num_draws: int = 20,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
) -> AttackResult:
    """AutoAttack: Auto-PGD, FAB and Square, each on the images that those before it left right.

    Parameters
    ----------
    version : {"standard", "rand"}
        Which members, see `malade_ref.attacks.auto`; ``"rand"`` is for models that draw noise.
    num_steps : int
        Steps of each run of Auto-PGD and FAB.
    num_targets : int
        Other classes that Auto-PGD on the targeted ratio and FAB go for, one run each; at most all.
    num_square_steps : int
        Proposals of Square.
    num_restarts : int
        Of each member.

    Returns
    -------
    AttackResult
        ``num_queries`` and ``num_gradients`` are what was really spent on each sample: the evaluations of the clean
        image, and those of the members that got it.

    Raises
    ------
    InputError
        If images or labels do not fit the model, a setting is out of range, or there are too few classes for the ratio
        of logits.

    Notes
    -----
    The others are those of `pgd`; 20 draws are those of the published ``"rand"``.

    An image of a deterministic model is done once it is wrong: no further member could change that. So its success is
    that of the strongest of all members on it. Its loss is that of the first find, which need not be the largest:
    images to be carried over to another model are better found by a member alone.

    For a stochastic model wrong once is not always wrong: an image that retired at its first success would stay where
    most draws are wrong and leave the rest to the defence. So only those retire that are wrong on every judging draw as
    they are, which every attack here leaves alone; all others get all members, and the best by the same judging draws
    is kept. The published code retires what one evaluation gets wrong, and counts it as broken; judged again, on fresh
    draws, as a report does, that would flatter the defence.

    Other deviations from it: of an image that no member got wrong, the one with the largest cross entropy is returned,
    not the clean one; the members' own (see `apgd`, `fab`, `square`). The published ``"standard"`` takes one draw of a
    stochastic model; set ``num_draws=1`` for that.
    """
    noise: dict[str, Any] = {"num_draws": num_draws, "num_judge_draws": num_judge_draws, "seed": seed}
    oracle = Asking(mode=mode, sample_index=sample_index, **noise).oracle(model, x, y)
    ball = Ball(model.ops, x, eps=eps, norm=norm)
    check_choice("version", version, tuple(VERSIONS))
    check_work("num_steps", num_steps)
    check_work("num_targets", num_targets)
    check_work("num_square_steps", num_square_steps)
    check_work("num_restarts", num_restarts)
    if model.num_classes < VERSIONS[version]:
        raise InputError(
            f"model: version {version} needs at least {VERSIONS[version]} classes for its ratio of logits, "
            f"got {model.num_classes}; use apgd, fab and square"
        )

    shared = {"eps": eps, "norm": norm, "num_restarts": num_restarts, **noise}
    own: dict[str, Any] = {"mode": mode, "num_steps": num_steps, "num_targets": num_targets}
    ops = model.ops
    clean, always_wrong = oracle.judge(x)
    best = oracle.result(clean._replace(x=ops.concatenate([x])), ball.distance(x))  # a copy, as all results are
    for attack, settings in _members(version, shared, **own, num_square_steps=num_square_steps):
        done = always_wrong if model.stochastic else best.success
        left = [row for row, wrong in enumerate(ops.to_host(done).tolist()) if not wrong]
        if not left:
            break
        rows = ops.asarray(left)
        found = attack(model, x[rows], y[rows], sample_index=oracle.sample_index[rows], **settings)
        found = found._replace(distance=Ball(ops, x[rows], eps=eps, norm=norm).distance(found.x_adv))  # see `fab`
        best = _with_rows(ops, best, left, _stronger(ops, found, AttackResult(*(field[rows] for field in best))))
    return best


def _stronger(ops: ModuleType, new: AttackResult, old: AttackResult) -> AttackResult:
    """The better of two attacks on each sample, success first, then the larger loss, at the cost of both."""
    better = ops.better(new.success, new.loss, old.success, old.loss)
    x_adv, success, loss, distance = (ops.select(better, *pair) for pair in zip(new[:4], old[:4], strict=True))
    spent = (a + b for a, b in zip(new[4:], old[4:], strict=True))
    return AttackResult(x_adv, success, loss, distance, *spent)


def _with_rows(ops: ModuleType, whole: AttackResult, rows: list[int], part: AttackResult) -> AttackResult:
    """A result with some of its samples replaced."""
    places = list(range(len(whole.success)))
    for place, row in enumerate(rows, start=len(places)):
        places[row] = place
    index = ops.asarray(places)
    return AttackResult(*(ops.concatenate(pair)[index] for pair in zip(whole, part, strict=True)))
