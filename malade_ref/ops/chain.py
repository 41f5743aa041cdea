r"""Whole purification chains as one op, for networks that a backend has a kernel for.

    x_{t+1} = clip(x_t + a (r(x_t) - x_t) + delta z_t)

The reference has no such kernel: here the chain is what `malade_ref.sampling` spells out step by step, which is what a
fused one is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Floats = NDArray[Any]


class FusedChain(Protocol):
    """What `fused_chain` gives where there is one."""

    def run(
        self,
        x: Floats,
        *,
        num_steps: int,
        a: float,
        delta: float,
        clip: bool,
        key: tuple[int, int],
        sample_index: Any,
        first_step: int = 0,
    ) -> Floats:
        """Last positions of chains.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Where they start. Not modified.
        num_steps : int
            Number of steps, >= 0.
        a : float
            Step on the residual, > 0.
        delta : float
            Standard deviation of the injected noise, in pixel units, >= 0.
        clip : bool
            Whether positions are clipped to [0, 1] after every step.
        key : tuple of two int
            Of the noise, from `derive_key`.
        sample_index : array of shape (n,), integer
            Numbers of the samples in their data set, in [0, 2^32).
        first_step : int
            Number of the first step; selects the noise.

        Returns
        -------
        array of x's shape
            Positions after the steps.
        """

    def vjp(
        self,
        dy: Floats,
        x: Floats,
        *,
        num_steps: int,
        a: float,
        delta: float,
        clip: bool,
        key: tuple[int, int],
        sample_index: Any,
        first_step: int = 0,
    ) -> Floats:
        """Vector-Jacobian product of `run` with respect to x, exact: through every step.

        Parameters
        ----------
        dy : array of x's shape
            Gradient with respect to the last positions.
        x, num_steps, a, delta, clip, key, sample_index, first_step
            As given to `run`.

        Returns
        -------
        array of x's shape
            Gradient with respect to the first positions.
        """


def fused_chain(architecture: Mapping[str, Any], params: Mapping[str, Floats]) -> FusedChain | None:
    """Chain of a denoiser as one kernel: none in the reference, which is there to be read.

    Parameters
    ----------
    architecture : dict
        Of the denoiser, from its ``architecture``.
    params : dict of str to array
        Its parameters.

    Returns
    -------
    FusedChain or None
        Always None: run the chain step by step.
    """
    return None
