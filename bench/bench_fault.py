"""What does one fault cost, beside the shortest hand-written loop, and how do placement and fault-around change it?

Seconds per page, by the clock of the thread that touches: it waits for each of its faults (a closed loop). Both arms
serve the same memory from the same bytes at the same placement. The cases named ``bulk`` ask how near fault-around
comes to a UFFDIO_COPY of everything: the time of touching resident memory is taken off there. Those named ``placed``
leave the threads free and ask what the manager's placements make of that: beside the naive loop that managers use
(poll, read and COPY, free), and the paired floor, whose thread and handler are held on one CPU. ``adopt`` does that for
1 to 16 threads. ``inline``: the thread that touches resolves its faults itself, in the handler of a SIGBUS.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from _axes import FAULT_AROUND, MANY_THREADS, PAGE, SETUPS, THREADS
from _case import Arm, Case, arm
from _harness import main
from _memory import Pattern
from _placement import FIRST, FREE, OTHER, OTHER_AWAKE, PLACEMENTS, SAME, SECOND, Placement
from _serving import Serving
from _targets import open_target

_PAGES = 4096
_PAGES_OF_WINDOWS = 16384
# Where each fault waits for an idle CPU to wake up.
_PAGES_OF_IDLE = 1024


def cases(_options: argparse.Namespace) -> Sequence[Case]:
    """Every placement, every fault-around, every number of threads: each varied alone."""
    placements = [_case(setup, placement, 1, 1) for setup in SETUPS for placement in PLACEMENTS]
    windows = [_case(setup, SAME, window, 1) for setup in SETUPS for window in FAULT_AROUND[1:]]
    threads = [_case("in-process", SAME, 1, count) for count in THREADS[1:]]
    adopted = [_adopt_case(count) for count in MANY_THREADS]
    return [
        *placements,
        *windows,
        *threads,
        *map(_bulk_case, SETUPS),
        _placed_case(),
        *adopted,
        *map(_inline_case, FAULT_AROUND),
    ]


def _case(setup: str, placement: Placement, window: int, threads: int) -> Case:
    name = f"fault/{setup}/{placement.name}/around-{window}/threads-{threads}"
    return Case(
        name,
        partial(_arms, name, setup, placement, window, threads),
        metadata={"setup": setup, "fault_around": window, "threads": threads, **placement.metadata},
        against={f"{name}/manager": f"{name}/floor"},
        unavailable=placement.unavailable,
    )


@contextmanager
def _arms(name: str, setup: str, placement: Placement, window: int, threads: int) -> Iterator[Sequence[Arm]]:
    pages = _PAGES_OF_WINDOWS if window > 1 else _PAGES_OF_IDLE if placement in (OTHER, FREE) else _PAGES
    source = Pattern(pages * PAGE)
    with placement.held(), open_target(setup) as target:
        serving = Serving(target, source, pages, placement, window, threads)
        yield [
            arm(f"{name}/floor", serving.by_floor),
            arm(f"{name}/manager", serving.by_manager),
        ]


def _bulk_case(setup: str) -> Case:
    name = f"bulk/{setup}/{SAME.name}"
    return Case(
        name,
        partial(_bulk_arms, name, setup),
        metadata={"setup": setup, "threads": 1, **SAME.metadata},
        against={f"{name}/around-64": f"{name}/floor", f"{name}/learned": f"{name}/floor"},
    )


@contextmanager
def _bulk_arms(name: str, setup: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES_OF_WINDOWS * PAGE)
    with open_target(setup) as target:
        fixed = Serving(target, source, _PAGES_OF_WINDOWS, SAME, window=64)
        learned = Serving(target, source, _PAGES_OF_WINDOWS, SAME, window="auto")
        yield [
            arm(f"{name}/floor", fixed.by_bulk_copy),
            arm(f"{name}/around-64", partial(_manager_less_touching, fixed)),
            arm(f"{name}/learned", partial(_manager_less_touching, learned)),
        ]


def _manager_less_touching(serving: Serving) -> float:
    missing = serving.by_manager()
    resident = serving.touch().seconds / serving.pages
    return missing - resident


def _placed_case() -> Case:
    name = "placed/across"
    floor = f"{name}/paired-floor"
    return Case(
        name,
        partial(_placed_arms, name),
        metadata={"setup": "across", "threads": 1, "placement": "threads free; see the name"},
        against={
            f"{name}/{arm}": floor for arm in ("naive", "adopt", "auto", "auto-walk", "free", "on-first", "on-second")
        },
        unavailable=OTHER.unavailable,
    )


@contextmanager
def _placed_arms(name: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES * PAGE)
    with open_target("across") as target:
        paired = Serving(target, source, _PAGES, SAME)
        free = Serving(target, source, _PAGES, FREE)
        arms = [
            arm(f"{name}/paired-floor", partial(paired.by_floor, "read")),
            arm(f"{name}/naive", free.by_floor),
            arm(f"{name}/adopt", partial(free.by_placed_manager, "adopt")),
            arm(f"{name}/auto", partial(free.by_placed_manager, "auto")),
            arm(f"{name}/auto-walk", partial(free.by_placed_manager, "auto", "auto")),
            arm(f"{name}/free", partial(free.by_placed_manager, "free")),
            arm(f"{name}/on-first", partial(free.by_placed_manager, [FIRST])),
            arm(f"{name}/on-second", partial(free.by_placed_manager, [SECOND])),
        ]
        if not OTHER_AWAKE.unavailable:
            arms.append(arm(f"{name}/auto-awake", partial(free.by_placed_manager, "auto", idle="awake")))
        yield arms


def _adopt_case(threads: int) -> Case:
    name = f"adopt/threads-{threads}"
    return Case(
        name,
        partial(_adopt_arms, name, threads),
        metadata={"setup": "across", "threads": threads, "placement": "floor: all on one CPU; else threads are free"},
        against={f"{name}/{arm}": f"{name}/floor" for arm in ("adopt", "auto", "naive")},
    )


@contextmanager
def _adopt_arms(name: str, threads: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES * PAGE)
    with open_target("across") as target:
        floor = Serving(target, source, _PAGES, SAME, threads=threads)
        free = Serving(target, source, _PAGES, FREE, threads=threads)
        yield [
            arm(f"{name}/floor", partial(floor.by_floor, "read")),
            arm(f"{name}/adopt", partial(free.by_placed_manager, "adopt")),
            arm(f"{name}/auto", partial(free.by_placed_manager, "auto")),
            arm(f"{name}/naive", free.by_floor),
        ]


def _inline_case(window: int) -> Case:
    name = f"inline/around-{window}"
    return Case(
        name,
        partial(_inline_arms, name, window),
        metadata={"setup": "in-process", "threads": 1, "fault_around": window, "placement": "one thread, free"},
        against={f"{name}/{arm}": f"{name}/floor" for arm in ("manager", "learned")},
    )


@contextmanager
def _inline_arms(name: str, window: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES_OF_WINDOWS * PAGE)
    with open_target("in-process") as target:
        fixed = Serving(target, source, _PAGES_OF_WINDOWS, FREE, window)
        arms = [arm(f"{name}/floor", fixed.by_sigbus_floor), arm(f"{name}/manager", fixed.by_inline)]
        if window > 1:
            learned = Serving(target, source, _PAGES_OF_WINDOWS, FREE, "auto")
            arms.append(arm(f"{name}/learned", learned.by_inline))
        yield arms


if __name__ == "__main__":
    main(__doc__, cases)
