"""What does one fault cost, beside the loop that managers use and the shortest one that is possible?

The answer tells which placement to choose, and how much there is left to gain. Seconds per page, by the clock of the
thread that touches: it waits for each of its faults (a closed loop). ``one fault`` leaves the threads free, as a user
does: the loop that managers use (poll, read and COPY, one page a fault) beside the manager's placements, and beside
the floor, a blocking read and COPY with thread and handler held to one CPU. ``inline``: the thread that touches
resolves its faults itself, in the handler of a SIGBUS. The other cases vary placement, fault-around and threads alone,
and give both arms the same memory, the same bytes and the same CPUs. ``bulk`` asks how near fault-around comes to a
UFFDIO_COPY of everything: the time of touching resident memory is taken off there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ..arms import BARE_SIGBUS, FLOOR, LEARNED, LOOP, many
from ..harness.axes import FAULT_AROUND, MANY_THREADS, PAGE, SETUPS, THREADS
from ..harness.case import Arm, Case
from ..harness.memory import Pattern
from ..harness.placement import FIRST, FREE, OTHER, OTHER_AWAKE, PLACEMENTS, SAME, SECOND, Placement
from ..harness.serving import Serving
from ..harness.targets import open_target
from . import Context

_PAGES = 4096
_PAGES_OF_WINDOWS = 16384
# Where each fault waits for an idle CPU to wake up.
_PAGES_OF_IDLE = 1024


def cases(_context: Context) -> Sequence[Case]:
    """One fault as users have it; and every placement, every fault-around, every number of threads."""
    placements = [_case(setup, placement, 1, 1) for setup in SETUPS for placement in PLACEMENTS]
    windows = [_case(setup, SAME, window, 1) for setup in SETUPS for window in FAULT_AROUND[1:]]
    threads = [_case("in-process", SAME, 1, count) for count in THREADS[1:]]
    adopted = [_adopt_case(count) for count in MANY_THREADS]
    return [
        _placed_case(),
        *map(_inline_case, FAULT_AROUND),
        *placements,
        *windows,
        *threads,
        *map(_bulk_case, SETUPS),
        *adopted,
    ]


def _case(setup: str, placement: Placement, window: int, threads: int) -> Case:
    varied = f", around {window}" * (window != 1) + f", {threads} threads" * (threads != 1)
    return Case(
        f"{setup}, {placement.name}{varied}",
        partial(_arms, setup, placement, window, threads),
        parameters={
            "setup": setup,
            "cpus": placement.name,
            "fault_around": window,
            "threads": threads,
            **placement.metadata,
        },
        pairs=[("manager", "floor")],
        control="floor" if setup == "in-process" and placement == SAME and window == threads == 1 else "",
        unavailable=placement.unavailable,
        seconds=0.2,
        settles=placement in (OTHER, FREE),
    )


@contextmanager
def _arms(setup: str, placement: Placement, window: int, threads: int) -> Iterator[Sequence[Arm]]:
    pages = _PAGES_OF_WINDOWS if window > 1 else _PAGES_OF_IDLE if placement in (OTHER, FREE) else _PAGES
    source = Pattern(pages * PAGE)
    with placement.held(), open_target(setup) as target:
        serving = Serving(target, source, pages, placement, window, threads)
        yield [Arm("floor", serving.by_floor), Arm("manager", serving.by_manager)]


def _bulk_case(setup: str) -> Case:
    return Case(
        f"bulk, {setup}",
        partial(_bulk_arms, setup),
        parameters={"setup": setup, "threads": 1, "cpus": SAME.name, **SAME.metadata},
        pairs=[("around 64", "bulk COPY"), ("learned", "bulk COPY")],
        seconds=0.3,
    )


@contextmanager
def _bulk_arms(setup: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES_OF_WINDOWS * PAGE)
    with open_target(setup) as target:
        fixed = Serving(target, source, _PAGES_OF_WINDOWS, SAME, window=64)
        learned = Serving(target, source, _PAGES_OF_WINDOWS, SAME, window="auto")
        yield [
            Arm("bulk COPY", fixed.by_bulk_copy),
            Arm("around 64", partial(_manager_less_touching, fixed)),
            Arm("learned", partial(_manager_less_touching, learned)),
        ]


def _manager_less_touching(serving: Serving) -> float:
    missing = serving.by_manager()
    resident = serving.touch().seconds / serving.pages
    return missing - resident


_BESIDE_FLOOR = (LOOP, "auto", "adopt", "free", "on the first CPU", "on the second CPU", LEARNED)


def _placed_case() -> Case:
    return Case(
        "one fault, another process",
        _placed_arms,
        parameters={"setup": "across", "threads": 1, "placement": "threads free; see the arm"},
        pairs=[
            *((arm, FLOOR) for arm in _BESIDE_FLOOR),
            *((LOOP, arm) for arm in ("auto", "adopt", LEARNED)),
            *(("auto", arm) for arm in ("adopt", "free", "on the first CPU", "on the second CPU")),
        ],
        control="adopt",
        headline=True,
        rounds=3,
        unavailable=OTHER.unavailable,
        seconds=0.85,
        settles=True,
    )


@contextmanager
def _placed_arms() -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES * PAGE)
    with open_target("across") as target:
        paired = Serving(target, source, _PAGES, SAME)
        free = Serving(target, source, _PAGES, FREE)
        arms = [
            Arm(FLOOR, partial(paired.by_floor, "read")),
            Arm(LOOP, free.by_floor),
            Arm("adopt", partial(free.by_placed_manager, "adopt")),
            Arm("auto", partial(free.by_placed_manager, "auto")),
            Arm(LEARNED, partial(free.by_placed_manager, "auto", "auto")),
            Arm("free", partial(free.by_placed_manager, "free")),
            Arm("on the first CPU", partial(free.by_placed_manager, [FIRST])),
            Arm("on the second CPU", partial(free.by_placed_manager, [SECOND])),
        ]
        if not OTHER_AWAKE.unavailable:
            arms.append(Arm("auto, CPUs kept awake", partial(free.by_placed_manager, "auto", keep_awake=True)))
        yield arms


def _adopt_case(threads: int) -> Case:
    return Case(
        f"adopt, {many(threads, 'thread')}",
        partial(_adopt_arms, threads),
        parameters={"setup": "across", "threads": threads, "placement": "floor: all on one CPU; else threads are free"},
        pairs=[(arm, FLOOR) for arm in ("adopt", "auto", LOOP)],
        seconds=0.7,
        settles=True,
    )


@contextmanager
def _adopt_arms(threads: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES * PAGE)
    with open_target("across") as target:
        floor = Serving(target, source, _PAGES, SAME, threads=threads)
        free = Serving(target, source, _PAGES, FREE, threads=threads)
        yield [
            Arm(FLOOR, partial(floor.by_floor, "read")),
            Arm("adopt", partial(free.by_placed_manager, "adopt")),
            Arm("auto", partial(free.by_placed_manager, "auto")),
            Arm(LOOP, free.by_floor),
        ]


def _inline_case(window: int) -> Case:
    return Case(
        "one fault, this process, inline" if window == 1 else f"inline, around {window}",
        partial(_inline_arms, window),
        parameters={"setup": "in-process", "threads": 1, "fault_around": window, "placement": "one thread, free"},
        pairs=[("inline", BARE_SIGBUS), *([("inline, learned", BARE_SIGBUS)] if window > 1 else [])],
        headline=window == 1,
        seconds=0.25,
    )


@contextmanager
def _inline_arms(window: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES_OF_WINDOWS * PAGE)
    with open_target("in-process") as target:
        fixed = Serving(target, source, _PAGES_OF_WINDOWS, FREE, window)
        arms = [Arm(BARE_SIGBUS, fixed.by_sigbus_floor), Arm("inline", fixed.by_inline)]
        if window > 1:
            learned = Serving(target, source, _PAGES_OF_WINDOWS, FREE, "auto")
            arms.append(Arm("inline, learned", learned.by_inline))
        yield arms
