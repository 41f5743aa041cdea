r"""Upsampling: images made larger by copying pixels or by interpolating between them.

Axes as in `layers.base`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from ..arrays import Array
from ..checks import InputError, check_choice
from ..ops.geometry import as_image_size, as_pair
from .base import Layer, Parameters, Shape, register

MODES = ("nearest", "bilinear")


@register
@dataclass(frozen=True)
class Upsample(Layer):
    """Images in another size.

    Parameters
    ----------
    scale_factor : tuple of two int, optional
        How many times higher and wider the output is. Either this or `output_size`.
    output_size : tuple of two int, optional
        Height and width of the output.
    mode : {"nearest", "bilinear"}
        Copies of pixels, or interpolation between the nearest four.
    align_corners : bool
        With "bilinear": whether the centres of the corner pixels stay where they are, instead of the image's edges.
    """

    kind: ClassVar[str] = "upsample"
    scale_factor: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    mode: str = "nearest"
    align_corners: bool = False

    def __post_init__(self) -> None:
        check_choice("upsample: mode", self.mode, MODES)
        if not isinstance(self.align_corners, bool):
            raise InputError(f"upsample: align_corners: expected true or false, got {self.align_corners!r}")
        if self.align_corners and self.mode == "nearest":
            raise InputError('upsample: align_corners: expected false with mode "nearest", which has no use for it')
        if (self.scale_factor is None) == (self.output_size is None):
            raise InputError("upsample: expected either scale_factor or output_size")
        if self.scale_factor is not None:
            pair = as_pair("upsample: scale_factor", self.scale_factor, minimum=1)
            object.__setattr__(self, "scale_factor", pair)
        if self.output_size is not None:
            object.__setattr__(self, "output_size", as_image_size("upsample: output_size", self.output_size))

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise InputError(f"upsample: expected images (c, h, w), got {shape} from the layer before")
        return shape[0], *self._size(shape)

    def forward(self, ops: ModuleType, p: Parameters, x: Array, training: bool) -> tuple[Array, Any]:
        size = self._size(x.shape[1:])
        if self.mode == "nearest":
            return ops.upsample_nearest(x, output_size=size), x.shape
        return ops.upsample_bilinear(x, output_size=size, align_corners=self.align_corners), x.shape

    def backward(
        self, ops: ModuleType, p: Parameters, saved: Any, dy: Array, need_dx: bool, need_parameters: bool
    ) -> tuple[Array | None, Parameters]:
        if not need_dx:
            return None, {}
        if self.mode == "nearest":
            return ops.upsample_nearest_vjp(dy, saved), {}
        return ops.upsample_bilinear_vjp(dy, saved, align_corners=self.align_corners), {}

    def _size(self, shape: Shape) -> tuple[int, int]:
        """Height and width of the output for an input (c, h, w)."""
        if self.output_size is not None:
            return self.output_size
        vertical, horizontal = self.scale_factor or (1, 1)
        return as_image_size("upsample: size of the output", (shape[1] * vertical, shape[2] * horizontal))
