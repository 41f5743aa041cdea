"""What is known of all ops and kernels, and that one which was not met is named."""

from __future__ import annotations

import json
from pathlib import Path

from .backends import gpu
from .meets import WITHOUT_ARRAYS, bodies_of, every_body, every_kernel, not_met

SOURCE = """
@element
def helper(x): pass
@element
def body(i, out): pass
@cache
def factory(dtype):
    @element_with(z=(4, float32))
    def body(i, out, z): pass
    return body
"""


def test_bodies_are_found() -> None:
    assert bodies_of("some", SOURCE) == {"some.body", "some.factory"}
    assert {"layers.tanh", "mixture.hessians", "langevin.step"} <= every_body()
    assert {"correlate", "chain", "chain_half"} <= every_kernel()


def test_what_was_not_met_is_named(tmp_path: Path) -> None:
    ops = {*gpu.__all__} - WITHOUT_ARRAYS
    log = tmp_path / "log"
    log.write_text("".join(f"device[1]: RAN {name} [module 1] 2 launches\n" for name in every_kernel() - {"chain"}))
    note = {"ops": sorted(ops - {"relu"}), "bodies": sorted(every_body() - {"layers.tanh"})}
    (tmp_path / "1.json").write_text(json.dumps(note))
    assert not_met(tmp_path, [log]) == ["op relu", "element kernel layers.tanh", "CUDA C++ kernel chain"]
