"""The interpreter exits with a live target: what is missing is filled first, and no zero is left behind."""

import atexit
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import pytest
from support.child import Child, hear, run_child, tell
from support.memory import PAGE, Managed

import pyuffd
from pyuffd import _exit


def look(fd: int) -> None:
    """Have memory, and hand it over; when told, look at every byte."""
    memory = Managed(pages=200)
    with socket.socket(fileno=fd) as sock:
        uffd = pyuffd.Userfaultfd(user_mode_only=True)
        pyuffd.handoff.send(sock, uffd, [(memory.start, memory.length, 0, PAGE)])
    hear()
    states = memory.states()
    tell([states.count("right"), states.count("zero")])


def serve(fd: int, ending: pyuffd.Ending = "auto") -> pyuffd.Target:
    """Be the manager of what comes."""
    twin = Managed(pages=200)
    with socket.socket(fileno=fd) as sock:
        got = pyuffd.handoff.receive(sock, twin.source)
    return pyuffd.serve(got.uffd, got.regions, pid=got.pid, ending=ending)


HELD: list[object] = []


def fill_and_exit(target: pyuffd.Target) -> None:
    target.fill()
    sys.exit(0)


def hold_in_a_cycle(target: pyuffd.Target) -> None:
    cycle: list[object] = [target]
    cycle.append(cycle)
    HELD.append(cycle)


def wait_for_an_interrupt(target: pyuffd.Target) -> None:
    HELD.append(target)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(20)


def fail(target: pyuffd.Target) -> None:
    HELD.append(target)
    raise ValueError("no")


LEAVE: dict[str, Callable[[pyuffd.Target], object]] = {
    "end": HELD.append,
    "sys.exit": lambda target: sys.exit(0),
    "filling": fill_and_exit,
    "atexit": lambda target: atexit.register(target.stats),
    "cycle": hold_in_a_cycle,
    "failing": fail,
    "interrupted": wait_for_an_interrupt,
}


def serve_and_leave(fd: int, leave: str, ending: pyuffd.Ending) -> None:
    LEAVE[leave](serve(fd, ending))


@pytest.mark.parametrize("leave", ["end", "sys.exit", "filling", "atexit", "cycle"])
@pytest.mark.parametrize("ending", ["auto", "unregister", "keep-open"])
def test_a_manager_that_exits_at_once_has_filled_the_target(leave: str, ending: str) -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        Child(look, theirs.fileno(), sockets=[theirs]) as target,
        Child(serve_and_leave, ours.fileno(), leave, ending, sockets=[ours]) as child,
    ):
        child.finish()
        target.tell("look")
        assert target.hear() == [200, 0]
        target.finish()


@pytest.mark.parametrize(("leave", "code"), [("failing", 1), ("interrupted", -signal.SIGINT)])
def test_a_manager_that_fails_has_filled_the_target(leave: str, code: int) -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        Child(look, theirs.fileno(), sockets=[theirs]) as target,
        Child(serve_and_leave, ours.fileno(), leave, "auto", sockets=[ours]) as child,
    ):
        child.finish(code)
        target.tell("look")
        assert target.hear() == [200, 0]
        target.finish()


def exit_in_one_process(count: int) -> None:
    memories = [Managed(pages=50, seed=seed) for seed in range(count)]
    manager = pyuffd.Manager()
    targets = [manager.add(pyuffd.Userfaultfd(), [memory.region()]) for memory in memories]
    alone = Managed(pages=50)
    targets.append(alone.serve())
    # As if it had been registered before pyuffd was imported: it runs last.
    atexit.unregister(_exit.fill_all)
    atexit.register(lambda: tell([memory.states().count("right") for memory in [*memories, alone]]))
    atexit.register(_exit.fill_all)
    HELD.extend(targets)


@pytest.mark.requires_full_userfaultfd
@pytest.mark.parametrize("count", [1, 5])
def test_in_one_process(count: int) -> None:
    """A handler registered before pyuffd's import runs after ours: it sees the filled memory."""
    assert run_child(exit_in_one_process, count) == [50] * (count + 1)


def leave_while_threads_fault() -> None:
    memory = Managed(pages=3000)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))  # never unmapped under its touchers
    HELD.append(memory.serve(fault_around=1))
    HELD.append(memory.toucher(threads=4, order="random", passes=0))
    tell("exit")


@pytest.mark.requires_full_userfaultfd
def test_exit_while_threads_fault() -> None:
    assert run_child(leave_while_threads_fault) == "exit"


def leave_with_every_kind_of_target() -> tuple[object, ...]:
    memories = [Managed(pages=20, seed=seed) for seed in range(6)]
    ended = memories[0].serve()
    ended.close("fill")
    kept = memories[1].serve(ending="keep-open")
    kept.close()
    stopped = memories[2].serve(ending="keep-open")
    uffd = stopped.stop()
    live = memories[3].serve()
    manager = pyuffd.Manager()
    managed = manager.add(pyuffd.Userfaultfd(), [memories[4].region()])
    lazy = pyuffd.lazy_array(pyuffd.MemorySource(memories[5].data), "u1", memories[5].length)
    tell("exit")
    return memories, ended, kept, uffd, live, managed, lazy


@pytest.mark.requires_full_userfaultfd
def test_exit_with_every_kind_of_target() -> None:
    assert run_child(leave_with_every_kind_of_target) == "exit"
