"""What pyuffd must reach, and whether the results say that it does."""

from collections.abc import Iterator
from dataclasses import dataclass

from .. import arms
from ..arms import many
from ..harness.axes import CROWDS, MANY_THREADS, REGIONS, SETUPS, SLOW_WAKE_UP, TARGETS
from .judge import Comparison, compare
from .results import Results


@dataclass(frozen=True)
class Goal:
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

    def measured(self, results: Results) -> Comparison:
        """The ratio that was measured."""
        return compare(results, self.question, self.case, self.arm, self.other, self.metric)


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
            yield Goal(
                f"one fault, {cpus}, {setup}: manager / floor", "fault", f"{setup}, {cpus}", "manager", "floor", 1.1
            )
    placed = "one fault, another process"
    yield Goal("one fault: adopt / floor on one CPU", "fault", placed, "adopt", arms.FLOOR, 1.15)
    yield Goal("one fault: poll loop / adopt", "fault", placed, arms.LOOP, "adopt", 6, at_most=False)
    walk = arms.LEARNED
    yield Goal("a page of a walk: poll loop / auto", "fault", placed, arms.LOOP, walk, 10, at_most=False)
    for other in ("free", "on the first CPU", "on the second CPU"):
        yield Goal(f"one fault: auto / {other}", "fault", placed, "auto", other, 1.15)
    inline = "one fault, this process, inline"
    yield Goal("one fault inline / bare SIGBUS handler", "fault", inline, "inline", arms.BARE_SIGBUS, 1.1)
    for setup in SETUPS:
        for window in ("around 64", "learned"):
            what = f"fault-around, {window}, {setup}: per page / bulk COPY"
            yield Goal(what, "fault", f"bulk, {setup}", window, "bulk COPY", 1.25)
    for threads in MANY_THREADS:
        case = f"adopt, {many(threads, 'thread')}"
        yield Goal(f"{threads} threads: adopt / floor on one CPU", "fault", case, "adopt", arms.FLOOR, 1.15)


def _default_goals() -> Iterator[Goal]:
    for setup in SETUPS:
        slow = f"{setup}, wake-ups of {SLOW_WAKE_UP} us"
        for case in (setup, slow):
            yield Goal(f"the default, {case}: auto / adopt", "default", case, "auto", "adopt", 1.6)
            what = f"the default, {case}: auto, unprivileged / adopt"
            yield Goal(what, "default", case, arms.UNPRIVILEGED, "adopt", 2.5)
            what = f"the default, {case}: CPU time, auto / adopt"
            yield Goal(what, "default", case, "auto", "adopt", 2.5, metric="burnt")
        for loop, limit in ((arms.LOOP, 5), (arms.POOL, 8)):
            for auto in ("auto", arms.UNPRIVILEGED):
                what = f"the default, {slow}: {loop} / {auto}"
                yield Goal(what, "default", slow, loop, auto, limit, at_most=False)
    for condition in ("both CPUs busy", "one CPU", "a quota of half a CPU"):
        yield Goal(f"the default, {condition}: auto / free", "default", condition, "auto", "free", 1.05)


def _ending_goals() -> Iterator[Goal]:
    for ending in ("early-close", "unregister"):
        for regions in (count for count in REGIONS if count >= 1024):
            what = f"{ending}, {regions} regions: manager / bare loop"
            yield Goal(what, "ending", f"{regions} regions", ending, f"{ending}, bare", 1.1)


def _fill_goals() -> Iterator[Goal]:
    for setup in SETUPS:
        case = f"fill, {setup}"
        one, two = arms.filler(1), arms.filler(2)
        yield Goal(f"{case}: one filler / bulk COPY by one thread", "fill", case, one, arms.bulk_copy(1), 1 / 0.95)
        yield Goal(f"{case}: two fillers / memcpy by one thread", "fill", case, two, arms.MEMCPY, 2)
        yield Goal(f"{case}: one filler / two", "fill", case, one, two, 1.4, at_most=False)


def _restore_goals() -> Iterator[Goal]:
    for place, fillers, limit in (("two CPUs", 2, 0.6), ("one CPU", 1, 0.85)):
        what = f"a real program's memory: restored / read() by one thread, {place}"
        both = (arms.filled_by(fillers), arms.read_by(1))
        yield Goal(what, "restore", f"alone, {place}", *both, limit, metric="native")
    what = "a real program's memory: restored / read() by two threads, while it works"
    yield Goal(what, "restore", "at work, 2 fillers", "early-close", arms.read_by(2), 0.6, metric="native")


def _other_goals() -> Iterator[Goal]:
    for count in TARGETS:
        case = many(count, "target")
        whole = arms.by_continue(512)
        yield Goal(f"SharedImage into {case}: fill / CONTINUE", "share", case, arms.IMAGE, whole, 1 / 0.8)
        for cpus in ("same-cpu", "other-cpu-awake"):
            what = f"{case}, {cpus}: manager / epoll loop"
            yield Goal(what, "targets", f"{case}, {cpus}, 1 thread", "manager", "epoll loop", 1.15)
    for setup in SETUPS:
        for way in (arms.MAPPED, arms.DIRECT):
            yield Goal(f"cold file, {setup}: {way} / device", "cold", setup, way, arms.DEVICE, 1 / 0.8)
    yield Goal(
        "cold file, huge pages moved / bare reads and MOVE", "cold", "in-process", arms.DIRECT, arms.MOVE, 1 / 0.8
    )
    one, each = arms.ONE_HANDLER, arms.HANDLER_EACH
    for threads in CROWDS:
        what = f"p99 of faults beside a target of {threads} threads: one handler / one each"
        yield Goal(what, "fairness", f"beside {threads} threads", one, each, 1.5, metric="p99")
