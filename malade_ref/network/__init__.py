"""Networks: layers with parameters, and those that are built here.

Layers, parameters, images and labels that do not fit each other raise `InputError`.
"""

from .builders import build, cnn, madry, mlp, sdae
from .losses import LOSSES, LossGradient, join, loss_ops
from .network import Network, check_finite, fingerprint
from .resnets import resnet, wide_resnet

__all__ = [
    "LOSSES",
    "LossGradient",
    "Network",
    "build",
    "check_finite",
    "cnn",
    "fingerprint",
    "join",
    "loss_ops",
    "madry",
    "mlp",
    "resnet",
    "sdae",
    "wide_resnet",
]
