"""Commands refuse a model whose parameters or answers are not numbers, in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from malade_ref import save
from malade_ref.network import mlp
from tests.cli.conftest import Malade
from tests.ref.test_not_a_number import overflowing

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning"),
]
COMMANDS = {
    "predict": ("predict", "images.npz", "--model", "bad.h5"),
    "predict to a file": ("predict", "images.npz", "--model", "bad.h5", "--out", "out.npz"),
    "certify": ("certify", "images.npz", "--model", "bad.h5", "--sigma", 0.25, "--out", "out.npz"),
    "attack": ("attack", "pgd", "images.npz", "--model", "bad.h5", "--eps", 0.1, "--out", "out.npz"),
    "purify": (
        *("purify", "images.npz", "--denoiser", "bad.h5", "--chain-steps", 2, "--a", 0.5, "--delta", 0.1),
        *("--out", "out.npz"),
    ),
}


@pytest.fixture(autouse=True)
def _images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", x=np.full((3, 1, 4, 4), 0.5, "float32"), y=np.arange(3))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters(malade: Malade, command: str, value: float) -> None:
    network = mlp((1, 4, 4), 10)
    save(network.replace_params({**network.params, "3.bias": np.full(64, value, "float32")}, check=False), "bad.h5")
    assert "3.bias" in malade.fails(*COMMANDS[command])
    assert not Path("out.npz").exists()


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "purify"])
def test_logits(malade: Malade, command: str) -> None:
    save(overflowing(), "bad.h5")
    assert "NaN for image 0" in malade.fails(*COMMANDS[command])
    assert not Path("out.npz").exists()
