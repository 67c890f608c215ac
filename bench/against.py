"""Is this checkout slower than another one? Cases of a script, in interleaved pairs of processes of both.

Each pair measures the case once in a process of either checkout, in an order that is drawn; its ratio is that of the
two medians of the arm. The interval is a bootstrap of the geometric mean of the ratios. Both checkouts need a ``.venv``
with pyuffd built in place (``tests/run`` and ``bench/run`` make one).
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyperf
from _table import print_table
from tqdm import tqdm

_ROOT = Path(__file__).resolve().parent.parent
_RESAMPLES = 10_000


def main() -> None:
    """Measure, print the table, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--script", default="bench_fault.py", help="of bench/, in both checkouts")
    parser.add_argument("--case", nargs="+", default=["fault/in-process/same-cpu/around-1/threads-1"])
    parser.add_argument("--arm", default="manager", help="of the case: what follows its name")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--values", type=int, default=20, help="rounds in each process")
    parser.add_argument("--seed", type=int, default=1, help="of the order within the pairs, and of the bootstrap")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the medians as JSON")
    options = parser.parse_args()
    order = random.Random(options.seed)
    medians: dict[str, list[list[float]]] = {}
    with tqdm(total=len(options.case) * options.pairs, unit="pair") as bar:
        for case in options.case:
            bar.set_description(case)
            medians[case] = []
            for _ in range(options.pairs):
                medians[case].append(_pair(options, case, order))
                bar.update()
    if options.output:
        options.output.write_text(json.dumps({"seed": options.seed, "arm": options.arm, "medians": medians}) + "\n")
    print_table(
        ("case", "this / other", "95 %", "pairs"),
        [_row(case, np.array(pairs), options.seed) for case, pairs in medians.items()],
    )


def _pair(options: argparse.Namespace, case: str, order: random.Random) -> list[float]:
    """Medians of this checkout and of the other one, in seconds."""
    checkouts = [_ROOT, options.other.resolve()]
    taken = [0, 1]
    order.shuffle(taken)
    values = [0.0, 0.0]
    for which in taken:
        values[which] = _measure(checkouts[which], options, case)
    return values


def _measure(checkout: Path, options: argparse.Namespace, case: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [
            str(checkout / ".venv" / "bin" / "python"), str(checkout / "bench" / options.script),
            "--worker", case, "--worker-output", str(result), "--values", str(options.values),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
        suite = pyperf.BenchmarkSuite.load(str(result))
        return float(np.median(suite.get_benchmark(f"{case}/{options.arm}").get_values()))


def _row(case: str, pairs: npt.NDArray[np.float64], seed: int) -> tuple[str, ...]:
    logs = np.log(pairs[:, 0] / pairs[:, 1])
    picks = np.random.default_rng(seed).integers(0, len(logs), (_RESAMPLES, len(logs)))
    low, high = np.exp(np.quantile(logs[picks].mean(axis=1), [0.025, 0.975]))
    return case, f"{np.exp(logs.mean()):.4f}", f"{low:.4f} .. {high:.4f}", str(len(logs))


if __name__ == "__main__":
    main()
