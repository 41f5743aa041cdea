r"""Steps of attacks that look for the smallest perturbation: Carlini and Wagner's, EAD and FAB.

What may lie anywhere (w, and EAD's point with momentum) is no image; what is one lies in [0, 1] exactly. A gradient
that is not a number moves nothing: one broken sample stops no other.

Axes: n images; everything after the first axis belongs to one image.

References
----------
.. [1] Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017.
.. [2] Chen et al., "EAD: elastic-net attacks to deep neural networks via adversarial examples", AAAI 2018.
.. [3] Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_float, check_number, check_same, check_shape
from .attack_steps import of_samples
from .langevin import clip_pixels

Floats = NDArray[Any]


def to_tanh_space(x: Floats) -> Floats:
    r"""The variable w of Carlini and Wagner's change of variables, :math:`x = (\tanh w + 1) / 2`.

    Pixels at 0 and 1, whose w would be infinite, are moved by 5e-7: :math:`w = \mathrm{artanh}(0.999999 (2x - 1))`.

    Parameters
    ----------
    x : ndarray of shape (n, ...), float32 or float64
        Pixels in [0, 1].

    Returns
    -------
    ndarray of x's shape and dtype
        Any real numbers.

    References
    ----------
    .. [1] Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017.
    """
    check_float("x", x)
    return np.arctanh(0.999999 * (2 * x.astype(np.float64) - 1)).astype(x.dtype)


def from_tanh_space(w: Floats) -> Floats:
    r"""Pixels of Carlini and Wagner's variable: :math:`(\tanh w + 1) / 2`.

    Parameters
    ----------
    w : ndarray of shape (n, ...), float32 or float64
        Any real numbers.

    Returns
    -------
    ndarray of w's shape and dtype
        Pixels, in [0, 1] exactly.
    """
    check_float("w", w)
    return np.asarray((np.tanh(w) + 1) / 2)


def cw_gradient(w: Floats, gradient: Floats, centre: Floats, weight: Floats) -> Floats:
    r"""Gradient of :math:`||x(w) - c||_2^2 - \lambda\, m(x(w))` with respect to w, where :math:`x = (\tanh w + 1) / 2`.

    A pixel whose gradient is not finite is drawn to the clean image only.

    Parameters
    ----------
    w, gradient, centre : ndarray of shape (n, ...), one dtype
        Variable, gradient of m with respect to the pixels, and clean image c.
    weight : ndarray of shape (n,), float
        :math:`\lambda` of each image.

    References
    ----------
    .. [1] Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017.
    """
    check_float("w", w)
    for name, array in (("gradient", gradient), ("centre", centre)):
        check_same(name, array, "w", w)
    check_shape("weight", weight, w.shape[:1])
    usable = np.where(np.isfinite(gradient), gradient, 0)
    of_pixels = 2 * (from_tanh_space(w) - centre) - of_samples(weight, w) * usable
    # 1 - tanh(w)^2 = 4 e / (1 + e)^2 with e = exp(-2 |w|) keeps its digits where tanh is all but 1.
    e = np.exp(-2 * np.abs(w))
    return np.asarray(of_pixels * (2 * e / ((1 + e) * (1 + e))))


def ead_step(
    y: Floats,
    x: Floats,
    gradient: Floats,
    centre: Floats,
    weight: Floats,
    *,
    step_size: float,
    beta: float,
    momentum: float,
) -> tuple[Floats, Floats]:
    r"""Step of EAD: descent on :math:`||y - c||_2^2 - \lambda\, m(y)`, shrinkage towards c, then momentum (FISTA).

    With :math:`z = y - s\,(2(y - c) - \lambda \nabla m(y))`, a pixel becomes c where :math:`|z - c| \le \beta`, and
    otherwise z moved by :math:`\beta` towards c and clipped to [0, 1].

    Parameters
    ----------
    y, x, gradient, centre : ndarray of shape (n, ...), one dtype
        Point with momentum, last iterate, gradient of m at y, and clean image c in [0, 1]. A pixel whose gradient is
        not finite becomes c.
    weight : ndarray of shape (n,), float
        :math:`\lambda` of each image.
    step_size : float
        s >= 0.
    beta : float
        Threshold of the shrinkage, in pixel units, >= 0.
    momentum : float
        How much further to go along the iterate's move, >= 0.

    Returns
    -------
    x, y : ndarray of that shape and dtype
        New iterate, in [0, 1], and new point with momentum, which may lie outside.

    References
    ----------
    .. [1] Chen et al., "EAD: elastic-net attacks to deep neural networks via adversarial examples", AAAI 2018.
    .. [2] Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm", SIAM J. Imaging Sciences, 2009.
    """
    check_float("y", y)
    for name, array in (("x", x), ("gradient", gradient), ("centre", centre)):
        check_same(name, array, "y", y)
    check_shape("weight", weight, y.shape[:1])
    for name, number in (("step_size", step_size), ("beta", beta), ("momentum", momentum)):
        check_number(name, number, minimum=0)
    real = y.dtype.type
    usable = np.isfinite(gradient)
    pull = of_samples(weight, y) * np.where(usable, gradient, 0)
    z = y - real(step_size) * (2 * (y - centre) - pull)
    shift = z - centre
    shrunk = np.where(shift > 0, np.minimum(z - real(beta), 1), np.maximum(z + real(beta), 0))
    new = np.where(usable & (np.abs(shift) > real(beta)), shrunk, centre)
    return np.asarray(new), np.asarray(new + real(momentum) * (new - x))


def plane_step_linf(x: Floats, at: Floats, normal: Floats, value: Floats) -> Floats:
    r"""Smallest move, in the maximum norm and within [0, 1], onto the plane :math:`v + g \cdot (x' - p) = 0`.

    Where [0, 1] and the plane have no point in common, the move that comes nearest to it. An image whose g or v is not
    finite, or whose g is 0, does not move.

    Parameters
    ----------
    x, at, normal : ndarray of shape (n, ...), one dtype
        What is moved, in [0, 1]; the point p; and g.
    value : ndarray of shape (n,), float
        v, the plane's function at p.

    Returns
    -------
    ndarray of x's shape and dtype
        The move; x and it add up to the point of the plane.

    References
    ----------
    .. [1] Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.
    """
    return _plane_step(x, at, normal, value, euclidean=False)


def plane_step_l2(x: Floats, at: Floats, normal: Floats, value: Floats) -> Floats:
    r"""Smallest move, in the Euclidean norm and within [0, 1], onto the plane :math:`v + g \cdot (x' - p) = 0`.

    Where [0, 1] and the plane have no point in common, the move that comes nearest to it. An image whose g or v is not
    finite, or whose g is 0, does not move.

    Parameters
    ----------
    x, at, normal : ndarray of shape (n, ...), one dtype
        What is moved, in [0, 1]; the point p; and g.
    value : ndarray of shape (n,), float
        v, the plane's function at p.

    Returns
    -------
    ndarray of x's shape and dtype
        The move; x and it add up to the point of the plane.

    References
    ----------
    .. [1] Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.
    """
    return _plane_step(x, at, normal, value, euclidean=True)


def fab_step(
    x: Floats, centre: Floats, step: Floats, centre_step: Floats, share: Floats, *, overshoot: float
) -> Floats:
    r"""Step of FAB: a little beyond the plane, from the iterate and from the clean image, and a point between the two.

    Parameters
    ----------
    x, centre, step, centre_step : ndarray of shape (n, ...), one dtype
        Iterate, clean image, and the move of each onto the plane.
    share : ndarray of shape (n,), float
        Share a of the clean image's move, in [0, 1].
    overshoot : float
        Length :math:`\eta` of the moves, 1 being onto the plane, >= 0.

    Returns
    -------
    ndarray of x's shape and dtype
        :math:`(1 - a)(x + \eta s) + a (c + \eta s_c)`, clipped to [0, 1].

    References
    ----------
    .. [1] Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020,
       eq. (9).
    """
    check_float("x", x)
    for name, array in (("centre", centre), ("step", step), ("centre_step", centre_step)):
        check_same(name, array, "x", x)
    check_shape("share", share, x.shape[:1])
    check_number("overshoot", overshoot, minimum=0)
    a, eta = of_samples(share, x), x.dtype.type(overshoot)
    return clip_pixels((1 - a) * (x + eta * step) + a * (centre + eta * centre_step))


def interpolate(x: Floats, other: Floats, share: Floats) -> Floats:
    """Points on the way from one image to another, clipped to [0, 1].

    Parameters
    ----------
    x, other : ndarray of shape (n, ...), one dtype
        Both ends.
    share : ndarray of shape (n,), float
        How far to go: 0 is x, 1 the other end.

    Returns
    -------
    ndarray of x's shape and dtype
        ``(1 - share) x + share other``.
    """
    check_float("x", x)
    check_same("other", other, "x", x)
    check_shape("share", share, x.shape[:1])
    a = of_samples(share, x)
    return clip_pixels((1 - a) * x + a * other)


def _plane_step(x: Floats, at: Floats, normal: Floats, value: Floats, *, euclidean: bool) -> Floats:
    """Move of `plane_step_linf` and `plane_step_l2`.

    With c = v + g.(x - p), all pixels move against c g, pixel i by min(t b_i, r_i): b_i is 1 or |g_i|, r_i the room
    that [0, 1] leaves it, and t such that sum |g_i| min(t b_i, r_i) = |c|. The sum is piecewise linear in t with a kink
    at each r_i / b_i: sorted, they tell between which of them t lies.
    """
    check_float("x", x)
    for name, array in (("at", at), ("normal", normal)):
        check_same(name, array, "x", x)
    check_shape("value", value, x.shape[:1])
    n = len(x)
    size = x[:1].size
    if not n or not size:
        return np.zeros_like(x)
    p, q, g = (array.reshape(n, size).astype(np.float64) for array in (x, at, normal))
    v = value.astype(np.float64)[:, None]
    largest = np.abs(g).max(axis=1, keepdims=True)
    usable = np.isfinite(largest) & (largest > 0) & np.isfinite(v)
    scale = np.where(usable, largest, 1)
    g = np.where(usable, g, 0) / scale
    c = np.where(usable, v, 0) / scale + (g * (p - q)).sum(axis=1, keepdims=True)
    direction = -np.sign(c) * np.sign(g)
    room = np.where(direction > 0, 1 - p, p)
    weight = np.abs(g)
    speed = weight if euclidean else np.ones_like(weight)
    kink = room / np.maximum(speed, 1e-30)
    order = np.argsort(kink, axis=1)
    kinks, rooms, weights, speeds = (np.take_along_axis(a, order, axis=1) for a in (kink, room, weight, speed))
    stopped = np.cumsum(weights * rooms, axis=1)  # of the pixels up to and with each kink's own
    slope = np.cumsum((weights * speeds)[:, ::-1], axis=1)[:, ::-1]  # of each kink's own pixel and those after it
    before = stopped - weights * rooms
    reached = before + kinks * slope >= np.abs(c)
    reachable = reached.any(axis=1, keepdims=True)
    place = reached.argmax(axis=1)[:, None]
    short = np.abs(c) - np.take_along_axis(before, place, axis=1)
    t = short / np.maximum(np.take_along_axis(slope, place, axis=1), 1e-300)
    amount = np.where(reachable, np.minimum(np.maximum(t, 0) * speed, room), room)
    return np.asarray((direction * amount).astype(x.dtype).reshape(x.shape))
