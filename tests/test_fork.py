"""Fork of the manager's process: the child keeps no userfaultfd, uses no target, and may serve its own."""

import ctypes
import faulthandler
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.child import run_child, tell
from support.memory import Managed

import pyuffd

pytestmark = pytest.mark.requires_full_userfaultfd


def in_child(action: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            action()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def refused(action: Callable[[], object], kind: type[Exception] = RuntimeError, text: str = "forked from") -> None:
    with pytest.raises(kind, match=text):
        action()


def a_living_child_does_not_keep_the_userfaultfd_child() -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    memory = Managed(pages=20)
    uffd = pyuffd.Userfaultfd()
    target = pyuffd.serve(uffd, [memory.region()], ending="early-close", fault_around=1)
    memory.touch(0, 5)
    stay, leave = os.pipe()
    told, tells = os.pipe()

    def stay_alive() -> None:
        os.close(leave)
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert not any(str(link.readlink()).startswith("anon_inode:[userfaultfd]") for link in links)
        os.write(tells, b"x")
        os.read(stay, 1)  # until the parent closes

    pid = in_child(stay_alive)
    os.read(told, 1)
    report = target.close("fill")
    tell([report.verified, report.ending, memory.states().count("right")])
    os.close(leave)
    tell(ended(pid))


def test_a_living_child_does_not_keep_the_userfaultfd() -> None:
    """With an inherited descriptor the early close would release nothing, and verified would be False."""
    assert run_child(a_living_child_does_not_keep_the_userfaultfd_child) == [[True, "early-close", 20], 0]


def a_child_gets_clean_errors_and_leaves_the_parents_targets_alone_child() -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    memory = Managed(pages=20)
    other = Managed(pages=5)
    own: list[pyuffd.Userfaultfd] = [pyuffd.Userfaultfd()]
    managers: list[pyuffd.Manager] = [pyuffd.Manager()]
    targets: list[pyuffd.Target] = [memory.serve(), managers[0].add(pyuffd.Userfaultfd(), [other.region()])]

    def use() -> None:
        refused(lambda: targets[0].close("fill"))
        refused(lambda: targets[0].fill())
        refused(lambda: targets[0].wait(1, progress=False))
        refused(lambda: targets[0].stats())
        refused(lambda: targets[0].missing_pages)
        refused(lambda: targets[0].stop())
        refused(lambda: targets[0].discard())
        refused(lambda: managers[0].add(pyuffd.Userfaultfd(), [Managed(pages=1).region()]))
        assert "forked from" in repr(targets[0])
        assert own[0].closed
        refused(own[0].fileno, ValueError, "")
        own[0].close()
        for held in (targets, managers, own):
            held.clear()
        gc.collect()

    tell(ended(in_child(use)))
    memory.touch(threads=2)
    managers[0].close()
    assert targets[0].wait(20, progress=False)
    right = [each.states().count("right") for each in (memory, other)]
    tell([*right, targets[0].close().verified, own[0].closed])


def test_a_child_gets_clean_errors_and_leaves_the_parents_targets_alone() -> None:
    assert run_child(a_child_gets_clean_errors_and_leaves_the_parents_targets_alone_child) == [0, [20, 5, True, False]]


def a_child_serves_targets_of_its_own_child() -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    memory = Managed(pages=20)
    target = memory.serve()

    def serve() -> None:
        mine = Managed(pages=30)
        with mine.serve(fillers=2) as own:
            mine.touch(0, 10)
            own.fill()
            assert own.wait(10, progress=False)
            assert own.close().verified is True
        lazy = pyuffd.lazy_array(pyuffd.MemorySource(mine.data), "u1", len(mine.data))
        assert lazy.tobytes() == mine.data

    tell(ended(in_child(serve)))
    target.close("fill")
    tell(memory.states().count("right"))


def test_a_child_serves_targets_of_its_own() -> None:
    assert run_child(a_child_serves_targets_of_its_own_child) == [0, 20]


def memory_at_the_addresses_of_the_parents_managed_memory_may_be_a_source_child() -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    memory = Managed(pages=2000)
    target = memory.serve()

    def serve() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        flags = 0x32  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED: over what plugs the hole
        address, length = ctypes.c_void_p(memory.start), ctypes.c_size_t(memory.length)
        assert libc.mmap(address, length, 3, flags, -1, ctypes.c_long(0)) == memory.start
        here = np.ctypeslib.as_array((ctypes.c_uint8 * memory.length).from_address(memory.start))
        here[:] = 5
        lazy = pyuffd.lazy_array(pyuffd.MemorySource(here), "u1", memory.length)
        assert (lazy == 5).all()

    tell(ended(in_child(serve)))
    target.close("fill")


def test_memory_at_the_addresses_of_the_parents_managed_memory_may_be_a_source() -> None:
    """Managed memory is not inherited: what a child maps over the hole is its own."""
    assert run_child(memory_at_the_addresses_of_the_parents_managed_memory_may_be_a_source_child) == 0


def complete_memory_is_inherited_child() -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    memory = Managed(pages=5)
    with memory.serve() as target:
        target.close("fill")

    def look() -> None:
        assert memory.states() == ["right"] * 5

    tell(ended(in_child(look)))


def test_complete_memory_is_inherited() -> None:
    assert run_child(complete_memory_is_inherited_child) == 0


def missing_memory_is_not_inherited_child() -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    memory = Managed(pages=5)
    target = memory.serve(fault_around=1)
    memory.touch(0, 1)

    def look() -> None:
        faulthandler.disable()
        memory.mapping.array[0]

    tell(ended(in_child(look)))
    target.close("fill")


def test_missing_memory_is_not_inherited() -> None:
    """A segmentation fault in the child, never a zero."""
    assert run_child(missing_memory_is_not_inherited_child) == -11


def serve_and_count(seed: int) -> int:
    mine = Managed(pages=10, seed=seed)
    with mine.serve():
        mine.touch()
    return mine.states().count("right")


def multiprocessing_with_fork_child() -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    memory = Managed(pages=50)
    target = memory.serve()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        counts = pool.map(serve_and_count, range(4))
    memory.touch(threads=2)
    assert target.wait(20, progress=False)
    tell([counts, target.close().verified])


def test_multiprocessing_with_fork() -> None:
    assert run_child(multiprocessing_with_fork_child) == [[10] * 4, True]


def many_forks_while_targets_are_served_child() -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    stop = threading.Event()
    wrong = []

    def serve_on(seed: Any) -> None:
        while not stop.is_set():
            memory = Managed(pages=20, seed=seed)
            with memory.serve(ending="early-close") as target:
                memory.touch(threads=2)
                report = target.close("fill")
            if report.verified is not True:
                wrong.append(report)

    threads = [threading.Thread(target=serve_on, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()

    def serve_once() -> None:
        memory = Managed(pages=3)
        with memory.serve() as target:
            target.close("fill")

    codes = [ended(in_child(serve_once)) for _ in range(15)]
    stop.set()
    for thread in threads:
        thread.join()
    tell([set(codes) == {0}, len(wrong)])


def test_many_forks_while_targets_are_served() -> None:
    """A fork excludes the opening and closing of userfaultfds, and meets threads anywhere."""
    assert run_child(many_forks_while_targets_are_served_child) == [True, 0]


def subprocesses_inherit_nothing_child() -> None:
    memory = Managed(pages=10)
    target = memory.serve(ending="early-close")
    sleeper = subprocess.Popen(["sleep", "60"], close_fds=False)
    tell(target.close("fill").verified)
    sleeper.kill()
    sleeper.wait()


def test_subprocesses_inherit_nothing() -> None:
    assert run_child(subprocesses_inherit_nothing_child) is True
