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
LOSSES = "tests/agree/test_losses.py"
MEMORY = "tests/agree/test_memory.py"
LANGEVIN = "tests/agree/test_langevin.py"
OPTIM = "tests/agree/test_optim.py"
RANDOM = "tests/agree/test_random.py"
PROPOSALS = "tests/agree/test_proposals.py -k 'not whole'"
CONV_SIZES = "tests/agree/test_conv.py::test_sizes_and_precisions -k fp32"
CONV_TENSOR_CORES = "tests/agree/test_conv.py::test_sizes_and_precisions -k tf32x3"
CONV_BFLOAT16 = "tests/agree/test_conv.py::test_sizes_and_precisions -k bf16"
CONV_SUMS = "tests/agree/test_conv.py::test_long_sums_of_one_sign"
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
        "results[m] + n0 + n]",
        "results[m] + n0 + (n + 1) % num_columns]",
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
        "  __syncthreads();\n  Product product;\n  multiply(TapByTap",
        "  Product product;\n  multiply(TapByTap",
        CONV_ORDERS,
    ),
    Mutant(
        "conv: no barrier after the table of taps",
        "conv.cuh",
        "  __syncthreads();\n  Product product;\n  multiply(WindowByWindow",
        "  Product product;\n  multiply(WindowByWindow",
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
        "buffers + step % STAGES * STAGE;\n      left",
        "buffers + (step + 1) % STAGES * STAGE;\n      left",
        CONV_ORDERS,
    ),
    Mutant(
        "conv: buffer overwritten too early",
        "conv.cuh",
        "fetch(step + STAGES - 1);\n    const",
        "fetch(step + STAGES);\n    const",
        CONV_SIZES,
    ),
    Mutant("conv: lines beyond the matrix", "conv.cuh", "left.line + k < num_lines && ", "", CONV_SIZES),
    Mutant(
        "conv: columns beyond the matrix",
        "conv.cuh",
        " && n0 + n < num_columns;\n        const",
        ";\n        const",
        CONV_SIZES,
    ),
    Mutant(
        "conv: taps beyond the window",
        "conv.cuh",
        "exists = tap.outer < kh",
        "exists = true",
        "tests/agree/test_conv.py -k not_a_number",
    ),
    Mutant("conv: windows beyond the part", "conv.cuh", "exists = line + own < end", "exists = true", CONV_SIZES),
    Mutant("conv: carry lost", "conv.cuh", "inner -= inner_size, middle++", "inner -= inner_size", CONV_SIZES),
    Mutant("conv: carry too late", "conv.cuh", "if (middle >= middle_size)", "if (middle > middle_size)", CONV_SIZES),
    Mutant(
        "conv: next channels' weights one line off",
        "conv.cuh",
        "line += DEPTH - num_taps",
        "line += DEPTH - num_taps + 1",
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
        "conv: a number for four",
        "conv.cuh",
        "copy<LEFT_VECTOR>(a + Layout::place(m, own), images.x + (inside ? window",
        "copy<1>(a + Layout::place(m, own), images.x + (inside ? window",
        CONV_SIZES,
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
        "8 * j + 2 * t + r % 2",
        "8 * j + 2 * t + r / 2",
        CONV_TENSOR_CORES,
    ),
    Mutant(
        "conv: one rest left out",
        "conv.cuh",
        "      multiply_add(part, left[0].rest + r, left[1].rest + r, right.word + r);\n",
        "",
        CONV_TENSOR_CORES,
    ),
    Mutant(
        "conv: cut off instead of rounded",
        "conv.cuh",
        "word[r] = to_tf32(values[r]);",
        "word[r] = __float_as_uint(values[r]) & 0xffffe000u;",
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
        "(u * w + v) * c + (m0 + m) % c",
        "(u * h + v) * c + (m0 + m) % c",
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
        "? *reinterpret_cast<const Numbers*>(global) : Numbers{}",
        "|| true ? *reinterpret_cast<const Numbers*>(global) : Numbers{}",
        "tests/emulator/test_kernels.py -k without_asynchronous",
    ),
    # attack_steps.py
    Mutant("steps: sign", "attack_steps.py", "out[i] = x[i] - step_size", "out[i] = x[i] + step_size", STEPS),
    Mutant("steps: sign of 0", "attack_steps.py", "elif gradient[i] < ZERO", "elif gradient[i] <= ZERO", STEPS),
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
    Mutant("proposals: signs of another sample", "proposals.py", "+ slope[i // size]", "+ slope[0]", PROPOSALS),
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
    Mutant("layers: tile one row off", "layers.py", "(n * h + row * th + u)", "(n * h + row * th + u + 1)", LAYERS),
    Mutant("layers: tile's columns swapped", "layers.py", "column * tw) * channels", "column * th) * channels", LAYERS),
    Mutant("layers: tile ends a column early", "layers.py", "for v in range(tw)", "for v in range(tw - 1)", LAYERS),
    Mutant("layers: no mask beyond the last tile", "layers.py", "if row < oh and column < ow:", "if row < oh:", LAYERS),
    Mutant("layers: squared error's gradient halved", "layers.py", "(weight + weight)", "weight", LOSSES),
    # memory.py
    Mutant("memory: last of equals", "memory.py", "value > largest or", "value >= largest or", MEMORY),
    Mutant("memory: NaN is not the largest", "memory.py", " or math.isnan(value)", "", MEMORY),
    Mutant("memory: first number skipped", "memory.py", "best = 0\n", "best = 1 % size\n", MEMORY),
    Mutant("memory: difference for a sum", "memory.py", "x[i] + y[i]", "x[i] - y[i]", MEMORY),
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
