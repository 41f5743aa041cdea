r"""Anybody's classifier, as one of this package: attacked, defended and judged like a `Network`.

    logits(x) = model((x - mean) / std),    x in [0, 1],

and the gradient with respect to x is the one the model gives, divided by std. What a classifier is asked, and by whom,
stands in `malade_ref.interop.classifier`.

Where a model gives probabilities p, its logits are log p: the softmax of these is p again. A probability of 0 counts as
the smallest normal number, with the gradient 0. So a softmax that saturates hides gradients; a model without it is the
better one to wrap.

What does not fit raises `InputError`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .. import ops as reference_ops
from ..arrays import Array
from ..attacks.cards import CARDS
from ..checks import InputError, OutOfMemoryError, check_choice, check_count, check_number, printable
from ..classes import KEY, check_class_names
from ..layers import Parameters, Sequential
from ..network import LossGradient, Network, fingerprint, loss_ops
from .foreign import LAYOUTS, ForeignModel, HostModel, OnnxFile, TorchModel, Vjp, is_torch_module
from .toolbox_models import functions_of, of_decision

# Images that a model is tried with.
NUM_PROBES = 3
MOST_GIVEN = 8

# Of the largest logit: how far answers to the same images may differ, and those to an image alone and in a batch, where
# sums are rounded in another order; and the same for models in half precision.
SAME, TOGETHER, COARSE = 1e-5, 1e-3, 0.05

ONE_SCORE = "one score an image is no score for each class: for two classes, give two"

# Rows of probabilities add up to 1 this closely.
SUM_TO_ONE, COARSE_SUM = 1e-3, 0.02


def wrap(
    model: Any,
    *,
    input_shape: Sequence[int],
    num_classes: int | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    batch_size: int = 64,
    gradient: Callable[[Array, Array], Array] | None = None,
    vjp: Callable[[Array, Array], Array] | None = None,
    probabilities: bool | None = None,
    layout: str = "nchw",
    dtype: str | None = None,
    images: Array | None = None,
    class_names: Sequence[str] | None = None,
    ops: ModuleType | None = None,
) -> Wrapped:
    """Make a classifier of any model.

    Parameters
    ----------
    model : torch.nn.Module, callable, object with predict_proba or decision_function, or path
        A module of PyTorch in evaluation mode, such as a model of Keras with that backend; a function or an object that
        is called with images, or has ``predict_proba`` or ``decision_function``, as those of scikit-learn; an estimator
        of ART or a model of Foolbox, whose gradients are taken and whose bounds need no mean or std; or an ONNX file,
        for which onnxruntime is needed. All but modules take NumPy arrays. It must say the same about an image at every
        call and in any batch.
    input_shape : sequence of int
        Shape (c, h, w) of one image, or (d,) of one vector.
    num_classes : int, optional
        Number k of classes; by default as many scores as the model gives.
    mean, std : float or sequence of c floats
        The model is given (x - mean) / std, channel by channel: for pixels 0..255, std=1/255.
    batch_size : int
        Most images that the model is given at once.
    gradient : callable, optional
        Of (images, labels): gradient of each image's own cross entropy with respect to that image, both as the model
        takes them. Not for modules, whose gradients PyTorch knows. Without it, and without vjp, attacks that need
        gradients refuse the model.
    vjp : callable, optional
        In place of gradient, of (images, g) with g of shape (n, k): gradient of sum(g * model(images)) with respect to
        the images. It takes one call where gradient may take k.
    probabilities : bool, optional
        Whether the model gives probabilities; by default only if it is asked by ``predict_proba``. A model that does
        and was not said to is refused.
    layout : {"nchw", "nhwc", "flat"}
        Axes of the images that the model is given: (n, c, h, w); (n, h, w, c), as TensorFlow and Keras have them; or
        vectors of c h w numbers.
    dtype : {"float32", "float64"}, optional
        Of the images, here and for the model; by default that of a module's parameters or of an ONNX file's input, and
        otherwise float32. A module in half precision is given float32 images.
    images : array of shape (n, c, h, w), optional
        Examples with pixels in [0, 1], to try the model with, beside random ones; the first 8 are used.
    class_names : sequence of str, optional
        As of `from_torch`.
    ops : module, optional
        The backend whose arrays go in and come out; the NumPy reference by default.

    Returns
    -------
    Wrapped
        A classifier.

    Raises
    ------
    InputError
        If a setting does not fit the model; if it fails, is in training mode, gives NaN, probabilities, or scores of
        another shape, is random, or lets the images of a batch influence each other; or if its gradient is none.

    Examples
    --------
    >>> import numpy as np
    >>> from malade_ref import attacks
    >>> weights = np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3)
    >>> model = wrap(
    ...     lambda x: x @ weights, vjp=lambda x, g: g @ weights.T, input_shape=(1, 2, 2), layout="flat", mean=0.5
    ... )
    >>> model
    Wrapped(function <lambda>: (1, 2, 2) -> 3 classes; float32, at most 64 images at once)
    >>> x = np.full((1, 1, 2, 2), 0.75, "float32")
    >>> attacks.fgsm(model, x, model.predict(x), eps=0.5).success
    array([ True])
    """
    ops = reference_ops if ops is None else ops
    shape = tuple(check_count("input_shape", size) for size in _listed("input_shape", input_shape))
    if len(shape) not in (1, 3):
        raise InputError(f"input_shape: expected (c, h, w) of an image or (d,) of a vector, got {shape}")
    check_choice("layout", layout, LAYOUTS)
    if dtype is not None:
        check_choice("dtype", dtype, ("float32", "float64"))
    if probabilities not in (None, True, False):
        raise InputError(f"probabilities: expected True or False, got {probabilities!r}")
    for name, function in (("gradient", gradient), ("vjp", vjp)):
        if function is not None and not callable(function):
            raise InputError(f"{name}: expected a function of two arrays, got {type(function).__name__}")
    if gradient is not None and vjp is not None:
        raise InputError("gradient and vjp: expected one of them, got both; leave gradient out")
    settings: dict[str, Any] = {
        "dtype": dtype,
        "layout": layout,
        "probabilities": probabilities,
        "gradient": gradient,
        "vjp": vjp,
    }
    foreign, at_once = _foreign(model, **settings)
    batch_size = min(check_count("batch_size", batch_size), at_once or batch_size)
    scale = tuple(_per_channel(name, values, shape, ops, foreign.dtype) for name, values in _scales(mean, std))
    wrapped = Wrapped(foreign, shape, scale=scale, batch_size=batch_size, ops=ops)
    wrapped.try_out(images, None if num_classes is None else check_count("num_classes", num_classes, minimum=2))
    if class_names is not None:
        names = check_class_names("class_names", list(class_names), wrapped.num_classes)
        wrapped.metadata[KEY] = list(names)
    return wrapped


class Wrapped(Network):
    """Somebody else's model in the place of a `Network`; `wrap` makes it.

    It has all that attacks, defences, training of denoisers and evaluations ask of a classifier, and no layers: it can
    be neither trained, nor saved, nor converted.

    Parameters
    ----------
    foreign : ForeignModel
        The model.
    input_shape : tuple of int
        Shape (c, h, w) of one image, or (d,) of one vector.
    scale : tuple of two arrays of shape (c, 1, 1) or (d,)
        Mean and standard deviation that the model's scaling takes off and divides by.
    batch_size : int
        Most images that the model is given at once.
    ops : module
        The backend.
    """

    def __init__(
        self,
        foreign: ForeignModel,
        input_shape: tuple[int, ...],
        *,
        scale: tuple[Array, ...],
        batch_size: int,
        ops: ModuleType,
    ) -> None:
        self.foreign = foreign
        self.input_shape = input_shape
        self.output_shape = ()
        self.dtype = foreign.dtype
        self.ops = ops
        self.mean, self.std = scale
        self.slice_size = batch_size
        self.metadata = {"network": f"wrapped {foreign.title}"}
        self.params: Parameters = {}
        self.residual = False

    def __repr__(self) -> str:
        """Return model and shapes on one line."""
        sizes = f"{self.input_shape} -> {self.num_classes} classes"
        return f"Wrapped({self.foreign.title}: {sizes}; {self.dtype}, at most {self.slice_size} images at once)"

    # What a network's layers would say.

    @property
    def body(self) -> Sequential:  # type: ignore[override]
        """Layers, which are not known here: asking for them raises `InputError`."""
        raise InputError(
            f"{self.foreign.title}: a wrapped model stays as it is: it can be neither trained nor converted"
        )

    @property
    def layers(self) -> tuple[Any, ...]:  # type: ignore[override]
        """As `Wrapped.body`."""
        return self.body.layers

    def architecture(self) -> dict[str, Any]:
        """Raise `InputError`: there is no description that the model could be built from."""
        raise InputError(f"{self.foreign.title}: a wrapped model cannot be saved here; keep it in its own format")

    def replace_params(
        self, params: Mapping[str, Array], metadata: Mapping[str, Any] | None = None, *, check: bool = True
    ) -> Network:
        """As `Network.replace_params`; there are no parameters here, so only the metadata can be others."""
        if params:
            raise InputError(f"params: a wrapped model has none here, got {', '.join(sorted(params))}")
        other = copy.copy(self)
        other.metadata = dict(self.metadata if metadata is None else metadata)
        return other

    def astype(self, dtype: str) -> Wrapped:
        """As `Network.astype`, with a copy of a module; other models are given images of that type."""
        check_choice("dtype", dtype, ("float32", "float64"))
        other = copy.copy(self)
        other.foreign, other.dtype = self.foreign.astype(dtype), dtype
        other.mean, other.std = self.mean.astype(dtype), self.std.astype(dtype)
        return other

    def fingerprint(self) -> str:
        """SHA-256 of a module's parameters and description; of what the model says to a few images if it has neither.

        Returns
        -------
        str
            Tells one model from another.
        """
        own = self.foreign.parameters()
        scale = {" mean": self.ops.to_host(self.mean), " std": self.ops.to_host(self.std)}
        answers = {" answers": self.ops.to_host(self.apply(self._probes()))} if own is None else own
        return fingerprint(reference_ops, {**answers, **scale})

    # Passes.

    def forward(self, x: Array, *, training: bool = False) -> tuple[Array, list[Any]]:
        """As `Network.forward`; a batch that is too large for the model is cut, and training is refused."""
        if training:
            return self.body.forward(self.ops, self.params, x, training)
        parts = self._parts(len(x))
        # What a module remembers of several parts would fill the memory that it was to be saved.
        asked = [self._ask(x[part], back=len(parts) == 1) for part in parts]
        tape = [x, *(vjp for _, vjp in asked if len(parts) == 1)]
        return self.ops.concatenate([logits for logits, _ in asked]) if asked else self._none(), tape

    def backward(
        self, tape: list[Any], dy: Array, *, need_dx: bool = True, need_parameters: bool = False
    ) -> tuple[Array | None, Parameters]:
        """As `Network.backward`; there are no gradients with respect to parameters."""
        if need_parameters:
            self.body.backward(self.ops, self.params, tape, dy, need_dx, need_parameters)
        if not need_dx:
            return None, {}
        x, *kept = tape
        parts = self._parts(len(x))
        if not parts:
            return self.ops.zeros(x.shape, self.dtype), {}
        vjps = kept or [None] * len(parts)
        gradients = [self._back(x[part], dy[part], vjp) for part, vjp in zip(parts, vjps, strict=True)]
        return self.ops.concatenate(gradients), {}

    def apply(self, x: Array) -> Array:
        """As `Network.apply`, of shape (n, k); nothing is kept for a way back."""

        def of_slice(part: slice) -> list[Array]:
            return [self._ask(x[part][own], back=False)[0] for own in self._parts(len(x[part]))]

        found = self.ops.map_slices(of_slice, len(x), slice_size=self.slice_size)
        return self.ops.concatenate([logits for some in found for logits in some]) if len(x) else self._none()

    def loss_gradient_of(
        self, logits: Array, tape: list[Any], y: Array, *, loss: str = "ce", targets: Array | None = None
    ) -> LossGradient:
        """As `Network.loss_gradient_of`; a gradient of the cross entropy is asked for at once."""
        of_labels = self.foreign.class_gradient
        if of_labels is None or loss != "ce" or not len(y):
            return super().loss_gradient_of(logits, tape, y, loss=loss, targets=targets)
        value_of, _ = loss_ops(self.ops, loss)
        x, gradients = tape[0], []
        for part in self._parts(len(x)):
            labels = self.ops.to_host(y[part])
            found = self._called("gradient", len(labels), partial(of_labels, self._given(x[part]), labels))
            gradients.append(self._gradient(found, logits[part]))
        return LossGradient(value_of(logits, y, targets), logits, self.ops.concatenate(gradients))

    def _ask(self, x: Array, *, back: bool) -> tuple[Array, Vjp | None]:
        """Logits of a part, and how to get back."""
        found, vjp = self._called("model", len(x), lambda: self.foreign.ask(self._given(x), back=back))
        shape = tuple(found.shape)
        expected = self.output_shape or (shape[-1:] if len(shape) == 2 else ("k",))
        if shape != (len(x), *expected):
            one = f"; {ONE_SCORE}" if shape[1:] in ((), (1,)) else ""
            raise InputError(f"model: expected logits of shape {_shown(len(x), *expected)}, got {_shown(*shape)}{one}")
        return self.ops.asarray(found, dtype=self.dtype), vjp

    def _back(self, x: Array, dy: Array, vjp: Vjp | None) -> Array:
        """Gradient with respect to a part of the images; without a way back, they are asked about again."""
        if vjp is None:
            _, vjp = self._ask(x, back=True)
        if vjp is None:
            raise InputError(
                f"model: {self.foreign.title} gives no gradient, which this needs; give wrap gradient= or vjp=, or "
                f"take attacks without gradients: {', '.join(_without_gradients())}"
            )
        given = self.ops.to_host(dy) if self.foreign.on_host else dy
        return self._gradient(self._called("gradient", len(x), lambda: vjp(given)), dy)

    def _gradient(self, found: Any, dy: Array) -> Array:
        """A gradient in the scaling of the images; finite wherever what it comes from is."""
        gradient = self.ops.asarray(found, dtype=self.dtype) / self.std
        if not (np.isfinite(self.ops.to_host(gradient)).reshape(len(dy), -1).all(axis=1) | ~self._finite(dy)).all():
            raise InputError(
                f"model: the gradient of {self.foreign.title} is NaN or infinite where its logits are finite"
            )
        return gradient

    def _finite(self, rows: Array) -> Array:
        return np.isfinite(self.ops.to_host(rows)).all(axis=1)

    def _given(self, x: Array) -> Array:
        """Images as the model takes them."""
        scaled = (x - self.mean) / self.std
        return self.ops.to_host(scaled) if self.foreign.on_host else scaled

    def _called(self, what: str, num_images: int, call: Callable[[], Any]) -> Any:
        """What a call of the model, or of its gradient, gives; its errors in one line."""
        title, count = self.foreign.title, f"{num_images} image{'' if num_images == 1 else 's'}"
        with self.foreign.lock:
            try:
                return call()
            except InputError:
                raise
            except Exception as error:  # anybody's code
                reason = printable(error, 200) or type(error).__name__
                if isinstance(error, MemoryError) or "out of memory" in reason:
                    raise OutOfMemoryError(
                        f"{what}: {title} has too little memory for {count} at once; give wrap a smaller "
                        f"batch_size than {self.slice_size}"
                    ) from error
                numpy = "; it gets NumPy arrays" if self.foreign.on_host else ""
                raise InputError(
                    f"{what}: {title} fails on {count} of shape {self.input_shape} ({reason}); check "
                    f"input_shape, layout and dtype{numpy}"
                ) from error

    def _parts(self, num_images: int) -> list[slice]:
        """Parts that the model can be given, as equal as can be."""
        count = -(-num_images // self.slice_size)
        bounds = [num_images * i // max(1, count) for i in range(count + 1)]
        return [slice(first, last) for first, last in pairwise(bounds)]

    def _none(self) -> Array:
        return self.ops.zeros((0, *self.output_shape), self.dtype)

    # Trying a model out.

    def try_out(self, images: Array | None, num_classes: int | None) -> None:
        """Learn how many classes there are, and refuse a model that is no classifier of single images.

        Parameters
        ----------
        images : array of shape (n, c, h, w), optional
            Examples.
        num_classes : int, optional
            How many classes are expected.

        Raises
        ------
        InputError
            As of `wrap`.
        """
        x = self._probes()
        if images is not None:
            given = self.check_inputs("images", self.ops.asarray(images))[:MOST_GIVEN]
            x = self.ops.concatenate([x, self.ops.asarray(given, dtype=self.dtype)])
        first, _ = self._ask(x[:1], back=False)
        found = first.shape[1]
        if num_classes not in (None, found) or found < 2:
            expected = "at least 2" if num_classes is None else num_classes
            one = f"1 score an image; {ONE_SCORE}" if found == 1 else f"{found} scores an image"
            raise InputError(f"num_classes: expected {expected}, but the model gives {one}")
        self.output_shape = (found,)
        logits = self.ops.to_host(self.apply(x))
        if not np.isfinite(logits).all():
            raise InputError(
                "model: NaN or infinity among the logits of images in [0, 1]; check mean, std and the model"
            )
        self._refuse_probabilities(logits)
        largest = float(abs(logits).max()) + 1e-30
        coarse = self.foreign.coarse
        if abs(self.ops.to_host(self.apply(x)) - logits).max() > (COARSE if coarse else SAME) * largest:
            raise InputError(
                "model: gives other logits for the same images; take what is random out of it (dropout, noise)"
            )
        if abs(self.ops.to_host(first) - logits[:1]).max() > (COARSE if coarse else TOGETHER) * largest:
            raise InputError(
                "model: an image's logits depend on the others of its batch; normalise by running averages, not by "
                "those of the batch"
            )
        self._try_gradient(x, logits.argmin(axis=1))

    def _try_gradient(self, x: Array, y: Array) -> None:
        """Raise unless the gradient of each image is its own."""
        part = slice(0, min(len(x), self.slice_size))
        if self._ask(x[:1], back=True)[1] is None and self.foreign.class_gradient is None:
            return
        labels = self.ops.asarray(y)
        together = self.loss_and_gradient(x[part], labels[part]).gradient
        alone = self.loss_and_gradient(x[:1], labels[:1]).gradient
        own, among = (self.ops.to_host(gradient)[0].astype("float64") for gradient in (alone, together))
        if abs(own - among).max() > (4 * COARSE if self.foreign.coarse else 10 * TOGETHER) * abs(own).max():
            raise InputError(
                "gradient: an image's differs alone and in a batch; expected that of each image's own loss, or of "
                "their sum, not of their mean"
            )

    def _refuse_probabilities(self, logits: Array) -> None:
        """Raise if the scores are probabilities and were not said to be, or the other way round."""
        tolerance = COARSE_SUM if self.foreign.coarse else SUM_TO_ONE
        said = bool(getattr(self.foreign, "probabilities", False))
        scores = np.exp(logits) if said else logits
        sums = abs(scores.sum(axis=1) - 1) <= tolerance
        if bool((sums & (scores >= 0).all(axis=1) & (scores <= 1 + tolerance).all(axis=1)).all()) == said:
            return
        if said:
            raise InputError(
                "probabilities: the model's rows do not lie in [0, 1] with sum 1; leave probabilities=True out"
            )
        raise InputError(
            "model: gives probabilities (rows in [0, 1] that add up to 1), not logits; remove the softmax, or say "
            "probabilities=True"
        )

    def _probes(self) -> Array:
        """A few random images."""
        key = self.ops.derive_key(0, "wrap")
        index = self.ops.arange(NUM_PROBES)
        return self.ops.uniform(self.input_shape, key=key, sample_index=index, dtype=self.dtype)


def _foreign(
    model: Any, *, dtype: str | None, layout: str, probabilities: bool | None, **gradients: Any
) -> tuple[ForeignModel, int | None]:
    """A model by its kind, and how many images it takes at once if that is fixed."""
    given = [name for name, function in gradients.items() if function is not None]
    if isinstance(model, Network) or getattr(model, "stochastic", False) is True:
        raise InputError(f"model: {type(model).__name__} is a classifier of this package; take it as it is")
    if isinstance(model, type):
        raise InputError(f"model: expected a model, got the class {model.__name__}; make one of it")
    if is_torch_module(model):
        if given:
            raise InputError(f"{given[0]}: is not for modules of PyTorch; leave it out")
        return TorchModel(model, dtype=dtype, layout=layout, probabilities=bool(probabilities)), None
    settings: dict[str, Any] = {"layout": layout, "probabilities": bool(probabilities), **gradients}
    if isinstance(model, str | Path):
        if Path(model).suffix.lower() != ".onnx":
            raise InputError(f"model: expected a model or the path of a file .onnx, got {printable(model, 100)}")
        file = OnnxFile(model)
        if dtype not in (None, file.dtype):
            raise InputError(f"dtype: expected {file.dtype}, that of the file's input, got {dtype}")
        return HostModel(file, title=f"ONNX file {printable(file.path.name, 60)}", dtype=file.dtype, **settings), (
            file.num_images
        )
    theirs = functions_of(model)
    if theirs is not None:
        function, vjp = theirs
        if not given:
            settings["vjp"] = vjp
    elif hasattr(model, "predict_proba"):
        if probabilities is False:
            raise InputError("probabilities: predict_proba gives such; leave probabilities=False out")
        function = model.predict_proba
        settings["probabilities"] = True
    elif hasattr(model, "decision_function"):
        function = of_decision(model)
    elif callable(model):
        function = model
    else:
        raise InputError(
            "model: expected a torch.nn.Module, a function, an object with predict_proba or decision_function, a model "
            f"of ART or Foolbox, or a file .onnx, got {type(model).__name__}"
        )
    name = getattr(model, "__qualname__", None)
    title = f"function {name.rpartition('.')[2]}" if isinstance(name, str) else type(model).__name__
    return HostModel(function, title=title, dtype=dtype or "float32", **settings), None


def _scales(mean: Any, std: Any) -> list[tuple[str, list[float]]]:
    found = []
    for name, values in (("mean", mean), ("std", std)):
        is_one = hasattr(values, "__float__") and not getattr(values, "ndim", 0)
        limit = {"above": 0.0} if name == "std" else {}
        # One number a channel may come as an array of shape (c, 1, 1).
        numbers = [values] if is_one else _listed(name, values.reshape(-1) if hasattr(values, "reshape") else values)
        found.append((name, [check_number(name, value, **limit) for value in numbers]))
    return found


def _per_channel(name: str, values: list[float], shape: tuple[int, ...], ops: ModuleType, dtype: str) -> Array:
    if len(values) not in (1, shape[0]):
        raise InputError(f"{name}: expected one number, or {shape[0]} for {shape[0]} channels, got {len(values)}")
    numbers = np.array(values * (shape[0] if len(values) == 1 else 1), dtype)
    return ops.asarray(numbers.reshape(-1, *[1] * (len(shape) - 1)))


def _listed(name: str, values: Any) -> list[Any]:
    try:
        return [values] if isinstance(values, str) else list(values)
    except TypeError:
        raise InputError(f"{name}: expected several numbers, got {printable(repr(values), 100)}") from None


def _without_gradients() -> list[str]:
    """Names of the attacks that differentiate nothing."""
    from .. import attacks  # declares the cards

    known = {name: card for name, card in CARDS.items() if card.function.__module__.startswith(attacks.__name__)}
    return sorted(name for name, card in known.items() if card.profile({}).gradient == "none")


def _shown(*sizes: Any) -> str:
    return f"({', '.join(map(str, sizes))})"
