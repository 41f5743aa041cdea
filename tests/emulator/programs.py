"""Small CUDA C++ programs for the emulated device: right ones, and the same ones with a bug planted."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")

from malade_gpu.emulation import SCHEDULES, EmulatedLibrary, build
from malade_gpu.emulation.build import cache_folder


class Program:
    """A source text and one launch of its only kernel, named ``kernel``."""

    def __init__(
        self,
        text: str,
        *,
        grid: Sequence[int] = (1,),
        block: Sequence[int] = (64,),
        shared_bytes: int = 0,
        capability: int = 90,
    ) -> None:
        self.text = textwrap.dedent(text).lstrip("\n")
        self.grid = grid
        self.block = block
        self.shared_bytes = shared_bytes
        self.capability = capability

    def but(self, old: str, new: str) -> Program:
        """The same program with a bug: one piece of text replaced."""
        assert self.text.count(old) == 1, f"{old!r} stands {self.text.count(old)} times in the program"
        text = self.text.replace(old, new)
        return Program(
            text, grid=self.grid, block=self.block, shared_bytes=self.shared_bytes, capability=self.capability
        )

    def write(self) -> Path:
        """Save the text, always in the same place: the same text is compiled once, for all tests and runs."""
        name = hashlib.sha256(self.text.encode()).hexdigest()[:16]
        path = cache_folder().parent / "test-programs" / name / "program.cuh"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text)
        return path

    def build(self) -> EmulatedLibrary:
        """Compile the text."""
        return build(self.write(), capability=self.capability)

    def run(self, *arguments: Any, schedule: Any = SCHEDULES[0]) -> None:
        """Launch the kernel."""
        library = self.build()
        library.launch("kernel", self.grid, self.block, arguments, shared_bytes=self.shared_bytes, schedule=schedule)

    def results(self, *arguments: Any, size: int) -> list[np.ndarray]:
        """What the kernel writes, once for each schedule, where the arguments have an ellipsis."""
        found = []
        for schedule in SCHEDULES:
            out = np.full(size, np.nan, dtype=np.float32)
            self.run(*(out if value is ... else value for value in arguments), schedule=schedule)
            found.append(out)
        return found


def all_alike(results: Sequence[np.ndarray]) -> bool:
    """Whether all results are the same, bit by bit."""
    return all(result.tobytes() == results[0].tobytes() for result in results)


# Each thread hands its number to its neighbour in another warp.
NEIGHBOUR = Program(
    """
    extern "C" __global__ void kernel(const float* x, float* y) {
      __shared__ float tile[64];
      const int i = threadIdx.x;
      tile[i] = x[i];
      __syncthreads();
      y[i] = tile[(i + 33) % 64];
    }
    """
)

# The sum of a block: by shuffles in each warp, then by the first warp over the others.
SUM = Program(
    """
    __device__ float warp_sum(float value) {
      for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
      return value;
    }
    extern "C" __global__ void kernel(const float* x, float* y) {
      __shared__ float partial[32];
      const int i = threadIdx.x;
      const float sum = warp_sum(x[i]);
      if (i % 32 == 0) partial[i / 32] = sum;
      __syncthreads();
      if (i < 32) {
        const float total = warp_sum(i < blockDim.x / 32 ? partial[i] : 0.0f);
        if (i == 0) y[0] = total;
      }
    }
    """,
    block=(128,),
)

# A running sum through a pipeline of asynchronous copies, three stages deep.
PIPELINE = Program(
    """
    extern "C" __global__ void kernel(const float* x, float* y, int num_chunks) {
      DYNAMIC_SHARED(float, stages);
      const int i = threadIdx.x;
      const auto fetch = [&](int chunk) {
        if (chunk < num_chunks) async_copy<16>(stages + chunk % 3 * 256 + 4 * i, x + chunk * 256 + 4 * i, true);
        async_commit();
      };
      float sum = 0.0f;
      fetch(0);
      fetch(1);
      for (int chunk = 0; chunk < num_chunks; chunk++) {
        async_wait<1>();
        __syncthreads();
        fetch(chunk + 2);
        for (int k = 0; k < 4; k++) sum += stages[chunk % 3 * 256 + (4 * i + 64 * k + 4) % 256];
      }
      async_wait<0>();
      y[i] = sum;
    }
    """,
    shared_bytes=3 * 256 * 4,
)
