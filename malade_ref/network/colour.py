r"""The classifiers of the paper's Tables 3 and 4, for colour images of 32x32 and of 64x64 pixels.

    cifar_resnet         TensorFlow's official ResNet for CIFAR10, the CNN of Table 3 [1]_
    madry_wide_resnet    Madry's network for CIFAR10, w32-10 [2]_
    resnet_v2            ResNet-v2-50, the CNN of Table 4 and the network of ALP [3]_ [4]_

All take any shape (c, h, w) and any number of classes, and normalise each channel of the images themselves, so that
attacks and the defence work on pixels in [0, 1]. What they have in common differs from their authors' code:

- There, images are standardised each by itself (cifar_resnet, madry_wide_resnet) or scaled to [-1, 1] (resnet_v2).
- Convolutions have biases, which batch normalisation behind them takes off again.
- Running statistics keep 0.9 of their old values (there 0.997, but for Madry's 0.9).
- Initial weights are He's, by the number of inputs.

References
----------
.. [1] https://github.com/tensorflow/models, official/resnet: ``cifar10_main.py``, ``resnet_model.py``, 2018.
.. [2] https://github.com/MadryLab/cifar10_challenge, ``model.py``; Madry et al., "Towards deep learning models
   resistant to adversarial attacks", ICLR 2018.
.. [3] https://github.com/tensorflow/models, research/adversarial_logit_pairing: ``model_lib.py``; Kannan et al.,
   "Adversarial logit pairing", 2018.
.. [4] He et al., "Identity mappings in deep residual networks", ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from ..checks import InputError, check_choice, check_count
from ..layers import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    GlobalAvgPool,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Normalize,
    PadChannels,
    ReLU,
    Residual,
)
from .builders import build
from .network import Network

Statistics = tuple[Sequence[float], Sequence[float]]

# Means and standard deviations of the channels over all pixels of the training images, in [0, 1]. Those of CIFAR10 and
# CIFAR100 are the usual ones; those of TinyImagenet are widely used, and its subsets come within 0.01 of them.
STATISTICS: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
}


def channel_statistics(name: str, channels: int) -> Statistics:
    """Means and standard deviations by which to normalise the channels of a data set's images.

    Parameters
    ----------
    name : str
        Name of the data set; hyphens and what follows the known part (``tiny-imagenet-200``) do not matter.
    channels : int
        How many there are.

    Returns
    -------
    means, stds : tuple of float
        Those of `STATISTICS`, if the name is known and the channels are three; else 0.5 and 0.25 each.

    Examples
    --------
    >>> channel_statistics("cifar10", 3)[0], channel_statistics("mine", 1)
    ((0.4914, 0.4822, 0.4465), ((0.5,), (0.25,)))
    """
    plain = _plain(name)
    known = [key for key in STATISTICS if plain.startswith(_plain(key))]
    if known and channels == 3:
        return STATISTICS[max(known, key=len)]
    return (0.5,) * channels, (0.25,) * channels


def cifar_resnet(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    preset: str = "paper",
    depth: int | None = None,
    width: int | None = None,
    normalize: Statistics | None = None,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    r"""Return TensorFlow's official residual network for CIFAR10.

    A 3x3 convolution, then three stages of basic blocks: y = relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))), each
    stage with twice the channels and, from the second on, half the rows and columns. The shortcut of the first block
    of every stage is a 1x1 convolution with batch normalisation, in the first stage too; then the mean of each channel.

    The paper names neither depth nor version. Version 1, which this is, and 56 layers are the defaults of the official
    model since 2018; before, they were version 2 (with pre-activation, see `wide_resnet`) and 32 layers.

    Parameters
    ----------
    input_shape : sequence of int
        Shape (c, h, w) of one image.
    num_classes : int
        Number of logits.
    preset : {"paper", "small"}
        Depth 56 or 8, both with 16, 32 and 64 channels.
    depth : int, optional
        6 n + 2 (8, 14, 20, ...): three stages of n blocks; the preset's by default.
    width : int, optional
        Channels of the first stage, 16 by default.
    normalize : tuple of two sequences of float, optional
        Means and standard deviations of the channels, see `channel_statistics`; 0.5 and 0.25 by default.
    seed : int
        Of the initial weights.
    dtype : {"float32", "float64"}
        Precision.
    ops : module, optional
        The backend.

    Returns
    -------
    Network
        From the input shape to (num_classes,).

    Examples
    --------
    >>> cifar_resnet((3, 32, 32), 10, preset="small").output_shape
    (10,)
    """
    usual = {"paper": 56, "small": 8}[check_choice("preset", preset, ("paper", "small"))]
    depth = _depth(usual if depth is None else depth, "6 n + 2 (8, 14, 20, ...)", 2)
    width = check_count("width", 16 if width is None else width)
    layers = [_normalisation(input_shape, normalize), Conv2d(input_shape[0], width, (3, 3), padding=1)]
    layers += [BatchNorm(width), ReLU()]
    before = width
    for stage in range(3):
        after = width << stage
        for number in range(depth // 6):
            stride = 2 if stage and not number else 1
            body = [
                *(Conv2d(before, after, (3, 3), (stride, stride), 1), BatchNorm(after), ReLU()),
                *(Conv2d(after, after, (3, 3), padding=1), BatchNorm(after)),
            ]
            projection = [Conv2d(before, after, (1, 1), (stride, stride), 0), BatchNorm(after)]
            layers += [Residual(tuple(body), () if number else tuple(projection)), ReLU()]
            before = after
    layers += [GlobalAvgPool(), Linear(before, num_classes)]
    metadata = {"network": "cifar-resnet", "preset": preset, "depth": depth, "width": width, "seed": seed}
    return build(layers, input_shape, initialisation="he", seed=seed, dtype=dtype, metadata=metadata, ops=ops)


def madry_wide_resnet(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    preset: str = "paper",
    depth: int | None = None,
    width: int | None = None,
    channels: int = 16,
    normalize: Statistics | None = None,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    """Return the wide residual network that Madry et al. trained on attacks on CIFAR10.

    A 3x3 convolution with 16 channels, then three stages of units with pre-activation: y = shortcut(x) +
    conv(act(bn(conv(act(bn(x)))))), act the rectifier with slope 0.1 below zero. The very first unit's shortcut starts
    behind its activation, all others before. A shortcut has no parameters: where channels and size change, it is the
    mean over tiles, with channels of zeros on both sides. Batch normalisation adds 0.001 to variances.

    Parameters
    ----------
    preset : {"paper", "small"}
        Depth 32 and width 10, with 160, 320 and 640 channels (w32-10), or 8 and 2, with 32, 64 and 128.
    depth : int, optional
        6 n + 2 (8, 14, 20, ...): three stages of n units; the preset's by default.
    width : int, optional
        How many times more channels the units of the first stage have than the first convolution.
    channels : int
        Of the first convolution.

    Returns
    -------
    Network
        From the input shape to (num_classes,).

    Notes
    -----
    The others are those of `cifar_resnet`.

    Examples
    --------
    >>> madry_wide_resnet((3, 32, 32), 10, preset="small").output_shape
    (10,)
    """
    usual = {"paper": (32, 10), "small": (8, 2)}[check_choice("preset", preset, ("paper", "small"))]
    depth = _depth(usual[0] if depth is None else depth, "6 n + 2 (8, 14, 20, ...)", 2)
    width = check_count("width", usual[1] if width is None else width)
    before = check_count("channels", channels)
    layers = [_normalisation(input_shape, normalize), Conv2d(input_shape[0], before, (3, 3))]
    for stage in range(3):
        after = (channels * width) << stage
        for number in range(depth // 6):
            stride = (2, 2) if stage and not number else (1, 1)
            activation: list[Layer] = [BatchNorm(before, 1e-3), LeakyReLU(0.1)]
            rest = [
                *(Conv2d(before, after, (3, 3), stride), BatchNorm(after, 1e-3), LeakyReLU(0.1)),
                Conv2d(after, after, (3, 3)),
            ]
            shortcut: list[Layer] = [] if stride == (1, 1) else [AvgPool2d(stride, ceil_mode=True)]
            if before != after:
                shortcut.append(PadChannels((after - before) // 2, after - before - (after - before) // 2))
            if not stage and not number:
                layers += [*activation, Residual(tuple(rest), tuple(shortcut))]
            else:
                layers.append(Residual((*activation, *rest), tuple(shortcut)))
            before = after
    layers += [BatchNorm(before, 1e-3), LeakyReLU(0.1), GlobalAvgPool(), Linear(before, num_classes)]
    metadata = {"network": "madry-wide-resnet", "preset": preset, "depth": depth, "width": width, "seed": seed}
    return build(layers, input_shape, initialisation="he", seed=seed, dtype=dtype, metadata=metadata, ops=ops)


# Units of each stage of a ResNet-v2, by its depth.
UNITS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet_v2(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    preset: str = "paper",
    depth: int | None = None,
    width: int | None = None,
    normalize: Statistics | None = None,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    """Return ResNet-v2-50 as ALP has it for TinyImagenet: the network for large images, on small ones.

    A 7x7 convolution and a 3x3 maximum, both with stride 2, then four stages of bottlenecks with pre-activation: y =
    shortcut(x) + conv1x1(relu(bn(conv3x3(relu(bn(conv1x1(relu(bn(x)))))))), the last convolution with four times the
    channels. The last unit of each stage but the last one halves rows and columns. The first unit's shortcut is a 1x1
    convolution of relu(bn(x)); one that only halves takes every second pixel. So 64x64 pixels are 16x16 in the first
    stage and 2x2 in the last two.

    The first maximum pads on all sides (TensorFlow: below and on the right).

    Parameters
    ----------
    preset : {"paper", "small"}
        Depth 50 and width 64, or 26 and 16.
    depth : {14, 26, 50, 101, 152}, optional
        Layers; the preset's by default.
    width : int, optional
        Channels of the bottlenecks in the first stage, twice as many in each that follows.

    Returns
    -------
    Network
        From the input shape to (num_classes,).

    Notes
    -----
    The others are those of `cifar_resnet`.

    Examples
    --------
    >>> resnet_v2((3, 64, 64), 200, preset="small").output_shape
    (200,)
    """
    usual = {"paper": (50, 64), "small": (26, 16)}[check_choice("preset", preset, ("paper", "small"))]
    depth = check_count("depth", usual[0] if depth is None else depth)
    if depth not in UNITS:
        raise InputError(f"depth: expected one of {', '.join(map(str, UNITS))}, got {depth}")
    before = width = check_count("width", usual[1] if width is None else width)
    layers = [
        *(_normalisation(input_shape, normalize), Conv2d(input_shape[0], width, (7, 7), (2, 2), 3)),
        MaxPool2d((3, 3), (2, 2), (1, 1)),
    ]
    for stage, count in enumerate(UNITS[depth]):
        for number in range(count):
            stride = (2, 2) if number == count - 1 and stage < 3 else (1, 1)
            layers += _bottleneck(before, width << stage, stride, projects=not number)
            before = 4 * width << stage
    layers += [BatchNorm(before), ReLU(), GlobalAvgPool(), Linear(before, num_classes)]
    metadata = {"network": "resnet-v2-50", "preset": preset, "depth": depth, "width": width, "seed": seed}
    return build(layers, input_shape, initialisation="he", seed=seed, dtype=dtype, metadata=metadata, ops=ops)


def _bottleneck(before: int, channels: int, stride: tuple[int, int], *, projects: bool) -> list[Layer]:
    activation: list[Layer] = [BatchNorm(before), ReLU()]
    rest: list[Layer] = [
        *(Conv2d(before, channels, (1, 1)), BatchNorm(channels), ReLU()),
        *(Conv2d(channels, channels, (3, 3), stride, 1), BatchNorm(channels), ReLU()),
        Conv2d(channels, 4 * channels, (1, 1)),
    ]
    if projects:
        return [*activation, Residual(tuple(rest), (Conv2d(before, 4 * channels, (1, 1), stride, 0),))]
    shortcut = () if stride == (1, 1) else (MaxPool2d((1, 1), stride),)
    return [Residual((*activation, *rest), shortcut)]


def _normalisation(input_shape: Sequence[int], normalize: Statistics | None) -> Layer:
    if len(input_shape) != 3:
        raise InputError(f"input_shape: expected (c, h, w), got {tuple(input_shape)}")
    means, stds = normalize or channel_statistics("", input_shape[0])
    return Normalize(tuple(map(float, means)), tuple(map(float, stds)))


def _depth(depth: int, expected: str, rest: int) -> int:
    check_count("depth", depth)
    if depth < 6 + rest or depth % 6 != rest:
        raise InputError(f"depth: expected {expected}, got {depth}")
    return depth


def _plain(name: str) -> str:
    """Lower case, letters and digits only."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
