"""Builds wheels that run on every Linux with glibc 2.28 or newer, and tests them: python .ci/build_wheels.py.

For each CPython from 3.10 on that is installed here it makes a wheel for this machine, and one for aarch64 where
headers for that are there. The compiler is that of the PyPI package ziglang, which has the symbols of old glibcs.
auditwheel looks at every wheel. Each one for this machine is installed into an environment without a compiler, and the
tests of wheels run there.
"""

import argparse
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from wheels.building import audit, build, build_foreign
from wheels.interpreters import Interpreter, find_interpreters, find_pyconfig, foreign_headers
from wheels.running import WheelError
from wheels.testing import test
from wheels.toolchain import Toolchain, make_tools

FOREIGN = "aarch64"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, audit and test all of them; 1 where one fails."""
    parser = argparse.ArgumentParser(prog=".ci/build_wheels.py", description=__doc__)
    parser.add_argument("--python", nargs="+", default=[], metavar="PATH", help="these interpreters (default: all)")
    parser.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR", help="for the wheels (default: dist)")
    parser.add_argument(
        "--headers", type=Path, nargs="+", default=[], metavar="DIR",
        help="folders with aarch64-linux-gnu/pythonX.Y/pyconfig.h, besides /usr/include",
    )  # fmt: skip
    parser.add_argument("--native", action="store_true", help="for this machine alone")
    options = parser.parse_args(arguments)
    try:
        interpreters = find_interpreters(options.python)
        if not interpreters:
            raise WheelError("no CPython from 3.10 on with its headers is installed")
        with tempfile.TemporaryDirectory(prefix="pyuffd-wheels-") as folder:
            _make_all(interpreters, options, Path(folder))
    except WheelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _make_all(interpreters: list[Interpreter], options: argparse.Namespace, work: Path) -> None:
    tools = make_tools(work / "tools")
    toolchain = Toolchain(tools, work / "toolchain", platform.machine())
    for interpreter in interpreters:
        wheel = audit(build(interpreter, toolchain, work / "raw"), tools, options.out)
        _tell(wheel, test(wheel, interpreter, work / "tests"))
    if not options.native and platform.machine() != FOREIGN:
        _make_foreign(interpreters, options, tools, work)


def _make_foreign(interpreters: list[Interpreter], options: argparse.Namespace, tools: Path, work: Path) -> None:
    toolchain = Toolchain(tools, work / "toolchain", FOREIGN)
    for interpreter in interpreters:
        try:
            pyconfig = find_pyconfig(interpreter, FOREIGN, options.headers)
        except WheelError as reason:
            print(reason, flush=True)
            continue
        headers = foreign_headers(interpreter, pyconfig, work / "headers" / interpreter.name)
        raw = build_foreign(interpreter, toolchain, headers, work / "foreign" / interpreter.name, work / "raw")
        _tell(audit(raw, tools, options.out), "audited, not run: it is for another machine")


def _tell(wheel: Path, how: str) -> None:
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB; {how}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
