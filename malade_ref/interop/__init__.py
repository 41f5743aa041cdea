"""Bridges to other libraries, each imported only when it is used."""

from .tensors import OnTensors
from .torch import from_torch, to_torch

__all__ = ["OnTensors", "from_torch", "to_torch"]
