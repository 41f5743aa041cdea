r"""The layers of the paper's networks: convolution both ways, linear, ReLU, tanh, batch normalisation.

Axes as in `layers.base`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from ..arrays import Array
from ..checks import InputError, check_count, check_number
from ..ops.geometry import Padding, conv_geometry, dilated, transpose_geometry
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
    groups : int
        Parts of the channels that are convolved apart; both numbers of channels are multiples of it.
    dilation : tuple of two int
        Rows and columns from one tap of the kernel to the next.
    """

    kind: ClassVar[str] = "conv2d"
    optional: ClassVar[tuple[str, ...]] = ("groups", "dilation")
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Padding = "same"
    groups: int = 1
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        _check_convolution(self)

    def parameter_shapes(self) -> dict[str, Shape]:
        weight = self.out_channels, self.in_channels // self.groups, *self.kernel_size
        return {"weight": weight, "bias": (self.out_channels,)}

    def fans(self) -> tuple[float, float]:
        area = math.prod(self.kernel_size) / self.groups
        return self.in_channels * area, self.out_channels * area / math.prod(self.stride)

    def output_shape(self, shape: Shape) -> Shape:
        expect_shape(self, shape, (self.in_channels, *shape[1:]), 3)
        span = dilated(self.kernel_size, self.dilation)
        geometry = conv_geometry((shape[1], shape[2]), span, self.stride, self.padding)
        return self.out_channels, *geometry.output

    def forward(
        self, ops: ModuleType, p: Parameters, x: Array, training: bool, activation: str | None = None
    ) -> tuple[Array, Any]:
        epilogue = {"bias": p["bias"], "activation": activation}
        convolve = ops.conv2d if _is_plain(self) else ops.grouped_conv2d
        return convolve(x, p["weight"], **epilogue, **self._settings()), x

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
        convolve_vjp = ops.conv2d_vjp if _is_plain(self) else ops.grouped_conv2d_vjp
        dx, dweight = convolve_vjp(
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
        settings: dict[str, Any] = {"stride": self.stride, "padding": self.padding}
        return settings if _is_plain(self) else {**settings, "groups": self.groups, "dilation": self.dilation}


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
    groups, dilation
        As of `Conv2d`.
    """

    kind: ClassVar[str] = "conv_transpose2d"
    optional: ClassVar[tuple[str, ...]] = ("groups", "dilation")
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Padding = "same"
    output_padding: tuple[int, int] = (0, 0)
    groups: int = 1
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        _check_convolution(self)

    def parameter_shapes(self) -> dict[str, Shape]:
        weight = self.in_channels, self.out_channels // self.groups, *self.kernel_size
        return {"weight": weight, "bias": (self.out_channels,)}

    def fans(self) -> tuple[float, float]:
        area = math.prod(self.kernel_size)
        taps = max(1.0, area / math.prod(self.stride))
        return self.in_channels / self.groups * taps, self.out_channels / self.groups * area

    def output_shape(self, shape: Shape) -> Shape:
        expect_shape(self, shape, (self.in_channels, *shape[1:]), 3)
        span = dilated(self.kernel_size, self.dilation)
        geometry = transpose_geometry((shape[1], shape[2]), span, self.stride, self.padding, self.output_padding)
        return self.out_channels, *geometry.size

    def forward(
        self, ops: ModuleType, p: Parameters, x: Array, training: bool, activation: str | None = None
    ) -> tuple[Array, Any]:
        epilogue = {"bias": p["bias"], "activation": activation}
        convolve = ops.conv_transpose2d if _is_plain(self) else ops.grouped_conv_transpose2d
        return convolve(x, p["weight"], **epilogue, **self._settings()), x

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
        convolve_vjp = ops.conv_transpose2d_vjp if _is_plain(self) else ops.grouped_conv_transpose2d_vjp
        dx, dweight = convolve_vjp(
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
        settings: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
        }
        return settings if _is_plain(self) else {**settings, "groups": self.groups, "dilation": self.dilation}


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


def _check_convolution(layer: Conv2d | ConvTranspose2d) -> None:
    check_sizes(layer, counts=("in_channels", "out_channels", "groups"), pairs=("kernel_size", "stride", "dilation"))
    for name in ("in_channels", "out_channels"):
        if getattr(layer, name) % layer.groups:
            raise InputError(
                f"{layer.kind}: {name}: expected a multiple of groups {layer.groups}, got {getattr(layer, name)}"
            )


def _is_plain(layer: Conv2d | ConvTranspose2d) -> bool:
    """Whether the ops without groups and dilation serve."""
    return layer.groups == 1 and layer.dilation == (1, 1)
