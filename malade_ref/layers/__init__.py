"""Layers: descriptions without parameters, each with a forward and a backward pass over the ops of a backend."""

from .activations import ELU, GELU, Hardtanh, LeakyReLU, PReLU, Sigmoid, SiLU, Softplus
from .base import LAYERS, Activation, Layer, Parameters, Product, Shape, layer_from, parameter_shapes_of, register
from .basic import AvgPool2d, BatchNorm, Conv2d, ConvTranspose2d, Flatten, Linear, ReLU, Reshape, Tanh
from .normalisation import Dropout, GroupNorm, InstanceNorm, LayerNorm, Normalize

__all__ = [
    "ELU",
    "GELU",
    "LAYERS",
    "Activation",
    "AvgPool2d",
    "BatchNorm",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "GroupNorm",
    "Hardtanh",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "Normalize",
    "PReLU",
    "Parameters",
    "Product",
    "ReLU",
    "Reshape",
    "Shape",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "layer_from",
    "parameter_shapes_of",
    "register",
]
