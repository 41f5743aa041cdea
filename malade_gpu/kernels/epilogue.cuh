// What a product's results become before they are stored, instead of in passes of their own over memory: forwards,
// activation(result + bias); for gradients, result * derivative of the activation that `input` came from, expressed by
// `input` itself, which lies in memory as the results do. Macro: REAL.

constexpr int RELU = 1, TANH = 2;  // activations, and 0 for none; ops/epilogue.py knows them too

struct Epilogue {
  const REAL* bias;   // one number a column, if has_bias
  const REAL* input;  // of the results' shape, if input_activation
  bool has_bias;
  int activation, input_activation;
};

// NaN stays NaN.
__device__ __forceinline__ REAL rectified(REAL value) { return value <= REAL(0) ? REAL(0) : value; }

__device__ __forceinline__ REAL tanh_of(REAL value) {
  if constexpr (sizeof(REAL) == 4) return tanhf(value);
  else return tanh(value);
}

__device__ __forceinline__ REAL derivative(REAL y, int activation) {
  return activation == RELU ? REAL(y > REAL(0)) : REAL(1) - y * y;
}

// A result of a column, which is stored at `place`.
__device__ __forceinline__ REAL with_epilogue(REAL value, const Epilogue& epilogue, int column, int64_t place) {
  if (epilogue.has_bias) value += epilogue.bias[column];
  if (epilogue.activation == RELU) value = rectified(value);
  if (epilogue.activation == TANH) value = tanh_of(value);
  if (epilogue.input_activation) value *= derivative(epilogue.input[place], epilogue.input_activation);
  return value;
}
