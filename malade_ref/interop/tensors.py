"""Models that take and give tensors of PyTorch, without a copy.

Arrays and tensors trade their memory by DLPack. A tensor is not copied on its way in if it is where the model computes:
on the CPU for the NumPy reference, on the GPU for a backend that works there; results never are.
"""

from __future__ import annotations

from typing import Any

from ..checks import InputError
from .torch import _torch


class OnTensors:
    """A model whose methods take and give tensors.

    Gradients are those that the model itself computes, by `loss_gradient`; PyTorch's autograd does not see through it.

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

        Raises
        ------
        InputError
            If the images are not as expected, or the model purifies none.
        """
        if not hasattr(self.model, "purify"):
            raise InputError(f"model: expected a MALADE, got {type(self.model).__name__}, which has no purify")
        return self._call(self.model.purify, x, **settings)

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

        Raises
        ------
        InputError
            If the images are not as expected.
        """
        return self._call(self.model.logits, x, **settings)

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

        Raises
        ------
        InputError
            If the images are not as expected.
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

        Raises
        ------
        InputError
            If images, labels or a setting are not as expected.
        """
        return self._call(self.model.loss_gradient, x, y, **settings)

    def _call(self, method: Any, *tensors: Any, **settings: Any) -> Any:
        named = {name: self._array(name, value) for name, value in settings.items()}
        return self._from_dlpack(method(*map(self._array, ("x", "y"), tensors), **named))

    def _array(self, name: str, value: Any) -> Any:
        """A tensor as an array of the model's backend; anything else as it is."""
        if not hasattr(value, "__dlpack__") or not hasattr(value, "detach"):
            return value
        try:
            return self.model.ops.asarray(value.detach())
        except InputError:
            raise
        except (TypeError, ValueError, RuntimeError, BufferError) as error:  # whatever speaks DLPack here
            reason = " ".join(str(error).split())
            raise InputError(
                f"{name}: the tensor on {value.device} cannot be taken over ({reason}); move it to where the model is"
            ) from None
