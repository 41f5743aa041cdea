"""Bodies of random proposals; their words are made in place, the same ones in every body that needs them.

Images are contiguous in C order. ``num_blocks`` counters of four words make the numbers of a sample, ``size`` of them.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32, float64, int64, uint32, uint64

from ..elements import element
from .attack_steps import PIXEL_BOUNDS
from .random import NORMAL_PAIR, philox, words_of

ZERO, ONE = float32(0.0), float32(1.0)
TOP_BIT = uint32(1 << 31)
SHORTEST = 1e-6  # what is shorter, relative to what it is the difference of, has no direction


@element
def word_of(k: Any, sample: Any, step: Any, k0: Any, k1: Any) -> Any:
    """Word number k of a sample, alone."""
    w0, w1, w2, w3 = philox(uint32(k // 4), step, sample, uint32(0), k0, k1)
    place = k % 4
    return w0 if place == 0 else w1 if place == 1 else w2 if place == 2 else w3


@element
def placed(word: Any, places: Any) -> Any:
    """One of so many places."""
    return int64(uint64(word) * uint64(places) >> uint64(32))


@element
def up(word: Any) -> Any:
    """The coin of a word."""
    return word >= TOP_BIT


# Salt and pepper -----------------------------------------------------------------------------------------------------


@element
def salt_and_pepper_noise(
    i: Any, out: Any, x: Any, limit: Any, sample_index: Any, h: Any, w: Any, channels: Any, step: Any, k0: Any, k1: Any
) -> None:
    """Pixel i of its image, in all channels: black or white where its word is below the limit."""
    area = h * w
    sample, pixel = i // area, i % area
    word = word_of(pixel, sample_index[sample], step, k0, k1)
    replaced = uint64(word) < limit[sample]
    noise = ONE if word & uint32(1) else ZERO
    for channel in range(channels):
        place = (sample * channels + channel) * area + pixel
        out[place] = noise if replaced else x[place]


@element
def pixel_changed(i: Any, changed: Any, x: Any, centre: Any, area: Any, channels: Any) -> None:
    """Whether pixel i of its image differs in any channel."""
    first = i // area * channels * area + i % area
    changed[i] = 0.0
    for channel in range(channels):
        if x[first + channel * area] != centre[first + channel * area]:
            changed[i] = 1.0


@element
def add_rows(i: Any, total: Any, parts: Any, size: Any) -> None:
    """Sum of row i, in its order."""
    value = 0.0
    for k in range(size):
        value += parts[i * size + k]
    total[i] = value


# Squares -------------------------------------------------------------------------------------------------------------


def square_start_linf(bounds_of: Any) -> Any:
    """Body for stripes at either end of the cube."""

    @element
    def start(
        i: Any, out: Any, centre: Any, eps: Any, sample_index: Any, h: Any, w: Any, channels: Any, k0: Any, k1: Any
    ) -> None:
        sample = i // (channels * h * w)
        stripe = i // (h * w) % channels * w + i % w
        lower, upper = bounds_of(centre[i], eps)
        out[i] = upper if up(word_of(stripe, sample_index[sample], uint32(0), k0, k1)) else lower

    return start


def square_step_linf(bounds_of: Any) -> Any:
    """Body for a square at either end of the cube."""

    @element
    def move(
        i: Any,
        out: Any,
        x: Any,
        centre: Any,
        eps: Any,
        sample_index: Any,
        h: Any,
        w: Any,
        channels: Any,
        side: Any,
        step: Any,
        k0: Any,
        k1: Any,
    ) -> None:
        sample = sample_index[i // (channels * h * w)]
        w0, w1, w2, w3 = philox(uint32(0), step, sample, uint32(0), k0, k1)
        row, column = i // w % h - placed(w0, h - side + 1), i % w - placed(w1, w - side + 1)
        out[i] = x[i]
        if row >= 0 and row < side and column >= 0 and column < side:
            channel = i // (h * w) % channels
            coin = w2 if channel == 0 else w3 if channel == 1 else word_of(2 + channel, sample, step, k0, k1)
            lower, upper = bounds_of(centre[i], eps)
            out[i] = upper if up(coin) else lower

    return move


@element
def square_start_l2(
    i: Any, out: Any, bump: Any, sample_index: Any, h: Any, w: Any, channels: Any, side: Any, k0: Any, k1: Any
) -> None:
    """Bumps on tiles, before they are given a length."""
    rows, columns = h // side, w // side
    row, column = i // w % h - (h - rows * side) // 2, i % w - (w - columns * side) // 2
    out[i] = ZERO
    if row >= 0 and row < rows * side and column >= 0 and column < columns * side:
        tile = (i // (h * w) % channels * rows + row // side) * columns + column // side
        word = word_of(tile, sample_index[i // (channels * h * w)], uint32(0), k0, k1)
        row, column = row % side, column % side
        value = bump[column * side + row] if word & uint32(1) else bump[row * side + column]
        out[i] = value if up(word) else -value


@element
def offset(i: Any, words: Any, sample: Any, first: Any, num_words: Any, h: Any, w: Any, side: Any) -> Any:
    """Number of element i in the square placed by two words of its sample; -1 outside."""
    row = i // w % h - placed(words[sample * num_words + first], h - side + 1)
    column = i % w - placed(words[sample * num_words + first + 1], w - side + 1)
    inside = row >= 0 and row < side and column >= 0 and column < side
    return row * side + column if inside else -1


@element
def square_sums(
    i: Any,
    of_first: Any,
    of_both: Any,
    of_all: Any,
    x: Any,
    centre: Any,
    words: Any,
    num_words: Any,
    h: Any,
    w: Any,
    channels: Any,
    side: Any,
) -> None:
    """Sums of the squares of row i of the perturbation: in the first square, in either, everywhere."""
    sample = i // (h * channels)
    in_first, in_both, in_all = 0.0, 0.0, 0.0
    for k in range(i * w, i * w + w):
        delta = float64(x[k]) - float64(centre[k])
        first = offset(k, words, sample, 0, num_words, h, w, side) >= 0
        in_all += delta * delta
        if first:
            in_first += delta * delta
        if first or offset(k, words, sample, 2, num_words, h, w, side) >= 0:
            in_both += delta * delta
    of_first[i], of_both[i], of_all[i] = in_first, in_both, in_all


@element
def square_mixture(
    i: Any,
    k: Any,
    x: Any,
    centre: Any,
    bump: Any,
    sum_first: Any,
    words: Any,
    num_words: Any,
    h: Any,
    w: Any,
    channels: Any,
    side: Any,
) -> Any:
    """Element i: the bump with its sign, and the old perturbation of the first square made 1 long; k is its place."""
    sample, plane = i // (channels * h * w), i // (h * w)
    word = words[sample * num_words + 4]
    value = bump[k % side * side + k // side] if up(word) else bump[k]
    value = value if up(words[sample * num_words + 5 + plane % channels]) else -value
    old = math.sqrt(sum_first[plane])
    return value, (float64(x[i]) - float64(centre[i])) / old if old > 0.0 else 0.0


@element
def square_mixed_sums(
    i: Any,
    total: Any,
    x: Any,
    centre: Any,
    bump: Any,
    sum_first: Any,
    words: Any,
    num_words: Any,
    h: Any,
    w: Any,
    channels: Any,
    side: Any,
) -> None:
    """Sum of the squares of row i of the mixture."""
    sample = i // (h * channels)
    total[i] = 0.0
    for element_ in range(i * w, i * w + w):
        k = offset(element_, words, sample, 0, num_words, h, w, side)
        if k >= 0:
            value, old = square_mixture(element_, k, x, centre, bump, sum_first, words, num_words, h, w, channels, side)
            total[i] += (value + old) * (value + old)


@element
def square_move(
    i: Any,
    out: Any,
    x: Any,
    centre: Any,
    bump: Any,
    sum_first: Any,
    sum_both: Any,
    sum_all: Any,
    sum_mixed: Any,
    words: Any,
    num_words: Any,
    h: Any,
    w: Any,
    channels: Any,
    side: Any,
    eps: Any,
) -> None:
    """The new perturbation, before it is given a length."""
    sample, plane = i // (channels * h * w), i // (h * w)
    k = offset(i, words, sample, 0, num_words, h, w, side)
    if k >= 0:
        value, old = square_mixture(i, k, x, centre, bump, sum_first, words, num_words, h, w, channels, side)
        length = math.sqrt(sum_mixed[plane])
        if length > SHORTEST:
            value = (value + old) / length
        unused = max(eps * eps - sum_all[sample], 0.0) / channels
        out[i] = math.sqrt(sum_both[plane] + unused) * value
    elif offset(i, words, sample, 2, num_words, h, w, side) >= 0:
        out[i] = ZERO
    else:
        out[i] = x[i] - centre[i]


# The decision boundary -----------------------------------------------------------------------------------------------


def boundary_noise(pair_of: Any) -> Any:
    """Function that gives the four normal numbers of a counter."""

    @element
    def four(i: Any, sample_index: Any, num_blocks: Any, step: Any, k0: Any, k1: Any) -> Any:
        w0, w1, w2, w3 = words_of(i, sample_index, num_blocks, step, k0, k1)
        z0, z1 = pair_of(w0, w1)
        z2, z3 = pair_of(w2, w3)
        return z0, z1, z2, z3

    return four


def boundary_along(four_of: Any) -> Any:
    """Body for what counter i adds to z . (x - c), ||z||^2 and ||x - c||^2."""

    @element
    def along(
        i: Any,
        dot: Any,
        squares: Any,
        distance: Any,
        x: Any,
        centre: Any,
        sample_index: Any,
        num_blocks: Any,
        size: Any,
        step: Any,
        k0: Any,
        k1: Any,
    ) -> None:
        z = four_of(i, sample_index, num_blocks, step, k0, k1)
        first = i % num_blocks * 4
        row = i // num_blocks * size
        dot[i], squares[i], distance[i] = 0.0, 0.0, 0.0
        for k in range(4):
            if first + k < size:
                away = float64(x[row + first + k]) - float64(centre[row + first + k])
                dot[i] += z[k] * away
                squares[i] += float64(z[k]) * float64(z[k])
                distance[i] += away * away

    return along


def boundary_across(four_of: Any) -> Any:
    """Body for what counter i adds to the squared length of z without its part along x - c."""

    @element
    def across(
        i: Any,
        remainder: Any,
        dots: Any,
        distances: Any,
        x: Any,
        centre: Any,
        sample_index: Any,
        num_blocks: Any,
        size: Any,
        step: Any,
        k0: Any,
        k1: Any,
    ) -> None:
        z = four_of(i, sample_index, num_blocks, step, k0, k1)
        sample, first = i // num_blocks, i % num_blocks * 4
        share = dots[sample] / distances[sample] if distances[sample] > 0.0 else 0.0
        remainder[i] = 0.0
        for k in range(4):
            if first + k < size:
                place = sample * size + first + k
                value = z[k] - share * (float64(x[place]) - float64(centre[place]))
                remainder[i] += value * value

    return across


def boundary_sphere(four_of: Any) -> Any:
    """Body for the step on the sphere."""

    @element
    def sphere(
        i: Any,
        out: Any,
        dots: Any,
        noises: Any,
        distances: Any,
        rests: Any,
        x: Any,
        centre: Any,
        spherical_step: Any,
        sample_index: Any,
        num_blocks: Any,
        size: Any,
        step: Any,
        k0: Any,
        k1: Any,
    ) -> None:
        z = four_of(i, sample_index, num_blocks, step, k0, k1)
        sample, first = i // num_blocks, i % num_blocks * 4
        a, length = spherical_step[sample], math.sqrt(rests[sample])
        share = dots[sample] / distances[sample] if distances[sample] > 0.0 else 0.0
        scale = 0.0
        if length > SHORTEST * math.sqrt(noises[sample]):
            scale = a * math.sqrt(distances[sample]) / length
        for k in range(4):
            if first + k < size:
                place = sample * size + first + k
                away = float64(x[place]) - float64(centre[place])
                moved = away + scale * (z[k] - share * away)
                out[place] = min(max(float64(centre[place]) + moved / math.sqrt(1.0 + a * a), 0.0), 1.0)

    return sphere


@element
def boundary_pull(
    i: Any, out: Any, spherical: Any, centre: Any, distances: Any, new_distances: Any, source_step: Any, size: Any
) -> None:
    """The step towards the clean image."""
    sample = i // size
    distance, new = math.sqrt(distances[sample]), new_distances[sample]
    share = min(max(source_step[sample] * distance + new - distance, 0.0) / new, 1.0) if new > 0.0 else 0.0
    start = float64(spherical[i])
    out[i] = min(max(start + share * (float64(centre[i]) - start), 0.0), 1.0)


# Simultaneous perturbations ------------------------------------------------------------------------------------------


@element
def spsa_points(
    i: Any, ahead: Any, behind: Any, x: Any, width: Any, sample_index: Any, size: Any, step: Any, k0: Any, k1: Any
) -> None:
    """Element i moved one way and the other, within [0, 1]."""
    shift = width if up(word_of(i % size, sample_index[i // size], step, k0, k1)) else -width
    ahead[i] = min(max(x[i] + shift, ZERO), ONE)
    behind[i] = min(max(x[i] - shift, ZERO), ONE)


@element
def spsa_gradient(
    i: Any, out: Any, gradient: Any, slopes: Any, sample_index: Any, size: Any, step: Any, k0: Any, k1: Any
) -> None:
    """One estimate more."""
    forward = up(word_of(i % size, sample_index[i // size], step, k0, k1))
    out[i] = gradient[i] + slopes[i // size] if forward else gradient[i] - slopes[i // size]


FOUR = {dtype: boundary_noise(pair_of) for dtype, pair_of in NORMAL_PAIR.items()}
SQUARE_START_LINF = {dtype: square_start_linf(bounds_of) for dtype, bounds_of in PIXEL_BOUNDS.items()}
SQUARE_STEP_LINF = {dtype: square_step_linf(bounds_of) for dtype, bounds_of in PIXEL_BOUNDS.items()}
BOUNDARY_ALONG = {dtype: boundary_along(four_of) for dtype, four_of in FOUR.items()}
BOUNDARY_ACROSS = {dtype: boundary_across(four_of) for dtype, four_of in FOUR.items()}
BOUNDARY_SPHERE = {dtype: boundary_sphere(four_of) for dtype, four_of in FOUR.items()}
