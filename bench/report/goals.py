"""What pyuffd must reach, and whether the results say that it does."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .. import arms
from ..arms import filled_by, many
from ..harness.axes import CROWDS, FILLERS, MANY_THREADS, REGIONS, SETUPS, SLOW_WAKE_UP, TARGETS
from .judge import Verdict, compare
from .results import Results
from .words import interval, seconds, times


@dataclass(frozen=True)
class Outcome:
    """What was measured of a goal, as text, and the verdict."""

    measured: str
    interval: str
    verdict: Verdict


_NOT_MEASURED = Outcome("not measured", "", "not measured")


class Goal(Protocol):
    """What must be reached."""

    @property
    def what(self) -> str:
        """What is measured, as text."""

    @property
    def question(self) -> str:
        """The benchmark that measures it."""

    @property
    def bound(self) -> str:
        """The limit, as text."""

    def outcome(self, results: Results) -> Outcome:
        """What was measured."""


@dataclass(frozen=True)
class RatioGoal:
    """A ratio of two arms of a case, and its limit."""

    what: str
    question: str
    case: str
    arm: str
    other: str
    limit: float
    at_most: bool = True
    metric: str = "time"

    @property
    def bound(self) -> str:
        """The limit, as text."""
        return f"{'at most' if self.at_most else 'at least'} {self.limit:g}"

    def outcome(self, results: Results) -> Outcome:
        """The ratio that was measured."""
        found = compare(results, self.question, self.case, self.arm, self.other, self.metric)
        verdict = found.verdict(self.limit, at_most=self.at_most)
        if verdict == "not measured":
            return _NOT_MEASURED
        return Outcome(times(found.ratio), interval(found).removeprefix("95 % "), verdict)


@dataclass(frozen=True)
class LongestGoal:
    """A limit, in seconds, that no round of an arm may pass."""

    what: str
    question: str
    case: str
    arm: str
    metric: str
    limit: float

    @property
    def bound(self) -> str:
        """The limit, as text."""
        return f"at most {seconds(self.limit)}"

    def outcome(self, results: Results) -> Outcome:
        """The longest of all rounds."""
        values = results.of(self.question, self.case, self.arm, self.metric).dropna()
        if values.empty:
            return _NOT_MEASURED
        verdict: Verdict = "reached" if values.max() <= self.limit else "falls short"
        return Outcome(seconds(float(values.max())), f"longest of {len(values)}", verdict)


def goals() -> Iterator[Goal]:
    """All of them."""
    yield from _fault_goals()
    yield from _default_goals()
    yield from _ending_goals()
    yield from _fill_goals()
    yield from _restore_goals()
    yield from _other_goals()


def _fault_goals() -> Iterator[Goal]:
    for cpus in ("same-cpu", "other-cpu-awake"):
        for setup in SETUPS:
            yield RatioGoal(
                f"one fault, {cpus}, {setup}: manager / floor", "fault", f"{setup}, {cpus}", "manager", "floor", 1.1
            )
    placed = "one fault, another process"
    yield RatioGoal("one fault: adopt / floor on one CPU", "fault", placed, "adopt", arms.FLOOR, 1.15)
    yield RatioGoal("one fault: poll loop / adopt", "fault", placed, arms.LOOP, "adopt", 6, at_most=False)
    walk = arms.LEARNED
    yield RatioGoal("a page of a walk: poll loop / auto", "fault", placed, arms.LOOP, walk, 10, at_most=False)
    for other in ("free", "on the first CPU", "on the second CPU"):
        yield RatioGoal(f"one fault: auto / {other}", "fault", placed, "auto", other, 1.15)
    inline = "one fault, this process, inline"
    yield RatioGoal("one fault inline / bare SIGBUS handler", "fault", inline, "inline", arms.BARE_SIGBUS, 1.1)
    for setup in SETUPS:
        for window in ("around 64", "learned"):
            what = f"fault-around, {window}, {setup}: per page / bulk COPY"
            yield RatioGoal(what, "fault", f"bulk, {setup}", window, "bulk COPY", 1.25)
    for threads in MANY_THREADS:
        case = f"adopt, {many(threads, 'thread')}"
        yield RatioGoal(f"{threads} threads: adopt / floor on one CPU", "fault", case, "adopt", arms.FLOOR, 1.15)


def _default_goals() -> Iterator[Goal]:
    for setup in SETUPS:
        slow = f"{setup}, wake-ups of {SLOW_WAKE_UP} us"
        for case in (setup, slow):
            yield RatioGoal(f"the default, {case}: auto / adopt", "default", case, "auto", "adopt", 1.6)
            what = f"the default, {case}: auto, unprivileged / adopt"
            yield RatioGoal(what, "default", case, arms.UNPRIVILEGED, "adopt", 2.5)
            what = f"the default, {case}: CPU time, auto / adopt"
            yield RatioGoal(what, "default", case, "auto", "adopt", 2.5, metric="burnt")
        for loop, limit in ((arms.LOOP, 5), (arms.POOL, 8)):
            for auto in ("auto", arms.UNPRIVILEGED):
                what = f"the default, {slow}: {loop} / {auto}"
                yield RatioGoal(what, "default", slow, loop, auto, limit, at_most=False)
    for condition in ("both CPUs busy", "one CPU", "a quota of half a CPU"):
        yield RatioGoal(f"the default, {condition}: auto / free", "default", condition, "auto", "free", 1.05)
    what = "the default, a turn of a bystander: auto / free"
    yield RatioGoal(what, "default", "beside a bystander", "auto", "free", 1.03, metric="bystander")


def _ending_goals() -> Iterator[Goal]:
    for ending in ("early-close", "unregister"):
        for regions in (count for count in REGIONS if count >= 1024):
            what = f"{ending}, {regions} regions: manager / bare loop"
            yield RatioGoal(what, "ending", f"{regions} regions", ending, f"{ending}, bare", 1.1)


def _fill_goals() -> Iterator[Goal]:
    for setup in SETUPS:
        case = f"fill, {setup}"
        one, two = arms.filler(1), arms.filler(2)
        yield RatioGoal(f"{case}: one filler / bulk COPY by one thread", "fill", case, one, arms.bulk_copy(1), 1 / 0.95)
        yield RatioGoal(f"{case}: two fillers / memcpy by one thread", "fill", case, two, arms.MEMCPY, 2)
        yield RatioGoal(f"{case}: one filler / two", "fill", case, one, two, 1.4, at_most=False)


def _restore_goals() -> Iterator[Goal]:
    for place, fillers, limit in (("two CPUs", 2, 0.6), ("one CPU", 1, 0.85)):
        what = f"a real program's memory: restored / read() by one thread, {place}"
        both = (filled_by(fillers), arms.read_by(1))
        yield RatioGoal(what, "restore", f"alone, {place}", *both, limit, metric="native")
    for place, longest in (("two CPUs", 1e-3), ("one CPU", 2e-3)):
        for fillers in FILLERS:
            arm = filled_by(fillers)
            what = f"a real program's memory, {place}: first access of a restore, {arm}"
            yield LongestGoal(what, "restore", f"alone, {place}", arm, "first access", longest)
    what = "a real program's memory: restored / read() by two threads, while it works"
    yield RatioGoal(what, "restore", "at work, 2 fillers", "early-close", arms.read_by(2), 0.6, metric="native")


def _other_goals() -> Iterator[Goal]:
    for count in TARGETS:
        case = many(count, "target")
        whole = arms.by_continue(512)
        yield RatioGoal(f"SharedImage into {case}: fill / CONTINUE", "share", case, arms.IMAGE, whole, 1 / 0.8)
        for cpus in ("same-cpu", "other-cpu-awake"):
            what = f"{case}, {cpus}: manager / epoll loop"
            yield RatioGoal(what, "targets", f"{case}, {cpus}, 1 thread", "manager", "epoll loop", 1.15)
    for setup in SETUPS:
        for way in (arms.MAPPED, arms.DIRECT):
            yield RatioGoal(f"cold file, {setup}: {way} / device", "cold", setup, way, arms.DEVICE, 1 / 0.8)
    yield RatioGoal(
        "cold file, huge pages moved / bare reads and MOVE", "cold", "in-process", arms.DIRECT, arms.MOVE, 1 / 0.8
    )
    guards = (arms.GUARDED, arms.UNGUARDED)
    yield RatioGoal("one fault, same-cpu: guarded / unguarded", "guard", "one fault, same-cpu", *guards, 1.03)
    for case, longest in (("1 GiB", 0.1), ("64 targets of 16 MiB", 0.3)):
        what = f"take-over of {case}: until a page is there"
        yield LongestGoal(what, "guard", f"take-over of {case}", arms.TAKEN_OVER, "time", longest)
    yield from _criu_goals()
    one, each = arms.ONE_HANDLER, arms.HANDLER_EACH
    for threads in CROWDS:
        what = f"p99 of faults beside a target of {threads} threads: one handler / one each"
        yield RatioGoal(what, "fairness", f"beside {threads} threads", one, each, 1.5, metric="p99")


def _criu_goals() -> Iterator[Goal]:
    for regions in (1, 100):
        case = f"restore of 1 GiB, {many(regions, 'region')}"
        both = (arms.CRIU_LAZY_PAGES, arms.SERVE_CRIU)
        yield RatioGoal(f"lazy {case}: criu lazy-pages / pyuffd, until it ends", "criu", case, *both, 3, False, "exit")
        yield RatioGoal(f"lazy {case}: worst access, criu / pyuffd", "criu", case, *both, 2, False, "worst")
        both = (arms.LAZY_LOOP, arms.SERVE_CRIU)
        yield RatioGoal(f"lazy {case}: loop / pyuffd", "criu", case, *both, 3, at_most=False)
        yield RatioGoal(f"lazy {case}: worst access, loop / pyuffd", "criu", case, *both, 2, False, "worst")
        yield LongestGoal(f"lazy {case}: first access", "criu", case, arms.SERVE_CRIU, "first", 1e-3)
        yield LongestGoal(f"lazy {case}: ending", "criu", case, arms.SERVE_CRIU, "ending", 100e-6)
    for case in ("1 task of 3000 regions", "1000 tasks of 3 regions"):
        yield LongestGoal(
            f"a task, {case}: parse and add", "criu", f"parse and add, {case}", arms.SERVE_CRIU, "time", 1e-3
        )
    both = (arms.SERVE_CRIU, arms.COPY_OVER_SOCKET)
    yield RatioGoal("page server: fill / plain copy", "criu", "page server, fill", *both, 1 / 0.8)
