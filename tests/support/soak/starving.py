"""Parts of the soak in which something is short: descriptors, threads, memory that may be populated later."""

import contextlib
import ctypes
import dataclasses
import errno
import os
import random
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import pyuffd
from support.kinds import ANONYMOUS, SHARED, Area
from support.memory import PAGE, Managed, random_bytes
from support.puppet import Puppet
from support.soak.counting import ENDINGS, Counts, count_close, count_codes, count_stats, count_touches, leaks_counted
from support.soak.living import slice_of
from support.state import open_descriptors

_ENOUGH_THREADS = 500
_MCL_FUTURE, _MCL_ONFAULT = 2, 4
_SHORT_OF_THREADS, _SHORT_OF_DESCRIPTORS = (errno.EAGAIN,), (errno.EMFILE,)


@contextlib.contextmanager
def _limited(kind: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def _attempt(action: Callable[[], Any], short: tuple[int, ...]) -> Any:
    """What it gives, or None where that is refused because of what is short; any other error is a failure."""
    try:
        return action()
    except OSError as error:
        if error.errno not in short:
            raise
        return None


def descriptors(draw: random.Random) -> Counts:
    """A target forks and faults while its manager gets no descriptor: children are served or poisoned, never wrong."""
    counts = Counts()
    with Puppet.start() as first, first.fork() as second, leaks_counted(counts):
        _fork_at_the_limit(draw, counts, first, second)
    return counts


def _fork_at_the_limit(draw: random.Random, counts: Counts, first: Puppet, second: Puppet) -> None:
    kind = dataclasses.replace(draw.choice((ANONYMOUS, SHARED)), pages=draw.choice((8, 100, 3000)))
    with pyuffd.Manager(handlers=1) as manager:
        forking, beside = Area(first, kind), Area(second, ANONYMOUS)
        got = forking.hand_over(forking.source, features=pyuffd.Feature.EVENTS)
        target = manager.add(got.uffd, got.regions, pid=got.pid, fault_around=1, ending=draw.choice(ENDINGS))
        got = beside.hand_over(pyuffd.CallableSource(slice_of(beside.data), beside.length))
        other = manager.add(got.uffd, got.regions, pid=got.pid, fault_around=1)
        used = max(int(name) for name in open_descriptors()) + 1
        last = forking.pages - 1  # which nobody touches but the brood
        with _limited(resource.RLIMIT_NOFILE, used + draw.choice((0, 0, 1, 2, 5, 20))):
            forking.begin_touches(0, last, threads=draw.choice((1, 4, 16)))
            beside.begin_touches()
            forked = first.do("breed", draw.uniform(0.1, 1.0), draw.choice((1, 10, 40)))
            first.do("brood", draw.choice((1, 10, 50)), forking.at(last), forking.content(last)[:16].hex())
            counts["refused for descriptors"] += not _attempt(_serve_own, _SHORT_OF_DESCRIPTORS)
            codes = first.do("harvest") if draw.random() < 0.5 else None
        codes = codes or first.do("harvest")
        counts["forks at the limit"] += forked + len(codes)
        counts["poisoned children"] += codes.count(-signal.SIGBUS)
        count_codes(counts, [3 if code == 2 else code for code in codes if code != -signal.SIGBUS])
        count_touches(counts, forking)
        count_touches(counts, beside)
        count_close(counts, target)
        count_close(counts, other)


def _serve_own() -> bool:
    memory = Managed(pages=5)
    with memory.serve():
        memory.touch()
    return memory.states() == ["right"] * 5


@contextlib.contextmanager
def _another_user() -> Iterator[None]:
    """Be a user who has nothing but this process, and root again."""
    user = 100_000 + os.getpid()
    os.setresuid(user, user, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def _few_threads(more: int) -> contextlib.AbstractContextManager[None]:
    """So many threads may be started."""
    return _limited(resource.RLIMIT_NPROC, len(list(Path("/proc/self/task").iterdir())) + more)


def threads(draw: random.Random) -> Counts:
    """Managers and late sources, as another user, whose threads cannot be started are refused, and work later."""
    counts = Counts()
    inline = draw.random() < 0.5
    with Puppet.start() as puppet, tempfile.TemporaryDirectory() as folder:
        with _another_user():  # before the leaks: one manager of all lazy arrays stays
            with _few_threads(draw.randint(0, 3)):
                made = _attempt(lambda: _right_array(inline), _SHORT_OF_THREADS)
            counts["refused for threads"] += made is None
            counts["wrong pages"] += made is False
            counts["wrong pages"] += not _right_array(inline)
        with leaks_counted(counts):
            for _ in range(draw.choice((5, 20))):
                late = _late(draw, puppet, Path(folder))
                with _another_user():
                    _start(draw, counts)
                    late(counts)
                del late
    return counts


def _right_array(inline: bool) -> bool:
    data = random_bytes(7 * PAGE + 5)
    return pyuffd.lazy_array(pyuffd.MemorySource(data), "u1", len(data), inline=inline).tobytes() == data


def _start(draw: random.Random, counts: Counts) -> None:
    """A manager, and a target with one of its own."""
    memory = Managed(pages=10)
    uffd = pyuffd.Userfaultfd(user_mode_only=True)
    handlers, fillers = draw.randint(1, 3), draw.randint(1, 3)
    with _few_threads(draw.randint(0, 8)):
        manager = _attempt(lambda: pyuffd.Manager(handlers, fillers), _SHORT_OF_THREADS)
        target = _attempt(lambda: pyuffd.serve(uffd, [memory.region()], fillers=fillers), _SHORT_OF_THREADS)
        if manager is not None:
            manager.close()
        counts["refused for threads"] += (manager is None) + (target is None)
        if target is not None and draw.random() < 0.5:
            target.close("fill")
    if target is None:
        assert not uffd.closed
        target = pyuffd.serve(uffd, [memory.region()])
    memory.touch()
    count_close(counts, target)
    counts["wrong pages"] += sum(state != "right" for state in memory.states())


def _late(draw: random.Random, puppet: Puppet, folder: Path) -> Callable[[Counts], None]:
    """Memory whose source needs a thread; what is to be done with it as another user."""
    if draw.random() < 0.3:
        memory = Managed(pages=50)
        path = folder / f"image-{draw.randrange(1 << 60)}"
        path.write_bytes(memory.data)
        with contextlib.suppress(pyuffd.UnsupportedError):  # the file system does not do O_DIRECT
            region = memory.region(source=pyuffd.FileSource(path, direct=True))
            uffd = pyuffd.Userfaultfd(user_mode_only=True)
            more = draw.randint(0, 1)
            return lambda counts: _serve_late(counts, uffd, [region], None, more, memory.states)
    area = Area(puppet, ANONYMOUS)
    got = area.hand_over(pyuffd.CallableSource(slice_of(area.data), area.length))
    more = draw.randint(0, 1)
    return lambda counts: _serve_late(counts, got.uffd, got.regions, got.pid, more, area.states)


def _serve_late(
    counts: Counts,
    uffd: pyuffd.Userfaultfd,
    regions: list[pyuffd.Region],
    pid: int | None,
    more: int,
    states: Callable[[], list[str]],
) -> None:
    with pyuffd.Manager(handlers=1) as manager:
        with _few_threads(more):
            target = _attempt(lambda: manager.add(uffd, regions, pid=pid), _SHORT_OF_THREADS)
            if target is not None:  # it does without
                counts["wrong pages"] += sum(state != "right" for state in states())
        if target is None:
            counts["refused for threads"] += 1
            assert not uffd.closed
            target = manager.add(uffd, regions, pid=pid)
            counts["wrong pages"] += sum(state != "right" for state in states())
        count_close(counts, target)


def locked(draw: random.Random) -> Counts:
    """Lazy arrays and mappings that are served whole, of a process whose memory to come is locked."""
    counts = Counts()
    early = [_lazy(draw, number) for number in range(3)]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mlockall(_MCL_FUTURE | draw.choice((0, 0, _MCL_ONFAULT))) == 0, os.strerror(ctypes.get_errno())
    with leaks_counted(counts):
        for number in range(draw.choice((4, 12))):
            if draw.random() < 0.5:
                counts["wrong pages"] += _wrong_pages(*_lazy(draw, number))
            else:
                _serve_locked(draw, counts)
            counts["served locked"] += 1
    for array, data in early:
        counts["wrong pages"] += _wrong_pages(array, data)
    return counts


def _lazy(draw: random.Random, seed: int) -> tuple[Any, bytes]:
    """A lazy array of some size, and what it shall hold."""
    length = draw.choice((draw.randint(1, 5 * PAGE), draw.randint(1, 8 << 20), draw.randint(1, 4) << 21))
    data = random_bytes(length - draw.choice((0, 0, 1)) or 1, seed)
    return pyuffd.lazy_array(pyuffd.MemorySource(data), "u1", len(data), inline=draw.random() < 0.5), data


def _wrong_pages(array: Any, data: bytes) -> int:
    places = np.flatnonzero(array != np.frombuffer(data, np.uint8))
    return len(np.unique(places // PAGE))


def _serve_locked(draw: random.Random, counts: Counts) -> None:
    kind, shared = draw.choice((("anonymous", False), ("anonymous", True), ("memfd", True)))
    memory = Managed(pages=draw.choice((1, 30, 600, 2000)), kind=kind, shared=shared)  # type: ignore[arg-type]
    with memory.serve(ending=draw.choice(ENDINGS), fault_around=draw.choice((1, 16, "auto"))) as target:
        toucher = memory.toucher(threads=draw.choice((1, 4, 8)), order="random", partition="all")
        if draw.random() < 0.5:
            target.fill()
        counts["wrong pages"] += toucher.join().wrong_pages
    counts["wrong pages"] += sum(state != "right" for state in memory.states())
    count_stats(counts, target)
