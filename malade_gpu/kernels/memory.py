"""Bodies that move and compare numbers."""

from __future__ import annotations

import math
from typing import Any

from ..elements import element


@element
def copy(i: Any, out: Any, x: Any) -> None:
    """The number itself."""
    out[i] = x[i]


@element
def add(i: Any, out: Any, x: Any, y: Any) -> None:
    """The sum."""
    out[i] = x[i] + y[i]


@element
def argmax(i: Any, out: Any, x: Any, size: Any) -> None:
    """Position of the first largest of a row's ``size`` numbers; NaN is larger than everything, as for NumPy."""
    best = 0
    for k in range(1, size):
        largest, value = x[i * size + best], x[i * size + k]
        if not math.isnan(largest) and (value > largest or math.isnan(value)):
            best = k
    out[i] = best
