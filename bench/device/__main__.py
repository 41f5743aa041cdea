"""Measure malade_gpu on a device beside PyTorch and JAX.

    python -m bench.device                       everything, in about half an hour; needs a GPU
    python -m bench.device --quick               smaller batches, eager peers only: a look, no figures to quote
    python -m bench.device --check               exit 1 if something asked (`bench.device.work.BARS`) is not met
    python -m bench.device --out FILE.json       write everything there, after every work, and go on from there
    python -m bench.device --rehearse            without a GPU: tiny, on the emulated device; times mean nothing

Every backend computes the same function with the same weights and images, and is held against the NumPy reference
before it is timed; one that fails or disagrees is left out of that work, and the record says why. The table states
medians, how far apart the fastest and the slowest round are, the rate by the least operations, and the share of the
floor that the ceilings of the same run allow. Peers that compile for minutes take part where they are asked for by
name, or where a bar is set by them.

Adding to it: a row in `bench.device.work.WORKS`, or a backend in `STARTS` below.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.backends import UnavailableError
from bench.device.backends import Gpu, Torch
from bench.device.jax_peer import Jax
from bench.device.timing import allowed_error, ceilings, clocks, error_of, floor, smi, summary, take_turns
from bench.device.work import (
    BARS,
    QUICK,
    REHEARSAL,
    WORKS,
    Work,
    expected,
    least_bytes,
    least_flops,
    make_problem,
    verdicts,
)
from malade_ref.bundle.environment import describe_environment
from malade_ref.checks import InputError, check_count
from malade_ref.storage import atomic_write, load_json, to_json

Start = Callable[[bool], Any]

PRECISIONS = ("fp32", "tf32x3", "tf32", "bf16")
STARTS: dict[str, Start] = {
    **{f"gpu-{precision}": lambda _, precision=precision: Gpu(precision) for precision in PRECISIONS},
    "torch": lambda rehearse: Torch(compiled=False, tf32=False, rehearse=rehearse),
    "torch-tf32": lambda rehearse: Torch(compiled=False, tf32=True, rehearse=rehearse),
    "torch-compiled": lambda rehearse: Torch(compiled=True, tf32=False, rehearse=rehearse),
    "torch-compiled-tf32": lambda rehearse: Torch(compiled=True, tf32=True, rehearse=rehearse),
    "jax": lambda rehearse: Jax(tf32=False, rehearse=rehearse),
    "jax-tf32": lambda rehearse: Jax(tf32=True, rehearse=rehearse),
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.device", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted({work.name for work in (*WORKS, *QUICK, *REHEARSAL)})
    parser.add_argument(
        "--work", action="append", choices=names, metavar="NAME", help=f"only this one; repeat: {names}"
    )
    parser.add_argument("--backend", action="append", choices=list(STARTS), help="only this one; repeat")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each backend (default 7)")
    parser.add_argument("--time-limit", type=int, default=3000, metavar="SECONDS", help="no work begins later")
    parser.add_argument("--work-limit", type=int, default=60, metavar="SECONDS", help="no round of a work begins later")
    parser.add_argument("--quick", action="store_true", help="smaller batches, no compiled peers")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the emulated device")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is not met")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write everything there, and go on from there")
    options = parser.parse_args(arguments)
    for name in ("rounds", "time_limit", "work_limit"):
        check_count(f"--{name.replace('_', '-')}", getattr(options, name))
    if options.out is not None and not options.out.parent.is_dir():
        raise InputError(f"--out: {options.out.parent} is not a folder; make it, or choose another")
    return options


def works_of(options: argparse.Namespace) -> list[Work]:
    """What to measure."""
    works = REHEARSAL if options.rehearse else QUICK if options.quick else WORKS
    return [work for work in works if options.work is None or work.name in options.work]


def open_backends(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """The backends that can be used, and why others cannot."""
    opened, missing = {}, {}
    for name, start in STARTS.items():
        if options.backend is not None and name not in options.backend:
            continue
        if (options.quick or options.rehearse) and "compiled" in name and options.backend is None:
            missing[name] = "compiling takes minutes; ask for it with --backend"
            continue
        try:
            opened[name] = start(options.rehearse)
        except UnavailableError as reason:
            missing[name] = str(reason)
    return opened, missing


def measured(
    work: Work, backends: dict[str, Any], options: argparse.Namespace, ceiling: dict[str, float]
) -> dict[str, Any]:
    """A work's record."""
    problem = make_problem(work, "small" if options.rehearse else "paper")
    flops, moved = least_flops(work, problem), least_bytes(work, problem)
    right = expected(work, problem)
    record: dict[str, Any] = {"name": work.name, **work._asdict(), "flops": flops, "least_bytes": moved, "backends": {}}
    record["clocks_before"] = clocks()
    runs: dict[str, Any] = {}
    asked = {bar.of for bar in BARS if bar.work == work.name}
    for name, backend in backends.items():
        if "compiled" in name and name not in asked and options.backend is None:
            continue
        if work.kind == "mixture" and backend.precision != "fp32":
            continue  # no product of it is a tensor core's
        result: dict[str, Any] = {"precision": backend.precision}
        record["backends"][name] = result
        begun = time.monotonic()
        try:
            prepared = backend.prepare(work, problem)
            error = error_of(prepared.check(), right)
            result["error"] = error if error < float("inf") else None
            allowed = allowed_error(work.kind, backend.precision)
            if not error <= allowed:
                result["failed"] = f"computed something else: relative error {error:.3g}, allowed {allowed:g}"
                continue
            prepared.run()
            result["memory_bytes"] = backend.memory(prepared.run)
            result["preparation_seconds"] = round(time.monotonic() - begun, 3)
            runs[name] = backend, prepared.run
        except Exception as failure:  # whatever a peer raises, the others go on
            result["failed"] = f"{type(failure).__name__}: {str(failure)[:500]}"
            backend.release()
    if runs:
        rounds = 1 if options.rehearse else options.rounds
        for name, seconds in take_turns(runs, rounds=rounds, seconds=options.work_limit).items():
            result = record["backends"][name]
            result.update(summary(seconds, flops=flops, least_bytes=moved))
            least = floor(result["precision"], flops, moved, ceiling)
            if least:
                result["share_of_floor"] = least / result["median_seconds"]
    record["clocks_after"] = clocks()
    for backend in backends.values():
        backend.release()
    return record


def rows(record: dict[str, Any]) -> list[str]:
    """A record as lines of the table."""
    lines = [f"{record['name']}: {record['flops'] / 1e9:.3g} GFLOP, {record['least_bytes'] / 1e6:.3g} MB at least"]
    for name, result in record["backends"].items():
        if "median_seconds" not in result:
            lines.append(f"  {name:<20} left out: {result['failed'].splitlines()[0]}")
            continue
        share = f"{result['share_of_floor']:7.1%} of the floor" if "share_of_floor" in result else ""
        lines.append(
            f"  {name:<20}{1e3 * result['median_seconds']:12.3f} ms +-{result['spread'] / 2:6.1%}"
            f"{result['flop_per_second'] / 1e12:9.3f} TFLOP/s {share}  error {result['error']:.1e}"
        )
    return lines


def earlier(options: argparse.Namespace, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of an interrupted run of the same code with the same settings."""
    if options.out is None or not options.out.exists():
        return []
    content = load_json(options.out)
    if content.get("format") != "malade-bench-device" or content.get("identity") != identity:
        raise InputError(f"--out: {options.out} is of another run; choose another name, or delete it")
    return list(content["works"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    try:
        options = parse(arguments)
        if options.rehearse:
            os.environ.setdefault("MALADE_GPU_EMULATE", "1")
        begun = time.monotonic()
        environment = describe_environment()
        backends, missing = open_backends(options)
        if not backends or not (options.backend or any(name.startswith("gpu") for name in backends)):
            raise InputError(next(iter(missing.values())))
        device = {
            "smi": smi("name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.mem", "power.limit"),
            "backends": {
                name: {"device": b.device, "precision": b.precision, **b.versions} for name, b in backends.items()
            },
        }
        identity = {
            **{key: environment[key] for key in ("commit", "source_sha256")},
            "device": device,
            "size": "rehearsal" if options.rehearse else "quick" if options.quick else "full",
        }
        records = earlier(options, identity)
        for name, backend in backends.items():
            print(f"{name}: {', '.join(f'{k} {v}' for k, v in backend.versions.items())}, on {backend.device}")
        for name, reason in missing.items():
            print(f"{name}: left out, because {reason}")
        if options.rehearse:
            print("a rehearsal on the emulated device and the CPU: these times mean nothing")
        gpu = next((backend.gpu for name, backend in backends.items() if name.startswith("gpu")), None)
        ceiling = ceilings(gpu.memory) if gpu is not None and not gpu.emulated else {}
        for name, value in ceiling.items():
            print(f"ceiling: {name} {value:.3g}")
        done = {record["name"] for record in records}
        left = []
        for work in works_of(options):
            if work.name in done:
                continue
            if time.monotonic() - begun > options.time_limit:
                left.append(work.name)
                continue
            records.append(measured(work, backends, options, ceiling))
            print("\n".join(rows(records[-1])), flush=True)
            if options.out is not None:
                content = {
                    "format": "malade-bench-device",
                    "version": 1,
                    "date": datetime.now(UTC).isoformat(timespec="seconds"),
                    "identity": identity,
                    "environment": environment,
                    "left_out": missing,
                    "ceilings": ceiling,
                    "works": records,
                }
                atomic_write(options.out, to_json("results", content))
        if left:
            print(f"out of time, not measured: {', '.join(left)}; the same command goes on with them")
        failures = [
            f"{record['name']}: {name}: {result['failed'].splitlines()[0]}"
            for record in records
            for name, result in record["backends"].items()
            if name.startswith("gpu") and "failed" in result
        ]
        found = [] if options.rehearse or options.quick else verdicts(records)
        for met, line in found:
            print(f"{'?' if met is None else 'met' if met else 'NOT MET'}: {line}")
        for failure in failures:
            print(f"bench: error: {failure}", file=sys.stderr)
        if options.out is not None:
            print(f"written: {options.out}")
        return 1 if failures or (options.check and not all(met for met, _ in found)) else 0
    except InputError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
