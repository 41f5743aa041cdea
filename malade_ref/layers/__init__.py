"""Layers: descriptions without parameters, each with a forward and a backward pass over the ops of a backend."""

from .base import LAYERS, Activation, Layer, Parameters, Product, Shape, layer_from, register
from .basic import AvgPool2d, BatchNorm, Conv2d, ConvTranspose2d, Flatten, Linear, ReLU, Reshape, Tanh
from .containers import Branches, Residual, Sequential
from .fusion import fused

__all__ = [
    "LAYERS",
    "Activation",
    "AvgPool2d",
    "BatchNorm",
    "Branches",
    "Conv2d",
    "ConvTranspose2d",
    "Flatten",
    "Layer",
    "Linear",
    "Parameters",
    "Product",
    "ReLU",
    "Reshape",
    "Residual",
    "Sequential",
    "Shape",
    "Tanh",
    "fused",
    "layer_from",
    "register",
]
