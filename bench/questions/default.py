"""Is the default as fast as the best placement there is, whatever a wake-up of an idle CPU costs on this host?

The answer tells whether anybody has to choose. One thread reads the pages of a file in random order, one page a fault;
its clock is read. ``auto`` is the default, as root and as a user who may not write /dev/cpu_dma_latency; ``adopt``
is the fastest placement, and binds threads that are not ours. Beside them stand the loop that most managers have, and
the one of UMap, which gives each fault to a pool of threads. ``burnt`` is the CPU time that manager and target took for
a page. Where wake-ups are fast, slow ones are emulated as well (bench/harness/slow_wake.py); there target and manager
are held to a CPU each, since the scheduler of some guests puts them on one when a halted CPU is slow to come back. With
busy CPUs, with one, and with a quota, the default is to cost nobody anything: it is compared with ``free``. So is what
it leaves to a ``bystander``, a process that computes while faults flow: its seconds a turn.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyuffd

from ..arms import LOOP, POOL, UNPRIVILEGED, WAKE_UP
from ..harness import conditions
from ..harness.axes import PAGE, SETUPS, SLOW_WAKE_UP, WAKE_UPS
from ..harness.case import Arm, Case, Sample
from ..harness.cpu_time import with_cpu_time
from ..harness.memory import Pattern
from ..harness.placement import FIRST, FREE, OTHER, SAME, SECOND, confined
from ..harness.serving import Serving
from ..harness.slow_wake import slow_wake, unavailable, wake_up
from ..harness.targets import ChildTarget, Target, open_target
from . import Context

_PAGES = 4096
_PAGES_UNDER_QUOTA = 512
_POOL = 2
_PAGES_BESIDE = 16384  # the scheduler needs some time to be fair
_ALONE_SECONDS = 0.2
_NOBODY = 65534


def cases(_context: Context) -> Sequence[Case]:
    """Each setup, with this host's wake-ups and with slow ones; and what others leave to the manager."""
    natural = [_case(setup) for setup in SETUPS]
    slow = [_case("across", microseconds) for microseconds in WAKE_UPS]
    in_process = _case("in-process", SLOW_WAKE_UP)
    return [*natural, *slow, in_process, *map(_shared_case, _SHARED), _bystander_case()]


def _case(setup: str, slow: int = 0) -> Case:
    """One with this host's wake-ups, or with emulated ones of so many microseconds."""
    placement = OTHER if slow else FREE
    return Case(
        f"{setup}, wake-ups of {slow} us" if slow else setup,
        partial(_arms, setup, slow),
        parameters={"setup": setup, "wake_up_us": slow or "of this host", **placement.metadata},
        pairs=[
            ("auto", "adopt"),
            (UNPRIVILEGED, "adopt"),
            (LOOP, "auto"),
            (POOL, "auto"),
            (LOOP, UNPRIVILEGED),
            (POOL, UNPRIVILEGED),
        ],
        control="auto",
        unavailable=OTHER.unavailable or (unavailable() if slow else ""),
        seconds=3.0 if slow else 1.2,
        settles=True,
    )


@contextmanager
def _arms(setup: str, slow: int) -> Iterator[Sequence[Arm]]:
    with ExitStack() as held:
        target = held.enter_context(open_target(setup))
        source, file = held.enter_context(_bytes(_PAGES))
        serving = Serving(target, source, _PAGES, OTHER if slow else FREE, file=file, order="random")
        adopted = replace(serving, placement=FREE)
        place: pyuffd.Placement = [SECOND] if slow else "auto"
        if slow:
            held.enter_context(slow_wake(slow * 1e-6))
        measures: dict[str, Callable[[], float]] = {
            LOOP: serving.by_floor,
            POOL: partial(serving.by_floor, workers=_POOL),
            "adopt": partial(adopted.by_placed_manager, "adopt"),
            "auto": partial(serving.by_placed_manager, place),
        }
        if os.geteuid() == 0:
            measures[UNPRIVILEGED] = partial(serving.by_placed_manager, place, opening=_as_nobody)
        arms = [Arm(name, partial(with_cpu_time, target, measure, _PAGES)) for name, measure in measures.items()]
        yield [Arm(WAKE_UP, wake_up), *arms]


_SHARED = ("both CPUs busy", "one CPU", "a quota of half a CPU")


def _shared_case(condition: str) -> Case:
    return Case(
        condition,
        partial(_shared_arms, condition),
        parameters={"setup": "across", "condition": condition},
        pairs=[("auto", "free")],
        control="free",
        unavailable=conditions.quota_unavailable() if "quota" in condition else "",
        seconds=1.0,
        settles=condition != "both CPUs busy",
    )


@contextmanager
def _shared_arms(condition: str) -> Iterator[Sequence[Arm]]:
    one_cpu, quota = condition == "one CPU", "quota" in condition
    with ExitStack() as held:
        if one_cpu:
            held.enter_context(confined([FIRST]))
        target = held.enter_context(open_target("across"))
        held.enter_context(_left(condition, target))
        pages = _PAGES_UNDER_QUOTA if quota else _PAGES
        source, file = held.enter_context(_bytes(pages))
        serving = Serving(target, source, pages, SAME if one_cpu else FREE, file=file, order="random")
        yield [Arm(name, partial(serving.by_placed_manager, name)) for name in ("auto", "free")]


def _left(condition: str, target: Target) -> AbstractContextManager[None]:
    if condition == "both CPUs busy":
        return conditions.busy_cpus()
    if "quota" in condition and isinstance(target, ChildTarget):
        return conditions.cpu_quota(0.5, target.pid)
    return nullcontext()


def _bystander_case() -> Case:
    return Case(
        "beside a bystander",
        _bystander_arms,
        parameters={"setup": "across", "condition": "one process computes"},
        pairs=[("auto", "free"), ("auto", "adopt"), ("auto", "nobody")],
        control="free",
        rounds=6,  # the scheduler places three threads on two CPUs one way or another
        seconds=1.5,
    )


@contextmanager
def _bystander_arms() -> Iterator[Sequence[Arm]]:
    with open_target("across") as target, _bytes(_PAGES_BESIDE) as (source, file), conditions.bystander() as other:
        serving = Serving(target, source, _PAGES_BESIDE, FREE, file=file, order="random")

        def beside(placement: pyuffd.Placement) -> Sample:
            seconds = serving.by_placed_manager(placement, touching=other.watched)
            return Sample({"time": seconds, "bystander": other.seconds_per_turn})

        def alone() -> Sample:
            with other.watched():
                time.sleep(_ALONE_SECONDS)
            return Sample({"bystander": other.seconds_per_turn})

        placements: tuple[pyuffd.Placement, ...] = ("auto", "free", "adopt")
        yield [Arm("nobody", alone), *(Arm(str(placement), partial(beside, placement)) for placement in placements)]


@contextmanager
def _bytes(pages: int) -> Iterator[tuple[Pattern, str]]:
    """The same bytes in memory, for the loops, and in a file."""
    source = Pattern(pages * PAGE)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pages")
        source.write(file)
        yield source, str(file)


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Whoever opens a device meanwhile has no permissions."""
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
