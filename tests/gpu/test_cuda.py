"""The CUDA device itself: instructions, streams, shared memory, errors, memory, exchange with PyTorch."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")

import malade_gpu
from malade_gpu import device as module
from malade_gpu import ops
from malade_gpu.device import CudaDevice, device, source_for_gpu
from malade_gpu.elements import element
from malade_gpu.resources import LIMITS, compile_text, occupancy, units
from malade_ref.checks import InputError
from tests.emulator.programs import Program
from tests.instructions import INSTRUCTIONS, Instruction, check, launched

from .conftest import REHEARSAL

# Keeps the device busy for some clock cycles, then writes.
SLOW = """
extern "C" __global__ void kernel(float* x, int n, float value, long long cycles) {
  const long long start = clock64();
  while (clock64() - start < cycles) {}
  for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = value;
}
"""
LONG = 400_000_000  # cycles: some 0.2 seconds


@element
def doubled(i: Any, out: Any, x: Any) -> None:
    out[i] = x[i] + x[i]


def kernel_of(cupy: Any, text: str) -> Any:
    return cupy.RawModule(code=source_for_gpu(text), options=("-std=c++17",)).get_function("kernel")


def launch(cupy: Any, program: Program, *arguments: Any) -> None:
    """Launch a program of the emulator's tests on the GPU; arrays are copied there and back."""
    kernel = kernel_of(cupy, program.text)
    there = [cupy.asarray(value) if isinstance(value, np.ndarray) else np.int32(value) for value in arguments]
    kernel(tuple(program.grid), tuple(program.block), tuple(there), shared_mem=program.shared_bytes)
    for value, result in zip(arguments, there, strict=True):
        if isinstance(value, np.ndarray):
            value[...] = result.get()


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda instruction: instruction.name)
def test_instructions(cupy: Any, instruction: Instruction) -> None:
    """The hardware does what the emulated device takes it to do."""
    if device().capability < 80 and any(name in instruction.program.text for name in ("async_", "tf32", "bf16")):
        pytest.skip(f"{device().name} has no such instruction")
    check(instruction, launched(instruction, lambda *arguments: launch(cupy, instruction.program, *arguments)))


# Streams ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Numba", "CUDA C++"])
def test_work_is_on_the_current_stream_and_in_order(cupy: Any, kind: str) -> None:
    """What follows a slow kernel on its stream sees what that has written; nothing waits for it before."""
    slow, x, out = kernel_of(cupy, SLOW), cupy.zeros(1000, "float32"), cupy.zeros(1000, "float32")
    sums, zeros = cupy.zeros(1, "float32"), cupy.zeros(1000, "float32")

    def work() -> None:
        slow((1,), (256,), (x, np.int32(1000), np.float32(3), np.int64(LONG)))
        if kind == "Numba":
            device().for_elements(doubled, 1000, out, x)
        else:
            device().launch(
                *("rows", "squared_error"),
                grid=(1,),
                block=(128,),
                arguments=(x, zeros, sums, 1000),
                defines={"REAL": "float"},
            )

    work()  # compiles
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        x.fill(0)
        out.fill(0)
        sums.fill(0)
        stream.synchronize()
        start = time.perf_counter()
        work()
        returned = time.perf_counter() - start
        stream.synchronize()
        done = time.perf_counter() - start
    assert returned < 0.5 * done, f"the launch took {returned:.3f} s of {done:.3f} s: it waited for the device"
    if kind == "Numba":
        assert (out.get() == 6).all()
    else:
        assert sums.get() == 9000


def test_graphs_capture_launches(cupy: Any) -> None:
    """An iteration of ops can be captured once and replayed."""
    x = cupy.arange(1000, dtype="float32") / 1000
    device().for_elements(doubled, 1, cupy.zeros(1, "float32"), x)  # compiles
    # What was written on one stream is not yet there for another.
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        out = cupy.zeros_like(x)
        stream.begin_capture()
        device().for_elements(doubled, 1000, out, x)
        device().for_elements(doubled, 1000, x, out)
        graph = stream.end_capture()
        assert (out.get(stream=stream) == 0).all()
        graph.launch(stream)
        graph.launch(stream)
        stream.synchronize()
    np.testing.assert_allclose(x.get(), 16 * np.arange(1000, dtype="float32") / 1000, rtol=1e-6)


# Launches -----------------------------------------------------------------------------------------------------------


def costs(cupy: Any, *works: Callable[[], None], calls: int = 200) -> list[float]:
    """Processor time of a call on the host, the least of several turns: others use this machine, too."""
    least = [float("inf")] * len(works)
    for _ in range(9):
        for i, work in enumerate(works):
            work()
            begun = time.process_time()
            for _ in range(calls):
                work()
            least[i] = min(least[i], (time.process_time() - begun) / calls)
            cupy.cuda.Device().synchronize()
    return least


def test_a_launch_costs_the_host_little(cupy: Any) -> None:
    """At most 15 us by Numba, 10 us for CUDA C++, on a machine where CuPy takes 0.8 us for a kernel without arguments.

    Slower machines, and those that others use, are allowed as much more as they take more for that.
    """
    empty = cupy.RawModule(code='extern "C" __global__ void kernel() {}').get_function("kernel").kernel
    x, out, sums = cupy.ones(256, "float32"), cupy.zeros(256, "float32"), cupy.zeros(1, "float32")
    found = device()
    settings: dict[str, Any] = {"grid": (1,), "block": (128,), "defines": {"REAL": "float"}}
    unit, numba, cuda = costs(
        cupy,
        lambda: empty((1,), (1,), ()),
        lambda: found.for_elements(doubled, 256, out, x),
        lambda: found.launch("rows", "squared_error", **settings, arguments=(x, x, sums, 8)),
    )
    slowness = max(1.0, unit / 0.8e-6)
    assert numba <= 15e-6 * slowness, f"{numba * 1e6:.1f} us"
    assert cuda <= 10e-6 * slowness, f"{cuda * 1e6:.1f} us"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 256, 257, 100_000])
def test_numba_has_nothing_to_say_of_small_grids(cupy: Any, count: int) -> None:
    out, x = cupy.zeros(count, "float32"), cupy.ones(count, "float32")
    device().for_elements(doubled, count, out, x)
    assert (out.get() == 2).all()


def test_arguments_of_element_kernels_are_checked(cupy: Any) -> None:
    x = cupy.zeros((4, 4), "float32")
    with pytest.raises(TypeError, match="contiguous arrays, got strides"):
        device().for_elements(doubled, 4, x[0], x[:, 0])
    with pytest.raises(TypeError, match="arrays of the device and numbers, got ndarray"):
        device().for_elements(doubled, 4, x[0], np.zeros(4, "float32"))


def test_dynamic_shared_memory_beyond_48_kib(cupy: Any) -> None:
    x, zeros, out = cupy.ones((2, 500), "float32"), cupy.zeros((2, 500), "float32"), cupy.zeros(2, "float32")
    settings: dict[str, Any] = {"grid": (2,), "block": (128,), "defines": {"REAL": "float"}}
    limit = CudaDevice().max_shared
    assert limit >= module.SHARED_BYTES.get(device().capability, 48 << 10)
    # What the kernel declares itself comes on top.
    device().launch("rows", "squared_error", **settings, arguments=(x, zeros, out, 500), shared_bytes=limit - 1024)
    assert (out.get() == 500).all()
    with pytest.raises(InputError, match="bytes of shared memory, this device has"):
        device().launch("rows", "squared_error", **settings, arguments=(x, zeros, out, 500), shared_bytes=limit + 1)


FAULT = """
import cupy
text = 'extern "C" __global__ void kernel(float* x) { x[1ll << 40] = 1.0f; }'
kernel = cupy.RawModule(code=text).get_function("kernel")
kernel((1,), (1,), (cupy.zeros(1, "float32"),))
print("launched", flush=True)
cupy.cuda.Stream.null.synchronize()
print("never printed")
"""


def test_errors_of_a_kernel_appear_at_the_next_synchronisation() -> None:
    """In a process of its own: after such an error it cannot use the device any more."""
    done = subprocess.run([sys.executable, "-c", FAULT], capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert done.stdout == "launched\n"
    assert "illegal" in done.stderr.lower()


def test_occupancy_is_what_the_driver_says(cupy: Any) -> None:
    capability = device().capability
    if REHEARSAL:
        pytest.skip("asks the compiler of a real driver")
    if capability not in LIMITS:
        pytest.skip(f"no table of limits for compute capability {capability / 10}")
    found = 0
    for unit in units():
        if unit.capability != capability:
            continue
        options = ("-std=c++17", *(f"-D{name}={value}" for name, value in unit.defines.items()))
        loaded = cupy.RawModule(code=source_for_gpu(unit.text), options=options)
        for name, taken in compile_text(unit.text, unit.defines, capability).kernels.items():
            function = loaded.get_function(name)
            threads, dynamic = taken.threads, unit.shared_bytes
            if dynamic:
                function.max_dynamic_shared_size_bytes = dynamic
            held = occupancy(taken._replace(registers=function.num_regs), capability, shared_bytes=dynamic)
            of_driver = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
                function.kernel.ptr, threads, dynamic
            )
            assert function.local_size_bytes == 0 or taken.spilled == 0
            assert (held.blocks, function.shared_size_bytes) == (of_driver, taken.shared), (unit, name)
            found += 1
    assert found > 20


# Memory -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(cupy: Any) -> Any:
    """CuPy's pool, empty and without a limit before and after."""
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    yield pool
    pool.set_limit(size=0)
    pool.free_all_blocks()


def test_out_of_memory_is_one_line(cupy: Any, pool: Any) -> None:
    network, x = malade_gpu.cnn("small" if REHEARSAL else "paper"), cupy.zeros((4, 1, 28, 28), "float32")
    network.apply(x)
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + 1000)
    with pytest.raises(InputError, match="out of memory with a single sample") as caught:
        network.apply(x)
    assert "\n" not in str(caught.value)


def test_less_memory_means_smaller_slices(cupy: Any, pool: Any) -> None:
    network, n = (malade_gpu.cnn("small"), 4) if REHEARSAL else (malade_gpu.cnn(), 512)
    x = ops.uniform((1, 28, 28), key=(1, 2), sample_index=ops.arange(n))
    y = ops.arange(n) % 10
    expected = network.loss_and_gradient(x, y).gradient.get()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + n * (256 << 10) // (8 if REHEARSAL else 1))
    np.testing.assert_array_equal(network.loss_and_gradient(x, y).gradient.get(), expected)


def test_planned_memory_is_kept_to(cupy: Any, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """MALADE_DEVICE_MEMORY=2GiB serves a card of 2 GiB."""
    monkeypatch.setenv("MALADE_DEVICE_MEMORY", "2GiB")
    module._device.cache_clear()
    n = 4 if REHEARSAL else 8192
    try:
        network = malade_gpu.cnn("small" if REHEARSAL else "paper")
        x = ops.uniform((1, 28, 28), key=(1, 2), sample_index=ops.arange(n))
        network.loss_and_gradient(x, ops.arange(n) % 10)
        assert pool.total_bytes() <= 2 << 30
    finally:
        module._device.cache_clear()


# PyTorch ------------------------------------------------------------------------------------------------------------


def test_tensors_come_and_go_without_a_copy(cupy: Any) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    if not torch.cuda.is_available():
        pytest.skip("needs PyTorch with CUDA")
    tensor = torch.rand((4, 1, 28, 28), device="cuda")
    x = ops.asarray(tensor)
    assert x.data.ptr == tensor.data_ptr()
    defended = malade_gpu.MALADE(malade_gpu.cnn("small"), malade_gpu.sdae("small"), num_steps=2, a=0.3, delta=0.1)
    purified = defended.purify(x)
    back = torch.from_dlpack(purified)
    assert back.is_cuda
    assert back.data_ptr() == purified.data.ptr
    np.testing.assert_array_equal(back.cpu().numpy(), purified.get())
