"""Statistics of the outcomes of attacks, in two readings.

The unit is the `Cell`: one defence under one attack at one eps, with the outcome of every sample in every draw of the
defence. Draws are fresh: no attack saw them.

Paper
    Accuracy under each attack, in the first draw; the worst case is the smallest of these accuracies.
Honest
    The worst attack is chosen for each sample i, on which a random defence is right with probability p_i. Reported are

        mean_i p_i,    the share of samples right by a majority of K draws,    mean_i p_i^N,

    the last being what withstands an attacker who submits the same image N times.

`derive_results` turns cells into a JSON-able dictionary from which every figure of a report is taken. Arrays are host
arrays, used through their methods; the arithmetic is in `malade_ref.statistics`.

Axes: n samples, M draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from .arrays import Array
from .attacks.cards import KINDS, Profile, card_of
from .checks import InputError, check_shape
from .showing import shortly
from .statistics import (
    CONFIDENCE,
    clopper_pearson,
    common_rows,
    majority,
    mcnemar,
    mean_interval,
    paired_difference,
    smallest_p,
    survival,
    worst_case,
)

CLEAN = "clean"
NUM_VOTES = (1, 10, 128)
NUM_SUBMISSIONS = (1, 10, 100)


@shortly
class Cell(NamedTuple):
    """Outcomes of one defence under one attack at one eps.

    Attributes
    ----------
    defence : str
        Such as ``"cnn+malade"``: what stands before ``+`` is the bare classifier.
    attack : str
        Such as ``"pgd"``; ``"clean"`` for the images as they are.
    eps : float
        Size of the perturbation, 0 for clean images.
    meta : dict
        ``method``, ``norm``, ``settings`` (of the attack) and ``source``: ``"defence"``, ``"classifier"`` if the attack
        was made against a bare classifier in its place, or ``"another"``, against another defence.
    arrays : dict of str to array
        ``sample_index`` (n,), ``correct`` (n, M) bool; if known, ``success`` (n,) bool, ``distance``, ``num_queries``
        and ``num_gradients`` (n,).
    """

    defence: str
    attack: str
    eps: float
    meta: Mapping[str, Any]
    arrays: Mapping[str, Array]

    @property
    def name(self) -> str:
        """Name of the cell's outcomes."""
        return f"{self.defence}/{self.attack}/{self.eps:g}"

    @property
    def threat(self) -> str:
        """What the attack may do, such as ``"linf 0.3"``; cells of one threat can be compared."""
        if self.attack == CLEAN:
            return CLEAN
        return f"nearest {self.meta['norm']}" if self.nearest else threat(str(self.meta.get("norm", "")), self.eps)

    @property
    def nearest(self) -> bool:
        """Whether the attack looked for the nearest wrong image, however far; judged by distances, see `cut_cells`."""
        return self.meta.get("cuts") is not None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the attack."""
        settings = self.meta.get("settings", {})
        return settings if isinstance(settings, Mapping) else {}

    @property
    def method(self) -> str:
        """The attack's algorithm, such as ``"pgd"``."""
        return str(self.meta.get("method", self.attack))

    @property
    def transferred(self) -> bool:
        """Whether the attack was made against another model, ignoring the defence."""
        return bool(self.meta.get("source", "defence") != "defence")

    @property
    def profile(self) -> Profile:
        """What the attack is: as its `card` said when it ran or, if that was not recorded, says now."""
        card = self.meta.get("card")
        if self.attack == CLEAN:
            return Profile("clean images", "none", "", False, CLEAN)
        if card is None:
            return card_of(self.method).profile(self.settings)
        if not isinstance(card, Mapping) or card.keys() != set(Profile._fields) or card["kind"] not in KINDS:
            raise InputError(f"outcomes {self.name}: card: expected {', '.join(Profile._fields)}; run the attack again")
        return Profile(**card)

    @property
    def mode(self) -> str:
        """Which gradient of a random defence it took, see `Profile`."""
        return self.profile.gradient

    @property
    def kind(self) -> str:
        """What it is compared as: ``"clean"``, ``"transfer"`` if made against another model, or `Profile.kind`."""
        kind = self.profile.kind
        return "transfer" if self.transferred and kind != "noise" else kind

    @property
    def distance(self) -> Array:
        """How far the images were moved, (n,): 0 where an image was found only beyond eps, and so not submitted."""
        found = self.arrays["distance"]
        if self.nearest or not self.profile.nearest or "success" not in self.arrays:
            return found
        return found * (self.arrays["success"] | (found <= self.eps))

    @property
    def sample_index(self) -> Array:
        """Numbers of the samples, (n,)."""
        return self.arrays["sample_index"]

    @property
    def correct(self) -> Array:
        """Whether the defence is right, (n, M)."""
        return self.arrays["correct"]

    @property
    def p(self) -> Array:
        """Share of right draws of each sample, (n,)."""
        return self.correct.mean(axis=1)


@shortly
class Outcomes(NamedTuple):
    """Right and wrong answers, sample by sample.

    Attributes
    ----------
    sample_index : array of shape (n,), integer
        Numbers of the samples.
    correct : array of shape (n, M), bool
        Whether the defence is right.
    """

    sample_index: Array
    correct: Array


def threat(norm: str, eps: float) -> str:
    """Name what an attack may do, such as ``"linf 0.3"``.

    Parameters
    ----------
    norm, eps : str and float
        The ball.
    """
    return f"{norm} {eps:g}".strip()


def check_cells(cells: Sequence[Cell]) -> None:
    """Raise unless cells are complete and in themselves consistent.

    Parameters
    ----------
    cells : sequence of Cell
        From a bundle.
    """
    if not cells:
        raise InputError("outcomes: expected at least one cell (defence, attack, eps), got none")
    for name, count in Counter(cell.name for cell in cells).items():
        if count > 1:
            raise InputError(f"outcomes {name}: there {count} times; names of attacks must differ")
    for cell in cells:
        where = f"outcomes {cell.name}"
        for required in ("sample_index", "correct"):
            if required not in cell.arrays:
                raise InputError(f"{where}: has no array {required!r}; compute it again")
        count = len(cell.sample_index)
        if cell.correct.ndim != 2 or 0 in cell.correct.shape or len(set(cell.sample_index.tolist())) != count:
            raise InputError(f"{where}: expected correct (n, M) of n >= 1 different samples, got {cell.correct.shape}")
        for key, array in cell.arrays.items():
            check_shape(f"{where}: {key}", array, (count, *array.shape[1:]))


def cut_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Outcomes of attacks that look for the nearest wrong image, under limits on the distance.

    Up to the limit the attack's image is submitted, beyond it the clean one; the outcomes stored of both are used.

    Parameters
    ----------
    cells : sequence of Cell
        Those of which ``meta["cuts"]`` lists distances are used, and the clean images. ``meta["cut_norm"]`` is the
        norm of these distances: ``"l2"``, or the attack's own.

    Returns
    -------
    list of Cell
        One for each distance, in its norm. ``success`` is that of the find or, beyond the distance, false,
        unless no draw was right about the clean image.
    """
    clean = {cell.defence: cell for cell in cells if cell.attack == CLEAN}
    found = []
    for cell in cells:
        if not cell.nearest:
            continue
        if cell.defence not in clean or "distance_l2" not in cell.arrays:
            raise InputError(f"outcomes {cell.name}: need distance_l2 and the clean images; run the experiment again")
        own, other = common_rows([cell.sample_index, clean[cell.defence].sample_index])
        arrays = {name: array[own] for name, array in cell.arrays.items() if name != "distance_l2"}
        without = clean[cell.defence].correct[other]
        norm = str(cell.meta.get("cut_norm", "l2"))
        distances = cell.arrays["distance_l2" if norm == "l2" else "distance"][own]
        for cut in cell.meta["cuts"]:
            within = distances <= cut
            correct = without.copy()
            correct[within] = arrays["correct"][within]
            wrong = ~without.any(axis=1)
            if "success" in arrays:
                wrong[within] = arrays["success"][within]
            distance = distances * within
            meta = {**{key: value for key, value in cell.meta.items() if key != "cuts"}, "eps": cut, "norm": norm}
            changed = {**arrays, "correct": correct, "success": wrong, "distance": distance}
            found.append(Cell(cell.defence, cell.attack, float(cut), meta, changed))
    return found


def join(cells: Iterable[Cell]) -> tuple[Array, list[Array]]:
    """Outcomes of the samples that all cells have in common.

    Parameters
    ----------
    cells : iterable of Cell
        Of one or several defences.

    Returns
    -------
    sample_index : array of shape (n,), integer
        The samples.
    correct : list of arrays of shape (n, M_j), bool
        Outcomes in each cell.
    """
    cells = list(cells)
    rows = common_rows([cell.sample_index for cell in cells])
    if len(rows[0]) == 0:
        raise InputError(f"outcomes {', '.join(cell.name for cell in cells)}: have no sample in common")
    return cells[0].sample_index[rows[0]], [cell.correct[row] for cell, row in zip(cells, rows, strict=True)]


def worst_outcomes(cells: Iterable[Cell]) -> Outcomes:
    """Outcomes under the attack that is worst for each sample, over the samples that all attacks were given.

    Parameters
    ----------
    cells : iterable of Cell
        Of one defence and one threat; the clean images may be among them, as the perturbation 0.

    Returns
    -------
    Outcomes
        See `malade_ref.statistics.worst_case`.
    """
    sample_index, correct = join(cells)
    return Outcomes(sample_index, worst_case(correct))


def summary(correct: Array) -> dict[str, Any]:
    """Both readings of one set of outcomes.

    Parameters
    ----------
    correct : array of shape (n, M), bool
        Whether the defence is right.

    Returns
    -------
    dict
        ``first_draw`` (Wilson) and ``clopper_pearson``, ``mean`` of p_i, ``vote`` by K and ``survival`` by N as far as
        there are draws: each ``{"value", "low", "high"}``; and ``n``, ``draws``, ``count`` (right in the first draw).
    """
    num_samples, num_draws = correct.shape
    first, counts = correct[:, 0], correct.sum(axis=1)
    count = int(first.sum())
    votes = [k for k in NUM_VOTES if k <= num_draws]
    submissions = [k for k in NUM_SUBMISSIONS if k <= num_draws]
    return {
        "n": num_samples,
        "draws": num_draws,
        "count": count,
        "first_draw": mean_interval(first)._asdict(),
        "clopper_pearson": clopper_pearson(count, num_samples)._asdict(),
        "mean": mean_interval(counts / num_draws, num_draws=num_draws)._asdict(),
        "vote": {str(k): mean_interval(majority(counts, num_draws, k))._asdict() for k in votes},
        "survival": {str(k): mean_interval(survival(counts, num_draws, k))._asdict() for k in submissions},
    }


def derive_results(cells: Sequence[Cell], config: Mapping[str, Any]) -> dict[str, Any]:
    """Every statistic of a set of outcomes.

    Parameters
    ----------
    cells : sequence of Cell
        All outcomes of an experiment.
    config : mapping
        The experiment. ``config["report"]``, with ``norm`` and ``eps``, names the threat that tables and verdict are
        about; by default the one with the most cells, and of these the largest.

    Returns
    -------
    dict
        JSON-able and independent of the order of the cells: ``main`` (threat), ``cells`` by name, ``defences`` (clean,
        and by threat the worst cases and the attacks on the samples that all had) and ``comparisons`` of defences on
        the same samples.
    """
    check_cells(cells)
    cells = sorted([*cells, *cut_cells(cells)], key=lambda cell: cell.name)
    check_cells(cells)
    main = _main_threat(cells, config)
    defences = sorted({cell.defence for cell in cells})
    return {
        "confidence": CONFIDENCE,
        "main": main,
        "cells": {cell.name: _of_cell(cell) for cell in cells},
        "defences": {defence: _of_defence(defence, cells) for defence in defences},
        "comparisons": _comparisons(defences, cells, main["threat"]),
    }


def of_threat(cells: Iterable[Cell], defence: str, name: str) -> list[Cell]:
    """The cells of one defence and one threat.

    Parameters
    ----------
    cells : iterable of Cell
        To choose from.
    defence, name : str
        The defence, and a `Cell.threat`.
    """
    return [cell for cell in cells if cell.defence == defence and cell.threat == name]


def _main_threat(cells: Sequence[Cell], config: Mapping[str, Any]) -> dict[str, Any]:
    attacks = [cell for cell in cells if cell.attack != CLEAN and not cell.nearest]
    counts = Counter((str(cell.meta.get("norm", "")), cell.eps) for cell in attacks)
    wanted = config.get("report") or {}
    for key, position in (("norm", 0), ("eps", 1)):
        if key in wanted:
            counts = Counter({pair: count for pair, count in counts.items() if pair[position] == wanted[key]})
    if not counts:
        return {"norm": "", "eps": 0.0, "threat": CLEAN}
    norm, eps = max(counts, key=lambda pair: (counts[pair], pair[1], pair[0]))
    return {"norm": norm, "eps": eps, "threat": threat(norm, eps)}


def _of_cell(cell: Cell) -> dict[str, Any]:
    found = {
        "defence": cell.defence,
        "attack": cell.attack,
        "eps": cell.eps,
        "threat": cell.threat,
        "method": cell.method,
        "kind": cell.kind,
        "eot_draws": int(cell.settings.get("num_draws", 1)),
        **summary(cell.correct),
    }
    if "success" in cell.arrays:
        found["success"] = float(cell.arrays["success"].mean())
    for key in ("num_queries", "num_gradients"):
        if key in cell.arrays:
            found[key] = float(cell.arrays[key].mean())
    if "distance" in cell.arrays:
        found["distance"] = float(cell.distance.mean())
        found["largest_distance"] = float(cell.distance.max())
    if cell.nearest and {"success", "distance_l2"} <= cell.arrays.keys():
        found["nearest"] = {
            norm: _median(cell.arrays[key], cell.arrays["success"])
            for norm, key in ((str(cell.meta["norm"]), "distance"), ("l2", "distance_l2"))
        }
    return found


def _median(distances: Array, found: Array) -> float | None:
    """Median distance, images without a find counting as infinitely far; None if that is where it lies."""
    ordered = sorted(d if ok else float("inf") for d, ok in zip(distances.tolist(), found.tolist(), strict=True))
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return None if middle == float("inf") else middle


def _of_defence(defence: str, cells: Sequence[Cell]) -> dict[str, Any]:
    own = [cell for cell in cells if cell.defence == defence]
    threats = sorted({cell.threat for cell in own if not cell.nearest} - {CLEAN})
    return {
        "base": defence.partition("+")[0] if "+" in defence else None,
        "stochastic": any(cell.correct.shape[1] > 1 for cell in own),
        "clean": next((cell.name for cell in own if cell.attack == CLEAN), None),
        "worst": {name: _worst(own, name) for name in threats},
    }


def _worst(own: Sequence[Cell], name: str) -> dict[str, Any]:
    """Both worst cases of one defence and one threat."""
    attacks = [cell for cell in own if cell.threat == name]
    clean = [cell for cell in own if cell.attack == CLEAN]
    first_draws = {cell.attack: cell.correct[:, 0] for cell in attacks}
    by_first_draw = min(first_draws, key=lambda attack: (float(first_draws[attack].mean()), attack))
    _, correct = join(attacks + clean)
    means = {cell.attack: summary(outcomes)["mean"] for cell, outcomes in zip(attacks, correct, strict=False)}
    return {
        "paper": {
            "attack": by_first_draw,
            "n": len(first_draws[by_first_draw]),
            **mean_interval(first_draws[by_first_draw])._asdict(),
        },
        "honest": summary(worst_case(correct)),
        # Each attack on the samples that all had.
        "attacks": means,
        "strongest": min(means, key=lambda attack: (means[attack]["value"], attack)),
        "smallest_mean": float(smallest_p(correct).mean()),
    }


def _comparisons(defences: Sequence[str], cells: Sequence[Cell], main: str) -> list[dict[str, Any]]:
    """Every two defences on the samples they have in common: clean, and under each one's worst attack."""
    found = []
    for on in (CLEAN, main) if main != CLEAN else (CLEAN,):
        outcomes = {}
        for defence in defences:
            chosen = of_threat(cells, defence, on)
            if chosen:
                clean = of_threat(cells, defence, CLEAN) if on != CLEAN else []
                outcomes[defence] = worst_outcomes(chosen + clean)
        for first, second in combinations(outcomes, 2):
            row = _compared(outcomes[first], outcomes[second])
            if row is not None:
                found.append({"on": on, "first": first, "second": second, **row})
    return found


def _compared(first: Outcomes, second: Outcomes) -> dict[str, Any] | None:
    rows_first, rows_second = common_rows([first.sample_index, second.sample_index])
    if len(rows_first) == 0:
        return None
    one, other = first.correct[rows_first], second.correct[rows_second]
    return {
        "n": len(rows_first),
        "means": [summary(outcomes)["mean"] for outcomes in (one, other)],
        "difference": paired_difference(one.mean(axis=1), other.mean(axis=1))._asdict(),
        "mcnemar": mcnemar(one[:, 0], other[:, 0])._asdict(),
    }
