"""What is suspicious about a result: checks that a sound evaluation passes and gradient masking does not.

A defence that only hides its gradient looks robust under the attacks that it confuses. It betrays itself: attacks get
weaker where they must get stronger, or the gradient is not one. Each check gives a `Finding` with the numbers; what
failed is a warning, what there were no data for is "not run".

Two accuracies are compared on the samples they have in common, and a rise counts when the interval of the mean paired
difference, at `RISE_CONFIDENCE`, lies above zero.

`gradient_check` and `eot_check` look into a model, and so do `malade_ref.binarisation.binarisation_check` and
`malade_ref.convergence.convergence_check`; `audit` judges what they found, and the outcomes of the attacks.

References
----------
.. [1] Carlini et al., "On evaluating adversarial robustness", 2019.
.. [2] Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from . import binarisation, convergence
from .arrays import Array
from .checks import InputError, check_model, check_number, check_work
from .defence import MALADE
from .draws import sums
from .evaluation import CLEAN, Cell, cut_cells, join, summary, worst_outcomes
from .sampling import Stream
from .statistics import paired_difference

OK, WARNING, NOT_RUN = "ok", "warning", "not run"

RISE_CONFIDENCE = 0.997

# Kinds of attacks, see `Cell.kind`.
ITERATIVE = ("exact", "bpda")
WHITE_BOX = (*ITERATIVE, "one-step")

# With this eps (in Linf) every image can be made grey, and nothing can be right about more than one class.
GREY_EPS = 0.5
GREY_ACCURACY = 0.05

# Rounding leaves 1e-8 and kinks, of rectifiers and of the clipping, up to 1e-5.
GRADIENT_ERROR = 1e-4
ZERO_SHARE = 0.1
JITTER = 0.05

# Two estimates of one gradient with a cosine of 1/2: half of the square of each is noise.
SUFFICIENT_COSINE = 0.5
GOOD_COSINE = 0.9

# Rounding of float32 pixels.
BALL_SLACK = 1e-6


class Finding(NamedTuple):
    """The outcome of one check.

    Attributes
    ----------
    name : str
        What was checked.
    status : str
        ``"ok"``, ``"warning"`` or ``"not run"``.
    message : str
        The numbers, or what is missing.
    """

    name: str
    status: str
    message: str


class GradientCheck(NamedTuple):
    """A model's gradient next to finite differences of its loss.

    Attributes
    ----------
    relative_error : float
        Root mean square, over samples, of the error of a directional derivative, relative to that of the derivative.
    zero_share : float
        Share of the samples whose gradient is zero in the model's own precision.
    num_samples : int
        Samples looked at.
    """

    relative_error: float
    zero_share: float
    num_samples: int


class EotCheck(NamedTuple):
    """How well gradients averaged over draws agree with each other.

    Attributes
    ----------
    num_draws : list of int
        Draws k that a gradient is the mean of.
    cosine : list of float
        For each k, mean over samples of the cosine between two independent such gradients.
    num_samples : int
        Samples looked at.
    """

    num_draws: list[int]
    cosine: list[float]
    num_samples: int


class Comparison(NamedTuple):
    """An attack that must not be weaker than another, and how it did.

    Attributes
    ----------
    label : str
        Whose accuracies.
    stronger, weaker : float
        Accuracy under the attack that should be stronger, and under the other.
    rise : float
        Mean difference on common samples: stronger less weaker.
    failed : bool
        Whether the rise is beyond chance.
    """

    label: str
    stronger: float
    weaker: float
    rise: float
    failed: bool

    def __str__(self) -> str:
        """Return both accuracies."""
        return f"{self.label}: {_percent(self.stronger)} against {_percent(self.weaker)}"


# Looking into a model ------------------------------------------------------------------------------------------------


def gradient_check(
    model: Any, x: Array, y: Array, *, step: float = 1e-6, seed: int = 0, sample_index: Array | None = None
) -> GradientCheck:
    """Compare the gradient of a model's loss with finite differences, in float64.

    One random direction d for each sample: (loss(x + step d) - loss(x - step d)) / (2 step) should be gradient . d, at
    images with a little noise. The best of three steps counts for a sample: where a large one meets a kink, a small one
    rarely does. A random model keeps its own noise: the gradient is that of one draw of it.

    Parameters
    ----------
    model : Network or MALADE
        Or anything with ``loss_and_gradient``, ``dtype``, ``ops`` and ``astype``.
    x : array of shape (n, c, h, w)
        Images, pixels in [0, 1].
    y : array of shape (n,), integer
        Labels.
    step : float
        Largest length of the step, in pixel units a pixel.
    seed : int
        Of the directions.
    sample_index : array of shape (n,), integer, optional
        Numbers of the samples in their data set; 0..n-1 by default.

    Returns
    -------
    GradientCheck
        The error is 1 if only one of the two is zero.
    """
    if len(x) == 0:
        raise InputError("x: expected at least one image, got none")
    check_number("step", step, above=0)
    check_model("model", model)
    ops = model.ops
    index = ops.arange(len(x)) if sample_index is None else sample_index
    own = model.loss_and_gradient(x, y, mode="exact", sample_index=index).gradient
    zero_share = float((_dot(own, own) == 0).sum()) / len(x)

    def normal(number: int) -> Array:
        key = ops.derive_key(seed, "audit-gradient", number)
        return ops.normal(x.shape[1:], key=key, sample_index=index, dtype="float64")

    exact, direction = _in_float64(model), normal(0)
    # Black pixels put rectifiers without bias exactly at their kinks, where there is no derivative to compare.
    x = x.astype("float64") + JITTER * normal(1)

    def evaluate(shift: float) -> Any:
        return exact.loss_and_gradient(x + shift * direction, y, mode="exact", sample_index=index)

    predicted = _dot(evaluate(0.0).gradient, direction)
    error, size = 0.0, 0.0
    steps = (step, step / 10, step / 100)
    slopes = [((evaluate(h).loss - evaluate(-h).loss) / (2 * h)).tolist() for h in steps]
    for own_slope, *measured in zip(predicted.tolist(), *slopes, strict=True):
        slope = min(measured, key=lambda value: abs(value - own_slope))
        error += (slope - own_slope) ** 2
        size += max(slope**2, own_slope**2)
    return GradientCheck((error / size) ** 0.5 if size > 0 else 0.0, zero_share, len(x))


def eot_check(
    model: Any,
    x: Array,
    y: Array,
    *,
    num_draws: Sequence[int] = (1, 10, 100),
    mode: str = "exact",
    seed: int = 0,
    sample_index: Array | None = None,
) -> EotCheck:
    """Measure how noisy gradients averaged over draws are.

    Parameters
    ----------
    num_draws : sequence of int
        Numbers of draws to look at; twice the largest are made.
    mode : {"exact", "bpda", "bpda-denoiser"}
        Which gradient.

    Returns
    -------
    EotCheck
        A cosine is 1 without noise, about 1 / (1 + noise / (k signal)) with it, and 0 where a gradient is zero.

    Notes
    -----
    The others are those of `gradient_check`.
    """
    wanted = sorted(set(num_draws))
    if len(x) == 0 or not wanted or wanted[0] < 1:
        raise InputError("eot_check: expected at least one image and numbers of draws >= 1")
    check_work("num_draws", wanted[-1])
    check_model("model", model)
    stream = Stream(seed, "audit-eot")

    def gradient(draw: int) -> Array:
        settings = {"num_draws": 1, "first_draw": draw, "sample_index": sample_index, "stream": stream}
        return model.loss_and_gradient(x, y, mode=mode, **settings).gradient.astype("float64")

    largest, cosines = wanted[-1], []
    halves = zip(sums(map(gradient, range(largest))), sums(map(gradient, range(largest, 2 * largest))), strict=True)
    for count, (one, other) in enumerate(halves, start=1):
        if count in wanted:
            lengths = (_dot(one, one) * _dot(other, other)) ** 0.5
            cosines.append(float((_dot(one, other) / (lengths + 1e-300)).mean()))
    return EotCheck(wanted, cosines, len(x))


def _in_float64(model: Any) -> Any:
    if not isinstance(model, MALADE):
        return model.astype("float64")
    classifier, denoiser = model.classifier.astype("float64"), model.denoiser.astype("float64")
    return MALADE(classifier, denoiser, **model.chain._asdict(), seed=model.stream.seed)


def _dot(a: Array, b: Array) -> Array:
    """Scalar product of each sample, in float64: squares of small float32 gradients are too small for float32."""
    return (a.astype("float64") * b.astype("float64")).reshape(len(a), -1).sum(axis=1)


# Judging outcomes ----------------------------------------------------------------------------------------------------


def audit(cells: Sequence[Cell], checks: Mapping[str, Any] | None = None) -> list[Finding]:
    """Run every check.

    Parameters
    ----------
    cells : sequence of Cell
        All outcomes of an experiment.
    checks : mapping, optional
        What was found by looking into the models: ``{"gradient": {defence: GradientCheck as a dict}, "eot": {defence:
        {mode: EotCheck as a dict}}}``, and perhaps ``{"binarisation": {defence: Binarisation as a dict},
        "convergence": {name: Convergence as a dict}}``; then the attacks' own ladders of steps are judged, too.

    Returns
    -------
    list of Finding
        Always the same checks, in the same order; those of the binarisation test and of convergence come last, if their
        key is there.
    """
    checks = checks or {}
    # Those that look for the nearest wrong image are compared where their finds are cut off.
    cells = [cell for cell in [*cells, *cut_cells(cells)] if not cell.nearest]
    cells = sorted(cells, key=lambda cell: cell.name)
    return [
        _large_eps(cells),
        _finding("stronger with eps", _along_eps(cells), "needs an attack at two sizes of eps"),
        _finding("stronger with steps", _along(cells, "num_steps"), "needs an attack with two numbers of steps"),
        _finding("stronger with EOT draws", _along(cells, "num_draws"), "needs an attack with two numbers of draws"),
        _finding(
            "exact gradient no weaker than BPDA",
            _strongest(cells, ("exact",), ("bpda",)),
            "needs both attacks on one defence",
        ),
        _finding(
            "white box no weaker than transfer",
            _strongest(cells, WHITE_BOX, ("transfer",)),
            "needs an attack carried over from the bare classifier",
        ),
        _finding(
            "white box no weaker than black box",
            _strongest(cells, WHITE_BOX, ("black-box",)),
            "needs an attack without gradients, of the same norm and size",
        ),
        _finding(
            "iterative no weaker than one-step",
            _strongest([cell for cell in cells if cell.mode == "exact"], ("exact",), ("one-step",))
            + _strongest([cell for cell in cells if cell.mode != "exact"], ("bpda",), ("one-step",)),
            "needs a one-step and an iterative attack",
        ),
        _finding(
            "attacks stronger than random noise",
            _strongest(cells, WHITE_BOX, ("noise",)),
            "needs random noise of the same size among the attacks",
        ),
        _gradients(checks.get("gradient", {})),
        _eot(cells, checks.get("eot", {})),
        _ball(cells),
        _counts_agree(cells),
        _compute(cells),
        *([_binarised(checks["binarisation"])] if "binarisation" in checks else []),
        *([_converged(cells, checks["convergence"])] if "convergence" in checks else []),
    ]


def _finding(name: str, comparisons: Iterable[Comparison], missing: str) -> Finding:
    """One finding for all comparisons of a kind."""
    comparisons = list(comparisons)
    if not comparisons:
        return Finding(name, NOT_RUN, missing)
    failed = [comparison for comparison in comparisons if comparison.failed]
    if failed:
        return Finding(name, WARNING, "; ".join(map(str, failed)))
    largest = max(comparison.rise for comparison in comparisons)
    rise = "accuracy never rises" if largest <= 0 else f"largest rise {100 * largest:.1f} points, within chance"
    shown = "; ".join(map(str, comparisons)) if len(comparisons) <= 3 else _plural(len(comparisons), "comparison")
    return Finding(name, OK, f"{shown}; {rise}")


def _compare(stronger: Cell, weaker: Cell, label: str) -> list[Comparison]:
    """The comparison of two cells; none if they have no sample in common."""
    try:
        _, (one, other) = join([stronger, weaker])
    except InputError:
        return []
    p_one, p_other = one.mean(axis=1), other.mean(axis=1)
    rise = paired_difference(p_one, p_other, confidence=RISE_CONFIDENCE)
    return [Comparison(label, float(p_one.mean()), float(p_other.mean()), rise.value, rise.low > 0)]


def _strongest(cells: Iterable[Cell], stronger: Collection[str], weaker: Collection[str]) -> list[Comparison]:
    """The strongest attack of some kinds against the strongest of others, for each defence and threat."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.defence, cell.threat].append(cell)
    found = []
    for (defence, threat), group in groups.items():
        sides = [[cell for cell in group if cell.kind in kinds] for kinds in (stronger, weaker)]
        if all(sides):
            one, other = (min(side, key=lambda cell: (float(cell.p.mean()), cell.attack)) for side in sides)
            found += _compare(one, other, f"{defence}, {threat}, {one.attack} and {other.attack}")
    return found


def _along_eps(cells: Iterable[Cell]) -> list[Comparison]:
    """Every attack at each eps against the next smaller one; the smallest against the clean images."""
    clean = {cell.defence: cell for cell in cells if cell.attack == CLEAN}
    groups: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.attack != CLEAN:
            groups[cell.defence, cell.attack, str(cell.meta.get("norm", ""))].append(cell)
    found = []
    for (defence, attack, _), group in groups.items():
        ladder = sorted([*group, *([clean[defence]] if defence in clean else [])], key=lambda cell: cell.eps)
        for smaller, larger in pairwise(ladder):
            found += _compare(larger, smaller, f"{defence}, {attack}, eps {larger.eps:g} and {smaller.eps:g}")
    return found


def _along(cells: Iterable[Cell], key: str) -> list[Comparison]:
    """Attacks that differ in nothing but one setting: the larger against the next smaller."""
    found = []
    for ladder in convergence.ladders(cells, key):
        for fewer, more in pairwise(ladder):
            if more.settings[key] > fewer.settings[key]:
                numbers = f"{more.settings[key]} and {fewer.settings[key]} {key.removeprefix('num_')}"
                found += _compare(more, fewer, f"{more.defence}, {more.threat}, {more.method}, {numbers}")
    return found


def _large_eps(cells: Sequence[Cell]) -> Finding:
    name = "large eps breaks everything"
    attacks = [cell for cell in cells if cell.attack != CLEAN and cell.meta.get("norm") == "linf"]
    large = [cell for cell in attacks if cell.eps >= GREY_EPS]
    if not large:
        largest = max((cell.eps for cell in attacks), default=0.0)
        return Finding(name, NOT_RUN, f"needs Linf eps >= {GREY_EPS:g}, the largest is {largest:g}")
    found, failed = [], False
    for defence in dict.fromkeys(cell.defence for cell in large):
        eps = max(cell.eps for cell in large if cell.defence == defence)
        chosen = [cell for cell in large if cell.defence == defence and cell.eps == eps]
        accuracy = summary(worst_outcomes(chosen).correct)["mean"]
        found.append(f"{defence} {_percent(accuracy['value'])} at eps {eps:g}")
        failed |= accuracy["low"] > GREY_ACCURACY
    missing = sorted({cell.defence for cell in attacks} - {cell.defence for cell in large})
    found += [f"{defence} not attacked there" for defence in missing]
    expected = f"; expected at most {_percent(GREY_ACCURACY)}" if failed else ""
    return Finding(name, WARNING if failed else OK, "; ".join(found) + expected)


def _gradients(checks: Mapping[str, Mapping[str, Any]]) -> Finding:
    name = "gradient equals finite differences"
    if not checks:
        return Finding(name, NOT_RUN, "no gradient was compared")
    failed = []
    for defence, check in sorted(checks.items()):
        if check["relative_error"] > GRADIENT_ERROR:
            failed.append(
                f"{defence}: relative error {check['relative_error']:.1e}, expected at most {GRADIENT_ERROR:g}"
            )
        if check["zero_share"] > ZERO_SHARE:
            failed.append(f"{defence}: zero on {_percent(check['zero_share'])} of {check['num_samples']} images")
    if failed:
        return Finding(name, WARNING, "; ".join(failed))
    largest = max(check["relative_error"] for check in checks.values())
    return Finding(name, OK, f"{_plural(len(checks), 'defence')}, largest relative error {largest:.1e}")


def _eot(cells: Sequence[Cell], checks: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Finding:
    """Judge the gradient with as many draws as the attacks used, or the next smaller number that was measured."""
    name = "EOT gradient has enough draws"
    found, failed = [], False
    for defence, modes in sorted(checks.items()):
        for mode, check in sorted(modes.items()):
            draws = [
                int(cell.settings.get("num_draws", 1))
                for cell in cells
                if cell.defence == defence and cell.kind in ITERATIVE and cell.mode == mode
            ]
            measured = [k for k in check["num_draws"] if not draws or k <= max(draws)]
            if not measured:
                continue
            cosine = check["cosine"][check["num_draws"].index(measured[-1])]
            verdict = "sufficient" if cosine >= SUFFICIENT_COSINE else "insufficient"
            failed |= verdict == "insufficient"
            needed = _draws_for(check["num_draws"][-1], check["cosine"][-1])
            found.append(
                f"{defence}, {mode}: cosine {cosine:.2f} between gradients of {_plural(measured[-1], 'draw')}, "
                f"{verdict} ({needed} for {GOOD_COSINE:g})"
            )
    if not found:
        return Finding(name, NOT_RUN, "the noise of no gradient was measured")
    return Finding(name, WARNING if failed else OK, "; ".join(found))


def _draws_for(num_draws: int, cosine: float) -> str:
    """How many draws give a good cosine, if k of them give this one: cosine = 1 / (1 + c / k)."""
    if cosine <= 0:
        return "no number of draws can be named"
    needed = num_draws * (1 / min(cosine, 1.0) - 1) / (1 / GOOD_COSINE - 1)
    return f"about {max(1, round(needed))} needed"


def _ball(cells: Sequence[Cell]) -> Finding:
    name = "attacks stay in their ball"
    measured = [cell for cell in cells if cell.attack != CLEAN and "distance" in cell.arrays]
    if not measured:
        return Finding(name, NOT_RUN, "no distances were stored")
    largest = {cell.name: float(cell.distance.max()) for cell in measured}
    outside = [cell for cell in measured if largest[cell.name] > cell.eps + BALL_SLACK]
    if outside:
        return Finding(name, WARNING, "; ".join(f"{cell.name}: distance {largest[cell.name]:.6g}" for cell in outside))
    return Finding(name, OK, f"{_plural(len(measured), 'attack')}, no distance above its eps")


def _counts_agree(cells: Sequence[Cell]) -> Finding:
    """A deterministic model gives attacker and defender the same answer; a transferred attack had another model."""
    name = "attacker and defender count alike"
    shared = [
        cell
        for cell in cells
        if "success" in cell.arrays and cell.correct.shape[1] == 1 and "+" not in cell.defence and not cell.transferred
    ]
    if not shared:
        return Finding(name, NOT_RUN, "needs a deterministic defence")
    differing = {cell.name: int((cell.arrays["success"] == cell.correct[:, 0]).sum()) for cell in shared}
    wrong = [f"{name}: {_plural(count, 'image')}" for name, count in differing.items() if count]
    if wrong:
        return Finding(name, WARNING, "they differ on " + "; ".join(wrong))
    return Finding(name, OK, f"on all images of {_plural(len(shared), 'attack')}")


def _compute(cells: Sequence[Cell]) -> Finding:
    """The exact gradient is to be judged with at least about the gradients that BPDA had."""
    name = "compute is comparable"
    ratios, failed = [], []
    groups: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell.kind in ITERATIVE and "num_gradients" in cell.arrays:
            mean = float(cell.arrays["num_gradients"].mean())
            groups[cell.defence, cell.threat][cell.kind].append(mean)
    for (defence, threat), gradients in groups.items():
        if len(gradients) > 1:
            exact, bpda = max(gradients["exact"]), max(gradients["bpda"])
            ratios.append(exact / max(1.0, bpda))
            if exact < bpda / 2:
                failed.append(f"{defence}, {threat}: {exact:.0f} exact and {bpda:.0f} BPDA gradients an image")
    if not ratios:
        return Finding(name, NOT_RUN, "needs counts of gradients, exact and BPDA, on one defence")
    if failed:
        return Finding(name, WARNING, "; ".join(failed))
    return Finding(name, OK, f"exact attacks had at least {min(ratios):.2g} times the gradients of BPDA")


def _binarised(checks: Mapping[str, Mapping[str, Any]]) -> Finding:
    found = {defence: binarisation.Binarisation(**check) for defence, check in sorted(checks.items())}
    message = "; ".join(f"{defence}: {check}" for defence, check in found.items())
    failed = any(not check.sound for check in found.values())
    return Finding("attack finds what is known to exist", WARNING if failed else OK, message)


def _converged(cells: Sequence[Cell], checks: Mapping[str, Mapping[str, Any]]) -> Finding:
    name = "attacks have converged"
    found = {name: convergence.Convergence(**check) for name, check in sorted(checks.items())}
    found |= convergence.of_cells([cell for cell in cells if not cell.transferred and cell.kind in ITERATIVE])
    if not found:
        return Finding(name, NOT_RUN, "needs an attack with two numbers of steps")
    failed = {label: one for label, one in found.items() if not one.converged}
    shown = failed or found
    message = "; ".join(f"{label}: {one}" for label, one in shown.items())
    return Finding(name, WARNING if failed else OK, message)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
