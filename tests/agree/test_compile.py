"""CUDA C++ kernels compiled for real GPUs, which needs NVRTC but neither a driver nor a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")

from malade_gpu.device import CAPABILITIES, KERNELS, SHARED_BYTES, source_for_gpu
from malade_gpu.ops.chain import variants
from malade_gpu.ops.conv import TILES
from malade_gpu.source import kernels_of, read_source

STATIC_SHARED_BYTES = 48 << 10  # what a block may declare, on any GPU
# Registers of a thread: four blocks of 128 threads on a multiprocessor, or three in double; one block of 256 of
# chain.cuh, which has no REAL.
REGISTERS = {"float": 128, "double": 168, None: 255}
FUNCTION = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)'"
    r".*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?:[^\n]*?, (?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)


class Unit(NamedTuple):
    """One compilation."""

    file: str
    defines: dict[str, Any]
    capability: int


def units() -> Iterator[Unit]:
    """Every file as it is compiled in earnest, for every supported capability."""
    for capability in CAPABILITIES:
        for file in ("rows", "channels", "softmax"):
            yield from (Unit(file, {"REAL": real}, capability) for real in ("float", "double"))
        for tile in TILES["fp32"]:
            for real in ("float", "double"):
                yield Unit("conv", {"REAL": real, "TILE_N": tile, "PRECISION": 0}, capability)
        for variant in variants(SHARED_BYTES[capability]):
            yield Unit("chain", {"IMAGES": variant.images, "RESIDENT": int(variant.resident)}, capability)
        if capability >= 80:
            for tile in TILES["tensor cores"]:
                for precision in (1, 2, 3):
                    yield Unit("conv", {"REAL": "float", "TILE_N": tile, "PRECISION": precision}, capability)


class Compiled(NamedTuple):
    """What NVRTC made of a unit: its intermediate code, and what each kernel takes of a GPU."""

    ptx: str
    resources: dict[str, dict[str, int]]


def compiled(text: str, defines: dict[str, Any], capability: int) -> Compiled:
    nvrtc = pytest.importorskip("cupy", reason="compile checks need CuPy, which is not installed").cuda.nvrtc
    options = (
        "-std=c++17",
        f"-arch=sm_{capability}",
        "--ptxas-options=-v",
        *(f"-D{k}={v}" for k, v in defines.items()),
    )
    try:
        program = nvrtc.createProgram(source_for_gpu(text), "kernel.cu", (), ())
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"compile checks need NVRTC: {error}")
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        raise AssertionError(nvrtc.getProgramLog(program)) from None
    log = nvrtc.getProgramLog(program)
    assert "warning" not in log, log
    resources = {
        match["kernel"]: {name: int(match[name] or 0) for name in ("stores", "loads", "registers", "shared")}
        for match in FUNCTION.finditer(log)
    }
    ptx = nvrtc.getPTX(program)
    return Compiled(ptx.decode() if isinstance(ptx, bytes) else ptx, resources)


UNITS = list(units())


def test_every_file_is_here() -> None:
    assert {unit.file for unit in UNITS} == {path.stem for path in KERNELS.glob("*.cuh")} - {"prelude", "philox"}


@pytest.mark.parametrize(
    "unit", UNITS, ids=lambda unit: "-".join(map(str, (unit.file, *unit.defines.values(), unit[2])))
)
def test_kernels_compile_and_fit(unit: Unit) -> None:
    text = read_source(KERNELS / f"{unit.file}.cuh")
    result = compiled(text, unit.defines, unit.capability)
    assert result.resources.keys() == kernels_of(text, unit.defines).keys()
    for kernel, taken in result.resources.items():
        assert (taken["stores"], taken["loads"]) == (0, 0), f"{kernel} spills registers: {taken}"
        assert taken["registers"] <= REGISTERS[unit.defines.get("REAL")], f"{kernel}: {taken}"
        assert taken["shared"] <= min(STATIC_SHARED_BYTES, SHARED_BYTES[unit.capability]), f"{kernel}: {taken}"
    instructions = {
        1: "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        2: "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        3: "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    }
    expected = instructions.get(unit.defines.get("PRECISION", 0))
    found = set(re.findall(r"mma\.sync[\w.]*", result.ptx))
    assert found == ({expected} if expected else set())


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


def test_spills_and_errors_are_seen() -> None:
    taken = compiled(SPILLING, {}, 80).resources["kernel"]
    assert taken["stores"] > 0
    with pytest.raises(AssertionError, match="identifier"):
        compiled('extern "C" __global__ void kernel() { undefined(); }', {}, 80)
