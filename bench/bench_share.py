"""What does it take to restore one image into 1, 8 or 64 targets: in time, and in memory?

Seconds per page and target, from the fill to the beginning of the last ending, of targets in another process. By
``manager`` they map a complete ``SharedImage`` privately, and get its pages by CONTINUE; ``arriving`` is the same where
the image is filled only meanwhile; ``floor-N`` is a bare loop of CONTINUE of N pages at a time; ``copy`` restores
private memory of as many targets by COPY, each with a copy of its own; ``mmap`` reads the pages of plain mappings of a
complete image. With ``--memory`` it measures bytes: what the targets have for themselves, and page tables, beyond the
image and the pages that each wrote.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from _axes import CONTINUE_CHUNKS, PAGE, TARGETS, Mode
from _case import Arm, Case, Sample, arm
from _harness import main
from _memory import Pattern
from _targets import ChildTarget, open_target

import pyuffd
from pyuffd import _workload

_BYTES = 64 << 20
_PAGES = _BYTES // PAGE
_PAGES_OF_COPIES = _PAGES // 16  # so that 64 copies are no more than 256 MiB
_WRITTEN = 256  # pages, by each target


def cases(options: argparse.Namespace) -> Sequence[Case]:
    """For each number of targets."""
    return [_memory_case(count) if options.memory else _case(count) for count in TARGETS]


def _case(count: int) -> Case:
    name = f"share/{count}"
    arms = ("manager", "arriving", "copy", "mmap", *(f"floor-{chunk}" for chunk in CONTINUE_CHUNKS[:-1]))
    return Case(
        name,
        partial(_arms, name, count),
        metadata={"setup": "across", "targets": count, "image_bytes": _BYTES, "placement": "free"},
        against={f"{name}/{arm}": f"{name}/floor-{CONTINUE_CHUNKS[-1]}" for arm in arms},
    )


@contextmanager
def _arms(name: str, count: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_BYTES)
    with open_target("across") as target:
        if not isinstance(target, ChildTarget):
            raise TypeError("the targets are to be in another process")
        image = _complete(source)
        restores = _Restores(target, source, count)
        arms = [
            arm(f"{name}/manager", partial(restores.by_manager, image)),
            arm(f"{name}/arriving", lambda: restores.by_manager(pyuffd.SharedImage(source.source))),
            arm(f"{name}/copy", restores.by_copy),
            arm(f"{name}/mmap", partial(restores.by_mmap, image)),
        ]
        for chunk in CONTINUE_CHUNKS:
            arms.append(arm(f"{name}/floor-{chunk}", partial(restores.by_floor, image, chunk)))
        yield arms


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
    name = f"share/{count}"
    return Case(
        name,
        partial(_memory_arms, name, count),
        metadata={"setup": "across", "targets": count, "image_bytes": _BYTES, "written_pages": _WRITTEN},
        unit="byte",
        rounds=1,
    )


@contextmanager
def _memory_arms(name: str, count: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(_BYTES)
    with open_target("across") as target:
        if not isinstance(target, ChildTarget):
            raise TypeError("the targets are to be in another process")
        image = _complete(source)
        restores = _Restores(target, source, count)

        def measure() -> Sample:
            restores.map(image)
            _, tables_before = target.memory()
            restores.fill(image, "shared")
            target.write_to_each(_WRITTEN)
            own, tables = target.memory()
            written = count * _WRITTEN * PAGE
            return Sample({f"{name}/own": own, f"{name}/beyond": own - written + tables - tables_before})

        yield [measure]


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--memory", action="store_true", help="bytes, in a file of their own")
    return parser


if __name__ == "__main__":
    main(__doc__, cases, _options())
