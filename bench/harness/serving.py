"""The two arms that serve faults: the manager, and the shortest hand-written loop."""

import fcntl
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import pyuffd
from pyuffd import Placement as ManagerPlacement
from pyuffd import _workload
from pyuffd.handoff import REGISTER_MODES, Handoff

from .axes import BULK_CHUNK, PAGE
from .memory import Pattern
from .placement import Placement
from .target import Touched
from .targets import Target


@dataclass(frozen=True)
class Serving:
    """How one range of a target is served, by either arm: all else is equal.

    Attributes:
        pages: Of the range; a whole number of windows.
        window: Fault-around, in pages; only the manager learns.
        threads: That touch it, all once, each its own part from beginning to end.
        file: The path of a file with the source's bytes, from which the manager serves instead; "" for memory.
        guard: What a guard does when this process dies; None for no guard.
    """

    target: Target
    source: Pattern
    pages: int
    placement: Placement
    window: int | Literal["auto"] = 1
    threads: int = 1
    file: str = ""
    order: Literal["sequential", "random"] = "sequential"
    guard: Literal["poison"] | None = "poison"

    def by_manager(self) -> float:
        """Serve with ``pyuffd.serve``; returns the touchers' seconds per page."""
        handoff = self.fresh()
        with pyuffd.serve(
            handoff.uffd,
            handoff.regions,
            pid=handoff.pid,
            ending="early-close",
            fault_around=self.window,
            placement=self.placement.handler or "auto",
            guard=self.guard,
            verify=False,
        ) as served:
            touched = self.touch()
            served.wait(progress=False)
        return touched.seconds / self.pages

    def by_placed_manager(
        self,
        placement: ManagerPlacement,
        fault_around: int | Literal["auto"] = 1,
        *,
        keep_awake: bool = False,
        opening: Callable[[], AbstractContextManager[None]] = nullcontext,
        touching: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> float:
        """Serve with ``pyuffd.serve``, which places its own threads; returns the touchers' seconds per page.

        Args:
            placement: Of the manager.
            fault_around: Of the target.
            keep_awake: Of the target.
            opening: What holds while the manager starts.
            touching: What holds while the pages are touched.
        """
        handoff = self.fresh(pyuffd.Feature.THREAD_ID)
        with opening():
            served = pyuffd.serve(
                handoff.uffd,
                handoff.regions,
                pid=handoff.pid,
                ending="early-close",
                fault_around=fault_around,
                placement=placement,
                keep_awake=keep_awake,
                verify=False,
            )
        with served:
            with touching():
                touched = self.touch()
            served.wait(progress=False)
        return touched.seconds / self.pages

    def by_floor(self, reader: Literal["poll", "read"] = "poll", workers: int = 0) -> float:
        """Serve with poll, read and COPY, or a blocking read and COPY; returns the touchers' seconds per page.

        Args:
            reader: How the loop reads.
            workers: Threads to which the loop gives each fault; without any it copies itself.
        """
        if self.window == "auto":
            raise ValueError("the floor has a fixed window")
        handoff = self.fresh()
        with registered(handoff) as uffd:
            if reader == "read":
                flags = fcntl.fcntl(uffd.fileno(), fcntl.F_GETFL)
                fcntl.fcntl(uffd.fileno(), fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
            server = _workload.FloorServer(
                uffd.fileno(),
                start=self.target.ranges[0][0],
                length=self.pages * PAGE,
                source=self.source.address,
                copies=self.pages // self.window,
                window=self.window,
                cpu=next(iter(self.placement.handler), None),
                reader=reader,
                workers=workers,
            )
            server.start()
            touched = self.touch()
            server.join()
        return touched.seconds / self.pages

    def by_sigbus_floor(self) -> float:
        """Copy in the SIGBUS handler of this thread, which touches; returns its seconds per page."""
        if self.window == "auto":
            raise ValueError("the floor has a fixed window")
        with registered(self.fresh(pyuffd.Feature.SIGBUS)) as uffd:
            nanoseconds = _workload.sigbus_touch(
                uffd.fileno(),
                self.target.ranges[0][0],
                self.source.address,
                self.pages * PAGE,
                window=self.window,
                page_size=PAGE,
            )
        return nanoseconds * 1e-9 / self.pages

    def by_inline(self) -> float:
        """Serve inline, and touch by this thread; returns its seconds per page."""
        handoff = self.fresh(pyuffd.Feature.SIGBUS)
        with pyuffd.serve(handoff.uffd, handoff.regions, inline=True, fault_around=self.window, verify=False) as served:
            nanoseconds = _workload.native_touch(self.target.ranges[0][0], self.pages * PAGE, PAGE)
            served.wait(progress=False)
        return nanoseconds * 1e-9 / self.pages

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
        return self.target.touch(threads=self.threads, cpus=self.placement.touchers, timed=False, order=self.order)

    def fresh(self, features: int = 0) -> Handoff:
        """Have all pages missing again, and memory for them that the host need not give first."""
        self.target.map([self.pages * PAGE])
        source = pyuffd.FileSource(self.file) if self.file else self.source.source
        handoff = self.target.hand_over(source, [0], features=int(features))
        _workload.warm(self.pages * PAGE)
        return handoff


def registered(handoff: Handoff) -> pyuffd.Userfaultfd:
    """Register the regions, unless their sender did: ``serve()`` does it for the manager."""
    if not handoff.uffd.registered_by_sender:
        for region in handoff.regions:
            handoff.uffd.register(region.start, region.length, REGISTER_MODES[region.mode])
    return handoff.uffd
