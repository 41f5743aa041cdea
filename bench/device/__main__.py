"""Measure malade_gpu on a device beside PyTorch and JAX.

    python -m bench.device                       everything, in about half an hour; needs a GPU
    python -m bench.device --quick               smaller batches, eager peers only: a look, no figures to quote
    python -m bench.device --check               exit 1 if something asked (`bench.device.work.BARS`) is not met
    python -m bench.device --out FILE.json       write everything there, after every work, and go on from there
    python -m bench.device --rehearse            without a GPU: tiny, on the emulated device; times mean nothing

Every backend computes the same function with the same weights and images, and is held against the NumPy reference
before it is timed; one that fails or disagrees is left out of that work, and the record says why. The table states
medians, how far apart the fastest and the slowest round are, the rate by the least operations, and the share of the
roofline: the least time that ceilings of the same run allow, by operations or by bytes. Peers that compile for minutes
take part where they are asked for by name, or where a bar is set by them; JAX, and the second of sustained work that
power and energy are read in, wherever there is a bar. A work that the time ran out in is tried again last.

`python -m bench.device.plots FILE.json --out FOLDER` draws the curves. Adding to it: a row in `bench.device.work`, or a
backend in `STARTS` below.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench.backends import UnavailableError
from bench.device.backends import Gpu, Torch
from bench.device.jax_peer import Jax
from bench.device.power import Sampler, clocks, energy_counter, smi, sustained
from bench.device.timing import DATA_SHEET, allowed_error, ceilings, error_of, roofline, summary, take_turns
from bench.device.work import (
    BARS,
    CURVES,
    EXTRAPOLATED,
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
from malade_ref.checks import InputError, check_count, check_number
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
    parser.add_argument(
        "--sustain", type=float, default=1.0, metavar="SECONDS", help="of work without a pause, for power; 0: none"
    )
    parser.add_argument("--quick", action="store_true", help="smaller batches, no compiled peers")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the emulated device")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is not met")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write everything there, and go on from there")
    options = parser.parse_args(arguments)
    for name in ("rounds", "time_limit", "work_limit"):
        check_count(f"--{name.replace('_', '-')}", getattr(options, name))
    check_number("--sustain", options.sustain, minimum=0)
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


def takes_part(name: str, backend: Any, work: Work, options: argparse.Namespace) -> bool:
    """Whether a backend is to be measured at a work."""
    if work.kind == "mixture" and backend.precision != "fp32":
        return False  # no product of it is a tensor core's
    if options.backend is not None or name.startswith("gpu"):
        return True
    if "compiled" in name:
        return any((bar.work, bar.of) == (work.name, name) for bar in BARS)
    return not (name.startswith("jax") and work in CURVES)


def measured(
    work: Work, backends: dict[str, Any], options: argparse.Namespace, ceiling: dict[str, float]
) -> dict[str, Any]:
    """A work's record."""
    # Small networks are rehearsed, but for the chain: its kernels are made for the paper's.
    preset = "small" if options.rehearse and not work.kind.startswith("chain") else "paper"
    problem = make_problem(work, preset)
    flops, moved = least_flops(work, problem), least_bytes(work, problem)
    right = expected(work, problem)
    record: dict[str, Any] = {"name": work.name, **work._asdict(), "flops": flops, "least_bytes": moved, "backends": {}}
    record["ceilings"] = ceiling
    if work.name in EXTRAPOLATED:
        record["extrapolated"] = EXTRAPOLATED[work.name]
    record["clocks_before"] = clocks()
    runs: dict[str, Any] = {}
    for name, backend in backends.items():
        if not takes_part(name, backend, work, options):
            continue
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
            for key, rates in (("roofline", ceiling), ("h200_roofline", DATA_SHEET)):
                least = roofline(result["precision"], flops, moved, rates)
                if least:
                    result[key] = {**least, "share": least["seconds"] / result["median_seconds"]}
        if options.sustain:
            about = {name for bar in BARS if bar.work == work.name for name in (*bar.backends, bar.of)}
            chosen = {name: run for name, run in runs.items() if options.rehearse or name in about}
            read_power(work, chosen, record, 0.3 if options.rehearse else options.sustain)
    record["clocks_after"] = clocks()
    for backend in backends.values():
        backend.release()
    return record


def read_power(work: Work, runs: dict[str, Any], record: dict[str, Any], seconds: float) -> None:
    """Add what each backend takes when it works without a pause, if something can be read."""
    counter = energy_counter()
    if not runs:
        return
    with Sampler() as sampler:
        if counter is None and not sampler.works:
            return
        for name, (backend, run) in runs.items():
            result = record["backends"][name]
            calls = math.ceil(seconds / result["median_seconds"])
            seconds_of = partial(backend.seconds, run)
            result["sustained"] = sustained(sampler, counter, seconds_of, calls=calls, images=work.batch)


def rows(record: dict[str, Any]) -> list[str]:
    """A record as lines of the table."""
    lines = [f"{record['name']}: {record['flops'] / 1e9:.3g} GFLOP, {record['least_bytes'] / 1e6:.3g} MB at least"]
    if "extrapolated" in record:
        lines[0] += "; {to} is taken to be {times} of these".format(**record["extrapolated"])
    for name, result in record["backends"].items():
        if "median_seconds" not in result:
            lines.append(f"  {name:<20} left out: {result['failed'].splitlines()[0]}")
            continue
        least = result.get("roofline") or result["h200_roofline"]
        whose = "" if "roofline" in result else ", data sheet"
        power = result.get("sustained", {})
        watts = "".join(
            f"  {power[key]:{form}} {unit}"
            for key, form, unit in (
                ("watts", ".0f", "W"),
                ("sm_mhz", ".0f", "MHz"),
                ("joules_per_image", ".3g", "J/image"),
            )
            if key in power
        )
        lines.append(
            f"  {name:<20}{1e3 * result['median_seconds']:12.3f} ms +-{result['spread'] / 2:6.1%}"
            f"{result['flop_per_second'] / 1e12:9.3f} TFLOP/s {least['share']:7.1%} of the roofline "
            f"({least['bound']}{whose})  error {result['error']:.1e}{watts}"
        )
    return lines


def earlier(options: argparse.Namespace, identity: dict[str, Any]) -> dict[str, Any]:
    """What an interrupted run of the same code with the same settings has written."""
    if options.out is None or not options.out.exists():
        return {}
    content = load_json(options.out)
    if content.get("format") != "malade-bench-device" or content.get("identity") != identity:
        raise InputError(f"--out: {options.out} is of another run; choose another name, or delete it")
    return dict(content)


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
        before = earlier(options, identity)
        records, begun_before = list(before.get("works", [])), list(before.get("begun", []))
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

        def found() -> list[tuple[bool | None, str]]:
            return [] if options.rehearse or options.quick else verdicts(records)

        def write(begun_works: list[str]) -> None:
            if options.out is None:
                return
            content = {
                "format": "malade-bench-device",
                "version": 2,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "identity": identity,
                "environment": environment,
                "left_out": missing,
                "data_sheet": DATA_SHEET,
                "begun": begun_works,
                "works": records,
                "verdicts": [{"met": met, "line": line} for met, line in found()],
            }
            atomic_write(options.out, to_json("results", content))

        # A work that this command was stopped in comes last: else it might be stopped there again and again.
        wanted = [work for work in works_of(options) if work.name not in done]
        left = []
        for work in sorted(wanted, key=lambda work: begun_before.count(work.name)):
            if time.monotonic() - begun > options.time_limit:
                left.append(work.name)
                continue
            write([*begun_before, work.name])
            records.append(measured(work, backends, options, ceiling))
            print("\n".join(rows(records[-1])), flush=True)
            begun_before = [name for name in begun_before if name != work.name]
            write(begun_before)
        if left:
            print(f"out of time, not measured: {', '.join(left)}; the same command goes on with them")
        failures = [
            f"{record['name']}: {name}: {result['failed'].splitlines()[0]}"
            for record in records
            for name, result in record["backends"].items()
            if name.startswith("gpu") and "failed" in result
        ]
        for met, line in found():
            print(f"{'?' if met is None else 'met' if met else 'NOT MET'}: {line}")
        for failure in failures:
            print(f"bench: error: {failure}", file=sys.stderr)
        if options.out is not None:
            print(f"written: {options.out}")
        return 1 if failures or (options.check and not all(met for met, _ in found())) else 0
    except InputError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
