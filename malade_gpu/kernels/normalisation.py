"""Body of the channels' gain and bias; the sums of the normalisation are in ``groups.cuh``.

Launched by `ops/normalisation.py`; tested in `tests/agree/test_normalisation.py`. Element i belongs to channel
``i // run % channels``.
"""

from __future__ import annotations

from typing import Any

from ..elements import element


@element
def scale_shift(i: Any, out: Any, x: Any, gain: Any, bias: Any, channels: Any, run: Any) -> None:
    """Gain x + bias."""
    c = i // run % channels
    out[i] = x[i] * gain[c] + bias[c]


@element
def scale(i: Any, out: Any, x: Any, gain: Any, channels: Any, run: Any) -> None:
    """Gain x."""
    out[i] = x[i] * gain[i // run % channels]
