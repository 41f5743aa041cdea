"""Networks: layers with parameters, and those that are built here.

Layers, parameters, images and labels that do not fit each other raise `InputError`.
"""

from .builders import build, cnn, madry, mlp, sdae
from .colour import STATISTICS, channel_statistics, cifar_resnet, madry_wide_resnet, resnet_v2
from .denoisers import conv_sdae, dncnn, unet
from .losses import LOSSES, Losses, LossGradient, join, loss_ops, losses_of
from .network import Network, check_finite, fingerprint
from .registry import BUILDERS, PRESETS, fitting, make, parameters_of
from .resnets import resnet, wide_resnet

__all__ = [
    "BUILDERS",
    "LOSSES",
    "PRESETS",
    "STATISTICS",
    "LossGradient",
    "Losses",
    "Network",
    "build",
    "channel_statistics",
    "check_finite",
    "cifar_resnet",
    "cnn",
    "conv_sdae",
    "dncnn",
    "fingerprint",
    "fitting",
    "join",
    "loss_ops",
    "losses_of",
    "madry",
    "madry_wide_resnet",
    "make",
    "mlp",
    "parameters_of",
    "resnet",
    "resnet_v2",
    "sdae",
    "unet",
    "wide_resnet",
]
