"""Layers: descriptions without parameters, each with a forward and a backward pass over the ops of a backend."""

from .base import LAYERS, Activation, Layer, Parameters, Product, Shape, layer_from, register
from .basic import BatchNorm, Conv2d, ConvTranspose2d, Flatten, Linear, ReLU, Reshape, Tanh
from .containers import Branches, Residual, Sequential
from .fusion import fused
from .pooling import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool, MaxPool2d
from .upsampling import Upsample

__all__ = [
    "LAYERS",
    "Activation",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm",
    "Branches",
    "Conv2d",
    "ConvTranspose2d",
    "Flatten",
    "GlobalAvgPool",
    "Layer",
    "Linear",
    "MaxPool2d",
    "Parameters",
    "Product",
    "ReLU",
    "Reshape",
    "Residual",
    "Sequential",
    "Shape",
    "Tanh",
    "Upsample",
    "fused",
    "layer_from",
    "register",
]
