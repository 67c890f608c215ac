"""What do threads wait for a page, and what CPU time does that take, against how many of them fault?

The answer tells which placement saves CPUs. Threads of another process are free. ``waited`` is their time for a page,
by the loop that managers use (poll, read and COPY) and by the manager's placements; ``burnt`` is the CPU time that
manager and target took together for each, mapping included.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from pyuffd import Placement

from ..arms import LOOP, many
from ..harness.axes import MANY_THREADS, PAGE
from ..harness.case import Arm, Case
from ..harness.cpu_time import with_cpu_time
from ..harness.memory import Pattern
from ..harness.placement import FREE, OTHER
from ..harness.serving import Serving
from ..harness.targets import open_target
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
        seconds=0.4,
        settles=True,
    )


@contextmanager
def _arms(threads: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES * PAGE)
    with open_target("across") as target:
        serving = Serving(target, source, _PAGES, FREE, threads=threads)
        placements: Sequence[Placement] = ("auto", "adopt")
        measures: dict[str, Callable[[], float]] = {LOOP: serving.by_floor}
        measures |= {str(placement): partial(serving.by_placed_manager, placement) for placement in placements}
        yield [
            Arm(name, partial(with_cpu_time, target, measure, _PAGES, "waited")) for name, measure in measures.items()
        ]
