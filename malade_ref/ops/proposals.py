r"""Random proposals of attacks that see a model's answers only: noise, squares, and steps along a boundary.

The random numbers are made here, from words of Philox at (key, step, sample), so that a proposal is a function of
its images and of a counter. Words are numbered within a sample; unless something else is said, number k of a sample is
for element k of (c, h, w) in C order, and the uppermost bit of a word is a fair coin.

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

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import (
    InputError,
    check_count,
    check_float,
    check_integer,
    check_ndim,
    check_number,
    check_same,
    check_shape,
)
from .attack_steps import linf_bounds, random_start_l2
from .langevin import clip_pixels
from .random import Key, normal, random_words

Floats = NDArray[Any]
Words = NDArray[np.uint32]

TOP_BIT = np.uint32(1 << 31)
# What is shorter than this, relative to what it is the difference of, is rounding and has no direction.
SHORTEST = 1e-6


# Salt and pepper -----------------------------------------------------------------------------------------------------


def salt_and_pepper_noise(
    x: Floats, count: NDArray[np.integer[Any]], *, key: Key, sample_index: Any, step: int = 0
) -> Floats:
    """Images some of whose pixels are black or white in all channels.

    The pixels of the smallest words are taken, black or white by the word's lowest bit; with the same counter, more
    pixels are the fewer and others. There is one word a pixel (h, w).

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Images.
    count : ndarray of shape (n,), integer
        How many pixels of each image; at most h w count.
    key, sample_index, step
        As in `random_words`.

    Returns
    -------
    ndarray of x's shape and dtype
        Images; no more than ``count`` pixels differ (one fewer, should two words be equal at the limit).
    """
    _check_images(x, sample_index)
    check_shape("count", count, x.shape[:1])
    check_integer("count", count)
    n, _, h, w = x.shape
    words = random_words(h * w, key=key, sample_index=sample_index, step=step)
    # The first word that is too large; 2^32 if none is.
    ordered = np.concatenate([np.sort(words, axis=1).astype(np.uint64), np.full((n, 1), 1 << 32, np.uint64)], axis=1)
    limit = np.take_along_axis(ordered, np.clip(count, 0, h * w).astype(np.int64)[:, None], axis=1)
    replaced = (words < limit).reshape(n, 1, h, w)
    white = (words & np.uint32(1)).reshape(n, 1, h, w).astype(x.dtype)
    return np.asarray(np.where(replaced, white, x))


def changed_share(x: Floats, centre: Floats) -> Floats:
    """Share of the pixels (h, w) that differ in any channel, of shape (n,), float64.

    Parameters
    ----------
    x, centre : ndarray of shape (n, c, h, w), one dtype
        What is compared.
    """
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_same("centre", centre, "x", x)
    count = (x != centre).any(axis=1).sum(axis=(1, 2))
    return np.asarray(count / max(1, x.shape[2] * x.shape[3]), dtype=np.float64)


# Squares -------------------------------------------------------------------------------------------------------------


def square_start_linf(centre: Floats, *, eps: float, key: Key, sample_index: Any) -> Floats:
    """Vertical stripes: each column of each channel at one end of the cube around the centre, by the coin c w.

    Parameters
    ----------
    centre : ndarray of shape (n, c, h, w), float32 or float64
        Clean images in [0, 1].
    eps : float
        Half side of the cube, in pixel units, >= 0.
    key, sample_index
        As in `random_words`; the step is 0.

    Returns
    -------
    ndarray of the centre's shape and dtype
        Starting points, within eps and [0, 1].

    References
    ----------
    .. [1] Andriushchenko et al., "Square attack", ECCV 2020, section 3.3.
    """
    _check_images(centre, sample_index)
    check_number("eps", eps, minimum=0)
    n, c, _, w = centre.shape
    up = random_words(c * w, key=key, sample_index=sample_index).reshape(n, c, 1, w) >= TOP_BIT
    lower, upper = linf_bounds(centre, eps)
    return np.asarray(np.where(up, upper, lower))


def square_step_linf(
    x: Floats, centre: Floats, *, size: int, eps: float, key: Key, sample_index: Any, step: int = 0
) -> Floats:
    """A square of each image, anywhere, at one end of the cube around the centre in each channel.

    Words 0 and 1 place the square, word 2 + k is the coin of channel k.

    Parameters
    ----------
    x, centre : ndarray of shape (n, c, h, w), one dtype
        Position and clean image in [0, 1].
    size : int
        Side of the square, at most the smaller of h and w.
    eps : float
        Half side of the cube, in pixel units, >= 0.
    key, sample_index, step
        As in `random_words`.

    Returns
    -------
    ndarray of x's shape and dtype
        New positions; outside the square they are x.

    References
    ----------
    .. [1] Andriushchenko et al., "Square attack", ECCV 2020, Algorithm 2.
    """
    _check_squares(x, centre, size, eps, sample_index)
    n, c, h, w = x.shape
    words = random_words(2 + c, key=key, sample_index=sample_index, step=step)
    inside = _window(words[:, :2], size, h, w)
    up = words[:, 2:].reshape(n, c, 1, 1) >= TOP_BIT
    lower, upper = linf_bounds(centre, eps)
    return np.asarray(np.where(inside, np.where(up, upper, lower), x))


def square_start_l2(centre: Floats, *, eps: float, key: Key, sample_index: Any) -> Floats:
    """Bumps on a grid of five by five tiles in the middle, each up or down, as far out as the ball goes.

    Tiles are squares of a fifth of the image's smaller side, as many as fit. A tile's word is that of its number in
    (channels, rows of tiles, columns of tiles): its coin says whether the bump is turned around, its lowest bit whether
    it is transposed.

    Parameters
    ----------
    centre : ndarray of shape (n, c, h, w), float32 or float64
        Clean images in [0, 1].
    eps : float
        Radius, in pixel units, >= 0.
    key, sample_index
        As in `random_words`; the step is 0.

    Returns
    -------
    ndarray of the centre's shape and dtype
        Starting points, within eps and [0, 1].

    References
    ----------
    .. [1] Andriushchenko et al., "Square attack", ECCV 2020, section 3.4.
    """
    _check_images(centre, sample_index)
    check_number("eps", eps, minimum=0)
    n, c, h, w = centre.shape
    size = max(1, min(h, w) // 5)
    rows, columns = h // size, w // size
    top, left = (h - rows * size) // 2, (w - columns * size) // 2
    words = random_words(c * rows * columns, key=key, sample_index=sample_index).reshape(n, c, rows, columns)
    word = words.repeat(size, axis=2).repeat(size, axis=3)
    tile, turned = (np.tile(bump, (rows, columns)) for bump in (_bump(size), _bump(size).T))
    bumps = np.zeros(centre.shape, dtype=centre.dtype)
    bumps[:, :, top : top + rows * size, left : left + columns * size] = np.where(
        word & np.uint32(1), turned, tile
    ) * np.where(word >= TOP_BIT, 1, -1)
    return random_start_l2(centre, bumps, np.ones(n, dtype=centre.dtype), eps=eps)


def square_step_l2(
    x: Floats, centre: Floats, *, size: int, eps: float, key: Key, sample_index: Any, step: int = 0
) -> Floats:
    r"""Move the perturbation of one square of each image into another one, in the form of a bump.

    With :math:`\delta` the perturbation and V, W two squares, in each of the c channels

        delta_V <- (s b + delta_V / ||delta_V||), made as long as
                   sqrt(||delta_{V or W}||^2 + max(eps^2 - ||delta||^2, 0) / c),
        delta_W <- 0 outside V,

    b a bump of length 1, s = +-1 the channel's coin; then all is made eps long and clipped to [0, 1]. Words 0 and 1
    place V, words 2 and 3 W, the coin of word 4 transposes b, word 5 + k is the coin of channel k.

    Parameters
    ----------
    x, centre : ndarray of shape (n, c, h, w), one dtype
        Position and clean image in [0, 1].
    size : int
        Side of the squares, at most the smaller of h and w.
    eps : float
        Radius, in pixel units, >= 0.
    key, sample_index, step
        As in `random_words`.

    Returns
    -------
    ndarray of x's shape and dtype
        New positions, within eps of the centre and [0, 1].

    References
    ----------
    .. [1] Andriushchenko et al., "Square attack", ECCV 2020, Algorithm 3.
    """
    _check_squares(x, centre, size, eps, sample_index)
    n, c, h, w = x.shape
    words = random_words(5 + c, key=key, sample_index=sample_index, step=step)
    first, second = (_window(words[:, k : k + 2], size, h, w) for k in (0, 2))
    sign = np.where(words[:, 5:] >= TOP_BIT, 1.0, -1.0).reshape(n, c, 1, 1)

    bump = np.zeros((n, 1, h, w))
    shape = np.where((words[:, 4] >= TOP_BIT)[:, None, None], _bump(size).T, _bump(size))
    bump[first] = shape.ravel()

    delta = x.astype(np.float64) - centre
    old = _lengths(delta * first)
    mixed = sign * bump + first * delta / np.where(old > 0, old, 1)
    length = _lengths(mixed)
    alive = length > SHORTEST  # not if the bump has just cancelled what was there
    mixed, length = np.where(alive, mixed, sign * bump), np.where(alive, length, 1)
    unused = np.maximum(eps**2 - (delta**2).sum(axis=(1, 2, 3), keepdims=True), 0)
    available = np.sqrt(_lengths(delta * (first | second)) ** 2 + unused / c)
    delta = np.where(first, available * mixed / length, np.where(second, 0, delta))
    return random_start_l2(centre, delta.astype(x.dtype), np.ones(n, dtype=x.dtype), eps=eps)


@lru_cache(maxsize=64)
def _bump(size: int) -> Floats:
    """Two rectangular hills side by side, one up and one down, of length 1 together: (size, size)."""

    def hill(height: int, width: int) -> Floats:
        row, column = np.mgrid[:height, :width]
        from_top = np.maximum(abs(row - height // 2), abs(column - width // 2))
        rings = max(height, width) // 2 + 1
        levels = [sum(1 / (ring + 1) ** 2 for ring in range(inner, rings)) for inner in range(rings)]
        hill = np.array(levels)[from_top]
        return np.asarray(hill / np.sqrt((hill**2).sum())) if hill.size else hill

    both = np.concatenate([hill(size // 2, size), -hill(size - size // 2, size)])
    return np.asarray(both / np.sqrt((both**2).sum()))


def _window(words: Words, size: int, h: int, w: int) -> NDArray[np.bool_]:
    """Which pixels are in a square placed by two words a sample, (n, 1, h, w)."""
    places = np.array([h - size + 1, w - size + 1], dtype=np.uint64)
    corner = (words * places >> np.uint64(32)).astype(np.int64)
    row, column = np.arange(h) - corner[:, :1], np.arange(w) - corner[:, 1:]
    inside = ((row >= 0) & (row < size))[:, :, None] & ((column >= 0) & (column < size))[:, None, :]
    return np.asarray(inside[:, None])


def _lengths(delta: Floats) -> Floats:
    """Euclidean norm of each channel, (n, c, 1, 1)."""
    return np.asarray(np.sqrt((delta**2).sum(axis=(2, 3), keepdims=True)))


# The decision boundary -----------------------------------------------------------------------------------------------


def boundary_proposal(
    x: Floats,
    centre: Floats,
    spherical_step: Floats,
    source_step: Floats,
    *,
    key: Key,
    sample_index: Any,
    step: int = 0,
) -> tuple[Floats, Floats]:
    r"""Random step on the sphere around the clean image, then a step towards it.

    With d the distance of x from the centre c, and z standard normal numbers without their part along x - c,

        x_1 = clip(c + (x - c + a d z / ||z||) / sqrt(1 + a^2)),
        x_2 = clip(x_1 + t (c - x_1)),    t = max(b d + ||x_1 - c|| - d, 0) / ||x_1 - c||, at most 1,

    so that x_2 is at a distance of about (1 - b) d, also where clipping has changed that of x_1.

    Parameters
    ----------
    x, centre : ndarray of shape (n, c, h, w), one dtype
        Position, usually wrong, and clean image in [0, 1].
    spherical_step, source_step : ndarray of shape (n,), float
        a and b of each image, relative to d, >= 0.
    key, sample_index, step
        As in `random_words`; for z, as in `normal`.

    Returns
    -------
    spherical, candidate : ndarray of x's shape and dtype
        x_1 and x_2. An image at its centre stays there.

    References
    ----------
    .. [1] Brendel, Rauber, Bethge, "Decision-based adversarial attacks", ICLR 2018, section 2.2.
    """
    _check_images(x, sample_index)
    check_same("centre", centre, "x", x)
    check_shape("spherical_step", spherical_step, x.shape[:1])
    check_shape("source_step", source_step, x.shape[:1])
    a, b = (np.asarray(values, dtype=np.float64).reshape(-1, 1, 1, 1) for values in (spherical_step, source_step))
    z = normal(x.shape[1:], key=key, sample_index=sample_index, step=step, dtype=str(x.dtype)).astype(np.float64)

    away = x.astype(np.float64) - centre
    distance = _norms(away)
    along = (z * away).sum(axis=(1, 2, 3), keepdims=True) / np.where(distance > 0, distance**2, 1)
    across = z - along * away
    length = _norms(across)
    across = np.where(length > SHORTEST * _norms(z), across / np.where(length > 0, length, 1), 0)
    spherical = clip_pixels((centre + (away + a * distance * across) / np.sqrt(1 + a**2)).astype(x.dtype))

    new_distance = _norms(spherical.astype(np.float64) - centre)
    share = np.maximum(b * distance + new_distance - distance, 0) / np.where(new_distance > 0, new_distance, 1)
    candidate = spherical + np.minimum(share, 1) * (centre.astype(np.float64) - spherical)
    return spherical, clip_pixels(candidate.astype(x.dtype))


def _norms(x: Floats) -> Floats:
    """Euclidean norm of each image, (n, 1, 1, 1)."""
    return np.asarray(np.sqrt((x**2).sum(axis=(1, 2, 3), keepdims=True)))


# Simultaneous perturbations ------------------------------------------------------------------------------------------


def spsa_points(x: Floats, *, width: float, key: Key, sample_index: Any, step: int = 0) -> tuple[Floats, Floats]:
    """Two images on either side: every pixel one way or the other, by its coin v = +-1, clipped to [0, 1].

    Parameters
    ----------
    x : ndarray of shape (n, c, h, w), float32 or float64
        Images in [0, 1].
    width : float
        How far every pixel moves, in pixel units, > 0.
    key, sample_index, step
        As in `random_words`.

    Returns
    -------
    ahead, behind : ndarray of x's shape and dtype
        ``x + width v`` and ``x - width v``.

    References
    ----------
    .. [1] Spall, "Multivariate stochastic approximation using a simultaneous perturbation gradient approximation", IEEE
       Trans. Automatic Control 37, 1992.
    """
    _check_images(x, sample_index)
    check_number("width", width, above=0)
    shift = x.dtype.type(width) * _signs(x, key, sample_index, step)
    return clip_pixels(x + shift), clip_pixels(x - shift)


def spsa_gradient(
    gradient: Floats, rise: Floats, *, width: float, key: Key, sample_index: Any, step: int = 0
) -> Floats:
    """Add the estimate from a pair of `spsa_points` to a gradient: ``gradient + rise v / (2 width)``.

    Parameters
    ----------
    gradient : ndarray of shape (n, c, h, w), float32 or float64
        Sum of the estimates so far.
    rise : ndarray of shape (n,), float
        Loss ahead less loss behind; what is not finite adds nothing.
    width, key, sample_index, step
        As given to `spsa_points`.

    Returns
    -------
    ndarray of the gradient's shape and dtype
        The new sum.

    References
    ----------
    .. [1] Uesato et al., "Adversarial risk and the dangers of evaluating against weak attacks", ICML 2018, Algorithm 1.
    """
    _check_images(gradient, sample_index)
    check_shape("rise", rise, gradient.shape[:1])
    check_number("width", width, above=0)
    slope = np.where(np.isfinite(rise), rise, 0) / (2 * width)
    return np.asarray(
        gradient + slope.astype(gradient.dtype).reshape(-1, 1, 1, 1) * _signs(gradient, key, sample_index, step)
    )


def _signs(x: Floats, key: Key, sample_index: Any, step: int) -> Floats:
    """The coins of all elements, +-1."""
    words = random_words(x[:1].size, key=key, sample_index=sample_index, step=step).reshape(x.shape)
    return np.asarray(np.where(words >= TOP_BIT, x.dtype.type(1), x.dtype.type(-1)))


# Checks --------------------------------------------------------------------------------------------------------------


def _check_images(x: Floats, sample_index: Any) -> None:
    check_ndim("x", x, 4, "(n, c, h, w)")
    check_float("x", x)
    check_shape("sample_index", sample_index, x.shape[:1])
    check_integer("sample_index", sample_index)


def _check_squares(x: Floats, centre: Floats, size: int, eps: float, sample_index: Any) -> None:
    _check_images(x, sample_index)
    check_same("centre", centre, "x", x)
    check_number("eps", eps, minimum=0)
    if check_count("size", size) > min(x.shape[2:]):
        raise InputError(f"size: expected at most {min(x.shape[2:])}, the smaller side of the images; got {size}")
