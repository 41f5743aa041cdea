"""Compare the outcomes of two bundles, sample by sample.

    python -m bench.device.outcomes BUNDLE OTHER

Decisions (whether each sample is classified rightly on each draw, whether an attack succeeded), labels and counts must
be the same; losses and distances, which carry each backend's rounding, are reported. Exit code 1 if something differs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from malade_ref.checks import InputError

REAL = ("loss", "distance")


def arrays_of(bundle: Path) -> dict[str, Any]:
    """All arrays of a bundle's outcomes, by name."""
    path = bundle / "outcomes.h5"
    if not path.is_file():
        raise InputError(f"{bundle}: has no outcomes.h5; a bundle is a folder that `malade run` wrote to its end")
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file["outcomes"].visititems(
            lambda name, node: found.update({name: node[...]}) if isinstance(node, h5py.Dataset) else None
        )
    return found


def differences(first: dict[str, Any], second: dict[str, Any]) -> tuple[list[str], float]:
    """What differs that must not, and the largest difference of a loss or a distance."""
    found = [f"{name}: only in one of them" for name in sorted(first.keys() ^ second.keys())]
    largest = 0.0
    for name in sorted(first.keys() & second.keys()):
        a, b = first[name], second[name]
        if a.shape != b.shape:
            found.append(f"{name}: {a.shape} and {b.shape}")
        elif name.rpartition("/")[2] in REAL:
            largest = max(largest, float(np.abs(a - b).max(initial=0.0)))
        elif not np.array_equal(a, b):
            found.append(f"{name}: {np.count_nonzero(a != b)} of {a.size} differ")
    return found, largest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    bundles = sys.argv[1:] if arguments is None else arguments
    if len(bundles) != 2:
        print("outcomes: error: expected two bundles", file=sys.stderr)
        return 2
    try:
        first, second = (arrays_of(Path(bundle)) for bundle in bundles)
    except InputError as error:
        print(f"outcomes: error: {error}", file=sys.stderr)
        return 2
    found, largest = differences(first, second)
    for line in found:
        print(line)
    print(f"{len(first)} arrays; {len(found)} differ; losses and distances by at most {largest:.2g}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
