"""Bodies per element: typed alike by both compilers, and nothing float64 where everything is float32."""

from __future__ import annotations

import importlib
import inspect
import re
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from malade_gpu import resources
from malade_gpu.device import KERNELS
from malade_gpu.elements import cpu_kernel, element, element_with, gpu_function
from malade_gpu.kernels import mixture
from malade_ref.checks import InputError

from .backends import device

numba = pytest.importorskip("numba")
F32, F64, BOOL = numba.float32, numba.float64, numba.boolean
U32, U64, I64 = numba.uint32, numba.uint64, numba.int64


def array_of(type_: Any) -> Any:
    return numba.types.Array(type_, 1, "C")


# What a parameter is, by its name, when the op is called with float32 arrays.
SCALARS = {
    **dict.fromkeys(("a", "alpha", "delta", "step_size", "width", "momentum", "rate", "learning_rate", "epsilon"), F32),
    **dict.fromkeys(("rest", "beta", "overshoot"), F32),
    **dict.fromkeys(("slope", "threshold", "low", "high", "root_half", "peak", "cubic", "thrice_cubic"), F32),
    "targeted": I64,
    "keyed": BOOL,
    **dict.fromkeys(("beta1", "rest1", "beta2", "rest2", "correction1", "correction2"), F32),
    **dict.fromkeys(("num_blocks", "size", "channels", "run", "h", "w", "oh", "ow", "th", "tw"), I64),
    **dict.fromkeys(("area", "side", "num_words"), I64),
    **dict.fromkeys(("sh", "sw", "ph", "pw", "with_pad", "corners", "kh", "kw", "dh", "dw"), I64),
    **dict.fromkeys(("inputs", "outputs", "of_group", "per_group", "num_images", "num_parts"), I64),
    **dict.fromkeys(("divisor", "one"), F32),
    **dict.fromkeys(("step", "first_step", "k0", "k1", "a0", "a1"), U32),
    **dict.fromkeys(("num_classes", "num_steps"), I64),
    "scale": F32,
    "eps": F64,
}
ARRAYS = {
    **dict.fromkeys(("condition", "success", "best_success"), BOOL),
    **dict.fromkeys(("labels", "targets", "num_accepted"), I64),
    **dict.fromkeys(
        ("sample_index", "words_0", "words_1", "c0", "c1", "c2", "c3", "o0", "o1", "o2", "o3", "keys"), U32
    ),
    **dict.fromkeys(("words", "keys_0", "keys_1"), U32),
    "index": numba.int32,
    **dict.fromkeys(("top", "left", "flip"), I64),
    "limit": U64,
    # Sums, and what is known of a sample, in float64 whatever the images are.
    **dict.fromkeys(("parts", "total", "changed", "of_first", "of_both", "of_all", "sum_first", "sum_both"), F64),
    **dict.fromkeys(
        ("sum_all", "sum_mixed", "dot", "squares", "distance", "remainder", "dots", "noises", "distances"), F64
    ),
    **dict.fromkeys(("rests", "new_distances", "spherical_step", "source_step"), F64),
}
OUTPUTS = {
    **dict.fromkeys(("memory.argmax", "losses.other_classes"), I64),
    **dict.fromkeys(("attack_steps.better", "metropolis.accept"), BOOL),
    "random.fill_words": U32,
}
BYTES_OF_SINE = 28
# The bounds of a pixel are computed in float64 on purpose: rounding must not let a pixel out of its ball.
EXACT_BOUNDS = {
    f"attack_steps.{name}" for name in ("LINF_BOUNDS", "PROJECT_LINF", "RANDOM_START_LINF", "APGD_STEP_LINF")
}
# Near the ends of [0, 1], where the variable is all but infinite, float32 would lose its digits.
EXACT_BOUNDS.add("minimum_norm.to_tanh_space")
# Sums over an image are added in float64, and what they are made of.
IN_DOUBLE = ("add_rows", "pixel_changed", "boundary_pull", "square_sums", "square_mixed_sums", "square_move")
IN_DOUBLE += ("SQUARE_START_LINF", "SQUARE_STEP_LINF", "BOUNDARY_ALONG", "BOUNDARY_ACROSS", "BOUNDARY_SPHERE")
EXACT_BOUNDS |= {f"proposals.{name}" for name in IN_DOUBLE}
# Differences of logarithms that are nearly equal.
EXACT_BOUNDS |= {"losses.kl_divergence", "losses.kl_divergence_vjp"}
# Sums over all images.
EXACT_BOUNDS |= {"conv_grouped.weight_gradient", "conv_grouped.add_parts"}


def bodies() -> dict[str, Any]:
    """All bodies that kernels are made of, for float32."""
    found = {}
    for module_name in sorted(path.stem for path in KERNELS.glob("[!_]*.py")):
        module = importlib.import_module(f"malade_gpu.kernels.{module_name}")
        for name, value in vars(module).items():
            body = value.get("float32") if isinstance(value, dict) else value
            if hasattr(body, "py_func") and next(iter(inspect.signature(body.py_func).parameters), "") == "i":
                found[f"{module_name}.{name}"] = body
    for make in (mixture.log_densities, mixture.scores, mixture.hessians, mixture.responsibilities, mixture.chain):
        found |= {f"mixture.{make.__name__} of {d} dimensions": make("float32", d) for d in (2, 16)}
    found["mixture.chain without a test"] = mixture.chain("float32", 2, False)
    # Parts of others.
    for part in (
        "random.words_of",
        "proposals.words_of",
        "proposals.offset",
        "proposals.square_mixture",
        "proposals.FOUR",
    ):
        found.pop(part, None)
    return found


BODIES = bodies()


def signature_of(name: str, f: Any) -> tuple[Any, ...]:
    """Types of what a body, or the kernel around it, takes."""
    types = [I64]
    for parameter in list(inspect.signature(f).parameters)[1:]:
        default = OUTPUTS.get(name, F32) if parameter == "out" else F32
        types.append(SCALARS[parameter] if parameter in SCALARS else array_of(ARRAYS.get(parameter, default)))
    return tuple(types)


def float64_variables(dispatcher: Any, types: tuple[Any, ...]) -> list[str]:
    """Names of float64 variables in a function compiled for given types, and in those that it calls."""
    dispatcher.compile(types)
    annotation = dispatcher.overloads[types].type_annotation
    name = dispatcher.py_func.__name__
    found = [f"{name}: {variable}" for variable, type_ in annotation.typemap.items() if type_ == F64]
    for call, signature in annotation.calltypes.items():
        function = annotation.typemap.get(call.func.name) if getattr(call, "op", "") == "call" else None
        if isinstance(function, numba.types.Dispatcher):
            found += float64_variables(function.dispatcher, signature.args)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BODIES) - EXACT_BOUNDS))
def test_no_float64_in_float32(name: str) -> None:
    assert float64_variables(BODIES[name], signature_of(name, BODIES[name].py_func)) == []


def test_a_careless_literal_is_seen() -> None:
    @element
    def careless(i: Any, out: Any, x: Any) -> None:
        out[i] = x[i] * 2.5

    @element
    def calls_it(i: Any, out: Any, x: Any) -> None:
        careless(i, out, x)

    types = (I64, array_of(F32), array_of(F32))
    assert float64_variables(careless, types)
    assert float64_variables(calls_it, types)


@pytest.mark.parametrize("name", sorted(BODIES))
def test_compiles_for_a_gpu(name: str) -> None:
    """Down to PTX, without a driver."""
    pytest.importorskip("numba_cuda", reason="compiling for a GPU needs numba-cuda")
    cuda = pytest.importorskip("numba.cuda")
    nvvm = pytest.importorskip("numba.cuda.cudadrv.nvvm")
    if not nvvm.is_available():
        pytest.skip("compiling for a GPU needs NVVM, of the CUDA toolkit or of nvidia-cuda-nvcc")
    try:
        resources._nvrtc()
    except InputError as error:
        pytest.skip(str(error))
    kernel = gpu_function(BODIES[name])
    somewhere = SimpleNamespace(compute_capability=(9, 0))
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=somewhere):
        ptx, _ = cuda.compile_ptx(kernel, signature_of(name, kernel), cc=(9, 0))
    assert ".entry" in ptx
    # Scratch of a few numbers is kept in registers. Only the sine of a huge angle has bytes in memory of its own.
    in_memory = sum(map(int, re.findall(r"__local_depot\d+\[(\d+)\]", ptx)))
    # Of a Hessian's two indices at least one is not known to the compiler.
    assert in_memory <= BYTES_OF_SINE or name == "mixture.hessians of 16 dimensions"


def test_kernels_take_the_parameters_of_their_body() -> None:
    @element
    def scaled(i: Any, out: Any, x: Any, factor: Any) -> None:
        out[i] = factor * x[i]

    assert list(inspect.signature(gpu_function(scaled)).parameters) == ["count", "out", "x", "factor"]
    x = np.arange(5, dtype="float32")
    out = np.zeros_like(x)
    cpu_kernel(scaled)(4, out, x, np.float32(2))
    assert out.tolist() == [0, 2, 4, 6, 0]
    assert cpu_kernel(scaled) is cpu_kernel(scaled)


def test_indices_are_checked() -> None:
    """In all of these tests: tests/conftest.py asks for it."""

    @element
    def shifted(i: Any, out: Any, x: Any) -> None:
        out[i] = x[i + 1]

    out = np.zeros(4, dtype="float32")
    with pytest.raises(IndexError):
        cpu_kernel(shifted)(4, out, np.ones(4, dtype="float32"))
    cpu_kernel(shifted)(4, out, np.ones(5, dtype="float32"))
    assert out.all()


def test_no_elements_no_launch() -> None:
    device().for_elements(None, 0)


def test_scratch_belongs_to_the_element() -> None:
    @element_with(z=(2, F32), w=(1, I64))
    def sums(i: Any, out: Any, x: Any, forgets: Any, z: Any, w: Any) -> None:
        if not forgets:
            z[0] = x[i]
            w[0] = i
        z[1] = z[0] + z[0]
        out[i] = z[1] + w[0] if not forgets else z[1]

    assert list(inspect.signature(gpu_function(sums)).parameters) == ["count", "out", "x", "forgets"]
    x, out = np.arange(5, dtype="float32"), np.zeros(5, dtype="float32")
    cpu_kernel(sums)(5, out, x, False)
    assert out.tolist() == [0, 3, 6, 9, 12]
    cpu_kernel(sums)(5, out, x, True)
    assert np.isnan(out).all()
