// Asynchronous copies into shared memory and matrix products of a warp: the wrappers of kernels/prelude.cuh, emulated.
//
// Like there, they exist from compute capability 8.0 on only: what lacks a path for older GPUs does not compile for them.
#pragma once

#include <vector>

#include "language.cuh"

#if __CUDA_ARCH__ >= 800

// Copy BYTES (4, 8 or 16) from global to shared memory; zeros if not `valid`, and then the source is not touched.
// The destination holds poison until the group of the copy has been waited for.
template <int BYTES, bool IN_L1 = false>
void async_copy(void* shared, const void* global, bool valid, emulation::Place place = emulation::Place::current()) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
  const auto aligned = [](const void* address) { return reinterpret_cast<uintptr_t>(address) % BYTES == 0; };
  if (!aligned(shared) || !aligned(global))
    emulation::fail("an asynchronous copy of %d bytes is not aligned to as many, at %s:%u", BYTES,
                    emulation::file_of(place), place.line());
  if (!emulation::in_shared_memory(shared, BYTES))
    emulation::fail("an asynchronous copy leads outside of shared memory, at %s:%u", emulation::file_of(place),
                    place.line());
  memset(shared, emulation::POISON, BYTES);
  emulation::block.threads[emulation::this_thread()].uncommitted.push_back({shared, global, BYTES, valid});
}

// Close the thread's current group of copies (possibly an empty one).
inline void async_commit() {
  emulation::Thread& thread = emulation::block.threads[emulation::this_thread()];
  thread.committed.push_back(std::move(thread.uncommitted));
  thread.uncommitted.clear();
}

// Wait until at most PENDING of the thread's groups, the youngest, are still on their way.
template <int PENDING>
void async_wait() {
  auto& groups = emulation::block.threads[emulation::this_thread()].committed;
  while (groups.size() > PENDING) {
    for (const emulation::AsyncCopy& copy : groups.front()) {
      if (copy.valid) memcpy(copy.destination, copy.source, copy.bytes);
      else memset(copy.destination, 0, copy.bytes);
    }
    groups.erase(groups.begin());
  }
}

// A float in TF32: 8 bits of exponent, 10 of mantissa, rounded to nearest, ties away from zero.
// Every NaN becomes one and the same, as by the instruction: poison must not round to a number.
inline unsigned to_tf32(float a) { return a != a ? 0x7fffffffu : (__float_as_uint(a) + 0x1000u) & 0xffffe000u; }

// The same in the upper 19 bits; what is in the others is not read.
template <bool IN_PLACE = false>
unsigned near_tf32(float a) {
  return __float_as_uint(a) + (std::fabs(a) < __uint_as_float(0x7f800000u) ? 0x1000u : 0u);
}

// Two floats in bfloat16, `low` in the lower half, rounded to nearest, ties to even.
inline unsigned pack_bf16(float low, float high) {
  const auto rounded = [](float a) {
    const unsigned bits = __float_as_uint(a);
    if (a != a) return 0x7fffu;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
}

// The same in half precision: 11 significant bits, multiples of 2^-24 below 2^-14, infinite from 65520 on.
inline unsigned pack_f16(float low, float high) {
  const auto rounded = [](float a) -> unsigned {
    const unsigned sign = __float_as_uint(a) >> 16 & 0x8000u;
    const double size = std::fabs(double(a));
    if (a != a) return 0x7fffu;
    if (size >= 65520) return sign | 0x7c00u;
    int exponent;
    frexp(size, &exponent);
    exponent = size > 0 ? std::max(exponent, -13) : -13;
    // In units of the last place, ties to even; a carry into the next power of 2 is right by itself.
    return sign | static_cast<unsigned>((exponent + 13) * 1024 + nearbyint(ldexp(size, 11 - exponent)));
  };
  return rounded(low) | rounded(high) << 16;
}

// tanh to a relative error of 2^-11, as by the instruction; which of the neighbours it takes is not known.
inline float tanh_approximate(float a) { return __uint_as_float(to_tf32(tanhf(a))); }

namespace emulation {

// The float next to a sum on the side of 0: tensor cores cut off what does not fit, where other units round to nearest.
// A long sum of numbers of one sign, all taken inside of them, is seen to be too small.
inline float cut_off(double sum) {
  const float rounded = static_cast<float>(sum);
  return std::isfinite(rounded) && std::fabs(double(rounded)) > std::fabs(sum) ? std::nextafterf(rounded, 0.0f) : rounded;
}

// What 16 bits mean as a number in half precision.
inline float value_of_half(unsigned bits) {
  static const std::vector<float> values = [] {
    std::vector<float> found(1 << 16);
    for (unsigned i = 0; i < found.size(); i++) {
      const unsigned exponent = i >> 10 & 31u, rest = i & 0x3ffu;
      const float size = exponent == 31 ? __uint_as_float(0x7f800000u | rest << 13)
                         : exponent     ? ldexpf(float(1024 + rest), int(exponent) - 25)
                                        : ldexpf(float(rest), -24);
      found[i] = std::copysign(size, i >> 15 ? -1.0f : 1.0f);
    }
    return found;
  }();
  return values[bits];
}

// d += a b for a 16 x 8 result that the warp holds together. Lane 4 g + t holds rows g and g + 8, columns 2 t and
// 2 t + 1 of it; `a(mail, row, k)` and `b(mail, k, column)` find the operands in what the lanes sent.
template <int DEPTH, class A, class B>
void multiply_accumulate(float (&d)[4], const uint32_t* words, Place place, A a, B b) {
  const int g = own_lane() / 4, t = own_lane() % 4;
  exchange(~0u, words, MAX_WORDS, place, [&](const uint32_t (*mail)[MAX_WORDS]) {
    for (int i = 0; i < 4; i++) {
      const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
      double sum = d[i];  // of products that are exact in double
      for (int k = 0; k < DEPTH; k++) sum += double(a(mail, row, k)) * b(mail, k, column);
      d[i] = cut_off(sum);
    }
    return 0;
  });
}

}  // namespace emulation

// mma.m16n8k8 of TF32 (PTX ISA, "Matrix fragments for mma.m16n8k8"): lane 4 g + t holds a[(r / 8) + 2 (k / 4)] of
// row r = g or g + 8 and k = t or t + 4, and b[k / 4] of column g. The lower 13 bits of an operand are not read.
inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                             emulation::Place place = emulation::Place::current()) {
  const uint32_t words[] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const auto tf32 = [](uint32_t word) { return __uint_as_float(word & 0xffffe000u); };
  emulation::multiply_accumulate<8>(
      d, words, place,
      [&](auto mail, int row, int k) { return tf32(mail[row % 8 * 4 + k % 4][row / 8 + 2 * (k / 4)]); },
      [&](auto mail, int k, int column) { return tf32(mail[column * 4 + k % 4][4 + k / 4]); });
}

// mma.m16n8k16 of bfloat16: a word holds k and k + 1, the even one in its lower half. Lane 4 g + t holds k = 2 t, 2 t + 1
// and 2 t + 8, 2 t + 9.
inline void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                              emulation::Place place = emulation::Place::current()) {
  const uint32_t words[] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const auto half = [](uint32_t word, int k) { return __uint_as_float(k % 2 ? word & 0xffff0000u : word << 16); };
  emulation::multiply_accumulate<16>(
      d, words, place,
      [&](auto mail, int row, int k) { return half(mail[row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)], k); },
      [&](auto mail, int k, int column) { return half(mail[column * 4 + k % 8 / 2][4 + k / 8], k); });
}

// mma.m16n8k16 of half precision: likewise.
inline void mma_m16n8k16_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                             emulation::Place place = emulation::Place::current()) {
  const uint32_t words[] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const auto half = [](uint32_t word, int k) { return emulation::value_of_half(word >> k % 2 * 16 & 0xffffu); };
  emulation::multiply_accumulate<16>(
      d, words, place,
      [&](auto mail, int row, int k) { return half(mail[row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)], k); },
      [&](auto mail, int k, int column) { return half(mail[column * 4 + k % 8 / 2][4 + k / 8], k); });
}

#endif  // __CUDA_ARCH__ >= 800
