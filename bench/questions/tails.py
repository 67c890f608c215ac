"""Whom does an ending disturb, and for how long?

The answer tells whether the target and its other threads feel it when a manager lets go. One thread of the target works
on in a CPU of its own while the manager lets go of thousands of regions: it reads resident managed pages (``target``),
faults on memory that nobody manages (``fault``), or maps, touches and unmaps such memory (``mmap``). ``p50`` to ``max``
are of one such access, of those within 5 ms of the ending; ``before`` is a window of the same size earlier. A thread
does its next access when the last is done (a closed loop): an access that stalls holds back those that would have come
meanwhile. ``pace`` is the time of the window for each access that ended in it: the reciprocal of the throughput.
``keep-open`` lets go of nothing: what is around its last page is what no ending costs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from pyuffd import Ending

from ..harness.axes import ENDINGS
from ..harness.case import Arm, Case, Sample
from ..harness.latency import Counts, quantiles
from ..harness.memory import Pattern
from ..harness.placement import APART, SECOND, confined
from ..harness.targets import Target, open_target
from ..harness.watch import REGION_BYTES, Timing, Watched, Worker, watch
from . import Context

_REGIONS = 4096
_TIMING = Timing(steady=0.08, earlier=0.04, afterwards=0.05)
# Milliseconds around the beginning of the ending that the timeline keeps.
SHOWN = range(-30, 40)

WORKERS: tuple[Worker, ...] = ("target", "fault", "mmap")
WINDOWS = ("before", "around")


def cases(_context: Context) -> Sequence[Case]:
    """One for each kind of work."""
    return [
        Case(
            f"beside {worker}",
            partial(_arms, worker),
            parameters={
                "setup": "across",
                "regions": _REGIONS,
                "beside": worker,
                "timeline_begins_ms": SHOWN.start,
                **APART.metadata,
            },
            pairs=[("unregister", "early-close"), ("early-close", "keep-open"), ("unregister", "keep-open")],
            control="early-close",
            headline=True,
            warmups=0,
            rounds=2,
            seconds=1.0,
            unavailable=APART.unavailable,
        )
        for worker in WORKERS
    ]


@contextmanager
def _arms(worker: Worker) -> Iterator[Sequence[Arm]]:
    source = Pattern(_REGIONS * REGION_BYTES)
    every: Sequence[Ending] = (*ENDINGS, "keep-open")
    with open_target("across") as target, confined([SECOND]):
        yield [Arm(ending, partial(_measure, target, source, worker, ending)) for ending in every]


def _measure(target: Target, source: Pattern, worker: Worker, ending: Ending) -> Sample:
    watched = watch(target, source, _REGIONS, ending, worker, _TIMING)
    values: dict[str, float | None] = {}
    for window in WINDOWS:
        histogram = watched.histogram(window)
        tails = quantiles(histogram, watched.max_ns(window)) if histogram.any() else {}
        values |= {f"{quantile} {window}": seconds for quantile, seconds in tails.items()}
        values[f"pace {window}"] = watched.pace(window)
    return Sample(values, {"timeline": _shown(watched)})


def _shown(watched: Watched) -> Counts:
    began = watched.bin_of(watched.began)
    return watched.touched.timeline_count[began + SHOWN.start : began + SHOWN.stop]
