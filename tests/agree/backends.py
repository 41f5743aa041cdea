"""The two backends side by side: the same call to both, and the comparison of what comes back."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")

# On a machine with a GPU these tests use it; elsewhere the emulated device.
if "MALADE_GPU_EMULATE" not in os.environ:
    try:
        from malade_gpu.device import CudaDevice

        CudaDevice()
    except ValueError:
        os.environ["MALADE_GPU_EMULATE"] = "1"

from malade_gpu import ops as gpu  # the device is chosen when it is first asked for
from malade_gpu.device import device
from malade_ref import ops as ref
from malade_ref.checks import InputError
from tests.tolerances import assert_close, assert_no_alias, assert_not_mutated

__all__ = ["agree", "complain_alike", "device", "gpu", "on_device", "ref", "to_device"]


def to_device(value: Any) -> Any:
    """An array on the device, in the memory order that it has on the host; anything else as it is."""
    if not isinstance(value, np.ndarray) or device().emulated:
        return value
    order = sorted(range(value.ndim), key=lambda axis: -abs(value.strides[axis]))
    return gpu.asarray(value.transpose(order)).transpose(np.argsort(order))


def to_host(result: Any) -> Any:
    """Results on the host."""
    if isinstance(result, tuple):
        return tuple(map(to_host, result))
    return gpu.to_host(result) if hasattr(result, "dtype") else result


def on_device(op: Callable[..., Any]) -> Callable[..., Any]:
    """An op of the device, for arrays on the host."""

    def call(*args: Any, **settings: Any) -> Any:
        settings = {name: to_device(value) for name, value in settings.items()}
        return to_host(op(*map(to_device, args), **settings))

    return call


def agree(name: str, *args: Any, scale: Any = None, op: Any = None, exact: bool = False, **settings: Any) -> Any:
    """Fail unless an op gives the same on both backends; return what it gives on the device.

    Parameters
    ----------
    name : str
        The op.
    *args, **settings
        What it is called with; arrays of NumPy.
    scale : array_like, or tuple of them for several results, optional
        As in `assert_close`.
    op : callable, optional
        Taken in place of the device's op, to show planted errors to this check.
    exact : bool
        Whether the results must be the same bits.
    """
    arrays = [value for value in (*args, *settings.values()) if isinstance(value, np.ndarray)]
    with assert_not_mutated(*arrays):
        actual = on_device(op or getattr(gpu, name))(*args, **settings)
    expected = getattr(ref, name)(*args, **settings)
    assert isinstance(actual, tuple) == isinstance(expected, tuple)
    several = isinstance(expected, tuple)
    scales = scale if several and isinstance(scale, tuple) else (scale,) * (len(expected) if several else 1)
    for got, wanted, size in zip(
        actual if several else (actual,), expected if several else (expected,), scales, strict=True
    ):
        assert (got is None) == (wanted is None)
        if wanted is None:
            continue
        if not isinstance(wanted, np.ndarray):
            assert got == wanted
            continue
        assert_no_alias(got, *arrays)
        if exact:
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted, strict=True)
        else:
            assert_close(got, wanted, op=name, dtype=str(wanted.dtype), scale=size)
    return actual


def complain_alike(name: str, *args: Any, **settings: Any) -> None:
    """Fail unless both backends raise an InputError with the same words."""
    with pytest.raises(InputError) as of_ref:
        getattr(ref, name)(*args, **settings)
    with pytest.raises(InputError) as of_gpu:
        on_device(getattr(gpu, name))(*args, **settings)
    assert str(of_gpu.value).replace("CuPy", "NumPy") == str(of_ref.value)
    assert "\n" not in str(of_gpu.value)
