"""The counters of a target."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyuffd import _core

_LATENCY_BOUNDS = np.array(_core.latency_bounds(), dtype=np.uint64)


@dataclass(frozen=True)
class Stats:
    """What serving a target took until now.

    Attributes:
        faults: Fault messages read; of a target that is served inline, faults that were resolved.
        reads: Calls of read(2) that returned at least one message.
        copies: UFFDIO_COPY calls.
        zeropages: UFFDIO_ZEROPAGE calls.
        continues: UFFDIO_CONTINUE calls.
        moves: UFFDIO_MOVE calls that moved something.
        moved_bytes: Bytes installed by them.
        fetches: Reads of sources that are not at hand at once: ``CallableSource``, ``FileSource(direct=True)``.
        pages: Pages installed.
        bytes: Bytes installed.
        minor_faults: Of the faults, those on pages that were in the page cache.
        write_faults: Of the faults, those that met a write-protection; it was taken away.
        eexist: Pages that were found present when they were to be installed; their touchers were woken.
        found_present: Pages that were present although nobody of ours had installed them; they keep their bytes.
        enoent: Pages found unmapped or no longer registered; their touchers were woken.
        eagain: Calls that had to be tried again.
        events: FORK, REMAP, REMOVE and UNMAP messages read.
        forks: Of the events, FORK.
        remaps: Of the events, REMAP.
        removes: Of the events, REMOVE.
        unmaps: Of the events, UNMAP.
        dropped: Faults on pages that the target had dropped itself; they read as zeros.
        blank: Faults on memory that grew out of regions (mremap), or was vacated by them; it reads as zeros.
        poisoned: Pages that could not be supplied and were poisoned.
        lost_wakes: Threads that slept for a second while nobody was going to wake them: their message had been read by
            somebody else, or a wake-up went astray. They were woken.
        failed: Pages that could be neither supplied nor poisoned; their touchers sleep.
        placement: Where the handler runs, what is done about the target's threads, and how CPUs are kept awake during
            bursts of faults, or why not.
        wake_ns: By how many nanoseconds the waking of a CPU takes longer where the CPU is idle than where it is kept
            awake, as bursts of faults of this target's handler showed; 0 where that is not known.
        awake_ns: CPU time, in nanoseconds, that this target's handler spent on looking for the next fault, and that the
            manager's warm thread spent on keeping a CPU awake. All targets of the handler share it.
        adopted: How often a thread of the target was put on the handler's CPU (placement "adopt").
        held: Threads of the target that are held there now.
        releases: How often all of them were let go because it did not pay: because the CPU time that they took, times
            ``1 - 1 / min(threads, CPUs)``, was more than what it saved, 20 us a fault divided by the threads, over 50
            ms. They are taken again when it is less than half of that.
        latency: uint64 counts per bucket: from the read of a fault's message until its page was installed.
        latency_bounds: uint64 lower bounds of those buckets, in nanoseconds.
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
        """Latency in seconds that this share of the faults did not exceed, to the bucket's width of 12.5 %.

        Args:
            quantile: Between 0 and 1, as 0.99.

        Returns:
            Seconds; NaN where no fault was served.

        Raises:
            ValueError: It is not between 0 and 1.
        """
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile is {quantile}; it must be between 0 and 1")
        total = int(self.latency.sum())
        if total == 0:
            return float("nan")
        bucket = int(np.searchsorted(np.cumsum(self.latency), quantile * total))
        return float(self.latency_bounds[min(bucket, len(self.latency_bounds) - 1)]) * 1e-9

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every attribute by its name, the arrays as lists."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(self).items()
        }


def to_stats(counters: dict[str, Any]) -> Stats:
    """Take over what the engine tells."""
    return Stats(**counters, latency_bounds=_LATENCY_BOUNDS)
