"""What a claim is, and how its verdict follows from the numbers.

A claim is a sentence that numbers can contradict. Each of its measures has an estimate with an interval, and a range in
which it would have to lie if the sentence were true, chosen before the measurement. A measure

    holds            if the whole interval lies within the range,
    fails            if the whole interval lies outside,
    is not decided   otherwise: more data are needed,

which for an interval of confidence 1 - 2q is a test of equivalence at level q (Schuirmann): neither verdict is reached
for want of data. A claim holds if all of its measures do, and fails if one fails. A negative control is a claim like
any other: its ranges say how it has to go wrong.

References
----------
.. [1] Schuirmann, "A comparison of the two one-sided tests procedure and the power approach for assessing the
   equivalence of average bioavailability", J. Pharmacokinetics and Biopharmaceutics 15, 1987.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from malade_ref import ops as reference_ops
from malade_ref.checks import InputError
from malade_ref.statistics import Estimate
from malade_ref.storage import Record

Verdict = Literal["holds", "fails", "not decided"]
Progress = Callable[[float, str], None]
Scale = Literal["full", "quick", "tiny"]


@dataclass(frozen=True)
class Settings:
    """How large the laboratory is, and its randomness.

    Attributes
    ----------
    scale : str
        ``"full"``, ``"quick"``, or ``"tiny"`` for tests, whose intervals decide little.
    seed : int
        Of everything random.
    ops : module
        The backend: chains, mixtures and networks compute with it.
    """

    scale: Scale = "full"
    seed: int = 0
    ops: ModuleType = reference_ops

    def pick(self, *, full: Any, quick: Any, tiny: Any) -> Any:
        """Choose by scale.

        Parameters
        ----------
        full, quick, tiny : object
            The choices.

        Returns
        -------
        object
            One of them.
        """
        return {"full": full, "quick": quick, "tiny": tiny}[self.scale]

    def rng(self, *names: str | int) -> np.random.Generator:
        """A generator of its own for every purpose, so that no result depends on what was drawn before.

        Parameters
        ----------
        *names : str or int
            The purpose.

        Returns
        -------
        numpy.random.Generator
            The same for the same seed and names.
        """
        key = reference_ops.derive_key(self.seed, "theorem/" + "/".join(map(str, names)))
        return np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))


@dataclass(frozen=True)
class Measure:
    """One number of a claim, and where it would have to be.

    Attributes
    ----------
    label : str
        What was measured.
    estimate : Estimate
        Value and interval, finite; without width where nothing is random (see `exact`).
    low, high : float
        The range, ends included; infinite where there is no limit.
    note : str
        How much the number rests on, such as ``"20 seeds"``.
    """

    label: str
    estimate: Estimate
    low: float = -math.inf
    high: float = math.inf
    note: str = ""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.estimate)):
            raise InputError(f"measure {self.label}: expected finite numbers, got {tuple(self.estimate)}")

    @property
    def verdict(self) -> Verdict:
        """Whether the interval lies within the range."""
        if self.low <= self.estimate.low and self.estimate.high <= self.high:
            return "holds"
        return "fails" if self.estimate.high < self.low or self.estimate.low > self.high else "not decided"


def exact(value: float) -> Estimate:
    """A number that nothing random stands behind, or whose range already allows for its error.

    Parameters
    ----------
    value : float
        The number.

    Returns
    -------
    Estimate
        With an interval of no width.
    """
    return Estimate(float(value), float(value), float(value))


@dataclass(frozen=True)
class Claim:
    """A sentence, and the numbers for or against it.

    Attributes
    ----------
    name : str
        Unique, of lower-case letters, digits and dashes, such as ``"dae-identity"``.
    part : int
        Of the laboratory, 1 to 8.
    title : str
        A few words.
    statement : str
        The sentence.
    method : str
        How it was measured, in a sentence or two.
    measures : sequence of Measure
        The numbers that decide; at least one.
    remarks : sequence of str
        What else a reader should know; numbers that decide nothing.
    arrays : mapping of str to ndarray
        What figures and tables are drawn from.
    control : bool
        Whether it is a negative control, which holds if something goes wrong as it should.
    """

    name: str
    part: int
    title: str
    statement: str
    method: str
    measures: Sequence[Measure]
    remarks: Sequence[str] = ()
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    control: bool = False

    def __post_init__(self) -> None:
        if not self.measures:
            raise InputError(f"claim {self.name}: expected at least one measure, got none")

    @property
    def verdict(self) -> Verdict:
        """Fails if a measure fails, holds if all hold."""
        verdicts = {measure.verdict for measure in self.measures}
        return "fails" if "fails" in verdicts else "not decided" if "not decided" in verdicts else "holds"


def record_of(claims: Sequence[Claim]) -> Record:
    """Claims as a record that can be stored.

    Parameters
    ----------
    claims : sequence of Claim
        The claims.

    Returns
    -------
    Record
        Arrays ``<claim>/<array>``, and the rest as JSON.
    """
    arrays = {f"{claim.name}/{key}": np.asarray(value) for claim in claims for key, value in claim.arrays.items()}
    return Record(arrays, {"claims": [_json_of(claim) for claim in claims]})


def claims_of(record: Record) -> list[Claim]:
    """Claims out of a record.

    Parameters
    ----------
    record : Record
        From `record_of`.
    """
    found = []
    try:
        for entry in record.meta["claims"]:
            prefix = f"{entry['name']}/"
            arrays = {
                name.removeprefix(prefix): array for name, array in record.arrays.items() if name.startswith(prefix)
            }
            found.append(Claim(**{**entry, "measures": [_measure(line) for line in entry["measures"]]}, arrays=arrays))
    except (KeyError, TypeError) as error:
        raise InputError(f"claims: the record is of another version ({error}); compute it again") from error
    return found


def _json_of(claim: Claim) -> dict[str, Any]:
    names = ("name", "part", "title", "statement", "method", "control")
    measures = [
        {
            "label": measure.label,
            "estimate": list(map(float, measure.estimate)),
            "low": _finite(measure.low),
            "high": _finite(measure.high),
            "note": measure.note,
        }
        for measure in claim.measures
    ]
    return {**{name: getattr(claim, name) for name in names}, "measures": measures, "remarks": list(claim.remarks)}


def _measure(line: Mapping[str, Any]) -> Measure:
    low, high = line["low"], line["high"]
    limits = {"low": -math.inf if low is None else low, "high": math.inf if high is None else high}
    return Measure(**{**line, **limits, "estimate": Estimate(*line["estimate"])})


def _finite(limit: float) -> float | None:
    """JSON knows no infinity."""
    return float(limit) if math.isfinite(limit) else None
