"""Reads of a Python function that fail: tried again, told with their cause, and no other source waits for them."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.kinds import ANONYMOUS, Area, Kind
from support.memory import PAGE
from support.puppet import Puppet
from support.state import until

import pyuffd

pytestmark = pytest.mark.requires_full_userfaultfd

Map = Callable[[Kind], Area]


class Flaky:
    """A function that fails until it is well."""

    def __init__(self, data: bytes, failures: int | None = None) -> None:
        self._data = data
        self._left = failures
        self.calls: list[tuple[int, int]] = []
        self.well = threading.Event()

    def read(self, offset: int, length: int) -> bytes:
        self.calls.append((offset, length))
        if not self.well.is_set() and len(self.calls) == self._left:
            self.well.set()
            raise TimeoutError("no answer, and well from now on")
        if not self.well.is_set():
            raise TimeoutError(f"no answer at {offset}")
        return self._data[offset : offset + length]


def _served(area: Area, flaky: Flaky, **options: Any) -> pyuffd.Target:
    return area.serve(pyuffd.CallableSource(flaky.read, area.length, **options), fault_around=1)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    heard: list[BaseException | None] = []
    monkeypatch.setattr("sys.unraisablehook", lambda event: heard.append(event.exc_value))
    return heard


def test_a_read_that_failed_is_tried_again(map_kind: Map, told: list[BaseException | None]) -> None:
    area = map_kind(ANONYMOUS)
    flaky = Flaky(area.data, failures=2)
    with _served(area, flaky) as target:
        area.touch(5, 1, threads=1)
        assert flaky.calls == [(5 * PAGE, PAGE)] * 3
    assert set(area.states()) == {"right"}
    assert (told, target.source_errors) == ([], [])


@pytest.mark.requires_poison
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_the_cause_is_kept(map_kind: Map, told: list[BaseException | None], retries: int) -> None:
    area = map_kind(ANONYMOUS)
    flaky = Flaky(area.data)
    with _served(area, flaky, retries=retries) as target:
        assert area.puppet.do("readable", area.at(7)) is False
        assert flaky.calls == [(7 * PAGE, PAGE)] * (retries + 1)
        until(lambda: target.source_errors)
        (error,) = target.source_errors
        assert (error.offset, error.address, error.length) == (7 * PAGE, area.at(7), PAGE)
        assert isinstance(error.__cause__, TimeoutError)
        assert error.__cause__.__traceback__ is not None
        text = f"the source failed at offset 0x7000, so {area.at(7):#x}-{area.at(8):#x} is poisoned"
        assert str(error) == f"{text}: TimeoutError: no answer at {7 * PAGE}"
        assert told == [error.__cause__]
        flaky.well.set()
    assert target.source_errors[0].offset == error.offset  # after the ending, too


@pytest.mark.requires_poison
def test_it_is_tried_for_so_long(map_kind: Map, told: list[BaseException | None]) -> None:
    area = map_kind(ANONYMOUS)
    flaky = Flaky(area.data)
    with _served(area, flaky, retries=None, retry_for=0.3) as target:
        assert area.puppet.do("readable", area.start) is False
        assert 3 <= len(flaky.calls) <= 4  # at 0, 50 and 150 ms, and at 350 where a pause was longer
        assert len(told) == 1
        flaky.well.set()
        area.touch(1, area.pages - 1)
    assert target.close().poisoned == ((area.start, PAGE),)


def test_a_source_that_comes_back_resumes(map_kind: Map, told: list[BaseException | None]) -> None:
    area = map_kind(ANONYMOUS)
    flaky = Flaky(area.data)
    with _served(area, flaky, retries=None) as target:
        area.begin_touches(threads=8, partition="split")
        until(lambda: len(flaky.calls) > 16)
        flaky.well.set()
        area.end_touches()
        assert target.wait(20, progress=False)
    assert set(area.states()) == {"right"}
    assert told == []


@pytest.mark.requires_poison
def test_a_deadline_bounds_all_tries(map_kind: Map, told: list[BaseException | None]) -> None:
    area = map_kind(ANONYMOUS)
    flaky = Flaky(area.data)
    with _served(area, flaky, retries=None, deadline=0.2) as target:
        assert area.puppet.do("readable", area.start) is False
        until(lambda: target.source_errors)
        (error,) = target.source_errors
        assert str(error).startswith("the source did not answer within its deadline at offset 0x0")
        assert error.__cause__ is None
        calls = len(flaky.calls)
        flaky.well.set()
        area.touch(1, area.pages - 1)
        assert flaky.calls.count((0, PAGE)) == calls
    assert told == []


@pytest.mark.requires_poison
@pytest.mark.parametrize("missing", ["poison", "zero"])
def test_it_is_closed_between_two_tries(map_kind: Map, missing: Any) -> None:
    area = map_kind(ANONYMOUS)
    flaky = Flaky(area.data)
    target = _served(area, flaky, retries=None)
    area.puppet.post("readable", area.start)
    until(lambda: flaky.calls)
    report = target.close(missing)
    assert area.puppet.answer() is (missing == "zero")
    assert report.verified is True


@pytest.mark.requires_poison
def test_a_file_that_has_shrunk_is_told(map_kind: Map, tmp_path: Any) -> None:
    area = map_kind(ANONYMOUS)
    path = tmp_path / "image"
    path.write_bytes(area.data)
    with area.serve(pyuffd.FileSource(path), fault_around=1) as target:
        with path.open("r+b") as file:
            file.truncate(8 * PAGE)
        assert area.puppet.do("readable", area.at(9)) is False
        until(lambda: target.source_errors)
        (error,) = target.source_errors
        assert (error.offset, error.address, error.__cause__) == (9 * PAGE, area.at(9), None)


@pytest.mark.parametrize("sources", [6, 70])
def test_sources_that_hang_take_no_thread_of_another(puppet: Puppet, sources: int) -> None:
    """More of them than there are idle fetchers, and than there are threads elsewhere."""
    start = puppet.do("map", (sources + 1) * PAGE, "anonymous")
    opened = threading.Event()
    inside: list[int] = []

    def hang(offset: int, length: int) -> bytes:
        inside.append(offset)
        assert opened.wait(20)
        return bytes(length)

    supplied = [pyuffd.CallableSource(hang, PAGE) for _ in range(sources)]
    supplied.append(pyuffd.CallableSource(lambda offset, length: b"\x05" * length, PAGE))
    got = puppet.hand_over([(start, (sources + 1) * PAGE, 0, PAGE)], pyuffd.ZeroSource())
    regions = [pyuffd.Region(start + i * PAGE, PAGE, source) for i, source in enumerate(supplied)]
    with pyuffd.serve(got.uffd, regions, pid=got.pid, fault_around=1):
        try:
            puppet.do("begin_touches", start, sources * PAGE, PAGE, {"threads": sources, "partition": "split"})
            until(lambda: len(inside) == sources, "a read of each source")
            assert puppet.do("read", start + sources * PAGE, 1) == "05"
        finally:
            opened.set()
        puppet.do("end_touches")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"retries": -1}, "retries is -1"),
        ({"retry_for": 0}, "retry_for is 0"),
        ({"retry_for": float("nan")}, "retry_for is nan"),
        ({"deadline": -1}, "deadline is -1"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        pyuffd.CallableSource(lambda offset, length: bytes(length), PAGE, **options)
