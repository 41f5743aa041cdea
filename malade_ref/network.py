r"""Networks as sequences of layers, with forward and backward passes over the ops of a backend.

A `Network` is a tuple of layer descriptions, a dictionary of parameters, and the ops to compute with. Nothing else: the
forward pass returns what the backward pass will need (the *tape*), so a second call cannot spoil a first one.

The two networks of the paper (its Tables 5 and 6) are `cnn` and `sdae`; the DAE and the sDAE share one architecture and
differ in their training objective only.

Axes: n images, c channels, (h, w) pixels, k classes; `dy` is the gradient of a scalar with respect to y.

References
----------
.. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", Tables 5 and 6.
.. [2] Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.
.. [3] He et al., "Delving deep into rectifiers", ICCV 2015.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from . import ops as reference_ops
from .arrays import Array
from .checks import InputError, check_choice, check_shape
from .layers import (
    Activation,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    Parameters,
    Product,
    ReLU,
    Reshape,
    Shape,
    Tanh,
    layer_from,
    parameter_shapes_of,
)

# A slice of a batch has at most this many images, and at most this many numbers in its largest activation (6 MB in
# float32): what one core works on should stay in the cache.
MAX_SLICE = 32
MAX_ACTIVATION = 1_600_000
# Vectors are so light that the calls would cost more than the arithmetic: more of them a slice.
MAX_VECTORS = 1024
# More numbers than this in one image's activation are a mistake, or an attempt on the memory.
LARGEST_ACTIVATION = 1 << 26


# What an attack may ask the gradient of.
LOSSES = ("ce", "margin", "dlr")


def loss_ops(ops: ModuleType, loss: str) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """A loss of the logits and its vector-Jacobian product.

    Parameters
    ----------
    ops : module
        The backend.
    loss : {"ce", "margin", "dlr"}
        Cross entropy, `margin_loss` or `dlr_loss`.

    Returns
    -------
    loss : callable
        Of (logits, labels, targets); targets may be None, and for the cross entropy must be.
    vjp : callable
        Of (dloss, logits, labels, targets).

    Raises
    ------
    InputError
        If there is no such loss.
    """
    if check_choice("loss", loss, LOSSES) == "ce":
        return (
            lambda logits, labels, _: ops.softmax_cross_entropy(logits, labels),
            lambda dloss, logits, labels, _: ops.softmax_cross_entropy_vjp(dloss, logits, labels),
        )
    return (ops.margin_loss, ops.margin_loss_vjp) if loss == "margin" else (ops.dlr_loss, ops.dlr_loss_vjp)


class LossGradient(NamedTuple):
    """What one gradient evaluation of an attack gives.

    Attributes
    ----------
    loss : array of shape (n,)
        Loss of each sample; the cross entropy in nats unless another one was asked for.
    logits : array of shape (n, k)
        Class scores.
    gradient : array of shape (n, c, h, w)
        Gradient of each sample's loss with respect to its own image.
    """

    loss: Array
    logits: Array
    gradient: Array


def together(layers: Sequence[Layer]) -> tuple[dict[int, int], dict[int, int]]:
    """Which products compute which activations along the way.

    Parameters
    ----------
    layers : sequence of Layer
        What happens, in order.

    Returns
    -------
    forwards : dict of int to int
        Products (numbers of layers), and the activation right behind each of them.
    backwards : dict of int to int
        Products, and the activation that the input of each of them is the output of, maybe in another shape.
    """
    forwards, backwards = {}, {}
    source = None  # the activation whose output the current layer gets
    for number, layer in enumerate(layers):
        if isinstance(layer, Product) and source is not None:
            backwards[number] = source
        if isinstance(layer, Activation):
            if number > 0 and isinstance(layers[number - 1], Product):
                forwards[number - 1] = number
            source = number
        elif not isinstance(layer, Flatten | Reshape):
            source = None
    return forwards, backwards


class Network:
    """A sequence of layers with its parameters.

    Parameters
    ----------
    layers : sequence of Layer
        What happens, in order.
    params : dict of str to array
        Parameters, named ``"<layer number>.<name>"``; float32 or float64, all alike.
    input_shape : tuple of int
        Shape (c, h, w) of one image, or (d,) of one vector. Images have pixels in [0, 1], vectors any finite numbers.
    metadata : dict, optional
        Where the parameters come from; JSON-able, saved along.
    residual : bool
        Whether the output is the input plus what the layers make of it, for denoisers that are close to the identity.
    ops : module, optional
        The backend; the NumPy reference by default.

    Raises
    ------
    InputError
        If the layers do not fit each other or the parameters do not fit the layers.
    """

    stochastic = False

    def __init__(
        self,
        layers: Sequence[Layer],
        params: Mapping[str, Array],
        input_shape: Sequence[int],
        *,
        metadata: Mapping[str, Any] | None = None,
        residual: bool = False,
        ops: ModuleType | None = None,
    ) -> None:
        self.layers = tuple(layers)
        self.input_shape: Shape = tuple(input_shape)
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.ops = reference_ops if ops is None else ops
        shapes = parameter_shapes_of(self.layers)
        missing, unknown = sorted(shapes.keys() - params.keys()), sorted(params.keys() - shapes.keys())
        if missing or unknown:
            raise InputError(f"params: expected one array a layer's parameter; missing {missing}, unknown {unknown}")
        for name, shape in shapes.items():
            check_shape(f"params[{name!r}]", params[name], shape)
        dtypes = sorted({str(value.dtype) for value in params.values()})
        if len(dtypes) > 1 or not set(dtypes) <= {"float32", "float64"}:
            raise InputError(f"params: expected all float32 or all float64, got {', '.join(dtypes)}")
        self.params: Parameters = {name: params[name] for name in shapes}
        self.dtype = dtypes[0] if dtypes else "float32"
        self.output_shape: Shape = self.input_shape
        largest = math.prod(self.input_shape)
        for layer in self.layers:
            self.output_shape = layer.output_shape(self.output_shape)
            largest = max(largest, math.prod(self.output_shape))
            if largest > LARGEST_ACTIVATION:
                raise InputError(f"{layer.kind}: an output of shape {self.output_shape} an image is too large")
        if residual and self.output_shape != self.input_shape:
            raise InputError(f"residual: expected outputs of shape {self.input_shape}, got {self.output_shape}")
        self.residual = residual
        most = MAX_VECTORS if len(self.input_shape) == 1 else MAX_SLICE
        self.slice_size = max(1, min(most, MAX_ACTIVATION // max(1, largest)))
        self._forwards, self._backwards = together(self.layers)

    def __repr__(self) -> str:
        """Return the layers on one line."""
        kinds = ", ".join(layer.kind for layer in self.layers)
        return f"Network({self.input_shape} -> {self.output_shape}: {kinds}; {self.num_parameters} parameters)"

    @property
    def num_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(math.prod(shape) for name, shape in parameter_shapes_of(self.layers).items() if self.trains(name))

    @property
    def num_classes(self) -> int:
        """Number of classes, for a classifier."""
        return self.output_shape[0]

    @property
    def mixes_samples(self) -> bool:
        """Whether a sample's output depends on the others of its batch during training."""
        return any(layer.mixes_samples for layer in self.layers)

    def trains(self, name: str) -> bool:
        """Whether a parameter is trained by gradients, as opposed to a running average."""
        number, _, parameter = name.partition(".")
        return parameter not in self.layers[int(number)].buffers

    def check_inputs(self, name: str, x: Array) -> Array:
        """Check inputs where they enter a driver, metadata and values.

        Parameters
        ----------
        name : str
            What to call them in the complaint.
        x : array of shape (n, c, h, w) or (n, d), float32 or float64
            Images, pixels in [0, 1]; or vectors, any finite numbers.

        Returns
        -------
        array
            x itself.

        Raises
        ------
        InputError
            If the shape, the dtype or a number is not as expected.
        """
        check = self.ops.check_vectors if len(self.input_shape) == 1 else self.ops.check_images
        return check(name, x, self.input_shape)

    # Passes over one batch, in one piece.

    def forward(self, x: Array, *, training: bool = False) -> tuple[Array, list[Any]]:
        """Output and tape.

        Parameters
        ----------
        x : array of shape (n, c, h, w) or (n, d)
            Inputs, of the network's dtype. Not checked.
        training : bool
            Whether batch normalisation uses the batch's statistics.

        Returns
        -------
        y : array of shape (n, ...)
            Outputs.
        tape : list
            For `backward`.
        """
        tape, y = [], x
        for number, layer in enumerate(self.layers):
            if number in self._forwards.values():
                saved = y  # the output of the activation, which the product before it has computed
            elif number in self._forwards and isinstance(layer, Product):
                activation = self.layers[self._forwards[number]].kind
                y, saved = layer.forward(self.ops, self._of_layer(number), y, training, activation)
            else:
                y, saved = layer.forward(self.ops, self._of_layer(number), y, training)
            tape.append(saved)
        return (x + y if self.residual else y), tape

    def backward(
        self, tape: list[Any], dy: Array, *, need_dx: bool = True, need_parameters: bool = False
    ) -> tuple[Array | None, Parameters]:
        """Gradients with respect to the input and the parameters.

        Parameters
        ----------
        tape : list
            From `forward`; can be used again.
        dy : array of the output's shape
            Gradient with respect to the output.
        need_dx, need_parameters : bool
            Which gradients to compute.

        Returns
        -------
        dx : array of the input's shape, or None
            Gradient with respect to the input.
        gradients : dict of str to array
            Gradients with respect to the parameters, summed over samples.
        """
        gradients: Parameters = {}
        dx = dy
        for number, layer in reversed(tuple(enumerate(self.layers))):
            if number in self._backwards.values():
                continue  # the product behind it has taken the activation's derivative
            needed = need_dx or (need_parameters and number > 0)
            saved, p = tape[number], self._of_layer(number)
            if number in self._backwards and isinstance(layer, Product):
                activation = self.layers[self._backwards[number]].kind
                dx, of_layer = layer.backward(self.ops, p, saved, dx, needed, need_parameters, activation)
            else:
                dx, of_layer = layer.backward(self.ops, p, saved, dx, needed, need_parameters)
            gradients.update({f"{number}.{name}": value for name, value in of_layer.items()})
        if not need_dx:
            return None, gradients
        return (dx + dy if self.residual else dx), gradients

    def updated_buffers(self, tape: list[Any]) -> Parameters:
        """New running averages after a forward pass with ``training=True``.

        Parameters
        ----------
        tape : list
            From `forward`.

        Returns
        -------
        dict of str to array
            New values, by parameter name.
        """
        return {
            f"{number}.{name}": value
            for number, layer in enumerate(self.layers)
            for name, value in layer.updated_buffers(self._of_layer(number), tape[number]).items()
        }

    # A batch of any size, slice by slice.

    def apply(self, x: Array) -> Array:
        """Output of a batch: logits of a classifier, reconstructions of a denoiser.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Inputs, of the network's dtype; any real numbers.

        Returns
        -------
        array of shape (n, ...)
            Outputs.
        """
        y = self.ops.empty((len(x), *self.output_shape), self.dtype)

        def of_slice(part: slice) -> None:
            y[part] = self.forward(x[part])[0]

        self.ops.map_slices(of_slice, len(x), slice_size=self.slice_size)
        return y

    def logits(self, x: Array) -> Array:
        """Class scores of images.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Images, pixels in [0, 1].

        Returns
        -------
        array of shape (n, k)
            Logits.

        Raises
        ------
        InputError
            If the images are not as expected.
        """
        return self.apply(self._checked(x))

    def predict(self, x: Array) -> Array:
        """Most probable classes of images.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Images, pixels in [0, 1].

        Returns
        -------
        array of shape (n,), int64
            Classes.

        Raises
        ------
        InputError
            If the images are not as expected.
        """
        return self.ops.argmax(self.logits(x))

    def loss_gradient(self, x: Array, y: Array) -> Array:
        """Gradient of the cross entropy with respect to the images.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Images, pixels in [0, 1].
        y : array of shape (n,), integer
            Labels.

        Returns
        -------
        array of shape (n, c, h, w)
            Gradient of each sample's loss with respect to its own image.

        Raises
        ------
        InputError
            If images or labels are not as expected.
        """
        self._checked(x)
        self.ops.check_labels("y", y, len(x), self.num_classes)
        return self.loss_and_gradient(x, y).gradient

    def loss_and_gradient(
        self, x: Array, y: Array, *, loss: str = "ce", targets: Array | None = None, **_: Any
    ) -> LossGradient:
        """Losses, logits and gradients, unchecked: what an attack needs at each iteration.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Images.
        y : array of shape (n,), integer
            Labels.
        loss : {"ce", "margin", "dlr"}
            Which loss, see `loss_ops`.
        targets : array of shape (n,), integer, optional
            The classes to reach, for a margin or a ratio of margins.
        **_
            What a stochastic model needs to be told (mode, draws, streams); without meaning here.

        Returns
        -------
        LossGradient
            Of each sample.
        """

        def of_slice(part: slice) -> LossGradient:
            logits, tape = self.forward(x[part])
            of_part = None if targets is None else targets[part]
            return self.loss_gradient_of(logits, tape, y[part], loss=loss, targets=of_part)

        return join(self.ops, self.ops.map_slices(of_slice, len(x), slice_size=self.slice_size))

    def loss_gradient_of(
        self, logits: Array, tape: list[Any], y: Array, *, loss: str = "ce", targets: Array | None = None
    ) -> LossGradient:
        """Loss and its gradient with respect to the input of a forward pass.

        Parameters
        ----------
        logits, tape
            From `forward`.
        y : array of shape (n,), integer
            Labels.
        loss, targets
            As of `loss_and_gradient`.

        Returns
        -------
        LossGradient
            Of each sample.
        """
        value_of, vjp = loss_ops(self.ops, loss)
        gradient, _ = self.backward(tape, vjp(self.ops.ones(y.shape, self.dtype), logits, y, targets))
        return LossGradient(value_of(logits, y, targets), logits, gradient)

    # Variants.

    def replace_params(self, params: Mapping[str, Array], metadata: Mapping[str, Any] | None = None) -> Network:
        """Return a network with other parameters.

        Parameters
        ----------
        params : dict of str to array
            All parameters.
        metadata : dict, optional
            New metadata; the old ones by default.

        Returns
        -------
        Network
            The new network.
        """
        metadata = self.metadata if metadata is None else metadata
        return Network(self.layers, params, self.input_shape, metadata=metadata, residual=self.residual, ops=self.ops)

    def astype(self, dtype: str) -> Network:
        """Return the network in another precision.

        Parameters
        ----------
        dtype : {"float32", "float64"}
            Type of parameters and inputs.

        Returns
        -------
        Network
            The new network.
        """
        check_choice("dtype", dtype, ("float32", "float64"))
        return self.replace_params({name: value.astype(dtype) for name, value in self.params.items()})

    def architecture(self) -> dict[str, Any]:
        """Return the layers as a JSON-able dictionary."""
        layers = [layer.description() for layer in self.layers]
        architecture: dict[str, Any] = {"input_shape": list(self.input_shape), "layers": layers}
        return {**architecture, "residual": True} if self.residual else architecture

    def fingerprint(self) -> str:
        """SHA-256 of the parameters.

        Returns
        -------
        str
            Tells one set of parameters from another.
        """
        return fingerprint(self.ops, self.params)

    @classmethod
    def from_architecture(
        cls,
        architecture: Mapping[str, Any],
        params: Mapping[str, Array],
        *,
        metadata: Mapping[str, Any] | None = None,
        ops: ModuleType | None = None,
    ) -> Network:
        """Build a network from what `architecture` returned.

        Parameters
        ----------
        architecture : dict
            Layers and input shape; may come from a file.
        params : dict of str to array
            Parameters.
        metadata : dict, optional
            Saved along.
        ops : module, optional
            The backend.

        Returns
        -------
        Network
            The network.

        Raises
        ------
        InputError
            If the architecture is malformed or does not fit the parameters.
        """
        try:
            layers = [layer_from(description) for description in architecture["layers"]]
            input_shape = tuple(int(size) for size in architecture["input_shape"])
            residual = architecture.get("residual", False)
            if not isinstance(residual, bool):
                raise InputError(f"architecture: residual: expected true or false, got {residual!r}")
            return cls(layers, params, input_shape, metadata=metadata, residual=residual, ops=ops)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"architecture: malformed description of the layers ({error})") from None

    def _of_layer(self, number: int) -> Parameters:
        return {name: self.params[f"{number}.{name}"] for name in self.layers[number].parameter_shapes()}

    def _checked(self, x: Array) -> Array:
        self.check_inputs("x", x)
        if str(x.dtype) != self.dtype:
            raise InputError(f"x: expected {self.dtype} (the network's dtype), got {x.dtype}; convert one of them")
        return x


def join(ops: ModuleType, parts: Sequence[LossGradient]) -> LossGradient:
    """Join the results of slices.

    Parameters
    ----------
    ops : module
        The backend.
    parts : sequence of LossGradient
        Results, in order.

    Returns
    -------
    LossGradient
        Of all samples.
    """
    return LossGradient(*(ops.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def fingerprint(ops: ModuleType, arrays: Mapping[str, Array]) -> str:
    """SHA-256 of named arrays, their names, types and shapes.

    Parameters
    ----------
    ops : module
        The backend that the arrays are of.
    arrays : mapping of str to array
        Arrays of any shapes.

    Returns
    -------
    str
        Hexadecimal; the same on every backend for the same numbers.
    """
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        host = ops.to_host(value)
        digest.update(f"{name} {host.dtype} {host.shape};".encode())
        digest.update(host.tobytes())
    return digest.hexdigest()


def cnn(preset: str = "paper", *, seed: int = 0, dtype: str = "float32", ops: ModuleType | None = None) -> Network:
    """Return the paper's MNIST classifier (Table 5), or a small one of the same build.

    Two convolutions (3x3 stride 1, 5x5 stride 2) and two linear layers with rectifiers between; logits out. He's
    initialisation, biases 0.

    Parameters
    ----------
    preset : {"paper", "small"}
        128, 64 channels and 128 features, or 16, 32 and 64.
    seed : int
        Of the initial weights.
    dtype : {"float32", "float64"}
        Precision.
    ops : module, optional
        The backend.

    Returns
    -------
    Network
        From (1, 28, 28) to 10 logits.

    Raises
    ------
    InputError
        If the preset or the dtype is not known.

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
        Linear(features, 10),
    ]
    metadata = {"network": "cnn", "preset": preset, "seed": seed}
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

    Raises
    ------
    InputError
        If the preset or the dtype is not known.

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

    Raises
    ------
    InputError
        If a setting is not known.
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

    Returns
    -------
    Network
        The network.

    Raises
    ------
    InputError
        If a setting is not known or the layers do not fit each other.
    """
    check_choice("initialisation", initialisation, ("he", "glorot"))
    check_choice("dtype", dtype, ("float32", "float64"))
    ops = reference_ops if ops is None else ops
    params: Parameters = {}
    for name, shape in parameter_shapes_of(layers).items():
        number, _, parameter = name.partition(".")
        if parameter == "weight":
            fan_in, fan_out = layers[int(number)].fans()
            draw = {"key": ops.derive_key(seed, "weights", int(number)), "sample_index": ops.arange(1), "dtype": dtype}
            if initialisation == "he":
                params[name] = math.sqrt(2 / fan_in) * ops.normal(shape, **draw)[0]
            else:
                params[name] = math.sqrt(6 / (fan_in + fan_out)) * (2 * ops.uniform(shape, **draw)[0] - 1)
        else:
            make = ops.ones if parameter in ("gain", "variance") else ops.zeros
            params[name] = make(shape, dtype)
    return Network(layers, params, input_shape, metadata=metadata, residual=residual, ops=ops)
