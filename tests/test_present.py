"""Pages that are present although pyuffd did not install them: its own memory is emptied, others' pages are counted."""

import ctypes
import mmap
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from support.child import run_child, tell
from support.kinds import ANONYMOUS, SHARED, Area, Kind, of_kinds
from support.memory import PAGE, Managed, random_bytes

import pyuffd

pytestmark = pytest.mark.requires_full_userfaultfd

Map = Callable[[Kind], Area]

_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_NOHUGEPAGE, _POPULATE_WRITE = 15, 23  # of madvise(2); the latter came with Linux 5.14


def wrong_pages(length: int, seed: int, inline: bool) -> int:
    """In how many pages a lazy array has wrong bytes."""
    data = np.frombuffer(random_bytes(length, seed), np.uint8)
    lazy = pyuffd.lazy_array(pyuffd.MemorySource(data), "u1", length, inline=inline)
    return len({int(place) // PAGE for place in np.flatnonzero(lazy != data)})


def wrong_sizes(sizes: list[int], inline: bool) -> dict[int, int]:
    """The sizes of lazy arrays that have wrong bytes, and in how many pages."""
    found = {length: wrong_pages(length, seed, inline) for seed, length in enumerate(sizes)}
    return {length: pages for length, pages in found.items() if pages}


@pytest.fixture
def thp_always() -> Iterator[None]:
    """Have the kernel use huge pages wherever it can, as many distributions do by default."""
    if not os.access(_THP, os.W_OK):
        pytest.skip("transparent huge pages cannot be set to 'always' here")
    before = _THP.read_text().split("[")[1].split("]")[0]
    _THP.write_text("always")
    try:
        yield
    finally:
        _THP.write_text(before)


def make_lazy_arrays(inline: bool) -> None:
    huge = 2 << 20
    sizes = [count * huge - missing for count in (1, 2, 3) for missing in (1, 100, PAGE - 1)]
    sizes += [int(size) | 1 for size in np.random.default_rng(1).integers(huge, 6 * huge, 10)]
    tell(wrong_sizes(sizes, inline))


@pytest.mark.requires_root
@pytest.mark.parametrize("inline", [False, True])
def test_a_lazy_array_among_huge_pages_is_empty_at_first(thp_always: None, inline: bool) -> None:
    """The kernel aligns memory of whole huge pages, so that a write to the last page populates 511 pages before it."""
    assert run_child(make_lazy_arrays, inline) == {}


_MCL_FUTURE = 2


def lock_what_will_be_mapped() -> None:
    assert ctypes.CDLL(None).mlockall(_MCL_FUTURE) == 0


def make_locked_lazy_arrays(inline: bool) -> None:
    lock_what_will_be_mapped()
    sizes = [1, 100, PAGE, PAGE + 1, 3 * PAGE - 1, 50 * PAGE, 1000 * PAGE + 77, 3 << 20, (4 << 20) - 5]
    tell(wrong_sizes(sizes, inline))


@pytest.mark.requires_root
@pytest.mark.parametrize("inline", [False, True])
def test_a_lazy_array_of_a_process_that_locks_its_memory_is_empty_at_first(inline: bool) -> None:
    assert run_child(make_locked_lazy_arrays, inline) == {}


def serve_locked(kind: Literal["anonymous", "memfd"], shared: bool) -> None:
    lock_what_will_be_mapped()
    memory = Managed(pages=300, kind=kind, shared=shared)
    with memory.serve() as target:
        target.fill()
        assert target.wait(20, progress=False)
    states = memory.states()
    tell({state: states.count(state) for state in set(states)})


@pytest.mark.requires_root
@pytest.mark.parametrize(("kind", "shared"), [("anonymous", False), ("anonymous", True), ("memfd", True)])
def test_a_mapping_of_a_process_that_locks_its_memory_is_empty_at_first(kind: str, shared: bool) -> None:
    assert run_child(serve_locked, kind, shared) == {"right": 300}


def serve_with_events(what: str) -> None:
    """Serve memory that has zeros before events are told.

    Whoever drops pages of memory that is registered with event features waits until the event is read.
    """
    if what == "locked":
        lock_what_will_be_mapped()
    memory = Managed(pages=300)
    if what == "read":
        memory.mapping.array.sum()  # maps the zero page
    with pyuffd.serve(pyuffd.Userfaultfd(pyuffd.Feature.EVENTS), [memory.region()]) as target:
        target.fill()
        assert target.wait(20, progress=False)
        found = target.stats().found_present
    states = memory.states()
    tell([found, {state: states.count(state) for state in set(states)}])


@pytest.mark.requires_full_userfaultfd
def test_what_is_there_before_events_are_told_comes_from_the_source() -> None:
    assert run_child(serve_with_events, "read") == [0, {"right": 300}]


@pytest.mark.requires_root
@pytest.mark.requires_full_userfaultfd
def test_memory_that_is_locked_before_events_are_told_comes_from_the_source() -> None:
    assert run_child(serve_with_events, "locked") == [0, {"right": 300}]


def _advise(address: int, length: int, advice: int) -> None:
    assert ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), advice) == 0


def _populate(memory: Managed, first: int = 0, pages: int | None = None) -> None:
    """Have the kernel put zeros into these pages."""
    pages = memory.pages - first if pages is None else pages
    _advise(memory.at(first), pages * memory.page, _POPULATE_WRITE)


def _fill(target: pyuffd.Target) -> None:
    target.fill()
    assert target.wait(20, progress=False)


@pytest.mark.parametrize(("kind", "shared"), [("anonymous", False), ("anonymous", True), ("memfd", True)])
def test_what_the_kernel_populated_in_a_whole_mapping_comes_from_the_source(kind: Any, shared: bool) -> None:
    """Nobody wrote these zeros."""
    memory = Managed(pages=64, kind=kind, shared=shared)
    _populate(memory, 3, 40)
    with memory.serve() as target:
        _fill(target)
    assert memory.states() == ["right"] * 64


def a_write_to_a_whole_mapping_among_huge_pages_vouches_for_its_page_alone_child() -> None:
    huge = 2 << 20
    memory = Managed(pages=2 * huge // PAGE)
    aligned = (-memory.start % huge) // PAGE
    memory.mapping.array[(aligned + 7) * PAGE] = 1
    with memory.serve() as target:
        target.fill()
        assert target.wait(20, progress=False)
    states = memory.states()
    written = states.pop(aligned + 7)
    tell([written, sorted(set(states))])


@pytest.mark.requires_root
def test_a_write_to_a_whole_mapping_among_huge_pages_vouches_for_its_page_alone(thp_always: None) -> None:
    """The kernel has put zeros into the pages around it."""
    assert run_child(a_write_to_a_whole_mapping_among_huge_pages_vouches_for_its_page_alone_child) == [
        "wrong",
        ["right"],
    ]


@pytest.mark.parametrize("populated", [False, True])
def test_what_was_written_to_a_whole_mapping_is_kept_and_counted(populated: bool) -> None:
    memory = Managed(pages=40)
    if populated:
        _populate(memory)
    written = (0, 5, 39)
    for page in written:
        memory.mapping.array[page * PAGE + 100] = page + 1
    with memory.serve(present="keep") as target:
        _fill(target)
        assert target.stats().found_present == len(written)
        assert target.stats().pages == 40 - len(written)
        assert target.close().found_present == len(written)
    expected = np.frombuffer(memory.data, np.uint8).copy()
    for page in written:
        expected[page * PAGE : (page + 1) * PAGE] = 0
        expected[page * PAGE + 100] = page + 1
    assert np.array_equal(memory.mapping.array, expected)


def _assert_refused(
    uffd: pyuffd.Userfaultfd, regions: list[pyuffd.Region], start: int, present: int, pid: int | None = None
) -> None:
    """The error names the region and how many of its pages are present, and the userfaultfd is the caller's still."""
    with pytest.raises(ValueError) as refusal:
        pyuffd.serve(uffd, regions, present="refuse", pid=pid)
    text = str(refusal.value)
    assert f"{start:#x}-" in text
    assert re.search(rf"\b{present}\b[^.]* pages?\b", text), text
    assert [f"{region.start:#x}-" in text for region in regions].count(True) == 1
    assert not uffd.closed


def _is_registered(memory: Managed) -> bool:
    """Whether some userfaultfd has some of this memory registered."""
    with pyuffd.Userfaultfd() as other:
        try:
            other.register(memory.start, memory.length)
        except OSError:
            return True
        other.unregister(memory.start, memory.length)
        return False


def test_what_was_written_to_a_whole_mapping_is_refused() -> None:
    memory = Managed(pages=40)
    _populate(memory)
    memory.mapping.array[5 * PAGE] = memory.mapping.array[6 * PAGE] = 1
    with pyuffd.Userfaultfd() as uffd:
        _assert_refused(uffd, [memory.region()], memory.start, 2)
        assert not _is_registered(memory)
        memory.mapping.array[:] = 0  # present and zero, so that it is dropped
        with pyuffd.serve(uffd, [memory.region()], present="refuse") as target:
            _fill(target)
            assert target.stats().found_present == 0
    assert memory.states() == ["right"] * 40


def test_memory_that_the_kernel_populated_and_nobody_wrote_is_not_refused() -> None:
    memory = Managed(pages=40)
    _populate(memory)
    with memory.serve(present="refuse") as target:
        _fill(target)
        assert target.stats().found_present == 0
    assert memory.states() == ["right"] * 40


class _Foreign:
    """Memory of this process that pyuffd did not make: some of its pages are written, one of them with zeros."""

    pages = 40
    written = (0, 5, 39)

    def __init__(self, kind: str) -> None:
        length = self.pages * PAGE
        if kind == "mmap":
            self._mapped = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.array: npt.NDArray[np.uint8] = np.frombuffer(self._mapped, np.uint8)
        else:
            # More than a heap would give back to the next: it has a mapping of its own.
            whole = np.empty(length + (64 << 20), np.uint8)
            offset = -whole.ctypes.data % PAGE + (32 << 20)
            self.array = whole[offset : offset + length]
        self.start = int(self.array.ctypes.data)
        self.length = length
        _advise(self.start, length, _NOHUGEPAGE)  # numpy asks for huge pages
        _advise(self.start, length, mmap.MADV_DONTNEED)
        for page in self.written:
            self.array[page * PAGE + 100] = page + 1
        self.array[10 * PAGE : 11 * PAGE] = 0
        self.present = len(self.written) + 1
        self.data = Managed(pages=self.pages).data

    def region(self) -> pyuffd.Region:
        return pyuffd.Region(self.start, self.length, pyuffd.MemorySource(self.data))

    def expected(self) -> bytes:
        bytes_ = bytearray(self.data)
        for page in (*self.written, 10):
            bytes_[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        for page in self.written:
            bytes_[page * PAGE + 100] = page + 1
        return bytes(bytes_)


@pytest.mark.parametrize("kind", ["numpy", "mmap"])
@pytest.mark.parametrize("options", [{}, {"present": "keep"}], ids=["default", "keep"])
def test_foreign_pages_of_this_process_are_kept_and_counted(kind: str, options: dict[str, Any]) -> None:
    """A zero, too: only its owner knows what it means."""
    memory = _Foreign(kind)
    with pyuffd.serve(pyuffd.Userfaultfd(), [memory.region()], **options) as target:
        _fill(target)
        stats, report = target.stats(), target.close()
    assert memory.array.tobytes() == memory.expected()
    assert (stats.found_present, report.found_present) == (memory.present, memory.present)
    assert stats.pages == memory.pages - memory.present
    assert report.missing_pages == 0


@pytest.mark.parametrize("kind", ["numpy", "mmap"])
def test_foreign_pages_of_this_process_are_refused(kind: str) -> None:
    memory = _Foreign(kind)
    with pyuffd.Userfaultfd() as uffd:
        _assert_refused(uffd, [memory.region()], memory.start, memory.present)
        with pyuffd.Userfaultfd() as other:  # EBUSY if it were registered
            other.register(memory.start, memory.length)
            other.unregister(memory.start, memory.length)
    assert [int(memory.array[page * PAGE + 100]) for page in memory.written] == [page + 1 for page in memory.written]


def test_the_region_that_is_refused_is_named() -> None:
    clean, written = Managed(pages=8), Managed(pages=8)
    written.mapping.array[3 * PAGE] = 1
    with pyuffd.Userfaultfd() as uffd:
        _assert_refused(uffd, [clean.region(), written.region()], written.start, 1)
    assert not _is_registered(clean)
    assert not _is_registered(written)


@pytest.mark.requires_root
@of_kinds([ANONYMOUS, SHARED])
@pytest.mark.parametrize("by", ["touches", "fill"])
@pytest.mark.parametrize("fault_around", [1, 16])
def test_pages_that_another_process_wrote_before_are_kept_and_counted(
    map_kind: Map, kind: Kind, by: str, fault_around: int
) -> None:
    area = map_kind(kind)
    written = (1, 7, 8, area.pages - 1)
    for page in written:
        area.puppet.do("write", area.at(page), b"own".hex())
    target = area.serve(present="keep", fault_around=fault_around)
    if by == "fill":
        target.fill()
    states = area.states()
    target.fill()
    assert target.wait(20, progress=False)
    report = target.close()
    assert states == ["wrong" if page in written else "right" for page in range(area.pages)]
    assert all(area.puppet.do("read", area.at(page), 4) == b"own\0".hex() for page in written)
    assert target.stats().found_present == report.found_present == len(written)
    assert report.missing_pages == 0


@pytest.mark.requires_root
@of_kinds([ANONYMOUS, SHARED])
def test_pages_that_another_process_wrote_before_are_refused(map_kind: Map, kind: Kind) -> None:
    area = map_kind(kind)
    for page in (1, 7):
        area.puppet.do("write", area.at(page), b"own".hex())
    got = area.hand_over(area.source)
    _assert_refused(got.uffd, got.regions, area.start, 2, pid=got.pid)
    with pyuffd.serve(got.uffd, got.regions, pid=got.pid, present="keep") as target:
        _fill(target)
    assert area.states([0, 1, 2, 7]) == ["right", "wrong", "right", "wrong"]


def test_another_word_for_what_is_present() -> None:
    with pyuffd.Userfaultfd() as uffd:
        with pytest.raises(ValueError, match="present is 'drop'"):
            pyuffd.serve(uffd, [Managed(pages=1).region()], present="drop")  # type: ignore[arg-type]
        assert not uffd.closed
