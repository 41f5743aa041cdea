"""What attacks that look for the nearest wrong image share: the finds so far, within a limit and beyond it.

A find is wrong by more than rounding can do: an image exactly on the decision boundary is right or wrong by the size of
the batch in which it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..arrays import Array
from .oracle import AttackResult, Oracle, Verdict, stronger


class Nearest:
    """The nearest find of each image.

    Parameters
    ----------
    oracle : Oracle
        Of the attack.
    clean : Verdict
        The clean images, judged: what is wrong to begin with is at distance 0, and nothing is nearer.
    limit : float
        Up to which distance finds count.

    Attributes
    ----------
    best : Verdict
        The nearest finds within the limit, the clean images where there are none; the loss is minus the distance.
    beyond : array of shape (n,), float64
        Distance of the nearest find beyond the limit; infinite where there is none.
    """

    def __init__(self, oracle: Oracle, clean: Verdict, limit: float) -> None:
        zero = oracle.ops.zeros(oracle.y.shape, "float64")
        self.oracle, self.limit = oracle, limit
        self.best, self.beyond = Verdict(clean.x, clean.success, zero), zero + math.inf

    def note(self, x: Array, wrong: Array, distance: Array) -> None:
        """Take in candidates.

        Parameters
        ----------
        x : array of shape (n, c, h, w)
            Images.
        wrong : array of shape (n,), bool
            Whether they are finds.
        distance : array of shape (n,), float64
            How far they are from the clean images.
        """
        ops, within = self.oracle.ops, distance <= self.limit
        self.best = stronger(ops, Verdict(x, wrong & within, -distance), self.best)
        self.beyond = ops.select(wrong & ~within & (distance < self.beyond), distance, self.beyond)

    def result(self, measure: Callable[[Array], Array]) -> AttackResult:
        """Judge the finds, and say how far those are that lie beyond the limit.

        Parameters
        ----------
        measure : callable
            Distance of images from the clean ones.

        Returns
        -------
        AttackResult
            What the attack found.
        """
        judged, _ = self.oracle.judge(self.best.x)
        only_beyond: Any = ~self.best.success & (self.beyond < math.inf)
        return self.oracle.result(judged, self.oracle.ops.select(only_beyond, self.beyond, measure(judged.x)))
