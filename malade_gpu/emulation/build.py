"""Compile a CUDA C++ file for the emulated device, load it, and launch its kernels.

A library is compiled once for each content of the file, of the emulation's headers, of the macros and of the compiler's
version, and is kept in a folder: ``MALADE_CACHE`` if set, else ``malade`` in the user's cache folder.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from malade_ref.checks import InputError

from ..source import Kernel, Parameter, check_arguments, check_launch, kernels_of, read_source

HEADERS = Path(__file__).parent
# Contraction off: a product and a sum are rounded separately, as NumPy does it. Everything hidden: two loaded libraries
# must not share the emulation's variables.
FLAGS = (
    *("-std=c++20", "-O2", "-g1", "-ffp-contract=off", "-fno-math-errno", "-U_FORTIFY_SOURCE"),
    *("-fvisibility=hidden", "-fno-gnu-unique", "-Wl,-z,start-stop-visibility=hidden", "-Wl,-Bsymbolic"),
    *(
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-Wno-sign-compare",
        "-Wno-unused-parameter",
        f"-I{HEADERS}",
    ),
)
ORDERS = {"forward": 0, "reverse": 1, "random": 2}
MAX_SHARED_BYTES = 227 * 1024  # of a block on compute capability 9.0


class KernelError(RuntimeError):
    """A kernel did what a GPU would not forgive; the message names the kernel, the line and the thread."""


class Schedule(NamedTuple):
    """In which order the threads of a block and the blocks of a grid run.

    Attributes
    ----------
    order : {"forward", "reverse", "random"}
        Which comes first.
    seed : int
        Of the random order.
    """

    order: str = "forward"
    seed: int = 0


SCHEDULES = (Schedule("forward"), Schedule("reverse"), Schedule("random", 1), Schedule("random", 2))


class EmulatedLibrary:
    """A compiled file of kernels.

    Parameters
    ----------
    source : Path
        The CUDA C++ file.
    path : Path
        The shared library made of it.
    kernels : dict of str to Kernel
        What it contains.
    """

    def __init__(self, source: Path, path: Path, kernels: dict[str, Kernel]) -> None:
        self.source = source
        self.path = path
        self.kernels = kernels
        self._library = ctypes.CDLL(str(path))

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        *,
        shared_bytes: int = 0,
        schedule: Schedule = SCHEDULES[0],
        max_shared: int = MAX_SHARED_BYTES,
    ) -> None:
        """Run a kernel to its end.

        Parameters
        ----------
        name : str
            Which one.
        grid, block : sequence of up to three int
            Blocks in the grid, threads in a block.
        arguments : sequence of ndarrays and numbers
            In the order of the kernel's parameters; arrays that are not ``const`` there are changed.
        shared_bytes : int
            Dynamic shared memory of a block.
        schedule : Schedule
            In which order threads and blocks run.
        max_shared : int
            Shared memory that a block may have.

        Raises
        ------
        KernelError
            If the kernel deadlocks, diverges at a barrier, or leaves the memory it was given.
        """
        kernel = self.kernels[name]
        check_launch(name, grid, block, shared_bytes, max_shared)
        packed, alive = _pack(kernel, check_arguments(kernel, arguments))
        request = _Request(
            grid=(ctypes.c_uint32 * 3)(*three(grid)),
            block=(ctypes.c_uint32 * 3)(*three(block)),
            shared_bytes=shared_bytes,
            order=ORDERS[schedule.order],
            seed=schedule.seed,
            num_arguments=len(packed),
            arguments=packed,
        )
        report = _Report()
        with _one_at_a_time:
            failed = self._library[f"emulation_launch_{name}"](ctypes.byref(request), ctypes.byref(report))
        del alive
        if failed:
            where = _line_of(self.path, self.source, report.instruction) if report.instruction else self.source.name
            raise KernelError(f"kernel {name} ({where}): {report.message.decode(errors='replace')}")


def build(source: Path, *, defines: Mapping[str, Any] | None = None, capability: int = 90) -> EmulatedLibrary:
    """Compile a CUDA C++ file and load it; what was compiled before is taken from the cache.

    Parameters
    ----------
    source : Path
        The file.
    defines : dict of str to object, optional
        Macros.
    capability : int
        Compute capability of the GPU to emulate, times ten: 75, 80 or 90.

    Returns
    -------
    EmulatedLibrary
        Its kernels, ready to be launched.

    Raises
    ------
    InputError
        If there is no g++.
    RuntimeError
        If the file does not compile; the message holds the compiler's first complaints.
    """
    defines = dict(defines or {})
    return _loaded(Path(source).resolve(), tuple(sorted(defines.items())), capability, _content(Path(source), HEADERS))


def compile_unit(
    source: Path, entry: str, *, defines: Mapping[str, Any], capability: int, flags: Sequence[str]
) -> Path:
    """Compile a file, with an entry appended, unless the cache has it already.

    Parameters
    ----------
    source : Path
        The CUDA C++ file.
    entry : str
        C++ that makes its kernels callable.
    defines : dict of str to object
        Macros.
    capability : int
        Compute capability times ten.
    flags : sequence of str
        For g++, beside the usual ones.

    Returns
    -------
    Path
        The library or program.

    Raises
    ------
    InputError
        If there is no g++.
    RuntimeError
        If it does not compile.
    """
    macros = [f"-D{name}={value}" for name, value in sorted({**defines, "__CUDA_ARCH__": capability * 10}.items())]
    text = f'#include "cuda_cpu.cuh"\n#include "{source}"\n{entry}\n'
    command = [*_compiler(), *FLAGS, *flags, *macros]
    identity = "\0".join([*command, text, _content(source, HEADERS)])
    target = cache_folder() / f"{source.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:20]}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        unit, fresh = Path(folder, "unit.cpp"), Path(folder, "result")
        unit.write_text(text)
        made = subprocess.run([*command, str(unit), "-o", str(fresh)], capture_output=True, text=True)
        if made.returncode:
            complaints = "\n".join(made.stderr.splitlines()[:20])
            raise RuntimeError(f"{source.name}: g++ cannot compile it for the emulated device:\n{complaints}")
        os.replace(fresh, target)
    return target


def compiler_version() -> str:
    """Which g++ compiles the kernels.

    Returns
    -------
    str
        Version and target.

    Raises
    ------
    InputError
        If there is no g++.
    """
    return _compiler()[1].partition("=")[2]


def three(sizes: Sequence[int]) -> tuple[int, ...]:
    """Sizes along x, y and z.

    Parameters
    ----------
    sizes : sequence of one to three int
        What was given.

    Returns
    -------
    tuple of three int
        Completed by ones.
    """
    return (*sizes, 1, 1)[:3]


def argument_kind(parameter: Parameter) -> int:
    """EmulationArgumentKind of a parameter.

    Parameters
    ----------
    parameter : Parameter
        Of a kernel.

    Returns
    -------
    int
        0 for a value, 1 for an input, 2 for an output.
    """
    return (1 if parameter.is_const else 2) if parameter.is_array else 0


@lru_cache(maxsize=1)
def cache_folder() -> Path:
    """Where compiled kernels are kept; a folder for this process alone if none can be written.

    Returns
    -------
    Path
        An existing folder.
    """
    root = os.environ.get("MALADE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "malade")
    folder = Path(root, "emulation")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        private = Path(tempfile.mkdtemp(prefix="malade-"))
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        return private


class _Argument(ctypes.Structure):
    """EmulationArgument of launch.cuh."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("kind", ctypes.c_int32),
        ("name", ctypes.c_char_p),
    )


class _Request(ctypes.Structure):
    """EmulationRequest of launch.cuh."""

    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("order", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        ("num_arguments", ctypes.c_int32),
        ("arguments", ctypes.POINTER(_Argument)),
    )


class _Report(ctypes.Structure):
    """EmulationReport of launch.cuh."""

    _fields_ = (("message", ctypes.c_char * 2048), ("instruction", ctypes.c_uint64))


# A library has one block and one set of threads.
_one_at_a_time = threading.Lock()


@cache
def _loaded(source: Path, defines: tuple[tuple[str, Any], ...], capability: int, content: str) -> EmulatedLibrary:
    kernels = kernels_of(source.read_text(), dict(defines))
    entry = "\n".join(f"EMULATED_KERNEL({name})" for name in kernels)
    path = compile_unit(source, entry, defines=dict(defines), capability=capability, flags=("-fPIC", "-shared"))
    return EmulatedLibrary(source, path, kernels)


def _content(source: Path, headers: Path) -> str:
    """Hash of a file, of what it includes, and of the emulation's headers."""
    digest = hashlib.sha256(read_source(source).encode())
    for path in sorted(headers.glob("*.cuh")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _pack(kernel: Kernel, arguments: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Arguments as the C structures, and what must stay alive as long as they do."""
    packed = (_Argument * max(1, len(arguments)))()
    alive = []
    for slot, parameter, value in zip(packed, kernel.parameters, arguments, strict=False):
        array = value if parameter.is_array else np.array(value)
        alive.append(array)
        slot.data, slot.bytes = array.ctypes.data, array.nbytes
        slot.kind, slot.name = argument_kind(parameter), parameter.name.encode()
    return packed, alive


@lru_cache(maxsize=1)
def _compiler() -> tuple[str, ...]:
    """g++ and a macro that tells its version, so that another compiler means another library."""
    program = shutil.which(os.environ.get("CXX", "g++"))
    if program is None:
        raise InputError(
            "g++: not found; the emulated device compiles its kernels with it (Debian: apt-get install g++)"
        )
    version = subprocess.run([program, "-dumpfullversion", "-dumpmachine"], capture_output=True, text=True, check=True)
    return program, f"-DEMULATION_COMPILER={'-'.join(version.stdout.split())}"


def _line_of(library: Path, source: Path, instruction: int) -> str:
    """File and line of an instruction, the innermost place within the kernel's file."""
    program = shutil.which("addr2line")
    if program is None:
        return f"{source.name}, line unknown without addr2line"
    command = [program, "-i", "-e", str(library), hex(instruction)]
    places = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\n")
    own = [place.split(" ")[0] for place in places if place.startswith(str(source))]
    return f"{source.name}:{own[0].rpartition(':')[2]}" if own else source.name
