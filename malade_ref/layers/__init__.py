"""Layers: descriptions without parameters, each with a forward and a backward pass over the ops of a backend."""

from .base import LAYERS, Activation, Layer, Parameters, Product, Shape, layer_from, parameter_shapes_of, register
from .basic import AvgPool2d, BatchNorm, Conv2d, ConvTranspose2d, Flatten, Linear, ReLU, Reshape, Tanh

__all__ = [
    "LAYERS",
    "Activation",
    "AvgPool2d",
    "BatchNorm",
    "Conv2d",
    "ConvTranspose2d",
    "Flatten",
    "Layer",
    "Linear",
    "Parameters",
    "Product",
    "ReLU",
    "Reshape",
    "Shape",
    "Tanh",
    "layer_from",
    "parameter_shapes_of",
    "register",
]
