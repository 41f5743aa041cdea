"""How a report writes names, numbers and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from malade_ref.attacks.cards import CARDS

# Parts of what the audit says: a defence, a threat, two attacks, an attack along sizes, a method along settings.
_NAME = re.compile(r"[\w+=,-]+?(?=[: ]|, )")
_THREAT = re.compile(r", (linf|l2|l1|l0) ([0-9.e-]+)(?=,)")
_TWO = re.compile(r", ([\w+=-]+) and ([\w+=-]+):")
_ONE = re.compile(r", ([\w+=-]+), eps")
_METHOD = re.compile(r", (\w+), (\d+ and \d+ (?:steps|draws))")

NONE = "–"
# What a figure's line may be of, beside an attack: the attack that is worst for each image.
WORST = "worst"
# What accuracy may be drawn against, beside a setting that attacks vary.
EPS = "eps"
CLASS_WIDTH = 12
MOST_DIGITS = 6  # of a size that was meant as a decimal number, its point included
NORMS = {"linf": "L-infinity", "l2": "L2", "l1": "L1", "l0": "share of pixels"}


class Labels:
    """Names for readers, from an experiment.

    Parameters
    ----------
    config : mapping
        The experiment.
    results : mapping
        From `malade_ref.report.results.results_of`.
    """

    def __init__(self, config: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        defences, models = config.get("defences") or {}, config.get("models") or {}
        self.defences = {name: (defences.get(name) or {}).get("name") or name for name in results["defences"]}
        self.models = {name: model.get("name") or name for name, model in models.items()}
        titles = {attack["name"]: attack.get("title") or attack["name"] for attack in config.get("attacks") or []}
        found = sorted({cell["attack"] for cell in results["cells"].values()})
        # In the order of the experiment, clean images first.
        order = dict.fromkeys(["clean", *titles, *found])
        self.attacks = {name: titles.get(name, name) for name in order if name in found}
        if "clean" in self.attacks:
            self.attacks["clean"] = "clean images"
        self._classes = list((config.get("data") or {}).get("class_names") or [])

    def class_name(self, number: int) -> str:
        """Name a class, such as ``"dog"``, in at most `CLASS_WIDTH` characters; without a name by its number.

        Parameters
        ----------
        number : int
            The class.
        """
        name = str(self._classes[number]) if 0 <= number < len(self._classes) else str(number)
        return name if len(name) <= CLASS_WIDTH else f"{name[: CLASS_WIDTH - 1]}…"


def spelled_out(message: str, labels: Labels) -> str:
    """Name defences, sizes and attacks in a message of the audit as people do; it has those of the experiment.

    Parameters
    ----------
    message : str
        Such as ``"cnn, linf 0.3, apgd and square: 0.0% against 0.0%"``.
    labels : Labels
        Names.
    """

    def norm(match: re.Match[str]) -> str:
        return f", {threat_label(match[1], float(match[2]))}"

    def attacks(match: re.Match[str]) -> str:
        one, other = (labels.attacks.get(name, name) for name in match.groups())
        return f", {one} and {other}:"

    parts = []
    for part in message.split("; "):
        name = _NAME.match(part)
        title = labels.defences.get(name[0]) if name else None
        if name and title is not None:
            rest = _THREAT.sub(norm, part[name.end() :])
            rest = _TWO.sub(attacks, rest)
            rest = _ONE.sub(lambda match: f", {labels.attacks.get(match[1], match[1])}, eps", rest)
            rest = _METHOD.sub(lambda match: f", {method_label(match[1])}, {match[2]}", rest)
            part = title + rest
        parts.append(part)
    return "; ".join(parts)


def method_label(method: str) -> str:
    """Name an attack's algorithm.

    Parameters
    ----------
    method : str
        As in the experiment.

    Returns
    -------
    str
        The title on its card; the same word, if it has none here.
    """
    return CARDS[method].profile({}).title if method in CARDS else method


def threat_label(norm: str, eps: float) -> str:
    """Name a threat, such as ``"L-infinity 0.3"``.

    Parameters
    ----------
    norm : str
        ``"linf"``, ``"l2"`` or ``"l1"``.
    eps : float
        Radius.
    """
    return f"{NORMS.get(norm, norm)} {size_text(eps)}".strip()


def size_text(eps: float) -> str:
    """Write the size of a perturbation: ``"0.3"``, but ``"8/255"`` where that is what was meant.

    Parameters
    ----------
    eps : float
        The size, in pixel units.
    """
    levels = round(255 * eps, 2)
    meant = len(f"{eps:g}") > MOST_DIGITS and abs(255 * eps - levels) < 1e-9
    return f"{levels:g}/255" if meant else f"{eps:g}"


def percent(estimate: Mapping[str, float], unit: str = "%") -> str:
    """Write a share with its interval, such as ``"24.1% [18.9, 30.3]"``.

    Parameters
    ----------
    estimate : mapping
        ``value``, ``low``, ``high``.
    unit : str
        After the value.
    """
    return f"{100 * estimate['value']:.1f}{unit} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def points(estimate: Mapping[str, float], unit: str = " points") -> str:
    """Write a difference of shares with its interval, such as ``"-3.0 points [-5.1, -0.9]"``.

    Parameters
    ----------
    estimate : mapping
        ``value``, ``low``, ``high``.
    unit : str
        After the value.
    """
    # Adding zero makes a negative zero positive.
    value, low, high = (f"{round(100 * estimate[key], 1) + 0.0:+.1f}" for key in ("value", "low", "high"))
    return f"{value}{unit} [{low}, {high}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table.

    Parameters
    ----------
    head : sequence of str
        Names of the columns.
    rows : iterable of sequences of str
        As many cells each.

    Returns
    -------
    list of str
        Markdown, with an empty line after it.
    """
    lines = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines), ""]


def count_of(number: int, noun: str) -> str:
    """Write a number of things, such as ``"1 image"`` or ``"2 images"``.

    Parameters
    ----------
    number : int
        How many.
    noun : str
        Of what, in the singular.
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
