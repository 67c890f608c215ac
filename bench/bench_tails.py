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
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_

import numpy as np
from _axes import ENDINGS, PAGE
from _case import Arm, Case, Sample
from _harness import main
from _latency import NAMES, Counts, quantiles
from _memory import Pattern
from _placement import FIRST, SECOND, Placement
from _target import Touched
from _targets import Target, open_target

import pyuffd
from pyuffd import EndingReport, _workload
from pyuffd._manager import Ending

_REGIONS = 4096
_REGION_BYTES = 4 * PAGE
_ROUNDS = 3

_BIN = _workload.BIN_NS * 1e-9
_MARGIN = 0.005
_EARLIER_BINS = 200
_STEADY = 0.25
_AFTERWARDS = 0.1
_TIMELINE_BINS = 3000
# Milliseconds around the beginning of the ending that the timeline keeps.
SHOWN = range(-80, 60)

WORKERS = ("target", "fault", "mmap")
WINDOWS = ("before", "around")


def cases(_options: argparse.Namespace) -> Sequence[Case]:
    """One for each kind of work."""
    return [_case(worker) for worker in WORKERS]


def _case(worker: str) -> Case:
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
def _arms(name: str, worker: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(_REGIONS * _REGION_BYTES)
    with open_target("across") as target:
        os.sched_setaffinity(0, {SECOND})
        yield [partial(_measure, name, target, source, worker)]


def _measure(name: str, target: Target, source: Pattern, worker: str) -> Sample:
    watched: dict[Ending, list[_Watched]] = {ending: [] for ending in ENDINGS}
    for _ in range(_ROUNDS):
        for ending in ENDINGS:
            watched[ending].append(_watch(target, source, ending, worker))
    return reduce(or_, (_sample(f"{name}/{ending}", watched[ending]) for ending in ENDINGS))


@dataclass(frozen=True)
class _Watched:
    """What the thread saw, and when the manager let go."""

    touched: Touched
    report: EndingReport

    def bin_of(self, moment: float) -> int:
        return int((moment - self.touched.origin_ns * 1e-9) // _BIN)

    @property
    def began(self) -> float:
        if self.report.began is None:
            raise RuntimeError(f"the target was not let go: {self.report}")
        return self.report.began

    def window(self, which: str) -> slice:
        """The bins of a window; an access belongs to the bin in which it ended."""
        first = self.bin_of(self.began - _MARGIN)
        last = self.bin_of(self.began + (self.report.seconds or 0.0) + _MARGIN)
        shift = _EARLIER_BINS if which == "before" else 0
        return slice(first - shift, last + 1 - shift)

    def histogram(self, which: str) -> Counts:
        counts: Counts = self.touched.timeline_histogram[self.window(which)].sum(axis=0, dtype=np.uint64)
        return counts

    def max_ns(self, which: str) -> int:
        return int(self.touched.timeline_max_ns[self.window(which)].max())


def _watch(target: Target, source: Pattern, ending: Ending, worker: str) -> _Watched:
    """Have all but one region resident, let the thread settle, and install the last: then the target ends."""
    target.map([_REGION_BYTES] * _REGIONS)
    handoff = target.hand_over(source.source, [index * _REGION_BYTES for index in range(_REGIONS)])
    with pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, ending=ending, verify=False) as served:
        target.touch(target.ranges[:-1], timed=False, cpus=(SECOND,))
        _start(target, worker)
        time.sleep(_STEADY)
        served.fill()
        served.wait(progress=False)
        time.sleep(_AFTERWARDS)
        return _Watched(_stop(target, worker), served.close())


def _start(target: Target, worker: str) -> None:
    if worker == "target":
        target.start_touching(target.ranges[:-1], order="random", passes=0, cpus=(FIRST,), timeline_bins=_TIMELINE_BINS)
    elif worker == "fault":
        target.start_bystanders("fault", cpus=(FIRST,), timeline_bins=_TIMELINE_BINS)
    else:
        target.start_bystanders("mmap", cpus=(FIRST,), timeline_bins=_TIMELINE_BINS)


def _stop(target: Target, worker: str) -> Touched:
    return target.finish_touching(stop=True) if worker == "target" else target.stop_bystanders()


def _sample(name: str, watched: Sequence[_Watched]) -> Sample:
    """What one kind of ending did, from all of them together."""
    values: dict[str, float] = {}
    arrays = {f"{name}/timeline": np.array([_shown(each) for each in watched])}
    for window in WINDOWS:
        arrays[f"{name}/{window}"] = histogram = _pooled(watched, window)
        tails = quantiles(histogram, max(each.max_ns(window) for each in watched))
        values |= {f"{name}/{window}/{quantile}": seconds for quantile, seconds in tails.items()}
    return Sample(values, arrays)


def _pooled(watched: Sequence[_Watched], window: str) -> Counts:
    counts: Counts = np.sum([each.histogram(window) for each in watched], axis=0, dtype=np.uint64)
    return counts


def _shown(watched: _Watched) -> Counts:
    began = watched.bin_of(watched.began)
    return watched.touched.timeline_count[began + SHOWN.start : began + SHOWN.stop]


if __name__ == "__main__":
    main(__doc__, cases)
