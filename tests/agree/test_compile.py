"""CUDA C++ kernels compiled for real GPUs, which needs NVRTC but neither a driver nor a GPU."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")

from malade_gpu import resources
from malade_gpu.device import KERNELS, SHARED_BYTES
from malade_gpu.resources import LIMITS, Resources, Unit, compile_text, occupancy, units
from malade_gpu.source import kernels_of
from malade_ref.checks import InputError
from tests.instructions import INSTRUCTIONS, Instruction

STATIC_SHARED_BYTES = 48 << 10  # what a block may declare, on any GPU
# Registers of a thread: four blocks of 128 threads on a multiprocessor, or three in double; two of conv.cuh, and one
# block of 256 of chain.cuh and chain_half.cuh.
REGISTERS = {"float": 128, "double": 168}
REGISTERS_OF_FILE = {"conv": 255, "chain": 255, "chain_half": 255}
INCLUDED = {"prelude", "philox", "purification", "epilogue"}
UNITS = list(units())


@pytest.fixture
def nvrtc() -> None:
    """NVRTC, or a reason to skip."""
    try:
        resources._nvrtc()
    except InputError as error:
        pytest.skip(str(error))


def test_every_file_is_here() -> None:
    assert {unit.file for unit in UNITS} == {path.stem for path in KERNELS.glob("*.cuh")} - INCLUDED


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(
    "unit", UNITS, ids=lambda unit: "-".join(map(str, (unit.file, *unit.defines.values(), unit.capability)))
)
def test_kernels_compile_and_fit(unit: Unit) -> None:
    result = compile_text(unit.text, unit.defines, unit.capability)
    assert result.kernels.keys() == kernels_of(unit.text, unit.defines).keys()
    for kernel, taken in result.kernels.items():
        assert taken.spilled == 0, f"{kernel} spills registers: {taken}"
        most = REGISTERS_OF_FILE[unit.file] if unit.file in REGISTERS_OF_FILE else REGISTERS[unit.defines["REAL"]]
        assert taken.registers <= most, f"{kernel}: {taken}"
        assert taken.shared <= min(STATIC_SHARED_BYTES, SHARED_BYTES[unit.capability]), f"{kernel}: {taken}"
        assert occupancy(taken, unit.capability, shared_bytes=unit.shared_bytes).blocks >= 1
    instructions = {
        1: "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        2: "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        3: "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    }
    expected = instructions.get(unit.defines.get("PRECISION", 0))
    if unit.file == "chain_half":
        expected = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
    found = set(re.findall(r"mma\.sync[\w.]*", result.ptx))
    assert found == ({expected} if expected else set())


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda instruction: instruction.name)
def test_programs_of_the_gpu_tests_compile(instruction: Instruction) -> None:
    for capability in (80, 90):
        assert compile_text(instruction.program.text, {}, capability).kernels["kernel"].spilled == 0


SPILLING = """
extern "C" __global__ void __launch_bounds__(1024) kernel(const float* x, float* y) {
  float values[200];
#pragma unroll
  for (int i = 0; i < 200; i++) values[i] = x[threadIdx.x + i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 200; i++) y[threadIdx.x * 200 + i] = values[199 - i] * values[i];
}
"""


@pytest.mark.usefixtures("nvrtc")
def test_spills_and_errors_are_seen() -> None:
    taken = compile_text(SPILLING, {}, 80).kernels["kernel"]
    assert taken.spilled > 0
    assert taken.threads == 1024
    with pytest.raises(RuntimeError, match="identifier"):
        compile_text('extern "C" __global__ void kernel() { undefined(); }', {}, 80)
    with pytest.raises(RuntimeError, match="warning"):
        compile_text('extern "C" __global__ void kernel() { int never; }', {}, 80)


@pytest.mark.parametrize(
    ("taken", "capability", "shared_bytes", "expected"),
    [
        # By the tables of the CUDA occupancy calculator.
        (Resources(128, 32, 0, 0), 90, 0, (16, 1.0, "warps")),
        (Resources(128, 32, 0, 0), 75, 0, (8, 1.0, "warps")),
        (Resources(32, 32, 0, 0), 90, 0, (32, 0.5, "blocks")),
        (Resources(256, 255, 0, 0), 90, 0, (1, 0.125, "registers")),
        (Resources(128, 128, 0, 0), 80, 0, (4, 0.25, "registers")),
        (Resources(128, 168, 0, 0), 80, 0, (3, 0.1875, "registers")),
        (Resources(128, 32, 48 << 10, 0), 90, 0, (4, 0.25, "shared memory")),
        (Resources(128, 32, 48 << 10, 0), 75, 0, (1, 0.125, "shared memory")),
        (Resources(256, 32, 0, 0), 90, 227 << 10, (1, 0.125, "shared memory")),
        (Resources(256, 32, 0, 0), 80, 227 << 10, (0, 0.0, "shared memory")),
    ],
)
def test_occupancy(taken: Resources, capability: int, shared_bytes: int, expected: tuple[int, float, str]) -> None:
    assert occupancy(taken, capability, shared_bytes=shared_bytes) == expected


def test_limits_of_every_capability() -> None:
    assert LIMITS.keys() == {unit.capability for unit in UNITS}
    for capability, limits in LIMITS.items():
        assert SHARED_BYTES[capability] + limits.reserved <= limits.shared_bytes


@pytest.mark.usefixtures("nvrtc")
def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "resources.json"
    assert resources.main(["--capability", "90", "--file", "rows", "--file", "softmax", "--json", str(out)]) == 0
    kernels = json.loads(out.read_text())["kernels"]
    lines = capsys.readouterr().out.splitlines()
    chosen = [unit for unit in UNITS if unit.capability == 90 and unit.file in ("rows", "softmax")]
    assert len(kernels) == len(lines) - 2 == sum(len(kernels_of(unit.text, unit.defines)) for unit in chosen)
    assert len(chosen) == 4
    assert {kernel["capability"] for kernel in kernels} == {90}
    for kernel, line in zip(kernels, lines[1:], strict=False):
        assert f"{kernel['file']}.{kernel['kernel']}" in line
        assert kernel["threads"] == 128
        assert 0 < kernel["blocks"] <= 16
    assert lines[-1] == f"{len(kernels)} kernels in 4 compilations; 0 spill registers or do not fit"


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    assert resources.main(["--file", "rows"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("resources: error: malade_gpu: compiling for a GPU needs CuPy and NVRTC")
    assert error.count("\n") == 1
