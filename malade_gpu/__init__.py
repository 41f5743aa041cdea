"""MALADE on a GPU: the public names of `malade_ref`, computed with CuPy, Numba CUDA and CUDA C++.

Without a GPU the same code runs on the emulated device (``MALADE_GPU_EMULATE=1``), slowly and strictly; see `device`.
A device, a compiler or a setting that is missing or does not fit raises `InputError`.

Arithmetic is written twice, sequencing once: networks, chains, attacks and training are those of `malade_ref`, over the
``ops`` of this package. So only what makes a network is another function here, one whose ``ops`` are these by default.

>>> import malade_gpu, malade_ref
>>> malade_gpu.attacks.pgd is malade_ref.attacks.pgd
True
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import malade_ref
from malade_gpu import ops
from malade_ref import MALADE, DenoiserScore, __version__, attacks, evaluate, save

F = TypeVar("F", bound=Callable[..., Any])


def _with_these_ops(function: F) -> F:
    """The function, its setting ``ops`` being this package's unless given."""

    @functools.wraps(function)
    def bound(*args: Any, **settings: Any) -> Any:
        if settings.get("ops") is None:
            settings["ops"] = ops
        return function(*args, **settings)

    return bound  # type: ignore[return-value]


class _OfTheseOps(type):
    """Of classes whose instances are all those of the reference's class over this package's ops, whoever made them."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.__mro__[1]) and getattr(instance, "ops", None) is ops


class Network(malade_ref.Network, metaclass=_OfTheseOps):  # noqa: D101  # its docstring is inherited
    __doc__ = malade_ref.Network.__doc__

    __init__ = _with_these_ops(malade_ref.Network.__init__)


class GaussianMixture(malade_ref.GaussianMixture, metaclass=_OfTheseOps):  # noqa: D101  # its docstring is inherited
    __doc__ = malade_ref.GaussianMixture.__doc__

    __init__ = _with_these_ops(malade_ref.GaussianMixture.__init__)


cnn = _with_these_ops(malade_ref.cnn)
sdae = _with_these_ops(malade_ref.sdae)
madry = _with_these_ops(malade_ref.madry)
mlp = _with_these_ops(malade_ref.mlp)
resnet = _with_these_ops(malade_ref.resnet)
wide_resnet = _with_these_ops(malade_ref.wide_resnet)
cifar_resnet = _with_these_ops(malade_ref.cifar_resnet)
conv_sdae = _with_these_ops(malade_ref.conv_sdae)
dncnn = _with_these_ops(malade_ref.dncnn)
madry_wide_resnet = _with_these_ops(malade_ref.madry_wide_resnet)
resnet_v2 = _with_these_ops(malade_ref.resnet_v2)
unet = _with_these_ops(malade_ref.unet)
load = _with_these_ops(malade_ref.load)


def __getattr__(name: str) -> Any:
    # Drivers that take their arrays from a model are those of the reference, whole modules as `attacks` is.
    if name in _DRIVERS:
        return getattr(malade_ref, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_DRIVERS})


_DRIVERS = ("audit", "certify", "evaluation", "objectives", "training")

__all__ = [
    "MALADE",
    "DenoiserScore",
    "GaussianMixture",
    "Network",
    "__version__",
    "attacks",
    "cifar_resnet",
    "cnn",
    "conv_sdae",
    "dncnn",
    "evaluate",
    "load",
    "madry",
    "madry_wide_resnet",
    "mlp",
    "ops",
    "resnet",
    "resnet_v2",
    "save",
    "sdae",
    "unet",
    "wide_resnet",
]
