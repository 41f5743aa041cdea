"""Epilogues: what is computed on a product of `conv` or `linear` before it is stored; kernels/epilogue.cuh does it.

Forwards that is activation(product + bias); for input gradients, the product times the derivative of the activation
that the input came from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_choice, check_shape

from ..device import device
from .layout import channels_last

ACTIVATIONS = ("relu", "tanh")  # numbers 1 and 2 in kernels/epilogue.cuh


class Epilogue(NamedTuple):
    """What is done to each result of a product.

    Attributes
    ----------
    bias : array of shape (o,), optional
        Added to the channels. Contiguous.
    activation : {"relu", "tanh"}, optional
        Applied to the sum.
    input : array of shape (n, h, w, o), optional
        Output of the activation whose derivative results are multiplied with. Contiguous.
    input_activation : {"relu", "tanh"}, optional
        That activation.
    """

    bias: Array | None = None
    activation: str | None = None
    input: Array | None = None
    input_activation: str | None = None

    def arguments(self, anything: Array) -> tuple[Any, ...]:
        """What the kernels take, from ``bias`` on.

        Parameters
        ----------
        anything : array
            Stands for those that are not there; not read.

        Returns
        -------
        tuple
            Two arrays and three numbers.
        """
        arrays = (anything if array is None else array for array in (self.bias, self.input))
        numbers = (
            0 if name is None else 1 + ACTIVATIONS.index(name) for name in (self.activation, self.input_activation)
        )
        return *arrays, self.bias is not None, *numbers


def of_output(weight: Array, channels: int, bias: Array | None, activation: str | None) -> Epilogue:
    """Take activation(product + bias).

    Parameters
    ----------
    weight : array
        Of the product.
    channels : int
        Of the product.
    bias : array of shape (channels,), optional
        Of the weight's dtype.
    activation : {"relu", "tanh"}, optional
        Which one.

    Returns
    -------
    Epilogue
        For the kernels.
    """
    if bias is not None:
        check_shape("bias", bias, (channels,))
        if bias.dtype != weight.dtype:
            raise InputError(f"bias: expected dtype {weight.dtype} (that of x), got {bias.dtype}")
        bias = device().xp.ascontiguousarray(bias)
    if activation is not None:
        check_choice("activation", activation, ACTIVATIONS)
    return Epilogue(bias, activation)


def of_input(x: Array, activation: str | None) -> Epilogue:
    """Take the product, a gradient with respect to x, times the derivative of the activation that gave x.

    Parameters
    ----------
    x : array of shape (n, c, h, w)
        Output of the activation.
    activation : {"relu", "tanh"}, optional
        Which one.

    Returns
    -------
    Epilogue
        For the kernels.
    """
    if activation is None:
        return Epilogue()
    check_choice("input_activation", activation, ACTIVATIONS)
    return Epilogue(input=channels_last(x), input_activation=activation)
