"""What a CUDA C++ file says about its kernels: their names and parameters.

The ``.cuh`` file is the only place where a kernel's parameters are written down; launches are checked against it, on
the GPU and on the emulated device alike, so that a float64 array or a strided view never reaches a ``float*``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from malade_ref.checks import InputError

# Types that a parameter may have, beside pointers to them.
DTYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "int": np.dtype(np.int32),
    "unsigned": np.dtype(np.uint32),
    "uint32_t": np.dtype(np.uint32),
    "int64_t": np.dtype(np.int64),
    "uint64_t": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
    "uint8_t": np.dtype(np.uint8),
}
RANGES = {
    dtype: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) for dtype in DTYPES.values() if dtype.kind in "iu"
}

KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)')
PARAMETER = re.compile(r"(const\s+)?(\w+)\s*(\*?)\s*(?:__restrict__\s+)?(\w+)")


class Parameter(NamedTuple):
    """A parameter of a kernel.

    Attributes
    ----------
    name : str
        Its name.
    dtype : numpy.dtype
        Of the value, or of the array's elements.
    is_array : bool
        Whether it is a pointer.
    is_const : bool
        Whether the kernel only reads it.
    """

    name: str
    dtype: np.dtype[Any]
    is_array: bool
    is_const: bool


class Kernel(NamedTuple):
    """A kernel of a file.

    Attributes
    ----------
    name : str
        Its name.
    parameters : tuple of Parameter
        What it takes.
    """

    name: str
    parameters: tuple[Parameter, ...]


INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


def read_source(path: Path) -> str:
    """Text of a kernel file, with what it includes in the place of the inclusion.

    Parameters
    ----------
    path : Path
        The file; what it includes lies beside it.

    Returns
    -------
    str
        CUDA C++ without any include. Numbers of lines are as in the files.
    """
    text = path.read_text()

    def included(match: re.Match[str]) -> str:
        line = text.count("\n", 0, match.start()) + 1
        return f"#line 1\n{read_source(path.parent / match[1])}#line {line + 1}"

    return INCLUDE.sub(included, text)


def kernels_of(text: str, defines: Mapping[str, Any]) -> dict[str, Kernel]:
    """Find the kernels of a source text.

    Parameters
    ----------
    text : str
        CUDA C++.
    defines : dict of str to object
        Macros with which it is compiled; a parameter's type may be one.

    Raises
    ------
    ValueError
        If a parameter has a type that launches do not know.
    """
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
    return {
        name: Kernel(name, tuple(_parameter(name, part, defines) for part in parameters.split(",") if part.strip()))
        for name, parameters in KERNEL.findall(text)
    }


def check_arguments(kernel: Kernel, arguments: Sequence[Any]) -> list[Any]:
    """Check a launch's arguments against the kernel's parameters.

    Parameters
    ----------
    kernel : Kernel
        What is launched.
    arguments : sequence of arrays and numbers
        In the order of the parameters. Arrays are contiguous, in C's order.

    Returns
    -------
    list of arrays and NumPy scalars
        The arguments, numbers converted to the parameters' types.

    Raises
    ------
    TypeError
        If number, type or layout of the arguments is wrong: a mistake of the caller, not of the user.
    """
    if len(arguments) != len(kernel.parameters):
        raise TypeError(f"{kernel.name}: expected {len(kernel.parameters)} arguments, got {len(arguments)}")
    return [_checked(kernel, parameter, value) for parameter, value in zip(kernel.parameters, arguments, strict=True)]


def check_launch(kernel: str, grid: Sequence[int], block: Sequence[int], shared_bytes: int, max_shared: int) -> None:
    """Check a launch's sizes against what every supported GPU allows.

    Parameters
    ----------
    kernel : str
        What is launched.
    grid, block : sequence of up to three int
        Blocks in the grid, threads in a block.
    shared_bytes : int
        Dynamic shared memory of a block.
    max_shared : int
        What the device has for a block.

    Raises
    ------
    InputError
        If the device has less shared memory than needed.
    TypeError
        If a size is impossible on any GPU.
    """
    if not (1 <= len(grid) <= 3 and 1 <= len(block) <= 3 and min(*grid, *block) >= 1):
        raise TypeError(f"{kernel}: impossible grid {tuple(grid)} of blocks {tuple(block)}")
    if math.prod(block) > 1024 or (len(block) == 3 and block[2] > 64):
        raise TypeError(f"{kernel}: a block has at most 1024 threads, got {tuple(block)}")
    if grid[0] >= 1 << 31 or any(size >= 1 << 16 for size in grid[1:]):
        raise TypeError(f"{kernel}: a grid has at most 2**31 - 1 blocks along x and 65535 along y and z, got {grid}")
    if shared_bytes > max_shared:
        raise InputError(
            f"{kernel}: needs {shared_bytes} bytes of shared memory, this device has {max_shared}; use another GPU"
        )


def _parameter(kernel: str, text: str, defines: Mapping[str, Any]) -> Parameter:
    match = PARAMETER.fullmatch(text.strip())
    ctype = str(defines.get(match[2], match[2])) if match else ""
    if not match or ctype not in DTYPES:
        raise ValueError(f"{kernel}: cannot read parameter {text.strip()!r}")
    return Parameter(match[4], DTYPES[ctype], bool(match[3]), bool(match[1]))


def _checked(kernel: Kernel, parameter: Parameter, value: Any) -> Any:
    if parameter.is_array:
        dtype = getattr(value, "dtype", None)
        # Most often it is the same object, which is quicker to see.
        if (dtype is not parameter.dtype and dtype != parameter.dtype) or not hasattr(value, "flags"):
            found = getattr(value, "dtype", value)
            raise TypeError(f"{_where(kernel, parameter)}: expected an array of {parameter.dtype}, got {found!r}")
        if not value.flags.c_contiguous:
            found = f"strides {value.strides} for {value.shape}"
            raise TypeError(f"{_where(kernel, parameter)}: expected a contiguous array, got {found}")
        return value
    if hasattr(value, "shape") and value.shape != ():
        raise TypeError(f"{_where(kernel, parameter)}: expected one number, got an array of shape {value.shape}")
    if parameter.dtype in RANGES:
        lowest, highest = RANGES[parameter.dtype]
        if not hasattr(value, "__index__") or not lowest <= value.__index__() <= highest:
            raise TypeError(f"{_where(kernel, parameter)}: expected an integer in {lowest}..{highest}, got {value!r}")
    return parameter.dtype.type(value)


def _where(kernel: Kernel, parameter: Parameter) -> str:
    return f"{kernel.name}: argument {parameter.name}"
