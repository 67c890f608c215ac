"""The guard: when a manager is killed, nobody reads zeros, and nobody sleeps for ever."""

import contextlib
import dataclasses
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.child import run_child, tell
from support.managers import (
    PAGES,
    Manager,
    Memory,
    comm,
    guard_of,
    guards_of,
    has_ended,
    holds_sleeper,
    holds_userfaultfd,
)
from support.memory import PAGE, Managed
from support.puppet import GoneError, Puppet
from support.state import until

import pyuffd
from pyuffd import _core, _manager, handoff

# A kernel access to a page that is missing still waits for its page.
pytestmark = [pytest.mark.requires_full_userfaultfd, pytest.mark.requires_poison]


@pytest.fixture
def memory(puppet: Puppet) -> Memory:
    return Memory(puppet)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV])
@pytest.mark.parametrize("kind", ["anonymous", "memfd", "memfd-private"])
def test_what_a_killed_manager_owes_is_poisoned(puppet: Puppet, kind: str, number: int) -> None:
    memory = Memory(puppet, kind=kind)
    with Manager() as manager:
        manager.serve(puppet, memory.regions)
        memory.touch(3, 5)
        guard = guard_of(manager.pid)
        manager.signal(number)
        manager.outcome()
        assert memory.states() == ["right" if 3 <= page < 8 else "poisoned" for page in range(PAGES)]
        until(lambda: has_ended(guard), "the guard's end")
        assert f"process {puppet.pid}): {PAGES - 5} missing pages are poisoned" in manager.errors()


def test_without_a_guard_the_kernel_answers_with_zeros(memory: Memory, puppet: Puppet) -> None:
    with Manager(guard=None) as manager:
        manager.serve(puppet, memory.regions)
        memory.touch(0, 1)
        with pytest.raises(AssertionError, match="has 0 guards"):
            guard_of(manager.pid)
        manager.die()
        assert memory.states() == ["right"] + ["zero"] * (PAGES - 1)


def test_a_thread_that_sleeps_is_told(puppet: Puppet) -> None:
    """It gets a SIGBUS, although the dead manager had read its fault."""
    memory = Memory(puppet)
    with Manager(fault_around=1) as manager, puppet.fork() as other:
        manager.serve(puppet, memory.regions, keep=True)
        manager.halt()  # or it would be before the thief
        puppet.do("steal", False)  # its fault is read, and answered by nobody
        puppet.do("touch_beside_thief", memory.start, 4 * PAGE, PAGE, 2)
        manager.die()
        with pytest.raises(GoneError):
            puppet.do("end_stealing")
        assert other.do("map", PAGE, "anonymous")  # and nobody else


@pytest.mark.parametrize("ending", ["auto", "unregister"])
def test_an_ending_is_what_it_was(memory: Memory, puppet: Puppet, ending: str) -> None:
    """The guard lets go first, so that an early close still releases the memory."""
    with Manager(ending=ending) as manager:
        manager.serve(puppet, memory.regions)
        guard = guard_of(manager.pid)
        memory.touch(0, PAGES)
        manager.tell("wait")
        found, verified, seconds = manager.hear()
        assert found == ("early-close" if ending == "auto" else ending)
        assert verified
        assert seconds < 0.1
        assert comm(guard) == "pyuffd-guard"  # for the next target
        manager.tell("end")
        manager.finish()
        until(lambda: has_ended(guard), "the guard's end")
        assert memory.states() == ["right"] * PAGES


def test_the_guard_is_nobody_elses_business(memory: Memory, puppet: Puppet) -> None:
    """It is no child, in another session, ignores what ends a service, and takes little memory."""
    with Manager() as manager:
        manager.serve(puppet, memory.regions)
        guard = guard_of(manager.pid)
        manager.tell("children")
        assert manager.hear() == "none"
        assert os.getsid(guard) != os.getsid(manager.pid)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
            os.kill(guard, number)
        status = Path(f"/proc/{guard}/status").read_text()
        assert int(status.split("VmRSS:")[1].split()[0]) < 4096
        assert int(status.split("Threads:")[1].split()[0]) == 1
        manager.die()
        assert "zero" not in memory.states()


def test_a_guard_that_was_killed_is_replaced(memory: Memory, puppet: Puppet) -> None:
    with Manager() as manager:
        manager.serve(puppet, memory.regions)
        first = guard_of(manager.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: has_ended(first), "the guard's end")

        def replaced() -> bool:
            with contextlib.suppress(AssertionError):
                return holds_userfaultfd(guard_of(manager.pid))
            return False

        until(replaced, "another guard")
        manager.die()
        assert memory.states() == ["poisoned"] * PAGES


def test_a_guard_that_is_stopped_holds_up_no_ending(memory: Memory, puppet: Puppet) -> None:
    with Manager() as manager:
        manager.serve(puppet, memory.regions)
        guard = guard_of(manager.pid)
        os.kill(guard, signal.SIGSTOP)
        memory.touch(0, PAGES)
        manager.tell("wait")
        assert manager.hear()[:2] == ["early-close", True]
        until(lambda: has_ended(guard), "the guard's end")
        other = Memory(puppet)
        manager.serve(puppet, other.regions)
        assert guard_of(manager.pid) != guard
        manager.die()
        assert other.states() == ["poisoned"] * PAGES


def test_one_guard_for_many_targets(puppet: Puppet) -> None:
    memories = [Memory(puppet) for _ in range(20)]
    with Manager() as manager:
        for memory in memories:
            manager.serve(puppet, memory.regions)
        guard = guard_of(manager.pid)
        memories[7].touch(0, PAGES)
        manager.die()
        for number, memory in enumerate(memories):
            assert memory.states() == ["right" if number == 7 else "poisoned"] * PAGES
        until(lambda: has_ended(guard), "the guard's end")


def test_a_fork_of_the_manager_does_not_stand_in_for_it(memory: Memory, puppet: Puppet) -> None:
    with Manager() as manager:
        manager.serve(puppet, memory.regions)
        manager.tell("fork")
        child = manager.hear()
        manager.signal(signal.SIGKILL)
        assert memory.states() == ["poisoned"] * PAGES
        os.kill(child, signal.SIGKILL)
        manager.finish(-signal.SIGKILL)


def test_an_exec_is_the_managers_end(memory: Memory, puppet: Puppet) -> None:
    """Its pidfd does not tell, but its socket is closed."""
    with Manager() as manager:
        manager.serve(puppet, memory.regions)
        manager.tell("exec")
        until(lambda: comm(manager.pid) == "sleep", "the exec")
        assert memory.states() == ["poisoned"] * PAGES


def test_memory_that_was_moved_dropped_and_forked(puppet: Puppet) -> None:
    """The ledger follows the events of a living target."""
    memory = Memory(puppet)
    place = puppet.do("map", PAGES * PAGE, "anonymous")
    puppet.do("unmap", place, PAGES * PAGE)
    with Manager() as manager:
        manager.serve(puppet, memory.regions, features=pyuffd.Feature.EVENTS)
        memory.touch(0, 4)
        puppet.do("advise", memory.start + 2 * PAGE, 4 * PAGE, 4)  # MADV_DONTNEED: two that were there, two missing
        half = PAGES // 2
        puppet.do("move", memory.start + half * PAGE, half * PAGE, half * PAGE, place + half * PAGE)
        with puppet.fork() as child:
            memory.touch(10, 1, child)
            memory.touch(11, 1)
            manager.die()
            for each, touched in ((puppet, 11), (child, 10)):
                stayed, moved = memory.states(each)[:half], memory.states(each, place)[half:]
                assert stayed == [
                    "right" if page < 2 or page == touched else "zero" if page < 6 else "poisoned"
                    for page in range(half)
                ]
                assert moved == ["poisoned"] * half


@pytest.mark.parametrize(("beyond", "state"), [(None, "poisoned"), ("poison", "poisoned"), ("zero", "zero")])
def test_registered_memory_that_no_region_names(memory: Memory, puppet: Puppet, beyond: Any, state: str) -> None:
    parts = [PAGES // 4, PAGES // 2, PAGES // 4]
    starts = [memory.start + sum(parts[:number]) * PAGE for number in range(3)]
    regions = [(start, pages * PAGE, start - memory.start, PAGE) for start, pages in zip(starts, parts, strict=True)]
    received = puppet.hand_over(regions, pyuffd.ZeroSource())
    with Manager(beyond=beyond) as manager:
        manager.serve_received(dataclasses.replace(received, regions=[received.regions[1]]))
        memory.touch(parts[0], 2)
        manager.die()
        expected = [state] * parts[0] + ["right"] * 2 + ["poisoned"] * (parts[1] - 2) + [state] * parts[2]
        assert memory.states() == expected


def test_a_region_of_several_mappings(memory: Memory, puppet: Puppet) -> None:
    """The kernel poisons no run that lies in two of them."""
    with Manager() as manager:
        manager.serve(puppet, memory.regions)
        memory.touch(20, 1)
        puppet.do("advise", memory.start + 7 * PAGE, 3 * PAGE, 16)  # MADV_DONTDUMP: three mappings
        manager.die()
        assert memory.states() == ["right" if page == 20 else "poisoned" for page in range(PAGES)]


def test_memory_that_is_not_registered_yet(memory: Memory, puppet: Puppet) -> None:
    with Manager(registered=False) as manager:
        manager.serve(puppet, memory.regions, keep=True, register=False)
        guard = guard_of(manager.pid)
        manager.die()
        puppet.do("register", memory.start, PAGES * PAGE, "missing")
        assert memory.states() == ["poisoned"] * PAGES
        assert comm(guard) == "pyuffd-guard"  # as long as the target lives


@pytest.mark.parametrize("read", [False, True])
def test_a_fault_that_came_before_the_death_is_answered(memory: Memory, puppet: Puppet, read: bool) -> None:
    """Of memory that the ledger does not know; the manager has read it, or the guard meets its message."""
    other = puppet.do("map", PAGE, "anonymous")
    with Manager(registered=False) as manager:
        manager.serve(puppet, memory.regions, keep=True, register=False)
        if not read:
            manager.halt()
        puppet.do("register", other, PAGE, "missing")
        puppet.post("readable", other)
        until(lambda: holds_sleeper(manager.pid, read=read), "a thread that sleeps")
        manager.die()
        assert puppet.answer() is False


def test_a_kill_at_any_moment(puppet: Puppet) -> None:
    """No page is ever zero or wrong, and nobody sleeps for ever."""
    chance = random.Random(7)
    pages = 2048
    poisoned = 0
    for _ in range(12):
        memory = Memory(puppet, pages)
        with Manager(pages) as manager:
            manager.serve(puppet, memory.regions)
            manager.tell("fill")
            time.sleep(chance.random() * 2e-3)  # where it is killed
            manager.die()
        readable = [puppet.do("readable", memory.start + page * PAGE) for page in range(pages)]
        poisoned += readable.count(False)
        for page in range(pages):
            if readable[page]:
                memory.touch(page, 1)
        puppet.do("unmap", memory.start, pages * PAGE)
    assert poisoned > 0


def without_descriptors() -> None:
    memory = Managed(pages=2)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handoff.send(theirs, pyuffd.Userfaultfd(), [(memory.start, memory.length, 0, PAGE)])
        got = handoff.receive(ours, memory.source)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    used = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
    try:
        pyuffd.serve(got.uffd, got.regions, pid=child.pid)
    except OSError as error:
        tell(str(error))
    child.kill()


def test_a_guard_that_cannot_be_is_told() -> None:
    assert "Too many open files" in run_child(without_descriptors)


def without_program() -> None:
    memory = Managed(pages=2)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handoff.send(theirs, pyuffd.Userfaultfd(), [(memory.start, memory.length, 0, PAGE)])
        got = handoff.receive(ours, memory.source)
    _manager._GUARD.path = Path("/nowhere/pyuffd-guard")
    _manager._GUARD._file = None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        try:
            pyuffd.serve(got.uffd, got.regions, pid=other.pid)
        except OSError as error:
            tell(str(error))
        pyuffd.serve(got.uffd, got.regions, pid=other.pid, guard=None).close("zero")


def test_a_guard_that_is_missing_is_told() -> None:
    found = run_child(without_program)
    assert "/nowhere/pyuffd-guard" in found
    assert "guard=None" in found


@pytest.mark.parametrize("guard", ["hold", "", 1, True])
def test_what_no_guard_does_is_told(guard: Any) -> None:
    memory = Managed(pages=2)
    with pytest.raises((ValueError, TypeError), match="guard"):
        memory.serve(guard=guard)


def test_memory_of_this_process_has_no_guard() -> None:
    memory = Managed(pages=4)
    with memory.serve():
        memory.touch()


@pytest.fixture
def lonely() -> Iterator[subprocess.Popen[str]]:
    guard = Path(_core.__file__).with_name("pyuffd-guard")
    with subprocess.Popen([guard], stderr=subprocess.PIPE, text=True) as process:
        yield process


def test_the_program_says_what_it_is_for(lonely: "subprocess.Popen[str]") -> None:
    assert lonely.stderr is not None
    assert "is started by pyuffd" in lonely.stderr.read()
    assert lonely.wait() == 2


@pytest.mark.parametrize("ending", ["auto", "keep-open"])
@pytest.mark.parametrize("missing", ["fill", "poison"])
def test_sigterm_finishes_the_targets(memory: Memory, puppet: Puppet, missing: str, ending: str) -> None:
    with Manager(on_sigterm={"missing": missing}, ending=ending) as manager:
        manager.serve(puppet, memory.regions)
        memory.touch(3, 5)
        guard = guard_of(manager.pid)
        manager.signal(signal.SIGTERM)
        assert manager.outcome()[1] == -signal.SIGTERM
        other = "right" if missing == "fill" else "poisoned"
        assert memory.states() == ["right" if 3 <= page < 8 else other for page in range(PAGES)]
        until(lambda: has_ended(guard), "the guard's end")
        assert "pyuffd-guard" not in manager.errors()  # it had nothing to do


def test_what_sigterm_cannot_fill_in_time_is_the_guards(memory: Memory, puppet: Puppet) -> None:
    with Manager(on_sigterm={"timeout": 0.2}, image="hung") as manager:
        manager.serve(puppet, memory.regions)
        memory.touch(0, 1)
        manager.signal(signal.SIGTERM)
        assert manager.outcome()[1] == -signal.SIGTERM
        assert memory.states() == ["right"] + ["poisoned"] * (PAGES - 1)


def test_a_handler_of_sigterm_that_was_there_is_called_afterwards() -> None:
    code = """
import os, signal, pyuffd
signal.signal(signal.SIGTERM, lambda number, frame: print("called", flush=True))
pyuffd.on_sigterm()
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
print("and goes on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["called", "called", "and goes on"]


def test_sigterm_is_refused_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="missing is 'zero'"):
        pyuffd.on_sigterm("zero")  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [0, 1])
def test_two_guards_need_three_deaths(memory: Memory, puppet: Puppet, first: int) -> None:
    """The manager and one guard are killed at once: the other guard poisons."""
    with Manager(guards=2) as manager:
        manager.serve(puppet, memory.regions)
        memory.touch(3, 5)
        guards = guards_of(manager.pid)
        assert len(guards) == 2
        os.kill(guards[first], signal.SIGSTOP)  # it does nothing before it dies
        os.kill(guards[first], signal.SIGKILL)
        manager.die()
        assert memory.states() == ["right" if 3 <= page < 8 else "poisoned" for page in range(PAGES)]
        until(lambda: all(map(has_ended, guards)), "the end of the guards")


def test_two_guards_let_go_before_an_ending(memory: Memory, puppet: Puppet) -> None:
    with Manager(guards=2) as manager:
        manager.serve(puppet, memory.regions)
        guards = guards_of(manager.pid)
        memory.touch(0, PAGES)
        manager.tell("wait")
        found, verified, _ = manager.hear()
        assert (found, verified) == ("early-close", True)
        manager.tell("end")
        manager.finish()
        until(lambda: all(map(has_ended, guards)), "the end of the guards")
        assert manager.errors() == ""


def _kill_and_await_another(manager: int, guard: int) -> None:
    os.kill(guard, signal.SIGKILL)

    def whole() -> bool:
        found = guards_of(manager)
        return len(found) == 2 and guard not in found and all(map(holds_userfaultfd, found))

    until(whole, "two guards again")


def test_each_of_two_guards_is_replaced(memory: Memory, puppet: Puppet) -> None:
    with Manager(guards=2) as manager:
        manager.serve(puppet, memory.regions)
        for turn in range(2):
            _kill_and_await_another(manager.pid, guards_of(manager.pid)[turn])
        one = guards_of(manager.pid)[0]
        os.kill(one, signal.SIGKILL)
        manager.die()
        assert memory.states() == ["poisoned"] * PAGES


def test_guards_are_one_or_two() -> None:
    with pytest.raises(ValueError, match="guards is 3"):
        pyuffd.Manager(guards=3)
