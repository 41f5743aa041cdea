"""Instructions of the convolution's inner loops, counted in the machine code: needs NVRTC and nvdisasm, but no GPU.

A scheduler issues one instruction a clock, and a tensor core takes four clocks for a TF32 product of 16 x 8 x 8: what
is beyond four instructions a product is lost. So a change that needs more of them has to fail here.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="malade_gpu needs Numba, which is not installed")

from malade_gpu import resources
from malade_gpu.device import KERNELS
from malade_gpu.ops.conv import tile_of
from malade_gpu.resources import compile_text
from malade_gpu.source import read_source
from malade_ref.checks import InputError

# Precision and columns of a tile: products of a warp's step, and the most instructions around them, these included, of
# `correlate` and of `weight_gradient`. What NVRTC 13.5 makes of them for sm_90, and 2% for its next versions.
MOST = {
    ("tf32", 64): (64, 351, 425),
    ("tf32", 128): (64, 306, 392),
    ("bf16", 64): (32, 251, 293),
    ("bf16", 128): (32, 211, 261),
    ("tf32x3", 64): (96, 640, 680),
    ("fp32", 64): (1024, 1273, 1410),
}
PRODUCT = {"tf32": "HMMA", "bf16": "HMMA", "tf32x3": "HMMA", "fp32": "FFMA"}
INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")
LABEL = re.compile(r"(\.L_x_\w+):")
JUMP = re.compile(r"\bBRA\b.*`\((\.L_x_\w+)\)")


def instructions_of(listing: str) -> dict[str, list[tuple[str, str]]]:
    """Kernels of nvdisasm's listing: their instructions, each with the labels that stand before it."""
    kernels: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    labels = ""
    for line in listing.splitlines():
        if line.startswith(".text."):
            current, labels = kernels.setdefault(line.removeprefix(".text.").rstrip(":"), []), ""
        elif found := LABEL.match(line):
            labels += found[1] + " "
        elif found := INSTRUCTION.match(line):
            current.append((labels, found[1]))
            labels = ""
    return kernels


def inner_loop(instructions: list[tuple[str, str]], product: str) -> list[str]:
    """The shortest loop that contains a product."""
    where = {label: i for i, (labels, _) in enumerate(instructions) for label in labels.split()}
    loops = []
    for end, (_, text) in enumerate(instructions):
        jump = JUMP.search(text)
        if jump and where.get(jump[1], end + 1) <= end:
            body = [body for _, body in instructions[where[jump[1]] : end + 1]]
            if any(product in line for line in body):
                loops.append(body)
    return min(loops, key=len)


@pytest.fixture(scope="module")
def nvdisasm() -> str:
    """Path of the disassembler: of a toolkit, or of the package nvidia-cuda-nvdisasm."""
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations if package else None
    wheels = [path for folder in folders or () for path in Path(folder).glob("cu*/bin/nvdisasm")]
    program = shutil.which("nvdisasm") or next(map(str, wheels), None)
    if program is None:
        pytest.skip("counting instructions needs nvdisasm (pip install nvidia-cuda-nvdisasm)")
    return program


@pytest.mark.parametrize(("name", "columns"), MOST, ids=["-".join(map(str, key)) for key in MOST])
def test_instructions_of_inner_loops(nvdisasm: str, tmp_path: Path, name: str, columns: int) -> None:
    try:
        resources._nvrtc()
    except InputError as error:
        pytest.skip(str(error))
    tile = tile_of("float32", name, columns, (4, 4))
    compiled = compile_text(read_source(KERNELS / "conv.cuh"), tile.defines, 90)
    (tmp_path / "conv.cubin").write_bytes(compiled.machine_code)
    listing = subprocess.run(
        [nvdisasm, "-c", str(tmp_path / "conv.cubin")], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    kernels = instructions_of(listing)
    products, *most = MOST[name, columns]
    for kernel, limit in zip(("correlate", "weight_gradient"), most, strict=True):
        loop = inner_loop(kernels[kernel], PRODUCT[name])
        assert sum(PRODUCT[name] in line for line in loop) == products
        assert len(loop) <= limit, f"{kernel}: {len(loop)} instructions for {products} products, at most {limit} before"


LISTING = """
.text.other:
.L_x_9:
        /*0000*/                   HMMA.1688.F32.TF32 R4, R8, R12, R4 ;
        /*0010*/                   BRA `(.L_x_9);
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
.L_x_1:
        /*0010*/              @!P0 LDS R2, [R3] ;
.L_x_2:
        /*0020*/                   HMMA.1688.F32.TF32 R4, R8, R12, R4 ;
        /*0030*/              @P1  BRA `(.L_x_3) ;
        /*0040*/               @P0 BRA `(.L_x_2) ;
.L_x_3:
        /*0050*/               @P2 BRA `(.L_x_1) ;
.L_x_4:
        /*0060*/                   BRA `(.L_x_4);
"""


def test_the_inner_loop_is_found() -> None:
    loop = inner_loop(instructions_of(LISTING)["kernel"], "HMMA")
    assert [line.split()[0] for line in loop] == ["HMMA.1688.F32.TF32", "@P1", "@P0"]
    assert len(inner_loop(instructions_of(LISTING)["other"], "HMMA")) == 2
