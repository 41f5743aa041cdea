"""A small run gives the same bits as ever.

Which bits these are depends on the kernels that NumPy and the BLAS choose for a processor, so the run is a program of
its own that is told to do with AVX2. Where it cannot be (another processor, other versions), numbers are compared.
After a change that is meant to change results: ``python -m tests.ref.test_bits`` writes the file anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import _multiarray_umath

PROGRAM = Path(__file__).with_name("small_run.py")
EXPECTED = PROGRAM.with_suffix(".json")


def run() -> str:
    """What the program prints."""
    newer = [name for name in _multiarray_umath.__cpu_dispatch__ if name == "X86_V4" or "512" in name]
    own = {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "1", "NPY_DISABLE_CPU_FEATURES": " ".join(newer)}
    root = str(PROGRAM.parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-W", "ignore", str(PROGRAM)]
    return subprocess.run(
        command, env={**os.environ, **own, "PYTHONPATH": path}, capture_output=True, text=True, check=True, timeout=300
    ).stdout


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of results that are not as they were, bit by bit if all that bits depend on is the same."""
    same_kernels = found["state"] == expected["state"]
    wrong = sorted(found.keys() ^ expected.keys())
    for name in found.keys() & expected.keys() - {"state"}:
        one, other = found[name], expected[name]
        rounding = 1e-6 if one["dtype"] != "float32" else 1e-4
        close = np.allclose(one["waves"], other["waves"], rtol=rounding, atol=rounding)
        if one["dtype"] != other["dtype"] or not close or (same_kernels and one["sha256"] != other["sha256"]):
            wrong.append(name)
    return wrong


def test_bits() -> None:
    assert differences(json.loads(run()), json.loads(EXPECTED.read_text())) == []


def test_a_change_is_seen() -> None:
    expected = json.loads(EXPECTED.read_text())
    assert differences(expected, expected) == []
    name = "pgd, bare, x_adv"
    changed = {**expected, name: {**expected[name], "sha256": "0" * 16}}
    assert differences(changed, expected) == [name]
    elsewhere = {**changed, "state": {**expected["state"], "blas": ["Zen"]}}
    assert differences(elsewhere, expected) == []
    elsewhere[name] = {**expected[name], "waves": [wave + 1e-4 for wave in expected[name]["waves"]]}
    assert differences(elsewhere, expected) == [name]
    assert differences({key: value for key, value in expected.items() if key != name}, expected) == [name]


if __name__ == "__main__":
    EXPECTED.write_text(run())
