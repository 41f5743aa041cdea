// Normalisation of groups of numbers of each sample: one block a group.
//
// Launched by ops/normalisation.py; tested in tests/agree/test_normalisation.py. Sums are taken in double, whatever REAL
// (float or double) the samples are stored in, and in an order that depends on the size of a group alone.
//
// A sample is seen as (outer, groups, run): `run` neighbours belong to one group, and `count` numbers in all.
//
// Axes: blockIdx.x = sample * groups + group.

constexpr int WARPS = 4;  // of a block; launch 32 * WARPS threads

// The sum over all threads of the block, known to each of them.
__device__ double over_block(double value, double* partial) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  __syncthreads();  // the previous call's readers are done
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  double total = partial[0];
  for (int warp = 1; warp < WARPS; warp++) total += partial[warp];
  return total;
}

// Where the block's group has its numbers.
struct Group {
  int64_t first;  // of the sample
  int64_t index;  // of the group
  int64_t groups, run;
  __device__ Group(int64_t count, int groups, int run) : groups(groups), run(run) {
    index = int64_t(blockIdx.x) % groups;
    first = int64_t(blockIdx.x) / groups * groups * count;
  }
  __device__ int64_t operator()(int64_t k) const { return first + (k / run * groups + index) * run + k % run; }
};

// z = scale (x - mean), scale = 1 / sqrt(variance + epsilon).
extern "C" __global__ void __launch_bounds__(32 * WARPS)
standardise(const REAL* x, REAL* z, REAL* scale, int64_t count, int groups, int run, double epsilon) {
  __shared__ double partial[WARPS];
  const Group at(count, groups, run);
  double sum = 0.0, squares = 0.0;
  for (int64_t k = threadIdx.x; k < count; k += 32 * WARPS) sum += x[at(k)];
  const double mean = over_block(sum, partial) / count;
  for (int64_t k = threadIdx.x; k < count; k += 32 * WARPS) {
    const double deviation = x[at(k)] - mean;
    squares += deviation * deviation;
  }
  const double factor = 1.0 / sqrt(over_block(squares, partial) / count + epsilon);
  for (int64_t k = threadIdx.x; k < count; k += 32 * WARPS) z[at(k)] = REAL((x[at(k)] - mean) * factor);
  if (threadIdx.x == 0) scale[blockIdx.x] = factor;
}

// dx = scale (dz - mean(dz) - z mean(z dz)).
extern "C" __global__ void __launch_bounds__(32 * WARPS)
standardise_vjp(const REAL* dz, const REAL* z, const REAL* scale, REAL* dx, int64_t count, int groups, int run) {
  __shared__ double partial[WARPS];
  const Group at(count, groups, run);
  double sum = 0.0, products = 0.0;
  for (int64_t k = threadIdx.x; k < count; k += 32 * WARPS) {
    const double slope = dz[at(k)];
    sum += slope;
    products += slope * z[at(k)];
  }
  const double mean = over_block(sum, partial) / count, product = over_block(products, partial) / count;
  const double factor = scale[blockIdx.x];
  for (int64_t k = threadIdx.x; k < count; k += 32 * WARPS)
    dx[at(k)] = REAL(factor * (dz[at(k)] - mean - z[at(k)] * product));
}
