"""The counters of a target."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyuffd import _core

_LATENCY_BOUNDS = np.array(_core.latency_bounds(), dtype=np.uint64)


@dataclass(frozen=True)
class Stats:
    """The counters of a target, from the time when serving began until now.

    Attributes:
        faults: Fault messages that were read. For a target that is served inline: faults that were resolved.
        reads: Calls of read(2) that returned at least one message.
        copies: UFFDIO_COPY calls.
        zeropages: UFFDIO_ZEROPAGE calls.
        continues: UFFDIO_CONTINUE calls.
        moves: UFFDIO_MOVE calls that moved pages.
        moved_bytes: Bytes that these calls installed.
        fetches: Reads of bytes that are not at hand: ``CallableSource``, ``FileSource(direct=True)``.
        pages: Pages that were installed.
        bytes: Bytes that were installed.
        minor_faults: Of the faults, those on pages that were in the page cache.
        write_faults: Of the faults, those on write-protected pages. The protection was removed.
        eexist: Pages that were present when pyuffd tried to install them. Threads that waited for them were woken.
        found_present: Pages that were present although pyuffd had not installed them. They keep their bytes.
        enoent: Pages that were unmapped or no longer registered when pyuffd tried to install them. Threads that waited
            for them were woken.
        eagain: Calls that had to be tried again.
        events: FORK, REMAP, REMOVE and UNMAP messages that were read.
        forks: Of the events, FORK.
        remaps: Of the events, REMAP.
        removes: Of the events, REMOVE.
        unmaps: Of the events, UNMAP.
        dropped: Faults on pages that the target had dropped itself. These pages read as zeros.
        blank: Faults on memory that was added to a region by mremap, or from which a region was moved away. This memory
            reads as zeros.
        poisoned: Pages that were poisoned because their source could not supply them.
        lost_wakes: Threads that slept for a second although nobody was going to wake them, because somebody else had
            read their message, or because the kernel had lost their wake-up. pyuffd woke them.
        failed: Pages that could be neither supplied nor poisoned. Threads that touch them sleep.
        placement: Where the handler runs, and how pyuffd places the target's threads.
        adopted: How often a thread of the target was bound to the handler's CPU (placement "adopt").
        held: Threads of the target that are bound to this CPU now.
        releases: How often all bound threads were released because adopting cost more time than it saved, over 50 ms.
            The cost is the CPU time of the threads, times ``1 - 1 / min(threads, CPUs)``. The gain is 20 us for each
            fault, divided by the number of threads. The threads are bound again when the cost is less than half of the
            gain.
        latency: uint64 counts per bucket of the time from the read of a fault's message until its page was installed.
        latency_bounds: uint64 lower bounds of these buckets, in nanoseconds.
    """

    faults: int
    reads: int
    copies: int
    zeropages: int
    continues: int
    moves: int
    moved_bytes: int
    fetches: int
    pages: int
    bytes: int
    minor_faults: int
    write_faults: int
    eexist: int
    found_present: int
    enoent: int
    eagain: int
    events: int
    forks: int
    remaps: int
    removes: int
    unmaps: int
    dropped: int
    blank: int
    poisoned: int
    lost_wakes: int
    failed: int
    placement: str
    adopted: int
    held: int
    releases: int
    latency: npt.NDArray[np.uint64] = field(repr=False)
    latency_bounds: npt.NDArray[np.uint64] = field(repr=False)

    def latency_quantile(self, quantile: float) -> float:
        """Return the latency that this share of the faults did not exceed, with the buckets' precision of 12.5 %.

        Args:
            quantile: The share, between 0 and 1: for example, 0.99.

        Returns:
            The latency in seconds. NaN if no fault was served.

        Raises:
            ValueError: ``quantile`` is not between 0 and 1.
        """
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile is {quantile}; it must be between 0 and 1")
        total = int(self.latency.sum())
        if total == 0:
            return float("nan")
        bucket = int(np.searchsorted(np.cumsum(self.latency), quantile * total))
        return float(self.latency_bounds[min(bucket, len(self.latency_bounds) - 1)]) * 1e-9

    def to_dict(self) -> dict[str, Any]:
        """Return every attribute by its name, for JSON. Arrays become lists."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(self).items()
        }


def to_stats(counters: dict[str, Any]) -> Stats:
    """Convert the counters of the engine."""
    return Stats(**counters, latency_bounds=_LATENCY_BOUNDS)
