"""The noise of denoisers is called sigma, wherever it is said; its square, as in earlier files, is still read."""

from __future__ import annotations

from pathlib import Path

import pytest

from malade_ref.checks import InputError
from malade_ref.experiment.reading import read_experiment


def variance(tmp_path: Path, text: str, *changes: str, name: str = "dae") -> float | None:
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "demo"\n{text}')
    return read_experiment(str(path), changes).experiment.models[name].sigma2


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("", (), 0.15),
        ("models.dae.sigma = 0.1", (), 0.01),
        ("models.dae.sigma2 = 0.01", (), 0.01),
        ('models.dae.sigma = "51/255"', (), 0.04),
        ("models.dae.sigma = 0.1", ("models.dae.sigma2=0.09",), 0.09),
        ("models.dae.sigma2 = 0.09", ("models.dae.sigma=0.1",), 0.01),
        ("[scales.wide]\nmodels.dae.sigma = 0.5", ("scale=wide",), 0.25),
    ],
)
def test_sigma_and_its_square(tmp_path: Path, text: str, changes: tuple[str, ...], expected: float) -> None:
    assert variance(tmp_path, text, *changes) == expected


@pytest.mark.parametrize(
    ("text", "changes", "complaint"),
    [
        ("models.dae = { sigma = 0.1, sigma2 = 0.01 }", (), "sigma: sigma2, its square, is there, too"),
        ("models.dae.sigma = 0", (), "sigma: expected a finite number > 0"),
        ("models.dae.sigma = nan", (), "sigma: expected a finite number > 0"),
        ("", ("models.dae.sigma=wide",), "--set models.dae.sigma: expected a finite number > 0"),
        ("models.cnn.sigma = 0.1", (), "a classifier has none"),
    ],
)
def test_no_sigma(tmp_path: Path, text: str, changes: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        variance(tmp_path, text, *changes)


def test_of_certificates() -> None:
    certify = read_experiment("certify", ["certify.sigma=0.5", "models.dae.sigma=0.5", "models.sdae.sigma=0.5"])
    assert certify.experiment.certify is not None
    assert certify.experiment.certify.sigma2 == 0.25
