"""The main promises in one file: if only one is run, this is the one."""

import socket

import numpy as np
import pytest
from support.child import Child, hear, tell
from support.memory import PAGE, Managed

import pyuffd


@pytest.mark.requires_full_userfaultfd
def test_in_one_process_touched_pages_have_their_bytes_and_the_target_ends_by_itself() -> None:
    memory = Managed(pages=64)
    with memory.serve() as target:
        memory.touch(threads=4, order="random")
        assert target.wait(timeout=20, progress=False)
        report = target.close()
    assert report.missing_pages == 0
    assert report.verified is True
    assert report.poisoned == ()
    assert memory.states() == ["right"] * 64


def across_two_processes_child(fd: int, seed: int) -> None:
    memory = Managed(pages=256, seed=seed)
    with socket.socket(fileno=fd) as sock:
        uffd = pyuffd.Userfaultfd(user_mode_only=True)
        pyuffd.handoff.send(sock, uffd, [(memory.start, memory.length, 0, PAGE)])
        touches = memory.touch(0, 128, threads=2, order="random")
        tell(touches.wrong_pages)
        hear()
        tell(memory.states().count("right"))


@pytest.mark.parametrize("ending", ["auto", "early-close", "unregister"])
def test_across_two_processes(ending: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Child(across_two_processes_child, theirs.fileno(), 5, sockets=[theirs]) as child:
        twin = Managed(pages=256, seed=5)  # has the same bytes
        got = pyuffd.handoff.receive(ours, twin.source)
        assert got.pid == child.pid
        with pyuffd.serve(got.uffd, got.regions, pid=got.pid, ending=ending) as target:  # type: ignore[arg-type]
            assert child.hear() == 0
            target.fill()
            assert target.wait(timeout=20, progress=False)
            report = target.close()
        assert report.missing_pages == 0
        assert report.verified is not False
        assert ending == "auto" or report.ending == ending
        child.tell("go on")
        assert child.hear() == 256
        child.finish()


def test_missing_pages_are_never_a_silent_zero() -> None:
    memory = Managed(pages=8)
    uffd = pyuffd.Userfaultfd(user_mode_only=None)
    with pyuffd.serve(uffd, [memory.region()], fault_around=1) as target:
        memory.touch(0, 3)
        with pytest.raises(pyuffd.MissingPagesError, match="5 pages of 8 are missing"):
            target.close()
        memory.touch(3, 1)  # served on
    assert memory.states() == ["right"] * 8  # leaving the block filled it


def test_lazy_array() -> None:
    image = np.arange(10 * PAGE, dtype=np.uint8)
    array = pyuffd.lazy_array(pyuffd.MemorySource(image), np.uint8, (10, PAGE))
    target = pyuffd.target_of(array)
    target.fill()
    assert target.wait(timeout=20, progress=False)
    assert (array.ravel() == image).all()
