"""One process at a time works in a bundle, and a dead one does not count."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from malade_ref.bundle import Bundle
from malade_ref.checks import InputError
from tests.faults import fake_run

ROOT = Path(__file__).resolve().parents[2]

HOLD = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from malade_ref.bundle import Bundle
from tests.faults import fake_run
bundle = Bundle.create(sys.argv[1], fake_run.EXPERIMENT, fake_run.CONFIG)
child = os.fork() if len(sys.argv) > 2 else 0
if not child:  # without a fork, or in the child, once it has let go of the lock
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def holder(folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """A process that has a bundle in its hands, and the number of the child it forked."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process, _ = holder(folder)
    try:
        with pytest.raises(InputError, match=rf"run: another process \({process.pid}\) is working here; wait for it"):
            Bundle.resume(folder, fake_run.EXPERIMENT, fake_run.CONFIG)
        with pytest.raises(InputError, match="holds an unfinished run; pass --resume"):
            Bundle.create(folder, fake_run.EXPERIMENT, fake_run.CONFIG)
    finally:
        end(process)
    with Bundle.resume(folder, fake_run.EXPERIMENT, fake_run.CONFIG) as bundle:
        fake_run.run(bundle)
        assert bundle.finished


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_parent(tmp_path: Path) -> None:
    """As the workers of a process pool may outlive their killed parent for a while."""
    process, child = holder(tmp_path / "run", "fork")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        os.kill(child, 0)  # it lives
        Bundle.resume(tmp_path / "run", fake_run.EXPERIMENT, fake_run.CONFIG).close()
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_two_bundles_in_one_process(tmp_path: Path) -> None:
    with Bundle.create(tmp_path / "run", fake_run.EXPERIMENT, fake_run.CONFIG) as bundle:
        with pytest.raises(InputError, match="another process"):
            Bundle.resume(tmp_path / "run", fake_run.EXPERIMENT, fake_run.CONFIG)
        Bundle.create(tmp_path / "other", fake_run.EXPERIMENT, fake_run.CONFIG).close()
        bundle.close()
        bundle.close()
        with pytest.raises(InputError, match="open for reading only"):
            fake_run.run(bundle)
    Bundle.resume(tmp_path / "run", fake_run.EXPERIMENT, fake_run.CONFIG).close()


def test_a_lock_that_leads_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "run/.work").mkdir(parents=True)
    (tmp_path / "run/.work/lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="cannot be written"):
        Bundle.resume(tmp_path / "run", fake_run.EXPERIMENT, fake_run.CONFIG)
    assert not (tmp_path / "elsewhere").exists()
