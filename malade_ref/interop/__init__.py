"""Bridges to other libraries, each imported only when it is used.

What has no counterpart here, or does not fit, raises `InputError`.
"""

from .tensors import OnTensors
from .torch import from_torch, to_torch

__all__ = ["OnTensors", "from_torch", "to_torch"]
