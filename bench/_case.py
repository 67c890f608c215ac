"""A case: one comparison, whose arms are measured in interleaved rounds in one worker process."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import pyperf
from _metadata import Metadata, collect


@dataclass(frozen=True)
class Sample:
    """What one measurement of one arm gave.

    Attributes:
        values: By benchmark name; lower is better.
        arrays: Raw numpy arrays: histograms and timelines by name, kept beside the values of the process's last round.
    """

    values: Mapping[str, float]
    arrays: Mapping[str, Any] = field(default_factory=dict)

    def __or__(self, other: "Sample") -> "Sample":
        return Sample({**self.values, **other.values}, {**self.arrays, **other.arrays})


Arm = Callable[[], Sample]


def arm(name: str, measure: Callable[[], float]) -> Arm:
    """Make an arm of one benchmark, whose measurement gives its value."""
    return lambda: Sample({name: measure()})


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        open: What the worker enters: it prepares what its rounds share and gives the arms.
        metadata: Of all its benchmarks.
        against: Benchmarks that are compared with another one of the case, and which: mostly their floor.
        unit: ``"second"`` or ``"byte"``.
        rounds: Rounds in each process, if not as many as the effort says; a single one has no warm-up before it.
        unavailable: Why this machine or user cannot run it; empty where they can.
        time_limit: Seconds for one process; one that needs more hangs.
    """

    name: str
    open: Callable[[], AbstractContextManager[Sequence[Arm]]]
    metadata: Metadata = field(default_factory=dict)
    against: Mapping[str, str] = field(default_factory=dict)
    unit: str = "second"
    rounds: int | None = None
    unavailable: str = ""
    time_limit: float = 120.0

    def measure(self, values: int, result: Path, also: Metadata) -> None:
        """Measure it once in this process, and write a pyperf suite, and arrays beside it.

        Args:
            values: Rounds, unless the case says how many.
            result: Where the suite goes; the arrays go to the same name with ``.npz``.
            also: More metadata.

        All arms have their values in the same order, so that value i of an arm and value i of another one in the same
        process are of one round: paired.
        """
        rounds = self.rounds or values
        warmups = 1 if rounds > 1 else 0
        with self.open() as arms:
            samples = [_round(arms, number) for number in range(warmups + rounds)]
        self._write(result, samples[:warmups], samples[warmups:], collect() | also)

    def _write(self, result: Path, warmups: Sequence[Sample], samples: Sequence[Sample], collected: Metadata) -> None:
        benchmarks = []
        for name in samples[0].values:
            values = [sample.values[name] for sample in samples]
            discarded = [(1, sample.values[name]) for sample in warmups]
            metadata = collected | self._metadata_of(name)
            run = pyperf.Run(values, warmups=discarded, metadata=metadata, collect_metadata=False)
            benchmarks.append(pyperf.Benchmark([run]))
        pyperf.BenchmarkSuite(benchmarks).dump(str(result))
        if samples[-1].arrays:
            np.savez_compressed(result.with_suffix(".npz"), **dict(samples[-1].arrays))

    def _metadata_of(self, name: str) -> Metadata:
        metadata = self.metadata | {"name": name, "unit": self.unit, "case": self.name}
        if name in self.against:
            metadata["measured_against"] = self.against[name]
        return metadata


def _round(arms: Sequence[Arm], number: int) -> Sample:
    """Measure each arm once: forwards in even rounds and backwards in odd ones."""
    order = range(len(arms)) if number % 2 == 0 else reversed(range(len(arms)))
    samples = {index: arms[index]() for index in order}
    return reduce(or_, (samples[index] for index in sorted(samples)))
