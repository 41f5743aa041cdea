"""What a product of `conv` or `linear` becomes before anybody else sees it.

Forwards that is activation(product + bias); for input gradients, the product times the derivative of the activation
that the input came from. It is done in the product's own memory, without a new array for each step, and gives the same
bits as `add_bias`, `relu`, `tanh` and their vector-Jacobian products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_choice, check_shape

Floats = NDArray[Any]

ACTIVATIONS = ("relu", "tanh")


def check_finish(
    product: tuple[int, Any], *, bias: Floats | None = None, activation: str | None = None, name: str = "activation"
) -> None:
    """Raise unless a product can be finished so, before it is computed.

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

    Raises
    ------
    InputError
        If the bias does not fit or the activation is not known.
    """
    channels, dtype = product
    if bias is not None:
        check_shape("bias", bias, (channels,))
        if bias.dtype != dtype:
            raise InputError(f"bias: expected dtype {dtype} (that of x), got {bias.dtype}")
    if activation is not None:
        check_choice(name, activation, ACTIVATIONS)


def finish(product: Floats, bias: Floats | None, activation: str | None) -> Floats:
    """Take activation(product + bias), in the product's memory.

    Parameters
    ----------
    product : ndarray of shape (n, c, ...)
        Overwritten.
    bias : ndarray of shape (c,) or None
        One number a channel; none for 0.
    activation : {"relu", "tanh"} or None
        Applied to the sum.

    Returns
    -------
    ndarray
        ``product``.
    """
    if bias is not None:
        product += bias.reshape(-1, *[1] * (product.ndim - 2))
    if activation == "relu":
        np.maximum(product, product.dtype.type(0), out=product)
    elif activation == "tanh":
        np.tanh(product, out=product)
    return product


def finish_gradient(dx: Floats, x: Floats, activation: str | None) -> Floats:
    """Gradient with respect to what an activation was applied to, in the memory of that with respect to its output.

    Parameters
    ----------
    dx : ndarray
        Gradient with respect to x; overwritten.
    x : ndarray of the same shape
        Output of the activation, by which its derivative is expressed.
    activation : {"relu", "tanh"} or None
        Which one.

    Returns
    -------
    ndarray
        ``dx``.
    """
    if activation == "relu":
        dx *= x > 0
    elif activation == "tanh":
        dx *= 1 - x * x
    return dx
