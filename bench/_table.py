"""Tables: of a suite's benchmarks, and how any is printed."""

from collections.abc import Sequence

import pyperf
from _pairs import ratios

HEADER = ("benchmark", "median", "values", "ratio", "paired (quartiles)")


def rows(suite: pyperf.BenchmarkSuite) -> list[tuple[str, ...]]:
    """A row of each benchmark; a ratio below 1 means less than what the benchmark is measured against."""
    found = {ratio.name: (f"{ratio.of_medians:.3f}", ratio.paired_text) for ratio in ratios(suite)}
    return [
        (
            benchmark.get_name(),
            benchmark.format_value(benchmark.median()),
            str(benchmark.get_nvalue()),
            *found.get(benchmark.get_name(), ("", "")),
        )
        for benchmark in suite
    ]


def print_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print with aligned columns."""
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    for line in [header, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
