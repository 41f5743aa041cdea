"""The list of mutants does not rot, and the command that runs them tells the killed from the others."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.mutation import __main__ as command
from tests.mutation.mutants import KERNELS, MUTANTS, ROOT, Mutant

FILES = {path.name for path in (ROOT / KERNELS).iterdir() if path.suffix in (".cuh", ".py")}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_its_file_and_has_tests(mutant: Mutant) -> None:
    assert mutant.fits(), f"the text occurs {(ROOT / KERNELS / mutant.file).read_text().count(mutant.old)} times"
    assert mutant.old != mutant.new
    files = [Path(word.split("::")[0]) for word in shlex.split(mutant.tests) if word.startswith("tests/")]
    assert files
    for file in files:
        assert (ROOT / file).is_file(), file


def test_names_are_unique_and_every_file_of_kernels_has_mutants() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    assert {mutant.file for mutant in MUTANTS} == FILES - {"__init__.py", "prelude.cuh"}


TEST = """
from malade_gpu.kernels import number
def test() -> None:
    assert number.NUMBER == 3
"""
NUMBER = "NUMBER = 3  # three\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Mutant]:
    """A tree with one number, a test of it, and mutants of four kinds."""
    root = tmp_path / "project"
    for folder in ("malade_ref", "malade_gpu/kernels", "tests"):
        (root / folder).mkdir(parents=True)
    (root / KERNELS / "number.py").write_text(NUMBER)
    (root / "tests" / "test_number.py").write_text(TEST)
    (root / "tests" / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (root / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    mutants = [
        Mutant(name, "number.py", old, new, "tests/test_number.py")
        for name, old, new in (
            ("killed", "= 3", "= 4"),
            ("harmless", "# three", "# III"),
            ("invalid", "= 3", "= ="),
            ("endless", "NUMBER = 3", "while True: pass"),
        )
    ]
    monkeypatch.setattr("tests.mutation.mutants.ROOT", root)
    monkeypatch.setattr(command, "ROOT", root)
    monkeypatch.setattr(command, "MUTANTS", mutants)
    return mutants


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("killed", 0, "killed"),
        ("harmless", 1, "SURVIVED"),
        ("invalid", 1, "BROKEN"),
        ("endless", 0, "out of time"),
    ],
)
def test_verdicts(project: list[Mutant], capsys: pytest.CaptureFixture[str], name: str, code: int, line: str) -> None:
    limit = "8" if name == "endless" else "300"
    assert command.main(["--only", name, "--jobs", "1", "--limit", limit]) == code
    assert any(line in row and name in row for row in capsys.readouterr().out.splitlines())


@pytest.mark.slow
def test_stale_mutants_and_failing_tests_are_seen(project: list[Mutant], capsys: pytest.CaptureFixture[str]) -> None:
    path = command.ROOT / KERNELS / "number.py"
    path.write_text("NUMBER = 5  # three\n")
    assert command.main(["--only", "killed"]) == 1
    assert "STALE" in capsys.readouterr().out
    assert command.main(["--only", "harmless"]) == 1
    assert "have to pass before" in capsys.readouterr().out
    assert command.main(["--only", "nothing"]) == 1
    assert path.read_text() == "NUMBER = 5  # three\n"
