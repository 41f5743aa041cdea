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
    """Images some of whose pixels are black or white in all channels.

    The pixels of the smallest words are taken, black or white by the word's lowest bit; with the same counter, more
    pixels are the fewer and others. There is one word a pixel (h, w).

    Parameters
    ----------
    x : array of shape (n, c, h, w), float32 or float64
        Images.
    count : array of shape (n,), integer
        How many pixels of each image; at most h w count.
    key, sample_index, step
        As in `random_words`.

    Returns
    -------
    array of x's shape and dtype
        Images; no more than ``count`` pixels differ (one fewer, should two words be equal at the limit).

    Raises
    ------
    InputError
        If shapes or dtypes do not fit.
    """
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
    """Share of the pixels (h, w) that differ in any channel.

    Parameters
    ----------
    x, centre : array of shape (n, c, h, w), one dtype
        What is compared.

    Returns
    -------
    array of shape (n,), float64
        Shares, in [0, 1].

    Raises
    ------
    InputError
        If shapes or dtypes differ.
    """
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_same("centre", centre, "x", x)
    n, c, h, w = x.shape
    x, centre = _flat(x, centre)
    changed = device().empty((n * h * w,), "float64")
    device().for_elements(kernels.pixel_changed, changed.size, changed, x, centre, np.int64(h * w), np.int64(c))
    return _sums(changed, n) / max(1, h * w)


def square_start_linf(centre: Array, *, eps: float, key: Key, sample_index: Array) -> Array:
    """Vertical stripes: each column of each channel at one end of the cube around the centre, by the coin c w.

    Parameters
    ----------
    centre : array of shape (n, c, h, w), float32 or float64
        Clean images in [0, 1].
    eps : float
        Half side of the cube, in pixel units, >= 0.
    key, sample_index
        As in `random_words`; the step is 0.

    Returns
    -------
    array of the centre's shape and dtype
        Starting points, within eps and [0, 1].

    Raises
    ------
    InputError
        If shapes do not fit or eps is negative.

    References
    ----------
    .. [1] Andriushchenko et al., "Square attack", ECCV 2020, section 3.3.
    """
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
    """A square of each image, anywhere, at one end of the cube around the centre in each channel.

    Words 0 and 1 place the square, word 2 + k is the coin of channel k.

    Parameters
    ----------
    x, centre : array of shape (n, c, h, w), one dtype
        Position and clean image in [0, 1].
    size : int
        Side of the square, at most the smaller of h and w.
    eps : float
        Half side of the cube, in pixel units, >= 0.
    key, sample_index, step
        As in `random_words`.

    Returns
    -------
    array of x's shape and dtype
        New positions; outside the square they are x.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit, the square does not, or eps is negative.

    References
    ----------
    .. [1] Andriushchenko et al., "Square attack", ECCV 2020, Algorithm 2.
    """
    _check_squares(x, centre, size, eps, sample_index)
    out = device().empty(x.shape, x.dtype)
    arrays = (out.reshape(-1), *_flat(x, centre), np.float64(eps), _samples(sample_index))
    body = kernels.SQUARE_STEP_LINF[str(x.dtype)]
    device().for_elements(body, out.size, *arrays, *_sizes(x), np.int64(size), *_counter(step, key))
    return out


def square_start_l2(centre: Array, *, eps: float, key: Key, sample_index: Array) -> Array:
    """Bumps on a grid of five by five tiles in the middle, each up or down, as far out as the ball goes.

    Tiles are squares of a fifth of the image's smaller side, as many as fit. A tile's word is that of its number in
    (channels, rows of tiles, columns of tiles): its coin says whether the bump is turned around, its lowest bit whether
    it is transposed.

    Parameters
    ----------
    centre : array of shape (n, c, h, w), float32 or float64
        Clean images in [0, 1].
    eps : float
        Radius, in pixel units, >= 0.
    key, sample_index
        As in `random_words`; the step is 0.

    Returns
    -------
    array of the centre's shape and dtype
        Starting points, within eps and [0, 1].

    Raises
    ------
    InputError
        If shapes do not fit or eps is negative.

    References
    ----------
    .. [1] Andriushchenko et al., "Square attack", ECCV 2020, section 3.4.
    """
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
    r"""Move the perturbation of one square of each image into another one, in the form of a bump.

    With :math:`\delta` the perturbation and V, W two squares, in each of the c channels

        delta_V <- (s b + delta_V / ||delta_V||), made as long as
                   sqrt(||delta_{V or W}||^2 + max(eps^2 - ||delta||^2, 0) / c),
        delta_W <- 0 outside V,

    b a bump of length 1, s = +-1 the channel's coin; then all is made eps long and clipped to [0, 1]. Words 0 and 1
    place V, words 2 and 3 W, the coin of word 4 transposes b, word 5 + k is the coin of channel k.

    Parameters
    ----------
    x, centre : array of shape (n, c, h, w), one dtype
        Position and clean image in [0, 1].
    size : int
        Side of the squares, at most the smaller of h and w.
    eps : float
        Radius, in pixel units, >= 0.
    key, sample_index, step
        As in `random_words`.

    Returns
    -------
    array of x's shape and dtype
        New positions, within eps of the centre and [0, 1].

    Raises
    ------
    InputError
        If shapes or dtypes do not fit, the squares do not, or eps is negative.

    References
    ----------
    .. [1] Andriushchenko et al., "Square attack", ECCV 2020, Algorithm 3.
    """
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
    r"""Random step on the sphere around the clean image, then a step towards it.

    With d the distance of x from the centre c, and z standard normal numbers without their part along x - c,

        x_1 = clip(c + (x - c + a d z / ||z||) / sqrt(1 + a^2)),
        x_2 = clip(x_1 + t (c - x_1)),    t = max(b d + ||x_1 - c|| - d, 0) / ||x_1 - c||, at most 1,

    so that x_2 is at a distance of about (1 - b) d, also where clipping has changed that of x_1.

    Parameters
    ----------
    x, centre : array of shape (n, c, h, w), one dtype
        Position, usually wrong, and clean image in [0, 1].
    spherical_step, source_step : array of shape (n,), float
        a and b of each image, relative to d, >= 0.
    key, sample_index, step
        As in `random_words`; for z, as in `normal`.

    Returns
    -------
    spherical, candidate : array of x's shape and dtype
        x_1 and x_2. An image at its centre stays there.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit.

    References
    ----------
    .. [1] Brendel, Rauber, Bethge, "Decision-based adversarial attacks", ICLR 2018, section 2.2.
    """
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
    """Two images on either side: every pixel one way or the other, by its coin v = +-1, clipped to [0, 1].

    Parameters
    ----------
    x : array of shape (n, c, h, w), float32 or float64
        Images in [0, 1].
    width : float
        How far every pixel moves, in pixel units, > 0.
    key, sample_index, step
        As in `random_words`.

    Returns
    -------
    ahead, behind : array of x's shape and dtype
        ``x + width v`` and ``x - width v``.

    Raises
    ------
    InputError
        If shapes do not fit or the width is not positive.

    References
    ----------
    .. [1] Spall, "Multivariate stochastic approximation using a simultaneous perturbation gradient approximation", IEEE
       Trans. Automatic Control 37, 1992.
    """
    _check_images(x, sample_index)
    check_number("width", width, above=0)
    ahead, behind = device().empty(x.shape, x.dtype), device().empty(x.shape, x.dtype)
    arrays = (ahead.reshape(-1), behind.reshape(-1), *_flat(x), x.dtype.type(width), _samples(sample_index))
    device().for_elements(kernels.spsa_points, x.size, *arrays, _size(x), *_counter(step, key))
    return ahead, behind


def spsa_gradient(gradient: Array, rise: Array, *, width: float, key: Key, sample_index: Array, step: int = 0) -> Array:
    """Add the estimate from a pair of `spsa_points` to a gradient: ``gradient + rise v / (2 width)``.

    Parameters
    ----------
    gradient : array of shape (n, c, h, w), float32 or float64
        Sum of the estimates so far.
    rise : array of shape (n,), float
        Loss ahead less loss behind; what is not finite adds nothing.
    width, key, sample_index, step
        As given to `spsa_points`.

    Returns
    -------
    array of the gradient's shape and dtype
        The new sum.

    Raises
    ------
    InputError
        If shapes do not fit or the width is not positive.

    References
    ----------
    .. [1] Uesato et al., "Adversarial risk and the dangers of evaluating against weak attacks", ICML 2018, Algorithm 1.
    """
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
