"""`malade compare`: defences of several bundles on one board."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from malade_ref.report import write_report
from tests.cli.conftest import Malade
from tests.outcomes import made_cells, write_bundle

pytest.importorskip("jinja2", reason="the page needs jinja2, which is not installed")


def bundle(folder: Path) -> Path:
    with write_bundle(folder, made_cells(num_samples=30)) as made:
        write_report(made, figures=False)
        made.finish()
    return folder


def test_compare(malade: Malade, tmp_path: Path) -> None:
    folder = tmp_path / "javascript:alert(1)"
    one, other = bundle(tmp_path / "one"), bundle(folder)
    answer = malade("compare", one, other, one, "--out", tmp_path / "board.html")
    assert (answer.code, answer.err) == (0, "")
    head, *rows, last = answer.out.splitlines()
    assert head.split()[:2] == ["classifier", "threat"]
    assert len(rows) == 8, "four defences of each bundle; one that is given twice counts once"
    worst = [float(re.findall(r"(\d+\.\d) \[", row)[1]) for row in rows]
    assert worst == sorted(worst, reverse=True)
    assert last == f"board: {tmp_path / 'board.html'}"
    page = (tmp_path / "board.html").read_text()
    links = re.findall(r'href="([^"]+report\.html)"', page)
    assert set(links) == {"one/report.html", "javascript%3Aalert%281%29/report.html"}
    assert "CNN+MALADE" in page
    assert "exists already" in malade.fails("compare", one, "--out", tmp_path / "board.html")
    assert "no folder" in malade.fails("compare", one, "--out", tmp_path / "none" / "board.html")
    assert "none" in malade.fails("compare", tmp_path / "none")


def test_compare_takes_no_theorem(malade: Malade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bundle(tmp_path / "one")
    monkeypatch.setattr("malade_ref.theorem.is_theorem", lambda bundle: True)
    assert "has no defences" in malade.fails("compare", one)
