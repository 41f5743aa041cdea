"""Classifiers of Foolbox, ART and scikit-learn as functions of NumPy arrays, with their gradients where they have some.

No library is imported to recognise its models: what counts is what they have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array
from .torch import _torch

# Scores of images, and sum(g * scores)'s gradient from (images, g).
Functions = tuple[Callable[[Array], Any], Callable[[Array, Array], Any]]


def functions_of(model: Any) -> Functions | None:
    """Scores and gradients of a model of Foolbox or ART.

    Parameters
    ----------
    model : object
        Anything.

    Returns
    -------
    tuple of two callables, or None
        From images with pixels in [0, 1], which are brought between the bounds that the model names, to its scores;
        and from (images, g) to the gradient of sum(g * scores). None if the model is none of theirs.
    """
    if all(hasattr(model, name) for name in ("predict", "class_gradient", "nb_classes")):
        return _of_art(model)
    if all(hasattr(model, name) for name in ("bounds", "transform_bounds")) and callable(model):
        return _of_foolbox(model)
    return None


def _of_art(model: Any) -> Functions:
    low, high = (0.0, 1.0) if model.clip_values is None else model.clip_values
    low, high = np.asarray(low, "float32"), np.asarray(high, "float32")

    def scores(x: Array) -> Any:
        return model.predict(low + (high - low) * x)

    def vjp(x: Array, g: Array) -> Any:
        of_classes = np.asarray(model.class_gradient(low + (high - low) * x))  # (n, k, ...)
        return (high - low) * (g.reshape(*g.shape, *[1] * (x.ndim - 1)) * of_classes).sum(axis=1)

    return scores, vjp


def _of_foolbox(model: Any) -> Functions:
    low, high = (float(bound) for bound in model.bounds)
    device = getattr(model, "device", getattr(getattr(model, "_model", None), "device", "cpu"))

    def asked(x: Array, *, back: bool) -> tuple[Any, Any]:
        torch = _torch()
        with torch.inference_mode(False), torch.set_grad_enabled(back):
            leaf = torch.tensor(x, device=device).requires_grad_(back)
            return leaf, model(low + (high - low) * leaf)

    def vjp(x: Array, g: Array) -> Any:
        torch = _torch()
        leaf, found = asked(x, back=True)
        (gradient,) = torch.autograd.grad(found, leaf, torch.tensor(g, dtype=found.dtype, device=found.device))
        return gradient

    return lambda x: asked(x, back=False)[1], vjp


def of_decision(model: Any) -> Callable[[Array], Any]:
    """The scores by which a model of scikit-learn decides that has no probabilities, such as a support vector machine.

    Parameters
    ----------
    model : object
        With ``decision_function``.

    Returns
    -------
    callable
        From images to an array of shape (n, k); of two classes, which have one score s, these are (-s / 2, s / 2).
    """

    def scores(x: Array) -> Array:
        found = np.asarray(model.decision_function(x))
        return np.stack([-found / 2, found / 2], axis=1) if found.ndim == 1 else found

    return scores
