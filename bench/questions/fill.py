"""How fast does the background fill install memory, beside a bare UFFDIO_COPY loop and memcpy?

The answer tells how soon a target is whole, and what a second filler is worth. Seconds per page, nobody touching. The
manager's time is from ``fill()`` to the beginning of the ending that follows the last page. The fillers and the threads
of the bare loop are held to the same CPUs; memcpy copies to resident memory.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pyuffd
from pyuffd import _workload

from ..arms import MEMCPY, bulk_copy, filler
from ..harness.axes import FILLERS, PAGE, SETUPS
from ..harness.case import Arm, Case
from ..harness.memory import Pattern, lack_of
from ..harness.placement import FIRST, SECOND, Placement
from ..harness.serving import Serving
from ..harness.targets import open_target
from . import Context

_PAGES = 32768
# The first filler is not where the handler is, which sleeps.
_CPUS = (SECOND, FIRST)
_PLACEMENT = Placement("fill", (), _CPUS)


def cases(_context: Context) -> Sequence[Case]:
    """A fill of this process's memory, and of another's."""
    return [_case(setup) for setup in SETUPS]


def _case(setup: str) -> Case:
    first, *_, most = FILLERS
    return Case(
        f"fill, {setup}",
        partial(_arms, setup),
        parameters={"setup": setup, "pages": _PAGES, "placement": f"fillers in turn on CPU {SECOND} and {FIRST}"},
        pairs=[
            *((filler(count), bulk_copy(count)) for count in FILLERS),
            (filler(most), MEMCPY),
            (filler(first), filler(most)),
        ],
        control=bulk_copy(first) if setup == "across" else "",
        headline=setup == "across",
        rounds=3,
        unavailable=lack_of(5 * _PAGES * PAGE),
        seconds=0.5,
    )


@contextmanager
def _arms(setup: str) -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES * PAGE)
    resident = Pattern(_PAGES * PAGE)
    with open_target(setup) as target:
        serving = Serving(target, source, _PAGES, _PLACEMENT)
        arms = [Arm(MEMCPY, partial(_memcpy, source, resident))]
        for fillers in FILLERS:
            arms.append(Arm(bulk_copy(fillers), partial(serving.by_bulk_copy, fillers)))
            arms.append(Arm(filler(fillers), partial(_manager, serving, fillers)))
        yield arms


def _memcpy(source: Pattern, resident: Pattern) -> float:
    return _workload.memcpy_floor(resident.address, source.address, _PAGES * PAGE) * 1e-9 / _PAGES


def _manager(serving: Serving, fillers: int) -> float:
    handoff = serving.fresh()
    cpus = (FIRST, *serving.placement.handler[:fillers])
    with pyuffd.serve(
        handoff.uffd,
        handoff.regions,
        pid=handoff.pid,
        ending="early-close",
        fillers=fillers,
        placement=cpus,
        verify=False,
    ) as served:
        began = time.monotonic()
        served.fill()
        served.wait(progress=False)
        report = served.close()
    if report.began is None:
        raise RuntimeError(f"the target was not let go: {report}")
    return (report.began - began) / _PAGES
