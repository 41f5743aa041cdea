"""Outcomes that workers compute have the bits of those of one process, whatever befalls the workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from malade_ref.bundle import Bundle
from malade_ref.checks import InputError
from malade_ref.experiment import Step, read_experiment, run_experiment, workers
from malade_ref.experiment.workers import NetworkMissingError, Spread, Task
from malade_ref.storage import to_json
from tests.cli.conftest import TINY, Malade, environment, start


class Here(Executor):
    """Computes at once, in this process; what a worker might do is done by ``before``."""

    def __init__(self, before: Callable[[Any], None]) -> None:
        self.before = before

    def submit(self, function: Callable[..., Any], /, *words: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            self.before(words)
            future.set_result(function(*words, **named))
        except Exception as error:
            future.set_exception(error)
        return future


def opened(before: Callable[[Any], None]) -> Callable[[], Any]:
    @contextmanager
    def executor() -> Iterator[Executor]:
        yield Here(before)

    return executor


def same_outcomes(one: Path, other: Path) -> bool:
    return (one / "outcomes.h5").read_bytes() == (other / "outcomes.h5").read_bytes()


class Killer:
    """Watches a run, and ends it when three shards are done."""

    def plan(self, *_: Any) -> None: ...

    def begin(self, step: Step) -> Callable[[float, str], None]:
        def progress(_: float, message: str) -> None:
            if step.kind == "ahead" and message.startswith("3 of"):
                raise KeyboardInterrupt

        return progress

    def end(self, step: Step) -> None: ...

    def tell(self, line: str) -> None: ...


def test_workers_that_fail_change_nothing(tiny_run: Path, tmp_path: Path) -> None:
    """One dies, the run is killed and goes on; images for two defences are made once."""
    first: Counter[Task] = Counter()
    events = iter(("", "", "dies"))

    def before(words: Any) -> None:
        first[words[1]] += 1
        happens = next(events, "")
        if happens:
            raise BrokenExecutor("a process died")

    reading = read_experiment("demo", ["scale=tiny"])
    with pytest.raises(KeyboardInterrupt):
        run_experiment(reading, tmp_path / "run", workers=opened(before), watcher=Killer())
    made = [task for task in first if task.victim is not None]
    assert made, "an attack has images for two defences"
    workers._kept.clear()
    second: Counter[Task] = Counter()
    run_experiment(reading, tmp_path / "run", resume=True, workers=opened(lambda words: second.update([words[1]])))
    assert same_outcomes(tmp_path / "run", tiny_run)
    outcomes = {task for task in (*first, *second) if task.victim is None}
    assert len(outcomes) == 42
    assert len(outcomes - set(second)) == 3
    assert set(second.values()) == {1}


def test_networks_are_sent_to_whom_sees_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cnn.h5").write_bytes(b"a network")
    seen = []

    def compute(job: workers.Job, task: Task, found: Any) -> dict[str, Any]:
        if job.files is None:
            raise NetworkMissingError("cnn")
        seen.append((task.first, job.files["cnn"]))
        return {"eps": found}

    monkeypatch.setattr(workers, "compute", compute)
    job = workers.Job("{}", "{}", None, str(tmp_path), (("cnn", "x"),))
    tasks = [(Task("cnn", None, None, 0.0, number, number + 1), {"number": number}) for number in range(3)]
    results = {}
    Spread(opened(lambda _: None), job).work(tasks, lambda task, result: results.update({task.first: result}))
    assert sorted(seen) == [(number, b"a network") for number in range(3)]
    assert results == {number: {"eps": {"number": number}} for number in range(3)}


def test_workers_that_only_die_are_given_up() -> None:
    job = workers.Job("{}", "{}", None, "nowhere", ())

    def before(words: Any) -> None:
        raise BrokenExecutor("out of memory")

    task = Task("cnn", None, None, 0.0, 0, 1)
    with pytest.raises(InputError, match=r"end without a result.*out of memory.*fewer --jobs"):
        Spread(opened(before), job).work([(task, None)], lambda *_: None)


def test_other_data_and_networks_are_noticed(tiny_run: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_run)
    config = dict(bundle.config)
    fingerprint = bundle.network("cnn").fingerprint()
    job = workers.Job("", "{}", None, str(tiny_run / "models"), (("cnn", fingerprint),))
    assert workers._network(job, "cnn", fingerprint).fingerprint() == fingerprint
    with pytest.raises(NetworkMissingError):
        workers._network(job._replace(folder=str(tmp_path)), "cnn", fingerprint)
    with pytest.raises(NetworkMissingError):
        workers._network(job, "cnn", "another")
    config["data"] = {**config["data"], "sha256": {"test": "0"}}
    with pytest.raises(InputError, match="has other test images than the run"):
        workers._begin(job._replace(config=to_json("config", config)))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--jobs", "-1"), "--jobs: expected 0 or a number"),
        (("--jobs", "2", "--executor", "mpi"), "--jobs: mpiexec says"),
        (("--scheduler", "local", "--executor", "mpi"), "expected one of them"),
        (("--jobs", "2", "--backend", "gpu"), "--backend ref only"),
    ],
)
def test_options_that_do_not_fit(malade: Malade, words: tuple[str, ...], told: str) -> None:
    assert told in malade.fails(*TINY, *words)


@pytest.mark.slow
def test_processes(tiny_run: Path, tmp_path: Path) -> None:
    """Two processes, one of which is killed; then the run itself, and no process outlives it."""
    process = start(tmp_path, *TINY, "--jobs", "2", "--out", "run")
    children = _children(process.pid, 2)
    os.kill(children[0], signal.SIGKILL)
    again = _children(process.pid, 2, other_than=children)
    process.kill()
    process.communicate()
    for pid in (*children, *again):
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists():
                break
            time.sleep(0.1)
        else:
            pytest.fail("a worker outlives its run")
    finish(tmp_path, *TINY, "--jobs", "2", "--out", "run", "--resume")
    assert same_outcomes(tmp_path / "run", tiny_run)


def finish(folder: Path, *words: object) -> None:
    """Run a command to its end."""
    process = start(folder, *words)
    out, err = process.communicate()
    assert process.returncode == 0, (out, err)


def _children(pid: int, count: int, other_than: tuple[int, ...] | list[int] = ()) -> list[int]:
    """Worker processes, once there are so many."""
    for _ in range(1200):
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                number, parent = int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
                command = (path.parent / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
            if parent == pid and b"spawn_main" in command and number not in other_than:
                found.append(number)
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError("the run has no workers")


@pytest.mark.slow
def test_dask(tiny_run: Path, tmp_path: Path, malade: Malade) -> None:
    pytest.importorskip("distributed")
    finish(tmp_path, *TINY, "--scheduler", "local", "--jobs", "2", "--out", "run")
    assert same_outcomes(tmp_path / "run", tiny_run)
    told = malade.fails(*TINY, "--scheduler", "tcp://127.0.0.1:1", "--out", "nowhere")
    assert "nobody answers" in told


@pytest.mark.slow
def test_mpi(tiny_run: Path, tmp_path: Path, malade: Malade) -> None:
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None:
        pytest.skip("there is no mpiexec")
    options = ["--allow-run-as-root", "--oversubscribe"]
    command = [mpiexec, *options, "-n", "3", sys.executable, "-m", "malade_ref", *TINY, "--executor", "mpi"]
    subprocess.run([*command, "--out", "run"], cwd=tmp_path, env=environment(tmp_path), check=True, capture_output=True)
    assert same_outcomes(tmp_path / "run", tiny_run)
    assert "there is one rank only" in malade.fails(*TINY, "--executor", "mpi", "--out", "nowhere")
