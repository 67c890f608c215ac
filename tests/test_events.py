"""What a living target does to its memory while it is served: fork, mremap, madvise and munmap, on every kind."""

import mmap
import signal
from collections.abc import Callable
from typing import Any

import pytest
from support.kinds import ANONYMOUS, KINDS, Area, Kind, of_kinds
from support.puppet import GoneError, Puppet

import pyuffd

pytestmark = [pytest.mark.requires_full_userfaultfd, pytest.mark.requires_root]

Map = Callable[[Kind], Area]
SHARED_KINDS = [kind for kind in KINDS if kind.shared]
PRIVATE_KINDS = [kind for kind in KINDS if not kind.shared]


def _serve(area: Area, **options: Any) -> pyuffd.Target:
    return area.serve(features=pyuffd.Feature.EVENTS, **({"fault_around": 1} | options))


def _child_of(target: pyuffd.Target) -> pyuffd.Target:
    (child,) = target.children
    return child


@of_kinds()
def test_a_fork_child_is_a_target_of_its_own(map_kind: Map, kind: Kind) -> None:
    """What was missing is missing in the child too, and either may have it first."""
    area = map_kind(kind)
    target = _serve(area)
    area.touch(0, 1)
    with area.puppet.fork() as forked:
        child = _child_of(target)
        assert child.pages == area.pages
        assert set(area.states(puppet=forked)) == {"right"}
        assert set(area.states()) == {"right"}
        for one in (child, target):
            if kind.shared:  # what one has had, the other finds without a fault
                one.fill()
            assert one.wait(20, progress=False)
            assert one.close().missing_pages == 0
    assert target.stats().forks == 1


@of_kinds()
def test_a_fork_child_that_is_filled_in_the_background(map_kind: Map, kind: Kind) -> None:
    area = map_kind(kind)
    target = _serve(area)
    with area.puppet.fork() as forked:
        child = _child_of(target)
        child.fill()
        target.fill()
        assert child.wait(20, progress=False)
        assert target.wait(20, progress=False)
        child.close()
        target.close()
        assert set(area.states(puppet=forked)) == {"right"}
        assert set(area.states()) == {"right"}


@of_kinds()
def test_a_fork_childs_writes_are_noted_in_its_own_target(map_kind: Map, kind: Kind) -> None:
    area = map_kind(kind)
    target = _serve(area, mode="missing+wp")
    area.touch()
    with area.puppet.fork() as forked:
        child = _child_of(target)
        forked.do("write", area.at(1), area.content(1).hex())
        assert child.written() == [(area.at(1), area.page)]
        assert target.written() == []
        area.puppet.do("write", area.at(0), area.content(0).hex())
        assert target.written() == [(area.at(0), area.page)]
        assert child.written() == [(area.at(1), area.page)]
        assert set(area.states(puppet=forked)) == {"right"}
        child.close()
    assert target.close().verified is True
    assert set(area.states()) == {"right"}


@of_kinds()
def test_moved_memory_keeps_its_bytes(map_kind: Map, kind: Kind) -> None:
    area = map_kind(kind)
    target = _serve(area)
    area.touch(0, 1)
    room = area.puppet.do("map", area.length + area.page, "anonymous")
    place = -(-room // area.page) * area.page
    moved = area.puppet.do("move", area.start, area.length, area.length, place)
    assert set(area.states(start=moved)) == {"right"}
    assert target.wait(20, progress=False)
    assert (target.stats().remaps, target.close().absent_pages) == (1, 0)


@of_kinds()
def test_unmapped_memory_is_missed_no_more(map_kind: Map, kind: Kind) -> None:
    area = map_kind(kind)
    target = _serve(area)
    area.touch(0, 1)
    area.puppet.do("unmap", area.at(1), area.length - area.page)
    assert target.wait(20, progress=False)
    report = target.close()
    assert (target.stats().unmaps, report.missing_pages, report.poisoned) == (1, 0, ())
    assert area.states([0]) == ["right"]


@of_kinds(PRIVATE_KINDS)
@pytest.mark.parametrize("on_remove", ["auto", "zero"])
def test_dropped_private_pages_are_zeros(map_kind: Map, kind: Kind, on_remove: str) -> None:
    """Resident or missing, and whoever else supplies the rest."""
    area = map_kind(kind)
    target = _serve(area, on_remove=on_remove)
    dropped = [0] if kind.huge else [0, 1, 6, 7]
    if not kind.huge:
        area.touch(0, 2)
    for page in dropped:
        area.puppet.do("advise", area.at(page), area.page, mmap.MADV_DONTNEED)
    target.fill()
    area.touch(8 if not kind.huge else 1)
    expected = ["zero" if page in dropped else "right" for page in range(area.pages)]
    assert area.states() == expected
    assert target.wait(20, progress=False)
    assert target.close().poisoned == ()
    assert area.states() == expected
    assert target.stats().removes == len(dropped)


@of_kinds(SHARED_KINDS)
@pytest.mark.parametrize("advice", [mmap.MADV_DONTNEED, mmap.MADV_REMOVE], ids=["dontneed", "remove"])
@pytest.mark.parametrize("on_remove", ["keep", "zero"])
def test_removed_missing_pages_of_shared_memory(map_kind: Map, kind: Kind, advice: int, on_remove: str) -> None:
    area = map_kind(kind)
    target = _serve(area, on_remove=on_remove)
    area.puppet.do("advise", area.at(1), area.page, advice)
    assert area.states([1]) == ["right" if on_remove == "keep" else "zero"]
    target.fill()
    assert target.wait(20, progress=False)
    assert target.close().poisoned == ()
    others = [page for page in range(area.pages) if page != 1]
    assert set(area.states(others)) == {"right"}


@of_kinds(SHARED_KINDS)
def test_resident_pages_of_shared_memory(map_kind: Map, kind: Kind) -> None:
    """MADV_DONTNEED leaves them in the page cache, MADV_REMOVE does not."""
    area = map_kind(kind)
    target = _serve(area)
    area.touch(0, 2)
    area.puppet.do("advise", area.at(0), area.page, mmap.MADV_DONTNEED)
    area.puppet.do("advise", area.at(1), area.page, mmap.MADV_REMOVE)
    assert area.states([0, 1]) == ["right", "zero"]
    target.fill()
    assert target.wait(20, progress=False)
    assert target.close().poisoned == ()
    assert set(area.states(range(2, area.pages))) <= {"right"}


@pytest.mark.requires_poison
@of_kinds(SHARED_KINDS)
@pytest.mark.parametrize("advice", [mmap.MADV_DONTNEED, mmap.MADV_REMOVE], ids=["dontneed", "remove"])
@pytest.mark.parametrize("touched", ["while-served", "after-the-ending"])
def test_what_shared_memory_loses_without_a_trace_is_poisoned(
    map_kind: Map, kind: Kind, advice: int, touched: str, first_puppet: Puppet
) -> None:
    area = map_kind(kind)
    target = _serve(area)
    area.puppet.do("advise", area.at(1), area.page, advice)
    if touched == "while-served":
        assert area.puppet.do("readable", area.at(1)) is False
    target.fill()
    assert target.wait(20, progress=False)
    assert target.close().poisoned == ((area.at(1), area.page),)
    others = [page for page in range(area.pages) if page != 1]
    assert set(area.states(others)) == {"right"}
    assert area.puppet.do("readable", area.at(1)) is False
    with pytest.raises(GoneError):
        area.puppet.do("read", area.at(1), 1)
    assert first_puppet.do("reap", area.puppet.pid) == -signal.SIGBUS


@of_kinds([kind for kind in KINDS if not kind.huge])
def test_removes_while_threads_touch_and_the_fill_runs(map_kind: Map, kind: Kind) -> None:
    """Nobody is lost; what was dropped is zero or, where it came later, right."""
    area = map_kind(kind)
    target = _serve(area, on_remove="zero")
    target.fill()
    area.begin_touches(verified=False, passes=20)
    for page in range(0, 40, 2):
        area.puppet.do("advise", area.at(page), area.page, mmap.MADV_DONTNEED)
    assert area.end_touches() == 80 * area.pages
    assert target.wait(20, progress=False)
    assert target.close().verified is True
    states = area.states()
    assert "wrong" not in states
    assert set(states[1:40:2] + states[40:]) == {"right"}


@of_kinds([kind for kind in KINDS if not kind.huge])
@pytest.mark.parametrize("ending", ["early-close", "unregister", "auto"])
def test_close_while_it_forks_and_touches(map_kind: Map, kind: Kind, ending: str) -> None:
    """The fork sleeps until its event is read or the userfaultfd is closed; either way nobody is lost."""
    area = map_kind(kind)
    target = _serve(area, ending=ending)
    area.begin_touches(passes=3)
    with area.puppet.fork() as forked:
        assert target.close("fill").missing_pages == 0
        assert area.end_touches() == 12 * area.pages
        for child in target.children:
            child.close("fill")
        assert set(area.states(puppet=forked)) == {"right"}
    assert set(area.states()) == {"right"}


@of_kinds([ANONYMOUS])
def test_a_living_target_is_not_stopped(map_kind: Map, kind: Kind) -> None:
    target = _serve(map_kind(kind), ending="keep-open")
    with pytest.raises(RuntimeError, match=r"stop\(\) would lose what the target's events told"):
        target.stop()
    target.close("fill")
    target.discard()


@of_kinds([ANONYMOUS])
def test_what_is_dropped_was_written_to(map_kind: Map, kind: Kind) -> None:
    area = map_kind(kind)
    target = _serve(area, mode="missing+wp")
    area.touch(0, 4)
    area.puppet.do("advise", area.start + area.page, area.page, mmap.MADV_DONTNEED)
    assert target.written(reset=True) == [(area.start + area.page, area.page)]
    assert target.written() == []
    target.close("fill")


@pytest.mark.requires_poison
@of_kinds([ANONYMOUS])
def test_fork_children_are_closed_as_their_parent(map_kind: Map, kind: Kind) -> None:
    area = map_kind(kind)
    target = _serve(area)
    with area.puppet.fork() as forked:
        target.close("poison")
        (child,) = target.children
        assert child.close().poisoned == ((area.start, area.length),)
        assert not forked.do("readable", area.start)
