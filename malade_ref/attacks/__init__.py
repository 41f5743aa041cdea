"""Attacks: plain functions from a model, images and true labels to an `AttackResult`.

All share one semantics. Success is against the true label; an image that is wrong to begin with counts as a success
at distance 0 and is returned as it is; every result lies in its ball (of attacks that have one) and in [0, 1] exactly;
an attack that looks for the nearest wrong image and finds none returns the clean one. An attacker has random numbers of
its own and never sees the defender's. What an attack is, its `card` says.
Images, labels and settings that do not fit raise `InputError`.

Samples never mix: what comes of an image depends on the image and its number alone, but for rounding, since sums are
added in another order in a batch of another size. So the logits of ``x[i:i+1]`` are those of image i in its batch up to
rounding, and an attack in many steps may turn off elsewhere. What is called a success holds for the image alone and in
any batch: what rounding could undo is no success.
"""

from .apgd import apgd
from .ascent import Ascent, ascent
from .auto import auto_attack
from .boundary import boundary
from .cards import Cost, card
from .expectation import bpda, bpda_eot, eot
from .fab import fab
from .gradient import Ball, fgm, fgsm, pgd
from .mim import mim
from .noise import salt_and_pepper, uniform_noise
from .oracle import AttackResult, Model, Oracle, Verdict
from .penalty import cw, ead
from .reconstruction import drift_pgd, r_pgd
from .spsa import spsa
from .square import square
from .transfer import transfer

__all__ = [
    "Ascent",
    "AttackResult",
    "Ball",
    "Cost",
    "Model",
    "Oracle",
    "Verdict",
    "apgd",
    "ascent",
    "auto_attack",
    "boundary",
    "bpda",
    "bpda_eot",
    "card",
    "cw",
    "drift_pgd",
    "ead",
    "eot",
    "fab",
    "fgm",
    "fgsm",
    "mim",
    "pgd",
    "r_pgd",
    "salt_and_pepper",
    "spsa",
    "square",
    "transfer",
    "uniform_noise",
]
