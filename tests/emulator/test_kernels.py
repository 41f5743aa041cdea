"""Every CUDA C++ kernel of the package: the same bits in all schedules, and clean under the sanitizers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

import malade_ref

pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")

from malade_gpu.device import KERNELS
from malade_gpu.emulation import SCHEDULES, build, sanitize
from malade_gpu.ops import chain_half as half
from malade_gpu.ops.chain import PIXELS, SAVED, SHAPES, SMALL, Variant, backward_plan, layout
from malade_gpu.resources import units
from malade_gpu.source import kernels_of
from tests.marks import slow_but


class Launch(NamedTuple):
    """One launch of a kernel, small enough for the sanitizers."""

    file: str
    kernel: str
    grid: Sequence[int]
    block: Sequence[int]
    arguments: tuple[Any, ...]
    shared_bytes: int = 0
    defines: Any = None


def rows() -> list[Launch]:
    """Two samples of 37 and of 300 numbers: fewer and more than a block has threads."""
    found = []
    for size, real, dtype in ((37, "float", "float32"), (300, "double", "float64")):
        rng = np.random.default_rng(size)
        x, centre, normal = rng.random((3, 2, size)).astype(dtype)
        out, numbers = np.full_like(x, np.nan), np.full(2, np.nan)
        uniform, sums = rng.random(2).astype(dtype), np.full(2, np.nan, dtype=dtype)
        half = normal.dtype.type(0.5)
        for kernel, arguments in (
            ("normalised_step", (x, normal, out, size, 0.1)),
            ("project_l2", (x, centre, out, size, 0.5, 0.4)),
            ("random_start_l2", (centre, normal, uniform, out, size, 0.5, 0.45, 0.4)),
            ("distance_l2", (x, centre, numbers, size)),
            ("distance_linf", (x, centre, numbers, size)),
            ("squared_error", (x, centre, sums, size)),
            ("apgd_step_l2", (x, x[::-1].copy(), normal, centre, uniform, out, size, 0.75, 0.5, 0.4)),
            ("momentum_step", (x, normal, out, size, 0.9)),
            ("plane_step", (x, centre, normal - half, np.array([1.0, -2.0]), out, size, 1)),
            ("distance_l1", (x, centre, numbers, size)),
        ):
            found.append(Launch("rows", kernel, (2,), (128,), arguments, defines={"REAL": real}))
    return found


def channels() -> list[Launch]:
    """Three channels of numbers for one block and for several, neighbours of one channel and of different ones."""
    found = []
    for count, run, real, dtype in ((300, 1, "float", "float32"), (16384 + 40, 8, "double", "float64")):
        rng = np.random.default_rng(count)
        x, dy = rng.random((2, count // run, 3, run)).astype(dtype)
        mean, variance = rng.random((2, 3)).astype(dtype)
        num_chunks = -(-count // 16384)
        sums, exact, rounded = np.full((3, num_chunks), np.nan), np.full(3, np.nan), np.full(3, np.nan, dtype)
        for kernel, grid, arguments in (
            ("channel_sums", (3, num_chunks), (x, sums, count, run)),
            ("channel_squares", (3, num_chunks), (x, mean.astype("float64"), sums, count, run)),
            ("channel_products", (3, num_chunks), (dy, x, mean, variance, sums, count, run, 1e-5)),
            ("channel_totals", (3,), (rng.random((3, num_chunks)), exact, rounded, num_chunks, 7.0)),
        ):
            found.append(Launch("channels", kernel, grid, (128,), arguments, defines={"REAL": real}))
    return found


def groups() -> list[Launch]:
    """Two samples of three groups: fewer numbers than threads, neighbours; and more, two by two."""
    found = []
    for count, run, real, dtype in ((35, 35, "float", "float32"), (300, 2, "double", "float64")):
        rng = np.random.default_rng(count)
        x, dz = rng.random((2, 2, 3 * count)).astype(dtype)
        out, scale = np.full_like(x, np.nan), np.full(6, np.nan, dtype)
        for kernel, arguments in (
            ("standardise", (x, out, scale, count, 3, run, 1e-5)),
            ("standardise_vjp", (dz, x, rng.random(6).astype(dtype), out, count, 3, run)),
        ):
            found.append(Launch("groups", kernel, (6,), (128,), arguments, defines={"REAL": real}))
    return found


def softmax() -> list[Launch]:
    """Five samples, one more than a block takes; fewer and more classes than a warp has lanes."""
    found = []
    for k, real, dtype in ((10, "float", "float32"), (70, "double", "float64")):
        rng = np.random.default_rng(k)
        logits, labels = rng.standard_normal((5, k)).astype(dtype), np.array([0, 3, 9, 1, 1])
        out, loss, dloss = np.full_like(logits, np.nan), np.full(5, np.nan, dtype), np.ones(5, dtype)
        for kernel, arguments in (
            ("log_softmax", (logits, out)),
            ("cross_entropy", (logits, labels, loss)),
            ("cross_entropy_vjp", (dloss, logits, labels, out)),
        ):
            found.append(Launch("softmax", kernel, (2,), (128,), (*arguments, 5, k), defines={"REAL": real}))
    return found


def conv() -> list[Launch]:
    """Two images of 5 x 6, windows of 3 x 2 with a stride of 2 x 1; two blocks of columns, two parts of a sum.

    Every precision, the narrowest and the widest tiles, numbers one by one and in fours, channels in one go and by 16.
    """
    found = []
    cases = (
        *(("float", "float32", tile, 0, 3, tile + 1) for tile in (4, 64)),
        ("double", "float64", 32, 0, 3, 33),
        *(("float", "float32", 8, precision, 3, 9) for precision in (1, 2, 3)),
        ("float", "float32", 64, 1, 4, 68),
        ("float", "float32", 4, 0, 4, 8),
        ("float", "float32", 16, 2, 32, 20),
        ("float", "float32", 64, 3, 8, 68),
    )
    for number, (real, dtype, tile, precision, channels, columns) in enumerate(cases):
        rng = np.random.default_rng(tile)
        n, (h, w), (kh, kw), (rows, cols) = 2, (5, 6), (3, 2), (3, 6)
        num_pixels, num_taps = n * rows * cols, kh * kw * channels
        laid_out = -(-columns // tile), -(-num_taps // 16), 16 * tile
        x, weight, dy, weights = (
            rng.standard_normal(shape).astype(dtype)
            for shape in ((n, h, w, channels), (columns, channels, kh, kw), (num_pixels, columns), laid_out)
        )
        y, dweight = np.full((num_pixels, columns), np.nan, dtype), np.full((columns, channels, kh, kw), np.nan, dtype)
        parts = np.full((2, num_taps, columns), np.nan, dtype)
        rows_of_tile = 256 if tile == 64 and precision >= 2 else 64 if tile >= 32 and real == "double" else 128
        windows = h, w, channels, kw, 2, 1, 1, 0, rows, cols
        sizes = num_pixels, num_taps, columns
        left, right = (4 if count % 4 == 0 else 1 for count in (channels, columns))
        vectors = {"LEFT_VECTOR": left, "RIGHT_VECTOR": right}
        settings = {"block": (128,), "defines": {"REAL": real, "TILE_N": tile, "PRECISION": precision, **vectors}}
        buffers = {"shared_bytes": 3 * 16 * (rows_of_tile + tile) * np.dtype(dtype).itemsize}
        grid = -(-num_pixels // rows_of_tile), -(-columns // tile)
        placed = rows, cols, 1, 1, 0, 0
        bias, activated = (rng.random(shape).astype(dtype) for shape in (columns, y.shape))
        finish = bias, activated, True, number % 3, (number + 1) % 3
        arguments: tuple[Any, ...] = x, weights, y, *sizes, *windows, *placed, *finish
        found.append(Launch("conv", "correlate", grid, arguments=arguments, **buffers, **settings))
        grid = -(-num_taps // rows_of_tile), -(-columns // tile), 2
        arguments = x, dy, parts, *sizes, 20, *windows
        found.append(Launch("conv", "weight_gradient", grid, arguments=arguments, **buffers, **settings))
        if precision in (0, 2):
            steps = num_taps, columns, channels, kw, 0, kw, 1, kh * kw, channels * kh * kw
            arguments = weight, np.full_like(weights, np.nan), *steps
            found.append(Launch("conv", "lay_out", (-(-weights.size // 128),), arguments=arguments, **settings))
        if precision == 0:
            arguments = rng.random(parts.shape).astype(dtype), dweight, 2, columns, channels, kh * kw
            found.append(Launch("conv", "add_parts", (-(-dweight.size // 128),), arguments=arguments, **settings))
    return found


def narrow() -> list[Launch]:
    """Two images of 5 x 7, windows of 3 x 2, a stride of 2 x 1; blocks of four rows, bands of two; one part and two."""
    found = []
    for number, (real, dtype, vector, o, part) in enumerate(
        (("float", "float32", 4, 132, 128), ("float", "float32", 1, 9, 128), ("double", "float64", 1, 65, 64))
    ):
        rng = np.random.default_rng(number)
        n, (h, w, c), (oh, ow), (kh, kw), ring = 2, (5, 7, 2), (3, 7), (3, 2), 2
        dy, weight, bias, activated = (
            rng.standard_normal(shape).astype(dtype) for shape in ((n, oh, ow, o), (kh * kw * c, o), c, (n, h, w, c))
        )
        dx = np.full_like(activated, np.nan)
        sizes = kh * kw * c, o, oh, ow, kh, kw, 2, 1, 1, 0, h, w, 4, 2, ring
        finish = bias, activated, True, number, (number + 1) % 3
        shared_bytes = kh * kw * c * (part + ring * ow) * dx.itemsize
        arguments = dy, weight, dx, *sizes, *finish
        defines = {"REAL": real, "VECTOR": vector}
        found.append(Launch("narrow", "spread", (n, 2), (128,), arguments, shared_bytes, defines))
    return found


def chain() -> list[Launch]:
    """Two images and a third that is not there, two steps; weights in shared memory, and one block; or not, and two."""
    found = []
    for images, resident, grid in ((4, 1, 1), (2, 0, 2)):
        rng = np.random.default_rng(images)
        variant = Variant(images, bool(resident), grid)
        n, num_slots, params = 3, 1, malade_ref.sdae().params
        words = np.concatenate([*(params[name].ravel() for name in SHAPES), np.zeros(1, "float32")])
        x, y, dx = rng.random((3, n, 1, 28, 28)).astype("float32")
        weights, index = words[layout(images).order], np.array([5, 0, 2**32 - 1], "uint32")
        kept = rng.random((1, *x.shape)).astype("float32")
        scratch = np.zeros((grid, num_slots * PIXELS + SAVED, images), "float32")
        plan, keys = backward_plan(4, 2, num_slots), np.arange(2 * n, dtype="uint32")
        numbers = variant.region_words, 3, grid == 1, 1, 2, 0.5, 0.2, True
        for kernel, arguments in (
            ("chain", (x, y, kept, index, keys, weights, n, 3, 2)),
            ("chain_vjp", (x, dx, kept, scratch, plan, index, keys, weights, n, len(plan), 1, num_slots)),
        ):
            found.append(
                Launch(
                    *("chain", kernel, (grid,), (256,), (*arguments, *numbers), variant.shared_bytes),
                    defines={"IMAGES": images, "RESIDENT": resident},
                )
            )
    return found


def chain_half() -> list[Launch]:
    """An image, two steps and one; all weights in shared memory, or not all."""
    found = []
    params = malade_ref.sdae().params
    small = np.concatenate([params[name].ravel() for name in SMALL])
    flat = [*(params[name].ravel() for name in ("0.weight", "2.weight", "4.weight")), np.zeros(1, "float32")]
    weights = np.concatenate(flat)[half.order()].astype("float16").view("uint32")
    for resident, num_steps in ((True, 2), (False, 1)):
        x, y = np.random.default_rng(0).random((2, 1, 1, 28, 28)).astype("float32")
        index, keys = np.array([5], "uint32"), np.array([6, 7], "uint32")
        arrays = x, y, np.zeros_like(y)[None], index, keys, small, weights
        arguments = *arrays, 1, num_steps, 1, 3, resident, 1, 2, 0.5, 0.2, True
        found.append(
            Launch(
                *("chain_half", "chain_half", (1,), (half.THREADS,), arguments, half.shared_bytes(resident)),
                defines={"RESIDENT": int(resident)},
            )
        )
    return found


LAUNCHES = rows() + channels() + groups() + softmax() + conv() + narrow() + chain() + chain_half()
NAMES = [f"{launch.file}.{launch.kernel}-{i}" for i, launch in enumerate(LAUNCHES)]


def fresh(launch: Launch) -> tuple[Any, ...]:
    return tuple(np.copy(value) if isinstance(value, np.ndarray) else value for value in launch.arguments)


def run(launch: Launch, schedule: Any, capability: int = 90) -> list[np.ndarray]:
    """All arrays after the launch."""
    arguments = fresh(launch)
    build(KERNELS / f"{launch.file}.cuh", defines=launch.defines, capability=capability).launch(
        launch.kernel, launch.grid, launch.block, arguments, shared_bytes=launch.shared_bytes, schedule=schedule
    )
    return [value for value in arguments if isinstance(value, np.ndarray)]


def test_every_kernel_is_here() -> None:
    everywhere = {
        (path.stem, kernel)
        for path in KERNELS.glob("*.cuh")
        for kernel in kernels_of(path.read_text(), {"REAL": "float"})
    }
    assert {(launch.file, launch.kernel) for launch in LAUNCHES} == everywhere
    # And none is declared in a way that `kernels_of` overlooks.
    text = "\n".join(path.read_text() for path in KERNELS.glob("*.cuh"))
    assert len(re.findall(r"^[^/\n]*__global__", text, re.MULTILINE)) == len(everywhere)


def test_every_way_to_compile_them_is_here() -> None:
    """But for the widths of tiles and the images of a block, of which some must do."""

    def variant(file: str, defines: Any) -> tuple[Any, ...]:
        return file, *(
            (name, value) for name, value in sorted(defines.items()) if not name.startswith(("TILE", "IMAGES"))
        )

    launched = {variant(launch.file, launch.defines) for launch in LAUNCHES}
    assert {variant(unit.file, unit.defines) for unit in units()} == launched


# The first launch of each kernel is quick enough to be tried always.
FIRST = [[other.kernel for other in LAUNCHES].index(launch.kernel) for launch in LAUNCHES]


@pytest.mark.slow
@pytest.mark.parametrize("number", slow_but(FIRST, range(len(LAUNCHES))), ids=NAMES)
def test_schedules_make_no_difference(number: int) -> None:
    launch = LAUNCHES[number]
    first, *others = (run(launch, schedule) for schedule in SCHEDULES)
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert a.tobytes() == b.tobytes()
    assert all(np.isfinite(array).all() for array in first)


WITHOUT_TENSOR_CORES = [launch for launch in conv() if launch.defines["PRECISION"] == 0]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(WITHOUT_TENSOR_CORES)))
def test_gpus_without_asynchronous_copies_make_no_difference(number: int) -> None:
    launch = WITHOUT_TENSOR_CORES[number]
    for schedule in SCHEDULES:
        for older, newer in zip(run(launch, schedule, 75), run(launch, schedule), strict=True):
            assert older.tobytes() == newer.tobytes()


# Two steps of the chain in half precision are 25,000 products, each of which waits for 32 threads: one step will do.
SANITIZED = [(launch, name) for launch, name in zip(LAUNCHES, NAMES, strict=True) if launch.defines != {"RESIDENT": 1}]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
@pytest.mark.parametrize("launch", [launch for launch, _ in SANITIZED], ids=[name for _, name in SANITIZED])
def test_sanitizers_have_nothing_to_say(launch: Launch, sanitizer: str) -> None:
    arguments = fresh(launch)
    sanitize(
        KERNELS / f"{launch.file}.cuh",
        launch.kernel,
        launch.grid,
        launch.block,
        arguments,
        sanitizer=sanitizer,
        shared_bytes=launch.shared_bytes,
        defines=launch.defines,
    )
    results = [value for value in arguments if isinstance(value, np.ndarray)]
    for result, expected in zip(results, run(launch, SCHEDULES[0]), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-6)
