"""A disk that is full, a folder that cannot be written, a file that was damaged: one line, nothing lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref.bundle import Bundle
from malade_ref.checks import InputError
from malade_ref.storage import atomic_write, load_record, save_record
from tests.faults import fake_run

ROOT = Path(__file__).resolve().parents[2]

Write = Callable[[Path, int], None]


def write_text(path: Path, size: int) -> None:
    atomic_write(path, "x" * size)


def write_record(path: Path, size: int) -> None:
    save_record(path, {"x": np.full(size, 7, np.uint8), "y": np.arange(5)}, {"size": size}, kind="test")


def failing(error: int, *, after: int = 0) -> Any:
    """A system call that fails, at once or after some calls."""
    calls = iter(range(10**9))

    def function(*args: Any, **kwargs: Any) -> Any:
        if next(calls) < after:
            return None
        raise OSError(error, os.strerror(error))

    return function


def assert_untouched(path: Path, write: Write, complaint: str, size: int = 100_000) -> None:
    """A write that fails says so in one line, and leaves what was there, and nothing else."""
    before = path.read_bytes()
    with pytest.raises(InputError, match=complaint) as caught:
        write(path, size)
    assert str(caught.value).startswith(f"{path}: cannot be written (")
    assert str(caught.value).endswith("nothing was overwritten")
    assert "\n" not in str(caught.value)
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == before


@pytest.mark.parametrize("write", [write_text, write_record])
@pytest.mark.parametrize(
    ("call", "error", "complaint"),
    [
        ("fsync", errno.ENOSPC, "No space left on device.*free some space"),
        ("fsync", errno.EIO, "Input/output error.*check the disk"),
        ("replace", errno.EDQUOT, "free some space"),
        ("open", errno.EROFS, "Read-only file system.*choose a folder that can be written"),
        ("open", errno.EACCES, "Permission denied.*make the folder writable"),
    ],
)
def test_failing_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, call: str, error: int, complaint: str
) -> None:
    path = tmp_path / "file"
    write(path, 10)
    monkeypatch.setattr(os, call, failing(error))
    assert_untouched(path, write, complaint)


@pytest.mark.parametrize(
    ("size", "position"), [(10, 0), (10, 100), (10, 1000), (100_000, 0), (100_000, 5000), (100_000, 99_999)]
)
def test_disk_full_within_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, position: int) -> None:
    """Wherever the disk is full, HDF5 lets go of the file, and can write the next one."""
    path = tmp_path / "file"
    write_record(path, 10)
    real = os.pwrite

    def full(descriptor: int, data: Any, offset: int) -> int:
        if offset + len(data) > position:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert_untouched(path, write_record, "No space left on device", size)
    write_record(path, 100_000)
    assert load_record(path, kind="test").arrays["x"].sum() == 700_000


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may write less than it was asked to."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, bytes(data)[:777], offset))
    write_record(tmp_path / "file", 100_000)
    assert load_record(tmp_path / "file", kind="test").arrays["x"].sum() == 700_000


def test_limit_on_file_sizes(tmp_path: Path) -> None:
    """The real thing, in a process whose very first write fails, and which goes on and ends in peace."""
    program = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from malade_ref.checks import InputError
from tests.faults.test_disk import write_record, write_text
folder = Path(sys.argv[1])
for limit, write, size in (
    (1_000, write_record, 10),
    (20_000, write_record, 100_000),
    (20_000, write_text, 100_000),
    (20_000, write_record, 100),
    (20_000, write_record, 100_000),
):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, 20_000))
    try:
        write(folder / "file", size)
    except InputError as error:
        print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert all("File too large" in line and line.endswith("nothing was overwritten") for line in lines)
    assert os.listdir(tmp_path) == ["file"]
    assert load_record(tmp_path / "file", kind="test").meta == {"size": 100}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; test_failing_calls simulates it")
def test_read_only_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "file", 10)
    tmp_path.chmod(0o500)
    try:
        assert_untouched(tmp_path / "file", write_text, "Permission denied.*make the folder writable")
        with pytest.raises(InputError, match="cannot be written"):
            Bundle.create(tmp_path / "run", fake_run.EXPERIMENT, fake_run.CONFIG)
    finally:
        tmp_path.chmod(0o700)


def test_missing_folder(tmp_path: Path) -> None:
    for write in (write_text, write_record):
        with pytest.raises(InputError, match=r"No such file or directory.*create the folder first"):
            write(tmp_path / "none" / "file", 10)


# A bundle ---------------------------------------------------------------------------------------------------


def resume(folder: Path) -> None:
    with Bundle.resume(folder, fake_run.EXPERIMENT, fake_run.CONFIG) as bundle:
        fake_run.run(bundle)


def contents(folder: Path) -> dict[str, bytes]:
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in ("environment.json", ".work/lock")}


def test_a_run_on_a_full_disk_goes_on_when_there_is_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resume(tmp_path / "expected")
    folder = tmp_path / "run"
    for after in (1, 3, 8, 12, 16):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(errno.ENOSPC, after=after))
            with pytest.raises(InputError, match=r"No space left on device.*nothing was overwritten"):
                resume(folder)
        assert not [p.name for p in folder.rglob("*.tmp")]
    resume(folder)
    assert contents(folder) == contents(tmp_path / "expected")


def interrupt(folder: Path, steps: int) -> None:
    """A run that was interrupted after some of its steps."""
    left = iter(range(steps))

    def pause() -> None:
        next(left)

    with Bundle.create(folder, fake_run.EXPERIMENT, fake_run.CONFIG) as bundle, pytest.raises(StopIteration):
        fake_run.run(bundle, pause)


def interrupted(folder: Path) -> Path:
    """A run that was interrupted when it had made some shards; gives one of them."""
    interrupt(folder, 7)
    return sorted((folder / ".work/shards").rglob("*.h5"))[1]


def flip(data: bytes) -> bytes:
    return data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:]


@pytest.mark.parametrize("damage", [flip, lambda data: data[:500], lambda data: b"", lambda data: b"other"])
def test_a_damaged_shard_is_named_and_left_alone(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    resume(tmp_path / "expected")
    folder = tmp_path / "run"
    shard = interrupted(folder)
    assert shard.name == "000000004-000000008.h5"
    damaged = damage(shard.read_bytes())
    shard.write_bytes(damaged)
    before = contents(folder)
    advice = r"(delete it and pass --resume to compute it again|choose another file)$"
    with pytest.raises(InputError, match=advice) as caught:
        resume(folder)
    assert str(caught.value).startswith(f"{shard}: not a whole malade file")
    assert contents(folder) == before
    shard.unlink()
    resume(folder)
    assert contents(folder) == contents(tmp_path / "expected")


def test_a_shard_of_another_run_or_place_is_refused(tmp_path: Path) -> None:
    shard = interrupted(tmp_path / "run")
    other = Bundle.create(tmp_path / "other", "", {**fake_run.CONFIG, "seed": 4})
    with other:
        other.shards("none/pgd", 11, 4, lambda first, last: {"loss": np.zeros(last - first)})
    mine = shard.read_bytes()
    for stray, complaint in (
        (tmp_path / "other" / shard.relative_to(tmp_path / "run"), "its config_sha256 differs"),
        (shard.with_name("000000000-000000004.h5"), "its first differs"),
    ):
        shard.write_bytes(stray.read_bytes())
        with pytest.raises(InputError, match=f"another run or step .{complaint}"):
            resume(tmp_path / "run")
    shard.write_bytes(mine)
    resume(tmp_path / "run")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    interrupt(folder, 2)
    partial = folder / ".work/partial/models/mlp.h5"
    partial.write_bytes(partial.read_bytes()[:-200])
    with pytest.raises(InputError, match="delete it to begin this step again") as caught:
        resume(folder)
    assert str(partial) in str(caught.value)


@pytest.mark.parametrize("name", ["outcomes.h5", "models/mlp.h5", "config.json", "report.md"])
def test_shards_stay_while_a_finished_file_is_damaged(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between manifest and the removal of the work folder, and then damaged."""
    folder = tmp_path / "run"
    monkeypatch.setattr(Bundle, "_end", Bundle.close)
    resume(folder)
    monkeypatch.undo()
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    shards = sorted((folder / ".work/shards").rglob("*.h5"))
    with pytest.raises(InputError, match=f"{name}: changed since the run.*delete MANIFEST.json and pass --resume"):
        resume(folder)
    assert shards == sorted((folder / ".work/shards").rglob("*.h5"))
    if name != "config.json":
        (folder / "MANIFEST.json").unlink()
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    resume(folder)
    resume(tmp_path / "expected")
    assert contents(folder) == contents(tmp_path / "expected")
