// Philox4x32-10 and the Box-Muller transform, for kernels that regenerate their noise in place. Included by kernel files.
//
// The words are those of ops/random.py bit by bit. So are the normal numbers but for the last digit of the logarithm:
// every product and sum is rounded on its own (__fmul_rn, __fadd_rn), whatever the compiler would like to fuse.
#pragma once

struct Words {
  uint32_t w[4];
};

__device__ __forceinline__ Words philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint32_t high_0 = __umulhi(0xD2511F53u, c0), low_0 = 0xD2511F53u * c0;
    const uint32_t high_1 = __umulhi(0xCD9E8D57u, c2), low_1 = 0xCD9E8D57u * c2;
    c0 = high_1 ^ c1 ^ k0;
    c1 = low_1;
    c2 = high_0 ^ c3 ^ k1;
    c3 = low_0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// a + b c, each rounded.
__device__ __forceinline__ float plus_product(float a, float b, float c) { return __fadd_rn(a, __fmul_rn(b, c)); }

// Sine and cosine of an angle in [0, 2 pi], to about one unit in the last place. sinf and cosf would bring a reduction for
// huge arguments along, with a stack frame. Pi/2 in three pieces whose multiples by 0..4 are exact, polynomials of the
// Cephes library (Moshier) on [-pi/4, pi/4].
__device__ __forceinline__ void sine_cosine(float angle, float& sine, float& cosine) {
  const int quarter = static_cast<int>(plus_product(0.5f, angle, 0.636619772f));
  const float turns = -static_cast<float>(quarter);
  float r = plus_product(angle, turns, 1.5703125f);
  r = plus_product(r, turns, 4.837512969970703125e-4f);
  r = plus_product(r, turns, 7.54978995489188216e-8f);
  const float square = __fmul_rn(r, r);
  float s = plus_product(8.3321608736e-3f, -1.9515295891e-4f, square);
  s = plus_product(-1.6666654611e-1f, s, square);
  s = plus_product(r, __fmul_rn(s, square), r);
  float c = plus_product(-1.388731625493765e-3f, 2.443315711809948e-5f, square);
  c = plus_product(4.166664568298827e-2f, c, square);
  c = plus_product(1.0f, square, plus_product(-0.5f, c, square));
  const bool odd = quarter & 1;
  sine = odd ? c : s;
  cosine = odd ? s : c;
  if (quarter & 2) sine = -sine;
  if ((quarter + 1) & 2) cosine = -cosine;
}

// Two standard normal numbers from two words: radius times sine, radius times cosine. The factors 2^-32 are exact, so the
// only product that is rounded before its use is the one by 2 pi.
__device__ __forceinline__ void normal_pair(uint32_t radius_word, uint32_t angle_word, float& z0, float& z1) {
  constexpr float unit = 2.3283064365386963e-10f, half = 1.1641532182693481e-10f;
  const float u0 = plus_product(half, static_cast<float>(radius_word), unit);
  const float u1 = plus_product(half, static_cast<float>(angle_word), unit);
  const float radius = sqrtf(__fmul_rn(-2.0f, logf(u0)));
  float sine, cosine;
  sine_cosine(__fmul_rn(u1, 6.283185307179586f), sine, cosine);
  z0 = __fmul_rn(radius, sine);
  z1 = __fmul_rn(radius, cosine);
}
