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

from malade_ref.arrays import Array
from malade_ref.checks import check_float, check_number, check_same, check_shape

from ..device import device
from ..kernels import minimum_norm as kernels
from .layout import for_each_element, for_each_of_samples, rows

REAL = {"float32": "float", "float64": "double"}
THREADS = 128  # 32 * WARPS of rows.cuh


def to_tanh_space(x: Array) -> Array:
    r"""The variable w of Carlini and Wagner's change of variables, :math:`x = (\tanh w + 1) / 2`.

    Pixels at 0 and 1, whose w would be infinite, are moved by 5e-7: :math:`w = \mathrm{artanh}(0.999999 (2x - 1))`.

    Parameters
    ----------
    x : array of shape (n, ...), float32 or float64
        Pixels in [0, 1].

    Returns
    -------
    array of x's shape and dtype
        Any real numbers.

    Raises
    ------
    InputError
        If x is not of floats.

    References
    ----------
    .. [1] Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017.
    """
    check_float("x", x)
    return for_each_element(kernels.to_tanh_space, (x,))


def from_tanh_space(w: Array) -> Array:
    r"""Pixels of Carlini and Wagner's variable: :math:`(\tanh w + 1) / 2`.

    Parameters
    ----------
    w : array of shape (n, ...), float32 or float64
        Any real numbers.

    Returns
    -------
    array of w's shape and dtype
        Pixels, in [0, 1] exactly.

    Raises
    ------
    InputError
        If w is not of floats.
    """
    check_float("w", w)
    return for_each_element(kernels.from_tanh_space, (w,))


def cw_gradient(w: Array, gradient: Array, centre: Array, weight: Array) -> Array:
    r"""Gradient of :math:`||x(w) - c||_2^2 - \lambda\, m(x(w))` with respect to w, where :math:`x = (\tanh w + 1) / 2`.

    A pixel whose gradient is not finite is drawn to the clean image only.

    Parameters
    ----------
    w, gradient, centre : array of shape (n, ...), one dtype
        Variable, gradient of m with respect to the pixels, and clean image c.
    weight : array of shape (n,), float
        :math:`\lambda` of each image.

    Returns
    -------
    array of w's shape and dtype
        Gradient.

    Raises
    ------
    InputError
        If shapes or dtypes differ.

    References
    ----------
    .. [1] Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017.
    """
    check_float("w", w)
    for name, array in (("gradient", gradient), ("centre", centre)):
        check_same(name, array, "w", w)
    check_shape("weight", weight, w.shape[:1])
    return for_each_of_samples(kernels.cw_gradient, (w, gradient, centre), (weight,))


def ead_step(
    y: Array, x: Array, gradient: Array, centre: Array, weight: Array, *, step_size: float, beta: float, momentum: float
) -> tuple[Array, Array]:
    r"""Step of EAD: descent on :math:`||y - c||_2^2 - \lambda\, m(y)`, shrinkage towards c, then momentum (FISTA).

    With :math:`z = y - s\,(2(y - c) - \lambda \nabla m(y))`, a pixel becomes c where :math:`|z - c| \le \beta`, and
    otherwise z moved by :math:`\beta` towards c and clipped to [0, 1].

    Parameters
    ----------
    y, x, gradient, centre : array of shape (n, ...), one dtype
        Point with momentum, last iterate, gradient of m at y, and clean image c in [0, 1]. A pixel whose gradient is
        not finite becomes c.
    weight : array of shape (n,), float
        :math:`\lambda` of each image.
    step_size : float
        s >= 0.
    beta : float
        Threshold of the shrinkage, in pixel units, >= 0.
    momentum : float
        How much further to go along the iterate's move, >= 0.

    Returns
    -------
    x, y : array of that shape and dtype
        New iterate, in [0, 1], and new point with momentum, which may lie outside.

    Raises
    ------
    InputError
        If shapes or dtypes differ or a setting is negative.

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
    numbers = map(y.dtype.type, (step_size, beta, momentum))
    arrays, dtypes = (y, x, gradient, centre), (y.dtype, y.dtype)
    body = kernels.ead_step
    pair: tuple[Array, Array] = for_each_of_samples(body, arrays, (weight,), *numbers, dtypes=dtypes)
    return pair


def plane_step_linf(x: Array, at: Array, normal: Array, value: Array) -> Array:
    r"""Smallest move, in the maximum norm and within [0, 1], onto the plane :math:`v + g \cdot (x' - p) = 0`.

    Where [0, 1] and the plane have no point in common, the move that comes nearest to it. An image whose g or v is not
    finite, or whose g is 0, does not move.

    Parameters
    ----------
    x, at, normal : array of shape (n, ...), one dtype
        What is moved, in [0, 1]; the point p; and g.
    value : array of shape (n,), float
        v, the plane's function at p.

    Returns
    -------
    array of x's shape and dtype
        The move; x and it add up to the point of the plane.

    Raises
    ------
    InputError
        If shapes or dtypes differ.

    References
    ----------
    .. [1] Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.
    """
    return _plane_step(x, at, normal, value, euclidean=False)


def plane_step_l2(x: Array, at: Array, normal: Array, value: Array) -> Array:
    r"""Smallest move, in the Euclidean norm and within [0, 1], onto the plane :math:`v + g \cdot (x' - p) = 0`.

    Where [0, 1] and the plane have no point in common, the move that comes nearest to it. An image whose g or v is not
    finite, or whose g is 0, does not move.

    Parameters
    ----------
    x, at, normal : array of shape (n, ...), one dtype
        What is moved, in [0, 1]; the point p; and g.
    value : array of shape (n,), float
        v, the plane's function at p.

    Returns
    -------
    array of x's shape and dtype
        The move; x and it add up to the point of the plane.

    Raises
    ------
    InputError
        If shapes or dtypes differ.

    References
    ----------
    .. [1] Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.
    """
    return _plane_step(x, at, normal, value, euclidean=True)


def fab_step(x: Array, centre: Array, step: Array, centre_step: Array, share: Array, *, overshoot: float) -> Array:
    r"""Step of FAB: a little beyond the plane, from the iterate and from the clean image, and a point between the two.

    Parameters
    ----------
    x, centre, step, centre_step : array of shape (n, ...), one dtype
        Iterate, clean image, and the move of each onto the plane.
    share : array of shape (n,), float
        Share a of the clean image's move, in [0, 1].
    overshoot : float
        Length :math:`\eta` of the moves, 1 being onto the plane, >= 0.

    Returns
    -------
    array of x's shape and dtype
        :math:`(1 - a)(x + \eta s) + a (c + \eta s_c)`, clipped to [0, 1].

    Raises
    ------
    InputError
        If shapes or dtypes differ or the overshoot is negative.

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
    arrays = (x, centre, step, centre_step)
    return for_each_of_samples(kernels.fab_step, arrays, (share,), x.dtype.type(overshoot))


def interpolate(x: Array, other: Array, share: Array) -> Array:
    """Points on the way from one image to another, clipped to [0, 1].

    Parameters
    ----------
    x, other : array of shape (n, ...), one dtype
        Both ends.
    share : array of shape (n,), float
        How far to go: 0 is x, 1 the other end.

    Returns
    -------
    array of x's shape and dtype
        ``(1 - share) x + share other``.

    Raises
    ------
    InputError
        If shapes or dtypes differ.
    """
    check_float("x", x)
    check_same("other", other, "x", x)
    check_shape("share", share, x.shape[:1])
    return for_each_of_samples(kernels.interpolate, (x, other), (share,))


def _plane_step(x: Array, at: Array, normal: Array, value: Array, *, euclidean: bool) -> Array:
    check_float("x", x)
    for name, array in (("at", at), ("normal", normal)):
        check_same(name, array, "x", x)
    check_shape("value", value, x.shape[:1])
    inputs = rows(x, at, normal)
    move, out = inputs.empty(x.dtype)
    if out.size:
        value = device().xp.ascontiguousarray(value.astype("float64", copy=False))
        device().launch(
            "rows",
            "plane_step",
            grid=(len(out),),
            block=(THREADS,),
            arguments=(*inputs.arrays, value, out, out.shape[1], int(euclidean)),
            defines={"REAL": REAL[str(x.dtype)]},
        )
    return move
