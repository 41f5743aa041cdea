"""Bodies of the activations besides ReLU and tanh, and of their gradients.

Launched by `ops/activations.py`; tested in `tests/agree/test_activations.py`. Element i belongs to channel
``i // run % channels``. Numbers that are not exact in float32 are handed over in the arrays' own precision.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32

from ..elements import element

ZERO, HALF, ONE, SETTLED = float32(0.0), float32(0.5), float32(1.0), float32(1e4)


@element
def logistic(x: Any) -> Any:
    """Sigmoid; exp is asked for numbers <= 0 only, and never overflows."""
    small = math.exp(-math.fabs(x))
    return (ONE if x >= ZERO else small) / (ONE + small)


@element
def bounded(x: Any) -> Any:
    """What has settled at its limit, at a finite place; NaN stays NaN."""
    return -SETTLED if x < -SETTLED else SETTLED if x > SETTLED else x


@element
def leaky_relu(i: Any, out: Any, x: Any, slope: Any) -> None:
    """A share of the negative numbers."""
    out[i] = x[i] if x[i] > ZERO else x[i] * slope


@element
def leaky_relu_vjp(i: Any, dx: Any, dy: Any, x: Any, slope: Any) -> None:
    """Gradient of `leaky_relu`."""
    dx[i] = dy[i] if x[i] > ZERO else dy[i] * slope


@element
def elu(i: Any, out: Any, x: Any, alpha: Any) -> None:
    """Alpha (exp(x) - 1) below 0."""
    out[i] = x[i] if x[i] > ZERO else alpha * math.expm1(x[i])


@element
def elu_vjp(i: Any, dx: Any, dy: Any, x: Any, alpha: Any) -> None:
    """Gradient of `elu`."""
    dx[i] = dy[i] if x[i] > ZERO else dy[i] * (alpha * math.exp(x[i]))


@element
def sigmoid(i: Any, out: Any, x: Any) -> None:
    """Logistic function."""
    out[i] = logistic(x[i])


@element
def sigmoid_vjp(i: Any, dx: Any, dy: Any, y: Any) -> None:
    """Gradient of `sigmoid`."""
    dx[i] = dy[i] * (y[i] * (ONE - y[i]))


@element
def silu(i: Any, out: Any, x: Any) -> None:
    """The number times its sigmoid."""
    out[i] = (-SETTLED if x[i] < -SETTLED else x[i]) * logistic(x[i])


@element
def silu_vjp(i: Any, dx: Any, dy: Any, x: Any) -> None:
    """Gradient of `silu`."""
    dx[i] = dy[i] * (logistic(x[i]) * (ONE + bounded(x[i]) * logistic(-x[i])))


@element
def gelu(i: Any, out: Any, x: Any, root_half: Any) -> None:
    """The number times the standard normal distribution up to it."""
    out[i] = (-SETTLED if x[i] < -SETTLED else x[i]) * (HALF * math.erfc(-root_half * bounded(x[i])))


@element
def gelu_vjp(i: Any, dx: Any, dy: Any, x: Any, root_half: Any, peak: Any) -> None:
    """Gradient of `gelu`; ``peak`` is the normal density at 0."""
    z = bounded(x[i])
    dx[i] = dy[i] * (HALF * math.erfc(-root_half * z) + z * (peak * math.exp(-HALF * (z * z))))


@element
def gelu_tanh(i: Any, out: Any, x: Any, slope: Any, cubic: Any) -> None:
    """The same, the distribution being sigmoid(slope (x + cubic x^3))."""
    z = bounded(x[i])
    out[i] = (-SETTLED if x[i] < -SETTLED else x[i]) * logistic(slope * (z + cubic * z * z * z))


@element
def gelu_tanh_vjp(i: Any, dx: Any, dy: Any, x: Any, slope: Any, cubic: Any, thrice_cubic: Any) -> None:
    """Gradient of `gelu_tanh`."""
    z = bounded(x[i])
    u = slope * (z + cubic * z * z * z)
    share = logistic(u)
    dx[i] = dy[i] * (share + z * (share * logistic(-u) * (slope * (ONE + thrice_cubic * z * z))))


@element
def softplus(i: Any, out: Any, x: Any, beta: Any, threshold: Any) -> None:
    """Smooth rectifier up to a threshold, the number itself beyond."""
    z = beta * x[i]
    smooth = (ZERO if z <= ZERO else z) + math.log1p(math.exp(-math.fabs(z)))
    out[i] = x[i] if z > threshold else smooth / beta


@element
def softplus_vjp(i: Any, dx: Any, dy: Any, x: Any, beta: Any, threshold: Any) -> None:
    """Gradient of `softplus`."""
    z = beta * x[i]
    dx[i] = dy[i] if z > threshold else dy[i] * logistic(z)


@element
def hardtanh(i: Any, out: Any, x: Any, low: Any, high: Any) -> None:
    """Clip to [low, high]; NaN stays NaN."""
    out[i] = low if x[i] < low else high if x[i] > high else x[i]


@element
def hardtanh_vjp(i: Any, dx: Any, dy: Any, x: Any, low: Any, high: Any) -> None:
    """Gradient of `hardtanh`; 0 at both ends."""
    dx[i] = dy[i] * (ONE if low < x[i] and x[i] < high else ZERO)


@element
def prelu(i: Any, out: Any, x: Any, slopes: Any, channels: Any, run: Any) -> None:
    """A share of the negative numbers, of each channel its own."""
    out[i] = x[i] if x[i] > ZERO else x[i] * slopes[i // run % channels]


@element
def prelu_vjp(i: Any, dx: Any, dy: Any, x: Any, slopes: Any, channels: Any, run: Any) -> None:
    """Gradient of `prelu` with respect to x."""
    dx[i] = dy[i] if x[i] > ZERO else dy[i] * slopes[i // run % channels]


@element
def prelu_terms(i: Any, out: Any, dy: Any, x: Any) -> None:
    """What is added up in the gradient with respect to the slope."""
    out[i] = dy[i] * (ZERO if x[i] > ZERO else x[i])
