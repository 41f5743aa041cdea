"""The laboratory on the other backend: the same numbers, up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from malade_ref.theorem import Claim, Settings, controls, mala, ula

from .backends import gpu as gpu_ops


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda settings: [mala._balance(settings)], id="balance"),
        pytest.param(lambda settings: mala._two_samples(settings, lambda done: None), id="mmd", marks=pytest.mark.slow),
        pytest.param(lambda settings: [ula._variance(settings)], id="variance", marks=pytest.mark.slow),
        pytest.param(
            lambda settings: [controls._ten_is_six(settings), controls._mean_for_sum(settings)],
            id="minimiser",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_both_backends_measure_the_same(compute: Callable[[Settings], list[Claim]]) -> None:
    found, expected = compute(Settings("tiny", ops=gpu_ops)), compute(Settings("tiny"))
    assert [claim.name for claim in found] == [claim.name for claim in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.verdict == other.verdict
        values: list[Any] = [[measure.estimate for measure in claim.measures] for claim in (one, other)]
        # Chains of hundreds of steps and random walks of the optimiser carry rounding a little further.
        np.testing.assert_allclose(*values, rtol=1e-6, atol=1e-9)
