r"""Mixtures of Gaussians: log densities, scores and Hessians, by class, and chains that follow them.

    p(x) = sum_k w_k N(x; mu_k, C_k),    C_k = L_k L_k^T,    W_k = L_k^{-1},    z_k = W_k (x - mu_k),
    log (w_k N(x; mu_k, C_k)) = c_k - |z_k|^2 / 2,    c_k = log w_k - log det L_k - (d / 2) log 2 pi.

Component k belongs to class y_k; p(x, y) is the sum over the components of class y, r_k their shares in it, and

    grad log p(x, y)       s_y = sum_k r_k g_k,    g_k = -W_k^T z_k,
    Hessian of log p(x, y) H_y = sum_k r_k ((g_k - s_y) (g_k - s_y)^T - W_k^T W_k).

With a single class these are the density, the score and the Hessian of the mixture itself. Sums of exponentials are
taken relative to the largest term; z is computed from the difference x - mu_k, and squares are summed after whitening,
so that neither distance nor conditioning costs more digits than it must. A density too small for the format, even as a
logarithm, is given as `LOWEST`.

A mixture is passed as the arrays c (``log_scale``), mu (``means``) and W (``whitening``). Work is done in blocks of
points with the points innermost; a block is small enough for a core's cache, so memory does not grow with n.

Axes: n points, d dimensions, m components, K classes; B points in a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import InputError, check_count, check_float, check_integer, check_ndim, check_number, check_shape
from .attack_steps import select
from .langevin import langevin_step
from .metropolis import langevin_log_ratio, metropolis_accept
from .random import Key, normal, uniform
from .slices import map_slices

Floats = NDArray[Any]
Labels = NDArray[np.integer[Any]]

# Logarithm of a density that is 0 for all purposes: finite, so that differences of such logarithms are 0 and not NaN.
LOWEST = {"float32": -1e38, "float64": -1e307}
# Numbers in the largest array of a block: it stays in a core's second-level cache.
BLOCK = 1 << 16


def mixture_log_densities(
    x: Floats, log_scale: Floats, means: Floats, whitening: Floats, labels: Labels, *, num_classes: int
) -> Floats:
    """Logarithms of the joint densities of points and classes, of shape (n, K).

    Parameters
    ----------
    x : ndarray of shape (n, d), float32 or float64
        Points.
    log_scale : ndarray of shape (m,), same dtype
        Logarithm of each component's weight and normalisation, c.
    means : ndarray of shape (m, d), same dtype
        Means of the components.
    whitening : ndarray of shape (m, d, d), same dtype
        Inverses of the Cholesky factors of the covariances, lower triangular.
    labels : ndarray of shape (m,), integer
        Classes of the components, in 0..num_classes-1, none without a component.
    num_classes : int
        Number K of classes; with 1, and all labels 0, the result is the mixture's log density.

    Examples
    --------
    >>> import numpy as np
    >>> standard = np.zeros(1), np.zeros((1, 1)), np.ones((1, 1, 1))
    >>> mixture_log_densities(np.array([[2.0]]), *standard, np.array([0]), num_classes=1)
    array([[-2.]])
    """
    classes = _checked(x, log_scale, means, whitening, labels, num_classes)
    out = np.empty((len(x), num_classes), dtype=x.dtype)

    def of_block(part: slice) -> None:
        z = _whitened(x[part], means, whitening)
        joint, _ = _by_class(_log_joint(z, log_scale), classes)
        out[part] = joint.T

    map_slices(of_block, len(x), slice_size=_block_size(means.size))
    return out


def mixture_scores(
    x: Floats, log_scale: Floats, means: Floats, whitening: Floats, labels: Labels, *, num_classes: int
) -> tuple[Floats, Floats]:
    """Logarithms of the joint densities of points and classes, and their gradients.

    The parameters are those of `mixture_log_densities`.

    Returns
    -------
    log_densities : ndarray of shape (n, K)
        log p(x, y) for each class y.
    scores : ndarray of shape (n, K, d)
        Their gradients, which are also those of log p(x | y).
    """
    classes = _checked(x, log_scale, means, whitening, labels, num_classes)
    log_densities = np.empty((len(x), num_classes), dtype=x.dtype)
    scores = np.empty((*log_densities.shape, x.shape[1]), dtype=x.dtype)

    def of_block(part: slice) -> None:
        z = _whitened(x[part], means, whitening)
        joint, shares = _by_class(_log_joint(z, log_scale), classes)
        log_densities[part] = joint.T
        z *= -shares[:, None]
        for y, members in enumerate(classes):
            # All components of a class in one product: (d, m d) times (m d, B).
            factors, weighted = whitening[members], z[members]
            rows = len(factors) * x.shape[1]
            score = factors.reshape(rows, -1).T @ weighted.reshape(rows, z.shape[2])
            scores[part, y] = score.T

    map_slices(of_block, len(x), slice_size=_block_size(means.size))
    return log_densities, scores


def mixture_hessians(
    x: Floats, log_scale: Floats, means: Floats, whitening: Floats, labels: Labels, *, num_classes: int
) -> tuple[Floats, Floats, Floats]:
    """Logarithms of the joint densities of points and classes, their gradients and their Hessians.

    The parameters are those of `mixture_log_densities`.

    Returns
    -------
    log_densities : ndarray of shape (n, K)
        log p(x, y) for each class y.
    scores : ndarray of shape (n, K, d)
        Their gradients.
    hessians : ndarray of shape (n, K, d, d)
        Their matrices of second derivatives, symmetric.
    """
    classes = _checked(x, log_scale, means, whitening, labels, num_classes)
    d = x.shape[1]
    log_densities = np.empty((len(x), num_classes), dtype=x.dtype)
    scores = np.empty((*log_densities.shape, d), dtype=x.dtype)
    hessians = np.empty((*scores.shape, d), dtype=x.dtype)
    to_gradient = np.ascontiguousarray(-whitening.transpose(0, 2, 1))
    precisions = (to_gradient @ -whitening).reshape(len(means), d * d)

    def of_block(part: slice) -> None:
        z = _whitened(x[part], means, whitening)
        joint, shares = _by_class(_log_joint(z, log_scale), classes)
        log_densities[part] = joint.T
        gradients = to_gradient @ z
        for y, members in enumerate(classes):
            share = shares[members]
            score = (share[:, None] * gradients[members]).sum(axis=0)
            scores[part, y] = score.T
            # Centred before they are squared: far out all gradients are large and nearly the same.
            spread = (gradients[members] - score) * np.sqrt(share)[:, None]
            outer = spread.transpose(2, 1, 0) @ spread.transpose(2, 0, 1)
            inner = (share.T @ precisions[members]).reshape(-1, d, d)
            hessian = outer - inner
            hessians[part, y] = 0.5 * (hessian + hessian.transpose(0, 2, 1))

    map_slices(of_block, len(x), slice_size=_block_size(means.size + d * d))
    return log_densities, scores, hessians


def mixture_responsibilities(x: Floats, log_scale: Floats, means: Floats, whitening: Floats) -> Floats:
    """Probabilities of the components given the points.

    The parameters are those of `mixture_log_densities`.

    Returns
    -------
    ndarray of shape (n, m)
        p(k | x); each row adds up to 1.
    """
    _checked(x, log_scale, means, whitening)
    out = np.empty((len(x), len(means)), dtype=x.dtype)

    def of_block(part: slice) -> None:
        z = _whitened(x[part], means, whitening)
        _, shares = _by_class(_log_joint(z, log_scale), [slice(None)])
        out[part] = shares.T

    map_slices(of_block, len(x), slice_size=_block_size(means.size))
    return out


def mixture_chain(
    x: Floats,
    log_scale: Floats,
    means: Floats,
    whitening: Floats,
    *,
    num_steps: int,
    alpha: float,
    delta: float,
    key: Key,
    accept_key: Key | None = None,
    sample_index: Any,
    first_step: int = 0,
) -> tuple[Floats, NDArray[np.int64]]:
    r"""Langevin chains on a mixture, many steps at once.

    Every walker moves :math:`x \leftarrow x + \alpha\, \nabla \log p(x) + \delta z`; with ``accept_key`` the move is a
    proposal that passes the Metropolis test or leaves the walker where it is (MALA), without it there is no test (ULA).

    Parameters
    ----------
    x : ndarray of shape (n, d), float32 or float64
        Where the walkers start. Not modified.
    log_scale, means, whitening
        As in `mixture_log_densities`.
    num_steps : int
        Number of steps, >= 0.
    alpha : float
        Step on the score, > 0.
    delta : float
        Standard deviation of the noise; >= 0, and > 0 with a Metropolis test. Exact for delta^2 = 2 alpha.
    key : tuple of two int
        Of the noise z.
    accept_key : tuple of two int, optional
        Of the uniform numbers of the Metropolis test, another one than ``key``.
    sample_index : ndarray of shape (n,), integer
        Numbers of the walkers, in [0, 2^32).
    first_step : int
        Number of the first step: a chain in pieces draws what it would draw in one.

    Returns
    -------
    position : ndarray of shape (n, d), same dtype
        Where the walkers are.
    num_accepted : ndarray of shape (n,), int64
        Moves that each has made; all of them without a test.

    References
    ----------
    .. [1] Roberts and Tweedie, "Exponential convergence of Langevin distributions", Bernoulli 2(4), 1996.
    """
    _checked(x, log_scale, means, whitening)
    check_count("num_steps", num_steps, minimum=0)
    check_count("first_step", first_step, minimum=0)
    check_number("alpha", alpha, above=0)
    check_number("delta", delta, **({"minimum": 0} if accept_key is None else {"above": 0}))
    check_ndim("sample_index", sample_index, 1, "(n,)")
    check_shape("sample_index", sample_index, x.shape[:1])
    mixture = log_scale, means, whitening, np.zeros(len(means), dtype=np.int64)
    dtype, shape = str(x.dtype), x.shape[1:]
    position = np.array(x)
    num_accepted = np.zeros(len(x), dtype=np.int64)

    def value_and_score(at: Floats) -> tuple[Floats, Floats]:
        log_density, score = mixture_scores(at, *mixture, num_classes=1)
        return log_density[:, 0], score[:, 0]

    def of_slice(part: slice) -> None:
        at, index = position[part], sample_index[part]
        log_density, score = value_and_score(at)
        for step in range(first_step, first_step + num_steps):
            noise = normal(shape, key=key, sample_index=index, step=step, dtype=dtype)
            moved = langevin_step(at, score, noise, a=alpha, delta=delta)
            moved_log_density, moved_score = value_and_score(moved)
            if accept_key is None:
                at, log_density, score = moved, moved_log_density, moved_score
                num_accepted[part] += 1
                continue
            log_ratio = langevin_log_ratio(
                *(at, moved, score, moved_score, log_density, moved_log_density), alpha=alpha, delta=delta
            )
            level = uniform((), key=accept_key, sample_index=index, step=step, dtype=dtype)
            accepted = metropolis_accept(log_ratio, level)
            at, score = select(accepted, moved, at), select(accepted, moved_score, score)
            log_density = select(accepted, moved_log_density, log_density)
            num_accepted[part] += accepted
        position[part] = at

    map_slices(of_slice, len(x), slice_size=_block_size(means.size))
    return position, num_accepted


def _whitened(x: Floats, means: Floats, whitening: Floats) -> Floats:
    """Distances from the means in standard deviations, (m, d, B)."""
    return np.asarray(whitening @ (np.ascontiguousarray(x.T) - means[:, :, None]))


def _log_joint(z: Floats, log_scale: Floats) -> Floats:
    """Logarithms of the components' weighted densities, (m, B)."""
    with np.errstate(over="ignore"):
        squares = np.square(z).sum(axis=1)
    joint = log_scale[:, None] - z.dtype.type(0.5) * squares
    return np.asarray(np.maximum(joint, z.dtype.type(LOWEST[str(z.dtype)])))


def _by_class(log_joint: Floats, classes: list[Any]) -> tuple[Floats, Floats]:
    """Logarithms of the sums over each class (K, B), and the share of each component in its class (m, B)."""
    sums = np.empty((len(classes), log_joint.shape[1]), dtype=log_joint.dtype)
    shares = np.empty_like(log_joint)
    for y, members in enumerate(classes):
        terms = log_joint[members]
        largest = terms.max(axis=0)
        terms = np.exp(terms - largest)
        total = terms.sum(axis=0)
        sums[y] = largest + np.log(total)
        shares[members] = terms / total
    return sums, shares


def _block_size(numbers: int) -> int:
    """Points in a block in which each point takes so many numbers."""
    return max(1, BLOCK // numbers)


def _checked(
    x: Floats,
    log_scale: Floats,
    means: Floats,
    whitening: Floats,
    labels: Labels | None = None,
    num_classes: int = 1,
) -> list[Any]:
    """Raise unless everything fits; the components of each class."""
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
    if labels is None:
        return [slice(None)]
    check_integer("labels", labels)
    check_shape("labels", labels, (m,))
    if check_count("num_classes", num_classes) == 1:
        return [slice(None)]
    return [np.flatnonzero(labels == y) for y in range(num_classes)]
