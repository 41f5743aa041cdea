r"""The layers of the paper's networks: convolution both ways, linear, ReLU, tanh; average pooling, batch normalisation.

Axes as in `layers.base`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from ..arrays import Array
from ..checks import InputError, check_count, check_number
from ..ops.geometry import Padding, conv_geometry, transpose_geometry
from .base import Activation, Layer, Parameters, Product, Shape, check_sizes, expect_shape, register


@register
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
        check_sizes(self, counts=("in_channels", "out_channels"), pairs=("kernel_size", "stride"))

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.out_channels, self.in_channels, *self.kernel_size), "bias": (self.out_channels,)}

    def fans(self) -> tuple[float, float]:
        area = math.prod(self.kernel_size)
        return self.in_channels * area, self.out_channels * area / math.prod(self.stride)

    def output_shape(self, shape: Shape) -> Shape:
        expect_shape(self, shape, (self.in_channels, *shape[1:]), 3)
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


@register
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
        check_sizes(self, counts=("in_channels", "out_channels"), pairs=("kernel_size", "stride"))

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.in_channels, self.out_channels, *self.kernel_size), "bias": (self.out_channels,)}

    def fans(self) -> tuple[float, float]:
        area = math.prod(self.kernel_size)
        return self.in_channels * max(1.0, area / math.prod(self.stride)), self.out_channels * area

    def output_shape(self, shape: Shape) -> Shape:
        expect_shape(self, shape, (self.in_channels, *shape[1:]), 3)
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


@register
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
        check_sizes(self, counts=("in_features", "out_features"))

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}

    def fans(self) -> tuple[float, float]:
        return float(self.in_features), float(self.out_features)

    def output_shape(self, shape: Shape) -> Shape:
        expect_shape(self, shape, (self.in_features,), 1)
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


@register
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


@register
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


@register
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


@register
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


@register
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
        check_sizes(self, pairs=("size",))

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


@register
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
        check_sizes(self, counts=("channels",))
        check_number("batch_norm: epsilon", self.epsilon, above=0)
        check_number("batch_norm: momentum", self.momentum, minimum=0, maximum=1)

    def parameter_shapes(self) -> dict[str, Shape]:
        return dict.fromkeys(("gain", "bias", "mean", "variance"), (self.channels,))

    def output_shape(self, shape: Shape) -> Shape:
        expect_shape(self, shape, (self.channels, *shape[1:]), len(shape))
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
