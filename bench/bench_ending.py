"""How long does an ending take, and whom does it hold up?

``ending/R``: against the number of regions. Each is a VMA of its own, of 4 resident pages: the manager has filled
them. ``ending/R/vmas-V``: with that many unrelated VMAs in the target besides. The floor is the bare loop of system
calls on a userfaultfd that was prepared in the same way.

``ending-floor/R/waiting-W``: the bare loop alone, with that many threads that wait for a missing page, and
``woken/...``: from its beginning until the last of them is through. A manager has no such threads when it ends.

``ending/R/beside-X``: while a thread of the target works on in a CPU of its own: it reads resident managed pages
(``target``), or faults (``fault``), maps, touches and unmaps (``mmap``) or populates (``populate``, 4 MiB at a time,
which holds mmap_lock) memory that nobody manages. ``stall/...`` is the longest of its accesses within 5 ms of the
ending, and ``stall-before/...`` in a window of the same size before.

Run it once for each ending: the names are equal, so that ``pyperf compare_to unregister.json early-close.json``
works. Nothing is allocated in the timed part, so no memory is warmed. The look at smaps after an ending, which is
outside of its time, is left out: it would disturb the next round.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from _axes import ENDINGS, PAGE, REGIONS, UNRELATED_VMAS, WAITING, WORKERS_BESIDE
from _case import Arm, Case, Sample, arm
from _harness import main
from _memory import Pattern
from _metadata import Metadata
from _placement import FIRST, SECOND, Placement
from _serving import registered
from _targets import Target, open_target
from _watch import REGION_BYTES, Timing, Worker, watch

import pyuffd
from pyuffd import _workload
from pyuffd._manager import Ending
from pyuffd.handoff import Handoff

REGIONS_AMONG_VMAS = 1024
REGIONS_OF_WAITERS = 64
REGIONS_BESIDE = (256, 4096)
_TIMING = Timing(steady=0.06, earlier=0.03, afterwards=0.02)


def cases(options: argparse.Namespace) -> Sequence[Case]:
    """Regions in another process, one case in this one, and what else an ending may meet."""
    ending: Ending = options.ending
    return [
        *(_of_regions(ending, "across", regions) for regions in REGIONS),
        _of_regions(ending, "in-process", 1024),
        *(_among_vmas(ending, vmas) for vmas in UNRELATED_VMAS),
        *(_with_waiters(ending, waiters) for waiters in WAITING),
        *(_beside(ending, regions, worker) for regions in REGIONS_BESIDE for worker in WORKERS_BESIDE),
    ]


def _of_regions(ending: Ending, setup: str, regions: int) -> Case:
    name = f"{regions}" if setup == "across" else f"{regions}/{setup}"
    return _timed(ending, setup, regions, 0, name)


def _among_vmas(ending: Ending, vmas: int) -> Case:
    return _timed(ending, "across", REGIONS_AMONG_VMAS, vmas, f"{REGIONS_AMONG_VMAS}/vmas-{vmas}")


def _timed(ending: Ending, setup: str, regions: int, vmas: int, name: str) -> Case:
    name, floor = f"ending/{name}", f"ending-floor/{name}"
    return Case(
        name,
        partial(_timed_arms, ending, setup, regions, vmas, name, floor),
        metadata=_metadata(ending, setup, regions) | {"unrelated_vmas": vmas},
        against={name: floor},
    )


def _metadata(ending: Ending, setup: str, regions: int) -> Metadata:
    return {"ending": ending, "setup": setup, "regions": regions, "vmas": regions, "placement": "free"}


@contextmanager
def _timed_arms(ending: Ending, setup: str, regions: int, vmas: int, name: str, floor: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(regions * REGION_BYTES)
    with open_target(setup) as target:
        target.add_vmas(vmas)
        yield [
            arm(floor, partial(_bare, target, regions, source, ending)),
            arm(name, partial(_managed, target, regions, source, ending)),
        ]


def _managed(target: Target, regions: int, source: Pattern, ending: Ending) -> float:
    handoff = _fresh(target, regions, source)
    with pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, ending=ending, verify=False) as served:
        report = served.close(missing="fill")
    if report.ending != ending or report.missing_pages or report.seconds is None:
        raise RuntimeError(f"asked for {ending}, but {report}")
    return report.seconds


def _bare(target: Target, regions: int, source: Pattern, ending: Ending) -> float:
    handoff = _fresh(target, regions, source)
    uffd = registered(handoff)
    _fill(uffd, handoff.regions, source)
    return _let_go(uffd, handoff.regions, ending)


def _fill(uffd: pyuffd.Userfaultfd, regions: Sequence[pyuffd.Region], source: Pattern) -> None:
    for region in regions:
        uffd.copy(region.start, source.address + region.source_offset, region.length)


def _let_go(uffd: pyuffd.Userfaultfd, regions: Sequence[pyuffd.Region], ending: Ending) -> float:
    """By the bare loop; returns its seconds."""
    fd = os.dup(uffd.fileno())
    uffd.close()
    if ending == "early-close":
        return _workload.close_fd(fd) * 1e-9
    return _workload.unregister_and_close(fd, [(region.start, region.length) for region in regions]) * 1e-9


def _fresh(target: Target, regions: int, source: Pattern) -> Handoff:
    target.map([REGION_BYTES] * regions)
    return target.hand_over(source.source, [index * REGION_BYTES for index in range(regions)])


def _with_waiters(ending: Ending, waiters: int) -> Case:
    name = f"{REGIONS_OF_WAITERS}/waiting-{waiters}"
    return Case(
        f"ending-floor/{name}",
        partial(_waiter_arms, ending, waiters, name),
        metadata=_metadata(ending, "across", REGIONS_OF_WAITERS) | {"waiting_threads": waiters},
    )


@contextmanager
def _waiter_arms(ending: Ending, waiters: int, name: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(REGIONS_OF_WAITERS * REGION_BYTES)
    with open_target("across") as target:
        yield [partial(_release_waiters, target, source, ending, waiters, name)]


def _release_waiters(target: Target, source: Pattern, ending: Ending, waiters: int, name: str) -> Sample:
    handoff = _fresh(target, REGIONS_OF_WAITERS, source)
    uffd = registered(handoff)
    *filled, last = handoff.regions
    _fill(uffd, filled, source)
    if waiters:
        target.start_touching([(last.start, PAGE)], partition="all", threads=waiters, timeline_bins=1)
        while uffd.waiting()[0] < waiters:
            time.sleep(0.001)  # looks again; the release comes when they all wait
    began = time.monotonic()
    values = {f"ending-floor/{name}": _let_go(uffd, handoff.regions, ending)}
    if waiters:
        values[f"woken/{name}"] = target.finish_touching().ended - began
    return Sample(values)


def _beside(ending: Ending, regions: int, worker: Worker) -> Case:
    name = f"{regions}/beside-{worker}"
    return Case(
        f"ending/{name}",
        partial(_beside_arms, ending, regions, worker, name),
        metadata=_metadata(ending, "across", regions)
        | {"placement": f"the thread on CPU {FIRST}, the manager's process on CPU {SECOND}", "beside": worker},
        against={f"stall/{name}": f"stall-before/{name}"},
        unavailable=Placement("apart", (FIRST,), (SECOND,)).unavailable,
    )


@contextmanager
def _beside_arms(ending: Ending, regions: int, worker: Worker, name: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(regions * REGION_BYTES)
    with open_target("across") as target:
        os.sched_setaffinity(0, {SECOND})
        yield [partial(_ending_beside, target, source, regions, ending, worker, name)]


def _ending_beside(target: Target, source: Pattern, regions: int, ending: Ending, worker: Worker, name: str) -> Sample:
    watched = watch(target, source, regions, ending, worker, _TIMING)
    if watched.report.seconds is None:
        raise RuntimeError(f"asked for {ending}, but {watched.report}")
    return Sample(
        {
            f"ending/{name}": watched.report.seconds,
            f"stall/{name}": watched.max_ns("around") * 1e-9,
            f"stall-before/{name}": watched.max_ns("before") * 1e-9,
        }
    )


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--ending", choices=ENDINGS, default="early-close", help="which one (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main(__doc__, cases, _options())
