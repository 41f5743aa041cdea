"""Launches of compiled kernels on a GPU at little cost to the host.

An attack launches a dozen short kernels a step, so the host's part of a launch counts: Numba takes 170 microseconds
for it, CuPy half a microsecond for each argument, and an array is seven arguments of a kernel of Numba. A `Launcher`
knows its kernel's parameters: one call packs all arguments, one starts the kernel.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from malade_ref.checks import InputError

SLOT = 8  # bytes; the largest argument
FORMATS: dict[Any, str] = {
    np.bool_: "?",
    np.int8: "b",
    np.int16: "h",
    np.int32: "i",
    np.int64: "q",
    np.uint8: "B",
    np.uint16: "H",
    np.uint32: "I",
    np.uint64: "Q",
    np.float32: "f",
    np.float64: "d",
    bool: "?",
    int: "q",
    float: "d",
}
POINTER = "Q"


class Launcher:
    """A compiled kernel, ready to be launched.

    Parameters
    ----------
    cupy : module
        CuPy.
    function : int
        The kernel's handle in CUDA.
    formats : sequence of str
        Format of each argument, as in the module `struct`.
    module : object
        What the kernel was loaded with; it lives as long as this.
    """

    def __init__(self, cupy: Any, function: int, formats: Sequence[str], module: Any) -> None:
        self._launch = cupy.cuda.driver.launchKernel
        self._stream = cupy.cuda.get_current_stream
        self._function, self._module = function, module
        padded = (f"{one}{SLOT - struct.calcsize('<' + one)}x" for one in formats)
        self._pack_into = struct.Struct("<" + "".join(padded)).pack_into
        count = max(1, len(formats))
        self._memory = (ctypes.c_uint64 * count)()
        first = ctypes.addressof(self._memory)
        self._places = (ctypes.c_void_p * count)(*range(first, first + SLOT * count, SLOT))
        self._address = ctypes.addressof(self._places)
        self._lock = threading.Lock()

    def __call__(self, grid: Sequence[int], block: Sequence[int], shared_bytes: int, numbers: Iterable[Any]) -> None:
        """Launch on CuPy's current stream.

        Parameters
        ----------
        grid, block : sequence of three int
            Blocks in the grid, threads in a block.
        shared_bytes : int
            Dynamic shared memory of a block.
        numbers : iterable of numbers
            The arguments; of an array, its address.
        """
        stream = self._stream().ptr
        # CUDA copies the arguments before it returns.
        with self._lock:
            self._pack_into(self._memory, 0, *numbers)
            self._launch(self._function, *grid, *block, shared_bytes, stream, self._address, 0)


def element_launcher(cupy: Any, dispatcher: Any, signature: Sequence[Any]) -> Launcher:
    """Compile a kernel by Numba and load it by CuPy.

    Parameters
    ----------
    cupy : module
        CuPy.
    dispatcher : numba.cuda dispatcher
        As `elements.gpu_kernel` makes it.
    signature : sequence
        Of each argument after the count: (dtype, number of dimensions) of an array, or the type of a number.

    Returns
    -------
    Launcher
        Takes the count, and of each argument `element_numbers`.

    Raises
    ------
    InputError
        If NVVM, nvJitLink or the driver refuses.
    TypeError
        If an argument is neither an array nor a number: a mistake of the caller, not of the user.
    """
    from numba import types
    from numba.core.errors import NumbaError
    from numba.np import numpy_support

    types_of, formats = [types.int64], [FORMATS[int]]
    for one in signature:
        if isinstance(one, tuple):
            dtype, ndim = one
            types_of.append(types.Array(numpy_support.from_dtype(dtype), ndim, "C"))
            # Numba's array: two pointers that it leaves alone, sizes, address, shape, strides.
            formats += [POINTER, POINTER, "q", "q", POINTER, *("q" * (2 * ndim))]
        elif one in FORMATS:
            types_of.append(numpy_support.from_dtype(np.dtype(one)))
            formats.append(FORMATS[one])
        else:
            raise TypeError(f"a kernel takes arrays of the device and numbers, got {one.__name__}")
    try:
        kernel = dispatcher.compile(tuple(types_of))
    except NumbaError:
        raise
    except Exception as error:  # of NVVM, nvJitLink or the driver; each has types of its own
        reason = " ".join(str(error).split())[-300:]
        raise InputError(
            f"malade_gpu: Numba cannot compile for this GPU ({type(error).__name__}: {reason}); reinstall its "
            "compilers with: pip install 'malade[gpu]', or update the driver"
        ) from error
    module = cupy.cuda.function.Module()
    code = kernel.library.get_cubin()
    module.load(bytes(getattr(code, "code", code)))
    return Launcher(cupy, module.get_function(kernel.entry_name).ptr, formats, module)


def element_numbers(array: Any) -> tuple[int, ...]:
    """An array as a kernel of Numba takes it.

    Parameters
    ----------
    array : array
        Of CuPy, contiguous.

    Returns
    -------
    tuple of int
        As many as `element_launcher` has formats for it.

    Raises
    ------
    TypeError
        If it is not contiguous: a mistake of the caller, not of the user.
    """
    if not array.flags.c_contiguous:
        raise TypeError(f"a kernel takes contiguous arrays, got strides {array.strides} for {array.shape}")
    return (0, 0, array.size, array.itemsize, array.data.ptr, *array.shape, *array.strides)
