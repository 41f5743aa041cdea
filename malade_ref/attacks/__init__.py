"""Attacks: plain functions from a model, images and true labels to an `AttackResult`.

All share one semantics. Success is against the true label; an image that is wrong to begin with counts as a success
at distance 0 and is returned as it is; every result lies in its ball and in [0, 1] exactly; samples never mix, so
``f(x)[i]`` is ``f(x[i:i+1], sample_index=[i])``. An attacker has random numbers of its own and never sees the
defender's.
"""

from .expectation import bpda, bpda_eot, eot
from .gradient import Ascent, Ball, ascent, fgm, fgsm, pgd
from .oracle import AttackResult, Model, Oracle, Verdict
from .transfer import transfer

__all__ = [
    "Ascent",
    "AttackResult",
    "Ball",
    "Model",
    "Oracle",
    "Verdict",
    "ascent",
    "bpda",
    "bpda_eot",
    "eot",
    "fgm",
    "fgsm",
    "pgd",
    "transfer",
]
