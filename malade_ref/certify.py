r"""Certified radii by randomised smoothing, with a denoiser in front of the classifier.

The *smoothed* classifier answers with the class that the base classifier gives most often under Gaussian noise:

    g(x) = argmax_c P(f(r(x + sigma z)) = c),    z ~ N(0, I) per pixel, never clipped,

with r a denoiser trained at noise sigma (denoised smoothing [2]; the sDAE's objective is just that), or the identity.
If its class A has a probability of at least p > 1/2, then g(x + d) = A for every d with |d|_2 < R,

    R = sigma Phi^-1(p).

p is not known: a few draws select A, and others, fresh, estimate p from below by Clopper and Pearson's limit, which is
too high with a probability of at most alpha. Where the limit is not above 1/2, `certify` abstains. `predict` only names
the class, and abstains where the two most frequent ones could be equally probable.

All other classes together have 1 - p: that is the bound ``"rest"``, the published algorithm. Without a denoiser the
rest is often spread over many classes, and A first without half of the draws. The bound ``"runner-up"`` takes the
theorem in its general form: with q at least the probability of every other class,

    R = sigma (Phi^-1(p) - Phi^-1(q)) / 2.

Here p's limit may be wrong with probability 0.9 alpha, and the limits from above of the others share 0.1 alpha; q is
the largest of these, or 1 - p if that is less. An image that all draws agree on loses 0.5% of its radius by that.

Draws are addressed by (stream, sample, draw) like all noise here, `DRAWS_AT_ONCE` of them to a step of the counter: so
counts do not depend on the batch, and an interrupted computation can be gone on with sample by sample.

Deviation from [1]: a limit of exactly 1/2 is an abstention too, and an accuracy at radius r counts images certified
*beyond* r, so that it holds for perturbations of norm r as well.

Axes: n images, c channels, (h, w) pixels, k classes. What is returned lies on the host.

References
----------
.. [1] Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019.
.. [2] Salman, Sun, Yang, Kapoor, Kolter, "Denoised smoothing: a provable defense for pretrained classifiers",
   NeurIPS 2020.
.. [3] Hung, Fithian, "Rank verification for exponential families", Annals of Statistics 47, 2019 (for `predict`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .arrays import Array
from .checks import InputError, check_choice, check_count, check_model, check_number
from .network import Network
from .showing import shortly
from .statistics import Estimate, even_split_p_value, lower_quantile, wilson

# Draws of one image that share a step of the noise's counter. A part of the addresses: another number, other noise.
DRAWS_AT_ONCE = 100
# A sigma that differs from that of the denoiser's training by less, relatively, is the same written with fewer digits.
SAME_SIGMA = 0.01
ABSTAINED = -1
BOUNDS = ("rest", "runner-up")
# Of alpha, what the limit of the first class may take when the others have limits of their own.
SHARE_OF_FIRST = 0.9

Progress = Callable[[float, str], None]


@shortly
class Certificates(NamedTuple):
    """What is certain about images, each with a probability of error of at most alpha.

    Attributes
    ----------
    label : array of shape (n,), int64
        True classes.
    predicted : array of shape (n,), int64
        Classes of the smoothed classifier; -1 where it abstains.
    radius : array of shape (n,), float64
        L2 radius within which the prediction cannot change, in pixel units; 0 where it abstains.
    abstained : array of shape (n,), bool
        Whether nothing could be certified.
    selection, counts : array of shape (n, k), int64
        How often each class came up in the draws that select, and in those that estimate.
    """

    label: Array
    predicted: Array
    radius: Array
    abstained: Array
    selection: Array
    counts: Array

    @property
    def correct(self) -> Array:
        """Whether the smoothed classifier is certain, and right."""
        return self.predicted == self.label


@shortly
class Predictions(NamedTuple):
    """Answers of a smoothed classifier, each wrong about its own majority with a probability of at most alpha.

    Attributes
    ----------
    predicted : array of shape (n,), int64
        Classes; -1 where it abstains.
    abstained : array of shape (n,), bool
        Whether the draws do not tell the first class from the second.
    counts : array of shape (n, k), int64
        How often each class came up.
    """

    predicted: Array
    abstained: Array
    counts: Array


def certify(
    classifier: Network,
    x: Array,
    y: Array,
    *,
    sigma: float | None = None,
    denoiser: Network | None = None,
    any_sigma: bool = False,
    num_selection: int = 100,
    num_estimation: int = 10_000,
    alpha: float = 0.001,
    bound: str = "rest",
    batch_size: int = 32,
    seed: int = 0,
    sample_index: Array | None = None,
    stream: str = "certify",
    progress: Progress | None = None,
) -> Certificates:
    """Certify the predictions of a smoothed classifier.

    Parameters
    ----------
    classifier : Network
        f, from images to logits.
    x : array of shape (n, c, h, w)
        Images, pixels in [0, 1].
    y : array of shape (n,), integer
        True classes; they are kept with the certificates and do not influence them.
    sigma : float, optional
        Standard deviation of the noise, in pixel units; by default that of the denoiser's training.
    denoiser : Network, optional
        r, what the noisy images pass through.
    any_sigma : bool
        Whether sigma may differ from that of the denoiser's training. A certificate is as valid then, and its radius
        as a rule smaller.
    num_selection, num_estimation : int
        Draws that select the class, and fresh draws that estimate its probability.
    alpha : float
        Probability that an image's certificate is wrong, at most; in (0, 1).
    bound : {"rest", "runner-up"}
        What the first class is held against: all others together, or the most probable of them.
    batch_size : int
        Images that are worked on together; of no influence on the result.
    seed : int
        Of the noise.
    sample_index : array of shape (n,), integer, optional
        Numbers of the samples in their data set; 0..n-1 by default.
    stream : str
        Name of the noise; the draws that select and those that estimate have streams of their own under it.
    progress : callable, optional
        Told the fraction done and a line of text.

    Raises
    ------
    InputError
        If networks, images or labels do not fit each other, a setting is out of range, sigma is missing, or it is not
        that of the denoiser's training and that was not asked for.

    References
    ----------
    .. [1] Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019, CERTIFY.
    """
    sigma = resolve_sigma(sigma, denoiser, any_sigma=any_sigma)
    index = _checked(classifier, denoiser, x, sample_index, alpha)
    check_choice("bound", bound, BOUNDS)
    ops = classifier.ops
    ops.check_labels("y", y, len(x), classifier.num_classes)
    draws = {
        "selection": check_count("num_selection", num_selection),
        "estimation": check_count("num_estimation", num_estimation),
    }
    found: dict[str, list[Array]] = {name: [] for name in draws}
    for part in _batches(len(x), batch_size):
        for name, num_draws in draws.items():

            def tell(done: int, part: slice = part, name: str = name) -> None:
                if progress is not None:
                    before = draws["selection"] if name == "estimation" else 0
                    share = (before + done) / sum(draws.values())
                    fraction = (part.start + (part.stop - part.start) * share) / len(x)
                    progress(fraction, f"images {part.start + 1} to {part.stop} of {len(x)}")

            key = ops.derive_key(seed, f"{stream}/{name}")
            counts = _class_counts(classifier, denoiser, x[part], index[part], sigma, num_draws, key, tell)
            found[name].append(counts)
    selection, counts = (ops.to_host(ops.concatenate(found[name])) for name in draws)
    rule: dict[str, Any] = {"sigma": sigma, "alpha": alpha, "bound": bound, "num_estimation": num_estimation}
    return certificates_of(selection, counts, ops.to_host(y), **rule)


def predict(
    classifier: Network,
    x: Array,
    *,
    sigma: float | None = None,
    denoiser: Network | None = None,
    any_sigma: bool = False,
    num_draws: int = 1000,
    alpha: float = 0.001,
    batch_size: int = 32,
    seed: int = 0,
    sample_index: Array | None = None,
    stream: str = "certify",
) -> Predictions:
    """Classify images by the smoothed classifier, without a radius.

    Parameters
    ----------
    classifier, x, sigma, denoiser, any_sigma, batch_size, seed, sample_index
        As in `certify`.
    num_draws : int
        Draws of the noise.
    alpha : float
        Probability that an answer is not the smoothed classifier's, at most; in (0, 1).
    stream : str
        Name of the noise; these draws have a stream of their own under it.

    References
    ----------
    .. [1] Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019, PREDICT.
    """
    sigma = resolve_sigma(sigma, denoiser, any_sigma=any_sigma)
    index = _checked(classifier, denoiser, x, sample_index, alpha)
    check_count("num_draws", num_draws)
    ops = classifier.ops
    key = ops.derive_key(seed, f"{stream}/prediction")
    counts = [
        _class_counts(classifier, denoiser, x[part], index[part], sigma, num_draws, key)
        for part in _batches(len(x), batch_size)
    ]
    return predictions_of(ops.to_host(ops.concatenate(counts)), alpha=alpha, num_draws=num_draws)


def certificates_of(
    selection: Array,
    counts: Array,
    label: Array,
    *,
    sigma: float,
    alpha: float,
    bound: str = "rest",
    num_estimation: int | None = None,
) -> Certificates:
    """Derive certificates from counts.

    Parameters
    ----------
    selection, counts : array of shape (n, k), int64
        As in `Certificates`, on the host.
    label : array of shape (n,), integer
        True classes, on the host.
    sigma : float
        Standard deviation of the noise, in pixel units.
    alpha : float
        Probability of a wrong certificate, at most; in (0, 1).
    bound : {"rest", "runner-up"}
        As in `certify`.
    num_estimation : int, optional
        Draws that `counts` are of; the largest sum of a row by default. A row with a smaller sum had draws without a
        class (logits that are NaN), and abstains.
    """
    top, rows = selection.argmax(axis=1), list(range(len(selection)))
    answered = counts.sum(axis=1)
    num_draws = max(1, int(answered.max(initial=0)) if num_estimation is None else num_estimation)
    quantile = lower_quantile(counts[rows, top], num_draws, alpha=_alpha_of_first(alpha, bound))
    if bound == "runner-up":
        # -Phi^-1 of each class's limit from above is Phi^-1 of the limit from below of all that is not this class.
        others = num_draws - counts
        others[rows, top] = num_draws
        each = (1 - SHARE_OF_FIRST) * alpha / max(1, counts.shape[1] - 1)
        runner_up = lower_quantile(others.min(axis=1), num_draws, alpha=each)
        quantile = (quantile + quantile.clip(runner_up)) / 2
    abstained = (quantile <= 0) | (answered < num_draws) | (selection.sum(axis=1) == 0)
    quantile[abstained] = 0
    predicted = top.copy()
    predicted[abstained] = ABSTAINED
    return Certificates(label, predicted, sigma * quantile.clip(0), abstained, selection, counts)


def predictions_of(counts: Array, *, alpha: float, num_draws: int | None = None) -> Predictions:
    """Derive answers from counts.

    Parameters
    ----------
    counts : array of shape (n, k), int64
        How often each class came up, on the host.
    alpha : float
        Probability of a wrong answer, at most; in (0, 1).
    num_draws : int, optional
        Draws that `counts` are of; a row with a smaller sum abstains. Not looked at by default.
    """
    missing = counts.sum(axis=1) < max(1, num_draws or 1)
    predicted = counts.argmax(axis=1)
    others = counts.copy()
    others[list(range(len(others))), predicted] = 0
    abstained = (even_split_p_value(counts.max(axis=1), others.max(axis=1)) > alpha) | missing
    predicted[abstained] = ABSTAINED
    return Predictions(predicted, abstained, counts)


def majority_accuracy(certificates: Certificates) -> Estimate:
    """Share of images that most of the draws have right: the smoothed classifier's accuracy, without abstentions.

    What certified accuracy at radius 0 falls short of this is uncertain for want of draws or, with the bound "rest",
    has no class with more than half of the probability.

    Parameters
    ----------
    certificates : Certificates
        Of n >= 1 images; the draws are those that estimate.

    Returns
    -------
    Estimate
        With Wilson's interval over images.
    """
    counts = certificates.counts
    right = (counts.argmax(axis=1) == certificates.label) & (counts.sum(axis=1) > 0)
    return wilson(int(right.sum()), len(right))


def certified_accuracy(certificates: Certificates, radii: Sequence[float]) -> list[Estimate]:
    """Share of images that are classified rightly whatever a perturbation of a size does.

    Parameters
    ----------
    certificates : Certificates
        Of n >= 1 images.
    radii : sequence of float
        L2 norms of the perturbation, in pixel units, >= 0.

    Returns
    -------
    list of Estimate
        For each radius r: right, and certified beyond r; with Wilson's interval over images.
    """
    correct = certificates.correct
    return [
        wilson(int((correct & (certificates.radius > check_number("radii", radius, minimum=0))).sum()), len(correct))
        for radius in radii
    ]


def largest_radius(*, sigma: float, num_estimation: int, alpha: float, bound: str = "rest") -> float:
    """Radius of an image whose draws all agree: the most that so many draws can certify.

    The parameters are those of `certify`.

    Returns
    -------
    float
        In pixel units; 0 if so few draws can certify nothing.
    """
    alpha = _alpha_of_first(alpha, bound)
    return max(0.0, sigma * float(lower_quantile(num_estimation, num_estimation, alpha=alpha)))


def _alpha_of_first(alpha: float, bound: str) -> float:
    """What the limit of the first class may take of alpha."""
    return SHARE_OF_FIRST * alpha if bound == "runner-up" else alpha


def training_sigma(denoiser: Network) -> float | None:
    """Noise that a denoiser was trained at.

    Parameters
    ----------
    denoiser : Network
        Such as from `malade_ref.training.fit`.

    Returns
    -------
    float or None
        Standard deviation, in pixel units; None if its metadata do not say.
    """
    sigma: Any = denoiser.metadata
    for key in ("training", "objective", "sigma"):
        # Metadata may come from anybody's file.
        sigma = sigma.get(key) if isinstance(sigma, dict) else None
    return float(sigma) if isinstance(sigma, float) and 0 < sigma < math.inf else None


def resolve_sigma(sigma: float | None, denoiser: Network | None, *, any_sigma: bool = False) -> float:
    """Noise to smooth with.

    Parameters
    ----------
    sigma : float, optional
        What was asked for; that of the denoiser's training by default.
    denoiser : Network, optional
        What the noisy images pass through.
    any_sigma : bool
        Whether it may differ from that of the training; otherwise a difference raises `InputError`.

    Returns
    -------
    float
        Standard deviation, in pixel units.
    """
    if denoiser is not None:
        check_model("denoiser", denoiser)
    trained = None if denoiser is None else training_sigma(denoiser)
    if sigma is None:
        if trained is None:
            whose = "there is no denoiser" if denoiser is None else "the denoiser's file does not say its own"
            raise InputError(f"sigma: expected the standard deviation of the noise, as {whose}; give it")
        return trained
    sigma = check_number("sigma", sigma, above=0)
    if not any_sigma and trained is not None and abs(sigma - trained) > SAME_SIGMA * trained:
        raise InputError(
            f"sigma: expected {trained:.4g}, the noise that the denoiser was trained at, got {sigma:.4g}; "
            "leave it out, or allow any sigma (as valid, but radii are smaller as a rule)"
        )
    return sigma


def _class_counts(
    classifier: Network,
    denoiser: Network | None,
    x: Array,
    index: Array,
    sigma: float,
    num_draws: int,
    key: tuple[int, int],
    tell: Callable[[int], None] = lambda done: None,
) -> Array:
    """How often each class comes up under noise, an array (n, k); nothing waits for the device.

    A draw whose logits are NaN counts for no class.
    """
    ops = classifier.ops
    classes = ops.arange(classifier.num_classes)
    counts = ops.zeros((len(x), classifier.num_classes), "int64")
    for step, first in enumerate(range(0, num_draws, DRAWS_AT_ONCE)):
        tell(first)
        draws = min(DRAWS_AT_ONCE, num_draws - first)
        noise = ops.normal(
            (draws, *classifier.input_shape), key=key, sample_index=index, step=step, dtype=classifier.dtype
        )
        noisy = (x[:, None] + sigma * noise).reshape((len(x) * draws, *classifier.input_shape))
        predicted = ops.argmax(classifier.apply(noisy if denoiser is None else denoiser.apply(noisy)))
        counts = counts + (predicted.reshape((len(x), draws, 1)) == classes).sum(axis=1)
    return counts


def _checked(
    classifier: Network, denoiser: Network | None, x: Array, sample_index: Array | None, alpha: float
) -> Array:
    """Check what everything begins with; return the samples' numbers."""
    check_model("classifier", classifier)
    if classifier.stochastic:
        raise InputError("classifier: expected a network, got a defence with noise of its own; give its classifier")
    shape = classifier.input_shape
    if denoiser is not None:
        if (denoiser.input_shape, denoiser.output_shape) != (shape, shape):
            raise InputError(
                f"denoiser: expected {shape} -> {shape} (the classifier's input), "
                f"got {denoiser.input_shape} -> {denoiser.output_shape}"
            )
        if denoiser.dtype != classifier.dtype or denoiser.ops is not classifier.ops:
            raise InputError("denoiser: expected the classifier's dtype and backend")
    check_number("alpha", alpha, above=0, below=1)
    ops = classifier.ops
    ops.check_images("x", x, shape)
    if str(x.dtype) != classifier.dtype:
        raise InputError(f"x: expected {classifier.dtype} (the network's dtype), got {x.dtype}; convert one of them")
    index = ops.arange(len(x)) if sample_index is None else sample_index
    ops.check_sample_index("sample_index", index, len(x))
    return index


def _batches(count: int, batch_size: int) -> list[slice]:
    """At least one, be it empty."""
    check_count("batch_size", batch_size)
    return [slice(first, min(first + batch_size, count)) for first in range(0, max(1, count), batch_size)]
