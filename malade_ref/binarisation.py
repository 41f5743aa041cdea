r"""The binarisation test: whether an attack finds what is known to exist.

Nobody knows whether a defended image that an attack leaves right has an adversarial image in its ball. So a problem is
made that has one. Around an image x, with phi(x) what the classifier, behind the defence, gives to its last layer,

    inner      x and points drawn within 0.9 of the ball,
    boundary   a point drawn on its surface,

and the last layer is replaced by a linear classifier of two classes that tells phi(boundary) from phi(inner). The point
on the surface is an adversarial image then. An attack on the new model that finds neither it nor another would miss
those of the defended model too: its share of solved problems is a bound on what its other results are worth.

With f the features, less their mean over the inner points, and t = 1 at the boundary and 0 within, the weights are
those of least squares, w = F^T (F F^T + lambda I)^-1 t; the threshold lies halfway between the largest inner score w.f
and the smallest at the boundary. A model that draws noise has the mean features of the draws by which the attack is
judged, so there, too, the point is a success by construction. Where the two sets cannot be told apart there is no
problem.

A search without gradients is run beside the attack. If it solves problems that the attack does not, the gradient is
what is masked.

References
----------
.. [1] Zimmermann, Brendel, Tramer, Carlini, "Increasing confidence in adversarial robustness evaluations", NeurIPS
   2022.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import Array
from .attacks import AttackResult, Ball, Model, Oracle, pgd, square
from .attacks.oracle import JUDGE
from .checks import InputError, check_model, check_number, check_work
from .defence import MALADE
from .layers import Linear
from .network import Network
from .sampling import Stream

# Share of the ball that inner points are drawn from.
INNER = 0.9
# Of the mean squared length of the features.
RIDGE = 1e-6
# Share of the problems that a sound attack solves at least.
SOUND = 0.95
# By how much the search may be ahead: one problem of fifty.
SOUND_SLACK = 0.02
# How far apart the scores of the two classes are put.
GAP = 10.0


class Binarisation(NamedTuple):
    """What an attack found of what is known to exist.

    Attributes
    ----------
    found : float
        Share of the problems that the attack solved.
    found_by_search : float
        Share that the search without gradients solved.
    num_problems : int
        Problems, one an image.
    num_images : int
        Images: those whose inner and boundary points could not be told apart are no problems.
    eps : float
        Radius of the ball, in pixel units.
    norm : str
        Its norm.
    """

    found: float
    found_by_search: float
    num_problems: int
    num_images: int
    eps: float
    norm: str

    @property
    def sound(self) -> bool:
        """Whether the attack solved nearly all of them, and no fewer than the search without gradients."""
        return self.num_problems > 0 and self.found >= max(SOUND, self.found_by_search - SOUND_SLACK)

    def __str__(self) -> str:
        """Return both shares."""
        if self.num_problems == 0:
            return f"no problem could be made of {self.num_images} images"
        images = f"{self.num_problems} image{'' if self.num_problems == 1 else 's'}"
        return (
            f"the attack found {100 * self.found:.1f}% of {images} known to exist "
            f"({self.norm} {self.eps:g}), a search without gradients {100 * self.found_by_search:.1f}%"
        )


def binarisation_check(
    model: Any,
    x: Array,
    *,
    eps: float,
    norm: str = "linf",
    attack: Callable[..., AttackResult] | None = None,
    search: Callable[..., AttackResult] | None = None,
    around: Callable[[Network], Model] | None = None,
    num_inner: int = 50,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
) -> Binarisation:
    """Run the test on some images.

    Parameters
    ----------
    model : Network or MALADE
        The classifier, or the defended one. Its classifier's last layer is linear.
    x : array of shape (n, c, h, w)
        Images, pixels in [0, 1].
    eps : float
        Radius of the ball, in pixel units, > 0.
    norm : {"linf", "l2"}
        Which ball.
    attack : callable, optional
        The attack that is tested, with its settings bound; called with (model, x, y) and eps, norm, num_judge_draws,
        seed and sample_index. By default 40 steps of `pgd` on the margin. A ratio of logits has no meaning for two
        classes.
    search : callable, optional
        Likewise, without gradients; by default 200 steps of `square`.
    around : callable, optional
        From a network to the defended model around it, for models other than the two above; ``model`` is the network.
    num_inner : int
        Inner points of each problem, besides the image.
    num_judge_draws : int
        For a model that draws noise: draws by which problems and finds are judged.
    seed : int
        Of the points, and of the attacker's noise.
    sample_index : array of shape (n,), integer, optional
        Numbers of the samples in their data set; 0..n-1 by default.

    Returns
    -------
    Binarisation
        Shares, and what they are of.
    """
    check_model("model", model)
    check_number("eps", eps, above=0)
    check_work("num_inner", num_inner)
    check_work("num_judge_draws", num_judge_draws)
    if len(x) == 0:
        raise InputError("x: expected at least one image, got none")
    ops = model.ops
    index = ops.arange(len(x)) if sample_index is None else ops.asarray(sample_index)
    classifier, defended = _parts(model, around)
    attack = partial(pgd, num_steps=40, step_size=eps / 10, loss="margin") if attack is None else attack
    search = partial(square, num_steps=200) if search is None else search

    ball, inner_ball = (Ball(ops, x, eps=radius, norm=norm) for radius in (eps, INNER * eps))
    keys = [ops.derive_key(seed, "binarisation-inner", number) for number in range(num_inner)]
    inner = [x, *(inner_ball.start(key=key, sample_index=index) for key in keys)]
    key = ops.derive_key(seed, "binarisation-boundary")
    direction = ops.normal(x.shape[1:], key=key, sample_index=index, dtype=str(x.dtype))
    boundary = ball.step(x, direction, step_size=eps)

    features_of = defended(_without_last(classifier))
    noise: dict[str, Any] = {"num_draws": num_judge_draws, "first_draw": 0, "sample_index": index}
    noise["stream"] = Stream(seed, JUDGE)
    noise = noise if features_of.stochastic else {}
    within, outside = (
        np.stack([ops.to_host(features_of.logits(points, **noise)).astype("float64") for points in some])
        for some in (inner, [boundary])
    )
    solved: list[tuple[bool, bool]] = []
    for i in range(len(x)):
        head = _head(within[:, i], outside[:, i])
        if head is None:
            continue
        problem = defended(_with_last(classifier, *head))
        image, label, own = x[i : i + 1], ops.zeros((1,), "int64"), index[i : i + 1]
        asked: dict[str, Any] = {"num_judge_draws": num_judge_draws, "seed": seed, "sample_index": own}
        oracle = Oracle(problem, image, label, **asked)
        known, clean = (bool(oracle.judge(points)[0].success.any()) for points in (boundary[i : i + 1], image))
        if known and not clean:
            a, b = (run(problem, image, label, eps=eps, norm=norm, **asked).success.any() for run in (attack, search))
            solved.append((bool(a), bool(b)))
    found, by_search = (sum(own) / max(1, len(solved)) for own in (zip(*solved, strict=True) if solved else ((), ())))
    return Binarisation(found, by_search, len(solved), len(x), eps, norm)


def _parts(model: Any, around: Callable[[Network], Model] | None) -> tuple[Network, Callable[[Network], Any]]:
    """The network whose last layer is replaced, and what is built around it."""
    classifier = model.classifier if isinstance(model, MALADE) else model
    if not isinstance(classifier, Network):
        raise InputError("model: expected a Network or a MALADE; give the network, and what is around it as around")
    last = classifier.layers[-1] if classifier.layers else None
    if not isinstance(last, Linear) or classifier.residual:
        raise InputError("model: expected a classifier whose last layer is linear; the test replaces that layer")
    if around is not None:
        return classifier, around
    if isinstance(model, MALADE):
        return classifier, lambda f: MALADE(f, model.denoiser, **model.chain._asdict(), seed=model.stream.seed)
    return classifier, lambda f: f


def _without_last(classifier: Network) -> Network:
    """The network up to its last layer; what it gives are the features."""
    last = len(classifier.layers) - 1
    params = {name: value for name, value in classifier.params.items() if int(name.partition(".")[0]) < last}
    if not params:  # a network has the dtype of its parameters
        raise InputError("model: expected a layer with parameters before the last one; there is no feature to speak of")
    return Network(classifier.layers[:-1], params, classifier.input_shape, ops=classifier.ops)


def _with_last(classifier: Network, weight: NDArray[Any], bias: NDArray[Any]) -> Network:
    """The network with another last layer, of two classes."""
    ops, last = classifier.ops, len(classifier.layers) - 1
    params = dict(_without_last(classifier).params)
    params[f"{last}.weight"] = ops.asarray(weight.astype(classifier.dtype))
    params[f"{last}.bias"] = ops.asarray(bias.astype(classifier.dtype))
    layers = [*classifier.layers[:-1], Linear(weight.shape[1], 2)]
    return Network(layers, params, classifier.input_shape, ops=ops)


def _head(within: NDArray[Any], outside: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Weight (2, d) and bias (2,) of the layer that tells features (m, d) from each other; None if none does."""
    centre = within.mean(axis=0)
    features = np.concatenate([within, outside]) - centre
    wanted = np.concatenate([np.zeros(len(within)), np.ones(len(outside))])
    products = features @ features.T
    ridge = RIDGE * max(float(np.trace(products)) / len(products), 1e-300)
    direction = features.T @ np.linalg.solve(products + ridge * np.eye(len(products)), wanted)
    scores = features @ direction
    low, high = scores[: len(within)].max(), scores[len(within) :].min()
    if not high > low + 1e-6 * abs(scores).max():
        return None
    direction = GAP * direction / (high - low)
    threshold = float(direction @ centre) + GAP * (low + high) / (2 * (high - low))
    return np.stack([-direction / 2, direction / 2]), np.array([threshold / 2, -threshold / 2])
