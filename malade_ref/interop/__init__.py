"""Bridges to other libraries, each imported only when it is used.

`wrap` makes a classifier of anybody's model; `from_torch` reads a network of PyTorch layer by layer, so that it can be
trained and saved here. The other way, `as_torch_module`, `as_foolbox_model`, `as_art_classifier` and
`as_art_preprocessor` give models of this package to attacks of others.

What has no counterpart here, or does not fit, raises `InputError`.
"""

from . import conformance
from .tensors import OnTensors
from .toolboxes import as_art_classifier, as_art_preprocessor, as_foolbox_model
from .torch import from_torch, to_torch
from .torch_module import as_torch_module
from .wrap import Wrapped, wrap

__all__ = [
    "OnTensors",
    "Wrapped",
    "as_art_classifier",
    "as_art_preprocessor",
    "as_foolbox_model",
    "as_torch_module",
    "conformance",
    "from_torch",
    "to_torch",
    "wrap",
]
