"""The laboratory for the theorem: claims, each with what was measured and a verdict.

::

    claims      what a claim is, and how its verdict follows from the numbers
    worlds      the mixtures on which claims are tried; chains, grid: how walkers and densities move on them
    identity    parts 1 and 2: the denoisers' exact minimisers
    trained     part 3: networks
    controls    part 4: what has to go wrong
    drift       part 5: where guidance comes from
    ula, mala   parts 6 and 7: the chains
    parts       all of them in order
    run         into a bundle; report and figures: out of it

A setting, a record or a folder that cannot be used raises `InputError`.
"""

from malade_ref.theorem.claims import Claim, Measure, Scale, Settings, exact
from malade_ref.theorem.report import (
    check_report,
    exhibit,
    headlines,
    is_theorem,
    read_claims,
    results_of,
    write_report,
)
from malade_ref.theorem.run import Watcher, run_theorem

__all__ = [
    "Claim",
    "Measure",
    "Scale",
    "Settings",
    "Watcher",
    "check_report",
    "exact",
    "exhibit",
    "headlines",
    "is_theorem",
    "read_claims",
    "results_of",
    "run_theorem",
    "write_report",
]
