"""Whom does an ending disturb, and for how long?

One thread of the target works on in a CPU of its own while the manager lets go of thousands of regions: it reads
resident managed pages (``target``), faults on memory that nobody manages (``fault``), or maps, touches and unmaps such
memory (``mmap``). Seconds of one such access, p50 to max, within 5 ms of the ending, against a window of the same size
200 ms earlier. The longest stall is the max. A thread does its next access when the last is done (a closed loop): an
access that stalls holds back those that would have come meanwhile.

The endings take turns in each process, which has one value from the accesses of all its endings of a kind together.
Beside the JSON, ``.npz`` holds the histograms of both windows and the accesses per millisecond around each ending.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from operator import or_

import numpy as np
from _axes import ENDINGS
from _case import Arm, Case, Sample
from _harness import main
from _latency import NAMES, Counts, quantiles
from _memory import Pattern
from _placement import FIRST, SECOND, Placement
from _targets import Target, open_target
from _watch import REGION_BYTES, Timing, Watched, Worker, watch

from pyuffd._manager import Ending

_REGIONS = 4096
_ROUNDS = 3
_TIMING = Timing(steady=0.25, earlier=0.2, afterwards=0.1)
# Milliseconds around the beginning of the ending that the timeline keeps.
SHOWN = range(-80, 60)

WORKERS: tuple[Worker, ...] = ("target", "fault", "mmap")
WINDOWS = ("before", "around")


def cases(_options: argparse.Namespace) -> Sequence[Case]:
    """One for each kind of work."""
    return [_case(worker) for worker in WORKERS]


def _case(worker: Worker) -> Case:
    name = f"tails/{worker}"
    return Case(
        name,
        partial(_arms, name, worker),
        metadata={
            "setup": "across",
            "placement": f"the thread on CPU {FIRST}, the manager's process on CPU {SECOND}",
            "regions": _REGIONS,
            "endings_of_a_kind": _ROUNDS,
        },
        against={
            f"{name}/{ending}/around/{quantile}": f"{name}/{ending}/before/{quantile}"
            for ending in ENDINGS
            for quantile in NAMES
        },
        rounds=1,
        unavailable=Placement("apart", (FIRST,), (SECOND,)).unavailable,
    )


@contextmanager
def _arms(name: str, worker: Worker) -> Iterator[Sequence[Arm]]:
    source = Pattern(_REGIONS * REGION_BYTES)
    with open_target("across") as target:
        os.sched_setaffinity(0, {SECOND})
        yield [partial(_measure, name, target, source, worker)]


def _measure(name: str, target: Target, source: Pattern, worker: Worker) -> Sample:
    watched: dict[Ending, list[Watched]] = {ending: [] for ending in ENDINGS}
    for _ in range(_ROUNDS):
        for ending in ENDINGS:
            watched[ending].append(watch(target, source, _REGIONS, ending, worker, _TIMING))
    return reduce(or_, (_sample(f"{name}/{ending}", watched[ending]) for ending in ENDINGS))


def _sample(name: str, watched: Sequence[Watched]) -> Sample:
    """What one kind of ending did, from all of them together."""
    values: dict[str, float] = {}
    arrays = {f"{name}/timeline": np.array([_shown(each) for each in watched])}
    for window in WINDOWS:
        arrays[f"{name}/{window}"] = histogram = _pooled(watched, window)
        tails = quantiles(histogram, max(each.max_ns(window) for each in watched))
        values |= {f"{name}/{window}/{quantile}": seconds for quantile, seconds in tails.items()}
    return Sample(values, arrays)


def _pooled(watched: Sequence[Watched], window: str) -> Counts:
    counts: Counts = np.sum([each.histogram(window) for each in watched], axis=0, dtype=np.uint64)
    return counts


def _shown(watched: Watched) -> Counts:
    began = watched.bin_of(watched.began)
    return watched.touched.timeline_count[began + SHOWN.start : began + SHOWN.stop]


if __name__ == "__main__":
    main(__doc__, cases)
