"""Does the cost of a page grow with the memory, the regions, or the threads; and what would be taken instead?

Seconds per page. ``fault`` is that of single faults in random order, of a thread on the handler's CPU; ``fill`` that of
the background fill of everything, beside ``native``, the first touch of as much memory with nobody to serve it: a
virtual machine that has given memory back to its host waits for it in both. ``threads`` is with threads that are free,
by the naive loop (poll, read and COPY), placement auto and adopt: the time waited, and the CPU time that manager and
target burnt together. ``filling`` is the latency of faults alone, and beside a filler on the other CPU. ``instead`` is
a walk through a cached file's pages by each way that there is. ``random`` (a file of its own, in pages) is what learned
fault-around installs for each fault where one page in ten is touched, at random: 1 is the page itself.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
from _axes import LOOKED_UP, MANY_THREADS, MEMORY, PAGE
from _case import Arm, Case, Sample, arm
from _harness import main
from _latency import quantiles
from _memory import Pattern
from _placement import FIRST, FREE, OTHER, SAME, SECOND
from _serving import Serving
from _targets import ChildTarget, open_target

import pyuffd
from pyuffd import _workload
from pyuffd._manager import Placement

_MIB = 1 << 20
# So small that the source is in the cache whatever the size.
_REGION_BYTES = 16 * _MIB
_SAMPLE = 4096  # faults
_PAGES = 16384
_PAGES_OF_THREADS = 2048
_FAULT_NS = 1000  # accesses that took less met a page that was there


def cases(options: argparse.Namespace) -> Sequence[Case]:
    """Each axis varied alone; with ``--waste`` the pages of random touches, whose unit is not the second."""
    if options.waste:
        return [Case("random", _random_arms, {"setup": "across", **FREE.metadata}, unit="integer")]
    memory = [_size_case(f"memory-{size}", [_REGION_BYTES] * (size * _MIB // _REGION_BYTES), 2) for size in MEMORY]
    lookups = [_size_case(f"regions-{count}", [_PAGES // count * PAGE] * count) for count in LOOKED_UP]
    return [*memory, *lookups, *map(_threads_case, MANY_THREADS), _filling_case(), _instead_case()]


def _size_case(name: str, lengths: Sequence[int], rounds: int | None = None) -> Case:
    return Case(
        f"scale/{name}",
        partial(_size_arms, f"scale/{name}", lengths),
        metadata={"setup": "across", "regions": len(lengths), "bytes": sum(lengths), **SAME.metadata},
        against={f"scale/{name}/fill": f"scale/{name}/native"},
        rounds=rounds,
        unavailable=_lack_of(2 * sum(lengths) + (1 << 30)),
        time_limit=300.0,
    )


def _lack_of(length: int) -> str:
    free = os.sysconf("SC_AVPHYS_PAGES") * PAGE
    return "" if free >= length else f"needs {length // _MIB} MiB of free memory, and there are {free // _MIB} MiB"


@contextmanager
def _size_arms(name: str, lengths: Sequence[int]) -> Iterator[Sequence[Arm]]:
    source = Pattern(max(lengths))
    with open_target("across") as target:

        def measure() -> Sample:
            target.map(lengths)
            _workload.warm(sum(lengths))
            handoff = target.hand_over(source.source, [0] * len(lengths))
            with pyuffd.serve(
                handoff.uffd, handoff.regions, pid=handoff.pid, fault_around=1, cpus=SAME.handler, verify=False
            ) as served:
                part = [(start, length // 8 // PAGE * PAGE or PAGE) for start, length in target.ranges]
                chosen = part[:: max(1, len(part) // _SAMPLE)] if part[0][1] == PAGE else part
                pages = sum(length for _, length in chosen) // PAGE
                touched = target.touch(chosen, order="random", cpus=SAME.touchers, timed=False)
                missing = sum(lengths) // PAGE - served.stats().pages
                began = time.monotonic()
                served.fill()
                served.wait(progress=False)
                filled = time.monotonic() - began
            return Sample({f"{name}/fault": touched.seconds / pages, f"{name}/fill": filled / missing})

        def measure_natively() -> float:
            target.map(lengths)
            _workload.warm(sum(lengths))
            return target.touch_natively() / sum(lengths) * PAGE

        yield [measure, arm(f"{name}/native", measure_natively)]


def _threads_case(threads: int) -> Case:
    name = f"scale/threads-{threads}"
    return Case(
        name,
        partial(_threads_arms, name, threads),
        metadata={"setup": "across", "threads": threads, **FREE.metadata},
        unavailable=OTHER.unavailable,
    )


@contextmanager
def _threads_arms(name: str, threads: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES_OF_THREADS * PAGE)
    with open_target("across") as target:
        if not isinstance(target, ChildTarget):
            raise TypeError("the target is to be another process")
        serving = Serving(target, source, _PAGES_OF_THREADS, FREE, threads=threads)
        placements: Sequence[Placement] = ("auto", "adopt")
        arms = [partial(_with_cpu_time, f"{name}/naive", target.pid, serving.by_floor)]
        for placement in placements:
            measure = partial(serving.by_placed_manager, placement)
            arms.append(partial(_with_cpu_time, f"{name}/{placement}", target.pid, measure))
        yield arms


def _with_cpu_time(name: str, target: int, measure: Callable[[], float]) -> Sample:
    """The seconds per page, and the CPU time that this process and the target burnt for each, mapping included."""
    clock = (~target << 3) | 2  # of another process: clock_getcpuclockid(3)
    theirs, ours = time.clock_gettime(clock), time.process_time()
    seconds = measure()
    burnt = time.clock_gettime(clock) - theirs + time.process_time() - ours
    return Sample({f"{name}/waited": seconds, f"{name}/burnt": burnt / _PAGES_OF_THREADS})


def _filling_case() -> Case:
    return Case(
        "scale/filling",
        _filling_arms,
        metadata={"setup": "across", "placement": f"thread and handler on CPU {FIRST}, filler on CPU {SECOND}"},
        unavailable=OTHER.unavailable,
    )


@contextmanager
def _filling_arms() -> Iterator[Sequence[Arm]]:
    source = Pattern(4 * _PAGES * PAGE)
    with open_target("across") as target:

        def measure(name: str, *, beside: bool) -> Sample:
            serving = Serving(target, source, 4 * _PAGES, SAME)
            handoff = serving.fresh()
            with pyuffd.serve(
                handoff.uffd, handoff.regions, pid=handoff.pid, cpus=(FIRST, SECOND), verify=False
            ) as served:
                start = target.ranges[0][0]
                target.start_touching(
                    [(start, 4 * _PAGES * PAGE)], order="random", cpus=SAME.touchers, passes=1, timeline_bins=0
                )
                if beside:
                    served.fill()
                    served.wait(progress=False)
                touched = target.finish_touching(stop=beside)
            tails = quantiles(np.where(_workload.bucket_bounds() < _FAULT_NS, 0, touched.histogram), touched.max_ns)
            values = {f"{name}/fault-{quantile}": seconds for quantile, seconds in tails.items()}
            return Sample(values)

        def chunk() -> float:
            serving = Serving(target, source, 4 * _PAGES, SAME)
            handoff = serving.fresh()
            with pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, cpus=(FIRST, SECOND)) as served:
                served.fill()
                served.wait(progress=False)
                stats = served.stats()
            return stats.pages / stats.copies * serving.by_bulk_copy()

        yield [
            partial(measure, "scale/filling/alone", beside=False),
            partial(measure, "scale/filling/beside", beside=True),
            arm("scale/filling/chunk", chunk),
        ]


def _instead_case() -> Case:
    return Case(
        "scale/instead",
        _instead_arms,
        metadata={"setup": "across", "pages": _PAGES, "page_cache": "warm", **FREE.metadata},
    )


@contextmanager
def _instead_arms() -> Iterator[Sequence[Arm]]:
    length = _PAGES * PAGE
    pattern = Pattern(length)
    with open_target("across") as target, tempfile.NamedTemporaryFile() as file:
        file.write(bytes(pattern.source.read(0, length)))
        file.flush()
        serving = Serving(target, pattern, _PAGES, FREE, window="auto")

        def fresh(measure: Callable[[], float]) -> float:
            target.map([length])
            _workload.warm(length)
            return measure() / _PAGES

        def name(way: str) -> str:
            return f"scale/instead/{way}"

        def walk_of_file() -> float:
            return target.touch_file(file.name, timed=False).seconds

        ways: dict[str, Callable[[], float]] = {
            "native-first-touch": partial(fresh, target.touch_natively),
            "read": partial(fresh, lambda: target.read_file(file.name, [0])),
            "mmap": partial(fresh, walk_of_file),
            "mmap-populate": partial(fresh, lambda: target.populate_file(file.name, length)),
            "np-memmap": partial(fresh, lambda: target.sum_memmap(file.name, length)),
            "naive-loop": partial(Serving(target, pattern, _PAGES, FREE).by_floor),
            "pyuffd-walk": serving.by_manager,
            "pyuffd-walk-adopted": partial(serving.by_placed_manager, "adopt", "auto"),
        }
        yield [arm(name(way), measure) for way, measure in ways.items()]


@contextmanager
def _random_arms() -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES * PAGE)
    with open_target("across") as target:

        def measure() -> float:
            target.map([_PAGES * PAGE])
            handoff = target.hand_over(source.source, [0])
            target_of = pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, verify=False)
            start = target.ranges[0][0]
            # One page in ten: those of a random order's beginning are not at hand, but any tenth of the pages is.
            chosen = [(start + page * PAGE, PAGE) for page in _tenth()]
            with target_of as served:
                target.touch(chosen, order="random", timed=False)
                stats = served.stats()
            return stats.pages / stats.faults

        yield [arm("scale/random/installed-per-fault", measure)]


def _tenth() -> list[int]:
    """Random pages, a tenth of all, always the same."""
    return [int(page) for page in np.random.default_rng(1).choice(_PAGES, _PAGES // 10, replace=False)]


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--waste", action="store_true", help="the pages of random touches, in a file of their own")
    return parser


if __name__ == "__main__":
    main(__doc__, cases, _options())
