r"""MALADE: a classifier behind a Langevin chain.

The image is relaxed towards the data by N Langevin steps driven by a denoiser and only then classified:

    logits(x) = f(x_N),    x_0 = x,    x_{t+1} = clip(x_t + a (r(x_t) - x_t) + delta z_t).

The result is random through z. Three gradients of its loss are offered to attackers, all from the same forward pass.
With g the gradient of the loss with respect to x_N they are the transpose of a Jacobian times g:

- ``exact``: of dx_N/dx, through all N steps for the given noise; averaged over draws it estimates the gradient of the
  expected loss (expectation over transformation, EOT);
- ``bpda``: of the identity in its place (backward pass differentiable approximation);
- ``bpda-denoiser``: of dr/dx at x, one application of the denoiser to the image that is attacked.

And two expectations over D draws: of the ``loss``, (1/D) sum_d J(z_d, y) with z_d the logits, or of the ``logits``, the
loss of their mean J((1/D) sum_d z_d, y), which is what a defender who averages D answers is judged by.

References
----------
.. [1] Srinivasan et al., "Robustifying models against adversarial attacks by Langevin dynamics", 2021.
.. [2] Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .arrays import Array
from .checks import InputError, check_choice, check_count, check_number
from .network import LossGradient, Network, join, loss_ops
from .pickling import NamesBackend
from .sampling import ChainSettings, Stream, last_position, last_position_with_vjp, run_chain

MODES = ("exact", "bpda", "bpda-denoiser")
EXPECTATIONS = ("loss", "logits")


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

    Raises
    ------
    InputError
        If the networks do not fit each other or a setting is out of range.

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
            check_count("num_steps", num_steps, minimum=0),
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
        return f"MALADE({self.chain}, seed={self.stream.seed})"

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

        Raises
        ------
        InputError
            If the images are not as expected.
        """
        key, index = self._noise(x, sample_index, stream, draw)
        return last_position(x, self.denoiser, self.chain, key=key, sample_index=index)

    def path(
        self, x: Array, *, sample_index: Array | None = None, stream: Stream | None = None, draw: int = 0
    ) -> list[Array]:
        """All positions of the chain.

        Parameters
        ----------
        x, sample_index, stream, draw
            As in `purify`.

        Returns
        -------
        list of arrays of shape (n, c, h, w)
            num_steps + 1 positions, x first.

        Raises
        ------
        InputError
            If the images are not as expected.
        """
        key, index = self._noise(x, sample_index, stream, draw)
        return run_chain(x, self.denoiser, self.chain, key=key, sample_index=index)

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
        x : array of shape (n, c, h, w)
            Images, pixels in [0, 1].
        num_draws, first_draw : int
            How many repetitions, and the number of the first.
        sample_index, stream
            As in `purify`.

        Returns
        -------
        array of shape (n, k)
            Mean logits.

        Raises
        ------
        InputError
            If the images are not as expected.
        """

        def logits_of(draw: int) -> Array:
            purified = self.purify(x, sample_index=sample_index, stream=stream, draw=draw)
            return self.classifier.apply(purified)

        return _mean(logits_of, first_draw, check_count("num_draws", num_draws))

    def predict(
        self,
        x: Array,
        *,
        num_draws: int = 1,
        first_draw: int = 0,
        sample_index: Array | None = None,
        stream: Stream | None = None,
    ) -> Array:
        """Most probable classes after the chain, by the mean logits of the draws.

        Parameters
        ----------
        x, num_draws, first_draw, sample_index, stream
            As in `logits`.

        Returns
        -------
        array of shape (n,), int64
            Classes.

        Raises
        ------
        InputError
            If the images are not as expected.
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
        """Classes predicted by each draw on its own.

        Parameters
        ----------
        x, num_draws, first_draw, sample_index, stream
            As in `logits`.

        Returns
        -------
        array of shape (num_draws, n), int64
            Classes.

        Raises
        ------
        InputError
            If the images are not as expected.
        """
        draws = range(first_draw, first_draw + check_count("num_draws", num_draws))
        return self.ops.stack(
            [self.predict(x, first_draw=draw, sample_index=sample_index, stream=stream) for draw in draws]
        )

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
        x : array of shape (n, c, h, w)
            Images, pixels in [0, 1].
        y : array of shape (n,), integer
            Labels.
        mode : {"exact", "bpda", "bpda-denoiser"}
            Through all steps; or, on the way back only, with the chain replaced by the identity, or by one application
            of the denoiser to x: its vector-Jacobian product at x stands for that of the whole chain, so the other
            positions, the share a of each step, what was clipped, and the number of steps are all ignored. The loss and
            its gradient with respect to the purified image are those of the chain itself. A chain without steps is the
            identity in any mode.
        expectation : {"loss", "logits"}
            The mean of the draws' losses, or the loss of their mean logits, which takes a second pass forward through
            the classifier for each draw.
        num_draws, first_draw : int
            How many repetitions, and the number of the first.
        sample_index, stream
            As in `purify`.

        Returns
        -------
        array of shape (n, c, h, w)
            Gradient of each sample's loss with respect to its own image.

        Raises
        ------
        InputError
            If images, labels or a setting are not as expected.
        """
        check_choice("mode", mode, MODES)
        check_choice("expectation", expectation, EXPECTATIONS)
        check_count("num_draws", num_draws)
        self._noise(x, sample_index, stream, first_draw)
        self.ops.check_labels("y", y, len(x), self.num_classes)
        return self.loss_and_gradient(
            x,
            y,
            mode=mode,
            expectation=expectation,
            num_draws=num_draws,
            first_draw=first_draw,
            sample_index=sample_index,
            stream=stream,
        ).gradient

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
        x, y, mode, expectation, num_draws, first_draw, sample_index, stream
            As in `loss_gradient`.
        loss, targets
            As of `Network.loss_and_gradient`.

        Returns
        -------
        LossGradient
            Of each sample; the logits are means over draws.
        """
        stream = self.stream if stream is None else stream
        index = self.ops.arange(len(x)) if sample_index is None else sample_index
        classifier, draws = self.classifier, range(first_draw, first_draw + num_draws)

        def of_slice(part: slice) -> LossGradient:
            labels, aims = y[part], None if targets is None else targets[part]
            at_once = self.ops.copies_at_once(len(labels))
            groups = [draws[i : i + at_once] for i in range(0, num_draws, at_once)]

            def chain(group: range) -> tuple[Array, Callable[[Array], Array]]:
                """Purified images of some draws, one draw after the other, and the way back."""
                keys = [self.ops.derive_key(stream.seed, stream.name, draw) for draw in group]
                key = keys[0] if len(keys) == 1 else self.ops.keys_of_samples(keys, len(labels))
                noise = {"key": key, "sample_index": self._copies(index[part], group)}
                start = self._copies(x[part], group)
                if mode == "exact":
                    return last_position_with_vjp(start, self.denoiser, self.chain, **noise)
                return last_position(start, self.denoiser, self.chain, **noise), lambda dy: dy

            def of_group(group: range) -> list[LossGradient]:
                purified, vjp = chain(group)
                own, their_aims = self._copies(labels, group), None if aims is None else self._copies(aims, group)
                result = classifier.loss_gradient_of(*classifier.forward(purified), own, loss=loss, targets=their_aims)
                result = result._replace(gradient=vjp(result.gradient))
                return [LossGradient(*arrays) for arrays in zip(*(_draws(a, group) for a in result), strict=True)]

            def of_mean_logits() -> LossGradient:
                passes = [(group, *chain(group)) for group in groups]
                logits = _mean_of([a for group, x, _ in passes for a in _draws(classifier.forward(x)[0], group)])
                value_of, loss_vjp = loss_ops(self.ops, loss)
                dlogits = loss_vjp(self.ops.ones(labels.shape, self.dtype), logits, labels, aims)

                def back(group: range, purified: Array, vjp: Callable[[Array], Array]) -> list[Array]:
                    # Only now is the gradient known that goes back; activations of all draws would take much memory.
                    _, tape = classifier.forward(purified)
                    dpurified, _ = classifier.backward(tape, self._copies(dlogits, group))
                    return _draws(vjp(dpurified), group)

                gradient = _mean_of([a for of_pass in passes for a in back(*of_pass)])
                return LossGradient(value_of(logits, labels, aims), logits, gradient)

            if expectation == "logits":
                result = of_mean_logits()
            else:
                of_draws = [result for group in groups for result in of_group(group)]
                result = LossGradient(*map(_mean_of, zip(*of_draws, strict=True)))
            if mode == "bpda-denoiser" and self.chain.num_steps > 0:
                _, tape = self.denoiser.forward(x[part])
                result = result._replace(gradient=self.denoiser.backward(tape, result.gradient)[0])
            return result

        slice_size = min(classifier.slice_size, self.denoiser.slice_size)
        return join(self.ops, self.ops.map_slices(of_slice, len(x), slice_size=slice_size))

    def _copies(self, array: Array, group: range) -> Array:
        """A batch for each draw of a group, one after the other."""
        return array if len(group) == 1 else self.ops.concatenate([array] * len(group))

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


def _draws(array: Array, group: range) -> list[Array]:
    """What belongs to each draw of a group."""
    count = len(array) // len(group)
    return [array[i * count : (i + 1) * count] for i in range(len(group))]


def _mean_of(arrays: Sequence[Array]) -> Array:
    """Mean of several draws' arrays, added up in order."""
    return sum(arrays[1:], arrays[0]) / len(arrays)


def _mean(values: Callable[[int], Array], first: int, count: int) -> Array:
    total = values(first)
    for number in range(first + 1, first + count):
        total = total + values(number)
    return total / count
