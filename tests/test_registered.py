"""Memory that its owner registers only after it has handed its userfaultfd over, and memory outside all regions."""

import ctypes
import mmap
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.child import Child, hear, tell
from support.kinds import ANONYMOUS, HUGETLB, SHARED, Area, Kind, of_kinds
from support.memory import PAGE, Managed, random_bytes
from support.puppet import Puppet
from support.state import until

import pyuffd
from pyuffd import _exit, _workload, handoff

pytestmark = [pytest.mark.requires_full_userfaultfd, pytest.mark.requires_root]

Map = Callable[[Kind], Area]
LATER_KINDS = of_kinds([ANONYMOUS, SHARED, HUGETLB])


class _Later:
    """An area whose process has sent its userfaultfd, which it keeps, and has registered nothing yet."""

    def __init__(self, area: Area, source: pyuffd.Source | None = None, parts: int = 1, **options: Any) -> None:
        self.area = area
        part = area.length // parts
        self.parts = [(area.start + number * part, part, number * part, area.page) for number in range(parts)]
        self.got: handoff.Handoff = area.puppet.hand_over(
            self.parts, source or area.source, keep=True, register=False, **options
        )

    def serve(self, **options: Any) -> pyuffd.Target:
        return pyuffd.serve(self.got.uffd, self.got.regions, pid=self.got.pid, registered=False, **options)

    def register(self, part: int = 0) -> None:
        start, length, _, _ = self.parts[part]
        self.area.puppet.do("register", start, length, "missing")


def _assert_nothing_came(target: pyuffd.Target, pages: int) -> None:
    assert not target.wait(0.3, progress=False)
    assert target.missing_pages == pages
    stats = target.stats()
    assert (stats.pages, stats.failed, stats.poisoned) == (0, 0, 0)


@LATER_KINDS
def test_a_fill_waits_until_the_memory_is_registered(map_kind: Map, kind: Kind) -> None:
    later = _Later(map_kind(kind))
    target = later.serve()
    target.fill()
    _assert_nothing_came(target, kind.pages)
    later.register()
    _assert_nothing_came(target, kind.pages)  # nobody has said so
    target.registered()
    assert target.wait(20, progress=False)
    report = target.close()
    assert (report.missing_pages, report.absent_pages, report.poisoned) == (0, 0, ())
    assert report.verified is not False
    assert set(later.area.states()) == {"right"}


@LATER_KINDS
@pytest.mark.parametrize("asked", ["before", "after", "never"])
def test_touches_of_memory_that_was_registered_later(map_kind: Map, kind: Kind, asked: str) -> None:
    """Whether the touch comes before or after ``registered()``."""
    later = _Later(map_kind(kind))
    target = later.serve(fault_around=1)
    if asked == "before":
        target.fill()
    later.register()
    later.area.begin_touches()
    target.registered()
    if asked == "after":
        target.fill()
    later.area.end_touches()
    assert target.wait(20, progress=False)
    assert target.close().missing_pages == 0
    assert set(later.area.states()) == {"right"}


def test_a_late_source_for_memory_that_is_registered_later(map_kind: Map) -> None:
    area = map_kind(ANONYMOUS)
    asked: list[int] = []

    def read(offset: int, length: int) -> bytes:
        asked.append(offset)
        return area.data[offset : offset + length]

    later = _Later(area, pyuffd.CallableSource(read, area.length))
    target = later.serve()
    target.fill()
    _assert_nothing_came(target, area.pages)
    later.register()
    target.registered()
    assert target.wait(20, progress=False)
    assert target.close().missing_pages == 0
    assert asked
    assert set(area.states()) == {"right"}


def test_closing_before_the_memory_is_registered(map_kind: Map) -> None:
    later = _Later(map_kind(ANONYMOUS))
    target = later.serve()
    with pytest.raises(pyuffd.MissingPagesError):
        target.close()
    later.register()
    target.registered()
    target.close("fill")
    assert set(later.area.states()) == {"right"}


def test_closing_with_zeros_before_the_memory_is_registered(map_kind: Map) -> None:
    """Nothing was supplied, and the report says so."""
    later = _Later(map_kind(ANONYMOUS))
    target = later.serve()
    report = target.close("zero")
    assert report.missing_pages == later.area.pages
    assert report.absent_pages == 0


def test_a_target_that_dies_before_its_memory_is_registered_ends(map_kind: Map) -> None:
    later = _Later(map_kind(ANONYMOUS))
    target = later.serve()
    target.fill()
    later.area.puppet.kill()
    assert target.wait(20, progress=False)
    assert target.close().missing_pages == later.area.pages


def test_registered_is_called_once(map_kind: Map) -> None:
    later = _Later(map_kind(ANONYMOUS))
    with later.serve(fault_around=1) as target:
        later.register()
        target.registered()
        with pytest.raises(RuntimeError, match="registered"):
            target.registered()
        later.area.touch()
    assert set(later.area.states()) == {"right"}


def test_memory_that_was_registered_before_is_not_registered_later(map_kind: Map) -> None:
    area = map_kind(ANONYMOUS)
    with area.serve() as target:
        with pytest.raises(RuntimeError, match="registered"):
            target.registered()
        area.touch()
    with Managed(pages=2).serve() as own, pytest.raises(RuntimeError, match="registered"):
        own.registered()


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_region_that_is_not_registered_is_named(map_kind: Map, missing: int) -> None:
    """It may be registered yet, and told once more."""
    later = _Later(map_kind(ANONYMOUS), parts=3)
    target = later.serve()
    target.fill()
    for part in {0, 1, 2} - {missing}:
        later.register(part)
    with pytest.raises(ValueError) as refusal:
        target.registered()
    named = [f"{start:#x}-" in str(refusal.value) for start, _, _, _ in later.parts]
    assert named == [part == missing for part in range(3)]
    _assert_nothing_came(target, later.area.pages)
    later.register(missing)
    target.registered()
    assert target.wait(20, progress=False)
    assert target.close().missing_pages == 0
    assert set(later.area.states()) == {"right"}


def test_a_region_of_which_a_part_is_registered(map_kind: Map) -> None:
    later = _Later(map_kind(ANONYMOUS))
    target = later.serve()
    later.area.puppet.do("register", later.area.start, later.area.length // 2, "missing")
    with pytest.raises(ValueError, match=f"{later.area.start:#x}"):
        target.registered()
    later.register()
    target.registered()
    target.close("fill")
    assert set(later.area.states()) == {"right"}


def test_pages_that_were_written_before_they_were_registered_are_found(map_kind: Map) -> None:
    later = _Later(map_kind(ANONYMOUS))
    target = later.serve(present="keep")
    target.fill()
    for page in (0, 3):
        later.area.puppet.do("write", later.area.at(page), b"own".hex())
    later.register()
    target.registered()
    assert target.wait(20, progress=False)
    assert target.stats().found_present == 2
    assert target.close().found_present == 2
    states = later.area.states()
    assert states[:5] == ["wrong", "right", "right", "wrong", "right"]
    assert set(states[5:]) == {"right"}


@pytest.mark.parametrize("pid", [False, True])
def test_a_userfaultfd_of_this_process_registers_its_regions_itself(pid: bool) -> None:
    import os

    memory = Managed(pages=2)
    with pyuffd.Userfaultfd() as uffd:
        with pytest.raises(ValueError, match="registered"):
            pyuffd.serve(uffd, [memory.region()], registered=False, pid=os.getpid() if pid else None)
        assert not uffd.closed
        with pyuffd.serve(uffd, [memory.region()]):
            memory.touch()


class _Beyond:
    """An area of which the second half is registered, too, and told to nobody."""

    def __init__(self, area: Area) -> None:
        self.area = area
        self.half = area.pages // 2
        told = (area.start, self.half * area.page, 0, area.page)
        self.got: handoff.Handoff = area.puppet.hand_over([told], area.source, keep=True)
        area.puppet.do("register", area.at(self.half), area.length - told[1], "missing")

    def serve(self, regions: list[pyuffd.Region] | None = None, **options: Any) -> pyuffd.Target:
        regions = self.got.regions if regions is None else regions
        return pyuffd.serve(self.got.uffd, regions, pid=self.got.pid, **options)

    def readable(self, page: int) -> bool:
        """Whether the page is not poisoned."""
        return bool(self.area.puppet.do("readable", self.area.at(page)))


@LATER_KINDS
def test_memory_beyond_all_regions_reads_as_zeros(map_kind: Map, kind: Kind) -> None:
    area = map_kind(kind)
    beyond = _Beyond(area)
    with beyond.serve(beyond="zero", fault_around=1) as target:
        assert set(area.states(range(beyond.half, area.pages))) == {"zero"}
        assert set(area.states(range(beyond.half))) == {"right"}
        assert target.stats().poisoned == 0


@pytest.mark.requires_poison
@pytest.mark.parametrize("options", [{}, {"beyond": None}, {"beyond": "poison"}], ids=["default", "None", "poison"])
def test_memory_beyond_all_regions_is_poisoned(map_kind: Map, options: dict[str, Any]) -> None:
    area = map_kind(ANONYMOUS)
    beyond = _Beyond(area)
    with beyond.serve(fault_around=1, **options) as target:
        assert not beyond.readable(beyond.half)
        assert beyond.readable(0)
        until(lambda: target.stats().poisoned == 1)  # counted after the wake
        assert set(area.states(range(beyond.half))) == {"right"}


@of_kinds([ANONYMOUS, SHARED])
@pytest.mark.parametrize("ending", ["auto", "keep-open"])
def test_a_target_without_any_region(map_kind: Map, kind: Kind, ending: Any) -> None:
    """All that is registered is beyond."""
    area = map_kind(kind)
    beyond = _Beyond(area)
    target = beyond.serve([], beyond="zero", ending=ending)
    assert (target.pages, target.missing_pages) == (0, 0)
    assert set(area.states()) == {"zero"}
    report = target.close()
    assert (report.regions, report.missing_pages) == (0, 0)
    area.puppet.do("write", area.start, np.arange(8, dtype=np.uint8).tobytes().hex())
    assert area.puppet.do("read", area.start, 9) == bytes([0, 1, 2, 3, 4, 5, 6, 7, 0]).hex()


@pytest.mark.requires_poison
def test_a_target_without_any_region_that_is_poisoned(map_kind: Map) -> None:
    area = map_kind(ANONYMOUS)
    beyond = _Beyond(area)
    target = beyond.serve([], beyond="poison", ending="keep-open")
    assert not beyond.readable(0)
    assert not beyond.readable(area.pages - 1)
    area.puppet.kill()
    until(lambda: target.ended)


def test_another_word_for_what_lies_beyond() -> None:
    with pyuffd.Userfaultfd() as uffd:
        with pytest.raises(ValueError, match="beyond is 'source'"):
            pyuffd.serve(uffd, [Managed(pages=1).region()], beyond="source")  # type: ignore[arg-type]
        assert not uffd.closed


def test_no_region_of_this_process() -> None:
    with pyuffd.Userfaultfd() as uffd:
        with pytest.raises(ValueError, match="region"):
            pyuffd.serve(uffd, [])
        assert not uffd.closed


def test_registered_of_a_manager(map_kind: Map) -> None:
    """Its other targets are served meanwhile."""
    later = _Later(map_kind(ANONYMOUS))
    with pyuffd.Manager(handlers=1) as manager:
        got = later.got
        target = manager.add(got.uffd, got.regions, pid=got.pid, registered=False)
        target.fill()
        memory = Managed(pages=20)
        with manager.add(pyuffd.Userfaultfd(), [memory.region()]) as other:
            other.fill()
            assert other.wait(20, progress=False)
        assert target.missing_pages == later.area.pages
        later.register()
        target.registered()
    assert set(later.area.states()) == {"right"}
    assert later.area.length == later.area.pages * PAGE


def test_a_manager_closes_its_other_targets_where_one_cannot_be(map_kind: Map) -> None:
    later = _Later(map_kind(ANONYMOUS))
    other = Managed()
    manager = pyuffd.Manager(handlers=1)
    waits = manager.add(later.got.uffd, later.got.regions, pid=later.got.pid, registered=False)
    first = manager.add(pyuffd.Userfaultfd(), [other.region()])
    for _ in range(2):
        with pytest.raises(RuntimeError, match="call registered\\(\\) first"):
            manager.close()
        assert first.ended
        assert other.states() == ["right"] * other.pages
        assert not waits.ended
    later.register()
    waits.registered()
    manager.close()
    assert set(later.area.states()) == {"right"}


_MREMAP_MAYMOVE, _MREMAP_FIXED, _MREMAP_DONTUNMAP = 1, 2, 4
_MAP_FIXED_NOREPLACE = 0x100000


class Libc:
    """mmap(2) and the like, by addresses."""

    def __init__(self) -> None:
        self._libc = libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.mremap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 2, ctypes.c_int, ctypes.c_void_p]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def map(self, pages: int, where: int | None = None) -> int:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (0 if where is None else _MAP_FIXED_NOREPLACE)
        found = self._libc.mmap(where, pages * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        assert found != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
        return int(found)

    def unmap(self, address: int, pages: int) -> None:
        assert self._libc.munmap(address, pages * PAGE) == 0

    def move(self, address: int, pages: int, new_pages: int, flags: int, to: int | None = None) -> int:
        return int(self._libc.mremap(address, pages * PAGE, new_pages * PAGE, flags, to))


def register_later(fd: int, what: str, has_region: bool) -> None:
    """Hand memory over; then grow, move or leave it, or register more, and read there."""
    libc = Libc()
    signal.signal(signal.SIGBUS, signal.SIG_DFL)
    room = libc.map(64)
    libc.unmap(room, 64)
    managed = libc.map(4, room)
    uffd = pyuffd.Userfaultfd(pyuffd.Feature.EVENTS)
    with socket.socket(fileno=fd) as sock:
        handoff.send(sock, uffd, [(managed, 4 * PAGE, 0, PAGE)], keep=True, register=has_region)
    hear()
    if what == "grown":
        assert libc.move(managed, 4, 8, 0) == managed  # no event tells of that
        there = managed + 6 * PAGE
    elif what == "grown-and-moved":
        assert libc.move(managed, 4, 8, _MREMAP_MAYMOVE | _MREMAP_FIXED, room + 32 * PAGE) == room + 32 * PAGE
        there = room + 37 * PAGE
    elif what == "vacated":
        assert libc.move(managed, 4, 4, _MREMAP_MAYMOVE | _MREMAP_DONTUNMAP) != managed
        there = managed + PAGE
    else:
        more = libc.map(4, room + 16 * PAGE)
        uffd.register(more, 4 * PAGE)
        there = more + PAGE
    tell(ctypes.string_at(there, 1)[0])


@pytest.mark.parametrize(
    ("what", "regions", "beyond", "found"),
    [
        ("grown", 1, "poison", 0),
        ("grown-and-moved", 1, "poison", 0),
        ("vacated", 1, "poison", 0),
        ("registered", 1, "poison", None),
        ("registered", 1, "zero", 0),
        ("registered", 1, None, 0),  # no event tells it from memory that grew
        ("registered", 0, "poison", None),
        ("registered", 0, None, None),  # nothing can have grown
        ("registered", 0, "zero", 0),
    ],
)
def test_memory_that_is_registered_after_serving_began(what: str, regions: int, beyond: Any, found: int | None) -> None:
    """Poison is for what did not grow out of a region, whether events are told or not."""
    ours, theirs = socket.socketpair()
    with ours, Child(register_later, theirs.fileno(), what, bool(regions), sockets=[theirs]) as child:
        theirs.close()
        got = handoff.receive(ours, pyuffd.MemorySource(random_bytes(4 * PAGE)))
        with pyuffd.serve(got.uffd, got.regions if regions else [], pid=got.pid, beyond=beyond) as target:
            child.tell("go")
            if found is None:
                child.finish(expected=-signal.SIGBUS)
                until(lambda: target.stats().poisoned == 1)  # counted after the wake
            else:
                assert child.hear() == found
                child.finish()
            target.close("zero")


def test_a_fork_child_that_was_born_before_the_memory_counted_as_registered(puppet: Puppet) -> None:
    """It knows that with its parent: memory outside all regions reads as zeros in it, too, and its fill begins."""
    start = puppet.do("map", 8 * PAGE, "anonymous")
    source = pyuffd.MemorySource(random_bytes(4 * PAGE))
    got = puppet.hand_over([(start, 4 * PAGE, 0, PAGE)], source, pyuffd.Feature.EVENTS, keep=True, register=False)
    with pyuffd.serve(got.uffd, got.regions, pid=got.pid, registered=False, beyond="zero", fault_around=1) as target:
        puppet.do("register", start, 8 * PAGE, "missing")
        with puppet.fork() as child:
            until(lambda: target.children, "the fork child")
            (served,) = target.children
            served.fill()
            child.post("checksums", start + 4 * PAGE, PAGE, PAGE)
            target.registered()
            assert child.answer() == [int(_workload.checksums_of(bytes(PAGE), PAGE)[0])]
            assert served.wait(20, progress=False)
            target.close("zero")


def test_the_exit_fills_other_targets_where_one_cannot_be(map_kind: Map, capfd: pytest.CaptureFixture[str]) -> None:
    later = _Later(map_kind(ANONYMOUS))
    waits = later.serve()
    other = Managed()
    first = other.serve()
    _exit.fill_all()
    assert first.ended
    assert other.states() == ["right"] * other.pages
    assert "call registered() first" in capfd.readouterr().err
    waits.close("zero")
