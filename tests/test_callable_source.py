"""Pages that a Python function supplies to another process: bytes, failures, deadlines, and endings while it hangs."""

import mmap
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.kinds import ANONYMOUS, Area, Kind, of_kinds
from support.state import until

import pyuffd

pytestmark = pytest.mark.requires_full_userfaultfd

Map = Callable[[Kind], Area]
Read = Callable[[int, int], bytes]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What sys.unraisablehook was told."""
    heard: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: heard.append(event.exc_value))
    return heard


class Gate:
    """A function whose calls hang until the gate opens."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.opened = threading.Event()
        self.entered = threading.Event()

    def read(self, offset: int, length: int) -> bytes:
        self.entered.set()
        self.opened.wait(20)
        return self._data[offset : offset + length]


@pytest.fixture
def gates() -> Iterator[list[Gate]]:
    """Gates that are open in the end, so that nobody hangs."""
    made: list[Gate] = []
    yield made
    for gate in made:
        gate.opened.set()


def _served(area: Area, read: Read, deadline: float | None = None, **options: Any) -> pyuffd.Target:
    source = pyuffd.CallableSource(read, area.length, deadline=deadline)
    return area.serve(source, **({"fault_around": 1} | options))


def _hung(area: Area, gates: list[Gate], **options: Any) -> tuple[Gate, pyuffd.Target]:
    """A target of whose page 0 a thread sleeps, while the read of it hangs."""
    gates.append(gate := Gate(area.data))
    target = _served(area, gate.read, **options)
    area.puppet.do("begin_touches", area.start, area.page, area.page, {"threads": 1})
    assert gate.entered.wait(20)
    return gate, target


@of_kinds()
@pytest.mark.parametrize("by", ["touches", "fill", "both"])
def test_bytes_of_a_function(map_kind: Map, kind: Kind, by: str) -> None:
    area = map_kind(kind)
    target = _served(area, lambda offset, length: area.data[offset : offset + length], fault_around=16)
    if by != "touches":
        target.fill()
    if by != "fill":
        area.touch()
    assert target.wait(20, progress=False)
    assert target.stats().fetches > 0
    assert target.close().verified is True
    assert set(area.states()) == {"right"}


@pytest.mark.requires_poison
@pytest.mark.parametrize("failure", ["raises", "short", "long", "no-buffer"])
def test_what_it_fails_to_return_is_poisoned(map_kind: Map, told: list[BaseException | None], failure: str) -> None:
    area = map_kind(ANONYMOUS)

    def read(offset: int, length: int) -> Any:
        data = area.data[offset : offset + length]
        if offset % (2 * area.page):
            return data
        if failure == "raises":
            raise KeyError(offset)
        return {"short": data[:-1], "long": data + b"x", "no-buffer": 5}[failure]

    target = _served(area, read)
    odd = range(1, area.pages, 2)
    for page in odd:
        area.touch(page, 1, threads=1)
    assert not any(area.puppet.do("readable", area.at(page)) for page in range(0, area.pages, 2))
    assert target.wait(20, progress=False)
    report = target.close()
    assert report.poisoned == tuple((area.at(page), area.page) for page in range(0, area.pages, 2))
    assert len(told) == len(odd)
    expected = {"raises": KeyError, "short": ValueError, "long": ValueError, "no-buffer": TypeError}[failure]
    assert {type(error) for error in told} == {expected}


@pytest.mark.requires_poison
def test_a_deadline_poisons(map_kind: Map, gates: list[Gate]) -> None:
    area = map_kind(ANONYMOUS)
    gates.append(gate := Gate(area.data))
    target = _served(area, gate.read, 0.1)
    assert area.puppet.do("readable", area.start) is False
    gate.opened.set()
    area.touch(1, area.pages - 1)
    assert target.wait(20, progress=False)
    assert target.close().poisoned == ((area.start, area.page),)


@pytest.mark.requires_poison
def test_a_deadline_poisons_what_a_fill_asked_for(map_kind: Map, gates: list[Gate]) -> None:
    area = map_kind(ANONYMOUS)
    gates.append(gate := Gate(area.data))
    report = _served(area, gate.read, 0.1).close("fill")
    assert sum(length for _, length in report.poisoned) == area.length


@pytest.mark.requires_poison
@pytest.mark.parametrize("missing", ["poison", "zero"])
def test_close_while_a_read_hangs(map_kind: Map, gates: list[Gate], missing: Any) -> None:
    area = map_kind(ANONYMOUS)
    gates.append(gate := Gate(area.data))
    target = _served(area, gate.read)
    area.puppet.post("readable", area.start)
    assert gate.entered.wait(20)
    report = target.close(missing)
    assert area.puppet.answer() is (missing == "zero")
    assert report.poisoned == (() if missing == "zero" else ((area.start, area.length),))
    assert report.verified is True


def test_close_fills_when_the_read_comes_back(map_kind: Map, gates: list[Gate]) -> None:
    area = map_kind(ANONYMOUS)
    gate, target = _hung(area, gates)
    closer = threading.Thread(target=target.close, args=("fill",))
    closer.start()
    gate.opened.set()
    closer.join(20)
    assert not closer.is_alive()
    assert area.end_touches() == 1
    assert set(area.states()) == {"right"}


@pytest.mark.requires_root
def test_a_removal_while_a_read_hangs(map_kind: Map, gates: list[Gate]) -> None:
    """The page is zeros then, whatever the read returns, and nobody is left asleep."""
    area = map_kind(ANONYMOUS)
    gate, target = _hung(area, gates, features=pyuffd.Feature.EVENTS)
    area.puppet.do("advise", area.start, area.page, mmap.MADV_DONTNEED)
    until(lambda: target.stats().removes == 1)
    gate.opened.set()
    assert area.end_touches() == 1
    assert area.states([0]) == ["zero"]
    target.fill()
    assert target.wait(20, progress=False)
    target.close()
    assert area.states() == ["zero"] + ["right"] * (area.pages - 1)


def test_a_hanging_read_holds_up_no_other_target(map_kind: Map, gates: list[Gate]) -> None:
    area, other = map_kind(ANONYMOUS), map_kind(ANONYMOUS)
    gate, target = _hung(area, gates)
    with other.serve() as quick:
        other.puppet.do("checksums", other.start, other.length, other.page)
        assert quick.wait(20, progress=False)
    gate.opened.set()
    assert area.end_touches() == 1
    target.close("fill")
    assert set(area.states()) == {"right"}


def test_it_is_refused_for_this_process() -> None:
    with pyuffd.Mapping(4096) as mapping:
        source = pyuffd.CallableSource(lambda offset, length: bytes(length), mapping.length)
        with pytest.raises(ValueError, match=r"CallableSource|function"):
            pyuffd.serve(pyuffd.Userfaultfd(), [pyuffd.Region(mapping.address, mapping.length, source)])


@pytest.mark.requires_poison
def test_only_the_pages_that_fail_are_poisoned(map_kind: Map, told: list[BaseException | None]) -> None:
    area = map_kind(ANONYMOUS)

    def read(offset: int, length: int) -> bytes:
        if offset <= 3 * area.page < offset + length:
            raise KeyError("page 3")
        return area.data[offset : offset + length]

    report = _served(area, read).close("fill")
    assert report.poisoned == ((area.at(3), area.page),)
    assert {type(error) for error in told} == {KeyError}


@of_kinds()
def test_a_function_that_writes_into_a_view(map_kind: Map, kind: Kind, told: list[BaseException | None]) -> None:
    """It is asked for whole blocks by a fill, and its view is of no use afterwards."""
    area = map_kind(kind)
    views: list[memoryview] = []
    asked: list[tuple[int, int]] = []

    def write(offset: int, view: memoryview) -> None:
        asked.append((offset, len(view)))
        views.append(view)
        view[:] = area.data[offset : offset + len(view)]

    block = 4 * area.page
    with area.serve(pyuffd.CallableSource(write, area.length, block=block, into=True), fault_around=1) as target:
        target.fill()
        assert target.wait(20, progress=False)
    assert set(area.states()) == {"right"}
    assert sorted(asked) == [(at, min(block, area.length - at)) for at in range(0, area.length, block)]
    assert told == []
    with pytest.raises(ValueError, match="released memoryview"):
        views[0][0]


@pytest.mark.parametrize("block", [1, 5000])
def test_blocks_that_are_not_whole_pages(map_kind: Map, block: int) -> None:
    area = map_kind(ANONYMOUS)
    source = pyuffd.CallableSource(lambda offset, length: area.data[offset : offset + length], area.length, block=block)
    with area.serve(source, fault_around=1) as target:
        target.fill()
        assert target.wait(20, progress=False)
    assert set(area.states()) == {"right"}


@pytest.mark.requires_poison
def test_a_function_that_writes_into_a_view_and_fails(map_kind: Map, told: list[BaseException | None]) -> None:
    area = map_kind(ANONYMOUS)

    def write(_: int, view: memoryview) -> None:
        raise TimeoutError(f"no answer for {len(view)} bytes")

    with area.serve(pyuffd.CallableSource(write, area.length, into=True, retries=0), fault_around=1) as target:
        assert not area.puppet.do("readable", area.start)
        (error,) = target.source_errors
        assert isinstance(error.__cause__, TimeoutError)
        target.close("zero")


@pytest.mark.parametrize("block", [-1, 1.5, "large"])
def test_blocks_that_are_none(block: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="block"):
        pyuffd.CallableSource(lambda _, length: bytes(length), 4096, block=block)


def test_a_fill_that_rests_while_faults_come(map_kind: Map) -> None:
    """It goes on when no fault came for a millisecond, and a close that fills does not wait for that."""
    area = map_kind(ANONYMOUS)
    with area.serve(fault_around=1) as target:
        area.touch(0, 1, threads=1)
        target.fill(when_idle=True)
        assert target.wait(20, progress=False)
        assert target.close().missing_pages == 0
    with pytest.raises(TypeError, match="when_idle is 1"):
        target.fill(when_idle=1)  # type: ignore[arg-type]
