"""Runs the same experiments on three generations of one kernel and on the host: ``python -m bench.kernels``.

Debian's linux-source-6.12 is built in three versions, one statement apart, and each is booted under QEMU's TCG. The
first time takes as long as a kernel takes to build; the cache makes it minutes afterwards.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ._edit import GENERATIONS, EditFailedError
from ._kernel import BuildFailedError, Kernels
from ._missing import Unavailable, require_kernel_tools
from ._program import build_program
from ._report import draw, read_raw, table, write_raw
from ._run import Run, run_in_guest, run_on_host

HOST = "host"


def main() -> int:
    """Run the laboratory; 1 where something it needs is missing or a kernel did not come to its end."""
    options = _parse()
    if options.report:
        return _report_again(options.report)
    if options.out.exists() and not options.out.is_dir():
        print(f"{options.out} is no folder: choose another --out", file=sys.stderr)
        return 1
    if options.out.exists() and any(options.out.iterdir()):
        print(f"{options.out} is not empty: choose another --out, or remove it", file=sys.stderr)
        return 1
    try:
        runs = _run(options.only or [*GENERATIONS, HOST], options.cache)
    except (Unavailable, EditFailedError, BuildFailedError) as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"'{' '.join(map(str, error.cmd))}' failed with exit code {error.returncode}", file=sys.stderr)
        return 1
    write_raw(options.out, runs)
    _report(options.out, runs)
    return 0 if all(run.complete for run in runs) else 1


def _parse() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyuffd" / "kernels"
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results-kernels"), metavar="DIR", help="a new folder")
    parser.add_argument("--cache", type=Path, default=cache, metavar="DIR", help=f"of built kernels (default: {cache})")
    parser.add_argument("--only", nargs="+", choices=[*GENERATIONS, HOST], help="not all kernels")
    parser.add_argument("--report", type=Path, metavar="DIR", help="make table and figure of an earlier run again")
    return parser.parse_args()


def _run(names: Sequence[str], cache: Path) -> list[Run]:
    if set(names) - {HOST}:
        require_kernel_tools()
    program = build_program(cache)
    kernels = Kernels(cache, _say)
    runs = []
    for name in names:
        image = kernels.image(name) if name != HOST else None
        _say(f"running the experiments on {name}")
        runs.append(run_in_guest(name, image, program) if image else run_on_host(program))
    return runs


def _report_again(folder: Path) -> int:
    try:
        runs = read_raw(folder)
    except (OSError, ValueError, TypeError) as error:
        print(f"{folder} holds no results of the laboratory that can be read: {error}", file=sys.stderr)
        return 1
    _report(folder, runs)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _report(out: Path, runs: Sequence[Run]) -> None:
    text = table(runs)
    (out / "table.md").write_text(text)
    draw(runs, out / "kernels.png")
    print(text)
    print(f"results are in {out}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
