"""Does the cost of a page grow with the memory, or with the regions?

The answer tells whether large targets are served as fast as small ones. Seconds per page. ``fault`` is that of single
faults in random order, of a thread on the handler's CPU; ``fill`` that of the background fill of everything, beside the
first touch of as much memory with nobody to serve it: a virtual machine that has given memory back to its host waits
for it in both. ``faults beside a fill`` is the latency of faults alone, and beside a filler on the other CPU, whose
``chunk`` is the time of one of its installs. ``random touches`` is what learned fault-around installs for each fault,
in pages, where one page in ten is touched, at random: 1 is the page itself.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

import pyuffd
from pyuffd import _workload

from ..arms import NATIVE, many
from ..harness.axes import LOOKED_UP, MEMORY, PAGE
from ..harness.case import Arm, Case, Sample
from ..harness.latency import quantiles
from ..harness.memory import Pattern, lack_of
from ..harness.placement import FIRST, FREE, OTHER, SAME, SECOND
from ..harness.serving import Serving
from ..harness.targets import open_target
from . import Context

_MIB = 1 << 20
# So small that the source is in the cache whatever the size.
_REGION_BYTES = 16 * _MIB
_SAMPLE = 4096  # faults
_PAGES = 16384
_FAULT_NS = 1000  # accesses that took less met a page that was there


def cases(_context: Context) -> Sequence[Case]:
    """Each axis varied alone."""
    memory = [_size_case(f"{size} MiB", [_REGION_BYTES] * (size * _MIB // _REGION_BYTES), 2) for size in MEMORY]
    lookups = [
        _size_case(f"64 MiB in {many(count, 'region')}", [_PAGES // count * PAGE] * count) for count in LOOKED_UP
    ]
    return [*memory, *lookups, _filling_case(), _random_case()]


def _size_case(name: str, lengths: Sequence[int], rounds: int | None = None) -> Case:
    return Case(
        name,
        partial(_size_arms, lengths),
        parameters={"setup": "across", "regions": len(lengths), "bytes": sum(lengths), **SAME.metadata},
        pairs=[("manager", NATIVE)],
        control=NATIVE if sum(lengths) == min(MEMORY) * _MIB and rounds else "",
        rounds=rounds,
        unavailable=lack_of(2 * sum(lengths) + (1 << 30)),
        seconds=0.3 + sum(lengths) / (1 << 30),
        time_limit=300.0,
    )


@contextmanager
def _size_arms(lengths: Sequence[int]) -> Iterator[Sequence[Arm]]:
    source = Pattern(max(lengths))
    with open_target("across") as target:

        def measure() -> Sample:
            target.map(lengths)
            _workload.warm(sum(lengths))
            handoff = target.hand_over(source.source, [0] * len(lengths))
            with pyuffd.serve(
                handoff.uffd, handoff.regions, pid=handoff.pid, fault_around=1, placement=SAME.handler, verify=False
            ) as served:
                part = [(start, length // 8 // PAGE * PAGE or PAGE) for start, length in target.ranges]
                chosen = part[:: max(1, len(part) // _SAMPLE)] if part[0][1] == PAGE else part
                pages = sum(length for _, length in chosen) // PAGE
                touched = target.touch(chosen, order="random", cpus=SAME.touchers, timed=False)
                missing = sum(lengths) // PAGE - served.stats().pages
                began = time.monotonic()
                served.fill()
                served.wait(progress=False)
                filled = time.monotonic() - began
            return Sample({"fault": touched.seconds / pages, "fill": filled / missing})

        def measure_natively() -> Sample:
            target.map(lengths)
            _workload.warm(sum(lengths))
            return Sample({"fill": target.touch_natively() / sum(lengths) * PAGE})

        yield [Arm("manager", measure), Arm(NATIVE, measure_natively)]


def _filling_case() -> Case:
    return Case(
        "faults beside a fill",
        _filling_arms,
        parameters={"setup": "across", "placement": f"thread and handler on CPU {FIRST}, filler on CPU {SECOND}"},
        pairs=[("beside a filler", "alone")],
        unavailable=OTHER.unavailable,
        seconds=1.5,
    )


@contextmanager
def _filling_arms() -> Iterator[Sequence[Arm]]:
    source = Pattern(4 * _PAGES * PAGE)
    with open_target("across") as target:

        def measure(*, beside: bool) -> Sample:
            serving = Serving(target, source, 4 * _PAGES, SAME)
            handoff = serving.fresh()
            with pyuffd.serve(
                handoff.uffd, handoff.regions, pid=handoff.pid, placement=(FIRST, SECOND), verify=False
            ) as served:
                start = target.ranges[0][0]
                target.start_touching(
                    [(start, 4 * _PAGES * PAGE)], order="random", cpus=SAME.touchers, passes=1, timeline_bins=0
                )
                if beside:
                    served.fill()
                    served.wait(progress=False)
                touched = target.finish_touching(stop=beside)
            tails = quantiles(np.where(_workload.bucket_bounds() < _FAULT_NS, 0, touched.histogram), touched.max_ns)
            return Sample(dict(tails))

        def chunk() -> Sample:
            serving = Serving(target, source, 4 * _PAGES, SAME)
            handoff = serving.fresh()
            with pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, placement=(FIRST, SECOND)) as served:
                served.fill()
                served.wait(progress=False)
                stats = served.stats()
            return Sample({"chunk": stats.pages / stats.copies * serving.by_bulk_copy()})

        yield [
            Arm("alone", partial(measure, beside=False)),
            Arm("beside a filler", partial(measure, beside=True)),
            Arm("filler", chunk),
        ]


def _random_case() -> Case:
    return Case("random touches", _random_arms, {"setup": "across", **FREE.metadata}, unit="page", seconds=0.3)


@contextmanager
def _random_arms() -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES * PAGE)
    with open_target("across") as target:

        def measure() -> float:
            target.map([_PAGES * PAGE])
            handoff = target.hand_over(source.source, [0])
            target_of = pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, verify=False)
            start = target.ranges[0][0]
            # One page in ten: those of a random order's beginning are not at hand, but any tenth of the pages is.
            chosen = [(start + page * PAGE, PAGE) for page in _tenth()]
            with target_of as served:
                target.touch(chosen, order="random", timed=False)
                stats = served.stats()
            return stats.pages / stats.faults

        yield [Arm("auto", lambda: Sample({"installed a fault": measure()}))]


def _tenth() -> list[int]:
    """Random pages, a tenth of all, always the same."""
    return [int(page) for page in np.random.default_rng(1).choice(_PAGES, _PAGES // 10, replace=False)]
