"""What a module computes, as a graph of layers, and the graph as layers within layers.

A `Value` is what a layer made of other values; values know their *dominator*, the last value that everything on their
way from the input has in common. A value that joins others becomes branches from its dominator on. Where branches share
more than that, the shared layers stand in each of them: outputs are the same, and parameters are copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..checks import InputError
from ..layers import Branches, Layer, Residual
from ..layers.base import MAX_LAYERS
from ..ops.geometry import Pads

Shape = tuple[int, ...]
Arrays = dict[str, Any]
NO_PADS: Pads = ((0, 0), (0, 0))


@dataclass(eq=False)
class Value:
    """What a layer, or a join of values, gives for one input.

    Attributes
    ----------
    shape : tuple of int
        Of one output.
    inputs : tuple of Value
        What it is made of; none for the input itself.
    layer : Layer, optional
        What makes it of its only input; None for a join.
    arrays : dict of str to array
        The layer's parameters.
    join : {"add", "concat"}
        What becomes of several inputs.
    pads : pair of pairs of int
        Zeros around it that the convolution behind it has to add.
    where : str
        What to call it in complaints.
    """

    shape: Shape
    inputs: tuple[Value, ...] = ()
    layer: Layer | None = None
    arrays: Arrays = field(default_factory=dict)
    join: str = ""
    pads: Pads = NO_PADS
    where: str = ""

    def __post_init__(self) -> None:
        self.dominator = _common(self.inputs) if self.inputs else None
        self.depth: int = 0 if self.dominator is None else self.dominator.depth + 1


def _common(values: Sequence[Value]) -> Value:
    first, *others = values
    for other in others:
        while first is not other:
            if first.depth < other.depth:
                first, other = other, first
            assert first.dominator is not None
            first = first.dominator
    return first


def layers_of(value: Value, start: Value) -> tuple[list[Layer], Arrays]:
    """Layers that make a value of another one.

    Parameters
    ----------
    value : Value
        What comes out.
    start : Value
        What goes in; everything on the way to ``value`` comes from it.

    Returns
    -------
    layers : list of Layer
        In order.
    arrays : dict of str to array
        Their parameters, by the names that a network of these layers gives them.

    Raises
    ------
    InputError
        If too many layers would be copies of each other.
    """
    return _named(_items(value, start, [0]))


def _items(value: Value, start: Value, count: list[int]) -> list[Any]:
    """Pairs (layer, arrays), or (value, branches of such) for joins, in order."""
    items: list[Any] = []
    while value is not start:
        count[0] += 1
        if count[0] > MAX_LAYERS:
            raise InputError(
                f"{value.where}: its branches share so much that more than {MAX_LAYERS} layers would come of it"
            )
        before = value.dominator
        assert before is not None
        if value.join:
            items.append((value, [_items(branch, before, count) for branch in value.inputs]))
        else:
            items.append((value.layer, value.arrays))
        value = before
    return items[::-1]


def _named(items: list[Any]) -> tuple[list[Layer], Arrays]:
    layers: list[Layer] = []
    arrays: Arrays = {}
    for number, (item, content) in enumerate(items):
        if isinstance(item, Layer):
            layers.append(item)
            arrays |= {f"{number}.{name}": array for name, array in content.items()}
            continue
        parts = [_named(branch) for branch in content]
        names = [str(i) for i in range(len(parts))]
        layer: Layer
        if item.join == "add" and len(parts) == 2 and any(own for own, _ in parts):
            # What is longer is the body: beside it stands a projection or nothing.
            parts.sort(key=lambda part: len(part[0]), reverse=True)
            layer, names = Residual(tuple(parts[0][0]), tuple(parts[1][0])), ["body", "shortcut"]
        else:
            layer = Branches(tuple(tuple(own) for own, _ in parts), item.join)
        layers.append(layer)
        for name, (_, own) in zip(names, parts, strict=True):
            arrays |= {f"{number}.{name}.{inner}": array for inner, array in own.items()}
    return layers, arrays
