"""Networks: layers with parameters, and those that are built here."""

from .builders import build, cnn, mlp, sdae
from .losses import LOSSES, LossGradient, join, loss_ops
from .network import Network, fingerprint
from .resnets import resnet, wide_resnet

__all__ = [
    "LOSSES",
    "LossGradient",
    "Network",
    "build",
    "cnn",
    "fingerprint",
    "join",
    "loss_ops",
    "mlp",
    "resnet",
    "sdae",
    "wide_resnet",
]
