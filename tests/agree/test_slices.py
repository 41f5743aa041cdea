"""Batches in slices that fit into the device's memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malade_gpu.ops import slices
from malade_ref.checks import InputError

from .backends import device, gpu


def with_memory(monkeypatch: pytest.MonkeyPatch, slices_of_memory: float) -> None:
    monkeypatch.setattr(device(), "memory", int(slices_of_memory * slices.SLICE_BYTES))


@given(st.integers(0, 500), st.integers(1, 40), st.sampled_from([0.1, 1, 2, 3]))
def test_slices_cover_the_batch(num_samples: int, slice_size: int, memory: float) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        with_memory(monkeypatch, memory)
        parts = gpu.map_slices(lambda part: part, num_samples, slice_size=slice_size)
    covered = [i for part in parts for i in range(part.start, part.stop)]
    assert covered == list(range(num_samples))
    assert len(parts) >= 1
    assert max(part.stop - part.start for part in parts) <= slice_size * max(1, int(memory))


def test_slices_are_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 1)
    assert len(gpu.map_slices(lambda part: part, 320)) == 10
    with_memory(monkeypatch, 5)
    assert len(gpu.map_slices(lambda part: part, 320)) == 2


def test_slices_are_halved_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 4)
    tried = []

    def function(part: slice) -> slice:
        tried.append(part.stop - part.start)
        if part.stop - part.start > 20:
            raise device().out_of_memory("no room")
        return part

    parts = gpu.map_slices(function, 100)
    assert tried[:3] == [100, 50, 25]
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert parts[-1].stop == 100


@pytest.mark.parametrize("num_samples", [0, 1, 7])
def test_a_sample_that_does_not_fit(num_samples: int) -> None:
    def function(part: slice) -> None:
        raise device().out_of_memory("no room")

    with pytest.raises(InputError, match=r"^.*out of memory with a single sample: no room$"):
        gpu.map_slices(function, num_samples)


def test_other_errors_pass() -> None:
    def function(part: slice) -> None:
        raise KeyError("mistake")

    with pytest.raises(KeyError):
        gpu.map_slices(function, 10)
    assert gpu.num_threads() == 1
