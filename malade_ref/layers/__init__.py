"""Layers: descriptions without parameters, each with a forward and a backward pass over the ops of a backend.

Settings and shapes that do not fit raise `InputError`.
"""

from .activations import ELU, GELU, Hardtanh, LeakyReLU, PReLU, Sigmoid, SiLU, Softplus
from .base import LAYERS, Activation, Layer, Parameters, Product, Shape, layer_from, register
from .basic import BatchNorm, Conv2d, ConvTranspose2d, Flatten, Linear, ReLU, Reshape, Tanh
from .channels import PadChannels
from .containers import Branches, Residual, Sequential
from .fusion import fused
from .normalisation import Dropout, GroupNorm, InstanceNorm, LayerNorm, Normalize
from .pooling import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool, MaxPool2d
from .upsampling import Upsample

__all__ = [
    "ELU",
    "GELU",
    "LAYERS",
    "Activation",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm",
    "Branches",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "GroupNorm",
    "Hardtanh",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Normalize",
    "PReLU",
    "PadChannels",
    "Parameters",
    "Product",
    "ReLU",
    "Reshape",
    "Residual",
    "Sequential",
    "Shape",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "Upsample",
    "fused",
    "layer_from",
    "register",
]
