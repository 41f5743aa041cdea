"""The wheel alone: what is in it, and that it imports and purifies without any extra."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What extras bring; in the wheel's own interpreter it cannot be imported.
EXTRAS = "torch matplotlib PIL tqdm cupy numba safetensors jsonschema dask mpi4py onnxruntime pytest hypothesis"
PROGRAM = f"""
import sys, time
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS.split()!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
began = time.process_time()
import malade_ref
seconds = time.process_time() - began
assert malade_ref.__file__.startswith(sys.argv[1]), malade_ref.__file__
import numpy as np
from malade_ref import MALADE, attacks, cnn, load, save, sdae
defended = MALADE(cnn("small"), sdae("small"), num_steps=2, a=0.5, delta=0.05, seed=0)
x = np.full((2, 1, 28, 28), 0.5, dtype="float32")
assert defended.purify(x).shape == x.shape
found = attacks.fgsm(defended, x, np.array([0, 1]), eps=0.1)
print(found, found._repr_html_()[:10], malade_ref.datasets.load_dataset("synthetic-digits").num_classes)
save(defended.denoiser, sys.argv[1] + "/x.safetensors")
assert load(sys.argv[1] + "/x.safetensors").fingerprint() == defended.denoiser.fingerprint()
from malade_ref.cli import main
assert main(["run", "--list"]) == 0
assert seconds < 0.5, seconds
"""


@pytest.mark.slow
def test_the_wheel_alone(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="setuptools is too old, or not installed")
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "malade_ref", "malade_gpu"):
        (copy / name).symlink_to(ROOT / name)
    build = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-W", "ignore", "-c", build, str(tmp_path)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    for name in (
        "report/results.schema.json",
        "theorem/results.schema.json",
        "report/paper.csv",
        "examples/figure2.py",
    ):
        assert f"malade_ref/{name}" in names
    assert not [name for name in names if name.startswith(("tests/", "bench/")) or name.endswith(".pyc")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "site")]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr[-2000:]
    assert "AttackResult(2 images" in ran.stdout
