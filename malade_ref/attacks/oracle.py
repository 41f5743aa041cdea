r"""What an attacker may ask of a model, and how the answers are judged.

For a model whose logits z(x, w) depend on its own noise w, an attack works with means over draws w_1..w_D of the
*attacker's* noise:

    loss     (1/D) sum_d J(z(x, w_d), y),        J the cross entropy (expectation over transformation, EOT),
    success  argmax_k (1/D) sum_d z_k(x, w_d) != y,    with a target t: = t.

Instead of the mean loss the search may raise the loss of the mean logits, J((1/D) sum_d z(x, w_d), y). Logits that are
NaN name no class and are no verdict: such an image is neither rightly classified nor a success.

Two streams of noise are kept apart:

- The *search* takes new draws at every evaluation. With common draws it takes the same ones each time: then it climbs a
  function without noise, whose maximum is not quite that of the expectation.
- The *judge* gives the verdict that is reported, on draws that had no part in the search, since the best of many noisy
  losses overestimates its mean (the winner's curse). All candidates are judged on the same draws (common random
  numbers), so a further candidate can only improve the result.

For a deterministic model one evaluation says everything.

Axes: n samples, k classes.

References
----------
.. [1] Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from ..arrays import Array
from ..checks import InputError, check_choice, check_integer, check_model, check_ndim, check_shape, check_work
from ..defence import EXPECTATIONS, MODES
from ..draws import mean
from ..layers import Shape
from ..network import LossGradient, loss_ops
from ..sampling import Stream
from .result import AttackResult as AttackResult

SEARCH, JUDGE, START, PROPOSAL = "attack-search", "attack-judge", "attack-start", "attack-proposal"

# Logits depend a little on the size of the batch, since their sums are rounded in another order. So much at most, as a
# share of the largest logit.
ROUNDING = {"float32": 64 * 2.0**-23, "float64": 64 * 2.0**-52}


class Model(Protocol):
    """What can be attacked: a `Network`, a `MALADE`, or anything with their attributes and methods."""

    @property
    def ops(self) -> ModuleType:
        """Backend."""

    @property
    def dtype(self) -> str:
        """Type of the images."""

    @property
    def input_shape(self) -> Shape:
        """Shape (c, h, w) of one image."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def stochastic(self) -> bool:
        """Whether the methods draw noise, and take what says whose and which (mode, draws, stream)."""

    @property
    def logits(self) -> Callable[..., Array]:
        """Method that gives class scores: `Network.logits` if deterministic, `MALADE.logits` if stochastic."""

    @property
    def loss_and_gradient(self) -> Callable[..., LossGradient]:
        """Method that gives losses, logits and gradients, as in `Network` or `MALADE`."""


class Verdict(NamedTuple):
    """Images and what the model makes of them.

    Attributes
    ----------
    x : array of shape (n, c, h, w)
        Images.
    success : array of shape (n,), bool
        Whether the mean logits are wrong by more than rounding can do. In a tie the first class wins, but if the loss
        is the margin a tie counts as right.
    loss : array of shape (n,)
        The loss that was asked for, in expectation over draws; after `Oracle.judge` the mean cross entropy, in nats.
        Attacks that look for the nearest wrong image put minus the distance here while they search, so that `stronger`
        keeps the nearest.
    """

    x: Array
    success: Array
    loss: Array


class Asking(NamedTuple):
    """How an attack asks a model: the settings that every attack passes on; the fields are those of `Oracle`."""

    mode: str = "exact"
    expectation: str = "loss"
    num_draws: int = 1
    common_draws: bool = False
    num_judge_draws: int = 10
    seed: int = 0
    sample_index: Array | None = None
    targets: Array | None = None

    def oracle(self, model: Model, x: Array, y: Array) -> Oracle:
        """As `Oracle`, with these keywords, or as the model's own oracle, if it brings one."""
        check_model("model", model)
        kind: type[Oracle] = getattr(model, "oracle", Oracle)
        return kind(model, x, y, **self._asdict())


class Oracle:
    """A model with the true labels, the attacker's noise, and a count of what was asked.

    Parameters
    ----------
    model : Model
        What is attacked.
    x : array of shape (n, c, h, w)
        Clean images, pixels in [0, 1], of the model's dtype. Checked here, once for the whole attack.
    y : array of shape (n,), integer
        True labels.
    mode : {"exact", "bpda", "bpda-denoiser"}
        Which gradient a stochastic model gives, see `MALADE.loss_gradient`.
    expectation : {"loss", "logits"}
        What the search raises: the mean of the draws' losses, or the loss of their mean logits.
    num_draws : int
        Draws of a stochastic model's noise at each evaluation of the search.
    common_draws : bool
        Whether the search takes the same draws at every evaluation (common random numbers).
    num_judge_draws : int
        Draws of a stochastic model's noise for a verdict.
    seed : int
        Of the attacker's noise.
    sample_index : array of shape (n,), integer, optional
        Numbers of the samples in their data set; 0..n-1 by default.
    targets : array of shape (n,), integer, optional
        The class that each image is to be taken for, unlike its label. Nothing else is a success then, and what the
        search raises is minus the loss of the target, were it the true label; of the ratio, the targeted form.
    """

    def __init__(
        self,
        model: Model,
        x: Array,
        y: Array,
        *,
        mode: str = "exact",
        expectation: str = "loss",
        num_draws: int = 1,
        common_draws: bool = False,
        num_judge_draws: int = 10,
        seed: int = 0,
        sample_index: Array | None = None,
        targets: Array | None = None,
    ) -> None:
        ops = model.ops
        ops.check_images("x", x, model.input_shape)
        if str(x.dtype) != model.dtype:
            raise InputError(f"x: expected {model.dtype} (the model's dtype), got {x.dtype}; convert one of them")
        ops.check_labels("y", y, len(x), model.num_classes)
        self.sample_index = ops.arange(len(x)) if sample_index is None else ops.asarray(sample_index)
        check_ndim("sample_index", self.sample_index, 1, "(n,)")
        check_shape("sample_index", self.sample_index, (len(x),))
        check_integer("sample_index", self.sample_index)
        check_choice("mode", mode, MODES)
        check_choice("expectation", expectation, EXPECTATIONS)
        check_work("num_draws", num_draws)
        check_work("num_judge_draws", num_judge_draws)
        ops.derive_key(seed, START)  # complains about a seed out of range
        self.model = model
        self.ops = ops
        if targets is not None:
            ops.check_labels("targets", targets, len(x), model.num_classes)
            if (targets == y).any():
                raise InputError("targets: expected classes other than the labels; leave out the images that have them")
        self.y, self.targets = y, targets
        self.mode = mode
        self.expectation = expectation
        self.common_draws = common_draws
        self.seed = seed
        self.num_draws = num_draws if model.stochastic else 1
        self.num_judge_draws = num_judge_draws if model.stochastic else 1
        self.num_queries = 0
        self.num_gradients = 0
        self._next_draw = 0

    def gradient(self, x: Array, *, loss: str = "ce", targets: Array | None = None) -> tuple[Verdict, Array]:
        """Ask for logits and the gradient of a loss, on the next draws of the search.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Images.
        loss : {"ce", "margin", "dlr"}
            Which loss, see `network.loss_ops`; the verdict's is this one.
        targets : array of shape (n,), integer, optional
            The classes to go for, whatever is a success.

        Returns
        -------
        verdict : Verdict
            Of these draws.
        gradient : array of shape (n, c, h, w)
            Of each sample's loss, in expectation over the draws, with respect to its own image.
        """
        expected = {"mode": self.mode, "expectation": self.expectation, "num_draws": self.num_draws}
        noise = {"first_draw": self._search_draws().start, **self._noise(SEARCH)}
        labels, targets, sign = self._goal(loss, targets)
        result = self.model.loss_and_gradient(x, labels, loss=loss, targets=targets, **expected, **noise)
        self.num_queries += self.num_draws
        self.num_gradients += self.num_draws
        verdict = Verdict(x, self._wrong(result.logits, ties=loss != "margin"), sign * result.loss)
        return verdict, sign * result.gradient

    def query(self, x: Array, *, loss: str = "ce", targets: Array | None = None, again: bool = False) -> Verdict:
        """Ask for logits, on the next draws of the search.

        Parameters
        ----------
        again : bool
            Whether to take the draws of the last evaluation again: what two images make of the same noise can be
            compared, and what a search makes of one draw throughout is a function of the image.

        Notes
        -----
        The others are those of `gradient`.
        """
        draws = self.last_draws() if again else self._search_draws()
        loss_of, _ = loss_ops(self.ops, loss)
        labels, targets, sign = self._goal(loss, targets)
        mean_loss, logits = mean((loss_of(z, labels, targets), z) for z in self._logits(x, SEARCH, draws))
        of_all = mean_loss if self.expectation == "loss" else loss_of(logits, labels, targets)
        return Verdict(x, self._wrong(logits, ties=loss != "margin"), sign * of_all)

    def other_classes(self, x: Array) -> Array:
        """Rank the classes but the true one, on the next draws of the search, as `gradient`.

        Returns
        -------
        array of shape (n, k - 1), int64
            Classes by falling mean logits.
        """
        (logits,) = mean((z,) for z in self._logits(x, SEARCH, self._search_draws()))
        return self.ops.other_classes(logits, self.y)

    def judge(self, x: Array) -> tuple[Verdict, Array]:
        """Give the verdict on images, by the judging draws, the same at every call.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Images.

        Returns
        -------
        verdict : Verdict
            Of these draws.
        always : array of shape (n,), bool
            Whether every single draw is a success.
        """
        ops, (labels, _, sign) = self.ops, self._goal("ce", None)
        draws = self._logits(x, JUDGE, range(self.num_judge_draws))
        loss, logits, failed = mean((ops.softmax_cross_entropy(z, labels), z, ~self._hit(z) * 1) for z in draws)
        return Verdict(x, self._wrong(logits), sign * loss), failed == 0

    def _goal(self, loss: str, targets: Array | None) -> tuple[Array, Array | None, int]:
        """Labels and targets of a loss to ask the model for, and the sign with which it is raised."""
        if self.targets is None or targets is not None:
            return self.y, targets, 1
        return (self.y, self.targets, 1) if loss == "dlr" else (self.targets, None, -1)

    def _hit(self, logits: Array) -> Array:
        """Whether the class with the largest logit, of equals the first, is a success, (n,)."""
        found = self.ops.argmax(logits)
        return found != self.y if self.targets is None else found == self.targets

    def _wrong(self, logits: Array, *, ties: bool = True) -> Array:
        """Whether logits are a success by more than rounding, (n,); in a tie, if ties count, the first class wins."""
        labels, _, sign = self._goal("margin", None)
        margin = sign * self.ops.margin_loss(logits, labels)
        clear = margin > ROUNDING[self.model.dtype] * abs(logits).max(axis=1)
        return clear | ((margin == 0) & self._hit(logits)) if ties else clear

    def _logits(self, x: Array, stream: str, draws: range) -> Iterator[Array]:
        """Logits, draw by draw."""
        self.num_queries += len(draws)
        for draw in draws:
            noise = {"first_draw": draw, **self._noise(stream)} if self.model.stochastic else {}
            yield self.model.logits(x, **noise)

    def _noise(self, stream: str) -> dict[str, Any]:
        """Whose noise a stochastic model is to draw, for which samples."""
        return {"sample_index": self.sample_index, "stream": Stream(self.seed, stream)}

    def last_draws(self) -> range:
        """Numbers of the draws of the search's last evaluation, in the stream `SEARCH`; before it, of the first."""
        first = max(0, self._next_draw - self.num_draws)
        return range(first, first + self.num_draws)

    def _search_draws(self) -> range:
        """Numbers of the next draws; none is used twice, unless they are common to all evaluations."""
        self._next_draw = self.num_draws if self.common_draws else self._next_draw + self.num_draws
        return self.last_draws()

    def result(self, verdict: Verdict, distance: Array) -> AttackResult:
        """Put together what an attack returns, with the evaluations counted so far.

        Parameters
        ----------
        verdict : Verdict
            The adversarial images, judged.
        distance : array of shape (n,), float64
            Their distances from the clean images.
        """
        none = self.ops.zeros((len(self.y),), "int64")
        return AttackResult(
            verdict.x, verdict.success, verdict.loss, distance, none + self.num_queries, none + self.num_gradients
        )


def select(ops: ModuleType, condition: Array, new: Verdict, old: Verdict) -> Verdict:
    """Choose between two verdicts, sample by sample.

    Parameters
    ----------
    ops : module
        The backend.
    condition : array of shape (n,), bool
        Where to take the new one.
    new, old : Verdict
        The alternatives.
    """
    return Verdict(*(ops.select(condition, *pair) for pair in zip(new, old, strict=True)))


def stronger(ops: ModuleType, new: Verdict, old: Verdict) -> Verdict:
    """The better of two verdicts, as `select`: success first, then the larger loss; the old one in a tie."""
    return select(ops, ops.better(new.success, new.loss, old.success, old.loss), new, old)


def costlier(ops: ModuleType, new: Verdict, old: Verdict) -> Verdict:
    """The one with the larger loss, as `select`, whether or not it succeeds; the old one in a tie."""
    return select(ops, ops.better(old.success, new.loss, old.success, old.loss), new, old)
