"""MALADE in NumPy: a defence by Langevin relaxation, attacks on it, and an honest laboratory around both.

>>> from malade_ref import MALADE, attacks, cnn, sdae
>>> defended = MALADE(cnn("small"), sdae("small"), num_steps=5, a=0.5, delta=0.05, seed=0)
>>> defended.stochastic
True
"""

from malade_ref import attacks, ops
from malade_ref.checkpoint import load, save
from malade_ref.defence import MALADE
from malade_ref.density import DenoiserScore, GaussianMixture
from malade_ref.network import Network, cnn, mlp, resnet, sdae, wide_resnet

__version__ = "0.1.0"

__all__ = [
    "MALADE",
    "DenoiserScore",
    "GaussianMixture",
    "Network",
    "__version__",
    "attacks",
    "cnn",
    "load",
    "mlp",
    "ops",
    "resnet",
    "save",
    "sdae",
    "wide_resnet",
]
