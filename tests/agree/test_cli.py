"""Commands with ``--backend gpu``: outcomes are the reference's, in any memory; one line where it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import malade_ref
from malade_gpu import device as module
from malade_gpu.emulation.build import _compiler
from malade_ref.bundle import Bundle
from malade_ref.cli import main
from malade_ref.experiment import read_experiment, run_experiment
from tests.cli.conftest import ROOT, Malade, files, malade
from tests.tolerances import assert_close

from .conftest import check_compiler
from .strict import StrictDevice
from .test_device import FakeRuntimeError, fake_cupy

__all__ = ["files", "malade"]

# The smallest demo that does everything once.
SMALLEST = (
    *("scale=tiny", "data.train=12", "data.validation=4", "data.test=6", "models.cnn.epochs=1"),
    *("evaluation.num_images=3", "evaluation.num_draws=2", "evaluation.shard_size=2"),
    *(f"models.{name}.batch_size=8" for name in ("cnn", "madry", "dae", "sdae", "sdae-madry")),
    *(f"defences.{name}+malade.search.{key}" for name in ("cnn", "madry") for key in ("num_images=4", "a=[0.5]")),
    *(f"attacks.{name}.num_images=2" for name in ("noise", "bpda-eot", "exact-eot", "exact")),
    # The chain in front of Madry's network is trained, searched for and tried on clean images.
    *(f'attacks.{name}.against=["cnn","cnn+malade"]' for name in ("noise", "pgd")),
    *(f'attacks.{name}.against=["cnn+malade"]' for name in ("bpda-eot", "exact-eot", "exact")),
    *("attacks.pgd.eps=[0.2]", "audit.gradient_images=1", "audit.eot_images=1"),
)
RUN = ("run", "demo", *(word for change in SMALLEST for word in ("--set", change)))


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MALADE_GPU_EMULATE", "1")
    monkeypatch.delenv("MALADE_DEVICE_MEMORY", raising=False)
    monkeypatch.delenv("MALADE_GPU_PRECISION", raising=False)
    check_compiler()
    devices = module._device
    devices.cache_clear()
    yield
    devices.cache_clear()


def make_strict(monkeypatch: pytest.MonkeyPatch) -> StrictDevice:
    """From now on the device is one whose arrays do not mix with NumPy's."""
    found = StrictDevice()
    monkeypatch.setattr(module, "_device", lambda *_: found)
    return found


# Experiments --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest demo by the reference; not to be changed."""
    return run_experiment(read_experiment("demo", SMALLEST), tmp_path_factory.mktemp("reference") / "bundle").path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on the emulated device, with strict arrays: nothing mixes host and device; not to be changed."""
    out = tmp_path_factory.mktemp("strict") / "bundle"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MALADE_GPU_EMULATE", "1")
        check_compiler()
        make_strict(monkeypatch)
        assert main([*RUN, "--backend", "gpu", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_outcomes_are_the_references(reference: Path, bundle: Path) -> None:
    """Sample by sample, although each backend trained networks of its own."""
    with Bundle.open(reference).outcomes() as theirs, Bundle.open(bundle).outcomes() as ours:
        assert ours.names == theirs.names
        compared = set()
        for name in ours.names:
            result, expected = ours.read(name), theirs.read(name)
            kind = name.rpartition("/")[2]
            compared.add(kind)
            if kind in ("loss", "distance"):
                assert_close(result, expected, op="outcome")
            else:
                np.testing.assert_array_equal(result, expected, err_msg=name, strict=True)
        assert {"correct", "success", "label", "num_queries", "num_gradients", "loss", "distance"} <= compared
    chosen = [Bundle.open(path).record("search/cnn+malade").meta["chosen"] for path in (bundle, reference)]
    assert chosen[0] == chosen[1]


@pytest.mark.slow
def test_a_bundle_says_what_computed_it(bundle: Path, malade: Malade) -> None:
    opened = Bundle.open(bundle)
    assert (opened.config["backend"], opened.config["precision"]) == ("malade_gpu", "fp32")
    device = opened.log.sessions[0]["environment"]["device"]
    assert device["name"] == "strict emulated device"
    assert {"compute_capability", "compiler", "numba", "precision", "source_sha256"} <= device.keys()
    assert "- Device: strict emulated device, compiler " in (bundle / "report.md").read_text()
    assert malade("report", bundle, "--verify").code == 0


@pytest.mark.slow
def test_memory_that_runs_out_loses_nothing(bundle: Path, malade: Malade, tmp_path: Path) -> None:
    """Resumed with a little more it ends with the same bits as with plenty."""
    run = (*RUN, "--backend", "gpu", "--out", tmp_path / "bundle")
    complaint = malade.fails(*run, "--set", "device_memory=4MiB")
    assert complaint.startswith("emulated sm_90: out of memory")
    assert "what was done is kept; free memory there or set a larger device_memory, then go on with: " in complaint
    words = complaint.rpartition("go on with: ")[2].split()
    assert words[:3] == ["malade", "run", "demo"]
    assert words[words.index("--backend") + 1] == "gpu"
    assert "--resume" in words

    answer = malade(*run, "--resume", "--set", "device_memory=16MiB")
    assert answer.code == 0, answer
    assert "MALADE_DEVICE_MEMORY" not in os.environ
    for name in ("outcomes.h5", "results.json", "models/cnn.h5", "models/sdae-madry.h5", "search/cnn+malade.h5"):
        assert (tmp_path / "bundle" / name).read_bytes() == (bundle / name).read_bytes(), name
    log = Bundle.open(tmp_path / "bundle").log
    assert len(log.sessions) == 2
    assert not [warning for warning in log.warnings if "environment" in warning]


@pytest.mark.slow
def test_a_run_goes_on_with_what_it_was_begun_with(reference: Path, bundle: Path, malade: Malade) -> None:
    other = malade.fails(*RUN, "--backend", "gpu", "--out", reference, "--resume")
    assert other.startswith(f'{reference}: was begun with backend = "malade_ref", not "malade_gpu"; ')
    assert "backend" in malade.fails(*RUN, "--out", bundle, "--resume")
    coarser = malade.fails(*RUN, "--backend", "gpu", "--out", bundle, "--resume", "--set", "precision=bf16")
    assert coarser.startswith(f'{bundle}: was begun with precision = "fp32", not "bf16"; ')
    # The memory is no part of the settings: this run is finished, whatever it would have.
    assert malade(*RUN, "--backend", "gpu", "--out", bundle, "--resume", "--set", "device_memory=3GiB").code == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--set", "device_memory=2GiB"), "device_memory: the NumPy reference has no such setting; "),
        (("--set", "precision=tf32"), "precision: the NumPy reference has no such setting; "),
        (("--backend", "gpu", "--set", "device_memory=lots"), "device_memory: expected bytes or for example 2GiB"),
        (
            ("--backend", "gpu", "--set", "device_memory=0"),
            "device_memory: expected bytes or for example 2GiB, got '0'",
        ),
        (("--backend", "gpu", "--set", "device_memory=-1GiB"), "device_memory: expected bytes or for example 2GiB"),
        (("--backend", "gpu", "--set", "device_memory=0.1B"), "device_memory: expected bytes or for example 2GiB"),
        (("--backend", "gpu", "--set", "device_memory=[1]"), "device_memory: expected bytes or for example 2GiB"),
        (("--backend", "gpu", "--set", "precision=fp8"), "precision: expected one of fp32, tf32x3, tf32, bf16"),
        (("--backend", "gpu", "--set", "device_memry=1"), "device_memry: unknown key"),
    ],
)
def test_malformed_settings(malade: Malade, words: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    assert complaint in malade.fails(*RUN, *words)
    assert not (tmp_path / "runs").exists()


def test_tensor_cores_are_needed(malade: Malade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALADE_GPU_EMULATE", "sm_75")
    complaint = malade.fails(*RUN, "--backend", "gpu", "--set", "precision=tf32")
    assert "tf32 needs compute capability 8.0, emulated sm_75 has 7.5; use fp32" in complaint


# Single steps -------------------------------------------------------------------------------------------------


def arrays_of(path: Path) -> dict[str, Any]:
    with np.load(path) as archive:
        return dict(archive)


CHAIN = ("--chain-steps", 2, "--a", 0.5, "--delta", 0.1)
ONE_STEP = ("--eps", 0.05, "--set", "num_steps=1", "--set", "num_draws=2", "--set", "num_judge_draws=2")


@pytest.mark.parametrize(
    "words",
    [
        ("attack", "pgd", "good.npz", "--model", "cnn.h5", "--eps", 0.05, "--set", "num_steps=2"),
        pytest.param(
            ("attack", "eot", "good.npz", "--model", "cnn.h5", "--denoiser", "sdae.h5", *CHAIN, *ONE_STEP),
            marks=pytest.mark.slow,
        ),
        ("purify", "good.npz", "--denoiser", "sdae.h5", *CHAIN),
        ("predict", "good.npz", "--model", "cnn.h5"),
        ("predict", "good.npz", "--model", "cnn.h5", "--denoiser", "sdae.h5", *CHAIN, "--num-draws", 2),
    ],
)
def test_single_steps(
    files: Path, malade: Malade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[Any, ...]
) -> None:
    words = tuple(files / word if str(word).endswith((".h5", ".npz")) else word for word in words)
    assert malade(*words, "--out", tmp_path / "ref.npz").code == 0
    make_strict(monkeypatch)
    answer = malade(*words, "--out", tmp_path / "gpu.npz", "--backend", "gpu")
    assert answer.code == 0, answer
    expected, result = arrays_of(tmp_path / "ref.npz"), arrays_of(tmp_path / "gpu.npz")
    assert result.keys() == expected.keys()
    for name, array in expected.items():
        if array.dtype.kind == "f":
            assert_close(result[name], array, op="outcome")
        else:
            np.testing.assert_array_equal(result[name], array, err_msg=name, strict=True)


@pytest.mark.slow
def test_train(files: Path, malade: Malade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A denoiser from a network, against a classifier, with a look at validation images."""
    words = ("train", "denoiser", files / "good.npz", "--init", files / "sdae.h5", "--classifier", files / "cnn.h5")
    words = (*words, "--validation", files / "good.npz", "--epochs", 1)
    assert malade(*words, "--out", tmp_path / "ref.h5").code == 0
    make_strict(monkeypatch)
    answer = malade(*words, "--out", tmp_path / "gpu.h5", "--backend", "gpu")
    assert answer.code == 0, answer
    theirs, ours = (malade_ref.load(tmp_path / f"{name}.h5") for name in ("ref", "gpu"))
    for name, value in theirs.params.items():
        assert_close(ours.params[name], value, op="outcome")


# Devices, and none --------------------------------------------------------------------------------------------


def line_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"backend    {name}: "))


def test_info(malade: Malade) -> None:
    out = malade("info").out
    assert line_of(out, "ref") == "backend    ref: CPU"
    assert line_of(out, "gpu").startswith("backend    gpu: emulated sm_90, compute capability 9.0, compiler ")


def use_cupy(monkeypatch: pytest.MonkeyPatch, cupy: Any) -> None:
    """As on a machine with this CuPy, without the emulated device."""
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setenv("MALADE_GPU_EMULATE", "0")


def test_info_of_a_gpu(malade: Malade, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cupy(monkeypatch, fake_cupy(count=1))
    monkeypatch.setattr(module, "_version_of", {"numba": "0.66", "numba-cuda": "0.30"}.get)
    monkeypatch.setattr(module, "check_compilers", lambda: None)
    monkeypatch.setattr(module, "_driver", lambda: "580.65")
    monkeypatch.setenv("MALADE_GPU_PRECISION", "fp32")
    assert line_of(malade("info").out, "gpu") == (
        "backend    gpu: Some GPU, compute capability 9.0, memory 16.0 GiB, driver 580.65, driver cuda 13.0, "
        "cuda 13.2, cupy 14.0.1, numba 0.66, numba-cuda 0.30, precision fp32"
    )


def test_info_without_a_gpu(malade: Malade, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cupy(monkeypatch, fake_cupy(count=0))
    answer = malade("info")
    assert answer.code == 0
    assert line_of(answer.out, "gpu").startswith("backend    gpu: none; malade_gpu: no GPU found (MALADE_GPU_EMULATE=1")


@pytest.mark.parametrize(
    ("cupy", "complaint"),
    [
        (None, "malade_gpu: CuPy is not installed; install it with: pip install 'malade[gpu]'"),
        (fake_cupy(count=0), "malade_gpu: no GPU found"),
        (fake_cupy(count=FakeRuntimeError("insufficient"), driver=0), "malade_gpu: no NVIDIA driver found"),
        (fake_cupy(count=FakeRuntimeError("insufficient"), driver=12040), "the NVIDIA driver knows CUDA 12.4"),
        (fake_cupy(count=1, major=6), "malade_gpu: Some GPU has compute capability 6.0, needed is 7.5 or newer"),
    ],
)
@pytest.mark.parametrize("command", ["run", "predict"])
def test_no_gpu(
    malade: Malade,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    files: Path,
    cupy: Any,
    complaint: str,
    command: str,
) -> None:
    use_cupy(monkeypatch, cupy)
    words = RUN if command == "run" else ("predict", "x.npz", "--model", "cnn.h5")
    assert complaint in malade.fails(*words, "--backend", "gpu")
    assert not Path("runs").exists()


def test_no_compiler(malade: Malade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "g++-of-nobody")
    _compiler.cache_clear()
    try:
        assert malade.fails(*RUN, "--backend", "gpu").startswith("g++: not found; the emulated device compiles")
    finally:
        _compiler.cache_clear()
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "complaint"),
    [
        ("numba", "malade_gpu: Numba is not installed; install it with: pip install 'malade[gpu]'"),
        ("malade_gpu", "--backend gpu: malade_gpu.ops is not installed; install malade[gpu]"),
    ],
)
def test_what_is_not_installed(tmp_path: Path, package: str, complaint: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from malade_ref.cli import main; sys.exit(main({[*RUN, '--backend', 'gpu']!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"malade: error: {complaint}\n")


def test_out_of_memory_anywhere(malade: Malade, monkeypatch: pytest.MonkeyPatch, files: Path) -> None:
    """Also where no slices could be made smaller: a line, no traceback."""

    def no_room(*_: Any) -> Any:
        raise MemoryError("1 GB asked for\nnone left")

    monkeypatch.setattr("malade_ref.cli.single.read_images", lambda *_, **__: no_room())
    words = ("predict", files / "good.npz", "--model", files / "cnn.h5", "--backend", "gpu")
    assert malade.fails(*words) == "out of memory: 1 GB asked for none left"
