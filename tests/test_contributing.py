"""The examples in CONTRIBUTING.md and README.md work: their Python blocks, run in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from malade_ref import cnn, save, sdae

ROOT = Path(__file__).resolve().parents[1]
LINES = {"README.md": 150, "CONTRIBUTING.md": 200}


def blocks(name: str) -> list[str]:
    """The Python blocks of a text."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(program: str, folder: Path) -> str:
    """What a program prints that is run in a folder, with warnings as errors."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "MALADE_CACHE": str(folder / "cache"), "MALADE_STORE": "off"}
    (folder / "example.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_contributing(tmp_path: Path) -> None:
    program = "\n".join(blocks("CONTRIBUTING.md"))
    assert {"@card", "@register", "extends"} <= set(re.findall(r"@?\w+", program))
    run(program, tmp_path)


def test_readme(tmp_path: Path) -> None:
    save(cnn("small"), tmp_path / "cnn.h5")
    save(sdae("small"), tmp_path / "sdae.h5")
    program = "\n".join(blocks("README.md"))
    assert "load(" in program
    # The example's images, and less of everything.
    np.savez(tmp_path / "images.npz", x=np.random.default_rng(0).random((2, 1, 28, 28), dtype="float32"), y=[3, 5])
    for name, smaller in (("num_steps", 2), ("num_draws", 2)):
        program = re.sub(rf"\b{name}=\d+", f"{name}={smaller}", program)
    first = "import numpy as np\nx, y = (np.load('images.npz')[name] for name in 'xy')\n"
    success, distance = run(first + program, tmp_path).split()
    assert 0 <= float(success) <= 1
    assert float(distance) <= 0.3


def test_lengths() -> None:
    for name, most in LINES.items():
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most, name
