"""What does a fork of a living target cost its manager, and its target?

The answer tells whether a program that forks can be restored lazily. 1 GiB is managed and half of it resident, in one
region or in thousands. ``time`` is that of fork(2) itself in the target, which sleeps until the event is read, beside
the same fork of memory that nobody manages; ``work`` is the CPU time of the manager's process for the child: its event
is read, and regions and residency are copied.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pyuffd

from ..arms import many
from ..harness.axes import PAGE
from ..harness.case import Arm, Case, Sample
from ..harness.memory import Pattern
from ..harness.targets import ChildTarget, open_target
from . import Context

_GIB = 1 << 30


def cases(_context: Context) -> Sequence[Case]:
    """Few regions and many."""
    return [_case(regions) for regions in (1, 1024, 16384)]


def _case(regions: int) -> Case:
    return Case(
        f"1 GiB in {many(regions, 'region')}",
        partial(_arms, regions),
        parameters={"regions": regions, "bytes": _GIB, "setup": "across", "placement": "free"},
        pairs=[("managed", "unmanaged")],
        control="managed" if regions == 1 else "",
        seconds=3.0,
        unavailable=_lack_of_permission(),
    )


def _lack_of_permission() -> str:
    try:
        with pyuffd.Userfaultfd(features=pyuffd.Feature.EVENT_FORK):
            return ""
    except OSError as error:
        return str(error)


@contextmanager
def _arms(regions: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_GIB)
    with open_target("across") as target:
        if not isinstance(target, ChildTarget):
            raise TypeError("a fork needs a target of its own process")
        yield [
            Arm("managed", partial(_managed, target, source, regions)),
            Arm("unmanaged", partial(_bare, target, regions)),
        ]


def _managed(target: ChildTarget, source: Pattern, regions: int) -> Sample:
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
    return Sample({"time": seconds, "work": worked})


def _bare(target: ChildTarget, regions: int) -> float:
    length = _GIB // regions
    target.map([length] * regions)
    _touch_half(target, length)
    return target.fork()


def _touch_half(target: ChildTarget, length: int) -> None:
    half = max(length // 2 // PAGE, 1) * PAGE
    target.touch([(start, half) for start, _ in target.ranges], timed=False)
