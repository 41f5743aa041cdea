"""The emulated device computes what CUDA C++ says, in every schedule."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from malade_gpu.emulation import build
from malade_gpu.emulation.build import _compiler
from malade_ref.checks import InputError

from .programs import NEIGHBOUR, PIPELINE, SUM, Program, all_alike


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def test_shared_memory_and_barriers() -> None:
    x = numbers(64)
    for y in NEIGHBOUR.results(x, ..., size=64):
        np.testing.assert_array_equal(y, x[(np.arange(64) + 33) % 64])


def test_sum_by_shuffles() -> None:
    x = np.arange(128, dtype="float32")
    for y in SUM.results(x, ..., size=1):
        assert y[0] == x.sum()


def test_pipeline_of_asynchronous_copies() -> None:
    x = numbers(5, 256)
    results = PIPELINE.results(x, ..., 5, size=64)
    columns = (4 * np.arange(64)[:, None] + 64 * np.arange(4) + 4) % 256
    np.testing.assert_allclose(results[0], x[:, columns].sum(axis=(0, 2)), rtol=1e-5)
    assert all_alike(results)


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


@pytest.mark.parametrize("width", [32, 16, 8, 4, 1])
@pytest.mark.parametrize("distance", [0, 1, 3, 17])
def test_shuffles(width: int, distance: int) -> None:
    """Against the rules of the CUDA C++ Programming Guide, "Warp shuffle functions", lane by lane."""
    program = Program(
        """
        extern "C" __global__ void kernel(float* y, int distance, int width) {
          const int lane = threadIdx.x;
          const float value = 100 + lane;
          y[lane] = __shfl_sync(0xffffffffu, value, distance, width);
          y[32 + lane] = __shfl_up_sync(0xffffffffu, value, distance, width);
          y[64 + lane] = __shfl_down_sync(0xffffffffu, value, distance, width);
          y[96 + lane] = __shfl_xor_sync(0xffffffffu, value, distance, width);
          y[128 + lane] = static_cast<float>(__shfl_up_sync(0xffffffffu, static_cast<double>(value), distance, width));
        }
        """,
        block=(32,),
    )
    index, up, down, xor = [], [], [], []
    for lane in range(32):
        first = lane - lane % width
        index.append(100 + first + distance % width)
        up.append(100 + (lane - distance if lane - distance >= first else lane))
        down.append(100 + (lane + distance if lane + distance < first + width else lane))
        xor.append(100 + (lane ^ distance if lane ^ distance < first + width else lane))
    for y in program.results(..., distance, width, size=160):
        np.testing.assert_array_equal(y, index + up + down + xor + up)


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


def test_matrix_product_tf32() -> None:
    """One warp, fragments as in the PTX manual: against the same product of rounded operands in float64."""
    program = Program(
        """
        extern "C" __global__ void kernel(const float* a, const float* b, float* d) {
          const int g = threadIdx.x / 4, t = threadIdx.x % 4;
          unsigned fa[4], fb[2];
          for (int i = 0; i < 4; i++) fa[i] = to_tf32(a[(g + 8 * (i % 2)) * 8 + t + 4 * (i / 2)]);
          for (int i = 0; i < 2; i++) fb[i] = to_tf32(b[(t + 4 * i) * 8 + g]);
          float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
          mma_m16n8k8_tf32(sum, fa, fb);
          mma_m16n8k8_tf32(sum, fa, fb);
          for (int i = 0; i < 4; i++) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sum[i];
        }
        """,
        block=(32,),
    )
    a, b = numbers(16, 8), numbers(8, 8)
    results = program.results(a, b, ..., size=128)
    assert all_alike(results)
    rounded_a, rounded_b = (np.float64((x.view("uint32") + 0x1000 & 0xFFFFE000).view("float32")) for x in (a, b))
    np.testing.assert_allclose(results[0].reshape(16, 8), 2 * rounded_a @ rounded_b, rtol=1e-5, atol=1e-5)
    assert np.abs(results[0].reshape(16, 8) - 2 * a.astype("float64") @ b).max() > 1e-5


def test_matrix_product_bf16() -> None:
    program = Program(
        """
        extern "C" __global__ void kernel(const float* a, const float* b, float* d) {
          const int g = threadIdx.x / 4, t = threadIdx.x % 4;
          unsigned fa[4], fb[2];
          for (int i = 0; i < 4; i++) {
            const float* pair = a + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
            fa[i] = pack_bf16(pair[0], pair[1]);
          }
          for (int i = 0; i < 2; i++) fb[i] = pack_bf16(b[(2 * t + 8 * i) * 8 + g], b[(2 * t + 8 * i + 1) * 8 + g]);
          float sum[4] = {1.0f, 1.0f, 1.0f, 1.0f};
          mma_m16n8k16_bf16(sum, fa, fb);
          for (int i = 0; i < 4; i++) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sum[i];
        }
        """,
        block=(32,),
    )
    a, b = numbers(16, 16), numbers(16, 8)
    results = program.results(a, b, ..., size=128)
    assert all_alike(results)

    def rounded(x: np.ndarray) -> np.ndarray:
        bits = x.view("uint32")
        return np.float64(((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype("uint32").view("float32"))

    np.testing.assert_allclose(results[0].reshape(16, 8), 1 + rounded(a) @ rounded(b), rtol=1e-5, atol=1e-5)


def test_asynchronous_copies_of_all_sizes() -> None:
    program = Program(
        """
        extern "C" __global__ void kernel(const float* x, float* y) {
          DYNAMIC_SHARED(float, tile);
          const int i = threadIdx.x;
          async_copy<4>(tile + i, x + i, i != 3);
          async_copy<8>(tile + 32 + 2 * i, x + 2 * i, i != 3);
          async_copy<16>(tile + 96 + 4 * i, x + 4 * i, i != 3);
          async_commit();
          async_wait<0>();
          __syncthreads();
          for (int k = 0; k < 7; k++) y[32 * k + i] = tile[32 * k + i];
        }
        """,
        block=(32,),
        shared_bytes=7 * 128,
    )
    x = numbers(128)
    expected = np.concatenate([x[:32], x[:64], x])
    expected[[3, 32 + 6, 32 + 7, *range(96 + 12, 96 + 16)]] = 0
    for y in program.results(x, ..., size=7 * 32):
        np.testing.assert_array_equal(y, expected)


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


def test_portable_fibers() -> None:
    """The C library's contexts, which other processors than x86-64 use."""
    library = build(SUM.write(), defines={"EMULATION_UCONTEXT": 1})
    x, y = np.arange(128, dtype="float32"), np.zeros(1, dtype="float32")
    library.launch("kernel", SUM.grid, SUM.block, (x, y))
    assert y[0] == x.sum()


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
