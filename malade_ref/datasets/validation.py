"""Checks of the values of images and labels that come from outside: once, where they enter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from malade_ref.checks import InputError, check_float, check_integer, check_ndim


def check_images(x: Any, *, name: str = "images", shape: Sequence[int] | None = None, first: int = 0) -> None:
    """Raise unless ``x`` holds images as the networks take them.

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Pixels; they must be finite and in [0, 1].
    name : str
        What they are, for the complaint: a file, an argument.
    shape : sequence of three int, optional
        The (c, h, w) that is expected.
    first : int
        Number of the first image, for the complaint.

    Examples
    --------
    >>> check_images(np.zeros((2, 1, 28, 28), dtype=np.float32), shape=(1, 28, 28))
    """
    _check_array(name, x)
    check_ndim(name, x, 4, "(n, c, h, w)")
    if shape is not None and x.shape[1:] != tuple(shape):
        raise InputError(
            f"{name}: expected images of shape {tuple(shape)} (channels, height, width), got {x.shape[1:]}"
        )
    if x.dtype == np.uint8:
        raise InputError(f"{name}: expected float32 in [0, 1], got uint8; divide by 255")
    check_float(name, x)
    if not x.size:
        return
    low, high = float(x.min()), float(x.max())  # NaN if there is one
    if low >= 0 and high <= 1:
        return
    for number, image in enumerate(x, first):
        if not np.isfinite(image).all():
            raise InputError(f"{name}: image {number} has pixels that are NaN or infinite; leave it out")
        if not (image.min() >= 0 and image.max() <= 1):
            hint = "; divide by 255" if low >= 0 and 1.5 < high <= 255 else "; scale or clip them"
            raise InputError(
                f"{name}: expected pixels in [0, 1], image {number} has {image.min():g} to {image.max():g}{hint}"
            )


def check_labels(y: Any, num_classes: int, *, name: str = "labels", num_images: int | None = None) -> None:
    """Raise unless ``y`` holds labels.

    Parameters
    ----------
    y : ndarray of shape (n,), integer
        Labels; they must be in 0..num_classes-1.
    num_classes : int
        How many classes there are.
    name : str
        What they are, for the complaint.
    num_images : int, optional
        The n that is expected.

    Examples
    --------
    >>> check_labels(np.array([3, 1, 4]), 10, num_images=3)
    """
    _check_array(name, y)
    check_ndim(name, y, 1, "(n,)")
    check_integer(name, y)
    if num_images is not None and len(y) != num_images:
        raise InputError(f"{name}: {len(y)} labels for {num_images} images; each image needs one")
    wrong = np.flatnonzero((y < 0) | (y >= num_classes))
    if len(wrong):
        raise InputError(
            f"{name}: expected labels in 0..{num_classes - 1}, label {wrong[0]} is {y[wrong[0]]}"
            + ("" if len(wrong) == 1 else f", and {len(wrong) - 1} more are out of range")
        )


def _check_array(name: str, array: Any) -> None:
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name}: expected a NumPy array, got {type(array).__name__}")
