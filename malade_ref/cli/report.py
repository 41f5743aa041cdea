"""``malade report``: draw a bundle's report again, or verify the bundle."""

from __future__ import annotations

import argparse
import re
import secrets
from pathlib import Path
from typing import Any

from malade_ref import report, theorem
from malade_ref.bundle import Bundle, verify
from malade_ref.bundle.layout import CONFIG, MANIFEST, MODELS, is_old_record
from malade_ref.bundle.layout import PAGE as HTML
from malade_ref.bundle.manifest import LeftOut, is_record, read_left_out
from malade_ref.bundle.record import keep_record, keep_records
from malade_ref.bundle.schema import check_config
from malade_ref.checks import InputError, check_count
from malade_ref.cli.backends import BACKENDS, ready_backend
from malade_ref.cli.console import Meter, say
from malade_ref.experiment.models import check_networks
from malade_ref.experiment.recompute import recompute
from malade_ref.experiment.suite import SUITE_FILE, bundles_of, is_suite, page_differs, rewrite_page
from malade_ref.report.markdown import spoken
from malade_ref.report.page import PAGE
from malade_ref.storage import file_sha256
from malade_ref.storage.files import open_regular


def add_commands(commands: Any) -> None:
    """Add ``report``.

    Parameters
    ----------
    commands : argparse subparsers
        Where to.
    """
    command = commands.add_parser(
        "report",
        help="draw the tables and figures of a bundle again, or verify it",
        description="Derive results.json, report.md, report.html and figures of a finished bundle from its outcomes "
        "again, verify it, or keep a record of it. A record stays as it is; --out draws it again in another folder.",
        allow_abbrev=False,
    )
    command.add_argument("bundle", metavar="BUNDLE", help="folder of a malade run")
    command.add_argument(
        "--verify",
        action="store_true",
        help="change nothing; check every file against its SHA-256 and every number against the outcomes; exit code 1 "
        "if anything differs",
    )
    command.add_argument(
        "--record",
        metavar="OUT",
        help="copy the bundle to a new folder without its networks, and without images above 1 MiB; the manifest there "
        "says what was left out",
    )
    command.add_argument("--out", metavar="DIR", help="of a record: the new folder to draw it again in")
    command.add_argument(
        "--recompute",
        type=int,
        metavar="N",
        help="with --verify: also compute N outcomes again, chosen at random, from the bundle's networks and the data, "
        "and compare them",
    )
    command.add_argument("--data-dir", metavar="DIR", help="with --recompute: where to look for data first")
    command.add_argument("--seed", type=int, help="with --recompute: of the choice; another one each time by default")
    command.set_defaults(command=_report)


def _report(arguments: argparse.Namespace) -> int:
    if arguments.recompute is None and (arguments.seed is not None or arguments.data_dir is not None):
        raise InputError("--seed and --data-dir: are for --recompute; add --verify --recompute N")
    if arguments.recompute is not None:
        if not arguments.verify:
            raise InputError("--recompute: is a way to verify; add --verify")
        check_count("--recompute", arguments.recompute)
    chosen = [f"--{name}" for name in ("verify", "record", "out") if getattr(arguments, name)]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)}: are for different things; choose one")
    if is_suite(arguments.bundle):
        return _suite(arguments)
    if arguments.recompute is not None:
        _check_computable(arguments.bundle)
    if arguments.verify:
        code = _verify(arguments.bundle)
        return code if code or arguments.recompute is None else _recompute(arguments)
    if arguments.record is not None:
        return _record(arguments.bundle, arguments.record)
    bundle = Bundle.open(arguments.bundle)
    if is_old_record(bundle.path):
        raise InputError(
            f"{bundle.path}: is a record, kept without manifest and networks, and stays as it is; "
            f"malade report --verify {bundle.path} checks it"
        )
    if not bundle.finished:
        raise InputError(f"{bundle.path}: is not finished; malade run --resume --out {bundle.path} goes on with it")
    record = is_record(bundle.path)
    if record and arguments.out is None:
        raise InputError(
            f"{bundle.path}: is a record, and stays as it is; malade report {bundle.path} --out DIR draws it again in "
            "another folder"
        )
    if not record and arguments.out is not None:
        raise InputError(f"--out: is for records; {bundle.path} is a bundle, which is drawn in place")
    if record:
        keep_record(bundle.path, arguments.out)
        bundle = Bundle.open(arguments.out)
    arguments.out = str(bundle.path)
    with report.fitting(bundle):
        files = theorem.write_report(bundle) if _is_theorem(bundle) else report.write_report(bundle)
    say(f"wrote {len(files)} files; report: {bundle.path / 'report.md'}")
    kept = report.kept_figures(bundle, files)
    if kept:
        say(f"kept as they are, for what they show was left out of the record: {', '.join(kept)}")
    for line in headlines(bundle):
        say(line)
    return 0


def _suite(arguments: argparse.Namespace) -> int:
    """Of a suite: its bundles one after another, and the page."""
    path = Path(arguments.bundle)
    if arguments.recompute is not None:
        raise InputError(f"{path}: is a suite; give one of the bundles in it to --recompute")
    names = bundles_of(path)
    if arguments.out is not None:
        raise InputError(f"{path}: is a suite; give one of the bundles in it, such as {path / next(iter(names))}")
    if arguments.record is not None:
        problems = [problem for name in names for problem in _problems(str(path / name))] + [page_differs(path)]
        if any(problems):
            raise InputError(f"{path}: is not whole ({next(filter(None, problems))}); malade report --verify says more")
        pages = [path / page for page in (PAGE, HTML) if (path / page).exists()]
        keep_records({name: path / name for name in names}, [path / SUITE_FILE, *pages], arguments.record)
        return _suite(
            argparse.Namespace(**{**vars(arguments), "bundle": arguments.record, "record": None, "verify": True})
        )
    if not arguments.verify:
        if (path / PAGE).exists() and any(is_record(path / name) for name in names):
            raise InputError(f"{path}: holds records, and its page stays as it is; malade report --verify checks them")
        say(f"page: {rewrite_page(path)}")
        return 0
    codes = [_verify(str(path / name)) for name in names]
    # The page of records is of the version that made them.
    problem = "" if any(is_record(path / name) for name in names) else page_differs(path)
    if problem:
        say(f"{path}: {problem}")
    return 1 if problem or any(codes) else 0


def _record(path: str, out: str) -> int:
    """Keep a record of a bundle whose numbers follow from its outcomes."""
    if (Path(path) / MANIFEST).exists():
        problems = _problems(path)
        if problems:
            raise InputError(f"{path}: is not whole ({problems[0]}); malade report --verify {path} says more")
    keep_record(path, out)
    return _verify(out)


def _problems(path: str) -> list[str]:
    """What is wrong with a bundle, one line each."""
    problems = verify(path)
    if problems:
        return problems
    try:
        bundle = Bundle.open(path)
        with report.fitting(bundle):
            if _is_theorem(bundle):
                return theorem.check_report(bundle)
            return check_networks(bundle) + report.check_report(bundle)
    except InputError as error:
        return [str(error)]


def _verify(path: str) -> int:
    if Path(path).is_dir() and not (Path(path) / CONFIG).exists():
        Bundle.open(path)  # which complains
    problems = _problems(path)
    for problem in problems:
        say(problem)
    if problems:
        say(f"{path}: {len(problems)} mismatch{'es' if len(problems) > 1 else ''}")
        return 1
    if is_old_record(Path(path)):
        say(
            f"{path}: a record of {_commit(path)}, kept without manifest, networks and what stages kept: its outcomes "
            "are whole, and all that follows from them in results.json does; models, settings, search, audit and "
            "report.md could not be checked"
        )
        return 0
    left_out = read_left_out(Path(path))
    if left_out is not None:
        for name, facts in left_out.items():
            say(_line(Path(path), name, facts))
        text = ", and so is report.md" if not Bundle.open(path).of_another_version else "; report.md is its version's"
        say(
            f"{path}: a record of {_commit(path)}: every file in it is as it was kept, and every number follows from "
            f"the outcomes{text}"
        )
        return 0
    say(f"{path}: whole; every file is as the run left it, and every number follows from the outcomes")
    return 0


def _line(path: Path, name: str, facts: LeftOut) -> str:
    """What a record says of a file that was left out."""
    there = (path / name).exists() and file_sha256(path / name) == facts.sha256
    what = "there again, as it was" if there else "left out" if not (path / name).exists() else "left out: its images"
    return f"{name}: {what} ({facts.size:,} bytes, SHA-256 {facts.sha256})"


def _commit(path: str) -> str:
    """Which version made a bundle."""
    bundle = Bundle.open(path)
    environment = bundle.log.sessions[0]["environment"] if bundle.log.sessions else {}
    commit = str(environment.get("commit") or "unknown")[:12]
    return f"commit {commit}" + (", another version than this" if bundle.of_another_version else "")


def _check_computable(path: str) -> None:
    """Raise if a folder has no networks that outcomes could be computed with."""
    bundle = Bundle.open(path)
    left_out = [] if is_old_record(bundle.path) or not bundle.finished else read_left_out(bundle.path) or {}
    lacks = any(name.startswith(f"{MODELS}/") and not (bundle.path / name).exists() for name in left_out)
    if is_old_record(bundle.path) or lacks:
        raise InputError(f"{path}: is a record, kept without networks; leave out --recompute, or give the run's bundle")
    if theorem.is_theorem(bundle):
        raise InputError(f"{path}: is of malade theorem, which has no outcomes; leave out --recompute")


def _recompute(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.bundle)
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(1 << 31)
    check_count("--seed", seed, minimum=0)
    backend = {package: name for name, package in BACKENDS.items()}[bundle.config.get("backend", "malade_ref")]
    precision = bundle.config.get("precision")
    meter = Meter("compute again")
    try:
        with report.fitting(bundle), ready_backend(backend, {"precision": precision} if precision else {}) as ops:
            found = recompute(
                bundle, arguments.recompute, ops=ops, seed=seed, data_dir=arguments.data_dir, progress=meter
            )
    finally:
        meter.close()
    for problem in found.problems:
        say(problem)
    rule = (
        f"decisions and counts were compared, and numbers to rounding: {found.other} differs from environment.json"
        if found.other
        else "bits were compared: BLAS kernel, SIMD, threads and versions are those of environment.json"
    )
    what = f"computed {found.num_chosen} outcomes again (--seed {seed}), with their shards {found.num_compared}"
    wrong = len(found.problems)
    say(
        f"{arguments.bundle}: {what}, of {found.num_cells} cells; {rule}; "
        + (f"{wrong} mismatch{'es' if wrong > 1 else ''}" if wrong else "all agree")
    )
    return 1 if wrong else 0


def _is_theorem(bundle: Bundle) -> bool:
    """Whether a bundle is of the laboratory, whose settings are then looked at."""
    if not theorem.is_theorem(bundle):
        return False
    check_config(str(bundle.path / CONFIG), bundle.config)
    return True


def headlines(bundle: Bundle) -> list[str]:
    """First sentences of a report's verdict.

    Parameters
    ----------
    bundle : Bundle
        With a report.

    Returns
    -------
    list of str
        What stands in bold at the beginning of paragraphs before the first table.
    """
    with open_regular(bundle.path / "report.md") as file:
        text = file.read().decode(errors="replace")
    verdict = text.partition("\n## ")[0]
    beginnings = re.findall(r"^(?:\*\*.+?\*\* ?)+", verdict, flags=re.MULTILINE)
    return [spoken(headline) for beginning in beginnings for headline in re.findall(r"\*\*(.+?)\*\*", beginning)]
