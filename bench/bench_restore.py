"""How soon is the memory of a real program back at native speed, beside a plain read of it?

The captured image (``capture.py``) is restored into another process, with the same number and sizes of VMAs, while two
threads there touch every page in random order and compare it with its checksum: a wrong page is a failure. The image is
in the page cache. Seconds from the hand-off until

* ``native``: every page is resident and the target is let go (``keep-open``: is complete); for ``read``, which is
  pread(2) into fresh memory of the same layout, until it returns;
* ``work``: the threads have touched and compared everything; under ``read`` they begin when it has returned, under
  ``mmap`` (of the file itself, without any userfaultfd: for information) at once.

``access-*`` are the latencies of the threads' accesses, each waiting for its own faults (a closed loop). Threads wait
for their first page from before the hand-off is served, which is in their max.

``alone`` asks the same where nobody works meanwhile, so that the manager and read(2) have as many CPUs: two, or one,
to which everything is held. One thread has touched a single page, the last of the image, before the hand-off is
served: ``first`` is when it goes on. What was restored is compared afterwards, outside the time.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _axes import FILLERS, PAGE
from _case import Arm, Case, Sample
from _harness import main
from _latency import quantiles
from _metadata import Metadata
from _placement import FIRST, OTHER, SECOND
from _target import Touched
from _targets import Target, open_target
from capture import Image, capture

import pyuffd
from pyuffd import _workload
from pyuffd._manager import Ending
from pyuffd.handoff import Handoff

_ENDINGS: tuple[Ending, ...] = ("early-close", "unregister", "keep-open")
_THREADS = 2
_ALONE = {"two-cpus": (FIRST, SECOND), "one-cpu": (FIRST,)}


def cases(options: argparse.Namespace) -> Sequence[Case]:
    """All endings with one filler and two, beside read and mmap, in one case: they are measured in turns; and alone."""
    image = Image.load(options.image)
    metadata: Metadata = {"vmas": len(image.areas), "image_bytes": image.total, "page_cache": "warm"}
    return [_working_case(image, metadata), *(_alone_case(image, place, metadata) for place in _ALONE)]


def _working_case(image: Image, metadata: Metadata) -> Case:
    ways = [f"{ending}/fillers-{fillers}" for ending in _ENDINGS for fillers in FILLERS]
    against = {f"restore/{way}/{what}": f"restore/read/{what}" for way in ways for what in ("native", "work")}
    return Case(
        "restore", partial(_working_arms, image), metadata | {"placement": "free"}, against=against, time_limit=600.0
    )


@contextmanager
def _working_arms(image: Image) -> Iterator[Sequence[Arm]]:
    with _restore_of(image) as restore:
        arms = [restore.by_read, restore.by_mmap]
        arms += [partial(restore.by_manager, ending, fillers) for ending in _ENDINGS for fillers in FILLERS]
        yield arms


def _alone_case(image: Image, place: str, metadata: Metadata) -> Case:
    name = f"alone/{place}"
    cpus = ", ".join(map(str, _ALONE[place]))
    return Case(
        name,
        partial(_alone_arms, image, place),
        metadata | {"placement": f"everything on CPU {cpus}"},
        against={f"{name}/fillers-{fillers}/native": f"{name}/read/native" for fillers in FILLERS},
        unavailable=OTHER.unavailable if len(_ALONE[place]) > 1 else "",
        time_limit=600.0,
    )


@contextmanager
def _alone_arms(image: Image, place: str) -> Iterator[Sequence[Arm]]:
    os.sched_setaffinity(0, _ALONE[place])  # this worker's, which its target and the manager's threads inherit
    with _restore_of(image) as restore:
        arms: list[Arm] = [partial(restore.alone_by_read, f"alone/{place}/read")]
        arms += [partial(restore.alone_by_manager, f"alone/{place}/fillers-{count}", count) for count in FILLERS]
        yield arms


@contextmanager
def _restore_of(image: Image) -> "Iterator[_Restore]":
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
        name = f"restore/{ending}/fillers-{fillers}"
        handoff = self._handed_over()
        self.target.start_touching(**self._work)
        began, native = _restored(handoff, ending, fillers)
        touched = self._verified(self.target.finish_touching())
        values = {f"{name}/native": native, f"{name}/work": _end_of(touched) - began}
        tails = quantiles(touched.histogram, touched.max_ns)
        return Sample(values | {f"{name}/access-{quantile}": seconds for quantile, seconds in tails.items()})

    def alone_by_manager(self, name: str, fillers: int) -> Sample:
        handoff = self._handed_over()
        start, length = self.target.ranges[-1]
        self.target.start_touching([(start + length - PAGE, PAGE)], timed=False)
        began, native = _restored(handoff, "early-close", fillers)
        first = self.target.finish_touching()
        self._verified(self.target.touch(**self._work))
        return Sample({f"{name}/native": native, f"{name}/first": first.ended - began})

    def alone_by_read(self, name: str) -> Sample:
        self._map_fresh()
        return Sample({f"{name}/native": self.target.read_file(str(self.image.path), self._offsets)})

    def by_read(self) -> Sample:
        self._map_fresh()
        seconds = self.target.read_file(str(self.image.path), self._offsets)
        touched = self._verified(self.target.touch(**self._work))
        return Sample({"restore/read/native": seconds, "restore/read/work": seconds + touched.seconds})

    def by_mmap(self) -> Sample:
        touched = self._verified(self.target.touch_file(str(self.image.path), **self._work))
        return Sample({"restore/mmap/work": touched.seconds})

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


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--image", type=Path, metavar="DIR", help="of capture.py --out (default: captures one now)")
    return parser


@contextmanager
def _image_at_hand() -> Iterator[None]:
    """Capture one and name it to this run and its workers, unless one is given."""
    if _options().parse_known_args()[0].image:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        capture(Path(folder))
        sys.argv += ["--image", folder]
        yield


if __name__ == "__main__":
    with _image_at_hand():
        main(__doc__, cases, _options())
