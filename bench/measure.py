"""How it is measured: backends take turns, A B A B, so that what slows the machine down slows both.

A ratio is the median over the rounds of time(ref) / time(other) within a round. Where one call is too short to be
timed well, every backend is called several times in its turn.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bench.backends import Run

# A round of one backend takes this long at least, in seconds.
SHORTEST = 0.05
# Between turns: idle threads of one library spin for some time before they sleep, on the other's cores.
PAUSE = 0.02


class DisagreementError(Exception):
    """Two backends computed different numbers, so that their speeds mean nothing."""


class Measurement(NamedTuple):
    """Seconds for one call of each backend, by round."""

    seconds: dict[str, list[float]]

    def median(self, backend: str) -> float:
        return statistics.median(self.seconds[backend])

    def ratio(self, backend: str, to: str) -> float:
        rounds = zip(self.seconds[backend], self.seconds[to], strict=True)
        return statistics.median(mine / theirs for mine, theirs in rounds)


def measure(runs: Mapping[str, Run], *, rounds: int, agrees: bool) -> Measurement:
    """Warm up, compare the results, and take the times."""
    results, fastest = {}, math.inf
    for name, run in runs.items():
        run()  # allocations, caches, plans
        start = time.perf_counter()
        results[name] = run()
        fastest = min(fastest, time.perf_counter() - start)
    if agrees:
        check_agreement(results)
    calls = max(1, math.ceil(SHORTEST / max(fastest, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            for _ in range(calls):
                run()
            seconds[name].append((time.perf_counter() - start) / calls)
    return Measurement(seconds)


def check_agreement(results: Mapping[str, Any]) -> None:
    """Raise unless all results are the same but for rounding in float32."""
    (first, expected), *others = results.items()
    for name, result in others:
        error = float(np.abs(result - expected).max()) if expected.size else 0.0
        if result.shape != expected.shape or not error <= 1e-4 * float(np.abs(expected).max()):
            raise DisagreementError(f"{name} and {first} computed different numbers (largest difference {error:.3g})")
