"""The eight parts of the laboratory, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from malade_ref.theorem.claims import Claim, Progress, Scale, Settings
from malade_ref.theorem.controls import control_claims
from malade_ref.theorem.drift import drift_claims
from malade_ref.theorem.idea import idea_claims
from malade_ref.theorem.identity import dae_claims, sdae_claims
from malade_ref.theorem.mala import mala_claims
from malade_ref.theorem.trained import trained_claims
from malade_ref.theorem.ula import ula_claims


class Part(NamedTuple):
    """A part of the laboratory.

    Attributes
    ----------
    number : int
        1 to 8.
    name : str
        Of its record.
    title : str
        Its heading.
    text : str
        What it is about.
    compute : callable
        Takes settings, a folder for what it wants to find again after an interruption, and whom to tell its progress.
    seconds : dict of str to float
        About how long it takes on two cores, by scale.
    """

    number: int
    name: str
    title: str
    text: str
    compute: Callable[[Settings, Path, Progress], list[Claim]]
    seconds: dict[Scale, float]


PARTS = (
    Part(
        1,
        "dae",
        "The plain denoiser",
        "Trained to convergence on noise of standard deviation sigma, a denoising autoencoder is the posterior mean "
        "E[x | u] of the clean point given the noisy one. Its residual, over sigma^2, is the score of the *smoothed* "
        "density (Tweedie's formula): exactly, for any sigma. Against the score of the clean density there is an error "
        "that should fall as sigma^2.",
        dae_claims,
        {"full": 8, "quick": 2, "tiny": 1},
    ),
    Part(
        2,
        "sdae",
        "The supervised denoiser",
        "The sDAE's exact minimiser at a noisy input u solves r = E[x | u] + sigma^2 sum_y p_s(y | u) grad log "
        "yhat_y(r), with p_s(y | u) the posterior of the class given the noisy point. The second term, over sigma^2, "
        "is the label term: all that supervision adds to the score.",
        sdae_claims,
        {"full": 90, "quick": 15, "tiny": 2},
    ),
    Part(
        3,
        "trained",
        "Trained networks",
        "What networks learn from points, against the exact minimisers: a DAE's excess risk is sigma^4 times the "
        "Fisher divergence between the field it has learnt and the smoothed score.",
        trained_claims,
        {"full": 300, "quick": 30, "tiny": 5},
    ),
    Part(
        4,
        "controls",
        "Negative controls",
        "What has to go wrong, goes wrong: if these experiments found nothing, the others would prove nothing.",
        control_claims,
        {"full": 8, "quick": 3, "tiny": 1},
    ),
    Part(
        5,
        "drift",
        "Where guidance comes from",
        "Points of a class are displaced towards another one, and Langevin chains set out from there: an adversarial "
        "example and its purification, in a world where everything is known. How many come back to the class they are "
        "from, and what brings them back?",
        drift_claims,
        {"full": 60, "quick": 10, "tiny": 2},
    ),
    Part(
        6,
        "ula",
        "The chain without an accept step (ULA)",
        "The paper's chain is unadjusted: at a finite step it does not follow the density but one nearby. How near is "
        "known exactly for a Gaussian, and to all digits in one and two dimensions, where the chain's transition "
        "kernel can be written on a grid and its stationary density computed without any sampling.",
        ula_claims,
        {"full": 40, "quick": 10, "tiny": 3},
    ),
    Part(
        7,
        "mala",
        "The chain with an accept step (MALA)",
        "A Metropolis step removes the bias altogether. It needs a density, which no denoiser has; so this is what the "
        "paper's chain is compared with, not what it is.",
        mala_claims,
        {"full": 60, "quick": 12, "tiny": 3},
    ),
    Part(
        8,
        "idea",
        "The paper's first figure",
        "The paper's Figure 1 draws its idea: an adversarial point, moved off the data, is carried to the wrong class "
        "by a chain that ignores labels, and back to its own by MALADE. Here the same is measured in a plane, with "
        "trained networks beside the exact scores.",
        idea_claims,
        {"full": 12, "quick": 3, "tiny": 1},
    ),
)
