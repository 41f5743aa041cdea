r"""Objectives that are not the paper's: TRADES, logit pairing, smoothed labels; and a check of robustness.

With x an image, y its label, x' what an attack made of it, f(x) the logits of k classes, p = softmax(f), J the cross
entropy, for each image:

    Smoothed        (1 - s) J(f, y) + s/k sum_j J(f, j)                      of any other classification
    TRADES          J(f(x), y) + beta KL(p(x) || p(x')),                     x' maximises KL(p(x) || p(x'))
    ALP             (J(f(x), y) + J(f(x'), y)) / 2 + w/k ||f(x) - f(x')||^2
    CLP             J(f(x~), y) + w/k ||f(x~) - f(u~)||^2,                   u another image of the batch, ~ noise

Gradients go through both sides of each pair. The two sides are two forward passes: with batch normalisation each is
normalised by its own statistics, and the running averages see one after the other. Attacks of a training see the
network with its running averages.

One step from a random start (`malade_ref.attacks.ascent` with ``num_steps=1``) trains as well as many, until it fails
all at once: the network learns to be right at the ends of such steps alone, and its robustness to several steps is gone
within an epoch. `RobustCheck` looks after that.

Axes: n samples, k classes.

References
----------
.. [1] Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019: TRADES.
.. [2] Kannan, Kurakin, Goodfellow, "Adversarial logit pairing", 2018, and their code (tensorflow/models,
   research/adversarial_logit_pairing): mixed minibatches, mean squared error of the logits, weight 0.5.
.. [3] Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016: smoothed labels.
.. [4] Wong, Rice, Kolter, "Fast is better than free", ICLR 2020: the fast variant, and how it fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .arrays import Array
from .attacks import Ball
from .checks import InputError, check_count, check_number
from .network import Network
from .objectives import Adversarial, Batch, Classification, SliceResult

# TRADES' attack starts this far from the image, in standard deviations of pixels: at the image the gradient is zero.
TRADES_START = 1e-3


@dataclass(frozen=True)
class Smoothed(Classification):
    """A classification that learns smoothed labels; its validation losses are those of the labels as they are.

    Parameters
    ----------
    objective : Classification
        Whose batches are learned, such as an `Adversarial`; one that evaluates a single image a sample.
    smoothing : float
        Share s in [0, 1) of the label that is spread over all classes.
    """

    objective: Classification
    smoothing: float

    def __post_init__(self) -> None:
        check_number("label_smoothing", self.smoothing, minimum=0, below=1)
        if type(self.objective).evaluate is not Classification.evaluate:
            raise InputError(f"label_smoothing: {type(self.objective).__name__} has a loss of its own; leave it out")

    def prepare(self, network: Network, batch: Batch) -> Batch:
        return self.objective.prepare(network, batch)

    def evaluate(self, network: Network, batch: Batch, *, training: bool) -> SliceResult:
        if not training:
            return super().evaluate(network, batch, training=False)
        ops = network.ops
        logits, tape = network.forward(batch.x, training=True)
        losses, dlogits = smoothed_cross_entropy(ops, logits, batch.y, self.smoothing)
        _, gradients = network.backward(tape, dlogits, need_dx=False, need_parameters=True)
        sums = {"loss": float(losses.sum()), "accuracy": _num_right(ops, logits, batch.y)}
        return SliceResult(sums, gradients, network.updated_buffers(tape))


def smoothed_cross_entropy(ops: ModuleType, logits: Array, y: Array, smoothing: float) -> tuple[Array, Array]:
    """Cross entropy with smoothed labels, and its derivative.

    Parameters
    ----------
    ops : module
        The backend.
    logits : array of shape (n, k)
        Class scores.
    y : array of shape (n,), integer
        Labels.
    smoothing : float
        Share s of the label that is spread over all classes.

    Returns
    -------
    losses : array of shape (n,)
        In nats.
    dlogits : array of shape (n, k)
        Gradient of their sum: softmax - (1 - s) one-hot - s / k.
    """
    num_classes = logits.shape[1]
    losses = ops.softmax_cross_entropy(logits, y)
    dlogits = ops.softmax_cross_entropy_vjp(ops.ones(y.shape, str(logits.dtype)), logits, y)
    if smoothing:
        spread = -ops.log_softmax(logits).sum(axis=1) / num_classes
        losses = (1 - smoothing) * losses + smoothing * spread
        one_hot = (ops.arange(num_classes)[None, :] == y[:, None]).astype(logits.dtype)
        dlogits = dlogits + smoothing * (one_hot - 1 / num_classes)
    return losses, dlogits


@dataclass(frozen=True)
class _Pairs(Classification):
    """A loss of two images a sample: those of the batch, and their partners in ``other``."""

    def pair_losses(
        self, ops: ModuleType, logits: Array, other: Array, y: Array
    ) -> tuple[dict[str, float], Array, Array]:
        """Sums of losses, and the gradients of that called "loss" with respect to both logits."""
        raise NotImplementedError

    def evaluate(self, network: Network, batch: Batch, *, training: bool) -> SliceResult:
        if not training:
            return super().evaluate(network, batch, training=False)
        if batch.other is None:
            raise InputError("batch: expected images and their partners; `prepare` makes them")
        ops = network.ops
        logits, tape = network.forward(batch.other, training=True)
        buffers = network.updated_buffers(tape)
        # The second pass goes on with the running averages of the first.
        second = network.replace_params({**network.params, **buffers}, check=False) if buffers else network
        logits_of_x, tape_of_x = second.forward(batch.x, training=True)
        sums, dlogits, dlogits_of_x = self.pair_losses(ops, logits, logits_of_x, batch.y)
        _, gradients = network.backward(tape, dlogits, need_dx=False, need_parameters=True)
        _, more = second.backward(tape_of_x, dlogits_of_x, need_dx=False, need_parameters=True)
        total = {name: gradient + more[name] for name, gradient in gradients.items()}
        return SliceResult(sums, total, second.updated_buffers(tape_of_x))


@dataclass(frozen=True)
class TRADES(_Pairs):
    """Cross entropy of clean images, and the divergence of what an attack can make of them (Zhang et al.).

    Follows "loss", "accuracy" (of clean images) and "divergence".

    Parameters
    ----------
    eps, step_size : float
        Radius of the ball, and length of a step, in pixel units.
    num_steps : int
        Steps of the inner maximisation.
    norm : {"linf", "l2"}
        Which ball.
    beta : float
        Weight of the divergence, >= 0; 1/lambda in the paper, 6 in its experiments.
    smoothing : float
        Of the labels, see `Smoothed`.
    ramp : int
        As of `malade_ref.objectives.Adversarial`, for ``eps`` and ``step_size``.
    """

    eps: float
    step_size: float
    num_steps: int
    norm: str = "linf"
    beta: float = 6.0
    smoothing: float = 0.0
    ramp: int = 0

    def __post_init__(self) -> None:
        for name in ("eps", "step_size", "beta"):
            check_number(name, getattr(self, name), minimum=0)
        check_count("num_steps", self.num_steps)
        check_number("label_smoothing", self.smoothing, minimum=0, below=1)

    def prepare(self, network: Network, batch: Batch) -> Batch:
        ops = network.ops
        share = min(1.0, (batch.epoch + 1) / (self.ramp + 1))
        key = ops.derive_key(batch.seed, "trades")

        def of_slice(part: slice) -> Array:
            some = batch.part(part)
            noise = ops.normal(
                some.x.shape[1:], key=key, sample_index=some.sample_index, step=batch.epoch, dtype=network.dtype
            )
            ball = Ball(ops, some.x, eps=share * self.eps, norm=self.norm)
            ones = ops.ones(some.y.shape, network.dtype)
            clean, _ = network.forward(some.x)
            x_t = ops.clip_pixels(some.x + TRADES_START * noise)
            for _ in range(self.num_steps):
                logits, tape = network.forward(x_t)
                _, dlogits = ops.kl_divergence_vjp(ones, clean, logits)
                gradient, _ = network.backward(tape, dlogits)
                x_t = ball.step(x_t, gradient, step_size=share * self.step_size)
            return x_t

        moved = ops.map_slices(of_slice, len(batch.x), slice_size=network.slice_size)
        return batch._replace(x=ops.concatenate(moved), other=batch.x)

    def pair_losses(
        self, ops: ModuleType, logits: Array, other: Array, y: Array
    ) -> tuple[dict[str, float], Array, Array]:
        losses, dlogits = smoothed_cross_entropy(ops, logits, y, self.smoothing)
        divergence = float(ops.kl_divergence(logits, other).sum())
        slopes = self.beta * ops.ones(y.shape, str(logits.dtype))
        more, dother = ops.kl_divergence_vjp(slopes, logits, other)
        sums = {"loss": float(losses.sum()) + self.beta * divergence, "accuracy": _num_right(ops, logits, y)}
        return {**sums, "divergence": divergence}, dlogits + more, dother


@dataclass(frozen=True)
class AdversarialLogitPairing(_Pairs, Adversarial):
    """Clean and adversarial images in equal parts, with logits that are to be alike (ALP, Kannan et al.).

    Follows "loss", "accuracy" (of clean images), "adversarial_accuracy" and "pairing".

    Parameters
    ----------
    attack, ramp, growing
        As of `malade_ref.objectives.Adversarial`.
    weight : float
        Of the mean squared difference of the logits, >= 0.
    smoothing : float
        Of the labels, see `Smoothed`.
    """

    weight: float = 0.5
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_number("pairing_weight", self.weight, minimum=0)
        check_number("label_smoothing", self.smoothing, minimum=0, below=1)

    def prepare(self, network: Network, batch: Batch) -> Batch:
        return Adversarial.prepare(self, network, batch)._replace(other=batch.x)

    def pair_losses(
        self, ops: ModuleType, logits: Array, other: Array, y: Array
    ) -> tuple[dict[str, float], Array, Array]:
        losses, dlogits = smoothed_cross_entropy(ops, logits, y, self.smoothing)
        losses_of_x, dother = smoothed_cross_entropy(ops, other, y, self.smoothing)
        pairing, slope = _pairing(ops, logits, other, self.weight)
        loss = (float(losses.sum()) + float(losses_of_x.sum())) / 2 + self.weight * pairing
        sums = {
            "loss": loss,
            "accuracy": _num_right(ops, logits, y),
            "adversarial_accuracy": _num_right(ops, other, y),
            "pairing": pairing,
        }
        return sums, 0.5 * dlogits + slope, 0.5 * dother - slope


@dataclass(frozen=True)
class CleanLogitPairing(_Pairs):
    """Noisy images whose logits are to be like those of another image of the batch (CLP, Kannan et al.).

    The partner of image i of n is image i + n/2, of whatever class. Follows "loss", "accuracy" and "pairing".

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise, in pixel units, >= 0; the noisy image is not clipped.
    weight, smoothing
        As of `AdversarialLogitPairing`.
    """

    sigma: float
    weight: float = 0.5
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_number("noise", self.sigma, minimum=0)
        check_number("pairing_weight", self.weight, minimum=0)
        check_number("label_smoothing", self.smoothing, minimum=0, below=1)

    def prepare(self, network: Network, batch: Batch) -> Batch:
        ops, half = network.ops, len(batch.x) // 2
        key = ops.derive_key(batch.seed, "logit-pairing")
        noise = ops.normal(
            batch.x.shape[1:], key=key, sample_index=batch.sample_index, step=batch.epoch, dtype=network.dtype
        )
        noisy = batch.x + self.sigma * noise
        return batch._replace(x=ops.concatenate([noisy[half:], noisy[:half]]), other=noisy)

    def pair_losses(
        self, ops: ModuleType, logits: Array, other: Array, y: Array
    ) -> tuple[dict[str, float], Array, Array]:
        losses, dlogits = smoothed_cross_entropy(ops, logits, y, self.smoothing)
        pairing, slope = _pairing(ops, logits, other, self.weight)
        sums = {"loss": float(losses.sum()) + self.weight * pairing, "accuracy": _num_right(ops, logits, y)}
        return {**sums, "pairing": pairing}, dlogits + slope, -slope


@dataclass(frozen=True)
class RobustCheck:
    """Accuracy on a few validation images under an attack of several steps, after each epoch.

    A training has collapsed when its robust accuracy r is no chance, and far below the best r* of an epoch before:

        r* >= 2 / k,    r < (1 - max_drop) r*,    r* - r > 3 standard errors.

    Parameters
    ----------
    attack : callable
        As of `malade_ref.objectives.Adversarial`; with the same random numbers after every epoch.
    num_images : int
        Validation images, the first ones.
    max_drop : float
        Share of the best accuracy that may be lost, in (0, 1].
    """

    attack: Callable[..., Any]
    num_images: int = 300
    max_drop: float = 0.5

    def __post_init__(self) -> None:
        check_count("robust_check: num_images", self.num_images)
        check_number("robust_check: max_drop", self.max_drop, above=0, maximum=1)

    def accuracy(self, network: Network, images: Array, labels: Array, *, seed: int) -> float:
        """Share of attacked images that are classified rightly.

        Parameters
        ----------
        network : Network
            With its present parameters.
        images : array of shape (n, c, h, w)
            Validation images.
        labels : array of shape (n,), integer
            Their classes.
        seed : int
            Of the training.
        """
        x, y = images[: self.num_images], labels[: self.num_images]
        key = network.ops.derive_key(seed, "robust-check")
        found = self.attack(network, x, y, seed=key[0] << 32 | key[1], sample_index=network.ops.arange(len(x)))
        return _num_right(network.ops, network.apply(found.x_adv), y) / len(x)

    def collapse(self, accuracies: Sequence[float], num_classes: int, num_images: int) -> dict[str, Any] | None:
        """Say whether the last epoch's accuracy is that of a network whose robustness is gone.

        Parameters
        ----------
        accuracies : sequence of float
            Robust accuracy after each epoch.
        num_classes : int
            Number k of classes.
        num_images : int
            How many validation images there are.

        Returns
        -------
        dict or None
            JSON-able: ``why`` in a line, the ``epoch`` it happened in, the ``best_epoch`` before, both from 1, and the
            two accuracies; None as long as nothing has collapsed.
        """
        best, last = max(accuracies), accuracies[-1]
        error = math.sqrt((best * (1 - best) + last * (1 - last)) / min(num_images, self.num_images))
        if best < 2 / num_classes or last >= (1 - self.max_drop) * best or best - last <= 3 * error:
            return None
        epoch, best_epoch = len(accuracies), accuracies.index(best) + 1
        why = (
            f"catastrophic overfitting: the accuracy under attack fell from {100 * best:.1f}% after epoch {best_epoch} "
            f"to {100 * last:.1f}% after epoch {epoch}; stopped, with the weights of epoch {best_epoch}"
        )
        return {
            "why": why,
            "epoch": epoch,
            "best_epoch": best_epoch,
            "robust_accuracy": last,
            "best_robust_accuracy": best,
        }


def _pairing(ops: ModuleType, logits: Array, other: Array, weight: float) -> tuple[float, Array]:
    """Sum over samples of mean squared differences, and the gradient of weight times it with respect to the first."""
    num_classes = logits.shape[1]
    slopes = (weight / num_classes) * ops.ones(logits.shape[:1], str(logits.dtype))
    pairing = float(ops.squared_error(logits, other).sum()) / num_classes
    return pairing, ops.squared_error_vjp(slopes, logits, other)


def _num_right(ops: ModuleType, logits: Array, y: Array) -> float:
    return float((ops.argmax(logits) == y).sum())


__all__ = [
    "TRADES",
    "AdversarialLogitPairing",
    "CleanLogitPairing",
    "RobustCheck",
    "Smoothed",
    "smoothed_cross_entropy",
]
