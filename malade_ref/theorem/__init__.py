"""The laboratory for the theorem: claims, each with what was measured and a verdict.

::

    claims      what a claim is, and how its verdict follows from the numbers
"""

from malade_ref.theorem.claims import Claim, Measure, Settings, exact

__all__ = ["Claim", "Measure", "Settings", "exact"]
