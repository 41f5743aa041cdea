// Steps and distances that need a norm over all numbers of a sample: one block a sample.
//
// Sums are taken in double, whatever REAL (float or double) the samples are stored in, and in an order that depends on
// the size of a sample alone: a sample's result does not depend on its batch.
//
// Axes: n samples = blocks, `size` numbers each.

constexpr int WARPS = 4;  // of a block; launch 32 * WARPS threads
constexpr double LARGEST_DOUBLE = 1.7976931348623157e308;

struct Sum {
  static __device__ double combine(double a, double b) { return a + b; }
};
struct Largest {  // NaN is larger than everything
  static __device__ double combine(double a, double b) { return a != a || a > b ? a : b; }
};

// The combined values of all threads of the block, known to each of them.
template <class Operation>
__device__ double over_block(double value, double* partial) {
  for (int lanes = 16; lanes > 0; lanes /= 2)
    value = Operation::combine(value, __shfl_xor_sync(0xffffffffu, value, lanes));
  __syncthreads();  // the previous call's readers are done
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  double total = partial[0];
  for (int warp = 1; warp < WARPS; warp++) total = Operation::combine(total, partial[warp]);
  return total;
}

// The combined values f(k) of all numbers k of the sample.
template <class Operation, class F>
__device__ double over_sample(int size, double* partial, F f) {
  double value = 0.0;
  for (int k = threadIdx.x; k < size; k += 32 * WARPS) value = Operation::combine(value, f(k));
  return over_block<Operation>(value, partial);
}

__device__ REAL clipped(REAL value) { return value < REAL(0) ? REAL(0) : value > REAL(1) ? REAL(1) : value; }

// A direction of length 1, or 0 where the vector is 0 or not finite. Divided by the largest number first, so that squares
// neither vanish nor overflow.
struct Direction {
  double largest, norm;
  __device__ double operator()(REAL value) const { return norm > 0.0 ? value / largest / norm : 0.0; }
};

__device__ Direction direction_of(const REAL* vector, int size, double* partial) {
  Direction direction = {over_sample<Largest>(size, partial, [&](int k) { return fabs(double(vector[k])); }), 0.0};
  const double largest = direction.largest;
  if (!(largest > 0.0 && largest <= LARGEST_DOUBLE)) return direction;  // the same in all threads
  const double squares = over_sample<Sum>(size, partial, [&](int k) {
    const double scaled = vector[k] / largest;
    return scaled * scaled;
  });
  direction.norm = sqrt(squares);
  return direction;
}

// Nearest point of the ball around the centre, then clipped; what is inside is only clipped. `limit` is a little less than
// the radius, `scale_to` less again by what rounding to REAL can add (malade_ref.ops.attack_steps says how much).
__device__ void project(const REAL* x, const REAL* centre, REAL* out, int size, double limit, double scale_to,
                        double* partial) {
  const double norm = sqrt(over_sample<Sum>(size, partial, [&](int k) {
    const double shift = double(x[k]) - centre[k];
    return shift * shift;
  }));
  const bool outside = norm > limit;
  const double scale = scale_to / (outside ? norm : 1.0);
  for (int k = threadIdx.x; k < size; k += 32 * WARPS)
    out[k] = clipped(outside ? REAL(centre[k] + scale * (double(x[k]) - centre[k])) : x[k]);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
normalised_step(const REAL* x, const REAL* gradient, REAL* out, int size, double step_size) {
  __shared__ double partial[WARPS];
  const size_t first = size_t(blockIdx.x) * size;
  const Direction direction = direction_of(gradient + first, size, partial);
  for (int k = threadIdx.x; k < size; k += 32 * WARPS)
    out[first + k] = x[first + k] + REAL(step_size * direction(gradient[first + k]));
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
project_l2(const REAL* x, const REAL* centre, REAL* out, int size, double limit, double scale_to) {
  __shared__ double partial[WARPS];
  const size_t first = size_t(blockIdx.x) * size;
  project(x + first, centre + first, out + first, size, limit, scale_to, partial);
}

// Uniform in the ball of radius eps: direction from normal numbers, radius eps u^(1 / size); then projected.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
random_start_l2(const REAL* centre, const REAL* normal, const REAL* uniform, REAL* out, int size, double eps,
                double limit, double scale_to) {
  __shared__ double partial[WARPS];
  const size_t first = size_t(blockIdx.x) * size;
  const Direction direction = direction_of(normal + first, size, partial);
  const double radius = eps * pow(double(uniform[blockIdx.x]), 1.0 / size);
  for (int k = threadIdx.x; k < size; k += 32 * WARPS)
    out[first + k] = REAL(centre[first + k] + radius * direction(normal[first + k]));
  // Each thread projects what it has written itself: no barrier needed.
  project(out + first, centre + first, out + first, size, limit, scale_to, partial);
}

// Auto-PGD: towards the gradient, back into the ball; on along the last move, and back again.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
apgd_step_l2(const REAL* x, const REAL* previous, const REAL* gradient, const REAL* centre, const REAL* step_size,
             REAL* out, int size, double momentum, double limit, double scale_to) {
  __shared__ double partial[WARPS];
  const size_t first = size_t(blockIdx.x) * size;
  x += first, previous += first, gradient += first, centre += first, out += first;
  const Direction direction = direction_of(gradient, size, partial);
  const double length = step_size[blockIdx.x];
  for (int k = threadIdx.x; k < size; k += 32 * WARPS) out[k] = x[k] + REAL(length * direction(gradient[k]));
  // Here and below each thread reads only what it has written itself.
  project(out, centre, out, size, limit, scale_to, partial);
  for (int k = threadIdx.x; k < size; k += 32 * WARPS)
    out[k] = REAL(x[k] + momentum * (double(out[k]) - x[k]) + (1.0 - momentum) * (double(x[k]) - previous[k]));
  project(out, centre, out, size, limit, scale_to, partial);
}

// momentum <- decay momentum + gradient / (sum of its absolute values); a gradient that is 0 or not finite adds nothing.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
momentum_step(const REAL* momentum, const REAL* gradient, REAL* out, int size, double decay) {
  __shared__ double partial[WARPS];
  const size_t first = size_t(blockIdx.x) * size;
  const double norm = over_sample<Sum>(size, partial, [&](int k) { return fabs(double(gradient[first + k])); });
  const bool usable = norm > 0.0 && norm <= LARGEST_DOUBLE;
  for (int k = threadIdx.x; k < size; k += 32 * WARPS)
    out[first + k] = REAL(decay * momentum[first + k] + (usable ? gradient[first + k] / norm : 0.0));
}

// Smallest move onto the plane value + normal.(x' - at) = 0 within [0, 1]. With c = value + normal.(x - at) all numbers
// move against c normal, number k by min(t speed_k, room_k), its speed being 1, or |normal_k| if `euclidean`. The sum of
// |normal_k| times the moves, a concave and piecewise linear function of t, is to be |c|: Newton's method from t = 0
// stays below the solution and ends on its piece after at most `size` steps, mostly after a few.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
plane_step(const REAL* x, const REAL* at, const REAL* normal, const double* value, REAL* out, int size, int euclidean) {
  __shared__ double partial[WARPS];
  const size_t first = size_t(blockIdx.x) * size;
  x += first, at += first, normal += first, out += first;
  const double largest = over_sample<Largest>(size, partial, [&](int k) { return fabs(double(normal[k])); });
  const double v = value[blockIdx.x];
  const bool usable = largest > 0.0 && largest <= LARGEST_DOUBLE && fabs(v) <= LARGEST_DOUBLE;
  if (!usable) {  // the same in all threads
    for (int k = threadIdx.x; k < size; k += 32 * WARPS) out[k] = REAL(0);
    return;
  }
  const double c = v / largest + over_sample<Sum>(size, partial, [&](int k) {
                     return normal[k] / largest * (double(x[k]) - at[k]);
                   });
  const auto up = [&](int k) { return c > 0.0 ? normal[k] < REAL(0) : normal[k] > REAL(0); };
  const auto room = [&](int k) { return up(k) ? 1.0 - x[k] : double(x[k]); };
  const auto weight = [&](int k) { return fabs(normal[k] / largest); };
  double t = 0.0;
  for (int step = 0; step <= size; step++) {
    const double sum = over_sample<Sum>(size, partial, [&](int k) {
      return weight(k) * fmin(t * (euclidean ? weight(k) : 1.0), room(k));
    });
    const double slope = over_sample<Sum>(size, partial, [&](int k) {
      const double speed = euclidean ? weight(k) : 1.0;
      return t * speed < room(k) ? weight(k) * speed : 0.0;
    });
    const double next = slope > 0.0 ? t + (fabs(c) - sum) / slope : t;
    if (!(next > t)) break;  // the same in all threads
    t = next;
  }
  for (int k = threadIdx.x; k < size; k += 32 * WARPS) {
    const double amount = fmin(t * (euclidean ? weight(k) : 1.0), room(k));
    out[k] = normal[k] == REAL(0) || c == 0.0 ? REAL(0) : REAL(up(k) ? amount : -amount);
  }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
distance_l1(const REAL* x, const REAL* centre, double* out, int size) {
  __shared__ double partial[WARPS];
  const size_t first = size_t(blockIdx.x) * size;
  const double sum = over_sample<Sum>(size, partial, [&](int k) { return fabs(double(x[first + k]) - centre[first + k]); });
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
distance_l2(const REAL* x, const REAL* centre, double* out, int size) {
  __shared__ double partial[WARPS];
  const size_t first = size_t(blockIdx.x) * size;
  const double squares = over_sample<Sum>(size, partial, [&](int k) {
    const double shift = double(x[first + k]) - centre[first + k];
    return shift * shift;
  });
  if (threadIdx.x == 0) out[blockIdx.x] = sqrt(squares);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
distance_linf(const REAL* x, const REAL* centre, double* out, int size) {
  __shared__ double partial[WARPS];
  const size_t first = size_t(blockIdx.x) * size;
  const double largest = over_sample<Largest>(
      size, partial, [&](int k) { return fabs(double(x[first + k]) - centre[first + k]); });
  if (threadIdx.x == 0) out[blockIdx.x] = largest;
}

// Sum of the squared differences of two arrays, in REAL.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
squared_error(const REAL* output, const REAL* target, REAL* out, int size) {
  __shared__ double partial[WARPS];
  const size_t first = size_t(blockIdx.x) * size;
  const double squares = over_sample<Sum>(size, partial, [&](int k) {
    const double difference = double(output[first + k]) - target[first + k];
    return difference * difference;
  });
  if (threadIdx.x == 0) out[blockIdx.x] = squares;
}
