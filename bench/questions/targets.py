"""What does a fault cost when one manager serves many targets, beside an epoll loop over as many userfaultfds?

The answer tells how many targets one handler is good for. Seconds per page, by the clock of the threads that touch:
each waits for its faults, on memory of one target after the other. Each target is one userfaultfd with one range of
this process; all are served by one handler. Both arms serve the same memory from the same bytes at the same placement.
The last page of each target is touched after the clock has stopped: the manager ends a target with its last page, and
to end one holds up the faults of others in the same address space, since the kernel walks all of its mappings.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import pyuffd
from pyuffd import _workload
from pyuffd.handoff import Handoff

from ..arms import many
from ..harness.axes import PAGE, TARGETS
from ..harness.case import Arm, Case
from ..harness.memory import Pattern
from ..harness.placement import OTHER_AWAKE, SAME, Placement
from ..harness.serving import registered
from ..harness.targets import open_target
from . import Context

_PAGES = 4096


def cases(_context: Context) -> Sequence[Case]:
    """Every number of targets, touched by one thread and by several."""
    placements = (SAME, OTHER_AWAKE)
    return [_case(targets, placement, threads) for targets in TARGETS for placement in placements for threads in (1, 8)]


def _case(targets: int, placement: Placement, threads: int) -> Case:
    return Case(
        f"{many(targets, 'target')}, {placement.name}, {many(threads, 'thread')}",
        partial(_arms, targets, placement, threads),
        parameters={
            "targets": targets,
            "threads": threads,
            "fault_around": 1,
            "cpus": placement.name,
            **placement.metadata,
        },
        pairs=[("manager", "epoll loop")],
        control="epoll loop" if (targets, placement, threads) == (1, SAME, 1) else "",
        unavailable=placement.unavailable,
        seconds=0.2,
    )


@contextmanager
def _arms(targets: int, placement: Placement, threads: int) -> Iterator[Sequence[Arm]]:
    served = _Many(targets, placement, threads)
    with placement.held():
        yield [Arm("epoll loop", served.by_floor), Arm("manager", served.by_manager)]


class _Many:
    """Targets of equal size, _PAGES pages together."""

    def __init__(self, targets: int, placement: Placement, threads: int) -> None:
        self._length = _PAGES // targets * PAGE
        self._source = Pattern(self._length)
        self._placement = placement
        self._threads = threads
        self._targets = targets

    def by_manager(self) -> float:
        """Serve with one manager."""
        with ExitStack() as stack:
            handoffs = self._fresh(stack)
            manager = stack.enter_context(pyuffd.Manager(handlers=1, placement=self._placement.handler or "auto"))
            served = [
                manager.add(handoff.uffd, handoff.regions, ending="early-close", fault_around=1, verify=False)
                for handoff in handoffs
            ]
            seconds = self._touch()
            for target in served:
                target.wait(progress=False)
        return seconds

    def by_floor(self) -> float:
        """Serve with epoll_wait, read and COPY."""
        with ExitStack() as stack:
            uffds = [stack.enter_context(registered(handoff)) for handoff in self._fresh(stack)]
            floor = _workload.EpollFloor(
                [
                    (uffd.fileno(), start, self._source.address)
                    for uffd, (start, _) in zip(uffds, self._ranges, strict=True)
                ],
                copies=_PAGES,
                cpu=next(iter(self._placement.handler), None),
            )
            floor.start()
            seconds = self._touch()
            floor.join()
        return seconds

    def _fresh(self, stack: ExitStack) -> list[Handoff]:
        target = stack.enter_context(open_target("in-process"))
        self._ranges = target.map([self._length] * self._targets)
        _workload.warm(_PAGES * PAGE)
        return [
            Handoff(pyuffd.Userfaultfd(user_mode_only=None), [pyuffd.Region(start, length, self._source.source)], 0)
            for start, length in self._ranges
        ]

    def _touch(self) -> float:
        """Touch all pages, the last one of each target at the end; returns the seconds per page of the others."""
        but_last = self._length - PAGE
        seconds = self._touch_ranges([(start, but_last) for start, _ in self._ranges], self._threads)
        self._touch_ranges([(start + but_last, PAGE) for start, _ in self._ranges], threads=1)
        return seconds / (_PAGES - self._targets)

    def _touch_ranges(self, ranges: Sequence[tuple[int, int]], threads: int) -> float:
        """Page by page, each in the next of these ranges of equal length."""
        toucher = _workload.Toucher(
            ranges,
            order="stride",
            partition="split",
            stride=ranges[0][1] // PAGE,
            threads=threads,
            cpus=self._placement.touchers,
            timed=False,
        )
        toucher.start()
        return max(toucher.join().thread_elapsed_ns) * 1e-9
