r"""Pooling: the largest number or the mean of a tile of pixels.

Axes as in `layers.base`. Sizes, strides and paddings have PyTorch's rules; `ops.geometry.pool_geometry` states them.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from ..arrays import Array
from ..checks import InputError
from ..ops.geometry import as_image_size, as_pair, pool_geometry
from .base import Layer, Parameters, Shape, check_sizes, register


@dataclass(frozen=True)
class _Pool(Layer):
    """What poolings by tiles share.

    Parameters
    ----------
    size : tuple of two int
        Height and width of a tile.
    stride : tuple of two int, optional
        Rows and columns between tiles; by default those of a tile.
    padding : tuple of two int
        Rows above and below, columns on the left and on the right; at most half of a tile.
    ceil_mode : bool
        Whether what is left beyond the last whole tile is a tile as well.
    """

    size: tuple[int, int]
    stride: tuple[int, int] | None = None
    padding: tuple[int, int] = (0, 0)
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        check_sizes(self, pairs=("size",) if self.stride is None else ("size", "stride"))
        pads = as_pair(f"{self.kind}: padding", self.padding, minimum=0)
        object.__setattr__(self, "padding", pads)
        if 2 * pads[0] > self.size[0] or 2 * pads[1] > self.size[1]:
            raise InputError(f"{self.kind}: padding: expected at most half of the tile {self.size}, got {pads}")
        _check_flags(self, "ceil_mode")

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) == 3:
            try:
                return shape[0], *pool_geometry((shape[1], shape[2]), **self._tiles()).output
            except InputError:
                pass
        raise InputError(f"{self.kind}: tile {self.size} does not fit an input of shape {shape}")

    def _tiles(self) -> dict[str, Any]:
        return {"size": self.size, "stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode}


@register
@dataclass(frozen=True)
class MaxPool2d(_Pool):
    """The largest number of each tile; padding is never the largest.

    Parameters
    ----------
    size : tuple of two int
        Height and width of a tile.
    stride : tuple of two int, optional
        Rows and columns between tiles; by default those of a tile.
    padding : tuple of two int
        Rows above and below, columns on the left and on the right; at most half of a tile.
    ceil_mode : bool
        Whether what is left beyond the last whole tile is a tile as well.
    """

    kind: ClassVar[str] = "max_pool2d"

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        y, index = ops.max_pool2d(x, **self._tiles())
        return y, (index, x.shape)

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        index, shape = saved
        return (ops.max_pool2d_vjp(dy, index, shape, **self._tiles()) if need_dx else None), {}


@register
@dataclass(frozen=True)
class AvgPool2d(_Pool):
    """Means over tiles of pixels.

    Parameters
    ----------
    size, stride, padding, ceil_mode
        As of `MaxPool2d`.
    count_include_pad : bool
        Whether the padding's zeros count as pixels of a tile.
    """

    kind: ClassVar[str] = "avg_pool2d"
    optional: ClassVar[tuple[str, ...]] = ("stride", "padding", "ceil_mode", "count_include_pad")
    count_include_pad: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_flags(self, "count_include_pad")

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        return ops.avg_pool2d(x, **self._tiles(), count_include_pad=self.count_include_pad), x.shape

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        if not need_dx:
            return None, {}
        return ops.avg_pool2d_vjp(dy, saved, **self._tiles(), count_include_pad=self.count_include_pad), {}


@register
@dataclass(frozen=True)
class AdaptiveAvgPool2d(Layer):
    """Means over windows that cover the image evenly, as many as the output has pixels.

    Parameters
    ----------
    output_size : tuple of two int
        Height and width of the output.
    """

    kind: ClassVar[str] = "adaptive_avg_pool2d"
    output_size: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "output_size", as_image_size(f"{self.kind}: output_size", self.output_size))

    def output_shape(self, shape: Shape) -> Shape:
        _expect_images(self, shape)
        return shape[0], *self.output_size

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        return ops.adaptive_avg_pool2d(x, output_size=self.output_size), x.shape

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        return (ops.adaptive_avg_pool2d_vjp(dy, saved) if need_dx else None), {}


@register
@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """The mean of each channel: images (n, c, h, w) to vectors (n, c)."""

    kind: ClassVar[str] = "global_avg_pool"

    def output_shape(self, shape: Shape) -> Shape:
        _expect_images(self, shape)
        return shape[:1]

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        return ops.adaptive_avg_pool2d(x, output_size=1).reshape(x.shape[:2]), x.shape

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        if not need_dx:
            return None, {}
        return ops.adaptive_avg_pool2d_vjp(dy.reshape(*saved[:2], 1, 1), saved), {}


def _check_flags(layer: Layer, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(layer, name), bool):
            raise InputError(f"{layer.kind}: {name}: expected true or false, got {getattr(layer, name)!r}")


def _expect_images(layer: Layer, shape: Shape) -> None:
    if len(shape) != 3:
        raise InputError(f"{layer.kind}: expected images (c, h, w), got {shape} from the layer before")
