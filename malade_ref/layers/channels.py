r"""Channels of zeros around those that there are.

    y = (0, ..., 0, x_1, ..., x_c, 0, ..., 0)

So a shortcut reaches more channels without parameters, as in the residual networks of He et al. for CIFAR10.

Axes as in `layers.base`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from ..arrays import Array
from ..checks import InputError, check_count
from .base import Layer, Parameters, Shape, register


@register
@dataclass(frozen=True)
class PadChannels(Layer):
    """Channels (or features) of zeros, before and after those of the input.

    Parameters
    ----------
    before, after : int
        How many; >= 0.
    """

    kind: ClassVar[str] = "pad_channels"
    before: int
    after: int

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            check_count(f"pad_channels: {name}", getattr(self, name), minimum=0)

    def output_shape(self, shape: Shape) -> Shape:
        if not shape:
            raise InputError("pad_channels: expected an input with channels")
        return self.before + shape[0] + self.after, *shape[1:]

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        zeros = [ops.zeros((len(x), count, *x.shape[2:]), str(x.dtype)) for count in (self.before, self.after)]
        return ops.concatenate([zeros[0], x, zeros[1]], axis=1), x.shape[1]

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        # A copy: what comes out shares no memory with what went in.
        return (ops.concatenate([dy[:, self.before : self.before + saved]]) if need_dx else None), {}
