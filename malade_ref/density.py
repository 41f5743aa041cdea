r"""Densities by their scores, the gradients of their logarithms.

A labelled mixture of Gaussians, `GaussianMixture`, is the density about which everything is known in closed form: it is
the truth that estimates are held against. With p_s the density of u = x + v, v ~ N(0, sigma^2 I), it gives E[x | u] by
averaging over components, each with its own Gaussian posterior, so that Tweedie's formula below can be tested on it.

A denoiser r trained on noise of standard deviation sigma knows the score of the smoothed data density p_s (Tweedie):

    grad log p_s(x) = (E[clean image | x] - x) / sigma^2  ~  (r(x) - x) / sigma^2.

References
----------
.. [1] Miyasawa, "An empirical Bayes estimator of the mean of a normal population", Bull. ISI 38, 1961.
.. [2] Alain and Bengio, "What regularized auto-encoders learn from the data-generating distribution", JMLR 15, 2014.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from . import ops as reference_ops
from .arrays import Array
from .checks import InputError, check_choice, check_count, check_ndim, check_number, check_shape
from .network import Network
from .pickling import NamesBackend

# Numbers in the largest array of a slice of points.
SLICE = 1 << 16


class Expansion(NamedTuple):
    """Log probabilities of the classes around a point, to second order.

    Attributes
    ----------
    log_probabilities : array of shape (n, K)
        log yhat_y(x).
    gradients : array of shape (n, K, d)
        Their gradients.
    hessians : array of shape (n, K, d, d)
        Their matrices of second derivatives.
    """

    log_probabilities: Array
    gradients: Array
    hessians: Array


class GaussianMixture(NamesBackend):
    r"""A labelled mixture of Gaussians with full covariances.

    .. math:: p(x) = \sum_k w_k\, N(x; \mu_k, C_k),\qquad p(x, y) = \sum_{k:\, y_k = y} w_k\, N(x; \mu_k, C_k).

    Parameters
    ----------
    weights : array_like of shape (m,)
        Probabilities of the components, > 0, adding up to 1.
    means : array_like of shape (m, d)
        Their means.
    covariances : array_like of shape (m, d, d)
        Their covariances, symmetric and positive definite.
    labels : array_like of shape (m,), integer, optional
        Their classes, in 0..K-1 and none left out; by default every component is a class.
    ops : module, optional
        The backend; the NumPy reference by default.
    dtype : {"float64", "float32"}
        Of points and results. Covariances are factorised in float64.

    Attributes
    ----------
    weights, means, covariances, labels : ndarray
        As given, on the host; float64, and int64 for the labels.
    priors : ndarray of shape (K,), float64
        Probabilities of the classes.
    num_components, num_dimensions, num_classes : int
        m, d and K.

    Examples
    --------
    >>> import numpy as np
    >>> two = GaussianMixture([0.5, 0.5], [[-2.0], [2.0]], [[[1.0]], [[1.0]]])
    >>> two.score(np.array([[0.0], [5.0]])).round(3).tolist()
    [[0.0], [-3.0]]
    >>> two.predict(np.array([[-1.0], [3.0]])).tolist()
    [0, 1]
    """

    stochastic = False

    def __init__(
        self,
        weights: Any,
        means: Any,
        covariances: Any,
        labels: Any = None,
        *,
        ops: ModuleType | None = None,
        dtype: str = "float64",
    ) -> None:
        self.ops = reference_ops if ops is None else ops
        self.dtype = check_choice("dtype", dtype, ("float64", "float32"))
        self.means = _host_array("means", means, 2, "(m, d)")
        m, d = self.means.shape
        if m == 0 or d == 0:
            raise InputError(f"means: expected at least one component and one dimension, got {self.means.shape}")
        self.weights = _host_array("weights", weights, 1, "(m,)")
        check_shape("weights", self.weights, (m,))
        total = float(self.weights.sum())
        if not (self.weights > 0).all() or abs(total - 1) > 1e-6:
            raise InputError(f"weights: expected positive numbers that add up to 1, got a sum of {total:g}")
        self.weights = self.weights / total
        self.covariances = _host_array("covariances", covariances, 3, "(m, d, d)")
        check_shape("covariances", self.covariances, (m, d, d))
        self.labels = _component_labels(labels, m)
        self.num_components, self.num_dimensions = m, d
        self.num_classes = int(self.labels.max()) + 1
        self.priors = np.asarray(np.bincount(self.labels, self.weights, self.num_classes), dtype=np.float64)
        self._factors = _factors(self.covariances)
        log_scale = np.log(self.weights) - np.log(np.diagonal(self._factors, axis1=1, axis2=2)).sum(axis=1)
        log_scale -= 0.5 * d * np.log(2 * np.pi)
        # What the ops take: the mixture; and labels, the classes' or those that make all one class.
        self._arrays = tuple(self._array(values) for values in (log_scale, self.means, _inverses(self._factors)))
        self._labels = self.ops.asarray(self.labels)
        self._one_class = self.ops.asarray(np.zeros(m, dtype=np.int64))

    def __repr__(self) -> str:
        """Return the sizes on one line."""
        sizes = f"{self.num_components} components, {self.num_dimensions} dimensions, {self.num_classes} classes"
        return f"GaussianMixture({sizes}, {self.dtype})"

    # The density.

    def log_density(self, x: Array) -> Array:
        """Logarithm of the density, of shape (n,).

        Parameters
        ----------
        x : array of shape (n, d)
            Points, of the mixture's dtype.
        """
        return self.ops.mixture_log_densities(x, *self._arrays, self._one_class, num_classes=1)[:, 0]

    def score(self, x: Array) -> Array:
        """Gradient of the log density.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.

        Returns
        -------
        array of shape (n, d)
            grad log p(x).
        """
        return self.log_density_and_score(x)[1]

    def log_density_and_score(self, x: Array) -> tuple[Array, Array]:
        """Logarithm of the density and its gradient, at the cost of the gradient alone.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.

        Returns
        -------
        log_density : array of shape (n,)
            log p(x).
        score : array of shape (n, d)
            grad log p(x).
        """
        log_density, score = self.ops.mixture_scores(x, *self._arrays, self._one_class, num_classes=1)
        return log_density[:, 0], score[:, 0]

    def score_jacobian(self, x: Array) -> Array:
        """Matrix of second derivatives of the log density.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.

        Returns
        -------
        array of shape (n, d, d)
            Hessian of log p at each point, symmetric.
        """
        return self.ops.mixture_hessians(x, *self._arrays, self._one_class, num_classes=1)[2][:, 0]

    # The classes.

    def class_log_posteriors(self, x: Array) -> Array:
        """Logarithms of the classes' probabilities given the points, of shape (n, K).

        Parameters
        ----------
        x : array of shape (n, d)
            Points.
        """
        joint = self.ops.mixture_log_densities(x, *self._arrays, self._labels, num_classes=self.num_classes)
        return self.ops.log_softmax(joint)

    def class_scores(self, x: Array) -> Array:
        """Gradients of the classes' log densities.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.

        Returns
        -------
        array of shape (n, K, d)
            grad log p(x | y); less the score it is grad log p(y | x).
        """
        return self.ops.mixture_scores(x, *self._arrays, self._labels, num_classes=self.num_classes)[1]

    def logits(self, x: Array) -> Array:
        """Logits of the Bayes classifier, which are the log posteriors, of shape (n, K).

        Parameters
        ----------
        x : array of shape (n, d)
            Points.
        """
        return self.class_log_posteriors(x)

    def predict(self, x: Array) -> Array:
        """Most probable classes, the Bayes decision, of shape (n,), int64.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.
        """
        return self.ops.argmax(self.logits(x))

    def tempered(self, beta: float = 1.0, bias: Any = None) -> TemperedPosterior:
        """Return a classifier whose confidence or bias is wrong by a known amount.

        Parameters
        ----------
        beta : float
            Inverse temperature, > 0: below 1 it is under-confident, above 1 over-confident, at 1 calibrated.
        bias : array_like of shape (K,), optional
            Added to the logits; 0 by default.

        Returns
        -------
        TemperedPosterior
            yhat = softmax(beta log p(y | x) + bias).
        """
        return TemperedPosterior(self, beta, bias)

    # What noise makes of it.

    def smoothed(self, sigma: float) -> GaussianMixture:
        """Return the density of noisy points u = x + v, v ~ N(0, sigma^2 I).

        Parameters
        ----------
        sigma : float
            Standard deviation of the noise, >= 0.

        Returns
        -------
        GaussianMixture
            p_s, with covariances C_k + sigma^2 I.
        """
        variance = check_number("sigma", sigma, minimum=0) ** 2
        covariances = self.covariances + variance * np.eye(self.num_dimensions)
        return GaussianMixture(self.weights, self.means, covariances, self.labels, ops=self.ops, dtype=self.dtype)

    def posterior_mean(self, u: Array, sigma: float) -> Array:
        """Mean of the points that a noisy point may come from: what a perfect denoiser returns.

        Computed from the components' posteriors, and not from the score.

        Parameters
        ----------
        u : array of shape (n, d)
            Noisy points.
        sigma : float
            Standard deviation of the noise, > 0.

        Returns
        -------
        array of shape (n, d)
            E[x | u].
        """
        gains, shares = self._posterior(u, sigma)
        result = self.ops.empty(u.shape, self.dtype)

        def of_slice(part: slice) -> None:
            means = self._component_posterior_means(u[part], gains)
            result[part] = sum(shares[part, k : k + 1] * mean for k, mean in enumerate(means))

        self.ops.map_slices(of_slice, len(u), slice_size=_slice_size(self.num_components * self.num_dimensions))
        return result

    def posterior_covariance(self, u: Array, sigma: float) -> Array:
        """Covariance of the points that a noisy point may come from.

        Parameters
        ----------
        u : array of shape (n, d)
            Noisy points.
        sigma : float
            Standard deviation of the noise, > 0.

        Returns
        -------
        array of shape (n, d, d)
            Cov[x | u], symmetric and positive semi-definite.
        """
        gains, shares = self._posterior(u, sigma)
        d = self.num_dimensions
        result = self.ops.empty((len(u), d, d), self.dtype)
        within = [sigma**2 * 0.5 * (gain + gain.T) for gain in gains]

        def of_slice(part: slice) -> None:
            weights = [shares[part, k : k + 1] for k in range(self.num_components)]
            means = self._component_posterior_means(u[part], gains)
            center = sum(weight * mean for weight, mean in zip(weights, means, strict=True))
            total = self.ops.zeros(result[part].shape, self.dtype)
            for weight, mean, own in zip(weights, means, within, strict=True):
                apart = mean - center
                total = total + weight[:, :, None] * (own + apart[:, :, None] * apart[:, None, :])
            result[part] = total

        self.ops.map_slices(of_slice, len(u), slice_size=_slice_size(d * d))
        return result

    # Points.

    def sample(
        self, n: int, *, seed: int | tuple[int, str], draw: int = 0, sample_index: Array | None = None
    ) -> tuple[Array, Array]:
        """Draw independent points and their classes.

        Parameters
        ----------
        n : int
            How many.
        seed : int or Stream
            Of the random numbers; with a name of its own, a `Stream`.
        draw : int
            Which repetition.
        sample_index : array of shape (n,), integer, optional
            Numbers of the points, in [0, 2^32); 0..n-1 by default. A point depends on its number alone.

        Returns
        -------
        x : array of shape (n, d)
            Points.
        y : array of shape (n,), int64
            Their classes.
        """
        check_count("n", n, minimum=0)
        ops = self.ops
        index = ops.arange(n) if sample_index is None else ops.check_sample_index("sample_index", sample_index, n)
        seed, name = (seed, "mixture") if isinstance(seed, int) else seed
        which = {"key": ops.derive_key(seed, f"{name}: component", draw), "sample_index": index, "dtype": "float64"}
        level = ops.to_host(ops.uniform((), **which))
        component = np.searchsorted(np.cumsum(self.weights)[:-1], level, side="right")
        key, d = ops.derive_key(seed, name, draw), self.num_dimensions
        x = ops.empty((n, d), self.dtype)
        for k in range(self.num_components):
            rows = ops.asarray(np.flatnonzero(component == k))
            noise = ops.normal((d,), key=key, sample_index=index[rows], dtype=self.dtype)
            # Column by column, so that a point's digits do not depend on how many others there are.
            point = 0 * noise + self._arrays[1][k]
            for column in range(d):
                point = point + noise[:, column : column + 1] * self._array(self._factors[k, :, column])
            x[rows] = point
        return x, ops.asarray(self.labels[component])

    @property
    def arrays(self) -> tuple[Array, Array, Array]:
        """What the ops know a mixture by: log_scale, means and whitening."""
        log_scale, means, whitening = self._arrays
        return log_scale, means, whitening

    def expand(self, x: Array) -> Expansion:
        """Log posteriors of the classes around points, to second order.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.
        """
        return self.tempered().expand(x)

    def _array(self, values: NDArray[Any]) -> Array:
        return self.ops.asarray(np.ascontiguousarray(values, dtype=self.dtype))

    def _posterior(self, u: Array, sigma: float) -> tuple[list[Array], Array]:
        """Gains C_k (C_k + sigma^2 I)^-1 of the components' posteriors, and the components' probabilities."""
        check_number("sigma", sigma, above=0)
        smoothed = self.smoothed(sigma)
        gains = np.linalg.solve(smoothed.covariances, self.covariances).transpose(0, 2, 1)
        return [self._array(gain) for gain in gains], self.ops.mixture_responsibilities(u, *smoothed.arrays)

    def _component_posterior_means(self, u: Array, gains: list[Array]) -> list[Array]:
        """Where a noisy point comes from, for each component that it may come from."""
        centers = (self._arrays[1][k] for k in range(self.num_components))
        return [center + self.ops.linear(u - center, gain) for center, gain in zip(centers, gains, strict=True)]


class TemperedPosterior(NamesBackend):
    r"""A mixture's Bayes classifier with a wrong temperature and a bias.

    .. math:: \hat y_y(x) = \mathrm{softmax}_y(\beta \log p(y | x) + b_y).

    Parameters
    ----------
    mixture : GaussianMixture
        p.
    beta : float
        Inverse temperature, > 0.
    bias : array_like of shape (K,), optional
        b; 0 by default.
    """

    stochastic = False

    def __init__(self, mixture: GaussianMixture, beta: float = 1.0, bias: Any = None) -> None:
        self.mixture = mixture
        self.ops = mixture.ops
        self.dtype = mixture.dtype
        self.num_classes = mixture.num_classes
        self.beta = check_number("beta", beta, above=0)
        self.bias = _host_array("bias", np.zeros(self.num_classes) if bias is None else bias, 1, "(K,)")
        check_shape("bias", self.bias, (self.num_classes,))

    def logits(self, x: Array) -> Array:
        """Logits.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.

        Returns
        -------
        array of shape (n, K)
            beta log p(y | x) + b.
        """
        return self.beta * self.mixture.class_log_posteriors(x) + self._bias()

    def log_probabilities(self, x: Array) -> Array:
        """Logarithms of the probabilities that the classifier gives.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.

        Returns
        -------
        array of shape (n, K)
            log yhat_y(x).
        """
        return self.ops.log_softmax(self.logits(x))

    def predict(self, x: Array) -> Array:
        """Most probable classes, as the classifier sees it, of shape (n,), int64.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.
        """
        return self.ops.argmax(self.logits(x))

    def gradients(self, x: Array) -> Array:
        """Gradients of the log probabilities.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.

        Returns
        -------
        array of shape (n, K, d)
            grad log yhat_y(x) = beta (s_y - sum_y' yhat_y' s_y') with the class scores s.
        """
        mixture = self.mixture
        joint, scores = self.ops.mixture_scores(
            x, *mixture.arrays, mixture.ops.asarray(mixture.labels), num_classes=self.num_classes
        )
        probabilities = np.exp(self._log_probabilities_of(joint))
        return self.beta * (scores - _weighted(probabilities, scores))

    def expand(self, x: Array) -> Expansion:
        """Log probabilities around points, to second order.

        Parameters
        ----------
        x : array of shape (n, d)
            Points.

        Returns
        -------
        Expansion
            Values, gradients, and Hessians beta (H_y - sum_y' yhat_y' H_y') - beta^2 Cov(s) with the class scores s and
            their Hessians H.
        """
        mixture = self.mixture
        joint, scores, hessians = self.ops.mixture_hessians(
            x, *mixture.arrays, mixture.ops.asarray(mixture.labels), num_classes=self.num_classes
        )
        log_probabilities = self._log_probabilities_of(joint)
        probabilities = np.exp(log_probabilities)
        apart = scores - _weighted(probabilities, scores)
        spread = _weighted(probabilities, apart[:, :, :, None] * apart[:, :, None, :])
        curvature = self.beta * (hessians - _weighted(probabilities, hessians)) - self.beta**2 * spread
        return Expansion(log_probabilities, self.beta * apart, curvature)

    def _bias(self) -> Array:
        return self.ops.asarray(self.bias.astype(self.dtype))

    def _log_probabilities_of(self, joint: Array) -> Array:
        return self.ops.log_softmax(self.beta * self.ops.log_softmax(joint) + self._bias())


class DenoiserScore(NamesBackend):
    """The score that a denoiser has learnt.

    Parameters
    ----------
    denoiser : Network
        r, from images to images of the same shape.
    sigma : float
        Standard deviation of the noise it was trained on, in pixel units, > 0.

    Raises
    ------
    InputError
        If the network is no denoiser or sigma is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from malade_ref.network import sdae
    >>> score = DenoiserScore(sdae("small"), sigma=0.15**0.5)
    >>> score.score(np.zeros((2, 1, 28, 28), dtype="float32")).shape
    (2, 1, 28, 28)
    """

    def __init__(self, denoiser: Network, *, sigma: float) -> None:
        if denoiser.output_shape != denoiser.input_shape:
            raise InputError(
                f"denoiser: expected outputs of its inputs' shape {denoiser.input_shape}, got {denoiser.output_shape}"
            )
        self.denoiser = denoiser
        self.sigma = check_number("sigma", sigma, above=0)
        self.ops = denoiser.ops

    def __repr__(self) -> str:
        """Return the denoiser and sigma on one line."""
        return f"DenoiserScore({self.denoiser!r}, sigma={self.sigma:.6g})"

    def score(self, x: Array) -> Array:
        """Gradient of the log density.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Any real numbers: a chain that is not clipped leaves [0, 1].

        Returns
        -------
        array of shape (n, c, h, w)
            (r(x) - x) / sigma^2, in units of 1 / pixel.
        """
        return (self.denoiser.apply(x) - x) / self.sigma**2


def _weighted(probabilities: Array, values: Array) -> Array:
    """Mean over the classes (n, 1, ...) of values (n, K, ...)."""
    weights = probabilities.reshape(*probabilities.shape, *[1] * (values.ndim - 2))
    return (weights * values).sum(axis=1)[:, None]


def _slice_size(numbers: int) -> int:
    """Points in a slice in which each point takes so many numbers."""
    return max(1, SLICE // numbers)


def _host_array(name: str, values: Any, ndim: int, axes: str) -> NDArray[np.float64]:
    """Finite numbers on the host, in float64."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected numbers {axes}, got something else ({error})") from None
    check_ndim(name, array, ndim, axes)
    if not np.isfinite(array).all():
        raise InputError(f"{name}: expected finite numbers, got NaN or infinity")
    return array


def _component_labels(labels: Any, m: int) -> NDArray[np.int64]:
    """The components' classes, each class with at least one component."""
    found = np.arange(m) if labels is None else np.array(labels)
    check_shape("labels", found, (m,))
    if found.dtype.kind not in "iu":
        raise InputError(f"labels: expected integers, got {found.dtype}")
    present = np.unique(found)
    if not np.array_equal(present, np.arange(len(present))):
        raise InputError(f"labels: expected every class of 0..K-1 at least once, got {', '.join(map(str, present))}")
    return found.astype(np.int64)


def _factors(covariances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cholesky factors of the covariances."""
    for k, covariance in enumerate(covariances):
        if np.abs(covariance - covariance.T).max() > 1e-8 * np.abs(covariance).max():
            raise InputError(f"covariances: number {k} is not symmetric")
    factors = np.empty_like(covariances)
    for k, covariance in enumerate(covariances):
        try:
            factors[k] = np.linalg.cholesky(0.5 * (covariance + covariance.T))
        except np.linalg.LinAlgError:
            lowest = float(np.linalg.eigvalsh(covariance).min())
            raise InputError(
                f"covariances: number {k} is not positive definite (smallest eigenvalue {lowest:.3g})"
            ) from None
    return factors


def _inverses(factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverses of lower triangular matrices, with zeros above the diagonal."""
    one = np.eye(factors.shape[1])
    return np.stack([linalg.solve_triangular(factor, one, lower=True) for factor in factors])
