r"""Random proposals of attacks that see a model's answers only: noise, squares, and steps along a boundary.

The random numbers are made in the kernels that need them, from words of Philox at (key, step, sample), and are never
stored. Words are numbered within a sample; unless something else is said, number k of a sample is for element k of
(c, h, w) in C order, and the uppermost bit of a word is a fair coin. Sums over an image are made of partial ones, of a
row or of a counter, added in their order in float64: they do not depend on the batch.

Axes: n images, c channels, (h, w) pixels.

References
----------
.. [1] Andriushchenko, Croce, Flammarion, Hein, "Square attack: a query-efficient black-box adversarial attack via
   random search", ECCV 2020.
.. [2] Brendel, Rauber, Bethge, "Decision-based adversarial attacks: reliable attacks against black-box machine learning
   models", ICLR 2018.
.. [3] Uesato, O'Donoghue, van den Oord, Kohli, "Adversarial risk and the dangers of evaluating against weak attacks",
   ICML 2018.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import (
    InputError,
    check_count,
    check_float,
    check_integer,
    check_ndim,
    check_number,
    check_same,
    check_shape,
)

from ..device import device
from ..kernels import proposals as kernels
from .attack_steps import distance_l2, random_start_l2
from .random import Key, random_words


def salt_and_pepper_noise(x: Array, count: Array, *, key: Key, sample_index: Array, step: int = 0) -> Array:
    """As `malade_ref.ops.salt_and_pepper_noise`."""
    _check_images(x, sample_index)
    check_shape("count", count, x.shape[:1])
    check_integer("count", count)
    xp = device().xp
    n, c, h, w = x.shape
    x = xp.ascontiguousarray(x)
    out = device().empty(x.shape, x.dtype)
    # The first word that is too large; 2^32 if none is.
    words = random_words(h * w, key=key, sample_index=sample_index, step=step)
    ordered = xp.concatenate(
        [xp.sort(words, axis=1).astype("uint64"), xp.full((n, 1), 1 << 32, dtype="uint64")], axis=1
    )
    limit = ordered[xp.arange(n), xp.clip(count, 0, h * w)]
    arrays = (out.reshape(-1), x.reshape(-1), limit, _samples(sample_index))
    sizes = map(np.int64, (h, w, c))
    device().for_elements(kernels.salt_and_pepper_noise, n * h * w, *arrays, *sizes, *_counter(step, key))
    return out


def changed_share(x: Array, centre: Array) -> Array:
    """As `malade_ref.ops.changed_share`."""
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_same("centre", centre, "x", x)
    n, c, h, w = x.shape
    x, centre = _flat(x, centre)
    changed = device().empty((n * h * w,), "float64")
    device().for_elements(kernels.pixel_changed, changed.size, changed, x, centre, np.int64(h * w), np.int64(c))
    return _sums(changed, n) / max(1, h * w)


def square_start_linf(centre: Array, *, eps: float, key: Key, sample_index: Array) -> Array:
    """As `malade_ref.ops.square_start_linf`."""
    _check_images(centre, sample_index)
    check_number("eps", eps, minimum=0)
    out = device().empty(centre.shape, centre.dtype)
    arrays = (out.reshape(-1), *_flat(centre), np.float64(eps), _samples(sample_index))
    body = kernels.SQUARE_START_LINF[str(centre.dtype)]
    device().for_elements(body, out.size, *arrays, *_sizes(centre), *_counter(0, key)[1:])
    return out


def square_step_linf(
    x: Array, centre: Array, *, size: int, eps: float, key: Key, sample_index: Array, step: int = 0
) -> Array:
    """As `malade_ref.ops.square_step_linf`."""
    _check_squares(x, centre, size, eps, sample_index)
    out = device().empty(x.shape, x.dtype)
    arrays = (out.reshape(-1), *_flat(x, centre), np.float64(eps), _samples(sample_index))
    body = kernels.SQUARE_STEP_LINF[str(x.dtype)]
    device().for_elements(body, out.size, *arrays, *_sizes(x), np.int64(size), *_counter(step, key))
    return out


def square_start_l2(centre: Array, *, eps: float, key: Key, sample_index: Array) -> Array:
    """As `malade_ref.ops.square_start_l2`."""
    _check_images(centre, sample_index)
    check_number("eps", eps, minimum=0)
    size = max(1, min(centre.shape[2:]) // 5)
    out = device().empty(centre.shape, centre.dtype)
    arrays = (out.reshape(-1), _bump_on_device(size, out.dtype), _samples(sample_index))
    numbers = (*_sizes(centre), np.int64(size), *_counter(0, key)[1:])
    device().for_elements(kernels.square_start_l2, out.size, *arrays, *numbers)
    return _as_far_as_the_ball(centre, out, eps)


def square_step_l2(
    x: Array, centre: Array, *, size: int, eps: float, key: Key, sample_index: Array, step: int = 0
) -> Array:
    """As `malade_ref.ops.square_step_l2`."""
    _check_squares(x, centre, size, eps, sample_index)
    run, empty = device().for_elements, device().empty
    n, c, h, _ = x.shape
    words = random_words(5 + c, key=key, sample_index=sample_index, step=step)
    arrays = _flat(x, centre)
    square = (words.reshape(-1), np.int64(5 + c), *_sizes(x), np.int64(size))
    bump = _bump_on_device(size, "float64")

    parts = [empty((n * c * h,), "float64") for _ in range(3)]
    run(kernels.square_sums, n * c * h, *parts, *arrays, *square)
    first, both, everywhere = _sums(parts[0], n * c), _sums(parts[1], n * c), _sums(parts[2], n)
    run(kernels.square_mixed_sums, n * c * h, parts[0], *arrays, bump, first, *square)
    mixed = _sums(parts[0], n * c)
    delta = empty(x.shape, x.dtype)
    sums = (first, both, everywhere, mixed)
    run(kernels.square_move, delta.size, delta.reshape(-1), *arrays, bump, *sums, *square, np.float64(eps))
    return _as_far_as_the_ball(centre, delta, eps)


def boundary_proposal(
    x: Array,
    centre: Array,
    spherical_step: Array,
    source_step: Array,
    *,
    key: Key,
    sample_index: Array,
    step: int = 0,
) -> tuple[Array, Array]:
    """As `malade_ref.ops.boundary_proposal`."""
    _check_images(x, sample_index)
    check_same("centre", centre, "x", x)
    check_shape("spherical_step", spherical_step, x.shape[:1])
    check_shape("source_step", source_step, x.shape[:1])
    xp, run, empty, dtype = device().xp, device().for_elements, device().empty, str(x.dtype)
    n, size = len(x), math.prod(x.shape[1:])
    blocks = -(-size // 4)
    flat_x, flat_centre = _flat(x, centre)
    a, b = (xp.ascontiguousarray(values.astype("float64")) for values in (spherical_step, source_step))
    numbers = (_samples(sample_index), np.int64(blocks), np.int64(size), *_counter(step, key))

    parts = [empty((n * blocks,), "float64") for _ in range(3)]
    run(kernels.BOUNDARY_ALONG[dtype], n * blocks, *parts, flat_x, flat_centre, *numbers)
    dot, noise, distance = (_sums(part, n) for part in parts)
    run(kernels.BOUNDARY_ACROSS[dtype], n * blocks, parts[0], dot, distance, flat_x, flat_centre, *numbers)
    rest = _sums(parts[0], n)
    spherical, candidate = empty(x.shape, dtype), empty(x.shape, dtype)
    sums = (dot, noise, distance, rest)
    on_sphere = spherical.reshape(-1)
    run(kernels.BOUNDARY_SPHERE[dtype], n * blocks, on_sphere, *sums, flat_x, flat_centre, a, *numbers)
    new_distance = distance_l2(spherical, centre)
    arrays = (candidate.reshape(-1), on_sphere, flat_centre, distance, new_distance, b)
    run(kernels.boundary_pull, candidate.size, *arrays, np.int64(size))
    return spherical, candidate


def spsa_points(x: Array, *, width: float, key: Key, sample_index: Array, step: int = 0) -> tuple[Array, Array]:
    """As `malade_ref.ops.spsa_points`."""
    _check_images(x, sample_index)
    check_number("width", width, above=0)
    ahead, behind = device().empty(x.shape, x.dtype), device().empty(x.shape, x.dtype)
    arrays = (ahead.reshape(-1), behind.reshape(-1), *_flat(x), x.dtype.type(width), _samples(sample_index))
    device().for_elements(kernels.spsa_points, x.size, *arrays, _size(x), *_counter(step, key))
    return ahead, behind


def spsa_gradient(gradient: Array, rise: Array, *, width: float, key: Key, sample_index: Array, step: int = 0) -> Array:
    """As `malade_ref.ops.spsa_gradient`."""
    _check_images(gradient, sample_index)
    check_shape("rise", rise, gradient.shape[:1])
    check_number("width", width, above=0)
    xp = device().xp
    slope = xp.where(xp.isfinite(rise), rise, 0) / (2 * width)
    slope = xp.ascontiguousarray(slope.astype(gradient.dtype))
    out = device().empty(gradient.shape, gradient.dtype)
    arrays = (out.reshape(-1), *_flat(gradient), slope, _samples(sample_index))
    device().for_elements(kernels.spsa_gradient, out.size, *arrays, _size(gradient), *_counter(step, key))
    return out


# What the kernels take -----------------------------------------------------------------------------------------------


def _flat(*images: Array) -> tuple[Array, ...]:
    """Images as one row of numbers in C order."""
    return tuple(device().xp.ascontiguousarray(x).reshape(-1) for x in images)


def _samples(sample_index: Array) -> Array:
    """Numbers of the samples, as counters have them."""
    return device().xp.ascontiguousarray(sample_index.astype("uint32"))


def _sizes(x: Array) -> tuple[np.int64, np.int64, np.int64]:
    """Height, width and channels."""
    return np.int64(x.shape[2]), np.int64(x.shape[3]), np.int64(x.shape[1])


def _size(x: Array) -> np.int64:
    """Numbers in an image."""
    return np.int64(max(1, math.prod(x.shape[1:])))


def _counter(step: int, key: Key) -> tuple[np.uint32, np.uint32, np.uint32]:
    """Step and key, after a look at the step."""
    if check_count("step", step, minimum=0) >= 1 << 32:
        raise InputError(f"step: expected an integer below 2**32, got {step}")
    return np.uint32(step), np.uint32(key[0]), np.uint32(key[1])


def _sums(parts: Array, count: int) -> Array:
    """So many sums of neighbours."""
    total = device().empty((count,), "float64")
    device().for_elements(kernels.add_rows, count, total, parts, np.int64(parts.size // max(1, count)))
    return total


def _as_far_as_the_ball(centre: Array, direction: Array, eps: float) -> Array:
    """The point of the ball's surface in a direction, clipped to [0, 1]."""
    return random_start_l2(centre, direction, device().xp.ones(len(centre), dtype=centre.dtype), eps=eps)


@lru_cache(maxsize=64)
def bump(size: int) -> tuple[float, ...]:
    """Two rectangular hills, the upper half of a square up and the lower one down, of length 1 together.

    Each is a stack of layers around its middle, layer k reaching k pixels far and being 1 / (k + 1)^2 high.

    Parameters
    ----------
    size : int
        Side of the square.

    Returns
    -------
    tuple of float
        Heights, row by row.
    """
    halves = []
    for rows, sign in ((size // 2, 1.0), (size - size // 2, -1.0)):
        heights = []
        layers = max(rows // 2, size // 2) + 1
        for row in range(rows):
            for column in range(size):
                away = max(abs(row - rows // 2), abs(column - size // 2))
                heights.append(math.fsum(1.0 / (k + 1) ** 2 for k in range(away, layers)))
        length = math.sqrt(math.fsum(height * height for height in heights))
        halves += [sign * height / length for height in heights]
    total = math.sqrt(math.fsum(height * height for height in halves))
    return tuple(height / total for height in halves)


def _bump_on_device(size: int, dtype: Any) -> Array:
    return device().xp.asarray(np.array(bump(size), dtype=dtype))


# Checks --------------------------------------------------------------------------------------------------------------


def _check_images(x: Array, sample_index: Array) -> None:
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_float("x", x)
    check_shape("sample_index", sample_index, x.shape[:1])
    check_integer("sample_index", sample_index)


def _check_squares(x: Array, centre: Array, size: int, eps: float, sample_index: Array) -> None:
    _check_images(x, sample_index)
    check_same("centre", centre, "x", x)
    check_number("eps", eps, minimum=0)
    if check_count("size", size) > min(x.shape[2:]):
        raise InputError(f"size: expected at most {min(x.shape[2:])}, the smaller side of the images; got {size}")
