r"""Layers: descriptions without parameters, each with a forward and a backward pass over the ops of a backend.

`forward` returns (y, saved); `backward` turns saved and dy into (dx, gradients of the parameters). Neither keeps
anything: what a layer remembers is in the caller's hands.

Axes: n images, c channels, (h, w) pixels; `dy` is the gradient of a scalar with respect to y.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from .arrays import Array
from .checks import InputError, check_choice, check_count, check_number
from .ops.geometry import Padding, as_pair, conv_geometry, transpose_geometry

Shape = tuple[int, ...]
Parameters = dict[str, Array]


@dataclass(frozen=True)
class Layer:
    """Description of a layer without parameters; the others extend it."""

    kind: ClassVar[str] = ""
    buffers: ClassVar[tuple[str, ...]] = ()
    mixes_samples: ClassVar[bool] = False

    def parameter_shapes(self) -> dict[str, Shape]:
        """Return the shapes of the parameters by name."""
        return {}

    def fans(self) -> tuple[float, float]:
        """Return the number of inputs of an output and the number of outputs of an input."""
        return 1.0, 1.0

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of one output for one input of the given shape."""
        return shape

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


@dataclass(frozen=True)
class Conv2d(Product):
    """Convolution and bias.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels.
    kernel_size, stride : tuple of two int
        Rows and columns.
    padding : str, int or pairs of int
        As in the op.
    """

    kind: ClassVar[str] = "conv2d"
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Padding = "same"

    def __post_init__(self) -> None:
        _check_sizes(self, counts=("in_channels", "out_channels"), pairs=("kernel_size", "stride"))

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.out_channels, self.in_channels, *self.kernel_size), "bias": (self.out_channels,)}

    def fans(self) -> tuple[float, float]:
        area = math.prod(self.kernel_size)
        return self.in_channels * area, self.out_channels * area / math.prod(self.stride)

    def output_shape(self, shape: Shape) -> Shape:
        _expect(self, shape, (self.in_channels, *shape[1:]), 3)
        geometry = conv_geometry((shape[1], shape[2]), self.kernel_size, self.stride, self.padding)
        return self.out_channels, *geometry.output

    def forward(
        self, ops: ModuleType, p: Parameters, x: Array, training: bool, activation: str | None = None
    ) -> tuple[Array, Any]:
        finish = {"bias": p["bias"], "activation": activation}
        return ops.conv2d(x, p["weight"], stride=self.stride, padding=self.padding, **finish), x

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
        dx, dweight = ops.conv2d_vjp(
            dy,
            saved,
            p["weight"],
            stride=self.stride,
            padding=self.padding,
            need_dx=need_dx,
            need_dweight=need_parameters,
            input_activation=input_activation,
        )
        return dx, {"weight": dweight, "bias": ops.add_bias_vjp(dy)} if need_parameters else {}


@dataclass(frozen=True)
class ConvTranspose2d(Product):
    """Transposed convolution and bias.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels.
    kernel_size, stride : tuple of two int
        Rows and columns.
    padding : str, int or pairs of int
        As in the op.
    output_padding : tuple of two int
        Rows and columns added at the bottom and at the right.
    """

    kind: ClassVar[str] = "conv_transpose2d"
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Padding = "same"
    output_padding: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        _check_sizes(self, counts=("in_channels", "out_channels"), pairs=("kernel_size", "stride"))

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.in_channels, self.out_channels, *self.kernel_size), "bias": (self.out_channels,)}

    def fans(self) -> tuple[float, float]:
        area = math.prod(self.kernel_size)
        return self.in_channels * max(1.0, area / math.prod(self.stride)), self.out_channels * area

    def output_shape(self, shape: Shape) -> Shape:
        _expect(self, shape, (self.in_channels, *shape[1:]), 3)
        geometry = transpose_geometry(
            (shape[1], shape[2]), self.kernel_size, self.stride, self.padding, self.output_padding
        )
        return self.out_channels, *geometry.size

    def forward(
        self, ops: ModuleType, p: Parameters, x: Array, training: bool, activation: str | None = None
    ) -> tuple[Array, Any]:
        finish = {"bias": p["bias"], "activation": activation}
        return ops.conv_transpose2d(x, p["weight"], **finish, **self._settings()), x

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
        dx, dweight = ops.conv_transpose2d_vjp(
            dy,
            saved,
            p["weight"],
            need_dx=need_dx,
            need_dweight=need_parameters,
            input_activation=input_activation,
            **self._settings(),
        )
        return dx, {"weight": dweight, "bias": ops.add_bias_vjp(dy)} if need_parameters else {}

    def _settings(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "output_padding": self.output_padding}


@dataclass(frozen=True)
class Linear(Product):
    """Matrix product and bias.

    Parameters
    ----------
    in_features, out_features : int
        Widths.
    """

    kind: ClassVar[str] = "linear"
    in_features: int
    out_features: int

    def __post_init__(self) -> None:
        _check_sizes(self, counts=("in_features", "out_features"))

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}

    def fans(self) -> tuple[float, float]:
        return float(self.in_features), float(self.out_features)

    def output_shape(self, shape: Shape) -> Shape:
        _expect(self, shape, (self.in_features,), 1)
        return (self.out_features,)

    def forward(
        self, ops: ModuleType, p: Parameters, x: Array, training: bool, activation: str | None = None
    ) -> tuple[Array, Any]:
        return ops.linear(x, p["weight"], bias=p["bias"], activation=activation), x

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
        needs = {"need_dx": need_dx, "need_dweight": need_parameters}
        dx, dweight = ops.linear_vjp(dy, saved, p["weight"], **needs, input_activation=input_activation)
        return dx, {"weight": dweight, "bias": ops.add_bias_vjp(dy)} if need_parameters else {}


@dataclass(frozen=True)
class ReLU(Activation):
    """Rectifier."""

    kind: ClassVar[str] = "relu"

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        y = ops.relu(x)
        return y, y

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return (ops.relu_vjp(dy, saved) if need_dx else None), {}


@dataclass(frozen=True)
class Tanh(Activation):
    """Hyperbolic tangent."""

    kind: ClassVar[str] = "tanh"

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        y = ops.tanh(x)
        return y, y

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return (ops.tanh_vjp(dy, saved) if need_dx else None), {}


@dataclass(frozen=True)
class Flatten(Layer):
    """Image to vector, channel by channel."""

    kind: ClassVar[str] = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        return x.reshape(len(x), math.prod(x.shape[1:])), x.shape

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return dy.reshape(saved), {}


@dataclass(frozen=True)
class Reshape(Layer):
    """Vector to image, channel by channel.

    Parameters
    ----------
    shape : tuple of int
        Shape (c, h, w) of one output.

    Raises
    ------
    InputError
        If it is not that.
    """

    kind: ClassVar[str] = "reshape"
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple):
            raise InputError(f"reshape: expected a tuple of sizes, got {self.shape!r}")
        for size in self.shape:
            check_count("reshape: size", size)

    def output_shape(self, shape: Shape) -> Shape:
        if math.prod(shape) != math.prod(self.shape):
            raise InputError(f"reshape: cannot make {self.shape} of {shape}")
        return self.shape

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        return x.reshape(len(x), *self.shape), x.shape

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return dy.reshape(saved), {}


@dataclass(frozen=True)
class AvgPool2d(Layer):
    """Means over tiles of pixels.

    Parameters
    ----------
    size : tuple of two int
        Height and width of a tile.
    """

    kind: ClassVar[str] = "avg_pool2d"
    size: tuple[int, int]

    def __post_init__(self) -> None:
        _check_sizes(self, pairs=("size",))

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3 or shape[1] < self.size[0] or shape[2] < self.size[1]:
            raise InputError(f"avg_pool2d: tile {self.size} does not fit an input of shape {shape}")
        return shape[0], shape[1] // self.size[0], shape[2] // self.size[1]

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        return ops.avg_pool2d(x, size=self.size), x.shape

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return (ops.avg_pool2d_vjp(dy, saved, size=self.size) if need_dx else None), {}


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalisation: the batch's statistics in training, running averages otherwise.

    Parameters
    ----------
    channels : int
        Channels (or features).
    epsilon : float
        Added to the variance.
    momentum : float
        Weight of a new batch in the running averages.
    """

    kind: ClassVar[str] = "batch_norm"
    buffers: ClassVar[tuple[str, ...]] = ("mean", "variance")
    mixes_samples: ClassVar[bool] = True
    channels: int
    epsilon: float = 1e-5
    momentum: float = 0.1

    def __post_init__(self) -> None:
        _check_sizes(self, counts=("channels",))
        check_number("batch_norm: epsilon", self.epsilon, above=0)
        check_number("batch_norm: momentum", self.momentum, minimum=0, maximum=1)

    def parameter_shapes(self) -> dict[str, Shape]:
        return dict.fromkeys(("gain", "bias", "mean", "variance"), (self.channels,))

    def output_shape(self, shape: Shape) -> Shape:
        _expect(self, shape, (self.channels, *shape[1:]), len(shape))
        return shape

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        if training:
            y, mean, variance = ops.batch_norm(x, p["gain"], p["bias"], epsilon=self.epsilon)
            return y, (x, mean, variance)
        y = ops.batch_norm_inference(x, p["gain"], p["bias"], p["mean"], p["variance"], epsilon=self.epsilon)
        return y, None

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        if saved is None:
            if need_parameters:
                raise InputError("batch_norm: gradients of the parameters need a forward pass with training=True")
            return ops.batch_norm_inference_vjp(dy, p["gain"], p["variance"], epsilon=self.epsilon), {}
        x, mean, variance = saved
        dx, dgain, dbias = ops.batch_norm_vjp(dy, x, p["gain"], mean, variance, epsilon=self.epsilon)
        return dx, {"gain": dgain, "bias": dbias}

    def updated_buffers(self, p: Parameters, saved: Any) -> Parameters:
        x, mean, variance = saved
        count = math.prod(x.shape) // self.channels
        unbiased = variance * (count / max(1, count - 1))
        old, new = 1 - self.momentum, self.momentum
        return {"mean": old * p["mean"] + new * mean, "variance": old * p["variance"] + new * unbiased}


LAYERS: dict[str, type[Layer]] = {
    layer.kind: layer for layer in (Conv2d, ConvTranspose2d, Linear, ReLU, Tanh, Flatten, Reshape, AvgPool2d, BatchNorm)
}


def parameter_shapes_of(layers: Sequence[Layer]) -> dict[str, Shape]:
    """Shapes of the parameters of a sequence of layers, named ``"<layer number>.<name>"``.

    Parameters
    ----------
    layers : sequence of Layer
        The layers.

    Returns
    -------
    dict of str to tuple of int
        The shapes, in order.
    """
    return {
        f"{number}.{name}": shape
        for number, layer in enumerate(layers)
        for name, shape in layer.parameter_shapes().items()
    }


def layer_from(description: Mapping[str, Any]) -> Layer:
    """Build a layer from its JSON description; lists become tuples.

    Parameters
    ----------
    description : dict
        The layer's "kind" and its settings.

    Returns
    -------
    Layer
        The layer.

    Raises
    ------
    InputError
        If the kind is not known or a setting is malformed.
    """
    settings = {name: _tuples(value) for name, value in description.items()}
    kind = check_choice("layer kind", settings.pop("kind"), tuple(LAYERS))
    return LAYERS[kind](**settings)


def _check_sizes(layer: Layer, *, counts: Sequence[str] = (), pairs: Sequence[str] = ()) -> None:
    """Check settings of a layer that are integers >= 1, or two of them; a description may come from a file."""
    for name in counts:
        check_count(f"{layer.kind}: {name}", getattr(layer, name))
    for name in pairs:
        object.__setattr__(layer, name, as_pair(f"{layer.kind}: {name}", getattr(layer, name), minimum=1))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _expect(layer: Layer, shape: Shape, expected: Shape, num_axes: int) -> None:
    if len(shape) != num_axes or shape != expected:
        raise InputError(f"{layer.kind}: expected an input of shape {expected}, got {shape} from the layer before")
