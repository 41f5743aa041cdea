"""Layers as PyTorch's modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import layers as ours
from ..checks import InputError
from ..layers import Layer
from ..network import Network
from ..ops.geometry import conv_geometry, dilated, transpose_geometry
from .torch_modules import classes

Shape = tuple[int, ...]
Arrays = dict[str, Any]

BATCH_NORM_NAMES = {"gain": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}
NORM_NAMES = {"gain": "weight", "bias": "bias"}


def module_of(torch: Any, network: Network) -> Any:
    """The same network as a module, see `to_torch`.

    Parameters
    ----------
    torch : module
        PyTorch.
    network : Network
        Of any backend.

    Returns
    -------
    torch.nn.Sequential
        In evaluation mode, on the CPU.
    """
    tensors = {
        name: torch.tensor(np.array(network.ops.to_host(array)), dtype=getattr(torch, network.dtype))
        for name, array in network.params.items()
    }
    writer = _Writer(torch, getattr(torch, network.dtype))
    module = writer.sequence(network.layers, network.input_shape, tensors)
    if network.residual:
        module = torch.nn.Sequential(classes()["SideBySide"]([module, torch.nn.Identity()]))
    return module.eval()


class _Writer:
    """Writes layers as modules of one dtype."""

    def __init__(self, torch: Any, dtype: Any) -> None:
        self.torch, self.nn, self.dtype = torch, torch.nn, dtype

    def sequence(self, layers: Sequence[Layer], shape: Shape, params: Arrays) -> Any:
        """Layers one after the other."""
        modules: list[Any] = []
        for number, layer in enumerate(layers):
            modules += self.modules(layer, shape, _within(str(number), params))
            shape = layer.output_shape(shape)
        return self.nn.Sequential(*modules)

    def modules(self, layer: Layer, shape: Shape, params: Arrays) -> list[Any]:
        """The modules that do what a layer does to an input of the given shape."""
        nn = self.nn
        match layer:
            case ours.Sequential():
                return [self.sequence(layer.layers, shape, params)]
            case ours.Residual():
                parts = {"body": layer.body, "shortcut": layer.shortcut}
                branches = [self.sequence(part, shape, _within(name, params)) for name, part in parts.items()]
                return [classes()["SideBySide"](branches)]
            case ours.Branches():
                numbered = enumerate(layer.branches)
                branches = [self.sequence(part, shape, _within(str(number), params)) for number, part in numbered]
                return [classes()["SideBySide"](branches, layer.join)]
            case ours.Conv2d():
                return self._conv(layer, shape, params)
            case ours.ConvTranspose2d():
                return self._conv_transpose(layer, shape, params)
            case ours.Linear():
                return [self._holding(params, nn.Linear, layer.in_features, layer.out_features)]
            case ours.Flatten():
                return [nn.Flatten()]
            case ours.Reshape():
                return [*([] if len(shape) == 1 else [nn.Flatten()]), nn.Unflatten(1, layer.shape)]
            case ours.Upsample():
                size = {"scale_factor": layer.scale_factor, "size": layer.output_size}
                corners = {"align_corners": layer.align_corners} if layer.mode == "bilinear" else {}
                return [nn.Upsample(**size, mode=layer.mode, **corners)]
            case ours.GlobalAvgPool():
                return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            case ours.PadChannels():
                return [classes()["PadChannels"](layer.before, layer.after)]
            case ours.Normalize():
                tail = [1] * (len(shape) - 1)
                numbers = (self.torch.tensor(values, dtype=self.dtype) for values in (layer.mean, layer.std))
                return [classes()["Normalize"](*(values.reshape(-1, *tail) for values in numbers))]
        return [self._pooling_or_activation(layer) or self._normalisation(layer, shape, params)]

    def _pooling_or_activation(self, layer: Layer) -> Any:
        """The module of a layer without parameters; None for another."""
        nn = self.nn
        match layer:
            case ours.MaxPool2d():
                return nn.MaxPool2d(layer.size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
            case ours.AvgPool2d():
                return nn.AvgPool2d(
                    layer.size, layer.stride, layer.padding, layer.ceil_mode, count_include_pad=layer.count_include_pad
                )
            case ours.AdaptiveAvgPool2d():
                return nn.AdaptiveAvgPool2d(layer.output_size)
            case ours.ReLU():
                return nn.ReLU()
            case ours.Tanh():
                return nn.Tanh()
            case ours.Sigmoid():
                return nn.Sigmoid()
            case ours.LeakyReLU():
                return nn.LeakyReLU(layer.slope)
            case ours.ELU():
                return nn.ELU(layer.alpha)
            case ours.SiLU():
                return nn.SiLU()
            case ours.GELU():
                return nn.GELU(layer.approximate)
            case ours.Softplus():
                return nn.Softplus(layer.beta, layer.threshold)
            case ours.Hardtanh():
                return nn.Hardtanh(layer.low, layer.high)
            case ours.Dropout():
                return nn.Dropout(layer.p)
        return None

    def _normalisation(self, layer: Layer, shape: Shape, params: Arrays) -> Any:
        nn = self.nn
        affine = {ours: params[ours] for ours in NORM_NAMES if ours in params}
        state = {NORM_NAMES[name]: value for name, value in affine.items()}
        match layer:
            case ours.BatchNorm():
                make = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
                state = {theirs: params[name] for name, theirs in BATCH_NORM_NAMES.items()}
                state["num_batches_tracked"] = self.torch.tensor(0)
                return self._holding(state, make, layer.channels, eps=layer.epsilon, momentum=layer.momentum)
            case ours.PReLU():
                return self._holding({"weight": params["slope"]}, nn.PReLU, layer.channels)
            case ours.GroupNorm():
                sizes = layer.groups, layer.channels, layer.epsilon, layer.affine
                return self._holding(state, nn.GroupNorm, *sizes)
            case ours.LayerNorm():
                return self._holding(state, nn.LayerNorm, layer.shape, layer.epsilon, layer.affine)
            case ours.InstanceNorm():
                return self._holding(state, nn.InstanceNorm2d, layer.channels, eps=layer.epsilon, affine=layer.affine)
        raise InputError(f"{layer.kind}: has no counterpart in PyTorch here")

    def _conv(self, layer: ours.Conv2d, shape: Shape, params: Arrays) -> list[Any]:
        span = dilated(layer.kernel_size, layer.dilation)
        g = conv_geometry((shape[1], shape[2]), span, layer.stride, layer.padding)
        (top, bottom), (left, right) = g.pads
        symmetric = top == bottom and left == right
        settings = {"stride": layer.stride, "padding": (top, left) if symmetric else 0}
        settings |= {"groups": layer.groups, "dilation": layer.dilation}
        channels = layer.in_channels, layer.out_channels
        conv = self._holding(params, self.nn.Conv2d, *channels, layer.kernel_size, **settings)
        return [conv] if symmetric else [self.nn.ZeroPad2d((left, right, top, bottom)), conv]

    def _conv_transpose(self, layer: ours.ConvTranspose2d, shape: Shape, params: Arrays) -> list[Any]:
        size = shape[1], shape[2]
        span = dilated(layer.kernel_size, layer.dilation)
        g = transpose_geometry(size, span, layer.stride, layer.padding, layer.output_padding)
        (top, bottom), (left, right) = g.pads
        # Rows and columns beyond the last kernel tap, before anything is cropped.
        extra = tuple(
            large - ((h - 1) * s + k - sum(pads))
            for large, h, s, k, pads in zip(g.size, size, g.stride, g.kernel, g.pads, strict=True)
        )
        # PyTorch crops as much at the bottom as at the top, and then adds the output padding.
        output_padding = extra[0] + top - bottom, extra[1] + left - right
        direct = all(0 <= p < s for p, s in zip(output_padding, g.stride, strict=True))
        settings = {
            "stride": layer.stride,
            "padding": (top, left) if direct else 0,
            "output_padding": output_padding if direct else extra,
            "groups": layer.groups,
            "dilation": layer.dilation,
        }
        channels = layer.in_channels, layer.out_channels
        conv = self._holding(params, self.nn.ConvTranspose2d, *channels, layer.kernel_size, **settings)
        return [conv] if direct else [conv, self.nn.ZeroPad2d((-left, -right, -top, -bottom))]

    def _holding(self, state: Arrays, make: Any, *sizes: Any, **settings: Any) -> Any:
        """A module with the given tensors; PyTorch's random initialisation, and its generator, are left alone."""
        module = self.nn.utils.skip_init(make, *sizes, dtype=self.dtype, **settings)
        module.load_state_dict(state)
        return module


def _within(name: str, params: Arrays) -> Arrays:
    """The parameters of one part, by the names that they have there."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}
