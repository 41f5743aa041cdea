r"""Normalisation of each sample by itself, of the input by given numbers, and dropout.

Group, layer and instance normalisation are one op, `standardise`, on other groups of a sample's numbers, and then a
gain and a bias (`scale_shift`). None looks at other samples of the batch, and none keeps running statistics: training
and test are the same. Axes as in `layers.base`.

References
----------
.. [1] Wu and He, "Group normalization", ECCV 2018. [2] Ba, Kiros, Hinton, "Layer normalization", 2016.
.. [3] Ulyanov, Vedaldi, Lempitsky, "Instance normalization", 2016.
.. [4] Srivastava et al., "Dropout", JMLR 15, 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

from ..arrays import Array
from ..checks import InputError, check_count, check_number
from .base import Layer, Parameters, Shape, check_sizes, expect_shape, register


@dataclass(frozen=True)
class _Standardised(Layer):
    """Groups of a sample's numbers brought to mean 0 and variance 1, then a gain and a bias if there are any."""

    def settings(self, shape: Shape) -> dict[str, Any]:
        """Return the number of ``groups`` of a sample of a shape, and ``epsilon``."""
        raise NotImplementedError

    def output_shape(self, shape: Shape) -> Shape:
        if math.prod(shape) <= self.settings(shape)["groups"]:
            raise InputError(f"{self.kind}: expected several numbers to normalise together, got an input of {shape}")
        return shape

    def affine_view(self, x: Array) -> Array:
        """Return x with the gain's numbers along axis 1."""
        return x

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        z, scale = ops.standardise(x, **self.settings(x.shape[1:]))
        if not p:
            return z, (z, scale)
        gain, bias = p["gain"].reshape(-1), p["bias"].reshape(-1)
        return ops.scale_shift(self.affine_view(z), gain, bias).reshape(x.shape), (z, scale)

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        z, scale = saved
        gradients: Parameters = {}
        dz = dy
        if p:
            needs = {"need_dx": need_dx, "need_parameters": need_parameters}
            pair = self.affine_view(dy), self.affine_view(z)
            dz, dgain, dbias = ops.scale_shift_vjp(*pair, p["gain"].reshape(-1), **needs)
            dz = None if dz is None else dz.reshape(dy.shape)
            if need_parameters:
                gradients = {"gain": dgain.reshape(p["gain"].shape), "bias": dbias.reshape(p["bias"].shape)}
        return (ops.standardise_vjp(dz, z, scale) if need_dx else None), gradients


@register
@dataclass(frozen=True)
class GroupNorm(_Standardised):
    """Normalisation over groups of channels of each sample, then a gain and a bias a channel.

    Parameters
    ----------
    groups, channels : int
        The channels (or features), and into how many groups of neighbours they are divided.
    epsilon : float
        Added to the variance, > 0.
    affine : bool
        Whether there are a gain and a bias.
    """

    kind: ClassVar[str] = "group_norm"
    groups: int
    channels: int
    epsilon: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        check_sizes(self, counts=("groups", "channels"))
        _check_norm(self)
        if self.channels % self.groups:
            raise InputError(
                f"group_norm: groups: expected a divisor of the {self.channels} channels, got {self.groups}"
            )

    def settings(self, shape: Shape) -> dict[str, Any]:
        return {"groups": self.groups, "epsilon": self.epsilon}

    def parameter_shapes(self) -> dict[str, Shape]:
        return dict.fromkeys(("gain", "bias"), (self.channels,)) if self.affine else {}

    def output_shape(self, shape: Shape) -> Shape:
        expect_shape(self, shape, (self.channels, *shape[1:]), len(shape))
        return super().output_shape(shape)


@register
@dataclass(frozen=True)
class InstanceNorm(_Standardised):
    """Normalisation over the pixels of each channel of each sample, in training and at test.

    Parameters
    ----------
    channels : int
        Channels.
    epsilon : float
        Added to the variance, > 0.
    affine : bool
        Whether there are a gain and a bias a channel.
    """

    kind: ClassVar[str] = "instance_norm"
    channels: int
    epsilon: float = 1e-5
    affine: bool = False

    def __post_init__(self) -> None:
        check_sizes(self, counts=("channels",))
        _check_norm(self)

    def settings(self, shape: Shape) -> dict[str, Any]:
        return {"groups": self.channels, "epsilon": self.epsilon}

    def parameter_shapes(self) -> dict[str, Shape]:
        return dict.fromkeys(("gain", "bias"), (self.channels,)) if self.affine else {}

    def output_shape(self, shape: Shape) -> Shape:
        expect_shape(self, shape, (self.channels, *shape[1:]), len(shape))
        return super().output_shape(shape)


@register
@dataclass(frozen=True)
class LayerNorm(_Standardised):
    """Normalisation over the last axes of each sample, then a gain and a bias for each place on them.

    Parameters
    ----------
    shape : tuple of int
        Sizes of these axes, PyTorch's ``normalized_shape``: (c, h, w) for whole images, (w,) for rows of pixels,
        (d,) for vectors.
    epsilon : float
        Added to the variance, > 0.
    affine : bool
        Whether there are a gain and a bias, each of this shape.
    """

    kind: ClassVar[str] = "layer_norm"
    shape: tuple[int, ...]
    epsilon: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        shape: Any = self.shape  # which may come from a file
        if not isinstance(shape, tuple) or not shape:
            raise InputError(f"layer_norm: shape: expected a tuple of sizes, got {shape!r}")
        for size in self.shape:
            check_count("layer_norm: shape", size)
        _check_norm(self)

    def settings(self, shape: Shape) -> dict[str, Any]:
        return {"groups": math.prod(shape[: len(shape) - len(self.shape)]), "epsilon": self.epsilon}

    def affine_view(self, x: Array) -> Array:
        return x.reshape(-1, math.prod(self.shape)) if x.size else x.reshape(0, math.prod(self.shape))

    def parameter_shapes(self) -> dict[str, Shape]:
        return dict.fromkeys(("gain", "bias"), self.shape) if self.affine else {}

    def output_shape(self, shape: Shape) -> Shape:
        leading = shape[: max(0, len(shape) - len(self.shape))]
        expect_shape(self, shape, (*leading, *self.shape), len(shape))
        return super().output_shape(shape)


@register
@dataclass(frozen=True)
class Normalize(Layer):
    """Given means and standard deviations taken off each channel, at the input: images stay in [0, 1] outside.

    The output is (x - mean) / std.

    Parameters
    ----------
    mean, std : tuple of float
        One number a channel; std > 0. Settings, not parameters: nothing trains them.
    """

    kind: ClassVar[str] = "normalize"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, limits in (("mean", {}), ("std", {"above": 0.0})):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not values:
                raise InputError(f"normalize: {name}: expected a tuple of numbers, one a channel, got {values!r}")
            for value in values:
                check_number(f"normalize: {name}", value, **limits)
        if len(self.mean) != len(self.std):
            raise InputError(f"normalize: std: expected {len(self.mean)} numbers, as of mean, got {len(self.std)}")

    def output_shape(self, shape: Shape) -> Shape:
        expect_shape(self, shape, (len(self.mean), *shape[1:]), len(shape))
        return shape

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        gain = [1 / std for std in self.std]
        bias = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        gain, bias = (ops.asarray(values, dtype=str(x.dtype)) for values in (gain, bias))
        return ops.scale_shift(x, gain, bias), (x, gain)

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return ops.scale_shift_vjp(dy, *saved, need_dx=need_dx, need_parameters=False)[0], {}


@register
@dataclass(frozen=True)
class Dropout(Layer):
    """Identity at test; in training each number is 0 with probability p, or divided by 1 - p.

    Which, is a function of (seed, place in the network, step, sample), as all that is random: `at_step` gives the
    layer that has them, and `Network.at_step` the network. Training without them is refused.

    Parameters
    ----------
    p : float
        In [0, 1).
    """

    kind: ClassVar[str] = "dropout"
    p: float = 0.5

    def __post_init__(self) -> None:
        check_number("dropout: p", self.p, minimum=0, below=1)

    def at_step(self, seed: int, place: str, sample_index: Array, step: int) -> Layer:
        return _DropoutAtStep(self.p, seed, place, sample_index, step) if self.p > 0 else self

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        if training and self.p > 0:
            raise InputError("dropout: training needs the step's random numbers; train with `fit`, or by `at_step`")
        return x, None

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return (dy if need_dx and saved is None else dy * saved if need_dx else None), {}


@dataclass(frozen=True)
class _DropoutAtStep(Dropout):
    """Dropout that knows what is drawn: its mask is 0 or 1 / (1 - p)."""

    seed: int = 0
    place: str = ""
    sample_index: Any = field(default=None, compare=False)
    step: int = 0

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        if not training:
            return x, None
        key = ops.derive_key(self.seed, f"dropout {self.place}")
        dtype = str(x.dtype)
        drawn = ops.uniform(x.shape[1:], key=key, sample_index=self.sample_index, step=self.step, dtype=dtype)
        mask = (drawn >= self.p).astype(dtype) / (1 - self.p)
        return x * mask, mask


def _check_norm(layer: Any) -> None:
    check_number(f"{layer.kind}: epsilon", layer.epsilon, above=0)
    if not isinstance(layer.affine, bool):
        raise InputError(f"{layer.kind}: affine: expected true or false, got {layer.affine!r}")
