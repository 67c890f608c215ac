"""Files for pyperf: one of each question, and one of each ending, whose names are equal: compare_to compares those.

Every process is a run of pyperf's. pyperf knows no value of 0 and none that is missing: those are left out, and
``values_left_out`` in the metadata says how many.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyperf

from ..harness.case import AGAIN
from .results import Results

_ENDINGS = ("early-close", "unregister", "keep-open")
_UNITS = {"second": "second", "byte": "byte", "page": "integer"}


def write_pyperf(results: Results, folder: Path) -> list[Path]:
    """Write all of them, in place of those of an earlier report; returns what was written."""
    paths = []
    for question in {question: None for question, _ in results.cases}:
        paths += _write(folder / f"{question}.json", _of_question(results, question))
    for ending in _ENDINGS:
        paths += _write(folder / f"{ending}.json", _of_ending(results, ending))
    return paths


def _write(path: Path, benchmarks: Iterator[pyperf.Benchmark]) -> list[Path]:
    every = list(benchmarks)
    if not every:
        return []
    pyperf.BenchmarkSuite(every).dump(str(path), replace=True)
    return [path]


def _of_question(results: Results, question: str) -> Iterator[pyperf.Benchmark]:
    for info in results.cases_of(question):
        for arm in results.arms_of(question, info.name):
            yield from _benchmarks(results, question, info.name, arm, f"{info.name}: {arm}")


def _of_ending(results: Results, ending: str) -> Iterator[pyperf.Benchmark]:
    for (question, case), _ in results.cases.items():
        if ending in results.arms_of(question, case):
            yield from _benchmarks(results, question, case, ending, f"{question}, {case}")


def _benchmarks(results: Results, question: str, case: str, arm: str, name: str) -> Iterator[pyperf.Benchmark]:
    rows = results.values
    chosen = rows[(rows.question == question) & (rows.case == case) & (rows.arm == arm)]
    for metric, found in chosen.groupby("metric", sort=False):
        usable = found[found.value > 0]
        if usable.empty:
            continue
        metadata = _metadata(results, question, case, arm, str(metric), len(found) - len(usable))
        metadata["name"] = name if metric == "time" else f"{name}: {metric}"
        runs = [
            pyperf.Run([float(value) for value in of.value], metadata=metadata, collect_metadata=False)
            for _, of in usable.groupby("process")
        ]
        yield pyperf.Benchmark(runs)


def _metadata(results: Results, question: str, case: str, arm: str, metric: str, left_out: int) -> dict[str, Any]:
    info = results.cases[question, case]
    last = results.processes[-1] if results.processes else {}
    same = {key: value for key, value in last.items() if len(results.told(key)) == 1}
    metadata = same | info.parameters | {"question": question, "case": case, "arm": arm.removesuffix(AGAIN)}
    if left_out:
        metadata["values_left_out"] = left_out
    return metadata | {"metric": metric, "unit": _UNITS[info.unit]}
