"""What is measured: one row a case, with the arithmetic it takes and the ratio to PyTorch it may have.

Floating-point operations are counted from the layers, two for a multiply-add, as if every padded pixel were
multiplied; only convolutions and matrix products count (activations, noise and the optimiser do not). A gradient
takes as many as the forward pass for each of the two products it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from malade_ref import ops
from malade_ref.layers import Conv2d, ConvTranspose2d, Linear
from malade_ref.network import Network, cnn, sdae
from malade_ref.sampling import ChainSettings


class Problem(NamedTuple):
    """What every backend computes with: the same weights, the same images."""

    classifier: Network
    denoiser: Network
    chain: ChainSettings
    x: Any  # (n, 1, 28, 28) float32
    y: Any  # (n,) int64


class Case(NamedTuple):
    """One measurement.

    `flops` counts those of one image; `allowed` is the largest ratio to PyTorch that `--check` lets pass;
    `agrees` says whether the backends' results are the same numbers: a training step's is its loss, and the chain draws
    other noise in each.
    """

    name: str
    title: str
    flops: Callable[[Problem], int]
    allowed: float
    agrees: bool = True


def make_problem(batch: int) -> Problem:
    """The paper's networks with their initial weights, and images of uniform noise."""
    key = ops.derive_key(0, "bench")
    x = ops.uniform((1, 28, 28), key=key, sample_index=ops.arange(batch))
    y = (np.arange(batch) * 7 % 10).astype(np.int64)
    return Problem(cnn(), sdae(), ChainSettings(num_steps=25, a=0.2, delta=0.1), x, y)


def forward_flops(network: Network) -> list[int]:
    """Operations of each layer's forward pass on one image."""
    counts, shape = [], network.input_shape
    for layer in network.layers:
        output = layer.output_shape(shape)
        match layer:
            case Conv2d():
                macs = math.prod(output) * layer.in_channels * math.prod(layer.kernel_size)
            case ConvTranspose2d():
                macs = math.prod(shape) * layer.out_channels * math.prod(layer.kernel_size)
            case Linear():
                macs = layer.in_features * layer.out_features
            case _:
                macs = 0
        counts.append(2 * macs)
        shape = output
    return counts


CASES = (
    Case("cnn-forward", "CNN, forward", lambda p: sum(forward_flops(p.classifier)), 1.2),
    Case("cnn-input-gradient", "CNN, input gradient", lambda p: 2 * sum(forward_flops(p.classifier)), 1.5),
    # Nobody needs the gradient with respect to the first layer's input.
    Case(
        "cnn-training-step",
        "CNN, training step (Adam)",
        lambda p: 3 * sum(forward_flops(p.classifier)) - forward_flops(p.classifier)[0],
        1.5,
    ),
    Case("sdae-forward", "sDAE, forward", lambda p: sum(forward_flops(p.denoiser)), 1.5),
    Case(
        "chain",
        "purification, 25 steps",
        lambda p: p.chain.num_steps * sum(forward_flops(p.denoiser)),
        1.5,
        agrees=False,
    ),
)
