// Softmax and its cross entropy: one warp a sample.
//
// Everything between reading and writing is double, whatever REAL (float or double) the logits are stored in.
//
// Rows are short: loops over classes are not unrolled, which would only spill registers.
//
// Axes: n samples, k classes. NaN in a row makes all of the row NaN.

constexpr int WARPS = 4;  // of a block, as many samples; launch 32 * WARPS threads

__device__ double sum_of_warp(double value) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  return value;
}

__device__ double larger(double a, double b) { return a != a || a > b ? a : b; }  // NaN is larger than everything

__device__ double largest_of_row(const REAL* row, int k) {
  double largest = row[0];
#pragma unroll 1
  for (int j = threadIdx.x % 32; j < k; j += 32) largest = larger(largest, row[j]);
  for (int lanes = 16; lanes > 0; lanes /= 2)
    largest = larger(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
  return largest;
}

// Sum of exp(row - shift) over all classes but one (or all, if there is no class `but`).
__device__ double sum_of_exponentials(const REAL* row, int k, double shift, int64_t but) {
  double sum = 0.0;
#pragma unroll 1
  for (int j = threadIdx.x % 32; j < k; j += 32)
    if (j != but) sum += exp(row[j] - shift);
  return sum_of_warp(sum);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
log_softmax(const REAL* logits, REAL* out, int n, int k) {
  const int sample = blockIdx.x * WARPS + threadIdx.x / 32;
  if (sample >= n) return;  // the whole warp
  const REAL* row = logits + int64_t(sample) * k;
  const double largest = largest_of_row(row, k);
  const double logarithm = log(sum_of_exponentials(row, k, largest, -1));
#pragma unroll 1
  for (int j = threadIdx.x % 32; j < k; j += 32) out[int64_t(sample) * k + j] = row[j] - largest - logarithm;
}

// log(1 + sum of exp(margin) over the other classes): log1p keeps the digits of a loss close to 0.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
cross_entropy(const REAL* logits, const int64_t* labels, REAL* loss, int n, int k) {
  const int sample = blockIdx.x * WARPS + threadIdx.x / 32;
  if (sample >= n) return;
  const REAL* row = logits + int64_t(sample) * k;
  const int64_t label = labels[sample];
  const double largest = largest_of_row(row, k), margin = largest - row[label];  // at least 0
  const double others = sum_of_exponentials(row, k, largest, label);
  if (threadIdx.x % 32 == 0) loss[sample] = margin > 0.0 ? margin + log(exp(-margin) + others) : log1p(others + margin);
}

// dloss (softmax - one-hot). The true class' entry is minus the sum of the others: 1 - p would lose all digits of it.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
cross_entropy_vjp(const REAL* dloss, const REAL* logits, const int64_t* labels, REAL* dlogits, int n, int k) {
  const int sample = blockIdx.x * WARPS + threadIdx.x / 32;
  if (sample >= n) return;
  const REAL* row = logits + int64_t(sample) * k;
  const int64_t label = labels[sample];
  const double largest = largest_of_row(row, k);
  const double others = sum_of_exponentials(row, k, largest, label);
  const double scale = dloss[sample] / (others + exp(row[label] - largest));
#pragma unroll 1
  for (int j = threadIdx.x % 32; j < k; j += 32)
    dlogits[int64_t(sample) * k + j] = scale * (j == label ? -others : exp(row[j] - largest));
}
