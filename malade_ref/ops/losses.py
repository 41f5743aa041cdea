r"""Losses, one number a sample, with their derivatives.

Axes: n samples, k classes. Sums over pixels are sums, never means: the weight of the cross entropy in the sDAE's
objective depends on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_float, check_integer, check_ndim, check_same, check_shape

Floats = NDArray[Any]


def log_softmax(logits: Floats) -> Floats:
    """Logarithm of the softmax, without overflow.

    Parameters
    ----------
    logits : ndarray of shape (n, k), float32 or float64
        Class scores.

    Returns
    -------
    ndarray, same shape and dtype
        ``logits - log(sum(exp(logits)))``, row by row.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def softmax_cross_entropy(logits: Floats, labels: NDArray[np.integer[Any]]) -> Floats:
    r"""Cross entropy of the softmax, :math:`J = -\log \hat y_y`.

    Parameters
    ----------
    logits : ndarray of shape (n, k), float32 or float64
        Class scores.
    labels : ndarray of shape (n,), integer
        True classes in 0..k-1.

    Returns
    -------
    ndarray of shape (n,), same dtype
        Losses in nats, >= 0.
    """
    _check_labels(logits, labels)
    rows = np.arange(len(labels))
    # J = log(1 + sum of exp(margin) over the other classes): log1p keeps the digits of a loss close to 0.
    margins = logits - logits[rows, labels][:, None]
    largest = margins.max(axis=1)  # at least 0, the true class' own
    others = np.exp(margins - largest[:, None])
    others[rows, labels] = 0
    total = others.sum(axis=1)
    return np.asarray(np.where(largest > 0, largest + np.log(np.exp(-largest) + total), np.log1p(total)))


def softmax_cross_entropy_vjp(dloss: Floats, logits: Floats, labels: NDArray[np.integer[Any]]) -> Floats:
    """Vector-Jacobian product of `softmax_cross_entropy`: dloss (softmax - one-hot).

    Parameters
    ----------
    dloss : ndarray of shape (n,)
        Gradient with respect to the losses.
    logits, labels
        As given to `softmax_cross_entropy`.

    Returns
    -------
    ndarray of shape (n, k)
        Gradient with respect to the logits.
    """
    _check_labels(logits, labels)
    check_shape("dloss", dloss, labels.shape)
    # The true class' entry is minus the sum of the others: 1 - p would lose all digits when p is close to 1.
    p = np.exp(log_softmax(logits))
    rows = np.arange(len(labels))
    p[rows, labels] = 0
    p[rows, labels] = -p.sum(axis=1)
    return np.asarray(p * dloss[:, None].astype(p.dtype, copy=False))


def margin_loss(
    logits: Floats, labels: NDArray[np.integer[Any]], targets: NDArray[np.integer[Any]] | None = None
) -> Floats:
    """Lead of another class over the true one: ``z_t - z_y``, positive where the classifier is wrong.

    Parameters
    ----------
    logits : ndarray of shape (n, k), float32 or float64
        Class scores, k >= 2.
    labels : ndarray of shape (n,), integer
        True classes y in 0..k-1.
    targets : ndarray of shape (n,), integer, optional
        The other classes t, each unlike its label; by default the one with the largest score, in a tie the first.

    Returns
    -------
    ndarray of shape (n,), same dtype
        Differences of scores.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit or there are too few classes.

    References
    ----------
    .. [1] Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017, f_6.
    """
    rivals = _rivals(logits, labels, targets, least=2)
    rows = np.arange(len(labels))
    return np.asarray(logits[rows, rivals] - logits[rows, labels])


def margin_loss_vjp(
    dloss: Floats,
    logits: Floats,
    labels: NDArray[np.integer[Any]],
    targets: NDArray[np.integer[Any]] | None = None,
) -> Floats:
    """Vector-Jacobian product of `margin_loss`: dloss at the other class, -dloss at the true one.

    Parameters
    ----------
    dloss : ndarray of shape (n,)
        Gradient with respect to the losses.
    logits, labels, targets
        As given to `margin_loss`.

    Returns
    -------
    ndarray of shape (n, k)
        Gradient with respect to the logits.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit or there are too few classes.
    """
    rivals = _rivals(logits, labels, targets, least=2)
    check_shape("dloss", dloss, labels.shape)
    rows = np.arange(len(labels))
    dlogits = np.zeros_like(logits)
    dlogits[rows, rivals] = dloss
    dlogits[rows, labels] = -dlogits[rows, rivals]
    return dlogits


def dlr_loss(
    logits: Floats, labels: NDArray[np.integer[Any]], targets: NDArray[np.integer[Any]] | None = None
) -> Floats:
    r"""Difference of logits ratio: the margin, divided by a spread of the scores.

    With :math:`z_{(1)} \ge z_{(2)} \ge \dots` the scores in order,

        without targets  -(z_y - max_{i != y} z_i) / (z_(1) - z_(3) + 1e-12),
        with targets     -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12).

    It does not change when the scores are shifted or scaled, so a saturated classifier has a gradient still.

    Parameters
    ----------
    logits : ndarray of shape (n, k), float32 or float64
        Class scores; k >= 3, with targets k >= 4.
    labels : ndarray of shape (n,), integer
        True classes y in 0..k-1.
    targets : ndarray of shape (n,), integer, optional
        The other classes t, each unlike its label.

    Returns
    -------
    ndarray of shape (n,), same dtype
        Losses, dimensionless.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit or there are too few classes.

    References
    ----------
    .. [1] Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
       attacks", ICML 2020, eq. (6) and (7).
    """
    rivals = _rivals(logits, labels, targets, least=3 if targets is None else 4)
    lead, spread, _ = _dlr_parts(logits, labels, rivals, targeted=targets is not None)
    return np.asarray(lead / spread)


def dlr_loss_vjp(
    dloss: Floats,
    logits: Floats,
    labels: NDArray[np.integer[Any]],
    targets: NDArray[np.integer[Any]] | None = None,
) -> Floats:
    """Vector-Jacobian product of `dlr_loss`; the order of the scores is taken as given.

    Parameters
    ----------
    dloss : ndarray of shape (n,)
        Gradient with respect to the losses.
    logits, labels, targets
        As given to `dlr_loss`.

    Returns
    -------
    ndarray of shape (n, k)
        Gradient with respect to the logits.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit or there are too few classes.
    """
    rivals = _rivals(logits, labels, targets, least=3 if targets is None else 4)
    check_shape("dloss", dloss, labels.shape)
    rows = np.arange(len(labels))
    lead, spread, weights = _dlr_parts(logits, labels, rivals, targeted=targets is not None)
    slope = (dloss / spread).astype(logits.dtype, copy=False)
    dlogits = -(slope * lead / spread)[:, None] * weights
    dlogits[rows, rivals] += slope
    dlogits[rows, labels] -= slope
    return np.asarray(dlogits)


def kl_divergence(logits: Floats, other: Floats) -> Floats:
    r"""Kullback-Leibler divergence of two classifications, :math:`\sum_k p_k (\log p_k - \log q_k)`.

    Parameters
    ----------
    logits, other : ndarray of shape (n, k), float32 or float64, of one dtype
        Class scores; p is the softmax of the first, q that of the other.

    Returns
    -------
    ndarray of shape (n,), same dtype
        Divergences in nats; >= 0 but for rounding.
    """
    p, difference = _compared(logits, other)
    return np.asarray((p * difference).sum(axis=1))


def kl_divergence_vjp(dloss: Floats, logits: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Vector-Jacobian products of `kl_divergence`: dloss p (log p - log q - KL), and dloss (q - p).

    Parameters
    ----------
    dloss : ndarray of shape (n,)
        Gradient with respect to the divergences.
    logits, other
        As given to `kl_divergence`.

    Returns
    -------
    dlogits, dother : ndarray of shape (n, k)
        Gradients with respect to both.
    """
    p, difference = _compared(logits, other)
    check_shape("dloss", dloss, logits.shape[:1])
    slopes = dloss[:, None].astype(p.dtype, copy=False)
    divergence = (p * difference).sum(axis=1, keepdims=True)
    q = np.exp(log_softmax(other))
    return np.asarray(slopes * p * (difference - divergence)), np.asarray(slopes * (q - p))


def other_classes(logits: Floats, labels: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """All classes but the true one, by falling score.

    Parameters
    ----------
    logits : ndarray of shape (n, k), float32 or float64
        Class scores.
    labels : ndarray of shape (n,), integer
        True classes in 0..k-1.

    Returns
    -------
    ndarray of shape (n, k - 1), int64
        Classes; in a tie the smaller number first, scores that are not a number last.
    """
    _check_labels(logits, labels)
    order = np.argsort(-logits, axis=1, kind="stable")
    return np.asarray(order[order != labels[:, None]], dtype=np.int64).reshape(len(labels), logits.shape[1] - 1)


def squared_error(output: Floats, target: Floats) -> Floats:
    """Sum over pixels of squared differences, of shape (n,).

    Parameters
    ----------
    output, target : ndarray of shape (n, ...), float32 or float64
        What is compared.
    """
    check_float("output", output)
    check_same("target", target, "output", output)
    difference = (output - target).reshape(len(output), -1) if len(output) else output.reshape(0, 1)
    return np.asarray(np.einsum("nd,nd->n", difference, difference))


def squared_error_vjp(dloss: Floats, output: Floats, target: Floats) -> Floats:
    """Vector-Jacobian product of `squared_error` with respect to the output: 2 dloss (output - target).

    Parameters
    ----------
    dloss : ndarray of shape (n,)
        Gradient with respect to the sums.
    output, target
        As given to `squared_error`.
    """
    check_same("target", target, "output", output)
    check_shape("dloss", dloss, output.shape[:1])
    weight = (2 * dloss).astype(output.dtype, copy=False).reshape(-1, *[1] * (output.ndim - 1))
    return np.asarray(weight * (output - target))


def _compared(logits: Floats, other: Floats) -> tuple[Floats, Floats]:
    """The softmax p of the first scores, and log p - log q."""
    check_ndim("logits", logits, 2, "(n, k)")
    check_float("logits", logits)
    check_same("other", other, "logits", logits)
    log_p = log_softmax(logits)
    return np.exp(log_p), log_p - log_softmax(other)


def _check_labels(logits: Floats, labels: NDArray[np.integer[Any]]) -> None:
    check_ndim("logits", logits, 2, "(n, k)")
    check_float("logits", logits)
    check_ndim("labels", labels, 1, "(n,)")
    check_shape("labels", labels, logits.shape[:1])
    check_integer("labels", labels)


def _rivals(
    logits: Floats, labels: NDArray[np.integer[Any]], targets: NDArray[np.integer[Any]] | None, *, least: int
) -> NDArray[np.integer[Any]]:
    """The targets, checked; without any, the strongest classes but the true ones."""
    _check_labels(logits, labels)
    if targets is not None:
        check_shape("targets", targets, labels.shape)
        check_integer("targets", targets)
    if logits.shape[1] < least:
        raise InputError(
            f"logits: this loss needs at least {least} classes, got {logits.shape[1]}; choose another loss"
        )
    return other_classes(logits, labels)[:, 0] if targets is None else targets


def _dlr_parts(
    logits: Floats, labels: NDArray[np.integer[Any]], rivals: NDArray[np.integer[Any]], *, targeted: bool
) -> tuple[Floats, Floats, Floats]:
    """Numerator and denominator of the ratio, and the denominator's gradient."""
    rows = np.arange(len(labels))
    order = np.argsort(-logits, axis=1, kind="stable")
    weights = np.zeros_like(logits)
    weights[rows, order[:, 0]] = 1
    for place in (2, 3) if targeted else (2,):
        weights[rows, order[:, place]] = -0.5 if targeted else -1
    scores = np.take_along_axis(logits, order[:, :4], axis=1)
    behind = (scores[:, 2] + scores[:, 3]) / 2 if targeted else scores[:, 2]
    return logits[rows, rivals] - logits[rows, labels], scores[:, 0] - behind + logits.dtype.type(1e-12), weights
