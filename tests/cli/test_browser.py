"""report.html in a browser: it is opened, sorted, looked through. Needs Chromium and playwright; axe if there is one.

MALADE_AXE names the file axe.min.js of the npm package axe-core.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from malade_ref.report import report_html, results_of
from tests.ref.test_page import HOSTILE, made_inputs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 120_000  # milliseconds

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, which is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as player:
        found = player.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS), timeout=PATIENCE)
        yield found
        found.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page in which every name tries to be markup."""
    config = json.loads(json.dumps(made_inputs().config))
    config["defences"]["cnn"]["name"] = HOSTILE[0]
    config["attacks"][0]["title"] = HOSTILE[1]
    config["title"] = HOSTILE[2]
    inputs = made_inputs(**config)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_html(inputs, results_of(inputs), {}))
    return path


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(browser: Any, file: Path, width: int) -> None:
    scheme = "light" if width == 1280 else "dark"
    with browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp="MALADE_AXE" in os.environ
    ) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        fetched: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: fetched.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(file.as_uri())

        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page itself is not scrolled aside"
        assert page.locator("#verdict").bounding_box()["y"] < 900, "the verdict is what one sees first"

        # Tables sort, by the keyboard.
        table = page.locator("section[aria-labelledby=s-accuracy] table").first
        head = table.locator("thead th").nth(2)
        head.locator("button").focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        values = "rows => rows.map(row => Number(row.children[2].dataset.key)).filter(key => !Number.isNaN(key))"
        rows = table.locator("tbody tr:not(.pinned)")
        up = rows.evaluate_all(values)
        assert len(up) > 3
        assert up == sorted(up)
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert rows.evaluate_all(values) == up[::-1]
        assert "worst case" in table.locator("tbody tr").nth(-3).inner_text()

        # The gallery switches.
        images = page.locator("#shots img")
        before = images.evaluate_all("all => all.map(one => one.src)")
        assert len(before) == 6, "clean, perturbation, attacked, three positions"
        page.locator("#choose-image").select_option("1")
        after = images.evaluate_all("all => all.map(one => one.src)")
        assert len(after) == 6
        assert all(one != other for one, other in zip(before, after, strict=True))
        assert "Image 2" in page.locator("#said").inner_text()
        page.locator("#choose-defence").select_option("cnn")
        assert images.count() == 3
        attacks = page.locator("#choose-attack option").all_inner_texts()
        assert HOSTILE[1] + ", L-infinity 0.3" in attacks
        page.locator("#choose-attack").select_option("noise/0.3")
        assert images.first.evaluate("one => getComputedStyle(one).imageRendering") == "pixelated"
        assert images.first.evaluate("one => one.naturalWidth") == 6

        assert [url for url in fetched if not url.startswith("data:")] == [file.as_uri()]
        assert said == []

        axe = os.environ.get("MALADE_AXE")
        if axe:
            page.evaluate(Path(axe).read_text())
            found = page.evaluate("axe.run(document)")["violations"]
            serious = [
                (one["id"], [node["html"][:200] for node in one["nodes"][:3]])
                for one in found
                if one["impact"] in ("serious", "critical")
            ]
            assert serious == []
