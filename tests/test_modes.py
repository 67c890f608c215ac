"""Modes of faults on every kind of memory that has them: minor faults and the noting of writes; the raw calls too."""

import errno
import mmap
import select
import signal
from collections.abc import Callable
from typing import Any

import pytest
from support.kinds import HUGETLB_MEMFD, KINDS, MEMFD, MEMFD_PRIVATE, SHARED, Area, Kind, of_kinds
from support.memory import Managed
from support.puppet import GoneError, Puppet
from support.state import until

import pyuffd

pytestmark = pytest.mark.requires_full_userfaultfd

CACHED = (MEMFD, MEMFD_PRIVATE, HUGETLB_MEMFD)
Map = Callable[[Kind], Area]


def _write_cache(area: Area, step: int = 1) -> list[int]:
    """Have every so many pages in the page cache; which."""
    pages = list(range(0, area.pages, step))
    for page in pages:
        area.write_cache(page)
    return pages


@of_kinds(CACHED)
@pytest.mark.parametrize("by", ["reads", "writes", "fill", "both"])
def test_minor_faults_take_what_is_in_the_page_cache(map_kind: Map, kind: Kind, by: str) -> None:
    area = map_kind(kind)
    _write_cache(area)
    target = area.serve(mode="minor")
    if by != "fill":
        area.begin_touches(write=by == "writes")
    if by in ("fill", "both"):
        target.fill()
    if by != "fill":
        area.end_touches()
    assert target.wait(20, progress=False)
    report, stats = target.close(), target.stats()
    assert (report.verified, report.poisoned) == (True, ())
    assert set(area.states()) == {"right"}
    assert (stats.copies, stats.zeropages) == (0, 0)
    assert stats.continues > 0
    # Not equal: the second of two messages for one page may come when it is installed, and is not counted.
    assert stats.minor_faults == stats.faults
    assert by == "both" or (stats.minor_faults > 0) is (by != "fill")


def test_shared_anonymous_memory_that_another_process_wrote(map_kind: Map) -> None:
    area = map_kind(SHARED)
    with area.puppet.fork() as writer:
        writer.do("write", area.start, area.data.hex())
        target = area.serve(mode="minor")
        area.touch()
        assert target.wait(20, progress=False)
    assert target.stats().minor_faults > 0
    assert target.close().verified is True
    assert set(area.states()) == {"right"}


@of_kinds(CACHED)
@pytest.mark.parametrize("by", ["reads", "fault-around", "fill"])
def test_a_hole_comes_from_the_source(map_kind: Map, kind: Kind, by: str) -> None:
    """And what is in the page cache does not."""
    area = map_kind(kind)
    wrong = bytearray(area.data)
    for page in _write_cache(area, 2):
        wrong[page * area.page : (page + 1) * area.page] = b"x" * area.page
    target = area.serve(pyuffd.MemorySource(wrong), mode="missing+minor", fault_around=8 if by == "fault-around" else 1)
    if by == "fill":
        target.fill()
    else:
        area.touch()
    assert target.wait(20, progress=False)
    stats = target.stats()
    assert stats.continues > 0
    assert stats.copies > 0
    assert by != "reads" or stats.faults > stats.minor_faults > 0
    assert target.close().verified is True
    assert set(area.states()) == {"right"}


@of_kinds(CACHED)
@pytest.mark.parametrize("by", ["reads", "fill"])
def test_a_hole_without_a_source_reads_as_zeros(map_kind: Map, kind: Kind, by: str) -> None:
    area = map_kind(kind)
    cached = _write_cache(area, 2)
    target = area.serve(mode="minor")
    if by == "reads":
        area.touch(verified=False)
    target.fill()
    assert target.wait(20, progress=False)
    report = target.close()
    assert (report.poisoned, report.verified) == ((), True)
    assert area.states() == ["right" if page in cached else "zero" for page in range(area.pages)]


@of_kinds(CACHED)
def test_after_minor_faults_it_is_an_ordinary_mapping(map_kind: Map, kind: Kind) -> None:
    """Also the pages that nobody touched: they are what the page cache has."""
    area = map_kind(kind)
    _write_cache(area)
    target = area.serve(mode="minor", fault_around=1)
    area.touch(0, 1)
    assert target.close("zero").verified is True
    assert set(area.states()) == {"right"}
    area.puppet.do("write_file", 0, "ff")
    assert area.puppet.do("read", area.start, 1) == "ff"
    area.puppet.do("write", area.at(1), "77")
    assert area.puppet.do("read", area.at(1), 1) == "77"


@of_kinds(CACHED)
@pytest.mark.parametrize("ending", ["early-close", "unregister", "auto"])
def test_close_under_minor_faults(map_kind: Map, kind: Kind, ending: Any) -> None:
    area = map_kind(kind)
    _write_cache(area)
    target = area.serve(mode="minor", ending=ending, fault_around=1)
    area.begin_touches(passes=3)
    until(lambda: target.stats().pages >= area.pages // 2)
    assert target.close("zero").verified is True
    assert area.end_touches() == 12 * area.pages
    assert set(area.states()) == {"right"}


def _write(area: Area, *pages: int) -> None:
    for page in pages:
        area.puppet.do("write", area.at(page), area.content(page)[:8].hex())


@of_kinds()
def test_the_first_write_of_each_page_is_noted(map_kind: Map, kind: Kind) -> None:
    area = map_kind(kind)
    target = area.serve(mode="missing+wp")
    area.touch()
    assert target.wait(20, progress=False)
    assert not target.ended
    assert (target.written(), target.stats().write_faults) == ([], 0)
    pages = [1] if kind.huge else [1, 3, 4]
    ranges = [(area.at(1), area.page)] if kind.huge else [(area.at(1), area.page), (area.at(3), 2 * area.page)]
    for _ in range(2):
        _write(area, *pages)
        assert target.written() == ranges
        assert target.stats().write_faults == len(pages)
    assert target.written(reset=True) == ranges
    assert target.written() == []
    _write(area, 1)
    assert target.written() == [(area.at(1), area.page)]
    assert set(area.states()) == {"right"}
    assert target.close().verified is True
    _write(area, 0, *pages)
    assert target.stats().write_faults == len(pages) + 1


@of_kinds()
@pytest.mark.parametrize("by", ["touches", "fill", "both"])
def test_writes_of_many_threads_are_noted(map_kind: Map, kind: Kind, by: str) -> None:
    """On missing pages, on protected pages, and on both while the fill is under way."""
    area = map_kind(kind)
    target = area.serve(mode="missing+wp")
    if by != "touches":
        target.fill()
    if by == "fill":
        assert target.wait(20, progress=False)
        assert target.written() == []
    area.touch(write=True)
    assert target.written() == [(area.start, area.length)]
    assert target.close().verified is True
    assert set(area.states()) == {"right"}


@of_kinds()
def test_writes_to_zeros_and_to_dropped_pages_are_noted(map_kind: Map, kind: Kind) -> None:
    area = map_kind(kind)
    target = area.serve(pyuffd.ZeroSource(), mode="missing+wp")
    area.touch(verified=False)
    assert target.written() == []
    area.puppet.do("write", area.at(1), area.content(1).hex())
    assert target.written(reset=True) == [(area.at(1), area.page)]
    area.puppet.do("advise", area.at(1), area.page, mmap.MADV_DONTNEED)
    assert area.states([0, 1]) == ["zero", "right" if kind.shared else "zero"]
    assert target.written() == []
    area.puppet.do("write", area.at(1), area.content(1).hex())
    assert target.written() == [(area.at(1), area.page)]
    assert area.states([1]) == ["right"]
    assert target.close("zero").verified is True


@of_kinds()
def test_forks_without_the_event_write_freely(map_kind: Map, kind: Kind) -> None:
    """They inherit no write-protection, whose faults nobody would answer."""
    area = map_kind(kind)
    target = area.serve(mode="missing+wp")
    area.touch()
    with area.puppet.fork() as child:
        child.do("write", area.start, area.content(0).hex())
        assert area.states(puppet=child) == ["right"] * area.pages
    assert target.written() == []
    _write(area, 0)
    assert target.written() == [(area.start, area.page)]
    target.close()


RAW_KINDS = pytest.mark.parametrize(
    ("kind", "shared"),
    [
        pytest.param("anonymous", False, id="anonymous"),
        pytest.param("anonymous", True, id="shared"),
        pytest.param("memfd", True, id="memfd"),
        pytest.param("memfd", False, id="memfd-private"),
    ],
)


@RAW_KINDS
def test_raw_protection_of_empty_memory(kind: Any, shared: bool) -> None:
    memory = Managed(4, kind=kind, shared=shared)
    with pyuffd.Userfaultfd(pyuffd.Feature.WP_UNPOPULATED | pyuffd.Feature.WP_HUGETLBFS_SHMEM) as uffd:
        uffd.register(memory.start, memory.length, pyuffd.RegisterMode.WP)
        uffd.writeprotect(memory.start, memory.length, True)
        toucher = memory.toucher(1, 1, write=True, verified=False)
        (fault,) = uffd.read(timeout=20)
        assert isinstance(fault, pyuffd.Fault)
        assert fault.address == memory.at(1)
        assert fault.flags == pyuffd.FaultFlag.WRITE | pyuffd.FaultFlag.WP
        uffd.writeprotect(memory.at(1), memory.page, False)
        assert toucher.join().touched == 1
    memory.touch(verified=False, write=True)


@RAW_KINDS
def test_raw_scan_of_what_was_written(kind: Any, shared: bool) -> None:
    memory = Managed(8, kind=kind, shared=shared)
    with pyuffd.Userfaultfd(pyuffd.Feature.WP_ASYNC | pyuffd.Feature.WP_HUGETLBFS_SHMEM) as uffd:
        uffd.register(memory.start, memory.length, pyuffd.RegisterMode.WP)
        uffd.writeprotect(memory.start, memory.length, True)
        assert uffd.scan_written(memory.start, memory.length) == []
        memory.touch(2, 2, write=True, verified=False)
        memory.touch(5, 1, write=True, verified=False)
        expected = [(memory.at(2), 2 * memory.page), (memory.at(5), memory.page)]
        assert uffd.scan_written(memory.start, memory.length) == expected
        assert uffd.scan_written(memory.start, memory.length, protect=True) == expected
        assert uffd.scan_written(memory.start, memory.length) == []
        memory.touch(5, 1, write=True, verified=False)
        assert uffd.scan_written(memory.start, memory.length) == [(memory.at(5), memory.page)]
        assert uffd.waiting() == (0, 0)


@of_kinds(CACHED)
@pytest.mark.parametrize("call", ["copy", "continue"])
def test_raw_fills_that_protect(map_kind: Map, kind: Kind, call: str) -> None:
    area = map_kind(kind)
    modes = pyuffd.RegisterMode
    with area.hand_over_raw(modes.WP | (modes.MINOR if call == "continue" else modes.MISSING)) as uffd:
        if call == "continue":
            area.write_cache(0)
            assert uffd.continue_(area.start, area.page, write_protect=True) == area.page
        else:
            assert uffd.copy(area.start, area.data_address, area.page, write_protect=True) == area.page
        area.begin_touches(0, 1, write=True, threads=1)
        (fault,) = uffd.read(timeout=20)
        assert isinstance(fault, pyuffd.Fault)
        assert fault.flags & pyuffd.FaultFlag.WP
        uffd.writeprotect(area.start, area.page, False)
        assert area.end_touches() == 1


@of_kinds()
def test_raw_sigbus_tells_nobody(map_kind: Map, kind: Kind, first_puppet: Puppet) -> None:
    area = map_kind(kind)
    with area.hand_over_raw(pyuffd.RegisterMode.MISSING, pyuffd.Feature.SIGBUS) as uffd:
        uffd.copy(area.start, area.data_address, area.page)
        assert [area.puppet.do("readable", area.at(page)) for page in (0, 1)] == [True, False]
        assert area.states([0]) == ["right"]
        with pytest.raises(GoneError):
            area.puppet.do("read", area.at(1), 1)
        assert uffd.waiting() == (0, 0)
    assert first_puppet.do("reap", area.puppet.pid) == -signal.SIGBUS


def _refused(call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as refusal:
        call()
    assert refusal.value.errno == errno.EAGAIN


@of_kinds([kind for kind in KINDS if not kind.huge])
@pytest.mark.requires_poison
def test_raw_fills_while_a_remove_event_is_unread(map_kind: Map, kind: Kind) -> None:
    area = map_kind(kind)
    modes = pyuffd.RegisterMode
    every = modes.MISSING | modes.WP | (modes.MINOR if kind.cached else modes.MISSING)
    with area.hand_over_raw(every, pyuffd.Feature.EVENT_REMOVE) as uffd:
        area.puppet.post("advise", area.start, area.length, mmap.MADV_DONTNEED)
        assert _readable(uffd)
        _refused(lambda: uffd.copy(area.start, area.data_address, area.page))
        _refused(lambda: uffd.zeropage(area.start, area.page))
        _refused(lambda: uffd.poison(area.start, area.page))
        _refused(lambda: uffd.writeprotect(area.start, area.page, True))
        if kind.cached:
            _refused(lambda: uffd.continue_(area.start, area.page))
        (event,) = uffd.read(timeout=20)
        assert isinstance(event, pyuffd.RemoveEvent)
        assert (event.start, event.end) == (area.start, area.at(area.pages))
        area.puppet.answer()
        assert uffd.copy(area.start, area.data_address, area.length) == area.length
    assert set(area.states()) == {"right"}


def _readable(uffd: pyuffd.Userfaultfd) -> bool:
    poll = select.poll()
    poll.register(uffd.fileno(), select.POLLIN)
    return bool(poll.poll(20_000))
