"""The first paragraphs of a report: what the defence is worth, in plain words.

The first one speaks of every classifier behind a chain: a sentence of judgement on each, then what is left of it under
the worst attack for each image, whatever that is, beside the bare classifier and beside what an attacker who ignores
the defence leaves. A paragraph for each follows: kinds of attack, and how much of the gain against an attacker who
ignores the defence remains against one who does not. All are on the same images, those that every attack was given. A
difference is named only if its interval excludes zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from malade_ref.report.certified import certified_verdict
from malade_ref.report.labels import Labels, count_of, percent, points, size_text, threat_label

# A defence that keeps less than this share of its gain over the bare classifier has lost most of it.
MOST = 0.5

KINDS = {
    "transfer": "an attacker who ignores the defence leaves {}",
    "bpda": "one who puts something simpler in place of the chain on the way back (BPDA{}) leaves {}",
    "exact": "one who takes the exact gradient through the chain{} leaves {}",
}

# Kinds of attacks that know nothing of a defence.
IGNORANT = ("transfer", "noise")

# What a size means, for those who do not know the norms.
_MEANING = {
    "linf": " (each pixel, between 0 and 1, may change by {})",
    "l0": " (that share of the pixels may change)",
}


class _Attack(NamedTuple):
    """An attack: what it leaves, and how many draws it averages a gradient over."""

    mean: Mapping[str, float]
    eot_draws: int


class _Pair(NamedTuple):
    """A bare classifier on the images of a defence: what it keeps, and how much more the defence does."""

    base: Mapping[str, float]
    difference: Mapping[str, float]


def verdict(results: Mapping[str, Any], labels: Labels) -> list[str]:
    """Say what the defences are worth.

    Parameters
    ----------
    results : mapping
        From `malade_ref.report.results.results_of`.
    labels : Labels
        Names.

    Returns
    -------
    list of str
        Paragraphs, strongest attack first.
    """
    main, defences = results["main"], results["defences"]
    judged = {name: defence["worst"].get(main["threat"]) for name, defence in defences.items()}
    defended = [name for name in defences if judged[name] and defences[name]["base"] in judged]
    if defended:
        found = [_summary(results, labels, defended), *(_details(results, labels, name) for name in defended)]
    else:
        found = [_bare(results, labels, name) for name in defences if judged[name]]
    certain = [certified_verdict(results)] if "certified" in results else []
    if not found:
        return certain or ["No attack was run, so nothing can be said about robustness."]
    return [*found, *certain, _caution(results)]


def _summary(results: Mapping[str, Any], labels: Labels, names: Sequence[str]) -> str:
    """The verdict on all classifiers behind a chain: judgements first, then the numbers that they rest on."""
    main = results["main"]
    judgements, numbers = [], []
    for name in names:
        defence = results["defences"][name]
        label, base = labels.defences[name], labels.defences[defence["base"]]
        worst = defence["worst"][main["threat"]]
        honest, strongest, pair = worst["honest"], _strongest_by_kind(results, name), _pair(results, name)
        if _is_attacked(results, name):
            judgements.append(f"**{_headline(label, base, honest, strongest, pair)}**")
        else:
            judgements.append(
                f"**No attack here was made on {label} itself, so nothing can be said of how robust it is.**"
            )
        text = (
            f"{label} is still right on {percent(honest['mean'])} of {count_of(honest['n'], 'test image')} under the "
            f"worst of {count_of(len(worst['attacks']), 'attack')} for each image"
        )
        if pair:
            text += f", {base} alone on {percent(pair.base)}: a difference of {points(pair.difference)}"
        if "transfer" in strongest:
            text += f" (an attacker who ignores the defence leaves {percent(strongest['transfer'].mean)})"
        numbers.append(text)
    size = f"{threat_label(main['norm'], main['eps'])}{_MEANING.get(main['norm'], '').format(size_text(main['eps']))}"
    numbers[0] = f"In numbers, for perturbations of at most {size}: {numbers[0]}"
    return f"{' '.join(judgements)} {'; '.join(numbers)}. Brackets hold 95% intervals."


def _details(results: Mapping[str, Any], labels: Labels, name: str) -> str:
    """More on one classifier behind a chain."""
    defence = results["defences"][name]
    base = defence["base"]
    label, base_label = labels.defences[name], labels.defences[base]
    worst = defence["worst"][results["main"]["threat"]]
    honest = worst["honest"]
    strongest = _strongest_by_kind(results, name)
    pair = _pair(results, name)

    draws = (
        f" Its numbers are means over {count_of(honest['draws'], 'draw')} of its noise." if honest["draws"] > 1 else ""
    )
    text = [f"{label} in detail: the single strongest attack is {labels.attacks[worst['strongest']]}.{draws}"]
    told = []
    for kind, sentence in KINDS.items():
        if kind in strongest:
            value, eot_draws = percent(strongest[kind].mean), strongest[kind].eot_draws
            eot = f" with {eot_draws} draws a gradient" if eot_draws > 1 else ""
            told.append(sentence.format(value) if kind == "transfer" else sentence.format(eot, value))
    if told:
        text.append("Kind by kind: " + "; ".join(told) + ".")
    missing = [kind for kind in KINDS if kind not in strongest]
    if missing:
        words = {
            "transfer": "carried over from the bare classifier",
            "bpda": "by BPDA",
            "exact": "by the exact gradient",
        }
        text.append(f"There is no attack {' and none '.join(words[kind] for kind in missing)}.")
    if pair and "transfer" in strongest and _is_attacked(results, name):
        text.append(_kept(honest, pair, strongest["transfer"]))
    clean = [results["cells"].get(results["defences"][other]["clean"]) for other in (name, base)]
    if all(clean):
        kept = [percent(cell["mean"]) for cell in clean]
        text.append(f"Without an attack {label} is right on {kept[0]} and {base_label} on {kept[1]}.")
    submissions = [int(number) for number in honest["survival"] if int(number) > 1]
    if submissions:
        share = percent(honest["survival"][str(max(submissions))])
        text.append(f"If the attacker may submit each image {max(submissions)} times, {share} survive.")
    return " ".join(sentence for sentence in text if sentence)


def _headline(
    label: str, base: str, honest: Mapping[str, Any], strongest: Mapping[str, _Attack], pair: _Pair | None
) -> str:
    if pair is None:
        return f"{label} keeps {100 * honest['mean']['value']:.1f}% under attack."
    if pair.difference["high"] < 0:
        return f"{label} is less robust than {base} alone."
    if pair.difference["low"] <= 0:
        return f"{label} is not measurably more robust than {base} alone."
    if "transfer" in strongest:
        gain, apparent = _gains(honest, pair, strongest["transfer"])
        if gain < MOST * apparent:
            lost = "most of what it restores is lost to an informed attacker"
            return f"{label} is more robust than {base} alone, but {lost}."
    missing = "" if "exact" in strongest else ", none of which had the gradient through its chain"
    return f"{label} is more robust than {base} alone under the attacks tried here{missing}."


def _kept(honest: Mapping[str, Any], pair: _Pair, transfer: _Attack) -> str:
    gain, apparent = _gains(honest, pair, transfer)
    if apparent <= 0:
        return ""
    remain = f"{100 * gain:.1f} remain" if gain > 0 else "none remain"
    return (
        f"Of the {100 * apparent:.1f} points that the defence restores against an attacker who ignores it, {remain} "
        "against one who does not."
    )


def _gains(honest: Mapping[str, Any], pair: _Pair, transfer: _Attack) -> tuple[float, float]:
    """What is gained over the bare classifier: in the worst case, and against an attacker who ignores the defence."""
    base = pair.base["value"]
    return honest["mean"]["value"] - base, transfer.mean["value"] - base


def _bare(results: Mapping[str, Any], labels: Labels, name: str) -> str:
    main = results["main"]
    worst = results["defences"][name]["worst"][main["threat"]]
    return (
        f"**{labels.defences[name]} keeps {percent(worst['honest']['mean'])} of "
        f"{count_of(worst['honest']['n'], 'test image')}** under the worst of "
        f"{count_of(len(worst['attacks']), 'attack')} for each image ({threat_label(main['norm'], main['eps'])})."
    )


def _caution(results: Mapping[str, Any]) -> str:
    text = "These are upper bounds: a stronger attack may exist, and the intervals hold only what chance did."
    warnings = [finding["name"] for finding in results["audit"] if finding["status"] == "warning"]
    missing = sum(finding["status"] == "not run" for finding in results["audit"])
    if warnings:
        text += f" **{count_of(len(warnings), 'check')} of the audit failed: {'; '.join(warnings)}.**"
    else:
        text += " No check of the audit failed."
    return text + (f" {count_of(missing, 'check')} could not be run." if missing else "")


def _strongest_by_kind(results: Mapping[str, Any], name: str) -> dict[str, _Attack]:
    """For each kind of attack of the main threat, the one with the lowest mean."""
    threat = results["main"]["threat"]
    means = results["defences"][name]["worst"][threat]["attacks"]
    found: dict[str, _Attack] = {}
    for cell in results["cells"].values():
        if cell["defence"] == name and cell["threat"] == threat and cell["kind"] in KINDS:
            attack = _Attack(means[cell["attack"]], cell["eot_draws"])
            best = found.get(cell["kind"], attack)
            found[cell["kind"]] = min(best, attack, key=lambda one: one.mean["value"])
    return found


def _is_attacked(results: Mapping[str, Any], name: str) -> bool:
    """Whether an attack of the main threat is on the defence itself."""
    threat = results["main"]["threat"]
    cells = [cell for cell in results["cells"].values() if (cell["defence"], cell["threat"]) == (name, threat)]
    return any(cell["kind"] not in IGNORANT for cell in cells)


def _pair(results: Mapping[str, Any], name: str) -> _Pair | None:
    """A defence and the bare classifier in their worst cases."""
    base = results["defences"][name]["base"]
    for row in results["comparisons"]:
        if row["on"] == results["main"]["threat"] and {row["first"], row["second"]} == {name, base}:
            difference = row["difference"]
            if row["first"] == name:
                return _Pair(row["means"][1], difference)
            reverse = {"value": -difference["value"], "low": -difference["high"], "high": -difference["low"]}
            return _Pair(row["means"][0], reverse)
    return None
