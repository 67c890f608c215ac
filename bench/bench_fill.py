"""How fast does the background fill install memory, beside a bare UFFDIO_COPY loop and memcpy?

Seconds per page, nobody touching. The manager's time is from ``fill()`` to the beginning of the ending that follows the
last page. The fillers and the threads of the floor are held to the same CPUs; memcpy copies to resident memory.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from _axes import FILLERS, PAGE, SETUPS
from _case import Arm, Case, arm
from _harness import main
from _memory import Pattern
from _placement import FIRST, SECOND, Placement
from _serving import Serving
from _targets import open_target

import pyuffd
from pyuffd import _workload

_PAGES = 32768
# The first filler is not where the handler is, which sleeps.
_CPUS = (SECOND, FIRST)
_PLACEMENT = Placement("fill", (), _CPUS)


def cases(_options: argparse.Namespace) -> Sequence[Case]:
    """A fill of this process's memory, and of another's."""
    return [_case(setup) for setup in SETUPS]


def _case(setup: str) -> Case:
    name = f"fill/{setup}"
    return Case(
        name,
        partial(_arms, name, setup),
        metadata={"setup": setup, "pages": _PAGES, "placement": f"fillers in turn on CPU {SECOND} and {FIRST}"},
        against={f"{name}/manager-{fillers}": f"{name}/floor-{fillers}" for fillers in FILLERS},
    )


@contextmanager
def _arms(name: str, setup: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES * PAGE)
    resident = Pattern(_PAGES * PAGE)
    with open_target(setup) as target:
        serving = Serving(target, source, _PAGES, _PLACEMENT)
        arms = [arm(f"{name}/memcpy", partial(_memcpy, source, resident))]
        for fillers in FILLERS:
            arms.append(arm(f"{name}/floor-{fillers}", partial(serving.by_bulk_copy, fillers)))
            arms.append(arm(f"{name}/manager-{fillers}", partial(_manager, serving, fillers)))
        yield arms


def _memcpy(source: Pattern, resident: Pattern) -> float:
    return _workload.memcpy_floor(resident.address, source.address, _PAGES * PAGE) * 1e-9 / _PAGES


def _manager(serving: Serving, fillers: int) -> float:
    handoff = serving.fresh()
    cpus = (FIRST, *serving.placement.handler[:fillers])
    with pyuffd.serve(
        handoff.uffd, handoff.regions, pid=handoff.pid, ending="early-close", fillers=fillers, cpus=cpus, verify=False
    ) as served:
        began = time.monotonic()
        served.fill()
        served.wait(progress=False)
        report = served.close()
    if report.began is None:
        raise RuntimeError(f"the target was not let go: {report}")
    return (report.began - began) / _PAGES


if __name__ == "__main__":
    main(__doc__, cases)
