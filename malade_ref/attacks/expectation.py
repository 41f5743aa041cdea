r"""PGD against defences that hide their gradient or draw noise: BPDA, EOT, and both.

A defended model is f(g(x, w)): a classifier f behind a purification g with noise w.

    BPDA      backward pass differentiable approximation: dg/dx is taken to be the identity, the forward pass is kept;
    EOT       expectation over transformation: ascent on E_w J(f(g(x, w)), y), estimated over D draws, through g.

BPDA is cheap and was made for purifications that cannot be differentiated. Ours can: EOT with the exact gradient is the
attack that a claim of robustness has to survive, and a BPDA that does better shows that the exact one was run with too
few draws or steps.

References
----------
.. [1] Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018.
.. [2] Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", ICML 2018.
"""

from __future__ import annotations

from ..arrays import Array
from .gradient import Record, pgd
from .oracle import AttackResult, Model


def bpda(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    norm: str = "linf",
    num_restarts: int = 1,
    random_start: bool = True,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """PGD with the purification replaced by the identity on the way back, one draw an evaluation.

    Parameters
    ----------
    model, x, y, eps, step_size, num_steps, norm, num_restarts, random_start
        As in `pgd`.
    num_judge_draws, seed, sample_index, record
        As in `pgd`.

    Returns
    -------
    AttackResult
        As of `pgd`.

    Raises
    ------
    InputError
        If images, labels or a setting are not as expected.

    References
    ----------
    .. [1] Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018.
    """
    return pgd(
        model,
        x,
        y,
        eps=eps,
        step_size=step_size,
        num_steps=num_steps,
        norm=norm,
        num_restarts=num_restarts,
        random_start=random_start,
        mode="bpda",
        num_draws=1,
        num_judge_draws=num_judge_draws,
        seed=seed,
        sample_index=sample_index,
        record=record,
    )


def eot(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    norm: str = "linf",
    num_restarts: int = 1,
    random_start: bool = True,
    num_draws: int = 30,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """PGD along the exact gradient of the mean loss over draws of the model's noise.

    Parameters
    ----------
    model, x, y, eps, step_size, num_steps, norm, num_restarts, random_start
        As in `pgd`.
    num_draws : int
        Draws of the model's noise at each evaluation. A gradient is worth following when its spread over draws, divided
        by the square root of their number, is below its mean; the audit of a report measures that.
    num_judge_draws, seed, sample_index, record
        As in `pgd`.

    Returns
    -------
    AttackResult
        As of `pgd`.

    Raises
    ------
    InputError
        If images, labels or a setting are not as expected.

    Notes
    -----
    The mean is over losses. Athalye et al. average the log-likelihoods, which is the same for the cross entropy.

    References
    ----------
    .. [1] Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", ICML 2018.
    """
    return pgd(
        model,
        x,
        y,
        eps=eps,
        step_size=step_size,
        num_steps=num_steps,
        norm=norm,
        num_restarts=num_restarts,
        random_start=random_start,
        mode="exact",
        num_draws=num_draws,
        num_judge_draws=num_judge_draws,
        seed=seed,
        sample_index=sample_index,
        record=record,
    )


def bpda_eot(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    norm: str = "linf",
    num_restarts: int = 1,
    random_start: bool = True,
    num_draws: int = 30,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """PGD with the purification replaced by the identity on the way back, averaged over draws.

    Parameters
    ----------
    model, x, y, eps, step_size, num_steps, norm, num_restarts, random_start
        As in `pgd`.
    num_draws : int
        Draws of the model's noise at each evaluation.
    num_judge_draws, seed, sample_index, record
        As in `pgd`.

    Returns
    -------
    AttackResult
        As of `pgd`.

    Raises
    ------
    InputError
        If images, labels or a setting are not as expected.

    Notes
    -----
    The paper's strongest attack on MALADE; Srinivasan et al. run it with 1000 steps and 30 draws.

    References
    ----------
    .. [1] Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018.
    .. [2] Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", ICML 2018.
    """
    return pgd(
        model,
        x,
        y,
        eps=eps,
        step_size=step_size,
        num_steps=num_steps,
        norm=norm,
        num_restarts=num_restarts,
        random_start=random_start,
        mode="bpda",
        num_draws=num_draws,
        num_judge_draws=num_judge_draws,
        seed=seed,
        sample_index=sample_index,
        record=record,
    )
