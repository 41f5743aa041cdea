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
    """Position of the first largest of a row's ``size`` numbers; -1 if one of them is NaN, or that one infinite."""
    best, known = 0, True
    for k in range(size):
        value = x[i * size + k]
        known = known and not math.isnan(value)
        if value > x[i * size + best]:
            best = k
    out[i] = best if known and math.isfinite(x[i * size + best]) else -1
