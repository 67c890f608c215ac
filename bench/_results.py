"""The raw results of a run: everything in a report is made again from them alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyperf
from _pairs import Ratio, Values, ratio_of


class Results:
    """The suites of a folder, or one of them, by the names of their files.

    What was skipped or failed is None when it is asked for.
    """

    def __init__(self, path: Path) -> None:
        self.folder = folder = path if path.is_dir() else path.parent
        self._pattern = "*" if path.is_dir() else path.stem
        paths = (path for path in sorted(folder.glob(f"{self._pattern}.json")) if not _is_of_failures(path))
        self.suites = {path.stem: pyperf.BenchmarkSuite.load(str(path)) for path in paths}
        if not self.suites:
            raise FileNotFoundError(f"{folder} has no pyperf results: run 'python -m bench --out {folder}' first")

    @property
    def failures(self) -> list[str]:
        """What each failed process said."""
        return [
            text
            for path in sorted(self.folder.glob(f"{self._pattern}.failures.json"))
            for text in json.loads(path.read_text())
        ]

    def benchmarks(self) -> Iterator[tuple[str, pyperf.Benchmark]]:
        """All of them, each with the name of its suite."""
        for name, suite in self.suites.items():
            for benchmark in suite:
                yield name, benchmark

    def names(self, suite: str) -> list[str]:
        """Of all benchmarks of a suite."""
        return list(self.suites[suite].get_benchmark_names()) if suite in self.suites else []

    def benchmark(self, suite: str, name: str) -> pyperf.Benchmark | None:
        """Find one."""
        try:
            return self.suites[suite].get_benchmark(name)
        except KeyError:
            return None

    def values(self, suite: str, name: str) -> Values | None:
        """All its values, of one process after the other."""
        benchmark = self.benchmark(suite, name)
        return None if benchmark is None else np.array(benchmark.get_values())

    def median(self, suite: str, name: str) -> float | None:
        """The median of its values."""
        values = self.values(suite, name)
        return None if values is None else float(np.median(values))

    def ratio(self, suite: str, name: str, against: str) -> Ratio | None:
        """Compare two benchmarks of one case."""
        benchmark, other = self.benchmark(suite, name), self.benchmark(suite, against)
        return None if benchmark is None or other is None else ratio_of(benchmark, other)

    def arrays(self, suite: str, name: str) -> list[npt.NDArray[Any]]:
        """The raw array of that name, of each process."""
        path = self.folder / f"{suite}.npz"
        if not path.exists():
            return []
        with np.load(path) as file:
            return [file[key] for key in file.files if key.startswith(f"{name}/process-")]

    def metadata(self, key: str) -> list[str]:
        """All values of a metadata key that occur."""
        found = {
            str(benchmark.get_metadata()[key]) for _, benchmark in self.benchmarks() if key in benchmark.get_metadata()
        }
        return sorted(found)


def _is_of_failures(path: Path) -> bool:
    return path.name.endswith(".failures.json")
