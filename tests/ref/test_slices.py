"""Batches in slices: the same slices in the same order whatever the threads."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st

from malade_ref import ops
from malade_ref.checks import InputError
from malade_ref.ops.slices import each_part


@pytest.fixture(params=["1", "2", "4"])
def num_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("MALADE_NUM_THREADS", request.param)
    return int(request.param)


@given(st.integers(0, 200), st.integers(1, 40))
def test_slices_cover_the_batch_in_order(num_samples: int, slice_size: int) -> None:
    parts = ops.map_slices(lambda part: part, num_samples, slice_size=slice_size)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(num_samples))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= slice_size
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == max(1, -(-num_samples // slice_size))


def test_results_keep_their_order(num_threads: int) -> None:
    """Also where a later slice is done before an earlier one."""
    later = threading.Event()

    def function(part: slice) -> int:
        if part.start == 0 and num_threads > 1:
            assert later.wait(timeout=30)
        if part.start == 5:
            later.set()
        return part.start

    assert ops.map_slices(function, 20, slice_size=5) == [0, 5, 10, 15]


def test_threads_are_used(num_threads: int) -> None:
    everybody = threading.Barrier(num_threads)

    def function(part: slice) -> str:
        everybody.wait(timeout=30)  # nobody goes on before all are there
        return threading.current_thread().name

    assert len(set(ops.map_slices(function, num_threads, slice_size=1))) == num_threads


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


def test_blas_has_one_thread_inside_and_its_own_again_outside(num_threads: int) -> None:
    before = blas_threads()
    assert all(inside <= {1} for inside in ops.map_slices(lambda part: blas_threads(), 40, slice_size=10))
    assert ops.map_slices(lambda part: blas_threads(), 1)[0] <= {1}
    assert blas_threads() == before


def test_nested_calls_stay_on_their_thread(num_threads: int) -> None:
    def inner(part: slice) -> tuple[int, int, int]:
        return part.start, part.stop, threading.get_ident()

    def outer(part: slice) -> tuple[int, list[tuple[int, int, int]]]:
        return threading.get_ident(), ops.map_slices(inner, 10, slice_size=4)

    for ident, results in ops.map_slices(outer, 40, slice_size=10):
        assert [result[:2] for result in results] == [(0, 3), (3, 6), (6, 10)]
        assert {result[2] for result in results} == {ident}


def test_an_error_comes_out_and_leaves_nothing_behind(num_threads: int) -> None:
    def function(part: slice) -> int:
        if part.start == 10:
            raise ValueError("slice 10")
        return part.start

    before = blas_threads()
    with pytest.raises(ValueError, match="slice 10"):
        ops.map_slices(function, 40, slice_size=10)
    assert blas_threads() == before
    assert ops.map_slices(lambda part: threading.get_ident(), 40, slice_size=40) == [threading.get_ident()]
    assert ops.map_slices(lambda part: part.start, 40, slice_size=20) == [0, 20]


def test_callers_from_several_threads_take_turns(num_threads: int) -> None:
    """So that nobody lifts the limit on BLAS while another one computes."""
    ops.map_slices(lambda part: None, 1)
    before = blas_threads()
    inside: list[str] = []
    first_inside, second_called = threading.Event(), threading.Event()

    def first(part: slice) -> set[int]:
        first_inside.set()
        assert second_called.wait(timeout=30)
        time.sleep(0.05)  # for the second to come in, if it can
        inside.append("first")
        return blas_threads()

    def second(part: slice) -> set[int]:
        inside.append("second")
        return blas_threads()

    def call_second() -> list[set[int]]:
        assert first_inside.wait(timeout=30)
        second_called.set()
        return ops.map_slices(second, 1)

    with ThreadPoolExecutor(2) as callers:
        calls = callers.submit(ops.map_slices, first, 1), callers.submit(call_second)
    assert inside == ["first", "second"]
    for call in calls:
        assert call.result()[0] <= {1}
    assert blas_threads() == before


def test_many_calls_from_several_threads(num_threads: int) -> None:
    before = blas_threads()

    def function(part: slice) -> tuple[int, bool]:
        return part.stop, blas_threads() <= {1}

    with ThreadPoolExecutor(4) as callers:
        jobs = [callers.submit(ops.map_slices, function, 30, slice_size=10) for _ in range(20)]
    assert [job.result() for job in jobs] == [[(10, True), (20, True), (30, True)]] * 20
    assert blas_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(num_threads: int) -> None:
    ops.map_slices(lambda part: None, 40, slice_size=10)
    child = os.fork()
    if child == 0:
        try:
            right = ops.map_slices(lambda part: part.start, 40, slice_size=10) == [0, 10, 20, 30]
        except BaseException:  # whatever it is, the child must not go on with the parent's tests
            right = False
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALADE_NUM_THREADS", raising=False)
    assert 1 <= ops.num_threads() <= (os.cpu_count() or 1)
    monkeypatch.setenv("MALADE_NUM_THREADS", "3")
    assert ops.num_threads() == 3


@pytest.mark.parametrize("setting", ["0", "-1", "two", "1.5", " 2"])
def test_bad_settings(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALADE_NUM_THREADS", setting)
    call: Any = lambda: ops.map_slices(lambda part: part, 40)  # noqa: E731
    with pytest.raises(InputError, match="MALADE_NUM_THREADS: expected"):
        call()


# A batch in one slice ------------------------------------------------------------------------------------------------


def test_a_lone_slice_leaves_the_other_threads_to_what_is_within(num_threads: int) -> None:
    before, meeting = blas_threads(), threading.Barrier(num_threads)

    def inner(part: slice) -> tuple[int, bool, list[int]]:
        if num_threads > 1 and part.start < num_threads:
            meeting.wait(timeout=30)  # only threads that run at once get past it
        nested = ops.map_slices(lambda part: part.start, 4, slice_size=2)
        return part.start, blas_threads() <= {1}, nested

    def outer(part: slice) -> Any:
        return ops.map_slices(inner, 3 * num_threads, slice_size=1), list(each_part(inner, parts))

    parts = [slice(i, i + 1) for i in range(2 * num_threads)]
    within, of_parts = ops.map_slices(outer, 10, slice_size=10)[0]
    assert within == [(i, True, [0, 2]) for i in range(3 * num_threads)]
    assert of_parts == [(i, True, [0, 2]) for i in range(2 * num_threads)]
    assert blas_threads() == before


def test_parts_of_one_of_several_slices_stay_on_its_thread(num_threads: int) -> None:
    def outer(part: slice) -> bool:
        mine = threading.get_ident()
        return set(each_part(lambda _: threading.get_ident(), [slice(0, 1), slice(1, 2), slice(2, 3)])) == {mine}

    assert ops.map_slices(outer, 4, slice_size=1) == [True] * 4
    # Outside of any slice an op keeps to the caller's thread, whose BLAS may have all cores.
    assert outer(slice(0, 1))


def test_an_error_in_a_part_comes_out(num_threads: int) -> None:
    def inner(part: slice) -> int:
        if part.start == 1:
            raise InputError("broken")
        return part.start

    def outer(part: slice) -> list[int]:
        return list(each_part(inner, [slice(i, i + 1) for i in range(4)]))

    with pytest.raises(InputError, match="broken"):
        ops.map_slices(outer, 1)
    assert ops.map_slices(lambda part: part.start, 4, slice_size=2) == [0, 2]
