"""The emulated device computes what CUDA C++ says, in every schedule."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from malade_gpu.emulation import build
from malade_gpu.emulation.build import _compiler
from malade_ref.checks import InputError

from .programs import PIPELINE, SUM, Program


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def test_grid_and_block_of_three_dimensions() -> None:
    program = Program(
        """
        extern "C" __global__ void kernel(float* y) {
          const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
          const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
          y[block * 24 + thread] = block * 100 + thread;
        }
        """,
        grid=(2, 3, 2),
        block=(4, 3, 2),
    )
    expected = (np.arange(12)[:, None] * 100 + np.arange(24)).ravel()
    for y in program.results(..., size=12 * 24):
        np.testing.assert_array_equal(y, expected)


def lanes_of(mask: int) -> list[int]:
    return [lane for lane in range(32) if mask >> lane & 1]


@pytest.mark.slow
def test_votes_and_partial_masks() -> None:
    program = Program(
        """
        extern "C" __global__ void kernel(float* y) {
          const int lane = threadIdx.x;
          const unsigned mask = lane % 3 == 0 ? 0x49249249u : ~0x49249249u;
          y[lane] = __popc(__ballot_sync(mask, lane < 16));
          y[32 + lane] = __any_sync(mask, lane == 3) + 2 * __all_sync(mask, lane % 3 == 0);
          if (lane % 3 == 0) y[64 + lane] = __shfl_sync(mask, lane, (lane + 9) % 30);
          __syncwarp();
          y[96 + lane] = __shfl_sync(0xffffffffu, lane, 31 - lane);
        }
        """,
        block=(32,),
    )
    lane = np.arange(32)
    third = lane % 3 == 0
    expected = np.full((4, 32), np.nan)
    expected[0] = np.where(third, 6, 10)
    expected[1] = np.where(third, 3, 0)
    expected[2, third] = ((lane + 9) % 30)[third]
    expected[3] = 31 - lane
    for y in program.results(..., size=128):
        np.testing.assert_array_equal(y.reshape(4, 32), expected)


@pytest.mark.slow
def test_atomics() -> None:
    program = Program(
        """
        extern "C" __global__ void kernel(float* y, int* counts) {
          const int i = blockIdx.x * blockDim.x + threadIdx.x;
          atomicAdd(y, 1);
          atomicAdd(counts, 1);
          atomicMax(counts + 1, i);
          atomicMin(counts + 2, -i);
          atomicCAS(counts + 3, 7, 9);
          if (i == 5) atomicExch(counts + 4, 11);
        }
        """,
        grid=(3,),
    )
    counts = np.array([0, 0, 0, 7, 0], dtype="int32")
    y = np.zeros(1, dtype="float32")
    program.run(y, counts)
    assert y[0] == 192
    assert counts.tolist() == [192, 191, -191, 9, 11]


@pytest.mark.slow
def test_bits_and_integers() -> None:
    program = Program(
        """
        extern "C" __global__ void kernel(unsigned* y) {
          y[0] = __umulhi(0xD2511F53u, 0xffffffffu);
          y[1] = __popc(0xf0f0u);
          y[2] = __clz(1);
          y[3] = __ffs(8);
          y[4] = __float_as_uint(1.0f);
          y[5] = __uint_as_float(0x40000000u) == 2.0f;
          y[6] = static_cast<unsigned>(1e6f * rsqrtf(4.0f));
        }
        """,
        block=(1,),
    )
    y = np.zeros(7, dtype="uint32")
    program.run(y)
    assert y.tolist() == [0xD2511F53 * 0xFFFFFFFF >> 32, 8, 31, 4, 0x3F800000, 1, 500000]


def test_older_gpus_lack_tensor_instructions() -> None:
    with pytest.raises(RuntimeError, match=r"program.cuh: g\+\+ cannot compile(.|\n)*async_copy"):
        Program(PIPELINE.text, shared_bytes=PIPELINE.shared_bytes, capability=75).build()


@pytest.mark.slow
def test_portable_fibers() -> None:
    """The C library's contexts, which other processors than x86-64 use."""
    library = build(SUM.write(), defines={"EMULATION_UCONTEXT": 1})
    x, y = np.arange(128, dtype="float32"), np.zeros(1, dtype="float32")
    library.launch("kernel", SUM.grid, SUM.block, (x, y))
    assert y[0] == x.sum()


@pytest.mark.slow
def test_compiled_once() -> None:
    first = SUM.build()
    assert SUM.build() is first
    assert build(SUM.write(), defines={"UNUSED": 1}).path != first.path


def test_without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    _compiler.cache_clear()
    with pytest.raises(InputError, match=r"^g\+\+: not found; [^\n]*$"):
        build(SUM.write(), defines={"NEVER_COMPILED": 1})


# Arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "n", "message"),
    [
        (np.zeros(64), 1, "argument x: expected an array of float32"),
        (1.0, 1, "argument x: expected an array"),
        (np.zeros(128, "float32")[::2], 1, "argument x: expected a contiguous array"),
        (np.zeros((8, 8), "float32").T, 1, "argument x: expected a contiguous array"),
        (np.zeros(64, "float32"), 1 << 31, "argument n: expected an integer in"),
        (np.zeros(64, "float32"), 1.5, "argument n: expected an integer in"),
        (np.zeros(64, "float32"), np.zeros(1, "int32"), "argument n: expected one number"),
    ],
)
def test_arguments_are_checked(x: object, n: object, message: str) -> None:
    program = Program(
        'extern "C" __global__ void kernel(const float* __restrict__ x, int n, float a) { (void)x, (void)n, (void)a; }'
    )
    with pytest.raises(TypeError, match=message):
        program.run(x, n, 1.0)


def test_number_of_arguments_and_sizes_are_checked() -> None:
    program = Program('extern "C" __global__ void kernel(REAL a) { (void)a; }'.replace("REAL", "float"))
    with pytest.raises(TypeError, match="expected 1 arguments, got 2"):
        program.run(1.0, 2.0)
    library = program.build()
    with pytest.raises(TypeError, match="at most 1024 threads"):
        library.launch("kernel", (1,), (33, 32), (1.0,))
    with pytest.raises(TypeError, match="impossible grid"):
        library.launch("kernel", (0,), (32,), (1.0,))
    with pytest.raises(TypeError, match="65535"):
        library.launch("kernel", (1, 1 << 16), (32,), (1.0,))
    with pytest.raises(InputError, match="needs 1000000 bytes of shared memory"):
        library.launch("kernel", (1,), (32,), (1.0,), shared_bytes=1_000_000)
