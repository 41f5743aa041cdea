"""Suites: several experiments in one folder, with one page about all of them.

::

    DIR/suite.json               which experiments, with which changes
    DIR/theorem/                 what the page shows of `malade theorem`
    DIR/<experiment>/            the bundle of each experiment
    DIR/shared/                  what they have in common, until all are finished
    DIR/report.md, report.html   the page

Each bundle is complete without the others, and one that is finished is taken as it is: a page can be put together from
bundles that were made one by one.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import ModuleType

from malade_ref import ops as reference_ops
from malade_ref import theorem
from malade_ref.bundle import Bundle
from malade_ref.bundle.layout import PAGE as HTML
from malade_ref.bundle.manifest import is_record
from malade_ref.checks import InputError
from malade_ref.experiment.ahead import Workers
from malade_ref.experiment.reading import read_experiment
from malade_ref.experiment.run import Watcher, run_experiment
from malade_ref.experiment.tables import read_table
from malade_ref.report import require_page
from malade_ref.report.html import page_html
from malade_ref.report.page import PAGE, page_text
from malade_ref.storage import atomic_write, load_json, make_folder, one_line, to_json
from malade_ref.storage.files import open_regular
from malade_ref.theorem.parts import PARTS

SUITES = "suites"
SUITE_FILE = "suite.json"
# Characters of the figures that the page for a browser holds: all plates of a paper.
MOST_FIGURES = 6_000_000
SHARED_FOLDER = "shared"
THEOREM_FOLDER = "theorem"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """``[[explanations]]``: why a check of an experiment's audit fails.

    Attributes
    ----------
    experiment : str
        Its name.
    check : str
        The check's.
    text : str
        What the page says if it fails.
    """

    experiment: str
    check: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite's file.

    Attributes
    ----------
    name : str
        Short.
    title : str
        Of the page.
    note : str
        What the page says first.
    theorem : tuple of str
        Parts of `malade theorem`, which the page shows before all experiments.
    experiments : tuple of str
        Names of built-in experiments, in the order of the page.
    explanations : tuple of Explanation
        Of checks that failed in the recorded run.
    """

    name: str
    title: str
    note: str = ""
    theorem: tuple[str, ...] = ()
    experiments: tuple[str, ...]
    explanations: tuple[Explanation, ...] = ()


def built_in_suites() -> dict[str, Suite]:
    """The suites that come with the program, by name."""
    folder = resources.files("malade_ref.experiments").joinpath(SUITES)
    found = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            suite = read_table(Suite, tomllib.loads(file.read_text(encoding="utf-8")), file=file.name)
            found[suite.name] = suite
    return found


def suite_state(path: Path) -> str:
    """What a folder holds.

    Parameters
    ----------
    path : Path
        The folder; it need not exist.

    Returns
    -------
    str
        ``"empty"`` or absent, ``"unfinished"`` or ``"finished"`` if it is a suite's, else ``"foreign"``.
    """
    if not path.is_dir() or not any(path.iterdir()):
        return "empty"
    if not (path / SUITE_FILE).is_file():
        return "foreign"
    return "finished" if (path / PAGE).is_file() and not (path / SHARED_FOLDER).exists() else "unfinished"


def run_suite(
    suite: Suite,
    changes: Sequence[str],
    out: str | Path,
    *,
    watcher: Callable[[str, int], Watcher],
    theorem_watcher: Callable[[theorem.Scale], theorem.Watcher],
    data_dir: str | Path | None = None,
    resume: bool = False,
    ops: ModuleType | None = None,
    workers: Workers | None = None,
) -> Path:
    """Run the experiments of a suite one after another, and write the page.

    Parameters
    ----------
    suite : Suite
        Which.
    changes : sequence of str
        For every experiment, see `read_experiment`.
    out : path
        The suite's folder.
    watcher : callable
        Given an experiment's title and number, from 1, gives who is told how it goes.
    theorem_watcher : callable
        Given a scale, gives who is told how the parts of `malade theorem` go.
    data_dir, ops, workers
        As of `run_experiment`.
    resume : bool
        Whether the folder may hold a part of this suite.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        As `run_experiment`, or if the folder holds anything else.
    """
    out = Path(out)
    readings = {name: read_experiment(name, changes) for name in suite.experiments}
    asked = {"suite": suite.name, "experiments": list(suite.experiments), "changes": list(changes)}
    state = suite_state(out)
    if state == "foreign":
        raise InputError(f"{out}: is not empty, and not of a suite; choose another --out")
    if state != "empty":
        if not resume:
            raise InputError(f"{out}: holds a suite already; go on with --resume, or choose another --out")
        if load_json(out / SUITE_FILE) != asked:
            raise InputError(f"{out / SUITE_FILE}: is of another suite, or of other --set; choose another --out")
    else:
        make_folder(out)
        atomic_write(out / SUITE_FILE, to_json(SUITE_FILE, asked) + "\n")
    if state != "finished":
        make_folder(out / SHARED_FOLDER)
    if suite.theorem:
        scale: theorem.Scale = "tiny" if "scale=tiny" in changes else "full"
        seed = next(iter(readings.values())).experiment.seed
        theorem.run_theorem(
            theorem.Settings(scale, seed, ops or reference_ops),
            out / THEOREM_FOLDER,
            parts=[part for part in PARTS if part.name in suite.theorem],
            resume=(out / THEOREM_FOLDER).exists(),
            watcher=theorem_watcher(scale),
        )
    for number, (name, reading) in enumerate(readings.items(), 1):
        run_experiment(
            reading,
            out / name,
            data_dir=data_dir,
            resume=(out / name).exists(),
            ops=ops,
            watcher=watcher(reading.experiment.title, number),
            shared=out / SHARED_FOLDER,
            command=shlex.join(["malade", "run", name, *(word for one in changes for word in ("--set", one))]),
            workers=workers,
        )
    page = rewrite_page(out)
    shutil.rmtree(out / SHARED_FOLDER, ignore_errors=True)
    return page


def is_suite(path: str | Path) -> bool:
    """Whether a folder is a suite's.

    Parameters
    ----------
    path : path
        The folder; it need not exist.
    """
    return (Path(path) / SUITE_FILE).is_file()


def bundles_of(path: Path) -> dict[str, Bundle]:
    """The bundles of a suite, finished, by the names of their folders.

    Parameters
    ----------
    path : Path
        The suite's folder.

    Raises
    ------
    InputError
        If one is missing or not finished.
    """
    bundles = {}
    suite = suite_of(path)
    for name in (*([THEOREM_FOLDER] if suite.theorem else ()), *suite.experiments):
        if not (path / name).is_dir():
            raise InputError(f"{path}: has no bundle {name!r}; malade run --resume --out {path} goes on with it")
        bundles[name] = Bundle.open(path / name)
        if not bundles[name].finished and not is_record(path / name):
            raise InputError(f"{path / name}: is not finished; malade run --resume --out {path} goes on with it")
    return bundles


def suite_of(path: Path) -> Suite:
    """Which suite a folder holds.

    Parameters
    ----------
    path : Path
        The suite's folder.
    """
    name = load_json(path / SUITE_FILE).get("suite")
    suites = built_in_suites()
    if name not in suites:
        raise InputError(f"{path / SUITE_FILE}: names no suite of this version; expected one of {', '.join(suites)}")
    return suites[name]


def rewrite_page(path: Path) -> Path:
    """Write a suite's page again, from its bundles.

    Parameters
    ----------
    path : Path
        The suite's folder.

    Returns
    -------
    Path
        The page.
    """
    text = _page(path)
    # The one that counts comes last: a suite that has it is finished.
    with suppress(InputError):
        require_page()
        atomic_write(path / HTML, _html(path, text))
    atomic_write(path / PAGE, text)
    return path / PAGE


def _html(path: Path, text: str) -> str:
    """The page for a browser; figures that are too many for it stay in the bundles."""
    names = dict.fromkeys(re.findall(r"^!\[.*\]\(([\w./+=,-]+)\)$", text, flags=re.MULTILINE))
    figures = {}
    for name in names:
        with suppress(OSError), open_regular(path / name) as file:
            figures[name] = file.read()
    linked = re.sub(r"\]\(([\w+=,-]+)/report\.md\)", r"](\1/report.html)", text)
    return page_html(linked, figures=figures, most=MOST_FIGURES)


def _page(path: Path) -> str:
    suite, bundles = suite_of(path), bundles_of(path)
    laboratory = bundles.pop(THEOREM_FOLDER, None)
    first = theorem.exhibit(laboratory, THEOREM_FOLDER) if laboratory is not None else []
    why = {(one.experiment, one.check): one.text for one in suite.explanations}
    return page_text(bundles, title=suite.title, note=suite.note, first=first, why=why)


def page_differs(path: Path) -> str:
    """Compare a suite's page with its bundles.

    Parameters
    ----------
    path : Path
        The suite's folder.

    Returns
    -------
    str
        What differs, in one line; empty if nothing does.
    """
    expected = _page(path)
    try:
        with open_regular(path / PAGE) as file:
            found = file.read().decode(errors="replace")
    except OSError as error:
        return f"{path / PAGE}: cannot be read ({one_line(error)}); malade report writes it again"
    pairs = zip([*found.splitlines(), None], [*expected.splitlines(), None], strict=False)
    number = next((i for i, (old, new) in enumerate(pairs, 1) if old != new), None)
    return f"{PAGE}: line {number} does not follow from the bundles" if number is not None else ""
