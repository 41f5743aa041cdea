r"""Densities by their scores, the gradients of their logarithms.

A denoiser r trained on noise of standard deviation sigma knows the score of the smoothed data density p_s (Tweedie):

    grad log p_s(x) = (E[clean image | x] - x) / sigma^2  ~  (r(x) - x) / sigma^2.

References
----------
.. [1] Miyasawa, "An empirical Bayes estimator of the mean of a normal population", Bull. ISI 38, 1961.
.. [2] Alain and Bengio, "What regularized auto-encoders learn from the data-generating distribution", JMLR 15, 2014.
"""

from __future__ import annotations

from .arrays import Array
from .checks import InputError, check_number
from .network import Network


class DenoiserScore:
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
