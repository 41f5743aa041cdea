"""What runs the kernels: a GPU by CuPy and Numba CUDA, or the emulated device.

``device()`` is the only place that knows which. The rest of `malade_gpu` asks it for memory and launches kernels on it:

- *elements*: a body per element, compiled by Numba (module `elements`);
- *CUDA C++*: files of the folder ``kernels``, compiled by NVRTC for the GPU and by g++ for the emulated device.

The environment variable ``MALADE_GPU_EMULATE`` chooses: unset or 0 for the GPU, 1 for the emulated device, ``sm_75``,
``sm_80`` or ``sm_90`` for an emulated device of that compute capability. ``MALADE_DEVICE_MEMORY`` (bytes, or ``2GiB``,
say) limits the memory that is used; `ops.device_settings` sets it.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import threadpoolctl

from malade_ref.checks import InputError

from .elements import cpu_kernel, gpu_kernel
from .emulation.build import MAX_SHARED_BYTES, SCHEDULES, EmulatedLibrary, build, compiler_version
from .launches import FORMATS, POINTER, Launcher, element_launcher, element_numbers
from .source import Kernel, check_arguments, check_launch, kernels_of, read_source

KERNELS = Path(__file__).parent / "kernels"
CAPABILITIES = (75, 80, 90)
EMULATED_MEMORY = 1 << 30
# Dynamic shared memory that a block may have, by compute capability; a newer GPU has at least that of the last one.
SHARED_BYTES = {75: 64 * 1024, 80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: MAX_SHARED_BYTES}
THREADS = 256  # of a block of an element kernel
MEMORY = "MALADE_DEVICE_MEMORY"
UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
WITHOUT_GPU = "MALADE_GPU_EMULATE=1 runs on the CPU instead, slowly"


class Device(Protocol):
    """What the ops need of a device.

    Attributes
    ----------
    name : str
        What it is, for people.
    emulated : bool
        Whether it is the emulated device.
    capability : int
        Compute capability times ten.
    memory : int
        Bytes that may be planned with.
    multiprocessors : int
        How many blocks it runs at the same time, if they need all of a multiprocessor.
    max_shared : int
        Bytes of shared memory that a block may have.
    xp : module
        The library of its arrays: cupy, or numpy for the emulated device.
    out_of_memory : type of exception
        What an allocation raises that does not fit; a MemoryError.
    """

    name: str
    emulated: bool
    capability: int
    memory: int
    multiprocessors: int
    max_shared: int
    xp: ModuleType
    out_of_memory: type[BaseException]

    def describe(self) -> dict[str, Any]:
        """What it is and which software drives it.

        Returns
        -------
        dict
            JSON-able; the same at every call.
        """

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """Uninitialised array.

        Parameters
        ----------
        shape : sequence of int
            Its shape.
        dtype : dtype
            Its type.

        Returns
        -------
        array
            Of this device.
        """

    def for_elements(self, body: Any, count: int, *arguments: Any) -> None:
        """Run a body for the elements 0..count-1.

        Parameters
        ----------
        body : function decorated with `elements.element`
            What is done for element i.
        count : int
            How many elements.
        *arguments
            Contiguous arrays and NumPy scalars, as the body takes them after i.
        """

    def launch(
        self,
        file: str,
        kernel: str,
        *,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared_bytes: int = 0,
        defines: Mapping[str, Any] | None = None,
    ) -> None:
        """Launch a CUDA C++ kernel.

        Parameters
        ----------
        file : str
            File in the folder ``kernels``, without its ending.
        kernel : str
            Which of its kernels.
        grid, block : sequence of up to three int
            Blocks in the grid, threads in a block.
        arguments : sequence of arrays and numbers
            In the order of the kernel's parameters.
        shared_bytes : int
            Dynamic shared memory of a block.
        defines : dict of str to object, optional
            Macros that the file is compiled with.
        """


class EmulatedDevice:
    """A device of g++ and Numba on the CPU; its arrays are NumPy's.

    Parameters
    ----------
    capability : int
        Compute capability times ten, of the GPU that is emulated.

    Attributes
    ----------
    schedule : Schedule
        In which order the threads of CUDA C++ kernels run.
    """

    emulated = True
    out_of_memory: type[BaseException] = MemoryError

    def __init__(self, capability: int = 90) -> None:
        self.name = f"emulated sm_{capability}"
        self.capability = capability
        self.memory = _memory_limit() or EMULATED_MEMORY
        self.multiprocessors = 2
        self.max_shared = SHARED_BYTES[capability]
        self.xp: ModuleType = np
        self.schedule = SCHEDULES[0]
        self._used = 0
        # Else products of matrices would depend on the number of cores, and small ones would wait for them.
        threadpoolctl.threadpool_limits(limits=1, user_api="blas")

    def describe(self) -> dict[str, Any]:
        """What is emulated, and the compilers in place of CUDA's."""
        found = {"name": self.name, "compute_capability": f"{self.capability / 10:.1f}"}
        return {**found, "compiler": compiler_version(), "numba": metadata.version("numba")}

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """Array of poison: what a kernel forgets to write is seen to be NaN, -1, or 255.

        What kernels write counts against the device's memory as long as it is alive.
        """
        array = np.empty(tuple(shape), dtype)
        if array.nbytes > self.memory - self._used:
            raise MemoryError(f"{array.nbytes:,} bytes asked for, {self.memory - self._used:,} left of {self.memory:,}")
        self._used += array.nbytes
        weakref.finalize(array, self._give_back, array.nbytes).atexit = False
        if array.dtype == np.bool_:
            array[...] = True
        else:
            array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array

    def _give_back(self, size: int) -> None:
        self._used -= size

    def for_elements(self, body: Any, count: int, *arguments: Any) -> None:
        """Run the loop around the body."""
        if count:
            cpu_kernel(body)(count, *arguments)

    def launch(
        self,
        file: str,
        kernel: str,
        *,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared_bytes: int = 0,
        defines: Mapping[str, Any] | None = None,
    ) -> None:
        """Run the kernel on fibers."""
        self._library(file, tuple(sorted((defines or {}).items()))).launch(
            kernel,
            grid,
            block,
            arguments,
            shared_bytes=shared_bytes,
            schedule=self.schedule,
            max_shared=self.max_shared,
        )

    @cache  # noqa: B019  # a device lives as long as the process
    def _library(self, file: str, defines: tuple[tuple[str, Any], ...]) -> EmulatedLibrary:
        return build(KERNELS / f"{file}.cuh", defines=dict(defines), capability=self.capability)


class CudaDevice:
    """The current CUDA device.

    Raises
    ------
    InputError
        If there is no CuPy, no driver, no GPU, or one of them is too old; or no compiler.
    """

    emulated = False

    def __init__(self) -> None:
        try:
            import cupy
        except ModuleNotFoundError:
            raise InputError(
                f"malade_gpu: CuPy is not installed; install it with: pip install 'malade[gpu]' ({WITHOUT_GPU})"
            ) from None
        except ImportError as error:
            reason = " ".join(str(error).split())[-200:]
            raise InputError(f"malade_gpu: CuPy cannot be imported ({reason}); mend its installation") from None
        runtime = cupy.cuda.runtime
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            raise InputError(_why_no_gpu(runtime, error)) from None
        if not count:
            raise InputError(f"malade_gpu: no GPU found ({WITHOUT_GPU})")
        number = runtime.getDevice()
        properties = runtime.getDeviceProperties(number)
        self.xp: ModuleType = cupy
        self.name = properties["name"].decode()
        self.capability = 10 * properties["major"] + properties["minor"]
        if self.capability < CAPABILITIES[0]:
            raise InputError(
                f"malade_gpu: {self.name} has compute capability {self.capability / 10:.1f}, "
                f"needed is {CAPABILITIES[0] / 10:.1f} or newer ({WITHOUT_GPU})"
            )
        if _version_of("numba-cuda") is None:
            raise InputError(
                f"malade_gpu: numba-cuda is not installed; install it with: pip install 'malade[gpu]' ({WITHOUT_GPU})"
            )
        check_compilers()
        self.out_of_memory: type[BaseException] = cupy.cuda.memory.OutOfMemoryError
        free, self._total = runtime.memGetInfo()
        limit = _memory_limit()
        self.memory = min(limit or free, int(0.9 * free))
        # Beyond a limit that was set, allocations fail as they would on a smaller GPU; 0 stands for no limit.
        cupy.get_default_memory_pool().set_limit(size=limit or 0)
        self.multiprocessors = int(properties["multiProcessorCount"])
        self.max_shared = int(properties["sharedMemPerBlockOptin"])
        self._elements: dict[Any, Launcher] = {}

    def describe(self) -> dict[str, Any]:
        """The GPU, its driver, and the libraries."""
        runtime = self.xp.cuda.runtime
        return {
            "name": self.name,
            "compute_capability": f"{self.capability / 10:.1f}",
            "memory": int(self._total),
            "driver": _driver(),
            "driver_cuda": _version(runtime.driverGetVersion()),
            "cuda": _version(runtime.runtimeGetVersion()),
            "cupy": str(self.xp.__version__),
            **{name: _version_of(name) for name in ("numba", "numba-cuda")},
        }

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """Array with arbitrary contents."""
        return self.xp.empty(tuple(shape), dtype)

    def for_elements(self, body: Any, count: int, *arguments: Any) -> None:
        """Launch one thread an element, on CuPy's stream."""
        if not count:
            return
        ndarray = self.xp.ndarray
        signature: list[Any] = []
        numbers: list[Any] = [count]
        for value in arguments:
            if isinstance(value, ndarray):
                signature.append((value.dtype, value.ndim))
                numbers += element_numbers(value)
            else:
                signature.append(type(value))
                numbers.append(value)
        key = body, *signature
        kernel = self._elements.get(key)
        if kernel is None:
            kernel = self._elements[key] = element_launcher(self.xp, gpu_kernel(body), signature)
        kernel((-(-count // THREADS), 1, 1), (THREADS, 1, 1), 0, numbers)

    def launch(
        self,
        file: str,
        kernel: str,
        *,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared_bytes: int = 0,
        defines: Mapping[str, Any] | None = None,
    ) -> None:
        """Launch on CuPy's stream; errors of the kernel appear at the next synchronisation."""
        check_launch(kernel, grid, block, shared_bytes, self.max_shared)
        signature, start = self._kernel(file, kernel, tuple(sorted((defines or {}).items())), shared_bytes)
        numbers = [
            value.data.ptr if parameter.is_array else value
            for parameter, value in zip(signature.parameters, check_arguments(signature, arguments), strict=True)
        ]
        start((*grid, 1, 1)[:3], (*block, 1, 1)[:3], shared_bytes, numbers)

    @cache  # noqa: B019  # a device lives as long as the process
    def _kernel(
        self, file: str, kernel: str, defines: tuple[tuple[str, Any], ...], shared_bytes: int
    ) -> tuple[Kernel, Launcher]:
        module, signatures = self._module(file, defines)
        function, signature = module.get_function(kernel), signatures[kernel]
        # What a block may have at most; more than a kernel of that file had before must be asked for.
        if shared_bytes > function.max_dynamic_shared_size_bytes:
            function.max_dynamic_shared_size_bytes = shared_bytes
        formats = [
            POINTER if parameter.is_array else FORMATS[parameter.dtype.type] for parameter in signature.parameters
        ]
        return signature, Launcher(self.xp, function.kernel.ptr, formats, module)

    @cache  # noqa: B019
    def _module(self, file: str, defines: tuple[tuple[str, Any], ...]) -> tuple[Any, dict[str, Kernel]]:
        text = read_source(KERNELS / f"{file}.cuh")
        options = ("-std=c++17", *(f"-D{name}={value}" for name, value in defines))
        module = self.xp.RawModule(code=source_for_gpu(text), options=options)
        return module, kernels_of(text, dict(defines))


def check_compilers() -> None:
    """Look for what compiles kernels on this machine; CuPy and numba-cuda would ask for it only when one is launched.

    Raises
    ------
    InputError
        If NVRTC, its headers, NVVM or nvJitLink is missing.
    """
    from cuda import pathfinder

    missing = []
    for name, library in (("NVRTC", "nvrtc"), ("NVVM", "nvvm"), ("nvJitLink", "nvJitLink")):
        try:
            pathfinder.load_nvidia_dynamic_lib(library)
        except (pathfinder.DynamicLibNotFoundError, RuntimeError, OSError):
            missing.append(name)
    # Those of the runtime: CuPy's own kernels include them.
    folder = pathfinder.find_nvidia_header_directory("cudart")
    if folder is None or not (Path(folder) / "cuda_fp16.h").is_file():
        missing.append("the CUDA runtime's headers")
    if missing:
        raise InputError(
            f"malade_gpu: {', '.join(missing)} not found, which compile kernels; install what is missing with: "
            f"pip install 'malade[gpu]' ({WITHOUT_GPU})"
        )


def source_for_gpu(text: str) -> str:
    """A kernel file with what NVRTC needs before it.

    Parameters
    ----------
    text : str
        The file's text.

    Returns
    -------
    str
        CUDA C++ without any include.
    """
    return f"{(KERNELS / 'prelude.cuh').read_text()}\n#line 1\n{text}"


def device() -> Device:
    """The device of this process, found at the first call.

    Returns
    -------
    Device
        The GPU, or the emulated device if the environment asks for it.
    """
    return _device(os.environ.get("MALADE_GPU_EMULATE", ""), os.environ.get(MEMORY, ""))


@cache
def _device(emulate: str, memory: str) -> Device:
    """The device under these settings, one object for each of them."""
    names = {"1": 90, **{f"sm_{capability}": capability for capability in CAPABILITIES}}
    if emulate in ("", "0"):
        return CudaDevice()
    if emulate not in names:
        raise InputError(f"MALADE_GPU_EMULATE: expected 0 or one of {', '.join(names)}; got {emulate!r}")
    return EmulatedDevice(names[emulate])


def memory_size(name: str, text: str) -> int:
    """Bytes from a text such as ``2GiB``.

    Parameters
    ----------
    name : str
        What to call it in the complaint.
    text : str
        A number, and a unit unless bytes are meant.

    Returns
    -------
    int
        At least 1.
    """
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) *([a-z]*)", text.strip().lower())
    size = int(float(match[1]) * UNITS[match[2]]) if match and match[2] in UNITS else 0
    if size < 1:
        raise InputError(f"{name}: expected bytes or for example 2GiB, got {text!r}")
    return size


def _memory_limit() -> int | None:
    """MALADE_DEVICE_MEMORY in bytes, if it is set."""
    setting = os.environ.get(MEMORY, "")
    return memory_size(MEMORY, setting) if setting else None


def _why_no_gpu(runtime: Any, error: Exception) -> str:
    """One line on why CUDA does not start."""
    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        return f"malade_gpu: no NVIDIA driver found ({WITHOUT_GPU})"
    if driver < needed:
        return (
            f"malade_gpu: the NVIDIA driver knows CUDA {_version(driver)}, CuPy needs {_version(needed)}: "
            f"update the driver, or install the CuPy made for it ({WITHOUT_GPU})"
        )
    return f"malade_gpu: no GPU found ({WITHOUT_GPU}); CUDA says: {error}"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """Version of NVIDIA's driver; CUDA's runtime tells only which CUDA it knows."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    match = re.search(r"NVRM version:.*?\s(\d+(?:\.\d+)+)\s", text)
    return match[1] if match else None
