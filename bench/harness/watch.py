"""One ending, and what a thread that works on meanwhile sees of it."""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

import pyuffd
from pyuffd import Ending, _workload

from .axes import PAGE
from .latency import Counts
from .memory import Pattern
from .placement import FIRST, SECOND
from .target import Touched
from .targets import Target

Worker = Literal["target", "fault", "mmap", "populate"]

REGION_BYTES = 4 * PAGE

_BIN = _workload.BIN_NS * 1e-9
_MARGIN = 0.005
_TIMELINE_BINS = 3000
_POPULATED_PAGES = 1024


@dataclass(frozen=True)
class Timing:
    """When things happen around an ending, in seconds.

    Attributes:
        steady: How long the thread works before the ending.
        earlier: How long before the window around the ending the one to compare with lies; less than ``steady``.
        afterwards: How long the thread works on.
    """

    steady: float
    earlier: float
    afterwards: float


@dataclass(frozen=True)
class Watched:
    """What the thread saw, and when the manager let go."""

    touched: Touched
    began: float  # by time.monotonic(); of keep-open, when the last page was there
    seconds: float | None  # of the ending; None for keep-open
    timing: Timing

    def bin_of(self, moment: float) -> int:
        """The bin of the timeline that holds this moment of ``time.monotonic()``."""
        return int((moment - self.touched.origin_ns * 1e-9) // _BIN)

    def window(self, which: str) -> slice:
        """The bins from 5 ms before the ending to 5 ms after it, or as many ``"before"``.

        An access belongs to the bin in which it ended. Where none ended in the window, the window goes on to the end of
        the one that lasted all the while.
        """
        first = self.bin_of(self.began - _MARGIN)
        last = self.bin_of(self.began + (self.seconds or 0.0) + _MARGIN)
        shift = round(self.timing.earlier / _BIN) if which == "before" else 0
        first, end = first - shift, last + 1 - shift
        ended = np.flatnonzero(self.touched.timeline_count[first:])
        return slice(first, max(end, first + int(ended[0]) + 1 if ended.size else end))

    def histogram(self, which: str) -> Counts:
        """Of the accesses in the window."""
        counts: Counts = self.touched.timeline_histogram[self.window(which)].sum(axis=0, dtype=np.uint64)
        return counts

    def pace(self, which: str) -> float | None:
        """Seconds of the window for each access that ended in it; None where none has ended since."""
        window = self.window(which)
        accesses = int(self.touched.timeline_count[window].sum())
        return (window.stop - window.start) * _BIN / accesses if accesses else None

    def max_ns(self, which: str) -> int:
        """The longest access in the window; 0 where none has ended since."""
        return int(self.touched.timeline_max_ns[self.window(which)].max())

    def longest(self, which: str) -> float | None:
        """The longest access in the window, in seconds; None where none has ended since."""
        return self.max_ns(which) * 1e-9 or None


def watch(target: Target, source: Pattern, regions: int, ending: Ending, worker: Worker, timing: Timing) -> Watched:
    """Have all but one region resident, let the thread settle, and install the last: then the target ends."""
    target.map([REGION_BYTES] * regions)
    handoff = target.hand_over(source.source, [index * REGION_BYTES for index in range(regions)])
    with pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, ending=ending, verify=False) as served:
        target.touch(target.ranges[:-1], timed=False, cpus=(SECOND,))
        _start(target, worker)
        time.sleep(timing.steady)
        served.fill()
        served.wait(progress=False)
        complete = time.monotonic()
        time.sleep(timing.afterwards)
        touched, report = _stop(target, worker), served.close()
        if ending == "keep-open":
            served.stop().close()
        return Watched(touched, report.began or complete, report.seconds, timing)


def _start(target: Target, worker: Worker) -> None:
    if worker == "target":
        target.start_touching(target.ranges[:-1], order="random", passes=0, cpus=(FIRST,), timeline_bins=_TIMELINE_BINS)
    elif worker == "populate":
        target.start_bystanders(worker, pages=_POPULATED_PAGES, cpus=(FIRST,), timeline_bins=_TIMELINE_BINS)
    else:
        target.start_bystanders(worker, cpus=(FIRST,), timeline_bins=_TIMELINE_BINS)


def _stop(target: Target, worker: Worker) -> Touched:
    return target.finish_touching(stop=True) if worker == "target" else target.stop_bystanders()
