"""What does a target with hundreds of faulting threads cost another target of the same handler?

The answer tells whether strangers may share a handler. Seconds of one fault of the other target, which is a process
with one thread: its median, p99 and longest, timed by that thread, in pages in random order. All the while the threads
of the first target, another process, fault without end. ``shared``: one manager with one handler serves both. ``own``:
each has such a manager of its own, at the same time. A round of either takes as long, so the arm with slower faults has
fewer of them. It fails where the first target did not fault all the while.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import pyuffd
from pyuffd import _workload

from ..arms import HANDLER_EACH, ONE_HANDLER
from ..harness.axes import CROWDS, PAGE
from ..harness.case import Arm, Case, Sample
from ..harness.latency import quantiles
from ..harness.memory import Pattern
from ..harness.placement import FREE
from ..harness.targets import Target, open_target
from . import Context

_SECONDS = 0.5  # of an arm in a round
_FIRST = 64  # faults before the time begins, so that all threads of the crowd are at work
_CHUNK = 1024 * PAGE  # of the lone thread's memory: all have the same bytes
_CHUNKS = 128  # more than it can touch meanwhile
_CROWD_BYTES = 16 << 30  # zeros, which take page tables alone: no page is touched twice, and most are never touched
_LEAST = {"crowd": 2048, "lone thread": 100}  # faults in an arm of a round

_QUANTILES = ("p50", "p99", "max")


def cases(_context: Context) -> Sequence[Case]:
    """Every size of the crowd."""
    return [_case(threads) for threads in CROWDS]


def _case(threads: int) -> Case:
    return Case(
        f"beside {threads} threads",
        partial(_arms, threads),
        parameters={"setup": "across", "threads": threads, "fault_around": 1, **FREE.metadata},
        pairs=[(ONE_HANDLER, HANDLER_EACH)],
        control=ONE_HANDLER if threads == min(CROWDS) else "",
        seconds=1.6,
        time_limit=300.0,
    )


@contextmanager
def _arms(threads: int) -> Iterator[Sequence[Arm]]:
    with open_target("across") as crowd, open_target("across") as lone:
        neighbours = _Neighbours(crowd, lone, threads)
        yield [Arm(ONE_HANDLER, neighbours.by_one), Arm(HANDLER_EACH, neighbours.by_two)]


class _Neighbours:
    """A crowd, the target whose many threads fault without end; and a target with a lone thread, whose faults count."""

    def __init__(self, crowd: Target, lone: Target, threads: int) -> None:
        self._crowd = crowd
        self._lone = lone
        self._threads = threads
        self._source = Pattern(_CHUNK)

    def by_one(self) -> Sample:
        """Serve both with one handler."""
        with pyuffd.Manager(handlers=1) as manager:
            return self._measure(manager, manager)

    def by_two(self) -> Sample:
        """Serve each with a handler of its own."""
        with pyuffd.Manager(handlers=1) as of_crowd, pyuffd.Manager(handlers=1) as of_lone:
            return self._measure(of_crowd, of_lone)

    def _measure(self, of_crowd: pyuffd.Manager, of_lone: pyuffd.Manager) -> Sample:
        _workload.warm(_CHUNKS * _CHUNK)
        crowd = _serve(self._crowd, of_crowd, pyuffd.ZeroSource(), [_CROWD_BYTES])
        lone = _serve(self._lone, of_lone, self._source.source, [_CHUNK] * _CHUNKS)
        first, *others = self._lone.ranges
        self._crowd.start_touching(threads=self._threads, timed=False)
        self._lone.touch([(first[0], _FIRST * PAGE)], timed=False)
        before = crowd.stats().faults
        self._lone.start_touching(others, order="random", timeline_bins=0)
        crowd.wait(_SECONDS, progress=False)  # its memory lasts longer
        touched = self._lone.finish_touching(stop=True)
        faults, missing = crowd.stats().faults - before, crowd.missing_pages
        self._crowd.finish_touching(stop=True)
        for target in (crowd, lone):
            target.close("zero")
        _check({"crowd": faults, "lone thread": int(touched.histogram.sum())}, missing)
        tails = quantiles(touched.histogram, touched.max_ns)
        return Sample({quantile: tails[quantile] for quantile in _QUANTILES})


def _serve(target: Target, manager: pyuffd.Manager, source: pyuffd.Source, lengths: Sequence[int]) -> pyuffd.Target:
    """Have the manager serve fresh memory of the target; every range has the bytes of the source's beginning."""
    target.map(lengths)
    handoff = target.hand_over(source, [0] * len(lengths))
    return manager.add(handoff.uffd, handoff.regions, pid=handoff.pid, fault_around=1, verify=False)


def _check(faults: Mapping[str, int], missing: int) -> None:
    """Refuse a round in which the crowd was none, or the lone thread has no quantiles."""
    for who, count in faults.items():
        if count < _LEAST[who]:
            raise RuntimeError(f"the {who} had {count} faults in {_SECONDS:g} s, not {_LEAST[who]}")
    pages = _CROWD_BYTES // PAGE
    if missing < pages // 2:
        raise RuntimeError(f"the crowd's memory is too small: it touched {pages - missing} of {pages} pages")
