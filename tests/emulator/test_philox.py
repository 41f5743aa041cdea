"""The random numbers that kernels make in place (philox.cuh), through a kernel that only writes them down."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malade_gpu.device import KERNELS
from malade_gpu.emulation import EmulatedLibrary, build
from malade_ref import ops as ref
from tests.tolerances import assert_close

PROGRAM = """#include "philox.cuh"

extern "C" __global__ void words(const uint32_t* counters, uint32_t k0, uint32_t k1, uint32_t* out) {
  const uint32_t* c = counters + 4 * threadIdx.x;
  const Words found = philox(c[0], c[1], c[2], c[3], k0, k1);
  for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = found.w[i];
}

extern "C" __global__ void normal(const uint32_t* words, float* out) {
  const int i = 2 * (32 * blockIdx.x + threadIdx.x);
  normal_pair(words[i], words[i + 1], out[i], out[i + 1]);
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> EmulatedLibrary:
    folder: Path = tmp_path_factory.mktemp("philox")
    shutil.copy(KERNELS / "philox.cuh", folder)
    source = folder / "program.cuh"
    source.write_text(PROGRAM)
    return build(source)


@pytest.mark.parametrize("key", [(0, 0), (0xA4093822, 0x299F31D0), (2**32 - 1, 2**32 - 1)])
def test_words(program: EmulatedLibrary, key: Any) -> None:
    counters = np.random.default_rng(0).integers(0, 2**32, (32, 4), dtype=np.uint32)
    counters[0], counters[1] = 0, 2**32 - 1
    out = np.zeros_like(counters)
    program.launch("words", (1,), (32,), (counters, *key, out))
    np.testing.assert_array_equal(out.T, ref.philox4x32(list(counters.T), key))


def test_normal_numbers(program: EmulatedLibrary) -> None:
    """The smallest and the largest radius, angles around every quarter of a turn; and any."""
    radii = [0, 1, 2**31, 2**32 - 1]
    angles = [quarter * 2**29 + offset for quarter in range(9) for offset in (-(2**20), -1, 0, 1, 2**20)]
    chosen = [(radius, angle) for radius in radii for angle in angles if 0 <= angle < 2**32]
    any_words = np.random.default_rng(1).integers(0, 2**32, (2000, 2))
    words = np.concatenate([chosen, any_words]).astype(np.uint32)
    words = words[: len(words) // 32 * 32]  # whole blocks
    out = np.full(words.shape, np.nan, np.float32)
    program.launch("normal", (len(words) // 32,), (32,), (words, out))
    for got, wanted in zip(out.T, ref.box_muller(*words.T, dtype="float32"), strict=True):
        assert_close(got, wanted, op="normal", dtype="float32", scale=1.0)
