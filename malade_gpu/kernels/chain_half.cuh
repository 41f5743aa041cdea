// The purification chain of the paper's sDAE on tensor cores, in one launch: what chain.cuh does, with the weights and the
// hidden activations of the first three layers in half precision.
//
//     x <- clip(x + a (r(x) - x) + delta z)
//
// A number in half precision has 11 significant bits like one in TF32, as long as it is neither huge nor tiny; weights,
// pixels and values of tanh are not. So this is the form of the chain for TF32, at twice its speed and half its memory.
// Products are summed in float32; the last two layers, the position, its noise and its step are as in chain.cuh.
//
// A product of m16n8k16 has 16 rows. Here they are 16 images at the same pixel: which taps reach a pixel is the same for
// all rows, and taps on the padding cost nothing.
//
//     layer                      a product's rows, columns, sums                      products for 16 images
//     conv 5x5 / 2, tanh         pixel of 14 x 14; 16 >= 10 channels; 32 >= 25 taps       784
//     conv 5x5 / 2, tanh         pixel of 7 x 7;   32 >= 25; a row of taps, 64 >= 50    3,584
//     transposed 9x9 / 2, tanh   pixel of 7 x 7;   4 x 10; a tap, 32 >= 25 channels     8,410
//
// Output (2 i + a, 2 j + b) of the transposed convolution sees the inputs i - 2 .. i + 2, j - 2 .. j + 2 for any parities
// a, b (some weights are 0): the four of them and the 10 channels are 40 columns, no one wasted. The columns are in such
// an order that a lane holds all 10 channels of one of the four: the next layer, 1x1, is a sum within the lane, and the
// third layer's values never leave their registers.
//
// A block is 8 warps. In the layers of 7 x 7 a warp has a row, for which it reads the weights once, and 112 or 140 sums a
// lane. Rows have 3 to 5 rows of taps; a table deals them so that the four schedulers, to which a warp belongs by its
// number modulo 4, have 8, 8, 8 and 5 of the 29 rows of taps of the third layer; one warp has no row.
//
// Shared memory, in words of two numbers; [half] is which 8 of the 16 images, and they are innermost: the 32 lanes of a
// load are 4 neighbouring pairs x 8 images, in 32 banks.
//
//     input    [half][31 rows][19 pairs of pixels][8]                 the position, with its padding
//     second   [half][49 pixels][16 pairs of channels][8]             in the same place; they are never needed together
//     first    [half][14 rows][17 columns][5 pairs of channels][8]    with padding at the sides
//     map      [16 rows][8 pairs of columns][16 images], float32 x 2  less its constant, with a border of zeros
//
// With all weights 229,120 bytes, one block a multiprocessor of sm_90; on sm_80 the weights of the third layer come from
// global memory, 165,120 bytes.
//
// Counted, not measured, for 16 images and a step, in clocks of a multiprocessor of sm_90 (products by the scheduler that
// has most of them, at the 62 % of the rated speed that Luo et al. measured for mma.sync, arXiv:2402.13499; shared memory at
// 128 bytes a clock):
//
//     layer                 products    operands read from shared memory
//     first                    1,300     1,600
//     second                   7,200     4,600
//     third                   15,000     9,600
//     tanh of the three        5,100     by one instruction, 16 lanes a clock
//     map, noise, step         7,000     (chain.cuh)
//
// Some 36,000 in all. 10,000 images are 625 groups, 5 rounds of 132 blocks: 25 steps in 2.5 ms at 1.83 GHz, against some
// 15 ms of chain.cuh. A single image takes as long as 16: .5 ms. What would be tried next: 24 of the 25 channels in
// products and the last one of all taps in two more (a fifth less in the third layer); the two halves of a block in
// different layers, so that tanh and noise run beside products.
//
// A sum is taken in one order whatever the batch: an image's result is always the same bits.
//
// Macros: RESIDENT 1 if the weights of the third layer lie in shared memory, 0 if they are read from global memory.

#include "purification.cuh"

#ifndef RESIDENT
#define RESIDENT 1
#endif

constexpr int IMAGES = 16, THREADS = 256, SLOTS = THREADS / IMAGES;
constexpr int LANES = 8;  // images of a half

// Words of the activations.
constexpr int INPUT_PITCH = 19, INPUT_HALF = 31 * INPUT_PITCH * LANES;
constexpr int SECOND_PAIRS = 16, SECOND_HALF = SECOND_SIDE * SECOND_SIDE * SECOND_PAIRS * LANES;
constexpr int FIRST_COLUMNS = 17, FIRST_PAIRS = 5;
// The last row of taps reads 7 pairs more than there are, times weights of 0.
constexpr int FIRST_HALF = (FIRST_SIDE * FIRST_COLUMNS * FIRST_PAIRS + 7) * LANES;
constexpr int MAP_PAIRS = 8, MAP_WORDS = 16 * MAP_PAIRS * IMAGES * 2;
static_assert(INPUT_HALF <= SECOND_HALF);

// Words of the weights, in the order of ops/chain_half.py: what a lane needs together is together, four words a load.
constexpr int WEIGHTS_1 = 2 * 128, ROW_2 = 4 * 2 * 128, WEIGHTS_2 = 5 * ROW_2, TAP_3 = 5 * 128, WEIGHTS_3 = 25 * TAP_3;
constexpr int RESIDENT_WORDS = WEIGHTS_1 + WEIGHTS_2 + (RESIDENT ? WEIGHTS_3 : 0);

struct Block {
  float* small;
  unsigned *weights, *input, *second, *first;
  float* map;
  const unsigned* weights_3;
  int warp, lane, g, t;  // lane 4 g + t
};

// Four words a lane, from a place of 128.
__device__ __forceinline__ void load_words(const unsigned* from, int lane, unsigned* to) {
  const uint4 four = *reinterpret_cast<const uint4*>(from + 4 * lane);
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

// The left operand: two words of each half.
__device__ __forceinline__ void load_left(const unsigned* low, const unsigned* high, int half, unsigned (&a)[4]) {
  a[0] = low[0], a[1] = low[half], a[2] = high[0], a[3] = high[half];
}

__device__ __forceinline__ void product(float (&sum)[4], const unsigned (&a)[4], const unsigned* right) {
  const unsigned b[2] = {right[0], right[1]};
  mma_m16n8k16_f16(sum, a, b);
}

// tanh of two neighbouring channels, in half precision, for image g (rows 0, 1 of what a lane holds) or g + 8.
__device__ __forceinline__ unsigned activated(const float (&sum)[4], int row) {
  return pack_f16(tanh_approximate(sum[2 * row]), tanh_approximate(sum[2 * row + 1]));
}

// The first layer. Term 2 p, 2 p + 1 is pair p % 3 of row p / 3 of a window's pixels: 30 terms, of which one in a row of 6
// is no tap, and two at the end that are none at all.
__device__ __forceinline__ void first_layer(const Block& block) {
  int offset[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int pair = 4 * i + block.t;
    offset[i] = (pair < 15 ? pair / 3 * INPUT_PITCH + pair % 3 : 0) * LANES + block.g;
  }
  unsigned right[8];
  load_words(block.weights, block.lane, right);
  load_words(block.weights + 128, block.lane, right + 4);
  float bias[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int channel = 8 * (i / 2) + 2 * block.t + i % 2;
    bias[i] = channel < FIRST ? block.small[BIAS_1 + channel] : 0.0f;
  }
#pragma unroll 2
  for (int pixel = block.warp; pixel < FIRST_SIDE * FIRST_SIDE; pixel += THREADS / 32) {
    const int row = pixel / FIRST_SIDE, column = pixel % FIRST_SIDE;
    const unsigned* const window = block.input + (2 * row * INPUT_PITCH + column) * LANES;
    float sum[2][4] = {{bias[0], bias[1], bias[0], bias[1]}, {bias[2], bias[3], bias[2], bias[3]}};
#pragma unroll
    for (int s = 0; s < 2; s++) {
      unsigned a[4];
      load_left(window + offset[2 * s], window + offset[2 * s + 1], INPUT_HALF, a);
#pragma unroll
      for (int n = 0; n < 2; n++) product(sum[n], a, right + 4 * s + 2 * n);
    }
    unsigned* const to = block.first + (row * FIRST_COLUMNS + column + 1) * FIRST_PAIRS * LANES + block.g;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      to[half * FIRST_HALF + block.t * LANES] = activated(sum[0], half);
      if (block.t == 0) to[half * FIRST_HALF + 4 * LANES] = activated(sum[1], half);
    }
  }
}

// A row of the second layer.
__device__ __forceinline__ void second_layer(const Block& block, int row) {
  float sum[SECOND_SIDE][4][4];
#pragma unroll
  for (int n = 0; n < 4; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int channel = 8 * n + 2 * block.t + i % 2;
      const float bias = channel < SECOND ? block.small[BIAS_2 + channel] : 0.0f;
#pragma unroll
      for (int q = 0; q < SECOND_SIDE; q++) sum[q][n][i] = bias;
    }
  const int top = 2 * row - 1;
#pragma unroll 1
  for (int ky = max(0, -top); ky < min(5, FIRST_SIDE - top); ky++)
#pragma unroll 1
    for (int s = 0; s < 4; s++) {
      unsigned right[8];
      const unsigned* const from = block.weights + WEIGHTS_1 + ky * ROW_2 + s * 256;
      load_words(from, block.lane, right);
      load_words(from + 128, block.lane, right + 4);
      const unsigned* const window = block.first + ((top + ky) * FIRST_COLUMNS) * FIRST_PAIRS * LANES +
                                     (8 * s + block.t) * LANES + block.g;
#pragma unroll
      for (int q = 0; q < SECOND_SIDE; q++) {
        unsigned a[4];
        const unsigned* const low = window + 2 * q * FIRST_PAIRS * LANES;
        load_left(low, low + 4 * LANES, FIRST_HALF, a);
#pragma unroll
        for (int n = 0; n < 4; n++) product(sum[q][n], a, right + 2 * n);
      }
    }
#pragma unroll
  for (int q = 0; q < SECOND_SIDE; q++)
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int pixel = row * SECOND_SIDE + q;
        block.second[half * SECOND_HALF + (pixel * SECOND_PAIRS + 4 * n + block.t) * LANES + block.g] =
            activated(sum[q][n], half);
      }
}

// The third layer at a row of its input's pixels, and the fourth: to the map. The lane's columns are the channels of the
// output with parities t / 2 and t % 2.
__device__ __forceinline__ void last_hidden_layers(const Block& block, int row, float constant) {
  float sum[SECOND_SIDE][5][4];
#pragma unroll
  for (int n = 0; n < 5; n++)
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int q = 0; q < SECOND_SIDE; q++) sum[q][n][i] = block.small[BIAS_3 + 2 * n + i % 2];
#pragma unroll 1
  for (int ky = max(0, 2 - row); ky < min(5, SECOND_SIDE + 2 - row); ky++)
#pragma unroll
    for (int kx = 0; kx < 5; kx++)
#pragma unroll 1
      for (int s = 0; s < 2; s++) {
        unsigned right[10];
        const unsigned* const from = block.weights_3 + (5 * ky + kx) * TAP_3 + s * (TAP_3 / 2);
        load_words(from, block.lane, right);
        load_words(from + 128, block.lane, right + 4);
        const uint2 two = *reinterpret_cast<const uint2*>(from + 256 + 2 * block.lane);
        right[8] = two.x, right[9] = two.y;
#pragma unroll
        for (int q = 0; q < SECOND_SIDE; q++) {
          const int column = q + kx - 2;
          if (column < 0 || column >= SECOND_SIDE) continue;
          const int pixel = (row + ky - 2) * SECOND_SIDE + column;
          const unsigned* const low = block.second + (pixel * SECOND_PAIRS + 8 * s + block.t) * LANES + block.g;
          unsigned a[4];
          load_left(low, low + 4 * LANES, SECOND_HALF, a);
#pragma unroll
          for (int n = 0; n < 5; n++) product(sum[q][n], a, right + 2 * n);
        }
      }
  const int parity = block.t % 2;
#pragma unroll
  for (int q = 0; q < SECOND_SIDE; q++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float u = block.small[BIAS_4];
#pragma unroll
      for (int c = 0; c < FIRST; c++)
        u = multiply_add(tanh_approximate(sum[q][c / 2][2 * half + c % 2]), block.small[WEIGHT_4 + c], u);
      // Behind the border, an even column is the second of a pair.
      const int pair = ((2 * row + block.t / 2 + 1) * MAP_PAIRS + q + parity) * IMAGES + block.g + 8 * half;
      block.map[2 * pair + 1 - parity] = tanh_of(u) - constant;
    }
}

// Row of a warp in the layers of 7 x 7, a digit each from the right; one has none.
__device__ __forceinline__ int row_of(int warp) { return 0x75604132 >> 4 * warp & 15; }

// Four pixels of image `image`, as the first layer reads them.
__device__ __forceinline__ void put_input(const Block& block, int image, int quad, const float (&x)[4]) {
  unsigned* const to = block.input + image / LANES * INPUT_HALF +
                       ((quad / 7 + 1) * INPUT_PITCH + quad % 7 * 2 + 1) * LANES + image % LANES;
  to[0] = pack_f16(x[0], x[1]);
  to[LANES] = pack_f16(x[2], x[3]);
}

// Zeros around the position, where the second layer's values may have been: three rows, and two pairs in each other one.
__device__ __forceinline__ void put_padding(const Block& block, int image, int slot) {
  unsigned* const to = block.input + image / LANES * INPUT_HALF + image % LANES;
  for (int i = slot; i < 3 * 16 + 2 * SIDE; i += SLOTS) {
    const int row = i < 16 ? 0 : i < 48 ? SIDE + i / 16 : (i - 48) / 2 + 1;
    const int pair = i < 48 ? i % 16 : i % 2 * 15;
    to[(row * INPUT_PITCH + pair) * LANES] = 0u;
  }
}

// y is x after num_steps >= 1 steps; positions on the way are kept as `place_after` says. `small`: SMALL float32
// parameters; `weights`: those of three layers in half precision.
extern "C" __global__ void __launch_bounds__(256, 1)
    chain_half(const float* x, float* y, float* kept, const uint32_t* sample_index, const uint32_t* keys,
               const float* small, const uint32_t* weights, int64_t n, int num_steps, int every, uint32_t first_step, bool keyed,
               uint32_t key_0, uint32_t key_1, float a, float delta, bool clip) {
  DYNAMIC_SHARED(float, shared);
  Block block;
  block.small = shared;
  block.weights = reinterpret_cast<unsigned*>(shared + SMALL);
  block.input = block.second = block.weights + RESIDENT_WORDS;
  block.first = block.second + 2 * SECOND_HALF;
  block.map = reinterpret_cast<float*>(block.first + 2 * FIRST_HALF);
  block.weights_3 = (RESIDENT ? block.weights : weights) + WEIGHTS_1 + WEIGHTS_2;
  block.warp = threadIdx.x / 32, block.lane = threadIdx.x % 32, block.g = block.lane / 4, block.t = block.lane % 4;
  for (int i = 4 * threadIdx.x; i < RESIDENT_WORDS; i += 4 * THREADS) async_copy<16>(block.weights + i, weights + i, true);
  async_commit();
  for (int i = threadIdx.x; i < TABLE; i += THREADS) block.small[i] = small[i];
  for (int i = threadIdx.x; i < 2 * FIRST_HALF; i += THREADS) block.first[i] = 0u;
  for (int i = threadIdx.x; i < MAP_WORDS; i += THREADS) block.map[i] = 0.0f;
  __syncthreads();
  fill_table(block.small);
  async_wait<0>();

  Chain settings = {key_0, key_1, a, delta, clip};
  const float constant = tanh_of(block.small[BIAS_4]);
  const int own = threadIdx.x % IMAGES, slot = threadIdx.x / IMAGES, row = row_of(block.warp);
  for (int64_t group = int64_t(blockIdx.x) * IMAGES; group < n; group += int64_t(gridDim.x) * IMAGES) {
    const int64_t image = group + own;
    const bool present = image < n;
    const uint32_t sample = present ? sample_index[image] : 0u;
    if (keyed && present) settings.key_0 = keys[2 * image], settings.key_1 = keys[2 * image + 1];
    const float* from = x + image * PIXELS;
    put_padding(block, own, slot);
    for (int quad = slot; quad < QUADS; quad += SLOTS) {
      float value[4] = {};
      if (present) load(from + 4 * quad, value);
      put_input(block, own, quad, value);
    }
    for (int step = 0; step < num_steps; step++) {
      float* const to = place_after(step, num_steps, every, image, n, y, kept);
      __syncthreads();
      first_layer(block);
      __syncthreads();
      if (row < SECOND_SIDE) second_layer(block, row);
      __syncthreads();
      if (row < SECOND_SIDE) last_hidden_layers(block, row, constant);
      __syncthreads();
      put_padding(block, own, slot);
      for (int quad = slot; quad < QUADS; quad += SLOTS) {
        float value[4] = {}, r[4];
        if (present) load(from + 4 * quad, value);
        reconstruct(block.small, quad, [&](int y, int x, float (&four)[4]) {
          const float* const pair = block.map + ((y * MAP_PAIRS + x / 2) * IMAGES + own) * 2;
          four[0] = pair[0], four[1] = pair[1], four[2] = pair[2 * IMAGES], four[3] = pair[2 * IMAGES + 1];
        }, r);
        move(settings, value, r, quad, first_step + step, sample);
        put_input(block, own, quad, value);
        if (present) *reinterpret_cast<float4*>(to + 4 * quad) = make_float4(value[0], value[1], value[2], value[3]);
      }
      from = to;
    }
  }
}
