"""Transfer: adversarial images of one model, tried on another.

The weakest adversary that knows anything: it has no gradient of the target. A white-box attack that does worse than
this one has not converged.

References
----------
.. [1] Papernot, McDaniel, Goodfellow, "Transferability in machine learning", arXiv:1605.07277, 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays import Array
from ..checks import InputError, check_model
from .cards import Cost, card
from .gradient import pgd
from .oracle import Asking, AttackResult, Model, select


@card(
    title="transfer",
    gradient="classifier",
    norm=lambda settings: settings.get("norm", "linf"),
    cost=lambda _: Cost(0, 0),
)
def transfer(
    model: Model,
    x: Array,
    y: Array,
    *,
    surrogate: Model,
    attack: Callable[..., AttackResult] = pgd,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    **settings: Any,
) -> AttackResult:
    """Attack a surrogate and judge the result on the model.

    Parameters
    ----------
    surrogate : Model
        Whose gradients are followed, for example the classifier without its defence.
    attack : callable
        Any attack of this package; called with the surrogate.
    **settings
        For the attack: eps, norm, ...; ``targets`` are the model's too.

    Returns
    -------
    AttackResult
        Success and loss are the model's, distances those that the attack measured. ``num_queries`` counts the model's
        evaluations only (the clean and the adversarial image), ``num_gradients`` is 0.

    Raises
    ------
    InputError
        If images or labels do not fit the model, a setting is out of range, or the models take different images.

    Notes
    -----
    The others are those of `pgd`.
    """
    check_model("surrogate", surrogate)
    check_model("model", model)
    if (surrogate.input_shape, surrogate.dtype) != (model.input_shape, model.dtype):
        raise InputError(
            f"surrogate: expected {model.dtype} images of shape {model.input_shape} as the model takes, "
            f"got {surrogate.dtype}, {surrogate.input_shape}"
        )
    targets = settings.get("targets")
    asking = Asking(num_judge_draws=num_judge_draws, seed=seed, sample_index=sample_index, targets=targets)
    oracle = asking.oracle(model, x, y)
    clean, always_wrong = oracle.judge(x)
    found = attack(surrogate, x, y, seed=seed, sample_index=sample_index, **settings)
    moved, _ = oracle.judge(found.x_adv)
    # An image that the model gets wrong as it is stays where it is, at distance 0.
    best = select(model.ops, always_wrong, clean, moved)
    return oracle.result(best, model.ops.select(always_wrong, 0 * found.distance, found.distance))
