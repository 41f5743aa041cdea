"""MALADE in NumPy: a defence by Langevin relaxation, attacks on it, and an honest laboratory around both.

What does not fit (types, shapes, ranges, files) raises `InputError`: one line that says what, where, how to mend it.
Docstrings speak of it where there is more to say.

>>> from malade_ref import MALADE, attacks, cnn, sdae
>>> defended = MALADE(cnn("small"), sdae("small"), num_steps=5, a=0.5, delta=0.05, seed=0)
>>> defended.stochastic
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from malade_ref import attacks, ops
    from malade_ref.checkpoint import load, save
    from malade_ref.defence import MALADE
    from malade_ref.density import DenoiserScore, GaussianMixture
    from malade_ref.network import (
        Network,
        cifar_resnet,
        cnn,
        conv_sdae,
        dncnn,
        madry,
        madry_wide_resnet,
        mlp,
        resnet,
        resnet_v2,
        sdae,
        unet,
        wide_resnet,
    )

__version__ = "0.1.0"

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

# Public names are imported when they are first used: a command says its first word at once, and can be interrupted.
_HOME = {
    "MALADE": "defence",
    "DenoiserScore": "density",
    "GaussianMixture": "density",
    "Network": "network",
    "cifar_resnet": "network",
    "cnn": "network",
    "conv_sdae": "network",
    "dncnn": "network",
    "evaluate": "experiment.judging",
    "load": "checkpoint",
    "madry": "network",
    "madry_wide_resnet": "network",
    "mlp": "network",
    "resnet": "network",
    "resnet_v2": "network",
    "save": "checkpoint",
    "sdae": "network",
    "unet": "network",
    "wide_resnet": "network",
}


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        try:
            value = import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    from pkgutil import iter_modules

    modules = {name for _, name, _ in iter_modules(__path__) if not name.startswith("_")}
    return sorted({*globals(), *__all__, *modules})
