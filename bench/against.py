"""Is this checkout slower than another one? Cases of a question, in interleaved pairs of processes of both.

Each pair measures the case once in a process of either checkout, in an order that is drawn; its ratio is that of the
two medians of the arm. The interval is a bootstrap of the geometric mean of the ratios. Both checkouts need a ``.venv``
with pyuffd built in place (``tests/run`` and ``bench/run`` make one), and this checkout's benchmarks measure both.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from .report.judge import mean_of_logs
from .report.words import times

_ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure, print the table, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--question", default="fault")
    parser.add_argument("--case", nargs="+", default=["in-process, same-cpu"])
    parser.add_argument("--arm", default="manager", help="of the case")
    parser.add_argument("--metric", default="time")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=20, help="in each process")
    parser.add_argument("--seed", type=int, default=1, help="of the order within the pairs")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the medians as JSON")
    options = parser.parse_args()
    if not (options.other / ".venv" / "bin" / "python").exists():
        parser.error(f"{options.other} is no checkout with pyuffd built: run tests/run in it first")
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
        found = {"seed": options.seed, "question": options.question, "arm": options.arm, "medians": medians}
        options.output.write_text(json.dumps(found) + "\n")
    rows = [_row(case, pairs) for case, pairs in medians.items()]
    print(pd.DataFrame(rows, columns=["case", "this / other", "95 %", "pairs"]).to_string(index=False))


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
    """The benchmarks are this checkout's; what they measure is that one's, which its own Python imports."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(checkout / ".venv" / "bin" / "python"), "-m", "bench.harness.worker",
            options.question, "0", str(options.rounds), str(options.seed), folder, case,
        ]  # fmt: skip
        # The folder that is searched for the package bench has no pyuffd: the venv's is found.
        Path(folder, "bench").symlink_to(_ROOT / "bench")
        environment = {**os.environ, "PYTHONPATH": folder}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    rounds = [record for line in done.stdout.splitlines() if (record := json.loads(line))["kind"] == "round"]
    values = [record["values"] for record in rounds if record["round"] >= 0]
    try:
        return float(np.median([each[options.arm][options.metric] for each in values]))
    except KeyError as error:
        metrics = ", ".join(f"{arm} ({' '.join(found)})" for arm, found in values[0].items())
        sys.exit(f"{case} of {options.question} has no {error}: choose --arm and --metric from {metrics}")


def _row(case: str, pairs: list[list[float]]) -> tuple[str, str, str, str]:
    both = np.array(pairs)
    ratio, low, high = mean_of_logs(np.log(both[:, 0] / both[:, 1]))
    return case, f"{ratio:.4f}", f"{low:.4f} .. {high:.4f}", times(len(pairs))


if __name__ == "__main__":
    main()
