"""Kernels that are a body per element: written once, compiled by Numba for the GPU or for the emulated device.

A *body* is a function of (i, arrays and numbers...) that computes element i of its outputs and touches no other:

    @element
    def scaled(i, out, x, factor):
        out[i] = factor * x[i]

On a GPU thread i calls it; on the emulated device a loop does. Both compilers type it by the same rules, so what is
float32 on one is float32 on the other. Literals are to be written ``float32(2.5)``: a plain 2.5 is a float64, and
would make everything it touches one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from malade_ref.checks import InputError

try:
    import numba
except ImportError:
    raise InputError("malade_gpu: Numba is not installed; install it with: pip install 'malade[gpu]'") from None


def element(body: Callable[..., Any]) -> Any:
    """Decorate a body, or a function that bodies call.

    Parameters
    ----------
    body : function
        Of numbers and arrays, in the part of Python that Numba compiles.

    Returns
    -------
    numba dispatcher
        Callable from either compiler's kernels.
    """
    # Division by zero gives infinity or NaN, as on a GPU, and not an exception.
    return numba.njit(error_model="numpy")(body)


ON_GPU = """
def kernel(count, {arguments}):
    i = grid(1)
    if i < count:
        body(i, {arguments})
"""
ON_CPU = """
def kernel(count, {arguments}):
    for i in range(count):
        body(i, {arguments})
"""


def gpu_function(body: Any) -> Callable[..., None]:
    """The kernel around a body, for `numba.cuda.jit`.

    Parameters
    ----------
    body : function decorated with `element`
        What is done for element i.

    Returns
    -------
    function
        Of (count, arrays and numbers...).
    """
    from numba import cuda

    return _function(ON_GPU, body, grid=cuda.grid)


@cache
def gpu_kernel(body: Any) -> Any:
    """The kernel around a body, compiled for the GPU when it is first launched.

    Parameters
    ----------
    body : function decorated with `element`
        What is done for element i.

    Returns
    -------
    numba.cuda dispatcher
        To be launched with (count, arrays and numbers...).
    """
    from numba import cuda

    return cuda.jit(gpu_function(body))


@cache
def cpu_kernel(body: Any) -> Any:
    """The loop around a body, compiled for the CPU when it is first called.

    Parameters
    ----------
    body : function decorated with `element`
        What is done for element i.

    Returns
    -------
    numba dispatcher
        To be called with (count, arrays and numbers...).
    """
    return numba.njit(error_model="numpy")(_function(ON_CPU, body))


def _function(template: str, body: Any, **names: Any) -> Callable[..., None]:
    """The template's function, with the body's own parameters: Numba's kernels take no ``*args``."""
    arguments = ", ".join(list(inspect.signature(body.py_func).parameters)[1:])
    scope = {"body": body, **names}
    exec(template.format(arguments=arguments), scope)
    kernel: Callable[..., None] = scope["kernel"]
    return kernel
