"""Bodies of losses that compare the scores of a few classes: one thread a sample.

``size`` is the number of classes; the row of sample i begins at ``i * size``.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32, float64

from ..elements import element

ZERO = float32(0.0)


@element
def strongest(scores: Any, row: Any, size: Any, first: Any, second: Any, third: Any) -> Any:
    """The class with the largest score but for three; in a tie the first, what is not a number last."""
    best = -1
    for k in range(size):
        if k != first and k != second and k != third:
            score = scores[row + k]
            if best < 0 or score > scores[row + best] or (math.isnan(scores[row + best]) and not math.isnan(score)):
                best = k
    return best


@element
def margin_loss(i: Any, out: Any, scores: Any, labels: Any, targets: Any, targeted: Any, size: Any) -> None:
    """Lead of the target, or of the strongest other class, over the true one."""
    row, label = i * size, labels[i]
    rival = targets[i] if targeted else strongest(scores, row, size, label, -1, -1)
    out[i] = scores[row + rival] - scores[row + label]


@element
def margin_loss_vjp(
    i: Any, dlogits: Any, dloss: Any, scores: Any, labels: Any, targets: Any, targeted: Any, size: Any
) -> None:
    """Gradient of `margin_loss`."""
    row, label = i * size, labels[i]
    rival = targets[i] if targeted else strongest(scores, row, size, label, -1, -1)
    for k in range(size):
        dlogits[row + k] = dloss[i] if k == rival else -dloss[i] if k == label else ZERO


def dlr_parts(real: Any) -> Any:
    """Function to the classes that take part, and the ratio's numerator and denominator, in a given precision."""
    least, half = real(1e-12), real(0.5)

    @element
    def parts(row: Any, scores: Any, label: Any, target: Any, targeted: Any, size: Any) -> Any:
        rival = target if targeted else strongest(scores, row, size, label, -1, -1)
        first = strongest(scores, row, size, -1, -1, -1)
        second = strongest(scores, row, size, first, -1, -1)
        third = strongest(scores, row, size, first, second, -1)
        fourth = strongest(scores, row, size, first, second, third) if targeted else third
        behind = (scores[row + third] + scores[row + fourth]) * half
        spread = scores[row + first] - behind + least
        return rival, first, third, fourth, scores[row + rival] - scores[row + label], spread

    return parts


def dlr_loss(parts_of: Any) -> Any:
    """Body of the ratio."""

    @element
    def loss(i: Any, out: Any, scores: Any, labels: Any, targets: Any, targeted: Any, size: Any) -> None:
        _, _, _, _, lead, spread = parts_of(i * size, scores, labels[i], targets[i], targeted, size)
        out[i] = lead / spread

    return loss


def dlr_loss_vjp(parts_of: Any, real: Any) -> Any:
    """Body of the ratio's gradient."""
    half = real(0.5)

    @element
    def vjp(i: Any, dlogits: Any, dloss: Any, scores: Any, labels: Any, targets: Any, targeted: Any, size: Any) -> None:
        row, label = i * size, labels[i]
        rival, first, third, fourth, lead, spread = parts_of(row, scores, label, targets[i], targeted, size)
        slope = dloss[i] / spread
        of_spread = slope * lead / spread
        for k in range(size):
            dlogits[row + k] = ZERO
        dlogits[row + first] -= of_spread
        dlogits[row + third] += of_spread * half
        dlogits[row + fourth] += of_spread * half
        dlogits[row + rival] += slope
        dlogits[row + label] -= slope

    return vjp


@element
def log_of_sum(scores: Any, row: Any, size: Any) -> Any:
    """Logarithm of the sum of a row's exponentials, in double."""
    largest = float64(scores[row])
    for k in range(size):
        largest = max(largest, float64(scores[row + k]))
    total = float64(0.0)
    for k in range(size):
        total += math.exp(scores[row + k] - largest)
    return largest + math.log(total)


@element
def divergence(scores: Any, others: Any, row: Any, size: Any, log_p: Any, log_q: Any) -> Any:
    """Sum of p (log p - log q) over the classes, from the logarithms of the two rows' sums."""
    total = float64(0.0)
    for k in range(size):
        own = scores[row + k] - log_p
        total += math.exp(own) * (own - (others[row + k] - log_q))
    return total


@element
def kl_divergence(i: Any, out: Any, scores: Any, others: Any, size: Any) -> None:
    """Divergence of the second row's probabilities from the first's."""
    row = i * size
    log_p, log_q = log_of_sum(scores, row, size), log_of_sum(others, row, size)
    out[i] = divergence(scores, others, row, size, log_p, log_q)


@element
def kl_divergence_vjp(i: Any, dscores: Any, dothers: Any, dloss: Any, scores: Any, others: Any, size: Any) -> None:
    """Gradients of `kl_divergence` with respect to both rows."""
    row = i * size
    log_p, log_q = log_of_sum(scores, row, size), log_of_sum(others, row, size)
    mean = divergence(scores, others, row, size, log_p, log_q)
    for k in range(size):
        own, other = scores[row + k] - log_p, others[row + k] - log_q
        p, q = math.exp(own), math.exp(other)
        dscores[row + k] = dloss[i] * p * (own - other - mean)
        dothers[row + k] = dloss[i] * (q - p)


@element
def other_classes(i: Any, out: Any, scores: Any, labels: Any, size: Any) -> None:
    """Class ``i % size`` of sample ``i // size`` goes to its rank among the classes that are not the true one."""
    sample, own = i // size, i % size
    row, label, score = sample * size, labels[sample], scores[i]
    if own != label:
        rank = 0
        for k in range(size):
            other = scores[row + k]
            tied = other == score or (math.isnan(other) and math.isnan(score))
            before = other > score or (math.isnan(score) and not math.isnan(other)) or (tied and k < own)
            if k != label and before:
                rank += 1
        out[sample * (size - 1) + rank] = own


DLR_PARTS = {"float32": dlr_parts(float32), "float64": dlr_parts(float64)}
DLR_LOSS = {dtype: dlr_loss(parts_of) for dtype, parts_of in DLR_PARTS.items()}
DLR_LOSS_VJP = {
    "float32": dlr_loss_vjp(DLR_PARTS["float32"], float32),
    "float64": dlr_loss_vjp(DLR_PARTS["float64"], float64),
}
