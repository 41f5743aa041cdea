"""The examples run, and say what they promise."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import malade_ref
from malade_ref.checks import InputError
from malade_ref.interop import from_torch

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

EXAMPLE = Path(malade_ref.__file__).parent / "examples" / "own_model.py"
MOST_LINES = 15


def cells() -> list[str]:
    """Texts of the cells."""
    return re.split(r"^# %%.*$", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


def lines_of_code(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def test_a_cell_is_all_that_one_writes() -> None:
    _, *users = cells()
    assert len(users) == 3
    for cell in users:
        assert 5 < lines_of_code(cell) <= MOST_LINES
        assert {"wrap", "MALADE", "fit"} <= {
            node.id for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Name)
        }


def test_own_models_defended_and_judged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MALADE_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    finally:
        torch.set_num_threads(threads)
    x, y = found["x_test"], found["y_test"]
    for name in ("resnet", "softmax", "spectral"):
        assert (found[name].predict(x) == y).mean() > 0.9, name
    assert found["check"].relative_error < 1e-4
    assert all(0 <= one["low"] <= one["value"] <= one["high"] <= 1 for one in found["verdict"].values())
    assert found["verdict"]["bare"]["value"] < 0.8
    # The softmax is undone: the same network, the same verdict.
    np.testing.assert_allclose(found["right_softmax"].mean(), found["verdict"]["defended"]["value"], atol=0.05)
    assert found["right_spectral"]["pgd"].mean() <= found["right_spectral"]["square"].mean()
    with pytest.raises(InputError, match=r"malade_ref\.interop\.wrap$"):
        from_torch(found["your_spectral"], found["SHAPE"])
    assert "the gradient differs from finite differences by" in capsys.readouterr().out
