r"""The purification chain of the paper's denoiser as one kernel, and its gradient as another.

    x_{t+1} = clip(x_t + a (r(x_t) - x_t) + delta z_t)

`fused_chain` has kernels for one network, the sDAE of the paper in float32; see kernels/chain.cuh. For any other, and
everywhere if the environment variable ``MALADE_GPU_FUSED`` is 0, it answers None, and chains are run step by step.

The kernels multiply in float32, unless ``MALADE_GPU_PRECISION`` is tf32 or bf16 and the device has room for
kernels/chain_half.cuh: then the chain is run on tensor cores, with 11 bits for each operand, and only the way back is
in float32.

The way back needs the chain's positions. Of each image `NUM_KEPT` at most are kept on the way there, however many steps
there are; the others are computed again, in float32, from the one before them, a segment at a time, for the images that
are being worked on (`backward_plan`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from malade_ref.arrays import Array
from malade_ref.checks import InputError, check_choice, check_count, check_number, check_same, check_shape

from ..device import device
from ..precision import precision
from . import chain_half
from .chain_half import pack_half, residence
from .random import own_keys

Key = tuple[int, int]

ARCHITECTURE: dict[str, Any] = {
    "input_shape": [1, 28, 28],
    "layers": [
        {"kind": "conv2d", "in_channels": 1, "out_channels": 10, "kernel_size": (5, 5), "stride": (2, 2)},
        {"kind": "tanh"},
        {"kind": "conv2d", "in_channels": 10, "out_channels": 25, "kernel_size": (5, 5), "stride": (2, 2)},
        {"kind": "tanh"},
        {"kind": "conv_transpose2d", "in_channels": 25, "out_channels": 10, "kernel_size": (9, 9), "stride": (2, 2)},
        {"kind": "tanh"},
        {"kind": "conv_transpose2d", "in_channels": 10, "out_channels": 1, "kernel_size": (1, 1), "stride": (2, 2)},
        {"kind": "tanh"},
        {"kind": "conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": (5, 5), "stride": (1, 1)},
        {"kind": "tanh"},
    ],
}
# What all layers of a kind have in common beside these.
COMMON: dict[str, dict[str, Any]] = {
    "conv2d": {"padding": "same"},
    "conv_transpose2d": {"padding": "same", "output_padding": (0, 0)},
    "tanh": {},
}
SHAPES = {
    **{"0.weight": (10, 1, 5, 5), "0.bias": (10,), "2.weight": (25, 10, 5, 5), "2.bias": (25,)},
    **{"4.weight": (25, 10, 9, 9), "4.bias": (10,), "6.weight": (10, 1, 1, 1), "6.bias": (1,)},
    **{"8.weight": (1, 1, 5, 5), "8.bias": (1,)},
}
THREADS = 256
# In the order and sizes of kernels/chain.cuh.
SMALL = ("0.bias", "2.bias", "4.bias", "6.weight", "6.bias", "8.weight", "8.bias")
SMALL_WORDS = 112
NUM_KEPT, NUM_SLOTS = 10, 32
PIXELS, SAVED = 28 * 28, 10 * 14 * 14 + 25 * 7 * 7 + 3


class FusedChain:
    """A chain that is run by one kernel.

    Parameters
    ----------
    params : dict of str to array
        Parameters of the paper's sDAE, float32.
    """

    def __init__(self, params: Mapping[str, Array]) -> None:
        self.params = params

    def run(
        self,
        x: Array,
        *,
        num_steps: int,
        a: float,
        delta: float,
        clip: bool,
        key: Key | Array,
        sample_index: Array,
        first_step: int = 0,
    ) -> Array:
        """Last positions of chains.

        Parameters
        ----------
        x : array of shape (n, 1, 28, 28), float32
            Where they start. Not modified.
        num_steps : int
            Number of steps, >= 0.
        a : float
            Step on the residual, > 0.
        delta : float
            Standard deviation of the injected noise, in pixel units, >= 0.
        clip : bool
            Whether positions are clipped to [0, 1] after every step.
        key : tuple of two int, or array of shape (n, 2), uint32
            Of the noise, from `derive_key`; or one for each image.
        sample_index : array of shape (n,), integer
            Numbers of the samples in their data set, in [0, 2^32).
        first_step : int
            Number of the first step; selects the noise.

        Returns
        -------
        array of x's shape, float32
            Positions after the steps.
        """
        settings = _settings(x, num_steps, a, delta, clip, key, sample_index, first_step)
        start = device().xp.ascontiguousarray(x)
        if not (num_steps and len(x)):
            return start.copy()
        y = device().empty(x.shape, "float32")
        self._launch_run(start, y, device().empty((0, *x.shape), "float32"), num_steps, 0, settings)
        return y

    def run_with_vjp(
        self,
        x: Array,
        *,
        num_steps: int,
        a: float,
        delta: float,
        clip: bool,
        key: Key | Array,
        sample_index: Array,
        first_step: int = 0,
    ) -> tuple[Array, Callable[[Array], Array]]:
        """Last positions of chains, and the way back, for which up to `NUM_KEPT` positions of each image are kept.

        Parameters
        ----------
        x, num_steps, a, delta, clip, key, sample_index, first_step
            As given to `run`.

        Returns
        -------
        y : array of x's shape, float32
            Positions after the steps.
        vjp : callable
            From a gradient with respect to y to the one with respect to x, exact: through every step.
        """
        settings = _settings(x, num_steps, a, delta, clip, key, sample_index, first_step)
        start = device().xp.ascontiguousarray(x)
        if not (num_steps and len(x)):
            return start.copy(), lambda dy: device().xp.ascontiguousarray(dy).copy()
        every = -(-num_steps // (NUM_KEPT + 1))
        y = device().empty(x.shape, "float32")
        kept = device().empty(((num_steps - 1) // every, *x.shape), "float32")
        self._launch_run(start, y, kept, num_steps, every, settings)
        return y, lambda dy: self._launch_vjp(dy, start, kept, num_steps, every, settings)

    def vjp(
        self,
        dy: Array,
        x: Array,
        *,
        num_steps: int,
        a: float,
        delta: float,
        clip: bool,
        key: Key | Array,
        sample_index: Array,
        first_step: int = 0,
    ) -> Array:
        """Vector-Jacobian product of `run` with respect to x, exact: through every step.

        Parameters
        ----------
        dy : array of x's shape, float32
            Gradient with respect to the last positions.
        x, num_steps, a, delta, clip, key, sample_index, first_step
            As given to `run`.

        Returns
        -------
        array of x's shape, float32
            Gradient with respect to the first positions.
        """
        check_same("dy", dy, "x", x)
        chain: dict[str, Any] = {"num_steps": num_steps, "a": a, "delta": delta, "clip": clip}
        _, back = self.run_with_vjp(x, **chain, key=key, sample_index=sample_index, first_step=first_step)
        return back(dy)

    def _launch_run(self, x: Array, y: Array, kept: Array, num_steps: int, every: int, settings: _Settings) -> None:
        """Last positions to y; those after every ``every``-th step, if it is not 0, to ``kept``."""
        resident, variant = _half(), _variant(len(x))
        if resident is None:
            numbers = len(x), num_steps, every, variant.region_words, *settings.numbers
            _launch("chain", variant, (x, y, kept, *settings.arrays, variant.pack(self.params), *numbers))
            return
        small = device().xp.concatenate([device().xp.ravel(self.params[name]) for name in SMALL])
        weights = small, pack_half(self.params)
        device().launch(
            "chain_half",
            "chain_half",
            grid=(min(-(-len(x) // chain_half.IMAGES), device().multiprocessors),),
            block=(chain_half.THREADS,),
            arguments=(x, y, kept, *settings.arrays, *weights, len(x), num_steps, every, *settings.numbers),
            shared_bytes=chain_half.shared_bytes(resident),
            defines={"RESIDENT": int(resident)},
        )

    def _launch_vjp(self, dy: Array, x: Array, kept: Array, num_steps: int, every: int, settings: _Settings) -> Array:
        """Gradient with respect to x, from what the way there has kept."""
        check_same("dy", dy, "x", x)
        dx = device().xp.ascontiguousarray(dy).copy()
        variant = _variant(len(x))
        plan = _plan(num_steps, every, NUM_SLOTS)
        scratch = device().empty((variant.grid, NUM_SLOTS * PIXELS + SAVED, variant.images), "float32")
        arrays = x, dx, kept, scratch, plan, *settings.arrays, variant.pack(self.params)
        numbers = len(x), len(plan), len(kept), NUM_SLOTS, variant.region_words, *settings.numbers
        _launch("chain_vjp", variant, (*arrays, *numbers))
        return dx


def fused_chain(architecture: Mapping[str, Any], params: Mapping[str, Array]) -> FusedChain | None:
    """As `malade_ref.ops.fused_chain`: a kernel for the paper's sDAE in float32, None for any other network.

    Raises
    ------
    InputError
        If the environment variable MALADE_GPU_FUSED is neither 0 nor 1; with 0 there is no kernel for any network.
    """
    wanted = check_choice("MALADE_GPU_FUSED", os.environ.get("MALADE_GPU_FUSED") or "1", ("0", "1"))
    if wanted == "0" or architecture != _known() or any(str(p.dtype) != "float32" for p in params.values()):
        return None
    return FusedChain(params)


def checkpoint_plan(num_steps: int, num_slots: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Which positions to compute, keep and go back through, for the gradient of a chain from its first position only.

    With a slot for each step nothing is computed twice. Otherwise half of the slots spread over the chain and the rest
    is left for the segments between them, which are treated likewise, from the last to the first.

    Parameters
    ----------
    num_steps : int
        Steps of the chain, >= 1.
    num_slots : int
        Positions that can be kept beside the first, >= 1.

    Returns
    -------
    array of shape (m, 3), int32
        Rows (step, from, to): do the step from the position in slot ``from``, put the result in slot ``to``; or, where
        ``to`` is -1, go back through the step that starts there. Slot 0 holds the first position and is never written.
    """
    plan = []
    held = [(0, 0)]  # step and slot of the positions that are kept
    free = list(range(num_slots, 0, -1))
    for target in reversed(range(num_steps)):
        while held[-1][0] > target:
            free.append(held.pop()[1])
        while held[-1][0] < target:
            step, source = held[-1]
            distance, slot = target - step, free.pop()
            room = len(free) + 1
            stride = 1 if distance <= room else -(-distance // max(1, room // 2))
            for number in range(step, step + stride):
                plan.append((number, source, slot))
                source = slot
            held.append((step + stride, slot))
        plan.append((target, held[-1][1], -1))
    return np.array(plan, dtype=np.int32)


def backward_plan(num_steps: int, every: int, num_slots: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Which positions to compute again and go back through, where every ``every``-th one was kept.

    Parameters
    ----------
    num_steps : int
        Steps of the chain, >= 1.
    every : int
        Steps of a segment, >= 1.
    num_slots : int
        Positions that can be kept on the way back, >= 1.

    Returns
    -------
    array of shape (m, 3), int32
        Rows as those of `checkpoint_plan`. Slot 0 holds the first position, slot i the one that was kept after
        ``i * every`` steps; the slots behind are for the way back.
    """
    num_kept = (num_steps - 1) // every
    rows = []
    for number in reversed(range(num_kept + 1)):
        first = number * every
        segment = checkpoint_plan(min(every, num_steps - first), num_slots)
        source, target = (np.where(segment[:, i] > 0, segment[:, i] + num_kept, segment[:, i]) for i in (1, 2))
        rows.append(np.stack([segment[:, 0] + first, np.where(source == 0, number, source), target], axis=1))
    return np.concatenate(rows).astype(np.int32)


class _Settings(NamedTuple):
    """What all kernels take of the noise, and last."""

    arrays: tuple[Any, Any]
    numbers: tuple[Any, ...]


def _settings(
    x: Array, num_steps: int, a: float, delta: float, clip: bool, key: Key | Array, sample_index: Array, first_step: int
) -> _Settings:
    check_shape("x", x, (len(x), 1, 28, 28))
    if str(x.dtype) != "float32":
        raise InputError(f"x: expected float32 (the network's dtype), got {x.dtype}")
    check_shape("sample_index", sample_index, (len(x),))
    if check_count("first_step", first_step, minimum=0) + check_count("num_steps", num_steps, minimum=0) > 1 << 32:
        raise InputError(f"first_step: expected steps below 2**32, got {num_steps} steps from {first_step} on")
    check_number("a", a, above=0)
    check_number("delta", delta, minimum=0)
    xp = device().xp
    index = xp.ascontiguousarray(sample_index.astype(xp.uint32))
    keys, *one = own_keys(key, index)
    return _Settings((index, keys), (first_step, *one, a, delta, bool(clip)))


class Variant(NamedTuple):
    """How a batch is spread over the device.

    Attributes
    ----------
    images : int
        Images of a block.
    resident : bool
        Whether weights lie in shared memory.
    grid : int
        Blocks.
    """

    images: int
    resident: bool
    grid: int

    @property
    def region_words(self) -> int:
        """Shared memory for weights."""
        return layout(self.images).region_words if self.resident else 0

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return 4 * (SMALL_WORDS + self.region_words + self.images * _image_words(self.images))

    def pack(self, params: Mapping[str, Array]) -> Array:
        """Parameters in the order in which the kernels take their weights."""
        xp = device().xp
        flat = [xp.ravel(params[name]) for name in SHAPES]
        return xp.take(xp.concatenate([*flat, xp.zeros(1, "float32")]), _order(self.images))


def variants(max_shared: int) -> list[Variant]:
    """How blocks of one, two, four and eight images fit into shared memory: with the weights, without, or not at all.

    Parameters
    ----------
    max_shared : int
        Bytes of shared memory that a block may have.

    Returns
    -------
    list of Variant
        By rising number of images, without a grid.
    """
    choices = [[Variant(images, resident, 0) for resident in (True, False)] for images in (1, 2, 4, 8)]
    fitting = [[variant for variant in pair if variant.shared_bytes <= max_shared] for pair in choices]
    return [pair[0] for pair in fitting if pair]


def _variant(n: int) -> Variant:
    """As few images a block as let one block a multiprocessor do; full blocks if there are too many images for that."""
    fitting, blocks = variants(device().max_shared), device().multiprocessors
    best = next((variant for variant in fitting if n <= variant.images * blocks), fitting[-1])
    return best._replace(grid=min(-(-n // best.images), blocks))


def _half() -> bool | None:
    """Whether the weights lie in shared memory, if the chain is run in half precision; None if it is not."""
    if precision() not in ("tf32", "bf16"):
        return None
    return residence(device().max_shared)


def _launch(kernel: str, variant: Variant, arguments: tuple[Any, ...]) -> None:
    device().launch(
        "chain",
        kernel,
        grid=(variant.grid,),
        block=(THREADS,),
        arguments=arguments,
        shared_bytes=variant.shared_bytes,
        defines={"IMAGES": variant.images, "RESIDENT": int(variant.resident)},
    )


@cache
def _known() -> dict[str, Any]:
    layers = [{**layer, **COMMON[layer["kind"]]} for layer in ARCHITECTURE["layers"]]
    return {**ARCHITECTURE, "layers": layers}


def _image_words(images: int) -> int:
    """Activations of an image: two regions, whose rows of 14 and of 7 are padded."""
    return 10 * 14 * (16 if images >= 4 else 20) + 25 * 7 * 8 + 4


class Layout(NamedTuple):
    """Where the kernels expect which parameter.

    Attributes
    ----------
    order : array, int64
        For each word of the packed weights the number of the parameter (counted through `SHAPES`), or one more than the
        last for a zero.
    region_words : int
        Largest part that lies in shared memory at once.
    """

    order: np.ndarray[Any, np.dtype[np.int64]]
    region_words: int


@cache
def layout(images: int) -> Layout:
    """Where kernels/chain.cuh expects which parameter.

    Parameters
    ----------
    images : int
        Images of a block.

    Returns
    -------
    Layout
        Of the small parameters, the forward weights, and those of the two phases of the way back.
    """
    split = 8 // images
    number, zero = {}, 0
    for name, shape in SHAPES.items():
        number[name] = zero + np.arange(math.prod(shape)).reshape(shape)
        zero += math.prod(shape)

    def grouped(taps: Any, parts: int) -> Any:
        """(..., k, channels) to (groups, ..., k * channels of a group), the last axis padded to a multiple of 4."""
        width = -(-taps.shape[-1] // parts)
        groups = -(-taps.shape[-1] // width)
        padding = [(0, 0)] * (taps.ndim - 1) + [(0, groups * width - taps.shape[-1])]
        taps = np.pad(taps, padding, constant_values=zero).reshape(*taps.shape[:-1], groups, width)
        taps = np.moveaxis(taps, -2, 0)
        taps = taps.reshape(*taps.shape[:-2], taps.shape[-2] * width)
        return np.pad(taps, [(0, 0)] * (taps.ndim - 1) + [(0, -taps.shape[-1] % 4)], constant_values=zero)

    def strided(weight: Any) -> Any:
        """(25, 10, k, k) to [group][ky][channel][kx, channel of the group]."""
        return grouped(weight.transpose(2, 1, 3, 0), 4 * split).ravel()

    def transposed(weight: Any) -> Any:
        """(25, 10, k, k) to [group][parity][ky][channel][kx of the parity, channel of the group]."""
        taps = weight.transpose(2, 0, 3, 1)
        groups = [grouped(taps[:, :, first::2], split) for first in (1, 0)]
        return np.concatenate([part.ravel() for pair in zip(*groups, strict=True) for part in pair])

    first = grouped(number["0.weight"][:, 0].transpose(1, 2, 0), 2 * split).ravel()
    forward = np.concatenate([first, strided(number["2.weight"]), transposed(number["4.weight"])])
    backward_3 = strided(number["4.weight"])
    last = np.pad(number["0.weight"][:, 0], ((0, 0), (0, 0), (0, 3)), constant_values=zero).ravel()
    backward = np.concatenate([transposed(number["2.weight"]), last])
    small = np.concatenate([number[name].ravel() for name in SMALL])
    padding = np.full(SMALL_WORDS - len(small), zero)
    order = np.concatenate([small, padding, forward, backward_3, backward])
    return Layout(order, max(map(len, (forward, backward_3, backward))))


@cache
def _plan(num_steps: int, every: int, num_slots: int) -> Array:
    return device().xp.asarray(backward_plan(num_steps, every, num_slots))


@cache
def _order(images: int) -> Array:
    return device().xp.asarray(layout(images).order)
