// Convolutions as matrix products whose left operand is gathered from the images as it is needed (implicit GEMM):
//
//     correlate        y[pixel, o]   = sum over taps    x[pixel, tap] weight[tap, o]
//     weight_gradient  dw[tap, o]    = sum over pixels  x[pixel, tap] dy[pixel, o]
//
// pixel = (image, i, j) of a grid of windows, tap = (u, v, channel) of a window, and x[pixel, tap] is the channels-last
// input at row i sh - top + u and column j sw - left + v, or 0 outside of it. Input gradients and transposed convolutions
// are `correlate` too, one launch for each phase of the stride (ops/conv.py says how).
//
// A block computes TILE_M x TILE_N results, DEPTH terms at a time, through two buffers in shared memory: while one is
// multiplied, the next terms are on their way in registers. A sum's terms are added in their order, whatever the number of
// images: an image's results do not depend on its batch. Sums over pixels are cut into parts, one for each blockIdx.z, which
// `add_parts` adds in their order: no atomics, the same bits every time.
//
// Macros: REAL float or double; TILE_N; PRECISION one of the numbers below (all but FP32 need float and sm_80).

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

constexpr int THREADS = 128, DEPTH = 16;
constexpr int TILE_M = TILE_N >= 32 ? 64 : 128;
// So padded, the lanes of a warp that read a fragment find it in different banks.
constexpr int STRIDE_M = TILE_M + 8, STRIDE_N = TILE_N <= 8 ? TILE_N : TILE_N + 8;
constexpr int LANES_M = THREADS / DEPTH;  // rows of the left operand that the threads fetch at once
constexpr int SLOTS_M = TILE_M / LANES_M;
constexpr int SLOTS_N = (TILE_N * DEPTH + THREADS - 1) / THREADS;
constexpr int FAR = -(1 << 29);  // a row that is outside of any image, and so is the sum of two

// What the block computes, spread over its threads.
#if PRECISION == FP32

struct Product {
  static constexpr int COLUMNS = TILE_N >= 32 ? 4 : TILE_N >= 16 ? 2 : 1;
  static constexpr int LANES_N = TILE_N / COLUMNS, LANES_M = THREADS / LANES_N;
  static constexpr int ROWS = TILE_M / LANES_M;
  REAL sum[ROWS][COLUMNS] = {};

  __device__ void add(const REAL (*a)[STRIDE_M], const REAL (*b)[STRIDE_N]) {
    const int m = threadIdx.x / LANES_N, n = threadIdx.x % LANES_N;
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      REAL row[ROWS], column[COLUMNS];
#pragma unroll
      for (int i = 0; i < ROWS; i++) row[i] = a[k][m + i * LANES_M];
#pragma unroll
      for (int j = 0; j < COLUMNS; j++) column[j] = b[k][n + j * LANES_N];
#pragma unroll
      for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) sum[i][j] += row[i] * column[j];
    }
  }

  // f(row, column, value) for each of the thread's results.
  template <class F>
  __device__ void for_each(F f) const {
    const int m = threadIdx.x / LANES_N, n = threadIdx.x % LANES_N;
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
      for (int j = 0; j < COLUMNS; j++) f(m + i * LANES_M, n + j * LANES_N, sum[i][j]);
  }
};

#else

// A warp computes MATRICES_M x MATRICES_N small results of 16 x 8. Lane 4 g + t holds rows g and g + 8, columns 2 t and
// 2 t + 1 of each.
struct Product {
  static constexpr int WARPS_N = TILE_N == 64 ? 2 : 1, WARPS_M = THREADS / 32 / WARPS_N;
  static constexpr int MATRICES_M = TILE_M / WARPS_M / 16, MATRICES_N = TILE_N / WARPS_N / 8;
  float sum[MATRICES_M][MATRICES_N][4] = {};

  static __device__ int first_m() { return threadIdx.x / 32 / WARPS_N * MATRICES_M * 16; }
  static __device__ int first_n() { return threadIdx.x / 32 % WARPS_N * MATRICES_N * 8; }

#if PRECISION == BF16

  __device__ void add(const float (*a)[STRIDE_M], const float (*b)[STRIDE_N]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    unsigned left[MATRICES_M][4], right[MATRICES_N][2];
#pragma unroll
    for (int i = 0; i < MATRICES_M; i++)
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const int m = first_m() + 16 * i + g + 8 * (r % 2), k = 2 * t + 8 * (r / 2);
        left[i][r] = pack_bf16(a[k][m], a[k + 1][m]);
      }
#pragma unroll
    for (int j = 0; j < MATRICES_N; j++)
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int n = first_n() + 8 * j + g, k = 2 * t + 8 * r;
        right[j][r] = pack_bf16(b[k][n], b[k + 1][n]);
      }
#pragma unroll
    for (int i = 0; i < MATRICES_M; i++)
#pragma unroll
      for (int j = 0; j < MATRICES_N; j++) mma_m16n8k16_bf16(sum[i][j], left[i], right[j]);
  }

#else

  // A float as its leading 11 bits and, for three products instead of one, the next 11.
  struct Pieces {
    unsigned large, small;
  };
  static __device__ Pieces pieces_of(float value) {
    const unsigned large = to_tf32(value);
    return {large, PRECISION == TF32X3 ? to_tf32(value - __uint_as_float(large)) : 0u};
  }

  __device__ void add(const float (*a)[STRIDE_M], const float (*b)[STRIDE_N]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int first = 0; first < DEPTH; first += 8) {
      unsigned left[MATRICES_M][4], left_rest[MATRICES_M][4], right[MATRICES_N][2], right_rest[MATRICES_N][2];
#pragma unroll
      for (int i = 0; i < MATRICES_M; i++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
          const Pieces pieces = pieces_of(a[first + t + 4 * (r / 2)][first_m() + 16 * i + g + 8 * (r % 2)]);
          left[i][r] = pieces.large, left_rest[i][r] = pieces.small;
        }
#pragma unroll
      for (int j = 0; j < MATRICES_N; j++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
          const Pieces pieces = pieces_of(b[first + t + 4 * r][first_n() + 8 * j + g]);
          right[j][r] = pieces.large, right_rest[j][r] = pieces.small;
        }
#pragma unroll
      for (int i = 0; i < MATRICES_M; i++)
#pragma unroll
        for (int j = 0; j < MATRICES_N; j++) {
          if (PRECISION == TF32X3) {  // the small terms first; the smallest, of two rests, is left out
            mma_m16n8k8_tf32(sum[i][j], left_rest[i], right[j]);
            mma_m16n8k8_tf32(sum[i][j], left[i], right_rest[j]);
          }
          mma_m16n8k8_tf32(sum[i][j], left[i], right[j]);
        }
    }
  }

#endif

  template <class F>
  __device__ void for_each(F f) const {
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

struct Buffers {
  REAL a[2][DEPTH][STRIDE_M], b[2][DEPTH][STRIDE_N];
};

// The images, channels-last, and the windows on them.
struct Images {
  const REAL* x;
  int h, w, c, kw, sh, sw, top, left, rows, cols;
};
struct Pixel {
  int64_t image;    // number of its first element
  int row, column;  // of the window's upper left corner
};
struct Tap {
  int row, column, channel;
};

__device__ Pixel pixel_of(const Images& g, int pixel, int end) {
  if (pixel >= end) return {0, FAR, FAR};
  const int j = pixel % g.cols, i = pixel / g.cols % g.rows, image = pixel / g.cols / g.rows;
  return {int64_t(image) * g.h * g.w * g.c, i * g.sh - g.top, j * g.sw - g.left};
}
__device__ Tap tap_of(const Images& g, int tap, int end) {
  if (tap >= end) return {FAR, FAR, 0};
  return {tap / g.c / g.kw, tap / g.c % g.kw, tap % g.c};
}
__device__ REAL value_at(const Images& g, const Pixel& pixel, const Tap& tap) {
  const int row = pixel.row + tap.row, column = pixel.column + tap.column;
  const bool inside = row >= 0 && row < g.h && column >= 0 && column < g.w;
  return inside ? g.x[pixel.image + (int64_t(row) * g.w + column) * g.c + tap.channel] : REAL(0);
}

// The left operand of `correlate`: rows are pixels (a table in shared memory), terms are taps, one a thread and step.
// Neighbouring threads fetch neighbouring taps, which are neighbours in memory.
struct TapByTap {
  const Images& images;
  const Pixel* pixels;
  int num_taps;
  Tap tap;
  static __device__ int term() { return threadIdx.x % DEPTH; }
  static __device__ int row() { return threadIdx.x / DEPTH; }
  __device__ void go_to(int term) { tap = tap_of(images, term, num_taps); }
  __device__ REAL operator()(int row) const { return value_at(images, pixels[row], tap); }
};

// The left operand of `weight_gradient`: rows are taps (a table), terms are pixels.
struct PixelByPixel {
  const Images& images;
  const Tap* taps;
  int end;
  Pixel pixel;
  static __device__ int term() { return threadIdx.x / LANES_M; }
  static __device__ int row() { return threadIdx.x % LANES_M; }
  __device__ void go_to(int term) { pixel = pixel_of(images, term, end); }
  __device__ REAL operator()(int row) const { return value_at(images, pixel, taps[row]); }
};

// Adds the terms first..end-1 of a product. `right` is a matrix with `num_columns` columns, of which the block needs those
// from `n0` on; terms and columns beyond their ends count as 0.
template <class Left>
__device__ void multiply(Left left, const REAL* right, int first, int end, int n0, int num_columns, Buffers& buffers,
                         Product& product) {
  REAL a[SLOTS_M], b[SLOTS_N];
  const auto fetch = [&](int term) {
    left.go_to(term + Left::term());
#pragma unroll
    for (int s = 0; s < SLOTS_M; s++) a[s] = left(Left::row() + s * LANES_M);
#pragma unroll
    for (int s = 0; s < SLOTS_N; s++) {
      const int k = (threadIdx.x + s * THREADS) / TILE_N, n = n0 + (threadIdx.x + s * THREADS) % TILE_N;
      const bool inside = k < DEPTH && term + k < end && n < num_columns;
      b[s] = inside ? right[int64_t(term + k) * num_columns + n] : REAL(0);
    }
  };
  const auto keep = [&](int buffer) {
#pragma unroll
    for (int s = 0; s < SLOTS_M; s++) buffers.a[buffer][Left::term()][Left::row() + s * LANES_M] = a[s];
#pragma unroll
    for (int s = 0; s < SLOTS_N; s++) {
      const int k = (threadIdx.x + s * THREADS) / TILE_N, n = (threadIdx.x + s * THREADS) % TILE_N;
      if (k < DEPTH) buffers.b[buffer][k][n] = b[s];
    }
  };
  if (first >= end) return;  // all of the block
  fetch(first);
  keep(0);
  __syncthreads();
  int buffer = 0;
  for (int term = first; term < end; term += DEPTH) {
    const bool more = term + DEPTH < end;
    if (more) fetch(term + DEPTH);
    product.add(buffers.a[buffer], buffers.b[buffer]);
    buffer ^= 1;
    if (more) keep(buffer);
    __syncthreads();
  }
}

// Window (i, j) of an image gives pixel (i row_step + first_row, j column_step + first_column) of its (height, width) result.
extern "C" __global__ void __launch_bounds__(THREADS)
correlate(const REAL* x, const REAL* weight, REAL* y, int num_pixels, int num_taps, int num_columns, int h, int w, int c,
          int kw, int sh, int sw, int top, int left, int rows, int cols, int height, int width, int row_step,
          int column_step, int first_row, int first_column) {
  __shared__ Buffers buffers;
  __shared__ Pixel pixels[TILE_M];
  const Images images = {x, h, w, c, kw, sh, sw, top, left, rows, cols};
  const int m0 = blockIdx.x * TILE_M, n0 = blockIdx.y * TILE_N;
  for (int m = threadIdx.x; m < TILE_M; m += THREADS) pixels[m] = pixel_of(images, m0 + m, num_pixels);
  __syncthreads();
  Product product;
  multiply(TapByTap{images, pixels, num_taps, {}}, weight, 0, num_taps, n0, num_columns, buffers, product);
  product.for_each([&](int m, int n, REAL value) {
    if (m0 + m >= num_pixels || n0 + n >= num_columns) return;
    const int j = (m0 + m) % cols, i = (m0 + m) / cols % rows, image = (m0 + m) / cols / rows;
    const int64_t row = int64_t(image) * height + i * row_step + first_row;
    y[(row * width + j * column_step + first_column) * num_columns + n0 + n] = value;
  });
}

// Pixels blockIdx.z * part, ... of the sum go to parts[blockIdx.z, tap, column].
extern "C" __global__ void __launch_bounds__(THREADS)
weight_gradient(const REAL* x, const REAL* dy, REAL* parts, int num_pixels, int num_taps, int num_columns, int part, int h,
                int w, int c, int kw, int sh, int sw, int top, int left, int rows, int cols) {
  __shared__ Buffers buffers;
  __shared__ Tap taps[TILE_M];
  const Images images = {x, h, w, c, kw, sh, sw, top, left, rows, cols};
  const int m0 = blockIdx.x * TILE_M, n0 = blockIdx.y * TILE_N;
  const int first = blockIdx.z * part, end = min(first + part, num_pixels);
  for (int m = threadIdx.x; m < TILE_M; m += THREADS) taps[m] = tap_of(images, m0 + m, num_taps);
  __syncthreads();
  Product product;
  multiply(PixelByPixel{images, taps, end, {}}, dy, first, end, n0, num_columns, buffers, product);
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
