"""Take-over: a manager that died is replaced, and its targets go on with every byte right."""

import contextlib
import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest
from support.child import become_nobody, run_child, tell
from support.managers import PAGES, SEED, Manager, Memory, comm, guard_of, guards_of, has_ended, holds_sleeper
from support.memory import PAGE, random_bytes
from support.puppet import Puppet
from support.state import until

import pyuffd

pytestmark = pytest.mark.requires_full_userfaultfd


def source(pages: int = PAGES) -> pyuffd.Source:
    return pyuffd.MemorySource(random_bytes(pages * PAGE, SEED))


@pytest.fixture
def memory(puppet: Puppet) -> Memory:
    return Memory(puppet)


def test_a_manager_that_died_is_replaced(memory: Memory, puppet: Puppet) -> None:
    with Manager(guard="manager") as first:
        first.serve(puppet, memory.regions)
        memory.touch(3, 5)
        guard = guard_of(first.pid)
        first.die()
        assert comm(guard) == "pyuffd-guard"
        with pyuffd.take_over(first.pid, source()) as manager:
            (target,) = manager.targets
            assert target.pid == puppet.pid
            assert target.missing_pages == PAGES - 5  # the last one, too, which was perhaps not noted yet
            until(lambda: has_ended(guard), "the end of the first guard")
            assert memory.states() == ["right"] * PAGES
            assert target.wait(20, progress=False)
            report = target.close()
            assert (report.ending, report.verified, report.missing_pages) == ("early-close", True, 0)
        assert not pyuffd.guard_path(first.pid).exists()


def test_a_thread_that_sleeps_goes_on(puppet: Puppet) -> None:
    """Although the dead manager had read its fault, and nobody is told of it again."""
    memory = Memory(puppet)
    with Manager(guard="manager", fault_around=1) as first:
        first.serve(puppet, memory.regions, keep=True)
        first.halt()  # or it would be before the thief
        puppet.do("steal", False)
        puppet.do("touch_beside_thief", memory.start, 8 * PAGE, PAGE, 2)
        first.die()
        with pyuffd.take_over(first.pid, source()):
            assert puppet.do("end_stealing") >= 2
            assert memory.states() == ["right"] * PAGES


def test_a_thread_that_sleeps_outside_all_regions_goes_on(memory: Memory, puppet: Puppet) -> None:
    other = puppet.do("map", PAGE, "anonymous")
    with Manager(guard="manager", registered=False, beyond="zero") as first:
        first.serve(puppet, memory.regions, keep=True, register=False)
        puppet.do("register", memory.start, PAGES * PAGE, "missing")
        puppet.do("register", other, PAGE, "missing")
        puppet.post("readable", other)
        until(lambda: holds_sleeper(first.pid, read=True), "a thread that sleeps")
        first.die()
        with pyuffd.take_over(first.pid, source()) as manager:
            manager.targets[0].registered()
            assert puppet.answer() is True


def test_it_waits_for_the_death(memory: Memory, puppet: Puppet) -> None:
    with Manager(guard="manager") as first, Manager(guard="manager") as second:
        first.serve(puppet, memory.regions)
        with pytest.raises(TimeoutError, match="still serves its targets"):
            pyuffd.take_over(first.pid, source(), timeout=0.05)
        second.tell(first.pid)
        memory.touch(0, 4)
        first.die()
        assert second.hear() == 1
        assert memory.states() == ["right"] * PAGES


def test_moved_dropped_and_forked_memory_is_as_it_was(puppet: Puppet) -> None:
    memory = Memory(puppet)
    place = puppet.do("map", PAGES * PAGE, "anonymous")
    puppet.do("unmap", place, PAGES * PAGE)
    half = PAGES // 2
    with Manager(guard="manager") as first, Manager(guard="manager") as second:
        first.serve(puppet, memory.regions, features=pyuffd.Feature.EVENTS)
        memory.touch(0, 4)
        puppet.do("advise", memory.start + 2 * PAGE, 4 * PAGE, 4)  # MADV_DONTNEED
        puppet.do("move", memory.start + half * PAGE, half * PAGE, half * PAGE, place + half * PAGE)
        with puppet.fork() as child:
            memory.touch(10, 1, child)
            memory.touch(11, 1)
            first.die()
            assert second.take_over(first) == 2
            # Events go on as well.
            puppet.do("advise", memory.start + 20 * PAGE, PAGE, 4)
            for each in (puppet, child):
                stayed, moved = memory.states(each)[:half], memory.states(each, place)[half:]
                dropped = {2, 3, 4, 5} | ({20} if each is puppet else set())
                assert stayed == ["zero" if page in dropped else "right" for page in range(half)]
                assert moved == ["right"] * half
            with child.fork() as grandchild:
                assert memory.states(grandchild)[:half].count("right") == half - 4


def test_writes_are_tracked_on(puppet: Puppet) -> None:
    memory = Memory(puppet)
    with Manager(guard="manager") as first:
        first.serve(puppet, memory.regions, mode="missing+wp")
        memory.touch(0, 10)
        puppet.do("write", memory.start + 3 * PAGE, "ff")
        first.die()
        with pyuffd.take_over(first.pid, source()) as manager:
            (target,) = manager.targets
            puppet.do("write", memory.start + 5 * PAGE, "ff")
            puppet.do("write", memory.start + 30 * PAGE, "ff")
            assert target.written() == [(memory.start + page * PAGE, PAGE) for page in (3, 5, 30)]


@pytest.mark.requires_poison
def test_what_was_poisoned_stays_so(puppet: Puppet) -> None:
    memory = Memory(puppet, kind="memfd")
    with Manager(guard="manager") as first:
        first.serve(puppet, memory.regions, features=pyuffd.Feature.EVENTS)
        memory.touch(0, 2)
        puppet.do("advise", memory.start + 4 * PAGE, 2 * PAGE, 4)  # of shared memory: nothing tells how
        first.die()
        with pyuffd.take_over(first.pid, source()):
            assert memory.states() == ["poisoned" if page in (4, 5) else "right" for page in range(PAGES)]


def test_many_targets_and_many_deaths(puppet: Puppet) -> None:
    memories = [Memory(puppet) for _ in range(8)]
    with Manager(guard="manager") as first:
        for memory in memories:
            first.serve(puppet, memory.regions)
        managers = [first]
        for generation in range(3):
            for memory in memories:
                memory.touch(generation, 1)
            managers[-1].die()
            following = Manager(guard="manager")
            assert following.take_over(managers[-1]) == len(memories)
            managers.append(following)
        for memory in memories:
            assert memory.states() == ["right"] * PAGES
        managers[-1].tell("end")
        managers[-1].finish()
        for manager in managers[1:]:
            manager.__exit__(None, None, None)


@pytest.mark.requires_poison
def test_where_nobody_will_come_what_is_missing_is_poisoned(memory: Memory, puppet: Puppet) -> None:
    with Manager(guard="manager") as first:
        first.serve(puppet, memory.regions)
        memory.touch(3, 5)
        guard = guard_of(first.pid)
        with pytest.raises(TimeoutError):
            pyuffd.give_up(first.pid, timeout=0.05)
        first.die()
        pyuffd.give_up(first.pid)
        assert memory.states() == ["right" if 3 <= page < 8 else "poisoned" for page in range(PAGES)]
        until(lambda: has_ended(guard), "the guard's end")
        assert not pyuffd.guard_path(first.pid).exists()


def inherit(managers: list[Manager], pages: int) -> pyuffd.Manager:
    """Take over from the guards of these dead managers: some targets may be of one, and some of another."""
    inheritor = pyuffd.Manager()
    taken = []
    for manager in managers:
        with contextlib.suppress(ConnectionError):
            taken += inheritor.take_over(manager.pid, source(pages), timeout=20)
    assert len(taken) == 1
    return inheritor


def test_a_kill_at_any_moment(puppet: Puppet) -> None:
    """Of the first manager, and of the one that takes over: in the end every byte is right."""
    chance = random.Random(11)
    pages = 1024
    for _ in range(8):
        memory = Memory(puppet, pages)
        with Manager(pages, guard="manager") as first, Manager(pages, guard="manager") as second:
            first.serve(puppet, memory.regions, features=pyuffd.Feature.EVENTS)
            first.tell("fill")
            time.sleep(chance.random() * 2e-3)  # where it is killed
            second.tell(first.pid)
            first.die()
            time.sleep(chance.random() * 8e-3)
            second.die()
            if puppet.do("is_registered", memory.start):
                with inherit([first, second], pages):
                    memory.touch(0, pages)
            memory.touch(0, pages)  # it may have been complete before
        puppet.do("unmap", memory.start, pages * PAGE)


def test_nobody_to_take_over_from() -> None:
    with pytest.raises(ConnectionError, match=r"no guard listens at .*guard='manager'"):
        pyuffd.take_over(os.getppid(), source())
    with pytest.raises(ValueError, match="its own process"):
        pyuffd.take_over(os.getpid(), source())
    with pytest.raises(ConnectionError, match="no guard listens"):
        pyuffd.take_over("/nowhere/guard.sock", source())


@pytest.mark.parametrize("sources", [[], [1], "text", None])
def test_sources_that_are_none(sources: object) -> None:
    with pytest.raises(TypeError):
        pyuffd.take_over("/nowhere", sources or [None])  # type: ignore[arg-type]


def test_too_few_sources_leave_the_targets_to_the_guard(memory: Memory, puppet: Puppet) -> None:
    with Manager(guard="manager") as first:
        first.serve(puppet, memory.regions)
        first.die()
        with pytest.raises(ValueError, match="only 0 sources were given"):
            pyuffd.take_over(first.pid, [])
        with pytest.raises(ValueError, match="shorter than the region"):
            pyuffd.take_over(first.pid, source(1))
        with pyuffd.take_over(first.pid, source()):
            assert memory.states() == ["right"] * PAGES


def take_over_as_nobody(path: str) -> None:
    become_nobody()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.connect(path)
            tell(sock.recv(100) == b"")
        except PermissionError:
            tell(True)


@pytest.mark.requires_root
def test_another_user_gets_nothing(memory: Memory, puppet: Puppet, tmp_path: Path) -> None:
    with Manager(guard="manager") as first:
        first.serve(puppet, memory.regions)
        path = pyuffd.guard_path(first.pid)
        open_to_all = Path("/tmp", path.name)
        path.rename(open_to_all)
        open_to_all.chmod(0o777)
        first.die()
        try:
            assert run_child(take_over_as_nobody, open_to_all)
            with pyuffd.take_over(open_to_all, source()):
                assert memory.states() == ["right"] * PAGES
        finally:
            open_to_all.unlink(missing_ok=True)


def test_a_target_that_dies_meanwhile_holds_nobody(first_puppet: Puppet) -> None:
    with Manager(guard="manager") as manager, first_puppet.fork() as doomed:
        memory = Memory(doomed)
        manager.serve(doomed, memory.regions)
        guard = guard_of(manager.pid)
        manager.die()
        doomed.kill()
        first_puppet.do("reap", doomed.pid)
        until(lambda: has_ended(guard), "the guard's end")
        pyuffd.guard_path(manager.pid).unlink()


@pytest.mark.parametrize("dies", ["nobody", "the first guard", "the second guard"])
def test_two_guards_hand_over_once(memory: Memory, puppet: Puppet, dies: str) -> None:
    with Manager(guard="manager", guards=2) as first:
        first.serve(puppet, memory.regions)
        memory.touch(3, 5)
        guards = guards_of(first.pid)
        if dies != "nobody":
            os.kill(guards[dies == "the second guard"], signal.SIGKILL)
        first.die()
        with pyuffd.take_over(first.pid, source()) as manager:
            (target,) = manager.targets
            until(lambda: all(map(has_ended, guards)), "the end of the guards")
            assert memory.states() == ["right"] * PAGES
            assert target.wait(20, progress=False)
            assert (target.close().ending, target.close().verified) == ("early-close", True)
