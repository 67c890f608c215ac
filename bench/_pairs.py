"""Ratios of a benchmark to its floor or baseline, recomputed from a suite alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyperf

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """How much longer a benchmark takes than another one; below 1 is shorter.

    Attributes:
        median: Of all its values.
        other_median: Of all values of the other one.
        paired: Of each round's two values.
    """

    name: str
    against: str
    median: float
    other_median: float
    paired: Values

    @property
    def of_medians(self) -> float:
        """Of the medians of all values."""
        return self.median / self.other_median

    @property
    def paired_text(self) -> str:
        """Median and quartiles of the paired ratios."""
        low, median, high = np.quantile(self.paired, [0.25, 0.5, 0.75])
        return f"{median:.3f} ({low:.3f} .. {high:.3f})"


def ratio_of(benchmark: pyperf.Benchmark, against: pyperf.Benchmark) -> Ratio:
    """Compare two benchmarks that were measured in the same rounds of the same processes."""
    values, others = np.array(benchmark.get_values()), np.array(against.get_values())
    return Ratio(
        benchmark.get_name(), against.get_name(), float(np.median(values)), float(np.median(others)), values / others
    )


def ratios(suite: pyperf.BenchmarkSuite) -> Iterator[Ratio]:
    """Compare every benchmark that says in its metadata what it is measured against."""
    for benchmark in suite:
        against = benchmark.get_metadata().get("measured_against")
        if against:
            yield ratio_of(benchmark, suite.get_benchmark(against))
