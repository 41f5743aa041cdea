// The words of CUDA C++: qualifiers, vector types, barriers, warp operations, atomics, mathematics.
#pragma once

#include <cmath>
#include <type_traits>

#include "block.cuh"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __shared__ static __attribute__((section("emulated_shared")))
// Shared memory whose size the launch chooses: a pointer `name`, aligned for any vector load.
#define DYNAMIC_SHARED(type, name) type* const name = reinterpret_cast<type*>(emulation::block.dynamic_shared->data())

struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(16) double2 { double x, y; };
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Barriers.

inline void __syncthreads(emulation::Place place = emulation::Place::current()) { emulation::block_barrier(place); }
inline void __syncwarp(unsigned mask = ~0u, emulation::Place place = emulation::Place::current()) {
  emulation::warp_barrier(mask, place);
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __threadfence(); }

// Shuffles. `width` cuts the warp into segments; a source outside the own segment means the own value, except in
// __shfl_sync, which wraps around. What a lane outside the mask "holds" is poison.

namespace emulation {

template <class T>
T value_of_lane(unsigned mask, T value, int source, Place place) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  constexpr int count = sizeof(T) / 4;
  uint32_t words[count];
  memcpy(words, &value, sizeof value);
  return exchange(mask, words, count, place, [&](const uint32_t (*mail)[MAX_WORDS]) {
    T result;
    if (mask >> source & 1) memcpy(&result, mail[source], sizeof result);
    else memset(&result, POISON, sizeof result);
    return result;
  });
}
inline int own_lane() { return lane_of(this_thread()); }
inline int first_of_segment(int width) { return own_lane() & ~(width - 1); }

template <class Read>
auto vote(unsigned mask, bool value, Place place, Read read) {
  const uint32_t word = value;
  return exchange(mask, &word, 1, place, [&](const uint32_t (*mail)[MAX_WORDS]) {
    unsigned votes = 0;
    for (int lane = 0; lane < warpSize; lane++)
      if (mask >> lane & 1) votes |= mail[lane][0] << lane;
    return read(votes);
  });
}

}  // namespace emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              emulation::Place place = emulation::Place::current()) {
  return emulation::value_of_lane(mask, value, emulation::first_of_segment(width) | (source & (width - 1)), place);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 emulation::Place place = emulation::Place::current()) {
  const int source = emulation::own_lane() - static_cast<int>(delta);
  const bool inside = source >= emulation::first_of_segment(width);
  return emulation::value_of_lane(mask, value, inside ? source : emulation::own_lane(), place);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   emulation::Place place = emulation::Place::current()) {
  const int source = emulation::own_lane() + static_cast<int>(delta);
  const bool inside = source < emulation::first_of_segment(width) + width;
  return emulation::value_of_lane(mask, value, inside ? source : emulation::own_lane(), place);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize,
                  emulation::Place place = emulation::Place::current()) {
  const int source = emulation::own_lane() ^ lanes;
  const bool inside = source < emulation::first_of_segment(width) + width;  // earlier segments can be read
  return emulation::value_of_lane(mask, value, inside ? source : emulation::own_lane(), place);
}
inline unsigned __ballot_sync(unsigned mask, bool value, emulation::Place place = emulation::Place::current()) {
  return emulation::vote(mask, value, place, [](unsigned votes) { return votes; });
}
inline int __any_sync(unsigned mask, bool value, emulation::Place place = emulation::Place::current()) {
  return emulation::vote(mask, value, place, [](unsigned votes) { return votes != 0; });
}
inline int __all_sync(unsigned mask, bool value, emulation::Place place = emulation::Place::current()) {
  return emulation::vote(mask, value, place, [=](unsigned votes) { return votes == mask; });
}

// Atomics: return what was there before.

namespace emulation {

template <class T, class Update>
T atomic_update(T* address, Update update) {
  using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Word* const word = reinterpret_cast<Word*>(address);
  Word old = __atomic_load_n(word, __ATOMIC_RELAXED), desired;
  T before;
  do {
    memcpy(&before, &old, sizeof before);
    const T after = update(before);
    memcpy(&desired, &after, sizeof desired);
  } while (!__atomic_compare_exchange_n(word, &old, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return before;
}

}  // namespace emulation

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return emulation::atomic_update(address, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return emulation::atomic_update(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return emulation::atomic_update(address, [=](T old) { return value < old ? value : old; });
}
template <class T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return emulation::atomic_update(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return emulation::atomic_update(address, [=](T old) { return old == expected ? value : old; });
}

// Integers and bits.

using std::max;
using std::min;
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<uint64_t>(a) * b >> 32; }
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __clz(int a) { return a ? __builtin_clz(a) : 32; }
inline int __ffs(int a) { return __builtin_ffs(a); }
template <class T>
T __ldg(const T* address) { return *address; }

namespace emulation {
template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace emulation
inline float __uint_as_float(unsigned a) { return emulation::bits_as<float>(a); }
inline unsigned __float_as_uint(float a) { return emulation::bits_as<unsigned>(a); }
inline float __int_as_float(int a) { return emulation::bits_as<float>(a); }
inline int __float_as_int(float a) { return emulation::bits_as<int>(a); }

// Real numbers. sqrtf, logf, tanhf and the others are the C library's. The names with _rn are never contracted into a
// fused multiply-add, on the GPU neither.

inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }

// Of kernels/prelude.cuh.
inline float multiply_add(float a, float b, float c) { return a * b + c; }
template <class T>
const T* computed_once(const T* address) { return address; }
inline float exp2_approximate(float a) { return exp2f(a); }
inline float reciprocal_approximate(float a) { return 1.0f / a; }
