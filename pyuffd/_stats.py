"""The counters of a target."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyuffd import _core

_LATENCY_BOUNDS = np.array(_core.latency_bounds(), dtype=np.uint64)


@dataclass(frozen=True)
class Stats:
    """What the service of a target has taken until now.

    Attributes:
        faults: Fault messages that were read; of a target that is served inline, faults that were resolved.
        reads: Calls of read(2) that returned at least one message.
        copies: Calls of UFFDIO_COPY.
        zeropages: Calls of UFFDIO_ZEROPAGE.
        continues: Calls of UFFDIO_CONTINUE.
        moves: Calls of UFFDIO_MOVE that moved at least one page.
        moved_bytes: Bytes that UFFDIO_MOVE installed.
        fetches: Reads of sources that answer late: ``CallableSource`` and ``FileSource(direct=True)``.
        pages: Pages that were installed.
        bytes: Bytes that were installed.
        minor_faults: Faults on pages that were in the page cache.
        write_faults: Faults of writes to write-protected pages. pyuffd removed the protection.
        eexist: Pages that were already present at the install. pyuffd woke the threads that waited for them.
        found_present: Pages that were present although pyuffd had not installed them. They keep their bytes.
        enoent: Pages that were no longer mapped or registered. pyuffd woke the threads that waited for them.
        eagain: Calls that had to be repeated.
        events: FORK, REMAP, REMOVE and UNMAP messages that were read.
        forks: FORK messages.
        remaps: REMAP messages.
        removes: REMOVE messages.
        unmaps: UNMAP messages.
        dropped: Faults on pages that the target had dropped. Such a page reads as zeros.
        blank: Faults on memory that grew out of a region (mremap), or from which a region was moved away. Such memory
            reads as zeros.
        poisoned: Pages that the source could not supply, and that were poisoned.
        lost_wakes: Threads that slept for a second although no thread was going to wake them: another reader had read
            their message, or a wake-up was lost. pyuffd woke them.
        failed: Pages that could be neither supplied nor poisoned. The threads that touch them sleep.
        placement: On which CPU the handler runs, what pyuffd does about the target's threads, and how it keeps CPUs
            awake during bursts of faults, or why it does not.
        wake_ns: By how many nanoseconds the wake-up of an idle CPU takes longer than the wake-up of a CPU that is kept
            awake. pyuffd learns this in bursts of faults; 0 means not known.
        awake_ns: CPU time, in nanoseconds, in which the target's handler looked for the next fault, and in which the
            manager's warm thread kept a CPU awake. All targets of the handler share this number.
        adopted: How often a thread of the target was bound to the handler's CPU (placement "adopt").
        held: Threads of the target that are bound to the handler's CPU now.
        releases: How often pyuffd released all bound threads because binding did not pay. Every 50 ms pyuffd compares
            the CPU time of the threads, times ``1 - 1 / min(threads, CPUs)``, with 20 us for each fault, divided by the
            number of threads. It releases the threads if the first is larger. It binds them again if the first is less
            than half of the second.
        latency: The number of faults in each bucket of time, from the read of the message until the page was installed;
            uint64.
        latency_bounds: The lower bound of each bucket in nanoseconds; uint64.
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
    wake_ns: int
    awake_ns: int
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
