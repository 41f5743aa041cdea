"""Without PyTorch everything else works, and what needs it says so."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from malade_ref.checks import InputError
from malade_ref.interop import OnTensors, from_torch, to_torch
from malade_ref.network import cnn


@pytest.mark.parametrize(
    "call",
    [lambda: to_torch(cnn("small")), lambda: from_torch(None, (1, 28, 28)), lambda: OnTensors(cnn("small"))],
)
def test_a_clear_complaint(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"PyTorch cannot be imported .*pip install 'malade\[interop\]'") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_torch_is_imported_on_demand_only() -> None:
    code = "import sys, malade_ref, malade_ref.interop; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
