"""How long does an ending take, against the number of regions?

The answer tells how a manager of many regions is to let go: early, or after UNREGISTER. Each region is a VMA of its
own, of 4 pages, in another process. ``time`` is that of the ending: from the first UNREGISTER or close(2) to the return
of the last; ``keep-open`` has none. ``filled-and-over`` is what a user of the manager waits for: from ``fill()`` of
everything to the return of ``wait()``. ``bare`` arms are the loop of system calls alone, on a userfaultfd that was
prepared in the same way. Nothing is allocated in the timed part, so no memory is warmed; the look at smaps after an
ending, which is outside of its time, is left out, since it would disturb the next arm.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pyuffd
from pyuffd import Ending, _workload
from pyuffd.handoff import Handoff

from ..arms import bare, many
from ..harness.axes import ENDINGS, PAGE, REGIONS, Mode
from ..harness.case import Arm, Case, Sample
from ..harness.memory import Pattern, lack_of
from ..harness.serving import registered
from ..harness.targets import Target, open_target
from ..harness.watch import REGION_BYTES
from . import Context

_HEADLINE = (1, 64, 1024, 4096, 16384)
_IN_PROCESS = 1024
_CONTROL = 1024
_SPARE = 256 << 20  # of memory, for the processes themselves
_SECONDS_PER_REGION = 1.3e-4


def cases(_context: Context) -> Sequence[Case]:
    """Regions of another process, and one case in this one."""
    return [*(_case("across", regions) for regions in REGIONS), _case("in-process", _IN_PROCESS)]


def _case(setup: str, regions: int) -> Case:
    layout = Layout("missing", setup, regions)
    return Case(
        many(regions, "region") + ("" if setup == "across" else f", {setup}"),
        partial(_arms, layout),
        parameters=layout.parameters,
        pairs=PAIRS,
        control="early-close" if regions == _CONTROL and setup == "across" else "",
        headline=setup == "across" and regions in _HEADLINE,
        rounds=1 if regions > 4096 else 2 if regions > 1024 else None,
        unavailable=lack_of(4 * regions * REGION_BYTES + _SPARE),
        seconds=0.04 + regions * _SECONDS_PER_REGION,
    )


# The first one's time to the second one's.
PAIRS = (
    ("unregister", "early-close"),
    ("keep-open", "early-close"),
    (bare("unregister"), bare("early-close")),
    ("early-close", bare("early-close")),
    ("unregister", bare("unregister")),
)


@contextmanager
def _arms(layout: "Layout") -> Iterator[Sequence[Arm]]:
    source = Pattern(layout.regions * layout.length)
    with open_target(layout.setup) as target:
        yield arms_of(target, layout, source)


def arms_of(target: Target, layout: "Layout", source: Pattern) -> list[Arm]:
    """Both endings by the manager and by the bare loop, and no ending."""
    every: Sequence[Ending] = (*ENDINGS, "keep-open")
    managed = [Arm(ending, partial(_managed, target, layout, source, ending)) for ending in every]
    loops = [Arm(bare(ending), partial(_bare, target, layout, source, ending)) for ending in ENDINGS]
    return [*managed, *loops]


@dataclass(frozen=True)
class Layout:
    """What is let go, and how it was registered."""

    mode: Mode
    setup: str
    regions: int
    pages: int = REGION_BYTES // PAGE
    unrelated_vmas: int = 0

    @property
    def length(self) -> int:
        """Of a region, in bytes."""
        return self.pages * PAGE

    @property
    def parameters(self) -> dict[str, str | int | float]:
        """For the results."""
        return {
            "setup": self.setup,
            "regions": self.regions,
            "pages": self.pages,
            "mode": self.mode,
            "unrelated_vmas": self.unrelated_vmas,
            "placement": "free",
        }


def _managed(target: Target, layout: Layout, source: Pattern, ending: Ending) -> Sample:
    handoff = fresh(target, layout, source)
    with pyuffd.serve(
        handoff.uffd, handoff.regions, pid=handoff.pid, ending=ending, fault_around=1, verify=False
    ) as served:
        began = time.monotonic()
        served.fill()
        served.wait(progress=False)
        over = time.monotonic() - began
        report = served.close()
        if ending == "keep-open":
            served.stop().close()
    if report.ending != ending or report.missing_pages:
        raise RuntimeError(f"asked for {ending}, but {report}")
    return Sample({"time": report.seconds, "filled-and-over": over})


def _bare(target: Target, layout: Layout, source: Pattern, ending: Ending) -> float:
    handoff = fresh(target, layout, source)
    uffd = registered(handoff)
    fill(uffd, handoff.regions, source, layout.mode)
    return let_go(uffd, handoff.regions, ending)


def fresh(target: Target, layout: Layout, source: Pattern) -> Handoff:
    """Have all pages missing again."""
    target.map([layout.length] * layout.regions, layout.mode)
    offsets = [index * layout.length for index in range(layout.regions)]
    return target.hand_over(source.source, offsets, layout.mode)


def fill(uffd: pyuffd.Userfaultfd, regions: Sequence[pyuffd.Region], source: Pattern, mode: Mode = "missing") -> None:
    """Install everything."""
    for region in regions:
        if mode == "minor":
            uffd.continue_(region.start, region.length)
        else:
            origin = source.address + region.source_offset
            uffd.copy(region.start, origin, region.length, write_protect=mode == "wp")


def let_go(uffd: pyuffd.Userfaultfd, regions: Sequence[pyuffd.Region], ending: Ending) -> float:
    """By the bare loop; returns its seconds."""
    fd = os.dup(uffd.fileno())
    uffd.close()
    if ending == "early-close":
        return _workload.close_fd(fd) * 1e-9
    return _workload.unregister_and_close(fd, [(region.start, region.length) for region in regions]) * 1e-9
