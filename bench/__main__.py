"""Measure this package beside PyTorch.

    python -m bench                          all cases at batch 256, in a minute or two
    python -m bench --quick                  a look: small batch, few rounds
    python -m bench --check                  exit 1 if a ratio is larger than allowed
    python -m bench --out bench/results/NAME.json
    python -m bench --case mixture           a mixture's score beside scikit-learn's log density (only if asked for)

Every backend computes the same cases with the same weights and images, one after the other in each round; results are
compared before they are timed. A table states medians, GFLOP/s (operations counted in `bench.cases`), the ratio to each
peer and the ratio allowed; the JSON file has every single time, the machine, the versions and the commit.

Adding to it: a row in `bench.cases.CASES`, or a class in `bench.backends.BACKENDS`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.backends import BACKENDS, Backend, UnavailableError
from bench.cases import CASES, Case, Problem, make_problem
from bench.measure import DisagreementError, Measurement, measure
from bench.mixtures import MIXTURE, mixture_records
from malade_ref.bundle.environment import describe_environment
from malade_ref.checks import InputError, check_count
from malade_ref.ops import num_threads
from malade_ref.storage import atomic_write, to_json

REFERENCE = next(iter(BACKENDS))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, help="images in a batch (default 256; 32 with --quick)")
    parser.add_argument("--rounds", type=int, help="times that each backend has its turn (default 11; 3 with --quick)")
    parser.add_argument("--threads", type=int, help="threads of every backend (default: all cores)")
    parser.add_argument("--quick", action="store_true", help="small batch, few rounds: no figures to quote")
    parser.add_argument("--check", action="store_true", help="exit 1 if a ratio is larger than allowed")
    parser.add_argument(
        "--case", action="append", choices=[*(case.name for case in CASES), MIXTURE], help="only this one; repeat"
    )
    parser.add_argument("--backend", action="append", choices=list(BACKENDS), help=f"only {REFERENCE} and this; repeat")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write everything there")
    options = parser.parse_args(arguments)
    options.batch = check_count("--batch", (32 if options.quick else 256) if options.batch is None else options.batch)
    options.rounds = check_count("--rounds", (3 if options.quick else 11) if options.rounds is None else options.rounds)
    options.threads = check_count("--threads", num_threads() if options.threads is None else options.threads)
    return options


def open_backends(options: argparse.Namespace) -> tuple[dict[str, Backend], dict[str, str]]:
    """The backends that can be used, and why others cannot."""
    opened, missing = {}, {}
    for name, start in BACKENDS.items():
        if name == REFERENCE or options.backend is None or name in options.backend:
            try:
                opened[name] = start(options.threads)
            except UnavailableError as reason:
                missing[name] = str(reason)
    return opened, missing


def as_record(case: Case, measured: Measurement, problem: Problem) -> dict[str, Any]:
    """A case as JSON."""
    flops = case.flops(problem) * len(problem.x)
    record: dict[str, Any] = {"name": case.name, "title": case.title, "flops": flops, "backends": {}, "ratios": {}}
    for name, seconds in measured.seconds.items():
        record["backends"][name] = {
            "median_seconds": measured.median(name),
            "fastest_seconds": min(seconds),
            "gflop_per_second": flops / measured.median(name) / 1e9,
            "seconds": seconds,
        }
        if name != REFERENCE:
            record["ratios"][name] = {"median": measured.ratio(REFERENCE, name), "allowed": case.allowed}
    return record


def too_slow(record: dict[str, Any]) -> list[str]:
    """Complaints about a case's ratios."""
    return [
        f"{record['name']}: {ratio['median']:.2f} times {name}'s time, allowed {ratio['allowed']:.2f}"
        for name, ratio in record["ratios"].items()
        if ratio["median"] > ratio["allowed"]
    ]


def row(record: dict[str, Any]) -> str:
    """A case as a line of the table."""
    times = [
        f"{name} {1e3 * value['median_seconds']:8.2f} ms {value['gflop_per_second']:6.1f} GFLOP/s"
        for name, value in record["backends"].items()
    ]
    ratios = [
        f"{REFERENCE}/{name} {ratio['median']:.2f} (allowed {ratio['allowed']:.1f})"
        for name, ratio in record["ratios"].items()
    ]
    return f"{record['title']:<26} " + "   ".join([*times, *ratios])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    try:
        options = parse(arguments)
        backends, missing = open_backends(options)
        cases = [case for case in CASES if options.case is None or case.name in options.case]
        mixtures = options.case is not None and MIXTURE in options.case
        if options.check and len(backends) == 1 and not mixtures:
            reasons = "; ".join(missing.values()) or "no peer was chosen"
            raise InputError(f"--check: needs a peer to compare {REFERENCE} with, but {reasons}")
        if options.out is not None and not options.out.parent.is_dir():
            raise InputError(f"--out: {options.out.parent} is not a folder; make it, or choose another")
        environment = describe_environment()
        print(f"batch {options.batch}, {options.threads} threads, {options.rounds} rounds, {len(cases)} cases")
        print(f"{environment['processor']}; {environment['python']}; commit {environment['commit']}")
        for name, backend in backends.items():
            print(f"{name}: {', '.join(f'{k} {v}' for k, v in backend.versions.items())}, on {backend.device}")
        for name, reason in missing.items():
            print(f"{name}: left out, because {reason}; only {', '.join(backends)} is measured")
        problem = make_problem(options.batch)
        records = []
        for case in cases:
            runs = {name: backend.prepare(case.name, problem) for name, backend in backends.items()}
            records.append(as_record(case, measure(runs, rounds=options.rounds, agrees=case.agrees), problem))
            print(row(records[-1]), flush=True)
        for record in mixture_records(options.rounds, options.threads, quick=options.quick) if mixtures else ():
            records.append(record)
            print(row(record), flush=True)
        complaints = [complaint for record in records for complaint in too_slow(record)]
        if options.out is not None:
            content = {
                "format": "malade-bench",
                "version": 1,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "settings": {"batch": options.batch, "threads": options.threads, "rounds": options.rounds},
                "environment": environment,
                "backends": {name: {"device": b.device, **b.versions} for name, b in backends.items()},
                "left_out": missing,
                "cases": records,
            }
            atomic_write(options.out, to_json("results", content))
            print(f"written: {options.out}")
        for complaint in complaints if options.check else ():
            print(f"bench: too slow: {complaint}", file=sys.stderr)
        return 1 if options.check and complaints else 0
    except (InputError, DisagreementError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


if __name__ == "__main__":
    sys.exit(main())
