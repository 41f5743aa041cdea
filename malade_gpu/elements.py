"""Kernels that are a body per element: written once, compiled by Numba for the GPU or for the emulated device.

A *body* is a function of (i, arrays and numbers...) that computes element i of its outputs and touches no other:

    @element
    def scaled(i, out, x, factor):
        out[i] = factor * x[i]

On a GPU thread i calls it; on the emulated device a loop does. Both compilers type it by the same rules, so what is
float32 on one is float32 on the other. Literals are to be written ``float32(2.5)``: a plain 2.5 is a float64, and
would make everything it touches one.

A body that needs a few numbers of its own, more than it has names for, declares them as *scratch*: its last parameters
are then small arrays that belong to element i alone, of a length known to the compiler, so that a GPU can keep them in
registers. They hold NaN, or nothing in particular, until the body writes to them:

    @element_with(z=(4, float32))
    def whitened(i, out, x, z):
        ...
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy

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


def element_with(**scratch: tuple[int, Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a body whose last parameters are scratch arrays.

    Parameters
    ----------
    **scratch : tuple of int and Numba type
        Length and type of each scratch array, by the parameter's name.

    Returns
    -------
    callable
        The decorator, like `element`.
    """

    def decorate(body: Callable[..., Any]) -> Any:
        dispatcher = element(body)
        dispatcher.py_func.scratch = scratch
        return dispatcher

    return decorate


ON_GPU = """
def kernel(count, {arguments}):
    i = cuda.grid(1)
    if i < count:
        {allocate}
        body(i, {everything})
"""
ON_CPU = """
def kernel(count, {arguments}):
    {allocate}
    for i in range(count):
        {poison}
        body(i, {everything})
"""
ALLOCATE_ON_GPU = "{name} = cuda.local.array({name}_length, {name}_type)"
ALLOCATE_ON_CPU = "{name} = numpy.empty({name}_length, {name}_type)"
POISON = "{name}[:] = nan"


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

    return _function(ON_GPU, body, ALLOCATE_ON_GPU, cuda=cuda)


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
    return numba.njit(error_model="numpy")(_function(ON_CPU, body, ALLOCATE_ON_CPU, numpy=numpy, nan=math.nan))


def _function(template: str, body: Any, allocate: str, **names: Any) -> Callable[..., None]:
    """The template's function, with the body's own parameters: Numba's kernels take no ``*args``."""
    scratch: dict[str, tuple[int, Any]] = getattr(body.py_func, "scratch", {})
    everything = list(inspect.signature(body.py_func).parameters)[1:]
    arguments = [name for name in everything if name not in scratch]

    def lines(statement: str) -> str:
        return "; ".join(statement.format(name=name) for name in scratch) or "pass"

    scope = {"body": body, **names}
    for name, (length, type_) in scratch.items():
        scope |= {f"{name}_length": length, f"{name}_type": type_}
    text = template.format(
        arguments=", ".join(arguments),
        everything=", ".join(everything),
        allocate=lines(allocate),
        poison=lines(POISON),
    )
    exec(text, scope)
    kernel: Callable[..., None] = scope["kernel"]
    return kernel
