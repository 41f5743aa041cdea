r"""Networks from and to PyTorch.

Layers and parameters correspond one to one, up to two conventions:

- PyTorch pads symmetrically, so a convolution with other pads becomes ``ZeroPad2d`` and ``Conv2d``. "same" with a
  stride (TensorFlow's convention) is such a case whenever the number of zeros is odd.
- A transposed convolution *crops* what a convolution would have padded. Where the crop is not symmetric even with
  ``output_padding``, it becomes ``ConvTranspose2d`` without padding and a ``ZeroPad2d`` with negative numbers.

Both are read back. Parameters are copied: the two networks share no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from .. import ops as reference_ops
from ..checks import InputError, check_count
from ..classes import with_class_names
from ..layers import AvgPool2d, BatchNorm, Conv2d, ConvTranspose2d, Flatten, Layer, Linear, ReLU, Reshape, Tanh
from ..network import Network
from ..ops.geometry import Padding, Pads, conv_geometry, transpose_geometry

Shape = tuple[int, ...]
Arrays = dict[str, Any]
NO_PADS: Pads = ((0, 0), (0, 0))


def to_torch(network: Network) -> Any:
    """The same network in PyTorch.

    Parameters
    ----------
    network : Network
        Of any backend.

    Returns
    -------
    torch.nn.Sequential
        In evaluation mode, on the CPU, of the network's dtype; with its own copy of the parameters.

    Raises
    ------
    InputError
        If PyTorch is not installed, a layer has no counterpart, or the network is residual.

    Examples
    --------
    >>> from malade_ref.network import cnn
    >>> to_torch(cnn())[2:4]  # doctest: +SKIP
    Sequential(
      (2): ZeroPad2d((1, 2, 1, 2))
      (3): Conv2d(128, 64, kernel_size=(5, 5), stride=(2, 2))
    )
    """
    torch = _torch()
    if network.residual:
        raise InputError("network: a residual network has no counterpart in nn.Sequential; add its input yourself")
    modules: list[Any] = []
    shape = network.input_shape
    for number, layer in enumerate(network.layers):
        params = {
            name: torch.tensor(np.array(network.ops.to_host(network.params[f"{number}.{name}"])))
            for name in layer.parameter_shapes()
        }
        modules += _modules_of(torch, layer, shape, params)
        shape = layer.output_shape(shape)
    return torch.nn.Sequential(*modules).eval()


def from_torch(
    module: Any,
    input_shape: tuple[int, ...],
    *,
    ops: ModuleType | None = None,
    class_names: Sequence[str] | None = None,
) -> Network:
    """The same network as one of this package.

    Parameters
    ----------
    module : torch.nn.Module
        A supported layer, or an ``nn.Sequential`` of supported layers (or of such), in evaluation mode.
    input_shape : tuple of int
        Shape (c, h, w) of one input.
    ops : module, optional
        The backend to compute with; the NumPy reference by default.
    class_names : sequence of str, optional
        What the outputs stand for, if it is a classifier: so it can be used on data whose classes have names.

    Returns
    -------
    Network
        With its own copy of the parameters.

    Raises
    ------
    InputError
        If PyTorch is not installed, the names do not fit, or a layer or one of its settings is not supported; it is
        named, with its position.
    """
    nn = _torch().nn
    ops = reference_ops if ops is None else ops
    reader = _Reader(nn, tuple(check_count("input_shape", size) for size in input_shape))
    for position, leaf in _leaves(nn, module, ""):
        reader.read(position, leaf)
    layers, arrays = reader.finish()
    params = {name: ops.asarray(value) for name, value in arrays.items()}
    network = Network(layers, params, input_shape, metadata={"network": "from PyTorch"}, ops=ops)
    if class_names is None:
        return network
    named: Network = with_class_names(network, class_names)
    return named


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"PyTorch cannot be imported ({error}); install it with: pip install 'malade[interop]'"
        ) from None
    return torch  # type: ignore[no-any-return]


# To PyTorch -------------------------------------------------------------------------------------------------


def _modules_of(torch: Any, layer: Layer, shape: Shape, params: Arrays) -> list[Any]:
    """The modules that do what a layer does to an input of the given shape."""
    nn = torch.nn
    match layer:
        case Conv2d():
            return _conv(torch, layer, shape, params)
        case ConvTranspose2d():
            return _conv_transpose(torch, layer, shape, params)
        case Linear():
            return [_holding(torch, params, nn.Linear, layer.in_features, layer.out_features)]
        case ReLU():
            return [nn.ReLU()]
        case Tanh():
            return [nn.Tanh()]
        case Flatten():
            return [nn.Flatten()]
        case Reshape():
            return [*([] if len(shape) == 1 else [nn.Flatten()]), nn.Unflatten(1, layer.shape)]
        case AvgPool2d():
            return [nn.AvgPool2d(layer.size)]
        case BatchNorm():
            make = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
            state = {theirs: params[ours] for ours, theirs in BATCH_NORM_NAMES.items()}
            state["num_batches_tracked"] = torch.tensor(0)
            return [_holding(torch, state, make, layer.channels, eps=layer.epsilon, momentum=layer.momentum)]
    raise InputError(f"{layer.kind}: has no counterpart in PyTorch here")


BATCH_NORM_NAMES = {"gain": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}


def _conv(torch: Any, layer: Conv2d, shape: Shape, params: Arrays) -> list[Any]:
    g = conv_geometry((shape[1], shape[2]), layer.kernel_size, layer.stride, layer.padding)
    (top, bottom), (left, right) = g.pads
    symmetric = top == bottom and left == right
    settings = {"stride": layer.stride, "padding": (top, left) if symmetric else 0}
    channels = layer.in_channels, layer.out_channels
    conv = _holding(torch, params, torch.nn.Conv2d, *channels, layer.kernel_size, **settings)
    return [conv] if symmetric else [torch.nn.ZeroPad2d((left, right, top, bottom)), conv]


def _conv_transpose(torch: Any, layer: ConvTranspose2d, shape: Shape, params: Arrays) -> list[Any]:
    size = shape[1], shape[2]
    g = transpose_geometry(size, layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
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
    }
    channels = layer.in_channels, layer.out_channels
    conv = _holding(torch, params, torch.nn.ConvTranspose2d, *channels, layer.kernel_size, **settings)
    return [conv] if direct else [conv, torch.nn.ZeroPad2d((-left, -right, -top, -bottom))]


def _holding(torch: Any, state: Arrays, make: Any, *sizes: Any, **settings: Any) -> Any:
    """A module with the given tensors; PyTorch's random initialisation, and its global generator, are left alone."""
    module = torch.nn.utils.skip_init(make, *sizes, dtype=state["weight"].dtype, **settings)
    module.load_state_dict(state)
    return module


# From PyTorch -----------------------------------------------------------------------------------------------


def _leaves(nn: Any, module: Any, position: str) -> Iterator[tuple[str, Any]]:
    """Positions and modules of nested sequences, in order."""
    if not isinstance(module, nn.Module):
        raise InputError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    # A subclass of Sequential may do anything in its forward.
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        yield position or "module", module
        return
    _check_no_hooks(position or "module", module)
    for name, child in module.named_children():
        yield from _leaves(nn, child, f"{position}.{name}" if position else name)


def _check_no_hooks(position: str, module: Any) -> None:
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        raise InputError(f"{position}: {type(module).__name__} has hooks, which cannot be carried over; remove them")


class _Reader:
    """Reads modules one after the other into layers and arrays."""

    def __init__(self, nn: Any, input_shape: Shape) -> None:
        self.layers: list[Layer] = []
        self.arrays: Arrays = {}
        self.shape = input_shape
        self.pads: Pads = NO_PADS  # of ZeroPad2d, for the convolution that must follow
        self.pads_where = ""
        self.cropped: Pads = NO_PADS  # by the last transposed convolution
        self.dtype = ""
        self.readers: dict[Any, Callable[[Any], None]] = {
            nn.Conv2d: self._conv,
            nn.ConvTranspose2d: self._conv_transpose,
            nn.ZeroPad2d: self._zero_pad,
            nn.Linear: self._linear,
            nn.ReLU: lambda module: self._append(ReLU()),
            nn.Tanh: lambda module: self._append(Tanh()),
            nn.Flatten: self._flatten,
            nn.Unflatten: self._unflatten,
            nn.AvgPool2d: self._avg_pool,
            nn.BatchNorm1d: self._batch_norm,
            nn.BatchNorm2d: self._batch_norm,
        }
        self.identities = {
            *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
            *(nn.AlphaDropout, nn.FeatureAlphaDropout),
        }
        self.depends_on_mode = {*self.identities, nn.BatchNorm1d, nn.BatchNorm2d} - {nn.Identity}

    def read(self, position: str, module: Any) -> None:
        """Read one module."""
        kind = type(module)
        self.where = f"{position}: {kind.__name__}"
        if kind not in self.readers and kind not in self.identities:
            known = sorted({known.__name__ for known in (*self.readers, *self.identities)})
            raise InputError(f"{self.where} is not supported; supported are Sequential, {', '.join(known)}")
        _check_no_hooks(position, module)
        if module.training and kind in self.depends_on_mode:
            raise InputError(f"{self.where} is in training mode; call module.eval() first")
        if kind in self.identities:
            return
        if self.pads != NO_PADS and self.readers[kind] not in (self._conv, self._zero_pad):
            self._refuse_pads()
        self.readers[kind](module)

    def finish(self) -> tuple[list[Layer], Arrays]:
        """Return the layers and their arrays."""
        if self.pads != NO_PADS:
            self._refuse_pads()
        return self.layers, self.arrays

    # One method a module. `_expect` complains about settings that the layers here do not have.

    def _conv(self, module: Any) -> None:
        self._expect(module, dilation=(1, 1), groups=1, padding_mode="zeros")
        padding: Padding
        if module.padding == "same" and self.pads == NO_PADS:
            padding = "same"  # has a stride of 1 in PyTorch, where both conventions agree
        elif isinstance(module.padding, str):
            if module.padding == "same":
                self._refuse_pads()
            padding = self.pads
        else:
            padding = _sum(self.pads, _both_sides(module.padding))
        self.pads = NO_PADS
        layer = Conv2d(module.in_channels, module.out_channels, module.kernel_size, module.stride, padding)
        self._append(layer, self._weight_and_bias(module, module.out_channels))

    def _conv_transpose(self, module: Any) -> None:
        self._expect(module, dilation=(1, 1), groups=1, padding_mode="zeros")
        self.cropped = _both_sides(module.padding)
        sizes = module.in_channels, module.out_channels, module.kernel_size, module.stride
        layer = ConvTranspose2d(*sizes, self.cropped, module.output_padding)
        self._append(layer, self._weight_and_bias(module, module.out_channels))

    def _zero_pad(self, module: Any) -> None:
        left, right, top, bottom = module.padding
        if min(module.padding) < 0:
            self._crop(((-top, -bottom), (-left, -right)))
        else:
            self.pads, self.pads_where = _sum(self.pads, ((top, bottom), (left, right))), self.where

    def _crop(self, crop: Pads) -> None:
        """Negative padding: part of the transposed convolution before it, which is read again."""
        last = self.layers[-1] if self.layers else None
        if not isinstance(last, ConvTranspose2d) or self.pads != NO_PADS or min(crop[0] + crop[1]) < 0:
            raise InputError(f"{self.where}: negative padding must come right after ConvTranspose2d, and on all sides")
        self.layers.pop()
        self.shape, self.cropped = self.shape_before, _sum(self.cropped, crop)
        self._append(replace(last, padding=self.cropped))

    def _linear(self, module: Any) -> None:
        layer = Linear(module.in_features, module.out_features)
        self._append(layer, self._weight_and_bias(module, module.out_features))

    def _flatten(self, module: Any) -> None:
        if module.start_dim != 1 or module.end_dim not in (-1, len(self.shape)):
            dims = f"start_dim={module.start_dim}, end_dim={module.end_dim}"
            raise InputError(f"{self.where}: expected start_dim=1 and end_dim=-1, got {dims}")
        if len(self.shape) != 1:
            self._append(Flatten())

    def _unflatten(self, module: Any) -> None:
        sizes = tuple(module.unflattened_size)
        if module.dim not in (1, -1) or len(self.shape) != 1 or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise InputError(f"{self.where}: expected dim=1 after a vector, and sizes > 0, got {module}")
        self._append(Reshape(sizes))

    def _avg_pool(self, module: Any) -> None:
        self._expect(module, padding=(0, 0), ceil_mode=False, divisor_override=None)
        size, stride = _pair(module.kernel_size), _pair(module.stride)
        if size != stride:
            raise InputError(f"{self.where}: expected a stride equal to kernel_size {size}, got {stride}")
        self._append(AvgPool2d(size))

    def _batch_norm(self, module: Any) -> None:
        self._expect(module, track_running_stats=True)
        if module.momentum is None:
            raise InputError(f"{self.where}: momentum=None (a cumulative average) is not supported")
        if len(self.shape) != {"BatchNorm1d": 1, "BatchNorm2d": 3}[type(module).__name__]:
            raise InputError(f"{self.where}: does not fit an input of shape {self.shape}")
        mean, variance = self._array(module.running_mean), self._array(module.running_var)
        gain = self._array(module.weight) if module.affine else np.ones_like(mean)
        bias = self._array(module.bias) if module.affine else np.zeros_like(mean)
        layer = BatchNorm(module.num_features, module.eps, module.momentum)
        self._append(layer, {"gain": gain, "bias": bias, "mean": mean, "variance": variance})

    # What they share.

    def _append(self, layer: Layer, arrays: Arrays | None = None) -> None:
        try:
            self.shape_before, self.shape = self.shape, layer.output_shape(self.shape)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None
        self.arrays |= {f"{len(self.layers)}.{name}": value for name, value in (arrays or {}).items()}
        self.layers.append(layer)

    def _expect(self, module: Any, **settings: Any) -> None:
        for name, expected in settings.items():
            value = getattr(module, name)
            if isinstance(expected, tuple):
                value = _pair(value)
            if value != expected:
                raise InputError(f"{self.where}: {name}={value!r} is not supported, only {expected!r}")

    def _weight_and_bias(self, module: Any, outputs: int) -> Arrays:
        weight = self._array(module.weight)
        bias = np.zeros(outputs, dtype=weight.dtype) if module.bias is None else self._array(module.bias)
        return {"weight": weight, "bias": bias}

    def _array(self, tensor: Any) -> Any:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in ("float32", "float64") or dtype != (self.dtype or dtype):
            expected = self.dtype or "float32 or float64"
            raise InputError(f"{self.where}: expected {expected} parameters, got {dtype}; convert with module.to")
        self.dtype = dtype
        return np.array(tensor.detach().cpu().numpy())

    def _refuse_pads(self) -> None:
        raise InputError(f"{self.pads_where}: must be followed by a Conv2d whose padding is numbers")


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[1]) if isinstance(value, (tuple, list)) else (value, value)


def _both_sides(padding: tuple[int, int]) -> Pads:
    return (padding[0], padding[0]), (padding[1], padding[1])


def _sum(first: Pads, second: Pads) -> Pads:
    (top, bottom), (left, right) = first
    return (top + second[0][0], bottom + second[0][1]), (left + second[1][0], right + second[1][1])
