"""How long does an ending take, against the number of regions?

Each region is a VMA of its own, of 4 resident pages: the manager has filled them. The floor is the bare loop of system
calls on a userfaultfd that was prepared in the same way. Run it once for each ending: the names are equal, so that
``pyperf compare_to unregister.json early-close.json`` works. Nothing is allocated in the timed part, so no memory is
warmed. The look at smaps after an ending, which is outside of its time, is left out: it would disturb the next round.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from _axes import ENDINGS, PAGE, REGIONS
from _case import Arm, Case, arm
from _harness import main
from _memory import Pattern
from _serving import registered
from _targets import Target, open_target

import pyuffd
from pyuffd import _workload
from pyuffd._manager import Ending
from pyuffd.handoff import Handoff

_REGION_BYTES = 4 * PAGE


def cases(options: argparse.Namespace) -> Sequence[Case]:
    """Regions in another process, and one case in this one."""
    points = [("across", regions) for regions in REGIONS] + [("in-process", 1024)]
    return [_case(options.ending, setup, regions) for setup, regions in points]


def _case(ending: Ending, setup: str, regions: int) -> Case:
    suffix = "" if setup == "across" else f"/{setup}"
    name, floor = f"ending/{regions}{suffix}", f"ending-floor/{regions}{suffix}"
    return Case(
        name,
        partial(_arms, ending, setup, regions, name, floor),
        metadata={"ending": ending, "setup": setup, "regions": regions, "vmas": regions, "placement": "free"},
        against={name: floor},
    )


@contextmanager
def _arms(ending: Ending, setup: str, regions: int, name: str, floor: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(regions * _REGION_BYTES)
    with open_target(setup) as target:
        yield [
            arm(floor, partial(_bare, target, regions, source, ending)),
            arm(name, partial(_managed, target, regions, source, ending)),
        ]


def _managed(target: Target, regions: int, source: Pattern, ending: Ending) -> float:
    handoff = _fresh(target, regions, source)
    with pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, ending=ending, verify=False) as served:
        report = served.close(missing="fill")
    if report.ending != ending or report.missing_pages or report.seconds is None:
        raise RuntimeError(f"asked for {ending}, but {report}")
    return report.seconds


def _bare(target: Target, regions: int, source: Pattern, ending: Ending) -> float:
    handoff = _fresh(target, regions, source)
    uffd = registered(handoff)
    for region in handoff.regions:
        uffd.copy(region.start, source.address + region.source_offset, region.length)
    fd = os.dup(uffd.fileno())
    uffd.close()
    if ending == "early-close":
        return _workload.close_fd(fd) * 1e-9
    return _workload.unregister_and_close(fd, [(region.start, region.length) for region in handoff.regions]) * 1e-9


def _fresh(target: Target, regions: int, source: Pattern) -> Handoff:
    target.map([_REGION_BYTES] * regions)
    return target.hand_over(source.source, [index * _REGION_BYTES for index in range(regions)])


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--ending", choices=ENDINGS, default="early-close", help="which one (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main(__doc__, cases, _options())
