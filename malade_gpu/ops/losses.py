r"""Losses, one number a sample, with their derivatives.

Axes: n samples, k classes. Sums over pixels are sums, never means: the weight of the cross entropy in the sDAE's
objective depends on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import check_float, check_integer, check_ndim, check_same, check_shape

from ..device import device
from ..kernels import layers as kernels
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
