"""Transparent huge pages after the ending."""

import ctypes
import mmap
import socket
from pathlib import Path

import pytest
from support.child import Child, become_nobody, hear, tell
from support.memory import PAGE, Managed, huge_bytes

import pyuffd

HUGE = 2 << 20


def _can_collapse() -> bool:
    path = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
    memory = mmap.mmap(-1, 2 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[:] = b"x" * len(memory)
    aligned = (start + HUGE - 1) // HUGE * HUGE
    return path.exists() and ctypes.CDLL(None).madvise(ctypes.c_void_p(aligned), HUGE, 25) == 0


pytestmark = pytest.mark.skipif(not _can_collapse(), reason="this kernel lacks MADV_COLLAPSE (Linux 6.1)")


def test_own_memory_is_collapsed_after_the_ending() -> None:
    memory = Managed(pages=6 * HUGE // PAGE)
    inside = memory.length // HUGE - (memory.start % HUGE != 0)
    with pyuffd.serve(pyuffd.Userfaultfd(), [memory.region()], collapse=True) as target:
        target.fill()
        assert target.wait(20, progress=False)
        report = target.close()
    assert report.verified
    assert report.collapsed_bytes == inside * HUGE
    assert huge_bytes(memory.start) >= report.collapsed_bytes
    memory.touch()


def test_it_is_not_done_unasked() -> None:
    memory = Managed(pages=3 * HUGE // PAGE)
    with memory.serve() as target:
        target.fill()
    assert target.close().collapsed_bytes is None


def test_ranges_too_short_are_not_collapsed() -> None:
    memory = Managed(pages=10)
    with pyuffd.serve(pyuffd.Userfaultfd(), [memory.region()], collapse=True) as target:
        target.fill()
    assert target.close().collapsed_bytes == 0
    assert memory.states() == ["right"] * 10


def hand_over(fd: int, pages: int) -> None:
    memory = Managed(pages=pages)
    with socket.socket(fileno=fd) as sock:
        pyuffd.handoff.send(sock, pyuffd.Userfaultfd(), [(memory.start, memory.length, 0, PAGE)])
    tell(memory.start)
    hear()
    memory.touch()


def serve_as_nobody(fd: int) -> None:
    become_nobody()
    with socket.socket(fileno=fd) as sock:
        got = pyuffd.handoff.receive(sock, pyuffd.ZeroSource())
    try:
        pyuffd.serve(got.uffd, got.regions, pid=got.pid, collapse=True)
    except pyuffd.UnsupportedError as error:
        tell(str(error))
    pyuffd.serve(got.uffd, got.regions, pid=got.pid).close("zero")


@pytest.mark.requires_full_userfaultfd
def test_another_process() -> None:
    ours, theirs = socket.socketpair()
    image = Managed(pages=6 * HUGE // PAGE)
    with ours, theirs, Child(hand_over, theirs.fileno(), image.pages, sockets=[theirs]) as child:
        got = pyuffd.handoff.receive(ours, image.source)
        with pyuffd.serve(got.uffd, got.regions, pid=got.pid, collapse=True) as target:
            target.fill()
        report = target.close()
        assert report.collapsed_bytes is not None
        assert report.collapsed_bytes >= 5 * HUGE
        assert huge_bytes(child.hear(), child.pid) >= report.collapsed_bytes
        child.tell("touch")
        child.finish()


@pytest.mark.requires_full_userfaultfd
def test_another_process_takes_a_capability() -> None:
    ours, theirs = socket.socketpair()
    memory = Managed(pages=4)
    with ours, theirs, Child(serve_as_nobody, theirs.fileno(), sockets=[theirs]) as manager:
        pyuffd.handoff.send(ours, pyuffd.Userfaultfd(), [(memory.start, memory.length, 0, PAGE)])
        assert "CAP_SYS_NICE" in manager.hear()
        manager.finish()


@pytest.mark.requires_hugetlb
@pytest.mark.usefixtures("huge_pages")
def test_hugetlb_memory_is_refused() -> None:
    memory, uffd = Managed(pages=2, kind="hugetlb"), pyuffd.Userfaultfd()
    with pytest.raises(ValueError, match="hugetlb memory already"):
        pyuffd.serve(uffd, [memory.region()], collapse=True)
    uffd.close()
