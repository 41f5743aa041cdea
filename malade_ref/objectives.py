r"""Objectives: what classifiers, denoisers and supervised denoisers are trained to minimise.

An objective is a function of one batch that gives the sums of its losses over samples and the gradients of the sum.
With x an image, y its label, f the classifier, r the denoiser:

    Classification          -log softmax(f(x))_y
    Adversarial             the same at the image an attack found
    Distillation            the same with the labels that another model gives
    Denoising               ||r(x + v) - x||^2,                       v ~ N(0, sigma^2 I)
    SupervisedDenoising     ||r(x + v) - x||^2 + 2 sigma^2 w J(r(x + v), y),     J the cross entropy of a frozen f

Norms are sums over pixels; w is 1 in the paper. The noisy input is never clipped: Tweedie's formula would not hold.

References
----------
.. [1] Vincent, "A connection between score matching and denoising autoencoders", Neural Computation 23(7), 2011.
.. [2] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", eq. (11) with the sign
   of eq. (14): the paper's minus sign before J would reward misclassification without bound.
.. [3] Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .arrays import Array
from .checks import InputError
from .layers import Parameters
from .network import LossGradient, Network
from .sampling import Stream


class Batch(NamedTuple):
    """One batch as an objective sees it.

    Attributes
    ----------
    x : array of shape (n, c, h, w)
        Images.
    y : array of shape (n,), integer
        Labels.
    sample_index : array of shape (n,), integer
        Numbers of the samples in the training set; address their noise.
    epoch : int
        Number of the epoch, from 0.
    seed : int
        Of all random choices.
    other : array of shape (n, c, h, w), optional
        A second image of each sample, for objectives that compare two.
    """

    x: Array
    y: Array
    sample_index: Array
    epoch: int
    seed: int
    other: Array | None = None

    def part(self, part: slice) -> Batch:
        """Return some samples of the batch."""
        other = None if self.other is None else self.other[part]
        return Batch(self.x[part], self.y[part], self.sample_index[part], self.epoch, self.seed, other)


class SliceResult(NamedTuple):
    """What an objective gives for some samples.

    Attributes
    ----------
    sums : dict of str to float
        Sums over the samples: "loss" and what else is worth following.
    gradients : dict of str to array
        Gradients of the sum of the losses; empty if they were not asked for.
    buffers : dict of str to array
        New running averages of a network with batch statistics.
    """

    sums: dict[str, float]
    gradients: Parameters
    buffers: Parameters


class Objective(Protocol):
    """What `fit` minimises."""

    def prepare(self, network: Network, batch: Batch) -> Batch:
        """Batch to train on; an attack may replace its images.

        Parameters
        ----------
        network : Network
            With its present parameters.
        batch : Batch
            As drawn from the training set.

        Returns
        -------
        Batch
            What `evaluate` will see, slice by slice.
        """
        ...

    def evaluate(self, network: Network, batch: Batch, *, training: bool) -> SliceResult:
        """Losses of some samples, and gradients when training.

        Parameters
        ----------
        network : Network
            With its present parameters.
        batch : Batch
            The samples.
        training : bool
            Whether gradients are wanted; otherwise the losses are those of validation.
        """
        ...


@dataclass(frozen=True)
class Classification(Objective):
    """Cross entropy of a classifier; follows "loss" and "accuracy"."""

    def prepare(self, network: Network, batch: Batch) -> Batch:
        return batch

    def evaluate(self, network: Network, batch: Batch, *, training: bool) -> SliceResult:
        ops = network.ops
        logits, tape = network.forward(batch.x, training=training)
        losses = ops.softmax_cross_entropy(logits, batch.y)
        correct = ops.argmax(logits) == batch.y
        sums = {"loss": float(losses.sum()), "accuracy": float(correct.sum())}
        if not training:
            return SliceResult(sums, {}, {})
        dlogits = ops.softmax_cross_entropy_vjp(ops.ones(batch.y.shape, network.dtype), logits, batch.y)
        _, gradients = network.backward(tape, dlogits, need_dx=False, need_parameters=True)
        return SliceResult(sums, gradients, network.updated_buffers(tape))


@dataclass(frozen=True)
class Adversarial(Classification):
    """Cross entropy at adversarial images (Madry et al.), found against the present weights.

    Parameters
    ----------
    attack : callable
        ``attack(network, x, y, seed=..., sample_index=...)`` with an ``x_adv`` in its result, such as
        `malade_ref.attacks.ascent` with its settings bound; any attack will do.
    ramp : int
        Number of epochs, at the beginning, in which the settings in ``growing`` rise linearly: in epoch e = 1, 2, ...
        they have the share min(1, e / (ramp + 1)) of their full size. A network that is attacked with all of eps from
        the start may learn nothing but how frequent the classes are.
    growing : dict of str to float
        The attack's settings that rise, such as ``eps`` and ``step_size``, at their full size.
    """

    attack: Callable[..., Any]
    ramp: int = 0
    growing: dict[str, float] = field(default_factory=dict)

    def prepare(self, network: Network, batch: Batch) -> Batch:
        key = network.ops.derive_key(batch.seed, "adversarial-training", batch.epoch)
        share = min(1.0, (batch.epoch + 1) / (self.ramp + 1))
        settings = {name: share * size for name, size in self.growing.items()}
        result = self.attack(
            network, batch.x, batch.y, seed=key[0] << 32 | key[1], sample_index=batch.sample_index, **settings
        )
        return batch._replace(x=result.x_adv)


@dataclass(frozen=True)
class Distillation(Classification):
    """Cross entropy against the classes that a victim model answers: trains a surrogate of it.

    The victim is asked once for each image and epoch; if it is stochastic, with new noise each time, the attacker's.
    Validation uses the true labels. `malade_ref.attacks.transfer` then attacks the victim by way of the surrogate; the
    queries of the training are not in its counts.

    Parameters
    ----------
    victim : Network or MALADE
        The model that answers.

    Notes
    -----
    Deviation from Papernot et al.: images are those of the training set, not grown along the surrogate's Jacobian.

    References
    ----------
    .. [1] Papernot et al., "Practical black-box attacks against machine learning", ASIA CCS 2017.
    """

    victim: Any

    def prepare(self, network: Network, batch: Batch) -> Batch:
        noise: dict[str, Any] = {}
        if self.victim.stochastic:
            stream = Stream(batch.seed, "distillation")
            noise = {"first_draw": batch.epoch, "sample_index": batch.sample_index, "stream": stream}
        answers = network.ops.argmax(self.victim.logits(batch.x, **noise))
        if int(answers.min()) < 0:
            raise InputError("victim: its logits of a training image are NaN, which is no answer to learn from")
        return batch._replace(y=answers)


@dataclass(frozen=True)
class Denoising(Objective):
    """Squared error of a denoiser (DAE); follows "loss" and "error".

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise, in pixel units, > 0.
    """

    sigma: float

    def prepare(self, network: Network, batch: Batch) -> Batch:
        return batch

    def evaluate(self, network: Network, batch: Batch, *, training: bool) -> SliceResult:
        output, tape, losses = self._reconstruct(network, batch, training)
        sums = {"loss": float(losses.sum()), "error": float(losses.sum())}
        if not training:
            return SliceResult(sums, {}, {})
        doutput = network.ops.squared_error_vjp(network.ops.ones(batch.y.shape, network.dtype), output, batch.x)
        _, gradients = network.backward(tape, doutput, need_dx=False, need_parameters=True)
        return SliceResult(sums, gradients, network.updated_buffers(tape))

    def _reconstruct(self, network: Network, batch: Batch, training: bool) -> tuple[Array, list[Any], Array]:
        ops, x = network.ops, batch.x
        # Validation sees the same noise in every epoch, and noise that training never saw.
        name, epoch = ("denoising", batch.epoch) if training else ("denoising-validation", 0)
        noise = ops.normal(
            x.shape[1:],
            key=ops.derive_key(batch.seed, name),
            sample_index=batch.sample_index,
            step=epoch,
            dtype=network.dtype,
        )
        output, tape = network.forward(x + self.sigma * noise, training=training)
        return output, tape, ops.squared_error(output, x)


class FrozenClassifier(Protocol):
    """What the supervised objective asks of the classifier that is to be protected; a `Network` can answer it."""

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Logits of a batch, and what `loss_gradient_of` needs.

        Parameters
        ----------
        x : array of shape (n, ...)
            Reconstructions.

        Returns
        -------
        logits : array of shape (n, k)
            Class scores.
        tape : object
            For `loss_gradient_of`.
        """
        ...

    def loss_gradient_of(self, logits: Array, tape: Any, y: Array) -> LossGradient:
        """Cross entropy and its gradient with respect to the input.

        Parameters
        ----------
        logits, tape
            From `forward`.
        y : array of shape (n,), integer
            Labels.
        """
        ...

    def fingerprint(self) -> str:
        """Tell one classifier from another.

        Returns
        -------
        str
            Equal for equal classifiers.
        """
        ...


@dataclass(frozen=True)
class SupervisedDenoising(Denoising):
    """Squared error plus the cross entropy of a frozen classifier at the reconstruction (sDAE).

    Follows "loss", "error" and "cross_entropy".

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise, in pixel units, > 0.
    classifier : FrozenClassifier
        The classifier to be protected: a network, or anything that can be asked the same.
    ce_weight : float
        Factor w of 2 sigma^2 J; 1 is the paper.
    """

    classifier: FrozenClassifier
    ce_weight: float = 1.0

    def evaluate(self, network: Network, batch: Batch, *, training: bool) -> SliceResult:
        ops = network.ops
        output, tape, errors = self._reconstruct(network, batch, training)
        logits, classifier_tape = self.classifier.forward(output)
        weight = 2 * self.sigma**2 * self.ce_weight
        error = float(errors.sum())
        cross_entropy = float(ops.softmax_cross_entropy(logits, batch.y).sum())
        sums = {"loss": error + weight * cross_entropy, "error": error, "cross_entropy": cross_entropy}
        if not training:
            return SliceResult(sums, {}, {})
        ones = ops.ones(batch.y.shape, network.dtype)
        through_classifier = self.classifier.loss_gradient_of(logits, classifier_tape, batch.y).gradient
        doutput = ops.squared_error_vjp(ones, output, batch.x) + weight * through_classifier
        _, gradients = network.backward(tape, doutput, need_dx=False, need_parameters=True)
        return SliceResult(sums, gradients, network.updated_buffers(tape))
