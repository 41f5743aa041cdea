"""Bundles whose hashes fit and whose contents do not: one line each. Names and notes are text wherever they are."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref.bundle import Bundle, environment
from malade_ref.bundle.schema import RECORD_ARRAYS, check_log
from malade_ref.checks import InputError, printable
from malade_ref.experiment import read_experiment
from malade_ref.experiment.reading import settings_of
from malade_ref.report import check_report, fitting, mismatches, read_bundle, report_text, results_of, write_report
from malade_ref.report.markdown import inert, spoken
from malade_ref.storage import Record
from tests.outcomes import CONFIG, made_cells, made_records, write_bundle

pytestmark = pytest.mark.faults

CELLS = made_cells(num_samples=6, eps=(0.3,))
HOSTILE = "\x1b]0;owned\x07<script>alert(1)</script>\n# H [x](javascript:y) |`*_z_*"


class Made:
    """A finished bundle in memory, whose contents a test may spoil; it is also what reads its outcomes."""

    finished = True

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.config: dict[str, Any] = copy.deepcopy(CONFIG)
        self.meta = {"outcomes": {cell.name: copy.deepcopy(dict(cell.meta)) for cell in CELLS}}
        self.arrays = {f"outcomes/{cell.name}/{key}": array for cell in CELLS for key, array in cell.arrays.items()}
        self.records = {
            name: Record(dict(record.arrays), copy.deepcopy(dict(record.meta)))
            for name, record in made_records().items()
        }
        self.log = environment.Log([], {}, [])

    def outcomes(self) -> Made:
        return self

    def __enter__(self) -> Made:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    def read(self, name: str) -> Any:
        return self.arrays[name]

    def record(self, name: str) -> Record:
        return self.records[name]

    def report(self) -> str:
        bundle: Any = self
        with fitting(bundle):
            inputs = read_bundle(bundle)
            return report_text(results_of(inputs), inputs.config, inputs.environment, ["figures/path-1.png"])


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr("malade_ref.report.reading.open_bundle", lambda bundle: bundle)
    for name in made_records():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.h5").touch()
    return Made(tmp_path)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all values in a JSON value, tables and lists themselves included."""
    if path:
        yield path
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Replace a value; give back what was there."""
    for key in path[:-1]:
        value = value[key]
    old, value[path[-1]] = value[path[-1]], new
    return old


WRONG = (5, "x\x1b[31m", [1], {"a": {}}, True, None, 10**400)
# Parts of a place that are names of models, defences or cells: of those one is as good as another.
NAMES = {"config": (1,), "outcomes": (1,), "audit": (1, 2), "quality": (0,), "settings": (0,)}


def wrong_for(old: Any) -> list[Any]:
    """Values of other types."""
    kind = (int, float) if isinstance(old, int | float) and not isinstance(old, bool) else type(old)
    return [value for value in WRONG if not isinstance(value, kind) or isinstance(value, bool) != isinstance(old, bool)]


def test_it_is_whole(made: Made) -> None:
    assert made.report().startswith("# Made-up outcomes\n")


def complaint_of(made: Made) -> str:
    """The one line that there must be about a bundle, or nothing; any other exception is a failure."""
    try:
        made.report()
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["config", "outcomes", *made_records()])
def test_every_field_of_a_wrong_type_is_one_line(made: Made, place: str) -> None:
    whole: Any = {"config": made.config, "outcomes": made.meta}.get(place) or made.records[place].meta
    taken: set[str] = set()
    refused = 0
    seen: set[tuple[Any, ...]] = set()
    for path in list(leaves(whole)):
        form = tuple("*" if i in NAMES.get(place, ()) else key for i, key in enumerate(path))
        if form in seen or path == ("outcomes",):
            continue
        seen.add(form)
        old = put(whole, path, None)
        for new in wrong_for(old):
            put(whole, path, copy.deepcopy(new))
            complaint = complaint_of(made)
            if complaint:
                assert complaint.isprintable()
                refused += 1
            elif new is not None:
                taken.add(".".join(map(str, path)))
        put(whole, path, old)
    # Settings of attacks and of models may be any scalars; nothing else passes.
    assert {path for path in taken if "settings" not in path} == set()
    assert refused > 5
    assert made.report()


@pytest.mark.parametrize("place", ["outcomes/cnn/clean/0", *(name for name, r in made_records().items() if r.arrays)])
def test_every_array_of_a_wrong_form_is_one_line(made: Made, place: str) -> None:
    arrays: Any = made.arrays if place.startswith("outcomes/") else made.records[place].arrays
    names = [name for name in arrays if name.startswith(place) or not place.startswith("outcomes/")]
    declared = RECORD_ARRAYS.get(place.partition("/")[0], {})
    for name in names:
        if name.endswith(("/label", "/loss")) or (declared and name == "sample_index"):
            continue  # no report reads them
        old = arrays[name]
        scalar, short, deep = np.float32(1), old[:-1], old[..., None]
        for new in (np.asarray(scalar), short, deep, old[:0], np.full(old.shape, np.nan), old.astype("S1")):
            arrays[name] = new
            with pytest.raises(InputError) as complaint:
                made.report()
            assert "\n" not in str(complaint.value)
        arrays[name] = old
    assert made.report()


def test_logs() -> None:
    log: Any = {
        "sessions": [{"began": "a", "ended": None, "environment": {"malade": "1", "packages": {"numpy": "2"}}}],
        "timings": {"train": 1.5},
        "warnings": ["slow"],
        "networks": {"cnn": {"fingerprint": "00"}},
    }
    log["sessions"][0]["environment"] |= {"blas": [{"architecture": "Haswell", "num_threads": 2}], "simd": ["AVX2"]}
    check_log("log", log)
    refused = 0
    for path in list(leaves(log)):
        old = put(log, path, None)
        for new in wrong_for(old):
            put(log, path, new)
            if new is not None and old is not None:
                with pytest.raises(InputError, match=r"log: .*: expected .*, got .*; restore the bundle from a copy"):
                    check_log("log", log)
                refused += 1
        put(log, path, old)
    assert refused > 30


def test_numbers_out_of_any_range() -> None:
    assert list(mismatches({"a": 10**400}, {"a": 0.5})) == ["a is an integer out of range, derived is 0.5"]
    (line,) = mismatches({"a": "\x1b" * 5000}, {"a": 0.5})
    assert line.isprintable()
    assert len(line) < 300


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["title", "note", "data.note", "models.cnn.name", "defences.cnn.name", "warnings"])
def test_names_command_nothing(made: Made, name: str) -> None:
    if name == "warnings":
        made.log.warnings.append(HOSTILE)
    else:
        put(made.config, tuple(name.split(".")), HOSTILE)
    text = made.report()
    assert all(line.isprintable() for line in text.splitlines())
    assert "\n# H" not in text
    assert "<script" not in text
    assert not re.search(r"(?<!\\)\[x\]", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CNN + MALADE, a_b, L-infinity 0.3", "CNN + MALADE, a_b, L-infinity 0.3"),
        ("<b>*x*</b>", r"&lt;b>\*x\*&lt;/b>"),
        ("use `--set a_*=<b>` here", "use `--set a_*=<b>` here"),
        ("`open", r"\`open"),
        ("# heading", r"\# heading"),
        ("> quote", r"\> quote"),
        ("_x_ ~~y~~", r"\_x\_ \~\~y\~\~"),
        ("&lt;b&gt;", r"\&lt;b\&gt;"),
        ("a\n\n---\nb", "a --- b"),
    ],
)
def test_inert(text: str, expected: str) -> None:
    assert inert(text) == expected
    assert spoken(inert(text)) == printable(text)


# Records -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is kept of a bundle in a repository: no manifest, no networks, no records of stages."""
    folder = tmp_path_factory.mktemp("records") / "made"
    with write_bundle(folder, CELLS) as bundle:
        write_report(bundle, figures=False)
        bundle.finish()
    for name in ("MANIFEST.json", *(f"{name}.h5" for name in made_records())):
        (folder / name).unlink()
    return folder


def test_a_record_is_checked_as_far_as_it_goes(recorded: Path, tmp_path: Path) -> None:
    assert Bundle.open(recorded).verify() == []
    assert check_report(recorded) == []
    spoilt = Path(shutil.copytree(recorded, tmp_path / "spoilt"))
    text = (spoilt / "results.json").read_text()
    (spoilt / "results.json").write_text(text.replace('"n": 6', '"n": 7'))
    assert any("n is 7, derived is 6" in line for line in check_report(spoilt))
    (spoilt / "outcomes.h5").write_bytes(b"no")
    assert "outcomes.h5" in Bundle.open(spoilt).verify()[0]


def test_nothing_is_drawn_into_a_record(recorded: Path) -> None:
    from malade_ref.cli import main

    before = {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()}
    assert main(["report", str(recorded)]) == 2
    assert main(["report", "--verify", str(recorded)]) == 0
    with pytest.raises(InputError, match="holds no bundle"):
        Bundle.resume(recorded, "# made", CONFIG)
    assert {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()} == before


# What a report is about ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist-quick", "certify"])
def test_other_data_are_not_given_the_words_of_these(name: str) -> None:
    own = read_experiment(name).experiment
    assert own.about == own.data.name
    other = read_experiment(name, ["data.name=fashion"]).experiment
    assert other.title == f"{name} on fashion"
    assert (other.note, other.paper) == ("", ())
    assert not any(model.note for model in other.models.values())
    assert "about" not in settings_of(other)


def test_words_of_ones_own_stay() -> None:
    scaled = read_experiment("demo", ["data.name=mnist", "scale=tiny", "title=Mine"]).experiment
    assert scaled.title == "Mine"
    assert scaled.note.startswith("A test of the machinery")
    same = read_experiment("mnist-quick", ["seed=1"]).experiment
    assert same.title.startswith("MALADE on MNIST")
    assert same.paper


def test_the_environment_names_what_bits_depend_on() -> None:
    described = environment.describe_environment()
    assert described["simd"]
    assert all(library["architecture"] for library in described["blas"] if library["internal_api"] == "openblas")
