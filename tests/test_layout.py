"""The shape of the project: what lies at the top, who may import whom, and where arithmetic lives.

The rules are functions from source text to a list of complaints, so that each can be shown a planted
violation before it is asked about the project.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

TOP_LEVEL = {
    *("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE"),
    *("malade_ref", "malade_gpu", "tests", "data", "bench"),
}

# From the bottom up. A module imports from lower layers, or from its own layer without a cycle. The name ""
# stands for the package itself (its __init__), which gathers the public names.
LAYERS = (
    ("checks", "arrays", "classes", "pickling"),
    ("ops", "storage", "statistics"),
    ("diagnostics", "published", "showing"),
    ("layers",),
    ("network", "density"),
    ("sampling", "mcmc", "minimiser", "datasets", "checkpoint", "bundle"),
    ("draws",),
    ("defence",),
    ("attacks",),
    ("objectives", "augmentation", "robust_training", "training_options", "training", "evaluation"),
    ("convergence", "binarisation", "audit", "certify"),
    ("interop",),
    ("",),
    ("experiment", "report", "figures", "theorem"),
    ("cli",),
    ("__main__",),
    ("examples",),
)

# Sequencing, written once for all backends: arrays come from `model.ops` and are never named.
DRIVERS = {
    "layers",
    "network",
    "sampling",
    "draws",
    "mcmc",
    "defence",
    "attacks",
    "objectives",
    "augmentation",
    "robust_training",
    "training_options",
    "training",
    "evaluation",
    "convergence",
    "audit",
    "certify",
}

GPU_PACKAGES = {"cupy", "cupyx", "cupy_backends", "numba", "numba_cuda", "cuda", "malade_gpu"}

# What malade_gpu.ops may take from malade_ref, and None for all that is not of malade_ref.
SHARED = {None, "checks", "arrays"}


class Import(NamedTuple):
    """One imported module, by its absolute name, and where the import stands."""

    name: str
    line: int


def imports(source: str, module: str, *, is_package: bool) -> Iterator[Import]:
    """Every module that a source text imports, at its top or inside functions.

    ``from package import name`` counts as ``package.name``: whether ``name`` is a module is for the caller
    to find out.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from (Import(f"{base}.{alias.name}", node.lineno) for alias in node.names)


def unit(name: str, package: str) -> str | None:
    """The part of a package that a dotted name belongs to; None if it is of another package.

    ``malade_ref.ops.layers.linear`` belongs to ``ops``, ``malade_ref`` itself to ``""``.
    """
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == package else None


def complaints_about_layers(sources: Mapping[str, str], packages: set[str]) -> list[str]:
    """Imports that point upwards, modules without a layer, and cycles within a layer.

    ``sources`` maps dotted module names of malade_ref to their text; ``packages`` are those that are folders.
    """
    rank = {name: i for i, names in enumerate(LAYERS) for name in names}
    found = []
    edges: dict[str, set[str]] = {}
    for module, source in sources.items():
        own = unit(module, "malade_ref")
        assert own is not None
        if own not in rank:
            found.append(f"{module}: in no layer; give it one in LAYERS")
            continue
        for name, line in imports(source, module, is_package=module in packages):
            other = unit(name, "malade_ref")
            if other is None or other == own:
                continue
            if other not in rank:  # a public name, taken from the package itself
                other = ""
            edges.setdefault(own, set()).add(other)
            if rank[other] > rank[own]:
                found.append(f"{module}:{line}: imports {name}, which is above it")
    for start in edges:
        reached, front = set(), {start}
        while front:
            front = {k for name in front for k in edges.get(name, ()) if rank[k] == rank[start]} - reached
            reached |= front
        if start in reached:
            found.append(f"{start}: imports itself by way of modules of its own layer")
    return found


def complaints_about_seam(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What a module of malade_ref or malade_gpu must not import, whatever its layer."""
    found = []
    package, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    for name, line in imports(source, module, is_package=is_package):
        first = name.partition(".")[0]
        where = f"{module}:{line}: imports {name}"
        if package == "malade_ref" and first in GPU_PACKAGES:
            found.append(f"{where}; malade_ref knows no GPU")
        elif package == "malade_ref" and part in DRIVERS and first not in {*sys.stdlib_module_names, package}:
            found.append(f"{where}; drivers get arrays from model.ops")
        elif package == "malade_gpu" and part == "ops" and unit(name, "malade_ref") not in SHARED:
            found.append(f"{where}; the two ops are written independently")
    return found


def complaints_about_top_level(paths: list[str]) -> list[str]:
    """Files and folders at the top that the layout does not know; names with a leading dot are free."""
    names = {path.partition("/")[0] for path in paths}
    return [
        f"{name}: not part of the fixed top level" for name in sorted(names - TOP_LEVEL) if not name.startswith(".")
    ]


def sources_of(package: str) -> tuple[dict[str, str], set[str]]:
    """Texts of a package's modules by dotted name, and which of them are folders."""
    texts, packages = {}, set()
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
            packages.add(".".join(parts))
        texts[".".join(parts)] = path.read_text(encoding="utf-8")
    return texts, packages


def test_top_level() -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the list of files needs git and a clone: {error}")
    paths = [path for path in listing.stdout.decode().split("\0") if path]
    assert paths
    assert complaints_about_top_level(paths) == []


def test_layers() -> None:
    texts, packages = sources_of("malade_ref")
    assert texts
    assert complaints_about_layers(texts, packages) == []


@pytest.mark.parametrize("package", [name for name in ("malade_ref", "malade_gpu") if (ROOT / name).is_dir()])
def test_seam(package: str) -> None:
    texts, packages = sources_of(package)
    found = []
    for module, source in texts.items():
        found += complaints_about_seam(module, source, is_package=module in packages)
    assert found == []


def test_readme_names_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"(?:malade_ref|malade_gpu|tests|data|bench|\.ci)/[\w./-]*\w", readme))
    assert paths
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_drivers_are_in_layers() -> None:
    assert {name for names in LAYERS for name in names} >= DRIVERS


# The rules against planted violations ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("malade_ref/ops/layers.py", False),
        (".ci/run", False),
        ("setup.py", True),
        ("scripts/run.py", True),
        ("notes.md", True),
    ],
)
def test_top_level_rule(path: str, expected: bool) -> None:
    assert bool(complaints_about_top_level(["README.md", path])) == expected


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("malade_ref.sampling", "import numpy as np", True),
        ("malade_ref.sampling", "from numpy.typing import NDArray", True),
        ("malade_ref.sampling", "def f():\n    import scipy.linalg", True),
        ("malade_ref.sampling", "import h5py", True),
        ("malade_ref.sampling", "import math\nfrom .arrays import Array\nfrom . import ops", False),
        ("malade_ref.attacks.pgd", "import numpy", True),
        ("malade_ref.attacks.pgd", "from ..ops import numpy_helper", False),
        ("malade_ref.datasets", "import numpy", False),
        ("malade_ref.ops.layers", "import cupy", True),
        ("malade_ref.ops.layers", "from numba import cuda", True),
        ("malade_ref.cli", "def f():\n    import malade_gpu.ops", True),
        ("malade_ref.ops.layers", "import numpy, scipy.linalg", False),
        ("malade_gpu.ops.layers", "import cupy", False),
        ("malade_gpu.ops.layers", "from malade_ref.checks import InputError", False),
        ("malade_gpu.ops.layers", "from malade_ref.ops.layers import linear", True),
        ("malade_gpu.ops.layers", "from malade_ref import ops", True),
        ("malade_gpu.attacks", "from malade_ref.attacks import pgd", False),
    ],
)
def test_seam_rule(module: str, source: str, expected: bool) -> None:
    assert bool(complaints_about_seam(module, source)) == expected


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("malade_ref.ops.layers", "from ..network import Network", True),
        ("malade_ref.ops.layers", "from .. import network", True),
        ("malade_ref.ops.layers", "from ..checks import InputError\nfrom .random import normal", False),
        ("malade_ref.ops.layers", "import malade_ref.defence", True),
        ("malade_ref.checks", "from . import ops", True),
        ("malade_ref.defence", "from .sampling import Stream\nfrom .network import Network", False),
        ("malade_ref.network", "def f():\n    from .defence import MALADE", True),
        ("malade_ref.attacks.pgd", "from ..training import fit", True),
        ("malade_ref.attacks.pgd", "from . import common\nfrom ..defence import MALADE", False),
        ("malade_ref.training", "from malade_ref import MALADE", True),
        ("malade_ref.cli", "from malade_ref import MALADE, __version__", False),
        ("malade_ref.helpers", "", True),
    ],
)
def test_layer_rule(module: str, source: str, expected: bool) -> None:
    assert bool(complaints_about_layers({module: source}, set())) == expected


def test_layer_rule_finds_cycles() -> None:
    cycle = {"malade_ref.report": "from . import figures", "malade_ref.figures": "from .report import table"}
    assert len(complaints_about_layers(cycle, set())) == 2
    cycle["malade_ref.figures"] = "from .bundle import read"
    assert complaints_about_layers(cycle, set()) == []


def test_relative_imports_of_a_package() -> None:
    source = "from . import pgd\nfrom .pgd import attack\nfrom ..checks import InputError\nfrom .. import ops"
    names = [name for name, _ in imports(source, "malade_ref.attacks", is_package=True)]
    assert names == [
        "malade_ref.attacks.pgd",
        "malade_ref.attacks.pgd.attack",
        "malade_ref.checks.InputError",
        "malade_ref.ops",
    ]
