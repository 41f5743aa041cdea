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
from ..checks import InputError
from .gradient import pgd
from .oracle import AttackResult, Model, Oracle, select


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
    model : Model
        What is attacked.
    x : array of shape (n, c, h, w)
        Clean images, pixels in [0, 1], of the models' dtype.
    y : array of shape (n,), integer
        True labels.
    surrogate : Model
        Whose gradients are followed, for example the classifier without its defence.
    attack : callable
        Any attack of this package; called with the surrogate.
    num_judge_draws : int
        For a stochastic model: draws of noise by which it is judged.
    seed : int
        Of the attacker's random numbers, in [0, 2^64).
    sample_index : array of shape (n,), integer, optional
        Numbers of the samples in their data set; 0..n-1 by default.
    **settings
        For the attack: eps, norm, ...

    Returns
    -------
    AttackResult
        Success and loss are the model's, distances those that the attack measured. ``num_queries`` counts the model's
        evaluations only (the clean and the adversarial image), ``num_gradients`` is 0.

    Raises
    ------
    InputError
        If images, labels or a setting are not as expected, or the models do not take the same images.

    References
    ----------
    .. [1] Papernot, McDaniel, Goodfellow, "Transferability in machine learning", arXiv:1605.07277, 2016.
    """
    if (surrogate.input_shape, surrogate.dtype) != (model.input_shape, model.dtype):
        raise InputError(
            f"surrogate: expected {model.dtype} images of shape {model.input_shape} as the model takes, "
            f"got {surrogate.dtype}, {surrogate.input_shape}"
        )
    oracle = Oracle(model, x, y, num_judge_draws=num_judge_draws, seed=seed, sample_index=sample_index)
    clean, always_wrong = oracle.judge(x)
    found = attack(surrogate, x, y, seed=seed, sample_index=sample_index, **settings)
    moved, _ = oracle.judge(found.x_adv)
    # An image that the model gets wrong as it is stays where it is, at distance 0.
    best = select(model.ops, always_wrong, clean, moved)
    return oracle.result(best, model.ops.select(always_wrong, 0 * found.distance, found.distance))
