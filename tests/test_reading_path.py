"""The files that README.md has one read first can be read in an hour.

Counted are lines of code: without blank lines, comments and docstrings. The rules are functions of a text, so that each
can be shown a planted violation.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECTION = "## Read the code in an hour"
MOST_LINES = 1500
MOST_NESTED = 2

NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
LAYOUT = ("malade_ref/ops/langevin.py", "malade_ref/evaluation.py")  # the first and the last


def reading_path(readme: str) -> list[str]:
    """The files of the numbered list in the section."""
    section = readme.partition(SECTION)[2].partition("\n## ")[0]
    steps = re.findall(r"^\d+\. .*(?:\n   .*)*", section, re.MULTILINE)
    return [path for step in steps for path in re.findall(r"`(malade_ref/[\w/]+\.py)`", step)]


def docstring(node: ast.AST) -> ast.Constant | None:
    """The docstring of a module, a class or a function."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) or not node.body:
        return None
    first = node.body[0]
    value = first.value if isinstance(first, ast.Expr) else None
    return value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def lines_of_code(text: str) -> int:
    """Lines with code on them."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        words = docstring(node)
        if words is not None:
            found -= set(range(words.lineno, (words.end_lineno or words.lineno) + 1))
    return len(found)


def nested_too_deep(text: str) -> list[str]:
    """Functions within functions within functions, beyond the limit; a lambda counts as no level."""
    found = []

    def look(node: ast.AST, depth: int) -> None:
        for child in ast.iter_child_nodes(node):
            inner = depth + isinstance(child, ast.FunctionDef)
            if isinstance(child, ast.FunctionDef) and inner > MOST_NESTED + 1:
                found.append(child.name)
            look(child, inner)

    look(ast.parse(text), 0)
    return found


def complaints_about_opening(text: str) -> list[str]:
    """What the first words of a file lack: a summary that says what it is, and then an equation or its axes."""
    words = docstring(ast.parse(text))
    if words is None:
        return ["no docstring"]
    summary, *rest = str(words.value).strip().split("\n\n")
    found = [] if summary.endswith(".") else ["the summary is no sentence"]
    # An equation, or a definition, is set apart; a group of lines of which each has more than spaces before it.
    apart = [part for part in rest if part.startswith("    ") or "\n    " in part]
    named = [part for part in rest if "*" in part or "`" in part]
    return found if apart or named else [*found, "neither an equation nor what its terms mean"]


def test_the_path() -> None:
    paths = reading_path((ROOT / "README.md").read_text(encoding="utf-8"))
    assert (paths[0], paths[-1]) == LAYOUT
    assert len(paths) == len(set(paths)) == 8
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}
    assert sum(map(lines_of_code, texts.values())) <= MOST_LINES
    assert {path: nested_too_deep(text) for path, text in texts.items() if nested_too_deep(text)} == {}
    assert {
        path: complaints_about_opening(text) for path, text in texts.items() if complaints_about_opening(text)
    } == {}


# The rules on planted texts ----------------------------------------------------------------------------------

PLANTED = '''"""A file.

    y = 2 x
"""

# A comment.

def f(x):
    """Twice x."""
    text = """not a
    docstring"""

    return (
        2
        * x  # a product
    )
'''


def test_lines_of_code() -> None:
    assert lines_of_code(PLANTED) == 7


def test_reading_path_of_a_text() -> None:
    readme = (
        f"{SECTION}\n\nHere.\n\n1. `malade_ref/a.py`,\n   `malade_ref/b/c.py`: two.\n2. `malade_ref/d.py`: one.\n\n"
    )
    readme += "Then `malade_ref/e.py`.\n\n## Next\n\n1. `malade_ref/f.py`\n"
    assert reading_path(readme) == ["malade_ref/a.py", "malade_ref/b/c.py", "malade_ref/d.py"]


def test_nested_functions() -> None:
    two = "def a():\n    def b():\n        def c():\n            pass\n"
    assert nested_too_deep(two) == []
    assert nested_too_deep(two.replace("pass", "def d(): pass")) == ["d"]
    assert nested_too_deep("class A:\n" + "".join(f"    {line}\n" for line in two.splitlines())) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PLANTED, []),
        ('"""A file. A *group* is some."""\n', ["neither an equation nor what its terms mean"]),
        ('"""A file.\n\nA *group* is some.\n"""\n', []),
        ('"""A file.\n\nMore words.\n"""\n', ["neither an equation nor what its terms mean"]),
        ('"""A file\n\n    y = x\n"""\n', ["the summary is no sentence"]),
        ("x = 1\n", ["no docstring"]),
    ],
)
def test_opening(text: str, expected: list[str]) -> None:
    assert complaints_about_opening(text) == expected
