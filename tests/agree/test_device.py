"""Finding the device, and the one line when there is none."""

from __future__ import annotations

import ast
import builtins
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from malade_gpu import device as module
from malade_gpu.device import CudaDevice, EmulatedDevice
from malade_ref.checks import InputError

from .backends import device


def set_environment(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    module._device.cache_clear()


@pytest.fixture(autouse=True)
def forget_devices() -> Any:
    yield
    module._device.cache_clear()


# The emulated device ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "capability"), [("1", 90), ("sm_75", 75), ("sm_80", 80), ("sm_90", 90)])
def test_emulated_capabilities(monkeypatch: pytest.MonkeyPatch, value: str, capability: int) -> None:
    set_environment(monkeypatch, "MALADE_GPU_EMULATE", value)
    found = device()
    assert (found.emulated, found.capability, found.xp) == (True, capability, np)
    assert device() is found


def test_malformed_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, "MALADE_GPU_EMULATE", "yes")
    with pytest.raises(
        InputError, match=r"^MALADE_GPU_EMULATE: expected 0 or one of 1, sm_75, sm_80, sm_90; got 'yes'$"
    ):
        device()
    monkeypatch.setenv("MALADE_DEVICE_MEMORY", "lots")
    with pytest.raises(InputError, match=r"^MALADE_DEVICE_MEMORY: expected bytes or for example 2GiB, got 'lots'$"):
        EmulatedDevice()


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("2GiB", 2 << 30), ("0.5 MiB", 1 << 19), ("3 kib", 3 << 10)]
)
def test_memory_limit(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("MALADE_DEVICE_MEMORY", text)
    assert EmulatedDevice().memory == size


def test_memory_is_counted() -> None:
    """As long as an array, or a view of it, is alive."""
    found = EmulatedDevice()
    found.memory = 1000
    view = found.empty((100,), "float64")[::2]
    with pytest.raises(found.out_of_memory, match=r"^800 bytes asked for, 200 left of 1,000$"):
        found.empty((100,), "float64")
    found.empty((25,), "float64")
    del view
    found.empty((125,), "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint32", "uint8"])
def test_empty_arrays_are_poisoned(dtype: str) -> None:
    array = EmulatedDevice().empty((2, 3), dtype)
    assert array.shape == (2, 3)
    assert (np.isnan(array) if array.dtype.kind == "f" else array == np.array(-1).astype(dtype)).all()


def test_older_gpus_have_less_shared_memory() -> None:
    x = np.zeros((1, 3), dtype="float32")
    settings: dict[str, Any] = {"grid": (1,), "block": (128,), "defines": {"REAL": "float"}}
    for capability in (75, 90):
        EmulatedDevice(capability).launch(
            "rows", "squared_error", **settings, shared_bytes=64 << 10, arguments=(x, x, x[:, 0].copy(), 3)
        )
    with pytest.raises(InputError, match="needs 65540 bytes of shared memory, this device has 65536"):
        EmulatedDevice(75).launch(
            "rows", "squared_error", **settings, shared_bytes=65540, arguments=(x, x, x[:, 0].copy(), 3)
        )


# No GPU -------------------------------------------------------------------------------------------------------


class FakeRuntimeError(RuntimeError):
    """As CuPy raises it."""


def fake_cupy(*, count: Any, driver: int = 13000, major: int = 9) -> Any:
    """What `CudaDevice` asks of CuPy."""

    def get_count() -> int:
        if isinstance(count, Exception):
            raise count
        return count

    runtime = SimpleNamespace(
        CUDARuntimeError=FakeRuntimeError,
        getDeviceCount=get_count,
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: 13020,
        getDevice=lambda: 0,
        getDeviceProperties=lambda _: {
            "name": b"Some GPU",
            "major": major,
            "minor": 0,
            "multiProcessorCount": 132,
            "sharedMemPerBlockOptin": 232448,
        },
        memGetInfo=lambda: (10 << 30, 16 << 30),
    )
    memory = SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (MemoryError,), {}))
    pool = SimpleNamespace(limits=[])
    pool.set_limit = lambda *, size: pool.limits.append(size)
    cuda = SimpleNamespace(runtime=runtime, memory=memory)
    return SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: pool, __version__="14.0.1")


@pytest.mark.parametrize(
    ("cupy", "message"),
    [
        (fake_cupy(count=FakeRuntimeError("insufficient"), driver=0), "no NVIDIA driver found"),
        (
            fake_cupy(count=FakeRuntimeError("insufficient"), driver=12040),
            "the NVIDIA driver knows CUDA 12.4, CuPy needs 13.2: update the driver",
        ),
        (fake_cupy(count=FakeRuntimeError("no device"), driver=13020), "no GPU found .*; CUDA says: no device"),
        (fake_cupy(count=0), "no GPU found"),
        (fake_cupy(count=1, major=6), "Some GPU has compute capability 6.0, needed is 7.5 or newer"),
    ],
)
def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, cupy: Any, message: str) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(InputError, match=f"^malade_gpu: {message}") as caught:
        CudaDevice()
    assert "\n" not in str(caught.value)
    assert "MALADE_GPU_EMULATE=1" in str(caught.value)


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = fake_cupy(count=1)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(module, "_version_of", {"numba": "0.66", "numba-cuda": "0.30"}.get)
    monkeypatch.setattr(module, "check_compilers", lambda: None)
    monkeypatch.delenv("MALADE_DEVICE_MEMORY", raising=False)
    found = CudaDevice()
    assert (found.name, found.capability, found.max_shared, found.emulated) == ("Some GPU", 90, 232448, False)
    assert found.memory == int(0.9 * (10 << 30))
    facts = {"name": "Some GPU", "compute_capability": "9.0", "memory": 16 << 30, "cupy": "14.0.1", "numba": "0.66"}
    assert found.describe().items() >= {**facts, "driver_cuda": "13.0", "cuda": "13.2", "numba-cuda": "0.30"}.items()
    for text, planned, limit in (("2GiB", 2 << 30, 2 << 30), ("99GiB", int(0.9 * (10 << 30)), 99 << 30)):
        monkeypatch.setenv("MALADE_DEVICE_MEMORY", text)
        assert CudaDevice().memory == planned
        assert cupy.get_default_memory_pool().limits[-1] == limit
    assert cupy.get_default_memory_pool().limits[0] == 0  # without a setting there is no limit


def test_no_numba_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(count=1))
    monkeypatch.setattr(module, "_version_of", {}.get)
    with pytest.raises(InputError, match=r"^malade_gpu: numba-cuda is not installed; install it with: pip install"):
        CudaDevice()


LIBRARIES = {"nvrtc": "NVRTC", "nvvm": "NVVM", "nvJitLink": "nvJitLink"}


@pytest.mark.faults
@pytest.mark.parametrize("missing", [["nvrtc"], ["nvvm", "nvJitLink"], ["headers"], [*LIBRARIES, "headers"], []])
def test_missing_compilers_are_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: list[str]
) -> None:
    class NotFoundError(RuntimeError):
        """As cuda-pathfinder raises it."""

    def load(name: str) -> None:
        if name in missing:
            raise NotFoundError(f"{name}\nwas looked for\neverywhere")

    (tmp_path / "cuda_fp16.h").touch()
    found = None if "headers" in missing else str(tmp_path)
    pathfinder = SimpleNamespace(
        load_nvidia_dynamic_lib=load,
        DynamicLibNotFoundError=NotFoundError,
        find_nvidia_header_directory=lambda _: found,
    )
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(pathfinder=pathfinder))
    if not missing:
        module.check_compilers()
        return
    names = ", ".join(LIBRARIES.get(name, "the CUDA runtime's headers") for name in missing)
    with pytest.raises(InputError, match=rf"^malade_gpu: {names} not found, .* pip install 'malade\[gpu\]'") as caught:
        module.check_compilers()
    assert "\n" not in str(caught.value)


@pytest.mark.faults
def test_nothing_needs_cublas() -> None:
    """Products of matrices are kernels of the project's own: the libraries behind CuPy's are not installed with it."""
    names = {"matmul", "dot", "vdot", "inner", "tensordot", "einsum", "linalg", "fft"}
    for path in Path(module.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult)), path
            assert not (isinstance(node, ast.Attribute) and node.attr in names), path


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@x)", "580.65.06"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024", "535.183.01"),
        ("something else", None),
    ],
)
def test_version_of_the_driver(monkeypatch: pytest.MonkeyPatch, text: str, version: str | None) -> None:
    monkeypatch.setattr(module.Path, "read_text", lambda self: f"{text}\nGCC version: gcc 13.3.0")
    assert module._driver() == version


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("cupy"), "CuPy is not installed; install it with: pip install"),
        (ImportError("====\nFailed to import CuPy.\nlibnvrtc.so.13: no such file"), "CuPy cannot be imported .*nvrtc"),
    ],
)
def test_no_cupy(monkeypatch: pytest.MonkeyPatch, error: ImportError, message: str) -> None:
    real_import = builtins.__import__

    def no_cupy(name: str, *rest: Any, **settings: Any) -> Any:
        if name == "cupy":
            raise error
        return real_import(name, *rest, **settings)

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_cupy)
    with pytest.raises(InputError, match=f"^malade_gpu: {message}") as caught:
        CudaDevice()
    assert "\n" not in str(caught.value)


def run_python(text: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout.strip()


def test_importing_the_package_looks_for_no_gpu() -> None:
    text = (
        "import sys, malade_gpu; print([name for name in ('cupy', 'numba.cuda.cudadrv.driver') if name in sys.modules])"
    )
    assert run_python(text) == "[]"


@pytest.mark.slow
def test_the_emulated_device_needs_no_cupy() -> None:
    text = (
        "import sys; sys.modules['cupy'] = None\n"
        "from malade_gpu import ops\n"
        "print(ops.clip_pixels(ops.asarray([1.5, -1.0, 0.5])).tolist())"
    )
    assert run_python(text, MALADE_GPU_EMULATE="1") == "[1.0, 0.0, 0.5]"


def test_no_numba() -> None:
    text = (
        "import sys; sys.modules['numba'] = None\n"
        "try:\n    import malade_gpu.ops\n"
        "except ValueError as error:\n    print(type(error).__name__, error)"
    )
    expected = "InputError malade_gpu: Numba is not installed; install it with: pip install 'malade[gpu]'"
    assert run_python(text) == expected
