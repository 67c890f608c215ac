"""The two arms that serve faults: the manager, and the shortest hand-written loop."""

from dataclasses import dataclass

from _axes import BULK_CHUNK, PAGE
from _memory import Pattern
from _placement import Placement
from _target import Touched
from _targets import Target

import pyuffd
from pyuffd import _workload
from pyuffd.handoff import REGISTER_MODES, Handoff


@dataclass(frozen=True)
class Serving:
    """How one range of a target is served, by either arm: all else is equal.

    Attributes:
        pages: Of the range; a whole number of windows.
        window: Fault-around, in pages.
        threads: That touch it, all once, each its own part from beginning to end.
    """

    target: Target
    source: Pattern
    pages: int
    placement: Placement
    window: int = 1
    threads: int = 1

    def by_manager(self) -> float:
        """Serve with ``pyuffd.serve``; returns the touchers' seconds per page."""
        handoff = self.fresh()
        with pyuffd.serve(
            handoff.uffd,
            handoff.regions,
            pid=handoff.pid,
            ending="early-close",
            fault_around=self.window,
            cpus=self.placement.handler,
            verify=False,
        ) as served:
            touched = self.touch()
            served.wait(progress=False)
        return touched.seconds / self.pages

    def by_floor(self) -> float:
        """Serve with poll, read and COPY; returns the touchers' seconds per page."""
        handoff = self.fresh()
        with registered(handoff) as uffd:
            server = _workload.FloorServer(
                uffd.fileno(),
                start=self.target.ranges[0][0],
                length=self.pages * PAGE,
                source=self.source.address,
                copies=self.pages // self.window,
                window=self.window,
                cpu=next(iter(self.placement.handler), None),
            )
            server.start()
            touched = self.touch()
            server.join()
        return touched.seconds / self.pages

    def by_bulk_copy(self, threads: int = 1) -> float:
        """Install all pages by UFFDIO_COPY alone, nobody touching; returns the seconds per page."""
        with registered(self.fresh()) as uffd:
            nanoseconds = _workload.bulk_copy(
                uffd.fileno(),
                self.target.ranges[0][0],
                self.source.address,
                self.pages * PAGE,
                chunk=BULK_CHUNK,
                threads=threads,
                cpus=self.placement.handler,
            )
        return nanoseconds * 1e-9 / self.pages

    def touch(self) -> Touched:
        """Touch all pages once, at the placement."""
        return self.target.touch(threads=self.threads, cpus=self.placement.touchers, timed=False)

    def fresh(self) -> Handoff:
        """Have all pages missing again, and memory for them that the host need not give first."""
        self.target.map([self.pages * PAGE])
        handoff = self.target.hand_over(self.source.source, [0])
        _workload.warm(self.pages * PAGE)
        return handoff


def registered(handoff: Handoff) -> pyuffd.Userfaultfd:
    """Register the regions, unless their sender did: ``serve()`` does it for the manager."""
    if not handoff.uffd.registered_by_sender:
        for region in handoff.regions:
            handoff.uffd.register(region.start, region.length, REGISTER_MODES[region.mode])
    return handoff.uffd
