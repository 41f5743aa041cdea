r"""Losses, one number a sample, with their derivatives.

Axes: n samples, k classes. Sums over pixels are sums, never means: the weight of the cross entropy in the sDAE's
objective depends on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_float, check_integer, check_ndim, check_same, check_shape

from ..device import device
from ..kernels import layers as kernels
from ..kernels import losses as bodies
from .layout import rows

REAL = {"float32": "float", "float64": "double"}
THREADS = 128  # of a block of softmax.cuh and of rows.cuh
SAMPLES = 4  # of a block of softmax.cuh


def log_softmax(logits: Array) -> Array:
    """Logarithm of the softmax, without overflow.

    Parameters
    ----------
    logits : array of shape (n, k), float32 or float64
        Class scores.

    Returns
    -------
    array, same shape and dtype
        ``logits - log(sum(exp(logits)))``, row by row.
    """
    out = device().empty(logits.shape, logits.dtype)
    _launch("log_softmax", logits, _contiguous(logits), out)
    return out


def softmax_cross_entropy(logits: Array, labels: Array) -> Array:
    r"""Cross entropy of the softmax, :math:`J = -\log \hat y_y`.

    Parameters
    ----------
    logits : array of shape (n, k), float32 or float64
        Class scores.
    labels : array of shape (n,), integer
        True classes in 0..k-1.

    Returns
    -------
    array of shape (n,), same dtype
        Losses in nats, >= 0.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit.
    """
    _check_labels(logits, labels)
    loss = device().empty(labels.shape, logits.dtype)
    _launch("cross_entropy", logits, _contiguous(logits), _contiguous(labels, "int64"), loss)
    return loss


def softmax_cross_entropy_vjp(dloss: Array, logits: Array, labels: Array) -> Array:
    """Vector-Jacobian product of `softmax_cross_entropy`: dloss (softmax - one-hot).

    Parameters
    ----------
    dloss : array of shape (n,)
        Gradient with respect to the losses.
    logits, labels
        As given to `softmax_cross_entropy`.

    Returns
    -------
    array of shape (n, k)
        Gradient with respect to the logits.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit.
    """
    _check_labels(logits, labels)
    check_shape("dloss", dloss, labels.shape)
    dlogits = device().empty(logits.shape, logits.dtype)
    slopes = _contiguous(dloss, logits.dtype)
    _launch("cross_entropy_vjp", logits, slopes, _contiguous(logits), _contiguous(labels, "int64"), dlogits)
    return dlogits


def margin_loss(logits: Array, labels: Array, targets: Array | None = None) -> Array:
    """Lead of another class over the true one: ``z_t - z_y``, positive where the classifier is wrong.

    Parameters
    ----------
    logits : array of shape (n, k), float32 or float64
        Class scores, k >= 2.
    labels : array of shape (n,), integer
        True classes y in 0..k-1.
    targets : array of shape (n,), integer, optional
        The other classes t, each unlike its label; by default the one with the largest score, in a tie the first.

    Returns
    -------
    array of shape (n,), same dtype
        Differences of scores.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit or there are too few classes.

    References
    ----------
    .. [1] Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017, f_6.
    """
    _check_targets(logits, labels, targets, least=2)
    return _loss_of_samples(bodies.margin_loss, logits, labels, targets)


def margin_loss_vjp(dloss: Array, logits: Array, labels: Array, targets: Array | None = None) -> Array:
    """Vector-Jacobian product of `margin_loss`: dloss at the other class, -dloss at the true one.

    Parameters
    ----------
    dloss : array of shape (n,)
        Gradient with respect to the losses.
    logits, labels, targets
        As given to `margin_loss`.

    Returns
    -------
    array of shape (n, k)
        Gradient with respect to the logits.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit or there are too few classes.
    """
    _check_targets(logits, labels, targets, least=2)
    check_shape("dloss", dloss, labels.shape)
    return _dlogits_of_samples(bodies.margin_loss_vjp, dloss, logits, labels, targets)


def dlr_loss(logits: Array, labels: Array, targets: Array | None = None) -> Array:
    r"""Difference of logits ratio: the margin, divided by a spread of the scores.

    With :math:`z_{(1)} \ge z_{(2)} \ge \dots` the scores in order,

        without targets  -(z_y - max_{i != y} z_i) / (z_(1) - z_(3) + 1e-12),
        with targets     -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12).

    It does not change when the scores are shifted or scaled, so a saturated classifier has a gradient still.

    Parameters
    ----------
    logits : array of shape (n, k), float32 or float64
        Class scores; k >= 3, with targets k >= 4.
    labels : array of shape (n,), integer
        True classes y in 0..k-1.
    targets : array of shape (n,), integer, optional
        The other classes t, each unlike its label.

    Returns
    -------
    array of shape (n,), same dtype
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
    _check_targets(logits, labels, targets, least=3 if targets is None else 4)
    return _loss_of_samples(bodies.DLR_LOSS[str(logits.dtype)], logits, labels, targets)


def dlr_loss_vjp(dloss: Array, logits: Array, labels: Array, targets: Array | None = None) -> Array:
    """Vector-Jacobian product of `dlr_loss`; the order of the scores is taken as given.

    Parameters
    ----------
    dloss : array of shape (n,)
        Gradient with respect to the losses.
    logits, labels, targets
        As given to `dlr_loss`.

    Returns
    -------
    array of shape (n, k)
        Gradient with respect to the logits.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit or there are too few classes.
    """
    _check_targets(logits, labels, targets, least=3 if targets is None else 4)
    check_shape("dloss", dloss, labels.shape)
    return _dlogits_of_samples(bodies.DLR_LOSS_VJP[str(logits.dtype)], dloss, logits, labels, targets)


def other_classes(logits: Array, labels: Array) -> Array:
    """All classes but the true one, by falling score.

    Parameters
    ----------
    logits : array of shape (n, k), float32 or float64
        Class scores.
    labels : array of shape (n,), integer
        True classes in 0..k-1.

    Returns
    -------
    array of shape (n, k - 1), int64
        Classes; in a tie the smaller number first, scores that are not a number last.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit.
    """
    _check_labels(logits, labels)
    n, k = logits.shape
    classes = device().empty((n, k - 1), "int64")
    scores, labels = _contiguous(logits), _contiguous(labels, "int64")
    device().for_elements(bodies.other_classes, n * k, classes.reshape(-1), scores.reshape(-1), labels, np.int64(k))
    return classes


def squared_error(output: Array, target: Array) -> Array:
    """Sum over pixels of squared differences.

    Parameters
    ----------
    output, target : array of shape (n, ...), float32 or float64
        What is compared.

    Returns
    -------
    array of shape (n,), same dtype
        Sums.

    Raises
    ------
    InputError
        If shapes or dtypes differ.
    """
    check_float("output", output)
    check_same("target", target, "output", output)
    inputs = rows(output, target).arrays
    sums = device().empty(output.shape[:1], output.dtype)
    if sums.size:
        device().launch(
            "rows",
            "squared_error",
            grid=(sums.size,),
            block=(THREADS,),
            arguments=(*inputs, sums, inputs[0].shape[1]),
            defines={"REAL": REAL[str(output.dtype)]},
        )
    return sums


def squared_error_vjp(dloss: Array, output: Array, target: Array) -> Array:
    """Vector-Jacobian product of `squared_error` with respect to the output: 2 dloss (output - target).

    Parameters
    ----------
    dloss : array of shape (n,)
        Gradient with respect to the sums.
    output, target
        As given to `squared_error`.

    Returns
    -------
    array of output's shape
        Gradient with respect to the output.

    Raises
    ------
    InputError
        If shapes or dtypes differ.
    """
    check_same("target", target, "output", output)
    check_shape("dloss", dloss, output.shape[:1])
    inputs = rows(output, target)
    doutput, out = inputs.empty(output.dtype)
    arrays = (array.reshape(-1) for array in (out, *inputs.arrays))
    slopes = _contiguous(dloss, output.dtype)
    device().for_elements(kernels.squared_error_vjp, out.size, *arrays, slopes, np.int64(max(1, out.shape[1])))
    return doutput


def _check_labels(logits: Array, labels: Array) -> None:
    check_ndim("logits", logits, 2, "(n, k)")
    check_float("logits", logits)
    check_ndim("labels", labels, 1, "(n,)")
    check_shape("labels", labels, logits.shape[:1])
    check_integer("labels", labels)


def _check_targets(logits: Array, labels: Array, targets: Array | None, *, least: int) -> None:
    _check_labels(logits, labels)
    if targets is not None:
        check_shape("targets", targets, labels.shape)
        check_integer("targets", targets)
    if logits.shape[1] < least:
        raise InputError(
            f"logits: this loss needs at least {least} classes, got {logits.shape[1]}; choose another loss"
        )


def _loss_of_samples(body: Any, logits: Array, labels: Array, targets: Array | None) -> Array:
    """A number of each sample, one thread a sample."""
    loss = device().empty(labels.shape, logits.dtype)
    device().for_elements(body, len(labels), loss, *_scores_and_classes(logits, labels, targets))
    return loss


def _dlogits_of_samples(body: Any, dloss: Array, logits: Array, labels: Array, targets: Array | None) -> Array:
    """A row of numbers of each sample, one thread a sample."""
    dlogits = device().empty(logits.shape, logits.dtype)
    slopes = _contiguous(dloss, logits.dtype)
    arguments = (dlogits.reshape(-1), slopes, *_scores_and_classes(logits, labels, targets))
    device().for_elements(body, len(labels), *arguments)
    return dlogits


def _scores_and_classes(logits: Array, labels: Array, targets: Array | None) -> tuple[Any, ...]:
    """Scores, labels, targets, whether there are targets, and the number of classes, as bodies take them."""
    labels = _contiguous(labels, "int64")
    others = labels if targets is None else _contiguous(targets, "int64")
    return _contiguous(logits).reshape(-1), labels, others, np.int64(targets is not None), np.int64(logits.shape[1])


def _contiguous(array: Array, dtype: Any = None) -> Array:
    return device().xp.ascontiguousarray(array, dtype=dtype)


def _launch(kernel: str, logits: Array, *arrays: Array) -> None:
    """Launch a kernel of softmax.cuh on samples that are there."""
    n, k = logits.shape
    if logits.size:
        device().launch(
            "softmax",
            kernel,
            grid=(-(-n // SAMPLES),),
            block=(THREADS,),
            arguments=(*arrays, n, k),
            defines={"REAL": REAL[str(logits.dtype)]},
        )
