"""Nothing goes untested by being new: every op and every kernel is met by the tests that hold the backends together.

By reflection, in both directions: an op needs a row of tolerances and a test that compares the backends, a kernel needs
a mutant, and what the two backends say of an op's types is the same. `test_tolerances`, `agree/test_interface` and
`mutation/test_mutants` say the converse: no row, twin or mutant without its op.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from malade_ref import ops as ref
from malade_ref.attacks.cards import CARDS
from malade_ref.cli import parser
from tests.mutation.mutants import KERNELS, MUTANTS
from tests.tolerances import tolerance_for

ROOT = Path(__file__).resolve().parents[1]

# What gives no numbers of its own, and so has no tolerance.
WITHOUT_NUMBERS = {
    *("check_images", "check_labels", "check_sample_index", "check_vectors"),
    *("describe_device", "device_settings", "num_threads", "copies_at_once", "map_slices", "empty", "fused_chain"),
}


@pytest.mark.parametrize("name", sorted(set(ref.__all__) - WITHOUT_NUMBERS))
def test_an_op_has_a_tolerance(name: str) -> None:
    tolerance_for(name)


def names_in(folder: Path) -> set[str]:
    """Attributes and strings in the tests of a folder: ``gpu.conv2d`` and ``agree("conv2d", ...)`` alike."""
    found = set()
    for path in folder.glob("test_*.py"):
        tree = ast.parse(path.read_text())
        # What only `pytest --full` runs does not count: the default run meets everything.
        tree.body = [node for node in tree.body if not is_slow(node)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def is_slow(node: ast.stmt) -> bool:
    """Whether it is a test, or a class of tests, that is marked slow; or a line that marks all of a file."""
    if isinstance(node, ast.Assign):
        return "pytestmark" in ast.unparse(node.targets[0]) and "mark.slow" in ast.unparse(node.value)
    return any("mark.slow" in ast.unparse(decorator) for decorator in getattr(node, "decorator_list", []))


def test_no_file_is_slow_as_a_whole() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        assert not any(isinstance(node, ast.Assign) and is_slow(node) for node in ast.parse(path.read_text()).body), (
            path
        )


def test_an_attack_has_a_test() -> None:
    assert set(CARDS) - (names_in(ROOT / "tests" / "ref") | names_in(ROOT / "tests" / "agree")) == set()


def test_a_command_has_a_test() -> None:
    commands = next(action.choices for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert len(commands) > 8
    assert set(commands) - names_in(ROOT / "tests" / "cli") == set()


def test_an_op_has_a_test_of_agreement() -> None:
    # What the device is called, and settings that only a device has, have nothing to agree on.
    assert set(ref.__all__) - names_in(ROOT / "tests" / "agree") == {"describe_device", "device_settings"}


# Kernels -----------------------------------------------------------------------------------------------------

# A function of CUDA C++: what stands before its name, its parameters, and the brace that opens its body.
FUNCTION = re.compile(
    r"^(?P<head>(?:template[^\n]*\n)?[\w:<>*&,() \t\n]*?)\b(?P<name>\w+)\([^;{}]*\)\s*\{", re.MULTILINE
)


def is_body(node: ast.FunctionDef) -> bool:
    """Whether a function is what a kernel does for element i."""
    decorated = any("element" in ast.unparse(decorator) for decorator in node.decorator_list)
    return decorated and [argument.arg for argument in node.args.args][:1] == ["i"]


def functions(path: Path) -> dict[str, tuple[str, bool]]:
    """Text of each function of a file of kernels, and whether it is launched as a kernel (or a body of one)."""
    text = path.read_text()
    found: dict[str, tuple[str, bool]] = {}
    if path.suffix == ".py":
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                inner = [other for other in ast.walk(node) if isinstance(other, ast.FunctionDef)]
                found[node.name] = ast.get_source_segment(text, node) or "", any(map(is_body, inner))
        return found
    for match in FUNCTION.finditer(text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        found[match["name"]] = text[match.start() : end], "__global__" in match["head"]
    return found


def reached(name: str, texts: dict[str, tuple[str, bool]]) -> set[str]:
    """A function and those of its file that it calls, directly or not."""
    found, front = {name}, [name]
    while front:
        text = texts[front.pop()][0]
        more = {other for other in texts if other not in found and re.search(rf"\b{other}\b", text)}
        found |= more
        front += more
    return found


def kernels_without_mutants(paths: Iterator[Path], changes: list[tuple[str, str]]) -> list[str]:
    """Kernels in which, and in what they call, no mutant of their file changes anything; `changes` has (file, text)."""
    found = []
    for path in paths:
        texts = functions(path)
        own = [old for file, old in changes if file == path.name]
        changed = {name for name, (text, _) in texts.items() if any(old in text for old in own)}
        found += [
            f"{path.name}: {name}"
            for name, (_, launched) in texts.items()
            if launched and not reached(name, texts) & changed
        ]
    return sorted(found)


def kernel_files() -> Iterator[Path]:
    return (p for p in (ROOT / KERNELS).iterdir() if p.suffix in (".py", ".cuh") and p.name != "__init__.py")


def test_a_kernel_has_a_mutant() -> None:
    assert kernels_without_mutants(kernel_files(), [(mutant.file, mutant.old) for mutant in MUTANTS]) == []


def test_a_kernel_without_a_mutant_is_seen() -> None:
    assert len(kernels_without_mutants(kernel_files(), [])) > 40
    missing = kernels_without_mutants(kernel_files(), [(m.file, m.old) for m in MUTANTS if m.file != "optim.py"])
    assert missing == ["optim.py: adam", "optim.py: sgd"]


# Types -------------------------------------------------------------------------------------------------------

# The reference says more of an array than the device can: what kind of numbers are in it.
ARRAYS = re.compile(r"NDArray\[(?:[^\[\]]|\[[^\]]*\])*\]|np\.ndarray\[.*\]|\b(?:Floats|Words|Labels|Any)\b")


def types_of(function: Any) -> dict[str, str]:
    signature = inspect.signature(inspect.unwrap(function))
    types = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return {name: ARRAYS.sub("Array", str(t)) for name, t in {**types, "return": signature.return_annotation}.items()}


@pytest.mark.parametrize("name", [name for name in ref.__all__ if inspect.isroutine(getattr(ref, name))])
def test_types_of_the_backends_agree(name: str) -> None:
    pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")
    from malade_gpu import ops as gpu

    assert types_of(getattr(gpu, name)) == types_of(getattr(ref, name))
