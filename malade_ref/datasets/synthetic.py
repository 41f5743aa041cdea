r"""Synthetic digits: 28 x 28 images of handwritten-looking digits, made from a seed alone.

A digit is a few strokes of a pen. Each class has several templates (a 7 with and without its bar, an open and
a closed 4, ...), written down as control points; a smooth curve runs through them:

    p(t) = sum_k basis_k(t) (c_k + jitter_k),    basis: natural cubic splines between corners and pen lifts.

The curve is bent by a few slow waves (elastic variation), slanted, turned and stretched (affine variation),
scaled into a box of 20 x 20 pixels and centred by its mass, as MNIST's digits are. The pen is a disc whose
radius and ink vary along the stroke; a pixel takes the strongest ink that covers it, with a soft edge:

    pixel(q) = min(1, max_t ink(t) clip((radius(t) - |q - p(t)|) / softness + 1/2, 0, 1)).

All randomness comes from counters: image i of a split is the same whatever else is made beside it.

Axes: n images, p points along the strokes, k control points.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from malade_ref.checks import InputError, check_choice, check_count, check_integer, check_ndim
from malade_ref.ops.random import derive_key, normal, random_words, uniform

Float = NDArray[np.float64]

NAME = "synthetic-digits"
NUM_CLASSES = 10
SIDE = 28
SPLITS = ("train", "validation", "test")
NOTE = (
    "synthetic-digits: images drawn by a program from a seed, not handwriting; figures on them say nothing about MNIST."
)

# A line a template: "x,y" in percent of the digit's box, y downwards; "/" makes a corner, ";" lifts the pen.
TEMPLATES: dict[int, tuple[str, ...]] = {
    0: (
        "56,5 27,18 14,52 28,88 54,96 80,78 87,42 74,13 52,5",
        "66,13 42,4 20,24 15,60 32,93 60,94 83,66 81,29 60,7 36,12",
        "30,22 58,4 84,28 84,68 58,96 28,88 15,55 26,22 48,7",
    ),
    1: (
        "52,4 51,34 49,66 48,96",
        "50,4 52,50 51,96",
        "34,27 44,17 54,4 / 53,50 52,96",
        "33,25 53,5 / 52,50 51,94 ; 27,96 52,94 78,95",
    ),
    2: (
        "18,27 35,7 64,8 76,30 55,62 17,93 / 50,91 86,94",
        "18,26 40,5 68,10 73,34 52,68 28,91 14,84 24,73 46,82 64,95 88,88",
        "22,20 48,4 74,18 68,44 40,74 16,92 / 40,86 62,95 88,90",
    ),
    3: (
        "20,17 45,4 72,16 67,37 42,48 / 72,56 80,78 56,96 18,87",
        "18,16 50,4 73,20 62,40 43,49 36,44 47,42 75,58 75,83 48,97 15,86",
        "20,8 48,7 74,8 / 58,28 42,44 / 74,54 79,78 52,97 17,87",
    ),
    4: (
        "26,8 20,34 17,56 / 48,55 84,51 ; 68,8 64,50 60,97",
        "66,4 40,34 12,62 / 50,64 88,60 ; 67,8 63,50 58,98",
        "24,8 20,38 36,54 60,47 71,10 / 67,52 61,97",
        "27,10 19,36 24,52 52,54 86,48 ; 66,26 62,60 58,97",
    ),
    5: (
        "36,8 28,44 / 56,40 78,60 70,86 45,97 16,86 ; 35,8 58,8 84,5",
        "82,6 58,8 36,8 / 32,26 29,44 / 58,40 80,64 62,92 18,89",
        "82,10 52,6 34,20 34,40 58,48 76,66 66,90 40,97 18,86",
    ),
    6: (
        "66,5 38,28 20,62 30,92 58,96 76,76 62,56 36,60 22,78",
        "56,4 28,46 20,80 42,97 70,84 70,60 46,54 24,70",
        "74,10 46,18 22,54 26,88 54,97 76,80 66,58 42,62 34,80",
    ),
    7: (
        "15,12 50,11 82,9 / 61,45 42,96",
        "15,12 50,11 82,9 / 58,50 42,96 ; 34,52 58,49 78,48",
        "14,26 18,10 / 50,13 84,8 / 58,48 44,97",
        "15,14 45,9 78,12 74,32 54,62 42,97",
    ),
    8: (
        "74,17 50,5 27,18 34,38 58,52 76,74 58,96 32,92 24,72 45,52 68,34 75,18",
        "50,5 28,22 46,46 74,72 52,97 25,74 50,48 72,24 52,6",
        "52,46 30,26 48,6 70,22 52,46 26,74 48,97 76,76 54,48",
    ),
    9: (
        "73,18 48,6 24,24 34,48 60,44 74,19 / 70,56 66,97",
        "74,22 50,6 25,22 32,46 58,45 73,20 / 75,58 60,90 30,93",
        "70,30 50,48 26,34 40,8 68,12 72,40 64,72 48,97",
    ),
}

NUM_POINTS = 96  # along all strokes of a digit: every half a pixel or so
BOX = 20.0  # the digit's larger side, pixels
CENTRE = 14.0  # where the centre of mass goes, in pixel indices
REACH = 3  # a point inks the pixels at most this far from its own in each direction
MARGIN = 6  # of the canvas around the image, so that no stroke leaves it
CHUNK = 256  # images drawn at once: their patches stay in a core's cache

# Amplitudes, in units of the digit's box unless said otherwise.
LIMIT = 2.2  # of every normal number: further out, digits become illegible
JITTER = 0.034  # of each control point
WAVES = ((0.066, 0.45), (0.036, 0.9), (0.008, 2.4))  # (amplitude, cycles a box): slow bending to tremor
SLANT = (0.12, 0.26)  # mean and standard deviation of the shear
ROTATION = 0.13  # radians
STRETCH = 0.17  # of the logarithm of width over height
RADIUS = (1.26, 0.30)  # mean and standard deviation of the pen's radius, pixels
RADIUS_LIMITS = (0.75, 2.1)
PRESSURE = 0.14  # relative change of the radius along a stroke
SOFTNESS = 1.1  # width of a stroke's soft edge, pixels
TAPER = 0.35  # relative loss of radius where the pen is set down and lifted, at most
ROUGHNESS = 0.07  # relative change of the radius within a few pixels: paper and tremor
INK = 1.12  # a firm pen's; more than 1 is saturated
INK_LOSS = 0.2  # of the faintest pen, and of a pen at its lightest


class _Glyphs(NamedTuple):
    """The templates, ready to draw."""

    first: NDArray[np.int64]  # (11,): templates of class j are first[j] .. first[j+1]-1
    basis: Float  # (templates, p, k): weights of the control points, zero beyond a template's own
    control: Float  # (templates, k, 2): x and y in units of the box
    taper: Float  # (templates, p): 0 at both ends of a stroke, 1 further in


def synthetic_digits(
    n: int, *, seed: int = 0, split: str = "train", start: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw images ``start`` to ``start + n - 1`` of a split of the synthetic digits.

    Every ten consecutive images, counted from 0, hold each digit once, in random order.

    Parameters
    ----------
    n : int
        How many images.
    seed : int
        In [0, 2^64).
    split : {"train", "validation", "test"}
        Splits never share an image.
    start : int
        Number of the first image in the split; ``start + n`` is at most 2^32.

    Returns
    -------
    images : ndarray of shape (n, 1, 28, 28), uint8
        White ink on black.
    labels : ndarray of shape (n,), int64
        In 0..9.

    Examples
    --------
    >>> images, labels = synthetic_digits(20, seed=0, split="train")
    >>> images.shape, [int(label) for label in sorted(labels[:10])]
    ((20, 1, 28, 28), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    >>> alone, _ = synthetic_digits(1, seed=0, split="train", start=7)
    >>> bool((alone[0] == images[7]).all())
    True
    """
    check_count("n", n, minimum=0)
    check_count("start", start, minimum=0)
    if start + n > 1 << 32:
        raise InputError(f"start + n: expected at most 2**32 images in a split, got {start + n}")
    index = np.arange(start, start + n)
    labels = synthetic_labels(index, seed=seed, split=split)
    images = np.empty((n, 1, SIDE, SIDE), dtype=np.uint8)
    for begin in range(0, n, CHUNK):
        part = slice(begin, begin + CHUNK)
        images[part, 0] = _draw(labels[part], index[part], seed=seed, split=split)
    return images, labels


def synthetic_labels(index: Any, *, seed: int = 0, split: str = "train") -> NDArray[np.int64]:
    """Labels of given images of a split, without drawing them.

    Parameters
    ----------
    index : ndarray of shape (n,), integer
        Numbers of the images in the split, in [0, 2^32).
    seed, split
        As in `synthetic_digits`.

    Returns
    -------
    ndarray of shape (n,), int64
        In 0..9.
    """
    check_ndim("index", index, 1, "(n,)")
    check_integer("index", index)
    key = _key(seed, split, "labels")
    tens, inverse = np.unique(index // NUM_CLASSES, return_inverse=True)
    order = np.argsort(random_words(NUM_CLASSES, key=key, sample_index=tens), axis=1, kind="stable")
    labels: NDArray[np.int64] = order[inverse, index % NUM_CLASSES].astype(np.int64)
    return labels


def _key(seed: int, split: str, what: str) -> tuple[int, int]:
    check_choice("split", split, SPLITS)
    return derive_key(seed, f"{NAME}/{split}/{what}")


def _draw(labels: NDArray[np.int64], index: NDArray[np.int64], *, seed: int, split: str) -> NDArray[np.uint8]:
    """Images of shape (n, 28, 28), uint8, for labels and global numbers of shape (n,)."""
    glyphs = _glyphs()
    num_control = glyphs.control.shape[1]
    # Float64 until the last step: machines whose sines differ in the last bit then draw the same pixels.
    u = uniform((17,), key=_key(seed, split, "style"), sample_index=index, dtype="float64")
    z = normal((4 + 2 * num_control,), key=_key(seed, split, "hand"), sample_index=index, dtype="float64")
    np.clip(z, -LIMIT, LIMIT, out=z)
    choice, slow, fast, lifting, faint, light = (u[:, i, None] for i in range(6))
    phases = 2 * np.pi * u[:, 6:]

    first, last = glyphs.first[labels], glyphs.first[labels + 1]
    template = first + np.floor(choice[:, 0] * (last - first)).astype(np.int64)
    control = glyphs.control[template] + JITTER * z[:, 4:].reshape(-1, num_control, 2)
    basis = glyphs.basis[template]
    x = np.zeros((len(labels), NUM_POINTS))
    y = np.zeros_like(x)
    for k in range(num_control):  # not a matrix product: its rounding may depend on the number of images
        x += basis[:, :, k] * control[:, k, 0, None]
        y += basis[:, :, k] * control[:, k, 1, None]
    x, y = _bend(x, y, phases[:, :9])
    x, y = _slant(x, y, z[:, :3])

    t = 2 * np.pi * np.linspace(0.0, 1.0, NUM_POINTS)
    pressure = np.sin((0.7 + slow) * t + phases[:, 9, None])
    rough = np.sin((7 + 6 * fast) * t + phases[:, 10, None])
    radius = np.clip(RADIUS[0] + RADIUS[1] * z[:, 3, None], *RADIUS_LIMITS)
    radius = radius * (1 + PRESSURE * pressure + ROUGHNESS * rough)
    radius *= 1 - TAPER * lifting * (1 - glyphs.taper[template])
    ink = INK * (1 - INK_LOSS * faint**2) * (1 - INK_LOSS * light * (0.5 - 0.5 * pressure))
    x, y = _place(x, y, radius)
    return _render(x, y, radius, ink)


def _bend(x: Float, y: Float, phases: Float) -> tuple[Float, Float]:
    """Displace points of shape (n, p) by slow plane waves; ``phases`` of shape (n, 9), radians."""
    for i, (amplitude, cycles) in enumerate(WAVES):
        direction, phase_x, phase_y = (phases[:, 3 * i + j, None] for j in range(3))
        along = 2 * np.pi * cycles * (x * np.cos(direction) + y * np.sin(direction))
        x, y = x + amplitude * np.sin(along + phase_x), y + amplitude * np.sin(along + phase_y)
    return x, y


def _slant(x: Float, y: Float, z: Float) -> tuple[Float, Float]:
    """Stretch, shear and rotate points of shape (n, p), by normal numbers ``z`` of shape (n, 3)."""
    stretch = np.exp(STRETCH * z[:, 0, None])
    shear = SLANT[0] + SLANT[1] * z[:, 1, None]
    angle = ROTATION * z[:, 2, None]
    x = x * stretch - shear * y  # y points downwards
    return np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y


def _place(x: Float, y: Float, radius: Float) -> tuple[Float, Float]:
    """Scale points of shape (n, p) into the box, and move their centre of mass to the image's centre."""
    size = np.maximum(np.ptp(x, axis=1), np.ptp(y, axis=1))
    scale = (BOX - 2 * radius.max(axis=1)) / size
    x, y = x * scale[:, None], y * scale[:, None]
    # A disc's share of the ink: the length it stands for times its width. Pen lifts count as one step.
    steps = np.hypot(np.diff(x, axis=1), np.diff(y, axis=1))
    steps = np.minimum(steps, 2 * np.median(steps, axis=1, keepdims=True))
    mass = radius.copy()
    mass[:, 1:-1] *= 0.5 * (steps[:, 1:] + steps[:, :-1])
    mass[:, 0] *= 0.5 * steps[:, 0]
    mass[:, -1] *= 0.5 * steps[:, -1]
    total = mass.sum(axis=1)
    x += (CENTRE - (mass * x).sum(axis=1) / total)[:, None]
    y += (CENTRE - (mass * y).sum(axis=1) / total)[:, None]
    return x, y


def _render(x: Float, y: Float, radius: Float, ink: Float) -> NDArray[np.uint8]:
    """Ink the pixels around points of shape (n, p), given in pixels; images of shape (n, 28, 28), uint8."""
    n = len(x)
    side = SIDE + 2 * MARGIN
    # A stroke that left even the canvas (no template's does) would be drawn along its edge.
    column = np.clip(np.rint(x), REACH - MARGIN, SIDE + MARGIN - 1 - REACH)
    row = np.clip(np.rint(y), REACH - MARGIN, SIDE + MARGIN - 1 - REACH)
    offset = np.arange(-REACH, REACH + 1)
    dx = ((offset - (x - column)[:, :, None]) / SOFTNESS).astype(np.float32)
    dy = ((offset - (y - row)[:, :, None]) / SOFTNESS).astype(np.float32)
    cover = (dy * dy)[:, :, :, None] + (dx * dx)[:, :, None, :]
    np.sqrt(cover, out=cover)
    np.subtract((radius / SOFTNESS + 0.5).astype(np.float32)[:, :, None, None], cover, out=cover)
    np.clip(cover, 0, 1, out=cover)
    cover *= ink.astype(np.float32)[:, :, None, None]

    corner = (row + MARGIN - REACH) * side + (column + MARGIN - REACH)
    corner += np.arange(n)[:, None] * side * side
    pixel = (offset[:, None] + REACH) * side + (offset + REACH)
    target = corner.astype(np.int64)[:, :, None, None] + pixel
    canvas = np.zeros(n * side * side, dtype=np.float32)
    np.maximum.at(canvas, target.ravel(), cover.ravel())
    inner = slice(MARGIN, MARGIN + SIDE)
    image = np.minimum(canvas.reshape(n, side, side)[:, inner, inner], 1)
    pixels: NDArray[np.uint8] = np.rint(255 * image).astype(np.uint8)
    return pixels


@functools.cache
def _glyphs() -> _Glyphs:
    """Templates as arrays: evaluated once."""
    parsed = [_parse(text) for texts in TEMPLATES.values() for text in texts]
    num_control = max(len(control) for control, _, _ in parsed)
    basis = np.zeros((len(parsed), NUM_POINTS, num_control))
    control = np.zeros((len(parsed), num_control, 2))
    for i, (points, weights, _) in enumerate(parsed):
        control[i, : len(points)] = points
        basis[i, :, : len(points)] = weights
    first = np.cumsum([0] + [len(texts) for texts in TEMPLATES.values()])
    return _Glyphs(first, basis, control, np.array([taper for _, _, taper in parsed]))


def _parse(text: str) -> tuple[Float, Float, Float]:
    """Control points (k, 2), their basis (p, k) and the taper (p,) of a line of `TEMPLATES`."""
    # Curves are lists of control points' numbers; curves that meet in a corner share the point.
    control: list[list[float]] = []
    strokes: list[list[list[int]]] = []
    for stroke in text.split(";"):
        curves: list[list[int]] = [[]]
        for word in stroke.split():
            if word == "/":
                curves.append([len(control) - 1])
            else:
                curves[-1].append(len(control))
                control.append([float(number) / 100 for number in word.split(",")])
        strokes.append(curves)
    points = np.array(control)

    lengths = [[_chords(points[curve]).sum() for curve in curves] for curves in strokes]
    shares = _shares([length for stroke in lengths for length in stroke])
    basis = np.zeros((NUM_POINTS, len(points)))
    taper = np.empty(NUM_POINTS)
    row = 0
    for curves, curve_lengths in zip(strokes, lengths, strict=True):
        begin = row
        for curve in curves:
            chords = _chords(points[curve])
            knots = np.concatenate([[0.0], np.cumsum(chords / chords.sum())])
            count = shares.pop(0)
            t = np.linspace(0.0, 1.0, count)
            basis[row : row + count, curve] = CubicSpline(knots, np.eye(len(curve)), bc_type="natural")(t)
            row += count
        along = np.linspace(0.0, sum(curve_lengths), row - begin)
        taper[begin:row] = np.minimum(1.0, np.minimum(along, along[::-1]) / 0.25)
    return points, basis, taper


def _chords(points: Float) -> Float:
    """Distances between successive points of shape (k, 2)."""
    steps = np.diff(points, axis=0)
    return np.hypot(steps[:, 0], steps[:, 1])


def _shares(lengths: list[float]) -> list[int]:
    """`NUM_POINTS` points dealt to curves in proportion to their lengths."""
    ends = np.rint(np.cumsum(lengths) / np.sum(lengths) * NUM_POINTS).astype(int)
    return [int(share) for share in np.diff(ends, prepend=0)]
