"""Epilogues: what is computed on a product of `conv` or `linear` while it is still at hand.

Forwards that is activation(product + bias); for input gradients, the product times the derivative of the activation
that the input came from. It gives the same bits as `add_bias`, `relu`, `tanh` and their vector-Jacobian products, in
the order in memory that they would give them (sums of later layers depend on it), but without new arrays in between.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_choice, check_shape

Floats = NDArray[Any]

ACTIVATIONS = ("relu", "tanh")


def check_epilogue(
    product: tuple[int, Any], *, bias: Floats | None = None, activation: str | None = None, name: str = "activation"
) -> None:
    """Raise unless a product can have this epilogue, before it is computed.

    Parameters
    ----------
    product : tuple of int and dtype
        Channels (or features) of the product, and its dtype.
    bias : ndarray, optional
        One number a channel.
    activation : str, optional
        One of `ACTIVATIONS`.
    name : str
        What to call it in the complaint.
    """
    channels, dtype = product
    if bias is not None:
        check_shape("bias", bias, (channels,))
        if bias.dtype != dtype:
            raise InputError(f"bias: expected dtype {dtype} (that of x), got {bias.dtype}")
    if activation is not None:
        check_choice(name, activation, ACTIVATIONS)


def epilogue(product: Floats, bias: Floats | None, activation: str | None) -> Floats:
    """Take activation(product + bias).

    Parameters
    ----------
    product : ndarray of shape (n, c, ...)
        May be overwritten.
    bias : ndarray of shape (c,) or None
        One number a channel; none for 0.
    activation : {"relu", "tanh"} or None
        Applied to the sum.

    Returns
    -------
    ndarray of the product's shape
        The result; maybe ``product`` itself.
    """
    # A product that was cropped has gaps in memory, which a new array has not.
    extent = sum((size - 1) * stride for size, stride in zip(product.shape, product.strides, strict=True))
    out = product if extent + product.itemsize == product.nbytes else None
    if bias is not None:
        product = out = np.add(product, bias.reshape(-1, *[1] * (product.ndim - 2)), out=out)
    if activation == "relu":
        product = np.maximum(product, product.dtype.type(0), out=out)
    elif activation == "tanh":
        product = np.tanh(product, out=out)
    return product


def epilogue_vjp(dx: Floats, x: Floats, activation: str | None) -> Floats:
    """Gradient with respect to what an activation was applied to, from that with respect to its output.

    Parameters
    ----------
    dx : ndarray
        Gradient with respect to x; may be overwritten.
    x : ndarray of the same shape
        Output of the activation, by which its derivative is expressed.
    activation : {"relu", "tanh"} or None
        Which one.

    Returns
    -------
    ndarray of the same shape
        The result; maybe ``dx`` itself.
    """
    if activation is None:
        return dx
    slope = x > 0 if activation == "relu" else 1 - x * x
    lie_alike = all(a * slope.itemsize == b * dx.itemsize for a, b in zip(dx.strides, slope.strides, strict=True))
    return np.asarray(np.multiply(dx, slope, out=dx if lie_alike else None))
