r"""The Markdown that reports are written in, as parts of a web page.

It is a small part of Markdown, the one that this package writes: headings, paragraphs, tables, lists, quotes, figures
alone on a line; in them bold and italic type, code, links to files, small print. Everything else is text. A name that
came from a file is text as well: `malade_ref.report.markdown.inert` wrote it, and what it escaped is read back here as
the character itself, which the page's template then escapes for HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# What a span of text is: its words and how they are set. HTML is made of it by the template only.
_INLINE = re.compile(
    r"\\(?P<escaped>[!-/:-@\[-`{-~])|(?P<less>&lt;)|`(?P<code>[^`]+)`|(?P<strong>\*\*)|(?P<em>\*)"
    r"|\[(?P<text>(?:\\.|[^\[\]\\])+)\]\((?P<link>[\w./+=,-]+)\)|(?P<line><br>)|<sub>(?P<small>[^<]*)</sub>"
)
_FIGURE = re.compile(r"!\[(?P<alt>(?:\\.|[^\[\]\\])*)\]\((?P<file>[\w./+=,-]+)\)$")
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
# A share of a hundred with its interval, at the beginning of a cell.
_SHARE = re.compile(r"(\d+\.\d) \[(\d+\.\d), (\d+\.\d)\]")

# Characters of a cell that needs room.
LONG = 60


class Span(NamedTuple):
    """Some characters of a text that are set alike.

    Attributes
    ----------
    text : str
        As a reader sees it.
    strong, em, code, small, line : bool
        Bold, italic, of a program, small print; or no text, and a new line.
    link : str
        A file; empty if it is none.
    """

    text: str
    strong: bool = False
    em: bool = False
    code: bool = False
    small: bool = False
    line: bool = False
    link: str = ""


class Cell(NamedTuple):
    """A cell of a table.

    Attributes
    ----------
    spans : tuple of Span
        Its text.
    key : float, optional
        What its column is sorted by: the first number in it.
    share : tuple of float, optional
        Value and limits in percent, if it is a share with an interval.
    is_long : bool
        Whether it needs room.
    """

    spans: tuple[Span, ...]
    key: float | None
    share: tuple[float, float, float] | None
    is_long: bool


class Block(NamedTuple):
    """A part of a page.

    Attributes
    ----------
    kind : str
        ``"heading"``, ``"paragraph"``, ``"quote"``, ``"list"``, ``"table"`` or ``"figure"``.
    spans : tuple of Span
        Of a heading or a paragraph; the caption of a figure.
    items : tuple of tuples of Span
        Of a list or a quote.
    head, rows : tuple
        Of a table.
    level : int
        Of a heading.
    file : str
        Of a figure.
    """

    kind: str
    spans: tuple[Span, ...] = ()
    items: tuple[tuple[Span, ...], ...] = ()
    head: tuple[Cell, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    level: int = 0
    file: str = ""


def spans_of(text: str) -> tuple[Span, ...]:
    """Read the text of a paragraph, a heading or a cell.

    Parameters
    ----------
    text : str
        One line of Markdown.

    Examples
    --------
    >>> [span.text for span in spans_of("a **b** &lt;i>")]
    ['a ', 'b', ' <i>']
    """
    found: list[Span] = []
    # Where bold and italic type began; what never ends was an asterisk.
    begun: dict[str, int] = {}
    position = 0

    def add(words: str, **kind: bool | str) -> None:
        style = {key: True for key in begun}
        found.append(Span(words, **{**style, **kind}))  # type: ignore[arg-type]

    for match in _INLINE.finditer(text):
        if match.start() > position:
            add(text[position : match.start()])
        position = match.end()
        kind = match.lastgroup or ""
        if kind in ("strong", "em"):
            after, before = text[match.end() : match.end() + 1], text[match.start() - 1 : match.start()]
            if kind in begun and before and not before.isspace():
                del begun[kind]
            elif kind not in begun and after and not after.isspace():
                begun[kind] = len(found)
            else:
                add(match[0])
        elif kind == "link":
            add("".join(span.text for span in spans_of(match["text"])), link=match["link"])
        elif kind == "line":
            add("", line=True)
        elif kind == "less":
            add("<")
        else:
            add(match[kind], **({kind: True} if kind in ("code", "small") else {}))
    if position < len(text):
        add(text[position:])
    for kind, place in begun.items():
        bold = kind == "strong"
        found[place:] = [span._replace(strong=False) if bold else span._replace(em=False) for span in found[place:]]
        found.insert(place, Span("**" if bold else "*"))
    return _joined(found)


def _joined(found: Sequence[Span]) -> tuple[Span, ...]:
    """Neighbours that are set alike as one."""
    spans: list[Span] = []
    for span in found:
        last = spans[-1] if spans else None
        if last and not (last.line or span.line or last.link or span.link) and last[1:] == span[1:]:
            spans[-1] = last._replace(text=last.text + span.text)
        else:
            spans.append(span)
    return tuple(spans)


def plain(spans: Sequence[Span]) -> str:
    """The characters of a text alone.

    Parameters
    ----------
    spans : sequence of Span
        The text.
    """
    return "".join(" " if span.line else span.text for span in spans)


def blocks_of(text: str) -> Iterator[Block]:
    """Read a page.

    Parameters
    ----------
    text : str
        Markdown as reports are written in.

    Yields
    ------
    Block
        Its parts in order; the caption that repeats a figure's words is left out.
    """
    lines = text.splitlines()
    number = 0
    caption = None
    while number < len(lines):
        line = lines[number]
        number += 1
        if not line:
            continue
        figure = _FIGURE.match(line)
        if figure:
            caption = spans_of(figure["alt"])
            yield Block("figure", spans=caption, file=figure["file"])
            continue
        if line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            yield Block("heading", spans=spans_of(line[level:].strip()), level=level)
        elif line[0] == "|" and "".join(lines[number : number + 1]).startswith("| --"):
            end = number
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            yield Block("table", head=_cells(line), rows=tuple(map(_cells, lines[number + 1 : end])))
            number = end
        elif line[0] in ">-" and line[1:2] in (" ", ""):
            group = [line]
            while number < len(lines) and lines[number].startswith(line[0]):
                group.append(lines[number])
                number += 1
            items = tuple(spans_of(item) for one in group if (item := one[1:].strip()))
            yield Block("quote" if line[0] == ">" else "list", items=items)
        else:
            spans = spans_of(line)
            if caption is None or plain(spans) != plain(caption):
                yield Block("paragraph", spans=spans)
        caption = None


def _cells(line: str) -> tuple[Cell, ...]:
    # A bar that belongs to a cell stands behind an odd number of backslashes.
    parts = re.findall(r"((?:\\.|[^|\\])*)\|", line.strip().removeprefix("|"))
    return tuple(_cell(part.strip()) for part in parts)


def _cell(text: str) -> Cell:
    spans = spans_of(text)
    words = plain(spans)
    number, share = _NUMBER.match(words), _SHARE.match(words)
    return Cell(
        spans,
        float(number[0].replace(",", "")) if number else None,
        (float(share[1]), float(share[2]), float(share[3])) if share else None,
        len(words) > LONG,
    )
