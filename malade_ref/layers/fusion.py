"""Products together with the activations beside them: the same layers, with fewer passes over memory.

A backend adds the bias and applies an activation while it writes a product (the product's *epilogue*), and multiplies
the gradient with respect to a product's input by the derivative of the activation which that input came from. `fused`
rewrites a list of layers accordingly; the bits of all results are those of the layers one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Final

from ..arrays import Array
from .base import Activation, Layer, Parameters, Product
from .basic import Flatten, Reshape

# What the ops of all backends know as an epilogue.
EPILOGUES: Final = ("relu", "tanh")


@dataclass(frozen=True)
class FusedProduct(Layer):
    """A product that applies the activation behind it, and on the way back the derivative of the one before it.

    Parameters
    ----------
    product : Product
        The layer itself.
    activation, input_activation : {"relu", "tanh"}, optional
        Of the layer behind it, and what its input is the output of.
    """

    product: Product
    activation: str | None = None
    input_activation: str | None = None

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        return self.product.forward(ops, p, x, training, self.activation)

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return self.product.backward(ops, p, saved, dy, need_dx, need_parameters, self.input_activation)


@dataclass(frozen=True)
class FusedActivation(Layer):
    """An activation that a product beside it computes, at least in one direction.

    Parameters
    ----------
    activation : Activation
        The layer itself.
    forwards : bool
        Whether the product before it has applied it already.
    backwards : bool
        Whether the product behind it has multiplied by its derivative already.
    """

    activation: Activation
    forwards: bool = False
    backwards: bool = False

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        return (x, x) if self.forwards else self.activation.forward(ops, p, x, training)

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return (dy, {}) if self.backwards else self.activation.backward(ops, p, saved, dy, need_dx, need_parameters)


def fused(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Rewrite layers so that products compute the activations beside them.

    Parameters
    ----------
    layers : sequence of Layer
        What happens, in order.

    Returns
    -------
    tuple of Layer
        As many layers, which do the same, with the same parameters.
    """
    steps: list[Any] = [FusedProduct(layer) if isinstance(layer, Product) else layer for layer in layers]
    source = None  # number of the activation whose output the current layer gets, maybe in another shape
    for number, layer in enumerate(layers):
        if isinstance(layer, Product) and source is not None:
            steps[number] = replace(steps[number], input_activation=layers[source].kind)
            steps[source] = replace(steps[source], backwards=True)
        if isinstance(layer, Activation) and layer.kind in EPILOGUES:
            behind_product = number > 0 and isinstance(layers[number - 1], Product)
            if behind_product:
                steps[number - 1] = replace(steps[number - 1], activation=layer.kind)
            steps[number] = FusedActivation(layer, forwards=behind_product)
            source = number
        elif not isinstance(layer, Flatten | Reshape):
            source = None
    return tuple(steps)
