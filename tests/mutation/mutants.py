"""The mutants: small errors in the kernels of malade_gpu, each with the tests that have to notice it.

To add one is to add a line to `MUTANTS`: what it is, the file in ``malade_gpu/kernels``, a text that occurs there
exactly once, what stands there instead, and arguments for pytest. Narrow tests are fast tests; a mutant that survives
the right ones calls for a new test. ``prelude.cuh`` has none: only a GPU runs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
KERNELS = Path("malade_gpu", "kernels")


class Mutant(NamedTuple):
    """One small error."""

    name: str
    file: str
    old: str
    new: str
    tests: str

    def fits(self) -> bool:
        """Whether the text to be changed occurs exactly once."""
        return (ROOT / KERNELS / self.file).read_text().count(self.old) == 1

    def applied_to(self, text: str) -> str:
        """The file's text with the error."""
        return text.replace(self.old, self.new)


# Which tests: the same bits in every order of the threads, and agreement with the reference.
ORDERS = "tests/emulator/test_kernels.py -k 'schedules and {}'"
STEPS = "tests/agree/test_attack_steps.py"
LAYERS = "tests/agree/test_layers.py"
UPSAMPLING = "tests/agree/test_upsampling.py -k 'test_upsample'"
GROUPED = "tests/agree/test_conv_grouped.py -k 'test_grouped'"
POOLING = "tests/agree/test_pooling.py -k '{}'"
LARGEST, MEANS, ADAPTIVE = (POOLING.format(name) for name in ("max_pool2d", "avg_pool2d and not adaptive", "adaptive"))
ACTIVATIONS = "tests/agree/test_activations.py"
NORMALISATION = "tests/agree/test_normalisation.py"
LOSSES = "tests/agree/test_losses.py"
DIVERGENCE = "tests/agree/test_losses.py -k divergence"
AUGMENTATION = "tests/agree/test_augmentation.py"
LOSSES_OF_ATTACKS = "tests/agree/test_losses.py -k attacks"
MINIMUM_NORM = "tests/agree/test_minimum_norm.py -k 'changes or ead or between'"
PLANES = "tests/agree/test_minimum_norm.py -k 'plane_steps'"
PAST = "tests/agree/test_attack_steps.py -k with_a_past"
MEMORY = "tests/agree/test_memory.py"
LANGEVIN = "tests/agree/test_langevin.py"
OPTIM = "tests/agree/test_optim.py"
RANDOM = "tests/agree/test_random.py"
CHAIN = "'tests/agree/test_chain.py::test_any_number_of_images[3]'"
CHAIN_ORDERS = ORDERS.format("chain and not half")
CHAIN_HALF = "'tests/agree/test_chain_half.py::test_any_number_of_images[35-2]'"
# Of both kernels of chain.cuh: what follows tells one from the other.
SAMPLE = """    const uint32_t sample = present ? sample_index[image] : 0u;
    if (keyed && present) settings.key_0 = keys[2 * image], settings.key_1 = keys[2 * image + 1];
"""
CHAIN_KEYS = "tests/agree/test_chain.py -k own_noise"
CHAIN_HALF_KEYS = "tests/agree/test_chain_half.py -k own_noise"
CHAIN_KEPT = "'tests/agree/test_chain.py::test_kept_positions_make_no_difference[2]'"
CHAIN_HALF_KEPT = "tests/agree/test_chain_half.py::test_gradient"
CHAIN_HALF_ORDERS = ORDERS.format("chain_half")
CHAIN_MANY_STEPS = "tests/agree/test_chain.py -k few_positions"
PHILOX = "tests/emulator/test_philox.py"
MIXTURE = "tests/agree/test_mixture.py -k 'planted and float64'"
MIXTURE_CHAIN = "'tests/agree/test_mixture.py::test_many_steps[mala-3]'"
METROPOLIS = "tests/agree/test_mixture.py -k 'metropolis or not_a_number'"
PROPOSALS = "tests/agree/test_proposals.py -k 'not whole'"
CONV_SIZES = "tests/agree/test_conv.py::test_sizes_and_precisions -k fp32"
CONV_TENSOR_CORES = "tests/agree/test_conv.py::test_sizes_and_precisions -k tf32x3"
CONV_BFLOAT16 = "tests/agree/test_conv.py::test_sizes_and_precisions -k bf16"
CONV_SUMS = "tests/agree/test_conv.py::test_long_sums_of_one_sign"
EPILOGUE = "tests/agree/test_conv.py::test_bias_and_activation"
CONV_FINISH = "'tests/agree/test_conv.py::test_wide_finish'"
NARROW = "tests/agree/test_conv.py -k 'narrow and not which'"
NARROW_ORDERS = ORDERS.format("narrow")
CONV_ORDERS = "tests/emulator/test_kernels.py -k 'schedules and (correlate or weight)'"

MUTANTS = [
    # rows.cuh
    Mutant(
        "rows: no barrier before the next sum",
        "rows.cuh",
        "  __syncthreads();  // the previous call's readers are done\n",
        "",
        ORDERS.format("rows"),
    ),
    Mutant(
        "rows: no barrier after the warps' sums",
        "rows.cuh",
        "  __syncthreads();\n  double total",
        "  double total",
        ORDERS.format("rows"),
    ),
    Mutant("rows: half of the lanes", "rows.cuh", "lanes = 16;", "lanes = 8;", STEPS),
    Mutant("rows: a warp left out", "rows.cuh", "warp < WARPS;", "warp < WARPS - 1;", STEPS),
    Mutant(
        "rows: numbers counted twice", "rows.cuh", "k < size; k += 32 * WARPS) value", "k < size; k += 32) value", STEPS
    ),
    Mutant("rows: NaN is not the largest", "rows.cuh", "a != a || a > b", "a > b", STEPS),
    Mutant("rows: clip lost", "rows.cuh", "out[k] = clipped(outside ?", "out[k] = (outside ?", STEPS),
    Mutant(
        "rows: wrong end of the pixel range",
        "rows.cuh",
        "value > REAL(1) ? REAL(1)",
        "value > REAL(1) ? REAL(0)",
        STEPS,
    ),
    Mutant("rows: squares of large numbers", "rows.cuh", "value / largest / norm", "value / norm", STEPS),
    Mutant("rows: always outside of the ball", "rows.cuh", "outside = norm > limit", "outside = norm >= 0.0", STEPS),
    Mutant("rows: projected to the limit", "rows.cuh", "scale = scale_to /", "scale = limit * (1 + 1e-6) /", STEPS),
    Mutant(
        "rows: radius not uniform in the ball",
        "rows.cuh",
        "eps * pow(double(uniform[blockIdx.x]), 1.0 / size)",
        "eps * uniform[blockIdx.x]",
        STEPS,
    ),
    Mutant("rows: step downhill", "rows.cuh", "x[first + k] + REAL(step_size", "x[first + k] - REAL(step_size", STEPS),
    Mutant(
        "rows: distance not rooted", "rows.cuh", "out[blockIdx.x] = sqrt(squares)", "out[blockIdx.x] = squares", STEPS
    ),
    Mutant(
        "rows: not projected before the momentum",
        "rows.cuh",
        "  project(out, centre, out, size, limit, scale_to, partial);\n  for",
        "  for",
        PAST,
    ),
    Mutant("rows: last move's share", "rows.cuh", "(1.0 - momentum) * (double(x[k])", "momentum * (double(x[k])", PAST),
    Mutant("rows: momentum does not decay", "rows.cuh", "decay * momentum[first + k] +", "momentum[first + k] +", PAST),
    Mutant(
        "rows: infinite gradient",
        "rows.cuh",
        "usable = norm > 0.0 && norm <= LARGEST_DOUBLE;",
        "usable = norm > 0.0;",
        PAST,
    ),
    Mutant(
        "rows: plane on the other side",
        "rows.cuh",
        "c = v / largest + over_sample",
        "c = v / largest - over_sample",
        PLANES,
    ),
    Mutant(
        "rows: room on the other side",
        "rows.cuh",
        "up(k) ? 1.0 - x[k] : double(x[k])",
        "up(k) ? double(x[k]) : 1.0 - x[k]",
        PLANES,
    ),
    Mutant("rows: one step of Newton's method", "rows.cuh", "step <= size; step++", "step < 1; step++", PLANES),
    Mutant(
        "rows: slope of what has stopped",
        "rows.cuh",
        "return t * speed < room(k) ?",
        "return t * speed < 1e30 + room(k) ?",
        PLANES,
    ),
    Mutant(
        "rows: away from the plane",
        "rows.cuh",
        "REAL(up(k) ? amount : -amount)",
        "REAL(up(k) ? -amount : amount)",
        PLANES,
    ),
    Mutant(
        "rows: distance without signs",
        "rows.cuh",
        "const double sum = over_sample<Sum>(size, partial, [&](int k) { return fabs(",
        "const double sum = over_sample<Sum>(size, partial, [&](int k) { return (",
        "tests/agree/test_attack_steps.py -k distances",
    ),
    Mutant(
        "rows: difference without its target",
        "rows.cuh",
        "double(output[first + k]) - target[first + k]",
        "double(output[first + k])",
        LOSSES,
    ),
    # channels.cuh
    Mutant(
        "channels: a chunk without end", "channels.cuh", "min(first + CHUNK, count)", "count", f"{LAYERS} -k chunks"
    ),
    Mutant(
        "channels: no barrier after the warps' sums",
        "channels.cuh",
        "  __syncthreads();\n  double total",
        "  double total",
        ORDERS.format("channels"),
    ),
    Mutant("channels: half of the lanes", "channels.cuh", "lanes = 16;", "lanes = 8;", LAYERS),
    Mutant(
        "channels: run and channel swapped",
        "channels.cuh",
        "(k / run * gridDim.x + blockIdx.x) * run + k % run",
        "(k % run * gridDim.x + blockIdx.x) * run + k / run",
        LAYERS,
    ),
    Mutant(
        "channels: centre not subtracted",
        "channels.cuh",
        "deviation = x[i] - centre",
        "deviation = x[i] - 0.5 * centre",
        LAYERS,
    ),
    Mutant(
        "channels: standard deviation not rooted",
        "channels.cuh",
        "1.0 / sqrt(variance[blockIdx.x] + epsilon)",
        "1.0 / (variance[blockIdx.x] + epsilon)",
        LAYERS,
    ),
    Mutant("channels: epsilon lost", "channels.cuh", "variance[blockIdx.x] + epsilon", "variance[blockIdx.x]", LAYERS),
    Mutant("channels: first chunk only", "channels.cuh", "chunk < num_chunks;", "chunk < 1;", f"{LAYERS} -k chunks"),
    Mutant(
        "channels: sums of chunks in one place",
        "channels.cuh",
        "gridDim.y + blockIdx.y] = total",
        "gridDim.y] = total",
        f"{LAYERS} -k chunks",
    ),
    # groups.cuh
    Mutant("groups: half of the lanes", "groups.cuh", "lanes = 16;", "lanes = 8;", NORMALISATION),
    Mutant(
        "groups: no barrier after the warps' sums",
        "groups.cuh",
        "partial[threadIdx.x / 32] = value;\n  __syncthreads();",
        "partial[threadIdx.x / 32] = value;",
        ORDERS.format("groups"),
    ),
    Mutant(
        "groups: no barrier before the next sums",
        "groups.cuh",
        "value, lanes);\n  __syncthreads();  // the previous call's readers are done\n",
        "value, lanes);\n",
        ORDERS.format("groups"),
    ),
    Mutant(
        "groups: groups of the first sample",
        "groups.cuh",
        "int64_t(blockIdx.x) / groups * groups * count",
        "0",
        NORMALISATION,
    ),
    Mutant(
        "groups: run and group swapped",
        "groups.cuh",
        "(k / run * groups + index) * run + k % run",
        "(k % run * groups + index) * run + k / run",
        NORMALISATION,
    ),
    Mutant(
        "groups: mean not subtracted",
        "groups.cuh",
        "const double deviation = x[at(k)] - mean;",
        "const double deviation = x[at(k)];",
        NORMALISATION,
    ),
    Mutant(
        "groups: epsilon lost",
        "groups.cuh",
        "over_block(squares, partial) / count + epsilon",
        "over_block(squares, partial) / count",
        NORMALISATION,
    ),
    Mutant("groups: variance not rooted", "groups.cuh", "1.0 / sqrt(over_block", "1.0 / (over_block", NORMALISATION),
    Mutant(
        "groups: gradient without the mean's share",
        "groups.cuh",
        "factor * (dz[at(k)] - mean - z",
        "factor * (dz[at(k)] - 0.5 * mean - z",
        NORMALISATION,
    ),
    Mutant(
        "groups: gradient without the variance's share",
        "groups.cuh",
        " - z[at(k)] * product",
        " - 0.5 * z[at(k)] * product",
        NORMALISATION,
    ),
    Mutant(
        "groups: gradient not scaled", "groups.cuh", "REAL(factor * (dz", "REAL(factor * factor * (dz", NORMALISATION
    ),
    # softmax.cuh
    Mutant("softmax: the true class counted", "softmax.cuh", "if (j != but) ", "", LOSSES),
    Mutant(
        "softmax: half of the lanes",
        "softmax.cuh",
        "lanes = 16; lanes > 0; lanes /= 2) value",
        "lanes = 8; lanes > 0; lanes /= 2) value",
        LOSSES,
    ),
    Mutant(
        "softmax: the largest of half of the lanes",
        "softmax.cuh",
        "lanes = 16; lanes > 0; lanes /= 2)\n    largest",
        "lanes = 8; lanes > 0; lanes /= 2)\n    largest",
        LOSSES,
    ),
    Mutant("softmax: not shifted", "softmax.cuh", "row[j] - largest - logarithm", "row[j] - logarithm", LOSSES),
    Mutant(
        "softmax: classes beyond a warp left out",
        "softmax.cuh",
        "j < k; j += 32)\n    if",
        "j < k && j < 32; j += 32)\n    if",
        LOSSES,
    ),
    Mutant(
        "softmax: digits of small losses lost",
        "softmax.cuh",
        "log1p(others + margin)",
        "log(1.0 + others + margin)",
        LOSSES,
    ),
    Mutant("softmax: sign of the true class", "softmax.cuh", "j == label ? -others", "j == label ? others", LOSSES),
    Mutant(
        "softmax: a sample too many",
        "softmax.cuh",
        "if (sample >= n) return;  // the whole warp",
        "if (sample > n) return;",
        LOSSES,
    ),
    # conv.cuh
    Mutant("conv: window's row from the left margin", "conv.cuh", "i * g.sh - g.top", "i * g.sh - g.left", CONV_SIZES),
    Mutant(
        "conv: height and width swapped",
        "conv.cuh",
        "int64_t(image) * g.h + row",
        "int64_t(image) * g.w + row",
        CONV_SIZES,
    ),
    Mutant(
        "conv: a row beyond the image",
        "conv.cuh",
        "unsigned(row) < unsigned(h)",
        "unsigned(row) <= unsigned(h)",
        CONV_SIZES,
    ),
    Mutant("conv: left edge not masked", "conv.cuh", "unsigned(column) < unsigned(w)", "column < w", CONV_SIZES),
    Mutant(
        "conv: result in the wrong phase",
        "conv.cuh",
        "i * row_step + first_row;",
        "i * row_step + first_column;",
        CONV_SIZES,
    ),
    Mutant(
        "conv: results one column off",
        "conv.cuh",
        "store<TOGETHER>(y + results[m] + n0 + n + e,",
        "store<TOGETHER>(y + results[m] + n0 + (n + e + TOGETHER) % num_columns,",
        CONV_SIZES,
    ),
    Mutant(
        "conv: no barrier in a step",
        "conv.cuh",
        "    __syncthreads();  // everybody's copies",
        "    // everybody's copies",
        CONV_ORDERS,
    ),
    Mutant(
        "conv: no barrier after the table of windows",
        "conv.cuh",
        "  __syncthreads();\n  Product<TapByTap",
        "  Product<TapByTap",
        CONV_ORDERS,
    ),
    Mutant(
        "conv: no barrier after the table of taps",
        "conv.cuh",
        "  __syncthreads();\n  Product<WindowByWindow",
        "  Product<WindowByWindow",
        CONV_ORDERS,
    ),
    Mutant(
        "conv: copies not waited for",
        "conv.cuh",
        "wait_for_groups<STAGES - 2>();",
        "wait_for_groups<STAGES - 1>();",
        CONV_ORDERS,
    ),
    Mutant(
        "conv: wrong buffer filled",
        "conv.cuh",
        "fetch(buffers + free, step",
        "fetch(buffers + (free + STAGE) % (STAGES * STAGE), step",
        CONV_ORDERS,
    ),
    Mutant(
        "conv: buffer overwritten too early",
        "conv.cuh",
        "free = (STAGES - 1) * STAGE;",
        "free = (STAGES - 2) * STAGE;",
        CONV_SIZES,
    ),
    Mutant(
        "conv: lines beyond the matrix",
        "conv.cuh",
        "n0 + n < num_columns ? end - first - k : 0;",
        "n0 + n < num_columns ? 1 << 29 : 0;",
        CONV_SIZES,
    ),
    Mutant(
        "conv: columns beyond the matrix",
        "conv.cuh",
        "left = n0 + n < num_columns ? end - first - k : 0;",
        "left = end - first - k;",
        CONV_SIZES,
    ),
    Mutant(
        "conv: taps beyond the window",
        "conv.cuh",
        "tap.outer < kh ? tap.outer : FAR;",
        "tap.outer;",
        "tests/agree/test_conv.py -k not_a_number",
    ),
    Mutant("conv: windows beyond the part", "conv.cuh", "line < end ? corner.row : FAR;", "corner.row;", CONV_SIZES),
    Mutant("conv: carry lost", "conv.cuh", "inner -= inner_size, middle++", "inner -= inner_size", CONV_SIZES),
    Mutant("conv: carry too late", "conv.cuh", "if (middle >= middle_size)", "if (middle > middle_size)", CONV_SIZES),
    Mutant(
        "conv: next channels' weights one line off",
        "conv.cuh",
        "step / window * DEPTH + k : term % c",
        "step / window * DEPTH + (k + 1) % DEPTH : term % c",
        CONV_SIZES,
    ),
    Mutant("conv: channels by 16 where they are not", "conv.cuh", "g.c % DEPTH == 0", "g.c > DEPTH", CONV_SIZES),
    Mutant(
        "conv: window one column too wide",
        "conv.cuh",
        "++tap.middle < images.kw",
        "++tap.middle <= images.kw",
        CONV_SIZES,
    ),
    Mutant(
        "conv: a number for four", "conv.cuh", "copy<LEFT_VECTOR>(a + place + s", "copy<1>(a + place + s", CONV_SIZES
    ),
    Mutant("conv: terms of four the same", "conv.cuh", "% 4) * 4 + k % 4;", "% 4) * 4 + k % 2;", CONV_SIZES),
    Mutant(
        "conv: rows of an operand swapped",
        "conv.cuh",
        "{upper[0], lower[0], upper[1], lower[1]}",
        "{upper[0], upper[1], lower[0], lower[1]}",
        CONV_TENSOR_CORES,
    ),
    Mutant(
        "conv: rows of an operand in bfloat16 swapped",
        "conv.cuh",
        "left[1].word[0], left[0].word[1]",
        "left[0].word[1], left[1].word[0]",
        CONV_BFLOAT16,
    ),
    Mutant(
        "conv: columns of a result swapped",
        "conv.cuh",
        "8 * j + 2 * t, sum[i][j]",
        "8 * j + 2 * (3 - t), sum[i][j]",
        CONV_TENSOR_CORES,
    ),
    Mutant(
        "conv: one rest left out",
        "conv.cuh",
        "      multiply_add(part, left[0].rest + r, left[1].rest + r, right.word + r);\n",
        "",
        CONV_TENSOR_CORES,
    ),
    Mutant("conv: weights not rounded", "conv.cuh", "  value = __uint_as_float(to_tf32(value));\n", "", CONV_SUMS),
    Mutant(
        "conv: weights of taps beyond the window", "conv.cuh", "if (term < num_taps && column", "if (column", CONV_SIZES
    ),
    Mutant(
        "conv: weights of columns beyond",
        "conv.cuh",
        "term < num_taps && column < num_columns)",
        "term < num_taps)",
        CONV_SIZES,
    ),
    Mutant(
        "conv: weights of the next position",
        "conv.cuh",
        "step % window : term / c",
        "(step + 1) % window : term / c",
        CONV_SIZES,
    ),
    Mutant("conv: rows of taps swizzled alike", "conv.cuh", "a + places[s % KINDS]", "a + places[0]", CONV_SIZES),
    Mutant(
        "conv: rows of an operand swizzled alike",
        "conv.cuh",
        "+ places[i % Layout::KINDS];",
        "+ places[0];",
        CONV_TENSOR_CORES,
    ),
    Mutant(
        "conv: cut off instead of rounded",
        "conv.cuh",
        "near_tf32<Layout::TERM != 1>(values[r]);",
        "__float_as_uint(values[r]);",
        CONV_SUMS,
    ),
    Mutant(
        "conv: whole sum inside of tensor cores",
        "conv.cuh",
        "float part[4] = {};",
        "float part[4] = {d[0], d[1], d[2], d[3]};\n    d[0] = d[1] = d[2] = d[3] = 0.0f;",
        CONV_SUMS,
    ),
    Mutant(
        "conv: second group of columns lost",
        "conv.cuh",
        "n + group * LANES_N * VECTOR, first + k",
        "n, first + k",
        CONV_SIZES,
    ),
    Mutant(
        "conv: operand swapped",
        "conv.cuh",
        "sum[i][group][j] += row[i][k] * column[j]",
        "sum[i][group][j] += row[i][k] * column[0]",
        CONV_SIZES,
    ),
    Mutant(
        "conv: tap's place by the height",
        "conv.cuh",
        "(u * w + v) * c + tap % c",
        "(u * h + v) * c + tap % c",
        CONV_SIZES,
    ),
    Mutant(
        "conv: parts overlap",
        "conv.cuh",
        "const int first = blockIdx.z * part,",
        "const int first = blockIdx.z * (part - 1),",
        CONV_SIZES,
    ),
    Mutant(
        "conv: parts in one place",
        "conv.cuh",
        "int64_t(blockIdx.z) * num_taps + m0 + m",
        "int64_t(0) * num_taps + m0 + m",
        CONV_SIZES,
    ),
    Mutant("conv: first part left out", "conv.cuh", "for (int part = 0;", "for (int part = 1;", CONV_SIZES),
    Mutant(
        "conv: position and channel swapped",
        "conv.cuh",
        "position * c + channel",
        "channel * window + position",
        CONV_SIZES,
    ),
    Mutant(
        "conv: older GPUs copy what is outside",
        "conv.cuh",
        "valid ? load<COUNT>(global) : Numbers<COUNT>{};",
        "load<COUNT>(global);",
        "tests/emulator/test_kernels.py -k without_asynchronous",
    ),
    # epilogue.cuh, and where conv.cuh does it
    Mutant(
        "epilogue: a rectifier without its kink",
        "epilogue.cuh",
        "value <= REAL(0) ? REAL(0) : value",
        "value <= REAL(-1) ? REAL(0) : value",
        EPILOGUE,
    ),
    Mutant(
        "epilogue: slope of tanh with the wrong sign", "epilogue.cuh", "REAL(1) - y * y", "REAL(1) + y * y", EPILOGUE
    ),
    Mutant(
        "epilogue: slope of the rectifier upside down",
        "epilogue.cuh",
        "REAL(y > REAL(0))",
        "REAL(y < REAL(0))",
        EPILOGUE,
    ),
    Mutant(
        "epilogue: activations mistaken for each other",
        "epilogue.cuh",
        "RELU = 1, TANH = 2",
        "RELU = 2, TANH = 1",
        EPILOGUE,
    ),
    Mutant(
        "epilogue: bias left out", "epilogue.cuh", "if (epilogue.has_bias) value += epilogue.bias[column];", "", NARROW
    ),
    Mutant("epilogue: bias of the first channel", "epilogue.cuh", "epilogue.bias[column]", "epilogue.bias[0]", NARROW),
    Mutant(
        "epilogue: tanh left out",
        "epilogue.cuh",
        "if (epilogue.activation == TANH) value = tanh_of(value);",
        "",
        NARROW,
    ),
    Mutant(
        "epilogue: derivative at the first number", "epilogue.cuh", "epilogue.input[place]", "epilogue.input[0]", NARROW
    ),
    Mutant(
        "conv: bias one column off",
        "conv.cuh",
        "bias[min(n0 + n + e, num_columns - 1)]",
        "bias[min(n0 + n + e + 1, num_columns - 1)]",
        EPILOGUE,
    ),
    Mutant(
        "conv: bias of the first columns",
        "conv.cuh",
        "bias[min(n0 + n + e, num_columns - 1)]",
        "bias[min(n + e, num_columns - 1)]",
        CONV_FINISH,
    ),
    Mutant(
        "conv: activation before the bias",
        "conv.cuh",
        "  if (has_bias)\n    product",
        "  if (has_bias && !activation)\n    product",
        EPILOGUE,
    ),
    Mutant(
        "conv: derivative one column off",
        "conv.cuh",
        "min(n0 + n + e, last));",
        "min(n0 + n + e + TOGETHER, last));",
        EPILOGUE,
    ),
    Mutant(
        "conv: derivative of the first row",
        "conv.cuh",
        "load<TOGETHER>(input + max(results[m],",
        "load<TOGETHER>(input + max(results[0],",
        EPILOGUE,
    ),
    # narrow.cuh
    Mutant(
        "narrow: lanes added up by half",
        "narrow.cuh",
        "return one + __shfl_xor_sync(0xffffffffu, one, 1);",
        "return one;",
        NARROW,
    ),
    Mutant(
        "narrow: pixels of lanes swapped",
        "narrow.cuh",
        "const bool upper = lane & 4, odd = lane & 2;",
        "const bool upper = lane & 2, odd = lane & 4;",
        NARROW,
    ),
    Mutant(
        "narrow: own pixel by the lane",
        "narrow.cuh",
        "first + lane / 2 * GROUPS + group",
        "first + lane % 4 * GROUPS + group",
        NARROW,
    ),
    Mutant(
        "narrow: a quad left out",
        "narrow.cuh",
        "num_quads = (count + QUAD - 1) / QUAD",
        "num_quads = count / QUAD",
        NARROW,
    ),
    Mutant(
        "narrow: channels beyond the part",
        "narrow.cuh",
        "channel < count ? pixel[channel] : REAL(0)",
        "pixel[channel]",
        NARROW,
    ),
    Mutant(
        "narrow: weights beyond the channels",
        "narrow.cuh",
        "weights[i] = channel < count ?",
        "weights[i] = channel <= count ?",
        NARROW,
    ),
    Mutant(
        "narrow: weights in the wrong order",
        "narrow.cuh",
        "channel_of(i % QUAD / 4, i % 4)",
        "channel_of(i % LANES, i % QUAD / LANES)",
        NARROW,
    ),
    Mutant(
        "narrow: products of an earlier part lost", "narrow.cuh", "first_part ? sum : *product + sum", "sum", NARROW
    ),
    Mutant(
        "narrow: second part's weights not read",
        "narrow.cuh",
        "(first_row == begin_row || o > PART)",
        "first_row == begin_row && first == 0",
        NARROW,
    ),
    Mutant(
        "narrow: all blocks at the first row", "narrow.cuh", "begin_row = blockIdx.y * rows", "begin_row = 0", NARROW
    ),
    Mutant(
        "narrow: ring one row short",
        "narrow.cuh",
        "* ring + line % ring) * ow + j",
        "* ring + line % max(1, ring - 1)) * ow + j",
        NARROW,
    ),
    Mutant(
        "narrow: first row of dy too late",
        "narrow.cuh",
        "max(0, (begin_row + top - kh + sh) / sh)",
        "max(0, (begin_row + top - kh + sh) / sh + 1)",
        NARROW,
    ),
    Mutant(
        "narrow: last row of dy missing",
        "narrow.cuh",
        "(first_row + num_rows - 1 + top) / sh + 1",
        "(first_row + num_rows - 1 + top) / sh",
        NARROW,
    ),
    Mutant("narrow: rows below dy", "narrow.cuh", "if (line >= oh) continue;", "", NARROW),
    Mutant("narrow: columns beside dy", "narrow.cuh", "if (j < ow) sum +=", "sum +=", NARROW),
    Mutant(
        "narrow: height's margin for the width", "narrow.cuh", "i / c % width + left", "i / c % width + top", NARROW
    ),
    Mutant(
        "narrow: strides swapped",
        "narrow.cuh",
        "int v = column % sw, j = column / sw",
        "int v = column % sh, j = column / sh",
        NARROW,
    ),
    Mutant(
        "narrow: no barrier after the weights",
        "narrow.cuh",
        "      __syncthreads();\n      multiply(dy",
        "      multiply(dy",
        NARROW_ORDERS,
    ),
    Mutant(
        "narrow: no barrier before the sums",
        "narrow.cuh",
        "    __syncthreads();\n    const int64_t begin",
        "    const int64_t begin",
        NARROW_ORDERS,
    ),
    Mutant(
        "narrow: no barrier before the next band",
        "narrow.cuh",
        "      __syncthreads();  // nobody reads what is overwritten next\n",
        "",
        NARROW_ORDERS,
    ),
    # chain.cuh
    Mutant(
        "chain: no barrier after the first layer",
        "chain.cuh",
        "    if (SAVE) saved_1(saved, block, channel, row, column) = h;\n  });\n  __syncthreads();\n",
        "    if (SAVE) saved_1(saved, block, channel, row, column) = h;\n  });\n",
        CHAIN_ORDERS,
    ),
    Mutant(
        "chain: no barrier after the second layer",
        "chain.cuh",
        "    if (SAVE) saved_2(saved, block, channel, row, column) = h;\n  });\n  __syncthreads();\n",
        "    if (SAVE) saved_2(saved, block, channel, row, column) = h;\n  });\n",
        CHAIN_ORDERS,
    ),
    Mutant(
        "chain: no barrier before the map",
        "chain.cuh",
        "    in_a(block, channel, row, column) = tanh_of(u);\n  });\n  __syncthreads();\n",
        "    in_a(block, channel, row, column) = tanh_of(u);\n  });\n",
        CHAIN_ORDERS,
    ),
    Mutant(
        "chain: no barrier after the map",
        "chain.cuh",
        "    block.b()[MAP + i] = value;\n  }\n  __syncthreads();\n",
        "    block.b()[MAP + i] = value;\n  }\n",
        CHAIN_ORDERS,
    ),
    Mutant(
        "chain: no barrier after the small parameters",
        "chain.cuh",
        "block.images[i] = 0.0f;\n  __syncthreads();\n",
        "block.images[i] = 0.0f;\n",
        CHAIN_ORDERS,
    ),
    Mutant(
        "chain: no barrier after the step's own gradient",
        "chain.cuh",
        "__syncthreads();\n      last_layers_vjp(block);\n",
        "last_layers_vjp(block);\n",
        CHAIN_ORDERS,
    ),
    Mutant(
        "chain: weights replaced while they are read",
        "chain.cuh",
        "      __syncthreads();\n      block.fetch(BACKWARD_2, WEIGHTS);\n",
        "      block.fetch(BACKWARD_2, WEIGHTS);\n",
        CHAIN_ORDERS,
    ),
    Mutant(
        "chain: no barrier at the end of a step back",
        "chain.cuh",
        "      first_layer_vjp(block, gradient, present);\n      __syncthreads();\n",
        "      first_layer_vjp(block, gradient, present);\n",
        CHAIN_ORDERS,
    ),
    Mutant("chain: weights not waited for", "chain.cuh", "    async_wait<0>();\n", "", CHAIN),
    Mutant(
        "chain: weights of the way back not waited for",
        "chain.cuh",
        "last_layers_vjp(block);\n      block.arrive();\n",
        "last_layers_vjp(block);\n      __syncthreads();\n",
        CHAIN,
    ),
    Mutant(
        "chain: forward weights not brought back",
        "chain.cuh",
        "if (!ready) block",
        "if (!ready && i == 0) block",
        CHAIN,
    ),
    Mutant(
        "chain: last weights not fetched",
        "chain.cuh",
        "block.fetch(BACKWARD_2, WEIGHTS)",
        "block.fetch(BACKWARD_2, BACKWARD_1)",
        CHAIN,
    ),
    Mutant(
        "chain: parity of the rows", "chain.cuh", "row() + place.parity() / 2;", "row() + place.parity() % 2;", CHAIN
    ),
    Mutant("chain: phase of the columns", "chain.cuh", "SHIFT = (Layer::BEFORE - 1) / 2 + PARITY", "SHIFT = 1", CHAIN),
    Mutant("chain: a tap too many", "chain.cuh", "(bottom - KERNEL + 2) / 2", "(bottom - KERNEL + 1) / 2", CHAIN),
    Mutant("chain: last row not seen", "chain.cuh", "min(SECOND_SIDE - 1, b", "min(SECOND_SIDE - 2, b", CHAIN),
    Mutant("chain: first row's first tap", "chain.cuh", "ky = max(0, 1 - 2 * row)", "ky = max(0, 2 - 2 * row)", CHAIN),
    Mutant("chain: last row's last tap", "chain.cuh", "FIRST_SIDE - top); ky++", "FIRST_SIDE - 1 - top); ky++", CHAIN),
    Mutant(
        "chain: column of padding",
        "chain.cuh",
        "if (column < 0 || column >= FIRST_SIDE) continue;",
        "if (column < 0 || column > FIRST_SIDE) continue;",
        CHAIN,
    ),
    Mutant("chain: channel beyond the last", "chain.cuh", "if (first + c < FIRST)", "if (first + c <= FIRST)", CHAIN),
    Mutant("chain: bias of another channel", "chain.cuh", "BIAS_1 + group * C1 + c]", "BIAS_1 + c]", CHAIN),
    Mutant("chain: bias missing", "chain.cuh", "sum[o][c] = bias ? bias[first + c] : 0.0f", "sum[o][c] = 0.0f", CHAIN),
    Mutant(
        "chain: bias missing once more",
        "chain.cuh",
        "sum[q][c] = bias ? bias[first + c] : 0.0f",
        "sum[q][c] = 0.0f",
        CHAIN,
    ),
    Mutant(
        "chain: map without its border",
        "chain.cuh",
        "row >= 0 && row < FIRST_SIDE && column >= 0",
        "row >= 0 && row < FIRST_SIDE && column >= 1",
        CHAIN,
    ),
    Mutant("chain: map keeps its constant", "chain.cuh", "tanh_of(u) - constant;", "tanh_of(u) + constant;", CHAIN),
    Mutant("chain: kinds of pixels", "purification.cuh", "i < SIDE - 2 ? 2", "i <= SIDE - 2 ? 2", CHAIN),
    Mutant(
        "chain: taps between the map's pixels", "purification.cuh", "for (int ky = y % 2;", "for (int ky = 0;", CHAIN
    ),
    Mutant("chain: towards the residual's mirror", "purification.cuh", "__fadd_rn(r, -x)", "__fadd_rn(r, x)", CHAIN),
    Mutant("chain: clipped below only", "purification.cuh", ": x[j] > 1.0f ? 1.0f : x[j];", ": x[j];", CHAIN),
    Mutant(
        "chain: noise of the first step",
        "chain.cuh",
        "from, to, present, first_step + step,",
        "from, to, present, first_step,",
        CHAIN,
    ),
    Mutant(
        "chain: noise of another sample",
        "chain.cuh",
        SAMPLE + "    const float* from",
        SAMPLE.replace("sample_index[image]", "sample_index[block.place.image]") + "    const float* from",
        CHAIN,
    ),
    Mutant(
        "chain: images beyond the last",
        "chain.cuh",
        "if (present) *reinterpret_cast<float4*>(to + 4 * quad) = four;",
        "*reinterpret_cast<float4*>(to + 4 * quad) = four;",
        CHAIN,
    ),
    Mutant(
        "chain: noise of the wrong step on the way back",
        "chain.cuh",
        "gradient, present, first_step + step,",
        "gradient, present, first_step + step + 1,",
        CHAIN,
    ),
    Mutant(
        "chain: another step repeated",
        "chain.cuh",
        "own(to), present, first_step + step,",
        "own(to), present, first_step + i,",
        CHAIN_MANY_STEPS,
    ),
    Mutant(
        "chain: a slot too far",
        "chain.cuh",
        "(number - num_kept - 1) * IMAGES",
        "(number - num_kept) * IMAGES",
        CHAIN_MANY_STEPS,
    ),
    Mutant("chain: kept after the next step", "purification.cuh", "== step + 1 && step", "== step && step", CHAIN_KEPT),
    Mutant("chain: last position kept", "purification.cuh", " && step + 1 < num_steps", "", CHAIN_KEPT),
    Mutant("chain: kept positions in one place", "purification.cuh", "(number - 1) * n + image", "image", CHAIN_KEPT),
    Mutant("chain: a kept position too far", "chain.cuh", "(from - 1) * n * PIXELS", "from * n * PIXELS", CHAIN_KEPT),
    Mutant(
        "chain: key of another image",
        "chain.cuh",
        "settings.key_0 = keys[2 * image], settings.key_1 = keys[2 * image + 1];\n    float* const gradient",
        "settings.key_0 = keys[0], settings.key_1 = keys[1];\n    float* const gradient",
        CHAIN_KEYS,
    ),
    Mutant("chain: gradient not masked", "chain.cuh", "unclipped >= 0.0f && unclipped <= 1", "unclipped <= 1", CHAIN),
    Mutant("chain: gradient past the residual", "chain.cuh", "      dy[j] -= dresidual;\n", "", CHAIN),
    Mutant("chain: slope of the last tanh", "chain.cuh", "(1.0f - r[j] * r[j])", "(1.0f - r[j])", CHAIN),
    Mutant("chain: slope of the map", "chain.cuh", "column + 1] + constant;", "column + 1] - constant;", CHAIN),
    Mutant(
        "chain: slope of the third layer",
        "chain.cuh",
        "[WEIGHT_4 + c] * du * (1.0f - h * h)",
        "[WEIGHT_4 + c] * du * (1.0f - h)",
        CHAIN,
    ),
    Mutant(
        "chain: border of the last layer's gradient", "chain.cuh", "min(4, 2 * row + 2)", "min(4, 2 * row + 1)", CHAIN
    ),
    Mutant(
        "chain: rows of the first layer's gradient",
        "chain.cuh",
        "min(FIRST_SIDE - 1, (y + 1) / 2)",
        "min(FIRST_SIDE - 1, y / 2)",
        CHAIN,
    ),
    Mutant("chain: gradient not added", "chain.cuh", "dx[y * SIDE + column] +=", "dx[y * SIDE + column] =", CHAIN),
    Mutant(
        "chain: activations of two images in one place",
        "chain.cuh",
        "* SECOND_SIDE + column) * IMAGES + block.place.image]",
        "* SECOND_SIDE + column) * IMAGES]",
        CHAIN,
    ),
    # chain_half.cuh
    Mutant(
        "half: no barrier before the first layer",
        "chain_half.cuh",
        "      __syncthreads();\n      first_layer(block);\n",
        "      first_layer(block);\n",
        CHAIN_HALF_ORDERS,
    ),
    Mutant(
        "half: no barrier after the first layer",
        "chain_half.cuh",
        "      first_layer(block);\n      __syncthreads();\n",
        "      first_layer(block);\n",
        CHAIN_HALF_ORDERS,
    ),
    Mutant(
        "half: no barrier after the second layer",
        "chain_half.cuh",
        "second_layer(block, row);\n      __syncthreads();\n",
        "second_layer(block, row);\n",
        CHAIN_HALF_ORDERS,
    ),
    Mutant(
        "half: no barrier after the map",
        "chain_half.cuh",
        "last_hidden_layers(block, row, constant);\n      __syncthreads();\n",
        "last_hidden_layers(block, row, constant);\n",
        CHAIN_HALF_ORDERS,
    ),
    Mutant(
        "half: no barrier after the small parameters",
        "chain_half.cuh",
        "  __syncthreads();\n  fill_table(block.small);\n",
        "  fill_table(block.small);\n",
        CHAIN_HALF_ORDERS,
    ),
    Mutant("half: weights not waited for", "chain_half.cuh", "  async_wait<0>();\n", "", CHAIN_HALF),
    Mutant(
        "half: no zeros beside the first layer",
        "chain_half.cuh",
        "i < 2 * FIRST_HALF; i += THREADS) block.first[i] = 0u",
        "i < 2 * FIRST_HALF; i += THREADS) block.first[i] = 0x3c003c00u",
        CHAIN_HALF,
    ),
    Mutant("half: no zeros around the map", "chain_half.cuh", "block.map[i] = 0.0f", "block.map[i] = 1.0f", CHAIN_HALF),
    Mutant(
        "half: zeros around the position only once",
        "chain_half.cuh",
        "      __syncthreads();\n      put_padding(block, own, slot);\n",
        "      __syncthreads();\n",
        CHAIN_HALF,
    ),
    Mutant("half: zeros of the last rows", "chain_half.cuh", "i < 48 ? SIDE + i / 16", "i < 48 ? SIDE + 1", CHAIN_HALF),
    Mutant("half: zeros on the right", "chain_half.cuh", "i % 2 * 15", "i % 2 * 14", CHAIN_HALF),
    Mutant("half: pixels swapped", "chain_half.cuh", "pack_f16(x[2], x[3])", "pack_f16(x[3], x[2])", CHAIN_HALF),
    Mutant("half: pairs of the first layer", "chain_half.cuh", "+ pair % 3 : 0)", "+ pair % 2 : 0)", CHAIN_HALF),
    Mutant("half: bias of the first layer", "chain_half.cuh", "channel < FIRST ?", "channel < 8 ?", CHAIN_HALF),
    Mutant(
        "half: last channels of the first layer", "chain_half.cuh", "block.t == 0) to", "block.t == 1) to", CHAIN_HALF
    ),
    Mutant("half: bias of the second layer", "chain_half.cuh", "channel < SECOND ?", "channel < 24 ?", CHAIN_HALF),
    Mutant("half: first row of taps", "chain_half.cuh", "ky = max(0, -top)", "ky = max(0, 1 - top)", CHAIN_HALF),
    Mutant(
        "half: last row of taps", "chain_half.cuh", "min(5, FIRST_SIDE - top)", "min(4, FIRST_SIDE - top)", CHAIN_HALF
    ),
    Mutant(
        "half: rows that a pixel sees", "chain_half.cuh", "min(5, SECOND_SIDE + 2", "min(5, SECOND_SIDE + 1", CHAIN_HALF
    ),
    Mutant(
        "half: column beyond the last",
        "chain_half.cuh",
        "if (column < 0 || column >= SECOND_SIDE) continue;",
        "if (column < 0 || column > SECOND_SIDE) continue;",
        CHAIN_HALF,
    ),
    Mutant("half: halves of the images", "chain_half.cuh", "a[1] = low[half]", "a[1] = low[0]", CHAIN_HALF),
    Mutant(
        "half: terms swapped",
        "chain_half.cuh",
        "a[2] = high[0], a[3] = high[half]",
        "a[2] = low[0], a[3] = low[half]",
        CHAIN_HALF,
    ),
    Mutant(
        "half: last two words of a tap",
        "chain_half.cuh",
        "right[8] = two.x, right[9] = two.y",
        "right[8] = two.y, right[9] = two.x",
        CHAIN_HALF,
    ),
    Mutant(
        "half: second half of the channels",
        "chain_half.cuh",
        "kx) * TAP_3 + s * (TAP_3 / 2)",
        "kx) * TAP_3",
        CHAIN_HALF,
    ),
    Mutant(
        "half: channel of the fourth layer",
        "chain_half.cuh",
        "sum[q][c / 2][2 * half + c % 2]",
        "sum[q][c / 2][2 * half]",
        CHAIN_HALF,
    ),
    Mutant(
        "half: image of the map", "chain_half.cuh", "* IMAGES + block.g + 8 * half;", "* IMAGES + block.g;", CHAIN_HALF
    ),
    Mutant(
        "half: row's parity", "chain_half.cuh", "2 * row + block.t / 2 + 1", "2 * row + block.t % 2 + 1", CHAIN_HALF
    ),
    Mutant(
        "half: map keeps its constant", "chain_half.cuh", "tanh_of(u) - constant;", "tanh_of(u) + constant;", CHAIN_HALF
    ),
    Mutant("half: a row twice", "chain_half.cuh", "0x75604132", "0x75604130", CHAIN_HALF),
    Mutant(
        "half: noise of the first step",
        "chain_half.cuh",
        "quad, first_step + step, sample",
        "quad, first_step, sample",
        CHAIN_HALF,
    ),
    Mutant("half: noise of another sample", "chain_half.cuh", "sample_index[image]", "sample_index[own]", CHAIN_HALF),
    Mutant(
        "half: images beyond the last",
        "chain_half.cuh",
        "if (present) *reinterpret_cast<float4*>(to",
        "*reinterpret_cast<float4*>(to",
        CHAIN_HALF,
    ),
    Mutant("half: every step from the first position", "chain_half.cuh", "      from = to;\n", "", CHAIN_HALF),
    Mutant("half: key of another image", "chain_half.cuh", "keys[2 * image + 1]", "keys[1]", CHAIN_HALF_KEYS),
    Mutant("half: nothing kept", "chain_half.cuh", "num_steps, every, image", "num_steps, 0, image", CHAIN_HALF_KEPT),
    # philox.cuh
    Mutant("philox: nine rounds", "philox.cuh", "round < 10", "round < 9", PHILOX),
    Mutant("philox: key not raised", "philox.cuh", "k1 += 0xBB67AE85u;", "k1 += 0xBB67AE84u;", PHILOX),
    Mutant("philox: keys swapped", "philox.cuh", "c2 = high_0 ^ c3 ^ k1", "c2 = high_0 ^ c3 ^ k0", PHILOX),
    Mutant(
        "philox: logarithm of 0",
        "philox.cuh",
        "plus_product(half, static_cast<float>(radius_word)",
        "plus_product(0.0f, static_cast<float>(radius_word)",
        PHILOX,
    ),
    Mutant("philox: quarters cut off", "philox.cuh", "plus_product(0.5f, angle", "plus_product(0.0f, angle", PHILOX),
    Mutant(
        "philox: pi without its last digits",
        "philox.cuh",
        "  r = plus_product(r, turns, 7.54978995489188216e-8f);\n",
        "",
        PHILOX,
    ),
    Mutant("philox: sign of the cosine", "philox.cuh", "if ((quarter + 1) & 2)", "if (quarter & 2)", PHILOX),
    Mutant("philox: sine and cosine swapped", "philox.cuh", "sine = odd ? c : s", "sine = odd ? s : c", PHILOX),
    Mutant("philox: last term of the sine", "philox.cuh", "-1.9515295891e-4f", "-1.8e-4f", PHILOX),
    # attack_steps.py
    Mutant("steps: sign", "attack_steps.py", "out[i] = x[i] - step_size", "out[i] = x[i] + step_size", STEPS),
    Mutant(
        "steps: sign of 0",
        "attack_steps.py",
        "elif gradient[i] < ZERO:\n        out",
        "elif gradient[i] <= ZERO:\n        out",
        STEPS,
    ),
    Mutant(
        "steps: lower bound rounded outwards",
        "attack_steps.py",
        "if exact - float64(lower) > eps:",
        "if exact - float64(lower) > 1.0:",
        STEPS,
    ),
    Mutant(
        "steps: upper bound rounded outwards",
        "attack_steps.py",
        "if float64(upper) - exact > eps:",
        "if float64(upper) - exact > 1.0:",
        STEPS,
    ),
    Mutant("steps: upper bound beyond 1", "attack_steps.py", "real(min(exact + eps, 1.0))", "real(exact + eps)", STEPS),
    Mutant(
        "steps: bounds without subnormal numbers",
        "attack_steps.py",
        "lower = lower + max(lower * relative, smallest)",
        "lower = lower + lower * relative",
        STEPS,
    ),
    Mutant(
        "steps: projected to the wrong side",
        "attack_steps.py",
        "out[i] = lower if x[i] < lower else upper if x[i] > upper else x[i]",
        "out[i] = lower if x[i] > upper else upper if x[i] < lower else x[i]",
        STEPS,
    ),
    Mutant(
        "steps: start on one side only", "attack_steps.py", "(uniform[i] + uniform[i] - ONE)", "(uniform[i])", STEPS
    ),
    Mutant(
        "steps: start not clipped",
        "attack_steps.py",
        "out[i] = lower if x < lower else upper if x > upper else x\n",
        "out[i] = x\n",
        STEPS,
    ),
    Mutant(
        "steps: selected by the wrong sample", "attack_steps.py", "condition[i // size]", "condition[i % size]", STEPS
    ),
    Mutant("steps: NaN never beaten", "attack_steps.py", " or math.isnan(best_loss[i])", "", STEPS),
    Mutant(
        "steps: loss before success",
        "attack_steps.py",
        "elif success[i] != best_success[i]:",
        "elif success[i] and not best_success[i]:",
        STEPS,
    ),
    Mutant(
        "steps: momentum of the other part",
        "attack_steps.py",
        "momentum * (z - x[i]) + rest *",
        "rest * (z - x[i]) + momentum *",
        PAST,
    ),
    Mutant("steps: last move backwards", "attack_steps.py", "(x[i] - previous[i])", "(previous[i] - x[i])", PAST),
    Mutant(
        "steps: not brought back before the momentum",
        "attack_steps.py",
        "        z = lower if z < lower else upper if z > upper else z\n",
        "",
        PAST,
    ),
    Mutant(
        "steps: not brought back after the momentum",
        "attack_steps.py",
        "out[i] = lower if z < lower else upper if z > upper else z",
        "out[i] = z",
        PAST,
    ),
    Mutant(
        "steps: step size of another sample", "attack_steps.py", "z = z + sizes[i // size]", "z = z + sizes[0]", PAST
    ),
    # proposals.py
    Mutant(
        "proposals: coins that are not fair", "proposals.py", "word >= TOP_BIT", "word >= uint32(1 << 30)", PROPOSALS
    ),
    Mutant("proposals: last word of four", "proposals.py", "w2 if place == 2 else w3", "w2", PROPOSALS),
    Mutant("proposals: a pixel too many", "proposals.py", "uint64(word) < limit", "uint64(word) <= limit", PROPOSALS),
    Mutant(
        "proposals: pixels of the first channel",
        "proposals.py",
        "place = (sample * channels + channel) * area",
        "place = (sample * channels + 0 * channel) * area",
        PROPOSALS,
    ),
    Mutant(
        "proposals: last row never reached",
        "proposals.py",
        "placed(w0, h - side + 1), i % w",
        "placed(w0, h - side), i % w",
        PROPOSALS,
    ),
    Mutant(
        "proposals: the coin of another channel",
        "proposals.py",
        "word_of(2 + channel,",
        "word_of(1 + channel,",
        PROPOSALS,
    ),
    Mutant(
        "proposals: tiles never transposed",
        "proposals.py",
        "bump[column * side + row] if word & uint32(1) else ",
        "",
        PROPOSALS,
    ),
    Mutant("proposals: second square alone", "proposals.py", "if first or offset(", "if offset(", PROPOSALS),
    Mutant(
        "proposals: what is unused is lost",
        "proposals.py",
        "max(eps * eps - sum_all[sample], 0.0)",
        "0.0",
        PROPOSALS,
    ),
    Mutant(
        "proposals: bump that cancels",
        "proposals.py",
        "if length > SHORTEST:",
        "if length > 0.0:",
        PROPOSALS,
    ),
    Mutant(
        "proposals: part along kept", "proposals.py", "value = z[k] - share * (", "value = z[k] + share * (", PROPOSALS
    ),
    Mutant(
        "proposals: clipping not made up for", "proposals.py", "* distance + new - distance", "* distance", PROPOSALS
    ),
    Mutant("proposals: the same side twice", "proposals.py", "max(x[i] - shift", "max(x[i] + shift", PROPOSALS),
    Mutant("proposals: signs of another sample", "proposals.py", "+ slopes[i // size]", "+ slopes[0]", PROPOSALS),
    # langevin.py
    Mutant("langevin: no noise", "langevin.py", "+ delta * noise", "+ delta * x", LANGEVIN),
    Mutant(
        "langevin: step and noise swapped",
        "langevin.py",
        "x + a * residual + delta * noise",
        "x + delta * residual + a * noise",
        LANGEVIN,
    ),
    Mutant(
        "langevin: clip lost",
        "langevin.py",
        "out[i] = clipped(moved(x[i], residual[i], noise[i], a, delta))",
        "out[i] = moved(x[i], residual[i], noise[i], a, delta)",
        LANGEVIN,
    ),
    Mutant(
        "langevin: clipped above only",
        "langevin.py",
        "ZERO if value < ZERO else ONE",
        "value if value < ZERO else ONE",
        LANGEVIN,
    ),
    Mutant(
        "langevin: gradient above the range",
        "langevin.py",
        "unclipped >= ZERO and unclipped <= ONE",
        "unclipped >= ZERO",
        LANGEVIN,
    ),
    Mutant("langevin: gradient without a", "langevin.py", "dresidual[i] = a * dy[i]", "dresidual[i] = dy[i]", LANGEVIN),
    Mutant(
        "langevin: gradient to the residual not clipped",
        "langevin.py",
        "dresidual[i] = a * gradient",
        "dresidual[i] = a * dy[i]",
        LANGEVIN,
    ),
    # activations.py
    Mutant(
        "activations: NaN lost where it has settled at its limit",
        "activations.py",
        "return -SETTLED if x < -SETTLED else SETTLED if x > SETTLED else x",
        "return SETTLED if x > SETTLED else x if x >= -SETTLED else -SETTLED",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: sigmoid of the other sign",
        "activations.py",
        "(ONE if x >= ZERO else small)",
        "(ONE if x <= ZERO else small)",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: slope of leaky ReLU at 0",
        "activations.py",
        'Gradient of `leaky_relu`."""\n    dx[i] = dy[i] if x[i] > ZERO',
        'Gradient of `leaky_relu`."""\n    dx[i] = dy[i] if x[i] >= ZERO',
        ACTIVATIONS,
    ),
    Mutant(
        "activations: leaky ReLU without its slope",
        "activations.py",
        'negative numbers."""\n    out[i] = x[i] if x[i] > ZERO else x[i] *',
        'negative numbers."""\n    out[i] = x[i] if x[i] > ZERO else',
        ACTIVATIONS,
    ),
    Mutant(
        "activations: ELU without alpha",
        "activations.py",
        "else alpha * math.expm1(x[i])",
        "else math.expm1(x[i])",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: ELU's gradient at the output",
        "activations.py",
        "dy[i] * (alpha * math.exp(x[i]))",
        "dy[i] * (alpha * math.expm1(x[i]))",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: sigmoid's gradient without the rest",
        "activations.py",
        "(y[i] * (ONE - y[i]))",
        "(y[i] * (ONE - y[i] * y[i]))",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: SiLU's gradient of the wrong sign",
        "activations.py",
        "(ONE + bounded(x[i]) * logistic(-x[i]))",
        "(ONE - bounded(x[i]) * logistic(-x[i]))",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: SiLU at infinity",
        "activations.py",
        'its sigmoid."""\n    out[i] = (-SETTLED if x[i] < -SETTLED else x[i])',
        'its sigmoid."""\n    out[i] = x[i]',
        ACTIVATIONS,
    ),
    Mutant(
        "activations: GELU without its half",
        "activations.py",
        "(HALF * math.erfc(-root_half * bounded(x[i])))",
        "math.erfc(-root_half * bounded(x[i]))",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: GELU's density too wide",
        "activations.py",
        "math.exp(-HALF * (z * z))",
        "math.exp(-HALF * HALF * (z * z))",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: GELU's cubic term squared",
        "activations.py",
        "out[i] = (-SETTLED if x[i] < -SETTLED else x[i]) * logistic(slope * (z + cubic * z * z * z))",
        "out[i] = (-SETTLED if x[i] < -SETTLED else x[i]) * logistic(slope * (z + cubic * z * z))",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: GELU's gradient without the cubic term's",
        "activations.py",
        "(ONE + thrice_cubic * z * z)",
        "(ONE + cubic * z * z)",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: softplus without its threshold",
        "activations.py",
        "out[i] = x[i] if z > threshold else smooth / beta",
        "out[i] = smooth / beta",
        ACTIVATIONS,
    ),
    Mutant("activations: softplus not divided", "activations.py", "smooth / beta", "smooth", ACTIVATIONS),
    Mutant(
        "activations: softplus's gradient beyond its threshold",
        "activations.py",
        "dx[i] = dy[i] if z > threshold else dy[i] * logistic(z)",
        "dx[i] = dy[i] * logistic(z)",
        ACTIVATIONS,
    ),
    Mutant("activations: hardtanh's upper end", "activations.py", "high if x[i] > high else x[i]", "x[i]", ACTIVATIONS),
    Mutant(
        "activations: hardtanh's slope at its end",
        "activations.py",
        "low < x[i] and x[i] < high",
        "low < x[i] and x[i] <= high",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: slope of the wrong channel",
        "activations.py",
        "out[i] = x[i] if x[i] > ZERO else x[i] * slopes[i // run % channels]",
        "out[i] = x[i] if x[i] > ZERO else x[i] * slopes[i % channels]",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: gradient by the wrong channel's slope",
        "activations.py",
        "dx[i] = dy[i] if x[i] > ZERO else dy[i] * slopes[i // run % channels]",
        "dx[i] = dy[i] if x[i] > ZERO else dy[i] * slopes[i // channels % channels]",
        ACTIVATIONS,
    ),
    Mutant(
        "activations: slope's gradient of the positive numbers",
        "activations.py",
        "(ZERO if x[i] > ZERO else x[i])",
        "(ZERO if x[i] < ZERO else x[i])",
        ACTIVATIONS,
    ),
    # normalisation.py
    Mutant(
        "normalisation: gain of the wrong channel",
        "normalisation.py",
        "c = i // run % channels\n    out[i] = x[i] * gain[c]",
        "c = i % channels\n    out[i] = x[i] * gain[c]",
        NORMALISATION,
    ),
    Mutant("normalisation: no bias", "normalisation.py", "x[i] * gain[c] + bias[c]", "x[i] * gain[c]", NORMALISATION),
    Mutant(
        "normalisation: gradient by the wrong gain",
        "normalisation.py",
        "x[i] * gain[i // run % channels]",
        "x[i] * gain[i % channels]",
        NORMALISATION,
    ),
    # layers.py
    Mutant("layers: bias missing", "layers.py", "x[i] + bias[i // run % channels]", "x[i]", LAYERS),
    Mutant("layers: bias of the wrong channel", "layers.py", "bias[i // run % channels]", "bias[i % channels]", LAYERS),
    Mutant(
        "layers: NaN lost by ReLU",
        "layers.py",
        "ZERO if x[i] <= ZERO else x[i]",
        "x[i] if x[i] > ZERO else ZERO",
        LAYERS,
    ),
    Mutant(
        "layers: slope of ReLU at 0",
        "layers.py",
        "(ONE if y[i] > ZERO else ZERO)",
        "(ONE if y[i] >= ZERO else ZERO)",
        LAYERS,
    ),
    Mutant("layers: slope of tanh", "layers.py", "(ONE - y[i] * y[i])", "(ONE - y[i])", LAYERS),
    Mutant("layers: normalised without its bias", "layers.py", "epsilon)) + bias[c]", "epsilon))", LAYERS),
    Mutant(
        "layers: normalisation's gradient without the mean's share", "layers.py", " - dbias[c] / divisor", "", LAYERS
    ),
    Mutant(
        "layers: epsilon of the given statistics lost",
        "layers.py",
        "dx[i] = dy[i] * (gain[c] / math.sqrt(variance[c] + epsilon))",
        "dx[i] = dy[i] * (gain[c] / math.sqrt(variance[c]))",
        LAYERS,
    ),
    Mutant("layers: squared error's gradient halved", "layers.py", "(weight + weight)", "weight", LOSSES),
    # pooling.py
    Mutant(
        "pooling: the last of the largest",
        "pooling.py",
        "not (value <= best or best != best)",
        "not (value < best or best != best)",
        LARGEST,
    ),
    Mutant(
        "pooling: NaN is not the largest",
        "pooling.py",
        "not (value <= best or best != best)",
        "value > best",
        POOLING.format("nan"),
    ),
    Mutant("pooling: a number is larger than none", "pooling.py", "if place < 0 or not", "if not", LARGEST),
    Mutant("pooling: place in the padded image", "pooling.py", "value, r * w + q", "value, r * (w + pw) + q", LARGEST),
    Mutant(
        "pooling: gradient of the tiles that did not take the pixel",
        "pooling.py",
        "if index[k] == row * w + column:",
        "if index[k] % w == column:",
        LARGEST,
    ),
    Mutant("pooling: padding counted once", "pooling.py", "min(first + tile, size + pad)", "first + tile", MEANS),
    Mutant("pooling: padding always counts", "pooling.py", "    if with_pad:\n", "    if True:\n", MEANS),
    Mutant(
        "pooling: a tile's columns counted as its rows",
        "pooling.py",
        "counted(left, tw, w, pw, with_pad))",
        "counted(left, th, w, pw, with_pad))",
        MEANS,
    ),
    Mutant(
        "pooling: gradient without the tile before",
        "pooling.py",
        "range(last_row - max(0, (row + ph - th) // sh + 1) + 1)",
        "range(last_row - max(0, (row + ph - th) // sh + 1))",
        MEANS,
    ),
    Mutant(
        "pooling: gradient of a tile beyond the last",
        "pooling.py",
        "min(ow - 1, (column + pw) // sw)",
        "(column + pw) // sw",
        MEANS,
    ),
    Mutant(
        "pooling: window ends at the floor",
        "pooling.py",
        "row * h // oh, ((row + 1) * h + oh - 1) // oh",
        "row * h // oh, max(row * h // oh + 1, (row + 1) * h // oh)",
        ADAPTIVE,
    ),
    Mutant(
        "pooling: gradient without the last window",
        "pooling.py",
        "range(column * ow // w, min(ow, ((column + 1) * ow + w - 1) // w))",
        "range(column * ow // w, min(ow, max(column * ow // w + 1, (column + 1) * ow // w)))",
        ADAPTIVE,
    ),
    # upsampling.py
    Mutant("upsampling: corners not aligned", "upsampling.py", "return k * (size - 1)", "return k * size", UPSAMPLING),
    Mutant("upsampling: pixels' edges for centres", "upsampling.py", "(2 * k + 1)", "(2 * k)", UPSAMPLING),
    Mutant(
        "upsampling: what lies before the first centre",
        "upsampling.py",
        "max(0, (2 * k + 1) * size - count)",
        "(2 * k + 1) * size - count",
        UPSAMPLING,
    ),
    Mutant(
        "upsampling: denominator of one row", "upsampling.py", "return max(1, count - 1)", "return count", UPSAMPLING
    ),
    Mutant(
        "upsampling: gradient of the last row lost", "upsampling.py", "return count\n", "return count - 1\n", UPSAMPLING
    ),
    Mutant("upsampling: last row's second part", "upsampling.py", "min(first + 1, size - 1)", "first + 1", UPSAMPLING),
    Mutant("upsampling: the other row's part", "upsampling.py", "total += ONE - second", "total += second", UPSAMPLING),
    Mutant(
        "upsampling: gradient without the row before",
        "upsampling.py",
        "first_at(row - 1, h, oh, corners)",
        "first_at(row, h, oh, corners)",
        UPSAMPLING,
    ),
    Mutant(
        "upsampling: copies of the next pixel",
        "upsampling.py",
        "row * h // oh) * w",
        "(row * h + oh - 1) // oh) * w",
        UPSAMPLING,
    ),
    Mutant(
        "upsampling: gradient without the last copy",
        "upsampling.py",
        "((row + 1) * oh + h - 1) // h)",
        "((row + 1) * oh - 1) // h)",
        UPSAMPLING,
    ),
    Mutant(
        "upsampling: rows' weight for columns",
        "upsampling.py",
        "first * (ONE - across) + second * across",
        "first * (ONE - down) + second * down",
        UPSAMPLING,
    ),
    # conv_grouped.py
    Mutant(
        "grouped: inputs of the next group",
        "conv_grouped.py",
        "first = o // per_group * of_group",
        "first = o % per_group * of_group",
        GROUPED,
    ),
    Mutant(
        "grouped: taps side by side",
        "conv_grouped.py",
        "r = row * sh + u * dh - ph\n        for v",
        "r = row * sh + u - ph\n        for v",
        GROUPED,
    ),
    Mutant(
        "grouped: zeros on the right left out",
        "conv_grouped.py",
        "r < h and q >= 0 and q < w:\n                at",
        "r < h and q >= 0:\n                at",
        GROUPED,
    ),
    Mutant("grouped: weight of the next output", "conv_grouped.py", "* outputs + o]\n", "* outputs]\n", GROUPED),
    Mutant(
        "grouped: outputs of the wrong group",
        "conv_grouped.py",
        "first = c // of_group * per_group",
        "first = c // of_group",
        GROUPED,
    ),
    Mutant("grouped: pixels between windows", "conv_grouped.py", "r % sh == 0 and ", "", GROUPED),
    Mutant("grouped: gradient beyond the last window", "conv_grouped.py", " and q < ow * sw", "", GROUPED),
    Mutant(
        "grouped: every input has the first one's weight",
        "conv_grouped.py",
        "of_group + c % of_group) * outputs",
        "of_group) * outputs",
        GROUPED,
    ),
    Mutant(
        "grouped: gradient of the first part of the images",
        "conv_grouped.py",
        "for k in range(num_parts):",
        "for k in range(1):",
        GROUPED,
    ),
    Mutant(
        "grouped: every image in every part",
        "conv_grouped.py",
        "range(i // outputs // of_group // kw // kh, num_images, num_parts)",
        "range(0, num_images, 1)",
        GROUPED,
    ),
    Mutant(
        "grouped: rows' dilation for columns",
        "conv_grouped.py",
        "q = column * sw + v * dw - pw\n                    if",
        "q = column * sw + v * dh - pw\n                    if",
        GROUPED,
    ),
    # augmentation.py
    Mutant(
        "augmentation: the others mirrored",
        "augmentation.py",
        "flip[n] != 0:",
        "flip[n] == 0:",
        AUGMENTATION,
    ),
    Mutant(
        "augmentation: mirrored off by one",
        "augmentation.py",
        "w - 1 - column",
        "w - column",
        AUGMENTATION,
    ),
    Mutant(
        "augmentation: columns for rows",
        "augmentation.py",
        "column + left[n]",
        "column + top[n]",
        AUGMENTATION,
    ),
    Mutant(
        "augmentation: the first sample's place",
        "augmentation.py",
        "row + top[n]",
        "row + top[0]",
        AUGMENTATION,
    ),
    Mutant(
        "augmentation: a row before the first",
        "augmentation.py",
        "0 <= row",
        "-1 <= row",
        AUGMENTATION,
    ),
    Mutant(
        "augmentation: the last column lost",
        "augmentation.py",
        "column < w:",
        "column < w - 1:",
        AUGMENTATION,
    ),
    # losses.py
    Mutant(
        "losses: divergence the other way",
        "losses.py",
        "math.exp(own) * (own -",
        "math.exp(own) * (-own +",
        DIVERGENCE,
    ),
    Mutant(
        "losses: divergence of a row from itself",
        "losses.py",
        "(others[row + k] - log_q))",
        "(scores[row + k] - log_q))",
        DIVERGENCE,
    ),
    Mutant(
        "losses: exponentials that overflow",
        "losses.py",
        "math.exp(scores[row + k] - largest)",
        "math.exp(scores[row + k])",
        DIVERGENCE,
    ),
    Mutant(
        "losses: divergence's mean not taken off",
        "losses.py",
        "(own - other - mean)",
        "(own - other)",
        DIVERGENCE,
    ),
    Mutant(
        "losses: divergence's gradient turned round",
        "losses.py",
        "dloss[i] * (q - p)",
        "dloss[i] * (p - q)",
        DIVERGENCE,
    ),
    Mutant(
        "losses: last of equals",
        "losses.py",
        "score > scores[row + best] or",
        "score >= scores[row + best] or",
        LOSSES_OF_ATTACKS,
    ),
    Mutant(
        "losses: NaN is never beaten",
        "losses.py",
        " or (math.isnan(scores[row + best]) and not math.isnan(score))",
        "",
        LOSSES_OF_ATTACKS,
    ),
    Mutant(
        "losses: true class as its own rival",
        "losses.py",
        "k != first and k != second",
        "k != second",
        LOSSES_OF_ATTACKS,
    ),
    Mutant(
        "losses: lead of the true class",
        "losses.py",
        "out[i] = scores[row + rival] - scores[row + label]",
        "out[i] = scores[row + label] - scores[row + rival]",
        LOSSES_OF_ATTACKS,
    ),
    Mutant(
        "losses: both classes pushed up",
        "losses.py",
        "-dloss[i] if k == label",
        "dloss[i] if k == label",
        LOSSES_OF_ATTACKS,
    ),
    Mutant(
        "losses: sum for a mean",
        "losses.py",
        "scores[row + fourth]) * half",
        "scores[row + fourth])",
        LOSSES_OF_ATTACKS,
    ),
    Mutant(
        "losses: fourth class", "losses.py", "if targeted else third", "if not targeted else third", LOSSES_OF_ATTACKS
    ),
    Mutant("losses: spread of equal scores", "losses.py", "- behind + least", "- behind", LOSSES_OF_ATTACKS),
    Mutant("losses: ratio's other gradient", "losses.py", "slope * lead / spread", "slope * lead", LOSSES_OF_ATTACKS),
    Mutant(
        "losses: gradient of the mean",
        "losses.py",
        "[row + fourth] += of_spread * half",
        "[row + fourth] += of_spread",
        LOSSES_OF_ATTACKS,
    ),
    Mutant("losses: equals in reverse", "losses.py", "(tied and k < own)", "(tied and k > own)", LOSSES_OF_ATTACKS),
    # Bodies that nothing above reaches
    Mutant(
        "steps: bounds swapped",
        "attack_steps.py",
        "lower[i], upper[i] = bounds_of",
        "upper[i], lower[i] = bounds_of",
        STEPS,
    ),
    Mutant("layers: tanh is the identity", "layers.py", "out[i] = math.tanh(x[i])", "out[i] = x[i]", LAYERS),
    Mutant("losses: lead over nothing", "losses.py", "out[i] = lead / spread", "out[i] = lead", LOSSES_OF_ATTACKS),
    Mutant(
        "proposals: rows from their second number",
        "proposals.py",
        "range(size):\n        value +=",
        "range(1, size):\n        value +=",
        PROPOSALS,
    ),
    Mutant(
        "proposals: along without the last number",
        "proposals.py",
        "range(4):\n            if first + k < size:\n                away",
        "range(3):\n            if first + k < size:\n                away",
        PROPOSALS,
    ),
    Mutant(
        "proposals: one pair twice", "proposals.py", "z2, z3 = pair_of(w2, w3)", "z2, z3 = pair_of(w0, w1)", PROPOSALS
    ),
    Mutant("proposals: off the sphere", "proposals.py", "/ math.sqrt(1.0 + a * a)", "/ math.sqrt(1.0 + a)", PROPOSALS),
    Mutant(
        "proposals: a square of one row more",
        "proposals.py",
        "inside = row >= 0 and row < side",
        "inside = row >= 0 and row <= side",
        PROPOSALS,
    ),
    Mutant(
        "proposals: only the first channel",
        "proposals.py",
        "for channel in range(channels):\n        if x",
        "for channel in range(1):\n        if x",
        PROPOSALS,
    ),
    Mutant(
        "random: words swapped",
        "random.py",
        "z0[i], z1[i] = pair_of(words_0[i], words_1[i])",
        "z0[i], z1[i] = pair_of(words_1[i], words_0[i])",
        RANDOM,
    ),
    # memory.py
    Mutant(
        "memory: copy of the first number",
        "memory.py",
        'itself."""\n    out[i] = x[i]',
        'itself."""\n    out[i] = x[0]',
        MEMORY,
    ),
    Mutant("memory: last of equals", "memory.py", "if value > x[", "if value >= x[", MEMORY),
    Mutant("memory: NaN of the last class only", "memory.py", "known = known and not", "known = not", MEMORY),
    Mutant("memory: first number skipped", "memory.py", "best, known = 0,", "best, known = 1 % size,", MEMORY),
    Mutant("memory: difference for a sum", "memory.py", "x[i] + y[i]", "x[i] - y[i]", MEMORY),
    # metropolis.py
    Mutant(
        "metropolis: difference squared",
        "metropolis.py",
        "(there - back) * (there + back)",
        "(there - back) * (there - back)",
        METROPOLIS,
    ),
    Mutant("metropolis: score of the start", "metropolis.py", "proposal_score[j])", "score[j])", METROPOLIS),
    Mutant("metropolis: product not halved", "metropolis.py", "half * product", "product", METROPOLIS),
    Mutant(
        "metropolis: densities swapped",
        "metropolis.py",
        "proposal_log_density[i] - log_density[i]",
        "log_density[i] - proposal_log_density[i]",
        METROPOLIS,
    ),
    Mutant(
        "metropolis: last coordinate",
        "metropolis.py",
        "range(i * size, (i + 1) * size)",
        "range(i * size, i)",
        METROPOLIS,
    ),
    Mutant(
        "metropolis: NaN accepted",
        "metropolis.py",
        "math.log(level[i]) < ratio[i]",
        "not math.log(level[i]) >= ratio[i]",
        METROPOLIS,
    ),
    # minimum_norm.py
    Mutant("minimum norm: ends of the pixel range", "minimum_norm.py", "0.999999 *", "0.9999 *", MINIMUM_NORM),
    Mutant(
        "minimum norm: pixels between -1 and 1",
        "minimum_norm.py",
        "out[i] = (math.tanh(point[i]) + ONE) * HALF",
        "out[i] = math.tanh(point[i])",
        MINIMUM_NORM,
    ),
    Mutant(
        "minimum norm: distance's gradient halved", "minimum_norm.py", "away + away - pull", "away - pull", MINIMUM_NORM
    ),
    Mutant(
        "minimum norm: gradient that is not finite",
        "minimum_norm.py",
        " if math.isfinite(gradient[i]) else ZERO",
        "",
        MINIMUM_NORM,
    ),
    Mutant("minimum norm: slope of tanh", "minimum_norm.py", "/ ((ONE + e) * (ONE + e))", "/ (ONE + e)", MINIMUM_NORM),
    Mutant("minimum norm: not shrunk", "minimum_norm.py", "min(z - beta, ONE)", "min(z, ONE)", MINIMUM_NORM),
    Mutant(
        "minimum norm: shrunk across the centre",
        "minimum_norm.py",
        "elif shift < -beta:",
        "elif shift < beta:",
        MINIMUM_NORM,
    ),
    Mutant(
        "minimum norm: infinite shift",
        "minimum_norm.py",
        "if math.isfinite(shift):",
        "if not math.isnan(shift):",
        MINIMUM_NORM,
    ),
    Mutant(
        "minimum norm: momentum from the wrong point",
        "minimum_norm.py",
        "momentum * (new - x[i])",
        "momentum * (new - y[i])",
        MINIMUM_NORM,
    ),
    Mutant(
        "minimum norm: weight of another sample",
        "minimum_norm.py",
        "- weight[i // size] * gradient[i])",
        "- weight[0] * gradient[i])",
        "tests/agree/test_minimum_norm.py -k planted",
    ),
    Mutant(
        "minimum norm: overshoot of one side only",
        "minimum_norm.py",
        "centre[i] + overshoot * centre_move[i]",
        "centre[i] + centre_move[i]",
        MINIMUM_NORM,
    ),
    Mutant(
        "minimum norm: clip lost",
        "minimum_norm.py",
        "centre_move[i])\n    out[i] = ZERO if z < ZERO else ONE if z > ONE else z",
        "centre_move[i])\n    out[i] = z",
        MINIMUM_NORM,
    ),
    Mutant(
        "minimum norm: points swapped",
        "minimum_norm.py",
        "(ONE - a) * x[i] + a * other[i]",
        "a * x[i] + (ONE - a) * other[i]",
        MINIMUM_NORM,
    ),
    # mixture.py
    Mutant(
        "mixture: precisions of the transposed matrix",
        "mixture.py",
        "whitening[first + row * d + line] * whitening[first + row * d + column]",
        "whitening[first + line * d + row] * whitening[first + column * d + row]",
        "tests/agree/test_mixture.py -k 'planted and float64 or hessians'",
    ),
    Mutant(
        "mixture: precisions of the first component for all",
        "mixture.py",
        "i // (d * d) * (d * d), i // d % d",
        "0, i // d % d",
        "tests/agree/test_mixture.py -k 'planted and float64 or hessians'",
    ),
    Mutant(
        "mixture: density's exponent not halved",
        "mixture.py",
        "            squares += z * z\n        return max(log_scale[k] - half * squares",
        "            squares += z * z\n        return max(log_scale[k] - squares",
        MIXTURE,
    ),
    Mutant(
        "mixture: densities of 0",
        "mixture.py",
        "+ column] * z\n        return max(log_scale[k] - half * squares, lowest)",
        "+ column] * z\n        return log_scale[k] - half * squares",
        "tests/agree/test_mixture.py -k beyond_the_format",
    ),
    Mutant(
        "mixture: gradient by the transposed matrix",
        "mixture.py",
        "gradient[column] -= whitening[(k * d + row) * d + column] * z",
        "gradient[column] -= whitening[(k * d + column) * d + row] * z",
        MIXTURE,
    ),
    Mutant(
        "mixture: sum of densities not scaled down",
        "mixture.py",
        "largest, total * scale + weight",
        "largest, total + weight",
        MIXTURE,
    ),
    Mutant("mixture: score not scaled down", "mixture.py", "score[column] * scale +", "score[column] +", MIXTURE),
    Mutant("mixture: score not normalised", "mixture.py", "score[column] /= total", "score[column] *= total", MIXTURE),
    Mutant(
        "mixture: largest term lost",
        "mixture.py",
        "return largest + math.log(total)",
        "return math.log(total)",
        MIXTURE,
    ),
    Mutant(
        "mixture: score of the other classes", "mixture.py", "if labels[k] == label:", "if labels[k] != label:", MIXTURE
    ),
    Mutant(
        "mixture: densities' sum not scaled down",
        "mixture.py",
        "total * math.exp(largest - value) + one",
        "total + one",
        MIXTURE,
    ),
    Mutant("mixture: shares not normalised", "mixture.py", "math.exp(value - log_density)", "math.exp(value)", MIXTURE),
    Mutant(
        "mixture: spread around the origin",
        "mixture.py",
        "(gradient[line] - score[line]) * (gradient[column] - score[column])",
        "gradient[line] * gradient[column]",
        MIXTURE,
    ),
    Mutant(
        "mixture: precision of the wrong component",
        "mixture.py",
        "precisions[k * d * d + place]",
        "precisions[place]",
        MIXTURE,
    ),
    Mutant(
        "mixture: responsibilities beyond the format",
        "mixture.py",
        "largest = max(largest, value)",
        "largest = min(largest, value)",
        MIXTURE,
    ),
    Mutant("mixture: noise from swapped words", "mixture.py", "pair_of(w2, w3)", "pair_of(w3, w2)", MIXTURE_CHAIN),
    Mutant(
        "mixture: noise's counter swapped",
        "mixture.py",
        "philox(uint32(block), step, sample,",
        "philox(uint32(block), sample, step,",
        MIXTURE_CHAIN,
    ),
    Mutant("mixture: noise of the first step", "mixture.py", "first_step + number)", "first_step)", MIXTURE_CHAIN),
    Mutant(
        "mixture: level from the noise's key", "mixture.py", "uint32(0), a0, a1)", "uint32(0), k0, k1)", MIXTURE_CHAIN
    ),
    Mutant(
        "mixture: score of the old position",
        "mixture.py",
        "score[column] = moved_score[column]",
        "score[column] = score[column]",
        MIXTURE_CHAIN,
    ),
    Mutant(
        "mixture: density of the old position",
        "mixture.py",
        "            log_density = moved_log_density\n",
        "",
        MIXTURE_CHAIN,
    ),
    Mutant(
        "mixture: way back forgotten", "mixture.py", "(there - back) * (there + back)", "there * there", MIXTURE_CHAIN
    ),
    Mutant(
        "mixture: NaN accepted",
        "mixture.py",
        "if not math.log(uniform_of(word)) < ratio:",
        "if math.log(uniform_of(word)) >= ratio:",
        "tests/agree/test_mixture.py -k 'walker_at and float64'",
    ),
    # optim.py
    Mutant("optim: betas swapped", "optim.py", "v = beta2 * second[i] + rest2", "v = beta1 * second[i] + rest2", OPTIM),
    Mutant("optim: gradient not squared", "optim.py", "rest2 * (g * g)", "rest2 * g", OPTIM),
    Mutant(
        "optim: epsilon under the root",
        "optim.py",
        "(math.sqrt(v * correction2) + epsilon)",
        "math.sqrt(v * correction2 + epsilon)",
        OPTIM,
    ),
    Mutant("optim: first moment not corrected", "optim.py", "(m * correction1)", "m", OPTIM),
    Mutant(
        "optim: momentum lost", "optim.py", "momentum * velocity[i] + gradient[i]", "velocity[i] + gradient[i]", OPTIM
    ),
    Mutant("optim: uphill", "optim.py", "parameter[i] - rate * v", "parameter[i] + rate * v", OPTIM),
    # random.py
    Mutant("random: key of another sample", "random.py", "return keys[2 * sample],", "return keys[0],", RANDOM),
    Mutant("random: nine rounds", "random.py", "ROUNDS = 10", "ROUNDS = 9", RANDOM),
    Mutant("random: key not raised", "random.py", "uint64(0xBB67AE85) & LOW", "uint64(0xBB67AE84) & LOW", RANDOM),
    Mutant(
        "random: counter words swapped",
        "random.py",
        "num_blocks), step, sample_index[i // num_blocks], uint32(0)",
        "num_blocks), sample_index[i // num_blocks], step, uint32(0)",
        RANDOM,
    ),
    Mutant(
        "random: counter of the wrong sample", "random.py", "philox(uint32(i % num_blocks)", "philox(uint32(i)", RANDOM
    ),
    Mutant(
        "random: no mask at the end of a sample", "random.py", "if first + 3 < size:", "if first + 3 <= size:", RANDOM
    ),
    Mutant(
        "random: last number of a block missing", "random.py", "if first + 3 < size:", "if first + 4 < size:", RANDOM
    ),
    Mutant(
        "random: uniform numbers without their half", "random.py", "(float64(word) + HALF_64)", "float64(word)", RANDOM
    ),
    Mutant(
        "random: uniform numbers from the wrong bits",
        "random.py",
        "word >> uint32(8)",
        "word & uint32(0xFFFFFF)",
        RANDOM,
    ),
    Mutant(
        "random: normal numbers from swapped words",
        "random.py",
        "z2, z3 = pair_of(w2, w3)",
        "z2, z3 = pair_of(w3, w2)",
        RANDOM,
    ),
]
