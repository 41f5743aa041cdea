// Sums over all numbers of a channel, for bias gradients and batch normalisation.
//
// An array is seen as (outer, channels, run): `run` neighbours belong to one channel (1 where channels lie innermost).
// Each block adds up CHUNK numbers of one channel, in an order that depends on nothing but their number, and a second
// kernel adds the blocks' sums in their order: the result is the same bits however the blocks are scheduled. Sums are taken
// in double, whatever REAL (float or double) the arrays are stored in.
//
// Axes: blockIdx.x channel, blockIdx.y chunk; `count` numbers a channel.

constexpr int WARPS = 4;      // of a block; launch 32 * WARPS threads
constexpr int CHUNK = 16384;  // numbers of a block; ops/layers.py launches a block for each

// The sum over all threads of the block; thread 0 knows it.
__device__ double over_block(double value, double* partial) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  double total = partial[0];
  for (int warp = 1; warp < WARPS; warp++) total += partial[warp];
  return total;
}

// Sums f(position) over the block's chunk of its channel.
template <class F>
__device__ void sum_chunk(int64_t count, int run, double* sums, F f) {
  __shared__ double partial[WARPS];
  const int64_t first = int64_t(blockIdx.y) * CHUNK;
  const int64_t last = min(first + CHUNK, count);
  double sum = 0.0;
  for (int64_t k = first + threadIdx.x; k < last; k += 32 * WARPS)
    sum += f((k / run * gridDim.x + blockIdx.x) * run + k % run);
  const double total = over_block(sum, partial);
  if (threadIdx.x == 0) sums[int64_t(blockIdx.x) * gridDim.y + blockIdx.y] = total;
}

// Sums of x.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
channel_sums(const REAL* x, double* sums, int64_t count, int run) {
  sum_chunk(count, run, sums, [&](int64_t i) { return double(x[i]); });
}

// Sums of (x - mean)^2.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
channel_squares(const REAL* x, const double* mean, double* sums, int64_t count, int run) {
  const double centre = mean[blockIdx.x];
  sum_chunk(count, run, sums, [&](int64_t i) {
    const double deviation = x[i] - centre;
    return deviation * deviation;
  });
}

// Sums of dy (x - mean) / sqrt(variance + epsilon).
extern "C" __global__ void __launch_bounds__(32 * WARPS)
channel_products(const REAL* dy, const REAL* x, const REAL* mean, const REAL* variance, double* sums, int64_t count,
                 int run, double epsilon) {
  const double centre = mean[blockIdx.x], scale = 1.0 / sqrt(variance[blockIdx.x] + epsilon);
  sum_chunk(count, run, sums, [&](int64_t i) { return dy[i] * ((x[i] - centre) * scale); });
}

// The chunks' sums of each channel, added up and divided; in double and in REAL.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
channel_totals(const double* sums, double* total, REAL* rounded, int num_chunks, double divisor) {
  __shared__ double partial[WARPS];
  double sum = 0.0;
  for (int chunk = threadIdx.x; chunk < num_chunks; chunk += 32 * WARPS)
    sum += sums[int64_t(blockIdx.x) * num_chunks + chunk];
  const double quotient = over_block(sum, partial) / divisor;
  if (threadIdx.x == 0) total[blockIdx.x] = quotient, rounded[blockIdx.x] = quotient;
}
