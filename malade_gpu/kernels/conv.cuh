// Convolutions as matrix products whose left operand is gathered from the images as it is needed (implicit GEMM):
//
//     correlate        y[pixel, o]   = sum over taps    x[pixel, tap] weight[tap, o]
//     weight_gradient  dw[tap, o]    = sum over pixels  x[pixel, tap] dy[pixel, o]
//
// pixel = (image, i, j) of a grid of windows, tap = (u, v, channel) of a window, and x[pixel, tap] is the channels-last
// input at row i sh - top + u and column j sw - left + v, or 0 outside of it. Input gradients and transposed convolutions
// are `correlate` too, one launch for each phase of the stride, unless narrow.cuh has them (ops/conv.py says how).
//
// A block computes TILE_M x TILE_N results, DEPTH terms a step, from STAGES buffers in shared memory: while one is
// multiplied, the terms of the next steps are on their way into the others (cp.async; GPUs before sm_80, which have none,
// copy through registers). A sum's terms are added in an order that depends on the window and the channels alone: an
// image's results do not depend on its batch. Sums over pixels are cut into parts, one for each blockIdx.z, which
// `add_parts` adds in their order: no atomics, the same bits every time.
//
// What limits it on an H200 (132 multiprocessors; none of this has been measured). m16n8k8 in TF32 is 1,024 multiply-
// adds; at the rated 494 TFLOP/s a multiprocessor does one of them per clock, and its shared memory and L1 together move
// 128 bytes per clock. Clocks for a step of 16 terms:
//
//     tile                      128 x 128         256 x 64          128 x 64
//     each warp's part           64 x 64           64 x 64           64 x 32
//     matrix products           256               256               128
//     fragments read            256  (32 KiB)     256  (32 KiB)     192  (24 KiB)
//     terms written             128  (16 KiB)     160  (20 KiB)      96  (12 KiB)
//     terms read from L1        128               160                96
//     products / bytes           50%               44%               33%
//
// so the two large tiles can reach 50% and 44% of the rated speed if all terms come from L1. From L2, at 24 bytes per
// clock and multiprocessor, a step takes 683 and 853 clocks: 37% and 30%. That is why, where channels are many, all
// positions of a window are visited for 16 channels before the next 16: the 128 windows of a tile on 28 x 28 images
// overlap in 23 x 28 pixels of 64 bytes, 41 KiB, which stay in L1 through all positions and are read from L2 once
// instead of 25 times. TF32X3 does three products for each: on the third tile, 384 clocks of products beside 384 of bytes.
//
// The paper's classifier: its second convolution (128 to 64 channels, 5 x 5, stride 2, 14 x 14 results) is 80.3 MFLOP an
// image forwards and as much for the input gradient: 1.6 of 1.7 TFLOP for 10,000 images, 3.3 ms at the rated speed and
// 7.0 ms at 47% of it (the mean of the two tiles). Device memory: the 128 x 28 x 28 numbers after the first layer, 401 KB
// an image, are what counts, 0.93 ms for 10,000 images and one pass at 4.3 TB/s. `correlate` finishes its results itself
// (finish.cuh), and so there are five passes: written and read forwards, read for the rectifier's derivative while their
// gradient is written, and that one read; 2.0 MB an image, 4.7 ms, three passes of which run beside the products of the
// second layer. With kernels of their own for bias, rectifier and derivative they were eleven, 4.4 MB and 10.3 ms. The
// input gradient of the first layer has one column: 1 of the 8 that are multiplied here, and every window of 9 x 128 terms
// fetched in full, 441 steps of 200 clocks an image, would take 3.8 ms; narrow.cuh reads the terms once, in 0.93 ms.
//
// Macros: REAL float or double; TILE_N; PRECISION one of the numbers below (all but FP32 need float and sm_80);
// LEFT_VECTOR, RIGHT_VECTOR: how many numbers one copy takes: 1, or 4 floats where channels (left operand) or columns
// (right operand) are multiples of 4 and the arrays are aligned to 16 bytes. Launch with STAGES * STAGE numbers of dynamic
// shared memory.

#define FP32 0    // multiply-adds in REAL
#define TF32X3 1  // tensor cores, each operand in two pieces of 11 bits: almost as exact as float
#define TF32 2    // tensor cores, operands rounded to 11 bits
#define BF16 3    // tensor cores, operands rounded to 8 bits

#ifndef TILE_N
#define TILE_N 16
#endif
#ifndef PRECISION
#define PRECISION FP32
#endif
#ifndef LEFT_VECTOR
#define LEFT_VECTOR 1
#endif
#ifndef RIGHT_VECTOR
#define RIGHT_VECTOR 1
#endif

#include "finish.cuh"

constexpr int THREADS = 128, DEPTH = 16, STAGES = 3;
// Rows of a block's results; ops/conv.py knows them too.
constexpr int TILE_M =
    TILE_N == 64 && (PRECISION == TF32 || PRECISION == BF16) ? 256 : TILE_N >= 32 && sizeof(REAL) == 8 ? 64 : 128;
constexpr int BLOCKS = PRECISION == FP32 ? 3 : 2;  // of a multiprocessor at a time: 168 or 255 registers for a thread
constexpr int STAGE = DEPTH * (TILE_M + TILE_N);  // numbers of a buffer: left operand, then right operand
constexpr int FAR = -(1 << 29);  // a row that is outside of any image, and so is the sum of two

// Where an operand's term k of a row (or column) m stands in its buffer. Multiples of 4 numbers, as they are copied, stay
// together. They are permuted so that the lanes of a warp find what they need in different banks: lane 4 g + t reads the
// terms 4 t .. 4 t + 3 of row g.
struct TermsTogether {  // for an operand whose neighbours in memory are terms
  static __device__ int place(int m, int k) { return m * DEPTH + (k / 4 ^ m / 2 % 4) * 4 + k % 4; }
};
template <int SIZE>
struct RowsTogether {  // for an operand whose neighbours in memory are rows, SIZE of them
  static constexpr int BLOCKS = SIZE >= 32 ? 4 : SIZE >= 16 ? 2 : 1;
  static __device__ int place(int m, int k) { return k * SIZE + (m ^ k / 4 % BLOCKS * 8); }
};
using Right = RowsTogether<TILE_N>;

// Neighbours in shared memory: four floats in one instruction.
template <int COUNT>
__device__ __forceinline__ void read_neighbours(REAL (&values)[COUNT], const REAL* shared) {
  if constexpr (COUNT == 4 && sizeof(REAL) == 4) {
    const float4 four = *reinterpret_cast<const float4*>(shared);
    values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++) values[i] = shared[i];
  }
}
// The terms first .. first + 3 of a row.
__device__ __forceinline__ void read_terms(REAL (&values)[4], const REAL* operand, int m, int first, TermsTogether) {
  read_neighbours(values, operand + TermsTogether::place(m, first));
}
template <int SIZE>
__device__ __forceinline__ void read_terms(REAL (&values)[4], const REAL* operand, int m, int first,
                                           RowsTogether<SIZE>) {
#pragma unroll
  for (int r = 0; r < 4; r++) values[r] = operand[RowsTogether<SIZE>::place(m, first + r)];
}

// Copies COUNT numbers into shared memory, or zeros, to be there when the thread has waited for its group of copies.
template <int COUNT>
__device__ __forceinline__ void copy(REAL* shared, const REAL* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  async_copy<COUNT * sizeof(REAL), true>(shared, global, valid);
#else
  struct __align__(COUNT * sizeof(REAL)) Numbers { REAL number[COUNT]; };
  *reinterpret_cast<Numbers*>(shared) = valid ? *reinterpret_cast<const Numbers*>(global) : Numbers{};
#endif
}
__device__ __forceinline__ void end_of_group() {
#if __CUDA_ARCH__ >= 800
  async_commit();
#endif
}
template <int PENDING>
__device__ __forceinline__ void wait_for_groups() {
#if __CUDA_ARCH__ >= 800
  async_wait<PENDING>();
#endif
}

// What the block computes, spread over its threads.
#if PRECISION == FP32

// Lane n of a row of LANES_N holds the columns n VECTOR, n VECTOR + 1, ... of each of GROUPS parts.
struct Product {
  static constexpr int VECTOR = TILE_N >= 32 ? 4 : TILE_N >= 16 ? 2 : 1;
  static constexpr int GROUPS = TILE_N >= 64 && sizeof(REAL) == 4 ? 2 : 1;
  static constexpr int LANES_N = TILE_N / VECTOR / GROUPS, LANES_M = THREADS / LANES_N;
  static constexpr int ROWS = TILE_M / LANES_M;
  REAL sum[ROWS][GROUPS][VECTOR] = {};

  template <class Layout>
  __device__ void add(const REAL* a, const REAL* b, Layout layout) {
    const int m = threadIdx.x / LANES_N, n = threadIdx.x % LANES_N * VECTOR;
#pragma unroll
    for (int first = 0; first < DEPTH; first += 4) {
      REAL row[ROWS][4];
#pragma unroll
      for (int i = 0; i < ROWS; i++) read_terms(row[i], a, m + i * LANES_M, first, layout);
#pragma unroll
      for (int k = 0; k < 4; k++)
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
          REAL column[VECTOR];
          read_neighbours(column, b + Right::place(n + group * LANES_N * VECTOR, first + k));
#pragma unroll
          for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < VECTOR; j++) sum[i][group][j] += row[i][k] * column[j];
        }
    }
  }

  // f(row, column, value) for each of the thread's results, which f may change.
  template <class F>
  __device__ __forceinline__ void for_each(F f) {
    const int m = threadIdx.x / LANES_N, n = threadIdx.x % LANES_N * VECTOR;
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
      for (int group = 0; group < GROUPS; group++)
#pragma unroll
        for (int j = 0; j < VECTOR; j++) f(m + i * LANES_M, n + group * LANES_N * VECTOR + j, sum[i][group][j]);
  }
};

#else

// Four terms of a row or column as tensor cores take them: two for each of two matrix products in TF32, all four for one
// in bfloat16. Which term stands where does not matter, as long as both operands agree.
#if PRECISION == BF16
struct Terms {
  unsigned word[2];
  __device__ void take(const float (&values)[4]) {
    word[0] = pack_bf16(values[0], values[1]), word[1] = pack_bf16(values[2], values[3]);
  }
};
#else
// A float as its leading 11 bits and, for three products instead of one, the next 11.
struct Terms {
  unsigned word[4], rest[PRECISION == TF32X3 ? 4 : 1];
  __device__ void take(const float (&values)[4]) {
#pragma unroll
    for (int r = 0; r < 4; r++) {
      word[r] = to_tf32(values[r]);
      if constexpr (PRECISION == TF32X3) rest[r] = to_tf32(values[r] - __uint_as_float(word[r]));
    }
  }
};
#endif

// A warp computes MATRICES_M x MATRICES_N small results of 16 x 8. Lane 4 g + t holds rows g and g + 8, columns 2 t and
// 2 t + 1 of each, and gives them the terms 4 t .. 4 t + 3 of rows g and g + 8 and of column g.
struct Product {
  static constexpr int WARPS_N = TILE_N >= 64 && TILE_M == 128 ? 2 : 1, WARPS_M = THREADS / 32 / WARPS_N;
  static constexpr int MATRICES_M = TILE_M / WARPS_M / 16, MATRICES_N = TILE_N / WARPS_N / 8;
  float sum[MATRICES_M][MATRICES_N][4] = {};

  static __device__ int first_m() { return threadIdx.x / 32 / WARPS_N * MATRICES_M * 16; }
  static __device__ int first_n() { return threadIdx.x / 32 % WARPS_N * MATRICES_N * 8; }

  template <class Layout>
  __device__ void add(const float* a, const float* b, Layout layout) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Terms right[MATRICES_N];
#pragma unroll
    for (int j = 0; j < MATRICES_N; j++) {
      float values[4];
      read_terms(values, b, first_n() + 8 * j + g, 4 * t, Right());
      right[j].take(values);
    }
#pragma unroll
    for (int i = 0; i < MATRICES_M; i++) {
      Terms left[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float values[4];
        read_terms(values, a, first_m() + 16 * i + g + 8 * half, 4 * t, layout);
        left[half].take(values);
      }
#pragma unroll
      for (int j = 0; j < MATRICES_N; j++) multiply_add(sum[i][j], left, right[j]);
    }
  }

  static __device__ __forceinline__ void multiply_add(float (&d)[4], const Terms (&left)[2], const Terms& right) {
#if PRECISION == BF16
    const unsigned a[4] = {left[0].word[0], left[1].word[0], left[0].word[1], left[1].word[1]};
    mma_m16n8k16_bf16(d, a, right.word);
#elif PRECISION == TF32
#pragma unroll
    for (int r = 0; r < 4; r += 2) multiply_add(d, left[0].word + r, left[1].word + r, right.word + r);
#else
    // The small terms first; the smallest, of two rests, is left out. Tensor cores cut off what does not fit into a float
    // where additions round: the sum over all steps is taken outside of them.
    float part[4] = {};
#pragma unroll
    for (int r = 0; r < 4; r += 2) {
      multiply_add(part, left[0].rest + r, left[1].rest + r, right.word + r);
      multiply_add(part, left[0].word + r, left[1].word + r, right.rest + r);
    }
#pragma unroll
    for (int r = 0; r < 4; r += 2) multiply_add(part, left[0].word + r, left[1].word + r, right.word + r);
#pragma unroll
    for (int i = 0; i < 4; i++) d[i] += part[i];
#endif
  }
#if PRECISION != BF16
  static __device__ __forceinline__ void multiply_add(float (&d)[4], const unsigned* upper, const unsigned* lower,
                                                      const unsigned* right) {
    const unsigned a[4] = {upper[0], lower[0], upper[1], lower[1]}, b[2] = {right[0], right[1]};
    mma_m16n8k8_tf32(d, a, b);
  }
#endif

  template <class F>
  __device__ __forceinline__ void for_each(F f) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < MATRICES_M; i++)
#pragma unroll
      for (int j = 0; j < MATRICES_N; j++)
#pragma unroll
        for (int r = 0; r < 4; r++)
          f(first_m() + 16 * i + g + 8 * (r / 2), first_n() + 8 * j + 2 * t + r % 2, sum[i][j][r]);
  }
};

#endif  // PRECISION

// The images, channels-last, and the windows on them.
struct Images {
  const REAL* x;
  int h, w, c, kw, sh, sw, top, left, rows, cols;
  __device__ bool has(int row, int column) const {
    return unsigned(row) < unsigned(h) && unsigned(column) < unsigned(w);
  }
};
// A window: its upper left corner, and the number of the element there, which may be outside of the image.
struct Window {
  int64_t element;
  int row, column;
};
// A tap of a window: where it is, and how many elements after the window's first one.
struct Tap {
  int row, column, element;
};

__device__ Window window_of(const Images& g, int image, int i, int j) {
  const int row = i * g.sh - g.top, column = j * g.sw - g.left;
  return {((int64_t(image) * g.h + row) * g.w + column) * g.c, row, column};
}

// Number i of a mixed-radix counter (image, i, j), or (u, v, channel): counts in steps without a division.
struct Counter {
  int outer, middle, inner, middle_size, inner_size, outer_step, middle_step, inner_step;
  __device__ Counter(int number, int step, int middle_size, int inner_size)
      : outer(number / inner_size / middle_size), middle(number / inner_size % middle_size), inner(number % inner_size),
        middle_size(middle_size), inner_size(inner_size), outer_step(step / inner_size / middle_size),
        middle_step(step / inner_size % middle_size), inner_step(step % inner_size) {}
  __device__ void advance() {
    outer += outer_step, middle += middle_step, inner += inner_step;
    if (inner >= inner_size) inner -= inner_size, middle++;
    if (middle >= middle_size) middle -= middle_size, outer++;
  }
};

// The left operand of `correlate`: rows are windows (a table in shared memory), terms are taps. Neighbouring threads copy
// neighbouring taps, which are neighbours in memory. `line` is the line of the right operand that belongs to term 0 of
// the step. Where the channels are a multiple of DEPTH, all positions of a window come before the next DEPTH channels.
struct TapByTap {
  using Layout = TermsTogether;
  static constexpr int ACROSS = DEPTH / LEFT_VECTOR, ROWS_AT_ONCE = THREADS / ACROSS;
  const Images& images;
  const Window* windows;
  int num_taps, kh, own, line = 0;
  bool by_channels;
  Counter tap;
  __device__ TapByTap(const Images& g, const Window* windows, int num_taps)
      : images(g), windows(windows), num_taps(num_taps), kh(num_taps / g.c / g.kw),
        own(threadIdx.x % ACROSS * LEFT_VECTOR), by_channels(g.c % DEPTH == 0), tap(own, DEPTH, g.kw, g.c) {}
  __device__ void advance() {
    if (!by_channels) {
      line += DEPTH;
      tap.advance();
      return;
    }
    line += images.c;
    if (++tap.middle < images.kw) return;
    tap.middle = 0;
    if (++tap.outer < kh) return;
    tap.outer = 0, tap.inner += DEPTH, line += DEPTH - num_taps;
  }
  __device__ void fetch(REAL* a) const {
    const bool exists = tap.outer < kh;
    const int offset = (tap.outer * images.w + tap.middle) * images.c + tap.inner;
#pragma unroll
    for (int s = 0; s < TILE_M / ROWS_AT_ONCE; s++) {
      const int m = threadIdx.x / ACROSS + s * ROWS_AT_ONCE;
      const Window window = windows[m];
      const bool inside = exists && images.has(window.row + tap.outer, window.column + tap.middle);
      copy<LEFT_VECTOR>(a + Layout::place(m, own), images.x + (inside ? window.element + offset : 0), inside);
    }
  }
};

// The left operand of `weight_gradient`: rows are taps (a table), terms are windows.
struct WindowByWindow {
  using Layout = RowsTogether<TILE_M>;
  static constexpr int ACROSS = THREADS / DEPTH, ROWS_AT_ONCE = ACROSS * LEFT_VECTOR;
  const Images& images;
  const Tap* taps;
  int end, own, line;
  Counter window;
  __device__ WindowByWindow(const Images& g, const Tap* taps, int first, int end)
      : images(g), taps(taps), end(end), own(threadIdx.x / ACROSS), line(first),
        window(first + own, DEPTH, g.rows, g.cols) {}
  __device__ void advance() {
    line += DEPTH;
    window.advance();
  }
  __device__ void fetch(REAL* a) const {
    const bool exists = line + own < end;
    const Window corner = window_of(images, window.outer, window.middle, window.inner);
#pragma unroll
    for (int s = 0; s < TILE_M / ROWS_AT_ONCE; s++) {
      const int m = threadIdx.x % ACROSS * LEFT_VECTOR + s * ROWS_AT_ONCE;
      const Tap tap = taps[m];
      const bool inside = exists && images.has(corner.row + tap.row, corner.column + tap.column);
      copy<LEFT_VECTOR>(a + Layout::place(m, own), images.x + (inside ? corner.element + tap.element : 0), inside);
    }
  }
};

// Adds the terms of `num_steps` steps. `right` is a matrix of `num_lines` lines and `num_columns` columns, of which the
// block needs those from `n0` on; what is beyond counts as 0.
template <class Left>
__device__ void multiply(Left left, const REAL* right, int num_steps, int num_lines, int n0, int num_columns,
                         REAL* buffers, Product& product) {
  constexpr int ACROSS = TILE_N / RIGHT_VECTOR, LINES_AT_ONCE = THREADS / ACROSS;
  const int n = threadIdx.x % ACROSS * RIGHT_VECTOR, first_k = threadIdx.x / ACROSS;
  const auto fetch = [&](int step) {
    if (step < num_steps) {
      REAL* const a = buffers + step % STAGES * STAGE;
      left.fetch(a);
#pragma unroll
      for (int k = first_k; k < DEPTH; k += LINES_AT_ONCE) {
        const bool inside = left.line + k < num_lines && n0 + n < num_columns;
        const int64_t element = int64_t(left.line + k) * num_columns + n0 + n;
        copy<RIGHT_VECTOR>(a + DEPTH * TILE_M + Right::place(n, k), right + (inside ? element : 0), inside);
      }
      left.advance();
    }
    end_of_group();
  };
  for (int step = 0; step < STAGES - 1; step++) fetch(step);
  for (int step = 0; step < num_steps; step++) {
    wait_for_groups<STAGES - 2>();
    __syncthreads();  // everybody's copies of this step are there, and nobody reads the buffer that is filled next
    fetch(step + STAGES - 1);
    const REAL* const a = buffers + step % STAGES * STAGE;
    product.add(a, a + DEPTH * TILE_M, typename Left::Layout());
  }
}

// Window (i, j) of an image gives pixel (i row_step + first_row, j column_step + first_column) of its (height, width) result.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
correlate(const REAL* x, const REAL* weight, REAL* y, int num_pixels, int num_taps, int num_columns, int h, int w, int c,
          int kw, int sh, int sw, int top, int left, int rows, int cols, int height, int width, int row_step,
          int column_step, int first_row, int first_column, const REAL* bias, const REAL* input, bool has_bias,
          int activation, int input_activation) {
  DYNAMIC_SHARED(REAL, buffers);
  __shared__ Window windows[TILE_M];
  __shared__ int64_t results[TILE_M];  // element of y that the row's results begin at, or -1
  const Images images = {x, h, w, c, kw, sh, sw, top, left, rows, cols};
  const int m0 = blockIdx.x * TILE_M, n0 = blockIdx.y * TILE_N;
  for (int m = threadIdx.x; m < TILE_M; m += THREADS) {
    windows[m] = {0, FAR, FAR}, results[m] = -1;
    if (m0 + m >= num_pixels) continue;
    const int j = (m0 + m) % cols, i = (m0 + m) / cols % rows, image = (m0 + m) / cols / rows;
    const int64_t row = int64_t(image) * height + i * row_step + first_row;
    windows[m] = window_of(images, image, i, j);
    results[m] = (row * width + j * column_step + first_column) * num_columns;
  }
  __syncthreads();
  Product product;
  multiply(TapByTap(images, windows, num_taps), weight, (num_taps + DEPTH - 1) / DEPTH, num_taps, n0, num_columns,
           buffers, product);
  // `finished`, each step for all results at once: what it reads is on its way together, and no store is in between.
  const int last = num_columns - 1;
  if (has_bias) product.for_each([&](int, int n, REAL& value) { value += bias[min(n0 + n, last)]; });
  if (activation == RELU) product.for_each([](int, int, REAL& value) { value = rectified(value); });
  if (activation == TANH) product.for_each([](int, int, REAL& value) { value = tanh_of(value); });
  if (input_activation)
    product.for_each([&](int m, int n, REAL& value) {
      value *= derivative(input[max(results[m], int64_t(0)) + min(n0 + n, last)], input_activation);
    });
  product.for_each([&](int m, int n, REAL value) {
    if (results[m] >= 0 && n0 + n < num_columns) y[results[m] + n0 + n] = value;
  });
}

// Pixels blockIdx.z * part, ... of the sum go to parts[blockIdx.z, tap, column].
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
weight_gradient(const REAL* x, const REAL* dy, REAL* parts, int num_pixels, int num_taps, int num_columns, int part, int h,
                int w, int c, int kw, int sh, int sw, int top, int left, int rows, int cols) {
  DYNAMIC_SHARED(REAL, buffers);
  __shared__ Tap taps[TILE_M];
  const Images images = {x, h, w, c, kw, sh, sw, top, left, rows, cols};
  const int m0 = blockIdx.x * TILE_M, n0 = blockIdx.y * TILE_N;
  const int first = blockIdx.z * part, end = min(first + part, num_pixels);
  for (int m = threadIdx.x; m < TILE_M; m += THREADS) {
    const int u = (m0 + m) / c / kw, v = (m0 + m) / c % kw;
    taps[m] = m0 + m < num_taps ? Tap{u, v, (u * w + v) * c + (m0 + m) % c} : Tap{FAR, FAR, 0};
  }
  __syncthreads();
  Product product;
  multiply(WindowByWindow(images, taps, first, end), dy, (end - first + DEPTH - 1) / DEPTH, end, n0, num_columns, buffers,
           product);
  product.for_each([&](int m, int n, REAL value) {
    if (m0 + m >= num_taps || n0 + n >= num_columns) return;
    parts[(int64_t(blockIdx.z) * num_taps + m0 + m) * num_columns + n0 + n] = value;
  });
}

// dweight[o, c, u, v] = sum of parts[part, (u, v, c), o] over the parts, in their order.
extern "C" __global__ void __launch_bounds__(THREADS)
add_parts(const REAL* parts, REAL* dweight, int num_parts, int num_columns, int c, int window) {
  const int i = blockIdx.x * THREADS + threadIdx.x, num_taps = window * c;
  if (i >= num_columns * num_taps) return;
  const int position = i % window, channel = i / window % c, o = i / window / c;
  double sum = 0.0;
  for (int part = 0; part < num_parts; part++)
    sum += parts[(int64_t(part) * num_taps + position * c + channel) * num_columns + o];
  dweight[i] = sum;
}
