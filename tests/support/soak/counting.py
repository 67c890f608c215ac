"""What the parts of the soak count, and of what a single one makes it fail."""

import contextlib
import gc
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pyuffd
from pyuffd import Ending
from support.kinds import Area
from support.puppet import Puppet
from support.state import open_descriptors

Counts = Counter[str]

ENDINGS: tuple[Ending, ...] = ("auto", "early-close", "unregister")
LOSSES = (
    "wrong pages",
    "broken children",
    "lost threads",
    "leaked descriptors",
    "hung children",
    "crashes",
    "failures",
)
OF_STATS = ("faults", "forks", "remaps", "removes", "unmaps", "eagain", "eexist", "dropped")
WRONG_BYTES = 3  # the code of a process that read other bytes than it should
_PATIENCE = 10.0  # seconds until a descriptor counts as leaked


def count_stats(counts: Counts, target: pyuffd.Target) -> None:
    """Those of a target, and of its fork children."""
    for each in (target, *target.children):
        stats = each.stats()
        counts["lost threads"] += stats.lost_wakes
        for name in OF_STATS:
            counts[name] += getattr(stats, name)


def count_close(counts: Counts, target: pyuffd.Target) -> None:
    """Fill a target and let it go: not a page of it may be poisoned."""
    counts["wrong pages"] += len(target.close("fill").poisoned)
    count_stats(counts, target)


def count_wrong(counts: Counts, area: Area, puppet: Puppet | None = None) -> None:
    """Look at every page of an area, in its puppet or in one that was forked from that."""
    totals = (puppet or area.puppet).do("checksums", area.start, area.length, area.page)
    counts["wrong pages"] += sum(total != right for total, right in zip(totals, area.sums, strict=True))


def count_touches(counts: Counts, area: Area) -> None:
    """Wait for the threads that touch an area, and look at every page of it."""
    _, wrong = area.puppet.do("end_touches")
    counts["wrong pages"] += len(wrong)
    count_wrong(counts, area)


def count_codes(counts: Counts, codes: Sequence[int], expected: int = 0) -> None:
    """How fork children ended; their alarm ends those that hang."""
    for code in codes:
        if code == expected:
            continue
        if code == -signal.SIGALRM:
            counts["hung children"] += 1
        elif code == WRONG_BYTES:
            counts["wrong pages"] += 1
        elif code < 0:
            counts["crashes"] += 1
        else:
            counts["broken children"] += 1


@contextlib.contextmanager
def leaks_counted(counts: Counts) -> Iterator[None]:
    """Descriptors that are open afterwards, and were not before, are leaked; threads may still be closing them."""
    before = open_descriptors()
    yield
    gc.collect()
    ends = time.monotonic() + _PATIENCE
    while (leaked := open_descriptors() - before) and time.monotonic() < ends:
        os.sched_yield()
    counts["leaked descriptors"] += len(leaked)
