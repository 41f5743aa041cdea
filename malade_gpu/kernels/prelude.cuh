// What stands before every kernel file on a real GPU; on the emulated device emulation/cuda_cpu.cuh stands there.
// The inline PTX of all kernels is here, behind names that both sides know.
#pragma once

typedef unsigned char uint8_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

// Shared memory whose size the launch chooses: a pointer `name`, aligned for any vector load.
#define DYNAMIC_SHARED(type, name)                                   \
  extern __shared__ __align__(16) unsigned char name##_bytes[];      \
  type* const name = reinterpret_cast<type*>(name##_bytes)

// a b + c in one rounding; on the emulated device in two.
__device__ __forceinline__ float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// The same address in global memory, of which the compiler does not know the parts: it is computed once, not anew for
// each of the addresses near it.
template <class T>
__device__ __forceinline__ const T* computed_once(const T* address) {
  asm("" : "+l"(address));
  return address;
}

// The GPU's own exponential and reciprocal: relative errors of 2^-22 and 2^-23; denormal numbers count as 0.
__device__ __forceinline__ float exp2_approximate(float a) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(a));
  return result;
}
__device__ __forceinline__ float reciprocal_approximate(float a) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(a));
  return result;
}

#if __CUDA_ARCH__ >= 800

// Copy BYTES (4, 8 or 16) from global to shared memory in the background; zeros if not `valid`. Copies of 16 bytes pass by
// the L1 cache unless IN_L1, which is for what other copies of the block will read again.
template <int BYTES, bool IN_L1 = false>
__device__ __forceinline__ void async_copy(void* shared, const void* global, bool valid) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int source_bytes = valid ? BYTES : 0;
  if constexpr (BYTES == 16 && !IN_L1)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(source_bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(global), "n"(BYTES), "r"(source_bytes) : "memory");
}

// Close the thread's current group of copies (possibly an empty one).
__device__ __forceinline__ void async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until at most PENDING of the thread's groups, the youngest, are still on their way.
template <int PENDING>
__device__ __forceinline__ void async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// A float in TF32: 8 bits of exponent, 10 of mantissa, rounded to nearest, ties away from zero.
__device__ __forceinline__ unsigned to_tf32(float a) {
  unsigned result;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(a));
  return result;
}

// A float whose upper 19 bits are those of `to_tf32`; tensor cores do not read the others. What is not finite stays so.
// IN_PLACE: in two instructions where the result may take the register of `a`; else in three, into any register.
template <bool IN_PLACE = false>
__device__ __forceinline__ unsigned near_tf32(float a) {
  if constexpr (!IN_PLACE) return __float_as_uint(a) + (fabsf(a) < __uint_as_float(0x7f800000u) ? 0x1000u : 0u);
  unsigned result = __float_as_uint(a);
  asm("{\n.reg .pred finite;\nsetp.lt.f32 finite, %1, 0f7F800000;\n@finite add.u32 %0, %0, 0x1000;\n}"
      : "+r"(result)
      : "f"(fabsf(a)));
  return result;
}

// Two floats in bfloat16, `low` in the lower half, rounded to nearest, ties to even.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
  unsigned result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

// The same in half precision: 11 significant bits, from 2^-14 to 65504; what is smaller is a multiple of 2^-24,
// what is larger infinite.
__device__ __forceinline__ unsigned pack_f16(float low, float high) {
  unsigned result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

// tanh in one instruction, to a relative error of 2^-11.
__device__ __forceinline__ float tanh_approximate(float a) {
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(a));
  return result;
}

// d += a b, 16 x 8 x 8 in TF32: lane 4 g + t holds rows g and g + 8 of a, column g of b; emulation/tensor.cuh says all.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same, 16 x 8 x 16 in bfloat16.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// And in half precision.
__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif  // __CUDA_ARCH__ >= 800
