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

``ending/1/pages-P``: of one region, against how many of its pages are resident.

``--mode`` says how the regions are registered: ``missing``; ``wp``, where every page is write-protected, so that
letting go walks them all; or ``minor``, where they are mapped from the page cache.

Run it once for each ending, or mode: the names are equal, so that ``pyperf compare_to unregister.json
early-close.json`` works. Nothing is allocated in the timed part, so no memory is warmed. The look at smaps after an
ending, which is outside of its time, is left out: it would disturb the next round.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from _axes import ENDINGS, MODES, PAGE, POPULATED, REGIONS, UNRELATED_VMAS, WAITING, WORKERS_BESIDE, Mode
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
    mode: Mode = options.mode
    walks = [
        *(_of_regions(ending, mode, "across", regions) for regions in REGIONS),
        _of_regions(ending, mode, "in-process", 1024),
        *(_of_pages(ending, mode, pages) for pages in POPULATED),
        *(_among_vmas(ending, mode, vmas) for vmas in UNRELATED_VMAS),
    ]
    if mode != "missing":
        return walks
    return [
        *walks,
        *(_with_waiters(ending, waiters) for waiters in WAITING),
        *(_beside(ending, regions, worker) for regions in REGIONS_BESIDE for worker in WORKERS_BESIDE),
    ]


@dataclass(frozen=True)
class _Layout:
    """What is let go, and how it was registered."""

    ending: Ending
    mode: Mode
    setup: str
    regions: int
    pages: int = REGION_BYTES // PAGE
    unrelated_vmas: int = 0

    @property
    def length(self) -> int:
        """Of a region, in bytes."""
        return self.pages * PAGE


def _of_regions(ending: Ending, mode: Mode, setup: str, regions: int) -> Case:
    name = f"{regions}" if setup == "across" else f"{regions}/{setup}"
    return _timed(name, _Layout(ending, mode, setup, regions))


def _of_pages(ending: Ending, mode: Mode, pages: int) -> Case:
    return _timed(f"1/pages-{pages}", _Layout(ending, mode, "across", 1, pages))


def _among_vmas(ending: Ending, mode: Mode, vmas: int) -> Case:
    layout = _Layout(ending, mode, "across", REGIONS_AMONG_VMAS, unrelated_vmas=vmas)
    return _timed(f"{REGIONS_AMONG_VMAS}/vmas-{vmas}", layout)


def _timed(name: str, layout: _Layout) -> Case:
    name, floor = f"ending/{name}", f"ending-floor/{name}"
    return Case(
        name,
        partial(_timed_arms, layout, name, floor),
        metadata=_metadata(layout.ending, layout.setup, layout.regions)
        | {"mode": layout.mode, "pages": layout.pages, "unrelated_vmas": layout.unrelated_vmas},
        against={name: floor},
    )


def _metadata(ending: Ending, setup: str, regions: int) -> Metadata:
    return {"ending": ending, "setup": setup, "regions": regions, "vmas": regions, "placement": "free"}


@contextmanager
def _timed_arms(layout: _Layout, name: str, floor: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(layout.regions * layout.length)
    with open_target(layout.setup) as target:
        target.add_vmas(layout.unrelated_vmas)
        yield [arm(floor, partial(_bare, target, layout, source)), arm(name, partial(_managed, target, layout, source))]


def _managed(target: Target, layout: _Layout, source: Pattern) -> float:
    handoff = _fresh(target, layout, source)
    with pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, ending=layout.ending, verify=False) as served:
        report = served.close(missing="fill")
    if report.ending != layout.ending or report.missing_pages or report.seconds is None:
        raise RuntimeError(f"asked for {layout.ending}, but {report}")
    return report.seconds


def _bare(target: Target, layout: _Layout, source: Pattern) -> float:
    handoff = _fresh(target, layout, source)
    uffd = registered(handoff)
    _fill(uffd, handoff.regions, source, layout.mode)
    return _let_go(uffd, handoff.regions, layout.ending)


def _fill(uffd: pyuffd.Userfaultfd, regions: Sequence[pyuffd.Region], source: Pattern, mode: Mode = "missing") -> None:
    for region in regions:
        if mode == "minor":
            uffd.continue_(region.start, region.length)
        else:
            origin = source.address + region.source_offset
            uffd.copy(region.start, origin, region.length, write_protect=mode == "wp")


def _let_go(uffd: pyuffd.Userfaultfd, regions: Sequence[pyuffd.Region], ending: Ending) -> float:
    """By the bare loop; returns its seconds."""
    fd = os.dup(uffd.fileno())
    uffd.close()
    if ending == "early-close":
        return _workload.close_fd(fd) * 1e-9
    return _workload.unregister_and_close(fd, [(region.start, region.length) for region in regions]) * 1e-9


def _fresh(target: Target, layout: _Layout, source: Pattern) -> Handoff:
    target.map([layout.length] * layout.regions, layout.mode)
    offsets = [index * layout.length for index in range(layout.regions)]
    return target.hand_over(source.source, offsets, layout.mode)


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
    handoff = _fresh(target, _Layout(ending, "missing", "across", REGIONS_OF_WAITERS), source)
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
    parser.add_argument("--mode", choices=MODES, default="missing", help="of the regions (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main(__doc__, cases, _options())
