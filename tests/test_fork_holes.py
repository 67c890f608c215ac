"""Forks of the manager's process: memory that the child does not get, and locks that it gets in whatever state."""

import contextlib
import faulthandler
import functools
import gc
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.child import run_child, tell
from support.memory import PAGE, Managed, random_bytes
from support.puppet import Puppet
from support.state import until

import pyuffd

pytestmark = pytest.mark.requires_full_userfaultfd


def in_child(action: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(8)
        try:
            action()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


SIZES = [pages * PAGE for pages in (1, 7, 50, 600)] * 3


def make(seed: int, inline: bool) -> list[npt.NDArray[Any]]:
    """Lazy arrays of these sizes."""
    source = pyuffd.MemorySource(random_bytes(max(SIZES), seed))
    return [pyuffd.lazy_array(source, "u1", size, inline=inline) for size in SIZES]


def make_half(inline: bool) -> list[npt.NDArray[Any]]:
    """The same, of a parent: of every second one the first page was touched."""
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    arrays = make(1, inline)
    for array in arrays[::2]:
        array[0]
    return arrays


def wrong(arrays: list[npt.NDArray[Any]], seed: int) -> list[int]:
    """The pages of those that have wrong bytes."""
    data = random_bytes(max(SIZES), seed)
    return [array.size // PAGE for array in arrays if array.tobytes() != data[: array.size]]


def a_child_has_arrays_of_its_own_where_its_parents_are_not_child(inherited: bool, own: bool) -> None:
    parents = make_half(inherited)

    def use() -> None:
        mine = make(2, own)
        assert wrong(mine, 2) == [], wrong(mine, 2)

    codes = [ended(in_child(use)) for _ in range(2)]
    tell([codes, wrong(parents, 1)])


@pytest.mark.parametrize("inherited", [True, False], ids=["inline", "served"])
@pytest.mark.parametrize("own", [True, False], ids=["inline", "served"])
def test_a_child_has_arrays_of_its_own_where_its_parents_are_not(inherited: bool, own: bool) -> None:
    """They have the child's bytes, and those of its parent stay right."""
    assert run_child(a_child_has_arrays_of_its_own_where_its_parents_are_not_child, inherited, own) == [[0, 0], []]


def make_inline(seed: int) -> list[int]:
    signal.alarm(8)
    return wrong(make(seed, inline=True), seed)


def a_pool_of_processes_that_are_forked_uses_inline_arrays_child(inline: bool) -> None:
    parents = make_half(inline)
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        found = list(pool.map(make_inline, range(2, 12)))
    tell([found, wrong(parents, 1)])


def test_a_pool_of_processes_that_are_forked_uses_inline_arrays() -> None:
    assert run_child(a_pool_of_processes_that_are_forked_uses_inline_arrays_child, True) == [[[]] * 10, []]


def a_childs_touch_of_incomplete_memory_is_a_segmentation_fault_child(inline: bool, fills: bool, write: bool) -> None:
    parents = make_half(inline)

    def touch(array: npt.NDArray[Any], place: int) -> None:
        faulthandler.disable()
        mine = []
        for size in SIZES * 20 if fills else []:
            mine.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            mine[-1][0] = 1
        if write:
            array[place] = 1
        else:
            array[place]

    codes = [
        ended(in_child(functools.partial(touch, array, place)))
        for array in parents[1::2]
        for place in (0, array.size - 1)
    ]
    tell([codes, wrong(parents, 1)])


@pytest.mark.parametrize("fills", [False, True], ids=["at-once", "after-mapping"])
@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_a_childs_touch_of_incomplete_memory_is_a_segmentation_fault(inline: bool, fills: bool, write: bool) -> None:
    """Whatever the child maps meanwhile."""
    codes, wrong = run_child(a_childs_touch_of_incomplete_memory_is_a_segmentation_fault_child, inline, fills, write)
    assert codes == [-signal.SIGSEGV] * 12
    assert wrong == []


def a_child_that_drops_its_parents_arrays_keeps_its_own_memory_child(inline: bool) -> None:
    parents = make_half(inline)

    def use() -> None:
        mine = [mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for size in SIZES * 20]
        for number, memory in enumerate(mine):
            memory[:] = bytes([number]) * len(memory)
        parents.clear()
        gc.collect()
        for number, memory in enumerate(mine):
            assert memory[:] == bytes([number]) * len(memory)

    tell([ended(in_child(use)), wrong(parents, 1)])


@pytest.mark.parametrize("inline", [False, True])
def test_a_child_that_drops_its_parents_arrays_keeps_its_own_memory(inline: bool) -> None:
    assert run_child(a_child_that_drops_its_parents_arrays_keeps_its_own_memory_child, inline) == [0, []]


def fork_while_another_target_of_the_handler_faults_child() -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    length = 16 << 30  # faults for more than this test's time
    with Puppet.start() as puppet:
        manager = pyuffd.Manager(handlers=1)
        memory = Managed(pages=5)
        own = manager.add(pyuffd.Userfaultfd(pyuffd.Feature.EVENTS), [memory.region()], ending="keep-open")
        own.fill()
        assert own.wait(10, progress=False)
        start = puppet.do("map", length, "anonymous")
        got = puppet.hand_over([(start, length, 0, PAGE)], pyuffd.ZeroSource(), pyuffd.Feature.EVENTS)
        target = manager.add(got.uffd, got.regions, pid=got.pid, fault_around=1)
        puppet.do("begin_touches", start, length, PAGE, {"threads": 2, "timed": False})
        until(lambda: target.stats().faults)
        codes = [ended(in_child(lambda: None)) for _ in range(20)]
        assert puppet.do("touching")
        puppet.kill()
        assert target.wait(10, progress=False)
        manager.close()
    tell(codes)


@pytest.mark.requires_root
def test_fork_while_another_target_of_the_handler_faults() -> None:
    """The fork of this process waits for the handler to read its event, and the handler must not wait for the fork."""
    assert run_child(fork_while_another_target_of_the_handler_faults_child, limit=15) == [0] * 20


def fork_while_other_threads_are_in_calls_child(inline: bool, use: str) -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    memory = Managed(pages=200)
    target = memory.serve()
    buffer = np.zeros(4 * PAGE, np.uint8)

    def call() -> npt.NDArray[Any]:
        lazy = pyuffd.lazy_array(memory.source, "u1", 8 * PAGE, inline=inline)
        pyuffd.touch(lazy, 0, 2 * PAGE)
        pyuffd.touch(buffer)
        return lazy

    stop = threading.Event()

    def call_on() -> None:
        while not stop.is_set():
            call()
            target.stats()

    def use_it() -> None:
        if use == "touch":
            for _ in range(10):
                pyuffd.touch(buffer)
        else:
            assert call().tobytes() == memory.data[: 8 * PAGE]

    threads = [threading.Thread(target=call_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    codes: list[int] = []
    ends = time.monotonic() + 1
    while time.monotonic() < ends and not any(codes):
        codes.append(ended(in_child(use_it)))
    stop.set()
    for thread in threads:
        thread.join()
    target.close("fill")
    tell([len(codes) > 1, sorted(set(codes))])


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("use", ["touch", "call"])
def test_fork_while_other_threads_are_in_calls(inline: bool, use: str) -> None:
    """The child makes calls too, whatever its parent's threads held at the fork: the same, or a small one."""
    assert run_child(fork_while_other_threads_are_in_calls_child, inline, use) == [True, [0]]


def fork_while_an_inline_target_ends_child() -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    lazy = pyuffd.lazy_array(pyuffd.ZeroSource(), "u1", 4 << 30, inline=True)
    target = pyuffd.target_of(lazy)
    buffer = np.zeros(PAGE, np.uint8)

    def touch_all() -> None:
        with contextlib.suppress(OSError):  # it may be given up
            pyuffd.touch(lazy)

    toucher = threading.Thread(target=touch_all)
    closer = threading.Thread(target=target.close, args=["zero"])
    toucher.start()
    until(lambda: target.stats().pages)
    closer.start()
    codes: list[int] = []
    while closer.is_alive() and not any(codes):
        codes.append(ended(in_child(lambda: pyuffd.touch(buffer))))
    closer.join()
    toucher.join()
    tell(sorted(set(codes) - {0}))


def test_fork_while_an_inline_target_ends() -> None:
    """Its ending waits for a thread that installs its pages, and the child's calls wait for nobody."""
    assert run_child(fork_while_an_inline_target_ends_child) == []


def a_fork_while_a_target_with_fork_events_begins_child() -> None:
    warnings.simplefilter("ignore")  # of Python: fork of a process with threads
    from threading import Thread

    source = pyuffd.MemorySource(random_bytes(PAGE))
    stop = False

    def serve() -> None:
        while not stop:
            memory = pyuffd.Mapping(PAGE)
            region = pyuffd.Region(memory.address, PAGE, source)
            with pyuffd.serve(pyuffd.Userfaultfd(pyuffd.Feature.EVENT_FORK), [region]):
                pass

    thread = Thread(target=serve)
    thread.start()
    codes = {ended(in_child(lambda: None)) for _ in range(1000)}
    stop = True
    thread.join()
    tell(list(codes))


def test_a_fork_while_a_target_with_fork_events_begins() -> None:
    """No FORK event of this memory may be sent: the fork would wait for it, and add() for the fork."""
    assert run_child(a_fork_while_a_target_with_fork_events_begins_child) == [0]
