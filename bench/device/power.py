"""Power, clocks and energy while a backend works: read from nvidia-smi and NVML, absent where they cannot be.

Turns (see `bench.device.timing`) are too short for a reading of power, which is a mean over up to a second on some GPUs
already. So each backend works once more, alone, for about a second: without a pause, which also tells whether it gets
slower when the device is warm. Readings of the first part of it are left out.

    watts, sm_mhz, memory_mhz    medians of the readings, about ten a second
    joules_per_image             by NVML's counter of energy where pynvml can read it, else watts times seconds
"""

from __future__ import annotations

import csv
import math
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

EVERY = 0.05  # seconds from one reading to the next, which itself takes about as long
SETTLING = 0.3  # share of the time at whose readings nobody looks
FIELDS = ("sm_mhz", "memory_mhz", "watts")
# The first of them that the driver knows; the second is a mean over a second on newer GPUs.
POWER = ("power.draw.instant", "power.draw")


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
    return smi("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")


class Sampler:
    """Reads power and clocks in the background, as long as a ``with`` block lasts.

    Attributes
    ----------
    readings : list of (float, dict of str to float)
        When, by the monotonic clock, and what; no entry for what cannot be read.
    works : bool
        Whether there is something to read.
    """

    def __init__(self) -> None:
        self.readings: list[tuple[float, dict[str, float]]] = []
        self.works = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Sampler:
        power = next((name for name in POWER if _number(smi(name).get(name, "")) is not None), None)
        if power is not None:
            self.works = True
            self._thread = threading.Thread(target=self._read, args=(("clocks.sm", "clocks.mem", power),), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _read(self, fields: tuple[str, ...]) -> None:
        # One process a reading: what an endless one prints may lie in a buffer for long.
        while not self._over.wait(EVERY):
            answer = smi(*fields)
            numbers = {name: _number(answer.get(field, "")) for name, field in zip(FIELDS, fields, strict=True)}
            found = {name: value for name, value in numbers.items() if value is not None}
            self.readings.append((time.monotonic(), found))

    def medians(self, start: float, end: float) -> dict[str, float]:
        """Median of each reading between two moments."""
        within = [found for moment, found in self.readings if start <= moment <= end]
        values = {name: [row[name] for row in within if name in row] for name in FIELDS}
        return {name: statistics.median(found) for name, found in values.items() if found}


def _number(text: str) -> float | None:
    """What stands before the unit; None for ``[N/A]`` and the like."""
    try:
        value = float(text.split()[0])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) else None


def energy_counter() -> Callable[[], float] | None:
    """Joules that the first device has taken since its driver was loaded; None where NVML cannot be asked."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, no driver, or a device that does not count: pynvml has an exception for each
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def sustained(
    sampler: Sampler,
    counter: Callable[[], float] | None,
    seconds_of: Callable[[int], float],
    *,
    calls: int,
    images: int,
) -> dict[str, Any]:
    """What a backend takes when it works without a pause.

    Parameters
    ----------
    sampler : Sampler
        Reading.
    counter : function, optional
        From `energy_counter`.
    seconds_of : function
        Does so many calls, and gives the seconds they took.
    calls : int
        How many.
    images : int
        Of one call.
    """
    start, before = time.monotonic(), counter() if counter else 0.0
    seconds = seconds_of(calls)
    end, after = time.monotonic(), counter() if counter else 0.0
    found: dict[str, Any] = {"calls": calls, "seconds_each": seconds / calls}
    found |= sampler.medians(start + SETTLING * (end - start), end)
    if counter is not None:
        found |= {"joules_per_image": (after - before) / calls / images, "joules_by": "counter"}
    elif "watts" in found:
        found |= {"joules_per_image": found["watts"] * seconds / calls / images, "joules_by": "watts"}
    return found
