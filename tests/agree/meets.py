"""What a run of tests meets on a device: ops that were called, kernels that were launched, against all there are.

    MALADE_GPU_MEETS=FOLDER pytest ...             each process writes down what it met
    python -m tests.agree.meets FOLDER [LOG...]    exit code 1, with their names, if some were not met

LOG: of the CUDA device in software, which says which CUDA C++ kernels ran.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).parents[2] / "malade_gpu" / "kernels"
# They launch nothing and touch no array.
WITHOUT_ARRAYS = {"device_settings", "describe_device", "num_threads", "copies_at_once", "map_slices"}


def bodies_of(module: str, source: str) -> set[str]:
    """Bodies of element kernels in a file: decorated functions of an index i; those in a function by its name."""
    found = set()
    for outer in ast.parse(source).body:
        for node in ast.walk(outer):
            if not isinstance(node, ast.FunctionDef) or not node.args.args or node.args.args[0].arg != "i":
                continue
            decorators = {ast.unparse(decorator).split("(")[0] for decorator in node.decorator_list}
            if decorators & {"element", "element_with"}:
                assert isinstance(outer, ast.FunctionDef)
                found.add(f"{module}.{outer.name}")
    return found


def every_body() -> set[str]:
    return {name for path in KERNELS.glob("*.py") for name in bodies_of(path.stem, path.read_text())}


def every_kernel() -> set[str]:
    """Kernels in CUDA C++."""
    from malade_gpu.source import kernels_of

    return {name for path in KERNELS.glob("*.cuh") for name in kernels_of(path.read_text(), {"REAL": "float"})}


@contextmanager
def written_down(folder: Path) -> Iterator[None]:
    """Note which ops are called and which bodies launched in this block."""
    from malade_gpu import ops
    from malade_gpu.device import device

    called: set[str] = set()

    def noting(name: str, op: Any) -> Any:
        @functools.wraps(op)
        def call(*args: Any, **settings: Any) -> Any:
            called.add(name)
            return op(*args, **settings)

        return call

    before = {name: getattr(ops, name) for name in ops.__all__}
    for name, op in before.items():
        setattr(ops, name, noting(name, op))
    try:
        yield
    finally:
        for name, op in before.items():
            setattr(ops, name, op)
        launched = [key[0].py_func for key in getattr(device(), "_elements", {})]
        bodies = {f"{body.__module__.split('.')[-1]}.{body.__qualname__.split('.')[0]}" for body in launched}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{os.getpid()}.json").write_text(json.dumps({"ops": sorted(called), "bodies": sorted(bodies)}))


def not_met(folder: Path, logs: list[Path]) -> list[str]:
    """Names of ops, bodies and kernels that nothing met."""
    from malade_gpu import ops

    notes = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    called = {name for note in notes for name in note["ops"]}
    launched = {name for note in notes for name in note["bodies"]}
    ran = {name for log in logs for name in re.findall(r"RAN (\w+)", log.read_text())}
    return [
        *(f"op {name}" for name in sorted({*ops.__all__} - WITHOUT_ARRAYS - called)),
        *(f"element kernel {name}" for name in sorted(every_body() - launched)),
        *(f"CUDA C++ kernel {name}" for name in sorted(every_kernel() - ran)),
    ]


if __name__ == "__main__":
    missing = not_met(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
    print("\n".join(f"never met: {name}" for name in missing) or "every op and every kernel was met")
    sys.exit(bool(missing))
