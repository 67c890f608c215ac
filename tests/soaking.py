"""Everything at random, for minutes: living targets, kills, forks, all endings; prints counts, of losses too.

Every round draws what it does from the seed that it prints when it fails: run it again with ``--seed``.
"""

import argparse
import contextlib
import gc
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

import pyuffd
from pyuffd._manager import Ending

sys.path.insert(0, str(Path(__file__).resolve().parent))
from churning import ChurnPlan, ChurnTarget, churning
from faulting import Managed, open_descriptors
from test_state_machine import live

_ENDINGS: tuple[Ending, ...] = ("auto", "early-close", "unregister")
_LOSSES = ("wrong pages", "broken children", "lost threads", "leaked descriptors")
_COUNTS = ("faults", "forks", "remaps", "removes", "unmaps", "eagain", "eexist", "dropped")


class Soak:
    """Rounds, and what they counted."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()

    def round(self) -> None:
        """Do one of what there is."""
        before = open_descriptors()
        draw = self.random.random()
        if draw < 0.75:
            self._live()
        elif draw < 0.9:
            self._bounce()
        else:
            self._play()
        gc.collect()  # of what a failed round left
        leaked = open_descriptors() - before
        self.counts["leaked descriptors"] += len(leaked)
        self.counts["rounds"] += 1

    @property
    def lost(self) -> int:
        return sum(self.counts[loss] for loss in _LOSSES)

    def _live(self) -> None:
        """Some living targets in one manager; some are killed."""
        plans = [self._plan() for _ in range(self.random.choice((1, 1, 2, 3)))]
        with contextlib.ExitStack() as stack:
            targets = [stack.enter_context(self._target(plan)) for plan in plans]
            manager = stack.enter_context(
                pyuffd.Manager(handlers=self.random.choice((1, 2)), fillers=self.random.choice((1, 2)))
            )
            served = [self._add(manager, target) for target in targets]
            threads = [
                threading.Thread(target=self._finish, args=(plan, target, its_served, self.random.random()))
                for plan, target, its_served in zip(plans, targets, served, strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            del manager, served, targets

    def _plan(self) -> ChurnPlan:
        threads = self.random.choice((1, 2, 3, 4))
        return ChurnPlan(
            pages=self.random.choice((16, 100, 1000, 5000)),
            threads=threads,
            seconds=self.random.uniform(0.3, 2.0),
            between_forks=self.random.choice((0.0, 0.003, 0.01, 0.05)),
            seed=self.random.randrange(1 << 30),
            thp=self.random.random() < 0.3,
        )

    def _target(self, plan: ChurnPlan) -> contextlib.AbstractContextManager[ChurnTarget]:
        data = plan.data()
        if self.random.random() < 0.8:
            return churning(plan, pyuffd.MemorySource(data))
        return churning(plan, pyuffd.CallableSource(_slice_of(data), len(data)))

    def _add(self, manager: pyuffd.Manager, target: ChurnTarget) -> pyuffd.Target:
        return manager.add(
            target.received.uffd,
            target.received.regions,
            pid=target.received.pid,
            ending=self.random.choice(_ENDINGS),
            fault_around=self.random.choice((1, 4, 16, 64)),
        )

    def _finish(self, plan: ChurnPlan, target: ChurnTarget, served: pyuffd.Target, draw: float) -> None:
        """Let it go, fill it or kill it on the way, and count."""
        target.go()
        moment = threading.Event()  # that never comes: a pause of random length is the point here
        moment.wait(plan.seconds * (draw * 10 % 1))
        if draw < 0.2:
            target.child.signal(9)
            self.counts["kills"] += 1
        elif draw < 0.6:
            served.fill()
        try:
            churned = {} if draw < 0.2 else target.result()
        except AssertionError as error:  # it did not come to its end in time
            print(error, file=sys.stderr)
            self.counts["lost threads"] += 1
            churned = {}
        self.counts["wrong pages"] += churned.get("wrong_pages", 0)
        self.counts["broken children"] += churned.get("broken_children", 0)
        self.counts["kills"] += churned.get("kills", 0)
        if draw < 0.2:
            served.wait(30, progress=False)
        report = served.close("fill")
        if report.poisoned:
            self.counts["wrong pages"] += len(report.poisoned)
        self._count(served)
        if draw >= 0.2:
            target.finish()

    def _count(self, served: pyuffd.Target) -> None:
        for target in (served, *served.children):
            stats = target.stats()
            self.counts["lost threads"] += stats.lost_wakes
            for name in _COUNTS:
                self.counts[name] += getattr(stats, name)

    def _bounce(self) -> None:
        """Racing faults on memory of this process."""
        kind, shared = self.random.choice((("anonymous", False), ("anonymous", True), ("memfd", True)))
        memory = Managed(pages=self.random.choice((8, 100, 1000)), kind=kind, shared=shared)  # type: ignore[arg-type]
        with memory.serve(ending=self.random.choice(_ENDINGS), fault_around=self.random.choice((1, 7, 64))) as target:
            toucher = memory.toucher(threads=self.random.choice((1, 4, 8)), order="random", partition="all")
            if self.random.random() < 0.5:
                target.fill()
            self.counts["wrong pages"] += toucher.join().wrong_pages
        self.counts["wrong pages"] += sum(state != "right" for state in memory.states())
        self._count(target)

    def _play(self) -> None:
        """Some games of the state machine."""
        live(examples=5, steps=40)
        self.counts["games"] += 5


def _slice_of(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, length: data[offset : offset + length]


def _minutes(minutes: float) -> Iterator[float]:
    """Seconds that have passed, until the minutes are over; with a progress bar."""
    began = time.monotonic()
    whole = round(minutes * 60)
    with tqdm(total=whole, unit="s", desc="soak") as bar:
        while (passed := time.monotonic() - began) < minutes * 60:
            yield passed
            bar.update(min(int(time.monotonic() - began), whole) - bar.n)


def main() -> int:
    """Run, print, and return 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the first round (default: drawn)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 30)
    total: Counter[str] = Counter()
    for _ in _minutes(options.minutes):
        soak = Soak(seed)
        soak.round()
        total.update(soak.counts)
        if soak.lost:
            print(f"lost in the round of --seed {seed}: {dict(soak.counts)}", file=sys.stderr)
        seed += 1
    for name in ("rounds", "games", *_COUNTS, "kills", *_LOSSES):
        print(f"{name:20} {total[name]:>12,}")
    print(f"on Linux {os.uname().release}, {os.cpu_count()} CPUs; last seed {seed - 1}")
    return int(any(total[loss] for loss in _LOSSES))


if __name__ == "__main__":
    sys.exit(main())
