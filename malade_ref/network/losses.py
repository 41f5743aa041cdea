"""Losses of the logits that attacks climb, and what a gradient evaluation gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

from ..arrays import Array
from ..checks import InputError, check_choice
from ..showing import shortly

# What an attack may ask the gradient of.
LOSSES = ("ce", "margin", "dlr")
Losses = str | Sequence[str]


def losses_of(loss: Losses) -> tuple[str, ...]:
    """The losses that the restarts of an attack take in turn.

    Parameters
    ----------
    loss : {"ce", "margin", "dlr"} or sequence of these
        As an attack is given it.

    Returns
    -------
    tuple of str
        At least one.
    """
    losses = (loss,) if isinstance(loss, str) else tuple(loss)
    if not losses:
        raise InputError(f"loss: expected at least one of {', '.join(LOSSES)}; got none")
    for one in losses:
        check_choice("loss", one, LOSSES)
    return losses


def loss_ops(ops: ModuleType, loss: str) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """A loss of the logits and its vector-Jacobian product.

    Parameters
    ----------
    ops : module
        The backend.
    loss : {"ce", "margin", "dlr"}
        Cross entropy, `margin_loss` or `dlr_loss`.

    Returns
    -------
    loss : callable
        Of (logits, labels, targets); targets may be None, and for the cross entropy must be.
    vjp : callable
        Of (dloss, logits, labels, targets).
    """
    if check_choice("loss", loss, LOSSES) == "ce":
        return (
            lambda logits, labels, _: ops.softmax_cross_entropy(logits, labels),
            lambda dloss, logits, labels, _: ops.softmax_cross_entropy_vjp(dloss, logits, labels),
        )
    return (ops.margin_loss, ops.margin_loss_vjp) if loss == "margin" else (ops.dlr_loss, ops.dlr_loss_vjp)


@shortly
class LossGradient(NamedTuple):
    """What one gradient evaluation of an attack gives.

    Attributes
    ----------
    loss : array of shape (n,)
        Loss of each sample; the cross entropy in nats unless another one was asked for.
    logits : array of shape (n, k)
        Class scores.
    gradient : array of shape (n, c, h, w)
        Gradient of each sample's loss with respect to its own image.
    """

    loss: Array
    logits: Array
    gradient: Array


def join(ops: ModuleType, parts: Sequence[LossGradient]) -> LossGradient:
    """Join the results of slices.

    Parameters
    ----------
    ops : module
        The backend.
    parts : sequence of LossGradient
        Results, in order.

    Returns
    -------
    LossGradient
        Of all samples.
    """
    return LossGradient(*(ops.concatenate(arrays) for arrays in zip(*parts, strict=True)))
