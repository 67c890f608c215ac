"""Parts of the soak: targets that live and are killed, racing faults on own memory, games of the state machine."""

import contextlib
import random
import sys
import threading
from collections.abc import Callable

import pyuffd
from support.churning import ChurnPlan, ChurnTarget, churning
from support.memory import Managed
from support.soak.counting import ENDINGS, Counts, count_close, count_stats, leaks_counted


def lives(draw: random.Random) -> Counts:
    """Some living targets in one manager, and again; some are killed."""
    counts = Counts()
    for _ in range(draw.choice((1, 2, 3))):
        with leaks_counted(counts):
            _live_together(draw, counts)
    return counts


def _live_together(draw: random.Random, counts: Counts) -> None:
    plans = [plan_of(draw) for _ in range(draw.choice((1, 1, 2, 3)))]
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(_target(draw, plan)) for plan in plans]
        manager = stack.enter_context(pyuffd.Manager(handlers=draw.choice((1, 2)), fillers=draw.choice((1, 2))))
        lives = [
            _Life(counts, plan, target, _add(draw, manager, target), draw.random())
            for plan, target in zip(plans, targets, strict=True)
        ]
        threads = [threading.Thread(target=life.live) for life in lives]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for life in lives:
            if life.error is not None:
                raise life.error


def plan_of(draw: random.Random) -> ChurnPlan:
    """What a target shall do."""
    return ChurnPlan(
        pages=draw.choice((16, 100, 1000, 5000)),
        threads=draw.choice((1, 2, 3, 4)),
        seconds=draw.uniform(0.3, 2.0),
        between_forks=draw.choice((0.0, 0.003, 0.01, 0.05)),
        seed=draw.randrange(1 << 30),
        thp=draw.random() < 0.3,
    )


def _target(draw: random.Random, plan: ChurnPlan) -> contextlib.AbstractContextManager[ChurnTarget]:
    data = plan.data()
    if draw.random() < 0.8:
        return churning(plan, pyuffd.MemorySource(data))
    return churning(plan, pyuffd.CallableSource(slice_of(data), len(data)))


def _add(draw: random.Random, manager: pyuffd.Manager, target: ChurnTarget) -> pyuffd.Target:
    return manager.add(
        target.received.uffd,
        target.received.regions,
        pid=target.received.pid,
        ending=draw.choice(ENDINGS),
        fault_around=draw.choice((1, 4, 16, 64)),
    )


class _Life:
    """Of one target: it is filled, killed or left alone on its way."""

    def __init__(
        self, counts: Counts, plan: ChurnPlan, target: ChurnTarget, served: pyuffd.Target, draw: float
    ) -> None:
        self._counts = counts
        self._plan = plan
        self._target = target
        self._served = served
        self._draw = draw
        self.error: Exception | None = None

    def live(self) -> None:
        """Run it to its end, in a thread of its own."""
        try:
            self._live()
        except Exception as error:
            self.error = error

    def _live(self) -> None:
        killed = self._draw < 0.2
        self._target.go()
        moment = threading.Event()  # that never comes: a pause of random length is the point here
        moment.wait(self._plan.seconds * (self._draw * 10 % 1))
        if killed:
            self._target.child.signal(9)
            self._counts["kills"] += 1
        elif self._draw < 0.6:
            self._served.fill()
        came = killed or self._count_churned()
        if killed:
            self._served.wait(30, progress=False)
        count_close(self._counts, self._served)
        if came and not killed:
            self._target.finish()

    def _count_churned(self) -> bool:
        """What it did and saw; False where it did not come to its end in time."""
        try:
            churned = self._target.result()
        except AssertionError as error:
            print(error, file=sys.stderr)
            self._counts["lost threads"] += 1
            return False
        self._counts["wrong pages"] += churned["wrong_pages"]
        self._counts["broken children"] += churned["broken_children"]
        self._counts["kills"] += churned["kills"]
        return True


def races(draw: random.Random) -> Counts:
    """Racing faults on memory of this process."""
    counts = Counts()
    with leaks_counted(counts):
        for _ in range(draw.choice((1, 5, 20))):
            _race(draw, counts)
    return counts


def _race(draw: random.Random, counts: Counts) -> None:
    kind, shared = draw.choice((("anonymous", False), ("anonymous", True), ("memfd", True)))
    memory = Managed(pages=draw.choice((8, 100, 1000)), kind=kind, shared=shared)  # type: ignore[arg-type]
    with memory.serve(ending=draw.choice(ENDINGS), fault_around=draw.choice((1, 7, 64))) as target:
        toucher = memory.toucher(threads=draw.choice((1, 4, 8)), order="random", partition="all")
        if draw.random() < 0.5:
            target.fill()
        counts["wrong pages"] += toucher.join().wrong_pages
    counts["wrong pages"] += sum(state != "right" for state in memory.states())
    count_stats(counts, target)


def games(draw: random.Random) -> Counts:
    """Some games of the state machine, which draws for itself."""
    from test_state_machine import live

    live(examples=5, steps=40)
    return Counts({"games": 5})


def slice_of(data: bytes) -> Callable[[int, int], bytes]:
    """What a CallableSource of these bytes calls."""
    return lambda offset, length: data[offset : offset + length]
