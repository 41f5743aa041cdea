r"""Residual networks for small images: of basic blocks, and wide ones with pre-activation.

    basic block         y = relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))
    pre-activation      y = shortcut(x) + conv(relu(bn(conv(relu(bn(x))))))

The first block of each stage but the first halves rows and columns. Where a block changes the shape, its shortcut is a
1x1 convolution (with batch normalisation in a basic block; of relu(bn(x)) in one with pre-activation).

References
----------
.. [1] He et al., "Deep residual learning for image recognition", CVPR 2016.
.. [2] Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ..checks import InputError, check_count
from ..layers import BatchNorm, Conv2d, GlobalAvgPool, Layer, Linear, Normalize, ReLU, Residual
from .builders import build
from .network import Network

# Blocks of each stage of the networks that were made for larger images; all others have three stages.
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def resnet(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    depth: int = 18,
    channels: int | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    """Return a residual network of basic blocks, in its form for small images: a 3x3 convolution first, no pooling.

    Parameters
    ----------
    input_shape : sequence of int
        Shape (c, h, w) of one image.
    num_classes : int
        Number of logits.
    depth : int
        18 or 34, with four stages; or 6 n + 2 (8, 14, 20, ...), with three stages of n blocks.
    channels : int, optional
        Of the first stage, twice as many in each that follows; 64 with four stages and 16 with three by default.
    normalize : tuple of two sequences of float, optional
        Means and standard deviations of the channels, applied to the images first.
    seed : int
        Of the initial weights, which are He's.
    dtype : {"float32", "float64"}
        Precision.
    ops : module, optional
        The backend.

    Returns
    -------
    Network
        From the input shape to (num_classes,).
    """
    check_count("depth", depth)
    if depth not in STAGES and (depth < 8 or depth % 6 != 2):
        raise InputError(f"depth: expected 18, 34 or 6 n + 2 (8, 14, 20, ...), got {depth}")
    stages = STAGES.get(depth, (depth // 6,) * 3)
    width = (64 if depth in STAGES else 16) if channels is None else check_count("channels", channels)
    layers = [*_first(input_shape, width, normalize), BatchNorm(width), ReLU()]
    before = width
    for stage, count in enumerate(stages):
        for number in range(count):
            after, stride = width << stage, 2 if stage and not number else 1
            layers += _basic_block(before, after, stride)
            before = after
    layers += [GlobalAvgPool(), Linear(before, num_classes)]
    metadata = {"network": "resnet", "depth": depth, "seed": seed}
    return build(layers, input_shape, initialisation="he", seed=seed, dtype=dtype, metadata=metadata, ops=ops)


def wide_resnet(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    depth: int = 28,
    width: int = 2,
    channels: int = 16,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    """Return a wide residual network with pre-activation.

    Parameters
    ----------
    depth : int
        6 n + 4 (10, 16, 22, 28, ...): three stages of n blocks.
    width : int
        How many times more channels the blocks have than the first convolution, in the first stage.
    channels : int
        Of the first convolution.

    Returns
    -------
    Network
        From the input shape to (num_classes,).

    Notes
    -----
    The others are those of `resnet`.
    """
    check_count("depth", depth)
    if depth < 10 or depth % 6 != 4:
        raise InputError(f"depth: expected 6 n + 4 (10, 16, 22, 28, ...), got {depth}")
    check_count("width", width)
    before = check_count("channels", channels)
    layers = _first(input_shape, before, normalize)
    for stage in range(3):
        for number in range(depth // 6):
            after, stride = (channels * width) << stage, 2 if stage and not number else 1
            layers += _block_with_pre_activation(before, after, stride)
            before = after
    layers += [BatchNorm(before), ReLU(), GlobalAvgPool(), Linear(before, num_classes)]
    metadata = {"network": "wide_resnet", "depth": depth, "width": width, "seed": seed}
    return build(layers, input_shape, initialisation="he", seed=seed, dtype=dtype, metadata=metadata, ops=ops)


def _first(input_shape: Sequence[int], channels: int, normalize: Any) -> list[Layer]:
    """The normalisation of the images, if there is one, and the first convolution."""
    if len(input_shape) != 3:
        raise InputError(f"input_shape: expected (c, h, w), got {tuple(input_shape)}")
    first = [] if normalize is None else [Normalize(*(tuple(map(float, numbers)) for numbers in normalize))]
    return [*first, Conv2d(input_shape[0], channels, (3, 3), padding=1)]


def _basic_block(before: int, after: int, stride: int) -> list[Layer]:
    body = [
        *(Conv2d(before, after, (3, 3), (stride, stride), 1), BatchNorm(after), ReLU()),
        *(Conv2d(after, after, (3, 3), padding=1), BatchNorm(after)),
    ]
    same = before == after and stride == 1
    shortcut = [] if same else [Conv2d(before, after, (1, 1), (stride, stride), 0), BatchNorm(after)]
    return [Residual(tuple(body), tuple(shortcut)), ReLU()]


def _block_with_pre_activation(before: int, after: int, stride: int) -> list[Layer]:
    first: list[Layer] = [BatchNorm(before), ReLU()]
    rest = [
        *(Conv2d(before, after, (3, 3), (stride, stride), 1), BatchNorm(after), ReLU()),
        Conv2d(after, after, (3, 3), padding=1),
    ]
    if before == after and stride == 1:
        return [Residual((*first, *rest))]
    return [*first, Residual(tuple(rest), (Conv2d(before, after, (1, 1), (stride, stride), 0),))]
