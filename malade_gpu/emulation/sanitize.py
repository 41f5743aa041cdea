"""Run a kernel under a sanitizer, in a process of its own, its threads being threads of the operating system."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from malade_ref.checks import check_choice

from ..source import check_arguments, check_launch, kernels_of
from .build import MAX_SHARED_BYTES, KernelError, argument_kind, compile_unit, three

# ThreadSanitizer finds races; AddressSanitizer finds accesses outside of arrays, static shared memory included, and
# UndefinedBehaviorSanitizer misaligned vectors, overflowing integers and the like.
SANITIZERS = {
    "thread": ("-fsanitize=thread",),
    "address": (
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fsanitize-sections=emulated_shared",
        "-fno-omit-frame-pointer",
    ),
}
TIME_LIMIT = 300  # seconds; a kernel that deadlocks would wait for ever


def sanitize(
    source: Path,
    name: str,
    grid: Sequence[int],
    block: Sequence[int],
    arguments: Sequence[Any],
    *,
    sanitizer: str,
    shared_bytes: int = 0,
    defines: Mapping[str, Any] | None = None,
    capability: int = 90,
) -> None:
    """Run a kernel under a sanitizer.

    Parameters
    ----------
    source : Path
        The CUDA C++ file.
    name : str
        Which of its kernels.
    grid, block : sequence of up to three int
        Blocks in the grid, threads in a block. Every thread costs: keep them few.
    arguments : sequence of ndarrays and numbers
        In the order of the kernel's parameters; arrays that are not ``const`` there are changed.
    sanitizer : {"thread", "address"}
        Which one; "address" is AddressSanitizer together with UndefinedBehaviorSanitizer.
    shared_bytes : int
        Dynamic shared memory of a block.
    defines : dict of str to object, optional
        Macros.
    capability : int
        Compute capability of the GPU to emulate, times ten.

    Raises
    ------
    InputError
        If there is no g++.
    KernelError
        If the sanitizer complains; the message holds the head of its report.
    """
    check_choice("sanitizer", sanitizer, tuple(SANITIZERS))
    source = Path(source).resolve()
    kernels = kernels_of(source.read_text(), defines or {})
    kernel = kernels[name]
    check_launch(name, grid, block, shared_bytes, MAX_SHARED_BYTES)
    checked = check_arguments(kernel, arguments)
    flags = ("-DEMULATION_THREADS", "-DEMULATION_SANITIZED", "-O1", *SANITIZERS[sanitizer])
    # One program for all kernels of the file: compiling it is what takes time.
    choices = " ".join(f"EMULATED_CHOICE({kernel})" for kernel in kernels)
    entry = f'#include "program.cuh"\nEMULATED_PROGRAM({choices})'
    program = compile_unit(source, entry, defines=defines or {}, capability=capability, flags=flags)
    request = struct.pack("<6IQI", *three(grid), *three(block), shared_bytes, len(checked))
    for parameter, value in zip(kernel.parameters, checked, strict=True):
        data = np.asarray(value).tobytes()
        request += struct.pack("<IQ", argument_kind(parameter), len(data)) + data
    options = {
        "TSAN_OPTIONS": "halt_on_error=1",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=0",
    }
    try:
        done = subprocess.run(
            [str(program), name],
            input=request,
            capture_output=True,
            timeout=TIME_LIMIT,
            env={**os.environ, **options},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KernelError(
            f"kernel {name} ({source.name}): no end after {TIME_LIMIT} s under {sanitizer} sanitizer"
        ) from None
    if done.returncode:
        report = "\n".join(line for line in done.stderr.decode(errors="replace").splitlines() if line.strip("= "))
        raise KernelError(f"kernel {name} ({source.name}): {sanitizer} sanitizer: {report[:3000]}")
    position = 0
    for parameter, value in zip(kernel.parameters, checked, strict=True):
        if parameter.is_array and not parameter.is_const:
            value[...] = np.frombuffer(done.stdout, value.dtype, value.size, position).reshape(value.shape)
            position += value.nbytes
