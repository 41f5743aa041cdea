"""The emulated device: CUDA C++ kernels on a CPU, for machines without a GPU and for finding bugs.

`build` compiles a kernel file with g++ and loads it; `sanitize` runs a kernel under ThreadSanitizer or
AddressSanitizer. The C++ side is explained in ``cuda_cpu.cuh``.
Without a compiler they raise `InputError`.
"""

from .build import SCHEDULES, EmulatedLibrary, KernelError, Schedule, build
from .sanitize import sanitize

__all__ = ["SCHEDULES", "EmulatedLibrary", "KernelError", "Schedule", "build", "sanitize"]
