"""The first paragraphs of a report: what the defence is worth, in plain words.

For every classifier behind a chain: what is left under the worst attack for each image comes first, whatever it is;
then each kind of attack, the bare classifier, and how much of the gain against an attacker who ignores the defence
remains against one who does not. A difference is named only if its interval excludes zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from malade_ref.report.labels import Labels, count_of, percent, points, threat_label

# A defence that keeps less than this share of its gain over the bare classifier has lost most of it.
MOST = 0.5

KINDS = {
    "transfer": "an attacker who ignores the defence leaves {}",
    "bpda": "one who replaces the chain by the identity on the way back (BPDA{}) leaves {}",
    "exact": "one who takes the exact gradient through the chain{} leaves {}",
}


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
    found = [_defended(results, labels, name) for name in defences if judged[name] and defences[name]["base"] in judged]
    if not found:
        found = [_bare(results, labels, name) for name in defences if judged[name]]
    if not found:
        return ["No attack was run, so nothing can be said about robustness."]
    return [*found, _caution(results)]


def _defended(results: Mapping[str, Any], labels: Labels, name: str) -> str:
    """The verdict on one classifier behind a chain."""
    main = results["main"]
    defence = results["defences"][name]
    base = defence["base"]
    label, base_label = labels.defences[name], labels.defences[base]
    worst = defence["worst"][main["threat"]]
    honest = worst["honest"]
    base_worst = results["defences"][base]["worst"].get(main["threat"])
    strongest = _strongest_by_kind(results, name)
    difference = _difference(results, name, base)
    threat = threat_label(main["norm"], main["eps"])

    draws = f", mean over {count_of(honest['draws'], 'draw')} of its noise" if honest["draws"] > 1 else ""
    text = [
        f"**{_headline(label, base_label, honest, base_worst, strongest, difference)}**",
        f"Under the worst of {count_of(worst['num_attacks'], 'attack')} for each image ({threat}), {label} is right on "
        f"{percent(honest['mean'])} of {count_of(honest['n'], 'test image')}{draws}; "
        f"the single strongest attack is {labels.attacks[worst['strongest']['attack']]}.",
    ]
    told = []
    for kind, sentence in KINDS.items():
        if kind in strongest:
            cell = strongest[kind]
            eot = f" with {cell['eot_draws']} draws a gradient" if cell["eot_draws"] > 1 else ""
            value = percent(cell["mean"]) + (f" of {cell['n']} images" if cell["n"] != honest["n"] else "")
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
    if base_worst:
        text.append(f"{base_label} alone keeps {percent(base_worst['honest']['mean'])}.")
        if "transfer" in strongest:
            text.append(_kept(honest, base_worst, strongest["transfer"]))
    if difference is not None:
        text.append(f"On the same images {label} differs from {base_label} by {points(difference)}.")
    clean = [results["cells"].get(results["defences"][other]["clean"]) for other in (name, base)]
    if all(clean):
        text.append(
            f"Without an attack {label} is right on {percent(clean[0]['mean'])}, "
            f"{base_label} on {percent(clean[1]['mean'])}."
        )
    submissions = [int(number) for number in honest["survival"] if int(number) > 1]
    if submissions:
        share = percent(honest["survival"][str(max(submissions))])
        text.append(f"If the attacker may submit each image {max(submissions)} times, {share} survive.")
    return " ".join(sentence for sentence in text if sentence)


def _headline(
    label: str,
    base: str,
    honest: Mapping[str, Any],
    base_worst: Mapping[str, Any] | None,
    strongest: Mapping[str, Mapping[str, Any]],
    difference: Mapping[str, float] | None,
) -> str:
    if difference is None or base_worst is None:
        return f"{label} keeps {100 * honest['mean']['value']:.1f}% under attack."
    if difference["high"] < 0:
        return f"{label} is less robust than {base} alone."
    if difference["low"] <= 0:
        return f"{label} is not measurably more robust than {base} alone."
    if "transfer" in strongest:
        gain, apparent = _gains(honest, base_worst, strongest["transfer"])
        if apparent > 0 and gain < MOST * apparent:
            lost = "most of what it restores is lost to an informed attacker"
            return f"{label} is more robust than {base} alone, but {lost}."
    return f"{label} is more robust than {base} alone under the attacks tried here."


def _kept(honest: Mapping[str, Any], base_worst: Mapping[str, Any], transfer: Mapping[str, Any]) -> str:
    gain, apparent = _gains(honest, base_worst, transfer)
    if apparent <= 0:
        return ""
    remain = f"{100 * gain:.1f} remain" if gain > 0 else "none remain"
    return (
        f"Of the {100 * apparent:.1f} points that the defence restores against an attacker who ignores it, {remain} "
        "against one who does not."
    )


def _gains(
    honest: Mapping[str, Any], base_worst: Mapping[str, Any], transfer: Mapping[str, Any]
) -> tuple[float, float]:
    """What is gained over the bare classifier: in the worst case, and against an attacker who ignores the defence."""
    base = base_worst["honest"]["mean"]["value"]
    return honest["mean"]["value"] - base, transfer["mean"]["value"] - base


def _bare(results: Mapping[str, Any], labels: Labels, name: str) -> str:
    main = results["main"]
    worst = results["defences"][name]["worst"][main["threat"]]
    return (
        f"**{labels.defences[name]} keeps {percent(worst['honest']['mean'])} of "
        f"{count_of(worst['honest']['n'], 'test image')}** under the worst of "
        f"{count_of(worst['num_attacks'], 'attack')} for each image ({threat_label(main['norm'], main['eps'])})."
    )


def _caution(results: Mapping[str, Any]) -> str:
    text = (
        "These are upper bounds: a stronger attack may exist, and brackets hold only what chance did (95% intervals)."
    )
    warnings = [finding["name"] for finding in results["audit"] if finding["status"] == "warning"]
    missing = sum(finding["status"] == "not run" for finding in results["audit"])
    if warnings:
        text += f" **{count_of(len(warnings), 'check')} of the audit failed: {'; '.join(warnings)}.**"
    else:
        text += " No check of the audit failed."
    return text + (f" {count_of(missing, 'check')} could not be run." if missing else "")


def _strongest_by_kind(results: Mapping[str, Any], name: str) -> dict[str, Mapping[str, Any]]:
    """For each kind of attack of the main threat, the cell with the lowest mean."""
    found: dict[str, Mapping[str, Any]] = {}
    for cell in results["cells"].values():
        if cell["defence"] == name and cell["threat"] == results["main"]["threat"] and cell["kind"] in KINDS:
            best = found.get(cell["kind"])
            if best is None or cell["mean"]["value"] < best["mean"]["value"]:
                found[cell["kind"]] = cell
    return found


def _difference(results: Mapping[str, Any], name: str, base: str) -> dict[str, float] | None:
    """Worst case of a defence less that of the bare classifier, on the same images."""
    for row in results["comparisons"]:
        if row["on"] == results["main"]["threat"] and {row["first"], row["second"]} == {name, base}:
            difference: dict[str, float] = row["difference"]
            if row["first"] == name:
                return difference
            return {"value": -difference["value"], "low": -difference["high"], "high": -difference["low"]}
    return None
