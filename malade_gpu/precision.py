"""How exactly convolutions and linear layers multiply: a setting for speed.

The environment variable ``MALADE_GPU_PRECISION`` chooses, for float32 images and features:

========  =======================================================  ==================
fp32      multiply-adds in float32, on any GPU                     about 1e-6
tf32x3    tensor cores, three products for one                     about 1e-6
tf32      tensor cores, operands rounded to 11 bits                about 1e-3
bf16      tensor cores, operands rounded to 8 bits                 about 1e-2
========  =======================================================  ==================

The last column is the error relative to the sum of the terms' magnitudes. Sums are taken in float32, and float64 images
are multiplied in float64 whatever the setting. Tensor cores with these formats exist from compute capability 8.0 on.

With tf32 and bf16 the purification chain is run on tensor cores, too, where the GPU has room for it, in both cases with
operands of 11 bits (kernels/chain_half.cuh); its gradient is taken in float32.

By default it is tf32x3 where there are such tensor cores, fp32 elsewhere, for results and for gradients alike. tf32x3
is as exact as fp32, and on an H200 three products at 494 TFLOP/s are rated 2.5 times as fast as one at 67. Results take
part because an attack's gradient should be that of the very function that is attacked. What one may notice is an
infinite operand: its second piece is not a number, and so is the result. The emulated device stays with fp32, which it
computes three times faster; its tests ask for the others by name.
"""

from __future__ import annotations

import os

from malade_ref.checks import InputError, check_choice

from .device import device

PRECISIONS = ("fp32", "tf32x3", "tf32", "bf16")  # in the order of kernels/conv.cuh
TENSOR_CORES = 80


def precision() -> str:
    """The precision that the environment asks for, or the device's own.

    Raises
    ------
    InputError
        If the setting is malformed, or the device lacks the tensor cores for it.
    """
    setting = os.environ.get("MALADE_GPU_PRECISION")
    if not setting:
        return "tf32x3" if device().capability >= TENSOR_CORES and not device().emulated else "fp32"
    name = check_choice("MALADE_GPU_PRECISION", setting, PRECISIONS)
    if name != "fp32" and device().capability < TENSOR_CORES:
        raise InputError(
            f"MALADE_GPU_PRECISION: {name} needs compute capability {TENSOR_CORES / 10:.1f}, "
            f"{device().name} has {device().capability / 10:.1f}; use fp32"
        )
    return name
