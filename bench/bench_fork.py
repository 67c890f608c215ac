"""What does a fork of a living target cost its manager, and its target?

1 GiB is managed and half of it resident, in one region or in thousands. ``fork-work/...`` is the CPU time of the
manager's process for the child: its event is read, and regions and residency are copied. ``fork/...`` is the time of
fork(2) itself in the target, which sleeps until the event is read; its floor is the same fork of memory that nobody
manages.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from _axes import PAGE
from _case import Arm, Case, Sample
from _harness import main
from _memory import Pattern
from _targets import ChildTarget, open_target

import pyuffd

_GIB = 1 << 30


def cases(_options: argparse.Namespace) -> Sequence[Case]:
    """Few regions and many."""
    return [_case(regions) for regions in (1, 1024, 16384)]


def _case(regions: int) -> Case:
    name = f"1GiB/regions-{regions}"
    return Case(
        f"fork/{name}",
        partial(_arms, regions, name),
        metadata={"regions": regions, "bytes": _GIB, "setup": "across", "placement": "free"},
        against={f"fork/{name}": f"fork-floor/{name}"},
        unavailable="" if pyuffd.probe().full else "EVENT_FORK needs CAP_SYS_PTRACE",
    )


@contextmanager
def _arms(regions: int, name: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(_GIB)
    with open_target("across") as target:
        if not isinstance(target, ChildTarget):
            raise TypeError("a fork needs a target of its own process")
        yield [partial(_managed, target, source, regions, name), partial(_bare, target, regions, name)]


def _managed(target: ChildTarget, source: Pattern, regions: int, name: str) -> Sample:
    length = _GIB // regions
    target.map([length] * regions)
    handoff = target.hand_over(
        source.source, [index * length for index in range(regions)], features=pyuffd.Feature.EVENTS
    )
    with pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, fault_around=64, verify=False) as served:
        _touch_half(target, length)
        began = time.process_time()
        seconds = target.fork()
        worked = time.process_time() - began
        (child,) = served.children
        if served.stats().forks != 1 or child.pages != served.pages:
            raise RuntimeError(f"{served.stats()}")
        child.wait(progress=False)  # it has exited
        served.close(missing="zero")
    return Sample({f"fork/{name}": seconds, f"fork-work/{name}": worked})


def _bare(target: ChildTarget, regions: int, name: str) -> Sample:
    length = _GIB // regions
    target.map([length] * regions)
    _touch_half(target, length)
    return Sample({f"fork-floor/{name}": target.fork()})


def _touch_half(target: ChildTarget, length: int) -> None:
    half = max(length // 2 // PAGE, 1) * PAGE
    target.touch([(start, half) for start, _ in target.ranges], timed=False)


if __name__ == "__main__":
    main(__doc__, cases)
