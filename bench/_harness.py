"""Runs the cases of a script: each in worker processes of its own, whose values become one pyperf suite.

pyperf's own runner measures one benchmark to a process, so it cannot interleave the two arms of a comparison; this one
keeps pyperf's processes, values, warm-ups and file format, and has each process measure all arms of its case in turns.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyperf
from _axes import EFFORTS
from _case import Case
from _table import HEADER, print_table, rows
from tqdm import tqdm

Cases = Callable[[argparse.Namespace], Sequence[Case]]


def main(description: str, cases: Cases, parser: argparse.ArgumentParser | None = None) -> None:
    """Run a script.

    Args:
        description: Its question.
        cases: What it measures, given its options.
        parser: With options of its own, without help.
    """
    options = _parse(description, parser)
    chosen = [case for case in cases(options) if options.filter in case.name]
    if options.worker:
        effort = _effort(options)
        (case,) = (case for case in chosen if case.name == options.worker)
        case.measure(options.values or EFFORTS[effort].values, options.worker_output, {"effort": effort})
    elif options.list:
        print(*(case.name for case in chosen), sep="\n")
    else:
        sys.exit(_orchestrate(chosen, options))


def _parse(description: str, parser: argparse.ArgumentParser | None) -> argparse.Namespace:
    full = argparse.ArgumentParser(description=description, parents=[parser] if parser else [])
    effort = full.add_mutually_exclusive_group()
    for name, amount in EFFORTS.items():
        if name != "normal":
            text = f"{amount.processes} processes of {amount.values} values each"
            effort.add_argument(f"--{name}", action="store_true", help=text)
    full.add_argument("-o", "--output", type=Path, metavar="FILE", help="write pyperf JSON; never over another file")
    full.add_argument("--processes", type=int, help="worker processes of each case")
    full.add_argument("--values", type=int, help="rounds in each process")
    full.add_argument("--filter", default="", metavar="SUBSTRING", help="only cases whose names have it")
    full.add_argument("--list", action="store_true", help="print the cases' names and measure nothing")
    full.add_argument("--worker", help=argparse.SUPPRESS)
    full.add_argument("--worker-output", type=Path, help=argparse.SUPPRESS)
    return full.parse_args()


def _effort(options: argparse.Namespace) -> str:
    return "fast" if options.fast else "rigorous" if options.rigorous else "normal"


def _orchestrate(cases: Sequence[Case], options: argparse.Namespace) -> int:
    """Run all cases, write the results and print the table; 1 where any process failed."""
    output: Path | None = options.output
    if output and output.exists():
        print(f"{output} exists and is not overwritten: choose another name", file=sys.stderr)
        return 1
    if not cases:
        print(f"no case has {options.filter!r} in its name: --list prints them all", file=sys.stderr)
        return 1
    for case in cases:
        if case.unavailable:
            print(f"skipped {case.name}: {case.unavailable}", file=sys.stderr)
    gathered = _Gathered()
    _run_all([case for case in cases if not case.unavailable], options, gathered)
    if output:
        gathered.write(output)
    if gathered.suite is not None:
        print_table(HEADER, rows(gathered.suite))
    for failure in gathered.failures:
        print(f"FAILED {failure.splitlines()[0]}", file=sys.stderr)
    return 1 if gathered.failures else 0


class _Gathered:
    """What the worker processes gave."""

    def __init__(self) -> None:
        self.suite: pyperf.BenchmarkSuite | None = None
        self.arrays: dict[str, Any] = {}
        self.failures: list[str] = []

    def add(self, result: Path, process: int) -> None:
        suite = pyperf.BenchmarkSuite.load(str(result))
        if self.suite is None:
            self.suite = suite
        else:
            self.suite.add_runs(suite)
        arrays = result.with_suffix(".npz")
        if arrays.exists():
            with np.load(arrays) as file:
                self.arrays |= {f"{name}/process-{process}": file[name] for name in file.files}

    def write(self, output: Path) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        if self.suite is not None:
            self.suite.dump(str(output))
        if self.arrays:
            np.savez_compressed(output.with_suffix(".npz"), **self.arrays)
        failures = output.with_suffix(".failures.json")
        failures.unlink(missing_ok=True)
        if self.failures:
            failures.write_text(json.dumps(self.failures, indent=2) + "\n")


def _run_all(cases: Sequence[Case], options: argparse.Namespace, gathered: _Gathered) -> None:
    processes = options.processes or EFFORTS[_effort(options)].processes
    with tqdm(total=len(cases) * processes, unit="process") as bar, tempfile.TemporaryDirectory() as folder:
        for case in cases:
            bar.set_description(case.name)
            for process in range(processes):
                result = Path(folder, f"{bar.n}.json")
                failure = _run_worker(case, result)
                if failure:
                    gathered.failures.append(f"{case.name}, process {process}: {failure}")
                else:
                    gathered.add(result, process)
                bar.update()


def _run_worker(case: Case, result: Path) -> str:
    """Measure the case in a process of its own; returns why that failed, if it did."""
    command = [sys.executable, *sys.argv, "--worker", case.name, "--worker-output", str(result)]
    # A session of its own, so that its target goes with it when it is killed.
    worker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, errors = worker.communicate(timeout=case.time_limit)
    except BaseException as reason:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.communicate()
        if isinstance(reason, subprocess.TimeoutExpired):
            return f"hung: killed after {case.time_limit:.0f} s"
        raise
    if worker.returncode == 0:
        return ""
    last_line = errors.strip().rpartition("\n")[2]
    return f"{last_line or 'no message'} (exit code {worker.returncode})\n{errors}"
