"""What does one fault cost, beside the shortest hand-written loop, and how do placement and fault-around change it?

Seconds per page, by the clock of the thread that touches: it waits for each of its faults (a closed loop). Both arms
serve the same memory from the same bytes at the same placement. The cases named ``bulk`` ask how near fault-around 64
comes to a UFFDIO_COPY of everything: the time of touching resident memory is taken off there.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from _axes import FAULT_AROUND, PAGE, SETUPS, THREADS
from _case import Arm, Case, arm
from _harness import main
from _memory import Pattern
from _placement import FREE, OTHER, PLACEMENTS, SAME, Placement
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
    return placements + windows + threads + [_bulk_case(setup) for setup in SETUPS]


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
    name = f"bulk/{setup}/{SAME.name}/around-64"
    return Case(
        name,
        partial(_bulk_arms, name, setup),
        metadata={"setup": setup, "fault_around": 64, "threads": 1, **SAME.metadata},
        against={f"{name}/manager": f"{name}/floor"},
    )


@contextmanager
def _bulk_arms(name: str, setup: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES_OF_WINDOWS * PAGE)
    with open_target(setup) as target:
        serving = Serving(target, source, _PAGES_OF_WINDOWS, SAME, window=64)
        yield [
            arm(f"{name}/floor", serving.by_bulk_copy),
            arm(f"{name}/manager", partial(_manager_less_touching, serving)),
        ]


def _manager_less_touching(serving: Serving) -> float:
    missing = serving.by_manager()
    resident = serving.touch().seconds / serving.pages
    return missing - resident


if __name__ == "__main__":
    main(__doc__, cases)
