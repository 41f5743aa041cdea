r"""What a layer is: a description without parameters, with a forward and a backward pass over the ops of a backend.

`forward` returns (y, saved); `backward` turns saved and dy into (dx, gradients of the parameters). Neither keeps
anything: what a layer remembers is in the caller's hands. `register` makes a kind of layer known to files.

Axes: n images, c channels, (h, w) pixels; `dy` is the gradient of a scalar with respect to y.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from ..arrays import Array
from ..checks import InputError, check_choice, check_count
from ..ops.geometry import as_pair

Shape = tuple[int, ...]
Parameters = dict[str, Array]


@dataclass(frozen=True)
class Layer:
    """Description of a layer without parameters; the others extend it."""

    kind: ClassVar[str] = ""
    buffers: ClassVar[tuple[str, ...]] = ()
    mixes_samples: ClassVar[bool] = False
    initial: ClassVar[dict[str, float]] = {}  # where parameters start that start neither at random nor as usual
    optional: ClassVar[tuple[str, ...]] = ()

    def leaves(self) -> Iterator[tuple[str, Layer]]:
        """Yield the layers that hold no others, each with its path (``"body.0"``; the layer itself: ``""``)."""
        yield "", self

    def description(self) -> dict[str, Any]:
        """Return the kind and the settings; of those in `optional` only what is not the default, as in older files."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = [name for name in settings if name not in self.optional or settings[name] != getattr(type(self), name)]
        return {"kind": self.kind, **{name: _described(settings[name]) for name in kept}}

    def trains(self, name: str) -> bool:
        """Whether a parameter is trained by gradients, as opposed to a running average."""
        return name not in self.buffers

    def largest(self, shape: Shape) -> int:
        """Return the numbers in the largest activation that comes of one input of the given shape."""
        return math.prod(self.output_shape(shape))

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return the shapes of the parameters by name."""
        return {}

    def fans(self) -> tuple[float, float]:
        """Return the number of inputs of an output and the number of outputs of an input."""
        return 1.0, 1.0

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of one output for one input of the given shape."""
        return shape

    def at_step(self, seed: int, place: str, sample_index: Array, step: int) -> Layer:
        """The layer for one step of a training, with what it draws at random; itself if it draws nothing.

        A layer that holds others asks each of them.

        Parameters
        ----------
        seed : int
            Of all random choices.
        place : str
            Where the layer is, as in the names of parameters; tells its numbers from those of other layers.
        sample_index : array of shape (n,), integer
            Numbers of the samples in the training set.
        step : int
            Which numbers of these samples: the epoch.

        Returns
        -------
        Layer
            For batches of just these samples.
        """
        return self

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        """Output, and what `backward` needs.

        Parameters
        ----------
        ops : module
            The backend.
        p : dict of str to array
            The layer's parameters.
        x : array of shape (n, ...)
            Inputs.
        training : bool
            Whether statistics are those of the batch.

        Returns
        -------
        y : array of shape (n, ...)
            Outputs.
        saved : object
            For `backward`.
        """
        raise NotImplementedError

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        """Gradients with respect to the input and to the parameters.

        Parameters
        ----------
        ops : module
            The backend.
        p : dict of str to array
            The layer's parameters.
        saved : object
            From `forward`.
        dy : array of the output's shape
            Gradient with respect to the output.
        need_dx, need_parameters : bool
            Which gradients to compute.

        Returns
        -------
        dx : array of the input's shape, or None
            Gradient with respect to the input.
        gradients : dict of str to array
            Gradients with respect to the parameters, summed over samples.
        """
        raise NotImplementedError

    def updated_buffers(self, p: Parameters, saved: Any) -> Parameters:
        """New values of the parameters that no gradient trains.

        Parameters
        ----------
        p : dict of str to array
            The layer's parameters.
        saved : object
            From `forward` with ``training=True``.

        Returns
        -------
        dict of str to array
            New values, by name.
        """
        return {}


@dataclass(frozen=True)
class Product(Layer):
    """A product with a weight, and a bias: what can compute activations beside it along the way."""

    def forward(
        self, ops: ModuleType, p: Parameters, x: Array, training: bool, activation: str | None = None
    ) -> tuple[Array, Any]:
        """Output, and what `backward` needs.

        Parameters
        ----------
        ops, p, x, training
            As of `Layer.forward`.
        activation : {"relu", "tanh"}, optional
            Of the next layer, to be applied as well.

        Returns
        -------
        y : array of shape (n, ...)
            Outputs.
        saved : object
            For `backward`.
        """
        raise NotImplementedError

    def backward(
        self,
        ops: ModuleType,
        p: Parameters,
        saved: Any,
        dy: Array,
        need_dx: bool,
        need_parameters: bool,
        input_activation: str | None = None,
    ) -> tuple[Array | None, Parameters]:
        """Gradients with respect to the input and to the parameters.

        Parameters
        ----------
        ops, p, saved, dy, need_dx, need_parameters
            As of `Layer.backward`.
        input_activation : {"relu", "tanh"}, optional
            Of a layer before: what the input is the output of.

        Returns
        -------
        dx : array of the input's shape, or None
            Gradient with respect to the input, or to what its activation was applied to.
        gradients : dict of str to array
            Gradients with respect to the parameters, summed over samples.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Activation(Layer):
    """A function of each number, known to the ops by the layer's kind."""


LAYERS: dict[str, type[Layer]] = {}
L = TypeVar("L", bound=type[Layer])


def register(layer: L) -> L:
    """Make a kind of layer known, so that networks with it can be written to files and read again.

    Parameters
    ----------
    layer : type of Layer
        The class, with a `kind` of its own.

    Returns
    -------
    type of Layer
        The class itself.
    """
    if LAYERS.setdefault(layer.kind, layer) is not layer:
        raise InputError(f"layer kind: {layer.kind!r} is taken by {LAYERS[layer.kind].__name__}")
    return layer


# What a description from a file may hold.
MAX_DEPTH = 32
MAX_LAYERS = 10_000


def layer_from(description: Mapping[str, Any]) -> Layer:
    """Build a layer, with those that it holds, from its JSON description; lists become tuples.

    Parameters
    ----------
    description : dict
        The layer's "kind" and its settings.

    Raises
    ------
    InputError
        If a kind is not known, a setting is malformed, or there are too many layers or too many within each other.
    """
    return _layer_from(description, 0, iter(range(MAX_LAYERS)))


def _layer_from(description: Mapping[str, Any], depth: int, numbers: Iterator[int]) -> Layer:
    if depth > MAX_DEPTH:
        raise InputError(f"layers: expected at most {MAX_DEPTH} within each other")
    if next(numbers, None) is None:
        raise InputError(f"layers: expected at most {MAX_LAYERS}")

    def value_of(value: Any, lists: int = 0) -> Any:
        if isinstance(value, list) and lists < MAX_DEPTH:
            return tuple(value_of(item, lists + 1) for item in value)
        return _layer_from(value, depth + 1, numbers) if isinstance(value, dict) and "kind" in value else value

    settings = {name: value_of(value) for name, value in description.items()}
    kind = check_choice("layer kind", settings.pop("kind"), tuple(LAYERS))
    return LAYERS[kind](**settings)


def _described(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_described(item) for item in value)
    return value.description() if isinstance(value, Layer) else value


def check_sizes(layer: Layer, *, counts: Sequence[str] = (), pairs: Sequence[str] = ()) -> None:
    """Check settings of a layer that are integers >= 1, or two of them; a description may come from a file.

    Parameters
    ----------
    layer : Layer
        Whose settings.
    counts, pairs : sequence of str
        Names of the settings that are one integer, and of those that are two.
    """
    for name in counts:
        check_count(f"{layer.kind}: {name}", getattr(layer, name))
    for name in pairs:
        object.__setattr__(layer, name, as_pair(f"{layer.kind}: {name}", getattr(layer, name), minimum=1))


def expect_shape(layer: Layer, shape: Shape, expected: Shape, num_axes: int) -> None:
    """Check the shape of what a layer gets.

    Parameters
    ----------
    layer : Layer
        Who gets it.
    shape, expected : tuple of int
        What comes, and what must come.
    num_axes : int
        Length of `expected`.
    """
    if len(shape) != num_axes or shape != expected:
        raise InputError(f"{layer.kind}: expected an input of shape {expected}, got {shape} from the layer before")
