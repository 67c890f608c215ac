"""How fast does a file that is not in the page cache come into memory, beside what its device can do?

The answer tells whether to read a snapshot past the page cache. Seconds per page of 4 KiB. ``device`` reads the file
past the page cache by 2 MiB at a time, into memory that is there; ``read()`` reads it into fresh memory through the
page cache, which then holds it too. The manager fills fresh memory: through the page cache, or past it
(``FileSource(direct=True)``). In-process, it moves huge pages past the page cache; beside that stands a bare loop of
reads and UFFDIO_MOVE. Before each, the file is dropped from the page cache.
"""

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyuffd
from pyuffd import _workload

from ..arms import DEVICE, DIRECT, MAPPED, MOVE, READ
from ..harness.axes import PAGE, SETUPS
from ..harness.case import Arm, Case
from ..harness.memory import Pattern
from ..harness.targets import Target, open_target
from . import Context

_HUGE = 2 << 20
_BYTES = 256 << 20
_PAGES = _BYTES // PAGE


def cases(_context: Context) -> Sequence[Case]:
    """Of this process's memory, and of another's."""
    return [_case(setup) for setup in SETUPS]


def _case(setup: str) -> Case:
    return Case(
        setup,
        partial(_arms, setup),
        parameters={"setup": setup, "bytes": _BYTES, "page_cache": "cold", "placement": "free"},
        pairs=[
            *((way, DEVICE) for way in (READ, MAPPED, DIRECT)),
            *([(DIRECT, MOVE)] if setup == "in-process" else []),
        ],
        control=DEVICE if setup == "across" else "",
        unavailable=_lack(),
        seconds=3.0,
        time_limit=300.0,
    )


def _lack() -> str:
    with tempfile.NamedTemporaryFile(dir=".") as file:
        file.write(bytes(PAGE))
        file.flush()
        try:
            pyuffd.FileSource(file.name, direct=True)
        except pyuffd.UnsupportedError:
            return "needs a folder whose file system does O_DIRECT: change to one"
    return ""


@contextmanager
def _arms(setup: str) -> Iterator[Sequence[Arm]]:
    pattern = Pattern(_BYTES)
    with open_target(setup) as target, tempfile.NamedTemporaryFile(dir=".") as file:
        file.write(pattern.source.read(0, _BYTES))
        file.flush()
        os.fsync(file.fileno())
        path = Path(file.name)
        ways: dict[str, Callable[[], float]] = {
            DEVICE: partial(_read_past_cache, path),
            READ: partial(_read, target, path),
            MAPPED: partial(_fill, target, path, direct=False),
            DIRECT: partial(_fill, target, path, direct=True),
        }
        if setup == "in-process":
            ways[MOVE] = partial(_move, target, path)
        yield [Arm(way, partial(_cold, path, measure)) for way, measure in ways.items()]


def _cold(path: Path, measure: Callable[[], float]) -> float:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return measure() / _PAGES


def _read_past_cache(path: Path) -> float:
    buffer = mmap.mmap(-1, _HUGE)
    buffer[:] = bytes(_HUGE)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        began = time.monotonic()
        for offset in range(0, _BYTES, _HUGE):
            os.preadv(fd, [buffer], offset)
        return time.monotonic() - began
    finally:
        os.close(fd)


def _read(target: Target, path: Path) -> float:
    _map_fresh(target)
    return target.read_file(str(path), [0])


def _fill(target: Target, path: Path, *, direct: bool) -> float:
    _map_fresh(target)
    handoff = target.hand_over(pyuffd.FileSource(path, direct=direct), [0], features=int(pyuffd.Feature.MOVE))
    with pyuffd.serve(handoff.uffd, handoff.regions, pid=handoff.pid, ending="early-close", verify=False) as served:
        began = time.monotonic()
        served.fill()
        served.wait(progress=False)
        report = served.close()
    if report.poisoned or report.began is None:
        raise RuntimeError(f"the file did not come whole: {report}")
    return report.began - began


def _move(target: Target, path: Path) -> float:
    ((start, _),) = target.map([_BYTES + _HUGE])
    _workload.warm(_BYTES)
    aligned = (start + _HUGE - 1) // _HUGE * _HUGE
    with pyuffd.Userfaultfd(pyuffd.Feature.MOVE, user_mode_only=None) as uffd, path.open("rb") as file:
        uffd.register(aligned, _BYTES)
        flags = fcntl.fcntl(file.fileno(), fcntl.F_GETFL)
        fcntl.fcntl(file.fileno(), fcntl.F_SETFL, flags | os.O_DIRECT)
        return _workload.read_and_move(file.fileno(), uffd.fileno(), aligned, _BYTES) * 1e-9


def _map_fresh(target: Target) -> None:
    target.map([_BYTES])
    _workload.warm(_BYTES)
