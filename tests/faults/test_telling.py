"""What is said never ends the work, commands nothing, and is true of what an interrupt has left."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from malade_ref import cli
from malade_ref.checks import printable
from malade_ref.cli import console, folders, run, stopping
from malade_ref.cli.console import Meter, lost, say

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[2]


def full() -> io.TextIOWrapper:
    return open("/dev/full", "w", encoding="utf-8")


def closed() -> io.TextIOWrapper:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    stream = io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), encoding="utf-8")
    os.close(descriptor)
    return stream


def shut() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def pipe() -> io.TextIOWrapper:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("stream", [full, closed, shut, pipe, lambda: None])
def test_saying_goes_on_in_silence(monkeypatch: pytest.MonkeyPatch, name: str, stream: Callable[[], Any]) -> None:
    broken = stream()
    monkeypatch.setattr(sys, name, broken)
    lost()
    say("one", error=name == "stderr")
    say("two", error=name == "stderr")
    # Only standard output is waited for, and who closed a pipe has read enough.
    assert bool(lost()) == (name == "stdout" and stream is not pipe)
    assert not lost()
    if isinstance(broken, io.TextIOWrapper):
        broken.close()  # what Python does at the end; nothing is left in the buffer that could fail


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("text", ["ä.npz", "caf\udce9.npz", "数.npz", "a‮b"])
def test_names_that_a_stream_does_not_know(monkeypatch: pytest.MonkeyPatch, encoding: str, text: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    say(f"into {text}")
    said = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert said.startswith("into ")
    assert said.count("\n") == 1
    assert not lost()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b]0;owned\x07\x1b[31mred", r"\x1b]0;owned\x07\x1b[31mred"),
        ("two\nlines\r\tand  spaces ", "two lines and spaces"),
        ("a‮cba", r"a\u202ecba"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u2028b​", r"a b\u200b"),
        ("caf\udce9", r"caf\udce9"),
        ("Größe 数 é", "Größe 数 é"),
    ],
)
def test_printable(text: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(text) == expected
    say(f"  indented    {text}")
    out = capsys.readouterr().out
    assert out.startswith("  indented    ")
    assert all(character.isprintable() for character in out.rstrip("\n"))


class Bar:
    """Stands for tqdm on a terminal that is closed in between."""

    n, disable = 0.0, False

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        pass

    def update(self, step: float) -> None:
        raise OSError(5, "Input/output error")

    def close(self) -> None:
        raise OSError(5, "Input/output error")


def test_a_bar_on_a_closed_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_bar", lambda title: Bar())
    monkeypatch.setattr(console, "_hush", lambda stream: None)
    meter = Meter("work")
    meter(0.1, "")
    meter(0.2, "")
    meter.close()
    other = Meter("work")
    other._bar = Bar()
    other.close()
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", None)
    assert console._bar("work") is None


def test_exit_codes_say_what_failed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An answer that is lost is an error; a result that lies in a file is not."""
    with full() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["run", "--list"]) == 2
    assert "standard output: cannot be written (No space left on device)" in capsys.readouterr().err

    def work(arguments: Namespace) -> int:
        say("a result is in the file")
        arguments.out = "file"
        return 0

    monkeypatch.setattr(run, "_run", work)
    with full() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["run", "demo"]) == 0


# Interrupts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every command is interrupted before it looks at anything."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("malade_ref.cli.single._train", stop)
    monkeypatch.setattr("malade_ref.cli.certify._certify", stop)
    monkeypatch.setattr("malade_ref.cli.run.run_experiment", stop)
    return tmp_path


TRAIN = ("train", "classifier", "synthetic-digits:train", "--epochs", "1", "--out", "m.h5")
CERTIFY = ("certify", "x.npz", "--model", "m.h5", "--out", "m.h5")


@pytest.mark.parametrize("words", [TRAIN, CERTIFY])
@pytest.mark.parametrize("resume", [True, False])
def test_what_an_early_interrupt_left(
    early: Path, words: tuple[str, ...], resume: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*words, *(["--resume"] if resume else []))
    assert cli.main(words) == 130
    assert capsys.readouterr().err == "malade: interrupted; nothing was kept\n"
    (early / "m.h5.partial").touch()
    assert cli.main(words) == 130
    kept = capsys.readouterr().err
    assert kept.startswith(f"malade: interrupted; what was done is kept; go on with: malade {words[0]} ")
    assert kept.endswith("--out m.h5 --resume\n")
    assert kept.count("--resume") == 1


def test_what_an_early_interrupt_of_a_run_left(early: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "demo"]) == 130
    assert capsys.readouterr().err == "malade: interrupted; nothing was kept\n"
    assert not (early / "runs").exists()
    (early / "runs/demo-1/.work").mkdir(parents=True)
    (early / "runs/demo-1/.work/lock").touch()
    assert cli.main(["run", "demo", "--resume"]) == 130
    assert capsys.readouterr().err.endswith("go on with: malade run demo --out runs/demo-1 --resume\n")


LATE = """
import os, signal, sys
sys.path.insert(0, {root!r})
sys.argv = ["malade", "run", "--list"]
import malade_ref.__main__ as start
import malade_ref.cli.run as run
def stop(arguments):
    try:
        for number in {numbers}: os.kill(os.getpid(), number)
        signal.pause()
    finally:
        os.kill(os.getpid(), {numbers}[-1])
        print("put away", flush=True)
run._run = stop
sys.exit(start.main())
"""
EARLY = """
import os, sys
sys.path.insert(0, {root!r})
sys.argv = ["malade", "run", "--list"]
import malade_ref.__main__ as start
class Stop:
    def find_spec(self, name, path, target=None):
        if name == "malade_ref.cli.certify": os.kill(os.getpid(), {numbers}[0])
sys.meta_path.insert(0, Stop())
sys.exit(start.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "numbers", "status", "words"),
    [
        (LATE, "[15]", 143, "malade: terminated; nothing was kept\n"),
        (LATE, "[2, 2]", 130, "malade: interrupted; nothing was kept\n"),
        (EARLY, "[2]", 130, "malade: interrupted before anything began\n"),
        (EARLY, "[1]", 129, "malade: hung up before anything began\n"),
    ],
)
def test_signals(tmp_path: Path, code: str, numbers: str, status: int, words: str) -> None:
    # What is ignored here, as by nohup or in the background of a shell, the process would ignore, too.
    before = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        text = code.format(root=str(ROOT), numbers=numbers)
        done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (done.returncode, done.stderr) == (status, words)


def test_handlers_of_others_stay() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert stopping.deaf() == signal.SIGINT
    assert signal.getsignal(signal.SIGTERM) is before


# Folders of runs -----------------------------------------------------------------------------------------------------


def test_runs_that_begin_at_once_take_different_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(folders.default_folder("demo", resume=False))) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(Path("runs", f"demo-{number}") for number in range(1, 13))


def test_a_folder_that_another_run_has_just_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mkdir = os.mkdir

    def late(path: Any, *arguments: Any, **settings: Any) -> None:
        if Path(path).name == "demo-1":
            mkdir(path)
        mkdir(path, *arguments, **settings)

    monkeypatch.setattr(os, "mkdir", late)
    assert folders.default_folder("demo", resume=False) == Path("runs/demo-2")
    assert folders.default_folder("demo", resume=True) == Path("runs/demo-3")  # none was begun


def test_a_folder_goes_if_nothing_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = Namespace(out=None, resume=False)
    with folders.run_folder(arguments, "demo") as out:
        assert out.is_dir()
    assert not out.exists()
    with folders.run_folder(Namespace(out=None, resume=False), "demo") as out:
        (out / "file").touch()
    assert out.is_dir()
    assert arguments.out == str(out)
