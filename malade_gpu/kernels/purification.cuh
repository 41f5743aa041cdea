// What both forms of the purification chain (chain.cuh, chain_half.cuh) have in common: the network's sizes, its small
// parameters, the last layer, and the Langevin step with its noise. Included by kernel files.
#pragma once

#include "philox.cuh"

constexpr int SIDE = 28, PIXELS = SIDE * SIDE, QUADS = PIXELS / 4;
constexpr int FIRST = 10, FIRST_SIDE = 14;   // channels and side of the outer hidden layers
constexpr int SECOND = 25, SECOND_SIDE = 7;  // of the inner one

// Small parameters, in the order of ops/chain.py.
constexpr int BIAS_1 = 0, BIAS_2 = 10, BIAS_3 = 35, WEIGHT_4 = 45, BIAS_4 = 55, WEIGHT_5 = 56, BIAS_5 = 81;
constexpr int TABLE = 82, SMALL = 112;

// Settings of the chain; the key may be the image's own.
struct Chain {
  uint32_t key_0, key_1;
  float a, delta;
  bool clip;
};

// Where the position after `step` goes: to y, image for image, but every `every`-th before the last is kept for the way
// back, if `every` is not 0.
__device__ __forceinline__ float* place_after(int step, int num_steps, int every, int64_t image, int64_t n, float* y,
                                              float* kept) {
  const int number = every ? (step + 1) / every : 0;
  const bool keep = number && number * every == step + 1 && step + 1 < num_steps;
  return (keep ? kept + ((number - 1) * n + image) * PIXELS : y + image * PIXELS);
}

// Vector loads of WORDS words, a multiple of 4, at a multiple of 16 bytes.
template <int WORDS>
__device__ __forceinline__ void load(const float* from, float (&to)[WORDS]) {
#pragma unroll
  for (int i = 0; i < WORDS; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    to[i] = four.x;
    to[i + 1] = four.y;
    to[i + 2] = four.z;
    to[i + 3] = four.w;
  }
}

// tanh by one exponential, without branches: the error is absolute, 1e-7.
__device__ __forceinline__ float tanh_of(float u) {
  const float e = exp2_approximate(fabsf(u) * 2.885390082f);
  return copysignf(1.0f - 2.0f * reciprocal_approximate(e + 1.0f), u);
}

// What the last convolution makes of the constant: by kinds of rows and columns 0, 1, inner, 26, 27.
__device__ __forceinline__ int kind_of(int i) { return i < 2 ? i : i < SIDE - 2 ? 2 : i - (SIDE - 5); }
__device__ __forceinline__ void fill_table(float* small) {
  const int i = threadIdx.x;
  if (i >= 25) return;
  const auto inside = [](int kind, int tap) { return kind + tap >= 2 && kind + tap < 7; };
  float sum = 0.0f;
  for (int tap = 0; tap < 25; tap++)
    if (inside(i / 5, tap / 5) && inside(i % 5, tap % 5)) sum += small[WEIGHT_5 + tap];
  small[TABLE + i] = multiply_add(tanh_of(small[BIAS_4]), sum, small[BIAS_5]);
}

// The reconstruction r(x) of four neighbours in a row, pixels 4 quad .. 4 quad + 3, from the map, of which
// `read(row, column, value)` gets four neighbours in a row, counted from its border of one zero.
template <class Read>
__device__ __forceinline__ void reconstruct(const float* small, int quad, Read read, float (&r)[4]) {
  const int y = quad / (SIDE / 4), x = quad % (SIDE / 4) * 4;
#pragma unroll
  for (int j = 0; j < 4; j++) r[j] = small[TABLE + 5 * kind_of(y) + kind_of(x + j)];
  for (int ky = y % 2; ky < 5; ky += 2) {
    const float* weight = small + WEIGHT_5 + 5 * ky;
    float value[4];
    read((y + ky) / 2, x / 2, value);
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int kx = j % 2; kx < 5; kx += 2) r[j] = multiply_add(weight[kx], value[(j + kx) / 2], r[j]);
  }
#pragma unroll
  for (int j = 0; j < 4; j++) r[j] = tanh_of(r[j]);
}

__device__ __forceinline__ void noise(const Chain& chain, int quad, uint32_t step, uint32_t sample, float (&z)[4]) {
  const Words words = philox(quad, step, sample, 0u, chain.key_0, chain.key_1);
  normal_pair(words.w[0], words.w[1], z[0], z[1]);
  normal_pair(words.w[2], words.w[3], z[2], z[3]);
}

// x + a (r(x) - x) + delta z before clipping, rounded like the reference.
__device__ __forceinline__ float moved(const Chain& chain, float x, float r, float z) {
  return plus_product(plus_product(x, chain.a, __fadd_rn(r, -x)), chain.delta, z);
}

// The next position of four pixels.
__device__ __forceinline__ void move(const Chain& chain, float (&x)[4], const float (&r)[4], int quad, uint32_t step,
                                     uint32_t sample) {
  float z[4];
  noise(chain, quad, step, sample, z);
#pragma unroll
  for (int j = 0; j < 4; j++) {
    x[j] = moved(chain, x[j], r[j], z[j]);
    if (chain.clip) x[j] = x[j] < 0.0f ? 0.0f : x[j] > 1.0f ? 1.0f : x[j];
  }
}
