r"""Layers that hold layers: one after the other, or side by side with their outputs added or joined.

    sequential   y = f_k(...f_2(f_1(x)))
    residual     y = body(x) + shortcut(x)
    branches     y = f_1(x) + ... + f_k(x),  or the channels of f_1(x), ..., f_k(x) one after the other

A residual block whose activation comes afterwards is followed by it; one with pre-activation begins its body with it.
Parameters are named by their path: ``"3.body.0.weight"`` is the weight of the first layer in the body of layer 3.

Axes as in `layers.base`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from types import ModuleType
from typing import Any, ClassVar

from ..arrays import Array
from ..checks import InputError, check_choice
from .base import MAX_DEPTH, MAX_LAYERS, Layer, Parameters, Shape, register
from .fusion import fused

# More numbers than this in one image's activation are a mistake, or an attempt on the memory.
LARGEST_ACTIVATION = 1 << 26


class MisfitError(InputError):
    """Layers that do not fit each other: (path of the layer, what is wrong)."""

    def __str__(self) -> str:
        """Return the path and what is wrong, on one line."""
        return "layer {}: {}".format(*self.args)


@contextmanager
def within(name: str) -> Iterator[None]:
    """Complaints about shapes name the layer by its path.

    Parameters
    ----------
    name : str
        Of the part that is asked about its shapes.

    Raises
    ------
    MisfitError
        For an InputError from within.
    """
    try:
        yield
    except MisfitError as error:
        raise MisfitError(f"{name}.{error.args[0]}", error.args[1]) from None
    except InputError as error:
        raise MisfitError(name, str(error)) from None


@dataclass(frozen=True)
class Container(Layer):
    """A layer made of layers; what all of them have in common.

    Raises
    ------
    InputError
        If what they hold are no layers, too many, or too many within each other.
    """

    @property
    def parts(self) -> dict[str, Layer]:
        """The layers by the first part of their parameters' names."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        if self.depth > MAX_DEPTH:
            raise InputError(f"{self.kind}: expected at most {MAX_DEPTH} layers within each other")
        if self.num_layers > MAX_LAYERS:
            raise InputError(f"{self.kind}: expected at most {MAX_LAYERS} layers, got {self.num_layers}")

    @cached_property
    def depth(self) -> int:
        """How many layers are within each other."""
        return 1 + max((part.depth for part in self.parts.values() if isinstance(part, Container)), default=0)

    @cached_property
    def num_layers(self) -> int:
        """How many layers there are in all, containers among them."""
        return 1 + sum(part.num_layers if isinstance(part, Container) else 1 for part in self.parts.values())

    @property
    def mixes_samples(self) -> bool:  # type: ignore[override]
        """Whether a sample's output depends on the others of its batch during training."""
        return any(part.mixes_samples for part in self.parts.values())

    def leaves(self) -> Iterator[tuple[str, Layer]]:
        for name, part in self.parts.items():
            for path, leaf in part.leaves():
                yield f"{name}.{path}" if path else name, leaf

    def trains(self, name: str) -> bool:
        part, _, rest = name.partition(".")
        return self.parts[part].trains(rest)

    def parameter_shapes(self) -> dict[str, Shape]:
        shapes = {name: part.parameter_shapes() for name, part in self.parts.items()}
        return {f"{name}.{inner}": shape for name, own in shapes.items() for inner, shape in own.items()}

    def updated_buffers(self, p: Parameters, saved: Any) -> Parameters:
        own, updated = self.split(p), {}
        for (name, part), of_part in zip(self.parts.items(), saved, strict=False):
            for inner, value in part.updated_buffers(own[name], of_part).items():
                updated[f"{name}.{inner}"] = value
        return updated

    def at_step(self, seed: int, place: str, sample_index: Array, step: int) -> Layer:
        prefix = f"{place}." if place else ""
        parts = {name: part.at_step(seed, prefix + name, sample_index, step) for name, part in self.parts.items()}
        return self if all(parts[name] is part for name, part in self.parts.items()) else self.holding(parts)

    def holding(self, parts: dict[str, Any]) -> Layer:
        """Return a container of the same kind with other parts, by the same names."""
        raise NotImplementedError

    def split(self, p: Parameters) -> dict[str, Parameters]:
        """Return the parameters of each part, by the names that they have there."""
        own: dict[str, Parameters] = {name: {} for name in self.parts}
        for name, value in p.items():
            part, _, rest = name.partition(".")
            own[part][rest] = value
        return own


@register
@dataclass(frozen=True)
class Sequential(Container):
    """Layers one after the other.

    Parameters
    ----------
    layers : sequence of Layer
        What happens, in order; none for the identity.
    """

    kind: ClassVar[str] = "sequential"
    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers("sequential", self.layers))
        super().__post_init__()

    @cached_property
    def parts(self) -> dict[str, Layer]:
        return {str(number): layer for number, layer in enumerate(self.layers)}

    def holding(self, parts: dict[str, Any]) -> Layer:
        return Sequential(tuple(parts.values()))

    @cached_property
    def steps(self) -> dict[str, Layer]:
        """The layers with activations fused into the products beside them, by the same names."""
        return dict(zip(self.parts, fused(self.layers), strict=True))

    def output_shape(self, shape: Shape) -> Shape:
        for name, layer in self.parts.items():
            with within(name):
                shape = check_activation(layer, layer.output_shape(shape))
        return shape

    def largest(self, shape: Shape) -> int:
        largest = 0
        for layer in self.layers:
            largest, shape = max(largest, layer.largest(shape)), layer.output_shape(shape)
        return largest

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        own, tape = self.split(p), []
        for name, step in self.steps.items():
            x, saved = step.forward(ops, own[name], x, training)
            tape.append(saved)
        return x, tape

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        own, gradients = self.split(p), {}
        dx: Any = dy
        for name, step in reversed(self.steps.items()):
            needed = need_dx or (need_parameters and name != "0")
            dx, of_step = step.backward(ops, own[name], saved[int(name)], dx, needed, need_parameters)
            gradients.update({f"{name}.{inner}": value for inner, value in of_step.items()})
        return (dx if need_dx else None), gradients


@dataclass(frozen=True)
class SideBySide(Container):
    """Sequences of layers that get the same input, and whose outputs are joined."""

    @property
    def joined(self) -> str:
        """How: "add" or "concat"."""
        return "add"

    def output_shape(self, shape: Shape) -> Shape:
        shapes = []
        for name, part in self.parts.items():
            with within(name):
                shapes.append(part.output_shape(shape))
        first, *others = shapes
        if self.joined == "add":
            if any(other != first for other in others):
                raise InputError(f"{self.kind}: expected outputs of one shape to add, got {_listed(shapes)}")
            return first
        if any(other[1:] != first[1:] for other in others):
            raise InputError(f"{self.kind}: expected outputs that differ in channels only, got {_listed(shapes)}")
        return sum(own[0] for own in shapes), *first[1:]

    def largest(self, shape: Shape) -> int:
        return max(super().largest(shape), *(part.largest(shape) for part in self.parts.values()))

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        own = self.split(p)
        passes = [part.forward(ops, own[name], x, training) for name, part in self.parts.items()]
        outputs, tape = [y for y, _ in passes], [saved for _, saved in passes]
        if self.joined == "add":
            return ops.add_up(outputs), tape
        return ops.concatenate(outputs, axis=1), [*tape, [y.shape[1] for y in outputs]]

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        own, gradients, of_input = self.split(p), {}, []
        of_outputs = [dy] * len(self.parts)
        if self.joined == "concat":
            bounds = [0, *accumulate(saved[-1])]
            of_outputs = [dy[:, first:last] for first, last in pairwise(bounds)]
        for (name, part), of_part, dy_part in zip(self.parts.items(), saved, of_outputs, strict=False):
            dx, of_parameters = part.backward(ops, own[name], of_part, dy_part, need_dx, need_parameters)
            of_input.append(dx)
            gradients.update({f"{name}.{inner}": value for inner, value in of_parameters.items()})
        return (ops.add_up(of_input) if need_dx else None), gradients


@register
@dataclass(frozen=True)
class Residual(SideBySide):
    """A body and a way around it, added.

    Parameters
    ----------
    body : sequence of Layer
        What is learned on top of the shortcut.
    shortcut : sequence of Layer
        A projection where shapes change; none for the identity.
    """

    kind: ClassVar[str] = "residual"
    body: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        for name in ("body", "shortcut"):
            object.__setattr__(self, name, checked_layers(f"residual: {name}", getattr(self, name)))
        super().__post_init__()

    @cached_property
    def parts(self) -> dict[str, Layer]:
        return {"body": Sequential(self.body), "shortcut": Sequential(self.shortcut)}

    def holding(self, parts: dict[str, Any]) -> Layer:
        return Residual(**parts)


@register
@dataclass(frozen=True)
class Branches(SideBySide):
    """Sequences of layers, added or joined channel by channel.

    Parameters
    ----------
    branches : sequence of sequences of Layer
        Each gets the input; one without layers is the identity.
    join : {"add", "concat"}
        What becomes of their outputs.
    """

    kind: ClassVar[str] = "branches"
    branches: tuple[tuple[Layer, ...], ...]
    join: str = "add"

    def __post_init__(self) -> None:
        check_choice("branches: join", self.join, ("add", "concat"))
        branches: Any = self.branches
        if not isinstance(branches, list | tuple) or not branches:
            raise InputError("branches: expected at least one sequence of layers")
        branches = tuple(checked_layers(f"branches: branch {i}", branch) for i, branch in enumerate(branches))
        object.__setattr__(self, "branches", branches)
        super().__post_init__()

    @cached_property
    def parts(self) -> dict[str, Layer]:
        return {str(number): Sequential(branch) for number, branch in enumerate(self.branches)}

    def holding(self, parts: dict[str, Any]) -> Layer:
        return Branches(tuple(parts.values()), self.join)

    @property
    def joined(self) -> str:
        return self.join


def checked_layers(name: str, layers: Any) -> tuple[Layer, ...]:
    """Check that something is a sequence of layers.

    Parameters
    ----------
    name : str
        What to call it in the complaint.
    layers : sequence of Layer, or Sequential
        What to check.
    """
    if isinstance(layers, Sequential):
        return layers.layers
    if not isinstance(layers, list | tuple):
        raise InputError(f"{name}: expected a sequence of layers, got {type(layers).__name__}")
    for layer in layers:
        if not isinstance(layer, Layer):
            raise InputError(f"{name}: expected layers, got {type(layer).__name__}")
    return tuple(layers)


def check_activation(layer: Layer, shape: Shape) -> Shape:
    """Check that a layer's output is none of those that no memory holds.

    Parameters
    ----------
    layer : Layer
        Which one.
    shape : tuple of int
        Of its output.
    """
    if math.prod(shape) > LARGEST_ACTIVATION:
        raise InputError(f"{layer.kind}: an output of shape {shape} an image is too large")
    return shape


def _listed(shapes: Sequence[Shape]) -> str:
    return " and ".join(map(str, shapes))
