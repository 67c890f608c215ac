"""What does a target with hundreds of faulting threads cost another target of the same handler?

Seconds of one fault of the other target, which is a process with one thread: its median, p99 and longest, timed by that
thread, in pages in random order. All the while the threads of the first target, another process, fault without end.
``shared``: one manager with one handler serves both. ``own``: each has such a manager of its own, at the same time. A
round of either takes as long, so the arm with slower faults has fewer of them. It fails where the first target did not
fault all the while.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from _axes import CROWDS, PAGE
from _case import Arm, Case, Sample
from _harness import main
from _latency import quantiles
from _memory import Pattern
from _placement import FREE
from _targets import Target, open_target

import pyuffd
from pyuffd import _workload

_SECONDS = 0.5  # of an arm in a round
_FIRST = 64  # faults before the time begins, so that all threads of the crowd are at work
_CHUNK = 1024 * PAGE  # of the lone thread's memory: all have the same bytes
_CHUNKS = 128  # more than it can touch meanwhile
_CROWD_BYTES = 16 << 30  # zeros, which take page tables alone: no page is touched twice, and most are never touched
_LEAST = {"crowd": 2048, "lone thread": 100}  # faults in an arm of a round

_NAMES = {"p50": "p50", "p99": "p99", "max": "longest"}


def cases(_options: argparse.Namespace) -> Sequence[Case]:
    """Every size of the crowd."""
    return [_case(threads) for threads in CROWDS]


def _case(threads: int) -> Case:
    name = f"fairness/threads-{threads}"
    return Case(
        name,
        partial(_arms, name, threads),
        metadata={"setup": "across", "threads": threads, "seconds": _SECONDS, "fault_around": 1, **FREE.metadata},
        against={f"{name}/shared/{what}": f"{name}/own/{what}" for what in _NAMES.values()},
        time_limit=300.0,
    )


@contextmanager
def _arms(name: str, threads: int) -> Iterator[Sequence[Arm]]:
    with open_target("across") as crowd, open_target("across") as lone:
        neighbours = _Neighbours(crowd, lone, threads)
        yield [partial(neighbours.by_one, f"{name}/shared"), partial(neighbours.by_two, f"{name}/own")]


class _Neighbours:
    """A crowd, the target whose many threads fault without end; and a target with a lone thread, whose faults count."""

    def __init__(self, crowd: Target, lone: Target, threads: int) -> None:
        self._crowd = crowd
        self._lone = lone
        self._threads = threads
        self._source = Pattern(_CHUNK)

    def by_one(self, name: str) -> Sample:
        """Serve both with one handler."""
        with pyuffd.Manager(handlers=1) as manager:
            return self._measure(name, manager, manager)

    def by_two(self, name: str) -> Sample:
        """Serve each with a handler of its own."""
        with pyuffd.Manager(handlers=1) as of_crowd, pyuffd.Manager(handlers=1) as of_lone:
            return self._measure(name, of_crowd, of_lone)

    def _measure(self, name: str, of_crowd: pyuffd.Manager, of_lone: pyuffd.Manager) -> Sample:
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
        _check(name, {"crowd": faults, "lone thread": int(touched.histogram.sum())}, missing)
        tails = quantiles(touched.histogram, touched.max_ns)
        values = {f"{name}/{what}": tails[quantile] for quantile, what in _NAMES.items()}
        return Sample(values, {f"{name}/histogram": touched.histogram})


def _serve(target: Target, manager: pyuffd.Manager, source: pyuffd.Source, lengths: Sequence[int]) -> pyuffd.Target:
    """Have the manager serve fresh memory of the target; every range has the bytes of the source's beginning."""
    target.map(lengths)
    handoff = target.hand_over(source, [0] * len(lengths))
    return manager.add(handoff.uffd, handoff.regions, pid=handoff.pid, fault_around=1, verify=False)


def _check(name: str, faults: Mapping[str, int], missing: int) -> None:
    """Refuse a round in which the crowd was none, or the lone thread has no quantiles."""
    for who, count in faults.items():
        if count < _LEAST[who]:
            raise RuntimeError(f"{name}: the {who} had {count} faults in {_SECONDS:g} s, not {_LEAST[who]}")
    pages = _CROWD_BYTES // PAGE
    if missing < pages // 2:
        raise RuntimeError(f"{name}: the crowd's memory is too small: it touched {pages - missing} of {pages} pages")


if __name__ == "__main__":
    main(__doc__, cases)
