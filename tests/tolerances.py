"""How close is close: one table of tolerances, and the checks that use it.

An op's result differs from the exact one by rounding, and rounding is known: u = 2^-24 (float32) or 2^-53
(float64) for every operation, relative to the magnitude of what was added up. A row of the table says how
much an op may accumulate and why. A tolerance is never widened because a test failed; a row is added with its
reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


MOST_RESULTS = 3  # of an op


class Tolerance(NamedTuple):
    """Error allowed relative to a scale, for each dtype, and the reason.

    The scale is each element's own magnitude if ``elementwise``; otherwise the largest magnitude in the
    array, because an element in which large terms cancelled carries their rounding.
    """

    float32: float
    float64: float
    elementwise: bool
    reason: str


EXACT = Tolerance(0.0, 0.0, True, "moves, compares or selects numbers; nothing is rounded")
STEP = Tolerance(5e-7, 1e-15, False, "a handful of roundings of terms that may cancel")
SUM = Tolerance(3e-6, 6e-15, False, "a sum of up to a few thousand rounded products, in any order")
FUNCTION = Tolerance(1e-6, 4e-15, False, "exp, log or tanh of a few ulp, then a short sum")
STATISTICS = Tolerance(1e-5, 2e-14, False, "a variance is a difference of sums, and is divided by")
MIXTURE = Tolerance(1e-6, 4e-15, False, "whitened distances, exp and log; relative to sums over absolute values")

TOLERANCES: dict[str, Tolerance] = {
    **dict.fromkeys(("select", "better", "clip_pixels", "argmax", "other_classes"), EXACT),
    **dict.fromkeys(("max_pool2d", "upsample_nearest", "crop_flip"), EXACT),
    "upsample_bilinear": STEP,
    **dict.fromkeys(("upsample_nearest_vjp", "upsample_bilinear_vjp"), SUM),
    **dict.fromkeys(("relu", "random_words", "permutation", "philox4x32", "derive_key", "keys_of_samples"), EXACT),
    **dict.fromkeys(("arange", "asarray", "to_host", "zeros", "ones", "concatenate", "stack", "add_up"), EXACT),
    **dict.fromkeys(("salt_and_pepper_noise", "changed_share", "square_start_linf", "square_step_linf"), EXACT),
    **dict.fromkeys(("spsa_points", "spsa_gradient"), STEP),
    **dict.fromkeys(("square_start_l2", "square_step_l2"), SUM),
    "boundary_proposal": Tolerance(3e-6, 1e-10, False, "what is left of normal numbers without a part, made 1 long"),
    **dict.fromkeys(("add_bias", "sign_step", "project_linf", "random_start_linf"), STEP),
    **dict.fromkeys(("margin_loss", "apgd_step_linf", "ead_step", "fab_step", "interpolate"), STEP),
    **dict.fromkeys(("langevin_step", "linf_bounds", "distance_linf", "uniform"), STEP),
    **dict.fromkeys(("linear", "conv2d", "conv_transpose2d", "avg_pool2d", "squared_error"), SUM),
    **dict.fromkeys(("grouped_conv2d", "grouped_conv_transpose2d"), SUM),
    **dict.fromkeys(("distance_l2", "normalised_step", "project_l2", "random_start_l2"), SUM),
    **dict.fromkeys(("dlr_loss", "distance_l1", "momentum_step", "apgd_step_l2"), SUM),
    **dict.fromkeys(("plane_step_linf", "plane_step_l2"), SUM),
    **dict.fromkeys(("to_tanh_space", "from_tanh_space", "cw_gradient"), FUNCTION),
    **dict.fromkeys(("add_bias_vjp", "max_pool2d_vjp", "adaptive_avg_pool2d"), SUM),
    **dict.fromkeys(("leaky_relu", "prelu", "scale_shift"), STEP),
    **dict.fromkeys(("prelu_vjp", "scale_shift_vjp"), SUM),
    "hardtanh": EXACT,
    **dict.fromkeys(("elu", "sigmoid", "silu", "gelu", "softplus"), FUNCTION),
    "standardise": STATISTICS,
    **dict.fromkeys(("tanh", "log_softmax", "softmax_cross_entropy", "adam_step", "sgd_step"), FUNCTION),
    **dict.fromkeys(("box_muller", "kl_divergence"), FUNCTION),
    **dict.fromkeys(("batch_norm", "batch_norm_inference"), STATISTICS),
    **dict.fromkeys(("mixture_log_densities", "mixture_scores", "mixture_responsibilities"), MIXTURE),
    **dict.fromkeys(("mixture_hessians", "mixture_chain"), MIXTURE),
    "langevin_log_ratio": SUM,
    "metropolis_accept": EXACT,
    "normal": Tolerance(1e-6, 1e-14, False, "log, sine and cosine of a few ulp; what backends must agree to"),
    "network": Tolerance(1e-5, 1e-13, False, "some ten layers, each a sum of up to a few thousand products"),
    "fused_chain": Tolerance(
        3e-6, 0.0, False, "tanh and noise with errors of 1e-7, and a chain forgets more than it adds"
    ),
    "fused_chain_half": Tolerance(
        1e-3, 0.0, False, "weights and hidden values of 11 bits, and tanh as exact as these; a chain forgets, too"
    ),
    "chain": Tolerance(1e-4, 1e-12, False, "25 steps of a network, whose errors the chain carries on"),
    "outcome": Tolerance(1e-4, 1e-4, False, "from float32 networks, maybe of a training of each backend's own"),
}


def tolerance_for(op: str) -> Tolerance:
    """The row of an op; ``f_vjp`` has that of ``f`` unless it has its own."""
    for name in (op, op.removesuffix("_vjp")):
        if name in TOLERANCES:
            return TOLERANCES[name]
    raise LookupError(f"no tolerance for {op!r}: add a row with its reason to tests/tolerances.py")


def assert_close(actual: Any, expected: Any, *, op: str, dtype: str | None = None, scale: Any = None) -> None:
    """Fail unless an op's result is within its tolerance of what was expected.

    Shape and dtype must be right too, and NaN and infinity stand in the same places.

    Parameters
    ----------
    actual : ndarray
        Result, float32, float64, or anything that is compared exactly.
    expected : array_like
        Independent value, best in float64.
    op : str
        Row of the table.
    dtype : str, optional
        Dtype that ``actual`` must have. Its own by default.
    scale : array_like, optional
        Magnitude that rounding is relative to, instead of the table's choice: for a sum that may cancel, the
        same sum over absolute values.
    """
    row = tolerance_for(op)
    actual, expected = np.asarray(actual), np.asarray(expected)
    dtype = dtype or str(actual.dtype)
    assert str(actual.dtype) == dtype, f"{op}: expected dtype {dtype}, got {actual.dtype}"
    assert actual.shape == expected.shape, f"{op}: expected shape {expected.shape}, got {actual.shape}"
    if not actual.size:
        return
    rtol = {"float32": row.float32, "float64": row.float64}.get(dtype, 0.0)
    finite = np.isfinite(expected)
    same = np.array_equal(actual[~finite], expected[~finite], equal_nan=actual.dtype.kind == "f")
    assert same, f"{op}: NaN or infinity in other places than expected"
    if not finite.any():
        return
    wanted = np.where(finite, expected, 0).astype(np.float64)
    got = np.where(finite, actual, 0).astype(np.float64)
    if scale is None:
        scale = np.abs(wanted) if row.elementwise else np.abs(wanted).max()
    bound = np.broadcast_to(rtol * np.asarray(scale, dtype=np.float64), wanted.shape)
    error = np.abs(got - wanted)
    wrong = ~(error <= bound)  # so written, NaN is wrong
    if wrong.any():
        i = int(np.argmax(np.where(wrong, np.nan_to_num(error, nan=np.inf), -1)))
        place = tuple(map(int, np.unravel_index(i, error.shape)))
        raise AssertionError(
            f"{op}: {wrong.sum()} of {wrong.size} elements are wrong; the worst, at {place}: "
            f"expected {float(wanted[place])!r}, got {float(got[place])!r}, "
            f"error {error[place]:.3g} > {bound[place]:.3g} ({dtype}, relative {rtol:g}: {row.reason})"
        )


@contextlib.contextmanager
def assert_not_mutated(*arrays: Floats) -> Iterator[None]:
    """Fail if a bit of any of the arrays is another one at the end of the block."""
    before = [(array.shape, array.dtype, array.tobytes()) for array in arrays]
    yield
    for i, array in enumerate(arrays):
        assert (array.shape, array.dtype, array.tobytes()) == before[i], f"input {i} was changed"


def assert_no_alias(output: Floats, *inputs: Floats) -> None:
    """Fail if an output shares memory with an input."""
    for i, array in enumerate(inputs):
        assert not np.may_share_memory(output, array), f"the output shares memory with input {i}"


def planted(f: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The same function with errors of 0.1%, each in one of its results: in all elements, and in one.

    The one element is the largest, and 0.1% of it is what a careless comparison of the whole would overlook.
    """

    def copied(array: Any) -> Any:
        """Of NumPy's arrays, or of a device's: these do not become NumPy's unasked."""
        return array.copy() if hasattr(array, "get") else np.array(array)

    def scaled(array: Floats) -> Floats:
        return (1.001 * copied(array).astype("float64")).astype(array.dtype)

    def one_element(array: Floats) -> Floats:
        wrong = copied(array)
        largest = np.unravel_index(int(abs(wrong).argmax()), wrong.shape)
        wrong[largest] *= 1.001
        return wrong

    def mutant(plant: Callable[[Floats], Floats], k: int) -> Callable[..., Any]:
        def wrong_f(*args: Any, **settings: Any) -> Any:
            results = f(*args, **settings)
            if not isinstance(results, tuple):
                return plant(results)
            return tuple(
                plant(result) if i == k % len(results) and result is not None else result
                for i, result in enumerate(results)
            )

        return wrong_f

    yield from (mutant(plant, k) for plant in (scaled, one_element) for k in range(MOST_RESULTS))


def assert_planted_caught(check: Callable[[Callable[..., Any]], None], f: Callable[..., Any]) -> None:
    """Fail unless a check passes ``f`` and fails each of its `planted` mutants."""
    check(f)
    for i, mutant in enumerate(planted(f)):
        try:
            check(mutant)
        except AssertionError:
            continue
        raise AssertionError(f"planted error {i} was not caught")


def directional_check(
    f: Callable[..., Any],
    vjp: Callable[..., Any],
    inputs: Sequence[Floats],
    *,
    direction: Sequence[Floats] | None = None,
    cotangent: Floats | None = None,
    seed: int = 0,
    eps: float = 1e-2,
    rtol: float = 1e-6,
) -> None:
    """Fail unless a vector-Jacobian product agrees with a finite difference along one direction.

    With J the Jacobian of f at the inputs x, d a direction and w a cotangent, both random, the numbers

        <vjp(w, x), d> = <J^T w, d>    and    <w, J d> = d/dh <w, f(x + h d)> at h = 0

    are the same. The right one is estimated by central differences with steps eps, eps/2, eps/4, ...,
    extrapolated to 0 by Richardson's (Neville's) table; of all entries that with the smallest estimated error
    is taken (Ridders 1982), which serves smooth functions (large steps, extrapolated) as well as piecewise
    linear ones (a step so small that no kink is crossed). The estimate does not look at the vjp.

    Parameters
    ----------
    f : callable
        ``f(*inputs)`` returns an array.
    vjp : callable
        ``vjp(cotangent, *inputs)`` returns the gradient for the only input, or a sequence with one for each;
        None for an input that is not differentiated (which then does not move).
    inputs : sequence of ndarray, float64
        Where to differentiate.
    direction : sequence of ndarray, optional
        One for each input; standard normal by default.
    cotangent : ndarray, optional
        Of the output's shape; standard normal by default.
    seed : int
        Of the default direction and cotangent.
    eps : float
        The largest step.
    rtol : float
        Largest relative error.
    """
    assert all(x.dtype == np.float64 for x in inputs), "finite differences need float64 inputs"
    rng = np.random.default_rng(seed)
    with assert_not_mutated(*inputs):
        output = np.asarray(f(*inputs))
        assert output.dtype == np.float64, f"f: expected float64, got {output.dtype}"
        w = rng.standard_normal(output.shape) if cotangent is None else np.asarray(cotangent)
        gradients = vjp(w, *inputs)
    if not isinstance(gradients, Sequence):
        gradients = (gradients,)
    assert len(gradients) == len(inputs), f"vjp: expected {len(inputs)} gradients, got {len(gradients)}"
    directions = [rng.standard_normal(x.shape) for x in inputs] if direction is None else list(direction)
    moving = [i for i, gradient in enumerate(gradients) if gradient is not None]
    for i in moving:
        shape, dtype = np.shape(gradients[i]), np.asarray(gradients[i]).dtype
        assert shape == inputs[i].shape, f"vjp: expected gradient {i} of shape {inputs[i].shape}, got {shape}"
        assert dtype == np.float64, f"vjp: expected gradient {i} in float64, got {dtype}"

    def at(h: float) -> Floats:
        return np.asarray(f(*(x + h * directions[i] if i in moving else x for i, x in enumerate(inputs))))

    def slope(h: float) -> float:
        return float(np.sum(w * (at(h) - at(-h)))) / (2 * h)

    analytic = float(sum(np.sum(gradients[i] * directions[i]) for i in moving))
    # Relative to the derivative itself, unless the direction happens to be almost orthogonal to the gradient.
    typical = np.sqrt(sum(np.sum(gradients[i] ** 2) * _mean_square(directions[i]) for i in moving))
    rounding = 1e-12 * float(np.sum(np.abs(w * output)))
    numeric, estimated_error, step = _ridders(slope, eps, goal=0.1 * rtol)
    allowed = rtol * max(abs(analytic), abs(numeric), 1e-3 * float(typical)) + rounding
    story = (
        f"<vjp(w, x), d> = {analytic!r}, finite difference {numeric!r} +- {estimated_error:.2g}, "
        f"allowed difference {allowed:.2g}\neps = {step!r} (largest {eps!r}), seed = {seed}\n"
        f"inputs = {_shown(inputs)}\ndirection = {_shown(directions)}\ncotangent = {_shown([w])}"
    )
    # "not <=", so that NaN fails
    assert estimated_error <= allowed, f"no reliable finite difference here (a kink or a jump of f?): {story}"
    assert abs(analytic - numeric) <= allowed, f"vector-Jacobian product is wrong: {story}"


def _ridders(slope: Callable[[float], float], eps: float, *, goal: float) -> tuple[float, float, float]:
    """Limit of ``slope(h)``, a series in h^2, for h to 0: the value, its estimated error, the step used."""
    best, error, step = np.nan, np.inf, eps
    previous: list[float] = []
    for level in range(18):
        h = eps / 2**level
        row = [slope(h)]
        for k, coarser in enumerate(previous):
            row.append(row[k] + (row[k] - coarser) / (4 ** (k + 1) - 1))
            estimate = max(abs(row[k + 1] - row[k]), abs(row[k + 1] - coarser))
            if estimate < error:
                best, error, step = row[k + 1], estimate, h
        if error <= goal * abs(best):
            break
        previous = row
    return best, error, step


def _mean_square(array: Floats) -> float:
    return float(np.mean(array**2)) if array.size else 0.0


def _shown(arrays: Sequence[Floats]) -> str:
    return ", ".join(np.array2string(array, threshold=60, precision=17, separator=", ") for array in arrays)
