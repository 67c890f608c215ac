"""How fast does ``pyuffd serve criu`` bring a restored task's memory in, beside the loop that lazy restores have?

The answer tells whether anybody has a reason to put it in the place of ``criu lazy-pages``. In ``restore`` one thread
of the task touches all its memory in random order from the restore's marker on, compares every page with its checksum,
and the daemon fills beside it. ``criu lazy-pages`` is that of the criu on PATH, if it works on this kernel. The loop
is the shortest one of that kind (``workload/lazy_floor``): one page for a fault, and chunks of 64 KiB while no fault
waits. Seconds from the marker until

* ``time``: the last page is in. CRIU's daemon does not tell when that is; its end is taken;
* ``exit``: the daemon has ended;
* ``work``: all accesses are done.

``worst`` is the longest of the accesses, and ``first`` the one before them, of a page that is touched at once after the
marker.

``ending`` is how long letting go of the task takes. ``parse and add`` is from the images to the served task, seconds
for each task. ``page server`` fills memory over one connection on this host from ``pyuffd serve criu-pages``; the copy
beside it is sendfile(2) into a connection from which another process reads into one buffer.
"""

import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pyuffd
from pyuffd import _workload

from ..arms import COPY_OVER_SOCKET, CRIU_LAZY_PAGES, LAZY_LOOP, SERVE_CRIU, many
from ..harness.axes import PAGE
from ..harness.case import Arm, Case, Sample
from ..harness.lazy_daemon import CriuLazyPages, PagesDaemon, ServeCriu, working_criu
from ..harness.memory import Pattern, Range, lack_of
from ..harness.target import Touched
from ..harness.targets import ChildTarget, open_target
from . import Context

_MIB = 1 << 20
_GIB = 1 << 30
_CHUNK = 64 << 10
_PID = 7
_REMOTE = 256 * _MIB
_READ = 1 * _MIB


def cases(_context: Context) -> Sequence[Case]:
    """Restores of one region and of many, the books of tasks, and pages of a page server."""
    unavailable = "" if pyuffd.probe().full else "needs a userfaultfd with events of another process (root)"
    told = {"setup": "across", "placement": "free", "page_cache": "warm"}
    criu = working_criu()
    return [
        *(
            Case(
                f"restore of 1 GiB, {many(regions, 'region')}",
                partial(_restore_arms, regions),
                parameters=told | {"regions": regions, "bytes": _GIB, "criu": criu or "none that works"},
                pairs=[(LAZY_LOOP, SERVE_CRIU), *([(CRIU_LAZY_PAGES, SERVE_CRIU)] if criu else [])],
                control=SERVE_CRIU if regions == 1 else "",
                rounds=2,
                seconds=9.0 if criu else 3.0,
                unavailable=unavailable or lack_of(3 * _GIB),
                time_limit=300.0,
            )
            for regions in (1, 100)
        ),
        *(
            Case(
                f"parse and add, {many(tasks, 'task')} of {many(regions, 'region')}",
                partial(_add_arms, tasks, regions),
                parameters=told | {"tasks": tasks, "regions": regions},
                seconds=2.0 if tasks > 1 else 0.1,
                rounds=1 if tasks > 1 else 3,
                warmups=0 if tasks > 1 else 1,
                unavailable=unavailable,
            )
            for tasks, regions in ((1, 3000), (1000, 3))
        ),
        Case(
            "page server, fill",
            _remote_arms,
            parameters=told | {"bytes": _REMOTE},
            pairs=[(SERVE_CRIU, COPY_OVER_SOCKET)],
            rounds=2,
            seconds=2.0,
            unavailable=unavailable or lack_of(2 * _REMOTE),
        ),
    ]


@contextmanager
def _restore_arms(regions: int) -> Iterator[Sequence[Arm]]:
    with _checkpoint(_GIB) as (target, folder, source):
        lengths = [_GIB // regions // PAGE * PAGE] * regions
        ways = {SERVE_CRIU: _by_pyuffd, LAZY_LOOP: _by_loop} | ({CRIU_LAZY_PAGES: _by_criu} if working_criu() else {})
        yield [Arm(name, partial(measure, target, folder, source, lengths)) for name, measure in ways.items()]


@contextmanager
def _checkpoint(length: int) -> Iterator[tuple[ChildTarget, Path, Pattern]]:
    """A process to restore into, and a folder with the pages of one task."""
    source = Pattern(length)
    with ExitStack() as held:
        target = held.enter_context(open_target("across"))
        if not isinstance(target, ChildTarget):
            raise TypeError("a restored task is a process of its own")
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        source.write(folder / "pages-1.img")
        yield target, folder, source


def _by_pyuffd(target: ChildTarget, folder: Path, source: Pattern, lengths: Sequence[int]) -> Sample:
    _prepare(target, source, lengths)
    _write_images(folder, target)
    with ServeCriu(folder) as daemon:
        offset = time.time() - time.monotonic()
        began, first, every = target.restore_and_touch(str(daemon.socket), _PID)
        exit_time = daemon.wait()
        ended = daemon.first_end()
    values = {
        "time": ended["time"] - offset - began,
        "exit": exit_time - began,
        "ending": ended["ending"]["seconds"],
    }
    return Sample(values | _seen(first, every, began))


def _by_criu(target: ChildTarget, folder: Path, source: Pattern, lengths: Sequence[int]) -> Sample:
    _prepare(target, source, lengths)
    _write_images(folder, target)
    with CriuLazyPages(folder) as daemon:
        began, first, every = target.restore_and_touch(str(daemon.socket), _PID)
        seconds = daemon.wait() - began
    return Sample({"time": seconds, "exit": seconds} | _seen(first, every, began))


def _write_images(folder: Path, target: ChildTarget) -> None:
    # Imported here: it needs protobuf.
    from ..harness.checkpoint import CheckpointTask, write_images

    write_images(folder, [CheckpointTask(_PID, sorted(target.ranges))])


def _by_loop(target: ChildTarget, folder: Path, source: Pattern, lengths: Sequence[int]) -> Sample:
    _prepare(target, source, lengths)
    offsets = [sum(lengths[:number]) for number in range(len(lengths))]
    handoff = target.hand_over(source.source, offsets)
    ranges = sorted(target.ranges)
    with (folder / "pages-1.img").open("rb") as file:
        began = time.monotonic()
        target.start_prepared_touches()
        seconds = _workload.lazy_floor(handoff.uffd.fileno(), file.fileno(), ranges, chunk=_CHUNK) * 1e-9
    handoff.uffd.close()
    return Sample({"time": seconds} | _seen(*target.finish_prepared_touches(), began))


def _prepare(target: ChildTarget, source: Pattern, lengths: Sequence[int]) -> None:
    target.map(lengths)
    checksums = _workload.checksums(source.address, sum(lengths), PAGE)
    target.prepare_touching(order="random", checksums=checksums, timeline_bins=0)
    _workload.warm(sum(lengths))


def _seen(first: Touched, every: Touched, began: float) -> dict[str, float]:
    if every.wrong_pages:
        raise RuntimeError(f"{every.wrong_pages} pages are wrong")
    return {"first": first.max_ns * 1e-9, "worst": every.max_ns * 1e-9, "work": every.ended - began}


@contextmanager
def _add_arms(tasks: int, regions: int) -> Iterator[Sequence[Arm]]:
    from ..harness.checkpoint import CheckpointTask, write_images

    ranges = [((1 << 40) + number * 4 * PAGE, 2 * PAGE) for number in range(regions)]
    with tempfile.TemporaryDirectory() as name, open_target("across") as target:
        if not isinstance(target, ChildTarget):
            raise TypeError("a restored task is a process of its own")
        folder = Path(name)
        write_images(folder, [CheckpointTask(_PID + number, ranges) for number in range(tasks)])
        for number in range(1, tasks + 1):
            (folder / f"pages-{number}.img").write_bytes(bytes(regions * 2 * PAGE))
        yield [Arm(SERVE_CRIU, partial(_parse_and_add, folder, target.pid))]


def _parse_and_add(folder: Path, pid: int) -> float:
    from pyuffd.criu import Images
    from pyuffd.daemon.criu.memory import regions_of
    from pyuffd.daemon.limits import allow_many_descriptors

    allow_many_descriptors()
    began = time.monotonic()
    images = Images(folder)
    parsed = time.monotonic() - began
    held = [pyuffd.Userfaultfd(pyuffd.Feature.EVENTS) for _ in images.tasks]
    uffds = [pyuffd.Userfaultfd.adopt(os.dup(uffd.fileno())) for uffd in held]
    manager = pyuffd.Manager()
    began = time.monotonic()
    targets = [
        manager.add(uffd, regions_of(task, None), pid=pid, registered=False, beyond="zero")
        for uffd, task in zip(uffds, images.tasks.values(), strict=True)
    ]
    added = time.monotonic() - began
    for target in targets:
        target.close(missing="zero")
    manager.close()
    for uffd in held:
        uffd.close()
    return (parsed + added) / len(targets)


@contextmanager
def _remote_arms() -> Iterator[Sequence[Arm]]:
    from ..harness.checkpoint import CheckpointTask, write_images

    with _checkpoint(_REMOTE) as (target, folder, _):
        target.map([_REMOTE])
        ranges = target.ranges
        write_images(folder, [CheckpointTask(_PID, ranges)])
        with PagesDaemon(folder) as pages:
            yield [
                Arm(SERVE_CRIU, partial(_filled_remotely, target, folder / "thin", pages.port)),
                Arm(COPY_OVER_SOCKET, partial(_copied_remotely, ranges, pages.port)),
            ]


def _filled_remotely(target: ChildTarget, folder: Path, port: int) -> float:
    from pyuffd.criu.schema import PE_LAZY

    from ..harness.checkpoint import CheckpointTask, write_images

    ranges = target.ranges
    target.renew()
    write_images(folder, [CheckpointTask(_PID, ranges, PE_LAZY)])
    _workload.warm(_REMOTE)
    with ServeCriu(folder, "--page-server", "--address", "127.0.0.1", "--port", str(port)) as daemon:
        offset = time.time() - time.monotonic()
        began = target.restore_lazily(str(daemon.socket), _PID)
        daemon.wait()
        ended: float = daemon.first_end()["time"]
    return ended - offset - began


def _copied_remotely(ranges: Sequence[Range], port: int) -> float:
    from pyuffd.daemon.pages.wire import GET, WIDE, Message

    buffer = bytearray(_READ)
    ((start, length),) = ranges
    with socket.create_connection(("127.0.0.1", port)) as sock:
        began = time.monotonic()
        sock.sendall(WIDE.pack(Message(GET, length // PAGE, start, _PID)))
        left = WIDE.size + length
        while left > 0:
            got = sock.recv_into(buffer, min(left, _READ))
            if got == 0:
                raise ConnectionError("the page server closed the connection")
            left -= got
        return time.monotonic() - began
