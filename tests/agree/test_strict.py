"""That the strict arrays are strict."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .strict import StrictArray

HOST = np.ones(3, dtype="float32")


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: np.asarray(x),
        lambda x: np.array(x),
        lambda x: np.sqrt(x),
        lambda x: np.stack([x, x]),
        lambda x: np.concatenate([HOST, x]),
        lambda x: x + HOST,
        lambda x: HOST + x,
        lambda x: HOST * x,
        lambda x: x == HOST,
        lambda x: x[np.array([0, 1])],
        lambda x: HOST[x > 0],
        lambda x: operator.setitem(x, 0, HOST[:1]),
        lambda x: operator.setitem(np.zeros(3), slice(None), x),
        lambda x: f"{x[0]:g}",
    ],
)
def test_mixing_is_refused(mix: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, IndexError)):
        mix(StrictArray(HOST))


def test_strict_arrays_compute() -> None:
    x = StrictArray(HOST)
    results = [x + x, np.float32(2) * x, 2 * x, x[x > 0] * 2, StrictArray(2 * HOST)]
    assert all(isinstance(result, StrictArray) and result.dtype == np.float32 for result in results)
    assert all(result.tolist() == [2, 2, 2] for result in results)
    assert float((x + x).sum()) == 6
    assert isinstance(x.sum(), StrictArray)
