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
    """As `malade_ref.ops.log_softmax`."""
    out = device().empty(logits.shape, logits.dtype)
    _launch("log_softmax", logits, _contiguous(logits), out)
    return out


def softmax_cross_entropy(logits: Array, labels: Array) -> Array:
    """As `malade_ref.ops.softmax_cross_entropy`."""
    _check_labels(logits, labels)
    loss = device().empty(labels.shape, logits.dtype)
    _launch("cross_entropy", logits, _contiguous(logits), _contiguous(labels, "int64"), loss)
    return loss


def softmax_cross_entropy_vjp(dloss: Array, logits: Array, labels: Array) -> Array:
    """As `malade_ref.ops.softmax_cross_entropy_vjp`."""
    _check_labels(logits, labels)
    check_shape("dloss", dloss, labels.shape)
    dlogits = device().empty(logits.shape, logits.dtype)
    slopes = _contiguous(dloss, logits.dtype)
    _launch("cross_entropy_vjp", logits, slopes, _contiguous(logits), _contiguous(labels, "int64"), dlogits)
    return dlogits


def margin_loss(logits: Array, labels: Array, targets: Array | None = None) -> Array:
    """As `malade_ref.ops.margin_loss`."""
    _check_targets(logits, labels, targets, least=2)
    return _loss_of_samples(bodies.margin_loss, logits, labels, targets)


def margin_loss_vjp(dloss: Array, logits: Array, labels: Array, targets: Array | None = None) -> Array:
    """As `malade_ref.ops.margin_loss_vjp`."""
    _check_targets(logits, labels, targets, least=2)
    check_shape("dloss", dloss, labels.shape)
    return _dlogits_of_samples(bodies.margin_loss_vjp, dloss, logits, labels, targets)


def dlr_loss(logits: Array, labels: Array, targets: Array | None = None) -> Array:
    """As `malade_ref.ops.dlr_loss`."""
    _check_targets(logits, labels, targets, least=3 if targets is None else 4)
    return _loss_of_samples(bodies.DLR_LOSS[str(logits.dtype)], logits, labels, targets)


def dlr_loss_vjp(dloss: Array, logits: Array, labels: Array, targets: Array | None = None) -> Array:
    """As `malade_ref.ops.dlr_loss_vjp`."""
    _check_targets(logits, labels, targets, least=3 if targets is None else 4)
    check_shape("dloss", dloss, labels.shape)
    return _dlogits_of_samples(bodies.DLR_LOSS_VJP[str(logits.dtype)], dloss, logits, labels, targets)


def kl_divergence(logits: Array, other: Array) -> Array:
    """As `malade_ref.ops.kl_divergence`."""
    scores = _compared(logits, other)
    loss = device().empty(logits.shape[:1], logits.dtype)
    device().for_elements(bodies.kl_divergence, len(logits), loss, *scores, np.int64(logits.shape[1]))
    return loss


def kl_divergence_vjp(dloss: Array, logits: Array, other: Array) -> tuple[Array, Array]:
    """As `malade_ref.ops.kl_divergence_vjp`."""
    scores = _compared(logits, other)
    check_shape("dloss", dloss, logits.shape[:1])
    dlogits, dother = (device().empty(logits.shape, logits.dtype) for _ in range(2))
    slopes, size = _contiguous(dloss, logits.dtype), np.int64(logits.shape[1])
    arrays = (dlogits.reshape(-1), dother.reshape(-1), slopes, *scores)
    device().for_elements(bodies.kl_divergence_vjp, len(logits), *arrays, size)
    return dlogits, dother


def other_classes(logits: Array, labels: Array) -> Array:
    """As `malade_ref.ops.other_classes`."""
    _check_labels(logits, labels)
    n, k = logits.shape
    classes = device().empty((n, k - 1), "int64")
    scores, labels = _contiguous(logits), _contiguous(labels, "int64")
    device().for_elements(bodies.other_classes, n * k, classes.reshape(-1), scores.reshape(-1), labels, np.int64(k))
    return classes


def squared_error(output: Array, target: Array) -> Array:
    """As `malade_ref.ops.squared_error`."""
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
    """As `malade_ref.ops.squared_error_vjp`."""
    check_same("target", target, "output", output)
    check_shape("dloss", dloss, output.shape[:1])
    inputs = rows(output, target)
    doutput, out = inputs.empty(output.dtype)
    arrays = (array.reshape(-1) for array in (out, *inputs.arrays))
    slopes = _contiguous(dloss, output.dtype)
    device().for_elements(kernels.squared_error_vjp, out.size, *arrays, slopes, np.int64(max(1, out.shape[1])))
    return doutput


def _compared(logits: Array, other: Array) -> tuple[Array, Array]:
    """Two rows of scores a sample, checked, as bodies take them."""
    check_ndim("logits", logits, 2, "(n, k)")
    check_float("logits", logits)
    check_same("other", other, "logits", logits)
    return _contiguous(logits).reshape(-1), _contiguous(other).reshape(-1)


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
