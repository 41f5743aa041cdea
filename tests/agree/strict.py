"""The emulated device with arrays as stubborn as CuPy's: what is of the host and what is of the device never mix.

The emulated device's own arrays are NumPy's, so code that forgets to move an array works there and fails on a GPU. Here
it fails too: a `StrictArray` does not become a NumPy array unless asked with ``get()``, no operation takes arrays of
both kinds, and no function of NumPy takes a `StrictArray`. It is stricter than CuPy, which converts in a few places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from malade_gpu.device import EmulatedDevice


class MixedError(TypeError):
    """Host and device were mixed; also how CuPy complains."""


class StrictArray:
    """An array of the device.

    Parameters
    ----------
    array : ndarray
        Where its numbers are.
    """

    __array_ufunc__ = None  # NumPy's arrays leave operations with this one to the methods below
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, array: Any) -> None:
        self._array = np.asarray(array)

    # To the host, only when asked.

    def get(self) -> Any:
        """A copy on the host."""
        return self._array.copy()

    def tolist(self) -> Any:
        return self._array.tolist()

    def item(self) -> Any:
        return self._array.item()

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise MixedError("implicit conversion to a NumPy array is not allowed; use ops.to_host")

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise MixedError(f"numpy.{function.__name__} of an array of the device; use ops.to_host")

    def __format__(self, form: str) -> str:
        raise MixedError("an array of the device in a text; use ops.to_host")

    def __bool__(self) -> bool:
        return bool(self._array)

    def __int__(self) -> int:
        return int(self._array)

    def __float__(self) -> float:
        return float(self._array)

    def __index__(self) -> int:
        return self._array.__index__()

    # What is known without looking at the numbers.

    def __len__(self) -> int:
        return len(self._array)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "ndim", "size", "strides", "flags", "nbytes"):
            return getattr(self._array, name)
        if name in METHODS:
            return wrapped(getattr(self._array, name))
        raise AttributeError(f"StrictArray has no {name}; if CuPy has it, add it")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"data": self._array.__array_interface__["data"]}

    @property
    def T(self) -> StrictArray:  # noqa: N802
        return StrictArray(self._array.T)

    # Parts, and other devices.

    def __getitem__(self, index: Any) -> StrictArray:
        return StrictArray(self._array[unwrapped(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._array[unwrapped(index)] = unwrapped(value)

    def __iter__(self) -> Iterator[StrictArray]:
        return (self[i] for i in range(len(self)))

    def __dlpack__(self, **settings: Any) -> Any:
        return self._array.__dlpack__(**settings)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


METHODS = (
    *("astype", "reshape", "transpose", "ravel", "copy", "view"),
    *("sum", "mean", "max", "min", "any", "all", "argmax"),
)
OPERATORS = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "floordiv", "mod"),
    *("matmul", "rmatmul", "neg", "abs", "invert", "and", "rand", "or", "ror", "xor", "lshift", "rshift"),
    *("eq", "ne", "lt", "le", "gt", "ge"),
)
for _operator in OPERATORS:
    setattr(
        StrictArray,
        f"__{_operator}__",
        lambda self, *others, name=f"__{_operator}__": wrapped(getattr(self._array, name))(*others),
    )


def unwrapped(value: Any) -> Any:
    """The numbers of a strict array, or of those in a tuple or list; arrays of the host are refused."""
    if isinstance(value, StrictArray):
        return value._array
    if isinstance(value, np.ndarray):
        raise MixedError(f"an array of the host, of shape {value.shape}, among those of the device; use ops.asarray")
    if isinstance(value, tuple | list):
        return type(value)(map(unwrapped, value))
    return value


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays as one of strict arrays."""

    def call(*args: Any, **settings: Any) -> Any:
        result = function(*map(unwrapped, args), **{name: unwrapped(value) for name, value in settings.items()})
        # Sums are arrays without axes, as with CuPy, and no numbers of the host.
        return StrictArray(result) if isinstance(result, np.ndarray | np.generic) else result

    return call


def from_anywhere(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that takes arrays over from the host, or from another library."""

    def call(values: Any, **settings: Any) -> StrictArray:
        if isinstance(values, StrictArray):
            same = settings.get("dtype") in (None, values.dtype)
            return values if same else StrictArray(function(values._array, **settings))
        return StrictArray(
            np.array(function(values, **settings)) if isinstance(values, np.ndarray) else function(values)
        )

    return call


XP = SimpleNamespace(
    __name__="cupy",
    ndarray=StrictArray,
    asarray=from_anywhere(np.asarray),
    from_dlpack=from_anywhere(np.from_dlpack),
    **{name: getattr(np, name) for name in ("int64", "uint32", "uint64", "float32", "float64")},
    **{
        name: wrapped(getattr(np, name))
        for name in (
            *("arange", "argsort", "ascontiguousarray", "concatenate", "empty", "ones", "ravel", "stack", "take"),
            *("clip", "full", "isfinite", "repeat", "sort", "where", "zeros"),
        )
    },
)


class StrictDevice(EmulatedDevice):
    """The emulated device, with strict arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "strict emulated device"
        self.xp = XP  # type: ignore[assignment]

    def empty(self, shape: Any, dtype: Any) -> Any:
        return StrictArray(super().empty(shape, dtype))

    def for_elements(self, body: Any, count: int, *arguments: Any) -> None:
        super().for_elements(body, count, *map(unwrapped, arguments))

    def launch(self, file: str, kernel: str, *, arguments: Any, **settings: Any) -> None:
        super().launch(file, kernel, arguments=[unwrapped(value) for value in arguments], **settings)
