"""Models of this package for Foolbox and for ART, the Adversarial Robustness Toolbox.

torchattacks and AutoAttack take what `as_torch_module` returns as it is. Each library is imported when it is asked for.

References
----------
.. [1] Rauber et al., "Foolbox Native", Journal of Open Source Software 5(53), 2020.
.. [2] Nicolae et al., "Adversarial Robustness Toolbox v1.0.0", 2018.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from ..checks import InputError
from ..sampling import Stream
from .tensors import OnTensors
from .torch import _torch
from .torch_module import STREAM, as_torch_module

PACKAGES = {"foolbox": "foolbox", "art": "adversarial-robustness-toolbox"}


def as_foolbox_model(model: Any, **settings: Any) -> Any:
    """A model for Foolbox's attacks.

    Parameters
    ----------
    model : Network or MALADE
        Of any backend.
    **settings
        As of `malade_ref.interop.as_torch_module`.

    Returns
    -------
    foolbox.PyTorchModel
        With pixels in [0, 1], on the CPU.

    Raises
    ------
    InputError
        If Foolbox or PyTorch is not installed, or a setting is out of range.
    """
    module = as_torch_module(model, **settings)
    return _library("foolbox").PyTorchModel(module, bounds=(0, 1), device="cpu")


def as_art_classifier(model: Any, **settings: Any) -> Any:
    """A model for ART's attacks.

    Parameters
    ----------
    model : Network or MALADE
        Of any backend.
    **settings
        As of `malade_ref.interop.as_torch_module`.

    Returns
    -------
    art.estimators.classification.PyTorchClassifier
        With pixels in [0, 1] and the cross entropy, on the CPU; it cannot be trained.

    Raises
    ------
    InputError
        If ART or PyTorch is not installed, or a setting is out of range.
    """
    module = as_torch_module(model, **settings)
    return _library("art", "estimators.classification").PyTorchClassifier(
        model=module,
        loss=_torch().nn.CrossEntropyLoss(),
        input_shape=model.input_shape,
        nb_classes=model.num_classes,
        clip_values=(0, 1),
        device_type="cpu",
    )


def as_art_preprocessor(defence: Any, *, seed: int = 0, draw: int = 0) -> Any:
    """A defence as a preprocessor, for one of ART's own classifiers.

    Parameters
    ----------
    defence : MALADE
        Whose chain purifies.
    seed, draw : int
        Of the noise, as of `malade_ref.interop.as_torch_module`; the same at every call.

    Returns
    -------
    art.defences.preprocessor.preprocessor.PreprocessorPyTorch
        Applied in prediction only; its gradient is exact, through all steps of the chain.

    Raises
    ------
    InputError
        If ART or PyTorch is not installed, or the model has no chain.
    """
    if not hasattr(defence, "purify"):
        raise InputError(f"defence: expected a MALADE, got {type(defence).__name__}, which has no purify")
    return _preprocessor()(defence, Stream(seed, STREAM), draw)


@cache
def _preprocessor() -> Any:
    base = _library("art", "defences.preprocessor.preprocessor").PreprocessorPyTorch
    torch = _torch()

    class Purifier(base):  # type: ignore[misc, valid-type]
        """The chain of a `MALADE`, before a classifier of ART."""

        params = ("defence", "stream", "draw")

        def __init__(self, defence: Any, stream: Stream, draw: int) -> None:
            super().__init__(device_type="cpu", is_fitted=True, apply_fit=False, apply_predict=True)
            self.defence, self.stream, self.draw = defence, stream, draw

        def forward(self, x: Any, y: Any = None) -> tuple[Any, Any]:
            """Purified images, and the labels as they are."""
            own = getattr(torch, self.defence.dtype)
            purified = OnTensors(self.defence).purify(x.to(own), stream=self.stream, draw=self.draw)
            return purified.to(x.dtype), y

    return Purifier


def _library(name: str, part: str = "") -> Any:
    try:
        return import_module(f"{name}.{part}" if part else name)
    except ImportError as error:
        raise InputError(
            f"{PACKAGES[name]} cannot be imported ({error}); install it with: pip install {PACKAGES[name]}"
        ) from None
