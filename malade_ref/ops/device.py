"""What computes, and how it can be set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..checks import InputError


def describe_device() -> dict[str, Any]:
    """What computes, for the record of a result.

    Returns
    -------
    dict
        JSON-able: ``name``, and whatever else of the device and of its software results may depend on; ``precision``
        if that is a setting.
    """
    return {"name": "CPU"}


@contextmanager
def device_settings(*, memory: str | None = None, precision: str | None = None) -> Iterator[None]:
    """Settings of the device, for the duration of a ``with`` block.

    Parameters
    ----------
    memory : str, optional
        Memory to do with, in bytes or for example ``2GiB``; results do not depend on it.
    precision : str, optional
        How exactly to multiply; results depend on it.
    """
    for name, value in (("device_memory", memory), ("precision", precision)):
        if value is not None:
            raise InputError(f"{name}: the NumPy reference has no such setting; leave it out or choose another backend")
    yield
