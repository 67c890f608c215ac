"""The console command ``pyuffd``."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pyuffd._flags import Feature
from pyuffd._probe import Probe, probe
from pyuffd._release import known_release
from pyuffd._version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code: 0 if some memory can be served, and 1 otherwise."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["bench"]:
        return _bench(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        found = _probed(options.fresh)
        print(json.dumps(as_json(found), indent=2) if options.json else found, flush=True)
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # the reader closed the pipe, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for output that is flushed at exit
        print(f"pyuffd: cannot write: {error.strerror}", file=sys.stderr)
        return 1
    return 0 if found.usable else 1


def _bench(arguments: Sequence[str]) -> int:
    """Run the benchmarks. They have options of their own, and need more packages than pyuffd."""
    try:
        bench = importlib.import_module("pyuffd.bench.command_line")
    except ModuleNotFoundError as error:
        print(f"pyuffd bench: {error.name} is missing: pip install 'pyuffd[bench]'", file=sys.stderr)
        return 1
    code: int = bench.main(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pyuffd", description="Manage Linux page faults with userfaultfd.")
    parser.add_argument("--version", action="version", version=f"pyuffd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "probe",
        help="what this kernel and this user may do, and what to change",
        description="Tell what this kernel and this user may do with userfaultfd, and what to change. What the kernel "
        "does when a userfaultfd is released is found by experiment once per boot, which takes some seconds.",
    )
    commands.add_parser("bench", add_help=False, help="measure what an early close saves; --help tells its options")
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("--fresh", action="store_true", help="repeat the experiment")
    return parser


def _probed(fresh: bool) -> Probe:
    found = probe()
    if not found.usable or (found.release.found_by == "experiment" and not fresh):
        return found
    if sys.stderr.isatty():
        print("finding out by experiment what this kernel does (some seconds)", file=sys.stderr)
    fresh_found = probe(fresh=True)
    if fresh_found.release.found_by == "experiment" and known_release().found_by != "experiment":
        print(
            "the result of the experiment could not be kept, so ending='auto' follows the kernel's version: make "
            "$XDG_CACHE_HOME/pyuffd, or ~/.cache/pyuffd, a folder that this user owns and may write to",
            file=sys.stderr,
        )
    return fresh_found


def as_json(found: Probe) -> dict[str, Any]:
    """Return the result in types of JSON: features by their names, and refusals by the texts of their errno."""
    return asdict(found) | {
        "features": [str(feature.name) for feature in Feature if feature in found.features],
        "usable": found.usable,
        "full": found.full,
        "advice": found.advice,
        "obstacles": [asdict(one) for one in found.obstacles],
        "wake_up": asdict(found.wake_up) | {"refused": _refusal(found.wake_up.refused)},
        **{way: _refusal(getattr(found, way)) for way in ("device", "syscall", "user_mode_only", "fork_events")},
    }


def _refusal(error: int) -> str | None:
    return os.strerror(error) if error else None
