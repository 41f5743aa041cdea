"""Batches in slices that fit into the device's memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import malade_gpu
from malade_gpu.ops import slices
from malade_ref.checks import InputError, OutOfMemoryError

from .backends import device, gpu

NO_ROOM = r"(no room|Out of memory allocating 2,048 bytes \(.*\)\.)"


def no_room() -> BaseException:
    """What an allocation raises that does not fit; CuPy's error wants numbers."""
    error = device().out_of_memory
    return error("no room") if device().emulated else error(2048, 1024, 0)


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
            raise no_room()
        return part

    parts = gpu.map_slices(function, 100)
    assert tried[:3] == [100, 50, 25]
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert parts[-1].stop == 100


def test_copies_fill_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """But no more than keep a device busy; and they are the first to be given up."""
    with_memory(monkeypatch, 4)
    assert gpu.map_slices(lambda _: gpu.copies_at_once(10), 10, slice_size=20) == [8]
    monkeypatch.setattr(slices, "ENOUGH", 30)
    assert gpu.map_slices(lambda _: gpu.copies_at_once(10), 10, slice_size=20) == [3]
    assert gpu.copies_at_once(1) == 1
    monkeypatch.undo()
    with_memory(monkeypatch, 4)
    tried = []

    def function(part: slice) -> int:
        size = part.stop - part.start
        tried.append((size, gpu.copies_at_once(size)))
        if math.prod(tried[-1]) > 1:
            raise no_room()
        return size

    assert gpu.map_slices(function, 2, slice_size=2) == [1, 1]
    assert tried == [(2, 4), (2, 2), (2, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize("num_samples", [0, 1, 7])
def test_a_sample_that_does_not_fit(num_samples: int) -> None:
    def function(part: slice) -> None:
        raise no_room()

    with pytest.raises(InputError, match=rf"^.*out of memory with a single sample: {NO_ROOM}$"):
        gpu.map_slices(function, num_samples)


def test_sums_are_cut_alike_in_any_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = []
    for memory in (0.1, 1, 100):
        with_memory(monkeypatch, memory)
        cuts.append(gpu.map_slices(lambda part: part, 1000, slice_size=10, summed=True))
    assert cuts[0] == cuts[1] == cuts[2]
    assert len(cuts[0]) > 1

    def function(part: slice) -> None:
        raise no_room()

    with pytest.raises(OutOfMemoryError, match=rf"^.*out of memory with 7 samples in one sum: {NO_ROOM}; use smaller"):
        gpu.map_slices(function, 7, summed=True)


# Of the small classifier's largest layer, whose weights a product on tensor cores lays out anew.
LAID_OUT = 1_605_632


@pytest.mark.slow
@pytest.mark.parametrize("work", ["purify", "logits", "loss_gradient", "pgd"])
def test_results_are_the_same_bits_in_little_memory(monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    if not device().emulated:
        pytest.skip("counts the memory of the emulated device")
    model = malade_gpu.MALADE(malade_gpu.cnn("small"), malade_gpu.sdae("small"), num_steps=2, a=0.5, delta=0.1)
    x = gpu.uniform((1, 28, 28), key=(1, 2), sample_index=gpu.arange(6))
    y = gpu.arange(6)
    call: Callable[[], Any] = {
        "purify": lambda: [model.purify(x)],
        "logits": lambda: [model.logits(x, num_draws=2)],
        "loss_gradient": lambda: [model.loss_gradient(x, y)],
        "pgd": lambda: malade_gpu.attacks.pgd(model, x, y, num_steps=1, num_judge_draws=1),
    }[work]
    expected = call()
    sizes: list[int] = []
    enough, empty = device()._used, device().empty

    def note_size(shape: Any, dtype: Any) -> Any:
        sizes.append(shape[0] if len(shape) == 4 else 0)
        return empty(shape, dtype)

    monkeypatch.setattr(device(), "empty", note_size)
    room = {"purify": 200 << 10, "logits": LAID_OUT + (200 << 10)}.get(work, LAID_OUT + (600 << 10))
    monkeypatch.setattr(device(), "memory", enough + room)
    for result, plenty in zip(call(), expected, strict=True):
        np.testing.assert_array_equal(gpu.to_host(result), gpu.to_host(plenty), strict=True)
    assert {6, 3} <= set(sizes)  # six images at once were tried, and were too many


def test_other_errors_pass() -> None:
    def function(part: slice) -> None:
        raise KeyError("mistake")

    with pytest.raises(KeyError):
        gpu.map_slices(function, 10)
    assert gpu.num_threads() == 1
