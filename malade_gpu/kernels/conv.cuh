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
// Instructions, of which a scheduler issues one a clock: 344 in a step of the first kind of loop (256 x 64, TF32, counted
// in the machine code for sm_90; 416 in that of `weight_gradient`, whose operands both are rounded in the loop), so at most
// 74% of the rated speed. tests/agree/test_instructions.py holds these numbers.
//
// So the two large tiles can reach 50% and 44% of the rated speed if all terms come from L1. From L2, at 24 bytes per
// clock and multiprocessor, a step takes 683 and 853 clocks: 37% and 30%. That is why, where channels are many, all
// positions of a window are visited for 16 channels before the next 16: the 128 windows of a tile on 28 x 28 images
// overlap in 23 x 28 pixels of 64 bytes, 41 KiB, which stay in L1 through all positions and are read from L2 once
// instead of 25 times. TF32X3 does three products for each: on the third tile, 384 clocks of products beside 384 of bytes.
//
// The paper's classifier: its second convolution (128 to 64 channels, 5 x 5, stride 2, 14 x 14 results) is 80.3 MFLOP an
// image forwards and as much for the input gradient: 1.6 of 1.7 TFLOP for 10,000 images, 3.3 ms at the rated speed and
// 7.0 ms at 47% of it (the mean of the two tiles). Device memory: the 128 x 28 x 28 numbers after the first layer, 401 KB
// an image, are what counts, 0.93 ms for 10,000 images and one pass at 4.3 TB/s. `correlate` finishes its results itself
// (epilogue.cuh), and so there are five passes: written and read forwards, read for the rectifier's derivative while their
// gradient is written, and that one read; 2.0 MB an image, 4.7 ms, three passes of which run beside the products of the
// second layer. With kernels of their own for bias, rectifier and derivative they were eleven, 4.4 MB and 10.3 ms. The
// input gradient of the first layer has one column: 1 of the 8 that are multiplied here, and every window of 9 x 128 terms
// fetched in full, 441 steps of 200 clocks an image, would take 3.8 ms; narrow.cuh reads the terms once, in 0.93 ms.
//
// Macros: REAL float or double; TILE_N; PRECISION one of the numbers below (all but FP32 need float and sm_80);
// LEFT_VECTOR, RIGHT_VECTOR: how many numbers one copy takes: 1, or 4 floats where channels (left operand) or columns
// (right operand) are multiples of 4 and the arrays are aligned to 16 bytes; RIGHT_VECTOR also says how many results may be
// stored at once. The weights of `correlate` are copied in 16 bytes whatever it is: `lay_out` pads them. Launch with STAGES *
// STAGE numbers of dynamic shared memory.

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

#include "epilogue.cuh"

constexpr int THREADS = 128, DEPTH = 16, STAGES = 3;
// Rows of a block's results; ops/conv.py knows them too.
constexpr int TILE_M =
    TILE_N == 64 && (PRECISION == TF32 || PRECISION == BF16) ? 256 : TILE_N >= 32 && sizeof(REAL) == 8 ? 64 : 128;
constexpr int BLOCKS = PRECISION == FP32 ? 3 : 2;  // of a multiprocessor at a time: 168 or 255 registers for a thread
constexpr int STAGE = DEPTH * (TILE_M + TILE_N);  // numbers of a buffer: left operand, then right operand
constexpr int FAR = -(1 << 29);  // a row that is outside of any image, and so is the sum of two

// COUNT neighbours in memory, aligned to their size.
template <int COUNT>
struct __align__(COUNT * sizeof(REAL)) Numbers { REAL number[COUNT]; };
template <int COUNT>
__device__ __forceinline__ Numbers<COUNT> load(const REAL* from) {
  return *reinterpret_cast<const Numbers<COUNT>*>(from);
}
template <int COUNT>
__device__ __forceinline__ void store(REAL* to, const REAL* values) {
  if constexpr (COUNT == 4 && sizeof(REAL) == 4) {
    *reinterpret_cast<float4*>(to) = make_float4(values[0], values[1], values[2], values[3]);
  } else {
    Numbers<COUNT> numbers;
#pragma unroll
    for (int i = 0; i < COUNT; i++) numbers.number[i] = values[i];
    *reinterpret_cast<Numbers<COUNT>*>(to) = numbers;
  }
}

// Where an operand's term k of a row (or column) m stands in its buffer. Multiples of 4 numbers, as they are copied, stay
// together. They are permuted so that the lanes of a warp find what they need in different banks: lane 4 g + t reads the
// terms 4 t .. 4 t + 3 of row g. Rows that lie 8 KINDS apart are permuted alike and are NEXT numbers apart, and the terms
// 4 t .. 4 t + 3 of a row are TERM apart: so a lane needs KINDS places, and what it reads lies at known distances.
// ROUNDED: to the precision of the product already.
struct TermsTogether {  // for an operand whose neighbours in memory are terms
  static constexpr int KINDS = 1, NEXT = 8 * DEPTH, TERM = 1;
  static constexpr bool ROUNDED = false;
  static __device__ int place(int m, int k) { return m * DEPTH + (k / 4 ^ m / 2 % 4) * 4 + k % 4; }
};
template <int SIZE>
struct RowsTogether {  // for an operand whose neighbours in memory are rows, SIZE of them
  static constexpr int KINDS = SIZE >= 32 ? 4 : SIZE >= 16 ? 2 : 1, NEXT = 8 * KINDS, TERM = SIZE;
  static constexpr bool ROUNDED = false;
  static __device__ int place(int m, int k) { return k * SIZE + (m ^ k / 4 % KINDS * 8); }
};

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
// Four terms that begin at a place.
template <class Layout>
__device__ __forceinline__ void read_terms(REAL (&values)[4], const REAL* shared) {
  if constexpr (Layout::TERM == 1) {
    read_neighbours(values, shared);
  } else {
#pragma unroll
    for (int r = 0; r < 4; r++) values[r] = shared[r * Layout::TERM];
  }
}

// Copies COUNT numbers into shared memory, or zeros, to be there when the thread has waited for its group of copies.
template <int COUNT>
__device__ __forceinline__ void copy(REAL* shared, const REAL* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  async_copy<COUNT * sizeof(REAL), true>(shared, global, valid);
#else
  *reinterpret_cast<Numbers<COUNT>*>(shared) = valid ? load<COUNT>(global) : Numbers<COUNT>{};
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
template <class Left, class Right>
struct Product {
  static constexpr int VECTOR = TILE_N >= 32 ? 4 : TILE_N >= 16 ? 2 : 1;
  static constexpr int GROUPS = TILE_N >= 64 && sizeof(REAL) == 4 ? 2 : 1;
  static constexpr int LANES_N = TILE_N / VECTOR / GROUPS, LANES_M = THREADS / LANES_N;
  static constexpr int ROWS = TILE_M / LANES_M;
  REAL sum[ROWS][GROUPS][VECTOR] = {};

  __device__ void add(const REAL* a, const REAL* b) {
    const int m = threadIdx.x / LANES_N, n = threadIdx.x % LANES_N * VECTOR;
#pragma unroll
    for (int first = 0; first < DEPTH; first += 4) {
      REAL row[ROWS][4];
#pragma unroll
      for (int i = 0; i < ROWS; i++) read_terms<Left>(row[i], a + Left::place(m + i * LANES_M, first));
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

  // f(row, column, values) for each VECTOR neighbours of the thread's results, which f may change.
  template <class F>
  __device__ __forceinline__ void for_each(F f) {
    const int m = threadIdx.x / LANES_N, n = threadIdx.x % LANES_N * VECTOR;
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
      for (int group = 0; group < GROUPS; group++)
        f(m + i * LANES_M, n + group * LANES_N * VECTOR, sum[i][group]);
  }
};

#else

// Four terms of a row or column as tensor cores take them: two for each of two matrix products in TF32, all four for one
// in bfloat16. Which term stands where does not matter, as long as both operands agree.
#if PRECISION == BF16
struct Terms {
  unsigned word[2];
  template <class Layout>
  __device__ void take(const float (&values)[4]) {
    word[0] = pack_bf16(values[0], values[1]), word[1] = pack_bf16(values[2], values[3]);
  }
};
#else
// A float as its leading 11 bits and, for three products instead of one, the next 11.
struct Terms {
  unsigned word[4], rest[PRECISION == TF32X3 ? 4 : 1];
  template <class Layout>
  __device__ void take(const float (&values)[4]) {
#pragma unroll
    for (int r = 0; r < 4; r++) {
      if constexpr (PRECISION == TF32X3) {
        word[r] = to_tf32(values[r]);
        rest[r] = near_tf32<true>(values[r] - __uint_as_float(word[r]));
      } else {
        word[r] = Layout::ROUNDED ? __float_as_uint(values[r]) : near_tf32<Layout::TERM != 1>(values[r]);
      }
    }
  }
};
#endif

// A warp computes MATRICES_M x MATRICES_N small results of 16 x 8. Lane 4 g + t holds rows g and g + 8, columns 2 t and
// 2 t + 1 of each, and gives them the terms 4 t .. 4 t + 3 of rows g and g + 8 and of column g.
template <class Left, class Right>
struct Product {
  static constexpr int WARPS_N = TILE_N >= 64 && TILE_M == 128 ? 2 : 1, WARPS_M = THREADS / 32 / WARPS_N;
  static constexpr int MATRICES_M = TILE_M / WARPS_M / 16, MATRICES_N = TILE_N / WARPS_N / 8;
  static constexpr int VECTOR = 2;
  float sum[MATRICES_M][MATRICES_N][4] = {};
  int left_place[Left::KINDS], right_place[Right::KINDS];  // in bytes; the same for all steps

  static __device__ int first_m() { return threadIdx.x / 32 / WARPS_N * MATRICES_M * 16; }
  static __device__ int first_n() { return threadIdx.x / 32 % WARPS_N * MATRICES_N * 8; }

  __device__ Product() {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < Left::KINDS; i++) left_place[i] = sizeof(REAL) * Left::place(first_m() + 8 * i + g, 4 * t);
#pragma unroll
    for (int j = 0; j < Right::KINDS; j++) right_place[j] = sizeof(REAL) * Right::place(first_n() + 8 * j + g, 4 * t);
  }

  // The lane's terms of its row i, where rows are 8 apart.
  template <class Layout>
  static __device__ __forceinline__ Terms terms(const float* operand, const int (&places)[Layout::KINDS], int i) {
    const char* const place = reinterpret_cast<const char*>(operand) + places[i % Layout::KINDS];
    float values[4];
    read_terms<Layout>(values, reinterpret_cast<const float*>(place) + i / Layout::KINDS * Layout::NEXT);
    Terms found = {};
    found.take<Layout>(values);
    return found;
  }

  __device__ void add(const float* a, const float* b) {
    Terms right[MATRICES_N];
#pragma unroll
    for (int j = 0; j < MATRICES_N; j++) right[j] = terms<Right>(b, right_place, j);
#pragma unroll
    for (int i = 0; i < MATRICES_M; i++) {
      const Terms left[2] = {terms<Left>(a, left_place, 2 * i), terms<Left>(a, left_place, 2 * i + 1)};
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
        for (int half = 0; half < 2; half++)
          f(first_m() + 16 * i + g + 8 * half, first_n() + 8 * j + 2 * t, sum[i][j] + 2 * half);
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
// A window: its upper left corner, which may be outside of the image, and where that would be in memory.
struct __align__(16) Window {
  const REAL* corner;
  int row, column;
};
// A tap of a window: where it is, and how many elements after the window's corner.
struct __align__(16) Tap {
  int row, column, element, unused;
};

// One of these from and to shared memory, in one instruction.
template <class Entry>
__device__ __forceinline__ Entry read_entry(const Entry* shared) {
  const float4 words = *reinterpret_cast<const float4*>(shared);
  Entry entry;
  memcpy(&entry, &words, sizeof entry);
  return entry;
}
template <class Entry>
__device__ __forceinline__ void write_entry(Entry* shared, const Entry& entry) {
  float4 words;
  memcpy(&words, &entry, sizeof entry);
  *reinterpret_cast<float4*>(shared) = words;
}

__device__ Window window_of(const Images& g, int image, int i, int j) {
  const int row = i * g.sh - g.top, column = j * g.sw - g.left;
  return {g.x + ((int64_t(image) * g.h + row) * g.w + column) * g.c, row, column};
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
// neighbouring taps, which are neighbours in memory. Where the channels are a multiple of DEPTH, all positions of a window
// come before the next DEPTH channels. What is copied as zeros is not read: its address may be anywhere.
struct TapByTap {
  using Layout = TermsTogether;
  static constexpr int ACROSS = DEPTH / LEFT_VECTOR, ROWS_AT_ONCE = THREADS / ACROSS;
  const Images& images;
  const Window* windows;  // the first of the thread's own
  int kh, place;
  bool by_channels;
  Counter tap;
  __device__ TapByTap(const Images& g, const Window* windows, int num_taps)
      : images(g), windows(windows + threadIdx.x / ACROSS), kh(num_taps / g.c / g.kw),
        place(Layout::place(threadIdx.x / ACROSS, threadIdx.x % ACROSS * LEFT_VECTOR)), by_channels(g.c % DEPTH == 0),
        tap(threadIdx.x % ACROSS * LEFT_VECTOR, DEPTH, g.kw, g.c) {
    static_assert(ROWS_AT_ONCE % 8 == 0, "rows that a thread copies are permuted alike");
  }
  __device__ void advance() {
    if (!by_channels) {
      tap.advance();
      return;
    }
    if (++tap.middle < images.kw) return;
    tap.middle = 0;
    if (++tap.outer < kh) return;
    tap.outer = 0, tap.inner += DEPTH;
  }
  __device__ void fetch(REAL* a) const {
    const int row = tap.outer < kh ? tap.outer : FAR;
    const int offset = (tap.outer * images.w + tap.middle) * images.c + tap.inner;
#pragma unroll
    for (int s = 0; s < TILE_M / ROWS_AT_ONCE; s++) {
      const Window window = read_entry(windows + s * ROWS_AT_ONCE);
      const bool inside = images.has(window.row + row, window.column + tap.middle);
      copy<LEFT_VECTOR>(a + place + s * ROWS_AT_ONCE * DEPTH, window.corner + offset, inside);
    }
  }
};

// The right operand of `correlate`: weights as `lay_out` leaves them, a buffer's content for each step.
struct LaidOut {
#if PRECISION == FP32
  struct Layout : RowsTogether<TILE_N> {
#else
  struct Layout : TermsTogether {
#endif
    static constexpr bool ROUNDED = true;
  };
  static constexpr int VECTOR = 16 / sizeof(REAL), SIZE = DEPTH * TILE_N;
  const REAL* weights;
  __device__ void advance() { weights += SIZE; }
  __device__ void fetch(REAL* b) const {
#pragma unroll
    for (int first = 0; first < SIZE; first += THREADS * VECTOR) {
      const int i = first + threadIdx.x * VECTOR;
      if (first + THREADS * VECTOR <= SIZE || i < SIZE) copy<VECTOR>(b + i, weights + i, true);
    }
  }
};

// The left operand of `weight_gradient`: rows are taps (a table of each LEFT_VECTOR-th), terms are windows. Of the rows that a thread copies, each
// KINDS-th is permuted alike.
struct WindowByWindow {
  using Layout = RowsTogether<TILE_M>;
  static constexpr int ACROSS = THREADS / DEPTH, ROWS_AT_ONCE = ACROSS * LEFT_VECTOR;
  const Images& images;
  const Tap* taps;
  static constexpr int KINDS = ROWS_AT_ONCE < 8 * Layout::KINDS ? 8 * Layout::KINDS / ROWS_AT_ONCE : 1;
  int end, line, places[KINDS];  // line: the thread's own of this step
  Counter window;
  __device__ WindowByWindow(const Images& g, const Tap* taps, int first, int end)
      : images(g), taps(taps + threadIdx.x % ACROSS), end(end), line(first + own_term()),
        window(line, DEPTH, g.rows, g.cols) {
#pragma unroll
    for (int s = 0; s < KINDS; s++)
      places[s] = Layout::place(threadIdx.x % ACROSS * LEFT_VECTOR + s * ROWS_AT_ONCE, own_term());
  }
  // Those of a warp lie 4 apart, and so their rows in different banks.
  static __device__ int own_term() { return threadIdx.x / ACROSS % 4 * 4 + threadIdx.x / ACROSS / 4; }
  __device__ void advance() {
    line += DEPTH;
    window.advance();
  }
  __device__ void fetch(REAL* a) const {
    const Window corner = window_of(images, window.outer, window.middle, window.inner);
    const REAL* const first = computed_once(corner.corner);
    const int row = line < end ? corner.row : FAR;
#pragma unroll
    for (int s = 0; s < TILE_M / ROWS_AT_ONCE; s++) {
      const Tap tap = read_entry(taps + s * ACROSS);
      const bool inside = images.has(row + tap.row, corner.column + tap.column);
      copy<LEFT_VECTOR>(a + places[s % KINDS] + s / KINDS * KINDS * ROWS_AT_ONCE, first + tap.element, inside);
    }
  }
};

// The right operand of `weight_gradient`: lines of a matrix of `num_columns` columns, of which the block needs those from
// n0 on; what is beyond, or after the line `end`, counts as 0.
struct LineByLine {
  using Layout = RowsTogether<TILE_N>;
  static constexpr int ACROSS = TILE_N / RIGHT_VECTOR, LINES_AT_ONCE = THREADS / ACROSS;
  static constexpr int COPIES = LINES_AT_ONCE < DEPTH ? DEPTH / LINES_AT_ONCE : 1;
  const REAL* from;  // the thread's own first number of the step
  int num_columns, left, places[COPIES];  // left: lines of the sum from that number on; none beyond the columns
  __device__ LineByLine(const REAL* matrix, int first, int end, int n0, int num_columns) : num_columns(num_columns) {
    const int n = threadIdx.x % ACROSS * RIGHT_VECTOR, k = threadIdx.x / ACROSS;
    left = n0 + n < num_columns ? end - first - k : 0;
    from = matrix + int64_t(first + k) * num_columns + n0 + n;
#pragma unroll
    for (int s = 0; s < COPIES; s++) places[s] = Layout::place(n, k + s * LINES_AT_ONCE);
  }
  __device__ void advance() { left -= DEPTH, from += int64_t(DEPTH) * num_columns; }
  __device__ void fetch(REAL* b) const {
    if (LINES_AT_ONCE > DEPTH && threadIdx.x / ACROSS >= DEPTH) return;
#pragma unroll
    for (int s = 0; s < COPIES; s++)
      copy<RIGHT_VECTOR>(b + places[s], from + int64_t(s * LINES_AT_ONCE) * num_columns, s * LINES_AT_ONCE < left);
  }
};

// Adds the terms of `num_steps` steps.
template <class Left, class Right, class Product>
__device__ void multiply(Left left, Right right, int num_steps, REAL* buffers, Product& product) {
  const auto fetch = [&](REAL* buffer, bool exists) {
    if (exists) {
      left.fetch(buffer), right.fetch(buffer + DEPTH * TILE_M);
      left.advance(), right.advance();
    }
    end_of_group();
  };
  for (int step = 0; step < STAGES - 1; step++) fetch(buffers + step * STAGE, step < num_steps);
  int own = 0, free = (STAGES - 1) * STAGE;
  for (int step = 0; step < num_steps; step++) {
    wait_for_groups<STAGES - 2>();
    __syncthreads();  // everybody's copies of this step are there, and nobody reads the buffer that is filled next
    fetch(buffers + free, step + STAGES - 1 < num_steps);
    product.add(buffers + own, buffers + own + DEPTH * TILE_M);
    free = own;
    own = own == (STAGES - 1) * STAGE ? 0 : own + STAGE;
  }
}

// The weights of a correlation as the blocks of `correlate` copy them: for each blockIdx.y and step, what a buffer holds;
// 0 where there is no such tap or column. In `weight` the first number is number `first`, and each of the four steps says
// how far the next number of an axis is. Rounded here, once, for products in TF32.
extern "C" __global__ void __launch_bounds__(THREADS)
lay_out(const REAL* weight, REAL* laid_out, int num_taps, int num_columns, int c, int kw, int first, int row_step,
        int column_step, int channel_step, int out_step) {
  const int num_steps = (num_taps + DEPTH - 1) / DEPTH, num_tiles = (num_columns + TILE_N - 1) / TILE_N;
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= num_tiles * num_steps * TILE_N * DEPTH) return;
  constexpr bool TERMS = LaidOut::Layout::TERM == 1;  // which of the two is stored to neighbours
  const int k = TERMS ? i % DEPTH : i / TILE_N % DEPTH, n = TERMS ? i / DEPTH % TILE_N : i % TILE_N;
  const int step = i / DEPTH / TILE_N % num_steps;
  const int column = i / DEPTH / TILE_N / num_steps * TILE_N + n;
  // Steps as TapByTap counts them.
  const int window = num_taps / c, term = step * DEPTH + k;
  const int position = c % DEPTH == 0 ? step % window : term / c;
  const int channel = c % DEPTH == 0 ? step / window * DEPTH + k : term % c;
  REAL value = 0;
  if (term < num_taps && column < num_columns)
    value = weight[first + int64_t(position / kw) * row_step + int64_t(position % kw) * column_step +
                   int64_t(channel) * channel_step + int64_t(column) * out_step];
#if PRECISION == TF32
  value = __uint_as_float(to_tf32(value));
#endif
  laid_out[i - i % (DEPTH * TILE_N) + LaidOut::Layout::place(n, k)] = value;
}

// Window (i, j) of an image gives pixel (i row_step + first_row, j column_step + first_column) of its (height, width) result.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
correlate(const REAL* x, const REAL* laid_out, REAL* y, int num_pixels, int num_taps, int num_columns, int h, int w, int c,
          int kw, int sh, int sw, int top, int left, int rows, int cols, int height, int width, int row_step,
          int column_step, int first_row, int first_column, const REAL* bias, const REAL* input, bool has_bias,
          int activation, int input_activation) {
  DYNAMIC_SHARED(REAL, buffers);
  __shared__ Window windows[TILE_M];
  __shared__ int64_t results[TILE_M];  // element of y that the row's results begin at, or -1
  const Images images = {x, h, w, c, kw, sh, sw, top, left, rows, cols};
  const int m0 = blockIdx.x * TILE_M, n0 = blockIdx.y * TILE_N;
  for (int m = threadIdx.x; m < TILE_M; m += THREADS) {
    if (m0 + m >= num_pixels) {
      write_entry(windows + m, Window{x, FAR, FAR}), results[m] = -1;
      continue;
    }
    const int j = (m0 + m) % cols, i = (m0 + m) / cols % rows, image = (m0 + m) / cols / rows;
    const int64_t row = int64_t(image) * height + i * row_step + first_row;
    write_entry(windows + m, window_of(images, image, i, j));
    results[m] = (row * width + j * column_step + first_column) * num_columns;
  }
  __syncthreads();
  Product<TapByTap::Layout, LaidOut::Layout> product;
  const int num_steps = (num_taps + DEPTH - 1) / DEPTH;
  multiply(TapByTap(images, windows, num_taps), LaidOut{laid_out + int64_t(blockIdx.y) * num_steps * LaidOut::SIZE},
           num_steps, buffers, product);
  // `with_epilogue`, each step for all results at once: what it reads is on its way together, and no store is in between.
  // RIGHT_VECTOR numbers or, if fewer are neighbours, these are all columns of the result or none.
  constexpr int COUNT = decltype(product)::VECTOR, TOGETHER = RIGHT_VECTOR < COUNT ? RIGHT_VECTOR : COUNT;
  const int last = num_columns - TOGETHER;
  const auto each = [&](auto f) {
    product.for_each([&](int, int, REAL* values) {
#pragma unroll
      for (int e = 0; e < COUNT; e++) f(values[e]);
    });
  };
  if (has_bias)
    product.for_each([&](int, int n, REAL* values) {
#pragma unroll
      for (int e = 0; e < COUNT; e++) values[e] += bias[min(n0 + n + e, num_columns - 1)];
    });
  if (activation == RELU) each([](REAL& value) { value = rectified(value); });
  if (activation == TANH) each([](REAL& value) { value = tanh_of(value); });
  if (input_activation)
    product.for_each([&](int m, int n, REAL* values) {
#pragma unroll
      for (int e = 0; e < COUNT; e += TOGETHER) {
        const auto factors = load<TOGETHER>(input + max(results[m], int64_t(0)) + min(n0 + n + e, last));
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) values[e + i] *= derivative(factors.number[i], input_activation);
      }
    });
  product.for_each([&](int m, int n, REAL* values) {
#pragma unroll
    for (int e = 0; e < COUNT; e += TOGETHER)
      if (results[m] >= 0 && n0 + n + e < num_columns) store<TOGETHER>(y + results[m] + n0 + n + e, values + e);
  });
}

// Pixels blockIdx.z * part, ... of the sum go to parts[blockIdx.z, tap, column].
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
weight_gradient(const REAL* x, const REAL* dy, REAL* parts, int num_pixels, int num_taps, int num_columns, int part, int h,
                int w, int c, int kw, int sh, int sw, int top, int left, int rows, int cols) {
  DYNAMIC_SHARED(REAL, buffers);
  __shared__ Tap taps[TILE_M / LEFT_VECTOR];
  const Images images = {x, h, w, c, kw, sh, sw, top, left, rows, cols};
  const int m0 = blockIdx.x * TILE_M, n0 = blockIdx.y * TILE_N;
  const int first = blockIdx.z * part, end = min(first + part, num_pixels);
  for (int i = threadIdx.x; i < TILE_M / LEFT_VECTOR; i += THREADS) {
    const int tap = m0 + i * LEFT_VECTOR, u = tap / c / kw, v = tap / c % kw;
    const Tap there = {u, v, (u * w + v) * c + tap % c, 0}, nowhere = {FAR, FAR, 0, 0};
    write_entry(taps + i, tap < num_taps ? there : nowhere);
  }
  __syncthreads();
  Product<WindowByWindow::Layout, LineByLine::Layout> product;
  multiply(WindowByWindow(images, taps, first, end), LineByLine(dy, first, end, n0, num_columns),
           (end - first + DEPTH - 1) / DEPTH, buffers, product);
  constexpr int COUNT = decltype(product)::VECTOR, TOGETHER = RIGHT_VECTOR < COUNT ? RIGHT_VECTOR : COUNT;
  product.for_each([&](int m, int n, REAL* values) {
    if (m0 + m >= num_taps) return;
    REAL* const row = parts + (int64_t(blockIdx.z) * num_taps + m0 + m) * num_columns;
#pragma unroll
    for (int e = 0; e < COUNT; e += TOGETHER)
      if (n0 + n + e < num_columns) store<TOGETHER>(row + n0 + n + e, values + e);
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
