r"""PGD against defences that hide their gradient or draw noise: BPDA, EOT, and both.

A defended model is f(g(x, w)): a classifier f behind a purification g with noise w.

    BPDA      backward pass differentiable approximation: dg/dx is taken to be the identity, or the Jacobian of one
              application of the denoiser to x; the forward pass is kept;
    EOT       expectation over transformation: ascent on E_w J(f(g(x, w)), y), estimated over D draws, through g; or on
              J(E_w f(g(x, w)), y), the loss of the mean logits.

BPDA is cheap and was made for purifications that cannot be differentiated. Ours can: EOT with the exact gradient is the
attack that a claim of robustness has to survive, and a BPDA that does better shows that the exact one was run with too
few draws or steps.

References
----------
.. [1] Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018.
.. [2] Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..arrays import Array
from ..checks import check_choice
from .cards import card, setting
from .gradient import Climb, Record, climb, climb_cost, pgd_iterates
from .oracle import Asking, AttackResult, Model

BPDA_MODES = ("bpda", "bpda-denoiser")


@card(title="BPDA", norm=setting("norm"), cost=climb_cost)
def bpda(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    loss: str | Sequence[str] = "ce",
    targets: Array | None = None,
    norm: str = "linf",
    num_restarts: int = 1,
    retire: bool = False,
    random_start: bool = True,
    transfer_start: bool = False,
    mode: str = "bpda",
    common_draws: bool = False,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """PGD with the purification replaced by something simpler on the way back, one draw an evaluation.

    Parameters
    ----------
    mode : {"bpda", "bpda-denoiser"}
        What stands for the purification on the way back: the identity, or one application of the denoiser.

    Notes
    -----
    The others, what is returned and what is complained of are those of `pgd`.
    """
    check_choice("mode", mode, BPDA_MODES)
    settings = Climb(eps, step_size, num_steps, norm, num_restarts, random_start, transfer_start, loss, retire)
    asking = Asking(mode, "loss", 1, common_draws, num_judge_draws, seed, sample_index, targets)
    return climb(model, x, y, settings, asking, pgd_iterates, record=record)


@card(title="exact gradient", gradient="exact", norm=setting("norm"), cost=climb_cost)
def eot(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    loss: str | Sequence[str] = "ce",
    targets: Array | None = None,
    norm: str = "linf",
    num_restarts: int = 1,
    retire: bool = False,
    random_start: bool = True,
    transfer_start: bool = False,
    expectation: str = "loss",
    num_draws: int = 30,
    common_draws: bool = False,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """PGD along the exact gradient of the loss, in expectation over draws of the model's noise.

    Parameters
    ----------
    num_draws : int
        Draws of the model's noise at each evaluation. A gradient is worth following when its spread over draws, divided
        by the square root of their number, is below its mean; the audit of a report measures that.

    Notes
    -----
    The others, what is returned and what is complained of are those of `pgd`.

    By default the mean is over losses. Athalye et al. average the log-likelihoods, which is the same for the cross
    entropy. The loss of the mean logits is an alternative of later attacks; by these logits success is judged here.
    """
    settings = Climb(eps, step_size, num_steps, norm, num_restarts, random_start, transfer_start, loss, retire)
    asking = Asking("exact", expectation, num_draws, common_draws, num_judge_draws, seed, sample_index, targets)
    return climb(model, x, y, settings, asking, pgd_iterates, record=record)


@card(title="BPDA", norm=setting("norm"), cost=climb_cost)
def bpda_eot(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    loss: str | Sequence[str] = "ce",
    targets: Array | None = None,
    norm: str = "linf",
    num_restarts: int = 1,
    retire: bool = False,
    random_start: bool = True,
    transfer_start: bool = False,
    mode: str = "bpda",
    expectation: str = "loss",
    num_draws: int = 30,
    common_draws: bool = False,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """PGD with the purification replaced by something simpler on the way back, averaged over draws.

    Parameters
    ----------
    num_draws : int
        Draws of the model's noise at each evaluation.

    Notes
    -----
    The others, what is returned and what is complained of are those of `bpda`. The paper's strongest attack on MALADE;
    Srinivasan et al. run it with 1000 steps and 30 draws.
    """
    check_choice("mode", mode, BPDA_MODES)
    settings = Climb(eps, step_size, num_steps, norm, num_restarts, random_start, transfer_start, loss, retire)
    asking = Asking(mode, expectation, num_draws, common_draws, num_judge_draws, seed, sample_index, targets)
    return climb(model, x, y, settings, asking, pgd_iterates, record=record)
