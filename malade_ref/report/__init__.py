"""The report of a bundle: what was found, in words, tables and figures, all derived from its outcomes.

::

    outcomes.h5, *.h5, histories/*.h5  ->  results.json  ->  report.md
                                                         ->  report.html
                                                         ->  figures/*.png
                                                         ->  croissant.json

`write_report` writes these files, `check_report` derives them again and says where they differ.
A bundle that lacks what they need raises `InputError`, and so do figures without matplotlib.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from malade_ref.bundle import Bundle
from malade_ref.bundle.layout import CROISSANT, FIGURES, MODELS, OUTCOMES, PAGE, REPORT, RESULTS, is_old_record
from malade_ref.bundle.manifest import is_record, read_left_out, read_manifest
from malade_ref.bundle.schema import MAX_NUMBER
from malade_ref.checks import InputError, printable
from malade_ref.report.croissant import croissant
from malade_ref.report.drawing import draw_figures
from malade_ref.report.html import report_html, require_page, unpainted
from malade_ref.report.markdown import named
from malade_ref.report.reading import ReportInput, open_bundle, read_bundle
from malade_ref.report.results import SCHEMA, results_of
from malade_ref.report.text import report_text
from malade_ref.storage import from_json, load_json, one_line, to_json
from malade_ref.storage.files import open_regular

__all__ = [
    "ReportInput",
    "check_report",
    "fitting",
    "read_bundle",
    "report_html",
    "report_text",
    "require_page",
    "results_of",
    "write_report",
]

# Sums may be taken in another order by another version of NumPy or SciPy.
TOLERANCE = 1e-9
# What of results.json follows from outcomes and certificates alone.
DERIVED = (
    "confidence",
    "main",
    "cells",
    "defences",
    "comparisons",
    "convergence",
    "certified",
    "seeds",
    "tables",
    "figures",
)
# Characters of a value in a complaint.
MAX_SHOWN = 200


def write_report(bundle: Bundle | str | Path, *, figures: bool = True, page: bool = True) -> list[str]:
    """Write results, report and figures into a bundle.

    Parameters
    ----------
    bundle : Bundle or path
        One whose outcomes are merged, being computed or finished.
    figures : bool
        Whether to draw; without figures matplotlib is not needed.
    page : bool
        Whether to write report.html; without it jinja2 is not needed.

    Raises
    ------
    InputError
        If the bundle is incomplete or damaged, cannot be written, or what draws figures or page is missing.
    """
    bundle = open_bundle(bundle)
    with fitting(bundle):
        inputs = read_bundle(bundle)
        results = results_of(inputs)
        drawn = draw_figures(inputs._replace(config=named(inputs.config, printable)), results) if figures else {}
        kept = {name: _bytes_of(bundle.path / name) for name in (kept_figures(bundle, drawn) if figures else ())}
        text = to_json(RESULTS, results) + "\n"
        files: dict[str, str | bytes] = {
            RESULTS: text,
            CROISSANT: croissant(bundle.path, text, inputs.config, inputs.environment),
            REPORT: report_text(results, inputs.config, inputs.environment, [*drawn, *kept]),
            **({PAGE: report_html(inputs, results, {**drawn, **kept})} if page else {}),
            **drawn,
        }
    if bundle.finished:
        bundle.redraw(files)
    else:
        for name, content in files.items():
            bundle.write(name, content)
    return list(files)


def kept_figures(bundle: Bundle, drawn: Collection[str]) -> list[str]:
    """Figures of a record that cannot be drawn again, because what they show was left out; they stay as they are.

    Parameters
    ----------
    bundle : Bundle
        Any; only a record has such figures.
    drawn : collection of str
        Names of the figures that can be drawn.
    """
    if not _lacks_images(bundle):
        return []
    return [name for name in sorted(read_manifest(bundle.path)) if name.startswith(f"{FIGURES}/") and name not in drawn]


def _lacks_images(bundle: Bundle) -> bool:
    """Whether it is a record that was kept without what some figures, and the gallery, show."""
    if not bundle.finished or not is_record(bundle.path) or is_old_record(bundle.path):
        return False
    left_out = read_left_out(bundle.path) or {}
    return any(not name.startswith(f"{MODELS}/") and not (bundle.path / name).exists() for name in left_out)


def check_report(bundle: Bundle | str | Path) -> list[str]:
    """Derive results and report again, and compare them with those in the bundle.

    Parameters
    ----------
    bundle : Bundle or path
        A bundle with a report.

    Returns
    -------
    list of str
        The mismatches, one line each: the key in results.json with the stored and the derived value, or the first
        line of report.md that differs. Figures are not drawn again; the bundle's manifest holds their SHA-256. Of an
        old record only what is `DERIVED` can be compared. Of a record that another version made, numbers that both
        versions derive are; report.md is its version's.
    """
    bundle = open_bundle(bundle)
    try:
        stored = load_json(bundle.path / RESULTS)
        text = _text_of(bundle.path / REPORT)
        with fitting(bundle):
            inputs = read_bundle(bundle)
            derived = from_json(RESULTS, to_json(RESULTS, results_of(inputs)))
            if SCHEMA not in stored:  # of an earlier version
                derived.pop(SCHEMA)
            figures = sorted(f"{FIGURES}/{path.name}" for path in (bundle.path / FIGURES).glob("*.png"))
            expected = report_text(derived, inputs.config, inputs.environment, figures)
            page = _page_problem(bundle, inputs, derived, figures)
    except InputError as error:
        return [str(error)]
    except (OSError, UnicodeDecodeError) as error:
        mend = "restore it from a copy" if is_record(bundle.path) else "malade report writes it again"
        return [f"{bundle.path / REPORT}: cannot be read ({one_line(error)}); {mend}"]
    if is_old_record(bundle.path):
        # Older records have no ladders of convergence.
        keys = [key for key in DERIVED if key != "convergence" or key in stored]
        kept, again = ({key: found[key] for key in keys if key in found} for found in (stored, derived))
        return [f"{RESULTS}: {line}" for line in mismatches(kept, again)]
    if is_record(bundle.path) and bundle.of_another_version:
        return [f"{RESULTS}: {line}" for line in mismatches(*common(stored, derived))]
    found = [f"{RESULTS}: {line}" for line in mismatches(stored, derived)]
    if not found and text != expected:
        pairs = zip([*text.splitlines(), None], [*expected.splitlines(), None], strict=False)
        number, (old, new) = next((i, pair) for i, pair in enumerate(pairs, 1) if pair[0] != pair[1])
        found.append(f"{REPORT}: line {number} is {_shown(old)}, derived is {_shown(new)}")
    if not found and (bundle.path / CROISSANT).exists():  # earlier versions wrote none
        described = croissant(bundle.path, to_json(RESULTS, stored) + "\n", inputs.config, inputs.environment)
        try:
            there = load_json(bundle.path / CROISSANT)
        except InputError as error:
            return [str(error)]
        derived = from_json(CROISSANT, described)
        if OUTCOMES in (read_left_out(bundle.path) or {}) and isinstance(there, dict):
            # A record's outcomes are without images, but may be there again as they were.
            there = {**there, "distribution": derived["distribution"]}
        found = [f"{CROISSANT}: {line}" for line in mismatches(there, derived)]
    return [*found, *([page] if page and not found else [])]


def _page_problem(
    bundle: Bundle, inputs: ReportInput, results: Mapping[str, Any], figures: Sequence[str]
) -> str | None:
    """What is wrong with report.html, where there is one and it can be written again; its images are not compared."""
    if not (bundle.path / PAGE).exists() or bundle.of_another_version or _lacks_images(bundle):
        return None
    try:
        require_page()
    except InputError:
        return None
    stored = unpainted(_text_of(bundle.path / PAGE)).splitlines()
    contents = {name: _bytes_of(bundle.path / name) for name in figures}
    derived = unpainted(report_html(inputs, results, contents)).splitlines()
    if stored == derived:
        return None
    pairs = zip([*stored, None], [*derived, None], strict=False)
    number, (old, new) = next((i, pair) for i, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return f"{PAGE}: line {number} is {_shown(old)}, derived is {_shown(new)}"


@contextmanager
def fitting(bundle: Bundle) -> Iterator[None]:
    """Turn what goes wrong with the contents of a finished bundle into one line.

    The schema says what each field may be; that all of them fit each other, arithmetic notices.

    Parameters
    ----------
    bundle : Bundle
        Any; in one that is being computed, an exception is a fault of the program's and stays what it is.
    """
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        if not bundle.finished:
            raise
        reason = f"{type(error).__name__}: {printable(one_line(error))}"
        raise InputError(
            f"{bundle.path}: settings, outcomes and records do not fit each other ({reason}); restore it from a copy"
        ) from error


def _text_of(path: Path) -> str:
    return _bytes_of(path).decode()


def _bytes_of(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def mismatches(stored: Any, derived: Any, key: str = "") -> Iterator[str]:
    """Where two JSON values differ by more than rounding.

    Parameters
    ----------
    stored, derived : object
        As JSON gives them.
    key : str
        The name of the whole.

    Yields
    ------
    str
        Key, stored and derived value.
    """
    if isinstance(stored, dict) and isinstance(derived, dict):
        for name in sorted(stored.keys() | derived.keys()):
            where = f"{key}.{name}".lstrip(".")
            if name not in stored or name not in derived:
                yield f"{where} is {'missing' if name in derived else 'not derived from the outcomes'}"
            else:
                yield from mismatches(stored[name], derived[name], where)
    elif isinstance(stored, list) and isinstance(derived, list) and len(stored) == len(derived):
        for i, pair in enumerate(zip(stored, derived, strict=True)):
            yield from mismatches(*pair, f"{key}[{i}]")
    elif _is_number(stored) and _is_number(derived):
        if abs(stored) > MAX_NUMBER or abs(stored - derived) > TOLERANCE * max(1.0, abs(derived)):
            yield f"{key} is {_shown(stored)}, derived is {_shown(derived)}"
    elif type(stored) is not type(derived) or stored != derived:
        yield f"{key} is {_shown(stored)}, derived is {_shown(derived)}"


def common(stored: Any, derived: Any) -> tuple[Any, Any]:
    """Leave out of two JSON values what only one of them has a key for, and words that differ.

    Parameters
    ----------
    stored, derived : object
        As JSON gives them.

    Returns
    -------
    tuple
        What is left of the first and of the second.
    """
    if isinstance(stored, dict) and isinstance(derived, dict):
        pairs = {name: common(stored[name], derived[name]) for name in stored.keys() & derived.keys()}
        return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}
    if isinstance(stored, list) and isinstance(derived, list) and len(stored) == len(derived):
        both = [common(*pair) for pair in zip(stored, derived, strict=True)]
        return [pair[0] for pair in both], [pair[1] for pair in both]
    return (stored, stored) if isinstance(stored, str) and isinstance(derived, str) else (stored, derived)


def _shown(value: Any) -> str:
    """A value as one short line."""
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        return "an integer out of range"
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
