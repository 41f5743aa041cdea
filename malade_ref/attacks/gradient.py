r"""Gradient attacks in a ball: FGSM, FGM and PGD.

With J the cross entropy of the true label y and x_0 a point of the ball B around the clean image x,

    x_{t+1} = clip(project(x_t + step_size * direction(grad J(x_t, y)))),    t = 0..T-1,

    norm    direction(g)    ball                     start
    Linf    sign(g)         ||x' - x||_inf <= eps    uniform in the cube
    L2      g / ||g||_2     ||x' - x||_2   <= eps    uniform in the ball

(each the steepest ascent in its norm). FGSM (Linf) and FGM (L2) are T = 1, x_0 = x, step_size = eps.

Of x_0..x_T the best is kept, sample by sample: a success before a failure, then the larger loss. For a stochastic model
a success may be one lucky draw: there the larger mean loss alone decides, and the winner is compared with x_T on new
draws. The best of several restarts is found in the same way, success before loss.

Axes: n samples, c channels, (h, w) pixels.

References
----------
.. [1] Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015.
.. [2] Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
.. [3] Rice, Wong, Kolter, "Overfitting in adversarially robust deep learning", ICML 2020, for PGD in L2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, cycle
from types import ModuleType
from typing import Any, NamedTuple

from ..arrays import Array
from ..checks import check_choice, check_eps, check_number, check_work
from ..network import Losses, losses_of
from .cards import Cost, card, setting
from .oracle import START, Asking, AttackResult, Model, Oracle, Verdict, costlier, select, stronger
from .standing import retiring

NORMS = ("linf", "l2")

# The iterates of a search, from an oracle and a starting point, each with what the model makes of it.
Search = Callable[[Oracle, Array], Iterator[Verdict]]
# Gets the number of an evaluation, counted on through the restarts, and the loss there, an array of shape (n,).
Record = Callable[[int, Array], None]


class Ball:
    """The images that an attack may choose from: a norm's ball around each clean image, cut with [0, 1].

    Parameters
    ----------
    ops : module
        The backend.
    centre : array of shape (n, c, h, w)
        Clean images.
    eps : float
        Radius, in pixel units, >= 0.
    norm : {"linf", "l2"}
        Which ball.
    """

    def __init__(self, ops: ModuleType, centre: Array, *, eps: float, norm: str) -> None:
        self.ops = ops
        self.centre = centre
        self.norm = check_choice("norm", norm, NORMS)
        self.eps = check_eps(eps, norm)

    def start(self, *, key: tuple[int, int], sample_index: Array) -> Array:
        """Draw a point uniformly from the ball, then clip it to [0, 1].

        Parameters
        ----------
        key : tuple of two int
            Of the random numbers, from ``ops.derive_key``.
        sample_index : array of shape (n,), integer
            Numbers of the samples in their data set.
        """
        ops, shape, dtype = self.ops, self.centre.shape[1:], str(self.centre.dtype)
        if self.norm == "linf":
            uniform = ops.uniform(shape, key=key, sample_index=sample_index, dtype=dtype)
            return ops.random_start_linf(self.centre, uniform, eps=self.eps)
        direction = ops.normal(shape, key=key, sample_index=sample_index, dtype=dtype)
        radius = ops.uniform((), key=key, sample_index=sample_index, step=1, dtype=dtype)
        return ops.random_start_l2(self.centre, direction, radius, eps=self.eps)

    def step(self, x: Array, gradient: Array, *, step_size: float) -> Array:
        """Make a step of steepest ascent, back into the ball, and clip to [0, 1].

        Parameters
        ----------
        x, gradient : array of the centre's shape and dtype
            Position, and gradient of the loss there.
        step_size : float
            Length of the step in this norm, in pixel units.
        """
        ops = self.ops
        if self.norm == "linf":
            return ops.project_linf(ops.sign_step(x, gradient, step_size=step_size), self.centre, eps=self.eps)
        return ops.project_l2(ops.normalised_step(x, gradient, step_size=step_size), self.centre, eps=self.eps)

    def apgd_step(self, x: Array, previous: Array, gradient: Array, step_size: Array, *, momentum: float) -> Array:
        """Make a step of Auto-PGD, back into the ball, and clip to [0, 1].

        Parameters
        ----------
        previous : array of the centre's shape and dtype
            The position before.
        step_size : array of shape (n,)
            Length of each image's step in this norm, in pixel units.
        momentum : float
            Share of the step, in [0, 1]; the rest goes to the last move.

        Notes
        -----
        The others are those of `step`.
        """
        step = self.ops.apgd_step_linf if self.norm == "linf" else self.ops.apgd_step_l2
        return step(x, previous, gradient, self.centre, step_size, eps=self.eps, momentum=momentum)

    def distance(self, x: Array) -> Array:
        """Distance of each image from its centre, (n,) float64."""
        return self.ops.distance_linf(x, self.centre) if self.norm == "linf" else self.ops.distance_l2(x, self.centre)

    def length(self, move: Array) -> Array:
        """Length of each image of a difference, (n,) float64."""
        return self.ops.distance_linf(move, 0 * move) if self.norm == "linf" else self.ops.distance_l2(move, 0 * move)

    def dual_length(self, slope: Array) -> Array:
        """Dual norm of each image's gradient, (n,) float64: what a move of length 1 can gain at most."""
        return self.ops.distance_l1(slope, 0 * slope) if self.norm == "linf" else self.ops.distance_l2(slope, 0 * slope)


class Climb(NamedTuple):
    """Settings of an iterative attack in a ball; the fields are those of `pgd`."""

    eps: float
    step_size: float
    num_steps: int
    norm: str
    num_restarts: int = 1
    random_start: bool = True
    transfer_start: bool = False
    loss: Any = "ce"  # of a run, one of those of the attack
    retire: bool = False


def climb_cost(s: Any) -> Cost:
    """What `pgd`, and whatever repeats its loop, asks of a model.

    Parameters
    ----------
    s : namespace
        See `malade_ref.attacks.cards.Card`.
    """
    runs, steps, more = s.num_restarts, s.num_steps, getattr(s, "transfer_start", False) and s.stochastic
    extra = steps if more else 0  # evaluations of the bare classifier, counted like those of the whole model
    again = 0 if s.stochastic or getattr(s, "loss", "ce") == "ce" else runs  # what is judged by the cross entropy
    return Cost(runs * steps * s.draws + extra, runs * (steps + 1) * s.draws + extra + bool(more) + again)


def climb(
    model: Model,
    x: Array,
    y: Array,
    settings: Climb,
    asking: Asking,
    iterates: Callable[..., Iterator[Verdict]],
    *,
    record: Record | None = None,
) -> AttackResult:
    """Climb from each start, and keep the best iterate: the loop that iterative attacks in a ball share.

    Parameters
    ----------
    settings : Climb
        The ball, the steps, and where they start.
    asking : Asking
        How the model is asked.
    iterates : callable
        From (oracle, ball, start, settings) to the iterates of one run, as `pgd_iterates`.

    Notes
    -----
    The others, and what is returned, are those of `pgd`.
    """
    oracle = asking.oracle(retiring(model) if settings.retire else model, x, y)
    ball = Ball(model.ops, x, eps=settings.eps, norm=settings.norm)
    losses = losses_of(settings.loss)
    check_number("step_size", settings.step_size, minimum=0)
    check_work("num_steps", settings.num_steps)
    check_work("num_restarts", settings.num_restarts)

    def search(oracle: Oracle, start: Array, loss: str = losses[0]) -> Iterator[Verdict]:
        return iterates(oracle, ball, start, settings._replace(loss=loss))

    more: dict[str, Any] = {"transfer": search if settings.transfer_start else None, "loss": losses}
    begin = starts(oracle, ball, num_restarts=settings.num_restarts, random_start=settings.random_start, **more)
    runs = (search(oracle, start, loss) for start, loss in zip(begin, cycle(losses), strict=False))
    return best_of_runs(oracle, ball, runs, loss=losses, record=record)


@card(title="PGD", norm=setting("norm"), cost=climb_cost)
def pgd(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 100,
    loss: str | Sequence[str] = "ce",
    targets: Array | None = None,
    norm: str = "linf",
    num_restarts: int = 1,
    retire: bool = False,
    random_start: bool = True,
    transfer_start: bool = False,
    mode: str = "exact",
    expectation: str = "loss",
    num_draws: int = 1,
    common_draws: bool = False,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
    record: Record | None = None,
) -> AttackResult:
    """Projected gradient ascent on the cross entropy or another loss (PGD).

    Parameters
    ----------
    model : Model
        What is attacked: a `Network`, a `MALADE`, or anything with their methods.
    x : array of shape (n, c, h, w)
        Clean images, pixels in [0, 1], of the model's dtype.
    y : array of shape (n,), integer
        True labels.
    eps : float
        Radius of the ball, in pixel units, >= 0.
    step_size : float
        Length of a step in the ball's norm, in pixel units, >= 0.
    num_steps : int
        Steps of one restart.
    loss : {"ce", "margin", "dlr"} or sequence of these
        What is raised: the cross entropy, the lead of the strongest other class, or the difference of logits ratio,
        which no scale of the logits can saturate; see `malade_ref.network.loss_ops`. Of several the restarts take one
        each, in turn.
    targets : array of shape (n,), integer, optional
        The class that the model is to take each image for, unlike its label; nothing else is a success then. Raised is
        minus the cross entropy of the target, its lead over all other classes, or the targeted ratio.
    norm : {"linf", "l2"}
        Which ball.
    num_restarts : int
        How often to start anew. The first k restarts are the same for every larger number.
    retire : bool
        Whether an image that has fallen is left alone from then on: one that a deterministic model is wrong about, or a
        stochastic one with every judging draw. It makes no other image fall, and images that stand are attacked alike;
        what is returned of a fallen one is its first fall. See `malade_ref.attacks.standing`.
    random_start : bool
        Whether to start at a random point of the ball, or at the clean image.
    transfer_start : bool
        For a defended model (one with a ``classifier``): whether the first restart starts, instead, at what one restart
        of this attack finds on the bare classifier. On other models it has no meaning.
    mode : {"exact", "bpda", "bpda-denoiser"}
        For a stochastic model: gradient through all of it, or with its purification replaced, on the way back, by the
        identity or by one application of its denoiser; see `MALADE.loss_gradient`.
    expectation : {"loss", "logits"}
        For a stochastic model: whether the search raises the mean of the draws' losses, or the loss of their mean
        logits, by which it is judged wrong.
    num_draws : int
        For a stochastic model: draws of noise at each evaluation, over which loss and gradient are averaged.
    common_draws : bool
        For a stochastic model: whether all evaluations of the search take the same draws (common random numbers). The
        search then climbs a deterministic function whose best point owes something to these draws; the verdict is still
        that of the judging draws.
    num_judge_draws : int
        For a stochastic model: draws of noise, not seen by the search, by which clean images and the best and the last
        iterate of each restart are judged.
    seed : int
        Of the attacker's random numbers, in [0, 2^64).
    sample_index : array of shape (n,), integer, optional
        Numbers of the samples in their data set; 0..n-1 by default. A sample's random numbers depend on its own.
    record : callable, optional
        Called with (number of the evaluation, losses of shape (n,)) at x_0..x_T of each restart; numbers go on from one
        restart to the next. For plots of the loss against iterations.

    Returns
    -------
    AttackResult
        With ``num_queries`` = 1 + num_restarts (num_steps + 1) and ``num_gradients`` = num_restarts num_steps for a
        deterministic model: the clean image, each iterate, and the last one without a gradient. For a stochastic one
        num_judge_draws + num_restarts ((num_steps + 1) num_draws + 2 num_judge_draws), and
        num_restarts num_steps num_draws. A transfer start adds num_steps + 2 and num_steps: evaluations of the bare
        classifier are counted like those of the whole model, one draw each. Every sample is charged for every
        evaluation of its batch; with ``retire``, of a stochastic model, for those before it fell. A deterministic
        model's finds by another loss than the cross entropy alone are judged anew: num_restarts queries, and one with
        a transfer start.

    Notes
    -----
    Deviations from Madry et al.: the best iterate is returned, not the last one, and the last one is evaluated too; a
    wrongly classified image is returned as it is. A stochastic model must be wrong on every judging draw for that:
    otherwise the attack would stop where most draws, but not all, are wrong, and leave the rest to the defence. Such an
    image counts as a success in any case.

    The best of several restarts is chosen by the same judging draws that are reported, so with few of them the result
    is still a little too good. What a stochastic defence is worth is measured on fresh draws, not here.

    Samples never influence each other. In L2, projecting and then clipping is not the projection onto the ball cut with
    [0, 1], so near the edge of [0, 1] the fixed point is off the optimum by a term of the order of the step.

    References
    ----------
    .. [1] Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from malade_ref.network import mlp
    >>> model = mlp((1, 2, 2), 3)
    >>> x, y = np.full((5, 1, 2, 2), 0.5, dtype="float32"), np.array([0, 1, 2, 0, 1])
    >>> result = pgd(model, x, y, eps=0.1, num_steps=20)
    >>> bool((abs(result.x_adv - x) <= 0.1).all())
    True
    """
    settings = Climb(eps, step_size, num_steps, norm, num_restarts, random_start, transfer_start, loss, retire)
    asking = Asking(mode, expectation, num_draws, common_draws, num_judge_draws, seed, sample_index, targets)
    return climb(model, x, y, settings, asking, pgd_iterates, record=record)


def pgd_iterates(
    oracle: Oracle, ball: Ball, x_t: Array, settings: Climb, *, pull: Callable[[Array], Array] | None = None
) -> Iterator[Verdict]:
    """Climb along the gradient from one start.

    Parameters
    ----------
    oracle : Oracle
        What is asked.
    ball : Ball
        Where the iterates stay.
    x_t : array of shape (n, c, h, w)
        The start.
    settings : Climb
        The steps.
    pull : callable, optional
        From x_t to what is added to the gradient of the loss there.

    Yields
    ------
    Verdict
        x_0..x_T, each with what the model makes of it.
    """
    for _ in range(settings.num_steps):
        verdict, gradient = oracle.gradient(x_t, loss=settings.loss)
        yield verdict
        slope = gradient if pull is None else gradient + pull(x_t)
        x_t = ball.step(x_t, slope, step_size=settings.step_size)
    yield oracle.query(x_t, loss=settings.loss)


def _one_step_cost(s: Any) -> Cost:
    """As `climb_cost`, for one step from the clean image."""
    return Cost(s.draws, 2 * s.draws)


@card(title="FGSM", norm="linf", one_step=True, cost=_one_step_cost)
def fgsm(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    loss: str = "ce",
    targets: Array | None = None,
    mode: str = "exact",
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
) -> AttackResult:
    """Fast gradient sign method: one step of length eps from the clean image, in the maximum norm.

    Returns
    -------
    AttackResult
        As of `pgd` with one step; distances in the maximum norm.

    Notes
    -----
    Deviation from Goodfellow et al.: where the step neither succeeds nor raises the loss (the model is no plane) the
    clean image is returned.

    The others are those of `pgd`.

    References
    ----------
    .. [1] Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015.
    """
    settings = Climb(eps, eps, 1, "linf", random_start=False, loss=loss)
    asking = Asking(mode, "loss", num_draws, False, num_judge_draws, seed, sample_index, targets)
    return climb(model, x, y, settings, asking, pgd_iterates)


@card(title="FGM", norm="l2", one_step=True, cost=_one_step_cost)
def fgm(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    loss: str = "ce",
    targets: Array | None = None,
    mode: str = "exact",
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
) -> AttackResult:
    """Fast gradient method: one step of length eps from the clean image along the gradient, in the Euclidean norm.

    Returns
    -------
    AttackResult
        As of `pgd` with one step; distances in the Euclidean norm.

    Notes
    -----
    Deviation from Miyato et al.: where the step neither succeeds nor raises the loss the clean image is returned. What
    clipping to [0, 1] takes from the step is not given back to other pixels.

    The others are those of `pgd`.

    References
    ----------
    .. [1] Miyato, Dai, Goodfellow, "Adversarial training methods for semi-supervised text classification", ICLR 2017.
    """
    settings = Climb(eps, eps, 1, "l2", random_start=False, loss=loss)
    asking = Asking(mode, "loss", num_draws, False, num_judge_draws, seed, sample_index, targets)
    return climb(model, x, y, settings, asking, pgd_iterates)


# What iterative attacks in a ball share.


def starts(
    oracle: Oracle,
    ball: Ball,
    *,
    num_restarts: int,
    random_start: bool,
    transfer: Search | None = None,
    loss: Losses = "ce",
) -> Iterator[Array]:
    """Give the starting points of the restarts.

    Parameters
    ----------
    oracle : Oracle
        Whose seed and sample numbers are taken.
    ball : Ball
        Where to start.
    transfer : callable, optional
        The iterates of a search. The first restart then starts at the best of those that it has on the bare classifier,
        if there is one; what that costs is added to the oracle's counts.
    loss : str or sequence of str
        What that search's losses are; of several it is the first.

    Yields
    ------
    array of shape (n, c, h, w)
        Starting points of all images.

    Notes
    -----
    The others are those of `pgd`.
    """
    classifier = getattr(oracle.model, "classifier", None)
    for restart in range(num_restarts):
        key = oracle.ops.derive_key(oracle.seed, START, restart)
        start = ball.start(key=key, sample_index=oracle.sample_index) if random_start else ball.centre
        if restart == 0 and transfer is not None and classifier is not None:
            own: dict[str, Any] = {"seed": oracle.seed, "sample_index": oracle.sample_index, "targets": oracle.targets}
            bare = Oracle(classifier, ball.centre, oracle.y, **own)
            start = best_of_runs(bare, ball, [transfer(bare, start)], loss=losses_of(loss)[0]).x_adv
            oracle.num_queries += bare.num_queries
            oracle.num_gradients += bare.num_gradients
        yield start


def best_of_runs(
    oracle: Oracle, ball: Ball, runs: Iterable[Iterator[Verdict]], *, loss: Losses = "ce", record: Record | None = None
) -> AttackResult:
    """Keep the best iterate of each run, sample by sample, and the best run.

    Parameters
    ----------
    oracle : Oracle
        The model, and the count of what it was asked.
    ball : Ball
        With the clean images as its centre.
    runs : iterable of iterators of Verdict
        For each run its iterates.
    loss : str or sequence of str
        What the verdicts' losses are. Unless it is the cross entropy alone, finds are judged anew.

    Notes
    -----
    The others, and what is returned, are those of `pgd`.
    """
    ops, stochastic = oracle.ops, oracle.model.stochastic
    keep = costlier if stochastic else stronger
    clean, always_wrong = oracle.judge(ball.centre)
    best, evaluations = clean, count()
    for iterates in runs:
        found = best
        for number, iterate in enumerate(iterates):
            if record is not None:
                record(next(evaluations), iterate.loss)
            found = keep(ops, iterate, found) if number else iterate
        if stochastic:
            # With few draws the best of many losses is best by luck; the last iterate has gone the whole way.
            found = stronger(ops, oracle.judge(iterate.x)[0], oracle.judge(found.x)[0])
        elif losses_of(loss) != ("ce",):
            found = oracle.judge(found.x)[0]
        best = stronger(ops, found, best)
    best = select(ops, always_wrong, clean, best)
    return oracle.result(best, ball.distance(best.x))
