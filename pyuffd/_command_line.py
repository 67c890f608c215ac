"""The console command ``pyuffd``."""

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyuffd._flags import Feature
from pyuffd._probe import Probe, probe
from pyuffd._release import known_release
from pyuffd._version import __version__
from pyuffd.daemon.control import RequestError
from pyuffd.daemon.criu import options as criu_options
from pyuffd.daemon.image import ImageDaemon
from pyuffd.daemon.logs import LOG_FORMAT, begin_log
from pyuffd.daemon.options import add_arguments, options_of
from pyuffd.daemon.pages import options as pages_options
from pyuffd.daemon.status import show
from pyuffd.daemon.supervisor import Supervisor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code: 0 if some memory can be served, and 1 otherwise."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["bench"]:
        return _bench(arguments[1:])
    options = _parser().parse_args(arguments)
    if options.command == "images":
        return _images(options)
    if options.command != "probe":
        return _daemon(options)
    try:
        found = _probed(options.fresh)
        if not _printed(json.dumps(as_json(found), indent=2) if options.json else found):
            return 1
    except KeyboardInterrupt:
        return 130
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


def _images(parsed: argparse.Namespace) -> int:
    """Tell of the images of a checkpoint. This needs more packages than pyuffd. An error is one line."""
    try:
        told = importlib.import_module("pyuffd.criu.report").told(parsed.dir, check=parsed.check, as_json=parsed.json)
    except (ModuleNotFoundError, OSError, ValueError) as error:
        where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        print(f"pyuffd images: {where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    text, code = told
    return code if _printed(text) else 1


def _printed(what: object) -> bool:
    """Print it; an error is one line."""
    try:
        print(what, flush=True)
    except OSError as error:  # the reader closed the pipe, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for output that is flushed at exit
        print(f"pyuffd: cannot write: {error.strerror}", file=sys.stderr)
        return False
    return True


def _daemon(parsed: argparse.Namespace) -> int:
    """Run a daemon, or ask one. An error is one line."""
    name = "pyuffd status" if parsed.command == "status" else f"pyuffd serve {parsed.client}"
    try:
        if parsed.command == "status":
            return show(parsed.socket, as_json=parsed.json, watch=parsed.watch)
        return _DAEMONS[parsed.client](parsed)
    except (OSError, ValueError, RuntimeError, RequestError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _serve_image(parsed: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("pyuffd").setLevel(logging.WARNING)  # the daemon tells of each target itself
    logging.getLogger("pyuffd.daemon").setLevel(logging.INFO)
    options = options_of(parsed)
    return Supervisor(options).run() if options.supervise else ImageDaemon(options).run()


def _serve_criu(parsed: argparse.Namespace) -> int:
    begin_log(parsed)
    options = criu_options.options_of(parsed)
    code: int = _with_images("pyuffd.daemon.criu.daemon").LazyPages(options).run()
    return code


def _serve_criu_pages(parsed: argparse.Namespace) -> int:
    begin_log(parsed)
    options = pages_options.options_of(parsed)
    code: int = _with_images("pyuffd.daemon.pages.server").PagesDaemon(options).run()
    return code


def _with_images(name: str) -> Any:
    """Import a module that needs more packages than pyuffd."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RuntimeError(str(error)) from None


_DAEMONS = {"image": _serve_image, "criu": _serve_criu, "criu-pages": _serve_criu_pages}


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
    status = commands.add_parser(
        "status",
        help="what a daemon serves",
        description="Tell what the daemon at a socket serves, and what has ended.",
    )
    status.add_argument("--socket", type=Path, required=True, metavar="PATH", help="that of the daemon")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument("--watch", action="store_true", help="go on, every second, with rates")
    images = commands.add_parser(
        "images",
        help="what a checkpoint of CRIU holds",
        description="Tell what the images that CRIU wrote of processes hold: tasks, their regions, which memory is "
        "lazy, and what is compressed.",
    )
    images.add_argument("dir", type=Path, metavar="DIR", help="the folder of the images")
    images.add_argument(
        "--check",
        action="store_true",
        help="verify lengths and offsets of everything; exit with 1 if something is wrong",
    )
    images.add_argument("--json", action="store_true", help="for programs")
    serve = commands.add_parser("serve", help="run a daemon").add_subparsers(dest="client", required=True)
    add_arguments(
        serve.add_parser(
            "image",
            help="for targets that hand themselves over (pyuffd.handoff, Firecracker)",
            description="Fill the memory of processes that connect and hand it over, from a file. SIGTERM ends it "
            "(--on-stop), SIGHUP starts another daemon of the same command line, which takes over.",
        )
    )
    criu_options.add_arguments(
        serve.add_parser(
            "criu",
            help="for criu restore --lazy-pages, in the place of criu lazy-pages",
            description="Fill the memory of tasks that criu restores with --lazy-pages, from the images of their "
            "checkpoint. It listens at lazy-pages.socket in the work directory, serves one restore, and ends when the "
            "last page is in.",
        )
    )
    pages_options.add_arguments(
        serve.add_parser(
            "criu-pages",
            help="the pages of images, for lazy restores on other hosts",
            description="Send the pages of images to daemons on other hosts ('pyuffd serve criu --page-server', or "
            "'criu lazy-pages --page-server'), until SIGTERM.",
        )
    )
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
