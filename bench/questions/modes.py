"""How long does an ending take, against the resident pages of a region, by the mode in which it was registered?

The answer tells what write protection costs at the end: ``missing+wp``, where every page is write-protected, has
letting go walk them all; with ``minor`` they are mapped from the page cache. For more, see the question ``ending``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ..harness.axes import MODES, POPULATED, Mode
from ..harness.case import Arm, Case
from ..harness.memory import Pattern
from ..harness.targets import open_target
from . import Context
from .ending import PAIRS, Layout, arms_of

_REGIONS = (64, 1024)
_SECONDS_PER_PAGE = 2e-5


def cases(_context: Context) -> Sequence[Case]:
    """One region of many pages, and many regions of few, in each mode."""
    return [
        *(_case(Layout(mode, "across", 1, pages)) for mode in MODES for pages in POPULATED),
        *(_case(Layout(mode, "across", regions)) for mode in MODES if mode != "missing" for regions in _REGIONS),
    ]


_NAMES: dict[Mode, str] = {"missing": "missing", "wp": "missing+wp", "minor": "minor"}


def _case(layout: Layout) -> Case:
    return Case(
        f"{_NAMES[layout.mode]}, {layout.regions} x {layout.pages} pages",
        partial(_arms, layout),
        parameters=layout.parameters,
        pairs=PAIRS,
        control="early-close" if layout.mode == "missing" else "",
        seconds=0.05 + layout.regions * layout.pages * _SECONDS_PER_PAGE,
    )


@contextmanager
def _arms(layout: Layout) -> Iterator[Sequence[Arm]]:
    source = Pattern(layout.regions * layout.length)
    with open_target(layout.setup) as target:
        yield arms_of(target, layout, source)
