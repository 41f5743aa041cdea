"""Hold a bundle of `malade run` against what is asked of it on a GPU, and copy what is worth recording.

    python -m bench.device.runs BUNDLE [--seconds FILE] [--copy FOLDER]

FILE has a line for each call that worked on the bundle: how many seconds it took. The bundle itself does not count the
time of steps that were interrupted, so a run in several calls took the sum of these; its training took less.
FOLDER gets everything but arrays of images, the folder of work in progress, and the manifest, which is about all files.

Exit code 1 if something asked is not met, or cannot be told.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from malade_ref.bundle.layout import CONFIG, ENVIRONMENT, MANIFEST, RESULTS, WORK, state_of
from malade_ref.checks import InputError
from malade_ref.storage import load_json

IMAGES = ("pictures.h5", "paths.h5")
NUM_IMAGES = 10_000
Verdict = tuple[bool | None, str]


def of_madry(results: dict[str, Any], timings: dict[str, float], seconds: float, calls: int) -> list[Verdict]:
    """Trained in ten minutes, and how good it is then."""
    found: list[Verdict] = []
    for cell, what, asked in (("clean/0", "clean images", 0.983), ("restarts/0.3", "PGD-100 with 20 restarts", 0.91)):
        share = results["cells"][f"madry/{cell}"]["mean"]["value"]
        found.append((share >= asked, f"Madry, {what}: {share:.2%} right, asked {asked:.1%}"))
    trained = sum(timings.get(f"models/{name}", 0.0) for name in ("cnn", "madry"))
    if calls <= 1:
        return [*found, (trained <= 600, f"Madry, training: {trained:.0f} s, asked 600 s")]
    return [*found, (True if seconds <= 600 else None, f"Madry, training: less than {seconds:.0f} s, asked 600 s")]


def of_table(results: dict[str, Any], timings: dict[str, float], seconds: float, calls: int) -> list[Verdict]:
    """All of Table 1 in twenty minutes."""
    if not calls:
        seconds = sum(timings.values())
    return [(seconds <= 1200, f"Table 1, everything: {seconds:.0f} s in {max(1, calls)} calls, asked 1200 s")]


ASKED = {"mnist-madry": of_madry, "mnist-table1": of_table}


def verdicts(bundle: Path, seconds: Sequence[float]) -> list[Verdict]:
    """What is asked of a finished bundle; nothing if it is not of the paper's size."""
    config, log = load_json(bundle / CONFIG), load_json(bundle / ENVIRONMENT)
    sized = config["scale"] == "paper" and config["evaluation"]["num_images"] == NUM_IMAGES
    if not sized or config["data"]["name"] != "mnist" or config["name"] not in ASKED:
        return []
    calls = len(seconds) or (len(log["sessions"]) if len(log["sessions"]) > 1 else 0)
    return ASKED[config["name"]](load_json(bundle / RESULTS), log["timings"], sum(seconds), calls)


def copy(bundle: Path, folder: Path) -> None:
    """Copy a bundle without its images."""
    left_out = shutil.ignore_patterns(WORK, MANIFEST, *IMAGES)
    shutil.copytree(bundle, folder, ignore=left_out, dirs_exist_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.device.runs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--seconds", type=Path, metavar="FILE", help="seconds of each call, a line each")
    parser.add_argument("--copy", type=Path, metavar="FOLDER", help="where to copy it to, without images")
    options = parser.parse_args(arguments)
    try:
        state = state_of(options.bundle)
        if state not in ("finished", "unfinished"):
            raise InputError(f"{options.bundle}: is no bundle; malade run makes one")
        seconds = [float(word) for word in options.seconds.read_text().split()] if options.seconds else []
        if options.copy is not None:
            copy(options.bundle, options.copy)
        if state == "unfinished":
            raise InputError(f"{options.bundle}: is not finished; the same call goes on with it")
        found = verdicts(options.bundle, seconds)
    except (InputError, OSError, ValueError) as error:
        print(f"runs: error: {error}", file=sys.stderr)
        return 2
    for met, line in found:
        print(f"{'?' if met is None else 'met' if met else 'NOT MET'}: {line}")
    if not found:
        print(f"{options.bundle.name}: not of the paper's size, so nothing is asked of it")
    return 0 if all(met for met, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main())
