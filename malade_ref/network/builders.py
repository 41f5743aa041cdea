r"""The networks of the paper (its Tables 5 and 6, and Madry's), perceptrons, and the initial parameters of any layers.

The DAE and the sDAE share one architecture and differ in their training objective only.

References
----------
.. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", Tables 5 and 6.
.. [2] Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.
.. [3] He et al., "Delving deep into rectifiers", ICCV 2015.
.. [4] Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
.. [5] Wong and Kolter, "Provable defenses against adversarial examples via the convex outer adversarial polytope",
   ICML 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from .. import ops as reference_ops
from ..checks import check_choice
from ..layers import (
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Parameters,
    ReLU,
    Sequential,
    Tanh,
)
from .network import Network


def cnn(
    preset: str = "paper",
    *,
    num_classes: int = 10,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    """Return the paper's MNIST classifier (Table 5), or a small one of the same build.

    Two convolutions (3x3 stride 1, 5x5 stride 2) and two linear layers with rectifiers between; logits out. He's
    initialisation, biases 0.

    Parameters
    ----------
    preset : {"paper", "small"}
        128, 64 channels and 128 features, or 16, 32 and 64.
    num_classes : int
        Number of logits.
    seed : int
        Of the initial weights.
    dtype : {"float32", "float64"}
        Precision.
    ops : module, optional
        The backend.

    Returns
    -------
    Network
        From (1, 28, 28) to (num_classes,).

    Examples
    --------
    >>> cnn().num_parameters
    1813194
    """
    widths = {"paper": (128, 64, 128), "small": (16, 32, 64)}
    first, second, features = widths[check_choice("preset", preset, tuple(widths))]
    layers: list[Layer] = [
        Conv2d(1, first, (3, 3)),
        ReLU(),
        Conv2d(first, second, (5, 5), (2, 2)),
        ReLU(),
        Flatten(),
        Linear(second * 14 * 14, features),
        ReLU(),
        Linear(features, num_classes),
    ]
    metadata = {"network": "cnn", "preset": preset, "seed": seed}
    return build(layers, (1, 28, 28), initialisation="he", seed=seed, dtype=dtype, metadata=metadata, ops=ops)


def madry(
    preset: str = "paper",
    *,
    num_classes: int = 10,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    """Return the MNIST classifier that Madry et al. trained on attacks [4]_, or one that two cores can train so.

    Two convolutions and two linear layers with rectifiers between; logits out. He's initialisation, biases 0.

    Parameters
    ----------
    preset : {"paper", "small"}
        5x5 with 32 and 64 channels, each with max pooling by 2, and 1024 features; or 4x4 with stride 2, 16 and 32
        channels, and 100 features, the network of Wong and Kolter [5]_.
    num_classes, seed, dtype, ops
        As of `cnn`.

    Returns
    -------
    Network
        From (1, 28, 28) to (num_classes,).

    Examples
    --------
    >>> madry().num_parameters, madry("small").num_parameters
    (3274634, 166406)
    """
    layers: list[Layer]
    if check_choice("preset", preset, ("paper", "small")) == "paper":
        layers = [Conv2d(1, 32, (5, 5)), ReLU(), MaxPool2d((2, 2)), Conv2d(32, 64, (5, 5)), ReLU(), MaxPool2d((2, 2))]
        channels, features = 64, 1024
    else:
        layers = [Conv2d(1, 16, (4, 4), (2, 2)), ReLU(), Conv2d(16, 32, (4, 4), (2, 2)), ReLU()]
        channels, features = 32, 100
    layers += [Flatten(), Linear(channels * 7 * 7, features), ReLU(), Linear(features, num_classes)]
    metadata = {"network": "madry", "preset": preset, "seed": seed}
    return build(layers, (1, 28, 28), initialisation="he", seed=seed, dtype=dtype, metadata=metadata, ops=ops)


def sdae(preset: str = "paper", *, seed: int = 0, dtype: str = "float32", ops: ModuleType | None = None) -> Network:
    """Return the paper's MNIST denoiser (Table 6), or a small one of the same build.

    Two strided convolutions down to 7x7, two transposed convolutions up again and a last convolution, tanh after each.
    The second transposed convolution has a 1x1 kernel and stride 2, as written in the paper: three of four of its
    outputs are tanh(bias), and the last convolution fills them in. Glorot's initialisation, biases 0.

    Parameters
    ----------
    preset : {"paper", "small"}
        10 and 25 channels (26,832 parameters), or 8 and 16.
    seed : int
        Of the initial weights.
    dtype : {"float32", "float64"}
        Precision.
    ops : module, optional
        The backend.

    Returns
    -------
    Network
        From (1, 28, 28) to (1, 28, 28).

    Examples
    --------
    >>> sdae().num_parameters
    26832
    """
    widths = {"paper": (10, 25), "small": (8, 16)}
    first, second = widths[check_choice("preset", preset, tuple(widths))]
    layers: list[Layer] = [
        Conv2d(1, first, (5, 5), (2, 2)),
        Tanh(),
        Conv2d(first, second, (5, 5), (2, 2)),
        Tanh(),
        ConvTranspose2d(second, first, (9, 9), (2, 2)),
        Tanh(),
        ConvTranspose2d(first, 1, (1, 1), (2, 2)),
        Tanh(),
        Conv2d(1, 1, (5, 5)),
        Tanh(),
    ]
    metadata = {"network": "sdae", "preset": preset, "seed": seed}
    return build(layers, (1, 28, 28), initialisation="glorot", seed=seed, dtype=dtype, metadata=metadata, ops=ops)


def mlp(
    input_shape: Sequence[int],
    num_outputs: int,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    residual: bool = False,
    seed: int = 0,
    dtype: str = "float32",
    ops: ModuleType | None = None,
) -> Network:
    """Return a multilayer perceptron.

    Parameters
    ----------
    input_shape : sequence of int
        Shape (c, h, w) of one image, or (d,) of one vector.
    num_outputs : int
        Number of outputs.
    hidden : sequence of int
        Widths of the hidden layers.
    activation : {"tanh", "relu"}
        After each hidden layer; also selects Glorot's or He's initialisation.
    residual : bool
        Whether the input is added to the output: a denoiser of vectors.
    seed : int
        Of the initial weights.
    dtype : {"float32", "float64"}
        Precision.
    ops : module, optional
        The backend.

    Returns
    -------
    Network
        From the input shape to (num_outputs,).
    """
    check_choice("activation", activation, ("tanh", "relu"))
    layers: list[Layer] = [Flatten()]
    width = math.prod(input_shape)
    for features in hidden:
        layers += [Linear(width, features), Tanh() if activation == "tanh" else ReLU()]
        width = features
    layers.append(Linear(width, num_outputs))
    metadata = {"network": "mlp", "seed": seed}
    initialisation = "glorot" if activation == "tanh" else "he"
    start: dict[str, Any] = {"initialisation": initialisation, "seed": seed, "dtype": dtype, "metadata": metadata}
    return build(layers, input_shape, residual=residual, **start, ops=ops)


def build(
    layers: Sequence[Layer],
    input_shape: Sequence[int],
    *,
    initialisation: str,
    seed: int = 0,
    dtype: str = "float32",
    metadata: Mapping[str, Any] | None = None,
    residual: bool = False,
    ops: ModuleType | None = None,
) -> Network:
    """Initialise the parameters of a sequence of layers.

    Weights are drawn with mean 0 and variance 2 / fan_in (He, normal) or 2 / (fan_in + fan_out) (Glorot, uniform);
    biases and running means are 0, gains and running variances 1.

    Parameters
    ----------
    layers : sequence of Layer
        What happens, in order.
    input_shape : sequence of int
        Shape of one input.
    initialisation : {"he", "glorot"}
        Scale and shape of the initial weights.
    seed : int
        Of the initial weights.
    dtype : {"float32", "float64"}
        Precision.
    metadata : dict, optional
        Saved along.
    residual : bool
        Whether the input is added to the output.
    ops : module, optional
        The backend.

    Raises
    ------
    InputError
        If a setting is not known or the layers do not fit each other.
    """
    check_choice("initialisation", initialisation, ("he", "glorot"))
    check_choice("dtype", dtype, ("float32", "float64"))
    ops = reference_ops if ops is None else ops
    params: Parameters = {}
    for path, layer in Sequential(tuple(layers)).leaves():
        # A layer of the network's own is known by its number, one within others by its path.
        stream, number = ("weights", int(path)) if path.isdecimal() else (f"weights {path}", 0)
        draw = {"key": ops.derive_key(seed, stream, number), "sample_index": ops.arange(1), "dtype": dtype}
        fan_in, fan_out = layer.fans()
        for name, shape in layer.parameter_shapes().items():
            if name != "weight":
                usual = 1.0 if name in ("gain", "variance") else 0.0
                params[f"{path}.{name}"] = layer.initial.get(name, usual) * ops.ones(shape, dtype)
            elif initialisation == "he":
                params[f"{path}.{name}"] = math.sqrt(2 / fan_in) * ops.normal(shape, **draw)[0]
            else:
                limit = math.sqrt(6 / (fan_in + fan_out))
                params[f"{path}.{name}"] = limit * (2 * ops.uniform(shape, **draw)[0] - 1)
    return Network(layers, params, input_shape, metadata=metadata, residual=residual, ops=ops)
