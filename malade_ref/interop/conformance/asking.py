"""A model as other libraries see it, by `as_torch_module`: mean logits over draws of noise, and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...arrays import Array
from ...attacks.oracle import Asking, AttackResult, Model
from ...checks import InputError, check_choice, check_work
from ..tensors import logits_near
from ..torch_module import NOISE, asked_noise

# Gets the number of an iterate, from 0, and the images, an array of shape (n, c, h, w) on the host.
Record = Callable[[int, Array], None]


class Asked:
    """A model, the images and the labels, on the host; and at the end this package's verdict.

    Parameters
    ----------
    model : Model
        As of `malade_ref.attacks.pgd`.
    x : array of shape (n, c, h, w)
        Clean images, pixels in [0, 1].
    y : array of shape (n,), integer
        True labels.
    num_draws, seed : int
        As of `as_torch_module`.
    num_judge_draws : int
        As of `malade_ref.attacks.pgd`.
    noise : {"fixed", "shared", "fresh"}
        As of `as_torch_module`.

    Attributes
    ----------
    x : ndarray of shape (n, c, h, w)
        Clean images.
    y : ndarray of shape (n,), integer
        True labels.
    """

    def __init__(
        self, model: Model, x: Array, y: Array, *, num_draws: int, seed: int, num_judge_draws: int, noise: str = "fixed"
    ) -> None:
        self._oracle = Asking(num_draws=num_draws, num_judge_draws=num_judge_draws, seed=seed).oracle(model, x, y)
        check_choice("noise", noise, NOISE)
        check_work("num_draws", num_draws)
        self.model, self._given = model, x
        self.x, self.y = np.asarray(model.ops.to_host(x)), np.asarray(model.ops.to_host(y))
        self._num_draws = num_draws if model.stochastic else 1
        self._noise, self._seed, self._calls, self._gradients = noise, seed, 0, 0

    def logits(self, x: Array) -> Array:
        """Mean logits of images, an ndarray of shape (n, k); pixels may lie outside [0, 1]."""
        return np.asarray(self.model.ops.to_host(logits_near(self.model, self._there(x), **self._next())))

    def wrong(self, x: Array) -> Array:
        """Whether the class with the largest logit is another one than the true one, an ndarray of shape (n,), bool."""
        return np.asarray(self.logits(x).argmax(axis=1) != self.y)

    def gradient(self, x: Array, *, loss: str) -> Array:
        """Gradient of each image's loss, of its mean logits.

        Parameters
        ----------
        x : ndarray of shape (n, c, h, w)
            Images.
        loss : {"ce", "margin"}
            As of `Network.loss_and_gradient`.

        Returns
        -------
        ndarray of shape (n, c, h, w)
            With respect to the images.
        """
        settings: dict[str, Any] = {"loss": loss, "expectation": "logits", **self._next()}
        self._gradients += 1
        found = self.model.loss_and_gradient(self._there(x), self.model.ops.asarray(self.y), **settings)
        return np.asarray(self.model.ops.to_host(found.gradient))

    def images(self, name: str, x: Array) -> Array:
        """Images that a caller gave, as an ndarray of the clean images' shape and dtype, not the caller's own.

        Parameters
        ----------
        name : str
            Of the argument.
        x : array of shape (n, c, h, w)
            Images, pixels in [0, 1].

        Raises
        ------
        InputError
            If they are not.
        """
        ops = self.model.ops
        given = ops.asarray(x)
        ops.check_images(name, given, self.model.input_shape)
        if tuple(given.shape) != self.x.shape:
            raise InputError(f"{name}: expected shape {self.x.shape}, that of x, got {tuple(given.shape)}")
        return np.array(ops.to_host(given), self.x.dtype)

    def drawn(self, draw: Callable[..., Array], shape: tuple[int, ...], stream: str, *numbers: int) -> Array:
        """Random numbers of each image.

        Parameters
        ----------
        draw : callable
            ``ops.uniform`` or ``ops.normal``.
        shape : tuple of int
            Of one image's.
        stream : str
            What they are for.
        *numbers : int
            Which of the stream's.

        Returns
        -------
        ndarray of shape (n, *shape)
            Of the images' dtype.
        """
        ops = self.model.ops
        key = ops.derive_key(self._seed, stream, *numbers)
        found = draw(shape, key=key, sample_index=ops.arange(len(self.x)), dtype=self.model.dtype)
        return np.asarray(ops.to_host(found))

    def result(self, x_adv: Array, measure: Callable[[Array], Array]) -> AttackResult:
        """The verdict of this package on what was found.

        Parameters
        ----------
        x_adv : ndarray of shape (n, c, h, w)
            Images.
        measure : callable
            From images to their distances from the clean ones.

        Returns
        -------
        AttackResult
            Evaluations that an attack made are counted, and those of the verdict.
        """
        self._oracle.num_queries += self._calls * self._num_draws
        self._oracle.num_gradients += self._gradients * self._num_draws
        verdict, _ = self._oracle.judge(self._there(x_adv))
        return self._oracle.result(verdict, self.model.ops.asarray(measure(x_adv).astype("float64")))

    def _there(self, x: Array) -> Array:
        return self.model.ops.asarray(x, dtype=self.model.dtype)

    def _next(self) -> dict[str, Any]:
        self._calls += 1
        if not self.model.stochastic:
            return {}
        return asked_noise(self.model, len(self.x), self._num_draws, self._noise, self._seed, self._calls - 1)


def each(values: Array, x: Array) -> Array:
    """Values of shape (n,) that broadcast against images.

    Parameters
    ----------
    values : ndarray of shape (n,)
        One for each image.
    x : ndarray of shape (n, c, h, w)
        Images.

    Returns
    -------
    ndarray of shape (n, 1, 1, 1)
        The same.
    """
    return values.reshape(-1, *[1] * (x.ndim - 1))


def length(move: Array) -> Array:
    """Euclidean length of each image of a difference.

    Parameters
    ----------
    move : ndarray of shape (n, ...)
        The difference.

    Returns
    -------
    ndarray of shape (n,)
        Its lengths.
    """
    return np.sqrt(np.square(move).sum(axis=tuple(range(1, move.ndim))))
