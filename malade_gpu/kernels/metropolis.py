"""Bodies of the Metropolis test: element i is a walker."""

from __future__ import annotations

import math
from typing import Any

from numba import float32, float64

from ..elements import element


def log_ratio(real: Any) -> Any:
    """Body for the logarithm of a walker's acceptance ratio."""
    zero, half = real(0.0), real(0.5)

    @element
    def body(
        i: Any,
        out: Any,
        x: Any,
        proposal: Any,
        score: Any,
        proposal_score: Any,
        log_density: Any,
        proposal_log_density: Any,
        size: Any,
        alpha: Any,
        scale: Any,
    ) -> None:
        product = zero
        for j in range(i * size, (i + 1) * size):
            there = scale * (proposal[j] - x[j] - alpha * score[j])
            back = scale * (x[j] - proposal[j] - alpha * proposal_score[j])
            product += (there - back) * (there + back)
        out[i] = proposal_log_density[i] - log_density[i] + half * product

    return body


LOG_RATIO = {"float32": log_ratio(float32), "float64": log_ratio(float64)}


@element
def accept(i: Any, out: Any, ratio: Any, level: Any) -> None:
    """Log(level) < ratio, which NaN is not."""
    out[i] = math.log(level[i]) < ratio[i]
