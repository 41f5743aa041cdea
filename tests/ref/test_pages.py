"""The API pages are built from the docstrings without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_pages_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="pdoc is not installed; the extra docs has it")
    command = [sys.executable, "-m", "tests.pages", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "malade_ref" / "attacks.html").read_text()
    assert "num_restarts" in page
    assert {"defence.html", "training.html", "ops.html"} <= {path.name for path in (tmp_path / "malade_ref").iterdir()}
