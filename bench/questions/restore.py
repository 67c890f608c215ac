"""How soon is the memory of a real program back at native speed, beside a plain read of it?

The answer tells whether a lazy restore is worth its manager. The image of a real program (``harness/image``) is
restored into another process, with the same number and sizes of VMAs; it is in the page cache, and every arm reads that
one file. In ``at work`` two threads there touch every page in random order and compare it with its checksum: a wrong
page is a failure. Seconds from the hand-off until

* ``native``: every page is resident and the target is let go (``keep-open``: is complete); for ``read()``, which is
  pread(2) into fresh memory of the same layout, until it returns;
* ``work``: the threads have touched and compared everything; under ``read()`` they begin when it has returned, under
  ``mmap`` (of the file itself, without any userfaultfd) at once, or when MAP_POPULATE has mapped everything.

``access`` p50 to max are the latencies of the threads' accesses, each waiting for its own faults (a closed loop).
Threads wait for their first page from before the hand-off is served, which is in their max.

``alone`` asks the same where nobody works meanwhile, so that the manager and read() have as many CPUs: two, or one, to
which everything is held. One thread has touched a single page, the last of the image, before the hand-off is served:
``first access`` is when it goes on. What was restored is compared afterwards, outside the time.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyuffd
from pyuffd import Ending, _workload
from pyuffd.handoff import Handoff

from ..arms import filled_by, many, read_by
from ..harness.axes import FILLERS, PAGE
from ..harness.case import Arm, Case, Sample
from ..harness.image import Image, image_in
from ..harness.latency import quantiles
from ..harness.memory import lack_of
from ..harness.placement import FIRST, OTHER, SECOND, confined
from ..harness.target import Touched
from ..harness.targets import Target, open_target
from . import Context

_ENDINGS: tuple[Ending, ...] = ("early-close", "unregister", "keep-open")
_THREADS = 2
_ALONE = {"two CPUs": (FIRST, SECOND), "one CPU": (FIRST,)}
_TIME_LIMIT = 600.0
_BYTES = 2 << 30  # of memory: the image is some 450 MiB, in the page cache, and in the target


def cases(context: Context) -> Sequence[Case]:
    """While the target works, with one filler and with two; and where nobody does."""
    return [
        _working_case(context, max(FILLERS)),
        *(_alone_case(context, place) for place in _ALONE),
        _working_case(context, min(FILLERS)),
    ]


def _working_case(context: Context, fillers: int) -> Case:
    return Case(
        f"at work, {many(fillers, 'filler')}",
        partial(_working_arms, context, fillers),
        parameters={"page_cache": "warm", "fillers": fillers, "threads": _THREADS, "placement": "free"},
        pairs=[
            ("unregister", "early-close"),
            ("keep-open", "early-close"),
            *((ending, read_by(fillers)) for ending in _ENDINGS),
            ("early-close", "mmap"),
            ("early-close", "mmap, MAP_POPULATE"),
        ],
        control="early-close" if fillers == max(FILLERS) else "",
        headline=fillers == max(FILLERS),
        rounds=1 if fillers == max(FILLERS) else None,
        unavailable=lack_of(_BYTES),
        seconds=2.2,
        time_limit=_TIME_LIMIT,
    )


@contextmanager
def _working_arms(context: Context, fillers: int) -> Iterator[Sequence[Arm]]:
    with _restore_of(context) as restore:
        yield [
            *(Arm(ending, partial(restore.by_manager, ending, fillers)) for ending in _ENDINGS),
            Arm(read_by(fillers), partial(restore.by_read, fillers)),
            Arm("mmap", partial(restore.by_mmap, populate=False)),
            Arm("mmap, MAP_POPULATE", partial(restore.by_mmap, populate=True)),
        ]


def _alone_case(context: Context, place: str) -> Case:
    cpus = _ALONE[place]
    return Case(
        f"alone, {place}",
        partial(_alone_arms, context, place),
        parameters={
            "page_cache": "warm",
            "cpus": place,
            "placement": f"everything on CPU {', '.join(map(str, cpus))}",
        },
        pairs=[(filled_by(count), read_by(min(count, len(cpus)))) for count in FILLERS],
        headline=place == "two CPUs",
        rounds=1 if place == "two CPUs" else None,
        unavailable=lack_of(_BYTES) or (OTHER.unavailable if len(cpus) > 1 else ""),
        seconds=1.7,
        time_limit=_TIME_LIMIT,
    )


@contextmanager
def _alone_arms(context: Context, place: str) -> Iterator[Sequence[Arm]]:
    cpus = _ALONE[place]
    # The target and the manager's threads inherit it.
    with confined(cpus), _restore_of(context) as restore:
        yield [
            *(Arm(read_by(count), partial(restore.alone_by_read, count)) for count in FILLERS[: len(cpus)]),
            *(Arm(filled_by(count), partial(restore.alone_by_manager, count)) for count in FILLERS),
        ]


@contextmanager
def _restore_of(context: Context) -> "Iterator[_Restore]":
    image = image_in(context.folder)
    _read_once(image.path)
    with open_target("across") as target:
        yield _Restore(target, image)


def _read_once(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


@dataclass(frozen=True)
class _Restore:
    """The ways to bring the image into the target."""

    target: Target
    image: Image

    def by_manager(self, ending: Ending, fillers: int) -> Sample:
        handoff = self._handed_over()
        self.target.start_touching(**self._work)
        began, native = _restored(handoff, ending, fillers)
        touched = self._verified(self.target.finish_touching())
        values = {"native": native, "work": _end_of(touched) - began}
        tails = quantiles(touched.histogram, touched.max_ns)
        return Sample(values | {f"access {quantile}": seconds for quantile, seconds in tails.items()})

    def alone_by_manager(self, fillers: int) -> Sample:
        handoff = self._handed_over()
        start, length = self.target.ranges[-1]
        self.target.start_touching([(start + length - PAGE, PAGE)], timed=False)
        began, native = _restored(handoff, "early-close", fillers)
        first = self.target.finish_touching()
        self._verified(self.target.touch(**self._work))
        return Sample({"native": native, "first access": first.ended - began})

    def alone_by_read(self, threads: int) -> Sample:
        self._map_fresh()
        return Sample({"native": self.target.read_file(str(self.image.path), self._offsets, threads)})

    def by_read(self, threads: int) -> Sample:
        self._map_fresh()
        seconds = self.target.read_file(str(self.image.path), self._offsets, threads)
        touched = self._verified(self.target.touch(**self._work))
        return Sample({"native": seconds, "work": seconds + touched.seconds})

    def by_mmap(self, *, populate: bool) -> Sample:
        seconds, touched = self.target.touch_file(str(self.image.path), populate=populate, **self._work)
        self._verified(touched)
        return Sample({"work": seconds + touched.seconds})

    def _handed_over(self) -> Handoff:
        self._map_fresh()
        return self.target.hand_over(pyuffd.FileSource(self.image.path), self._offsets)

    def _map_fresh(self) -> None:
        self.target.map([area.length for area in self.image.areas])
        _workload.warm(self.image.total)

    @property
    def _offsets(self) -> list[int]:
        return [area.offset for area in self.image.areas]

    @property
    def _work(self) -> dict[str, Any]:
        return {"order": "random", "threads": _THREADS, "checksums": self.image.checksums, "timeline_bins": 0}

    def _verified(self, touched: Touched) -> Touched:
        if touched.wrong_pages:
            raise RuntimeError(f"{touched.wrong_pages} pages are not as they were captured")
        return touched


def _restored(handoff: Handoff, ending: Ending, fillers: int) -> tuple[float, float]:
    """Fill it and let it go; when that began (of ``time.monotonic()``), and the seconds until the target was let go."""
    began = time.monotonic()
    with pyuffd.serve(
        handoff.uffd, handoff.regions, pid=handoff.pid, ending=ending, fillers=fillers, verify=False
    ) as served:
        served.fill()
        served.wait(progress=False)
        complete = time.monotonic()
        report = served.close()
        if ending == "keep-open":
            served.stop().close()
    released = complete if report.began is None else report.began + (report.seconds or 0.0)
    return began, released - began


def _end_of(touched: Touched) -> float:
    return touched.origin_ns * 1e-9 + touched.seconds
