"""Random lives of a target and of what it forks, against a model of every byte.

Processes read, write, fork, move, drop and unmap memory that a manager serves, fills and lets go meanwhile. The model
is what the same steps do to memory that had its bytes from the beginning. For a longer run than the test's:
``live(examples=10000, steps=60)``.
"""

import contextlib
import gc
import mmap
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from support.memory import PAGE, random_bytes
from support.puppet import GoneError, Puppet
from support.state import open_descriptors, until

import pyuffd

pytestmark = pytest.mark.requires_full_userfaultfd

# Far from where the kernel puts mappings by itself, so that fixed ones lie on nothing else and areas can grow in place.
ARENA = 128 << 30
ARENA_PAGES = 64
# (page of the arena, pages, page of the source) of each region.
REGIONS = ((10, 14, 10), (30, 10, 0))
SOURCE_PAGES = 24
MOST_PROCESSES = 4
ANSWER_LIMIT = 8.0
ZEROS = bytes(PAGE)


class Page:
    """What a page of memory must have; areas that share memory have the same object."""

    def __init__(self, data: bytes = ZEROS) -> None:
        self.data = data


def fresh(count: int) -> list[Page]:
    return [Page() for _ in range(count)]


@dataclass
class Area:
    """Pages one after the other, in one mapping of the kernel's."""

    start: int
    pages: list[Page]
    kind: str

    @property
    def shared(self) -> bool:
        return self.kind in ("shared", "memfd")

    @property
    def end(self) -> int:
        return self.start + len(self.pages) * PAGE

    def outside(self, start: int, end: int) -> Iterator["Area"]:
        """What remains without a range."""
        if end <= self.start or self.end <= start:
            yield self
            return
        if self.start < start:
            yield Area(self.start, self.pages[: (start - self.start) // PAGE], self.kind)
        if end < self.end:
            yield Area(end, self.pages[(end - self.start) // PAGE :], self.kind)

    def forked(self) -> "Area":
        pages = self.pages if self.shared else [Page(page.data) for page in self.pages]
        return Area(self.start, list(pages), self.kind)

    def vacated(self, pages: list[Page]) -> list[Page]:
        """What lies where pages were moved away from and the mapping was kept."""
        return list(pages) if self.shared else fresh(len(pages))


@dataclass
class Run:
    """Some pages of an area."""

    area: Area
    first: int
    count: int

    @property
    def start(self) -> int:
        return self.area.start + self.first * PAGE

    @property
    def length(self) -> int:
        return self.count * PAGE

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def pages(self) -> list[Page]:
        return self.area.pages[self.first : self.first + self.count]


@dataclass
class Process:
    """A living process and what its memory must have."""

    puppet: Puppet
    areas: list[Area]

    def run_at(self, place: tuple[int, int, int]) -> Run | None:
        if not self.areas:
            return None
        area = self.areas[place[0] % len(self.areas)]
        first = place[1] % len(area.pages)
        return Run(area, first, min(place[2], len(area.pages) - first))

    def clear(self, start: int, end: int) -> None:
        self.areas = [part for area in self.areas for part in area.outside(start, end)]

    def post_read(self, run: Run) -> None:
        self.puppet.post("read", run.start, run.length)

    def compare(self, run: Run) -> None:
        """Hear what a read gave."""
        seen = bytes.fromhex(self.puppet.answer())
        for index, page in enumerate(run.pages):
            data = seen[index * PAGE :][:PAGE]
            assert data == page.data, (
                f"page {run.first + index} of the {run.area.kind} area at {run.area.start:#x} of process "
                f"{self.puppet.pid} has {described(data)}, not {described(page.data)}"
            )

    def read(self, run: Run) -> None:
        self.post_read(run)
        self.compare(run)

    def read_all(self) -> None:
        for area in self.areas:
            self.read(Run(area, 0, len(area.pages)))

    def move(self, run: Run, count: int, to: int, keep: bool) -> None:
        """mremap(2): pages, to an address or where the kernel likes."""
        where: int = self.puppet.do("move", run.start, run.length, count * PAGE, to, keep)
        pages = run.pages[:count] + fresh(count - run.count)
        if where == run.start:
            self._resize(run, count)
            return
        if keep:
            run.area.pages[run.first : run.first + run.count] = run.area.vacated(pages)
        else:
            self.clear(run.start, run.end)
        self.clear(where, where + count * PAGE)
        self.areas.append(Area(where, pages, run.area.kind))

    def _resize(self, run: Run, count: int) -> None:
        """In its place."""
        if count < run.count:
            self.clear(run.start + count * PAGE, run.end)
        else:
            run.area.pages.extend(fresh(count - run.count))


SOURCE = random_bytes(SOURCE_PAGES * PAGE)
SOURCE_PAGE = [SOURCE[index * PAGE :][:PAGE] for index in range(SOURCE_PAGES)]


def described(data: bytes) -> str:
    """Where a page's bytes come from, as far as that can be told."""
    if data == ZEROS:
        return "zeros"
    for index, page in enumerate(SOURCE_PAGE):
        if sum(a == b for a, b in zip(data, page, strict=True)) > PAGE * 3 // 4:
            return f"page {index} of the source" + ("" if data == page else ", written to")
    return f"{data[:8].hex()}... with {PAGE - data.count(0)} bytes that are not zero"


def slow_read(offset: int, length: int) -> bytes:
    """So slow that steps meet pages that are under way."""
    time.sleep(0.001)
    return SOURCE[offset : offset + length]


SOURCES: dict[str, Callable[[], pyuffd.Source]] = {
    "memory": lambda: pyuffd.MemorySource(SOURCE),
    "slow": lambda: pyuffd.CallableSource(slow_read, len(SOURCE)),
}

WHO = st.integers(0, MOST_PROCESSES - 1)
# Of an area, a page, and how many; modulo what there is.
PLACE = st.tuples(st.integers(0, 7), st.integers(0, 15), st.integers(1, 8))


class LivingTargets(RuleBasedStateMachine):
    """A target and its fork children, their processes, and the manager.

    Attributes:
        nursery: What the first process is forked from: that is quicker than to start one.
    """

    nursery: ClassVar[Puppet]

    def __init__(self) -> None:
        super().__init__()
        self._around = sys.exc_info()[1]  # not of this run
        self._before = open_descriptors()
        self._processes: list[Process] = []
        self._root: pyuffd.Target | None = None
        self._root_pid = 0
        self._some_ended = False
        self._private = True
        self._private_file = False

    @initialize(
        kind=st.sampled_from(["anonymous", "anonymous", "anonymous", "memfd-private", "shared", "memfd"]),
        source=st.sampled_from(sorted(SOURCES)),
        fault_around=st.sampled_from([1, 4, 16]),
    )
    def begin(self, kind: str, source: str, fault_around: int) -> None:
        process = Process(self.nursery.fork(), [])
        self._processes.append(process)
        self._root_pid = process.puppet.pid
        for at, count, first in REGIONS:
            start: int = process.puppet.do("map", count * PAGE, kind, ARENA + at * PAGE)
            process.areas.append(Area(start, [Page(data) for data in SOURCE_PAGE[first:][:count]], kind))
        self._private = not process.areas[0].shared
        self._private_file = kind == "memfd-private"
        handoff = process.puppet.hand_over(
            [(ARENA + at * PAGE, count * PAGE, first * PAGE, PAGE) for at, count, first in REGIONS],
            SOURCES[source](),
            int(pyuffd.Feature.EVENTS),
            on_remove="auto" if self._private else "keep",
        )
        self._root = pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, fault_around=fault_around)

    def _process(self, who: int) -> Process:
        return self._processes[who % len(self._processes)]

    def _targets(self) -> list[pyuffd.Target]:
        assert self._root is not None
        targets = [self._root]
        for target in targets:
            targets.extend(target.children)
        return targets

    def _post_reads(self, place: tuple[int, int, int]) -> list[tuple[Process, Run]]:
        reads = [(process, run) for process in self._processes if (run := process.run_at(place))]
        for process, run in reads:
            process.post_read(run)
        return reads

    @rule(who=WHO, place=PLACE)
    def read(self, who: int, place: tuple[int, int, int]) -> None:
        process = self._process(who)
        if run := process.run_at(place):
            process.read(run)

    @rule(place=PLACE)
    def read_everywhere(self, place: tuple[int, int, int]) -> None:
        for process, run in self._post_reads(place):
            process.compare(run)

    @rule(who=WHO, place=PLACE, offset=st.integers(0, PAGE - 8), stamp=st.binary(min_size=8, max_size=8))
    def write(self, who: int, place: tuple[int, int, int], offset: int, stamp: bytes) -> None:
        process = self._process(who)
        if run := process.run_at(place):
            process.puppet.do("write", run.start + offset, stamp.hex())
            page = run.pages[0]
            page.data = page.data[:offset] + stamp + page.data[offset + len(stamp) :]

    @rule(who=WHO, place=PLACE)
    def drop(self, who: int, place: tuple[int, int, int]) -> None:
        process = self._process(who)
        if run := process.run_at(place):
            process.puppet.do("advise", run.start, run.length, mmap.MADV_DONTNEED)
            if not run.area.shared:
                for page in run.pages:
                    page.data = ZEROS

    @rule(who=WHO, place=PLACE)
    def unmap(self, who: int, place: tuple[int, int, int]) -> None:
        process = self._process(who)
        if run := process.run_at(place):
            process.puppet.do("unmap", run.start, run.length)
            process.clear(run.start, run.end)

    @rule(who=WHO, at=st.integers(0, ARENA_PAGES - 1), count=st.integers(1, 4))
    def map(self, who: int, at: int, count: int) -> None:
        """Memory that nobody manages, over whatever lies there."""
        process = self._process(who)
        start: int = process.puppet.do("map", count * PAGE, "anonymous", ARENA + at * PAGE)
        process.clear(start, start + count * PAGE)
        process.areas.append(Area(start, fresh(count), "anonymous"))

    @rule(
        who=WHO,
        place=PLACE,
        change=st.integers(-4, 4),
        to=st.none() | st.integers(0, ARENA_PAGES - 1),
        keep=st.booleans(),
    )
    def move(self, who: int, place: tuple[int, int, int], change: int, to: int | None, keep: bool) -> None:
        process = self._process(who)
        run = process.run_at(place)
        if run is None:
            return
        # The kernel keeps the old place only where the length stays, and what has a file ends with it.
        if keep or (change > 0 and run.area.kind != "anonymous"):
            change = 0
        count = max(1, run.count + change)
        where = 0 if to is None else ARENA + to * PAGE
        if where + count * PAGE <= run.start or run.end <= where:
            process.move(run, count, where, keep)

    # Processes that map a file privately share its holes: what one reads in memory that nobody manages any more, as
    # after its own drop, fills the hole, and the others' page is not missing to the kernel then, but zeros.
    @precondition(lambda self: len(self._processes) < MOST_PROCESSES and not self._private_file)
    @rule(who=WHO)
    def fork(self, who: int) -> None:
        parent = self._process(who)
        self._processes.append(Process(parent.puppet.fork(), [area.forked() for area in parent.areas]))

    @precondition(lambda self: len(self._processes) > 1)
    @rule(who=WHO, place=PLACE, touching=st.booleans())
    def kill(self, who: int, place: tuple[int, int, int], touching: bool) -> None:
        process = self._process(who)
        if touching and (run := process.run_at(place)):
            process.post_read(run)
        self._end(process)

    @precondition(lambda self: len(self._processes) > 1)
    @rule(who=WHO)
    def leave(self, who: int) -> None:
        process = self._process(who)
        with contextlib.suppress(GoneError):
            process.puppet.do("leave")
        self._end(process)

    def _end(self, process: Process) -> None:
        self._processes.remove(process)
        self._some_ended = True
        with process.puppet:
            pass

    @rule(which=st.integers(0, 7))
    def fill(self, which: int) -> None:
        targets = self._targets()
        targets[which % len(targets)].fill()

    @rule(which=st.integers(0, 7), place=PLACE, touching=st.booleans())
    def close(self, which: int, place: tuple[int, int, int], touching: bool) -> None:
        reads = self._post_reads(place) if touching else []
        targets = self._targets()
        self._close(targets[which % len(targets)])
        for process, run in reads:
            process.compare(run)

    def _close(self, target: pyuffd.Target) -> None:
        report = target.close(missing="fill")
        assert target.ended
        assert report.poisoned == ()
        assert report.verified is not False
        stats = target.stats()
        assert (stats.poisoned, stats.failed, stats.lost_wakes) == (0, 0, 0), stats

    def teardown(self) -> None:
        failed = sys.exc_info()[1] is not self._around
        try:
            if not failed and self._root:
                self._check_all()
        finally:
            self._end_all()
        if not failed:
            until(lambda: open_descriptors() <= self._before, "the end of every descriptor")

    def _check_all(self) -> None:
        for process in self._processes:
            process.read_all()
        # Whoever has died, and shares what another touched, misses pages.
        if self._private and not self._some_ended:
            until(lambda: all(target.ended for target in self._targets()), "the end of targets that miss nothing")
        while not all(target.ended for target in self._targets()):
            for target in self._targets():
                self._close(target)
        for process in self._processes:
            process.read_all()

    def _end_all(self) -> None:
        while self._processes:
            self._end(self._processes[0])
        self._discard_all()
        gc.collect()  # parents and children refer to each other
        if self._root_pid:
            self.nursery.do("reap", self._root_pid)

    def _discard_all(self) -> None:
        for target in self._targets() if self._root else []:
            target.discard()
        self._root = None


def live(examples: int, steps: int = 30) -> None:
    """Let so many families of targets live for so many steps."""
    options = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    with Puppet.start(ANSWER_LIMIT) as nursery:
        LivingTargets.nursery = nursery
        run_state_machine_as_test(LivingTargets, settings=options)


@pytest.mark.timeout(400)  # hypothesis tries for 300 s to make a failure smaller
def test_targets_live_as_the_model_does() -> None:
    live(examples=70)


@pytest.mark.parametrize("there", ["vacated", "grown"])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("touched", [False, True])
def test_what_a_parent_moves_after_the_fork_is_not_its_childs(there: str, keep: bool, touched: bool) -> None:
    """The move is told after the fork, as one before it may be; the child has zeros there."""
    with Puppet.start(ANSWER_LIMIT) as nursery:
        LivingTargets.nursery = nursery
        state = LivingTargets()
        try:
            state.begin(kind="anonymous", source="memory", fault_around=1)
            if there == "vacated":
                state.move(change=0, keep=True, place=(1, 0, 7), to=None, who=0)
            else:
                state.move(change=4, keep=False, place=(1, 0, 10), to=None, who=0)  # in its place: no event tells
                assert len(state._processes[0].areas[1].pages) == 14
            state.fork(who=0)
            if touched:
                state.read(who=1, place=(1, 5, 1))
            state.move(change=0, keep=keep, place=(0, 3, 1), to=33 if there == "vacated" else 42, who=0)
            child = state._processes[1]
            child.read(Run(child.areas[1], 0, len(child.areas[1].pages)))
            for process in state._processes:
                process.read_all()
        finally:
            state._end_all()
