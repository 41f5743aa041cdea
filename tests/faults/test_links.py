"""Nothing outside a bundle is written, made or removed, whatever links it holds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from malade_ref.bundle import Bundle, environment
from malade_ref.checks import InputError
from malade_ref.storage import files, make_folder
from tests.faults import fake_run

pytestmark = pytest.mark.faults


def resumed(folder: Path) -> None:
    with Bundle.resume(folder, fake_run.EXPERIMENT, fake_run.CONFIG) as bundle:
        fake_run.run(bundle)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "describe_environment", lambda device=None: {"fake": True})
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("links") / "run"
    resumed(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, original: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of somebody's that looks like one of a run's."""
    place = tmp_path / "victim"
    (place / "partial/models").mkdir(parents=True)
    for name in ("lock", "thesis.txt", "curve.png", ".x.0123456789abcdef.tmp", "partial/models/mlp.h5"):
        (place / name).write_text("precious")
    return place


def contents(place: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in sorted(place.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("state", ["finished", "unfinished", "begun"])
def test_a_work_folder_that_is_a_link(folder: Path, victim: Path, state: str) -> None:
    before = contents(victim)
    for name in {"finished": (), "unfinished": ("MANIFEST.json",), "begun": ("MANIFEST.json", "config.json")}[state]:
        (folder / name).unlink()
    (folder / ".work").symlink_to(victim)
    for begin in (Bundle.resume, Bundle.create):
        with pytest.raises(InputError, match=r"\.work: is a symbolic link, which a bundle may not hold.*remove"):
            begin(folder, fake_run.EXPERIMENT, fake_run.CONFIG)
    assert contents(victim) == before


@pytest.mark.parametrize("name", ["models", "histories", "figures", ".work/shards", ".work/partial", ".work/stages"])
def test_a_folder_of_an_unfinished_run_that_is_a_link(tmp_path: Path, victim: Path, name: str) -> None:
    before, run = contents(victim), tmp_path / "new"
    Bundle.create(run, fake_run.EXPERIMENT, fake_run.CONFIG).close()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(victim)
    with pytest.raises(InputError, match=r"is a symbolic link, which a bundle may not hold"):
        resumed(run)
    assert contents(victim) == before
    (run / name).unlink()
    resumed(run)
    assert Bundle.open(run).verify() == []


@pytest.mark.parametrize("name", ["figures", "figures/deep"])
def test_redrawing_through_a_link(folder: Path, victim: Path, name: str) -> None:
    before = contents(victim)
    if name == "figures":
        shutil.rmtree(folder / name)
    (folder / name).symlink_to(victim)
    with pytest.raises(InputError, match="is a symbolic link"):
        Bundle.open(folder).redraw({f"{name}/curve.png": b"new"})
    assert contents(victim) == before


@pytest.mark.parametrize("name", ["report.md", "results.json", "figures/curve.png", "MANIFEST.json"])
def test_a_file_that_is_a_link_is_replaced_itself(folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    shutil.move(folder / name, outside)
    before = outside.read_bytes()
    (folder / name).symlink_to(outside)
    Bundle.open(folder).redraw({"report.md": "new", "results.json": "{}", "figures/curve.png": b"new"})
    assert outside.read_bytes() == before
    assert not (folder / name).is_symlink()


def test_links_in_a_work_folder_are_removed_and_not_followed(folder: Path, victim: Path) -> None:
    before = contents(victim)
    (folder / ".work/shards").mkdir(parents=True)
    (folder / ".work/lock").touch()
    (folder / ".work/away").symlink_to(victim)
    (folder / ".work/shards/away").symlink_to(victim)
    resumed(folder)
    assert not (folder / ".work").exists()
    assert contents(victim) == before


@pytest.mark.parametrize("what", ["write", "make", "end"])
def test_a_link_that_is_swapped_in_between(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Between the look at a folder and its use, the folder is moved away and a link put in its place."""
    before, run = contents(victim), tmp_path / "new"
    bundle = Bundle.create(run, fake_run.EXPERIMENT, fake_run.CONFIG)

    def swap() -> None:
        os.rename(run / ".work", run / "moved")
        (run / ".work").symlink_to(victim)

    uses: dict[str, Callable[[], object]] = {
        "write": lambda: files.atomic_write(run / ".work/lock", "new"),
        "make": lambda: make_folder(run / ".work/new"),
        "end": bundle._end,
    }
    swap()
    with pytest.raises(InputError, match="is a symbolic link"):
        uses[what]()
    bundle.close()
    assert contents(victim) == before


def test_writing_stays_in_the_folder_that_was_opened(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "new"
    before = contents(victim)
    with Bundle.create(run, fake_run.EXPERIMENT, fake_run.CONFIG):
        with files.aside(run / ".work/lock2") as file:
            os.rename(run / ".work", run / "moved")
            (run / ".work").symlink_to(victim)
            file.write(b"new")
        assert (run / "moved/lock2").read_bytes() == b"new"
    assert contents(victim) == before


def test_the_bundle_itself_may_be_named_by_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    Bundle.open(tmp_path / "link").redraw({"report.md": "new"})
    assert (folder / "report.md").read_text() == "new"
    (tmp_path / "real").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "real")
    resumed(tmp_path / "other")
    assert Bundle.open(tmp_path / "real").verify() == []
