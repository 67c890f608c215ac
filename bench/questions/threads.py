"""What do threads wait for a page, and what CPU time does that take, against how many of them fault?

The answer tells which placement saves CPUs. Threads of another process are free. ``waited`` is their time for a page,
by the loop that managers use (poll, read and COPY) and by the manager's placements; ``burnt`` is the CPU time that
manager and target took together for each, mapping included.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from pyuffd import Placement

from ..arms import LOOP, many
from ..harness.axes import MANY_THREADS, PAGE
from ..harness.case import Arm, Case, Sample
from ..harness.memory import Pattern
from ..harness.placement import FREE, OTHER
from ..harness.serving import Serving
from ..harness.targets import ChildTarget, open_target
from . import Context

_PAGES = 2048


def cases(_context: Context) -> Sequence[Case]:
    """Every number of threads."""
    return [_case(threads) for threads in MANY_THREADS]


def _case(threads: int) -> Case:
    return Case(
        many(threads, "thread"),
        partial(_arms, threads),
        parameters={"setup": "across", "threads": threads, **FREE.metadata},
        pairs=[("auto", LOOP), ("adopt", LOOP), ("adopt", "auto")],
        control=LOOP if threads == 1 else "",
        unavailable=OTHER.unavailable,
        seconds=0.3,
    )


@contextmanager
def _arms(threads: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES * PAGE)
    with open_target("across") as target:
        if not isinstance(target, ChildTarget):
            raise TypeError("the target is to be another process")
        serving = Serving(target, source, _PAGES, FREE, threads=threads)
        placements: Sequence[Placement] = ("auto", "adopt")
        yield [
            Arm(LOOP, partial(_with_cpu_time, target.pid, serving.by_floor)),
            *(
                Arm(str(placement), partial(_with_cpu_time, target.pid, partial(serving.by_placed_manager, placement)))
                for placement in placements
            ),
        ]


def _with_cpu_time(target: int, measure: Callable[[], float]) -> Sample:
    """The seconds per page, and the CPU time that this process and the target burnt for each, mapping included."""
    clock = (~target << 3) | 2  # of another process: clock_getcpuclockid(3)
    theirs, ours = time.clock_gettime(clock), time.process_time()
    seconds = measure()
    burnt = time.clock_gettime(clock) - theirs + time.process_time() - ours
    return Sample({"waited": seconds, "burnt": burnt / _PAGES})
