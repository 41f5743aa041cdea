"""Models of other libraries, all asked in the same way: scores of some images, and how a gradient gets back.

Each kind is a class with the attributes and methods of `ForeignModel`. Images arrive in the model's own scaling, axes
(n, c, h, w) or (n, d), never more of them at once than the model was said to take.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from ..arrays import Array
from ..checks import InputError, printable
from .torch import _torch

LAYOUTS = ("nchw", "nhwc", "flat")

# From a gradient with respect to the scores to the one with respect to the images.
Vjp = Callable[[Array], Any]

NOT_TENSOR = "wrap a module or a function that returns only the logits"


class ForeignModel(Protocol):
    """What `wrap` asks of a model of any kind.

    Attributes
    ----------
    title : str
        What it is, for people.
    dtype : {"float32", "float64"}
        Of the images it is given.
    coarse : bool
        Whether it computes in less than float32.
    on_host : bool
        Whether it takes NumPy arrays; otherwise those of any backend.
    lock : lock
        One thread at a time: a caller's model need not bear several.
    """

    title: str
    dtype: str
    coarse: bool
    on_host: bool
    lock: Any

    @property
    def class_gradient(self) -> Callable[[Array, Array], Array] | None:
        """Gradient of each image's cross entropy, of shape (n, ...), if that is all there is; of (images, labels)."""
        ...

    def ask(self, x: Array, *, back: bool) -> tuple[Any, Vjp | None]:
        """Scores, and how to get back.

        Parameters
        ----------
        x : array of shape (n, c, h, w) or (n, d)
            Images in the model's scaling, n >= 1.
        back : bool
            Whether a gradient will be wanted.

        Returns
        -------
        scores : array or torch.Tensor of shape (n, k)
            Logits, or logarithms of probabilities.
        vjp : callable, or None
            Of a gradient of shape (n, k); None if it was not wanted, or cannot be had.
        """
        ...

    def astype(self, dtype: str) -> ForeignModel:
        """Return the model in another precision."""
        ...

    def parameters(self) -> dict[str, Array] | None:
        """Return what tells it from other models, as NumPy arrays; None if only its answers do."""
        ...


class _OneAtATime:
    """A lock of its own for each object, which copies and pickles leave behind."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.RLock())


class TorchModel(_OneAtATime, ForeignModel):
    """A `torch.nn.Module` in evaluation mode; gradients are PyTorch's.

    Parameters
    ----------
    module : torch.nn.Module
        From images to logits; it stays where it is, and as it is.
    dtype : {"float32", "float64"}, optional
        Of the images it is given; by default that of its parameters. A module in half precision is given float32
        images, and converts them itself.
    layout : {"nchw", "nhwc", "flat"}
        As of `HostModel`.
    probabilities : bool
        Whether it returns probabilities.

    Raises
    ------
    InputError
        If the module, or one within it, is in training mode.
    """

    on_host = False
    class_gradient = None

    def __init__(
        self, module: Any, *, dtype: str | None = None, layout: str = "nchw", probabilities: bool = False
    ) -> None:
        super().__init__()
        self.module, self.layout, self.probabilities = module, layout, probabilities
        self.title = type(module).__name__
        own = [str(tensor.dtype).removeprefix("torch.") for tensor in self._tensors() if tensor.is_floating_point()]
        self.coarse = bool(own) and own[0] not in ("float32", "float64")
        exact = own[0] if own and not self.coarse else "float32"
        self.dtype = exact if dtype is None else dtype
        self._own = own[0] if own else self.dtype
        if not self.coarse and self._own != self.dtype:
            raise InputError(f"dtype: expected {self._own}, that of the module's parameters, got {self.dtype}")
        self._check_mode()

    def ask(self, x: Array, *, back: bool) -> tuple[Any, Vjp | None]:
        torch = _torch()
        self._check_mode()
        with torch.inference_mode(False), torch.set_grad_enabled(back):
            leaf = self._tensor(x).requires_grad_(back)
            # A copy, as modules may change in place what they are given.
            scores = self._scores(self._laid_out(leaf.to(getattr(torch, self._own), copy=True)))
        if not back:
            return self._back_to(x, scores), None
        if not scores.requires_grad:
            raise InputError(_no_path(self.title))

        def vjp(dy: Array) -> Any:
            gradient = self._tensor(dy)
            size = torch.ones_like(gradient[:, :1])
            if self.coarse:  # what is small would become 0
                size = gradient.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
            with torch.inference_mode(False):
                wanted = (gradient / size).to(scores.dtype)
                (dx,) = torch.autograd.grad(scores, leaf, wanted, retain_graph=True, allow_unused=True)
            if dx is None:
                raise InputError(_no_path(self.title))
            return self._back_to(x, dx * size.reshape(-1, *[1] * (dx.ndim - 1)))

        return self._back_to(x, scores), vjp

    def astype(self, dtype: str) -> TorchModel:
        torch = _torch()
        try:
            module = copy.deepcopy(self.module).to(getattr(torch, dtype))
        except (RuntimeError, TypeError, NotImplementedError) as error:
            reason = printable(error, 200)
            raise InputError(f"model: a copy in {dtype} cannot be made of {self.title} ({reason})") from error
        return TorchModel(module, dtype=dtype, layout=self.layout, probabilities=self.probabilities)

    def parameters(self) -> dict[str, Array] | None:
        torch = _torch()
        state = {
            name: tensor.detach().cpu() for name, tensor in self.module.state_dict().items() if torch.is_tensor(tensor)
        }
        if not state:
            return None
        words = np.frombuffer(repr(self.module).encode(), np.uint8)
        wide = {name: tensor.float() if tensor.dtype == torch.bfloat16 else tensor for name, tensor in state.items()}
        return {**{name: tensor.numpy() for name, tensor in wide.items()}, " module": words}

    def _laid_out(self, x: Any) -> Any:
        if self.layout == "nhwc" and x.ndim == 4:
            return x.permute(0, 2, 3, 1).contiguous()
        return x.flatten(1) if self.layout == "flat" else x

    def _scores(self, x: Any) -> Any:
        torch = _torch()
        found = self.module(x)
        # Models of Hugging Face return records.
        found = found if torch.is_tensor(found) else getattr(found, "logits", found)
        if not torch.is_tensor(found):
            raise InputError(f"model: expected one tensor of logits, got {type(found).__name__}; {NOT_TENSOR}")
        found = found if self.coarse or not found.is_floating_point() else found.to(getattr(torch, self.dtype))
        if not self.probabilities:
            return found
        found = found.to(getattr(torch, self.dtype))
        return found.clamp_min(torch.finfo(found.dtype).tiny).log()

    def _check_mode(self) -> None:
        for name, module in self.module.named_modules():
            if module.training:
                inner = f"{name} ({type(module).__name__})" if name else type(module).__name__
                raise InputError(f"model: {inner} is in training mode; call eval() of the whole module first")

    def _tensors(self) -> Iterator[Any]:
        return chain(self.module.parameters(), self.module.buffers())

    def _tensor(self, array: Array) -> Any:
        """A copy where the module is."""
        torch = _torch()
        tensor = (
            torch.tensor(np.ascontiguousarray(array))
            if isinstance(array, np.ndarray)
            else torch.from_dlpack(array).clone()
        )
        where = next((tensor.device for tensor in self._tensors()), tensor.device)
        return tensor.to(where, getattr(torch, self.dtype))

    def _back_to(self, array: Array, tensor: Any) -> Any:
        """A tensor of the images' type, where an array is."""
        found = tensor.detach().to(getattr(_torch(), self.dtype)).contiguous()
        return found.cpu() if isinstance(array, np.ndarray) else found


class HostModel(_OneAtATime, ForeignModel):
    """A function from NumPy arrays to scores, with a gradient or without.

    Parameters
    ----------
    function : callable
        From images to scores.
    title : str
        What it is, for people.
    dtype : {"float32", "float64"}
        Of the images it is given.
    layout : {"nchw", "nhwc", "flat"}
        Which axes it wants: (n, c, h, w), (n, h, w, c) or (n, c h w).
    probabilities : bool
        Whether it returns probabilities.
    gradient, vjp : callable, optional
        As of `wrap`.
    """

    coarse = False
    on_host = True

    def __init__(
        self,
        function: Callable[[Array], Any],
        *,
        title: str,
        dtype: str = "float32",
        layout: str = "nchw",
        probabilities: bool = False,
        gradient: Callable[[Array, Array], Any] | None = None,
        vjp: Callable[[Array, Array], Any] | None = None,
    ) -> None:
        super().__init__()
        self.function, self.title, self.dtype, self.layout = function, title, dtype, layout
        self.probabilities, self.gradient, self.vjp = probabilities, gradient, vjp

    @property
    def class_gradient(self) -> Callable[[Array, Array], Array] | None:
        return self._of_labels if self.gradient is not None and self.vjp is None else None

    def ask(self, x: Array, *, back: bool) -> tuple[Any, Vjp | None]:
        found = _numbers("model", self.function(self._laid_out(x)))
        if self.dtype == "float64" and found.dtype.kind == "f" and found.dtype.itemsize < 8:
            raise InputError(
                f"model: {self.title} answers in {found.dtype} to images in float64; wrap it with dtype='float32', and "
                "leave out what compares gradients in float64"
            )
        scores = found.astype(self.dtype)
        tiny = np.finfo(self.dtype).tiny
        if self.probabilities:
            probabilities, scores = scores, np.log(np.maximum(scores, tiny))
        if not back or (self.vjp is None and self.gradient is None):
            return scores, None

        def through(dy: Array) -> Array:
            if self.probabilities:
                dy = np.where(probabilities > tiny, dy / np.maximum(probabilities, tiny), 0)
            assert self.vjp is not None
            return self._taken_back("vjp", self.vjp(self._laid_out(x), dy.copy()), x)

        return scores, through if self.vjp is not None else lambda dy: self._by_labels(x, dy)

    def astype(self, dtype: str) -> HostModel:
        other = copy.copy(self)
        other.dtype = dtype
        return other

    def parameters(self) -> dict[str, Array] | None:
        return None

    def _by_labels(self, x: Array, dy: Array) -> Array:
        r"""J^T dy from gradients of the cross entropy.

        With p the probabilities, grad CE_c = sum_k p_k grad z_k - grad z_c. So where the entries of dy add up to 0, as
        they do for every loss that is the same when all logits rise alike, J^T dy = -sum_c dy_c grad CE_c.
        """
        sizes = abs(dy).sum(axis=1)
        if (abs(dy.sum(axis=1)) > 1e-4 * sizes).any():
            raise InputError(
                "gradient: that of the cross entropy carries back no loss that changes when all logits rise alike; "
                "give wrap vjp=, a function of (images, gradient with respect to the logits)"
            )
        order = (-abs(dy)).argsort(axis=1, kind="stable")
        rows = np.arange(len(dy))
        dx = np.zeros(x.shape, self.dtype)
        for classes in order.T[: int((dy != 0).sum(axis=1).max())]:
            weight = dy[rows, classes].reshape(-1, *[1] * (x.ndim - 1))
            dx -= weight * self._of_labels(x, classes)
        return dx

    def _of_labels(self, x: Array, y: Array) -> Array:
        assert self.gradient is not None
        return self._taken_back("gradient", self.gradient(self._laid_out(x), y.copy()), x)

    def _laid_out(self, x: Array) -> Array:
        """A copy with the axes that the function wants."""
        if self.layout == "nhwc" and x.ndim == 4:
            return np.array(x.transpose(0, 2, 3, 1), order="C")
        return np.array(x.reshape(len(x), -1) if self.layout == "flat" else x, order="C")

    def _taken_back(self, name: str, found: Any, x: Array) -> Array:
        """A gradient that a function gave, with the axes of images."""
        if found is None:
            raise InputError(f"{name}: gave None; expected an array of the images' shape")
        dx = _numbers(name, found)
        expected = self._laid_out(x[:1]).shape[1:]
        if dx.shape != (len(x), *expected):
            raise InputError(f"{name}: expected shape {(len(x), *expected)}, that of the images, got {dx.shape}")
        dx = dx.astype(self.dtype)
        if self.layout == "nhwc" and x.ndim == 4:
            return np.array(dx.transpose(0, 3, 1, 2), order="C")
        return dx.reshape(x.shape)


class OnnxFile:
    """The function of an ONNX file, computed by onnxruntime on the CPU.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    InputError
        If onnxruntime is not installed, it cannot read the file, or the file's function is not one of images to scores.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{self.path}: there is no such file")
        session = self._opened()
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise InputError(f"{self.path}: expected one input, got {', '.join(one.name for one in inputs)}")
        types = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
        if inputs[0].type not in types:
            raise InputError(f"{self.path}: expected an input of floating-point numbers, got {inputs[0].type}")
        self._type = types[inputs[0].type]
        self._input, shape = inputs[0].name, list(inputs[0].shape)
        outputs = session.get_outputs()
        scores = [one for one in outputs if one.type in types and len(one.shape or ()) == 2] or outputs
        if len(scores) != 1:
            raise InputError(
                f"{self.path}: expected one output of scores, got {', '.join(one.name for one in outputs)}"
            )
        self._output = scores[0].name
        self.dtype = "float64" if self._type == "float64" else "float32"
        self.num_images = shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None
        self._session = session

    def __call__(self, x: Array) -> Array:
        """Return the scores of images, an array of shape (n, k); black images fill up a number that is fixed."""
        missing = 0 if self.num_images is None else self.num_images - len(x)
        filled = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) if missing else x
        (found,) = self._session.run([self._output], {self._input: filled.astype(self._type)})
        return np.asarray(found)[: len(x)]

    def __getstate__(self) -> dict[str, Any]:
        """Return what the file can be opened again by."""
        return {name: value for name, value in vars(self).items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again."""
        vars(self).update(state)
        self._session = self._opened()

    def _opened(self) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(
                f"{self.path}: onnxruntime cannot be imported ({error}); install it with: pip install onnxruntime"
            ) from None
        try:
            return onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has classes of its own for each status
            raise InputError(f"{self.path}: onnxruntime cannot read it ({printable(error, 200)})") from None


def is_torch_module(model: Any) -> bool:
    """Whether a model is PyTorch's; PyTorch is not imported to find out.

    Parameters
    ----------
    model : object
        Anything.
    """
    torch: ModuleType | None = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _numbers(name: str, found: Any) -> Array:
    """What a function gave, as a NumPy array of numbers; tensors of PyTorch and TensorFlow among them."""
    if hasattr(found, "detach"):
        found = found.detach().cpu()
    try:
        array = np.asarray(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: gave no array ({printable(error, 200)}); {NOT_TENSOR}") from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name}: expected an array of numbers, got {type(found).__name__} of {array.dtype}")
    return array


def _no_path(title: str) -> str:
    return (
        f"model: {title} has no gradient: the way from the images to the logits is cut, by detach, no_grad, NumPy or a "
        "choice such as argmax; take that out or, for attacks without gradients, wrap a function that calls the module"
    )
