"""Runs the same experiments on several kernels and on the host: ``python -m bench.kernels``.

Debian's linux-source-6.12 is built in the three generations of the release, one statement apart, and with the patches
against lost wake-ups; linux-source-6.1 is older than what those repair. Each is booted under QEMU's TCG. The first
time takes as long as two kernels take to build; the cache makes it minutes afterwards.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ._kernel import BuildFailedError, Kernels
from ._missing import Unavailable, require_kernel_tools
from ._program import build_programs
from ._report import draw, read_raw, tables, write_raw
from ._run import Run, run_in_guest, run_on_host
from ._variants import VARIANTS, EditFailedError

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
        runs = _run(options.only or [*VARIANTS, HOST], options.cache)
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
    parser.add_argument("--only", nargs="+", choices=[*VARIANTS, HOST], help="not all kernels")
    parser.add_argument("--report", type=Path, metavar="DIR", help="make table and figure of an earlier run again")
    return parser.parse_args()


def _run(names: Sequence[str], cache: Path) -> list[Run]:
    variants = [VARIANTS[name] for name in names if name != HOST]
    if variants:
        require_kernel_tools({variant.series for variant in variants})
    programs = build_programs(cache)
    kernels = Kernels(cache, _say)
    runs = []
    for variant in variants:
        image = kernels.image(variant)
        _say(f"running the experiments on {variant.name}")
        runs.append(run_in_guest(variant, image, programs))
    if HOST in names:
        _say("running the experiments on this kernel")
        runs.append(run_on_host(programs))
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
    text = "\n".join(tables(runs).values())
    (out / "table.md").write_text(text)
    draw(runs, out)
    print(text)
    print(f"results are in {out}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
