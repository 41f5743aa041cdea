r"""Mixtures of Gaussians: log densities, scores and Hessians, by class, and chains that follow them.

    log (w_k N(x; mu_k, C_k)) = c_k - |z_k|^2 / 2,    z_k = W_k (x - mu_k),    W_k the inverse Cholesky factor of C_k,

a mixture being the arrays c (``log_scale``), mu (``means``) and W (``whitening``). One thread has a point and goes
through the components. In `mixture_chain` it has a walker: all steps are one kernel, with position and score in
registers and the noise made on the spot from its counters.

Axes: n points, d dimensions, m components, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_count, check_float, check_integer, check_ndim, check_number, check_shape

from ..device import device
from ..kernels import mixture as kernels
from .attack_steps import select
from .langevin import langevin_step
from .metropolis import langevin_log_ratio, metropolis_accept
from .random import Key, normal, uniform

# Chains in more dimensions go step by step: their walkers' arrays would not fit a thread's registers.
MOST_DIMENSIONS = 16


def mixture_log_densities(
    x: Array, log_scale: Array, means: Array, whitening: Array, labels: Array, *, num_classes: int
) -> Array:
    """As `malade_ref.ops.mixture_log_densities`."""
    _check(x, log_scale, means, whitening, labels, num_classes)
    out = device().empty((len(x), num_classes), x.dtype)
    _for_points(kernels.log_densities, x, (out,), (log_scale, means, whitening), labels, num_classes)
    return out


def mixture_scores(
    x: Array, log_scale: Array, means: Array, whitening: Array, labels: Array, *, num_classes: int
) -> tuple[Array, Array]:
    """As `malade_ref.ops.mixture_scores`."""
    _check(x, log_scale, means, whitening, labels, num_classes)
    values = device().empty((len(x), num_classes), x.dtype)
    out = device().empty((*values.shape, x.shape[1]), x.dtype)
    _for_points(kernels.scores, x, (values, out), (log_scale, means, whitening), labels, num_classes)
    return values, out


def mixture_hessians(
    x: Array, log_scale: Array, means: Array, whitening: Array, labels: Array, *, num_classes: int
) -> tuple[Array, Array, Array]:
    """As `malade_ref.ops.mixture_hessians`."""
    _check(x, log_scale, means, whitening, labels, num_classes)
    values = device().empty((len(x), num_classes), x.dtype)
    scores = device().empty((*values.shape, x.shape[1]), x.dtype)
    out = device().empty((*scores.shape, x.shape[1]), x.dtype)
    precisions = device().empty(whitening.shape, x.dtype)
    flat = device().xp.ascontiguousarray(whitening).reshape(-1)
    device().for_elements(kernels.precisions(str(x.dtype), x.shape[1]), flat.size, precisions.reshape(-1), flat)
    mixture = log_scale, means, whitening, precisions
    _for_points(kernels.hessians, x, (values, scores, out), mixture, labels, num_classes)
    return values, scores, out


def mixture_responsibilities(x: Array, log_scale: Array, means: Array, whitening: Array) -> Array:
    """As `malade_ref.ops.mixture_responsibilities`."""
    _check(x, log_scale, means, whitening)
    out = device().empty((len(x), len(means)), x.dtype)
    _for_points(kernels.responsibilities, x, (out,), (log_scale, means, whitening))
    return out


def mixture_chain(
    x: Array,
    log_scale: Array,
    means: Array,
    whitening: Array,
    *,
    num_steps: int,
    alpha: float,
    delta: float,
    key: Key,
    accept_key: Key | None = None,
    sample_index: Array,
    first_step: int = 0,
) -> tuple[Array, Array]:
    """As `malade_ref.ops.mixture_chain`."""
    _check(x, log_scale, means, whitening)
    check_count("num_steps", num_steps, minimum=0)
    check_count("first_step", first_step, minimum=0)
    check_number("alpha", alpha, above=0)
    check_number("delta", delta, **({"minimum": 0} if accept_key is None else {"above": 0}))
    check_ndim("sample_index", sample_index, 1, "(n,)")
    check_shape("sample_index", sample_index, x.shape[:1])
    if x.shape[1] > MOST_DIMENSIONS:
        return _chain_step_by_step(
            x, (log_scale, means, whitening), num_steps, alpha, delta, key, accept_key, sample_index, first_step
        )
    xp, real = device().xp, x.dtype.type
    out = device().empty(x.shape, x.dtype)
    num_accepted = device().empty((len(x),), xp.int64)
    arrays = [xp.ascontiguousarray(array).reshape(-1) for array in (x, log_scale, means, whitening)]
    index = xp.ascontiguousarray(sample_index.astype(xp.uint32))
    numbers = np.int64(num_steps), np.uint32(first_step), real(alpha), real(delta), real(1 / delta if delta else 0)
    words = map(np.uint32, (*key, *(accept_key or key)))
    body = kernels.chain(str(x.dtype), x.shape[1], accept_key is not None)
    device().for_elements(body, len(x), out.reshape(-1), num_accepted, *arrays, index, *numbers, *words)
    return out, num_accepted


def _chain_step_by_step(
    x: Array,
    mixture: tuple[Array, Array, Array],
    num_steps: int,
    alpha: float,
    delta: float,
    key: Key,
    accept_key: Key | None,
    sample_index: Array,
    first_step: int,
) -> tuple[Array, Array]:
    """`mixture_chain` in as many dimensions as there may be."""
    xp, dtype = device().xp, str(x.dtype)
    labels = xp.zeros(len(mixture[1]), dtype=xp.int64)

    def value_and_score(at: Array) -> tuple[Array, Array]:
        log_density, score = mixture_scores(at, *mixture, labels, num_classes=1)
        return log_density[:, 0], score[:, 0]

    position, num_accepted = x.copy(), xp.zeros(len(x), dtype=xp.int64)
    log_density, score = value_and_score(position)
    for step in range(first_step, first_step + num_steps):
        address: dict[str, Any] = {"sample_index": sample_index, "step": step, "dtype": dtype}
        noise = normal(x.shape[1:], key=key, **address)
        moved = langevin_step(position, score, noise, a=alpha, delta=delta)
        moved_log_density, moved_score = value_and_score(moved)
        if accept_key is None:
            position, score = moved, moved_score
            num_accepted += 1
            continue
        log_ratio = langevin_log_ratio(
            *(position, moved, score, moved_score, log_density, moved_log_density), alpha=alpha, delta=delta
        )
        accepted = metropolis_accept(log_ratio, uniform((), key=accept_key, **address))
        position, score = select(accepted, moved, position), select(accepted, moved_score, score)
        log_density = select(accepted, moved_log_density, log_density)
        num_accepted += accepted
    return position, num_accepted


def _for_points(
    kernel: Any,
    x: Array,
    outputs: tuple[Array, ...],
    mixture: tuple[Array, ...],
    labels: Array | None = None,
    num_classes: int = 1,
) -> None:
    """Run a body for every point."""
    xp = device().xp
    arrays = [xp.ascontiguousarray(array).reshape(-1) for array in (x, *mixture)]
    more: list[Any] = []
    if labels is not None:
        # A single class has all components, whatever they are labelled.
        more = [xp.ascontiguousarray(labels.astype(xp.int64)) if num_classes > 1 else xp.zeros(len(labels), xp.int64)]
        more.append(np.int64(num_classes))
    flat = [array.reshape(-1) for array in outputs]
    device().for_elements(kernel(str(x.dtype), x.shape[1]), len(x), *flat, *arrays, *more)


def _check(
    x: Array, log_scale: Array, means: Array, whitening: Array, labels: Array | None = None, num_classes: int = 1
) -> None:
    """Raise unless everything fits."""
    check_float("x", x)
    check_ndim("x", x, 2, "(n, d)")
    check_ndim("means", means, 2, "(m, d)")
    m, d = means.shape
    if m == 0 or d == 0:
        raise InputError(f"means: expected at least one component and one dimension, got {means.shape}")
    check_shape("x", x, (len(x), d))
    check_shape("log_scale", log_scale, (m,))
    check_shape("whitening", whitening, (m, d, d))
    for name, array in (("log_scale", log_scale), ("means", means), ("whitening", whitening)):
        if array.dtype != x.dtype:
            raise InputError(f"{name}: expected dtype {x.dtype} (that of x), got {array.dtype}")
    if labels is not None:
        check_integer("labels", labels)
        check_shape("labels", labels, (m,))
        check_count("num_classes", num_classes)
