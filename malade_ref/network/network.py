r"""Networks as sequences of layers, with forward and backward passes over the ops of a backend.

A `Network` is a tuple of layer descriptions, a dictionary of parameters, and the ops to compute with. Nothing else: the
forward pass returns what the backward pass will need (the *tape*), so a second call cannot spoil a first one. The
passes themselves, layer by layer, are those of `Sequential` in `malade_ref.layers`.

Axes: n images, c channels, (h, w) pixels, k classes; `dy` is the gradient of a scalar with respect to y.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from .. import ops as reference_ops
from ..arrays import Array
from ..checks import InputError, check_choice, check_shape
from ..layers import Layer, Parameters, Sequential, Shape, layer_from
from ..pickling import NamesBackend
from ..showing import network_html, network_line
from .losses import LossGradient, join, loss_ops

# A slice of a batch has at most this many images, and at most this many numbers in its largest activation (6 MB in
# float32): what one core works on should stay in the cache.
MAX_SLICE = 32
MAX_ACTIVATION = 1_600_000
# Vectors are so light that the calls would cost more than the arithmetic: more of them a slice.
MAX_VECTORS = 1024


def check_finite(name: str, values: Array) -> None:
    """Raise if a parameter is NaN or infinite: whatever a network made of it would be no answer.

    Parameters
    ----------
    name : str
        What to call it in the complaint.
    values : array
        Its numbers.
    """
    if math.prod(values.shape) and not math.isfinite(float(abs(values).max())):
        raise InputError(f"{name}: expected finite numbers, got NaN or infinity; take the parameters from another file")


class Network(NamesBackend):
    """A sequence of layers with its parameters.

    Parameters
    ----------
    layers : sequence of Layer
        What happens, in order.
    params : dict of str to array
        Parameters, named ``"<layer number>.<name>"``, or by the path of a layer within others, as in
        ``"3.body.0.weight"``; float32 or float64, all alike.
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
        If the layers do not fit each other, the parameters do not fit the layers, or one of them is NaN or infinite.
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
        self.body = Sequential(tuple(layers))
        self.layers = self.body.layers
        self.input_shape: Shape = tuple(input_shape)
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.ops = reference_ops if ops is None else ops
        shapes = self.body.parameter_shapes()
        missing, unknown = sorted(shapes.keys() - params.keys()), sorted(params.keys() - shapes.keys())
        if missing or unknown:
            raise InputError(f"params: expected one array a layer's parameter; missing {missing}, unknown {unknown}")
        for name, shape in shapes.items():
            check_shape(f"params[{name!r}]", params[name], shape)
        dtypes = sorted({str(value.dtype) for value in params.values()})
        if len(dtypes) > 1 or not set(dtypes) <= {"float32", "float64"}:
            raise InputError(f"params: expected all float32 or all float64, got {', '.join(dtypes)}")
        for name in shapes:
            check_finite(f"params[{name!r}]", params[name])
        self.params: Parameters = {name: params[name] for name in shapes}
        self.dtype = dtypes[0] if dtypes else "float32"
        self.output_shape: Shape = self.body.output_shape(self.input_shape)
        if residual and self.output_shape != self.input_shape:
            raise InputError(f"residual: expected outputs of shape {self.input_shape}, got {self.output_shape}")
        self.residual = residual
        largest = max(math.prod(self.input_shape), self.body.largest(self.input_shape))
        most = MAX_VECTORS if len(self.input_shape) == 1 else MAX_SLICE
        self.slice_size = max(1, min(most, MAX_ACTIVATION // max(1, largest)))

    def __repr__(self) -> str:
        """Return the layers on one line."""
        return network_line(self)

    def _repr_html_(self) -> str:
        return network_html(self)

    @property
    def num_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(math.prod(shape) for name, shape in self.body.parameter_shapes().items() if self.trains(name))

    @property
    def num_classes(self) -> int:
        """Number of classes, for a classifier."""
        return self.output_shape[0]

    @property
    def mixes_samples(self) -> bool:
        """Whether a sample's output depends on the others of its batch during training."""
        return self.body.mixes_samples

    def trains(self, name: str) -> bool:
        """Whether a parameter is trained by gradients, as opposed to a running average."""
        return self.body.trains(name)

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
        y, tape = self.body.forward(self.ops, self.params, x, training)
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
        dx, gradients = self.body.backward(self.ops, self.params, tape, dy, need_dx, need_parameters)
        return (dx + dy if self.residual and dx is not None else dx), gradients

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
        return self.body.updated_buffers(self.params, tape)

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
        """Class scores of images, of shape (n, k).

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Images, pixels in [0, 1].
        """
        return self.apply(self._checked(x))

    def predict(self, x: Array) -> Array:
        """Most probable classes of images, of shape (n,), int64.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Images, pixels in [0, 1].
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
        """
        value_of, vjp = loss_ops(self.ops, loss)
        gradient, _ = self.backward(tape, vjp(self.ops.ones(y.shape, self.dtype), logits, y, targets))
        return LossGradient(value_of(logits, y, targets), logits, gradient)

    # Variants.

    def at_step(self, seed: int, sample_index: Array, step: int) -> Network:
        """The network for one step of a training, its layers with what they draw at random.

        The parameters are those of `Layer.at_step`.

        Returns
        -------
        Network
            For batches of just these samples; itself if nothing is drawn.
        """
        body: Any = self.body.at_step(seed, "", sample_index, step)
        if body is self.body:
            return self
        network = copy.copy(self)
        network.body, network.layers = body, body.layers
        return network

    def replace_params(
        self, params: Mapping[str, Array], metadata: Mapping[str, Any] | None = None, *, check: bool = True
    ) -> Network:
        """Return a network with other parameters.

        Parameters
        ----------
        params : dict of str to array
            All parameters.
        metadata : dict, optional
            New metadata; the old ones by default.
        check : bool
            Whether the parameters are checked; a training does not do so at every step.
        """
        if not check:
            network = copy.copy(self)
            network.params = dict(params)
            return network
        metadata = self.metadata if metadata is None else metadata
        return Network(self.layers, params, self.input_shape, metadata=metadata, residual=self.residual, ops=self.ops)

    def astype(self, dtype: str) -> Network:
        """Return the network in another precision.

        Parameters
        ----------
        dtype : {"float32", "float64"}
            Type of parameters and inputs.
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

    def _checked(self, x: Array) -> Array:
        self.check_inputs("x", x)
        if str(x.dtype) != self.dtype:
            raise InputError(f"x: expected {self.dtype} (the network's dtype), got {x.dtype}; convert one of them")
        return x


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
