"""What the CUDA C++ kernels take of a GPU, by its compiler: needs CuPy and NVRTC, but neither a driver nor a GPU.

    python -m malade_gpu.resources                          every kernel, for every supported architecture
    python -m malade_gpu.resources --capability 90 --file conv --json resources.json

A line a kernel: threads of a block, registers of a thread, shared memory of a block, bytes of registers spilled to
memory, and how many blocks a multiprocessor holds at a time, with what limits their number. Exit code 1 if a kernel
spills or does not fit.

References
----------
.. [1] CUDA C++ Programming Guide, "Compute capabilities", technical specifications per compute capability; the rounding
   of registers and shared memory is that of CUDA's occupancy calculator.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from malade_ref.checks import InputError
from malade_ref.storage import atomic_write, one_line, to_json

from .device import CAPABILITIES, KERNELS, SHARED_BYTES, source_for_gpu
from .ops.chain import variants
from .ops.chain_half import CAPABILITY, residence, shared_bytes
from .ops.conv import NARROW_BYTES, TILES, tile_of
from .precision import PRECISIONS, TENSOR_CORES
from .source import read_source

WARP = 32
REGISTERS = 1 << 16  # of a multiprocessor, on every supported architecture
REGISTER_UNIT = 256  # registers that a warp gets at a time
WARP_UNIT = 4  # a multiprocessor has four parts, and a warp's registers lie in one


class Limits(NamedTuple):
    """What a multiprocessor has.

    Attributes
    ----------
    warps, blocks : int
        That it holds at a time, at most.
    shared_bytes : int
        Shared memory for all of its blocks.
    reserved : int
        Shared memory that each block takes beside its own.
    shared_unit : int
        Bytes that a block's shared memory is rounded up to.
    """

    warps: int
    blocks: int
    shared_bytes: int
    reserved: int
    shared_unit: int


LIMITS = {
    75: Limits(32, 16, 64 << 10, 0, 256),
    80: Limits(64, 32, 164 << 10, 1 << 10, 128),
    90: Limits(64, 32, 228 << 10, 1 << 10, 128),
}

ENTRY = re.compile(r"\.entry (?P<kernel>\w+)\([^)]*\)\s*(?:\.maxntid (?P<threads>\d+))?")
REPORT = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)'"
    r".*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?:[^\n]*?, (?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)


class Unit(NamedTuple):
    """One compilation of a kernel file, as the ops ask for it.

    Attributes
    ----------
    file : str
        In the folder ``kernels``, without its ending.
    defines : dict of str to object
        Macros.
    capability : int
        Compute capability times ten.
    shared_bytes : int
        Dynamic shared memory that a block is launched with.
    """

    file: str
    defines: dict[str, Any]
    capability: int
    shared_bytes: int = 0

    @property
    def text(self) -> str:
        """The file's text."""
        return read_source(KERNELS / f"{self.file}.cuh")


class Resources(NamedTuple):
    """What a kernel takes.

    Attributes
    ----------
    threads : int
        Of a block, at most: the kernel's launch bounds.
    registers : int
        Of a thread.
    shared : int
        Bytes of shared memory that a block declares.
    spilled : int
        Bytes of registers that are written to memory and read back.
    """

    threads: int
    registers: int
    shared: int
    spilled: int


class Occupancy(NamedTuple):
    """How many blocks a multiprocessor holds.

    Attributes
    ----------
    blocks : int
        At a time.
    fraction : float
        Of the warps that it could hold.
    limited_by : str
        "registers", "shared memory", "warps" or "blocks".
    """

    blocks: int
    fraction: float
    limited_by: str


class Compiled(NamedTuple):
    """What NVRTC made of a unit.

    Attributes
    ----------
    ptx : str
        Intermediate code.
    machine_code : bytes
        An ELF file, as NVIDIA's nvdisasm reads it.
    kernels : dict of str to Resources
        What each kernel takes.
    """

    ptx: str
    machine_code: bytes
    kernels: dict[str, Resources]


def units() -> Iterator[Unit]:
    """Every kernel file as the ops compile it, for every supported capability.

    Yields
    ------
    Unit
        One compilation.
    """
    for capability in CAPABILITIES:
        for file in ("rows", "channels", "groups", "softmax"):
            yield from (Unit(file, {"REAL": real}, capability) for real in ("float", "double"))
        for variant in variants(SHARED_BYTES[capability]):
            defines = {"IMAGES": variant.images, "RESIDENT": int(variant.resident)}
            yield Unit("chain", defines, capability, variant.shared_bytes)
        resident = residence(SHARED_BYTES[capability])
        if capability >= CAPABILITY and resident is not None:
            yield Unit("chain_half", {"RESIDENT": int(resident)}, capability, shared_bytes(resident))
        for real, vector in (("float", 1), ("float", 4), ("double", 1)):
            yield Unit("narrow", {"REAL": real, "VECTOR": vector}, capability, NARROW_BYTES)
        for name in PRECISIONS if capability >= TENSOR_CORES else PRECISIONS[:1]:
            for width, vectors in product(TILES[name], ((1, 1), (4, 4))):
                tile = tile_of("float32", name, width, vectors)
                yield Unit("conv", tile.defines, capability, tile.shared_bytes)
        for width in TILES["fp32"]:
            tile = tile_of("float64", "fp32", width, (1, 1))
            yield Unit("conv", tile.defines, capability, tile.shared_bytes)


def compile_text(text: str, defines: Mapping[str, Any], capability: int) -> Compiled:
    """Compile CUDA C++ for a real GPU.

    Parameters
    ----------
    text : str
        A kernel file's text.
    defines : dict of str to object
        Macros.
    capability : int
        Compute capability times ten.

    Returns
    -------
    Compiled
        The code, and what its kernels take.

    Raises
    ------
    InputError
        If there is no CuPy or no NVRTC.
    RuntimeError
        If the text does not compile without a warning; the message holds the compiler's words.
    """
    nvrtc = _nvrtc()
    macros = (f"-D{name}={value}" for name, value in defines.items())
    options = ("-std=c++17", f"-arch=sm_{capability}", "--ptxas-options=-v", *macros)
    program = nvrtc.createProgram(source_for_gpu(text), "kernel.cu", (), ())
    try:
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError:
            raise RuntimeError(f"NVRTC: {nvrtc.getProgramLog(program)}") from None
        log, ptx = nvrtc.getProgramLog(program), nvrtc.getPTX(program)
        machine_code = nvrtc.getCUBIN(program) + b"\0"  # CuPy leaves out the last byte
    finally:
        nvrtc.destroyProgram(program)
    if "warning" in log:
        raise RuntimeError(f"NVRTC: {log}")
    code = ptx.decode() if isinstance(ptx, bytes) else str(ptx)
    threads = {match["kernel"]: int(match["threads"] or 1024) for match in ENTRY.finditer(code)}
    kernels = {
        match["kernel"]: Resources(
            threads[match["kernel"]],
            int(match["registers"]),
            int(match["shared"] or 0),
            int(match["stores"]) + int(match["loads"]),
        )
        for match in REPORT.finditer(log)
    }
    return Compiled(code, machine_code, kernels)


def occupancy(taken: Resources, capability: int, *, shared_bytes: int = 0) -> Occupancy:
    """Blocks of a kernel that a multiprocessor holds at a time.

    Parameters
    ----------
    taken : Resources
        What the kernel takes.
    capability : int
        Compute capability times ten, one of `LIMITS`.
    shared_bytes : int
        Dynamic shared memory of a block, beside what it declares.

    Returns
    -------
    Occupancy
        Their number, and what limits it.
    """
    limits = LIMITS[capability]
    warps = -(-taken.threads // WARP)
    of_warp = _rounded_up(max(1, taken.registers) * WARP, REGISTER_UNIT)
    shared = _rounded_up(taken.shared + shared_bytes + limits.reserved, limits.shared_unit)
    allowed = {
        "warps": limits.warps // warps,
        "blocks": limits.blocks,
        "registers": REGISTERS // of_warp // WARP_UNIT * WARP_UNIT // warps,
        "shared memory": limits.shared_bytes // shared if shared else limits.blocks,
    }
    if taken.shared + shared_bytes > SHARED_BYTES[capability]:
        allowed["shared memory"] = 0
    limited_by = min(allowed, key=lambda name: allowed[name])
    return Occupancy(allowed[limited_by], allowed[limited_by] * warps / limits.warps, limited_by)


def report(chosen: Sequence[Unit]) -> Iterator[dict[str, Any]]:
    """Compile units and tell what each of their kernels takes.

    Parameters
    ----------
    chosen : sequence of Unit
        What to compile.

    Yields
    ------
    dict
        A kernel: "file", "defines", "capability", "kernel", and the fields of `Resources` and `Occupancy`.

    Raises
    ------
    InputError
        If there is no CuPy or no NVRTC.
    RuntimeError
        If a file does not compile.
    """
    for unit in chosen:
        for kernel, taken in compile_text(unit.text, unit.defines, unit.capability).kernels.items():
            held = occupancy(taken, unit.capability, shared_bytes=unit.shared_bytes)
            whole = taken._replace(shared=taken.shared + unit.shared_bytes)
            where = {"file": unit.file, "defines": unit.defines, "capability": unit.capability, "kernel": kernel}
            yield {**where, **whole._asdict(), **held._asdict()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line's, by default.

    Returns
    -------
    int
        0; 1 if a kernel spills or does not fit; 2 if there is no compiler.
    """
    parser = argparse.ArgumentParser(
        prog="python -m malade_gpu.resources", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--capability", type=int, action="append", choices=CAPABILITIES, help="only this one; repeat")
    files = sorted({unit.file for unit in units()})
    parser.add_argument("--file", action="append", choices=files, help="only this one; repeat")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    options = parser.parse_args(arguments)
    chosen = [
        unit
        for unit in units()
        if unit.capability in (options.capability or CAPABILITIES) and unit.file in (options.file or files)
    ]
    kernels = []
    try:
        print(f"{'arch':<6}{'kernel':<30}{'macros':<22}threads  regs  shared  spilled  blocks/SM")
        for kernel in report(chosen):
            kernels.append(kernel)
            print(_row(kernel), flush=True)
        if options.json is not None:
            atomic_write(options.json, to_json("resources", {"format": "malade-resources", "kernels": kernels}))
    except (InputError, RuntimeError) as error:
        print(f"resources: error: {error}", file=sys.stderr)
        return 2
    bad = [kernel for kernel in kernels if kernel["spilled"] or not kernel["blocks"]]
    print(f"{len(kernels)} kernels in {len(chosen)} compilations; {len(bad)} spill registers or do not fit")
    return 1 if bad else 0


def _row(kernel: Mapping[str, Any]) -> str:
    name = f"{kernel['file']}.{kernel['kernel']}"
    macros = " ".join(map(str, kernel["defines"].values()))
    return (
        f"sm_{kernel['capability']:<3}{name:<30}{macros:<22}{kernel['threads']:7}{kernel['registers']:6}"
        f"{kernel['shared']:8}{kernel['spilled']:9}{kernel['blocks']:5} ({kernel['fraction']:.0%}, "
        f"{kernel['limited_by']})"
    )


def _rounded_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _nvrtc() -> Any:
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"malade_gpu: compiling for a GPU needs CuPy and NVRTC ({one_line(error)}); install them with: "
            "pip install cupy-cuda13x nvidia-cuda-nvrtc"
        ) from None
    return nvrtc


if __name__ == "__main__":
    sys.exit(main())
