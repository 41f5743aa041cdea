"""The emulated device's copies, matrix products and warp operations, in every schedule."""

from __future__ import annotations

import pytest

from malade_gpu.emulation import SCHEDULES
from tests.instructions import INSTRUCTIONS, Instruction, check, launched
from tests.marks import slow_but

from .programs import Program, all_alike

QUICK = [instruction for instruction in INSTRUCTIONS if instruction.name in ("async_copy", "mma_tf32", "atomics")]


@pytest.mark.parametrize("instruction", slow_but(QUICK, INSTRUCTIONS), ids=lambda instruction: instruction.name)
def test_instructions(instruction: Instruction) -> None:
    results = [
        launched(
            instruction, lambda *arguments, schedule=schedule: instruction.program.run(*arguments, schedule=schedule)
        )
        for schedule in SCHEDULES
    ]
    for result in results:
        check(instruction, result)
    assert all_alike(results)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("to_tf32", "to_tf32(x[threadIdx.x])", "__float_as_uint(x[threadIdx.x]) & 0xffffe000u"),
        ("pack_bf16", "(threadIdx.x + 1)", "(threadIdx.x + 2)"),
        ("mma_tf32", "(g + 8 * (i % 2)) * 8 + t + 4 * (i / 2)", "(g + 8 * (i / 2)) * 8 + t + 4 * (i % 2)"),
        ("mma_bf16", "2 * t + 8 * (i / 2)", "2 * t + 8 * (i % 2)"),
        ("pack_f16", "(threadIdx.x + 1)", "(threadIdx.x + 2)"),
        ("mma_f16", "2 * t + 8 * (i / 2)", "2 * t + 8 * (i % 2)"),
        (
            "async_copy",
            "async_copy<8>(tile + 32 + 2 * i, x + 2 * i, i != 3)",
            "async_copy<8>(tile + 32 + 2 * i, x + 2 * i, true)",
        ),
        (
            "shuffle-1-32",
            "__shfl_down_sync(0xffffffffu, value, distance",
            "__shfl_down_sync(0xffffffffu, value, distance + 1",
        ),
        ("separate", "__fadd_rn(__fmul_rn(a[i], b[i]), c[i])", "static_cast<float>(double(a[i]) * b[i] + c[i])"),
    ],
)
def test_planted_errors_are_caught(name: str, old: str, new: str) -> None:
    right = next(instruction for instruction in INSTRUCTIONS if instruction.name == name)
    wrong = right._replace(program=_but(right.program, old, new))
    with pytest.raises(AssertionError):
        check(wrong, launched(wrong, wrong.program.run))


def _but(program: Program, old: str, new: str) -> Program:
    return program.but(old, new)
