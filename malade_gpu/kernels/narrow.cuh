// Input gradients of convolutions of few channels, and transposed convolutions to few: the first layers of classifiers,
// where the windows have up to 32 taps (1 x 3 x 3, 3 x 3 x 3) and dy has many channels.
//
//     products[(u, v, c)][i, j] = sum over o  dy[i, j, o] weight[(u, v, c)][o]
//     dx[row, column, c]        = sum over u, v  products[(u, v, c)][(row + top - u) / sh, (column + left - v) / sw]
//
// `correlate` of conv.cuh would fetch each pixel of dy kh kw times and multiply 4 or 8 columns where there are c. Here
// it is read once, with all taps multiplied at once, and the products stay in shared memory until they are added up.
//
// A block computes `rows` rows of the dx of an image (all of them if it is small), a band of them after the other. The
// products of the rows of dy that a band needs are in a ring of `ring` rows: what the next band needs, too, is still
// there. Eight lanes share a pixel: of PART channels each holds CHANNELS of PIXELS pixels in registers, multiplies them
// with each tap's weights from shared memory, and shuffles add up the eight. More channels than PART come in parts, one
// after the other, added to the products. The order of a sum depends on the window and the channels alone: an image's
// results do not depend on its batch.
//
// What limits it on an H200 (132 multiprocessors, 1.83 GHz, 4.3 TB/s = 17.8 bytes per clock and multiprocessor; none of
// this has been measured), for the paper's classifier, whose dy has 28 x 28 pixels of 128 channels, 401 KB an image,
// and 9 taps. Clocks of a multiprocessor for the 16 pixels that a warp takes at a time:
//
//     dy from memory, 8 KiB                                                                                460
//     instructions, 4 a clock: 9 x (64 multiply-adds, 4 loads of weights, 4 shuffles, 20 others), 16 loads  210
//     shared memory, 128 bytes a clock: 9 x (4 x 512 bytes of weights, 4 shuffles, a store)                 190
//     adding up: 16 x 9 numbers from shared memory, with 12 instructions for each                            14
//
// so it waits for memory: 0.93 ms for 10,000 images. With 27 taps the instructions would take 620 clocks, 1.3 ms. At
// 4.3 TB/s and 1,000 clocks of latency 18 KB have to be on their way to a multiprocessor; each of its 16 warps asks for
// 8 KiB at once.
//
// Macros: REAL float or double; VECTOR: how many numbers one load takes: 1, or 4 floats where dy's channels are a
// multiple of 4 and dy is aligned to 16 bytes. Launch with num_taps (PART + ring ow) numbers of dynamic shared memory.

#include "epilogue.cuh"

#ifndef VECTOR
#define VECTOR 1
#endif

constexpr int THREADS = 128, BLOCKS = 4;  // of a multiprocessor at a time: 128 registers for a thread
constexpr int LANES = 8, GROUPS = 32 / LANES;  // lanes that share a pixel; pixels that a warp loads at once
constexpr int PIXELS = 4;  // of each lane
constexpr int STEP = THREADS / LANES * PIXELS;  // pixels of the block
constexpr int QUADS = sizeof(REAL) == 4 ? 4 : 2, CHANNELS = 4 * QUADS, QUAD = 4 * LANES;
constexpr int PART = QUADS * QUAD;  // channels; ops/conv.py knows it too

// Which channel of a quad is a lane's number e: neighbouring lanes load neighbouring channels.
__device__ __forceinline__ int channel_of(int lane, int e) { return VECTOR == 4 ? 4 * lane + e : lane + LANES * e; }

// `count` channels of a pixel, as the lane holds them; 0 beyond.
__device__ __forceinline__ void load(REAL (&values)[CHANNELS], const REAL* pixel, int lane, int count) {
#pragma unroll
  for (int q = 0; q < QUADS; q++) {
    if constexpr (VECTOR == 4) {
      const bool inside = q * QUAD + channel_of(lane, 0) < count;
      const float4 four = inside ? *reinterpret_cast<const float4*>(pixel + q * QUAD + channel_of(lane, 0)) : float4{};
      values[4 * q] = four.x, values[4 * q + 1] = four.y, values[4 * q + 2] = four.z, values[4 * q + 3] = four.w;
    } else {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int channel = q * QUAD + channel_of(lane, e);
        values[4 * q + e] = channel < count ? pixel[channel] : REAL(0);
      }
    }
  }
}

__device__ __forceinline__ void read_four(REAL (&values)[4], const REAL* shared) {
  if constexpr (sizeof(REAL) == 4) {
    const float4 four = *reinterpret_cast<const float4*>(shared);
    values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
  } else {
#pragma unroll
    for (int e = 0; e < 4; e++) values[e] = shared[e];
  }
}

// The sum over the eight lanes, of the pixel that is the lane's own: number lane / 2.
__device__ __forceinline__ REAL over_lanes(const REAL (&sums)[PIXELS], int lane) {
  const bool upper = lane & 4, odd = lane & 2;
  REAL two[2];
#pragma unroll
  for (int k = 0; k < 2; k++) two[k] = upper ? sums[2 + k] : sums[k];
#pragma unroll
  for (int k = 0; k < 2; k++) two[k] += __shfl_xor_sync(0xffffffffu, upper ? sums[k] : sums[2 + k], 4);
  REAL one = odd ? two[1] : two[0];
  one += __shfl_xor_sync(0xffffffffu, odd ? two[0] : two[1], 2);
  return one + __shfl_xor_sync(0xffffffffu, one, 1);
}

// The products of `num_pixels` pixels, of which the first is the first one of row `row`.
__device__ void multiply(const REAL* dy, int num_pixels, int o, int count, const REAL* weights, int num_taps, int row,
                         int ow, int ring, bool first_part, REAL* products) {
  const int lane = threadIdx.x % LANES, group = threadIdx.x % 32 / LANES, num_quads = (count + QUAD - 1) / QUAD;
  for (int first = threadIdx.x / 32 * GROUPS * PIXELS; first < num_pixels; first += STEP) {
    REAL values[PIXELS][CHANNELS];
#pragma unroll
    for (int k = 0; k < PIXELS; k++) {
      const int pixel = first + k * GROUPS + group;
      load(values[k], dy + int64_t(pixel) * o, lane, pixel < num_pixels ? count : 0);
    }
    const int own = first + lane / 2 * GROUPS + group;
    const bool stores = lane % 2 == 0 && own < num_pixels;
    REAL* product = products + (row + own / ow) % ring * ow + own % ow;
    for (int tap = 0; tap < num_taps; tap++, product += ring * ow) {
      REAL sums[PIXELS] = {};
#pragma unroll
      for (int q = 0; q < QUADS; q++) {
        if (q >= num_quads) break;
        REAL four[4];
        read_four(four, weights + tap * PART + q * QUAD + 4 * lane);
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
          for (int k = 0; k < PIXELS; k++) sums[k] += values[k][4 * q + e] * four[e];
      }
      const REAL sum = over_lanes(sums, lane);
      if (stores) *product = first_part ? sum : *product + sum;
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
spread(const REAL* dy, const REAL* weight, REAL* dx, int num_taps, int o, int oh, int ow, int kh, int kw, int sh,
       int sw, int top, int left, int height, int width, int rows, int band, int ring, const REAL* bias,
       const REAL* input, bool has_bias, int activation, int input_activation) {
  DYNAMIC_SHARED(REAL, weights);
  REAL* const products = weights + num_taps * PART;
  const Epilogue epilogue = {bias, input, has_bias, activation, input_activation};
  const int c = num_taps / kh / kw;
  const int64_t image = blockIdx.x;
  const int begin_row = blockIdx.y * rows, end_row = min(begin_row + rows, height);
  int done = max(0, (begin_row + top - kh + sh) / sh);  // the first row of dy that is still to be multiplied
  for (int first_row = begin_row; first_row < end_row; first_row += band) {
    const int num_rows = min(band, end_row - first_row);
    const int needed = min(oh, (first_row + num_rows - 1 + top) / sh + 1);
    for (int first = 0; first < o; first += PART) {
      const int count = min(PART, o - first);
      __syncthreads();  // nobody reads what is overwritten next
      for (int i = threadIdx.x; i < num_taps * PART && (first_row == begin_row || o > PART); i += THREADS) {
        const int channel = i % PART / QUAD * QUAD + channel_of(i % QUAD / 4, i % 4);
        weights[i] = channel < count ? weight[i / PART * o + first + channel] : REAL(0);
      }
      __syncthreads();
      multiply(dy + (image * oh + done) * ow * o + first, (needed - done) * ow, o, count, weights, num_taps, done, ow,
               ring, first == 0, products);
    }
    done = max(done, needed);
    __syncthreads();
    const int64_t begin = (image * height + first_row) * width * c;
    for (int i = threadIdx.x; i < num_rows * width * c; i += THREADS) {
      const int channel = i % c, column = i / c % width + left, row = first_row + i / c / width + top;
      REAL sum = 0;
      for (int u = row % sh, line = row / sh; u < kh && line >= 0; u += sh, line--) {
        if (line >= oh) continue;
        for (int v = column % sw, j = column / sw; v < kw && j >= 0; v += sw, j--)
          if (j < ow) sum += products[(((u * kw + v) * c + channel) * ring + line % ring) * ow + j];
      }
      dx[begin + i] = with_epilogue(sum, epilogue, channel, begin + i);
    }
  }
}
