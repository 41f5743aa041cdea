"""Break the kernels of malade_gpu in many small ways, and see that the tests notice each.

    python -m tests.mutation                 all mutants, in about half an hour on two cores
    python -m tests.mutation --list          what there is
    python -m tests.mutation --only conv     those whose name contains a word; repeat

A *mutant* (module `mutants`) is one small error: a file, a text that occurs in it once, what stands there instead, and
the tests that have to fail. They run on the emulated device in a copy of the tree; the checkout is never touched. The
tests must pass on the unchanged kernels first. Killed is a mutant whose tests fail, crash, or run out of time: without
a barrier a kernel may wait for ever. The exit code is 1 if a mutant survives, no longer fits its file, or does not even
compile (then no test has been put to a test), else 0.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.mutation.mutants import KERNELS, MUTANTS, ROOT, Mutant

COPIED = ("malade_ref", "malade_gpu", "tests", "pyproject.toml")
# First failure ends it, in one process, and nothing is spent on making a failing example smaller.
PYTEST = ("-m", "pytest", "-x", "-q", "-n0", "--tb=short", "-p", "no:cacheprovider", "--hypothesis-profile=mutation")
NOT_COMPILED = ("g++ cannot compile it", "TypingError", "LoweringError", "SyntaxError")


class Outcome(NamedTuple):
    """How the tests ended: passed, failed, crashed, out of time, or not run; the reason in a line, and the seconds."""

    verdict: str
    reason: str
    seconds: float


def run_tests(tree: Path, tests: str, cache: Path, limit: float) -> Outcome:
    """The chosen tests on a tree, on the emulated device."""
    environment = {**os.environ, "MALADE_GPU_EMULATE": "1", "MALADE_CACHE": str(cache), "PYTHONPATH": str(tree)}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *PYTEST, *shlex.split(tests)],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # g++ and what else it started, too
        process.communicate()
        return Outcome("out of time", f"after {limit:.0f} s", time.monotonic() - began)
    seconds, lines = time.monotonic() - began, output.strip().splitlines() or [""]
    if process.returncode == 0:
        return Outcome("passed", lines[-1], seconds)
    if process.returncode < 0:
        return Outcome("crashed", signal.Signals(-process.returncode).name, seconds)
    why = next((line for line in lines if any(text in line for text in NOT_COMPILED)), None)
    if why or process.returncode != 1:
        return Outcome("not run", why or lines[-1], seconds)
    failed = next((line for line in lines if line.startswith("FAILED")), lines[-1])
    return Outcome("failed", failed.removeprefix("FAILED ").split(" - ")[0], seconds)


def copy_tree(folder: Path) -> Path:
    """What the tests need, in a folder."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy2(source, folder / name)
    return folder


def try_mutant(mutant: Mutant, cache: Path, limit: float) -> Outcome:
    """The mutant's tests on a tree that has it."""
    with tempfile.TemporaryDirectory(prefix="malade-mutant-") as folder:
        tree = copy_tree(Path(folder))
        path = tree / KERNELS / mutant.file
        path.write_text(mutant.applied_to(path.read_text()))
        return run_tests(tree, mutant.tests, cache, limit)


def try_unchanged(tests: str, cache: Path, limit: float) -> Outcome:
    """The tests on the tree as it is."""
    with tempfile.TemporaryDirectory(prefix="malade-mutant-") as folder:
        return run_tests(copy_tree(Path(folder)), tests, cache, limit)


def judge(mutant: Mutant, outcome: Outcome) -> str:
    """One word for the table."""
    return {"passed": "SURVIVED", "not run": "BROKEN"}.get(outcome.verdict, "killed")


def chosen(words: Sequence[str]) -> list[Mutant]:
    """The mutants whose names contain one of the words, or all."""
    return [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]


def all_of(jobs: int, call: Callable[..., Outcome], items: Iterable[tuple[object, ...]]) -> Iterable[Outcome]:
    """Call for each item's arguments, several at once; outcomes in the order of the items."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda arguments: call(*arguments), items)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="mutants whose name contains it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time (default: all cores)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for the tests of a mutant (default 300)")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or options.limit <= 0:
        parser.error("--jobs and --limit: expected more than 0")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    options = parse(arguments)
    mutants = chosen(options.only)
    stale = [mutant for mutant in mutants if not mutant.fits()]
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name:52} {mutant.tests}{'   STALE' if mutant in stale else ''}")
    for mutant in stale:
        print(f"STALE     {mutant.name}: its text does not occur exactly once in {mutant.file}", flush=True)
    if options.list or stale or not mutants:
        if not mutants:
            print(f"--only: no mutant's name contains {' or '.join(options.only)}")
        return int(bool(stale) or not mutants)

    began, counts = time.monotonic(), dict.fromkeys(("killed", "SURVIVED", "BROKEN"), 0)
    with tempfile.TemporaryDirectory(prefix="malade-mutants-") as folder:
        common = Path(folder), options.limit
        selections = list(dict.fromkeys(mutant.tests for mutant in mutants))
        print(f"{len(mutants)} mutants; first the {len(selections)} selections of tests, unchanged", flush=True)
        outcomes = all_of(options.jobs, try_unchanged, [(tests, *common) for tests in selections])
        for tests, outcome in zip(selections, outcomes, strict=True):
            print(f"{outcome.verdict:9} {outcome.seconds:5.0f} s  {tests}", flush=True)
            if outcome.verdict != "passed":
                print(f"these tests have to pass before mutants can fail them: {outcome.reason}")
                return 1
        outcomes = all_of(options.jobs, try_mutant, [(mutant, *common) for mutant in mutants])
        for mutant, outcome in zip(mutants, outcomes, strict=True):
            verdict = judge(mutant, outcome)
            counts[verdict] += 1
            print(
                f"{verdict:9} {outcome.seconds:5.0f} s  {mutant.name:52} {outcome.verdict}: {outcome.reason}",
                flush=True,
            )
    print(f"{', '.join(f'{count} {verdict}' for verdict, count in counts.items())}; {time.monotonic() - began:.0f} s")
    return int(counts["killed"] < len(mutants))


if __name__ == "__main__":
    sys.exit(main())
