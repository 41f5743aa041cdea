"""Networks by name, made for the images and classes of any data set.

A *builder* is a function in keyword-only settings, of which all have ``preset``, ``seed``, ``dtype`` and ``ops``.
Whatever else `make` knows it gives to those whose parameters have the name: ``input_shape``, ``num_classes``,
``depth``, ``width`` and ``normalize``. A builder without ``input_shape`` makes a network for one shape only, and one
whose ``num_classes`` has a default makes at least so many logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from ..checks import InputError, check_choice
from .builders import cnn, madry, sdae
from .colour import cifar_resnet, madry_wide_resnet, resnet_v2
from .denoisers import conv_sdae, dncnn, unet
from .network import Network

# By kind and name; the first of a kind is its default.
BUILDERS: dict[str, dict[str, Callable[..., Network]]] = {
    "classifier": {
        "cnn": cnn,
        "madry": madry,
        "cifar-resnet": cifar_resnet,
        "madry-wide-resnet": madry_wide_resnet,
        "resnet-v2-50": resnet_v2,
    },
    "denoiser": {"sdae": sdae, "conv-sdae": conv_sdae, "dncnn": dncnn, "unet": unet},
}
PRESETS = ("paper", "small")


def parameters_of(kind: str, name: str | None = None) -> tuple[str, ...]:
    """Names of a builder's parameters.

    Parameters
    ----------
    kind : {"classifier", "denoiser"}
        What the network is.
    name : str, optional
        Which; the first of its kind by default.
    """
    return tuple(inspect.signature(_builder(kind, name)).parameters)


def fitting(kind: str, shape: Sequence[int]) -> str | None:
    """Which network to take for images that the first of its kind, which is made for MNIST, does not take.

    Parameters
    ----------
    kind : {"classifier", "denoiser"}
        What it is to be.
    shape : sequence of int
        (c, h, w) of an image.

    Returns
    -------
    str or None
        Its name; None for grey images of 28 x 28, for which the first is made.
    """
    if tuple(shape) == (1, 28, 28):
        return None
    if kind == "classifier":
        return "cifar-resnet"
    # A small U-Net halves images twice.
    return "unet" if all(side % 4 == 0 for side in shape[1:]) else "dncnn"


def make(
    kind: str,
    name: str | None,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    preset: str = "paper",
    depth: int | None = None,
    width: int | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    """Return a network that takes images of a shape and, if it is a classifier, knows so many classes.

    Parameters
    ----------
    kind : {"classifier", "denoiser"}
        What it is to be.
    name : str, optional
        Which, see `BUILDERS`; the first of its kind by default.
    input_shape : sequence of int
        Shape (c, h, w) of one image.
    num_classes : int
        How many classes there are; `cnn` and `madry` have ten logits if there are fewer.
    preset : {"paper", "small"}
        Its size.
    depth, width : int, optional
        Its size in place of the preset's, if it has such settings.
    normalize : tuple of two sequences of float, optional
        Means and standard deviations of the channels, for those that normalise images.
    seed, dtype, ops
        As of `cnn`.

    Raises
    ------
    InputError
        If the network is not known, has no such setting, or does not fit the images.

    Examples
    --------
    >>> make("classifier", "cifar-resnet", (3, 32, 32), 100, preset="small").output_shape
    (100,)
    """
    builder, name = _builder(kind, name), name or next(iter(BUILDERS[kind]))
    known = inspect.signature(builder).parameters
    settings: dict[str, Any] = {"preset": check_choice("preset", preset, PRESETS), "seed": seed, "dtype": dtype}
    for key, value in (("depth", depth), ("width", width), ("normalize", normalize)):
        if value is not None:
            if key not in known:
                raise InputError(f"{key}: {name} has no such setting; remove it or choose another network")
            settings[key] = value
    if "input_shape" in known:
        settings["input_shape"] = tuple(input_shape)
    if "num_classes" in known:
        least = known["num_classes"].default
        settings["num_classes"] = num_classes if least is inspect.Parameter.empty else max(least, num_classes)
    network = builder(**settings, ops=ops)
    if network.input_shape != tuple(input_shape):
        others = [other for other in BUILDERS[kind] if "input_shape" in parameters_of(kind, other)]
        raise InputError(
            f"network: {name} takes images of shape {network.input_shape}, these have {tuple(input_shape)}; "
            f"choose another, such as {', '.join(others)}"
        )
    return network


def _builder(kind: str, name: str | None) -> Callable[..., Network]:
    builders = BUILDERS[check_choice("kind", kind, tuple(BUILDERS))]
    return builders[next(iter(builders)) if name is None else check_choice("network", name, tuple(builders))]
