"""Models that take and give tensors of PyTorch, without a copy.

Arrays and tensors trade their memory by DLPack. A tensor is not copied on its way in if it is where the model computes:
on the CPU for the NumPy reference, on the GPU for a backend that works there; results never are.

PyTorch's autograd sees through `OnTensors.purify` and `OnTensors.logits`: with g the gradient of a loss with respect to
what they return, the gradient with respect to the images is J^T g, exact, through all steps of the chain and for the
same noise; averaged over draws where logits are. The way back computes the forward pass again, slice by slice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..arrays import Array
from ..checks import InputError, check_model
from ..defence import MALADE
from ..draws import mean
from ..sampling import last_position, last_position_with_vjp
from .torch import _torch


class OnTensors:
    """A model whose methods take and give tensors.

    Gradients flow from `purify` and `logits` to images that require them: once, not a second time through the gradient.
    What `loss_gradient` returns has no graph behind it, nor has a class that `predict` names.

    Parameters
    ----------
    model : Network or MALADE
        Of any backend.

    Raises
    ------
    InputError
        If PyTorch is not installed.

    Examples
    --------
    >>> import torch  # doctest: +SKIP
    >>> from malade_ref import MALADE, cnn, sdae
    >>> defended = MALADE(cnn(), sdae(), num_steps=25, a=0.3, delta=0.05)
    >>> OnTensors(defended).purify(torch.rand(8, 1, 28, 28)).shape  # doctest: +SKIP
    torch.Size([8, 1, 28, 28])
    """

    def __init__(self, model: Any) -> None:
        self._from_dlpack = _torch().from_dlpack
        check_model("model", model)
        self.model = model

    def purify(self, x: Any, **settings: Any) -> Any:
        """Images after the chain of a `MALADE`.

        Parameters
        ----------
        x : torch.Tensor of shape (n, c, h, w)
            Images, pixels in [0, 1].
        **settings
            As of `MALADE.purify`; tensors in place of arrays.

        Returns
        -------
        torch.Tensor of shape (n, c, h, w)
            Purified images.
        """
        if not hasattr(self.model, "purify"):
            raise InputError(f"model: expected a MALADE, got {type(self.model).__name__}, which has no purify")
        return self._differentiable(self.model.purify, _purify_vjp, x, settings)

    def logits(self, x: Any, **settings: Any) -> Any:
        """Class scores.

        Parameters
        ----------
        x : torch.Tensor of shape (n, c, h, w)
            Images, pixels in [0, 1].
        **settings
            As of the model's `logits`; tensors in place of arrays.

        Returns
        -------
        torch.Tensor of shape (n, k)
            Logits.
        """
        return self._differentiable(self.model.logits, _logits_vjp, x, settings)

    def logits_near(self, x: Any, **settings: Any) -> Any:
        """As `logits`, for images that may lie outside [0, 1]: where an attack with momentum looks on its way."""
        return self._differentiable(partial(logits_near, self.model), _logits_vjp, x, settings)

    def predict(self, x: Any, **settings: Any) -> Any:
        """Most probable classes.

        Parameters
        ----------
        x : torch.Tensor of shape (n, c, h, w)
            Images, pixels in [0, 1].
        **settings
            As of the model's `predict`; tensors in place of arrays.

        Returns
        -------
        torch.Tensor of shape (n,), int64
            Classes.
        """
        return self._call(self.model.predict, x, **settings)

    def loss_gradient(self, x: Any, y: Any, **settings: Any) -> Any:
        """Gradient of the cross entropy with respect to the images.

        Parameters
        ----------
        x : torch.Tensor of shape (n, c, h, w)
            Images, pixels in [0, 1].
        y : torch.Tensor of shape (n,), integer
            Labels.
        **settings
            As of the model's `loss_gradient`; tensors in place of arrays.

        Returns
        -------
        torch.Tensor of shape (n, c, h, w)
            Gradient of each sample's loss with respect to its own image.
        """
        return self._call(self.model.loss_gradient, x, y, **settings)

    def _differentiable(self, method: Any, vjp: Callable[..., Array], x: Any, settings: dict[str, Any]) -> Any:
        """Call a method; if the images require gradients, let PyTorch know how they get back."""
        torch = _torch()
        _check_plain("x", x)
        if not (torch.is_grad_enabled() and getattr(x, "requires_grad", False)):
            return self._call(method, x, **settings)
        if x.device.type == "meta":
            return self._call(method, x, **settings)  # complains

        class Through(torch.autograd.Function):  # type: ignore[misc, name-defined]
            """The method, and the transpose of its Jacobian."""

            @staticmethod
            def forward(context: Any, images: Any) -> Any:
                context.save_for_backward(images)
                return self._call(method, images, **settings)

            @staticmethod
            def backward(context: Any, gradient: Any) -> Any:
                if torch.is_grad_enabled():
                    raise InputError("x: gradients of gradients are not known; leave create_graph=True out")
                (images,) = context.saved_tensors
                named = {name: self._array(name, value) for name, value in settings.items()}
                start, dy = self._array("x", images), self._array("gradient", gradient.contiguous())
                return self._from_dlpack(vjp(self.model, start, dy, **named)).to(images.device)

        return Through.apply(x)

    def _call(self, method: Any, *tensors: Any, **settings: Any) -> Any:
        named = {name: self._array(name, value) for name, value in settings.items()}
        return self._from_dlpack(method(*map(self._array, ("x", "y"), tensors), **named))

    def _array(self, name: str, value: Any) -> Any:
        """A tensor as an array of the model's backend; anything else as it is."""
        if not hasattr(value, "__dlpack__") or not hasattr(value, "detach"):
            return value
        _check_plain(name, value)
        try:
            return self.model.ops.asarray(value.detach())
        except InputError:
            raise
        except (TypeError, ValueError, RuntimeError, BufferError) as error:  # whatever speaks DLPack here
            reason = " ".join(str(error).split())
            raise InputError(
                f"{name}: the tensor on {value.device} cannot be taken over ({reason}); move it to where the model is, "
                "in float32 or float64"
            ) from None


def _check_plain(name: str, value: Any) -> None:
    """Raise if a derivative would be lost that is not backward's: of torch.func, or in forward mode."""
    torch = _torch()
    if isinstance(value, torch.Tensor) and (
        torch._C._functorch.is_functorch_wrapped_tensor(value)
        or torch.autograd.forward_ad.unpack_dual(value).tangent is not None
    ):
        raise InputError(f"{name}: torch.func and forward derivatives do not get through; take torch.autograd.grad")


def logits_near(
    model: Any,
    x: Array,
    *,
    num_draws: int = 1,
    first_draw: int = 0,
    sample_index: Array | None = None,
    stream: Any = None,
) -> Array:
    """A model's logits, of images that may lie outside [0, 1].

    Parameters
    ----------
    model : Network or MALADE
        Of any backend.
    x : array of shape (n, c, h, w)
        Images.
    num_draws, first_draw, sample_index, stream
        As of `MALADE.logits`.

    Returns
    -------
    array of shape (n, k)
        Logits.
    """
    if not model.stochastic:
        return model.apply(x)

    def of_draw(draw: int) -> tuple[Array]:
        key, index = model._noise(model.ops.clip_pixels(x), sample_index, stream, draw)
        chain = {"key": key, "sample_index": index}
        return (model.classifier.apply(last_position(x, model.denoiser, model.chain, **chain)),)

    (logits,) = mean(of_draw(draw) for draw in range(first_draw, first_draw + num_draws))
    return logits


def _purify_vjp(
    model: MALADE, x: Array, dy: Array, *, sample_index: Array | None = None, stream: Any = None, draw: int = 0
) -> Array:
    """Transposed Jacobian of `MALADE.purify` times dy."""
    key, index = model._noise(x, sample_index, stream, draw)

    def of_slice(part: slice) -> Array:
        chain = {"key": key, "sample_index": index[part]}
        _, vjp = last_position_with_vjp(x[part], model.denoiser, model.chain, **chain)
        return vjp(dy[part])

    return model.ops.concatenate(model.ops.map_slices(of_slice, len(x), slice_size=model.denoiser.slice_size))


def _logits_vjp(
    model: Any,
    x: Array,
    dy: Array,
    *,
    num_draws: int = 1,
    first_draw: int = 0,
    sample_index: Array | None = None,
    stream: Any = None,
) -> Array:
    """Transposed Jacobian of a model's `logits` times dy."""
    ops = model.ops
    classifier = model.classifier if model.stochastic else model

    def through_classifier(at: Array, gradient: Array) -> Array:
        _, tape = classifier.forward(at)
        return classifier.backward(tape, gradient)[0]

    def of_slice(part: slice) -> Array:
        if not model.stochastic:
            return through_classifier(x[part], dy[part])
        total = ops.zeros(x[part].shape, model.dtype)
        for draw in range(first_draw, first_draw + num_draws):
            key, index = model._noise(ops.clip_pixels(x), sample_index, stream, draw)
            chain = {"key": key, "sample_index": index[part]}
            purified, vjp = last_position_with_vjp(x[part], model.denoiser, model.chain, **chain)
            total = total + vjp(through_classifier(purified, dy[part] / num_draws))
        return total

    slice_size = min(classifier.slice_size, model.denoiser.slice_size) if model.stochastic else classifier.slice_size
    return ops.concatenate(ops.map_slices(of_slice, len(x), slice_size=slice_size))
