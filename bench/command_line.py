"""The command ``pyuffd bench``."""

import argparse
import importlib
import itertools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import questions
from .harness.case import Case
from .harness.effort import EFFORTS, Effort
from .harness.image import capture_in, drop_in
from .harness.metadata import git_commit
from .harness.records import RecordError, Records
from .harness.runner import Plan, Runner

DESCRIPTION = """Measure what an early close saves, what a fault costs, and how soon a restore is done; three minutes on
a quiet machine with two CPUs. The answer is printed, and written to DIR/report.html; the raw results go to DIR/raw, and
files for pyperf beside them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 where everything that can be measured here was."""
    options = _parser().parse_args(arguments)
    try:
        if options.list:
            return _list()
        if options.report:
            return _report(options.out or Path("results"))
        return _measure(options)
    except RecordError as error:
        print(f"pyuffd bench: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(
            f"pyuffd bench: {(error.name or '').partition('.')[0]} is missing: pip install 'pyuffd[bench]'",
            file=sys.stderr,
        )
    except BrokenPipeError:  # nobody reads
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
    except OSError as error:
        print(f"pyuffd bench: {error.filename or ''}: {error.strerror or error}: choose another --out", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="pyuffd bench", description=DESCRIPTION)
    options.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: results, or results-2, ...)")
    options.add_argument("--full", action="store_true", help="measure everything there is")
    options.add_argument(
        "--only", nargs="+", metavar="NAME", default=[], help="only these questions, with all their cases"
    )
    options.add_argument("--list", action="store_true", help="name the questions, and measure nothing")
    options.add_argument("--resume", action="store_true", help="go on in a folder that has results of this commit")
    options.add_argument("--report", action="store_true", help="write the report of --out again, and measure nothing")
    options.add_argument("--seed", type=int, default=1, help="of the order of the arms (default: %(default)s)")
    effort = options.add_mutually_exclusive_group()
    for name, amount in EFFORTS.items():
        if name not in ("headline", "normal"):
            text = f"{amount.processes} processes of {amount.rounds} rounds each"
            effort.add_argument(f"--{name}", action="store_const", const=name, dest="effort", help=text)
    return options


def _list() -> int:
    for name in questions.NAMES:
        print(f"{name:<10} {questions.sentence(name)}", flush=True)
    return 0


def _measure(options: argparse.Namespace) -> int:
    importlib.import_module(".report.write", __package__)  # what it lacks is better told now than in the end
    unknown = [name for name in options.only if name not in questions.NAMES]
    if unknown:
        raise RecordError(f"there is no question {unknown[0]!r}: --list names them all")
    began = time.monotonic()
    folder = _folder(options)
    plan = _plan(options, folder)
    print(f"about {_minutes(plan.seconds)} on a quiet machine; results go to {folder}", file=sys.stderr)
    runner = Runner(plan, folder)
    interrupted = False
    try:
        if any(not case.unavailable for case in plan.cases.get("restore", ())):
            capture_in(folder)
        runner.run()
    except KeyboardInterrupt:
        interrupted = True
        print("interrupted: the report is of what is there; --resume goes on", file=sys.stderr)
    else:
        drop_in(folder)
    measured = time.monotonic() - began
    code = _report(folder)
    print(f"measured in {measured:.0f} s")
    return 130 if interrupted else code


def _folder(options: argparse.Namespace) -> Path:
    """Where the results go; refuses one that holds something else."""
    if not options.out:
        if options.resume:
            raise RecordError("--resume needs the folder to go on in: add --out DIR")
        names = itertools.chain(["results"], (f"results-{number}" for number in itertools.count(2)))
        options.out = next(path for path in map(Path, names) if not path.exists())
    folder: Path = options.out
    if folder.exists() and any(folder.iterdir()) and not options.resume:
        raise RecordError(f"{folder} is not empty: choose another --out, remove it, or go on in it with --resume")
    others = Records(folder).commits() - {git_commit()}
    if others:
        raise RecordError(
            f"{folder} has results of {', '.join(sorted(others))}, and this is {git_commit()}: choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _plan(options: argparse.Namespace, folder: Path) -> Plan:
    context = questions.Context(folder.resolve())
    names = options.only or questions.NAMES
    whole = options.full or bool(options.only)
    cases: dict[str, Sequence[Case]] = {
        name: [case for case in questions.load(name).cases(context) if whole or case.headline]
        for name in questions.NAMES
        if name in names
    }
    effort: Effort = EFFORTS[options.effort or ("normal" if options.full else "headline")]
    return Plan({name: chosen for name, chosen in cases.items() if chosen}, effort, options.seed)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _report(folder: Path) -> int:
    from .report.write import write  # it takes a second to import what it needs

    results = write(folder)
    print(f"\nthe report is {folder / 'report.html'}")
    return 1 if results.failures else 0
