"""PyTorch's modules as layers: a module is traced by torch.fx, and each call is read into the graph of `torch_graph`.

What does not depend on the input (weights that are computed from others, sizes) is computed by PyTorch itself.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .. import layers as ours
from ..checks import InputError
from ..layers import Layer
from ..ops.geometry import Padding, Pads
from .torch_graph import NO_PADS, Arrays, Shape, Value, layers_of

IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
ORIGINS = ("torch", "_operator", "builtins")  # where functions that mean what their names say come from
VIEWS = ("flatten", "unflatten", "reshape", "squeeze")
AFTER_LOGITS = ("softmax", "log_softmax", "softmin", "Softmax", "LogSoftmax", "Softmax2d", "Softmin")


class _Batch:
    """The number of samples, which no layer knows."""

    def __repr__(self) -> str:
        return "the number of samples"


BATCH = _Batch()


class _Tensor:
    """A tensor of the traced program: what it holds now, and the others that look at the same memory."""

    def __init__(self, value: Value, views: list[_Tensor] | None = None) -> None:
        self.value = value
        self.views = [] if views is None else views
        self.views.append(self)


def trace(torch: Any, module: Any, known: set[Any]) -> tuple[Any, Any]:
    """The graph of calls that a module makes of its first input.

    Parameters
    ----------
    torch : module
        PyTorch.
    module : torch.nn.Module
        Traced with its other inputs at their defaults.
    known : set of type
        Modules that are one call each, beside all of PyTorch's own.

    Returns
    -------
    graph : torch.fx.Graph
        The calls, in order.
    holder : torch.nn.Module
        What the names in the graph belong to; the module is its ``module``.

    Raises
    ------
    InputError
        If the module cannot be traced.
    """

    class Proxy(torch.fx.Proxy):  # type: ignore[misc]
        """Keeps ``x += y`` apart from ``x = x + y``."""

        def __iadd__(self, other: Any) -> Any:
            return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

        def __isub__(self, other: Any) -> Any:
            return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

        def __imul__(self, other: Any) -> Any:
            return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

        def __itruediv__(self, other: Any) -> Any:
            return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})

    class Tracer(torch.fx.Tracer):  # type: ignore[misc]
        def proxy(self, node: Any) -> Any:
            return Proxy(node, self)

        def is_leaf_module(self, inner: Any, name: str) -> bool:
            of_torch = type(inner).__module__.startswith("torch.")
            return type(inner) in known or (of_torch and type(inner) is not torch.nn.Sequential)

    class Holder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Any) -> Any:
            return self.module(x)

    holder = Holder()
    try:
        return Tracer().trace(holder), holder
    except Exception as error:  # whatever a stranger's forward may raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"module: {type(module).__name__} cannot be traced: {type(error).__name__}: {reason}; "
            "its forward must be the same sequence of calls for every input"
        ) from None


def read(torch: Any, module: Any, input_shape: Shape) -> tuple[list[Layer], Arrays]:
    """Read a module into layers, see `from_torch`.

    Parameters
    ----------
    torch : module
        PyTorch.
    module : torch.nn.Module
        What to read.
    input_shape : tuple of int
        Shape of one input.

    Returns
    -------
    layers : list of Layer
        In order.
    arrays : dict of str to array
        Their parameters, by the names that a network of these layers gives them.
    """
    reader = _Reader(torch, input_shape)
    layers, arrays = layers_of(reader.read(module), reader.start)
    return layers, {name: array.astype(reader.dtype or "float32", copy=False) for name, array in arrays.items()}


class _Reader:
    """Reads a traced module into values, call by call.

    Parameters
    ----------
    torch : module
        PyTorch.
    input_shape : tuple of int
        Shape of one input.
    """

    def __init__(self, torch: Any, input_shape: Shape) -> None:
        self.torch = torch
        self.start = Value(input_shape)
        self.dtype = ""
        self.where = "module"
        self.joins: dict[tuple[int, ...], Value] = {}
        nn = torch.nn
        pool = ("kernel_size", "stride", "padding")
        conv = ("weight", "bias", "stride", "padding", "dilation", "groups")
        norm = ("weight", "bias", "eps")
        # A module's call is one of a function, with these of its attributes as arguments.
        self.modules: dict[Any, tuple[Callable[..., Any], dict[str, str]]] = {
            nn.Conv2d: (self.conv2d, _same(*conv, "padding_mode")),
            nn.ConvTranspose2d: (self.conv_transpose2d, _same(*conv, "output_padding", "padding_mode")),
            nn.Linear: (self.linear, _same("weight", "bias")),
            nn.ZeroPad2d: (self.pad, {"pad": "padding"}),
            nn.ReLU: (self.relu, {}),
            nn.ReLU6: (self.relu6, {}),
            nn.Tanh: (self.tanh, {}),
            nn.Sigmoid: (self.sigmoid, {}),
            nn.LeakyReLU: (self.leaky_relu, _same("negative_slope")),
            nn.ELU: (self.elu, _same("alpha")),
            nn.SiLU: (self.silu, {}),
            nn.GELU: (self.gelu, _same("approximate")),
            nn.Softplus: (self.softplus, _same("beta", "threshold")),
            nn.Hardtanh: (self.hardtanh, _same("min_val", "max_val")),
            nn.PReLU: (self.prelu, _same("weight")),
            nn.Flatten: (self.flatten, _same("start_dim", "end_dim")),
            nn.Unflatten: (self.unflatten, {"dim": "dim", "sizes": "unflattened_size"}),
            nn.MaxPool2d: (self.max_pool2d, _same(*pool, "dilation", "ceil_mode", "return_indices")),
            nn.AvgPool2d: (self.avg_pool2d, _same(*pool, "ceil_mode", "count_include_pad", "divisor_override")),
            nn.AdaptiveAvgPool2d: (self.adaptive_avg_pool2d, _same("output_size")),
            nn.AdaptiveMaxPool2d: (self.adaptive_max_pool2d, _same("output_size", "return_indices")),
            nn.Upsample: (
                self.interpolate,
                _same("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
            ),
            nn.UpsamplingNearest2d: (self.interpolate, _same("size", "scale_factor", "mode")),
            nn.UpsamplingBilinear2d: (self.interpolate, _same("size", "scale_factor", "mode", "align_corners")),
            nn.GroupNorm: (self.group_norm, _same("num_groups", *norm)),
            nn.LayerNorm: (self.layer_norm, _same("normalized_shape", *norm)),
            **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d), (self._running_norm, {})),
        }
        dropouts = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
        self.modules |= dict.fromkeys((nn.Identity, *dropouts), (self.contiguous, {}))
        self.depends_on_mode = {*dropouts, nn.BatchNorm1d, nn.BatchNorm2d}

    def read(self, module: Any) -> Value:
        """Read a module; returns what it makes of `start`."""
        for path, inner in module.named_modules():
            _check_unchanged(path or "module", inner)
        graph, holder = trace(self.torch, module, set(self.modules))
        held: dict[Any, Any] = {}
        for position, node in enumerate(graph.nodes):
            self.where = f"{self._path(node)}: {_name(node)}"
            if node.op == "placeholder":
                held[node] = _Tensor(self.start)
            elif node.op == "output":
                self.where = "module"
                result = self.torch.fx.node.map_arg(node.args[0], lambda n: held[n])
                if not isinstance(result, _Tensor):
                    kind = type(result).__name__
                    raise InputError(f"module: expected forward to return one tensor of its input, got {kind}")
                self._refuse_pads(result.value)
                return result.value
            else:
                self._step(node, position, graph, holder, held)
        raise InputError("module: its forward returns nothing")

    def _path(self, node: Any) -> str:
        """The path of the module that a call is of, or in."""
        stack = list(node.meta.get("nn_module_stack") or {})
        path = str(node.target if node.op == "call_module" else stack[-1] if stack else "")
        return path.removeprefix("module").removeprefix(".") or "module"

    def _step(self, node: Any, position: int, graph: Any, holder: Any, held: dict[Any, Any]) -> None:
        """One call: what it gives is held."""
        fetch = self.torch.fx.node.map_arg
        args, kwargs = (fetch(part, lambda n: held[n]) for part in (node.args, node.kwargs))
        tensors: list[_Tensor] = []
        fetch(node.args, lambda n: tensors.append(held[n]) if isinstance(held[n], _Tensor) else None)
        fetch(node.kwargs, lambda n: tensors.append(held[n]) if isinstance(held[n], _Tensor) else None)
        if not tensors:
            held[node] = self._constant(node, holder, args, kwargs)
            return
        inner = holder.get_submodule(node.target) if node.op == "call_module" else None
        function, given = self._function(node, inner)
        values = [_map(part, lambda item: item.value if isinstance(item, _Tensor) else item) for part in (args, kwargs)]
        try:
            bound = inspect.signature(function).bind(*values[0], **values[1], **given)
        except TypeError as error:
            raise InputError(f"{self.where}: these arguments are not supported ({error})") from None
        try:
            result = function(*bound.args, **bound.kwargs)
        except InputError:
            raise
        except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise InputError(f"{self.where}: is not supported with these arguments ({_one_line(error)})") from None
        if not isinstance(result, Value):
            held[node] = result
            return
        first = tensors[0]
        in_place = bool(bound.arguments.get("inplace") or getattr(inner, "inplace", False)) or _is_in_place(node)
        if in_place and result is not first.value:
            seen = {n for n, content in held.items() if content in first.views and content is not first}
            if any(user in _after(graph, position) for n in seen for user in n.users):
                raise InputError(f"{self.where}: changes in place what is used again in another shape; do not do that")
            first.value = result
        if in_place or (result is first.value and _name(node) != "clone"):
            held[node] = first
        elif function.__name__ in VIEWS:
            held[node] = _Tensor(result, first.views)
        else:
            held[node] = _Tensor(result)

    def _constant(self, node: Any, holder: Any, args: Any, kwargs: Any) -> Any:
        """A result that does not depend on the input, by PyTorch itself."""
        try:
            with self.torch.no_grad():
                if node.op == "get_attr":
                    return operator.attrgetter(node.target)(holder)
                if node.op == "call_method":
                    return getattr(args[0], node.target)(*args[1:], **kwargs)
                call = holder.get_submodule(node.target) if node.op == "call_module" else node.target
                return call(*args, **kwargs)
        except Exception as error:  # whatever the call may raise
            raise InputError(
                f"{self.where}: cannot be computed before the input is known ({_one_line(error)})"
            ) from None

    def _function(self, node: Any, inner: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Which method reads a call, and its arguments that are a module's attributes."""
        name = _name(node)
        if inner is not None:
            kind = self.torch.nn.utils.parametrize.type_before_parametrizations(inner)
            self.where = f"{self._path(node)}: {name}"
            if kind in self.modules:
                if inner.training and kind in self.depends_on_mode:
                    raise InputError(f"{self.where} is in training mode; call module.eval() first")
                function, attributes = self.modules[kind]
                given = {argument: getattr(inner, attribute) for argument, attribute in attributes.items()}
                return function, {"module": inner} if function == self._running_norm else given
            self._refuse_softmax(name)
            known = ", ".join(sorted(kind.__name__ for kind in self.modules))
            raise InputError(f"{self.where} is not supported; supported are Sequential, {known}")
        self._refuse_softmax(name.rstrip("_"))
        origin = str(getattr(node.target, "__module__", None) or "torch").partition(".")[0]
        if name.rstrip("_") not in FUNCTIONS or (node.op == "call_function" and origin not in ORIGINS):
            raise InputError(f"{self.where} is not supported")
        return FUNCTIONS[name.rstrip("_")].__get__(self), {}

    def _refuse_softmax(self, name: str) -> None:
        if name in AFTER_LOGITS:
            raise InputError(f"{self.where} is not supported: a network gives logits; remove it, classes stay the same")

    # One method a function of PyTorch, with its arguments. `_expect` complains about what the layers here do not have.

    def conv2d(
        self,
        input: Value,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
    ) -> Value:
        self._expect(padding_mode=(padding_mode, "zeros"))
        pads: Padding
        if padding == "same" and input.pads == NO_PADS:
            pads = "same"  # has a stride of 1 in PyTorch, where both conventions agree
        elif isinstance(padding, str):
            if padding == "same":
                self._refuse_pads(input)
            pads = input.pads
        else:
            pads = _sum(input.pads, _both_sides(_pair(padding)))
        arrays = self._weight_and_bias(weight, bias, weight.shape[0])
        outputs, inputs, *kernel = arrays["weight"].shape
        layer = ours.Conv2d(
            inputs * groups, outputs, _pair(kernel), _pair(stride), pads, groups=groups, dilation=_pair(dilation)
        )
        return self._layer(input.inputs[0] if input.pads != NO_PADS else input, layer, arrays)

    def conv_transpose2d(
        self,
        input: Value,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
        padding_mode: str = "zeros",
    ) -> Value:
        self._expect(padding_mode=(padding_mode, "zeros"))
        outputs = weight.shape[1] * groups
        arrays = self._weight_and_bias(weight, bias, outputs)
        inputs, _, *kernel = arrays["weight"].shape
        layer = ours.ConvTranspose2d(
            *(inputs, outputs, _pair(kernel), _pair(stride)),
            *(_both_sides(_pair(padding)), _pair(output_padding)),
            groups=groups,
            dilation=_pair(dilation),
        )
        return self._layer(input, layer, arrays)

    def pad(self, input: Value, pad: Any, mode: str = "constant", value: Any = None) -> Value:
        self._expect(mode=(mode, "constant"), value=(value or 0, 0))
        channels = pad[-2:] if len(pad) == 2 * len(input.shape) else (0, 0)
        if any(channels):
            if any(pad[:-2]) or min(channels) < 0:
                raise InputError(f"{self.where}: zeros around pixels and channels at once, or channels cut off")
            return self._layer(input, ours.PadChannels(*channels))
        left, right, top, bottom = [*pad, 0, 0] if len(pad) == 2 else pad[:4]
        if len(input.shape) != 3:
            raise InputError(f"{self.where}: expected images, got {input.shape}")
        if min(left, right, top, bottom) < 0:
            return self._crop(input, ((-top, -bottom), (-left, -right)))
        pads = _sum(input.pads, ((top, bottom), (left, right)))
        origin = input.inputs[0] if input.pads != NO_PADS else input
        if pads == NO_PADS:
            return origin
        shape = (input.shape[0], origin.shape[1] + sum(pads[0]), origin.shape[2] + sum(pads[1]))
        return Value(shape, (origin,), pads=pads, where=self.where)

    def _crop(self, x: Value, crop: Pads) -> Value:
        """Negative padding: part of the transposed convolution before it, which is read again."""
        if not isinstance(x.layer, ours.ConvTranspose2d) or x.pads != NO_PADS or min(crop[0] + crop[1]) < 0:
            raise InputError(f"{self.where}: negative padding must come right after ConvTranspose2d, and on all sides")
        padding: Any = x.layer.padding
        return self._layer(x.inputs[0], replace(x.layer, padding=_sum(padding, crop)), x.arrays)

    def linear(self, input: Value, weight: Any, bias: Any = None) -> Value:
        arrays = self._weight_and_bias(weight, bias, weight.shape[0])
        return self._layer(input, ours.Linear(weight.shape[1], weight.shape[0]), arrays)

    def relu(self, input: Value, inplace: bool = False) -> Value:
        return self._layer(input, ours.ReLU())

    def relu6(self, input: Value, inplace: bool = False) -> Value:
        return self._layer(input, ours.Hardtanh(0.0, 6.0))

    def tanh(self, input: Value) -> Value:
        return self._layer(input, ours.Tanh())

    def sigmoid(self, input: Value) -> Value:
        return self._layer(input, ours.Sigmoid())

    def leaky_relu(self, input: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
        return self._layer(input, ours.LeakyReLU(float(negative_slope)))

    def elu(self, input: Value, alpha: float = 1.0, inplace: bool = False) -> Value:
        return self._layer(input, ours.ELU(float(alpha)))

    def silu(self, input: Value, inplace: bool = False) -> Value:
        return self._layer(input, ours.SiLU())

    def gelu(self, input: Value, approximate: str = "none") -> Value:
        return self._layer(input, ours.GELU(approximate))

    def softplus(self, input: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
        return self._layer(input, ours.Softplus(float(beta), float(threshold)))

    def hardtanh(self, input: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Value:
        return self._layer(input, ours.Hardtanh(float(min_val), float(max_val)))

    def clamp(self, input: Value, min: Any = None, max: Any = None) -> Value:
        if max is None and min == 0:
            return self._layer(input, ours.ReLU())
        if min is None or max is None:
            raise InputError(f"{self.where}: expected both ends, or min=0 alone")
        return self._layer(input, ours.Hardtanh(float(min), float(max)))

    def prelu(self, input: Value, weight: Any) -> Value:
        return self._layer(input, ours.PReLU(weight.numel()), {"slope": self._array(weight).reshape(-1)})

    def flatten(self, input: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
        if start_dim != 1 or end_dim not in (-1, len(input.shape)):
            dims = f"start_dim={start_dim}, end_dim={end_dim}"
            raise InputError(f"{self.where}: expected start_dim=1 and end_dim=-1, got {dims}")
        return self._reshaped(input, (math.prod(input.shape),))

    def unflatten(self, input: Value, dim: int, sizes: Any) -> Value:
        sizes = tuple(sizes)
        if dim not in (1, -1) or len(input.shape) != 1 or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise InputError(f"{self.where}: expected dim=1 after a vector, and sizes > 0, got dim={dim}, {sizes}")
        return self._layer(input, ours.Reshape(sizes))

    def reshape(self, input: Value, *shape: Any) -> Value:
        sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        batch, rest = (sizes[0], list(sizes[1:])) if sizes else (None, [])
        total = math.prod(input.shape)
        known = math.prod(n for n in rest if n != -1) if all(isinstance(n, int) for n in rest) else 0
        if batch is BATCH and rest.count(-1) == 1 and known and total % known == 0:
            rest[rest.index(-1)] = total // known
        if not rest or batch not in (BATCH, -1) or not known or -1 in rest or math.prod(rest) != total:
            raise InputError(f"{self.where}: cannot make {sizes} of {('n', *input.shape)}: samples must stay apart")
        return self._reshaped(input, tuple(rest))

    def squeeze(self, input: Value, dim: Any = None) -> Value:
        axes = range(1, 1 + len(input.shape)) if dim is None else self._axes(input, dim)
        kept = tuple(n for axis, n in enumerate(input.shape, 1) if n != 1 or axis not in axes)
        return self._reshaped(input, kept)

    def mean(self, input: Value, dim: Any = None, keepdim: bool = False) -> Value:
        if len(input.shape) != 3 or dim is None or self._axes(input, dim) != {2, 3}:
            raise InputError(f"{self.where}: expected the mean over rows and columns of images, got dim={dim}")
        return self._layer(input, ours.AdaptiveAvgPool2d((1, 1)) if keepdim else ours.GlobalAvgPool())

    def max_pool2d(
        self,
        input: Value,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Value:
        self._expect(dilation=(_pair(dilation), (1, 1)), return_indices=(return_indices, False))
        size, stride = _pair(kernel_size), _pair(stride or kernel_size)
        return self._layer(input, ours.MaxPool2d(size, None if size == stride else stride, _pair(padding), ceil_mode))

    def avg_pool2d(
        self,
        input: Value,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: Any = None,
    ) -> Value:
        self._expect(divisor_override=(divisor_override, None))
        size, stride = _pair(kernel_size), _pair(stride or kernel_size)
        layer = ours.AvgPool2d(size, None if size == stride else stride, _pair(padding), ceil_mode, count_include_pad)
        return self._layer(input, layer)

    def adaptive_avg_pool2d(self, input: Value, output_size: Any) -> Value:
        return self._layer(input, ours.AdaptiveAvgPool2d(self._output_size(input, output_size)))

    def adaptive_max_pool2d(self, input: Value, output_size: Any, return_indices: bool = False) -> Value:
        self._expect(return_indices=(return_indices, False))
        if self._output_size(input, output_size) != (1, 1):
            raise InputError(f"{self.where}: output_size={output_size!r} is not supported, only 1")
        return self._layer(input, ours.MaxPool2d(_pair(input.shape[1:])))

    def _output_size(self, x: Value, output_size: Any) -> tuple[int, int]:
        if len(x.shape) != 3:
            raise InputError(f"{self.where}: expected images, got {x.shape}")
        own = zip(_pair(output_size), x.shape[1:], strict=True)
        first, second = (size if wanted is None else wanted for wanted, size in own)
        return first, second

    def interpolate(
        self,
        input: Value,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: Any = None,
        recompute_scale_factor: Any = None,
        antialias: bool = False,
    ) -> Value:
        self._expect(antialias=(antialias, False))
        if mode not in ("nearest", "bilinear"):
            raise InputError(f"{self.where}: mode={mode!r} is not supported, only nearest and bilinear")
        corners = bool(align_corners) and mode == "bilinear"
        if size is not None:
            return self._layer(input, ours.Upsample(None, _pair(size), mode, corners))
        factors = _pair(scale_factor)
        if any(float(factor) != int(factor) for factor in factors):
            raise InputError(
                f"{self.where}: scale_factor={scale_factor!r} is not supported, only integers; give a size"
            )
        return self._layer(input, ours.Upsample((int(factors[0]), int(factors[1])), None, mode, corners))

    def batch_norm(
        self,
        input: Value,
        running_mean: Any,
        running_var: Any,
        weight: Any = None,
        bias: Any = None,
        training: bool = False,
        momentum: Any = 0.1,
        eps: float = 1e-5,
    ) -> Value:
        if training:
            raise InputError(f"{self.where} is in training mode; call module.eval() first")
        mean, variance = self._array(running_mean), self._array(running_var)
        affine = {
            "gain": np.ones_like(mean) if weight is None else self._array(weight),
            "bias": np.zeros_like(mean) if bias is None else self._array(bias),
        }
        layer = ours.BatchNorm(len(mean), float(eps), float(momentum))
        return self._layer(input, layer, {**affine, "mean": mean, "variance": variance})

    def _running_norm(self, input: Value, module: Any) -> Value:
        """Batch normalisation, and instance normalisation with running statistics, which is the same at test."""
        kind = type(module).__name__
        if kind == "InstanceNorm2d" and not module.track_running_stats:
            return self.instance_norm(input, weight=module.weight, bias=module.bias, eps=module.eps)
        if kind == "InstanceNorm2d" and module.training:
            raise InputError(f"{self.where} is in training mode; call module.eval() first")
        self._expect(track_running_stats=(module.track_running_stats, True))
        if module.momentum is None:
            raise InputError(f"{self.where}: momentum=None (a cumulative average) is not supported")
        if len(input.shape) != {"BatchNorm1d": 1}.get(kind, 3):
            raise InputError(f"{self.where}: does not fit an input of shape {input.shape}")
        affine = {"weight": module.weight, "bias": module.bias, "momentum": module.momentum, "eps": module.eps}
        return self.batch_norm(input, module.running_mean, module.running_var, **affine)

    def group_norm(
        self, input: Value, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Value:
        arrays = self._gain_and_bias(weight, bias)
        return self._layer(input, ours.GroupNorm(num_groups, input.shape[0], float(eps), bool(arrays)), arrays)

    def layer_norm(
        self, input: Value, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Value:
        arrays = self._gain_and_bias(weight, bias)
        shape = tuple(normalized_shape) if isinstance(normalized_shape, tuple | list) else (normalized_shape,)
        return self._layer(input, ours.LayerNorm(shape, float(eps), bool(arrays)), arrays)

    def instance_norm(
        self,
        input: Value,
        running_mean: Any = None,
        running_var: Any = None,
        weight: Any = None,
        bias: Any = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Value:
        self._expect(use_input_stats=(use_input_stats, True))
        arrays = self._gain_and_bias(weight, bias)
        return self._layer(input, ours.InstanceNorm(input.shape[0], float(eps), bool(arrays)), arrays)

    def contiguous(self, input: Value) -> Value:
        return input

    def dropout(self, input: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
        if training:
            raise InputError(f"{self.where} is in training mode; call module.eval() first, or give it training=False")
        return input

    # Sums, joins, and sizes.

    def add(self, input: Any, other: Any, alpha: float = 1) -> Any:
        if not isinstance(other, Value):
            return self._affine(input, 1, self._times(other, alpha))
        if not isinstance(input, Value):
            return self._affine(self._affine(other, alpha, 0), 1, input)
        return self._join("add", [input, self._affine(other, alpha, 0)])

    def sub(self, input: Any, other: Any, alpha: float = 1) -> Any:
        if isinstance(other, Value):
            return self.add(input, self._affine(other, -1, 0), alpha)
        return self.add(input, self._times(other, -1), alpha)

    def mul(self, input: Any, other: Any) -> Any:
        if isinstance(input, Value) and isinstance(other, Value):
            raise InputError(f"{self.where}: products of two results are not supported")
        return self._affine(other, input, 0) if isinstance(other, Value) else self._affine(input, other, 0)

    def div(self, input: Any, other: Any) -> Any:
        if isinstance(other, Value):
            raise InputError(f"{self.where}: division by a result is not supported")
        return self._affine(input, other, 0, divided=True)

    def cat(self, tensors: Any, dim: int = 0, axis: int | None = None) -> Value:
        values = list(tensors)
        if not values or not all(isinstance(value, Value) for value in values):
            raise InputError(f"{self.where}: expected results of the input only")
        if self._axes(values[0], dim if axis is None else axis) != {1}:
            raise InputError(f"{self.where}: expected dim=1 (channels), got {dim if axis is None else axis}")
        return values[0] if len(values) == 1 else self._join("concat", values)

    def size(self, input: Value, dim: Any = None) -> Any:
        sizes = (BATCH, *input.shape)
        return sizes if dim is None else sizes[dim]

    def getattr(self, input: Value, name: str) -> Any:
        if name in ("shape", "ndim"):
            return self.size(input) if name == "shape" else self.ndim(input)
        raise InputError(f"{self.where}: the attribute {name!r} is not supported")

    def ndim(self, input: Value) -> int:
        return 1 + len(input.shape)

    # What they share.

    def _layer(self, x: Value, layer: Layer, arrays: Arrays | None = None) -> Value:
        if not isinstance(x, Value):
            raise InputError(f"{self.where}: expected a result of the input")
        self._refuse_pads(x)
        try:
            shape = layer.output_shape(x.shape)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None
        return Value(shape, (x,), layer, arrays or {}, where=self.where)

    def _reshaped(self, x: Value, shape: Shape) -> Value:
        if shape == x.shape:
            self._refuse_pads(x)
            return x
        while isinstance(x.layer, ours.Flatten | ours.Reshape):
            x = x.inputs[0]
        if shape == x.shape:
            return x
        if x.layer == ours.AdaptiveAvgPool2d((1, 1)) and shape == x.shape[:1]:
            return self._layer(x.inputs[0], ours.GlobalAvgPool())
        return self._layer(x, ours.Flatten() if len(shape) == 1 else ours.Reshape(shape))

    def _join(self, join: str, values: list[Value]) -> Value:
        for value in values:
            self._refuse_pads(value)
        shapes = [value.shape for value in values]
        if join == "add":
            if len(set(shapes)) > 1:
                raise InputError(f"{self.where}: expected results of one shape, got {' and '.join(map(str, shapes))}")
            shape = shapes[0]
        else:
            if len({own[1:] for own in shapes}) > 1:
                found = " and ".join(map(str, shapes))
                raise InputError(f"{self.where}: expected results that differ in channels only, got {found}")
            shape = (sum(own[0] for own in shapes), *shapes[0][1:])
            # Of channels that were joined before, with more behind them, only what is new is joined to them.
            for length in range(len(values) - 1, 1, -1):
                before = self.joins.get(tuple(map(id, values[:length])))
                if before is not None:
                    values = [before, *values[length:]]
                    break
        result = Value(shape, tuple(values), join=join, where=self.where)
        if join == "concat":
            self.joins[tuple(map(id, tensors_of(result)))] = result
        return result

    def _affine(self, x: Any, scale: Any, shift: Any, *, divided: bool = False) -> Any:
        """Multiply by a scale (or divide by it) and add a shift, each one number or one a channel."""
        self._refuse_pads(x)
        scales, shifts = self._per_channel(x, scale), self._per_channel(x, shift)
        if (scales == 1).all() and (shifts == 0).all():
            return x
        if not (np.isfinite(scales).all() and (scales != 0).all() and np.isfinite(shifts).all()):
            raise InputError(f"{self.where}: expected finite numbers, and no factor 0")
        if (scales < 0).any():
            return self._signed(x, 1 / scales if divided else scales, shifts)
        std = scales if divided else 1 / scales
        mean = -shifts * std
        if isinstance(x.layer, ours.Normalize):
            inner_mean, inner_std = np.array(x.layer.mean), np.array(x.layer.std)
            mean, std, x = inner_mean + mean * inner_std, inner_std * std, x.inputs[0]
        return self._layer(x, ours.Normalize(tuple(mean.tolist()), tuple(std.tolist())))

    def _signed(self, x: Value, scales: Any, shifts: Any) -> Value:
        """Factors below 0: a convolution with one weight a channel."""
        if len(x.shape) != 3:
            raise InputError(f"{self.where}: factors below 0 are supported for images only")
        channels = x.shape[0]
        arrays = {"weight": scales.reshape(-1, 1, 1, 1), "bias": shifts}
        return self._layer(x, ours.Conv2d(channels, channels, (1, 1), groups=channels), arrays)

    def _per_channel(self, x: Value, number: Any) -> Any:
        try:
            array = np.asarray(number.detach().cpu().numpy() if hasattr(number, "detach") else number, dtype=np.float64)
            flat = np.broadcast_to(array, (1, *x.shape))[0].reshape(x.shape[0], -1)
        except (TypeError, ValueError):
            shape = tuple(getattr(number, "shape", ()))
            raise InputError(f"{self.where}: a constant of shape {shape} does not fit {('n', *x.shape)}") from None
        if (flat != flat[:, :1]).any():
            raise InputError(f"{self.where}: a constant must be one number a channel")
        return flat[:, 0].copy()

    def _times(self, number: Any, factor: Any) -> Any:
        return number if factor == 1 else number * factor

    def _axes(self, x: Value, dim: Any) -> set[int]:
        axes = tuple(dim) if isinstance(dim, tuple | list) else (dim,)
        return {int(axis) % (1 + len(x.shape)) for axis in axes}

    def _expect(self, **settings: tuple[Any, Any]) -> None:
        for name, (value, expected) in settings.items():
            if value != expected:
                raise InputError(f"{self.where}: {name}={value!r} is not supported, only {expected!r}")

    def _weight_and_bias(self, weight: Any, bias: Any, outputs: int) -> Arrays:
        array = self._array(weight)
        return {"weight": array, "bias": np.zeros(outputs, array.dtype) if bias is None else self._array(bias)}

    def _gain_and_bias(self, weight: Any, bias: Any) -> Arrays:
        if weight is None and bias is None:
            return {}
        given = self._array(bias if weight is None else weight)
        gain = np.ones_like(given) if weight is None else given
        return {"gain": gain, "bias": np.zeros_like(given) if bias is None else self._array(bias)}

    def _array(self, tensor: Any) -> Any:
        if isinstance(tensor, Value) or not hasattr(tensor, "detach"):
            raise InputError(f"{self.where}: expected parameters that do not depend on the input")
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in ("float32", "float64") or dtype != (self.dtype or dtype):
            expected = self.dtype or "float32 or float64"
            raise InputError(f"{self.where}: expected {expected} parameters, got {dtype}; convert with module.to")
        self.dtype = dtype
        return np.array(tensor.detach().cpu().numpy())

    def _refuse_pads(self, x: Value) -> None:
        if x.pads != NO_PADS:
            raise InputError(f"{x.where}: must be followed by a Conv2d whose padding is numbers")


# Which method reads a function or a method of a tensor, by its name without a trailing underscore.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: method for name, method in vars(_Reader).items() if not name.startswith("_") and name != "read"},
    **dict.fromkeys(("dropout2d", "alpha_dropout", "feature_alpha_dropout"), _Reader.dropout),
    **dict.fromkeys(("concat", "concatenate"), _Reader.cat),
    **dict.fromkeys(("truediv", "itruediv", "true_divide", "divide"), _Reader.div),
    **dict.fromkeys(("imul", "multiply"), _Reader.mul),
    **{"iadd": _Reader.add, "isub": _Reader.sub, "subtract": _Reader.sub, "dim": _Reader.ndim},
    **{"view": _Reader.reshape, "clone": _Reader.contiguous, "clip": _Reader.clamp},
}


def tensors_of(joined: Value) -> list[Value]:
    """Values that a join of channels consists of, those of joins within it one by one.

    Parameters
    ----------
    joined : Value
        A value, of a join or not.

    Returns
    -------
    list of Value
        In the order of their channels.
    """
    if joined.join != "concat":
        return [joined]
    return [value for part in joined.inputs for value in tensors_of(part)]


def _name(node: Any) -> str:
    """What a call is of: a module's class, or a function's or a method's name."""
    if node.op == "call_module":
        modules = node.meta.get("nn_module_stack") or {}
        last = list(modules.values())[-1:]
        kind = last[0][1] if last and isinstance(last[0], tuple) else last[0] if last else None
        return kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
    return str(getattr(node.target, "__name__", node.target))


def _is_in_place(node: Any) -> bool:
    name = _name(node)
    return node.target in IN_PLACE or (node.op != "call_module" and name.endswith("_") and not name.endswith("__"))


def _after(graph: Any, position: int) -> set[Any]:
    return set(list(graph.nodes)[position + 1 :])


def _map(item: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(item, tuple | list):
        return type(item)(_map(part, function) for part in item)
    if isinstance(item, dict):
        return {name: _map(part, function) for name, part in item.items()}
    return function(item)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_unchanged(position: str, module: Any) -> None:
    """Raise if a module does something else than its class says."""
    if "forward" in vars(module):
        raise InputError(f"{position}: {type(module).__name__} has a forward of its own; write a class that has it")
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        raise InputError(f"{position}: {type(module).__name__} has hooks, which cannot be carried over; remove them")


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _pair(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
    return value, value


def _both_sides(padding: tuple[int, int]) -> Pads:
    return (padding[0], padding[0]), (padding[1], padding[1])


def _sum(first: Pads, second: Pads) -> Pads:
    (top, bottom), (left, right) = first
    return (top + second[0][0], bottom + second[0][1]), (left + second[1][0], right + second[1][1])
