"""A target waits until nothing of it is missing."""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.kinds import ANONYMOUS, Area, Kind
from support.managers import Manager, Memory
from support.memory import PAGE
from support.puppet import Puppet

import pyuffd
from pyuffd import handoff

pytestmark = pytest.mark.requires_full_userfaultfd

Map = Callable[[Kind], Area]


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def _served(area: Area, **options: Any) -> Iterator[pyuffd.Target]:
    got = area.puppet.hand_over([(area.start, area.length, 0, area.page)], area.source, completion=True)
    assert got.completion is not None
    with got.completion:
        target = pyuffd.serve(got.uffd, got.regions, pid=got.pid, completion=got.completion, **options)
    with target:
        yield target


@pytest.mark.parametrize(
    ("ending", "told"), [("auto", "early-close"), ("unregister", "unregister"), ("keep-open", "keep-open")]
)
def test_it_returns_when_nothing_is_missing(map_kind: Map, ending: Any, told: str) -> None:
    area = map_kind(ANONYMOUS)
    with _served(area, ending=ending, fault_around=1) as target:
        area.touch(0, area.pages - 1)
        with pytest.raises(OSError, match="still missing"):
            area.puppet.do("wait_complete", 0.05)
        assert target.missing_pages == 1
        area.touch(area.pages - 1, 1)
        assert area.puppet.do("wait_complete") == {"ending": told, "poisoned_bytes": 0}
        if ending != "keep-open":  # the memory is released by then
            assert not area.puppet.do("is_registered", area.start)


@pytest.mark.requires_poison
def test_it_tells_what_is_poisoned(map_kind: Map) -> None:
    area = map_kind(ANONYMOUS)
    with _served(area, fault_around=1) as target:
        area.touch(0, 3)
        target.close("poison")
        assert area.puppet.do("wait_complete")["poisoned_bytes"] == (area.pages - 3) * PAGE


@pytest.mark.parametrize("how", ["zero", "stop", "killed"])
def test_a_target_that_nobody_completes_is_told(map_kind: Map, puppet: Puppet, how: str) -> None:
    if how == "killed":
        memory = Memory(puppet)
        with Manager(guard=None) as manager:
            manager.serve(puppet, memory.regions, completion=True)
            manager.die()
    else:
        area = map_kind(ANONYMOUS)
        puppet = area.puppet
        with _served(area, ending="keep-open") as target:
            target.stop().close() if how == "stop" else target.close("zero")
            if how == "zero":
                target.stop().close()
    with pytest.raises(OSError, match="hung up"):
        puppet.do("wait_complete")


def test_the_next_manager_tells(puppet: Puppet) -> None:
    memory = Memory(puppet)
    with Manager(guard="manager") as first, Manager(guard="manager") as second:
        first.serve(puppet, memory.regions, completion=True)
        first.die()
        assert second.take_over(first) == 1
        with pytest.raises(OSError, match="still missing"):
            puppet.do("wait_complete", 0.05)
        second.tell("fill")
        assert puppet.do("wait_complete")["ending"] == "early-close"


@pytest.mark.requires_poison
def test_a_guard_that_poisons_hangs_up(puppet: Puppet) -> None:
    memory = Memory(puppet)
    with Manager() as manager:
        manager.serve(puppet, memory.regions, completion=True)
        manager.die()
        with pytest.raises(OSError, match="hung up"):
            puppet.do("wait_complete")


def test_nobody_waits_for_a_target_that_does_not_read(map_kind: Map) -> None:
    area = map_kind(ANONYMOUS)
    with _served(area) as target:
        area.touch()
        assert target.wait(20, progress=False)


@pytest.mark.parametrize("line", [b"[]\n", b"{}\n", b"hello", b'{"ending": 1, "poisoned_bytes": "many"}\n', b"\xff"])
def test_garbage_is_refused(line: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(line)
        with pytest.raises(ConnectionError, match="not of this version"):
            handoff.wait_complete(ours, 5)


def test_who_does_not_ask_gets_no_descriptor(puppet: Puppet) -> None:
    start = puppet.do("map", PAGE, "anonymous")
    before = _descriptors()
    got = puppet.hand_over([(start, PAGE, 0, PAGE)], pyuffd.ZeroSource())
    assert got.completion is None
    assert _descriptors() == before + 1
    got.uffd.close()


def test_other_programs_see_what_they_know() -> None:
    """The message is Firecracker's, and the key one more of each region."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pyuffd.Mapping(PAGE) as mapping:
        handoff.send(ours, pyuffd.Userfaultfd(), [(mapping.address, PAGE, 0, PAGE)], completion=True)
        text, (fd,), _, _ = socket.recv_fds(theirs, 4096, 1)
        os.close(fd)
    (region,) = json.loads(text)
    assert region.pop("completion") is True
    assert set(region) == {"base_host_virt_addr", "size", "offset", "page_size", "mode"}
