"""Bodies of mixtures of Gaussians: element i is a point, or a walker with its whole chain.

The number of dimensions is known to the compiler, so that a point's arrays of that length can stay in registers; each
function here makes the body for one precision and one number of dimensions. Products with the triangular matrices run
over their zeros too: a loop of known length is unrolled, and only then do its arrays stay in registers. Shares are
summed on the fly: whenever a larger term turns up, what has been summed is scaled down to it.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from numba import float32, float64, int64, uint32

from ..elements import element, element_with
from .random import NORMAL_PAIR, philox, uniform_float32, uniform_float64

REAL = {"float32": float32, "float64": float64}
UNIFORM = {"float32": uniform_float32, "float64": uniform_float64}
# Logarithm of a density that is 0 for all purposes, as in the reference.
LOWEST = {"float32": -1e38, "float64": -1e307}


@cache
def log_joint(dtype: str, d: int) -> Any:
    """Logarithm of a component's weighted density at a point."""
    real = REAL[dtype]
    zero, half, lowest = real(0.0), real(0.5), real(LOWEST[dtype])

    @element
    def value_at(point: Any, k: Any, log_scale: Any, means: Any, whitening: Any) -> Any:
        squares = zero
        for row in range(d):
            z = zero
            for column in range(d):
                z += whitening[(k * d + row) * d + column] * (point[column] - means[k * d + column])
            squares += z * z
        return max(log_scale[k] - half * squares, lowest)

    return value_at


@cache
def log_joint_and_gradient(dtype: str, d: int) -> Any:
    """The same, and its gradient."""
    real = REAL[dtype]
    zero, half, lowest = real(0.0), real(0.5), real(LOWEST[dtype])

    @element
    def value_and_gradient_at(gradient: Any, point: Any, k: Any, log_scale: Any, means: Any, whitening: Any) -> Any:
        for column in range(d):
            gradient[column] = zero
        squares = zero
        for row in range(d):
            z = zero
            for column in range(d):
                z += whitening[(k * d + row) * d + column] * (point[column] - means[k * d + column])
            squares += z * z
            for column in range(d):
                gradient[column] -= whitening[(k * d + row) * d + column] * z
        return max(log_scale[k] - half * squares, lowest)

    return value_and_gradient_at


@cache
def sums(dtype: str, d: int) -> Any:
    """How a density and its score add up: a function that adds a component, and one that finishes."""
    real, value_and_gradient_at = REAL[dtype], log_joint_and_gradient(dtype, d)
    one = real(1.0)

    @element
    def add(
        score: Any,
        gradient: Any,
        largest: Any,
        total: Any,
        point: Any,
        k: Any,
        log_scale: Any,
        means: Any,
        whitening: Any,
    ) -> Any:
        value = value_and_gradient_at(gradient, point, k, log_scale, means, whitening)
        if value > largest:
            scale, weight, largest = math.exp(largest - value), one, value
        else:
            scale, weight = one, math.exp(value - largest)
        for column in range(d):
            score[column] = score[column] * scale + weight * gradient[column]
        return largest, total * scale + weight

    @element
    def finish(score: Any, largest: Any, total: Any) -> Any:
        for column in range(d):
            score[column] /= total
        return largest + math.log(total)

    return add, finish


@cache
def score_of_class(dtype: str, d: int) -> Any:
    """Log density and score of the components with a label."""
    real, (add, finish) = REAL[dtype], sums(dtype, d)
    zero, infinity = real(0.0), real(math.inf)

    @element
    def score_at(
        score: Any,
        gradient: Any,
        point: Any,
        label: Any,
        log_scale: Any,
        means: Any,
        whitening: Any,
        labels: Any,
    ) -> Any:
        largest, total = -infinity, zero
        for column in range(d):
            score[column] = zero
        for k in range(len(log_scale)):
            if labels[k] == label:
                largest, total = add(score, gradient, largest, total, point, k, log_scale, means, whitening)
        return finish(score, largest, total)

    return score_at


@cache
def score_of_all(dtype: str, d: int) -> Any:
    """Log density and score of all components."""
    real, (add, finish) = REAL[dtype], sums(dtype, d)
    zero, infinity = real(0.0), real(math.inf)

    @element
    def score_at(score: Any, gradient: Any, point: Any, log_scale: Any, means: Any, whitening: Any) -> Any:
        largest, total = -infinity, zero
        for column in range(d):
            score[column] = zero
        for k in range(len(log_scale)):
            largest, total = add(score, gradient, largest, total, point, k, log_scale, means, whitening)
        return finish(score, largest, total)

    return score_at


@cache
def log_densities(dtype: str, d: int) -> Any:
    """Log densities of a point and each class."""
    real, value_at = REAL[dtype], log_joint(dtype, d)
    zero, one, infinity = real(0.0), real(1.0), real(math.inf)

    @element_with(point=(d, real))
    def body(
        i: Any,
        out: Any,
        x: Any,
        log_scale: Any,
        means: Any,
        whitening: Any,
        labels: Any,
        num_classes: Any,
        point: Any,
    ) -> None:
        for column in range(d):
            point[column] = x[i * d + column]
        for label in range(num_classes):
            largest, total = -infinity, zero
            for k in range(len(log_scale)):
                if labels[k] != label:
                    continue
                value = value_at(point, k, log_scale, means, whitening)
                if value > largest:
                    total = total * math.exp(largest - value) + one
                    largest = value
                else:
                    total += math.exp(value - largest)
            out[i * num_classes + label] = largest + math.log(total)

    return body


@cache
def scores(dtype: str, d: int) -> Any:
    """Log densities of a point and each class, and their gradients."""
    real, score_at = REAL[dtype], score_of_class(dtype, d)

    @element_with(point=(d, real), score=(d, real), gradient=(d, real))
    def body(
        i: Any,
        values: Any,
        out: Any,
        x: Any,
        log_scale: Any,
        means: Any,
        whitening: Any,
        labels: Any,
        num_classes: Any,
        point: Any,
        score: Any,
        gradient: Any,
    ) -> None:
        for column in range(d):
            point[column] = x[i * d + column]
        for label in range(num_classes):
            row = i * num_classes + label
            values[row] = score_at(score, gradient, point, label, log_scale, means, whitening, labels)
            for column in range(d):
                out[row * d + column] = score[column]

    return body


@cache
def precisions(dtype: str, d: int) -> Any:
    """Products W' W of the components' whitening matrices, an element each."""
    zero = REAL[dtype](0.0)

    @element
    def body(i: Any, out: Any, whitening: Any) -> None:
        first, line, column = i // (d * d) * (d * d), i // d % d, i % d
        total = zero
        for row in range(d):
            total += whitening[first + row * d + line] * whitening[first + row * d + column]
        out[i] = total

    return body


@cache
def hessians(dtype: str, d: int) -> Any:
    """Log densities of a point and each class, their gradients and their Hessians."""
    real, score_at, value_and_gradient_at = REAL[dtype], score_of_class(dtype, d), log_joint_and_gradient(dtype, d)
    zero = real(0.0)

    @element_with(point=(d, real), score=(d, real), gradient=(d, real))
    def body(
        i: Any,
        values: Any,
        scores: Any,
        out: Any,
        x: Any,
        log_scale: Any,
        means: Any,
        whitening: Any,
        precisions: Any,
        labels: Any,
        num_classes: Any,
        point: Any,
        score: Any,
        gradient: Any,
    ) -> None:
        for column in range(d):
            point[column] = x[i * d + column]
        for label in range(num_classes):
            row = i * num_classes + label
            log_density = score_at(score, gradient, point, label, log_scale, means, whitening, labels)
            values[row] = log_density
            for column in range(d):
                scores[row * d + column] = score[column]
            for place in range(d * d):
                out[row * d * d + place] = zero
            for k in range(len(log_scale)):
                if labels[k] != label:
                    continue
                value = value_and_gradient_at(gradient, point, k, log_scale, means, whitening)
                share = math.exp(value - log_density)
                for line in range(d):
                    for column in range(d):
                        spread = (gradient[line] - score[line]) * (gradient[column] - score[column])
                        place = line * d + column
                        out[row * d * d + place] += share * (spread - precisions[k * d * d + place])

    return body


@cache
def responsibilities(dtype: str, d: int) -> Any:
    """Shares of the components in the density at a point."""
    real, value_at = REAL[dtype], log_joint(dtype, d)
    zero, infinity = real(0.0), real(math.inf)

    @element_with(point=(d, real))
    def body(i: Any, out: Any, x: Any, log_scale: Any, means: Any, whitening: Any, point: Any) -> None:
        m = len(log_scale)
        for column in range(d):
            point[column] = x[i * d + column]
        largest, total = -infinity, zero
        for k in range(m):
            value = value_at(point, k, log_scale, means, whitening)
            out[i * m + k] = value
            largest = max(largest, value)
        for k in range(m):
            share = math.exp(out[i * m + k] - largest)
            out[i * m + k] = share
            total += share
        for k in range(m):
            out[i * m + k] /= total

    return body


@cache
def draw_noise(dtype: str, d: int) -> Any:
    """The standard normal numbers of a step of a sample, up to three more than d."""
    pair_of, num_blocks = NORMAL_PAIR[dtype], -(-d // 4)

    @element
    def noise_of(noise: Any, sample: Any, step: Any, k0: Any, k1: Any) -> None:
        for block in range(num_blocks):
            w0, w1, w2, w3 = philox(uint32(block), step, sample, uint32(0), k0, k1)
            noise[4 * block], noise[4 * block + 1] = pair_of(w0, w1)
            noise[4 * block + 2], noise[4 * block + 3] = pair_of(w2, w3)

    return noise_of


@cache
def chain(dtype: str, d: int, metropolis: bool = True) -> Any:
    """All steps of a walker: MALA, or ULA without the Metropolis test."""
    real, uniform_of = REAL[dtype], UNIFORM[dtype]
    score_at, noise_of = score_of_all(dtype, d), draw_noise(dtype, d)
    zero, half = real(0.0), real(0.5)
    vectors = ("point", "score", "moved", "moved_score", "gradient")

    @element_with(**dict.fromkeys(vectors, (d, real)), noise=(-(-d // 4) * 4, real))
    def body(
        i: Any,
        out: Any,
        num_accepted: Any,
        x: Any,
        log_scale: Any,
        means: Any,
        whitening: Any,
        sample_index: Any,
        num_steps: Any,
        first_step: Any,
        alpha: Any,
        delta: Any,
        scale: Any,
        k0: Any,
        k1: Any,
        a0: Any,
        a1: Any,
        point: Any,
        score: Any,
        moved: Any,
        moved_score: Any,
        gradient: Any,
        noise: Any,
    ) -> None:
        for column in range(d):
            point[column] = x[i * d + column]
        sample, moves = sample_index[i], int64(0)
        log_density = score_at(score, gradient, point, log_scale, means, whitening)
        for number in range(num_steps):
            step = uint32(first_step + number)
            noise_of(noise, sample, step, k0, k1)
            for column in range(d):
                moved[column] = point[column] + alpha * score[column] + delta * noise[column]
            moved_log_density = score_at(moved_score, gradient, moved, log_scale, means, whitening)
            if metropolis:
                product = zero
                for column in range(d):
                    there = scale * (moved[column] - point[column] - alpha * score[column])
                    back = scale * (point[column] - moved[column] - alpha * moved_score[column])
                    product += (there - back) * (there + back)
                ratio = moved_log_density - log_density + half * product
                word, _, _, _ = philox(uint32(0), step, sample, uint32(0), a0, a1)
                # So written, a ratio that is not a number refuses.
                if not math.log(uniform_of(word)) < ratio:
                    continue
            moves += 1
            log_density = moved_log_density
            for column in range(d):
                point[column] = moved[column]
                score[column] = moved_score[column]
        num_accepted[i] = moves
        for column in range(d):
            out[i * d + column] = point[column]

    return body
