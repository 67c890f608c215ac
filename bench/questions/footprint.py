"""How much memory does the manager itself take?

The answer tells how many managers fit into a machine. Bytes of RssAnon of the manager's process: after import, while it
serves half-touched memory of another process, and when all is installed and it serves on. The source is a file, whose
pages are not anonymous.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyuffd

from ..harness.axes import PAGE
from ..harness.case import Arm, Case, Sample
from ..harness.memory import rss_anon
from ..harness.targets import Target, open_target
from . import Context

_REGION_BYTES = 64 << 20
_REGIONS = 16
_PAGES = _REGIONS * _REGION_BYTES // PAGE

# 2 bits a managed page, and 16 MiB.
_MOST_GROWTH = _PAGES * 2 // 8 + (16 << 20)


def cases(_context: Context) -> Sequence[Case]:
    """One target of 1 GiB."""
    return [
        Case(
            "1 GiB",
            _arms,
            parameters={"setup": "across", "regions": _REGIONS, "pages": _PAGES, "most_growth": _MOST_GROWTH},
            unit="byte",
            control="manager",
            rounds=1,
            warmups=0,
            seconds=2.0,
        )
    ]


@contextmanager
def _arms() -> Iterator[Sequence[Arm]]:
    with open_target("across") as target, tempfile.NamedTemporaryFile() as file:
        file.write(b"pyuffd\n\0" * (_REGION_BYTES // 8))
        file.flush()
        yield [Arm("manager", lambda: Sample(_serve(target, Path(file.name))))]


def _serve(target: Target, image: Path) -> dict[str, float | None]:
    after_import = rss_anon()
    target.map([_REGION_BYTES] * _REGIONS)
    # All regions have the same bytes.
    handoff = target.hand_over(pyuffd.FileSource(image), [0] * _REGIONS)
    with pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, ending="keep-open") as served:
        target.touch(target.ranges[: _REGIONS // 2], timed=False)
        serving = rss_anon()
        served.fill()
        served.wait(progress=False)
        full = rss_anon()
        served.stop()
    return {"after import": after_import, "serving": serving, "full": full}
