"""Names and notes as text and nothing else: whoever wrote an experiment's titles commands neither page nor terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from malade_ref.checks import printable

# What Markdown and HTML give a meaning to: anywhere; at the edge of a word only; at the beginning of a line. Bars are
# the business of `malade_ref.report.labels.table`.
_CODE = re.compile(r"(`[^`]+`)")
_SPECIAL = re.compile(r"[\\`*<\[\]~]|(?<!\w)_|_(?!\w)|^[#>+=-]|^(?=[0-9]+[.)]\s)|&(?=#?\w+;)")

_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])|&lt;")

_NAMES = ("name", "note", "title")


def inert(text: str) -> str:
    r"""Text for a Markdown page, in which nothing is markup but spans of code.

    Parameters
    ----------
    text : str
        A title, a name or a note.

    Returns
    -------
    str
        One line that reads the same when it is rendered.

    Examples
    --------
    >>> print(inert("CNN + MALADE, a_b"), inert("<b>*x*</b>"))
    CNN + MALADE, a_b &lt;b>\*x\*&lt;/b>
    """
    parts = _CODE.split(printable(text))
    # Every second one is a span of code, in which nothing has a meaning.
    parts[::2] = [_SPECIAL.sub(_escaped, part) for part in parts[::2]]
    return "".join(parts)


def spoken(text: str) -> str:
    """A sentence of a page as a terminal shows it.

    Parameters
    ----------
    text : str
        With what `inert` wrote.

    Returns
    -------
    str
        Without the escapes.
    """
    return _ESCAPED.sub(lambda match: match[1] or "<", text)


def _escaped(match: re.Match[str]) -> str:
    return "&lt;" if match[0] == "<" else f"\\{match[0]}"


def named(config: Mapping[str, Any], clean: Callable[[str], str]) -> dict[str, Any]:
    """An experiment whose titles, names and notes are cleaned; what refers to something is as it was.

    Parameters
    ----------
    config : mapping
        The experiment.
    clean : callable
        `inert` for a page, `malade_ref.checks.printable` for a figure.
    """
    cleaned = {**config, **_cleaned(config, clean)}
    for key in ("models", "defences"):
        if config.get(key):
            cleaned[key] = {name: {**value, **_cleaned(value, clean)} for name, value in config[key].items()}
    if config.get("data"):
        cleaned["data"] = {**config["data"], **_cleaned(config["data"], clean)}
    if config.get("attacks"):
        cleaned["attacks"] = [{**attack, **_cleaned(attack, clean, ("title",))} for attack in config["attacks"]]
    for key in ("sheets", "perturbations", "walks"):
        if config.get(key):
            cleaned[key] = [{**plate, **_cleaned(plate, clean, ("title",))} for plate in config[key]]
    if config.get("paper"):
        cleaned["paper"] = [{**entry, **_cleaned(entry, clean, ("table", "attack"))} for entry in config["paper"]]
    return cleaned


def said(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results whose words that a bundle brings are inert.

    Parameters
    ----------
    results : mapping
        From `malade_ref.report.results.results_of`.
    """
    cleaned = dict(results)
    if "search" in results:
        cleaned["search"] = {
            name: {
                **search,
                "criterion": inert(search["criterion"]),
                "at_edge_of_grid": [inert(key) for key in search["at_edge_of_grid"]],
            }
            for name, search in results["search"].items()
        }
    for key in ("tables", "figures"):
        if key in results:
            cleaned[key] = {name: _titles(found) for name, found in results[key].items()}
    if "certified" in results:
        smoothed = results["certified"]["smoothed"]
        cleaned["certified"] = {
            **results["certified"],
            "smoothed": {name: {**found, "title": inert(found["title"])} for name, found in smoothed.items()},
        }
    return cleaned


def _titles(value: Any) -> Any:
    """A value of JSON in which titles and notes are inert."""
    if isinstance(value, Mapping):
        own = {key: _titles(item) for key, item in value.items()}
        return {**own, **_cleaned(own, inert)}
    return [_titles(item) for item in value] if isinstance(value, list) else value


def deep(value: Any, clean: Callable[[str], str]) -> Any:
    """A value of JSON, all strings in it cleaned.

    Parameters
    ----------
    value : object
        Such as a run's environment.
    clean : callable
        As of `named`.

    Returns
    -------
    object
        A copy.
    """
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(key): deep(item, clean) for key, item in value.items()}
    return [deep(item, clean) for item in value] if isinstance(value, list) else value


def _cleaned(table: Mapping[str, Any], clean: Callable[[str], str], keys: tuple[str, ...] = _NAMES) -> dict[str, str]:
    return {key: clean(table[key]) for key in keys if isinstance(table.get(key), str)}
