"""The report of the laboratory: verdicts, numbers, figures, all derived from the claims' records.

Neither dates nor durations are told, so that equal runs have equal reports; those are in environment.json.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from malade_ref.bundle import Bundle
from malade_ref.bundle.layout import FIGURES, PAGE, REPORT, RESULTS
from malade_ref.bundle.manifest import is_record
from malade_ref.checks import InputError
from malade_ref.report import common, mismatches
from malade_ref.report.html import page_html
from malade_ref.report.labels import count_of, table
from malade_ref.storage import from_json, load_json, to_json
from malade_ref.theorem.claims import Claim, Measure, claims_of
from malade_ref.theorem.figures import CAPTIONS, draw_figures
from malade_ref.theorem.parts import PARTS, Part

KIND = "theorem"
TITLE = "What Theorem 1 says, measured"
MARKS = {"holds": "holds", "fails": "**FAILS**", "not decided": "*not decided*"}
INTRODUCTION = (
    "Every claim below is a sentence that numbers could have contradicted. The oracle is a labelled mixture of "
    "Gaussians, for which densities, scores, posteriors of the classes and the denoisers' exact minimisers are known. "
    "A measure holds if its whole 95% interval lies within the range that was fixed beforehand, fails if the whole "
    "interval lies outside, and is not decided otherwise; numbers that nothing random stands behind have no interval. "
    "A claim holds if all of its measures do. The verdicts are not corrected for there being many of them: of "
    "intervals that are right 19 times in 20, some will be wrong."
)


def stage_of(part: str) -> str:
    """Name of a part's record.

    Parameters
    ----------
    part : str
        The part.

    Returns
    -------
    str
        Its stage in the bundle.
    """
    return f"claims/{part}"


def is_theorem(bundle: Bundle) -> bool:
    """Tell whether a bundle is of the laboratory.

    Parameters
    ----------
    bundle : Bundle
        Any bundle.

    Returns
    -------
    bool
        Whether this module knows how to report on it.
    """
    return bundle.config.get("kind") == KIND


def read_claims(bundle: Bundle) -> dict[str, list[Claim]]:
    """Claims of a bundle.

    Parameters
    ----------
    bundle : Bundle
        Of `malade theorem`, its parts computed.

    Returns
    -------
    dict of str to list of Claim
        By part, in order.
    """
    return {name: claims_of(bundle.record(stage_of(name))) for name in bundle.config["parts"]}


def results_of(claims: Mapping[str, Sequence[Claim]]) -> dict[str, Any]:
    """Verdicts and numbers.

    Parameters
    ----------
    claims : mapping
        From `read_claims`.

    Returns
    -------
    dict
        JSON-able: ``schema`` (that of ``results.schema.json`` beside this file), ``count`` of claims by verdict, and
        ``claims`` in order.
    """
    all_claims = [claim for found in claims.values() for claim in found]
    verdicts: list[str] = [claim.verdict for claim in all_claims]
    return {
        "schema": "malade-theorem-results-1",
        "count": {verdict: verdicts.count(verdict) for verdict in MARKS},
        "claims": [{**_entry(claim), "part": part} for part, found in claims.items() for claim in found],
    }


def headlines(results: Mapping[str, Any]) -> list[str]:
    """What the report says first.

    Parameters
    ----------
    results : mapping
        From `results_of`.

    Returns
    -------
    list of str
        One line with the numbers of verdicts, one for each claim that does not hold.
    """
    count, total = results["count"], len(results["claims"])
    lines = [
        f"Of {count_of(total, 'claim')} {count['holds']} hold, {count['fails']} fail, {count['not decided']} "
        "are not decided."
    ]
    for mark in ("fails", "not decided"):
        lines += [f"{entry['title']}: {mark}." for entry in results["claims"] if entry["verdict"] == mark]
    return lines


def report_text(
    results: Mapping[str, Any], config: Mapping[str, Any], environment: Mapping[str, Any], figures: Sequence[str]
) -> str:
    """Write the report.

    Parameters
    ----------
    results : mapping
        From `results_of`.
    config : mapping
        The bundle's.
    environment : mapping
        Of the run's first session.
    figures : sequence of str
        Names of the figures' files.
    """
    lines = [f"# {TITLE}", ""]
    for line in headlines(results):
        lines += [f"**{line}**", ""]
    if config["scale"] != "full":
        lines += [f"> Scale {config['scale']}: fewer points and seeds than the full run; less is decided.", ""]
    lines += [INTRODUCTION, "", *_overview(results)]
    for part in PARTS:
        entries = [entry for entry in results["claims"] if entry["part"] == part.name]
        if entries:
            lines += _section(part, entries, figures)
    lines += ["## Provenance", "", *_provenance(config, environment)]
    return "\n".join(lines).rstrip() + "\n"


def write_report(bundle: Bundle) -> list[str]:
    """Write results, report and figures into a bundle.

    Parameters
    ----------
    bundle : Bundle
        Its parts computed; being computed or finished.
    """
    claims = read_claims(bundle)
    results = results_of(claims)
    drawn = draw_figures({claim.name: claim for found in claims.values() for claim in found})
    text = report_text(results, bundle.config, _environment(bundle), list(drawn))
    files: dict[str, str | bytes] = {
        RESULTS: to_json(RESULTS, results) + "\n",
        REPORT: text,
        PAGE: page_html(text, figures=drawn),
        **drawn,
    }
    if bundle.finished:
        bundle.redraw(files)
    else:
        for name, content in files.items():
            bundle.write(name, content)
    return list(files)


def exhibit(bundle: Bundle, folder: str) -> list[str]:
    """What a page about several bundles shows of this one: figures, captions and claims.

    Parameters
    ----------
    bundle : Bundle
        With a report.
    folder : str
        Its name beside the page.

    Returns
    -------
    list of str
        Lines of Markdown; sections are at the second level.
    """
    results, figures = results_of(read_claims(bundle)), _figures(bundle)
    lines = []
    for part in PARTS:
        entries = [entry for entry in results["claims"] if entry["part"] == part.name]
        lines += _section(part, entries, figures) if entries else []
    lines = [line.replace("](figures/", f"]({folder}/figures/") for line in lines]
    lines = [re.sub("^## [0-9]+[.] ", "## ", line) for line in lines]
    return [*lines, f"How it was made: [{folder}/report.md]({folder}/report.md).", ""]


def check_report(bundle: Bundle) -> list[str]:
    """Derive results and report again, and compare them with those in the bundle.

    Parameters
    ----------
    bundle : Bundle
        With a report.

    Returns
    -------
    list of str
        The mismatches, one line each.
    """
    try:
        stored = load_json(bundle.path / RESULTS)
        text = (bundle.path / REPORT).read_text(encoding="utf-8")
        derived = from_json(RESULTS, to_json(RESULTS, results_of(read_claims(bundle))))
        if "schema" not in stored:  # of an earlier version
            derived.pop("schema")
    except InputError as error:
        return [str(error)]
    except (OSError, UnicodeDecodeError) as error:
        return [f"{bundle.path / REPORT}: cannot be read ({error}); malade report writes it again"]
    if is_record(bundle.path) and bundle.of_another_version:
        return [f"{RESULTS}: {line}" for line in mismatches(*common(stored, derived))]
    found = [f"{RESULTS}: {line}" for line in mismatches(stored, derived)]
    if not found and text != report_text(derived, bundle.config, _environment(bundle), _figures(bundle)):
        found.append(f"{REPORT}: is not what follows from the claims; malade report writes it again")
    return found


# Details -------------------------------------------------------------------------------------------------------------


def _figures(bundle: Bundle) -> list[str]:
    return sorted(f"{FIGURES}/{path.name}" for path in (bundle.path / FIGURES).glob("*.png"))


def _entry(claim: Claim) -> dict[str, Any]:
    """A claim without its arrays."""
    return {
        "name": claim.name,
        "title": claim.title,
        "statement": claim.statement,
        "method": claim.method,
        "verdict": claim.verdict,
        "control": claim.control,
        "measures": [
            {
                "label": measure.label,
                **{key: float(value) for key, value in measure.estimate._asdict().items()},
                "range": range_text(measure),
                "verdict": measure.verdict,
                "note": measure.note,
            }
            for measure in claim.measures
        ],
        "remarks": list(claim.remarks),
    }


def range_text(measure: Measure) -> str:
    """Write the range of a measure, such as ``"1.9 to 2.1"``.

    Parameters
    ----------
    measure : Measure
        The measure.
    """
    low, high = measure.low, measure.high
    if low == high:
        return f"{low:g}"
    if math.isinf(low) and math.isinf(high):
        return "any"
    if math.isinf(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def estimate_text(entry: Mapping[str, float]) -> str:
    """Write an estimate with its interval.

    Parameters
    ----------
    entry : mapping
        ``value``, ``low``, ``high``.

    Returns
    -------
    str
        Such as ``"1.98 [1.96, 2.01]"``, with the digits that the interval leaves; ``"1.2e-14"`` without one.
    """
    value, low, high = entry["value"], entry["low"], entry["high"]
    width = high - low
    if width == 0:
        return f"{value:.3g}"
    largest = max(abs(low), abs(high))
    if not 1e-3 <= largest < 1e5:
        return f"{value:.3g} [{low:.3g}, {high:.3g}]"
    # Two digits of the half width, at most four decimals.
    decimals = min(4, max(0, 1 - math.floor(math.log10(width / 2))))
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _overview(results: Mapping[str, Any]) -> list[str]:
    titles = {part.name: part for part in PARTS}
    rows = [[str(titles[entry["part"]].number), _title(entry), MARKS[entry["verdict"]]] for entry in results["claims"]]
    return table(["part", "claim", "verdict"], rows)


def _title(entry: Mapping[str, Any]) -> str:
    return f"{entry['title']} (negative control)" if entry["control"] else str(entry["title"])


def _section(part: Part, entries: Sequence[Mapping[str, Any]], figures: Sequence[str]) -> list[str]:
    lines = [f"## {part.number}. {part.title}", "", part.text, ""]
    for name, caption in CAPTIONS.get(part.name, {}).items():
        if name in figures:
            lines += [f"![{caption.partition('.')[0]}]({name})", "", f"*{caption}*", ""]
    for entry in entries:
        lines += [f"### {_title(entry)}: {MARKS[entry['verdict']]}", "", entry["statement"], ""]
        rows = [
            [measure["label"], estimate_text(measure), measure["range"], MARKS[measure["verdict"]], measure["note"]]
            for measure in entry["measures"]
        ]
        lines += table(["measure", "value [95% interval]", "expected", "verdict", "from"], rows)
        lines += [f"*How:* {entry['method']}", ""]
        lines += [line for remark in entry["remarks"] for line in (remark, "")]
    return lines


def _provenance(config: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    packages = [f"{name} {version}" for name, version in sorted((environment.get("packages") or {}).items())]
    code = f"{environment.get('malade') or 'not installed'} (code {str(environment.get('source_sha256'))[:12]})"
    parts = "" if len(config["parts"]) == len(PARTS) else "".join(f" --part {name}" for name in config["parts"])
    return [
        f"- malade theorem{parts} at scale {config['scale']}, seed {config['seed']}, backend {config['backend']}.",
        f"- Versions: malade {code}, {environment.get('python')}, {', '.join(packages)}.",
        "- Numbers: results.json; what figures are drawn from: claims/*.h5; machine, dates and durations: "
        "environment.json.",
        "",
    ]


def _environment(bundle: Bundle) -> dict[str, Any]:
    sessions = bundle.log.sessions
    return dict(sessions[0]["environment"]) if sessions else {}
