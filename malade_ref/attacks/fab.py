r"""FAB: the nearest wrong image by steps onto the linearised decision boundary.

At the iterate x_t, the lead m_k(x') = z_k(x') - z_y(x') of each other class k is replaced by its linearisation, whose
zeros are a plane. The nearest of these planes is chosen, by |m_k| / ||grad m_k||_dual. With d and d_0 the smallest
moves of x_t and of the clean image x onto it within [0, 1],

    x_{t+1} = clip((1 - a)(x_t + eta d) + a (x + eta d_0)),    a = min(||d|| / (||d|| + ||d_0||), alpha_max),

so that the iterates stay near x. A wrong iterate is noted, and the next step starts from x + beta_back (x_t - x), back
across the boundary. In the end a nearer one is looked for on the plane at the nearest find, and on the way from x.

References
----------
.. [1] Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.
"""

from __future__ import annotations

from ..arrays import Array
from ..checks import InputError, check_count, check_number
from .gradient import Ball, starts
from .oracle import AttackResult, Model, Oracle, Verdict, stronger

SHORTEST = 1e-8  # moves count as no shorter, so that the ratio of two is a number
PAST_PLANE = 1.001  # length of the clean image's move onto the plane at the nearest find, 1 being onto it
PAST_ROOT = 0.1  # share of the way from the estimated boundary to the nearest find


def fab(
    model: Model,
    x: Array,
    y: Array,
    *,
    eps: float = 0.3,
    num_steps: int = 100,
    num_targets: int = 0,
    alpha_max: float = 0.1,
    overshoot: float = 1.05,
    backward: float = 0.9,
    num_final_steps: int = 3,
    norm: str = "linf",
    num_restarts: int = 1,
    mode: str = "exact",
    num_draws: int = 1,
    num_judge_draws: int = 10,
    seed: int = 0,
    sample_index: Array | None = None,
) -> AttackResult:
    """Fast adaptive boundary attack (FAB): the nearest image that is wrong, in the maximum or the Euclidean norm.

    Parameters
    ----------
    model, x, y, norm, num_restarts
        As in `pgd`.
    eps : float
        What is further away than this, in pixel units, is no find. 1 (linf) or the root of the number of pixels (l2)
        excludes nothing.
    num_steps : int
        Steps of each run.
    num_targets : int
        0 to look at all other classes in each step, or how many of them to go for one after the other, those first that
        score highest on the clean image; at most all. The latter costs one gradient a step.
    alpha_max : float
        Largest share a of the clean image's move, in [0, 1].
    overshoot : float
        Length eta of the moves, 1 being onto the plane, >= 1.
    backward : float
        Where wrong iterates start again, as a share of their way from the clean image, in [0, 1].
    num_final_steps : int
        Evaluations of the final search on a line.
    mode, num_draws, num_judge_draws, seed, sample_index
        As in `pgd`.

    Returns
    -------
    AttackResult
        Where nothing wrong was found within eps the clean image is returned, at distance 0 and without success. With
        P = num_restarts max(1, num_targets) runs of num_steps, and c = k - 1 other classes without targets,
        ``num_gradients`` = (P num_steps + 1) c num_draws, with targets (P num_steps + num_targets) num_draws; and
        ``num_queries`` that and (P num_steps + num_final_steps + 4) num_draws and 2 num_judge_draws (num_draws and
        num_judge_draws count 1 for a deterministic model).

    Raises
    ------
    InputError
        If images, labels or a setting are not as expected.

    Notes
    -----
    The first run starts from the clean image, restarts at random within half the distance of the nearest find so far,
    or of eps. Deviations from Croce and Hein's code: those starts are uniform in the ball, not on its surface; the
    final search begins with the clean image's move onto the last plane, and then (as in their paper) assumes a linear
    margin on the line to the nearest find, trying points a tenth beyond its zero.

    A stochastic model is wrong if it is by the mean logits of an evaluation's draws; see `cw`.

    References
    ----------
    .. [1] Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.
    """
    oracle = Oracle(
        model,
        x,
        y,
        mode=mode,
        num_draws=num_draws,
        num_judge_draws=num_judge_draws,
        seed=seed,
        sample_index=sample_index,
    )
    ops = model.ops
    ball = Ball(ops, x, eps=eps, norm=norm)
    check_number("alpha_max", alpha_max, minimum=0, maximum=1)
    check_number("overshoot", overshoot, minimum=1)
    check_number("backward", backward, minimum=0, maximum=1)
    check_count("num_steps", num_steps)
    check_count("num_targets", num_targets, minimum=0)
    check_count("num_final_steps", num_final_steps, minimum=0)
    check_count("num_restarts", num_restarts)

    if model.num_classes < 2:
        raise InputError(f"model: expected at least 2 classes, got {model.num_classes}")

    others = oracle.other_classes(x)
    columns = [others[:, rank] for rank in range(model.num_classes - 1)]
    runs = [[column] for column in columns[:num_targets]] or [columns]
    clean, _ = oracle.judge(x)
    zero = ops.zeros(oracle.y.shape, "float64")
    best = Verdict(x, clean.success, zero)
    plane_step = ops.plane_step_linf if norm == "linf" else ops.plane_step_l2

    for restart, start in enumerate(starts(oracle, ball, num_restarts=num_restarts, random_start=True)):
        for classes in runs:
            x_t = x
            if restart:
                nearest = ops.select(best.success, -best.loss, zero + ball.eps)
                x_t = ops.interpolate(x, start, nearest / (2 * max(ball.eps, SHORTEST)))
            for _ in range(num_steps):
                lead, slope = _nearest_plane(oracle, ball, x_t, classes)
                step, clean_step = (plane_step(point, x_t, slope, lead) for point in (x_t, x))
                length, clean_length = (ball.length(move) + SHORTEST for move in (step, clean_step))
                share = length / (length + clean_length)
                share = ops.select(share < alpha_max, share, zero + alpha_max)
                x_t = ops.fab_step(x_t, x, step, clean_step, share, overshoot=overshoot)
                verdict = oracle.query(x_t)
                best = stronger(ops, _find(ball, x_t, verdict), best)
                x_t = ops.interpolate(x_t, x, ops.select(verdict.success, zero + 1 - backward, zero))
    lead, slope = _nearest_plane(oracle, ball, best.x, [column for classes in runs for column in classes])
    clean_step = plane_step(x, best.x, slope, lead)
    x_t = ops.fab_step(x, x, clean_step, clean_step, zero, overshoot=PAST_PLANE)
    best = stronger(ops, _find(ball, x_t, oracle.query(x_t)), best)
    best = _final_search(oracle, ball, best, num_final_steps)
    judged, _ = oracle.judge(best.x)
    return oracle.result(judged, ball.distance(best.x))


def _nearest_plane(oracle: Oracle, ball: Ball, x_t: Array, classes: list[Array]) -> tuple[Array, Array]:
    """Lead of a class and its gradient, of the class whose lead is nearest to 0 if it is linear."""
    ops = oracle.ops

    def of_class(targets: Array) -> tuple[Array, Array, Array]:
        verdict, slope = oracle.gradient(x_t, loss="margin", targets=targets)
        return verdict.loss, slope, abs(verdict.loss) / (ball.dual_length(slope) + 1e-12)

    lead, slope, reach = of_class(classes[0])
    for targets in classes[1:]:
        new_lead, new_slope, new_reach = of_class(targets)
        nearer = new_reach < reach
        lead, slope = ops.select(nearer, new_lead, lead), ops.select(nearer, new_slope, slope)
        reach = ops.select(nearer, new_reach, reach)
    return lead, slope


def _find(ball: Ball, x_t: Array, verdict: Verdict) -> Verdict:
    """What counts in the search: whether it is wrong and near enough, and minus its distance."""
    distance = ball.distance(x_t)
    return Verdict(x_t, verdict.success & (distance <= ball.eps), -distance)


def _final_search(oracle: Oracle, ball: Ball, best: Verdict, num_steps: int) -> Verdict:
    """Nearer finds on the line from the clean image to the nearest one."""
    ops, x, far = oracle.ops, ball.centre, best.x
    lead_low, lead_high = (oracle.query(point, loss="margin").loss for point in (x, far))
    zero = ops.zeros(oracle.y.shape, "float64")
    low, high = zero, zero + 1
    for _ in range(num_steps):
        rise = lead_high - lead_low
        rising = rise > 0
        root = low - (high - low) * lead_low / ops.select(rising, rise, 0 * rise + 1)
        between = rising & (root > low) & (root < high)
        root = ops.select(between, root, (low + high) / 2)
        share = root + PAST_ROOT * (high - root)
        x_t = ops.interpolate(x, far, share)
        verdict = oracle.query(x_t, loss="margin")
        best = stronger(ops, _find(ball, x_t, verdict), best)
        low, lead_low = ops.select(verdict.success, low, share), ops.select(verdict.success, lead_low, verdict.loss)
        high, lead_high = ops.select(verdict.success, share, high), ops.select(verdict.success, verdict.loss, lead_high)
    return best
