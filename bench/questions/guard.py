"""What does a guard cost, and how long does a target wait for the next manager?

The answer tells whether anybody has a reason to serve without a guard. ``guarded`` and ``unguarded`` differ in nothing
else: a fault on one CPU, seconds per page; the hand-off, seconds of ``serve()``; and the ending, seconds of a
``close()`` of which the ending itself takes ``ending``. The guard's process runs already; the first target of a process
starts it. In a take-over the manager, a process of its own, is killed, and this process takes its targets over:
``time`` is from its death until a page that is touched then is there, in the target that is served last. Half of the
memory is resident by then.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import pyuffd

from ..arms import GUARDED, TAKEN_OVER, UNGUARDED, many
from ..harness.axes import PAGE
from ..harness.case import Arm, Case, Sample
from ..harness.doomed import DoomedManager
from ..harness.memory import Pattern
from ..harness.placement import SAME
from ..harness.serving import Serving
from ..harness.target import Touched
from ..harness.targets import ChildTarget, Target, open_target
from . import Context

_PAGES = 8192
_MIB = 1 << 20
_TAKE_OVERS = {"1 GiB": (1, 1024 * _MIB), "64 targets of 16 MiB": (64, 16 * _MIB)}

Guard = Literal["poison"] | None
_ARMS: "tuple[tuple[str, Guard], ...]" = ((GUARDED, "poison"), (UNGUARDED, None))


def cases(_context: Context) -> Sequence[Case]:
    """What a guard costs where it holds a target, and the take-overs."""
    told = {"setup": "across"}
    pairs = [(GUARDED, UNGUARDED)]
    return [
        Case(
            "one fault, same-cpu",
            _fault_arms,
            parameters=told | SAME.metadata,
            pairs=pairs,
            control=UNGUARDED,
            seconds=0.5,
        ),
        *(
            Case(
                f"hand-off and ending, {many(regions, 'region')}",
                partial(_ending_arms, regions),
                parameters=told | {"regions": regions, "placement": "free"},
                pairs=pairs,
                control=UNGUARDED,
                seconds=0.1,
                settles=True,
            )
            for regions in (1, 1024)
        ),
        *(
            Case(
                f"take-over of {what}",
                partial(_take_over_arms, targets, length),
                parameters=told | {"targets": targets, "bytes": targets * length, "placement": "free"},
                rounds=2,
                seconds=2.5,
            )
            for what, (targets, length) in _TAKE_OVERS.items()
        ),
    ]


@contextmanager
def _fault_arms() -> Iterator[Sequence[Arm]]:
    source = Pattern(_PAGES * PAGE)
    with open_target("across") as target:
        yield [Arm(name, Serving(target, source, _PAGES, SAME, guard=guard).by_manager) for name, guard in _ARMS]


@contextmanager
def _ending_arms(regions: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(regions * PAGE)
    with open_target("across") as target:
        yield [Arm(name, partial(_hand_off_and_close, target, source, regions, guard)) for name, guard in _ARMS]


def _hand_off_and_close(target: Target, source: Pattern, regions: int, guard: Guard) -> Sample:
    target.map([PAGE] * regions)
    handoff = target.hand_over(source.source, [index * PAGE for index in range(regions)])
    began = time.monotonic()
    served = pyuffd.serve(
        handoff.uffd, handoff.regions, pid=handoff.pid, ending="early-close", verify=False, guard=guard
    )
    serves = time.monotonic()
    report = served.close(missing="zero")
    ended = time.monotonic()
    return Sample({"hand-off": serves - began, "close": ended - serves, "ending": report.seconds})


@contextmanager
def _take_over_arms(targets: int, length: int) -> Iterator[Sequence[Arm]]:
    source = Pattern(length)
    with open_target("across") as target, tempfile.TemporaryDirectory() as folder:
        if not isinstance(target, ChildTarget):
            raise TypeError("a take-over needs a target of its own process")
        file = Path(folder, "pages")
        source.write(file)
        yield [Arm(TAKEN_OVER, partial(_taken_over, target, file, targets, length))]


def _taken_over(target: ChildTarget, file: Path, targets: int, length: int) -> float:
    source = pyuffd.FileSource(file)
    target.map([length] * targets)
    with DoomedManager(str(file)) as doomed:
        for handoff in target.hand_over_each(source, "missing"):
            doomed.serve(handoff)
        target.touch([(start, length // 2) for start, _ in target.ranges], timed=False)
        killed = doomed.kill()
        target.start_touching([(start + length - PAGE, PAGE) for start, _ in target.ranges], timed=False)
        with pyuffd.take_over(doomed.pid, source, handlers=1) as manager:
            touched: Touched = target.finish_touching()
            if len(manager.targets) != targets:
                raise RuntimeError(f"{len(manager.targets)} of {targets} targets were taken over")
            for served in manager.targets:
                served.close(missing="zero")
    return touched.ended - killed
