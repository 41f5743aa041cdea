"""Bodies of the layers between the convolutions.

Element i belongs to channel ``i // run % channels``.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32

from ..elements import element

ZERO, ONE = float32(0.0), float32(1.0)


@element
def add_bias(i: Any, out: Any, x: Any, bias: Any, channels: Any, run: Any) -> None:
    """X + bias."""
    out[i] = x[i] + bias[i // run % channels]


@element
def relu(i: Any, out: Any, x: Any) -> None:
    """The larger of x and 0; NaN stays NaN."""
    out[i] = ZERO if x[i] <= ZERO else x[i]


@element
def relu_vjp(i: Any, dx: Any, dy: Any, y: Any) -> None:
    """Gradient of `relu`."""
    dx[i] = dy[i] * (ONE if y[i] > ZERO else ZERO)


@element
def tanh(i: Any, out: Any, x: Any) -> None:
    """Hyperbolic tangent."""
    out[i] = math.tanh(x[i])


@element
def tanh_vjp(i: Any, dx: Any, dy: Any, y: Any) -> None:
    """Gradient of `tanh`."""
    dx[i] = dy[i] * (ONE - y[i] * y[i])


@element
def batch_norm(
    i: Any, out: Any, x: Any, gain: Any, bias: Any, mean: Any, variance: Any, channels: Any, run: Any, epsilon: Any
) -> None:
    """Gain (x - mean) / sqrt(variance + epsilon) + bias."""
    c = i // run % channels
    out[i] = (x[i] - mean[c]) * (gain[c] / math.sqrt(variance[c] + epsilon)) + bias[c]


@element
def batch_norm_vjp(
    i: Any,
    dx: Any,
    dy: Any,
    x: Any,
    gain: Any,
    mean: Any,
    variance: Any,
    dgain: Any,
    dbias: Any,
    channels: Any,
    run: Any,
    divisor: Any,
    epsilon: Any,
) -> None:
    """Gradient through the batch's own statistics, of ``divisor`` numbers a channel."""
    c = i // run % channels
    scale = ONE / math.sqrt(variance[c] + epsilon)
    normalised = (x[i] - mean[c]) * scale
    dx[i] = (dy[i] - dbias[c] / divisor - normalised * (dgain[c] / divisor)) * (gain[c] * scale)


@element
def batch_norm_inference_vjp(
    i: Any, dx: Any, dy: Any, gain: Any, variance: Any, channels: Any, run: Any, epsilon: Any
) -> None:
    """Gradient of `batch_norm` with respect to x, the statistics being given."""
    c = i // run % channels
    dx[i] = dy[i] * (gain[c] / math.sqrt(variance[c] + epsilon))


@element
def squared_error_vjp(i: Any, doutput: Any, output: Any, target: Any, dloss: Any, size: Any) -> None:
    """2 dloss (output - target) for samples of ``size`` numbers."""
    weight = dloss[i // size]
    doutput[i] = (weight + weight) * (output[i] - target[i])
