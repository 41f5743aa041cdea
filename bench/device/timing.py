"""How it is measured on a device: turns, and the ceilings of the same run.

Backends take turns, so that what slows the device down slows all. A turn is as many calls as fill `SHORTEST`, timed by
the device's own clock (CUDA events) where the library has them; the host waits only at its end. The ceilings that
results are compared with, a large copy and large matrix products of random numbers, are measured in the same run.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

SHORTEST = 0.05  # seconds of a turn
SIZE = 8192  # of the matrices; the copy is of as many bytes as four of them in float32
ROUNDS_OF_CEILING = 10
# The ceilings by the data sheet of an H200 (SXM), without sparsity: what is asked refers to them.
DATA_SHEET = {
    "fp32_flop_per_second": 67e12,
    "tf32_flop_per_second": 494e12,
    "bf16_flop_per_second": 989e12,
    "copy_bytes_per_second": 4.8e12,
}

# How far results may be from the reference: ||a - b|| / ||b||. It only tells whether this is the same function; how
# exact each precision is, tests/agree says.
ERRORS = {"fp32": 1e-3, "tf32x3": 1e-3, "tf32": 1e-2, "bf16": 1e-1}
# A gradient jumps where a ReLU switches.
ERRORS_OF_GRADIENTS = {"fp32": 1e-3, "tf32x3": 1e-3, "tf32": 1e-1, "bf16": 3e-1}
ERROR_OF_ATTACK = 5e-2  # the signs of tiny gradients differ, and then whole paths


def error_of(result: Any, expected: Any) -> float:
    """Relative error in the Euclidean norm; infinite if shapes differ or something is not finite."""
    result, expected = (np.asarray(value, dtype=np.float64) for value in (result, expected))
    if result.shape != expected.shape or not np.isfinite(result).all():
        return math.inf
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


def allowed_error(kind: str, precision: str) -> float:
    """Largest relative error of a kind of work."""
    if kind == "pgd":
        return ERROR_OF_ATTACK
    return (ERRORS_OF_GRADIENTS if kind in ("gradient", "bpda") else ERRORS)[precision]


def take_turns(runs: Mapping[str, tuple[Any, Callable[[], Any]]], *, rounds: int, seconds: float) -> dict[str, Any]:
    """Seconds of one call, by backend and round.

    Parameters
    ----------
    runs : dict of str to (backend, function)
        What to time; warm already.
    rounds : int
        Turns of each, at most.
    seconds : float
        After which no further round begins.
    """
    begun = time.monotonic()
    calls = {
        name: max(1, math.ceil(SHORTEST / max(1e-6, backend.seconds(run, 1)))) for name, (backend, run) in runs.items()
    }
    taken: dict[str, Any] = {name: [] for name in runs}
    for done in range(rounds):
        if done and time.monotonic() - begun > seconds:
            break
        for name, (backend, run) in runs.items():
            taken[name].append(backend.seconds(run, calls[name]) / calls[name])
    return taken


def summary(seconds: list[float], *, flops: int, least_bytes: int) -> dict[str, Any]:
    """What a record says of a backend."""
    median = statistics.median(seconds)
    return {
        "seconds": seconds,
        "median_seconds": median,
        "spread": (max(seconds) - min(seconds)) / median,
        "flop_per_second": flops / median,
        "least_bytes_per_second": least_bytes / median,
    }


def ceilings(memory: int) -> dict[str, float]:
    """Bytes and operations a second that libraries reach on this device; empty without PyTorch or a device."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    size = SIZE if memory > 8 << 30 else SIZE // 4

    def fastest(run: Callable[[], Any]) -> float:
        for _ in range(3):
            run()
        times = []
        for _ in range(ROUNDS_OF_CEILING):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            run()
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last) / 1e3)
        return statistics.median(times)

    source = torch.randn(4 * size * size, device="cuda")
    target = torch.empty_like(source)
    found = {"copy_bytes_per_second": 2 * source.nbytes / fastest(functools.partial(target.copy_, source))}
    del source, target
    a, b = torch.randn((2, size, size), device="cuda")
    before = torch.backends.cuda.matmul.allow_tf32
    for name, dtype, tf32 in (
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, True),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        left, right = a.to(dtype), b.to(dtype)
        found[f"{name}_flop_per_second"] = 2 * size**3 / fastest(functools.partial(torch.matmul, left, right))
    torch.backends.cuda.matmul.allow_tf32 = before
    del a, b, left, right
    torch.cuda.empty_cache()
    return found


def roofline(precision: str, flops: int, least_bytes: int, ceiling: Mapping[str, float]) -> dict[str, Any] | None:
    """Seconds that a work takes at least, and what bounds it; None if there are no ceilings for this precision.

    Operations of tf32x3 are three of the tensor cores' each.
    """
    rate = ceiling.get(f"{'tf32' if precision == 'tf32x3' else precision}_flop_per_second")
    if not rate:
        return None
    operations = (3 if precision == "tf32x3" else 1) * flops / rate
    moved = least_bytes / ceiling["copy_bytes_per_second"]
    return {"seconds": max(operations, moved), "bound": "operations" if operations >= moved else "bytes"}
