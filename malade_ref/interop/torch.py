r"""Networks from and to PyTorch.

Layers and parameters correspond one to one, up to two conventions:

- PyTorch pads symmetrically, so a convolution with other pads becomes ``ZeroPad2d`` and ``Conv2d``. "same" with a
  stride (TensorFlow's convention) is such a case whenever the number of zeros is odd.
- A transposed convolution *crops* what a convolution would have padded. Where the crop is not symmetric even with
  ``output_padding``, it becomes ``ConvTranspose2d`` without padding and a ``ZeroPad2d`` with negative numbers.

Both are read back. Parameters are copied: the two networks share no memory, and a module that is applied several times
becomes as many layers with copies of its parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from .. import ops as reference_ops
from ..checks import InputError, check_count
from ..classes import with_class_names
from ..network import Network
from .torch_reading import read
from .torch_writing import module_of


def to_torch(network: Network) -> Any:
    """The same network in PyTorch.

    Parameters
    ----------
    network : Network
        Of any backend.

    Returns
    -------
    torch.nn.Sequential
        In evaluation mode, on the CPU, of the network's dtype; with its own copy of the parameters.

    Raises
    ------
    InputError
        If PyTorch is not installed, or a layer has no counterpart.

    Examples
    --------
    >>> from malade_ref.network import cnn
    >>> to_torch(cnn())[2:4]  # doctest: +SKIP
    Sequential(
      (2): ZeroPad2d((1, 2, 1, 2))
      (3): Conv2d(128, 64, kernel_size=(5, 5), stride=(2, 2))
    )
    """
    return module_of(_torch(), network)


def from_torch(
    module: Any,
    input_shape: tuple[int, ...],
    *,
    ops: ModuleType | None = None,
    class_names: Sequence[str] | None = None,
) -> Network:
    """The same network as one of this package.

    Parameters
    ----------
    module : torch.nn.Module
        Any whose ``forward`` torch.fx can trace into layers of this package: containers, sums and joins of branches,
        modules that are applied several times, functions of ``torch`` and ``torch.nn.functional``. In evaluation mode
        wherever that makes a difference: batch normalisation and dropout in training mode are refused.
    input_shape : tuple of int
        Shape (c, h, w) of one image, or (d,) of one vector.
    ops : module, optional
        The backend to compute with; the NumPy reference by default.
    class_names : sequence of str, optional
        What the outputs stand for, if it is a classifier: so it can be used on data whose classes have names.

    Returns
    -------
    Network
        With its own copy of the parameters; dropout is left out.

    Raises
    ------
    InputError
        If PyTorch is not installed, the names do not fit, the module cannot be traced, or one of its calls or settings
        is not supported; it is named, with the path of the module that it is in. `wrap` takes such modules as they are.
    """
    torch = _torch()
    ops = reference_ops if ops is None else ops
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    shape = tuple(check_count("input_shape", size) for size in input_shape)
    try:
        layers, arrays = read(torch, module, shape)
    except InputError as error:
        if "in training mode" in str(error):
            raise  # it is refused there, too
        raise InputError(f"{error}; or take it as it is, with malade_ref.interop.wrap") from None
    params = {name: ops.asarray(value) for name, value in arrays.items()}
    network = Network(layers, params, input_shape, metadata={"network": "from PyTorch"}, ops=ops)
    if class_names is None:
        return network
    named: Network = with_class_names(network, class_names)
    return named


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"PyTorch cannot be imported ({error}); install it with: pip install 'malade[interop]'"
        ) from None
    return torch  # type: ignore[no-any-return]
