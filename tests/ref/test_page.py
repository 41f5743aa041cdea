"""report.html: one file that fetches nothing, in which what others wrote is text, and the charts in it."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from malade_ref.checks import InputError
from malade_ref.figures import Curve
from malade_ref.report import ReportInput, report_html, results_of
from malade_ref.report.board import audit_text, glance, ordered, standing
from malade_ref.report.charts import Chart, drawn, joined_by
from malade_ref.report.drawing import charts_of, dots_of
from malade_ref.report.gallery import gallery_of
from malade_ref.report.html import page_html, require_page, unpainted
from malade_ref.report.labels import Labels, spelled_out
from malade_ref.report.markup import blocks_of, plain, spans_of
from malade_ref.storage import Record
from tests.outcomes import CONFIG, made_cells, made_histories, made_records

pytest.importorskip("jinja2", reason="the page needs jinja2, which is not installed")

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "{{ 7 * 7 }}",
    "| ' onmouseover='alert(3)",
    "[go](javascript:alert(4))",
    "](x) ![a](http://example.com/a.png) | **b** \\",
)


def made_pictures(num_images: int = 2, channels: int = 1) -> Record:
    """Pictures of every cell, with positions of the chains."""
    rng = np.random.default_rng(2)
    arrays: dict[str, Any] = {"label": np.arange(num_images)}
    for cell in made_cells(num_samples=4):
        shape = (num_images, channels, 6, 6)
        arrays[f"{cell.name}/x_adv"] = rng.random(shape, dtype=np.float32)
        arrays[f"{cell.name}/probability"] = rng.dirichlet(np.ones(10), num_images)
        if "+malade" in cell.defence:
            arrays[f"{cell.name}/steps"] = np.array([0, 1, 1, 3])
            arrays[f"{cell.name}/position"] = rng.integers(0, 256, (4, *shape), dtype=np.uint8)
            arrays[f"{cell.name}/position_probability"] = rng.dirichlet(np.ones(10), (4, num_images))
    return Record(arrays, {})


def made_inputs(**changes: Any) -> ReportInput:
    records = {**made_records(), "pictures": made_pictures()}
    environment = {"environment": {"malade": "1.0"}, "warnings": [], "command": "malade run made --set seed=3"}
    return ReportInput({**CONFIG, **changes}, made_cells(num_samples=20), made_histories(), records, environment)


class Page(HTMLParser):
    """What a browser makes of a page: elements with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def kinds(self) -> dict[str, int]:
        names = [tag for tag, _ in self.elements]
        return {name: names.count(name) for name in names}


@pytest.fixture(scope="module")
def page() -> str:
    inputs = made_inputs()
    return report_html(inputs, results_of(inputs), {})


# The page ------------------------------------------------------------------------------------------------------------


def test_a_page_fetches_nothing_and_is_small(page: str) -> None:
    assert len(page.encode()) < 3 << 20
    for tag, attributes in Page(page).elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "srcset", "href", "data", "action", "poster", "xlink:href"):
                assert re.match(r"data:|#|[\w.+/-]+\.md$", value or ""), (tag, name, value)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "@import" not in page
    assert "url(" not in page


def test_verdict_comes_first_with_the_command(page: str) -> None:
    text = "".join(Page(page).words)
    assert "malade run made --set seed=3" in text
    places = [text.index(words) for words in ("Verdict", "robust than Madry alone", "At a glance", "Accuracy")]
    assert places[0] < places[1] < places[2]
    assert text.index("At a glance") < text.index("The honest reading")


def test_a_page_is_the_same_again(page: str) -> None:
    inputs = made_inputs()
    assert report_html(inputs, results_of(inputs), {}) == page


def test_every_share_has_its_interval(page: str) -> None:
    """Cells of tables that are drawn as a dot have the numbers beside it."""
    rows = re.findall(r"<td[^>]*>(.*?)<svg class=\"track\"", page)
    assert len(rows) > 50
    assert all(re.search(r"\d+\.\d .*\[\d+\.\d, \d+\.\d\]", re.sub(r"<[^>]+>", "", row)) for row in rows)


@pytest.mark.faults
@pytest.mark.parametrize("words", HOSTILE)
def test_names_are_no_markup(words: str, page: str) -> None:
    """Wherever a bundle lets somebody write: titles, notes, names, classes, warnings, commands."""
    config = json.loads(json.dumps(CONFIG))
    config |= {"title": words, "note": words, "name": words}
    config["data"] |= {"name": words, "note": words, "class_names": [words] * 10}
    for table in (*config["models"].values(), *config["defences"].values()):
        table["name"] = words
    for attack in config["attacks"]:
        attack["title"] = words
    for entry in config["paper"]:
        entry |= {"table": words, "attack": words}
    inputs = made_inputs(**config)
    inputs.environment.update(warnings=[words], command=words)
    inputs.environment["environment"]["malade"] = words
    found = report_html(inputs, results_of(inputs), {})
    kinds, expected = Page(found).kinds(), Page(page).kinds()
    # A title may take a line of a legend of its own; what others wrote adds no element of another kind.
    assert set(kinds) <= set(expected) | {"code"}
    assert kinds["script"] == expected["script"] == 2
    assert kinds.get("img", 0) == expected.get("img", 0)
    for tag, attributes in Page(found).elements:
        assert not any(name.startswith("on") for name in attributes), tag
        assert not (attributes.get("href") or "").startswith(("javascript", "http"))
        assert tag != "a" or re.match(r"#|[\w.+/-]+\.md$", attributes["href"] or "")
    # It is there, as text.
    assert words in "".join(Page(found).words)
    # Of a JSON island nothing ends the element.
    island = re.search(r'id="gallery-data">(.*?)</script>', found, flags=re.DOTALL)
    assert island is not None
    assert "<" not in island[1]
    assert json.loads(island[1])["defences"][0][1] == words


def test_without_pictures_there_is_no_gallery() -> None:
    inputs = made_inputs()
    inputs.records.pop("pictures")
    found = report_html(inputs, results_of(inputs), {"figures/pictures-1.png": b"made"})
    assert 'id="gallery-data"' not in found
    assert base64.b64encode(b"made").decode() in found, "what was kept is shown as it is"


def test_figures_beyond_the_room_are_links() -> None:
    text = "# T\n\n![small](figures/a.png)\n\n![large](figures/b.png)\n"
    found = page_html(text, figures={"figures/a.png": b"a" * 10, "figures/b.png": b"b" * 2_000_000})
    assert 'href="figures/b.png"' in found
    assert len(found) < 1_000_000
    assert base64.b64encode(b"a" * 10).decode() in found


def test_images_are_left_out_of_a_comparison(page: str) -> None:
    image = re.search(r'"image": "([A-Za-z0-9+/=]{40,})"', page)
    assert image is not None
    other = page.replace(image[1], image[1][:-8])
    assert other != page
    assert unpainted(other) == unpainted(page)
    assert unpainted(page.replace("Madry", "Mallory")) != unpainted(page)


def test_missing_jinja_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=r"pip install 'malade\[cli\]'") as caught:
        require_page()
    assert "\n" not in str(caught.value)


# Its parts -----------------------------------------------------------------------------------------------------------


def test_markdown_is_read_as_it_was_meant() -> None:
    spans = spans_of(r"a **b** *c* `d` \*e\* &lt;f> 2 * 3 [g](h/report.md) **i")
    assert [span.text for span in spans if span.strong] == ["b"]
    assert [span.text for span in spans if span.em] == ["c"]
    assert [span.text for span in spans if span.code] == ["d"]
    assert [span.link for span in spans if span.link] == ["h/report.md"]
    assert plain(spans) == "a b c d *e* <f> 2 * 3 g **i"
    table, figure = blocks_of("| a | b |\n| --- | --- |\n| x \\| y | 1.0 [0.5, 2.5] |\n\n![c](figures/d.png)\n\n*c*\n")
    assert [plain(cell.spans) for cell in table.rows[0]] == ["x | y", "1.0 [0.5, 2.5]"]
    assert table.rows[0][1].share == (1.0, 0.5, 2.5)
    assert (figure.kind, figure.file) == ("figure", "figures/d.png")
    (paragraph,) = blocks_of("|r(x) - x| is small.\n")
    assert plain(paragraph.spans) == "|r(x) - x| is small."


@pytest.mark.faults
def test_a_curve_joins_only_sizes_with_the_same_attacks() -> None:
    assert joined_by([None, "ab", "ab", "abc", "ab"]) == [[0, 1, 2], [3], [4]]
    assert joined_by([{"a"}]) == [[0]]
    curve = Curve("worst", [0.1, 0.2, 0.3], [0.9, 0.5, 0.1], [0.8] * 3, [1.0] * 3, True, [[0, 1], [2]])
    chart = drawn(Chart({"CNN": [curve]}, "eps", {"CNN": 0.98}))
    (panel,) = chart["panels"]
    (line,) = panel["lines"]
    assert line["points"].count(",") == 2
    assert len(panel["markers"]) == 3
    assert panel["x_ticks"][0]["text"] == "0"
    assert [tick["text"] for tick in panel["y_ticks"]] == ["0", "25", "50", "75", "100"]


@pytest.mark.faults
def test_attacks_of_one_size_are_dots_in_the_order_of_their_strength() -> None:
    inputs = made_inputs()
    results = results_of(inputs)
    dots = dots_of(results, Labels(inputs.config, results))["CNN+MALADE"]
    assert dots[0].label == "clean images"
    assert dots[-1].label == "worst attack for each image"
    values = [dot.value for dot in dots[1:-1]]
    assert values == sorted(values, reverse=True)
    assert all(dot.low <= dot.value <= dot.high for dot in dots)


def test_charts_are_those_of_the_figures() -> None:
    inputs = made_inputs()
    results = results_of(inputs)
    charts = charts_of(inputs, results, Labels(inputs.config, results))
    assert set(charts) == {"figures/accuracy.png", "figures/training.png"}
    ticks = [float(tick["text"]) for tick in drawn(charts["figures/training.png"])["panels"][0]["x_ticks"]]
    assert ticks == [0, 1, 2, 3]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_gallery_has_what_was_kept(channels: int) -> None:
    from PIL import Image

    inputs = made_inputs()
    inputs.records["pictures"] = made_pictures(channels=channels)
    results = results_of(inputs)
    gallery = gallery_of(inputs, Labels(inputs.config, results))
    assert gallery is not None
    view = gallery["views"]["exact/0.3|cnn+malade"]["1"]
    assert [position["step"] for position in view["chain"]] == [0, 1, 3], "each step once"
    image = Image.open(io.BytesIO(base64.b64decode(view["image"])))
    assert image.size == (6, 6)
    stored = inputs.records["pictures"].arrays["cnn+malade/exact/0.3/x_adv"][1]
    expected = np.rint(255 * stored)
    shown = np.asarray(image)
    assert (shown == (np.moveaxis(expected, 0, -1) if channels == 3 else expected[0])).all()
    probability = inputs.records["pictures"].arrays["cnn+malade/exact/0.3/probability"][1]
    assert view["classes"][0][0] == str(probability.argmax())
    assert view["classes"][0][2] == (probability.argmax() == 1)
    assert "chain" not in gallery["views"]["pgd/0.3|cnn"]["0"]


def test_a_gallery_that_is_too_large_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = made_inputs()
    labels = Labels(inputs.config, results_of(inputs))
    whole = gallery_of(inputs, labels)
    assert whole is not None
    assert whole["note"] == ""
    monkeypatch.setattr("malade_ref.report.gallery.MOST_BYTES", len(json.dumps(whole)) * 2 // 3)
    smaller = gallery_of(inputs, labels)
    assert smaller is not None
    assert len(smaller["images"]) == 1
    assert "only 1 of 2 images" in smaller["note"]
    monkeypatch.setattr("malade_ref.report.gallery.MOST_BYTES", 10)
    assert gallery_of(inputs, labels) is None


def test_the_audit_names_attacks_as_people_do() -> None:
    inputs = made_inputs()
    labels = Labels(inputs.config, results_of(inputs))
    assert spelled_out("cnn+malade, linf 0.3, exact and bpda: 1.0% against 2.0%; cnn 0.0% at eps 0.5", labels) == (
        "CNN+MALADE, L-infinity 0.3, exact, EOT 10 and BPDA, EOT 10: 1.0% against 2.0%; CNN 0.0% at eps 0.5"
    )
    assert spelled_out("exact attacks had at least 1.2 times the gradients of BPDA", labels).startswith("exact attacks")
    assert spelled_out("cnn, pgd, eps 0.3 and 0.1: 1% against 2%", labels).startswith("CNN, PGD-40, eps 0.3 and")


# The board -----------------------------------------------------------------------------------------------------------


def test_a_board_has_intervals_and_budgets() -> None:
    inputs = made_inputs()
    results = results_of(inputs)
    labels = Labels(inputs.config, results)
    rows = {row["name"]: row for row in standing(results, labels)}
    row = rows["cnn+malade"]
    worst = results["defences"]["cnn+malade"]["worst"]["linf 0.3"]
    assert row["worst"] == worst["honest"]["mean"]
    assert (row["attacks"], row["gradients"], row["draws"]) == (len(worst["attacks"]), 400, 40)
    assert rows["cnn"]["ignorant"] is None
    assert row["ignorant"] == worst["attacks"]["transfer"]
    assert glance(results, labels)["threat"] == "L-infinity 0.3"
    facts = {"data": "a", "threat": "t"}
    order = ordered([{**facts, **one} for one in rows.values()])
    assert [one["worst"]["value"] for one in order] == sorted((one["worst"]["value"] for one in order), reverse=True)
    assert audit_text(2, 1) == "2 failed, 1 not run"
    assert audit_text(0, 0) == "none failed"
