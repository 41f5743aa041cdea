r"""MALADE: a classifier behind a Langevin chain.

The image is relaxed towards the data by N Langevin steps driven by a denoiser and only then classified:

    logits(x) = f(x_N),    x_0 = x,    x_{t+1} = clip(x_t + a (r(x_t) - x_t) + delta z_t).

The result is random through z. An attacker needs the gradient of the loss with respect to x. With g the gradient with
respect to x_N, it is A^T g for a matrix A; there is a choice of three:

- ``exact``: A = dx_N/dx, through all N steps for the given noise; averaged over draws it estimates the gradient of the
  expected loss (expectation over transformation, EOT);
- ``bpda``: A = the identity (backward pass differentiable approximation);
- ``bpda-denoiser``: A = dr/dx at x, as if the denoiser had been applied once to the image that is attacked.

The forward pass, and so g, is the same for all three. Over D draws, with logits z_d, the loss is one of two:

- ``loss``: the mean of the losses, (1/D) sum_d J(z_d, y);
- ``logits``: the loss of the mean, J((1/D) sum_d z_d, y), which suits a defender who averages the logits of D draws.

References
----------
.. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", 2021.
.. [2] Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .arrays import Array
from .checks import InputError, check_choice, check_count, check_model, check_number, check_work
from .draws import Group, groups, mean
from .network import LossGradient, Network, join, loss_ops
from .pickling import NamesBackend
from .sampling import ChainSettings, Stream, last_position, last_position_with_vjp, run_chain
from .showing import Positions, defence_html, defence_line

MODES = ("exact", "bpda", "bpda-denoiser")
EXPECTATIONS = ("loss", "logits")

# Some draws, their purified images x_N, and a function that carries a gradient from x_N back to x.
Chain = tuple[Group, Array, Callable[[Array], Array]]


class MALADE(NamesBackend):
    """A classifier defended by Langevin relaxation.

    Parameters
    ----------
    classifier : Network
        f, from images to logits.
    denoiser : Network
        r, from images to images of the same shape.
    num_steps : int
        Steps of the chain, >= 0 (0 leaves the classifier undefended).
    a : float
        Step on the residual, alpha / sigma^2, > 0.
    delta : float
        Standard deviation of the injected noise, in pixel units, >= 0.
    clip : bool
        Whether the chain is clipped to [0, 1] after every step.
    seed : int
        Of the defender's noise.

    Notes
    -----
    Every method that draws takes `sample_index`, the samples' numbers in their data set (0..n-1 by default): sample i
    gets the same noise in any batch. `draw` or `first_draw` selects among independent repetitions, and `stream`
    replaces the defender's noise by somebody else's; an attacker never sees the defender's.
    """

    stochastic = True

    def __init__(
        self,
        classifier: Network,
        denoiser: Network,
        *,
        num_steps: int,
        a: float,
        delta: float,
        clip: bool = True,
        seed: int = 0,
    ) -> None:
        check_model("classifier", classifier)
        check_model("denoiser", denoiser)
        if denoiser.output_shape != denoiser.input_shape or denoiser.input_shape != classifier.input_shape:
            raise InputError(
                f"denoiser: expected {classifier.input_shape} -> {classifier.input_shape} (the classifier's input), "
                f"got {denoiser.input_shape} -> {denoiser.output_shape}"
            )
        if denoiser.dtype != classifier.dtype or denoiser.ops is not classifier.ops:
            raise InputError("denoiser: expected the classifier's dtype and backend")
        self.classifier = classifier
        self.denoiser = denoiser
        self.chain = ChainSettings(
            check_work("num_steps", num_steps, minimum=0),
            check_number("a", a, above=0),
            check_number("delta", delta, minimum=0),
            bool(clip),
        )
        self.stream = Stream(check_count("seed", seed, minimum=0), "defence")
        self.ops = classifier.ops
        self.dtype = classifier.dtype
        self.input_shape = classifier.input_shape
        self.num_classes = classifier.num_classes

    def __repr__(self) -> str:
        """Return the settings on one line."""
        return defence_line(self)

    def _repr_html_(self) -> str:
        return defence_html(self)

    def purify(
        self, x: Array, *, sample_index: Array | None = None, stream: Stream | None = None, draw: int = 0
    ) -> Array:
        """Images after the chain.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Images, pixels in [0, 1].
        sample_index : array of shape (n,), integer, optional
            Numbers of the samples in their data set; 0..n-1 by default.
        stream : Stream, optional
            Whose noise; the defender's by default.
        draw : int
            Which repetition.

        Returns
        -------
        array of shape (n, c, h, w)
            Purified images.
        """
        key, index = self._noise(x, sample_index, stream, draw)
        return last_position(x, self.denoiser, self.chain, key=key, sample_index=index)

    def path(
        self, x: Array, *, sample_index: Array | None = None, stream: Stream | None = None, draw: int = 0
    ) -> list[Array]:
        """All positions of the chain.

        Returns
        -------
        list of arrays of shape (n, c, h, w)
            num_steps + 1 positions, x first; in a notebook they show themselves.

        Notes
        -----
        The others are those of `purify`.
        """
        key, index = self._noise(x, sample_index, stream, draw)
        return Positions(run_chain(x, self.denoiser, self.chain, key=key, sample_index=index))

    def logits(
        self,
        x: Array,
        *,
        num_draws: int = 1,
        first_draw: int = 0,
        sample_index: Array | None = None,
        stream: Stream | None = None,
    ) -> Array:
        """Class scores after the chain, averaged over draws.

        Parameters
        ----------
        num_draws, first_draw : int
            How many repetitions, and the number of the first.

        Returns
        -------
        array of shape (n, k)
            Mean logits.

        Notes
        -----
        The others are those of `purify`.
        """
        draws = range(first_draw, first_draw + check_work("num_draws", num_draws))
        noise: dict[str, Any] = {"sample_index": sample_index, "stream": stream}
        (logits,) = mean((self.classifier.apply(self.purify(x, draw=draw, **noise)),) for draw in draws)
        return logits

    def predict(
        self,
        x: Array,
        *,
        num_draws: int = 1,
        first_draw: int = 0,
        sample_index: Array | None = None,
        stream: Stream | None = None,
    ) -> Array:
        """Most probable classes by the mean logits of the draws, as `logits`.

        Returns
        -------
        array of shape (n,), int64
            Classes.
        """
        logits = self.logits(x, num_draws=num_draws, first_draw=first_draw, sample_index=sample_index, stream=stream)
        return self.ops.argmax(logits)

    def predict_draws(
        self,
        x: Array,
        *,
        num_draws: int,
        first_draw: int = 0,
        sample_index: Array | None = None,
        stream: Stream | None = None,
    ) -> Array:
        """Classes predicted by each draw on its own, as `logits`.

        Returns
        -------
        array of shape (num_draws, n), int64
            Classes.
        """
        draws = range(first_draw, first_draw + check_work("num_draws", num_draws))
        noise: dict[str, Any] = {"sample_index": sample_index, "stream": stream}
        return self.ops.stack([self.predict(x, first_draw=draw, **noise) for draw in draws])

    def loss_gradient(
        self,
        x: Array,
        y: Array,
        *,
        mode: str = "exact",
        expectation: str = "loss",
        num_draws: int = 1,
        first_draw: int = 0,
        sample_index: Array | None = None,
        stream: Stream | None = None,
    ) -> Array:
        """Gradient of the cross entropy, in expectation over draws, with respect to the images.

        Parameters
        ----------
        y : array of shape (n,), integer
            Labels.
        mode : {"exact", "bpda", "bpda-denoiser"}
            How the gradient gets back from x_N to x: through all steps; unchanged; or by the vector-Jacobian product
            of the denoiser at x, whatever the number of steps, their size a and what was clipped. The loss and its
            gradient with respect to x_N are always those of the chain. A chain without steps is the identity.
        expectation : {"loss", "logits"}
            The mean of the draws' losses, or the loss of their mean logits, which takes a second pass forward through
            the classifier for each draw.

        Returns
        -------
        array of shape (n, c, h, w)
            Gradient of each sample's loss with respect to its own image.

        Notes
        -----
        The others are those of `logits`.
        """
        check_choice("mode", mode, MODES)
        check_choice("expectation", expectation, EXPECTATIONS)
        check_work("num_draws", num_draws)
        self._noise(x, sample_index, stream, first_draw)
        self.ops.check_labels("y", y, len(x), self.num_classes)
        noise: dict[str, Any] = {"first_draw": first_draw, "sample_index": sample_index, "stream": stream}
        return self.loss_and_gradient(x, y, mode=mode, expectation=expectation, num_draws=num_draws, **noise).gradient

    def loss_and_gradient(
        self,
        x: Array,
        y: Array,
        *,
        loss: str = "ce",
        targets: Array | None = None,
        mode: str = "exact",
        expectation: str = "loss",
        num_draws: int = 1,
        first_draw: int = 0,
        sample_index: Array | None = None,
        stream: Stream | None = None,
    ) -> LossGradient:
        """Losses, logits and gradients, in expectation over draws, unchecked: what an attack needs at each iteration.

        Parameters
        ----------
        loss, targets
            As of `Network.loss_and_gradient`.

        Returns
        -------
        LossGradient
            Of each sample; the logits are means over draws.

        Notes
        -----
        The others are those of `loss_gradient`.
        """
        ops, f, r = self.ops, self.classifier, self.denoiser
        stream = self.stream if stream is None else stream
        index = ops.arange(len(x)) if sample_index is None else sample_index
        draws = range(first_draw, first_draw + num_draws)
        expected = _mean_loss if expectation == "loss" else _loss_of_mean

        def of_slice(part: slice) -> LossGradient:
            together = groups(ops, stream, draws, len(y[part]))
            chains = (self._chain(x[part], group, index[part], mode) for group in together)
            result = expected(f, chains, y[part], loss, None if targets is None else targets[part])
            if mode == "bpda-denoiser" and self.chain.num_steps > 0:
                _, tape = r.forward(x[part])
                result = result._replace(gradient=r.backward(tape, result.gradient)[0])
            return result

        return join(ops, ops.map_slices(of_slice, len(x), slice_size=min(f.slice_size, r.slice_size)))

    def _chain(self, x: Array, group: Group, index: Array, mode: str) -> Chain:
        """Purified images x_N, and a function from the gradient there to the one at x (BPDA: unchanged)."""
        start, noise = group.copies(x), {"key": group.key, "sample_index": group.copies(index)}
        if mode == "exact":
            return group, *last_position_with_vjp(start, self.denoiser, self.chain, **noise)
        return group, last_position(start, self.denoiser, self.chain, **noise), lambda dx_n: dx_n

    def _noise(
        self, x: Array, sample_index: Array | None, stream: Stream | None, draw: int
    ) -> tuple[tuple[int, int], Array]:
        """Check images and sample numbers; return the draw's key and the numbers."""
        self.ops.check_images("x", x, self.input_shape)
        if str(x.dtype) != self.dtype:
            raise InputError(f"x: expected {self.dtype} (the networks' dtype), got {x.dtype}; convert one of them")
        stream = self.stream if stream is None else stream
        index = self.ops.arange(len(x)) if sample_index is None else sample_index
        self.ops.check_sample_index("sample_index", index, len(x))
        return self.ops.derive_key(stream.seed, stream.name, draw), index


# The two expectations -----------------------------------------------------------------------------------------------


def _mean_loss(f: Network, chains: Iterable[Chain], y: Array, loss: str, targets: Array | None) -> LossGradient:
    """(1/D) sum_d J(z_d, y): chain, loss, back, mean."""

    def of_draws() -> Iterator[tuple[Array, ...]]:
        for group, x_n, back in chains:
            labels, aims = group.copies(y), group.copies(targets)
            j, z, dx_n = f.loss_gradient_of(*f.forward(x_n), labels, loss=loss, targets=aims)
            yield from group.split(j, z, back(dx_n))

    return LossGradient(*mean(of_draws()))


def _loss_of_mean(f: Network, chains: Iterable[Chain], y: Array, loss: str, targets: Array | None) -> LossGradient:
    """J((1/D) sum_d z_d, y): the same gradient dJ/dz goes back through every draw, once the mean is known."""
    chains = list(chains)
    (z,) = mean(own for group, x_n, _ in chains for own in group.split(f.forward(x_n)[0]))
    loss_of, loss_vjp = loss_ops(f.ops, loss)
    dz = loss_vjp(f.ops.ones(y.shape, f.dtype), z, y, targets)

    def of_draws() -> Iterator[tuple[Array, ...]]:
        for group, x_n, back in chains:
            _, tape = f.forward(x_n)  # once more: the activations of all draws would take much memory
            dx_n, _ = f.backward(tape, group.copies(dz))
            yield from group.split(back(dx_n))

    (gradient,) = mean(of_draws())
    return LossGradient(loss_of(z, y, targets), z, gradient)
