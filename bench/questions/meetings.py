"""What else does an ending meet, and what does that cost: unrelated VMAs, waiting threads, and work of the target?

The answer tells when an early close is the dearer way: the kernel walks all VMAs of the target for it. ``waiting
threads`` is of the bare loop alone, with that many threads that wait for a missing page (a manager has none when it
ends); ``woken`` is from its beginning until the last of them is through. ``beside`` is while a thread of the target
works on in a CPU of its own: it reads resident managed pages (``target``), or faults (``fault``), maps, touches and
unmaps (``mmap``) or populates (``populate``, 4 MiB at a time, which holds mmap_lock) memory that nobody manages.
``stall`` is the longest of its accesses within 5 ms of the ending, and ``stall before`` in a window of the same size
before.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from pyuffd import Ending

from ..arms import bare, many
from ..harness.axes import ENDINGS, PAGE, UNRELATED_VMAS, WAITING, WORKERS_BESIDE
from ..harness.case import Arm, Case, Sample
from ..harness.memory import Pattern
from ..harness.placement import APART, SECOND, confined
from ..harness.serving import registered
from ..harness.targets import Target, open_target
from ..harness.watch import REGION_BYTES, Timing, Worker, watch
from . import Context
from .ending import PAIRS, Layout, arms_of, fill, fresh, let_go

REGIONS_AMONG_VMAS = 1024
REGIONS_OF_WAITERS = 64
REGIONS_BESIDE = (256, 4096)
_TIMING = Timing(steady=0.06, earlier=0.03, afterwards=0.02)


def cases(_context: Context) -> Sequence[Case]:
    """Each alone."""
    return [
        *map(_among_vmas, UNRELATED_VMAS),
        *map(_with_waiters, WAITING),
        *(_beside(regions, worker) for regions in REGIONS_BESIDE for worker in WORKERS_BESIDE),
    ]


def _among_vmas(vmas: int) -> Case:
    layout = Layout("missing", "across", REGIONS_AMONG_VMAS, unrelated_vmas=vmas)
    return Case(
        f"{vmas} unrelated VMAs, {REGIONS_AMONG_VMAS} regions",
        partial(_vma_arms, layout),
        parameters=layout.parameters,
        pairs=PAIRS,
        control="early-close" if vmas == min(UNRELATED_VMAS) else "",
        seconds=0.5,
    )


@contextmanager
def _vma_arms(layout: Layout) -> Iterator[Sequence[Arm]]:
    source = Pattern(layout.regions * layout.length)
    with open_target(layout.setup) as target:
        target.add_vmas(layout.unrelated_vmas)
        yield arms_of(target, layout, source)


def _with_waiters(waiters: int) -> Case:
    return Case(
        f"{many(waiters, 'waiting thread')}, {REGIONS_OF_WAITERS} regions",
        partial(_waiter_arms, waiters),
        parameters={"setup": "across", "regions": REGIONS_OF_WAITERS, "waiting": waiters, "placement": "free"},
        pairs=[(bare("unregister"), bare("early-close"))],
        seconds=0.1 + waiters * 1e-4,
    )


@contextmanager
def _waiter_arms(waiters: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(REGIONS_OF_WAITERS * REGION_BYTES)
    with open_target("across") as target:
        yield [Arm(bare(ending), partial(_release_waiters, target, source, ending, waiters)) for ending in ENDINGS]


def _release_waiters(target: Target, source: Pattern, ending: Ending, waiters: int) -> Sample:
    handoff = fresh(target, Layout("missing", "across", REGIONS_OF_WAITERS), source)
    uffd = registered(handoff)
    *filled, last = handoff.regions
    fill(uffd, filled, source)
    if waiters:
        target.start_touching([(last.start, PAGE)], partition="all", threads=waiters, timeline_bins=1)
        while uffd.waiting()[0] < waiters:
            time.sleep(0.001)  # looks again; the release comes when they all wait
    began = time.monotonic()
    values: dict[str, float | None] = {"time": let_go(uffd, handoff.regions, ending)}
    if waiters:
        values["woken"] = target.finish_touching().ended - began
    return Sample(values)


def _beside(regions: int, worker: Worker) -> Case:
    return Case(
        f"beside {worker}, {regions} regions",
        partial(_beside_arms, regions, worker),
        parameters={"setup": "across", "regions": regions, "beside": worker, **APART.metadata},
        pairs=[("unregister", "early-close"), ("keep-open", "early-close")],
        unavailable=APART.unavailable,
        seconds=0.6 + regions * 3e-4,
    )


@contextmanager
def _beside_arms(regions: int, worker: Worker) -> Iterator[Sequence[Arm]]:
    source = Pattern(regions * REGION_BYTES)
    every: Sequence[Ending] = (*ENDINGS, "keep-open")
    with open_target("across") as target, confined([SECOND]):
        yield [Arm(ending, partial(_ending_beside, target, source, regions, ending, worker)) for ending in every]


def _ending_beside(target: Target, source: Pattern, regions: int, ending: Ending, worker: Worker) -> Sample:
    watched = watch(target, source, regions, ending, worker, _TIMING)
    return Sample(
        {
            "time": watched.seconds,
            "stall": watched.longest("around"),
            "stall before": watched.longest("before"),
        }
    )
