r"""Denoisers for colour images: r(x) near E[clean | noisy x], for noise of small variance (0.01 in the paper).

    conv_sdae    the paper's Table 6, widened: r(x) drawn anew from a code with a quarter of the rows and columns
    dncnn        r(x) = x + g(x), g convolutions at full size, without a bottleneck
    unet         r(x) = x + g(x), g down and up again, each size joined to the same size on the way back

At sigma^2 = 0.01 noise is weak, and most of a pixel is already right. What passes through a code must be drawn anew,
details too; a residual network only has to say what to take off, and its score (r(x) - x) / sigma^2 is g itself. So
`dncnn` and `unet` keep detail by construction. `unet` sees more of the image for the same cost, because most of its
channels work at reduced sizes; what the sizes lose comes back by the joins. The paper gives no architecture for colour.

There is no normalisation in any of them. Batch statistics would make the score of one image depend on the others of its
batch during training, and those of one image by itself would take its brightness and contrast away. With one level of
noise and few layers neither is needed.

There is no tanh at the end, as Table 6 has: it cannot reach white, and its derivative vanishes near it, where the score
of bright images is wanted. A chain clips its states to [0, 1] itself.

References
----------
.. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", Table 6.
.. [2] Zhang et al., "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising", IEEE TIP 26, 2017.
.. [3] Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ..checks import InputError, check_choice, check_count
from ..layers import Branches, Conv2d, ConvTranspose2d, Layer, ReLU, Tanh
from .builders import build
from .network import Network

# A residual denoiser begins near the identity: the weights of its last convolution are He's times this.
FIRST_CORRECTION = 0.01


def conv_sdae(
    input_shape: Sequence[int],
    *,
    preset: str = "paper",
    width: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    """Return the paper's denoiser of Table 6 with more channels, for images of any number of channels.

    Two strided 5x5 convolutions down to a quarter of the rows and columns, two transposed ones (9x9 and 1x1, as written
    in the paper) up again, and a last 5x5 convolution, tanh between them. Table 6 has one channel behind the second
    transposed convolution, a quarter of whose pixels know anything of the image; here there are as many as behind the
    first, so that no layer has fewer numbers than the image. It keeps detail only as far as the code holds it.

    Parameters
    ----------
    input_shape : sequence of int
        Shape (c, h, w) of one image.
    preset : {"paper", "small"}
        64 and 128 channels, or 32 and 64.
    width : int, optional
        Channels of the first convolution, half of those of the second.
    seed : int
        Of the initial weights, which are Glorot's.
    dtype : {"float32", "float64"}
        Precision.
    ops : module, optional
        The backend.

    Returns
    -------
    Network
        From the input shape to the input shape.

    Examples
    --------
    >>> conv_sdae((3, 32, 32), preset="small").output_shape
    (3, 32, 32)
    """
    channels = _channels("conv-sdae", input_shape, 4)
    first = _setting("width", width, preset, paper=64, small=32)
    second = 2 * first
    layers: list[Layer] = [
        *(Conv2d(channels, first, (5, 5), (2, 2)), Tanh()),
        *(Conv2d(first, second, (5, 5), (2, 2)), Tanh()),
        *(ConvTranspose2d(second, first, (9, 9), (2, 2)), Tanh()),
        *(ConvTranspose2d(first, first, (1, 1), (2, 2)), Tanh()),
        Conv2d(first, channels, (5, 5)),
    ]
    metadata = {"network": "conv-sdae", "preset": preset, "width": first, "seed": seed}
    start: dict[str, Any] = {"initialisation": "glorot", "seed": seed, "dtype": dtype, "metadata": metadata}
    return build(layers, input_shape, **start, ops=ops)


def dncnn(
    input_shape: Sequence[int],
    *,
    preset: str = "paper",
    depth: int | None = None,
    width: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    """Return a residual denoiser of 3x3 convolutions at full size, with rectifiers between, after DnCNN [2]_.

    Every pixel keeps its place and nothing is ever thrown away, so detail is kept; but a pixel sees no further than
    `depth` pixels. DnCNN normalises by batches; this one does not, see the module.

    Parameters
    ----------
    input_shape : sequence of int
        Shape (c, h, w) of one image.
    preset : {"paper", "small"}
        17 convolutions with 64 channels, as DnCNN has for one level of noise; or 6 with 24.
    depth : int, optional
        Number of convolutions, at least 2.
    width : int, optional
        Channels between them.
    seed : int
        Of the initial weights, which are He's; the last ones are `FIRST_CORRECTION` times as large.
    dtype : {"float32", "float64"}
        Precision.
    ops : module, optional
        The backend.

    Returns
    -------
    Network
        From the input shape to the input shape.

    Examples
    --------
    >>> dncnn((3, 32, 32), preset="small").output_shape
    (3, 32, 32)
    """
    channels = _channels("dncnn", input_shape, 1)
    depth = _setting("depth", depth, preset, paper=17, small=6)
    check_count("depth", depth, minimum=2)
    width = _setting("width", width, preset, paper=64, small=24)
    layers: list[Layer] = [Conv2d(channels, width, (3, 3)), ReLU()]
    for _ in range(depth - 2):
        layers += [Conv2d(width, width, (3, 3)), ReLU()]
    layers.append(Conv2d(width, channels, (3, 3)))
    metadata = {"network": "dncnn", "preset": preset, "depth": depth, "width": width, "seed": seed}
    return _residual(layers, input_shape, seed=seed, dtype=dtype, metadata=metadata, ops=ops)


def unet(
    input_shape: Sequence[int],
    *,
    preset: str = "paper",
    depth: int | None = None,
    width: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    """Return a residual U-Net [3]_: down by strided convolutions, up by transposed ones, joined at equal sizes.

    Detail goes along the joins at full size, and the wider view of the smaller sizes decides what is noise. Differences
    to the original: strided convolutions in place of maxima, one convolution after each step in place of two, padding
    that keeps sizes, and the input added to the output. The transposed convolutions have 2x2 kernels with stride 2: no
    pixel gets more of them than another, so that they leave no checkerboard.

    Parameters
    ----------
    preset : {"paper", "small"}
        Three halvings from 64 channels (64, 128, 256, 512), or two from 16.
    depth : int, optional
        Number of halvings; rows and columns must be multiples of 2 to that power.
    width : int, optional
        Channels at full size, twice as many after each halving.

    Returns
    -------
    Network
        From the input shape to the input shape.

    Notes
    -----
    The others are those of `dncnn`.

    Examples
    --------
    >>> unet((3, 32, 32), preset="small").output_shape
    (3, 32, 32)
    """
    depth = _setting("depth", depth, preset, paper=3, small=2)
    width = _setting("width", width, preset, paper=64, small=16)
    channels = _channels("unet", input_shape, 1 << check_count("depth", depth, maximum=10))
    layers = [Conv2d(channels, width, (3, 3)), ReLU(), *_levels(width, depth), Conv2d(width, channels, (3, 3))]
    metadata = {"network": "unet", "preset": preset, "depth": depth, "width": width, "seed": seed}
    return _residual(layers, input_shape, seed=seed, dtype=dtype, metadata=metadata, ops=ops)


def _levels(width: int, below: int) -> list[Layer]:
    """What happens at one size of a U-Net and at the smaller ones below it."""
    if not below:
        return [Conv2d(width, width, (3, 3)), ReLU()]
    down_and_up = [
        *(Conv2d(width, 2 * width, (3, 3), (2, 2), 1), ReLU()),
        *_levels(2 * width, below - 1),
        ConvTranspose2d(2 * width, width, (2, 2), (2, 2)),
    ]
    return [Branches(((), tuple(down_and_up)), "concat"), Conv2d(2 * width, width, (3, 3)), ReLU()]


def _residual(layers: list[Layer], input_shape: Sequence[int], **settings: Any) -> Network:
    network = build(layers, input_shape, initialisation="he", residual=True, **settings)
    last = f"{len(layers) - 1}.weight"
    return network.replace_params({**network.params, last: FIRST_CORRECTION * network.params[last]})


def _setting(name: str, value: int | None, preset: str, **presets: int) -> int:
    usual = presets[check_choice("preset", preset, tuple(presets))]
    return check_count(name, usual if value is None else value)


def _channels(network: str, input_shape: Sequence[int], multiple: int) -> int:
    """The channels of images whose sides are multiples of a number."""
    if len(input_shape) != 3 or any(side % multiple for side in input_shape[1:]):
        sides = f" with sides that are multiples of {multiple}" if multiple > 1 else ""
        raise InputError(f"{network}: input_shape: expected (c, h, w){sides}, got {tuple(input_shape)}")
    return input_shape[0]
