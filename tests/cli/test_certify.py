"""``malade certify`` and the experiment ``certify``: as the functions say, and the same bits after an interruption."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from malade_ref import load, save, sdae
from malade_ref.bundle import Bundle
from malade_ref.certify import certify
from malade_ref.checks import InputError
from malade_ref.cli import certify as command
from malade_ref.experiment import outcomes, read_experiment, run_experiment
from malade_ref.report import check_report
from tests.cli.conftest import Malade, start

SIGMA = 0.3
DRAWS = ("--num-selection", 5, "--num-estimation", 20)
TINY = ["scale=tiny", "data.name=synthetic-digits"]


@pytest.fixture
def words(malade: Malade, files: Path, tmp_path: Path) -> tuple[Any, ...]:
    """A command, but for its --out; there is a denoiser that was trained at SIGMA."""
    denoiser = sdae("small")
    metadata = {"training": {"objective": {"name": "Denoising", "sigma": SIGMA}}}
    save(denoiser.replace_params(denoiser.params, metadata), tmp_path / "trained.h5")
    model = ("--model", files / "cnn.h5", "--denoiser", "trained.h5")
    return ("certify", files / "good.npz", *model, *DRAWS, "--seed", 3, "--batch-size", 5)


def arrays_of(path: str) -> dict[str, np.ndarray]:
    if path.endswith(".npz"):
        with np.load(path) as found:
            return dict(found)
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


@pytest.mark.parametrize("out", ["out.npz", "out.h5"])
def test_results_are_the_function_s(malade: Malade, files: Path, words: Any, out: str) -> None:
    answer = malade(*words, "--out", out)
    assert answer.code == 0
    assert "at sigma 0.3, into" in answer.out
    assert "certified and right (L2, pixels in [0, 1]): " in answer.out
    assert "right by most draws, certain or not: " in answer.out
    assert f"certificates: {out}" in answer.out
    found = arrays_of(out)
    with np.load(files / "good.npz") as good:
        x, y = good["x"], good["y"]
    settings = {"num_selection": 5, "num_estimation": 20, "seed": 3}
    expected = certify(load(files / "cnn.h5"), x, y, denoiser=load("trained.h5"), **settings)
    for name in ("predicted", "radius", "abstained", "selection", "counts"):
        np.testing.assert_array_equal(found[name], getattr(expected, name), strict=True)
    np.testing.assert_array_equal(found["y"], y)
    assert (found["sigma"], found["alpha"]) == ([SIGMA], [0.001])
    assert not list(Path().glob("*.partial"))


def test_sigma_that_is_not_the_denoiser_s(malade: Malade, files: Path, words: Any) -> None:
    complaint = malade.fails(*words, "--out", "out.npz", "--sigma", 0.5)
    assert complaint.startswith("--sigma: expected 0.3, the noise that the denoiser was trained at, got 0.5; ")
    assert "pass --any-sigma" in complaint
    assert malade(*words, "--out", "out.npz", "--sigma", 0.5, "--any-sigma").code == 0
    assert arrays_of("out.npz")["sigma"] == [0.5]
    bare = ("certify", files / "good.npz", "--model", files / "cnn.h5", *DRAWS, "--out", "bare.npz")
    assert "--sigma: expected the standard deviation of the noise, as there is no denoiser" in malade.fails(*bare)
    untold = (*bare, "--denoiser", files / "sdae.h5")
    assert "the denoiser's file does not say its own" in malade.fails(*untold)
    assert malade(*bare, "--sigma", 0.5).code == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("--num-selection", 0), "--num-selection: expected an integer >= 1"),
        (("--num-estimation", 0), "--num-estimation: expected an integer >= 1"),
        (("--alpha", 1), "--alpha: expected a finite number"),
        (("--batch-size", 0), "--batch-size: expected an integer >= 1"),
        (("--seed", -1), "--seed: expected an integer >= 0"),
        (("--sigma", 0), "--sigma: expected a finite number > 0"),
        (("--denoiser", "{files}/cnn.h5"), "--denoiser: expected a denoiser"),
        (("--model", "{files}/sdae.h5"), "--model: expected a classifier"),
    ],
)
def test_bad_settings(malade: Malade, files: Path, words: Any, change: Any, complaint: str) -> None:
    given = [str(word).format(files=files) for word in change]
    assert complaint in malade.fails(*words, "--out", "out.npz", *given)
    assert not Path("out.npz").exists()


def interrupt_after(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, calls: int) -> None:
    """Let a function be called so many times; then Ctrl-C."""
    function, left = getattr(place, name), [calls]

    def call(*args: Any, **settings: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return function(*args, **settings)

    monkeypatch.setattr(place, name, call)


def test_interrupted_and_resumed(malade: Malade, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert malade(*words, "--out", "whole.npz").code == 0
    with monkeypatch.context() as context:
        interrupt_after(context, command, "certify", 2)
        answer = malade(*words, "--out", "out.npz")
    assert answer.code == 130
    assert "what was done is kept; go on with: malade certify" in answer.err
    assert "out.npz.partial: an interrupted computation; pass --resume" in malade.fails(*words, "--out", "out.npz")
    complaint = malade.fails(*words, "--out", "out.npz", "--resume", "--num-estimation", 21)
    assert "out.npz.partial: was begun with num_estimation = 20, now it is 21" in complaint

    again = shlex.split(answer.err.rpartition("go on with: ")[2])
    # The size of the batches may change: the noise of an image does not depend on it.
    resumed = malade(*again[1:], "--batch-size", 1)
    assert resumed.code == 0
    assert "10 of them were done already" in resumed.out
    assert Path("out.npz").read_bytes() == Path("whole.npz").read_bytes()
    assert not Path("out.npz.partial").exists()
    assert "finished already" in malade(*again[1:]).out
    assert "exists already" in malade.fails(*words, "--out", "out.npz")


def test_other_images_are_not_gone_on_with(malade: Malade, files: Path, words: Any, monkeypatch: Any) -> None:
    with monkeypatch.context() as context:
        interrupt_after(context, command, "certify", 1)
        assert malade(*words, "--out", "out.npz").code == 130
    with np.load(files / "good.npz") as good:
        np.savez("other.npz", x=1 - good["x"], y=good["y"])
    other = ("certify", "other.npz", *words[2:])
    assert "was begun with images = " in malade.fails(*other, "--out", "out.npz", "--resume")
    Path("out.npz.partial").write_bytes(b"damaged")
    assert "out.npz.partial" in malade.fails(*words, "--out", "out.npz", "--resume")


@pytest.mark.slow
def test_killed_at_any_moment(malade: Malade, words: Any, tmp_path: Path) -> None:
    """SIGKILL, a few times, then the end: the bits of a run that nobody disturbed."""
    words = (*words, "--num-estimation", 300, "--batch-size", 1)
    assert malade(*words, "--out", "whole.npz").code == 0
    for _ in range(4):
        process = start(tmp_path, *words, "--out", "out.npz", "--resume")
        assert process.stdout is not None
        process.stdout.readline()  # the work begins
        time.sleep(0.1)
        process.kill()
        process.communicate()
    assert malade(*words, "--out", "out.npz", "--resume").code == 0
    assert Path("out.npz").read_bytes() == Path("whole.npz").read_bytes()


# The experiment ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bundle; not to be changed."""
    return run_experiment(read_experiment("certify", TINY), tmp_path_factory.mktemp("certify") / "bundle").path


def test_experiment(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.verify() == []
    assert check_report(bundle) == []
    results = json.loads((bundle / "results.json").read_text())["certified"]
    experiment = read_experiment("certify", TINY).experiment
    assert experiment.certify is not None
    assert results["smoothed"].keys() == {"cnn", "cnn+dae", "cnn+sdae"}
    for name, found in results["smoothed"].items():
        counts = opened.record(f"certify/{name}").arrays["counts"]
        assert (counts.sum(axis=1) == experiment.certify.num_estimation).all()
        assert found["n"] == len(counts) == experiment.certify.num_images
        assert [share["radius"] for share in found["radii"]] == list(experiment.certify.radii)
        values = [share["value"] for share in found["radii"]]
        assert values == sorted(values, reverse=True)
        assert found["no_majority"] == np.mean(2 * counts.max(axis=1) <= counts.sum(axis=1)) <= found["abstained"]
        assert found["curve"]["value"][0] == values[0]
        assert max(values[0], found["certain"]["value"]) <= found["accuracy"]["value"]
        assert found["curve"]["value"][-1] == 0  # nothing is certified beyond the largest radius
    text = (bundle / "report.md").read_text()
    assert text.splitlines()[2].startswith("**Certified and right, whatever a perturbation of L2 norm 0.5 does: CNN ")
    assert "## Certified radii" in text
    assert "](figures/certified.png)" in text
    assert (bundle / "figures" / "certified.png").stat().st_size > 10_000


def test_experiment_certifies_as_the_function_does(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    record = opened.record("certify/cnn+sdae").arrays
    networks = [load(bundle / "models" / f"{name}.h5") for name in ("cnn", "sdae")]
    from malade_ref.datasets import load_dataset

    settings = read_experiment("certify", TINY).experiment
    test = load_dataset("synthetic-digits", sizes=settings.data.sizes()).test
    index = record["sample_index"][:2]
    draws = {"num_selection": 10, "num_estimation": 120}
    found = certify(
        networks[0], test.images(index), test.labels(index), denoiser=networks[1], sample_index=index, **draws
    )
    np.testing.assert_array_equal(record["counts"][:2], found.counts)
    np.testing.assert_array_equal(record["selection"][:2], found.selection)
    np.testing.assert_array_equal(record["label"][:2], found.label)


@pytest.mark.slow
def test_experiment_interrupted_and_resumed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = read_experiment("certify", TINY)
    with monkeypatch.context() as context:
        interrupt_after(context, outcomes, "certified", 3)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(reading, tmp_path / "bundle")
    assert len(list((tmp_path / "bundle" / ".work" / "stages" / "certify-shard").rglob("*.h5"))) == 3
    run_experiment(reading, tmp_path / "bundle", resume=True)
    assert (tmp_path / "bundle" / "MANIFEST.json").read_bytes() == (bundle / "MANIFEST.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("certify.num_images=501", "certify.num_images: expected at most evaluation.num_images = 500"),
        ("certify.sigma2=0.2", "certify.sigma2: expected 0.15, that of dae, got 0.2"),
        ("certify.alpha=0", "certify.alpha: expected a finite number > 0"),
        ("certify.radii=[]", "certify: expected at least one table"),
        ("certify.radii=[-1]", "certify.radii[0]: expected a finite number >= 0"),
        ("certify.smoothed.cnn.denoiser=cnn", "certify.smoothed.cnn.denoiser: nothing is called 'cnn'"),
        ("certify.smoothed.cnn.classifier=dae", "certify.smoothed.cnn.classifier: nothing is called 'dae'"),
        ("certify.sigm=1", "certify.sigm: unknown key; did you mean 'sigma2'?"),
    ],
)
def test_bad_experiments(change: str, complaint: str) -> None:
    with pytest.raises(InputError) as found:
        read_experiment("certify", [change])
    assert complaint in str(found.value)
    assert "\n" not in str(found.value)
