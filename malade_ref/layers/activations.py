r"""Activations that the products do not compute along the way: each number through a function, or with a trained slope.

The formulas are those of `malade_ref.ops.activations`; axes as in `layers.base`. The derivative is taken at what went
in, so `forward` saves its input (the sigmoid, like tanh, its output).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from ..arrays import Array
from ..checks import InputError, check_choice, check_number
from .base import Layer, Parameters, Shape, check_sizes, expect_shape, register


@dataclass(frozen=True)
class Pointwise(Layer):
    """A function of each number, by the op of the layer's kind; the settings are the op's."""

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        return getattr(ops, self.kind)(x, **vars(self)), x

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return (getattr(ops, f"{self.kind}_vjp")(dy, saved, **vars(self)) if need_dx else None), {}

    def _check_numbers(self, **bounds: dict[str, float]) -> None:
        """Check settings that are numbers, each against its bounds."""
        for name, limits in bounds.items():
            check_number(f"{self.kind}: {name}", getattr(self, name), **limits)


@register
@dataclass(frozen=True)
class LeakyReLU(Pointwise):
    """Rectifier that lets a share of the negative numbers through.

    Parameters
    ----------
    slope : float
        That share.
    """

    kind: ClassVar[str] = "leaky_relu"
    slope: float = 0.01

    def __post_init__(self) -> None:
        self._check_numbers(slope={})


@register
@dataclass(frozen=True)
class ELU(Pointwise):
    """Exponential linear unit.

    Parameters
    ----------
    alpha : float
        What -infinity becomes, with the other sign; >= 0.
    """

    kind: ClassVar[str] = "elu"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        self._check_numbers(alpha={"minimum": 0})


@register
@dataclass(frozen=True)
class SiLU(Pointwise):
    """Sigmoid linear unit, also called swish."""

    kind: ClassVar[str] = "silu"


@register
@dataclass(frozen=True)
class GELU(Pointwise):
    """Gaussian error linear unit.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        Whether the normal distribution is the exact one, or written by a tanh.
    """

    kind: ClassVar[str] = "gelu"
    approximate: str = "none"

    def __post_init__(self) -> None:
        check_choice("gelu: approximate", self.approximate, ("none", "tanh"))


@register
@dataclass(frozen=True)
class Sigmoid(Layer):
    """Logistic function."""

    kind: ClassVar[str] = "sigmoid"

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        y = ops.sigmoid(x)
        return y, y

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return (ops.sigmoid_vjp(dy, saved) if need_dx else None), {}


@register
@dataclass(frozen=True)
class Softplus(Pointwise):
    """Smooth rectifier, log(1 + exp(beta x)) / beta.

    Parameters
    ----------
    beta : float
        How sharp the bend is, > 0.
    threshold : float
        Where beta x is larger, the output is x itself.
    """

    kind: ClassVar[str] = "softplus"
    beta: float = 1.0
    threshold: float = 20.0

    def __post_init__(self) -> None:
        self._check_numbers(beta={"above": 0}, threshold={})


@register
@dataclass(frozen=True)
class Hardtanh(Pointwise):
    """Clip to an interval; ReLU6 is ``Hardtanh(0.0, 6.0)``.

    Parameters
    ----------
    low, high : float
        Its ends, low < high.
    """

    kind: ClassVar[str] = "hardtanh"
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        self._check_numbers(low={}, high={})
        self._check_numbers(high={"above": self.low})


@register
@dataclass(frozen=True)
class PReLU(Layer):
    """Rectifier that lets a trained share of the negative numbers through, at first a quarter.

    Parameters
    ----------
    channels : int
        How many shares: one for all numbers, or one for each channel (or feature).

    References
    ----------
    .. [1] He et al., "Delving deep into rectifiers", ICCV 2015.
    """

    kind: ClassVar[str] = "prelu"
    initial: ClassVar[dict[str, float]] = {"slope": 0.25}
    channels: int = 1

    def __post_init__(self) -> None:
        check_sizes(self, counts=("channels",))

    def parameter_shapes(self) -> dict[str, Shape]:
        return {"slope": (self.channels,)}

    def output_shape(self, shape: Shape) -> Shape:
        if not shape:
            raise InputError("prelu: expected an input with channels")
        if self.channels > 1:
            expect_shape(self, shape, (self.channels, *shape[1:]), len(shape))
        return shape

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        return ops.prelu(x, p["slope"]), x

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        needs = {"need_dx": need_dx, "need_dslope": need_parameters}
        dx, dslope = ops.prelu_vjp(dy, saved, p["slope"], **needs)
        return dx, {"slope": dslope} if need_parameters else {}
