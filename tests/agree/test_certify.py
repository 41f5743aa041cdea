"""Certificates on both backends: the same counts, hence the same radii."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import malade_ref
from malade_gpu import device as module
from malade_ref.certify import certify, predict
from tests.cli.conftest import Malade, files, malade

from .backends import to_device
from .strict import StrictDevice
from .test_networks import both, images, labels

__all__ = ["files", "malade"]


@pytest.mark.slow
def test_counts_agree() -> None:
    """Without a denoiser, over more than one step of the noise's counter; and with one."""
    (network, on_device), (denoiser, other) = both("mlp"), both("sdae")
    x, y = images(2), labels(2)
    for draws, before, after in ((110, None, None), (4, denoiser, other)):
        settings = {"sigma": 0.4, "num_selection": 3, "num_estimation": draws}
        expected = certify(network, x, y, denoiser=before, **settings)
        found = certify(on_device, to_device(x), to_device(y), denoiser=after, batch_size=1, **settings)
        for one, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, wanted, strict=True)
    answers = predict(on_device, to_device(x), sigma=0.4, num_draws=20)
    np.testing.assert_array_equal(answers.counts, predict(network, x, sigma=0.4, num_draws=20).counts, strict=True)


def test_host_and_device_never_mix(
    malade: Malade, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command on a device whose arrays do not mix with NumPy's gives the reference's file."""
    malade_ref.save(malade_ref.mlp((1, 28, 28), 10, hidden=(8,)), tmp_path / "mlp.h5")
    with np.load(files / "good.npz") as good:
        np.savez("two.npz", x=good["x"][:2], y=good["y"][:2])
    words: tuple[Any, ...] = ("certify", "two.npz", "--model", "mlp.h5", "--sigma", 0.3)
    words += ("--num-selection", 4, "--num-estimation", 9)
    assert malade(*words, "--out", "ref.npz").code == 0
    monkeypatch.setenv("MALADE_GPU_EMULATE", "1")
    found = StrictDevice()
    monkeypatch.setattr(module, "_device", lambda *_: found)
    assert malade(*words, "--backend", "gpu", "--out", "gpu.npz").code == 0
    with np.load("gpu.npz") as actual, np.load("ref.npz") as expected:
        assert actual.files == expected.files
        for name in expected.files:
            np.testing.assert_array_equal(actual[name], expected[name], strict=True)
