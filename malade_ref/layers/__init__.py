"""Layers: descriptions without parameters, each with a forward and a backward pass over the ops of a backend."""

from .base import LAYERS, Activation, Layer, Parameters, Product, Shape, layer_from, parameter_shapes_of, register
from .basic import BatchNorm, Conv2d, ConvTranspose2d, Flatten, Linear, ReLU, Reshape, Tanh
from .pooling import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool, MaxPool2d
from .upsampling import Upsample

__all__ = [
    "LAYERS",
    "Activation",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm",
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
    "Shape",
    "Tanh",
    "Upsample",
    "layer_from",
    "parameter_shapes_of",
    "register",
]
