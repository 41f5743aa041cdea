"""Parts of the laboratory that a second process computes: the same records, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_ref.storage import Record
from malade_ref.theorem import Settings, beside
from malade_ref.theorem.parts import PARTS

TINY = Settings("tiny", 3)
TWO = [part for part in PARTS if part.name in ("dae", "controls")]


def silent(*progress: Any) -> None:
    pass


@pytest.fixture
def computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], None]], list[Record]]:
    monkeypatch.setattr(beside, "LEAST_SECONDS", 0)
    monkeypatch.setenv("MALADE_NUM_THREADS", "2")

    def compute(disturb: Callable[[Any], None]) -> list[Record]:
        folders = {part.name: tmp_path / part.name for part in TWO}
        for folder in folders.values():
            folder.mkdir()
        with beside.Beside(TWO, TINY, folders) as other:
            assert other._process is not None
            disturb(other)
            found = [other.compute(part, silent) for part in TWO]
        assert not other._process.is_alive()
        return found

    return compute


def assert_right(found: list[Record], tmp_path: Path) -> None:
    for part, record in zip(TWO, found, strict=True):
        expected = beside.record_of_part(part, TINY, tmp_path, silent)
        assert record.meta == expected.meta
        assert record.arrays.keys() == expected.arrays.keys()
        for name, array in expected.arrays.items():
            np.testing.assert_array_equal(record.arrays[name], array)


def until_taken(other: Any) -> None:
    while other._back.value == len(TWO):
        pass


def test_the_records_are_the_same(computed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = []
    plain = beside.record_of_part
    monkeypatch.setattr(beside, "record_of_part", lambda part, *more: here.append(part.name) or plain(part, *more))
    found = computed(until_taken)
    assert here == ["dae"]
    assert_right(found, tmp_path)


@pytest.mark.parametrize("when", [lambda other: None, until_taken])
def test_a_process_that_is_killed(computed: Any, tmp_path: Path, when: Callable[[Any], None]) -> None:
    def disturb(other: Any) -> None:
        when(other)
        other._process.kill()

    assert_right(computed(disturb), tmp_path)


@pytest.mark.parametrize("settings", [{"MALADE_NUM_THREADS": "1"}, {}])
def test_no_process_for_little_work(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setattr(beside, "LEAST_SECONDS", 0)
    with beside.Beside(TWO, TINY, {}) as other:
        assert other._process is None
