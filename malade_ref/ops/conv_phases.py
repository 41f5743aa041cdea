r"""The fast form of W^T dy: a gather by phases instead of a scatter.

Output pixels whose coordinates agree modulo the stride (a *phase*) see the same sub-kernel, so each phase is a plain
convolution of dy with a slice of the flipped weight. Axes as in `conv`.

References
----------
.. [1] Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009, 2016.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .conv_windows import blocks, pad, windows
from .geometry import Geometry, Pair
from .slices import each_part

Floats = NDArray[Any]

# Below this many output channels all phases of a transposed convolution share one product, with zeros in the weight.
NARROW = 32
# With this many times fewer channels than output channels, adding windows beats laying them out.
LITTLE = 8


def pays(weight_shape: tuple[int, ...]) -> bool:
    """Whether a gather is faster than a scatter."""
    out_channels, channels = weight_shape[:2]
    return channels * LITTLE > out_channels


def spread(dy: Floats, weight: Floats, g: Geometry) -> Floats:
    """W^T dy: (n, o, oh, ow) to (n, c, h, w)."""
    (sh, sw), (num_images, channels) = g.stride, (len(dy), weight.shape[1])
    row_phases = _phases(g.kernel[0], sh, g.pads[0][0])
    col_phases = _phases(g.kernel[1], sw, g.pads[1][0])
    rows, cols = -(-g.size[0] // sh), -(-g.size[1] // sw)
    before = tuple(max(0, -min(p.first for p in phases)) for phases in (row_phases, col_phases))
    after = tuple(
        max(0, count - 1 + max(p.first + p.taps for p in phases) - size)
        for phases, count, size in zip((row_phases, col_phases), (rows, cols), g.output, strict=True)
    )
    around = g._replace(pads=((before[0], after[0]), (before[1], after[1])))
    # Output pixel (i * sh + a, j * sw + b) is written as pixel (i, j) of phase (a, b).
    every_phase_has_taps = g.kernel[0] >= sh and g.kernel[1] >= sw
    make = np.empty if every_phase_has_taps else np.zeros
    dx: Floats = make((num_images, rows, sh, cols, sw, channels), dtype=dy.dtype)
    all_phases = [(a, b) for a in row_phases for b in col_phases if a.taps and b.taps]
    for group in [all_phases] if channels < NARROW else [[phase] for phase in all_phases]:
        matrix, first, kernel = _phase_matrix(weight, g.stride, group)
        corner = slice(None), slice(before[0] + first[0], None), slice(before[1] + first[1], None)
        settings = (group, matrix, corner, kernel)

        def of_block(block: slice, settings: Any = settings) -> None:
            group, matrix, corner, kernel = settings
            rows_of_dy = windows(pad(dy[block], around)[corner], kernel, (1, 1), (rows, cols))
            product = (rows_of_dy @ matrix).reshape(-1, rows, cols, len(group), channels)
            for i, (a, b) in enumerate(group):
                dx[block, :, a.number, :, b.number] = product[:, :, :, i]

        for _ in each_part(of_block, blocks(num_images, (rows, cols), len(matrix))):
            pass
    whole = dx.reshape(num_images, rows * sh, cols * sw, channels)
    return whole[:, : g.size[0], : g.size[1]].transpose(0, 3, 1, 2)


class _Phase(NamedTuple):
    """The output rows (or columns) i * stride + number of a transposed convolution.

    Row i of the phase is the sum of ``taps`` rows of dy, i + first, i + first + 1, ..., times the kernel rows
    offset + (taps - 1) * stride, ..., offset + stride, offset.
    """

    number: int
    offset: int
    taps: int
    first: int


def _phases(kernel: int, stride: int, before: int) -> list[_Phase]:
    """Phases along one axis; ``before`` zeros were in front of the convolution's input."""
    phases = []
    for number in range(stride):
        # Output row i * stride + number is padded row (i + quotient) * stride + offset.
        quotient, offset = divmod(number + before, stride)
        taps = max(0, -(-(kernel - offset) // stride))
        phases.append(_Phase(number, offset, taps, quotient - taps + 1 if taps else 0))
    return phases


def _phase_matrix(weight: Floats, stride: Pair, group: list[tuple[_Phase, _Phase]]) -> tuple[Floats, Pair, Pair]:
    """Weight matrix (taps * o, phases * c) of the phases of a group, and the common window's first tap and size.

    Phases whose own window is smaller than the common one have zeros in the matrix.
    """
    out_channels, channels = weight.shape[:2]
    first = min(a.first for a, _ in group), min(b.first for _, b in group)
    last = max(a.first + a.taps for a, _ in group), max(b.first + b.taps for _, b in group)
    kernel = last[0] - first[0], last[1] - first[1]
    matrix = np.zeros((*kernel, out_channels, len(group), channels), dtype=weight.dtype)
    for i, (a, b) in enumerate(group):
        rows = slice(a.first - first[0], a.first - first[0] + a.taps)
        cols = slice(b.first - first[1], b.first - first[1] + b.taps)
        taps = weight[:, :, a.offset :: stride[0], b.offset :: stride[1]][:, :, ::-1, ::-1]
        matrix[rows, cols, :, i] = taps.transpose(2, 3, 0, 1)
    return matrix.reshape(-1, len(group) * channels), first, kernel
