"""Power and clocks, read from an nvidia-smi and a NVML that are made up."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")

from bench.device import __main__ as bench
from bench.device import power
from tests.cli.test_bench_device import Fake

# Knows clocks, and power only by the name that is given.
SMI = """#!/bin/sh
case "$*" in
    *power.draw.instant*) [ {power} = power.draw.instant ] || {{ echo "not a valid field"; exit 2; }} ;;
    *power.draw*) [ {power} != none ] || {{ echo "not a valid field"; exit 2; }} ;;
esac
case "$*" in
    *clocks.sm,clocks.mem,power.draw*) echo "1755 MHz, [N/A], {watts}" ;;
    *) echo "{watts}" ;;
esac
"""


@pytest.fixture
def no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, power: str = "power.draw.instant", watts: str = "350.50 W"
) -> None:
    program = folder / "nvidia-smi"
    program.write_text(SMI.format(power=power, watts=watts))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("name", ["power.draw.instant", "power.draw"])
def test_power_is_sampled(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, name)

    def busy(calls: int) -> float:
        begun = time.monotonic()
        while len(sampler.readings) < 4 and time.monotonic() - begun < 30:
            time.sleep(0.01)
        return 0.5

    with power.Sampler() as sampler:
        assert sampler.works
        found = power.sustained(sampler, None, busy, calls=4, images=100)
    count = len(sampler.readings)
    assert count >= 4
    # The clock of the memory cannot be read.
    assert {key: found[key] for key in power.FIELDS if key in found} == {"watts": 350.5, "sm_mhz": 1755.0}
    assert found["seconds_each"] == pytest.approx(0.125)
    assert found["joules_per_image"] == pytest.approx(350.5 * 0.5 / 400)
    assert found["joules_by"] == "watts"
    time.sleep(0.1)
    assert len(sampler.readings) == count  # nobody reads any more


@pytest.mark.parametrize("where", ["nowhere", "without power", "not a number"])
def test_absent_without_complaint(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_nvml: None, capfd: pytest.CaptureFixture[str]
) -> None:
    if where == "nowhere":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        install(tmp_path, monkeypatch, *(("none",) if where == "without power" else ("power.draw", "[N/A]")))
    assert power.energy_counter() is None
    with power.Sampler() as sampler:
        assert not sampler.works
        found = power.sustained(sampler, None, lambda calls: 1.0, calls=2, images=1)
    assert found == {"calls": 2, "seconds_each": 0.5}
    assert capfd.readouterr() == ("", "")


def test_energy_is_counted_where_there_is_a_counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvml = ModuleType("pynvml")
    counted = iter([0, 5_000, 25_000])  # millijoules; the first to see whether there is one
    for name, function in {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: next(counted),
    }.items():
        setattr(nvml, name, function)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setenv("PATH", str(tmp_path))
    with power.Sampler() as sampler:
        found = power.sustained(sampler, power.energy_counter(), lambda calls: 1.0, calls=2, images=5)
    assert found["joules_per_image"] == 2.0
    assert found["joules_by"] == "counter"


def test_readings_of_the_first_part_do_not_count() -> None:
    sampler = power.Sampler()
    sampler.readings = [(moment, {"watts": watts}) for moment, watts in ((1.0, 70.0), (2.0, 300.0), (3.0, 320.0))]
    assert sampler.medians(1.5, 3.5) == {"watts": 310.0}
    assert sampler.medians(3.5, 4.0) == {}


def test_the_record_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_nvml: None, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, monkeypatch)
    monkeypatch.setattr(bench, "STARTS", {"gpu-fp32": lambda _: Fake(1.0)})
    monkeypatch.setattr(Fake, "gpu", type("Device", (), {"emulated": True}), raising=False)
    out = tmp_path / "bench.json"
    assert bench.main(["--rehearse", "--work", "forward-2", "--out", str(out)]) == 0
    # The work of `Fake` takes no time; what it says of it, 60 ms a call, does.
    found = json.loads(out.read_text())["works"][0]["backends"]["gpu-fp32"]["sustained"]
    assert found["calls"] == 5
    assert found["seconds_each"] == pytest.approx(0.06)
    assert "error" not in capsys.readouterr().err
