"""What would be taken instead of a manager, and how fast is that?

The answer tells when not to use pyuffd: where mmap can serve a file. A walk through the pages of a file in the page
cache, of another process, by each way that there is: seconds per page. All read the same file.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from pyuffd import _workload

from ..arms import LOOP, NATIVE, WALK, read_by
from ..harness.axes import PAGE
from ..harness.case import Arm, Case
from ..harness.memory import Pattern
from ..harness.placement import FREE
from ..harness.serving import Serving
from ..harness.targets import open_target
from . import Context

_PAGES = 16384


def cases(_context: Context) -> Sequence[Case]:
    """All ways in one case."""
    return [
        Case(
            "a walk through a cached file",
            _arms,
            parameters={"setup": "across", "pages": _PAGES, "page_cache": "warm", **FREE.metadata},
            pairs=[(WALK, way) for way in (read_by(1), "mmap", "mmap, MAP_POPULATE", "np.memmap", LOOP)],
            control="mmap",
            seconds=1.5,
        )
    ]


@contextmanager
def _arms() -> Iterator[Sequence[Arm]]:
    length = _PAGES * PAGE
    pattern = Pattern(length)
    with open_target("across") as target, tempfile.NamedTemporaryFile() as file:
        file.write(bytes(pattern.source.read(0, length)))
        file.flush()
        learned = Serving(target, pattern, _PAGES, FREE, window="auto", file=file.name)
        single = Serving(target, pattern, _PAGES, FREE)

        def fresh(measure: Callable[[], float]) -> float:
            target.map([length])
            _workload.warm(length)
            return measure() / _PAGES

        def read() -> float:
            seconds = target.read_file(file.name, [0])
            return seconds + target.touch(timed=False).seconds

        def walk_of_file(*, populate: bool) -> float:
            seconds, touched = target.touch_file(file.name, populate=populate, timed=False)
            return seconds + touched.seconds

        ways: dict[str, Callable[[], float]] = {
            NATIVE: partial(fresh, target.touch_natively),
            read_by(1): partial(fresh, read),
            "mmap": partial(fresh, partial(walk_of_file, populate=False)),
            "mmap, MAP_POPULATE": partial(fresh, partial(walk_of_file, populate=True)),
            "np.memmap": partial(fresh, lambda: target.sum_memmap(file.name, length)),
            LOOP: single.by_floor,
            WALK: learned.by_manager,
            "pyuffd, learned walk, adopt": partial(learned.by_placed_manager, "adopt", "auto"),
        }
        yield [Arm(way, measure) for way, measure in ways.items()]
