"""Each class of bug that the emulated device is there to find, planted into a right program, is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from malade_gpu.emulation import KernelError, sanitize
from tests.marks import slow_but

from .programs import NEIGHBOUR, PIPELINE, SUM, Program, all_alike


def x_of(size: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(size).astype("float32")


# Bugs that change results: some schedule, or the poison, must show them ---------------------------------------


def neighbour_is_right(program: Program) -> bool:
    x = x_of(64)
    results = program.results(x, ..., size=64)
    return all_alike(results) and bool((results[0] == x[(np.arange(64) + 33) % 64]).all())


def sum_is_right(program: Program) -> bool:
    x = np.arange(128, dtype="float32")
    results = program.results(x, ..., size=1)
    return all_alike(results) and results[0][0] == x.sum()


def pipeline_is_right(program: Program) -> bool:
    x = x_of(5 * 256)
    results = program.results(x, ..., 5, size=64)
    columns = (4 * np.arange(64)[:, None] + 64 * np.arange(4) + 4) % 256
    expected = x.reshape(5, 256)[:, columns].sum(axis=(0, 2))
    return all_alike(results) and np.allclose(results[0], expected, rtol=1e-5)


# Results of a warp that runs ahead of another one through warp operations, without a barrier between.
AHEAD = Program(
    """
    extern "C" __global__ void kernel(const float* x, float* y) {
      __shared__ float tile[64];
      const int i = threadIdx.x;
      tile[i] = __shfl_xor_sync(0xffffffffu, __shfl_xor_sync(0xffffffffu, x[i], 1), 1);
      __syncthreads();
      const float own = __shfl_xor_sync(0xffffffffu, __shfl_xor_sync(0xffffffffu, tile[i], 1), 1);
      y[i] = own - own + tile[(i + 33) % 64];
    }
    """
)

WRONG: dict[str, tuple[Callable[[Program], bool], Program, str, str]] = {
    "missing barrier": (neighbour_is_right, NEIGHBOUR, "__syncthreads();", ""),
    "missing barrier, warps apart": (neighbour_is_right, AHEAD, "__syncthreads();", "__syncwarp();"),
    "missing barrier before reuse": (pipeline_is_right, PIPELINE, "__syncthreads();", ""),
    "wait for too few copies": (pipeline_is_right, PIPELINE, "async_wait<1>()", "async_wait<2>()"),
    "one stage too few": (pipeline_is_right, PIPELINE, "fetch(chunk + 2)", "fetch(chunk + 3)"),
    "uninitialised shared memory": (neighbour_is_right, NEIGHBOUR, "tile[i] = x[i]", "if (i) tile[i] = x[i]"),
    "uninitialised dynamic shared memory": (pipeline_is_right, PIPELINE, "fetch(1);", "async_commit();"),
    "lane outside the mask": (
        sum_is_right,
        SUM,
        "const float total = warp_sum(i < blockDim.x / 32 ? partial[i] : 0.0f);",
        "float total = i < 4 ? partial[i] : 0.0f;\n"
        "if (i < 4) for (int lanes = 4; lanes > 0; lanes /= 2) total += __shfl_xor_sync(0xfu, total, lanes);",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", WRONG)
def test_wrong_results_are_seen(bug: str) -> None:
    is_right, program, old, new = WRONG[bug]
    assert is_right(program)
    assert not is_right(program.but(old, new))


# Bugs that the emulated device itself complains about ----------------------------------------------------------

COMPLAINTS: dict[str, tuple[Program, str, str, str]] = {
    "early exit before a barrier": (
        NEIGHBOUR,
        "tile[i] = x[i];",
        "if (i == 63) return;\n  tile[i] = x[i];",
        r"do not meet at one barrier: 63 wait at __syncthreads program.cuh:6 .*, 1 returned",
    ),
    "barrier in a branch": (
        NEIGHBOUR,
        "__syncthreads();",
        "if (i < 32) __syncthreads();\n  else __syncthreads();",
        "do not meet at one barrier: 32 wait at __syncthreads program.cuh:5 .* 32 wait at __syncthreads program.cuh:6",
    ),
    "two barriers on a line": (
        NEIGHBOUR,
        "__syncthreads();",
        "if (i < 32) __syncthreads(); else __syncthreads();",
        "do not meet at one barrier: 32 wait at __syncthreads program.cuh:5 .* 32 wait at __syncthreads program.cuh:5",
    ),
    "barrier for one warp only": (
        NEIGHBOUR,
        "__syncthreads();",
        "__syncthreads();\n  if (i < 32) __syncthreads();",
        "do not meet at one barrier: 32 wait .*, 32 returned",
    ),
    "half a warp in a shuffle": (
        SUM,
        "const float sum = warp_sum(x[i]);",
        "float sum = x[i];\n  if (i % 32 < 16) sum = warp_sum(sum);",
        r"lanes of a warp wait for lanes that do not come: .*mask 0xffffffff\) at program.cuh:2",
    ),
    "shuffles at different places": (
        SUM,
        "const float sum = warp_sum(x[i]);",
        "const float sum = i % 2 ? __shfl_xor_sync(~0u, x[i], 1) : __shfl_xor_sync(~0u, x[i], 3);",
        "lanes of a warp wait for lanes that do not come",
    ),
    "a mask that leaves out its caller": (
        SUM,
        "const float sum = warp_sum(x[i]);",
        "const float sum = __shfl_xor_sync(0xffffu, x[i], 1);",
        "lane 16 takes part in a warp operation whose mask 0xffff leaves it out, at program.cuh:8",
    ),
    "global write out of bounds": (
        NEIGHBOUR,
        "y[i] =",
        "y[i + 1] =",
        r"program.cuh:6\): reads or writes at byte 256 of argument y, which has 256",
    ),
    "global read out of bounds": (
        NEIGHBOUR,
        "= x[i]",
        "= x[i + 1]",
        r"program.cuh:4\): reads or writes at byte 256 of argument x",
    ),
    "global write before the array": (NEIGHBOUR, "y[i] =", "y[i - 1] =", "writes beyond the ends of argument y"),
    "dynamic shared memory overrun": (
        PIPELINE,
        "chunk % 3 * 256 + (",
        "(chunk % 3 + 1) * 256 + (",
        r"program.cuh:15\): reads or writes at byte 3088 of dynamic shared memory, which has 3072",
    ),
    "wild pointer": (
        NEIGHBOUR,
        "tile[i] = x[i];",
        "tile[i] = *(x + (1LL << 44));",
        r"program.cuh:4\): reads or writes at an address of no argument",
    ),
    "misaligned asynchronous copy": (
        PIPELINE,
        "chunk * 256 + 4 * i, true",
        "chunk * 256 + 3 * i, true",
        "copy of 16 bytes is not aligned to as many, at program.cuh:5",
    ),
    "asynchronous copy beside shared memory": (
        PIPELINE,
        "stages + chunk % 3 * 256",
        "stages + chunk * 256",
        "copy leads outside of shared memory, at program.cuh:5",
    ),
    "copies left on their way": (
        PIPELINE,
        "if (chunk < num_chunks) async_copy",
        "async_copy",
        "returns while asynchronous copies are on their way|of argument x",
    ),
    "copies never committed": (
        PIPELINE,
        "async_commit();",
        "if (chunk < 3) async_commit();",
        "returns with asynchronous copies that it never committed|returns while",
    ),
    "integer division by zero": (NEIGHBOUR, "% 64", "% (i >> 10)", "divides an integer by zero"),
    "too much stack": (
        NEIGHBOUR,
        "tile[i] = x[i];",
        "volatile float big[1 << 16]; for (int k = (1 << 16) - 1; k >= 0; k--) big[k] = k;\n  tile[i] = big[i];",
        "needs more than 128 KiB of stack",
    ),
}


def arguments_of(program: Program) -> tuple[Any, ...]:
    if "num_chunks" in program.text:
        return x_of(5 * 256), np.zeros(64, "float32"), 5
    size = program.block[0]
    return x_of(size), np.zeros(size if "tile" in program.text else 1, "float32")


@pytest.mark.parametrize("bug", slow_but(("global read out of bounds",), COMPLAINTS))
def test_complaints(bug: str) -> None:
    program, old, new, message = COMPLAINTS[bug]
    program.run(*arguments_of(program))
    with pytest.raises(KernelError, match=r"^kernel kernel \(program.cuh") as caught:
        program.but(old, new).run(*arguments_of(program))
    caught.match(message)
    caught.match(r"; block \(0, 0, 0\), thread \(\d+, 0, 0\)$")
    assert "\n" not in str(caught.value)
    # The launch after a failure is as good as any.
    program.run(*arguments_of(program))


# Bugs for the sanitizers ----------------------------------------------------------------------------------------


def run_sanitized(program: Program, sanitizer: str) -> None:
    arguments = arguments_of(program)
    before = [np.copy(value) for value in arguments]
    sanitize(
        program.write(),
        "kernel",
        program.grid,
        program.block,
        arguments,
        sanitizer=sanitizer,
        shared_bytes=program.shared_bytes,
    )
    program.run(*before)
    for value, expected in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.slow
@pytest.mark.parametrize("program", [NEIGHBOUR, SUM, PIPELINE], ids=["neighbour", "sum", "pipeline"])
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_right_programs_are_clean(program: Program, sanitizer: str) -> None:
    run_sanitized(program, sanitizer)


SANITIZED: dict[str, tuple[str, Program, str, str, str]] = {
    "race": ("thread", NEIGHBOUR, "__syncthreads();", "", "data race"),
    # The value is the same, whoever comes last: no schedule shows it.
    "harmless race": ("thread", NEIGHBOUR, "tile[i] = x[i];", "tile[i] = x[i];\n  tile[0] = x[0];", "data race"),
    "race of the pipeline": ("thread", PIPELINE, "__syncthreads();", "", "data race"),
    "static shared memory overrun": (
        "address",
        NEIGHBOUR,
        "tile[(i + 33) % 64]",
        "tile[i + 1]",
        "out of bounds|overflow",
    ),
    "argument overrun": ("address", NEIGHBOUR, "y[i] =", "y[i + 1] =", "heap-buffer-overflow"),
    "argument underrun": ("address", NEIGHBOUR, "= x[i]", "= x[i - 1]", "heap-buffer-overflow"),
    "misaligned vector": (
        "address",
        NEIGHBOUR,
        "= x[i]",
        "= reinterpret_cast<const float4*>(x + i % 60)->x",
        "misaligned address",
    ),
    "signed overflow": ("address", NEIGHBOUR, "(i + 33) % 64", "((i + 2147483600) & 63)", "signed integer overflow"),
    "too large a shift": ("address", NEIGHBOUR, "(i + 33)", "((1 << (i + 33)) + i)", "shift exponent"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", SANITIZED)
def test_sanitizers_complain(bug: str) -> None:
    sanitizer, program, old, new, message = SANITIZED[bug]
    with pytest.raises(KernelError, match=message):
        run_sanitized(program.but(old, new), sanitizer)
