"""What the engine must reach, and whether the results say that it does."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from _axes import CROWDS, ENDINGS, LOOKED_UP, MANY_THREADS, MEMORY, REGIONS, SETUPS, TARGETS
from _pairs import Ratio, Values
from _placement import OTHER_AWAKE, SAME
from _results import Results


@dataclass(frozen=True)
class Goal:
    """One line of the table.

    Attributes:
        what: What is compared.
        measured: None where that was skipped or failed.
        limit: What it must reach.
        at_most: Whether the limit is an upper one.
        detail: How it spread.
    """

    what: str
    measured: float | None
    limit: float
    at_most: bool = True
    detail: str = ""

    @property
    def bound(self) -> str:
        """The limit, as text."""
        return f"{'<=' if self.at_most else '>='} {self.limit:g}"

    @property
    def verdict(self) -> str:
        """Whether it is reached."""
        if self.measured is None:
            return "not measured"
        reached = self.measured <= self.limit if self.at_most else self.measured >= self.limit
        return "reached" if reached else "FALLS SHORT"


def goals(results: Results) -> list[Goal]:
    """Judge all of them."""
    return [
        *_fault_goals(results),
        *_window_goals(results),
        *_placed_goals(results),
        *_scale_goals(results),
        *_share_goals(results),
        *_cold_goals(results),
        *_restore_goals(results),
        *_fill_goals(results),
        *_target_goals(results),
        *_fairness_goals(results),
        *_ending_goals(results),
        _memory_goal(results),
    ]


def _fault_goals(results: Results) -> Iterator[Goal]:
    for placement in (SAME, OTHER_AWAKE):
        for setup in SETUPS:
            name = f"fault/{setup}/{placement.name}/around-1/threads-1"
            ratio = results.ratio("fault", f"{name}/manager", f"{name}/floor")
            yield _goal(f"one fault, {placement.name}, {setup}: manager / floor", ratio, 1.10)


def _window_goals(results: Results) -> Iterator[Goal]:
    for setup in SETUPS:
        name = f"bulk/{setup}/{SAME.name}"
        for window in ("around-64", "learned"):
            ratio = results.ratio("fault", f"{name}/{window}", f"{name}/floor")
            yield _goal(f"fault-around, {window}, {SAME.name}, {setup}: per page / bulk COPY", ratio, 1.25)


def _placed_goals(results: Results) -> Iterator[Goal]:
    placed = "placed/across"

    def ratio(name: str, against: str) -> Ratio | None:
        return results.ratio("fault", f"{placed}/{name}", f"{placed}/{against}")

    yield _goal("one fault, adopt / paired blocking floor", ratio("adopt", "paired-floor"), 1.15)
    yield _goal("one fault, naive loop / adopt", ratio("naive", "adopt"), 6, at_most=False)
    yield _goal("naive loop / auto, per page of a walk", ratio("naive", "auto-walk"), 10, at_most=False)
    forced = [found for name in ("free", "on-first", "on-second") if (found := ratio("auto", name))]
    best = max(forced, key=lambda found: found.of_medians, default=None)
    yield _goal("one fault, auto / best placement that touches no thread", best, 1.15)
    inline = results.ratio("fault", "inline/around-1/manager", "inline/around-1/floor")
    yield _goal("one fault inline / COPY in a bare SIGBUS handler", inline, 1.10)
    for threads in MANY_THREADS:
        name = f"adopt/threads-{threads}"
        adopted = results.ratio("fault", f"{name}/adopt", f"{name}/floor")
        yield _goal(f"{threads} threads, adopt / floor with all on one CPU", adopted, 1.15)


def _scale_goals(results: Results) -> Iterator[Goal]:
    fill = {size: results.ratio("scale", f"{_memory(size)}/fill", f"{_memory(size)}/native") for size in MEMORY}
    of_native = {size: ratio.of_medians for size, ratio in fill.items() if ratio}
    yield _flat(f"fill / native first touch, {min(MEMORY)} to {max(MEMORY)} MiB", of_native, 1.2, "")
    faults = {size: results.median("scale", f"{_memory(size)}/fault") for size in MEMORY}
    yield _flat(f"one fault, {min(MEMORY)} to {max(MEMORY)} MiB", _microseconds(faults), 1.2, " us")
    lookups = {count: results.median("scale", f"scale/regions-{count}/fault") for count in LOOKED_UP}
    yield _flat(f"one fault, {min(LOOKED_UP)} to {max(LOOKED_UP)} regions", _microseconds(lookups), 1.5, " us")
    waste = results.values("waste", "scale/random/installed-per-fault")
    extra = None if waste is None else float(np.median(waste)) - 1
    yield Goal("random touches: pages installed beyond those touched, a fault", extra, 2.0)
    alone, beside, chunk = (
        results.median("scale", f"scale/filling/{what}") for what in ("alone/fault-p99", "beside/fault-p99", "chunk")
    )
    slowed = None if alone is None or beside is None or chunk is None else beside / (alone + chunk)
    yield Goal("p99 of faults beside a fill / (p99 without + one chunk)", slowed, 1.0)


def _share_goals(results: Results) -> Iterator[Goal]:
    for count in TARGETS:
        name = f"share/{count}"
        speed = results.ratio("share", f"{name}/floor-512", f"{name}/manager")
        yield _goal(f"SharedImage into {count} targets: speed of a fill / CONTINUE", speed, 0.8, at_most=False)
    benchmark = results.benchmark("share-memory", "share/8/beyond")
    what = "8 targets of one SharedImage: memory beyond it, and what they wrote, a target / image"
    if benchmark is None:
        yield Goal(what, None, 0.01)
    else:
        beyond = max(benchmark.get_values())
        image = int(benchmark.get_metadata()["image_bytes"])
        yield Goal(what, beyond / 8 / image, 0.01, detail=f"at most {beyond / 8 / 1024:.0f} KiB of {image >> 20} MiB")


def _cold_goals(results: Results) -> Iterator[Goal]:
    moved = results.ratio("cold", "cold/in-process/move-floor", "cold/in-process/direct")
    yield _goal("cold file, huge pages moved: speed / bare reads and MOVE", moved, 0.8, at_most=False)
    for setup in SETUPS:
        for way in ("mapped", "direct"):
            speed = results.ratio("cold", f"cold/{setup}/device", f"cold/{setup}/{way}")
            yield _goal(f"cold file, {way}, {setup}: speed / the device's", speed, 0.8, at_most=False)


def _restore_goals(results: Results) -> Iterator[Goal]:
    what = "a real program's memory: restored / read() into fresh memory"
    for place, fillers, limit in (("two-cpus", 2, 0.6), ("one-cpu", 1, 0.85)):
        name = f"alone/{place}"
        ratio = results.ratio("restore", f"{name}/fillers-{fillers}/native", f"{name}/read/native")
        yield _goal(f"{what}, {place}", ratio, limit)
        first = results.values("restore", f"{name}/fillers-{fillers}/first")
        yield _first_access_goal(place, first)
    working = results.ratio("restore", "restore/early-close/fillers-2/native", "restore/read/native")
    yield _goal(f"{what}, while two threads of its own touch and compare it", working, 0.6)


def _first_access_goal(place: str, first: Values | None) -> Goal:
    what = f"a real program's memory, {place}: first access answered, ms from the start"
    if first is None:
        return Goal(what, None, 1.0)
    return Goal(what, float(np.median(first)) * 1e3, 1.0, detail=f"at most {first.max() * 1e3:.2f} ms")


def _memory(size: int) -> str:
    return f"scale/memory-{size}"


def _microseconds(seconds: Mapping[int, float | None]) -> dict[int, float]:
    return {size: value * 1e6 for size, value in seconds.items() if value is not None}


def _flat(what: str, costs: Mapping[int, float], limit: float, unit: str) -> Goal:
    worst = max(costs.values()) / min(costs.values()) if len(costs) > 1 else None
    return Goal(
        f"{what}: most / least", worst, limit, detail=", ".join(f"{n}: {c:.2f}{unit}" for n, c in costs.items())
    )


def _fill_goals(results: Results) -> Iterator[Goal]:
    # Of speeds, so that the slower arm's time stands below the faster one's.
    for setup in SETUPS:
        name = f"fill/{setup}"
        speed = results.ratio("fill", f"{name}/floor-1", f"{name}/manager-1")
        yield _goal(f"fill, {setup}: speed of one filler / bulk COPY", speed, 0.95, at_most=False)
        copied = results.ratio("fill", f"{name}/memcpy", f"{name}/manager-2")
        yield _goal(f"fill, {setup}: speed of two fillers / memcpy by one thread", copied, 0.5, at_most=False)
        gain = results.ratio("fill", f"{name}/manager-1", f"{name}/manager-2")
        yield _goal(f"fill, {setup}: speed of two fillers / one", gain, 1.4, at_most=False)


def _target_goals(results: Results) -> Iterator[Goal]:
    most = max(TARGETS)
    for placement in (SAME, OTHER_AWAKE):
        name = f"targets/{most}/{placement.name}/threads-1"
        ratio = results.ratio("targets", f"{name}/manager", f"{name}/floor")
        yield _goal(f"{most} targets, {placement.name}: manager / epoll loop", ratio, 1.15)


def _fairness_goals(results: Results) -> Iterator[Goal]:
    most = max(CROWDS)
    name = f"fairness/threads-{most}/shared"
    ratio = results.ratio("fairness", f"{name}/p99", f"fairness/threads-{most}/own/p99")
    yield _goal(f"p99 of faults beside a target of {most} threads: one handler / one each", ratio, 1.5)
    what = f"longest fault beside a target of {most} threads, one handler, ms"
    longest = results.values("fairness", f"{name}/longest")
    if longest is None:
        yield Goal(what, None, 50)
    else:
        yield Goal(what, float(longest.max()) * 1e3, 50, detail=f"median {np.median(longest) * 1e3:.2f} ms")


def _ending_goals(results: Results) -> Iterator[Goal]:
    for ending in ENDINGS:
        for regions in (count for count in REGIONS if count >= 1024):
            ratio = results.ratio(f"ending-{ending}", f"ending/{regions}", f"ending-floor/{regions}")
            yield _goal(f"{ending}, {regions} regions: manager / bare loop", ratio, 1.10)


def _memory_goal(results: Results) -> Goal:
    what = "RssAnon of the manager's process: growth / (2 bits a page + 16 MiB)"
    levels = [results.values("memory", f"rss-anon/{when}") for when in ("after-import", "serving", "full")]
    before, serving, full = levels
    benchmark = results.benchmark("memory", "rss-anon/full")
    if before is None or serving is None or full is None or benchmark is None:
        return Goal(what, None, 1.0)
    most = int(benchmark.get_metadata()["most_growth"])
    growth = max((serving - before).max(), (full - before).max())
    text = f"at most {growth / (1 << 20):.2f} MiB of {most / (1 << 20):.2f} MiB"
    return Goal(what, float(growth / most), 1.0, detail=text)


def _goal(what: str, ratio: Ratio | None, limit: float, *, at_most: bool = True) -> Goal:
    if ratio is None:
        return Goal(what, None, limit, at_most)
    return Goal(what, ratio.of_medians, limit, at_most, ratio.paired_text)
