"""The examples that need no further library run, and show what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import malade_ref

FOLDER = Path(malade_ref.__file__).parent / "examples"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example writes goes where the test is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MALADE_NUM_THREADS", "1")


def run(name: str) -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / f"{name}.py"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_examples_have_cells(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    cells = re.findall(r"^# %% (.+)$", text, flags=re.MULTILINE)
    assert len(cells) >= 4
    assert all(re.search(rf"^# %% {re.escape(cell)}\n\n", text, flags=re.MULTILINE) for cell in cells)


def test_figure_2_for_one_digit() -> None:
    found = run("figure2")
    assert found["classes"][0] != found["y_test"][found["number"]] == found["classes"][-1]
    assert len(found["path"]) == found["defended"].chain.num_steps + 1
    assert Path("figure2.png").read_bytes().startswith(b"\x89PNG")
    assert "<img" in found["path"]._repr_html_()


def test_the_theorem_on_a_mixture_of_one_s_own() -> None:
    found = run("own_mixture")
    assert max(found["tweedie"].values()) < 1e-10
    errors = found["errors"]
    for name, order in (("calibrated", 2.0), ("twice too sure", 0.0)):
        slope = np.log2(errors[name, 0.1] / errors[name, 0.05])
        assert abs(slope - order) < 0.1, name
    expected = found["mixture"].weights @ found["mixture"].means
    assert np.abs(found["means"]["MALA"] - expected).max() < 0.4


def test_a_folder_of_colour_photographs() -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    found = run("photographs")
    assert found["data"].class_names == ("across", "slanted", "upright")
    x, y = found["x_test"], found["y_test"]
    assert (found["classifier"].predict(x) == y).mean() > 0.8
    aware, unaware = (found["verdict"][name]["value"] for name in ("through the defence", "unaware of the defence"))
    assert aware <= unaware
