r"""Losses, one number a sample, with their derivatives.

Axes: n samples, k classes. Sums over pixels are sums, never means: the weight of the cross entropy in the sDAE's
objective depends on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_float, check_integer, check_ndim, check_same, check_shape

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

    Raises
    ------
    InputError
        If shapes or dtypes do not fit.
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

    Raises
    ------
    InputError
        If shapes or dtypes do not fit.
    """
    _check_labels(logits, labels)
    check_shape("dloss", dloss, labels.shape)
    # The true class' entry is minus the sum of the others: 1 - p would lose all digits when p is close to 1.
    p = np.exp(log_softmax(logits))
    rows = np.arange(len(labels))
    p[rows, labels] = 0
    p[rows, labels] = -p.sum(axis=1)
    return np.asarray(p * dloss[:, None].astype(p.dtype, copy=False))


def squared_error(output: Floats, target: Floats) -> Floats:
    """Sum over pixels of squared differences.

    Parameters
    ----------
    output, target : ndarray of shape (n, ...), float32 or float64
        What is compared.

    Returns
    -------
    ndarray of shape (n,), same dtype
        Sums.

    Raises
    ------
    InputError
        If shapes or dtypes differ.
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

    Returns
    -------
    ndarray of output's shape
        Gradient with respect to the output.

    Raises
    ------
    InputError
        If shapes or dtypes differ.
    """
    check_same("target", target, "output", output)
    check_shape("dloss", dloss, output.shape[:1])
    weight = (2 * dloss).astype(output.dtype, copy=False).reshape(-1, *[1] * (output.ndim - 1))
    return np.asarray(weight * (output - target))


def _check_labels(logits: Floats, labels: NDArray[np.integer[Any]]) -> None:
    check_ndim("logits", logits, 2, "(n, k)")
    check_float("logits", logits)
    check_ndim("labels", labels, 1, "(n,)")
    check_shape("labels", labels, logits.shape[:1])
    check_integer("labels", labels)
