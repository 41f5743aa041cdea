"""Bridges to other libraries, each imported only when it is used."""

from .torch import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
