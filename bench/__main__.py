"""Runs all benchmarks and writes the report: ``python -m bench``.

Raw results (pyperf JSON, and ``.npz`` beside it), ``report.md``, ``report.html`` and ``figures/`` go to one new folder.
"""

import argparse
import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_BENCH = Path(__file__).resolve().parent


def main() -> int:
    """Run every script as a program of its own; 1 where any failed."""
    options = _parse()
    out: Path = options.out or _unused_name()
    if out.exists() and any(out.iterdir()):
        print(f"{out} is not empty: choose another --out, or remove it", file=sys.stderr)
        return 1
    effort = [flag for flag, chosen in (("--fast", options.fast), ("--rigorous", options.rigorous)) if chosen]
    steps = list(_steps(out, effort))
    failed = [step[0] for number, step in enumerate(steps, 1) if _run(step, f"[{number}/{len(steps)}]") != 0]
    (out / "image" / "image.bin").unlink(missing_ok=True)  # its layout stays
    print(f"results are in {out}" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--fast", action="store_true", help="a few minutes")
    effort.add_argument("--rigorous", action="store_true", help="for figures that are to be published")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: results, or results-2, ...)")
    return parser.parse_args()


def _unused_name() -> Path:
    names = itertools.chain(["results"], (f"results-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())


def _steps(out: Path, effort: Sequence[str]) -> Iterator[list[str]]:
    """Each script and its arguments, in order."""
    image = str(out / "image")
    yield ["capture.py", "--out", image]
    for question in ("fault", "fill", "cold", "scale", "share", "targets", "fairness", "memory", "tails"):
        yield [f"bench_{question}.py", *effort, "-o", str(out / f"{question}.json")]
    yield ["bench_scale.py", "--waste", *effort, "-o", str(out / "waste.json")]
    yield ["bench_share.py", "--memory", *effort, "-o", str(out / "share-memory.json")]
    for ending in ("early-close", "unregister"):
        yield ["bench_ending.py", "--ending", ending, *effort, "-o", str(out / f"ending-{ending}.json")]
    for mode in ("wp", "minor"):
        yield ["bench_ending.py", "--mode", mode, *effort, "-o", str(out / f"ending-{mode}.json")]
    yield ["bench_restore.py", "--image", image, *effort, "-o", str(out / "restore.json")]
    yield ["report.py", str(out)]


def _run(step: Sequence[str], number: str) -> int:
    print(number, *step, flush=True)
    return subprocess.run([sys.executable, str(_BENCH / step[0]), *step[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
