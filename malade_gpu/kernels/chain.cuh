// The purification chain of the paper's sDAE, and its exact gradient, each in one launch:
//
//     x <- clip(x + a (r(x) - x) + delta z),    z from counters (philox.cuh),    r the network
//
//     layer                      output           sum over              region of an image in shared memory
//     x                          1 x 28 x 28                            B
//     conv 5x5 / 2, tanh         10 x 14 x 14     5 x 5 x 1             A
//     conv 5x5 / 2, tanh         25 x 7 x 7       5 x 5 x 10            B
//     transposed 9x9 / 2, tanh   10 x 14 x 14     (4..5)^2 x 25         A
//     transposed 1x1 / 2, tanh   1 x 14 x 14 *    10                    B, behind x
//     conv 5x5, tanh             1 x 28 x 28      5 x 5, 25 for 4 pixels
//
// (*) The rest of the 28 x 28 outputs is tanh(bias), a constant c: the map is kept as its difference from c, and what the
// last convolution makes of c alone is a table of 5 x 5 kinds of pixels (by their distance from the border).
//
// A block holds IMAGES images and, where the device has room, all weights in shared memory, and takes group after group
// of images, each through all its steps. The position is kept in global memory too (3 KB an image and step, in the
// second-level cache): each thread reads the pixels that it wrote itself. SAME padding is nowhere stored: which taps
// reach a row is a loop's bounds, which reach a column is known to the compiler, so no tap of the padding is computed.
//
// Arithmetic. An image and step has 1.37 M multiply-adds if taps on the padding are counted (2.74 MFLOP), 1.00 M without
// them: transposed convolution 0.70 M, second convolution 0.26 M, first 0.045 M, last 0.01 M; 6,125 tanh, 784 normal
// numbers. A thread of the two large layers computes a row of 7 pixels x 10 (7) channels: for each input channel and row
// of taps it loads 2 (4) + 10..13 (9) float4, and multiplies 240..290 (224) times: 17 multiply-adds an instruction that
// loads, 4 a word. The 8 warps of a block (IMAGES = 8) have 7 rows for 8 places; each scheduler has two warps whose rows
// and parities add up to nearly the same work: 54,000 multiply-adds a scheduler for the transposed convolution, 22,400 for
// the second, 3,350 for the first; with tanh, noise and loads some 95,000 instructions for 8 images and a step
// (counted, not measured), 84 % of them multiply-adds, against 85,600 cycles by which the roofline (2.74 MFLOP, 256 FLOP a cycle and
// multiprocessor) is counted. Global traffic is 6 KB an image and step, 440 FLOP a byte, and stays in the cache.
//
//     IMAGES  weights   shared memory   registers   on
//     8       shared    230 KB          167, 211    sm_90: 1 block of 256 threads a multiprocessor, 2 warps a scheduler
//     8       global    117 KB          168, 212    sm_80
//     4       global     59 KB          104, 136    sm_75, sm_86, sm_89
//     4, 2, 1 either     up to 174 KB                batches that would leave multiprocessors idle: fewer images, each
//                                                   spread over SPLIT = 8 / IMAGES times as many threads, with fewer
//                                                   channels a thread
//
// Every sum is taken in one order, whatever IMAGES, n and the place in the batch: an image's result is always the same bits.
//
// The gradient recomputes a step's activations, writes those of the first two layers to global memory (12.7 KB an image,
// read once), and goes back in the same two regions: third layer's gradient in A, second's in B, first's in A. Its
// weights, arranged for that direction, take the place of the forward ones and back: 230 KB a step from the second-level
// cache for 8 images, in the background where there is other work.
//
// Macros: IMAGES 8, 4, 2 or 1; RESIDENT 1 if the weights of a phase lie in shared memory (sm_80 or newer), 0 if they are
// read from global memory.

#include "purification.cuh"

#ifndef IMAGES
#define IMAGES 8
#endif
#ifndef RESIDENT
#define RESIDENT 1
#endif

constexpr int THREADS = 256, SPLIT = 8 / IMAGES;
__host__ __device__ constexpr int share(int channels, int parts) { return (channels + parts - 1) / parts; }
__host__ __device__ constexpr int padded(int words) { return (words + 3) / 4 * 4; }

// Channels of a thread in the layers with one, ten and 25 input channels; the last threads may have none.
constexpr int C1 = share(FIRST, 2 * SPLIT), C2 = share(SECOND, 4 * SPLIT), C3 = share(FIRST, SPLIT);

// Activations of an image. The image's stride is 4 times an odd number of words: eight images fill all banks.
constexpr int PITCH_A = IMAGES >= 4 ? 16 : 20, PITCH_B = 8, PITCH_MAP = 16;
constexpr int REGION_A = FIRST * FIRST_SIDE * PITCH_A, REGION_B = SECOND * SECOND_SIDE * PITCH_B;
constexpr int MAP = PIXELS;  // in region B: the map of 14 x 14 and a border of zeros
constexpr int IMAGE_WORDS = REGION_A + REGION_B + 4;
static_assert(IMAGE_WORDS % 8 == 4 && MAP + 16 * PITCH_MAP <= REGION_B);

// Weights of the three phases, in the order of ops/chain.py.
template <int KERNEL>
struct Strided {  // [thread's channels][row of taps][input channel][column of taps x channels of a thread]
  static constexpr int BEFORE = (KERNEL - 3) / 2;  // padding above and to the left
  static constexpr int VECTOR = padded(KERNEL * C2), GROUP = KERNEL * FIRST * VECTOR;
  static constexpr int SIZE = share(SECOND, C2) * GROUP;
};
template <int KERNEL>
struct Transposed {  // [thread's channels][column's parity][row of taps][input channel][its columns of taps x channels]
  static constexpr int BEFORE = (KERNEL - 3) / 2;
  template <int PARITY>
  static constexpr int TAPS = (KERNEL + PARITY) / 2;
  template <int PARITY>
  static constexpr int VECTOR = padded(TAPS<PARITY> * C3);
  static constexpr int EVEN = KERNEL * SECOND * VECTOR<0>, GROUP = EVEN + KERNEL * SECOND * VECTOR<1>;
  static constexpr int SIZE = share(FIRST, C3) * GROUP;
};
constexpr int VECTOR_1 = padded(5 * C1), GROUP_1 = 5 * VECTOR_1;
constexpr int FORWARD_1 = 0, FORWARD_2 = share(FIRST, C1) * GROUP_1, FORWARD_3 = FORWARD_2 + Strided<5>::SIZE;
constexpr int FORWARD = FORWARD_3 + Transposed<9>::SIZE;
constexpr int BACKWARD_3 = FORWARD, BACKWARD_2 = BACKWARD_3 + Strided<9>::SIZE;
constexpr int BACKWARD_1 = BACKWARD_2 + Transposed<5>::SIZE, WEIGHTS = BACKWARD_1 + FIRST * 5 * 8;

// What the gradient keeps of a step, in global memory, the images innermost.
constexpr int SAVED_1 = 0, SAVED_2 = FIRST * FIRST_SIDE * FIRST_SIDE;
constexpr int SAVED = padded(SAVED_2 + SECOND * SECOND_SIDE * SECOND_SIDE);

// Of a thread: an image, and its part of the work on it.
struct Place {
  int image, slot;  // slot: 0..32 SPLIT - 1
  __device__ Place() : image(threadIdx.x % IMAGES), slot(threadIdx.x / IMAGES) {}
  // In the inner layers: eight places for the 7 rows, and 4 SPLIT parts of the channels, or the four parities of the
  // outputs' rows and columns and SPLIT parts. Rows with few taps go together, and together with the parity that has many.
  __device__ int part() const { return slot / 8; }
  __device__ int parity() const { return part() / SPLIT < 2 ? 3 - part() / SPLIT : part() / SPLIT - 2; }
  __device__ int row() const { return (slot % 8 + 2 + (part() / SPLIT & 2) * 2) % 8; }
};

struct Block {
  float* small;
  float* region;         // of the weights
  float* images;         // IMAGES times IMAGE_WORDS
  const float* weights;  // in global memory
  Place place;

  __device__ float* a() const { return images + place.image * IMAGE_WORDS; }
  __device__ float* b() const { return a() + REGION_A; }

  // Where the weights of a phase are, `first` being where it begins.
  __device__ const float* at(int offset, int first) const {
#if RESIDENT
    return region + (offset - first);
#else
    (void)first;
    return weights + offset;
#endif
  }
  // Bring the weights of a phase to shared memory, in the background. Nobody may need what is there any more.
  __device__ void fetch(int first, int last) const {
#if RESIDENT
    for (int i = 4 * threadIdx.x; i < last - first; i += 4 * THREADS)
      async_copy<16>(region + i, weights + first + i, true);
    async_commit();
#else
    (void)first, (void)last;
#endif
  }
  // They are there, and what the other threads wrote.
  __device__ void arrive() const {
#if RESIDENT
    async_wait<0>();
#endif
    __syncthreads();
  }
};

// 10 channels of 14 x 14 from x in B, to A.
template <class Put>
__device__ __forceinline__ void first_layer(const Block& block, Put put) {
  const int row = block.place.slot % 16, group = block.place.slot / 16;
  if (row >= FIRST_SIDE || group * C1 >= FIRST) return;
  const float* w = block.at(FORWARD_1, 0) + group * GROUP_1;
  float sum[FIRST_SIDE][C1];
#pragma unroll
  for (int o = 0; o < FIRST_SIDE; o++)
#pragma unroll
    for (int c = 0; c < C1; c++) sum[o][c] = block.small[BIAS_1 + group * C1 + c];
#pragma unroll 1
  for (int ky = max(0, 1 - 2 * row); ky <= min(4, SIDE - 2 * row); ky++) {
    float x[SIDE], weight[VECTOR_1];
    load(block.b() + (2 * row + ky - 1) * SIDE, x);
    load(w + ky * VECTOR_1, weight);
#pragma unroll
    for (int kx = 0; kx < 5; kx++)
#pragma unroll
      for (int o = 0; o < FIRST_SIDE; o++) {
        const int column = 2 * o + kx - 1;
        if (column < 0 || column >= SIDE) continue;
#pragma unroll
        for (int c = 0; c < C1; c++) sum[o][c] = multiply_add(x[column], weight[kx * C1 + c], sum[o][c]);
      }
  }
#pragma unroll
  for (int c = 0; c < C1; c++)
    if (group * C1 + c < FIRST)
#pragma unroll
      for (int o = 0; o < FIRST_SIDE; o++) put(group * C1 + c, row, o, sum[o][c]);
}

// 25 channels of 7 x 7 from 10 channels of 14 x 14 in A: a convolution with a stride of 2.
template <int KERNEL, class Put>
__device__ __forceinline__ void strided(const Block& block, const float* weights, const float* bias, Put put) {
  using Layer = Strided<KERNEL>;
  const int row = block.place.row(), first = block.place.part() * C2;
  if (row >= SECOND_SIDE || first >= SECOND) return;
  const float* const w = weights + block.place.part() * Layer::GROUP;
  const float* const in = block.a();
  float sum[SECOND_SIDE][C2];
#pragma unroll
  for (int o = 0; o < SECOND_SIDE; o++)
#pragma unroll
    for (int c = 0; c < C2; c++) sum[o][c] = bias ? bias[first + c] : 0.0f;
  const int top = 2 * row - Layer::BEFORE;
#pragma unroll 1
  for (int ky = max(0, -top); ky < min(KERNEL, FIRST_SIDE - top); ky++)
#pragma unroll 1
    for (int i = 0; i < FIRST; i++) {
      float x[16], weight[Layer::VECTOR];
      load(in + (i * FIRST_SIDE + top + ky) * PITCH_A, x);
      load(w + (ky * FIRST + i) * Layer::VECTOR, weight);
#pragma unroll
      for (int kx = 0; kx < KERNEL; kx++)
#pragma unroll
        for (int o = 0; o < SECOND_SIDE; o++) {
          const int column = 2 * o + kx - Layer::BEFORE;
          if (column < 0 || column >= FIRST_SIDE) continue;
#pragma unroll
          for (int c = 0; c < C2; c++) sum[o][c] = multiply_add(x[column], weight[kx * C2 + c], sum[o][c]);
        }
    }
#pragma unroll
  for (int c = 0; c < C2; c++)
    if (first + c < SECOND)
#pragma unroll
      for (int o = 0; o < SECOND_SIDE; o++) put(first + c, row, o, sum[o][c]);
}

// 10 channels of 14 x 14 from 25 channels of 7 x 7 in B: the adjoint of such a convolution, for the columns of a parity.
// Output 2 q + PARITY gets input q + shift - j by the j-th of the taps that have the right parity.
template <int KERNEL, int PARITY, class Put>
__device__ __forceinline__ void transposed_columns(const Block& block, const float* weights, const float* bias, Put put) {
  using Layer = Transposed<KERNEL>;
  constexpr int TAPS = Layer::template TAPS<PARITY>, VECTOR = Layer::template VECTOR<PARITY>;
  constexpr int SHIFT = (Layer::BEFORE - 1) / 2 + PARITY;
  const Place& place = block.place;
  const int part = place.part() % SPLIT, first = part * C3, row = 2 * place.row() + place.parity() / 2;
  const float* const w = weights + part * Layer::GROUP + PARITY * Layer::EVEN;
  const float* const in = block.b();
  float sum[SECOND_SIDE][C3];
#pragma unroll
  for (int q = 0; q < SECOND_SIDE; q++)
#pragma unroll
    for (int c = 0; c < C3; c++) sum[q][c] = bias ? bias[first + c] : 0.0f;
  const int bottom = row + Layer::BEFORE;  // tap of input row 0
#pragma unroll 1
  for (int i = max(0, (bottom - KERNEL + 2) / 2); i <= min(SECOND_SIDE - 1, bottom / 2); i++)
#pragma unroll 1
    for (int channel = 0; channel < SECOND; channel++) {
      float x[PITCH_B], weight[VECTOR];
      load(in + (channel * SECOND_SIDE + i) * PITCH_B, x);
      load(w + ((bottom - 2 * i) * SECOND + channel) * VECTOR, weight);
#pragma unroll
      for (int j = 0; j < TAPS; j++)
#pragma unroll
        for (int q = 0; q < SECOND_SIDE; q++) {
          const int column = q + SHIFT - j;
          if (column < 0 || column >= SECOND_SIDE) continue;
#pragma unroll
          for (int c = 0; c < C3; c++) sum[q][c] = multiply_add(x[column], weight[j * C3 + c], sum[q][c]);
        }
    }
#pragma unroll
  for (int c = 0; c < C3; c++)
    if (first + c < FIRST)
#pragma unroll
      for (int q = 0; q < SECOND_SIDE; q++) put(first + c, row, 2 * q + PARITY, sum[q][c]);
}

template <int KERNEL, class Put>
__device__ __forceinline__ void transposed(const Block& block, const float* weights, const float* bias, Put put) {
  if (block.place.row() >= SECOND_SIDE || block.place.part() % SPLIT * C3 >= FIRST) return;
  if (block.place.parity() % 2)
    transposed_columns<KERNEL, 1>(block, weights, bias, put);
  else
    transposed_columns<KERNEL, 0>(block, weights, bias, put);
}

// Where activations lie.
__device__ __forceinline__ float& in_a(const Block& block, int channel, int row, int column) {
  return block.a()[(channel * FIRST_SIDE + row) * PITCH_A + column];
}
__device__ __forceinline__ float& in_b(const Block& block, int channel, int row, int column) {
  return block.b()[(channel * SECOND_SIDE + row) * PITCH_B + column];
}
__device__ __forceinline__ float& saved_1(float* saved, const Block& block, int channel, int row, int column) {
  return saved[(SAVED_1 + (channel * FIRST_SIDE + row) * FIRST_SIDE + column) * IMAGES + block.place.image];
}
__device__ __forceinline__ float& saved_2(float* saved, const Block& block, int channel, int row, int column) {
  return saved[(SAVED_2 + (channel * SECOND_SIDE + row) * SECOND_SIDE + column) * IMAGES + block.place.image];
}

// The hidden layers, from x in B to the third layer in A and the map in B; what SAVE asks for goes to `saved`.
// Begins with a barrier, for x and the weights may just be arriving, and ends with one.
template <bool SAVE>
__device__ __forceinline__ void hidden_layers(const Block& block, float* saved) {
  block.arrive();
  first_layer(block, [&](int channel, int row, int column, float u) {
    const float h = tanh_of(u);
    in_a(block, channel, row, column) = h;
    if (SAVE) saved_1(saved, block, channel, row, column) = h;
  });
  __syncthreads();
  strided<5>(block, block.at(FORWARD_2, 0), block.small + BIAS_2, [&](int channel, int row, int column, float u) {
    const float h = tanh_of(u);
    in_b(block, channel, row, column) = h;
    if (SAVE) saved_2(saved, block, channel, row, column) = h;
  });
  __syncthreads();
  transposed<9>(block, block.at(FORWARD_3, 0), block.small + BIAS_3, [&](int channel, int row, int column, float u) {
    in_a(block, channel, row, column) = tanh_of(u);
  });
  __syncthreads();
  const float constant = tanh_of(block.small[BIAS_4]);
  for (int i = block.place.slot; i < 16 * PITCH_MAP; i += 32 * SPLIT) {
    const int row = i / PITCH_MAP - 1, column = i % PITCH_MAP - 1;
    float value = 0.0f;
    if (row >= 0 && row < FIRST_SIDE && column >= 0 && column < FIRST_SIDE) {
      float u = block.small[BIAS_4];
#pragma unroll
      for (int c = 0; c < FIRST; c++)
        u = multiply_add(in_a(block, c, row, column), block.small[WEIGHT_4 + c], u);
      value = tanh_of(u) - constant;
    }
    block.b()[MAP + i] = value;
  }
  __syncthreads();
}

// The reconstruction of a quad of pixels.
__device__ __forceinline__ void reconstruct(const Block& block, int quad, float (&r)[4]) {
  reconstruct(block.small, quad, [&](int row, int column, float (&value)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) value[i] = block.b()[MAP + row * PITCH_MAP + column + i];
  }, r);
}

// From the map to the next position, to B and to global memory; `from` and `to` may be the same. No barriers.
__device__ __forceinline__ void langevin(const Block& block, const Chain& chain, const float* from, float* to, bool present,
                                         uint32_t step, uint32_t sample) {
  for (int quad = block.place.slot; quad < QUADS; quad += 32 * SPLIT) {
    float x[4] = {}, r[4];
    if (present) load(from + 4 * quad, x);
    reconstruct(block, quad, r);
    move(chain, x, r, quad, step, sample);
    const float4 four = make_float4(x[0], x[1], x[2], x[3]);
    *reinterpret_cast<float4*>(block.b() + 4 * quad) = four;
    if (present) *reinterpret_cast<float4*>(to + 4 * quad) = four;
  }
}

// A position from global memory to B; zeros for images that are not there.
__device__ __forceinline__ void stage(const Block& block, const float* from, bool present) {
  for (int quad = block.place.slot; quad < QUADS; quad += 32 * SPLIT) {
    float x[4] = {};
    if (present) load(from + 4 * quad, x);
    *reinterpret_cast<float4*>(block.b() + 4 * quad) = make_float4(x[0], x[1], x[2], x[3]);
  }
}

__device__ __forceinline__ Block begin(float* shared, const float* weights, int region_words) {
  const Block block = {shared, shared + SMALL, shared + SMALL + region_words, weights + SMALL, Place()};
  for (int i = threadIdx.x; i < TABLE; i += THREADS) block.small[i] = weights[i];
  // Rows are loaded with the padding behind them. Nothing uses it, but it is never left unwritten.
  for (int i = threadIdx.x; i < IMAGES * IMAGE_WORDS; i += THREADS) block.images[i] = 0.0f;
  __syncthreads();
  fill_table(block.small);
  return block;
}

// y is x after num_steps >= 1 steps; positions on the way are kept as `place_after` says. `region_words`: of shared memory
// for weights (at least FORWARD if RESIDENT, else 0).
extern "C" __global__ void __launch_bounds__(256, 1)
    chain(const float* x, float* y, float* kept, const uint32_t* sample_index, const uint32_t* keys, const float* weights,
          int64_t n, int num_steps, int every, int region_words, uint32_t first_step, bool keyed, uint32_t key_0, uint32_t key_1,
          float a, float delta, bool clip) {
  DYNAMIC_SHARED(float, shared);
  const Block block = begin(shared, weights, region_words);
  Chain settings = {key_0, key_1, a, delta, clip};
  block.fetch(0, FORWARD);
  for (int64_t first = int64_t(blockIdx.x) * IMAGES; first < n; first += int64_t(gridDim.x) * IMAGES) {
    const int64_t image = first + block.place.image;
    const bool present = image < n;
    const uint32_t sample = present ? sample_index[image] : 0u;
    if (keyed && present) settings.key_0 = keys[2 * image], settings.key_1 = keys[2 * image + 1];
    const float* from = x + image * PIXELS;
    stage(block, from, present);
    for (int step = 0; step < num_steps; step++) {
      float* const to = place_after(step, num_steps, every, image, n, y, kept);
      hidden_layers<false>(block, nullptr);
      langevin(block, settings, from, to, present, first_step + step, sample);
      from = to;
    }
  }
}

// The step's own part of the gradient: dx <- dy (1 - a) where it was not clipped (0 elsewhere), and the gradient with
// respect to the last layer before its tanh, to B.
__device__ __forceinline__ void langevin_vjp(const Block& block, const Chain& chain, const float* from, float* dx,
                                             bool present, uint32_t step, uint32_t sample) {
  for (int quad = block.place.slot; quad < QUADS; quad += 32 * SPLIT) {
    float x[4] = {}, dy[4] = {}, r[4], z[4] = {};
    if (present) load(from + 4 * quad, x);
    if (present) load(dx + 4 * quad, dy);
    reconstruct(block, quad, r);
    if (chain.clip) noise(chain, quad, step, sample, z);
    float du[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (chain.clip) {
        const float unclipped = moved(chain, x[j], r[j], z[j]);
        dy[j] *= unclipped >= 0.0f && unclipped <= 1.0f ? 1.0f : 0.0f;
      }
      const float dresidual = chain.a * dy[j];
      dy[j] -= dresidual;
      du[j] = dresidual * (1.0f - r[j] * r[j]);
    }
    *reinterpret_cast<float4*>(block.b() + 4 * quad) = make_float4(du[0], du[1], du[2], du[3]);
    if (present) *reinterpret_cast<float4*>(dx + 4 * quad) = make_float4(dy[0], dy[1], dy[2], dy[3]);
  }
}

// Back through the last two layers: from du in B and the map to the gradient before the third layer's tanh, in A, whose
// values it replaces.
__device__ __forceinline__ void last_layers_vjp(const Block& block) {
  const float constant = tanh_of(block.small[BIAS_4]);
  for (int i = block.place.slot; i < FIRST_SIDE * FIRST_SIDE; i += 32 * SPLIT) {
    const int row = i / FIRST_SIDE, column = i % FIRST_SIDE;
    float sum = 0.0f;
    for (int ky = max(0, 2 * row - SIDE + 3); ky <= min(4, 2 * row + 2); ky++)
      for (int kx = max(0, 2 * column - SIDE + 3); kx <= min(4, 2 * column + 2); kx++)
        sum = multiply_add(block.small[WEIGHT_5 + 5 * ky + kx],
                           block.b()[(2 * row + 2 - ky) * SIDE + 2 * column + 2 - kx], sum);
    const float value = block.b()[MAP + (row + 1) * PITCH_MAP + column + 1] + constant;
    const float du = sum * (1.0f - value * value);
#pragma unroll
    for (int c = 0; c < FIRST; c++) {
      float& h = in_a(block, c, row, column);
      h = block.small[WEIGHT_4 + c] * du * (1.0f - h * h);
    }
  }
}

// Back through the first layer: from A, added to dx.
__device__ __forceinline__ void first_layer_vjp(const Block& block, float* dx, bool present) {
  const int y = block.place.slot;
  if (y >= SIDE) return;
  const float* w = block.at(BACKWARD_1, BACKWARD_2);
  float sum[SIDE] = {};
#pragma unroll 1
  for (int row = max(0, (y - 2) / 2); row <= min(FIRST_SIDE - 1, (y + 1) / 2); row++)
#pragma unroll 1
    for (int c = 0; c < FIRST; c++) {
      float d[16], weight[8];
      load(&in_a(block, c, row, 0), d);
      load(w + (c * 5 + y + 1 - 2 * row) * 8, weight);
#pragma unroll
      for (int kx = 0; kx < 5; kx++)
#pragma unroll
        for (int o = 0; o < FIRST_SIDE; o++) {
          const int column = 2 * o + kx - 1;
          if (column < 0 || column >= SIDE) continue;
          sum[column] = multiply_add(d[o], weight[kx], sum[column]);
        }
    }
  if (!present) return;
#pragma unroll
  for (int column = 0; column < SIDE; column++) dx[y * SIDE + column] += sum[column];
}

// dx is the gradient with respect to the chain's end, and becomes that with respect to its start, x.
//
// The host has made a plan (ops/chain.py), rows (step, from, to): compute the position after `step` from the one in slot
// `from` and put it in slot `to`, or, where `to` is -1, carry dx back through `step` from the position in slot `from`.
// Slot 0 is x, the next num_kept are what `chain` kept of all images, and the others, num_slots of them, the block's own, in
// `scratch`, and behind them what a step saves.
extern "C" __global__ void __launch_bounds__(256, 1)
    chain_vjp(const float* x, float* dx, const float* kept, float* scratch, const int* plan,
              const uint32_t* sample_index, const uint32_t* keys, const float* weights, int64_t n, int plan_length,
              int num_kept, int num_slots, int region_words, uint32_t first_step, bool keyed, uint32_t key_0, uint32_t key_1, float a,
              float delta, bool clip) {
  DYNAMIC_SHARED(float, shared);
  const Block block = begin(shared, weights, region_words);
  Chain settings = {key_0, key_1, a, delta, clip};
  float* const slots = scratch + int64_t(blockIdx.x) * IMAGES * (num_slots * PIXELS + SAVED);
  float* const saved = slots + int64_t(num_slots) * IMAGES * PIXELS;
  for (int64_t first = int64_t(blockIdx.x) * IMAGES; first < n; first += int64_t(gridDim.x) * IMAGES) {
    const int64_t image = first + block.place.image;
    const bool present = image < n;
    const uint32_t sample = present ? sample_index[image] : 0u;
    if (keyed && present) settings.key_0 = keys[2 * image], settings.key_1 = keys[2 * image + 1];
    float* const gradient = dx + image * PIXELS;
    int staged = -1;  // slot whose position is in B
    bool ready = false;  // whether the weights of the way forward are there
    for (int i = 0; i < plan_length; i++) {
      const int step = plan[3 * i], from = plan[3 * i + 1], to = plan[3 * i + 2];
      const auto own = [&](int number) { return slots + ((number - num_kept - 1) * IMAGES + block.place.image) * PIXELS; };
      const float* const position = from > num_kept ? own(from) : (from ? kept + (from - 1) * n * PIXELS : x) + image * PIXELS;
      if (!ready) block.fetch(0, FORWARD);
      if (staged != from) stage(block, position, present);
      ready = to >= 0;
      staged = to;
      if (to >= 0) {
        hidden_layers<false>(block, nullptr);
        langevin(block, settings, position, own(to), present, first_step + step, sample);
        continue;
      }
      hidden_layers<true>(block, saved);
      block.fetch(BACKWARD_3, BACKWARD_2);
      langevin_vjp(block, settings, position, gradient, present, first_step + step, sample);
      __syncthreads();
      last_layers_vjp(block);
      block.arrive();
      strided<9>(block, block.at(BACKWARD_3, BACKWARD_3), nullptr, [&](int channel, int row, int column, float dh) {
        const float h = saved_2(saved, block, channel, row, column);
        in_b(block, channel, row, column) = dh * (1.0f - h * h);
      });
      __syncthreads();
      block.fetch(BACKWARD_2, WEIGHTS);
      block.arrive();
      transposed<5>(block, block.at(BACKWARD_2, BACKWARD_2), nullptr, [&](int channel, int row, int column, float dh) {
        const float h = saved_1(saved, block, channel, row, column);
        in_a(block, channel, row, column) = dh * (1.0f - h * h);
      });
      __syncthreads();
      first_layer_vjp(block, gradient, present);
      __syncthreads();
    }
  }
}
