"""Small kernels for all that `kernels/prelude.cuh` wraps and for the warp's own operations, with what they must give.

The same texts run on the emulated device (tests/emulator) and on a GPU (tests/gpu): what the emulation takes the
hardware to do is what the hardware does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.emulator.programs import NEIGHBOUR, PIPELINE, SUM, Program

Array = np.ndarray[Any, Any]


class Instruction(NamedTuple):
    """A program, what it is launched with, and what must come out.

    An ellipsis among the arguments stands for the output, ``len(expected)`` floats (or words, by its dtype) that are
    NaN (all bits set) before. ``error`` bounds the difference, element by element; 0 asks for equal numbers.
    """

    name: str
    program: Program
    arguments: tuple[Any, ...]
    expected: Array
    error: Any = 0.0


def check(instruction: Instruction, result: Array) -> None:
    """Fail unless a result is as expected."""
    expected = instruction.expected
    assert result.dtype == expected.dtype
    if np.any(instruction.error) or expected.dtype == np.float32:
        wrong = ~(np.abs(result.astype("float64") - expected) <= instruction.error)
        wrong &= ~((result == expected) | (np.isnan(result) & np.isnan(expected)))
        assert not wrong.any(), (
            f"{instruction.name}: {result[wrong]}, expected {expected[wrong]} at {np.nonzero(wrong)[0]}"
        )
    else:
        np.testing.assert_array_equal(result, expected)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def bits(values: Array) -> Array:
    return values.view("uint32")


def floats(words: Any) -> Array:
    return np.asarray(words, dtype="uint32").view("float32")


# Rounding -----------------------------------------------------------------------------------------------------------


def rounded_tf32(x: Array) -> Array:
    """Words of the nearest numbers with 11 significant bits, ties away from zero; computed in float64."""
    _, exponent = np.frexp(x.astype("float64"))
    step = np.exp2(np.maximum(exponent, -125) - 11.0)
    nearest = np.trunc(np.abs(x) / step + 0.5) * step
    return bits(np.where(np.isfinite(x), np.copysign(nearest, x), x).astype("float32"))


def rounded_bf16(x: Array) -> Array:
    """Halves of the nearest numbers with 8 significant bits, ties to even; computed in float64."""
    _, exponent = np.frexp(x.astype("float64"))
    step = np.exp2(np.maximum(exponent, -125) - 8.0)
    nearest = np.rint(x / step) * step
    with np.errstate(over="ignore"):
        return bits(np.where(np.isfinite(x), nearest, x).astype("float32")) >> 16


def rounded_f16(x: Array) -> Array:
    """Halves of the nearest numbers in half precision, by NumPy."""
    with np.errstate(over="ignore"):
        return x.astype("float16").view("uint16").astype("uint32")


def hard_to_round(kept: int) -> Array:
    """Numbers whose last bits, beyond ``kept`` bits of the mantissa, lie at ties and beside them; and extreme ones."""
    rest = 23 - kept
    tie = 1 << (rest - 1)
    tails = [0, 1, tie - 1, tie, tie + 1, (1 << rest) - 1]
    heads = [0, 1, 2, 3, (1 << kept) - 1]
    words = [
        sign << 31 | exponent << 23 | head << rest | tail
        for sign in (0, 1)
        for exponent in (0, 1, 100, 127, 128, 253)
        for head in heads
        for tail in tails
    ]
    finite = [*words, 0x7F7FFFFF & ~((1 << rest) - 1), 0x7F800000, 0xFF800000]
    return np.concatenate([floats(finite), numbers(512 - len(finite))])


TF32 = Program(
    """
    extern "C" __global__ void kernel(const float* x, unsigned* y) { y[threadIdx.x] = to_tf32(x[threadIdx.x]); }
    """,
    block=(512,),
)
BF16 = Program(
    """
    extern "C" __global__ void kernel(const float* x, unsigned* y) {
      y[threadIdx.x] = pack_bf16(x[threadIdx.x], x[(threadIdx.x + 1) % blockDim.x]);
    }
    """,
    block=(512,),
)
F16 = BF16.but("pack_bf16", "pack_f16")
TANH = Program(
    """
    extern "C" __global__ void kernel(const float* x, float* y) { y[threadIdx.x] = tanh_approximate(x[threadIdx.x]); }
    """,
    block=(512,),
)
# Every NaN must stay one: uninitialised memory would else round to a number.
NANS = Program(
    """
    extern "C" __global__ void kernel(const float* x, float* y) {
      const float value = x[threadIdx.x];
      y[threadIdx.x] = __uint_as_float(to_tf32(value));
      y[32 + threadIdx.x] = __uint_as_float(pack_bf16(value, 1.0f) << 16);
      y[64 + threadIdx.x] = __uint_as_float(pack_bf16(1.0f, value) & 0xffff0000u);
      y[96 + threadIdx.x] = __uint_as_float(pack_f16(value, 1.0f) << 16);
    }
    """,
    block=(32,),
)


def rounding() -> list[Instruction]:
    tf32, bf16 = hard_to_round(10), hard_to_round(7)
    # Ties beside what half precision can hold, down to its smallest numbers, and what is too large for it.
    f16 = tf32 * np.resize([1.0, 2.0**-14, 2.0**-24, 2.0**16, 2.0**-120], 512)
    f16 = np.clip(f16, -3e38, 3e38).astype("float32")
    slopes = np.sinh(np.linspace(-12, 12, 512)).astype("float32")
    tanh = np.tanh(slopes.astype("float64")).astype("float32")
    nans = floats([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFC00000, 0xFFFFFFFF, 0x7F801000, 0x7F810000] * 4)
    packed = rounded_bf16(bf16) | rounded_bf16(np.roll(bf16, -1)) << 16
    return [
        Instruction("to_tf32", TF32, (tf32, ...), rounded_tf32(tf32)),
        Instruction("pack_bf16", BF16, (bf16, ...), packed.astype("uint32")),
        Instruction("pack_f16", F16, (f16, ...), (rounded_f16(f16) | rounded_f16(np.roll(f16, -1)) << 16)),
        Instruction("tanh_approximate", TANH, (slopes, ...), tanh, 2.0**-10.9 * np.abs(tanh)),
        Instruction("nan", NANS, (nans, ...), np.full(128, np.nan, "float32")),
    ]


# Matrix products ----------------------------------------------------------------------------------------------------

PRODUCT_TF32 = Program(
    """
    extern "C" __global__ void kernel(const float* a, const float* b, const float* c, float* d) {
      const int g = threadIdx.x / 4, t = threadIdx.x % 4;
      unsigned fa[4], fb[2];
      for (int i = 0; i < 4; i++) fa[i] = to_tf32(a[(g + 8 * (i % 2)) * 8 + t + 4 * (i / 2)]);
      for (int i = 0; i < 2; i++) fb[i] = to_tf32(b[(t + 4 * i) * 8 + g]);
      float sum[4];
      for (int i = 0; i < 4; i++) sum[i] = c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
      mma_m16n8k8_tf32(sum, fa, fb);
      mma_m16n8k8_tf32(sum, fa, fb);
      for (int i = 0; i < 4; i++) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sum[i];
    }
    """,
    block=(32,),
)
PRODUCT_BF16 = Program(
    """
    extern "C" __global__ void kernel(const float* a, const float* b, const float* c, float* d) {
      const int g = threadIdx.x / 4, t = threadIdx.x % 4;
      unsigned fa[4], fb[2];
      for (int i = 0; i < 4; i++) {
        const float* pair = a + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
        fa[i] = pack_bf16(pair[0], pair[1]);
      }
      for (int i = 0; i < 2; i++) fb[i] = pack_bf16(b[(2 * t + 8 * i) * 8 + g], b[(2 * t + 8 * i + 1) * 8 + g]);
      float sum[4];
      for (int i = 0; i < 4; i++) sum[i] = c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
      mma_m16n8k16_bf16(sum, fa, fb);
      mma_m16n8k16_bf16(sum, fa, fb);
      for (int i = 0; i < 4; i++) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sum[i];
    }
    """,
    block=(32,),
)


PRODUCT_F16 = Program(PRODUCT_BF16.text.replace("bf16", "f16"), block=(32,))


def products() -> list[Instruction]:
    found = []
    for name, program, depth, rounded in (
        ("mma_tf32", PRODUCT_TF32, 8, lambda x: floats(rounded_tf32(x))),
        ("mma_bf16", PRODUCT_BF16, 16, lambda x: floats(rounded_bf16(x) << 16)),
        ("mma_f16", PRODUCT_F16, 16, lambda x: x.astype("float16")),
    ):
        a, b, c = numbers(16, depth), numbers(depth, 8, seed=1), numbers(16, 8, seed=2)
        left, right = rounded(a).astype("float64"), rounded(b).astype("float64")
        terms = np.abs(c) + 2 * np.abs(left) @ np.abs(right)
        exact = (c + 2 * left @ right).astype("float32").ravel()
        # Tensor cores add in float32 but round towards zero: a few ulp of the terms' magnitudes.
        found.append(Instruction(name, program, (a, b, c, ...), exact, 2e-6 * terms.ravel()))
        assert np.abs(exact - (c + 2 * a.astype("float64") @ b).ravel()).max() > 1e-4  # the rounding is in it
    return found


# Asynchronous copies ------------------------------------------------------------------------------------------------

COPIES = Program(
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


def copies() -> list[Instruction]:
    x = numbers(128)
    copied = np.concatenate([x[:32], x[:64], x])
    copied[[3, 32 + 6, 32 + 7, *range(96 + 12, 96 + 16)]] = 0
    stream = numbers(5, 256)
    columns = (4 * np.arange(64)[:, None] + 64 * np.arange(4) + 4) % 256
    sums = stream[:, columns].astype("float64").sum(axis=(0, 2)).astype("float32")
    return [
        Instruction("async_copy", COPIES, (x, ...), copied),
        Instruction("pipeline", PIPELINE, (stream, ..., 5), sums, 1e-5),
    ]


# Warps --------------------------------------------------------------------------------------------------------------

SHUFFLES = Program(
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
VOTES = Program(
    """
    extern "C" __global__ void kernel(float* y) {
      const int lane = threadIdx.x;
      const unsigned third = 0x49249249u;
      if (lane % 3 == 0) {
        y[lane] = __popc(__ballot_sync(third, lane < 16));
        y[32 + lane] = __any_sync(third, lane == 3) + 2 * __all_sync(third, lane % 3 == 0);
        y[64 + lane] = __shfl_sync(third, lane, (lane + 9) % 30);
      } else {
        y[lane] = __popc(__ballot_sync(~third, lane < 16));
        y[32 + lane] = __any_sync(~third, lane == 3) + 2 * __all_sync(~third, lane % 3 == 0);
      }
      __syncwarp();
      y[96 + lane] = __shfl_sync(0xffffffffu, lane, 31 - lane);
    }
    """,
    block=(32,),
)


def shuffled(distance: int, width: int) -> Array:
    """By the rules of the CUDA C++ Programming Guide, "Warp shuffle functions", lane by lane."""
    index, up, down, xor = [], [], [], []
    for lane in range(32):
        first = lane - lane % width
        index.append(100 + first + distance % width)
        up.append(100 + (lane - distance if lane - distance >= first else lane))
        down.append(100 + (lane + distance if lane + distance < first + width else lane))
        xor.append(100 + (lane ^ distance if lane ^ distance < first + width else lane))
    return np.array(index + up + down + xor + up, dtype="float32")


def warps() -> list[Instruction]:
    lane = np.arange(32)
    third = lane % 3 == 0
    votes = np.full((4, 32), np.nan, "float32")
    votes[0] = np.where(third, 6, 10)
    votes[1] = np.where(third, 3, 0)
    votes[2, third] = ((lane + 9) % 30)[third]
    votes[3] = 31 - lane
    x, y = numbers(64), np.arange(128, dtype="float32")
    return [
        *(
            Instruction(f"shuffle-{distance}-{width}", SHUFFLES, (..., distance, width), shuffled(distance, width))
            for distance in (0, 1, 3, 17)
            for width in (32, 16, 8, 4, 1)
        ),
        Instruction("votes", VOTES, (...,), votes.ravel()),
        Instruction("barrier", NEIGHBOUR, (x, ...), x[(np.arange(64) + 33) % 64]),
        Instruction("sum", SUM, (y, ...), y[:, None].sum(axis=0)),
    ]


# Numbers ------------------------------------------------------------------------------------------------------------

BITS = Program(
    """
    extern "C" __global__ void kernel(unsigned* y) {
      y[0] = __umulhi(0xD2511F53u, 0xffffffffu);
      y[1] = __popc(0xf0f0u);
      y[2] = __clz(1);
      y[3] = __ffs(8);
      y[4] = __float_as_uint(1.0f);
      y[5] = __uint_as_float(0x40000000u) == 2.0f;
    }
    """,
    block=(1,),
)
# A product and a sum, each rounded: as NumPy does it, and never one fused operation.
SEPARATE = Program(
    """
    extern "C" __global__ void kernel(const float* a, const float* b, const float* c, float* y) {
      const int i = threadIdx.x;
      y[i] = __fadd_rn(__fmul_rn(a[i], b[i]), c[i]);
    }
    """
)
ATOMICS = Program(
    """
    extern "C" __global__ void kernel(unsigned* y) {
      const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
      atomicExch(y, 5u);
      atomicAdd(y + 1, 1u);
      atomicMin(y + 2, 7u + i);
      atomicCAS(y + 3, 0xffffffffu, 9u);
    }
    """,
    grid=(3,),
)


def arithmetic() -> list[Instruction]:
    a, b, c = (numbers(64, seed=seed) for seed in range(3))
    words = [0xD2511F53 * 0xFFFFFFFF >> 32, 8, 31, 4, 0x3F800000, 1]
    return [
        Instruction("bits", BITS, (...,), np.array(words, dtype="uint32")),
        Instruction("separate", SEPARATE, (a, b, -(a * b) + 1e-8 * c, ...), a * b + (-(a * b) + 1e-8 * c)),
        # From all bits set: one more than that, 192 times, is 191.
        Instruction("atomics", ATOMICS, (...,), np.array([5, 191, 7, 9], dtype="uint32")),
    ]


INSTRUCTIONS = [*rounding(), *products(), *copies(), *warps(), *arithmetic()]


def launched(instruction: Instruction, launch: Callable[..., None]) -> Array:
    """What a launch writes in the ellipsis' place."""
    out = np.full(len(instruction.expected), 0xFFFFFFFF, dtype="uint32").view(instruction.expected.dtype)
    launch(*(out if value is ... else value for value in instruction.arguments))
    return out
