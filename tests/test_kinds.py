"""Every kind of memory: pages by touches, by fills and by both, zeros, refusals, poison, and closes under faults."""

import mmap
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from support.kinds import HUGE_PAGE, HUGETLB, KINDS, Area, Kind, of_kinds
from support.puppet import GoneError, Puppet
from support.state import until

import pyuffd

pytestmark = pytest.mark.requires_full_userfaultfd

FEATURES = pytest.mark.parametrize(
    "features",
    [
        pytest.param(0, id="no-events"),
        pytest.param(int(pyuffd.Feature.EVENTS), id="events", marks=pytest.mark.requires_root),
    ],
)


@of_kinds()
@FEATURES
@pytest.mark.parametrize("by", ["reads", "writes", "fill", "both"])
def test_every_page_is_right(map_kind: Any, kind: Kind, features: int, by: str) -> None:
    area: Area = map_kind(kind)
    target = area.serve(features=features)
    if by != "fill":
        area.begin_touches(write=by == "writes")
    if by in ("fill", "both"):
        target.fill()
    if by != "fill":
        assert area.end_touches() == 4 * area.pages
    assert target.wait(20, progress=False)
    report = target.close()
    assert (report.verified, report.missing_pages, report.poisoned) == (True, 0, ())
    assert set(area.states()) == {"right"}
    assert target.stats().pages == area.pages


@of_kinds()
def test_zeros(map_kind: Any, kind: Kind) -> None:
    area: Area = map_kind(kind)
    target = area.serve(pyuffd.ZeroSource())
    area.touch(verified=False)
    assert target.wait(20, progress=False)
    target.close()
    assert set(area.states()) == {"zero"}
    assert (target.stats().zeropages == 0) is kind.huge  # these know none


@pytest.mark.requires_poison
@of_kinds()
def test_half_of_the_pages_are_poisoned(map_kind: Any, kind: Kind, tmp_path: Path, first_puppet: Puppet) -> None:
    area: Area = map_kind(kind)
    image = tmp_path / "image"
    image.write_bytes(area.data)
    source = pyuffd.FileSource(image)
    half = area.pages // 2
    os.truncate(image, half * area.page)
    target = area.serve(source)
    area.touch(0, half)
    target.fill()
    assert target.wait(20, progress=False)
    report = target.close()
    assert report.poisoned == ((area.at(half), area.length - half * area.page),)
    assert target.stats().poisoned == area.pages - half
    assert set(area.states(range(half))) == {"right"}
    readable = [area.puppet.do("readable", area.at(page)) for page in range(area.pages)]
    assert readable == [True] * half + [False] * (area.pages - half)
    with pytest.raises(GoneError):
        area.puppet.do("read", area.at(half), 1)
    assert first_puppet.do("reap", area.puppet.pid) == -signal.SIGBUS


def _in_this_process(kind: Kind) -> pyuffd.Mapping:
    family: Any = "hugetlb" if kind.huge else "memfd" if kind.name.startswith("memfd") else "anonymous"
    return pyuffd.Mapping(kind.length, family, kind.shared)


@of_kinds()
@pytest.mark.parametrize("mode", ["missing", "minor", "missing+minor", "missing+wp"])
def test_which_modes_are_admitted(request: pytest.FixtureRequest, kind: Kind, mode: Any) -> None:
    if kind.huge:
        request.getfixturevalue("huge_pages")
    with _in_this_process(kind) as mapping:
        region = pyuffd.Region(mapping.address, mapping.length, pyuffd.ZeroSource(), 0, kind.page, mode=mode)
        if "minor" in mode and kind.name in ("anonymous", "thp"):
            with pytest.raises(OSError, match=r"no page cache.*map a memfd, shared anonymous memory or hugetlb"):
                pyuffd.serve(pyuffd.Userfaultfd(), [region])
        else:
            target = pyuffd.serve(pyuffd.Userfaultfd(), [region])
            assert target.close("zero").verified is True


@of_kinds([kind for kind in KINDS if kind.huge])
def test_hugetlb_memory_takes_pages_of_its_size(huge_pages: None, kind: Kind) -> None:
    with _in_this_process(kind) as mapping:
        region = pyuffd.Region(mapping.address, mapping.length, pyuffd.ZeroSource())
        with pytest.raises(ValueError, match="it is hugetlb memory: give the page size of its pool"):
            pyuffd.serve(pyuffd.Userfaultfd(), [region])


@pytest.mark.skipif(not HUGE_PAGE, reason="this kernel has no hugetlb pages")
def test_other_memory_takes_no_huge_pages() -> None:
    with pyuffd.Mapping(2 * HUGE_PAGE) as mapping:
        start = -(-mapping.address // HUGE_PAGE) * HUGE_PAGE
        region = pyuffd.Region(start, HUGE_PAGE, pyuffd.ZeroSource(), 0, HUGE_PAGE)
        with pytest.raises(ValueError, match="its pages have 4096 bytes: give that"):
            pyuffd.serve(pyuffd.Userfaultfd(), [region])


def test_features_that_no_manager_can_serve() -> None:
    with pyuffd.Mapping(4096) as mapping:
        region = pyuffd.Region(mapping.address, mapping.length, pyuffd.ZeroSource())
        with pytest.raises(ValueError, match=r"SIGBUS.*open it without"):
            pyuffd.serve(pyuffd.Userfaultfd(pyuffd.Feature.SIGBUS), [region])
        noted = pyuffd.Region(mapping.address, mapping.length, pyuffd.ZeroSource(), mode="missing+wp")
        with pytest.raises(pyuffd.UnsupportedError, match=r"WP_ASYNC.*scan_written"):
            pyuffd.serve(pyuffd.Userfaultfd(pyuffd.Feature.WP_ASYNC), [noted])


_ROUNDS = 2


def _race_close(area: Area, missing: Any, mode: Any, **options: Any) -> None:
    writes = mode == "missing+wp"
    target = area.serve(mode=mode, **options)
    area.begin_touches(verified=missing != "zero" and not writes, write=writes, passes=3)
    early = random.randrange(area.pages)
    until(lambda: target.stats().pages >= early or target.missing_pages == 0)
    report = target.close(missing)
    assert report.verified is True
    assert area.end_touches() == 12 * area.pages
    assert "wrong" not in (states := set(area.states()))
    assert missing == "zero" or states == {"right"}


@of_kinds()
@pytest.mark.parametrize("ending", ["early-close", "unregister", "auto"])
@pytest.mark.parametrize("missing", ["fill", "zero"])
def test_close_under_faults(map_kind: Any, kind: Kind, ending: Any, missing: Any) -> None:
    """No thread is lost, and every byte is right, or zero where that was asked for."""
    for _ in range(_ROUNDS if not kind.huge else 1):
        _race_close(map_kind(kind), missing, "missing", ending=ending, fault_around=1)


@of_kinds()
@pytest.mark.parametrize("ending", ["early-close", "unregister"])
@FEATURES
def test_close_under_write_faults(map_kind: Any, kind: Kind, ending: Any, features: int) -> None:
    for _ in range(_ROUNDS if not kind.huge else 1):
        _race_close(map_kind(kind), "zero", "missing+wp", ending=ending, features=features, fault_around=1)


@of_kinds([HUGETLB])
def test_hugetlb_memory_with_small_pages_is_refused(map_kind: Any, kind: Kind) -> None:
    area: Area = map_kind(kind)
    received = area.puppet.hand_over([(area.start, area.length, 0, mmap.PAGESIZE)], pyuffd.ZeroSource())
    with pytest.raises(ValueError, match="does not fit its memory"):
        pyuffd.serve(received.uffd, received.regions, pid=received.pid)
    received.uffd.close()


def test_ordinary_memory_with_huge_pages_is_refused(puppet: Any) -> None:
    """A sender may say anything: one COPY of such a page would keep the handler busy for long."""
    huge = 1 << 30
    start = puppet.do("map", 2 * huge, "anonymous")
    start = (start + huge - 1) & ~(huge - 1)
    received = puppet.hand_over([(start, huge, 0, huge)], pyuffd.ZeroSource())
    with pytest.raises(ValueError, match=f"page_size is {huge}, which does not fit its memory"):
        pyuffd.serve(received.uffd, received.regions, pid=received.pid)
    received.uffd.close()
