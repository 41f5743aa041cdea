"""How it is measured on a device: turns, ceilings of the same run, clocks.

Backends take turns, so that what slows the device down slows all. A turn is as many calls as fill `SHORTEST`, timed by
the device's own clock (CUDA events) where the library has them; the host waits only at its end. The ceilings that
results are compared with, a large copy and large matrix products of random numbers, are measured in the same run.
"""

from __future__ import annotations

import csv
import functools
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

SHORTEST = 0.05  # seconds of a turn
SIZE = 8192  # of the matrices; the copy is of as many bytes as four of them in float32
ROUNDS_OF_CEILING = 10
FIELDS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")

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


def floor(precision: str, flops: int, least_bytes: int, ceiling: Mapping[str, float]) -> float | None:
    """Seconds that a work takes at least, by the measured ceilings; None if there are none."""
    rate = ceiling.get(f"{'tf32' if precision == 'tf32x3' else precision}_flop_per_second")
    if not rate:
        return None
    work = 3 * flops if precision == "tf32x3" else flops
    return max(work / rate, least_bytes / ceiling["copy_bytes_per_second"])


def smi(*fields: str) -> dict[str, str]:
    """What nvidia-smi says of the first device; empty where it cannot be asked."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in next(csv.reader([answer.strip()]))]
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def clocks() -> dict[str, str]:
    """Clocks, power and temperature at this moment."""
    return smi(*FIELDS)
