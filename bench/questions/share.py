"""What does it take to restore one image into 1, 8 or 64 targets: in time, and in memory?

The answer tells when to use a ``SharedImage``. Seconds per page and target, from the fill to the beginning of the last
ending, of targets in another process. ``SharedImage`` is complete, its targets map it privately, and get its pages by
CONTINUE; ``SharedImage, arriving`` is filled only meanwhile; ``CONTINUE of N`` is a bare loop, of N pages at a time;
``a copy each`` restores private memory of as many targets by COPY; ``plain mappings`` are read where the image is
complete. The cases of memory measure bytes: what the targets have for themselves (``own``), and what they take beyond
the image and the pages that each wrote, page tables included (``beyond``).
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import pyuffd
from pyuffd import _workload

from ..arms import ARRIVING, COPIES, IMAGE, MAPPINGS, by_continue, many
from ..harness.axes import CONTINUE_CHUNKS, PAGE, TARGETS, Mode
from ..harness.case import Arm, Case, Sample
from ..harness.memory import Pattern
from ..harness.targets import ChildTarget, open_target
from . import Context

_BYTES = 64 << 20
_PAGES = _BYTES // PAGE
_PAGES_OF_COPIES = _PAGES // 16  # so that 64 copies are no more than 256 MiB
_WRITTEN = 256  # pages, by each target


def cases(_context: Context) -> Sequence[Case]:
    """For each number of targets, their time and their memory."""
    return [*map(_case, TARGETS), *map(_memory_case, TARGETS)]


def _case(count: int) -> Case:
    return Case(
        many(count, "target"),
        partial(_arms, count),
        parameters={"setup": "across", "targets": count, "image_bytes": _BYTES, "placement": "free"},
        pairs=[
            *((IMAGE, by_continue(chunk)) for chunk in CONTINUE_CHUNKS),
            (COPIES, IMAGE),
            (ARRIVING, IMAGE),
            (MAPPINGS, IMAGE),
        ],
        control=IMAGE if count == min(TARGETS) else "",
        seconds=0.5 + count * 0.06,
    )


@contextmanager
def _arms(count: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_BYTES)
    with open_target("across") as target:
        image = _complete(source)
        restores = _Restores(_child(target), source, count)
        yield [
            Arm(IMAGE, partial(restores.by_manager, image)),
            Arm(ARRIVING, lambda: restores.by_manager(pyuffd.SharedImage(source.source))),
            Arm(COPIES, restores.by_copy),
            Arm(MAPPINGS, partial(restores.by_mmap, image)),
            *(Arm(by_continue(chunk), partial(restores.by_floor, image, chunk)) for chunk in CONTINUE_CHUNKS),
        ]


def _child(target: object) -> ChildTarget:
    if not isinstance(target, ChildTarget):
        raise TypeError("the targets are to be in another process")
    return target


def _complete(source: Pattern) -> pyuffd.SharedImage:
    image = pyuffd.SharedImage(source.source)
    image.fill()
    image.wait(progress=False)
    return image


class _Restores:
    """The ways to restore the targets; each gives the seconds per page and target."""

    def __init__(self, target: ChildTarget, source: Pattern, count: int) -> None:
        self._target = target
        self._source = source
        self._count = count

    def by_manager(self, image: pyuffd.SharedImage) -> float:
        self.map(image)
        return self.fill(image, "shared") / self._count / _PAGES

    def by_copy(self) -> float:
        """Fewer pages: they are not shared."""
        length = _PAGES_OF_COPIES * PAGE
        self._target.map([length] * self._count)
        _workload.warm(length * self._count)
        return self.fill(self._source.source, "missing") / self._count / _PAGES_OF_COPIES

    def by_floor(self, image: pyuffd.SharedImage, chunk: int) -> float:
        self.map(image)
        nanoseconds = 0
        for handoff in self._target.hand_over_each(image, "shared"):
            (region,) = handoff.regions
            uffd = handoff.uffd.fileno()
            nanoseconds += _workload.bulk_continue(uffd, region.start, region.length, chunk=chunk * PAGE)
            handoff.uffd.close()
        return nanoseconds * 1e-9 / self._count / _PAGES

    def by_mmap(self, image: pyuffd.SharedImage) -> float:
        self.map(image)
        return self._target.touch(timed=False).seconds / self._count / _PAGES

    def map(self, image: pyuffd.SharedImage) -> None:
        self._target.map_file(f"/proc/{os.getpid()}/fd/{image.fileno()}", _BYTES, self._count)

    def fill(self, source: pyuffd.Source, mode: Mode) -> float:
        handoffs = self._target.hand_over_each(source, mode)
        with ExitStack() as stack:
            manager = stack.enter_context(pyuffd.Manager(handlers=1))
            served = [
                manager.add(handoff.uffd, handoff.regions, pid=handoff.pid, ending="early-close", verify=False)
                for handoff in handoffs
            ]
            began = time.monotonic()
            for target in served:
                target.fill()
            for target in served:
                target.wait(progress=False)
            return max(target.close().began or 0.0 for target in served) - began


def _memory_case(count: int) -> Case:
    return Case(
        f"memory of {many(count, 'target')}",
        partial(_memory_arms, count),
        parameters={"setup": "across", "targets": count, "image_bytes": _BYTES, "written_pages": _WRITTEN},
        unit="byte",
        rounds=1,
        warmups=0,
        seconds=0.3,
    )


@contextmanager
def _memory_arms(count: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_BYTES)
    with open_target("across") as target:
        child = _child(target)
        image = _complete(source)
        restores = _Restores(child, source, count)

        def measure() -> Sample:
            restores.map(image)
            _, tables_before = child.memory()
            restores.fill(image, "shared")
            child.write_to_each(_WRITTEN)
            own, tables = child.memory()
            written = count * _WRITTEN * PAGE
            return Sample({"own": own, "beyond": own - written + tables - tables_before})

        yield [Arm(IMAGE, measure)]
