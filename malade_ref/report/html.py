"""report.html: a report as one file for a browser, which fetches nothing.

It has the text of report.md, its tables to be sorted, its charts drawn as SVG, and a gallery of the pictures. What
others wrote reaches it as text: the template escapes it, and a policy in the page's head lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from malade_ref.checks import InputError, printable
from malade_ref.report.board import glance
from malade_ref.report.charts import Chart, drawn
from malade_ref.report.drawing import DOTS, charts_of
from malade_ref.report.gallery import gallery_of
from malade_ref.report.labels import Labels
from malade_ref.report.markdown import named
from malade_ref.report.markup import Block, Cell, Span, blocks_of, plain
from malade_ref.report.reading import ReportInput
from malade_ref.report.text import PICTURES, report_text

# Characters of the figures that a page holds as PNG; for more it has links.
MOST_FIGURES = 1_200_000
_PAYLOAD = re.compile(r"(data:image/png;base64,|\"(?:change|image)\": \"|\"clean\": \[)[A-Za-z0-9+/=\", ]*")


def require_page() -> None:
    """Raise unless the page can be written."""
    try:
        import jinja2  # noqa: F401
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise InputError(f"the page: needs jinja2 and pillow ({error}); pip install 'malade[cli]'") from error


def report_html(inputs: ReportInput, results: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """Write the page of a bundle.

    Parameters
    ----------
    inputs : ReportInput
        What a bundle holds.
    results : mapping
        From `malade_ref.report.results.results_of`.
    figures : mapping of str to bytes
        PNG files by their names, as far as there are any.

    Returns
    -------
    str
        HTML.
    """
    shown = inputs._replace(config=named(inputs.config, printable))
    labels = Labels(shown.config, results)
    charts, gallery = charts_of(shown, results, labels), gallery_of(shown, labels)
    names = [name for name in figures if not (gallery and name.startswith(PICTURES))]
    names += [name for name in charts if name not in figures]
    text = report_text(results, inputs.config, inputs.environment, [*names, *([f"{PICTURES}1.png"] if gallery else [])])
    return page_html(
        text,
        figures=figures,
        charts=charts,
        gallery=gallery,
        summary=glance(results, labels),
        command=printable(inputs.environment.get("command") or ""),
    )


def page_html(
    text: str,
    *,
    figures: Mapping[str, bytes],
    charts: Mapping[str, Chart] | None = None,
    gallery: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    command: str = "",
    most: int = MOST_FIGURES,
) -> str:
    """Write a page.

    Parameters
    ----------
    text : str
        Markdown, as reports are written in.
    figures : mapping of str to bytes
        PNG files by the names that the text gives them.
    charts : mapping of str to Chart, optional
        What is drawn in place of some of these files.
    gallery : mapping, optional
        From `malade_ref.report.gallery.gallery_of`; it stands where the text has pictures.
    summary : mapping, optional
        A small table below the verdict, from `malade_ref.report.board.glance`.
    command : str
        What made it all.
    most : int
        Characters of the figures that it holds as PNG.
    """
    title, first, sections = _sections(text)
    room = _Room(figures, most)
    parts = _Parts({name: drawn(chart) for name, chart in (charts or {}).items()}, gallery, room)
    content = {
        "title": title,
        "first": list(parts.of(first)),
        "sections": [{**section, "parts": list(parts.of(section["blocks"]))} for section in sections],
        "summary": summary,
        "command": command,
        "gallery": gallery,
    }
    return render("report.html", content)


def render(template: str, content: Mapping[str, Any]) -> str:
    """Fill a template in.

    Parameters
    ----------
    template : str
        Its name among this package's.
    content : mapping
        What it shows; every string is escaped.
    """
    require_page()
    environment = _environment()
    digest = base64.b64encode(hashlib.sha256(_file("page.js").encode()).digest()).decode()
    page = environment.get_template(template).render(
        **content, script=environment.markup(_file("page.js")), style=environment.markup(_file("page.css")), hash=digest
    )
    return str(page).rstrip() + "\n"


def unpainted(page: str) -> str:
    """A page without the bytes of its images, which another version of a library may write otherwise.

    Parameters
    ----------
    page : str
        HTML.
    """
    return _PAYLOAD.sub(r"\1", page)


@cache
def _environment() -> Any:
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.markup = markupsafe.Markup  # type: ignore[attr-defined]
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}
    return environment


@cache
def _file(name: str) -> str:
    return resources.files("malade_ref.report").joinpath("templates", name).read_text(encoding="utf-8")


def _sections(text: str) -> tuple[str, list[Block], list[dict[str, Any]]]:
    """Title of a page, what stands before its first section, and the sections."""
    title = "Report"
    first: list[Block] = []
    sections: list[dict[str, Any]] = []
    used: set[str] = set()
    for block in blocks_of(text):
        if block.kind == "heading" and block.level == 1:
            title = plain(block.spans)
        elif block.kind == "heading" and block.level == 2:
            name = re.sub(r"[^a-z0-9]+", "-", plain(block.spans).lower()).strip("-") or "section"
            number = 2
            while name in used:
                name, number = f"{name.rstrip('-0123456789')}-{number}", number + 1
            used.add(name)
            sections.append({"id": f"s-{name}", "title": plain(block.spans), "blocks": []})
        else:
            (sections[-1]["blocks"] if sections else first).append(block)
    return title, first, sections


class _Room:
    """The files that a page holds, as long as there is room for them."""

    def __init__(self, figures: Mapping[str, bytes], most: int) -> None:
        self._figures, self._left = figures, most

    def take(self, name: str) -> str:
        """A file in base64; empty if there is no room, or no file."""
        content = base64.b64encode(self._figures.get(name, b"")).decode()
        if len(content) > self._left:
            return ""
        self._left -= len(content)
        return content


class _Parts:
    """Makes of blocks what the template writes."""

    def __init__(self, charts: Mapping[str, Any], gallery: Mapping[str, Any] | None, room: _Room) -> None:
        self._charts, self._gallery, self._room = charts, gallery, room
        self._number = 0

    def of(self, blocks: Sequence[Block]) -> Iterator[dict[str, Any]]:
        title = ""
        for block in blocks:
            if block.kind == "heading":
                title = plain(block.spans)
                yield {"kind": "heading", "spans": block.spans, "level": min(block.level, 4)}
            elif block.kind == "figure":
                yield from self._figure(block)
            elif block.kind == "table":
                self._number += 1
                yield {
                    "kind": "table",
                    "head": block.head,
                    "groups": _groups(block.rows),
                    "name": title,
                    "number": self._number,
                }
            elif block.kind == "paragraph":
                bold = 0
                while bold < len(block.spans) and (block.spans[bold].strong or not block.spans[bold].text.strip()):
                    bold += 1
                yield {
                    "kind": "paragraph",
                    "spans": block.spans,
                    "bold": block.spans[:bold],
                    "rest": block.spans[bold:],
                }
            else:
                yield {"kind": block.kind, "items": block.items}

    def _figure(self, block: Block) -> Iterator[dict[str, Any]]:
        if block.file in self._charts:
            self._number += 1
            yield {"kind": "chart", "chart": self._charts[block.file], "spans": block.spans, "number": self._number}
        elif self._gallery and block.file.startswith(PICTURES):
            yield {"kind": "gallery"}
        elif block.file != DOTS:  # whose dots are in the table
            content = self._room.take(block.file)
            yield {"kind": "image", "file": block.file, "content": content, "spans": block.spans}


def _groups(rows: Sequence[tuple[Cell, ...]]) -> list[dict[str, Any]]:
    """Rows of a table below the titles among them; those at the end that are no attacks stay there."""
    groups: list[dict[str, Any]] = [{"title": (), "rows": []}]
    for row in rows:
        first = row[0].spans
        bold = bool(first) and all(span.strong for span in first)
        if bold and not any(cell.spans for cell in row[1:]):
            groups.append({"title": first, "rows": []})
        else:
            groups[-1]["rows"].append({"cells": row, "pinned": bold or _quoted(first)})
    return [group for group in groups if group["rows"] or group["title"]]


def _quoted(spans: Sequence[Span]) -> bool:
    return bool(spans) and spans[0].em and spans[0].text.startswith("the paper")
